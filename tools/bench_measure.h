/* bench_measure.h: statistics, memory, and the two limits that bench compares everything with: how fast the machine
   reads its memory, and how many integer operations a second its units do. Both are measured, never looked up, by as
   many threads as the test has, right before each repetition: other work on the machine then slows both alike.
   Include after tools/cli.h, bitnet.h with its implementation, and <math.h>. Same licence as bitnet.h.

   Contents: statistics; memory of the process; a team of threads; reading; integer units; limits. */
#ifndef BITNET_BENCH_MEASURE_H
#define BITNET_BENCH_MEASURE_H

#if !defined(_WIN32)
#include <sys/resource.h>
#endif

#define MAX_REPS 1000
#define MAX_THREADS 256

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

/* Value at fraction q (0: least, 0.5: median, 1: greatest); 0 of nothing. */
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

static double median(const samples *s) { return quantile(s, 0.5); }

/* -------------------------------------------------------------------------------------- memory of the process */

/* A line of a file in /proc, such as "VmRSS:", in bytes; 0 where there is none. */
static uint64_t proc_bytes(const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", &kib) == 1) break;
    if (f) fclose(f);
    return (uint64_t)kib * 1024;
}

/* Bytes of this process in RAM: now, at most so far, and the part of now that pages of files take. Where the system
   doesn't tell them apart now is the peak, and files 0; all 0 where nothing tells. */
typedef struct memory_use { uint64_t now, peak, files; } memory_use;

static memory_use memory_in_use(void)
{
    memory_use m;
    m.now = proc_bytes("/proc/self/status", "VmRSS:");
    m.peak = proc_bytes("/proc/self/status", "VmHWM:");
    m.files = proc_bytes("/proc/self/status", "RssFile:");
#if !defined(_WIN32)
    if (!m.peak) {
        struct rusage usage;
  #if defined(__APPLE__)
        const uint64_t unit = 1;
  #else
        const uint64_t unit = 1024;
  #endif
        if (getrusage(RUSAGE_SELF, &usage) == 0) m.now = m.peak = (uint64_t)usage.ru_maxrss * unit;
    }
#endif
    return m;
}

/* Lets the peak begin again at what is in use now, where the system can (Linux). */
static void memory_forget_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

/* ----------------------------------------------------------------------------------------- a team of threads
   The engine's own pool: its threads wait awake between the pieces of a measurement. */

typedef struct team {
    void *memory;
    bni_pool *pool;                  /* in memory, aligned */
    int n_threads;
} team;

static void team_close(team *t)
{
    if (t->pool) bni_pool_stop(t->pool);
    free(t->memory);
    memset(t, 0, sizeof *t);
}

/* A team of n threads; one that has as many already stays. Exits 1 if they can't be had. */
static void team_open(team *t, int n_threads)
{
    if (t->n_threads == n_threads) return;
    team_close(t);
    t->memory = cli_alloc((size_t)bni_pool_memory(n_threads) + 64);
    t->pool = (bni_pool *)(((uintptr_t)t->memory + 63) & ~(uintptr_t)63);
    if (bni_pool_start(t->pool, n_threads) != 0) cli_fail("%d threads could not be started", n_threads);
    t->n_threads = n_threads;
}

/* ------------------------------------------------------------------------------------------------- reading
   Each thread reads its pieces of the buffer as four streams, with software prefetch: on server CPUs the limit of one
   core is latency times the number of cache lines under way, and neither a single stream nor the hardware's prefetcher
   keeps enough of them (4 streams: 10 to 15 % more on a Xeon). Sums of 64-bit words need no vectors: from a cache this
   loop reads 45 GB/s a core, where the memory gives 10 to 30. */

#define STREAMS 4
#define PIECES_PER_THREAD 4          /* so that a thread that loses its core stalls nobody for long */
#define LINE_WORDS 8                 /* a cache line of 64 bytes */
#define PREFETCH_WORDS 256           /* 2 KiB ahead */
#define PAGE_WORDS 512               /* 4 KiB */
#define SKEW_WORDS (39 * LINE_WORDS)
/* A stream is some pages less 39 lines long, so that the next one, which follows it, stands 25 lines further in its
   page than this one. Four streams at equal places of their pages compete for the same sets of the first-level cache:
   one thread of a Zen 4 then reads 10 GB/s instead of 26. */
#define LEAST_PIECE (64 * 1024)      /* bytes of a piece: four streams of a few pages */

/* What is read, and what the kernels multiply where no model is there: codes of ternary weights, the same bytes being
   sound in both layouts (pairs of bits 0, 1, 2; as bytes below 192). */
