/* make_hf: a Hugging Face folder from a GGUF file of I2_S, the way tools/convert.c takes backwards; and a comparison.

       make_hf MODEL.gguf FOLDER [options]      writes config.json, the tokenizer and *.safetensors into FOLDER
           --packed           codes in bytes with weight_scale, as published; else masters of floats
           --divide           weight_scale is the inverse (linear_class bitlinear)
           --dtype NAME       of masters and weight_scale: BF16 (default), F16, F32
           --ties             masters with many weights at exactly half of the mean, whose rounding tells
           --ready            masters that are ternary already, and a config.json that does not speak of BitNet
           --plain            masters, and a config.json that does not speak of BitNet
           --shards N         several files and an index
           --no-spm           SPM vocabularies as tokenizer.json too
           --template TEXT    tokenizer_config.json's chat_template
           --config TEXT      more members of config.json, in front of the others
           --damage WHAT      overlap, outside, gap, dtype, shape, nan, inf, twice, scale, code, header
       make_hf --compare A.gguf B.gguf [--codes]
           exit 1 and the first difference, if tensors (but for the last bits of I2_S scales; --codes: but for scales) or
           vocabularies differ

   Masters are made so that their mean magnitude is exactly the matrix's scale: zeros become a quarter of it (half, with
   --ties), and as many ones are doubled as makes up for that. For synth's files, whose scales are of type bfloat16. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 4096 };

typedef enum kind { KIND_COPY, KIND_MASTER, KIND_PACKED, KIND_SCALE } kind;

typedef struct entry {
    char name[128];
    const char *dtype;
    kind what;
    const bni_tensor *from;
    uint64_t rows, cols, size;           /* rows 0: a vector; bytes */
    int heads, shard;
} entry;

static struct {
    const char *folder, *dtype, *template_text, *config, *damage;
    int packed, divide, ties, ready, plain, shards, no_spm;
} o;

static bitnet_model m;
static entry entries[MAX_TENSORS];
static int n_entries;
static char arch[32];

static void die(const char *what, const char *more)
{
    fprintf(stderr, "make_hf: %s %s\n", what, more);
    exit(1);
}

static int damaged(const char *what) { return o.damage && strcmp(o.damage, what) == 0; }

static void open_tables(bitnet_model *model, const char *path)
{
    bitnet_model_desc d;
    bitnet_error err;
    memset(&d, 0, sizeof d);
    memset(model, 0, sizeof *model);
    d.path = path;
    if (bni_model_tables(model, &d, &err) != BITNET_OK) die(path, err.text);
}

static FILE *create(const char *name)
{
    char path[1000];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", o.folder, name);
    f = fopen(path, "wb");
    if (!f) die("cannot create", path);
    return f;
}

static uint64_t hyper(const char *name)
{
    uint64_t v = 0;
    bni_kv_uint(bni_model_key(&m.gguf, bni_str_of(arch), name), &v);
    return v;
}

static float hyper_real(const char *name)
{
    float v = 0;
    bni_kv_float(bni_model_key(&m.gguf, bni_str_of(arch), name), &v);
    return v;
}

/* ------------------------------------------------------------------------------------------------ weights */

static uint32_t to_bf16(float v) { return (bni_float_bits(v) + 0x7fffu + ((bni_float_bits(v) >> 16) & 1)) >> 16; }

static void put_value(FILE *f, const char *dtype, float v)
{
    const uint32_t bits = strcmp(dtype, "BF16") == 0 ? to_bf16(v) : strcmp(dtype, "F16") == 0 ? bni_f32_to_f16(v) : bni_float_bits(v);
    int i;
    for (i = 0; i < (strcmp(dtype, "F32") == 0 ? 4 : 2); i++) fputc((int)(bits >> (8 * i) & 255), f);
}

static float scale_of(const bni_tensor *t)
{
    const uint8_t *p = m.source.data + t->offset;
    float s = bni_load_f32(p + bni_tensor_count(t) / 4);
    return o.ties ? ldexpf(1.0f, (int)floorf(log2f(s))) : s;
}

