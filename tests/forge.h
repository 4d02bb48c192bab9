/* forge.h: GGUF files made by hand in memory, sound or bent on purpose. Include after bitnet.h and test.h.

       static forge f;
       forge_sound(&f);                            a whole bitnet-b1.58 model of 6 KB that runs
       forge_u32(&f, "general.alignment", 3);      sets or adds a key
       forge_tensor_of(&f, "output_norm.weight")->ne[0] = 31;
       size = forge_write(&f, bytes, sizeof bytes);

   The writer computes nothing that a test has set by hand, and checks nothing: that is what it is for. */

#ifndef BITNET_TEST_FORGE_H
#define BITNET_TEST_FORGE_H

enum { FORGE_MAX = 96 };             /* keys, and tensors */

typedef struct forge_kv {
    const char *key;
    uint64_t key_size, size;         /* what is written as the key's length; bytes of value */
    uint32_t type;
    size_t at;                       /* of the value in the pool */
} forge_kv;

typedef struct forge_tensor {
    const char *name;
    uint64_t name_size, ne[8], offset, size;   /* offset UINT64_MAX: where the data really stands */
    uint32_t n_dims, type;
    size_t at;                       /* of the data in the pool */
} forge_tensor;

typedef struct forge {
    uint32_t magic, version;
    uint64_t claimed_kv, claimed_tensors;      /* UINT64_MAX: the true counts */
    uint64_t alignment;              /* that the data is laid out with, whatever the key says */
    int n_kv, n_tensors;
    forge_kv kv[FORGE_MAX];
    forge_tensor tensor[FORGE_MAX];
    size_t used;
    uint8_t pool[1 << 18];
} forge;

/* n bytes in the pool, copied from data or cleared; result: their place. */
static size_t forge_keep(forge *f, const void *data, size_t n)
{
    size_t at = f->used;
    REQUIRE(n <= sizeof f->pool - at, "forge: no room for %lu bytes", (unsigned long)n);
    if (data)
        memcpy(f->pool + at, data, n);
    else
        memset(f->pool + at, 0, n);
    f->used += n;
    return at;
}

