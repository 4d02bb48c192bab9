#!/usr/bin/env bash
# test_compat.sh: the programs by the names that llama.cpp's have (make compat), driven as the wrappers around
# bitnet.cpp drive those: their command lines, what they read from stdout, the files that they expect.
#
#     BUILD=build tests/test_compat.sh
#
# Prints one line for each check, and at the end "test_compat: N passed, N failed, N skipped"; exits 1 if one failed.
. "$(dirname "$0")/check.bash"

bin=$build/bin
built generate bench perplexity quantize embed convert synth make_hf inspect logits tokenize bin/llama-cli
for twin in cli:generate cli-bitnet:generate bench:bench perplexity:perplexity quantize:quantize embedding:embed; do
    link=llama-${twin%%:*}
    equal "build/bin/$link is a link to build/${twin#*:}" "$(readlink "$bin/$link")" "../${twin#*:}"
done
if [ -x "$build/server" ]; then
    holds "build/bin/llama-server is there" test -x "$bin/llama-server"
    holds "build/bin/llama-server-bitnet is there" test -x "$bin/llama-server-bitnet"
else
    skip "llama-server: no server in this build"
fi
unset BITNET_VERBOSE MAKEFLAGS MAKELEVEL
stories=$root/examples/stories.gguf
python=$(command -v python3 || true)

# ---------------------------------------------------------------------------------------------------- llama-cli
# What run_inference.py calls. stdin is a pipe that is never written and never closed.
cli() { timeout "${LIMIT_S:-60}" "$bin/llama-cli" "$@" <&4 >out.txt 2>err.txt; }
mkfifo never
exec 4<>never
story() { cli -m "$stories" -p "Once upon a time" -n 40 -t 2 -c 2048 --temp 0.8 -ngl 0 -b 1 -s 7 "$@"; }
holds "run_inference.py's flags, stdin open for ever: exit 0" story
cp out.txt story.txt
equal "... the prompt first" "$(head -c 16 story.txt)" "Once upon a time"
between "... and text" "$(wc -c <story.txt)" 60 1000
equal "... that of generate" "$(tail -c +17 story.txt)" \
    "$("$build/generate" -m "$stories" -p "Once upon a time" -n 40 --temp 0.8 -s 7 2>/dev/null)"
holds "as llama-cli-bitnet" "$bin/llama-cli-bitnet" -m "$stories" -p "Once upon a time" -n 40 -s 7
"$bin/llama-cli-bitnet" -m "$stories" -p "Once upon a time" -n 40 -s 7 2>/dev/null >out.txt
holds "... prints the same" cmp out.txt story.txt
# same_story NAME FLAG...: these flags are hints, or without effect.
same_story() {
    local name=$1
    shift
    story "$@"
    equal "$name: exit 0" $? 0
    holds "... the same text" cmp out.txt story.txt
}
same_story "-temp" -temp 0.8
same_story "-t 8 on few cores" -t 8
same_story "-c above the training context" -c 100000
matches "... which is told" "$(cat err.txt)" "-c 100000: the model was trained for 256"
same_story "-b 2" -b 2
same_story "-ngl 99" -ngl 99
same_story "--stream" --stream
same_story "--simple-io and others" --simple-io --color --no-warmup --log-disable -fa on -ub 64
same_story "--mlock --no-mmap" --mlock --no-mmap
same_story "--color off" --color off
exits "--color=blue" 2 "'blue' is not on" "$bin/llama-cli" -m "$stories" -p x --color=blue
story --no-display-prompt
equal "--no-display-prompt: the text alone" "$(cat out.txt)" "$(tail -c +17 story.txt)"
printf 'Once upon a time\n' >prompt.txt
cli -m "$stories" -f prompt.txt -n 40 --seed 7 -e
holds "-f FILE --seed -e" cmp out.txt story.txt
cli -m "$stories" -p "Once upon a time" -n 40 -s 7 --top-k 1 --top-p 0.9 --min-p 0.1 --repeat-penalty 1.1 \
    --repeat-last-n 32
