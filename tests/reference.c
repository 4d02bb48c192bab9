/* An independent reference for bitnet.h: the same model, run slowly, plainly and in double precision.

   It shares no code with bitnet.h and includes nothing from it. Both follow the same two documents (the file format and
   the definition of the arithmetic), so where their logits agree both have read the documents alike.

       cc -O2 tests/reference.c -o reference -lm
       reference MODEL.gguf --tokens 1,2,3 -o LOGITS

   Writes the logits of every token, [n, n_vocab] row-major, little-endian float64 (--f32: float32).

       --layout a|b|c|d       byte order of I2_S tensors (a)
       --attention float      attention without its integer roundings
       --activations float    ternary linears without the int8 rounding of their input
       --noise E --seed N     every value that enters a rounding is first multiplied by 1 + E*g, g random of variance 1
       --stable RUNS          also writes LOGITS.stable: how much each position moves under noise (E 3e-7), see below
       --restart N            a new sequence at position 0 begins every N tokens
       --f32                  float32 output

   `reference --self-test` checks this program itself against examples worked by hand.

   What is rounded, and why only that: bitnet.h turns the input of every ternary linear into 8-bit integers, and q, k, v
   and the softmax weights into 13-bit integers. These roundings are part of the definition and are repeated here. All
   other operations are exact to double precision, while the engine rounds each of them to float32.

   Why "stable": where float32 and float64 fall on two sides of a rounding border (x.5), one integer differs by one and
   the logits of a small random network move by percents, although both computed correctly. Running this program with
   noise of float32's size shows at which positions that can happen. Only the others are compared strictly.

   Families: bitnet-b1.58, bitnet-25, bitnet, llama (Falcon3 and Falcon-E are llama). Linears: I2_S. Embedding and output
   matrix: F32 F16 BF16 Q8_0 Q6_K Q4_0. Norms: F32 F16. Exits with 1 and a message on anything else it finds in the
   file, so that nothing can be ignored silently; exits with 2 on wrong usage. */

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned char byte;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("reference: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* `count` zeroed elements of `size` bytes; never NULL. Freed by the end of the program. */
static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory) fail("out of memory: %lu elements of %lu bytes", (unsigned long)count, (unsigned long)size);
    return memory;
}

static double *doubles(size_t count) { return (double *)allocate(count, sizeof(double)); }

/* ==== The file ==========================================================================================================
   GGUF version 2 and 3: header, key/value pairs, tensor descriptions, padding, data. The whole file is in memory; `take`
   is the only function that moves forward, so it is the only one that has to check for the end. Little-endian integers
   are put together byte by byte, so the machine's own byte order doesn't matter. */

enum { KIND_U8, KIND_I8, KIND_U16, KIND_I16, KIND_U32, KIND_I32, KIND_F32, KIND_BOOL, KIND_STRING, KIND_ARRAY, KIND_U64,
       KIND_I64, KIND_F64 };

enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q4_0 = 2, TYPE_Q8_0 = 8, TYPE_Q6_K = 14, TYPE_BF16 = 30, TYPE_TQ2_0 = 35, TYPE_I2_S = 36, TYPE_Q2_0 = 42 };

typedef struct { const byte *text; size_t length; } string;

typedef struct { string key; uint32_t kind; size_t value; } pair; /* value: file position of the value's first byte */

typedef struct { string name; uint64_t ne[4]; uint32_t type; uint64_t offset; int used; } tensor;

typedef struct {
    byte *bytes;
    size_t size, at;
    size_t n_pairs, n_tensors, data_start;
    pair *pairs;
    tensor *tensors;
} gguf;

static const byte *take(gguf *file, uint64_t count)
{
    const byte *here = file->bytes + file->at;
    if (count > file->size - file->at) fail("the file ends early, at byte %lu", (unsigned long)file->at);
    file->at += (size_t)count;
    return here;
}

static uint64_t little_endian(const byte *from, int count)
{
    uint64_t value = 0;
    while (count-- > 0) value = value << 8 | from[count];
    return value;
}

static float float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double f32_at(const byte *from) { return (double)float_from_bits((uint32_t)little_endian(from, 4)); }

/* IEEE binary16: 1 sign, 5 exponent (bias 15), 10 fraction bits. */
static double f16_at(const byte *from)
{
    uint32_t bits = (uint32_t)little_endian(from, 2);
    int exponent = (int)(bits >> 10 & 31);
    double fraction = (double)(bits & 1023) / 1024;
    double value = exponent ? ldexp(1 + fraction, exponent - 15) : ldexp(fraction, -14);
    if (exponent == 31) fail("an F16 value is infinite or NaN");
    return bits >> 15 ? -value : value;
}

static uint32_t take_u32(gguf *file) { return (uint32_t)little_endian(take(file, 4), 4); }
static uint64_t take_u64(gguf *file) { return little_endian(take(file, 8), 8); }

static string take_string(gguf *file)
{
    string result;
    uint64_t length = take_u64(file);
    result.text = take(file, length);
    result.length = (size_t)length;
    return result;
}

static uint64_t kind_size(uint32_t kind)
{
    static const byte sizes[13] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    if (kind > KIND_F64 || !sizes[kind]) fail("value type %lu is not understood here", (unsigned long)kind);
    return sizes[kind];
}

static void skip_value(gguf *file, uint32_t kind)
{
    uint64_t count;
    if (kind == KIND_STRING) {
        take_string(file);
    } else if (kind == KIND_ARRAY) {
        kind = take_u32(file);
        count = take_u64(file);
        if (count > file->size) fail("an array claims %lu elements", (unsigned long)count);
        if (kind == KIND_STRING) while (count-- > 0) take_string(file);
        else take(file, count * kind_size(kind));
    } else {
        take(file, kind_size(kind));
    }
}

static int equals(string a, const char *b) { return a.length == strlen(b) && !memcmp(a.text, b, a.length); }

static const pair *find_pair(const gguf *file, const char *key)
{
    size_t i;
    for (i = 0; i < file->n_pairs; i++) if (equals(file->pairs[i].key, key)) return &file->pairs[i];
    return NULL;
}

/* The number under `key`, of any numeric type, or `otherwise` if there is no such key. */
static double number(const gguf *file, const char *key, double otherwise)
{
    const pair *p = find_pair(file, key);
    const byte *at;
    if (!p) return otherwise;
    at = file->bytes + p->value;
    switch (p->kind) {
        case KIND_F32: return f32_at(at);
        case KIND_F64: { uint64_t bits = little_endian(at, 8); double value; memcpy(&value, &bits, 8); return value; }
        case KIND_I8: case KIND_I16: case KIND_I32: case KIND_I64: {
            int width = (int)kind_size(p->kind);
            double value = (double)little_endian(at, width);
            return at[width - 1] & 128 ? value - ldexp(1, 8 * width) : value;
        }
        case KIND_STRING: case KIND_ARRAY: fail("%s is no single number", key); return 0;
        default: return (double)little_endian(at, (int)kind_size(p->kind));
    }
}

