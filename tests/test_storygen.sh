#!/usr/bin/env bash
# test_storygen.sh: the corpus of tools/storygen.c and the judge of tools/world.h.
#
#     BUILD=build tests/test_storygen.sh
#
# Prints one line for each check, and at the end "test_storygen: N passed, N failed, N skipped"; exits 1 if one failed.
. "$(dirname "$0")/check.bash"

sum() { cksum <"$1" | cut -d' ' -f1; }

storygen=$build/storygen
built storygen

# ------------------------------------------------------------------------------------------------ command line
matches "--help" "$("$storygen" --help)" "^usage: storygen "
matches "--version" "$("$storygen" --version)" "^storygen .*[0-9]+\.[0-9]+"
exits "an unknown option: exit 2" 2 "no-such" "$storygen" --no-such
exits "-n x: exit 2" 2 "whole number" "$storygen" -n x
exits "-n -1: exit 2" 2 "whole number" "$storygen" -n -1
exits "--only poem: exit 2" 2 "poem" "$storygen" --only poem
exits "an argument: exit 2" 2 "unexpected" "$storygen" what
exits "--quiz and --words: exit 2" 2 "exclude" "$storygen" --quiz 1 --words
exits "--check of a file that is not there: exit 1" 1 "nosuch" "$storygen" --check nosuch.txt
exits "-o into a folder that is not there: exit 1" 1 "nosuch" "$storygen" -n 1 -o nosuch/x.txt
if [ -c /dev/full ]; then
    exits "-o on a full disk: exit 1" 1 "space" "$storygen" -n 100 -o /dev/full
    exits "stdout on a full disk: exit 1" 1 "output" bash -c '"$0" -n 1000 >/dev/full' "$storygen"
else
    skip "full disk: no /dev/full"
fi
echo old >old.txt
exits "a wrong option leaves the old file" 2 "" "$storygen" -o old.txt --only poem
equal "... as it was" "$(cat old.txt)" old

# ----------------------------------------------------------------------------------------------------- corpus
"$storygen" -n 3000 --seed 5 -o a.txt
"$storygen" -n 3000 --seed 5 >b.txt
"$storygen" -n 3000 --seed 6 >c.txt
"$storygen" -n 300 --seed 5 --held-out -o h.txt
holds "the same seed writes the same bytes, to a file and to stdout" cmp a.txt b.txt
differ "another seed writes others" "$(sum a.txt)" "$(sum c.txt)"
equal "3000 documents" "$(grep -c '<|end_of_text|>$' a.txt)" 3000
equal "... one a line" "$(wc -l <a.txt | tr -d ' ')" 3000
[ ! -e a.txt.part ] && ok "no half-written file stays" || not_ok "no half-written file stays"
chats=$(grep -c '^User: ' a.txt)
told=$(grep -c '^User: .*<|eot_id|>Assistant: .*[Tt]he end\.\|^User: .*happily ever after\|^User: .*end of the story' a.txt)
between "about 60 % are chats" "$chats" 1650 1950
between "... in about 26 % a story is told" "$told" 650 900
equal "every chat keeps to the template" "$(grep '^User: ' a.txt |
    grep -Evc '^(User: [^<]+<\|eot_id\|>Assistant: [^<]+<\|eot_id\|>)+<\|end_of_text\|>$')" 0
equal "every story ends like one" "$(grep -v '^User: ' a.txt |
    grep -Evc '(The end\.|end of the story\.|happily ever after\.)<\|end_of_text\|>$')" 0
between "words and marks of the longest document" "$(sed 's/<|[a-z_]*|>/ @ /g; s/[.,?!":]/ & /g' a.txt |
    awk '{ if (NF > m) m = NF } END { print m }')" 120 200
equal "ASCII only, no two blanks" "$(LC_ALL=C grep -c '[^ -~]\|  ' a.txt)" 0
equal "no 'a' before a vowel, no 'an' before another letter" \
    "$(grep -Eic '(^|[ "])(a [aeiou]|an [^aeiou])' a.txt)" 0

"$storygen" -n 10000 --seed 9 --only story >s.txt
"$storygen" -n 10000 --seed 10 --only story >s2.txt
"$storygen" -n 1000 --seed 9 --only story --held-out >sh.txt
equal "10000 stories, all different" "$(sort -u s.txt | wc -l | tr -d ' ')" 10000
equal "two seeds share none" "$(sort s.txt s2.txt | uniq -d | wc -l | tr -d ' ')" 0
equal "held-out stories are not in training" "$(sort -u sh.txt | cat - s.txt s2.txt | sort | uniq -d | wc -l | tr -d ' ')" 0
"$storygen" -n 10000 --seed 11 --only facts >f.txt
"$storygen" -n 1000 --seed 12 --only facts --held-out >fh.txt
facts() { sed 's/^User: //; s/[^.]*<|eot_id|>Assistant: .*//' "$1" | sort -u; }
equal "held-out facts are not in training" "$({ facts f.txt; facts fh.txt; } | sort | uniq -d | wc -l | tr -d ' ')" 0