equal "--top-k --top-p --min-p --repeat-penalty --repeat-last-n: exit 0" $? 0
cli -m "$stories" -p "Once upon a time" -n 100 --temp 0 --ignore-eos -r friend --reverse-prompt named
equal "-r, --reverse-prompt: the text ends before it" "$(grep -c 'named\|friend' out.txt)" 0
cli -m "$stories" -p "Tell me a story about a fox." -st -n 30 --temp 0 -sys "Be brief."
equal "-st -sys -p: exit 0, with stdin open" $? 0
between "... an answer" "$(wc -c <out.txt)" 20 1000
cli -h
equal "-h: exit 0" $? 0
matches "... lists what is accepted without effect" "$(cat out.txt)" "Accepted without effect"
cli --version
equal "--version: exit 0" $? 0
matches "... by this name" "$(cat out.txt)" "^llama-cli .*[0-9]+\.[0-9]+"
exits "an unknown flag names the nearest" 2 "llama-cli: .*--temperture.*nearest is --temp" \
    "$bin/llama-cli" -m "$stories" --temperture 1
exits "... another" 2 "nearest is --ctx-size" "$bin/llama-cli" -m "$stories" --ctxsize 1
exits "no such model: exit 1" 1 "nosuch.gguf" "$bin/llama-cli" -m nosuch.gguf -p x

# A conversation, and only when it is asked for.
printf 'Tell me a story about a fox.\nWhat is the name of the fox?\n' >lines.txt
"$bin/llama-cli" -m "$stories" -cnv -p "You are a helpful assistant" -n 30 --temp 0 <lines.txt >talk.txt 2>err.txt
equal "-cnv -p SYSTEM, messages from a pipe: exit 0" $? 0
between "... two answers" "$(wc -l <talk.txt)" 2 10
matches "... without the prompt" "$(head -1 talk.txt)" "^[^Y]"
exec 5> >(timeout 60 "$bin/llama-cli" -m "$stories" -cnv -n 20 --temp 0 >live.txt 2>/dev/null; echo $? >live.status)
echo "Tell me a story about a fox." >&5
for _ in $(seq 100); do [ -s live.txt ] && [ "$(tail -c 1 live.txt | od -An -tx1)" = " 0a" ] && break; sleep 0.05; done
between "-cnv over a pipe: the answer comes while the pipe stays open" "$(wc -c <live.txt)" 10 1000
exec 5>&-
for _ in $(seq 100); do [ -s live.status ] && break; sleep 0.05; done
equal "... and when it is closed, exit 0" "$(cat live.status)" 0

# A token at a time, while the program still runs; what a slow, large model does, a small one does on plain kernels.
"$build/synth" --seed 3 --ctx 4096 -o long.gguf >/dev/null 2>&1
: >live.txt
"$bin/llama-cli" -m long.gguf -p "Once" --ignore-eos -n -1 --kernels scalar -t 1 -s 1 <&4 >live.txt 2>/dev/null &
pid=$!
for _ in $(seq 200); do [ "$(wc -c <live.txt)" -gt 30 ] && break; sleep 0.02; done
early=$(wc -c <live.txt)
if kill -0 $pid 2>/dev/null; then between "stdout is flushed while it generates" "$early" 31 4000
else skip "stdout is flushed while it generates: too fast to see"; fi
kill $pid 2>/dev/null
wait $pid 2>/dev/null

# A reader that hangs up ends the program at once.
start=$SECONDS
{
    timeout 60 "$bin/llama-cli" -m long.gguf -p "Once" --ignore-eos -n -1 --kernels scalar -s 1 <&4 2>err.txt
    echo $? >status.txt
} | head -c 20 >/dev/null
equal "a reader that hangs up: exit 0" "$(cat status.txt)" 0
between "... at once" $((SECONDS - start)) 0 20

# Nobody reads stderr: what is written there must fit a pipe.
BITNET_VERBOSE=1 cli -m long.gguf -p "Once" --ignore-eos -n -1 --temp 2 -s 1
equal "a whole context, verbose: exit 0" $? 0
between "... stderr under 64 KiB" "$(wc -c <err.txt)" 1 65535
matches "... BITNET_VERBOSE=1 tells the kernels" "$(cat err.txt)" kernels
story
equal "without it, less" "$(grep -c "model memory" err.txt)" 0

