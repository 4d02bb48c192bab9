/* bench: how fast a model runs, and how much of what the memory allows that is.

       cc -O2 -I. tools/bench.c -o bench -lpthread -lm
       ./bench -m model.gguf                               pp512 and tg128, one thread per core
       ./bench -m model.gguf -p 0 -n 64 -t 1,2 --kernels all
       ./bench -m model.gguf -d 0,2048 -o json

   The table is llama-bench's, so that scripts which read that one read this one: ppN evaluates a prompt of N random
   tokens, tgN generates N tokens one at a time, each figure is the mean and the standard deviation of -r repetitions
   after a short warm-up.

   Three columns follow it. One-token decode reads every weight once per token, so the memory's bandwidth sets its
   limit, and tokens per second mean little without that. The bandwidth is measured here, in the same run, by a plain
   read of a buffer too large for the caches, with as many threads as the test, once before each repetition: other work
   on the machine then slows both alike. "MB/token" is what a token reads (weights, divided by the tokens of a pass,
   and the KV cache), "GB/s" that times the median speed, "of read" the share of the median bandwidth. A model that fits
   the caches can exceed 100 %; a prompt is bound by arithmetic and shows a small share.

   Reading order: "bandwidth", "one repetition", "a test", "printing", "main". */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/show.h"

#include <math.h>
#if !defined(_WIN32)
#include <sys/resource.h>
#endif

#define MAX_LIST 32                  /* values of -p, -n, -t, -d */
#define MAX_REPS 1000
#define MAX_THREADS 256
#define MAX_KERNELS 16

/* --------------------------------------------------------------------------------------------- statistics */

typedef struct samples { double v[MAX_REPS + 1]; int n; } samples;

static void add_sample(samples *s, double v)
{
    if (s->n < MAX_REPS + 1) s->v[s->n++] = v;
}

static double mean(const samples *s)
{
    double sum = 0;
    int i;
    for (i = 0; i < s->n; i++) sum += s->v[i];
    return s->n ? sum / s->n : 0;
}

/* Of a sample: divided by n - 1; 0 for a single value. */
static double deviation(const samples *s)
{
    const double m = mean(s);
    double sum = 0;
    int i;
    for (i = 0; i < s->n; i++) sum += (s->v[i] - m) * (s->v[i] - m);
    return s->n > 1 ? sqrt(sum / (s->n - 1)) : 0;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Value at fraction q (0: least, 0.5: median, 1: greatest). */
static double quantile(const samples *s, double q)
{
    samples sorted = *s;
    double at;
    int i;
    if (s->n == 0) return 0;
    qsort(sorted.v, (size_t)sorted.n, sizeof sorted.v[0], compare_doubles);
    at = q * (s->n - 1);
    i = (int)at;
    return i + 1 < s->n ? sorted.v[i] + (at - i) * (sorted.v[i + 1] - sorted.v[i]) : sorted.v[i];
}

/* ---------------------------------------------------------------------------------------------- bandwidth
   Each thread reads its part of the buffer as four streams, with software prefetch: on server CPUs the limit of one
   core is latency times the number of cache lines under way, and neither a single stream nor the hardware's prefetcher
   keeps enough of them (4 streams: 10 to 15 % more on a Xeon). Sums of 64-bit words need no vectors: from a cache this
   loop reads 45 GB/s a core, where the memory gives 10 to 30. */

#define STREAMS 4
#define LINE_WORDS 8                 /* a cache line of 64 bytes */
#define PREFETCH_WORDS 256           /* 2 KiB ahead */
#define PAGE_WORDS 512               /* 4 KiB */
#define SKEW_WORDS (39 * LINE_WORDS)
/* A stream is some pages less 39 lines long, so that the next one, which follows it, stands 25 lines further in its
   page than this one. Four streams at equal places of their pages compete for the same sets of the first-level cache:
   one thread of a Zen 4 then reads 10 GB/s instead of 26. */

typedef struct reader {
    const uint64_t *data;
    size_t n_words;
    uint64_t sum;                    /* the result, so that the compiler can't leave the reads out */
    bni_thread thread;
} reader;

static void prefetch(const uint64_t *p)
{
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}

static uint64_t line_sum(const uint64_t *p)
{
    return (p[0] + p[1]) + (p[2] + p[3]) + ((p[4] + p[5]) + (p[6] + p[7]));
}

/* Sums the four streams of a reader's part; n_words becomes the number of words really read. */
static void read_part(void *user)
{
    reader *r = (reader *)user;
    const size_t n = r->n_words / STREAMS / PAGE_WORDS * PAGE_WORDS - SKEW_WORDS;      /* words of a stream */
    const uint64_t *a = r->data, *b = a + n, *c = b + n, *d = c + n;
    uint64_t sum_a = 0, sum_b = 0, sum_c = 0, sum_d = 0;
    size_t i;
    for (i = 0; i < n; i += LINE_WORDS) {
        prefetch(a + i + PREFETCH_WORDS);
        prefetch(b + i + PREFETCH_WORDS);
        prefetch(c + i + PREFETCH_WORDS);
        prefetch(d + i + PREFETCH_WORDS);
        sum_a += line_sum(a + i);
        sum_b += line_sum(b + i);
        sum_c += line_sum(c + i);
        sum_d += line_sum(d + i);
    }
    r->n_words = n * STREAMS;
    r->sum = sum_a + sum_b + sum_c + sum_d;
}

typedef struct bandwidth {
    void *memory;                    /* as malloc gave it */
    uint64_t *buffer;                /* the same, from a page's border on; NULL: not measured */
    size_t n_words;
    uint64_t sum;                    /* over everything read, printed nowhere: keeps the reads alive */
} bandwidth;

/* Bytes of memory that could be had without swapping; 0 where the system doesn't tell. */
static uint64_t available_memory(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) break;
    if (f) fclose(f);
    return (uint64_t)kib * 1024;
}

