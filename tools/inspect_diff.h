/* inspect_diff.h: two models compared: inspect --diff. A part of tools/inspect.c, not for others.

   Types do not matter, weights do. Two ternary tensors are compared by their codes, and by their scales wherever a
   weight is not 0, at the finer of their two groupings: a matrix of I2_S and the same in TQ1_0 are equal if all blocks
   of the latter hold the scale of the former. A ternary tensor and one of numbers, or two of numbers, are compared as
   numbers. What is not read at all is compared as bytes, if both are of one type.

   Of the metadata counts what decides the result, as the library reads it: a key that is missing and one that says
   what its absence means are the same. Of files that it can't run, all keys of the architecture and the tokenizer
   count as they stand there.

   Reading order: "differences", "tensors", "settings", "the tokenizer", "the whole". */

enum { DIFF_SAME = 0, DIFF_DIFFERENT = 1, DIFF_TROUBLE = 2, DIFF_SHOWN = 20 };

/* --------------------------------------------------------------------------------------------- differences */

typedef struct comparison {
    const subject *a, *b;
    double tolerance;
    int n_found, n_settings, n_tokenizer, n_missing, n_unknown;
    uint64_t n_ternary, n_codes, n_scales;     /* pairs of ternary tensors, and how many differ */
    uint64_t n_other, n_values;                /* other pairs */
} comparison;

/* Trouble: the reason on stderr, exit 2. */
CLI_PRINTF(1, 2) CLI_NORETURN static void diff_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    cli_vmessage(format, args);
    va_end(args);
    exit(DIFF_TROUBLE);
}

/* Counts a difference in *n. 1: tell it in a line; the first are told, the others summed up. */
static int diff_tell(comparison *c, int *n)
{
    ++*n;
    return c->n_found++ < DIFF_SHOWN;
}

static void diff_open(subject *s, const bitnet_model_desc *desc)
{
    const int ok = open_subject(s, desc, 0);
    if (ok && !s->broken) return;
    if (strstr(s->why.text, desc->path)) diff_fail("%s", s->why.text);
    diff_fail("%s: %s (at byte %.0f)", desc->path, s->why.text, (double)s->why.offset);
}

/* Equal, or nearer to each other than the tolerance. NaN is equal to NaN: the question is whether the files agree. */
static int same_number(const comparison *c, double a, double b)
{
    const double size = fabs(a) > fabs(b) ? fabs(a) : fabs(b);
    return a == b || (a != a && b != b) || fabs(a - b) < c->tolerance * size;
}

/* ------------------------------------------------------------------------------------------------- tensors */

/* A tensor that is in both files. */
typedef struct pair {
    const bni_tensor *t[2];
    rows r[2];
    int open[2];                     /* r is */
    bitnet_error why[2];             /* if it is not */
} pair;

/* What differs in it: how much, and where first. */
typedef struct findings {
    uint64_t n_codes, row, col;
    int code[2];
    uint64_t n_scales, scale_row, scale_col;
    double scale[2], worst;          /* worst: the largest relative difference of scales; of values, the absolute one */
    uint64_t n_values;
    double value[2];
} findings;

/* "blk.0.attn_q.weight (I2_S, TQ1_0): " */
static void print_pair(const pair *p)
{
    show_text(stdout, p->t[0]->name.data, p->t[0]->name.size, 0);
    printf(" (%s, %s): ", bni_tensor_type_name(p->t[0]->type, p->t[0]->form), bni_tensor_type_name(p->t[1]->type, p->t[1]->form));
}

static void read_row(comparison *c, pair *p, int i, uint64_t row, int values)
{
    if (values ? rows_values(&p->r[i], row) : rows_codes(&p->r[i], row)) return;
    diff_fail("%s: tensor %.*s can't be read", (i ? c->b : c->a)->path, (int)p->t[i]->name.size, p->t[i]->name.data);
}

