/* test_threads.c: the thread pool. Most of what can go wrong here goes wrong rarely, so run this under
   -fsanitize=thread as well. Jobs count with the engine's atomics; CHECK is for the main thread. */

#if defined(__linux__) && !defined(_GNU_SOURCE)
  #define _GNU_SOURCE                /* sched_setaffinity */
#endif
#if defined(__linux__)
  #include <sched.h>
#endif
#if !defined(_WIN32) && !defined(BITNET_NO_THREADS)
  #include <pthread.h>
  #include <signal.h>
/* Lets the k-th thread fail to start: the engine's pthread_create is this one. */
static int create_left = 1 << 30;
static int failing_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
    if (create_left-- <= 0)
        return 11;                   /* EAGAIN */
    return pthread_create(thread, attr, fn, arg);
}
  #define pthread_create failing_create
#endif

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "test.h"

#include <fenv.h>
#include <float.h>
#if !defined(_WIN32)
  #include <sys/select.h>
#endif
#include <time.h>

enum { MAX_COUNT = 70000 };

static bni_pool *new_pool(int n_threads)
{
    bni_pool *p = (bni_pool *)malloc((size_t)bni_pool_memory(n_threads));
    REQUIRE(p != NULL, "no memory");
    bni_pool_start(p, n_threads);
    return p;
}

static void end_pool(bni_pool *p)
{
    bni_pool_stop(p);
    free(p);
}

/* ------------------------------------------------------------------------------------------ each index once */

typedef struct {
    bni_atomic calls;
    int *seen;                       /* [count] plain memory: each index belongs to one job */
    int first;                       /* what the main thread wrote before the call */
    bni_atomic n_wrong;
} count_job;

static void count_index(void *arg, int index)
{
    count_job *job = (count_job *)arg;
    if (job->first != 12345)
        bni_atomic_add(&job->n_wrong, 1);
    job->seen[index]++;
    bni_atomic_add(&job->calls, 1);
}

static void test_indices(bni_pool *p, int count)
{
    static int seen[MAX_COUNT + 1];
    count_job job;
    int i, wrong = 0;
    memset(&job, 0, sizeof job);
    memset(seen, 0, sizeof seen);
    job.seen = seen;
    job.first = 12345;
    bni_pool_parallel_for(p, count_index, &job, count);
    for (i = 0; i < count; i++) wrong += seen[i] != 1;
    CHECK(wrong == 0 && seen[count] == 0, "%d threads, count %d: %d indices not run exactly once", p->n_threads, count,
          wrong);
    CHECK(job.calls == (uint32_t)count, "%d calls of %d", (int)job.calls, count);
    CHECK(job.n_wrong == 0, "%d jobs did not see what was written before the call", (int)job.n_wrong);
}

static void test_counts(void)
{
    static const int threads[] = { 1, 2, 3, 8, 33 };
    static const int counts[] = { 0, 1, 2, 3, 7, 8, 100, 1000, 32767, 32768, 32769, 70000 };
    size_t t, c, step;
    for (t = 0; t < sizeof threads / sizeof *threads; t++) {
        bni_pool *p = new_pool(threads[t]);
        for (step = 0; step < 2; step++) {
            if (step) bni_pool_step_begin(p);
            for (c = 0; c < sizeof counts / sizeof *counts; c++) test_indices(p, counts[c]);
            if (step) bni_pool_step_end(p);
        }
        end_pool(p);
    }
}

/* -------------------------------------------------------------------------------------------------- stress */

typedef struct {
    bni_atomic next;                 /* as the engine's jobs do: each pulls chunks from a counter */
    int n_chunks;
    uint64_t *sum;                   /* [n_chunks] */
    uint64_t salt;
} chunk_job;

static void run_chunks(void *arg, int index)
{
    chunk_job *job = (chunk_job *)arg;
    uint32_t i;
    (void)index;
    while ((i = bni_atomic_add(&job->next, 1)) < (uint32_t)job->n_chunks) {
        uint64_t x = job->salt + i;
        int k;
        for (k = 0; k < 20; k++) x = test_random(&x);
        job->sum[i] = x;
    }
}

/* Thousands of short calls in steps of random length, with pauses that let the team fall asleep at every moment. A
   lost wake-up hangs here, an index that runs twice or a job of another call shows in the sums. */