static void forge_put(uint8_t *p, uint64_t v, int bytes)
{
    int i;
    for (i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static forge_kv *forge_kv_of(forge *f, const char *key)
{
    int i;
    for (i = 0; i < f->n_kv; i++)
        if (strcmp(f->kv[i].key, key) == 0)
            return &f->kv[i];
    return NULL;
}

static forge_tensor *forge_tensor_of(forge *f, const char *name)
{
    int i;
    for (i = 0; i < f->n_tensors; i++)
        if (strcmp(f->tensor[i].name, name) == 0)
            return &f->tensor[i];
    REQUIRE(0, "forge: no tensor %s", name);
    return NULL;
}

/* Adds a key even where there is one of that name. */
static forge_kv *forge_add(forge *f, const char *key, uint32_t type, const void *value, size_t size)
{
    forge_kv *kv = &f->kv[f->n_kv++];
    REQUIRE(f->n_kv <= FORGE_MAX, "forge: too many keys");
    kv->key = key;
    kv->key_size = strlen(key);
    kv->type = type;
    kv->size = size;
    kv->at = forge_keep(f, value, size);
    return kv;
}

/* Replaces a key in its place, or adds it. */
static void forge_set(forge *f, const char *key, uint32_t type, const void *value, size_t size)
{
    forge_kv *kv = forge_kv_of(f, key);
    if (!kv) {
        forge_add(f, key, type, value, size);
        return;
    }
    kv->type = type;
    kv->size = size;
    kv->at = forge_keep(f, value, size);
}

/* A number of 1, 2, 4 or 8 bytes as its bits. */
static void forge_number(forge *f, const char *key, uint32_t type, uint64_t bits, int bytes)
{
    uint8_t b[8];
    forge_put(b, bits, bytes);
    forge_set(f, key, type, b, (size_t)bytes);
}

static void forge_u32(forge *f, const char *key, uint32_t v) { forge_number(f, key, BNI_KV_U32, v, 4); }
static void forge_f32(forge *f, const char *key, float v) { forge_number(f, key, BNI_KV_F32, bni_float_bits(v), 4); }

/* A string that says it has `claimed` bytes. */
static void forge_text_of(forge *f, const char *key, const char *text, uint64_t claimed)
{
    uint8_t b[4096];
    size_t n = strlen(text);
    REQUIRE(n + 8 <= sizeof b, "forge: a text of %lu bytes", (unsigned long)n);
    forge_put(b, claimed, 8);
    memcpy(b + 8, text, n);
    forge_set(f, key, BNI_KV_STRING, b, n + 8);
}

static void forge_text(forge *f, const char *key, const char *text) { forge_text_of(f, key, text, strlen(text)); }

/* An array that says it has `claimed` elements of `elem`, with the bytes given. */
static void forge_array(forge *f, const char *key, uint32_t elem, uint64_t claimed, const void *bytes, size_t size)
{
    static uint8_t b[1 << 17];
    REQUIRE(size + 12 <= sizeof b, "forge: an array of %lu bytes", (unsigned long)size);
    forge_put(b, elem, 4);
    forge_put(b + 4, claimed, 8);
    if (bytes)
        memcpy(b + 12, bytes, size);
    else
        memset(b + 12, 0, size);
    forge_set(f, key, BNI_KV_ARRAY, b, size + 12);
}

static void forge_strings(forge *f, const char *key, const char *const *text, int n)
{
    static uint8_t b[1 << 15];
    size_t at = 0, k;
    int i;
    for (i = 0; i < n; i++, at += k) {
        k = strlen(text[i]);
        REQUIRE(at + 8 + k <= sizeof b, "forge: strings are too long");
        forge_put(b + at, k, 8);
        memcpy(b + at + 8, text[i], k);
        at += 8;
    }
    forge_array(f, key, BNI_KV_STRING, (uint64_t)n, b, at);
}

static void forge_ints(forge *f, const char *key, const int *v, int n)
{
    uint8_t b[4096];
    int i;
    for (i = 0; i < n; i++)
        forge_put(b + 4 * i, (uint64_t)(int64_t)v[i], 4);
    forge_array(f, key, BNI_KV_I32, (uint64_t)n, b, 4 * (size_t)n);
}

TEST_UNUSED static void forge_drop(forge *f, const char *key)
{
    forge_kv *kv = forge_kv_of(f, key);
    REQUIRE(kv != NULL, "forge: no key %s", key);
    memmove(kv, kv + 1, (size_t)(&f->kv[f->n_kv--] - kv - 1) * sizeof *kv);
}

/* A tensor of that type and shape (rows 0: a vector), its data arbitrary but sound: norms of 1, weights of a pattern,
   I2_S with the scale 0.5. */
static forge_tensor *forge_add_tensor(forge *f, const char *name, uint32_t type, uint64_t cols, uint64_t rows)
{
    forge_tensor *t = &f->tensor[f->n_tensors++];
    uint64_t n = cols * (rows ? rows : 1), i;
    uint8_t *p;
    REQUIRE(f->n_tensors <= FORGE_MAX, "forge: too many tensors");
    memset(t, 0, sizeof *t);
    t->name = name;
    t->name_size = strlen(name);
    t->n_dims = rows ? 2 : 1;
    t->ne[0] = cols;
    t->ne[1] = rows ? rows : 1;
    t->type = type;
    t->offset = UINT64_MAX;
    t->size = type == BNI_TYPE_I2_S ? n / 4 + 32 : type == BNI_TYPE_F16 ? 2 * n : 4 * n;
    t->at = forge_keep(f, NULL, (size_t)t->size);
    p = f->pool + t->at;
    if (type == BNI_TYPE_I2_S) {
        for (i = 0; i < n / 4; i++)
            p[i] = (uint8_t)((i * 37 + n) % 3 << 6 | (i * 11 + 1) % 3 << 4 | (i * 5) % 3 << 2 | (i * 7 + n) % 3);
        forge_put(p + n / 4, bni_float_bits(0.5f), 4);
    } else {
        for (i = 0; i < n; i++) {
            float v = rows ? (float)(int)(i * 29 % 17) / 16.0f - 0.5f : 1.0f;
            if (type == BNI_TYPE_F16)
                forge_put(p + 2 * i, bni_f32_to_f16(v), 2);
            else
                forge_put(p + 4 * i, bni_float_bits(v), 4);
        }
    }
    return t;
}

TEST_UNUSED static void forge_drop_tensor(forge *f, const char *name)
{
    forge_tensor *t = forge_tensor_of(f, name);
    memmove(t, t + 1, (size_t)(&f->tensor[f->n_tensors--] - t - 1) * sizeof *t);
}

enum { FORGE_EMBD = 32, FORGE_FF = 48, FORGE_HEADS = 4, FORGE_HEADS_KV = 2, FORGE_HEAD_DIM = 8, FORGE_VOCAB = 16 };

static const char *const forge_vocabulary[FORGE_VOCAB] = {
    "a", "b", "c", "\xc4\xa0", ("\xc4\xa0" "a"), "ab", "abc", "!", "1", "User", ":", "Assistant", "<|begin_of_text|>",
    "<|end_of_text|>", "<|eot_id|>", "<|extra|>"
};

/* A sound model of one layer. */
static void forge_sound(forge *f)
{
    static const char *const merges[4] = {"a b", "ab c", "\xc4\xa0 a", "b c"};
    static const int kinds[FORGE_VOCAB] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 4};
    const uint32_t w = BNI_TYPE_I2_S, n = BNI_TYPE_F32;
    memset(f, 0, sizeof *f);
    f->magic = 0x46554747u;
    f->version = 3;
    f->claimed_kv = f->claimed_tensors = UINT64_MAX;
    f->alignment = 32;
    forge_text(f, "general.architecture", "bitnet-b1.58");
    forge_text(f, "general.name", "forged");
    forge_u32(f, "general.alignment", 32);
    forge_u32(f, "bitnet-b1.58.block_count", 1);
    forge_u32(f, "bitnet-b1.58.context_length", 64);
    forge_u32(f, "bitnet-b1.58.embedding_length", FORGE_EMBD);
    forge_u32(f, "bitnet-b1.58.feed_forward_length", FORGE_FF);
    forge_u32(f, "bitnet-b1.58.attention.head_count", FORGE_HEADS);
    forge_u32(f, "bitnet-b1.58.attention.head_count_kv", FORGE_HEADS_KV);
    forge_u32(f, "bitnet-b1.58.rope.dimension_count", FORGE_HEAD_DIM);
    forge_f32(f, "bitnet-b1.58.rope.freq_base", 500000.0f);
    forge_f32(f, "bitnet-b1.58.attention.layer_norm_rms_epsilon", 1e-5f);
    forge_text(f, "tokenizer.ggml.model", "gpt2");
    forge_text(f, "tokenizer.ggml.pre", "llama-bpe");
    forge_strings(f, "tokenizer.ggml.tokens", forge_vocabulary, FORGE_VOCAB);
    forge_ints(f, "tokenizer.ggml.token_type", kinds, FORGE_VOCAB);
    forge_strings(f, "tokenizer.ggml.merges", merges, 4);
    forge_u32(f, "tokenizer.ggml.bos_token_id", 12);
    forge_u32(f, "tokenizer.ggml.eos_token_id", 13);
    forge_text(f, "tokenizer.chat_template", "{{ message['role'] | capitalize }}<|eot_id|>");
    forge_add_tensor(f, "token_embd.weight", BNI_TYPE_F16, FORGE_EMBD, FORGE_VOCAB);
    forge_add_tensor(f, "blk.0.attn_norm.weight", n, FORGE_EMBD, 0);
    forge_add_tensor(f, "blk.0.attn_q.weight", w, FORGE_EMBD, FORGE_HEADS * FORGE_HEAD_DIM);
    forge_add_tensor(f, "blk.0.attn_k.weight", w, FORGE_EMBD, FORGE_HEADS_KV * FORGE_HEAD_DIM);
    forge_add_tensor(f, "blk.0.attn_v.weight", w, FORGE_EMBD, FORGE_HEADS_KV * FORGE_HEAD_DIM);
    forge_add_tensor(f, "blk.0.attn_sub_norm.weight", n, FORGE_HEADS * FORGE_HEAD_DIM, 0);
    forge_add_tensor(f, "blk.0.attn_output.weight", w, FORGE_HEADS * FORGE_HEAD_DIM, FORGE_EMBD);
    forge_add_tensor(f, "blk.0.ffn_norm.weight", n, FORGE_EMBD, 0);
    forge_add_tensor(f, "blk.0.ffn_gate.weight", w, FORGE_EMBD, FORGE_FF);
    forge_add_tensor(f, "blk.0.ffn_up.weight", w, FORGE_EMBD, FORGE_FF);
    forge_add_tensor(f, "blk.0.ffn_sub_norm.weight", n, FORGE_FF, 0);
    forge_add_tensor(f, "blk.0.ffn_down.weight", w, FORGE_FF, FORGE_EMBD);
    forge_add_tensor(f, "output_norm.weight", n, FORGE_EMBD, 0);
}

/* The file's bytes. *data_start (may be NULL): where the header and its padding end. */
static size_t forge_write(const forge *f, uint8_t *out, size_t capacity, size_t *data_start)
{
    size_t at = 24, start;
    uint64_t offset = 0;
    int i, pass;
    uint32_t d;
    REQUIRE(f->used + 65536 < capacity, "forge: a file of over %lu bytes", (unsigned long)capacity);
    memset(out, 0, capacity);
    forge_put(out, f->magic, 4);
    forge_put(out + 4, f->version, 4);
    forge_put(out + 8, f->claimed_tensors != UINT64_MAX ? f->claimed_tensors : (uint64_t)f->n_tensors, 8);
    forge_put(out + 16, f->claimed_kv != UINT64_MAX ? f->claimed_kv : (uint64_t)f->n_kv, 8);
    for (i = 0; i < f->n_kv; i++) {
        const forge_kv *kv = &f->kv[i];
        size_t n = strlen(kv->key);
        forge_put(out + at, kv->key_size, 8);
        memcpy(out + at + 8, kv->key, n);
        forge_put(out + at + 8 + n, kv->type, 4);
        memcpy(out + at + 12 + n, f->pool + kv->at, (size_t)kv->size);
        at += 12 + n + (size_t)kv->size;
    }
    for (i = 0; i < f->n_tensors; i++) {
        const forge_tensor *t = &f->tensor[i];
        size_t n = strlen(t->name);
        forge_put(out + at, t->name_size, 8);
        memcpy(out + at + 8, t->name, n);
        at += 8 + n;
        forge_put(out + at, t->n_dims, 4);
        for (at += 4, d = 0; d < t->n_dims && d < 8; d++, at += 8)
            forge_put(out + at, t->ne[d], 8);
        forge_put(out + at, t->type, 4);
        forge_put(out + at + 4, t->offset != UINT64_MAX ? t->offset : offset, 8);
        at += 12;
        offset += (t->size + f->alignment - 1) / f->alignment * f->alignment;
    }
    start = (size_t)((at + f->alignment - 1) / f->alignment * f->alignment);
    if (data_start)
        *data_start = start;
    for (at = start, pass = 0; pass < f->n_tensors; pass++) {
        const forge_tensor *t = &f->tensor[pass];
        size_t padded = (size_t)((t->size + f->alignment - 1) / f->alignment * f->alignment);
        REQUIRE(at + padded <= capacity, "forge: a file of over %lu bytes", (unsigned long)capacity);
        memcpy(out + at, f->pool + t->at, (size_t)t->size);
        at += padded;
    }
    return at;
}

#endif
