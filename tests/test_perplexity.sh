#!/usr/bin/env bash
# test_perplexity.sh: tools/perplexity.c against figures made another way: the rows that `logits` writes, the tokens that
# `tokenize` prints, and awk's exp and log.
#
#     BUILD=build tests/test_perplexity.sh
#
# Models come from $BUILD/synth. Prints one line for each check; exits 1 if one failed. Takes some ten seconds. Programs
# that $BUILD lacks are built in the temporary folder.
mkdir -p "$(dirname "$0")/../${BUILD:-build}"
. "$(dirname "$0")/check.bash"
LC_ALL=C
export LC_ALL
unset BITNET_VERBOSE
limit=
if command -v timeout >/dev/null 2>&1; then limit="timeout 60"; fi
# exits NAME STATUS REGEX COMMAND...: with that status and a matching reason on stderr; if it fails, with an empty stdout.
exits() {
    local name=$1 want=$2 reason=$3 status
    shift 3
    $limit "$@" >stdout.txt 2>stderr.txt </dev/null
    status=$?
    if [ $status != "$want" ]; then not_ok "$name" "exit $status, not $want: $(cat stderr.txt)"
    elif ! grep -Eqi -- "$reason" stderr.txt; then not_ok "$name" "stderr: $(cat stderr.txt)"
    elif [ "$want" != 0 ] && [ -s stdout.txt ]; then not_ok "$name" "stdout: $(cat stdout.txt)"
    else ok "$name"; fi
}

for program in synth logits tokenize inspect perplexity; do
    if [ -x "$build/$program" ]; then
        ln -s "$build/$program" $program
    elif ! (cd "$root" && ${CC:-cc} ${CFLAGS:--O2} ${DEFS:-} -I. -o "$dir/$program" tools/$program.c -lpthread -lm) \
            >cc.txt 2>&1; then
        not_ok "$program builds" "$(cat cc.txt)"
        finish test_perplexity
    fi
done
make_model() { ./synth "$@" >synth.txt 2>&1 || { not_ok "synth $*" "$(cat synth.txt)"; finish test_perplexity; }; }
make_model -o bpe.gguf
make_model --family bitnet --seed 2 -o spm.gguf
make_model --family falcon3 --seed 3 -o plain.gguf               # wants no begin token
make_model --vocab 1021 --seed 4 -o odd.gguf
kernels=$(./logits --list-kernels 2>/dev/null)

run() { $limit ./perplexity "$@" 2>err.txt </dev/null || echo "exit $?: $(head -3 err.txt)"; }

cat >text <<'END'
Once upon a time there was a little dog who lived in the house by the river. <|eot_id|> It was 1999 then: yes!
The dog ran home, and the people said that it was good. "Where have you been?" they asked, and it would not say.
Grüße, said the old man; 3.14159 is what I think of when I see a wheel, and 2.71828 when I see you.

<s> and </s> are words here.	So is <|end_of_text|>, and the story goes on, on and on, until nobody listens any more.
END

# ------------------------------------------------------------------------------------------ the independent path
# inspect_kv MODEL KEY: an integer of the file's metadata.
inspect_kv() { ./inspect --kv "$1" | sed -n "s/^ *$2 = \([0-9]*\).*/\1/p"; }
n_vocab() { inspect_kv "$1" '[a-z0-9.-]*vocab_size'; }
begin_of() { printf '' | ./tokenize "$1" --ids | cut -d' ' -f1; }

