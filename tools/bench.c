/* bench: how fast a model runs, and how much of what the machine allows that is.

       cc -O2 -I. tools/bench.c -o bench -lpthread -lm
       ./bench -m model.gguf                               pp512 and tg128, one thread per core
       ./bench -m model.gguf -p 0 -n 64 -t 1,2 --kernels all
       ./bench -m model.gguf -d 0,2048 -o json
       ./bench -m model.gguf -p 0 -n 32 -npl 1,2,4,8,16    sequences that generate in the same passes
       ./bench --matmul                                    the ternary products alone, all kernel sets side by side
       ./bench --matmul -o svg >roofline.svg

   The table is llama-bench's, so that scripts which read that one read this one; called by that name, it has no further
   columns, and no limits are measured. ppN evaluates a prompt of N random tokens, tgN generates N tokens one at a time,
   tgN@bK does so in K sequences at once; each figure is the mean and the standard deviation of -r repetitions after a
   short warm-up.

   Further columns follow it. One-token decode reads every weight once per token, so the memory's bandwidth sets its
   limit; a long prompt is bound by the instruction that multiplies; tokens per second mean little without either.
   Both limits are measured here, once before each repetition, by as many threads as the test (bench_measure.h).
   "MB/token" is what a token reads (weights, divided by the tokens of a pass, and the KV cache), "GB/s" that times the
   median speed, "of read" the share of the median bandwidth. "of peak" is the share of the unit's peak that the ternary
   products take, two operations for each weight and token. A model that fits the caches can exceed 100 %. "step" is the
   time of a pass over K sequences divided by that of one, which is measured in turn with it.

   Reading order: "one repetition", "a test", "printing", "a model", "main"; bench_measure.h for the limits,
   bench_matmul.h for --matmul. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include <math.h>
#include "tools/show.h"
#include "tools/bench_measure.h"
#include "tools/bench_print.h"
#include "tools/bench_svg.h"
#include "tools/bench_matmul.h"

#define MAX_LIST 32                  /* values of -p, -n, -t, -d, -npl */
#define MAX_NAMES 16                 /* kernel sets, layouts or heads */
#define MAX_VARIANTS 65
#define MAX_PARALLEL 64              /* sequences */
#define MAX_MATMUL_TOKENS 4096

/* ------------------------------------------------------------------------------------------- one repetition */

typedef struct arguments {
    cli_model_args model;
    cli_strings models, prompts, gens, threads, depths, parallel, kernels, layouts, heads;
    const char *format;
    int reps, batch, batch_given, no_warmup, no_read, matmul, loads, buffer_mib;
} arguments;

/* A way to run a model. A mode that models can be opened in would be one more member here, one more list in arguments
   and one more column. */
typedef struct variant { const char *kernels, *layout, *head; } variant;

/* What is being run: one model in one variant, and for each test an engine with its sessions. */
typedef struct bench {
    const arguments *args;
    bitnet_model *model;
    bitnet_model_info info;
    const char *path;
    bitnet_engine *engine;
    bitnet_session *sessions[MAX_PARALLEL];
    int32_t *tokens;                 /* [max of prompt and depth] random */
    limits *limits;
    double load_seconds;             /* the first time; later ones with the file in the system's cache */
    samples loads;
    memory_use loaded;               /* after loading */
    uint64_t resident;               /* bytes, the limits' buffer not counted; greatest seen in a test */
    cli_buffer notes;                /* lines for below the table */
} bench;

/* Fetches all events of a session. Returns 1 once it is done; exits 1 on errors. */
static int fetch_events(bench *b, bitnet_session *session, int n_gen, int *n_tokens)
{
    bitnet_event event;
    while (bitnet_next_event(session, &event)) {
        if (event.type == BITNET_EVENT_TOKEN) ++*n_tokens;
        if (event.type != BITNET_EVENT_DONE) continue;
        if (event.reason == BITNET_DONE_ERROR) cli_fail_with(b->path, event.error);
        if (*n_tokens != n_gen) cli_fail("%s: ended after %d of %d tokens", b->path, *n_tokens, n_gen);
        return 1;
    }
    return 0;
}

/* Drives the first n_sessions sessions, each with this prompt, until all are done. Returns 1, or 0 when Ctrl-C came
   first; exits 1 on errors. */
static int run(bench *b, int n_sessions, const int32_t *prompt, int n, int n_gen)
{
    bitnet_generation generation;
    bitnet_result result = BITNET_OK;
    int n_tokens[MAX_PARALLEL] = {0}, done[MAX_PARALLEL] = {0}, i, left = n_sessions;
    memset(&generation, 0, sizeof generation);
    generation.max_tokens = n_gen;
    generation.ignore_end = 1;
    for (i = 0; i < n_sessions && result == BITNET_OK; i++)
        result = bitnet_begin(b->sessions[i], prompt, n, n_gen ? &generation : NULL);
    while (result == BITNET_OK) {
        if (cli_interrupted) {
            bitnet_finish(b->engine);
            return 0;
        }
        result = bitnet_step(b->engine, BITNET_NO_BUDGET);
        for (i = 0; i < n_sessions; i++)
            if (!done[i]) {
                done[i] = fetch_events(b, b->sessions[i], n_gen, &n_tokens[i]);
                left -= done[i];
            }
        if (left == 0) return 1;
    }
    cli_fail("%s: %s", b->path, result == BITNET_IDLE ? "the engine is idle" : bitnet_result_text(result));
    return 0;
}

