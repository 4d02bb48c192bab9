/* Any bytes as a saved session. The hash at the end is set right, since no fuzzer guesses it: what it would reject is
   the checks behind it that must hold. What is loaded must go on. */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "fuzz.h"

static bitnet_session *session;

/* A session of 16 tokens with 5 evaluated, made once. */
static void start(void)
{
    static const int32_t prompt[5] = {0, 2, 4, 6, 8};
    static uint8_t file[1 << 19];
    bitnet_model_desc md;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    bitnet_model *model;
    bitnet_engine *engine;
    memset(&md, 0, sizeof md);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    forge_sound(&fuzz_forge);
    md.data = file;
    md.size = forge_write(&fuzz_forge, file, sizeof file, NULL);
    md.n_threads = ed.n_threads = 1;
    ed.n_ctx = sd.n_ctx = 16;
    if (bitnet_model_open(&md, &model, NULL) != BITNET_OK || bitnet_engine_create(model, &ed, &engine, NULL) != BITNET_OK ||
        bitnet_session_create(engine, &sd, &session, NULL) != BITNET_OK ||
        bitnet_eval(session, prompt, 5, NULL, NULL, NULL) != BITNET_OK)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = (uint8_t *)malloc(size + 1);
    int32_t token = 1;
    bitnet_result r;
    if (!session)
        start();
    memcpy(copy, data, size);
    bitnet_state_load(session, copy, size, NULL);
    if (size >= 8)
        bni_store_u64(copy + size - 8, bni_digest(BNI_DIGEST_START, copy, size - 8));
    if (bitnet_state_load(session, copy, size, NULL) == BITNET_OK && bitnet_session_tokens(session, NULL) < 16) {
        r = bitnet_eval(session, &token, 1, NULL, NULL, NULL);
        if (r != BITNET_OK && r != BITNET_ERROR_NUMERIC)
            abort();
    }
    free(copy);
    return 0;
}

#if !defined(FUZZ_LIB)
static size_t fuzz_seed(uint8_t *out, size_t capacity)
{
    start();
    return bitnet_state_save(session, out, capacity, NULL) == BITNET_OK ? bitnet_state_size(session) : 0;
}
#endif
