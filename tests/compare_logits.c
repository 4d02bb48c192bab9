/* Compares the logits of bitnet.h with those of tests/reference.c and says whether they agree.

       cc -O2 tests/compare_logits.c -o compare_logits -lm
       build/logits MODEL --tokens 1,2,3 --all -o ENGINE
       reference MODEL --tokens 1,2,3 --stable 4 -o REFERENCE
       compare_logits ENGINE REFERENCE

   ENGINE      little-endian float32 [n, n_vocab]
   REFERENCE   little-endian float64 or float32 (told apart by the size); n, n_vocab and how far noise moves each
               position come from the text file REFERENCE.stable

       --stable FILE      instead of REFERENCE.stable
       --still D          a position is stable if noise moves it by less than D (1e-5)
       --limit D          largest median difference at stable positions (1e-4)
       --share S          this part of the stable positions must lie below the limit (0.75)
       --loose D          largest difference at any position (0.3)
       --ratio R          largest median at the other positions, in units of the median movement by noise (2)
       --tie D            different top tokens are forgiven if their logits are this close (1e-6)
       --min-stable N     stable positions there must be (8)
       --min-block N      stable positions there must be in every full block of 64 (0)
       --rows             prints every position

   "Difference" is the root mean square of engine - reference, relative to that of the reference's row; "tie" too is
   relative to it. Each block of 64 positions is judged for itself: attention works in such blocks, and a mistake in the
   second one must not hide behind a good first one. In a block
     - the median difference of the stable positions must be below the limit, and so must be a share of them. Not all: noise
       finds the positions that can jump with some luck only, and one that jumps takes a few later ones along;
     - stable positions below the limit must agree in the likeliest token;
     - the others must not differ by more than noise moves them, in the median;
     - nothing may differ by more than the loose limit.
   The first two need 4 stable positions, the third 8 others: fewer have no median worth the name.

   Exit status 0: they agree. 1: they don't, or a file can't be used. 2: wrong usage. */

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64, FEW_STABLE = 4, FEW_OTHERS = 8 };

typedef struct {
    const char *engine, *reference, *stable;
    double still, limit, share, loose, ratio, tie, min_stable, min_block;
    int rows;
} options;

typedef struct { double difference, movement; int same_top, stable; } position;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("compare_logits: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void usage(void)
{
    fputs("usage: compare_logits ENGINE REFERENCE [--stable FILE] [--still D] [--limit D] [--share S] [--loose D] [--ratio R]\n"
          "                      [--tie D] [--min-stable N] [--min-block N] [--rows]\n", stderr);
    exit(2);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory) fail("out of memory");
    return memory;
}

/* ==== Reading =========================================================================================================== */

/* `count` little-endian floats of 4 or 8 bytes (0: whichever the file's size says) as doubles. */
static double *read_floats(const char *path, size_t count, size_t width)
{
    FILE *stream = fopen(path, "rb");
    unsigned char buffer[8];
    double *result = (double *)allocate(count, sizeof(double));
    long size;
    size_t i, b;
    if (!stream || fseek(stream, 0, SEEK_END) || (size = ftell(stream)) < 0 || fseek(stream, 0, SEEK_SET)) {
        fail("can't read %s", path);
        return result;
    }
    if (!width) width = (size_t)size == count * 8 ? 8 : 4;
    if ((size_t)size != count * width) fail("%s has %ld bytes instead of %lu", path, size, (unsigned long)(count * width));
    for (i = 0; i < count; i++) {
        uint64_t bits = 0;
        uint32_t bits32;
        float small;
        if (fread(buffer, 1, width, stream) != width) fail("can't read %s", path);
        for (b = width; b-- > 0;) bits = bits << 8 | buffer[b];
        bits32 = (uint32_t)bits;
        memcpy(&small, &bits32, 4);
        if (width == 8) memcpy(&result[i], &bits, 8);
        else result[i] = (double)small;
        if (!(fabs(result[i]) < HUGE_VAL)) fail("%s: value %lu is no finite number", path, (unsigned long)i);
    }
    fclose(stream);
    return result;
}

/* The header line of FILE.stable gives n and n_vocab; each further line a position and its movement. */
static position *read_stable(const char *path, unsigned long *n, unsigned long *n_vocab)
{
    FILE *stream = fopen(path, "r");
    position *result;
    unsigned long i, number;
    if (!stream) { fail("can't read %s", path); return NULL; }
    if (fscanf(stream, "# n %lu n_vocab %lu%*[^\n]", n, n_vocab) != 2 || !*n || !*n_vocab) fail("%s: no header line", path);
    result = (position *)allocate(*n, sizeof *result);
    for (i = 0; i < *n; i++)
        if (fscanf(stream, "%lu %lf", &number, &result[i].movement) != 2 || number != i) fail("%s: no line for position %lu", path, i);
    fclose(stream);
    return result;
}

/* ==== Comparing ========================================================================================================= */

static size_t top(const double *row, size_t n)
{
    size_t i, best = 0;
    for (i = 1; i < n; i++) if (row[i] > row[best]) best = i;
    return best;
}

