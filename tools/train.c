/* train.c: trains a BitNet b1.58 language model on a CPU, from a text file to a GGUF that bitnet.h runs.

       cc -O2 -I. tools/train.c -lpthread -lm -o train
       ./train --data stories.txt -o model.gguf

   What is special about BitNet (Wang et al. 2023, Ma et al. 2024) is small. The matrices of the layers are kept and
   updated as ordinary floats, but the network never sees those: before every step each matrix is rounded to -1, 0, +1
   times one scale, its mean absolute value, and before every product each token's activations are rounded to 8 bits.
   Rounding has no useful derivative, so the backward pass pretends that it was not there: the gradient at the rounded
   value is applied to the float behind it (the straight-through estimator, Bengio et al. 2013). Small updates pile up in
   the float until it crosses a border and the weight flips. When training ends, the floats are thrown away.

   The network is the published one's: x += Wo norm(attention(norm(x))), x += Wd norm(relu(Wg norm(x))^2 * Wu norm(x)),
   grouped-query attention with rotary positions, and the embedding once more as output matrix. In what follows

       T   tokens of a micro-batch = n_rows * n_ctx         D   n_embd             F   n_ff
       Q   n_head * head_dim                                K   n_head_kv * head_dim
       V   n_vocab                                          S   n_ctx

   and every matrix is stored by rows, [rows, columns], so that y = W x is y[t] = sum over columns of W[row] * x[t].

   Contents: arrays; threads; matrix products; rows; vocabulary; text; parameters; forward and backward; optimizer;
   checkpoints; model file; gradient check; speed; main. Read "forward and backward" first. */

#include "tools/cli.h"
#include "tools/gguf_write.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"

#include <float.h>
#include <math.h>
#include <pthread.h>

#if FLT_EVAL_METHOD != 0
#error "rounding here needs float arithmetic in float: on 32-bit x86, compile with -msse2 -mfpmath=sse"
#endif

/* The loops over rows below are plain C, compiled three times for three widths of vector; the loader picks one. Older
   compilers don't know these names of targets (clang 14 picks the wrong one), so theirs are compiled once. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    ((defined(__clang__) && __clang_major__ >= 18) || (!defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 12))
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define WIDE
#endif
#endif
#ifndef WIDE
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#else
#define WIDE
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O3")
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
#define INLINE static inline __attribute__((always_inline))

#define LANES 16                     /* sums over a row have 16 partial sums, so that any vector width gives the same */
#define MAX_THREADS 64
#define MAX_LAYERS 64
#define NORM_EPS 1e-5f
#define QUANT_EPS 1e-5f              /* least scale of a row or matrix, as in the published training code */

/* ----------------------------------------------------------------------------------------------- arrays */

static size_t bytes_allocated;       /* for the line that says how much memory training takes */

/* n floats at a multiple of 64 bytes, zeroed; never freed: the program's arrays live as long as it does. */
static float *floats(size_t n)
{
    const size_t size = (n * sizeof(float) + 127) / 64 * 64;
    char *memory;
    if (n > (SIZE_MAX - 256) / sizeof(float)) cli_fail("this network needs more memory than this machine can address");
    memory = (char *)cli_alloc(size + 64);
    memory += 64 - (uintptr_t)memory % 64;
    memset(memory, 0, size);
    bytes_allocated += size;
    return (float *)(void *)memory;
}

/* A random number that depends on its arguments alone (splitmix64's finisher): no state to save in a checkpoint. */
static uint64_t random_bits(uint64_t seed, uint64_t a, uint64_t b)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + a * 0xbf58476d1ce4e5b9u + b * 0x94d049bb133111ebu + 0x2545f4914f6cdd1du;
    int i;
    for (i = 0; i < 2; i++) {
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        x ^= x >> 31;
    }
    return x;
}

static uint64_t fnv1a(uint64_t hash, const void *data, size_t size)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i;
    for (i = 0; i < size; i++) hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}
#define FNV_START 0xcbf29ce484222325u

/* ---------------------------------------------------------------------------------------------- threads
   parallel(fn, job, n) calls fn(job, 0..n-1) on all threads. Every index writes places of its own, in an order that does
   not depend on the thread, so the number of threads does not change a bit of the result. */

typedef void job_fn(void *job, int index, int thread);

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t threads[MAX_THREADS];
    int n_threads;
    job_fn *fn;
    void *job;
    int next, count, running;
    unsigned round;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, {0}, 1, NULL, NULL, 0, 0, 0, 0};

/* Takes indices until none is left. Called with the lock held, returns with it held. */
static void pool_take(int thread)
{
    while (pool.next < pool.count) {
        const int index = pool.next++;
        pthread_mutex_unlock(&pool.lock);
        pool.fn(pool.job, index, thread);
        pthread_mutex_lock(&pool.lock);
    }
}

static void *pool_main(void *user)
{
    const int thread = (int)(intptr_t)user;
    unsigned seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.round == seen) pthread_cond_wait(&pool.work, &pool.lock);
        seen = pool.round;
        pool_take(thread);
        if (--pool.running == 0) pthread_cond_signal(&pool.done);
    }
    return NULL;
}

static void pool_start(int n_threads)
{
    int i;
    for (i = 1; i < n_threads; i++)
        if (pthread_create(&pool.threads[i], NULL, pool_main, (void *)(intptr_t)i) != 0) break;
    pool.n_threads = i;
}

static int n_cores(void)
{
#if defined(_SC_NPROCESSORS_ONLN)
    const long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : (int)n;
#else
    return 1;
#endif
}