# costs MODEL IDS FIRST: -ln p of the ids (separated by commas) from number FIRST + 1 on, counted from 0; one per line.
costs() {
    case $2 in *,*) ;; *) return ;; esac                 # a single token is predicted by nothing
    $limit ./logits "$1" --tokens "${2%,*}" --all -o rows.f32 || echo "logits failed"
    od -An -v -tu4 rows.f32 | awk -v ids="$2" -v first="$3" -v n_vocab="$(n_vocab "$1")" '
        BEGIN { split(ids, id, ",") }
        {
            for (f = 1; f <= NF; f++) {                  # the bits of a float, as an integer
                sign = $f >= 2147483648 ? -1 : 1
                bits = sign < 0 ? $f - 2147483648 : $f + 0
                e = int(bits / 8388608)
                v[n++] = e ? sign * (1 + (bits - e * 8388608) / 8388608) * 2 ^ (e - 127) : 0
                if (n < n_vocab) continue
                if (row >= first) {
                    max = v[0]
                    for (k = 1; k < n; k++) if (v[k] > max) max = v[k]
                    sum = 0
                    for (k = 0; k < n; k++) sum += exp(v[k] - max)
                    printf "%.17g\n", log(sum) + max - v[id[row + 2]]
                }
                n = 0
                row++
            }
        }'
}
# estimate: the line that perplexity should print for the costs on stdin. The variance is not computed as there.
estimate() {
    awk '{ v[n++] = $1; sum += $1 }
        END {
            mean = sum / n
            for (i = 0; i < n; i++) square += (v[i] - mean) ^ 2
            printf "Final estimate: PPL = %.4f +/- %.5f\n", exp(mean), exp(mean) * sqrt(square / n / (n - 1))
        }'
}
# chunks IDS N_CTX BEGIN: a line of ids for each whole chunk. BEGIN -: no begin token.
chunks() {
    awk -v ids="$1" -v n_ctx="$2" -v begin="$3" 'BEGIN {
        if (begin != "-") ids = begin " " ids
        n = split(ids, id, " ")
        for (at = 0; at + n_ctx <= n; at += n_ctx) {
            line = begin != "-" ? begin : id[at + 1]
            for (i = 2; i <= n_ctx; i++) line = line "," id[at + i]
            print line
        }
    }'
}
# by_chunks MODEL N_CTX BEGIN TEXT
by_chunks() {
    local ids line
    ids=$(printf %s "$(cat "$4")" | ./tokenize "$1" --ids --no-bos --no-special)
    for line in $(chunks "$ids" "$2" "$3"); do costs "$1" "$line" $(($2 / 2)); done | estimate
}
# by_documents MODEL N_CTX END DOCUMENT...: END: the end token's id; a document /last has none.
by_documents() {
    local model=$1 n_ctx=$2 end=$3 document ids
    shift 3
    for document; do
        ids=$(printf %s "${document%/last}" | ./tokenize "$model" --ids | tr ' ' ,)
        case $document in */last) ;; *) ids=$ids,$end ;; esac
        costs "$model" "$(cut -d, -f"1-$n_ctx" <<<"${ids#,}")" 0
    done | estimate
}

bpe_begin=$(begin_of bpe.gguf) spm_begin=$(begin_of spm.gguf)
matches "the BPE model has a begin token" "$bpe_begin" '^[0-9]+$'
matches "the SPM model has a begin token" "$spm_begin" '^[0-9]+$'
equal "the plain model has none" "$(begin_of plain.gguf)" ""

form='^Final estimate: PPL = [0-9]+\.[0-9]{4} \+/- [0-9]+\.[0-9]{5}$'
line=$(run -m bpe.gguf -f text -c 32)
matches "the form of the line" "$line" "$form"
equal "one line on stdout" "$(wc -l <<<"$line" | tr -d ' ')" 1
equal "chunks of 32, BPE" "$line" "$(by_chunks bpe.gguf 32 "$bpe_begin" text)"
equal "chunks of 33, BPE" "$(run -m bpe.gguf -f text -c 33)" "$(by_chunks bpe.gguf 33 "$bpe_begin" text)"
equal "chunks of 5, BPE" "$(run -m bpe.gguf -f text -c 5)" "$(by_chunks bpe.gguf 5 "$bpe_begin" text)"
equal "chunks of 64, SPM" "$(run -m spm.gguf -f text -c 64)" "$(by_chunks spm.gguf 64 "$spm_begin" text)"
equal "chunks of 40, no begin token" "$(run -m plain.gguf -f text -c 40)" "$(by_chunks plain.gguf 40 - text)"
equal "a vocabulary of 1021" "$(run -m odd.gguf -f text -c 32)" "$(by_chunks odd.gguf 32 "$(begin_of odd.gguf)" text)"
for n in 301 302 303 304 305 306 307 308 309; do
    head -c $n text >even
    n_even=$(($(printf %s "$(cat even)" | ./tokenize bpe.gguf --ids --no-special | wc -w)))
    [ $((n_even % 2)) = 0 ] && break
done
equal "a text of exactly two chunks" "$(run -m bpe.gguf -f even -c $((n_even / 2)))" \
    "$(by_chunks bpe.gguf $((n_even / 2)) "$bpe_begin" even)"
