/* Any bytes as a model file: opened from memory and through a reader, probed, and run for two tokens if it opens. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "fuzz.h"

typedef struct blob { const uint8_t *data; size_t size; } blob;

static int blob_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    const blob *b = (const blob *)user;
    if (offset > b->size || n > b->size - offset)
        return -1;
    memcpy(buffer, b->data + offset, n);
    return 0;
}

static void run(const bitnet_model_desc *md)
{
    bitnet_model *model;
    bitnet_engine *engine = NULL;
    bitnet_session *session = NULL;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_generation g;
    bitnet_event event;
    int32_t tokens[64], first = 0;
    int guard = 0, done = 0;
    if (bitnet_model_open(md, &model, NULL) != BITNET_OK)
        return;
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    memset(&g, 0, sizeof g);
    ed.n_threads = 1;
    ed.n_batch = 4;
    ed.n_ctx = sd.n_ctx = 16;
    g.max_tokens = 2;
    bitnet_tokenize(model, "ab <|eot_id|>abc1!", 18, tokens, 64, BITNET_TOKENIZE_BOS | BITNET_TOKENIZE_SPECIAL);
    if (bitnet_engine_create(model, &ed, &engine, NULL) == BITNET_OK &&
        bitnet_session_create(engine, &sd, &session, NULL) == BITNET_OK &&
        bitnet_begin(session, &first, 1, &g) == BITNET_OK)
        while (!done && guard++ < 1000) {
            while (bitnet_next_event(session, &event))
                done |= event.type == BITNET_EVENT_DONE;
            bitnet_step(engine, BITNET_NO_BUDGET);
        }
    if (bitnet_session_destroy(session) != BITNET_OK || (session && !done && guard > 1000))
        abort();
    bitnet_engine_destroy(engine);
    bitnet_model_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bitnet_model_desc md;
    bitnet_model_info info;
    blob b;
    if (size == 0)
        return 0;
    memset(&md, 0, sizeof md);
    md.n_threads = 1;
    md.data = data;
    md.size = size;
    bitnet_model_probe(&md, &info, NULL);
    run(&md);
    md.layout = "i2_s";
    run(&md);
    md.layout = NULL;
    md.data = NULL;
    b.data = data;
    b.size = size;
    md.reader.read = blob_read;
    md.reader.size = size;
    md.reader.user = &b;
    run(&md);
    return 0;
}

#if !defined(FUZZ_LIB)
static size_t fuzz_seed(uint8_t *out, size_t capacity)
{
    forge_sound(&fuzz_forge);
    return forge_write(&fuzz_forge, out, capacity, NULL);
}
#endif
