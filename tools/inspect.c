/* inspect: what a model file is, in words or as JSON, and whether it is whole.

       cc -O2 -I. tools/inspect.c -o inspect -lpthread -lm
       ./inspect model.gguf                        is it a BitNet model, what size, what it needs
       ./inspect model.gguf --check                read every byte; exit 1 if the file is damaged
       ./inspect model.gguf --tensors --kv         what is in it
       ./inspect model.gguf --json -c 8192

   Works on any GGUF file, also on models that bitnet.h does not run and on files with a vocabulary only. Whether a file
   is a BitNet model is told by the types of its matrices; its name is only a hint, and a wrong one is pointed out.

   Exit 0: told; 1: not a readable GGUF file, or --check found damage; 2: wrong usage.

   Reading order: "the subject", "checks", "in words", "as JSON", "main". */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/show.h"

#include <ctype.h>
#include <math.h>

#define MAX_PROBLEMS 100             /* reported; all are counted */
#define MAX_TYPES 64
#define ARRAY_SHOWN 6                /* elements of a long array */
#define TEXT_SHOWN 160               /* characters of a long string, for people */

/* --------------------------------------------------------------------------------------------- the subject */

/* Tensors of one type, summed. */
typedef struct type_sum {
    uint32_t id;
    uint64_t n_tensors, n_weights, bytes;
    uint64_t codes[4];               /* after --check: how often each 2-bit code occurs */
} type_sum;

typedef struct problem {
    uint64_t offset;
    char text[300];
} problem;

/* A file and what was found out about it. The model is only prepared: its tables are read, no weights. */
typedef struct subject {
    const char *path;
    bitnet_model model;
    bitnet_model_info info;
    bitnet_error why;                /* of a model that can't be run: the reason */
    int vocab_only;                  /* the file has no tensors */
    int broken;                      /* its header parses, but what it says does not fit together */
    uint64_t matrices, ternary;      /* matrices of the layers, and how many are of a ternary type */
    int name_hint;                   /* the file's name looks like a BitNet model's */
    type_sum types[MAX_TYPES];
    int n_types;
    uint64_t gaps;                   /* bytes between and behind tensors that belong to none, padding not counted */
    int n_ctx, n_threads;
    uint64_t session_memory, engine_memory;
    int checked, n_problems, n_unchecked;
    problem problems[MAX_PROBLEMS];
} subject;

static void add_problem(subject *s, uint64_t offset, const char *format, ...) CLI_PRINTF(3, 4);
static void add_problem(subject *s, uint64_t offset, const char *format, ...)
{
    problem *p = &s->problems[s->n_problems < MAX_PROBLEMS ? s->n_problems : MAX_PROBLEMS - 1];
    va_list args;
    va_start(args, format);
    vsnprintf(p->text, sizeof p->text, format, args);
    va_end(args);
    p->offset = offset;
    s->n_problems++;
}

/* Bytes of a tensor: by its type, or up to the next tensor where the type's size isn't known. */
static uint64_t tensor_bytes(const bni_tensor *t) { return t->bytes ? t->bytes : t->gap; }

static int in_layers(const bni_tensor *t)
{
    return t->n_dims >= 2 && t->name.size > 4 && memcmp(t->name.data, "blk.", 4) == 0;
}

/* The names by which programs that run BitNet models recognise them (see CLIENTS): case does not matter. */
static int looks_like_bitnet(const char *path)
{
    static const char *const hints[] = {"bitnet", "b1.58", "b1_58", "1.58bit", "i2_s", "tl1", "tl2"};
    char name[64];
    int i, k;
    cli_basename(path, name);
    for (k = 0; name[k]; k++) name[k] = (char)tolower((unsigned char)name[k]);
    for (i = 0; i < CLI_COUNT(hints); i++)
        if (strstr(name, hints[i])) return 1;
    return 0;
}

static void sum_types(subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    uint64_t i;
    int k;
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        const uint64_t padded = (tensor_bytes(t) + g->alignment - 1) / g->alignment * g->alignment;
        for (k = 0; k < s->n_types && s->types[k].id != t->type; k++) { }
        if (k == s->n_types && k < MAX_TYPES) s->types[s->n_types++].id = t->type;
        if (k < MAX_TYPES) {
            s->types[k].n_tensors++;
            s->types[k].n_weights += bni_tensor_count(t);
            s->types[k].bytes += tensor_bytes(t);
        }
        if (in_layers(t)) {
            s->matrices++;
            s->ternary += bni_type_is_ternary(t->type) ? 1 : 0;
        }
        if (t->gap > padded) s->gaps += t->gap - padded;
    }
    for (i = 1; i < (uint64_t)s->n_types; i++) {         /* the largest first */
        const type_sum moved = s->types[i];
        for (k = (int)i; k > 0 && s->types[k - 1].bytes < moved.bytes; k--) s->types[k] = s->types[k - 1];
        s->types[k] = moved;
    }
}

