/* storage.h: every way to store a tensor that the programs in tools/ can write.  Same licence as bitnet.h.

   A float format encodes rows of floats, a ternary one packs rows of codes: 0, 1, 2 for -1, 0, +1. Adding a format is
   one function and one line in storages[]. Sizes and bit layouts: GGUF's ggml-common.h and the ternary forks.

       const storage *type = find_storage("tq1_0");
       type->pack(to, codes, n_rows, n_cols, scale);          stored_size(type, n_rows, n_cols) bytes, then type->tail

   From where this is included on, the compiler makes no fused multiply-adds: they would round differently from machine
   to machine. */

#ifndef STORAGE_H
#define STORAGE_H

#include "tools/gguf_write.h"

#include <math.h>

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

static void put_u16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v & 0xff);
    p[1] = (uint8_t)((v >> 8) & 0xff);
}

static void put_f32(uint8_t *p, float v) {
    uint32_t bits = gguf_f32_bits(v);
    put_u16(p, bits & 0xffff);
    put_u16(p + 2, bits >> 16);
}

static float bits_float(uint32_t bits) {
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

/* f32 to IEEE binary16, nearest, ties to even. Results below 2^-14 are denormal: adding 0.5 lets the hardware round
   them, since the unit of 0.5 in f32 is 2^-24, that of the denormals. */
static uint32_t f32_to_f16(float v) {
    uint32_t bits = gguf_f32_bits(v), sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits >= 0x47800000u) return sign | (bits > 0x7f800000u ? 0x7e00u : 0x7c00u);       /* >= 65536 */
    if (bits < 0x38800000u) return sign | (gguf_f32_bits(bits_float(bits) + 0.5f) - 0x3f000000u);
    return sign | ((bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13);
}

static float f16_to_f32(uint32_t h) {
    uint32_t e = (h >> 10) & 31u, m = h & 0x3ffu;
    float v = e == 0 ? (float)m * (1.0f / 16777216.0f)
                     : bits_float(e == 31u ? 0x7f800000u | (m << 13) : ((e + 112u) << 23) | (m << 13));
    return (h & 0x8000u) != 0 ? -v : v;
}

/* f32 to bfloat16 (its upper half), nearest, ties to even; no NaN comes here. */
static uint32_t f32_to_bf16(float v) {
    uint32_t bits = gguf_f32_bits(v);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

/* The integer nearest to v, clamped to lo..hi. Halves go to the even one, by the default rounding mode. */
static int round_clamp(float v, int lo, int hi) {
    float r = rintf(v);
    return r < (float)lo ? lo : r > (float)hi ? hi : (int)r;
}

static float max_abs(const float *x, size_t n) {
    float m = 0;
    size_t i;
    for (i = 0; i < n; i++) m = fabsf(x[i]) > m ? fabsf(x[i]) : m;
    return m;
}

static void encode_f32(uint8_t *to, const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) put_f32(to + 4 * i, x[i]);
}

static void encode_f16(uint8_t *to, const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) put_u16(to + 2 * i, f32_to_f16(x[i]));
}

static void encode_bf16(uint8_t *to, const float *x, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) put_u16(to + 2 * i, f32_to_bf16(x[i]));
}

/* Blocks of 32: f16 d, then 32 signed bytes; value = d * q. */
static void encode_q8_0(uint8_t *to, const float *x, size_t n) {
    size_t i, j;
    for (i = 0; i < n; i += 32, to += 34) {
        uint32_t d = f32_to_f16(max_abs(x + i, 32) / 127.0f);
        float unit = f16_to_f32(d), inverse = unit > 0 ? 1.0f / unit : 0.0f;
        put_u16(to, d);
        for (j = 0; j < 32; j++) to[2 + j] = (uint8_t)(round_clamp(x[i + j] * inverse, -127, 127) & 0xff);
    }
}

/* Blocks of 32: f16 d, then 16 bytes; low nibbles are elements 0..15, high ones 16..31; value = d * (q - 8). The
   element of largest magnitude becomes q = 0, that is -8 d, so d takes the opposite of its sign. */
