/* vocab.h: the vocabulary of a Hugging Face folder as GGUF keys, for the programs in tools/.  Same licence as bitnet.h.

   Two kinds of tokenizer are understood, the two that bitnet.h runs:
   - byte-level BPE from tokenizer.json: tokens in GPT-2's alphabet of bytes, merges in order, and a rule that cuts the text
     into words beforehand. GGUF holds only a name of that rule (tokenizer.ggml.pre), so it must be recognised here.
   - SPM from tokenizer.model, which is a protocol buffer, or from a tokenizer.json with byte fallback: pieces with scores.

       vocabulary v;
       vocab_init(&v);
       vocab_from_json(&v, text, size) or vocab_from_spm(&v, bytes, size);
       vocab_settle(&v, &hints);            special tokens, flags, the word rule
       vocab_fill(&v, n_rows);              names for ids that have none, up to the embedding's rows
       vocab_write(&v, &writer);
       vocab_free(&v);

   Functions return 1, or 0 with the reason in v.error. The vocabulary points into the text, which must outlive it.
   Include tools/cli.h, tools/gguf_write.h and bitnet.h's implementation first. */

#ifndef VOCAB_H
#define VOCAB_H

#include "tools/json.h"

#define VOCAB_MAX 16777216               /* bitnet.h's limit */

enum { VOCAB_HOLE = 0, VOCAB_NORMAL = 1, VOCAB_UNKNOWN = 2, VOCAB_CONTROL = 3, VOCAB_USER = 4, VOCAB_UNUSED = 5, VOCAB_BYTE = 6 };

typedef struct vocab_text { const char *data; size_t size; } vocab_text;

typedef struct vocab_token {
    vocab_text text;
    float score;
    int type;                            /* VOCAB_..., as in the file; VOCAB_HOLE: no token has this id */
} vocab_token;

typedef struct vocabulary {
    char error[300];
    int spm;                             /* 1: SPM, 0: byte-level BPE */
    vocab_token *tokens;                 /* [n] by id */
    int n, capacity;
    vocab_text *merges;                  /* [n_merges] "left right" */
    int n_merges;
    char rule[1200];                     /* the tokenizer.json's way to cut words, in short; see vocab_describe */
    char pre[32];                        /* its name in GGUF */
    int bos, eos, eot, unk, pad;         /* -1: none */
    int add_bos, add_eos, space_prefix;  /* -1: the files do not say */
    json_doc json;                       /* of tokenizer.json */
    char **kept;                         /* texts made here */
    size_t n_kept;
} vocabulary;

/* What stands beside the tokenizer; documents that are not there have no root. */
typedef struct vocab_hints {
    const json_doc *tokenizer_config, *config, *added_tokens;
    const char *pre;                     /* NULL: recognise the rule; else the name to write */
} vocab_hints;

static int vocab_fail(vocabulary *v, const char *format, ...) CLI_PRINTF(2, 3);
static int vocab_fail(vocabulary *v, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!v->error[0]) vsnprintf(v->error, sizeof v->error, format, args);
    va_end(args);
    return 0;
}

static void vocab_init(vocabulary *v)
{
    memset(v, 0, sizeof *v);
    v->bos = v->eos = v->eot = v->unk = v->pad = v->add_bos = v->add_eos = v->space_prefix = -1;
}

static void vocab_free(vocabulary *v)
{
    size_t i;
    for (i = 0; i < v->n_kept; i++) free(v->kept[i]);
    free(v->kept);
    free(v->tokens);
    free(v->merges);
    json_free(&v->json);
}

/* size bytes that live as long as the vocabulary. */
static char *vocab_keep(vocabulary *v, size_t size)
{
    if ((v->n_kept & (v->n_kept + 1)) == 0)              /* room for 1, 3, 7, 15, ... */
        v->kept = (char **)cli_realloc(v->kept, (2 * v->n_kept + 1) * sizeof *v->kept);
    return v->kept[v->n_kept++] = (char *)cli_alloc(size);
}

/* ------------------------------------------------------------------------------------------------ tokens */

/* Gives id its token. A second entry of the same text changes the type, another text is an error. limit: ids must be
   below it, so that a damaged id does not make a table of millions. */