/* Where the scale is 0 all codes become that of 0. */
static void settle_zeros(rows *r)
{
    uint64_t k;
    for (k = 0; k < r->n_cols; k++)
        if (r->scales[k / r->group] == 0) r->codes[k] = 1;
}

/* The scales of a row, wherever weights are not 0. */
static void compare_scales(const comparison *c, const rows *x, const rows *y, uint64_t row, findings *f)
{
    const uint64_t step = x->group < y->group ? x->group : y->group;
    uint64_t k, i;
    for (k = 0; k < x->n_cols; k += step) {
        const double a = (double)x->scales[k / x->group], b = (double)y->scales[k / y->group];
        const double size = fabs(a) > fabs(b) ? fabs(a) : fabs(b), apart = fabs(a - b) / size;
        int zeros = 1;
        if (same_number(c, a, b)) continue;
        for (i = k; i < k + step && zeros; i++) zeros = x->codes[i] == 1 && y->codes[i] == 1;
        if (zeros) continue;
        if (f->n_scales++ == 0) f->scale_row = row, f->scale_col = k, f->scale[0] = a, f->scale[1] = b;
        if (!(apart <= f->worst)) f->worst = apart == apart ? apart : (double)INFINITY;
    }
}

static void compare_ternary(comparison *c, pair *p, findings *f)
{
    rows *x = &p->r[0], *y = &p->r[1];
    uint64_t row, k;
    for (row = 0; row < x->n_rows; row++) {
        read_row(c, p, 0, row, 0);
        read_row(c, p, 1, row, 0);
        settle_zeros(x);
        settle_zeros(y);
        compare_scales(c, x, y, row, f);
        if (memcmp(x->codes, y->codes, (size_t)x->n_cols) == 0) continue;
        for (k = 0; k < x->n_cols; k++)
            if (x->codes[k] != y->codes[k] && f->n_codes++ == 0)
                f->row = row, f->col = k, f->code[0] = x->codes[k] - 1, f->code[1] = y->codes[k] - 1;
    }
}

static void compare_values(comparison *c, pair *p, findings *f)
{
    uint64_t row, k;
    for (row = 0; row < p->r[0].n_rows; row++) {
        read_row(c, p, 0, row, 1);
        read_row(c, p, 1, row, 1);
        for (k = 0; k < p->r[0].n_cols; k++) {
            const double a = (double)p->r[0].values[k], b = (double)p->r[1].values[k];
            if (same_number(c, a, b)) continue;
            if (f->n_values++ == 0) f->row = row, f->col = k, f->value[0] = a, f->value[1] = b;
            if (fabs(a - b) > f->worst) f->worst = fabs(a - b);
        }
    }
}

/* Stored in the same way, as far as the files and the command line say. */
static int same_storage(const comparison *c, const pair *p)
{
    const bni_tensor *x = p->t[0], *y = p->t[1];
    const char *tiles = c->a->desc.tl_tiles ? c->a->desc.tl_tiles : "";
    const char *others = c->b->desc.tl_tiles ? c->b->desc.tl_tiles : "";
    if (x->type != y->type || x->form != y->form || tensor_bytes(x) != tensor_bytes(y)) return 0;
    if (x->form == BNI_FORM_I2S_A) return bni_i2s_layout(&c->a->desc) == bni_i2s_layout(&c->b->desc);
    return (x->form != BNI_FORM_TL1 && x->form != BNI_FORM_TL2) || strcmp(tiles, others) == 0;
}

