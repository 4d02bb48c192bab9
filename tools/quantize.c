/* quantize: a model file with its ternary weights stored in another way, without loss.

       cc -O2 -I. tools/quantize.c -o quantize -lm
       ./quantize model.gguf small.gguf TQ1_0
       ./quantize --token-embedding-type q6_k model.gguf small.gguf I2_S
       ./quantize --tensor-type ffn_down=TQ1_0 model.gguf mixed.gguf I2_S
       ./quantize --copy model.gguf rewritten.gguf

   The matrices of a BitNet model are ternary: codes -1, 0, +1 and scales. Every type stores the same codes; what differs
   is how many weights share a scale and in how many bits it stands:

       one f32 for the matrix   I2_S, TL1, TL2               an f16 for each 256 columns    TQ1_0, TQ2_0
       one f32 for each row     IQ2_BN, IQ2_BN_R4            an f16 for each 64 or 128      Q2_0, Q2_0-128, PQ2_0
       one f16 for each row     IQ1_BN                       none: F32, F16, BF16 hold the products

   So nothing here is rounded without being asked for. Codes are carried over as they are, and a scale that the new type
   can't hold is refused, or with --allow-loss rounded, and the largest change is told. Matrices of floats become ternary
   if they are ternary already, that is if 64 columns in turn hold nothing but -s, 0 and +s. What is rounded because
   somebody named a type for it are the token embedding and the output matrix; otherwise they stay as they are, and so do
   all other tensors and the metadata, byte for byte.

   Tensors pass through one at a time. An error or Ctrl-C leaves no file, and an old one as it was.

   Reading order: "the command line", "what becomes of a tensor", "ternary rows", "scales", "writing tensors", "the file",
   "main". */

#define _FILE_OFFSET_BITS 64         /* before the first system header: 32-bit hosts then write more than 2 GiB */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/gguf_write.h"
#include "tools/storage.h"

#include <ctype.h>
#include <math.h>

enum { CHUNK_WEIGHTS = 1 << 20, PIECE = 1 << 20 };

/* ---------------------------------------------------------------------------------------- the command line */

typedef struct quantize_args {
    const char *path[5];                                 /* IN, OUT, TYPE, threads, one more */
    const char *embedding_name, *output_name, *in_layout_name, *out_layout_name, *tl_tiles;
    int copy, force, allow_requantize, allow_loss;
    const storage *type, *embedding, *output;            /* NULL: as it is */
    cli_strings tensor_types;                            /* NAME=TYPE */
    const storage *tensor_type[CLI_MAX_STRINGS];         /* what TYPE stands for */
    bitnet_i2s_layout in_layout;
} quantize_args;

static int same_text(const char *a, const char *b)
{
    while (*a && tolower((unsigned char)*a) == tolower((unsigned char)*b)) a++, b++;
    return *a == *b;
}

/* Can it hold ternary matrices? Can it be an embedding, an output matrix? */
static int is_for_matrices(const storage *type) { return type->pack != NULL || type->block == 1; }
static int is_for_heads(const storage *type) { return type->encode != NULL && bni_type_is_decodable(type->id); }

/* The storage of that name or number that `fits`; exits 2 if there is none. */
static const storage *choose_type(const char *option, const char *name, int (*fits)(const storage *type))
{
    cli_buffer known = {NULL, 0, 0};
    int number, i;
    const int is_number = cli_read_int(name, 0, 1023, &number);
    for (i = 0; i < N_STORAGES; i++) {
        const storage *s = &storages[i];
        if (fits(s) && same_text(s->name, name)) return s;
        if (is_number && fits == is_for_matrices && fits(s) && stored_file_type(s) == (uint32_t)number) return s;
    }
    for (i = 0; i < N_STORAGES; i++) {
        const storage *s = &storages[i];
        if (!fits(s) || (i > 0 && strcmp(s->name, storages[i - 1].name) == 0)) continue;     /* the layouts of I2_S */
        cli_append(&known, " ", 1);
        cli_append(&known, s->name, strlen(s->name));
    }
    cli_usage("%s '%s': it is one of%s", option, name, known.data);
}

/* NAME=TYPE, of matrices with NAME in their names. */
static void choose_tensor_types(quantize_args *a)
{
    int i;
    for (i = 0; i < a->tensor_types.n; i++) {
        const char *equals = strchr(a->tensor_types.item[i], '=');
        if (!equals || equals == a->tensor_types.item[i])
            cli_usage("--tensor-type '%s' is not like ffn_down=TQ1_0", a->tensor_types.item[i]);
        a->tensor_type[i] = choose_type("--tensor-type", equals + 1, is_for_matrices);
    }
}

