/* test_sampler.c: the sampler against an implementation that sorts everything, against probabilities, and against
   a golden sequence. The naive version shares with the engine only the definition of a weight. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "test.h"

enum { MAX_VOCAB = 3000, MAX_HISTORY = 300, MAX_BIAS = 12, GUARD = 64 };

/* -------------------------------------------------------------------------------------- the naive version */

typedef struct { float logit; int token; } entry;

static int compare_entries(const void *pa, const void *pb)
{
    const entry *a = (const entry *)pa, *b = (const entry *)pb;
    if (a->logit != b->logit) return a->logit > b->logit ? -1 : 1;
    return (a->token > b->token) - (a->token < b->token);
}

/* floor(2^40 e^-x), from the definition; 0 where it is not representable otherwise. */
static uint64_t naive_weight(float max, float logit, float scale)
{
    volatile float x = (max - logit) * scale;
    return x < 28.0f ? (uint64_t)((double)bni_expf(-x) * 1099511627776.0) : 0;
}

/* The first entry of the sorted list whose prefix holds more than r. */
static int naive_find(const entry *list, int n, float scale, uint64_t r)
{
    uint64_t sum = 0;
    int i;
    for (i = 0; i < n; i++) {
        sum += naive_weight(list[0].logit, list[i].logit, scale);
        if (sum > r) return i;
    }
    return n - 1;
}

static uint64_t naive_total(const entry *list, int n, float scale)
{
    uint64_t sum = 0;
    int i;
    for (i = 0; i < n; i++) sum += naive_weight(list[0].logit, list[i].logit, scale);
    return sum;
}

/* The logit of a token after penalties and bias. */
static float naive_logit(const bni_sample_args *a, int token)
{
    const bitnet_sampling *s = a->sampling;
    volatile float v = a->logits[token], p;
    int count = 0, window = s->repeat_last_n == 0 ? 64 : s->repeat_last_n == -1 ? a->n_history : s->repeat_last_n, i;
    for (i = a->n_history - 1; i >= 0 && i >= a->n_history - window; i--) count += a->history[i] == token;
    if (count > 0) {
        if (s->repeat_penalty != 0.0f) v = v > 0.0f ? v / s->repeat_penalty : v * s->repeat_penalty;
        p = (float)count * s->frequency_penalty;
        p = p + s->presence_penalty;
        v = v - p;
    }
    for (i = 0; i < a->n_bias; i++)
        if (a->bias[i].token == token) v = v + a->bias[i].bias;
    return v;
}

/* What bni_sample should return, for finite logits. */
static int naive_sample(const bni_sample_args *a)
{
    static entry list[MAX_VOCAB];
    const bitnet_sampling *s = a->sampling;
    float scale;
    uint64_t total, r;
    int i, n = 0, keep;
    for (i = 0; i < a->n_vocab; i++) {
        if (a->mask && !(a->mask[i / 32] & (UINT32_C(1) << (i % 32)))) continue;
        list[n].logit = naive_logit(a, i);
        list[n].token = i;
        if (bni_float_bits(list[n].logit) != 0xff800000u) n++;
    }
    if (n == 0) return BNI_SAMPLE_NONE_ALLOWED;
    qsort(list, (size_t)n, sizeof *list, compare_entries);
    if (s->temperature == 0.0f) return list[0].token;
    if (s->top_k > 0 && s->top_k < n) n = s->top_k;
    if (s->top_p > 0.0f && s->top_p < 1.0f) {
        total = (uint64_t)((double)s->top_p * (double)naive_total(list, n, 1.0f));
        n = naive_find(list, n, 1.0f, total > 0 ? total - 1 : 0) + 1;
    }
    if (s->min_p > 0.0f) {
        for (keep = 1; keep < n && list[0].logit - list[keep].logit <= -bni_logf(s->min_p); keep++) { }
        n = keep;
    }
    scale = 1.0f / s->temperature;
    total = naive_total(list, n, scale);
    r = (uint64_t)(bni_random_unit(s->seed, a->position) * (double)total);
    return list[naive_find(list, n, scale, r < total ? r : total - 1)].token;
}

/* --------------------------------------------------------------------------------------------- random cases */

typedef struct {
    float logits[MAX_VOCAB];
    bitnet_sampling sampling;
    bitnet_logit_bias bias[MAX_BIAS];
    uint32_t mask[(MAX_VOCAB + 31) / 32];
    int32_t history[MAX_HISTORY];
    bni_sample_args args;
} sample_case;

