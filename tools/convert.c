/* convert: a Hugging Face folder of a BitNet b1.58 model to the GGUF file that bitnet.h runs.

       cc -O2 -I. tools/convert.c -o convert -lpthread -lm
       ./convert bitnet-b1.58-2B-4T-bf16 -o model.gguf
       ./convert Falcon3-1B-Instruct-1.58bit -o model.gguf --outtype tq2_0 --token-embedding-type q6_k
       ./convert Llama3-8B-1.58-100B-tokens -o vocabulary.gguf --vocab-only

   Such a folder holds config.json (dimensions), tokenizer.json or tokenizer.model (vocabulary) and *.safetensors (weights).
   The matrices of its layers come in one of two ways:

       master   floats as they were trained. The model rounds them to -1, 0, +1 times one scale whenever it runs, and here
                that is done once and for all:  m = mean |w| over the matrix, at least 1e-5;  s = 1 / m;
                code = round(w s), halves to even, within -1 .. +1;  scale = 1 / s
       packed   the codes, four in a byte: bits 2i of byte [r, c] are row r + i rows/4, plus one, in column c; and a number
                weight_scale, by which models of "autobitlinear" multiply and those of "bitlinear" divide

   Families, told by their tensors and by hidden_act:

       bitnet-b1.58   norms inside the layers' halves, squared ReLU       microsoft/bitnet-b1.58-2B-4T
       bitnet         the same with SiLU                                  1bitLLM/bitnet_b1_58-large, -3B
       llama          neither                                             Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E

   What upstream's own converters get wrong is done right: the pre-tokenizer's name and a chat template are always written,
   types are what was asked for, a shape that a type cannot hold is refused. A model whose weights are floats that nobody
   trained to be rounded is refused, too: the result would only talk nonsense.

   Memory: one matrix as bytes (59 MB for the largest of an 8B model) and the vocabulary; embeddings go through in rows.
   The result appears under its name when it is complete, never half.

   Exit 0: done; 1: it could not be done, and no file was written; 2: wrong usage.

   Reading order: "settings", "the plan", "weights", "keys", "main". */

#define _FILE_OFFSET_BITS 64             /* before any system header */

#include "tools/cli.h"
#include "tools/storage.h"
#include "tools/safetensors.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/vocab.h"

#include <float.h>

#if FLT_EVAL_METHOD != 0
#error "rounding here needs float arithmetic in float: on 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif

#define CHUNK ((size_t)1 << 20)          /* values that are read at a time */
#define MAX_SIDE_FILE ((size_t)256 << 20)    /* bytes of a JSON file or tokenizer; published ones have up to 35 MB */
#define LEAST_MEAN 1e-5f                 /* of |w|, as in the published training code */

/* ----------------------------------------------------------------------------------------------- settings */

typedef struct options {
    const char *folder, *out, *type, *embd, *head, *pre, *chat, *name;
    int vocab_only, force, ternarize;
} options;

/* A JSON file beside the weights; doc has no root where the file is missing. */
typedef struct side_file {
    char *text;
    json_doc doc;
} side_file;

typedef struct family {
    const char *arch, *act;
    int sub_norms;
    int permute;                         /* rows of q and k: HF pairs (i, i + d/2) for rope, this architecture (2i, 2i + 1) */
} family;

static const family families[] = {
    {"bitnet-b1.58", "relu2", 1, 0}, {"bitnet", "silu", 1, 0}, {"llama", "silu", 0, 1}};

/* From config.json; all checked. */
typedef struct network {
    const family *family;
    int n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_ctx, n_vocab;
    double eps, theta;
    const json_node *scaling;            /* rope_scaling, NULL: none */
    int tied;
    int is_bitnet;                       /* config.json says that the weights are meant to be rounded */
    int divide;                          /* weight_scale divides */
} network;

typedef enum fill { FILL_VALUES, FILL_TERNARY, FILL_FREQS } fill;

/* A tensor of the result. */
typedef struct item {
    char name[64];
    fill what;
    const storage *type;
    st_tensor *source, *scale;           /* scale: of packed codes, else NULL */
    uint64_t rows, cols;                 /* rows 0: a vector */
    int heads;                           /* rows to permute in that many heads, 0: none */
} item;

typedef struct conversion {
    options o;
    side_file config, tokenizer_config, added_tokens;
    char *vocab_bytes, *template_file;
    vocabulary vocab;
    st_set weights;
    network net;
    item *items;
    int n_items, n_ternary, n_packed;
    gguf_writer w;
    cli_progress bar;
    uint64_t done, total;                /* bytes of the result */
    unsigned char *raw;                  /* [4 * room] as read */
    float *values;                       /* [room] the same as numbers */
    size_t room;
} conversion;

/* Whatever ends the program, no half-written file stays behind. */
static gguf_writer *unfinished;
static void remove_unfinished(void)
{
    if (unfinished) gguf_cancel(unfinished);
}

/* The end of a conversion that cannot be. */
static void stop(conversion *c, const char *format, ...) CLI_PRINTF(2, 3) CLI_NORETURN;
static void stop(conversion *c, const char *format, ...)
{
    va_list args;
    cli_end_progress(&c->bar);
    va_start(args, format);
    cli_vmessage(format, args);
    va_end(args);
    exit(CLI_EXIT_FAILED);
}

/* A whole file of the folder with a NUL behind it; NULL where it is missing and need not be there. */
static char *load(const options *o, const char *name, int needed, size_t *size)
{
    char *path = st_path(o->folder, name), *text;
    if (!path) cli_fail("out of memory");
    errno = 0;
    text = st_load(path, MAX_SIDE_FILE, size);
    if (!text && (needed || errno != ENOENT)) cli_fail("cannot read %s: %s", path, strerror(errno));
    free(path);
    return text;
}

