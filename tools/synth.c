/* synth: write a model file with random ternary weights, in every shape and format that bitnet.h reads.

       cc -O2 -I. tools/synth.c -o synth -lpthread -lm
       ./synth -o tiny.gguf
       ./synth --family llama --type tq1_0 --head q6_k --shape small --seed 7 -o small.gguf
       ./synth --shape 2b-4t -o big.gguf              the dimensions of microsoft/bitnet-b1.58-2B-4T, 1.18 GB

   Tests and benchmarks need models of every family and size, and trained ones are large, few and not ours to pass on.
   A model made here says nothing sensible, but it has a working tokenizer, sane activations and logits, and the keys
   and tensors that the published files have.

   What a test may rely on
   - A file depends on the options alone: the same on every machine, for any number of threads. (Heads of types
     q8_0, q6_k, q4_k, q4_0 need a build with IEEE arithmetic for that: neither x87 nor -ffast-math.)
   - A weight depends on (seed, tensor name, row, column) alone, not on how it is stored. Models that differ only in
     --type or --layout have the same ternary codes and the same scales (rounded to bfloat16, so that F16, BF16 and F32
     hold them exactly) and therefore the same logits.
   - Ternary codes: 10 of 32 are -1, 12 are 0, 10 are +1. The scale is about 1/sqrt(0.625 K): with inputs of mean
     square 1, outputs have mean square 1.
   - Embedding rows are near Gaussian, so that logits have a standard deviation of about 2.5 at any size.

   Reading order: "random numbers", "families", "tokenizer", "the plan", "writing", "main". How weights are stored is in
   storage.h. */

#include "tools/gguf_write.h"       /* first: it asks for 64-bit file offsets */
#include "tools/storage.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define SYNTH_VERSION "1.0"

/* Set by a signal; the writing loops look at it, so that no half-written file stays behind. */
static volatile sig_atomic_t stopped;

static void on_signal(int number) { stopped = number; }

/* ==== random numbers =============================================================================================

   Everything is a pure function of (seed, tensor name, row, index), so rows can be made in any order and by any
   thread. splitmix64 (Steele, Lea, Flood 2014) is a counter pushed through a mixing function: word i of a stream
   costs the same as word 0. */

static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Word i of the splitmix64 stream that starts from key. */
static uint64_t random_word(uint64_t key, uint64_t i) { return mix64(key + (i + 1) * 0x9e3779b97f4a7c15u); }

/* The key of a tensor: FNV-1a over its name, mixed with the seed. */
static uint64_t tensor_key(uint64_t seed, const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name != 0; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return mix64(h ^ mix64(seed + 1));
}

/* codes[0..n) of one row: 0, 1, 2 for -1, 0, +1, each from 4 random bits. A word makes 16 codes: the low nibbles of its
   8 bytes are columns 0..7, the high ones 8..15. Nibble x becomes [x >= 5] + [x >= 11], found for 8 nibbles at once
   as the carries of x + 11 and x + 5 into bit 4. */
static void random_codes(uint8_t *codes, uint64_t row_key, size_t n) {
    const uint64_t low = 0x0f0f0f0f0f0f0f0fu, one = 0x0101010101010101u;
    size_t i;
    for (i = 0; i < n; i += 16) {
        uint64_t word = random_word(row_key, i / 16);
        uint64_t a = word & low, b = (word >> 4) & low;
        uint8_t group[16];
        int k;
        a = (((a + 11 * one) >> 4) & one) + (((a + 5 * one) >> 4) & one);
        b = (((b + 11 * one) >> 4) & one) + (((b + 5 * one) >> 4) & one);
        for (k = 0; k < 8; k++) {
            group[k] = (uint8_t)(a >> (8 * k));
            group[8 + k] = (uint8_t)(b >> (8 * k));
        }
        memcpy(codes + i, group, n - i < 16 ? n - i : 16);
    }
}

/* An integer of mean 0 and standard deviation 37837, near a normal distribution: the sum of four 16-bit numbers
   (Irwin-Hall), less its mean. Its variance is 4 * (65536^2 - 1) / 12, its range +-131070 or 3.46 deviations. */
static int32_t random_normal(uint64_t word) {
    return (int32_t)(word & 0xffff) + (int32_t)((word >> 16) & 0xffff) + (int32_t)((word >> 32) & 0xffff) +
           (int32_t)(word >> 48) - 131070;
}

/* x[0..n): normal numbers of standard deviation 37837 unit, for embeddings. One rounding each: no machine differs. */
static void random_row(float *x, uint64_t row_key, size_t n, float unit) {
    size_t i;
    for (i = 0; i < n; i++) x[i] = (float)random_normal(random_word(row_key, i)) * unit;
}

/* x[0..n): normal numbers of mean 1 and standard deviation 0.144, for norms; 0.5 to 1.5 and exact in f32. */
static void random_norm(float *x, uint64_t row_key, size_t n) {
    size_t i;
    for (i = 0; i < n; i++) x[i] = 1.0f + (float)random_normal(random_word(row_key, i)) * (1.0f / 262144.0f);
}

/* ==== families ===================================================================================================

   A family is the graph (which tensors), the keys its converter wrote, and a tokenizer: rows of data. */

/* Keys of a file, in the order in which published files have them. */
typedef enum key_id {
    KEY_END, KEY_NAME, KEY_VOCAB_SIZE, KEY_CONTEXT, KEY_EMBD, KEY_BLOCKS, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_ROPE_DIM,
    KEY_HEAD_DIM, KEY_EPS, KEY_THETA, KEY_ROPE_LINEAR, KEY_POOLING_MEAN, KEY_FILE_TYPE, KEY_MODEL, KEY_PRE, KEY_TOKENS,
    KEY_SCORES, KEY_TYPES, KEY_MERGES, KEY_BOS, KEY_EOS, KEY_EOT, KEY_UNK, KEY_PAD, KEY_ADD_BOS_TRUE, KEY_ADD_EOS_FALSE,
    KEY_ADD_BOS_FALSE, KEY_ADD_EOS_TRUE, KEY_SPACE_PREFIX_FALSE, KEY_TEMPLATE, KEY_QUANT_VERSION
} key_id;

/* Control tokens of a tokenizer. */
typedef struct special_set {
    int first;                  /* 1: they take the lowest ids, 0: they follow the normal tokens */
    int count;                  /* how many ids they take in a small vocabulary */
    int count_full;             /* and in one of full_vocab tokens; the rest are named reserved */
    int full_vocab;
    int bos, eos, eot, unk, pad;       /* as indices into text[], -1: none */
    const char *text[16];
    const char *last[2];        /* padding and one user-defined token at the end of the vocabulary, NULL: none */
} special_set;

typedef struct family {
    const char *name, *arch, *about;
    int sub_norms;              /* attn_sub_norm, ffn_sub_norm: before the last product of each half of a layer */
    int input_norms;            /* one norm more before every product */
    int head_norms;             /* norms of each q and k head */
    int post_norms;             /* norms of what attention and feed-forward give */
    int f16_norms;              /* norms are stored as F16 */
    int tied;                   /* no output.weight: token_embd is used twice */
    float eps, theta;
    int spm;                    /* tokenizer: 1 SPM, 0 byte-level BPE */
    const char *pre;            /* tokenizer.ggml.pre, NULL: none */
    const special_set *specials;
    const char *chat_template;  /* NULL: none */
    const key_id *keys;
} family;

/* Texts that are NULL or left out become <|reserved_special_token_N|>. */
static const special_set llama3_specials = {
    0, 16, 256, 128256, 0, 1, 9, -1, 1,
    {"<|begin_of_text|>", "<|end_of_text|>", NULL, NULL, NULL, NULL, "<|start_header_id|>", "<|end_header_id|>", NULL,
     "<|eot_id|>"}, {NULL, NULL}};

static const special_set falcon3_specials = {
    1, 16, 16, 131072, -1, 11, -1, -1, -1,
    {NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, "<|endoftext|>", "<|system|>", "<|user|>",
     "<|assistant|>", "<|pad|>"}, {NULL, NULL}};

static const special_set falcon_e_specials = {
    1, 16, 16, 32768, 1, 2, 4, -1, 0,
    {"<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"}, {NULL, NULL}};

static const special_set qwen_specials = {
    0, 16, 293, 151936, -1, 0, 2, -1, 0, {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, {NULL, NULL}};

static const special_set spm_specials = {
    1, 3, 3, 32002, 1, 2, -1, 0, -1, {"<unk>", "<s>", "</s>"}, {"<pad>", "</line>"}};

static const special_set gemma_specials = {
    1, 4, 4, 262144, 2, 1, -1, 3, 0, {"<pad>", "<eos>", "<bos>", "<unk>"}, {NULL, NULL}};

/* The template that stands in the published 2B-4T file. It is outdated: engines must know better. */
static const char bitnet_template[] =
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ 'Human: ' + message['content'] + '\\n\\nBITNETAssistant: ' + eos_token }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}";

