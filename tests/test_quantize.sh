#!/usr/bin/env bash
# test_quantize.sh: tools/quantize between all types, and what it refuses.
#
#     BUILD=build tests/test_quantize.sh
#
# Models come from $BUILD/synth and from a small program below. Prints one line for each check, and at the end
# "test_quantize: N passed, N failed, N skipped"; exits 1 if one failed.
. "$(dirname "$0")/check.bash"

built synth quantize read_gguf
quantize=$build/quantize

make_model() { "$build/synth" "$@" >synth.txt 2>&1 || not_ok "synth $*" "$(cat synth.txt)"; }
# converts NAME ARGUMENTS...: quantize does it.
converts() { local name=$1; shift; holds "$name" "$quantize" "$@"; }
# same NAME FILE FILE
same() { holds "$1" cmp "$2" "$3"; }
# bytes NAME FILE TENSOR AT HEX: what stands there.
bytes() { equal "$1" "$("$build/read_gguf" "$2" --bytes "$3" "$4" $((${#5} / 2)) 2>/dev/null)" "$5"; }
# refuses NAME REGEX ARGUMENTS...: exit 1, one line that says why, and no file no.gguf.
refuses() {
    local name=$1 reason=$2
    shift 2
    exits "$name" 1 "$reason" "$quantize" "$@"
    equal "... in one line" "$(wc -l <stderr.txt | tr -d ' ')" 1
    if [ -e no.gguf ]; then not_ok "... and no file is left"; rm -f no.gguf; else ok "... and no file is left"; fi
}
# poke FILE AT OCTAL...: overwrites bytes.
poke() { local f=$1 at=$2; shift 2; printf "$(printf '\\%s' "$@")" | dd of="$f" bs=1 seek="$at" conv=notrunc 2>dd.txt; }
# place FILE TENSOR: its offset in the file.
place() { "$build/read_gguf" "$1" | sed -n "s/^  $2 .* at \([0-9]*\) .*/\1/p"; }

# ------------------------------------------------------------------------------------------------ command line
matches "--help" "$("$quantize" --help)" "^usage: quantize "
matches "--version" "$("$quantize" --version)" "^quantize .*[0-9]+\.[0-9]+"
make_model -o a.gguf
exits "no arguments: exit 2" 2 "usage" "$quantize"
exits "no type: exit 2" 2 "which type" "$quantize" a.gguf no.gguf
exits "an unknown type: exit 2, and all are listed" 2 "q5_k.* i2_s tq1_0 .*bf16" "$quantize" a.gguf no.gguf Q5_K
exits "a type for numbers only: exit 2" 2 "q8_0" "$quantize" a.gguf no.gguf q8_0
exits "an unknown number: exit 2" 2 "99" "$quantize" a.gguf no.gguf 99
exits "an embedding that is not read: exit 2" 2 "q4_k" "$quantize" --token-embedding-type q4_k a.gguf no.gguf i2_s
exits "a ternary embedding: exit 2" 2 "i2_s" "$quantize" --token-embedding-type i2_s a.gguf no.gguf i2_s
exits "threads x: exit 2" 2 "threads" "$quantize" a.gguf no.gguf i2_s x
exits "too many arguments: exit 2" 2 "unexpected" "$quantize" a.gguf no.gguf i2_s 1 1 1
exits "--copy and a type: exit 2" 2 "copy" "$quantize" --copy a.gguf no.gguf tq1_0
exits "--copy and a type of the embedding: exit 2" 2 "copy" "$quantize" --copy --token-embedding-type f32 a.gguf no.gguf
exits "--copy and types of tensors: exit 2" 2 "copy" "$quantize" --copy --tensor-type ffn=f32 a.gguf no.gguf
exits "--tensor-type without a type: exit 2" 2 "ffn_down=TQ1_0" "$quantize" --tensor-type ffn a.gguf no.gguf i2_s
exits "--tensor-type without a name: exit 2" 2 "ffn_down=TQ1_0" "$quantize" --tensor-type =f32 a.gguf no.gguf i2_s
exits "--tensor-type, an unknown type: exit 2" 2 "q9.*iq2_bn_r4" "$quantize" --tensor-type ffn=q9 a.gguf no.gguf i2_s
exits "--out-layout of another type: exit 2" 2 "I2_S" "$quantize" --out-layout b a.gguf no.gguf tq1_0
exits "--out-layout e: exit 2" 2 "A, B, C or D" "$quantize" --out-layout e a.gguf no.gguf i2_s
[ ! -e no.gguf ] && ok "wrong usage writes nothing" || not_ok "wrong usage writes nothing"