/* Hyper-parameters and tokenizer, as far as they can be had. */
static void prepare(subject *s, const bitnet_model_desc *desc)
{
    bitnet_model *m = &s->model;
    bitnet_model_desc vocabulary = *desc;
    uint64_t size = 0;
    bitnet_result result;
    memset(&s->why, 0, sizeof s->why);
    bni_info_file(&m->gguf, &s->info);
    s->vocab_only = m->gguf.n_tensors == 0;
    vocabulary.vocab_only = s->vocab_only;
    result = bni_model_prepare(m, &vocabulary, &size, &s->why);
    if (result == BITNET_OK) {
        m->block_size = size;
        bni_info_model(m, &s->info);
        m->block_size = 0;
        s->info.is_supported = !s->vocab_only;
        if (!s->vocab_only) s->info.weight_bytes = bni_weight_bytes(m);
        if (s->vocab_only) strcpy(s->why.text, "it has a vocabulary and no weights");
    } else {
        s->broken = result != BITNET_ERROR_UNSUPPORTED && result != BITNET_ERROR_MEMORY;
        if (s->broken) add_problem(s, s->why.offset, "%s", s->why.text);
    }
}

/* What an engine with one session needs at the given context; 0: not known. */
static void measure(subject *s, int n_ctx)
{
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    const int standard = s->info.n_ctx_train < 4096 ? s->info.n_ctx_train : 4096;
    const char *why;
    s->n_ctx = n_ctx ? n_ctx : standard;
    if (!s->info.is_supported) return;
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    engine.n_ctx = session.n_ctx = s->n_ctx;
    engine.n_threads = s->n_threads;
    s->model.kernels = bni_kernels_select(NULL, 0, &why);
    s->engine_memory = bitnet_engine_memory(&s->model, &engine);
    s->session_memory = bitnet_session_memory(&s->model, &session);
}

/* Reads the file's tables and sums them up. Returns 1, or 0 and the reason in why if it isn't a readable
   GGUF file. */
static int open_subject(subject *s, const bitnet_model_desc *desc, int n_ctx)
{
    bitnet_error err;
    bitnet_result result;
    memset(&err, 0, sizeof err);
    s->path = desc->path;
    s->name_hint = looks_like_bitnet(desc->path);
    result = bni_model_tables(&s->model, desc, &err);
    if (result != BITNET_OK) {
        err.code = result;
        s->why = err;
        return 0;
    }
    sum_types(s);
    prepare(s, desc);
    measure(s, n_ctx);
    return 1;
}

static int is_bitnet(const subject *s) { return s->matrices > 0 && s->ternary == s->matrices; }

/* The integer of metadata key "<architecture>.<name>"; otherwise what the library says, 0 for nothing. */
static uint64_t hyper(const subject *s, const char *name, int known)
{
    const bni_str arch = bni_str_of(s->info.architecture);
    uint64_t v = 0;
    if (known > 0) return (uint64_t)known;
    bni_kv_uint(bni_model_key(&s->model.gguf, arch, name), &v);
    return v;
}

/* -------------------------------------------------------------------------------------------------- checks
   The header was checked when it was parsed: counts, names, alignment, overlaps, ends. Here every byte of every tensor
   is looked at: ternary codes must be 0, 1 or 2, scales and all numbers finite. Last, the library opens the model. */

#define PIECE 65536                  /* bytes of codes read at a time */

