/* cli.h: what the programs around bitnet.h share: command-line arguments, numbers, files, a clock, progress.

   The engine itself never prints, exits or reads the environment; programs do, and they should all do it alike:
   exit 0 when done, 1 when it could not be done, 2 when the command line was wrong, the reason on stderr, and nothing
   but results on stdout. This header is that agreement. Include it first (it asks the system headers for POSIX):

       #include "tools/cli.h"
       #define BITNET_IMPLEMENTATION
       #include "bitnet.h"

       int main(int argc, char **argv)
       {
           int n = 128;
           double temp = 0.8;
           const char *args[1];
           cli_model_args where = {0};
           const cli_option options[] = {
               {"-n --n-predict", CLI_INT, &n, "N", "tokens to generate; -1: until the end", -1, INT_MAX},
               {"--temp", CLI_REAL, &temp, "T", "temperature; 0: greedy", 0, 100},
               CLI_MODEL_OPTIONS(where)
           };
           const cli_program program = {"demo", "[options] MODEL", "Shows how it is done.", NULL,
                                        options, CLI_COUNT(options), 1, 1};
           cli_parse(&program, argc, argv, args);        (exits 2 on mistakes, 0 after --help and --version)
           where.path = args[0];
           bitnet_model *model = cli_open_model(&where, 0);      (shows progress; exits 1 on failure)
           ...
           bitnet_model_close(model);
           return cli_finish_output();
       }

   Contents: ending; numbers; options; text and files; terminal; models. */
#ifndef BITNET_CLI_H
#define BITNET_CLI_H

/* -std=c99 hides clock_gettime, fileno and sigaction unless asked before the first system header. */
#if !defined(_DEFAULT_SOURCE)
#define _DEFAULT_SOURCE 1
#endif

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#else
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "bitnet.h"

/* A function of a header that not every program calls, without a warning where it is not called. */
#if defined(__GNUC__)
#define CLI_FN static __attribute__((unused))
#define CLI_PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#define CLI_NORETURN __attribute__((noreturn))
#else
#define CLI_NORETURN
#define CLI_FN static
#define CLI_PRINTF(format_at, args_at)
#endif

#define CLI_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* ----------------------------------------------------------------------------------------------- ending */

enum { CLI_EXIT_OK = 0, CLI_EXIT_FAILED = 1, CLI_EXIT_USAGE = 2, CLI_EXIT_INTERRUPTED = 130 };

/* The name that messages begin with; cli_parse sets it. */
static const char *cli_name = "bitnet";

CLI_FN void cli_vmessage(const char *format, va_list args)
{
    fflush(stdout);                            /* what was printed so far stays in front of the message */
    fprintf(stderr, "%s: ", cli_name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

/* One line on stderr: "name: text". */
CLI_PRINTF(1, 2) CLI_FN void cli_message(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    cli_vmessage(format, args);
    va_end(args);
}

/* It could not be done: message on stderr, exit 1. */
CLI_PRINTF(1, 2) CLI_NORETURN CLI_FN void cli_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    cli_vmessage(format, args);
    va_end(args);
    exit(CLI_EXIT_FAILED);
}

/* It was asked wrongly: message on stderr, exit 2. */
CLI_PRINTF(1, 2) CLI_NORETURN CLI_FN void cli_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    cli_vmessage(format, args);
    va_end(args);
    exit(CLI_EXIT_USAGE);
}

/* The exit status for the end of main: 0, or 1 and a message when stdout could not be written (a full disk). A reader
   that hung up is not a failure: `tool | head` is how people look at the beginning of things. */
CLI_FN int cli_finish_output(void)
{
    int bad = ferror(stdout);
    errno = 0;
    if (fflush(stdout) != 0) bad = 1;
    if (!bad || errno == EPIPE) return CLI_EXIT_OK;
    cli_message("cannot write the output%s%s", errno ? ": " : "", errno ? strerror(errno) : "");
    return CLI_EXIT_FAILED;
}

/* malloc that ends the program rather than return NULL. */
CLI_FN void *cli_alloc(size_t size)
{
    void *memory = malloc(size ? size : 1);
    if (!memory) cli_fail("out of memory (%.0f bytes)", (double)size);
    return memory;
}

CLI_FN void *cli_realloc(void *old, size_t size)
{
    void *memory = realloc(old, size ? size : 1);
    if (!memory) cli_fail("out of memory (%.0f bytes)", (double)size);
    return memory;
}

/* ---------------------------------------------------------------------------------------------- numbers */