/* The type of a matrix of that name: the last one given for it, else that of all. */
static const storage *matrix_type(const quantize_args *a, const char *name)
{
    int i;
    for (i = a->tensor_types.n - 1; i >= 0; i--) {
        const char *part = a->tensor_types.item[i];
        const size_t n = strcspn(part, "=");
        const char *at = name;
        while (*at && strncmp(at, part, n) != 0) at++;
        if (*at) return a->tensor_type[i];
    }
    return a->type;
}

/* From names to what they stand for; exits 2 where they make no sense. */
static void choose(quantize_args *a, int n)
{
    int threads;
    const bitnet_i2s_layout layout = cli_i2s_layout(a->out_layout_name);
    if (n >= 3 && same_text(a->path[2], "copy")) a->copy = 1;
    else if (n >= 3 && a->copy) cli_usage("--copy leaves all tensors as they are: no type %s", a->path[2]);
    else if (n >= 3) a->type = choose_type("type", a->path[2], is_for_matrices);
    else if (!a->copy) cli_usage("which type? (--help lists them)");
    if (n >= 4 && !cli_read_int(a->path[3], 0, INT_MAX, &threads)) cli_usage("'%s' is no number of threads", a->path[3]);
    if (a->copy && (a->embedding_name || a->output_name || a->tensor_types.n))
        cli_usage("--copy leaves all tensors as they are");
    if (a->embedding_name) a->embedding = choose_type("--token-embedding-type", a->embedding_name, is_for_heads);
    if (a->output_name) a->output = choose_type("--output-tensor-type", a->output_name, is_for_heads);
    choose_tensor_types(a);
    if (layout != BITNET_I2S_DEFAULT) {
        if (!a->type || a->type->id != BNI_TYPE_I2_S) cli_usage("--out-layout is for I2_S");
        a->type += (int)layout - (int)BITNET_I2S_A;      /* storages[] has them in this order */
    }
    a->in_layout = a->in_layout_name ? cli_i2s_layout(a->in_layout_name) : BITNET_I2S_A;
}

/* -------------------------------------------------------------------------------- what becomes of a tensor */

typedef enum action { COPY, MATRIX, NUMBERS } action;

typedef struct item {
    const bni_tensor *from;
    char name[BNI_MAX_NAME];         /* printable */
    action what;
    const storage *to;               /* NULL where it is copied */
    int is_ternary;                  /* 1: stored as codes, which in reads; 0: as numbers */
    bni_ternary in;
    uint64_t rows, cols, bytes;      /* bytes: in the new file */
} item;

/* A change of scales, and where the largest was. */
typedef struct loss { double largest; char name[BNI_MAX_NAME]; } loss;

/* Everything that an early end has to give back is here. */
static bitnet_model in;              /* only its tables are read */
static gguf_writer out;
static cli_progress bar = {"quantizing", 0, 0};
static uint64_t bar_done, bar_total; /* bytes of the new file */

static void clean_up(void) { gguf_cancel(&out); }

CLI_PRINTF(1, 2) CLI_NORETURN static void fail(const char *format, ...)
{
    va_list args;
    cli_end_progress(&bar);
    va_start(args, format);
    cli_vmessage(format, args);
    va_end(args);
    exit(CLI_EXIT_FAILED);                               /* clean_up removes what was written */
}

/* Also of what is not read: 39 may be TL2 or MXFP4. */
static int is_ternary_type(uint32_t id) { return bni_type_is_ternary(id) || id == 39; }

/* Embedding and output matrix are told by name; the other matrices by a ternary type, or as weights of a layer. */
static int is_matrix(const item *it)
{
    const size_t n = strlen(it->name);
    if (is_ternary_type(it->from->type)) return 1;
    return it->from->ne[1] > 1 && n > 11 && memcmp(it->name, "blk.", 4) == 0 && strcmp(it->name + n - 7, ".weight") == 0;
}

