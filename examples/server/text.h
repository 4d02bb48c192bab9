/* text.h: growing text, and JSON written into it.

   Nothing here ends the program: a buffer that could not grow stays as it is, remembers that, and whoever sends it
   looks at `failed` once at the end. */
#ifndef SERVER_TEXT_H
#define SERVER_TEXT_H

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "tools/cli.h"
#include "tools/json.h"

/* Zeroed: empty. A NUL stands behind the last byte once something was added. */
typedef struct buffer {
    char *data;
    size_t size, capacity;
    int failed;                      /* 1: memory ran out, and something is missing */
} buffer;

static void buffer_free(buffer *b)
{
    free(b->data);
    memset(b, 0, sizeof *b);
}

/* Room for `more` bytes and a NUL; 0: there is none. */
static int buffer_reserve(buffer *b, size_t more)
{
    size_t capacity;
    char *data;
    if (b->failed) return 0;
    if (b->capacity - b->size > more) return 1;
    if (more > SIZE_MAX / 4 || b->size > SIZE_MAX / 4) {
        b->failed = 1;
        return 0;
    }
    capacity = b->size + more + 1;
    capacity += capacity / 2;                            /* a constant factor: n appends copy O(n) bytes */
    data = (char *)realloc(b->data, capacity);
    if (!data) {
        b->failed = 1;
        return 0;
    }
    b->data = data;
    b->capacity = capacity;
    return 1;
}

static void put_bytes(buffer *b, const void *data, size_t n)
{
    if (!buffer_reserve(b, n)) return;
    if (n) memcpy(b->data + b->size, data, n);
    b->size += n;
    b->data[b->size] = 0;
}

static void put_text(buffer *b, const char *text) { put_bytes(b, text, strlen(text)); }

/* All of *from behind what *to has; *from is empty afterwards. Large texts change hands without a copy. */
static void buffer_move(buffer *to, buffer *from)
{
    if (from->failed) to->failed = 1;
    if (to->size == 0 && !to->failed) {
        const buffer empty = *to;
        *to = *from;
        *from = empty;
    } else {
        put_bytes(to, from->data, from->size);
    }
    from->size = 0;
}

/* Takes the first n bytes away. */
static void buffer_consume(buffer *b, size_t n)
{
    if (n == 0) return;
    b->size -= n;
    memmove(b->data, b->data + n, b->size);
    b->data[b->size] = 0;
}

/* printf; for a few hundred bytes at a time. The locale is always "C", so numbers have points. */
CLI_PRINTF(2, 3) static void put(buffer *b, const char *format, ...)
{
    va_list args;
    size_t room;
    int n;
    if (!buffer_reserve(b, 64)) return;                  /* enough for most, which are then printed once */
    room = b->capacity - b->size;
    va_start(args, format);
    n = vsnprintf(b->data + b->size, room, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n >= room && buffer_reserve(b, (size_t)n)) {
        va_start(args, format);
        vsnprintf(b->data + b->size, (size_t)n + 1, format, args);
        va_end(args);
    }
    if (n >= 0 && !b->failed) b->size += (size_t)n;
    b->data[b->size] = 0;                                /* also where it failed half-way */
}

/* ------------------------------------------------------------------------------------------------ JSON */

/* A string with its quotes. Bytes that are not UTF-8 become U+FFFD, one for each. */
static void put_string(buffer *b, const char *s, size_t n)
{
    static const char from[] = "\"\\\b\f\n\r\t", into[] = "\"\\bfnrt";
    size_t i, size;
    put_bytes(b, "\"", 1);
    for (i = 0; i < n; i += size) {
        const unsigned char c = (unsigned char)s[i];
        const char *simple = c ? strchr(from, c) : NULL;
        size = json_utf8_length((const unsigned char *)s + i, n - i);
        if (simple) put(b, "\\%c", into[simple - from]);
        else if (size && c >= 32) put_bytes(b, s + i, size);
        else put_bytes(b, "\xef\xbf\xbd", size ? 0 : 3);
        if (size && c < 32 && !simple) put(b, "\\u%04x", c);
        if (!size) size = 1;
    }
    put_bytes(b, "\"", 1);
}

static void put_cstring(buffer *b, const char *s) { put_string(b, s, strlen(s)); }

/* JSON has no infinity and no NaN; OpenAI writes -9999 where a probability is 0. */
static void put_logprob(buffer *b, double v)
{
    if (!(v > -9999)) v = -9999;
    put(b, "%.7g", v);
}

/* A measured value with three digits behind its point. */
static void put_measure(buffer *b, double v)
{
    put(b, "%.3f", isfinite(v) ? v : 0.0);
}

/* "[104,105]": the bytes of s as numbers, the way OpenAI shows what may be half a character. */
static void put_byte_list(buffer *b, const char *s, size_t n)
{
    size_t i;
    put_bytes(b, "[", 1);
    for (i = 0; i < n; i++) put(b, i ? ",%d" : "%d", (unsigned char)s[i]);
    put_bytes(b, "]", 1);
}

/* Nine digits bring every float back exactly. */
static void put_floats(buffer *b, const float *v, int n)
{
    int i;
    put_bytes(b, "[", 1);
    for (i = 0; i < n; i++) put(b, i ? ",%.9g" : "%.9g", (double)v[i]);
    put_bytes(b, "]", 1);
}

/* The floats' little-endian bytes in base64 (RFC 4648), in quotes: what OpenAI's libraries ask for by default. */
static void put_floats_base64(buffer *b, const float *v, int n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t size = 4 * (size_t)n;
    size_t i, k;
    if (!buffer_reserve(b, (size + 2) / 3 * 4 + 2)) return;
    put_bytes(b, "\"", 1);
    for (i = 0; i < size; i += 3) {
        uint32_t group = 0;
        char out[4];
        for (k = 0; k < 3; k++) {
            uint32_t bits = 0;
            if (i + k < size) memcpy(&bits, &v[(i + k) / 4], 4);
            group = group << 8 | (bits >> (8 * ((i + k) % 4)) & 255);
        }
        for (k = 0; k < 4; k++) out[k] = i + k <= size ? digits[group >> (18 - 6 * k) & 63] : '=';
        put_bytes(b, out, 4);
    }
    put_bytes(b, "\"", 1);
}

#endif /* SERVER_TEXT_H */
