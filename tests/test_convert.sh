#!/usr/bin/env bash
# test_convert.sh: tools/convert.c, on small folders that tests/make_hf.c makes from synth's models.
#
#     BUILD=build tests/test_convert.sh
#
# Prints one line for each check, and at the end "test_convert: N passed, N failed, N skipped"; exits 1 if one failed.
. "$(dirname "$0")/check.bash"

convert=$build/convert make_hf=$build/make_hf synth=$build/synth read_gguf=$build/read_gguf
built convert make_hf synth read_gguf logits tokenize

# fresh FOLDER MODEL [make_hf's options]: the folder anew.
fresh() { local folder=$1 model=$2; shift 2; rm -rf "$folder"; mkdir "$folder"; "$make_hf" "$model" "$folder" "$@" || not_ok "make_hf $*"; }
# same NAME A B [--codes]
same() { local name=$1; shift; holds "$name" "$make_hf" --compare "$@"; }
hash_of() { "$build/logits" "$1" --tokens 3,1,4,1,5 --hash -t 1; }
says() { matches "$1" "$("$read_gguf" "$2")" "$3"; }

# ------------------------------------------------------------------------------------------------ command line
matches "--help" "$("$convert" --help)" "^usage: convert "
matches "--version" "$("$convert" --version)" "^convert .*[0-9]+\.[0-9]+"
exits "no folder: exit 2" 2 "usage" "$convert" -o x.gguf
exits "no output: exit 2" 2 "no output" "$convert" .
exits "an unknown option: exit 2" 2 "no-such" "$convert" --no-such . -o x.gguf
exits "an unknown type: exit 2" 2 "iq9" "$convert" . -o x.gguf --outtype iq9
exits "--outtype q8_0: exit 2" 2 "ternary" "$convert" . -o x.gguf --outtype q8_0
exits "--token-embedding-type i2_s: exit 2" 2 "i2_s" "$convert" . -o x.gguf --token-embedding-type i2_s
exits "--pre nonsense: exit 2" 2 "nonsense" "$convert" . -o x.gguf --pre nonsense
exits "--chat-template nonsense: exit 2" 2 "nonsense" "$convert" . -o x.gguf --chat-template nonsense
exits "a folder that is not there: exit 1" 1 "nosuch/config.json" "$convert" nosuch -o x.gguf
exits "an output that is no file: exit 1" 1 "regular" "$convert" . -o /dev/null

# --------------------------------------------------------------------------------------------------- families
for family in bitnet-b1.58 bitnet llama falcon-e; do
    "$synth" --family $family --vocab 640 -o "$family.gguf"
    case $family in llama | falcon-e) how="--packed --divide --dtype F32" ;; *) how="--packed" ;; esac
    # shellcheck disable=SC2086
    fresh hf "$family.gguf" $how
    holds "$family packed" "$convert" hf -o packed.gguf --force
    same "... the codes, scales and tokens that went in" "$family.gguf" packed.gguf
    equal "... the same logits" "$(hash_of packed.gguf)" "$(hash_of "$family.gguf")"
    says "... architecture" packed.gguf "general.architecture +str ${family/falcon-e/llama}$"
    fresh hf "$family.gguf" --divide
    holds "$family master" "$convert" hf -o master.gguf --force
    same "... rounded to the same codes and scales" "$family.gguf" master.gguf
    holds "... bitnet.h runs it" hash_of master.gguf
done
"$synth" --family falcon3 --vocab 640 --head-dim 128 -o falcon3.gguf
fresh hf falcon3.gguf --packed
holds "falcon3, heads wider than embedding / heads" "$convert" hf -o packed.gguf --force
same "... the same codes" falcon3.gguf packed.gguf
equal "... the same logits" "$(hash_of packed.gguf)" "$(hash_of falcon3.gguf)"
says "... epsilon" packed.gguf "layer_norm_rms_epsilon +f32 (1e-06|9.99999997e-07)"
model=bitnet-b1.58.gguf
fresh hf llama.gguf --packed --divide
holds "weight_scale of bfloat16, that divides" "$convert" hf -o packed.gguf --force
same "... the same codes" llama.gguf packed.gguf --codes
for dtype in F16 F32; do
    fresh hf $model --dtype $dtype
    holds "masters of $dtype" "$convert" hf -o master.gguf --force
    same "... the same codes" $model master.gguf
