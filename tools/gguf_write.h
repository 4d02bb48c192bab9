/* gguf_write.h: write GGUF files, for the programs in tools/.  Same licence as bitnet.h.

   GGUF is a header (keys with values, then one record for each tensor) followed by the tensors' bytes, each
   starting at a multiple of the alignment. Offsets stand in the header, so every tensor's size must be known
   before the first one is written; the bytes themselves are streamed and never held in memory.

       gguf_writer w;
       gguf_writer_init(&w);
       gguf_kv_str(&w, "general.architecture", "llama");
       gguf_array(&w, "tokenizer.ggml.scores", GGUF_F32, n);      then n times gguf_put_f32(&w, score);
       gguf_tensor(&w, "token_embd.weight", 2, ne, type, n_bytes);       ... all tensors
       gguf_open(&w, "model.gguf");
       gguf_write(&w, bytes, n);                    as often as it takes, tensor after tensor
       if (!gguf_close(&w)) fprintf(stderr, "%s\n", w.error);

   Rules
   - Functions return 1, or 0 after an error. The first error stays: w.error holds its text, every later call does
     nothing and returns 0. So a caller may test only the result of gguf_close.
   - The file appears under its name only when it is complete. Until then it is NAME.tmp-<pid>-<n> in the same
     folder; gguf_close renames it, and an error or gguf_cancel removes it. If NAME is a symbolic link, the link is
     replaced, not the file behind it.
   - gguf_close or gguf_cancel must be called once to free the memory, also after an error.
   - Padding between tensors is the writer's work: it knows when a tensor is complete.
   - Regular files only: gguf_skip leaves holes by seeking. Sizes and offsets are 64 bits wide.
   - One writer belongs to one thread at a time. Nothing is global.
   - Include this before any system header, so that large files work on 32-bit systems.

   The caller answers for unique keys and names and for a byte count that fits the type: the writer does not know the
   types, since several ternary ones have sizes that no general formula gives. */

#ifndef GGUF_WRITE_H
#define GGUF_WRITE_H

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
#include <sys/stat.h>
#if defined(_WIN32)
#include <process.h>
#else
#include <fcntl.h>
#include <unistd.h>
#endif

#define GGUF_VERSION 3
#define GGUF_ALIGNMENT 32u

/* Value types of keys and array elements. */
enum {
    GGUF_U8 = 0, GGUF_I8 = 1, GGUF_U16 = 2, GGUF_I16 = 3, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7,
    GGUF_STR = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGUF_I64 = 11, GGUF_F64 = 12
};

/* Bytes that grow; data is NULL while size is 0. */
typedef struct gguf_buffer {
    unsigned char *data;
    size_t size, capacity;
} gguf_buffer;

typedef struct gguf_writer {
    char error[400];            /* "" while all is well */
    gguf_buffer keys;           /* the header's key/value records, as they will stand in the file */
    gguf_buffer infos;          /* its tensor records */
    gguf_buffer sizes;          /* uint64_t each: bytes of every tensor, without padding */
    uint64_t n_keys, n_tensors;
    uint64_t array_left;        /* elements that the array begun last still lacks */
    uint64_t data_size;         /* bytes of all tensors so far, with padding */
    uint32_t alignment;
    FILE *file;
    char *path, *temporary;
    uint64_t position;          /* in the file, where the next byte goes */
    uint64_t tensor;            /* index of the tensor being written */
    uint64_t tensor_left;       /* bytes it still lacks */
    int hole;                   /* 1: the bytes before position were skipped, so the file ends earlier */
} gguf_writer;

/* ---- errors and memory ------------------------------------------------------------------------------------- */

#if defined(__GNUC__)
static inline int gguf_fail(gguf_writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif

/* Keep the first error's text. Always 0, so that callers can return it. */
static inline int gguf_fail(gguf_writer *w, const char *format, ...) {
    if (w->error[0] == 0) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(w->error, sizeof w->error, format, args);
        va_end(args);
    }
    return 0;
}

