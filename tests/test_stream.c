/* test_stream.c: the text stream against a naive version that sees the whole text at once. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "test.h"

enum { MAX_TEXT = 400, MAX_TOKEN = 40 };

/* -------------------------------------------------------------------------------------- the naive version */

/* Length of the valid UTF-8 character at s [n], or minus the length of the garbage to replace. By decoding and
   comparing code points, not by the engine's table of bounds. */
static int naive_character(const uint8_t *s, int n)
{
    static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint32_t code, mask;
    int size = s[0] < 0x80 ? 1 : s[0] >= 0xc0 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 :
               s[0] >= 0xf0 && s[0] < 0xf8 ? 4 : 0;
    int i, j;
    if (size == 1) return 1;
    if (size == 0) return -1;
    code = s[0] & (0x7fu >> size);
    for (i = 1; i < size; i++) {
        uint32_t low, high;
        if (i >= n || (s[i] & 0xc0) != 0x80) return -i;
        code = code << 6 | (s[i] & 0x3fu);
        /* could any ending of this prefix be a legal code point? */
        for (low = code, high = code, j = i + 1; j < size; j++) {
            low <<= 6;
            high = high << 6 | 0x3fu;
        }
        mask = high < smallest[size] || low > 0x10ffff || (low >= 0xd800 && high <= 0xdfff);
        if (mask) return -i;
    }
    if (code < smallest[size] || code > 0x10ffff) return -1;
    return size;
}

/* Replaces garbage by U+FFFD. Result: bytes of out. end 0: an incomplete character at the end is left out. */
static int naive_clean(const uint8_t *s, int n, char *out, int end)
{
    int i = 0, m = 0, k, complete;
    while (i < n) {
        k = naive_character(s + i, n - i);
        /* incomplete if it is garbage only because the text ends: some continuation byte would go on */
        complete = 1;
        if (k < 0 && i - k == n && !end) {
            uint8_t longer[5];
            int b;
            memcpy(longer, s + i, (size_t)-k);
            for (b = 0x80; b < 0xc0 && complete; b++) {
                longer[-k] = (uint8_t)b;
                if (naive_character(longer, 1 - k) == 1 - k || naive_character(longer, 1 - k) < k) complete = 0;
            }
        }
        if (!complete) break;
        if (k > 0) {
            memcpy(out + m, s + i, (size_t)k);
            m += k;
            i += k;
        } else {
            memcpy(out + m, "\xef\xbf\xbd", 3);
            m += 3;
            i -= k;
        }
    }
    return m;
}

/* Bytes of the clean text before the stop string that ends first (longest at a tie); *found says if there is one. */
static int naive_stop(const char *text, int n, const char *const *stops, int n_stops, int *found)
{
    int end, i, longest;
    *found = 0;
    for (end = 1; end <= n; end++) {
        for (longest = 0, i = 0; i < n_stops; i++) {
            int size = (int)strlen(stops[i]);
            if (size <= end && size > longest && memcmp(text + end - size, stops[i], (size_t)size) == 0) longest = size;
        }
        if (longest > 0) {
            *found = 1;
            return end - longest;
        }
    }
    return n;
}

/* Bytes of the clean text without the longest end that begins a stop string. */
static int naive_released(const char *text, int n, const char *const *stops, int n_stops)
{
    int start, i;
    for (start = 0; start < n; start++)
        for (i = 0; i < n_stops; i++)
            if (n - start < (int)strlen(stops[i]) && memcmp(text + start, stops[i], (size_t)(n - start)) == 0)
                return start;
    return n;
}

static int is_utf8(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int k = naive_character((const uint8_t *)s + i, (int)(n - i));
        if (k <= 0) return 0;
        i += (size_t)k;
    }
    return 1;
}

/* ----------------------------------------------------------------------------------------------- the comparison */