static void test_stress(int n_threads, int n_calls)
{
    bni_pool *p = new_pool(n_threads);
    uint64_t random = (uint64_t)n_threads, sum[64], started;
    int call, i, wrong = 0, in_step = 0;
    for (call = 0; call < n_calls; call++) {
        chunk_job job;
        if (test_below(&random, 8) == 0) {
            if (in_step) bni_pool_step_end(p);
            else bni_pool_step_begin(p);
            in_step = !in_step;
        }
        if (test_below(&random, 16) == 0) {
            started = bni_time_ns();
            while (bni_time_ns() - started < (uint64_t)test_below(&random, 250) * 1000) bni_cpu_pause();
        }
        job.next = 0;
        job.n_chunks = test_below(&random, 64);
        job.sum = sum;
        job.salt = test_random(&random);
        memset(sum, 0, sizeof sum);
        bni_pool_parallel_for(p, run_chunks, &job, test_below(&random, 2) ? n_threads : test_below(&random, 70));
        if (job.next == 0) continue; /* count was 0 */
        for (i = 0; i < job.n_chunks; i++) {
            uint64_t x = job.salt + (uint64_t)i;
            int k;
            for (k = 0; k < 20; k++) x = test_random(&x);
            wrong += sum[i] != x;
        }
    }
    if (in_step) bni_pool_step_end(p);
    end_pool(p);
    CHECK(wrong == 0, "%d threads: %d wrong sums", n_threads, wrong);
}

/* Stop finds the workers at every moment of starting, spinning and falling asleep. */
static void test_stop(void)
{
    uint64_t random = 8, sum[8];
    int i;
    for (i = 0; i < 200; i++) {
        bni_pool *p = new_pool(1 + i % 5);
        uint64_t started = bni_time_ns(), wait = (uint64_t)test_below(&random, 200) * 1000;
        if (i % 3 != 0) bni_pool_step_begin(p);
        if (i % 4 == 0) {
            chunk_job job;
            job.next = 0;
            job.n_chunks = 8;
            job.sum = sum;
            job.salt = 1;
            bni_pool_parallel_for(p, run_chunks, &job, 4);
        }
        while (bni_time_ns() - started < wait) bni_cpu_pause();
        if (i % 3 == 1) bni_pool_step_end(p);
        end_pool(p);
    }
    CHECK(i == 200, "stopped after %d pools", i);
}

#if !defined(BITNET_NO_THREADS)

/* ------------------------------------------------------------------------------------------- slow jobs, short waits */

static void wait_and_write(void *arg, int index)
{
    uint64_t started = bni_time_ns();
    while (bni_time_ns() - started < 100000) bni_thread_yield();
    ((int *)arg)[index] = 1;
}

/* The caller comes back when the slowest job is done, not when it has nothing left to claim. */
static void test_slow_jobs(void)
{
    bni_pool *p = new_pool(2);
    int i, done[2], late = 0;
    bni_pool_step_begin(p);
    for (i = 0; i < 100; i++) {
        done[0] = done[1] = 0;
        bni_pool_parallel_for(p, wait_and_write, done, 2);
        late += !done[0] || !done[1];
    }
    bni_pool_step_end(p);
    end_pool(p);
    CHECK(late == 0, "%d of 100 calls returned before their jobs were done", late);
}

/* A worker spins for BNI_POOL_IDLE_NS inside a step, and not at all outside. The best of several tries: the machine
   may be busy. */
static void test_spin(void)
{
    bni_pool *p = new_pool(1);
    uint64_t started, inside = UINT64_MAX, outside = UINT64_MAX, ns;
    int i;
    for (i = 0; i < 20; i++) {
        bni_atomic_store(&p->in_step, 1);
        started = bni_time_ns();
        bni_pool_spin(p, 0);
        ns = bni_time_ns() - started;
        inside = ns < inside ? ns : inside;
        bni_atomic_store(&p->in_step, 0);
        started = bni_time_ns();
        bni_pool_spin(p, 0);
        ns = bni_time_ns() - started;
        outside = ns < outside ? ns : outside;
    }
    CHECK(inside >= BNI_POOL_IDLE_NS && inside < 20 * BNI_POOL_IDLE_NS, "%d ns inside a step", (int)inside);
    CHECK(outside < BNI_POOL_IDLE_NS / 2, "%d ns outside a step", (int)outside);
    end_pool(p);
}