static void compare_row(const options *o, const double *engine, const double *reference, size_t n, position *p)
{
    double difference = 0, size = 0;
    size_t i, a = top(engine, n), b = top(reference, n);
    for (i = 0; i < n; i++) {
        difference += (engine[i] - reference[i]) * (engine[i] - reference[i]);
        size += reference[i] * reference[i];
    }
    p->difference = difference == 0 ? 0 : sqrt(difference / size);
    p->same_top = a == b || reference[b] - reference[a] <= o->tie * sqrt(size / (double)n);
    p->stable = p->movement < o->still;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, ascending);
    return n ? values[n / 2] : 0;
}

/* Prints `what` where it is wrong. Result: 1 if wrong. */
static int wrong(int condition, const char *what)
{
    if (condition) printf("  WRONG: %s\n", what);
    return condition;
}

/* Judges the positions first..end-1 and prints one line about them. Result: number of violated rules. */
static int judge_block(const options *o, const position *p, size_t first, size_t end)
{
    double values[BLOCK], moved[BLOCK], stable_median, loose_median, moved_median, worst = 0;
    size_t i, n_stable = 0, n_loose = 0, n_good = 0, n_top = 0;
    int errors = 0;
    for (i = first; i < end; i++) {
        if (p[i].difference > worst) worst = p[i].difference;
        if (!p[i].stable) continue;
        n_good += p[i].difference <= o->limit;
        n_top += p[i].difference <= o->limit && p[i].same_top;
        values[n_stable++] = p[i].difference;
    }
    stable_median = median(values, n_stable);
    for (i = first; i < end; i++) {
        if (p[i].stable) continue;
        values[n_loose] = p[i].difference;
        moved[n_loose++] = p[i].movement;
    }
    loose_median = median(values, n_loose);
    moved_median = median(moved, n_loose);
    printf("  positions %lu-%lu: stable %lu, median difference %.1e, %lu within limit, %lu same top; "
           "others %lu, median %.1e, moved by noise %.1e; worst of all %.1e\n", (unsigned long)first, (unsigned long)end - 1,
           (unsigned long)n_stable, stable_median, (unsigned long)n_good, (unsigned long)n_top, (unsigned long)n_loose,
           loose_median, moved_median, worst);
    errors += wrong(n_stable >= FEW_STABLE && stable_median > o->limit, "the median difference at stable positions");
    errors += wrong(n_stable >= FEW_STABLE && (double)n_good < o->share * (double)n_stable, "too many stable positions beyond the limit");
    errors += wrong(n_top < n_good, "another top token at a stable position");
    errors += wrong(n_loose >= FEW_OTHERS && loose_median > o->ratio * moved_median, "the other positions differ by more than noise moves them");
    errors += wrong(worst > o->loose, "a position differs by more than rounding explains");
    errors += wrong(end - first == BLOCK && (double)n_stable < o->min_block, "too few stable positions in this block");
    return errors;
}

static double parse_number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0)) usage();
    return value;
}

static options parse_options(int argc, char **argv)
{
    options o = { NULL, NULL, NULL, 1e-5, 1e-4, 0.75, 0.3, 2, 1e-6, 8, 0, 0 };
    int i;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (!strcmp(name, "--rows")) { o.rows = 1; continue; }
        if (*name != '-') {
            if (o.reference) usage();
            if (o.engine) o.reference = name;
            else o.engine = name;
            continue;
        }
        if (++i == argc) usage();
        if (!strcmp(name, "--stable")) o.stable = argv[i];
        else if (!strcmp(name, "--still")) o.still = parse_number(argv[i]);
        else if (!strcmp(name, "--limit")) o.limit = parse_number(argv[i]);
        else if (!strcmp(name, "--share")) o.share = parse_number(argv[i]);
        else if (!strcmp(name, "--loose")) o.loose = parse_number(argv[i]);
        else if (!strcmp(name, "--ratio")) o.ratio = parse_number(argv[i]);
        else if (!strcmp(name, "--tie")) o.tie = parse_number(argv[i]);
        else if (!strcmp(name, "--min-stable")) o.min_stable = parse_number(argv[i]);
        else if (!strcmp(name, "--min-block")) o.min_block = parse_number(argv[i]);
        else usage();
    }
    if (!o.reference) usage();
    return o;
}

int main(int argc, char **argv)
{
    options o = parse_options(argc, argv);
    unsigned long n = 0, n_vocab = 0, i, n_stable = 0;
    char *path = (char *)allocate(strlen(o.reference) + 8, 1);
    double *engine, *reference;
    position *p;
    int errors = 0;
    sprintf(path, "%s.stable", o.reference);
    p = read_stable(o.stable ? o.stable : path, &n, &n_vocab);
    engine = read_floats(o.engine, n * n_vocab, 4);
    reference = read_floats(o.reference, n * n_vocab, 0);
    for (i = 0; i < n; i++) {
        compare_row(&o, engine + i * n_vocab, reference + i * n_vocab, n_vocab, &p[i]);
        n_stable += (unsigned long)p[i].stable;
        if (o.rows) printf("%lu difference %.2e noise %.2e%s%s\n", i, p[i].difference, p[i].movement,
                           p[i].stable ? " stable" : "", p[i].same_top ? "" : " other-top");
    }
    for (i = 0; i < n; i += BLOCK) errors += judge_block(&o, p, i, i + BLOCK < n ? i + BLOCK : n);
    errors += wrong((double)n_stable < o.min_stable, "too few stable positions to judge by");
    printf("%s: %lu positions, %lu stable\n", errors ? "DIFFERENT" : "same", n, n_stable);
    return errors != 0;
}