# ------------------------------------------------------------------------------------------- there and back again
# A model that synth wrote in the type itself is the same file: codes, scales, records and metadata.
converts "--copy" --copy a.gguf copy.gguf
same "... is the same file" a.gguf copy.gguf
for t in tq1_0 tq2_0 iq1_bn iq2_bn iq2_bn_r4 f16 bf16 f32; do
    make_model --type $t -o want.gguf
    converts "I2_S to $t" --force a.gguf t.gguf $t
    same "... as synth writes it" t.gguf want.gguf
    converts "... and back" --force t.gguf back.gguf i2_s
    same "... is the same file" a.gguf back.gguf
done
for t in q2_0 q2_0-128 pq2_0; do                         # other file types than synth's
    make_model --type $t -o want.gguf
    converts "I2_S to $t" --force a.gguf t.gguf $t
    at=$(place t.gguf token_embd.weight)
    same "... as synth writes it" <(tail -c +"$at" t.gguf) <(tail -c +"$(place want.gguf token_embd.weight)" want.gguf)
    converts "... and back" --force t.gguf back.gguf i2_s
    same "... is the same file" a.gguf back.gguf
done
last=a.gguf
for t in iq2_bn_r4 tq1_0 q2_0 iq1_bn f16 tq2_0 iq2_bn bf16 q2_0-128 i2_s; do
    converts "$last to $t" $last chain-$t.gguf $t
    last=chain-$t.gguf
done
same "the chain through all types ends where it began" a.gguf $last
for l in b c d; do
    make_model --layout $l -o want.gguf
    converts "layout A to $l" --force --out-layout $l a.gguf t.gguf I2_S
    same "... as synth writes it" t.gguf want.gguf
    converts "... and back" --force --i2s-layout $l t.gguf back.gguf I2_S
    same "... is the same file" a.gguf back.gguf
done
# One type for all, others for some: the last that fits counts, and the way back leads to the same file.
converts "--tensor-type" --tensor-type ffn=tq1_0 --tensor-type ffn_down.weight=IQ2_BN --tensor-type 1.attn_k=137 a.gguf t3.gguf Q2_0
equal "... types by name" "$("$build/read_gguf" t3.gguf | grep -c 'TQ1_0')" 4
equal "... the last one counts" "$("$build/read_gguf" t3.gguf | grep 'IQ2_BN' | awk '{ print $1 }' | paste -sd, -)" \
    blk.0.ffn_down.weight,blk.1.attn_k.weight,blk.1.ffn_down.weight
matches "... the type of the others is the file's" "$("$build/read_gguf" t3.gguf)" "general.file_type +u32 41$"
matches "... told" "$("$quantize" --force --tensor-type ffn=tq1_0 a.gguf t4.gguf Q2_0)" "14 matrices as q2_0 and others"
converts "... and back" t3.gguf back3.gguf I2_S
same "... is the same file" a.gguf back3.gguf
make_model --family qwen3-embed --untied --seed 3 --kv-heads 4 -o q.gguf
converts "norms of F16, other heads" q.gguf t2.gguf TQ2_0
converts "... and back" t2.gguf back2.gguf I2_S
same "... is the same file" q.gguf back2.gguf

