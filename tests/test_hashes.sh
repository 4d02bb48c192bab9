#!/bin/sh
# The promise "same bits everywhere": one model and one prompt give the same logits, bit for bit, from every kernel
# set, thread count, batch, company of other sessions, compiler and optimisation level.
#
#     sh tests/test_hashes.sh             the logits program of $BUILD, all its kernel sets (make test)
#     FULL=1 sh tests/test_hashes.sh      every compiler and flag as well (make test-hashes); half of the flags with TEST_FAST
#     sh tests/test_hashes.sh --update    writes tests/golden.txt anew (make golden)
#
# Every run is compared with tests/golden.txt: model (family, tensor type, head type, seed) and hash of the logits of
# all rows. The hashes come from the scalar kernels, one thread, one row at a time. Needs synth and logits in $BUILD.

cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
FULL=${FULL:-0}
JOBS=${JOBS:-2}
golden=tests/golden.txt
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM
tab=$(printf '\t')

# Family, type of the ternary tensors, type of the output matrix, seed. Every architecture and every type of output
# matrix at least once. The lines marked * go through all settings, the others through a few.
cat > "$scratch/models" <<'END'
bitnet-b1.58 i2_s f16 1 *
bitnet-b1.58 i2_s f32 2
bitnet-b1.58 i2_s q6_k 3
bitnet-25 i2_s q8_0 4
bitnet i2_s q4_0 5 *
llama i2_s bf16 6 *
falcon3 i2_s f16 7
falcon-e i2_s q6_k 8
END
n_models=$(wc -l < "$scratch/models")

# 132 tokens: two full KV blocks of 64 and the beginning of a third.
TOKENS=$(awk 'BEGIN { x = 7; for (i = 0; i < 132; i++) { x = (x * 421 + 1663) % 7875; printf "%s%d", i ? "," : "", x % 1000 } }')

n_skipped=0
skip() { n_skipped=$((n_skipped + 1)); echo "SKIP $1: $2"; }

model_file() { echo "$scratch/$(echo "$*" | tr ' ' '-').gguf"; }

# Result on stdout: 16 hexadecimal digits, or the program's complaint. $1 program; the rest its arguments.
hash_of()
{
    "$@" --tokens "$TOKENS" --all --hash > "$scratch/hash.$worker" 2>&1 < /dev/null
    status=$?
    hash=$(grep -o '[0-9a-f]\{16\}' "$scratch/hash.$worker" | tail -n 1)
    if [ $status -eq 0 ] && [ -n "$hash" ]; then
        echo "$hash"
    else
        echo "exit status $status: $(tail -n 3 "$scratch/hash.$worker" | tr '\n' ' ')"
    fi
}

for program in synth logits; do
    if [ ! -x "$BUILD/$program" ]; then
        echo "FAIL $BUILD/$program does not exist: make $BUILD/$program"
        echo "test_hashes: 0 passed, 1 failed, 0 skipped"
        exit 1
    fi
done

while read -r family type head seed mark; do
    file=$(model_file "$family" "$type" "$head" "$seed")
    if ! "$BUILD/synth" --family "$family" --type "$type" --head "$head" --shape tiny --seed "$seed" -o "$file" \
            > "$scratch/synth.txt" 2>&1 < /dev/null; then
        echo "FAIL synth --family $family --type $type --head $head --seed $seed:"
        cat "$scratch/synth.txt"
        echo "test_hashes: 0 passed, 1 failed, 0 skipped"
        exit 1
    fi
done < "$scratch/models"

if [ "${1:-}" = --update ]; then
    worker=0
    {
        echo "# Hashes of logits: family, type, head, seed of tools/synth --shape tiny, hash of tools/logits --all --hash."
        echo "# Written by \`make golden\`, compared by tests/test_hashes.sh."
        while read -r family type head seed mark; do
            hash=$(hash_of "$BUILD/logits" "$(model_file "$family" "$type" "$head" "$seed")" --kernels scalar --threads 1 --batch 1)
            case $hash in exit*) echo "$family $type $head $seed: $hash" >&2; exit 1 ;; esac
            echo "$family $type $head $seed $hash"
        done < "$scratch/models"
    } > "$scratch/golden" || exit 1
    mv "$scratch/golden" $golden
    echo "wrote $golden"
    exit 0
fi

# ------------------------------------------------------------------------------------------------- builds

# Lines "program <tab> label" of logits programs; the first is the one that make built.
printf '%s\t%s\n' "$BUILD/logits" "make's logits" > "$scratch/builds"
: > "$scratch/compile"
n_builds=0

