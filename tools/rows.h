/* rows.h: the rows of a tensor, whatever it is stored as: ternary ones as codes and scales, others as numbers.
   Same licence as bitnet.h.

   Include after bitnet.h's implementation, whose readers do the work; here is what a program needs that goes through
   files larger than its memory: a ternary tensor is there as a whole (59 MB for the largest of an 8B model), rows of
   numbers come in pieces, and pages of a mapping go back when they have been read.

       rows r;
       if (!rows_open(&r, &model, tensor, &desc, &err)) ...      of no type that is read, or err says what else
       for (row = 0; row < r.n_rows; row++)
           if (!rows_codes(&r, row)) ...                         r.codes [n_cols], r.scales [n_cols / group]
       rows_close(&r); */

#ifndef ROWS_H
#define ROWS_H

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_PIECE ((uint64_t)4 << 20)       /* bytes of numbers that are there at a time */

typedef enum rows_kind { ROWS_OPAQUE, ROWS_TERNARY, ROWS_NUMBERS } rows_kind;

typedef struct rows {
    rows_kind kind;
    uint64_t n_rows, n_cols;
    uint64_t group;                  /* columns that share a scale */
    uint8_t *codes;                  /* [n_cols] of rows_codes: weight + 1; 3 where bits say so, but for I2_S */
    float *scales;                   /* [n_cols / group] */
    float *values;                   /* [n_cols] of rows_values */
    const bni_source *source;
    const bni_tensor *tensor;
    bni_ternary ternary;
    const uint8_t *piece;            /* bytes of rows [first, first + count); NULL: none yet */
    uint8_t *memory;                 /* for them, where the file is not mapped */
    uint64_t row_bytes, first, count, step;
} rows;

/* Gives back the piece that was read. */
static void rows_release(rows *r)
{
    const uint64_t bytes = r->kind == ROWS_TERNARY ? r->tensor->bytes : r->count * r->row_bytes;
    if (r->piece && r->source->mapped) bni_map_release(r->piece, bytes);
    r->piece = NULL;
}

static void rows_close(rows *r)
{
    rows_release(r);
    free(r->memory);
    free(r->codes);
    free(r->scales);
    free(r->values);
    memset(r, 0, sizeof *r);
}

/* n elements, NULL where there is no memory for them, also because the host's addresses are too short. */
static void *rows_allocate(uint64_t n, size_t size)
{
    return n >= SIZE_MAX / size ? NULL : malloc((size_t)n * size + 1);
}

/* Prepares reading t of m, which was opened by bni_model_tables with d. Returns 1; or 0 and why not, with nothing to
   close. */
static int rows_open(rows *r, const bitnet_model *m, const bni_tensor *t, const bitnet_model_desc *d, bitnet_error *err)
{
    uint64_t bytes;
    int ok;
    memset(r, 0, sizeof *r);
    memset(err, 0, sizeof *err);
    r->source = &m->source;
    r->tensor = t;
    r->n_cols = r->group = t->ne[0];
    r->n_rows = bni_tensor_count(t) / t->ne[0];
    if (t->form == BNI_FORM_NONE && !bni_type_is_decodable(t->type)) {
        snprintf(err->text, sizeof err->text, "type %s (%u) is not read", bni_type_name(t->type), (unsigned)t->type);
        return 0;
    }
    if (r->n_cols > INT_MAX / 8) {
        snprintf(err->text, sizeof err->text, "rows of %.0f weights", (double)r->n_cols);
        return 0;
    }
    if (t->form != BNI_FORM_NONE) {
        if (bni_ternary_bind(&r->ternary, t, bni_i2s_layout(d), d->tl_tiles, err) != BITNET_OK) return 0;
        r->group = r->ternary.group;
        r->step = r->n_rows;
        bytes = t->bytes;
    } else {
        r->row_bytes = bni_row_bytes(t->type, r->n_cols);
        r->step = ROWS_PIECE / r->row_bytes > 0 ? ROWS_PIECE / r->row_bytes : 1;
        if (r->step > r->n_rows) r->step = r->n_rows;
        bytes = r->step * r->row_bytes;
    }
    r->kind = t->form != BNI_FORM_NONE ? ROWS_TERNARY : ROWS_NUMBERS;
    r->codes = (uint8_t *)rows_allocate(r->n_cols, 1);
    r->scales = (float *)rows_allocate(r->n_cols / r->group, sizeof(float));
    r->values = (float *)rows_allocate((r->n_cols + 255) / 256 * 256, sizeof(float));
    if (!r->source->data) r->memory = (uint8_t *)rows_allocate(bytes, 1);
    ok = r->codes && r->scales && r->values && (r->memory || r->source->data);
    if (!ok) {
        rows_close(r);
        snprintf(err->text, sizeof err->text, "out of memory");
    }
    return ok;
}