/* Exits 1 unless the new type can hold the tensor's shape. */
static void check_shape(const item *it)
{
    const storage *to = it->to;
    const uint64_t rows = it->rows, cols = it->cols;
    if ((to->flat ? rows * cols : cols) % to->block != 0)
        fail("%s: %s holds multiples of %u weights, not %s of %.0f", it->name, to->name, (unsigned)to->block,
             to->flat ? "matrices" : "rows", (double)(to->flat ? rows * cols : cols));
    if (to->row_group > 1 && rows % to->row_group != 0)
        fail("%s: %s holds multiples of %u rows, not %.0f", it->name, to->name, (unsigned)to->row_group, (double)rows);
    if (stored_size(to, rows, cols) == 0)
        fail("%s: %s is not defined for %.0f rows of %.0f columns, only for the shapes that bitnet.cpp has kernels for",
             it->name, to->name, (double)rows, (double)cols);
}

/* The tensor gets another type: can it be read, may it, does it fit? */
static void plan_change(item *it, action what, const storage *to, const quantize_args *a)
{
    const bni_tensor *t = it->from;
    const bni_type *type = bni_type_find(t->type);
    bitnet_error err;
    memset(&err, 0, sizeof err);
    it->what = what;
    it->to = to;
    if (t->ne[2] != 1 || t->ne[3] != 1) fail("%s: more than two dimensions", it->name);
    if (t->ne[0] > INT_MAX / 8) fail("%s: rows of %.0f weights", it->name, (double)t->ne[0]);
    if (t->form != BNI_FORM_NONE) {
        it->is_ternary = 1;
        if (bni_ternary_bind(&it->in, t, a->in_layout, a->tl_tiles, &err) != BITNET_OK) fail("%s", err.text);
    } else if (!bni_type_is_decodable(t->type)) {
        fail("%s: type %s (%u) is not read", it->name, bni_type_name(t->type), (unsigned)t->type);
    } else if (type->block > 1 && to->id != BNI_TYPE_F32 && !a->allow_requantize) {
        fail("%s is quantized already, to %s; --allow-requantize does it again, from what is left", it->name, type->name);
    }
    check_shape(it);
    it->bytes = stored_size(to, it->rows, it->cols) + to->tail;
}

static void plan_tensor(item *it, const bni_tensor *t, const quantize_args *a)
{
    const int is_embedding = bni_str_equal(t->name, "token_embd.weight");
    const int is_head = is_embedding || bni_str_equal(t->name, "output.weight");
    const storage *to = a->copy ? NULL : is_embedding ? a->embedding : is_head ? a->output : NULL;
    size_t k;
    it->from = t;
    for (k = 0; k < t->name.size; k++) {
        const unsigned char c = (unsigned char)t->name.data[k];
        it->name[k] = (char)(c < 32 || c == 127 ? '?' : c);
    }
    if (!a->copy && !is_head) to = matrix_type(a, it->name);
    it->cols = t->ne[0];
    it->rows = t->ne[1];
    it->bytes = t->bytes ? t->bytes : t->gap;            /* where the size is not known: up to the next tensor */
    if (it->bytes == 0) fail("%s: type %u, where it ends is not known", it->name, (unsigned)t->type);
    if (is_head && !to && !a->copy && is_ternary_type(t->type))
        fail("%s is ternary, which no engine reads; give it another type with --%s", it->name,
             is_embedding ? "token-embedding-type" : "output-tensor-type");
    if (!to || (!is_head && !is_matrix(it))) return;
    if (to->encode && to->id == t->type) return;         /* floats of that type already */
    plan_change(it, is_head ? NUMBERS : MATRIX, to, a);
}

/* -------------------------------------------------------------------------------------------- ternary rows
   Whatever the type, a row comes as codes 0, 1, 2, and a scale for each group of columns. */

typedef struct source {
    const item *it;
    uint8_t *bytes;                  /* a row of numbers, or the whole tensor where it is ternary */
    uint64_t row_bytes;
    float *row;                      /* [n_cols, padded to 256] */
    uint64_t group;                  /* columns that share a scale */
} source;

/* Memory for n elements; exits 1 where there is none, also because the host's addresses are too short. */
static void *allocate(uint64_t n, size_t size)
{
    if (n > SIZE_MAX / size) fail("out of memory");
    return cli_alloc((size_t)n * size);
}

/* Bytes of the file, from `at` in the tensor on. */
static void read_bytes(const item *it, uint64_t at, uint64_t n, uint8_t *to)
{
    const uint8_t *p = bni_source_bytes(&in.source, it->from->offset + at, n, to);
    if (!p) fail("%s: its bytes can't be read", it->name);
    if (p != to) memcpy(to, p, (size_t)n);
}