static const char llama3_template[] =
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

static const char falcon3_template[] =
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}";

static const char chatml_template[] =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* microsoft/bitnet-b1.58-2B-4T-gguf: 24 keys with the architecture; there is no tokenizer.ggml.pre. */
static const key_id keys_2b4t[] = {
    KEY_NAME, KEY_VOCAB_SIZE, KEY_CONTEXT, KEY_EMBD, KEY_BLOCKS, KEY_FF, KEY_ROPE_DIM, KEY_HEADS, KEY_HEADS_KV,
    KEY_ADD_BOS_TRUE, KEY_EPS, KEY_THETA, KEY_FILE_TYPE, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_SCORES, KEY_TYPES,
    KEY_MERGES, KEY_BOS, KEY_EOS, KEY_PAD, KEY_TEMPLATE, KEY_QUANT_VERSION, KEY_END};

/* 1bitLLM through convert-hf-to-gguf-bitnet.py. */
static const key_id keys_1bitllm[] = {
    KEY_NAME, KEY_BLOCKS, KEY_CONTEXT, KEY_EMBD, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_THETA, KEY_EPS, KEY_FILE_TYPE,
    KEY_VOCAB_SIZE, KEY_ROPE_LINEAR, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_SCORES, KEY_TYPES, KEY_BOS, KEY_EOS, KEY_UNK,
    KEY_PAD, KEY_ADD_BOS_TRUE, KEY_ADD_EOS_FALSE, KEY_TEMPLATE, KEY_QUANT_VERSION, KEY_END};

/* Models of architecture llama through the same program. */
static const key_id keys_llama[] = {
    KEY_NAME, KEY_BLOCKS, KEY_CONTEXT, KEY_EMBD, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_THETA, KEY_EPS, KEY_FILE_TYPE,
    KEY_VOCAB_SIZE, KEY_ROPE_DIM, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_TYPES, KEY_MERGES, KEY_BOS, KEY_EOS, KEY_PAD,
    KEY_TEMPLATE, KEY_QUANT_VERSION, KEY_END};

static const key_id keys_falcon3[] = {
    KEY_NAME, KEY_BLOCKS, KEY_CONTEXT, KEY_EMBD, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_THETA, KEY_EPS, KEY_HEAD_DIM,
    KEY_FILE_TYPE, KEY_VOCAB_SIZE, KEY_ROPE_DIM, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_TYPES, KEY_MERGES, KEY_BOS,
    KEY_EOS, KEY_PAD, KEY_TEMPLATE, KEY_QUANT_VERSION, KEY_END};

static const key_id keys_qwen3[] = {
    KEY_NAME, KEY_BLOCKS, KEY_CONTEXT, KEY_EMBD, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_THETA, KEY_EPS, KEY_HEAD_DIM,
    KEY_FILE_TYPE, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_TYPES, KEY_MERGES, KEY_EOS, KEY_PAD, KEY_ADD_BOS_FALSE,
    KEY_TEMPLATE, KEY_QUANT_VERSION, KEY_END};

static const key_id keys_qwen3_embed[] = {
    KEY_NAME, KEY_BLOCKS, KEY_CONTEXT, KEY_EMBD, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_THETA, KEY_EPS, KEY_HEAD_DIM,
    KEY_POOLING_MEAN, KEY_FILE_TYPE, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_TYPES, KEY_MERGES, KEY_EOS, KEY_PAD,
    KEY_ADD_BOS_FALSE, KEY_ADD_EOS_TRUE, KEY_QUANT_VERSION, KEY_END};

static const key_id keys_gemma3_embed[] = {
    KEY_NAME, KEY_BLOCKS, KEY_CONTEXT, KEY_EMBD, KEY_FF, KEY_HEADS, KEY_HEADS_KV, KEY_THETA, KEY_EPS, KEY_HEAD_DIM,
    KEY_POOLING_MEAN, KEY_FILE_TYPE, KEY_MODEL, KEY_PRE, KEY_TOKENS, KEY_SCORES, KEY_TYPES, KEY_BOS, KEY_EOS, KEY_UNK,
    KEY_PAD, KEY_ADD_BOS_FALSE, KEY_ADD_EOS_TRUE, KEY_SPACE_PREFIX_FALSE, KEY_QUANT_VERSION, KEY_END};

