#!/bin/sh
# Compiles bitnet.h the ways its users will: compilers, languages, warnings, configuration macros, 32 bits, Windows.
#
#     sh tests/test_compile.sh           a short list, with $CC alone (make test)
#     FULL=1 sh tests/test_compile.sh    everything (make test-compile)
#     FULL=1 sh tests/test_compile.sh "gcc -m32"      only the cells whose names hold these words
#
# A cell passes if its commands succeed and the compiler prints nothing at all. Compilers that are not installed
# make their cells skip. Cells run on $JOBS (2) processes.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
FULL=${FULL:-0}
JOBS=${JOBS:-2}
only=${1:-}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
tab=$(printf '\t')

STRICT="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
LIBS="-lpthread -lm"

# ------------------------------------------------------------------------------------------------ sources

# The smallest program; the same as C and as C++.
cat > "$scratch/plain.c" <<'END'
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
int main(void) { return 0; }
END

# The user's own headers come first.
cat > "$scratch/after.c" <<'END'
#include <stdio.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
int main(void) { return printf("%s\n", bitnet_version()) < 0; }
END

# Declarations first, as some header of the user's would; the implementation later in the same file.
cat > "$scratch/later.c" <<'END'
#include "bitnet.h"
#include "bitnet.h"
int answer(void);
int answer(void) { return bitnet_version() != NULL; }
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
int main(void) { return !answer(); }
END

# A user of the declarations alone.
cat > "$scratch/user.c" <<'END'
#include "bitnet.h"
int main(void) { return bitnet_version() == NULL || bitnet_kernels_name(0, NULL) == NULL; }
END

# The implementation alone, to be linked with user.c.
cat > "$scratch/engine.c" <<'END'
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
END

for name in plain after later user engine; do cp "$scratch/$name.c" "$scratch/$name.cpp"; done

# -------------------------------------------------------------------------------------------------- cells

n_cells=0
cell()
{
    n_cells=$((n_cells + 1))
    printf '%s\t%s\n' "$(echo "$1" | tr -s ' ')" "$2" >> "$scratch/cells"
}
: > "$scratch/cells"
skips=0
skip() { skips=$((skips + 1)); echo "SKIP $1: $2"; }

# 1 where compiler $1 builds and links a program with flags $2.
works()
{
    printf 'int main(void) { return 0; }\n' > "$scratch/probe.${3:-c}"
    # shellcheck disable=SC2086
    $1 $2 -o "$scratch/probe" "$scratch/probe.${3:-c}" >/dev/null 2>&1
}

# The public functions that the header declares, one a line.
declared_names()
{
    sed -n '/^#ifdef BITNET_IMPLEMENTATION/q; s/^BITNET_API .*[ *]\(bitnet_[a-z0-9_]*\)(.*/\1/p' bitnet.h | sort -u
}

# $1 compiler, $2 flags: the object defines exactly the declared names and keeps no state outside of its arguments
# (position-dependent code, so that constant tables with pointers count as constant), and calls nothing that a
# library must not call.
check_names()
{
    object=$scratch/names.$(printf '%s' "$1$2" | cksum | cut -d ' ' -f 1)
    $1 $2 -fno-pic -I. -c -o "$object.o" "$scratch/engine.c" || return 1
    nm -g --defined-only "$object.o" | awk 'NF == 3 { print $3 }' | sort -u > "$object.defined"
    declared_names > "$object.declared"
    if [ ! -s "$object.declared" ] || ! cmp -s "$object.defined" "$object.declared"; then
        echo "names that the object defines (<) and that bitnet.h declares (>):"
        diff "$object.defined" "$object.declared"
        return 1
    fi
    if nm "$object.o" | grep ' [bBdDCsS] '; then
        echo "the names above are variables: the library must keep no global state"
        return 1
    fi
    if nm -u "$object.o" | awk '{ print $NF }' | grep -E -x \
        '(v?[fds]?n?printf|puts|putchar|perror|_?exit|_Exit|abort|atexit|getenv|setenv|signal|sigaction|raise|rand|srand|strtok|setlocale|exp|expf|exp2f?|log|logf|pow|powf|sin|sinf|cos|cosf|tanhf?|sqrt|sqrtf|fmaf?|rintf?|roundf?|floorf?|__assert_fail)'; then
        echo "the library must not call the functions above"
        return 1
    fi
}