static void open_source(source *s, const item *it)
{
    const bni_tensor *t = it->from;
    memset(s, 0, sizeof *s);
    s->it = it;
    if (it->is_ternary) {
        s->bytes = (uint8_t *)allocate(t->bytes, 1);
        s->group = it->in.group;
        read_bytes(it, 0, t->bytes, s->bytes);
    } else {
        s->row_bytes = bni_row_bytes(t->type, it->cols);
        s->bytes = (uint8_t *)allocate(s->row_bytes, 1);
        s->group = it->cols % 64 == 0 ? 64 : it->cols;   /* the smallest that a ternary type has */
    }
    s->row = (float *)allocate((it->cols + 255) / 256 * 256, sizeof(float));
}

static void close_source(source *s)
{
    free(s->bytes);
    free(s->row);
}

/* Groups of floats that are -s, 0 and +s as codes and s; exits 1 if they are not. s is 0 where there are only zeros. */
static void find_codes(const source *s, uint64_t row, uint8_t *codes, float *scales)
{
    uint64_t k;
    for (k = 0; k < s->it->cols; k++) {
        const float v = s->row[k], size = fabsf(v);
        float *scale = &scales[k / s->group];
        if (k % s->group == 0) *scale = 0;
        codes[k] = (uint8_t)(v > 0 ? 2 : v < 0 ? 0 : 1);
        if (!isfinite(v)) fail("%s: row %.0f holds a number that is not finite", s->it->name, (double)row);
        if (codes[k] == 1) continue;
        if (*scale > 0 && size != *scale)
            fail("%s is not ternary: row %.0f holds %.9g and, up to column %.0f, %.9g", s->it->name, (double)row,
                 (double)*scale, (double)k, (double)size);
        *scale = size;
    }
}

/* The row's numbers into s->row. */
static void read_numbers(source *s, uint64_t row)
{
    read_bytes(s->it, row * s->row_bytes, s->row_bytes, s->bytes);
    bni_decode((int)s->it->from->type, s->bytes, 0, (int)s->it->cols, s->row);
}

/* codes [n_cols] and scales [n_cols / group]. Where the scale is 0 all codes are 1: so the weight 0 has one form. */
static void read_ternary(source *s, uint64_t row, uint8_t *codes, float *scales)
{
    const item *it = s->it;
    uint64_t k;
    if (it->is_ternary) {
        bni_ternary_codes(&it->in, s->bytes, row, codes);
        bni_ternary_scales(&it->in, s->bytes, row, scales);
    } else {
        read_numbers(s, row);
        find_codes(s, row, codes, scales);
    }
    for (k = 0; k < it->cols; k++) {
        const float scale = scales[k / s->group];
        if (!isfinite(scale)) fail("%s: a scale of row %.0f is not finite", it->name, (double)row);
        if (codes[k] > 2) fail("%s: row %.0f holds a code 3, which is no ternary weight", it->name, (double)row);
        if (!(fabsf(scale) > 0)) codes[k] = 1;
    }
}

/* x [n_cols] = the weights of codes and scales. */
static void multiply(float *x, const uint8_t *codes, const float *scales, uint64_t n_cols, uint64_t group)
{
    uint64_t k;
    for (k = 0; k < n_cols; k++) x[k] = codes[k] == 1 ? 0.0f : codes[k] == 2 ? scales[k / group] : -scales[k / group];
}

/* -------------------------------------------------------------------------------------------------- scales
   A group of the new type may cover several groups of the old one, or be a part of one. Zero weights have no opinion on
   what the scale should be. */

/* What the old scales within a new group have in common. */
typedef struct merged {
    float any, low, high;            /* any: one that stood there, perhaps with zero weights only; low, high: of others */
    double sum;
    uint64_t n;                      /* weights that are not zero */
} merged;

static void merge(merged *m, float scale, uint64_t n)
{
    if (!(fabsf(m->any) > 0)) m->any = scale;
    if (n == 0) return;
    if (m->n == 0 || scale < m->low) m->low = scale;
    if (m->n == 0 || scale > m->high) m->high = scale;
    m->sum += (double)scale * (double)n;
    m->n += n;
}

/* How the new type groups columns (0: all of the matrix), and rounds a scale. */
static uint64_t new_group(const storage *to, const source *s)
{
    if (to->tail) return 0;
    if (to->row_bytes) return s->it->cols;
    return to->pack ? to->block : s->group;
}