static const family families[] = {
    {"bitnet-b1.58", "bitnet-b1.58", "microsoft 2B-4T: squared ReLU, sub-norms, NEOX rope, tied", 1, 0, 0, 0, 0, 1,
     1e-5f, 500000.0f, 0, NULL, &llama3_specials, bitnet_template, keys_2b4t},
    {"bitnet-25", "bitnet-25", "first uploads of 2B-4T: the same with output.weight", 1, 0, 0, 0, 0, 0,
     1e-5f, 500000.0f, 0, NULL, &llama3_specials, bitnet_template, keys_2b4t},
    {"bitnet", "bitnet", "1bitLLM large and 3B: SiLU, sub-norms, NEOX rope, tied, SPM tokenizer", 1, 0, 0, 0, 0, 1,
     1e-5f, 10000.0f, 1, "default", &spm_specials, NULL, keys_1bitllm},
    {"llama", "llama", "Llama3-8B-1.58: SiLU, no sub-norms, NORM rope, untied", 0, 0, 0, 0, 0, 0,
     1e-5f, 500000.0f, 0, "llama-bpe", &llama3_specials, llama3_template, keys_llama},
    {"falcon3", "llama", "Falcon3-1.58bit: llama with head_dim 256, eps 1e-6", 0, 0, 0, 0, 0, 0,
     1e-6f, 1000042.0f, 0, "falcon3", &falcon3_specials, falcon3_template, keys_falcon3},
    {"falcon-e", "llama", "Falcon-E: llama with its own tokenizer rules", 0, 0, 0, 0, 0, 0,
     1e-5f, 500000.0f, 0, "falcon_e", &falcon_e_specials, chatml_template, keys_falcon3},
    {"qwen3", "qwen3", "Ternary-Bonsai: SiLU, q and k norms, NEOX rope, tied", 0, 0, 1, 0, 0, 1,
     1e-6f, 1000000.0f, 0, "qwen2", &qwen_specials, chatml_template, keys_qwen3},
    {"qwen3-embed", "qwen3", "bitnet-embedding-0.6b: norms before products, F16 norms, mean pooling", 0, 1, 1, 0, 1, 1,
     1e-6f, 1000000.0f, 0, "qwen2", &qwen_specials, NULL, keys_qwen3_embed},
    {"gemma3-embed", "gemma3", "bitnet-embedding-270m: the same with post-norms, GELU, SPM tokenizer", 0, 1, 1, 1, 1, 1,
     1e-6f, 10000.0f, 1, "default", &gemma_specials, NULL, keys_gemma3_embed},
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

/* Dimensions. head_dim * n_head need not be n_embd. */
typedef struct shape {
    const char *name, *about, *family;      /* family: used when --family is not given */
    int n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_vocab, n_ctx;
    int sparse;                             /* 1: nearly all of the file is holes */
} shape;

static const shape shapes[] = {
    {"tiny", "for unit tests, 1 MB", "bitnet-b1.58", 2, 256, 768, 4, 2, 64, 1024, 512, 0},
    {"small", "for end-to-end tests, 16 MB", "bitnet-b1.58", 6, 768, 2048, 12, 4, 64, 4096, 2048, 0},
    {"2b-4t", "microsoft/bitnet-b1.58-2B-4T, 1.18 GB", "bitnet-b1.58", 30, 2560, 6912, 20, 5, 128, 128256, 4096, 0},
    {"large", "1bitLLM/bitnet_b1_58-large, 0.27 GB", "bitnet", 24, 1536, 4096, 16, 16, 96, 32002, 2048, 0},
    {"3b", "1bitLLM/bitnet_b1_58-3B, 1.0 GB; rows of 8640", "bitnet", 26, 3200, 8640, 32, 32, 100, 32002, 2048, 0},
    {"8b", "HF1BitLLM/Llama3-8B-1.58, 3.8 GB", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 0},
    {"falcon3-1b", "tiiuae/Falcon3-1B-Instruct-1.58bit, 1.4 GB", "falcon3", 18, 2048, 8192, 8, 4, 256, 131072, 8192, 0},
    {"falcon-e-1b", "tiiuae/Falcon-E-1B, dimensions assumed", "falcon-e", 24, 2048, 4096, 16, 2, 128, 32768, 32768, 0},
    {"embed-0.6b", "microsoft/bitnet-embedding-0.6b, 0.43 GB", "qwen3-embed",
     28, 1024, 3072, 16, 8, 128, 151936, 32768, 0},
    {"embed-270m", "microsoft/bitnet-embedding-270m, 0.37 GB", "gemma3-embed",
     18, 640, 2048, 4, 1, 256, 262144, 32768, 0},
    {"70b", "Llama 70B: 21 GB of holes, for offsets past 4 GiB", "llama", 80, 8192, 28672, 64, 8, 128, 128256, 8192, 1},
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

/* What the command line asks for, with every default filled in. */
typedef struct options {
    const family *family;
    shape dims;
    const storage *type, *head;
    uint64_t seed;
    int tied, rope_freqs, spm, threads;
    const char *pre;            /* NULL: no such key */
    const char *output;
} options;

/* ==== tokenizer ==================================================================================================

   A small real one: byte-pair merges learnt from the text below (ours, written for this), so that English comes out
   in words and every byte string survives a round trip. What is left of the vocabulary is filled with unused tokens. */

static const char *const training_text[] = {
    "The old mill stood by the river, where the water was slow and dark. Every morning the miller opened the wooden "
    "door, looked at the sky and said a few words about the weather. He was not a man of many words. His daughter, "
    "who was ten years old, wanted to know everything: why the wheel turned, where the water came from, and what the "
    "people in the town did with all the flour.\n\n",
    "\"Where does the river go?\" she asked one day.\n\"To the sea,\" said the miller.\n\"And what is "
    "there?\"\n\"More water than you have ever seen.\"\nThe girl thought about this for a long time. Then she took a "
    "small piece of wood, made a boat of it, and put it into the stream. She watched until it was gone behind the "
    "trees.\n\n",
    "In the summer a stranger came along the road. He had a large brown bag, a broken umbrella and a dog that would "
    "not stop talking to the birds. The stranger asked for a place to sleep, and because it was going to rain, the "
    "miller gave him the little room under the roof. In the evening they sat together at the table. There was bread, "
    "cheese, and a pot of soup. \"What do you do for your living?\" asked the miller. \"I count things,\" the "
    "stranger said. \"I count trees and houses, stones and stars. Somebody has to do it.\"\n\n",
    "The girl liked this answer very much. \"How many stars are there?\" she wanted to know. \"I have only "
    "started,\" he said, \"but there are more than three thousand. Last night I counted 100, 200, 300, and then the "
    "clouds came.\" They laughed. Outside the rain was falling, first a little and then a lot, and the great wheel "
    "turned faster and faster in the dark.\n\n",
    "A computer is a machine that works with numbers. It can add them, compare them, and move them from one place to "
    "another, and that is nearly all. Everything else is made of these small steps: a letter is a number, a picture "
    "is a long list of numbers, and a sentence is a list of numbers too. A language model is a program that reads "
    "such a list and gives, for every number that could come next, how likely it is. To do this it multiplies large "
    "tables of weights with the values of the words that it has seen before. The weights of this model have only "
    "three values: minus one, zero and one. So there is nothing to multiply: the machine adds, it takes away, or it "
    "does nothing at all.\n\n",
    "How does the program know what to say? It does not know. It has seen a great number of sentences, and in these "
    "sentences some words follow other words more often than not. After \"once upon a\" there is nearly always "
    "\"time\". After \"the capital of France is\" there should be \"Paris\". The model was trained to guess the next "
    "word, again and again, until its guesses were good. If you ask it a question, it will answer as people have "
    "answered before. Sometimes the answer is wrong, so you should always check it.\n\n",
    "Once upon a time there was a little cat who lived in a big house near the forest. The cat had a friend, and her "
    "friend was a small grey mouse. Every day they went into the garden to play. One day they found a key under a "
    "stone. \"What is it for?\" asked the mouse. \"I think it opens a door,\" said the cat. They looked everywhere: "
    "in the kitchen, in the hall, behind the chairs and under the beds. At last they came to a very small door that "
    "they had never seen before. The cat could not go through it, but the mouse could. She turned the key, and the "
    "door opened. Behind it was a room full of light. \"What do you see?\" cried the cat. \"I see the whole world,\" "
    "said the mouse, \"and it is very beautiful.\"\n\n",
    "The house of my grandmother was full of clocks. There were clocks on the walls, clocks on the shelves, and one "
    "very large clock in the hall that was older than anybody could remember. They never showed the same time. When "
    "one of them said that it was three, the others said four or half past two, and so the whole house was always "
    "striking. My grandmother was happy with this. \"If you do not like the time here,\" she used to say, \"go into "
    "another room.\"\n\n",
    "To make bread you need flour, water, salt and some yeast. Mix the flour with the salt, put the yeast into the "
    "warm water, and wait for ten minutes. Then bring everything together and work it with your hands until it is "
    "smooth. Let it rest under a cloth in a warm place for an hour or two. When it has grown to twice its size, form "
    "it, put it into the oven, and look after it for forty minutes. The house will smell wonderful, and the bread "
    "should sound hollow when you knock on it from below. Let it get cold before you cut it, even if everybody is "
    "waiting.\n\n",
    "The captain looked at the map again. Somewhere between these two islands there had to be a passage, or all the "
    "stories were wrong. The wind was coming from the north and the ship was moving well. \"Land!\" called a voice "
    "from above, and everyone ran to the side to see it. First there was nothing but a thin line on the water, then "
    "hills, then green trees and a white beach. The captain smiled. He had been looking for this place for twenty "
    "years, and now that he had found it he did not know what to do next.\n\n",
    "Question: what is two and two? Answer: four. Question: what colour is the sky? Answer: it is blue by day, red "
    "in the evening and black at night. Question: who are you? Answer: I am a small model with random weights, and I "
    "was made for testing. User: Hello! How are you today? Assistant: Thank you, I am well. What can I do for you? "
    "User: Please tell me a story. Assistant: There was once a king who had everything that he wanted except sleep. "
    "Every night he walked through the long halls of his castle and listened to the wind. The doctors came with "
    "their books, the singers came with their songs, but nothing helped. Then a child came to the castle and said: "
    "\"Count the stones in your walls, great king, and do not stop before the end.\" So the king began to count, and "
    "before he came to the second hundred he was asleep.\n\n",
    ("#include <stdio.h>\n\nint main(void) {\n    int i, sum = 0;\n    for (i = 0; i < 10; i++) {\n        sum += i;\n"
     "    }\n    printf(\"%d\\n\", sum);\n    return 0;\n}\n"),
};

typedef struct token {
    size_t at, size;            /* its text: bytes of vocab.text */
    float score;
    int type;                   /* 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte */
} token;

enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };

typedef struct vocab {
    gguf_buffer text;           /* all token texts, then all merge texts, back to back */
    token *tokens;
    token *merges;              /* "left right"; only at and size are used */
    int n_tokens, n_merges, capacity;
    int first_special, n_special;
} vocab;

/* A symbol of the text being merged. The first 256 symbols are the bytes, symbol 256 + m is the result of merge m;
   symbol -1 separates words. */
typedef struct merge_pair {
    int left, right;
} merge_pair;

enum { MAX_MERGES = 4096 };

static int is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 128; }
static int is_digit(int c) { return c >= '0' && c <= '9'; }
static int is_space(int c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
static int is_sign(int c) { return c != 0 && !is_letter(c) && !is_digit(c) && !is_space(c); }

/* Length of the word at s: the Llama 3 rules for ASCII without contractions, so that merges stay within what every
   pre-tokenizer keeps together. A digit always stands alone. */
static size_t word_length(const unsigned char *s) {
    size_t n = 0;
    if (s[0] == ' ' && (is_letter(s[1]) || is_sign(s[1]))) n = 1;
    if (is_letter(s[n])) {
        while (is_letter(s[n])) n++;
    } else if (is_sign(s[n])) {
        while (is_sign(s[n])) n++;
        while (s[n] == '\n') n++;
    } else if (s[0] == '\n') {
        while (s[n] == '\n') n++;
    } else if (s[0] == ' ') {
        while (s[n] == ' ') n++;
        /* the last space belongs to the word that follows */
        if (n > 1 && s[n] != 0) n--;
    } else {
        n = 1;
    }
    return n;
}

/* symbols[]: the training text as bytes, words separated by -1. Returns their number. For SPM, which splits nothing
   but cannot merge across what was never a token, newlines are left out: they stay byte tokens. */
static size_t load_text(int *symbols, int spm) {
    size_t i, n = 0;
    for (i = 0; i < sizeof training_text / sizeof training_text[0]; i++) {
        const unsigned char *s = (const unsigned char *)training_text[i];
        while (*s != 0) {
            size_t k, length = word_length(s);
            for (k = 0; k < length; k++) symbols[n++] = spm && s[k] == '\n' ? -1 : s[k];
            symbols[n++] = -1;
            s += length;
        }
    }
    return n;
}

static size_t text_room(void) {
    size_t i, n = 0;
    for (i = 0; i < sizeof training_text / sizeof training_text[0]; i++) n += strlen(training_text[i]);
    return 2 * n;
}

/* The pair that occurs most often, the first one in the text among equals; 0 if there is none. counts: n_symbols^2
   would be too many, so an open hash table of 2^16 entries, more than there are pairs in the text. */
static int most_frequent_pair(const int *symbols, size_t n, merge_pair *best) {
    static merge_pair keys[65536];
    static int counts[65536];
    int best_count = 0;
    size_t i;
    memset(counts, 0, sizeof counts);
    for (i = 0; i + 1 < n; i++) {
        merge_pair p = {symbols[i], symbols[i + 1]};
        uint32_t slot;
        if (p.left < 0 || p.right < 0) continue;
        slot = (uint32_t)mix64(((uint64_t)p.left << 32) | (uint64_t)p.right) & 65535u;
        while (counts[slot] > 0 && (keys[slot].left != p.left || keys[slot].right != p.right))
            slot = (slot + 1) & 65535u;
        keys[slot] = p;
        counts[slot]++;
    }
    for (i = 0; i + 1 < n; i++) {
        uint32_t slot;
        if (symbols[i] < 0 || symbols[i + 1] < 0) continue;
        slot = (uint32_t)mix64(((uint64_t)symbols[i] << 32) | (uint64_t)symbols[i + 1]) & 65535u;
        while (keys[slot].left != symbols[i] || keys[slot].right != symbols[i + 1]) slot = (slot + 1) & 65535u;
        if (counts[slot] > best_count) {
            best_count = counts[slot];
            *best = keys[slot];
        }
    }
    return best_count > 0;
}

/* Learn at most max_merges; returns how many there are, or -1 when memory runs out. */
static int learn_merges(merge_pair *merges, int max_merges, int spm) {
    int *symbols = (int *)malloc(text_room() * sizeof *symbols);
    int m = 0;
    size_t n;
    if (symbols == NULL) return -1;
    n = load_text(symbols, spm);
    while (m < max_merges && most_frequent_pair(symbols, n, &merges[m])) {
        size_t i, to = 0;
        for (i = 0; i < n; to++) {
            if (i + 1 < n && symbols[i] == merges[m].left && symbols[i + 1] == merges[m].right) {
                symbols[to] = 256 + m;
                i += 2;
            } else {
                symbols[to] = symbols[i++];
            }
        }
        n = to;
        m++;
    }
    free(symbols);
    return m;
}

/* The bytes of a symbol, in order; at most room of them. Merges nest only as deep as a word is long. */
static size_t symbol_bytes(unsigned char *to, size_t room, int symbol, const merge_pair *merges) {
    size_t n;
    if (symbol < 256) {
        if (room > 0) to[0] = (unsigned char)symbol;
        return room > 0 ? 1 : 0;
    }
    n = symbol_bytes(to, room, merges[symbol - 256].left, merges);
    return n + symbol_bytes(to + n, room - n, merges[symbol - 256].right, merges);
}

/* Append a byte as GPT-2's alphabet spells it: itself where it is printable in Latin-1, else U+0100 and up in order. */
static int append_byte_letter(gguf_buffer *b, int byte) {
    int c = byte, i;
    if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)) {
        c = 256;
        for (i = 0; i < byte; i++) c += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
    }
    if (c < 128) return gguf_append_int(b, (uint64_t)c, 1);
    return gguf_append_int(b, (uint64_t)(0xc0 | (c >> 6)), 1) && gguf_append_int(b, (uint64_t)(0x80 | (c & 63)), 1);
}