typedef struct arena {
    uint8_t *data;                   /* on huge pages, as the engine's weights are; NULL: nothing is measured */
    size_t size;
} arena;

#define ARENA_BEHIND (2 * 4096)      /* kernels prefetch past the end */

/* Buffer of size bytes, or what half of the free memory allows; written once: it then has pages of its own. */
static void arena_open(arena *a, uint64_t size)
{
    const uint64_t available = proc_bytes("/proc/meminfo", "MemAvailable:"), least = (uint64_t)1 << 20;
    uint64_t random = 1, word, *words;
    size_t i;
    memset(a, 0, sizeof *a);
    while (available && size > available / 2 && size > least) size /= 2;
    while (!a->data && size >= least) {
        a->data = (uint8_t *)bni_default_alloc(NULL, (size_t)size + ARENA_BEHIND, 4096);
        if (!a->data) size /= 2;
    }
    if (!a->data) {
        cli_message("no memory to measure the bandwidth with");
        return;
    }
    a->size = (size_t)size;
    words = (uint64_t *)(void *)a->data;
    for (i = 0; i < a->size / 8; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;        /* Knuth's MMIX generator */
        word = random ^ random >> 32;
        words[i] = word & ~(word >> 1 & 0x5555555555555555u);                /* 3 becomes 2 */
    }
}

typedef struct read_job {
    const uint64_t *data;
    size_t stream;                   /* words of one of the four streams of a piece */
    size_t piece;                    /* words from one piece to the next */
    uint64_t sum[PIECES_PER_THREAD * MAX_THREADS];       /* keeps the compiler from leaving the reads out */
} read_job;

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

static void read_piece(void *user, int index)
{
    read_job *r = (read_job *)user;
    const size_t n = r->stream;
    const uint64_t *a = r->data + (size_t)index * r->piece, *b = a + n, *c = b + n, *d = c + n;
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
    r->sum[index] = sum_a + sum_b + sum_c + sum_d;
}

/* GB/s of one reading of size bytes of the buffer from at on, a multiple of 4096, by the team. */
static double read_sample(const arena *a, team *t, size_t at, size_t size)
{
    static read_job job;
    int pieces = PIECES_PER_THREAD * t->n_threads;
    uint64_t ns;
    while (pieces > 1 && size / (size_t)pieces < LEAST_PIECE) pieces--;
    job.data = (const uint64_t *)(const void *)(a->data + at);
    job.piece = size / (size_t)pieces / 4096 * PAGE_WORDS;
    job.stream = job.piece / STREAMS / PAGE_WORDS * PAGE_WORDS - SKEW_WORDS;
    ns = bni_time_ns();
    bni_pool_parallel_for(t->pool, read_piece, &job, pieces);
    ns = bni_time_ns() - ns;
    return (double)(job.stream * STREAMS * 8) * pieces / (double)(ns ? ns : 1);
}

/* -------------------------------------------------------------------------------------------- integer units
   The peak of an instruction is what a loop of nothing else reaches, on registers alone, with as many independent sums
   as it takes to hide its latency (5 cycles, two a cycle: 10). A multiplication and an addition are two operations.
   In asm, registers and all, so that the figure does not depend on the compiler or its flags.

   pmaddubsw adds two products to 16 bits, and a kernel that uses it has to add those to a sum; so does this one. The
   128-bit form overwrites one of its factors: ten of them. */

typedef struct unit {
    const char *name;                /* of the instruction and its registers */
    const char *kernels;             /* the sets it limits, separated by blanks */
    double ops;                      /* operations of a round */
    int rounds;                      /* that take some 10 us */
    void (*run)(int rounds);
} unit;

#if BNI_HAVE_X86 && defined(__x86_64__)
#define UNIT_LOOP "\n\tdecl %0\n\tjnz 1b\n\t"
#define UNIT_CLOBBERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                      "xmm12", "xmm13", "xmm14", "xmm15", "cc"
#define TWELVE_TIMES(f) f("0") f("1") f("2") f("3") f("4") f("5") f("6") f("7") f("8") f("9") f("10") f("11")
#define UNIT_AVX2_DOT(i) "vpmaddubsw %%ymm14, %%ymm15, %%ymm13\n\tvpaddw %%ymm13, %%ymm" i ", %%ymm" i "\n\t"
#define UNIT_AVXVNNI_DOT(i) "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" i "\n\t"
#define UNIT_AVX512_DOT(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" i "\n\t"
#define UNIT_SSSE3_DOT(factor, sum) "pmaddubsw %%xmm15, %%xmm" factor "\n\tpaddw %%xmm" factor ", %%xmm" sum "\n\t"