/* Logits of several kinds: smooth, full of ties, all equal, one far ahead. */
static void random_logits(sample_case *c, uint64_t *random, int n)
{
    int kind = test_below(random, 6), i;
    float spread = (float)(1 + test_below(random, 12));
    for (i = 0; i < n; i++) {
        float x = test_normal(random) * spread;
        if (kind == 1) x = (float)(int)x;
        if (kind == 2) x = 1.5f;
        if (kind == 3) x = (float)(test_below(random, 3) - 1) * 0.5f;
        if (kind == 4) x = x * 1e10f;
        c->logits[i] = x;
    }
    if (test_below(random, 5) == 0) c->logits[test_below(random, n)] = 30.0f;
}

static void random_settings(bitnet_sampling *s, uint64_t *random, int n)
{
    static const float temperature[] = { 0.0f, 0.01f, 0.3f, 0.8f, 1.0f, 1.7f, 30.0f };
    static const float top_p[] = { 0.0f, 0.0f, 1e-9f, 0.1f, 0.5f, 0.95f, 0.999999f, 1.0f };
    static const float min_p[] = { 0.0f, 0.0f, 1e-6f, 0.05f, 0.5f, 1.0f };
    static const float repeat[] = { 0.0f, 1.0f, 1.1f, 2.0f, 0.7f };
    static const float other[] = { 0.0f, 0.0f, 0.5f, -0.75f };
    static const int last_n[] = { 0, -1, 1, 5, 100, 100000 };
    s->temperature = temperature[test_below(random, 7)];
    s->top_k = test_below(random, 2) ? 0 : 1 + test_below(random, test_below(random, 2) ? 50 : n + 10);
    s->top_p = top_p[test_below(random, 8)];
    s->min_p = min_p[test_below(random, 6)];
    s->repeat_penalty = repeat[test_below(random, 5)];
    s->frequency_penalty = other[test_below(random, 4)];
    s->presence_penalty = other[test_below(random, 4)];
    s->repeat_last_n = last_n[test_below(random, 6)];
    s->seed = test_random(random);
}

static void random_case(sample_case *c, uint64_t *random, void *scratch)
{
    int n = 1 + test_below(random, test_below(random, 8) ? 200 : MAX_VOCAB), i;
    float lowest = bni_bits_float(0xff800000u);
    const char *why;
    memset(c, 0, sizeof *c);
    random_logits(c, random, n);
    random_settings(&c->sampling, random, n);
    c->args.kernels = bni_kernels_select(n % 2 ? "scalar" : "auto", 0, &why);
    c->args.logits = c->logits;
    c->args.n_vocab = n;
    c->args.sampling = &c->sampling;
    c->args.position = test_random(random) % 1000;
    c->args.scratch = scratch;
    c->args.history = c->history;
    c->args.n_history = test_below(random, MAX_HISTORY);
    for (i = 0; i < c->args.n_history; i++) c->history[i] = test_below(random, n + 3) - 1;  /* some outside */
    c->args.bias = c->bias;
    c->args.n_bias = test_below(random, 2) ? test_below(random, MAX_BIAS) : 0;
    for (i = 0; i < c->args.n_bias; i++) {
        c->bias[i].token = test_below(random, n + 3) - 1;
        c->bias[i].bias = test_below(random, 4) ? test_normal(random) * 5.0f : lowest;
    }
    for (i = 0; i < (n + 31) / 32; i++) c->mask[i] = (uint32_t)test_random(random) | (uint32_t)test_random(random);
    if (test_below(random, 3) == 0) c->args.mask = c->mask;
}

static void test_against_naive(uint8_t *scratch)
{
    static sample_case c;
    static float before[MAX_VOCAB];
    uint64_t random = 1, need;
    int round, i, got, want, drawn = 0;
    for (round = 0; round < 4000; round++) {
        random_case(&c, &random, scratch);
        need = bni_sample_scratch(c.args.n_vocab);
        memcpy(before, c.logits, sizeof before);
        memset(scratch, 0xC3, (size_t)need + GUARD);
        want = naive_sample(&c.args);
        got = bni_sample(&c.args);
        CHECK(got == want, "round %d (n %d, t %g, k %d, p %g, min %g): token %d, naive %d", round, c.args.n_vocab,
              (double)c.sampling.temperature, c.sampling.top_k, (double)c.sampling.top_p, (double)c.sampling.min_p,
              got, want);
        CHECK(memcmp(before, c.logits, sizeof before) == 0, "round %d: logits were written", round);
        for (i = 0; i < GUARD && scratch[need + (uint64_t)i] == 0xC3; i++) { }
        CHECK(i == GUARD, "round %d: wrote past the scratch memory", round);
        drawn += c.sampling.temperature > 0.0f && want >= 0;
    }
    CHECK(drawn > 2000, "only %d rounds drew a token", drawn);
}

