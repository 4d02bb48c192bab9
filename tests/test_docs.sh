#!/bin/sh
# What README.md says must be true: its example compiles and runs, its make targets and files exist.

cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
CC=${CC:-cc}
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0
skipped=0

pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL $*"; }

# The first C block of the README, by the command the README gives for it.
awk '/^```c$/ { on = 1; next } /^```$/ { if (on) exit } on' README.md > "$scratch/app.c"
cp bitnet.h "$scratch/"
if [ ! -s "$scratch/app.c" ]; then
    fail "README.md holds no C example"
elif ! (cd "$scratch" && $CC -O2 -Wall -Wextra -Werror -o a.out app.c -lpthread -lm) > "$scratch/cc.txt" 2>&1 < /dev/null; then
    fail "the example of README.md does not compile:"
    cat "$scratch/cc.txt"
else
    pass
    if ! "$BUILD/synth" --seed 1 -o "$scratch/model.gguf" > "$scratch/synth.txt" 2>&1 < /dev/null; then
        fail "no model for the example: $(cat "$scratch/synth.txt")"
    elif "$scratch/a.out" "$scratch/model.gguf" "Once upon a time" > "$scratch/text" 2> "$scratch/err" < /dev/null && [ -s "$scratch/text" ]; then
        pass
    else
        fail "the example of README.md prints no text: $(head -n 5 "$scratch/err")"
    fi
    if "$scratch/a.out" "$scratch/no-such-file.gguf" "x" > "$scratch/text" 2> "$scratch/err" < /dev/null; then
        fail "the example of README.md ends well without a model"
    elif [ -s "$scratch/err" ] && [ ! -s "$scratch/text" ]; then
        pass
    else
        fail "the example of README.md says nothing about a missing model"
    fi
fi

# Targets: README.md, make help and the Makefile must agree.
readme_targets=$(grep -o 'make [a-z][a-z-]*' README.md | awk '{ print $2 }' | grep -v -x 'sure\|up' | sort -u)
help_targets=$(make -s help | sed -n 's/^make \([a-z][a-z-]*\) .*/\1/p')
for target in $readme_targets $help_targets $(grep -o '`test-[a-z]*`' README.md | tr -d '`' | sort -u); do
    if grep -q "^$target:" Makefile; then pass; else fail "there is no target '$target' in the Makefile"; fi
done
for target in run test test-unit test-compile test-hashes test-configs test-sanitize test-valgrind test-all bench size clean install; do
    case " $(echo $help_targets) " in *" $target "*) pass ;; *) fail "make help does not mention '$target'" ;; esac
done

# Files and programs that README.md names.
for file in $(grep -o '`\(examples\|tools\|tests\)/[A-Za-z0-9_./]*`' README.md | tr -d '`' | sort -u) LICENSE Makefile bitnet.h; do
    if [ -f "$file" ] || [ -d "$file" ]; then pass; else fail "README.md names $file, which does not exist"; fi
done
for program in $(grep -o 'build/[a-z_]*' README.md | sort -u); do
    name=${program#build/}
    [ -n "$name" ] || continue
    if [ -f "examples/$name.c" ] || [ -f "tools/$name.c" ] || grep -q "(BUILD)/$name\b" Makefile; then pass; else fail "README.md names $program, which nothing builds"; fi
done

# Every program of the repository is in README.md's table.
for file in examples/*.c examples/server/server.c tools/*.c; do
    if grep -q "$file" README.md; then pass; else fail "README.md does not mention $file"; fi
done

# Macros that README.md names are ones that bitnet.h knows, or variables that programs read.
for macro in $(grep -o 'BITNET_[A-Z0-9_]*' README.md | sort -u); do
    if grep -q "\b$macro\b" bitnet.h tools/cli.h examples/python/bitnet.py; then pass
    else fail "README.md names $macro, which nothing knows"; fi
done

echo "test_docs: $passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