/* Codes [rows, cols] in HF's order of rows: a head's rows (h, i, j), j < 2, are (h, j, i) there. */
static uint8_t *codes_of(const entry *e)
{
    const uint64_t d = e->heads ? e->rows / (uint64_t)e->heads : 0;
    uint8_t *codes = (uint8_t *)malloc((size_t)(e->rows * e->cols));
    uint64_t r;
    for (r = 0; r < e->rows; r++) {
        const uint64_t x = d ? r % d : 0, from = d ? r - x + 2 * (x % (d / 2)) + x / (d / 2) : r;
        bni_i2s_row(m.source.data + e->from->offset, BITNET_I2S_A, from, e->cols, codes + r * e->cols);
    }
    return codes;
}

static void write_master(FILE *f, const entry *e)
{
    const uint64_t n = e->rows * e->cols, whole = o.ties ? 2 : 4;
    const float s = scale_of(e->from), part = s / (float)whole;
    uint8_t *codes = codes_of(e);
    uint64_t zeros = 0, i, few, doubled, seen0 = 0, seen1 = 0;
    for (i = 0; i < n; i++) zeros += codes[i] == 1;
    few = zeros - zeros % whole;
    doubled = few - few / whole + zeros % whole;
    for (i = 0; i < n; i++) {
        float v = 0;
        if (codes[i] != 1) v = (float)(codes[i] - 1) * (!o.ready && seen1++ < doubled ? 2 * s : s);
        else if (!o.ready && seen0++ < few) v = seen0 % 2 ? part : -part;
        if (damaged("nan") && i == n / 2) v = NAN;
        if (damaged("inf") && i == n - 1) v = INFINITY;
        put_value(f, e->dtype, v);
    }
    free(codes);
}

static void write_packed(FILE *f, const entry *e)
{
    const uint64_t quarter = e->rows / 4;
    uint8_t *codes = codes_of(e);
    uint64_t r, k, i;
    for (r = 0; r < quarter; r++)
        for (k = 0; k < e->cols; k++) {
            unsigned byte = 0;
            for (i = 0; i < 4; i++) byte |= (unsigned)codes[(r + i * quarter) * e->cols + k] << (2 * i);
            fputc((int)(damaged("code") && r + 1 == quarter ? byte | 12u : byte), f);
        }
    free(codes);
}

/* The inverse whose own inverse is the scale again, where there is one. */
static float inverse(float s)
{
    const float x = 1 / s;
    if (1 / nextafterf(x, 0) == s) return nextafterf(x, 0);
    return 1 / x != s && 1 / nextafterf(x, INFINITY) == s ? nextafterf(x, INFINITY) : x;
}

static void write_entry(FILE *f, const entry *e)
{
    const uint8_t *p = m.source.data + e->from->offset;
    switch (e->what) {
    case KIND_COPY: fwrite(p, 1, (size_t)e->size, f); break;
    case KIND_MASTER: write_master(f, e); break;
    case KIND_PACKED: write_packed(f, e); break;
    case KIND_SCALE: put_value(f, e->dtype, damaged("scale") ? 0 : o.divide ? inverse(scale_of(e->from)) : scale_of(e->from)); break;
    }
}