/* ------------------------------------------------------------------------------------------------ single cases */

static bni_sample_args plain(const float *logits, int n, const bitnet_sampling *s, void *scratch)
{
    bni_sample_args a;
    memset(&a, 0, sizeof a);
    a.kernels = &bni_kernels_scalar;
    a.logits = logits;
    a.n_vocab = n;
    a.sampling = s;
    a.scratch = scratch;
    return a;
}

static void test_edges(void *scratch)
{
    static const uint32_t special[3] = { 0x7fc00000u, 0x7f800000u, 0xff800000u };
    float logits[40];
    uint32_t mask[2];
    bitnet_sampling s;
    bitnet_logit_bias bias;
    bni_sample_args a;
    int i, got;
    memset(&s, 0, sizeof s);
    for (i = 0; i < 40; i++) logits[i] = (float)(i % 7);
    a = plain(logits, 40, &s, scratch);
    got = bni_sample(&a);
    CHECK(got == 6, "greedy tie: %d, should be the lowest id, 6", got);
    for (i = 0; i < 40; i++) logits[i] = bni_bits_float(i < 20 ? 0x80000000u : 0);
    got = bni_sample(&a);
    CHECK(got == 0, "-0 and 0 tie: %d, should be 0", got);
    for (i = 0; i < 40; i++) logits[i] = (float)(i % 7);
    for (i = 0; i < 3; i++) {
        s.temperature = (float)(i % 2);
        logits[39] = bni_bits_float(special[i]);
        got = bni_sample(&a);
        CHECK(got == BNI_SAMPLE_NOT_FINITE, "logit %08x: result %d", special[i], got);
        logits[39] = 0.0f;
    }
    mask[0] = mask[1] = 0;
    a.mask = mask;
    got = bni_sample(&a);
    CHECK(got == BNI_SAMPLE_NONE_ALLOWED, "all masked: result %d", got);
    mask[1] = 1u << 5;
    s.temperature = 1.0f;
    got = bni_sample(&a);
    CHECK(got == 37, "one allowed: result %d", got);
    mask[1] = 1u << 8;               /* token 40: outside */
    got = bni_sample(&a);
    CHECK(got == BNI_SAMPLE_NONE_ALLOWED, "only a token past the vocabulary allowed: result %d", got);
    a.mask = NULL;
    a.bias = &bias;
    a.n_bias = 1;
    bias.token = 4;
    bias.bias = bni_bits_float(0x7f800000u);
    got = bni_sample(&a);
    CHECK(got == BNI_SAMPLE_NOT_FINITE, "infinite bias: result %d", got);
    bias.bias = 100.0f;
    got = bni_sample(&a);
    CHECK(got == 4, "bias 100: result %d", got);
    a.n_vocab = 0;
    got = bni_sample(&a);
    CHECK(got == BNI_SAMPLE_NONE_ALLOWED, "no vocabulary: result %d", got);
}

/* Extreme but legal: nothing may overflow into a wrong token. */
static void test_extremes(void *scratch)
{
    float logits[4] = { 3.0e38f, -3.0e38f, 3.0e38f, 1.0f };
    bitnet_sampling s;
    bni_sample_args a;
    int i, got, seen[4] = { 0, 0, 0, 0 };
    memset(&s, 0, sizeof s);
    a = plain(logits, 4, &s, scratch);
    s.top_p = 0.9f;
    s.min_p = 0.01f;
    for (i = 0; i < 400; i++) {
        s.temperature = i % 3 == 0 ? 1e-45f : i % 3 == 1 ? 1.0f : 3e38f;
        a.position = (uint64_t)i;
        got = bni_sample(&a);
        if (got >= 0 && got < 4) seen[got]++;
    }
    CHECK(seen[0] > 100 && seen[2] > 100 && seen[0] + seen[2] == 400, "seen %d %d %d %d times", seen[0], seen[1],
          seen[2], seen[3]);
}

