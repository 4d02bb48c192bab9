/* test_kernels: every kernel of every instruction set gives the bits of the reference; the reference is right.

   Each case runs the scalar function and the same function of every other kernel set this CPU runs, on random data and
   on the worst cases (largest codes and activations, zeros, denormals, infinities, NaN), at odd sizes, with guard
   bytes behind every result. Then the reference itself against naive arithmetic and against libm.

   With TEST_FAST in the environment every third case or so: for valgrind, and for emulated processors.
   `test_kernels --hash` prints one number made of all reference results: it must not depend on compiler or flags, so the
   inputs are made without any inexact arithmetic. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "test.h"
#include <math.h>
#if BNI_HAVE_AMX
  #include <sys/wait.h>
#endif

static uint64_t seed = 20240217;
static uint64_t hash = 14695981039346656037u;

/* Kernel sets that run here, without the scalar one. */
static const bni_kernels *sets[8];
static int n_sets;

static int fast;                     /* TEST_FAST is set */

static void hash_bytes(const void *data, size_t n)
{
    const uint8_t *p = (const uint8_t *)data;
    size_t i;
    for (i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 1099511628211u;
}

/* ------------------------------------------------------------------------------------------------ buffers */

enum { GUARD = 64 };

/* n bytes at a 64-byte boundary plus offset, guarded behind; all are freed by free_all. */
static void *blocks[256];
static uint8_t *guards[256];
static int n_blocks;

static void *buffer(size_t n, size_t offset)
{
    uint8_t *p = (uint8_t *)malloc(n + offset + 64 + GUARD), *at;
    if (!p || n_blocks == 256)
        exit(1);
    at = p + (64 - (uintptr_t)p % 64) % 64 + offset;
    memset(at, 0xee, n);
    memset(at + n, 0x5a, GUARD);
    blocks[n_blocks] = p;
    guards[n_blocks++] = at + n;
    return at;
}

static void free_all(const char *what)
{
    int i, j, intact = 1;
    for (i = 0; i < n_blocks; i++) {
        for (j = 0; j < GUARD; j++)
            intact &= guards[i][j] == 0x5a;
        free(blocks[i]);
    }
    n_blocks = 0;
    CHECK(intact, "%s wrote behind a buffer", what);
}

static float *floats(int n) { return (float *)buffer((size_t)n * sizeof(float), 0); }

/* --------------------------------------------------------------------------------------------------- data */

enum { NORMAL, ZERO, TINY, WIDE, HALVES, SPECIAL, N_KINDS };

/* One float, made of bits or of exact products. */
static float number(int kind)
{
    uint32_t r = (uint32_t)test_random(&seed);
    switch (kind) {
    case NORMAL: return (float)((int32_t)(r >> 8) - 8388608) * 2.384185791015625e-7f;       /* -2 .. 2 */
    case ZERO: return bni_bits_float(r & 0x80000000u);
    case TINY: return bni_bits_float(r & 0x80ffffffu);
    case WIDE: return bni_bits_float((r & 0x80ffffffu) + (50u + (r >> 24 & 127u)) * 0x800000u);
    case HALVES: return (float)((int32_t)(r & 511u) - 256) * 0.5f;
    default:
        if ((r & 15u) == 0)
            return bni_bits_float((r & 0x80000000u) | 0x7f800000u | (r & 16u ? 0x400001u : 0u));
        return bni_bits_float((r & 0x80ffffffu) + 0x3f000000u);
    }
}

/* n numbers and the padding that rows have. */
static void fill(float *x, int n, int kind)
{
    int i;
    for (i = 0; i < bni_pad16(n); i++)
        x[i] = i < n ? number(kind) : 0.0f;
}

static int is_nan(float x) { return (bni_float_bits(x) & 0x7fffffffu) > 0x7f800000u; }

/* Equal bits; any two NaN are equal, as IEEE does not say which of two a sum returns. */
static int same(const float *a, const float *b, int n)
{
    int i;
    for (i = 0; i < n; i++)
        if (bni_float_bits(a[i]) != bni_float_bits(b[i]) && !(is_nan(a[i]) && is_nan(b[i])))
            return 0;
    return 1;
}

static void hash_floats(const float *x, int n)
{
    int i;
    for (i = 0; i < n; i++) {
        uint32_t bits = is_nan(x[i]) ? 0x7fc00000u : bni_float_bits(x[i]);
        hash_bytes(&bits, sizeof bits);
    }
}

static const int sizes[] = {1, 7, 15, 16, 17, 31, 32, 33, 48, 100, 128, 250, 640, 2560};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

/* ----------------------------------------------------------------------------------- elementwise kernels */

static void test_norm(int n, int kind)
{
    float *x = floats(bni_pad16(n)), *w = floats(bni_pad16(n)), *a = floats(bni_pad16(n)), *b = floats(bni_pad16(n));
    int s;
    fill(x, n, kind);
    fill(w, n, NORMAL);
    bni_kernels_scalar.rms_norm(a, x, w, 1e-5f, n);
    hash_floats(a, bni_pad16(n));
    for (s = 0; s < n_sets; s++) {
        sets[s]->rms_norm(b, x, w, 1e-5f, n);
        CHECK(same(a, b, bni_pad16(n)), "%s rms_norm n=%d kind=%d", sets[s]->name, n, kind);
        memcpy(b, x, (size_t)bni_pad16(n) * sizeof *b);
        sets[s]->rms_norm(b, b, w, 1e-5f, n);
        CHECK(same(a, b, bni_pad16(n)), "%s rms_norm in place n=%d kind=%d", sets[s]->name, n, kind);
    }
    free_all("rms_norm");
}

static void test_quantize(int n, int kind)
{
    static const int ranges[] = {4095, 127};
    float *x = floats(bni_pad16(n)), *loose = (float *)buffer((size_t)n * sizeof(float), 4);
    int stride, r, s, pad = bni_pad16(n);
    uint32_t max, other;
    fill(x, n, kind);
    memcpy(loose, x, (size_t)n * sizeof *x);
    max = bni_kernels_scalar.max_abs(x, n);
    hash_bytes(&max, sizeof max);
    for (s = 0; s < n_sets; s++) {
        other = sets[s]->max_abs(x, n);
        CHECK(max == other, "%s max_abs n=%d kind=%d: %x, not %x", sets[s]->name, n, kind, other, max);
    }
    for (r = 0; r < 4; r++) {
        const int run = r < 2 ? 4 : 64, size = (pad + run - 1) / run * (stride = r % 2 ? 3 * run : run);
        int8_t *a = (int8_t *)buffer((size_t)size, 4), *b = (int8_t *)buffer((size_t)size, 4);
        uint32_t top = max >> 23 < 100 ? 100 : max >> 23 > 200 ? 200 : max >> 23;
        float scale = bni_bits_float((254u + 6u - top) << 23);                 /* a power of 2: up to +-128 */
        int32_t sum = bni_kernels_scalar.quantize_i8(a, run, stride, x, scale, n);
        hash_bytes(a, (size_t)size);
        for (s = 0; s < n_sets; s++) {
            int32_t got = sets[s]->quantize_i8(b, run, stride, x, scale, n);
            CHECK(sum == got, "%s quantize_i8 n=%d kind=%d: sum %d, not %d", sets[s]->name, n, kind, got, sum);
            CHECK(memcmp(a, b, (size_t)size) == 0, "%s quantize_i8 n=%d kind=%d run=%d stride=%d", sets[s]->name, n, kind,
                  run, stride);
        }
    }
    for (r = 0; r < 4; r++) {                  /* with padding, and without */
        const int n_pad = r < 2 ? pad : n, range = ranges[r % 2];
        int16_t *a = (int16_t *)buffer((size_t)n_pad * 2, 2), *b = (int16_t *)buffer((size_t)n_pad * 2, 2);
        float scale = bni_kernels_scalar.quantize_i16(a, loose, n, n_pad, range, &max);
        if (r < 2)
            hash_bytes(a, (size_t)pad * 2);
        for (s = 0; s < n_sets; s++) {
            float got = sets[s]->quantize_i16(b, loose, n, n_pad, range, &other);
            CHECK(bni_float_bits(scale) == bni_float_bits(got) && max == other && memcmp(a, b, (size_t)n_pad * 2) == 0,
                  "%s quantize_i16 n=%d of %d kind=%d range=%d", sets[s]->name, n, n_pad, kind, range);
        }
    }
    free_all("quantize");
}

/* n: outputs, a multiple of 16; three rows apart from each other. Sums of 1, no sum of x, s 1: the scales come out as
   they are, so kind reaches the activations. */
static void test_rescale(int n, int kind)
{
    enum { ROWS = 3 };
    const int ld = 2 * n + 16, stride = n + 32;
    static const float s[ROWS] = {1.0f, 41.7f, 0.003f};
    float *w = floats(2 * n), *y = floats(ROWS * stride), *a = floats(ROWS * stride), *b = floats(ROWS * stride);
    int32_t *sum = (int32_t *)buffer((size_t)(ROWS * ld) * 4, 0), x_sum[ROWS] = {0};
    int i, set, then;
    fill(w, 2 * n, kind);
    fill(y, ROWS * stride, NORMAL);
    for (i = 0; i < ROWS * ld; i++)
        sum[i] = i < ld ? 1 : (int32_t)(test_random(&seed) >> 40) - (1 << 23);
    x_sum[1] = 12345;
    x_sum[2] = -(1 << 22);
    for (then = BNI_ACT_RELU2; then <= BNI_THEN_ADD; then++) {
        const int m = then >= BNI_THEN_SET ? n : 2 * n;
        memcpy(a, y, (size_t)(ROWS * stride) * sizeof *y);
        bni_kernels_scalar.rescale(a, (size_t)stride, sum, ld, x_sum, s, w, ROWS, m, then);
        hash_floats(a, ROWS * stride);
        for (set = 0; set < n_sets; set++) {
            memcpy(b, y, (size_t)(ROWS * stride) * sizeof *y);
            sets[set]->rescale(b, (size_t)stride, sum, ld, x_sum, s, w, ROWS, m, then);
            CHECK(same(a, b, ROWS * stride), "%s rescale n=%d kind=%d then=%d", sets[set]->name, n, kind, then);
        }
    }
    free_all("rescale");
}

/* The division by the activations' scale where a kernel does it in other steps: all sizes of both, many mantissas. */
static void test_division(void)
{
    enum { N = 1024 };
    int32_t *sum = (int32_t *)buffer(N * 4, 0), zero = 0;
    float *w = floats(N), *a = floats(N), *b = floats(N), s;
    int i, k, set, many = fast ? 300 : 6000;
    for (i = 0; i < N; i++) w[i] = 1.0f;
    for (k = 0; k < many; k++) {
        const uint32_t bits = (uint32_t)(test_random(&seed) >> 9);
        static const uint32_t edges[] = {0, 1, 2, 0x7fffff, 0x7ffffe, 0x400000, 0x3fffff, 0x2aaaab};
        s = bni_bits_float((uint32_t)(2 + k % 250) << 23 | (k % 4 ? bits & 0x7fffff : edges[bits % 8]));
        for (i = 0; i < N; i++) {
            sum[i] = (int32_t)(test_random(&seed) >> (i % 32)) * (i & 1 ? -1 : 1);
            if (i % 8 == 0) sum[i] = (int32_t)(bits >> (i / 8 % 24)) + i % 3 - 1;     /* near multiples of s */
        }
        bni_kernels_scalar.rescale(a, 0, sum, 0, &zero, &s, w, 1, N, BNI_THEN_SET);
        for (set = 0; set < n_sets; set++) {
            sets[set]->rescale(b, 0, sum, 0, &zero, &s, w, 1, N, BNI_THEN_SET);
            CHECK(same(a, b, N), "%s rescale by %g", sets[set]->name, (double)s);
        }
    }
    free_all("division");
}

static void test_rope(int n_rot, int kind)
{
    float *x = (float *)buffer((size_t)n_rot * 4, 8), *a = (float *)buffer((size_t)n_rot * 4, 8);
    float *b = (float *)buffer((size_t)n_rot * 4, 8), *cs = (float *)buffer((size_t)n_rot * 4, 4);
    int i, s, neox;
    for (i = 0; i < n_rot; i++) {
        x[i] = number(kind);
        cs[i] = number(NORMAL);
    }
    for (neox = 0; neox < 2; neox++) {
        bni_kernels_scalar.rope(a, x, cs, n_rot, neox);
        hash_floats(a, n_rot);
        for (s = 0; s < n_sets; s++) {
            memset(b, 0xee, (size_t)n_rot * 4);
            sets[s]->rope(b, x, cs, n_rot, neox);
            CHECK(same(a, b, n_rot), "%s rope n_rot=%d neox=%d", sets[s]->name, n_rot, neox);
            memcpy(b, x, (size_t)n_rot * 4);
            sets[s]->rope(b, b, cs, n_rot, neox);
            CHECK(same(a, b, n_rot), "%s rope in place n_rot=%d neox=%d", sets[s]->name, n_rot, neox);
        }
    }
    free_all("rope");
}

static void test_elementwise(void)
{
    int i, kind;
    for (i = 0; i < N_SIZES; i++) {
        for (kind = 0; kind < N_KINDS; kind++) {
            test_norm(sizes[i], kind);
            test_quantize(sizes[i], kind);
            test_rescale(bni_pad16(sizes[i]), kind);
            if (sizes[i] <= 256)
                test_rope(2 * sizes[i], kind);
        }
    }
    /* exp over its whole range: silu of what is far below zero shows every bit of it */
    for (i = 0; i < (fast ? 20 : 200); i++) {
        enum { N = 2048 };
        float *w = floats(2 * N), *a = floats(N), *b = floats(N);
        static const float one = 1.0f;
        static const int32_t zero = 0;
        int32_t *sum = (int32_t *)buffer(2 * N * sizeof *sum, 0);
        int k, s;
        for (k = 0; k < 2 * N; k++) {
            w[k] = k % 32 >= 16 ? 1.0f : bni_bits_float(0xc0000000u + (uint32_t)(test_random(&seed) >> 32) % 0x3000000u);
            sum[k] = 1;
        }
        bni_kernels_scalar.rescale(a, 0, sum, 0, &zero, &one, w, 1, 2 * N, BNI_ACT_SILU);
        hash_floats(a, N);
        for (s = 0; s < n_sets; s++) {
            sets[s]->rescale(b, 0, sum, 0, &zero, &one, w, 1, 2 * N, BNI_ACT_SILU);
            CHECK(same(a, b, N), "%s exp, run %d", sets[s]->name, i);
        }
        free_all("exp");
    }
}

/* --------------------------------------------------------------------------------------- ternary products */

enum { ANY, ALL_PLUS_MAX, ALL_PLUS_MIN, ALL_MINUS_MIN, ALL_ZERO, N_TERNARY };

/* TL1 and TL2 by their pictures. */
static void pack_groups(int layout, uint8_t *strips, int n_strips, int n_cols, const uint8_t *code)
{
    const int wide = layout == BNI_TL2 ? 3 : 2, block = layout == BNI_TL2 ? 80 : 64;
    const size_t bytes = (size_t)bni_strip_bytes(layout, (uint64_t)n_cols);
    int row, k, c;
    memset(strips, 0, (size_t)n_strips * bytes);
    for (row = 0; row < 16 * n_strips; row++)
        for (k = 0; k < n_cols; k += wide) {
            const int g = k / wide % 8, r = row % 16;
            uint8_t *at = strips + (size_t)(row / 16) * bytes + (size_t)(k / wide / 8 * block);
            int entry = 0;
            for (c = k; c < k + wide; c++)
                entry = 3 * entry + (c < n_cols ? code[(size_t)row * (size_t)n_cols + (size_t)c] : 1) - (wide == 3);
            if (entry < 0)
                at[64 + 2 * g + r / 8] = (uint8_t)(at[64 + 2 * g + r / 8] | 1 << r % 8);
            at[16 * (g / 2) + r] = (uint8_t)(at[16 * (g / 2) + r] | (entry < 0 ? -entry : entry) << (g % 2 * 4));
        }
}

/* code: w + 1. Packs by the pictures in >>formats. */
static void pack(int layout, uint8_t *strips, int n_strips, int n_cols, const uint8_t *code)
{
    static const int power[] = {1, 3, 9, 27, 0};
    const int wide = layout == BNI_T5 ? 20 : 16;
    const size_t bytes = (size_t)bni_strip_bytes(layout, (uint64_t)n_cols);
    int row, k, g, c;
    if (layout >= BNI_TL1) {
        pack_groups(layout, strips, n_strips, n_cols, code);
        return;
    }
    memset(strips, 0, (size_t)n_strips * bytes);
    for (row = 0; row < 16 * n_strips; row++)
        for (k = 0; k < n_cols; k += k % 4 == 3 ? wide - 3 : 1) {      /* the first four columns of each block */
            uint8_t *at = strips + (size_t)(row / 16) * bytes + (size_t)(k / wide) * 64 + (size_t)(row % 16) * 4 + (size_t)(k % 4);
            int t = 0, last = 0;
            for (g = 0; g < wide / 4; g++) {
                c = k + 4 * g < n_cols ? code[(size_t)row * (size_t)n_cols + (size_t)(k + 4 * g)] : 0;
                if (layout == BNI_R16)
                    *at = (uint8_t)(*at | c << (2 * g));
                t += c * power[g];
                last = g == 4 ? c : 0;
            }
            if (layout == BNI_T5)
                *at = (uint8_t)(t < 64 ? last << 6 | t : 192 + 3 * (t - 64) + last);
        }
}

typedef struct product {
    int layout, n_strips, n_cols, n_tokens, kind, ldy;
    size_t n_rows, y_bytes;
    uint8_t *code, *w, *panel;
    int8_t *rows, *x, *tiles;        /* [n_tokens][n_cols]; the two orders that kernels read */
} product;

/* The activations, and behind them what kernels may read: anything. */
static void make_product(product *p)
{
    const int wide = (p->n_cols + 63) / 64 * 64;
    const size_t n_x = (size_t)(p->n_cols * p->n_tokens), n_tiles = (size_t)((p->n_tokens + 15) / 16 * 16 * wide);
    size_t i;
    int k, t;
    p->n_rows = (size_t)p->n_strips * 16;
    p->ldy = 16 * p->n_strips + 16;
    p->y_bytes = (size_t)(p->ldy * ((p->n_tokens + 15) / 16 * 16)) * 4;
    p->code = (uint8_t *)buffer(p->n_rows * (size_t)p->n_cols, 0);
    p->w = (uint8_t *)buffer((size_t)p->n_strips * (size_t)bni_strip_bytes(p->layout, (uint64_t)p->n_cols), 0);
    p->panel = (uint8_t *)buffer(2 * BNI_PANEL, 0);
    p->rows = (int8_t *)buffer(n_x, 0);
    p->x = (int8_t *)buffer(n_x + 160, 0);
    p->tiles = (int8_t *)buffer(n_tiles, 0);
    for (i = 0; i < p->n_rows * (size_t)p->n_cols; i++)
        p->code[i] = (uint8_t)(p->kind == ANY ? (int)(test_random(&seed) % 3) : p->kind == ALL_MINUS_MIN ? 0 : p->kind == ALL_ZERO ? 1 : 2);
    for (i = 0; i < n_x + 160; i++)
        p->x[i] = (int8_t)(test_random(&seed) & 255);
    for (t = 0; t < p->n_tokens; t++)
        for (k = 0; k < wide; k++) {
            const int group = t / 8 * 8, n = p->n_tokens - group < 8 ? p->n_tokens - group : 8;
            const int v = p->kind == ANY ? (int)(test_random(&seed) % 256) - 128 : p->kind == ALL_PLUS_MAX ? 127 : -128;
            p->tiles[(size_t)(t / 16 * 16 * wide) + (size_t)(k / 64 * 1024 + t % 16 * 64 + k % 64)] = (int8_t)(k < p->n_cols ? v : 0);
            if (k >= p->n_cols)
                continue;
            p->rows[t * p->n_cols + k] = (int8_t)v;
            p->x[group * p->n_cols + (k / 4 * n + t - group) * 4 + k % 4] = (int8_t)v;
        }
    pack(p->layout, p->w, p->n_strips, p->n_cols, p->code);
}

/* Result of a kernel equals a; what lies between its rows is untouched. */
static void check_product(const product *p, const char *name, bni_matmul_fn *matmul, const int8_t *x, const int32_t *a, int32_t *b)
{
    int t, equal = 1;
    memset(b, 0xee, p->y_bytes);
    matmul(b, p->ldy, p->w, p->n_strips, p->n_cols, x, p->n_tokens, p->panel);
    for (t = 0; t < p->n_tokens; t++)
        equal &= memcmp(a + (ptrdiff_t)t * p->ldy, b + (ptrdiff_t)t * p->ldy, (size_t)p->ldy * 4) == 0;
    CHECK(equal, "%s%s matmul %s strips=%d cols=%d tokens=%d kind=%d", name, x == p->tiles ? " tiles" : "",
          bni_layout_names[p->layout], p->n_strips, p->n_cols, p->n_tokens, p->kind);
}

static void test_matmul(int layout, int n_strips, int n_cols, int n_tokens, int kind)
{
    product p;
    int32_t *a, *b;
    size_t i;
    int k, t, s;
    memset(&p, 0, sizeof p);
    p.layout = layout;
    p.n_strips = n_strips;
    p.n_cols = n_cols;
    p.n_tokens = n_tokens;
    p.kind = kind;
    make_product(&p);
    a = (int32_t *)buffer(p.y_bytes, 0);
    b = (int32_t *)buffer(p.y_bytes, 0);
    memset(a, 0xee, p.y_bytes);
    bni_kernels_scalar.matmul[layout](a, p.ldy, p.w, n_strips, n_cols, p.x, n_tokens, p.panel);
    for (t = 0; t < n_tokens; t++) {
        hash_bytes(a + (ptrdiff_t)t * p.ldy, p.n_rows * 4);
        for (i = 0; i < p.n_rows; i += 5) {
            int32_t sum = 0;
            for (k = 0; k < n_cols; k++)
                sum += p.code[i * (size_t)n_cols + (size_t)k] * p.rows[t * n_cols + k];
            CHECK(a[(size_t)(t * p.ldy) + i] == sum, "scalar matmul %s strips=%d cols=%d tokens=%d kind=%d: %d, not %d",
                  bni_layout_names[layout], n_strips, n_cols, n_tokens, kind, a[(size_t)(t * p.ldy) + i], sum);
        }
    }
    for (s = 0; s < n_sets; s++) {
        check_product(&p, sets[s]->name, sets[s]->matmul[layout], p.x, a, b);
        if (sets[s]->matmul_tiles[layout])
            check_product(&p, sets[s]->name, sets[s]->matmul_tiles[layout], p.tiles, a, b);
    }
    free_all("matmul");
}

/* Packed by the header, a row at a time, and read back. */
static void test_packing(void)
{
    uint8_t strip[64 * 8], codes[128], *file = (uint8_t *)buffer(128 / 4, 0);
    int layout, r, k, run, wrong = 0;
    bni_ternary from;
    memset(&from, 0, sizeof from);
    from.form = BNI_FORM_I2S_A;
    from.n_rows = 1;
    from.n_cols = from.group = 128;
    for (layout = 0; layout < BNI_N_PACKED; layout++)
        for (run = 0; run < 243; run++) {              /* every byte of T5 occurs */
            for (k = 0; k < 32; k++)
                file[k] = 0;
            for (k = 0; k < 128; k++) {
                const int power[] = {1, 3, 9, 27, 81}, c = (run + 80 * (k % 4)) / power[k % 20 / 4] % 3;
                file[k % 32] = (uint8_t)(file[k % 32] | c << (6 - 2 * (k / 32)));
                codes[k] = (uint8_t)c;
            }
            bni_pack_strip(layout, strip, 0, &from, file, (uint8_t *)buffer(128 + BNI_CODES_BEHIND, 0));
            for (r = 0; r < 16; r++)
                for (k = 0; k < 128; k++)
                    wrong += bni_code(layout, strip, r, k) != (r ? 1u : codes[k]);
            if (run % 100 == 99) {
                free_all("packing");
                file = (uint8_t *)buffer(32, 0);
            }
        }
    CHECK(wrong == 0, "%d codes packed wrong", wrong);
    free_all("packing");
}

static void test_ternary(void)
{
    static const int cols[] = {16, 32, 112, 128, 144, 240, 256, 272, 528, 640, 656, 1296, 2560};
    static const int strips[] = {1, 2, 3, 5, 8};
    static const int many[] = {9, 12, 15, 16, 17, 31, 32, 33, 40, 48, 70};
    int layout, c, s, t, kind;
    for (layout = 0; layout < BNI_N_PACKED; layout++)
        for (c = 0; c < 13; c++)
            for (s = 0; s < 5; s++)
                for (kind = 0; kind < N_TERNARY; kind++) {
                    if (fast && (c + s + kind) % 4 != 0)
                        continue;
                    for (t = 1; t <= 8; t++)
                        if ((cols[c] < 640 && (strips[s] < 4 || kind == ANY)) || (strips[s] == 3 && t % 3 == 1))
                            test_matmul(layout, strips[s], cols[c], t, kind);
                    for (t = 0; t < 11; t++)
                        if (strips[s] < 3 && (c + t + s) % 4 == kind % 4)
                            test_matmul(layout, strips[s], cols[c], many[t], kind);
                }
}

/* Rows as the file has them, codes 3 among them, at any address, and 1 to 16 of them: a strip of R16 whose columns are
   in the order of bni_i2s_order. Told by the definitions of I2_S and R16 alone. */
static void test_gather(int n_rows, int n_cols)
{
    const size_t row_bytes = (size_t)n_cols / 4;
    uint8_t *rows = (uint8_t *)buffer((size_t)n_rows * row_bytes, (size_t)n_rows), *codes = (uint8_t *)buffer((size_t)n_cols, 0);
    uint8_t *strip[2];
    int8_t *q = (int8_t *)buffer((size_t)n_cols, 0);
    int i, r, k, set, wrong = 0;
    for (i = 0; i < n_rows * (int)row_bytes; i++)
        rows[i] = (uint8_t)test_random(&seed);
    for (i = 0; i < 2; i++)
        strip[i] = (uint8_t *)buffer(64 * (size_t)n_cols / 16, 0);
    bni_ref_gather(strip[0], rows, row_bytes, n_rows, n_cols);
    for (r = 0; r < 16; r++) {
        bni_i2s_row_any(rows, BITNET_I2S_A, (uint64_t)(r < n_rows ? r : n_rows - 1), (uint64_t)n_cols, codes);
        for (k = 0; k < n_cols; k++)           /* which four of its 128 columns: goes where their weights went */
            q[k] = (int8_t)(k / 4 % 32);
        bni_i2s_order(q, 4, 4, n_cols);
        for (k = 0; k < n_cols; k++)
            wrong += bni_code(BNI_R16, strip[0], r, k) != codes[k / 128 * 128 + 4 * q[k] + k % 4];
    }
    CHECK(wrong == 0, "%d rows of %d: %d codes gathered wrong", n_rows, n_cols, wrong);
    for (set = 0; set < n_sets; set++) {
        memset(strip[1], 0xee, 64 * (size_t)n_cols / 16);
        sets[set]->gather(strip[1], rows, row_bytes, n_rows, n_cols);
        CHECK(memcmp(strip[0], strip[1], 64 * (size_t)n_cols / 16) == 0, "%s gathers %d rows of %d", sets[set]->name, n_rows, n_cols);
    }
    free_all("gather");
}

static void test_in_place(void)
{
    int n;
    for (n = 1; n <= 16; n++) {
        test_gather(n, 128);
        test_gather(n, 128 * n);
    }
}

/* ----------------------------------------------------------------------------------------------- attention */

/* A filled cache and queries; everything of a bni_attend but the place of results. */
typedef struct attend_case {
    bni_attend a;
    int16_t *q;
    float *q_scale, *keys, *values, *queries;  /* the floats they came from: [positions or rows][d] */
    int32_t *pos;
    uint8_t **table;
    int n_pos;
} attend_case;

static float *out_rows[BNI_ATTEND_MOST];

/* Positions 0 .. n_pos - 1 hold data; what lies behind in the last block is garbage: NaN scales, integers of all ones. */
static attend_case make_attend(int d, int n_rows, int n_pos, int kind)
{
    attend_case c;
    const int dp = bni_pad16(d), n_table = (n_pos + 63) / 64;
    const size_t area = bni_kv_area_size(d);
    int16_t k[256], v[256];
    uint32_t bits;
    int i, p;
    memset(&c, 0, sizeof c);
    c.n_pos = n_pos;
    c.table = (uint8_t **)buffer((size_t)n_table * sizeof *c.table, 0);
    c.q = (int16_t *)buffer((size_t)(n_rows * dp) * 2, 0);
    c.q_scale = floats(n_rows);
    c.pos = (int32_t *)buffer((size_t)n_rows * sizeof *c.pos, 0);
    c.keys = floats(n_pos * d);
    c.values = floats(n_pos * d);
    c.queries = floats(n_rows * d);
    for (i = 0; i < n_table; i++) {
        c.table[i] = (uint8_t *)buffer(area + 128, 0);
        memset(c.table[i], 0xff, area + 128);
    }
    for (i = 0; i < n_pos * d; i++) {
        c.keys[i] = number(kind);
        c.values[i] = number(kind);
    }
    for (i = 0; i < n_rows * d; i++)
        c.queries[i] = number(kind == SPECIAL ? NORMAL : kind) * 2.0f;
    for (p = 0; p < n_pos; p++) {
        float ks = bni_kernels_scalar.quantize_i16(k, c.keys + p * d, d, d, 4095, &bits);
        float vs = bni_kernels_scalar.quantize_i16(v, c.values + p * d, d, d, 4095, &bits);
        if (kind == SPECIAL && p % 7 == 3)
            ks = number(SPECIAL);              /* what a damaged state might hold */
        if (kind == SPECIAL && p % 7 == 5)
            vs = number(SPECIAL);
        bni_kv_store(c.table[p / 64] + 128, d, p % 64, k, ks, v, vs, 1);
    }
    for (i = 0; i < n_rows; i++) {
        c.q_scale[i] = bni_kernels_scalar.quantize_i16(c.q + i * dp, c.queries + i * d, d, dp, 4095, &bits);
        c.pos[i] = n_rows > 16 && n_rows % 2 ? 14 + i / 4 : n_pos - 1 - (i < 3 ? 0 : test_below(&seed, n_pos));
    }
    c.a.steps = BNI_ATTEND_ALL;
    c.a.end = n_table;
    c.a.q = c.q;
    c.a.q_scale = c.q_scale;
    c.a.pos = c.pos;
    c.a.n_rows = n_rows;
    c.a.head_dim = d;
    c.a.scale = 0.125f;
    c.a.blocks = (const uint8_t *const *)c.table;
    c.a.area = 128;
    c.a.out = out_rows;
    c.a.records = (int32_t *)(void *)floats(n_table * n_rows * bni_attend_sums(d));
    c.a.scratch = floats((int)bni_attend_scratch(d, BNI_ATTEND_ROWS));
    return c;
}

/* The same call step by step, the blocks in n_parts parts, the last one first. */
static void attend_parts(const bni_kernels *set, bni_attend a, int n_parts)
{
    const int n_blocks = a.end;
    int part;
    for (part = n_parts - 1, a.steps = BNI_ATTEND_BLOCKS; part >= 0; part--) {
        a.first = part * n_blocks / n_parts;
        a.end = (part + 1) * n_blocks / n_parts;
        set->attend(&a);
    }
    a.steps = BNI_ATTEND_JOIN;
    a.first = 0;
    a.end = n_blocks;
    set->attend(&a);
}

static void test_attend(int d, int n_rows, int n_pos, int kind)
{
    attend_case c = make_attend(d, n_rows, n_pos, kind);
    float *a = (float *)buffer((size_t)(n_rows * d) * 4, 4), *b = (float *)buffer((size_t)(n_rows * d) * 4, 4);
    int i, s;
    for (i = 0; i < n_rows; i++)
        out_rows[i] = a + i * d;
    bni_kernels_scalar.attend(&c.a);
    hash_floats(a, n_rows * d);
    for (i = 0; i < n_rows; i++)
        out_rows[i] = b + i * d;
    for (s = 0; s < n_sets; s++) {
        if (n_rows > sets[s]->attend_rows)
            continue;
        memset(b, 0xee, (size_t)(n_rows * d) * 4);
        c.a.scratch = floats((int)bni_attend_scratch(d, sets[s]->attend_rows));
        sets[s]->attend(&c.a);
        CHECK(same(a, b, n_rows * d), "%s attend d=%d rows=%d positions=%d kind=%d", sets[s]->name, d, n_rows, n_pos, kind);
    }
    for (i = 0; i < n_rows; i++)
        c.pos[i] = n_pos - 1;                  /* steps alone are for rows of one position, and not many */
    for (s = -2; s < n_sets && kind != SPECIAL && c.a.end >= 2 && n_rows <= BNI_ATTEND_ROWS; s++) {
        memset(s < -1 ? a : b, 0xee, (size_t)(n_rows * d) * 4);
        for (i = 0; i < n_rows; i++)
            out_rows[i] = (s < -1 ? a : b) + i * d;
        if (s < -1)
            bni_kernels_scalar.attend(&c.a);
        else
            attend_parts(s < 0 ? &bni_kernels_scalar : sets[s], c.a, c.a.end < 5 ? c.a.end : 5);
        CHECK(s < -1 || same(a, b, n_rows * d), "%s attend in parts d=%d rows=%d positions=%d kind=%d", s < 0 ? "scalar" : sets[s]->name, d, n_rows, n_pos, kind);
    }
    free_all("attend");
}

/* The same attention in double, from the floats that were quantized. Result: the largest error of a row's output relative to
   its largest value. */
static double attend_error(int d, int n_rows, int n_pos)
{
    attend_case c = make_attend(d, n_rows, n_pos, NORMAL);
    float *out = floats(n_rows * d);
    double worst = 0;
    int i, j, k;
    c.a.scale = BNI_EXP_LOG2E / bni_sqrtf((float)d);
    for (i = 0; i < n_rows; i++)
        out_rows[i] = out + i * d;
    bni_kernels_scalar.attend(&c.a);
    for (i = 0; i < n_rows; i++) {
        double *e = (double *)buffer((size_t)n_pos * sizeof *e, 0), o[256] = {0}, sum = 0, most = 0, error = 0;
        for (j = 0; j <= c.pos[i]; j++) {
            double dot = 0;
            for (k = 0; k < d; k++)
                dot += (double)c.queries[i * d + k] * (double)c.keys[j * d + k];
            e[j] = exp(dot / sqrt((double)d));
            sum += e[j];
            for (k = 0; k < d; k++)
                o[k] += e[j] * (double)c.values[j * d + k];
        }
        for (k = 0; k < d; k++) {
            most = fabs(o[k] / sum) > most ? fabs(o[k] / sum) : most;
            error = fabs(o[k] / sum - (double)out[i * d + k]) > error ? fabs(o[k] / sum - (double)out[i * d + k]) : error;
        }
        worst = error / most > worst ? error / most : worst;
    }
    free_all("attend");
    return worst;
}

static void test_attention(void)
{
    static const int dims[] = {2, 16, 64, 80, 96, 100, 128, 144, 256};
    static const int positions[] = {1, 2, 15, 16, 17, 63, 64, 65, 130, 300};
    int d, p, r, kind;
    for (d = 0; d < 9; d++) {
        for (p = 0; p < 10; p++)
            for (r = 1; r <= 16; r += fast ? 3 : r < 6 ? 1 : 5)
                test_attend(dims[d], r, positions[p], NORMAL);
        for (kind = ZERO; kind < N_KINDS; kind++) {
            test_attend(dims[d], 5, 200, kind);
            test_attend(dims[d], 40, 200, kind);
        }
        for (r = fast ? 63 : 17; r <= BNI_ATTEND_MOST; r++)        /* odd ones are of a prompt */
            test_attend(dims[d], r, r % 2 ? 15 + (r - 1) / 4 : positions[test_below(&seed, 10)], NORMAL);
        if (dims[d] >= 64) {
            const uint64_t kept = seed;            /* draws of its own, whatever was tested before */
            double error, worst = 0, sum = 0;
            int draw;
            for (draw = 0; draw < 9; draw++) {
                seed = 1000u + (uint64_t)draw;
                error = attend_error(dims[d], 8, 500);
                sum += error / 9;
                worst = error > worst ? error : worst;
            }
            seed = kept;
            CHECK(sum < 1e-3 && worst < 2e-3, "attention in integers, d=%d: error %g, at worst %g", dims[d], sum, worst);
        }
    }
}

static void test_kv(void)
{
    int16_t k[100], v[100], k2[100], v2[100];
    uint8_t *area = (uint8_t *)buffer(bni_kv_area_size(100), 0);
    float ks, vs;
    int slot, i;
    for (slot = 0; slot < 64; slot++) {
        for (i = 0; i < 100; i++) {
            k[i] = (int16_t)(slot * 50 + i);
            v[i] = (int16_t)(-slot * 50 - i);
        }
        bni_kv_store(area, 100, slot, k, (float)slot, v, (float)-slot, slot % 3 == 0);
    }
    for (slot = 0; slot < 64; slot++) {
        bni_kv_load(area, 100, slot, k2, &ks, v2, &vs);
        for (i = 0; i < 100 && k2[i] == slot * 50 + i && v2[i] == -slot * 50 - i; i++)
            ;
        CHECK(i == 100 && bni_float_bits(ks) == bni_float_bits((float)slot) &&
              bni_float_bits(vs) == bni_float_bits((float)-slot), "kv slot %d column %d", slot, i);
    }
    free_all("kv");
}

/* ------------------------------------------------------------------------------------------- rows of floats */

static const int row_types[] = {BNI_TYPE_F32, BNI_TYPE_F16, BNI_TYPE_BF16, BNI_TYPE_Q8_0, BNI_TYPE_Q4_0, BNI_TYPE_Q6_K};

/* Bytes of a row; 0 if n does not fit the type. */
static size_t bytes_of(int type, int n)
{
    switch (type) {
    case BNI_TYPE_F32: return (size_t)n * 4;
    case BNI_TYPE_F16: case BNI_TYPE_BF16: return (size_t)n * 2;
    case BNI_TYPE_Q8_0: return n % 32 ? 0 : (size_t)n / 32 * 34;
    case BNI_TYPE_Q4_0: return n % 32 ? 0 : (size_t)n / 32 * 18;
    default: return n % 256 ? 0 : (size_t)n / 256 * 210;
    }
}

static void test_dot(int type, int n, int n_rows, int n_tokens, int kind)
{
    const size_t bytes = bytes_of(type, n), stride = (size_t)bni_pad16(n) + 16;
    uint8_t *rows;
    float *x, *a, *b, *ya[8], *yb[8];
    size_t i;
    int t, s;
    if (bytes == 0)
        return;
    rows = (uint8_t *)buffer(bytes * (size_t)n_rows, 1);
    x = floats((int)stride * n_tokens);
    a = floats(n_rows * n_tokens);
    b = floats(n_rows * n_tokens);
    for (i = 0; i < bytes * (size_t)n_rows; i++)
        rows[i] = (uint8_t)test_random(&seed);
    if (kind != SPECIAL) {           /* random bytes hold infinities: clear the exponents' top bit */
        if (type == BNI_TYPE_F32)
            for (i = 3; i < bytes * (size_t)n_rows; i += 4)
                rows[i] = (uint8_t)((rows[i] & 0x80u) | 0x3fu);
        else if (type == BNI_TYPE_F16 || type == BNI_TYPE_BF16)
            for (i = 1; i < bytes * (size_t)n_rows; i += 2)
                rows[i] = (uint8_t)(rows[i] & 0xbfu);
        else
            for (i = 0; i < bytes * (size_t)n_rows; i++)
                if (type == BNI_TYPE_Q8_0 ? i % 34 == 1 : type == BNI_TYPE_Q4_0 ? i % 18 == 1 : i % 210 == 209)
                    rows[i] = (uint8_t)(rows[i] & 0xbfu);
    }
    for (t = 0; t < n_tokens; t++) {
        fill(x + (size_t)t * stride, n, kind == SPECIAL ? NORMAL : kind);
        ya[t] = a + t * n_rows;
        yb[t] = b + t * n_rows;
    }
    bni_kernels_scalar.dot_rows(ya, type, rows, bytes, n_rows, x, stride, n_tokens, n);
    hash_floats(a, n_rows * n_tokens);
    for (s = 0; s < n_sets; s++) {
        memset(b, 0xee, (size_t)(n_rows * n_tokens) * 4);
        sets[s]->dot_rows(yb, type, rows, bytes, n_rows, x, stride, n_tokens, n);
        CHECK(same(a, b, n_rows * n_tokens), "%s dot_rows type=%d n=%d rows=%d tokens=%d kind=%d", sets[s]->name, type, n,
              n_rows, n_tokens, kind);
    }
    free_all("dot_rows");
}

/* The output matrix's bytes times both planes of n_tokens states; worst: everything at its largest. */
static void test_plane(int n_strips, int n_cols, int n_tokens, int worst)
{
    const size_t size = (size_t)n_strips * 16 * (size_t)n_cols;
    const int n_rows = 16 * n_strips;
    const int stride = bni_split_stride(n_cols);
    uint8_t *strips = (uint8_t *)buffer(size + 16 * 48, 0);       /* tiles read so far */
    int8_t *planes = (int8_t *)buffer(2 * (size_t)(stride * ((n_tokens + 7) / 8 * 8)), 0);
    float *scale = floats(n_rows), *a = floats(n_rows * n_tokens), *b = floats(n_rows * n_tokens), *ya[16], *yb[16];
    bni_split x[16];
    size_t i;
    int t, s;
    for (i = 0; i < size + 16 * 48; i++) strips[i] = (uint8_t)(worst ? 255 : test_random(&seed) >> 20);
    for (i = 0; i < (size_t)n_rows; i++) scale[i] = number(NORMAL);
    for (t = 0; t < n_tokens; t++) {
        int k;
        x[t].x = planes + 2 * t * stride;
        memset(x[t].x, 0, 2 * (size_t)stride);
        x[t].bias[0] = x[t].bias[1] = 0;
        for (k = 0; k < 2 * n_cols; k++) {
            int8_t *q = x[t].x + k / n_cols * stride + k % n_cols;
            *q = (int8_t)(worst == 1 ? 127 : worst == 2 ? -128 : (int)(test_random(&seed) % 256) - 128);
            x[t].bias[k / n_cols] += 128 * *q;
        }
        x[t].s[0] = number(NORMAL);
        x[t].s[1] = number(NORMAL);
        ya[t] = a + t * n_rows;
        yb[t] = b + t * n_rows;
    }
    bni_kernels_scalar.plane_rows(ya, strips, scale, n_strips, n_cols, x, n_tokens);
    hash_floats(a, n_rows * n_tokens);
    for (s = 0; s < n_sets; s++) {
        memset(b, 0xee, (size_t)(n_rows * n_tokens) * 4);
        sets[s]->plane_rows(yb, strips, scale, n_strips, n_cols, x, n_tokens);
        CHECK(same(a, b, n_rows * n_tokens), "%s plane_rows strips=%d columns=%d tokens=%d worst=%d", sets[s]->name, n_strips,
              n_cols, n_tokens, worst);
    }
    free_all("plane_rows");
}

/* A row as floats, and what is told about it. */
static void test_plane_row(int type, int n, int kind)
{
    const size_t bytes = bytes_of(type, n);
    float *a, *b, about_a[3], about_b[3], *values;
    uint8_t *row;
    int i, s, finite;
    if (bytes == 0) return;
    row = (uint8_t *)buffer(bytes + 64, 1);
    a = floats(bni_pad16(n));
    b = floats(bni_pad16(n));
    values = floats(bni_pad16(n));
    for (i = 0; i < (int)bytes; i++) row[i] = (uint8_t)(test_random(&seed) >> 30);
    for (i = 0; i < n && (type <= BNI_TYPE_F16 || type == BNI_TYPE_BF16); i++) {
        values[i] = number(kind);
        if (type == BNI_TYPE_F32) memcpy(row + 4 * i, &values[i], 4);
        else row[2 * i + 1] &= 0xbb;                     /* finite */
    }
    memset(about_a, 0, sizeof about_a);
    bni_kernels_scalar.plane_row(a, about_a, type, row, n);
    finite = (bni_float_bits(about_a[1]) & 0x7fffffffu) < 0x7f800000u;
    if (finite) hash_floats(a, n);
    for (s = 0; s < n_sets; s++) {
        memset(b, 0xee, (size_t)bni_pad16(n) * 4);
        memset(about_b, 0xee, sizeof about_b);
        sets[s]->plane_row(b, about_b, type, row, n);
        CHECK(finite ? same(a, b, bni_pad16(n)) && same(about_a, about_b, 3)
                     : (bni_float_bits(about_b[1]) & 0x7fffffffu) >= 0x7f800000u,
              "%s plane_row type=%d n=%d kind=%d", sets[s]->name, type, n, kind);
    }
    free_all("plane_row");
}

/* Which sixteens may hold a row that is looked for: every place, and none. */
static void test_plane_seek(int n, int last)
{
    float *y = floats(bni_pad16(n)), *error = floats(bni_pad16(n)), *length = floats(bni_pad16(n)), by[2], least;
    int i, s, r, at, count = 0;
    for (i = 0; i < bni_pad16(n); i++) {
        y[i] = number(NORMAL);
        error[i] = (float)fabs(number(NORMAL));
        length[i] = (float)fabs(number(NORMAL));
    }
    by[0] = number(NORMAL);
    by[1] = number(NORMAL);
    i = (int)(test_random(&seed) % (unsigned)last);          /* the bound of one row exactly: "at least" */
    least = y[i] + (bni_mulf(error[i], by[0]) + bni_mulf(length[i], by[1]));
    if (n % 3 == 0) least = 1e30f;
    for (r = 0; r < last; r = at + 16) {
        at = bni_kernels_scalar.plane_seek(y, error, length, by, least, r, last);
        if (at <= i && i < at + 16) count++;
        for (s = 0; s < n_sets; s++)
            CHECK(sets[s]->plane_seek(y, error, length, by, least, r, last) == at, "%s plane_seek n=%d from=%d", sets[s]->name, n, r);
    }
    CHECK(count == (n % 3 != 0), "plane_seek n=%d: the row looked for was found %d times", n, count);
    free_all("plane_seek");
}

/* The first sixteen with a larger number: each place in turn, equal ones, and none. */
static void test_seek(int n)
{
    float *x = floats(n);
    int i, k, s;
    for (i = 0; i < n; i++) x[i] = number(NORMAL) - 1e6f;
    for (k = 0; k <= n; k++) {
        const float above = k % 2 ? -2.0f : bni_bits_float(0xff800000u);
        if (k < n) x[k] = 1.0f;
        for (i = 0; i <= n; i += 16) {
            const int at = k % 2 == 0 ? i : k < i || k >= n ? n : k / 16 * 16;
            CHECK(bni_kernels_scalar.seek(x, above, i, n) == at, "scalar seek n=%d k=%d from=%d", n, k, i);
            for (s = 0; s < n_sets; s++)
                CHECK(sets[s]->seek(x, above, i, n) == at && sets[s]->seek(x, 1.0f, i, n) == n, "%s seek n=%d k=%d from=%d", sets[s]->name, n, k, i);
        }
        if (k < n) x[k] = -1e6f;
    }
    free_all("seek");
}

static void test_planes(void)
{
    int strips, tokens;
    for (strips = 1; strips <= 9; strips++)
        for (tokens = 1; tokens <= 16; tokens += fast ? 5 : 1)
            test_plane(strips, strips % 3 ? 16 * strips : 640, tokens, strips == 3 ? 1 : strips == 6 ? 2 : 0);
    for (strips = 1; strips <= 300; strips += fast ? 37 : 13)
        for (tokens = 0; tokens < 6; tokens++) {
            test_plane_row(row_types[tokens], strips, NORMAL);
            test_plane_row(row_types[tokens], 32 * (strips % 16), WIDE);
        }
    for (strips = 1; strips <= 200; strips++)
        test_plane_seek(strips, 1 + strips / 2);
    for (strips = 16; strips <= 208; strips += strips < 80 ? 16 : 64)
        test_seek(strips);
    test_plane_row(BNI_TYPE_F32, 40, ZERO);
    test_plane_row(BNI_TYPE_F32, 40, TINY);
    if (fast) return;
    test_plane(1, 65536, 1, 1);
    test_plane(2, 65536, 2, 2);
}

static void test_rows(void)
{
    static const int dims[] = {1, 15, 16, 17, 32, 96, 100, 256, 333, 768};
    int type, n, r, t;
    for (type = 0; type < 6; type++)
        for (n = 0; n < 10; n++)
            for (t = 1; t <= 8; t++)
                for (r = 1; r <= 9; r += fast ? 4 : 2) {
                    test_dot(row_types[type], dims[n], r, t, NORMAL);
                    if (t == r)
                        test_dot(row_types[type], dims[n], r, t, r == 1 ? TINY : SPECIAL);
                }
}

/* bni_decode against values written down by hand. */
static void test_decode(void)
{
    uint8_t block[210];
    float y[256];
    int i;
    memset(block, 0, sizeof block);
    block[1] = 0x3c;                 /* d = 1 */
    for (i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(i * 8);
    bni_decode(BNI_TYPE_Q8_0, block, 0, 32, y);
    CHECK(y[0] == 0.0f && y[15] == 120.0f && y[16] == -128.0f && y[31] == -8.0f, "Q8_0: %g %g %g", (double)y[15],
          (double)y[16], (double)y[31]);
    bni_decode(BNI_TYPE_Q4_0, block, 0, 32, y);
    CHECK(y[1] == 0.0f && y[2] == -8.0f && y[17] == -8.0f && y[31] == -1.0f, "Q4_0: %g %g %g", (double)y[1], (double)y[17],
          (double)y[31]);
    memset(block, 0, sizeof block);
    block[209] = 0x40;               /* d = 2 */
    for (i = 0; i < 16; i++)
        block[192 + i] = (uint8_t)(i + 1);
    block[64 + 32 + 5] = 0x7a;       /* second half, l = 37 - 32: runs 1 (low nibble 10) and 3 (high nibble 7) */
    block[128 + 32 + 5] = 0xe4;      /* high bits 0, 1, 2, 3 for runs 0 to 3 */
    bni_decode(BNI_TYPE_Q6_K, block, 0, 256, y);
    CHECK(y[0] == -64.0f, "Q6_K: %g", (double)y[0]);
    CHECK(y[128 + 32 + 5] == 2 * 11 * (10 + 16 - 32), "Q6_K run 1: %g", (double)y[165]);
    CHECK(y[128 + 96 + 5] == 2 * 15 * (7 + 48 - 32), "Q6_K run 3: %g", (double)y[229]);
}

/* -------------------------------------------------------------------------------------------------- numbers */

static void test_conversions(void)
{
    uint32_t h;
    int i, wrong = 0;
    for (h = 0; h < 65536; h++) {
        float x = bni_f16_to_f32((uint16_t)h);
        double fraction = (double)(h & 1023u), want;
        int exponent = (int)(h >> 10 & 31u);
        want = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        want = h >> 15 ? -want : want;
        if (exponent < 31) {
            float up = bni_bits_float(bni_float_bits(x) + (h & 0x7fffu ? 1u : 0u)), middle;
            wrong += (double)x != want || bni_f32_to_f16(x) != h || bni_f32_to_f16(up) != h;
            if ((h & 0x7fffu) < 0x7bffu) {     /* halfway to the next f16 goes to the even one, a bit more goes up */
                middle = (x + bni_f16_to_f32((uint16_t)(h + 1))) * 0.5f;
                wrong += bni_f32_to_f16(middle) != h + (h & 1u);
                wrong += bni_f32_to_f16(bni_bits_float(bni_float_bits(middle) + 1u)) != h + 1u;
                wrong += bni_f32_to_f16(bni_bits_float(bni_float_bits(middle) - 1u)) != h;
            }
        } else {
            wrong += (h & 1023u) ? !is_nan(x) || !is_nan(bni_f16_to_f32(bni_f32_to_f16(x))) : bni_f32_to_f16(x) != h;
        }
    }
    CHECK(wrong == 0, "f16: %d wrong", wrong);
    CHECK(bni_f32_to_f16(65519.0f) == 0x7bff && bni_f32_to_f16(65520.0f) == 0x7c00 && bni_f32_to_f16(-1e30f) == 0xfc00,
          "f16 overflow");
    CHECK(bni_bf16_to_f32(0xc049u) == -3.140625f, "bf16");
    for (i = 0, wrong = 0; i < (fast ? 50000 : 2000000); i++) {
        float x = bni_bits_float((uint32_t)(test_random(&seed) >> 32) & 0xcfffffffu);
        if ((bni_float_bits(x) & 0x7fffffffu) < 0x4f000000u)
            wrong += bni_round_even(x) != (int32_t)llrintf(x);
    }
    for (i = -70000; i < 70000; i++)
        wrong += bni_round_even((float)i * 0.5f) != (int32_t)llrintf((float)i * 0.5f);
    CHECK(wrong == 0, "round_even: %d wrong", wrong);
    CHECK(bni_round_even(3e9f) == INT32_MIN && bni_round_even(-3e9f) == INT32_MIN &&
          bni_round_even(bni_bits_float(0x7fc00000u)) == INT32_MIN, "round_even out of range");
}

/* Units in the last place of float between got and the true value. */
static double ulps(float got, double want)
{
    int exponent;
    frexp(want, &exponent);
    exponent = exponent < -125 ? -125 : exponent;
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

static double relative(double got, long double want)
{
    long double error = fabsl((long double)got - want);
    return (double)(want == 0 ? error : error / fabsl(want));
}

static void test_functions(void)
{
    double worst = 0, e, l, p, s, c, sine, cosine, root = 0;
    int i;
    CHECK(bni_self_check() == 0, "self check: rule %d", bni_self_check());
    for (i = 0; i < (fast ? 20000 : 1000000); i++) {
        float x = (float)(test_unit(&seed) * 192 - 104);
        if (exp((double)x) < 3.4028235e38) {
            double u = ulps(bni_expf(x), exp((double)x));
            worst = u > worst ? u : worst;
        }
    }
    CHECK(worst < 1.6, "expf: %g ulp", worst);
    CHECK(bni_expf(-104.0f) == 0.0f && bni_expf(-1e30f) == 0.0f && bni_expf(0.0f) == 1.0f, "expf at the ends");
    CHECK(bni_float_bits(bni_expf(89.0f)) == 0x7f800000u && bni_float_bits(bni_expf(bni_bits_float(0x7fc00000u))) == 0x7f800000u,
          "expf of large and NaN");
    for (i = 0, worst = 0; i < (fast ? 20000 : 1000000); i++) {
        float x = (float)(test_unit(&seed) * -127 + 1);
        double u = relative(bni_exp2f(x), exp2l(x < -100 ? -100 : (long double)x));
        worst = u > worst ? u : worst;
    }
    CHECK(worst < 3.1e-6, "exp2f: %g", worst);
    for (i = 1; i >= -130; i--)
        CHECK((double)bni_exp2f((float)i) == ldexp(1.0, i < -100 ? -100 : i), "exp2f of %d", i);
    CHECK(bni_exp2f(-bni_bits_float(0x7f800000u)) == bni_exp2f(-100.0f) && (bni_float_bits(bni_exp2f(bni_bits_float(0x7fc00000u))) & 0x7fffffffu) > 0x7f800000u,
          "exp2f of -infinity and NaN");
    CHECK(bni_whole(2.5f) == 2.0f && bni_whole(-3.5f) == -4.0f && bni_whole(8388609.0f) == 8388609.0f && bni_whole(-1e30f) == -1e30f, "whole");
    e = l = p = s = c = 0;
    for (i = 0; i < (fast ? 5000 : 200000); i++) {
        double x = (test_unit(&seed) - 0.5) * 1400, y = ldexp(test_unit(&seed) + 1e-9, test_below(&seed, 200) - 100);
        double a = (test_unit(&seed) - 0.5) * (i % 2 ? 2e6 : 20.0), r;
        r = relative(bni_exp(x), expl((long double)x));
        e = r > e ? r : e;
        r = relative(bni_log(y), logl((long double)y));
        l = r > l ? r : l;
        r = relative(bni_pow(5e5, -x / 1400), powl(5e5L, (long double)(-x / 1400)));
        p = r > p ? r : p;
        bni_sincos(a, &sine, &cosine);
        r = fabs((double)((long double)sine - sinl((long double)a)));
        s = r > s ? r : s;
        r = fabs((double)((long double)cosine - cosl((long double)a)));
        c = r > c ? r : c;
        root += bni_sqrt(y) != sqrt(y) || bni_sqrtf((float)y) != sqrtf((float)y);
    }
    CHECK(e < 1e-15, "exp: %g", e);
    CHECK(l < 1e-15, "log: %g", l);
    CHECK(p < 3e-15, "pow: %g", p);
    CHECK(s < 1e-15 && c < 1e-15, "sin: %g, cos: %g", s, c);
    CHECK(root == 0, "sqrt: %g wrong", root);
    CHECK(bni_exp(0.0) == 1.0 && bni_log(1.0) == 0.0 && bni_pow(10000.0, 0.0) == 1.0, "exact values");
    bni_sincos(0.0, &sine, &cosine);
    CHECK(sine == 0.0 && cosine == 1.0, "sincos(0)");
    CHECK(bni_exp(-800.0) == 0.0 && bni_double_bits(bni_exp(800.0)) == 0x7ff0000000000000u, "exp out of range");
    CHECK(bni_exp(-740.0) > 0.0 && bni_log(5e-324) < -744.0, "denormals");
    CHECK(fabs((double)bni_tanhf(0.5f) - tanh(0.5)) < 1e-7 && fabs((double)bni_logf(0.5f) - log(0.5)) < 1e-7, "tanhf, logf");
}

static void test_random_numbers(void)
{
    int i, buckets[16] = {0}, ok = 1;
    for (i = 0; i < 160000; i++) {
        double u = bni_random_unit(99, (uint64_t)i);
        ok &= u >= 0.0 && u < 1.0;
        buckets[(int)(u * 16)]++;
    }
    for (i = 0; i < 16; i++)
        ok &= buckets[i] > 9500 && buckets[i] < 10500;
    CHECK(ok, "random_unit is not uniform");
    CHECK(bni_random(1, 2) == bni_random(1, 2) && bni_random(1, 2) != bni_random(1, 3) && bni_random(1, 2) != bni_random(2, 2),
          "random is a function of seed and counter");
}

#if BNI_HAVE_AMX
/* In a child of its own, since a permission can't be given back. first: the small signal stack comes before the
   permission, which is then refused; else after it, and is refused itself. 0: as told. */
static int amx_child(int first)
{
    static char small[8192], large[65536];
    const char *why = NULL;
    stack_t stack;
    memset(&stack, 0, sizeof stack);
    stack.ss_sp = small;
    stack.ss_size = sizeof small;
    if (first) {
        const bni_kernels *k;
        if (sigaltstack(&stack, NULL) != 0)
            return 1;
        if (bni_kernels_select("amx", 1, &why) || !why || !strstr(why, "sigaltstack"))
            return 2;
        k = bni_kernels_select("auto", 1, &why);
        return k && strcmp(k->name, "amx") != 0 ? 0 : 3;
    }
    if (!bni_kernels_select("amx", 1, &why) || !bni_kernels_select("amx", 1, &why))
        return 4;
    if (sigaltstack(&stack, NULL) == 0)
        return 5;
    stack.ss_sp = large;
    stack.ss_size = sizeof large;
    return sigaltstack(&stack, NULL) == 0 ? 0 : 6;
}

static void test_amx_permission(void)
{
    const char *why = NULL;
    int first, status;
    CHECK(!bni_kernels_select("amx", 0, &why) && why, "amx without allow_amx must be refused");
    if (!bni_cpu_runs(BNI_ISA_AMX)) {
        SKIP("AMX: this CPU has none");
        return;
    }
    for (first = 0; first < 2; first++) {
        pid_t child = fork();
        if (child == 0)
            _exit(amx_child(first));
        CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
              "AMX and a small signal stack %s: status %x", first ? "before it" : "after it", (unsigned)status);
    }
}
#endif

static void test_dispatch(void)
{
    const char *name, *why = NULL;
    int i, runs;
    for (i = 0; (runs = bni_kernels_list(i, &name)) >= 0; i++) {
        const bni_kernels *k = bni_kernels_select(name, 1, &why);
        CHECK(runs ? k && strcmp(k->name, name) == 0 : !k && why, "select %s", name);
        if (!runs)
            SKIP("kernel set %s: this CPU does not run it", name);
        else if (k != &bni_kernels_scalar)
            sets[n_sets++] = k;
    }
    CHECK(i > 0, "no kernel sets");
    why = NULL;
    CHECK(!bni_kernels_select("avx1024", 1, &why) && why, "an unknown name must be refused");
    CHECK(bni_kernels_select(NULL, 0, &why) == bni_kernels_select("auto", 0, &why) && bni_kernels_select("auto", 0, &why), "auto");
    printf("sets:");                 /* what tests/test_cross.sh looks for */
    for (i = 0; i < n_sets; i++)
        printf(" %s", sets[i]->name);
    printf("\n");
    if (n_sets == 0)
        SKIP("only the scalar kernel set runs here: nothing to compare with");
}

int main(int argc, char **argv)
{
    bni_fp_state host = bni_fp_enter();
    fast = getenv("TEST_FAST") != NULL;
#if BNI_HAVE_AMX
    test_amx_permission();
#endif
    test_dispatch();
    test_elementwise();
    test_packing();
    test_ternary();
    test_attention();
    test_rows();
    test_planes();
    if (argc > 1 && strcmp(argv[1], "--hash") == 0) {
        printf("%08lx%08lx self %d, %d failed\n", (unsigned long)(hash >> 32), (unsigned long)(hash & 0xffffffffu),
               bni_self_check(), test_failed);
        bni_fp_leave(host);
        return test_failed != 0;
    }
    /* Changes with the cases above; if it changes without them, the definition of the numbers has changed. */
    CHECK(hash == (fast ? UINT64_C(0x26e23626c00c13c1) : UINT64_C(0x418ac79496732298)), "the reference's results are not those of other builds: run with --hash");
    test_division();
    test_in_place();
    test_kv();
    test_decode();
    test_conversions();
    test_functions();
    test_random_numbers();
    bni_fp_leave(host);
    return test_end("kernels");
}