/* 1 GiB (no cache is as large), or what half of the free memory allows; written once: it then has pages of its own. */
static void bandwidth_open(bandwidth *w)
{
    const uint64_t available = available_memory(), least = (uint64_t)64 << 20;
    uint64_t size = (uint64_t)1 << 30;
    size_t i;
    memset(w, 0, sizeof *w);
    while (available && size > available / 2 && size > least) size /= 2;
    while (!w->buffer && size >= least) {
        w->memory = malloc((size_t)size + 4096);
        if (w->memory) w->buffer = (uint64_t *)(((uintptr_t)w->memory + 4095) & ~(uintptr_t)4095);
        w->n_words = (size_t)size / 8;
        if (!w->memory) size /= 2;
    }
    if (!w->buffer) {
        cli_message("no memory to measure the bandwidth with");
        return;
    }
    for (i = 0; i < w->n_words; i++) w->buffer[i] = i;
}

/* GB/s of one read of the whole buffer by n threads; 0 if it can't be measured. */
static double bandwidth_sample(bandwidth *w, int n_threads)
{
    static reader readers[MAX_THREADS];
    uint64_t start, ns, words = 0;
    int i, started = 0;
    if (!w->buffer) return 0;
    start = bni_time_ns();
    for (i = 0; i < n_threads; i++) {
        reader *r = &readers[i];
        r->n_words = w->n_words / (size_t)n_threads / PAGE_WORDS * PAGE_WORDS;
        r->data = w->buffer + (size_t)i * r->n_words;
        if (i + 1 == n_threads) read_part(r);            /* the last one is ours */
        else if (bni_thread_start(&r->thread, read_part, r) == 0) started++;
        else break;
    }
    for (i = 0; i < started; i++) bni_thread_join(&readers[i].thread);
    ns = bni_time_ns() - start;
    if (started + 1 < n_threads) return 0;
    for (i = 0; i < n_threads; i++) {
        words += readers[i].n_words;
        w->sum += readers[i].sum;
    }
    return (double)words * 8 / (double)(ns ? ns : 1);
}

/* ------------------------------------------------------------------------------------------- one repetition */

typedef struct arguments {
    cli_model_args model;
    cli_strings models, prompts, gens, threads, depths, kernels;
    const char *format;
    int reps, batch, batch_given, no_warmup, no_read;
} arguments;

/* What is being run: one model with one kernel set, and for each test an engine with one session. */
typedef struct bench {
    const arguments *args;
    bitnet_model *model;
    bitnet_model_info info;
    const char *path;
    bitnet_engine *engine;
    bitnet_session *session;
    int32_t *tokens;                 /* [max of prompt and depth] random */
    bandwidth read;
    double load_seconds;
    uint64_t resident;               /* bytes, the buffer of the bandwidth not counted; greatest seen */
    samples all_reads[MAX_THREADS + 1];      /* by number of threads */
} bench;

