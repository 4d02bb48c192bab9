/* http.h: HTTP/1.1 as bytes: the head of a request, chunked bodies, the head of an answer (RFC 9110 and 9112).

   No sockets here, only text, so that a fuzzer can have all of it (tests/fuzz_http.c). What is doubtful is refused:
   wherever two readers of one message may see its end at different bytes, an attacker can hide a request in another.
   So no folded lines, no spaces before colons, no Content-Length beside Transfer-Encoding. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "text.h"

#define HTTP_MAX_HEAD 16384          /* bytes of request line and headers; browsers send under 4 KiB */
#define HTTP_MAX_BODY (8u << 20)     /* bytes: 100 times the text that a context of 4,096 tokens holds */

typedef struct http_head {
    char method[8];
    char path[256], query[256];      /* decoded, without the question mark; query as it was sent */
    char key[256];                   /* of "Authorization: Bearer" or "X-Api-Key"; "": none */
    int minor;                       /* of the version, 1.0 or 1.1 */
    int keep_alive, chunked, expects_continue;
    int has_length;
    uint64_t length;                 /* of the body, where it is not chunked */
    int n_hosts;
} http_head;

/* What a head was refused for. */
typedef struct http_error {
    int status;
    const char *why;
} http_error;

static int http_refuse(http_error *e, int status, const char *why)
{
    e->status = status;
    e->why = why;
    return 0;
}

/* Bytes of the head at the start of data [n], its empty line included; 0: not all there. *scanned: how far earlier
   calls have looked. */
static size_t http_head_size(const char *data, size_t n, size_t *scanned)
{
    size_t i;
    for (i = *scanned; i < n; i++) {
        if (data[i] != '\n') continue;
        if (i + 1 < n && data[i + 1] == '\n') return i + 2;
        if (i + 2 < n && data[i + 1] == '\r' && data[i + 2] == '\n') return i + 3;
    }
    *scanned = n > 2 ? n - 2 : 0;                        /* a line's end and the beginning of the next may be here */
    return 0;
}

/* ----------------------------------------------------------------------------------------------- words */