/* Append a symbol's text: in GPT-2's alphabet, or for SPM with U+2581 for a space. */
static int append_symbol(gguf_buffer *b, int symbol, const merge_pair *merges, int spm) {
    unsigned char bytes[256];
    size_t i, n = symbol_bytes(bytes, sizeof bytes, symbol, merges);
    int ok = 1;
    for (i = 0; i < n; i++) {
        if (!spm) ok = ok && append_byte_letter(b, bytes[i]);
        else if (bytes[i] == ' ') ok = ok && gguf_append(b, "\xe2\x96\x81", 3);
        else ok = ok && gguf_append(b, &bytes[i], 1);
    }
    return ok;
}

/* Two pairs of symbols can give the same text ("a" "bc" and "ab" "c"), but no two tokens may have the same one. */
static int is_known(const vocab *v, size_t at) {
    int i;
    for (i = 0; i < v->n_tokens; i++)
        if (v->tokens[i].size == v->text.size - at &&
            memcmp(v->text.data + v->tokens[i].at, v->text.data + at, v->tokens[i].size) == 0) return 1;
    return 0;
}

/* Give the vocabulary a token whose text was appended since `at`. */
static int add_token(vocab *v, size_t at, int type, float score) {
    token *t = &v->tokens[v->n_tokens];
    if (v->n_tokens >= v->capacity) return 0;
    t->at = at;
    t->size = v->text.size - at;
    t->type = type;
    t->score = score;
    v->n_tokens++;
    return 1;
}

static int add_named(vocab *v, const char *name, int type, float score) {
    size_t at = v->text.size;
    return gguf_append(&v->text, name, strlen(name)) && add_token(v, at, type, score);
}

/* Unused tokens, up to n_tokens in all. */
static int add_fillers(vocab *v, int n_tokens) {
    char name[64];
    int i;
    for (i = 0; v->n_tokens < n_tokens; i++) {
        (void)snprintf(name, sizeof name, "<|unused_%d|>", i);
        if (!add_named(v, name, TOKEN_UNUSED, 0)) return 0;
    }
    return 1;
}

static int add_specials(vocab *v, const special_set *set, int n) {
    int i, reserved = 0;
    v->first_special = v->n_tokens;
    v->n_special = n;
    for (i = 0; i < n; i++) {
        char name[64];
        const char *text = i < 16 ? set->text[i] : NULL;
        if (text == NULL) {
            (void)snprintf(name, sizeof name, "<|reserved_special_token_%d|>", reserved++);
            text = name;
        }
        if (!add_named(v, text, i == set->unk ? TOKEN_UNKNOWN : TOKEN_CONTROL, 0)) return 0;
    }
    return 1;
}

/* Byte-level BPE: 256 bytes in the order of their letters, then one token for each merge. */
static int add_bpe(vocab *v, const merge_pair *merges, int n_merges) {
    int i, pass, ok = 1;
    for (pass = 0; pass < 2; pass++)        /* bytes that are their own letter come first */
        for (i = 0; i < 256; i++) {
            int printable = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
            size_t at = v->text.size;
            if (printable != (pass == 0)) continue;
            ok = ok && append_byte_letter(&v->text, i) && add_token(v, at, TOKEN_NORMAL, 0);
        }
    for (i = 0; i < n_merges; i++) {
        size_t at = v->text.size;
        ok = ok && append_symbol(&v->text, 256 + i, merges, 0);
        if (ok && !is_known(v, at)) ok = add_token(v, at, TOKEN_NORMAL, 0);
        if (!ok) break;
        at = v->text.size;
        ok = append_symbol(&v->text, merges[i].left, merges, 0) && gguf_append(&v->text, " ", 1) &&
             append_symbol(&v->text, merges[i].right, merges, 0);
        v->merges[i].at = at;
        v->merges[i].size = v->text.size - at;
    }
    v->n_merges = n_merges;
    return ok;
}

/* SPM: 256 byte tokens, the merged pieces with score -rank, so that the earliest merge wins, then single characters. */
static int add_spm(vocab *v, const merge_pair *merges, int n_merges) {
    int i, ok = 1;
    for (i = 0; i < 256; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        ok = ok && add_named(v, name, TOKEN_BYTE, 0);
    }
    for (i = 0; i < n_merges + 95; i++) {
        size_t at = v->text.size;
        int symbol = i < n_merges ? 256 + i : 32 + i - n_merges;
        ok = ok && append_symbol(&v->text, symbol, merges, 1);
        if (ok && !is_known(v, at)) ok = add_token(v, at, TOKEN_NORMAL, -(float)i);
    }
    return ok;
}

static void free_vocab(vocab *v) {
    free(v->text.data);
    free(v->tokens);
    free(v->merges);
}

/* Tokens that are no merges, with n_special control tokens: every byte, and for SPM every printable character. */
static int fixed_tokens(const special_set *set, int n_special, int spm) {
    return 256 + n_special + (spm ? 95 : 0) + (set->last[0] != NULL ? 2 : 0);
}