# -------------------------------------------------------------------------------------------------- llama-bench
# row TEST: the line of the table for it, as scripts cut it.
row() { grep -E "\| +$1 \| +[0-9.]+ ± [0-9.]+ \|\$" out.txt | head -1; }
table() { timeout 60 "$bin/llama-bench" -m "$stories" "$@" <&4 >out.txt 2>err.txt; }
table -p 512 -n 128 -ngl 0 -b 1 -t 2 -r 2
equal "e2e_benchmark.py's flags: exit 0" $? 0
matches "... its columns" "$(head -1 out.txt)" \
    '^\| model +\| +size \| +params \| backend +\| threads \| n_batch \| +test \| +t/s \|$'
table -p 128 -n 0 -t 1,2,4 -ngl 0 -r 2
equal "-t 1,2,4 -n 0: exit 0" $? 0
matches "... columns" "$(head -1 out.txt)" '^\| model +\| +size \| +params \| backend +\| threads \| +test \| +t/s \|$'
matches "... a line below" "$(sed -n 2p out.txt)" '^\| -+ \| -+: \| -+: \| -+ \| -+: \| -+: \| -+: \|$'
equal "... a row for each number of threads" "$(grep -c "| *pp128 |" out.txt)" 3
equal "... none of generation" "$(grep -c "| *tg" out.txt)" 0
matches "... mean ± deviation, last" "$(row pp128)" "pp128"
table -p 0 -n 16 -r 2
matches "-p 0: generation alone" "$(row tg16)" "tg16"
table -r 1
matches "pp512 and tg128 where nothing is said" "$(row pp512) $(row tg128)" "pp512.*tg128"
table -p 16 -n 8 -r 2 -o json
if [ -n "$python" ]; then
    equal "-o json: an array with llama-bench's names" "$("$python" -c 'import json, sys
for test in json.load(sys.stdin):
    print(test["n_prompt"], test["n_gen"], test["avg_ts"] > 0 < test["stddev_ts"], len(test["samples_ts"]))' <out.txt)" \
        "16 0 True 2
0 8 True 2"
else
    skip "-o json: no python3"
fi
exits "an unknown flag" 2 "llama-bench: .*nearest is --repetitions" "$bin/llama-bench" -m "$stories" --repetition 1
matches "under its own name: the limits, too" \
    "$("$build/bench" -m "$stories" -p 8 -n 0 -r 1 --buffer 8 2>/dev/null)" "of read"

# --------------------------------------------------------------------------------------------- llama-perplexity
for _ in $(seq 40); do echo "Once upon a time there was a fox named Theo, who lived in the village."; done >text.txt
timeout 60 "$bin/llama-perplexity" -m "$stories" -f text.txt -t 2 -c 128 -ngl 0 <&4 >out.txt 2>err.txt
equal "llama-perplexity -m -f -t -c -ngl 0: exit 0" $? 0
matches "... PPL = x +/- y" "$(cat out.txt)" "^Final estimate: PPL = [0-9]+\.[0-9]+ \+/- [0-9]+\.[0-9]+$"
exits "... its name" 2 "^llama-perplexity: which text" "$bin/llama-perplexity" -m "$stories"

# ----------------------------------------------------------------------------------------------- llama-quantize
"$build/synth" --family bitnet-b1.58 --vocab 640 --head f32 -o i2s.gguf >/dev/null 2>&1
"$build/synth" --family bitnet-b1.58 --vocab 640 --head f32 --type f32 -o f32.gguf >/dev/null 2>&1
"$build/synth" --family bitnet-b1.58 --vocab 640 --head f16 -o want.gguf >/dev/null 2>&1
holds "llama-quantize IN OUT I2_S 1" "$bin/llama-quantize" f32.gguf out.gguf I2_S 1
holds "... the same weights" "$build/make_hf" --compare i2s.gguf out.gguf
: >out.gguf
holds "llama-quantize --token-embedding-type f16 IN OUT I2_S 1 1, over an old file" \
    "$bin/llama-quantize" --token-embedding-type f16 f32.gguf out.gguf I2_S 1 1
holds "... the same weights, the embedding in f16" "$build/make_hf" --compare want.gguf out.gguf
holds "--token-embedding-type Q6_K" "$bin/llama-quantize" --token-embedding-type Q6_K i2s.gguf out.gguf I2_S 1 1
holds "... which llama-cli runs" "$bin/llama-cli" -m out.gguf -p x -n 2
exits "a type that embeddings don't have: exit 2" 2 "q3_k" \
    "$bin/llama-quantize" --token-embedding-type Q3_K i2s.gguf no.gguf I2_S 1 1
