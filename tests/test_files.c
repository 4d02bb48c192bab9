/* Hostile files: truncated, mutated, forged. Whatever the bytes, opening them ends soon, with a model or with an error
   that says why, in bounded memory, and reads nothing outside the file. What opens also runs. */

#if !defined(_WIN32) && !defined(_DEFAULT_SOURCE)
  #define _DEFAULT_SOURCE            /* MAP_ANONYMOUS, popen, fseeko under -std=c99 */
#endif
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "model.h"
#include "forge.h"
#include <math.h>
#include <time.h>
#if defined(__unix__) || defined(__APPLE__)
  #include <sys/mman.h>
  #include <sys/stat.h>
  #include <sys/types.h>
  #include <unistd.h>
#endif

enum { MAX_FILE = 1 << 20, MEMORY_LIMIT = 100 << 20, SECONDS = 30 };

static forge f;
static uint8_t file[MAX_FILE], sound[MAX_FILE];
static size_t file_size, sound_size, sound_start;

/* ------------------------------------------------------------------------------------------- opening and running */

static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* How much slower than optimised code on a plain machine this runs, at least 1: valgrind, sanitizers, emulators. */
static double slowness(void)
{
    static double factor;
    if (factor == 0.0) {
        uint64_t state = 1, sum = 0;
        double start = seconds();
        int i;
        for (i = 0; i < 4000000; i++)
            sum += test_random(&state);
        factor = (seconds() - start) / 0.02 + (double)(sum & 1) * 1e-9;
        factor = factor > 1.0 ? factor : 1.0;
    }
    return factor;
}

/* The bytes where the next one faults (where there is mmap; elsewhere only the sanitizers see a read past the end). */
static const uint8_t *at_the_brink(const uint8_t *data, size_t size)
{
    static uint8_t *memory;
#if defined(MAP_ANONYMOUS)
    if (!memory) {
        memory = (uint8_t *)mmap(NULL, MAX_FILE + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(memory != (uint8_t *)MAP_FAILED && mprotect(memory + MAX_FILE, 65536, PROT_NONE) == 0, "mmap");
    }
#else
    static uint8_t plain[MAX_FILE];
    memory = plain;
#endif
    return (const uint8_t *)memcpy(memory + MAX_FILE - size, data, size);
}

typedef struct blob {
    const uint8_t *data;
    size_t size, readable;           /* reads past readable fail */
    uint64_t last, n_bytes;          /* the highest byte asked for, all bytes */
} blob;

static int blob_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    blob *b = (blob *)user;
    CHECK(offset <= b->size && n <= b->size - offset, "%lu bytes at %llu of %lu", (unsigned long)n,
          (unsigned long long)offset, (unsigned long)b->size);
    b->last = offset + n > b->last ? offset + n : b->last;
    b->n_bytes += n;
    if (offset > b->readable || n > b->readable - offset)
        return -1;
    memcpy(buffer, b->data + offset, n);
    return 0;
}

/* Two tokens from an opened model, and its text functions. */
static void use(const bitnet_model *m, int n_ctx)
{
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_engine *engine = NULL;
    bitnet_session *session = NULL;
    bitnet_generation g;
    bitnet_event event;
    bitnet_error err;
    bitnet_chat_message message;
    int32_t tokens[64], first = 0;
    char text[256];
    int done = 0, guard = 0, i;
    int64_t n = bitnet_tokenize(m, "ab <|eot_id|> abc1!\xff\xc3", 21, tokens, 64, 3);
    CHECK(n >= 0 && n <= 64, "%ld tokens", (long)n);
    CHECK(bitnet_detokenize(m, tokens, n, text, sizeof text, BITNET_DETOKENIZE_SPECIAL) >= 0, "detokenize");
    message.role = "user";
    message.content = "ab<|eot_id|>";
    bitnet_chat_tokenize(m, &message, 1, BITNET_CHAT_ANSWER, tokens, 64);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    memset(&g, 0, sizeof g);
    ed.n_threads = 1;
    ed.n_batch = 3;
    ed.n_ctx = sd.n_ctx = n_ctx;
    g.max_tokens = 2;
    g.logprobs = 3;
    CHECK(bitnet_engine_create(m, &ed, &engine, &err) == BITNET_OK, "%s", err.text);
    CHECK(engine && bitnet_session_create(engine, &sd, &session, &err) == BITNET_OK, "%s", err.text);
    CHECK(session && bitnet_begin(session, &first, 1, &g) == BITNET_OK, "begin");
    for (i = 0; session && !done && i < 100; i++) {
        while (bitnet_next_event(session, &event))
            done |= event.type == BITNET_EVENT_DONE;
        guard = bitnet_step(engine, BITNET_NO_BUDGET);
    }
    CHECK(done, "a generation without an end (step says %d)", guard);
    bitnet_session_destroy(session);
    bitnet_engine_destroy(engine);
}

enum { FROM_MEMORY, FROM_READER, VOCAB_ONLY };

/* Opens, uses what opens, and checks all that must hold for any bytes. Result: of the open. */
static bitnet_result try_open(const uint8_t *data, size_t size, int how, bitnet_error *err)
{
    bitnet_model_desc d;
    bitnet_model *m = NULL;
    bitnet_model_info info;
    bitnet_error why;
    test_memory memory;
    bitnet_result r, probed;
    double start = seconds();
    blob b;
    size_t i;
    memset(&d, 0, sizeof d);
    memset(&memory, 0, sizeof memory);
    memset(err, 0, sizeof *err);
    memset(&b, 0, sizeof b);
    memset(&info, 0, sizeof info);
    d.allocator = test_allocator(&memory);
    d.n_threads = 1;
    d.vocab_only = how == VOCAB_ONLY;
    b.data = at_the_brink(data, size);
    b.size = b.readable = size;
    if (how == FROM_READER) {
        d.reader.read = blob_read;
        d.reader.size = size;
        d.reader.user = &b;
    } else {
        d.data = b.data;
        d.size = size;
    }
    r = bitnet_model_open(&d, &m, err);
    CHECK(r == BITNET_OK || r == BITNET_ERROR_FORMAT || r == BITNET_ERROR_UNSUPPORTED, "%d: %s", (int)r, err->text);
    CHECK((r == BITNET_OK) == (m != NULL), "result %d", (int)r);
    if (r != BITNET_OK) {
        CHECK(err->code == r && err->text[0] && strlen(err->text) < sizeof err->text, "result %d, error %d: %s", (int)r,
              (int)err->code, err->text);
        for (i = 0; err->text[i]; i++)
            CHECK((unsigned char)err->text[i] >= 32 && err->text[i] != 127, "a control byte in an error's text");
        CHECK(memory.live_blocks == 0, "%lu blocks are left after: %s", (unsigned long)memory.live_blocks, err->text);
    }
    CHECK(memory.peak_bytes < MEMORY_LIMIT, "%lu bytes for a file of %lu: %s", (unsigned long)memory.peak_bytes,
          (unsigned long)size, err->text);
    CHECK(seconds() - start < 1.0 * slowness(), "%.1f s to open: %s", seconds() - start, err->text);
    probed = bitnet_model_probe(&d, &info, &why);
    CHECK(r != BITNET_OK || (probed == BITNET_OK && info.is_supported), "opens, but its probe says %d %s", (int)probed,
          info.unsupported);
    CHECK(r != BITNET_ERROR_UNSUPPORTED || probed == r || (!info.is_supported && info.unsupported[0]),
          "does not open, but its probe says %d", (int)probed);
    if (m && how != VOCAB_ONLY)
        use(m, 16);
    bitnet_model_close(m);
    CHECK(memory.live_blocks == 0 && memory.n_errors == 0, "%lu blocks are left, %lu were misused",
          (unsigned long)memory.live_blocks, (unsigned long)memory.n_errors);
    return r;
}