static void encode_q4_0(uint8_t *to, const float *x, size_t n) {
    size_t i, j;
    for (i = 0; i < n; i += 32, to += 18) {
        float extreme = 0, unit, inverse;
        uint32_t d;
        for (j = 0; j < 32; j++) extreme = fabsf(x[i + j]) > fabsf(extreme) ? x[i + j] : extreme;
        d = f32_to_f16(extreme / -8.0f);
        unit = f16_to_f32(d);
        inverse = fabsf(unit) > 0 ? 1.0f / unit : 0.0f;
        put_u16(to, d);
        for (j = 0; j < 16; j++) {
            int lo = round_clamp(x[i + j] * inverse, -8, 7) + 8, hi = round_clamp(x[i + 16 + j] * inverse, -8, 7) + 8;
            to[2 + j] = (uint8_t)(lo | (hi << 4));
        }
    }
}

/* Blocks of 256: ql[128] low 4 bits, qh[64] high 2 bits, 16 signed scales, f16 d; value = d * scale * (q - 32).
   Each 16 elements share a scale. In each half of 128 values, value l + 32 k (l < 32, k < 4) has its low bits in
   ql[l + 32 (k & 1)], low nibble for k < 2, and its high bits in qh[l] at bit 2 k. */
static void encode_q6_k(uint8_t *to, const float *x, size_t n) {
    size_t i, j;
    for (i = 0; i < n; i += 256, to += 210) {
        uint8_t *ql = to, *qh = to + 128, *scales = to + 192;
        uint32_t d = f32_to_f16(max_abs(x + i, 256) / (31.0f * 127.0f));
        float unit = f16_to_f32(d), inverse = unit > 0 ? 1.0f / unit : 0.0f;
        int scale[16];
        memset(to, 0, 192);
        for (j = 0; j < 16; j++) {
            scale[j] = round_clamp(max_abs(x + i + 16 * j, 16) * inverse / 31.0f, 0, 127);
            scales[j] = (uint8_t)scale[j];
        }
        for (j = 0; j < 256; j++) {
            size_t half = j / 128, l = j % 32, k = j / 32 % 4;
            float step = unit * (float)scale[j / 16];
            unsigned q = (unsigned)(round_clamp(step > 0 ? x[i + j] / step : 0, -32, 31) + 32);
            ql[64 * half + l + 32 * (k & 1)] |= (uint8_t)((q & 15u) << (4 * (k >> 1)));
            qh[32 * half + l] |= (uint8_t)((q >> 4) << (2 * k));
        }
        put_u16(to + 208, d);
    }
}

/* Blocks of 256: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles. Each 32 elements share a
   scale s and a minimum m: value = d * s * q - dmin * m. Nibbles: sub-blocks 2 i and 2 i + 1 are the low and the high
   ones of the same 32 bytes. Scales and minima 0..3 fill the low 6 bits of bytes 0..3 and 4..7; those of 4..7 have
   their low 4 bits in bytes 8..11 and their high 2 bits on top of the others. */
