/* The ternary types of files: the worked examples of their descriptions, types that share a number, and what is refused. That
   every type gives the same logits is tests/test_formats.sh's. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tests/test.h"
#include "tests/model.h"

static bni_ternary form_of(int form, uint64_t n_rows, uint64_t n_cols)
{
    bni_ternary t;
    memset(&t, 0, sizeof t);
    t.form = form;
    t.n_rows = n_rows;
    t.n_cols = n_cols;
    t.group = form == BNI_FORM_TQ1_0 || form == BNI_FORM_TQ2_0 ? 256 : form == BNI_FORM_Q2_0 ? 64 : form == BNI_FORM_Q2_0_128 ? 128 : n_cols;
    t.scale_at = bni_form_bytes(form, n_rows, n_cols) - BNI_TERNARY_TAIL;
    return t;
}

/* Hexadecimal text to bytes; returns how many. */
static int bytes_of(const char *hex, uint8_t *out)
{
    int n = 0, digits = 0;
    for (; *hex; hex++) {
        const int d = *hex >= 'a' ? *hex - 'a' + 10 : *hex - '0';
        if (*hex == ' ')
            continue;
        out[n] = (uint8_t)(digits % 2 ? out[n] | d : d << 4);
        n += digits++ % 2;
    }
    return n;
}

/* ((j^2 + j div 16) mod 3) of the first examples, j mod 3 of the others. */
static int square(int j) { return (j * j + j / 16) % 3; }
static int plain(int j) { return j % 3; }

static void example(const char *name, int form, int n, int skip, const char *hex, int (*code)(int))
{
    uint8_t data[512] = {0}, codes[512];
    bni_ternary t = form_of(form, form == BNI_FORM_IQ2_BN_R4 ? 4 : 1, (uint64_t)n);
    int k, wrong = 0;
    bytes_of(hex, data + skip);
    bni_ternary_codes(&t, data, 0, codes);
    for (k = 0; k < n; k++)
        wrong += codes[k] != code(k);
    CHECK(wrong == 0, "%s: %d of %d codes wrong", name, wrong, n);
}

static void test_examples(void)
{
    example("I2_S A", BNI_FORM_I2S_A, 128, 0, "08694508694508694508694508694508 829a51829a51829a51829a51829a5182", square);
    example("I2_S B", BNI_FORM_I2S_B, 128, 0, "20695120695120695120695120695120 82a64582a64582a64582a64582a64582", square);
    example("I2_S D", BNI_FORM_I2S_D, 128, 0, "14514514a69a69a62082082014514514 a69a69a62082082014514514a69a69a6", square);
    example("TQ1_0", BNI_FORM_TQ1_0, 256, 0, "456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456ccf456c"
            "94bb3194bb3194bb3194bb3194bb3194 3092bb30", plain);
    example("IQ1_BN", BNI_FORM_IQ1_BN, 64, 2, "6c45cfcf6c4545cf6c6c45cf17", plain);
    example("IQ2_BN, first block", BNI_FORM_IQ2_BN, 64, 4, "08694508694508694508694508694508", square);
}

/* The code at (row, col) depends on these bits of byte `at` and on nothing else there. */
static void place(const char *name, const bni_ternary *t, uint8_t *data, uint64_t row, uint64_t col, size_t at, int value, int want)
{
    uint8_t *codes = (uint8_t *)malloc((size_t)t->n_cols);
    const uint8_t old = data[at];
    unsigned before;
    bni_ternary_codes(t, data, row, codes);
    before = codes[col];
    data[at] = (uint8_t)value;
    bni_ternary_codes(t, data, row, codes);
    CHECK(codes[col] == want && before != (unsigned)want, "%s: code %d at %d, %d: byte %d", name, codes[col], (int)row, (int)col, (int)at);
    data[at] = old;
    free(codes);
}

static void test_tables(void)
{
    bni_ternary one = form_of(BNI_FORM_TL1, 1024, 4096), two = form_of(BNI_FORM_TL2, 1024, 4096);
    uint8_t *data = (uint8_t *)calloc(1024 * 4096 / 4 + 32, 1), codes[3 * 64];
    bni_ternary cut = form_of(BNI_FORM_TL1, 64, 192);
    one.bm = 128, one.by = 64, one.sub = 64;
    two.bm = 256, two.by = 96, two.sub = 32;
    place("TL1", &one, data, 200, 70, 134216, 3, 1);           /* low nibble, the first of the pair: 3 = (1, 0) */
    place("TL1", &one, data, 17, 3, 17, 2, 2);                 /* low nibble, the second: (0, 2) */
    /* |v| of the triple with column 100 as b: 3 of 9 a + 3 b + c is b = 1, so code 2; with the sign bit 0 */
    place("TL2", &two, data, 37, 100, 4613, 3, 2);
    data[4613] = 3;
    place("TL2, sign", &two, data, 37, 100, 689290 + 13 / 8, 1 << 13 % 8, 0);
    place("TL2, pairs", &two, data, 300, 4090, 866772, 3, 1);
    free(data);
    /* A damaged nibble is some code, never another bit pattern. */
    data = (uint8_t *)malloc(64 * 192 / 4 + 32);
    memset(data, 0xff, 64 * 192 / 4 + 32);
    cut.bm = 64, cut.by = 192, cut.sub = 64;
    bni_ternary_codes(&cut, data, 5, codes);
    CHECK(codes[0] < 3 && codes[1] < 3 && codes[190] < 3 && codes[191] < 3, "TL1: %d %d", codes[0], codes[1]);
    cut = form_of(BNI_FORM_TL2, 32, 192);
    cut.bm = 32, cut.by = 192, cut.sub = 32;
    bni_ternary_codes(&cut, data, 5, codes);
    CHECK(codes[0] < 3 && codes[1] < 3 && codes[190] < 3 && codes[191] < 3, "TL2: %d %d", codes[0], codes[1]);
    free(data);
}