/* A whole number from 0 to 2^30; the key must exist unless `otherwise` is one. */
static size_t size_value(const gguf *file, const char *key, double otherwise)
{
    double value = number(file, key, otherwise);
    if (value < 0 && !find_pair(file, key)) fail("%s is missing", key);
    if (!(value >= 0 && value <= 1073741824.0 && value == floor(value))) fail("%s = %g makes no sense", key, value);
    return (size_t)value;
}

/* The text under `key`; length 0 if there is no such key. */
static string text_value(gguf *file, const char *key)
{
    const pair *p = find_pair(file, key);
    string none = { NULL, 0 };
    if (!p) return none;
    if (p->kind != KIND_STRING) fail("%s is no string", key);
    file->at = p->value;
    return take_string(file);
}

static void read_tensor_description(gguf *file, tensor *t)
{
    uint32_t i, n_dims;
    t->name = take_string(file);
    n_dims = take_u32(file);
    if (n_dims < 1 || n_dims > 4) fail("%.*s has %lu dimensions", (int)t->name.length, (const char *)t->name.text, (unsigned long)n_dims);
    for (i = 0; i < 4; i++) {
        t->ne[i] = i < n_dims ? take_u64(file) : 1;
        if (t->ne[i] < 1 || t->ne[i] > 1073741824u) fail("%.*s has an odd shape", (int)t->name.length, (const char *)t->name.text);
    }
    t->type = take_u32(file);
    t->offset = take_u64(file);
}

static void read_header(gguf *file)
{
    size_t i, alignment;
    uint32_t version;
    if (memcmp(take(file, 4), "GGUF", 4)) fail("no GGUF file");
    version = take_u32(file);
    if (version != 2 && version != 3) fail("GGUF version %lu", (unsigned long)version);
    file->n_tensors = (size_t)take_u64(file);
    file->n_pairs = (size_t)take_u64(file);
    if (file->n_tensors > 65536 || file->n_pairs > 65536) fail("too many tensors or keys");
    file->pairs = (pair *)allocate(file->n_pairs, sizeof(pair));
    file->tensors = (tensor *)allocate(file->n_tensors, sizeof(tensor));
    for (i = 0; i < file->n_pairs; i++) {
        file->pairs[i].key = take_string(file);
        file->pairs[i].kind = take_u32(file);
        file->pairs[i].value = file->at;
        skip_value(file, file->pairs[i].kind);
    }
    for (i = 0; i < file->n_tensors; i++) read_tensor_description(file, &file->tensors[i]);
    alignment = size_value(file, "general.alignment", 32);
    if (!alignment || (alignment & (alignment - 1))) fail("general.alignment is no power of two");
    file->data_start = (file->at + alignment - 1) / alignment * alignment;
}

static void read_file(gguf *file, const char *path)
{
    long size;
    FILE *stream = fopen(path, "rb");
    if (!stream || fseek(stream, 0, SEEK_END) || (size = ftell(stream)) < 0 || fseek(stream, 0, SEEK_SET)) {
        fail("can't open %s", path);
        return;
    }
    memset(file, 0, sizeof *file);
    file->size = (size_t)size;
    file->bytes = (byte *)allocate(file->size, 1);
    if (fread(file->bytes, 1, file->size, stream) != file->size) fail("can't read %s", path);
    fclose(stream);
    read_header(file);
}

/* ==== Tensor types ======================================================================================================
   Plain types are decoded row by row into doubles. I2_S becomes one signed byte per weight and one scale per tensor. */

/* Q6_K: 256 weights in 210 bytes. ql[128] low 4 bits, qh[64] high 2 bits, 16 signed scales, F16 d. Two halves of 128
   weights; in each, weight l + 32*part (l < 32, part 0..3) takes ql[l + 32*(part & 1)], low nibble for parts 0 and 1, and
   bits 2*part of qh[l]; 16 neighbours share a scale. */
static void decode_q6_k(const byte *block, double *y)
{
    double d = f16_at(block + 208);
    int half, part, l;
    for (half = 0; half < 2; half++) {
        const byte *ql = block + 64 * half, *qh = block + 128 + 32 * half, *sc = block + 192 + 8 * half;
        for (part = 0; part < 4; part++) {
            for (l = 0; l < 32; l++) {
                int low = ql[l + 32 * (part & 1)] >> (part < 2 ? 0 : 4) & 15;
                int high = qh[l] >> 2 * part & 3;
                y[128 * half + 32 * part + l] = d * (double)(signed char)sc[2 * part + l / 16] * (double)((low | high << 4) - 32);
            }
        }
    }
}

static void decode_block(uint32_t type, const byte *from, double *y)
{
    int i;
    switch (type) {
        case TYPE_F32: *y = f32_at(from); break;
        case TYPE_F16: *y = f16_at(from); break;
        case TYPE_BF16: *y = (double)float_from_bits((uint32_t)little_endian(from, 2) << 16); break;
        case TYPE_Q8_0: /* F16 d, 32 signed bytes */
            for (i = 0; i < 32; i++) y[i] = f16_at(from) * (double)(signed char)from[2 + i];
            break;
        case TYPE_Q4_0: /* F16 d, 16 bytes: low nibbles are weights 0..15, high nibbles 16..31 */
            for (i = 0; i < 16; i++) {
                y[i] = f16_at(from) * (double)((from[2 + i] & 15) - 8);
                y[i + 16] = f16_at(from) * (double)((from[2 + i] >> 4) - 8);
            }
            break;
        case TYPE_Q6_K: decode_q6_k(from, y); break;
        default: break;
    }
}

/* Weights and bytes of one block; 0 for types that aren't plain. */
static size_t block_weights(uint32_t type)
{
    if (type == TYPE_Q8_0 || type == TYPE_Q4_0) return 32;
    if (type == TYPE_Q6_K) return 256;
    return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16;
}

static size_t block_bytes(uint32_t type)
{
    switch (type) {
        case TYPE_F32: return 4;
        case TYPE_Q8_0: return 34;
        case TYPE_Q4_0: return 18;
        case TYPE_Q6_K: return 210;
        default: return 2;
    }
}

