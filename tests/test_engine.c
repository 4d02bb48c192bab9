/* Models, engines, sessions: what the API promises, on a small model with random weights. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "model.h"
#include <math.h>

static uint8_t *file;                /* the model file's bytes */
static size_t file_size;
static char path[512];

enum { N_CTX = 200 };

/* ------------------------------------------------------------------------------------------------- helpers */

typedef struct rig {                 /* a model, an engine and some sessions */
    bitnet_model *model;
    bitnet_engine *engine;
    bitnet_session *session[8];
    int n;
} rig;

static void rig_open(rig *r, bitnet_model_desc *md, bitnet_engine_desc *ed, int n_sessions)
{
    bitnet_model_desc own;
    bitnet_engine_desc own_engine;
    bitnet_session_desc sd;
    bitnet_error err;
    memset(&err, 0, sizeof err);
    memset(&own, 0, sizeof own);
    memset(&own_engine, 0, sizeof own_engine);
    memset(&sd, 0, sizeof sd);
    sd.n_ctx = N_CTX;
    if (!md) {
        own.data = file;
        own.size = file_size;
        own.n_threads = 1;
        md = &own;
    }
    if (!ed) {
        own_engine.n_threads = 1;
        ed = &own_engine;
    }
    if (ed->n_ctx == 0)
        ed->n_ctx = N_CTX;
    REQUIRE(bitnet_model_open(md, &r->model, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_engine_create(r->model, ed, &r->engine, &err) == BITNET_OK, "%s", err.text);
    for (r->n = 0; r->n < n_sessions; r->n++)
        REQUIRE(bitnet_session_create(r->engine, &sd, &r->session[r->n], &err) == BITNET_OK, "%s", err.text);
}

static void rig_close(rig *r)
{
    while (r->n > 0)
        CHECK(bitnet_session_destroy(r->session[--r->n]) == BITNET_OK, "session %d", r->n);
    bitnet_engine_destroy(r->engine);
    bitnet_model_close(r->model);
}

static int fast;               /* TEST_FAST: for sanitizers and valgrind */
static const int32_t prompt[9] = {5, 17, 300, 42, 7, 7, 99, 250, 12};

/* Steps with that budget until the session is done; tokens go to out, text (if not NULL) is appended. Result: the DONE
   event's reason. */
static bitnet_reason run(bitnet_session *s, bitnet_engine *e, uint32_t budget, int32_t *out, int *n_out, char *text)
{
    bitnet_event event;
    long guard = 0;
    *n_out = 0;
    if (text)
        *text = 0;
    for (;;) {
        while (bitnet_next_event(s, &event)) {
            if (text)
                strcat(text, event.text);
            if (event.type == BITNET_EVENT_TOKEN)
                out[(*n_out)++] = event.token;
            if (event.type == BITNET_EVENT_DONE)
                return event.reason;
        }
        REQUIRE(bitnet_step(e, budget) == BITNET_OK && ++guard < 10000000, "a running session found nothing to do");
    }
}

/* The tokens that settings give after a prompt, alone on a fresh engine: the answer every other way must give. */
static int expected(const bitnet_generation *g, const int32_t *tokens, int n, int32_t *out)
{
    rig r;
    int n_out;
    rig_open(&r, NULL, NULL, 1);
    REQUIRE(bitnet_begin(r.session[0], tokens, n, g) == BITNET_OK, "begin");
    run(r.session[0], r.engine, BITNET_NO_BUDGET, out, &n_out, NULL);
    rig_close(&r);
    return n_out;
}

static bitnet_generation settings(float temperature, uint64_t seed, int max_tokens)
{
    bitnet_generation g;
    memset(&g, 0, sizeof g);
    g.sampling.temperature = temperature;
    g.sampling.seed = seed;
    g.max_tokens = max_tokens;
    g.ignore_end = 1;
    return g;
}

static int same(const int32_t *a, int n_a, const int32_t *b, int n_b)
{
    return n_a == n_b && memcmp(a, b, (size_t)n_a * sizeof *a) == 0;
}

/* ------------------------------------------------------------------------------------------- opening a model */

static int read_memory(void *user, uint64_t offset, void *buffer, size_t n)
{
    (void)user;
    if (offset > file_size || n > file_size - offset)
        return -1;
    memcpy(buffer, file + offset, n);
    return 0;
}

static int progress_calls, progress_stop;
static int on_progress(void *user, uint64_t done, uint64_t total)
{
    (void)user;
    CHECK(done <= total && total > 0, "%llu of %llu", (unsigned long long)done, (unsigned long long)total);
    return ++progress_calls == progress_stop;
}

static void test_open(void)
{
    bitnet_model_desc d;
    bitnet_model *m;
    bitnet_error err;
    bitnet_model_info info, info2;
    memset(&d, 0, sizeof d);
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_ARGUMENT && !m, "no source");
    CHECK(bitnet_model_open(NULL, &m, &err) == BITNET_ERROR_ARGUMENT, "no description");
    CHECK(bitnet_model_open(&d, NULL, NULL) == BITNET_ERROR_ARGUMENT, "no place");
    d.path = "/nonexistent/model.gguf";
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_IO && strstr(err.text, "nonexistent"), "%s", err.text);
    d.path = ".";
    CHECK(bitnet_model_open(&d, &m, &err) != BITNET_OK, "a folder");
    d.path = "/dev/null";
    CHECK(bitnet_model_open(&d, &m, &err) != BITNET_OK, "an empty device");
    d.path = path;
    d.data = file;
    d.size = file_size;
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_ARGUMENT, "two sources");
    d.path = NULL;
    d.kernels = "mmx";
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_ARGUMENT && strstr(err.text, "mmx"), "%s", err.text);
    d.kernels = NULL;
    d.n_threads = -1;
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_ARGUMENT, "-1 threads");
    d.n_threads = 1;
    d.chat_template = "no such";
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_ARGUMENT, "template");
    d.chat_template = NULL;
    d.progress = on_progress;
    progress_calls = 0;
    progress_stop = 3;
    CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_CANCELLED && progress_calls == 3, "cancel while loading");
    progress_stop = 0;
    CHECK(bitnet_model_probe(&d, &info, &err) == BITNET_OK && info.is_ternary && info.is_supported, "%s", err.text);
    REQUIRE(bitnet_model_open(&d, &m, &err) == BITNET_OK, "%s", err.text);
    CHECK(progress_calls > 3, "%d calls", progress_calls);
    bitnet_model_get_info(m, &info2);
    CHECK(info.model_memory == info2.model_memory && info.weight_bytes == info2.weight_bytes, "probe and open differ: %llu %llu",
          (unsigned long long)info.model_memory, (unsigned long long)info2.model_memory);
    CHECK(strcmp(info.architecture, "bitnet-b1.58") == 0 && info.n_layer == 2 && info2.kernels[0] != 0, "%s %d",
          info.architecture, info.n_layer);
    bitnet_model_close(m);
    bitnet_model_close(NULL);
}

