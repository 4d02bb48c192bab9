#!/usr/bin/env bash
# test_inspect.sh: what tools/inspect finds in tensors of every type, what it calls damage, and --diff.
#
#     BUILD=build tests/test_inspect.sh
#
# The rest of inspect is in test_tools.sh. Prints one line for each check, and at the end
# "test_inspect: N passed, N failed, N skipped"; exits 1 if one failed.
. "$(dirname "$0")/check.bash"

built synth inspect quantize read_gguf
inspect=$build/inspect
q=blk.0.attn_q.weight

make_model() { "$build/synth" "$@" >synth.txt 2>&1 || not_ok "synth $*" "$(cat synth.txt)"; }
quantize() { "$build/quantize" --force "$@" >quantize.txt 2>&1 || not_ok "quantize $*" "$(cat quantize.txt)"; }
# place FILE TENSOR: its offset in the file.
place() { "$build/read_gguf" "$1" | sed -n "s/^  $2 .* at \([0-9]*\) .*/\1/p"; }
# poke FILE AT BYTE...: overwrites bytes, given in hex.
poke() { local f=$1 at=$2; shift 2; printf "$(printf '\\x%s' "$@")" | dd of="$f" bs=1 seek="$at" conv=notrunc 2>dd.txt; }
# row FILE TENSOR: its line of --tensors, offset and bytes left out.
row() { "$inspect" --tensors "$1" | awk -v name="$2" '$1 == name { sub(/ +[0-9]+ +[0-9]+$/, ""); print }'; }
# diff NAME STATUS A B [OPTIONS]: that exit status; what it said stays in diff.txt.
diff() {
    local name=$1 want=$2 status
    shift 2
    "$inspect" --diff "$@" >diff.txt 2>stderr.txt
    status=$?
    if [ $status = "$want" ]; then ok "$name"; else not_ok "$name" "exit $status, not $want: $(cat diff.txt stderr.txt)"; fi
}
# says NAME REGEX: ... and it said so. lines NAME N: it told that many differences.
says() { matches "$1" "$(cat diff.txt stderr.txt)" "$2"; }
lines() { equal "$1" "$(sed -n '4,/^settings/p' diff.txt | grep -c ': ')" "$2"; }

make_model -o a.gguf
types="tq1_0 tq2_0 q2_0 q2_0-128 pq2_0 iq1_bn iq2_bn iq2_bn_r4"
for t in $types; do quantize a.gguf "$t.gguf" "$t"; done
wide="--layers 1 --embd 1536 --ff 4096 --heads 12 --kv-heads 12 --head-dim 128"       # a shape that TL1 and TL2 have
# shellcheck disable=SC2086
make_model $wide -o wide.gguf
for t in tl1 tl2 tl2-42 tq2_0; do quantize wide.gguf "wide-$t.gguf" "$t"; done

# --------------------------------------------------------------------------------------------------- --tensors
matches "I2_S: type, shape, bits, zeros, the scale" "$(row a.gguf $q)" '^ +[^ ]+ +I2_S +256 x 256 +2\.004 +37\.5 % +0\.0859375$'
matches "TQ1_0" "$(row tq1_0.gguf $q)" ' TQ1_0 +256 x 256 +1\.688 +37\.5 % +per 256, 0\.0859375$'
matches "TQ2_0" "$(row tq2_0.gguf $q)" ' TQ2_0 +256 x 256 +2\.062 +37\.5 % +per 256, 0\.0859375$'
matches "Q2_0" "$(row q2_0.gguf $q)" ' Q2_0 +256 x 256 +2\.250 +37\.5 % +per 64, 0\.0859375$'
matches "Q2_0-128" "$(row q2_0-128.gguf $q)" ' Q2_0-128 +256 x 256 +2\.125 +37\.5 % +per 128, 0\.0859375$'
matches "PQ2_0" "$(row pq2_0.gguf $q)" ' PQ2_0 +256 x 256 +2\.125 +37\.5 % +per 128, 0\.0859375$'
matches "IQ1_BN" "$(row iq1_bn.gguf $q)" ' IQ1_BN +256 x 256 +1\.688 +37\.5 % +per row, 0\.0859375$'
matches "IQ2_BN" "$(row iq2_bn.gguf $q)" ' IQ2_BN +256 x 256 +2\.125 +37\.5 % +per row, 0\.0859375$'
matches "IQ2_BN_R4" "$(row iq2_bn_r4.gguf $q)" ' IQ2_BN_R4 +256 x 256 +2\.125 +37\.5 % +per row, 0\.0859375$'
want=$(row wide.gguf $q | awk '{ print $7, $9 }')
matches "a share and a scale" "$want" '^37\.[0-9] 0\.0[0-9]+$'
for t in tl1 tl2 tl2-42; do
    name=${t%-42}
    equal "$t" "$(row wide-$t.gguf $q | awk '{ print $2, $7, $9 }')" "${name^^} $want"