/* Drives the session until it is done. Returns 1, or 0 when Ctrl-C came first; exits 1 on errors. */
static int run(bench *b, const int32_t *prompt, int n, int n_gen)
{
    bitnet_generation generation;
    bitnet_event event;
    bitnet_result result;
    int n_tokens = 0;
    memset(&generation, 0, sizeof generation);
    generation.max_tokens = n_gen;
    generation.ignore_end = 1;
    result = bitnet_begin(b->session, prompt, n, n_gen ? &generation : NULL);
    while (result == BITNET_OK) {
        if (cli_interrupted) {
            bitnet_finish(b->engine);
            return 0;
        }
        result = bitnet_step(b->engine, BITNET_NO_BUDGET);
        while (bitnet_next_event(b->session, &event)) {
            if (event.type == BITNET_EVENT_TOKEN) n_tokens++;
            if (event.type != BITNET_EVENT_DONE) continue;
            if (event.reason == BITNET_DONE_ERROR) cli_fail_with(b->path, event.error);
            if (n_tokens != n_gen) cli_fail("%s: ended after %d of %d tokens", b->path, n_tokens, n_gen);
            return 1;
        }
    }
    cli_fail("%s: %s", b->path, result == BITNET_IDLE ? "the engine is idle" : bitnet_result_text(result));
    return 0;
}

/* One repetition at the given depth; *seconds is its time. Returns as run. */
static int repeat(bench *b, int n_prompt, int n_gen, int depth, double *seconds)
{
    const int32_t first = b->info.bos >= 0 ? b->info.bos : 0;
    const bitnet_result result = bitnet_session_rewind(b->session, depth);
    uint64_t start;
    int whole;
    if (result != BITNET_OK) cli_fail("%s: rewind: %s", b->path, bitnet_result_text(result));
    start = bni_time_ns();
    /* n tokens are n passes: the first evaluates the begin token, the last one's token is not evaluated any more */
    whole = n_gen ? run(b, &first, 1, n_gen) : run(b, b->tokens, n_prompt, 0);
    *seconds = (double)(bni_time_ns() - start) * 1e-9;
    return whole;
}

/* ------------------------------------------------------------------------------------------------- a test */

typedef struct test {
    int n_threads, n_prompt, n_gen, depth;       /* n_prompt or n_gen is 0 */
    samples ns, ts, read;            /* nanoseconds and tokens per second of each repetition; GB/s before each */
    double bytes_per_token;
    time_t when;
} test;

/* Bytes of K and V of one position: 16-bit integers and one f32 scale per head, for both, in each layer. */
static double kv_row_bytes(const bitnet_model_info *info)
{
    return 2.0 * info->n_layer * info->n_head_kv * (2.0 * info->head_dim + 4.0);
}

/* Bytes read from memory per token, if nothing stays in the caches between passes: the weights once per pass, and the
   keys and values of every position up to the pass's last token. */
static double bytes_per_token(const bitnet_model_info *info, const test *t, int n_batch)
{
    double bytes = 0;
    int at = 0;
    const int n = t->n_gen ? t->n_gen : t->n_prompt, step = t->n_gen ? 1 : n_batch;
    while (at < n) {
        at += step < n - at ? step : n - at;
        bytes += (double)info->weight_bytes + kv_row_bytes(info) * (t->depth + at);
    }
    return bytes / n;
}

static void open_session(bench *b, const test *t)
{
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    bitnet_error err;
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    memset(&err, 0, sizeof err);
    session.n_ctx = t->depth + (t->n_gen ? t->n_gen + 1 : t->n_prompt);
    engine.n_ctx = session.n_ctx;
    engine.n_batch = b->args->batch;
    engine.n_threads = t->n_threads;
    if (bitnet_engine_create(b->model, &engine, &b->engine, &err) != BITNET_OK) cli_fail_with(b->path, &err);
    if (bitnet_session_create(b->engine, &session, &b->session, &err) != BITNET_OK) cli_fail_with(b->path, &err);
}

static void close_session(bench *b)
{
    bitnet_finish(b->engine);
    bitnet_session_destroy(b->session);
    bitnet_engine_destroy(b->engine);
}

/* Memory of this process that is in RAM now, in bytes, without the bandwidth's buffer; the peak where there is no
   /proc; 0 where nothing tells. */