static void check_codes(subject *s, const bni_tensor *t, type_sum *sum, uint8_t *scratch)
{
    const uint64_t size = t->bytes - BNI_TERNARY_TAIL;
    uint64_t counts[256], at, codes[4] = {0, 0, 0, 0};
    const uint8_t *p;
    int v, k;
    float scale;
    memset(counts, 0, sizeof counts);
    for (at = 0; at < size; at += PIECE) {
        const uint64_t n = size - at < PIECE ? size - at : PIECE;
        uint64_t i;
        p = bni_source_bytes(&s->model.source, t->offset + at, n, scratch);
        if (!p) {
            add_problem(s, t->offset + at, "tensor %.*s: can't be read", (int)t->name.size, t->name.data);
            return;
        }
        for (i = 0; i < n; i++) counts[p[i]]++;
    }
    for (v = 0; v < 256; v++)
        for (k = 0; k < 8; k += 2) codes[(v >> k) & 3] += counts[v];
    for (k = 0; k < 4; k++) sum->codes[k] += codes[k];
    if (codes[3])
        add_problem(s, t->offset, "tensor %.*s: %.0f of %.0f codes are 3, which no writer produces", (int)t->name.size,
                    t->name.data, (double)codes[3], (double)bni_tensor_count(t));
    p = bni_source_bytes(&s->model.source, t->offset + size, 4, scratch);
    scale = p ? bni_load_f32(p) : 0;
    if (!p || !isfinite(scale) || scale <= 0)
        add_problem(s, t->offset + size, "tensor %.*s: its scale is %g", (int)t->name.size, t->name.data,
                    (double)scale);
}

/* Tensors in rows of numbers: all must be finite. row: scratch for a row's bytes, values: for its numbers. */
static void check_numbers(subject *s, const bni_tensor *t)
{
    const uint64_t row_bytes = bni_row_bytes(t->type, t->ne[0]), n_rows = t->bytes / row_bytes;
    const int n = (int)t->ne[0];
    uint8_t *row = (uint8_t *)cli_alloc((size_t)row_bytes);
    float *values = (float *)cli_alloc(((size_t)n + 255) / 256 * 256 * sizeof *values);
    uint64_t r, bad = 0, first = 0;
    int i;
    for (r = 0; r < n_rows; r++) {
        const uint8_t *p = bni_source_bytes(&s->model.source, t->offset + r * row_bytes, row_bytes, row);
        if (!p) {
            add_problem(s, t->offset + r * row_bytes, "tensor %.*s: can't be read", (int)t->name.size, t->name.data);
            break;
        }
        bni_decode((int)t->type, p, 0, n, values);
        for (i = 0; i < n; i++)
            if ((bni_float_bits(values[i]) & 0x7f800000u) == 0x7f800000u && bad++ == 0) first = r;
    }
    if (bad)
        add_problem(s, t->offset + first * row_bytes, "tensor %.*s: %.0f values are not finite, the first in row %.0f",
                    (int)t->name.size, t->name.data, (double)bad, (double)first);
    free(row);
    free(values);
}

/* Ternary blocks with an f16 scale at their end (TQ1_0, TQ2_0): the scales must be finite, TQ2_0's codes below 3. */
static void check_blocks(subject *s, const bni_tensor *t, type_sum *sum, uint8_t *scratch)
{
    const uint64_t block = t->type == 34 ? 54 : 66, n_blocks = t->bytes / block;
    uint64_t b, bad_scales = 0, threes = 0, first = 0;
    unsigned i, k;
    for (b = 0; b < n_blocks; b++) {
        const uint8_t *p = bni_source_bytes(&s->model.source, t->offset + b * block, block, scratch);
        if (!p) {
            add_problem(s, t->offset + b * block, "tensor %.*s: can't be read", (int)t->name.size, t->name.data);
            return;
        }
        if ((bni_load_u16(p + block - 2) & 0x7c00) == 0x7c00 && bad_scales++ == 0) first = b;
        if (t->type == 34) continue;
        for (i = 0; i < 64; i++)
            for (k = 0; k < 8; k += 2) sum->codes[(p[i] >> k) & 3]++;
        for (i = 0; i < 64; i++)
            if (p[i] & (p[i] >> 1) & 0x55) threes++;
    }
    if (bad_scales)
        add_problem(s, t->offset + first * block, "tensor %.*s: %.0f scales are not finite, the first of block %.0f",
                    (int)t->name.size, t->name.data, (double)bad_scales, (double)first);
    if (threes)
        add_problem(s, t->offset, "tensor %.*s: %.0f bytes hold a code 3, which no writer produces", (int)t->name.size,
                    t->name.data, (double)threes);
}

/* The whole way: if the library opens it, it is sound in every respect that matters to it. */
static void check_opening(subject *s, const bitnet_model_desc *plain)
{
    bitnet_model_desc desc = *plain;
    bitnet_model *model = NULL;
    bitnet_error err;
    bitnet_result result;
    cli_progress progress = {0};
    memset(&err, 0, sizeof err);
    progress.label = "opening";
    desc.progress = cli_show_progress;
    desc.progress_user = &progress;
    desc.vocab_only = s->vocab_only;
    result = bitnet_model_open(&desc, &model, &err);
    cli_end_progress(&progress);
    bitnet_model_close(model);
    if (result != BITNET_OK && result != BITNET_ERROR_UNSUPPORTED)
        add_problem(s, err.offset, "%s", err.text[0] ? err.text : bitnet_result_text(result));
}