# --------------------------------------------------------------------------------------------- names and numbers
for pair in 40:i2_s 36:tq1_0 37:tq2_0 41:q2_0 136:iq1_bn 137:iq2_bn 337:iq2_bn_r4 1:f16 0:f32 32:bf16; do
    converts "type ${pair%:*}" --force a.gguf n.gguf "${pair%:*}"
    converts "... and by name" --force a.gguf m.gguf "$(tr a-z A-Z <<<"${pair#*:}")"
    same "... are the same" n.gguf m.gguf
    matches "... and the number is in the file" "$("$build/read_gguf" n.gguf)" "general.file_type +u32 ${pair%:*}$"
done
converts "as bitnet.cpp's set-up calls llama-quantize" --force --token-embedding-type f16 a.gguf n.gguf I2_S 1 1
same "... the same file" n.gguf a.gguf

# ------------------------------------------------------------------------------------- embedding and output matrix
make_model --untied --head f32 -o h.gguf
for t in f16 bf16 q8_0 q6_k q4_0; do
    make_model --untied --head $t -o want.gguf
    converts "F32 embedding and output to $t" --force --token-embedding-type $t --output-tensor-type $t h.gguf t.gguf i2_s
    same "... as synth writes them" t.gguf want.gguf
    case $t in f16 | bf16) again= ;; *) again=--allow-requantize ;; esac
    [ -z "$again" ] || refuses "$t to f16" "allow-requantize" --token-embedding-type f16 t.gguf no.gguf i2_s
    # shellcheck disable=SC2086
    converts "$t to f16 $again" --force $again --token-embedding-type f16 t.gguf u.gguf i2_s
    converts "$t to f32" --force --token-embedding-type f32 --output-tensor-type f32 t.gguf u.gguf i2_s
    converts "... and back" --force --token-embedding-type $t --output-tensor-type $t u.gguf v.gguf i2_s
    case $t in f16 | bf16) same "... is the same file" t.gguf v.gguf ;; esac
done
out=$("$quantize" --force --token-embedding-type q8_0 h.gguf t.gguf tq1_0)
matches "the error of the embedding is told" "$out" "token_embd.weight: F32 to q8_0, relative error 0\.00[0-9]+$"
matches "... and what became of the rest" "$out" "14 matrices as tq1_0, 10 tensors copied"
"$quantize" --force --output-tensor-type q8_0 a.gguf t.gguf i2_s >out.txt 2>err.txt
matches "no output.weight to change: a warning" "$(cat err.txt)" "no output.weight"