static int http_lower(int c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

/* 1 if s [n] is the word, whatever the case of its letters; word in lower case. */
static int http_is(const char *s, size_t n, const char *word)
{
    size_t i;
    if (strlen(word) != n) return 0;
    for (i = 0; i < n; i++)
        if (http_lower((unsigned char)s[i]) != word[i]) return 0;
    return 1;
}

/* 1 if the comma-separated list s [n] holds the word. */
static int http_lists(const char *s, size_t n, const char *word)
{
    size_t from = 0, to, end;
    for (; from <= n; from = to + 1) {
        for (to = from; to < n && s[to] != ','; to++) {}
        for (end = to; end > from && (s[end - 1] == ' ' || s[end - 1] == '\t'); end--) {}
        while (from < end && (s[from] == ' ' || s[from] == '\t')) from++;
        if (http_is(s + from, end - from, word)) return 1;
    }
    return 0;
}

static int http_is_token_char(unsigned char c)
{
    return (c >= '0' && c <= '9') || (http_lower(c) >= 'a' && http_lower(c) <= 'z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static int http_hex(int c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return http_lower(c) >= 'a' && http_lower(c) <= 'f' ? http_lower(c) - 'a' + 10 : -1;
}

/* Copies s [n] with its %XX decoded to out [capacity], NUL-terminated; 0: too long, or an escape is wrong or a NUL. */
static int http_decode(const char *s, size_t n, char *out, size_t capacity)
{
    size_t i, size = 0;
    for (i = 0; i < n; i++) {
        int c = (unsigned char)s[i];
        if (c == '%') {
            const int high = i + 2 < n ? http_hex(s[i + 1]) : -1, low = i + 2 < n ? http_hex(s[i + 2]) : -1;
            c = high >= 0 && low >= 0 ? high * 16 + low : 0;
            i += 2;
        }
        if (c == 0 || size + 1 >= capacity) return 0;
        out[size++] = (char)c;
    }
    out[size] = 0;
    return 1;
}

/* ------------------------------------------------------------------------------------------------ head */

/* The request's target without "http://host", which proxies send, split at the question mark. */
static int http_parse_target(http_head *h, const char *s, size_t n, http_error *e)
{
    const char *mark;
    size_t i, path;
    for (i = 0; i < n; i++)
        if ((unsigned char)s[i] <= 32 || (unsigned char)s[i] >= 127)
            return http_refuse(e, 400, "a wrong byte in the request's target");
    if (n > 7 && http_is(s, 7, "http://")) {
        for (i = 7; i < n && s[i] != '/'; i++) {}
        s += i;
        n -= i;
    }
    if (n == 1 && s[0] == '*') n = 0;                    /* "OPTIONS *" */
    mark = n ? (const char *)memchr(s, '?', n) : NULL;
    path = mark ? (size_t)(mark - s) : n;
    if (path >= sizeof h->path || n - path > sizeof h->query)
        return http_refuse(e, 414, "the request's target is too long");
    if (!http_decode(s, path, h->path, sizeof h->path))
        return http_refuse(e, 400, "a wrong escape in the request's target");
    if (path == 0) memcpy(h->path, "/", 2);
    if (mark) memcpy(h->query, mark + 1, n - path - 1);
    return h->path[0] == '/' ? 1 : http_refuse(e, 400, "the request's target does not begin with a slash");
}

/* "GET /path HTTP/1.1" */
static int http_parse_request_line(http_head *h, const char *s, size_t n, http_error *e)
{
    const char *target = (const char *)memchr(s, ' ', n), *version;
    size_t i, method;
    if (!target) return http_refuse(e, 400, "no request line");
    method = (size_t)(target - s);
    for (i = 0; i < method; i++)
        if (!http_is_token_char((unsigned char)s[i])) return http_refuse(e, 400, "no request line");
    if (method == 0) return http_refuse(e, 400, "no request line");
    memcpy(h->method, s, method < sizeof h->method ? method : sizeof h->method - 1);     /* none that is cut is known */
    target++;
    version = (const char *)memchr(target, ' ', n - method - 1);
    if (!version || n - (size_t)(version - s) != 9 || memcmp(version, " HTTP/", 6) != 0 || version[7] != '.' ||
        version[8] < '0' || version[8] > '9')
        return http_refuse(e, 400, "no request line");
    if (version[6] != '1') return http_refuse(e, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    h->minor = version[8] != '0';
    h->keep_alive = h->minor;
    return http_parse_target(h, target, (size_t)(version - target), e);
}

/* Digits only, and the same number if it comes twice. */
static int http_parse_length(http_head *h, const char *s, size_t n, http_error *e)
{
    uint64_t v = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || v > UINT64_MAX / 10 - 1) return http_refuse(e, 400, "a wrong Content-Length");
        v = 10 * v + (uint64_t)(s[i] - '0');
    }
    if (n == 0 || (h->has_length && h->length != v)) return http_refuse(e, 400, "a wrong Content-Length");
    h->has_length = 1;
    h->length = v;
    return 1;
}

static void http_parse_key(http_head *h, const char *s, size_t n)
{
    if (n >= sizeof h->key) n = 0;                       /* longer than any key can be: a wrong one */
    memcpy(h->key, s, n);
    h->key[n] = 0;
}

/* One header; value without spaces around it. Those that don't concern us are passed over. */
static int http_parse_field(http_head *h, const char *name, size_t n_name, const char *value, size_t n, http_error *e)
{
    if (http_is(name, n_name, "content-length")) return http_parse_length(h, value, n, e);
    if (http_is(name, n_name, "host") && ++h->n_hosts > 1) return http_refuse(e, 400, "two Host headers");
    if (http_is(name, n_name, "transfer-encoding")) {
        if (h->chunked || !http_is(value, n, "chunked"))
            return http_refuse(e, 501, "a Transfer-Encoding other than chunked");
        h->chunked = 1;
    }
    if (http_is(name, n_name, "connection")) {
        if (http_lists(value, n, "close")) h->keep_alive = 0;
        else if (http_lists(value, n, "keep-alive")) h->keep_alive = 1;
    }
    if (http_is(name, n_name, "expect")) {
        if (!http_is(value, n, "100-continue")) return http_refuse(e, 417, "an Expect other than 100-continue");
        h->expects_continue = h->minor;
    }
    if (http_is(name, n_name, "x-api-key")) http_parse_key(h, value, n);
    if (http_is(name, n_name, "authorization") && n > 7 && http_is(value, 7, "bearer "))
        http_parse_key(h, value + 7, n - 7);
    return 1;
}

static int http_parse_line(http_head *h, const char *s, size_t n, http_error *e)
{
    const char *colon = (const char *)memchr(s, ':', n);
    size_t i, name = colon ? (size_t)(colon - s) : 0, from, to = n;
    if (name == 0) return http_refuse(e, 400, "a header without a name");
    for (i = 0; i < name; i++)
        if (!http_is_token_char((unsigned char)s[i])) return http_refuse(e, 400, "a wrong byte in a header's name");
    for (; i < n; i++)
        if (((unsigned char)s[i] < 32 && s[i] != '\t') || s[i] == 127)
            return http_refuse(e, 400, "a wrong byte in a header");
    for (from = name + 1; from < to && (s[from] == ' ' || s[from] == '\t'); from++) {}
    while (to > from && (s[to - 1] == ' ' || s[to - 1] == '\t')) to--;
    return http_parse_field(h, s, name, s + from, to - from, e);
}

/* The head data [size], as http_head_size found it. 1, or 0 with *e. */
static int http_parse_head(http_head *h, const char *data, size_t size, http_error *e)
{
    size_t at = 0;
    int first = 1;
    memset(h, 0, sizeof *h);
    while (at < size) {
        const char *s = data + at, *end = (const char *)memchr(s, '\n', size - at);
        size_t n = end ? (size_t)(end - s) : size - at;
        at += n + 1;
        if (n && s[n - 1] == '\r') n--;
        if (n == 0) break;
        if (!(first ? http_parse_request_line(h, s, n, e) : http_parse_line(h, s, n, e))) return 0;
        first = 0;
    }
    if (first) return http_refuse(e, 400, "no request line");
    if (h->chunked && (h->has_length || h->minor == 0))
        return http_refuse(e, 400, "the body's length is said in two ways");
    if (h->minor && h->n_hosts != 1) return http_refuse(e, 400, "no Host header");
    return 1;
}

/* The value of name in a query string, at most capacity - 1 bytes, to out; 0: there is none. */
static int http_query(const char *query, const char *name, char *out, size_t capacity)
{
    const size_t n = strlen(name);
    for (;;) {
        const size_t size = strcspn(query, "&");
        if (size > n && query[n] == '=' && memcmp(query, name, n) == 0)
            return http_decode(query + n + 1, size - n - 1, out, capacity);
        if (!query[size]) return 0;
        query += size + 1;
    }
}

/* ------------------------------------------------------------------------------------------- chunked bodies */

/* SIZE in hex, perhaps ";name=value", line end, that many bytes, line end; size 0 ends it, perhaps with more headers
   (which say nothing to us), and an empty line. */
typedef struct http_chunks {
    enum { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_END, CHUNK_TRAILER, CHUNK_DONE, CHUNK_WRONG } state;
    uint64_t left;                   /* bytes of this chunk; while its size is read: the size so far */
    int n_digits, n_line;            /* of the size; bytes of a trailer's line so far */
    size_t n_extra;                  /* bytes that are no body, bounded like a head */
} http_chunks;

/* A byte that is no data. */
static void http_chunk_byte(http_chunks *c, char byte)
{
    const int digit = http_hex(byte);
    if (++c->n_extra > HTTP_MAX_HEAD + (size_t)HTTP_MAX_BODY) c->state = CHUNK_WRONG;    /* one-byte chunks have 5 */
    switch (c->state) {
    case CHUNK_SIZE:
        if (digit >= 0 && c->n_digits < 8) {
            c->left = 16 * c->left + (uint64_t)digit;
            c->n_digits++;
            break;
        }
        if (c->n_digits == 0 || digit >= 0) {
            c->state = CHUNK_WRONG;
            break;
        }
        c->state = CHUNK_EXTENSION;
        if (byte != '\n' && byte != '\r' && byte != ';' && byte != ' ' && byte != '\t') c->state = CHUNK_WRONG;
        /* fall through */
    case CHUNK_EXTENSION:
        if (byte == '\n' && c->state == CHUNK_EXTENSION) {
            c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
            c->n_line = 0;
        }
        break;
    case CHUNK_END:                                      /* the line end behind the data */
        if (byte == '\n') {
            c->state = CHUNK_SIZE;
            c->left = 0;
            c->n_digits = 0;
        } else if (byte != '\r') {
            c->state = CHUNK_WRONG;
        }
        break;
    case CHUNK_TRAILER:
        if (byte == '\n' && c->n_line == 0) c->state = CHUNK_DONE;
        else if (byte == '\n') c->n_line = 0;
        else if (byte != '\r') c->n_line = 1;
        break;
    default: break;
    }
}

/* Takes bytes of data [n] until the body ends or is wrong (see state), and appends what they hold to body. Returns how
   many it took. */
static size_t http_dechunk(http_chunks *c, const char *data, size_t n, buffer *body)
{
    size_t at = 0;
    while (at < n && c->state != CHUNK_DONE && c->state != CHUNK_WRONG) {
        if (c->state == CHUNK_DATA) {
            const size_t size = n - at < c->left ? n - at : (size_t)c->left;
            put_bytes(body, data + at, size);
            at += size;
            c->left -= size;
            if (c->left == 0) c->state = CHUNK_END;
        } else {
            http_chunk_byte(c, data[at++]);
        }
    }
    return at;
}

/* ---------------------------------------------------------------------------------------------- answers */

static const char *http_reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    }
    return "Error";
}