done
matches "TL2 under the number 39 is a BitNet model" "$("$inspect" wide-tl2.gguf)" '^BitNet +yes'
matches "F32: the range of its values" "$(row a.gguf blk.0.attn_norm.weight)" ' F32 +256 +32\.000 +- +values 0\.[0-9]+ \.\. 1\.[0-9]+$'
matches "F16" "$(row a.gguf token_embd.weight)" ' F16 +256 x 1024 +16\.000 +- +values -0\.[0-9]+ \.\. 0\.[0-9]+$'
make_model --head q4_k -o q4_k.gguf
matches "a type that is not read" "$(row q4_k.gguf token_embd.weight)" ' Q4_K +256 x 1024 +4\.500 +- +type Q4_K \(12\) is not read$'
# shellcheck disable=SC2086
cp wide-tl1.gguf tiles.gguf
matches "TL1 with tiles that do not fit" "$("$inspect" --tensors --tl-tiles 256/100/32 tiles.gguf)" "attn_q.* - +.*do not cut"
exits "tiles that are none: exit 2" 2 "tiles" "$inspect" --tensors --tl-tiles x tiles.gguf

# Zeros counted without decoding: all codes -1, all 0.
at=$(place a.gguf $q)
for byte in 00 55 aa; do
    cp a.gguf plain.gguf
    head -c 16384 /dev/zero | tr '\0' "\\$(printf %o 0x$byte)" | dd of=plain.gguf bs=16384 seek="$at" oflag=seek_bytes conv=notrunc 2>dd.txt
    case $byte in 55) want=100.0 ;; *) want=0.0 ;; esac
    for t in i2_s $types; do
        quantize plain.gguf t.gguf "$t"
        equal "zeros in $t, all bytes $byte" "$(row t.gguf $q | awk '{ print $7 }')" $want
    done
done
cp tq2_0.gguf t.gguf
poke t.gguf $(($(place t.gguf $q) + 66 * 9 + 64)) 00 30
matches "a scale of its own: from .. to" "$(row t.gguf $q)" 'per 256, 0\.0859375 \.\. 0\.125$'
cp iq2_bn.gguf t.gguf
poke t.gguf $(($(place t.gguf $q) + 68 * 255)) 00 00 80 3d
matches "... of a row" "$(row t.gguf $q)" 'per row, 0\.0625 \.\. 0\.0859375$'

json=$("$inspect" --json --tensors tq2_0.gguf | grep "\"$q\"")
matches "--json: codes and scales" "$json" '"type": "TQ2_0".*"bits_per_weight": 2.0625, "codes": \[[1-9][0-9]*, [1-9][0-9]*, [1-9][0-9]*, 0\], "scale_columns": 256, "scales": \[0.0859375, 0.0859375\], "not_finite": 0'
matches "... and values" "$("$inspect" --json --tensors a.gguf | grep output_norm)" '"values": \[0\.[0-9]+, 1\.[0-9]+\], "not_finite": 0'
table() { "$inspect" --tensors "$@" | sed -n '/^Tensors$/,$p'; }
equal "read, not mapped: the same" "$(table --no-mmap tq1_0.gguf)" "$(table tq1_0.gguf)"

