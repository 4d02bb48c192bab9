/* json.h: a small strict JSON reader, for the programs in tools/.  Same licence as bitnet.h.

       json_doc d;
       if (!json_parse(&d, text, size)) fprintf(stderr, "%s at byte %lu\n", d.error, (unsigned long)d.error_at);
       const json_node *layers = json_get(&d, json_root(&d), "num_hidden_layers");
       int64_t n;
       if (!json_int(&d, layers, &n)) ...
       for (node = json_first(&d, list); node; node = json_next(&d, node)) ...
       json_free(&d);

   Rules
   - Exactly RFC 8259: no comments, no trailing commas, no NaN, no lone surrogates, valid UTF-8, nothing behind the value.
   - The text [size], which a NUL must follow, is changed in place: strings lose their escapes and get a NUL. Nodes point
     into it, so it must outlive the document. A string may hold a NUL of its own (\u0000): its size counts.
   - Every reading function takes NULL for a node and answers as if it were of another type, so that a chain of json_get
     needs one check at its end.
   - Members of an object keep their order; where a name comes twice, json_get finds the first.
   - A node takes 24 bytes. Nesting is limited (JSON_MAX_DEPTH), and the parser does not call itself. */

#ifndef JSON_H
#define JSON_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define JSON_FN static __attribute__((unused))
#else
#define JSON_FN static
#endif

#define JSON_MAX_DEPTH 64                    /* files of models nest 8 deep */
#define JSON_MAX_SIZE ((size_t)1 << 30)      /* bytes of text: places are 32 bits wide; a tokenizer.json has 20 MB */

typedef enum json_type {
    JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT
} json_type;

typedef struct json_node {
    json_type type;
    uint32_t next;                   /* index of the next element or member; 0: this is the last */
    uint32_t key, key_size;          /* a member's name: place in the text, bytes */
    uint32_t at, size;               /* strings, numbers: place and bytes; arrays, objects: index of the first, count */
} json_node;

typedef struct json_doc {
    const char *text;
    json_node *nodes;                /* [n_nodes]; the first is the whole document */
    uint32_t n_nodes, capacity;
    const char *error;               /* what is wrong, a constant text; NULL while all is well */
    size_t error_at;                 /* the byte */
} json_doc;

/* The parser's state. open[i]: the array or object at depth i; last[i]: its newest element, 0: none yet. */
typedef struct json_parser {
    json_doc *doc;
    char *text;
    size_t size, at;
    uint32_t open[JSON_MAX_DEPTH], last[JSON_MAX_DEPTH];
    int depth;
} json_parser;

/* ---- parsing ------------------------------------------------------------------------------------------------- */

static int json_fail(json_parser *p, const char *what)
{
    if (!p->doc->error) {
        p->doc->error = what;
        p->doc->error_at = p->at;
    }
    return 0;
}

/* The next byte; 0 at the end. A NUL inside the text is no token of JSON, so it ends in an error too. */
static unsigned char json_peek(const json_parser *p)
{
    return p->at < p->size ? (unsigned char)p->text[p->at] : 0;
}

static void json_skip_space(json_parser *p)
{
    unsigned char c;
    while ((c = json_peek(p)) == ' ' || c == '\n' || c == '\r' || c == '\t') p->at++;
}

/* 1 and past it if c comes next, after spaces. */
static int json_take(json_parser *p, unsigned char c)
{
    json_skip_space(p);
    if (json_peek(p) != c) return 0;
    p->at++;
    return 1;
}

/* Four hex digits at the position; -1: they are not. */
static int32_t json_hex4(json_parser *p)
{
    int32_t v = 0;
    int i;
    for (i = 0; i < 4; i++) {
        const unsigned char c = json_peek(p);
        const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        v = v * 16 + digit;
        p->at++;
    }
    return v;
}

/* Writes a code point as UTF-8; returns its bytes. */
static size_t json_put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | (c >> 6));
        to[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | (c >> 12));
        to[1] = (char)(0x80 | ((c >> 6) & 63));
        to[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | (c >> 18));
    to[1] = (char)(0x80 | ((c >> 12) & 63));
    to[2] = (char)(0x80 | ((c >> 6) & 63));
    to[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* What follows a backslash: the bytes it stands for, at to; at most as many as it had. 0: it is no escape. */
static size_t json_escape(json_parser *p, char *to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    const char c = (char)json_peek(p);
    const char *simple = c ? strchr(from, c) : NULL;
    int32_t code, low;
    if (simple) {
        p->at++;
        *to = into[simple - from];
        return 1;
    }
    if (c != 'u') return 0;
    p->at++;
    code = json_hex4(p);
    if (code >= 0xd800 && code < 0xdc00) {               /* the first half of a code point past U+FFFF */
        if (json_peek(p) != '\\') return 0;
        p->at++;
        if (json_peek(p) != 'u') return 0;
        p->at++;
        low = json_hex4(p);
        if (low < 0xdc00 || low > 0xdfff) return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code < 0 || (code >= 0xdc00 && code < 0xe000)) {
        return 0;
    }
    return json_put_utf8(to, (uint32_t)code);
}

/* Bytes of the valid UTF-8 sequence s [n]; 0: it is not one (too long, a surrogate, past U+10FFFF, cut off). */
static size_t json_utf8_length(const unsigned char *s, size_t n)
{
    const unsigned char c = s[0];
    const size_t size = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    size_t i;
    if (size == 0 || size > n) return 0;
    for (i = 1; i < size; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f)) return 0;
    if ((c == 0xf0 && s[1] < 0x90) || (c == 0xf4 && s[1] > 0x8f)) return 0;
    return size;
}