done
fresh hf $model --ties
holds "masters with halves" "$convert" hf -o master.gguf --force
same "... halves go to the even one" $model master.gguf --codes
fresh hf $model --shards 3
holds "three files and an index" "$convert" hf -o master.gguf --force
same "... the same codes" $model master.gguf

# ---------------------------------------------------------------------------------------- what is a BitNet model
fresh hf llama.gguf --ready --divide
holds "weights that are ternary already" "$convert" hf -o ready.gguf --force
same "... keep their scale" llama.gguf ready.gguf
fresh hf llama.gguf --plain
exits "weights that nobody trained to be rounded" 1 "not ternary" "$convert" hf -o plain.gguf
[ ! -e plain.gguf ] && ok "... no file" || not_ok "... no file"
holds "... --ternarize" "$convert" hf -o plain.gguf --ternarize
fresh hf $model --config '"model_type": "qwen3",'
exits "another architecture" 1 "model_type is qwen3" "$convert" hf -o no.gguf
fresh hf $model --config '"hidden_act": "gelu",'
exits "another activation" 1 "gelu" "$convert" hf -o no.gguf
fresh hf $model --config '"quantization_config": {"quant_method": "gptq"},'
exits "another quantization" 1 "quant_method" "$convert" hf -o no.gguf
fresh hf $model --config '"num_hidden_layers": 3,'
exits "more layers than there are" 1 "lack tensor model.layers.2" "$convert" hf -o no.gguf
fresh hf $model --config '"num_hidden_layers": 1,'
exits "fewer" 1 "layers.1.* has no place" "$convert" hf -o no.gguf
fresh hf $model --config '"hidden_size": 0,'
exits "a width of 0" 1 "hidden_size" "$convert" hf -o no.gguf
fresh hf $model --config '"rope_scaling": {"type": "yarn"},'
exits "another rope" 1 "yarn" "$convert" hf -o no.gguf
fresh hf llama.gguf --packed --config '"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},'
holds "Llama 3.1's rope" "$convert" hf -o rope.gguf --force
equal "... divides nothing for fast frequencies" "$("$read_gguf" rope.gguf --bytes rope_freqs.weight 0 4)" 0000803f
equal "... and slow ones by 8" "$("$read_gguf" rope.gguf --bytes rope_freqs.weight 124 4)" 00000041
holds "... bitnet.h runs it" hash_of rope.gguf
fresh hf llama.gguf --packed --config '"rope_scaling": {"rope_type": "linear", "factor": 4.0},'
holds "linear rope" "$convert" hf -o rope.gguf --force
says "... its factor" rope.gguf "llama.rope.scaling.factor +f32 4$"

# ------------------------------------------------------------------------------------------------------- types
fresh hf $model --packed
for type in tq1_0 tq2_0 f16 f32 q2_0 iq2_bn; do
    "$synth" --family bitnet-b1.58 --vocab 640 --type $type -o want.gguf
    holds "--outtype $type" "$convert" hf -o typed.gguf --force --outtype $type
    same "... as synth writes it" want.gguf typed.gguf
done
holds "--outtype q2_0" "$convert" hf -o typed.gguf --force --outtype q2_0
says "... the file's type is llama.cpp's number" typed.gguf "general.file_type +u32 41$"
for type in f32 bf16 q8_0 q6_k; do
    holds "--token-embedding-type $type" "$convert" hf -o typed.gguf --force --token-embedding-type $type
    holds "... bitnet.h runs it" hash_of typed.gguf
