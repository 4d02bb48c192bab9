#!/usr/bin/env bash
# test_tools.sh: logits, tokenize, inspect and bench, run as a user would run them.
#
#     BUILD=build tests/test_tools.sh
#
# Models come from $BUILD/synth and live in a temporary folder. Prints one line for each check, and at the end
# "tools: N passed, N failed, N skipped"; exits 1 if one failed. Takes under a minute.
. "$(dirname "$0")/check.bash"

# valid_json NAME FILE
valid_json() {
    if [ -z "$python" ]; then skip "$1: no python3"; else holds "$1" python3 -m json.tool "$2"; fi
}
size() { wc -c <"$1" | tr -d ' '; }

python=$(command -v python3 || true)
built synth logits tokenize inspect bench
logits=$build/logits tokenize=$build/tokenize inspect=$build/inspect bench=$build/bench

make_model() { "$build/synth" "$@" >synth.txt 2>&1 || not_ok "synth $*" "$(cat synth.txt)"; }
make_model -o tiny.gguf
make_model --seed 2 --untied --head q6_k -o untied.gguf
make_model --family bitnet -o spm.gguf
make_model --type f16 -o plain.gguf

# ------------------------------------------------------------------------------------------------ every program
for tool in logits tokenize inspect bench; do
    matches "$tool --help" "$("$build/$tool" --help)" "^usage: $tool "
    matches "$tool --version" "$("$build/$tool" --version)" "^$tool .*[0-9]+\.[0-9]+"
    exits "$tool without arguments: exit 2" 2 "usage|which" "$build/$tool"
    exits "$tool --no-such-option: exit 2" 2 "no-such-option" "$build/$tool" --no-such-option tiny.gguf
done
exits "logits, no such file: exit 1" 1 "nosuch" "$logits" nosuch.gguf --tokens 1
exits "tokenize, no such file: exit 1" 1 "nosuch" "$tokenize" nosuch.gguf
exits "inspect, no such file: exit 1" 1 "nosuch" "$inspect" nosuch.gguf
exits "bench, no such file: exit 1" 1 "nosuch" "$bench" -m nosuch.gguf