exits "quantize by its own name replaces nothing" 1 "force" "$build/quantize" i2s.gguf out.gguf I2_S

# ---------------------------------------------------------------------------------------------- llama-embedding
embed() { timeout 60 "$bin/llama-embedding" "$@" <&4 2>err.txt; }
embed -m "$stories" -p "A fox had a kite." --embd-normalize 2 --embd-output-format array >out.txt
equal "llama-embedding, stdin open for ever: exit 0" $? 0
matches "... [[...]] on a line" "$(cat out.txt)" '^\[\[-?[0-9.]+(e-?[0-9]+)?(,-?[0-9.]+(e-?[0-9]+)?){255}\]\]$'
embed -m "$stories" -p 'A fox had a kite.\nA robin.' --embd-output-format array >two.txt
equal "... a text on each line: the first is the same" "$(sed 's/\],\[.*/]]/' two.txt)" "$(cat out.txt)"
equal "... two of them" "$(grep -o '],\[' two.txt | wc -l | tr -d ' ')" 1
printf 'A fox had a kite.\nA robin.\n' >two-lines.txt
embed -m "$stories" -f two-lines.txt --embd-output-format array >out.txt
holds "... -f FILE, without its last newline" cmp out.txt two.txt
embed -m "$stories" -p 'A fox had a kite.<sep>A robin.' --embd-separator '<sep>' --embd-output-format array >out.txt
holds "... --embd-separator" cmp out.txt two.txt
embed -m "$stories" -p 'A fox had a kite.\nA robin.' --pooling mean -ngl 0 -c 512 -t 1 --kernels scalar \
    --embd-output-format array >out.txt
holds "... one thread, plain kernels: the same digits" cmp out.txt two.txt
ids=$(printf 'A robin.' | "$build/tokenize" "$stories" --ids | tr ' ' ,)
if [ -n "$python" ]; then
    embed -m "$stories" -p 'A fox had a kite.\nA robin.' --embd-output-format json >out.json
    equal "... json: OpenAI's answer, with the same vectors of length 1" "$("$python" -c 'import json, sys
a, b = json.load(open("out.json"))["data"], json.load(open("two.txt"))
print([x["index"] for x in a], [x["embedding"] for x in a] == b, [round(sum(v * v for v in x), 5) for x in b])')" \
        "[0, 1] True [1.0, 1.0]"
    "$build/logits" "$stories" --tokens "$ids" --embed -o want.f32 2>/dev/null
    equal "... that of the engine, to the last bit" "$("$python" -c 'import json, struct
have = json.load(open("two.txt"))[1]
print(struct.pack("<%df" % len(have), *have) == open("want.f32", "rb").read())')" True
else
    skip "llama-embedding: 2 checks of numbers: no python3"
fi
matches "... without a format, for a person" "$(embed -m "$stories" -p x)" "^embedding 0: -?[0-9]"
exits "... another pooling" 1 "mean" "$bin/llama-embedding" -m "$stories" -p x --pooling last
exits "... another norm" 2 "embd-normalize" "$bin/llama-embedding" -m "$stories" -p x --embd-normalize 1
exits "... another format" 2 "yaml" "$bin/llama-embedding" -m "$stories" -p x --embd-output-format yaml
exits "... no text" 2 "one of -p and -f" "$bin/llama-embedding" -m "$stories"
exits "... a text too long" 1 "text 2 has [0-9]+ tokens.* 256" \
    "$bin/llama-embedding" -m "$stories" -p "$(printf 'x\\n'; printf 'word %.0s' $(seq 400))"
exits "... no such model" 1 "nosuch" "$bin/llama-embedding" -m nosuch.gguf -p x
exits "... no such file" 1 "nosuch" "$bin/llama-embedding" -m "$stories" -f nosuch.txt

# ------------------------------------------------------------------------------- setup_env.py and its converter
# A checkout with these programs, whose Makefile only says that it was called: one that builds would replace them.
if [ -z "$python" ]; then
    skip "setup_env.py: no python3"
    finish test_compat
