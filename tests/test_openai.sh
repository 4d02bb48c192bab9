#!/bin/bash
# The openai package from npm, as people's programs use it, against the server (tests/test_openai.mjs). npm fetches it once, into
# BUILD/openai; skipped where node, npm or a network is missing. Environment: BUILD (build).
. "$(dirname "$0")/check.bash"
built server
for program in node npm; do
    command -v $program >/dev/null 2>&1 || { skip "all of it: no $program on this machine"; finish openai; }
done
mkdir -p "$build/openai"
if [ ! -d "$build/openai/node_modules/openai" ] &&
   ! timeout 120 npm install --prefix "$build/openai" --no-audit --no-fund --loglevel=error openai > npm.txt 2>&1; then
    skip "all of it: npm cannot fetch the openai package: $(tail -n 1 npm.txt)"
    finish openai
fi
"$build/server" -m "$root/examples/stories.gguf" --port 0 --api-key sk-test > port.txt 2> log.txt &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$dir"' EXIT
for i in $(seq 100); do [ -s port.txt ] && break; sleep 0.1; done
cp "$root/tests/test_openai.mjs" "$build/openai/test.mjs"      # where it finds the package
timeout 120 node "$build/openai/test.mjs" "$(sed 's/.*listening on //' port.txt)" > out.txt 2>&1
status=$?
cat out.txt
passed=$(grep -c '^ok - ' out.txt) failed=$(grep -c '^not ok - ' out.txt)
[ $status = 0 ] || [ "$failed" -gt 0 ] || not_ok "test_openai.mjs ended with status $status"
kill $server
wait $server
equal "the server's exit status" $? 0
finish openai