/* Build n_vocab tokens. 0 when memory runs out. */
static int build_vocab(vocab *v, int n_vocab, const special_set *set, int spm) {
    merge_pair *merges = (merge_pair *)malloc(MAX_MERGES * sizeof *merges);
    int n_special = n_vocab == set->full_vocab ? set->count_full : set->count;
    int room = n_vocab - fixed_tokens(set, n_special, spm);
    int after = (set->first ? 0 : n_special) + (set->last[0] != NULL ? 2 : 0);
    int n_merges = -1, ok;
    memset(v, 0, sizeof *v);
    v->capacity = n_vocab;
    v->tokens = (token *)calloc((size_t)n_vocab, sizeof *v->tokens);
    v->merges = (token *)calloc(MAX_MERGES, sizeof *v->merges);
    if (merges != NULL) n_merges = learn_merges(merges, room < MAX_MERGES ? room : MAX_MERGES, spm);
    ok = n_merges >= 0 && v->tokens != NULL && v->merges != NULL;
    if (ok && set->first) ok = add_specials(v, set, n_special);
    if (ok) ok = spm ? add_spm(v, merges, n_merges) : add_bpe(v, merges, n_merges);
    if (ok) ok = add_fillers(v, n_vocab - after);
    if (ok && !set->first) ok = add_specials(v, set, n_special);
    if (ok && set->last[0] != NULL)
        ok = add_named(v, set->last[0], TOKEN_CONTROL, 0) && add_named(v, set->last[1], TOKEN_USER, 0);
    free(merges);
    return ok;
}

/* ==== the plan ===================================================================================================

   Every tensor of the file in order, with what fills it. Sizes are known before anything is written. */

typedef enum fill { FILL_TERNARY, FILL_NORMAL, FILL_NORM, FILL_FREQS } fill;

typedef struct tensor {
    char name[64];
    fill what;
    const storage *type;
    uint64_t n_cols, n_rows;    /* n_rows 0: one dimension only */
    float scale;                /* of ternary weights; of embeddings, what random_row calls unit */
    uint64_t key, bytes;
} tensor;

typedef struct plan {
    tensor *tensors;
    int n, capacity;
    uint64_t seed;
    char error[200];            /* why the last tensor cannot be, "" if all can */
} plan;

/* The scale of a matrix with n_cols columns: 0.9 to 1.1 times 1/sqrt(0.625 n_cols), since 0.625 of the codes are not
   zero; rounded to bfloat16. It depends on the tensor too, so that a mix-up of two scales shows. */
static float ternary_scale(uint64_t key, uint64_t n_cols) {
    double jitter = (double)(230 + random_word(key, UINT64_MAX / 2) % 53) / 256.0;
    return bits_float(f32_to_bf16((float)(jitter / sqrt(0.625 * (double)n_cols))) << 16);
}

/* Rows that must be packed in one go: a multiple of row_group that makes whole blocks. */
static uint64_t unit_rows(const tensor *t) {
    uint64_t rows = t->type->row_group;
    if (rows == 0) return t->n_rows;
    while (rows * t->n_cols % t->type->block != 0) rows += t->type->row_group;
    return rows;
}

/* 1 if the tensor's type can hold it. */
static int can_hold(const tensor *t) {
    const storage *type = t->type;
    uint64_t rows = t->n_rows > 0 ? t->n_rows : 1;
    if ((type->flat ? rows * t->n_cols : t->n_cols) % type->block != 0) return 0;
    if (type->row_group > 0 && rows % type->row_group != 0) return 0;
    return stored_size(type, rows, t->n_cols) > 0;
}

/* Add a tensor; layer < 0: its name is name, else blk.<layer>.<name>; ".weight" is appended. */
static void plan_tensor(plan *p, fill what, const storage *type, uint64_t n_cols, uint64_t n_rows, int layer,
                        const char *name) {
    tensor *t = &p->tensors[p->n];
    if (p->error[0] != 0 || p->n >= p->capacity) return;
    if (layer < 0) (void)snprintf(t->name, sizeof t->name, "%s.weight", name);
    else (void)snprintf(t->name, sizeof t->name, "blk.%d.%s.weight", layer, name);
    t->what = what;
    t->type = type;
    t->n_cols = n_cols;
    t->n_rows = n_rows;
    t->key = tensor_key(p->seed, t->name);
    t->scale = what == FILL_TERNARY ? ternary_scale(t->key, n_cols) : (float)(2.5 / 37837.227 / sqrt((double)n_cols));
    t->bytes = stored_size(type, n_rows > 0 ? n_rows : 1, n_cols) + type->tail;
    if (!can_hold(t))
        (void)snprintf(p->error, sizeof p->error, "%s cannot hold %s, %llu columns and %llu rows", type->name, t->name,
                       (unsigned long long)n_cols, (unsigned long long)n_rows);
    p->n++;
}

/* One layer, in the order of the graph. */
static void plan_layer(plan *p, const options *o, int layer) {
    const family *f = o->family;
    const shape *s = &o->dims;
    const storage *norm = find_storage(f->f16_norms ? "f16" : "f32");
    uint64_t embd = (uint64_t)s->n_embd, ff = (uint64_t)s->n_ff, head = (uint64_t)s->head_dim;
    uint64_t q = (uint64_t)s->n_head * head, kv = (uint64_t)s->n_head_kv * head;
    const struct { const char *norm, *name; uint64_t n_cols, n_rows; } products[7] = {
        {"attn_q_norm_in", "attn_q", embd, q},     {"attn_k_norm_in", "attn_k", embd, kv},
        {"attn_v_norm_in", "attn_v", embd, kv},    {"attn_output_norm_in", "attn_output", q, embd},
        {"ffn_gate_norm_in", "ffn_gate", embd, ff}, {"ffn_up_norm_in", "ffn_up", embd, ff},
        {"ffn_down_norm_in", "ffn_down", ff, embd}};
    int i;
    plan_tensor(p, FILL_NORM, norm, embd, 0, layer, "attn_norm");
    for (i = 0; i < 7; i++) {
        if (i == 3 && f->head_norms) plan_tensor(p, FILL_NORM, norm, head, 0, layer, "attn_q_norm");
        if (i == 3 && f->head_norms) plan_tensor(p, FILL_NORM, norm, head, 0, layer, "attn_k_norm");
        if (i == 3 && f->sub_norms) plan_tensor(p, FILL_NORM, norm, q, 0, layer, "attn_sub_norm");
        if (i == 4 && f->post_norms) plan_tensor(p, FILL_NORM, norm, embd, 0, layer, "post_attention_norm");
        if (i == 4) plan_tensor(p, FILL_NORM, norm, embd, 0, layer, "ffn_norm");
        if (i == 6 && f->sub_norms) plan_tensor(p, FILL_NORM, norm, ff, 0, layer, "ffn_sub_norm");
        if (f->input_norms) plan_tensor(p, FILL_NORM, norm, products[i].n_cols, 0, layer, products[i].norm);
        plan_tensor(p, FILL_TERNARY, o->type, products[i].n_cols, products[i].n_rows, layer, products[i].name);
    }
    if (f->post_norms) plan_tensor(p, FILL_NORM, norm, embd, 0, layer, "post_ffw_norm");
}

/* The whole model. 0 when memory runs out or a format cannot hold a tensor; then p->error says why. */
static int make_plan(plan *p, const options *o) {
    const shape *s = &o->dims;
    const storage *norm = find_storage(o->family->f16_norms ? "f16" : "f32");
    int layer;
    memset(p, 0, sizeof *p);
    p->seed = o->seed;
    p->capacity = 4 + 32 * s->n_layer;
    p->tensors = (tensor *)calloc((size_t)p->capacity, sizeof *p->tensors);
    if (p->tensors == NULL) {
        (void)snprintf(p->error, sizeof p->error, "out of memory");
        return 0;
    }
    plan_tensor(p, FILL_NORMAL, o->head, (uint64_t)s->n_embd, (uint64_t)s->n_vocab, -1, "token_embd");
    if (o->rope_freqs) plan_tensor(p, FILL_FREQS, find_storage("f32"), (uint64_t)s->head_dim / 2, 0, -1, "rope_freqs");
    for (layer = 0; layer < s->n_layer; layer++) plan_layer(p, o, layer);
    plan_tensor(p, FILL_NORM, norm, (uint64_t)s->n_embd, 0, -1, "output_norm");
    if (!o->tied) plan_tensor(p, FILL_NORMAL, o->head, (uint64_t)s->n_embd, (uint64_t)s->n_vocab, -1, "output");
    return p->error[0] == 0;
}

/* ==== keys ======================================================================================================= */

static const char *arch_key(char *to, size_t room, const char *arch, const char *name) {
    (void)snprintf(to, room, "%s.%s", arch, name);
    return to;
}

static void write_tokens(gguf_writer *w, const vocab *v) {
    int i;
    gguf_array(w, "tokenizer.ggml.tokens", GGUF_STR, (uint64_t)v->n_tokens);
    for (i = 0; i < v->n_tokens; i++)
        gguf_put_str(w, (const char *)v->text.data + v->tokens[i].at, v->tokens[i].size);
}

static void write_scores(gguf_writer *w, const vocab *v) {
    int i;
    gguf_array(w, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)v->n_tokens);
    for (i = 0; i < v->n_tokens; i++) gguf_put_f32(w, v->tokens[i].score);
}