/* 1 while no call has failed. */
static inline int gguf_ok(const gguf_writer *w) { return w->error[0] == 0; }

/* Append n bytes to a buffer; 0 when memory runs out. */
static inline int gguf_append(gguf_buffer *b, const void *bytes, size_t n) {
    if (n > b->capacity - b->size) {
        size_t capacity = b->capacity < 4096 ? 4096 : b->capacity;
        unsigned char *data;
        while (capacity - b->size < n) {
            if (capacity > SIZE_MAX / 2) return 0;
            capacity *= 2;
        }
        data = (unsigned char *)realloc(b->data, capacity);
        if (data == NULL) return 0;
        b->data = data;
        b->capacity = capacity;
    }
    if (n > 0) memcpy(b->data + b->size, bytes, n);
    b->size += n;
    return 1;
}

/* Append the low n bytes of v, least significant first: the file's byte order on every host. */
static inline int gguf_append_int(gguf_buffer *b, uint64_t v, size_t n) {
    unsigned char bytes[8];
    size_t i;
    for (i = 0; i < n; i++) bytes[i] = (unsigned char)((v >> (8 * i)) & 0xff);
    return gguf_append(b, bytes, n);
}

static inline int gguf_append_str(gguf_buffer *b, const char *text, size_t n) {
    return gguf_append_int(b, n, 8) && gguf_append(b, text, n);
}

static inline void gguf_writer_init(gguf_writer *w) {
    memset(w, 0, sizeof *w);
    w->alignment = GGUF_ALIGNMENT;
}

/* ---- keys -------------------------------------------------------------------------------------------------- */

/* Begin a record: key and value type. Also checks that the array before it got all its elements. */
static inline int gguf_key(gguf_writer *w, const char *key, uint32_t type) {
    if (!gguf_ok(w)) return 0;
    if (w->array_left != 0) return gguf_fail(w, "an array lacks elements before key %s", key);
    if (w->file != NULL) return gguf_fail(w, "key %s comes after the header was written", key);
    if (!gguf_append_str(&w->keys, key, strlen(key)) || !gguf_append_int(&w->keys, type, 4))
        return gguf_fail(w, "out of memory");
    w->n_keys++;
    return 1;
}

static inline int gguf_value(gguf_writer *w, uint64_t bits, size_t n_bytes) {
    if (!gguf_append_int(&w->keys, bits, n_bytes)) return gguf_fail(w, "out of memory");
    return 1;
}

static inline uint32_t gguf_f32_bits(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits;
}

static inline int gguf_kv_u16(gguf_writer *w, const char *key, uint16_t v) {
    return gguf_key(w, key, GGUF_U16) && gguf_value(w, v, 2);
}

static inline int gguf_kv_u32(gguf_writer *w, const char *key, uint32_t v) {
    return gguf_key(w, key, GGUF_U32) && gguf_value(w, v, 4);
}

static inline int gguf_kv_i32(gguf_writer *w, const char *key, int32_t v) {
    return gguf_key(w, key, GGUF_I32) && gguf_value(w, (uint32_t)v, 4);
}

static inline int gguf_kv_u64(gguf_writer *w, const char *key, uint64_t v) {
    return gguf_key(w, key, GGUF_U64) && gguf_value(w, v, 8);
}

static inline int gguf_kv_f32(gguf_writer *w, const char *key, float v) {
    return gguf_key(w, key, GGUF_F32) && gguf_value(w, gguf_f32_bits(v), 4);
}

static inline int gguf_kv_bool(gguf_writer *w, const char *key, int v) {
    return gguf_key(w, key, GGUF_BOOL) && gguf_value(w, v != 0, 1);
}

static inline int gguf_kv_str(gguf_writer *w, const char *key, const char *text) {
    if (!gguf_key(w, key, GGUF_STR)) return 0;
    return gguf_append_str(&w->keys, text, strlen(text)) ? 1 : gguf_fail(w, "out of memory");
}