static int vocab_add(vocabulary *v, int64_t id, vocab_text text, int type, float score, int64_t limit)
{
    vocab_token *t;
    if (id < 0 || id >= limit || id >= VOCAB_MAX)
        return vocab_fail(v, "token %.60s: its id %.0f is out of range", text.data, (double)id);
    if (id >= v->capacity) {
        const int capacity = id < 1024 ? 1024 : 2 * (int)id;
        v->tokens = (vocab_token *)cli_realloc(v->tokens, (size_t)capacity * sizeof *v->tokens);
        memset(v->tokens + v->capacity, 0, (size_t)(capacity - v->capacity) * sizeof *v->tokens);
        v->capacity = capacity;
    }
    t = &v->tokens[id];
    if (t->type != VOCAB_HOLE && (t->text.size != text.size || memcmp(t->text.data, text.data, text.size) != 0))
        return vocab_fail(v, "id %d belongs to %.60s and to %.60s", (int)id, t->text.data, text.data);
    if (t->type == VOCAB_HOLE) t->score = score;
    t->text = text;
    t->type = type;
    if (id >= v->n) v->n = (int)id + 1;
    return 1;
}

/* The lowest id of that text, -1: none. */
static int vocab_find(const vocabulary *v, const char *text)
{
    const size_t n = strlen(text);
    int i;
    for (i = 0; i < v->n; i++)
        if (v->tokens[i].type != VOCAB_HOLE && v->tokens[i].text.size == n && memcmp(v->tokens[i].text.data, text, n) == 0) return i;
    return -1;
}

static vocab_text vocab_text_of(const json_doc *d, const json_node *node)
{
    vocab_text t;
    t.data = json_text(d, node);
    t.size = t.data ? node->size : 0;
    return t;
}

/* added_tokens of a tokenizer.json: tokens that are found in the text before anything is cut. */
static int vocab_added(vocabulary *v, const json_doc *d)
{
    const json_node *list = json_get(d, json_root(d), "added_tokens"), *node;
    const int64_t limit = 2 * ((int64_t)v->n + (list ? list->size : 0)) + 1024;
    for (node = json_first(d, list); node; node = json_next(d, node)) {
        const vocab_text text = vocab_text_of(d, json_get(d, node, "content"));
        int64_t id;
        if (!text.data || !json_int(d, json_get(d, node, "id"), &id))
            return vocab_fail(v, "tokenizer.json: an added token without content or id");
        if (!vocab_add(v, id, text, json_truth(json_get(d, node, "special"), 0) ? VOCAB_CONTROL : VOCAB_USER, 0, limit)) return 0;
    }
    return 1;
}

/* "left right", from a string or from two. The left part is never empty, and neither holds a space of its own, as a space is
   another letter in both alphabets. */
static int vocab_merge(vocabulary *v, const json_doc *d, const json_node *node)
{
    vocab_text *merge = &v->merges[v->n_merges];
    *merge = vocab_text_of(d, node);
    if (json_is(node, JSON_ARRAY) && node->size == 2) {
        const vocab_text a = vocab_text_of(d, json_first(d, node)), b = vocab_text_of(d, json_next(d, json_first(d, node)));
        if (a.data && b.data) {
            char *text = vocab_keep(v, a.size + b.size + 2);
            memcpy(text, a.data, a.size);
            text[a.size] = ' ';
            memcpy(text + a.size + 1, b.data, b.size);
            merge->size = a.size + b.size + 1;
            text[merge->size] = 0;
            merge->data = text;
        }
    }
    if (!merge->data || merge->size < 3 || merge->data[0] == ' ' || !memchr(merge->data, ' ', merge->size - 1) ||
        (char *)memchr(merge->data, ' ', merge->size) != strrchr(merge->data, ' '))
        return vocab_fail(v, "tokenizer.json: merge %d is no pair", v->n_merges);
    v->n_merges++;
    return 1;
}

/* Type of an SPM piece that no list calls special. */
static int vocab_piece_type(const char *text, size_t size)
{
    return size == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>' ? VOCAB_BYTE : VOCAB_NORMAL;
}

/* ---- scores from merges: SPM joins the pair with the highest score first, so a token's score is minus the rank of the merge
   that makes it. */