# ---------------------------------------------------------------------------------------------- files made by hand
cat >hand.c <<'END_C'
/* hand KIND FILE: small files of F32 matrices, and worse. */
#include "tools/gguf_write.h"
#include <math.h>
static gguf_writer w;
static const char *kind;
static int is(const char *name) { return strcmp(kind, name) == 0; }
/* The sequence of the worked example of I2_S, and that of TQ1_0. */
static int example(uint64_t j) { return (int)((j * j + j / 16) % 3) - 1; }
static int period(uint64_t j) { return (int)(j % 3) - 1; }
static float value(uint64_t row, uint64_t k)
{
    const int code = is("period") ? period(k) : example(k);
    if (is("zeros")) return 0;
    if (is("zerorow") && row == 1) return 0;
    if (is("rows")) return (float)code * 0.5f * (float)(row + 1);
    if (is("blocks256")) return (float)code * (k < 256 ? 0.5f : 0.25f);
    if (is("blocks128")) return (float)code * (k / 128 % 2 ? 0.5f : 0.25f);
    if (is("blocks64")) return (float)code * (k / 64 % 2 ? 0.5f : 0.25f);
    if (is("inexact")) return (float)code * 0.1f;
    if (is("huge")) return (float)code * 1e30f;
    if (is("tiny")) return (float)code * 1e-30f;
    if (is("nan") && row == 2 && k == 5) return (float)NAN;
    if (is("inf") && row == 2 && k == 5) return (float)INFINITY;
    if (is("odd") && row == 2 && k == 5) return 0.75f;
    return (float)code * 0.5f;
}
static void matrix(uint64_t cols, uint64_t rows)
{
    uint64_t r, k;
    for (r = 0; r < rows; r++)
        for (k = 0; k < cols; k++) {
            const float v = value(r, k);
            gguf_write(&w, &v, 4);
        }
}
/* 1024 x 4096 of F16 for TL1 and TL2: zeros but for some, or anything. */
static void large(void)
{
    static uint16_t row[4096];
    uint32_t r, k, x = 1;
    for (r = 0; r < 1024; r++) {
        for (k = 0; k < 4096; k++) {
            x = x * 1664525u + 1013904223u;
            row[k] = is("random") ? (uint16_t)(x >> 30 == 0 ? 0x3800 : x >> 30 == 1 ? 0xb800 : 0) : 0;
        }
        if (!is("random")) {
            if (r == 200) row[70] = 0x3800;
            if (r == 17) row[3] = 0xb800;
            if (r == 37) row[100] = 0xb800;
            if (r == 300) row[4090] = 0x3800;
        }
        gguf_write(&w, row, sizeof row);
    }
}
int main(int argc, char **argv)
{
    static unsigned char b[4096];
    uint64_t ne[3] = {128, 16, 2}, size;
    uint32_t type = 0, dims = 2;
    const char *name = "blk.0.attn_q.weight";
    if (argc != 3) return 2;
    kind = argv[1];
    gguf_writer_init(&w);
    if (is("aligned")) gguf_set_alignment(&w, 256);
    gguf_kv_str(&w, "general.architecture", "unheard-of");
    if (!is("nofiletype")) gguf_kv_u32(&w, "general.file_type", 0);
    gguf_kv_raw(&w, "x.f64", GGUF_F64, "\1\2\3\4\5\6\7\10", 8);
    gguf_kv_raw(&w, "x.i8", GGUF_I8, "\377", 1);
    gguf_kv_str(&w, "x.empty", "");
    gguf_array(&w, "x.none", GGUF_STR, 0);
    gguf_array(&w, "x.some", GGUF_STR, 2);
    gguf_put_str(&w, "a\0b", 3);
    gguf_put_str(&w, "", 0);
    gguf_kv_bool(&w, "x.last", 1);
    if (is("period") || is("blocks128") || is("blocks64")) ne[0] = 256;
    if (is("blocks256")) ne[0] = 512;
    if (is("thin")) ne[0] = 96, ne[1] = 3;
    if (is("three")) dims = 3;
    if (is("marks") || is("random")) ne[0] = 4096, ne[1] = 1024, type = 1;
    if (is("embedding")) name = "token_embd.weight";
    size = ne[0] * ne[1] * (dims == 3 ? 2 : 1) * (type ? 2 : 4);
    if (is("q4_k")) ne[0] = 256, type = 12, size = 16 * 144;
    gguf_tensor(&w, "x.anything", 1, ne + 1, 24, ne[1]);          /* I8 */
    gguf_tensor(&w, name, dims, ne, type, size);
    gguf_tensor(&w, "x.unknown", 1, ne + 1, 4711, 77);
    gguf_open(&w, argv[2]);
    memset(b, 7, sizeof b);
    gguf_write(&w, b, (size_t)ne[1]);
    if (is("marks") || is("random")) large();
    else if (is("q4_k")) gguf_write(&w, b, (size_t)size);
    else matrix(ne[0], size / 4 / ne[0]);
    gguf_write(&w, b, 77);
    if (!gguf_close(&w)) { fprintf(stderr, "hand: %s\n", w.error); return 1; }
    return 0;
}
END_C
# shellcheck disable=SC2086
${CC:-cc} ${CFLAGS:--O2} -std=c99 -I"$root" hand.c -o hand -lm 2>cc.txt || not_ok "hand.c compiles" "$(cat cc.txt)"
hand() { ./hand "$1" "$1.gguf" || not_ok "hand $1"; }