/* One file through all four ways in: the same logits. */
static void test_sources(void)
{
    int way, n_first = 0;
    uint64_t memory[6];
    static float first[4096];
    for (way = 0; way < 6; way++) {            /* 4 and 5: as 2 and 0, with the matrices in place */
        rig r;
        bitnet_model_desc d;
        bitnet_model_info info;
        bitnet_error err;
        memset(&d, 0, sizeof d);
        d.n_threads = 1 + way % 2;
#ifdef BITNET_NO_MMAP
        if (way == 5) {
            SKIP("%s", "a file in place: this build maps none");
            continue;
        }
#endif
#ifdef BITNET_NO_STDIO
  #ifdef BITNET_NO_MMAP
        if (way < 2) {
  #else
        if (way == 1) {
  #endif
            SKIP("a file that the engine opens, way %d: no such functions in this build", way);
            continue;
        }
#endif
        if (way < 2 || way == 5)
            d.path = path;
        d.no_mmap = way == 1;
        d.layout = way < 4 ? NULL : "i2_s";
        if (way == 2 || way == 4) {
            d.data = file;
            d.size = file_size;
        }
        if (way == 3) {
            d.reader.read = read_memory;
            d.reader.size = file_size;
        }
        rig_open(&r, &d, NULL, 1);
        CHECK(bitnet_eval(r.session[0], prompt, 9, NULL, NULL, &err) == BITNET_OK, "%s", err.text);
        if (n_first++ == 0)
            memcpy(first, bitnet_logits(r.session[0]), 512 * sizeof(float));
        CHECK(memcmp(first, bitnet_logits(r.session[0]), 512 * sizeof(float)) == 0, "way %d", way);
        bitnet_model_get_info(r.model, &info);
        CHECK((strcmp(info.layout, "i2_s") == 0) == (way >= 4), "way %d: layout %s", way, info.layout);
        memory[way] = info.model_memory;
        CHECK(way < 4 || info.model_memory + (uint64_t)(info.n_ff * 3 * info.n_embd / 5 * info.n_layer) < memory[2],
              "in place: %d bytes of %d", (int)info.model_memory, (int)memory[2]);
        rig_close(&r);
    }
}

/* ---------------------------------------------------------------------------------------------------- memory */

/* Opens, generates, saves, tokenizes with that allocator; the first error, or OK. Frees everything. */
static bitnet_result whole_life(bitnet_allocator a, test_memory *count, int reader)
{
    bitnet_model_desc md;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_generation g = settings(0.8f, 7, 12);
    bitnet_model *m = NULL;
    bitnet_engine *e = NULL;
    bitnet_session *s = NULL, *s2 = NULL;
    bitnet_error err;
    bitnet_result r;
    int32_t out[64];
    int n;
    memset(&md, 0, sizeof md);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    md.allocator = a;
    md.n_threads = 1;
    if (reader) {
        md.reader.read = read_memory;
        md.reader.size = file_size;
    } else {
        md.data = file;
        md.size = file_size;
    }
    ed.n_threads = 1;
    ed.n_ctx = sd.n_ctx = N_CTX;
    r = bitnet_model_open(&md, &m, &err);
    if (r == BITNET_OK)
        r = bitnet_engine_create(m, &ed, &e, &err);
    if (r == BITNET_OK && count)
        CHECK(count->last_bytes == bitnet_engine_memory(m, &ed), "engine: %zu bytes, said %zu", count->last_bytes,
              bitnet_engine_memory(m, &ed));
    if (r == BITNET_OK)
        r = bitnet_session_create(e, &sd, &s, &err);
    if (r == BITNET_OK && count)
        CHECK(count->last_bytes == bitnet_session_memory(m, &sd), "session: %zu bytes, said %zu", count->last_bytes,
              bitnet_session_memory(m, &sd));
    if (r == BITNET_OK)
        r = bitnet_session_create(e, &sd, &s2, &err);
    if (r == BITNET_OK) {
        size_t before = count ? count->n_alloc : 0;
        static char state[1 << 20];
        CHECK(bitnet_begin(s, prompt, 9, &g) == BITNET_OK, "begin");
        run(s, e, 100, out, &n, NULL);
        CHECK(n == 12, "%d tokens", n);
        CHECK(bitnet_state_save(s, state, sizeof state, &err) == BITNET_OK, "%s", err.text);
        CHECK(bitnet_state_load(s2, state, bitnet_state_size(s), &err) == BITNET_OK, "%s", err.text);
        CHECK(bitnet_session_rewind(s, 3) == BITNET_OK && bitnet_session_copy(s2, s) == BITNET_OK, "copy");
        CHECK(!count || count->n_alloc == before, "%zu allocations while generating", count->n_alloc - before);
        r = bitnet_generate(s2, "a b c", &g, NULL, NULL, NULL, &err);
    }
    bitnet_session_destroy(s2);
    bitnet_session_destroy(s);
    bitnet_engine_destroy(e);
    bitnet_model_close(m);
    return r;
}

static void test_memory_failures(void)
{
    size_t k;
    int reader;
    for (reader = 0; reader < 2; reader++)
        for (k = 0;; k++) {
            test_memory m;
            bitnet_result r;
            memset(&m, 0, sizeof m);
            m.fail_at = k;
            r = whole_life(test_allocator(&m), k == 0 ? &m : NULL, reader);
            CHECK(m.live_blocks == 0 && m.n_errors == 0, "k = %zu: %zu blocks left, %zu errors", k, m.live_blocks, m.n_errors);
            if (k == 0 || k > m.n_alloc) {
                CHECK(r == BITNET_OK, "k = %zu: %s", k, bitnet_result_text(r));
                if (k > 0)
                    break;
            } else {
                CHECK(r == BITNET_ERROR_MEMORY, "k = %zu of %zu: %s", k, m.n_alloc, bitnet_result_text(r));
            }
        }
}

/* Everything from one static block: an allocator that only counts up, and forgets on free. */
static uint8_t block[16 << 20];
static size_t block_used;
static void *block_alloc(void *user, size_t size, size_t align)
{
    size_t at = (size_t)((((uintptr_t)block + block_used + align - 1) & ~(uintptr_t)(align - 1)) - (uintptr_t)block);
    (void)user;
    if (at > sizeof block || size > sizeof block - at)
        return NULL;
    block_used = at + size;
    return block + at;
}
static void block_free(void *user, void *p, size_t size) { (void)user; (void)p; (void)size; }

static void test_static_block(void)
{
    bitnet_allocator a;
    a.alloc = block_alloc;
    a.free = block_free;
    a.user = NULL;
    CHECK(whole_life(a, NULL, 0) == BITNET_OK, "%zu bytes used", block_used);
    CHECK(block_used > 100000, "%zu", block_used);
}

/* ----------------------------------------------------------------------------------------------- same results */

static int reversed_calls;
static void reversed(void *user, bitnet_job_fn *fn, void *job, int count)
{
    (void)user;
    reversed_calls++;
    while (count > 0)
        fn(job, --count);
}

static void test_slices(void)
{
    bitnet_generation g = settings(0.9f, 3, 40);
    int32_t want[64], got[64];
    int n = expected(&g, prompt, 9, want), n_got, i;
    static const uint32_t budgets[4] = {0, 20, 500, BITNET_NO_BUDGET};
    CHECK(n == 40, "%d tokens", n);
    for (i = 0; i < 12; i++) {
        rig r;
        bitnet_engine_desc d;
        memset(&d, 0, sizeof d);
        d.n_threads = 1 + i % 3;
        d.n_batch = i % 2 ? 4 : 0;
        if (i >= 6)
            d.scheduler.parallel_for = reversed;
        rig_open(&r, NULL, &d, 1);
        CHECK(bitnet_begin(r.session[0], prompt, 9, &g) == BITNET_OK, "begin");
        run(r.session[0], r.engine, budgets[i % 4], got, &n_got, NULL);
        CHECK(same(want, n, got, n_got), "%d threads, batch %d, budget %u", d.n_threads, d.n_batch, budgets[i % 4]);
        rig_close(&r);
    }
    CHECK(reversed_calls > 0, "the host's scheduler was never asked");
}

/* Eight sessions with prompts of different lengths, side by side, fetch events at different rates. */
static void test_company(void)
{
    int32_t want[8][64], got[8][64], tokens[64];
    int n_want[8], n_got[8], i, done = 0, turn;
    bitnet_generation g[8];
    bitnet_engine_desc d;
    rig r;
    uint64_t seed = 9;
    for (i = 0; i < 64; i++)
        tokens[i] = 1 + test_below(&seed, 500);
    for (i = 0; i < 8; i++) {
        g[i] = settings(i % 2 ? 0.7f : 0.0f, (uint64_t)i, 10 + 3 * i);
        n_want[i] = expected(&g[i], tokens + i, 3 + 7 * i, want[i]);
    }
    memset(&d, 0, sizeof d);
    d.n_threads = 2;
    d.n_batch = 16;
    rig_open(&r, NULL, &d, 8);
    memset(n_got, 0, sizeof n_got);
    for (i = 0; i < 8; i++)
        CHECK(bitnet_begin(r.session[i], tokens + i, 3 + 7 * i, &g[i]) == BITNET_OK, "begin %d", i);
    for (turn = 0; done < 8 && turn < 100000; turn++) {
        bitnet_event event;
        bitnet_step(r.engine, turn % 3 ? 50 : BITNET_NO_BUDGET);
        for (i = turn % 2; i < 8; i += 1 + turn % 2)
            if (bitnet_next_event(r.session[i], &event)) {
                if (event.type == BITNET_EVENT_TOKEN)
                    got[i][n_got[i]++] = event.token;
                done += event.type == BITNET_EVENT_DONE;
            }
    }
    for (i = 0; i < 8; i++)
        CHECK(same(want[i], n_want[i], got[i], n_got[i]), "session %d: %d and %d tokens", i, n_want[i], n_got[i]);
    CHECK(bitnet_step(r.engine, 100) == BITNET_IDLE, "idle");
    rig_close(&r);
}

/* -------------------------------------------------------------------------------------- cancel, rewind, save */

static void test_cancel(void)
{
    bitnet_generation g = settings(0.0f, 0, 20);
    int32_t want[64], got[64];
    int n = expected(&g, prompt, 9, want), n_got, k;
    rig r;
    rig_open(&r, NULL, NULL, 2);
    for (k = 0; k < 120; k++) {                /* at work item k */
        bitnet_event event;
        int i, ended = 0;
        bitnet_session_rewind(r.session[0], 0);
        CHECK(bitnet_begin(r.session[0], prompt, 9, &g) == BITNET_OK, "begin");
        for (i = 0; i < k; i++)
            bitnet_step(r.engine, 0);
        bitnet_cancel(r.session[0]);
        bitnet_step(r.engine, 0);
        while (bitnet_next_event(r.session[0], &event))
            ended += event.type == BITNET_EVENT_DONE && event.reason == BITNET_DONE_CANCELLED;
        CHECK(ended == 1, "item %d: %d DONE events", k, ended);
        i = bitnet_session_tokens(r.session[0], NULL);
        CHECK(i >= 9, "item %d: tokens are gone", k);
        bitnet_finish(r.engine);
        CHECK(bitnet_session_tokens(r.session[0], NULL) == i && !bitnet_next_event(r.session[0], &event),
              "item %d: a cancelled session went on", k);
        CHECK(bitnet_session_rewind(r.session[0], 0) == BITNET_OK, "rewind after cancel at %d", k);
    }
    bitnet_cancel(r.session[0]);               /* with nothing running: no effect on what begins later */
    CHECK(bitnet_begin(r.session[0], prompt, 9, &g) == BITNET_OK, "begin");
    run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
    CHECK(same(want, n, got, n_got), "after %d cancels", k);
    rig_close(&r);
}

/* One session is cancelled in the middle of a pass that another one shares. */
static void test_cancel_beside(void)
{
    bitnet_generation g = settings(0.0f, 0, 15);
    int32_t want[64], got[64];
    int n = expected(&g, prompt, 9, want), n_got, k;
    for (k = 1; k < 30; k += 3) {
        rig r;
        int i;
        rig_open(&r, NULL, NULL, 2);
        bitnet_begin(r.session[0], prompt, 5, &g);
        bitnet_begin(r.session[1], prompt, 9, &g);
        for (i = 0; i < k; i++)
            bitnet_step(r.engine, 0);
        bitnet_cancel(r.session[0]);
        run(r.session[1], r.engine, 30, got, &n_got, NULL);
        CHECK(same(want, n, got, n_got), "cancelled beside at item %d", k);
        CHECK(bitnet_session_tokens(r.session[0], NULL) <= 5 + k, "item %d: a cancelled session went on", k);
        {
            bitnet_event event;
            CHECK(bitnet_next_event(r.session[0], &event) && event.type == BITNET_EVENT_DONE &&
                  event.reason == BITNET_DONE_CANCELLED && !bitnet_next_event(r.session[0], &event), "item %d", k);
        }
        rig_close(&r);
    }
}

static void test_busy(void)
{
    bitnet_generation g = settings(0.0f, 0, 5);
    static char state[1 << 20];
    bitnet_error err;
    rig r;
    rig_open(&r, NULL, NULL, 2);
    bitnet_begin(r.session[0], prompt, 9, &g);
    bitnet_step(r.engine, 0);
    CHECK(bitnet_begin(r.session[0], prompt, 1, &g) == BITNET_ERROR_BUSY, "begin");
    CHECK(bitnet_session_rewind(r.session[0], 0) == BITNET_ERROR_BUSY, "rewind");
    CHECK(bitnet_session_copy(r.session[1], r.session[0]) == BITNET_ERROR_BUSY, "copy from");
    CHECK(bitnet_session_copy(r.session[0], r.session[1]) == BITNET_ERROR_BUSY, "copy to");
    CHECK(bitnet_state_save(r.session[0], state, sizeof state, &err) == BITNET_ERROR_BUSY, "save");
    CHECK(bitnet_state_load(r.session[0], state, sizeof state, &err) == BITNET_ERROR_BUSY, "load");
    CHECK(bitnet_session_destroy(r.session[0]) == BITNET_ERROR_BUSY, "destroy");
    bitnet_cancel(r.session[0]);
    bitnet_begin(r.session[1], prompt, 3, NULL);
    CHECK(bitnet_finish(r.engine) == BITNET_OK, "finish");
    CHECK(bitnet_session_rewind(r.session[0], 0) == BITNET_OK, "rewind after finish");
    rig_close(&r);
}

/* Saves at every pass border into another session, there and here the text goes on as if nothing had been. */
static void test_state(void)
{
    bitnet_generation g = settings(0.8f, 5, 0);
    int32_t want[64], got[64];
    bitnet_error err;
    rig r;
    int n, n_got, i, k;
    static char state[1 << 20], copy[1 << 20];
    size_t size;
    g.max_tokens = 20;
    n = expected(&g, prompt, 9, want);
    rig_open(&r, NULL, NULL, 3);
    for (k = 1; k < 20; k++) {
        g.max_tokens = k;
        bitnet_session_rewind(r.session[0], 0);
        bitnet_begin(r.session[0], prompt, 9, &g);
        run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
        size = bitnet_state_size(r.session[0]);
        REQUIRE(size <= sizeof state && bitnet_state_save(r.session[0], state, size, &err) == BITNET_OK, "%s", err.text);
        CHECK(bitnet_state_load(r.session[1], state, size, &err) == BITNET_OK, "%s", err.text);
        CHECK(bitnet_session_copy(r.session[2], r.session[0]) == BITNET_OK, "copy");
        g.max_tokens = 20 - k;
        for (i = 0; i < 3; i++) {
            int32_t more[64];
            int n_more;
            CHECK(bitnet_begin(r.session[i], NULL, 0, &g) == BITNET_OK, "continue");
            run(r.session[i], r.engine, BITNET_NO_BUDGET, more, &n_more, NULL);
            memcpy(got + k, more, (size_t)n_more * sizeof *more);
            CHECK(same(want, n, got, k + n_more), "after %d tokens, session %d", k, i);
        }
    }
    for (i = 0; i < 3000; i++) {               /* damage anywhere is noticed, and the session stays */
        uint64_t seed = (uint64_t)i;
        int before = bitnet_session_tokens(r.session[1], NULL);
        size_t at = (size_t)(test_random(&seed) % size);
        memcpy(copy, state, size);
        copy[at] = (char)(copy[at] ^ (1 << test_below(&seed, 8)));
        CHECK(bitnet_state_load(r.session[1], copy, size, &err) == BITNET_ERROR_STATE, "byte %zu", at);
        CHECK(bitnet_session_tokens(r.session[1], NULL) == before, "byte %zu: the session changed", at);
    }
    for (i = 0; i < (int)size; i += 1 + i / 50)
        CHECK(bitnet_state_load(r.session[1], state, (size_t)i, &err) == BITNET_ERROR_STATE, "cut at %d", i);
    CHECK(bitnet_state_load(r.session[1], state, size, &err) == BITNET_OK, "%s", err.text);
    rig_close(&r);
}

static void test_rewind(void)
{
    bitnet_generation g = settings(0.0f, 0, 8);
    int32_t want[64], got[64];
    int n = expected(&g, prompt, 9, want), n_got, keep;
    rig r;
    rig_open(&r, NULL, NULL, 1);
    for (keep = 0; keep <= 8; keep++) {
        bitnet_session_rewind(r.session[0], 0);
        bitnet_begin(r.session[0], prompt, 9, NULL);
        CHECK(run(r.session[0], r.engine, 100, got, &n_got, NULL) == BITNET_DONE_PROMPT && n_got == 0, "prompt only");
        CHECK(bitnet_logits(r.session[0]) != NULL, "logits of the last row");
        CHECK(bitnet_session_rewind(r.session[0], keep) == BITNET_OK, "rewind to %d", keep);
        CHECK(bitnet_logits(r.session[0]) == NULL, "logits of a forgotten row");
        bitnet_begin(r.session[0], prompt + keep, 9 - keep, &g);
        run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
        CHECK(same(want, n, got, n_got), "kept %d", keep);
        bitnet_session_rewind(r.session[0], 9);            /* all of it evaluated: goes on from there */
        CHECK(bitnet_begin(r.session[0], NULL, 0, &g) == BITNET_OK, "continue what is evaluated");
        run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
        CHECK(same(want, n, got, n_got), "continued at 9");
    }
    CHECK(bitnet_session_rewind(r.session[0], 1000) == BITNET_ERROR_ARGUMENT, "past the end");
    CHECK(bitnet_session_rewind(r.session[0], -1) == BITNET_ERROR_ARGUMENT, "before the start");
    rig_close(&r);
}

/* ------------------------------------------------------------------------------------------------- generation */

static void test_limits(void)
{
    bitnet_generation g = settings(0.0f, 0, 0);
    int32_t tokens[N_CTX + 1], got[N_CTX + 8], bad = 1 << 20;
    bitnet_error err;
    rig r;
    int i, n_got;
    for (i = 0; i <= N_CTX; i++)
        tokens[i] = 1 + i % 400;
    rig_open(&r, NULL, NULL, 1);
    CHECK(bitnet_begin(r.session[0], NULL, 0, &g) == BITNET_ERROR_ARGUMENT, "nothing to continue");
    CHECK(bitnet_begin(r.session[0], &bad, 1, &g) == BITNET_ERROR_ARGUMENT, "token outside");
    bad = -1;
    CHECK(bitnet_begin(r.session[0], &bad, 1, &g) == BITNET_ERROR_ARGUMENT, "negative token");
    CHECK(bitnet_begin(r.session[0], tokens, N_CTX + 1, &g) == BITNET_ERROR_FULL, "too long");
    CHECK(bitnet_session_tokens(r.session[0], NULL) == 0, "a refused prompt left tokens");
    CHECK(bitnet_eval(r.session[0], tokens, N_CTX + 1, NULL, NULL, &err) == BITNET_ERROR_FULL && err.text[0], "eval");
    CHECK(bitnet_begin(r.session[0], tokens, N_CTX - 5, &g) == BITNET_OK, "fits");
    CHECK(run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL) == BITNET_DONE_CONTEXT && n_got == 5,
          "%d tokens until the context is full", n_got);
    CHECK(bitnet_session_tokens(r.session[0], NULL) == N_CTX, "%d", bitnet_session_tokens(r.session[0], NULL));
    CHECK(bitnet_begin(r.session[0], tokens, 1, &g) == BITNET_ERROR_FULL, "full");
    CHECK(bitnet_session_rewind(r.session[0], 10) == BITNET_OK, "rewind a full session");
    g.sampling.temperature = -1.0f;
    CHECK(bitnet_begin(r.session[0], tokens, 1, &g) == BITNET_ERROR_ARGUMENT, "negative temperature");
    g.sampling.temperature = 0.0f;
    g.max_tokens = -1;
    CHECK(bitnet_begin(r.session[0], tokens, 1, &g) == BITNET_ERROR_ARGUMENT, "negative max_tokens");
    rig_close(&r);
}

