#!/bin/bash
# The server as its clients use it, and misuse it: tests/server_test.py, in plain python3.
# Environment: BUILD (build).
. "$(dirname "$0")/check.bash"
built server synth generate logits tokenize
if ! command -v python3 >/dev/null 2>&1; then
    skip "all of it: no python3 on this machine"
    finish server
fi
"$build/synth" --shape small --seed 1 --ctx 4096 -o slow.gguf >/dev/null || not_ok "a model by synth"
timeout 600 python3 "$root/tests/server_test.py" "$build" "$root" "$dir" | tee out.txt
[ "${PIPESTATUS[0]}" -le 1 ] || not_ok "server_test.py did not run to its end"
passed=$((passed + $(grep -c '^ok - ' out.txt))) failed=$((failed + $(grep -c '^not ok - ' out.txt)))
skipped=$((skipped + $(grep -c '^skip - ' out.txt)))
finish server
