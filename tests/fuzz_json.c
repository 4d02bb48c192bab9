/* Any bytes as one of the files that tools/convert.c reads. The first byte says which:

       u8 what (mod 4: 0 any JSON, 1 the header of a safetensors file, 2 tokenizer.json, 3 tokenizer.model)
       the rest is the file; of a header, its first 2 bytes are the size of the data behind it */

#include "tools/cli.h"
#include "tools/gguf_write.h"
#include "tools/safetensors.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/vocab.h"
#include "fuzz.h"

/* Every node is reached once, strings are UTF-8 within the text, and numbers can be asked for. */
static void walk(const json_doc *d, size_t size)
{
    uint32_t i, reached = 1;
    for (i = 0; i < d->n_nodes; i++) {
        const json_node *node = &d->nodes[i], *child;
        uint32_t n = 0;
        int64_t integer;
        double real;
        size_t at = 0, k;
        for (child = json_first(d, node); child; child = json_next(d, child)) n++;
        if (node->type >= JSON_ARRAY && n != node->size)
            abort();
        reached += n;
        if (node->type == JSON_NUMBER && !json_real(d, node, &real))
            abort();
        json_int(d, node, &integer);
        json_get(d, node, "a");
        if (node->type != JSON_STRING)
            continue;
        if (node->at + (size_t)node->size >= size || json_text(d, node)[node->size] != 0)
            abort();
        for (; at < node->size; at += k)
            if ((k = json_utf8_length((const unsigned char *)json_text(d, node) + at, node->size - at)) == 0)
                abort();
    }
    if (reached != d->n_nodes)
        abort();
}

static void read_header(char *text, size_t size)
{
    st_set s;
    size_t i;
    uint64_t data, sum = 0;
    memset(&s, 0, sizeof s);
    if (size < 2)
        return;
    data = (uint64_t)(unsigned char)text[0] | (uint64_t)(unsigned char)text[1] << 8;
    if (st_add(&s, text + 2, size - 2, data, "fuzz", 0) && st_sort(&s)) {
        for (i = 0; i < s.n_tensors; i++)
            sum += s.tensors[i].size;
        if (sum != data)                       /* whatever is accepted covers the data exactly */
            abort();
        st_find(&s, "model.norm.weight");
    } else if (!s.error[0]) {
        abort();
    }
    st_close(&s);
}

static void read_vocabulary(char *text, size_t size, int spm)
{
    static const json_doc none;
    vocab_hints hints;
    vocabulary v;
    gguf_writer w;
    int i;
    memset(&hints, 0, sizeof hints);
    hints.tokenizer_config = hints.config = hints.added_tokens = &none;
    vocab_init(&v);
    gguf_writer_init(&w);
    if ((spm ? vocab_from_spm(&v, text, size) : vocab_from_json(&v, text, size)) && vocab_settle(&v, &hints) &&
        vocab_fill(&v, v.n + 1)) {
        for (i = 0; i < v.n; i++)
            if (v.tokens[i].type == VOCAB_HOLE || !v.tokens[i].text.data)
                abort();
        vocab_write(&v, &w);
        if (!gguf_ok(&w))
            abort();
    } else if (!v.error[0]) {
        abort();
    }
    gguf_cancel(&w);
    vocab_free(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text;
    json_doc d;
    (void)fuzz_forge;
    if (size == 0)
        return 0;
    text = (char *)malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    switch (data[0] % 4) {
    case 0:
        if (json_parse(&d, text, size - 1))
            walk(&d, size);
        else if (!d.error || d.error_at > size)
            abort();
        json_free(&d);
        break;
    case 1: read_header(text, size - 1); break;
    case 2: read_vocabulary(text, size - 1, 0); break;
    default: read_vocabulary(text, size - 1, 1); break;
    }
    free(text);
    return 0;
}

#if !defined(FUZZ_LIB)
static size_t fuzz_seed(uint8_t *out, size_t capacity)
{
    static const char seed[] =
        "2{\"added_tokens\":[{\"id\":4,\"content\":\"<|eot_id|>\",\"special\":true}],\"normalizer\":{\"type\":\"Prepend\"},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"ByteLevel\",\"use_regex\":true}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
        "[{\"SpecialToken\":{\"id\":\"<|eot_id|>\"}},{\"Sequence\":{\"id\":\"A\"}}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":false,"
        "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\\u00e9\\ud83d\\ude00\":3},\"merges\":[\"a b\",[\"ab\",\"b\"]]},\"x\":[-1.5e3,{},null]}";
    (void)capacity;
    memcpy(out, seed, sizeof seed - 1);
    return sizeof seed - 1;
}
#endif
