/* test_head: the two-pass head gives exactly what the full head gives.

   First the pieces: for random and awkward matrices and hidden states the bound holds for every row, nothing that
   belongs to the best k falls below the threshold, and the bound is tight enough to be worth it. Then whole models:
   the same tokens for every kind of sampling, the same logits when somebody asks for all. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "test.h"
#include "model.h"
#include <math.h>

static uint64_t seed = 7;

static double uniform(void) { return (double)(test_random(&seed) >> 11) / 9007199254740992.0; }

static double normal(void)
{
    double sum = -6;
    int i;
    for (i = 0; i < 12; i++) sum += uniform();
    return sum;
}

/* A matrix with its plane, of F16. */
typedef struct table {
    int n_rows, n, n_pad;
    uint16_t *rows;                  /* [n_rows][n] */
    bni_plane plane;
} table;

enum { GAUSSIAN, SPREAD, TIES, EMPTY, N_MATRICES };

static uint16_t half(double v)
{
    uint16_t best = 0;
    float f = (float)v;
    uint32_t bits = bni_float_bits(f), sign = bits >> 16 & 0x8000u;
    int32_t exponent = (int32_t)(bits >> 23 & 255) - 112;
    if (exponent <= 0) return (uint16_t)sign;
    if (exponent >= 31) return (uint16_t)(sign | 0x7bffu);
    best = (uint16_t)(sign | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ffu));
    return best;
}

static void make_table(table *t, const bni_kernels *kernels, int kind, int n_rows, int n)
{
    float *values = (float *)aligned_alloc(64, ((size_t)bni_pad16(n) * 4 + 63) / 64 * 64);
    size_t padded = (size_t)bni_pad16(n_rows);
    int r, i, s;
    t->n_rows = n_rows;
    t->n = n;
    t->n_pad = bni_pad16(n);
    t->rows = (uint16_t *)malloc((size_t)n_rows * (size_t)n * 2);
    for (r = 0; r < n_rows; r++) {
        const double size = kind == SPREAD ? pow(10, 4 * uniform() - 3) : 1 + 0.15 * normal();
        for (i = 0; i < n; i++) {
            double v = size * 0.05 * normal();
            if (kind == TIES && r % 3) v = bni_f16_to_f32(t->rows[(size_t)(r - r % 3) * (size_t)n + (size_t)i]);   /* rows in threes */
            if (kind == EMPTY && r % 5 == 0) v = 0;
            if (kind == EMPTY && r % 5 == 1 && i != r % n) v = 0;
            t->rows[(size_t)r * (size_t)n + (size_t)i] = half(v);
        }
    }
    memset(&t->plane, 0, sizeof t->plane);
    t->plane.n_strips = (int)(padded / 16);
    t->plane.n_cols = t->n_pad;
    t->plane.strips = (uint8_t *)malloc(padded * (size_t)t->n_pad + 8192);
    t->plane.scale = (float *)malloc(padded * 4);
    t->plane.error = (float *)malloc(padded * 4);
    t->plane.length = (float *)malloc(padded * 4);
    for (s = 0; s < t->plane.n_strips; s++)
        bni_plane_pack(&t->plane, kernels, BNI_TYPE_F16, (const uint8_t *)t->rows, (size_t)n * 2, n_rows, n, s, values);
    for (r = 0; r < n_rows; r++) if (t->plane.length[r] > t->plane.longest) t->plane.longest = t->plane.length[r];
    free(values);
}

static void free_table(table *t)
{
    free(t->rows);
    free(t->plane.strips);
    free(t->plane.scale);
    free(t->plane.error);
    free(t->plane.length);
}

enum { PLAIN, OUTLIERS, ONE_CHANNEL, SMALL, NOTHING, ALIGNED, ENORMOUS, N_STATES };

/* Hidden states: as a norm leaves them; with channels 30 to 300 times as large; with one channel alone; tiny; zero;
   along a row of the matrix, so that one logit stands out; and near the end of the floats. */