static void write_types(gguf_writer *w, const vocab *v) {
    int i;
    gguf_array(w, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)v->n_tokens);
    for (i = 0; i < v->n_tokens; i++) gguf_put_i32(w, v->tokens[i].type);
}

static void write_merges(gguf_writer *w, const vocab *v) {
    int i;
    gguf_array(w, "tokenizer.ggml.merges", GGUF_STR, (uint64_t)v->n_merges);
    for (i = 0; i < v->n_merges; i++)
        gguf_put_str(w, (const char *)v->text.data + v->merges[i].at, v->merges[i].size);
}

/* A control token's id; the key is left out when the family has none. */
static void write_special(gguf_writer *w, const vocab *v, const char *key, int index) {
    if (index >= 0) gguf_kv_u32(w, key, (uint32_t)(v->first_special + index));
}

/* Hyper-parameters: keys that begin with the architecture's name. 0 if id is none of them. */
static int write_dimension(gguf_writer *w, const options *o, key_id id) {
    const char *arch = o->family->arch;
    const shape *s = &o->dims;
    static const struct { key_id id; const char *name; } names[] = {
        {KEY_VOCAB_SIZE, "vocab_size"}, {KEY_CONTEXT, "context_length"}, {KEY_EMBD, "embedding_length"},
        {KEY_BLOCKS, "block_count"}, {KEY_FF, "feed_forward_length"}, {KEY_HEADS, "attention.head_count"},
        {KEY_HEADS_KV, "attention.head_count_kv"}, {KEY_ROPE_DIM, "rope.dimension_count"},
        {KEY_HEAD_DIM, "attention.key_length"}, {KEY_HEAD_DIM, "attention.value_length"},
        {KEY_EPS, "attention.layer_norm_rms_epsilon"}, {KEY_THETA, "rope.freq_base"},
        {KEY_ROPE_LINEAR, "rope.scaling.type"}, {KEY_ROPE_LINEAR, "rope.scaling.factor"},
        {KEY_POOLING_MEAN, "pooling_type"}};
    const int value[] = {s->n_vocab, s->n_ctx, s->n_embd, s->n_layer, s->n_ff, s->n_head, s->n_head_kv, s->head_dim,
                         s->head_dim, s->head_dim, 0, 0, 0, 0, 1};
    char key[96];
    size_t i;
    int found = 0;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].id != id) continue;
        found = 1;
        arch_key(key, sizeof key, arch, names[i].name);
        if (id == KEY_EPS) gguf_kv_f32(w, key, o->family->eps);
        else if (id == KEY_THETA) gguf_kv_f32(w, key, o->family->theta);
        else if (strcmp(names[i].name, "rope.scaling.type") == 0) gguf_kv_str(w, key, "linear");
        else if (strcmp(names[i].name, "rope.scaling.factor") == 0) gguf_kv_f32(w, key, 1.0f);
        else gguf_kv_u32(w, key, (uint32_t)value[i]);
    }
    return found;
}

static int has_key(const key_id *keys, key_id id) {
    while (*keys != KEY_END && *keys != id) keys++;
    return *keys == id;
}

/* One key of the tokenizer or of the file in general. */
static void write_key(gguf_writer *w, const options *o, const vocab *v, const special_set *set, key_id id) {
    const key_id *keys = o->family->keys;
    char name[128];
    switch (id) {
    case KEY_NAME:
        (void)snprintf(name, sizeof name, "synth %s %s seed %llu", o->family->name, o->dims.name,
                       (unsigned long long)o->seed);
        gguf_kv_str(w, "general.name", name);
        break;
    case KEY_FILE_TYPE: gguf_kv_u32(w, "general.file_type", o->type->file_type); break;
    case KEY_QUANT_VERSION: gguf_kv_u32(w, "general.quantization_version", 2); break;
    case KEY_MODEL: gguf_kv_str(w, "tokenizer.ggml.model", o->spm ? "llama" : "gpt2"); break;
    case KEY_PRE: if (o->pre != NULL) gguf_kv_str(w, "tokenizer.ggml.pre", o->pre); break;
    case KEY_TOKENS: write_tokens(w, v); break;
    case KEY_SCORES: write_scores(w, v); break;
    case KEY_TYPES:
        /* The other kind of tokenizer than the family's own: what it needs stands here. */
        if (o->spm && !has_key(keys, KEY_SCORES)) write_scores(w, v);
        write_types(w, v);
        if (!o->spm && !has_key(keys, KEY_MERGES)) write_merges(w, v);
        break;
    case KEY_MERGES: if (!o->spm) write_merges(w, v); break;
    case KEY_BOS: write_special(w, v, "tokenizer.ggml.bos_token_id", set->bos); break;
    case KEY_EOS: write_special(w, v, "tokenizer.ggml.eos_token_id", set->eos); break;
    case KEY_EOT: write_special(w, v, "tokenizer.ggml.eot_token_id", set->eot); break;
    case KEY_UNK: write_special(w, v, "tokenizer.ggml.unknown_token_id", set->unk); break;
    case KEY_PAD:
        write_special(w, v, "tokenizer.ggml.padding_token_id",
                      set->last[0] != NULL ? v->n_tokens - 2 - v->first_special : set->pad);
        break;
    case KEY_ADD_BOS_TRUE: gguf_kv_bool(w, "tokenizer.ggml.add_bos_token", 1); break;
    case KEY_ADD_BOS_FALSE: gguf_kv_bool(w, "tokenizer.ggml.add_bos_token", 0); break;
    case KEY_ADD_EOS_TRUE: gguf_kv_bool(w, "tokenizer.ggml.add_eos_token", 1); break;
    case KEY_ADD_EOS_FALSE: gguf_kv_bool(w, "tokenizer.ggml.add_eos_token", 0); break;
    case KEY_SPACE_PREFIX_FALSE: gguf_kv_bool(w, "tokenizer.ggml.add_space_prefix", 0); break;
    case KEY_TEMPLATE:
        if (o->family->chat_template != NULL) gguf_kv_str(w, "tokenizer.chat_template", o->family->chat_template);
        break;
    default: (void)write_dimension(w, o, id); break;
    }
    /* Heads of another width than embedding / heads have to be stated, also where the family's files don't. */
    if (id == KEY_HEADS_KV && !has_key(keys, KEY_HEAD_DIM) && o->dims.head_dim * o->dims.n_head != o->dims.n_embd)
        (void)write_dimension(w, o, KEY_HEAD_DIM);
}

/* All keys and tensor records into the writer. 0 when memory runs out. */
static int write_header(gguf_writer *w, const options *o, const plan *p) {
    const special_set *set = o->family->specials;
    const key_id *id;
    vocab v;
    int i, ok;
    if (o->spm != o->family->spm) set = o->spm ? &spm_specials : &llama3_specials;
    ok = build_vocab(&v, o->dims.n_vocab, set, o->spm);
    if (!ok) (void)gguf_fail(w, "out of memory");
    gguf_kv_str(w, "general.architecture", o->family->arch);
    for (id = o->family->keys; ok && *id != KEY_END; id++) write_key(w, o, &v, set, *id);
    for (i = 0; i < p->n; i++) {
        const tensor *t = &p->tensors[i];
        uint64_t ne[2];
        ne[0] = t->n_cols;
        ne[1] = t->n_rows;
        gguf_tensor(w, t->name, t->n_rows > 0 ? 2 : 1, ne, t->type->id, t->bytes);
    }
    free_vocab(&v);
    return gguf_ok(w);
}

/* ==== writing ====================================================================================================

   Threads make chunks of rows and write them in order, each when its turn comes: one writes while others compute. */

enum { CHUNK_WEIGHTS = 1 << 21 };

typedef struct progress {
    int shown;                  /* 1: stderr is a terminal */
    time_t last;
    uint64_t done, total;       /* bytes */
} progress;

static void show_progress(progress *p, uint64_t more) {
    time_t now = p->shown ? time(NULL) : 0;
    p->done += more;
    if (!p->shown || now == p->last) return;
    p->last = now;
    fprintf(stderr, "\r%3d %%", (int)(100.0 * (double)p->done / (double)p->total));
    fflush(stderr);
}

/* Rows [row, row + n) of a tensor as they stand in the file. scratch: room for n * n_cols codes or for n_cols codes
   and n_cols floats, whichever is more. Returns the number of bytes. */
