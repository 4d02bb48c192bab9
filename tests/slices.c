/* slices MODEL [BUDGET_US]: how well bitnet_step keeps its budget, beside a control loop of equal slices that only
   watches the clock (what the machine itself takes away), interleaved with it. One thread; prompt and generation; own
   pool and a host's scheduler. Prints percentiles, what slicing costs, and whether the tokens stay the same.
   Exit 1: the 99th percentile is over twice the budget although the control's is under 1.25 budgets, or tokens differ. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include <stdio.h>

enum { N_PROMPT = 48, N_GENERATE = 10, MAX_SLICES = 200000 };

static double step_us[MAX_SLICES], control_us[MAX_SLICES];

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(double *v, int n, double p)
{
    qsort(v, (size_t)n, sizeof *v, by_size);
    return v[(int)((n - 1) * p)];
}

static void host_parallel_for(void *user, bitnet_job_fn *fn, void *job, int count)
{
    int i;
    (void)user;
    for (i = 0; i < count; i++)
        fn(job, i);
}

/* Runs prompt and generation; result: nanoseconds of computing. budget BITNET_NO_BUDGET: unsliced, no control. */
static uint64_t run(bitnet_session *s, bitnet_engine *e, uint32_t budget, int generate, int32_t *tokens, int *n_tokens,
                    int *n_slices)
{
    static int32_t prompt[N_PROMPT];
    bitnet_generation g = {0};
    bitnet_event event;
    uint64_t total = 0, start;
    int i, done = 0;
    for (i = 0; i < N_PROMPT; i++)
        prompt[i] = 100 + 37 * i % 900;
    g.max_tokens = generate ? N_GENERATE : 1;
    g.ignore_end = 1;
    *n_tokens = *n_slices = 0;
    bitnet_session_rewind(s, 0);
    bitnet_begin(s, prompt, generate ? 4 : N_PROMPT, &g);
    while (!done) {
        start = bni_time_ns();
        bitnet_step(e, budget);
        start = bni_time_ns() - start;
        total += start;
        if (budget != BITNET_NO_BUDGET && *n_slices < MAX_SLICES) {
            uint64_t from = bni_time_ns();
            step_us[*n_slices] = (double)start / 1000;
            while (bni_time_ns() - from < (uint64_t)budget * 1000)
                continue;
            control_us[(*n_slices)++] = (double)(bni_time_ns() - from) / 1000;
        }
        while (bitnet_next_event(s, &event)) {
            if (event.type == BITNET_EVENT_TOKEN)
                tokens[(*n_tokens)++] = event.token;
            done |= event.type == BITNET_EVENT_DONE;
        }
    }
    return total;
}

static int measure(const bitnet_model *m, int host, int generate, uint32_t budget)
{
    bitnet_engine_desc d = {0};
    bitnet_session_desc sd = {0};
    bitnet_engine *e;
    bitnet_session *s;
    int32_t plain[N_GENERATE + 1], sliced[N_GENERATE + 1];
    int n_plain, n_sliced, n, bad, unused, round;
    uint64_t t_plain = UINT64_MAX, t_sliced = UINT64_MAX, t;
    double p99, c99;
    d.n_threads = 1;
    d.n_ctx = sd.n_ctx = 256;
    if (host)
        d.scheduler.parallel_for = host_parallel_for;
    if (bitnet_engine_create(m, &d, &e, NULL) != BITNET_OK || bitnet_session_create(e, &sd, &s, NULL) != BITNET_OK)
        return 1;
    for (round = 0; round < 2; round++) {      /* the best of two: what is left out is the machine's noise */
        t = run(s, e, BITNET_NO_BUDGET, generate, plain, &n_plain, &unused);
        t_plain = t < t_plain ? t : t_plain;
        t = run(s, e, budget, generate, sliced, &n_sliced, &n);
        t_sliced = t < t_sliced ? t : t_sliced;
    }
    p99 = percentile(step_us, n, 0.99);
    c99 = percentile(control_us, n, 0.99);
    bad = n_plain != n_sliced || memcmp(plain, sliced, (size_t)n_plain * sizeof *plain) != 0;
    printf("%-10s %-9s %6d slices: p50 %6.0f  p99 %6.0f  max %6.0f us; control p50 %6.0f  p99 %6.0f  max %6.0f us; "
           "slicing costs %+.1f %%; tokens %s\n", host ? "host" : "own pool", generate ? "generate" : "prompt", n,
           percentile(step_us, n, 0.5), p99, step_us[n - 1], percentile(control_us, n, 0.5), c99, control_us[n - 1],
           100.0 * ((double)t_sliced / (double)t_plain - 1.0), bad ? "DIFFER" : "equal");
    fflush(stdout);
    bitnet_session_destroy(s);
    bitnet_engine_destroy(e);
    return bad || (c99 < 1.25 * budget && p99 > 2.0 * budget);
}

int main(int argc, char **argv)
{
    bitnet_model_desc d = {0};
    bitnet_model *m;
    bitnet_error err;
    uint32_t budget = argc > 2 ? (uint32_t)atoi(argv[2]) : 2000;
    int host, generate, bad = 0;
    if (argc < 2)
        return fprintf(stderr, "usage: slices MODEL [BUDGET_US]\n"), 2;
    d.path = argv[1];
    if (bitnet_model_open(&d, &m, &err) != BITNET_OK)
        return fprintf(stderr, "slices: %s\n", err.text), 1;
    for (host = 0; host < 2; host++)
        for (generate = 0; generate < 2; generate++)
            bad |= measure(m, host, generate, budget);
    bitnet_model_close(m);
    return bad;
}
