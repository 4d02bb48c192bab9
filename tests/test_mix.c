/* A random mix of everything a host may do with four sessions of one engine: begin, cancel, rewind, copy, save, load,
   eval, embed, destroy, finish, steps of any budget, events fetched or not. Whenever a session has logits, and for
   every row of an eval, they must equal bit for bit what a fresh session computes from the same tokens. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "model.h"

enum { N_SESSIONS = 4, N_CTX = 64, ROUNDS = 400 };

static const int contexts[N_SESSIONS] = {64, 50, 33, 64};
static bitnet_model *model;
static bitnet_engine *engine, *other;
static bitnet_session *session[N_SESSIONS], *fresh;
static uint64_t seed;
static size_t row_bytes;

static bitnet_session *make(bitnet_engine *e, int n_ctx)
{
    bitnet_session_desc d;
    bitnet_session *s = NULL;
    d.n_ctx = n_ctx;
    REQUIRE(bitnet_session_create(e, &d, &s, NULL) == BITNET_OK, "a session of %d", n_ctx);
    return s;
}

/* The logits after tokens [n], by a session that does nothing else. */
static const float *truth(const int32_t *tokens, int n)
{
    bitnet_session_rewind(fresh, 0);
    REQUIRE(bitnet_eval(fresh, tokens, n, NULL, NULL, NULL) == BITNET_OK, "%d tokens", n);
    return bitnet_logits(fresh);
}

static void check(bitnet_session *s, const char *when)
{
    const float *logits = bitnet_logits(s);
    if (logits && s->n_kv > 0 && s->n_rows == 0)
        CHECK(memcmp(truth(s->tokens, s->n_kv), logits, row_bytes) == 0, "logits at %d after %s", s->n_kv, when);
}

typedef struct row_check { int32_t tokens[N_CTX]; int base, n; } row_check;

static int on_row(void *user, int i, const float *logits)
{
    row_check *r = (row_check *)user;
    CHECK(i == r->n, "row %d, expected %d", i, r->n);
    r->n++;
    CHECK(memcmp(truth(r->tokens, r->base + i + 1), logits, row_bytes) == 0, "row %d after %d tokens", i, r->base);
    return test_below(&seed, 40) == 0;
}

static void do_begin(bitnet_session *s, const int32_t *tokens, int n)
{
    bitnet_generation g;
    memset(&g, 0, sizeof g);
    g.max_tokens = test_below(&seed, 20);
    g.sampling.temperature = (float)test_below(&seed, 2);
    g.logprobs = test_below(&seed, 4);
    g.ignore_end = 1;
    bitnet_begin(s, tokens, n, test_below(&seed, 4) ? &g : NULL);
}

static void do_eval(bitnet_session *s, const int32_t *tokens, int n)
{
    row_check r;
    const int32_t *before;
    bitnet_result result;
    r.base = bitnet_session_tokens(s, &before);
    r.n = 0;
    if (n == 0 || s->n_rows > 0 || r.base + n > bitnet_session_context(s))
        return;
    memcpy(r.tokens, before, (size_t)r.base * sizeof *tokens);
    memcpy(r.tokens + r.base, tokens, (size_t)n * sizeof *tokens);
    result = bitnet_eval(s, tokens, n, on_row, &r, NULL);
    CHECK(result == BITNET_OK ? r.n == n : result == BITNET_ERROR_CANCELLED, "%d rows for %d tokens: %s", r.n, n,
          bitnet_result_text(result));
    check(s, "eval");
}

static void do_embed(bitnet_session *s, const int32_t *tokens, int n)
{
    static float a[4096], b[4096];
    if (n == 0 || s->n_rows > 0)
        return;
    CHECK(bitnet_embed(s, tokens, n, a, NULL) == BITNET_OK && bitnet_embed(fresh, tokens, n, b, NULL) == BITNET_OK &&
          memcmp(a, b, (size_t)model->hp.n_embd * sizeof *a) == 0, "embedding of %d tokens", n);
}