static void check(subject *s, const bitnet_model_desc *desc)
{
    const bni_gguf *g = &s->model.gguf;
    uint8_t *scratch = (uint8_t *)cli_alloc(PIECE);
    cli_progress progress = {0};
    uint64_t i, done = 0;
    int k;
    const int known = s->n_problems;
    progress.label = "checking";
    s->checked = 1;
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        for (k = 0; k < s->n_types - 1 && s->types[k].id != t->type; k++) { }
        if (t->type == BNI_TYPE_I2_S) check_codes(s, t, &s->types[k], scratch);
        else if (t->type == 34 || t->type == 35) check_blocks(s, t, &s->types[k], scratch);
        else if (bni_type_is_decodable(t->type) && t->ne[0] <= INT_MAX / 8) check_numbers(s, t);
        else s->n_unchecked++;
        done += tensor_bytes(t);
        cli_show_progress(&progress, done, g->file_size);
    }
    cli_end_progress(&progress);
    free(scratch);
    if (!known && (s->info.is_supported || s->vocab_only)) check_opening(s, desc);
}

/* ------------------------------------------------------------------------------------------------ in words */

static void label(const char *name) { printf("%-12s", name); }

static void print_string(bni_str s, int max_characters)
{
    putchar('"');
    show_text(stdout, s.data, s.size, max_characters);
    putchar('"');
}

static const char *value_type(uint32_t type)
{
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64",
                                        "i64", "f64"};
    return type < sizeof names / sizeof names[0] ? names[type] : "?";
}

/* A number of any type. json: with all its digits, and infinities and NaN, which JSON can't write, as null. */
static void print_number(const uint8_t *p, uint32_t type, int json)
{
    int64_t integer = 0;
    double real = 0;
    const int kind = bni_kv_number(p, type, &integer, &real);
    if (type == BNI_KV_BOOL) printf(*p ? "true" : "false");
    else if (type == BNI_KV_U64) printf("%llu", (unsigned long long)integer);
    else if (kind == 1) printf("%lld", (long long)integer);
    else if (!json) printf("%g", real);
    else if (!isfinite(real)) printf("null");
    else printf(type == BNI_KV_F32 ? "%.9g" : "%.17g", real);
}

/* Elements of an array, at most ARRAY_SHOWN of them. json: strings as JSON and nothing else. */
static void print_elements(const bni_kv *kv, int json)
{
    const uint64_t size = bni_kv_scalar_size(kv->elem);
    bni_strings strings = bni_kv_strings(kv);
    bni_str text;
    uint64_t i;
    for (i = 0; i < kv->count && i < ARRAY_SHOWN; i++) {
        if (i) printf(", ");
        if (kv->elem != BNI_KV_STRING) {
            print_number(kv->value + i * size, kv->elem, json);
        } else if (bni_strings_next(&strings, &text)) {
            if (json) show_json(stdout, text.data, text.size);
            else print_string(text, 40);
        }
    }
}

static void print_kv(const subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    uint64_t i;
    printf("\nMetadata\n");
    for (i = 0; i < g->n_kv; i++) {
        const bni_kv *kv = &g->kv[i];
        bni_str text;
        printf("  ");
        show_text(stdout, kv->key.data, kv->key.size, 0);
        if (kv->type == BNI_KV_ARRAY) {
            printf(" = %s[%llu] ", value_type(kv->elem), (unsigned long long)kv->count);
            print_elements(kv, 0);
            printf(kv->count > ARRAY_SHOWN ? ", ...\n" : "\n");
        } else if (bni_kv_string(kv, &text)) {
            printf(" = ");
            print_string(text, TEXT_SHOWN);
            printf(text.size > TEXT_SHOWN ? " (%.0f bytes)\n" : "\n", (double)text.size);
        } else {
            printf(" = ");
            print_number(kv->value, kv->type, 0);
            printf(" (%s)\n", value_type(kv->type));
        }
    }
}

static void print_tensors(const subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    uint64_t i;
    uint32_t d;
    printf("\nTensors\n  %-40s %-8s %-20s %14s %14s\n", "name", "type", "shape", "offset", "bytes");
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        char shape[96];
        int n = 0, width;
        for (d = 0; d < t->n_dims; d++)
            n += snprintf(shape + n, sizeof shape - (size_t)n, d ? " x %llu" : "%llu", (unsigned long long)t->ne[d]);
        printf("  ");
        show_text(stdout, t->name.data, t->name.size, 0);
        width = t->name.size < 40 ? 40 - (int)t->name.size : 0;
        printf("%*s %-8s %-20s %14llu %14llu\n", width, "", bni_type_name(t->type), shape,
               (unsigned long long)t->offset, (unsigned long long)tensor_bytes(t));
    }
}

