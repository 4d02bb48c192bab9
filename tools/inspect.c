/* inspect: what a model file is, in words or as JSON, and whether it is whole.

       cc -O2 -I. tools/inspect.c -o inspect -lpthread -lm
       ./inspect model.gguf                        is it a BitNet model, what size, what it needs
       ./inspect model.gguf --check                read every byte; exit 1 if the file is damaged
       ./inspect model.gguf --tensors --kv         what is in it; reads every tensor
       ./inspect model.gguf --json -c 8192
       ./inspect --diff a.gguf b.gguf              are they the same model, whatever types they are stored in

   Works on any GGUF file, also on models that bitnet.h does not run and on files with a vocabulary only. Whether a file
   is a BitNet model is told by the types of its matrices; its name is only a hint, and a wrong one is pointed out.

   Exit 0: told; 1: not a readable GGUF file, or --check found damage; 2: wrong usage. With --diff, like diff: 0: the
   same model; 1: different ones; 2: trouble.

   Tensors pass through one at a time, large ones of numbers in pieces: memory does not grow with the model.

   Reading order: "the subject", "what is in the tensors", "checks", "in words", "as JSON", "main"; --diff is
   tools/inspect_diff.h. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/rows.h"
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
    int form;                        /* BNI_FORM_... */
    uint64_t n_tensors, n_weights, bytes;
    uint64_t codes[4];               /* once they were read: how often each code occurs */
} type_sum;

/* What reading a tensor found out. */
typedef struct facts {
    rows_kind kind;                  /* ROWS_OPAQUE: nothing but why */
    int unreadable;                  /* 1: its bytes could not be read; the rest is not valid */
    uint64_t codes[4];               /* of ternary ones: how often each occurs; 3 is no weight */
    uint64_t strange;                /* parts that no writer writes: see rows_strange */
    uint64_t group, per_row;         /* columns that share a scale; scales of a row */
    uint64_t n_bad, first_bad;       /* scales or numbers that are not finite, and the first one's row */
    float low, high;                 /* of the scales or the numbers; low > high: there are none that are finite */
    char why[240];                   /* of ROWS_OPAQUE; as long as bitnet_error.text */
} facts;

typedef struct problem {
    uint64_t offset;
    char text[300];
} problem;