static int vocab_by_text(const void *a, const void *b)
{
    const vocab_text *x = &(*(vocab_token *const *)a)->text, *y = &(*(vocab_token *const *)b)->text;
    const size_t n = x->size < y->size ? x->size : y->size;
    const int order = memcmp(x->data, y->data, n);
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

static void vocab_scores(vocabulary *v)
{
    vocab_token **sorted = (vocab_token **)cli_alloc((size_t)v->n * sizeof *sorted);
    int i, n = 0;
    for (i = 0; i < v->n; i++) {
        if (v->tokens[i].type == VOCAB_NORMAL) sorted[n++] = &v->tokens[i];
        v->tokens[i].score = v->tokens[i].type == VOCAB_NORMAL ? -(float)v->n_merges - 1 : 0;
    }
    qsort(sorted, (size_t)n, sizeof *sorted, vocab_by_text);
    for (i = v->n_merges - 1; i >= 0; i--) {             /* backwards: the first merge of a token wins */
        const vocab_text merge = v->merges[i];
        const size_t left = (size_t)((const char *)memchr(merge.data, ' ', merge.size) - merge.data);
        char *joined = (char *)cli_alloc(merge.size);
        vocab_token key, *at = &key, **found;
        memcpy(joined, merge.data, left);
        memcpy(joined + left, merge.data + left + 1, merge.size - left - 1);
        key.text.data = joined;
        key.text.size = merge.size - 1;
        found = (vocab_token **)bsearch(&at, sorted, (size_t)n, sizeof *sorted, vocab_by_text);
        if (found) (*found)->score = -(float)i;
        free(joined);
    }
    free(sorted);
    v->n_merges = 0;                                     /* an SPM vocabulary has none in GGUF */
}

/* ---------------------------------------------------------------------------------------- the rule for words */

static void vocab_say(vocabulary *v, const char *what, const char *more)
{
    const size_t n = strlen(v->rule);
    snprintf(v->rule + n, sizeof v->rule - n, "%s%s;", what, more);
}

/* One step of the pre_tokenizer into v->rule, e.g. "split \\p{N};byte level, gpt-2;". */
static void vocab_step(vocabulary *v, const json_doc *d, const json_node *step)
{
    const json_node *type = json_get(d, step, "type"), *pattern = json_get(d, step, "pattern");
    const char *text = json_text(d, json_get(d, pattern, "Regex"));
    if (!text) text = json_text(d, json_get(d, pattern, "String"));
    if (json_equal(d, type, "Split") && text) vocab_say(v, "split ", text);
    else if (json_equal(d, type, "ByteLevel")) vocab_say(v, json_truth(json_get(d, step, "use_regex"), 1) ? "gpt-2" : "bytes", "");
    else if (json_equal(d, type, "Digits")) vocab_say(v, json_truth(json_get(d, step, "individual_digits"), 0) ? "digit" : "digits", "");
    else vocab_say(v, json_text(d, type) ? json_text(d, type) : "?", "");
}

/* The whole of it into v->rule; steps of a sequence one after the other. */
static void vocab_describe(vocabulary *v, const json_doc *d)
{
    const json_node *pre = json_get(d, json_root(d), "pre_tokenizer"), *steps = json_get(d, pre, "pretokenizers"), *step;
    if (!steps && pre && pre->type == JSON_OBJECT) vocab_step(v, d, pre);
    for (step = json_first(d, steps); step; step = json_next(d, step)) vocab_step(v, d, step);
}

/* The name for v->rule; NULL: it is none that bitnet.h has. Two vocabularies are known as such: their published GGUF files
   carry these names. */
static const char *vocab_known_rule(const vocabulary *v, int whole_words)
{
    static const char llama3[] = "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+;bytes;";
    static const char qwen2[] = "split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+;bytes;";
    const struct { const char *rule, *name; } rules[] = {
        {llama3, whole_words ? "llama-bpe" : "smaug-bpe"}, {qwen2, "qwen2"}, {"gpt-2;", "gpt-2"}, {"digit;gpt-2;", "starcoder"},
        {"Punctuation;gpt-2;split [0-9][0-9][0-9];", "falcon"}, {"Punctuation;gpt-2;digits;split [0-9][0-9][0-9];", "falcon"}};
    const int begin = vocab_find(v, "<|begin_of_text|>"), end = vocab_find(v, "<|endoftext|>");
    int i;
    if (end == 11 && v->n == 131072) return "falcon3";
    if (begin == 128000 && v->n == 128256) return "llama-bpe";
    for (i = 0; i < CLI_COUNT(rules); i++)
        if (strcmp(v->rule, rules[i].rule) == 0) return rules[i].name;
    if (strstr(v->rule, "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+")) return "falcon_e";
    return NULL;
}

/* 1 if bitnet.h knows the name. */
JSON_FN int vocab_is_pre(const char *name)
{
    int i, k;
    for (i = 0; i < BNI_N_PRES; i++)
        for (k = 0; bni_pres[i].name[k]; k++)
            if (strcmp(name, bni_pres[i].name[k]) == 0) return 1;
    return 0;
}

/* ---------------------------------------------------------------------------------------------- tokenizer.json */

/* Begin and end tokens that the post_processor adds: those of its template for one text. */
static void vocab_template(vocabulary *v, const json_doc *d)
{
    const json_node *post = json_get(d, json_root(d), "post_processor"), *part = json_get(d, post, "processors"), *single;
    for (part = part ? json_first(d, part) : post; part && !json_equal(d, json_get(d, part, "type"), "TemplateProcessing");)
        part = part == post ? NULL : json_next(d, part);
    if (!part) return;
    single = json_first(d, json_get(d, part, "single"));
    v->add_bos = json_get(d, single, "SpecialToken") != NULL;
    while (json_next(d, single)) single = json_next(d, single);
    v->add_eos = single != json_first(d, json_get(d, part, "single")) && json_get(d, single, "SpecialToken") != NULL;
}

/* 1 if the text gets a space in front (SPM): by a normalizer that prepends one, or by Metaspace. */
static int vocab_prepends(const json_doc *d)
{
    const json_node *n = json_get(d, json_root(d), "normalizer"), *list = json_get(d, n, "normalizers"), *pre;
    for (n = list ? json_first(d, list) : n; n; n = list ? json_next(d, n) : NULL)
        if (json_equal(d, json_get(d, n, "type"), "Prepend")) return 1;
    pre = json_get(d, json_root(d), "pre_tokenizer");
    return json_equal(d, json_get(d, pre, "type"), "Metaspace") && !json_equal(d, json_get(d, pre, "prepend_scheme"), "never") &&
           json_truth(json_get(d, pre, "add_prefix_space"), 1);
}

/* 1 if the file is a BPE over bytes, rather than over characters with bytes to fall back on. */
static int vocab_is_byte_level(const vocabulary *v)
{
    const json_doc *d = &v->json;
    const json_node *root = json_root(d);
    return !json_truth(json_get(d, json_get(d, root, "model"), "byte_fallback"), 0) &&
           (strstr(v->rule, "bytes;") || strstr(v->rule, "gpt-2;") ||
            json_equal(d, json_get(d, json_get(d, root, "decoder"), "type"), "ByteLevel"));
}

/* Reads tokenizer.json: text [size] with a NUL behind; it is changed, and must stay. */
static int vocab_from_json(vocabulary *v, char *text, size_t size)
{
    const json_doc *d = &v->json;
    const json_node *model, *list, *node;
    if (!json_parse(&v->json, text, size))
        return vocab_fail(v, "tokenizer.json: %s (byte %.0f)", d->error, (double)d->error_at);
    model = json_get(d, json_root(d), "model");
    node = json_get(d, model, "type");
    if (node ? !json_equal(d, node, "BPE") : !json_get(d, model, "merges"))
        return vocab_fail(v, "tokenizer.json: the model is %.40s; only BPE can be converted", json_text(d, node) ? json_text(d, node) : "unknown");
    vocab_describe(v, d);
    v->spm = !vocab_is_byte_level(v);
    if (v->spm && !json_truth(json_get(d, model, "byte_fallback"), 0))
        return vocab_fail(v, "tokenizer.json: neither a BPE of bytes nor one that falls back on bytes");
    list = json_get(d, model, "vocab");
    if (!json_is(list, JSON_OBJECT) || list->size == 0) return vocab_fail(v, "tokenizer.json: no model.vocab");
    for (node = json_first(d, list); node; node = json_next(d, node)) {
        vocab_text token;
        int64_t id;
        token.data = json_key(d, node);
        token.size = node->key_size;
        if (!json_int(d, node, &id)) return vocab_fail(v, "tokenizer.json: token %.60s has no id", token.data);
        if (!vocab_add(v, id, token, v->spm ? vocab_piece_type(token.data, token.size) : VOCAB_NORMAL, 0,
                       2 * (int64_t)list->size + 1024)) return 0;
    }
    list = json_get(d, model, "merges");
    if (!json_is(list, JSON_ARRAY)) return vocab_fail(v, "tokenizer.json: no model.merges");
    v->merges = (vocab_text *)cli_alloc(list->size * sizeof *v->merges);
    for (node = json_first(d, list); node; node = json_next(d, node))
        if (!vocab_merge(v, d, node)) return 0;
    if (v->spm) vocab_scores(v);
    if (v->spm) v->space_prefix = vocab_prepends(d);
    vocab_template(v, d);
    return vocab_added(v, d);
}

/* --------------------------------------------------------------------------------------------- tokenizer.model
   A protocol buffer is a row of fields: a number (field * 8 + kind), then a number of 7 bits a byte (kind 0), 8 bytes (1),
   a length and that many bytes (2) or 4 bytes (5). */

typedef struct vocab_bytes { const unsigned char *at, *end; } vocab_bytes;

typedef struct vocab_field {
    uint64_t field, number;              /* number: of kinds 0, 1 and 5, the latter as bits */
    vocab_bytes bytes;                   /* of kind 2 */
} vocab_field;

static int vocab_varint(vocab_bytes *b, uint64_t *out)
{
    int shift = 0;
    *out = 0;
    while (b->at < b->end && shift < 64) {
        const unsigned char c = *b->at++;
        *out |= (uint64_t)(c & 127) << shift;
        if (c < 128) return 1;
        shift += 7;
    }
    return 0;
}

/* The next field: 1; the end: 0; damage: -1. */
static int vocab_next_field(vocab_bytes *b, vocab_field *f)
{
    uint64_t key, n = 0, i;
    if (b->at == b->end) return 0;
    if (!vocab_varint(b, &key)) return -1;
    f->field = key >> 3;
    f->number = 0;
    f->bytes.at = f->bytes.end = b->at;
    switch (key & 7) {
    case 0: return vocab_varint(b, &f->number) ? 1 : -1;
    case 1: n = 8; break;
    case 2:
        if (!vocab_varint(b, &n)) return -1;
        break;
    case 5: n = 4; break;
    default: return -1;
    }
    if (n > (uint64_t)(b->end - b->at)) return -1;
    f->bytes.at = b->at;
    f->bytes.end = b->at + n;
    for (i = (key & 7) == 2 ? 0 : n; i > 0; i--) f->number = f->number << 8 | b->at[i - 1];
    b->at += n;
    return 1;
}

/* SentencePiece: 1 piece, 2 score, 3 type, whose numbers are GGUF's. */
static int vocab_piece(vocabulary *v, vocab_bytes b)
{
    vocab_field f;
    vocab_text text = {NULL, 0};
    float score = 0;
    uint64_t type = VOCAB_NORMAL;
    int more;
    while ((more = vocab_next_field(&b, &f)) > 0) {
        if (f.field == 1) {
            char *copy = vocab_keep(v, (size_t)(f.bytes.end - f.bytes.at) + 1);
            text.size = (size_t)(f.bytes.end - f.bytes.at);
            memcpy(copy, f.bytes.at, text.size);
            copy[text.size] = 0;
            text.data = copy;
        } else if (f.field == 2) {
            const uint32_t bits = (uint32_t)f.number;
            memcpy(&score, &bits, 4);
        } else if (f.field == 3) {
            type = f.number;
        }
    }
    if (more < 0 || !text.data || type < VOCAB_NORMAL || type > VOCAB_BYTE || !(score > -1e30f && score < 1e30f))
        return vocab_fail(v, "tokenizer.model: piece %d is damaged", v->n);
    return vocab_add(v, v->n, text, (int)type, score, VOCAB_MAX);
}

/* The number in field `field` of a message; missing where it has none, -1 where it is damaged. */
static int64_t vocab_number(vocab_bytes b, uint64_t field, int64_t missing)
{
    vocab_field f;
    int more;
    while ((more = vocab_next_field(&b, &f)) > 0)
        if (f.field == field && f.number < 1000) missing = (int64_t)f.number;
    return more < 0 ? -1 : missing;
}

/* Reads tokenizer.model: 1 pieces, 2 trainer (3: model type, 2 for BPE), 3 normalizer (3: add a space in front). */
static int vocab_from_spm(vocabulary *v, const void *bytes, size_t size)
{
    vocab_bytes b;
    vocab_field f;
    int64_t model = 1, prefix = 1;
    int more;
    b.at = (const unsigned char *)bytes;
    b.end = b.at + size;
    v->spm = 1;
    while ((more = vocab_next_field(&b, &f)) > 0) {
        if (f.field == 1 && !vocab_piece(v, f.bytes)) return 0;
        if (f.field == 2) model = vocab_number(f.bytes, 3, 1);
        if (f.field == 3) prefix = vocab_number(f.bytes, 3, 1);
    }
    if (more < 0 || v->n == 0 || model < 0 || prefix < 0) return vocab_fail(v, "tokenizer.model: no SentencePiece model, or a damaged one");
    if (model != 2) return vocab_fail(v, "tokenizer.model: of SentencePiece only BPE can be converted, not model type %d", (int)model);
    v->space_prefix = prefix != 0;
    v->add_bos = 1;                                      /* Llama's own tokenizer does, whatever stands beside it */
    return 1;
}

/* ------------------------------------------------------------------------------------------------- settling */

/* A special token as tokenizer_config.json writes it: a text, or an object with its content. NULL: none. */
static const char *vocab_named(const vocab_hints *h, const char *name)
{
    const json_doc *d = h->tokenizer_config;
    const json_node *node = json_get(d, json_root(d), name);
    return json_text(d, json_is(node, JSON_OBJECT) ? json_get(d, node, "content") : node);
}

/* Id of "bos", "eos", "unk", "pad": by its text, else by <name>_token_id of config.json, which may be a list. */
static int vocab_special(const vocabulary *v, const vocab_hints *h, const char *name)
{
    const json_doc *d = h->config;
    const json_node *node;
    char key[32];
    const char *text;
    int64_t id = -1;
    snprintf(key, sizeof key, "%s_token", name);
    text = vocab_named(h, key);
    if (text && vocab_find(v, text) >= 0) return vocab_find(v, text);
    snprintf(key, sizeof key, "%s_token_id", name);
    node = json_get(d, json_root(d), key);
    if (json_is(node, JSON_ARRAY)) node = json_first(d, node);
    return json_int(d, node, &id) && id >= 0 && id < v->n ? (int)id : -1;
}

/* Tokens that stand beside tokenizer.model: {text: id}, or {id: {content, special}} in tokenizer_config.json. */
static int vocab_added_beside(vocabulary *v, const vocab_hints *h)
{
    static const char *const specials[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    const json_doc *d = h->tokenizer_config;
    const json_node *list = json_get(d, json_root(d), "added_tokens_decoder"), *node;
    const int64_t limit = 2 * (int64_t)v->n + 1024;
    for (node = json_first(d, list); node; node = json_next(d, node)) {
        const vocab_text text = vocab_text_of(d, json_get(d, node, "content"));
        int type = json_truth(json_get(d, node, "special"), 0) ? VOCAB_CONTROL : VOCAB_USER, id;
        if (!text.data || !cli_read_int(json_key(d, node), 0, VOCAB_MAX, &id))
            return vocab_fail(v, "tokenizer_config.json: an added token without content or id");
        if (id < v->n && v->tokens[id].type == VOCAB_UNKNOWN) type = VOCAB_UNKNOWN;
        if (!vocab_add(v, id, text, type, 0, limit)) return 0;
    }
    d = h->added_tokens;
    for (node = list ? NULL : json_first(d, json_root(d)); node; node = json_next(d, node)) {
        vocab_text text;
        int64_t id;
        int i, type = VOCAB_USER;
        text.data = json_key(d, node);
        text.size = node->key_size;
        for (i = 0; i < CLI_COUNT(specials); i++)
            if (vocab_named(h, specials[i]) && strcmp(vocab_named(h, specials[i]), text.data) == 0) type = VOCAB_CONTROL;
        if (!json_int(d, node, &id)) return vocab_fail(v, "added_tokens.json: token %.60s has no id", text.data);
        if (!vocab_add(v, id, text, type, 0, limit)) return 0;
    }
    return 1;
}

/* Everything that is not in the list of tokens. */
static int vocab_settle(vocabulary *v, const vocab_hints *h)
{
    static const char *const turn_ends[] = {"<|eot_id|>", "<|im_end|>"};
    const json_doc *d = h->tokenizer_config;
    const json_node *root = json_root(d);
    const int whole_words = json_truth(json_get(&v->json, json_get(&v->json, json_root(&v->json), "model"), "ignore_merges"), 0);
    const char *pre;
    int i;
    if (v->spm && !v->json.n_nodes && !vocab_added_beside(v, h)) return 0;
    v->add_bos = json_truth(json_get(d, root, "add_bos_token"), v->add_bos);
    v->add_eos = json_truth(json_get(d, root, "add_eos_token"), v->add_eos);
    v->bos = vocab_special(v, h, "bos");
    v->eos = vocab_special(v, h, "eos");
    v->unk = vocab_special(v, h, "unk");
    v->pad = vocab_special(v, h, "pad");
    if (v->spm && v->unk >= 0) v->tokens[v->unk].type = VOCAB_UNKNOWN;
    for (i = 0; i < CLI_COUNT(turn_ends) && v->eot < 0; i++) v->eot = vocab_find(v, turn_ends[i]);
    if (v->eot == v->eos) v->eot = -1;
    pre = h->pre ? h->pre : v->spm ? "default" : vocab_known_rule(v, whole_words);
    if (!pre) return vocab_fail(v, "tokenizer.json cuts words by a rule that is not known (%.120s); name one with --pre", v->rule);
    snprintf(v->pre, sizeof v->pre, "%s", pre);
    return 1;
}

/* Tokens for the ids that have none, up to n ids: published embeddings have rows that no token uses. */
static int vocab_fill(vocabulary *v, int n)
{
    int i;
    if (v->n > n) return vocab_fail(v, "the tokenizer has %d tokens, the embedding %d rows", v->n, n);
    for (i = 0; i < n; i++)
        if (i >= v->n || v->tokens[i].type == VOCAB_HOLE) {
            vocab_text text;
            char *name = vocab_keep(v, 24);
            text.size = (size_t)snprintf(name, 24, "[PAD%d]", i);
            text.data = name;
            if (!vocab_add(v, i, text, VOCAB_UNUSED, 0, n)) return 0;
        }
    return 1;
}

/* ------------------------------------------------------------------------------------------------- writing */

/* The tokenizer's keys; errors stay in the writer. */
static void vocab_write(const vocabulary *v, gguf_writer *w)
{
    const struct { const char *name; int id; } ids[] = {{"bos", v->bos}, {"eos", v->eos}, {"eot", v->eot}, {"unknown", v->unk}, {"padding", v->pad}};
    char key[64];
    int i;
    gguf_kv_str(w, "tokenizer.ggml.model", v->spm ? "llama" : "gpt2");
    gguf_kv_str(w, "tokenizer.ggml.pre", v->pre);
    gguf_array(w, "tokenizer.ggml.tokens", GGUF_STR, (uint64_t)v->n);
    for (i = 0; i < v->n; i++) gguf_put_str(w, v->tokens[i].text.data, v->tokens[i].text.size);
    if (v->spm) {
        gguf_array(w, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)v->n);
        for (i = 0; i < v->n; i++) gguf_put_f32(w, v->tokens[i].score);
    }
    gguf_array(w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)v->n);
    for (i = 0; i < v->n; i++) gguf_put_i32(w, v->tokens[i].type);
    if (!v->spm) {
        gguf_array(w, "tokenizer.ggml.merges", GGUF_STR, (uint64_t)v->n_merges);
        for (i = 0; i < v->n_merges; i++) gguf_put_str(w, v->merges[i].data, v->merges[i].size);
    }
    for (i = 0; i < CLI_COUNT(ids); i++) {
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i].name);
        if (ids[i].id >= 0) gguf_kv_u32(w, key, (uint32_t)ids[i].id);
    }
    if (v->add_bos >= 0) gguf_kv_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    if (v->add_eos >= 0) gguf_kv_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
    if (v->spm && v->space_prefix >= 0) gguf_kv_bool(w, "tokenizer.ggml.add_space_prefix", v->space_prefix);
}

#endif /* VOCAB_H */