static void make_state(const table *t, int kind, float *x)
{
    const int row = (int)(test_random(&seed) % (uint64_t)t->n_rows);
    int i;
    memset(x, 0, (size_t)t->n_pad * 4);
    for (i = 0; i < t->n; i++) {
        double v = normal();
        if (kind == OUTLIERS && i % 97 == 5) v *= 30 + 270 * uniform();
        if (kind == ONE_CHANNEL && i != row % t->n) v = 0;
        if (kind == SMALL) v *= 1e-20;
        if (kind == NOTHING) v = 0;
        if (kind == ALIGNED) v = 0.3 * v + 20 * (double)bni_f16_to_f32(t->rows[(size_t)row * (size_t)t->n + (size_t)i]);
        if (kind == ENORMOUS) v *= pow(10, 29 + row % 9);
        x[i] = (float)v;
    }
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static long rescored, looked_at;

/* One state: the bound for every row; for each k that no row of the best k is below the threshold. */
static void check_state(const table *t, const bni_kernels *kernels, const float *x, int kind)
{
    static const int tops[] = {1, 2, 40, 1000};
    const size_t padded = (size_t)bni_pad16(t->n_rows);
    float *exact = (float *)malloc(padded * 4), *about = (float *)malloc(padded * 4), *sorted = (float *)malloc(padded * 4);
    float heap[BNI_PLANE_TOP], max = 0;
    bni_split split;
    bni_goal goal;
    double worst = 0;
    int r, k, i, lost;
    for (i = 0; i < t->n; i++) max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    split.x = (int8_t *)calloc(2, (size_t)bni_split_stride(t->n_pad));
    i = bni_plane_split(&t->plane, kernels, x, t->n, max, &split, &goal);
    CHECK(i || kind == ENORMOUS, "state kind %d has no bound", kind);
    if (!i) goto done;               /* the full head's */
    kernels->plane_rows(&about, t->plane.strips, t->plane.scale, t->plane.n_strips, t->plane.n_cols, &split, 1);
    kernels->dot_rows(&exact, BNI_TYPE_F16, (const uint8_t *)t->rows, (size_t)t->n * 2, t->n_rows, x, 0, 1, t->n);
    for (r = 0; r < t->n_rows; r++) {
        const double apart = fabs((double)exact[r] - (double)about[r]) / (double)bni_plane_bound(&t->plane, &goal, r);
        worst = apart > worst ? apart : worst;
    }
    CHECK(worst <= 1.0, "%d rows of %d, state kind %d: error %.3f times the bound", t->n_rows, t->n, kind, worst);
    memcpy(sorted, exact, (size_t)t->n_rows * 4);
    qsort(sorted, (size_t)t->n_rows, 4, descending);
    for (k = 0; k < 4; k++) {
        const int top = tops[k] < t->n_rows ? tops[k] : t->n_rows;
        bni_plane_threshold(&t->plane, kernels, &goal, about, t->n_rows, NULL, top, 0.0f, heap);
        for (lost = 0, r = 0; r < t->n_rows; r++) {
            const int kept = bni_plane_may_win(&t->plane, &goal, about[r], r);
            if (exact[r] >= sorted[top - 1] && !kept) lost++;
            if (kept && bni_plane_seek(&t->plane, kernels, &goal, about, 1, goal.threshold, r & ~15, t->n_rows) != (r & ~15)) lost++;
            if (top == 40 && kind == PLAIN) { rescored += kept; looked_at++; }
        }
        CHECK(lost == 0, "%d rows of %d, state kind %d, k %d: %d of the best lost", t->n_rows, t->n, kind, top, lost);
    }
done:
    free(split.x);
    free(exact);
    free(about);
    free(sorted);
}

static void check_pieces(void)
{
    static const int shapes[][2] = {{2000, 640}, {333, 100}, {17, 16}, {1024, 1}, {4096, 257}};
    const char *fast = getenv("TEST_FAST");
    const char *why;
    const bni_kernels *kernels = bni_kernels_select(NULL, 0, &why);
    int kind, shape, state, i;
    for (kind = 0; kind < N_MATRICES; kind++)
        for (shape = 0; shape < 5; shape++) {
            table t;
            float *x;
            make_table(&t, kernels, kind, shapes[shape][0], shapes[shape][1]);
            x = (float *)aligned_alloc(64, ((size_t)t.n_pad * 4 + 63) / 64 * 64);
            for (state = 0; state < N_STATES; state++)
                for (i = 0; i < (fast ? 2 : state < 2 ? 60 : 10); i++) {
                    make_state(&t, state, x);
                    check_state(&t, kernels, x, state);
                }
            free(x);
            free_table(&t);
        }
    CHECK(rescored * 10 < looked_at, "the bound is loose: %ld of %ld rows left for the best 40", rescored, looked_at);
}

/* ------------------------------------------------------------------------------------------------- whole models */

typedef struct pair { bitnet_model *model; bitnet_engine *engine; bitnet_session *session; uint8_t *data; } pair;

static void open_pair(pair *p, const char *path, const char *head, int threads)
{
    bitnet_model_desc md;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_error err;
    bitnet_model_info info;
    memset(&md, 0, sizeof md);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    p->data = NULL;
#if defined(BITNET_NO_STDIO) && defined(BITNET_NO_MMAP)
    {
        size_t size;
        p->data = test_read_file(path, &size);
        md.data = p->data;
        md.size = size;
    }
#else
    md.path = path;
#endif
    md.head = head;
    md.n_threads = ed.n_threads = threads;
    sd.n_ctx = 200;
    REQUIRE(bitnet_model_open(&md, &p->model, &err) == BITNET_OK, "%s: %s", path, err.text);
    REQUIRE(bitnet_engine_create(p->model, &ed, &p->engine, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_session_create(p->engine, &sd, &p->session, &err) == BITNET_OK, "%s", err.text);
    bitnet_model_get_info(p->model, &info);
    CHECK(strcmp(info.head, head) == 0, "asked for %s, got %s", head, info.head);
}

static void close_pair(pair *p)
{
    bitnet_session_destroy(p->session);
    bitnet_engine_destroy(p->engine);
    bitnet_model_close(p->model);
    free(p->data);
}

static void every_third(void *user, uint32_t *mask, const int32_t *tokens, int n_tokens)
{
    const int n_vocab = *(const int *)user;
    int i;
    (void)tokens;
    for (i = 0; i < n_vocab; i++)
        if ((i + n_tokens) % 3) mask[i / 32] &= ~(1u << (i % 32));
}

/* Generates from a prompt; tokens go to out. Result: how many. */
static int generate(pair *p, const bitnet_generation *g, int32_t *out)
{
    static const int32_t prompt[] = {5, 17, 260, 33, 9};
    bitnet_event event;
    int n = 0;
    bitnet_session_rewind(p->session, 0);
    REQUIRE(bitnet_begin(p->session, prompt, 5, g) == BITNET_OK, "begin");
    do {
        while (bitnet_next_event(p->session, &event))
            if (event.type == BITNET_EVENT_TOKEN) out[n++] = event.token;
    } while (bitnet_step(p->engine, BITNET_NO_BUDGET) == BITNET_OK);
    return n;
}

static void compare(pair *full, pair *two, const char *what, const bitnet_generation *g, int leaves_best)
{
    int32_t a[128], b[128];
    const int n = generate(full, g, a), m = generate(two, g, b);
    bitnet_model_info info;
    const float *x, *y;
    bitnet_model_get_info(full->model, &info);
    CHECK(n == m && memcmp(a, b, (size_t)n * sizeof a[0]) == 0, "%s: other tokens (%d and %d)", what, n, m);
    CHECK(two->session->incomplete == leaves_best, "%s: %s head ran", what, leaves_best ? "the full" : "a two-pass");
    x = bitnet_logits(full->session);
    y = bitnet_logits(two->session);
    CHECK(!x == !y && (!x || memcmp(x, y, (size_t)info.n_vocab * sizeof *x) == 0), "%s: other logits", what);
}

static void check_model(const char *path, int threads)
{
    pair full, two, copy;
    bitnet_generation g;
    bitnet_logit_bias bias = {7, 1.5f};
    bitnet_model_info info;
    int seeds;
    open_pair(&full, path, "full", threads);
    open_pair(&two, path, "two-pass", threads);
    bitnet_model_get_info(full.model, &info);
    memset(&g, 0, sizeof g);
    g.max_tokens = 40;
    g.ignore_end = 1;
    compare(&full, &two, "greedy", &g, 1);
    for (seeds = 0; seeds < 6; seeds++) {
        g.sampling.temperature = 0.4f + 0.5f * (float)seeds;
        g.sampling.seed = (uint64_t)seeds;
        g.sampling.top_k = seeds == 5 ? BNI_PLANE_TOP : 1 + 13 * seeds;
        compare(&full, &two, "top-k", &g, 1);
        g.sampling.top_p = 0.9f;
        g.sampling.min_p = 0.02f;
        compare(&full, &two, "top-k, top-p and min-p", &g, 1);
        g.sampling.top_p = 0;
        g.sampling.top_k = 0;
        compare(&full, &two, "min-p", &g, 1);
        g.sampling.top_p = 0.9f;
        compare(&full, &two, "min-p and top-p", &g, 0);
        g.sampling.min_p = g.sampling.top_p = 0;
        compare(&full, &two, "all", &g, 0);
    }
    g.sampling.top_k = 30;
    g.mask = every_third;
    g.mask_user = &info.n_vocab;
    compare(&full, &two, "mask", &g, 1);
    g.mask = NULL;
    g.sampling.repeat_penalty = 1.3f;
    compare(&full, &two, "penalty", &g, 0);
    g.sampling.repeat_penalty = 0;
    g.bias = &bias;
    g.n_bias = 1;
    compare(&full, &two, "bias", &g, 0);
    g.n_bias = 0;
    g.logprobs = 3;
    compare(&full, &two, "logprobs", &g, 0);
    g.logprobs = 0;
    compare(&full, &two, "top-k again", &g, 1);
    /* A copy asked for its logits computes them, too; and again after the pass has left only the best. */
    copy = two;
    {
        int32_t a[128];
        bitnet_session_desc sd;
        memset(&sd, 0, sizeof sd);
        sd.n_ctx = 200;
        generate(&two, &g, a);
        CHECK(bitnet_session_create(two.engine, &sd, &copy.session, NULL) == BITNET_OK, "create");
        CHECK(bitnet_session_copy(copy.session, two.session) == BITNET_OK, "copy");
        generate(&full, &g, a);
        if (bitnet_logits(full.session))
            CHECK(memcmp(bitnet_logits(full.session), bitnet_logits(copy.session), (size_t)info.n_vocab * 4) == 0, "a copy's logits");
        bitnet_session_destroy(copy.session);
    }
    close_pair(&full);
    close_pair(&two);
}

/* Nineteen sessions on one engine, so that the head's rows are a group of sixteen and one of three; each as the full head has it
   alone. With tiles, where there are some. */
static void check_company(const char *path)
{
    enum { N = 19, MOST = 24 };
    static int32_t want[N][128], got[N][128];
    bitnet_model_desc md;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_generation g[N];
    bitnet_model *m = NULL;
    bitnet_engine *e = NULL;
    bitnet_session *s[N];
    bitnet_error err;
    bitnet_event event;
    uint8_t *data;
    size_t size;
    pair full;
    int i, n[N] = {0};
    memset(&md, 0, sizeof md);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    memset(g, 0, sizeof g);
    open_pair(&full, path, "full", 2);
    md.data = data = test_read_file(path, &size);
    md.size = size;
    md.head = "two-pass";
    md.allow_amx = 1;
    md.n_threads = ed.n_threads = 2;
    sd.n_ctx = 200;
    REQUIRE(bitnet_model_open(&md, &m, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_engine_create(m, &ed, &e, &err) == BITNET_OK, "%s", err.text);
    for (i = 0; i < N; i++) {
        static const int32_t prompt[] = {5, 17, 260, 33, 9};
        g[i].max_tokens = MOST;
        g[i].ignore_end = 1;
        g[i].sampling.seed = (uint64_t)i;
        g[i].sampling.temperature = 0.3f * (float)i;
        g[i].sampling.top_k = 3 + 20 * i;
        CHECK(generate(&full, &g[i], want[i]) == MOST, "session %d alone", i);
        REQUIRE(bitnet_session_create(e, &sd, &s[i], &err) == BITNET_OK, "%s", err.text);
        REQUIRE(bitnet_begin(s[i], prompt, 5, &g[i]) == BITNET_OK, "begin");
    }
    do {
        for (i = 0; i < N; i++)
            while (bitnet_next_event(s[i], &event))
                if (event.type == BITNET_EVENT_TOKEN) got[i][n[i]++] = event.token;
    } while (bitnet_step(e, BITNET_NO_BUDGET) == BITNET_OK);
    for (i = 0; i < N; i++) {
        CHECK(n[i] == MOST && memcmp(want[i], got[i], MOST * sizeof got[i][0]) == 0, "session %d of %d: other tokens", i, N);
        CHECK(s[i]->incomplete, "session %d: the full head ran", i);
        bitnet_session_destroy(s[i]);
    }
    bitnet_engine_destroy(e);
    bitnet_model_close(m);
    close_pair(&full);
    free(data);
}

static int count_rows(void *user, int i, const float *logits)
{
    (void)logits;
    *(int *)user = i + 1;
    return 0;
}

/* Logits that are not finite are reported by the call that needs them, and never handed out. */
static void check_infinite(bitnet_model *m)
{
    static const int32_t tokens[] = {1, 2, 3};
    bitnet_engine *e = NULL;
    bitnet_session *s = NULL;
    bitnet_error err;
    int rows = 0;
    REQUIRE(bitnet_engine_create(m, NULL, &e, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_session_create(e, NULL, &s, &err) == BITNET_OK, "%s", err.text);
    CHECK(bitnet_eval(s, tokens, 3, NULL, NULL, &err) == BITNET_OK, "%s", err.text);
    CHECK(!bitnet_logits(s) && !bitnet_logits(s), "infinite logits were handed out");
    CHECK(bitnet_eval(s, tokens, 3, count_rows, &rows, &err) == BITNET_ERROR_NUMERIC && rows == 0, "%d rows, %s", rows, err.text);
    CHECK(!bitnet_logits(s), "infinite logits were handed out after an error");
    bitnet_session_destroy(s);
    bitnet_engine_destroy(e);
}

/* A matrix that is damaged (an infinity in it) is the full head's to report. */
static void check_damage(const char *path)
{
    size_t size, at;
    uint8_t *data = test_read_file(path, &size);
    bitnet_model_desc md;
    bitnet_model *m = NULL;
    bitnet_model_info info;
    bitnet_error err;
    pair p;
    memset(&md, 0, sizeof md);
    md.data = data;
    md.size = size;
    md.head = "two-pass";
    REQUIRE(bitnet_model_open(&md, &m, &err) == BITNET_OK, "%s", err.text);
    at = (size_t)(m->output.data - data) + 2 * 100;
    bitnet_model_close(m);
    data[at] = 0;
    data[at + 1] = 0x7c;
    REQUIRE(bitnet_model_open(&md, &p.model, &err) == BITNET_OK, "%s", err.text);
    bitnet_model_get_info(p.model, &info);
    CHECK(strcmp(info.head, "full") == 0, "an infinite weight, and the head is %s", info.head);
    check_infinite(p.model);
    bitnet_model_close(p.model);
    md.head = "three-pass";
    CHECK(bitnet_model_open(&md, &p.model, &err) == BITNET_ERROR_ARGUMENT && strstr(err.text, "three-pass"), "%s", err.text);
    free(data);
}

int main(void)
{
    char path[512];
    check_pieces();
    test_make_model(path, "head", "--shape tiny --vocab 3001 --seed 3");
    check_model(path, 1);
    check_model(path, 3);
    check_damage(path);
    test_make_model(path, "head-narrow", "--shape tiny --vocab 3001 --embd 288 --seed 6");
    check_company(path);
    test_make_model(path, "head-untied", "--shape tiny --untied --head bf16 --seed 4");
    check_model(path, 2);
    test_make_model(path, "head-q8", "--shape tiny --untied --head q8_0 --seed 5");
    check_model(path, 2);
    return test_end("test_head");
}
