#!/bin/sh
# hello, generate and chat as people and scripts use them: texts, exit statuses, what goes to stdout and what to stderr,
# pipes that nobody closes, readers that hang up, Ctrl-C, seeds, saved conversations.
#
#     sh tests/test_programs.sh
#
# Environment: BUILD  directory of hello, generate, chat and synth (build)
#              MODEL  a model with a chat template, instead of one with random weights made by synth

cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
case $BUILD in /*) ;; *) BUILD=$PWD/$BUILD ;; esac
LC_ALL=C
export LC_ALL
unset BITNET_VERBOSE
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
passed=0
failed=0
skipped=0

hello=$BUILD/hello
generate=$BUILD/generate
chat=$BUILD/chat

# ------------------------------------------------------------------------------------------------- checking

# Nothing here may hang: every program gets 30 seconds, where timeout(1) exists.
if command -v timeout >/dev/null 2>&1; then limit="timeout 30"; else limit=; fi

skip() { skipped=$((skipped + 1)); echo "SKIP $1: $2"; }

# $1: what is claimed; the rest: a command that is true if it holds.
check()
{
    claim=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok $claim"
    else
        failed=$((failed + 1))
        echo "not ok $claim"
        echo "    check: $*"
        echo "    last command: $last (status $status)"
        echo "    stdout: $(head -c 300 "$dir/out")"
        echo "    stderr: $(head -c 600 "$dir/err")"
    fi
}

# Runs a command with stdin from /dev/null; leaves $status, and its output in $dir/out and $dir/err.
run() { run_input /dev/null "$@"; }

# The same with stdin from file $1.
run_input()
{
    input=$1
    shift
    last=$*
    $limit "$@" < "$input" > "$dir/out" 2> "$dir/err"
    status=$?
}

ended() { [ "$status" -eq "$1" ]; }
says() { grep -q -- "$1" "$dir/err"; }                    # on stderr
printed() { [ -s "$dir/out" ]; }
silent() { [ ! -s "$dir/out" ]; }                          # nothing on stdout
same() { cmp -s "$1" "$2"; }
differ() { ! cmp -s "$1" "$2"; }
keep() { cp "$dir/out" "$dir/$1"; }

# A mistake in the command line: status 2, a reason that names $2, no text. $1: what the mistake is.
mistake()
{
    what=$1 reason=$2
    shift 2
    run "$@"
    check "$what: exit status 2" ended 2
    check "$what: the reason names $reason" says "$reason"
    check "$what: nothing on stdout" silent
}

# Something that cannot be done: the same with status 1.
failure()
{
    what=$1 reason=$2
    shift 2
    run "$@"
    check "$what: exit status 1" ended 1
    check "$what: the reason names $reason" says "$reason"
    check "$what: nothing on stdout" silent
}

# Waits until file $1 is not empty, at most 10 seconds.
wait_for()
{
    tries=0
    while [ ! -s "$1" ] && [ $tries -lt 200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    [ -s "$1" ]
}

total()
{
    echo "programs: $passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ]
    exit
}

for program in hello generate chat; do
    if [ ! -x "$BUILD/$program" ]; then
        echo "not ok $BUILD/$program does not exist: make"
        failed=$((failed + 1))
    fi
done
model=${MODEL:-$dir/model.gguf}
if [ -z "${MODEL:-}" ] && ! "$BUILD/synth" --seed 1 --ctx 4096 -o "$model" > "$dir/err" 2>&1 < /dev/null; then
    echo "not ok synth makes a model: $(head -c 300 "$dir/err")"
    failed=$((failed + 1))
fi
[ "$failed" -eq 0 ] || total

# ---------------------------------------------------------------------------------------------------- hello

run "$hello"
check "hello without arguments: exit status 2" ended 2
check "hello without arguments: says how it is used" says "usage: hello MODEL"
run "$hello" a b c
check "hello with too many arguments: exit status 2" ended 2
failure "hello without its model" no-such-file "$hello" "$dir/no-such-file.gguf"
run "$hello" "$model" "Once upon a time"
check "hello: exit status 0" ended 0
check "hello: text on stdout" printed
check "hello: nothing on stderr" [ ! -s "$dir/err" ]
keep hello
run "$hello" "$model"
check "hello: its own prompt, the same text" same "$dir/out" "$dir/hello"

# ----------------------------------------------------------------------------------------- generate: the text

run "$generate" -m "$model" -p "Once upon a time" -n 100 --temp 0 --repeat-penalty 1
check "generate --temp 0 writes what hello writes" same "$dir/out" "$dir/hello"

story() { run "$generate" -m "$model" -p "Once upon a time" -n 40 --seed 7 "$@"; }
story
check "generate: exit status 0" ended 0
check "generate: text on stdout" printed
check "generate: the seed on stderr" says "seed 7"
check "generate: speed on stderr" says "generated [0-9]* tokens"
keep story
story
check "generate: same seed, same text" same "$dir/out" "$dir/story"
story -t 1
check "generate -t 1: same text" same "$dir/out" "$dir/story"
story -t 8
check "generate -t 8: same text" same "$dir/out" "$dir/story"
story -b 1
check "generate -b 1: same text" same "$dir/out" "$dir/story"
story --kernels scalar
check "generate --kernels scalar: same text" same "$dir/out" "$dir/story"
story --no-mmap
check "generate --no-mmap: same text" same "$dir/out" "$dir/story"
story -c 1000000
check "generate -c far above the training context: same text" same "$dir/out" "$dir/story"
check "generate -c far above the training context: says so" says "trained for"
story -ngl 0 --stream --simple-io -fa on -ub 512 --no-warmup
check "generate: flags without effect: same text" same "$dir/out" "$dir/story"
story --n_predict=40
check "generate: underscores and = in options" same "$dir/out" "$dir/story"
run "$generate" "$model" -p "Once upon a time" -n 40 -s 7
check "generate MODEL without -m" same "$dir/out" "$dir/story"
printf 'Once upon a time\n' > "$dir/prompt"
run "$generate" -m "$model" -f "$dir/prompt" -n 40 -s 7
check "generate -f FILE: as -p, without the last newline" same "$dir/out" "$dir/story"
run_input "$dir/prompt" "$generate" -m "$model" -f - -n 40 -s 7
check "generate -f -: the prompt from stdin" same "$dir/out" "$dir/story"
run "$generate" -m "$model" -p 'Once\x20upon a\x20time' -n 40 -s 7
check "generate -p: escapes are read" same "$dir/out" "$dir/story"
run "$generate" -m "$model" -p 'Once\x20upon a\x20time' -n 40 -s 7 --no-escape
check "generate --no-escape: they are not" differ "$dir/out" "$dir/story"

run "$generate" -m "$model" -p "Once upon a time" -n 40
keep random
seed=$(sed -n 's/.*seed \([0-9]*\)$/\1/p' "$dir/err")
run "$generate" -m "$model" -p "Once upon a time" -n 40 -s "$seed"
check "generate: the seed it chose brings the text back" same "$dir/out" "$dir/random"
run "$generate" -m "$model" -p "Once upon a time" -n 40
check "generate: another seed each time" differ "$dir/out" "$dir/random"

run "$generate" -m "$model" -p "Once upon a time" -n 0
check "generate -n 0: exit status 0" ended 0
check "generate -n 0: no text" silent
run "$generate" -m "$model" -p "" -n 5
check "generate with an empty prompt: exit status 0" ended 0
run "$generate" -m "$model" -n 5
check "generate without a prompt: exit status 0" ended 0
check "generate without a prompt: says so" says "no prompt"

# A word from inside the text must end it there.
word=$(tr -c 'a-zA-Z' '\n' < "$dir/hello" | awk 'length($0) > 3 && ++n == 4 { print; exit }')
if [ -n "$word" ]; then
    run "$generate" -m "$model" -p "Once upon a time" -n 100 --temp 0 -r "$word"
    text=$(cat "$dir/hello")
    check "generate -r: the text ends before the word" [ "$(cat "$dir/out")" = "${text%%"$word"*}" ]
else
    skip "generate -r" "the model's text has no words"
fi

run "$generate" -m "$model" -p "Once upon a time" -n 3 --temp 0 --logprobs 2
check "generate --logprobs: a line for each token" [ "$(grep -c '^ *[0-9][0-9]* "' "$dir/err")" -eq 3 ]
token=$(sed -n 's/^ *\([0-9][0-9]*\) ".*/\1/p' "$dir/err" | head -n 1)
run "$generate" -m "$model" -p "Once upon a time" -n 3 --temp 0 --logprobs 0 --logit-bias "$token-inf"
other=$(sed -n 's/^ *\([0-9][0-9]*\) ".*/\1/p' "$dir/err" | head -n 1)
check "generate --logit-bias: the forbidden token is not chosen" [ "${other:-none}" != "$token" ]