q=blk.0.attn_q.weight
hand example; hand period
# to TYPE FILE: by hand to type, t.gguf
to() { "$quantize" --force "$2.gguf" t.gguf "$1" >out.txt 2>&1 || not_ok "$2 to $1" "$(cat out.txt)"; }
i2s_a=08694508694508694508694508694508829a51829a51829a51829a51829a5182
to i2_s example
bytes "I2_S A: the worked example" t.gguf $q 0 $i2s_a
bytes "... the second row" t.gguf $q 32 $i2s_a
bytes "... the scale, and zeros" t.gguf $q 512 0000003f00000000000000000000000000000000000000000000000000000000
"$quantize" --force --out-layout B example.gguf t.gguf i2_s >/dev/null
bytes "I2_S B: the worked example" t.gguf $q 0 2069512069512069512069512069512082a64582a64582a64582a64582a64582
"$quantize" --force --out-layout D example.gguf t.gguf i2_s >/dev/null
bytes "I2_S D: the worked example" t.gguf $q 0 14514514a69a69a62082082014514514a69a69a62082082014514514a69a69a6
"$quantize" --force --out-layout C example.gguf t.gguf i2_s >/dev/null
bytes "I2_S C: four equal rows" t.gguf $q 0 0055550055550055
to iq2_bn example
bytes "IQ2_BN: the worked example" t.gguf $q 0 0000003f$i2s_a
to tq1_0 period
bytes "TQ1_0: the worked example" t.gguf $q 0 456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456c94bb3194bb3194bb3194bb3194bb31943092bb300038
to tq2_0 period
bytes "TQ2_0: j, j + 32, j + 64, j + 96 from the low bits on" t.gguf $q 0 186186
bytes "... the scale" t.gguf $q 64 0038
to iq1_bn period
bytes "IQ1_BN: the worked example" t.gguf $q 0 00386c45cfcf6c4545cf6c6c45cf17
to q2_0 period
bytes "Q2_0: the scale, then four to a byte" t.gguf $q 0 0038244992244992
bytes "... the next block" t.gguf $q 18 00384992244992
to q2_0-128 period
bytes "Q2_0-128: the next block" t.gguf $q 34 0038922449
to bf16 example
bytes "BF16" t.gguf $q 0 00bf0000000000bf
to iq2_bn_r4 example
bytes "IQ2_BN_R4: four scales" t.gguf $q 0 0000003f0000003f0000003f0000003f
hand marks
to tl1 marks
bytes "TL1: W[200][70] = 1" t.gguf $q 134215 444744
bytes "TL1: W[17][3] = -1" t.gguf $q 16 444344
bytes "TL1: the scale" t.gguf $q 1048576 0000003f
to tl2 marks
bytes "TL2: W[37][100] = -1" t.gguf $q 4612 000300
bytes "TL2: its sign" t.gguf $q 689288 000000200000
bytes "TL2: W[300][4090] = 1" t.gguf $q 866771 444744
bytes "TL2: the scale" t.gguf $q 884736 0000003f
hand random
to i2_s random
mv t.gguf i2s-random.gguf
for t in TL1 TL2 TL2-42; do
    to $t random
    matches "$t: the size that it should have" "$("$build/read_gguf" t.gguf 2>&1)" "attn_q.weight +TL.*[0-9]$"
    converts "... and back" --force t.gguf back.gguf i2_s
    same "... is the same file" i2s-random.gguf back.gguf
done
to tl1 random
mv t.gguf tl1.gguf
to tl1-generated random
if cmp -s t.gguf tl1.gguf; then not_ok "TL1-generated has other tiles"; else ok "TL1-generated has other tiles"; fi
converts "... and back, by their name" --force --tl-tiles generated t.gguf back.gguf i2_s
same "... is the same file" i2s-random.gguf back.gguf
converts "... and by their sizes" --force --tl-tiles 256/128/32 t.gguf back.gguf i2_s
same "... is the same file" i2s-random.gguf back.gguf
refuses "tiles that do not fit" "do not cut" --tl-tiles 256/100/32 t.gguf no.gguf i2_s
refuses "tiles that are none" "tiles" --tl-tiles x t.gguf no.gguf i2_s
rm -f random.gguf marks.gguf tl1.gguf i2s-random.gguf

# ------------------------------------------------------------------------------------------------------ metadata
for k in example aligned; do
    hand $k
    converts "$k, --copy" --force --copy $k.gguf t.gguf
    same "... is the same file" $k.gguf t.gguf
    converts "$k, type copy" --force $k.gguf t.gguf copy
    same "... is the same file" $k.gguf t.gguf
    to iq2_bn $k
    converts "$k to IQ2_BN and back" --force t.gguf back.gguf f32
    same "... unknown keys and tensors of unknown types too" $k.gguf back.gguf
done
hand nofiletype
to i2_s nofiletype
matches "a file without general.file_type gets one" "$("$build/read_gguf" t.gguf 2>&1)" "general.file_type +u32 40"

# ------------------------------------------------------------------------------------------- scales that do not fit
hand rows; hand blocks256; hand blocks128; hand blocks64; hand inexact; hand huge; hand tiny; hand zeros; hand zerorow
for t in i2_s tq1_0; do
    case $t in i2_s) why="several scales, from 0.5 to 8,";; *) why="multiples of 256";; esac
    refuses "a scale for each row to $t" "$why" rows.gguf no.gguf $t