matches "has $n_even tokens and nothing left" "$(cat err.txt)" "in 2 chunks of $((n_even / 2));"
differ "the size of the chunks matters" "$line" "$(run -m bpe.gguf -f text -c 33)"

one='Once upon a time there was a little dog.' two='The end, <|eot_id|> said 1999 people:
' three='' four='and then'
end='<|end_of_text|>'
printf '%s' "$one$end$two$end$three$end$four" >documents
bpe_end=$(printf %s $end | ./tokenize bpe.gguf --ids --no-bos)
matches "the BPE model has $end" "$bpe_end" '^[0-9]+$'
documents=$(run -m bpe.gguf -f documents --documents)
matches "the last document has no end token: stderr says so" "$(cat err.txt)" 'last document'
matches "the number of documents on stderr" "$(cat err.txt)" ' in 4 documents'
equal "documents, BPE" "$documents" "$(by_documents bpe.gguf 999 "$bpe_end" "$one" "$two" "$three" "$four/last")"
for model in spm plain; do
    eos=$(inspect_kv $model.gguf tokenizer.ggml.eos_token_id)
    equal "documents, $model: the model's own end token" "$(run -m $model.gguf -f documents --documents)" \
        "$(by_documents $model.gguf 999 "$eos" "$one" "$two" "$three" "$four/last")"
done
# The end token's id follows its key and the value's type.
at=$(grep -abo 'tokenizer.ggml.eos_token_id' bpe.gguf 2>/dev/null | head -1 | cut -d: -f1)
if [ -n "$at" ]; then
    cp bpe.gguf eos.gguf
    printf '\005\0' | dd of=eos.gguf bs=1 seek=$((at + 31)) conv=notrunc 2>/dev/null
    equal "another end token in the file" "$(inspect_kv eos.gguf tokenizer.ggml.eos_token_id)" 5
    equal "documents still end in $end" "$(run -m eos.gguf -f documents --documents)" "$documents"
else
    skip "another end token in the file: grep -b does not work here"
fi
equal "documents cut to 6 tokens" "$(run -m bpe.gguf -f documents --documents -c 6)" \
    "$(by_documents bpe.gguf 6 "$bpe_end" "$one" "$two" "$three" "$four/last")"
matches "and stderr says so" "$(cat err.txt)" '2 documents were longer than 6 tokens'
printf '%s' "$one$end$two$end" >ended
equal "no document after the last end token" "$(run -m bpe.gguf -f ended --documents)" \
    "$(by_documents bpe.gguf 999 "$bpe_end" "$one" "$two")"
equal "nothing is missing there" "$(grep -c 'last document' err.txt)" 0
printf '%s\n' "$one$end$two$end" >newline
equal "a newline at the end of the file is dropped" "$(run -m bpe.gguf -f newline --documents)" \
    "$(run -m bpe.gguf -f ended --documents)"
printf '%s\n%s\n' "$one$end" "$two$end" >newline
equal "and so is one behind each end token" "$(run -m bpe.gguf -f newline --documents)" "$(run -m bpe.gguf -f ended --documents)"
printf '%s\n\n\n' "$one$end$two$end" >newline
differ "only one" "$(run -m bpe.gguf -f newline --documents)" "$(run -m bpe.gguf -f ended --documents)"
equal "-f -: stdin" "$(./perplexity -m bpe.gguf -f - --documents <documents 2>err.txt)" "$documents"

# ------------------------------------------------------------------------------------ nothing else changes a digit
chunked=$(run -m bpe.gguf -f text -c 48)
# same NAME OPTIONS...
same() {
    local name=$1
    shift
    equal "same digits: $name" "$(run -m bpe.gguf -f text -c 48 "$@") $(run -m bpe.gguf -f documents --documents "$@")" \
        "$chunked $documents"
}
for k in $kernels; do same "--kernels $k" --kernels "$k"; done
for n in 1 2 3; do same "--threads $n" -t $n; done
for n in 1 2 5 24 47 512 2048; do same "--batch $n" -b $n; done
for k in $kernels; do same "--kernels $k -t 2 -b 7" --kernels "$k" -t 2 -b 7; done
same "--no-mmap" --no-mmap
same "what llama-perplexity's callers say" -t 2 -ngl 0 -ub 512 -fa on --seed 1 --no-warmup
same "--progress" --progress