/* One repetition at the given depth; *seconds is its time. Returns as run. */
static int repeat(bench *b, int n_sessions, int n_prompt, int n_gen, int depth, double *seconds)
{
    const int32_t first = b->info.bos >= 0 ? b->info.bos : 0;
    uint64_t start;
    int i, whole;
    for (i = 0; i < n_sessions; i++) {
        const bitnet_result result = bitnet_session_rewind(b->sessions[i], depth);
        if (result != BITNET_OK) cli_fail("%s: rewind: %s", b->path, bitnet_result_text(result));
    }
    start = bni_time_ns();
    /* n tokens are n passes: the first evaluates the begin token, the last one's token is not evaluated any more */
    whole = n_gen ? run(b, n_sessions, &first, 1, n_gen) : run(b, n_sessions, b->tokens, n_prompt, 0);
    *seconds = (double)(bni_time_ns() - start) * 1e-9;
    return whole;
}

/* ------------------------------------------------------------------------------------------------- a test */

typedef struct test {
    int n_threads, n_prompt, n_gen, depth;       /* n_prompt or n_gen is 0 */
    int n_parallel;                  /* sequences; more than 1 with n_gen alone */
    samples ns, ts;                  /* nanoseconds and tokens per second (of all sequences) of each repetition */
    samples one_ns;                  /* of one sequence alone, where n_parallel > 1 */
    samples read, peak;              /* the limits before each: GB/s, TOPS */
    const unit *u;                   /* whose peak; NULL: none known */
    double bytes_per_token;
    time_t when;
} test;

/* Bytes of K and V of one position: 16-bit integers and one f32 scale per head, for both, in each layer. */
static double kv_row_bytes(const bitnet_model_info *info)
{
    return 2.0 * info->n_layer * info->n_head_kv * (2.0 * info->head_dim + 4.0);
}

/* Bytes read from memory per token, if nothing stays in the caches between passes: the weights once per pass, and the
   keys and values of every position up to the pass's last token, for each sequence. */
static double bytes_per_token(const bitnet_model_info *info, const test *t, int n_batch)
{
    double bytes = 0;
    int at = 0;
    const int n = t->n_gen ? t->n_gen : t->n_prompt, step = t->n_gen ? 1 : n_batch;
    while (at < n) {
        at += step < n - at ? step : n - at;
        bytes += (double)info->weight_bytes + kv_row_bytes(info) * (t->depth + at) * t->n_parallel;
    }
    return bytes / n / t->n_parallel;
}

/* Operations of the ternary products for one token: two for each weight of q, k, v, output, gate, up and down. */
static double ops_per_token(const bitnet_model_info *info)
{
    const double heads = 2.0 * info->n_head + 2.0 * info->n_head_kv;
    return 2.0 * info->n_layer * info->n_embd * (heads * info->head_dim + 3.0 * info->n_ff);
}

/* Engine and sessions of a test; at its depth, all of them hold the same tokens. Returns as run. */
static int open_sessions(bench *b, const test *t)
{
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    bitnet_error err;
    int i, whole = 1;
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    memset(&err, 0, sizeof err);
    session.n_ctx = t->depth + (t->n_gen ? t->n_gen + 1 : t->n_prompt);
    engine.n_ctx = session.n_ctx;
    engine.n_batch = b->args->batch > t->n_parallel ? b->args->batch : t->n_parallel;
    engine.n_threads = t->n_threads;
    if (bitnet_engine_create(b->model, &engine, &b->engine, &err) != BITNET_OK) cli_fail_with(b->path, &err);
    for (i = 0; i < t->n_parallel; i++)
        if (bitnet_session_create(b->engine, &session, &b->sessions[i], &err) != BITNET_OK) cli_fail_with(b->path, &err);
    if (t->depth) whole = run(b, 1, b->tokens, t->depth, 0);
    for (i = 1; i < t->n_parallel && t->depth && whole; i++)
        if (bitnet_session_copy(b->sessions[i], b->sessions[0]) != BITNET_OK) cli_fail("%s: copying a session", b->path);
    return whole;
}

static void close_sessions(bench *b, const test *t)
{
    int i;
    bitnet_finish(b->engine);
    for (i = 0; i < t->n_parallel; i++) bitnet_session_destroy(b->sessions[i]);
    bitnet_engine_destroy(b->engine);
}

/* Without the limits' buffer. */
static uint64_t without_buffer(const bench *b, uint64_t bytes)
{
    const uint64_t buffer = b->limits->memory.size;
    return bytes > buffer ? bytes - buffer : 0;
}

/* The limits, right before a repetition and after the last. */
static void measure_limits(bench *b, test *t)
{
    if (b->limits->off) return;
    team_open(&b->limits->team, t->n_threads);
    limits_wake(b->limits);
    limits_read(b->limits, b->limits->memory.size, &t->read);
    limits_peak(b->limits, t->u, &t->peak);
    limits_sleep(b->limits);
}