/* The tensor's bytes, checked to lie inside the file. */
static const byte *tensor_bytes(const gguf *file, const tensor *t, size_t count)
{
    size_t room = file->size > file->data_start ? file->size - file->data_start : 0;
    if (t->offset > room || count > room - (size_t)t->offset)
        fail("%.*s lies outside the file", (int)t->name.length, (const char *)t->name.text);
    return file->bytes + file->data_start + (size_t)t->offset;
}

/* A tensor marked as used, of exactly cols x rows; NULL if there is none of that name (an error if `required`). */
static tensor *find_tensor(gguf *file, const char *name, size_t cols, size_t rows, int required)
{
    size_t i;
    for (i = 0; i < file->n_tensors; i++) {
        tensor *t = &file->tensors[i];
        if (!equals(t->name, name)) continue;
        if (t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1)
            fail("%s is %lu x %lu instead of %lu x %lu", name, (unsigned long)t->ne[0], (unsigned long)t->ne[1],
                 (unsigned long)cols, (unsigned long)rows);
        t->used = 1;
        return t;
    }
    if (required) fail("tensor %s is missing", name);
    return NULL;
}

/* A plain tensor as doubles [rows, cols], or NULL if it is absent and not required. */
static double *plain_tensor(gguf *file, const char *name, size_t cols, size_t rows, int required)
{
    tensor *t = find_tensor(file, name, cols, rows, required);
    size_t i, n, weights, count = rows * cols;
    const byte *from;
    double *result;
    if (!t) return NULL;
    weights = block_weights(t->type);
    if (!weights) { fail("%s has type %lu, which is not understood here", name, (unsigned long)t->type); return NULL; }
    if (cols % weights) fail("%s: rows of %lu are no whole blocks", name, (unsigned long)cols);
    n = count / weights;
    from = tensor_bytes(file, t, n * block_bytes(t->type));
    result = doubles(count);
    for (i = 0; i < n; i++) decode_block(t->type, from + i * block_bytes(t->type), result + i * weights);
    for (i = 0; i < count; i++) if (!(fabs(result[i]) <= 3.5e38)) fail("%s holds an infinity or a NaN", name);
    return result;
}

/* One ternary linear, y = scale * W x; or with a scale for every `group` weights of a row: group_scale [rows * cols / group]. */
typedef struct { size_t rows, cols, group; signed char *weights; double scale, *group_scale; } linear;

/* The 2-bit code of weight `i` (row-major) in an I2_S tensor of `cols` columns. Where the weight lies:
     a  blocks of 128 in 32 bytes: weight j of a block in byte j mod 32, first 32 weights in the top two bits
     b  blocks of 64 in 16 bytes, likewise
     c  4 rows together: byte (row / 4)*cols + col, first row in the top two bits
     d  4 neighbours in a byte, first in the top two bits */
static int i2_s_code(const byte *from, size_t i, size_t cols, int layout)
{
    size_t at, place, row = i / cols;
    switch (layout) {
        case 'a': at = i / 128 * 32 + i % 32; place = i % 128 / 32; break;
        case 'b': at = i / 64 * 16 + i % 16; place = i % 64 / 16; break;
        case 'c': at = row / 4 * cols + i % cols; place = row % 4; break;
        default:  at = i / 4; place = i % 4; break;
    }
    return from[at] >> (6 - 2 * place) & 3;
}

/* TQ2_0 and Q2_0: blocks of 256 or 64 weights with an F16 scale, behind their 64 bytes or before their 16. Weight j of a
   TQ2_0 block: byte j / 128 * 32 + j mod 32, bits 2 * (j mod 128 / 32); of Q2_0: byte j / 4, bits 2 * (j mod 4). */
static linear grouped_tensor(gguf *file, const tensor *t, const char *name, size_t cols, size_t rows)
{
    const int tq = t->type == TYPE_TQ2_0;
    const size_t block = tq ? 256 : 64, bytes = tq ? 66 : 18, count = rows * cols;
    const byte *from;
    linear result;
    size_t b, j;
    if (cols % block) fail("%s: rows of %lu weights are no whole blocks", name, (unsigned long)cols);
    from = tensor_bytes(file, t, count / block * bytes);
    result.rows = rows;
    result.cols = cols;
    result.group = block;
    result.scale = 1;
    result.weights = (signed char *)allocate(count, 1);
    result.group_scale = doubles(count / block);
    for (b = 0; b < count / block; b++, from += bytes) {
        result.group_scale[b] = f16_at(from + (tq ? 64 : 0));
        for (j = 0; j < block; j++)
            result.weights[b * block + j] = (signed char)((tq ? from[j / 128 * 32 + j % 32] >> (2 * (j % 128 / 32)) & 3
                                                               : from[2 + j / 4] >> (2 * (j % 4)) & 3) - 1);
    }
    return result;
}

/* Reads blk.`layer`.`part`.weight. I2_S: codes 0, 1, 2 for -1, 0, +1 (3 counts as 0), then one F32 multiplier after all
   codes. An optional tensor blk.`layer`.`part`.scale [1] multiplies the result once more. */
static linear ternary_tensor(gguf *file, int layer, const char *part, size_t cols, size_t rows, int layout)
{
    static const signed char meaning[4] = { -1, 0, 1, 0 };
    char name[96];
    linear result;
    tensor *t;
    const byte *from;
    const double *extra;
    size_t i, count = rows * cols, unit = layout == 'a' ? 128 : layout == 'b' ? 64 : 4;
    sprintf(name, "blk.%d.%.40s.weight", layer, part);
    t = find_tensor(file, name, cols, rows, 1);
    if (t->type == TYPE_TQ2_0 || t->type == TYPE_Q2_0) return grouped_tensor(file, t, name, cols, rows);
    if (t->type != TYPE_I2_S) fail("%s has type %lu; I2_S, TQ2_0 and Q2_0 are understood here", name, (unsigned long)t->type);
    if (count % unit || (layout == 'c' && rows % 4)) fail("%s: %lu weights are no whole blocks", name, (unsigned long)count);
    from = tensor_bytes(file, t, count / 4 + 4);
    result.rows = rows;
    result.cols = cols;
    result.group = 0;
    result.group_scale = NULL;
    result.weights = (signed char *)allocate(count, 1);
    for (i = 0; i < count; i++) result.weights[i] = meaning[i2_s_code(from, i, cols, layout)];
    result.scale = f32_at(from + count / 4);
    if (!(fabs(result.scale) <= 3.5e38)) fail("%s: the scale is no number", name);
    sprintf(name, "blk.%d.%.40s.scale", layer, part);
    extra = plain_tensor(file, name, 1, 1, 0);
    if (extra) result.scale *= extra[0];
    return result;
}

