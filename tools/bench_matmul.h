/* bench_matmul.h: the ternary products alone, kernel sets and layouts side by side, without a model.

   The matrices are those of BitNet b1.58 2B4T. Their weights are the arena's bytes, walked from one sample to the next,
   so that every sample finds them in memory and none in a cache. What belongs together is measured together: in each
   repetition a plain reading, the peak of every unit, and then one sample of each kernel; the shares are ratios of the
   medians. Work is cut as the engine cuts it (bni_slice_chunk, bni_block_groups): runs of strips for one group of
   tokens, pairs of strips times blocks of tokens for more.
   Include after tools/bench_measure.h, bench_print.h and bench_svg.h. Same licence as bitnet.h. */
#ifndef BITNET_BENCH_MATMUL_H
#define BITNET_BENCH_MATMUL_H

#define MAX_PRODUCTS 64              /* kernel sets times layouts */
#define PRODUCT_NS 20000000.0        /* a sample takes about this long at most, */
#define PRODUCT_BYTES (16 << 20)     /* and reads about this much where that takes less */
#define PRODUCT_READ (64 << 20)      /* bytes of the plain reading beside it */

/* Matrices of a layer, and how many of each it has. */
static const struct product_shape { int rows, cols, count; } product_shapes[] = {
    {2560, 2560, 2}, {640, 2560, 2}, {6912, 2560, 2}, {2560, 6912, 1}
};
enum { N_SHAPES = sizeof product_shapes / sizeof product_shapes[0] };

/* A kernel set with a layout; of the shape and number of tokens that is being measured, and sums over the layer. */
typedef struct product {
    const bni_kernels *kernels;
    int layout;
    const unit *u;                   /* its limit with so many tokens */
    int n_strips;                    /* of a sample */
    samples ms;                      /* of the whole matrix */
    double layer_ms, layer_bytes, layer_ops, layer_read_ms, layer_peak_ms;
} product;

/* A sample under way, shared by its threads. */
typedef struct product_job {
    bni_matmul_fn *fn;
    const uint8_t *w;
    size_t strip_bytes;
    int n_cols, n_tokens, run, n_runs, block, n_blocks;  /* strips of a call; tokens of a call */
    bni_atomic next;
    int8_t *x;
    int32_t *y;                      /* y_size for each thread, and a panel */
    uint8_t *panel;
    size_t y_size;
} product_job;

typedef struct matmul_bench {
    limits *l;
    records *records;
    roofline *roof;
    int markdown, reps;
    product products[MAX_PRODUCTS];
    int n_products;
    const struct product_shape *shape;
    int n_tokens;
    samples reads, peaks[CLI_COUNT(units)];              /* beside the products of this shape */
    void *scratch;
    size_t scratch_size;
} matmul_bench;

/* Bytes and operations of a matrix with this product's layout. */
static double product_bytes(const product *p, const struct product_shape *shape)
{
    return (double)bni_strip_bytes(p->layout, (uint64_t)shape->cols) * (shape->rows / 16);
}
static double product_ops(const struct product_shape *shape, int n_tokens)
{
    return 2.0 * shape->rows * shape->cols * n_tokens;
}

/* ---------------------------------------------------------------------------------------------- a sample */

static void product_piece(void *user, int index)
{
    product_job *j = (product_job *)user;
    const uint32_t n = (uint32_t)(j->n_runs * j->n_blocks);
    uint32_t u;
    while ((u = bni_atomic_add(&j->next, 1)) < n) {
        const int block = (int)u / j->n_runs, run = (int)u % j->n_runs, first = block * j->block;
        const int n_tokens = j->n_tokens - first < j->block ? j->n_tokens - first : j->block;
        j->fn(j->y + (size_t)index * j->y_size, 16 * j->run, j->w + (size_t)(run * j->run) * j->strip_bytes, j->run,
              j->n_cols, j->x + (size_t)first * (size_t)j->n_cols, n_tokens, j->panel + (size_t)index * 2 * BNI_PANEL);
    }
}