/* The repetitions, each behind the limits and, with several sequences, one of one sequence. Returns as run. */
static int repeat_test(bench *b, test *t)
{
    const int n = t->n_gen ? t->n_gen : t->n_prompt;
    int i, whole = 1;
    double seconds;
    if (!b->args->no_warmup) {                           /* brings threads and pages in: one pass, or two tokens */
        const int n_warm = n < b->args->batch ? n : b->args->batch;
        whole = repeat(b, t->n_parallel, t->n_gen ? 0 : n_warm, t->n_gen ? (n < 2 ? n : 2) : 0, t->depth, &seconds);
    }
    for (i = 0; i < b->args->reps && whole; i++) {
        measure_limits(b, t);
        if (t->n_parallel > 1) {
            whole = repeat(b, 1, t->n_prompt, t->n_gen, t->depth, &seconds);
            if (!whole) break;
            add_sample(&t->one_ns, seconds * 1e9);
        }
        whole = repeat(b, t->n_parallel, t->n_prompt, t->n_gen, t->depth, &seconds);
        if (!whole) break;
        add_sample(&t->ns, seconds * 1e9);
        add_sample(&t->ts, (double)n * t->n_parallel / seconds);
    }
    measure_limits(b, t);
    return whole;
}

/* Fills in t's samples. Returns 1, or 0 after Ctrl-C (with the repetitions that were finished). */
static int run_test(bench *b, test *t)
{
    uint64_t resident;
    int whole;
    t->when = time(NULL);
    t->bytes_per_token = bytes_per_token(&b->info, t, b->args->batch);
    t->u = unit_of(b->info.kernels, t->n_gen ? t->n_parallel : t->n_prompt < b->args->batch ? t->n_prompt : b->args->batch);
    whole = open_sessions(b, t) && repeat_test(b, t);
    resident = without_buffer(b, memory_in_use().now);
    if (resident > b->resident) b->resident = resident;
    close_sessions(b, t);
    return whole;
}

static double gb_per_s(const test *t) { return t->bytes_per_token * median(&t->ts) * 1e-9; }
static double tops(const bench *b, const test *t) { return ops_per_token(&b->info) * median(&t->ts) * 1e-12; }

/* a / b, 0 where b wasn't measured. */
static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* Shares of the bandwidth and of the peak, 1 = all of it; time of a pass over all sequences by that over one. */
static double read_share(const test *t) { return ratio(gb_per_s(t), median(&t->read)); }
static double peak_share(const bench *b, const test *t) { return ratio(tops(b, t), median(&t->peak)); }
static double step_cost(const test *t) { return ratio(median(&t->ns), median(&t->one_ns)); }

/* ------------------------------------------------------------------------------------------------ printing */

typedef struct printer {
    int format;                      /* 'm', 'j', 'c', 's' */
    int show_batch, show_kernels, show_parallel;         /* columns that only appear where they tell something */
    int plain;                       /* 1: llama-bench's columns alone */
    records records;
    roofline roof;
} printer;

/* As llama.cpp puts it: architecture, size, type. */
static void model_label(char *text, size_t size, const bitnet_model_info *info)
{
    const double n = (double)info->n_parameters;
    char count[24];
    snprintf(count, sizeof count, n < 1e9 ? "%.0fM" : n < 1e10 ? "%.1fB" : "%.0fB", n < 1e9 ? n * 1e-6 : n * 1e-9);
    snprintf(text, size, "%s %s %s", info->architecture, count, info->linear_type);
}

/* "pp512", "tg64@b4 @ d2048" */
static void test_label(char text[48], const test *t)
{
    char sequences[16] = "", depth[16] = "";
    if (t->n_parallel > 1) snprintf(sequences, sizeof sequences, "@b%d", t->n_parallel);
    if (t->depth) snprintf(depth, sizeof depth, " @ d%d", t->depth);
    snprintf(text, 48, "%s%d%s%s", t->n_gen ? "tg" : "pp", t->n_gen ? t->n_gen : t->n_prompt, sequences, depth);
}

static void markdown_header(const printer *p)
{
    printf("| %-30s | %10s | %10s | %-10s | %7s |", "model", "size", "params", "backend", "threads");
    if (p->show_batch) printf(" %7s |", "n_batch");
    printf(" %15s | %20s |", "test", "t/s");
    if (!p->plain) printf(" %9s | %7s | %7s | %7s |", "MB/token", "GB/s", "of read", "of peak");
    if (p->show_parallel) printf(" %6s |", "step");
    if (p->show_kernels) printf(" %-10s | layout | %-8s |", "kernels", "head");
    printf("\n| %.29s- | %.9s: | %.9s: | %.9s- | %.6s: |", "------------------------------", "----------", "----------",
           "----------", "-------");
    if (p->show_batch) printf(" ------: |");
    printf(" %.14s: | %.19s: |", "---------------", "--------------------");
    if (!p->plain) printf(" --------: | ------: | ------: | ------: |");
    if (p->show_parallel) printf(" -----: |");
    if (p->show_kernels) printf(" ---------- | ------ | -------- |");
    printf("\n");
    fflush(stdout);
}