/* ==== The model =========================================================================================================
   What distinguishes the families: the activation in the feed-forward part, which elements RoPE turns together, and
   whether there is a norm before the output projection of attention and of the feed-forward part ("sub-norms"). */

typedef struct {
    double *attn_norm, *attn_sub_norm, *ffn_norm, *ffn_sub_norm; /* [n_embd], [n_head*head_dim], [n_embd], [n_ff] */
    linear q, k, v, o, gate, up, down;
} layer_weights;

typedef struct {
    int relu2;     /* relu(x)^2 instead of silu(x) */
    int neox;      /* RoPE turns (i, i + n_rot/2) instead of (2i, 2i + 1) */
    int sub_norms;
    size_t n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_rot, n_vocab;
    double eps, rope_theta;
    double *token_embd;   /* [n_vocab, n_embd] */
    double *output;       /* [n_vocab, n_embd]; the same array where the file has no output.weight */
    double *output_norm;  /* [n_embd] */
    double *rope_freqs;   /* [n_rot/2] divisors of the angles, or NULL */
    layer_weights *layers;
} model;

/* Keys that would change the result but that nothing here implements. */
static void refuse_unknown_features(gguf *file, const char *arch)
{
    static const char *const forbidden[] = { "rope.scale_linear", "attention.sliding_window", "expert_count",
        "attention.clamp_kqv", "attention.scale", "logit_scale", "embedding_scale", "residual_scale", "final_logit_softcapping" };
    char key[128];
    size_t i;
    string scaling;
    for (i = 0; i < sizeof forbidden / sizeof *forbidden; i++) {
        sprintf(key, "%.40s.%s", arch, forbidden[i]);
        if (number(file, key, 0) != 0) fail("%s is not understood here", key);
    }
    sprintf(key, "%.40s.rope.scaling.type", arch);
    scaling = text_value(file, key);
    if (scaling.length && !equals(scaling, "none") && !equals(scaling, "linear")) fail("%s is not understood here", key);
    sprintf(key, "%.40s.rope.scaling.factor", arch);
    if (number(file, key, 1) != 1) fail("%s is not 1", key);
    if (number(file, "split.count", 1) > 1) fail("the model is split into several files");
}

/* For bitnet-b1.58 the file doesn't name the activation: ReLU^2, unless the vocabulary is 1bitLLM's. Only an explicit key
   `<arch>.hidden_activation` goes before the rule of the family. */
static void choose_activation(gguf *file, model *m, const char *arch)
{
    char key[128];
    string named, tokenizer = text_value(file, "tokenizer.ggml.model");
    sprintf(key, "%.40s.hidden_activation", arch);
    named = text_value(file, key);
    if (!strcmp(arch, "bitnet-b1.58")) m->relu2 = !(m->n_vocab == 32002 || equals(tokenizer, "llama"));
    else m->relu2 = !strcmp(arch, "bitnet-25");
    if (!named.length) return;
    if (equals(named, "relu2")) m->relu2 = 1;
    else if (equals(named, "silu")) m->relu2 = 0;
    else fail("%s is neither relu2 nor silu", key);
}

static void read_parameters(gguf *file, model *m, const char *arch)
{
    char key[128];
    size_t i;
    sprintf(key, "%.40s.block_count", arch);                      m->n_layer = size_value(file, key, -1);
    sprintf(key, "%.40s.embedding_length", arch);                 m->n_embd = size_value(file, key, -1);
    sprintf(key, "%.40s.feed_forward_length", arch);              m->n_ff = size_value(file, key, -1);
    sprintf(key, "%.40s.attention.head_count", arch);             m->n_head = size_value(file, key, -1);
    sprintf(key, "%.40s.attention.head_count_kv", arch);          m->n_head_kv = size_value(file, key, (double)m->n_head);
    sprintf(key, "%.40s.rope.freq_base", arch);                   m->rope_theta = number(file, key, 10000);
    sprintf(key, "%.40s.attention.layer_norm_rms_epsilon", arch); m->eps = number(file, key, -1);
    if (!(m->eps >= 0)) fail("%s is missing", key);
    if (!m->n_head || !m->n_head_kv || m->n_head % m->n_head_kv) fail("%lu heads, %lu KV heads", (unsigned long)m->n_head, (unsigned long)m->n_head_kv);
    sprintf(key, "%.40s.attention.key_length", arch);             m->head_dim = size_value(file, key, (double)(m->n_embd / m->n_head));
    sprintf(key, "%.40s.attention.value_length", arch);
    if (size_value(file, key, (double)m->head_dim) != m->head_dim) fail("%s differs from the key length", key);
    sprintf(key, "%.40s.rope.dimension_count", arch);             m->n_rot = size_value(file, key, (double)m->head_dim);
    if (!m->n_rot || m->n_rot % 2 || m->n_rot > m->head_dim) fail("RoPE turns %lu of %lu elements", (unsigned long)m->n_rot, (unsigned long)m->head_dim);
    if (!m->n_layer || !m->n_embd || !m->n_ff) fail("an empty model");
    for (i = 0; i < file->n_tensors; i++)
        if (equals(file->tensors[i].name, "token_embd.weight")) m->n_vocab = (size_t)file->tensors[i].ne[1];
    if (!m->n_vocab) fail("tensor token_embd.weight is missing");
}

static double *norm_tensor(gguf *file, int layer, const char *part, size_t count)
{
    char name[96];
    sprintf(name, "blk.%d.%.40s.weight", layer, part);
    return plain_tensor(file, name, count, 1, 1);
}

static void read_layer(gguf *file, const model *m, layer_weights *w, int i, int layout)
{
    size_t q_dim = m->n_head * m->head_dim, kv_dim = m->n_head_kv * m->head_dim;
    w->attn_norm = norm_tensor(file, i, "attn_norm", m->n_embd);
    w->ffn_norm = norm_tensor(file, i, "ffn_norm", m->n_embd);
    w->attn_sub_norm = m->sub_norms ? norm_tensor(file, i, "attn_sub_norm", q_dim) : NULL;
    w->ffn_sub_norm = m->sub_norms ? norm_tensor(file, i, "ffn_sub_norm", m->n_ff) : NULL;
    w->q = ternary_tensor(file, i, "attn_q", m->n_embd, q_dim, layout);
    w->k = ternary_tensor(file, i, "attn_k", m->n_embd, kv_dim, layout);
    w->v = ternary_tensor(file, i, "attn_v", m->n_embd, kv_dim, layout);
    w->o = ternary_tensor(file, i, "attn_output", q_dim, m->n_embd, layout);
    w->gate = ternary_tensor(file, i, "ffn_gate", m->n_embd, m->n_ff, layout);
    w->up = ternary_tensor(file, i, "ffn_up", m->n_embd, m->n_ff, layout);
    w->down = ternary_tensor(file, i, "ffn_down", m->n_ff, m->n_embd, layout);
}