done
equal "... an f16 embedding as f32: the same logits" "$("$convert" hf -o typed.gguf --force --token-embedding-type f32; hash_of typed.gguf)" "$(hash_of $model)"
fresh hf llama.gguf --packed
holds "--output-tensor-type f32" "$convert" hf -o typed.gguf --force --output-tensor-type f32
says "... the output matrix" typed.gguf " output.weight +F32 "
says "... not the embedding" typed.gguf " token_embd.weight +F16 "
exits "--outtype tl1 of a shape without tiles" 1 "tl1 cannot hold.*tiles" "$convert" hf -o no.gguf --outtype tl1
"$synth" --family bitnet --shape large --layers 1 --vocab 384 -o large.gguf
fresh hf large.gguf --packed
for type in tl1 tl2; do
    "$synth" --family bitnet --shape large --layers 1 --vocab 384 --type $type -o want.gguf
    holds "--outtype $type" "$convert" hf -o typed.gguf --force --outtype $type
    same "... as synth writes it" want.gguf typed.gguf
done
"$synth" --family bitnet --vocab 640 --embd 192 --heads 3 --kv-heads 3 --ff 384 -o odd.gguf
fresh hf odd.gguf --packed
exits "tq1_0 of rows that are no multiple of 256" 1 "tq1_0 cannot hold.*384|tq1_0 cannot hold.*192" "$convert" hf -o no.gguf --outtype tq1_0
holds "... i2_s holds them" "$convert" hf -o odd2.gguf
equal "... the same logits" "$(hash_of odd2.gguf)" "$(hash_of odd.gguf)"