# $1 compiler, $2 flags, $3 pattern: the object refers to no name of the pattern.
check_without()
{
    object=$scratch/without.$(printf '%s' "$1$2" | cksum | cut -d ' ' -f 1).o
    $1 $2 -I. -c -o "$object" "$scratch/engine.c" || return 1
    if nm -u "$object" | awk '{ print $NF }' | grep -E "$3"; then
        echo "the names above should be gone with $2"
        return 1
    fi
}

# $1 compiler, $2 flags: with BITNET_STATIC nothing is visible from outside but main.
check_static()
{
    object=$scratch/static.$(printf '%s' "$1$2" | cksum | cut -d ' ' -f 1).o
    $1 $2 -DBITNET_STATIC -fno-pic -I. -c -o "$object" "$scratch/plain.c" || return 1
    if nm -g --defined-only "$object" | awk 'NF == 3 && $3 != "main"' | grep .; then return 1; fi
}

# One program from a file of declarations and a file of implementation: $1 compiles the first, $2 the second.
check_two_files()
{
    out=$scratch/two.$(printf '%s' "$1$2" | cksum | cut -d ' ' -f 1)
    $1 -I. -c -o "$out.user.o" "$scratch/user.${3:-c}" &&
    $2 -I. -c -o "$out.engine.o" "$scratch/engine.c" &&
    ${1%% *} -o "$out" "$out.user.o" "$out.engine.o" $LIBS && "$out"
}

# As a newcomer tries it: no file, no flag but -I. $1 compiler, $2 language (c or c++).
check_stdin()
{
    out=$scratch/stdin.$(printf '%s' "$1$2" | cksum | cut -d ' ' -f 1)
    printf '#define BITNET_IMPLEMENTATION\n#include "bitnet.h"\nint main(void){return 0;}' |
        $1 -x "$2" - -I. -o "$out" $LIBS && "$out"
}

# The header under another name, in another directory.
check_renamed()
{
    mkdir -p "$scratch/renamed" && cp bitnet.h "$scratch/renamed/other_name.h" &&
    sed 's/"bitnet.h"/"other_name.h"/' "$scratch/plain.c" > "$scratch/renamed/app.c" &&
    $1 -DBITNET_HEADER_FILENAME='"other_name.h"' -I"$scratch/renamed" -o "$scratch/renamed/app" \
        "$scratch/renamed/app.c" $LIBS && "$scratch/renamed/app"
}

# From outside of the repository, by -I and by a path, with no -I at all.
check_elsewhere()
{
    mkdir -p "$scratch/elsewhere/lib" && cp bitnet.h "$scratch/elsewhere/lib/" &&
    sed 's|"bitnet.h"|"lib/bitnet.h"|' "$scratch/plain.c" > "$scratch/elsewhere/app.c" &&
    (cd "$scratch/elsewhere" && $1 -o app app.c $LIBS && ./app)
}

# A kernel set that does not exist for the target is refused in words: 32-bit x86 has the scalar kernels alone.
check_refused()
{
    out=$scratch/refused.$(printf '%s' "$1" | cksum | cut -d ' ' -f 1)
    if $1 -I. -c -o /dev/null "$scratch/plain.c" > "$out" 2>&1; then return 1; fi
    grep -q "error.*BITNET_ONLY_" "$out"
}

# Builds a program with $1 (compiler and flags) from source $2 and runs it.
build_and_run()
{
    out=$scratch/run.$(printf '%s' "$1$2" | cksum | cut -d ' ' -f 1)
    $1 -I. -o "$out" "$scratch/$2" $LIBS && "$out" > "$out.txt"
}

