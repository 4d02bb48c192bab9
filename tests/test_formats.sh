#!/usr/bin/env bash
# test_formats.sh: a model gives the same logits whatever ternary types its matrices are stored in, one or several.
#
#     BUILD=build tests/test_formats.sh

. "$(dirname "$0")/check.bash"
built synth logits quantize inspect
tokens=$(seq -s, 1 30)

# hash_of MODEL OPTIONS...
hash_of() { "$build/logits" "$1" --tokens "$tokens" --all --hash "${@:2}" 2>&1; }

"$build/synth" --shape tiny --seed 3 -o model.gguf >/dev/null
want=$(hash_of model.gguf)
for layout in b c d; do
    "$build/synth" --shape tiny --seed 3 --layout $layout -o other.gguf >/dev/null
    equal "I2_S of layout $layout" "$(hash_of other.gguf --i2s-layout "${layout^^}")" "$want"
    differ "... read as A" "$(hash_of other.gguf)" "$want"
done
for type in tq1_0 tq2_0 q2_0 q2_0-128 pq2_0 iq1_bn iq2_bn iq2_bn_r4; do
    "$build/synth" --shape tiny --seed 3 --type $type -o other.gguf >/dev/null
    equal "$type" "$(hash_of other.gguf)" "$want"
    equal "$type, layout t5" "$(hash_of other.gguf --layout t5)" "$want"
    equal "$type, file not mapped" "$(hash_of other.gguf --no-mmap)" "$want"
done

# TL1 and TL2 exist for few shapes.
shape="--shape tiny --layers 1 --embd 1536 --ff 4096 --heads 12 --kv-heads 12 --head-dim 128 --seed 3"
"$build/synth" $shape -o model.gguf >/dev/null
want=$(hash_of model.gguf)
for type in tl1 tl2 tl2-42; do
    "$build/synth" $shape --type $type -o other.gguf >/dev/null
    equal "$type" "$(hash_of other.gguf)" "$want"
done
differ "TL2 with other tiles" "$(hash_of other.gguf --tl-tiles 256/96/32)" "$want"
matches "... which do not fit" "$(hash_of other.gguf --tl-tiles 256/100/32)" "do not cut"
"$build/synth" --shape tiny --seed 3 --type f16 -o other.gguf >/dev/null
matches "F16 matrices are refused" "$(hash_of other.gguf)" "F16.*no ternary type"


# Several types in one layer. q, k and v are stacked in memory, gate and up alternate: each part has its own bits and scales.
# mix NAME MODEL TYPE_OF_q,k,v,output,gate,up,down HASH
mix() {
    local name=$1 model=$2 want=$4 types parts=(attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down) i options=()
    IFS=, read -ra types <<<"$3"
    for i in "${!parts[@]}"; do options+=(--tensor-type "${parts[i]}=${types[i]}"); done
    holds "$name: $3" "$build/quantize" --force "${options[@]}" "$model" mixed.gguf i2_s
    equal "... is stored so" "$("$build/inspect" --tensors mixed.gguf | awk '$1 ~ /^blk\.0\.(attn_[qkvo]|ffn_[gud])[a-z]*\.weight/ && $1 !~ /norm/ { print tolower($2) }' | paste -sd, -)" "${3//-42/}"
    for layout in r16 t5 auto; do equal "... the same logits, layout $layout" "$(hash_of mixed.gguf --layout $layout)" "$want"; done
    equal "... file not mapped, one thread, single tokens" "$(hash_of mixed.gguf --no-mmap -t 1 --batch 1)" "$want"
    equal "... plain C" "$(hash_of mixed.gguf --kernels scalar)" "$want"
}
# shellcheck disable=SC2086
"$build/synth" $shape -o model.gguf >/dev/null
want=$(hash_of model.gguf)
mix "mixed" model.gguf i2_s,tq2_0,tl1,tl2,i2_s,iq2_bn,tq1_0 "$want"
mix "mixed" model.gguf iq1_bn,q2_0,i2_s,iq2_bn_r4,tl1,tq1_0,q2_0 "$want"
mix "mixed" model.gguf tl1,pq2_0,iq2_bn_r4,tq2_0,q2_0-128,tl1,iq1_bn "$want"

# Groups with scales of their own, in v alone: quantize carries them over one by one, so all types that have groups give the
# same logits, whatever the other parts are.
# shellcheck disable=SC2086
if ${CC:-cc} ${CFLAGS:--O2} ${DEFS:-} -I"$root" "$root/tests/uneven.c" -o uneven -lpthread -lm 2>cc.txt; then ok "uneven.c compiles"
else not_ok "uneven.c compiles" "$(cat cc.txt)"; fi
# remake OUT V OTHERS: groups.gguf with v as V, the other matrices as OTHERS.
remake() { holds "v as $2, the others as $3" "$build/quantize" --force --tensor-type attn_v="$2" groups.gguf "$1" "$3"; }
"$build/synth" --shape tiny --embd 512 --heads 8 --kv-heads 4 --seed 3 -o model.gguf >/dev/null   # rows of two blocks
"$build/quantize" --tensor-type attn_v=tq2_0 model.gguf groups.gguf i2_s >/dev/null
holds "scales that differ" ./uneven groups.gguf
want=$(hash_of groups.gguf)
matches "... and a hash" "$want" '^[0-9a-f]{16}$'
differ "... another one than without" "$want" "$(hash_of model.gguf)"
for pair in tq1_0:i2_s q2_0:iq2_bn tq2_0:tq2_0 q2_0:q2_0 tq1_0:q2_0-128 pq2_0:iq1_bn; do
    remake other.gguf ${pair%:*} ${pair#*:}
    equal "... the same logits" "$(hash_of other.gguf)" "$want"
done

finish test_formats