# Memory: 102 MB of embedding, and less than half of it in reach. Holes: the disk has nothing to do.
make_model --shape small --vocab 100000 --sparse -o holes.gguf
if (ulimit -v 60000) 2>/dev/null && ! grep -q fsanitize <<<"${CFLAGS:-}"; then
    holds "memory does not grow with the model" bash -c "ulimit -v 60000; '$inspect' --no-mmap --tensors holes.gguf"
    holds "... with --diff neither" bash -c "ulimit -v 120000; '$inspect' --no-mmap --diff holes.gguf holes.gguf"
else
    skip "memory: no limit on addresses"
    skip "memory of --diff: no limit on addresses"
fi

# ----------------------------------------------------------------------------------------------------- --check
for f in a $types wide-tl1 wide-tl2 wide-tl2-42; do exits "--check, $f: sound" 0 "" "$inspect" --check "$f.gguf"; done
# damage NAME FILE AT BYTE REGEX: at that byte of attn_q --check finds it.
damage() {
    cp "$2.gguf" bad.gguf
    # shellcheck disable=SC2086
    poke bad.gguf $(($(place bad.gguf $q) + $3)) $4
    exits "--check, $1: exit 1" 1 "" "$inspect" --check bad.gguf
    matches "... and says so" "$("$inspect" --check bad.gguf)" "^damaged: tensor $q: $5"
}
damage "I2_S" a 100 ff "4 of 65536 codes are 3"
damage "I2_S, one code" a 100 d5 "1 of 65536 codes are 3"
damage "TQ1_0, five digits" tq1_0 5 01 "1 bytes of TQ1_0 hold"
damage "TQ1_0, four digits" tq1_0 48 02 "1 bytes of TQ1_0 hold"
damage "TQ2_0" tq2_0 63 c0 "1 of 65536 codes are 3"
damage "Q2_0" q2_0 2 03 "1 of 65536 codes are 3"
damage "Q2_0-128" q2_0-128 33 c0 "1 of 65536 codes are 3"
damage "PQ2_0" pq2_0 $((34 * 7 + 2)) 0f "2 of 65536 codes are 3"
damage "IQ1_BN, five digits" iq1_bn 2 01 "1 bytes of IQ1_BN hold"
damage "IQ1_BN, four digits" iq1_bn $((54 + 14)) ab "1 bytes of IQ1_BN hold"
damage "IQ2_BN" iq2_bn $((68 + 4)) 03 "1 of 65536 codes are 3"
damage "IQ2_BN_R4" iq2_bn_r4 $((16 + 255)) ff "4 of 65536 codes are 3"
damage "TL1" wide-tl1 77 9f "2 nibbles of TL1 hold"
damage "TL2, triples" wide-tl2 77 ed "1 nibbles of TL2 hold"
damage "the scale of I2_S" a 16384 "00 00 00 80" "its scale is 0"
damage "... negative" a 16384 "00 00 00 bf" "its scale is negative"
damage "the scale of TL1" wide-tl1 $((1536 * 1536 / 4)) "00 00 80 7f" "its scale is not finite"
damage "a scale of TQ1_0" tq1_0 $((54 * 3 + 52)) "00 7c" "1 scales are not finite, the first in row 3"
damage "a scale of IQ2_BN" iq2_bn $((68 * 2)) "00 00 c0 7f" "1 scales are not finite, the first in row 2"

# ------------------------------------------------------------------------------------------------- --diff: equal
diff "a file and itself" 0 a.gguf a.gguf
says "... are the same model" "^result +the same model$"
lines "... nothing to tell" 0
for t in $types; do
    diff "I2_S and $t" 0 a.gguf "$t.gguf"
    says "... codes" "^codes +equal in all 14 ternary tensors$"
    says "... scales" "^scales +equal in all 14 ternary tensors$"
    says "... values" "^values +equal in all 10 other tensors$"