# Macros that the header itself asks about, so that the list can not fall behind it.
macros_of_kind() { grep -o "BITNET_$1_[A-Z0-9][A-Z0-9]*" bitnet.h | sort -u; }
all_no=$(macros_of_kind NO | grep -v -x 'BITNET_NO_BUDGET' | sed 's/^/-D/' | tr '\n' ' ')
known_no="BITNET_NO_STDIO BITNET_NO_MMAP BITNET_NO_THREADS BITNET_NO_SIMD BITNET_NO_AVX2 BITNET_NO_AVX512"
no_macros=$(printf '%s\n' $known_no $all_no | sed 's/^-D//' | sort -u)
only_macros=$(printf '%s\n' BITNET_ONLY_SCALAR BITNET_ONLY_AVX2 BITNET_ONLY_AVX512 $(macros_of_kind ONLY) | sort -u)

# Sets that this machine's compilers must refuse alone: they are another processor's.
foreign()
{
    case $(uname -m) in
        aarch64|arm64) case $1 in BITNET_ONLY_SCALAR|BITNET_ONLY_NEON|BITNET_ONLY_DOTPROD|BITNET_ONLY_I8MM) return 1 ;; BITNET_ONLY_*) return 0 ;; esac ;;
        *) case $1 in BITNET_ONLY_NEON|BITNET_ONLY_DOTPROD|BITNET_ONLY_I8MM|BITNET_ONLY_WASM) return 0 ;; esac ;;
    esac
    return 1
}

# With TEST_FAST the languages are tried without optimisation only, which finds all but few of the warnings.
optimised=-O2
[ -z "${TEST_FAST:-}" ] || optimised=

# Cells of one C compiler: $1 its name, $2 extra flags, $3 the languages.
languages()
{
    for std in $3; do
        case $std in *++*) source=cpp ;; *) source=c ;; esac
        for level in -O0 $optimised; do
            cell "$1 $2 -std=$std $level: links, no warning" "build_and_run '$1 $2 -std=$std $level $STRICT' plain.$source"
            cell "$1 $2 -std=$std $level: after stdio.h and immintrin.h" "$1 $2 -std=$std $level $STRICT -I. -c -o /dev/null '$scratch/after.$source'"
        done
    done
}

macros()
{
    for macro in $no_macros $only_macros; do
        if foreign "$macro"; then
            cell "$1 $2 -D$macro is refused" "check_refused '$1 $2 -std=c99 -O0 -D$macro'"
            continue
        fi
        case "$2 $macro" in
            "-m32 BITNET_ONLY_SCALAR") ;;
            "-m32 BITNET_ONLY_"*) cell "$1 $2 -D$macro is refused" "check_refused '$1 $2 -std=c99 -O0 -D$macro'"; continue ;;
        esac
        # What is left out can only leave loose ends, which clang's front end sees (gcc's does not look for unused functions).
        case "$1 $macro" in clang*" BITNET_NO_"*) how=-fsyntax-only ;; *) how='-c -o /dev/null' ;; esac
        cell "$1 $2 -D$macro" "$1 $2 -std=c99 -O0 -D$macro $STRICT -I. $how '$scratch/after.c'"
    done
    cell "$1 $2, every BITNET_NO_ macro" "build_and_run '$1 $2 -std=c99 -O0 $all_no $STRICT' plain.c"
    cell "$1 $2 -DBITNET_STATIC" "check_static '$1' '$2 -std=c99 -O0 $STRICT'"
    cell "$1 $2 -DBITNET_API=extern" "$1 $2 -O0 -DBITNET_API=extern $STRICT -I. -c -o /dev/null '$scratch/engine.c'"
    cell "$1 $2 -DBITNET_ASSERT" "$1 $2 -O0 -include assert.h -DBITNET_ASSERT=assert $STRICT -I. -c -o /dev/null '$scratch/engine.c'"
}