static void parallel(job_fn *fn, void *job, int count)
{
    int i;
    if (pool.n_threads == 1 || count == 1) {
        for (i = 0; i < count; i++) fn(job, i, 0);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pool.fn = fn;
    pool.job = job;
    pool.next = 0;
    pool.count = count;
    pool.running = pool.n_threads - 1;
    pool.round++;
    pthread_cond_broadcast(&pool.work);
    pool_take(0);
    while (pool.running > 0) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

/* -------------------------------------------------------------------------------------- matrix products
   C[m, n] = sum over k of A[m, k] * B[k, n], where A and B are given with both strides, so that either may be a transpose:
   the three products of a layer (y = x W', dx = dy W, dW = dy' x) are this one function. It is the usual
   construction (Goto and van de Geijn 2008): B is copied in blocks that fit the second-level cache, A in panels
   that fit the first, both in the order in which the innermost tile of C, held in registers, will read them.

   Every element of C is a chain of fused multiply-adds in the order of k, whatever the tile, the blocks and the threads:
   all vector widths with fused multiply-add give the same bits. */

#define BLOCK_K 256
#define BLOCK_N 1024
#define MIN_CHUNK 256                /* rows of one job: every job packs B for itself, which must stay a small part */
#define MAX_MR 32
#define MAX_NR 32

/* Element (i, j) of a matrix seen through strides is at[i * row + j * col]. */
typedef struct view { const float *at; size_t row, col; } view;

static view rows_of(const float *at, size_t columns) { view v = {at, columns, 1}; return v; }
static view transposed(const float *at, size_t columns) { view v = {at, 1, columns}; return v; }

typedef struct tile_kind {
    int mr, nr;                      /* rows and columns of the tile */
    void (*run)(int k, const float *a, const float *b, float *c, size_t ldc, int add);      /* c (+)= a[k][mr]' b[k][nr] */
    const char *name;
} tile_kind;

#define DEFINE_TILE(NAME, TARGET, N_LANES, MR, NV)                                                                    \
    typedef float NAME##_vec __attribute__((vector_size(4 * N_LANES), aligned(4)));                                   \
    TARGET static void NAME(int k, const float *a, const float *b, float *c, size_t ldc, int add)                     \
    {                                                                                                                 \
        NAME##_vec sum[MR][NV];                                                                                       \
        int i, j;                                                                                                     \
        _Pragma("GCC unroll 16") for (i = 0; i < MR; i++)                                                             \
            _Pragma("GCC unroll 16") for (j = 0; j < NV; j++)                                                         \
                sum[i][j] = add ? *(const NAME##_vec *)(c + (size_t)i * ldc + j * N_LANES) : (NAME##_vec){0};         \
        for (; k > 0; k--, a += MR, b += NV * N_LANES)                                                                \
            _Pragma("GCC unroll 16") for (i = 0; i < MR; i++)                                                         \
                _Pragma("GCC unroll 16") for (j = 0; j < NV; j++)                                                     \
                    sum[i][j] += a[i] * *(const NAME##_vec *)(b + j * N_LANES);                                       \
        _Pragma("GCC unroll 16") for (i = 0; i < MR; i++)                                                             \
            _Pragma("GCC unroll 16") for (j = 0; j < NV; j++)                                                         \
                *(NAME##_vec *)(c + (size_t)i * ldc + j * N_LANES) = sum[i][j];                                       \
    }

DEFINE_TILE(tile_plain, , 4, 4, 2)
#if defined(__x86_64__) && defined(__GNUC__)
DEFINE_TILE(tile_avx2, __attribute__((target("avx2,fma"))), 8, 6, 2)
DEFINE_TILE(tile_avx512, __attribute__((target("avx512f"))), 16, 12, 2)
#endif

static tile_kind tile = {4, 8, tile_plain, "4 lanes"};

static void choose_tile(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    static const tile_kind avx2 = {6, 16, tile_avx2, "AVX2"}, avx512 = {12, 32, tile_avx512, "AVX-512"};
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) tile = avx512;
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tile = avx2;
#endif
}

typedef float vec4 __attribute__((vector_size(16), aligned(4)));
#if defined(__clang__) || __GNUC__ >= 12
#define MIX(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t vec4_index __attribute__((vector_size(16)));
#define MIX(a, b, i, j, k, l) __builtin_shuffle(a, b, (vec4_index){i, j, k, l})
#endif

/* to[j][i] = from[i][j], rows of to `width` and of from `row` floats apart. */
INLINE void transpose_4x4(float *to, size_t width, const float *from, size_t row)
{
    const vec4 a = *(const vec4 *)from, b = *(const vec4 *)(from + row), c = *(const vec4 *)(from + 2 * row), d = *(const vec4 *)(from + 3 * row);
    const vec4 ab0 = MIX(a, b, 0, 4, 1, 5), ab2 = MIX(a, b, 2, 6, 3, 7);
    const vec4 cd0 = MIX(c, d, 0, 4, 1, 5), cd2 = MIX(c, d, 2, 6, 3, 7);
    *(vec4 *)to = MIX(ab0, cd0, 0, 1, 4, 5);
    *(vec4 *)(to + width) = MIX(ab0, cd0, 2, 3, 6, 7);
    *(vec4 *)(to + 2 * width) = MIX(ab2, cd2, 0, 1, 4, 5);
    *(vec4 *)(to + 3 * width) = MIX(ab2, cd2, 2, 3, 6, 7);
}

/* to[p][i] = m(i0 + i, p0 + p) for i < width, zero from n on: one panel, in the tile's reading order. */
WIDE static void pack_panel(float *to, view m, int i0, int n, int width, int p0, int n_p)
{
    int i, p, k;
    const float *from = m.at + (size_t)i0 * m.row + (size_t)p0 * m.col;
    if (n < width) memset(to, 0, (size_t)n_p * (size_t)width * sizeof(float));
    if (m.row == 1 && n == 32)                           /* sizes that the compiler knows need no call */
        for (p = 0; p < n_p; p++) memcpy(to + (size_t)p * 32, from + (size_t)p * m.col, 32 * sizeof(float));
    else if (m.row == 1 && n == 12 && width == 12)
        for (p = 0; p < n_p; p++) memcpy(to + (size_t)p * 12, from + (size_t)p * m.col, 12 * sizeof(float));
    else if (m.row == 1)
        for (p = 0; p < n_p; p++) memcpy(to + (size_t)p * (size_t)width, from + (size_t)p * m.col, (size_t)n * sizeof(float));
    else
        for (i = 0; i < n; i++) {
            p = 0;
            if (i % 4 == 0 && i + 4 <= n && m.col == 1) {
                for (; p + 4 <= n_p; p += 4)
                    transpose_4x4(to + (size_t)p * (size_t)width + i, (size_t)width, from + (size_t)i * m.row + p, m.row);
                for (; p < n_p; p++)
                    for (k = 0; k < 4; k++) to[(size_t)p * (size_t)width + (size_t)(i + k)] = from[(size_t)(i + k) * m.row + (size_t)p];
                i += 3;
                continue;
            }
            for (; p < n_p; p++) to[(size_t)p * (size_t)width + (size_t)i] = from[(size_t)i * m.row + (size_t)p * m.col];
        }
}

/* ---- AMX: tiles of 16 rows of 32 bfloat16, which one instruction multiplies in pairs and adds to 16 x 16 floats: sixteen
        times the multiplications of AVX-512. A float is split into two bfloat16, x = high + low within 2^-17 x. The forward
        pass takes three products (high high, high low, low high), as exact as it must be to agree with the engine; the
        backward pass the first one: gradients of a straight-through estimator are noisier than that. Only with --amx, since
        the bits are others than everywhere else.

        A panel of 32 k and 32 rows is four tiles, high and low of rows 0..15 and 16..31. Tile rows of A are rows, each of
        16 pairs; tile rows of B are pairs, each of 16 columns. */

#if BNI_AMX && defined(__GNUC__)
#define HAVE_AMX_TILE 1
#define AMX_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
typedef uint32_t vec16u __attribute__((vector_size(64)));
typedef int32_t vec16i __attribute__((vector_size(64)));
typedef float vec16 __attribute__((vector_size(64)));
typedef uint16_t vec16h __attribute__((vector_size(32)));
typedef float vec16_any __attribute__((vector_size(64), aligned(4)));

/* The bits of the nearest bfloat16 in the upper half of each lane; halves go up, which is as good as to even here. */
AMX_TARGET INLINE vec16u upper(vec16 x) { return ((vec16u)x + 0x8000u) & 0xffff0000u; }

/* Pairs (even, odd) of bfloat16: the high parts, and into *low the rest. */
AMX_TARGET INLINE vec16u amx_pairs(vec16 even, vec16 odd, vec16u *low)
{
    const vec16u e = upper(even), o = upper(odd);
    *low = upper(even - (vec16)e) >> 16 | upper(odd - (vec16)o);
    return e >> 16 | o;
}

/* to[p][i] = v(i, p) for 16 x 16 lanes: blocks of 1, 2, 4 and 8 change places. */
#define AMX_SWAP(S, X, Y, v, i)                                                                                       \
    do {                                                                                                              \
        const vec16u a = v[i], b = v[(i) + S];                                                                        \
        v[i] = (vec16u)AMX_MIX(a, b, X);                                                                              \
        v[(i) + S] = (vec16u)AMX_MIX(a, b, Y);                                                                        \
    } while (0)
#if defined(__clang__)
#define AMX_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define AMX_MIX(a, b, ...) __builtin_shuffle(a, b, (vec16i){__VA_ARGS__})
#endif
#define AMX_X1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define AMX_Y1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define AMX_X2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define AMX_Y2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define AMX_X4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define AMX_Y4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define AMX_X8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define AMX_Y8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31

AMX_TARGET static void amx_transpose(vec16u *v)
{
    int i;
    _Pragma("GCC unroll 16") for (i = 0; i < 16; i += 2) AMX_SWAP(1, AMX_X1, AMX_Y1, v, i);
    _Pragma("GCC unroll 16") for (i = 0; i < 16; i++) if (!(i & 2)) AMX_SWAP(2, AMX_X2, AMX_Y2, v, i);
    _Pragma("GCC unroll 16") for (i = 0; i < 16; i++) if (!(i & 4)) AMX_SWAP(4, AMX_X4, AMX_Y4, v, i);
    _Pragma("GCC unroll 16") for (i = 0; i < 8; i++) AMX_SWAP(8, AMX_X8, AMX_Y8, v, i);
}

/* Plain panel from[k][32] to tiles: of B as it stands, of A with rows and pairs exchanged. n_k is a multiple of 32. */
AMX_TARGET static void amx_pack(float *to, const float *from, int n_k, int of_a)
{
    vec16u *at = (vec16u *)(void *)to;
    int k, p, side;
    for (k = 0; k < n_k; k += 32, from += 32 * 32, at += 64)
        for (side = 0; side < 2; side++) {
            vec16u *high = at + 16 * side, *low = high + 32;
            for (p = 0; p < 16; p++)
                high[p] = amx_pairs(*(const vec16_any *)(from + 64 * p + 16 * side), *(const vec16_any *)(from + 64 * p + 32 + 16 * side), &low[p]);
            if (of_a) {
                amx_transpose(high);
                amx_transpose(low);
            }
        }
}

/* The same from a matrix whose rows of k stand together, n of 32 rows. */
AMX_TARGET static void amx_pack_rows(float *to, const float *from, size_t row, int n, int n_k)
{
    uint16_t *at = (uint16_t *)(void *)to;
    int k, i;
    for (k = 0; k < n_k; k += 32, at += 4 * 512)
        for (i = 0; i < 64; i++) {
            const int r = i / 2;
            vec16h *high = (vec16h *)(void *)(at + 32 * r + 16 * (i & 1)), *low = high + 64;
            const vec16 x = r < n ? (vec16)*(const vec16_any *)(from + (size_t)r * row + (size_t)(k + 16 * (i & 1))) : (vec16){0};
            const vec16u h = upper(x);
            *high = __builtin_convertvector(h >> 16, vec16h);
            *low = __builtin_convertvector(upper(x - (vec16)h) >> 16, vec16h);
        }
}

static void amx_configure(void)
{
    static const struct { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = {
        1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    __asm__ __volatile__("ldtilecfg %0" : : "m"(shape));
}

#define AMX_LOAD(T, at, stride) __asm__ __volatile__("tileloadd (%0,%1,1), %%tmm" #T : : "r"(at), "r"((size_t)(stride)) : "memory")
#define AMX_STORE(T, at, stride) __asm__ __volatile__("tilestored %%tmm" #T ", (%0,%1,1)" : : "r"(at), "r"((size_t)(stride)) : "memory")
#define AMX_ZERO(T) __asm__ __volatile__("tilezero %tmm" #T)
#define AMX_DOT(C, A, B) __asm__ __volatile__("tdpbf16ps %tmm" #B ", %tmm" #A ", %tmm" #C)
#define AMX_FOUR AMX_DOT(0, 4, 6); AMX_DOT(1, 4, 7); AMX_DOT(2, 5, 6); AMX_DOT(3, 5, 7)

INLINE void amx_run(int k, const float *a, const float *b, float *c, size_t ldc, int add, int fine)
{
    float *below = c + 16 * ldc;
    if (add) {
        AMX_LOAD(0, c, 4 * ldc); AMX_LOAD(1, c + 16, 4 * ldc); AMX_LOAD(2, below, 4 * ldc); AMX_LOAD(3, below + 16, 4 * ldc);
    } else {
        AMX_ZERO(0); AMX_ZERO(1); AMX_ZERO(2); AMX_ZERO(3);
    }
    for (; k > 0; k -= 32, a += 1024, b += 1024) {
        AMX_LOAD(4, a, 64); AMX_LOAD(5, a + 256, 64); AMX_LOAD(6, b, 64); AMX_LOAD(7, b + 256, 64);
        AMX_FOUR;
        if (!fine) continue;
        AMX_LOAD(6, b + 512, 64); AMX_LOAD(7, b + 768, 64);
        AMX_FOUR;
        AMX_LOAD(4, a + 512, 64); AMX_LOAD(5, a + 768, 64); AMX_LOAD(6, b, 64); AMX_LOAD(7, b + 256, 64);
        AMX_FOUR;
    }
    AMX_STORE(0, c, 4 * ldc); AMX_STORE(1, c + 16, 4 * ldc); AMX_STORE(2, below, 4 * ldc); AMX_STORE(3, below + 16, 4 * ldc);
}
static void tile_amx_fine(int k, const float *a, const float *b, float *c, size_t ldc, int add) { amx_run(k, a, b, c, ldc, add, 1); }
static void tile_amx_coarse(int k, const float *a, const float *b, float *c, size_t ldc, int add) { amx_run(k, a, b, c, ldc, add, 0); }
static const tile_kind amx_fine = {32, 32, tile_amx_fine, "AMX"}, amx_coarse = {32, 32, tile_amx_coarse, "AMX"};

/* 1 if processor and system let us: AVX-512, AMX with bfloat16, the state of tiles, and permission to use it. */
static int amx_usable(void)
{
    uint32_t seven[4];
    if (!bni_cpu_runs(BNI_ISA_AMX) || bni_amx_permit() != 0) return 0;
    bni_cpuid(7, 0, seven);
    return (int)(seven[3] >> 22 & 1);
}
#else
#define HAVE_AMX_TILE 0
#endif

static int use_amx;                  /* --amx, and the machine has it */

/* Which tile: for the products of the forward pass, of the backward pass, and the small ones of attention. */
enum { FORWARD, BACKWARD, SMALL };

static const tile_kind *tile_of(int pass)
{
#if HAVE_AMX_TILE
    if (use_amx && pass != SMALL) return pass == FORWARD ? &amx_fine : &amx_coarse;
#endif
    (void)pass;
    return &tile;
}

typedef struct product {
    float *c;                        /* [m, n] with rows ldc apart */
    size_t ldc;
    view a, b;                       /* [m, k]; b as [n, k]: its row is a column of the product's second factor */
    int m, n, k;
    int add;                         /* 1: c += the product */
    int chunk;                       /* rows of c of one job */
    const tile_kind *tile;
} product;

static float *product_scratch[MAX_THREADS];      /* one packed block of B and one panel of A */

#define SCRATCH_FLOATS (BLOCK_K * (BLOCK_N + MAX_NR + 2 * MAX_MR) + MAX_MR * MAX_NR)

/* The tile at row i, column j of c, where only rows x cols of it are inside. */
static void run_tile(const product *g, int i, int j, int rows, int cols, int k, const float *a, const float *b, float *edge, int add)
{
    const tile_kind *t = g->tile;
    float *c = g->c + (size_t)i * g->ldc + (size_t)j;
    int r;
    if (rows == t->mr && cols == t->nr) {
        t->run(k, a, b, c, g->ldc, add);
        return;
    }
    for (r = 0; r < rows; r++) memcpy(edge + r * t->nr, c + (size_t)r * g->ldc, (size_t)cols * sizeof(float));
    t->run(k, a, b, edge, (size_t)t->nr, add);
    for (r = 0; r < rows; r++) memcpy(c + (size_t)r * g->ldc, edge + r * t->nr, (size_t)cols * sizeof(float));
}

/* The panel of rows i0.. of a factor in the order in which g's tile reads it; n_k: what k is padded to. */
static void pack(const product *g, float *to, view m, int i0, int n, int width, int p0, int n_p, int n_k, float *plain, int of_a)
{
#if HAVE_AMX_TILE
    if (g->tile->mr == 32) {
        if (of_a && m.col == 1 && n_p == n_k) {
            amx_pack_rows(to, m.at + (size_t)i0 * m.row + (size_t)p0, m.row, n, n_k);
            return;
        }
        pack_panel(plain, m, i0, n, width, p0, n_p);
        memset(plain + n_p * width, 0, (size_t)(n_k - n_p) * (size_t)width * sizeof(float));
        amx_pack(to, plain, n_k, of_a);
        return;
    }
#endif
    (void)g;
    (void)n_k;
    (void)plain;
    (void)of_a;
    pack_panel(to, m, i0, n, width, p0, n_p);
}

/* Rows m0 to m1 of the product, on one thread. */
static void product_rows(const product *g, int m0, int m1, float *scratch)
{
    const int mr = g->tile->mr, nr = g->tile->nr;
    float *packed_b = scratch, *packed_a = scratch + BLOCK_K * (BLOCK_N + MAX_NR), *plain = packed_a + BLOCK_K * MAX_MR;
    float *edge = plain + BLOCK_K * MAX_MR;
    int k0, n0, i, j;
#if HAVE_AMX_TILE
    if (mr == 32) amx_configure();
#endif
    for (k0 = 0; k0 < g->k; k0 += BLOCK_K)
        for (n0 = 0; n0 < g->n; n0 += BLOCK_N) {
            const int n_p = g->k - k0 < BLOCK_K ? g->k - k0 : BLOCK_K, nk = mr == 32 ? (n_p + 31) & ~31 : n_p;
            const int nn = g->n - n0 < BLOCK_N ? g->n - n0 : BLOCK_N;
            for (j = 0; j < nn; j += nr)
                pack(g, packed_b + (size_t)j * (size_t)nk, g->b, n0 + j, nn - j < nr ? nn - j : nr, nr, k0, n_p, nk, plain, 0);
            for (i = m0; i < m1; i += mr) {
                const int rows = m1 - i < mr ? m1 - i : mr;
                pack(g, packed_a, g->a, i, rows, mr, k0, n_p, nk, plain, 1);
                for (j = 0; j < nn; j += nr)
                    run_tile(g, i, n0 + j, rows, nn - j < nr ? nn - j : nr, nk, packed_a,
                             packed_b + (size_t)j * (size_t)nk, edge, g->add || k0 > 0);
            }
        }
}

static void product_job(void *job, int index, int thread)
{
    const product *g = (const product *)job;
    const int m0 = index * g->chunk, m1 = m0 + g->chunk < g->m ? m0 + g->chunk : g->m;
    product_rows(g, m0, m1, product_scratch[thread]);
}

static double flops_done;            /* of all products, for the speed report */

static void multiply(float *c, view a, view b, int m, int n, int k, int add, int pass)
{
    product g;
    g.c = c;
    g.ldc = (size_t)n;
    g.a = a;
    g.b = b;
    g.m = m;
    g.n = n;
    g.k = k;
    g.add = add;
    g.chunk = m / (2 * pool.n_threads) < MIN_CHUNK ? m / pool.n_threads : m / (2 * pool.n_threads);
    g.tile = tile_of(pass);
    g.chunk = (g.chunk / g.tile->mr + 1) * g.tile->mr;
    flops_done += 2.0 * m * n * k;
    parallel(product_job, &g, (m + g.chunk - 1) / g.chunk);
}

/* y[T, rows] = x[T, cols] W[rows, cols]' */
static void linear_forward(float *y, const float *x, const float *w, int n_tokens, int rows, int cols)
{
    multiply(y, rows_of(x, (size_t)cols), rows_of(w, (size_t)cols), n_tokens, rows, cols, 0, FORWARD);
}

/* dx[T, cols] = dy[T, rows] W[rows, cols];  dW[rows, cols] += dy' x */
static void linear_backward(float *dx, float *dw, const float *dy, const float *x, const float *w, int n_tokens, int rows, int cols)
{
    multiply(dx, rows_of(dy, (size_t)rows), transposed(w, (size_t)cols), n_tokens, cols, rows, 0, BACKWARD);
    multiply(dw, transposed(dy, (size_t)rows), transposed(x, (size_t)cols), rows, cols, n_tokens, 1, BACKWARD);
}

/* ------------------------------------------------------------------------------------------------- rows
   Functions of one row of n floats. Sums have LANES partial sums, added at the end in one order. */

INLINE float fold(const float *lane)
{
    float sum = 0;
    int l;
    for (l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

INLINE float row_dot(const float *a, const float *b, int n)
{
    float lane[LANES] = {0}, rest = 0;
    int i, l;
    for (i = 0; i + LANES <= n; i += LANES)
        for (l = 0; l < LANES; l++) lane[l] += a[i + l] * b[i + l];
    for (; i < n; i++) rest += a[i] * b[i];
    return fold(lane) + rest;
}

INLINE float row_max(const float *x, int n, int absolute)
{
    float lane[LANES], max;
    int i, l;
    for (l = 0; l < LANES; l++) lane[l] = absolute ? 0.0f : -INFINITY;
    for (i = 0; i + LANES <= n; i += LANES)
        for (l = 0; l < LANES; l++) {
            const float v = absolute ? fabsf(x[i + l]) : x[i + l];
            lane[l] = v > lane[l] ? v : lane[l];
        }
    max = lane[0];
    for (l = 1; l < LANES; l++) max = lane[l] > max ? lane[l] : max;
    for (; i < n; i++) {
        const float v = absolute ? fabsf(x[i]) : x[i];
        max = v > max ? v : max;
    }
    return max;
}

/* Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction. */
INLINE float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

/* exp(x) to about 1e-7, for x <= 0: 2^n e^r with a polynomial for e^r, |r| <= ln(2) / 2. */
INLINE float exp_negative(float x)
{
    const float c = x < -87.0f ? -87.0f : x, n = round_even(c * 1.44269504f);
    const float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
    const float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f + r * 0.00138888889f)))));
    int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* How a value is rounded on its way into a product. FROZEN is for the gradient check: the rounding is replaced by the
   addition of the error it made before, which has the derivative that the straight-through estimator assumes. */
typedef enum rounding { ROUND_OFF, ROUND_ON, ROUND_RECORD, ROUND_FROZEN } rounding;

/* x[n] to 8 bits with the scale of its largest element, in place. error [n]: only for the gradient check. */
INLINE void quantize_row(float *x, float *error, int n, rounding mode)
{
    float amax, up, down;
    int i;
    if (mode == ROUND_OFF) return;
    if (mode == ROUND_FROZEN) {
        for (i = 0; i < n; i++) x[i] += error[i];
        return;
    }
    amax = row_max(x, n, 1);
    if (amax < QUANT_EPS) amax = QUANT_EPS;
    up = 127.0f / amax;
    down = amax / 127.0f;
    for (i = 0; i < n; i++) {
        const float q = round_even(x[i] * up) * down;
        if (mode == ROUND_RECORD) error[i] = q - x[i];
        x[i] = q;
    }
}

/* ------------------------------------------------------------------------------------------- vocabulary
   Byte-pair encoding (Gage 1994, Sennrich et al. 2016) over bytes: a text is cut into words by the same rule that
   bitnet.h will use when it reads the model's prompts, and the two neighbouring symbols that occur together most often
   become one new symbol, until the vocabulary is full. Only distinct words are looked at, each with its count. */

#define N_BYTES 256
#define MAX_VOCAB 65536
#define MAX_TOKEN_BYTES 4096         /* a text of one repeated letter would make longer and longer ones */
#define SPECIALS 3
static const char *const special_names[SPECIALS] = {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"};
enum { BOS, EOS, EOT };

/* In a chat the model is asked to go on after this, so its words begin behind it: the text is cut there. In one of four
   documents it is not, since a conversation sent as a whole is not cut there either. */
#define TURN "<|eot_id|>Assistant: "

typedef struct word { uint32_t at, size; uint32_t first_id, n_ids; uint64_t count; } word;

typedef struct vocabulary {
    int n_merges;
    int32_t (*merges)[2];            /* [n_merges] the two symbols that become symbol N_BYTES + i */
    char *token_text[MAX_VOCAB];     /* bytes of each symbol */
    int token_size[MAX_VOCAB];
    uint64_t *pairs;                 /* hash table: left << 40 | right << 20 | index + 1, 0 free */
    uint32_t pair_mask;
    word *words;                     /* distinct words */
    uint32_t n_words, words_capacity;
    uint32_t *word_table, word_mask; /* hash table: index + 1 */
    char *bytes;                     /* texts of the words */
    size_t n_bytes, bytes_capacity;
    int32_t *ids;                    /* symbols of the words */
    size_t n_ids, ids_capacity;
} vocabulary;

static int n_vocab_of(const vocabulary *v) { return N_BYTES + v->n_merges + SPECIALS; }
static int32_t special_id(const vocabulary *v, int which) { return N_BYTES + v->n_merges + which; }

static uint32_t pair_slot(const vocabulary *v, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)left << 40 | (uint64_t)right << 20;
    uint32_t slot = (uint32_t)(random_bits(1, (uint64_t)left, (uint64_t)right)) & v->pair_mask;
    while (v->pairs[slot] != 0 && v->pairs[slot] >> 20 != key >> 20) slot = (slot + 1) & v->pair_mask;
    return slot;
}

/* Rank of the merge of two symbols, or -1. */
static int pair_rank(const vocabulary *v, int32_t left, int32_t right)
{
    const uint64_t entry = v->pairs[pair_slot(v, left, right)];
    return (int)(entry & 0xfffff) - 1;
}

static void vocabulary_start(vocabulary *v, int max_merges)
{
    int i;
    memset(v, 0, sizeof *v);
    v->merges = (int32_t (*)[2])cli_alloc((size_t)(max_merges + 1) * sizeof *v->merges);
    v->pair_mask = 1;
    while (v->pair_mask < 4u * (uint32_t)max_merges + 16u) v->pair_mask = 2 * v->pair_mask + 1;
    v->pairs = (uint64_t *)cli_alloc(((size_t)v->pair_mask + 1) * sizeof *v->pairs);
    memset(v->pairs, 0, ((size_t)v->pair_mask + 1) * sizeof *v->pairs);
    v->word_mask = (1u << 16) - 1;
    v->word_table = (uint32_t *)cli_alloc(((size_t)v->word_mask + 1) * sizeof *v->word_table);
    memset(v->word_table, 0, ((size_t)v->word_mask + 1) * sizeof *v->word_table);
    for (i = 0; i < N_BYTES; i++) {
        v->token_text[i] = (char *)cli_alloc(1);
        v->token_text[i][0] = (char)i;
        v->token_size[i] = 1;
    }
}

/* Symbols left and right become a new symbol. */
static void vocabulary_merge(vocabulary *v, int32_t left, int32_t right)
{
    const int i = v->n_merges++, id = N_BYTES + i;
    v->merges[i][0] = left;
    v->merges[i][1] = right;
    v->token_size[id] = v->token_size[left] + v->token_size[right];
    v->token_text[id] = (char *)cli_alloc((size_t)v->token_size[id]);
    memcpy(v->token_text[id], v->token_text[left], (size_t)v->token_size[left]);
    memcpy(v->token_text[id] + v->token_size[left], v->token_text[right], (size_t)v->token_size[right]);
    v->pairs[pair_slot(v, left, right)] = (uint64_t)left << 40 | (uint64_t)right << 20 | (uint64_t)(i + 1);
}

/* Joins every occurrence of the pair in ids [n]; returns the new n. */
static uint32_t join_pair(int32_t *ids, uint32_t n, int32_t left, int32_t right, int32_t joint)
{
    uint32_t from = 0, to = 0;
    while (from < n) {
        if (from + 1 < n && ids[from] == left && ids[from + 1] == right) {
            ids[to++] = joint;
            from += 2;
        } else {
            ids[to++] = ids[from++];
        }
    }
    return to;
}

/* The word's symbols by the merges known so far: always the pair with the lowest rank first. */
static uint32_t merge_word(const vocabulary *v, int32_t *ids, uint32_t n)
{
    for (;;) {
        int best = -1;
        uint32_t i;
        for (i = 0; i + 1 < n; i++) {
            const int rank = pair_rank(v, ids[i], ids[i + 1]);
            if (rank >= 0 && (best < 0 || rank < best)) best = rank;
        }
        if (best < 0) return n;
        n = join_pair(ids, n, v->merges[best][0], v->merges[best][1], N_BYTES + best);
    }
}

static void word_table_grow(vocabulary *v)
{
    uint32_t i;
    free(v->word_table);
    v->word_mask = 2 * v->word_mask + 1;
    v->word_table = (uint32_t *)cli_alloc(((size_t)v->word_mask + 1) * sizeof *v->word_table);
    memset(v->word_table, 0, ((size_t)v->word_mask + 1) * sizeof *v->word_table);
    for (i = 0; i < v->n_words; i++) {
        const word *w = &v->words[i];
        uint32_t slot = (uint32_t)fnv1a(FNV_START, v->bytes + w->at, w->size) & v->word_mask;
        while (v->word_table[slot] != 0) slot = (slot + 1) & v->word_mask;
        v->word_table[slot] = i + 1;
    }
}

/* Index of the word, added if it is new. */
static uint32_t word_index(vocabulary *v, const char *text, size_t size)
{
    uint32_t slot = (uint32_t)fnv1a(FNV_START, text, size) & v->word_mask, i;
    word *w;
    for (; v->word_table[slot] != 0; slot = (slot + 1) & v->word_mask) {
        w = &v->words[v->word_table[slot] - 1];
        if (w->size == size && memcmp(v->bytes + w->at, text, size) == 0) return v->word_table[slot] - 1;
    }
    if (v->n_words == v->words_capacity) {
        v->words_capacity = v->words_capacity ? 2 * v->words_capacity : 1024;
        v->words = (word *)cli_realloc(v->words, v->words_capacity * sizeof *v->words);
    }
    if (v->n_bytes + size > v->bytes_capacity) {
        v->bytes_capacity = 2 * (v->n_bytes + size) + 4096;
        v->bytes = (char *)cli_realloc(v->bytes, v->bytes_capacity);
    }
    if (v->n_ids + size > v->ids_capacity) {
        v->ids_capacity = 2 * (v->n_ids + size) + 4096;
        v->ids = (int32_t *)cli_realloc(v->ids, v->ids_capacity * sizeof *v->ids);
    }
    if (v->n_bytes + size > UINT32_MAX || v->n_ids + size > UINT32_MAX) cli_fail("the text has too many distinct words");
    w = &v->words[v->n_words];
    w->at = (uint32_t)v->n_bytes;
    w->size = (uint32_t)size;
    w->count = 0;
    w->first_id = (uint32_t)v->n_ids;
    memcpy(v->bytes + v->n_bytes, text, size);
    for (i = 0; i < size; i++) v->ids[v->n_ids + i] = (unsigned char)text[i];
    w->n_ids = merge_word(v, v->ids + v->n_ids, (uint32_t)size);
    v->n_bytes += size;
    v->n_ids += w->n_ids;
    v->word_table[slot] = ++v->n_words;
    if (v->n_words > v->word_mask / 2) word_table_grow(v);
    return v->n_words - 1;
}

/* Calls once per word of text [size]: cut by the pre-tokenizer named in the model file. */
typedef void word_fn(void *user, uint32_t word);

static void each_word(vocabulary *v, const char *text, size_t size, word_fn *fn, void *user)
{
    const char *name = "gpt-2";
    bni_words cut;
    const uint8_t *at;
    size_t n;
    int i, k;
    memset(&cut, 0, sizeof cut);
    for (i = 0; i < BNI_N_PRES; i++)
        for (k = 0; bni_pres[i].name[k]; k++)
            if (strcmp(bni_pres[i].name[k], name) == 0) cut.pre = &bni_pres[i];
    cut.text = (const uint8_t *)text;
    cut.size = size;
    while ((n = bni_words_next(&cut, &at)) > 0) fn(user, word_index(v, (const char *)at, n));
}

/* The pair counts while learning: left, right -> occurrences. Open addressing; a count may fall to 0, entries stay. */
typedef struct pair_count { int32_t left, right; uint64_t count; } pair_count;
typedef struct pair_counts { pair_count *entry; uint32_t mask, used; } pair_counts;

static void counts_add(pair_counts *t, int32_t left, int32_t right, int64_t n)
{
    uint32_t slot = (uint32_t)random_bits(2, (uint64_t)left, (uint64_t)right) & t->mask;
    while (t->entry[slot].left >= 0 && (t->entry[slot].left != left || t->entry[slot].right != right)) slot = (slot + 1) & t->mask;
    if (t->entry[slot].left < 0) {
        t->entry[slot].left = left;
        t->entry[slot].right = right;
        t->entry[slot].count = 0;
        t->used++;
    }
    t->entry[slot].count += (uint64_t)n;
    if (t->used > t->mask / 2) {
        pair_counts old = *t;
        uint32_t i;
        t->mask = 2 * t->mask + 1;
        t->used = 0;
        t->entry = (pair_count *)cli_alloc(((size_t)t->mask + 1) * sizeof *t->entry);
        for (i = 0; i <= t->mask; i++) t->entry[i].left = -1;
        for (i = 0; i <= old.mask; i++)
            if (old.entry[i].left >= 0 && old.entry[i].count > 0)
                counts_add(t, old.entry[i].left, old.entry[i].right, (int64_t)old.entry[i].count);
        free(old.entry);
    }
}

static void counts_add_word(pair_counts *t, const vocabulary *v, const word *w, int sign)
{
    uint32_t i;
    for (i = 0; i + 1 < w->n_ids; i++)
        counts_add(t, v->ids[w->first_id + i], v->ids[w->first_id + i + 1], sign * (int64_t)w->count);
}

/* Learns up to max_merges merges from the counted words. Ties go to the lowest ids. */
static void learn_merges(vocabulary *v, int max_merges)
{
    pair_counts t;
    cli_progress progress = {0};
    uint32_t i, k;
    progress.label = "vocabulary";
    t.mask = (1u << 16) - 1;
    t.used = 0;
    t.entry = (pair_count *)cli_alloc(((size_t)t.mask + 1) * sizeof *t.entry);
    for (i = 0; i <= t.mask; i++) t.entry[i].left = -1;
    for (i = 0; i < v->n_words; i++) counts_add_word(&t, v, &v->words[i], 1);
    while (v->n_merges < max_merges) {
        const pair_count *best = NULL;
        int32_t left, right;
        if (cli_show_progress(&progress, (uint64_t)v->n_merges, (uint64_t)max_merges)) exit(CLI_EXIT_INTERRUPTED);
        for (i = 0; i <= t.mask; i++) {
            const pair_count *e = &t.entry[i];
            if (e->left < 0 || e->count < 2 || v->token_size[e->left] + v->token_size[e->right] > MAX_TOKEN_BYTES ||
                (best && e->count < best->count)) continue;
            if (!best || e->count > best->count || e->left < best->left || (e->left == best->left && e->right < best->right)) best = e;
        }
        if (!best) break;
        left = best->left;
        right = best->right;
        vocabulary_merge(v, left, right);
        for (i = 0; i < v->n_words; i++) {
            word *w = &v->words[i];
            const int32_t *ids = v->ids + w->first_id;
            for (k = 0; k + 1 < w->n_ids && (ids[k] != left || ids[k + 1] != right); k++) {}
            if (k + 1 >= w->n_ids) continue;
            counts_add_word(&t, v, w, -1);
            w->n_ids = join_pair(v->ids + w->first_id, w->n_ids, left, right, N_BYTES + v->n_merges - 1);
            counts_add_word(&t, v, w, 1);
        }
    }
    cli_end_progress(&progress);
    free(t.entry);
}

/* ------------------------------------------------------------------------------------------------- text
   A text is a list of documents, each ended by "<|end_of_text|>"; a text without that is one document. As tokens a
   document begins with the begin-of-text token and ends with the end-of-text token. */

typedef struct corpus {
    int32_t *tokens;
    size_t n_tokens, capacity;
    size_t *starts;                  /* [n_docs + 1] */
    size_t n_docs, docs_capacity;
    uint64_t hash;
} corpus;

/* What each_word's callbacks need. c NULL: count the words, else append their tokens. */
typedef struct reading { vocabulary *v; corpus *c; } reading;

static void corpus_push(corpus *c, int32_t token)
{
    if (c->n_tokens == c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : 1 << 16;
        c->tokens = (int32_t *)cli_realloc(c->tokens, c->capacity * sizeof *c->tokens);
    }
    c->tokens[c->n_tokens++] = token;
}

static void read_word(void *user, uint32_t index)
{
    reading *r = (reading *)user;
    const word *w = &r->v->words[index];
    uint32_t i;
    if (!r->c) r->v->words[index].count++;
    else
        for (i = 0; i < w->n_ids; i++) corpus_push(r->c, r->v->ids[w->first_id + i]);
}

/* A document's text: control tokens as such, the rest as words. */
static void read_document(reading *r, const char *text, size_t size, int cut_turns)
{
    const size_t eot_size = strlen(special_names[EOT]), turn_size = strlen(TURN);
    size_t at = 0, from = 0;
    while (at < size) {
        if (text[at] == '<' && size - at >= eot_size && memcmp(text + at, special_names[EOT], eot_size) == 0) {
            const int turn = cut_turns && size - at > turn_size && memcmp(text + at, TURN, turn_size) == 0;
            each_word(r->v, text + from, at - from, read_word, r);
            if (r->c) corpus_push(r->c, special_id(r->v, EOT));
            from = at + eot_size;
            at = turn ? at + turn_size : from;
            if (turn) {
                each_word(r->v, text + from, at - from, read_word, r);
                from = at;
            }
        } else {
            at++;
        }
    }
    each_word(r->v, text + from, size - from, read_word, r);
}

static void begin_document(corpus *c)
{
    if (c->n_docs + 2 > c->docs_capacity) {
        c->docs_capacity = c->docs_capacity ? 2 * c->docs_capacity : 1024;
        c->starts = (size_t *)cli_realloc(c->starts, c->docs_capacity * sizeof *c->starts);
    }
    c->starts[c->n_docs++] = c->n_tokens;
}

/* All documents of the text: counted (c NULL) or appended to the corpus. */
static void read_text(vocabulary *v, corpus *c, const char *text, size_t size)
{
    const size_t end_size = strlen(special_names[EOS]);
    reading r;
    size_t at = 0, doc = 0;
    r.v = v;
    r.c = c;
    while (at < size) {
        size_t end = at;
        while (end < size && (text[end] != '<' || size - end < end_size || memcmp(text + end, special_names[EOS], end_size) != 0)) end++;
        if (c) {
            begin_document(c);
            corpus_push(c, special_id(v, BOS));
        }
        read_document(&r, text + at, end - at, random_bits(3, doc, 0) % 4 != 0);
        if (c && end < size) corpus_push(c, special_id(v, EOS));
        at = end < size ? end + end_size : size;
        if (at < size && text[at] == '\n') at++;               /* the line break behind the end token is the file's */
        doc++;
    }
    if (c) {
        begin_document(c);
        c->n_docs--;
        c->hash = fnv1a(FNV_START, c->tokens, c->n_tokens * sizeof *c->tokens);
    }
}

/* The file's text; ends the program unless it is UTF-8 text without NUL. */
static char *read_text_file(const char *path, size_t *size)
{
    char *text = cli_read_file(path, size);
    const uint8_t *s = (const uint8_t *)text;
    size_t at = 0;
    if (!text) cli_fail("%s: %s", path, strerror(errno));
    if (*size == 0) cli_fail("%s: empty", path);
    while (at < *size) {
        uint32_t code;
        size_t n = bni_utf8_decode(s + at, *size - at, &code);
        if (s[at] == 0 || code == BNI_BAD_CODE)
            cli_fail("%s: byte %.0f is not UTF-8 text; text files only", path, (double)at);
        at += n;
    }
    return text;
}

/* ------------------------------------------------------------------------------------------- parameters */

typedef struct dims { int n_vocab, n_ctx, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff; } dims;

/* One matrix or vector of the network, and where its values stand in each of the big arrays. */
typedef struct tensor {
    char name[48];                   /* as in the model file */
    int rows, cols;                  /* a vector has 1 row */
    size_t at;
    int ternary;
} tensor;

enum { ATTN_NORM, ATTN_Q, ATTN_K, ATTN_V, ATTN_SUB_NORM, ATTN_OUTPUT, FFN_NORM, FFN_GATE, FFN_UP, FFN_SUB_NORM, FFN_DOWN, PER_LAYER };

/* Values of one layer in one of the big arrays. Q, K and V stand one behind the other, so that one product computes all
   three; so do gate and up. */
typedef struct layer {
    float *attn_norm;                /* [D] */
    float *qkv;                      /* [Q + 2K, D] */
    float *attn_sub_norm;            /* [Q] */
    float *attn_output;              /* [D, Q] */
    float *ffn_norm;                 /* [D] */
    float *gate_up;                  /* [2F, D] */
    float *ffn_sub_norm;             /* [F] */
    float *ffn_down;                 /* [D, F] */
} layer;

/* What a layer remembers of the forward pass for the backward pass. */
typedef struct memory {
    float *x;                        /* [T, D]  the residual stream that came in */
    float *a, *a_error, *a_scale;    /* [T, D]  norm of x, rounded; its rounding errors; [T] 1 / rms */
    float *qkv;                      /* [T, Q + 2K]  after rope */
    float *p;                        /* [n_rows, n_head, S, S]  attention weights */
    float *o;                        /* [T, Q]  what attention read */
    float *b, *b_error, *b_scale;    /* [T, Q]  norm of o, rounded */
    float *y;                        /* [T, D]  x + attention's output */
    float *c, *c_error, *c_scale;    /* [T, D]  norm of y, rounded */
    float *gu;                       /* [T, 2F] gate and up */
    float *h;                        /* [T, F]  relu(gate)^2 * up */
    float *e, *e_error, *e_scale;    /* [T, F]  norm of h, rounded */
} memory;

typedef struct network {
    dims d;
    int n_rows;                      /* sequences of a micro-batch */
    int n_tokens;                    /* T */
    tensor tensors[2 + MAX_LAYERS * PER_LAYER];
    int n_tensors;
    size_t n_params;
    float *value, *gradient;         /* [n_params] the floats behind the network, and the loss's derivatives */
    float *rounded, *rounding_error; /* [n_params] what the products see; only for the gradient check */
    float *mean1, *mean2;            /* [n_params] AdamW's averages of gradients and of their squares */
    memory layers[MAX_LAYERS];
    float *x;                        /* [T, D]  the stream after the last layer */
    float *z, *z_scale;              /* [T, D]  its norm */
    float *logits;                   /* [T, V]  later their derivatives */
    float *token_loss;               /* [T] */
    int *first;                      /* [T]  where in its row a token's document begins: it looks back no further */
    float *dx, *dn, *dwide, *dwide2; /* gradients on their way back: [T, D], [T, max(D, Q, F)], [T, max(Q + 2K, 2F)] twice */
    float *dp;                       /* [n_rows, n_head_kv, 64, S] */
    float *partial;                  /* [T / 64, max(D, Q, F)] */
    float *rope_cos, *rope_sin;      /* [S, head_dim / 2] */
    rounding mode;
    int32_t bos;                     /* the token that begins a document, or -1 */
} network;

static int width_qkv(const dims *d) { return (d->n_head + 2 * d->n_head_kv) * d->head_dim; }
static int width_q(const dims *d) { return d->n_head * d->head_dim; }

static void add_tensor(network *n, const char *name, int layer_index, int rows, int cols, int ternary)
{
    tensor *t = &n->tensors[n->n_tensors++];
    if (layer_index < 0) snprintf(t->name, sizeof t->name, "%s.weight", name);
    else snprintf(t->name, sizeof t->name, "blk.%d.%s.weight", layer_index, name);
    t->rows = rows;
    t->cols = cols;
    t->ternary = ternary;
    t->at = n->n_params;
    n->n_params += (size_t)rows * (size_t)cols;
}

static void list_tensors(network *n)
{
    const dims *d = &n->d;
    const int q = width_q(d), k = d->n_head_kv * d->head_dim;
    int i;
    add_tensor(n, "token_embd", -1, d->n_vocab, d->n_embd, 0);
    for (i = 0; i < d->n_layer; i++) {
        add_tensor(n, "attn_norm", i, 1, d->n_embd, 0);
        add_tensor(n, "attn_q", i, q, d->n_embd, 1);
        add_tensor(n, "attn_k", i, k, d->n_embd, 1);
        add_tensor(n, "attn_v", i, k, d->n_embd, 1);
        add_tensor(n, "attn_sub_norm", i, 1, q, 0);
        add_tensor(n, "attn_output", i, d->n_embd, q, 1);
        add_tensor(n, "ffn_norm", i, 1, d->n_embd, 0);
        add_tensor(n, "ffn_gate", i, d->n_ff, d->n_embd, 1);
        add_tensor(n, "ffn_up", i, d->n_ff, d->n_embd, 1);
        add_tensor(n, "ffn_sub_norm", i, 1, d->n_ff, 0);
        add_tensor(n, "ffn_down", i, d->n_embd, d->n_ff, 1);
    }
    add_tensor(n, "output_norm", -1, 1, d->n_embd, 0);
}

static layer layer_of(const network *n, float *base, int i)
{
    const tensor *t = &n->tensors[1 + i * PER_LAYER];
    layer l;
    l.attn_norm = base + t[ATTN_NORM].at;
    l.qkv = base + t[ATTN_Q].at;
    l.attn_sub_norm = base + t[ATTN_SUB_NORM].at;
    l.attn_output = base + t[ATTN_OUTPUT].at;
    l.ffn_norm = base + t[FFN_NORM].at;
    l.gate_up = base + t[FFN_GATE].at;
    l.ffn_sub_norm = base + t[FFN_SUB_NORM].at;
    l.ffn_down = base + t[FFN_DOWN].at;
    return l;
}
static float *output_norm_of(const network *n, float *base) { return base + n->tensors[n->n_tensors - 1].at; }

/* All arrays but the parameters' count are set by the dimensions. checking: with room for the rounding errors. */
static void network_create(network *n, const dims *d, int n_rows, int checking)
{
    const size_t t = (size_t)n_rows * (size_t)d->n_ctx, s = (size_t)d->n_ctx;
    const size_t dm = (size_t)d->n_embd, q = (size_t)width_q(d), w = (size_t)width_qkv(d), f = (size_t)d->n_ff;
    const size_t norm = dm > q ? (dm > f ? dm : f) : (q > f ? q : f), wide = w > 2 * f ? w : 2 * f;
    int i, j;
    memset(n, 0, sizeof *n);
    n->d = *d;
    n->n_rows = n_rows;
    n->bos = -1;
    n->n_tokens = (int)t;
    list_tensors(n);
    n->value = floats(n->n_params);
    n->gradient = floats(n->n_params);
    n->rounded = floats(n->n_params);
    n->mean1 = floats(n->n_params);
    n->mean2 = floats(n->n_params);
    if (checking) n->rounding_error = floats(n->n_params);
    for (i = 0; i < d->n_layer; i++) {
        memory *m = &n->layers[i];
        m->x = floats(t * dm);
        m->a = floats(t * dm);
        m->qkv = floats(t * w);
        m->p = floats((size_t)n_rows * (size_t)d->n_head * s * s);
        m->o = floats(t * q);
        m->b = floats(t * q);
        m->y = floats(t * dm);
        m->c = floats(t * dm);
        m->gu = floats(t * 2 * f);
        m->h = floats(t * f);
        m->e = floats(t * f);
        m->a_scale = floats(t);
        m->b_scale = floats(t);
        m->c_scale = floats(t);
        m->e_scale = floats(t);
        if (checking) {
            m->a_error = floats(t * dm);
            m->b_error = floats(t * q);
            m->c_error = floats(t * dm);
            m->e_error = floats(t * f);
        }
    }
    n->x = floats(t * dm);
    n->z = floats(t * dm);
    n->z_scale = floats(t);
    n->logits = floats(t * (size_t)d->n_vocab);
    n->token_loss = floats(t);
    n->first = (int *)cli_alloc(t * sizeof(int));
    memset(n->first, 0, t * sizeof(int));
    n->dx = floats(t * dm);
    n->dn = floats(t * norm);
    n->dwide = floats(t * wide);
    n->dwide2 = floats(t * wide);
    n->dp = floats((size_t)n_rows * (size_t)d->n_head_kv * 64 * s);
    n->partial = floats((t + 63) / 64 * norm);
    n->rope_cos = floats(s * (size_t)d->head_dim / 2);
    n->rope_sin = floats(s * (size_t)d->head_dim / 2);
    for (i = 0; i < d->n_ctx; i++)
        for (j = 0; j < d->head_dim / 2; j++) {
            const double angle = i * pow(10000.0, -2.0 * j / d->head_dim);
            n->rope_cos[i * (d->head_dim / 2) + j] = (float)cos(angle);
            n->rope_sin[i * (d->head_dim / 2) + j] = (float)sin(angle);
        }
}

/* Nearly normal: the sum of twelve uniform numbers, less its mean. The standard library's functions differ by machine. */
static float random_normal(uint64_t seed, uint64_t a, uint64_t b)
{
    double sum = -6;
    int i;
    for (i = 0; i < 12; i++) sum += (double)(random_bits(seed, a, b * 12 + (uint64_t)i) >> 11) * (1.0 / 9007199254740992.0);
    return (float)sum;
}

static void network_init(network *n, uint64_t seed)
{
    int i;
    for (i = 0; i < n->n_tensors; i++) {
        const tensor *t = &n->tensors[i];
        const size_t size = (size_t)t->rows * (size_t)t->cols;
        size_t j;
        for (j = 0; j < size; j++)
            n->value[t->at + j] = t->rows == 1 ? 1.0f : 0.02f * random_normal(seed, (uint64_t)i, j);
    }
}

/* ------------------------------------------------------------------------------------ forward and backward
   Each step of the forward pass stands beside its way back. d<name> is the derivative of the loss by <name>. */

/* ---- ternary weights: rounded = scale * clamp(round(value / scale), -1, 1), scale = mean |value| of the matrix. */

WIDE static void round_matrix(const float *w, float *rounded, float *error, size_t size, rounding mode, float *scale_out)
{
    double sum[LANES] = {0}, total = 0;
    float scale, inverse;
    size_t i;
    int l;
    for (i = 0; i + LANES <= size; i += LANES)
        for (l = 0; l < LANES; l++) sum[l] += (double)fabsf(w[i + (size_t)l]);
    for (l = 0; l < LANES; l++) total += sum[l];
    for (; i < size; i++) total += (double)fabsf(w[i]);
    scale = (float)(total / (double)size);
    if (scale < QUANT_EPS) scale = QUANT_EPS;
    if (scale_out) *scale_out = scale;
    inverse = 1.0f / scale;
    for (i = 0; i < size; i++) {
        float q = round_even(w[i] * inverse);
        q = q < -1 ? -1 : q > 1 ? 1 : q;
        if (mode == ROUND_FROZEN) {
            rounded[i] = w[i] + error[i];
            continue;
        }
        rounded[i] = mode == ROUND_OFF ? w[i] : q * scale;
        if (mode == ROUND_RECORD) error[i] = rounded[i] - w[i];
    }
}

static void round_tensor_job(void *job, int index, int thread)
{
    network *n = (network *)job;
    const tensor *t = &n->tensors[index];
    (void)thread;
    round_matrix(n->value + t->at, n->rounded + t->at, n->rounding_error ? n->rounding_error + t->at : NULL,
                 (size_t)t->rows * (size_t)t->cols, t->ternary ? n->mode : ROUND_OFF, NULL);
}
static void round_weights(network *n) { parallel(round_tensor_job, n, n->n_tensors); }

/* ---- norm and rounding of activations: out = round(x / rms(x) * w). Backward, with u = x / rms(x): du = dout * w,
        dx = (du - u * mean(du * u)) / rms(x), dw = sum over tokens of dout * u; the rounding passes dout through. */

typedef struct norm_args {
    const float *x, *w;              /* [T, n], [n] */
    float *out, *error, *scale;      /* [T, n], [T, n] or NULL, [T] */
    const float *dout;               /* [T, n] */
    float *dx;                       /* [T, n] */
    float *partial;                  /* [blocks of 64 tokens, n] sums of dw */
    int n, n_tokens, add;            /* add: dx += */
    rounding mode;
} norm_args;

WIDE static void norm_forward_block(const norm_args *a, int t0, int t1)
{
    int t, i;
    for (t = t0; t < t1; t++) {
        const float *x = a->x + (size_t)t * (size_t)a->n;
        float *out = a->out + (size_t)t * (size_t)a->n;
        const float scale = 1.0f / sqrtf(row_dot(x, x, a->n) / (float)a->n + NORM_EPS);
        for (i = 0; i < a->n; i++) out[i] = x[i] * scale * a->w[i];
        a->scale[t] = scale;
        quantize_row(out, a->error ? a->error + (size_t)t * (size_t)a->n : NULL, a->n, a->mode);
    }
}

WIDE static void norm_backward_block(const norm_args *a, int t0, int t1, float *dw)
{
    int t, i;
    memset(dw, 0, (size_t)a->n * sizeof *dw);
    for (t = t0; t < t1; t++) {
        const float *x = a->x + (size_t)t * (size_t)a->n, *dout = a->dout + (size_t)t * (size_t)a->n;
        float *dx = a->dx + (size_t)t * (size_t)a->n;
        const float scale = a->scale[t];
        float lane[LANES] = {0}, mean = 0;
        int l;
        for (i = 0; i + LANES <= a->n; i += LANES)
            for (l = 0; l < LANES; l++) lane[l] += dout[i + l] * a->w[i + l] * x[i + l];
        for (; i < a->n; i++) mean += dout[i] * a->w[i] * x[i];
        mean = (mean + fold(lane)) * scale / (float)a->n;
        for (i = 0; i < a->n; i++) {
            const float u = x[i] * scale, d = (dout[i] * a->w[i] - u * mean) * scale;
            dw[i] += dout[i] * u;
            dx[i] = a->add ? dx[i] + d : d;
        }
    }
}

static void norm_forward_job(void *job, int index, int thread)
{
    const norm_args *a = (const norm_args *)job;
    (void)thread;
    norm_forward_block(a, index * 64, index * 64 + 64 < a->n_tokens ? index * 64 + 64 : a->n_tokens);
}

static void norm_backward_job(void *job, int index, int thread)
{
    const norm_args *a = (const norm_args *)job;
    (void)thread;
    norm_backward_block(a, index * 64, index * 64 + 64 < a->n_tokens ? index * 64 + 64 : a->n_tokens,
                        a->partial + (size_t)index * (size_t)a->n);
}

static void norm_forward(const network *n, const float *x, const float *w, float *out, float *error, float *scale, int width, rounding mode)
{
    norm_args a;
    memset(&a, 0, sizeof a);
    a.x = x;
    a.w = w;
    a.out = out;
    a.error = error;
    a.scale = scale;
    a.n = width;
    a.n_tokens = n->n_tokens;
    a.mode = mode;
    parallel(norm_forward_job, &a, (n->n_tokens + 63) / 64);
}

static void norm_backward(const network *n, const float *x, const float *w, float *scale, const float *dout, float *dx, float *dw, int width, int add)
{
    norm_args a;
    int b, i;
    memset(&a, 0, sizeof a);
    a.x = x;
    a.w = w;
    a.scale = scale;
    a.dout = dout;
    a.dx = dx;
    a.partial = n->partial;
    a.n = width;
    a.n_tokens = n->n_tokens;
    a.add = add;
    parallel(norm_backward_job, &a, (n->n_tokens + 63) / 64);
    for (b = 0; b < (n->n_tokens + 63) / 64; b++)
        for (i = 0; i < width; i++) dw[i] += n->partial[(size_t)b * (size_t)width + (size_t)i];
}

/* ---- rope: elements i and i + head_dim / 2 of each head of q and k turn by position * 10000^(-2i / head_dim).
        Backward: they turn back. */

typedef struct rope_args { const network *n; float *qkv; float sign; } rope_args;

WIDE static void rope_row(const network *n, float *qkv, int position, float sign)
{
    const int half = n->d.head_dim / 2, heads = n->d.n_head + n->d.n_head_kv;
    const float *cosine = n->rope_cos + position * half, *sine = n->rope_sin + position * half;
    int h, i;
    for (h = 0; h < heads; h++) {
        float *v = qkv + h * n->d.head_dim;
        for (i = 0; i < half; i++) {
            const float s = sine[i] * sign, x = v[i], y = v[i + half];
            v[i] = x * cosine[i] - y * s;
            v[i + half] = x * s + y * cosine[i];
        }
    }
}

static void rope_job(void *job, int index, int thread)
{
    const rope_args *a = (const rope_args *)job;
    const int s = a->n->d.n_ctx;
    int t;
    (void)thread;
    for (t = 0; t < s; t++) rope_row(a->n, a->qkv + ((size_t)index * (size_t)s + (size_t)t) * (size_t)width_qkv(&a->n->d), t, a->sign);
}

static void rope(const network *n, float *qkv, float sign)
{
    rope_args a;
    a.n = n;
    a.qkv = qkv;
    a.sign = sign;
    parallel(rope_job, &a, n->n_rows);
}

/* ---- attention: p = softmax over first_i <= j <= i of q_i k_j / sqrt(head_dim), o_i = sum of p_ij v_j. Backward:
        dv_j = sum of p_ij do_i, dp_ij = do_i v_j, ds_ij = p_ij (dp_ij - sum over j of p_ij dp_ij) / sqrt(head_dim),
        dq_i = sum of ds_ij k_j, dk_j = sum of ds_ij q_i. In blocks of 64 rows i, whose j begin with the document of the
        block's first row and end with the block. One job is one key/value head of one sequence, with all the query heads
        that share it. Documents that share a row do not see each other: a name is to be looked up in its own story. */

typedef struct attention_args { const network *n; const memory *m; float *o; const float *d_o; float *dqkv; } attention_args;

/* p[rows, s]: row r is that of i0 + r, and begins with j = j0. */
WIDE static void softmax_rows(float *p, const int *first, int i0, int j0, int rows, int s, float scale)
{
    int r, j;
    for (r = 0; r < rows; r++) {
        float *row = p + (size_t)r * (size_t)s;
        const int from = first[i0 + r] - j0, n = i0 + r + 1 - j0, past = i0 + rows - j0;
        const float max = row_max(row + from, n - from, 0);
        float lane[LANES] = {0}, sum;
        int l;
        for (j = 0; j < from; j++) row[j] = 0;
        for (j = from; j < n; j++) row[j] = exp_negative((row[j] - max) * scale);
        for (j = n; j < past; j++) row[j] = 0;
        for (j = 0; j + LANES <= past; j += LANES)
            for (l = 0; l < LANES; l++) lane[l] += row[j + l];
        for (sum = 0; j < past; j++) sum += row[j];
        sum = 1.0f / (sum + fold(lane));
        for (j = 0; j < n; j++) row[j] *= sum;
    }
}

/* dp becomes ds; both [rows, s], n of each row used. */
WIDE static void softmax_rows_backward(const float *p, float *dp, int n, int rows, int s, float scale)
{
    int r, j;
    for (r = 0; r < rows; r++) {
        const float *row = p + (size_t)r * (size_t)s;
        float *d = dp + (size_t)r * (size_t)s;
        const float sum = row_dot(row, d, n);
        for (j = 0; j < n; j++) d[j] = row[j] * (d[j] - sum) * scale;
    }
}

/* c[m, n] (rows ldc apart) = or += a b, on this thread. */
static void multiply_here(float *c, size_t ldc, view a, view b, int m, int n, int k, int add, int thread)
{
    product g;
    g.c = c;
    g.ldc = ldc;
    g.a = a;
    g.b = b;
    g.m = m;
    g.n = n;
    g.k = k;
    g.add = add;
    g.chunk = m;
    g.tile = tile_of(SMALL);
    product_rows(&g, 0, m, product_scratch[thread]);
}

static void attention_forward_job(void *job, int index, int thread)
{
    const attention_args *a = (const attention_args *)job;
    const dims *d = &a->n->d;
    const int s = d->n_ctx, hd = d->head_dim, group = d->n_head / d->n_head_kv, row = index / d->n_head_kv, kv = index % d->n_head_kv;
    const size_t w = (size_t)width_qkv(d), q = (size_t)width_q(d);
    const float *at = a->m->qkv + (size_t)row * (size_t)s * w;
    const float *k = at + (d->n_head + kv) * hd, *v = k + d->n_head_kv * hd;
    const int *first = a->n->first + (size_t)row * (size_t)s;
    int g, i0;
    for (g = 0; g < group; g++) {
        const int head = kv * group + g;
        float *p = a->m->p + ((size_t)row * (size_t)d->n_head + (size_t)head) * (size_t)s * (size_t)s;
        float *o = a->o + (size_t)row * (size_t)s * q + (size_t)(head * hd);
        for (i0 = 0; i0 < s; i0 += 64) {
            const int rows = s - i0 < 64 ? s - i0 : 64, j0 = first[i0], n = i0 + rows - j0;
            const view query = rows_of(at + (size_t)i0 * w + head * hd, w);
            float *block = p + (size_t)i0 * (size_t)s + j0;
            multiply_here(block, (size_t)s, query, rows_of(k + (size_t)j0 * w, w), rows, n, hd, 0, thread);
            softmax_rows(block, first, i0, j0, rows, s, 1.0f / sqrtf((float)hd));
            multiply_here(o + (size_t)i0 * q, q, rows_of(block, (size_t)s), transposed(v + (size_t)j0 * w, w), rows, hd, n, 0, thread);
        }
    }
}

static void attention_backward_job(void *job, int index, int thread)
{
    const attention_args *a = (const attention_args *)job;
    const dims *d = &a->n->d;
    const int s = d->n_ctx, hd = d->head_dim, group = d->n_head / d->n_head_kv, row = index / d->n_head_kv, kv = index % d->n_head_kv;
    const size_t w = (size_t)width_qkv(d), q = (size_t)width_q(d), to_k = (size_t)((d->n_head + kv) * hd), to_v = to_k + (size_t)(d->n_head_kv * hd);
    const float *at = a->m->qkv + (size_t)row * (size_t)s * w;
    float *dat = a->dqkv + (size_t)row * (size_t)s * w;
    float *dp = a->n->dp + (size_t)index * 64 * (size_t)s;
    const int *first = a->n->first + (size_t)row * (size_t)s;
    int g, i0, t;
    for (t = 0; t < s; t++) {
        memset(dat + (size_t)t * w + to_k, 0, (size_t)hd * sizeof(float));
        memset(dat + (size_t)t * w + to_v, 0, (size_t)hd * sizeof(float));
    }
    for (g = 0; g < group; g++) {
        const size_t head = (size_t)((kv * group + g) * hd);
        const float *p = a->m->p + ((size_t)row * (size_t)d->n_head + (size_t)(kv * group + g)) * (size_t)s * (size_t)s;
        const float *d_o = a->d_o + (size_t)row * (size_t)s * q + head;
        for (i0 = 0; i0 < s; i0 += 64) {
            const int rows = s - i0 < 64 ? s - i0 : 64, j0 = first[i0], n = i0 + rows - j0;
            const float *block = p + (size_t)i0 * (size_t)s + j0, *do_block = d_o + (size_t)i0 * q;
            const float *query = at + (size_t)i0 * w + head, *k = at + (size_t)j0 * w + to_k, *v = at + (size_t)j0 * w + to_v;
            float *dk = dat + (size_t)j0 * w + to_k, *dv = dat + (size_t)j0 * w + to_v;
            multiply_here(dp, (size_t)s, rows_of(do_block, q), rows_of(v, w), rows, n, hd, 0, thread);
            multiply_here(dv, w, transposed(block, (size_t)s), transposed(do_block, q), n, hd, rows, 1, thread);
            softmax_rows_backward(block, dp, n, rows, s, 1.0f / sqrtf((float)hd));
            multiply_here(dat + (size_t)i0 * w + head, w, rows_of(dp, (size_t)s), transposed(k, w), rows, hd, n, 0, thread);
            multiply_here(dk, w, transposed(dp, (size_t)s), transposed(query, w), n, hd, rows, 1, thread);
        }
    }
}

static void attention(const network *n, const memory *m, float *o, const float *d_o, float *dqkv)
{
    const int s = n->d.n_ctx;
    attention_args a;
    int row, i0;
    a.n = n;
    a.m = m;
    a.o = o;
    a.d_o = d_o;
    a.dqkv = dqkv;
    for (row = 0; row < n->n_rows; row++)
        for (i0 = 0; i0 < s; i0 += 64) {
            const int rows = s - i0 < 64 ? s - i0 : 64;
            flops_done += (d_o ? 8.0 : 4.0) * n->d.n_head * n->d.head_dim * rows * (i0 + rows - n->first[row * s + i0]);
        }
    parallel(d_o ? attention_backward_job : attention_forward_job, &a, n->n_rows * n->d.n_head_kv);
}

/* ---- gated unit: h = relu(g)^2 * u. Backward: du = dh * relu(g)^2, dg = dh * 2 relu(g) * u. */

typedef struct unit_args { float *gu, *h, *dgu; int f, n_tokens; } unit_args;

WIDE static void unit_block(const unit_args *a, int t0, int t1)
{
    int t, i;
    for (t = t0; t < t1; t++) {
        const float *g = a->gu + (size_t)t * 2 * (size_t)a->f, *u = g + a->f;
        float *h = a->h + (size_t)t * (size_t)a->f;
        if (!a->dgu) {
            for (i = 0; i < a->f; i++) {
                const float r = g[i] > 0 ? g[i] : 0;
                h[i] = r * r * u[i];
            }
        } else {
            float *dg = a->dgu + (size_t)t * 2 * (size_t)a->f, *du = dg + a->f;
            for (i = 0; i < a->f; i++) {
                const float r = g[i] > 0 ? g[i] : 0;
                dg[i] = h[i] * 2 * r * u[i];
                du[i] = h[i] * r * r;
            }
        }
    }
}

static void unit_job(void *job, int index, int thread)
{
    const unit_args *a = (const unit_args *)job;
    (void)thread;
    unit_block(a, index * 64, index * 64 + 64 < a->n_tokens ? index * 64 + 64 : a->n_tokens);
}

/* dgu NULL: forward, h is written; else h holds dh. */
static void gated_unit(const network *n, float *gu, float *h, float *dgu)
{
    unit_args a;
    a.gu = gu;
    a.h = h;
    a.dgu = dgu;
    a.f = n->d.n_ff;
    a.n_tokens = n->n_tokens;
    parallel(unit_job, &a, (n->n_tokens + 63) / 64);
}

/* ---- sum of two arrays: the residual stream. Backward: the derivative goes both ways, which needs no work. */

typedef struct sum_args { const float *a; float *y; size_t n; } sum_args;

WIDE static void sum_block(const float *a, float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) y[i] += a[i];
}

static void sum_job(void *job, int index, int thread)
{
    const sum_args *s = (const sum_args *)job;
    const size_t at = (size_t)index * 16384;
    (void)thread;
    sum_block(s->a + at, s->y + at, s->n - at < 16384 ? s->n - at : 16384);
}

/* y[n] += a[n] */
static void add_into(float *y, const float *a, size_t n)
{
    sum_args s;
    s.a = a;
    s.y = y;
    s.n = n;
    parallel(sum_job, &s, (int)((n + 16383) / 16384));
}

/* ---- embedding: x_t = E[token_t]. Backward: dE[token_t] += dx_t; a job is 32 columns, tokens in order. */

typedef struct embed_args { const network *n; const int32_t *tokens; float *x; const float *dx; float *de; } embed_args;

static void embed_job(void *job, int index, int thread)
{
    const embed_args *a = (const embed_args *)job;
    const size_t d = (size_t)a->n->d.n_embd, from = (size_t)index * 32, size = d - from < 32 ? d - from : 32;
    int t;
    size_t i;
    (void)thread;
    for (t = 0; t < a->n->n_tokens; t++) {
        const size_t row = (size_t)a->tokens[t] * d + from;
        if (a->x) memcpy(a->x + (size_t)t * d + from, a->n->value + row, size * sizeof(float));
        else
            for (i = 0; i < size; i++) a->de[row + i] += a->dx[(size_t)t * d + from + i];
    }
}

static void embed(const network *n, const int32_t *tokens, float *x, const float *dx, float *de)
{
    embed_args a;
    a.n = n;
    a.tokens = tokens;
    a.x = x;
    a.dx = dx;
    a.de = de;
    parallel(embed_job, &a, (n->d.n_embd + 31) / 32);
}

/* ---- loss: -log softmax(logits)[target], 0 where the target is -1. The logits become their own derivatives,
        (softmax - 1 at the target) * weight. */

typedef struct loss_args { const network *n; const int32_t *targets; float weight; } loss_args;

WIDE static void loss_row(float *logits, int n, int32_t target, float weight, float *loss)
{
    const float max = row_max(logits, n, 0), at_target = target >= 0 ? logits[target] : 0;
    float lane[LANES] = {0}, sum = 0, scale;
    int i, l;
    if (target < 0) {
        *loss = 0;
        memset(logits, 0, (size_t)n * sizeof *logits);
        return;
    }
    for (i = 0; i < n; i++) logits[i] = exp_negative(logits[i] - max);
    for (i = 0; i + LANES <= n; i += LANES)
        for (l = 0; l < LANES; l++) lane[l] += logits[i + l];
    for (; i < n; i++) sum += logits[i];
    sum += fold(lane);
    *loss = (float)log((double)sum) - (at_target - max);
    scale = weight / sum;
    for (i = 0; i < n; i++) logits[i] *= scale;
    logits[target] -= weight;
}

static void loss_job(void *job, int index, int thread)
{
    const loss_args *a = (const loss_args *)job;
    int t;
    (void)thread;
    for (t = index * 64; t < index * 64 + 64 && t < a->n->n_tokens; t++)
        loss_row(a->n->logits + (size_t)t * (size_t)a->n->d.n_vocab, a->n->d.n_vocab, a->targets[t], a->weight, a->n->token_loss + t);
}

/* ---- a layer */

static void layer_forward(network *n, int i)
{
    const dims *d = &n->d;
    memory *m = &n->layers[i];
    const layer l = layer_of(n, n->rounded, i);      /* norms are not rounded: there they are the values themselves */
    float *next = i + 1 < d->n_layer ? n->layers[i + 1].x : n->x;
    const size_t stream = (size_t)n->n_tokens * (size_t)d->n_embd;

    norm_forward(n, m->x, l.attn_norm, m->a, m->a_error, m->a_scale, d->n_embd, n->mode);
    linear_forward(m->qkv, m->a, l.qkv, n->n_tokens, width_qkv(d), d->n_embd);
    rope(n, m->qkv, 1);
    attention(n, m, m->o, NULL, NULL);
    norm_forward(n, m->o, l.attn_sub_norm, m->b, m->b_error, m->b_scale, width_q(d), n->mode);
    linear_forward(m->y, m->b, l.attn_output, n->n_tokens, d->n_embd, width_q(d));
    add_into(m->y, m->x, stream);

    norm_forward(n, m->y, l.ffn_norm, m->c, m->c_error, m->c_scale, d->n_embd, n->mode);
    linear_forward(m->gu, m->c, l.gate_up, n->n_tokens, 2 * d->n_ff, d->n_embd);
    gated_unit(n, m->gu, m->h, NULL);
    norm_forward(n, m->h, l.ffn_sub_norm, m->e, m->e_error, m->e_scale, d->n_ff, n->mode);
    linear_forward(next, m->e, l.ffn_down, n->n_tokens, d->n_embd, d->n_ff);
    add_into(next, m->y, stream);
}

/* n->dx: derivative by what the layer put out; becomes that by what it took in. */
static void layer_backward(network *n, int i)
{
    const dims *d = &n->d;
    memory *m = &n->layers[i];
    const layer l = layer_of(n, n->rounded, i), g = layer_of(n, n->gradient, i);

    linear_backward(n->dn, g.ffn_down, n->dx, m->e, l.ffn_down, n->n_tokens, d->n_embd, d->n_ff);
    norm_backward(n, m->h, l.ffn_sub_norm, m->e_scale, n->dn, n->dwide2, g.ffn_sub_norm, d->n_ff, 0);
    gated_unit(n, m->gu, n->dwide2, n->dwide);
    linear_backward(n->dn, g.gate_up, n->dwide, m->c, l.gate_up, n->n_tokens, 2 * d->n_ff, d->n_embd);
    norm_backward(n, m->y, l.ffn_norm, m->c_scale, n->dn, n->dx, g.ffn_norm, d->n_embd, 1);

    linear_backward(n->dn, g.attn_output, n->dx, m->b, l.attn_output, n->n_tokens, d->n_embd, width_q(d));
    norm_backward(n, m->o, l.attn_sub_norm, m->b_scale, n->dn, n->dwide2, g.attn_sub_norm, width_q(d), 0);
    attention(n, m, NULL, n->dwide2, n->dwide);
    rope(n, n->dwide, -1);
    linear_backward(n->dn, g.qkv, n->dwide, m->a, l.qkv, n->n_tokens, width_qkv(d), d->n_embd);
    norm_backward(n, m->x, l.attn_norm, m->a_scale, n->dn, n->dx, g.attn_norm, d->n_embd, 1);
}

/* ---- the network */

/* Sum of the losses of tokens [T] against targets [T] (-1: none); *counted grows by the number of targets. A document
   begins with each token n->bos. The logits hold their derivatives times weight. */
static double network_forward(network *n, const int32_t *tokens, const int32_t *targets, float weight, long *counted)
{
    loss_args a;
    double sum = 0;
    int i, t;
    for (t = 0; t < n->n_tokens; t++) {
        const int at = t % n->d.n_ctx;
        n->first[t] = tokens[t] == n->bos ? at : at ? n->first[t - 1] : 0;
    }
    embed(n, tokens, n->layers[0].x, NULL, NULL);
    for (i = 0; i < n->d.n_layer; i++) layer_forward(n, i);
    norm_forward(n, n->x, output_norm_of(n, n->value), n->z, NULL, n->z_scale, n->d.n_embd, ROUND_OFF);
    linear_forward(n->logits, n->z, n->value, n->n_tokens, n->d.n_vocab, n->d.n_embd);
    a.n = n;
    a.targets = targets;
    a.weight = weight;
    parallel(loss_job, &a, (n->n_tokens + 63) / 64);
    for (t = 0; t < n->n_tokens; t++) {
        sum += (double)n->token_loss[t];
        *counted += targets[t] >= 0;
    }
    return sum;
}

/* Adds the derivatives of weight * loss to n->gradient. */
static void network_backward(network *n, const int32_t *tokens)
{
    int i;
    linear_backward(n->dn, n->gradient, n->logits, n->z, n->value, n->n_tokens, n->d.n_vocab, n->d.n_embd);
    norm_backward(n, n->x, output_norm_of(n, n->value), n->z_scale, n->dn, n->dx, output_norm_of(n, n->gradient), n->d.n_embd, 0);
    for (i = n->d.n_layer - 1; i >= 0; i--) layer_backward(n, i);
    embed(n, tokens, NULL, n->dx, n->gradient);
}

/* -------------------------------------------------------------------------------------------- optimizer
   AdamW (Loshchilov and Hutter 2017) with the gradient's length clipped to 1. */

#define BETA1 0.9f
#define BETA2 0.95f
#define ADAM_EPS 1e-8f
#define ADAM_BLOCK 16384

typedef struct adam_args { network *n; float lr, correct1, correct2, shrink, clip; double *block_sum; } adam_args;

WIDE static double square_sum(const float *g, size_t size)
{
    double lane[LANES] = {0}, sum = 0;
    size_t i;
    int l;
    for (i = 0; i + LANES <= size; i += LANES)
        for (l = 0; l < LANES; l++) lane[l] += (double)g[i + (size_t)l] * (double)g[i + (size_t)l];
    for (; i < size; i++) sum += (double)g[i] * (double)g[i];
    for (l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

WIDE static void adam_block(float *w, float *g, float *mean1, float *mean2, size_t size, const adam_args *a, float shrink)
{
    size_t i;
    for (i = 0; i < size; i++) {
        const float d = g[i] * a->clip;
        mean1[i] = BETA1 * mean1[i] + (1 - BETA1) * d;
        mean2[i] = BETA2 * mean2[i] + (1 - BETA2) * d * d;
        w[i] = w[i] * shrink - a->lr * (mean1[i] * a->correct1) / (sqrtf(mean2[i] * a->correct2) + ADAM_EPS);
        g[i] = 0;
    }
}

static void square_job(void *job, int index, int thread)
{
    const adam_args *a = (const adam_args *)job;
    const size_t at = (size_t)index * ADAM_BLOCK, left = a->n->n_params - at;
    (void)thread;
    a->block_sum[index] = square_sum(a->n->gradient + at, left < ADAM_BLOCK ? left : ADAM_BLOCK);
}

/* A block may lie across tensors: their parts are updated one by one, since only matrices shrink. */
static void adam_job(void *job, int index, int thread)
{
    const adam_args *a = (const adam_args *)job;
    network *n = a->n;
    const size_t from = (size_t)index * ADAM_BLOCK, past = from + ADAM_BLOCK;
    int i;
    (void)thread;
    for (i = 0; i < n->n_tensors; i++) {
        const tensor *t = &n->tensors[i];
        const size_t end = t->at + (size_t)t->rows * (size_t)t->cols;
        const size_t at = t->at > from ? t->at : from, to = end < past ? end : past;
        if (at < to) adam_block(n->value + at, n->gradient + at, n->mean1 + at, n->mean2 + at, to - at, a, t->ternary ? a->shrink : 1.0f);
    }
}

/* One update, number step (from 1); clears the gradient. Returns the gradient's length before clipping. */
static double adam_step(network *n, int step, float lr, float decay)
{
    const int n_blocks = (int)((n->n_params + ADAM_BLOCK - 1) / ADAM_BLOCK);
    adam_args a;
    double sum = 0, length;
    int i;
    a.n = n;
    a.lr = lr;
    a.shrink = 1.0f - lr * decay;
    a.correct1 = (float)(1.0 / (1.0 - pow((double)BETA1, step)));
    a.correct2 = (float)(1.0 / (1.0 - pow((double)BETA2, step)));
    a.block_sum = (double *)cli_alloc((size_t)n_blocks * sizeof(double));
    parallel(square_job, &a, n_blocks);
    for (i = 0; i < n_blocks; i++) sum += a.block_sum[i];
    free(a.block_sum);
    length = sqrt(sum);
    a.clip = length > 1 ? (float)(1 / length) : 1.0f;
    if (length < 1e30) parallel(adam_job, &a, n_blocks);      /* also false for NaN: the caller stops */
    return length;
}

/* ---------------------------------------------------------------------------------------------- options */

typedef struct settings {            /* what a checkpoint keeps: all that decides the result */
    dims d;
    int steps, batch, quantize;
    double lr;
    uint64_t seed;
} settings;

typedef struct options {
    settings s;
    int vocab, threads, every, resume, check, speed, quiet, amx;
    const char *data, *val, *out, *checkpoint, *from, *name, *prompt;
} options;

/* What a run consists of. */
typedef struct run {
    options o;
    vocabulary vocab;
    corpus train, val;
    network net;
    int32_t *tokens, *targets;       /* [T] of the micro-batch */
    int step;
    int chat;                        /* 1: the text has turns of a chat */
    double loss;                     /* running mean of the training loss */
} run;

/* -------------------------------------------------------------------------------------------- batches */

/* Row of a batch: n_ctx tokens from a place that (seed, step, row) decides, and for each the one that follows. Texts
   of short documents start at the beginning of one and go on into the next. */
static void fill_row(const run *r, int step, int row, int32_t *tokens, int32_t *targets)
{
    const corpus *c = &r->train;
    const size_t s = (size_t)r->o.s.d.n_ctx;
    const int by_document = c->n_docs >= 64 && c->n_tokens / c->n_docs < s;
    const uint64_t random = random_bits(r->o.s.seed, 1000000u + (uint64_t)step, (uint64_t)row);
    size_t at = by_document ? c->starts[random % c->n_docs] : (size_t)(random % (c->n_tokens - s)), i;
    for (i = 0; i < s; i++) {
        tokens[i] = c->tokens[at];
        if (++at == c->n_tokens) at = 0;
        targets[i] = c->tokens[at] == special_id(&r->vocab, BOS) ? -1 : c->tokens[at];      /* no text foretells the next */
    }
    if (!by_document) tokens[0] = special_id(&r->vocab, BOS);
}

/* Mean loss per token over up to max_docs documents, each read from its beginning and cut at n_ctx, as tools/perplexity.c
   does with --documents. NaN if Ctrl-C came between. */
static double validate(run *r, size_t max_docs)
{
    const corpus *c = &r->val;
    const size_t s = (size_t)r->o.s.d.n_ctx, n = c->n_docs < max_docs ? c->n_docs : max_docs;
    double sum = 0;
    long counted = 0;
    size_t doc = 0, i;
    int row;
    round_weights(&r->net);
    while (doc < n && !cli_interrupted) {
        for (row = 0; row < r->net.n_rows; row++, doc++) {
            int32_t *tokens = r->tokens + (size_t)row * s, *targets = r->targets + (size_t)row * s;
            const size_t size = doc < n ? c->starts[doc + 1] - c->starts[doc] : 0;
            for (i = 0; i < s; i++) {
                tokens[i] = i < size ? c->tokens[c->starts[doc] + i] : 0;
                targets[i] = i + 1 < size ? c->tokens[c->starts[doc] + i + 1] : -1;
            }
        }
        sum += network_forward(&r->net, r->tokens, r->targets, 0, &counted);
    }
    return doc < n ? (double)NAN : counted ? sum / (double)counted : 0;
}

/* One step: all micro-batches of a batch, then the update. Returns the mean loss. */
static double train_step(run *r)
{
    const settings *s = &r->o.s;
    const size_t n_ctx = (size_t)s->d.n_ctx;
    const int warm_up = s->steps / 20 < 200 ? s->steps / 20 + 1 : 200, at = r->step + 1;
    const double slope = at <= warm_up ? (double)at / warm_up : 1.0 - (double)(at - warm_up) / (s->steps - warm_up + 1);
    double sum = 0, length;
    long counted = 0;
    int row, i;
    r->net.mode = s->quantize ? ROUND_ON : ROUND_OFF;
    round_weights(&r->net);
    for (row = 0; row < s->batch; row += r->net.n_rows) {
        for (i = 0; i < r->net.n_rows; i++)
            fill_row(r, r->step, row + i, r->tokens + (size_t)i * n_ctx, r->targets + (size_t)i * n_ctx);
        sum += network_forward(&r->net, r->tokens, r->targets, 1.0f / ((float)s->batch * (float)n_ctx), &counted);
        network_backward(&r->net, r->tokens);
    }
    /* The published recipe: weights shrink in the first half only, so that the signs settle in the second. */
    length = adam_step(&r->net, at, (float)(s->lr * slope), at * 2 <= s->steps ? 0.1f : 0.0f);
    r->step++;
    if (!(length < 1e30)) cli_fail("step %d: the loss is no longer finite; try a lower --lr", r->step);
    return sum / (double)(counted ? counted : 1);
}

/* ------------------------------------------------------------------------------------------ checkpoints
   A checkpoint is: magic, settings, step, hash of the training text, merges, parameters, AdamW's averages, hash of all that.
   It holds the machine's own numbers, so it goes to machines of the same byte order only. */

#define MAGIC "bitnet-train-1\n"

/* One description of the file for both directions. n bytes at `data` are appended to b, or taken from it at *at. */
typedef struct stream { cli_buffer b; size_t at; int load, bad; } stream;

static void stream_bytes(stream *f, void *data, size_t n)
{
    if (!f->load) {
        cli_append(&f->b, (const char *)data, n);
    } else if (f->bad || f->b.size - f->at < n) {
        f->bad = 1;
    } else {
        memcpy(data, f->b.data + f->at, n);
        f->at += n;
    }
}

static void stream_head(stream *f, settings *s, int *step, uint64_t *text_hash, int *n_merges)
{
    char magic[sizeof MAGIC] = MAGIC;
    stream_bytes(f, magic, sizeof magic);
    if (memcmp(magic, MAGIC, sizeof magic) != 0) f->bad = 1;
    stream_bytes(f, s, sizeof *s);
    stream_bytes(f, step, sizeof *step);
    stream_bytes(f, text_hash, sizeof *text_hash);
    stream_bytes(f, n_merges, sizeof *n_merges);
}

static void stream_network(stream *f, network *n)
{
    stream_bytes(f, n->value, n->n_params * sizeof(float));
    stream_bytes(f, n->mean1, n->n_params * sizeof(float));
    stream_bytes(f, n->mean2, n->n_params * sizeof(float));
}

static void save_checkpoint(run *r)
{
    stream f;
    settings s;
    uint64_t hash;
    memset(&f, 0, sizeof f);
    memset(&s, 0, sizeof s);                             /* padding too: the file is hashed */
    s = r->o.s;
    stream_head(&f, &s, &r->step, &r->train.hash, &r->vocab.n_merges);
    stream_bytes(&f, r->vocab.merges, (size_t)r->vocab.n_merges * sizeof *r->vocab.merges);
    stream_network(&f, &r->net);
    hash = fnv1a(FNV_START, f.b.data, f.b.size);
    stream_bytes(&f, &hash, sizeof hash);
    if (cli_write_file(r->o.checkpoint, f.b.data, f.b.size) != 0) cli_fail("%s: %s", r->o.checkpoint, strerror(errno));
    free(f.b.data);
}

/* A damaged checkpoint must not pass: its settings size every array. */
static int settings_are_sound(const settings *s, int step, int n_merges)
{
    const dims *d = &s->d;
    return d->n_layer >= 1 && d->n_layer <= MAX_LAYERS && d->n_embd >= 8 && d->n_embd <= 65536 && d->n_ff >= 8 && d->n_ff <= 262144 &&
           d->n_head >= 1 && d->n_head_kv >= 1 && d->n_head_kv <= d->n_head && d->n_head % d->n_head_kv == 0 && d->n_head <= 1024 &&
           d->head_dim >= 2 && d->head_dim <= 1024 && d->head_dim % 2 == 0 && d->n_ctx >= 2 && d->n_ctx <= 65536 && n_merges >= 0 &&
           n_merges <= MAX_VOCAB - N_BYTES - SPECIALS && d->n_vocab == N_BYTES + n_merges + SPECIALS && s->steps >= 0 &&
           step >= 0 && step <= s->steps && s->batch >= 1 && s->batch <= 65536 && s->batch <= INT_MAX / d->n_ctx && s->lr > 0 && s->lr <= 1 &&
           d->n_embd % 128 == 0 && d->n_ff % 128 == 0 && width_q(d) % 128 == 0;
}

/* Reads the settings and the vocabulary now; the values once the network is there, by load_values. */
static void load_head(run *r, const char *path, stream *f, uint64_t *text_hash)
{
    settings s;
    uint64_t hash, stated = 0;
    int step = 0, n_merges = 0, i;
    memset(f, 0, sizeof *f);
    f->b.data = cli_read_file(path, &f->b.size);
    if (!f->b.data) cli_fail("%s: %s", path, strerror(errno));
    f->load = 1;
    if (f->b.size < sizeof hash) cli_fail("%s: not a checkpoint of this program", path);
    f->b.size -= sizeof hash;
    memcpy(&stated, f->b.data + f->b.size, sizeof stated);
    hash = fnv1a(FNV_START, f->b.data, f->b.size);
    stream_head(f, &s, &step, text_hash, &n_merges);
    if (f->bad) cli_fail("%s: not a checkpoint of this program", path);
    if (hash != stated || !settings_are_sound(&s, step, n_merges)) cli_fail("%s: damaged", path);
    r->o.s = s;
    r->step = step;
    vocabulary_start(&r->vocab, n_merges);
    for (i = 0; i < n_merges; i++) {
        int32_t merge[2] = {-1, -1};
        stream_bytes(f, merge, sizeof merge);
        if (f->bad || merge[0] < 0 || merge[1] < 0 || merge[0] >= N_BYTES + i || merge[1] >= N_BYTES + i ||
            r->vocab.token_size[merge[0]] + r->vocab.token_size[merge[1]] > MAX_TOKEN_BYTES)
            cli_fail("%s: damaged", path);
        vocabulary_merge(&r->vocab, merge[0], merge[1]);
    }
    r->net.d = s.d;                                      /* how many values there must be, before memory is taken */
    list_tensors(&r->net);
    if (f->b.size - f->at != 3 * sizeof(float) * r->net.n_params) cli_fail("%s: damaged", path);
}

static void load_values(run *r, const char *path, stream *f)
{
    stream_network(f, &r->net);
    if (f->bad || f->at != f->b.size) cli_fail("%s: damaged", path);
    free(f->b.data);
}

/* ------------------------------------------------------------------------------------------- model file */

/* GPT-2's alphabet: bytes that print stand for themselves, the others for U+0100 and on, in order. */
static int byte_letter(int byte)
{
    int b, n = 0;
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae) return byte;
    for (b = 0; b < byte; b++) n += !((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae);
    return 256 + n;
}

/* The token's bytes in that alphabet, as UTF-8, at the end of b. */
static void append_letters(cli_buffer *b, const vocabulary *v, int32_t id)
{
    int i;
    for (i = 0; i < v->token_size[id]; i++) {
        const int c = byte_letter((unsigned char)v->token_text[id][i]);
        const char two[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 63))}, one = (char)c;
        if (c < 128) cli_append(b, &one, 1);
        else cli_append(b, two, 2);
    }
}

static void write_vocabulary(gguf_writer *w, const vocabulary *v)
{
    const int n = n_vocab_of(v), n_plain = N_BYTES + v->n_merges;
    cli_buffer b;
    int i;
    memset(&b, 0, sizeof b);
    gguf_kv_str(w, "tokenizer.ggml.model", "gpt2");
    gguf_kv_str(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_array(w, "tokenizer.ggml.tokens", GGUF_STR, (uint64_t)n);
    for (i = 0; i < n_plain; i++) {
        b.size = 0;
        append_letters(&b, v, i);
        gguf_put_str(w, b.data, b.size);
    }
    for (i = 0; i < SPECIALS; i++) gguf_put_str(w, special_names[i], strlen(special_names[i]));
    gguf_array(w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)n);
    for (i = 0; i < n; i++) gguf_put_i32(w, i < n_plain ? 1 : 3);           /* normal, control */
    gguf_array(w, "tokenizer.ggml.merges", GGUF_STR, (uint64_t)v->n_merges);
    for (i = 0; i < v->n_merges; i++) {
        b.size = 0;
        append_letters(&b, v, v->merges[i][0]);
        cli_append(&b, " ", 1);
        append_letters(&b, v, v->merges[i][1]);
        gguf_put_str(w, b.data, b.size);
    }
    free(b.data);
    gguf_kv_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)special_id(v, BOS));
    gguf_kv_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)special_id(v, EOS));
    gguf_kv_u32(w, "tokenizer.ggml.eot_token_id", (uint32_t)special_id(v, EOT));
    gguf_kv_bool(w, "tokenizer.ggml.add_bos_token", 1);
}