static uint64_t resident_memory(const bench *b)
{
    const uint64_t buffer = b->read.buffer ? (uint64_t)b->read.n_words * 8 : 0;
    uint64_t bytes = 0;
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long kib;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %llu", &kib) == 1) bytes = (uint64_t)kib * 1024;
    if (f) fclose(f);
#if !defined(_WIN32)
    if (!bytes) {
        struct rusage usage;
        if (getrusage(RUSAGE_SELF, &usage) == 0)
  #if defined(__APPLE__)
            bytes = (uint64_t)usage.ru_maxrss;
  #else
            bytes = (uint64_t)usage.ru_maxrss * 1024;
  #endif
    }
#endif
    return bytes > buffer ? bytes - buffer : 0;
}

static void read_sample(bench *b, test *t)
{
    const double gb = bandwidth_sample(&b->read, t->n_threads);
    if (gb <= 0) return;
    add_sample(&t->read, gb);
    add_sample(&b->all_reads[t->n_threads], gb);
}

/* Fills in t's samples. Returns 1, or 0 after Ctrl-C (with the repetitions that were finished). */
static int run_test(bench *b, test *t)
{
    const int n = t->n_gen ? t->n_gen : t->n_prompt;
    int i, whole = 1;
    double seconds;
    uint64_t resident;
    t->when = time(NULL);
    t->bytes_per_token = bytes_per_token(&b->info, t, b->args->batch);
    open_session(b, t);
    if (t->depth) whole = run(b, b->tokens, t->depth, 0);
    if (whole && !b->args->no_warmup) {                  /* brings threads and pages in: one pass, or two tokens */
        const int n_warm = n < b->args->batch ? n : b->args->batch;
        whole = repeat(b, t->n_gen ? 0 : n_warm, t->n_gen ? (n < 2 ? n : 2) : 0, t->depth, &seconds);
    }
    for (i = 0; i < b->args->reps && whole; i++) {
        read_sample(b, t);
        whole = repeat(b, t->n_prompt, t->n_gen, t->depth, &seconds);
        if (!whole) break;
        add_sample(&t->ns, seconds * 1e9);
        add_sample(&t->ts, n / seconds);
    }
    read_sample(b, t);
    resident = resident_memory(b);
    if (resident > b->resident) b->resident = resident;
    close_session(b);
    return whole;
}

static double gb_per_s(const test *t) { return t->bytes_per_token * quantile(&t->ts, 0.5) * 1e-9; }

/* Share of the bandwidth, 1 = all of it; 0 where that wasn't measured. */
static double read_share(const test *t)
{
    const double read = quantile(&t->read, 0.5);
    return read > 0 ? gb_per_s(t) / read : 0;
}

/* ------------------------------------------------------------------------------------------------ printing */

typedef struct printer {
    int format;                      /* 'm', 'j', 'c' */
    int show_batch, show_kernels;    /* columns that only appear where they tell something */
    int n_rows;
} printer;

/* As llama.cpp puts it: architecture, size, type. */
static void model_label(char *text, size_t size, const bitnet_model_info *info)
{
    const double n = (double)info->n_parameters;
    char count[24];
    snprintf(count, sizeof count, n < 1e9 ? "%.0fM" : n < 1e10 ? "%.1fB" : "%.0fB", n < 1e9 ? n * 1e-6 : n * 1e-9);
    snprintf(text, size, "%s %s %s", info->architecture, count, info->linear_type);
}

static void test_label(char *text, size_t size, const test *t)
{
    const int n = snprintf(text, size, t->n_gen ? "tg%d" : "pp%d", t->n_gen ? t->n_gen : t->n_prompt);
    if (t->depth && n > 0 && (size_t)n < size) snprintf(text + n, size - (size_t)n, " @ d%d", t->depth);
}

