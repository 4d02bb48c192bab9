/* read_gguf: walk a GGUF file, print its keys and tensors, check that every byte is accounted for.

       read_gguf FILE                        keys, tensors with their place and size; exit 1 if something is wrong
       read_gguf FILE --strings KEY          every element of an array of strings, one a line
       read_gguf FILE --bytes TENSOR AT N    N bytes of a tensor from byte AT, in hex

   A check on the programs that write GGUF files: written from the format's description alone, it shares no code with
   bitnet.h or tools/. It trusts sizes in the file only so far that it stops at the first one that cannot be. */

#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#endif

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

typedef struct record {
    char name[128];
    uint64_t ne[4], at, size;       /* size: distance to the next tensor or the end of the file */
    uint32_t n_dims, type;
} record;

static FILE *file;
static uint64_t file_size, here, alignment = 32;

static void stop(const char *what) {
    fprintf(stderr, "read_gguf: byte %" PRIu64 ": %s\n", here, what);
    exit(1);
}

static void get(void *to, uint64_t n) {
    if (n > file_size - here) stop("the file ends too early");
    if (fread(to, 1, (size_t)n, file) != n) stop("cannot read");
    here += n;
}

static uint64_t get_int(int n) {
    unsigned char b[8];
    uint64_t v = 0;
    int i;
    get(b, (uint64_t)n);
    for (i = n - 1; i >= 0; i--) v = v << 8 | b[i];
    return v;
}

/* A string in fresh memory, with a 0 behind it. */
static char *get_string(uint64_t *size) {
    uint64_t n = get_int(8);
    char *text;
    if (n > file_size - here) stop("string runs past the end");
    text = (char *)malloc((size_t)n + 1);
    if (text == NULL) stop("out of memory");
    get(text, n);
    text[n] = 0;
    if (size != NULL) *size = n;
    return text;
}

/* Printable form: newlines and control characters as \xNN, cut at 60 characters unless whole. */
static void print_text(const char *text, uint64_t n, int whole) {
    uint64_t i;
    for (i = 0; i < n && (whole || i < 60); i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 32 || c == 127 || c == '\\') printf("\\x%02x", c);
        else putchar(c);
    }
    if (i < n) printf("... (%" PRIu64 " bytes)", n);
}

static float as_f32(uint64_t bits) {
    uint32_t b = (uint32_t)bits;
    float v;
    memcpy(&v, &b, 4);
    return v;
}

/* Read a value, print it if show; returns it if it is an integer. */
static uint64_t print_value(uint32_t type, int show, int whole) {
    static const int bytes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t n;
    if (type > 12 || type == 9) stop("bad value type");
    if (type == 8) {
        char *text = get_string(&n);
        if (show) print_text(text, n, whole);
        free(text);
        return 0;
    }
    n = get_int(bytes[type]);
    if (!show) return n;
    if (type == 6) printf("%.9g", (double)as_f32(n));
    else if (type == 5) printf("%" PRId32, (int32_t)(uint32_t)n);
    else printf("%" PRIu64, n);
    return n;
}

/* One key; only: NULL for all of it, else just the elements of the array of that name. */
static void print_key(const char *only) {
    static const char *const names[13] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64",
                                          "i64", "f64"};
    char *key = get_string(NULL);
    uint32_t type = (uint32_t)get_int(4);
    int chosen = only != NULL && strcmp(only, key) == 0;
    if (type > 12) stop("bad value type");
    if (only == NULL) printf("  %-40s %s", key, names[type]);
    if (type == 9) {
        uint32_t element = (uint32_t)get_int(4);
        uint64_t i, n = get_int(8);
        if (element > 12) stop("bad element type");
        if (only == NULL) printf(" of %" PRIu64 " %s:", n, names[element]);
        for (i = 0; i < n; i++) {
            int show = chosen || (only == NULL && (i < 4 || i + 2 > n));
            if (show && only == NULL) printf(i == n - 1 && n > 4 ? " ... " : " ");
            (void)print_value(element, show, chosen);
            if (chosen) putchar('\n');
        }
    } else {
        uint64_t value;
        if (only == NULL) putchar(' ');
        value = print_value(type, only == NULL, 0);
        if (strcmp(key, "general.alignment") == 0) alignment = value;
    }
    if (only == NULL) putchar('\n');
    free(key);
}

/* 1 if a tensor of that type and shape may have `gap` bytes to the next one: its size and less than one alignment more.
   Sizes: FORMATS.md 2.1 to 2.7. A number that means several types may fit any of them; *name and *size: which one. */