# ------------------------------------------------------------------------------------------------------ sense
# The final norm's weights are zero: so are all logits, and the model guesses blindly.
cp bpe.gguf blind.gguf
place=$(./inspect --tensors bpe.gguf | awk '$1 == "output_norm.weight" { print $(NF - 1), $NF }')
dd if=/dev/zero of=blind.gguf bs=1 seek="${place% *}" count="${place#* }" conv=notrunc 2>/dev/null
guess="Final estimate: PPL = $(n_vocab bpe.gguf).0000 +/- 0.00000"
equal "blind guessing: the size of the vocabulary" "$(run -m blind.gguf -f text -c 48)" "$guess"
equal "the same by documents" "$(run -m blind.gguf -f documents --documents)" "$guess"
holds=$(sed 's/.*PPL = //; s/ .*//' <<<"$chunked" | awk -v n="$(n_vocab bpe.gguf)" '{ print ($1 > n / 2) }')
equal "random weights are not better than guessing" "$holds" 1

# ----------------------------------------------------------------------------------------------------- stderr
run -m bpe.gguf -f text -c 48 >/dev/null
summary=$(cat err.txt)
n_tokens=$(($(printf %s "$(cat text)" | ./tokenize bpe.gguf --ids --no-special | wc -w)))
n_chunks=$((n_tokens / 48))
matches "the summary counts tokens and chunks" "$summary" \
    "^perplexity: $((n_chunks * 23)) tokens scored in $n_chunks chunks of 48; $((n_chunks * 47)) evaluated in .* tokens/s\$"
matches "and what is left" "$summary" "^perplexity: $((n_tokens % 48)) tokens at the end fill no chunk"
equal "no progress where there is no terminal" "$(grep -c 'left$' <<<"$summary")" 0
run -m bpe.gguf -f text -c 48 --progress >/dev/null
equal "--progress: a line for each chunk" "$(grep -Ec '^chunk [0-9]+ of [0-9]+, PPL [0-9.]+, [0-9]+ s left$' err.txt)" $n_chunks
equal "the last of them has the final figure" "$(sed -n "s/^chunk $n_chunks of $n_chunks, PPL \([0-9.]*\),.*/\1/p" err.txt)" \
    "$(sed 's/.*PPL = //; s/ .*//' <<<"$chunked")"

# ----------------------------------------------------------------------------------------------------- mistakes
matches "--help" "$(./perplexity --help)" '^usage: perplexity '
matches "--version" "$(./perplexity --version)" '^perplexity .*[0-9]+\.[0-9]+'
exits "no arguments: exit 2" 2 "which model" ./perplexity
exits "no text: exit 2" 2 "which text" ./perplexity -m bpe.gguf
exits "an unknown option: exit 2" 2 "no-such" ./perplexity -m bpe.gguf -f text --no-such
exits "an unknown kernel set: exit 2" 2 "nonsense" ./perplexity -m bpe.gguf -f text --kernels nonsense
exits "-c -1: exit 2" 2 "'-1'" ./perplexity -m bpe.gguf -f text -c -1
for n in 1 2; do exits "-c $n: exit 2" 2 "too short" ./perplexity -m bpe.gguf -f text -c $n; done
exits "--documents -c 1: exit 2" 2 "too short" ./perplexity -m bpe.gguf -f text --documents -c 1
exits "-c 3 scores a token of each chunk" 0 " tokens scored" ./perplexity -m bpe.gguf -f text -c 3
exits "--documents -c 2 scores a token of each document" 0 "4 tokens scored in 4" \
    ./perplexity -m bpe.gguf -f documents --documents -c 2
n_ctx=$(inspect_kv bpe.gguf '[a-z0-9.-]*context_length')
exits "-c over the training context: exit 2" 2 "trained on at most $n_ctx" ./perplexity -m bpe.gguf -f text -c $((n_ctx + 1))
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat text; done >long
equal "-c of the training context" "$(run -m bpe.gguf -f long -c "$n_ctx" | grep -Ec "$form")" 1
make_model --ctx 64 -o short.gguf
equal "without -c: at most the training context" "$(run -m short.gguf -f text)" "$(run -m short.gguf -f text -c 64)"
make_model --ctx 2048 -o deep.gguf
run -m deep.gguf -f long >/dev/null
matches "without -c: 512" "$(cat err.txt)" 'chunks of 512;'
exits "less than two chunks: exit 1" 1 "has $n_tokens tokens.* 512 .*1024 tokens.*-c $((n_tokens / 2)) or less" \
    ./perplexity -m bpe.gguf -f text
