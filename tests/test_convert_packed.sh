#!/usr/bin/env bash
# test_convert_packed.sh: a packed checkpoint, bytes of four codes and weight_scale, to I2_S: time, memory, and every code.
#
#     BUILD=build tests/test_convert_packed.sh                        small: part of make test
#     BUILD=build SHAPE=2b-4t SEED=1 tests/test_convert_packed.sh     1.2 GB: make test-convert-big
#
# The checkpoint comes from synth, by seed, through make_hf; so what has to come out is known. Needs three times its size
# in TMPDIR. Prints one line for each check, and at the end "test_convert_packed: N passed, N failed, N skipped".
. "$(dirname "$0")/check.bash"

built synth make_hf measure convert inspect
shape=${SHAPE:-small}
LIMIT_S=600

# What a conversion may take: for the large one what people can spare; the small one shows early when it grows.
case $shape in
    small) max_seconds=10 max_kib=15000 ;;
    *) max_seconds=60 max_kib=1000000 ;;
esac

holds "a model of shape $shape" "$build/synth" --shape "$shape" --seed "${SEED:-1}" -o model.gguf
mkdir hf
holds "as a packed checkpoint" "$build/make_hf" model.gguf hf --packed
echo "checkpoint: $(wc -c <hf/model.safetensors | tr -d ' ') bytes"
# counts NAME REGEX N: so many tensors of the checkpoint are like that.
layers=$("$build/inspect" --json model.gguf | sed -n 's/^ *"n_layer": \([0-9]*\),$/\1/p')
counts() { equal "$1" "$(head -c 200000 hf/model.safetensors | grep -ao "$2" | wc -l | tr -d ' ')" "$3"; }
counts "... bytes of codes" '_proj.weight":{"dtype":"U8"' $((7 * layers))
counts "... and a scale for each matrix" '_proj.weight_scale":{"dtype":"BF16","shape":.1.' $((7 * layers))
holds "convert" "$build/measure" used.txt "$build/convert" hf -o result.gguf
read -r seconds kib <used.txt
echo "convert: $seconds s, $kib KiB at most"
below "... seconds" "$seconds" $max_seconds
if grep -q fsanitize <<<"${CFLAGS:-}"; then skip "... memory: a sanitizer takes its own"
else below "... KiB of memory" "$kib" $max_kib; fi

exits "inspect --check: sound" 0 "" "$build/inspect" --check result.gguf
matches "... and runs" "$("$build/inspect" result.gguf)" '^runs here +yes'
"$build/inspect" --diff model.gguf result.gguf >diff.txt
said=$(cat diff.txt)
matches "the network is the same" "$said" "^settings +the same$"
matches "all codes are equal" "$said" "^codes +equal in all $((7 * layers)) ternary tensors$"
matches "all scales" "$said" "^scales +equal in all $((7 * layers)) ternary tensors$"
matches "all other values" "$said" "^values +equal in all $((4 * layers + 2)) other tensors$"
# A Hugging Face tokenizer has no type for tokens that are not used: they come back as ordinary ones.
equal "nothing else differs" "$(sed -n '4,/^settings/p' diff.txt | grep ': ' | grep -v -e 'token_type: .*: 5 and 1$' -e 'both mean')" ""

finish test_convert_packed