static void load_json(const options *o, const char *name, int needed, side_file *f)
{
    size_t size = 0;
    memset(f, 0, sizeof *f);
    f->text = load(o, name, needed, &size);
    if (f->text && !json_parse(&f->doc, f->text, size))
        cli_fail("%s: %s (byte %.0f)", name, f->doc.error, (double)f->doc.error_at);
}

/* The member of config.json, NULL where it is missing or null. */
static const json_node *setting(const conversion *c, const char *name)
{
    const json_node *node = json_get(&c->config.doc, json_root(&c->config.doc), name);
    return json_is(node, JSON_NULL) ? NULL : node;
}

/* A whole number of config.json from 1 to max; missing 0: it must be there. */
static int dimension(const conversion *c, const char *name, int max, int missing)
{
    const json_node *node = setting(c, name);
    int64_t v = missing;
    if (!node && missing == 0) cli_fail("config.json: %s is missing", name);
    if (node && !json_int(&c->config.doc, node, &v)) v = 0;
    if (v < 1 || v > max) cli_fail("config.json: %s is not a whole number from 1 to %d", name, max);
    return (int)v;
}

/* A number of an object in config.json. */
static double real_of(const conversion *c, const json_node *object, const char *name, double min, double max, double missing)
{
    const json_node *node = json_get(&c->config.doc, object, name);
    double v = missing;
    if (node && !json_is(node, JSON_NULL) && !json_real(&c->config.doc, node, &v)) v = max + max;
    if (!(v >= min && v <= max)) cli_fail("config.json: %s is not a number from %g to %g", name, min, max);
    return v;
}

/* The text of a member, or missing. */
static const char *text_of(const conversion *c, const char *name, const char *missing)
{
    const char *text = json_text(&c->config.doc, setting(c, name));
    return text ? text : missing;
}

/* Is this a model of the families here at all? Other architectures have other graphs. */
static int is_bitnet_name(const char *model_type) { return strncmp(model_type, "bitnet", 6) == 0; }

static void check_model_type(const conversion *c)
{
    const char *type = text_of(c, "model_type", "missing");
    if (!is_bitnet_name(type) && strcmp(type, "llama") != 0)
        cli_fail("config.json: model_type is %.60s; bitnet and llama can be converted", type);
}

/* How the weights are stored, and whether they are a BitNet's. */
static void read_quantization(conversion *c)
{
    const json_doc *d = &c->config.doc;
    const json_node *q = setting(c, "quantization_config");
    const char *architecture = json_text(d, json_first(d, setting(c, "architectures")));
    const json_node *linear = json_get(d, q, "linear_class");
    int64_t bits = 0;
    if (q && !json_equal(d, json_get(d, q, "quant_method"), "bitnet"))
        cli_fail("config.json: quantization_config is not of quant_method bitnet");
    if (json_truth(json_get(d, q, "use_rms_norm"), 0))
        cli_fail("config.json: norms inside of every product (use_rms_norm) are not supported");
    c->net.is_bitnet = q != NULL || is_bitnet_name(text_of(c, "model_type", "")) ||
                       (json_int(d, setting(c, "weight_bits"), &bits) && bits == 1) ||
                       (architecture && (strncmp(architecture, "Bitnet", 6) == 0 || strncmp(architecture, "BitNet", 6) == 0));
    if (linear && !json_equal(d, linear, "autobitlinear") && !json_equal(d, linear, "bitlinear"))
        cli_fail("config.json: linear_class is %.40s, not autobitlinear or bitlinear", json_text(d, linear) ? json_text(d, linear) : "no text");
    c->net.divide = linear ? json_equal(d, linear, "bitlinear") : !c->net.family->sub_norms;
}

/* Rope: base and scaling, in rope_parameters (newer) or rope_theta and rope_scaling. */
static void read_rope(conversion *c)
{
    const json_doc *d = &c->config.doc;
    const json_node *p = setting(c, "rope_parameters"), *type;
    c->net.scaling = p ? p : setting(c, "rope_scaling");
    c->net.theta = real_of(c, json_get(d, p, "rope_theta") ? p : json_root(d), "rope_theta", 1, 1e12, 10000);
    if (real_of(c, json_root(d), "partial_rotary_factor", 0, 1, 1) < 1) cli_fail("config.json: partial_rotary_factor is not supported");
    type = json_get(d, c->net.scaling, "rope_type");
    if (!type) type = json_get(d, c->net.scaling, "type");
    if (!type || json_equal(d, type, "default")) c->net.scaling = NULL;
    else if (!json_equal(d, type, "linear") && !json_equal(d, type, "llama3"))
        cli_fail("config.json: rope scaling of type %.40s is not supported", json_text(d, type) ? json_text(d, type) : "no text");
}

/* Which row of the table: by the norms that are there and the activation. weights may be empty (--vocab-only). */
static const family *find_family(conversion *c)
{
    const int named = is_bitnet_name(text_of(c, "model_type", ""));
    const char *act = text_of(c, "hidden_act", named ? "relu2" : "silu");
    const int sub = c->weights.n_tensors ? st_find(&c->weights, "model.layers.0.self_attn.attn_sub_norm.weight") ||
                                           st_find(&c->weights, "model.layers.0.self_attn.inner_attn_ln.weight") : named;
    int i;
    if (strcmp(act, "swish") == 0) act = "silu";
    for (i = 0; i < CLI_COUNT(families); i++)
        if (families[i].sub_norms == sub && strcmp(families[i].act, act) == 0) return &families[i];
    cli_fail("config.json: hidden_act %.40s %s norms inside of the layers is no family that is known", act, sub ? "with" : "without");
}