static void read_model(gguf *file, model *m, int layout)
{
    string name = text_value(file, "general.architecture");
    char arch[41] = "";
    size_t i;
    if (name.length < sizeof arch) memcpy(arch, name.text ? (const char *)name.text : "", name.length);
    m->neox = m->sub_norms = !strcmp(arch, "bitnet-b1.58") || !strcmp(arch, "bitnet-25") || !strcmp(arch, "bitnet");
    if (!m->neox && strcmp(arch, "llama")) fail("architecture '%s' is not understood here", arch);
    refuse_unknown_features(file, arch);
    read_parameters(file, m, arch);
    choose_activation(file, m, arch);
    m->token_embd = plain_tensor(file, "token_embd.weight", m->n_embd, m->n_vocab, 1);
    m->output = plain_tensor(file, "output.weight", m->n_embd, m->n_vocab, 0);
    if (!m->output) m->output = m->token_embd;
    m->output_norm = plain_tensor(file, "output_norm.weight", m->n_embd, 1, 1);
    m->rope_freqs = plain_tensor(file, "rope_freqs.weight", m->n_rot / 2, 1, 0);
    m->layers = (layer_weights *)allocate(m->n_layer, sizeof(layer_weights));
    for (i = 0; i < m->n_layer; i++) read_layer(file, m, &m->layers[i], (int)i, layout);
    for (i = 0; i < file->n_tensors; i++)
        if (!file->tensors[i].used) fail("tensor %.*s is not understood here", (int)file->tensors[i].name.length, (const char *)file->tensors[i].name.text);
}

/* ==== Roundings =========================================================================================================
   The two roundings of the definition. Both find the largest magnitude A of a row, multiply by limit/A and round to the
   nearest integer, ties to even (rint, in the default rounding mode). */

enum { BLOCK = 64 }; /* softmax weights are rounded per block of 64 absolute positions */

typedef struct { int round_attention, round_activations; double noise; uint64_t state; } settings;

/* A uniform number in [-1, 1). Generator: splitmix64. */
static double uniform(settings *s)
{
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ldexp((double)((z ^ z >> 31) >> 11), -52) - 1;
}

/* x * (1 + noise*g); g is the sum of three uniform numbers in [-1, 1), so of variance 1 and nearly normal. */
static double disturbed(settings *s, double x)
{
    if (s->noise == 0) return x;
    return x * (1 + s->noise * (uniform(s) + uniform(s) + uniform(s)));
}

static double largest_magnitude(const double *x, size_t n)
{
    double largest = 0;
    size_t i;
    for (i = 0; i < n; i++) if (fabs(x[i]) > largest) largest = fabs(x[i]);
    return largest;
}

/* Input of a ternary linear as integers -128..127, in place, with s such that x ~ integer / s. Result: s. */
static double round_activations(settings *set, double *x, size_t n)
{
    double amax, s;
    size_t i;
    if (!set->round_activations) return 1;
    for (i = 0; i < n; i++) x[i] = disturbed(set, x[i]);
    amax = largest_magnitude(x, n);
    s = 127 / (amax > 1e-5 ? amax : 1e-5);
    for (i = 0; i < n; i++) {
        x[i] = rint(x[i] * s);
        if (x[i] > 127) x[i] = 127;
        if (x[i] < -128) x[i] = -128;
    }
    return s;
}

/* A row of q, k or v, or a block of softmax weights, as integers -4095..4095, in place. Result: the scale, x ~ integer *
   scale; 0, and all integers 0, where the row is below 2^-100. */
static double round_row(settings *set, double *x, size_t n)
{
    double largest;
    size_t i;
    if (!set->round_attention) return 1;
    for (i = 0; i < n; i++) x[i] = disturbed(set, x[i]);
    largest = largest_magnitude(x, n);
    for (i = 0; i < n; i++) {
        x[i] = largest < ldexp(1, -100) ? 0 : rint(x[i] * (4095 / largest));
        if (x[i] > 4095) x[i] = 4095;
        if (x[i] < -4095) x[i] = -4095;
    }
    return largest < ldexp(1, -100) ? 0 : largest / 4095;
}

/* ==== The network ======================================================================================================= */

/* y[i] = x[i] / sqrt(mean(x^2) + eps) * w[i], i < n. y may be x. */
static void rms_norm(const double *x, const double *w, size_t n, double eps, double *y)
{
    double sum = 0, factor;
    size_t i;
    for (i = 0; i < n; i++) sum += x[i] * x[i];
    factor = 1 / sqrt(sum / (double)n + eps);
    for (i = 0; i < n; i++) y[i] = x[i] * factor * w[i];
}

/* y[rows] = scale * W x / s. With integers in x every partial sum is an integer below 2^53, so the sum is exact. */
static void multiply(const linear *w, const double *x, double s, double *y)
{
    size_t row, col;
    for (row = 0; row < w->rows; row++) {
        const signed char *weights = w->weights + row * w->cols;
        double sum[4] = { 0, 0, 0, 0 };
        for (col = 0; col < w->cols && w->group; col++)
            sum[0] += (double)weights[col] * x[col] * w->group_scale[(row * w->cols + col) / w->group];
        for (; col < w->cols; col++) sum[col % 4] += (double)weights[col] * x[col];
        y[row] = (sum[0] + sum[1] + (sum[2] + sum[3])) / s * w->scale;
    }
}

/* Turns the first n_rot elements of one head in pairs by position * theta^(-2i/n_rot) / rope_freqs[i]. */
static void rope(const model *m, double *head, size_t position)
{
    size_t i, half = m->n_rot / 2;
    for (i = 0; i < half; i++) {
        double angle = (double)position * pow(m->rope_theta, -2.0 * (double)i / (double)m->n_rot);
        double *a = m->neox ? head + i : head + 2 * i;
        double *b = m->neox ? head + i + half : head + 2 * i + 1;
        double x = *a, y = *b, c, s;
        if (m->rope_freqs) angle /= m->rope_freqs[i];
        c = cos(angle);
        s = sin(angle);
        *a = x * c - y * s;
        *b = x * s + y * c;
    }
}