/* A value copied from another file: n bytes exactly as they stand after its type. */
static inline int gguf_kv_raw(gguf_writer *w, const char *key, uint32_t type, const void *bytes, size_t n) {
    if (!gguf_key(w, key, type)) return 0;
    return gguf_append(&w->keys, bytes, n) ? 1 : gguf_fail(w, "out of memory");
}

/* Begin an array of count elements; exactly as many gguf_put_ calls of the element's kind must follow. */
static inline int gguf_array(gguf_writer *w, const char *key, uint32_t element_type, uint64_t count) {
    if (!gguf_key(w, key, GGUF_ARRAY) || !gguf_value(w, element_type, 4) || !gguf_value(w, count, 8)) return 0;
    w->array_left = count;
    return 1;
}

static inline int gguf_put(gguf_writer *w, uint64_t bits, size_t n_bytes) {
    if (!gguf_ok(w)) return 0;
    if (w->array_left == 0) return gguf_fail(w, "an array got more elements than announced");
    w->array_left--;
    return gguf_value(w, bits, n_bytes);
}

static inline int gguf_put_i32(gguf_writer *w, int32_t v) { return gguf_put(w, (uint32_t)v, 4); }
static inline int gguf_put_f32(gguf_writer *w, float v) { return gguf_put(w, gguf_f32_bits(v), 4); }

/* One element of an array of strings; n bytes, which need not end in 0. */
static inline int gguf_put_str(gguf_writer *w, const char *text, size_t n) {
    if (!gguf_put(w, n, 8)) return 0;
    return gguf_append(&w->keys, text, n) ? 1 : gguf_fail(w, "out of memory");
}

/* ---- tensor records ---------------------------------------------------------------------------------------- */

/* Bytes from n up to the next multiple of the alignment. */
static inline uint64_t gguf_padding(const gguf_writer *w, uint64_t n) {
    return (w->alignment - n % w->alignment) % w->alignment;
}

/* Another alignment than 32: a power of two, before the first tensor. Writes the key that says so. */
static inline int gguf_set_alignment(gguf_writer *w, uint32_t alignment) {
    if (!gguf_ok(w)) return 0;
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || w->n_tensors != 0)
        return gguf_fail(w, "bad alignment %lu", (unsigned long)alignment);
    w->alignment = alignment;
    return gguf_kv_u32(w, "general.alignment", alignment);
}

/* Announce a tensor: ne[0] is the length of a row, type the number that stands in the file, n_bytes its exact size
   without padding. Data must come in the order of these calls. */
static inline int gguf_tensor(gguf_writer *w, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type,
                              uint64_t n_bytes) {
    gguf_buffer *b = &w->infos;
    uint32_t i;
    int ok;
    if (!gguf_ok(w)) return 0;
    if (w->file != NULL) return gguf_fail(w, "tensor %s comes after the header was written", name);
    if (strlen(name) > 63) return gguf_fail(w, "tensor name longer than 63 bytes: %s", name);   /* ggml's limit */
    if (n_bytes > UINT64_MAX / 2 - w->data_size) return gguf_fail(w, "tensor %s is too large", name);
    ok = gguf_append_str(b, name, strlen(name)) && gguf_append_int(b, n_dims, 4);
    for (i = 0; i < n_dims; i++) ok = ok && gguf_append_int(b, ne[i], 8);
    ok = ok && gguf_append_int(b, type, 4) && gguf_append_int(b, w->data_size, 8);
    ok = ok && gguf_append(&w->sizes, &n_bytes, sizeof n_bytes);
    if (!ok) return gguf_fail(w, "out of memory");
    w->data_size += n_bytes + gguf_padding(w, n_bytes);
    w->n_tensors++;
    return 1;
}

/* ---- the file ---------------------------------------------------------------------------------------------- */