exits "and that -c works" 0 "in 2 chunks" ./perplexity -m bpe.gguf -f text -c $((n_tokens / 2))
exits "one more does not" 1 "give more text" ./perplexity -m bpe.gguf -f text -c $((n_tokens / 2 + 1))

exits "no such text: exit 1" 1 "nosuch.txt" ./perplexity -m bpe.gguf -f nosuch.txt
exits "a folder: exit 1" 1 "cannot read ./: " ./perplexity -m bpe.gguf -f ./
: >empty
exits "an empty text: exit 1" 1 "empty is empty" ./perplexity -m bpe.gguf -f empty
exits "the same by documents" 1 "empty is empty" ./perplexity -m bpe.gguf -f empty --documents
echo >empty
exits "a newline alone: exit 1" 1 "empty is empty" ./perplexity -m bpe.gguf -f empty
exits "not a text: exit 1" 1 "not a text.*NUL" ./perplexity -m bpe.gguf -f bpe.gguf
printf a >token
exits "a text of one token: exit 1" 1 "has 2 tokens" ./perplexity -m bpe.gguf -f token -c 3
exits "the same by documents: one score has no error" 1 "1 tokens were scored" ./perplexity -m bpe.gguf -f token --documents
printf %s "a$end" >token
exits "with its end token: two" 0 "2 tokens scored in 1 document " ./perplexity -m bpe.gguf -f token --documents
exits "with its end token, no begin token: exit 1" 1 "1 tokens were scored" ./perplexity -m plain.gguf -f token --documents
printf '\377\376\200 \001 stray bytes' >bytes
exits "bytes that are no UTF-8 are scored" 0 "tokens scored" ./perplexity -m bpe.gguf -f bytes -c 4

exits "no such model: exit 1" 1 "nosuch.gguf" ./perplexity -m nosuch.gguf -f text
exits "not a model: exit 1" 1 "text" ./perplexity -m text -f text
cp bpe.gguf vocab.gguf
printf '\0\0\0\0\0\0\0\0' | dd of=vocab.gguf bs=1 seek=8 conv=notrunc 2>/dev/null       # n_tensors = 0
exits "a vocabulary without weights: exit 1" 1 "vocab.gguf" ./perplexity -m vocab.gguf -f text
at=$(grep -abo 'tokenizer.ggml.tokens' bpe.gguf 2>/dev/null | head -1 | cut -d: -f1)
if [ -n "$at" ]; then
    cp bpe.gguf mute.gguf
    printf x | dd of=mute.gguf bs=1 seek=$((at + 20)) conv=notrunc 2>/dev/null
    exits "a model without vocabulary: exit 1" 1 "tokenizer.ggml.tokens" ./perplexity -m mute.gguf -f text
else
    skip "a model without vocabulary: grep -b does not work here"
fi
# Two more metadata entries, 64 bytes so that the alignment stays: pooling_type = 1 (u32) and a string.
{
    head -c 16 bpe.gguf
    printf "\\$(printf %03o $(($(od -An -tu1 -j16 -N1 bpe.gguf) + 2)))\\0\\0\\0\\0\\0\\0\\0"
    printf '\031\0\0\0\0\0\0\0bitnet-b1.58.pooling_type\004\0\0\0\001\0\0\0'           # 41 bytes
    printf '\003\0\0\0\0\0\0\0a.b\010\0\0\0\0\0\0\0\0\0\0\0'                          # 23 bytes
    tail -c +25 bpe.gguf
} >embed.gguf
matches "an embedding model is one that runs" "$(./inspect embed.gguf)" '^runs here +yes'
exits "an embedding model: exit 1" 1 "embedding model" ./perplexity -m embed.gguf -f text -c 48
if [ -w /dev/full ]; then
    exits "a full disk: exit 1" 1 "cannot write" sh -c './perplexity -m bpe.gguf -f text -c 48 >/dev/full'
else
    skip "a full disk: no /dev/full here"
fi
finish test_perplexity