/* ---------------------------------------------------------------------------------------------------- truncation */

/* The file in data must open; cut before byte `needed`, nowhere. step: of the places inside the data. */
static void truncate_everywhere(const char *what, const uint8_t *data, size_t size, size_t start, size_t needed)
{
    bitnet_error err;
    size_t n, step = (size - start) / 250 + 1;
    double began = seconds();
    int how;
    for (how = FROM_MEMORY; how <= FROM_READER; how++) {
        CHECK(try_open(data, size, how, &err) == BITNET_OK, "%s, whole: %s", what, err.text);
        for (n = 0; n < size; n += n < start + 64 || n + 64 > needed ? 1 : step) {
            bitnet_result r = try_open(data, n, how, &err);
            CHECK(r == (n < needed ? BITNET_ERROR_FORMAT : BITNET_OK), "%s: %lu of %lu bytes, %d: %s", what,
                  (unsigned long)n, (unsigned long)size, (int)r, err.text);
            if (seconds() - began > SECONDS) {
                SKIP("%s: truncation only up to byte %lu in %d s", what, (unsigned long)n, SECONDS);
                return;
            }
        }
    }
}

/* A reader that promises more than it gives: always IO. */
static void test_failing_reader(void)
{
    bitnet_model_desc d;
    bitnet_model *m;
    bitnet_error err;
    test_memory memory;
    blob b;
    size_t n;
    memset(&d, 0, sizeof d);
    memset(&memory, 0, sizeof memory);
    memset(&b, 0, sizeof b);
    d.allocator = test_allocator(&memory);
    d.n_threads = 1;
    b.data = sound;
    b.size = sound_size;
    d.reader.read = blob_read;
    d.reader.size = sound_size;
    d.reader.user = &b;
    for (n = 0; n < sound_size; n += 61) {
        b.readable = n;
        CHECK(bitnet_model_open(&d, &m, &err) == BITNET_ERROR_IO && err.text[0], "readable to %lu: %s", (unsigned long)n,
              err.text);
        CHECK(memory.live_blocks == 0 && memory.n_errors == 0, "blocks are left");
    }
}

static void test_truncation(void)
{
    char path[512];
    uint8_t *data;
    size_t size, start, tail;
    forge_sound(&f);
    forge_u32(&f, "general.alignment", 256);
    f.alignment = 256;
    size = forge_write(&f, file, sizeof file, &start);
    tail = 256 - f.tensor[f.n_tensors - 1].size % 256;
    truncate_everywhere("forged", file, size, start, size - tail);
    test_make_model(path, "files", "--family llama --vocab 300 --layers 1 --embd 32 --ff 32 --heads 2 --kv-heads 1 "
                                   "--head-dim 16 --ctx 64 --head q8_0 --rope-freqs");
    data = test_read_file(path, &size);
    truncate_everywhere("synth", data, size, 9000, size);
    free(data);
}

/* Can this build open a path so? */
static int can_open(int no_mmap)
{
#if defined(BITNET_NO_STDIO) && defined(BITNET_NO_MMAP)
    return 0 * no_mmap;
#elif defined(BITNET_NO_STDIO)
    return !no_mmap;
#else
    return 1 + 0 * no_mmap;
#endif
}

/* Through a path: mapped, and read with stdio. */
static void test_paths(void)
{
    char path[512];
    bitnet_model_desc d;
    bitnet_model *m;
    bitnet_error err;
    size_t n;
    memset(&d, 0, sizeof d);
    snprintf(path, sizeof path, "%s/test-cut.gguf", test_build());
    d.path = path;
    d.n_threads = 1;
    for (n = 0; n <= sound_size; n += n < sound_size - 512 ? 512 : sound_size - n ? sound_size - n : 1) {
        FILE *out = fopen(path, "wb");
        REQUIRE(out && fwrite(sound, 1, n, out) == n && fclose(out) == 0, "%s", path);
        for (d.no_mmap = 0; d.no_mmap < 2; d.no_mmap++) {
            bitnet_result r;
            if (!can_open(d.no_mmap))
                continue;
            r = bitnet_model_open(&d, &m, &err);
            CHECK(r == (n == sound_size ? BITNET_OK : n ? BITNET_ERROR_FORMAT : BITNET_ERROR_IO), "%lu bytes: %d %s",
                  (unsigned long)n, (int)r, r ? err.text : "");
            bitnet_model_close(m);
        }
    }
    remove(path);
}

/* ----------------------------------------------------------------------------------------------------- mutation */

/* Bends bytes [0, start) of file in 1 to 4 places. */
static void mutate(uint8_t *data, size_t start, uint64_t *random)
{
    static const uint64_t values[12] = {0, 1, 2, 255, 65536, 0x7fffffff, 0x80000000u, 0xffffffffu, (uint64_t)1 << 32,
                                        (uint64_t)1 << 62, (uint64_t)1 << 63, UINT64_MAX};
    uint8_t other[64];
    int times = 1 + test_below(random, 4), n;
    size_t at, to;
    while (times-- > 0) {
        at = (size_t)(test_random(random) % start);
        to = (size_t)(test_random(random) % start);
        n = 1 + test_below(random, 40);
        n = (size_t)n > start - at ? (int)(start - at) : n;
        n = (size_t)n > start - to ? (int)(start - to) : n;
        switch (test_below(random, 7)) {
        case 0: data[at] ^= (uint8_t)(1 << test_below(random, 8)); break;
        case 1: data[at] = (uint8_t)test_random(random); break;
        case 2: data[at] = (uint8_t)(data[at] + 1 - 2 * test_below(random, 2)); break;
        case 3: at = at > start - 8 ? start - 8 : at; forge_put(data + at, values[test_below(random, 12)], 8); break;
        case 4: at = at > start - 4 ? start - 4 : at; forge_put(data + at, values[test_below(random, 12)], 4); break;
        case 5:
            memcpy(other, data + at, (size_t)n);
            memmove(data + at, data + to, (size_t)n);
            memcpy(data + to, other, (size_t)n);
            break;
        default: memmove(data + to, data + at, (size_t)n);
        }
    }
}