static void encode_q4_k(uint8_t *to, const float *x, size_t n) {
    size_t i, j, k;
    for (i = 0; i < n; i += 256, to += 144) {
        float low[8], range[8], d, dmin;
        memset(to, 0, 144);
        for (j = 0; j < 8; j++) {
            float high = 0;
            low[j] = 0;
            for (k = 0; k < 32; k++) {
                float v = x[i + 32 * j + k];
                low[j] = v < low[j] ? v : low[j];
                high = v > high ? v : high;
            }
            range[j] = (high - low[j]) / 15.0f;
        }
        put_u16(to, f32_to_f16(max_abs(range, 8) / 63.0f));
        put_u16(to + 2, f32_to_f16(max_abs(low, 8) / 63.0f));
        d = f16_to_f32((uint32_t)to[0] | (uint32_t)to[1] << 8);
        dmin = f16_to_f32((uint32_t)to[2] | (uint32_t)to[3] << 8);
        for (j = 0; j < 8; j++) {
            unsigned s = (unsigned)round_clamp(d > 0 ? range[j] / d : 0, 0, 63);
            unsigned m = (unsigned)round_clamp(dmin > 0 ? -low[j] / dmin : 0, 0, 63);
            float step = d * (float)s, least = dmin * (float)m;
            uint8_t *sc = to + 4;
            if (j < 4) {
                sc[j] |= (uint8_t)s;
                sc[j + 4] |= (uint8_t)m;
            } else {
                sc[j + 4] |= (uint8_t)((s & 15u) | (m & 15u) << 4);
                sc[j - 4] |= (uint8_t)((s >> 4) << 6);
                sc[j] |= (uint8_t)((m >> 4) << 6);
            }
            for (k = 0; k < 32; k++) {
                float v = x[i + 32 * j + k] + least;
                unsigned q = (unsigned)round_clamp(step > 0 ? v / step : 0, 0, 15);
                to[16 + 32 * (j / 2) + k] |= (uint8_t)(q << (4 * (j & 1)));
            }
        }
    }
}

/* I2_S: 2 bits a weight, four codes in a byte, the first in the highest bits. In layouts A and B the codes of a byte
   stand `lane` elements apart, in D side by side; blocks run on over the ends of rows.
       A, lane 32   byte j of a 32-byte block: c[j] c[j+32] c[j+64] c[j+96]
       B, lane 16   byte j of a 16-byte block: c[j] c[j+16] c[j+32] c[j+48]
       D, lane 1    byte j: c[4j] c[4j+1] c[4j+2] c[4j+3] */
static void pack_i2_s_a(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    size_t i, n = n_rows * n_cols;
    (void)scale;
    for (i = 0; i < n; i += 128, to += 32, codes += 128) {
        int j;
        for (j = 0; j < 32; j++)
            to[j] = (uint8_t)(codes[j] << 6 | codes[j + 32] << 4 | codes[j + 64] << 2 | codes[j + 96]);
    }
}

static void pack_i2_s_b(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    size_t i, n = n_rows * n_cols;
    (void)scale;
    for (i = 0; i < n; i += 64, to += 16, codes += 64) {
        int j;
        for (j = 0; j < 16; j++)
            to[j] = (uint8_t)(codes[j] << 6 | codes[j + 16] << 4 | codes[j + 32] << 2 | codes[j + 48]);
    }
}

static void pack_i2_s_d(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    size_t i, n = n_rows * n_cols;
    (void)scale;
    for (i = 0; i < n; i += 4, codes += 4)
        to[i / 4] = (uint8_t)(codes[0] << 6 | codes[1] << 4 | codes[2] << 2 | codes[3]);
}

/* Layout C: four rows side by side, byte [row / 4][column] holding that column of the four. */
static void pack_i2_s_c(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    size_t r, k;
    (void)scale;
    for (r = 0; r < n_rows; r += 4, to += n_cols, codes += 4 * n_cols)
        for (k = 0; k < n_cols; k++)
            to[k] = (uint8_t)(codes[k] << 6 | codes[n_cols + k] << 4 | codes[2 * n_cols + k] << 2 |
                              codes[3 * n_cols + k]);
}

/* TQ1_0, blocks of 256 in 54 bytes: qs[48], qh[4], f16 d. Five codes in base 3, the first most significant, make a
   number q < 243, stored as ceil(q * 256 / 243): the top of (byte * 3^n) mod 256, times 3, gives digit n back.
   qs[m], m < 32: elements m + 32 n; qs[32 + m], m < 16: 160 + m + 16 n; qh[j]: 240 + j + 4 n, four codes and a 0. */
