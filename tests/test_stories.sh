#!/bin/sh
# test_stories.sh: the bundled model keeps its world straight, answers questions, and is as good as its card says.

cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
model=examples/stories.gguf
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0

check() { if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL $1"; fi; }

for tool in stories storygen perplexity generate chat inspect; do
    [ -x "$BUILD/$tool" ] || { echo "FAIL $BUILD/$tool is not built"; exit 1; }
done

size=$(wc -c < $model)
[ "$size" -ge 1000000 ] && [ "$size" -le 5000000 ]
check "$model has 1 to 5 MB: $size bytes" $?

# Same seeds, same bits: the card's figures must come out exactly, on every machine.
"$BUILD/stories" -m $model --stories 200 --questions 200 --seed 1 > "$scratch/stories.txt" 2>&1
check "stories and questions: $(cat "$scratch/stories.txt")" $?
stories=$(sed -n 's/^stories: \([0-9]*\) of 200.*/\1/p' "$scratch/stories.txt")
answers=$(sed -n 's/^questions: \([0-9]*\) of 200.*/\1/p' "$scratch/stories.txt")
grep -q "^| consistent stories | $stories of 200 |" examples/stories.md
check "the model card states the consistent stories: $stories" $?
grep -q "^| right answers | $answers of 200 |" examples/stories.md
check "the model card states the right answers: $answers" $?

# The held-out text of the card, and the perplexity it states, to the last digit, by two kernel sets and thread counts.
"$BUILD/storygen" -n 1000 --seed 2 --held-out --only story -o "$scratch/held-out.txt" 2> /dev/null
check "held-out stories" $?
"$BUILD/perplexity" -m $model -f "$scratch/held-out.txt" --documents > "$scratch/ppl.txt" 2> "$scratch/err.txt"
check "perplexity: $(cat "$scratch/err.txt")" $?
stated=$(sed -n 's/^| perplexity of held-out stories | \([0-9.]*\) |.*/\1/p' examples/stories.md)
grep -q "PPL = $stated " "$scratch/ppl.txt"
check "the model card states the perplexity: '$stated', measured: $(cat "$scratch/ppl.txt")" $?
"$BUILD/storygen" -n 40 --seed 3 --held-out --only story -o "$scratch/few.txt" 2> /dev/null
for kernels in $("$BUILD/perplexity" --list-kernels); do
    "$BUILD/perplexity" -m $model -f "$scratch/few.txt" --documents --kernels "$kernels" -t 2 > "$scratch/$kernels.ppl" 2> /dev/null
    cmp -s "$scratch/$kernels.ppl" "$scratch/scalar.ppl"
    check "perplexity with $kernels kernels: $(cat "$scratch/$kernels.ppl")" $?
done

# A story as a newcomer sees it, and a conversation.
"$BUILD/generate" -m $model -p "Once upon a time" --display-prompt -n 200 --temp 0 > "$scratch/story.txt" 2> "$scratch/speed.txt"
check "generate" $?
"$BUILD/storygen" --check "$scratch/story.txt" > "$scratch/verdict.txt"
grep -q "^consistent 1 of 1" "$scratch/verdict.txt"
check "the story of temperature 0: $(cat "$scratch/verdict.txt" "$scratch/story.txt")" $?
grep -q "tokens/s\|tokens per second" "$scratch/speed.txt"
check "its speed is reported: $(cat "$scratch/speed.txt")" $?
printf 'Tell me a story about a fox named Ruby.\nWhat is the name of the fox?\n' | "$BUILD/chat" -m $model --temp 0 > "$scratch/chat.txt" 2> /dev/null
grep -q "fox" "$scratch/chat.txt" && tail -n 3 "$scratch/chat.txt" | grep -q "Ruby"
check "chat: $(cat "$scratch/chat.txt")" $?

echo "test_stories: $passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
