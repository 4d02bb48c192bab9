#!/usr/bin/env bash
# test_stories.sh: the bundled model is as good as its card says, and tells stories and answers as a newcomer would see.
#
#     BUILD=build tests/test_stories.sh

. "$(dirname "$0")/check.bash"
built stories storygen perplexity generate chat
model=$root/examples/stories.gguf card=$root/examples/stories.md

between "examples/stories.gguf has 1 to 5 MB" "$(wc -c <"$model")" 1000000 5000000

# Same seeds, same bits: the card's figures must come out exactly, on every machine.
holds "180 of 200 stories are consistent, 160 of 200 answers right" bash -c \
    '"$0" -m "$1" --stories 200 --questions 200 --min-stories 180 --min-answers 160 --seed 1 >stories.txt' "$build/stories" "$model"
stories=$(sed -n 's/^stories: \([0-9]*\) of 200.*/\1/p' stories.txt)
answers=$(sed -n 's/^questions: \([0-9]*\) of 200.*/\1/p' stories.txt)
holds "the card states the consistent stories: $stories" grep -q "^| consistent stories | $stories of 200 |" "$card"
holds "the card states the right answers: $answers" grep -q "^| right answers | $answers of 200 |" "$card"

# The held-out text of the card, and the perplexity it states, to the last digit, by all kernel sets.
"$build/storygen" -n 1000 --seed 2 --held-out --only story -o held-out.txt 2>/dev/null
"$build/perplexity" -m "$model" -f held-out.txt --documents >ppl.txt 2>err.txt
stated=$(sed -n 's/^| perplexity of held-out stories | \([0-9.]*\) |.*/\1/p' "$card")
matches "the card states the perplexity" "$(cat ppl.txt err.txt)" "PPL = ${stated:-none} "
"$build/storygen" -n 40 --seed 3 --held-out --only story -o few.txt 2>/dev/null
for kernels in $("$build/perplexity" --list-kernels); do
    "$build/perplexity" -m "$model" -f few.txt --documents --kernels "$kernels" -t 2 >"$kernels.ppl" 2>/dev/null
    holds "perplexity with $kernels kernels" cmp "$kernels.ppl" scalar.ppl
done

# A story as a newcomer sees it, and a conversation.
"$build/generate" -m "$model" -p "Once upon a time" --display-prompt -n 200 --temp 0 >story.txt 2>speed.txt
"$build/storygen" --check story.txt >verdict.txt
matches "the story of temperature 0 is consistent" "$(cat verdict.txt story.txt)" '^consistent 1 of 1; parsed ([0-9]+) of \1 sentences$'
matches "... and ends" "$(cat story.txt)" '(The end\.|end of the story\.|happily ever after\.)$'
matches "its speed is reported" "$(cat speed.txt)" 'tokens/s'
printf 'Tell me a story about a rabbit named Lily.\nWhat is the name of the rabbit?\n' | "$build/chat" -m "$model" --temp 0 >chat.txt 2>/dev/null
matches "chat: a story about a rabbit" "$(cat chat.txt)" "rabbit"
matches "chat: and her name" "$(tail -n 3 chat.txt)" "^The rabbit was named Lily"

finish test_stories
