/* ternary_stub.h: a stand-in for the readers of ternary types in bitnet.h, one weight at a time, to be deleted when they
   are there.  Same licence as bitnet.h. Formats: FORMATS.md 2.3 to 2.7. TL1: the preset tiles; id 42: by size. */
#ifndef TERNARY_STUB_H
#define TERNARY_STUB_H

#include "tools/storage.h"

typedef struct bni_ternary {
    uint32_t type, block, block_bytes, row_bytes;
    bitnet_i2s_layout layout;
    const tile *tiles;
    uint64_t n_rows, n_cols;
    uint32_t group;                  /* columns that share a scale */
} bni_ternary;

static uint64_t stub_flat_bytes(const bni_ternary *t)
{
    if (t->type == 39) return size_tl2((size_t)t->n_rows, (size_t)t->n_cols);
    return t->n_rows * t->n_cols / 4;
}

static uint64_t stub_bytes(const bni_ternary *t)
{
    if (!t->block) return stub_flat_bytes(t) + 32;
    return t->n_rows * (t->n_cols / t->block * t->block_bytes + t->row_bytes);
}

/* 1 if the tensor is of this kind: its size fits, and less than an alignment is left. */
static int stub_try(bni_ternary *t, const bni_gguf *g, const bni_tensor *tensor, uint32_t type, uint32_t block,
                    uint32_t block_bytes, uint32_t row_bytes)
{
    uint64_t size;
    t->type = type;
    t->block = block;
    t->block_bytes = block_bytes;
    t->row_bytes = row_bytes;
    t->group = (uint32_t)(block == 0 || row_bytes > 0 ? t->n_cols : block);
    t->tiles = find_tile((size_t)t->n_rows, (size_t)t->n_cols);
    if ((type == 38 || type == 39) && !t->tiles) return 0;
    if (block && t->n_cols % block) return 0;
    size = stub_bytes(t);
    return size <= tensor->gap && tensor->gap - size < g->alignment;
}

static bitnet_result bni_ternary_bind(bni_ternary *t, const bni_gguf *g, const bni_tensor *tensor,
                                      bitnet_i2s_layout layout, bitnet_error *err)
{
    int ok = 0;
    memset(t, 0, sizeof *t);
    t->n_cols = tensor->ne[0];
    t->n_rows = tensor->ne[1];
    t->layout = layout ? layout : BITNET_I2S_A;
    switch (tensor->type) {
    case 34: ok = stub_try(t, g, tensor, 34, 256, 54, 0); break;
    case 35: ok = stub_try(t, g, tensor, 35, 256, 66, 0); break;
    case 36: ok = stub_try(t, g, tensor, 36, 0, 0, 0); break;
    case 38: ok = stub_try(t, g, tensor, 38, 0, 0, 0); break;
    case 39: ok = stub_try(t, g, tensor, 39, 0, 0, 0); break;
    case 42:
        ok = stub_try(t, g, tensor, 39, 0, 0, 0) || stub_try(t, g, tensor, 42, 64, 18, 0) ||
             stub_try(t, g, tensor, 42, 128, 34, 0);
        break;
    case 134: ok = stub_try(t, g, tensor, 134, 64, 13, 2); break;
    case 135: ok = stub_try(t, g, tensor, 135, 64, 16, 4); break;
    case 142: ok = stub_try(t, g, tensor, 42, 128, 34, 0); break;
    case 335: ok = stub_try(t, g, tensor, 335, 64, 16, 4); break;
    default: break;
    }
    if (!ok)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, tensor->offset, "tensor %S: type %s is not read", &tensor->name,
                        bni_type_name(tensor->type));
    return BITNET_OK;
}

/* Digit n (0: most significant) of a byte that holds five base-3 digits as a fraction of 256. */
static int stub_digit(unsigned byte, int n)
{
    static const unsigned power[5] = {1, 3, 9, 27, 81};
    return (int)(((byte * power[n]) & 255) * 3 >> 8);
}

static int stub_tq1_0(const uint8_t *b, int k)
{
    if (k < 160) return stub_digit(b[k % 32], k / 32);
    if (k < 240) return stub_digit(b[32 + (k - 160) % 16], (k - 160) / 16);
    return stub_digit(b[48 + (k - 240) % 4], (k - 240) / 4);
}

static int stub_iq1_bn(const uint8_t *b, int k)
{
    if (k % 16 == 15) return stub_digit(b[12], 4 - k / 16);
    return stub_digit(b[k / 16 * 3 + k % 16 / 5], 4 - k % 16 % 5);
}

static int stub_pair(const uint8_t *p, uint64_t k)
{
    const int code = k % 4 < 2 ? *p >> 4 : *p & 15;
    return k % 2 == 0 ? code / 3 : code % 3;
}