done
for t in iq1_bn iq2_bn iq2_bn_r4 q2_0 q2_0-128; do
    to $t rows
    converts "a scale for each row to $t and back" --force t.gguf back.gguf f32
    same "... is the same file" rows.gguf back.gguf
done
for t in tq1_0 tq2_0 q2_0 q2_0-128 pq2_0; do
    to $t blocks256
    converts "a scale for each block of 256 to $t and back" --force t.gguf back.gguf f32
    same "... is the same file" blocks256.gguf back.gguf
done
refuses "a scale for each block to IQ2_BN" "several scales" blocks256.gguf no.gguf iq2_bn
refuses "a scale for each 128 to TQ2_0" "several scales" blocks128.gguf no.gguf tq2_0
refuses "a scale for each 64 to PQ2_0" "several scales" blocks64.gguf no.gguf pq2_0
to q2_0 blocks64
converts "a scale for each 64 to Q2_0 and back" --force t.gguf back.gguf f32
same "... is the same file" blocks64.gguf back.gguf
to tq2_0 blocks256
mv t.gguf tq.gguf
refuses "TQ2_0 with several scales to I2_S" "several scales, from 0.25 to 0.5" tq.gguf no.gguf i2_s
for t in iq1_bn q2_0 q2_0-128 f16 bf16; do
    refuses "the scale 0.1 to $t" "scale 0.1.* would be 0.[01]" inexact.gguf no.gguf $t
done
to iq2_bn inexact
to i2_s inexact
bytes "... fits into I2_S" t.gguf $q 512 cdcccc3d
refuses "1e30 in f16" "no scale near 1.*e\+30" huge.gguf no.gguf iq1_bn
refuses "... with --allow-loss, too" "no scale near" --allow-loss huge.gguf no.gguf iq1_bn
refuses "1e-30 in f16" "no scale near" --allow-loss tiny.gguf no.gguf f16
matches "--allow-loss: the change is measured" "$("$quantize" --force --allow-loss rows.gguf t.gguf i2_s)" \
    "largest change of a scale: 750 % \($q\)"
bytes "... the scale is the mean" t.gguf $q 512 00008840
matches "--allow-loss: rounding to f16" "$("$quantize" --force --allow-loss inexact.gguf t.gguf iq1_bn)" \
    "largest change of a scale: 0.0244 %"
bytes "... rounded" t.gguf $q 0 662e
matches "--allow-loss where nothing is lost" "$("$quantize" --force --allow-loss example.gguf t.gguf iq1_bn)" \
    "as they were"
to i2_s zeros
bytes "a matrix of zeros has the scale 1" t.gguf $q 512 0000803f
converts "... and stays zeros" --force t.gguf back.gguf f32
same "... the same file" zeros.gguf back.gguf
to i2_s zerorow
bytes "zeros have no say in the scale" t.gguf $q 512 0000003f
converts "a row of zeros and back" --force t.gguf back.gguf f32
same "... the same file" zerorow.gguf back.gguf

# ------------------------------------------------------------------------------------------------------ bad input
for k in odd nan inf q4_k three thin embedding; do hand $k; done
refuses "floats that are not ternary" "not ternary: row 2 .*0.5 .*0.75" odd.gguf no.gguf i2_s
refuses "... with --allow-loss, too" "not ternary" --allow-loss odd.gguf no.gguf i2_s
refuses "NaN" "$q.*not finite" nan.gguf no.gguf i2_s
refuses "infinity" "$q.*not finite" inf.gguf no.gguf i2_s
refuses "a matrix of Q4_K" "Q4_K .*is not read" q4_k.gguf no.gguf i2_s
refuses "three dimensions" "dimensions" three.gguf no.gguf i2_s
refuses "rows of 96 weights to Q2_0" "multiples of 64" thin.gguf no.gguf q2_0
refuses "3 rows to IQ2_BN_R4" "multiples of" thin.gguf no.gguf iq2_bn_r4
refuses "3 x 96 weights to layout A" "multiples of 128" thin.gguf no.gguf i2_s
refuses "3 rows to layout C" "multiples of 4 rows" --out-layout c thin.gguf no.gguf i2_s
converts "3 x 96 weights to layout D" --force --out-layout d thin.gguf t.gguf i2_s
converts "... and back" --force --i2s-layout d t.gguf back.gguf f32
same "... is the same file" thin.gguf back.gguf
refuses "TL1 of another shape" "shapes" a.gguf no.gguf tl1
converts "an embedding is no matrix" --force embedding.gguf t.gguf i2_s
same "... it stays as it is" <(tail -c 8200 embedding.gguf) <(tail -c 8200 t.gguf)
refuses "an embedding in blocks that do not fit" "multiples of 256" --token-embedding-type q6_k embedding.gguf no.gguf i2_s
# shellcheck disable=SC2043
for bad in "0 0 200 177:infinite" "0 0 300 177:NaN"; do
    cp a.gguf bad.gguf
    at=$(($(place bad.gguf $q) + 256 * 256 / 4))
    # shellcheck disable=SC2086
    poke bad.gguf $at ${bad%:*}
    refuses "an I2_S scale that is ${bad#*:}" "$q.*scale.*not finite" bad.gguf no.gguf tq1_0