static void read_config(conversion *c)
{
    network *n = &c->net;
    const json_node *tied = setting(c, "tie_word_embeddings");
    check_model_type(c);
    n->family = find_family(c);
    read_quantization(c);
    n->n_layer = dimension(c, "num_hidden_layers", BNI_MAX_LAYERS, 0);
    n->n_embd = dimension(c, "hidden_size", BNI_MAX_WIDTH, 0);
    n->n_ff = dimension(c, "intermediate_size", BNI_MAX_WIDTH, 0);
    n->n_head = dimension(c, "num_attention_heads", BNI_MAX_HEADS, 0);
    n->n_head_kv = dimension(c, "num_key_value_heads", BNI_MAX_HEADS, n->n_head);
    n->head_dim = dimension(c, "head_dim", BNI_MAX_HEAD_DIM, n->n_embd / n->n_head > 0 ? n->n_embd / n->n_head : 1);
    n->n_ctx = dimension(c, "max_position_embeddings", BNI_MAX_CTX, 0);
    n->n_vocab = dimension(c, "vocab_size", BNI_MAX_VOCAB, 0);
    n->eps = real_of(c, json_root(&c->config.doc), "rms_norm_eps", 0, 0.5, 1e-5);
    if (n->n_head % n->n_head_kv != 0) cli_fail("config.json: num_attention_heads is no multiple of num_key_value_heads");
    if (n->head_dim % 2 != 0) cli_fail("config.json: heads of %d columns, not an even number", n->head_dim);
    read_rope(c);
    n->tied = json_truth(tied, !st_find(&c->weights, "lm_head.weight"));
}

/* ----------------------------------------------------------------------------------------------- the plan
   Every tensor of the result in the order of the graph, with where it comes from. */

/* 1 if the type can hold a matrix. */
static int can_hold(const storage *type, uint64_t rows, uint64_t cols)
{
    if ((type->flat ? rows * cols : cols) % type->block != 0) return 0;
    if (type->row_group > 0 && rows % type->row_group != 0) return 0;
    return stored_size(type, rows, cols) > 0;
}

/* The source's tensor of that name and of this shape (rows 0: a vector). packed: four rows in one of bytes are right, too. */
static st_tensor *take(conversion *c, const char *name, uint64_t rows, uint64_t cols, int packed)
{
    st_tensor *t = st_find(&c->weights, name);
    uint64_t want = rows;
    if (!t) cli_fail("the weights lack tensor %s", name);
    if (packed && t->dtype == ST_U8) {
        if (rows % 4 != 0) cli_fail("tensor %s: %.0f rows cannot be packed by fours", name, (double)rows);
        want = rows / 4;
    }
    if (t->n_dims != (rows ? 2u : 1u) || t->shape[t->n_dims - 1] != cols || (rows && t->shape[0] != want))
        cli_fail("tensor %s: its shape is not that of config.json, %.0f x %.0f", name, (double)(rows ? want : 1), (double)cols);
    if (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16 && !(packed && t->dtype == ST_U8))
        cli_fail("tensor %s: dtype %s cannot be converted", name, st_dtypes[t->dtype].name);
    t->used = 1;
    return t;
}

static item *new_item(conversion *c, fill what, const storage *type, uint64_t rows, uint64_t cols)
{
    item *it = &c->items[c->n_items++];
    it->what = what;
    it->type = type;
    it->rows = rows;
    it->cols = cols;
    return it;
}

/* Embedding, output matrix or a norm. */
static void plan_values(conversion *c, const char *name, const char *source, const storage *type, uint64_t rows, uint64_t cols)
{
    item *it = new_item(c, FILL_VALUES, type, rows, cols);
    snprintf(it->name, sizeof it->name, "%s.weight", name);
    it->source = take(c, source, rows, cols, 0);
    if (!can_hold(type, rows ? rows : 1, cols)) cli_fail("%s cannot hold tensor %s: rows of %.0f values", type->name, it->name, (double)cols);
}

static void plan_norm(conversion *c, int layer, const char *name, const char *source, const char *other, int size)
{
    char full[64], from[128];
    snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    snprintf(from, sizeof from, "model.layers.%d.%s.weight", layer, source);
    if (other && !st_find(&c->weights, from)) snprintf(from, sizeof from, "model.layers.%d.%s.weight", layer, other);
    plan_values(c, full, from, find_storage("f32"), 0, (uint64_t)size);
}

/* A ternary matrix. Either all of them are packed or none: a layer that was left as it is would not be ternary. */
static void plan_linear(conversion *c, int layer, const char *name, const char *source, int rows, int cols, int heads)
{
    item *it = new_item(c, FILL_TERNARY, find_storage(c->o.type), (uint64_t)rows, (uint64_t)cols);
    char from[128];
    snprintf(it->name, sizeof it->name, "blk.%d.%s.weight", layer, name);
    snprintf(from, sizeof from, "model.layers.%d.%s.weight", layer, source);
    it->source = take(c, from, it->rows, it->cols, 1);
    it->heads = c->net.family->permute ? heads : 0;
    snprintf(from, sizeof from, "model.layers.%d.%s.weight_scale", layer, source);
    it->scale = st_find(&c->weights, from);
    if (it->scale) it->scale->used = 1;
    if (it->source->dtype == ST_U8 && !it->scale) cli_fail("the weights lack tensor %s", from);
    if (it->source->dtype != ST_U8 && it->scale) cli_fail("tensor %s belongs to weights that are not packed", from);
    c->n_ternary++;
    c->n_packed += it->source->dtype == ST_U8;
    if (c->n_packed && c->n_packed != c->n_ternary) cli_fail("tensor %s: some matrices are packed, some are not", it->source->name);
    if (!can_hold(it->type, it->rows, it->cols))
        cli_fail("%s cannot hold tensor %s, %d rows of %d weights%s", it->type->name, it->name, rows, cols,
                 it->type->size ? ": bitnet.cpp has no tiles for this shape" : "");
}