static void test_stops(void)
{
    bitnet_generation g = settings(1.0f, 11, 60);
    static char all[8192], got_text[8192];
    char stop[64];
    const char *stops[1];
    int32_t got[64];
    int n_got, n, at;
    rig r;
    rig_open(&r, NULL, NULL, 1);
    bitnet_begin(r.session[0], prompt, 9, &g);
    run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, all);
    CHECK(strlen(all) > 60, "the model says too little: %s", all);
    for (n = 1; n < 12; n += 2)
        for (at = 3; at < 40; at += 5) {
            char *first;
            memcpy(stop, all + at, (size_t)n);
            stop[n] = 0;
            if (((unsigned char)stop[0] & 0xc0) == 0x80 || ((unsigned char)all[at + n] & 0xc0) == 0x80)
                continue;                      /* would cut a character */
            first = strstr(all, stop);
            stops[0] = stop;
            g.stops = stops;
            g.n_stops = 1;
            bitnet_session_rewind(r.session[0], 0);
            CHECK(bitnet_begin(r.session[0], prompt, 9, &g) == BITNET_OK, "begin");
            CHECK(run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, got_text) == BITNET_DONE_STOP, "'%s'", stop);
            CHECK(strlen(got_text) == (size_t)(first - all) && memcmp(all, got_text, (size_t)(first - all)) == 0,
                  "stop '%s': '%s' of '%s'", stop, got_text, all);
        }
    stops[0] = "";
    CHECK(bitnet_begin(r.session[0], prompt, 1, &g) == BITNET_ERROR_ARGUMENT, "an empty stop string");
    rig_close(&r);
}