static void pack_tq1_0(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    static const struct { uint8_t at, count, first, digits; } part[3] = {{0, 32, 0, 5}, {32, 16, 160, 5},
                                                                        {48, 4, 240, 4}};
    uint32_t d = f32_to_f16(scale);
    size_t block, n_blocks = n_rows * n_cols / 256;
    for (block = 0; block < n_blocks; block++, to += 54, codes += 256) {
        int p;
        for (p = 0; p < 3; p++) {
            unsigned m, n;
            for (m = 0; m < part[p].count; m++) {
                unsigned q = 0;
                for (n = 0; n < 5; n++)
                    q = 3 * q + (n < part[p].digits ? codes[part[p].first + m + part[p].count * n] : 0u);
                to[part[p].at + m] = (uint8_t)((q * 256 + 242) / 243);
            }
        }
        put_u16(to + 52, d);
    }
}

/* TQ2_0, blocks of 256 in 66 bytes: qs[64], f16 d. Bits 2l of qs[32 h + m] are element 128 h + 32 l + m. */
static void pack_tq2_0(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    uint32_t d = f32_to_f16(scale);
    size_t block, n_blocks = n_rows * n_cols / 256;
    for (block = 0; block < n_blocks; block++, to += 66, codes += 256) {
        int h, m;
        for (h = 0; h < 2; h++)
            for (m = 0; m < 32; m++) {
                const uint8_t *c = codes + 128 * h + m;
                to[32 * h + m] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
            }
        put_u16(to + 64, d);
    }
}

/* Q2_0, blocks of 64 in 18 bytes: f16 d, qs[16]; element j has bits 2 (j mod 4) of qs[j / 4], value d * (q - 1). An
   older form under the same number has blocks of 128 in 34 bytes. */
static void pack_q2_0_blocks(uint8_t *to, const uint8_t *codes, size_t n, size_t block, float scale) {
    uint32_t d = f32_to_f16(scale);
    size_t i, j;
    for (i = 0; i < n; i += block) {
        put_u16(to, d);
        to += 2;
        for (j = 0; j < block; j += 4, codes += 4)
            *to++ = (uint8_t)(codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6);
    }
}

static void pack_q2_0(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    pack_q2_0_blocks(to, codes, n_rows * n_cols, 64, scale);
}

static void pack_q2_0_128(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    pack_q2_0_blocks(to, codes, n_rows * n_cols, 128, scale);
}

/* IQ1_BN: a row is an f16 scale, then 13 bytes for each 64 codes. Bytes 0..11, three for each 16 codes, hold five
   codes each, the first with weight 1 (base 3), stored as ceil(q * 256 / 243) like TQ1_0; byte 12 holds every 16th. */
static void pack_iq1_bn(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    static const unsigned power[5] = {1, 3, 9, 27, 81};
    size_t r, k;
    for (r = 0; r < n_rows; r++) {
        put_u16(to, f32_to_f16(scale));
        to += 2;
        for (k = 0; k < n_cols; k += 64, to += 13, codes += 64) {
            unsigned i, b, j, extra = 0;
            for (i = 0; i < 4; i++) {
                for (b = 0; b < 3; b++) {
                    unsigned q = 0;
                    for (j = 0; j < 5; j++) q += power[j] * codes[16 * i + 5 * b + j];
                    to[3 * i + b] = (uint8_t)((q * 256 + 242) / 243);
                }
                extra += power[i] * codes[16 * i + 15];
            }
            to[12] = (uint8_t)((extra * 256 + 242) / 243);
        }
    }
}

/* IQ2_BN: a row is an f32 scale, then 16 bytes for each 64 codes: code j in bits 2 (j / 16) of byte j mod 16. */
static void pack_iq2_bn(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    size_t r, k;
    for (r = 0; r < n_rows; r++) {
        put_f32(to, scale);
        to += 4;
        for (k = 0; k < n_cols; k += 64, to += 16, codes += 64) {
            int j;
            for (j = 0; j < 16; j++)
                to[j] = (uint8_t)(codes[j] | codes[j + 16] << 2 | codes[j + 32] << 4 | codes[j + 48] << 6);
        }
    }
}

/* IQ2_BN_R4: four rows together: their four scales, then 64 bytes for each 64 columns. Byte 4 r + i + 16 l holds, of
   row r, the columns 16 l + i + 4 s in bits 2 s. */