/* Runs bytes [n] through the stream, cut after byte i where bit i of cuts is set, and compares after every push. */
static void compare(bni_stream *s, const uint8_t *bytes, int n, const uint8_t *cut, const char *const *stops,
                    int n_stops)
{
    static char clean[3 * MAX_TEXT + 8], got[3 * MAX_TEXT + 8];
    int i, from = 0, m, want, found, result = 0, n_got = 0;
    CHECK(bni_stream_reset(s, stops, n_stops) == 0, "stop strings were refused");
    for (i = 0; i < n; i++) {
        if (i != n - 1 && !cut[i] && i + 1 - from < MAX_TOKEN) continue;
        result = bni_stream_push(s, bytes + from, (size_t)(i + 1 - from));
        from = i + 1;
        CHECK(is_utf8(s->text, s->size), "a piece is not valid UTF-8");
        CHECK(s->text[s->size] == '\0', "a piece has no NUL");
        REQUIRE(n_got + (int)s->size < (int)sizeof got, "too much text");
        memcpy(got + n_got, s->text, s->size);
        n_got += (int)s->size;
        m = naive_clean(bytes, from, clean, 0);
        want = naive_stop(clean, m, stops, n_stops, &found);
        if (!found) want = naive_released(clean, m, stops, n_stops);
        CHECK(result == found, "after %d of %d bytes: result %d, naive %d", from, n, result, found);
        CHECK(n_got == want && memcmp(got, clean, (size_t)want) == 0, "after %d of %d bytes: %d released, naive %d",
              from, n, n_got, want);
    }
    result = bni_stream_finish(s);
    CHECK(is_utf8(s->text, s->size) && s->text[s->size] == '\0', "the last piece is not valid UTF-8 with a NUL");
    memcpy(got + n_got, s->text, s->size);
    n_got += (int)s->size;
    m = naive_clean(bytes, n, clean, 1);
    want = naive_stop(clean, m, stops, n_stops, &found);
    CHECK(result == found && n_got == want && memcmp(got, clean, (size_t)want) == 0,
          "at the end: %d bytes, stop %d; naive %d, stop %d", n_got, result, want, found);
}

/* Letters of few kinds, so that stop strings appear, overlap, and almost appear. */
static void random_stops(uint64_t *random, char text[][16], const char **stops, int n_stops)
{
    static const char *const letter[5] = { "a", "b", "\xc3\xa4", "\xe2\x82\xac", "\xef\xbf\xbd" };
    int i, k, n;
    for (i = 0; i < n_stops; i++) {
        text[i][0] = '\0';
        n = 1 + test_below(random, 4);
        for (k = 0; k < n; k++) strcat(text[i], letter[test_below(random, test_below(random, 3) ? 2 : 5)]);
        stops[i] = text[i];
    }
}

static int random_text(uint64_t *random, uint8_t *out, int max)
{
    static const char *const part[14] = { "a", "b", "a", "b", "ab", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                          "\xef\xbf\xbd", "\xff", "\xc3", "\xe2\x82", "\x80", "\xf0\x9f" };
    static const uint8_t border[12] = { 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc1, 0xe0, 0xed, 0xf4, 0xf5 };
    int kinds = test_below(random, 3) == 0 ? 5 : 14, n = 0, size;
    while (n < max) {
        const char *p = part[test_below(random, kinds)];
        size = (int)strlen(p);
        if (n + size > max) break;
        memcpy(out + n, p, (size_t)size);
        n += size;
        if (kinds == 14 && n < max && test_below(random, 4) == 0) out[n++] = border[test_below(random, 12)];
        if (kinds == 14 && n < max && test_below(random, 40) == 0) out[n++] = 0;
    }
    return n;
}

static void test_random_splits(bni_stream *s)
{
    static uint8_t bytes[MAX_TEXT], cut[MAX_TEXT];
    char text[BITNET_MAX_STOPS][16];
    const char *stops[BITNET_MAX_STOPS];
    uint64_t random = 3;
    int round, n, n_stops, i, rate;
    for (round = 0; round < 1500; round++) {
        n_stops = test_below(&random, round % 4 ? 4 : BITNET_MAX_STOPS + 1);
        random_stops(&random, text, stops, n_stops);
        n = random_text(&random, bytes, 1 + test_below(&random, round % 8 ? 40 : MAX_TEXT));
        rate = 1 + test_below(&random, 6);
        for (i = 0; i < n; i++) cut[i] = test_below(&random, rate) == 0;
        compare(s, bytes, n, cut, stops, n_stops);
    }
}