/* How the engine would cut the product: strips and tokens of a call. */
static void product_cut(product_job *j, const matmul_bench *m, int tiled)
{
    const int group = tiled ? BNI_TILE : BNI_ROWS, groups = (m->n_tokens + group - 1) / group;
    const int room = BNI_MAX_CHUNK * BNI_MAX_GROUP / (m->n_tokens < BNI_MAX_GROUP ? m->n_tokens : BNI_MAX_GROUP);
    int most = (int)(BNI_BLOCK_BYTES / (unsigned)m->shape->cols), pairs = m->shape->rows / 32 / (m->l->team.n_threads * 4);
    most = (most < BNI_BLOCK_ROWS ? most : BNI_BLOCK_ROWS) / group;
    most = most > 0 ? most : 1;
    pairs = pairs < 2 ? 2 : pairs > room ? room : pairs;
    j->run = groups == 1 ? 2 * pairs : 2;
    j->n_blocks = (groups + most - 1) / most;
    j->block = (groups + j->n_blocks - 1) / j->n_blocks * group;
}

/* Room for the activations, and for each thread's sums and panel, all at multiples of 64; the activations are any. */
static void product_room(matmul_bench *m, product_job *j)
{
    const size_t threads = (size_t)m->l->team.n_threads, x = (size_t)(m->n_tokens + 32) * (size_t)(m->shape->cols + 64);
    const size_t x_size = (x + 63) & ~(size_t)63, panels = threads * 2 * BNI_PANEL;
    uint8_t *at;
    size_t i;
    j->y_size = (size_t)(16 * j->run) * (size_t)(j->block + BNI_TILE);
    if (m->scratch_size < x_size + panels + threads * j->y_size * 4 + 64) {
        m->scratch_size = x_size + panels + threads * j->y_size * 4 + 64;
        free(m->scratch);
        m->scratch = cli_alloc(m->scratch_size);
        for (i = 0; i < m->scratch_size; i++) ((uint8_t *)m->scratch)[i] = (uint8_t)(i * 37 + i / 251);
    }
    at = (uint8_t *)(((uintptr_t)m->scratch + 63) & ~(uintptr_t)63);
    j->x = (int8_t *)at;
    j->panel = at + x_size;
    j->y = (int32_t *)(void *)(at + x_size + panels);
}

/* Nanoseconds of the product's tokens with about n_strips strips of the arena, which becomes the number really done. */
static double product_sample(matmul_bench *m, const product *p, int *n_strips)
{
    const int tiled = m->n_tokens >= BNI_TILE_MIN && p->kernels->matmul_tiles[p->layout] != NULL;
    product_job j;
    uint64_t ns;
    size_t all;
    memset(&j, 0, sizeof j);
    product_cut(&j, m, tiled);
    product_room(m, &j);
    j.fn = (tiled ? p->kernels->matmul_tiles : p->kernels->matmul)[p->layout];
    j.strip_bytes = (size_t)bni_strip_bytes(p->layout, (uint64_t)m->shape->cols);
    all = m->l->memory.size / j.strip_bytes / (size_t)j.run;
    if (all == 0) cli_fail("a buffer of %.0f bytes does not hold %d strips of a matrix", (double)m->l->memory.size, j.run);
    j.n_runs = (*n_strips + j.run - 1) / j.run;
    if ((size_t)j.n_runs > all) j.n_runs = (int)all;
    *n_strips = j.n_runs * j.run;
    j.n_cols = m->shape->cols;
    j.n_tokens = m->n_tokens;
    j.w = m->l->memory.data + limits_advance(m->l, (size_t)*n_strips * j.strip_bytes);
    ns = bni_time_ns();
    bni_pool_parallel_for(m->l->team.pool, product_piece, &j, m->l->team.n_threads);
    return (double)(bni_time_ns() - ns);
}

/* Strips of a sample: whole matrices that make up PRODUCT_BYTES, or fewer where those would take over PRODUCT_NS. */
static void product_choose(matmul_bench *m, product *p)
{
    const int strips = m->shape->rows / 16, matrices = (int)(PRODUCT_BYTES / product_bytes(p, m->shape)) + 1;
    int some = 2 * m->l->team.n_threads, i;
    double ns = 0;
    p->n_strips = strips * matrices;
    for (i = 0; i < 3; i++) {                            /* the first also touches the scratch memory */
        const double now = product_sample(m, p, &some) / some;
        if (i == 0 || now < ns) ns = now;
    }
    if (ns * p->n_strips > PRODUCT_NS) p->n_strips = (int)(PRODUCT_NS / ns);
    if (p->n_strips < some) p->n_strips = some;
}

