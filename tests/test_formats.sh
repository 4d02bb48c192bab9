#!/usr/bin/env bash
# test_formats.sh: a model gives the same logits whatever ternary type its matrices are stored in.
#
#     BUILD=build tests/test_formats.sh

. "$(dirname "$0")/check.bash"
built synth logits
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

finish test_formats