static void plan_layer(conversion *c, int i)
{
    const network *n = &c->net;
    const int q = n->n_head * n->head_dim, kv = n->n_head_kv * n->head_dim;
    plan_norm(c, i, "attn_norm", "input_layernorm", NULL, n->n_embd);
    plan_linear(c, i, "attn_q", "self_attn.q_proj", q, n->n_embd, n->n_head);
    plan_linear(c, i, "attn_k", "self_attn.k_proj", kv, n->n_embd, n->n_head_kv);
    plan_linear(c, i, "attn_v", "self_attn.v_proj", kv, n->n_embd, 0);
    if (n->family->sub_norms) plan_norm(c, i, "attn_sub_norm", "self_attn.attn_sub_norm", "self_attn.inner_attn_ln", q);
    plan_linear(c, i, "attn_output", "self_attn.o_proj", n->n_embd, q, 0);
    plan_norm(c, i, "ffn_norm", "post_attention_layernorm", NULL, n->n_embd);
    plan_linear(c, i, "ffn_gate", "mlp.gate_proj", n->n_ff, n->n_embd, 0);
    plan_linear(c, i, "ffn_up", "mlp.up_proj", n->n_ff, n->n_embd, 0);
    if (n->family->sub_norms) plan_norm(c, i, "ffn_sub_norm", "mlp.ffn_sub_norm", "mlp.ffn_layernorm", n->n_ff);
    plan_linear(c, i, "ffn_down", "mlp.down_proj", n->n_embd, n->n_ff, 0);
}

/* What is left over must be something that other numbers say as well; anything else would be lost silently. */
static void check_left_over(const conversion *c)
{
    static const char inv_freq[] = ".rotary_emb.inv_freq";
    size_t i;
    for (i = 0; i < c->weights.n_tensors; i++) {
        const st_tensor *t = &c->weights.tensors[i];
        const size_t n = strlen(t->name), k = sizeof inv_freq - 1;
        if (t->used || (n > k && strcmp(t->name + n - k, inv_freq) == 0)) continue;
        if (c->net.tied && strcmp(t->name, "lm_head.weight") == 0) continue;     /* a copy of the embedding */
        cli_fail("tensor %.200s has no place in a %s model", t->name, c->net.family->arch);
    }
}

static void make_plan(conversion *c)
{
    const network *n = &c->net;
    const json_doc *d = &c->config.doc;
    int i;
    c->items = (item *)cli_alloc((size_t)(4 + 16 * n->n_layer) * sizeof *c->items);
    memset(c->items, 0, (size_t)(4 + 16 * n->n_layer) * sizeof *c->items);
    plan_values(c, "token_embd", "model.embed_tokens.weight", find_storage(c->o.embd), (uint64_t)n->n_vocab, (uint64_t)n->n_embd);
    if (n->scaling && json_equal(d, json_get(d, n->scaling, json_get(d, n->scaling, "rope_type") ? "rope_type" : "type"), "llama3"))
        snprintf(new_item(c, FILL_FREQS, find_storage("f32"), 0, (uint64_t)n->head_dim / 2)->name, sizeof c->items->name, "rope_freqs.weight");
    for (i = 0; i < n->n_layer; i++) plan_layer(c, i);
    plan_values(c, "output_norm", "model.norm.weight", find_storage("f32"), 0, (uint64_t)n->n_embd);
    if (!n->tied) plan_values(c, "output", "lm_head.weight", find_storage(c->o.head), (uint64_t)n->n_vocab, (uint64_t)n->n_embd);
    check_left_over(c);
}

static uint64_t item_bytes(const item *it) { return stored_size(it->type, it->rows ? it->rows : 1, it->cols) + it->type->tail; }

/* ------------------------------------------------------------------------------------------------ weights */

/* The next bytes of the result; also shows progress, and ends on Ctrl-C. */
static void put(conversion *c, const void *bytes, size_t n)
{
    if (!gguf_write(&c->w, bytes, n)) stop(c, "%s", c->w.error);
    c->done += n;
    if (cli_show_progress(&c->bar, c->done, c->total)) {
        cli_end_progress(&c->bar);
        exit(CLI_EXIT_INTERRUPTED);
    }
}