/* Only multiples of 7, and every other time only those that leave 1. */
static void sevens(void *user, uint32_t *allowed, const int32_t *tokens, int n)
{
    int i;
    int rest = (*(int *)user)++ % 2;
    CHECK(tokens[0] == prompt[0] && n >= 9, "%d tokens", n);
    for (i = 0; i < 512; i++)
        if (i % 7 != rest)
            allowed[i / 32] &= ~(1u << (i % 32));
}

static void test_mask_and_logprobs(void)
{
    bitnet_generation g = settings(0.0f, 0, 6);
    bitnet_logit_bias bias;
    bitnet_event event;
    int32_t got[64];
    int n_got, i, calls = 0, n_tokens = 0;
    rig r;
    rig_open(&r, NULL, NULL, 1);
    g.mask = sevens;
    g.mask_user = &calls;
    bitnet_begin(r.session[0], prompt, 9, &g);
    run(r.session[0], r.engine, 10, got, &n_got, NULL);
    for (i = 0; i < n_got; i++)
        CHECK(got[i] % 7 == i % 2, "token %d", got[i]);
    CHECK(n_got == 6 && calls == 6, "%d tokens, %d calls", n_got, calls);
    g.mask = NULL;
    bias.token = 123;
    bias.bias = 1000.0f;
    g.bias = &bias;
    g.n_bias = 1;
    g.logprobs = 1 + 5;
    bitnet_session_rewind(r.session[0], 0);
    bitnet_begin(r.session[0], prompt, 9, &g);
    for (;;) {
        if (!bitnet_next_event(r.session[0], &event)) {
            bitnet_step(r.engine, BITNET_NO_BUDGET);
            continue;
        }
        if (event.type == BITNET_EVENT_DONE)
            break;
        if (event.type != BITNET_EVENT_TOKEN)
            continue;
        n_tokens++;
        CHECK(event.token == 123 && event.n_top == 5 && event.logprob < 0, "token %d, %d alternatives", event.token,
              event.n_top);
        for (i = 1; i < event.n_top; i++)
            CHECK(event.top[i].logprob <= event.top[i - 1].logprob, "alternatives out of order");
        CHECK(event.top[0].logprob >= event.logprob, "the best is not the best");
    }
    CHECK(n_tokens == 6, "%d tokens", n_tokens);
    rig_close(&r);
}