/* The head of an answer. size: of its body in bytes; -1: it comes in chunks, or (HTTP/1.0) ends with the connection.
   more: further headers, whole lines. Any page may read the answers: there are no cookies here that one could abuse. */
static void http_put_head(buffer *out, int status, const char *type, int64_t size, int minor, int keep_alive,
                          const char *more)
{
    char date[64];
    const time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
    put(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nServer: bitnet.h\r\nAccess-Control-Allow-Origin: *\r\n", status,
        http_reason(status), date);
    if (type) put(out, "Content-Type: %s\r\n", type);
    if (size >= 0 && status != 204) put(out, "Content-Length: %" PRId64 "\r\n", size);
    if (size < 0 && minor) put_text(out, "Transfer-Encoding: chunked\r\n");
    put(out, "%s%s\r\n", more, !keep_alive ? "Connection: close\r\n" : minor ? "" : "Connection: keep-alive\r\n");
}

static void http_put_chunk(buffer *out, const char *data, size_t size, int minor)
{
    if (size == 0) return;                               /* would be the end */
    if (minor) put(out, "%zx\r\n", size);
    put_bytes(out, data, size);
    if (minor) put_text(out, "\r\n");
}

/* The type of errors of that status, as OpenAI and llama-server name it. */
static const char *http_error_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 500: return "server_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
    case 504: return "timeout_error";
    }
    return "invalid_request_error";
}

/* {"error":{...}} */
static void put_error(buffer *b, int status, const char *message)
{
    put(b, "{\"error\":{\"code\":%d,\"message\":", status);
    put_cstring(b, message);
    put(b, ",\"type\":\"%s\"}}", http_error_type(status));
}

/* A whole answer that is an error. */
static void http_put_error(buffer *out, int status, const char *message, int minor, int keep_alive, const char *more)
{
    buffer body;
    memset(&body, 0, sizeof body);
    put_error(&body, status, message);
    http_put_head(out, status, "application/json; charset=utf-8", (int64_t)body.size, minor, keep_alive,
                  status == 503 ? "Retry-After: 1\r\n" : more);
    put_bytes(out, body.data, body.size);
    if (body.failed) out->failed = 1;
    buffer_free(&body);
}

#endif /* SERVER_HTTP_H */