static void pack_iq2_bn_r4(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    size_t group, k, b;
    for (group = 0; group < n_rows; group += 4, codes += 4 * n_cols) {
        for (b = 0; b < 4; b++) put_f32(to + 4 * b, scale);
        to += 16;
        for (k = 0; k < n_cols; k += 64, to += 64)
            for (b = 0; b < 64; b++) {
                const uint8_t *c = codes + b / 4 % 4 * n_cols + k + 16 * (b / 16) + b % 4;
                to[b] = (uint8_t)(c[0] | c[4] << 2 | c[8] << 4 | c[12] << 6);
            }
    }
}

/* TL1 and TL2 cut a matrix into tiles whose sizes are not in the file: they come from bitnet.cpp's kernel_config.ini,
   by shape. bm1, by1, sub1: TL1's BM, BY, bm as preset; bm1g, by1g, sub1g: as its
   set-up program generates them; bm2, by2: TL2's. */
typedef struct tile {
    size_t n_rows, n_cols;
    size_t bm1, by1, sub1, bm1g, by1g, sub1g, bm2, by2;
} tile;

static const tile tiles[] = {
    {14336, 4096, 256, 128, 64, 256, 128, 32, 256, 96}, {4096, 14336, 256, 128, 32, 128, 64, 64, 128, 96},
    {1024, 4096, 128, 64, 64, 256, 128, 32, 256, 96},   {4096, 4096, 128, 64, 32, 128, 64, 64, 128, 96},
    {3200, 8640, 160, 64, 32, 160, 64, 32, 160, 96},    {3200, 3200, 320, 128, 64, 320, 128, 64, 320, 96},
    {8640, 3200, 320, 64, 32, 320, 64, 32, 320, 96},    {1536, 4096, 256, 128, 32, 256, 128, 32, 256, 96},
    {1536, 1536, 128, 64, 64, 128, 64, 64, 128, 192},   {4096, 1536, 256, 128, 32, 256, 128, 32, 256, 96},
};

/* The tile sizes of a matrix, NULL: bitnet.cpp has no such matrix. */
static const tile *find_tile(size_t n_rows, size_t n_cols) {
    size_t i;
    for (i = 0; i < sizeof tiles / sizeof tiles[0]; i++)
        if (tiles[i].n_rows == n_rows && tiles[i].n_cols == n_cols) return &tiles[i];
    return NULL;
}

static size_t size_tl1(size_t n_rows, size_t n_cols) { return find_tile(n_rows, n_cols) ? n_rows * n_cols / 4 : 0; }

/* TL1: two codes make one of 9 values, 3 a + b, and a nibble; a byte is four columns of one row, the first two in the
   high nibble. Tiles of bm rows by by columns; in it, sub rows by 256 / sub columns; in it, 16 rows by 4 columns. */
static void pack_tl1_tiles(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, size_t bm, size_t by,
                           size_t sub) {
    size_t row, k, thin = 256 / sub;
    for (row = 0; row < n_rows; row++)
        for (k = 0; k < n_cols; k += 4, codes += 4) {
            size_t at = row / bm * (n_cols / by) + k / by;
            at = at * (bm / sub) + row % bm / sub;
            at = at * (by / thin) + k % by / thin;
            at = at * (sub / 16) + row % sub / 16;
            at = at * (thin / 4) + k % thin / 4;
            to[at * 16 + row % 16] = (uint8_t)((3 * codes[0] + codes[1]) << 4 | (3 * codes[2] + codes[3]));
        }
}

static void pack_tl1(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    const tile *t = find_tile(n_rows, n_cols);
    (void)scale;
    pack_tl1_tiles(to, codes, n_rows, n_cols, t->bm1, t->by1, t->sub1);
}

static void pack_tl1_generated(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    const tile *t = find_tile(n_rows, n_cols);
    (void)scale;
    pack_tl1_tiles(to, codes, n_rows, n_cols, t->bm1g, t->by1g, t->sub1g);
}