/* A shard: header, then the data. Damage is done to the first tensor of a layer. */
static void write_shard(int shard, const char *name)
{
    FILE *f = create(name);
    static char json[1 << 20];
    size_t n = 0;
    uint64_t at = 0, header;
    int i, hurt = 1;
    n += (size_t)sprintf(json, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (i = 0; i < n_entries; i++) {
        const entry *e = &entries[i];
        const int here = hurt && strstr(e->name, "layers.0.") != NULL && e->what != KIND_SCALE;
        uint64_t begin = at, end = at + e->size;
        if (e->shard != shard) continue;
        if (here && damaged("overlap")) begin -= 2, end -= 2;
        if (here && damaged("outside")) begin += (uint64_t)1 << 40, end += (uint64_t)1 << 40;
        if (here && damaged("gap")) at += 32, begin += 32, end += 32;
        n += (size_t)sprintf(json + n, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", e->name, here && damaged("dtype") ? "QF16" : e->dtype);
        if (e->rows) n += (size_t)sprintf(json + n, "%.0f,", (double)(e->what == KIND_PACKED ? e->rows / 4 : e->rows));
        n += (size_t)sprintf(json + n, "%.0f],\"data_offsets\":[%.0f,%.0f]}", (double)(e->cols + (here && damaged("shape"))), (double)begin, (double)end);
        if (here && damaged("twice"))
            n += (size_t)sprintf(json + n, ",\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}", e->name);
        if (here) hurt = 0;
        at += e->size;
    }
    n += (size_t)sprintf(json + n, damaged("header") ? ",}" : "}");
    while (n % 8) json[n++] = ' ';
    header = n;
    for (i = 0; i < 8; i++) fputc((int)(header >> (8 * i) & 255), f);
    fwrite(json, 1, n, f);
    for (i = 0, hurt = 1; i < n_entries; i++) {
        if (entries[i].shard != shard) continue;
        if (hurt && strstr(entries[i].name, "layers.0.") && damaged("gap")) for (hurt = 0, n = 0; n < 32; n++) fputc(0, f);
        write_entry(f, &entries[i]);
    }
    if (fclose(f) != 0) die("cannot write", name);
}

static entry *add(const char *name, const bni_tensor *t, kind what, const char *dtype)
{
    entry *e = &entries[n_entries++];
    snprintf(e->name, sizeof e->name, "%s", name);
    e->from = t;
    e->what = what;
    e->dtype = dtype;
    e->cols = t->ne[0];
    e->rows = t->n_dims > 1 ? t->ne[1] : 0;
    e->size = (e->rows ? e->rows : 1) * e->cols * (strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "U8") == 0 ? 1 : 2);
    return e;
}

/* HF's name for a tensor of the file. */
static void add_tensor(const bni_tensor *t)
{
    static const char *const parts[][2] = {
        {"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
        {"attn_sub_norm", "self_attn.attn_sub_norm"}, {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
        {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_sub_norm", "mlp.ffn_sub_norm"}, {"ffn_down", "mlp.down_proj"}};
    char gguf[64], name[128], part[64];
    const char *values = t->type == BNI_TYPE_F32 ? "F32" : "F16";
    int layer, i;
    snprintf(gguf, sizeof gguf, "%.*s", (int)t->name.size, t->name.data);
    if (strcmp(gguf, "token_embd.weight") == 0) { add("model.embed_tokens.weight", t, KIND_COPY, values); return; }
    if (strcmp(gguf, "output_norm.weight") == 0) { add("model.norm.weight", t, KIND_COPY, values); return; }
    if (strcmp(gguf, "output.weight") == 0) { add("lm_head.weight", t, KIND_COPY, values); return; }
    if (sscanf(gguf, "blk.%d.%63[^.]", &layer, part) != 2) die("no place for", gguf);
    for (i = 0; strcmp(parts[i][0], part) != 0; i++)
        if (i == 10) die("no place for", gguf);
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer,
             strcmp(arch, "bitnet") != 0 ? parts[i][1] : i == 4 ? "self_attn.inner_attn_ln" : i == 9 ? "mlp.ffn_layernorm" : parts[i][1]);
    if (t->type != BNI_TYPE_I2_S) { add(name, t, KIND_COPY, values); return; }
    add(name, t, o.packed ? KIND_PACKED : KIND_MASTER, o.packed ? "U8" : o.dtype);
    if (o.packed) entries[n_entries - 1].size /= 4;
    if (strcmp(arch, "llama") == 0 && (i == 1 || i == 2))
        entries[n_entries - 1].heads = (int)hyper(i == 1 ? "attention.head_count" : "attention.head_count_kv");
    if (o.packed) {
        entry *e;
        strcat(name, "_scale");
        e = add(name, t, KIND_SCALE, o.dtype);
        e->rows = 0;
        e->cols = 1;
        e->size = strcmp(o.dtype, "F32") == 0 ? 4 : 2;
    }
}

static void write_weights(void)
{
    uint64_t t;
    int i;
    FILE *f;
    for (t = 0; t < m.gguf.n_tensors; t++) add_tensor(&m.gguf.tensors[t]);
    if (o.shards < 2) {
        write_shard(0, "model.safetensors");
        return;
    }
    f = create("model.safetensors.index.json");
    fprintf(f, "{\"metadata\": {}, \"weight_map\": {");
    for (i = 0; i < n_entries; i++) {
        entries[i].shard = i * o.shards / n_entries;
        fprintf(f, "%s\n\"%s\": \"model-%05d-of-%05d.safetensors\"", i ? "," : "", entries[i].name, entries[i].shard + 1, o.shards);
    }
    fprintf(f, "}}\n");
    fclose(f);
    for (i = 0; i < o.shards; i++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, o.shards);
        write_shard(i, name);
    }
}

/* ---------------------------------------------------------------------------------------------- tokenizer */

/* A string of JSON; escaped: nothing but ASCII. */
static void put_json(FILE *f, bni_str s, int escaped)
{
    size_t at = 0;
    fputc('"', f);
    while (at < s.size) {
        uint32_t code;
        const size_t n = bni_utf8_decode((const uint8_t *)s.data + at, s.size - at, &code);
        if (code == '"' || code == '\\') fprintf(f, "\\%c", (int)code);
        else if (code == '\n') fprintf(f, "\\n");
        else if (code < 32) fprintf(f, "\\u%04x", (unsigned)code);
        else if (code < 128 || !escaped) fwrite(s.data + at, 1, n, f);
        else if (code < 0x10000) fprintf(f, "\\u%04X", (unsigned)code);
        else fprintf(f, "\\u%04x\\u%04x", (unsigned)(0xd7c0 + (code >> 10)), (unsigned)(0xdc00 + (code & 0x3ff)));
        at += n;
    }
    fputc('"', f);
}

static int type_of(uint64_t id) { return (int)bni_kv_int_at(bni_gguf_find(&m.gguf, "tokenizer.ggml.token_type"), id); }

static bni_str token(uint64_t id)
{
    bni_strings all = bni_kv_strings(bni_gguf_find(&m.gguf, "tokenizer.ggml.tokens"));
    bni_str s = {"", 0};
    uint64_t i;
    for (i = 0; i <= id; i++) bni_strings_next(&all, &s);
    return s;
}

static int is_added(int type) { return type == 3 || type == 4; }

static void write_added(FILE *f)
{
    bni_strings all = bni_kv_strings(bni_gguf_find(&m.gguf, "tokenizer.ggml.tokens"));
    bni_str s;
    uint64_t id;
    const char *comma = "";
    fprintf(f, "\"added_tokens\": [");
    for (id = 0; bni_strings_next(&all, &s); id++) {
        if (!is_added(type_of(id))) continue;
        fprintf(f, "%s\n{\"id\": %d, \"content\": ", comma, (int)id);
        put_json(f, s, 0);
        fprintf(f, ", \"special\": %s}", type_of(id) == 3 ? "true" : "false");
        comma = ",";
    }
    fprintf(f, "],\n");
}

static void write_merges(FILE *f)
{
    bni_strings all = bni_kv_strings(bni_gguf_find(&m.gguf, "tokenizer.ggml.merges"));
    bni_str s;
    int i;
    for (i = 0; bni_strings_next(&all, &s); i++) {
        const char *space = (const char *)memchr(s.data, ' ', s.size);
        bni_str left = s, right = s;
        left.size = (size_t)(space - s.data);
        right.data = space + 1;
        right.size = s.size - left.size - 1;
        fprintf(f, i ? ",\n" : "\n");
        if (i % 2) {                                     /* both ways that there are */
            fputc('[', f);
            put_json(f, left, 0);
            fputc(',', f);
            put_json(f, right, 1);
            fputc(']', f);
        } else {
            put_json(f, s, i % 4 == 0);
        }
    }
}

/* Merges that build the pieces of an SPM vocabulary by their scores: every way to cut a piece into two pieces. */
static void write_spm_merges(FILE *f)
{
    const bni_kv *scores = bni_gguf_find(&m.gguf, "tokenizer.ggml.scores");
    const uint64_t n = bni_kv_count(scores);
    uint64_t rank, id;
    const char *comma = "";
    for (rank = 0; rank < n; rank++)
        for (id = 0; id < n; id++) {
            const bni_str s = token(id);
            char merge[256];
            bni_str text;
            size_t cut, best = 0;
            if (type_of(id) != 1 || bni_kv_float_at(scores, id) != -(float)rank || s.size < 2) continue;
            for (cut = 1; cut < s.size; cut++)
                if (((unsigned char)s.data[cut] & 0xc0) != 0x80) best = cut;
            if (best == 0) continue;
            text.size = (size_t)snprintf(merge, sizeof merge, "%.*s %.*s", (int)best, s.data, (int)(s.size - best), s.data + best);
            text.data = merge;
            fprintf(f, "%s\n", comma);
            put_json(f, text, 0);
            comma = ",";
        }
}

static void write_tokenizer_json(int spm)
{
    static const char llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+";
    static const char falcon_e[] = "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+|x";
    bni_strings all = bni_kv_strings(bni_gguf_find(&m.gguf, "tokenizer.ggml.tokens"));
    bni_str s, pre = bni_str_of("");
    uint64_t id;
    const char *comma = "";
    FILE *f = create("tokenizer.json");
    bni_kv_string(bni_gguf_find(&m.gguf, "tokenizer.ggml.pre"), &pre);
    fprintf(f, "{\"version\": \"1.0\", ");
    write_added(f);
    if (spm) fprintf(f, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"\\u2581\"}]}, \"pre_tokenizer\": null,\n");
    else fprintf(f, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
                 "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]},\n", bni_str_equal(pre, "falcon_e") ? falcon_e : llama3);
    fprintf(f, "\"model\": {\"type\": \"BPE\", \"byte_fallback\": %s, \"ignore_merges\": true, \"vocab\": {", spm ? "true" : "false");
    for (id = 0; bni_strings_next(&all, &s); id++) {
        if (is_added(type_of(id))) continue;
        fprintf(f, "%s\n", comma);
        put_json(f, s, id % 2 == 0);
        fprintf(f, ": %d", (int)id);
        comma = ",";
    }
    fprintf(f, "}, \"merges\": [");
    if (spm) write_spm_merges(f);
    else write_merges(f);
    fprintf(f, "]}}\n");
    fclose(f);
}

static void put_varint(FILE *f, uint64_t v)
{
    for (; v > 127; v >>= 7) fputc((int)(v & 127) | 128, f);
    fputc((int)v, f);
}

static void write_tokenizer_model(void)
{
    const bni_kv *scores = bni_gguf_find(&m.gguf, "tokenizer.ggml.scores");
    bni_strings all = bni_kv_strings(bni_gguf_find(&m.gguf, "tokenizer.ggml.tokens"));
    bni_str s;
    uint64_t id;
    const char *comma = "{";
    FILE *f = create("tokenizer.model"), *added = create("added_tokens.json");
    for (id = 0; bni_strings_next(&all, &s); id++) {
        const uint32_t bits = bni_float_bits(bni_kv_float_at(scores, id));
        int i;
        if (id >= 3 && is_added(type_of(id))) {          /* behind the model's own */
            fprintf(added, "%s\"%.*s\": %d", comma, (int)s.size, s.data, (int)id);
            comma = ", ";
            continue;
        }
        fputc(1 << 3 | 2, f);
        put_varint(f, 1 + (s.size < 128 ? 1 : 2) + s.size + 5 + 2);
        fputc(1 << 3 | 2, f);
        put_varint(f, s.size);
        fwrite(s.data, 1, s.size, f);
        fputc(2 << 3 | 5, f);
        for (i = 0; i < 4; i++) fputc((int)(bits >> (8 * i) & 255), f);
        fputc(3 << 3, f);
        fputc(type_of(id), f);
    }
    fprintf(added, "%s}", comma[0] == '{' ? "{" : "");
    fclose(added);
    fwrite("\x12\x02\x18\x02\x1a\x02\x18\x01", 1, 8, f); /* a BPE; a space in front */
    fclose(f);
}

static void write_tokenizer(void)
{
    static const char *const names[][2] = {{"bos", "bos"}, {"eos", "eos"}, {"unk", "unknown"}, {"pad", "padding"}};
    FILE *f = create("tokenizer_config.json");
    bni_str kind = bni_str_of("");
    uint64_t id;
    int i, flag = -1;
    bni_kv_string(bni_gguf_find(&m.gguf, "tokenizer.ggml.model"), &kind);
    if (bni_str_equal(kind, "llama") && !o.no_spm) write_tokenizer_model();
    else write_tokenizer_json(bni_str_equal(kind, "llama"));
    fprintf(f, "{\"model_max_length\": 1000000000000000019884624838656");
    for (i = 0; i < 4; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", names[i][1]);
        if (!bni_kv_uint(bni_gguf_find(&m.gguf, key), &id)) continue;
        fprintf(f, i % 2 ? ",\n\"%s_token\": " : ",\n\"%s_token\": {\"__type\": \"AddedToken\", \"content\": ", names[i][0]);
        put_json(f, token(id), 0);
        if (i % 2 == 0) fputc('}', f);
    }
    bni_kv_bool(bni_gguf_find(&m.gguf, "tokenizer.ggml.add_bos_token"), &flag);
    if (flag >= 0) fprintf(f, ",\n\"add_bos_token\": %s", flag ? "true" : "false");
    if (o.template_text) {
        fprintf(f, ",\n\"chat_template\": ");
        put_json(f, bni_str_of(o.template_text), 1);
    }
    fprintf(f, "}\n");
    fclose(f);
}

static void write_config(void)
{
    const int b158 = strcmp(arch, "bitnet-b1.58") == 0, older = strcmp(arch, "bitnet") == 0;
    const int tied = bni_gguf_tensor(&m.gguf, "output.weight") == NULL;
    const uint64_t dim = hyper("attention.key_length");
    FILE *f = create("config.json");
    fprintf(f, "{%s\n", o.config ? o.config : "");
    if (!o.plain && !o.ready) {
        if (older) fprintf(f, "\"weight_bits\": 1, \"input_bits\": 8, \"architectures\": [\"BitnetForCausalLM\"],\n");
        else fprintf(f, "\"architectures\": [\"%s\"],\n", b158 ? "BitNetForCausalLM" : "LlamaForCausalLM");
        fprintf(f, "\"quantization_config\": {\"quant_method\": \"bitnet\", \"linear_class\": \"%s\", \"quantization_mode\": \"%s\"},\n",
                o.divide ? "bitlinear" : "autobitlinear", o.packed ? "offline" : "online");
    }
    fprintf(f, "\"model_type\": \"%s\", \"hidden_act\": \"%s\",\n", b158 ? "bitnet" : "llama", b158 ? "relu2" : "silu");
    fprintf(f, "\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d,\n",
            (int)hyper("embedding_length"), (int)hyper("feed_forward_length"), (int)hyper("block_count"), (int)hyper("attention.head_count"), (int)hyper("attention.head_count_kv"));
    if (dim) fprintf(f, "\"head_dim\": %d,\n", (int)dim);
    fprintf(f, "\"max_position_embeddings\": %d, \"vocab_size\": %d, \"rms_norm_eps\": %.9g, \"rope_theta\": %.9g, \"rope_scaling\": null,\n",
            (int)hyper("context_length"), (int)bni_gguf_tensor(&m.gguf, "token_embd.weight")->ne[1],
            (double)hyper_real("attention.layer_norm_rms_epsilon"), (double)hyper_real("rope.freq_base"));
    fprintf(f, "\"tie_word_embeddings\": %s}\n", tied ? "true" : "false");
    fclose(f);
}

/* --------------------------------------------------------------------------------------------- comparison */

/* 1 if both files have the same array of that name, or one has none. Types: unused counts as normal. */
static int same_array(const bni_gguf *a, const bni_gguf *b, const char *key)
{
    const bni_kv *x = bni_gguf_find(a, key), *y = bni_gguf_find(b, key);
    uint64_t i;
    if (!x || !y) return 1;
    if (x->count != y->count || x->elem != y->elem) return 0;
    if (x->elem != BNI_KV_I32) return x->size == y->size && memcmp(x->value, y->value, (size_t)x->size) == 0;
    for (i = 0; i < x->count; i++)
        if (bni_kv_int_at(x, i) % 4 != bni_kv_int_at(y, i) % 4) return 0;
    return 1;
}

static void compare(const char *a, const char *b, int only_codes)
{
    static const char *const arrays[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"};
    bitnet_model x, y;
    uint64_t i;
    open_tables(&x, a);
    open_tables(&y, b);
    for (i = 0; i < 4; i++)
        if (!same_array(&x.gguf, &y.gguf, arrays[i])) die("differs:", arrays[i]);
    if (x.gguf.n_tensors != y.gguf.n_tensors) die("another number of tensors:", b);
    for (i = 0; i < x.gguf.n_tensors; i++) {
        const bni_tensor *t = &x.gguf.tensors[i], *u;
        const uint8_t *p = x.source.data + t->offset, *q;
        char name[64];
        uint64_t size = t->bytes ? t->bytes : t->gap;
        snprintf(name, sizeof name, "%.*s", (int)t->name.size, t->name.data);
        u = bni_gguf_tensor(&y.gguf, name);
        if (!u || u->type != t->type || memcmp(u->ne, t->ne, sizeof t->ne) != 0) die("not there, or another type or shape:", name);
        q = y.source.data + u->offset;
        if (t->type == BNI_TYPE_I2_S) {
            size = bni_tensor_count(t) / 4;
            if (!only_codes && !(fabsf(bni_load_f32(p + size) / bni_load_f32(q + size) - 1) < 2e-7f)) die("another scale:", name);
        }
        if (memcmp(p, q, (size_t)size) != 0) die("other bytes:", name);
    }
    printf("%.0f tensors agree\n", (double)x.gguf.n_tensors);
}

int main(int argc, char **argv)
{
    bni_str s = {"", 0};
    int i;
    if (argc >= 4 && strcmp(argv[1], "--compare") == 0) {
        compare(argv[2], argv[3], argc > 4);
        return 0;
    }
    if (argc < 3) die("usage: make_hf MODEL.gguf FOLDER [options], or make_hf --compare A B", "");
    o.folder = argv[2];
    o.dtype = "BF16";
    for (i = 3; i < argc; i++) {
        const char *a = argv[i], *next = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--packed") == 0) o.packed = 1;
        else if (strcmp(a, "--divide") == 0) o.divide = 1;
        else if (strcmp(a, "--ties") == 0) o.ties = 1;
        else if (strcmp(a, "--ready") == 0) o.ready = 1;
        else if (strcmp(a, "--plain") == 0) o.plain = 1;
        else if (strcmp(a, "--no-spm") == 0) o.no_spm = 1;
        else if (strcmp(a, "--dtype") == 0) o.dtype = next, i++;
        else if (strcmp(a, "--shards") == 0) o.shards = atoi(next), i++;
        else if (strcmp(a, "--template") == 0) o.template_text = next, i++;
        else if (strcmp(a, "--config") == 0) o.config = next, i++;
        else if (strcmp(a, "--damage") == 0) o.damage = next, i++;
        else die("unknown option", a);
    }
    open_tables(&m, argv[1]);
    bni_kv_string(bni_gguf_find(&m.gguf, "general.architecture"), &s);
    snprintf(arch, sizeof arch, "%.*s", (int)s.size, s.data);
    write_config();
    write_tokenizer();
    write_weights();
    return 0;
}
