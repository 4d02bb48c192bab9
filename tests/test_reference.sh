#!/bin/sh
# The engine against an independent implementation in double precision (tests/reference.c), on small random models of
# every family, with several types of output matrix and shapes that are awkward for kernels.
#
#     sh tests/test_reference.sh [CASE...]    only the cases with these names
#
# Every case is one model form, run twice:
#     deep   several layers, 16 sequences of 3 tokens. Sequences are this short because one integer that falls on the
#            other side of a rounding border changes everything after it; at the start most positions are safe from it.
#     long   one layer, 140 tokens: two borders of the attention's blocks of 64 positions.
# What counts as agreement is written in tests/compare_logits.c.
#
# Needs synth and logits in $BUILD (build). Environment: CC, VERBOSE=1 shows the figures of cases that pass, too.

cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
CC=${CC:-cc}
VERBOSE=${VERBOSE:-0}
only=" $* "
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' INT TERM

n_passed=0
n_failed=0
n_skipped=0

finish()
{
    echo "reference: $n_passed passed, $n_failed failed, $n_skipped skipped"
    [ "$n_failed" -eq 0 ] && [ $((n_passed + n_skipped)) -gt 0 ]
    exit
}

for program in synth logits; do
    if [ ! -x "$BUILD/$program" ]; then
        echo "not ok reference: $BUILD/$program does not exist: make $BUILD/$program"
        n_failed=1
        finish
    fi
done

# Built here and not by make, so that they are plain programs even where CFLAGS asks for sanitizers or no optimisation.
for program in reference compare_logits uneven; do
    if ! $CC -O2 -I. -o "$scratch/$program" tests/$program.c -lpthread -lm > "$scratch/log" 2>&1; then
        echo "not ok reference: $CC does not compile tests/$program.c"
        cat "$scratch/log"
        n_failed=1
        finish
    fi
done

# Result 0 if the case called $1 is wanted.
wanted() { [ "$only" = "  " ] || case $only in *" $1 "*) true ;; *) false ;; esac; }

# Reports the case $1, whose status is $2 and whose output is in log.
report()
{
    if [ "$2" -eq 0 ]; then
        n_passed=$((n_passed + 1))
        echo "ok reference $1"
        [ "$VERBOSE" != 0 ] && cat "$scratch/log"
    else
        n_failed=$((n_failed + 1))
        echo "not ok reference $1"
        cat "$scratch/log"
    fi
}

# $1 tokens to print, separated by commas, the first $2 of the row left out; all below 200.
tokens() { awk -v n="$1" -v skip="$2" 'BEGIN { x = 7; for (i = -skip; i < n; i++) { x = (x * 421 + 1663) % 7875; if (i >= 0) printf "%s%d", i ? "," : "", x % 200 } }'; }

DEEP=$(tokens 48 0)
LONG=$(tokens 140 48)

# The engine's rows for sequences of 3 tokens out of $DEEP, one call each, put together in file $2. $1 model; the rest
# options of logits.
engine_deep()
{
    model=$1 out=$2
    shift 2
    : > "$out"
    for ids in $(echo "$DEEP" | awk -F, '{ for (i = 1; i <= NF; i += 3) print $i "," $(i + 1) "," $(i + 2) }'); do
        "$BUILD/logits" "$model" --tokens "$ids" --all -o "$scratch/part" "$@" || return 1
        cat "$scratch/part" >> "$out"
    done
}

# model LAYOUT SYNTH-OPTIONS...: writes it. LAYOUT may also be a type whose groups of columns have scales of their own:
# then all of them differ, and layout becomes a.
model()
{
    layout=$1
    shift
    case $layout in
        ?) "$BUILD/synth" --type i2_s --layout "$layout" "$@" -o "$scratch/model" ;;
        *) "$BUILD/synth" --type "$layout" "$@" -o "$scratch/model" && "$scratch/uneven" "$scratch/model" && layout=a ;;
    esac
}

# deep LAYOUT SYNTH-OPTIONS...: synth's own number of layers.
deep()
{
    model "$@" || return 1
    "$scratch/reference" "$scratch/model" --layout "$layout" --tokens "$DEEP" --restart 3 --stable 5 --seed 1 -o "$scratch/reference.out" || return 1
    engine_deep "$scratch/model" "$scratch/engine.out" --i2s-layout "$layout" || return 1
    "$scratch/compare_logits" "$scratch/engine.out" "$scratch/reference.out" --min-stable 12
}

# long LAYOUT SYNTH-OPTIONS...: half of the usual noise, because 140 positions of keys and values have many borders
# nearby. It is still larger than the engine's own rounding errors (0.6e-7 each).
long()
{
    model "$@" --layers 1 || return 1
    "$scratch/reference" "$scratch/model" --layout "$layout" --tokens "$LONG" --stable 6 --noise 1.5e-7 --seed 1 -o "$scratch/reference.out" || return 1
    "$BUILD/logits" "$scratch/model" --tokens "$LONG" --all -o "$scratch/engine.out" --i2s-layout "$layout" || return 1
    "$scratch/compare_logits" "$scratch/engine.out" "$scratch/reference.out" --min-stable 20 --min-block 5
}

if wanted self-test; then
    "$scratch/reference" --self-test > "$scratch/log" 2>&1
    report self-test $?
fi

# Name, layout of I2_S, family, type of the output matrix, seed, further options of synth.
while read -r name layout family head seed more; do
    case $name in '' | '#'*) continue ;; esac
    wanted "$name" || continue
    for kind in deep long; do
        # $more is a list of words.
        $kind "$layout" --family "$family" --head "$head" --seed "$seed" $more > "$scratch/log" 2>&1
        report "$kind $family $head $name" $?
    done
done <<'END_OF_CASES'
b158            a  bitnet-b1.58  f16   1
b158-untied     a  bitnet-b1.58  q6_k  2  --untied --rope-freqs
b25             a  bitnet-25     q8_0  3
head-96         a  bitnet        q4_0  4  --embd 192 --ff 512 --heads 2 --kv-heads 2 --head-dim 96
head-100        a  bitnet        f32   4  --embd 400 --ff 864 --heads 4 --kv-heads 2 --head-dim 100
llama           a  llama         bf16  6  --rope-freqs
llama-tied      a  llama         q8_0  7  --tied --embd 320 --ff 576 --heads 5 --kv-heads 1 --head-dim 64
falcon3         a  falcon3       f16   8
falcon3-256     a  falcon3       q6_k  9  --embd 512 --ff 512 --heads 2 --kv-heads 1 --head-dim 256
falcon-e        a  falcon-e      f16  10
layout-b        b  bitnet-b1.58  f32  11
layout-c        c  llama         q4_0 12
layout-d        d  bitnet        bf16 13
tq2_0           tq2_0 bitnet-b1.58 f16 14 --embd 512
q2_0            q2_0  llama      f16  15  --embd 320 --ff 576 --heads 5 --kv-heads 1 --head-dim 64
END_OF_CASES

finish
