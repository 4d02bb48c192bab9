/* test.h: the little that every test program shares.

   A test includes the engine's implementation first, then this file, calls private functions directly, and ends
   with `return test_end("name");`.

       #define BITNET_IMPLEMENTATION
       #include "bitnet.h"
       #include "test.h"

       int main(void)
       {
           CHECK(1 + 1 == 2, "arithmetic is broken: %d", 1 + 1);
           SKIP("no GPU on this machine");
           return test_end("example");
       }

   What is here: checks and skips, seeded random numbers, and (where bitnet.h comes first) an allocator that
   counts, fails on demand, and catches writes outside its blocks. Checks are for the main thread; a test of
   threads counts its own errors atomically and checks the count at the end. */

#ifndef BITNET_TEST_H
#define BITNET_TEST_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
  #define TEST_UNUSED __attribute__((unused))
  #define TEST_PRINTF(text, args) __attribute__((unused, format(printf, text, args)))
#else
  #define TEST_UNUSED
  #define TEST_PRINTF(text, args)
#endif

/* -------------------------------------------------------------------------------------- checks and skips */

#define TEST_MAX_MESSAGES 25         /* failures printed in full; a broken loop should not fill the terminal */

static int test_passed, test_failed, test_skipped;

/* Counts a check; where cond is false, prints file, line, the condition and the message (a printf format and its
   arguments, required: say which case it was and which values it had). Has no value. */
#define CHECK(cond, ...) ((cond) ? (void)test_passed++ : test_fail(__FILE__, __LINE__, #cond, __VA_ARGS__))

/* Like CHECK, but gives up: for conditions without which the rest of the test would crash. */
#define REQUIRE(cond, ...) ((cond) ? (void)test_passed++ : test_give_up(__FILE__, __LINE__, #cond, __VA_ARGS__))

/* Counts something that could not be tested here, and says why: never silently. */
#define SKIP(...) test_skip(__VA_ARGS__)

/* Prints "NAME: N passed, N failed, N skipped" on stdout. Result: exit status, 0 if something was checked or
   skipped and nothing failed, else 1. */
TEST_UNUSED static int test_end(const char *name)
{
    if (test_passed + test_failed + test_skipped == 0) {
        fprintf(stderr, "FAIL %s: nothing was checked\n", name);
        test_failed = 1;
    }
    fflush(stderr);
    printf("%s: %d passed, %d failed, %d skipped\n", name, test_passed, test_failed, test_skipped);
    fflush(stdout);
    return test_failed != 0;
}