/* 1 if both hold the same bytes: then there is nothing to look for. */
static int same_bytes(const comparison *c, const pair *p)
{
    const bni_source *sources[2];
    const uint64_t size = tensor_bytes(p->t[0]);
    uint8_t *scratch = (uint8_t *)malloc(2 * ROWS_PIECE);
    uint64_t at, n;
    int i, same = 1;
    if (!scratch) diff_fail("out of memory");
    sources[0] = &c->a->model.source;
    sources[1] = &c->b->model.source;
    for (at = 0; at < size && same; at += n) {
        const uint8_t *bytes[2];
        n = size - at < ROWS_PIECE ? size - at : ROWS_PIECE;
        for (i = 0; i < 2; i++) {
            bytes[i] = bni_source_bytes(sources[i], p->t[i]->offset + at, n, scratch + (unsigned)i * ROWS_PIECE);
            if (!bytes[i]) diff_fail("tensor %.*s can't be read", (int)p->t[0]->name.size, p->t[0]->name.data);
        }
        same = memcmp(bytes[0], bytes[1], (size_t)n) == 0;
        for (i = 0; i < 2; i++)
            if (sources[i]->mapped) bni_map_release(bytes[i], n);
    }
    free(scratch);
    return same;
}

static void tell_ternary(comparison *c, const pair *p, const findings *f)
{
    int told = 0;
    c->n_ternary++;
    c->n_codes += f->n_codes > 0;
    c->n_scales += f->n_scales > 0;
    if (f->n_codes && diff_tell(c, &told)) {
        print_pair(p);
        printf("%.0f of %.0f codes differ, first in row %.0f, column %.0f: %d and %d\n", (double)f->n_codes,
               (double)bni_tensor_count(p->t[0]), (double)f->row, (double)f->col, f->code[0], f->code[1]);
    }
    if (f->n_scales && diff_tell(c, &told)) {
        print_pair(p);
        printf("scales differ, first in row %.0f, column %.0f: %.9g and %.9g; by at most %.3g %%%s\n",
               (double)f->scale_row, (double)f->scale_col, f->scale[0], f->scale[1], 100 * f->worst,
               f->n_codes ? "" : "; the codes are equal");
    }
}

static void tell_values(comparison *c, const pair *p, const findings *f)
{
    int told = 0;
    c->n_other++;
    c->n_values += f->n_values > 0;
    if (!f->n_values || !diff_tell(c, &told)) return;
    print_pair(p);
    if (p->open[0] && p->open[1])
        printf("%.0f of %.0f values differ, first in row %.0f, column %.0f: %.9g and %.9g; by at most %.3g\n",
               (double)f->n_values, (double)bni_tensor_count(p->t[0]), (double)f->row, (double)f->col, f->value[0],
               f->value[1], f->worst);
    else printf("the bytes differ\n");
}

/* Two tensors of one shape. */
static void compare_contents(comparison *c, pair *p)
{
    const int alike = same_storage(c, p), equal = alike && same_bytes(c, p);
    findings f;
    int i;
    memset(&f, 0, sizeof f);
    for (i = 0; i < 2; i++)
        p->open[i] = rows_open(&p->r[i], i ? &c->b->model : &c->a->model, p->t[i], i ? &c->b->desc : &c->a->desc,
                               &p->why[i]);
    if (p->open[0] && p->open[1] && p->r[0].kind == ROWS_TERNARY && p->r[1].kind == ROWS_TERNARY) {
        if (!equal) compare_ternary(c, p, &f);
        tell_ternary(c, p, &f);
    } else if ((p->open[0] && p->open[1]) || alike) {
        if (!equal && p->open[0] && p->open[1]) compare_values(c, p, &f);
        else f.n_values = !equal;
        tell_values(c, p, &f);
    } else if (diff_tell(c, &c->n_unknown)) {
        print_pair(p);
        printf("can't be compared: %s\n", p->why[p->open[0]].text);
    }
    for (i = 0; i < 2; i++)
        if (p->open[i]) rows_close(&p->r[i]);
}

static void compare_pair(comparison *c, const bni_tensor *x, const bni_tensor *y)
{
    char shape[2][96];
    pair p;
    memset(&p, 0, sizeof p);
    p.t[0] = x;
    p.t[1] = y;
    if (memcmp(x->ne, y->ne, sizeof x->ne) == 0) {
        compare_contents(c, &p);
    } else if (diff_tell(c, &c->n_missing)) {
        print_pair(&p);
        printf("%s and %s weights\n", shape_text(x, shape[0]), shape_text(y, shape[1]));
    }
}