static int size_fits(const record *r, uint64_t gap, const char **name, uint64_t *size) {
    static const struct { uint32_t type; const char *name; uint64_t block, bytes, row, tail; } types[] = {
        {0, "F32", 1, 4, 0, 0}, {1, "F16", 1, 2, 0, 0}, {2, "Q4_0", 32, 18, 0, 0}, {8, "Q8_0", 32, 34, 0, 0},
        {12, "Q4_K", 256, 144, 0, 0}, {14, "Q6_K", 256, 210, 0, 0}, {30, "BF16", 1, 2, 0, 0},
        {34, "TQ1_0", 256, 54, 0, 0}, {35, "TQ2_0", 256, 66, 0, 0}, {36, "I2_S", 4, 1, 0, 32}, {38, "TL1", 4, 1, 0, 32},
        {42, "Q2_0", 64, 18, 0, 0}, {42, "Q2_0", 128, 34, 0, 0}, {142, "PQ2_0", 128, 34, 0, 0},
        {134, "IQ1_BN", 64, 13, 2, 0}, {135, "IQ2_BN", 64, 16, 4, 0}, {335, "IQ2_BN_R4", 64, 16, 4, 0}};
    uint64_t m = r->ne[1] * r->ne[2] * r->ne[3], n = r->ne[0] * m;
    size_t i;
    *name = "?";
    *size = 0;
    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].type != r->type) continue;
        *name = types[i].name;
        if (types[i].tail == 0 && r->ne[0] % types[i].block != 0) continue;
        *size = n / types[i].block * types[i].bytes + m * types[i].row + types[i].tail;
        if (*size <= gap && gap - *size < alignment) return 1;
    }
    if (r->type == 39 || r->type == 42) {
        *name = "TL2";
        *size = ((r->ne[0] - 256) * m / 3 * 5 / 8 + 256 * m / 2 * 4 / 8 + 31) / 32 * 32 + 32;
        return *size <= gap && gap - *size < alignment;
    }
    return 0;
}

static void go_to(uint64_t at) {
    if (fseeko(file, (off_t)at, SEEK_SET) != 0) stop("cannot seek");
    here = at;
}

static void print_bytes(const record *r, uint64_t at, uint64_t n) {
    uint64_t i;
    if (at > r->size || n > r->size - at) stop("these bytes are outside the tensor");
    go_to(r->at + at);
    for (i = 0; i < n; i++) printf("%02x", (unsigned)get_int(1));
    printf("\n");
}

int main(int argc, char **argv) {
    uint64_t n_tensors, n_keys, i, k, start, bad = 0;
    const char *only = argc == 4 && strcmp(argv[2], "--strings") == 0 ? argv[3] : NULL;
    const char *tensor = argc == 6 && strcmp(argv[2], "--bytes") == 0 ? argv[3] : NULL;
    const char *quiet = only != NULL ? only : tensor != NULL ? "" : NULL;
    record *records;
    char magic[4];
    if (argc < 2 || (argc > 2 && only == NULL && tensor == NULL)) {
        fprintf(stderr, "usage: read_gguf FILE [--strings KEY | --bytes TENSOR AT N]\n");
        return 2;
    }
    file = fopen(argv[1], "rb");
    if (file == NULL || fseeko(file, 0, SEEK_END) != 0) stop("cannot open the file");
    file_size = (uint64_t)ftello(file);
    go_to(0);
    get(magic, 4);
    if (memcmp(magic, "GGUF", 4) != 0 || get_int(4) != 3) stop("not a GGUF file of version 3");
    n_tensors = get_int(8);
    n_keys = get_int(8);
    if (n_tensors > file_size / 24 || n_keys > file_size / 12) stop("counts cannot be");
    if (quiet == NULL)
        printf("%" PRIu64 " bytes, %" PRIu64 " keys, %" PRIu64 " tensors\n", file_size, n_keys, n_tensors);
    for (i = 0; i < n_keys; i++) print_key(quiet);
    if (alignment == 0 || (alignment & (alignment - 1)) != 0) stop("bad alignment");
    records = (record *)calloc((size_t)n_tensors + 1, sizeof *records);
    if (records == NULL) stop("out of memory");
    for (i = 0; i < n_tensors; i++) {
        record *r = &records[i];
        char *name = get_string(NULL);
        if (strlen(name) >= 64) stop("tensor name too long");
        memcpy(r->name, name, strlen(name) + 1);
        free(name);
        r->n_dims = (uint32_t)get_int(4);
        if (r->n_dims < 1 || r->n_dims > 4) stop("bad number of dimensions");
        for (k = 0; k < 4; k++) r->ne[k] = k < r->n_dims ? get_int(8) : 1;
        r->type = (uint32_t)get_int(4);
        r->at = get_int(8);
        if (r->at % alignment != 0) stop("offset not aligned");
    }
    start = (here + alignment - 1) / alignment * alignment;
    if (quiet == NULL) printf("header %" PRIu64 " bytes, tensors from %" PRIu64 "\n", here, start);
    for (i = 0; i < n_tensors; i++) records[i].at += start;
    records[n_tensors].at = file_size;
    for (i = 0; i < n_tensors; i++) {
        record *r = &records[i];
        const char *type;
        uint64_t size;
        int ok = r->at <= records[i + 1].at;
        r->size = records[i + 1].at - r->at;
        if (!size_fits(r, r->size, &type, &size)) ok = 0;
        if (!ok) bad++;
        if (quiet == NULL)
            printf("  %-32s %-9s %8" PRIu64 " x %-8" PRIu64 " at %-12" PRIu64 " %" PRIu64 "%s\n", r->name, type,
                   r->ne[0], r->ne[1], r->at, size, ok ? "" : "  WRONG SIZE");
        if (tensor != NULL && strcmp(tensor, r->name) == 0) {
            print_bytes(r, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
            tensor = "";
        }
    }
    if (tensor != NULL && tensor[0] != 0) stop("no such tensor");
    if (bad > 0) stop("tensors have the wrong size");
    free(records);
    (void)fclose(file);
    return 0;
}
