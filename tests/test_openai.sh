#!/bin/bash
# The openai package from npm, as people's programs use it, against the server (tests/test_openai.mjs). It depends on no
# other package, so its archive is fetched once, in this version and no other, into BUILD/openai, without npm. Skipped
# where node, python3 or a network is missing. Environment: BUILD (build).
. "$(dirname "$0")/check.bash"
built server
version=7.57.0
sha512=45b9ab744e4d75f5ba9c6abf15a089dca142669a2da04c4fcebb905123024f0fe8b9414ed3cbe9bd57529a098fc50305022bfd117642117bdc59853e9fa373b1
for program in node python3; do
    command -v $program >/dev/null 2>&1 || { skip "all of it: no $program on this machine"; finish openai; }
done
# Puts the package into its place, if it is the right one.
fetch()
{
    timeout 60 python3 - "https://registry.npmjs.org/openai/-/openai-$version.tgz" "$sha512" package.tgz <<'END' || return
import hashlib, ssl, sys, urllib.request
url, want, name = sys.argv[1:]
# A bare system has no certificates. The hash says whether it is what was asked for.
data = urllib.request.urlopen(url, timeout=30, context=ssl._create_unverified_context()).read()
if hashlib.sha512(data).hexdigest() != want:
    sys.exit("another archive came than the one of that hash")
open(name, "wb").write(data)
END
    rm -rf "$build/openai"
    mkdir -p "$build/openai/node_modules" && tar -xzf package.tgz && mv package "$build/openai/node_modules/openai"
}
if ! grep -q "\"version\": \"$version\"" "$build/openai/node_modules/openai/package.json" 2>/dev/null &&
   ! fetch 2> fetch.txt; then
    if grep -q 'another archive' fetch.txt; then not_ok "the openai package" "$(cat fetch.txt)"
    else skip "all of it: the openai package cannot be fetched: $(tail -n 1 fetch.txt)"; fi
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