/* The tensor of g that is called like t, NULL: there is none. */
static const bni_tensor *namesake(const bni_gguf *g, const bni_tensor *t)
{
    char name[BNI_MAX_NAME];
    if (t->name.size >= sizeof name) return NULL;
    memcpy(name, t->name.data, t->name.size);
    name[t->name.size] = 0;
    return bni_gguf_tensor(g, name);
}

/* Tensors that are in the first file only. which: its letter. */
static void tell_missing(comparison *c, const bni_gguf *here, const bni_gguf *there, char which)
{
    uint64_t i;
    for (i = 0; i < here->n_tensors; i++) {
        const bni_tensor *t = &here->tensors[i];
        if (namesake(there, t) || !diff_tell(c, &c->n_missing)) continue;
        show_text(stdout, t->name.data, t->name.size, 0);
        printf(" (%s): only in %c\n", bni_tensor_type_name(t->type, t->form), which);
    }
}

static void compare_tensors(comparison *c)
{
    const bni_gguf *x = &c->a->model.gguf, *y = &c->b->model.gguf;
    cli_progress progress = {0};
    uint64_t i, done = 0;
    progress.label = "comparing";
    tell_missing(c, x, y, 'A');
    tell_missing(c, y, x, 'B');
    for (i = 0; i < x->n_tensors; i++) {
        const bni_tensor *other = namesake(y, &x->tensors[i]);
        if (other) compare_pair(c, &x->tensors[i], other);
        done += tensor_bytes(&x->tensors[i]);
        cli_show_progress(&progress, done, x->file_size);
    }
    cli_end_progress(&progress);
}

/* ------------------------------------------------------------------------------------------------ settings */

static void compare_setting(comparison *c, int *n, const char *name, double a, double b)
{
    if (a != b && diff_tell(c, n)) printf("%s: %.9g and %.9g\n", name, a, b);
}

static void compare_text(comparison *c, int *n, const char *name, const char *a, const char *b)
{
    if (strcmp(a, b) == 0 || !diff_tell(c, n)) return;
    printf("%s: ", name);
    print_string(bni_str_of(a), TEXT_SHOWN);
    printf(" and ");
    print_string(bni_str_of(b), TEXT_SHOWN);
    printf("\n");
}

/* 1 if both values mean the same: numbers of any width, texts, arrays byte for byte. */
static int same_value(const bni_kv *x, const bni_kv *y)
{
    int64_t i = 0, j = 0;
    double v = 0, w = 0;
    const int kind = bni_kv_number(x->value, x->type, &i, &v), other = bni_kv_number(y->value, y->type, &j, &w);
    if (kind == 1 && other == 1) return i == j;
    if (kind && other) return (float)(kind == 1 ? (double)i : v) == (float)(other == 1 ? (double)j : w);
    return x->type == y->type && x->elem == y->elem && x->size == y->size &&
           (x->size == 0 || memcmp(x->value, y->value, (size_t)x->size) == 0);
}

/* Does a key decide what comes out? Vocabulary and template are compared elsewhere. */
static int key_counts(const bni_kv *kv, bni_str arch)
{
    static const char tokenizer[] = "tokenizer.";
    const size_t n = sizeof tokenizer - 1;
    if (bni_str_equal(kv->key, "tokenizer.chat_template")) return 0;
    if (kv->key.size > n && memcmp(kv->key.data, tokenizer, n) == 0) return kv->type != BNI_KV_ARRAY;
    return kv->key.size > arch.size && memcmp(kv->key.data, arch.data, arch.size) == 0 &&
           kv->key.data[arch.size] == '.';
}

/* bni_gguf_find for a key that need not end in 0. */
static const bni_kv *find_key(const bni_gguf *g, bni_str key)
{
    uint64_t i;
    for (i = 0; i < g->n_kv; i++)
        if (g->kv[i].key.size == key.size && memcmp(g->kv[i].key.data, key.data, key.size) == 0) return &g->kv[i];
    return NULL;
}