static void markdown_row(const printer *p, const bench *b, const test *t)
{
    const double size = (double)b->info.file_bytes, n = (double)b->info.n_parameters;
    char model[80], label[48], bytes[32], params[32], speed[48], read[16], peak[16], step[16] = "";
    model_label(model, sizeof model, &b->info);
    test_label(label, t);
    snprintf(bytes, sizeof bytes, size < 1073741824.0 ? "%.2f MiB" : "%.2f GiB",
             size < 1073741824.0 ? size / 1048576.0 : size / 1073741824.0);
    snprintf(params, sizeof params, n < 1e9 ? "%.2f M" : "%.2f B", n < 1e9 ? n * 1e-6 : n * 1e-9);
    snprintf(speed, sizeof speed, "%.2f \xc2\xb1 %.2f", mean(&t->ts), deviation(&t->ts));
    if (t->one_ns.n) snprintf(step, sizeof step, "%.2f x", step_cost(t));
    printf("| %-30s | %10s | %10s | %-10s | %7d |", model, bytes, params, "CPU", t->n_threads);
    if (p->show_batch) printf(" %7d |", b->args->batch);
    printf(" %15s | %21s |", label, speed);
    if (!p->plain)
        printf(" %9.2f | %7.2f | %7s | %7s |", t->bytes_per_token * 1e-6, gb_per_s(t), percent(read, read_share(t)),
               percent(peak, peak_share(b, t)));
    if (p->show_parallel) printf(" %6s |", step);
    if (p->show_kernels) printf(" %-10s | %-6s | %-8s |", b->info.kernels, b->info.layout, b->info.head);
    printf("\n");
    fflush(stdout);
}

/* The model and the machine: llama-bench's names. */
static void record_model(records *r, const bench *b)
{
    char build[64], model[80], cpu[256];
    snprintf(build, sizeof build, "bitnet.h %s", bitnet_version());
    model_label(model, sizeof model, &b->info);
    cpu_name(cpu, sizeof cpu);
    record_text(r, "build_commit", build);
    record_number(r, "build_number", 0, 0);
    record_text(r, "cpu_info", cpu);
    record_text(r, "gpu_info", "");
    record_text(r, "backends", "CPU");
    record_text(r, "model_filename", b->path);
    record_text(r, "model_type", model);
    record_number(r, "model_size", (double)b->info.file_bytes, 0);
    record_number(r, "model_n_params", (double)b->info.n_parameters, 0);
}

/* The test, in llama-bench's names as far as it has them. */
static void record_test(records *r, const bench *b, const test *t)
{
    char when[32];
    if (strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime(&t->when)) == 0) when[0] = 0;
    record_number(r, "n_batch", b->args->batch, 0);
    record_number(r, "n_ubatch", b->args->batch, 0);
    record_number(r, "n_threads", t->n_threads, 0);
    record_number(r, "n_gpu_layers", 0, 0);
    record_number(r, "n_prompt", t->n_prompt, 0);
    record_number(r, "n_gen", t->n_gen, 0);
    record_number(r, "n_depth", t->depth, 0);
    record_text(r, "test_time", when);
    record_number(r, "avg_ns", mean(&t->ns), 0);
    record_number(r, "stddev_ns", deviation(&t->ns), 0);
    record_number(r, "avg_ts", mean(&t->ts), 6);
    record_number(r, "stddev_ts", deviation(&t->ts), 6);
    record_number(r, "n_parallel", t->n_parallel, 0);
    record_text(r, "kernels", b->info.kernels);
    record_text(r, "layout", b->info.layout);
    record_text(r, "head", b->info.head);
    record_number(r, "median_ts", median(&t->ts), 6);
    record_number(r, "step_cost", step_cost(t), 4);
}

/* Limits, shares, load time and memory; 0 where something was not measured. */
static void record_limits(records *r, const bench *b, const test *t)
{
    record_number(r, "bytes_per_token", t->bytes_per_token, 0);
    record_number(r, "gb_per_s", gb_per_s(t), 6);
    record_number(r, "read_gb_per_s", median(&t->read), 6);
    record_number(r, "read_share", read_share(t), 6);
    record_number(r, "ternary_tops", tops(b, t), 9);
    record_text(r, "unit", t->u ? t->u->name : "");
    record_number(r, "peak_tops", median(&t->peak), 6);
    record_number(r, "peak_share", peak_share(b, t), 6);
    record_number(r, "load_ns", b->load_seconds * 1e9, 0);
    record_number(r, "warm_load_ns", median(&b->loads) * 1e9, 0);
    record_number(r, "loading_peak_bytes", (double)b->loaded.peak, 0);
    record_number(r, "loaded_bytes", (double)b->loaded.now, 0);
    record_number(r, "loaded_file_bytes", (double)b->loaded.files, 0);
    record_number(r, "resident_bytes", (double)b->resident, 0);
    record_samples(r, "samples_ns", &t->ns, 0);
    record_samples(r, "samples_ts", &t->ts, 6);
    record_samples(r, "samples_one_ns", &t->one_ns, 0);
    record_samples(r, "samples_read_gb_per_s", &t->read, 3);
    record_samples(r, "samples_peak_tops", &t->peak, 6);
}