# ------------------------------------------------------------------------------------------------------- words
"$storygen" --words >words.txt 2>count.txt
between "distinct words" "$(wc -l <words.txt | tr -d ' ')" 1200 2200
equal "... the number on stderr" "$(cat count.txt)" "$(wc -l <words.txt | tr -d ' ') words"
holds "... sorted, no word twice" env LC_ALL=C sort -cu words.txt
equal "every word of the corpus is listed" "$(cat a.txt h.txt | sed 's/<|[a-z_]*|>/ /g; s/^User: / /; s/User: \|Assistant: / /g' |
    sed "s/'s / /g" | tr 'A-Z' 'a-z' | tr -c "a-z'" '\n' | sed "s/'s\$//" | sort -u | grep . |
    LC_ALL=C grep -vxFf words.txt | tr '\n' ' ')" ""

# ------------------------------------------------------------------------------------------------------- judge
matches "all generated stories are consistent" "$("$storygen" --check s.txt)" '^consistent 10000 of 10000; '
matches "... held-out ones, too" "$("$storygen" --check - <sh.txt)" '^consistent 1000 of 1000; '
matches "an empty file" "$("$storygen" --check - </dev/null)" '^consistent 0 of 0; parsed 0 of 0 sentences$'
story='Once upon a time there was a small fox named Ruby. Ruby had a red kite. Ruby had a friend named Tom, who was a bear.'
# judges NAME REGEX SENTENCES: of the story above and these
judges() { matches "$1" "$(printf '%s %s The end.' "$story" "$3" | "$storygen" --check -)" "$2"; }
good='^consistent 1 of 1' bad='^consistent 0 of 1'
judges "a good story" "$good" "One day the red kite slipped out of Ruby's pocket and was lost. Tom found the kite by the river. Of course the kite was given back to Ruby by him."
judges "another order" "$good" "Tom was afraid of thunder. The kite was a present from Ruby to Tom. In a safe place Tom kept the kite for many years."
judges "a wrong colour" "kite is red, not blue" "One day Ruby went to the park. Looking at the blue kite made Tom smile every day."
judges "a wrong colour, said plainly" "kite is red, not blue" "The colour of the kite was blue, and Ruby liked it."
judges "an unknown name" "nobody is named ben" "Ben found the kite by the river."
judges "a wrong kind" "there is no fish|no sentence" "The fish lived by the river."
judges "another kind" "there is no owl" "The owl lived by the river."
judges "an unknown thing" "there is no drum" "On the way home the drum was lost, because Ruby had left it somewhere."
judges "giving what one does not have" "not own .tom" "The kite was a present from Tom to Ruby."
judges "finding what is not lost" "not lost" "Tom found the kite by the river."
judges "losing it twice" "not own" "But one day the kite fell out of Ruby's bag. But one day the kite fell out of Ruby's bag."
judges "a second introduction" "introduced again" "Ruby's best friend was a duck named Tom."
matches "nobody that 'she' could be" "$(echo 'Once upon a time there was a small fox named Tom. She loved reading. The end.' |
    "$storygen" --check -)" "nobody that 'she'"
judges "a sentence outside the grammar" "no sentence" "Ruby flew the the kite."
judges "'an' where 'a' belongs" "$bad" "Tom had an blue ball."
judges "no capital" "$bad" "tom had a blue ball."
judges "the number of parsed sentences" "parsed 4 of 5" "Ruby drank petrol."

# -------------------------------------------------------------------------------------------------------- quiz
"$storygen" --quiz 500 --seed 3 >q.txt
"$storygen" --quiz 500 --seed 3 -o q2.txt
holds "the same questions again" cmp q.txt q2.txt
equal "500 questions" "$(wc -l <q.txt | tr -d ' ')" 500
equal "key, answer and an odd number of messages" "$(awk -F '\t' 'NF < 3 || NF % 2 == 0' q.txt | wc -l | tr -d ' ')" 0
equal "every answer holds its key" "$(awk -F '\t' 'index($2, $1) == 0' q.txt | wc -l | tr -d ' ')" 0
equal "every key stands in what was said before, or is not said" "$(awk -F '\t' '$1 != "does not say" {
    said = ""; for (i = 3; i <= NF; i++) said = said " " $i; if (index(said, $1) == 0) print }' q.txt | wc -l | tr -d ' ')" 0