/* All keys of the first file that count; both: also those that the other one has. */
static void compare_keys(comparison *c, const subject *here, const subject *there, char which, int both)
{
    const bni_str arch = bni_str_of(here->info.architecture);
    uint64_t i;
    for (i = 0; i < here->model.gguf.n_kv; i++) {
        const bni_kv *kv = &here->model.gguf.kv[i], *other = find_key(&there->model.gguf, kv->key);
        if (!key_counts(kv, arch) || (other && (!both || same_value(kv, other)))) continue;
        if (!diff_tell(c, &c->n_settings)) continue;
        show_text(stdout, kv->key.data, kv->key.size, 0);
        if (other) printf(": differs\n");
        else printf(": only in %c\n", which);
    }
}

static void compare_settings(comparison *c)
{
    static const char *const acts[] = {"relu2", "silu", "gelu"};
    const bni_hparams *x = &c->a->model.hp, *y = &c->b->model.hp;
    int *n = &c->n_settings;
    compare_text(c, n, "general.architecture", c->a->info.architecture, c->b->info.architecture);
    if (!c->a->prepared || !c->b->prepared) {
        compare_keys(c, c->a, c->b, 'A', 1);
        compare_keys(c, c->b, c->a, 'B', 0);
        return;
    }
    if (c->a->vocab_only || c->b->vocab_only) return;
    compare_setting(c, n, "block_count", x->n_layer, y->n_layer);
    compare_setting(c, n, "embedding_length", x->n_embd, y->n_embd);
    compare_setting(c, n, "feed_forward_length", x->n_ff, y->n_ff);
    compare_setting(c, n, "attention.head_count", x->n_head, y->n_head);
    compare_setting(c, n, "attention.head_count_kv", x->n_head_kv, y->n_head_kv);
    compare_setting(c, n, "attention.key_length", x->head_dim, y->head_dim);
    compare_setting(c, n, "context_length", x->n_ctx_train, y->n_ctx_train);
    compare_setting(c, n, "rope.dimension_count", x->n_rot, y->n_rot);
    compare_setting(c, n, "rope.freq_base", (double)(float)x->theta, (double)(float)y->theta);
    compare_setting(c, n, "rope.scaling.factor", (double)(float)x->rope_factor, (double)(float)y->rope_factor);
    compare_setting(c, n, "attention.layer_norm_rms_epsilon", (double)x->eps, (double)y->eps);
    compare_setting(c, n, "pooling_type", x->pooling, y->pooling);
    compare_text(c, n, "hidden_activation", acts[x->act], acts[y->act]);
}

/* ------------------------------------------------------------------------------------------- the tokenizer */

/* Arrays of strings: how many differ, and the first. */
static void compare_strings(comparison *c, const char *key)
{
    const bni_kv *x = bni_gguf_find(&c->a->model.gguf, key), *y = bni_gguf_find(&c->b->model.gguf, key);
    bni_strings all[2];
    bni_str s[2], first[2] = {{"", 0}, {"", 0}};
    uint64_t i, at = 0, n = 0;
    const uint64_t n_a = bni_kv_count(x), n_b = bni_kv_count(y);
    all[0] = bni_kv_strings(x);
    all[1] = bni_kv_strings(y);
    for (i = 0; bni_strings_next(&all[0], &s[0]) && bni_strings_next(&all[1], &s[1]); i++) {
        if (s[0].size == s[1].size && (s[0].size == 0 || memcmp(s[0].data, s[1].data, s[0].size) == 0)) continue;
        if (n++ == 0) at = i, first[0] = s[0], first[1] = s[1];
    }
    if ((n == 0 && n_a == n_b) || !diff_tell(c, &c->n_tokenizer)) return;
    printf("%s: ", key);
    if (n_a != n_b) printf("%.0f and %.0f%s", (double)n_a, (double)n_b, n ? "; " : "\n");
    if (n == 0) return;
    printf("%.0f of %.0f differ, first number %.0f: ", (double)n, (double)(n_a < n_b ? n_a : n_b), (double)at);
    print_string(first[0], 40);
    printf(" and ");
    print_string(first[1], 40);
    printf("\n");
}

