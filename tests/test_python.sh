#!/usr/bin/env bash
# test_python.sh: examples/python/bitnet.py and libbitnet.so, in python3 without any package.
#
#     BUILD=build tests/test_python.sh
#
# The checks are in tests/python_module.py. Prints one line for each, and at the end "N passed, N failed, N skipped".
. "$(dirname "$0")/check.bash"

if ! command -v python3 >/dev/null; then
    skip "no python3"
    finish test_python
fi
case ${CFLAGS:-} in *-fsanitize*)
    skip "a library with a sanitizer can't be loaded into python3"
    finish test_python ;;
esac
built generate synth libbitnet.so
export BITNET_LIBRARY=$build/libbitnet.so PYTHONDONTWRITEBYTECODE=1
unset BITNET_VERBOSE
python3 -I -W error "$root/tests/python_module.py" "$root" "$build"