static float round_scale(const storage *to, float scale)
{
    if (to->id == BNI_TYPE_BF16) return bits_float(f32_to_bf16(scale) << 16);
    if (to->tail || to->row_bytes == 4 || to->id == BNI_TYPE_F32) return scale;
    return f16_to_f32(f32_to_f16(scale));
}

/* The scale of a new group. With several old ones the mean over all weights that are not zero, which is least squares.
   Exits 1 where it is not exact and *lost is NULL. */
static float new_scale(const item *it, const merged *m, loss *lost)
{
    const float mean = m->low < m->high ? (float)(m->sum / (double)m->n) : m->low;
    const float s = round_scale(it->to, m->n ? mean : m->any);
    double low, high, change;
    /* A matrix of zeros with the scale 0 would look damaged. */
    if (m->n == 0) return !isfinite(s) || (it->to->tail && !(fabsf(s) > 0)) ? 1.0f : s;
    if (!lost && m->low < m->high)
        fail("%s: several scales, from %.9g to %.9g, where %s has one; --allow-loss takes their mean", it->name,
             (double)m->low, (double)m->high, it->to->name);
    if (!isfinite(s) || !(fabsf(s) > 0))
        fail("%s: %s has no scale near %.9g", it->name, it->to->name, (double)mean);
    low = fabs((double)s - (double)m->low) / fabs((double)m->low);
    high = fabs((double)s - (double)m->high) / fabs((double)m->high);
    change = low > high ? low : high;
    if (!lost && change > 0)
        fail("%s: the scale %.9g would be %.9g in %s; --allow-loss rounds it", it->name, (double)mean, (double)s,
             it->to->name);
    if (lost && change > lost->largest) {
        lost->largest = change;
        memcpy(lost->name, it->name, sizeof lost->name);
    }
    return s;
}

/* Puts scales, in the order of rows and columns, into n rows packed without them. */
static void put_scales(const storage *to, uint8_t *bytes, uint64_t n, uint64_t cols, const float *scales)
{
    const uint64_t row_size = stored_size(to, 1, cols), per_row = to->row_bytes ? 1 : cols / to->block;
    const uint64_t at = to->id == 34 || to->id == 35 ? to->block_bytes - 2 : 0;         /* TQ: behind the codes */
    uint64_t i;
    if (to->tail) return;
    for (i = 0; i < n * per_row; i++) {
        const uint64_t first = to->row_bytes ? i % to->row_group * 4 + i / to->row_group * to->row_group * row_size
                                             : i * to->block_bytes + at;
        if (to->row_bytes == 4) put_f32(bytes + first, scales[i]);
        else put_u16(bytes + first, f32_to_f16(scales[i]));
    }
}

/* ----------------------------------------------------------------------------------------- writing tensors */

static void write_bytes(const void *bytes, size_t n)
{
    if (!gguf_write(&out, bytes, n)) fail("%s", out.error);
    bar_done += n;
    if (cli_show_progress(&bar, bar_done, bar_total)) {
        cli_end_progress(&bar);
        exit(CLI_EXIT_INTERRUPTED);
    }
}

static void copy_tensor(const item *it)
{
    uint8_t *piece = (uint8_t *)cli_alloc(PIECE);
    uint64_t at;
    for (at = 0; at < it->bytes; at += PIECE) {
        const uint64_t n = it->bytes - at < PIECE ? it->bytes - at : PIECE;
        read_bytes(it, at, n, piece);
        write_bytes(piece, (size_t)n);
    }
    free(piece);
}

/* Rows that are packed in one go: a multiple of row_group that makes whole blocks, and about CHUNK_WEIGHTS weights. */
static uint64_t chunk_rows(const item *it)
{
    const storage *to = it->to;
    uint64_t unit = to->row_group, n;
    if (unit == 0) return it->rows;
    while (unit * it->cols % to->block != 0) unit += to->row_group;
    n = CHUNK_WEIGHTS / (unit * it->cols);
    n = n ? n * unit : unit;
    return n < it->rows ? n : it->rows;
}

/* A row's old scales into new ones [n_cols / group], or into the matrix's where group is 0. */
static void regroup(const source *s, uint64_t group, const uint8_t *codes, const float *old, float *scales,
                    merged *matrix, loss *lost)
{
    const uint64_t cols = s->it->cols, step = group && group < s->group ? group : s->group;
    merged row = {0, 0, 0, 0, 0}, *m = group ? &row : matrix;
    uint64_t k, i;
    for (k = 0; k < cols; k += step) {
        uint64_t n = 0;
        for (i = k; i < k + step; i++) n += codes[i] != 1;
        merge(m, old[k / s->group], n);
        if (group && (k + step) % group == 0) {
            scales[k / group] = new_scale(s->it, m, lost);
            memset(m, 0, sizeof *m);
        }
    }
}