static void mutate_often(const char *what, const uint8_t *data, size_t size, size_t start, int times)
{
    uint64_t random = 2026;
    bitnet_error err;
    double began = seconds();
    int i, opened = 0;
    CHECK(try_open(data, size, FROM_MEMORY, &err) == BITNET_OK, "%s: %s", what, err.text);
    for (i = 0; i < times; i++) {
        int before = test_failed;
        memcpy(file, data, size);
        mutate(file, i % 4 == 3 ? size : start, &random);
        opened += try_open(file, size, i % 2, &err) == BITNET_OK;
        if (test_failed != before) {
            char path[512];
            FILE *out;
            snprintf(path, sizeof path, "%s/test-mutant-%s-%d.gguf", test_build(), what, i);
            out = fopen(path, "wb");
            if (out && fwrite(file, 1, size, out) == size)
                fprintf(stderr, "mutant kept as %s\n", path);
            if (out)
                fclose(out);
        }
        if (seconds() - began > SECONDS) {
            SKIP("%s: only %d of %d mutations in %d s", what, i, times, SECONDS);
            break;
        }
    }
    CHECK(opened > i / 50 && opened < i, "%s: %d of %d mutants opened: too few to have tested running", what, opened, i);
}

static void test_mutation(void)
{
    char path[512];
    uint8_t *data;
    size_t size;
    mutate_often("forged", sound, sound_size, sound_start, 7000);
    test_make_model(path, "files-spm", "--family bitnet --vocab 356 --layers 1 --embd 32 --ff 32 --heads 2 --kv-heads 1 "
                                       "--head-dim 16 --ctx 64 --head f16");
    data = test_read_file(path, &size);
    mutate_often("spm", data, size, 12000 < size ? 12000 : size, 3000);
    free(data);
    remove(path);
}

/* -------------------------------------------------------------------------------------------------- forged files */

/* Opens what was forged, from memory and through a reader: this result, its text naming the thing. f is sound again
   afterwards. */
static void expect(const char *what, bitnet_result code, const char *word)
{
    bitnet_error err;
    int how;
    file_size = forge_write(&f, file, sizeof file, NULL);
    for (how = FROM_MEMORY; how <= FROM_READER; how++) {
        bitnet_result r = try_open(file, file_size, how, &err);
        CHECK(r == code, "%s: result %d, not %d: %s", what, (int)r, (int)code, err.text);
        CHECK(code == BITNET_OK || strstr(err.text, word), "%s: \"%s\" does not say \"%s\"", what, err.text, word);
    }
    forge_sound(&f);
}

#define BAD BITNET_ERROR_FORMAT
#define REFUSED BITNET_ERROR_UNSUPPORTED

static void test_forged_container(void)
{
    forge_kv *kv;
    expect("the sound model", BITNET_OK, "");
    f.magic = 0x46554748u;
    expect("magic", BAD, "not a GGUF");
    f.version = 0;
    expect("version 0", REFUSED, "GGUF");
    f.version = 1;
    expect("version 1", REFUSED, "version 1");
    f.version = 2;
    expect("version 2", BITNET_OK, "");
    f.version = 4;
    expect("version 4", REFUSED, "version 4");
    f.version = 0x03000000u;
    expect("big-endian", REFUSED, "big-endian");
    f.claimed_kv = (uint64_t)1 << 32;
    expect("2^32 keys", BAD, "4294967296 metadata");
    f.claimed_kv = UINT64_MAX - 1;
    expect("2^64 keys", BAD, "metadata");
    f.claimed_kv = 300;
    expect("more keys than there are", BAD, "");
    f.claimed_kv = 0;
    expect("no keys", BAD, "");
    f.claimed_tensors = (uint64_t)1 << 63;
    expect("2^63 tensors", BAD, "tensors");
    f.claimed_tensors = 100;
    expect("more tensors than there are", BAD, "");
    f.claimed_tensors = 0;
    expect("no tensors", BAD, "token_embd.weight");
    forge_kv_of(&f, "general.name")->key_size = 0;
    expect("a key of no bytes", BAD, "key of 0 bytes");
    forge_kv_of(&f, "general.name")->key_size = UINT64_MAX;
    expect("a key of 2^64 bytes", BAD, "header");
    forge_kv_of(&f, "general.name")->key_size = (uint64_t)1 << 40;
    expect("a key past the end", BAD, "header");
    forge_text_of(&f, "general.name", "x", UINT64_MAX);
    expect("a string of 2^64 bytes", BAD, "header");
    forge_text_of(&f, "general.name", "x", 1 << 20);
    expect("a string past the end", BAD, "header");
    forge_add(&f, "general.name", BNI_KV_U8, "x", 1);
    expect("a key twice", BAD, "general.name");
    forge_kv_of(&f, "general.name")->type = 13;
    expect("value type 13", BAD, "general.name");
    forge_kv_of(&f, "general.name")->type = 0xffffffffu;
    expect("value type -1", BAD, "general.name");
    forge_array(&f, "general.name", BNI_KV_ARRAY, 1, "\4\0\0\0\0\0\0\0\0\0\0\0", 12);
    expect("an array of arrays", BAD, "general.name");
    forge_array(&f, "general.name", 99, 1, "1234", 4);
    expect("an array of type 99", BAD, "general.name");
    forge_array(&f, "general.name", BNI_KV_U64, ((uint64_t)1 << 61) + 1, "12345678", 8);
    expect("an array whose bytes overflow", BAD, "header");
    forge_array(&f, "general.name", BNI_KV_STRING, (uint64_t)1 << 61, "12345678", 8);
    expect("an array of 2^61 strings", BAD, "header");
    kv = forge_kv_of(&f, "general.name");
    kv->key = "general.nam\xff";
    expect("a key that is not UTF-8", BITNET_OK, "");
}

static void test_forged_alignment(void)
{
    static const uint32_t bad[3] = {0, 3, 0xffffffffu};
    bitnet_error err;
    int i;
    for (i = 0; i < 3; i++) {
        forge_u32(&f, "general.alignment", bad[i]);
        expect("an alignment that is no power of two", BAD, "general.alignment");
    }
    forge_u32(&f, "general.alignment", 0x80000000u);
    expect("an alignment of 2^31", BAD, "");
    f.n_tensors = 1;
    forge_u32(&f, "general.alignment", 0x80000000u);
    file_size = forge_write(&f, file, sizeof file, NULL);
    CHECK(try_open(file, file_size, VOCAB_ONLY, &err) == BAD, "data that would begin past the end: %s", err.text);
    forge_sound(&f);
    forge_number(&f, "general.alignment", BNI_KV_U64, 32, 8);
    expect("an alignment of 64 bits", BAD, "general.alignment");
    forge_text(&f, "general.alignment", "32");
    expect("an alignment that is text", BAD, "general.alignment");
    forge_drop(&f, "general.alignment");
    expect("no alignment", BITNET_OK, "");
    f.alignment = 1;
    forge_u32(&f, "general.alignment", 1);
    expect("an alignment of 1", BITNET_OK, "");
    f.alignment = 16384;
    forge_u32(&f, "general.alignment", 16384);
    expect("an alignment of 16384", BITNET_OK, "");
}