/* 1 and *out if the whole of text is a number from min to max, else 0. */
CLI_FN int cli_read_int(const char *text, int min, int max, int *out)
{
    char *end;
    long v;
    errno = 0;
    v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < min || v > max) return 0;
    *out = (int)v;
    return 1;
}

CLI_FN int cli_read_real(const char *text, double min, double max, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= min && v <= max)) return 0;      /* written so that NaN fails */
    *out = v;
    return 1;
}

/* -1 is all ones, the usual spelling of "any" for seeds; other negative numbers are mistakes. */
CLI_FN int cli_read_u64(const char *text, uint64_t *out)
{
    char *end;
    if (strcmp(text, "-1") == 0) {
        *out = UINT64_MAX;
        return 1;
    }
    errno = 0;
    if (*text < '0' || *text > '9') return 0;                          /* strtoull would take "-5" and " 5" */
    *out = strtoull(text, &end, strncmp(text, "0x", 2) == 0 ? 16 : 10);
    return *end == 0 && errno == 0;
}

/* Numbers of a comma-separated list, e.g. "1,2,4"; at most capacity are written to out (which may then be NULL), but
   all are counted. Exits 2, naming the option, when an entry is not a number from min to max. */
CLI_FN int cli_read_list(const char *option, const char *text, int min, int max, int *out, int capacity)
{
    int n = 0;
    for (;;) {
        char number[24];
        size_t length = strcspn(text, ",");
        int v;
        if (length < sizeof number) memcpy(number, text, length);
        number[length < sizeof number ? length : 0] = 0;
        if (!cli_read_int(number, min, max, &v))
            cli_usage("%s: '%.*s' is not a whole number from %d to %d", option, (int)(length < 99 ? length : 99),
                      text, min, max);
        if (n < capacity) out[n] = v;
        n++;
        if (!text[length]) return n;
        text += length + 1;
    }
}

/* "1.13 GiB", written to text, which is also returned. */
CLI_FN const char *cli_size(char text[24], uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int unit = 0;
    while (v >= 1000 && unit < 4) v /= 1024, unit++;
    snprintf(text, 24, unit == 0 ? "%.0f %s" : v < 10 ? "%.2f %s" : v < 100 ? "%.1f %s" : "%.0f %s", v, units[unit]);
    return text;
}

/* "2.41 B": a count of weights or tokens, in powers of ten. */
CLI_FN const char *cli_count(char text[24], uint64_t count)
{
    static const char *const units[] = {"", " K", " M", " B", " T"};
    double v = (double)count;
    int unit = 0;
    while (v >= 1000 && unit < 4) v /= 1000, unit++;
    snprintf(text, 24, unit == 0 ? "%.0f%s" : v < 10 ? "%.2f%s" : v < 100 ? "%.1f%s" : "%.0f%s", v, units[unit]);
    return text;
}