static float rows[9][512];
static int on_row(void *user, int i, const float *logits)
{
    CHECK(i == *(int *)user, "row %d", i);
    memcpy(rows[i], logits, sizeof rows[i]);
    return ++*(int *)user == 9 ? 0 : 0;
}

static void test_eval(void)
{
    bitnet_error err;
    rig r;
    int n = 0, i;
    float e1[256], e2[256];
    double length = 0;
    rig_open(&r, NULL, NULL, 2);
    CHECK(bitnet_eval(r.session[0], prompt, 9, on_row, &n, &err) == BITNET_OK && n == 9, "%d rows", n);
    CHECK(memcmp(bitnet_logits(r.session[0]), rows[8], sizeof rows[8]) == 0, "the last row");
    for (i = 0; i < 9; i++) {
        CHECK(bitnet_eval(r.session[1], prompt + i, 1, NULL, NULL, &err) == BITNET_OK, "%s", err.text);
        CHECK(memcmp(bitnet_logits(r.session[1]), rows[i], sizeof rows[i]) == 0, "row %d alone and in a batch", i);
    }
    CHECK(bitnet_embed(r.session[0], prompt, 9, e1, &err) == BITNET_OK, "%s", err.text);
    CHECK(bitnet_embed(r.session[1], prompt, 9, e2, &err) == BITNET_OK, "%s", err.text);
    for (i = 0; i < 256; i++)
        length += (double)e1[i] * (double)e1[i];
    CHECK(fabs(length - 1.0) < 1e-5 && memcmp(e1, e2, sizeof e1) == 0, "length %g", sqrt(length));
    CHECK(bitnet_session_tokens(r.session[0], NULL) == 0, "embed leaves the session empty");
    rig_close(&r);
}

/* What the units of attention cost by the engine's estimate, relative to what their rows ask for: however they are cut, 1. */
static double attend_estimate(const bitnet_engine *e)
{
    double wanted = 0, got = 0;
    uint32_t u;
    int t;
    for (t = 0; t < e->pass.n_tiles; t++)
        wanted += (double)bni_tile_units(e) * e->tiles[t].n * e->pass.heads_per_unit * (2 * e->model->hp.head_dim) * (e->rows[e->tiles[t].first].pos + 64);
    for (u = 0; u < bni_place_units(e, &e->pass.place); u++)
        got += (double)bni_place_work(e, &e->pass.place, u);
    return got / wanted;
}

/* Tokens that look far back, two sessions at once: the same logits on any number of threads, in slices too. */
static void test_far(void)
{
    enum { FAR = 1100, NEAR = 700 };
    static int32_t tokens[FAR];
    static const uint32_t budgets[4] = {500, 0, 20, BITNET_NO_BUDGET};
    static const int threads[7] = {1, 2, 4, 3, 5, 2, 4};
    static float want[2][512];
    char path[512];
    size_t size;
    uint8_t *data;
    int way, i, k;
    test_make_model(path, "far", "--shape tiny --heads 12 --kv-heads 3 --head-dim 144 --ctx 2048 --seed 8");
    data = test_read_file(path, &size);
    for (i = 0; i < FAR; i++) tokens[i] = (i * 7919) % 480;
    for (way = 0; way < 7; way += fast ? 3 : 1) {
        bitnet_model_desc md;
        bitnet_engine_desc ed;
        bitnet_session_desc sd;
        bitnet_session *s[2];
        bitnet_generation g = settings(0.0f, 0, 2);
        bitnet_error err;
        bitnet_event event;
        int n_got[2] = {0, 0}, n_cut = 0, n_estimates = 0;
        rig r;
        memset(&md, 0, sizeof md);
        memset(&ed, 0, sizeof ed);
        memset(&sd, 0, sizeof sd);
        md.data = data;
        md.size = size;
        md.n_threads = 1;
        ed.n_threads = threads[way];
        ed.n_ctx = sd.n_ctx = FAR + 4;
        if (way >= 5) ed.scheduler.parallel_for = reversed;
        rig_open(&r, &md, &ed, 0);
        for (k = 0; k < 2; k++) {
            REQUIRE(bitnet_session_create(r.engine, &sd, &s[k], &err) == BITNET_OK, "%s", err.text);
            CHECK(bitnet_eval(s[k], tokens, (k ? NEAR : FAR) - 1, NULL, NULL, &err) == BITNET_OK, "%s", err.text);
        }
        for (k = 0; k < 2; k++) {
            g.max_tokens = 3 - k;              /* the last token alone */
            CHECK(bitnet_begin(s[k], tokens + (k ? NEAR : FAR) - 1, 1, &g) == BITNET_OK, "begin");
        }
        do {
            n_cut += r.engine->pass.n_cut;
            if (r.engine->pass.n_cut > 0 && r.engine->pass.place.kind == BNI_OP_ATTEND) {
                n_estimates++;
                CHECK(fabs(attend_estimate(r.engine) - 1.0) < 0.1, "attention estimated at %g of what it is", attend_estimate(r.engine));
            }
            for (k = 0; k < 2; k++)
                while (bitnet_next_event(s[k], &event)) n_got[k] += event.type == BITNET_EVENT_TOKEN;
        } while (bitnet_step(r.engine, budgets[way % 4]) == BITNET_OK);
        for (k = 0; k < 2; k++) {
            if (way == 0) memcpy(want[k], bitnet_logits(s[k]), sizeof want[k]);
            CHECK(n_got[k] == 3 - k && memcmp(want[k], bitnet_logits(s[k]), sizeof want[k]) == 0, "session %d far back with %d threads, way %d", k, ed.n_threads, way);
            bitnet_session_destroy(s[k]);
        }
        CHECK(way != 6 || n_estimates > 0, "no slice began at attention");
        CHECK((n_cut > 0) == (way != 0 && way != 3), "attention cut in %d steps, way %d", n_cut, way);
        rig_close(&r);
    }
    free(data);
}