static void print_types(const subject *s)
{
    char count[24], size[24];
    int i;
    if (!s->n_types) return;
    printf("\nTensor types\n  %-16s %8s %10s %10s %14s\n", "type", "tensors", "weights", "size", "bits a weight");
    for (i = 0; i < s->n_types; i++) {
        const type_sum *t = &s->types[i];
        const double n = (double)(t->codes[0] + t->codes[1] + t->codes[2] + t->codes[3]);
        char name[32];
        if (bni_type_find(t->id)) snprintf(name, sizeof name, "%s", bni_type_name(t->id));
        else snprintf(name, sizeof name, "number %u", (unsigned)t->id);
        printf("  %-16s %8llu %10s %10s %14.3f", name, (unsigned long long)t->n_tensors, cli_count(count, t->n_weights),
               cli_size(size, t->bytes), t->n_weights ? (double)t->bytes * 8 / (double)t->n_weights : 0.0);
        if (n > 0)
            printf("   -1: %.1f %%, 0: %.1f %%, +1: %.1f %%", 100 * (double)t->codes[0] / n,
                   100 * (double)t->codes[1] / n, 100 * (double)t->codes[2] / n);
        printf("\n");
    }
}

static void print_verdict(const subject *s)
{
    const char *hint = s->name_hint == is_bitnet(s) || s->vocab_only ? "" : s->name_hint
                           ? "; its name says otherwise" : ", though its name does not say so";
    label("BitNet");
    if (!s->matrices) printf("no: the file has no layers%s\n", hint);
    else if (is_bitnet(s)) printf("yes: all %.0f matrices of its layers are ternary%s\n", (double)s->matrices, hint);
    else if (s->ternary) printf("in part: %.0f of %.0f matrices of its layers are ternary%s\n", (double)s->ternary,
                                (double)s->matrices, hint);
    else printf("no: none of the %.0f matrices of its layers is ternary%s\n", (double)s->matrices, hint);
    label("runs here");
    if (s->info.is_supported && !s->n_problems) printf("yes\n");
    else if (s->n_problems) printf("no: the file is damaged: %s\n", s->problems[0].text);
    else printf("no: %s\n", s->why.text);
}

static void print_sizes(const subject *s)
{
    const bitnet_model_info *i = &s->info;
    const uint64_t layers = hyper(s, "block_count", i->n_layer), width = hyper(s, "embedding_length", i->n_embd);
    const uint64_t ff = hyper(s, "feed_forward_length", i->n_ff), heads = hyper(s, "attention.head_count", i->n_head);
    const uint64_t kv_heads = hyper(s, "attention.head_count_kv", i->n_head_kv);
    const uint64_t context = hyper(s, "context_length", i->n_ctx_train);
    if (!layers) return;
    label("sizes");
    printf("%llu layers, %llu wide, feed-forward %llu, %llu heads", (unsigned long long)layers,
           (unsigned long long)width, (unsigned long long)ff, (unsigned long long)heads);
    if (i->head_dim) printf(" of %d", i->head_dim);
    if (kv_heads) printf(" (%llu for keys and values)", (unsigned long long)kv_heads);
    printf(", trained context %llu\n", (unsigned long long)context);
    if (!i->is_supported) return;
    label("");
    printf("rope base %g, norm epsilon %g, output matrix %s%s\n", (double)i->rope_theta, (double)i->norm_eps,
           i->head_type, i->tied_output ? " (the token embedding)" : "");
}

/* ", bos 128000 <|begin_of_text|>" */
static void print_special(const subject *s, const char *name, int32_t id)
{
    const bni_kv *kv = bni_gguf_find(&s->model.gguf, "tokenizer.ggml.tokens");
    bni_strings strings = bni_kv_strings(kv);
    bni_str text;
    int32_t i;
    if (id < 0) return;
    printf(", %s %d ", name, (int)id);
    for (i = 0; bni_strings_next(&strings, &text); i++)
        if (i == id) show_text(stdout, text.data, text.size, 40);
}