/* Where the row's bytes are, or the whole tensor's where it is ternary; NULL: they can't be read. */
static const uint8_t *rows_bytes(rows *r, uint64_t row)
{
    if (!r->piece || row - r->first >= r->count) {
        const uint64_t left = r->n_rows - row, at = r->kind == ROWS_TERNARY ? 0 : row * r->row_bytes;
        rows_release(r);
        r->first = r->kind == ROWS_TERNARY ? 0 : row;
        r->count = r->kind == ROWS_TERNARY ? r->n_rows : left < r->step ? left : r->step;
        r->piece = bni_source_bytes(r->source, r->tensor->offset + at,
                                    r->kind == ROWS_TERNARY ? r->tensor->bytes : r->count * r->row_bytes, r->memory);
    }
    return r->piece ? r->piece + (r->kind == ROWS_TERNARY ? 0 : (row - r->first) * r->row_bytes) : NULL;
}

/* A ternary tensor's row into r->codes and r->scales; 0: it can't be read. */
static int rows_codes(rows *r, uint64_t row)
{
    const uint8_t *data = rows_bytes(r, row);
    if (!data) return 0;
    bni_ternary_codes(&r->ternary, data, row, r->codes);
    bni_ternary_scales(&r->ternary, data, row, r->scales);
    return 1;
}

/* Any row as numbers into r->values; 0: it can't be read. */
static int rows_values(rows *r, uint64_t row)
{
    const uint8_t *data;
    uint64_t k;
    if (r->kind == ROWS_TERNARY) {
        if (!rows_codes(r, row)) return 0;
        for (k = 0; k < r->n_cols; k++) r->values[k] = (float)(r->codes[k] - 1) * r->scales[k / r->group];
        return 1;
    }
    data = rows_bytes(r, row);
    if (data) bni_decode((int)r->tensor->type, data, 0, (int)r->n_cols, r->values);
    return data != NULL;
}

/* ------------------------------------------------------------------------------------------- what no writer writes
   Reading is lenient: any byte stands for some codes. But a byte of four codes has no use for the code 3, one of five
   digits to base 3 takes 243 of its 256 values, and nibbles of TL1 and TL2 end at 8 and 13. Others are damage. */

typedef enum rows_bytes_of { OF_BITS, OF_FIVE_DIGITS, OF_TOP_FOUR, OF_LOW_FOUR, OF_PAIRS, OF_TRIPLES } rows_bytes_of;

/* How many parts of this byte no writer writes. Digits: the byte is n * 256 / 243 rounded up, n < 243; with four digits
   the fifth is 0: in TQ1_0 the last one, in IQ1_BN the first. */
static unsigned rows_strange_byte(rows_bytes_of what, unsigned byte)
{
    const unsigned high = byte >> 4, low = byte & 15, n = byte * 243 >> 8, threes = byte & byte >> 1 & 0x55;
    const int digits = (n * 256 + 242) / 243 == byte;
    switch (what) {
    case OF_BITS: return (threes & 1) + (threes >> 2 & 1) + (threes >> 4 & 1) + (threes >> 6 & 1);
    case OF_FIVE_DIGITS: return !digits;
    case OF_TOP_FOUR: return !(digits && n % 3 == 0);
    case OF_LOW_FOUR: return !(digits && n < 81);
    case OF_PAIRS: return (high > 8) + (low > 8);
    default: return (high > 13) + (low > 13);
    }
}