/* Values [first, first + n) of a tensor of floats into c->values; all must be finite. */
static void get_values(conversion *c, const st_tensor *t, uint64_t first, size_t n)
{
    const size_t bytes = st_dtypes[t->dtype].bytes;
    const unsigned char *p = c->raw;
    size_t i;
    if (!st_read(&c->weights, t, first * bytes, c->raw, n * bytes)) stop(c, "%s", c->weights.error);
    for (i = 0; i < n; i++, p += bytes) {
        const uint32_t low = (uint32_t)p[0] | (uint32_t)p[1] << 8;
        const float v = t->dtype == ST_F16 ? f16_to_f32(low) : bits_float(t->dtype == ST_BF16 ? low << 16 : low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
        if (!(fabsf(v) <= FLT_MAX)) stop(c, "tensor %s: element %.0f is not finite", t->name, (double)(first + i));
        c->values[i] = v;
    }
}

/* Rows that fit the buffers. */
static uint64_t rows_at_once(const conversion *c, const item *it, uint64_t rows, uint64_t row)
{
    const uint64_t n = c->room / it->cols;
    return rows - row < n ? rows - row : n;
}

/* What the magnitudes of a matrix tell. */
typedef struct magnitudes {
    double sum;
    float only;                          /* the magnitude of all weights but zeros, if they share one */
    int several;                         /* they do not */
} magnitudes;

static magnitudes measure(conversion *c, const item *it)
{
    magnitudes m = {0, 0, 0};
    uint64_t row;
    size_t i;
    for (row = 0; row < it->rows;) {
        const size_t rows = (size_t)rows_at_once(c, it, it->rows, row), n = rows * (size_t)it->cols;
        get_values(c, it->source, row * it->cols, n);
        for (i = 0; i < n; i++) {
            const float a = fabsf(c->values[i]);
            m.sum += (double)a;
            if (a > 0 && m.only > 0 && a != m.only) m.several = 1;
            if (a > 0) m.only = a;
        }
        row += rows;
    }
    return m;
}

/* Where a row of the source goes. Of a head's d rows, HF has those that rope turns together d/2 apart, this architecture
   side by side: row (h, j, i), j < 2, becomes (h, i, j). */
static uint64_t row_place(const item *it, uint64_t row)
{
    const uint64_t d = it->heads ? it->rows / (uint64_t)it->heads : 0, x = d ? row % d : 0;
    return d ? row - x + 2 * (x % (d / 2)) + x / (d / 2) : row;
}

/* A master's codes [rows, cols]; returns their scale. Weights that have one magnitude only are ternary already, and keep
   it: their mean would be smaller by the share of zeros. */
static float round_weights(conversion *c, const item *it, uint8_t *codes)
{
    const magnitudes m = measure(c, it);
    const float mean = (float)(m.sum / ((double)it->rows * (double)it->cols));
    const int ready = m.only > 0 && !m.several;
    const float s = ready ? 1.0f / m.only : 1.0f / (mean > LEAST_MEAN ? mean : LEAST_MEAN);
    uint64_t row, r;
    size_t k;
    if (!ready && m.sum > 0 && !c->net.is_bitnet && !c->o.ternarize)
        stop(c, "tensor %s is not ternary, and config.json does not say that the model was trained to be rounded "
             "(--ternarize rounds it all the same)", it->source->name);
    for (row = 0; row < it->rows;) {
        const uint64_t rows = rows_at_once(c, it, it->rows, row);
        get_values(c, it->source, row * it->cols, (size_t)(rows * it->cols));
        for (r = 0; r < rows; r++) {
            const float *x = c->values + r * it->cols;
            uint8_t *to = codes + row_place(it, row + r) * it->cols;
            for (k = 0; k < it->cols; k++) to[k] = (uint8_t)(1 + (ready ? (x[k] > 0) - (x[k] < 0) : round_clamp(x[k] * s, -1, 1)));
        }
        row += rows;
    }
    return ready ? m.only : 1.0f / s;
}

/* The number beside packed codes: what a code of 1 stands for. */
static float read_scale(conversion *c, const item *it)
{
    const st_tensor *t = it->scale;
    float v;
    if (t->size != st_dtypes[t->dtype].bytes || (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16))
        stop(c, "tensor %s: not one number of F32, F16 or BF16", t->name);
    get_values(c, t, 0, 1);
    v = c->net.divide ? 1.0f / c->values[0] : c->values[0];
    if (!(c->values[0] > 0 && v > 0 && v <= FLT_MAX)) stop(c, "tensor %s: %g is no scale", t->name, (double)c->values[0]);
    return v;
}

/* Codes [rows, cols] of packed weights; returns their scale. */
static float unpack_weights(conversion *c, const item *it, uint8_t *codes)
{
    const uint64_t quarter = it->rows / 4;
    uint64_t row, r, i;
    size_t k;
    for (row = 0; row < quarter;) {
        const uint64_t rows = rows_at_once(c, it, quarter, row);
        if (!st_read(&c->weights, it->source, row * it->cols, c->raw, (size_t)(rows * it->cols))) stop(c, "%s", c->weights.error);
        for (r = 0; r < rows; r++)
            for (i = 0; i < 4; i++) {
                const unsigned char *x = c->raw + r * it->cols;
                uint8_t *to = codes + row_place(it, row + r + i * quarter) * it->cols;
                unsigned top = 0;
                for (k = 0; k < it->cols; k++) {
                    const unsigned code = (unsigned)x[k] >> (2 * i) & 3u;
                    top |= code & (code >> 1);
                    to[k] = (uint8_t)code;
                }
                if (top) stop(c, "tensor %s: row %.0f holds a code of 3", it->source->name, (double)(row + r));
            }
        row += rows;
    }
    return read_scale(c, it);
}

static void write_ternary(conversion *c, const item *it)
{
    const size_t n = (size_t)(it->rows * it->cols), row_bytes = (size_t)stored_size(it->type, 1, it->cols);
    uint8_t *codes = (uint8_t *)cli_alloc(n), tail[64], *to;
    const float scale = it->scale ? unpack_weights(c, it, codes) : round_weights(c, it, codes);
    uint64_t row;
    size_t k;
    if (it->type->pack) {
        const size_t size = (size_t)stored_size(it->type, it->rows, it->cols);
        if (strncmp(it->type->name, "i2_s", 4) != 0 && (f32_to_f16(scale) == 0 || f32_to_f16(scale) == 0x7c00))
            if (it->type->tail == 0) stop(c, "tensor %s: its scale %g is outside of what %s holds", it->name, (double)scale, it->type->name);
        to = (uint8_t *)cli_alloc(size);
        it->type->pack(to, codes, (size_t)it->rows, (size_t)it->cols, scale);
        put(c, to, size);
    } else {
        to = (uint8_t *)cli_alloc(row_bytes);
        for (row = 0; row < it->rows; row++) {
            for (k = 0; k < it->cols; k++) c->values[k] = (float)(codes[row * it->cols + k] - 1) * scale;
            it->type->encode(to, c->values, (size_t)it->cols);
            put(c, to, row_bytes);
        }
    }
    memset(tail, 0, sizeof tail);
    put_f32(tail, scale);
    put(c, tail, it->type->tail);
    free(to);
    free(codes);
}

/* Embedding, output matrix, norms: the source's values in another type. */
static void write_values(conversion *c, const item *it)
{
    const uint64_t all = it->rows ? it->rows : 1;
    const int is_f16 = strcmp(it->type->name, "f16") == 0;
    const size_t row_bytes = (size_t)stored_size(it->type, 1, it->cols);
    uint8_t *to = (uint8_t *)cli_alloc(row_bytes * (size_t)rows_at_once(c, it, all, 0));
    uint64_t row, r;
    size_t k;
    for (row = 0; row < all;) {
        const uint64_t rows = rows_at_once(c, it, all, row);
        get_values(c, it->source, row * it->cols, (size_t)(rows * it->cols));
        for (r = 0; r < rows; r++) {
            const float *x = c->values + r * it->cols;
            for (k = 0; is_f16 && k < it->cols; k++)
                if (fabsf(x[k]) >= 65520) stop(c, "tensor %s: %g does not fit in f16; bf16 and f32 hold it", it->source->name, (double)x[k]);
            it->type->encode(to + r * row_bytes, x, (size_t)it->cols);
        }
        put(c, to, row_bytes * (size_t)rows);
        row += rows;
    }
    free(to);
}

/* Llama 3.1's rope: slow frequencies, whose wave is longer than the context it was first trained on, are divided by
   `factor`, fast ones are not, those between partly. */
static void write_freqs(conversion *c, const item *it)
{
    const json_node *s = c->net.scaling;
    const double factor = real_of(c, s, "factor", 1, 1e6, 8), low = real_of(c, s, "low_freq_factor", 1e-3, 1e6, 1);
    const double high = real_of(c, s, "high_freq_factor", 1e-3, 1e6, 4), old = real_of(c, s, "original_max_position_embeddings", 1, 1e9, 8192);
    uint8_t bytes[4];
    uint64_t i;
    for (i = 0; i < it->cols; i++) {
        const double wave = 6.283185307179586 * bni_pow(c->net.theta, 2 * (double)i / (double)c->net.head_dim);
        const double share = high > low ? (old / wave - low) / (high - low) : old / wave > low;
        const double kept = share < 0 ? 0 : share > 1 ? 1 : share;
        put_f32(bytes, (float)(1 / ((1 - kept) / factor + kept)));
        put(c, bytes, 4);
    }
}

/* --------------------------------------------------------------------------------------------------- keys */

/* What a chat looks like, for files that do not say, or say it wrongly. The marker is a token that the template needs. */
static const struct { const char *name, *marker, *text; } chat_templates[] = {
    {"bitnet", "<|eot_id|>",
     "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"},
    {"llama3", "<|start_header_id|>",
     "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
     "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"chatml", "<|im_start|>",
     "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"falcon3", "<|assistant|>",
     "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"}};

/* The folder's own template, NULL: none. A list of several has one that is called default. */
static const char *own_template(const conversion *c)
{
    const json_doc *d = &c->tokenizer_config.doc;
    const json_node *node = json_get(d, json_root(d), "chat_template"), *one;
    if (json_is(node, JSON_STRING)) return json_text(d, node);
    for (one = json_first(d, node); one; one = json_next(d, one))
        if (json_equal(d, json_get(d, one, "name"), "default")) return json_text(d, json_get(d, one, "template"));
    return c->template_file;
}

/* The template to write, NULL: none. Microsoft's first files have one with "BITNETAssistant", which 2B-4T was not trained
   on; base models converted from Llama 3's have none, but its tokens. 1bitLLM's know no chat. */
static const char *choose_template(const conversion *c)
{
    const char *text = own_template(c), *arch = c->net.family->arch;
    const int wrong = text && strncmp(arch, "bitnet", 6) == 0 && strstr(text, "BITNETAssistant");
    int i;
    for (i = 0; c->o.chat && i < CLI_COUNT(chat_templates); i++)
        if (strcmp(c->o.chat, chat_templates[i].name) == 0) return chat_templates[i].text;
    if (c->o.chat) return NULL;                          /* "none": checked before */
    if (text && !wrong) return text;
    for (i = 0; i < CLI_COUNT(chat_templates); i++) {
        const int suits = i == 0 ? strcmp(arch, "bitnet-b1.58") == 0 : strcmp(arch, "llama") == 0;
        if (!suits || vocab_find(&c->vocab, chat_templates[i].marker) < 0) continue;
        cli_message("chat template %s, as the folder has %s", chat_templates[i].name, wrong ? "an outdated one" : "none");
        return chat_templates[i].text;
    }
    return NULL;
}

/* "<architecture>.<name>" */
static const char *arch_key(const conversion *c, char key[96], const char *name)
{
    snprintf(key, 96, "%s.%s", c->net.family->arch, name);
    return key;
}

static void write_dimensions(conversion *c)
{
    const network *n = &c->net;
    const json_doc *d = &c->config.doc;
    const struct { const char *name; int value; } numbers[] = {
        {"vocab_size", n->n_vocab}, {"context_length", n->n_ctx}, {"embedding_length", n->n_embd}, {"block_count", n->n_layer},
        {"feed_forward_length", n->n_ff}, {"rope.dimension_count", n->head_dim}, {"attention.head_count", n->n_head},
        {"attention.head_count_kv", n->n_head_kv}, {"attention.key_length", n->head_dim}, {"attention.value_length", n->head_dim}};
    char key[96];
    int i;
    for (i = 0; i < CLI_COUNT(numbers); i++) gguf_kv_u32(&c->w, arch_key(c, key, numbers[i].name), (uint32_t)numbers[i].value);
    gguf_kv_f32(&c->w, arch_key(c, key, "attention.layer_norm_rms_epsilon"), (float)n->eps);
    gguf_kv_f32(&c->w, arch_key(c, key, "rope.freq_base"), (float)n->theta);
    /* Two families share a graph but for this, and readers have mixed them up. */
    if (n->family->sub_norms) gguf_kv_str(&c->w, arch_key(c, key, "hidden_activation"), n->family->act);
    if (n->scaling && json_equal(d, json_get(d, n->scaling, json_get(d, n->scaling, "rope_type") ? "rope_type" : "type"), "linear")) {
        gguf_kv_str(&c->w, arch_key(c, key, "rope.scaling.type"), "linear");
        gguf_kv_f32(&c->w, arch_key(c, key, "rope.scaling.factor"), (float)real_of(c, n->scaling, "factor", 1e-6, 1e6, 1));
    }
}

/* --name, else what config.json or the folder is called. */
static const char *model_name(const conversion *c, char name[64])
{
    char path[300];
    size_t n;
    if (c->o.name) return c->o.name;
    snprintf(path, sizeof path, "%s", text_of(c, "_name_or_path", "")[0] ? text_of(c, "_name_or_path", "") : c->o.folder);
    for (n = strlen(path); n > 1 && path[n - 1] == '/'; n--) path[n - 1] = 0;
    return cli_basename(path, name);
}

/* All keys and tensor records; errors stay in the writer. */
static void write_header(conversion *c)
{
    const char *text = choose_template(c);
    char name[64];
    int i;
    gguf_kv_str(&c->w, "general.architecture", c->net.family->arch);
    gguf_kv_str(&c->w, "general.name", model_name(c, name));
    if (!c->o.vocab_only) {
        write_dimensions(c);
        gguf_kv_u32(&c->w, "general.file_type", stored_file_type(find_storage(c->o.type)));
        gguf_kv_u32(&c->w, "general.quantization_version", 2);
    }
    vocab_write(&c->vocab, &c->w);
    if (text) gguf_kv_str(&c->w, "tokenizer.chat_template", text);
    for (i = 0; i < c->n_items; i++) {
        const item *it = &c->items[i];
        uint64_t ne[2];
        ne[0] = it->cols;
        ne[1] = it->rows;
        gguf_tensor(&c->w, it->name, it->rows ? 2 : 1, ne, it->type->id, item_bytes(it));
        c->total += item_bytes(it);
    }
}

/* --------------------------------------------------------------------------------------------------- main */

/* tokenizer.json where it is one of bytes, else tokenizer.model, else what tokenizer.json can give. */
static void load_vocabulary(conversion *c)
{
    vocab_hints hints;
    size_t size = 0, json_size = 0;
    char *model = load(&c->o, "tokenizer.model", 0, &size), *json = load(&c->o, "tokenizer.json", 0, &json_size);
    int ok;
    vocab_init(&c->vocab);
    if (!model && !json) cli_fail("%s: neither tokenizer.json nor tokenizer.model is there", c->o.folder);
    ok = json && vocab_from_json(&c->vocab, json, json_size);
    if (model && (!ok || c->vocab.spm)) {
        vocab_free(&c->vocab);
        vocab_init(&c->vocab);
        ok = vocab_from_spm(&c->vocab, model, size);
        free(json);
        c->vocab_bytes = model;
    } else {
        free(model);
        c->vocab_bytes = json;
    }
    hints.tokenizer_config = &c->tokenizer_config.doc;
    hints.config = &c->config.doc;
    hints.added_tokens = &c->added_tokens.doc;
    hints.pre = c->o.pre;
    if (!ok || !vocab_settle(&c->vocab, &hints) || !vocab_fill(&c->vocab, c->net.n_vocab ? c->net.n_vocab : c->vocab.n))
        cli_fail("%s", c->vocab.error);
}

static void load_folder(conversion *c)
{
    size_t size = 0;
    load_json(&c->o, "config.json", !c->o.vocab_only, &c->config);
    load_json(&c->o, "tokenizer_config.json", 0, &c->tokenizer_config);
    load_json(&c->o, "added_tokens.json", 0, &c->added_tokens);
    c->template_file = load(&c->o, "chat_template.jinja", 0, &size);
    if (c->o.vocab_only) {
        c->net.family = find_family(c);
        c->net.n_vocab = setting(c, "vocab_size") ? dimension(c, "vocab_size", BNI_MAX_VOCAB, 0) : 0;
    } else {
        if (!st_open(&c->weights, c->o.folder)) cli_fail("%s", c->weights.error);
        read_config(c);
        make_plan(c);
    }
    load_vocabulary(c);
}

static void write_result(conversion *c)
{
    char size[24];
    int i;
    gguf_writer_init(&c->w);
    unfinished = &c->w;
    atexit(remove_unfinished);
    write_header(c);
    gguf_open(&c->w, c->o.out);
    c->bar.label = "converting";
    c->room = CHUNK;
    for (i = 0; i < c->n_items; i++)
        if (c->items[i].cols > c->room) c->room = (size_t)c->items[i].cols;
    c->raw = (unsigned char *)cli_alloc(4 * c->room);
    c->values = (float *)cli_alloc(c->room * sizeof(float));
    for (i = 0; i < c->n_items && gguf_ok(&c->w); i++) {
        switch (c->items[i].what) {
        case FILL_VALUES: write_values(c, &c->items[i]); break;
        case FILL_TERNARY: write_ternary(c, &c->items[i]); break;
        case FILL_FREQS: write_freqs(c, &c->items[i]); break;
        }
    }
    cli_end_progress(&c->bar);
    if (!gguf_close(&c->w)) cli_fail("%s", c->w.error);
    unfinished = NULL;
    if (c->o.vocab_only) fprintf(stderr, "%s: %d tokens, %d merges, %s\n", c->o.out, c->vocab.n, c->vocab.n_merges, c->vocab.pre);
    else fprintf(stderr, "%s: %s, %d matrices as %s from %s, embedding %s, %s\n", c->o.out, c->net.family->arch, c->n_ternary, c->o.type,
                 c->n_packed ? "packed weights" : "masters", c->o.embd, cli_size(size, c->total));
}

/* Exits 2 unless the name is a type, and of the right kind. */
static void check_type(const char *option, const char *name, int ternary)
{
    const storage *type = find_storage(name);
    if (!type || (!ternary && (!type->encode || !bni_type_is_decodable(type->id)))) cli_usage("%s: '%s' is no type that it can have", option, name);
    if (ternary && type->encode && type->id != 0 && type->id != 1 && type->id != 30)
        cli_usage("%s: %s is no type for ternary matrices; --help lists them", option, name);
}

static void check_options(const options *o)
{
    int i;
    FILE *there;
    if (!o->out) cli_usage("no output file; give -o FILE");
    check_type("--outtype", o->type, 1);
    check_type("--token-embedding-type", o->embd, 0);
    check_type("--output-tensor-type", o->head, 0);
    if (o->pre && !vocab_is_pre(o->pre)) cli_usage("--pre: '%s' is no pre-tokenizer that bitnet.h has", o->pre);
    for (i = 0; i < CLI_COUNT(chat_templates) && o->chat && strcmp(o->chat, chat_templates[i].name) != 0; i++) { }
    if (i == CLI_COUNT(chat_templates) && o->chat && strcmp(o->chat, "none") != 0)
        cli_usage("--chat-template: '%s' is not bitnet, llama3, chatml, falcon3 or none", o->chat);
    if (cli_is_special(o->out)) cli_fail("%s exists and is not a regular file", o->out);
    there = o->force ? NULL : fopen(o->out, "rb");
    if (there) {
        fclose(there);
        cli_fail("%s exists; --force replaces it", o->out);
    }
}

int main(int argc, char **argv)
{
    static conversion c;
    const cli_option rows[] = {
        {"-o --output", CLI_STRING, &c.o.out, "FILE", "the GGUF file to write", 0, 0},
        {"--outtype", CLI_STRING, &c.o.type, "TYPE", "of the ternary matrices: i2_s (default), tl1, tl2, tq1_0,\ntq2_0, q2_0, iq1_bn, iq2_bn, f16, f32", 0, 0},
        {"--token-embedding-type", CLI_STRING, &c.o.embd, "TYPE", "of the embedding: f16 (default), f32, bf16, q8_0, q6_k,\nq4_0", 0, 0},
        {"--output-tensor-type", CLI_STRING, &c.o.head, "TYPE", "of the output matrix, where it is one of its own (f16)", 0, 0},
        {"--vocab-only", CLI_FLAG, &c.o.vocab_only, NULL, "only the vocabulary, no weights", 0, 0},
        {"--force", CLI_FLAG, &c.o.force, NULL, "replace an existing file", 0, 0},
        {"--name", CLI_STRING, &c.o.name, "TEXT", "the model's name (from the folder)", 0, 0},
        {"--chat-template", CLI_STRING, &c.o.chat, "NAME", "bitnet, llama3, chatml, falcon3 or none (the folder's; where\nit has none or a wrong one, the family's)", 0, 0},
        {"--pre", CLI_STRING, &c.o.pre, "NAME", "the pre-tokenizer's name (recognised)", 0, 0},
        {"--ternarize", CLI_FLAG, &c.o.ternarize, NULL, "round weights that were not trained to be rounded", 0, 0},
    };
    const cli_program program = {"convert", "[options] FOLDER -o FILE",
                                 "A Hugging Face folder of a BitNet b1.58 model to a GGUF file.", NULL, rows, CLI_COUNT(rows), 1, 1};
    c.o.type = "i2_s";
    c.o.embd = c.o.head = "f16";
    cli_parse(&program, argc, argv, &c.o.folder);
    check_options(&c.o);
    cli_catch_interrupts();
    signal(SIGTERM, cli_on_interrupt);
#if defined(SIGXFSZ)
    signal(SIGXFSZ, SIG_IGN);            /* a file size limit is then an error of write like a full disk */
#endif
    load_folder(&c);
    write_result(&c);
    vocab_free(&c.vocab);
    st_close(&c.weights);
    return cli_finish_output();
}