forms()
{
    cell "$1: no flag at all" "check_stdin '$1' c"
    cell "$1: declarations first, implementation later" "build_and_run '$1 -std=c99 -O0 $STRICT' later.c"
    cell "$1: two files" "check_two_files '$1 -std=c99 -O0 $STRICT' '$1 -std=c99 -O0 $STRICT'"
    cell "$1: under another name" "check_renamed '$1 -O0 $STRICT'"
    cell "$1: from another directory without -I" "check_elsewhere '$1 -O0 $STRICT'"
    cell "$1: defines what it declares, keeps no state" "check_names '$1' '-std=c99 -O2'"
    cell "$1: no file functions with BITNET_NO_STDIO" "check_without '$1' '-O0 -DBITNET_NO_STDIO' '^(fopen|fread|fclose|fseek|fseeko|ftell|ftello)(64)?$'"
    cell "$1: no mapping with BITNET_NO_MMAP" "check_without '$1' '-O0 -DBITNET_NO_MMAP' '^(mmap|munmap|madvise)(64)?$'"
    cell "$1: no threads with BITNET_NO_THREADS" "check_without '$1' '-O0 -DBITNET_NO_THREADS' '^pthread_'"
}

options()
{
    for flags in "-O3 -march=native" "-Os" "-O2 -flto" "-O2 -ffast-math" "-O2 -fPIC -D_FORTIFY_SOURCE=2" "-O2 -funsigned-char"; do
        cell "$1 $flags" "build_and_run '$1 -std=c11 $flags $STRICT' after.c"
    done
}