/* The string behind the opening quote, unescaped in place, with a NUL where at the latest the closing quote was. */
static int json_string(json_parser *p, uint32_t *at, uint32_t *size)
{
    char *to = p->text + p->at;
    *at = (uint32_t)p->at;
    for (;;) {
        const unsigned char c = json_peek(p);
        size_t n;
        if (p->at >= p->size) return json_fail(p, "a string does not end");
        if (c == '"') break;
        if (c < 32) return json_fail(p, "a control character in a string");
        if (c == '\\') {
            p->at++;
            n = json_escape(p, to);
            if (n == 0) return json_fail(p, "a wrong escape in a string");
        } else {
            n = json_utf8_length((const unsigned char *)p->text + p->at, p->size - p->at);
            if (n == 0) return json_fail(p, "a string is not UTF-8");
            memmove(to, p->text + p->at, n);
            p->at += n;
        }
        to += n;
    }
    p->at++;
    *size = (uint32_t)((size_t)(to - p->text) - *at);
    *to = 0;
    return 1;
}

static size_t json_digits(json_parser *p)
{
    const size_t from = p->at;
    while (json_peek(p) >= '0' && json_peek(p) <= '9') p->at++;
    return p->at - from;
}

static int json_number(json_parser *p, uint32_t *at, uint32_t *size)
{
    const size_t from = p->at;
    if (json_peek(p) == '-') p->at++;
    if (json_peek(p) == '0') p->at++;
    else if (json_digits(p) == 0) return json_fail(p, "no value of JSON");
    if (json_peek(p) == '.') {
        p->at++;
        if (json_digits(p) == 0) return json_fail(p, "a number without digits behind its point");
    }
    if ((json_peek(p) | 32) == 'e') {
        p->at++;
        if (json_peek(p) == '+' || json_peek(p) == '-') p->at++;
        if (json_digits(p) == 0) return json_fail(p, "a number without digits in its exponent");
    }
    *at = (uint32_t)from;
    *size = (uint32_t)(p->at - from);
    return 1;
}

/* 1 and past it if the word comes next. */
static int json_word(json_parser *p, const char *word)
{
    const size_t n = strlen(word);
    if (n > p->size - p->at || memcmp(p->text + p->at, word, n) != 0) return 0;
    p->at += n;
    return 1;
}

/* A new node, linked behind its elder siblings; NULL when memory runs out. */
static json_node *json_new(json_parser *p)
{
    json_doc *d = p->doc;
    const uint32_t index = d->n_nodes;
    if (d->n_nodes == d->capacity) {
        const uint32_t capacity = d->capacity ? 2 * d->capacity : 64;
        json_node *nodes = capacity > d->capacity ? (json_node *)realloc(d->nodes, capacity * sizeof *nodes) : NULL;
        if (!nodes) {
            json_fail(p, "out of memory");
            return NULL;
        }
        d->nodes = nodes;
        d->capacity = capacity;
    }
    memset(&d->nodes[index], 0, sizeof d->nodes[index]);
    d->n_nodes++;
    if (p->depth > 0) {
        json_node *parent = &d->nodes[p->open[p->depth - 1]];
        if (parent->size++ == 0) parent->at = index;
        else d->nodes[p->last[p->depth - 1]].next = index;
        p->last[p->depth - 1] = index;
    }
    return &d->nodes[index];
}

/* Behind [ or {: 1 if elements follow, 0 if it is closed at once, -1 after an error. */
static int json_open(json_parser *p, json_node *node, json_type type)
{
    node->type = type;
    if (json_take(p, type == JSON_ARRAY ? ']' : '}')) return 0;
    if (p->depth == JSON_MAX_DEPTH) {
        json_fail(p, "nested too deep");
        return -1;
    }
    p->open[p->depth] = (uint32_t)(node - p->doc->nodes);
    p->last[p->depth] = 0;
    p->depth++;
    return 1;
}