/* The data begins past the window in which a reader finds the header. */
static void test_far_data(void)
{
    static uint8_t wide[4 << 20];
    bitnet_model_desc d;
    bitnet_model *m;
    bitnet_error err;
    test_memory memory;
    uint64_t fingerprint = 0;
    blob b;
    int i;
    forge_sound(&f);
    f.alignment = 1 << 17;
    forge_u32(&f, "general.alignment", 1 << 17);
    memset(&d, 0, sizeof d);
    memset(&memory, 0, sizeof memory);
    memset(&b, 0, sizeof b);
    b.size = b.readable = forge_write(&f, wide, sizeof wide, NULL);
    b.data = wide;
    d.n_threads = 1;
    d.allocator = test_allocator(&memory);
    d.reader.read = blob_read;
    d.reader.size = b.size;
    d.reader.user = &b;
    for (i = 0; i < 2; i++) {
        CHECK(bitnet_model_open(&d, &m, &err) == BITNET_OK, "an alignment of 131072: %s", err.text);
        CHECK(i == 0 || fingerprint == m->fingerprint, "a reader's model is another one than the same in memory");
        fingerprint = m->fingerprint;
        use(m, 16);
        bitnet_model_close(m);
        d.reader.read = NULL;
        d.data = wide;
        d.size = b.size;
    }
    CHECK(memory.live_blocks == 0 && memory.n_errors == 0, "%lu blocks are left", (unsigned long)memory.live_blocks);
    forge_sound(&f);
}