static void print_row(printer *p, const bench *b, const test *t)
{
    char series[40], label[48];
    if (p->format == 'm') markdown_row(p, b, t);
    if (p->format == 'j' || p->format == 'c') {
        record_begin(&p->records);
        record_model(&p->records, b);
        record_test(&p->records, b, t);
        record_limits(&p->records, b, t);
        record_end(&p->records);
    }
    snprintf(series, sizeof series, "%s %s", b->info.kernels, b->info.layout);
    test_label(label, t);
    roofline_add(&p->roof, series, label, ops_per_token(&b->info) / t->bytes_per_token, tops(b, t) * 1e12);
}

/* What ends the output, and the lines below a table; beside the other formats those go to stderr. */
static void print_end(printer *p, const bench *b, int n_threads)
{
    FILE *f = p->format == 'm' && !p->plain ? stdout : stderr;
    records_end(&p->records);
    if (p->format == 's') svg_print(&p->roof, b->limits, n_threads);
    if (p->format == 'm') printf("\nbuild: bitnet.h %s", bitnet_version());
    if (p->format == 'm') printf(b->info.kernels[0] ? ", kernels %s\n" : "\n", b->info.kernels);
    print_limits(f, b->limits);
    if (b->notes.size) fprintf(f, "%s", b->notes.data);
}

/* ------------------------------------------------------------------------------------------------- a model */

typedef struct plan {
    int prompts[MAX_LIST], gens[MAX_LIST], threads[MAX_LIST], depths[MAX_LIST], parallel[MAX_LIST];
    int n_prompts, n_gens, n_threads, n_depths, n_parallel;
} plan;

/* Random tokens for the longest prompt or depth of the plan. */
static void make_tokens(bench *b, const plan *p)
{
    int n = 1, i;
    uint32_t random = 1;
    for (i = 0; i < p->n_prompts; i++) n = p->prompts[i] > n ? p->prompts[i] : n;
    for (i = 0; i < p->n_depths; i++) n = p->depths[i] > n ? p->depths[i] : n;
    free(b->tokens);
    b->tokens = (int32_t *)cli_alloc((size_t)n * sizeof *b->tokens);
    for (i = 0; i < n; i++) {
        random = random * 1664525u + 1013904223u;        /* Numerical Recipes' generator */
        b->tokens[i] = (int32_t)((random >> 8) % (uint32_t)b->info.n_vocab);
    }
}

/* One test of the plan, unless its count is 0, which turns it off. Returns 0 after Ctrl-C. */
static int one_test(bench *b, printer *out, int n_threads, int n_prompt, int n_gen, int n_parallel, int depth)
{
    static test t;
    int whole;
    if (n_prompt + n_gen == 0) return 1;
    memset(&t, 0, sizeof t);
    t.n_threads = n_threads;
    t.n_prompt = n_prompt;
    t.n_gen = n_gen;
    t.n_parallel = n_parallel;
    t.depth = depth;
    whole = run_test(b, &t);
    if (t.ts.n) print_row(out, b, &t);
    if (!whole && t.ts.n) cli_message("interrupted: the last row is of %d repetitions", t.ts.n);
    if (!whole && !t.ts.n) cli_message("interrupted");
    return whole;
}

/* All tests with one model and variant, in llama-bench's order. Returns 0 after Ctrl-C. */
static int run_plan(bench *b, const plan *p, printer *out)
{
    int i, d, k, s, whole = 1;
    for (i = 0; i < p->n_threads && whole; i++)
        for (d = 0; d < p->n_depths && whole; d++) {
            for (k = 0; k < p->n_prompts && whole; k++)
                whole = one_test(b, out, p->threads[i], p->prompts[k], 0, 1, p->depths[d]);
            for (k = 0; k < p->n_gens && whole; k++)
                for (s = 0; s < p->n_parallel && whole; s++)
                    whole = one_test(b, out, p->threads[i], 0, p->gens[k], p->parallel[s], p->depths[d]);
        }
    return whole;
}

/* Opens the model 1 + --loads times, and keeps the last. */
static void load(bench *b, const cli_model_args *model)
{
    int i;
    b->loads.n = 0;
    b->resident = 0;
    memory_forget_peak();
    for (i = 0; i <= b->args->loads; i++) {
        const double start = cli_seconds();
        if (i) bitnet_model_close(b->model);
        b->model = cli_open_model(model, 0);
        if (i) add_sample(&b->loads, cli_seconds() - start);
        else b->load_seconds = cli_seconds() - start;
    }
    b->loaded = memory_in_use();
    b->loaded.now = without_buffer(b, b->loaded.now);
    b->loaded.peak = without_buffer(b, b->loaded.peak);
    bitnet_model_get_info(b->model, &b->info);
}

CLI_PRINTF(2, 3) static void add_note(bench *b, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    cli_append(&b->notes, line, strlen(line));
}