/* Every way to cut short texts. */
static void test_all_splits(bni_stream *s)
{
    uint8_t bytes[9], cut[9];
    char text[BITNET_MAX_STOPS][16];
    const char *stops[BITNET_MAX_STOPS];
    uint64_t random = 4;
    int round, n, n_stops, i, mask;
    for (round = 0; round < 100; round++) {
        n_stops = test_below(&random, 4);
        random_stops(&random, text, stops, n_stops);
        n = random_text(&random, bytes, 9);
        for (mask = 0; mask < 1 << (n > 0 ? n - 1 : 0); mask++) {
            for (i = 0; i < n; i++) cut[i] = (uint8_t)(mask >> i & 1);
            compare(s, bytes, n, cut, stops, n_stops);
        }
    }
}

/* ------------------------------------------------------------------------------------------------ single cases */

static void test_known(bni_stream *s)
{
    /* Unicode 15, tables 3-8 to 3-11: one U+FFFD (written ?) per maximal piece */
    static const char *const known[8][2] = {
        { "\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", "????????A" },
        { "\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", "????????A" },
        { "\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "?????A??B" },
        { "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "????A" },
        { "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf" },
        { "\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80" },
        { "\xf0\x90\x80\x80\xe0\xa0\x80\xc2\x80", "\xf0\x90\x80\x80\xe0\xa0\x80\xc2\x80" },
        { "x\xf0\x9f\x98", "x?" }
    };
    char got[100], want[100];
    int i, n;
    const char *p;
    for (i = 0; i < 8; i++) {
        for (n = 0, p = known[i][1]; *p; p++) {
            if (*p == '?') {
                memcpy(want + n, "\xef\xbf\xbd", 3);
                n += 3;
            } else {
                want[n++] = *p;
            }
        }
        want[n] = '\0';
        bni_stream_reset(s, NULL, 0);
        bni_stream_push(s, known[i][0], strlen(known[i][0]));
        strcpy(got, s->text);
        bni_stream_finish(s);
        strcat(got, s->text);
        CHECK(strcmp(got, want) == 0, "known case %d: got %d bytes, should be %d", i, (int)strlen(got), n);
    }
}

static void test_stops(bni_stream *s)
{
    const char *overlap[3] = { "xabcd", "abc", "bc" };
    int r;
    bni_stream_reset(s, overlap, 3);
    r = bni_stream_push(s, "xab", 3);
    CHECK(r == 0 && s->size == 0, "xab may become a stop string: result %d, released \"%s\"", r, s->text);
    r = bni_stream_push(s, "cde", 3);
    CHECK(r == 1 && strcmp(s->text, "x") == 0, "abc ends first, longest: result %d, released \"%s\"", r, s->text);
    CHECK(s->stopped == 2, "stop string %d was reported", s->stopped - 1);
    r = bni_stream_push(s, "more", 4);
    CHECK(r == 1 && s->size == 0, "after the stop: result %d, released \"%s\"", r, s->text);
    r = bni_stream_finish(s);
    CHECK(r == 1 && s->size == 0, "finish after the stop: result %d, released \"%s\"", r, s->text);
    r = bni_stream_reset(s, overlap, 1);
    CHECK(r == 0 && s->stopped == 0, "reset: %d", r);
    bni_stream_push(s, "xab", 3);
    r = bni_stream_push(s, "xab", 3);
    CHECK(r == 0 && strcmp(s->text, "xab") == 0, "xab released late: \"%s\"", s->text);
    r = bni_stream_finish(s);
    CHECK(r == 0 && strcmp(s->text, "xab") == 0, "finish releases what is held: \"%s\"", s->text);
    bni_stream_push(s, "xab\xe2\x82", 5);
    bni_stream_reset(s, overlap, 3);
    r = bni_stream_push(s, "cd", 2);
    CHECK(r == 0 && strcmp(s->text, "cd") == 0, "the text before a reset is forgotten: \"%s\"", s->text);
}

static void test_arguments(bni_stream *s)
{
    char longest[BITNET_MAX_STOP_BYTES + 2], garbage[BITNET_MAX_STOP_BYTES + 1];
    const char *many[BITNET_MAX_STOPS + 1], *one[1];
    int i;
    for (i = 0; i <= BITNET_MAX_STOPS; i++) many[i] = "stop";
    CHECK(bni_stream_reset(s, many, BITNET_MAX_STOPS) == 0, "%d stop strings refused", BITNET_MAX_STOPS);
    CHECK(bni_stream_reset(s, many, BITNET_MAX_STOPS + 1) == -1, "too many stop strings accepted");
    CHECK(bni_stream_reset(s, many, -1) == -1, "a negative number of stop strings accepted");
    CHECK(bni_stream_reset(s, NULL, 1) == -1, "a stop string from nowhere accepted");
    many[1] = "";
    CHECK(bni_stream_reset(s, many, 3) == -1, "an empty stop string accepted");
    CHECK(bni_stream_push(s, "stop", 4) == 0 && strcmp(s->text, "stop") == 0, "a refused reset left stop strings");
    many[1] = NULL;
    CHECK(bni_stream_reset(s, many, 2) == -1, "a NULL stop string accepted");
    memset(longest, 'z', sizeof longest);
    longest[BITNET_MAX_STOP_BYTES + 1] = '\0';
    one[0] = longest;
    CHECK(bni_stream_reset(s, one, 1) == -1, "a stop string of %d bytes accepted", BITNET_MAX_STOP_BYTES + 1);
    one[0] = longest + 1;
    CHECK(bni_stream_reset(s, one, 1) == 0, "a stop string of %d bytes refused", BITNET_MAX_STOP_BYTES);
    for (i = 0; i < BITNET_MAX_STOP_BYTES; i++)
        CHECK(bni_stream_push(s, "z", 1) == (i == BITNET_MAX_STOP_BYTES - 1) && s->size == 0, "longest stop, byte %d",
              i);
    memset(garbage, 0xff, sizeof garbage);
    garbage[BITNET_MAX_STOP_BYTES] = '\0';
    one[0] = garbage;
    CHECK(bni_stream_reset(s, one, 1) == -1, "a stop string that is not UTF-8 accepted");
    one[0] = "a\xe2\x82";
    CHECK(bni_stream_reset(s, one, 1) == -1, "a stop string that ends inside a character accepted");
    one[0] = "\xff\xff\xff";         /* as long as U+FFFD, but not it */
    CHECK(bni_stream_reset(s, one, 1) == -1, "a stop string of three bad bytes accepted");
    bni_stream_reset(s, NULL, 0);
}

/* The largest growth: all garbage after a held prefix of the longest stop string, in exactly the memory asked for. */
static void test_capacity(bni_stream *s)
{
    char stop[BITNET_MAX_STOP_BYTES + 1];
    const char *stops[1];
    uint8_t bad[MAX_TOKEN];
    int i;
    memset(stop, 'z', BITNET_MAX_STOP_BYTES);
    stop[BITNET_MAX_STOP_BYTES] = '\0';
    stops[0] = stop;
    memset(bad, 0xff, sizeof bad);
    bni_stream_reset(s, stops, 1);
    for (i = 0; i < BITNET_MAX_STOP_BYTES - 1; i++) bni_stream_push(s, "z", 1);
    bni_stream_push(s, "\xf0\x9f\x98", 3);
    CHECK(s->size == 0, "%d bytes released", (int)s->size);
    bni_stream_push(s, bad, MAX_TOKEN);
    CHECK(s->size == BITNET_MAX_STOP_BYTES - 1 + 3 + 3 * MAX_TOKEN, "%d bytes released", (int)s->size);
}

int main(void)
{
    test_memory memory;
    bitnet_allocator allocator;
    bni_stream *s;
    uint64_t size = bni_stream_memory(MAX_TOKEN);
    memset(&memory, 0, sizeof memory);
    allocator = test_allocator(&memory);
    s = (bni_stream *)bni_alloc(&allocator, size, 64);
    REQUIRE(s != NULL, "no memory");
    bni_stream_init(s, MAX_TOKEN);
    test_known(s);
    test_stops(s);
    test_arguments(s);
    test_capacity(s);
    test_all_splits(s);
    test_random_splits(s);
    bni_free(&allocator, s, size);
    CHECK(memory.n_errors == 0 && memory.live_blocks == 0, "%d writes outside the stream's memory",
          (int)memory.n_errors);
    return test_end("stream");
}