/* What the library makes of a token's type; where it doesn't know both files, what the file says. */
static int token_kind(const comparison *c, const subject *s, const bni_kv *types, uint64_t id, bni_str text)
{
    if (c->a->prepared && c->b->prepared) return bni_token_kind(&s->model.tokenizer, types, (int32_t)id, text);
    return types ? (int)bni_kv_int_at(types, id) : 0;
}

static void compare_token_types(comparison *c)
{
    static const char key[] = "tokenizer.ggml.token_type", names[] = "tokenizer.ggml.tokens";
    const bni_kv *x = bni_gguf_find(&c->a->model.gguf, key), *y = bni_gguf_find(&c->b->model.gguf, key);
    bni_strings a = bni_kv_strings(bni_gguf_find(&c->a->model.gguf, names));
    bni_strings b = bni_kv_strings(bni_gguf_find(&c->b->model.gguf, names));
    bni_str s, t;
    uint64_t id, n = 0, first = 0;
    for (id = 0; bni_strings_next(&a, &s) && bni_strings_next(&b, &t); id++)
        if (token_kind(c, c->a, x, id, s) != token_kind(c, c->b, y, id, t) && n++ == 0) first = id;
    if (n && diff_tell(c, &c->n_tokenizer))
        printf("%s: %.0f differ, first that of token %.0f: %d and %d\n", key, (double)n, (double)first,
               (int)bni_kv_int_at(x, first), (int)bni_kv_int_at(y, first));
}

/* Only SPM looks at them. */
static void compare_scores(comparison *c)
{
    static const char key[] = "tokenizer.ggml.scores";
    const bni_kv *x = bni_gguf_find(&c->a->model.gguf, key), *y = bni_gguf_find(&c->b->model.gguf, key);
    const uint64_t count = bni_kv_count(x) > bni_kv_count(y) ? bni_kv_count(x) : bni_kv_count(y);
    uint64_t i, n = 0, first = 0;
    for (i = 0; i < count; i++)
        if (bni_kv_float_at(x, i) != bni_kv_float_at(y, i) && n++ == 0) first = i;
    if (n && diff_tell(c, &c->n_tokenizer))
        printf("%s: %.0f differ, first number %.0f: %.9g and %.9g\n", key, (double)n, (double)first,
               (double)bni_kv_float_at(x, first), (double)bni_kv_float_at(y, first));
}

/* Templates that the library takes for the same one are the same; of those it doesn't know, the text counts. */
static void compare_templates(comparison *c)
{
    bni_str a = {"", 0}, b = {"", 0};
    const char *name = c->a->prepared && c->b->prepared ? c->a->info.chat_template : "";
    bni_kv_string(bni_gguf_find(&c->a->model.gguf, "tokenizer.chat_template"), &a);
    bni_kv_string(bni_gguf_find(&c->b->model.gguf, "tokenizer.chat_template"), &b);
    if (c->a->prepared && c->b->prepared && strcmp(name, c->b->info.chat_template) != 0) {
        compare_text(c, &c->n_tokenizer, "chat template", name, c->b->info.chat_template);
    } else if (a.size != b.size || (a.size && memcmp(a.data, b.data, a.size) != 0)) {
        if (name[0]) printf("tokenizer.chat_template: the texts differ, both mean %s\n", name);
        else if (diff_tell(c, &c->n_tokenizer)) printf("tokenizer.chat_template: the texts differ\n");
    }
}