fi
mkdir -p checkout/examples checkout/models
cp -R "$root/examples/compat" checkout/examples/
ln -s "$root/bitnet.h" checkout/bitnet.h
ln -s "$build" checkout/build
printf 'compat:\n\t@echo built >built.txt\n' >checkout/Makefile
cd checkout || exit 1
setup() { "$python" -B examples/compat/setup_env.py "$@" >out.txt 2>err.txt </dev/null; }
fresh() { rm -rf "$1"; mkdir -p "$1"; shift; "$build/make_hf" "$@"; }
exits "setup_env.py without a model: exit 1, and how to get it" 1 \
    "huggingface-cli download microsoft/BitNet-b1.58-2B-4T --local-dir models/BitNet-b1.58-2B-4T" \
    "$python" -B examples/compat/setup_env.py -hr microsoft/BitNet-b1.58-2B-4T
exits "... a type that there is not" 2 "invalid choice" "$python" -B examples/compat/setup_env.py -q q4_0
fresh models/BitNet-b1.58-2B-4T ../want.gguf models/BitNet-b1.58-2B-4T --packed
model=models/BitNet-b1.58-2B-4T/ggml-model-i2_s.gguf
holds "setup_env.py --hf-repo microsoft/BitNet-b1.58-2B-4T --quant-type i2_s" \
    setup --hf-repo microsoft/BitNet-b1.58-2B-4T --quant-type i2_s
holds "... builds" test -s built.txt
holds "... logs" test -s logs/convert.log
holds "... writes $model, with the folder's weights" "$build/make_hf" --compare ../want.gguf $model
cp $model ../before.gguf
: >models/BitNet-b1.58-2B-4T/config.json
holds "setup_env.py -md FOLDER -q i2_s --quant-embd -p, the file being there" \
    setup -md models/BitNet-b1.58-2B-4T -q i2_s --quant-embd -p -ld other-logs
holds "... does not touch it" cmp $model ../before.gguf
rm $model
exits "a folder that can't be converted: exit 1 and why" 1 "config.json" \
    "$python" -B examples/compat/setup_env.py -md models/BitNet-b1.58-2B-4T
holds "... no file" test ! -e $model
fresh models/other ../want.gguf models/other --packed
: >models/other/ggml-model-i2_s.gguf
ln -s examples/compat/setup_env.py setup_env.py
holds "linked to where bitnet.cpp has it, over an empty file" "$python" -B setup_env.py -md models/other
holds "... the same weights" "$build/make_hf" --compare ../want.gguf models/other/ggml-model-i2_s.gguf
mkdir -p utils
cp examples/compat/utils/*.py utils/
convert() { "$python" -B utils/convert-hf-to-gguf-bitnet.py "$@" >out.txt 2>err.txt </dev/null; }
: >models/other/ggml-model-f32.gguf
holds "copied there, over an empty file: utils/convert-hf-to-gguf-bitnet.py FOLDER --outtype f32" convert models/other --outtype f32
holds "... then llama-quantize, as bitnet.cpp's own script does it" \
    build/bin/llama-quantize --token-embedding-type f16 models/other/ggml-model-f32.gguf two-steps.gguf I2_S 1 1
holds "... the same weights" "$build/make_hf" --compare ../want.gguf two-steps.gguf
holds "... --outfile --outtype i2_s --quant-embd --model-name" \
    convert models/other --outfile one.gguf --outtype i2_s --quant-embd --model-name Rhino
holds "... the same weights" "$build/make_hf" --compare ../want.gguf one.gguf
matches "... the name" "$("$build/inspect" one.gguf)" '"Rhino"'
exits "... no such folder: exit 1" 1 "nosuch" "$python" -B utils/convert-hf-to-gguf-bitnet.py nosuch
exits "... no such type: exit 2" 2 "iq9" "$python" -B utils/convert-hf-to-gguf-bitnet.py models/other --outtype iq9
holds "llama-cli runs what came out" build/bin/llama-cli -m models/other/ggml-model-i2_s.gguf -p x -n 2
printf 'compat:\n\t@echo no compiler; false\n' >Makefile
exits "a build that fails: exit 1 and why" 1 "no compiler" "$python" -B setup_env.py -md models/other
cd ..

finish test_compat