done
diff "Q2_0 and IQ2_BN_R4" 0 q2_0.gguf iq2_bn_r4.gguf
for t in f16 bf16 f32; do
    quantize a.gguf "$t.gguf" "$t"
    diff "I2_S and $t" 0 a.gguf "$t.gguf"
    says "... as values" "^values +equal in all 24 other tensors$"
done
for t in tl1 tl2 tl2-42 tq2_0; do diff "I2_S and $t, wide" 0 wide.gguf "wide-$t.gguf"; done
quantize wide.gguf tiles.gguf tl1-generated
diff "TL1 of other tiles" 0 wide-tl1.gguf tiles.gguf --tl-tiles-2 generated
for l in b c d; do
    "$build/quantize" --force --out-layout $l a.gguf layout.gguf i2_s >quantize.txt
    diff "layouts A and $l" 0 a.gguf layout.gguf --i2s-layout-2 $l
    diff "... taken for A" 1 a.gguf layout.gguf
    says "... codes differ" "^codes +differ in 14 of 14 ternary tensors$"
    diff "layouts $l and A" 0 layout.gguf tq1_0.gguf --i2s-layout $l
done
quantize --token-embedding-type f32 a.gguf t.gguf i2_s
diff "an embedding of F16 and of F32" 0 a.gguf t.gguf
diff "types that are not read: the same bytes" 0 q4_k.gguf q4_k.gguf
quantize --tensor-type attn_k=tq2_0 --tensor-type ffn_up=iq2_bn a.gguf t.gguf i2_s
diff "a mix of types" 0 a.gguf t.gguf
diff "read, not mapped" 0 a.gguf tq1_0.gguf --no-mmap
diff "a vocabulary and itself" 0 "$root/examples/stories.gguf" "$root/examples/stories.gguf"

# --------------------------------------------------------------------------------------------- --diff: different
# Row 3, column 7 of I2_S: bits 7:6 of byte 7 of block 6. Each type finds it in the same place.
cp a.gguf code.gguf
at=$(($(place a.gguf $q) + 6 * 32 + 7))
old=$((0x$("$build/read_gguf" a.gguf --bytes $q $((6 * 32 + 7)) 1)))
new=$(((old >> 6) + 1))
[ $new -lt 3 ] || new=0
poke code.gguf $at "$(printf %02x $((old % 64 + 64 * new)))"
want="$q \([^)]*\): 1 of 65536 codes differ, first in row 3, column 7: $(((old >> 6) - 1)) and $((new - 1))$"
diff "one code" 1 a.gguf code.gguf
says "... is found" "$want"
lines "... and nothing else" 1
says "... counted" "^codes +differ in 1 of 14 ternary tensors$"
says "... scales are equal" "^scales +equal"
says "... different models" "^result +different models$"
for t in $types; do
    quantize code.gguf t.gguf "$t"
    diff "one code, I2_S and $t" 1 a.gguf t.gguf
    says "... is found" "$want"
    diff "one code, $t and I2_S" 1 "$t.gguf" code.gguf
    says "... is found" "$want"
done
quantize code.gguf t.gguf f32
diff "one code, I2_S and F32" 1 a.gguf t.gguf
says "... is found" "$q \(I2_S, F32\): 1 of 65536 values differ, first in row 3, column 7: "