static void write_keys(gguf_writer *w, const run *r)
{
    static const char arch[] = "bitnet-b1.58";
    const dims *d = &r->o.s.d;
    const struct { const char *name; int value; } numbers[] = {
        {"vocab_size", d->n_vocab}, {"context_length", d->n_ctx}, {"embedding_length", d->n_embd}, {"block_count", d->n_layer},
        {"feed_forward_length", d->n_ff}, {"rope.dimension_count", d->head_dim}, {"attention.head_count", d->n_head},
        {"attention.head_count_kv", d->n_head_kv}, {"attention.key_length", d->head_dim}, {"attention.value_length", d->head_dim}};
    char key[96];
    int i;
    gguf_kv_str(w, "general.architecture", arch);
    gguf_kv_str(w, "general.name", r->o.name);
    for (i = 0; i < CLI_COUNT(numbers); i++) {
        snprintf(key, sizeof key, "%s.%s", arch, numbers[i].name);
        gguf_kv_u32(w, key, (uint32_t)numbers[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    gguf_kv_f32(w, key, NORM_EPS);
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    gguf_kv_f32(w, key, 10000.0f);
    gguf_kv_u32(w, "general.file_type", 40);                                /* mostly I2_S */
    gguf_kv_u32(w, "general.quantization_version", 2);
    write_vocabulary(w, &r->vocab);
    if (r->chat)
        gguf_kv_str(w, "tokenizer.chat_template",
                    "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize + ': ' + m['content'] | trim + '<|eot_id|>' }}"
                    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}");
}

/* Types of GGUF and the bytes that n values take. I2_S: four codes in a byte, then the scale in 32 bytes. */
enum { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_I2_S = 36 };

static uint32_t type_of(const tensor *t) { return t->ternary ? TYPE_I2_S : t->rows > 1 ? TYPE_F16 : TYPE_F32; }
static size_t bytes_of(const tensor *t)
{
    const size_t n = (size_t)t->rows * (size_t)t->cols;
    return t->ternary ? n / 4 + 32 : t->rows > 1 ? 2 * n : 4 * n;
}

/* In I2_S, 128 weights are 32 bytes: byte i holds weights i, i + 32, i + 64, i + 96 from its high bits down, as
   0, 1, 2 for -1, 0, 1. */
static void write_tensor(gguf_writer *w, const network *n, const tensor *t, float *rounded, unsigned char *bytes)
{
    const float *value = n->value + t->at;
    const size_t size = (size_t)t->rows * (size_t)t->cols;
    float scale = 0;
    size_t i, j;
    memset(bytes, 0, bytes_of(t));
    if (t->ternary) {
        round_matrix(value, rounded, NULL, size, ROUND_ON, &scale);
        for (i = 0; i < size; i += 128)
            for (j = 0; j < 128; j++) {
                const unsigned code = rounded[i + j] < 0 ? 0u : rounded[i + j] > 0 ? 2u : 1u;
                bytes[i / 4 + j % 32] |= (unsigned char)(code << (6 - 2 * (j / 32)));
            }
        memcpy(bytes + size / 4, &scale, sizeof scale);
    } else if (t->rows > 1) {
        for (i = 0; i < size; i++) {
            const uint16_t half = bni_f32_to_f16(value[i]);
            memcpy(bytes + 2 * i, &half, sizeof half);
        }
    } else {
        memcpy(bytes, value, 4 * size);
    }
    gguf_write(w, bytes, bytes_of(t));
}

/* The model as bitnet.h and other readers of this family load it. Beside its name first, so that a full disk leaves
   the old file whole. */
static void write_model(const run *r)
{
    const network *n = &r->net;
    gguf_writer w;
    size_t most = 0;
    float *rounded;
    unsigned char *bytes;
    int i;
    gguf_writer_init(&w);
    write_keys(&w, r);
    for (i = 0; i < n->n_tensors; i++) {
        const tensor *t = &n->tensors[i];
        const uint64_t ne[2] = {(uint64_t)t->cols, (uint64_t)t->rows};
        const size_t size = (size_t)t->rows * (size_t)t->cols;
        gguf_tensor(&w, t->name, t->rows > 1 ? 2 : 1, ne, type_of(t), bytes_of(t));
        if (size > most) most = size;
    }
    rounded = (float *)cli_alloc(most * sizeof(float));
    bytes = (unsigned char *)cli_alloc(most * sizeof(float));
    gguf_open(&w, r->o.out);
    for (i = 0; i < n->n_tensors; i++) write_tensor(&w, n, &n->tensors[i], rounded, bytes);
    free(rounded);
    free(bytes);
    if (!gguf_close(&w)) cli_fail("%s", w.error);
}

/* ---- a sample, by the engine that will run the model */

static int print_piece(void *user, const char *text, size_t size)
{
    (void)user;
    return fwrite(text, 1, size, stderr) != size;
}

static void print_sample(const run *r)
{
    bitnet_model_desc desc;
    bitnet_generation generation;
    bitnet_engine_desc engine_desc;
    bitnet_model *model = NULL;
    bitnet_engine *engine = NULL;
    bitnet_session *session = NULL;
    bitnet_error err;
    memset(&desc, 0, sizeof desc);
    memset(&generation, 0, sizeof generation);
    memset(&engine_desc, 0, sizeof engine_desc);
    desc.path = r->o.out;
    engine_desc.n_threads = 1;
    generation.max_tokens = 80;
    generation.sampling.temperature = 0.7f;
    generation.sampling.top_p = 0.9f;
    generation.sampling.seed = (uint64_t)r->step;
    fprintf(stderr, "  | %s", r->o.prompt);
    if (bitnet_model_open(&desc, &model, &err) || bitnet_engine_create(model, &engine_desc, &engine, &err) ||
        bitnet_session_create(engine, NULL, &session, &err) ||
        bitnet_generate(session, r->o.prompt, &generation, print_piece, NULL, NULL, &err))
        fprintf(stderr, " (no sample: %s)", err.text);
    fputc('\n', stderr);
    bitnet_session_destroy(session);
    bitnet_engine_destroy(engine);
    bitnet_model_close(model);
}

/* --------------------------------------------------------------------------------------- gradient check
   The loss is a function of the parameters; the backward pass must be its derivative. For each tensor we walk a little
   way in some direction and back and compare the loss's change with what the gradient foretells: along the gradient
   itself, where the change is largest, and along random directions, where a wrong part would show. With rounding on, the
   rounding errors are frozen first (see `rounding`), so that the straight-through estimator is the true derivative. */

static double loss_at(network *n, const int32_t *tokens, const int32_t *targets)
{
    long counted = 0;
    double sum;
    round_weights(n);
    sum = network_forward(n, tokens, targets, 1.0f / (float)n->n_tokens, &counted);
    return sum / n->n_tokens;
}

/* Relative error of the gradient of tensor t along a direction: number 0 is the gradient's own. */
static double check_direction(network *n, const tensor *t, const float *gradient, int number, const int32_t *tokens, const int32_t *targets)
{
    const size_t size = (size_t)t->rows * (size_t)t->cols;
    float *value = n->value + t->at, *old = (float *)cli_alloc(size * sizeof(float)), *way = (float *)cli_alloc(size * sizeof(float));
    double length = 0, foretold = 0, change, norm = 0, step;
    size_t i;
    memcpy(old, value, size * sizeof(float));
    for (i = 0; i < size; i++) {
        /* Random directions lean on the gradient, or in many dimensions they would be at right angles to it. */
        const float g = gradient[t->at + i];
        way[i] = number == 0 ? g : fabsf(g) * random_normal(77, (uint64_t)number, i) + 0.5f * g;
        length += (double)way[i] * (double)way[i];
        norm += (double)old[i] * (double)old[i];
    }
    length = sqrt(length) + 1e-30;
    step = 1e-3 * sqrt(norm) + 1e-4;
    for (i = 0; i < size; i++) {
        way[i] = (float)((double)way[i] / length);
        foretold += (double)way[i] * (double)gradient[t->at + i];
    }
    for (i = 0; i < size; i++) value[i] = old[i] + (float)step * way[i];
    change = loss_at(n, tokens, targets);
    for (i = 0; i < size; i++) value[i] = old[i] - (float)step * way[i];
    change = (change - loss_at(n, tokens, targets)) / (2 * step);
    memcpy(value, old, size * sizeof(float));
    free(old);
    free(way);
    return fabs(change - foretold) / (fabs(change) + fabs(foretold) + 1e-6);
}

/* 1 if a token changes the loss of a later document in its row, or of none in its own. tokens [T] has documents at 20
   and 61; the first loss of each is its own. */
static int documents_leak(network *n, int32_t *tokens, const int32_t *targets)
{
    float before[3], after[3];
    const int at[3] = {18, 40, 70};          /* places with targets in the three documents */
    int i;
    loss_at(n, tokens, targets);
    for (i = 0; i < 3; i++) before[i] = n->token_loss[at[i]];
    tokens[15] = tokens[15] == 9 ? 10 : 9;
    loss_at(n, tokens, targets);
    for (i = 0; i < 3; i++) after[i] = n->token_loss[at[i]];
    return before[0] == after[0] || before[1] != after[1] || before[2] != after[2];
}

/* Prints the largest relative error of each tensor; 1 if one is above the limit. */
static int check_gradients(uint64_t seed)
{
    const dims d = {96, 72, 48, 2, 6, 3, 8, 80};         /* odd enough: several blocks of rows, three shared heads */
    const double limit = use_amx ? 0.2 : 0.02;           /* bfloat16 gradients of norms largely cancel out */
    int bad = 0, quantize, i, k;
    for (quantize = 0; quantize < 2; quantize++) {
        network *n = (network *)cli_alloc(sizeof *n);
        int32_t *tokens, *targets;
        float *gradient;
        network_create(n, &d, 2, 1);
        network_init(n, seed);
        for (i = 0; i < n->n_tensors; i++) {             /* larger than at the start of training: every path matters */
            const tensor *t = &n->tensors[i];
            size_t j;
            for (j = 0; j < (size_t)t->rows * (size_t)t->cols; j++)
                n->value[t->at + j] = t->rows == 1 ? 1.0f + 0.3f * random_normal(seed, 500u + (uint64_t)i, j) : 10.0f * n->value[t->at + j];
        }
        tokens = (int32_t *)cli_alloc((size_t)n->n_tokens * sizeof *tokens);
        targets = (int32_t *)cli_alloc((size_t)n->n_tokens * sizeof *targets);
        for (i = 0; i < n->n_tokens; i++) {
            tokens[i] = (int32_t)(random_bits(seed, 5, (uint64_t)i) % (uint64_t)d.n_vocab);
            targets[i] = i % 7 == 3 ? -1 : (int32_t)(random_bits(seed, 6, (uint64_t)i) % (uint64_t)d.n_vocab);
        }
        n->bos = 7;
        tokens[20] = tokens[61] = tokens[d.n_ctx + 66] = n->bos;
        n->mode = quantize ? ROUND_RECORD : ROUND_OFF;
        loss_at(n, tokens, targets);
        network_backward(n, tokens);
        if (quantize) n->mode = ROUND_FROZEN;
        gradient = floats(n->n_params);
        memcpy(gradient, n->gradient, n->n_params * sizeof(float));
        for (i = 0; i < n->n_tensors; i++) {
            double worst = 0;
            for (k = 0; k < 4; k++) {
                const double e = check_direction(n, &n->tensors[i], gradient, k, tokens, targets);
                if (!(e <= worst)) worst = e;
            }
            printf("%s %-28s relative error %.5f%s\n", quantize ? "rounded" : "exact  ", n->tensors[i].name, worst, worst < limit ? "" : "  WRONG");
            bad |= !(worst < limit);
        }
        n->mode = quantize ? ROUND_ON : ROUND_OFF;
        if (documents_leak(n, tokens, targets)) {
            printf("documents of a row see each other  WRONG\n");
            bad = 1;
        }
        free(tokens);
        free(targets);
        free(n);
    }
    return bad;
}

/* ------------------------------------------------------------------------------------------------ speed */

typedef struct peak_args { int rounds; float *out; } peak_args;

/* Tiles over the same few bytes of first-level cache: as fast as this machine multiplies. */
static void peak_job(void *job, int index, int thread)
{
    const peak_args *a = (const peak_args *)job;
    float *s = product_scratch[thread];
    int i;
    for (i = 0; i < a->rounds; i++) tile.run(128, s, s + 128 * MAX_MR, s + 128 * (MAX_MR + MAX_NR), MAX_NR, 1);
    a->out[index] = s[0];
}

/* Billions of multiplications and additions per second that the tile reaches with everything at hand. */
static double measure_peak(void)
{
    float out[MAX_THREADS];
    peak_args a;
    double best = 0;
    int i;
    a.rounds = 20000;
    a.out = out;
    for (i = 0; i < 5; i++) {
        const double start = cli_seconds();
        double rate;
        parallel(peak_job, &a, pool.n_threads);
        rate = 2.0 * tile.mr * tile.nr * 128 * a.rounds * pool.n_threads / (cli_seconds() - start) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

/* Times steps of the network asked for, on random tokens, beside the peak. */
static int report_speed(run *r)
{
    const dims *d = &r->o.s.d;
    double times[5], flops = 0, peak, start, products;
    int i, k;
    network_create(&r->net, d, r->net.n_rows, 0);
    network_init(&r->net, 1);
    r->tokens = (int32_t *)cli_alloc((size_t)r->net.n_tokens * sizeof *r->tokens);
    for (i = 0; i < r->net.n_tokens; i++) r->tokens[i] = (int32_t)(random_bits(1, 2, (uint64_t)i) % (uint64_t)d->n_vocab);
    r->net.mode = r->o.s.quantize ? ROUND_ON : ROUND_OFF;
    peak = measure_peak();
    for (i = 0; i < 5; i++) {
        long counted = 0;
        start = cli_seconds();
        flops_done = 0;
        round_weights(&r->net);
        network_forward(&r->net, r->tokens, r->tokens, 1e-4f, &counted);
        network_backward(&r->net, r->tokens);
        adam_step(&r->net, i + 1, 1e-4f, 0);
        times[i] = cli_seconds() - start;
        flops = flops_done;
        for (k = i; k > 0 && times[k] < times[k - 1]; k--) {
            const double t = times[k];
            times[k] = times[k - 1];
            times[k - 1] = t;
        }
    }
    start = cli_seconds();
    for (i = 0; i < 10; i++) linear_forward(r->net.dwide, r->net.layers[0].a, layer_of(&r->net, r->net.rounded, 0).gate_up, r->net.n_tokens, 2 * d->n_ff, d->n_embd);
    products = 10 * 2.0 * r->net.n_tokens * 2 * d->n_ff * d->n_embd / (cli_seconds() - start) * 1e-9;
    printf("tile %d x %d, %s, %d threads\n", tile.mr, tile.nr, tile.name, pool.n_threads);
    printf("peak of the tile     %8.1f GFLOP/s\n", peak);
    printf("product of a layer   %8.1f GFLOP/s, %3.0f %% of the peak\n", products, 100 * products / peak);
    printf("whole training step  %8.1f GFLOP/s, %3.0f %% of the peak, %.0f tokens/s (median of 5)\n", flops / times[2] * 1e-9,
           100 * flops / times[2] * 1e-9 / peak, r->net.n_tokens / times[2]);
    return cli_finish_output();
}

/* ------------------------------------------------------------------------------------------------- main */

static void format_time(char text[32], double seconds)
{
    if (seconds < 120) snprintf(text, 32, "%.0f s", seconds);
    else if (seconds < 7200) snprintf(text, 32, "%.0f min", seconds / 60);
    else snprintf(text, 32, "%.1f h", seconds / 3600);
}

/* Validation, checkpoint, model, sample: in that order, so that the line with the loss comes even from a full disk. */
static void milestone(run *r, double started)
{
    const double v = validate(r, 256);
    if (cli_interrupted && r->step < r->o.s.steps) return;          /* train() saves and ends */
    fprintf(stderr, "%sstep %d of %d: training loss %.4f, validation loss %.4f (perplexity %.3f), %.0f s\n", cli_is_terminal(stderr) ? "\r\033[K" : "",
            r->step, r->o.s.steps, r->loss, v, exp(v), cli_seconds() - started);
    save_checkpoint(r);
    if (!r->o.s.quantize) return;
    write_model(r);
    if (!r->o.quiet) print_sample(r);
}

static void train(run *r)
{
    const settings *s = &r->o.s;
    const double started = cli_seconds();
    const int first = r->step, tokens_per_step = s->batch * s->d.n_ctx;
    double final;
    while (r->step < s->steps && !cli_interrupted) {
        const double loss = train_step(r);
        r->loss = r->step == first + 1 ? loss : r->loss + (loss - r->loss) * (r->step - first < 50 ? 1.0 / (r->step - first) : 0.02);
        if (cli_is_terminal(stderr)) {
            const double rate = (r->step - first) / (cli_seconds() - started);
            char left[32];
            format_time(left, (s->steps - r->step) / rate);
            fprintf(stderr, "\rstep %d of %d, loss %.4f, %.0f tokens/s, %s left \033[K", r->step, s->steps, r->loss, rate * tokens_per_step, left);
        }
        if (r->step % r->o.every == 0 && r->step < s->steps) milestone(r, started);
    }
    if (cli_interrupted && r->step < s->steps) {
        save_checkpoint(r);
        fprintf(stderr, "\n");
        cli_message("stopped at step %d; go on with --resume (checkpoint: %s)", r->step, r->o.checkpoint);
        exit(CLI_EXIT_INTERRUPTED);
    }
    milestone(r, started);
    final = validate(r, (size_t)-1);
    if (final != final) {
        cli_message("interrupted: model and checkpoint are written, the validation is not done");
        exit(CLI_EXIT_INTERRUPTED);
    }
    if (r->step > first) printf("%d steps of %d tokens in %.0f s, training loss %.4f\n", r->step - first, tokens_per_step, cli_seconds() - started, r->loss);
    printf("validation: %.0f documents, loss %.4f, perplexity %.4f\n", (double)r->val.n_docs, final, exp(final));
}

/* Long documents become several, so that validate reads all of them. */
static void cut_documents(corpus *c, size_t n_ctx)
{
    size_t *starts = (size_t *)cli_alloc((c->n_docs + c->n_tokens / n_ctx + 2) * sizeof *starts), n = 0, doc, at;
    for (doc = 0; doc < c->n_docs; doc++)
        for (at = c->starts[doc]; at < c->starts[doc + 1]; at += n_ctx) starts[n++] = at;
    starts[n] = c->starts[c->n_docs];
    c->starts = starts;
    c->n_docs = n;
}

/* Training text, vocabulary (unless a checkpoint brought one), validation text: the last hundredth unless a file is
   named. */
static void load_text(run *r, int has_vocabulary)
{
    size_t size;
    char *text = read_text_file(r->o.data, &size);
    corpus *c = &r->train;
    r->chat = strstr(text, TURN) != NULL;
    if (!has_vocabulary) {
        const int max_merges = r->o.vocab - N_BYTES - SPECIALS;
        vocabulary_start(&r->vocab, max_merges);
        read_text(&r->vocab, NULL, text, size);
        learn_merges(&r->vocab, max_merges);
        r->o.s.d.n_vocab = n_vocab_of(&r->vocab);
    }
    read_text(&r->vocab, c, text, size);
    free(text);
    if (r->o.val) {
        text = read_text_file(r->o.val, &size);
        read_text(&r->vocab, &r->val, text, size);
        free(text);
    } else if (c->n_docs >= 100) {
        const size_t kept = c->n_docs - c->n_docs / 100;
        r->val = *c;
        r->val.starts += kept;
        r->val.n_docs -= kept;
        c->n_docs = kept;
        c->n_tokens = c->starts[kept];
    } else {                                             /* a book, say: its last hundredth */
        const size_t spared = c->n_tokens / 100 > 16 ? c->n_tokens / 100 : c->n_tokens < 32 ? c->n_tokens / 2 : 16;
        const size_t kept = c->n_tokens - spared;
        r->val = *c;
        r->val.tokens += kept;
        r->val.n_tokens -= kept;
        c->n_tokens = kept;
        while (c->n_docs > 1 && c->starts[c->n_docs - 1] >= kept) c->n_docs--;
        c->starts[c->n_docs] = kept;
        r->val.starts = (size_t *)cli_alloc(2 * sizeof(size_t));
        r->val.starts[0] = 0;
        r->val.starts[1] = r->val.n_tokens;
        r->val.n_docs = 1;
    }
    if (r->val.n_tokens / r->val.n_docs > 2 * (size_t)r->o.s.d.n_ctx) cut_documents(&r->val, (size_t)r->o.s.d.n_ctx);
    c->hash = fnv1a(c->hash, &c->n_tokens, sizeof c->n_tokens);      /* another share held out is another training text */
    if (c->n_tokens < (size_t)r->o.s.d.n_ctx + 2)
        cli_fail("%s: %.0f tokens are too few for a context of %d; more text, or a smaller --ctx", r->o.data, (double)c->n_tokens, r->o.s.d.n_ctx);
}

static void check_options(const options *o)
{
    const dims *d = &o->s.d;
    if (o->check || o->speed) return;
    if (!o->data) cli_usage("no text to learn from: --data FILE (see --help)");
    if (!o->out) cli_usage("no name for the model: -o FILE (see --help)");
    if (o->resume && o->from) cli_usage("--resume and --from exclude each other");
    if (d->n_embd % 128 != 0 || d->n_ff % 128 != 0 || d->n_head * d->head_dim % 128 != 0)
        cli_usage("--embd, --ff and heads * head size must be multiples of 128: I2_S stores weights in blocks of 128");
}

static void parse_options(options *o, int argc, char **argv)
{
    int no_quant = 0, head_dim = 0;
    dims *d = &o->s.d;
    const cli_option rows[] = {
        {"--data", CLI_STRING, &o->data, "FILE", "text to learn from; documents end with <|end_of_text|>", 0, 0},
        {"--val", CLI_STRING, &o->val, "FILE", "text to measure on; without it, the last 1 % of --data", 0, 0},
        {"-o --output", CLI_STRING, &o->out, "FILE", "the model (GGUF), written at every milestone and at the end", 0, 0},
        {"--name", CLI_STRING, &o->name, "TEXT", "the model's general.name", 0, 0},
        {NULL, CLI_HEADING, NULL, NULL, "the network:", 0, 0},
        {"--embd", CLI_INT, &d->n_embd, "N", "width of the residual stream (256)", 128, 8192},
        {"--layers", CLI_INT, &d->n_layer, "N", "layers (5)", 1, MAX_LAYERS},
        {"--heads", CLI_INT, &d->n_head, "N", "query heads (4)", 1, 256},
        {"--kv-heads", CLI_INT, &d->n_head_kv, "N", "key and value heads (2)", 1, 256},
        {"--head-dim", CLI_INT, &head_dim, "N", "size of a head (embd / heads)", 2, 256},
        {"--ff", CLI_INT, &d->n_ff, "N", "width inside the feed-forward part (640)", 128, 65536},
        {"--ctx", CLI_INT, &d->n_ctx, "N", "tokens the model can look back on (256)", 8, 8192},
        {"--vocab", CLI_INT, &o->vocab, "N", "tokens of the vocabulary, learned from the text (2048)", N_BYTES + SPECIALS, MAX_VOCAB},
        {"--no-quant", CLI_FLAG, &no_quant, NULL, "train the same network without rounding, to compare; writes no model", 0, 0},
        {NULL, CLI_HEADING, NULL, NULL, "the training:", 0, 0},
        {"--steps", CLI_INT, &o->s.steps, "N", "updates (2000); 0: only measure and write the model", 0, INT_MAX / 2},
        {"--batch", CLI_INT, &o->s.batch, "N", "sequences of an update (16)", 1, 4096},
        {"--lr", CLI_REAL, &o->s.lr, "X", "highest learning rate (0.002)", 1e-9, 1},
        {"--seed", CLI_U64, &o->s.seed, "N", "same seed, same text, same processor kind: same model (1)", 0, 0},
        {"--every", CLI_INT, &o->every, "N", "steps from milestone to milestone (a tenth of all)", 1, INT_MAX},
        {"--checkpoint", CLI_STRING, &o->checkpoint, "FILE", "where training can go on from (the model's name with .ckpt)", 0, 0},
        {"--resume", CLI_FLAG, &o->resume, NULL, "go on from the checkpoint as if never stopped, with its settings", 0, 0},
        {"--from", CLI_STRING, &o->from, "FILE", "start from this checkpoint's network, of its dimensions, and vocabulary (fine-tune)", 0, 0},
        {"-t --threads", CLI_INT, &o->threads, "N", "threads; 0: one per core", 0, MAX_THREADS},
        {"--prompt", CLI_STRING, &o->prompt, "TEXT", "what the samples at milestones begin with", 0, 0},
        {"--amx", CLI_FLAG, &o->amx, NULL, "multiply with AMX where there is one: faster, other bits than elsewhere", 0, 0},
        {"--quiet", CLI_FLAG, &o->quiet, NULL, "no samples", 0, 0},
        {NULL, CLI_HEADING, NULL, NULL, "instead of training:", 0, 0},
        {"--check-gradients", CLI_FLAG, &o->check, NULL, "compare the backward pass with finite differences", 0, 0},
        {"--speed", CLI_FLAG, &o->speed, NULL, "measure a step of this network beside the machine's peak", 0, 0},
    };
    const cli_program program = {"train", "--data TEXT -o MODEL [options]",
                                 "Trains a BitNet b1.58 language model from a text file, on the CPU.",
                                 "Ctrl-C saves a checkpoint. The result does not depend on the number of threads.", rows, CLI_COUNT(rows), 0, 0};
    const char *none[1];
    cli_parse(&program, argc, argv, none);
    o->s.quantize = !no_quant;
    if (!o->resume && !o->from) {
        if (d->n_head % d->n_head_kv != 0) cli_usage("--heads must be a multiple of --kv-heads");
        if (!head_dim && d->n_embd % d->n_head != 0) cli_usage("--embd must be a multiple of --heads, or give --head-dim");
    }
    d->head_dim = head_dim ? head_dim : d->n_embd / d->n_head;
    if (d->head_dim % 2 != 0) cli_usage("heads must have an even size");
    check_options(o);
}

/* Rows of a micro-batch: about 2,048 tokens, and a divisor of the batch. */
static int micro_rows(const settings *s)
{
    int rows = 2048 / s->d.n_ctx < s->batch ? 2048 / s->d.n_ctx : s->batch;
    if (rows < 1) rows = 1;
    while (s->batch % rows != 0) rows--;
    return rows;
}

/* What could go wrong with the files at the end of an hour is better found now. */
static void check_files(const options *o)
{
    const char *const written[2] = {o->checkpoint, o->s.quantize ? o->out : o->checkpoint}, *const read[2] = {o->data, o->val};
    char beside[4200];
    int i, k;
    if (strcmp(o->checkpoint, o->out) == 0) cli_usage("--checkpoint and -o name the same file");
    for (i = 0; i < 2; i++) {
        FILE *f;
        for (k = 0; k < 2; k++)
            if (read[k] && strcmp(read[k], written[i]) == 0) cli_usage("%s would be overwritten", read[k]);
        if (cli_is_special(written[i])) cli_fail("%s: not a regular file", written[i]);
        if (snprintf(beside, sizeof beside, "%s.part", written[i]) >= (int)sizeof beside) cli_usage("a file's name is too long");
        f = fopen(beside, "ab");
        if (!f) cli_fail("%s: %s", written[i], strerror(errno));
        fclose(f);
        remove(beside);
    }
    if (!o->resume && !o->from) {
        FILE *f = fopen(o->checkpoint, "rb");
        if (f) cli_fail("%s exists: go on from it with --resume, delete it, or name another --checkpoint", o->checkpoint);
    }
}

/* The checkpoint named by --resume or --from into the run. */
static void start_from(run *r, stream *f, uint64_t *text_hash)
{
    const options asked = r->o;
    const char *path = asked.resume ? asked.checkpoint : asked.from;
    load_head(r, path, f, text_hash);
    if (asked.resume) return;
    r->step = 0;                                         /* a new schedule for the old network */
    r->o.s.steps = asked.s.steps;
    r->o.s.batch = asked.s.batch;
    r->o.s.lr = asked.s.lr;
    r->o.s.seed = asked.s.seed;
    r->o.s.quantize = asked.s.quantize;
}

int main(int argc, char **argv)
{
    static run r;
    stream f;
    uint64_t text_hash = 0;
    int i;
    char checkpoint[4096], tokens[24], count[24], memory_size[24];
    settings *s = &r.o.s;
    memset(&f, 0, sizeof f);
    s->d.n_embd = 256; s->d.n_layer = 5; s->d.n_head = 4; s->d.n_head_kv = 2; s->d.n_ff = 640; s->d.n_ctx = 256;
    s->steps = 2000; s->batch = 16; s->lr = 0.002; s->seed = 1;
    r.o.vocab = 2048;
    r.o.name = "trained with bitnet.h";
    r.o.prompt = "Once upon a time";
    parse_options(&r.o, argc, argv);
    choose_tile();
#if HAVE_AMX_TILE
    use_amx = r.o.amx && amx_usable();
#endif
    if (r.o.amx && !use_amx) cli_fail("--amx: this processor, system or build has no AMX with bfloat16");
    pool_start(r.o.threads > 0 ? r.o.threads : n_cores());
    for (i = 0; i < pool.n_threads; i++) product_scratch[i] = floats(SCRATCH_FLOATS);
    if (r.o.check) return check_gradients(s->seed) ? CLI_EXIT_FAILED : cli_finish_output();
    if (r.o.speed) {
        s->d.n_vocab = r.o.vocab;
        r.net.n_rows = micro_rows(s);
        return report_speed(&r);
    }
    if (!r.o.checkpoint) {
        if (snprintf(checkpoint, sizeof checkpoint, "%s.ckpt", r.o.out) >= (int)sizeof checkpoint) cli_usage("the model's name is too long");
        r.o.checkpoint = checkpoint;
    }
    check_files(&r.o);
    cli_catch_interrupts();
#if !defined(_WIN32)
    signal(SIGTERM, cli_on_interrupt);                   /* a closed terminal or a shutdown saves a checkpoint, too */
    signal(SIGHUP, cli_on_interrupt);
#endif
    if (r.o.resume || r.o.from) start_from(&r, &f, &text_hash);
    load_text(&r, r.o.resume || r.o.from);
    if (r.o.resume && text_hash != r.train.hash) cli_fail("%s was trained on another text than %s", r.o.checkpoint, r.o.data);
    if (r.o.every <= 0) r.o.every = s->steps >= 10 ? s->steps / 10 : 1;
    network_create(&r.net, &s->d, micro_rows(s), 0);
    r.net.bos = special_id(&r.vocab, BOS);
    r.tokens = (int32_t *)cli_alloc((size_t)r.net.n_tokens * sizeof *r.tokens);
    r.targets = (int32_t *)cli_alloc((size_t)r.net.n_tokens * sizeof *r.targets);
    if (f.load) {
        load_values(&r, r.o.resume ? r.o.checkpoint : r.o.from, &f);
        if (r.o.from) {
            memset(r.net.mean1, 0, r.net.n_params * sizeof(float));
            memset(r.net.mean2, 0, r.net.n_params * sizeof(float));
        }
    } else {
        network_init(&r.net, s->seed);
    }
    r.net.mode = s->quantize ? ROUND_ON : ROUND_OFF;
    fprintf(stderr, "%s parameters, %d tokens in the vocabulary; %s tokens of text in %.0f documents; %s of memory\n",
            cli_count(count, r.net.n_params), s->d.n_vocab, cli_count(tokens, r.train.n_tokens), (double)r.train.n_docs, cli_size(memory_size, bytes_allocated));
    train(&r);
    return cli_finish_output();
}