/* Load time and memory of the model, for below the table. several: say which it was. */
static void note_load(bench *b, int several)
{
    char size[24], weights[24], mapped[24], peak[24], now[24], files[24];
    add_note(b, "load: %.2f s; resident memory: %s (weights and tables %s, mapped file %s)", b->load_seconds,
             b->resident ? cli_size(size, b->resident) : "not known", cli_size(weights, b->info.model_memory),
             cli_size(mapped, b->info.mapped_memory));
    if (several) add_note(b, "; %s %s %s, %s", b->info.kernels, b->info.layout, b->info.head, b->path);
    add_note(b, "\n");
    if (b->loads.n)
        add_note(b, "load again, the file in the system's cache: %.3f / %.3f / %.3f s (min / median / max of %d), %.2f GB/s\n",
                 quantile(&b->loads, 0), median(&b->loads), quantile(&b->loads, 1), b->loads.n,
                 (double)b->info.file_bytes / median(&b->loads) * 1e-9);
    if (b->loaded.peak)
        add_note(b, "memory while loading: at most %s; afterwards %s, of which pages of files %s\n",
                 cli_size(peak, b->loaded.peak), cli_size(now, b->loaded.now), cli_size(files, b->loaded.files));
}

static int run_model(bench *b, arguments *a, const plan *p, const char *path, const variant *v, int several, printer *out)
{
    int whole;
    a->model.path = path;
    a->model.kernels = v->kernels;
    a->model.layout = v->layout;
    a->model.head = v->head;
    b->path = path;
    load(b, &a->model);
    make_tokens(b, p);
    if (!b->limits->memory.data && !a->no_read) arena_open(&b->limits->memory, (uint64_t)a->buffer_mib << 20);
    whole = run_plan(b, p, out);
    note_load(b, several);
    bitnet_model_close(b->model);
    return whole;
}

/* ---------------------------------------------------------------------------------------------------- main */

/* The numbers of all lists given for an option, or those of the default; returns how many. */
static int read_lists(const char *option, const cli_strings *given, const char *standard, int min, int max, int *out)
{
    int n = 0, i;
    if (given->n == 0) return cli_read_list(option, standard, min, max, out, MAX_LIST);
    for (i = 0; i < given->n; i++) {
        n += cli_read_list(option, given->item[i], min, max, out + n, MAX_LIST - n);
        if (n > MAX_LIST) cli_usage("%s: more than %d values", option, MAX_LIST);
    }
    return n;
}

/* Names of comma-separated lists. Zeroed: none. */
typedef struct name_list {
    char name[MAX_NAMES][32];
    int n;
} name_list;

static void add_name(name_list *l, const char *option, const char *name, size_t length)
{
    if (l->n == MAX_NAMES) cli_usage("%s: more than %d", option, MAX_NAMES);
    snprintf(l->name[l->n++], sizeof l->name[0], "%.*s", length < 31 ? (int)length : 31, name);
}

/* The names given for an option; "all" stands for all of them, which are listed, or NULL for every kernel set that runs
   here. */
static void read_names(const char *option, const cli_strings *given, const char *const *listed, int n_listed, name_list *l)
{
    int i, k, usable;
    for (i = 0; i < given->n; i++) {
        const char *text = given->item[i], *name;
        for (;; text++) {
            const size_t length = strcspn(text, ",");
            if (length != 3 || strncmp(text, "all", 3) != 0) add_name(l, option, text, length);
            else if (!listed)
                for (k = 0; (name = bitnet_kernels_name(k, &usable)) != NULL; k++)
                    if (usable) add_name(l, option, name, strlen(name));
                    else continue;
            else
                for (k = 0; k < n_listed; k++) add_name(l, option, listed[k], strlen(listed[k]));
            text += length;
            if (!*text) break;
        }
    }
}

/* What is to be compared: name lists filled, and every combination, NULL standing for what is not given; exits 2 on names
   that don't exist. */
typedef struct choices {
    name_list kernels, layouts, heads;
    variant v[MAX_VARIANTS];
    int n;
} choices;

static void make_variants(arguments *a, choices *c)
{
    static const char *const heads[] = {"full", "two-pass"};
    const char *layouts[BNI_N_LAYOUTS];
    int k, l, h;
    for (l = 0; l < BNI_N_LAYOUTS; l++) layouts[l] = bni_layout_names[l];
    read_names("--kernels", &a->kernels, NULL, 0, &c->kernels);
    read_names("--layout", &a->layouts, layouts, BNI_N_LAYOUTS, &c->layouts);
    read_names("--head", &a->heads, heads, 2, &c->heads);
    for (k = 0; k < c->kernels.n || k == 0; k++)
        for (l = 0; l < c->layouts.n || l == 0; l++)
            for (h = 0; h < c->heads.n || h == 0; h++) {
                variant *v = &c->v[c->n++];
                if (c->n == MAX_VARIANTS) cli_usage("more than %d combinations", MAX_VARIANTS - 1);
                v->kernels = a->model.kernels = c->kernels.n ? c->kernels.name[k] : NULL;
                v->layout = a->model.layout = c->layouts.n ? c->layouts.name[l] : NULL;
                v->head = a->model.head = c->heads.n ? c->heads.name[h] : NULL;
                cli_check_model_args(&a->model);
            }
}

