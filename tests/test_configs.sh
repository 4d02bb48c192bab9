#!/bin/sh
# Builds and runs the C tests under each configuration macro that leaves something to run, and for 32 bits.
#
#     sh tests/test_configs.sh
#
# CONFIG="-m32 -DBITNET_NO_SIMD": that one alone. FULL=1: every macro alone. Else those that change the most code. Optimised little (-O1), because every test program holds the whole engine and is compiled once a configuration.
# tests/test_compile.sh compiles more combinations than this runs.

cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
CC=${CC:-cc}
JOBS=${JOBS:-2}
MAKE=${MAKE:-make}
passed=0
failed=0
skipped=0

if [ -n "${CONFIG:-}" ]; then
    set -- "$CONFIG"
else
    set -- "-DBITNET_NO_STDIO -DBITNET_NO_MMAP -DBITNET_NO_THREADS -DBITNET_NO_SIMD" "-m32 -msse2 -mfpmath=sse"
    if [ "${FULL:-0}" = 1 ]; then
        set -- "$@" -DBITNET_NO_MMAP -DBITNET_NO_STDIO -DBITNET_NO_THREADS -DBITNET_NO_SIMD -DBITNET_NO_AVX2 -DBITNET_NO_AVX512 \
               -DBITNET_ONLY_SCALAR -DBITNET_ONLY_SSSE3 -DBITNET_ONLY_AVX2 -DBITNET_ONLY_AVXVNNI -DBITNET_ONLY_AVX512 -DBITNET_ONLY_AVX512VBMI \
               -DBITNET_ONLY_AMX -DBITNET_STATIC
    fi
fi
# On 32 bits the tests need the flags that the header sets for itself: they call private functions, whose floats travel
# in SSE registers. Programs that use the public functions alone need -m32 only.

# 1 where this processor has instruction set $1; where nothing tells, it has.
cpu_has() { [ ! -r /proc/cpuinfo ] || grep -q -w "$1" /proc/cpuinfo; }

for config in "$@"; do
    dir=$BUILD/config$(echo "$config" | tr -d ' ' | tr -c 'A-Za-z0-9_\n' '-')
    case $config in
        *ONLY_AMX*) cpu_has amx_int8 && cpu_has avx512vbmi && cpu_has gfni || { echo "SKIP $config: not on this processor"; skipped=$((skipped + 1)); continue; } ;;
        *ONLY_AVXVNNI*) cpu_has avx_vnni || { echo "SKIP $config: not on this processor"; skipped=$((skipped + 1)); continue; } ;;
        *ONLY_AVX512VBMI*) cpu_has avx512vbmi && cpu_has gfni || { echo "SKIP $config: not on this processor"; skipped=$((skipped + 1)); continue; } ;;
        *ONLY_SSSE3*) cpu_has ssse3 || { echo "SKIP $config: not on this processor"; skipped=$((skipped + 1)); continue; } ;;
        *ONLY_AVX512*) cpu_has avx512_vnni || { echo "SKIP $config: not on this processor"; skipped=$((skipped + 1)); continue; } ;;
        *ONLY_AVX2*) cpu_has avx2 || { echo "SKIP $config: not on this processor"; skipped=$((skipped + 1)); continue; } ;;
        *-m32*) printf 'int main(void) { return 0; }\n' > "$BUILD/probe.c"
                $CC -m32 -o "$BUILD/probe" "$BUILD/probe.c" >/dev/null 2>&1 ||
                    { echo "SKIP $config: no 32-bit libraries installed"; skipped=$((skipped + 1)); continue; } ;;
    esac
    mkdir -p "$dir"
    env -u MAKEFLAGS -u MFLAGS "$MAKE" --no-print-directory test-unit BUILD="$dir" CC="$CC" DEFS="$config" CFLAGS=-O1 \
        JOBS="$JOBS" > "$dir/all.log" 2>&1 < /dev/null
    status=$?
    set_line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$dir/all.log" | tail -n 1)
    echo "$config: ${set_line:-make ended with status $status}"
    p=0 f=0 s=0
    IFS=' ,' read -r p _ f _ s _ <<END
${set_line:-0 passed, 1 failed, 0 skipped}
END
    if [ $status -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ "$f" -ne 0 ]; then tail -n 200 "$dir/all.log"; else grep '^ *[A-Za-z_0-9]*: SKIP' "$dir/all.log" | sed "s/^/  $config:/"; fi
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
done
echo "test_configs: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