/* All products with one shape and number of tokens: samples taken in turn. Returns 0 after Ctrl-C. */
static int products_measure(matmul_bench *m)
{
    int i, k;
    m->reads.n = 0;
    for (i = 0; i < CLI_COUNT(units); i++) m->peaks[i].n = 0;
    for (k = 0; k < m->n_products; k++) {
        m->products[k].ms.n = 0;
        m->products[k].u = unit_of(m->products[k].kernels->name, m->n_tokens);
        product_choose(m, &m->products[k]);
    }
    for (i = 0; i < m->reps && !cli_interrupted; i++) {
        const unit *u;
        limits_wake(m->l);
        limits_read(m->l, PRODUCT_READ, &m->reads);
        for (u = units; u->name; u++)
            for (k = 0; k < m->n_products; k++)
                if (m->products[k].u == u) {
                    limits_peak(m->l, u, &m->peaks[u - units]);
                    break;
                }
        for (k = 0; k < m->n_products; k++) {
            product *p = &m->products[k];
            const double ns = product_sample(m, p, &p->n_strips);
            add_sample(&p->ms, ns / p->n_strips * (m->shape->rows / 16) * 1e-6);
        }
        limits_sleep(m->l);
    }
    return !cli_interrupted;
}

/* -------------------------------------------------------------------------------------------------- rows */

/* What a row says; shares are 0 where their limit was not measured. */
typedef struct product_row {
    const product *p;
    char matrix[32];
    int n_tokens, n_threads;
    double ms, p25, p75, bytes, ops, read_share, peak_share;
} product_row;

static double gb_of(const product_row *r) { return r->bytes / r->ms * 1e-6; }
static double tops_of(const product_row *r) { return r->ops / r->ms * 1e-9; }

static void product_markdown_header(void)
{
    printf("| kernels    | layout | threads |      matrix | tokens |       ms |           p25 - p75 |    GB/s | of read |"
           "   TOPS | of peak |\n");
    printf("| ---------- | ------ | ------: | ----------: | -----: | -------: | ------------------: | ------: | ------: |"
           " -----: | ------: |\n");
}

static void product_print(matmul_bench *m, const product_row *r)
{
    records *out = m->records;
    char read[16], peak[16], spread[40];
    if (m->markdown) {
        snprintf(spread, sizeof spread, "%.4f - %.4f", r->p25, r->p75);
        if (r->p25 <= 0) spread[0] = 0;
        printf("| %-10s | %-6s | %7d | %11s | %6d | %8.4f | %19s | %7.2f | %7s | %6.3f | %7s |\n", r->p->kernels->name,
               bni_layout_names[r->p->layout], r->n_threads, r->matrix, r->n_tokens, r->ms, spread, gb_of(r),
               percent(read, r->read_share), tops_of(r), percent(peak, r->peak_share));
        fflush(stdout);
        return;
    }
    record_begin(out);
    record_text(out, "kernels", r->p->kernels->name);
    record_text(out, "layout", bni_layout_names[r->p->layout]);
    record_text(out, "unit", r->p->u ? r->p->u->name : "");
    record_number(out, "n_threads", r->n_threads, 0);
    record_text(out, "matrix", r->matrix);
    record_number(out, "n_tokens", r->n_tokens, 0);
    record_number(out, "median_ms", r->ms, 6);
    record_number(out, "p25_ms", r->p25, 6);
    record_number(out, "p75_ms", r->p75, 6);
    record_number(out, "bytes", r->bytes, 0);
    record_number(out, "gb_per_s", gb_of(r), 6);
    record_number(out, "read_share", r->read_share, 6);
    record_number(out, "tops", tops_of(r), 6);
    record_number(out, "peak_share", r->peak_share, 6);
    record_end(out);
}