ln -s "$generate" "$dir/llama-cli"
run "$dir/llama-cli" -m "$model" -p 'Once upon\na time' -n 20 -s 7
check "llama-cli prints the prompt first" [ "$(head -c 16 "$dir/out")" = "Once upon
a time" ]
run "$dir/llama-cli" -m "$model" -p "Once upon a time" -n 40 -s 7 --no-display-prompt
check "llama-cli --no-display-prompt: the text alone" same "$dir/out" "$dir/story"

BITNET_VERBOSE=1
export BITNET_VERBOSE
story
unset BITNET_VERBOSE
check "BITNET_VERBOSE=1: same text" same "$dir/out" "$dir/story"
check "BITNET_VERBOSE=1: tells the kernels" says kernels

# --------------------------------------------------------------------------------------- generate: mistakes

mistake "generate --tmep" "--temp" "$generate" -m "$model" -p x --tmep 1
mistake "generate --thread" "--threads" "$generate" -m "$model" -p x --thread 1
mistake "generate -n without a value" "-n" "$generate" -m "$model" -p x -n
mistake "generate -n ten" "ten" "$generate" -m "$model" -p x -n ten
mistake "generate --top-p nan" "nan" "$generate" -m "$model" -p x --top-p nan
mistake "generate -s -5" "-5" "$generate" -m "$model" -p x -s -5
mistake "generate without a model" "-m" "$generate" -p x
mistake "generate -p and -f" "-f" "$generate" -m "$model" -p x -f "$dir/prompt"
mistake "generate --kernels nonsense" "nonsense" "$generate" -m "$model" -p x --kernels nonsense
mistake "generate --i2s-layout Q" "Q" "$generate" -m "$model" -p x --i2s-layout Q
mistake "generate --chat-template nonsense" "nonsense" "$generate" -m "$model" -p x --chat-template nonsense
mistake "generate --logit-bias 5" "logit-bias" "$generate" -m "$model" -p x --logit-bias 5
mistake "generate --logit-bias of no token" "vocabulary" "$generate" -m "$model" -p x --logit-bias 99999999+1
mistake "generate -r ''" "-r" "$generate" -m "$model" -p x -r ''
failure "generate without its model" "no-such-file" "$generate" -m "$dir/no-such-file.gguf" -p x
failure "generate with a model that is none" "prompt" "$generate" -m "$dir/prompt" -p x
failure "generate without its prompt file" "no-such-file" "$generate" -m "$model" -f "$dir/no-such-file"
failure "generate with a long prompt" "context holds 8" "$generate" -m "$model" -c 8 -n 4 -p \
    "one two three four five six seven eight nine ten eleven twelve"

run "$generate" --list-kernels
check "generate --list-kernels: exit status 0" ended 0
check "generate --list-kernels: scalar is there" grep -q -x scalar "$dir/out"
unusable=$(sed -n 's/ (not on this CPU)$//p' "$dir/err" | head -n 1)
if [ -n "$unusable" ]; then
    mistake "generate --kernels $unusable, not on this CPU" "$unusable" "$generate" -m "$model" -p x --kernels "$unusable"
else
    skip "--kernels of another CPU" "this CPU runs all kernel sets that were compiled in"
fi
run "$generate" --version
check "generate --version: exit status 0, on stdout" printed
run "$generate" -h
check "generate -h: exit status 0" ended 0
check "generate -h: on stdout" grep -q -- --top-k "$dir/out"

run "$generate" -m "$model" -p "Once upon a time" -c 24 --ignore-eos
check "generate until the context is full: exit status 0" ended 0
check "generate until the context is full: says so" says "context of 24 tokens is full"

# ------------------------------------------------------------------------------------------ generate: pipes

mkfifo "$dir/open"
exec 3<> "$dir/open"                                       # stdin that is never written nor closed
last="generate < open pipe"
$limit "$generate" -m "$model" -p "Once upon a time" -n 40 -s 7 <&3 > "$dir/out" 2> "$dir/err"
status=$?
check "generate with stdin open for ever: exit status 0" ended 0
check "generate with stdin open for ever: same text" same "$dir/out" "$dir/story"
exec 3>&-

last="generate | head -c 10"
{ $limit "$generate" -m "$model" -p "Once upon a time" -n 100000 --ignore-eos < /dev/null 2> "$dir/err"
  echo $? > "$dir/status"; } | head -c 10 > "$dir/out"
status=$(cat "$dir/status")
check "generate | head -c 10: exit status 0" ended 0
check "generate | head -c 10: ten bytes" [ "$(wc -c < "$dir/out")" -eq 10 ]
check "generate | head -c 10: quiet about it" [ "$(grep -c -i 'pipe\|cannot' "$dir/err")" -eq 0 ]

if [ -w /dev/full ]; then
    $limit "$generate" -m "$model" -p x -n 40 < /dev/null > /dev/full 2> "$dir/err"
    status=$?
    : > "$dir/out"
    check "generate > /dev/full: exit status 1" ended 1
    check "generate > /dev/full: says why" says "cannot write"
else
    skip "a full disk" "there is no /dev/full"
fi

# ----------------------------------------------------------------------------------------- generate: Ctrl-C

# A shell makes its background jobs ignore Ctrl-C; generate listens anyway.
: > "$dir/out"
last="generate, Ctrl-C"
"$generate" -m "$model" -p "Once upon a time" -n 1000000 --ignore-eos --kernels scalar -t 1 < /dev/null \
    > "$dir/out" 2> "$dir/err" &
pid=$!
wait_for "$dir/out"
kill -INT $pid 2>/dev/null
wait $pid
status=$?
if grep -q "context of [0-9]* tokens is full" "$dir/err"; then
    skip "generate: Ctrl-C" "the model is too fast: its context was full before"
else
    check "generate, Ctrl-C: exit status 130" ended 130
    check "generate, Ctrl-C: the text so far" printed
    check "generate, Ctrl-C: the speed is told" says "generated [0-9]* tokens"
fi

# ------------------------------------------------------------------------------------ generate: conversation

printf 'Hello there.\nAnd then?\n' > "$dir/lines"
run_input "$dir/lines" "$generate" -m "$model" -cnv -n 12 -s 7 --ignore-eos
check "generate -cnv: exit status 0 at the end of input" ended 0
check "generate -cnv: text" printed
keep both
run_input "$dir/lines" "$generate" -m "$model" -cnv -st -n 12 -s 7 --ignore-eos
check "generate -cnv -st: exit status 0" ended 0
keep first
check "generate -cnv -st: the first answer alone" [ "$(wc -c < "$dir/first")" -lt "$(wc -c < "$dir/both")" ]
run "$generate" -m "$model" -st -p "Hello there." -n 12 -s 7 --ignore-eos
check "generate -st -p: the same answer" same "$dir/out" "$dir/first"
run_input "$dir/lines" "$generate" -m "$model" -cnv -p "Be brief." -n 12 -s 7 --ignore-eos
keep system
run_input "$dir/lines" "$generate" -m "$model" -cnv -sys "Be brief." -n 12 -s 7 --ignore-eos
check "generate -cnv: -p is the system prompt" same "$dir/out" "$dir/system"
check "generate -cnv: a system prompt changes the answers" differ "$dir/system" "$dir/both"
run_input "$dir/lines" "$generate" -m "$model" -i -p "Once upon a time" -n 12 -s 7 --ignore-eos
check "generate -i: exit status 0 at the end of input" ended 0
check "generate -i: text" printed

# ---------------------------------------------------------------------------------------------------- chat

# $1: the lines, as printf reads them; the rest: options. Ends as run does.
talk()
{
    printf "$1" > "$dir/input"
    shift
    run_input "$dir/input" "$chat" "$model" -n 12 -s 7 --ignore-eos "$@"
}

mistake "chat without a model" "model" "$chat"
mistake "chat --laod" "--load" "$chat" "$model" --laod x
failure "chat without its model" "no-such-file" "$chat" "$dir/no-such-file.gguf"

talk ''
check "chat without a word: exit status 0" ended 0
check "chat without a word: nothing on stdout" silent
talk 'Hello there.\nAnd then?\n'
check "chat: exit status 0" ended 0
check "chat: the answers of generate -cnv" same "$dir/out" "$dir/both"
talk 'Hello there.\nAnd then?'
check "chat: the last line needs no newline" same "$dir/out" "$dir/both"
talk '\n  \nHello there.\n/exit\nAnd then?\n'
check "chat: blank lines are nothing, /exit ends" same "$dir/out" "$dir/first"
talk '/system Be brief.\nHello there.\nAnd then?\n'
check "chat /system: as generate -sys" same "$dir/out" "$dir/system"
talk '/help\n'
check "chat /help: exit status 0" ended 0
check "chat /help: lists the commands" says /save
check "chat /help: nothing on stdout" silent
talk '/hlep me\n'
check "chat with an unknown command: exit status 1 for scripts" ended 1
check "chat with an unknown command: names it" says "/hlep"

talk "Hello there.\n/save $dir/saved\nAnd then?\n"
check "chat /save: exit status 0" ended 0
check "chat /save: changes nothing" same "$dir/out" "$dir/both"
check "chat /save: a file" [ -s "$dir/saved" ]
check "chat /save: no other file" [ ! -e "$dir/saved.part" ]
tail -c +$(($(wc -c < "$dir/first") + 1)) "$dir/both" > "$dir/second"
talk "/load $dir/saved\nAnd then?\n"
check "chat /load: goes on as if nothing had happened" same "$dir/out" "$dir/second"
talk "And then?\n" --load "$dir/saved"
check "chat --load: the same" same "$dir/out" "$dir/second"
head -c 100 "$dir/saved" > "$dir/cut"
talk "Hello there.\n/load $dir/cut\nAnd then?\n"
check "chat /load of a damaged file: says so" says "not loaded"
check "chat /load of a damaged file: the conversation is untouched" same "$dir/out" "$dir/both"
talk "Hello there.\n/load $dir/no-such-file\n/save $dir/no-such-directory/x\nAnd then?\n"
check "chat /load, /save where nothing is: says so" says "not saved"
check "chat /load, /save where nothing is: the conversation is untouched" same "$dir/out" "$dir/both"
check "chat /load, /save where nothing is: exit status 1 for scripts" ended 1

talk 'Hello there.\n' --temp 0
cat "$dir/out" "$dir/out" > "$dir/twice"
talk 'Hello there.\n/reset\nHello there.\n' --temp 0
check "chat /reset: the same beginning, the same greedy answer" same "$dir/out" "$dir/twice"
many=$(awk 'BEGIN { for (i = 0; i < 20; i++) printf "Tell me more.\\n" }')
talk "$many" -c 96
check "chat with a full context: says so" says "context.*full"
check "chat with a full context: offers a way on" says "/reset"
keep full
talk "$many/reset\nHello there.\n" -c 96
check "chat with a full context: /reset helps" [ "$(wc -c < "$dir/out")" -gt "$(wc -c < "$dir/full")" ]

last="chat | head -c 5"
{ printf 'Hello there.\nAnd then?\nAnd then?\n' | $limit "$chat" "$model" --ignore-eos -n 200 2> "$dir/err"
  echo $? > "$dir/status"; } | head -c 5 > "$dir/out"
status=$(cat "$dir/status")
check "chat | head -c 5: exit status 0" ended 0

# A terminal: what a person sees and what Ctrl-C does there.
if command -v python3 >/dev/null 2>&1; then
    cat > "$dir/terminal.py" <<'END'
import os, pty, select, sys, time

def spawn(args):
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(args[0], args)
    return pid, fd

def read_until(fd, mark, seconds=20):
    seen, end = b"", time.time() + seconds
    while time.time() < end:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                piece = os.read(fd, 4096)
            except OSError:
                piece = b""
            if not piece:
                return seen, mark is None
            seen += piece
            if mark is not None and mark in seen:
                return seen, True
    return seen, False

def report(claim, good, seen=b""):
    print(("ok " if good else "not ok ") + claim)
    if not good:
        print("    seen: %r" % seen[-500:])

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if hasattr(os, "waitstatus_to_exitcode") \
        else os.waitpid(pid, 0)[1] >> 8

chat, model = sys.argv[1:3]
common = [chat, model, "--ignore-eos", "--kernels", "scalar", "-t", "1"]
pid, fd = spawn(common)
seen, good = read_until(fd, b"> ")
report("chat in a terminal: a prompt", good, seen)
os.write(fd, b"Hello there.\n")
seen, good = read_until(fd, b"\n")                         # the terminal's echo
if seen.endswith(b"\n"):
    select.select([fd], [], [], 20)                         # the answer has begun
os.write(fd, b"\x03")
seen, good = read_until(fd, b"> ")
report("chat in a terminal: Ctrl-C stops the answer", good and (b"stopped" in seen or b"full" in seen), seen)
os.write(fd, b"\x03")
seen, good = read_until(fd, b"> ")
report("chat in a terminal: one Ctrl-C at the prompt does not leave", good and b"once more" in seen, seen)
os.write(fd, b"\x03")
seen, good = read_until(fd, None)
report("chat in a terminal: the second does", good, seen)
report("chat in a terminal: exit status 0", status(pid) == 0)
pid, fd = spawn(common)
read_until(fd, b"> ")
os.write(fd, b"\x04")
seen, good = read_until(fd, None)
report("chat in a terminal: Ctrl-D leaves", good and status(pid) == 0, seen)
END
    $limit python3 "$dir/terminal.py" "$chat" "$model" > "$dir/terminal" 2>&1
    echo "status $?" >> "$dir/terminal"
    grep -v '^status 0' "$dir/terminal"
    good=$(grep -c '^ok ' "$dir/terminal")
    passed=$((passed + good))
    failed=$((failed + 6 - good))
else
    skip "chat in a terminal (6 checks)" "no python3"
fi

total