static void make_plan(const arguments *a, plan *p)
{
    char cores[16];
    int i;
    snprintf(cores, sizeof cores, "%d", bni_cpu_count() < 16 ? bni_cpu_count() : 16);
    p->n_prompts = read_lists("-p", &a->prompts, a->matmul ? "1,4,8,16,512" : "512", 0,
                              a->matmul ? MAX_MATMUL_TOKENS : 1 << 24, p->prompts);
    p->n_gens = read_lists("-n", &a->gens, "128", 0, 1 << 24, p->gens);
    p->n_depths = read_lists("-d", &a->depths, "0", 0, 1 << 24, p->depths);
    p->n_parallel = read_lists("-npl", &a->parallel, "1", 1, MAX_PARALLEL, p->parallel);
    p->n_threads = read_lists("-t", &a->threads, cores, 0, MAX_THREADS, p->threads);
    for (i = 0; i < p->n_threads; i++)
        if (p->threads[i] == 0) p->threads[i] = atoi(cores);
    if (a->format[0] == 's' && p->n_threads > 1) cli_usage("-o svg: a picture is of one number of threads (-t)");
}

/* what: the subject of the picture. */
static void make_title(printer *out, const plan *p, const char *what)
{
    char cpu[120];
    cpu_name(cpu, sizeof cpu);
    snprintf(out->roof.title, sizeof out->roof.title, "%.70s, %d thread%s: %.70s", cpu[0] ? cpu : "a CPU", p->threads[0],
             p->threads[0] == 1 ? "" : "s", what);
}

/* --matmul: no model. Returns 0 after Ctrl-C. */
static int run_matmul(bench *b, const arguments *a, const plan *p, const choices *c, printer *out)
{
    static matmul_bench m;
    const char *names[MAX_NAMES], *name;
    int i, usable, n = 0, whole = 1;
    for (i = 0; i < c->kernels.n; i++) names[n++] = c->kernels.name[i];
    for (i = 0; !a->kernels.n && n < MAX_NAMES && (name = bitnet_kernels_name(i, &usable)) != NULL; i++)
        if (usable && strcmp(name, "scalar") != 0) names[n++] = name;
    if (n == 0) names[n++] = "scalar";
    make_title(out, p, "ternary products of a layer, by tokens of a pass");
    m.l = b->limits;
    m.records = &out->records;
    m.roof = &out->roof;
    m.markdown = out->format == 'm';
    m.reps = a->reps;
    for (i = 0; i < c->layouts.n || i == 0; i++) products_choose(&m, names, n, c->layouts.n ? c->layouts.name[i] : NULL);
    arena_open(&b->limits->memory, (uint64_t)a->buffer_mib << 20);
    if (!b->limits->memory.data) cli_fail("no memory for the weights");
    if (m.markdown) product_markdown_header();
    for (i = 0; i < p->n_threads && whole; i++) {
        team_open(&b->limits->team, p->threads[i]);
        whole = products_run(&m, p->prompts, p->n_prompts);
    }
    if (!whole) cli_message("interrupted");
    free(m.scratch);
    return whole;
}

/* All models in all variants. Returns 0 after Ctrl-C. */
static int run_models(bench *b, arguments *a, const plan *p, const choices *c, printer *out)
{
    bitnet_error err;
    bitnet_model_desc desc;
    bitnet_model_info info;
    char label[80];
    int i, k, whole = 1;
    memset(&err, 0, sizeof err);
    memset(&desc, 0, sizeof desc);
    desc.path = a->models.item[0];                       /* a file that can't be opened gets no table */
    if (bitnet_model_probe(&desc, &info, &err) != BITNET_OK) cli_fail_with(desc.path, &err);
    model_label(label, sizeof label, &info);
    make_title(out, p, label);
    if (out->format == 'm') markdown_header(out);
    for (i = 0; i < a->models.n && whole; i++)
        for (k = 0; k < c->n && whole; k++)
            whole = run_model(b, a, p, a->models.item[i], &c->v[k], a->models.n * c->n > 1, out);
    return whole;
}

/* Exits 2 where options don't go together. */
static void check(arguments *a, const char *model)
{
    a->batch_given = a->batch != 0;
    if (!a->batch) a->batch = 256;
    if (!a->reps) a->reps = a->matmul ? 25 : 5;
    if (model && a->models.n < CLI_MAX_STRINGS) a->models.item[a->models.n++] = model;
    if (a->models.n == 0 && !a->matmul) cli_usage("which model? usage: %s [options] -m MODEL", cli_name);
    if (a->matmul && (a->models.n || a->gens.n || a->depths.n || a->parallel.n || a->loads || a->batch_given))
        cli_usage("--matmul runs no model: -m, -n, -d, -b, -npl and --loads do not go with it");
    if (strcmp(a->format, "md") != 0 && strcmp(a->format, "json") != 0 && strcmp(a->format, "csv") != 0 &&
        strcmp(a->format, "svg") != 0)
        cli_usage("-o %s: not md, json, csv or svg", a->format);
}