/* Seconds since some fixed moment. clock() is wall time on Windows, and only there. */
CLI_FN double cli_seconds(void)
{
#if defined(_WIN32)
    return (double)clock() / CLOCKS_PER_SEC;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

/* ---------------------------------------------------------------------------------------------- options */

typedef enum cli_kind {
    CLI_HEADING,                     /* not an option: a line of the help text */
    CLI_FLAG,                        /* int *: set to 1 */
    CLI_NO_FLAG,                     /* int *: set to 0 */
    CLI_SWITCH,                      /* int *: set to 1, or to 0 if off or 0 follows; on, auto or 1 may follow */
    CLI_INT,                         /* int *: from min to max */
    CLI_REAL,                        /* double *: from min to max */
    CLI_U64,                         /* uint64_t *: -1 means all ones */
    CLI_STRING,                      /* const char **: the last one given wins */
    CLI_STRINGS,                     /* cli_strings *: all that were given */
    CLI_LIST_KERNELS,                /* prints the kernel sets and exits 0 */
    CLI_IGNORED,                     /* no value, no effect: accepted because other programs' scripts say it */
    CLI_IGNORED_VALUE,               /* the same, with a value that is not looked at */
    CLI_IGNORED_SWITCH               /* the same, with a value if on, off, auto, 0 or 1 follows */
} cli_kind;

#define CLI_MAX_STRINGS 64
typedef struct cli_strings {
    const char *item[CLI_MAX_STRINGS];
    int n;
} cli_strings;

/* One row of a program's option table. */
typedef struct cli_option {
    const char *names;               /* every spelling, separated by blanks: "-n --n-predict"; NULL in a heading */
    cli_kind kind;
    void *value;                     /* see cli_kind; what it points to keeps its default if the option is absent */
    const char *argument;            /* the value's name in the help text, NULL for flags */
    const char *help;                /* NULL: works, but is not listed */
    double min, max;                 /* of CLI_INT and CLI_REAL */
} cli_option;

typedef struct cli_program {
    const char *name;                /* "generate" */
    const char *usage;               /* after the name: "[options] MODEL" */
    const char *about;               /* what it does: whole lines, the last without newline */
    const char *notes;               /* printed below the options; may be NULL */
    const cli_option *options;       /* [n_options]; -h, --help and --version are there without being listed */
    int n_options;
    int min_args, max_args;          /* how many arguments that are not options */
} cli_program;

CLI_FN int cli_has_value(cli_kind kind)
{
    return kind == CLI_INT || kind == CLI_REAL || kind == CLI_U64 || kind == CLI_STRING || kind == CLI_STRINGS ||
           kind == CLI_IGNORED_VALUE;
}

CLI_FN int cli_is_ignored(cli_kind kind)
{
    return kind == CLI_IGNORED || kind == CLI_IGNORED_VALUE || kind == CLI_IGNORED_SWITCH;
}

/* Copies the next blank-separated name to name, cut to its size; returns where the search goes on, NULL at the end. */
CLI_FN const char *cli_next_name(const char *names, char name[64])
{
    size_t n;
    while (names && *names == ' ') names++;
    if (!names || !*names) return NULL;
    n = strcspn(names, " ");
    memcpy(name, names, n < 63 ? n : 63);
    name[n < 63 ? n : 63] = 0;
    return names + n;
}

/* 1 if the option a user typed [n bytes] is this name. --top_k is --top-k, as in llama.cpp. */
CLI_FN int cli_same_name(const char *typed, size_t n, const char *name)
{
    size_t i;
    if (strlen(name) != n) return 0;
    for (i = 0; i < n; i++)
        if (typed[i] != name[i] && !(typed[i] == '_' && name[i] == '-' && i >= 2)) return 0;
    return 1;
}

CLI_FN const cli_option *cli_find_option(const cli_program *program, const char *typed, size_t n)
{
    int i;
    for (i = 0; i < program->n_options; i++) {
        char name[64];
        const char *rest = program->options[i].names;
        while ((rest = cli_next_name(rest, name)) != NULL)
            if (cli_same_name(typed, n, name)) return &program->options[i];
    }
    return NULL;
}

/* Prints the kernel sets this CPU runs on stdout, one name per line, from plain to fast; the others on stderr. */
CLI_FN void cli_print_kernels(void)
{
    const char *name;
    int i, usable;
    for (i = 0; (name = bitnet_kernels_name(i, &usable)) != NULL; i++) {
        if (usable) printf("%s\n", name);
        else fprintf(stderr, "%s (not on this CPU)\n", name);
    }
}

/* How unlike two option names are: the edit distance (insert, delete, change or swap neighbours: 1 each) of what
   follows the dashes; a name that begins with the whole of the other counts as 1 away, so that --temperature finds
   --temp. */
CLI_FN int cli_name_distance(const char *a, const char *b)
{
    int d[3][64];
    int n, m, i, j;
    a += strspn(a, "-");
    b += strspn(b, "-");
    n = (int)strlen(a) < 62 ? (int)strlen(a) : 62;
    m = (int)strlen(b) < 62 ? (int)strlen(b) : 62;
    if (n != m && n > 2 && m > 2 && strncmp(a, b, (size_t)(n < m ? n : m)) == 0) return 1;
    for (j = 0; j <= m; j++) d[0][j] = j;
    for (i = 1; i <= n; i++) {
        int *row = d[i % 3], *above = d[(i + 2) % 3], *above2 = d[(i + 1) % 3];
        row[0] = i;
        for (j = 1; j <= m; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && above2[j - 2] + 1 < best)
                best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return d[n % 3][m];
}

/* Exits 2 with the name of the option that looks most like what was typed. */
CLI_NORETURN CLI_FN void cli_unknown_option(const cli_program *program, const char *typed)
{
    char shown[64], nearest[64] = "--help";
    int best = cli_name_distance(typed, nearest), i;
    size_t n = strcspn(typed, "=");
    memcpy(shown, typed, n < 63 ? n : 63);
    shown[n < 63 ? n : 63] = 0;
    for (i = 0; i < program->n_options; i++) {
        char name[64];
        const char *rest = program->options[i].names;
        while ((rest = cli_next_name(rest, name)) != NULL) {
            int distance = cli_name_distance(shown, name);
            if (distance < best) {
                best = distance;
                memcpy(nearest, name, sizeof nearest);
            }
        }
    }
    cli_usage("unknown option %s; the nearest is %s (%s --help lists all)", shown, nearest, cli_name);
}

/* Lines of help for one option: names and argument in the first column, help in the second. */
CLI_FN void cli_print_option(const cli_option *o)
{
    const int column = 30;
    char name[64];
    const char *rest = o->names, *text = o->help;
    int width = 2, first = 1;
    if (o->kind == CLI_HEADING) {
        printf("\n%s\n", o->help);
        return;
    }
    if (!o->help || cli_is_ignored(o->kind)) return;
    printf("  ");
    while ((rest = cli_next_name(rest, name)) != NULL) {
        width += printf(first ? "%s" : ", %s", name);
        first = 0;
    }
    if (o->argument) width += printf(" %s", o->argument);
    if (width > column - 2) {
        printf("\n");
        width = 0;
    }
    for (;;) {                                           /* a newline in the help text continues in its column */
        size_t n = strcspn(text, "\n");
        printf("%*s%.*s\n", column - width, "", (int)n, text);
        if (!text[n]) return;
        text += n + 1;
        width = 0;
    }
}

/* The options accepted without effect, as one paragraph. */
CLI_FN void cli_print_ignored(const cli_program *program)
{
    int i, width = 0;
    for (i = 0; i < program->n_options; i++) {
        const cli_option *o = &program->options[i];
        const char *rest = o->names;
        char name[64];
        if (!cli_is_ignored(o->kind)) continue;
        if (!width) printf("\nAccepted without effect, because scripts written for other programs say them:\n");
        while ((rest = cli_next_name(rest, name)) != NULL) {
            if (!width || width + (int)strlen(name) > 100) width = (width ? printf("\n  ") : printf("  "));
            width += printf("%s%s ", name, o->kind == CLI_IGNORED_VALUE ? "=X" : "");
        }
    }
    if (width) printf("\n");
}

CLI_FN void cli_print_help(const cli_program *program)
{
    int i;
    printf("usage: %s %s\n\n%s\n", program->name, program->usage, program->about);
    if (program->n_options && program->options[0].kind != CLI_HEADING) printf("\nOptions\n");
    for (i = 0; i < program->n_options; i++) cli_print_option(&program->options[i]);
    printf("%-30s%s\n%-30s%s\n", "  -h, --help", "this text", "  --version", "the version");
    cli_print_ignored(program);
    if (program->notes) printf("\n%s\n", program->notes);
}

/* Stores the value of one option; exits 2 if it is not one. typed: the option as the user spelled it. */
CLI_FN void cli_store_option(const cli_option *o, const char *typed, const char *text)
{
    const int length = (int)strcspn(typed, "=");
    switch (o->kind) {
    case CLI_FLAG: *(int *)o->value = 1; break;
    case CLI_NO_FLAG: *(int *)o->value = 0; break;
    case CLI_SWITCH: *(int *)o->value = !text || (strcmp(text, "off") != 0 && strcmp(text, "0") != 0); break;
    case CLI_STRING: *(const char **)o->value = text; break;
    case CLI_INT:
        if (!cli_read_int(text, (int)o->min, (int)o->max, (int *)o->value))
            cli_usage("%.*s: '%s' is not a whole number from %.0f to %.0f", length, typed, text, o->min, o->max);
        break;
    case CLI_REAL:
        if (!cli_read_real(text, o->min, o->max, (double *)o->value))
            cli_usage("%.*s: '%s' is not a number from %g to %g", length, typed, text, o->min, o->max);
        break;
    case CLI_U64:
        if (!cli_read_u64(text, (uint64_t *)o->value))
            cli_usage("%.*s: '%s' is not a whole number from 0 to 18446744073709551615, or -1", length, typed, text);
        break;
    case CLI_STRINGS: {
        cli_strings *list = (cli_strings *)o->value;
        if (list->n == CLI_MAX_STRINGS) cli_usage("%.*s: given more than %d times", length, typed, CLI_MAX_STRINGS);
        list->item[list->n++] = text;
        break;
    }
    case CLI_LIST_KERNELS:
        cli_print_kernels();
        exit(cli_finish_output());
    case CLI_HEADING: case CLI_IGNORED: case CLI_IGNORED_VALUE: case CLI_IGNORED_SWITCH: break;
    }
}

CLI_FN int cli_is_switch(const char *text)
{
    return strcmp(text, "on") == 0 || strcmp(text, "off") == 0 || strcmp(text, "auto") == 0 ||
           strcmp(text, "0") == 0 || strcmp(text, "1") == 0;
}

/* Handles the option argv[i]; returns the index of its last word. */
CLI_FN int cli_take_option(const cli_program *program, int argc, char **argv, int i)
{
    const char *typed = argv[i];
    const char *equals = strchr(typed, '=');
    const size_t length = equals ? (size_t)(equals - typed) : strlen(typed);
    const cli_option *o = cli_find_option(program, typed, length);
    const char *text = NULL;
    if (!o && (strcmp(typed, "-h") == 0 || strcmp(typed, "--help") == 0)) {
        cli_print_help(program);
        exit(cli_finish_output());
    }
    if (!o && strcmp(typed, "--version") == 0) {
        printf("%s (bitnet.h) %s\n", cli_name, BITNET_VERSION);
        exit(cli_finish_output());
    }
    if (!o) cli_unknown_option(program, typed);
    if (cli_has_value(o->kind)) {
        text = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!text) cli_usage("%s needs a value%s%s", typed, o->argument ? ": " : "", o->argument ? o->argument : "");
    } else if (o->kind == CLI_IGNORED_SWITCH || o->kind == CLI_SWITCH) {
        if (equals) text = equals + 1;
        else if (i + 1 < argc && cli_is_switch(argv[i + 1])) text = argv[++i];
        if (text && !cli_is_switch(text)) cli_usage("%.*s: '%s' is not on, off or auto", (int)length, typed, text);
    } else if (equals) {
        cli_usage("%.*s takes no value", (int)length, typed);
    }
    cli_store_option(o, typed, text);
    return i;
}

/* Reads the command line. Returns the number of arguments that are not options, and puts them in args (room for
   program->max_args). Options may stand before and after them; -- ends the options; - alone is an argument.
   Exits 2 on a mistake, 0 after --help or --version. */
CLI_FN int cli_parse(const cli_program *program, int argc, char **argv, const char **args)
{
    int i, n = 0, only_args = 0;
    cli_name = program->name;
    for (i = 1; i < argc; i++) {
        if (!only_args && strcmp(argv[i], "--") == 0) only_args = 1;
        else if (!only_args && argv[i][0] == '-' && argv[i][1]) i = cli_take_option(program, argc, argv, i);
        else if (n < program->max_args) args[n++] = argv[i];
        else cli_usage("unexpected argument '%s'; usage: %s %s", argv[i], cli_name, program->usage);
    }
    if (n < program->min_args) cli_usage("usage: %s %s (--help says more)", cli_name, program->usage);
    return n;
}

/* The last part of a path, without ".exe": the name a program was called by. */
CLI_FN const char *cli_basename(const char *path, char name[64])
{
    const char *p, *last = path;
    size_t n;
    for (p = path; *p; p++)
        if (*p == '/' || *p == '\\') last = p + 1;
    n = strlen(last) < 63 ? strlen(last) : 63;
    memcpy(name, last, n);
    name[n] = 0;
    if (n > 4 && strcmp(name + n - 4, ".exe") == 0) name[n - 4] = 0;
    return name;
}

/* 1 if the program was called by a name of llama.cpp's, as `make compat` links them: "llama-bench". *name is then that
   name, kept in called; else it stays what it is. */
CLI_FN int cli_called_as_llama(int argc, char **argv, char called[64], const char **name)
{
    if (argc < 1 || strncmp(cli_basename(argv[0], called), "llama-", 6) != 0) return 0;
    *name = called;
    return 1;
}

/* --------------------------------------------------------------------------------------- text and files */

/* A growing buffer of bytes; always NUL-terminated once something was added. Zeroed: empty. free(data). */
typedef struct cli_buffer {
    char *data;
    size_t size, capacity;
} cli_buffer;

CLI_FN void cli_append(cli_buffer *b, const char *data, size_t n)
{
    if (b->capacity - b->size < n + 1) {
        b->capacity = (b->size + n + 1) * 2;
        b->data = (char *)cli_realloc(b->data, b->capacity);
    }
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
    b->data[b->size] = 0;
}

/* The whole of a file, or of stdin for "-", plus a NUL. Ownership: the caller's, free(). NULL on failure, and errno. */
CLI_FN char *cli_read_file(const char *path, size_t *size)
{
    cli_buffer b = {0};
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    int error = 0;
    if (!f) return NULL;
    cli_append(&b, "", 0);
    for (;;) {
        char piece[16384];
        size_t n;
        errno = 0;
        n = fread(piece, 1, sizeof piece, f);
        cli_append(&b, piece, n);
        if (n < sizeof piece) break;
    }
    if (ferror(f)) error = errno ? errno : EIO;
    if (f != stdin) fclose(f);
    if (error) {
        free(b.data);
        errno = error;
        return NULL;
    }
    if (size) *size = b.size;
    return b.data;
}

/* 1 if path is there but not a plain file (a device, a pipe): such a thing is written to, never replaced. */
CLI_FN int cli_is_special(const char *path)
{
#if defined(_WIN32)
    (void)path;
    return 0;
#else
    struct stat info;
    return stat(path, &info) == 0 && !S_ISREG(info.st_mode);
#endif
}

/* Writes a whole file: beside its place first, then renamed, so that no failure leaves half a file or destroys the old
   one. Returns 0, or -1 and errno. */
CLI_FN int cli_write_file(const char *path, const void *data, size_t size)
{
    const size_t n = strlen(path);
    char *beside = (char *)cli_alloc(n + 6);
    const int special = cli_is_special(path);
    FILE *f;
    int error = 0;
    memcpy(beside, path, n);
    memcpy(beside + n, special ? "" : ".part", special ? 1 : 6);
    f = fopen(beside, "wb");
    if (!f) error = errno;
    if (f && size && fwrite(data, 1, size, f) != size) error = errno ? errno : EIO;
    if (f && fclose(f) != 0 && !error) error = errno ? errno : EIO;
#if defined(_WIN32)
    if (!error) remove(path);                            /* rename does not replace there */
#endif
    if (!error && !special && rename(beside, path) != 0) error = errno;
    if (error && f && !special) remove(beside);
    free(beside);
    errno = error;
    return error ? -1 : 0;
}

/* Replaces \n \r \t \\ \" \' \xHH in text, in place; other backslashes stay as they are. */
CLI_FN void cli_unescape(char *text)
{
    static const char from[] = "nrt\\\"'", to[] = "\n\r\t\\\"'";
    char *out = text;
    while (*text) {
        const char *at = text[0] == '\\' && text[1] ? strchr(from, text[1]) : NULL;
        unsigned v = 0;
        int digits = 0;
        if (text[0] == '\\' && text[1] == 'x') {
            while (digits < 2 && text[2 + digits] && strchr("0123456789abcdefABCDEF", text[2 + digits])) {
                char c = text[2 + digits++];
                v = v * 16 + (unsigned)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
            }
        }
        if (at) {
            *out++ = to[at - from];
            text += 2;
        } else if (digits && v) {
            *out++ = (char)v;
            text += 2 + digits;
        } else {
            *out++ = *text++;
        }
    }
    *out = 0;
}

/* --------------------------------------------------------------------------------------------- terminal */

CLI_FN int cli_is_terminal(FILE *f)
{
#if defined(_WIN32)
    return _isatty(_fileno(f)) != 0;
#else
    return isatty(fileno(f)) != 0;
#endif
}

/* BITNET_VERBOSE=1 makes programs tell more on stderr. The library itself never reads the environment. */
CLI_FN int cli_verbose(void)
{
    const char *v = getenv("BITNET_VERBOSE");
    return v && *v && strcmp(v, "0") != 0;
}

/* Becomes nonzero on Ctrl-C once cli_catch_interrupts was called; the program looks at it between steps and may set it
   back. A Ctrl-C that comes while one is still unnoticed ends the program at once, as if nothing had been caught. */
static volatile sig_atomic_t cli_interrupted = 0;

CLI_FN void cli_on_interrupt(int number)
{
    if (cli_interrupted) {
        signal(number, SIG_DFL);
        raise(number);
    }
    cli_interrupted = 1;
}

/* Reads that wait for input return when Ctrl-C comes (no SA_RESTART). */
CLI_FN void cli_catch_interrupts(void)
{
#if defined(_WIN32) || defined(__wasi__)
    signal(SIGINT, cli_on_interrupt);
#else
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = cli_on_interrupt;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
#endif
}

/* For programs that stream: a reader that hung up becomes a failed write (EPIPE) that the program can notice and end
   on, with its summary printed, instead of a signal that kills it. */
CLI_FN void cli_ignore_sigpipe(void)
{
#if defined(SIGPIPE)
    signal(SIGPIPE, SIG_IGN);
#endif
}

/* A line on stderr like "loading  42 %" that rewrites itself; only on a terminal, and only for work that takes long
   enough to be noticed, so that quick work does not flicker. Zeroed but for label. */
typedef struct cli_progress {
    const char *label;
    int shown;                       /* percent on the screen plus 1; 0: nothing there */
    double started;
} cli_progress;

/* user: a cli_progress. Has the shape of bitnet_progress_fn; returns 0 (go on), or 1 once Ctrl-C was caught. */
CLI_FN int cli_show_progress(void *user, uint64_t done, uint64_t total)
{
    cli_progress *p = (cli_progress *)user;
    const int percent = total ? (int)((double)done * 100.0 / (double)total) : 100;
    if (cli_is_terminal(stderr) && percent + 1 != p->shown) {
        if (p->started <= 0) p->started = cli_seconds();
        if (p->shown || cli_seconds() - p->started > 0.2) {
            fprintf(stderr, "\r%s %3d %%", p->label, percent);
            fflush(stderr);
            p->shown = percent + 1;
        }
    }
    return cli_interrupted != 0;
}

/* Wipes the line away. */
CLI_FN void cli_end_progress(cli_progress *p)
{
    if (p->shown) fprintf(stderr, "\r\033[K");
    p->shown = 0;
}

/* ----------------------------------------------------------------------------------------------- models */

/* What every program that opens a model can be told. Zeroed: defaults. */
typedef struct cli_model_args {
    const char *path;
    const char *kernels, *layout, *head, *i2s_layout, *tl_tiles, *chat_template;
    int n_threads, no_mmap, mlock;
} cli_model_args;

/* Rows of an option table. The commas at the ends of rows are part of it; write it without one behind. */
#define CLI_MODEL_OPTIONS(a) \
    {"-t --threads", CLI_INT, &(a).n_threads, "N", "threads; 0 or less: one per core, at most 16", INT_MIN, INT_MAX}, \
    {"--kernels", CLI_STRING, &(a).kernels, "NAME", "the kernel set to use, never another; auto: the best", 0, 0}, \
    {"--list-kernels", CLI_LIST_KERNELS, NULL, NULL, "print the kernel sets this CPU runs, and end", 0, 0}, \
    {"--layout", CLI_STRING, &(a).layout, "auto|r16|t5|tl1|tl2|i2_s", "weights in memory: at 2 or 1.6 bits, for look-up tables\n(tl1, tl2: slower), or in place, as in the file; auto:\nwhat suits the CPU, r16 or t5", 0, 0}, \
    {"--head", CLI_STRING, &(a).head, "auto|full|two-pass", "output matrix: two-pass reads half as much, same tokens", 0, 0}, \
    {"--i2s-layout", CLI_STRING, &(a).i2s_layout, "A|B|C|D", "bit order of I2_S tensors; files do not say it", 0, 0}, \
    {"--tl-tiles", CLI_STRING, &(a).tl_tiles, "BM/BY/bm", "tiles of TL1 and TL2 tensors, or \"generated\"; else\nbitnet.cpp's presets", 0, 0}, \
    {"--no-mmap", CLI_FLAG, &(a).no_mmap, NULL, "read the model into memory instead of mapping it", 0, 0}, \
    {"--mlock", CLI_FLAG, &(a).mlock, NULL, "keep the model from being swapped out", 0, 0},

/* Exits 2 unless name is NULL, "auto", or a kernel set that this CPU runs. */
CLI_FN void cli_check_kernels(const char *name)
{
    cli_buffer names = {0};
    const char *known;
    int i, usable;
    if (!name || strcmp(name, "auto") == 0) return;
    for (i = 0; (known = bitnet_kernels_name(i, &usable)) != NULL; i++) {
        if (strcmp(name, known) == 0 && usable) {
            free(names.data);
            return;
        }
        if (strcmp(name, known) == 0) cli_usage("--kernels %s: this CPU cannot run them", name);
        if (usable) {
            cli_append(&names, " ", 1);
            cli_append(&names, known, strlen(known));
        }
    }
    cli_usage("--kernels %s: no such kernel set; there are auto%s", name, names.data ? names.data : "");
}

/* Exits 2 unless name is NULL or a chat template that can be asked for. */
CLI_FN void cli_check_chat_template(const char *name)
{
    cli_buffer names = {0};
    const char *known;
    int i;
    if (!name) return;
    for (i = 0; (known = bitnet_chat_template_name(i)) != NULL; i++) {
        if (strcmp(name, known) == 0) {
            free(names.data);
            return;
        }
        cli_append(&names, " ", 1);
        cli_append(&names, known, strlen(known));
    }
    cli_usage("--chat-template %s: no such template; there are%s", name, names.data ? names.data : " none");
}

CLI_FN bitnet_i2s_layout cli_i2s_layout(const char *name)
{
    static const bitnet_i2s_layout layouts[] = {BITNET_I2S_A, BITNET_I2S_B, BITNET_I2S_C, BITNET_I2S_D};
    if (!name) return BITNET_I2S_DEFAULT;
    if (strlen(name) == 1 && (name[0] | 32) >= 'a' && (name[0] | 32) <= 'd') return layouts[(name[0] | 32) - 'a'];
    cli_usage("--i2s-layout: '%s' is not A, B, C or D", name);
}

/* The number for the n_threads of a description: 0 means one per core, and more than the engine takes is as many as it
   takes, since -t is a hint that scripts carry from machine to machine. */
CLI_FN int cli_threads(const cli_model_args *args)
{
    return args->n_threads <= 0 ? 0 : args->n_threads < 256 ? args->n_threads : 256;
}

/* A bitnet_logger's function: warnings always, the rest if BITNET_VERBOSE=1. */
CLI_FN void cli_log(void *user, bitnet_log_level level, const char *text)
{
    (void)user;
    if (level == BITNET_LOG_WARNING || cli_verbose()) cli_message("%s", text);
}

/* Fails (exit 1) with the error of a call; what: the file or the thing that was being done. */
CLI_NORETURN CLI_FN void cli_fail_with(const char *what, const bitnet_error *err)
{
    if (strstr(err->text, what)) cli_fail("%s", err->text);            /* it says what by itself */
    if (err->offset) cli_fail("%s: %s (at byte %.0f)", what, err->text, (double)err->offset);
    cli_fail("%s: %s", what, err->text[0] ? err->text : bitnet_result_text(err->code));
}

/* Exits 2 if an argument does not make sense. */
CLI_FN void cli_check_model_args(const cli_model_args *args)
{
    cli_check_kernels(args->kernels);
    cli_check_chat_template(args->chat_template);
    cli_i2s_layout(args->i2s_layout);
    if (args->layout && strcmp(args->layout, "auto") != 0 && strcmp(args->layout, "r16") != 0 &&
        strcmp(args->layout, "t5") != 0 && strcmp(args->layout, "tl1") != 0 && strcmp(args->layout, "tl2") != 0 &&
        strcmp(args->layout, "i2_s") != 0)
        cli_usage("--layout: '%s' is not auto, r16, t5, tl1, tl2 or i2_s", args->layout);
    if (args->head && strcmp(args->head, "auto") != 0 && strcmp(args->head, "full") != 0 &&
        strcmp(args->head, "two-pass") != 0)
        cli_usage("--head: '%s' is not auto, full or two-pass", args->head);
}

/* The opened model, never NULL: exits 1 with the reason if it cannot be opened, 2 if an argument is wrong. Shows
   progress on a terminal. Ownership: the caller's, bitnet_model_close. */
CLI_FN bitnet_model *cli_open_model(const cli_model_args *args, int vocab_only)
{
    bitnet_model_desc desc;
    bitnet_model *model = NULL;
    bitnet_error err;
    bitnet_result result;
    cli_progress progress = {0};
    cli_check_model_args(args);
    memset(&desc, 0, sizeof desc);
    memset(&err, 0, sizeof err);
    progress.label = "loading";
    desc.path = args->path;
    desc.logger.log = cli_log;
    desc.n_threads = cli_threads(args);
    desc.progress = cli_show_progress;
    desc.progress_user = &progress;
    desc.kernels = args->kernels;
    desc.allow_amx = 1;                                  /* ours to say: these programs set no signal stacks */
    desc.layout = args->layout;
    desc.head = args->head;
    desc.chat_template = args->chat_template;
    desc.i2s_layout = cli_i2s_layout(args->i2s_layout);
    desc.tl_tiles = args->tl_tiles;
    desc.no_mmap = args->no_mmap;
    desc.mlock = args->mlock;
    desc.vocab_only = vocab_only;
    result = bitnet_model_open(&desc, &model, &err);
    cli_end_progress(&progress);
    if (result == BITNET_ERROR_CANCELLED && cli_interrupted) exit(CLI_EXIT_INTERRUPTED);
    if (result != BITNET_OK) {
        err.code = result;
        cli_fail_with(args->path, &err);
    }
    return model;
}

#endif /* BITNET_CLI_H */