static void do_state(bitnet_session *from, bitnet_session *to)
{
    static uint8_t buffer[1 << 20];
    size_t size = bitnet_state_size(from);
    REQUIRE(size <= sizeof buffer, "%zu bytes", size);
    if (bitnet_state_save(from, buffer, size, NULL) == BITNET_OK && bitnet_state_load(to, buffer, size, NULL) == BITNET_OK)
        check(to, "load");
}

static void do_steps(void)
{
    static const uint32_t budgets[3] = {0, 50, BITNET_NO_BUDGET};
    bitnet_event event;
    int i;
    for (i = test_below(&seed, 30); i >= 0; i--) {
        bitnet_session *s = session[test_below(&seed, N_SESSIONS)];
        bitnet_step(engine, budgets[test_below(&seed, 3)]);
        while (test_below(&seed, 4) && bitnet_next_event(s, &event)) {
            CHECK(event.text[event.text_size] == 0, "text without its NUL");
            CHECK(event.type != BITNET_EVENT_DONE || event.reason != BITNET_DONE_ERROR, "%s", event.error->text);
            check(s, "event");
        }
    }
}

static void round_of(int i, int operation)
{
    bitnet_session *s = session[i], *t = session[test_below(&seed, N_SESSIONS)];
    int32_t tokens[12];
    int n = test_below(&seed, 12), k;
    for (k = 0; k < n; k++)
        tokens[k] = test_below(&seed, model->hp.n_vocab);
    switch (operation) {
    case 0: case 1: do_begin(s, tokens, n); break;
    case 2: bitnet_cancel(s); break;
    case 3: bitnet_session_rewind(s, test_below(&seed, s->n_kv + 1)); check(s, "rewind"); break;
    case 4: bitnet_session_copy(s, t); check(s, "copy"); break;
    case 5: do_state(s, t); break;
    case 6: do_eval(s, tokens, n); break;
    case 7: do_embed(s, tokens, n); break;
    case 8:
        if (bitnet_session_destroy(s) == BITNET_OK)
            session[i] = make(engine, contexts[i]);
        break;
    case 9:
        bitnet_finish(engine);
        for (k = 0; k < N_SESSIONS; k++)
            check(session[k], "finish");
        break;
    default: do_steps();
    }
}

int main(void)
{
    static const int batches[5] = {1, 2, 3, 9, 128};
    static char path[512];
    bitnet_model_desc md;
    bitnet_engine_desc ed;
    bitnet_error err;
    uint8_t *file;
    size_t size;
    const int fast = getenv("TEST_FAST") != NULL;       /* every batch but 3, both numbers of threads */
    int run, i;
    test_make_model(path, "mix", "--vocab 512 --seed 5");
    memset(&md, 0, sizeof md);
    md.data = file = test_read_file(path, &size);           /* builds without file functions run this test too */
    md.size = size;
    md.n_threads = 1;
    REQUIRE(bitnet_model_open(&md, &model, &err) == BITNET_OK, "%s", err.text);
    row_bytes = (size_t)model->hp.n_vocab * sizeof(float);
    for (run = 0; run < 10; run += fast ? 3 : 1) {
        seed = (uint64_t)run;
        memset(&ed, 0, sizeof ed);
        ed.n_threads = 1;
        ed.n_ctx = N_CTX;
        REQUIRE(bitnet_engine_create(model, &ed, &other, &err) == BITNET_OK, "%s", err.text);
        fresh = make(other, N_CTX);
        ed.n_threads = 1 + run % 2;
        ed.n_batch = batches[run % 5];
        REQUIRE(bitnet_engine_create(model, &ed, &engine, &err) == BITNET_OK, "%s", err.text);
        for (i = 0; i < N_SESSIONS; i++)
            session[i] = make(engine, contexts[i]);
        for (i = 0; i < ROUNDS; i++)
            round_of(test_below(&seed, N_SESSIONS), test_below(&seed, 16));
        bitnet_finish(engine);
        for (i = 0; i < N_SESSIONS; i++)
            CHECK(bitnet_session_destroy(session[i]) == BITNET_OK, "session %d is still busy", i);
        bitnet_session_destroy(fresh);
        bitnet_engine_destroy(engine);
        bitnet_engine_destroy(other);
    }
    bitnet_model_close(model);
    free(file);
    return test_end("mix");
}