static int stub_tl1(const bni_ternary *t, const uint8_t *data, uint64_t row, uint64_t k)
{
    const uint64_t bm = t->tiles->bm1, by = t->tiles->by1, sub = t->tiles->sub1, thin = 256 / sub;
    uint64_t at = row / bm * (t->n_cols / by) + k / by;
    at = at * (bm / sub) + row % bm / sub;
    at = at * (by / thin) + k % by / thin;
    at = at * (sub / 16) + row % sub / 16;
    at = at * (thin / 4) + k % thin / 4;
    return stub_pair(data + at * 16 + row % 16, k);
}

static int stub_tl2(const bni_ternary *t, const uint8_t *data, uint64_t row, uint64_t k)
{
    static const uint64_t p[4] = {0, 2, 1, 3}, power[3] = {9, 3, 1};
    const uint64_t bm = t->tiles->bm2, by = t->tiles->by2, m = t->n_rows, k2 = t->n_cols % by, k3 = t->n_cols - k2;
    const uint64_t mb = row / bm, mi = row % bm / 32, r = row % 32, pos = 8 * p[r / 8] + r % 8;
    if (k < k3) {
        const uint64_t kk = k % by, strip = (mb * k3 / by + k / by) * bm / 32 + mi;
        const unsigned byte = data[(strip * by / 6 + kk / 6) * 32 + pos];
        const unsigned size = kk % 6 < 3 ? byte >> 4 : byte & 15;
        const uint8_t *sign = data + k3 * m / 6 + (strip * by / 24 + kk / 24) * 32 + 2 * (r % 16);
        const unsigned bit = (unsigned)(15 - (2 * (kk % 24 / 3) + r / 16)), word = sign[0] | (unsigned)sign[1] << 8;
        return (int)((word >> bit & 1 ? 13 - size : 13 + size) / power[kk % 3] % 3);
    }
    k -= k3;
    return stub_pair(data + k3 * m / 6 + k3 * m / 24 + (((mb * k2 / 32 + k / 32) * bm / 32 + mi) * 8 + k % 32 / 4) * 32 +
                         pos, k);
}

static void bni_ternary_codes(const bni_ternary *t, const uint8_t *data, uint64_t row, uint8_t *codes)
{
    const uint64_t stride = t->block ? t->n_cols / t->block * t->block_bytes + t->row_bytes : 0;
    const uint8_t *line = data + row * stride + t->row_bytes;
    uint64_t k;
    if (t->type == 36) {
        bni_i2s_row_any(data, t->layout, row, t->n_cols, codes);
        return;
    }
    if (t->type == 335) line = data + row / 4 * 4 * stride + 16;
    for (k = 0; k < t->n_cols; k++) {
        const uint8_t *b = t->block ? line + k / t->block * t->block_bytes * (t->type == 335 ? 4 : 1) : line;
        const int i = t->block ? (int)(k % t->block) : 0;
        int code = 1;
        switch (t->type) {
        case 34: code = stub_tq1_0(b, i); break;
        case 35: code = b[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3; break;
        case 38: code = stub_tl1(t, data, row, k); break;
        case 39: code = stub_tl2(t, data, row, k); break;
        case 42: code = b[2 + i / 4] >> (2 * (i % 4)) & 3; break;
        case 134: code = stub_iq1_bn(b, i); break;
        case 135: code = b[i % 16] >> (2 * (i / 16)) & 3; break;
        case 335: code = b[4 * (row % 4) + (unsigned)(i % 4 + i / 16 * 16)] >> (2 * (i % 16 / 4)) & 3; break;
        default: break;
        }
        codes[k] = (uint8_t)code;
    }
}

static void bni_ternary_scales(const bni_ternary *t, const uint8_t *data, uint64_t row, float *scales)
{
    const uint64_t stride = t->block ? t->n_cols / t->block * t->block_bytes + t->row_bytes : 0;
    uint64_t i;
    if (!t->block) {
        scales[0] = bni_load_f32(data + stub_flat_bytes(t));
    } else if (t->row_bytes) {
        const uint8_t *p = t->type == 335 ? data + row / 4 * 4 * stride + 4 * (row % 4) : data + row * stride;
        scales[0] = t->row_bytes == 2 ? bni_f16_to_f32(bni_load_u16(p)) : bni_load_f32(p);
    } else {
        const uint8_t *p = data + row * stride + (t->type == 42 ? 0 : t->block_bytes - 2);
        for (i = 0; i < t->n_cols / t->block; i++) scales[i] = bni_f16_to_f32(bni_load_u16(p + i * t->block_bytes));
    }
}

#endif /* TERNARY_STUB_H */
