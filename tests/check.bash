# check.bash: what the test scripts share. Sourced: it goes into a temporary folder, which goes away at the end.
#
#     . "$(dirname "$0")/check.bash"
#
# Sets root, build (absolute; from BUILD, default build) and passed, failed, skipped. LIMIT_S: seconds that exits allows a
# command (60).
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
cd "$root" || exit 1
build=$(cd "${BUILD:-build}" 2>/dev/null && pwd) || { echo "not ok - no folder ${BUILD:-build}"; exit 1; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
cd "$dir" || exit 1
passed=0 failed=0 skipped=0

ok() { passed=$((passed + 1)); echo "ok - $1"; }
# not_ok NAME [DETAIL]
not_ok() {
    failed=$((failed + 1))
    echo "not ok - $1"
    [ -z "${2:-}" ] || printf '%s\n' "$2" | head -8 | sed 's/^/    /'
}
skip() { skipped=$((skipped + 1)); echo "skip - $1"; }
# holds NAME COMMAND...: the command succeeds.
holds() { local name=$1; shift; local out; if out=$("$@" 2>&1); then ok "$name"; else not_ok "$name" "$out"; fi; }
# equal NAME A B
equal() { if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "'$2' is not '$3'"; fi; }
differ() { if [ "$2" != "$3" ]; then ok "$1"; else not_ok "$1" "both are '$2'"; fi; }
# matches NAME TEXT REGEX: some line of the text matches.
matches() { if grep -Eq -- "$3" <<<"$2"; then ok "$1"; else not_ok "$1" "no line like $3 in: $2"; fi; }
# between NAME VALUE MIN MAX: whole numbers.
between() { if [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; then ok "$1"; else not_ok "$1" "$2 is not from $3 to $4"; fi; }
# below NAME A B: number A is less than B.
below() { if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a != "" && a + 0 < b + 0) }'; then ok "$1 ($2 < $3)"; else not_ok "$1" "'$2' is not less than $3"; fi; }
# exits NAME STATUS REGEX COMMAND...: with that status, and a matching reason on stderr (empty: anything).
exits() {
    local name=$1 want=$2 reason=$3 status
    shift 3
    timeout "${LIMIT_S:-60}" "$@" >/dev/null 2>stderr.txt </dev/null
    status=$?
    if [ $status != "$want" ]; then not_ok "$name" "exit $status, not $want: $(cat stderr.txt)"
    elif [ -n "$reason" ] && ! grep -Eqi -- "$reason" stderr.txt; then not_ok "$name" "stderr: $(cat stderr.txt)"
    else ok "$name"; fi
}
# built TOOL...: gives up where one is not there.
built() { local t; for t; do [ -x "$build/$t" ] || { not_ok "$build/$t is not built"; exit 1; }; done; }
# finish NAME: the last line, and the exit status.
finish() {
    echo "$1: $passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
    exit
}