static void compare_tokenizers(comparison *c)
{
    const bni_tokenizer *x = &c->a->model.tokenizer, *y = &c->b->model.tokenizer;
    int *n = &c->n_tokenizer;
    compare_text(c, n, "tokenizer.ggml.model", c->a->info.tokenizer, c->b->info.tokenizer);
    compare_strings(c, "tokenizer.ggml.tokens");
    if (strcmp(c->a->info.tokenizer, "llama") == 0) compare_scores(c);
    else compare_strings(c, "tokenizer.ggml.merges");
    compare_token_types(c);
    compare_templates(c);
    if (!c->a->prepared || !c->b->prepared) return;      /* compare_keys has been there */
    compare_text(c, n, "tokenizer.ggml.pre", c->a->info.pre_tokenizer, c->b->info.pre_tokenizer);
    compare_setting(c, n, "tokenizer.ggml.bos_token_id", x->bos, y->bos);
    compare_setting(c, n, "tokenizer.ggml.eos_token_id", x->eos, y->eos);
    compare_setting(c, n, "tokenizer.ggml.eot_token_id", x->eot, y->eot);
    compare_setting(c, n, "tokenizer.ggml.eom_token_id", x->eom, y->eom);
    compare_setting(c, n, "tokenizer.ggml.unknown_token_id", x->unknown, y->unknown);
    compare_setting(c, n, "tokenizer.ggml.add_bos_token", x->add_bos, y->add_bos);
    compare_setting(c, n, "tokenizer.ggml.add_eos_token", x->add_eos, y->add_eos);
    compare_setting(c, n, "tokenizer.ggml.add_space_prefix", x->add_space_prefix, y->add_space_prefix);
}

/* ----------------------------------------------------------------------------------------------- the whole */

static void print_subject(const char *name, const subject *s)
{
    char size[24], count[24];
    label(name);
    printf("%s: %s, %s weights, %s\n", s->path, s->info.architecture[0] ? s->info.architecture : "(no architecture)",
           cli_count(count, s->info.n_parameters), cli_size(size, s->model.gguf.file_size));
}

/* "equal in all 14 ternary tensors", "differ in 2 of 14 ternary tensors" */
static void print_share(const char *name, uint64_t n, uint64_t all, const char *of)
{
    label(name);
    if (n) printf("differ in %.0f of %.0f %s\n", (double)n, (double)all, of);
    else if (all) printf("equal in all %.0f %s\n", (double)all, of);
    else printf("there are no %s\n", of);
}

static void print_count(const char *name, int n)
{
    label(name);
    if (n) printf("%d %s\n", n, n == 1 ? "difference" : "differences");
    else printf("the same\n");
}

/* Returns DIFF_.... */
static int diff_models(const subject *a, const subject *b, double tolerance)
{
    comparison c;
    int result;
    memset(&c, 0, sizeof c);
    c.a = a;
    c.b = b;
    c.tolerance = tolerance;
    print_subject("A", a);
    print_subject("B", b);
    printf("\n");
    compare_settings(&c);
    compare_tokenizers(&c);
    compare_tensors(&c);
    if (c.n_found > DIFF_SHOWN) printf("and %d more\n", c.n_found - DIFF_SHOWN);
    if (c.n_found) printf("\n");
    result = c.n_found > c.n_unknown ? DIFF_DIFFERENT : c.n_unknown ? DIFF_TROUBLE : DIFF_SAME;
    print_count("settings", c.n_settings);
    print_count("tokenizer", c.n_tokenizer);
    print_share("codes", c.n_codes, c.n_ternary, "ternary tensors");
    print_share("scales", c.n_scales, c.n_ternary, "ternary tensors");
    print_share("values", c.n_values, c.n_other, "other tensors");
    if (c.n_missing) {
        label("tensors");
        printf("%d are in one file only, or of another shape\n", c.n_missing);
    }
    if (c.n_unknown) {
        label("not known");
        printf("%d tensors can't be compared\n", c.n_unknown);
    }
    label("result");
    printf(result == DIFF_SAME ? "the same model\n" : result == DIFF_DIFFERENT ? "different models\n"
                                                                              : "not all could be compared\n");
    return result;
}
