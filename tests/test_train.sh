#!/usr/bin/env bash
# test_train.sh: the trainer, as a user would run it: gradients, learning, the model file, stop and resume, bad input.
#
#     BUILD=build tests/test_train.sh
#
# Everything lives in a temporary folder. Prints one line for each check, and at the end "test_train: N passed, N failed,
# N skipped". Takes about two minutes on two cores; the longest part is one training of a small network.
. "$(dirname "$0")/check.bash"
LIMIT_S=120

built train storygen perplexity inspect generate
train=$build/train
small="--layers 2 --embd 128 --heads 4 --kv-heads 2 --ff 256 --vocab 512 --ctx 128 --batch 8 --lr 0.004 --quiet"

"$build/storygen" -n 3000 --seed 5 -o stories.txt 2>/dev/null || not_ok "storygen"
"$build/storygen" -n 60 --seed 6 --held-out --only story -o held.txt 2>/dev/null || not_ok "storygen --held-out"

# ------------------------------------------------------------------------------------------------ the derivatives
if out=$("$train" --check-gradients); then ok "gradients agree with finite differences"; else not_ok "gradients" "$(grep WRONG <<<"$out")"; fi
if [ "$(grep -c 'relative error' <<<"$out")" = 48 ]; then ok "of every tensor, with and without rounding"; else not_ok "number of tensors checked"; fi

# --------------------------------------------------------------------------------------------------------- learning
# Seed 1, about a minute of one core. An untrained network is at ln(512) = 6.24; measured: 3.58 after 300 steps, 2.14 at the end.
"$train" --data stories.txt --val held.txt -o a.gguf $small --steps 1200 --every 300 >a.txt 2>a.err || not_ok "training" "$(cat a.err)"
first=$(sed -n 's/.*step 300 of.*validation loss \([0-9.]*\).*/\1/p' a.err)
last=$(sed -n 's/^validation: .*loss \([0-9.]*\), perp.*/\1/p' a.txt)
below "validation loss after 300 steps" "$first" 4.0
below "validation loss after 1200 steps" "$last" 2.4
holds "the model is one that bitnet.h runs" grep -q 'yes\|runs' <("$build/inspect" a.gguf)
if "$build/generate" -m a.gguf -p "Once upon a time" -n 20 --temp 0 >text.txt 2>/dev/null && [ -s text.txt ]; then ok "it generates text"; else not_ok "generate"; fi

# The trainer's own figure and the engine's: same tokens, same network, to the rounding of the arithmetic.
own=$(sed -n 's/^validation: .*perplexity \([0-9.]*\)$/\1/p' a.txt)
engine=$("$build/perplexity" -m a.gguf -f held.txt --documents -c 128 2>/dev/null | sed -n 's/.*PPL = \([0-9.]*\).*/\1/p')
if awk -v a="$own" -v b="$engine" 'BEGIN { d = a / b - 1; exit !(a > 1 && b > 1 && d * d < 0.01 * 0.01) }'; then
    ok "trainer and engine measure the same perplexity ($own, $engine)"
else not_ok "perplexity" "trainer $own, engine $engine"; fi

# ------------------------------------------------------------------------------------------- the same result again
short="$small --steps 40 --every 15"
"$train" --data stories.txt --val held.txt -o one.gguf $short -t 1 >/dev/null 2>&1
"$train" --data stories.txt --val held.txt -o three.gguf $short -t 3 >/dev/null 2>&1
holds "1 and 3 threads: the same model" cmp one.gguf three.gguf
# With AMX the bits are others, but the same again; gradients of bfloat16 are coarser, and still gradients.
if "$train" --amx --check-gradients >gradients.txt 2>amx.err; then
    ok "--amx: gradients agree with finite differences"
    "$train" --data stories.txt --val held.txt -o amx1.gguf $short --amx -t 1 >amx1.txt 2>&1
    "$train" --data stories.txt --val held.txt -o amx3.gguf $short --amx -t 3 >/dev/null 2>&1
    holds "--amx, 1 and 3 threads: the same model" cmp amx1.gguf amx3.gguf
    "$train" --data stories.txt --val held.txt -o noamx.gguf $short -t 1 >noamx.txt 2>&1
    loss() { sed -n 's/^validation: .*loss \([0-9.]*\), perp.*/\1/p' "$1"; }
    if awk -v a="$(loss amx1.txt)" -v b="$(loss noamx.txt)" 'BEGIN { d = a - b; exit !(a > 0 && b > 0 && d * d < 0.05 * 0.05) }'
    then ok "--amx learns as well ($(loss amx1.txt), $(loss noamx.txt))"; else not_ok "--amx: loss $(loss amx1.txt), without $(loss noamx.txt)"; fi
elif grep -q "no AMX" amx.err; then skip "--amx: $(cat amx.err)"
else not_ok "--amx" "$(cat amx.err; grep WRONG gradients.txt)"; fi
holds "1 and 3 threads: the same checkpoint" cmp one.gguf.ckpt three.gguf.ckpt
"$train" --data stories.txt --val held.txt -o two.gguf $short --seed 2 >/dev/null 2>&1
if cmp -s one.gguf two.gguf; then not_ok "another seed, another model"; else ok "another seed, another model"; fi

# Stopped by Ctrl-C somewhere, then resumed: as if it had never stopped.
"$train" --data stories.txt --val held.txt -o stopped.gguf $short >/dev/null 2>stop.err & pid=$!
for i in $(seq 100); do grep -q "step 15 of" stop.err 2>/dev/null && break; sleep 0.1; done
kill -INT $pid
wait $pid
status=$?
if [ $status = 130 ]; then ok "Ctrl-C: exit 130"; else not_ok "Ctrl-C: exit $status" "$(cat stop.err)"; fi
holds "Ctrl-C: says how to go on" grep -q -- "--resume" stop.err
if "$train" --data stories.txt --val held.txt -o stopped.gguf --resume --quiet >/dev/null 2>resume.err; then ok "--resume"; else not_ok "--resume" "$(cat resume.err)"; fi
holds "stopped and resumed: the same model" cmp one.gguf stopped.gguf
holds "stopped and resumed: the same checkpoint" cmp one.gguf.ckpt stopped.gguf.ckpt