/* ------------------------------------------------------------------------------------------- the ticket's bounds */

static void test_ticket(void)
{
    bni_pool *p = new_pool(4);
    chunk_job job;
    uint64_t sum[4];
    uint32_t ticket;
    int i;
    memset(&job, 0, sizeof job);
    job.sum = sum;
    bni_pool_step_begin(p);
    bni_pool_parallel_for(p, run_chunks, &job, 3);
    for (i = 0; i < 70000; i++) bni_pool_step_begin(p);        /* each one lets every worker look for work */
    for (i = 0; i < 70000; i++) bni_pool_work(p);
    ticket = bni_atomic_load(&p->ticket);
    CHECK(ticket >> 16 == 3 && (ticket & 0xffff) <= 3 + 4, "ticket is %08x after many fruitless claims", ticket);
    end_pool(p);
}

/* ------------------------------------------------------------------------------------------------- idle threads */

/* Processor time that the whole process uses while the main thread sleeps for ms milliseconds. */
static double cpu_seconds_idle(int ms)
{
#if defined(_WIN32)
    Sleep((DWORD)ms);
    return 0.0;
#else
    clock_t start = clock();
    struct timeval wait;
    wait.tv_sec = 0;
    wait.tv_usec = ms * 1000;
    select(0, NULL, NULL, NULL, &wait);
    return (double)(clock() - start) / CLOCKS_PER_SEC;
#endif
}

static void test_idle(void)
{
    bni_pool *p = new_pool(3);
    chunk_job job;
    uint64_t sum[4];
    double used;
    memset(&job, 0, sizeof job);
    job.sum = sum;
    bni_pool_step_begin(p);
    bni_pool_parallel_for(p, run_chunks, &job, 3);
    used = cpu_seconds_idle(150);
    CHECK(used < 0.05, "%.3f s of processor time in 150 ms of a step without work", used);
    bni_pool_parallel_for(p, run_chunks, &job, 3);
    bni_pool_step_end(p);
    used = cpu_seconds_idle(150);
    CHECK(used < 0.05, "%.3f s of processor time in 150 ms between steps", used);
    CHECK(bni_atomic_load(&p->n_asleep) == 2, "%d of 2 workers are asleep", (int)bni_atomic_load(&p->n_asleep));
    end_pool(p);
}

/* Workers that never come (here: the pool believes in seven that were not started) must not hold up the caller. */
static void test_absent_worker(void)
{
    bni_pool p;
    count_job job;
    int seen[10], i, wrong = 0;
    memset(&p, 0, sizeof p);
    memset(&job, 0, sizeof job);
    memset(seen, 0, sizeof seen);
    p.n_threads = 8;
    job.seen = seen;
    job.first = 12345;
    bni_pool_parallel_for(&p, count_index, &job, 10);
    for (i = 0; i < 10; i++) wrong += seen[i] != 1;
    CHECK(wrong == 0, "%d indices were left to workers that never came", wrong);
}

/* --------------------------------------------------------------------------------- signals, failing creation */

/* As in the engine: strict C modes hide these names, and then workers keep the signals. */
#if defined(SIG_BLOCK) && (defined(__USE_POSIX199506) || !defined(__GLIBC__)) && !defined(_WIN32)
typedef struct {
    pthread_t caller;
    bni_atomic n_workers, n_open;    /* jobs on workers; of those, with SIGINT open or SIGSEGV blocked */
} signal_job;

static void look_at_mask(void *arg, int index)
{
    signal_job *job = (signal_job *)arg;
    uint64_t started = bni_time_ns();
    sigset_t set;
    (void)index;
    if (!pthread_equal(pthread_self(), job->caller)) {
        pthread_sigmask(SIG_BLOCK, NULL, &set);
        bni_atomic_add(&job->n_workers, 1);
        if (!sigismember(&set, SIGINT) || !sigismember(&set, SIGUSR1) || sigismember(&set, SIGSEGV))
            bni_atomic_add(&job->n_open, 1);
    }
    while (bni_time_ns() - started < 200000) bni_thread_yield();     /* so that one thread can't take all */
}