/* A temperature whose reciprocal overflows is greedy among the best, never a token behind them. */
static void test_coldest(void *scratch)
{
    float logits[50];
    bitnet_sampling s;
    bni_sample_args a;
    int i, got, wrong = 0;
    memset(&s, 0, sizeof s);
    for (i = 0; i < 50; i++) logits[i] = i % 10 == 7 ? 2.0f : 1.99f;
    a = plain(logits, 50, &s, scratch);
    for (i = 0; i < 300; i++) {
        s.temperature = bni_bits_float(1u << (i % 24));
        a.position = (uint64_t)i;
        got = bni_sample(&a);
        wrong += got < 0 || got % 10 != 7;
    }
    CHECK(wrong == 0, "%d of 300 draws at temperatures near 0 missed the best", wrong);
}

/* The question behind top-p and the draw, at every border between two candidates and just before it. */
static void test_mass_find(void *scratch)
{
    static entry list[200];
    bni_sampler *s = (bni_sampler *)scratch;
    uint64_t random = 12, total, sum;
    int round, n, i;
    s->c = (bni_candidate *)(void *)(s + 1);
    for (round = 0; round < 60; round++) {
        n = 1 + test_below(&random, 200);
        for (i = 0; i < n; i++) {
            list[i].logit = round % 3 ? test_normal(&random) * 4.0f : (float)test_below(&random, 5);
            list[i].token = i;
        }
        qsort(list, (size_t)n, sizeof *list, compare_entries);
        s->n = n;
        s->max = list[0].logit;
        s->scale = 1.0f;
        for (i = 0; i < n; i++) {
            s->c[n - 1 - i].logit = list[i].logit;
            s->c[n - 1 - i].token = list[i].token;
        }
        total = bni_mass_total(s);
        CHECK(total == naive_total(list, n, 1.0f), "round %d: wrong total", round);
        for (sum = 0, i = 0; i < n; i++) {
            uint64_t w = naive_weight(list[0].logit, list[i].logit, 1.0f);
            bni_candidate first, last;
            if (w == 0) continue;
            first = bni_mass_find(s, sum);
            last = bni_mass_find(s, sum + w - 1);
            CHECK(first.token == list[i].token && last.token == list[i].token,
                  "round %d, rank %d: found tokens %d and %d instead of %d", round, i, first.token, last.token,
                  list[i].token);
            sum += w;
        }
    }
}

/* Many draws of one row hit each token as often as its probability says: chi-square over the tokens. */
static void test_frequencies(void *scratch)
{
    enum { N = 24, DRAWS = 100000 };
    float logits[N];
    int seen[N], i, token;
    double p[N], total, chi, d;
    uint64_t random = 7;
    int pass;
    for (pass = 0; pass < 3; pass++) {
        bitnet_sampling s;
        bni_sample_args a;
        memset(&s, 0, sizeof s);
        s.temperature = pass == 0 ? 1.0f : pass == 1 ? 0.7f : 2.0f;
        s.seed = (uint64_t)pass;
        memset(seen, 0, sizeof seen);
        for (total = 0.0, i = 0; i < N; i++) {
            logits[i] = test_normal(&random);
            p[i] = bni_exp((double)logits[i] / (double)s.temperature);
            total += p[i];
        }
        a = plain(logits, N, &s, scratch);
        for (i = 0; i < DRAWS; i++) {
            a.position = (uint64_t)i;
            token = bni_sample(&a);
            REQUIRE(token >= 0 && token < N, "token %d", token);
            seen[token]++;
        }
        for (chi = 0.0, i = 0; i < N; i++) {
            d = p[i] / total * (double)DRAWS;
            chi += ((double)seen[i] - d) * ((double)seen[i] - d) / d;
        }
        /* 23 degrees of freedom: mean 23, deviation 6.8; 60 is passed by chance once in 30,000 */
        CHECK(chi < 60.0, "pass %d: chi-square %.1f with 23 degrees of freedom", pass, chi);
        CHECK(chi > 5.0, "pass %d: chi-square %.1f is too good for random numbers", pass, chi);
    }
}

/* The same text on every machine: a hash (FNV-1a) of tokens. Changing it means changing the engine's version. */
static void test_golden(void *scratch)
{
    static float logits[2000];
    static int32_t history[512];
    bitnet_sampling s;
    bni_sample_args a;
    uint64_t random = 99, hash = UINT64_C(0xcbf29ce484222325);
    int i;
    memset(&s, 0, sizeof s);
    s.temperature = 0.8f;
    s.top_p = 0.95f;
    s.min_p = 0.01f;
    s.repeat_penalty = 1.1f;
    s.seed = 42;
    for (i = 0; i < 2000; i++) logits[i] = test_normal(&random) * 2.5f;
    a = plain(logits, 2000, &s, scratch);
    for (i = 0; i < 512; i++) {
        s.top_k = i % 2 ? 40 : 0;
        a.history = history;
        a.n_history = i;
        a.position = (uint64_t)i;
        history[i] = bni_sample(&a);
        hash = (hash ^ (uint64_t)(uint32_t)history[i]) * UINT64_C(0x100000001b3);
    }
    CHECK(hash == UINT64_C(0x3257f2aef5707ad1), "hash of 512 tokens is %08x%08x", (unsigned)(hash >> 32),
          (unsigned)hash);
}