# Killed at any moment: the files are old or new, never half.
for i in 1 2 3 4 5; do
    cp one.gguf.ckpt killed.gguf.ckpt
    cp one.gguf killed.gguf
    "$train" --from killed.gguf.ckpt --data stories.txt --val held.txt -o killed.gguf --steps 40 --every 1 --quiet >/dev/null 2>&1 & pid=$!
    sleep "1.$i"
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    if "$build/generate" -m killed.gguf -p Once -n 1 >/dev/null 2>&1 && "$train" --from killed.gguf.ckpt --data stories.txt --val held.txt -o after.gguf --steps 0 --quiet >/dev/null 2>&1
    then ok "killed, round $i: model and checkpoint are whole"; else not_ok "killed, round $i"; fi
done

# --------------------------------------------------------------------------------------------------- going on
"$build/storygen" -n 400 --seed 9 -o other.txt 2>/dev/null
if "$train" --from a.gguf.ckpt --data other.txt --val held.txt -o tuned.gguf --steps 20 --lr 0.0005 --quiet >tuned.txt 2>tuned.err; then ok "--from"; else not_ok "--from" "$(cat tuned.err)"; fi
below "fine-tuning starts where the checkpoint was" "$(sed -n 's/^validation: .*loss \([0-9.]*\), perp.*/\1/p' tuned.txt)" 2.5
if "$train" --data stories.txt --val held.txt -o plain.gguf $short --no-quant >plain.txt 2>plain.err && [ ! -e plain.gguf ] && grep -q perplexity plain.txt
then ok "--no-quant measures and writes no model"; else not_ok "--no-quant" "$(cat plain.err)"; fi

# -------------------------------------------------------------------------------------------------------- bad input
: >empty.txt
printf x >one.txt
head -c 5000 /dev/urandom >binary.txt
printf 'text with a \000 in it' >nul.txt
exits "no arguments" 2 "data" "$train"
exits "no output" 2 "-o FILE" "$train" --data stories.txt
exits "no such file" 1 "nosuch" "$train" --data nosuch.txt -o x.gguf
exits "a folder" 1 "directory" "$train" --data . -o x.gguf
exits "empty text" 1 "empty" "$train" --data empty.txt -o x.gguf
exits "one character" 1 "too few" "$train" --data one.txt -o x.gguf
exits "binary file" 1 "not UTF-8" "$train" --data binary.txt -o x.gguf
exits "NUL in the text" 1 "byte 12" "$train" --data nul.txt -o x.gguf
exits "width that I2_S can not hold" 2 "128" "$train" --data stories.txt -o x.gguf --embd 200
exits "heads that do not divide" 2 "multiple" "$train" --data stories.txt -o x.gguf --heads 4 --kv-heads 3
exits "folder that is not there" 1 "No such file" "$train" --data other.txt -o nowhere/x.gguf $small --steps 1
exits "forgotten --resume" 1 "exists.*--resume" "$train" --data stories.txt -o one.gguf
exits "the text as output" 2 "overwritten" "$train" --data other.txt -o other.txt
exits "a device as output" 1 "regular" "$train" --data other.txt -o /dev/null --checkpoint d.ckpt
exits "resume without a checkpoint" 1 "ckpt" "$train" --data stories.txt -o fresh.gguf --resume
exits "resume with another text" 1 "another text" "$train" --data other.txt -o one.gguf --resume
if [ -e x.gguf ]; then not_ok "a failed training left a model"; else ok "a failed training leaves no model"; fi

# A book without documents: its last part is held out, whatever its length.
tr -d '<|>' <other.txt >book.txt
if "$train" --data book.txt -o book.gguf $small --steps 2 >book.out 2>book.err && grep -q 'perplexity [0-9]' book.out; then ok "a text that is one document"; else not_ok "a text that is one document" "$(cat book.err)"; fi

head -c 1000 one.gguf.ckpt >cut.ckpt
exits "cut checkpoint" 1 "damaged|not a checkpoint" "$train" --from cut.ckpt --data other.txt -o x.gguf
cp one.gguf.ckpt flipped.ckpt
printf '\377' | dd of=flipped.ckpt bs=1 seek=70000 conv=notrunc 2>/dev/null
exits "checkpoint with a wrong byte" 1 "damaged" "$train" --from flipped.ckpt --data other.txt -o x.gguf
exits "model instead of a checkpoint" 1 "not a checkpoint" "$train" --from one.gguf --data other.txt -o x.gguf

# A disk that is full: files may grow to 64 KiB here. The old model stays, and nothing else is left.
cp one.gguf full.gguf
rm -f full.gguf.ckpt
(trap '' XFSZ; ulimit -f 64; exec "$train" --data other.txt --val held.txt -o full.gguf $small --steps 2) >/dev/null 2>full.err
status=$?
if [ $status = 1 ] && grep -Eqi "large|space" full.err; then ok "full disk: exit 1 and the reason"; else not_ok "full disk: exit $status" "$(cat full.err)"; fi
holds "full disk: the old model is whole" cmp one.gguf full.gguf
if ls full.gguf.* 2>/dev/null | grep -q .; then not_ok "full disk: left behind $(ls full.gguf.*)"; else ok "full disk: nothing left behind"; fi

finish test_train