/* The processor's name; "" where nothing tells. */
static void cpu_name(char *text, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[512];
    text[0] = 0;
    while (f && !text[0] && fgets(line, sizeof line, f)) {
        const char *at = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (at) snprintf(text, size, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
    }
    if (f) fclose(f);
}

static void print_samples(const samples *s, const char *format)
{
    int i;
    for (i = 0; i < s->n; i++) {
        fputs(i ? ", " : " ", stdout);
        printf(format, s->v[i]);
    }
}

static void markdown_header(const printer *p)
{
    printf("| %-30s | %10s | %10s | %-10s | %7s |", "model", "size", "params", "backend", "threads");
    if (p->show_batch) printf(" %7s |", "n_batch");
    printf(" %15s | %20s | %9s | %7s | %7s |", "test", "t/s", "MB/token", "GB/s", "of read");
    if (p->show_kernels) printf(" %-10s |", "kernels");
    printf("\n| %.29s- | %.9s: | %.9s: | %.9s- | %.6s: |", "------------------------------", "----------", "----------",
           "----------", "-------");
    if (p->show_batch) printf(" ------: |");
    printf(" %.14s: | %.19s: | --------: | ------: | ------: |", "---------------", "--------------------");
    if (p->show_kernels) printf(" ---------- |");
    printf("\n");
}

static void markdown_row(const printer *p, const bench *b, const test *t)
{
    const double size = (double)b->info.file_bytes, n = (double)b->info.n_parameters;
    char model[80], label[48], bytes[32], params[32], speed[48], share[16] = "";
    model_label(model, sizeof model, &b->info);
    test_label(label, sizeof label, t);
    snprintf(bytes, sizeof bytes, size < 1073741824.0 ? "%.2f MiB" : "%.2f GiB",
             size < 1073741824.0 ? size / 1048576.0 : size / 1073741824.0);
    snprintf(params, sizeof params, n < 1e9 ? "%.2f M" : "%.2f B", n < 1e9 ? n * 1e-6 : n * 1e-9);
    snprintf(speed, sizeof speed, "%.2f \xc2\xb1 %.2f", mean(&t->ts), deviation(&t->ts));
    if (read_share(t) > 0) snprintf(share, sizeof share, "%.0f %%", read_share(t) * 100);
    printf("| %-30s | %10s | %10s | %-10s | %7d |", model, bytes, params, "CPU", t->n_threads);
    if (p->show_batch) printf(" %7d |", b->args->batch);
    printf(" %15s | %21s | %9.2f | %7.2f | %7s |", label, speed, t->bytes_per_token * 1e-6, gb_per_s(t), share);
    if (p->show_kernels) printf(" %-10s |", b->info.kernels);
    printf("\n");
}

static void json_row(const bench *b, const test *t, const char *when, const char *cpu)
{
    char model[80];
    model_label(model, sizeof model, &b->info);
    printf("  {\n    \"build_commit\": \"bitnet.h %s\",\n    \"build_number\": 0,\n", bitnet_version());
    printf("    \"cpu_info\": ");
    show_json_string(stdout, cpu);
    printf(",\n    \"gpu_info\": \"\",\n    \"backends\": \"CPU\",\n    \"model_filename\": ");
    show_json_string(stdout, b->path);
    printf(",\n    \"model_type\": ");
    show_json_string(stdout, model);
    printf(",\n    \"model_size\": %.0f,\n    \"model_n_params\": %.0f,\n", (double)b->info.file_bytes,
           (double)b->info.n_parameters);
    printf("    \"n_batch\": %d,\n    \"n_ubatch\": %d,\n    \"n_threads\": %d,\n    \"n_gpu_layers\": 0,\n",
           b->args->batch, b->args->batch, t->n_threads);
    printf("    \"n_prompt\": %d,\n    \"n_gen\": %d,\n    \"n_depth\": %d,\n    \"test_time\": \"%s\",\n", t->n_prompt,
           t->n_gen, t->depth, when);
    printf("    \"avg_ns\": %.0f,\n    \"stddev_ns\": %.0f,\n", mean(&t->ns), deviation(&t->ns));
    printf("    \"avg_ts\": %f,\n    \"stddev_ts\": %f,\n", mean(&t->ts), deviation(&t->ts));
    printf("    \"kernels\": \"%s\",\n    \"median_ts\": %f,\n", b->info.kernels, quantile(&t->ts, 0.5));
    printf("    \"bytes_per_token\": %.0f,\n    \"gb_per_s\": %.3f,\n", t->bytes_per_token, gb_per_s(t));
    printf("    \"read_gb_per_s\": %.3f,\n    \"read_share\": %.4f,\n", quantile(&t->read, 0.5), read_share(t));
    printf("    \"load_ns\": %.0f,\n    \"resident_bytes\": %.0f,\n", b->load_seconds * 1e9, (double)b->resident);
    printf("    \"samples_ns\": [");
    print_samples(&t->ns, "%.0f");
    printf(" ],\n    \"samples_ts\": [");
    print_samples(&t->ts, "%f");
    printf(" ],\n    \"samples_read_gb_per_s\": [");
    print_samples(&t->read, "%.3f");
    printf(" ]\n  }");
}

/* A field of a CSV file: quoted, quotes doubled. */
static void csv_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    fputs("\",", stdout);
}