# ------------------------------------------------------------------------------------------------------- logits
info=$("$inspect" --json tiny.gguf)
number() { sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p" <<<"$info"; }
n_vocab=$(number n_vocab) n_embd=$(number n_embd)
ids=1,5,9,17,33,65,3,7,100,2,2,2,90,8,8,60,44,31,27,12
n_ids=20
"$logits" tiny.gguf --tokens $ids -o last.f32
"$logits" tiny.gguf --tokens $ids --all -o all.f32
"$logits" tiny.gguf --tokens $ids --embed -o embed.f32
equal "logits -o: [1, n_vocab] floats" "$(size last.f32)" $((4 * n_vocab))
equal "logits --all -o: [n, n_vocab] floats" "$(size all.f32)" $((4 * n_vocab * n_ids))
equal "logits --embed -o: [n_embd] floats" "$(size embed.f32)" $((4 * n_embd))
tail -c $((4 * n_vocab)) all.f32 >tail.f32
holds "the last row of --all is the row without it" cmp tail.f32 last.f32
equal "logits for a person: a heading and ten tokens" "$("$logits" tiny.gguf --tokens $ids | wc -l | tr -d ' ')" 11
"$logits" tiny.gguf --tokens $ids -o - >stdout.f32
holds "logits -o -: the same on stdout" cmp stdout.f32 last.f32
echo "$ids" | tr , '\n' >ids.txt
"$logits" tiny.gguf --tokens @ids.txt -o file.f32
holds "logits --tokens @FILE" cmp file.f32 last.f32
"$logits" tiny.gguf --tokens @- -o stdin.f32 <ids.txt
holds "logits --tokens @-" cmp stdin.f32 last.f32

hash=$("$logits" tiny.gguf --tokens $ids --hash)
hash_all=$("$logits" tiny.gguf --tokens $ids --all --hash)
hash_embed=$("$logits" tiny.gguf --tokens $ids --embed --hash)
matches "logits --hash: 16 hexadecimal digits" "$hash" '^[0-9a-f]{16}$'
differ "other tokens, other hash" "$hash" "$("$logits" tiny.gguf --tokens 1,5,9 --hash)"
differ "another model, other hash" "$hash" "$("$logits" untied.gguf --tokens $ids --hash)"
if [ -n "$python" ]; then
    fnv='import sys
h = 0xcbf29ce484222325
for b in open(sys.argv[1], "rb").read(): h = (h ^ b) * 0x100000001b3 & (1 << 64) - 1
print("%016x" % h)'
    equal "the hash is FNV-1a of the file" "$(python3 -c "$fnv" last.f32)" "$hash"
    norm='import array, sys
a = array.array("f", open(sys.argv[1], "rb").read())
print("%.3f" % sum(x * x for x in a) ** 0.5)'
    equal "an embedding has length 1" "$(python3 -c "$norm" embed.f32)" 1.000
else
    skip "the hash is FNV-1a of the file: no python3"
    skip "an embedding has length 1: no python3"
fi

# same NAME OPTIONS...: none of the three hashes changes.
same() {
    local name=$1 got
    shift
    got="$("$logits" tiny.gguf --tokens $ids --hash "$@" 2>&1)"
    got="$got $("$logits" tiny.gguf --tokens $ids --all --hash "$@" 2>&1)"
    got="$got $("$logits" tiny.gguf --tokens $ids --embed --hash "$@" 2>&1)"
    equal "same bits: $name" "$got" "$hash $hash_all $hash_embed"
}
kernels=$("$logits" --list-kernels 2>/dev/null)
matches "logits --list-kernels: scalar is there" "$kernels" '^scalar$'
for k in $kernels; do same "--kernels $k" --kernels "$k"; done
for n in 1 2 3; do same "--threads $n" --threads $n; done
for n in 1 2 5 8 9 19 64; do same "--batch $n" --batch $n; done
for n in 1 3 7; do same "--company $n" --company $n; done
same "--company 4 --batch 3 --threads 2" --company 4 --batch 3 --threads 2
same "--repeat" --repeat
same "--repeat --company 2" --repeat --company 2
same "--ctx 300" --ctx 300
same "--no-mmap" --no-mmap
for k in $kernels; do
    equal "untied Q6_K head, --kernels $k" \
        "$("$logits" untied.gguf --tokens $ids --all --hash --kernels "$k" --batch 7)" \
        "$("$logits" untied.gguf --tokens $ids --all --hash --kernels scalar)"
done

exits "logits, a negative id: exit 2" 2 "-5" "$logits" tiny.gguf --tokens 1,-5
exits "logits, an id over the vocabulary: exit 2" 2 "outside the vocabulary" "$logits" tiny.gguf --tokens 1,"$n_vocab"
exits "logits, an id over 32 bits: exit 2" 2 "4294967297" "$logits" tiny.gguf --tokens 4294967297
exits "logits, not a number: exit 2" 2 "abc" "$logits" tiny.gguf --tokens 1,abc
exits "logits, no ids: exit 2" 2 "empty" "$logits" tiny.gguf --tokens ''
exits "logits, unknown kernels: exit 2" 2 "nonsense" "$logits" tiny.gguf --tokens 1 --kernels nonsense
exits "logits, unknown layout: exit 2" 2 "i2_s" "$logits" tiny.gguf --tokens 1 --layout r17
exits "logits in place, a file that is read: exit 1" 1 "mapped" "$logits" tiny.gguf --tokens 1 --layout i2_s --no-mmap
exits "logits in place, another order of bits: exit 1" 1 "layout A" "$logits" tiny.gguf --tokens 1 --layout i2_s --i2s-layout C
exits "logits, a context too small: exit 1" 1 "" "$logits" tiny.gguf --tokens 1,2,3 --ctx 2
exits "logits, output that can't be written: exit 1" 1 "/nosuch/" "$logits" tiny.gguf --tokens 1 -o /nosuch/out
exits "logits, a vocabulary file's missing weights: exit 1" 1 "" "$logits" /dev/null --tokens 1

# ----------------------------------------------------------------------------------------------------- tokenize
printf 'Hello world, the little dog ran home.\n\nIt was 1999 then:\tyes!\n' >text1
printf 'Gr\303\274\303\237e \342\202\254 \360\237\231\202 \344\275\240\345\245\275\n' >text2
printf 'a\000b\377\376\200 \355\240\200 stray bytes\r\n\001\002' >text3
printf '' >text4
printf '   ' >text5
printf '<|eot_id|> <s> </s> <|begin_of_text|>' >text6
head -c 20000 "$logits" >text7
for model in tiny spm; do
    for i in 1 2 3 4 5 6 7; do
        # SPM puts a blank before what follows a control token: text 6 does not come back, in llama.cpp neither
        if [ $model$i != spm6 ]; then
            "$tokenize" $model.gguf --ids <text$i | "$tokenize" $model.gguf --decode >back
            holds "tokenize and --decode, $model, text $i" cmp text$i back
        fi
        "$tokenize" $model.gguf --ids --no-bos --no-special <text$i | "$tokenize" $model.gguf --decode --no-bos >back
        holds "the same without special tokens, $model, text $i" cmp text$i back
    done
done
equal "--ids is one line" "$("$tokenize" tiny.gguf --ids <text1 | wc -l | tr -d ' ')" 1
equal "one token per line" "$("$tokenize" tiny.gguf <text1 | cut -f1 | tr '\n' ' ')" \
    "$("$tokenize" tiny.gguf --ids <text1 | tr '\n' ' ')"
equal "--no-bos drops the first token" "$("$tokenize" tiny.gguf --ids --no-bos <text1)" \
    "$("$tokenize" tiny.gguf --ids <text1 | cut -d' ' -f2-)"
differ "a final newline counts" "$(printf 'a\n' | "$tokenize" tiny.gguf --ids)" \
    "$(printf 'a' | "$tokenize" tiny.gguf --ids)"
differ "--no-special changes what control tokens are" "$("$tokenize" tiny.gguf --ids <text6)" \
    "$("$tokenize" tiny.gguf --ids --no-special <text6)"
cp tiny.gguf vocab.gguf
printf '\0\0\0\0\0\0\0\0' | dd of=vocab.gguf bs=1 seek=8 conv=notrunc 2>/dev/null       # n_tensors = 0
equal "a file with a vocabulary and no tensors" "$("$tokenize" vocab.gguf --ids <text1)" \
    "$("$tokenize" tiny.gguf --ids <text1)"
echo "1 2 x" >bad
exits "tokenize --decode, not an id: exit 1" 1 "'x'" sh -c "'$tokenize' tiny.gguf --decode <bad"
echo "1 -2" >bad
exits "tokenize --decode, a negative id: exit 1" 1 "outside" sh -c "'$tokenize' tiny.gguf --decode <bad"
echo "$n_vocab" >bad
exits "tokenize --decode, an id over the vocabulary: exit 1" 1 "outside" sh -c "'$tokenize' tiny.gguf --decode <bad"

# ------------------------------------------------------------------------------------------------------ inspect
words=$("$inspect" tiny.gguf)
matches "inspect: it is a BitNet model" "$words" '^BitNet +yes'
matches "inspect: it runs" "$words" '^runs here +yes'
matches "inspect: another model is none" "$("$inspect" plain.gguf)" '^BitNet +no'
matches "inspect: a vocabulary is none" "$("$inspect" vocab.gguf)" '^BitNet +no: the file has no layers'
cp plain.gguf bitnet-b1.58-i2_s.gguf
matches "inspect: a name that is wrong" "$("$inspect" bitnet-b1.58-i2_s.gguf)" '^BitNet +no.*name says otherwise'
matches "inspect --tensors" "$("$inspect" --tensors tiny.gguf)" 'blk\.0\.attn_q\.weight +I2_S '
matches "inspect --kv" "$("$inspect" --kv tiny.gguf)" 'general\.architecture = "bitnet'
small=$("$inspect" --json -c 64 tiny.gguf | sed -n 's/.*"session": \([0-9]*\).*/\1/p')
large=$("$inspect" --json -c 2048 tiny.gguf | sed -n 's/.*"session": \([0-9]*\).*/\1/p')
holds "inspect -c: more context, more memory" test "${large:-0}" -gt "${small:-999999999999}"
for model in tiny untied spm plain vocab; do
    "$inspect" --json --kv --tensors $model.gguf >out.json
    valid_json "inspect --json is JSON, $model" out.json
    if [ -n "$python" ]; then
        holds "and UTF-8, $model" python3 -c 'open("out.json", "rb").read().decode("utf-8")'
    fi
done
for model in tiny untied spm vocab; do exits "inspect --check, $model: sound" 0 "" "$inspect" --check $model.gguf; done
"$inspect" --json --check tiny.gguf >out.json
valid_json "inspect --json --check is JSON" out.json
matches "inspect --json --check counts codes" "$(cat out.json)" '"codes": \[[1-9][0-9]*, [1-9][0-9]*, [1-9][0-9]*, 0\]'

# damage NAME OFFSET BYTES REGEX: --check finds it, in words and in JSON.
damage() {
    cp tiny.gguf damaged.gguf
    printf %b "$3" | dd of=damaged.gguf bs=1 seek="$2" conv=notrunc 2>/dev/null
    exits "inspect --check, $1: exit 1" 1 "" "$inspect" --check damaged.gguf
    matches "and says where, $1" "$("$inspect" --check damaged.gguf 2>&1)" "$4"
    "$inspect" --json --check damaged.gguf >out.json 2>/dev/null
    valid_json "and in JSON, $1" out.json
}
place() { "$inspect" --tensors tiny.gguf | awk -v name="$1" '$1 == name { print $(NF - 1) }'; }
length() { "$inspect" --tensors tiny.gguf | awk -v name="$1" '$1 == name { print $NF }'; }
at=$(place blk.0.ffn_up.weight) bytes=$(length blk.0.ffn_up.weight)
damage "a scale that is NaN" $((at + bytes - 32)) '\x00\x00\xc0\x7f' 'blk\.0\.ffn_up\.weight: its scale'
damage "codes of 3" "$at" '\xff\xff\xff' 'blk\.0\.ffn_up\.weight: 12 of .* codes are 3'
damage "a norm that is infinite" "$(place blk.1.attn_norm.weight)" '\x00\x00\x80\x7f' \
    'blk\.1\.attn_norm\.weight: 1 values'
damage "an embedding that is NaN" "$(place token_embd.weight)" '\xff\x7f' 'token_embd\.weight: 1 values'
damage "a version that does not exist" 4 '\x09' 'version 9'
damage "not GGUF" 0 'NOPE' 'not a GGUF file'
damage "a count that lies" 8 '\xff\xff\xff\xff' 'tensors in a file of'
name_at=$(grep -abo 'blk.1.ffn_down.weight' tiny.gguf | head -1 | cut -d: -f1)
if [ -n "$name_at" ]; then
    offset_at=$((name_at + 21 + 4 + 8 + 8 + 4))          # n_dims, ne[0], ne[1], type, offset
    damage "a tensor that lies on another" "$offset_at" '\x00\x00\x00\x00\x00\x00\x00\x00' \
        'before the next tensor|bytes at byte'
    damage "a tensor that is not aligned" "$offset_at" '\x01' 'not a multiple'
else
    skip "overlaps and alignment: grep -b does not work here"
fi
all=$(size tiny.gguf)
for part in 3 20 1000 $((all / 2)) $((all - 64)); do
    head -c "$part" tiny.gguf >cut.gguf
    exits "inspect --check, cut after $part bytes: exit 1" 1 "" "$inspect" --check cut.gguf
done
"$inspect" --json cut.gguf >out.json 2>/dev/null
valid_json "inspect --json of a cut file is JSON" out.json

# -------------------------------------------------------------------------------------------------------- bench
quick=(-p 16 -n 4 -r 2 --no-read)
table=$("$bench" -m tiny.gguf "${quick[@]}")
matches "bench: llama-bench's columns" "$table" \
    '^\| model  +\| +size \| +params \| backend +\| threads \| +test \| +t/s \|'
matches "bench: a line under them" "$table" \
    '^\| -{29}- \| -{9}: \| -{9}: \| -{9}- \| -{6}: \| -{14}: \| -{19}: \|'
matches "bench: row pp16" "$table" '\| +pp16 \| +[0-9]+\.[0-9]{2} ± [0-9]+\.[0-9]{2} \|'
matches "bench: row tg4" "$table" '\| +tg4 \| +[0-9]+\.[0-9]{2} ± [0-9]+\.[0-9]{2} \|'
matches "bench: load time and memory" "$table" '^load: [0-9.]+ s; resident memory: '
count() { grep -Ec '^\| .* ± ' <<<"$1"; }
equal "bench -n 0: no tg" "$(count "$("$bench" -m tiny.gguf -p 8 -n 0 -r 1 --no-read -ngl 0 -b 1)")" 1
equal "bench -p 0: no pp" "$(count "$("$bench" -m tiny.gguf -p 0 -n 2 -r 1 --no-read)")" 1
equal "bench: lists in -t, -p and -n" \
    "$(count "$("$bench" -m tiny.gguf -p 4,8 -n 2,3 -t 1,2 -r 1 --no-read)")" 8
matches "bench -d: the depth is in the name" "$("$bench" -m tiny.gguf -p 4 -n 0 -d 32 -r 1 --no-read)" 'pp4 @ d32'
n_kernels=$(wc -w <<<"$kernels" | tr -d ' ')
equal "bench --kernels all: a row for each" \
    "$(count "$("$bench" -m tiny.gguf -p 4 -n 0 -r 1 --no-read --kernels all)")" "$n_kernels"
equal "bench --list-kernels" "$("$bench" --list-kernels 2>/dev/null)" "$kernels"
small=(--buffer 4)
"$bench" -m tiny.gguf -p 4 -n 2 -r 3 -o json "${small[@]}" >out.json 2>/dev/null
valid_json "bench -o json is JSON" out.json
matches "bench -o json: the bandwidth was measured" "$(cat out.json)" '"read_gb_per_s": [0-9]*[1-9]'
if [ -n "$python" ]; then
    holds "bench -o json: two tests of three samples" python3 -c '
import json
t = json.load(open("out.json"))
assert len(t) == 2 and all(len(x["samples_ts"]) == 3 and x["avg_ts"] > 0 for x in t)
assert t[0]["n_prompt"] == 4 and t[0]["n_gen"] == 0 and t[1]["n_prompt"] == 0 and t[1]["n_gen"] == 2'
    holds "bench -o json: shares are ratios of the medians, limits stand before each repetition and after the last" python3 -c '
import json, statistics
for t in json.load(open("out.json")):
    assert len(t["samples_read_gb_per_s"]) == 4
    read = statistics.median(t["samples_read_gb_per_s"])
    assert abs(t["read_share"] * read / t["gb_per_s"] - 1) < 0.01
    assert abs(t["gb_per_s"] * 1e9 / (t["bytes_per_token"] * t["median_ts"]) - 1) < 0.01
    assert t["loaded_bytes"] > 0 and t["loading_peak_bytes"] >= t["loaded_bytes"] > t["loaded_file_bytes"]
    if t["unit"]:
        assert len(t["samples_peak_tops"]) == 4
        peak = statistics.median(t["samples_peak_tops"])
        assert peak > 0 and abs(t["peak_share"] * peak / t["ternary_tops"] - 1) < 0.01'
    # two operations for each ternary weight: embd * (2 heads + 2 kv heads) * head_dim and 3 * embd * ff, in each layer
    ternary=$(($(number n_layer) * $(number n_embd) * (2 * ($(number n_head) + $(number n_head_kv)) * $(number head_dim) + 3 * $(number n_ff))))
    holds "bench -o json: operations of the ternary products" python3 -c '
import json, sys
for t in json.load(open("out.json")):
    assert abs(t["ternary_tops"] * 1e12 / (2 * int(sys.argv[1]) * t["median_ts"]) - 1) < 0.02, t' "$ternary"
    "$bench" -m tiny.gguf "${quick[@]}" -o csv >out.csv 2>/dev/null
    holds "bench -o csv: rows as long as the heading" python3 -c '
import csv
rows = list(csv.reader(open("out.csv")))
assert len(rows) == 3 and len(rows[0]) == len(rows[1]) == len(rows[2])'
else
    skip "bench -o json and -o csv in detail: no python3"
fi

table=$("$bench" -m tiny.gguf -p 0 -n 4 -npl 1,3 -d 0,8 -r 2 --loads 2 "${small[@]}")
matches "bench -npl: a row for one sequence" "$table" '\| +tg4 \| .* % \| +\|$'
matches "bench -npl: and for three, with the cost of a pass" "$table" '\| +tg4@b3 @ d8 \| .* [0-9]+\.[0-9]+ x \|$'
equal "bench -npl: two depths, two numbers of sequences" "$(count "$table")" 4
matches "bench: the bandwidth below the table" "$table" '^read bandwidth, [0-9]+ threads?: [0-9.]+ / .* GB/s '
matches "bench --loads: load times with a warm cache" "$table" '^load again, .*\(min / median / max of 2\)'
matches "bench: memory" "$table" '^memory while loading: at most .*, of which pages of files '
if [ -n "$python" ]; then
    "$bench" -m tiny.gguf -p 0 -n 4 -npl 1,16 -r 3 --no-read -o json >out.json 2>/dev/null
    holds "bench -npl -o json: all sequences count, a pass costs what the times say" python3 -c '
import json, statistics
one, many = json.load(open("out.json"))
assert one["n_parallel"] == 1 and one["step_cost"] == 0 and one["samples_one_ns"] == []
assert many["n_parallel"] == 16 and len(many["samples_one_ns"]) == 3
ns = statistics.median(many["samples_ns"])
assert abs(many["median_ts"] * ns / (4 * 16 * 1e9) - 1) < 0.01
assert abs(many["step_cost"] * statistics.median(many["samples_one_ns"]) / ns - 1) < 0.01
assert many["bytes_per_token"] < one["bytes_per_token"] and many["read_share"] == 0 and many["peak_share"] == 0'
fi
equal "bench --layout all: a row for each" "$(count "$("$bench" -m tiny.gguf -p 4 -n 0 -r 1 --no-read --layout all)")" 5

# The products alone. Plain C is left out unless it is named or all there is.
table=$("$bench" --matmul -p 1,9 -r 2 -t 1 "${small[@]}")
matches "bench --matmul: the columns" "$table" '^\| kernels +\| layout \| threads \| +matrix \| tokens \| +ms \| .*of read \| .*of peak \|'
rows=$(grep -Ec '\| +([0-9]+x[0-9]+|layer) \|' <<<"$table")
sets=$("$bench" --matmul -p 1 -r 1 -t 1 --no-read "${small[@]}" | grep -c '| *layer |')
equal "bench --matmul: four matrices and their sum, for each product and number of tokens" "$rows" $((sets * 2 * 5))
matches "bench --matmul --kernels scalar" "$("$bench" --matmul --kernels scalar -p 1 -r 1 -t 2 --no-read "${small[@]}")" \
    '^\| scalar +\| r16 +\| +2 \| +2560x6912 \| +1 \|'
if [ -n "$python" ]; then
    "$bench" --matmul -p 1,9 -r 2 -t 1 "${small[@]}" -o json >out.json 2>/dev/null
    holds "bench --matmul -o json: the figures belong together" python3 -c '
import json, sys
rows = json.load(open("out.json"))
assert len(rows) == int(sys.argv[1])
for r in rows:
    assert r["median_ms"] > 0 and r["read_share"] > 0 and (r["peak_share"] > 0) == (r["unit"] != "")
    assert abs(r["gb_per_s"] * r["median_ms"] / (r["bytes"] * 1e-6) - 1) < 0.2       # small numbers are cut
    if r["matrix"] != "layer":
        m, n = map(int, r["matrix"].split("x"))
        bits = {"r16": 2, "t5": 1.6}[r["layout"]]
        assert abs(r["bytes"] * 8 / (m * n * bits) - 1) < 0.01 and r["p25_ms"] <= r["median_ms"] <= r["p75_ms"]' "$rows"
    for mode in "--matmul -t 1" "-m tiny.gguf -n 2 -t 1"; do
        # shellcheck disable=SC2086
        "$bench" $mode -p 1,9 -r 1 --no-read "${small[@]}" -o csv >out.csv 2>/dev/null
        holds "bench ${mode%% *} -o csv: rows as long as the heading" python3 -c '
import csv
rows = list(csv.reader(open("out.csv")))
assert len(rows) > 3 and {len(r) for r in rows} == {len(rows[0])} and len(set(rows[0])) == len(rows[0])'
    done
fi
for mode in "--matmul -p 1,9" "-m tiny.gguf -p 8 -n 2 -npl 1,2"; do
    # shellcheck disable=SC2086
    "$bench" $mode -r 1 -t 1 "${small[@]}" --kernels all -o svg >out.svg 2>/dev/null
    if command -v xmllint >/dev/null; then holds "bench ${mode%% *} -o svg is XML" xmllint --noout --nonet out.svg
    elif [ -n "$python" ]; then holds "bench ${mode%% *} -o svg is XML" python3 -c 'import xml.dom.minidom as m; m.parse("out.svg")'
    else skip "bench ${mode%% *} -o svg is XML: neither xmllint nor python3"; fi
    equal "bench ${mode%% *} -o svg: no script, nothing from outside, only numbers" \
        "$(grep -Eci '<script|href|url\(|@import|nan|[^a-z]inf[^a-z]' out.svg)" 0
    matches "bench ${mode%% *} -o svg: reading is a line" "$(cat out.svg)" '>read [0-9.]+ GB/s</text>'
    for name in $kernels; do
        matches "bench ${mode%% *} -o svg: $name has points" "$(cat out.svg)" "<title>$name (r16|t5), [^<]*: [0-9.e+]+ GOPS</title>"
    done
    if [ -n "$python" ]; then
        holds "bench ${mode%% *} -o svg: no label on another, none outside" python3 -c '
import re
svg = open("out.svg").read()
width, height = map(int, re.search(r"width=\"(\d+)\" height=\"(\d+)\"", svg).groups())
boxes = []
for x, y, place, text in re.findall(r"<text x=\"([^\"]*)\" y=\"([^\"]*)\" text-anchor=\"(\w+)\"[^>]*>([^<]*)<", svg):
    x, y, w = float(x), float(y), 6.5 * len(text)
    x -= {"start": 0, "middle": w / 2, "end": w}[place]
    assert 0 <= x and x + w <= width and 10 <= y <= height, text
    for other, a, b, c in boxes:
        assert x >= a + c or a >= x + w or abs(y - b) >= 11, (text, other)
    boxes.append((text, x, y, w))
assert len(boxes) > 10'
    else
        skip "bench ${mode%% *} -o svg in detail: no python3"
    fi
done

exits "bench -o xml: exit 2" 2 "xml" "$bench" -m tiny.gguf -o xml
exits "bench -t x: exit 2" 2 "'x'" "$bench" -m tiny.gguf -t x
exits "bench, unknown kernels: exit 2" 2 "nonsense" "$bench" -m tiny.gguf --kernels nonsense
exits "bench, no kernels: exit 2" 2 "kernel" "$bench" -m tiny.gguf --kernels ""
exits "bench --layout r17: exit 2" 2 "r17" "$bench" -m tiny.gguf --layout r16,r17
exits "bench -npl, an empty list: exit 2" 2 "-npl" "$bench" -m tiny.gguf -npl ""
exits "bench -npl 0: exit 2" 2 "-npl" "$bench" -m tiny.gguf -npl 1,0
exits "bench -npl 65: exit 2" 2 "-npl" "$bench" -m tiny.gguf -npl 65
exits "bench -n -1: exit 2" 2 "'-1'" "$bench" -m tiny.gguf -n -1
exits "bench -p 99999999999: exit 2" 2 "99999999999" "$bench" -m tiny.gguf -p 99999999999
exits "bench -p 1,: exit 2" 2 "-p" "$bench" -m tiny.gguf -p 1,
exits "bench -p, 33 values: exit 2" 2 "32" "$bench" -m tiny.gguf -p "$(seq -s, 33)"
exits "bench -r 0: exit 2" 2 "-r" "$bench" -m tiny.gguf -r 0
exits "bench --loads -1: exit 2" 2 "--loads" "$bench" -m tiny.gguf --loads -1
exits "bench --buffer 0: exit 2" 2 "--buffer" "$bench" -m tiny.gguf --buffer 0
exits "bench -o svg, two numbers of threads: exit 2" 2 "svg" "$bench" -m tiny.gguf -o svg -t 1,2
exits "bench --matmul with a model: exit 2" 2 "--matmul" "$bench" --matmul -m tiny.gguf
exits "bench --matmul -n: exit 2" 2 "--matmul" "$bench" --matmul -n 4
exits "bench --matmul -p 5000: exit 2" 2 "5000" "$bench" --matmul -p 5000
exits "bench --matmul, a layout without kernels: exit 2" 2 "t5" "$bench" --matmul --kernels scalar --layout t5
"$bench" -m tiny.gguf -p 0 -n 64 -r 1000 --no-read >interrupted.txt 2>stderr.txt &
pid=$!
sleep 1
kill -INT $pid
wait $pid
status=$?
equal "bench, Ctrl-C: exit 130" $status 130
matches "bench, Ctrl-C: prints what it has" "$(cat interrupted.txt)" '\| +tg64 \| .* ± '

finish tools