/* One pass over all tokens works layer by layer, so keys and values of one layer are enough. */
typedef struct {
    const model *m;
    settings set;
    double *x;                 /* [n, n_embd] residual stream */
    double *k, *v;             /* [n, n_head_kv, head_dim] keys and values as integers */
    double *k_scale, *v_scale; /* [n, n_head_kv] */
    double *scores;            /* [n] */
    double *q, *o;             /* [n_head, head_dim] */
    double *a;                 /* [n_embd] input of the linears */
    double *gate, *up;         /* [n_ff] */
    double *sum;               /* [n_embd] */
} pass;

/* Adds the values of positions first..end-1, weighted with scores, to out[head_dim]. */
static void add_block(pass *p, const double *v, const double *v_scale, size_t first, size_t end, double *out)
{
    size_t d = p->m->head_dim, stride = p->m->n_head_kv, i, j;
    double weights[BLOCK], scale;
    for (j = first; j < end; j++) weights[j - first] = p->scores[j] * v_scale[j * stride];
    scale = round_row(&p->set, weights, end - first);
    for (i = 0; i < d; i++) {
        double sum = 0;
        for (j = first; j < end; j++) sum += weights[j - first] * v[j * stride * d + i];
        out[i] += sum * scale;
    }
}

/* Attention of query head h, at position t, over positions 0..t: softmax(q.k / sqrt(d)) v. Query heads share key and
   value heads in groups of n_head / n_head_kv neighbours. */
static void attend(pass *p, size_t t, size_t h)
{
    const model *m = p->m;
    size_t d = m->head_dim, stride = m->n_head_kv, group = h / (m->n_head / m->n_head_kv), i, j;
    double *q = p->q + h * d, *out = p->o + h * d, *e = p->scores;
    double q_scale = round_row(&p->set, q, d), largest = -HUGE_VAL, total = 0;
    for (j = 0; j <= t; j++) {
        const double *k = p->k + (j * stride + group) * d;
        double sum = 0;
        for (i = 0; i < d; i++) sum += q[i] * k[i];
        e[j] = sum * q_scale / sqrt((double)d) * p->k_scale[j * stride + group];
        if (e[j] > largest) largest = e[j];
    }
    for (j = 0; j <= t; j++) total += e[j] = exp(e[j] - largest);
    for (i = 0; i < d; i++) out[i] = 0;
    for (j = 0; j <= t; j += BLOCK)
        add_block(p, p->v + group * d, p->v_scale + group, j, j + BLOCK <= t ? j + BLOCK : t + 1, out);
    for (i = 0; i < d; i++) out[i] /= total;
}

/* x += Wo norm(attention(rope(Wq a), rope(Wk a), Wv a)), a = norm(x). */
static void attention_part(pass *p, const layer_weights *w, size_t t)
{
    const model *m = p->m;
    size_t d = m->head_dim, q_dim = m->n_head * d, kv_dim = m->n_head_kv * d, h, i;
    double *x = p->x + t * m->n_embd, *k = p->k + t * kv_dim, *v = p->v + t * kv_dim, s;
    rms_norm(x, w->attn_norm, m->n_embd, m->eps, p->a);
    s = round_activations(&p->set, p->a, m->n_embd);
    multiply(&w->q, p->a, s, p->q);
    multiply(&w->k, p->a, s, k);
    multiply(&w->v, p->a, s, v);
    for (h = 0; h < m->n_head; h++) rope(m, p->q + h * d, t);
    for (h = 0; h < m->n_head_kv; h++) {
        rope(m, k + h * d, t);
        p->k_scale[t * m->n_head_kv + h] = round_row(&p->set, k + h * d, d);
        p->v_scale[t * m->n_head_kv + h] = round_row(&p->set, v + h * d, d);
    }
    for (h = 0; h < m->n_head; h++) attend(p, t, h);
    if (m->sub_norms) rms_norm(p->o, w->attn_sub_norm, q_dim, m->eps, p->o);
    s = round_activations(&p->set, p->o, q_dim);
    multiply(&w->o, p->o, s, p->sum);
    for (i = 0; i < m->n_embd; i++) x[i] += p->sum[i];
}

/* x += Wdown norm(act(Wgate f) * Wup f), f = norm(x). */
static void feed_forward_part(pass *p, const layer_weights *w, size_t t)
{
    const model *m = p->m;
    double *x = p->x + t * m->n_embd, s;
    size_t i;
    rms_norm(x, w->ffn_norm, m->n_embd, m->eps, p->a);
    s = round_activations(&p->set, p->a, m->n_embd);
    multiply(&w->gate, p->a, s, p->gate);
    multiply(&w->up, p->a, s, p->up);
    for (i = 0; i < m->n_ff; i++) {
        double g = p->gate[i];
        if (m->relu2) g = g > 0 ? g * g : 0;
        else g = g / (1 + exp(-g));
        p->gate[i] = g * p->up[i];
    }
    if (m->sub_norms) rms_norm(p->gate, w->ffn_sub_norm, m->n_ff, m->eps, p->gate);
    s = round_activations(&p->set, p->gate, m->n_ff);
    multiply(&w->down, p->gate, s, p->sum);
    for (i = 0; i < m->n_embd; i++) x[i] += p->sum[i];
}

/* logits[n_vocab] = output . norm(x) */
static void logits_of(pass *p, size_t t, double *logits)
{
    const model *m = p->m;
    size_t row, i;
    rms_norm(p->x + t * m->n_embd, m->output_norm, m->n_embd, m->eps, p->a);
    for (row = 0; row < m->n_vocab; row++) {
        const double *w = m->output + row * m->n_embd;
        double sum[4] = { 0, 0, 0, 0 };
        for (i = 0; i < m->n_embd; i++) sum[i % 4] += w[i] * p->a[i];
        logits[row] = sum[0] + sum[1] + (sum[2] + sum[3]);
        if (!(fabs(logits[row]) < HUGE_VAL)) fail("a logit of position %lu is no finite number", (unsigned long)t);
    }
}

static pass make_pass(const model *m, size_t n)
{
    size_t q_dim = m->n_head * m->head_dim, kv_dim = m->n_head_kv * m->head_dim;
    pass p;
    memset(&p, 0, sizeof p);
    p.m = m;
    p.x = doubles(n * m->n_embd);
    p.k = doubles(n * kv_dim);
    p.v = doubles(n * kv_dim);
    p.k_scale = doubles(n * m->n_head_kv);
    p.v_scale = doubles(n * m->n_head_kv);
    p.scores = doubles(n);
    p.q = doubles(q_dim);
    p.o = doubles(q_dim);
    p.a = doubles(m->n_embd);
    p.gate = doubles(m->n_ff);
    p.up = doubles(m->n_ff);
    p.sum = doubles(m->n_embd);
    return p;
}

