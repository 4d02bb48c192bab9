#!/bin/bash
# Several servers behind nginx and behind HAProxy, with the configurations of examples/server (tests/proxy_test.py).
# Skipped where a proxy or python3 is missing. Environment: BUILD (build).
. "$(dirname "$0")/check.bash"
built server synth
PATH=$PATH:/usr/sbin                                   # where Debian has both, and users do not look
command -v python3 >/dev/null 2>&1 || { skip "all of it: no python3 on this machine"; finish proxy; }
proxies=
for program in nginx haproxy; do
    if command -v $program >/dev/null 2>&1; then proxies="$proxies $program"
    else skip "$program: it is not on this machine"; fi
done
[ -n "$proxies" ] || finish proxy
"$build/synth" --shape small --seed 1 --ctx 4096 -o slow.gguf >/dev/null || not_ok "a model by synth"
timeout 120 python3 "$root/tests/proxy_test.py" "$build" "$root" "$dir" $proxies 2>&1 | tee out.txt
[ "${PIPESTATUS[0]}" -le 1 ] || not_ok "proxy_test.py did not run to its end"
passed=$((passed + $(grep -c '^ok - ' out.txt))) failed=$((failed + $(grep -c '^not ok - ' out.txt)))
finish proxy