static void unit_ssse3(int rounds)
{
    __asm__ __volatile__("1:\n\t"
                         UNIT_SSSE3_DOT("0", "10") UNIT_SSSE3_DOT("1", "11") UNIT_SSSE3_DOT("2", "12")
                         UNIT_SSSE3_DOT("3", "13") UNIT_SSSE3_DOT("4", "14") UNIT_SSSE3_DOT("5", "10")
                         UNIT_SSSE3_DOT("6", "11") UNIT_SSSE3_DOT("7", "12") UNIT_SSSE3_DOT("8", "13")
                         UNIT_SSSE3_DOT("9", "14") UNIT_LOOP : "+r"(rounds) : : UNIT_CLOBBERS);
}

#if BNI_HAVE_AVX2
static void unit_avx2(int rounds)
{
    __asm__ __volatile__("1:\n\t" TWELVE_TIMES(UNIT_AVX2_DOT) UNIT_LOOP "vzeroupper" : "+r"(rounds) : : UNIT_CLOBBERS);
}
#endif

#if BNI_HAVE_AVXVNNI
static void unit_avxvnni(int rounds)
{
    __asm__ __volatile__("1:\n\t" TWELVE_TIMES(UNIT_AVXVNNI_DOT) UNIT_LOOP "vzeroupper" : "+r"(rounds) : : UNIT_CLOBBERS);
}
#endif

#if BNI_NEED_AVX512
static void unit_avx512(int rounds)
{
    __asm__ __volatile__("1:\n\t" TWELVE_TIMES(UNIT_AVX512_DOT) UNIT_LOOP "vzeroupper" : "+r"(rounds) : : UNIT_CLOBBERS);
}
#endif

#if BNI_HAVE_AMX
/* Four products of full tiles, 16 rows of 64 bytes; the system's permission was asked for when the kernels were. */
static void unit_amx(int rounds)
{
    struct { uint8_t palette, start, zero[14]; uint16_t width[16]; uint8_t rows[16]; } c;
    int i;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (i = 0; i < 8; i++) {
        c.width[i] = 64;
        c.rows[i] = 16;
    }
    __asm__ __volatile__("ldtilecfg %1\n\t"
                         "1:\n\ttdpbsud %%tmm6, %%tmm4, %%tmm0\n\ttdpbsud %%tmm7, %%tmm4, %%tmm1\n\t"
                         "tdpbsud %%tmm6, %%tmm5, %%tmm2\n\ttdpbsud %%tmm7, %%tmm5, %%tmm3" UNIT_LOOP "tilerelease"
                         : "+r"(rounds) : "m"(c) : "cc");
}
#endif
#endif /* BNI_HAVE_X86 */

/* From narrow to wide. */
static const unit units[] = {
#if BNI_HAVE_X86 && defined(__x86_64__)
    {"pmaddubsw xmm", "ssse3", 10 * 32, 5000, unit_ssse3},
  #if BNI_HAVE_AVX2
    {"vpmaddubsw ymm", "avx2", 12 * 64, 4000, unit_avx2},
  #endif
  #if BNI_HAVE_AVXVNNI
    {"vpdpbusd ymm", "avxvnni", 12 * 64, 5000, unit_avxvnni},
  #endif
  #if BNI_NEED_AVX512
    {"vpdpbusd zmm", "avx512 avx512vbmi", 12 * 128, 5000, unit_avx512},
  #endif
  #if BNI_HAVE_AMX
    {"tdpbsud tiles", "amx", 4 * 32768, 500, unit_amx},
  #endif
#endif
    {NULL, NULL, 0, 0, NULL}
};

/* The unit that limits a kernel set with so many tokens in a pass, NULL where none is known. AMX's tiles are for
   BNI_TILE_MIN tokens and more; with fewer the set is avx512vbmi. */
static const unit *unit_of(const char *kernels, int n_tokens)
{
    const char *set = strcmp(kernels, "amx") == 0 && n_tokens < BNI_TILE_MIN ? "avx512vbmi" : kernels;
    const unit *u;
    char name[64];
    for (u = units; u->name; u++) {
        const char *rest = u->kernels;
        while ((rest = cli_next_name(rest, name)) != NULL)
            if (strcmp(name, set) == 0) return u;
    }
    return NULL;
}

#define PEAK_NS 10000000u            /* a sample of the peak: long beside the 70 us that waking the threads takes */

typedef struct peak_job {
    const unit *u;
    uint64_t end;                    /* bni_time_ns to work until */
    uint64_t runs[MAX_THREADS];
} peak_job;