/* A file and what was found out about it. The model is only prepared: its tables are read, no weights. */
typedef struct subject {
    const char *path;
    bitnet_model_desc desc;
    bitnet_model model;
    bitnet_model_info info;
    facts *facts;                    /* [n_tensors] once they were read, else NULL */
    int prepared;                    /* 1: the library knows all but the weights */
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

/* Also of what is not read, as PTQ1_0. The form comes first: 39 is TL2 where the size says so, else MXFP4. */
static int is_ternary(uint32_t id, int form) { return form != BNI_FORM_NONE || bni_type_is_ternary(id); }

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
        if (k == s->n_types && k < MAX_TYPES) {
            s->types[k].id = t->type;
            s->types[k].form = t->form;                  /* the same for all of a type */
            s->n_types++;
        }
        if (k < MAX_TYPES) {
            s->types[k].n_tensors++;
            s->types[k].n_weights += bni_tensor_count(t);
            s->types[k].bytes += tensor_bytes(t);
        }
        if (in_layers(t)) {
            s->matrices++;
            s->ternary += is_ternary(t->type, t->form) ? 1 : 0;
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
    s->prepared = result == BITNET_OK;
    if (s->prepared) {
        m->block_size = size;
        bni_info_model(m, &s->info);
        m->block_size = 0;
        s->info.is_supported = !s->vocab_only;
        if (!s->vocab_only) s->info.weight_bytes = bni_weight_bytes(m);
        if (s->vocab_only) strcpy(s->why.text, "it has a vocabulary and no weights");
    } else {
        if (result == BITNET_ERROR_ARGUMENT) cli_usage("%s", s->why.text);
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
    s->desc = *desc;
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

static void close_subject(subject *s)
{
    s->model.block_size = 0;                             /* the model was never committed: only its tables are freed */
    bni_model_release(&s->model);
    free(s->facts);
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

/* ---------------------------------------------------------------------------------- what is in the tensors */

/* Adds to counts how often each code stands in codes [n], which are 0 to 3. */
static void count_codes(const uint8_t *codes, uint64_t n, uint64_t counts[4])
{
    uint64_t k, low = 0, high = 0, both = 0;
    for (k = 0; k < n; k++) {
        low += codes[k] & 1u;
        high += codes[k] >> 1;
        both += codes[k] & codes[k] >> 1;
    }
    counts[0] += n - low - high + both;
    counts[1] += low - both;
    counts[2] += high - both;
    counts[3] += both;
}

/* Takes values [n] of a row into account. */
static void add_values(facts *f, const float *values, uint64_t n, uint64_t row)
{
    uint64_t k;
    for (k = 0; k < n; k++) {
        if ((bni_float_bits(values[k]) & 0x7f800000u) == 0x7f800000u) {
            if (f->n_bad++ == 0) f->first_bad = row;
            continue;
        }
        if (values[k] < f->low) f->low = values[k];
        if (values[k] > f->high) f->high = values[k];
    }
}

/* Reads a tensor from end to end. */
static void look_at(const subject *s, const bni_tensor *t, facts *f)
{
    bitnet_error err;
    rows r;
    uint64_t row;
    int ok = 1;
    memset(f, 0, sizeof *f);
    f->low = INFINITY;
    f->high = -INFINITY;
    if (!rows_open(&r, &s->model, t, &s->desc, &err)) {
        snprintf(f->why, sizeof f->why, "%s", err.text);
        return;
    }
    f->kind = r.kind;
    f->group = r.group;
    f->per_row = r.n_cols / r.group;
    if (r.kind == ROWS_TERNARY) ok = rows_strange(&r, &f->strange);
    for (row = 0; row < r.n_rows && ok; row++) {
        if (r.kind == ROWS_TERNARY) {
            ok = rows_codes(&r, row);
            if (!ok) break;
            count_codes(r.codes, r.n_cols, f->codes);
            if (row == 0 || !r.ternary.scale_at) add_values(f, r.scales, f->per_row, row);
        } else {
            ok = rows_values(&r, row);
            if (ok) add_values(f, r.values, r.n_cols, row);
        }
    }
    if (r.kind == ROWS_TERNARY && r.ternary.form <= BNI_FORM_I2S_D) {
        f->codes[1] -= f->strange;                       /* the library reads 3 as 1 there */
        f->codes[3] += f->strange;
    }
    f->unreadable = !ok;
    rows_close(&r);
}

/* All tensors, once. */
static void look_at_all(subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    cli_progress progress = {0};
    uint64_t i, done = 0;
    int k, c;
    progress.label = "reading";
    s->facts = (facts *)cli_alloc((size_t)g->n_tensors * sizeof *s->facts);
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        look_at(s, t, &s->facts[i]);
        for (k = 0; k < s->n_types - 1 && s->types[k].id != t->type; k++) { }
        for (c = 0; c < 4; c++) s->types[k].codes[c] += s->facts[i].codes[c];
        done += tensor_bytes(t);
        cli_show_progress(&progress, done, g->file_size);
    }
    cli_end_progress(&progress);
}

/* -------------------------------------------------------------------------------------------------- checks
   The header was checked when it was parsed: counts, names, alignment, overlaps, ends. Here every byte of every tensor
   was looked at: ternary codes must be such as writers write, scales and all numbers finite. Last, the library opens
   the model. */

static void check_codes(subject *s, const bni_tensor *t, const facts *f)
{
    const double n = (double)bni_tensor_count(t);
    const int one = t->form <= BNI_FORM_TL2;             /* scale for the whole tensor */
    if (f->codes[3])
        add_problem(s, t->offset, "tensor %.*s: %.0f of %.0f codes are 3, which no writer produces", (int)t->name.size,
                    t->name.data, (double)f->codes[3], n);
    else if (f->strange)
        add_problem(s, t->offset, "tensor %.*s: %.0f %s of %s hold what no writer produces", (int)t->name.size,
                    t->name.data, (double)f->strange, one ? "nibbles" : "bytes", bni_tensor_type_name(t->type, t->form));
    if (one && (f->n_bad || f->low <= 0))
        add_problem(s, t->offset + t->bytes - BNI_TERNARY_TAIL, "tensor %.*s: its scale is %s", (int)t->name.size,
                    t->name.data, f->n_bad ? "not finite" : f->low < 0 ? "negative" : "0");
    else if (f->n_bad)
        add_problem(s, t->offset, "tensor %.*s: %.0f scales are not finite, the first in row %.0f", (int)t->name.size,
                    t->name.data, (double)f->n_bad, (double)f->first_bad);
}

static void check_tensor(subject *s, const bni_tensor *t, const facts *f)
{
    if (f->kind == ROWS_OPAQUE) s->n_unchecked++;
    else if (f->unreadable) add_problem(s, t->offset, "tensor %.*s: can't be read", (int)t->name.size, t->name.data);
    else if (f->kind == ROWS_TERNARY) check_codes(s, t, f);
    else if (f->n_bad)
        add_problem(s, t->offset + f->first_bad * bni_row_bytes(t->type, t->ne[0]),
                    "tensor %.*s: %.0f values are not finite, the first in row %.0f", (int)t->name.size, t->name.data,
                    (double)f->n_bad, (double)f->first_bad);
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

static void check(subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    const int known = s->n_problems;
    uint64_t i;
    s->checked = 1;
    for (i = 0; i < g->n_tensors; i++) check_tensor(s, &g->tensors[i], &s->facts[i]);
    if (!known && (s->info.is_supported || s->vocab_only)) check_opening(s, &s->desc);
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

/* The scales of a ternary tensor, the range of another one's numbers, or why neither is known. */
static void describe(const facts *f, int form, char text[256])
{
    char numbers[64], per[32];
    if (f->kind == ROWS_OPAQUE || f->unreadable) {
        snprintf(text, 256, "%s", f->unreadable ? "can't be read" : f->why);
        return;
    }
    if (f->low > f->high) snprintf(numbers, sizeof numbers, "none finite");
    else if (f->low < f->high) snprintf(numbers, sizeof numbers, "%.6g .. %.6g", (double)f->low, (double)f->high);
    else snprintf(numbers, sizeof numbers, "%.9g", (double)f->low);
    if (f->kind == ROWS_NUMBERS) snprintf(text, 256, "values %s", numbers);
    else if (form <= BNI_FORM_TL2) snprintf(text, 256, "%s", numbers);
    else {
        if (form >= BNI_FORM_IQ1_BN) snprintf(per, sizeof per, "row");
        else snprintf(per, sizeof per, "%.0f", (double)f->group);
        snprintf(text, 256, "per %s, %s", per, numbers);
    }
    if (f->n_bad) {
        const size_t n = strlen(text);
        snprintf(text + n, 256 - n, ", %.0f not finite", (double)f->n_bad);
    }
}

/* "256 x 1024" */
static const char *shape_text(const bni_tensor *t, char text[96])
{
    int n = 0;
    uint32_t d;
    text[0] = 0;
    for (d = 0; d < t->n_dims; d++)
        n += snprintf(text + n, 96 - (size_t)n, d ? " x %llu" : "%llu", (unsigned long long)t->ne[d]);
    return text;
}

/* Offset and bytes come last, behind the only column with blanks of any number in it. */
static void print_tensors(const subject *s)
{
    const bni_gguf *g = &s->model.gguf;
    uint64_t i, widest = 4;
    for (i = 0; i < g->n_tensors; i++)
        if (g->tensors[i].name.size > widest) widest = g->tensors[i].name.size;
    if (widest > 40) widest = 40;
    printf("\nTensors\n  %-*s %-10s %-16s %6s %7s  %-32s %12s %12s\n", (int)widest, "name", "type", "shape", "bits",
           "zeros", "scale", "offset", "bytes");
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        const facts *f = &s->facts[i];
        const uint64_t n = bni_tensor_count(t);
        char shape[96], text[256], zeros[16] = "-";
        describe(f, t->form, text);
        if (f->kind == ROWS_TERNARY && !f->unreadable)
            snprintf(zeros, sizeof zeros, "%.1f %%", 100 * (double)f->codes[1] / (double)n);
        printf("  ");
        show_text(stdout, t->name.data, t->name.size, 0);
        printf("%*s %-10s %-16s %6.3f %7s  %-32s %12llu %12llu\n",
               t->name.size < widest ? (int)(widest - t->name.size) : 0, "", bni_tensor_type_name(t->type, t->form),
               shape_text(t, shape), (double)tensor_bytes(t) * 8 / (double)n, zeros, text,
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
        if (bni_type_find(t->id)) snprintf(name, sizeof name, "%s", bni_tensor_type_name(t->id, t->form));
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
               bni_tensor_type_name(t->id, t->form), (unsigned)t->id, is_ternary(t->id, t->form) ? "true" : "false",
               (unsigned long long)t->n_tensors, (unsigned long long)t->n_weights, (unsigned long long)t->bytes);
        if (t->codes[0] + t->codes[1] + t->codes[2] + t->codes[3] > 0)
            printf(", \"codes\": [%llu, %llu, %llu, %llu]", (unsigned long long)t->codes[0],
                   (unsigned long long)t->codes[1], (unsigned long long)t->codes[2], (unsigned long long)t->codes[3]);
        printf("}");
    }
    printf(s->n_types ? "\n  ]" : "]");
}

/* What reading a tensor found out, as more members of its object. */
static void json_facts(const facts *f, int one_scale)
{
    if (f->kind == ROWS_OPAQUE || f->unreadable) return;
    if (f->kind == ROWS_TERNARY)
        printf(", \"codes\": [%llu, %llu, %llu, %llu], \"scale_columns\": %llu", (unsigned long long)f->codes[0],
               (unsigned long long)f->codes[1], (unsigned long long)f->codes[2], (unsigned long long)f->codes[3],
               one_scale ? 0ull : (unsigned long long)f->group);
    printf(f->kind == ROWS_TERNARY ? ", \"scales\": " : ", \"values\": ");
    if (f->low > f->high) printf("null");
    else printf("[%.9g, %.9g]", (double)f->low, (double)f->high);
    printf(", \"not_finite\": %llu", (unsigned long long)f->n_bad);
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
        printf(", \"type\": \"%s\", \"id\": %u, \"shape\": [", bni_tensor_type_name(t->type, t->form), (unsigned)t->type);
        for (d = 0; d < t->n_dims; d++) printf(d ? ", %llu" : "%llu", (unsigned long long)t->ne[d]);
        printf("], \"offset\": %llu, \"bytes\": %llu, \"bits_per_weight\": %.6g", (unsigned long long)t->offset,
               (unsigned long long)tensor_bytes(t), (double)tensor_bytes(t) * 8 / (double)bni_tensor_count(t));
        json_facts(&s->facts[i], t->form <= BNI_FORM_TL2);
        printf("}");
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

#include "tools/inspect_diff.h"

/* ---------------------------------------------------------------------------------------------------- main */

static const char notes[] =
    "--tensors shows of ternary tensors the share of zeros, and their scale: one, or the range of those that\n"
    "each row or so many columns have; of others the range of their values.\n"
    "--diff compares codes, scales and values tensor by tensor, whatever types they are stored in, what the\n"
    "metadata say about the network, and the tokenizer; not names, comments or types. Exit status 0: the same\n"
    "model, 1: different ones, 2: trouble.";

typedef struct arguments {
    int json, checking, tensors, kv, diff, n_ctx;
    const char *path[2];
    const char *b_layout, *b_tiles;  /* of the second file, where they are others */
    double tolerance;
    cli_model_args where;
} arguments;

static bitnet_model_desc describe_model(const arguments *a, const char *path)
{
    bitnet_model_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.path = path;
    desc.n_threads = a->where.n_threads;
    desc.no_mmap = a->where.no_mmap;
    desc.i2s_layout = cli_i2s_layout(a->where.i2s_layout);
    desc.tl_tiles = a->where.tl_tiles;
    return desc;
}

static int run_inspect(const arguments *a)
{
    static subject s;
    const bitnet_model_desc desc = describe_model(a, a->path[0]);
    int readable, output;
    s.n_threads = a->where.n_threads;
    readable = open_subject(&s, &desc, a->n_ctx);
    if (!readable && !a->json) cli_fail_with(s.path, &s.why);
    if (readable && (a->checking || a->tensors)) look_at_all(&s);
    if (readable && a->checking) check(&s);
    if (a->json) print_json(&s, readable, a->tensors, a->kv);
    else print_words(&s, a->tensors, a->kv);
    close_subject(&s);
    output = cli_finish_output();
    return !readable || (a->checking && s.n_problems) ? CLI_EXIT_FAILED : output;
}

static int run_diff(const arguments *a)
{
    static subject s[2];
    bitnet_model_desc desc[2];
    int i, differ;
    for (i = 0; i < 2; i++) desc[i] = describe_model(a, a->path[i]);
    if (a->b_layout) desc[1].i2s_layout = cli_i2s_layout(a->b_layout);
    if (a->b_tiles) desc[1].tl_tiles = a->b_tiles;
    for (i = 0; i < 2; i++) diff_open(&s[i], &desc[i]);
    differ = diff_models(&s[0], &s[1], a->tolerance);
    for (i = 0; i < 2; i++) close_subject(&s[i]);
    return cli_finish_output() != CLI_EXIT_OK ? DIFF_TROUBLE : differ;
}

int main(int argc, char **argv)
{
    static arguments a;
    const cli_option options[] = {
        {"--json", CLI_FLAG, &a.json, NULL, "as JSON", 0, 0},
        {"--check", CLI_FLAG, &a.checking, NULL, "read every byte, open the model, exit 1 on damage", 0, 0},
        {"--tensors", CLI_FLAG, &a.tensors, NULL, "list the tensors, and what is in them", 0, 0},
        {"--kv", CLI_FLAG, &a.kv, NULL, "list the metadata; long arrays are abbreviated", 0, 0},
        {"-c --ctx --ctx-size", CLI_INT, &a.n_ctx, "N", "the context that the memory is counted for (the trained one,\n"
         "at most 4096)", 1, 1 << 24},
        {"-t --threads", CLI_INT, &a.where.n_threads, "N", "threads that the memory is counted for", 0, 256},
        {"--diff", CLI_FLAG, &a.diff, NULL, "compare two models", 0, 0},
        {"--tolerance", CLI_REAL, &a.tolerance, "R", "--diff: scales and values are equal if they differ by less than\n"
         "this share of them (0)", 0, 1},
        {"--i2s-layout", CLI_STRING, &a.where.i2s_layout, "A|B|C|D", "bit order of I2_S tensors", 0, 0},
        {"--tl-tiles", CLI_STRING, &a.where.tl_tiles, "BM/BY/bm", "tiles of TL1 and TL2 tensors, or \"generated\"", 0, 0},
        {"--i2s-layout-2", CLI_STRING, &a.b_layout, "A|B|C|D", "--diff: that of the second model, where it is another",
         0, 0},
        {"--tl-tiles-2", CLI_STRING, &a.b_tiles, "BM/BY/bm", "--diff: those of the second model", 0, 0},
        {"--no-mmap", CLI_FLAG, &a.where.no_mmap, NULL, "read the file instead of mapping it", 0, 0},
    };
    const cli_program program = {"inspect", "[options] MODEL [--diff MODEL]",
                                 "What a model file is, and whether it is whole.", notes, options,
                                 CLI_COUNT(options), 1, 2};
    const int n = cli_parse(&program, argc, argv, a.path);
    cli_i2s_layout(a.where.i2s_layout);                  /* exits 2 on a wrong name */
    cli_i2s_layout(a.b_layout);
    if (!a.diff && n > 1) cli_usage("unexpected argument '%s'; --diff compares two models", a.path[1]);
    if (a.diff && n < 2) cli_usage("--diff needs two models");
    if (a.diff && (a.json || a.checking || a.tensors || a.kv)) cli_usage("--diff stands alone, and speaks in words only");
    if (!a.diff && (a.b_layout || a.b_tiles || a.tolerance > 0)) cli_usage("an option of --diff, without --diff");
    return a.diff ? run_diff(&a) : run_inspect(&a);
}
