#!/bin/sh
# Prints the lines of bitnet.h by section (>>name in a banner), the share of comments, and the bytes of code.

awk '
# Lines that are comment from first to last column count as comment; code with a remark behind it counts as code.
function classify(line,    rest)
{
    rest = line
    gsub(/^[ \t]+|[ \t]+$/, "", rest)
    if (inside) {
        if (rest ~ /\*\/$/) inside = 0
        else if (rest ~ /\*\//) inside = 0
        return "comment"
    }
    if (rest == "") return "blank"
    if (rest ~ /^\/\*/) {
        if (rest !~ /\*\//) { inside = 1; return "comment" }
        sub(/^\/\*.*\*\//, "", rest)
        return rest ~ /^[ \t]*$/ ? "comment" : "code"
    }
    if (rest ~ /^\/\//) return "comment"
    gsub(/\/\*[^*]*\*\//, "", rest)
    gsub(/"([^"\\]|\\.)*"/, "", rest)
    if (rest ~ /\/\*/) inside = 1
    return "code"
}
BEGIN { n = 1; name[1] = "(front)" }
/^ *>>[a-z0-9_-]+ / && previous ~ /^\/\* ?====/ { n++; name[n] = $1; total[n - 1]--; total[n]++; kind[n - 1, "comment"]--; kind[n, "comment"]++ }
{ kind[n, classify($0)]++; total[n]++; previous = $0 }
function row(label, lines, code, comment, blank)
{
    printf "%-14s %6d %6d %8d %6d   %3.0f %%\n", label, lines, code, comment, blank, lines ? 100 * comment / lines : 0
}
END {
    printf "%-14s %6s %6s %8s %6s   %s\n", "section", "lines", "code", "comment", "blank", "comment share"
    for (i = 1; i <= n; i++) {
        row(name[i], total[i], kind[i, "code"], kind[i, "comment"], kind[i, "blank"])
        lines += total[i]; code += kind[i, "code"]; comment += kind[i, "comment"]; blank += kind[i, "blank"]
    }
    row("total", lines, code, comment, blank)
}' bitnet.h

scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
for compiler in gcc clang; do
    command -v $compiler >/dev/null 2>&1 || continue
    for flags in "-O2" "-O2 -DBITNET_NO_SIMD"; do
        $compiler -std=c99 $flags -I. -x c -DBITNET_IMPLEMENTATION -c -o "$scratch/a.o" bitnet.h 2>/dev/null || continue
        echo "code, $compiler $flags: $(size "$scratch/a.o" | awk 'NR == 2 { print $1 " bytes" }')"
    done
done
