#!/bin/sh
# Kernel sets of processors that this machine is not: tests/test_kernels.c built for AArch64 and run under qemu, built
# for WebAssembly and run in node. A part of its cases (TEST_FAST), because emulation is slow.
#
#     sh tests/test_cross.sh
#
# Whole models go through these sets in tests/test_hashes.sh, with FULL=1.

cd "$(dirname "$0")/.." || exit 1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
TEST_FAST=1
export TEST_FAST
passed=0
failed=0
skipped=0

ARM="clang --target=aarch64-linux-gnu -static"
WASM="clang --target=wasm32-wasi -msimd128 -DBITNET_NO_THREADS -DBITNET_NO_MMAP"

skip() { skipped=$((skipped + 1)); echo "SKIP $1: $2"; }
fail() { failed=$((failed + 1)); echo "FAIL $1"; }

works()
{
    printf 'int main(void) { return 0; }\n' > "$scratch/probe.c"
    $1 -o "$scratch/probe" "$scratch/probe.c" >/dev/null 2>&1
}

# $1 what it is; $2 compiler; $3 what runs its programs; $4 the kernel sets that must be among those compared, in words.
check()
{
    if ! $2 -O2 -Wall -Wextra -Werror -I. -o "$scratch/kernels" tests/test_kernels.c -lm > "$scratch/log" 2>&1; then
        fail "$1: tests/test_kernels.c does not compile"
        head -n 40 "$scratch/log"
        return
    fi
    $3 "$scratch/kernels" > "$scratch/log" 2>&1
    status=$?
    line=$(sed -n 's/^kernels: \([0-9]*\) passed, \([0-9]*\) failed, \([0-9]*\) skipped$/\1 \2 \3/p' "$scratch/log")
    for kernels in $4; do
        # A set that the emulator does not run has told so.
        grep -q "^sets:.* $kernels" "$scratch/log" || fail "$1: the set $kernels was not compared"
    done
    grep -v '^sets:' "$scratch/log" | sed "s/^/$1: /"
    # shellcheck disable=SC2086
    set -- "$1" ${line:-0 1 0}
    [ $status -eq 0 ] || [ "$3" -ne 0 ] || set -- "$1" "$2" 1 "$4"
    passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
}

if works "$ARM" && command -v qemu-aarch64 >/dev/null 2>&1; then
    check AArch64 "$ARM -lpthread" "qemu-aarch64 -cpu max" "neon dotprod i8mm"
else
    skip "kernels neon, dotprod, i8mm" "need clang, the C library for aarch64-linux-gnu and qemu-aarch64"
fi
if ! works "$WASM"; then
    skip "kernels wasm" "need clang, lld and a C library for wasm32-wasi"
elif ! node -e "require('node:wasi')" >/dev/null 2>&1; then
    skip "kernels wasm" "need node 18 or later"
else
    check WebAssembly "$WASM" "node --no-warnings tests/wasi.mjs" wasm
fi
echo "test_cross: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