static void print_tokenizer(const subject *s)
{
    const bni_kv *tokens = bni_gguf_find(&s->model.gguf, "tokenizer.ggml.tokens");
    bni_str text;
    label("tokenizer");
    if (!s->info.tokenizer[0] && !tokens) {
        printf("none\n");
    } else {
        printf("%s", s->info.tokenizer);
        if (s->info.pre_tokenizer[0])
            printf(", rule %s%s", s->info.pre_tokenizer,
                   bni_gguf_find(&s->model.gguf, "tokenizer.ggml.pre") ? "" : " (the file names none)");
        printf(", %llu tokens", (unsigned long long)bni_kv_count(tokens));
        print_special(s, "bos", s->info.bos);
        print_special(s, "eos", s->info.eos);
        print_special(s, "eot", s->info.eot);
        printf("\n");
    }
    label("template");
    printf("%s", s->info.chat_template[0] ? s->info.chat_template : "none");
    if (bni_kv_string(bni_gguf_find(&s->model.gguf, "tokenizer.chat_template"), &text))
        printf(" (the file has one of %.0f bytes)", (double)text.size);
    printf("\n");
}

static void print_memory(const subject *s)
{
    char a[24], b[24], c[24], d[24], e[24];
    const bitnet_model_info *i = &s->info;
    if (!i->is_supported) return;
    label("memory");
    printf("%s at a context of %d: weights %s, mapped file %s, engine %s, session %s\n",
           cli_size(e, i->model_memory + i->mapped_memory + s->engine_memory + s->session_memory), s->n_ctx,
           cli_size(a, i->model_memory), cli_size(b, i->mapped_memory), cli_size(c, s->engine_memory),
           cli_size(d, s->session_memory));
    label("");
    printf("a token reads %s of weights\n", cli_size(a, i->weight_bytes));
}

static void print_problems(const subject *s)
{
    const int shown = s->n_problems < MAX_PROBLEMS ? s->n_problems : MAX_PROBLEMS;
    int i;
    if (!s->checked && !s->n_problems) return;
    printf("\n");
    for (i = 0; i < shown; i++)
        printf("damaged: %s (at byte %llu)\n", s->problems[i].text, (unsigned long long)s->problems[i].offset);
    if (s->n_problems > shown) printf("damaged: and %d more\n", s->n_problems - shown);
    if (s->checked && !s->n_problems)
        printf("check: sound; header, %d tensors%s\n", s->info.n_tensors,
               s->info.is_supported ? ", opened by the library" : "");
    if (s->n_unchecked) printf("check: %d tensors are of types whose content is not looked at\n", s->n_unchecked);
    if (s->gaps) printf("%.0f bytes of the file belong to no tensor\n", (double)s->gaps);
}

static void print_words(const subject *s, int tensors, int kv)
{
    char size[24], count[24];
    const bni_gguf *g = &s->model.gguf;
    label("file");
    printf("%s, %s (%llu bytes), GGUF version %u, %llu metadata entries, %llu tensors\n", s->path,
           cli_size(size, g->file_size), (unsigned long long)g->file_size, (unsigned)g->version,
           (unsigned long long)g->n_kv, (unsigned long long)g->n_tensors);
    label("model");
    printf("%s", s->info.architecture[0] ? s->info.architecture : "(no architecture)");
    if (s->info.name[0]) {
        printf(" ");
        print_string(bni_str_of(s->info.name), 0);
    }
    printf(", %s weights\n", cli_count(count, s->info.n_parameters));
    print_verdict(s);
    print_sizes(s);
    print_tokenizer(s);
    print_memory(s);
    print_types(s);
    if (kv) print_kv(s);
    if (tensors) print_tensors(s);
    print_problems(s);
}

/* ------------------------------------------------------------------------------------------------- as JSON
   Objects and arrays are opened and closed by hand; a member begins with its comma, except the first of its object, so
   every function that prints a member says which it is by calling member. */

static int json_first = 1;           /* nothing stands in the innermost object yet */

static void member(const char *name)
{
    if (!json_first) printf(",");
    json_first = 0;
    printf("\n  ");
    show_json_string(stdout, name);
    printf(": ");
}

/* The beginning of an element of an array or of a member on the same line. */
static void element(int i) { printf(i ? ",\n    " : "\n    "); }

static void json_text(const char *name, const char *text)
{
    member(name);
    show_json_string(stdout, text);
}

static void json_number(const char *name, double v)
{
    member(name);
    if (isfinite(v)) printf(v == floor(v) && fabs(v) < 9e15 ? "%.0f" : "%.9g", v);
    else printf("null");
}

static void json_truth(const char *name, int v)
{
    member(name);
    printf(v ? "true" : "false");
}