static void csv_row(const bench *b, const test *t, const char *when, const char *cpu)
{
    char model[80];
    model_label(model, sizeof model, &b->info);
    printf("\"bitnet.h %s\",\"0\",", bitnet_version());
    csv_text(cpu);
    csv_text("CPU");
    csv_text(b->path);
    csv_text(model);
    printf("\"%.0f\",\"%.0f\",\"%d\",\"%d\",\"0\",\"%d\",\"%d\",\"%d\",\"%s\",", (double)b->info.file_bytes,
           (double)b->info.n_parameters, b->args->batch, t->n_threads, t->n_prompt, t->n_gen, t->depth, when);
    printf("\"%.0f\",\"%.0f\",\"%f\",\"%f\",", mean(&t->ns), deviation(&t->ns), mean(&t->ts), deviation(&t->ts));
    printf("\"%s\",\"%.0f\",\"%.3f\",\"%.3f\",\"%.4f\"\n", b->info.kernels, t->bytes_per_token, gb_per_s(t),
           quantile(&t->read, 0.5), read_share(t));
}

static void print_header(const printer *p)
{
    if (p->format == 'm') markdown_header(p);
    if (p->format == 'j') printf("[");
    if (p->format == 'c')
        printf("build_commit,build_number,cpu_info,backends,model_filename,model_type,model_size,model_n_params,"
               "n_batch,n_threads,n_gpu_layers,n_prompt,n_gen,n_depth,test_time,avg_ns,stddev_ns,avg_ts,stddev_ts,"
               "kernels,bytes_per_token,gb_per_s,read_gb_per_s,read_share\n");
    fflush(stdout);
}

static void print_row(printer *p, const bench *b, const test *t)
{
    char cpu[256], when[32];
    cpu_name(cpu, sizeof cpu);
    if (strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime(&t->when)) == 0) when[0] = 0;
    if (p->format == 'm') markdown_row(p, b, t);
    if (p->format == 'j') {
        printf(p->n_rows ? ",\n" : "\n");
        json_row(b, t, when, cpu);
    }
    if (p->format == 'c') csv_row(b, t, when, cpu);
    p->n_rows++;
    fflush(stdout);
}