/* logits[n, n_vocab] of `tokens` at positions 0..n-1. */
static void run_sequence(pass *p, const size_t *tokens, size_t n, double *logits)
{
    const model *m = p->m;
    size_t t, layer;
    for (t = 0; t < n; t++)
        memcpy(p->x + t * m->n_embd, m->token_embd + tokens[t] * m->n_embd, m->n_embd * sizeof(double));
    for (layer = 0; layer < m->n_layer; layer++) {
        for (t = 0; t < n; t++) {
            attention_part(p, &m->layers[layer], t);
            feed_forward_part(p, &m->layers[layer], t);
        }
    }
    for (t = 0; t < n; t++) logits_of(p, t, logits + t * m->n_vocab);
}

/* ==== Self-test =========================================================================================================
   A mistake made here and in bitnet.h alike would go unseen, so the decoders and roundings are checked against examples
   worked by hand and against the bytes that the description of the format gives. */

static int n_wrong;

static void check(int condition, const char *what)
{
    if (condition) return;
    printf("WRONG: %s\n", what);
    n_wrong++;
}

static void from_hex(const char *text, byte *to)
{
    static const char digits[] = "0123456789abcdef";
    for (; *text; text += 2) *to++ = (byte)((strchr(digits, text[0]) - digits) << 4 | (strchr(digits, text[1]) - digits));
}

/* The example of the format's description: w[j] = ((j*j + j div 16) mod 3) - 1, j < 128, in layouts a, b and d. For c
   four rows of two weights: the first weights 0,1,2,0 and the second 2,2,1,0 as codes, first row in the top bits. */
static void check_layouts(void)
{
    static const char *const hex[3] = { "0869450869450869450869450869450882" "9a51829a51829a51829a51829a5182",
        "2069512069512069512069512069512082" "a64582a64582a64582a64582a64582",
        "14514514a69a69a6208208201451451" "4a69a69a62082082014514514a69a69a6" };
    static const byte four_rows[2] = { 0x18, 0xa4 };
    static const int codes[8] = { 0, 2, 1, 2, 2, 1, 0, 0 };
    byte bytes[32];
    int i, j, good;
    for (i = 0; i < 3; i++) {
        from_hex(hex[i], bytes);
        for (good = 1, j = 0; j < 128; j++) good &= i2_s_code(bytes, (size_t)j, 128, "abd"[i]) == (j * j + j / 16) % 3;
        check(good, i == 0 ? "I2_S layout a" : i == 1 ? "I2_S layout b" : "I2_S layout d");
    }
    for (good = 1, j = 0; j < 8; j++) good &= i2_s_code(four_rows, (size_t)j, 2, 'c') == codes[j];
    check(good, "I2_S layout c");
}

static void check_decoders(void)
{
    byte b[210] = { 0 };
    double y[256];
    from_hex("003c", b);
    check(f16_at(b) == 1, "F16 1");
    from_hex("0100", b);
    check(f16_at(b) == ldexp(1, -24), "F16 smallest");
    from_hex("ffc3", b);
    check(f16_at(b) == -2047.0 / 512, "F16 negative");
    from_hex("c0bf", b);
    decode_block(TYPE_BF16, b, y);
    check(y[0] == -1.5, "BF16");
    from_hex("00380000007f80", b); /* d = 0.5; weights 0..2 are 0, then 127 and -128 */
    decode_block(TYPE_Q8_0, b, y);
    check(y[2] == 0 && y[3] == 63.5 && y[4] == -64, "Q8_0");
    from_hex("00380000009c", b); /* byte 3: weight 3 is 12 - 8, weight 19 is 9 - 8 */
    decode_block(TYPE_Q4_0, b, y);
    check(y[3] == 2 && y[19] == 0.5 && y[2] == -4, "Q4_0");
    memset(b, 0, sizeof b);
    b[64 + 7] = 0xa0;       /* low bits of weight 128 + 64 + 7: 10 */
    b[128 + 32 + 7] = 0x30; /* its high bits: 3, so it is (3 * 16 + 10 - 32) * scale * d */
    b[192 + 8 + 4] = 0xfe;  /* the scale of weights 192..207: -2 */
    b[209] = 0x38;          /* d = 0.5 */
    decode_block(TYPE_Q6_K, b, y);
    check(y[199] == -26 && y[198] == 32 && y[190] == 0, "Q6_K");
}

static void check_roundings(void)
{
    settings set = { 1, 1, 0, 0 };
    double a[6] = { -127, 0.5, 1.5, 2.5, -0.5, 3.49 }, zero[2] = { 0, 0 }, r[4] = { 8190, 1, 3, -2.5 }, tiny[1], s;
    s = round_activations(&set, a, 6);
    check(s == 1 && a[0] == -127 && a[1] == 0 && a[2] == 2 && a[3] == 2 && a[4] == 0 && a[5] == 3, "rounding of activations");
    s = round_activations(&set, zero, 2);
    check(s == 127 / 1e-5 && zero[0] == 0, "activations that are all zero");
    s = round_row(&set, r, 4);
    check(s == 2 && r[0] == 4095 && r[1] == 0 && r[2] == 2 && r[3] == -1, "rounding of attention rows");
    tiny[0] = ldexp(1, -101);
    check(round_row(&set, tiny, 1) == 0 && tiny[0] == 0, "a row below 2^-100");
}

/* Position 1, angle pi/2 through the divisor: (1, 0) becomes (0, 1), paired by halves or by neighbours. */
static void check_rope(void)
{
    double freqs[2] = { 1, 1 }, head[4] = { 1, 2, 0, 0 };
    model m;
    memset(&m, 0, sizeof m);
    m.n_rot = 4;
    m.neox = 1;
    m.rope_theta = 16;
    freqs[0] = 1 / (2 * atan(1.0));    /* angle 1 / freqs[0] = pi/2 */
    freqs[1] = 0.25 / (2 * atan(1.0)); /* 16^(-2/4) = 1/4 */
    m.rope_freqs = freqs;
    rope(&m, head, 1);
    check(fabs(head[0]) + fabs(head[1]) + fabs(head[2] - 1) + fabs(head[3] - 2) < 1e-12, "RoPE by halves");
    m.neox = 0;
    rope(&m, head, 1); /* (0, 0, 1, 2): the second pair (1, 2) becomes (-2, 1) */
    check(fabs(head[0]) + fabs(head[1]) + fabs(head[2] + 2) + fabs(head[3] - 1) < 1e-12, "RoPE by neighbours");
}

