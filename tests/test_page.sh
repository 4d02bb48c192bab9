#!/bin/bash
# The server's page in a real browser (tests/test_page.mjs), driven over Chromium's DevTools protocol by node alone. Skipped where
# there is no Chromium or no node. Environment: BUILD (build), CHROMIUM (a browser's program).
. "$(dirname "$0")/check.bash"
built server synth
browser=
for program in ${CHROMIUM:-chromium chromium-browser google-chrome google-chrome-stable}; do
    browser=$(command -v "$program") && break
done
[ -n "$browser" ] || { skip "all of it: no Chromium on this machine"; finish page; }
command -v node >/dev/null 2>&1 || { skip "all of it: no node on this machine"; finish page; }
"$build/synth" --shape small --seed 1 --ctx 4096 -o slow.gguf >/dev/null || not_ok "a model by synth"
servers=
trap 'kill $servers 2>/dev/null; rm -rf "$dir"' EXIT
# serve NAME OPTION...: a server on a free port; its address goes to NAME.txt.
serve() { local name=$1; shift; "$build/server" -t 1 --port 0 "$@" > "$name.txt" 2> "$name.log" & servers="$servers $!"; }
serve stories -m "$root/examples/stories.gguf"
stories=$!
serve slow -m slow.gguf -np 1
slow=$!
serve closed -m "$root/examples/stories.gguf" --api-key sk-test --temp 0.3 -n 77
for i in $(seq 100); do [ -s stories.txt ] && [ -s slow.txt ] && [ -s closed.txt ] && break; sleep 0.1; done
address() { sed 's/.*listening on //' "$1.txt"; }
timeout 300 node "$root/tests/test_page.mjs" "$browser" "$dir/profile" "$(address stories)" "$(address slow)" $slow "$(address closed)" > out.txt 2>&1
status=$?
cat out.txt
passed=$(grep -c '^ok - ' out.txt) failed=$(grep -c '^not ok - ' out.txt)
[ $status = 0 ] || [ "$failed" -gt 0 ] || not_ok "test_page.mjs ended with status $status"
kill $stories
wait $stories
equal "the server's exit status" $? 0
finish page