/* Put n bytes at the position; 0 and the reason when the disk is full. */
static inline int gguf_write_raw(gguf_writer *w, const void *bytes, size_t n) {
    if (n == 0) return 1;
    if (fwrite(bytes, 1, n, w->file) != n) return gguf_fail(w, "cannot write %s: %s", w->temporary, strerror(errno));
    w->position += n;
    w->hole = 0;
    return 1;
}

static inline int gguf_write_zeros(gguf_writer *w, uint64_t n) {
    static const unsigned char zeros[256] = {0};
    while (n > 0) {
        size_t part = n < sizeof zeros ? (size_t)n : sizeof zeros;
        if (!gguf_write_raw(w, zeros, part)) return 0;
        n -= part;
    }
    return 1;
}

static inline int gguf_seek(gguf_writer *w, uint64_t position) {
#if defined(_WIN32)
    int bad = position > INT64_MAX || _fseeki64(w->file, (long long)position, SEEK_SET) != 0;
#else
    off_t offset = (off_t)position;      /* 64 bits by _FILE_OFFSET_BITS; checked, because that can be undone */
    int bad = offset < 0 || (uint64_t)offset != position || fseeko(w->file, offset, SEEK_SET) != 0;
#endif
    return bad ? gguf_fail(w, "cannot seek in %s: %s", w->temporary, strerror(errno)) : 1;
}

/* Bytes of tensor i. */
static inline uint64_t gguf_tensor_size(const gguf_writer *w, uint64_t i) {
    uint64_t size;
    memcpy(&size, w->sizes.data + i * sizeof size, sizeof size);
    return size;
}

/* Finish every tensor that is complete, empty ones too: pad it and go on to the next. */
static inline int gguf_next_tensor(gguf_writer *w) {
    while (w->tensor_left == 0 && w->tensor < w->n_tensors) {
        if (!gguf_write_zeros(w, gguf_padding(w, w->position))) return 0;
        w->tensor++;
        if (w->tensor < w->n_tensors) w->tensor_left = gguf_tensor_size(w, w->tensor);
    }
    return 1;
}

/* Create the temporary file. It is opened with O_EXCL, so that it can be nobody else's. */
static inline int gguf_create(gguf_writer *w, const char *path) {
    size_t room = strlen(path) + 64;
    int attempt;
    w->path = (char *)malloc(room);
    w->temporary = (char *)malloc(room);
    if (w->path == NULL || w->temporary == NULL) return gguf_fail(w, "out of memory");
    memcpy(w->path, path, strlen(path) + 1);
    for (attempt = 0; attempt < 100; attempt++) {
#if defined(_WIN32)
        (void)snprintf(w->temporary, room, "%s.tmp-%d-%d", path, (int)_getpid(), attempt);
        w->file = fopen(w->temporary, "wb");
#else
        int fd;
        (void)snprintf(w->temporary, room, "%s.tmp-%ld-%d", path, (long)getpid(), attempt);
        fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL, 0666);
        if (fd >= 0 && (w->file = fdopen(fd, "wb")) == NULL) {
            close(fd);
            remove(w->temporary);
        }
#endif
        if (w->file != NULL) return 1;
        if (errno != EEXIST) break;
    }
    return gguf_fail(w, "cannot create %s: %s", w->temporary, strerror(errno));
}

/* Create the file and write the header; tensor data is expected from here on. */
static inline int gguf_open(gguf_writer *w, const char *path) {
    gguf_buffer head;
    struct stat info;
    int ok;
    if (!gguf_ok(w)) return 0;
    if (w->file != NULL) return gguf_fail(w, "the writer has a file already");
    if (w->array_left != 0) return gguf_fail(w, "the last array lacks elements");
    if (stat(path, &info) == 0 && (info.st_mode & S_IFMT) != S_IFREG)
        return gguf_fail(w, "%s exists and is not a regular file", path);
    if (!gguf_create(w, path)) return 0;
    memset(&head, 0, sizeof head);
    ok = gguf_append(&head, "GGUF", 4) && gguf_append_int(&head, GGUF_VERSION, 4) &&
         gguf_append_int(&head, w->n_tensors, 8) && gguf_append_int(&head, w->n_keys, 8);
    if (!ok) (void)gguf_fail(w, "out of memory");
    ok = ok && gguf_write_raw(w, head.data, head.size) && gguf_write_raw(w, w->keys.data, w->keys.size) &&
         gguf_write_raw(w, w->infos.data, w->infos.size) && gguf_write_zeros(w, gguf_padding(w, w->position));
    free(head.data);
    if (!ok) return 0;
    w->tensor_left = w->n_tensors > 0 ? gguf_tensor_size(w, 0) : 0;
    return gguf_next_tensor(w);
}