static void test_settings(void)
{
    bitnet_sampling s;
    memset(&s, 0, sizeof s);
    CHECK(bni_sampling_check(&s) == NULL, "all zero is refused: %s", bni_sampling_check(&s));
    s.repeat_last_n = -1;
    s.top_p = s.min_p = 1.0f;
    CHECK(bni_sampling_check(&s) == NULL, "limits are refused: %s", bni_sampling_check(&s));
#define REFUSED(field, value) do { memset(&s, 0, sizeof s); s.field = value; \
        CHECK(bni_sampling_check(&s) != NULL, #field " = " #value " is accepted"); } while (0)
    REFUSED(temperature, -1.0f);
    REFUSED(temperature, bni_bits_float(0x7fc00000u));
    REFUSED(frequency_penalty, bni_bits_float(0x7f800000u));
    REFUSED(presence_penalty, bni_bits_float(0xffc00000u));
    REFUSED(top_k, -1);
    REFUSED(top_p, 1.5f);
    REFUSED(min_p, -0.5f);
    REFUSED(repeat_penalty, -1.0f);
    REFUSED(repeat_last_n, -2);
#undef REFUSED
}

/* ---------------------------------------------------------------------------------------------- log-softmax */

static double absolute(double x) { return x < 0 ? -x : x; }

static void test_logprobs(void)
{
    static float logits[MAX_VOCAB];
    static entry list[MAX_VOCAB];
    bitnet_logprob top[BITNET_MAX_LOGPROBS];
    uint64_t random = 5;
    int round, i, n, n_top, got, token;
    for (round = 0; round < 200; round++) {
        double total = 0.0, want;
        float logprob = 1.0f, spread = (float)test_below(&random, 9);
        n = 1 + test_below(&random, round % 10 ? 60 : MAX_VOCAB);
        n_top = test_below(&random, BITNET_MAX_LOGPROBS + 1);
        token = test_below(&random, n);
        for (i = 0; i < n; i++) {
            list[i].logit = logits[i] = round % 3 ? test_normal(&random) * spread : (float)test_below(&random, 4);
            list[i].token = i;
        }
        qsort(list, (size_t)n, sizeof *list, compare_entries);
        for (i = n - 1; i >= 0; i--) total += bni_exp((double)list[i].logit - (double)list[0].logit);
        got = bni_logprobs(logits, n, token, &logprob, top, n_top);
        CHECK(got == (n_top < n ? n_top : n), "%d entries of %d asked for, n %d", got, n_top, n);
        want = ((double)logits[token] - (double)list[0].logit) - bni_log(total);
        CHECK(absolute(want - (double)logprob) < 4e-6, "logprob %.8f, should be %.8f", (double)logprob, want);
        CHECK(logprob <= 0.0f, "logprob %g is above 0", (double)logprob);
        for (i = 0; i < got; i++) {
            want = ((double)list[i].logit - (double)list[0].logit) - bni_log(total);
            CHECK(top[i].token == list[i].token && absolute(want - (double)top[i].logprob) < 4e-6,
                  "rank %d: token %d logprob %.8f, should be token %d %.8f", i, top[i].token,
                  (double)top[i].logprob, list[i].token, want);
        }
    }
    logits[0] = bni_bits_float(0x7fc00000u);
    got = bni_logprobs(logits, 10, 1, NULL, top, 5);
    CHECK(got == BNI_SAMPLE_NOT_FINITE, "NaN: result %d", got);
}

int main(void)
{
    static uint64_t scratch[(sizeof(bni_sampler) + MAX_VOCAB * sizeof(bni_candidate) + GUARD) / 8 + 8];
    test_settings();
    test_edges(scratch);
    test_extremes(scratch);
    test_coldest(scratch);
    test_mass_find(scratch);
    test_against_naive((uint8_t *)scratch);
    test_frequencies(scratch);
    test_golden(scratch);
    test_logprobs();
    return test_end("sampler");
}
