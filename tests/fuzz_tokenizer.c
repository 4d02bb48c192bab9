/* Any bytes as a vocabulary, its merges, and a text to be cut:

       u8 flags (1: SPM, 2: no types, 4: no rule named, 8..: which rule) | u8 tokens | u8 merges
       strings: u8 length (mod 32) | bytes, of tokens each with a u8 type before it
       the rest is the text */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "fuzz.h"

static const char *const rules[12] = {"default", "llama-bpe", "dbrx", "qwen2", "gpt-2", "falcon", "falcon_e", "starcoder",
                                      "falcon3", "llama3", "smaug-bpe", "olmo"};
static const uint8_t *at, *end;

static uint8_t byte(void) { return at < end ? *at++ : 0; }

/* Appends a string of the input to an array's bytes. */
static size_t string(uint8_t *out, size_t used)
{
    size_t n = byte() % 32u;
    n = n < (size_t)(end - at) ? n : (size_t)(end - at);
    forge_put(out + used, n, 8);
    memcpy(out + used + 8, at, n);
    at += n;
    return used + 8 + n;
}

/* What must hold for every text: counts that do not depend on the capacity, tokens of the vocabulary, text back. */
static void cut(const bitnet_model *m, const char *text, size_t size, int flags)
{
    bitnet_model_info info;
    int64_t n = bitnet_tokenize(m, text, size, NULL, 0, flags), i;
    int32_t *tokens = (int32_t *)malloc((size_t)(n > 0 ? n : 1) * sizeof *tokens);
    bitnet_model_get_info(m, &info);
    if (n < 0 || bitnet_tokenize(m, text, size, tokens, n, flags) != n)
        abort();
    for (i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= info.n_vocab)
            abort();
    if (bitnet_detokenize(m, tokens, n, NULL, 0, BITNET_DETOKENIZE_SPECIAL) < 0)
        abort();
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t list[1 << 14], types[1024], file[1 << 19];
    bitnet_model_desc d;
    bitnet_model *m;
    bitnet_chat_message message;
    char *text;
    size_t used = 0;
    int flags, n_tokens, n_merges, i;
    at = data;
    end = data + size;
    flags = byte();
    n_tokens = byte();
    n_merges = byte();
    forge_sound(&fuzz_forge);
    for (i = 0; i < n_tokens; i++) {
        forge_put(types + 4 * i, byte(), 4);
        used = string(list, used);
    }
    forge_array(&fuzz_forge, "tokenizer.ggml.tokens", BNI_KV_STRING, (uint64_t)n_tokens, list, used);
    forge_array(&fuzz_forge, "tokenizer.ggml.token_type", BNI_KV_I32, (uint64_t)n_tokens, types, 4 * (size_t)n_tokens);
    forge_array(&fuzz_forge, "tokenizer.ggml.scores", BNI_KV_F32, (uint64_t)n_tokens, types, 4 * (size_t)n_tokens);
    for (i = 0, used = 0; i < n_merges; i++)
        used = string(list, used);
    forge_array(&fuzz_forge, "tokenizer.ggml.merges", BNI_KV_STRING, (uint64_t)n_merges, list, used);
    forge_text(&fuzz_forge, "tokenizer.ggml.model", flags & 1 ? "llama" : "gpt2");
    forge_text(&fuzz_forge, "tokenizer.ggml.pre", rules[(flags >> 3) % 12]);
    if (flags & 2)
        forge_drop(&fuzz_forge, "tokenizer.ggml.token_type");
    if (flags & 4)
        forge_drop(&fuzz_forge, "tokenizer.ggml.pre");
    memset(&d, 0, sizeof d);
    d.data = file;
    d.size = forge_write(&fuzz_forge, file, sizeof file, NULL);
    d.vocab_only = 1;
    d.n_threads = 1;
    if (bitnet_model_open(&d, &m, NULL) != BITNET_OK)
        return 0;
    text = (char *)malloc((size_t)(end - at) + 1);
    memcpy(text, at, (size_t)(end - at));
    text[end - at] = 0;
    for (i = 0; i < 4; i++)
        cut(m, text, (size_t)(end - at), i);
    message.role = "user";
    message.content = text;
    bitnet_chat_tokenize(m, &message, 1, BITNET_CHAT_ANSWER, NULL, 0);
    bitnet_token_find(m, text);
    free(text);
    bitnet_model_close(m);
    return 0;
}

#if !defined(FUZZ_LIB)
static size_t fuzz_seed(uint8_t *out, size_t capacity)
{
    static const char seed[] = "\0\12\3" "\1\1a" "\1\1b" "\1\2ab" "\1\3abc" "\1\1c" "\1\2\xc4\xa0" "\1\3\xc4\xa0" "a" "\3\12<|eot_id|>"
                               "\4\4user" "\6\6<0x0A>" "\3a b" "\4ab c" "\4\xc4\xa0 a" "ab abc's user<|eot_id|>  123 \n \xc3\xa9";
    (void)capacity;
    memcpy(out, seed, sizeof seed - 1);
    return sizeof seed - 1;
}
#endif