/* An embedding in slices, beside a session that generates: both are what they are alone. */
static void test_embedding_beside(void)
{
    bitnet_generation g = settings(0.0f, 0, 8), embed;
    bitnet_event event;
    bitnet_error err;
    rig r;
    float alone[256], beside[256];
    int32_t want[8], got[8];
    int n_want = 0, n_got = 0, done = 0, i;
    rig_open(&r, NULL, NULL, 2);
    CHECK(bitnet_embed(r.session[0], prompt, 9, alone, &err) == BITNET_OK, "%s", err.text);
    for (i = 0; i < 2; i++) {
        memset(&embed, 0, sizeof embed);
        embed.embedding = beside;
        memset(beside, 0, sizeof beside);
        CHECK(i == 0 || bitnet_begin(r.session[0], prompt, 9, &embed) == BITNET_OK, "begin");
        CHECK(bitnet_begin(r.session[1], prompt, 5, &g) == BITNET_OK, "begin");
        for (done = i == 0 ? 1 : 0; done < 2;) {
            bitnet_step(r.engine, 0);
            while (bitnet_next_event(r.session[0], &event))
                done += event.type == BITNET_EVENT_DONE && event.reason == BITNET_DONE_PROMPT;
            while (bitnet_next_event(r.session[1], &event)) {
                if (event.type == BITNET_EVENT_TOKEN && i == 0 && n_want < 8) want[n_want++] = event.token;
                if (event.type == BITNET_EVENT_TOKEN && i == 1 && n_got < 8) got[n_got++] = event.token;
                done += event.type == BITNET_EVENT_DONE;
            }
        }
        CHECK(bitnet_session_rewind(r.session[1], 0) == BITNET_OK, "rewind");
    }
    CHECK(memcmp(alone, beside, sizeof alone) == 0, "the embedding");
    CHECK(n_want == 8 && n_got == 8 && memcmp(want, got, sizeof want) == 0, "the text beside it");
    CHECK(bitnet_session_tokens(r.session[0], NULL) == 9 && bitnet_logits(r.session[0]) == NULL, "an embedding leaves no logits");
    CHECK(bitnet_begin(r.session[0], prompt, 1, &embed) == BITNET_ERROR_ARGUMENT, "an embedding of a session with tokens");
    rig_close(&r);
}

/* ------------------------------------------------------------------------------------- sessions in odd moments */

/* A session may go as soon as its DONE can be fetched, though the pass it shared still ends for others. */
static void test_early_destroy(void)
{
    bitnet_generation g = settings(0.0f, 0, 1);
    bitnet_event event;
    rig r;
    int i, gone = -1;
    rig_open(&r, NULL, NULL, 4);
    for (i = 0; i < 4; i++)
        bitnet_begin(r.session[i], prompt, 3 + i, &g);
    while (gone < 0) {
        bitnet_step(r.engine, 0);
        for (i = 0; i < 4 && gone < 0; i++)
            while (bitnet_next_event(r.session[i], &event))
                if (event.type == BITNET_EVENT_DONE)
                    gone = i;
    }
    CHECK(r.engine->pass.active, "the pass is over already: nothing is tested");
    CHECK(bitnet_session_destroy(r.session[gone]) == BITNET_OK, "destroy");
    for (i = 0; i < 4; i++)
        if (i != gone)
            bitnet_cancel(r.session[i]);
    bitnet_step(r.engine, 0);
    bitnet_finish(r.engine);
    for (i = gone; i < 3; i++)
        r.session[i] = r.session[i + 1];
    r.n = 3;
    rig_close(&r);
}

/* Logits that a dropped pass has half overwritten are no logits. */
static void test_logits_dropped(void)
{
    bitnet_generation g = settings(0.0f, 0, 5);
    bitnet_event event;
    rig r;
    int i;
    for (i = 0; i < 60; i++) {
        int steps = 0;
        const float *logits;
        static float copy[512];
        rig_open(&r, NULL, NULL, 1);
        bitnet_eval(r.session[0], prompt, 9, NULL, NULL, NULL);
        memcpy(copy, bitnet_logits(r.session[0]), sizeof copy);
        bitnet_begin(r.session[0], prompt, 1, &g);
        while (steps++ < i && bitnet_step(r.engine, 0) == BITNET_OK && !bitnet_next_event(r.session[0], &event))
            continue;
        bitnet_cancel(r.session[0]);
        bitnet_step(r.engine, 0);
        logits = bitnet_logits(r.session[0]);
        CHECK(!logits || r.session[0]->n_kv != 9 || memcmp(copy, logits, sizeof copy) == 0, "after %d items", i);
        bitnet_finish(r.engine);
        rig_close(&r);
    }
}

static int stop_row(void *user, int i, const float *logits)
{
    (void)logits;
    return i == *(int *)user;
}

static void test_rows(void)
{
    bitnet_generation g = settings(0.0f, 0, 3);
    bitnet_error err;
    rig r;
    int last = 8, n = 0, n_got;
    int32_t got[64];
    rig_open(&r, NULL, NULL, 1);
    CHECK(bitnet_eval(r.session[0], prompt, 9, stop_row, &last, &err) == BITNET_ERROR_CANCELLED, "stopped at the last row");
    CHECK(bitnet_logits(r.session[0]) == NULL, "logits of a dropped pass");
    bitnet_session_rewind(r.session[0], 0);
    bitnet_begin(r.session[0], prompt, 4, &g);             /* leaves a token pending: not a row of the next eval */
    run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
    CHECK(bitnet_eval(r.session[0], prompt, 9, on_row, &n, &err) == BITNET_OK && n == 9, "%d rows for 9 tokens", n);
    rig_close(&r);
}

/* What bitnet_cancel must not take: a token that was not fetched yet, the place in the session. */
static void test_cancel_keeps(void)
{
    bitnet_generation g = settings(0.0f, 0, 5);
    bitnet_event event;
    rig r;
    int kv;
    rig_open(&r, NULL, NULL, 1);
    bitnet_begin(r.session[0], prompt, 9, &g);
    while (!r.session[0]->has_token)
        bitnet_step(r.engine, BITNET_NO_BUDGET);
    bitnet_cancel(r.session[0]);
    bitnet_step(r.engine, BITNET_NO_BUDGET);
    while (bitnet_next_event(r.session[0], &event) && event.type == BITNET_EVENT_PROGRESS)
        continue;
    CHECK(event.type == BITNET_EVENT_TOKEN, "the token is lost");
    CHECK(bitnet_next_event(r.session[0], &event) && event.reason == BITNET_DONE_CANCELLED, "DONE");
    bitnet_session_rewind(r.session[0], 9);
    kv = r.session[0]->n_kv;
    bitnet_begin(r.session[0], NULL, 0, &g);               /* evaluates the last token once more */
    bitnet_step(r.engine, 0);
    bitnet_cancel(r.session[0]);
    bitnet_step(r.engine, 0);
    bitnet_finish(r.engine);
    CHECK(r.session[0]->n_kv == kv && bitnet_session_rewind(r.session[0], 9) == BITNET_OK, "the position moved to %d",
          r.session[0]->n_kv);
    rig_close(&r);
}