static void json_types(const subject *s)
{
    int i;
    member("types");
    printf("[");
    for (i = 0; i < s->n_types; i++) {
        const type_sum *t = &s->types[i];
        element(i);
        printf("{\"type\": \"%s\", \"id\": %u, \"ternary\": %s, \"tensors\": %llu, \"weights\": %llu, \"bytes\": %llu",
               bni_type_name(t->id), (unsigned)t->id, bni_type_is_ternary(t->id) ? "true" : "false",
               (unsigned long long)t->n_tensors, (unsigned long long)t->n_weights, (unsigned long long)t->bytes);
        if (t->codes[0] + t->codes[1] + t->codes[2] + t->codes[3] > 0)
            printf(", \"codes\": [%llu, %llu, %llu, %llu]", (unsigned long long)t->codes[0],
                   (unsigned long long)t->codes[1], (unsigned long long)t->codes[2], (unsigned long long)t->codes[3]);
        printf("}");
    }
    printf(s->n_types ? "\n  ]" : "]");
}

static void json_tensors(const subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    uint64_t i;
    uint32_t d;
    member("tensors");
    printf("[");
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        element(i > 0);
        printf("{\"name\": ");
        show_json(stdout, t->name.data, t->name.size);
        printf(", \"type\": \"%s\", \"id\": %u, \"shape\": [", bni_type_name(t->type), (unsigned)t->type);
        for (d = 0; d < t->n_dims; d++) printf(d ? ", %llu" : "%llu", (unsigned long long)t->ne[d]);
        printf("], \"offset\": %llu, \"bytes\": %llu}", (unsigned long long)t->offset,
               (unsigned long long)tensor_bytes(t));
    }
    printf(g->n_tensors ? "\n  ]" : "]");
}

static void json_kv(const subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    uint64_t i;
    member("metadata");
    printf("{");
    for (i = 0; i < g->n_kv; i++) {
        const bni_kv *kv = &g->kv[i];
        bni_str text;
        element(i > 0);
        show_json(stdout, kv->key.data, kv->key.size);
        printf(": {\"type\": \"%s\", ", value_type(kv->type));
        if (kv->type == BNI_KV_ARRAY) {
            printf("\"element\": \"%s\", \"count\": %llu, \"%s\": [", value_type(kv->elem),
                   (unsigned long long)kv->count, kv->count > ARRAY_SHOWN ? "first" : "value");
            print_elements(kv, 1);
            printf("]}");
        } else {
            printf("\"value\": ");
            if (bni_kv_string(kv, &text)) show_json(stdout, text.data, text.size);
            else print_number(kv->value, kv->type, 1);
            printf("}");
        }
    }
    printf(g->n_kv ? "\n  }" : "}");
}

static void json_problems(const subject *s)
{
    int i;
    json_truth("checked", s->checked);
    json_number("n_problems", s->n_problems);
    member("problems");
    printf("[");
    for (i = 0; i < s->n_problems && i < MAX_PROBLEMS; i++) {
        element(i);
        printf("{\"byte\": %llu, \"text\": ", (unsigned long long)s->problems[i].offset);
        show_json_string(stdout, s->problems[i].text);
        printf("}");
    }
    printf(s->n_problems ? "\n  ]" : "]");
}

static void json_sizes(const subject *s)
{
    const bitnet_model_info *i = &s->info;
    json_number("n_vocab", i->n_vocab);
    json_number("n_ctx_train", (double)hyper(s, "context_length", i->n_ctx_train));
    json_number("n_embd", (double)hyper(s, "embedding_length", i->n_embd));
    json_number("n_layer", (double)hyper(s, "block_count", i->n_layer));
    json_number("n_head", (double)hyper(s, "attention.head_count", i->n_head));
    json_number("n_head_kv", (double)hyper(s, "attention.head_count_kv", i->n_head_kv));
    json_number("head_dim", i->head_dim);
    json_number("n_ff", (double)hyper(s, "feed_forward_length", i->n_ff));
    json_number("rope_theta", (double)i->rope_theta);
    json_number("norm_eps", (double)i->norm_eps);
    json_truth("tied_output", i->tied_output);
    json_text("head_type", i->head_type);
    json_text("linear_type", i->linear_type);
}