/* A model of a type; what probing it as `wanted` says; or NULL where it is run. */
static void probe(const char *args, const char *layout, const char *tiles, const char *wanted)
{
    static const char path_of[] = "formats";
    char path[512];
    bitnet_model_desc d;
    bitnet_model_info info;
    bitnet_model *m = NULL;
    bitnet_error err;
    bitnet_result r;
    size_t size;
    uint8_t *file;
    test_make_model(path, path_of, args);
    file = test_read_file(path, &size);
    memset(&d, 0, sizeof d);
    memset(&err, 0, sizeof err);
    d.data = file;
    d.size = size;
    d.layout = layout;
    d.tl_tiles = tiles;
    d.n_threads = 1;
    r = bitnet_model_probe(&d, &info, &err);
    if (wanted)
        CHECK(strstr(info.unsupported, wanted) || strstr(err.text, wanted), "%s: %s%s", args, info.unsupported, err.text);
    else
        CHECK(r == BITNET_OK && info.is_supported, "%s: %s%s", args, info.unsupported, err.text);
    r = bitnet_model_open(&d, &m, &err);
    CHECK((r == BITNET_OK) == !wanted, "%s opened: %s", args, err.text);
    CHECK(!wanted || strstr(err.text, wanted), "%s: %s", args, err.text);
    bitnet_model_close(m);
    free(file);
}

/* Every size of every form, and no other, belongs to its type. */
static void test_numbers(void)
{
    probe("--type q2_0", NULL, NULL, NULL);
    probe("--type q2_0-128", NULL, NULL, NULL);
    probe("--type pq2_0", NULL, NULL, NULL);
    probe("--type tq1_0", "i2_s", NULL, "in place");
    probe("--type iq1_bn", NULL, NULL, NULL);
    probe("--layout c", NULL, NULL, NULL);     /* read as A: nothing tells */
    probe("--type i2_s", NULL, "1/2", NULL);   /* tiles are asked for only by TL1 and TL2 */
}

/* A weight of +2 in Q2_0. */
static void test_strange(void)
{
    char path[512];
    bitnet_model_desc d;
    bitnet_model *m = NULL;
    bitnet_error err;
    size_t size;
    uint8_t *file;
    bni_gguf g;
    bitnet_allocator a;
    int short_of_bytes;
    const bni_tensor *t;
    memset(&a, 0, sizeof a);
    a = bni_allocator_or_default(a);
    test_make_model(path, "formats", "--type q2_0");
    file = test_read_file(path, &size);
    REQUIRE(bni_gguf_parse(&g, file, size, size, &a, &short_of_bytes, &err) == BITNET_OK, "%s", err.text);
    t = bni_gguf_tensor(&g, "blk.1.ffn_up.weight");
    memset(&d, 0, sizeof d);
    d.data = file;
    d.size = size;
    file[t->offset + 18 * 5 + 7] |= 3;
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_UNSUPPORTED && strstr(err.text, "+2"), "%s", err.text);
    file[t->offset + 18 * 5 + 7] &= 0xfc;
    file[t->offset + 18 * 5 + 1] = 0x7c;       /* f16 infinity */
    file[t->offset + 18 * 5] = 0;
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_FORMAT && strstr(err.text, "finite"), "%s", err.text);
    /* A scale 0 over weights that are not: a scale of its own. Over zeros it is none. */
    file[t->offset + 18 * 5 + 1] = 0;
    d.layout = "t5";
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_UNSUPPORTED && strstr(err.text, "r16"), "%s", err.text);
    memset(file + t->offset + 18 * 5 + 2, 0x55, 16);
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_OK, "%s", err.text);
    bitnet_model_close(m);
    bni_gguf_close(&g, &a);
    free(file);
}

static void test_tiles(void)
{
    bni_ternary t;
    bni_tensor tensor;
    bitnet_error err;
    static const char *const wrong[] = {"x", "1/2", "64/64/", "0/64/32", "999999/64/32", "64/64/32/1", "-1/2/3"};
    int i;
    memset(&tensor, 0, sizeof tensor);
    tensor.form = BNI_FORM_TL1;
    tensor.ne[0] = 256;
    tensor.ne[1] = 128;
    tensor.ne[2] = tensor.ne[3] = 1;
    tensor.bytes = 256 * 128 / 4 + 32;
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, NULL, &err) == BITNET_ERROR_UNSUPPORTED, "an unknown shape");
    for (i = 0; i < 7; i++)
        CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, wrong[i], &err) == BITNET_ERROR_ARGUMENT, "tiles %s", wrong[i]);
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "128/64/32", &err) == BITNET_OK, "%s", err.text);
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "96/64/32", &err) == BITNET_ERROR_UNSUPPORTED, "96 rows of 128");
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "128/96/32", &err) == BITNET_ERROR_UNSUPPORTED, "96 columns of 256");
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "128/64/48", &err) == BITNET_ERROR_UNSUPPORTED, "pieces of 48 rows");
    tensor.form = BNI_FORM_TL2;
    tensor.bytes = bni_form_bytes(BNI_FORM_TL2, 128, 256);
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "128/96/32", &err) == BITNET_OK, "%s", err.text);
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "128/40/32", &err) == BITNET_ERROR_UNSUPPORTED, "40 columns are no triples");
    CHECK(bni_ternary_bind(&t, &tensor, BITNET_I2S_A, "128/96/64", &err) == BITNET_ERROR_UNSUPPORTED, "pieces of 64 rows");
}

int main(void)
{
    test_examples();
    test_tables();
    test_tiles();
    test_numbers();
    test_strange();
    return test_end("formats");
}