/* One value, with its name where an object is open. 0: done; 1: an array or object has begun; -1: an error. */
static int json_value(json_parser *p)
{
    const int in_object = p->depth > 0 && p->doc->nodes[p->open[p->depth - 1]].type == JSON_OBJECT;
    json_node *node = json_new(p);
    int ok;
    if (!node) return -1;
    if (in_object) {
        if (!json_take(p, '"')) return json_fail(p, "no name where a member of an object should be") - 1;
        if (!json_string(p, &node->key, &node->key_size)) return -1;
        if (!json_take(p, ':')) return json_fail(p, "no colon behind a name") - 1;
    }
    json_skip_space(p);
    switch (json_peek(p)) {
    case '[': p->at++; return json_open(p, node, JSON_ARRAY);
    case '{': p->at++; return json_open(p, node, JSON_OBJECT);
    case '"':
        p->at++;
        node->type = JSON_STRING;
        ok = json_string(p, &node->at, &node->size);
        break;
    case 'n': ok = json_word(p, "null"); break;
    case 't': node->type = JSON_TRUE; ok = json_word(p, "true"); break;
    case 'f': node->type = JSON_FALSE; ok = json_word(p, "false"); break;
    default: node->type = JSON_NUMBER; ok = json_number(p, &node->at, &node->size); break;
    }
    return ok ? 0 : json_fail(p, "no value of JSON") - 1;
}

/* 1, or 0 with d->error and d->error_at; json_free is right after both. */
JSON_FN int json_parse(json_doc *d, char *text, size_t size)
{
    json_parser p;
    memset(d, 0, sizeof *d);
    memset(&p, 0, sizeof p);
    d->text = text;
    p.doc = d;
    p.text = text;
    p.size = size;
    if (size > JSON_MAX_SIZE) return json_fail(&p, "larger than 1 GiB");
    for (;;) {
        const int opened = json_value(&p);
        if (opened < 0) return 0;
        if (opened) continue;
        while (p.depth > 0 && json_take(&p, d->nodes[p.open[p.depth - 1]].type == JSON_ARRAY ? ']' : '}')) p.depth--;
        if (p.depth == 0) break;
        if (!json_take(&p, ',')) return json_fail(&p, "neither a comma nor the end of an array or object");
    }
    json_skip_space(&p);
    return p.at == size ? 1 : json_fail(&p, "something behind the end");
}

JSON_FN void json_free(json_doc *d)
{
    free(d->nodes);
    d->nodes = NULL;
    d->n_nodes = d->capacity = 0;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

/* The whole document; NULL where nothing was parsed. */
JSON_FN const json_node *json_root(const json_doc *d) { return d->n_nodes ? d->nodes : NULL; }

JSON_FN int json_is(const json_node *node, json_type type) { return node && node->type == type; }

/* The first element of an array or member of an object, NULL: there is none. */
JSON_FN const json_node *json_first(const json_doc *d, const json_node *node)
{
    return node && node->type >= JSON_ARRAY && node->size ? &d->nodes[node->at] : NULL;
}

JSON_FN const json_node *json_next(const json_doc *d, const json_node *node)
{
    return node && node->next ? &d->nodes[node->next] : NULL;
}

/* A member's name, with a NUL behind it. */
JSON_FN const char *json_key(const json_doc *d, const json_node *node) { return d->text + node->key; }

/* A string with a NUL behind it, NULL: it is none. Borrowed from the text. */
JSON_FN const char *json_text(const json_doc *d, const json_node *node)
{
    return json_is(node, JSON_STRING) ? d->text + node->at : NULL;
}

/* 1 if the node is exactly this string. */
JSON_FN int json_equal(const json_doc *d, const json_node *node, const char *text)
{
    return json_is(node, JSON_STRING) && node->size == strlen(text) && memcmp(d->text + node->at, text, node->size) == 0;
}

/* The member of that name, NULL: no such member, or no object. */
JSON_FN const json_node *json_get(const json_doc *d, const json_node *object, const char *name)
{
    const size_t n = strlen(name);
    const json_node *node;
    if (!json_is(object, JSON_OBJECT)) return NULL;
    for (node = json_first(d, object); node; node = json_next(d, node))
        if (node->key_size == n && memcmp(d->text + node->key, name, n) == 0) return node;
    return NULL;
}

/* 1 and *out if the node is a whole number that 64 bits hold; 5.0 and 5e0 are not written as whole numbers. */
JSON_FN int json_int(const json_doc *d, const json_node *node, int64_t *out)
{
    const char *s;
    uint64_t v = 0;
    uint32_t i;
    int negative;
    if (!json_is(node, JSON_NUMBER)) return 0;
    s = d->text + node->at;
    negative = s[0] == '-';
    for (i = (uint32_t)negative; i < node->size; i++) {
        const uint64_t digit = (uint64_t)(unsigned char)s[i] - '0';
        if (digit > 9 || v > ((uint64_t)INT64_MAX - digit) / 10) return 0;
        v = 10 * v + digit;
    }
    *out = negative ? -(int64_t)v : (int64_t)v;
    return 1;
}

/* 1 and *out if the node is a number; one that no double holds becomes infinity or 0, as strtod does it. */
JSON_FN int json_real(const json_doc *d, const json_node *node, double *out)
{
    if (!json_is(node, JSON_NUMBER)) return 0;
    *out = strtod(d->text + node->at, NULL);             /* ends at what follows a number: it has been checked */
    return 1;
}

/* 1, 0, or missing where the node is neither true nor false. */
JSON_FN int json_truth(const json_node *node, int missing)
{
    return json_is(node, JSON_TRUE) ? 1 : json_is(node, JSON_FALSE) ? 0 : missing;
}

#endif /* JSON_H */