/* A row for each product with the shape just measured, and its part of the layer. */
static void products_print(matmul_bench *m)
{
    const double read = median(&m->reads);
    int k;
    for (k = 0; k < m->n_products; k++) {
        product *p = &m->products[k];
        const double peak = p->u ? median(&m->peaks[p->u - units]) : 0, count = m->shape->count;
        product_row r;
        if (p->ms.n == 0) continue;
        memset(&r, 0, sizeof r);
        r.p = p;
        snprintf(r.matrix, sizeof r.matrix, "%dx%d", m->shape->rows, m->shape->cols);
        r.n_tokens = m->n_tokens;
        r.n_threads = m->l->team.n_threads;
        r.ms = median(&p->ms);
        r.p25 = quantile(&p->ms, 0.25);
        r.p75 = quantile(&p->ms, 0.75);
        r.bytes = product_bytes(p, m->shape);
        r.ops = product_ops(m->shape, m->n_tokens);
        if (read > 0) r.read_share = gb_of(&r) / read;
        if (peak > 0) r.peak_share = tops_of(&r) / peak;
        product_print(m, &r);
        p->layer_ms += count * r.ms;
        p->layer_bytes += count * r.bytes;
        p->layer_ops += count * r.ops;
        p->layer_read_ms += count * r.ms * r.read_share;
        p->layer_peak_ms += count * r.ms * r.peak_share;
    }
}

/* A row for each product with the sum of its medians over a layer's seven matrices, which is also a point of the
   roofline. */
static void products_print_layer(matmul_bench *m)
{
    int k;
    for (k = 0; k < m->n_products; k++) {
        product *p = &m->products[k];
        char series[40], label[40];
        product_row r;
        memset(&r, 0, sizeof r);
        r.p = p;
        snprintf(r.matrix, sizeof r.matrix, "layer");
        r.n_tokens = m->n_tokens;
        r.n_threads = m->l->team.n_threads;
        r.ms = p->layer_ms;
        r.bytes = p->layer_bytes;
        r.ops = p->layer_ops;
        r.read_share = p->layer_read_ms / p->layer_ms;
        r.peak_share = p->layer_peak_ms / p->layer_ms;
        product_print(m, &r);
        snprintf(series, sizeof series, "%s %s", p->kernels->name, bni_layout_names[p->layout]);
        snprintf(label, sizeof label, m->n_tokens == 1 ? "%d token" : "%d", m->n_tokens);
        roofline_add(m->roof, series, label, r.ops / r.bytes, tops_of(&r) * 1e12);
        p->layer_ms = p->layer_bytes = p->layer_ops = p->layer_read_ms = p->layer_peak_ms = 0;
    }
}

/* -------------------------------------------------------------------------------------------------- all */

/* The sets called names [n_names] with the layouts that "auto" may choose, or the one that layout names, where they have a
   kernel of their own for it.
   Exits 2 if nothing is left. */
static void products_choose(matmul_bench *m, const char *const *names, int n_names, const char *layout)
{
    int i, l;
    for (i = 0; i < n_names; i++) {
        const char *why;
        const bni_kernels *kernels = bni_kernels_select(names[i], 1, &why);
        if (!kernels) cli_message("without kernels %s: %s", names[i], why);
        for (l = 0; kernels && l < BNI_N_PACKED; l++) {
            const int any = !layout || strcmp(layout, "auto") == 0;
            const int wanted = any ? l < BNI_TL1 : strcmp(layout, bni_layout_names[l]) == 0;
            const int plain = kernels->matmul[l] == bni_kernels_scalar.matmul[l] && kernels->layout != l;
            if (!wanted || plain || m->n_products == MAX_PRODUCTS) continue;
            m->products[m->n_products].kernels = kernels;
            m->products[m->n_products++].layout = l;
        }
    }
    if (m->n_products == 0) cli_usage("--layout %s: none of these kernel sets has a fast product for it", layout ? layout : "auto");
}

/* Every number of tokens with every matrix and product, on the team that is open. Returns 0 after Ctrl-C. */
static int products_run(matmul_bench *m, const int *tokens, int n)
{
    int i, s, whole = 1;
    for (i = 0; i < n && whole; i++) {
        if (tokens[i] == 0) continue;
        m->n_tokens = tokens[i];
        for (s = 0; s < N_SHAPES && whole; s++) {
            m->shape = &product_shapes[s];
            whole = products_measure(m);
            products_print(m);
        }
        if (whole) products_print_layer(m);
    }
    return whole;
}

#endif /* BITNET_BENCH_MATMUL_H */