static int self_test(void)
{
    check_layouts();
    check_decoders();
    check_roundings();
    check_rope();
    if (!n_wrong) puts("reference: self-test passed");
    return n_wrong != 0;
}

/* ==== The program ======================================================================================================= */

typedef struct {
    const char *model, *out;
    size_t *tokens, n_tokens, restart;
    long runs;
    int layout, f32;
    settings set;
} options;

static void usage(void)
{
    fputs("usage: reference --self-test\n       reference MODEL.gguf --tokens 1,2,3 -o FILE [--layout a|b|c|d] [--attention float] [--activations float]\n"
          "                 [--noise E] [--seed N] [--stable RUNS] [--restart N] [--f32]\n", stderr);
    exit(2);
}

static void parse_tokens(options *o, const char *text)
{
    o->tokens = (size_t *)allocate(strlen(text) / 2 + 1, sizeof(size_t));
    o->n_tokens = 0;
    while (*text) {
        char *end;
        long id = strtol(text, &end, 10);
        if (end == text || id < 0 || (*end && *end != ',') || (*end && !end[1])) usage();
        o->tokens[o->n_tokens++] = (size_t)id;
        text = *end ? end + 1 : end;
    }
}

static double parse_number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0 && value < 1e15)) usage();
    return value;
}

static int parse_rounding(const char *text)
{
    if (strcmp(text, "float") && strcmp(text, "integer")) usage();
    return !strcmp(text, "integer");
}

static options parse_options(int argc, char **argv)
{
    options o;
    int i;
    memset(&o, 0, sizeof o);
    o.layout = 'a';
    o.set.round_attention = o.set.round_activations = 1;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--f32")) { o.f32 = 1; continue; }
        if (*name != '-') { if (o.model) usage(); o.model = name; continue; }
        if (++i == argc) usage();
        if (!strcmp(name, "--tokens")) parse_tokens(&o, value);
        else if (!strcmp(name, "-o")) o.out = value;
        else if (!strcmp(name, "--layout") && strlen(value) == 1 && strchr("abcd", *value)) o.layout = *value;
        else if (!strcmp(name, "--attention")) o.set.round_attention = parse_rounding(value);
        else if (!strcmp(name, "--activations")) o.set.round_activations = parse_rounding(value);
        else if (!strcmp(name, "--noise")) o.set.noise = parse_number(value);
        else if (!strcmp(name, "--seed")) o.set.state = (uint64_t)parse_number(value);
        else if (!strcmp(name, "--restart")) o.restart = (size_t)parse_number(value);
        else if (!strcmp(name, "--stable")) o.runs = (long)parse_number(value);
        else usage();
    }
    if (!o.model || !o.out || !o.n_tokens) usage();
    return o;
}

/* logits[n_tokens, n_vocab] under `set`. */
static void run(pass *p, const options *o, settings set, double *logits)
{
    size_t first, count;
    p->set = set;
    for (first = 0; first < o->n_tokens; first += count) {
        count = o->n_tokens - first;
        if (o->restart && count > o->restart) count = o->restart;
        run_sequence(p, o->tokens + first, count, logits + first * p->m->n_vocab);
    }
}

static FILE *open_output(const char *path, const char *mode)
{
    FILE *stream = fopen(path, mode);
    if (!stream) fail("can't write %s", path);
    return stream;
}

static void close_output(FILE *stream, const char *path)
{
    int failed = ferror(stream);
    if (fclose(stream) || failed) fail("can't write %s", path);
}

/* Little-endian float64 or float32, whatever the machine. */
static void write_logits(const options *o, const double *logits, size_t count)
{
    FILE *stream = open_output(o->out, "wb");
    size_t i;
    int b, width = o->f32 ? 4 : 8;
    for (i = 0; i < count; i++) {
        float small = (float)logits[i];
        uint32_t bits32;
        uint64_t bits;
        memcpy(&bits32, &small, 4);
        memcpy(&bits, &logits[i], 8);
        if (o->f32) bits = bits32;
        for (b = 0; b < width; b++) fputc((int)(bits >> 8 * b & 255), stream);
    }
    close_output(stream, o->out);
}

/* Root mean square of a - b, relative to that of a. */
static double deviation(const double *a, const double *b, size_t n)
{
    double difference = 0, size = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += a[i] * a[i];
    }
    return difference == 0 ? 0 : sqrt(difference / size);
}

/* Writes OUT.stable: a header line "# n N n_vocab V runs R noise E", then per position its number and the largest
   deviation of `runs` noisy runs from the undisturbed one. */
static void write_stability(pass *p, const options *o, const double *logits)
{
    size_t n = o->n_tokens, v = p->m->n_vocab, t;
    double *largest = doubles(n), *other = doubles(n * v);
    settings set = o->set;
    char *path = (char *)allocate(strlen(o->out) + 8, 1);
    FILE *stream;
    long r;
    if (set.noise == 0) set.noise = 3e-7;
    for (r = 0; r < o->runs; r++) {
        set.state = (o->set.state + 1) * 1000003u + (uint64_t)r * 0x632be59bd9b4e019u;
        run(p, o, set, other);
        for (t = 0; t < n; t++) {
            double d = deviation(logits + t * v, other + t * v, v);
            if (d > largest[t]) largest[t] = d;
        }
    }
    sprintf(path, "%s.stable", o->out);
    stream = open_output(path, "w");
    fprintf(stream, "# n %lu n_vocab %lu runs %ld noise %g\n", (unsigned long)n, (unsigned long)v, o->runs, set.noise);
    for (t = 0; t < n; t++) fprintf(stream, "%lu %.3e\n", (unsigned long)t, largest[t]);
    close_output(stream, path);
}

int main(int argc, char **argv)
{
    options o;
    settings set;
    gguf file;
    model m;
    pass p;
    double *logits;
    size_t t;
    if (argc == 2 && !strcmp(argv[1], "--self-test")) return self_test();
    o = parse_options(argc, argv);
    set = o.set;
    memset(&m, 0, sizeof m);
    read_file(&file, o.model);
    read_model(&file, &m, o.layout);
    for (t = 0; t < o.n_tokens; t++)
        if (o.tokens[t] >= m.n_vocab) fail("token %lu of %lu", (unsigned long)o.tokens[t], (unsigned long)m.n_vocab);
    p = make_pass(&m, o.n_tokens);
    logits = doubles(o.n_tokens * m.n_vocab);
    if (o.runs) set.noise = 0; /* --noise then belongs to the noisy runs only */
    run(&p, &o, set, logits);
    write_logits(&o, logits, o.n_tokens * m.n_vocab);
    if (o.runs) write_stability(&p, &o, logits);
    return 0;
}