if [ "$FULL" = 1 ]; then
    for pair in "gcc g++" "clang clang++"; do
        c=${pair% *} cxx=${pair#* }
        if works "$c" ""; then
            languages "$c" "" "c99 gnu17"
            macros "$c" ""
            forms "$c"
            options "$c"
            if works "$c" -m32; then
                languages "$c" -m32 "c99"
                if [ "$c" = gcc ]; then macros "$c" -m32; fi
            else
                skip "$c -m32" "no 32-bit libraries installed"
            fi
        else
            skip "$c" "not installed"
        fi
        if works "$cxx" "" cpp; then
            languages "$cxx" "" "c++11 c++20"
            cell "$cxx: no flag at all" "check_stdin '$cxx' c++"
            cell "$cxx: C++ user of a C engine" "check_two_files '$cxx -std=c++11 -O0 $STRICT' '$c -std=c99 -O0 $STRICT' cpp"
            if works "$cxx" -m32 cpp; then
                languages "$cxx" -m32 "c++11"
            else
                skip "$cxx -m32" "no 32-bit libraries installed"
            fi
        else
            skip "$cxx" "not installed"
        fi
    done
    for prefix in x86_64-w64-mingw32 i686-w64-mingw32; do
        for pair in "gcc c99 c" "g++ c++11 cpp"; do
            set -- $pair
            if works "$prefix-$1" "" "$3"; then
                for level in -O0 -O2; do
                    cell "$prefix-$1 $level" "$prefix-$1 -std=$2 $level $STRICT -I. -o '$scratch/$prefix$level$3.exe' '$scratch/after.$3' $LIBS"
                done
                cell "$prefix-$1 -DBITNET_NO_THREADS" "$prefix-$1 -std=$2 -O0 -DBITNET_NO_THREADS $STRICT -I. -c -o /dev/null '$scratch/after.$3'"
                cell "$prefix-$1 -DBITNET_NO_MMAP" "$prefix-$1 -std=$2 -O0 -DBITNET_NO_MMAP $STRICT -I. -c -o /dev/null '$scratch/after.$3'"
            else
                skip "$prefix-$1" "not installed"
            fi
        done
    done
    for pair in "--target=aarch64-linux-gnu c99 NEON DOTPROD I8MM" "--target=wasm32-wasi gnu99 WASM"; do
        set -- $pair
        target=$1 std=$2
        shift 2
        case $target in *wasm*) target="$target -msimd128 -DBITNET_NO_THREADS -DBITNET_NO_MMAP" ;; esac
        if works clang "$target"; then
            for level in -O0 -O2; do
                cell "clang $target $level" "clang $target -std=$std $level $STRICT -I. -c -o /dev/null '$scratch/after.c'"
            done
            for set in SCALAR "$@"; do
                cell "clang $target -DBITNET_ONLY_$set" "clang $target -std=$std -O0 -DBITNET_ONLY_$set $STRICT -I. -c -o /dev/null '$scratch/after.c'"
                cell "clang $target -DBITNET_NO_$set" "clang $target -std=$std -O0 -DBITNET_NO_$set $STRICT -I. -c -o /dev/null '$scratch/after.c'"
            done
            cell "clang $target -DBITNET_ONLY_AVX2 is refused" "check_refused 'clang $target -std=$std -O0 -DBITNET_ONLY_AVX2'"
            cell "clang $target -DBITNET_NO_SIMD" "clang $target -std=$std -O0 -DBITNET_NO_SIMD $STRICT -I. -c -o /dev/null '$scratch/after.c'"
        else
            skip "clang $target" "no C library of that target"
        fi
    done
    for file in examples/*.c examples/server/*.c tools/*.c; do
        cell "$CC -I. $file -lpthread -lm" "$CC -O0 -Wall -Wextra -Werror -I. -o '$scratch/$(basename "$file" .c).program' $file $LIBS"
    done
    for file in tests/fuzz_*.c; do                       # nothing else in the tests compiles them
        cell "$CC $file" "$CC -fsyntax-only -Wall -Wextra -Werror -I. $file"
    done
else
    languages "$CC" "" c99
    forms "$CC"
    for macro in $no_macros $only_macros; do
        if foreign "$macro"; then cell "$CC -D$macro is refused" "check_refused '$CC -std=c99 -O0 -D$macro'"; continue; fi
        cell "$CC -D$macro" "$CC -std=c99 -fsyntax-only -D$macro $STRICT -I. '$scratch/after.c'"
    done
    cell "$CC, every BITNET_NO_ macro" "build_and_run '$CC -std=c99 -O0 $all_no $STRICT' plain.c"
    cell "$CC -DBITNET_STATIC" "check_static '$CC' '-std=c99 -O0 $STRICT'"
    if works c++ "" cpp; then
        cell "c++ -std=c++11" "build_and_run 'c++ -std=c++11 -O0 $STRICT' after.cpp"
    else
        skip "c++" "not installed"
    fi
fi
if [ -n "$only" ]; then
    grep -F -e "$only" "$scratch/cells" > "$scratch/some"
    mv "$scratch/some" "$scratch/cells"
    n_cells=$(($(wc -l < "$scratch/cells")))
fi
if ! command -v nm >/dev/null 2>&1; then
    n_nm=$(grep -c 'check_names\|check_without\|check_static' "$scratch/cells")
    grep -v 'check_names\|check_without\|check_static' "$scratch/cells" > "$scratch/cells.nm"
    mv "$scratch/cells.nm" "$scratch/cells"
    n_cells=$((n_cells - n_nm))
    skip "symbols ($n_nm checks)" "no nm on this machine"
fi

# ---------------------------------------------------------------------------------------------------- run

# Process $1 runs the cells whose number modulo JOBS is $1. stdin is kept away from the compilers.
worker()
{
    number=0
    while IFS=$tab read -r name command; do
        number=$((number + 1))
        [ $((number % JOBS)) -eq "$1" ] || continue
        if eval "$command" > "$scratch/out.$1" 2>&1 < /dev/null && [ ! -s "$scratch/out.$1" ]; then
            echo "ok" >> "$scratch/passed.$1"
        else
            { echo "FAIL $name"; echo "    $command"; head -n 40 "$scratch/out.$1"; } >> "$scratch/failed.$1"
            echo "failed" >> "$scratch/count.$1"
        fi
    done < "$scratch/cells"
}

k=0
while [ $k -lt "$JOBS" ]; do worker $k & k=$((k + 1)); done
wait

cat "$scratch"/failed.* 2>/dev/null
n_passed=$(cat "$scratch"/passed.* 2>/dev/null | wc -l)
n_failed=$(cat "$scratch"/count.* 2>/dev/null | wc -l)
if [ $((n_passed + n_failed)) -ne "$n_cells" ]; then
    echo "FAIL: $n_cells cells, but $n_passed + $n_failed results"
    n_failed=$((n_failed + 1))
fi
echo "test_compile: $((n_passed)) passed, $((n_failed)) failed, $skips skipped"
[ "$n_failed" -eq 0 ]