static size_t make_rows(const tensor *t, uint64_t row, uint64_t n, uint8_t *to, uint8_t *scratch) {
    const storage *type = t->type;
    size_t cols = (size_t)t->n_cols, r, k;
    float *x = (float *)(void *)scratch;
    uint8_t *codes = scratch + (type->pack != NULL ? 0 : 4 * cols);
    for (r = 0; r < n; r++) {
        uint64_t key = random_word(t->key, row + r);
        if (t->what == FILL_TERNARY) random_codes(type->pack != NULL ? codes + r * cols : codes, key, cols);
        if (type->pack != NULL) continue;
        switch (t->what) {
        case FILL_TERNARY: for (k = 0; k < cols; k++) x[k] = (float)(codes[k] - 1) * t->scale; break;
        case FILL_NORMAL: random_row(x, key, cols, t->scale); break;
        case FILL_NORM: random_norm(x, key, cols); break;
        case FILL_FREQS: for (k = 0; k < cols; k++) x[k] = 1.0f + (float)(7 * k) / (float)cols; break;
        }
        type->encode(to + r * (size_t)stored_size(type, 1, cols), x, cols);
    }
    if (type->pack != NULL) type->pack(to, codes, (size_t)n, cols, t->scale);
    return (size_t)stored_size(type, n, t->n_cols);
}

/* The work on one tensor. Fields below the lock are shared. */
typedef struct job {
    gguf_writer *w;
    const tensor *t;
    progress *bar;
    uint64_t first, last, step; /* rows [first, last) in chunks of step rows */
    pthread_mutex_t lock;
    pthread_cond_t turn;
    uint64_t next;              /* first row that nobody has taken */
    uint64_t written;           /* first row that is not in the file */
    int failed;
} job;

/* Write a chunk when all rows before it are in the file. 0: somebody failed. */
static int write_in_turn(job *j, uint64_t row, uint64_t n, const uint8_t *bytes, size_t size) {
    int ok;
    pthread_mutex_lock(&j->lock);
    while (j->written != row && !j->failed) pthread_cond_wait(&j->turn, &j->lock);
    ok = !j->failed;
    pthread_mutex_unlock(&j->lock);
    /* Only the thread whose turn it is comes here, so the writer is used by one thread at a time. */
    if (ok && stopped) ok = gguf_fail(j->w, "interrupted");
    ok = ok && gguf_write(j->w, bytes, size);
    if (ok) show_progress(j->bar, size);
    pthread_mutex_lock(&j->lock);
    if (ok) j->written = row + n;
    else j->failed = 1;
    pthread_cond_broadcast(&j->turn);
    pthread_mutex_unlock(&j->lock);
    return ok;
}

static void *work(void *argument) {
    job *j = (job *)argument;
    const tensor *t = j->t;
    size_t n_max = (size_t)(j->step < j->last - j->first ? j->step : j->last - j->first), cols = (size_t)t->n_cols;
    size_t room = (size_t)stored_size(t->type, n_max, cols);
    uint8_t *bytes = (uint8_t *)malloc(room), *scratch = (uint8_t *)malloc(cols * (n_max + 5));
    int ok = bytes != NULL && scratch != NULL;      /* if not, other threads may have what this one lacks */
    while (ok) {
        uint64_t row, n;
        pthread_mutex_lock(&j->lock);
        row = j->next;
        n = row < j->last ? (j->last - row < j->step ? j->last - row : j->step) : 0;
        j->next = row + n;
        ok = n > 0 && !j->failed;
        pthread_mutex_unlock(&j->lock);
        if (ok) ok = write_in_turn(j, row, n, bytes, make_rows(t, row, n, bytes, scratch));
    }
    free(bytes);
    free(scratch);
    return NULL;
}

/* Rows [first, last) of t, by n_threads threads, this one among them. */
static int write_rows(gguf_writer *w, const tensor *t, uint64_t first, uint64_t last, int n_threads, progress *bar) {
    enum { MAX_THREADS = 16 };
    pthread_t threads[MAX_THREADS];
    uint64_t unit = unit_rows(t), units = CHUNK_WEIGHTS / (unit * t->n_cols);
    int n = 0;
    job j;
    if (first >= last) return gguf_ok(w);
    memset(&j, 0, sizeof j);
    j.w = w;
    j.t = t;
    j.bar = bar;
    j.first = j.next = j.written = first;
    j.last = last;
    j.step = unit * (units > 0 ? units : 1);
    pthread_mutex_init(&j.lock, NULL);
    pthread_cond_init(&j.turn, NULL);
    while (n + 1 < n_threads && n < MAX_THREADS && (uint64_t)(n + 1) * j.step < last - first &&
           pthread_create(&threads[n], NULL, work, &j) == 0)
        n++;
    (void)work(&j);
    while (n > 0) pthread_join(threads[--n], NULL);
    pthread_cond_destroy(&j.turn);
    pthread_mutex_destroy(&j.lock);
    if (j.written < last) (void)gguf_fail(w, "out of memory");
    return gguf_ok(w);
}

/* One tensor. In a sparse file matrices are holes (I2_S code 0, that is -1; embeddings 0), except the last rows, so
   that a test can look at bytes anywhere in the file, and the first 256 rows of embeddings, which a prompt needs. */
static int write_tensor(gguf_writer *w, const tensor *t, const options *o, progress *bar) {
    uint8_t tail[64];
    uint64_t rows = t->n_rows > 0 ? t->n_rows : 1, first = 0;
    if (o->dims.sparse && t->n_rows > 0) {
        uint64_t unit = unit_rows(t), last = rows > unit ? rows - unit : 0;
        uint64_t head = t->what == FILL_NORMAL ? 256 : 0;
        if (head > last) head = last;
        if (!write_rows(w, t, 0, head, 1, bar)) return 0;
        if (!gguf_skip(w, last > head ? stored_size(t->type, last - head, t->n_cols) : 0)) return 0;
        first = last;
    }
    if (!write_rows(w, t, first, rows, o->threads, bar)) return 0;
    memset(tail, 0, sizeof tail);
    put_f32(tail, t->scale);
    return gguf_write(w, tail, t->type->tail);
}

/* The file. 0: w->error says why there is none. */
static int write_model(gguf_writer *w, const options *o, const plan *p) {
    progress bar;
    int i;
    memset(&bar, 0, sizeof bar);
    bar.shown = isatty(2);
    for (i = 0; i < p->n; i++) bar.total += p->tensors[i].bytes;
    if (write_header(w, o, p)) (void)gguf_open(w, o->output);
    for (i = 0; i < p->n && gguf_ok(w); i++) {
        if (stopped) (void)gguf_fail(w, "interrupted");
        (void)write_tensor(w, &p->tensors[i], o, &bar);
    }
    if (bar.shown && bar.last != 0) fprintf(stderr, "\r     \r");
    return gguf_close(w);
}

/* ==== main ======================================================================================================= */

static const char usage[] =
    "usage: synth [options] -o OUT.gguf\n"
    "Write a model of random ternary weights that engines can load, with a small working tokenizer.\n"
    "  -o, --output FILE   the file to write\n"
    "  --family NAME       graph, keys and tokenizer (default: the shape's own)\n"
    "  --shape NAME        dimensions (default tiny)\n"
    "  --type NAME         storage of the ternary matrices (default i2_s)\n"
    "  --layout a|b|c|d    bit layout of i2_s (default a)\n"
    "  --head NAME         storage of token_embd and output (default f16)\n"
    "  --seed N            another model of the same kind (default 0)\n"
    "  --layers N --embd N --ff N --heads N --kv-heads N --head-dim N --vocab N --ctx N   change a dimension\n"
    "  --tied --untied     without or with output.weight\n"
    "  --rope-freqs        with rope_freqs.weight: factors 1 to 8\n"
    "  --tokenizer bpe|spm and --pre NAME|none   change the tokenizer\n"
    "  --sparse            leave holes instead of weights (shape 70b always does)\n"
    "  --threads N         1 to 16; the file does not depend on it\n"
    "  --list              names of families, shapes and storages\n"
    "  --help --version\n";

#if defined(__GNUC__)
static int bad_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
#endif

/* The reason on stderr; returns the exit code of wrong usage. */
static int bad_usage(const char *format, ...) {
    va_list args;
    fprintf(stderr, "synth: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\nTry synth --help.\n");
    return 2;
}

static void print_list(void) {
    size_t i;
    printf("families:\n");
    for (i = 0; i < N_FAMILIES; i++) printf("  %-13s %s\n", families[i].name, families[i].about);
    printf("shapes:\n");
    for (i = 0; i < N_SHAPES; i++) printf("  %-13s %s\n", shapes[i].name, shapes[i].about);
    printf("types:\n ");
    for (i = 0; i < N_STORAGES; i++)
        if (i == 0 || strcmp(storages[i].name, storages[i - 1].name) != 0) printf(" %s", storages[i].name);
    printf("\nheads:\n ");
    for (i = 0; i < N_STORAGES; i++)
        if (storages[i].encode != NULL) printf(" %s", storages[i].name);
    printf("\n");
}