static void test_signals(void)
{
    bni_pool *p = new_pool(3);
    signal_job job;
    sigset_t set;
    int i;
    job.caller = pthread_self();
    job.n_workers = job.n_open = 0;
    for (i = 0; i < 1000 && job.n_workers < 5; i++) bni_pool_parallel_for(p, look_at_mask, &job, 8);
    CHECK(job.n_workers >= 5, "no job ran on a worker");
    CHECK(job.n_open == 0, "%d jobs ran on workers with the wrong signal mask", (int)job.n_open);
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    CHECK(!sigismember(&set, SIGINT), "the caller's mask was changed");
    end_pool(p);
}
#else
static void test_signals(void)
{
    SKIP("this compiler mode hides signal masks");
}
#endif

#if !defined(_WIN32)

static void test_creation_fails(void)
{
    int k;
    for (k = 0; k < 5; k++) {
        bni_pool *p = (bni_pool *)malloc((size_t)bni_pool_memory(5));
        int missing;
        REQUIRE(p != NULL, "no memory");
        create_left = k;
        missing = bni_pool_start(p, 5);
        create_left = 1 << 30;
        CHECK(missing == 4 - (k < 4 ? k : 4), "%d of 4 workers could start: %d reported missing", k, missing);
        CHECK(p->n_threads == 5 - missing, "%d threads run, %d missing", p->n_threads, missing);
        test_indices(p, 100);
        end_pool(p);
    }
}
#endif /* not _WIN32 */
#endif /* not BITNET_NO_THREADS */

/* ------------------------------------------------------------------------------------ floating-point environment */

static void round_something(void *arg, int index)
{
    volatile float one = 1.0f, tiny = 1e-10f;
    uint64_t started = bni_time_ns();
    if (one + tiny != 1.0f) bni_atomic_add((bni_atomic *)arg, 1);
    while (index > 0 && bni_time_ns() - started < 50000) bni_thread_yield();
}

/* A host that rounds upward must not change results, neither on its thread nor on threads it started, and keeps its
   rounding. */
static void test_rounding(void)
{
    volatile float one = 1.0f, tiny = 1e-10f;
    bni_atomic wrong = 0;
    bni_pool *p;
    int i, changed = 0;
    if ((!BNI_X86 && !BNI_ARM64) || FLT_EVAL_METHOD != 0) {
        SKIP("the engine does not set this machine's (or x87's) rounding");
        return;
    }
    fesetround(FE_UPWARD);
    if (one + tiny == 1.0f) {
        fesetround(FE_TONEAREST);
        SKIP("rounding upward has no effect here (valgrind)");
        return;
    }
    p = new_pool(3);
    for (i = 0; i < 50; i++) {
        bni_pool_parallel_for(p, round_something, &wrong, i % 6);
        changed += one + tiny == 1.0f;         /* by arithmetic: fegetround looks at x87's setting only */
    }
    fesetround(FE_TONEAREST);
    end_pool(p);
    CHECK(changed == 0, "%d calls changed the host's rounding", changed);
    CHECK(wrong == 0, "%d jobs ran with the host's rounding", (int)wrong);
}

/* One core of those allowed: one thread by default. */
static void test_affinity(void)
{
#if defined(__linux__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__)) && !defined(BITNET_NO_THREADS)
    cpu_set_t all, one;
    int cpu = 0;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    CHECK(bni_cpu_count() == CPU_COUNT(&all), "%d cores, %d allowed", bni_cpu_count(), CPU_COUNT(&all));
    while (!CPU_ISSET(cpu, &all)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) return;
    CHECK(bni_cpu_count() == 1 && bni_default_threads(0) == 1, "%d cores where one is allowed", bni_cpu_count());
    CHECK(bni_default_threads(3) == 3, "threads that were asked for");
    sched_setaffinity(0, sizeof all, &all);
#endif
}

int main(void)
{
    int fast = getenv("TEST_FAST") != NULL;    /* for valgrind, which runs one thread at a time */
    test_affinity();
    test_counts();
    test_stress(1, 500);
    test_stress(2, fast ? 500 : 8000);
    test_stress(7, fast ? 200 : 2000);
    test_stress(40, fast ? 20 : 200);
    test_stop();
    test_rounding();
#if !defined(BITNET_NO_THREADS)
    test_slow_jobs();
    test_spin();
    test_ticket();
    test_idle();
    test_absent_worker();
    test_signals();
  #if !defined(_WIN32)
    test_creation_fails();
  #else
    SKIP("failing thread creation is tested under POSIX only");
  #endif
#else
    SKIP("built without threads: nothing runs in parallel");
#endif
    return test_end("threads");
}