static void test_print_failure(const char *file, int line, const char *cond, const char *format, va_list args)
{
    if (++test_failed > TEST_MAX_MESSAGES) return;
    fprintf(stderr, "FAIL %s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fprintf(stderr, " [%s]\n", cond);
    if (test_failed == TEST_MAX_MESSAGES) fprintf(stderr, "FAIL: further failures are counted, not printed\n");
}

TEST_PRINTF(4, 5) static void test_fail(const char *file, int line, const char *cond, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    test_print_failure(file, line, cond, format, args);
    va_end(args);
}

TEST_PRINTF(4, 5) static void test_give_up(const char *file, int line, const char *cond, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    test_print_failure(file, line, cond, format, args);
    va_end(args);
    exit(test_end("gave up"));
}

TEST_PRINTF(1, 2) static void test_skip(const char *format, ...)
{
    va_list args;
    test_skipped++;
    va_start(args, format);
    fprintf(stderr, "SKIP: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
}

/* ---------------------------------------------------------------------------------------- random numbers */

/* The same sequence on every machine (splitmix64, public domain, S. Vigna). *state is the seed, any value. */
TEST_UNUSED static uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 .. n - 1; n > 0. */
TEST_UNUSED static int test_below(uint64_t *state, int n)
{
    return (int)(test_random(state) % (uint64_t)n);
}

/* [0, 1), every multiple of 2^-53. */
TEST_UNUSED static double test_unit(uint64_t *state)
{
    return (double)(test_random(state) >> 11) * (1.0 / 9007199254740992.0);
}

/* Roughly normal, mean 0, deviation 1, within -6 .. 6: twelve uniform numbers added, no libm. */
TEST_UNUSED static float test_normal(uint64_t *state)
{
    double sum = -6.0;
    int i;
    for (i = 0; i < 12; i++) sum += test_unit(state);
    return (float)sum;
}

/* ---------------------------------------------------------------------------------------------- allocator */

#ifdef BITNET_H_INCLUDED

/* Zero it, hand test_allocator(&memory) to the engine, read the counts. With fail_at = k the k-th call (from 1)
   returns NULL, and all later ones too if fail_on is set. At the end live_blocks must be 0 and n_errors 0. */
typedef struct test_memory {
    size_t n_alloc;                  /* calls of alloc, failed ones included */
    size_t fail_at;                  /* 0: never */
    int fail_on;
    size_t live_blocks, live_bytes, peak_bytes;
    size_t last_bytes;               /* size of the newest block */
    size_t n_errors;                 /* free with a wrong size, writes before or past a block, bad alignment */
} test_memory;

enum { TEST_GUARD = 32 };            /* bytes watched after each block; what stands before it is watched too */

/* Stands right before each block. */
typedef struct test_block {
    void *base;                      /* what malloc gave */
    size_t size;
    uint64_t magic;
} test_block;

#define TEST_MAGIC UINT64_C(0x7e57b10c7e57b10c)

/* Blocks are filled with 0xA5, so that code which takes fresh memory for zeros gives itself away. */
static void *test_alloc(void *user, size_t size, size_t align)
{
    test_memory *m = (test_memory *)user;
    test_block head;
    uint8_t *base, *block;
    m->n_alloc++;
    if (m->fail_at != 0 && (m->n_alloc == m->fail_at || (m->fail_on && m->n_alloc > m->fail_at))) return NULL;
    if (align == 0 || align > 4096 || (align & (align - 1)) != 0) {
        m->n_errors++;
        return NULL;
    }
    if (size > SIZE_MAX - align - TEST_GUARD - sizeof head) return NULL;
    base = (uint8_t *)malloc(size + align + TEST_GUARD + sizeof head);
    if (base == NULL) return NULL;
    block = base + sizeof head;
    block += (align - (uintptr_t)block % align) % align;
    head.base = base;
    head.size = size;
    head.magic = TEST_MAGIC;
    memcpy(block - sizeof head, &head, sizeof head);
    memset(block, 0xA5, size);
    memset(block + size, 0x5A, TEST_GUARD);
    m->live_blocks++;
    m->live_bytes += size;
    m->last_bytes = size;
    if (m->live_bytes > m->peak_bytes) m->peak_bytes = m->live_bytes;
    return block;
}

static void test_free(void *user, void *memory, size_t size)
{
    test_memory *m = (test_memory *)user;
    const uint8_t *block = (const uint8_t *)memory;
    test_block head;
    int i;
    if (block == NULL) return;
    memcpy(&head, block - sizeof head, sizeof head);
    if (head.magic != TEST_MAGIC) {  /* not ours, freed twice, or overwritten: nothing in it can be trusted */
        m->n_errors++;
        return;
    }
    if (head.size != size) m->n_errors++;
    for (i = 0; i < TEST_GUARD; i++) {
        if (block[head.size + (size_t)i] != 0x5A) {
            m->n_errors++;
            break;
        }
    }
    m->live_blocks--;
    m->live_bytes -= head.size;
    memset((uint8_t *)memory - sizeof head, 0, sizeof head);
    free(head.base);
}

TEST_UNUSED static bitnet_allocator test_allocator(test_memory *m)
{
    bitnet_allocator a;
    a.alloc = test_alloc;
    a.free = test_free;
    a.user = m;
    return a;
}

#endif /* BITNET_H_INCLUDED */
#endif /* BITNET_TEST_H */
