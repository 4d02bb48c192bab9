/* safetensors.h: read the weights of a Hugging Face folder, for the programs in tools/.  Same licence as bitnet.h.

   A safetensors file is a length (8 bytes, least significant first), that many bytes of JSON, and the tensors' bytes:

       {"model.norm.weight": {"dtype": "BF16", "shape": [2560], "data_offsets": [0, 5120]}, ..., "__metadata__": {...}}

   Offsets count from the end of the JSON. A model is one file, model.safetensors, or several, and then
   model.safetensors.index.json says which tensor stands in which: {"weight_map": {name: file}}.

       st_set s;
       if (!st_open(&s, folder)) fprintf(stderr, "%s\n", s.error);
       const st_tensor *t = st_find(&s, "model.norm.weight");
       st_read(&s, t, offset, bytes, n);
       st_close(&s);

   Rules
   - Functions return 1, or 0 (NULL) with the reason in s.error. st_close is right after both.
   - Headers alone are held in memory; st_read goes to the file.
   - Nothing in a file is believed: tensors lie inside it, have the size that shape and dtype give, do not overlap and
     leave nothing out (the format demands that), and names occur once. Names of files may not lead out of the folder.
   - Include this before any system header, so that files past 2 GiB work on 32-bit systems. */

#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#if !defined(_WIN32)
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#endif

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "tools/json.h"

#define ST_MAX_HEADER (100u << 20)           /* the format's own limit */
#define ST_MAX_DIMS 8
#define ST_MAX_FILES 1000                    /* published models have up to 200 */

/* Types of elements; only those with a decoder are read as numbers. */
typedef enum st_dtype {
    ST_F32, ST_F16, ST_BF16, ST_U8, ST_F64, ST_I64, ST_U64, ST_I32, ST_U32, ST_I16, ST_U16, ST_I8, ST_BOOL, ST_F8_E4M3,
    ST_F8_E5M2, ST_N_DTYPES
} st_dtype;

