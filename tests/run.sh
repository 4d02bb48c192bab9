#!/bin/sh
# Runs test programs and test scripts one after the other and adds up what they report.
#
#     sh tests/run.sh ITEM...          an ITEM is a built program, or a shell script (*.sh)
#
# An item's output must hold a line "NAME: N passed, N failed, N skipped"; the last such line counts. An item that
# exits with an error, prints no such line or runs nothing at all counts as a failure, whatever it says. Skips are
# printed with their reasons, failures in full. The last line of all is "N passed, N failed, N skipped"; the exit
# status is 1 if anything failed. Everything an item printed stays in $BUILD/log/NAME.log.
#
# Environment: BUILD    directory of the built programs (build)
#              RUNNER   command put before every program, e.g. "valgrind -q --error-exitcode=9" (none)
#              LIMIT    seconds an item may take where timeout(1) exists (900)

BUILD=${BUILD:-build}
RUNNER=${RUNNER:-}
LIMIT=${LIMIT:-900}
export BUILD

log_dir=$BUILD/log
mkdir -p "$log_dir" || exit 1

limit=
if command -v timeout >/dev/null 2>&1; then limit="timeout $LIMIT"; fi

passed=0
failed=0
skipped=0

# Sets p, f, s from the last summary line of file $1; leaves them empty where there is none.
read_summary()
{
    set -- $(sed -n 's/^\([^:]*: \)\{0,1\}\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed, \([0-9][0-9]*\) skipped *$/\2 \3 \4/p' "$1" | tail -n 1)
    p=${1:-} f=${2:-} s=${3:-}
}

print_log()
{
    echo "----- output of $1 -----"
    if [ "$(wc -l < "$2")" -gt 2000 ]; then
        head -n 1000 "$2"
        echo "----- ... cut here; all of it is in $2 -----"
        tail -n 1000 "$2"
    else
        cat "$2"
    fi
    echo "----- end of $1 -----"
}

for item in "$@"; do
    name=$(basename "$item" .sh)
    log=$log_dir/$name.log
    case $item in
        *.sh)
            shell=sh
            case $(head -n 1 "$item") in *bash*) shell=bash ;; esac
            if ! command -v $shell >/dev/null 2>&1; then
                echo "  $name: SKIP all of it: no $shell on this machine"
                skipped=$((skipped + 1))
                continue
            fi
            $limit $shell "$item" > "$log" 2>&1 < /dev/null ;;
        *)
            $limit $RUNNER "$item" > "$log" 2>&1 < /dev/null ;;
    esac
    status=$?
    read_summary "$log"

    why=
    if [ "$status" -eq 124 ] && [ -n "$limit" ]; then
        why="took longer than $LIMIT seconds"
    elif [ -z "$p" ]; then
        why="exit status $status and no line 'NAME: N passed, N failed, N skipped'"
    elif [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        why="reported no failure but exit status $status"
    elif [ "$status" -eq 0 ] && [ "$f" -ne 0 ]; then
        why="reported failures but exit status 0"
    elif [ $((p + f + s)) -eq 0 ]; then
        why="ran nothing"
    fi
    p=${p:-0} f=${f:-0} s=${s:-0}
    if [ -n "$why" ] && [ "$f" -eq 0 ]; then f=1; fi

    [ -n "$why" ] && echo "FAIL $name: $why"
    [ "$f" -ne 0 ] && print_log "$name" "$log"
    grep -i '^[^A-Za-z0-9]*skip' "$log" | sed "s/^/  $name: /"
    echo "$name: $p passed, $f failed, $s skipped"
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
done

if [ $# -eq 0 ]; then
    echo "FAIL run.sh: nothing to run"
    failed=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