# -------------------------------------------------------------------------------------------------- vocabulary
text=$'Once upon a time: "caf\xc3\xa9" \\ 12345\n\n<|eot_id|>'
ids() { printf '%s' "$text" | "$build/tokenize" "$1" --ids; }
fresh hf $model --packed
holds "--vocab-only" "$convert" hf -o vocab.gguf --vocab-only
says "... no tensors" vocab.gguf " 0 tensors"
equal "... the same tokens" "$(ids vocab.gguf)" "$(ids $model)"
rm hf/config.json hf/*.safetensors hf/tokenizer_config.json
holds "... from tokenizer.json alone" "$convert" hf -o vocab.gguf --vocab-only --force
fresh hf bitnet.gguf --packed --no-spm
"$convert" hf -o spm.gguf --vocab-only
equal "SPM from tokenizer.json: the same tokens" "$(ids spm.gguf)" "$(ids bitnet.gguf)"
fresh hf $model --packed --config '"vocab_size": 650,'
exits "a vocabulary larger than the embedding" 1 "embed_tokens.*shape" "$convert" hf -o no.gguf
exits "--vocab-only with ids to spare" 0 "650 tokens" "$convert" hf -o spare.gguf --vocab-only
matches "... are named" "$("$read_gguf" spare.gguf --strings tokenizer.ggml.tokens)" "^\[PAD649\]$"
says "the pre-tokenizer by its expression" $model "general.architecture"
"$convert" hf -o vocab.gguf --vocab-only --force
says "... llama-bpe" vocab.gguf "tokenizer.ggml.pre +str llama-bpe$"
fresh hf falcon-e.gguf --packed
"$convert" hf -o vocab.gguf --vocab-only --force
says "... falcon_e" vocab.gguf "tokenizer.ggml.pre +str falcon_e$"
sed 's/"Regex": "[^"]*"/"Regex": "[a-z]+"/' hf/tokenizer.json >t && mv t hf/tokenizer.json
exits "an expression nobody knows" 1 "a-z.*--pre" "$convert" hf -o no.gguf --vocab-only
holds "... --pre" "$convert" hf -o vocab.gguf --vocab-only --force --pre qwen2
says "... is written" vocab.gguf "tokenizer.ggml.pre +str qwen2$"
template() { "$read_gguf" "$1" | grep chat_template; }
fresh hf $model --packed
exits "no chat template" 0 "template bitnet, as the folder has none" "$convert" hf -o chat.gguf --force --vocab-only
matches "... the family's" "$(template chat.gguf)" "bos_token"
fresh hf $model --packed --template "Human BITNETAssistant"
exits "an outdated one" 0 "outdated" "$convert" hf -o chat.gguf --force --vocab-only
matches "... is replaced" "$(template chat.gguf)" "bos_token"
fresh hf $model --packed --template "my own <|eot_id|>"
"$convert" hf -o chat.gguf --force --vocab-only
matches "a good one is kept" "$(template chat.gguf)" "my own"
"$convert" hf -o chat.gguf --force --vocab-only --chat-template none
equal "--chat-template none" "$(template chat.gguf)" ""
sed 's/"type": "BPE"/"type": "Unigram"/' hf/tokenizer.json >t && mv t hf/tokenizer.json
exits "another kind of tokenizer" 1 "Unigram" "$convert" hf -o no.gguf
printf '{"model": {' >hf/tokenizer.json
exits "a tokenizer.json cut off" 1 "tokenizer.json: .*byte 11" "$convert" hf -o no.gguf
rm hf/tokenizer.json
exits "no tokenizer" 1 "neither tokenizer.json" "$convert" hf -o no.gguf
fresh hf bitnet.gguf --packed
head -c 1000 hf/tokenizer.model >t && mv t hf/tokenizer.model
exits "a tokenizer.model cut off" 1 "tokenizer.model" "$convert" hf -o no.gguf

# ------------------------------------------------------------------------------------------------------ damage
damage() { fresh hf $model "${@:3}" --damage "$1"; exits "$1" 1 "$2" "$convert" hf -o no.gguf; }
damage overlap "overlaps"
damage outside "outside of the file"
damage gap "belong to none"
damage dtype "unknown dtype QF16"
damage shape "need"
damage twice "twice|overlaps"
damage header "no JSON"
damage nan "element [0-9]+ is not finite"
damage inf "is not finite"
damage scale "is no scale" --packed
damage code "code of 3" --packed
fresh hf $model
size=$(wc -c <hf/model.safetensors)
cp hf/model.safetensors whole
for n in 0 7 8 100 $((size / 2)) $((size - 1)); do
    head -c $n whole >hf/model.safetensors
    exits "cut off at byte $n of $size" 1 "cut off|too short|no tensor" "$convert" hf -o no.gguf
done
{ cat whole; echo; } >hf/model.safetensors
exits "a byte too many" 1 "1 bytes at the end" "$convert" hf -o no.gguf
rm hf/model.safetensors
exits "no weights" 1 "neither model.safetensors nor" "$convert" hf -o no.gguf
fresh hf $model --shards 3
mv hf/model-00002-of-00003.safetensors second
exits "a missing file" 1 "model-00002-of-00003" "$convert" hf -o no.gguf
cp hf/model-00001-of-00003.safetensors hf/model-00002-of-00003.safetensors
exits "the same file twice" 1 "twice" "$convert" hf -o no.gguf
mv second hf/model-00002-of-00003.safetensors
sed 's|model-00002|../hf/model-00002|' hf/model.safetensors.index.json >t && mv t hf/model.safetensors.index.json
exits "a file outside of the folder" 1 "outside" "$convert" hf -o no.gguf
[ ! -e no.gguf ] && ok "none of them left a file" || not_ok "none of them left a file"

# ------------------------------------------------------------------------------------------------- the result
fresh hf $model --packed
echo old >there.gguf
exits "an existing file" 1 "exists; --force" "$convert" hf -o there.gguf
equal "... is left alone" "$(cat there.gguf)" old
exits "a folder that is not there" 1 "nosuch" "$convert" hf -o nosuch/x.gguf
exits "a full disk" 1 "cannot write" bash -c 'ulimit -f 200; exec "$0" hf -o there.gguf --force' "$convert"
equal "... leaves the old file" "$(cat there.gguf)" old
equal "nothing half-written stays" "$(ls | grep -c 'tmp-')" 0
holds "--force" "$convert" hf -o there.gguf --force --name "my model"
says "... and a name" there.gguf "general.name +str my model$"

finish test_convert