# --------------------------------------------------------------------------------------- stories with one mistake
cat >mutate.c <<'END'
/* Changes one word in each of many stories; prints how many of 1000 changed stories the judge takes for good. */
#include "tools/world.h"
static world w;
static int name_at(const world_token *t, int n)
{
    int size, e = world_entry_at(&w, WC_GIRL, t, n, 1, &size);
    if (e >= 0) return e;
    e = world_entry_at(&w, WC_BOY, t, n, 1, &size);
    return e < 0 ? -1 : e + w.n_entries[WC_GIRL];
}
/* What stands at t in the class, -1: nothing. -1: names; -2: any word (but not one that may be left out). */
static int found(int class_, const world_token *t, int n, const char *text)
{
    int size, e;
    if (class_ == -1) return name_at(t, n);
    if (class_ >= 0) {
        e = world_entry_at(&w, class_, t, n, 0, &size);
        return size == 1 ? e : -1;
    }
    if (!world_is_letter(text[t->at]) || world_entry_at(&w, WC_COLOUR, t, n, 0, &size) >= 0 ||
        world_entry_at(&w, WC_TRAIT, t, n, 0, &size) >= 0 || world_entry_at(&w, WC_FINE, t, n, 0, &size) >= 0)
        return -1;
    return 0;
}
int main(void)
{
    static const char *const what[] = {"colour", "kind", "thing", "name", "word"};
    static const int class_of[] = {WC_COLOUR, WC_KIND, WC_OBJECT, -1, -2};
    static world_token t[WORLD_CHECK_TOKENS];
    static char text[WORLD_MAX_TEXT], bad[WORLD_MAX_TEXT + 100];
    uint64_t rng = 12345;
    int k;
    world_init(&w);
    for (k = 0; k < 5; k++) {
        int tried = 0, missed = 0;
        while (tried < 1000) {
            int i, n, at = -1, found_at = 0, first, seen[256] = {0}, c = 0, a, b;
            const char *new_word = "";
            world_verdict v;
            if (world_story(&w, world_random(&rng), text, sizeof text) < 0) return 1;
            n = world_cut(&w, text, strlen(text), t);
            for (i = 0; i < n; i++) {                    /* a place at random, not the first mention */
                const int e = found(class_of[k], t + i, n - i, text);
                if (e >= 0 && (k == 4 || seen[e]++) && world_below(&rng, ++c) == 0) at = i, found_at = e;
            }
            if (at < 0) continue;
            if (k == 0 && text[t[at].at] == 'o') continue;             /* orange: the only colour with "an" */
            first = t[at].at;
            a = first + t[at].size;
            if (k < 3) {
                do b = world_below(&rng, w.n_entries[class_of[k]]);
                while (b == found_at || w.entry[class_of[k]][b].n != 1 ||
                       !strchr("aeiou", *world_text(&w, w.entry[class_of[k]][b].word[0])) != !strchr("aeiou", text[first]));
                new_word = world_text(&w, w.entry[class_of[k]][b].word[0]);
            } else if (k == 3) {                         /* the name of another who is in this story */
                for (c = 0, b = -1, i = 0; i < n; i++) {
                    const int e = name_at(t + i, n - i);
                    if (e >= 0 && e != found_at && world_below(&rng, ++c) == 0) b = e;
                }
                if (b < 0) continue;
                new_word = world_text(&w, world_name(&w, b)->word[0]);
            } else if (first > 0) {
                first--;
            }
            snprintf(bad, sizeof bad, "%.*s%s%s", first, text, new_word, text + a);
            if (k == 3) bad[first] = (char)(bad[first] - 'a' + 'A');
            world_check(&w, bad, strlen(bad), &v);
            tried++;
            missed += v.consistent;
        }
        printf("%s %d\n", what[k], missed);
    }
    return 0;
}
END
# shellcheck disable=SC2086
if ${CC:-cc} ${CFLAGS:--O2} -std=c99 -I"$root" mutate.c -o mutate 2>cc.txt; then
    timeout 100 ./mutate >mutate.txt || not_ok "mutate runs" "$(cat mutate.txt)"
    for what in colour kind thing name word; do
        missed=$(sed -n "s/^$what //p" mutate.txt)
        case $what in name) limit=50 ;; *) limit=20 ;; esac
        between "a wrong $what passes in fewer than $limit of 1000 stories" "${missed:-9999}" 0 $limit
    done
else
    not_ok "mutate.c compiles" "$(cat cc.txt)"
fi

finish test_storygen