/* The same for n runs of `run` bytes at p, p + period, ... */
static uint64_t rows_strange_runs(rows_bytes_of what, const uint8_t *p, uint64_t n, uint64_t run, uint64_t period)
{
    uint64_t i, k, sum = 0;
    uint8_t strange[256];
    unsigned byte;
    for (byte = 0; byte < 256; byte++) strange[byte] = (uint8_t)rows_strange_byte(what, byte);
    for (i = 0; i < n; i++, p += period)
        for (k = 0; k < run; k++) sum += strange[p[k]];
    return sum;
}

/* The same for IQ1_BN, rows of a scale and blocks of 12 bytes of five digits and one of four. */
static uint64_t rows_strange_iq1_bn(const uint8_t *p, uint64_t n_rows, uint64_t n_blocks)
{
    uint64_t row, k, sum = 0;
    uint8_t strange[2][256];
    unsigned byte;
    for (byte = 0; byte < 256; byte++) {
        strange[0][byte] = (uint8_t)rows_strange_byte(OF_FIVE_DIGITS, byte);
        strange[1][byte] = (uint8_t)rows_strange_byte(OF_LOW_FOUR, byte);
    }
    for (row = 0; row < n_rows; row++, p += 2 + n_blocks * 13)
        for (k = 0; k < n_blocks * 13; k++) sum += strange[k % 13 == 12][p[2 + k]];
    return sum;
}

/* The same for a ternary tensor: of codes where they are bits, else of bytes or nibbles. 1 and *sum; 0: it can't be
   read. */
static int rows_strange(rows *r, uint64_t *sum)
{
    const uint8_t *p = rows_bytes(r, 0);
    const uint64_t n = r->n_rows * r->n_cols, m = r->n_rows, cols = r->n_cols, by = (uint64_t)r->ternary.by;
    const uint64_t k3 = r->ternary.form == BNI_FORM_TL2 ? cols - cols % by : 0;
    *sum = 0;
    if (!p) return 0;
    switch (r->ternary.form) {
    case BNI_FORM_TQ1_0:
        *sum = rows_strange_runs(OF_FIVE_DIGITS, p, n / 256, 48, 54) +
               rows_strange_runs(OF_TOP_FOUR, p + 48, n / 256, 4, 54);
        break;
    case BNI_FORM_TQ2_0: *sum = rows_strange_runs(OF_BITS, p, n / 256, 64, 66); break;
    case BNI_FORM_Q2_0: *sum = rows_strange_runs(OF_BITS, p + 2, n / 64, 16, 18); break;
    case BNI_FORM_Q2_0_128: *sum = rows_strange_runs(OF_BITS, p + 2, n / 128, 32, 34); break;
    case BNI_FORM_IQ1_BN: *sum = rows_strange_iq1_bn(p, m, cols / 64); break;
    case BNI_FORM_IQ2_BN: *sum = rows_strange_runs(OF_BITS, p + 4, m, cols / 4, 4 + cols / 4); break;
    case BNI_FORM_IQ2_BN_R4: *sum = rows_strange_runs(OF_BITS, p + 16, m / 4, cols, 16 + cols); break;
    case BNI_FORM_TL1: *sum = rows_strange_runs(OF_PAIRS, p, 1, n / 4, 0); break;
    case BNI_FORM_TL2:
        *sum = rows_strange_runs(OF_TRIPLES, p, 1, k3 * m / 6, 0) +
               rows_strange_runs(OF_PAIRS, p + k3 * m / 6 + k3 * m / 24, 1, (cols - k3) * m / 4, 0);
        break;
    default: *sum = rows_strange_runs(OF_BITS, p, 1, n / 4, 0);
    }
    return 1;
}

#endif /* ROWS_H */