static void test_forged_tensors(void)
{
    static const char *const needed[13] = {
        "token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight",
        "blk.0.attn_v.weight", "blk.0.attn_sub_norm.weight", "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",
        "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.0.ffn_sub_norm.weight", "blk.0.ffn_down.weight",
        "output_norm.weight"
    };
    static const uint32_t not_linear[6] = {0, 1, 34, 35, 30, 8};
    const char *q = "blk.0.attn_q.weight";
    int i;
    for (i = 0; i < 13; i++) {
        forge_drop_tensor(&f, needed[i]);
        expect("a tensor is missing", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->ne[0] *= 2;
        forge_tensor_of(&f, needed[i])->size *= 2;
        expect("a wrong width", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->ne[0] = 0;
        expect("no columns", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->n_dims = 0;
        expect("no dimensions", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->n_dims = 5;
        expect("five dimensions", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->n_dims = 0xffffffffu;
        expect("2^32 dimensions", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->ne[0] = (uint64_t)1 << 63;
        forge_tensor_of(&f, needed[i])->ne[1] = 4;
        forge_tensor_of(&f, needed[i])->n_dims = 2;
        expect("a product that overflows", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->ne[0] = ((uint64_t)1 << 47) - 64;
        expect("2^47 weights", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->type = 9999;
        expect("an unknown type", REFUSED, needed[i]);
        forge_tensor_of(&f, needed[i])->offset = 33;
        expect("an offset that is not aligned", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->offset = (uint64_t)1 << 40;
        expect("an offset past the end", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->offset = UINT64_MAX - 31;
        expect("an offset that overflows", BAD, needed[i]);
        forge_tensor_of(&f, needed[i])->name_size = 0;
        expect("a tensor without a name", BAD, "name of 0 bytes");
    }
    forge_tensor_of(&f, "blk.0.ffn_norm.weight")->offset = 32;      /* inside the embedding */
    expect("tensors that overlap", BAD, "token_embd.weight");
    forge_add_tensor(&f, "output_norm.weight", BNI_TYPE_F32, FORGE_EMBD, 0);
    expect("a tensor twice", BAD, "output_norm.weight");
    forge_add_tensor(&f, "blk.0.attn_q.bias", BNI_TYPE_F32, FORGE_EMBD, 0);
    expect("a bias nobody knows", REFUSED, "blk.0.attn_q.bias");
    forge_add_tensor(&f, "blk.1.attn_norm.weight", BNI_TYPE_F32, FORGE_EMBD, 0);
    expect("a layer too many", REFUSED, "blk.1.attn_norm.weight");
    forge_add_tensor(&f, "a.name.of.exactly.sixty-four.bytes.which.is.one.more.than.allows", 0, 32, 0);
    expect("a name too long", BAD, "name of 64 bytes");
    for (i = 0; i < 6; i++) {
        forge_tensor_of(&f, q)->type = not_linear[i];
        forge_tensor_of(&f, q)->size = 4096;
        forge_tensor_of(&f, q)->at = forge_keep(&f, NULL, 4096);
        forge_tensor_of(&f, q)->ne[0] = not_linear[i] == 34 || not_linear[i] == 35 ? 256 : 32;
        forge_u32(&f, "bitnet-b1.58.attention.key_length", 8);
        if (forge_tensor_of(&f, q)->ne[0] == 32)
            expect("a matrix of another type", REFUSED, bni_type_name(not_linear[i]));
        else
            expect("a matrix of another type and width", BAD, q);
    }
    forge_tensor_of(&f, "token_embd.weight")->type = BNI_TYPE_I2_S;
    expect("an embedding in I2_S", REFUSED, "token_embd.weight");
    forge_tensor_of(&f, "output_norm.weight")->type = 26;
    expect("a norm of integers", REFUSED, "output_norm.weight");
    forge_add_tensor(&f, "output.weight", BNI_TYPE_F32, FORGE_EMBD, FORGE_VOCAB);
    expect("an output matrix of its own", BITNET_OK, "");
    forge_add_tensor(&f, "output.weight", BNI_TYPE_F32, FORGE_EMBD, FORGE_VOCAB + 1);
    expect("an output matrix of another vocabulary", BAD, "output.weight");
    forge_add_tensor(&f, "rope_freqs.weight", BNI_TYPE_F32, FORGE_HEAD_DIM / 2 + 1, 0);
    expect("rope factors of another head", BAD, "rope_freqs.weight");
    forge_put(f.pool + forge_add_tensor(&f, "rope_freqs.weight", 0, FORGE_HEAD_DIM / 2, 0)->at, 0, 4);
    expect("a rope factor of 0", BAD, "rope_freqs.weight");
    forge_add_tensor(&f, "blk.0.attn_q.scale", BNI_TYPE_F32, 1, 0);
    expect("an extra scale", BITNET_OK, "");
    forge_add_tensor(&f, "blk.0.attn_q.scale", BNI_TYPE_F32, 2, 0);
    expect("two extra scales", BAD, "blk.0.attn_q.scale");
}

/* Numbers that are not finite. */
static void test_forged_values(void)
{
    static const uint32_t bad[4] = {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u};
    int i;
    for (i = 0; i < 4; i++) {
        forge_tensor *t = forge_tensor_of(&f, "blk.0.ffn_down.weight");
        forge_put(f.pool + t->at + t->size - 32, bad[i], 4);
        expect("a scale that is not finite", BAD, "blk.0.ffn_down.weight");
        t = forge_tensor_of(&f, "blk.0.attn_sub_norm.weight");
        forge_put(f.pool + t->at + 4 * 31, bad[i], 4);
        expect("a norm that is not finite", BAD, "blk.0.attn_sub_norm.weight");
        t = forge_add_tensor(&f, "blk.0.ffn_up.scale", BNI_TYPE_F32, 1, 0);
        forge_put(f.pool + t->at, bad[i], 4);
        expect("an extra scale that is not finite", BAD, "blk.0.ffn_up.scale");
        t = forge_tensor_of(&f, "token_embd.weight");               /* too large to be looked at while opening */
        forge_put(f.pool + t->at, i < 2 ? 0x7c00 : 0x7e00, 2);
        expect("an embedding that is not finite", BITNET_OK, "");   /* use() runs on it: an ERROR event, no crash */
    }
}

static void expect_u32(const char *key, uint32_t v, bitnet_result code, const char *word)
{
    char what[160];
    forge_u32(&f, key, v);
    snprintf(what, sizeof what, "%s = %lu", key, (unsigned long)v);
    expect(what, code, word);
}

static void test_forged_sizes(void)
{
    static const char *const needed[5] = {
        "bitnet-b1.58.block_count", "bitnet-b1.58.embedding_length", "bitnet-b1.58.feed_forward_length",
        "bitnet-b1.58.attention.head_count", "bitnet-b1.58.attention.head_count_kv"
    };
    static const uint32_t bad[5] = {0, 100000000u, 0x7fffffffu, 0x80000000u, 0xffffffffu};
    static const int mixed[2] = {4, 2}, negative[1] = {-4}, equal[2] = {4, 4};
    int i, j;
    for (i = 0; i < 5; i++) {
        for (j = 0; j < 5; j++)
            expect_u32(needed[i], bad[j], BAD, needed[i]);
        forge_text(&f, needed[i], "1");
        expect("a size that is text", BAD, needed[i]);
        forge_f32(&f, needed[i], 1.0f);
        expect("a size that is a float", BAD, needed[i]);
        forge_number(&f, needed[i], BNI_KV_I64, UINT64_MAX, 8);
        expect("a size of -1", BAD, needed[i]);
        forge_array(&f, needed[i], BNI_KV_U32, 0, NULL, 0);
        expect("a size that is an empty array", BAD, needed[i]);
        if (i < 4) {
            forge_drop(&f, needed[i]);
            expect("a size is missing", BAD, needed[i]);
        }
    }
    forge_ints(&f, needed[3], mixed, 2);
    expect("heads that differ between layers", REFUSED, needed[3]);
    forge_ints(&f, needed[3], negative, 1);
    expect("-4 heads", BAD, needed[3]);
    forge_ints(&f, needed[3], equal, 2);
    expect("heads as an array of one value", BITNET_OK, "");
    expect_u32("bitnet-b1.58.block_count", 100000, BAD, "block_count");
    expect_u32("bitnet-b1.58.block_count", 2, BAD, "blk.1.attn_q.weight");
    expect_u32("bitnet-b1.58.attention.head_count", 3, BAD, "attention.head_count 3");
    expect_u32("bitnet-b1.58.attention.head_count", 64, REFUSED, "attention.key_length 0");
    expect_u32("bitnet-b1.58.attention.key_length", 7, REFUSED, "attention.key_length 7");
    expect_u32("bitnet-b1.58.attention.key_length", 0, BAD, "key_length");
    expect_u32("bitnet-b1.58.attention.key_length", 16, BAD, "blk.0.attn_q.weight");
    expect_u32("bitnet-b1.58.attention.value_length", 4, REFUSED, "attention.value_length 4");
    expect_u32("bitnet-b1.58.rope.dimension_count", 10, REFUSED, "rope.dimension_count 10");
    expect_u32("bitnet-b1.58.rope.dimension_count", 3, REFUSED, "rope.dimension_count 3");
    expect_u32("bitnet-b1.58.rope.dimension_count", 4, BITNET_OK, "");
    expect_u32("bitnet-b1.58.context_length", 0, BAD, "context_length");
    expect_u32("bitnet-b1.58.context_length", 1, BITNET_OK, "");
    expect_u32("bitnet-b1.58.context_length", 0x7fffffffu, BAD, "context_length");
    expect_u32("split.count", 3, REFUSED, "split");
    expect_u32("split.count", 1, BITNET_OK, "");
    forge_tensor_of(&f, "token_embd.weight")->ne[1] = FORGE_VOCAB - 1;
    expect("fewer embeddings than tokens", BAD, "token_embd.weight");
    forge_drop_tensor(&f, "token_embd.weight");
    forge_add_tensor(&f, "token_embd.weight", BNI_TYPE_F16, FORGE_EMBD, FORGE_VOCAB + 48);
    expect("more embeddings than tokens", BITNET_OK, "");
    forge_tensor_of(&f, "token_embd.weight")->ne[1] = (uint64_t)1 << 33;
    expect("2^33 embeddings", BAD, "token_embd.weight");
}

static void test_forged_floats(void)
{
    static const float bad[5] = {0.0f, -1.0f, 1e30f, INFINITY, NAN};
    int i;
    for (i = 0; i < 5; i++) {
        forge_f32(&f, "bitnet-b1.58.rope.freq_base", bad[i]);
        expect("a rope base", BAD, "rope.freq_base");
        forge_text(&f, "bitnet-b1.58.rope.scaling.type", "linear");
        forge_f32(&f, "bitnet-b1.58.rope.scaling.factor", bad[i]);
        expect("a rope factor", BAD, "rope.scaling.factor");
        if (i > 0) {
            forge_f32(&f, "bitnet-b1.58.attention.layer_norm_rms_epsilon", bad[i]);
            expect("an epsilon", BAD, "layer_norm_rms_epsilon");
        }
    }
    forge_text(&f, "bitnet-b1.58.rope.freq_base", "500000");
    expect("a rope base that is text", BAD, "rope.freq_base");
    forge_text(&f, "bitnet-b1.58.attention.layer_norm_rms_epsilon", "1e-5");
    expect("an epsilon that is text", BAD, "layer_norm_rms_epsilon");
    forge_text(&f, "bitnet-b1.58.rope.scaling.type", "yarn");
    expect("yarn", REFUSED, "yarn");
    forge_text(&f, "bitnet-b1.58.hidden_activation", "tanh");
    expect("another activation", REFUSED, "tanh");
    forge_text(&f, "general.architecture", "mamba");
    expect("another architecture", REFUSED, "mamba");
    forge_text(&f, "general.architecture", "");
    expect("an architecture without a name", REFUSED, "architecture");
    forge_u32(&f, "general.architecture", 7);
    expect("an architecture that is a number", BAD, "general.architecture");
    forge_drop(&f, "general.architecture");
    expect("no architecture", BAD, "general.architecture");
    forge_text(&f, "general.architecture", "llama");
    expect("keys of another architecture", BAD, "llama.");
}

/* ---------------------------------------------------------------------------------------------------- tokenizers */

/* Texts whose places in the hash table lie side by side: honest tables have few of them. */
static void test_colliding_tokens(void)
{
    enum { N = 6000 };
    static uint8_t bytes[N * 12];
    bitnet_error err;
    uint32_t i, n = 0, n_slots = N + N / 2 + 1;
    for (i = 0; n < N; i++) {
        uint8_t *p = bytes + 12 * n;
        forge_put(p, 4, 8);
        forge_put(p + 8, i, 4);
        if (bni_hash_slot(bni_hash_end(bni_hash(BNI_HASH_START, (const char *)p + 8, 4)), n_slots) < n_slots / 100)
            n++;
    }
    forge_sound(&f);
    forge_drop(&f, "tokenizer.ggml.token_type");
    forge_array(&f, "tokenizer.ggml.tokens", BNI_KV_STRING, N, bytes, sizeof bytes);
    file_size = forge_write(&f, file, sizeof file, NULL);
    CHECK(try_open(file, file_size, VOCAB_ONLY, &err) == BAD && strstr(err.text, "tokenizer.ggml.tokens"), "%s", err.text);
    forge_sound(&f);
}

static void test_forged_tokenizer(void)
{
    static const char *const keys[4] = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
                                        "tokenizer.ggml.scores"};
    static const char *const odd_merges[8] = {"", " ", "  ", "a", "a ", " b", "nobody here", "a b c d"};
    static const char *const ids[6] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id",
                                       "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"};
    const char *texts[FORGE_VOCAB];
    int kinds[FORGE_VOCAB] = {0}, i, j;
    for (i = 0; i < 4; i++) {
        forge_u32(&f, keys[i], 5);
        expect("a number instead of an array", BAD, keys[i]);
        if (i % 2)
            forge_strings(&f, keys[i], forge_vocabulary, FORGE_VOCAB);
        else
            forge_ints(&f, keys[i], kinds, 0);
        expect("an array of another type", BAD, keys[i]);
        forge_array(&f, keys[i], i % 2 ? BNI_KV_F32 : BNI_KV_STRING, 0, NULL, 0);
        expect("an empty array", i == 2 ? BITNET_OK : BAD, keys[i]);
    }
    forge_array(&f, keys[1], BNI_KV_I32, FORGE_VOCAB - 1, NULL, 4 * (FORGE_VOCAB - 1));
    expect("fewer types than tokens", BAD, keys[1]);
    forge_array(&f, keys[1], BNI_KV_U64, FORGE_VOCAB + 5, NULL, 8 * (FORGE_VOCAB + 5));
    expect("more types than tokens", BITNET_OK, "");
    for (i = 0; i < FORGE_VOCAB; i++)
        kinds[i] = i * 1000003 - 8;
    forge_ints(&f, keys[1], kinds, FORGE_VOCAB);
    expect("types that do not exist", BITNET_OK, "");
    forge_strings(&f, keys[2], odd_merges, 8);
    expect("odd merges", BITNET_OK, "");
    forge_drop(&f, keys[0]);
    expect("no tokens", BAD, keys[0]);
    forge_drop(&f, keys[1]);
    expect("no types", BITNET_OK, "");
    forge_drop(&f, keys[2]);
    expect("no merges", BAD, keys[2]);
    forge_drop(&f, "tokenizer.ggml.model");
    expect("no tokenizer", BAD, "tokenizer.ggml.model");
    forge_u32(&f, "tokenizer.ggml.model", 1);
    expect("a tokenizer that is a number", BAD, "tokenizer.ggml.model");
    forge_text(&f, "tokenizer.ggml.model", "bert");
    expect("another tokenizer", REFUSED, "bert");
    forge_text(&f, "tokenizer.ggml.pre", "nobody");
    expect("another rule", REFUSED, "nobody");
    forge_u32(&f, "tokenizer.ggml.pre", 3);
    expect("a rule that is a number", BAD, "tokenizer.ggml.pre");
    forge_drop(&f, "tokenizer.ggml.pre");
    expect("no rule", BITNET_OK, "");
    for (i = 0; i < 6; i++)
        for (j = 0; j < 3; j++) {
            forge_number(&f, ids[i], BNI_KV_I64, j == 0 ? FORGE_VOCAB : j == 1 ? UINT64_MAX : (uint64_t)1 << 63, 8);
            expect("a token outside the vocabulary", BITNET_OK, "");
        }
    for (j = 0; j < 5; j++) {        /* vocabularies of nothing but one text */
        static const char *const all[5] = {"", "a", "<|eot_id|>", "\xff", "\xc4"};
        for (i = 0; i < FORGE_VOCAB; i++)
            texts[i] = all[j];
        forge_strings(&f, keys[0], texts, FORGE_VOCAB);
        expect("one text for all tokens", BITNET_OK, "");
        forge_strings(&f, keys[0], texts, FORGE_VOCAB);
        forge_text(&f, "tokenizer.ggml.model", "llama");
        expect("one text for all tokens, SPM", BITNET_OK, "");
    }
    for (j = 0; j < 6; j++) {        /* scores that are no numbers, for a tokenizer that lives by them */
        uint8_t scores[4 * FORGE_VOCAB];
        static const uint32_t bits[6] = {0x7fc00000u, 0xffc00000u, 0x7f800000u, 0xff800000u, 0xffffffffu, 0x7fffffffu};
        for (i = 0; i < FORGE_VOCAB; i++)
            forge_put(scores + 4 * i, bits[j], 4);
        forge_text(&f, "tokenizer.ggml.model", "llama");
        forge_array(&f, keys[3], BNI_KV_F32, FORGE_VOCAB, scores, sizeof scores);
        expect("scores that are not finite", BITNET_OK, "");
    }
    forge_u32(&f, "tokenizer.chat_template", 3);
    expect("a template that is a number", BITNET_OK, "");
    test_colliding_tokens();
}

/* ------------------------------------------------------------------------------------------------- saved sessions */

typedef struct saved { bitnet_engine *engine; bitnet_session *session; uint8_t bytes[1 << 16]; size_t size; } saved;

/* Loads data, resealed if wanted; the session must go on, whatever was in it. Result: of the load. */
static bitnet_result try_state(saved *s, uint8_t *data, size_t size, int reseal)
{
    const int32_t *tokens;
    bitnet_error err;
    bitnet_result r;
    float logit;
    int n = bitnet_session_tokens(s->session, NULL), one = 1;
    memset(&err, 0, sizeof err);
    if (reseal && size >= 8)
        bni_store_u64(data + size - 8, bni_digest(BNI_DIGEST_START, data, size - 8));
    r = bitnet_state_load(s->session, at_the_brink(data, size), size, &err);
    CHECK(r == BITNET_OK || (r == BITNET_ERROR_STATE && err.text[0]), "%d: %s", (int)r, err.text);
    if (r != BITNET_OK) {
        CHECK(bitnet_session_tokens(s->session, &tokens) == n && (n < 1 || tokens[n - 1] == 1),
              "a refused state has changed the session");
        return r;
    }
    if (bitnet_session_tokens(s->session, NULL) < 16) {
        r = bitnet_eval(s->session, &one, 1, NULL, NULL, &err);
        CHECK(r == BITNET_OK || r == BITNET_ERROR_NUMERIC, "%d: %s", (int)r, err.text);
        logit = r == BITNET_OK && bitnet_logits(s->session) ? bitnet_logits(s->session)[0] : 0.0f;
        CHECK(logit == logit, "a logit is not a number");
    }
    CHECK(bitnet_state_load(s->session, s->bytes, s->size, &err) == BITNET_OK, "%s", err.text);
    return BITNET_OK;
}

static void set_u32(saved *s, uint8_t *data, size_t at, uint32_t v)
{
    memcpy(data, s->bytes, s->size);
    forge_put(data + at, v, 4);
}

static void test_states(void)
{
    static saved s;
    static uint8_t data[1 << 16];
    static const int32_t prompt[6] = {0, 2, 4, 6, 8, 1};
    static const uint32_t words[6] = {0, 1, 15, 17, 0x7fffffffu, 0xffffffffu};
    bitnet_model_desc d;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_model *m;
    bitnet_error err;
    uint64_t random = 7;
    size_t n, row = BNI_STATE_HEADER + 4 * 6;
    int i, j, loaded = 0;
    memset(&d, 0, sizeof d);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    d.data = sound;
    d.size = sound_size;
    d.n_threads = ed.n_threads = 1;
    ed.n_ctx = sd.n_ctx = 16;
    REQUIRE(bitnet_model_open(&d, &m, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_engine_create(m, &ed, &s.engine, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_session_create(s.engine, &sd, &s.session, &err) == BITNET_OK, "%s", err.text);
    REQUIRE(bitnet_eval(s.session, prompt, 6, NULL, NULL, &err) == BITNET_OK, "%s", err.text);
    s.size = bitnet_state_size(s.session);
    REQUIRE(bitnet_state_save(s.session, s.bytes, sizeof s.bytes, &err) == BITNET_OK, "%s", err.text);
    memcpy(data, s.bytes, s.size);
    CHECK(try_state(&s, data, s.size, 0) == BITNET_OK, "the sound state");
    for (n = 0; n < s.size; n++) {
        memcpy(data, s.bytes, s.size);
        CHECK(try_state(&s, data, n, 0) == BITNET_ERROR_STATE, "%lu bytes", (unsigned long)n);
        CHECK(try_state(&s, data, n, 1) == BITNET_ERROR_STATE, "%lu bytes, resealed", (unsigned long)n);
        memcpy(data, s.bytes, s.size);
        data[n] ^= (uint8_t)(1 << (n % 8));
        CHECK(try_state(&s, data, s.size, 0) == BITNET_ERROR_STATE, "a flipped bit in byte %lu", (unsigned long)n);
    }
    CHECK(try_state(&s, s.bytes, s.size + 1, 0) == BITNET_ERROR_STATE, "a byte too many");
    for (n = 0; n < BNI_STATE_HEADER - 4; n += 4)
        for (j = 0; j < 6; j++) {
            set_u32(&s, data, n, words[j]);
            CHECK(memcmp(data, s.bytes, s.size) == 0 || try_state(&s, data, s.size, 1) == BITNET_ERROR_STATE,
                  "header word at %lu = %lu, resealed", (unsigned long)n, (unsigned long)words[j]);
        }
    set_u32(&s, data, BNI_STATE_HEADER, FORGE_VOCAB);
    CHECK(try_state(&s, data, s.size, 1) == BITNET_ERROR_STATE, "a token outside the vocabulary");
    set_u32(&s, data, BNI_STATE_HEADER + 4, 0xffffffffu);
    CHECK(try_state(&s, data, s.size, 1) == BITNET_ERROR_STATE, "token -1");
    for (i = 0; i < 2; i++, row += 4 + 2 * FORGE_HEAD_DIM) {        /* keys, values */
        static const uint32_t scales[5] = {0x7f800000u, 0x7fc00000u, 0xff800000u, 0xbf800000u, 0xffffffffu};
        for (j = 0; j < 5; j++) {
            set_u32(&s, data, row, scales[j]);
            CHECK(try_state(&s, data, s.size, 1) == BITNET_ERROR_STATE, "scale %lx", (unsigned long)scales[j]);
        }
        set_u32(&s, data, row, 0x7f7fffffu);
        CHECK(try_state(&s, data, s.size, 1) == BITNET_OK, "the largest scale");
        set_u32(&s, data, row + 4, 0x7fff7fffu);
        CHECK(try_state(&s, data, s.size, 1) == BITNET_ERROR_STATE, "integers of 32767");
        set_u32(&s, data, row + 4, 0x80008000u);
        CHECK(try_state(&s, data, s.size, 1) == BITNET_ERROR_STATE, "integers of -32768");
    }
    for (i = 0; i < 3000; i++) {
        memcpy(data, s.bytes, s.size);
        mutate(data, i % 2 ? s.size - 8 : BNI_STATE_HEADER, &random);
        loaded += try_state(&s, data, s.size, 1) == BITNET_OK;
    }
    CHECK(loaded > 30, "only %d of 3000 resealed mutants were loaded", loaded);
    bitnet_session_destroy(s.session);
    bitnet_engine_destroy(s.engine);
    bitnet_model_close(m);
}

/* ------------------------------------------------------------------------------------------------- past 4 GiB */

#if (defined(__unix__) || defined(__APPLE__)) && !defined(BITNET_NO_MMAP)

/* Does the file system of path keep holes? */
static int keeps_holes(const char *path)
{
    struct stat info;
    FILE *out = fopen(path, "wb");
    int ok = out && fseek(out, 1L << 30, SEEK_SET) == 0 && fputc(1, out) == 1;
    if (out)
        fclose(out);
    ok = ok && stat(path, &info) == 0 && (double)info.st_blocks * 512.0 < 1e6;
    remove(path);
    return ok;
}

/* n bytes of a tensor as tests/read_gguf, which shares no code with us, finds them. */
static int other_bytes(const char *path, const char *tensor, uint64_t at, uint8_t *out, int n)
{
    char command[1024];
    FILE *pipe;
    int i = 0;
    unsigned byte;
    snprintf(command, sizeof command, "%s/read_gguf %s --bytes %s %llu %d", test_build(), path, tensor,
             (unsigned long long)at, n);
    pipe = popen(command, "r");
    if (!pipe)
        return 0;
    while (i < n && fscanf(pipe, "%2x", &byte) == 1)
        out[i++] = (uint8_t)byte;
    return pclose(pipe) == 0 && i == n;
}

/* 300 million empty strings cost an attacker no disk; walking through them costs seconds, and 2.4 GB of page cache. */
static void test_holes(void)
{
    char path[512];
    bitnet_model_desc d;
    bitnet_model *m;
    bitnet_error err;
    test_memory memory;
    double start;
    int i;
    FILE *out;
    snprintf(path, sizeof path, "%s/test-holes.gguf", test_build());
    forge_sound(&f);
    forge_array(&f, "general.alignment", BNI_KV_STRING, 300000000, NULL, 0);
    file_size = forge_write(&f, file, sizeof file, NULL);
    out = fopen(path, "wb");
    REQUIRE(out && fwrite(file, 1, 512, out) == 512 && fclose(out) == 0 && truncate(path, (off_t)2500000000) == 0, "%s",
            path);
    memset(&d, 0, sizeof d);
    memset(&memory, 0, sizeof memory);
    d.path = path;
    d.allocator = test_allocator(&memory);
    for (i = 0; i < 2; i++) {
        if (!can_open(i))
            continue;
        d.no_mmap = i;
        start = seconds();
        CHECK(bitnet_model_open(&d, &m, &err) == BAD, "no error");
        CHECK(seconds() - start < 2.0 * slowness(), "%.1f s to refuse: %s", seconds() - start, err.text);
        CHECK(memory.live_blocks == 0 && memory.peak_bytes <= (80u << 20), "%lu bytes", (unsigned long)memory.peak_bytes);
    }
    remove(path);
    forge_sound(&f);
}

static uint64_t far_reads, far_last;
static int far_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    FILE *in = (FILE *)user;
    far_reads += n;
    far_last = offset + n > far_last ? offset + n : far_last;
    return fseeko(in, (off_t)offset, SEEK_SET) == 0 && fread(buffer, 1, n, in) == n ? 0 : -1;
}

/* The last row of a tensor: the same bytes from the mapping, from stdio, and from read_gguf. */
static void check_last_row(const char *path, const bni_source *s, const bni_gguf *g, const char *name)
{
    static uint8_t ours[32768], theirs[32768];
    static uint8_t codes[32768];
    static float row[32768];
    const bni_tensor *t = bni_gguf_tensor(g, name);
    uint64_t at, bytes, i, size = 0;
    int different = 0;
    REQUIRE(t != NULL, "%s", name);
    bytes = t->type == BNI_TYPE_I2_S ? t->ne[0] / 4 : bni_row_bytes(t->type, t->ne[0]);
    at = bytes * (t->ne[1] - 1);
    REQUIRE(bytes <= sizeof ours && t->ne[0] <= sizeof codes, "%s: rows of %lu bytes", name, (unsigned long)bytes);
    REQUIRE(other_bytes(path, name, at, theirs, (int)bytes), "read_gguf on %s", name);
    CHECK(memcmp(s->data + t->offset + at, theirs, (size_t)bytes) == 0, "%s: the mapping's last row differs", name);
    if (can_open(1)) {
        bni_file in;
        REQUIRE(bni_file_open(&in, path, &size) == 0, "%s", path);
        CHECK(size == g->file_size, "stdio finds %llu bytes", (unsigned long long)size);
        CHECK(bni_file_read(&in, t->offset + at, ours, (size_t)bytes) == 0 && memcmp(ours, theirs, (size_t)bytes) == 0,
              "%s: the last row as stdio reads it differs", name);
        bni_file_close(&in);
    }
    if (t->type == BNI_TYPE_I2_S) {
        bni_i2s_row(s->data + t->offset, BITNET_I2S_A, t->ne[1] - 1, t->ne[0], codes);
        for (i = 0; i < t->ne[0]; i++) {
            unsigned code = theirs[i / 128 * 32 + i % 32] >> (6 - 2 * (i % 128 / 32)) & 3;
            different += codes[i] != codes[0];
            if (codes[i] != code)
                break;
        }
    } else {
        bni_decode((int)t->type, s->data + t->offset + at, 0, (int)t->ne[0], row);
        for (i = 0; i < t->ne[0]; i++) {
            different += row[i] != row[0];
            if (row[i] != bni_f16_to_f32(bni_load_u16(theirs + 2 * i)))
                break;
        }
    }
    CHECK(i == t->ne[0], "%s: column %lu of the last row differs", name, (unsigned long)i);
    CHECK(different > 0, "%s: the last row is all the same: a hole", name);
}

static void test_huge(void)
{
    char path[512];
    bitnet_model_desc d;
    bitnet_model_info info;
    bitnet_error err;
    test_memory memory;
    bitnet_model m;
    double start;
    snprintf(path, sizeof path, "%s/test-70b.gguf", test_build());
    if (sizeof(void *) < 8) {
        SKIP("a file of 21 GB: this machine's addresses are too short");
        return;
    }
    if (!keeps_holes(path)) {
        SKIP("a file of 21 GB: the file system of %s keeps no holes", test_build());
        return;
    }
    test_holes();
    test_make_model(path, "70b", "--shape 70b");
    memset(&d, 0, sizeof d);
    memset(&memory, 0, sizeof memory);
    memset(&err, 0, sizeof err);
    d.path = path;
    d.allocator = test_allocator(&memory);
    start = seconds();
    CHECK(bitnet_model_probe(&d, &info, &err) == BITNET_OK && info.is_supported && info.is_ternary, "%s %s", err.text,
          info.unsupported);
    CHECK(seconds() - start < 1.0 * slowness(), "%.1f s to probe", seconds() - start);
    CHECK(info.n_embd == 8192 && info.n_layer == 80 && info.n_ff == 28672 && info.n_head == 64 && info.n_head_kv == 8 &&
          info.head_dim == 128 && info.n_vocab == 128256, "%d x %d x %d, vocabulary %d", info.n_layer, info.n_embd,
          info.n_ff, info.n_vocab);
    CHECK(info.file_bytes > UINT64_C(21000000000) && info.n_parameters > UINT64_C(69000000000) &&
          info.weight_bytes > UINT64_C(13000000000), "%llu bytes, %llu weights", (unsigned long long)info.file_bytes,
          (unsigned long long)info.n_parameters);
    CHECK(memory.live_blocks == 0 && memory.peak_bytes < MEMORY_LIMIT, "%lu bytes", (unsigned long)memory.peak_bytes);
    d.path = NULL;
    d.reader.read = far_read;
    d.reader.size = info.file_bytes;
    d.reader.user = fopen(path, "rb");
    REQUIRE(d.reader.user != NULL, "%s", path);
    CHECK(bitnet_model_probe(&d, &info, &err) == BITNET_OK && info.is_supported, "%s", err.text);
    CHECK(far_last < (uint64_t)64 << 20 && memory.peak_bytes < MEMORY_LIMIT, "a probe read %llu bytes, up to %llu",
          (unsigned long long)far_reads, (unsigned long long)far_last);
    fclose((FILE *)d.reader.user);
    memset(&d, 0, sizeof d);
    memset(&m, 0, sizeof m);
    d.path = path;
    REQUIRE(bni_model_tables(&m, &d, &err) == BITNET_OK, "%s", err.text);
    check_last_row(path, &m.source, &m.gguf, "token_embd.weight");
    check_last_row(path, &m.source, &m.gguf, "output.weight");
    check_last_row(path, &m.source, &m.gguf, "blk.79.ffn_down.weight");
    check_last_row(path, &m.source, &m.gguf, "blk.40.attn_q.weight");
    bni_model_release(&m);
    remove(path);
}

#else
static void test_huge(void) { SKIP("a file of 21 GB: no mapping of files here"); }
#endif

int main(void)
{
    forge_sound(&f);
    sound_size = forge_write(&f, sound, sizeof sound, &sound_start);
    test_forged_container();
    test_forged_alignment();
    test_far_data();
    test_forged_tensors();
    test_forged_values();
    test_forged_sizes();
    test_forged_floats();
    test_forged_tokenizer();
    test_truncation();
    test_failing_reader();
    test_paths();
    test_states();
    test_mutation();
    test_huge();
    return test_end("files");
}