done
cp chain-tq2_0.gguf bad.gguf
poke bad.gguf $(($(place bad.gguf $q) + 64)) 000 174
refuses "a TQ2_0 scale that is infinite" "$q.*scale.*not finite" bad.gguf no.gguf i2_s
cp chain-q2_0.gguf bad.gguf
poke bad.gguf $(($(place bad.gguf $q) + 2)) 377
refuses "a Q2_0 code that is no ternary weight" "$q.*(code 3|ternary)" bad.gguf no.gguf i2_s
refuses "no such file" "nosuch" nosuch.gguf no.gguf i2_s
: >empty.gguf
refuses "an empty file" "empty" empty.gguf no.gguf i2_s
echo "this is not a model at all" >text.gguf
refuses "a text" "not a GGUF" text.gguf no.gguf i2_s
for n in 100 20000 200000 900000; do
    head -c $n a.gguf >cut.gguf
    refuses "the first $n bytes" "." cut.gguf no.gguf tq1_0
    refuses "... with --copy, too" "." --copy cut.gguf no.gguf
done

# --------------------------------------------------------------------------------------------------------- output
cp a.gguf in.gguf
ln -s in.gguf link.gguf
ln in.gguf hard.gguf
for f in in.gguf ./in.gguf link.gguf hard.gguf; do
    refuses "IN is OUT ($f)" "same file" --force in.gguf $f tq1_0
done
same "... and stays as it was" in.gguf a.gguf
echo old >old.gguf
refuses "OUT is there" "old.gguf.*--force" a.gguf old.gguf tq1_0
refuses "an error with --force" "not a GGUF" --force text.gguf old.gguf tq1_0
refuses "an error in the middle, with --force" "several scales" --force rows.gguf old.gguf i2_s
equal "... leaves the old file" "$(cat old.gguf)" old
converts "--force" --force a.gguf old.gguf tq1_0
same "... replaces it" old.gguf chain-tq1_0.gguf
mkdir folder.gguf
refuses "OUT is a folder" "not a regular file" --force a.gguf folder.gguf tq1_0
refuses "OUT in a folder that is not there" "nosuch" a.gguf nosuch/x.gguf tq1_0
exits "a full disk: exit 1" 1 "cannot write|too large|space" bash -c 'ulimit -f 100; exec "$0" a.gguf no.gguf tq1_0' "$quantize"
[ ! -e no.gguf ] && ok "... leaves no file" || not_ok "... leaves no file"
if [ -c /dev/full ]; then
    exits "a device: exit 1" 1 "regular" "$quantize" --force a.gguf /dev/full tq1_0
    exits "stdout on a full disk: exit 1" 1 "output" bash -c '"$0" --force a.gguf t.gguf tq1_0 >/dev/full' "$quantize"
else
    skip "full disk: no /dev/full"
fi
make_model --shape 70b --layers 1 -o holes.gguf
# --foreground: the signal comes once; a second one before the first is noticed ends the program at once.
timeout --foreground --preserve-status -s INT 0.5 "$quantize" holes.gguf no.gguf f32 >/dev/null 2>&1
equal "Ctrl-C: exit 130" $? 130
[ ! -e no.gguf ] && ok "... leaves no file" || not_ok "... leaves no file"
equal "no half-written file stays" "$(ls | grep -c tmp-)" 0

finish test_quantize