/* A matrix of -1, 0, +1, whatever it was and will be stored as. */
static void convert_matrix(const item *it, loss *lost)
{
    const storage *to = it->to;
    const uint64_t step = chunk_rows(it), cols = it->cols, rows = it->rows;
    source s;
    merged matrix = {0, 0, 0, 0, 0};
    uint8_t *codes = (uint8_t *)allocate(step * cols, 1), tail[64] = {0};
    uint8_t *bytes = (uint8_t *)allocate(stored_size(to, step, cols), 1);
    float *old, *scales;
    uint64_t row, r, group, per_row;
    open_source(&s, it);
    group = new_group(to, &s);
    per_row = group ? cols / group : 0;
    old = (float *)allocate(cols / s.group, sizeof *old);
    scales = (float *)allocate(step * per_row, sizeof *scales);
    for (row = 0; row < rows; row += step) {
        const uint64_t n = rows - row < step ? rows - row : step;
        for (r = 0; r < n; r++) {
            uint8_t *c = codes + r * cols;
            read_ternary(&s, row + r, c, old);
            regroup(&s, group, c, old, scales + r * per_row, &matrix, lost);
            if (to->pack) continue;
            multiply(s.row, c, scales + r * per_row, cols, group);
            to->encode(bytes + r * stored_size(to, 1, cols), s.row, (size_t)cols);
        }
        if (to->pack) {
            to->pack(bytes, codes, (size_t)n, (size_t)cols, 0.0f);
            put_scales(to, bytes, n, cols, scales);
        }
        write_bytes(bytes, (size_t)stored_size(to, n, cols));
    }
    if (to->tail) put_f32(tail, new_scale(it, &matrix, lost));
    write_bytes(tail, to->tail);
    free(old);
    free(scales);
    free(codes);
    free(bytes);
    close_source(&s);
}

/* Adds the squares of what was lost and of what there was; all of it must be finite. */
static void compare(const item *it, uint64_t row, const float *x, const float *y, double *error, double *size)
{
    uint64_t k;
    for (k = 0; k < it->cols; k++) {
        const double v = (double)x[k], d = (double)y[k] - v;
        if (!isfinite(x[k])) fail("%s: row %.0f holds a number that is not finite", it->name, (double)row);
        if (!isfinite(y[k])) fail("%s: %.9g, in row %.0f, is too large for %s", it->name, v, (double)row, it->to->name);
        *error += d * d;
        *size += v * v;
    }
}

/* The embedding or the output matrix in another type of numbers; tells how exact that is. */
static void convert_numbers(const item *it)
{
    const storage *to = it->to;
    const uint64_t step = chunk_rows(it), cols = it->cols, row_size = stored_size(to, 1, cols);
    source s;
    uint8_t *bytes = (uint8_t *)allocate(step * row_size, 1), *codes = (uint8_t *)allocate(cols, 1);
    float *back = (float *)allocate((cols + 255) / 256 * 256, sizeof *back), *scales;
    double error = 0, size = 0;
    uint64_t row, r;
    open_source(&s, it);
    scales = (float *)allocate(cols / s.group, sizeof *scales);
    for (row = 0; row < it->rows; row += step) {
        const uint64_t n = it->rows - row < step ? it->rows - row : step;
        for (r = 0; r < n; r++) {
            uint8_t *to_row = bytes + r * row_size;
            if (it->is_ternary) {
                read_ternary(&s, row + r, codes, scales);
                multiply(s.row, codes, scales, cols, s.group);
            } else {
                read_numbers(&s, row + r);
            }
            to->encode(to_row, s.row, (size_t)cols);
            bni_decode((int)to->id, to_row, 0, (int)cols, back);
            compare(it, row + r, s.row, back, &error, &size);
        }
        write_bytes(bytes, (size_t)(n * row_size));
    }
    cli_end_progress(&bar);
    printf("%s: %s to %s, relative error %.3g\n", it->name, bni_type_name(it->from->type), to->name,
           size > 0 ? sqrt(error / size) : 0.0);
    free(scales);
    free(back);
    free(codes);
    free(bytes);
    close_source(&s);
}