/* Below a table: part of it; beside JSON and CSV: on stderr. */
static void print_footer(const printer *p, const bench *b)
{
    FILE *f = p->format == 'm' ? stdout : stderr;
    char size[24];
    int i;
    if (p->format == 'm') printf("\nbuild: bitnet.h %s, kernels %s\n", bitnet_version(), b->info.kernels);
    for (i = 1; i <= MAX_THREADS; i++) {
        const samples *s = &b->all_reads[i];
        if (s->n)
            fprintf(f, "read bandwidth, %d thread%s: %.1f / %.1f / %.1f GB/s (min / median / max of %d reads of %s)\n",
                    i, i == 1 ? "" : "s", quantile(s, 0), quantile(s, 0.5), quantile(s, 1), s->n,
                    cli_size(size, (uint64_t)b->read.n_words * 8));
    }
    fprintf(f, "load: %.2f s; ", b->load_seconds);
    fprintf(f, "resident memory: %s", b->resident ? cli_size(size, b->resident) : "not known");
    fprintf(f, " (weights and tables %s", cli_size(size, b->info.model_memory));
    fprintf(f, ", mapped file %s)\n", cli_size(size, b->info.mapped_memory));
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

/* The kernel sets to test, in names [MAX_KERNELS]; exits 2 on one that isn't there. NULL stands for the best. */
static int kernel_sets(const cli_strings *given, const char **names, char (*copies)[32])
{
    int n = 0, i, usable;
    const char *name;
    for (i = 0; i < given->n; i++) {
        const char *text = given->item[i];
        if (strcmp(text, "all") == 0) {
            int k;
            for (k = 0; (name = bitnet_kernels_name(k, &usable)) != NULL; k++)
                if (usable && n < MAX_KERNELS) names[n++] = name;
            continue;
        }
        for (;;) {
            const size_t length = strcspn(text, ",");
            if (n == MAX_KERNELS) cli_usage("--kernels: more than %d", MAX_KERNELS);
            snprintf(copies[n], 32, "%.*s", length < 31 ? (int)length : 31, text);
            cli_check_kernels(copies[n]);
            names[n] = copies[n];
            n++;
            if (!text[length]) break;
            text += length + 1;
        }
    }
    if (n == 0) names[n++] = NULL;
    return n;
}

typedef struct plan {
    int prompts[MAX_LIST], gens[MAX_LIST], threads[MAX_LIST], depths[MAX_LIST];
    int n_prompts, n_gens, n_threads, n_depths;
} plan;

static void make_plan(const arguments *a, plan *p)
{
    char cores[16];
    int i;
    snprintf(cores, sizeof cores, "%d", bni_cpu_count() < 16 ? bni_cpu_count() : 16);
    p->n_prompts = read_lists("-p", &a->prompts, "512", 0, 1 << 24, p->prompts);
    p->n_gens = read_lists("-n", &a->gens, "128", 0, 1 << 24, p->gens);
    p->n_depths = read_lists("-d", &a->depths, "0", 0, 1 << 24, p->depths);
    p->n_threads = read_lists("-t", &a->threads, cores, 0, MAX_THREADS, p->threads);
    for (i = 0; i < p->n_threads; i++)
        if (p->threads[i] == 0) p->threads[i] = atoi(cores);
}

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
static int one_test(bench *b, printer *out, int n_threads, int n_prompt, int n_gen, int depth)
{
    static test t;
    int whole;
    if (n_prompt + n_gen == 0) return 1;
    memset(&t, 0, sizeof t);
    t.n_threads = n_threads;
    t.n_prompt = n_prompt;
    t.n_gen = n_gen;
    t.depth = depth;
    whole = run_test(b, &t);
    if (t.ts.n) print_row(out, b, &t);
    if (!whole && t.ts.n) cli_message("interrupted: the last row is of %d repetitions", t.ts.n);
    if (!whole && !t.ts.n) cli_message("interrupted");
    return whole;
}

/* All tests with one model and kernel set, in llama-bench's order. Returns 0 after Ctrl-C. */
static int run_plan(bench *b, const plan *p, printer *out)
{
    int i, d, k, whole = 1;
    for (i = 0; i < p->n_threads && whole; i++)
        for (d = 0; d < p->n_depths && whole; d++) {
            for (k = 0; k < p->n_prompts && whole; k++)
                whole = one_test(b, out, p->threads[i], p->prompts[k], 0, p->depths[d]);
            for (k = 0; k < p->n_gens && whole; k++)
                whole = one_test(b, out, p->threads[i], 0, p->gens[k], p->depths[d]);
        }
    return whole;
}

static int run_model(bench *b, arguments *a, const plan *p, const char *path, const char *kernels, printer *out)
{
    double start;
    int whole;
    a->model.path = path;
    a->model.kernels = kernels;
    b->path = path;
    start = cli_seconds();
    b->model = cli_open_model(&a->model, 0);
    b->load_seconds = cli_seconds() - start;
    bitnet_model_get_info(b->model, &b->info);
    make_tokens(b, p);
    if (!b->read.buffer && !a->no_read) bandwidth_open(&b->read);
    whole = run_plan(b, p, out);
    bitnet_model_close(b->model);
    return whole;
}

static void parse(arguments *a, int argc, char **argv)
{
    const char *model = NULL;
    const cli_option options[] = {
        {"-m --model", CLI_STRINGS, &a->models, "FILE", "the model; may be given several times", 0, 0},
        {"-p --n-prompt", CLI_STRINGS, &a->prompts, "N,...", "tokens of the prompt test; 0: none (512)", 0, 0},
        {"-n --n-gen", CLI_STRINGS, &a->gens, "N,...", "tokens of the generation test; 0: none (128)", 0, 0},
        {"-d --n-depth", CLI_STRINGS, &a->depths, "N,...", "tokens in the context before the test (0)", 0, 0},
        {"-t --threads", CLI_STRINGS, &a->threads, "N,...", "threads (one per core, at most 16)", 0, 0},
        {"-b --batch-size", CLI_INT, &a->batch, "N", "most prompt tokens of one pass (128)", 1, 1 << 20},
        {"-r --repetitions", CLI_INT, &a->reps, "N", "repetitions of each test (5)", 1, MAX_REPS},
        {"-o --output", CLI_STRING, &a->format, "FORMAT", "md, json or csv (md)", 0, 0},
        {"--kernels", CLI_STRINGS, &a->kernels, "NAME,...", "kernel sets to test; all: each that this CPU runs", 0, 0},
        {"--list-kernels", CLI_LIST_KERNELS, NULL, NULL, "print the kernel sets this CPU runs, and end", 0, 0},
        {"--layout", CLI_STRING, &a->model.layout, "auto|r16|t5", "weights in memory at 2 or 1.6 bits", 0, 0},
        {"--head", CLI_STRING, &a->model.head, "auto|full|two-pass", "output matrix: two-pass reads half as much", 0, 0},
        {"--i2s-layout", CLI_STRING, &a->model.i2s_layout, "A|B|C|D", "bit order of I2_S tensors", 0, 0},
        {"--no-mmap", CLI_FLAG, &a->model.no_mmap, NULL, "read the model into memory instead of mapping it", 0, 0},
        {"--mlock", CLI_FLAG, &a->model.mlock, NULL, "keep the model from being swapped out", 0, 0},
        {"--no-warmup", CLI_FLAG, &a->no_warmup, NULL, "no short run before the repetitions", 0, 0},
        {"--no-read", CLI_FLAG, &a->no_read, NULL, "don't measure the bandwidth", 0, 0},
        {"-ngl --n-gpu-layers --gpu-layers -ub --ubatch-size -fa --flash-attn -mmp --mmap -ctk --cache-type-k -ctv "
         "--cache-type-v -sm --split-mode -mg --main-gpu -nkvo --no-kv-offload --poll --prio --delay --numa",
         CLI_IGNORED_VALUE, NULL, NULL, NULL, 0, 0},
        {"-v --verbose --progress", CLI_IGNORED, NULL, NULL, NULL, 0, 0},
    };
    const cli_program program = {
        "bench", "[options] -m MODEL", "How fast a model runs, in llama-bench's table, and as a share of the memory's "
        "bandwidth.",
        "MB/token: what a token reads, weights and KV cache. GB/s: that times the median speed. of read: the share of\n"
        "the bandwidth that a plain read reaches in the same run. Ctrl-C ends and prints what is there.",
        options, CLI_COUNT(options), 0, 1};
    a->reps = 5;
    a->format = "md";
    cli_parse(&program, argc, argv, &model);
    a->batch_given = a->batch != 0;
    if (!a->batch) a->batch = 128;
    cli_check_model_args(&a->model);
    if (model && a->models.n < CLI_MAX_STRINGS) a->models.item[a->models.n++] = model;
    if (a->models.n == 0) cli_usage("which model? usage: bench %s", program.usage);
    if (strcmp(a->format, "md") != 0 && strcmp(a->format, "json") != 0 && strcmp(a->format, "csv") != 0)
        cli_usage("-o %s: not md, json or csv", a->format);
}

int main(int argc, char **argv)
{
    static bench b;
    static arguments a;
    static plan p;
    static char copies[MAX_KERNELS][32];
    const char *kernels[MAX_KERNELS];
    printer out;
    int i, k, n_kernels, whole = 1;
    memset(&out, 0, sizeof out);
    parse(&a, argc, argv);
    make_plan(&a, &p);
    n_kernels = kernel_sets(&a.kernels, kernels, copies);
    out.format = a.format[0];
    out.show_batch = a.batch_given;
    out.show_kernels = a.kernels.n > 0;
    b.args = &a;
    cli_catch_interrupts();
    for (i = 0; i < a.models.n && whole; i++)
        for (k = 0; k < n_kernels && whole; k++) {
            if (i + k == 0) {                            /* not before: a file that can't be opened gets no table */
                bitnet_error err;
                bitnet_model_desc desc;
                memset(&err, 0, sizeof err);
                memset(&desc, 0, sizeof desc);
                desc.path = a.models.item[0];
                if (bitnet_model_probe(&desc, NULL, &err) != BITNET_OK) cli_fail_with(desc.path, &err);
                print_header(&out);
            }
            whole = run_model(&b, &a, &p, a.models.item[i], kernels[k], &out);
        }
    if (out.format == 'j') printf("\n]\n");
    print_footer(&out, &b);
    free(b.tokens);
    free(b.read.memory);
    k = cli_finish_output();
    return whole ? k : 130;                              /* as a shell says it: ended by SIGINT */
}