/* Check that n more bytes belong to the tensor being written: a call never runs on into the next one. */
static inline int gguf_may_write(gguf_writer *w, uint64_t n) {
    if (!gguf_ok(w)) return 0;
    if (w->file == NULL) return gguf_fail(w, "data comes before gguf_open");
    if (n > w->tensor_left)
        return gguf_fail(w, "tensor %llu gets more bytes than announced", (unsigned long long)w->tensor);
    return 1;
}

/* The next n bytes of the tensor. */
static inline int gguf_write(gguf_writer *w, const void *bytes, size_t n) {
    if (!gguf_may_write(w, n) || !gguf_write_raw(w, bytes, n)) return 0;
    w->tensor_left -= n;
    return gguf_next_tensor(w);
}

/* n bytes of zeros that take no room on the disk, where the file system knows holes. */
static inline int gguf_skip(gguf_writer *w, uint64_t n) {
    if (!gguf_may_write(w, n)) return 0;
    if (n > 0) {
        if (!gguf_seek(w, w->position + n)) return 0;
        w->position += n;
        w->hole = 1;
    }
    w->tensor_left -= n;
    return gguf_next_tensor(w);
}

static inline void gguf_free(gguf_writer *w) {
    free(w->keys.data);
    free(w->infos.data);
    free(w->sizes.data);
    free(w->path);
    free(w->temporary);
    w->keys.data = w->infos.data = w->sizes.data = NULL;
    w->path = w->temporary = NULL;
}

/* Give up: remove what was written, free the memory, keep w->error. */
static inline void gguf_cancel(gguf_writer *w) {
    if (w->file != NULL) {
        (void)fclose(w->file);
        (void)remove(w->temporary);
        w->file = NULL;
    }
    gguf_free(w);
    (void)gguf_fail(w, "cancelled");
}

/* Let the file appear under its name. 0 if anything failed before or fails now; then no file is left. */
static inline int gguf_close(gguf_writer *w) {
    if (gguf_ok(w) && w->file == NULL) (void)gguf_fail(w, "no file was opened");
    if (gguf_ok(w) && w->tensor < w->n_tensors)
        (void)gguf_fail(w, "tensor %llu lacks %llu bytes", (unsigned long long)w->tensor,
                        (unsigned long long)w->tensor_left);
    /* A seek alone does not make a file longer: its last byte must be written. */
    if (gguf_ok(w) && w->hole && gguf_seek(w, w->position - 1)) {
        w->position--;
        (void)gguf_write_zeros(w, 1);
    }
    if (gguf_ok(w)) {
        /* Buffered bytes meet a full disk only here. */
        int closed = fclose(w->file);
        w->file = NULL;
        if (closed != 0) (void)gguf_fail(w, "cannot write %s: %s", w->temporary, strerror(errno));
#if defined(_WIN32)
        if (gguf_ok(w)) (void)remove(w->path);      /* rename does not replace there */
#endif
        if (gguf_ok(w) && rename(w->temporary, w->path) != 0)
            (void)gguf_fail(w, "cannot rename %s to %s: %s", w->temporary, w->path, strerror(errno));
        if (!gguf_ok(w)) (void)remove(w->temporary);
    }
    if (!gguf_ok(w)) {
        gguf_cancel(w);
        return 0;
    }
    gguf_free(w);
    return 1;
}

#endif /* GGUF_WRITE_H */