# $1 label (compiler and flags), which is also the command.
build()
{
    n_builds=$((n_builds + 1))
    printf '%s\t%s\n' "$scratch/logits.$n_builds" "$1" >> "$scratch/compile"
}

works()
{
    printf 'int main(void) { return 0; }\n' > "$scratch/probe.c"
    # shellcheck disable=SC2086
    $1 -o "$scratch/probe" "$scratch/probe.c" >/dev/null 2>&1
}

if [ "$FULL" = 1 ]; then
    for compiler in gcc clang; do
        if ! works $compiler; then skip "$compiler" "not installed"; continue; fi
        set -- -O0 "-O3 -march=native -ffast-math" "-O2 -flto" "-O2 -funsigned-char" "-O2 -DBITNET_NO_SIMD" "-O2 -DBITNET_ONLY_SSSE3"
        [ -n "${TEST_FAST:-}" ] || set -- "$@" -O2 -O3 "-O2 -march=native" "-O3 -ffast-math" "-O2 -DBITNET_NO_THREADS" "-O2 -DBITNET_ONLY_AMX"
        for flags in "$@"; do
            if works "$compiler $flags"; then build "$compiler $flags"; else skip "$compiler $flags" "does not build a program"; fi
        done
        if works "$compiler -m32"; then
            build "$compiler -m32 -O2"
            build "$compiler -m32 -O2 -DBITNET_NO_SIMD"
        else
            skip "$compiler -m32" "no 32-bit libraries installed"
        fi
    done
    # Another processor altogether; clang needs only the C library of that target.
    if works "clang --target=aarch64-linux-gnu -static" && command -v qemu-aarch64 >/dev/null 2>&1; then
        build "clang --target=aarch64-linux-gnu -static -O2"
    else
        skip "AArch64" "needs clang, the C library for aarch64-linux-gnu and qemu-aarch64"
    fi
    wasm="clang --target=wasm32-wasi -msimd128 -O2 -DBITNET_NO_THREADS -DBITNET_NO_MMAP -D_WASI_EMULATED_SIGNAL -lwasi-emulated-signal"
    if works "$wasm" && node -e "require('node:wasi')" >/dev/null 2>&1; then
        build "$wasm"
    else
        skip "WebAssembly" "needs clang, lld, a C library for wasm32-wasi and node 18 or later"
    fi
fi

# Worker $1 of JOBS compiles its share. What does not compile is a failure.
compile_worker()
{
    number=0
    while IFS=$tab read -r program label; do
        number=$((number + 1))
        [ $((number % JOBS)) -eq "$1" ] || continue
        # shellcheck disable=SC2086
        $label -I. -o "$program" tools/logits.c -lpthread -lm > "$program.txt" 2>&1 < /dev/null ||
            { echo "FAIL $label does not compile:"; head -n 20 "$program.txt"; } >> "$scratch/failed.compile$1"
    done < "$scratch/compile"
}
k=0
while [ $k -lt "$JOBS" ]; do compile_worker $k & k=$((k + 1)); done
wait
while IFS=$tab read -r program label; do
    if [ -x "$program" ]; then
        case $label in
            *aarch64*) printf '%s\t%s\n' "qemu-aarch64 -cpu max $program" "$label under qemu"
                       for cpu in cortex-a53 neoverse-n1; do
                           printf '%s\t%s\n' "qemu-aarch64 -cpu $cpu $program" "$label under qemu as $cpu"
                       done ;;
            *wasm32*) printf '%s\t%s\n' "node --no-warnings tests/wasi.mjs $program" "$label in node" ;;
            *)        printf '%s\t%s\n' "$program" "$label" ;;
        esac
    else
        echo failed >> "$scratch/count.compile"
    fi
done < "$scratch/compile" >> "$scratch/builds"

# Other processors than this one: what the dispatcher chooses must exist there and give the same bits.
if [ "$FULL" = 1 ]; then
    if command -v qemu-x86_64 >/dev/null 2>&1; then
        for cpu in Nehalem Haswell; do
            printf '%s\t%s\n' "qemu-x86_64 -cpu $cpu $BUILD/logits" "make's logits under qemu as $cpu" >> "$scratch/builds"
        done
    else
        skip "older x86 processors" "needs qemu-x86_64"
    fi
fi

# --------------------------------------------------------------------------------------------------- runs

# The kernel sets that program $1 can run here, one a line.
kernels_of() { $1 --list-kernels 2>/dev/null < /dev/null | awk '{ print $1 }'; }