/* ------------------------------------------------------------------------------------------------ the file */

/* text, 0-terminated; ended by free. Exits 1 where a 0 in it would cut it. */
static char *copy_text(bni_str text, const char *what)
{
    char *copy = (char *)cli_alloc(text.size + 1);
    if (text.size) memcpy(copy, text.data, text.size);
    copy[text.size] = 0;
    if (strlen(copy) != text.size) fail("a %s with a zero byte in it", what);
    return copy;
}

/* All metadata, byte for byte but for general.file_type, which comes last where there was none. */
static void copy_keys(const quantize_args *a)
{
    const bni_gguf *g = &in.gguf;
    int has_type = a->copy;
    uint64_t i;
    out.alignment = (uint32_t)g->alignment;              /* its key is copied like any other */
    for (i = 0; i < g->n_kv; i++) {
        const bni_kv *kv = &g->kv[i];
        char *key = copy_text(kv->key, "key");
        const uint8_t *value = g->header + kv->offset + 8 + kv->key.size + 4;           /* behind length, key, type */
        if (!a->copy && strcmp(key, "general.file_type") == 0) {
            gguf_kv_u32(&out, key, stored_file_type(a->type));
            has_type = 1;
        } else {
            gguf_kv_raw(&out, key, kv->type, value, (size_t)(kv->value + kv->size - value));
        }
        free(key);
    }
    if (!has_type) gguf_kv_u32(&out, "general.file_type", stored_file_type(a->type));
}

/* Plans all tensors, and writes the header. */
static item *plan(const quantize_args *a)
{
    const bni_gguf *g = &in.gguf;
    item *items = (item *)allocate(g->n_tensors, sizeof *items);
    uint64_t i;
    memset(items, 0, (size_t)g->n_tensors * sizeof *items);
    copy_keys(a);
    for (i = 0; i < g->n_tensors; i++) {
        item *it = &items[i];
        const bni_tensor *t = &g->tensors[i];
        char *name = copy_text(t->name, "tensor's name");
        plan_tensor(it, t, a);
        gguf_tensor(&out, name, t->n_dims, t->ne, it->to ? it->to->id : t->type, it->bytes);
        bar_total += it->bytes;
        free(name);
    }
    if (a->output && !bni_gguf_tensor(g, "output.weight"))
        cli_message("%s has no output.weight: --output-tensor-type has no effect", a->path[0]);
    return items;
}

static void print_summary(const quantize_args *a, const item *items, const loss *lost)
{
    char before[24], after[24];
    uint64_t i, n[3] = {0, 0, 0}, bytes = out.data_size;
    for (i = 0; i < in.gguf.n_tensors; i++) n[items[i].what]++;
    printf("%s: ", a->path[1]);
    if (n[MATRIX]) printf("%.0f matrices as %s%s, ", (double)n[MATRIX], a->type->name,
                          a->tensor_types.n ? " and others" : "");
    printf("%.0f tensors copied; weights %s, before %s\n", (double)n[COPY], cli_size(after, bytes),
           cli_size(before, in.gguf.file_size - in.gguf.data_start));
    if (!n[MATRIX]) return;
    if (lost->largest > 0) printf("the largest change of a scale: %.3g %% (%s)\n", 100 * lost->largest, lost->name);
    else printf("all ternary weights are as they were\n");
}

static void write_file(const quantize_args *a)
{
    loss lost = {0, ""};
    item *items = plan(a);
    uint64_t i;
    if (!gguf_open(&out, a->path[1])) fail("%s", out.error);
    for (i = 0; i < in.gguf.n_tensors; i++) {
        const item *it = &items[i];
        if (it->what == MATRIX) convert_matrix(it, a->allow_loss ? &lost : NULL);
        else if (it->what == NUMBERS) convert_numbers(it);
        else copy_tensor(it);
    }
    cli_end_progress(&bar);
    if (!gguf_close(&out)) fail("%s", out.error);
    print_summary(a, items, &lost);
    free(items);
}

/* Exits 1 if OUT is IN, or is there and may not be replaced. */
static void check_output(const quantize_args *a)
{
    struct stat from, to;
    if (stat(a->path[1], &to) != 0) return;
    if (stat(a->path[0], &from) == 0 &&
        (from.st_ino ? from.st_dev == to.st_dev && from.st_ino == to.st_ino : strcmp(a->path[0], a->path[1]) == 0))
        cli_fail("%s and %s are the same file", a->path[0], a->path[1]);
    if (!a->force && !cli_is_special(a->path[1])) cli_fail("%s is there already; --force replaces it", a->path[1]);
}