/* In the order of st_dtype. */
static const struct { const char *name; uint32_t bytes; } st_dtypes[ST_N_DTYPES] = {
    {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"U8", 1}, {"F64", 8}, {"I64", 8}, {"U64", 8}, {"I32", 4}, {"U32", 4},
    {"I16", 2}, {"U16", 2}, {"I8", 1}, {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

typedef struct st_tensor {
    const char *name;                /* in its file's header */
    st_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[ST_MAX_DIMS];
    uint64_t begin, size;            /* from the start of the file; bytes */
    int file;                        /* index of files */
    int used;                        /* for the caller: 1: it knows what this is */
} st_tensor;

typedef struct st_file {
    char *name;                      /* as in the index */
    FILE *f;
    char *header;                    /* the JSON; names point into it */
} st_file;

typedef struct st_set {
    char error[400];
    char *folder;
    st_file *files;
    int n_files;
    st_tensor *tensors;              /* sorted by name */
    size_t n_tensors, capacity;
} st_set;

#if defined(__GNUC__)
static int st_fail(st_set *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif

static int st_fail(st_set *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!s->error[0]) vsnprintf(s->error, sizeof s->error, format, args);
    va_end(args);
    return 0;
}

/* A copy of the text that st_close or the caller frees. */
static char *st_copy(const char *text)
{
    const size_t n = strlen(text) + 1;
    char *copy = (char *)malloc(n);
    if (copy) memcpy(copy, text, n);
    return copy;
}

/* "folder/name", to be freed; NULL when memory runs out. */
static char *st_path(const char *folder, const char *name)
{
    const size_t n = strlen(folder), m = strlen(name);
    char *path = (char *)malloc(n + m + 2);
    if (!path) return NULL;
    memcpy(path, folder, n);
    path[n] = '/';
    memcpy(path + n + 1, name, m + 1);
    return path;
}

static int st_seek(FILE *f, uint64_t at)
{
#if defined(_WIN32)
    return at <= INT64_MAX && _fseeki64(f, (long long)at, SEEK_SET) == 0;
#else
    const off_t offset = (off_t)at;
    return offset >= 0 && (uint64_t)offset == at && fseeko(f, offset, SEEK_SET) == 0;
#endif
}

/* Bytes of the file, 0: it can't be told. */
static uint64_t st_file_size(FILE *f)
{
#if defined(_WIN32)
    const long long size = _fseeki64(f, 0, SEEK_END) == 0 ? _ftelli64(f) : -1;
#else
    const off_t size = fseeko(f, 0, SEEK_END) == 0 ? ftello(f) : (off_t)-1;
#endif
    return size > 0 && st_seek(f, 0) ? (uint64_t)size : 0;
}

/* A whole number from 0 to 2^63 - 1. */
static int st_size(const json_doc *d, const json_node *node, uint64_t *out)
{
    int64_t v;
    if (!json_int(d, node, &v) || v < 0) return 0;
    *out = (uint64_t)v;
    return 1;
}

/* ---- one file -------------------------------------------------------------------------------------------------- */

/* Shape and type of an entry, and that they take the bytes that it has: begin and size, counted from the data's start. */
static int st_entry(st_set *s, const json_doc *d, const json_node *entry, const char *file, uint64_t data_size, st_tensor *t)
{
    const json_node *shape = json_get(d, entry, "shape"), *offsets = json_get(d, entry, "data_offsets");
    const json_node *dtype = json_get(d, entry, "dtype"), *node;
    uint64_t end = 0, need;
    int k;
    if (!json_is(entry, JSON_OBJECT) || !json_is(dtype, JSON_STRING) || !json_is(shape, JSON_ARRAY) ||
        !json_is(offsets, JSON_ARRAY) || offsets->size != 2)
        return st_fail(s, "%s: tensor %.200s lacks dtype, shape or data_offsets", file, t->name);
    for (k = 0; k < ST_N_DTYPES && !json_equal(d, dtype, st_dtypes[k].name); k++) { }
    if (k == ST_N_DTYPES) return st_fail(s, "%s: tensor %.200s: unknown dtype %.40s", file, t->name, json_text(d, dtype));
    t->dtype = (st_dtype)k;
    need = st_dtypes[k].bytes;
    if (shape->size > ST_MAX_DIMS) return st_fail(s, "%s: tensor %.200s has %u dimensions", file, t->name, (unsigned)shape->size);
    for (node = json_first(d, shape); node; node = json_next(d, node)) {
        uint64_t n;
        if (!st_size(d, node, &n) || n == 0 || need > data_size / n)
            return st_fail(s, "%s: tensor %.200s: its shape has a size of 0, or more bytes than the file", file, t->name);
        t->shape[t->n_dims++] = n;
        need *= n;
    }
    node = json_first(d, offsets);
    if (!st_size(d, node, &t->begin) || !st_size(d, json_next(d, node), &end) || t->begin > end || end > data_size)
        return st_fail(s, "%s: tensor %.200s: data_offsets outside of the file, which is damaged or cut off", file, t->name);
    t->size = end - t->begin;
    if (t->size != need)
        return st_fail(s, "%s: tensor %.200s: data_offsets span %.0f bytes, shape and dtype need %.0f", file, t->name,
                       (double)t->size, (double)need);
    return 1;
}

static st_tensor *st_new_tensor(st_set *s)
{
    if (s->n_tensors == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 256;
        st_tensor *tensors = (st_tensor *)realloc(s->tensors, capacity * sizeof *tensors);
        if (!tensors) {
            st_fail(s, "out of memory");
            return NULL;
        }
        s->tensors = tensors;
        s->capacity = capacity;
    }
    memset(&s->tensors[s->n_tensors], 0, sizeof *s->tensors);
    return &s->tensors[s->n_tensors++];
}

static int st_by_place(const void *a, const void *b)
{
    const st_tensor *x = (const st_tensor *)a, *y = (const st_tensor *)b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1) : (x->size > y->size) - (x->size < y->size);
}

static int st_by_name(const void *a, const void *b)
{
    return strcmp(((const st_tensor *)a)->name, ((const st_tensor *)b)->name);
}

/* Adds the tensors of a file whose JSON is header [header_size], with a NUL behind, and which has data_size bytes
   behind that. header is changed; it must stay while the set is used. */
static int st_add(st_set *s, char *header, size_t header_size, uint64_t data_size, const char *file, int index)
{
    json_doc d;
    const json_node *entry;
    const size_t first = s->n_tensors;
    uint64_t place = 0;
    size_t i;
    int ok = json_parse(&d, header, header_size);
    if (!ok) st_fail(s, "%s: the header is no JSON: %s (byte %.0f)", file, d.error, (double)d.error_at + 8);
    if (ok && !json_is(json_root(&d), JSON_OBJECT)) ok = st_fail(s, "%s: the header is no object", file);
    for (entry = ok ? json_first(&d, json_root(&d)) : NULL; ok && entry; entry = json_next(&d, entry)) {
        st_tensor *t;
        if (strcmp(json_key(&d, entry), "__metadata__") == 0) continue;
        t = st_new_tensor(s);
        if (!t) break;
        t->name = json_key(&d, entry);
        t->file = index;
        ok = st_entry(s, &d, entry, file, data_size, t);
    }
    json_free(&d);
    if (s->error[0]) return 0;
    if (s->n_tensors > first) qsort(s->tensors + first, s->n_tensors - first, sizeof *s->tensors, st_by_place);
    for (i = first; i < s->n_tensors; i++) {
        st_tensor *t = &s->tensors[i];
        if (t->begin < place) return st_fail(s, "%s: tensor %.200s overlaps another one", file, t->name);
        if (t->begin > place) return st_fail(s, "%s: %.0f bytes before tensor %.200s belong to none", file, (double)(t->begin - place), t->name);
        place = t->begin + t->size;
        t->begin += 8 + header_size;
    }
    if (place != data_size) return st_fail(s, "%s: %.0f bytes at the end belong to no tensor", file, (double)(data_size - place));
    return 1;
}

/* Opens files[index] and adds its tensors. */
static int st_open_file(st_set *s, int index)
{
    st_file *file = &s->files[index];
    unsigned char length[8];
    char *path = st_path(s->folder, file->name);
    uint64_t size, header = 0;
    int i;
    if (!path) return st_fail(s, "out of memory");
    file->f = fopen(path, "rb");
    if (!file->f) st_fail(s, "cannot open %.300s: %s", path, strerror(errno));
    free(path);
    if (!file->f) return 0;
    size = st_file_size(file->f);
    if (size < 8 || fread(length, 1, 8, file->f) != 8) return st_fail(s, "%s: too short for a safetensors file", file->name);
    for (i = 7; i >= 0; i--) header = header << 8 | length[i];
    if (header > ST_MAX_HEADER || header > size - 8)
        return st_fail(s, "%s: a header of %.0f bytes in a file of %.0f: it is damaged or cut off", file->name, (double)header, (double)size);
    file->header = (char *)malloc((size_t)header + 1);
    if (!file->header) return st_fail(s, "out of memory");
    if (fread(file->header, 1, (size_t)header, file->f) != header) return st_fail(s, "%s: cannot be read", file->name);
    file->header[header] = 0;
    return st_add(s, file->header, (size_t)header, size - 8 - header, file->name, index);
}

/* ---- the folder ------------------------------------------------------------------------------------------------ */

/* Index of the file of that name, which is added if it is new; -1 and an error. */
static int st_file_index(st_set *s, const char *name)
{
    st_file *files;
    int i;
    for (i = 0; i < s->n_files; i++)
        if (strcmp(s->files[i].name, name) == 0) return i;
    if (!name[0] || strpbrk(name, "/\\:")) return st_fail(s, "model.safetensors.index.json names a file outside of the folder: %.200s", name) - 1;
    if (s->n_files == ST_MAX_FILES) return st_fail(s, "more than %d files", ST_MAX_FILES) - 1;
    files = (st_file *)realloc(s->files, (size_t)(s->n_files + 1) * sizeof *files);
    if (!files) return st_fail(s, "out of memory") - 1;
    s->files = files;
    memset(&files[s->n_files], 0, sizeof *files);
    files[s->n_files].name = st_copy(name);
    if (!files[s->n_files].name) return st_fail(s, "out of memory") - 1;
    return s->n_files++;
}

/* The tensor of that name, NULL: there is none. */
static st_tensor *st_find(st_set *s, const char *name)
{
    st_tensor key;
    key.name = name;
    return s->n_tensors ? (st_tensor *)bsearch(&key, s->tensors, s->n_tensors, sizeof key, st_by_name) : NULL;
}

/* Sorted for st_find; a name that stands in two files is an error. */
static int st_sort(st_set *s)
{
    size_t i;
    if (s->n_tensors) qsort(s->tensors, s->n_tensors, sizeof *s->tensors, st_by_name);
    for (i = 1; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return st_fail(s, "tensor %.200s is there twice", s->tensors[i].name);
    return 1;
}

/* All files of an index, then that every tensor is where the index says. */
static int st_open_index(st_set *s, const json_doc *d)
{
    const json_node *map = json_get(d, json_root(d), "weight_map"), *node;
    int i;
    if (!json_is(map, JSON_OBJECT) || map->size == 0) return st_fail(s, "model.safetensors.index.json has no weight_map");
    for (node = json_first(d, map); node; node = json_next(d, node)) {
        if (!json_is(node, JSON_STRING)) return st_fail(s, "model.safetensors.index.json: weight_map holds something else than names");
        if (st_file_index(s, json_text(d, node)) < 0) return 0;
    }
    for (i = 0; i < s->n_files; i++)
        if (!st_open_file(s, i)) return 0;
    if (!st_sort(s)) return 0;
    for (node = json_first(d, map); node; node = json_next(d, node)) {
        const st_tensor *t = st_find(s, json_key(d, node));
        if (!t || strcmp(s->files[t->file].name, json_text(d, node)) != 0)
            return st_fail(s, "%s lacks tensor %.200s, which the index names", json_text(d, node), json_key(d, node));
    }
    return 1;
}

/* A whole file with a NUL behind it, to be freed; NULL: errno says why. */
static char *st_load(const char *path, size_t limit, size_t *size)
{
    FILE *f = fopen(path, "rb");
    uint64_t n;
    char *text = NULL;
    if (!f) return NULL;
    n = st_file_size(f);
    errno = n > limit ? EFBIG : ENOMEM;
    if (n <= limit) text = (char *)malloc((size_t)n + 1);
    if (text && fread(text, 1, (size_t)n, f) != n) {
        errno = EIO;
        free(text);
        text = NULL;
    }
    fclose(f);
    if (!text) return NULL;
    text[n] = 0;
    *size = (size_t)n;
    return text;
}

static int st_exists(const char *folder, const char *name)
{
    char *path = st_path(folder, name);
    FILE *f = path ? fopen(path, "rb") : NULL;
    free(path);
    if (f) fclose(f);
    return f != NULL;
}

/* The folder's weights. */
JSON_FN int st_open(st_set *s, const char *folder)
{
    static const char index_name[] = "model.safetensors.index.json";
    char *path, *text;
    size_t size = 0;
    json_doc d;
    int ok;
    memset(s, 0, sizeof *s);
    s->folder = st_copy(folder);
    if (!s->folder) return st_fail(s, "out of memory");
    if (!st_exists(folder, index_name)) {
        if (!st_exists(folder, "model.safetensors"))
            return st_fail(s, "%.300s: neither model.safetensors nor %s is there", folder, index_name);
        return st_file_index(s, "model.safetensors") == 0 && st_open_file(s, 0) && st_sort(s);
    }
    path = st_path(folder, index_name);
    text = path ? st_load(path, ST_MAX_HEADER, &size) : NULL;
    free(path);
    if (!text) return st_fail(s, "cannot read %s: %s", index_name, strerror(errno));
    ok = json_parse(&d, text, size);
    if (!ok) st_fail(s, "%s: %s (byte %.0f)", index_name, d.error, (double)d.error_at);
    ok = ok && st_open_index(s, &d);
    json_free(&d);
    free(text);
    return ok;
}

/* n bytes of a tensor from byte `offset` on. */
JSON_FN int st_read(st_set *s, const st_tensor *t, uint64_t offset, void *to, size_t n)
{
    FILE *f = s->files[t->file].f;
    if (offset > t->size || n > t->size - offset) return st_fail(s, "tensor %.200s: read past its end", t->name);
    if (!st_seek(f, t->begin + offset) || fread(to, 1, n, f) != n)
        return st_fail(s, "%s: tensor %.200s cannot be read", s->files[t->file].name, t->name);
    return 1;
}

static void st_close(st_set *s)
{
    int i;
    for (i = 0; i < s->n_files; i++) {
        if (s->files[i].f) fclose(s->files[i].f);
        free(s->files[i].header);
        free(s->files[i].name);
    }
    free(s->files);
    free(s->tensors);
    free(s->folder);
    s->files = NULL;
    s->tensors = NULL;
    s->folder = NULL;
    s->n_files = 0;
    s->n_tensors = s->capacity = 0;
}

#endif /* SAFETENSORS_H */