static void parse(arguments *a, int argc, char **argv, const char *name)
{
    const char *model = NULL;
    const cli_option options[] = {
        {"-m --model", CLI_STRINGS, &a->models, "FILE", "the model; may be given several times", 0, 0},
        {"-p --n-prompt", CLI_STRINGS, &a->prompts, "N,...", "tokens of the prompt test; 0: none (512)", 0, 0},
        {"-n --n-gen", CLI_STRINGS, &a->gens, "N,...", "tokens of the generation test; 0: none (128)", 0, 0},
        {"-d --n-depth", CLI_STRINGS, &a->depths, "N,...", "tokens in the context before the test (0)", 0, 0},
        {"-npl --n-parallel", CLI_STRINGS, &a->parallel, "N,...", "sequences that generate in the same passes, 1 to 64 (1)", 0, 0},
        {"-t --threads", CLI_STRINGS, &a->threads, "N,...", "threads (one per core, at most 16)", 0, 0},
        {"-b --batch-size", CLI_INT, &a->batch, "N", "most prompt tokens of one pass (256)", 1, 1 << 20},
        {"-r --repetitions", CLI_INT, &a->reps, "N", "repetitions of each test (5; --matmul: 25)", 1, MAX_REPS},
        {"-o --output", CLI_STRING, &a->format, "FORMAT", "md, json, csv, or svg: a roofline (md)", 0, 0},
        {"--matmul", CLI_FLAG, &a->matmul, NULL, "no model: the ternary products alone, of the 2B4T matrices;\n"
         "-p: tokens (1,4,8,16,512)", 0, 0},
        {"--loads", CLI_INT, &a->loads, "N", "open the model N times more, for its load time (0)", 0, MAX_REPS},
        {"--kernels", CLI_STRINGS, &a->kernels, "NAME,...", "kernel sets to test; all: each that this CPU runs\n"
         "(the best; --matmul: all but plain C)", 0, 0},
        {"--list-kernels", CLI_LIST_KERNELS, NULL, NULL, "print the kernel sets this CPU runs, and end", 0, 0},
        {"--layout", CLI_STRINGS, &a->layouts, "NAME,...", "weights in memory: auto, r16, t5, tl1, tl2, i2_s, all", 0, 0},
        {"--head", CLI_STRINGS, &a->heads, "NAME,...", "output matrix: auto, full, two-pass (half as many bytes), all", 0, 0},
        {"--i2s-layout", CLI_STRING, &a->model.i2s_layout, "A|B|C|D", "bit order of I2_S tensors", 0, 0},
        {"--tl-tiles", CLI_STRING, &a->model.tl_tiles, "BM/BY/bm", "tiles of TL1 and TL2 tensors, or \"generated\"", 0, 0},
        {"--no-mmap", CLI_FLAG, &a->model.no_mmap, NULL, "read the model into memory instead of mapping it", 0, 0},
        {"--mlock", CLI_FLAG, &a->model.mlock, NULL, "keep the model from being swapped out", 0, 0},
        {"--no-warmup", CLI_FLAG, &a->no_warmup, NULL, "no short run before the repetitions", 0, 0},
        {"--no-read", CLI_FLAG, &a->no_read, NULL, "don't measure the limits", 0, 0},
        {"--buffer", CLI_INT, &a->buffer_mib, "MIB", "memory that the limits are read from (1024)", 1, 1 << 20},
        {"-ngl --n-gpu-layers --gpu-layers -ub --ubatch-size -fa --flash-attn -mmp --mmap -ctk --cache-type-k -ctv "
         "--cache-type-v -sm --split-mode -mg --main-gpu -nkvo --no-kv-offload --poll --prio --delay --numa",
         CLI_IGNORED_VALUE, NULL, NULL, NULL, 0, 0},
        {"-v --verbose --progress", CLI_IGNORED, NULL, NULL, NULL, 0, 0},
    };
    const cli_program program = {
        name, "[options] -m MODEL | --matmul", "How fast a model runs, in llama-bench's table, and as a share of what the "
        "machine allows.",
        "MB/token: what a token reads, weights and KV cache. GB/s: that times the median speed. of read: the share of\n"
        "the bandwidth that a plain read reaches in the same run. of peak: the share of the operations a second that\n"
        "the unit in use reaches in the same run. step: a pass over all sequences takes so many times that of one.\n"
        "Load times are those of a file in the system's cache, but for the first, which is as it comes: emptying the\n"
        "cache takes root. Ctrl-C ends and prints what is there.",
        options, CLI_COUNT(options), 0, 1};
    a->format = "md";
    a->buffer_mib = 1024;
    cli_parse(&program, argc, argv, &model);
    check(a, model);
}

int main(int argc, char **argv)
{
    static bench b;
    static arguments a;
    static plan p;
    static limits l;
    static printer out;
    static choices c;
    char called[64];
    const char *name = "bench";
    int whole, status;
    out.plain = cli_called_as_llama(argc, argv, called, &name);
    parse(&a, argc, argv, name);
    make_plan(&a, &p);
    make_variants(&a, &c);
    out.format = out.records.format = a.format[0];
    out.show_batch = a.batch_given;
    out.show_kernels = a.kernels.n + a.layouts.n + a.heads.n > 0;
    out.show_parallel = a.parallel.n > 0;
    b.args = &a;
    b.limits = &l;
    l.off = a.no_read = a.no_read || out.plain;
    cli_catch_interrupts();
    whole = a.matmul ? run_matmul(&b, &a, &p, &c, &out) : run_models(&b, &a, &p, &c, &out);
    print_end(&out, &b, p.threads[0]);
    free(b.tokens);
    free(b.notes.data);
    limits_close(&l);
    status = cli_finish_output();
    return whole ? status : CLI_EXIT_INTERRUPTED;        /* as a shell says it: ended by SIGINT */
}