/* Bytes before TL2's scale: bitnet.cpp's own formula (for one tile width, whatever the shape), in its integer steps. */
static size_t size_tl2(size_t n_rows, size_t n_cols) {
    size_t n = (n_cols - 256) * n_rows / 3 * 5 / 8 + 256 * n_rows / 2 * 4 / 8;
    return find_tile(n_rows, n_cols) ? (n + 31) / 32 * 32 : 0;
}

/* TL2: the first k3 columns, a multiple of by, in triples, the rest in pairs as TL1 codes them. A triple of -1, 0, +1
   is v = 9 a + 3 b + c; |v| is a nibble, the sign a bit. Regions: triples k3 * m / 6 bytes, signs k3 * m / 24, pairs.
   In each run of 32 bytes for 32 rows the middle two groups of 8 rows are swapped, except for the signs: their 16-bit
   words hold, for rows r and r + 16 in turn, the signs of 8 triples, the first in the highest bits. */
static void pack_tl2(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale) {
    static const size_t swap[4] = {0, 2, 1, 3};
    const tile *t = find_tile(n_rows, n_cols);
    size_t bm = t->bm2, by = t->by2, k2 = n_cols % by, k3 = n_cols - k2, row, k;
    uint8_t *signs = to + k3 * n_rows / 6, *pairs = signs + k3 * n_rows / 24;
    (void)scale;
    memset(to, 0, size_tl2(n_rows, n_cols));
    for (row = 0; row < n_rows; row++) {
        size_t mb = row / bm, mi = row % bm / 32, r = row % 32, place = 8 * swap[r / 8] + r % 8;
        for (k = 0; k < k3; k += 3, codes += 3) {
            int v = 9 * codes[0] + 3 * codes[1] + codes[2] - 13;
            size_t in = k % by, strip = (mb * (k3 / by) + k / by) * (bm / 32) + mi;
            size_t bit = 15 - (2 * (in % 24 / 3) + r / 16), word = (strip * (by / 24) + in / 24) * 32 + 2 * (r % 16);
            to[(strip * (by / 6) + in / 6) * 32 + place] |= (uint8_t)((v < 0 ? -v : v) << (in % 6 == 0 ? 4 : 0));
            if (v < 0) signs[word + bit / 8] |= (uint8_t)(1u << bit % 8);
        }
        for (k = 0; k < k2; k += 4, codes += 4) {
            size_t strip = (mb * (k2 / 32) + k / 32) * (bm / 32) + mi;
            pairs[(strip * 8 + k % 32 / 4) * 32 + place] =
                (uint8_t)((3 * codes[0] + codes[1]) << 4 | (3 * codes[2] + codes[3]));
        }
    }
}

/* One way to store a tensor. */
typedef struct storage {
    const char *name;
    uint32_t id;                /* the type's number in the tensor record */
    uint32_t file_type;         /* general.file_type of a file made mostly of it */
    uint32_t block, block_bytes;
    uint32_t row_bytes;         /* besides its blocks, in each row */
    int flat;                   /* 1: blocks run on over the ends of rows, 0: a row is a whole number of blocks */
    size_t row_group;           /* rows that are packed together, 0: all */
    size_t tail;                /* bytes at the end: an f32 scale, then zeros */
    void (*encode)(uint8_t *to, const float *x, size_t n);
    void (*pack)(uint8_t *to, const uint8_t *codes, size_t n_rows, size_t n_cols, float scale);
    size_t (*size)(size_t n_rows, size_t n_cols);      /* bytes without tail where blocks do not tell; 0: impossible */
} storage;

/* The I2_S entries are --layout a to d, in this order; they share one number in the file. Numbers that mean different
   types in different programs: 39 and 42 (TL2 of bitnet.cpp before and after July 2026; Q2_0), 142 (PQ2_0). */