for kernels in scalar ssse3 avx2 avxvnni avx512 avx512vbmi amx; do
    kernels_of "$BUILD/logits" | grep -q -x $kernels || skip "kernels $kernels" "not on this CPU or not in this build"
done

# A line "program <tab> label <tab> settings <tab> models" each: settings $1 with models $2 (all or *).
run() { printf '%s\t%s\t%s\t%s\n' "$program" "$label" "$1" "$2"; }

while IFS=$tab read -r program label; do
    case $label in *"under qemu as"*) run "--threads 2 --batch 64" '*'; continue ;; esac
    all=$(kernels_of "$program")
    [ -n "$all" ] || echo "FAIL $label: --list-kernels lists none" >> "$scratch/failed.list"
    case $label in *"under qemu"|*"in node")               # all sets, but few settings: emulation is slow
        for kernels in $all; do
            run "--kernels $kernels --threads 2 --batch 50" '*'
            case $label in *"in node") in_place= ;; *) in_place=" --layout i2_s" ;; esac      # node has no mmap
            run "--kernels $kernels --threads 1 --batch 1$in_place" '*'
        done
        continue ;;
    esac
    for kernels in $all; do
        if [ "$FULL" = 1 ] && [ "$label" = "make's logits" ]; then
            for threads in 1 3; do for batch in 1 7 64 512; do for company in 0 7; do
                run "--kernels $kernels --threads $threads --batch $batch --company $company" '*'
            done; done; done
        fi
        run "--kernels $kernels --threads 1 --batch 512" all
        run "--kernels $kernels --threads 3 --batch 7 --company 7" '*'
        [ "$label" = "make's logits" ] || continue
        run "--kernels $kernels --threads 2 --batch 40 --layout i2_s" '*'
        run "--kernels $kernels --threads 1 --batch 5 --layout tl1" '*'
        run "--kernels $kernels --threads 2 --batch 9 --layout tl2" '*'
        case $kernels in                       # and the layout of weights that is not its own
            avx512vbmi|amx) run "--kernels $kernels --threads 2 --batch 40 --layout r16" '*' ;;
            *)              run "--kernels $kernels --threads 2 --batch 40 --layout t5" '*' ;;
        esac
    done
done < "$scratch/builds" > "$scratch/runs"
[ -s "$scratch/failed.list" ] && cp "$scratch/failed.list" "$scratch/count.list"

# Worker $1 of JOBS makes its share of the runs.
run_worker()
{
    worker=$1
    number=0
    while IFS=$tab read -r program label settings models; do
        number=$((number + 1))
        [ $((number % JOBS)) -eq "$worker" ] || continue
        while read -r family type head seed mark; do
            [ "$models" = all ] || [ "$mark" = "$models" ] || continue
            # shellcheck disable=SC2086
            hash=$(hash_of $program "$(model_file "$family" "$type" "$head" "$seed")" $settings)
            want=$(awk -v m="$family $type $head $seed" '$1 " " $2 " " $3 " " $4 == m { print $5 }' $golden)
            if [ -n "$want" ] && [ "$hash" = "$want" ]; then
                echo ok >> "$scratch/passed.$worker"
            else
                echo "FAIL $family $type $head $seed, $label, $settings: $hash, not ${want:-known to $golden}" >> "$scratch/failed.$worker"
                echo failed >> "$scratch/count.$worker"
            fi
        done < "$scratch/models"
    done < "$scratch/runs"
}
[ -f $golden ] || { echo "FAIL $golden does not exist: make golden"; : > "$scratch/golden"; golden=$scratch/golden; }
k=0
while [ $k -lt "$JOBS" ]; do run_worker $k & k=$((k + 1)); done
wait

cat "$scratch"/failed.* 2>/dev/null | head -n 100
n_passed=$(cat "$scratch"/passed.* 2>/dev/null | wc -l)
n_failed=$(cat "$scratch"/count.* 2>/dev/null | wc -l)
n_marked=$(grep -c '[*]' "$scratch/models")
n_runs=$(($(grep -c 'all$' "$scratch/runs") * n_models + $(grep -c '[*]$' "$scratch/runs") * n_marked))
n_done=$((n_passed + $(cat "$scratch"/count.[0-9]* 2>/dev/null | wc -l)))
if [ $n_done -ne $n_runs ]; then
    echo "FAIL: $n_runs runs, but $n_done results"
    n_failed=$((n_failed + 1))
fi
echo "test_hashes: $((n_passed)) passed, $((n_failed)) failed, $n_skipped skipped"
[ "$n_failed" -eq 0 ]