/* A begin that is refused changes nothing, least of all the stop strings of the generation that goes on. */
static void test_refused_begin(void)
{
    bitnet_generation g = settings(1.0f, 11, 60), bad;
    static char all[8192], got_text[8192];
    char stop[8];
    const char *stops[1], *empty[1] = {""};
    int32_t got[64];
    int n_got, at = 30;
    rig r;
    rig_open(&r, NULL, NULL, 1);
    bitnet_begin(r.session[0], prompt, 9, &g);
    run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, all);
    while ((unsigned char)all[at] >= 0x80 || (unsigned char)all[at + 1] >= 0x80 || (unsigned char)all[at + 2] >= 0x80)
        at++;
    memcpy(stop, all + at, 3);
    stop[3] = 0;
    stops[0] = stop;
    g.stops = stops;
    g.n_stops = 1;
    bad = g;
    bad.stops = empty;
    bitnet_session_rewind(r.session[0], 0);
    bitnet_begin(r.session[0], prompt, 9, &g);
    bitnet_step(r.engine, BITNET_NO_BUDGET);
    CHECK(bitnet_begin(r.session[0], prompt, 1, &bad) == BITNET_ERROR_ARGUMENT, "an empty stop string");
    CHECK(run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, got_text) == BITNET_DONE_STOP, "the stop is forgotten");
    rig_close(&r);
}

static int stop_text(void *user, const char *text, size_t size)
{
    (void)text;
    (void)size;
    return ++*(int *)user > 0;
}

static void test_text_stop(void)
{
    bitnet_generation g = settings(1.0f, 11, 60);
    bitnet_reason reason = BITNET_DONE_PROMPT;
    bitnet_error err;
    const char *stops[1] = {"a string that never comes, and whose beginning holds text back"};
    rig r;
    int calls = 0;
    g.stops = stops;
    g.n_stops = 1;
    rig_open(&r, NULL, NULL, 1);
    CHECK(bitnet_generate(r.session[0], "a", &g, stop_text, &calls, &reason, &err) == BITNET_OK &&
          reason == BITNET_DONE_CANCELLED && calls == 1, "%d calls after the text function said stop", calls - 1);
    rig_close(&r);
}

/* With room for one row only, a prompt and a generation take turns; with more, a waiting prompt always gets some. */
static void test_fair(void)
{
    bitnet_generation g = settings(0.0f, 0, 0);
    int n_batch;
    for (n_batch = 1; n_batch <= 4; n_batch++) {
        bitnet_engine_desc d;
        bitnet_event event;
        rig r;
        int i, s, done = 0;
        memset(&d, 0, sizeof d);
        d.n_threads = 1;
        d.n_batch = n_batch;
        rig_open(&r, NULL, &d, 5);
        for (s = 0; s < 4; s++)
            bitnet_begin(r.session[s], prompt, 1, &g);
        for (i = 0; i < 10; i++) {
            bitnet_step(r.engine, BITNET_NO_BUDGET);
            for (s = 0; s < 4; s++)
                while (bitnet_next_event(r.session[s], &event))
                    continue;
        }
        bitnet_begin(r.session[4], prompt, 9, NULL);
        for (i = 0; i < 60 && !done; i++) {
            bitnet_step(r.engine, BITNET_NO_BUDGET);
            for (s = 0; s < 5; s++)
                while (bitnet_next_event(r.session[s], &event))
                    done |= s == 4 && event.type == BITNET_EVENT_DONE;
        }
        CHECK(done, "a prompt of 9 tokens starves beside four generations, batch %d", n_batch);
        rig_close(&r);
    }
}

/* A NaN in the embedding of one token fails the sessions that use it, and no other. */
static void test_numeric(void)
{
    bitnet_generation g = settings(0.0f, 0, 10);
    int32_t want[64], got[64], poisoned[3] = {4, 77, 5};
    int n = expected(&g, prompt, 9, want), n_got;
    uint8_t *bad = (uint8_t *)malloc(file_size);
    bitnet_model_desc d;
    bitnet_event event;
    const bni_table *t;
    rig r;
    memcpy(bad, file, file_size);
    memset(&d, 0, sizeof d);
    d.data = bad;
    d.size = file_size;
    rig_open(&r, &d, NULL, 2);
    t = &r.model->embedding;
    bad[t->tensor->offset + 77 * t->row_bytes + 1] = 0x7e;      /* F16 NaN */
    bad[t->tensor->offset + 77 * t->row_bytes] = 0xff;
    bitnet_begin(r.session[0], poisoned, 3, &g);
    bitnet_begin(r.session[1], prompt, 9, &g);
    while (!bitnet_next_event(r.session[0], &event))
        bitnet_step(r.engine, 50);
    CHECK(event.type == BITNET_EVENT_DONE && event.reason == BITNET_DONE_ERROR && event.error &&
          event.error->code == BITNET_ERROR_NUMERIC && strstr(event.error->text, "position 1"), "%s",
          event.error ? event.error->text : "no error");
    CHECK(bitnet_session_tokens(r.session[0], NULL) == 0, "what failed is given up");
    run(r.session[1], r.engine, 50, got, &n_got, NULL);
    CHECK(same(want, n, got, n_got), "the session beside it");
    rig_close(&r);
    free(bad);
}

/* A scale so large that its matrix overflows: an error that names the layer, whichever matrix it is; no row of such a
   position is handed out. */
static void test_overflow(void)
{
    uint8_t *bad = (uint8_t *)malloc(file_size);
    rig r;
    uint64_t i;
    int n_matrices = 0;
    rig_open(&r, NULL, NULL, 0);
    for (i = 0; i < r.model->gguf.n_tensors; i++) {
        const bni_tensor *t = &r.model->gguf.tensors[i];
        uint32_t huge = bni_float_bits(3e38f);
        bitnet_model_desc d;
        bitnet_error err;
        rig q;
        int n = 0;
        if (t->type != BNI_TYPE_I2_S)
            continue;
        memcpy(bad, file, file_size);
        bni_store_u32(bad + t->offset + bni_tensor_count(t) / 4, huge);
        memset(&d, 0, sizeof d);
        d.data = bad;
        d.size = file_size;
        rig_open(&q, &d, NULL, 1);
        CHECK(bitnet_eval(q.session[0], prompt, 9, on_row, &n, &err) == BITNET_ERROR_NUMERIC && strstr(err.text, "layer"),
              "%.*s: %s", (int)t->name.size, t->name.data, err.text);
        CHECK(n < 9, "%.*s: %d rows", (int)t->name.size, t->name.data, n);
        CHECK(bitnet_session_tokens(q.session[0], NULL) == 0, "tokens of a failed pass");
        rig_close(&q);
        n_matrices++;
    }
    CHECK(n_matrices == 14, "%d matrices", n_matrices);
    rig_close(&r);
    free(bad);
}