static const storage storages[] = {
    {"i2_s", 36, 40, 128, 32, 0, 1, 1, 32, NULL, pack_i2_s_a, NULL},
    {"i2_s", 36, 40, 64, 16, 0, 1, 1, 32, NULL, pack_i2_s_b, NULL},
    {"i2_s", 36, 40, 4, 1, 0, 1, 4, 32, NULL, pack_i2_s_c, NULL},
    {"i2_s", 36, 40, 4, 1, 0, 1, 1, 32, NULL, pack_i2_s_d, NULL},
    {"tq1_0", 34, 36, 256, 54, 0, 0, 1, 0, NULL, pack_tq1_0, NULL},
    {"tq2_0", 35, 37, 256, 66, 0, 0, 1, 0, NULL, pack_tq2_0, NULL},
    {"tl1", 38, 38, 4, 1, 0, 1, 0, 32, NULL, pack_tl1, size_tl1},
    {"tl1-generated", 38, 38, 4, 1, 0, 1, 0, 32, NULL, pack_tl1_generated, size_tl1},
    {"tl2", 39, 39, 1, 0, 0, 1, 0, 32, NULL, pack_tl2, size_tl2},
    {"tl2-42", 42, 39, 1, 0, 0, 1, 0, 32, NULL, pack_tl2, size_tl2},
    {"q2_0", 42, 0, 64, 18, 0, 0, 1, 0, NULL, pack_q2_0, NULL},
    {"q2_0-128", 42, 0, 128, 34, 0, 0, 1, 0, NULL, pack_q2_0_128, NULL},
    {"pq2_0", 142, 0, 128, 34, 0, 0, 1, 0, NULL, pack_q2_0_128, NULL},
    {"iq1_bn", 134, 136, 64, 13, 2, 0, 1, 0, NULL, pack_iq1_bn, NULL},
    {"iq2_bn", 135, 137, 64, 16, 4, 0, 1, 0, NULL, pack_iq2_bn, NULL},
    {"iq2_bn_r4", 335, 337, 64, 16, 4, 0, 4, 0, NULL, pack_iq2_bn_r4, NULL},
    {"f32", 0, 0, 1, 4, 0, 0, 1, 0, encode_f32, NULL, NULL},
    {"f16", 1, 1, 1, 2, 0, 0, 1, 0, encode_f16, NULL, NULL},
    {"bf16", 30, 32, 1, 2, 0, 0, 1, 0, encode_bf16, NULL, NULL},
    {"q8_0", 8, 7, 32, 34, 0, 0, 1, 0, encode_q8_0, NULL, NULL},
    {"q6_k", 14, 18, 256, 210, 0, 0, 1, 0, encode_q6_k, NULL, NULL},
    {"q4_k", 12, 14, 256, 144, 0, 0, 1, 0, encode_q4_k, NULL, NULL},
    {"q4_0", 2, 2, 32, 18, 0, 0, 1, 0, encode_q4_0, NULL, NULL},
};
enum { N_STORAGES = sizeof storages / sizeof storages[0] };

/* Bytes of n_rows rows, without the tail. */
static uint64_t stored_size(const storage *type, uint64_t n_rows, uint64_t n_cols) {
    if (type->size != NULL) return type->size((size_t)n_rows, (size_t)n_cols);
    return n_rows * n_cols / type->block * type->block_bytes + n_rows * type->row_bytes;
}

/* general.file_type for other programs, and what llama-quantize takes for TYPE. synth writes 0 where a type has no number of
   bitnet.cpp's: 41 is llama.cpp's for Q2_0; 1024, "guessed", stands for types whose programs have none that we know of. */
static inline uint32_t stored_file_type(const storage *type) {
    if (strcmp(type->name, "q2_0") == 0) return 41;
    return type->file_type == 0 && type->id != 0 ? 1024 : type->file_type;
}

/* The storage of that name, or NULL. */
static inline const storage *find_storage(const char *name) {
    size_t i;
    for (i = 0; i < N_STORAGES; i++)
        if (strcmp(storages[i].name, name) == 0) return &storages[i];
    return NULL;
}

#endif /* STORAGE_H */