static void peak_piece(void *user, int index)
{
    peak_job *p = (peak_job *)user;
    uint64_t n = 0;
    do {
        p->u->run(p->u->rounds);
        n++;
    } while (bni_time_ns() < p->end);
    p->runs[index] = n;
}

/* TOPS: 10^12 operations a second of the unit, by the team. */
static double peak_sample(const unit *u, team *t)
{
    static peak_job job;
    const uint64_t start = bni_time_ns();
    double runs = 0;
    uint64_t ns;
    int i;
    job.u = u;
    job.end = start + PEAK_NS;
    bni_pool_parallel_for(t->pool, peak_piece, &job, t->n_threads);
    ns = bni_time_ns() - start;
    for (i = 0; i < t->n_threads; i++) runs += (double)job.runs[i];
    return runs * u->rounds * u->ops / (double)(ns ? ns : 1) * 1e-3;
}

/* -------------------------------------------------------------------------------------------------- limits */

#define MAX_LIMITS 200

/* All samples of the run, by what was measured and how many threads did it: the lines below the table. */
typedef struct limit {
    const unit *u;                   /* NULL: reading, in GB/s; else TOPS */
    int n_threads;
    samples s;
} limit;

typedef struct limits {
    arena memory;
    team team;
    size_t at;                       /* byte of the arena where the next reading or kernel begins */
    int off;                         /* 1: limits are not measured, the arena may still hold weights */
    limit of[MAX_LIMITS];
    int n;
} limits;

/* The limit's samples so far; NULL when there is no room for one more kind. */
static samples *limit_samples(limits *l, const unit *u, int n_threads)
{
    int i;
    for (i = 0; i < l->n; i++)
        if (l->of[i].u == u && l->of[i].n_threads == n_threads) return &l->of[i].s;
    if (l->n == MAX_LIMITS) return NULL;
    l->of[l->n].u = u;
    l->of[l->n].n_threads = n_threads;
    return &l->of[l->n++].s;
}

/* The next size bytes of the arena, from a page on, so that nothing is in a cache when it is looked at. */
static size_t limits_advance(limits *l, size_t size)
{
    size_t at = l->at;
    if (size >= l->memory.size || at > l->memory.size - size) at = 0;
    l->at = (at + size + 4095) & ~(size_t)4095;
    return at;
}

/* Reads size bytes (at most the whole arena) once; the sample goes to s and to the run's. */
static void limits_read(limits *l, size_t size, samples *s)
{
    samples *all;
    double gb;
    if (l->off || !l->memory.data) return;
    if (size > l->memory.size) size = l->memory.size;
    all = limit_samples(l, NULL, l->team.n_threads);
    gb = read_sample(&l->memory, &l->team, limits_advance(l, size), size);
    add_sample(s, gb);
    if (all) add_sample(all, gb);
}

/* The same for a unit's peak; nothing for NULL. */
static void limits_peak(limits *l, const unit *u, samples *s)
{
    samples *all;
    double tops;
    if (l->off || !u) return;
    tops = peak_sample(u, &l->team);
    add_sample(s, tops);
    all = limit_samples(l, u, l->team.n_threads);
    if (all) add_sample(all, tops);
}

static void limits_wake(limits *l) { bni_pool_step_begin(l->team.pool); }
static void limits_sleep(limits *l) { bni_pool_step_end(l->team.pool); }

static void limits_close(limits *l)
{
    team_close(&l->team);
    if (l->memory.data) bni_default_free(NULL, l->memory.data, l->memory.size + ARENA_BEHIND);
}

/* One line for each limit that was measured. */
static void print_limits(FILE *f, const limits *l)
{
    char size[24];
    int i;
    for (i = 0; i < l->n; i++) {
        const limit *m = &l->of[i];
        const samples *s = &m->s;
        if (s->n == 0) continue;
        fprintf(f, m->u ? "peak of %s" : "read bandwidth", m->u ? m->u->name : "");
        fprintf(f, ", %d thread%s: ", m->n_threads, m->n_threads == 1 ? "" : "s");
        fprintf(f, m->u ? "%.3f / %.3f / %.3f TOPS" : "%.1f / %.1f / %.1f GB/s", quantile(s, 0), median(s), quantile(s, 1));
        fprintf(f, " (min / median / max of %d", s->n);
        if (m->u) fprintf(f, ")\n");
        else fprintf(f, " reads in a buffer of %s)\n", cli_size(size, l->memory.size));
    }
}

#endif /* BITNET_BENCH_MEASURE_H */