static void json_memory(const subject *s)
{
    const bitnet_model_info *i = &s->info;
    if (!i->is_supported) return;
    member("memory");
    printf("{\"n_ctx\": %d, \"model\": %llu, \"mapped\": %llu, \"engine\": %llu, \"session\": %llu, \"total\": %llu, "
           "\"read_per_token\": %llu}",
           s->n_ctx, (unsigned long long)i->model_memory, (unsigned long long)i->mapped_memory,
           (unsigned long long)s->engine_memory, (unsigned long long)s->session_memory,
           (unsigned long long)(i->model_memory + i->mapped_memory + s->engine_memory + s->session_memory),
           (unsigned long long)i->weight_bytes);
}

static void print_json(const subject *s, int readable, int tensors, int kv)
{
    const bitnet_model_info *i = &s->info;
    printf("{");
    json_text("file", s->path);
    json_truth("readable", readable);
    if (!readable) {
        json_text("error", s->why.text);
        json_number("error_byte", (double)s->why.offset);
        printf("\n}\n");
        return;
    }
    json_number("file_bytes", (double)i->file_bytes);
    json_number("gguf_version", s->model.gguf.version);
    json_text("architecture", i->architecture);
    json_text("name", i->name);
    json_truth("is_bitnet", is_bitnet(s));
    json_number("n_matrices", (double)s->matrices);
    json_number("n_ternary_matrices", (double)s->ternary);
    json_truth("name_says_bitnet", s->name_hint);
    json_truth("is_supported", i->is_supported && !s->n_problems);
    json_text("unsupported", i->is_supported ? "" : s->why.text);
    json_number("n_tensors", i->n_tensors);
    json_number("n_parameters", (double)i->n_parameters);
    json_sizes(s);
    json_text("tokenizer", i->tokenizer);
    json_text("pre_tokenizer", i->pre_tokenizer);
    json_number("bos", i->bos);
    json_number("eos", i->eos);
    json_number("eot", i->eot);
    json_text("chat_template", i->chat_template);
    json_memory(s);
    json_types(s);
    if (kv) json_kv(s);
    if (tensors) json_tensors(s);
    json_problems(s);
    printf("\n}\n");
}

/* ---------------------------------------------------------------------------------------------------- main */

int main(int argc, char **argv)
{
    static subject s;
    int json = 0, checking = 0, tensors = 0, kv = 0, n_ctx = 0, readable, output;
    cli_model_args where;
    bitnet_model_desc desc;
    const cli_option options[] = {
        {"--json", CLI_FLAG, &json, NULL, "as JSON", 0, 0},
        {"--check", CLI_FLAG, &checking, NULL, "read every byte, open the model, exit 1 on damage", 0, 0},
        {"--tensors", CLI_FLAG, &tensors, NULL, "list the tensors", 0, 0},
        {"--kv", CLI_FLAG, &kv, NULL, "list the metadata; long arrays are abbreviated", 0, 0},
        {"-c --ctx --ctx-size", CLI_INT, &n_ctx, "N", "the context that the memory is counted for (the trained one,\n"
         "at most 4096)", 1, 1 << 24},
        {"-t --threads", CLI_INT, &where.n_threads, "N", "threads that the memory is counted for", 0, 256},
        {"--i2s-layout", CLI_STRING, &where.i2s_layout, "A|B|C|D", "bit order of I2_S tensors", 0, 0},
        {"--tl-tiles", CLI_STRING, &where.tl_tiles, "BM/BY/bm", "tiles of TL1 and TL2 tensors, or \"generated\"", 0, 0},
        {"--no-mmap", CLI_FLAG, &where.no_mmap, NULL, "read the file instead of mapping it", 0, 0},
    };
    const cli_program program = {"inspect", "[options] MODEL", "What a model file is, and whether it is whole.", NULL,
                                 options, CLI_COUNT(options), 1, 1};
    memset(&where, 0, sizeof where);
    memset(&desc, 0, sizeof desc);
    cli_parse(&program, argc, argv, &where.path);
    desc.path = where.path;
    desc.n_threads = s.n_threads = where.n_threads;
    desc.no_mmap = where.no_mmap;
    desc.i2s_layout = cli_i2s_layout(where.i2s_layout);
    desc.tl_tiles = where.tl_tiles;
    readable = open_subject(&s, &desc, n_ctx);
    if (!readable && !json) cli_fail_with(s.path, &s.why);
    if (readable && checking) check(&s, &desc);
    if (json) print_json(&s, readable, tensors, kv);
    else print_words(&s, tensors, kv);
    s.model.block_size = 0;                              /* the model was never committed: only its tables are freed */
    bni_model_release(&s.model);
    output = cli_finish_output();
    if (!readable || (checking && s.n_problems)) return CLI_EXIT_FAILED;
    return output;
}