/* The options as they were typed: NULL or -1 where one was not. */
typedef struct typed {
    const char *family, *shape, *type, *layout, *head, *seed, *tokenizer, *pre, *output, *threads;
    const char *dimension[8];   /* layers, embd, ff, heads, kv-heads, head-dim, vocab, ctx */
    int tied, rope_freqs, sparse;
} typed;

static const char *const dimension_names[8] = {"layers", "embd", "ff", "heads", "kv-heads", "head-dim", "vocab", "ctx"};

/* Where the value of option `name` (without dashes) goes; NULL: there is no such option. */
static const char **value_place(typed *t, const char *name) {
    const struct { const char *name; const char **place; } table[] = {
        {"family", &t->family}, {"shape", &t->shape}, {"type", &t->type}, {"layout", &t->layout}, {"head", &t->head},
        {"seed", &t->seed}, {"tokenizer", &t->tokenizer}, {"pre", &t->pre}, {"output", &t->output},
        {"threads", &t->threads}};
    size_t i;
    for (i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].place;
    for (i = 0; i < 8; i++)
        if (strcmp(dimension_names[i], name) == 0) return &t->dimension[i];
    return NULL;
}

/* Options without a value. 0: none of them. */
static int set_switch(typed *t, const char *name) {
    if (strcmp(name, "tied") == 0) t->tied = 1;
    else if (strcmp(name, "untied") == 0) t->tied = 0;
    else if (strcmp(name, "rope-freqs") == 0) t->rope_freqs = 1;
    else if (strcmp(name, "sparse") == 0) t->sparse = 1;
    else return 0;
    return 1;
}

/* Read the command line: --name value, --name=value, -o file. 0, or the exit code of wrong usage. */
static int parse_arguments(typed *t, int argc, char **argv) {
    int i;
    memset(t, 0, sizeof *t);
    t->tied = -1;
    for (i = 1; i < argc; i++) {
        char name[32];
        const char *argument = strcmp(argv[i], "-o") == 0 ? "--output" : argv[i];
        const char *equals = strchr(argument, '=');
        size_t length = equals != NULL ? (size_t)(equals - argument) : strlen(argument);
        const char **place;
        if (strncmp(argument, "--", 2) != 0) return bad_usage("unexpected argument %s", argv[i]);
        if (length >= sizeof name) return bad_usage("unknown option %s", argv[i]);
        memcpy(name, argument + 2, length - 2);
        name[length - 2] = 0;
        if (equals == NULL && set_switch(t, name)) continue;
        place = value_place(t, name);
        if (place == NULL) return bad_usage("unknown option %s", argv[i]);
        if (equals == NULL && i + 1 >= argc) return bad_usage("option %s needs a value", argv[i]);
        *place = equals != NULL ? equals + 1 : argv[++i];
    }
    return 0;
}

/* A decimal number without sign, at most max. */
static int parse_number(const char *text, uint64_t max, uint64_t *value) {
    uint64_t v = 0;
    if (*text == 0) return 0;
    for (; *text != 0; text++) {
        uint64_t digit = (uint64_t)(*text - '0');
        if (!is_digit((unsigned char)*text) || v > (max - digit) / 10) return 0;
        v = 10 * v + digit;
    }
    *value = v;
    return v <= max;
}

/* Replace the shape's dimensions by those typed, and check that they fit together. */
static int choose_dimensions(options *o, const typed *t) {
    shape *s = &o->dims;
    int *const place[8] = {&s->n_layer, &s->n_embd, &s->n_ff, &s->n_head, &s->n_head_kv, &s->head_dim, &s->n_vocab,
                           &s->n_ctx};
    static const int max[8] = {1000, 1 << 20, 1 << 20, 1 << 12, 1 << 12, 1 << 12, 1 << 24, 1 << 30};
    const special_set *set = o->spm == o->family->spm ? o->family->specials : o->spm ? &spm_specials : &llama3_specials;
    int i;
    for (i = 0; i < 8; i++) {
        uint64_t v;
        if (t->dimension[i] == NULL) continue;
        if (!parse_number(t->dimension[i], (uint64_t)max[i], &v) || v == 0)
            return bad_usage("--%s needs a number from 1 to %d, not %s", dimension_names[i], max[i], t->dimension[i]);
        *place[i] = (int)v;
    }
    if (s->n_head % s->n_head_kv != 0)
        return bad_usage("%d heads are not a multiple of %d kv heads", s->n_head, s->n_head_kv);
    if (s->head_dim % 2 != 0) return bad_usage("rope needs an even head-dim, not %d", s->head_dim);
    if (s->n_vocab < fixed_tokens(set, set->count, o->spm))
        return bad_usage("this tokenizer needs a vocab of at least %d", fixed_tokens(set, set->count, o->spm));
    return 0;
}

/* Names to pointers. */
static int choose_names(options *o, const typed *t) {
    const char *shape_name = t->shape != NULL ? t->shape : "tiny", *name;
    size_t i;
    for (i = 0; i < N_SHAPES && strcmp(shapes[i].name, shape_name) != 0; i++) {}
    if (i == N_SHAPES) return bad_usage("unknown shape %s; see --list", shape_name);
    o->dims = shapes[i];
    if (t->sparse) o->dims.sparse = 1;
    name = t->family != NULL ? t->family : o->dims.family;
    for (i = 0; i < N_FAMILIES && strcmp(families[i].name, name) != 0; i++) {}
    if (i == N_FAMILIES) return bad_usage("unknown family %s; see --list", name);
    o->family = &families[i];
    name = t->type != NULL ? t->type : "i2_s";
    if ((o->type = find_storage(name)) == NULL) return bad_usage("unknown type %s; see --list", name);
    if (t->layout != NULL) {
        if (strcmp(name, "i2_s") != 0) return bad_usage("--layout is for i2_s, not for %s", name);
        if (strlen(t->layout) != 1 || t->layout[0] < 'a' || t->layout[0] > 'd')
            return bad_usage("--layout is a, b, c or d, not %s", t->layout);
        o->type += t->layout[0] - 'a';
    }
    name = t->head != NULL ? t->head : "f16";
    o->head = find_storage(name);
    if (o->head == NULL || o->head->encode == NULL) return bad_usage("%s is no type for a head; see --list", name);
    return 0;
}

/* All options with their defaults. 0, or the exit code of wrong usage. */
static int choose(options *o, const typed *t) {
    uint64_t n = 1;
    int code = choose_names(o, t);
    if (code != 0) return code;
    o->tied = t->tied >= 0 ? t->tied : o->family->tied;
    o->rope_freqs = t->rope_freqs;
    o->output = t->output;
    if (o->output == NULL || *o->output == 0) return bad_usage("no output file; give -o FILE");
    if (t->seed != NULL && !parse_number(t->seed, UINT64_MAX, &o->seed)) return bad_usage("bad seed %s", t->seed);
    o->spm = o->family->spm;
    if (t->tokenizer != NULL) {
        o->spm = strcmp(t->tokenizer, "spm") == 0;
        if (!o->spm && strcmp(t->tokenizer, "bpe") != 0)
            return bad_usage("--tokenizer is bpe or spm, not %s", t->tokenizer);
    }
    o->pre = o->spm == o->family->spm ? o->family->pre : o->spm ? "default" : "llama-bpe";
    if (t->pre != NULL) o->pre = t->pre;
    if (o->pre != NULL && strcmp(o->pre, "none") == 0) o->pre = NULL;
#if defined(_SC_NPROCESSORS_ONLN)
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) n = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (n > 4) n = 4;       /* the disk is the limit then */
#endif
    if (t->threads != NULL && (!parse_number(t->threads, 16, &n) || n == 0))
        return bad_usage("--threads needs a number from 1 to 16, not %s", t->threads);
    o->threads = (int)n;
    return choose_dimensions(o, t);
}

int main(int argc, char **argv) {
    typed arguments;
    options o;
    plan p;
    gguf_writer w;
    int i, code;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return fputs(usage, stdout) < 0;
        if (strcmp(argv[i], "--version") == 0) return printf("synth %s\n", SYNTH_VERSION) < 0;
        if (strcmp(argv[i], "--list") == 0) {
            print_list();
            return 0;
        }
    }
    memset(&o, 0, sizeof o);
    code = parse_arguments(&arguments, argc, argv);
    if (code == 0) code = choose(&o, &arguments);
    if (code != 0) return code;
    if (!make_plan(&p, &o)) {
        fprintf(stderr, "synth: %s\n", p.error);
        free(p.tensors);
        return 2;
    }
    (void)signal(SIGINT, on_signal);
    (void)signal(SIGTERM, on_signal);
#if defined(SIGXFSZ)
    (void)signal(SIGXFSZ, SIG_IGN);     /* a file size limit is then an error of write like a full disk */
#endif
    gguf_writer_init(&w);
    code = write_model(&w, &o, &p) ? 0 : 1;
    if (code != 0) fprintf(stderr, "synth: %s\n", w.error);
    free(p.tensors);
    return code;
}