/* The host's floating-point state changes nothing, and comes back. */
static void test_fp_state(void)
{
#if BNI_X86 && defined(__GNUC__)
    bitnet_generation g = settings(0.9f, 2, 10);
    int32_t want[64], got[64];
    int n = expected(&g, prompt, 9, want), n_got;
    uint32_t host = 0xffc0u, before, after;     /* round toward zero, FTZ, DAZ, all masked */
    __asm__ __volatile__("stmxcsr %0" : "=m"(before));
    __asm__ __volatile__("ldmxcsr %0" : : "m"(host));
    __asm__ __volatile__("stmxcsr %0" : "=m"(after));
    if ((after & 0xffc0u) != host) {
        SKIP("flush-to-zero can't be set here (valgrind)");
        return;
    }
    {
        rig r;
        rig_open(&r, NULL, NULL, 1);
        bitnet_begin(r.session[0], prompt, 9, &g);
        run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
        rig_close(&r);
    }
    __asm__ __volatile__("stmxcsr %0" : "=m"(after));
    __asm__ __volatile__("ldmxcsr %0" : : "m"(before));
    CHECK((after & 0xffc0u) == host, "%x became %x", host, after);
    CHECK(same(want, n, got, n_got), "flush-to-zero changed the text");
#else
    SKIP("floating-point state: x86 only");
#endif
}

static void test_kernel_sets(void)
{
    bitnet_generation g = settings(0.9f, 2, 30);
    int32_t want[64], got[64];
    int n = expected(&g, prompt, 9, want), n_got, i, usable;
    for (i = 0; bitnet_kernels_name(i, &usable); i++) {
        bitnet_model_desc d;
        rig r;
        if (!usable) {
            SKIP("kernels %s: not on this CPU", bitnet_kernels_name(i, NULL));
            continue;
        }
        memset(&d, 0, sizeof d);
        d.data = file;
        d.size = file_size;
        d.kernels = bitnet_kernels_name(i, NULL);
        d.allow_amx = 1;
        rig_open(&r, &d, NULL, 1);
        bitnet_begin(r.session[0], prompt, 9, &g);
        run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
        CHECK(same(want, n, got, n_got), "kernels %s", d.kernels);
        rig_close(&r);
    }
}

/* A batch whose rows go through a matrix in several blocks, the widest in more; want: a few rows at a time. */
static void test_blocks(void)
{
    enum { N = 300 };
    static const int threads[4] = {2, 1, 3, 5};
    static float want[512];
    int32_t tokens[N], got[8];
    char path[512];
    size_t size;
    uint8_t *data;
    int way, i, n_got, usable;
    test_make_model(path, "blocks", "--shape tiny --vocab 512 --ff 8192 --ctx 512 --layers 2 --seed 4");
    data = test_read_file(path, &size);
    for (i = 0; i < N; i++) tokens[i] = (i * 7919) % 480;
    for (way = -1; way < 4 || bitnet_kernels_name(way - 4, &usable); way++) {
        bitnet_generation g = settings(0.0f, 0, 1);
        bitnet_model_desc md;
        bitnet_engine_desc ed;
        bitnet_session_desc sd;
        bitnet_error err;
        rig r;
        if (way >= 4 && !usable) continue;     /* test_kernel_sets says so */
        if (fast && (way % 2 == 1 || (way >= 4 && strcmp(bitnet_kernels_name(way - 4, NULL), "scalar") == 0))) continue;
        memset(&md, 0, sizeof md);
        memset(&ed, 0, sizeof ed);
        md.data = data;
        md.size = size;
        md.allow_amx = 1;
        md.kernels = way >= 4 ? bitnet_kernels_name(way - 4, NULL) : NULL;
        ed.n_threads = way >= 0 ? threads[way % 4] : 1;
        ed.n_batch = way >= 0 ? N - way / 4 * 9 : 7;
        memset(&sd, 0, sizeof sd);
        ed.n_ctx = sd.n_ctx = N + 4;
        rig_open(&r, &md, &ed, 0);
        REQUIRE(bitnet_session_create(r.engine, &sd, &r.session[r.n++], &err) == BITNET_OK, "%s", err.text);
        CHECK(bitnet_begin(r.session[0], tokens, N, &g) == BITNET_OK, "begin");
        run(r.session[0], r.engine, way == 2 ? 20 : way == 3 ? 500 : BITNET_NO_BUDGET, got, &n_got, NULL);
        if (way < 0) memcpy(want, bitnet_logits(r.session[0]), sizeof want);
        CHECK(memcmp(want, bitnet_logits(r.session[0]), sizeof want) == 0, "kernels %s, batch %d, way %d",
              r.model->kernels->name, ed.n_batch, way);
        rig_close(&r);
    }
    free(data);
}

/* Widths that are no multiple of 16 end in the middle of a block, T5's of 20 columns and TL2's of 24 in another one than
   the padded width's: every layout gives the same logits. */
static void test_widths(void)
{
    static const char *const shapes[] = {"--heads 6 --kv-heads 2 --head-dim 130", "--heads 2 --kv-heads 2 --head-dim 36",
                                         "--heads 3 --kv-heads 1 --head-dim 40"};
    static const int32_t tokens[5] = {5, 77, 300, 8, 211};
    static float want[512];
    int shape, layout;
    for (shape = 0; shape < 3; shape++) {
        char path[512], options[256];
        size_t size;
        uint8_t *data;
        snprintf(options, sizeof options, "--shape tiny --vocab 512 --embd 256 --ff 640 %s --seed 5", shapes[shape]);
        test_make_model(path, "widths", options);
        data = test_read_file(path, &size);
        for (layout = 0; layout < BNI_N_PACKED; layout++) {
            bitnet_generation g = settings(0.0f, 0, 1);
            bitnet_model_desc md;
            bitnet_session_desc sd;
            bitnet_error err;
            int32_t got[8];
            int n_got;
            rig r;
            memset(&md, 0, sizeof md);
            md.data = data;
            md.size = size;
            md.n_threads = 1;
            md.layout = bni_layout_names[layout];
            rig_open(&r, &md, NULL, 0);
            memset(&sd, 0, sizeof sd);
            sd.n_ctx = 64;
            REQUIRE(bitnet_session_create(r.engine, &sd, &r.session[r.n++], &err) == BITNET_OK, "%s", err.text);
            CHECK(bitnet_begin(r.session[0], tokens, 5, &g) == BITNET_OK, "begin");
            run(r.session[0], r.engine, BITNET_NO_BUDGET, got, &n_got, NULL);
            if (layout == 0) memcpy(want, bitnet_logits(r.session[0]), sizeof want);
            CHECK(memcmp(want, bitnet_logits(r.session[0]), sizeof want) == 0, "%s, layout %s", shapes[shape], md.layout);
            rig_close(&r);
        }
        free(data);
    }
}

int main(void)
{
    fast = getenv("TEST_FAST") != NULL;
    test_make_model(path, "engine", "--vocab 512 --embd 256 --ctx 256 --untied --seed 3");
    file = test_read_file(path, &file_size);
    test_open();
    test_sources();
    test_memory_failures();
    test_static_block();
    test_slices();
    test_company();
    test_cancel();
    test_cancel_beside();
    test_busy();
    test_state();
    test_rewind();
    test_limits();
    test_stops();
    test_mask_and_logprobs();
    test_eval();
    test_far();
    test_embedding_beside();
    test_early_destroy();
    test_logits_dropped();
    test_rows();
    test_cancel_keeps();
    test_refused_begin();
    test_text_stop();
    test_fair();
    test_numeric();
    test_overflow();
    test_fp_state();
    test_kernel_sets();
    test_blocks();
    test_widths();
    free(file);
    return test_end("engine");
}