cp a.gguf scale.gguf
poke scale.gguf $(($(place a.gguf $q) + 16384)) 00 00 b1 3d
diff "a scale" 1 a.gguf scale.gguf
says "... is told" "$q .*scales differ, first in row 0, column 0: 0\.0859375 and 0\.0864257812; by at most 0\.565 %; the codes are equal$"
lines "... and nothing else" 1
diff "... within the tolerance" 0 a.gguf scale.gguf --tolerance 0.006
diff "... beyond it" 1 a.gguf scale.gguf --tolerance 0.005
cp tq2_0.gguf t.gguf
poke t.gguf $(($(place t.gguf $q) + 66 * 9 + 64)) 00 30
diff "the scale of one block" 1 a.gguf t.gguf
says "... its row" "$q \(I2_S, TQ2_0\): scales differ, first in row 9, column 0: 0\.0859375 and 0\.125; by at most 31\.2 %"
cp pq2_0.gguf t.gguf
poke t.gguf $(($(place t.gguf $q) + 34 * 11)) 00 30
diff "... of 128, against blocks of 256" 1 tq1_0.gguf t.gguf
says "... its row and column" "first in row 5, column 128: 0\.0859375 and 0\.125; "
diff "... and turned around" 1 t.gguf q2_0.gguf
says "... its row and column" "first in row 5, column 128: 0\.125 and 0\.0859375; "
head -c 16384 /dev/zero | tr '\0' '\125' >zeros
cp a.gguf x.gguf
dd if=zeros of=x.gguf bs=16384 seek="$(place a.gguf $q)" oflag=seek_bytes conv=notrunc 2>dd.txt
cp x.gguf y.gguf
poke y.gguf $(($(place a.gguf $q) + 16384)) 00 00 b1 3d
diff "the scale of zeros has no say" 0 x.gguf y.gguf
cp a.gguf x.gguf
head -c 64 zeros | dd of=x.gguf bs=64 seek=$(($(place a.gguf $q) + 64 * 9)) oflag=seek_bytes conv=notrunc 2>dd.txt
cp iq2_bn.gguf y.gguf
poke y.gguf $(($(place y.gguf $q) + 68 * 9)) 00 00 00 00
diff "codes of zeros, and a scale of 0" 0 x.gguf y.gguf

n=blk.1.attn_norm.weight
cp a.gguf t.gguf
poke t.gguf $(($(place a.gguf $n) + 4 * 5)) 00 00 00 41
diff "a norm" 1 a.gguf t.gguf
says "... is told" "$n \(F32, F32\): 1 of 256 values differ, first in row 0, column 5: [0-9.]+ and 8; by at most "
lines "... and nothing else" 1
quantize --token-embedding-type q8_0 a.gguf t.gguf i2_s
diff "an embedding in Q8_0" 1 a.gguf t.gguf
says "... values" "token_embd.weight \(F16, Q8_0\): [0-9]+ of 262144 values differ"
cp q4_k.gguf t.gguf
poke t.gguf $(($(place t.gguf token_embd.weight) + 147455)) 77
diff "types that are not read: other bytes" 1 q4_k.gguf t.gguf
says "... are told" "token_embd.weight \(Q4_K, Q4_K\): the bytes differ"
diff "... another type: trouble" 2 q4_k.gguf a.gguf
says "... as nobody can say" "can't be compared: type Q4_K"
make_model --untied -o untied.gguf
diff "a tensor more" 1 a.gguf untied.gguf
says "... is named" "^output.weight \(F16\): only in B$"
diff "a tensor less" 1 untied.gguf a.gguf
says "... is named" "^output.weight \(F16\): only in A$"
make_model --ff 512 -o ff.gguf
diff "another shape" 1 a.gguf ff.gguf
says "... setting" "^feed_forward_length: 768 and 512$"
says "... tensors" "ffn_up.weight \(I2_S, I2_S\): 256 x 768 and 256 x 512 weights"
make_model --seed 2 -o seed.gguf
diff "another seed" 1 a.gguf seed.gguf
says "... twenty lines, and the number of others" "^and 18 more$"
lines "... twenty" 20
says "... all matrices" "^codes +differ in 14 of 14"