/* ---------------------------------------------------------------------------------------------------- main */

static const char notes[] =
    "Types of the matrices, in any case, or by llama-quantize's number:\n"
    "  I2_S (40)  TL1 (38)  TL1-generated  TL2 (39)  TL2-42        one scale for a matrix\n"
    "  IQ1_BN (136)  IQ2_BN (137)  IQ2_BN_R4 (337)                 one for a row\n"
    "  TQ1_0 (36)  TQ2_0 (37)  Q2_0 (41)  Q2_0-128  PQ2_0          one for 256, 64 or 128 columns\n"
    "  F32 (0)  F16 (1)  BF16 (32)                                 numbers\n"
    "  COPY                                                        as --copy\n"
    "Types of embedding and output matrix: F32 F16 BF16 Q8_0 Q6_K Q4_0; without an option they stay as they are.\n"
    "TL1-generated: with the tiles of bitnet.cpp's set-up program. TL2-42: under the number of its newer versions.\n"
    "threads, and one argument more, are accepted without effect.";

static void open_input(const quantize_args *a)
{
    bitnet_model_desc desc;
    bitnet_error err;
    memset(&desc, 0, sizeof desc);
    memset(&err, 0, sizeof err);
    desc.path = a->path[0];
    desc.no_mmap = 1;                                    /* each byte is read once, and a file that shrinks is an error */
    err.code = bni_model_tables(&in, &desc, &err);
    if (err.code != BITNET_OK) cli_fail_with(a->path[0], &err);
}

int main(int argc, char **argv)
{
    quantize_args a;
    char called[64];
    const char *name = "quantize";
    const int as_llama = cli_called_as_llama(argc, argv, called, &name);
    const cli_option options[] = {
        {"--token-embedding-type", CLI_STRING, &a.embedding_name, "T", "type of token_embd.weight", 0, 0},
        {"--output-tensor-type", CLI_STRING, &a.output_name, "T", "type of output.weight", 0, 0},
        {"--tensor-type", CLI_STRINGS, &a.tensor_types, "NAME=T", "type of the matrices with NAME in their names, like\n"
         "ffn_down=TQ1_0; of several that fit the last counts", 0, 0},
        {"--allow-requantize", CLI_FLAG, &a.allow_requantize, NULL, "also from Q8_0, Q6_K and Q4_0", 0, 0},
        {"--allow-loss", CLI_FLAG, &a.allow_loss, NULL, "round scales that TYPE can't hold, and tell how much", 0, 0},
        {"--copy", CLI_FLAG, &a.copy, NULL, "change no tensor: TYPE is not needed", 0, 0},
        {"-f --force", CLI_FLAG, &a.force, NULL, "replace OUT if it is there", 0, 0},
        {"--i2s-layout", CLI_STRING, &a.in_layout_name, "A|B|C|D", "bit order of I2_S tensors in IN", 0, 0},
        {"--tl-tiles", CLI_STRING, &a.tl_tiles, "BM/BY/bm", "tiles of TL1 and TL2 tensors in IN, or \"generated\"", 0, 0},
        {"--out-layout", CLI_STRING, &a.out_layout_name, "A|B|C|D", "bit order of I2_S tensors in OUT (default A)", 0, 0},
        {"--leave-output-tensor", CLI_IGNORED, NULL, NULL, NULL, 0, 0},
    };
    const cli_program program = {
        name, "[options] IN OUT TYPE [threads]",
        "Writes a model file with its ternary matrices stored as TYPE, without loss, or not at all.", notes,
        options, CLI_COUNT(options), 2, 5};
    memset(&a, 0, sizeof a);
    a.force = as_llama;                                  /* that program replaces OUT without being asked */
    choose(&a, cli_parse(&program, argc, argv, a.path));
    check_output(&a);
    open_input(&a);
    cli_catch_interrupts();
    signal(SIGTERM, cli_on_interrupt);
#if defined(SIGXFSZ)
    signal(SIGXFSZ, SIG_IGN);                            /* a limit on files is then an error like a full disk */
#endif
    gguf_writer_init(&out);
    atexit(clean_up);
    write_file(&a);
    bni_model_release(&in);
    return cli_finish_output();
}