# ---------------------------------------------------------------------------------------------- --diff: metadata
name_at() { grep -abo -- "$2" "$1" | head -1 | cut -d: -f1; }
if [ -n "$(name_at a.gguf general.name)" ]; then
    cp a.gguf t.gguf
    poke t.gguf $(($(name_at t.gguf general.name) + 12 + 12)) 58
    diff "another name, the same model" 0 a.gguf t.gguf
    cp a.gguf t.gguf
    key=bitnet-b1.58.rope.freq_base
    poke t.gguf $(($(name_at t.gguf $key) + ${#key} + 4)) 00 40 1c 46
    diff "another base of rope" 1 a.gguf t.gguf
    says "... is told" "^rope.freq_base: 500000 and 10000$"
    says "... counted" "^settings +1 difference$"
    key=tokenizer.ggml.eos_token_id
    cp a.gguf t.gguf
    poke t.gguf $(($(name_at t.gguf $key) + ${#key} + 4)) 05 00
    diff "another end token" 1 a.gguf t.gguf
    says "... is told" "^tokenizer.ggml.eos_token_id: [0-9]+ and 5$"
    key=tokenizer.ggml.tokens
    cp a.gguf t.gguf
    poke t.gguf $(($(name_at t.gguf $key) + ${#key} + 4 + 4 + 8 + 7 * 9 + 8)) 5f
    diff "another token" 1 a.gguf t.gguf
    says "... is told" "^tokenizer.ggml.tokens: 1 of 1024 differ, first number 7: \"\(\" and \"_\"$"
    key=tokenizer.ggml.token_type
    cp a.gguf t.gguf
    poke t.gguf $(($(name_at t.gguf $key) + ${#key} + 4 + 4 + 8 + 4 * 9)) 04
    diff "another type of a token" 1 a.gguf t.gguf
    says "... is told" "^tokenizer.ggml.token_type: 1 differ, first that of token 9: 1 and 4$"
    key=tokenizer.ggml.merges
    cp a.gguf t.gguf
    poke t.gguf $(($(name_at t.gguf $key) + ${#key} + 4 + 4 + 8 + 8)) 78
    diff "another merge" 1 a.gguf t.gguf
    says "... is told" "^tokenizer.ggml.merges: 1 of [0-9]+ differ, first number 0: "
else
    skip "metadata: grep -b does not work here"
fi
make_model --pre qwen2 -o pre.gguf
diff "another pre-tokenizer" 1 a.gguf pre.gguf
says "... is told" "^tokenizer.ggml.pre: \"llama3\" and \"qwen2\"$"
make_model --family bitnet -o spm.gguf
diff "another tokenizer" 1 a.gguf spm.gguf
says "... is told" "^tokenizer.ggml.model: \"gpt2\" and \"llama\"$"
make_model --family bitnet --seed 1 -o spm2.gguf
diff "SPM, another seed" 1 spm.gguf spm2.gguf
says "... the same tokenizer" "^tokenizer +the same$"
make_model --family qwen3-embed -o q3.gguf
diff "models that can't be run" 0 q3.gguf q3.gguf
diff "... and one that can" 1 q3.gguf a.gguf
says "... by their keys" "^qwen3\.[a-z_.]+: only in A$"

# ------------------------------------------------------------------------------------------------ --diff: trouble
diff "no such file: exit 2" 2 a.gguf nosuch.gguf
says "... named" "nosuch"
echo "this is not a model at all" >text.gguf
diff "a text: exit 2" 2 text.gguf a.gguf
says "... is named" "text.gguf: not a GGUF"
all=$(wc -c <a.gguf)
for n in 0 100 20000 $((all / 2)) $((all - 64)); do
    head -c $n a.gguf >cut.gguf
    diff "the first $n bytes: exit 2" 2 a.gguf cut.gguf
    says "... in one line" "^inspect: .*cut.gguf"
done
exits "--diff with one model: exit 2" 2 "two models" "$inspect" --diff a.gguf
exits "two models without --diff: exit 2" 2 "b.gguf.*--diff" "$inspect" a.gguf b.gguf
exits "--diff --json: exit 2" 2 "words" "$inspect" --diff --json a.gguf a.gguf
exits "--tolerance without --diff: exit 2" 2 "without --diff" "$inspect" --tolerance 0.1 a.gguf
exits "--i2s-layout-2 e: exit 2" 2 "A, B, C or D" "$inspect" --diff a.gguf a.gguf --i2s-layout-2 e
if [ -c /dev/full ]; then exits "--diff, stdout on a full disk: exit 2" 2 "output" bash -c '"$0" --diff a.gguf a.gguf >/dev/full' "$inspect"
else skip "--diff on a full disk: no /dev/full"; fi

finish test_inspect
