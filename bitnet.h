/* bitnet.h - run BitNet b1.58 (ternary, "1.58-bit") language models on a CPU. GGUF file in, text out.

   One file, C99 and later or C++11 and later, nothing beyond libc and pthreads. Public domain or MIT, see the end.

   DO THIS
       #define BITNET_IMPLEMENTATION
   in ONE C or C++ file before including this header; include it plainly elsewhere. Then
       cc -O2 app.c -lpthread -lm
   No -march flag: the best kernels the CPU can run are picked at run time.

   EXAMPLE
       #define BITNET_IMPLEMENTATION
       #include "bitnet.h"
       #include <stdio.h>
       static int show(void *user, const char *text, size_t n) { (void)user; fwrite(text, 1, n, stdout); return 0; }
       int main(int argc, char **argv) {
           bitnet_model_desc desc = {0};
           bitnet_generation how = {0};
           bitnet_model *model; bitnet_engine *engine; bitnet_session *session; bitnet_error err;
           desc.path = argc > 1 ? argv[1] : "model.gguf";
           how.max_tokens = 128;
           if (bitnet_model_open(&desc, &model, &err) != BITNET_OK ||
               bitnet_engine_create(model, NULL, &engine, &err) != BITNET_OK ||
               bitnet_session_create(engine, NULL, &session, &err) != BITNET_OK ||
               bitnet_generate(session, "Once upon a time", &how, show, NULL, NULL, &err) != BITNET_OK)
               return fprintf(stderr, "%s\n", err.text), 1;
           return 0;
       }

   STEP BY STEP
       bitnet_model_open        map the file, check it, repack the ternary matrices (about a second for 2.4 billion weights)
       bitnet_engine_create     threads and scratch; one engine advances any number of sessions in one pass
       bitnet_session_create    one conversation: its KV cache and position
       bitnet_chat_tokenize     messages to tokens, by the model's own template
       bitnet_begin             hand over a prompt and the settings
       bitnet_step              compute, for as many microseconds as you can spare
       bitnet_next_event        collect tokens as text
   bitnet_generate is those last three in a loop.

   WHAT IT PROMISES
   - Same bits everywhere: one file and one prompt give the same logits on every instruction set, number of threads,
     batch and prompt split, compiler and optimisation level; same seed, same text. See >>reference.
   - It does not hurt its host: no exit, abort, printf, getenv; no global or thread-local state; no allocation while
     generating; errors are codes with a text; memory, files, log and threads can be the host's.
   - A hostile file gets an error, never a crash.

   WHAT IT DOES NOT
   - Train, convert, serve HTTP: see tools/ and examples/.
   - Run dense (F16, Q4_K, ...) layers: llama.cpp does that well. The matrices of the layers must be ternary.
   - Read models split over several files: join them first.
   - Big-endian GGUF files.

   FORMATS    general.architecture bitnet-b1.58, bitnet-25, bitnet (1bitLLM) and llama (Llama3-8B-1.58, Falcon3, Falcon-E);
              matrices I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0, PQ2_0, IQ1_BN, IQ2_BN, IQ2_BN_R4, also mixed in one layer;
              embedding and output F32, F16, BF16, Q8_0, Q6_K, Q4_0; tokenizers gpt2 (BPE), llama (SPM).
   CPUS       x86: the last of these sets that the CPU runs; weights take 2 bits (R16) or 1.6 (T5), see >>formats
                  ssse3       128-bit pmaddubsw                     R16
                  avx2        256-bit pmaddubsw (with F16C)         R16
                  avxvnni     256-bit vpdpbusd                      R16
                  avx512      512-bit vpdpbusd (Cascade Lake)       R16
                  avx512vbmi  and VBMI, GFNI (Ice Lake, Zen 4)      T5
                  amx         and tiles for 3 tokens and more       T5    only if bitnet_model_desc.allow_amx; Linux
              mingw's gcc: ssse3 at most. AArch64, weights at 2 bits (R16):
                  neon        smlal
                  dotprod     sdot                              Linux and Apple tell; elsewhere only if the build's flags
                  i8mm        and smmla for two tokens or more  have them
              WebAssembly: wasm, SIMD128 (clang --target=wasm32-wasi -msimd128 -DBITNET_NO_THREADS -DBITNET_NO_MMAP), R16.
              Of these four only the bits are tested, under qemu and in node; their speed is not measured.
              Everything else: scalar, plain C, the same bits.
   THREADS    A model may be shared by any number of threads. An engine and its sessions take one call at a time;
              bitnet_cancel may come from anywhere. The engine's own workers sleep whenever no call is running.
   MEMORY     Model: one block for repacked weights and tables; embedding and output matrix stay in the file's mapping,
              beside a copy of a large output matrix as bytes (>>head; bitnet_model_desc.head turns it off).
              (Don't shorten a mapped file while its model is open: the system would raise SIGBUS. no_mmap avoids that.)
              Engine and session: one block each, of a size you can ask for before (bitnet_engine_memory,
              bitnet_session_memory). Nothing else, except scratch while tokenizing.
   ERRORS     Every failing call says why in bitnet_error: a code, a sentence that names the tensor, the byte.

   CONFIGURATION, before the include (the implementation's include, and BITNET_STATIC and BITNET_API everywhere)
       BITNET_IMPLEMENTATION        compile the implementation here
       BITNET_STATIC                make all functions static
       BITNET_API                   what stands before public functions (default: extern)
       BITNET_ASSERT(x)             checks of programming errors (default: none)
       BITNET_NO_STDIO              no <stdio.h>: files by mapping, memory or reader only
       BITNET_NO_MMAP               never map files
       BITNET_NO_THREADS            no pthreads: one thread, or the host's through bitnet_scheduler
       BITNET_NO_SIMD               plain C kernels only
       BITNET_NO_SSSE3, _NO_AVX2, _NO_AVXVNNI, _NO_AVX512, _NO_AVX512VBMI, _NO_AMX, _NO_NEON, _NO_DOTPROD, _NO_I8MM,
       _NO_WASM                     leave a kernel set out
       BITNET_ONLY_SCALAR, _ONLY_SSSE3, _ONLY_AVX2, _ONLY_AVXVNNI, _ONLY_AVX512, _ONLY_AVX512VBMI, _ONLY_AMX, _ONLY_NEON,
       _ONLY_DOTPROD, _ONLY_I8MM, _ONLY_WASM
                                    only this kernel set; the CPU must have it (bitnet_model_open checks)
       BITNET_HEADER_FILENAME       how the file includes itself (default: "bitnet.h")

   CONTENTS, to be searched for
       >>api          types and functions                >>threads      the pool behind the scheduler hook
       >>platform     compilers, operating systems       >>unicode      character classes
       >>memory       allocator and arena                >>tokenizer    BPE and SPM
       >>errors       one way to fail                    >>chat         role templates
       >>numbers      exact arithmetic                   >>head         the output matrix in two passes
       >>gguf         the file format                    >>model        from a file to weights
       >>formats      types, R16 and T5                  >>transformer  the forward pass
       >>reference    what every kernel must equal       >>sampler      from logits to a token
       >>vectors      inlines per instruction set        >>stream       from tokens to text
       >>kernels      the fast paths                     >>session      conversations
       >>dispatch     which kernels run here             >>state        saving and loading
                                                         >>end          changes, licence
   To understand the whole, read >>gguf, >>reference and >>transformer, in this order. */

#if !defined(BNI_ISA)                /* with it, the file instantiates kernels: see >>dispatch */

/* ======================================================================================================
   >>api    Public types and functions
   ======================================================================================================
   Three nouns. A bitnet_model is what the file says: weights, tokenizer, metadata; immutable once open. A
   bitnet_engine is the machinery: worker threads and scratch memory that run passes over the weights. A
   bitnet_session is one conversation: KV cache, position, sampling, events. One model serves any number of
   engines; one engine advances all its sessions together, reading the weights once for all of them.

   Every description struct may be zeroed: zero means default. Every call that can fail returns a
   bitnet_result and, where it takes a bitnet_error, says what went wrong and at which byte of the file. */

#ifndef BITNET_H_INCLUDED
#define BITNET_H_INCLUDED

#include <stddef.h>
#include <stdint.h>

#define BITNET_VERSION "0.1.0"

#if defined(BITNET_STATIC)
  #if defined(__GNUC__)
    #define BITNET_API static __attribute__((unused))
  #else
    #define BITNET_API static
  #endif
#elif !defined(BITNET_API)
  #define BITNET_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------------------------- results */

typedef enum bitnet_result {
    BITNET_OK = 0,
    BITNET_IDLE = 1,                 /* not an error: bitnet_step found nothing to run */
    BITNET_ERROR_ARGUMENT = -1,      /* the caller's mistake: a NULL, a size, an unknown name */
    BITNET_ERROR_MEMORY = -2,        /* the allocator said no */
    BITNET_ERROR_IO = -3,            /* a file or reader could not be opened or read */
    BITNET_ERROR_FORMAT = -4,        /* the file is damaged */
    BITNET_ERROR_UNSUPPORTED = -5,   /* the file is sound, but of a kind this version does not run */
    BITNET_ERROR_NUMERIC = -6,       /* a value was not finite while computing */
    BITNET_ERROR_CANCELLED = -7,     /* the progress callback or bitnet_cancel said stop */
    BITNET_ERROR_BUSY = -8,          /* the session has rows in the pass in flight: bitnet_finish first */
    BITNET_ERROR_FULL = -9,          /* the tokens do not fit the context that is left */
    BITNET_ERROR_STATE = -10,        /* a saved state is damaged or belongs to another model */
    BITNET_ERROR_BUILD = -11         /* this build broke the arithmetic rules (see >>numbers) */
} bitnet_result;

/* Filled by calls that fail; untouched by calls that succeed. offset: byte of the file, 0 where none applies. */
typedef struct bitnet_error {
    bitnet_result code;
    uint64_t offset;
    char text[240];
} bitnet_error;

/* ------------------------------------------------------------------------------------------------ hooks */

/* Memory. alloc returns memory of at least size bytes at a multiple of align (a power of two, at most 4096),
   or NULL; it need not be cleared. free gets the same size back. Both NULL: malloc and free, and
   whole pages of the system for blocks of 4 MiB and more. Thread rule: called only from the thread that called
   the library. */
typedef struct bitnet_allocator {
    void *(*alloc)(void *user, size_t size, size_t align);
    void (*free)(void *user, void *memory, size_t size);
    void *user;
} bitnet_allocator;

typedef enum bitnet_log_level { BITNET_LOG_INFO = 0, BITNET_LOG_WARNING = 1 } bitnet_log_level;

/* One line of text per call, no newline. NULL: silence. */
typedef struct bitnet_logger {
    void (*log)(void *user, bitnet_log_level level, const char *text);
    void *user;
} bitnet_logger;

/* A file that the host reads for us. read fills exactly n bytes from offset and returns 0, or another value
   for failure. size is the whole file's, in bytes. */
typedef struct bitnet_reader {
    int (*read)(void *user, uint64_t offset, void *buffer, size_t n);
    uint64_t size;
    void *user;
} bitnet_reader;

/* Threads. parallel_for calls fn(job, 0) ... fn(job, count - 1), in any order, on any threads, and returns
   when all are done. Jobs of one call never wait for each other, so running them one by one is correct.
   step_begin and step_end may be NULL; they bracket a burst of parallel_for calls, so that a pool can keep its
   workers awake in between. parallel_for NULL: the header's own pool of n_threads. */
typedef void bitnet_job_fn(void *job, int index);
typedef struct bitnet_scheduler {
    void (*parallel_for)(void *user, bitnet_job_fn *fn, void *job, int count);
    void (*step_begin)(void *user);
    void (*step_end)(void *user);
    void *user;
} bitnet_scheduler;

/* Called while loading, on the loading thread, with done of total bytes. Nonzero: stop (ERROR_CANCELLED). */
typedef int bitnet_progress_fn(void *user, uint64_t done, uint64_t total);

/* ------------------------------------------------------------------------------------------------ model */

typedef struct bitnet_model bitnet_model;
typedef struct bitnet_engine bitnet_engine;
typedef struct bitnet_session bitnet_session;

/* The bit order of I2_S tensors. Files carry no marker; every published file that we know of is A. */
typedef enum bitnet_i2s_layout {
    BITNET_I2S_DEFAULT = 0,          /* A */
    BITNET_I2S_A = 1,                /* 128 weights in 32 bytes: byte j mod 32, shift 6 - 2 (j div 32) */
    BITNET_I2S_B = 2,                /* 64 weights in 16 bytes: written by ARM builds of bitnet.cpp since Nov 2025 */
    BITNET_I2S_C = 3,                /* four rows interleaved */
    BITNET_I2S_D = 4                 /* sequential: element i in byte i/4, shift 6 - 2 (i mod 4) */
} bitnet_i2s_layout;

/* Where the model comes from: exactly one of path, data, reader.read. data and whatever the hooks point to
   must outlive the model. */
typedef struct bitnet_model_desc {
    const char *path;                /* a GGUF file; mapped into memory unless no_mmap */
    const void *data;                /* or: the whole file, in memory, borrowed */
    uint64_t size;                   /* bytes of data */
    bitnet_reader reader;            /* or: read by the host */
    bitnet_allocator allocator;
    bitnet_logger logger;
    bitnet_scheduler scheduler;      /* repacks weights while loading */
    int n_threads;                   /* jobs at a time while loading; 0: one per core that the calling thread */
                                     /* may run on, at most 16 */
    bitnet_progress_fn *progress;
    void *progress_user;
    const char *kernels;             /* NULL or "auto": the best for this CPU; else a name of bitnet_kernels_name */
    int allow_amx;                   /* 1: AMX may be used, where there is one. Asks Linux for it, once and for the
                                        whole process, which then can't set a sigaltstack below about 11 KiB. Where one
                                        is set already, the system refuses, and "auto" takes the next best kernels */
    const char *layout;              /* of the weights in memory: NULL or "auto": the kernels' choice of "r16" (2 bits)
                                        and "t5" (1.6 bits), repacked copies. "tl1" (2 bits), "tl2" (1.67): the same
                                        bits from look-up tables, slower. "i2_s": used where they lie in the file or
                                        in data: open at once, no memory of their own, pages shared by all processes
                                        that map the file; a token takes longer */
    const char *head;                /* "two-pass": keeps the output matrix as bytes, too (one per weight), so that a
                                        token reads half as much; same tokens, see >>head. "full": does not. NULL or
                                        "auto": two-pass where the matrix is of F16, BF16 or F32 and 32 MiB or more */
    const char *chat_template;       /* NULL: the file's; else a name of bitnet_chat_template_name */
    bitnet_i2s_layout i2s_layout;
    const char *tl_tiles;            /* of TL1 and TL2 matrices, which files do not tell: NULL: bitnet.cpp's presets for the
                                        shape; "generated": those of its set-up program; or "BM/BY/bm", e.g. "256/128/64" */
    int no_mmap;                     /* read the file into memory instead of mapping it */
    int mlock;                       /* lock the weights in memory; failure to lock is a warning */
    int vocab_only;                  /* tokenizer and metadata only; no weights, no engine */
} bitnet_model_desc;

/* What a file is. Strings point into the model (bitnet_model_get_info) or are cut copies (bitnet_model_probe). */
typedef struct bitnet_model_info {
    char architecture[32];           /* general.architecture, e.g. "bitnet-b1.58" */
    char name[64];                   /* general.name */
    char tokenizer[16];              /* "gpt2" (BPE), "llama" (SPM) */
    char pre_tokenizer[32];          /* the rule in force, e.g. "llama3" */
    char chat_template[16];          /* the template in force, "none" where there is none */
    char kernels[16];                /* the kernel set in force; empty after a probe */
    char layout[8];                  /* of the weights in memory: "r16", "t5", "tl1", "tl2" or "i2_s"; empty likewise */
    char head_type[8];               /* type of the output matrix, e.g. "F16" */
    char head[12];                   /* "full" or "two-pass" (bitnet_model_desc) */
    char linear_type[16];            /* type of the ternary matrices, e.g. "I2_S" */
    int is_ternary;                  /* 1: every matrix of the layers is of a ternary type: a BitNet model */
    int is_supported;                /* 1: this version runs it; else unsupported says why not */
    char unsupported[200];
    int n_vocab, n_ctx_train, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff;
    float rope_theta, norm_eps;
    int tied_output;                 /* 1: the output matrix is the token embedding */
    int pooling;                     /* of bitnet_embed: 0 none stated, 1 mean, 3 last token */
    int n_tensors;
    uint64_t n_parameters;           /* weights of all tensors */
    uint64_t file_bytes;
    uint64_t weight_bytes;           /* bytes of weights read for one token: ternary, norms, output matrix (two-pass:
                                        its bytes alone) */
    uint64_t model_memory;           /* bytes the model allocates (repacked weights and tables) */
    uint64_t mapped_memory;          /* bytes of the mapping that stay in use (embedding, output matrix, header); of a
                                        two-pass head's matrix and an embedding tied to it only single rows are read */
    int32_t bos, eos, eot;           /* token ids; -1: none */
} bitnet_model_info;

/* OK when the file's header was read; info->is_ternary and is_supported answer "is it a BitNet model, do we
   run it". Reads no weights. Errors: IO, FORMAT, MEMORY, ARGUMENT. err and info may be NULL. */
BITNET_API bitnet_result bitnet_model_probe(const bitnet_model_desc *desc, bitnet_model_info *info,
                                            bitnet_error *err);

/* Opens, checks and repacks a model. *out is the model, or NULL on failure. Ownership: the caller's, until
   bitnet_model_close. Errors: IO, FORMAT, UNSUPPORTED, MEMORY, CANCELLED, BUILD, ARGUMENT. */
BITNET_API bitnet_result bitnet_model_open(const bitnet_model_desc *desc, bitnet_model **out, bitnet_error *err);

/* NULL is allowed. All engines of the model must be gone. */
BITNET_API void bitnet_model_close(bitnet_model *model);

BITNET_API void bitnet_model_get_info(const bitnet_model *model, bitnet_model_info *info);

/* i-th kernel set compiled in, from plain to fast; NULL past the last. *usable (may be NULL): 1 if this CPU
   runs it ("amx" besides needs allow_amx and the system's permission). */
BITNET_API const char *bitnet_kernels_name(int i, int *usable);

/* ------------------------------------------------------------------------------------------------- text */

enum {
    BITNET_TOKENIZE_BOS = 1,         /* add begin and end tokens where the model says so */
    BITNET_TOKENIZE_SPECIAL = 2,     /* read control tokens like <|eot_id|> in the text as such */
    BITNET_DETOKENIZE_SPECIAL = 4    /* print control tokens; without it they print nothing */
};

/* Number of tokens of text [size bytes], whatever capacity says; at most capacity are written to tokens.
   Negative: a bitnet_result. Takes scratch from the model's allocator. Any number of threads, if that
   allocator allows it. */
BITNET_API int64_t bitnet_tokenize(const bitnet_model *model, const char *text, size_t size, int32_t *tokens,
                                   int64_t capacity, int flags);

/* Number of bytes of the text of tokens [n]; at most capacity are written, no NUL is added. Raw bytes: a token
   may end inside a UTF-8 character. Negative: a bitnet_result (a token outside the vocabulary). */
BITNET_API int64_t bitnet_detokenize(const bitnet_model *model, const int32_t *tokens, int64_t n, char *text,
                                     size_t capacity, int flags);

/* The entry of the vocabulary, as the file spells it (not NUL-terminated); NULL outside the vocabulary. */
BITNET_API const char *bitnet_token_text(const bitnet_model *model, int32_t token, size_t *size);

/* The token whose entry is exactly text, or -1. */
BITNET_API int32_t bitnet_token_find(const bitnet_model *model, const char *text);

/* 1 if the token ends a generation (end of text, end of turn). */
BITNET_API int bitnet_token_is_end(const bitnet_model *model, int32_t token);

/* role: "system", "user" or "assistant". Both strings UTF-8, NUL-terminated. */
typedef struct bitnet_chat_message {
    const char *role;
    const char *content;
} bitnet_chat_message;

enum {
    BITNET_CHAT_ANSWER = 1,          /* end with the words that ask the assistant to speak */
    BITNET_CHAT_CONTINUE = 2         /* the messages follow an earlier answer: no begin-of-text token */
};

/* The conversation as text, snprintf rule: bytes needed, at most capacity written, no NUL added. ARGUMENT if
   the model has no chat template or does not know a role. */
BITNET_API int64_t bitnet_chat_format(const bitnet_model *model, const bitnet_chat_message *messages, int n,
                                      int flags, char *text, size_t capacity);

/* The conversation as tokens. Control tokens are read in the template only, never in a message's content. */
BITNET_API int64_t bitnet_chat_tokenize(const bitnet_model *model, const bitnet_chat_message *messages, int n,
                                        int flags, int32_t *tokens, int64_t capacity);

/* i-th chat template that can be asked for by name; NULL past the last. */
BITNET_API const char *bitnet_chat_template_name(int i);

/* ----------------------------------------------------------------------------------------------- engine */

typedef struct bitnet_engine_desc {
    bitnet_allocator allocator;      /* NULLs: the model's */
    bitnet_scheduler scheduler;      /* parallel_for NULL: own pool */
    int n_threads;                   /* jobs at a time; 0: one per core that the calling thread may run on, */
                                     /* at most 16 */
    int n_batch;                     /* most tokens of one pass, all sessions together; 0: 256 */
    int n_ctx;                       /* longest context of its sessions; 0: min(training context, 4096) */
} bitnet_engine_desc;

/* Exact bytes bitnet_engine_create will take from the allocator (threads' stacks not counted), and
   bitnet_session_create likewise. 0: the description is wrong. With n_threads 0 the answer holds for threads that may
   run on as many cores as this one. */
BITNET_API size_t bitnet_engine_memory(const bitnet_model *model, const bitnet_engine_desc *desc);

/* Ownership: the caller's, until bitnet_engine_destroy. Thread rule for the engine and all its sessions: one
   call at a time, from whichever thread; only bitnet_cancel may come from any thread at any time. */
BITNET_API bitnet_result bitnet_engine_create(const bitnet_model *model, const bitnet_engine_desc *desc,
                                              bitnet_engine **out, bitnet_error *err);

/* NULL is allowed. Its sessions must be gone. */
BITNET_API void bitnet_engine_destroy(bitnet_engine *engine);

/* ---------------------------------------------------------------------------------------------- session */

typedef struct bitnet_session_desc {
    int n_ctx;                       /* most tokens it can hold; 0: min(training context, 4096) */
} bitnet_session_desc;

BITNET_API size_t bitnet_session_memory(const bitnet_model *model, const bitnet_session_desc *desc);

BITNET_API bitnet_result bitnet_session_create(bitnet_engine *engine, const bitnet_session_desc *desc,
                                               bitnet_session **out, bitnet_error *err);

/* NULL is allowed. BUSY while the session has rows in the pass in flight. */
BITNET_API bitnet_result bitnet_session_destroy(bitnet_session *session);

/* Tokens so far, evaluated or pending; *tokens (may be NULL) is valid until the next call on the session. */
BITNET_API int bitnet_session_tokens(const bitnet_session *session, const int32_t **tokens);

/* Most tokens it can hold. */
BITNET_API int bitnet_session_context(const bitnet_session *session);

/* Forgets everything from position pos on; 0 forgets all. Ends a generation without an event. ARGUMENT if
   pos is past the evaluated tokens; BUSY. */
BITNET_API bitnet_result bitnet_session_rewind(bitnet_session *session, int pos);

/* Makes `to` a copy of `from` (tokens and KV cache, not the generation in progress): a fork. Both of engines of
   one model. FULL if it does not fit; BUSY. */
BITNET_API bitnet_result bitnet_session_copy(bitnet_session *to, const bitnet_session *from);

/* ------------------------------------------------------------------------------------------- generation */

/* All zero: greedy, seed 0. Filters apply in this order: penalties, bias, mask, top_k, top_p, min_p,
   temperature. The random number of a token depends on seed and position alone, so that rewinding, forking and
   loading need no generator state. */
typedef struct bitnet_sampling {
    float temperature;               /* 0: greedy */
    int top_k;                       /* 0: off */
    float top_p;                     /* 0 or 1: off */
    float min_p;                     /* 0: off */
    float repeat_penalty;            /* 0 or 1: off; > 1 makes recent tokens less likely */
    float frequency_penalty;         /* 0: off */
    float presence_penalty;          /* 0: off */
    int repeat_last_n;               /* tokens the penalties look back on; 0: 64; -1: all */
    uint64_t seed;
} bitnet_sampling;

typedef struct bitnet_logit_bias { int32_t token; float bias; } bitnet_logit_bias;
typedef struct bitnet_logprob { int32_t token; float logprob; } bitnet_logprob;

/* Fills allowed, a bitset [(n_vocab + 31) / 32] of uint32 that arrives all ones; bit t mod 32 of word t / 32 is
   token t. tokens [n]: the session so far. Runs on the thread of bitnet_step, before the output matrix does.
   The processor's floating-point state is the library's while it runs (nearest rounding, denormals on). */
typedef void bitnet_mask_fn(void *user, uint32_t *allowed, const int32_t *tokens, int n);

#define BITNET_MAX_STOPS 16          /* stop strings of one generation */
#define BITNET_MAX_STOP_BYTES 256    /* longest stop string */
#define BITNET_MAX_LOGPROBS 20       /* alternatives reported per token, as in the OpenAI API */

/* What it points to must stay until DONE. */
typedef struct bitnet_generation {
    bitnet_sampling sampling;
    int max_tokens;                  /* 0: until an end token, a stop string or a full context */
    const char *const *stops;        /* [n_stops] strings that end the text and are not part of it */
    int n_stops;
    const bitnet_logit_bias *bias;   /* [n_bias] added to logits after the penalties */
    int n_bias;
    bitnet_mask_fn *mask;
    void *mask_user;
    int logprobs;                    /* 1: report the token's logprob; 1 + k: and the k best */
    int ignore_end;                  /* 1: end tokens are not special */
    int show_special;                /* 1: control tokens appear in the text */
    float *embedding;                /* not NULL: nothing is generated, and with DONE(PROMPT) this [n_embd] is what
                                        bitnet_embed gives. For a session without tokens; the rest is ignored */
} bitnet_generation;

/* Appends prompt [n] (n may be 0 if tokens are there) and starts generating; generation NULL: only evaluates.
   An unfinished generation of the session ends. FULL, and nothing changed, if the prompt does not fit the
   context; ARGUMENT for tokens outside the vocabulary; BUSY. The prompt is copied. Never allocates. */
BITNET_API bitnet_result bitnet_begin(bitnet_session *session, const int32_t *prompt, int n,
                                      const bitnet_generation *generation);

#define BITNET_NO_BUDGET UINT32_MAX

/* Advances every session that has work for about budget_us microseconds (at least one work item, overshooting by
   at most one), at most to the end of one pass. OK: call again; IDLE: nothing can run until an event is fetched
   or something begun. A session with an unfetched TOKEN or DONE takes no part. Never allocates. */
BITNET_API bitnet_result bitnet_step(bitnet_engine *engine, uint32_t budget_us);

/* Ends the pass in flight, if any, and starts none. */
BITNET_API bitnet_result bitnet_finish(bitnet_engine *engine);

typedef enum bitnet_event_type {
    BITNET_EVENT_NONE = 0,
    BITNET_EVENT_PROGRESS,           /* n_done of n_total prompt tokens are evaluated */
    BITNET_EVENT_TOKEN,              /* token, text, logprob, top */
    BITNET_EVENT_DONE                /* reason; text that was held back; error */
} bitnet_event_type;

typedef enum bitnet_reason {
    BITNET_DONE_PROMPT = 0,          /* there was nothing to generate: the prompt is evaluated */
    BITNET_DONE_END,                 /* an end token */
    BITNET_DONE_STOP,                /* a stop string */
    BITNET_DONE_LENGTH,              /* max_tokens */
    BITNET_DONE_CONTEXT,             /* the context is full */
    BITNET_DONE_CANCELLED,
    BITNET_DONE_ERROR
} bitnet_reason;

/* text is valid UTF-8, NUL-terminated, possibly empty: a token that ends inside a character, or in what may become a
   stop string, is held back. It lives until the next call on the session. */
typedef struct bitnet_event {
    bitnet_event_type type;
    int32_t token;
    const char *text;
    size_t text_size;
    float logprob;
    const bitnet_logprob *top;       /* [n_top], best first */
    int n_top;
    int n_done, n_total;
    bitnet_reason reason;
    const bitnet_error *error;       /* of reason ERROR, else NULL */
} bitnet_event;

/* 1 and the oldest unfetched event, or 0. */
BITNET_API int bitnet_next_event(bitnet_session *session, bitnet_event *event);

/* From any thread: at the next work item the session's rows in flight are dropped; its tokens and position stay, an
   unfetched TOKEN too, and DONE(CANCELLED) follows. Without effect where nothing runs: a bitnet_begin after it is not
   cancelled. */
BITNET_API void bitnet_cancel(bitnet_session *session);

/* Gets each piece of text (valid UTF-8) as it comes. Nonzero stops. */
typedef int bitnet_text_fn(void *user, const char *text, size_t size);

/* Tokenizes prompt (NUL-terminated; begin token added at position 0 as the model says, control tokens read),
   generates, and hands the text to fn. A loop over bitnet_step: other sessions of the engine advance too, up to
   their next event. *reason may be NULL. Errors as bitnet_begin; NUMERIC. */
BITNET_API bitnet_result bitnet_generate(bitnet_session *session, const char *prompt,
                                         const bitnet_generation *generation, bitnet_text_fn *fn, void *user,
                                         bitnet_reason *reason, bitnet_error *err);

/* Gets the logits [n_vocab] of token i of this call, in order; tokens that were pending before have no row. Nonzero
   stops (CANCELLED). Must not call the library on the same engine. */
typedef int bitnet_row_fn(void *user, int i, const float *logits);

/* Appends tokens [n] and evaluates them. fn gets every row's logits; NULL: the last row's are computed when
   bitnet_logits asks for them. Errors as bitnet_begin; NUMERIC. */
BITNET_API bitnet_result bitnet_eval(bitnet_session *session, const int32_t *tokens, int n, bitnet_row_fn *fn,
                                     void *user, bitnet_error *err);

/* Logits [n_vocab] of the last evaluated token; NULL when there are none, or one is not finite. Valid until the next
   call that advances the session. After bitnet_eval, or a generation with a two-pass head, the first call computes them,
   on the engine's threads: call it on the engine's thread, as everything of a session. */
BITNET_API const float *bitnet_logits(const bitnet_session *session);

/* out [n_embd]: the tokens' final hidden states, pooled as the file says (mean where it does not), divided by their
   Euclidean length. Resets the session before and after. */
BITNET_API bitnet_result bitnet_embed(bitnet_session *session, const int32_t *tokens, int n, float *out,
                                      bitnet_error *err);

/* ------------------------------------------------------------------------------------------ saved states */

/* A session's tokens and KV cache as bytes: canonical, little-endian, the same from every machine and kernel set.
   The generation in progress is not part of it: after loading, bitnet_begin with no prompt continues. */
BITNET_API size_t bitnet_state_size(const bitnet_session *session);
BITNET_API bitnet_result bitnet_state_save(const bitnet_session *session, void *buffer, size_t size,
                                           bitnet_error *err);
/* STATE and an unchanged session where the bytes are damaged, of another model, or too long for its n_ctx. */
BITNET_API bitnet_result bitnet_state_load(bitnet_session *session, const void *buffer, size_t size,
                                           bitnet_error *err);

/* ------------------------------------------------------------------------------------------------- stats */

typedef struct bitnet_stats {
    uint64_t prompt_tokens, prompt_ns;        /* of the last begin: evaluated before the first sampled token */
    uint64_t generated_tokens, generate_ns;   /* sampled, and the time from the first to the last of them */
    size_t memory;                            /* bytes of this session */
} bitnet_stats;

BITNET_API void bitnet_get_stats(const bitnet_session *session, bitnet_stats *stats);
BITNET_API const char *bitnet_result_text(bitnet_result result);
BITNET_API const char *bitnet_version(void);

#ifdef __cplusplus
}
#endif

#endif /* BITNET_H_INCLUDED */
/* ======================================================================================================
   End of the header proper. What follows is compiled only where BITNET_IMPLEMENTATION is defined.
   ====================================================================================================== */
#ifdef BITNET_IMPLEMENTATION

/* ======================================================================================================
   >>platform    Compilers and operating systems
   ======================================================================================================
   Nearly every #if of this file stands here, in >>vectors and in >>dispatch. The rest of the file sees: a few
   attribute macros, loads of little-endian numbers, 32-bit atomics, a clock, threads, files mapped into memory,
   and a pair of functions that puts the floating-point unit into the state our arithmetic needs. */

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#if !defined(BITNET_NO_STDIO)
  #include <stdio.h>
#endif
#include <stdlib.h>
#if defined(_WIN32)
  #ifndef WIN32_LEAN_AND_MEAN
    #define WIN32_LEAN_AND_MEAN
  #endif
  #ifndef NOMINMAX
    #define NOMINMAX
  #endif
  #include <windows.h>
#else
  #include <sched.h>                 /* also: struct timespec where <time.h> hides it under -std=c99 */
  #include <time.h>
  #include <unistd.h>
  #if !defined(BITNET_NO_MMAP)
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
  #endif
  #if !defined(BITNET_NO_THREADS)
    #include <pthread.h>
    #include <signal.h>
  #endif
#endif
#if defined(__GNUC__) && !defined(BITNET_NO_SIMD) && (defined(__x86_64__) || defined(__i386__))
  #include <immintrin.h>             /* before the pragmas: under them gcc -m32 can't read it */
#endif
#if defined(__GNUC__) && !defined(BITNET_NO_SIMD) && defined(__aarch64__)
  #include <arm_neon.h>
  #if defined(__linux__)
    #include <sys/auxv.h>
  #elif defined(__APPLE__)
    #include <sys/types.h>
    #include <sys/sysctl.h>
  #endif
#endif
#if defined(__wasm_simd128__) && !defined(BITNET_NO_SIMD)
  #include <wasm_simd128.h>
#endif

/* Same bits everywhere needs plain IEEE arithmetic: no fused multiply-add that the source does not ask for, no
   re-association, no x87. The host may compile with -ffast-math; these pragmas take it back for this file (the
   function attribute of the same name does not reach inlined code: gcc 12). */
#if defined(__clang__)
  #if defined(__x86_64__) || defined(__i386__)        /* clang 14 has float_control for x86 only */
    #pragma float_control(push)
    #pragma float_control(precise, on)
  #elif defined(__FAST_MATH__)                        /* tried: fp reassociate(off) is not enough */
    #error "bitnet.h: clang can't take back -ffast-math here; compile this one file with -fno-fast-math"
  #endif
  #pragma clang fp contract(off)
  #if defined(__i386__) && !defined(__SSE2__)
    #define BNI_X87 1                /* tells >>dispatch to leave out the x86 kernels */
    #pragma clang attribute bni_sse2.push(__attribute__((target("sse2"))), apply_to = function)
  #endif
#elif defined(__GNUC__)
  #pragma GCC push_options
  #pragma GCC optimize("no-fast-math,no-unsafe-math-optimizations,no-associative-math,no-reciprocal-math,fp-contract=off")
  #if defined(__i386__) && !defined(__SSE2_MATH__)
    #define BNI_X87 1                /* tells >>dispatch to leave out the x86 kernels */
    #pragma GCC target("sse2,fpmath=sse")
  #endif
#elif defined(_MSC_VER)
  #pragma float_control(precise, on, push)
  #pragma fp_contract(off)
#endif

#ifndef BITNET_HEADER_FILENAME
  #define BITNET_HEADER_FILENAME "bitnet.h"
#endif
#ifdef BITNET_ASSERT
  #define BNI_ASSERT(x) BITNET_ASSERT(x)
#else
  #define BNI_ASSERT(x) ((void)0)    /* programming errors only, never file content; define BITNET_ASSERT to see them */
#endif

#if defined(__GNUC__)
  #define BNI_UNUSED __attribute__((unused))
  #define BNI_INLINE static inline __attribute__((unused))
  #define BNI_NOINLINE __attribute__((noinline))
  #define BNI_ALIGNED(n) __attribute__((aligned(n)))
  #define BNI_RESTRICT __restrict__
  #define BNI_LIKELY(x) __builtin_expect(!!(x), 1)
  #define BNI_UNLIKELY(x) __builtin_expect(!!(x), 0)
  #define BNI_PREFETCH(p) __builtin_prefetch(p)
  /* The line for this core alone. Without a compiler flag the builtin would not ask for that; where the processor does
     not know the instruction, it does nothing. */
  #if defined(__x86_64__)
    #define BNI_PREFETCH_OWN(p) __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)(p)))
  #else
    #define BNI_PREFETCH_OWN(p) __builtin_prefetch(p, 1)
  #endif
#else
  #define BNI_UNUSED
  #define BNI_INLINE static __inline
  #define BNI_NOINLINE __declspec(noinline)
  #define BNI_ALIGNED(n) __declspec(align(n))
  #define BNI_RESTRICT __restrict
  #define BNI_LIKELY(x) (x)
  #define BNI_UNLIKELY(x) (x)
  #define BNI_PREFETCH(p) ((void)(p))
  #define BNI_PREFETCH_OWN(p) ((void)(p))
#endif

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64) || defined(_M_IX86)
  #define BNI_X86 1
#else
  #define BNI_X86 0
#endif
#if defined(__aarch64__) || defined(_M_ARM64)
  #define BNI_ARM64 1
#else
  #define BNI_ARM64 0
#endif

/* Little-endian loads from any address. memcpy of a fixed size compiles to one load; the byte order is turned on
   big-endian hosts only. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  #define BNI_BIG_ENDIAN 1
#else
  #define BNI_BIG_ENDIAN 0
#endif

BNI_INLINE uint16_t bni_load_u16(const void *p)
{
    const uint8_t *b = (const uint8_t *)p;
    return (uint16_t)(b[0] | (b[1] << 8));
}

BNI_INLINE uint32_t bni_load_u32(const void *p)
{
#if BNI_BIG_ENDIAN
    const uint8_t *b = (const uint8_t *)p;
    return (uint32_t)b[0] | ((uint32_t)b[1] << 8) | ((uint32_t)b[2] << 16) | ((uint32_t)b[3] << 24);
#else
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
#endif
}

/* As two halves: 32-bit hosts have no better way, and 64-bit compilers merge them. */
BNI_INLINE uint64_t bni_load_u64(const void *p)
{
    return (uint64_t)bni_load_u32(p) | ((uint64_t)bni_load_u32((const uint8_t *)p + 4) << 32);
}

/* Little-endian, to any address. */
BNI_INLINE void bni_store_u32(void *p, uint32_t v)
{
    uint8_t *b = (uint8_t *)p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
    b[2] = (uint8_t)(v >> 16);
    b[3] = (uint8_t)(v >> 24);
}

BNI_INLINE void bni_store_u64(void *p, uint64_t v)
{
    bni_store_u32(p, (uint32_t)v);
    bni_store_u32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

/* Bits of a number and back. memcpy, because reading a float through an integer pointer is undefined in C, and a union
   is in C++. */
BNI_INLINE uint32_t bni_float_bits(float x) { uint32_t u; memcpy(&u, &x, sizeof u); return u; }
BNI_INLINE float bni_bits_float(uint32_t u) { float x; memcpy(&x, &u, sizeof x); return x; }
BNI_INLINE uint64_t bni_double_bits(double x) { uint64_t u; memcpy(&u, &x, sizeof u); return u; }
BNI_INLINE double bni_bits_double(uint64_t u) { double x; memcpy(&x, &u, sizeof x); return x; }
BNI_INLINE float bni_load_f32(const void *p) { return bni_bits_float(bni_load_u32(p)); }

/* ---------------------------------------------------------------------------------------------- atomics
   Plain uint32_t with the compiler's own operations: C11's <stdatomic.h> does not exist in C99 and C++11. */

typedef uint32_t bni_atomic;

#if defined(__GNUC__)
/* Load acquires, store releases, add does both and returns the value before; the fence orders a store before a later
   load, which acquire and release alone do not. Overflow wraps. */
BNI_INLINE uint32_t bni_atomic_load(const bni_atomic *a) { return __atomic_load_n(a, __ATOMIC_ACQUIRE); }
BNI_INLINE void bni_atomic_store(bni_atomic *a, uint32_t v) { __atomic_store_n(a, v, __ATOMIC_RELEASE); }
BNI_INLINE uint32_t bni_atomic_add(bni_atomic *a, uint32_t v) { return __atomic_fetch_add(a, v, __ATOMIC_SEQ_CST); }
BNI_INLINE void bni_atomic_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#else
BNI_INLINE uint32_t bni_atomic_load(const bni_atomic *a)
{
    return (uint32_t)InterlockedOr((volatile LONG *)a, 0);
}
BNI_INLINE void bni_atomic_store(bni_atomic *a, uint32_t v) { InterlockedExchange((volatile LONG *)a, (LONG)v); }
BNI_INLINE uint32_t bni_atomic_add(bni_atomic *a, uint32_t v)
{
    return (uint32_t)InterlockedExchangeAdd((volatile LONG *)a, (LONG)v);
}
BNI_INLINE void bni_atomic_fence(void) { MemoryBarrier(); }
#endif

/* In loops that wait for another thread: lets the core's other hardware thread run, and saves power. */
BNI_INLINE void bni_cpu_pause(void)
{
#if defined(__GNUC__) && BNI_X86
    __asm__ __volatile__("pause");
#elif defined(__GNUC__) && BNI_ARM64
    __asm__ __volatile__("yield");
#elif defined(_WIN32)
    YieldProcessor();
#endif
}

/* ------------------------------------------------------------------------------------- clock and threads
   Under -std=c99 glibc hides clock_gettime and madvise once <stdio.h> has been included without feature macros,
   and this header can't be first everywhere: then we declare them ourselves, as POSIX and Linux have them. */

#if !defined(_WIN32)
  #ifndef CLOCK_MONOTONIC
    #define CLOCK_MONOTONIC 1
  #endif
  #if !defined(__cplusplus) && defined(__STRICT_ANSI__) && defined(__linux__) && !defined(_DEFAULT_SOURCE) && \
      !defined(__USE_POSIX199309)
extern int clock_gettime(int clock, struct timespec *time);
  #endif
#endif

/* Nanoseconds since some fixed moment; never goes back. */
BNI_INLINE uint64_t bni_time_ns(void)
{
#if defined(_WIN32)
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (uint64_t)count.QuadPart / (uint64_t)frequency.QuadPart * 1000000000u +
           (uint64_t)count.QuadPart % (uint64_t)frequency.QuadPart * 1000000000u / (uint64_t)frequency.QuadPart;
#else
    struct timespec now;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        return 0;
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

/* Cores that this thread may run on, at least 1: those that are online, on Linux less what an affinity mask (taskset, a
   container's cpuset) takes away. A container's share of time is not asked for: a host that has one sets n_threads. The
   system call itself, as <sched.h> hides sched_getaffinity() without _GNU_SOURCE; 0: it failed, or is not known here. */
BNI_INLINE int bni_cpu_allowed(void)
{
#if defined(__linux__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))
    uint64_t mask[128];              /* 8192 cores */
    int n = 0, i;
    memset(mask, 0, sizeof mask);
  #if defined(__x86_64__)
    {
        long r = 204;
        __asm__ __volatile__("syscall" : "+a"(r) : "D"(0L), "S"(sizeof mask), "d"(mask) : "rcx", "r11", "memory");
        if (r <= 0)
            return 0;
    }
  #else
    {
        register long r __asm__("x0") = 0;
        register size_t size __asm__("x1") = sizeof mask;
        register uint64_t *to __asm__("x2") = mask;
        register long number __asm__("x8") = 123;
        __asm__ __volatile__("svc #0" : "+r"(r) : "r"(size), "r"(to), "r"(number) : "memory");
        if (r <= 0)
            return 0;
    }
  #endif
    for (i = 0; i < 8192; i++)
        n += (int)(mask[i / 64] >> i % 64 & 1);
    return n;
#else
    return 0;
#endif
}

BNI_INLINE int bni_cpu_count(void)
{
#if defined(BITNET_NO_THREADS)
    return 1;
#elif defined(_WIN32)
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwNumberOfProcessors > 0 ? (int)info.dwNumberOfProcessors : 1;
#else
    const long online = sysconf(_SC_NPROCESSORS_ONLN), n = online > 0 && online < 65536 ? online : 1;
    const int allowed = bni_cpu_allowed();
    return allowed > 0 && allowed < (int)n ? allowed : (int)n;
#endif
}

/* The assembler that comes with an older compiler may not know AVX-VNNI and AMX. */
#if defined(__clang__) ? __clang_major__ >= 12 : defined(__GNUC__) && __GNUC__ >= 11
  #define BNI_NEW_ASM 1
#else
  #define BNI_NEW_ASM 0
#endif

/* The same for Arm's sdot and smmla. */
#if defined(__clang__) ? __clang_major__ >= 9 : defined(__GNUC__) && __GNUC__ >= 8
  #define BNI_DOTPROD_ASM 1
#else
  #define BNI_DOTPROD_ASM 0
#endif
#if defined(__clang__) ? __clang_major__ >= 12 : defined(__GNUC__) && __GNUC__ >= 10
  #define BNI_I8MM_ASM 1
#else
  #define BNI_I8MM_ASM 0
#endif

/* AMX, the matrix unit of x86 servers, where compiler (and so its assembler) and system know it. Linux lets a process
   use the tiles only once it has asked: from then on signal frames may hold their 8 KiB, so the kernel refuses where a
   thread already has a signal stack too small for that, and afterwards refuses such stacks (sigaltstack: ENOMEM). The
   permission is the whole process's and lasts. */
#if defined(__linux__) && defined(__x86_64__) && defined(__LP64__) && \
    BNI_NEW_ASM
  #define BNI_AMX 1
/* 0: granted, now or before. The system call itself, as <unistd.h> hides syscall() under -std=c99. */
BNI_UNUSED static int bni_amx_permit(void)
{
    long r = 158;                    /* arch_prctl */
    __asm__ __volatile__("syscall" : "+a"(r) : "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
    return r == 0 ? 0 : -1;          /* ARCH_REQ_XCOMP_PERM, 18: tile data */
}
#else
  #define BNI_AMX 0
#endif

#if defined(BITNET_NO_THREADS)
BNI_INLINE void bni_thread_yield(void) { }
#elif defined(_WIN32)
/* Mutex, condition and thread, under one set of names. The init functions return 0 or nonzero; a Windows lock needs no
   freeing. 256 KiB of stack are enough: jobs have no recursion and no large arrays. */
typedef SRWLOCK bni_mutex;
typedef CONDITION_VARIABLE bni_cond;
typedef struct bni_thread { HANDLE handle; void (*fn)(void *); void *arg; } bni_thread;
BNI_INLINE void bni_thread_yield(void) { SwitchToThread(); }
BNI_INLINE int bni_mutex_init(bni_mutex *m) { InitializeSRWLock(m); return 0; }
BNI_INLINE void bni_mutex_free(bni_mutex *m) { (void)m; }
BNI_INLINE void bni_mutex_lock(bni_mutex *m) { AcquireSRWLockExclusive(m); }
BNI_INLINE void bni_mutex_unlock(bni_mutex *m) { ReleaseSRWLockExclusive(m); }
BNI_INLINE int bni_cond_init(bni_cond *c) { InitializeConditionVariable(c); return 0; }
BNI_INLINE void bni_cond_free(bni_cond *c) { (void)c; }
BNI_INLINE void bni_cond_wait(bni_cond *c, bni_mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
BNI_INLINE void bni_cond_broadcast(bni_cond *c) { WakeAllConditionVariable(c); }
static DWORD WINAPI bni_thread_main(LPVOID arg)
{
    bni_thread *t = (bni_thread *)arg;
    t->fn(t->arg);
    return 0;
}
BNI_INLINE int bni_thread_start(bni_thread *t, void (*fn)(void *), void *arg)
{
    t->fn = fn;
    t->arg = arg;
    t->handle = CreateThread(NULL, 256 * 1024, bni_thread_main, t, 0, NULL);
    return t->handle ? 0 : -1;
}
BNI_INLINE void bni_thread_join(bni_thread *t) { WaitForSingleObject(t->handle, INFINITE); CloseHandle(t->handle); }
#else
typedef pthread_mutex_t bni_mutex;
typedef pthread_cond_t bni_cond;
typedef struct bni_thread { pthread_t handle; void (*fn)(void *); void *arg; } bni_thread;
BNI_INLINE void bni_thread_yield(void) { sched_yield(); }
BNI_INLINE int bni_mutex_init(bni_mutex *m) { return pthread_mutex_init(m, NULL); }
BNI_INLINE void bni_mutex_free(bni_mutex *m) { pthread_mutex_destroy(m); }
BNI_INLINE void bni_mutex_lock(bni_mutex *m) { pthread_mutex_lock(m); }
BNI_INLINE void bni_mutex_unlock(bni_mutex *m) { pthread_mutex_unlock(m); }
BNI_INLINE int bni_cond_init(bni_cond *c) { return pthread_cond_init(c, NULL); }
BNI_INLINE void bni_cond_free(bni_cond *c) { pthread_cond_destroy(c); }
BNI_INLINE void bni_cond_wait(bni_cond *c, bni_mutex *m) { pthread_cond_wait(c, m); }
BNI_INLINE void bni_cond_broadcast(bni_cond *c) { pthread_cond_broadcast(c); }
static void *bni_thread_main(void *arg)
{
    bni_thread *t = (bni_thread *)arg;
    t->fn(t->arg);
    return NULL;
}
/* 0 or nonzero. t must stay where it is until joined. */
BNI_INLINE int bni_thread_start(bni_thread *t, void (*fn)(void *), void *arg)
{
    t->fn = fn;
    t->arg = arg;
    return pthread_create(&t->handle, NULL, bni_thread_main, t);
}
BNI_INLINE void bni_thread_join(bni_thread *t) { pthread_join(t->handle, NULL); }
#endif

/* ------------------------------------------------------------------------------- floating-point environment
   Linking any object with -ffast-math sets flush-to-zero for the whole program, and a host may have set another
   rounding. Whatever computes floats runs between these two calls. */

/* The host's control register, to be put back by bni_fp_leave on the same thread. Calls may nest. Status flags that
   our arithmetic raises stay raised. */
typedef struct bni_fp_state { uint64_t control; } bni_fp_state;

#if defined(__GNUC__) && BNI_X86
/* Loading the register drains the pipeline, so it is written only where it differs. 0xffc0 leaves out
   the six status flags in bits 0 to 5; bit 6 is DAZ, bits 7 to 12 the masks, 13 and 14 the rounding, bit 15 FTZ. */
BNI_INLINE bni_fp_state bni_fp_enter(void)
{
    bni_fp_state old;
    uint32_t host, ours = 0x1f80;              /* all exceptions masked, round to nearest, no FTZ, no DAZ */
    __asm__ __volatile__("stmxcsr %0" : "=m"(host));
    old.control = host;
    if ((host & 0xffc0u) != ours)
        __asm__ __volatile__("ldmxcsr %0" : : "m"(ours));
    return old;
}
BNI_INLINE void bni_fp_leave(bni_fp_state old)
{
    uint32_t host = (uint32_t)old.control;
    if ((host & 0xffc0u) != 0x1f80u)
        __asm__ __volatile__("ldmxcsr %0" : : "m"(host));
}
#elif defined(__GNUC__) && BNI_ARM64
/* FPCR 0: round to nearest, no flush-to-zero, no default NaN, no traps. Status flags live in another register. */
BNI_INLINE bni_fp_state bni_fp_enter(void)
{
    bni_fp_state old;
    uint64_t ours = 0;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(old.control));
    if (old.control != ours)
        __asm__ __volatile__("msr fpcr, %0" : : "r"(ours));
    return old;
}
BNI_INLINE void bni_fp_leave(bni_fp_state old)
{
    if (old.control != 0)
        __asm__ __volatile__("msr fpcr, %0" : : "r"(old.control));
}
#else
/* Machines without such a register (WebAssembly), or without a way to reach it: the host must not have changed it. */
BNI_INLINE bni_fp_state bni_fp_enter(void) { bni_fp_state old; old.control = 0; return old; }
BNI_INLINE void bni_fp_leave(bni_fp_state old) { (void)old; }
#endif

/* ------------------------------------------------------------------------------------------------- files
   bni_map: a whole file as read-only memory. Pages arrive when touched, are shared between processes, and can be
   given back (bni_map_release) once their content has been repacked. */

typedef struct bni_map { const uint8_t *data; uint64_t size; } bni_map;

#if defined(BITNET_NO_MMAP)
/* Without mappings every opening falls back to bni_file. */
BNI_INLINE int bni_map_open(bni_map *m, const char *path) { (void)m; (void)path; return -1; }
BNI_INLINE void bni_map_close(bni_map *m) { (void)m; }
BNI_INLINE void bni_map_release(const uint8_t *p, uint64_t size) { (void)p; (void)size; }
BNI_INLINE void bni_map_sparse(const uint8_t *p, uint64_t size) { (void)p; (void)size; }
BNI_INLINE void bni_huge_pages(const void *p, uint64_t size) { (void)p; (void)size; }
BNI_INLINE int bni_lock_memory(const void *p, uint64_t size) { (void)p; (void)size; return -1; }
BNI_INLINE void bni_unlock_memory(const void *p, uint64_t size) { (void)p; (void)size; }
#elif defined(_WIN32)
/* 0, or -1 with nothing to close. */
static int bni_map_open(bni_map *m, const char *path)
{
    LARGE_INTEGER size;
    HANDLE mapping, file = CreateFileA(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL,
                                       NULL);
    if (file == INVALID_HANDLE_VALUE)
        return -1;
    mapping = GetFileSizeEx(file, &size) && size.QuadPart > 0 ? CreateFileMappingA(file, NULL, PAGE_READONLY, 0, 0, NULL)
                                                              : NULL;
    CloseHandle(file);
    if (!mapping)
        return -1;
    m->data = (const uint8_t *)MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    m->size = (uint64_t)size.QuadPart;
    CloseHandle(mapping);
    return m->data ? 0 : -1;
}
BNI_INLINE void bni_map_close(bni_map *m) { UnmapViewOfFile(m->data); }
BNI_INLINE void bni_map_release(const uint8_t *p, uint64_t size) { (void)p; (void)size; }
BNI_INLINE void bni_map_sparse(const uint8_t *p, uint64_t size) { (void)p; (void)size; }
BNI_INLINE void bni_huge_pages(const void *p, uint64_t size) { (void)p; (void)size; }
BNI_INLINE int bni_lock_memory(const void *p, uint64_t size) { return VirtualLock((void *)p, (SIZE_T)size) ? 0 : -1; }
BNI_INLINE void bni_unlock_memory(const void *p, uint64_t size) { VirtualUnlock((void *)p, (SIZE_T)size); }
#else
  #ifndef MADV_DONTNEED
    #define MADV_DONTNEED 4
  #endif
  #ifndef MADV_RANDOM
    #define MADV_RANDOM 1
  #endif
  #ifdef O_CLOEXEC
    #define BNI_CLOEXEC O_CLOEXEC    /* no descriptor of ours for a child process */
  #else
    #define BNI_CLOEXEC 0
  #endif
  #if !defined(__cplusplus) && defined(__STRICT_ANSI__) && defined(__linux__) && !defined(__USE_MISC)
extern int madvise(void *address, size_t size, int advice);
  #endif

/* 0, or -1 with nothing to close. Only regular files: a pipe has no size to map. */
static int bni_map_open(bni_map *m, const char *path)
{
    struct stat info;
    void *p = MAP_FAILED;
    int file = open(path, O_RDONLY | BNI_CLOEXEC);
    if (file < 0)
        return -1;
    if (fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
        (uint64_t)info.st_size == (uint64_t)(size_t)info.st_size)
        p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (p == MAP_FAILED)
        return -1;
    m->data = (const uint8_t *)p;
    m->size = (uint64_t)info.st_size;
    return 0;
}

BNI_INLINE void bni_map_close(bni_map *m) { munmap((void *)(uintptr_t)m->data, (size_t)m->size); }

/* Gives back the whole pages inside [p, p + size) of a mapping; they would be read again if touched. */
static void bni_map_advise(const uint8_t *p, uint64_t size, int advice)
{
    uintptr_t page = 65536;                    /* a multiple of every page size in use (4, 16 and 64 KiB) */
    uintptr_t first = ((uintptr_t)p + page - 1) & ~(page - 1), last = ((uintptr_t)p + (uintptr_t)size) & ~(page - 1);
    if (last > first)
        (void)madvise((void *)first, (size_t)(last - first), advice);
}
BNI_INLINE void bni_map_release(const uint8_t *p, uint64_t size) { bni_map_advise(p, size, MADV_DONTNEED); }

/* Released, and from now on read here and there: without this a page would bring 15 neighbours into memory. */
BNI_INLINE void bni_map_sparse(const uint8_t *p, uint64_t size)
{
    bni_map_advise(p, size, MADV_DONTNEED);
    bni_map_advise(p, size, MADV_RANDOM);
}

/* Asks for pages of 2 MiB, where the system gives them to who asks. A wish: what is refused costs only time. */
BNI_INLINE void bni_huge_pages(const void *p, uint64_t size)
{
  #if defined(__linux__)
    bni_map_advise((const uint8_t *)p, size, 14);        /* MADV_HUGEPAGE, which older headers lack */
  #else
    (void)p;
    (void)size;
  #endif
}

/* Anonymous memory from the system itself. <sys/mman.h> hides the flag where a strict standard is asked for. Sanitizers
   look after malloc's memory only. */
  #if defined(__has_feature)
    #if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
      #define BNI_SANITIZED 1
    #endif
  #elif defined(__SANITIZE_ADDRESS__)
    #define BNI_SANITIZED 1
  #endif
  #if defined(BNI_SANITIZED)
  #elif defined(MAP_ANONYMOUS)
    #define BNI_MAP_ANONYMOUS MAP_ANONYMOUS
  #elif defined(MAP_ANON)
    #define BNI_MAP_ANONYMOUS MAP_ANON
  #elif defined(__linux__) && (defined(__x86_64__) || defined(__i386__) || defined(__aarch64__) || defined(__arm__) || defined(__riscv))
    #define BNI_MAP_ANONYMOUS 0x20
  #endif

/* 0, or nonzero where the system refuses (often by a limit, see ulimit -l). Unlocked with the memory itself. */
BNI_INLINE int bni_lock_memory(const void *p, uint64_t size) { return mlock(p, (size_t)size); }
BNI_INLINE void bni_unlock_memory(const void *p, uint64_t size) { (void)munlock(p, (size_t)size); }
#endif

/* Why the last opening failed, for a person: a constant text. errno is the thread's own, so no other open can
   interfere; a few words of ours, as strerror need not be thread-safe. */
static const char *bni_why_not_open(void)
{
    if (errno == ENOENT)
        return "no such file";
    if (errno == EACCES)
        return "permission denied";
#if defined(BITNET_NO_STDIO)
    return "it can't be mapped, and this build reads no files (BITNET_NO_STDIO)";
#else
    return "it can't be read";
#endif
}

/* A file read piece by piece: the fallback where nothing can be mapped. */
#if defined(BITNET_NO_STDIO)
/* Without <stdio.h>: opening fails, and the error says so. */
typedef struct bni_file { int unused; } bni_file;
BNI_INLINE int bni_file_open(bni_file *f, const char *path, uint64_t *size) { (void)f; (void)path; (void)size; return -1; }
BNI_INLINE void bni_file_close(bni_file *f) { (void)f; }
BNI_INLINE int bni_file_read(void *f, uint64_t at, void *p, size_t n) { (void)f; (void)at; (void)p; (void)n; return -1; }
#else
/* at: the stream's position, so that reads in order need no seek. One reader at a time. */
typedef struct bni_file { FILE *stream; uint64_t at; } bni_file;

/* Moves to an absolute offset with the widest seek that every C library has: fseek steps of at most 1 GiB. */
static int bni_file_seek(bni_file *f, uint64_t offset)
{
    if (f->at == offset)
        return 0;
    if (offset < f->at) {
        if (fseek(f->stream, 0, SEEK_SET) != 0)
            return -1;
        f->at = 0;
    }
    while (f->at < offset) {
        uint64_t step = offset - f->at < 1u << 30 ? offset - f->at : 1u << 30;
        if (fseek(f->stream, (long)step, SEEK_CUR) != 0)
            return -1;
        f->at += step;
    }
    return 0;
}

/* bitnet_reader's read: 0, or -1. user is the bni_file. Short reads are errors: every range was checked against the
   file's size, so the file must have shrunk or the disk failed. */
static int bni_file_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    bni_file *f = (bni_file *)user;
    if (bni_file_seek(f, offset) != 0)
        return -1;
    if (fread(buffer, 1, n, f->stream) != n) {
        f->at = UINT64_MAX;                    /* position unknown: the next seek starts over */
        return -1;
    }
    f->at += n;
    return 0;
}

/* 0 and the file's size, or -1 with nothing to close. The size is found by halving: where a byte can be read. 46 reads
   below 2^46 (64 TiB); ftell returns a long, which ends at 2 GiB on Windows and 32-bit systems. */
static int bni_file_open(bni_file *f, const char *path, uint64_t *size)
{
    uint64_t low = 0, high = (uint64_t)1 << 46, middle;
    char byte;
    f->at = 0;
    f->stream = fopen(path, "rb");
    if (!f->stream)
        return -1;
    while (low < high) {
        middle = low + (high - low) / 2;
        if (bni_file_read(f, middle, &byte, 1) == 0)
            low = middle + 1;
        else
            high = middle;
    }
    *size = low;
    return 0;
}

BNI_INLINE void bni_file_close(bni_file *f) { fclose(f->stream); }
#endif
/* ======================================================================================================
   >>memory    Allocator and arena
   ======================================================================================================
   An object is one block. Its layout is a function that takes pieces from an arena; it runs twice, first only
   measuring, then committing, so that the size known beforehand can't disagree with the use. */

#define BNI_HUGE_PAGE ((size_t)2 << 20)

#if defined(BNI_MAP_ANONYMOUS)
/* Large blocks come from the system and go back to it, and lie on huge pages, with which a token takes a tenth less time.
   Not from malloc: what it has written between its blocks gives the neighbourhood small pages. */
BNI_INLINE int bni_block_maps(size_t size) { return size >= 2 * BNI_HUGE_PAGE && size <= SIZE_MAX / 2; }

/* Whole pages of every size in use. */
BNI_INLINE size_t bni_block_pages(size_t size) { return (size + 65535) & ~(size_t)65535; }

static void *bni_block_map(size_t size)
{
    const size_t whole = bni_block_pages(size);
    uint8_t *raw = (uint8_t *)mmap(NULL, whole + BNI_HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | BNI_MAP_ANONYMOUS, -1, 0);
    size_t before;
    if (raw == (uint8_t *)MAP_FAILED)
        return NULL;
    before = (BNI_HUGE_PAGE - (size_t)((uintptr_t)raw & (BNI_HUGE_PAGE - 1))) & (BNI_HUGE_PAGE - 1);
    if (before > 0)
        munmap(raw, before);
    if (before < BNI_HUGE_PAGE)
        munmap(raw + before + whole, BNI_HUGE_PAGE - before);
    bni_huge_pages(raw + before, whole);
    return raw + before;
}
#endif

/* Other blocks are malloc's, aligned by hand: the true address stands just below. */
static void *bni_default_alloc(void *user, size_t size, size_t align)
{
    uint8_t *raw, *p;
    (void)user;
#if defined(BNI_MAP_ANONYMOUS)
    if (bni_block_maps(size))                  /* ours need no more than its alignment */
        return bni_block_map(size);
#endif
    if (size > SIZE_MAX - align - sizeof(void *))
        return NULL;
    raw = (uint8_t *)malloc(size + align + sizeof(void *));
    if (!raw)
        return NULL;
    p = (uint8_t *)(((uintptr_t)raw + sizeof(void *) + align - 1) & ~(uintptr_t)(align - 1));
    memcpy(p - sizeof(void *), &raw, sizeof(void *));
    return p;
}

static void bni_default_free(void *user, void *memory, size_t size)
{
    void *raw;
    (void)user;
    (void)size;
#if defined(BNI_MAP_ANONYMOUS)
    if (bni_block_maps(size)) {
        munmap(memory, bni_block_pages(size));
        return;
    }
#endif
    memcpy(&raw, (uint8_t *)memory - sizeof(void *), sizeof(void *));
    free(raw);
}

/* The host's allocator, or malloc's where it gave none. */
BNI_INLINE bitnet_allocator bni_allocator_or_default(bitnet_allocator a)
{
    if (!a.alloc || !a.free) {
        a.alloc = bni_default_alloc;
        a.free = bni_default_free;
        a.user = NULL;
    }
    return a;
}

/* NULL on failure, also where size does not fit a 32-bit host. */
static void *bni_alloc(const bitnet_allocator *a, uint64_t size, size_t align)
{
    if (size > (uint64_t)(SIZE_MAX / 2))
        return NULL;
    return a->alloc(a->user, (size_t)size, align);
}

/* NULL is allowed. size: as given to bni_alloc. */
static void bni_free(const bitnet_allocator *a, void *memory, uint64_t size)
{
    if (memory)
        a->free(a->user, memory, (size_t)size);
}

#define BNI_BLOCK_ALIGN 64           /* a cache line, and the widest vector */

/* base NULL: measuring. used may pass any size while measuring; overflow says it left 64 bits. */
typedef struct bni_arena {
    uint8_t *base;
    uint64_t used;
    int overflow;
} bni_arena;

BNI_INLINE int bni_arena_measuring(const bni_arena *a) { return a->base == NULL; }

/* count * size bytes at a multiple of align (at most BNI_BLOCK_ALIGN); NULL while measuring. Not cleared. */
static void *bni_arena_take_raw(bni_arena *a, uint64_t count, uint64_t size, size_t align)
{
    uint64_t at = (a->used + align - 1) & ~(uint64_t)(align - 1), bytes;
    if (size != 0 && count > ((uint64_t)1 << 62) / size) {
        a->overflow = 1;
        return NULL;
    }
    bytes = count * size;
    if (at > ((uint64_t)1 << 62) - bytes) {
        a->overflow = 1;
        return NULL;
    }
    a->used = at + bytes;
    return a->base ? a->base + (size_t)at : NULL;
}

/* The same, cleared. */
static void *bni_arena_take(bni_arena *a, uint64_t count, uint64_t size, size_t align)
{
    void *p = bni_arena_take_raw(a, count, size, align);
    if (p)
        memset(p, 0, (size_t)(count * size));
    return p;
}

/* a * b, or UINT64_MAX where it doesn't fit: sizes from a file are multiplied with this. */
BNI_INLINE uint64_t bni_mul(uint64_t a, uint64_t b)
{
    return a != 0 && b > UINT64_MAX / a ? UINT64_MAX : a * b;
}

/* ======================================================================================================
   >>errors    One way to fail
   ======================================================================================================
   return bni_fail(err, CODE, byte, "text", ...): the code for the program, the text for the person, the byte of the
   file for both. The formatter is our own and small, since BITNET_NO_STDIO leaves no snprintf. */

typedef struct bni_str { const char *data; size_t size; } bni_str;

BNI_INLINE bni_str bni_str_of(const char *text)
{
    bni_str s;
    s.data = text;
    s.size = strlen(text);
    return s;
}

BNI_INLINE int bni_str_equal(bni_str s, const char *text)
{
    size_t n = strlen(text);
    return s.size == n && memcmp(s.data, text, n) == 0;
}

/* Bytes of the printable UTF-8 character at p [left]; 0: a control character, or no UTF-8. Names from a file end up on
   terminals and in logs. (The exact decoder is in >>unicode; overlong forms pass here and do no harm.) */
static size_t bni_printable(const char *p, size_t left)
{
    const uint8_t *b = (const uint8_t *)p;
    size_t i, n = b[0] < 0x80 ? 1 : b[0] < 0xc2 ? 0 : b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : b[0] < 0xf5 ? 4 : 0;
    if (n > left || (n == 1 && (b[0] < 32 || b[0] == 127)) || (n == 2 && b[0] == 0xc2 && b[1] < 0xa0))
        return 0;
    for (i = 1; i < n; i++)
        if ((b[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

/* Copies a string into a fixed field, cut between characters where it does not fit; what is not printable UTF-8
   becomes '?'. */
static void bni_str_copy(char *to, size_t capacity, bni_str s)
{
    size_t i, n = 0, size;
    for (i = 0; i < s.size; i += size) {
        size_t good = bni_printable(s.data + i, s.size - i);
        size = good ? good : 1;
        if (n + size >= capacity)
            break;
        if (good)
            memcpy(to + n, s.data + i, size);
        else
            to[n] = '?';
        n += size;
    }
    to[n] = 0;
}

/* Text of v at the end of buffer [24]; base 10 or 16. */
static bni_str bni_number(char *buffer, uint64_t v, unsigned base)
{
    bni_str s;
    char *p = buffer + 24;
    do {
        *--p = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    s.data = p;
    s.size = (size_t)(buffer + 24 - p);
    return s;
}

/* Appends to text [capacity], cutting; returns the new length. */
static size_t bni_append(char *text, size_t capacity, size_t length, bni_str s)
{
    size_t n = length + 1 < capacity ? capacity - 1 - length : 0;
    if (n > s.size)
        n = s.size;
    bni_str_copy(text + length, n + 1, s);
    return length + strlen(text + length);
}

/* %s const char *, %S const bni_str *, %d int, %u uint64_t, %x uint64_t in hex, %%. */
static void bni_format_list(char *text, size_t capacity, const char *format, va_list args)
{
    size_t length = 0;
    char number[24];
    text[0] = 0;
    for (; *format; format++) {
        bni_str s;
        s.data = format;
        s.size = 1;
        if (*format == '%') {
            format++;
            if (*format == 's') {
                s = bni_str_of(va_arg(args, const char *));
            } else if (*format == 'S') {
                s = *va_arg(args, const bni_str *);
            } else if (*format == 'd') {
                int v = va_arg(args, int);
                if (v < 0)
                    length = bni_append(text, capacity, length, bni_str_of("-"));
                s = bni_number(number, v < 0 ? (uint64_t)(-(int64_t)v) : (uint64_t)v, 10);
            } else if (*format == 'u' || *format == 'x') {
                s = bni_number(number, va_arg(args, uint64_t), *format == 'u' ? 10 : 16);
            } else {
                s.data = format;
            }
        }
        length = bni_append(text, capacity, length, s);
    }
}

static bitnet_result bni_fail(bitnet_error *err, bitnet_result code, uint64_t offset, const char *format, ...)
{
    if (err) {
        va_list args;
        err->code = code;
        err->offset = offset;
        va_start(args, format);
        bni_format_list(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return code;
}

static void bni_notice(const bitnet_logger *logger, bitnet_log_level level, const char *format, ...)
{
    char text[320];
    va_list args;
    if (!logger->log)
        return;
    va_start(args, format);
    bni_format_list(text, sizeof text, format, args);
    va_end(args);
    logger->log(logger->user, level, text);
}
/* ======================================================================================================
   >>numbers    Arithmetic that gives the same bits everywhere
   ======================================================================================================
   The logits of a model must not depend on compiler, optimisation level or instruction set. IEEE 754 makes +, -, *, /
   and square root exact functions of their operands; everything else here is built from them in a fixed order, so it
   is exact in the same sense. libm is not used: two C libraries disagree in the last bit of exp.

   Two habits of compilers break this. Re-association and friends (-ffast-math) are taken back by the pragmas at the
   start of the implementation. Contraction of a*b + c into one fused instruction is, on gcc; clang's code generator
   fuses under -ffast-math and -ffp-contract=fast whatever the pragmas say, because the flag is global to the back end.
   An empty asm statement that claims to change the product stops it. So the rule of this file is:

       a product that is added to something is written bni_mulf(a, b) or bni_muld(a, b).

   bni_self_check tests at run time that the build kept these promises.
   Read first: bni_mulf, bni_round_even, bni_expf. */

/* Makes x a value that the code generator can't look behind. Only clang needs it, and only machines that can fuse; x86
   counts as one even without FMA, because these functions are inlined into kernels whose target has it. */
#if !defined(__clang__) || defined(__wasm__)
  #define BNI_SETTLE(x) ((void)0)
#elif BNI_X86
  #define BNI_SETTLE(x) __asm__("" : "+x"(x))
#elif BNI_ARM64
  #define BNI_SETTLE(x) __asm__("" : "+w"(x))
#else
  #define BNI_SETTLE(x) __asm__("" : "+m"(x))
#endif

/* a * b rounded to float, never fused with what follows. */
BNI_INLINE float bni_mulf(float a, float b)
{
    float p = a * b;
    BNI_SETTLE(p);
    return p;
}

/* a * b rounded to double, never fused with what follows. */
BNI_INLINE double bni_muld(double a, double b)
{
    double p = a * b;
    BNI_SETTLE(p);
    return p;
}

/* n rounded up to whole vectors of 16: the padded length of every f32 row. */
BNI_INLINE int bni_pad16(int n) { return (n + 15) & ~15; }

/* ------------------------------------------------------------------------------------ rounding, f16, bf16 */

/* The integer nearest to x, halves to the even one: what cvtps2dq and fcvtns do. Too large, infinite or not a
   number: INT32_MIN, as on x86. */
BNI_INLINE int32_t bni_round_even(float x)
{
    float a = bni_bits_float(bni_float_bits(x) & 0x7fffffffu);
    int32_t i;
    /* floats from 2^23 on are integers, so adding 2^23 leaves no room for a fraction and rounds it away */
    if (a < 8388608.0f) {
        a = a + 8388608.0f;
        i = (int32_t)(bni_float_bits(a) - 0x4b000000u);
    } else if (a < 2147483648.0f) {
        i = (int32_t)a;
    } else {
        return INT32_MIN;
    }
    return bni_float_bits(x) >> 31 ? -i : i;
}

/* Exact. A signalling NaN becomes quiet, as vcvtph2ps does it. */
BNI_INLINE float bni_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    if (exponent == 31)
        return bni_bits_float(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0u));
    if (exponent == 0)               /* denormal: fraction * 2^-24, which float can hold normalised */
        return bni_bits_float(sign | bni_float_bits((float)(int32_t)fraction * 5.9604644775390625e-8f));
    return bni_bits_float(sign | (exponent + 112u) << 23 | fraction << 13);
}

/* The nearest f16, halves to even; overflow gives infinity, NaN stays NaN. */
BNI_INLINE uint16_t bni_f32_to_f16(float x)
{
    uint32_t bits = bni_float_bits(x), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu, half, rest, shift;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x477ff000u)            /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x33000000u)             /* below 2^-25, half of the smallest denormal */
        return (uint16_t)sign;
    if (a >= 0x38800000u) {          /* normal: drop 13 bits and move the exponent's bias from 127 to 15 */
        shift = 13;
        half = (a >> 13) - (112u << 10);
    } else {                         /* denormal: the hidden bit becomes visible and moves right */
        shift = 126u - (a >> 23);
        a = (a & 0x7fffffu) | 0x800000u;
        half = a >> shift;
    }
    rest = a & ((1u << shift) - 1u);
    if (rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && (half & 1u)))
        half++;                      /* a carry into the exponent is the right answer, too */
    return (uint16_t)(sign | half);
}

/* bf16 is the upper half of a float. */
BNI_INLINE float bni_bf16_to_f32(uint16_t h) { return bni_bits_float((uint32_t)h << 16); }

/* -------------------------------------------------------------------------------------------- square roots */

/* The correctly rounded square root, as IEEE 754 wants it; NaN below zero. The instruction where there is one (the C
   operator does not exist, sqrt() is libm's, and compilers replace it by an estimate under -ffast-math). */
#if defined(__GNUC__) && BNI_X86
BNI_INLINE double bni_sqrt(double x) { double r; __asm__("sqrtsd %1, %0" : "=x"(r) : "x"(x)); return r; }
BNI_INLINE float bni_sqrtf(float x) { float r; __asm__("sqrtss %1, %0" : "=x"(r) : "x"(x)); return r; }
#elif defined(__GNUC__) && BNI_ARM64
BNI_INLINE double bni_sqrt(double x) { double r; __asm__("fsqrt %d0, %d1" : "=w"(r) : "w"(x)); return r; }
BNI_INLINE float bni_sqrtf(float x) { float r; __asm__("fsqrt %s0, %s1" : "=w"(r) : "w"(x)); return r; }
#else
/* Digit by digit in integers: 54 binary digits of the root, the last of which only rounds. */
static double bni_sqrt(double x)
{
    uint64_t bits = bni_double_bits(x), fraction, root = 0, rest = 0;
    int exponent = (int)(bits >> 52), i;
    if (bits << 1 == 0 || bits == 0x7ff0000000000000u)
        return x;
    if (bits > 0x7ff0000000000000u)
        return bni_bits_double(0x7ff8000000000000u);
    fraction = bits & 0xfffffffffffffu;
    if (exponent == 0)
        for (exponent = 1; !(fraction >> 52); exponent--)
            fraction <<= 1;
    fraction |= (uint64_t)1 << 52;
    exponent -= 1023;
    if (exponent & 1) {              /* an even exponent halves exactly */
        fraction <<= 1;
        exponent--;
    }
    /* the radicand is fraction * 2^54, 108 bits: two of them come down per digit, the lower 54 are zeros */
    for (i = 53; i >= 0; i--) {
        uint64_t two = i >= 27 ? fraction >> (2 * (i - 27)) & 3u : 0u, trial = root << 2 | 1u;
        rest = rest << 2 | two;
        root <<= 1;
        if (rest >= trial) {
            rest -= trial;
            root |= 1u;
        }
    }
    root = (root >> 1) + (root & 1u);          /* never a tie: a root with 54 digits has a square with 107 */
    return bni_bits_double(((uint64_t)(exponent / 2 + 1022) << 52) + root);
}

/* Rounding twice does no harm here: double has more than twice the digits of float, and two to spare. */
BNI_INLINE float bni_sqrtf(float x) { return (float)bni_sqrt((double)x); }
#endif

/* ---------------------------------------------------------------------------------------------- exponentials */

/* The constants of bni_expf and of its vector form: ln 2 in two parts (n * HI is exact for |n| < 2^14) and a
   polynomial for (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2 (S. Moshier, Cephes). */
#define BNI_EXP_LOG2E 1.44269504088896341f
#define BNI_EXP_LN2_HI 0.693359375f
#define BNI_EXP_LN2_LO (-2.12194440e-4f)
#define BNI_EXP_P0 1.9875691500e-4f
#define BNI_EXP_P1 1.3981999507e-3f
#define BNI_EXP_P2 8.3334519073e-3f
#define BNI_EXP_P3 4.1665795894e-2f
#define BNI_EXP_P4 1.6666665459e-1f
#define BNI_EXP_P5 5.0000001201e-1f
#define BNI_EXP_MIN (-104.0f)        /* e^-104 < 2^-150 rounds to 0 */
#define BNI_EXP_MAX 89.0f            /* e^89 > 2^128 rounds to infinity */

/* e^x to 1.5 units in the last place; 0 from -104 down, infinity from 89 up and for NaN. Total: no input traps.
   >>kernels has the same operations in the same order. */
BNI_INLINE float bni_expf(float x)
{
    float n, r, p;
    int32_t i;
    uint32_t half;
    x = x < BNI_EXP_MAX ? x : BNI_EXP_MAX;
    x = x > BNI_EXP_MIN ? x : BNI_EXP_MIN;
    i = bni_round_even(bni_mulf(x, BNI_EXP_LOG2E));
    n = (float)i;
    r = x - bni_mulf(n, BNI_EXP_LN2_HI);
    r = r - bni_mulf(n, BNI_EXP_LN2_LO);
    p = bni_mulf(BNI_EXP_P0, r) + BNI_EXP_P1;
    p = bni_mulf(p, r) + BNI_EXP_P2;
    p = bni_mulf(p, r) + BNI_EXP_P3;
    p = bni_mulf(p, r) + BNI_EXP_P4;
    p = bni_mulf(p, r) + BNI_EXP_P5;
    p = (bni_mulf(p, bni_mulf(r, r)) + r) + 1.0f;
    /* times 2^i in two steps, so that neither factor leaves the range of normal numbers: -150 <= i <= 128 */
    half = (uint32_t)(i + 256) >> 1;
    p = p * bni_bits_float((half - 1u) << 23);
    return p * bni_bits_float(((uint32_t)(i + 255) - half) << 23);
}

/* 2^x for x <= 1, to 18 bits: attention's weights have 12. Exact for integers; 2^-100 from -100 down, so that its
   products stay normal floats, which are fast; NaN for NaN. The constants make the largest relative error of the
   polynomial 1 + c1 r + ... + c4 r^4 on |r| <= 1/2 the least. >>kernels has the same operations in the same order. */
#define BNI_EXP2_C1 6.9312417507e-01f
#define BNI_EXP2_C2 2.4024099112e-01f
#define BNI_EXP2_C3 5.5906467140e-02f
#define BNI_EXP2_C4 9.5828697085e-03f

BNI_INLINE float bni_exp2f(float x)
{
    float r, p;
    int32_t i;
    x = -100.0f > x ? -100.0f : x;
    i = bni_round_even(x);
    r = x - (float)i;
    p = bni_mulf(BNI_EXP2_C4, r) + BNI_EXP2_C3;
    p = bni_mulf(p, r) + BNI_EXP2_C2;
    p = bni_mulf(p, r) + BNI_EXP2_C1;
    p = bni_mulf(p, r) + 1.0f;
    return bni_bits_float(bni_float_bits(p) + ((uint32_t)i << 23));
}

/* The nearest integer. */
BNI_INLINE float bni_whole(float x)
{
    return bni_bits_float(bni_float_bits(x) & 0x7fffffffu) < 8388608.0f ? (float)bni_round_even(x) : x;
}

/* 1/n!, the coefficients of e^x, sin x and cos x. */
static const double bni_inverse_factorial[] = {
    1.0, 1.0, 0.5, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
    1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0, 1.0 / 87178291200.0, 1.0 / 1307674368000.0,
    1.0 / 20922789888000.0, 1.0 / 355687428096000.0, 1.0 / 6402373705728000.0
};

#define BNI_LN2_HI 6.93147180369123816490e-01            /* 33 bits of ln 2, */
#define BNI_LN2_LO 1.90821492927058770002e-10            /* and the rest */

/* e^x to 1e-15; 0 below -745.2, infinity above 709.8 and for NaN. */
static double bni_exp(double x)
{
    double n, r, p;
    int32_t i, half;
    if (!(x < 709.79))
        return bni_bits_double(0x7ff0000000000000u);
    if (x < -745.2)
        return 0.0;
    i = (int32_t)(bni_muld(x, 1.44269504088896340736) + (x < 0 ? -0.5 : 0.5));
    n = (double)i;
    r = x - bni_muld(n, BNI_LN2_HI);
    r = r - bni_muld(n, BNI_LN2_LO);
    p = bni_inverse_factorial[14];             /* |r| <= 0.35: the next term is below 2^-57 */
    for (half = 13; half >= 0; half--)
        p = bni_muld(p, r) + bni_inverse_factorial[half];
    half = i / 2;
    p = p * bni_bits_double((uint64_t)(half + 1023) << 52);
    return p * bni_bits_double((uint64_t)(i - half + 1023) << 52);
}

/* The natural logarithm to 1e-15; -infinity at 0, NaN below. */
static double bni_log(double x)
{
    uint64_t bits = bni_double_bits(x);
    int32_t exponent = 0, k;
    double m, s, z, p, n;
    if (bits << 1 == 0)
        return bni_bits_double(0xfff0000000000000u);
    if (bits >= 0x7ff0000000000000u)
        return bits == 0x7ff0000000000000u ? x : bni_bits_double(0x7ff8000000000000u);
    if (bits < 0x10000000000000u) {            /* denormal: scale by 2^54 first */
        bits = bni_double_bits(x * 18014398509481984.0);
        exponent = -54;
    }
    /* x = m * 2^exponent with sqrt(1/2) <= m < sqrt(2): adding makes the exponent step at sqrt(2), not at 2 */
    bits += 0x3ff0000000000000u - 0x3fe6a09e667f3bcdu;
    exponent += (int32_t)(bits >> 52) - 1023;
    m = bni_bits_double((bits & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu);
    /* log m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...), s^2 < 0.0295 */
    s = (m - 1.0) / (m + 1.0);
    z = s * s;
    p = 1.0 / 25;
    for (k = 23; k >= 3; k -= 2)
        p = bni_muld(p, z) + 1.0 / k;
    s = s + s;
    n = (double)exponent;
    return bni_muld(n, BNI_LN2_HI) + (s + (bni_muld(s, bni_muld(z, p)) + bni_muld(n, BNI_LN2_LO)));
}

/* x^y for x > 0, to about 1e-15 * max(1, |y log x|). */
BNI_INLINE double bni_pow(double x, double y) { return bni_exp(bni_muld(y, bni_log(x))); }

BNI_INLINE float bni_logf(float x) { return (float)bni_log((double)x); }

/* tanh u = 1 - 2 / (e^2u + 1), in double because of the subtraction. */
BNI_INLINE float bni_tanhf(float u) { return (float)(1.0 - 2.0 / (bni_exp(2.0 * (double)u) + 1.0)); }

/* Sine and cosine of x in radians to 1e-15 for |x| up to 1e6; beyond 2^30 and for NaN: 0 and 1.
   x - n * pi/2 with pi/2 as two parts of 33 bits, so that n * part is exact for n < 2^20, and the rest; then Taylor. */
static void bni_sincos(double x, double *s, double *c)
{
    double n, r, z, sine, cosine;
    int32_t quadrant, k;
    *s = 0.0;
    *c = 1.0;
    if (!(x < 1073741824.0 && x > -1073741824.0))
        return;
    quadrant = (int32_t)(bni_muld(x, 0.63661977236758134308) + (x < 0 ? -0.5 : 0.5));
    n = (double)quadrant;
    r = x - bni_muld(n, 1.57079632673412561417e+00);
    r = r - bni_muld(n, 6.07710050630396597660e-11);
    r = r - bni_muld(n, 2.02226624879595063154e-21);
    z = bni_muld(r, r);
    sine = bni_inverse_factorial[17];
    cosine = bni_inverse_factorial[18];
    for (k = 15; k >= 1; k -= 2)
        sine = bni_inverse_factorial[k] - bni_muld(sine, z);
    for (k = 16; k >= 0; k -= 2)
        cosine = bni_inverse_factorial[k] - bni_muld(cosine, z);
    sine = sine * r;
    *s = quadrant & 1 ? cosine : sine;
    *c = quadrant & 1 ? sine : cosine;
    if (quadrant & 2)
        *s = -*s;
    if ((quadrant + 1) & 2)
        *c = -*c;
}

/* -------------------------------------------------------------------------------------------- random numbers */

/* splitmix64's finaliser (S. Vigna, public domain): every bit of z reaches every bit of the result. */
BNI_INLINE uint64_t bni_mix64(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The counter-th number of the stream named by seed. A function, not a generator: nothing to store, save or replay. */
BNI_INLINE uint64_t bni_random(uint64_t seed, uint64_t counter)
{
    return bni_mix64(bni_mix64(seed + 0x9e3779b97f4a7c15u) + (counter + 1) * 0x9e3779b97f4a7c15u);
}

/* The same as a number in [0, 1), 53 bits. */
BNI_INLINE double bni_random_unit(uint64_t seed, uint64_t counter)
{
    return (double)(int64_t)(bni_random(seed, counter) >> 11) * 1.1102230246251565404e-16;
}

/* -------------------------------------------------------------------------------------------------- self check */

/* 0 when this build and the present floating-point environment keep the rules above, else the number of the first
   broken one. Takes well under a microsecond. The operands are volatile so that no compiler can know the answers. */
static int bni_self_check(void)
{
    volatile float a = 1.000244140625f, b = -1.00048828125f, big = 8388608.0f, small = 1.17549435e-38f, third = 41.0f;
    volatile double wide = 9007199254740992.0, c = 1.000000007450580596923828125, d = -1.00000001490116119384765625;
    float p;
    if (bni_mulf(a, a) + b != 0.0f)            /* 1: (1 + 2^-12)^2 - (1 + 2^-11) is 2^-24 when fused */
        return 1;
    if (bni_muld(c, c) + d != 0.0)             /* the same with 2^-27 */
        return 1;
    p = 2.5f + big;                            /* 2: halves to even, sums in the order written, no excess digits */
    if (p - big != 2.0f || (wide + 1.0) - wide != 0.0 || (1.5f + big) - big != 2.0f)
        return 2;
    if (bni_float_bits(small * 0.5f) != 0x400000u || bni_float_bits(bni_bits_float(1u) + small * 0.0f) != 1u)
        return 3;                              /* 3: denormals are kept */
    if (third / third != 1.0f || bni_float_bits(1.0f / third) != 0x3cc7ce0cu || 5.0f * (1.0f / third) == 5.0f / third)
        return 4;                              /* 4: division divides; the last product differs from the quotient */
    p = bni_expf(-third / 41.0f);
    if (bni_float_bits(p) != 0x3ebc5ab2u || bni_float_bits(bni_sqrtf(a + 1.0f)) != 0x3fb507c7u)
        return 5;
    return 0;
}

/* ======================================================================================================
   >>gguf    The file format
   ======================================================================================================
   A GGUF file (versions 2 and 3; all numbers little-endian) is

       "GGUF" | u32 version | u64 n_tensors | u64 n_kv
       n_kv      x { string key | u32 type | value }                     metadata: "general.architecture" = ...
       n_tensors x { string name | u32 n_dims | u64 ne[n_dims] | u32 type | u64 offset }
       padding to general.alignment (default 32)
       tensor data, each tensor at data_start + offset

       string = u64 length | bytes, no NUL          array value = u32 element type | u64 count | elements
       value types: 0 u8  1 i8  2 u16  3 i16  4 u32  5 i32  6 f32  7 bool  8 string  9 array  10 u64  11 i64  12 f64

   ne[0] is the contiguous dimension: a matrix y = W x has ne[0] = inputs, ne[1] = outputs.

   Nothing in a file is trusted. Every byte is read through one bounded cursor which, once it has run over the end,
   stays failed and remembers where; counts are checked against the bytes that are left before anything is
   allocated for them. */

#define BNI_MAX_KV 65536             /* published files have under 50 */
#define BNI_MAX_TENSORS 65536        /* published files have under 1,000 */
#define BNI_MAX_DIMS 4               /* as ggml */
#define BNI_MAX_NAME 64              /* as ggml, with its NUL */
#define BNI_MAX_KEY 65535            /* as the format's description says */

enum {
    BNI_KV_U8, BNI_KV_I8, BNI_KV_U16, BNI_KV_I16, BNI_KV_U32, BNI_KV_I32, BNI_KV_F32, BNI_KV_BOOL, BNI_KV_STRING,
    BNI_KV_ARRAY, BNI_KV_U64, BNI_KV_I64, BNI_KV_F64, BNI_KV_TYPES
};

/* A window [data, data + size) on the file's first bytes, and the place in it. */
typedef struct bni_cursor {
    const uint8_t *data;
    uint64_t size, at;
    int failed;                      /* 1: something wanted more bytes than there are */
} bni_cursor;

/* A metadata entry. Everything points into the header; values are read where they are used, at any alignment. */
typedef struct bni_kv {
    bni_str key;
    uint32_t type;                   /* BNI_KV_... */
    uint32_t elem;                   /* element type of an array */
    uint64_t count;                  /* elements of an array */
    const uint8_t *value;            /* scalars: the bytes; strings: the text; arrays: the first element */
    uint64_t size;                   /* bytes of value */
    uint64_t offset;                 /* of the key in the file, for messages */
} bni_kv;

/* An entry of the tensor table. ne beyond n_dims is 1. offset is relative to data_start until bni_gguf_place. */
typedef struct bni_tensor {
    bni_str name;
    uint32_t type, n_dims;
    uint64_t ne[BNI_MAX_DIMS];
    uint64_t offset;                 /* from the start of the file */
    uint64_t bytes;                  /* 0 where the type is unknown */
    uint64_t gap;                    /* bytes to the next tensor or the end: tells clashing types apart */
    uint64_t info_offset;            /* of the entry in the tensor table, for messages */
    int bound;                       /* 1: some weight of the model uses it */
    int form;                        /* BNI_FORM_...; of I2_S layout A stands for all */
} bni_tensor;

typedef struct bni_gguf {
    const uint8_t *header;           /* [tables_end] at least; keys, strings and names point into it; borrowed */
    uint64_t file_size, data_start, alignment;   /* bytes; alignment: a power of two */
    uint64_t tables_end;             /* where the tables end: data_start without the padding before it */
    uint32_t version;
    bni_kv *kv;
    uint64_t n_kv;
    bni_tensor *tensors;
    uint64_t n_tensors;
    uint32_t *by_name;               /* [n_tensors] indices of tensors, names rising */
    void *memory;                    /* the block that holds these tables */
    uint64_t memory_size;
} bni_gguf;

/* n bytes, or NULL (and failed) past the end. at <= size always holds, so the subtraction can't wrap, whereas at + n
   could. */
static const uint8_t *bni_take(bni_cursor *c, uint64_t n)
{
    const uint8_t *p = c->data + c->at;
    if (c->failed || n > c->size - c->at) {
        c->failed = 1;
        return NULL;
    }
    c->at += n;
    return p;
}

/* Numbers are 0 after a failure: the caller may read a whole entry and ask c->failed once. */
static uint32_t bni_take_u32(bni_cursor *c)
{
    const uint8_t *p = bni_take(c, 4);
    return p ? bni_load_u32(p) : 0;
}

static uint64_t bni_take_u64(bni_cursor *c)
{
    const uint8_t *p = bni_take(c, 8);
    return p ? bni_load_u64(p) : 0;
}

/* Borrowed from the window, not NUL-terminated; empty after a failure. bni_take has compared n with the bytes that are
   left, so it fits a size_t. */
static bni_str bni_take_string(bni_cursor *c)
{
    bni_str s;
    uint64_t n = bni_take_u64(c);
    s.data = (const char *)bni_take(c, n);
    s.size = s.data ? (size_t)n : 0;
    return s;
}

/* Bytes of a scalar value; 0 for strings, arrays and unknown types. */
static uint64_t bni_kv_scalar_size(uint32_t type)
{
    static const uint8_t size[BNI_KV_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < BNI_KV_TYPES ? size[type] : 0;
}

/* Passes over the elements of an array and checks that they are all there. Arrays of arrays are refused: no model has
   them, and they would need recursion on input. Work is bounded by the bytes of the window: an element has one at
   least. OK with c->failed set where the window ends too early. */
static bitnet_result bni_gguf_array(bni_cursor *c, bni_kv *kv, bitnet_error *err)
{
    uint64_t i, size, left;
    kv->elem = bni_take_u32(c);
    kv->count = bni_take_u64(c);
    kv->value = c->data + c->at;
    size = bni_kv_scalar_size(kv->elem);
    left = c->size - c->at;
    if (c->failed)
        return BITNET_OK;                      /* the caller reports the end of the file */
    if (kv->elem == BNI_KV_STRING) {
        /* Without this a count of 2^60 in a small file would keep the loop below busy. */
        if (kv->count > left / 8)              /* a string has 8 bytes at least */
            c->failed = 1;
        for (i = 0; i < kv->count && !c->failed; i++)
            bni_take_string(c);
    } else if (size > 0) {
        bni_take(c, bni_mul(kv->count, size));
    } else {
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "key %S: array of unknown element type %u", &kv->key,
                        (uint64_t)kv->elem);
    }
    return BITNET_OK;
}

/* One metadata entry. OK with c->failed set where the window ends too early, which may not be the file's fault; FORMAT
   only for what no larger window could cure. */
static bitnet_result bni_gguf_read_kv(bni_cursor *c, bni_kv *kv, bitnet_error *err)
{
    uint64_t size;
    const uint8_t *start;
    kv->offset = c->at;
    kv->key = bni_take_string(c);
    kv->type = bni_take_u32(c);
    kv->elem = 0;
    kv->count = 0;
    if (c->failed)
        return BITNET_OK;
    if (kv->key.size == 0 || kv->key.size > BNI_MAX_KEY)
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "metadata key of %u bytes", (uint64_t)kv->key.size);
    size = bni_kv_scalar_size(kv->type);
    start = c->data + c->at;
    if (size > 0) {
        kv->value = bni_take(c, size);
    } else if (kv->type == BNI_KV_STRING) {
        kv->value = (const uint8_t *)bni_take_string(c).data;
        start = kv->value;
    } else if (kv->type == BNI_KV_ARRAY) {
        bitnet_result r = bni_gguf_array(c, kv, err);
        if (r != BITNET_OK)
            return r;
        start = kv->value;
    } else {
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "key %S: unknown value type %u", &kv->key,
                        (uint64_t)kv->type);
    }
    kv->size = c->failed ? 0 : (uint64_t)(c->data + c->at - start);
    return BITNET_OK;
}

/* One entry of the tensor table; errors as bni_gguf_read_kv. The type is not judged here: a probe lists unknown ones.
   */
static bitnet_result bni_gguf_read_tensor(bni_cursor *c, bni_tensor *t, bitnet_error *err)
{
    uint32_t d;
    memset(t, 0, sizeof *t);
    t->info_offset = c->at;
    t->name = bni_take_string(c);
    t->n_dims = bni_take_u32(c);
    if (c->failed)
        return BITNET_OK;
    if (t->name.size == 0 || t->name.size >= BNI_MAX_NAME)
        return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor name of %u bytes (1 to %d allowed)",
                        (uint64_t)t->name.size, BNI_MAX_NAME - 1);
    if (t->n_dims == 0 || t->n_dims > BNI_MAX_DIMS)
        return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor %S: %u dimensions (1 to 4 allowed)", &t->name,
                        (uint64_t)t->n_dims);
    for (d = 0; d < BNI_MAX_DIMS; d++) {
        t->ne[d] = d < t->n_dims ? bni_take_u64(c) : 1;
        if (!c->failed && t->ne[d] == 0)
            return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor %S: dimension %d is zero", &t->name,
                            (int)d);
    }
    t->type = bni_take_u32(c);
    t->offset = bni_take_u64(c);
    return BITNET_OK;
}

/* The entry, or NULL. A walk: there are some fifty keys, and a few dozen questions in all. */
static const bni_kv *bni_gguf_find(const bni_gguf *g, const char *key)
{
    uint64_t i;
    for (i = 0; i < g->n_kv; i++)
        if (bni_str_equal(g->kv[i].key, key))
            return &g->kv[i];
    return NULL;
}

/* Below, equal to or above 0, by bytes; a prefix comes first. */
static int bni_gguf_compare_str(bni_str a, bni_str b)
{
    size_t n = a.size < b.size ? a.size : b.size;
    int c = n ? memcmp(a.data, b.data, n) : 0;
    return c ? c : (a.size > b.size) - (a.size < b.size);
}

/* Sorts order [n], indices of items, so that the items rise (a heap sort: no recursion, no memory, n log n on any
   input, also a hostile one). before(items, a, b): item a stands before item b. */
static void bni_sort(uint32_t *order, uint64_t n, int (*before)(const void *, uint32_t, uint32_t), const void *items)
{
    uint64_t start = n / 2, end = n, root, child;
    uint32_t t;
    while (end > 1) {
        if (start > 0) {
            start--;
        } else {
            end--;
            t = order[end];
            order[end] = order[0];
            order[0] = t;
        }
        for (root = start; (child = 2 * root + 1) < end; root = child) {
            if (child + 1 < end && before(items, order[child], order[child + 1]))
                child++;
            if (!before(items, order[root], order[child]))
                break;
            t = order[root];
            order[root] = order[child];
            order[child] = t;
        }
    }
}

/* Orders for bni_sort: keys and tensors by name; tensors by place, ties by index so that the order is total. */
static int bni_kv_before(const void *items, uint32_t a, uint32_t b)
{
    const bni_kv *kv = (const bni_kv *)items;
    return bni_gguf_compare_str(kv[a].key, kv[b].key) < 0;
}

static int bni_tensor_name_before(const void *items, uint32_t a, uint32_t b)
{
    const bni_tensor *t = (const bni_tensor *)items;
    return bni_gguf_compare_str(t[a].name, t[b].name) < 0;
}

static int bni_tensor_place_before(const void *items, uint32_t a, uint32_t b)
{
    const bni_tensor *t = (const bni_tensor *)items;
    return t[a].offset != t[b].offset ? t[a].offset < t[b].offset : a < b;
}

/* Two keys or two tensors of one name would make the meaning depend on the reader. order: scratch. */
static bitnet_result bni_gguf_check_names(const bni_gguf *g, uint32_t *order, bitnet_error *err)
{
    uint64_t i;
    for (i = 0; i < g->n_kv; i++)
        order[i] = (uint32_t)i;
    bni_sort(order, g->n_kv, bni_kv_before, g->kv);
    for (i = 1; i < g->n_kv; i++)
        if (bni_gguf_compare_str(g->kv[order[i - 1]].key, g->kv[order[i]].key) == 0)
            return bni_fail(err, BITNET_ERROR_FORMAT, g->kv[order[i]].offset, "key %S stands twice",
                            &g->kv[order[i]].key);
    for (i = 0; i < g->n_tensors; i++)
        g->by_name[i] = (uint32_t)i;
    bni_sort(g->by_name, g->n_tensors, bni_tensor_name_before, g->tensors);
    for (i = 1; i < g->n_tensors; i++) {
        const bni_tensor *a = &g->tensors[g->by_name[i - 1]], *b = &g->tensors[g->by_name[i]];
        if (bni_gguf_compare_str(a->name, b->name) == 0)
            return bni_fail(err, BITNET_ERROR_FORMAT, b->info_offset, "tensor %S stands twice", &b->name);
    }
    return BITNET_OK;
}

/* Offsets become absolute; every tensor must be aligned, inside the file, and apart from the others. Sizes are checked
   where the type's size is known (>>formats fills bytes); offset order in the file is free. */
static bitnet_result bni_gguf_place(bni_gguf *g, uint32_t *order, bitnet_error *err)
{
    uint64_t i, room = g->file_size > g->data_start ? g->file_size - g->data_start : 0;
    if (g->data_start > g->file_size && g->n_tensors > 0)
        return bni_fail(err, BITNET_ERROR_FORMAT, g->file_size, "the data would begin at byte %u of %u", g->data_start,
                        g->file_size);
    for (i = 0; i < g->n_tensors; i++) {
        bni_tensor *t = &g->tensors[i];
        if (t->offset % g->alignment != 0)
            return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor %S: offset %u is not a multiple of %u",
                            &t->name, t->offset, g->alignment);
        if (t->offset > room)
            return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset,
                            "tensor %S: starts at byte %u of the data, the file has %u", &t->name, t->offset, room);
        t->offset += g->data_start;
        order[i] = (uint32_t)i;
    }
    bni_sort(order, g->n_tensors, bni_tensor_place_before, g->tensors);
    for (i = 0; i < g->n_tensors; i++) {
        bni_tensor *t = &g->tensors[order[i]];
        t->gap = (i + 1 < g->n_tensors ? g->tensors[order[i + 1]].offset : g->file_size) - t->offset;
    }
    return BITNET_OK;
}

/* Counts that a header of this many bytes can hold, so that nothing is allocated for a lie. */
static bitnet_result bni_gguf_check_counts(const bni_gguf *g, bitnet_error *err)
{
    if (g->n_kv > BNI_MAX_KV || g->n_kv > g->file_size / 13)              /* 8 + 1 + 4 bytes: an entry's least */
        return bni_fail(err, BITNET_ERROR_FORMAT, 16, "%u metadata entries in a file of %u bytes", g->n_kv,
                        g->file_size);
    if (g->n_tensors > BNI_MAX_TENSORS || g->n_tensors > g->file_size / 33)   /* 8 + 1 + 4 + 8 + 4 + 8 */
        return bni_fail(err, BITNET_ERROR_FORMAT, 8, "%u tensors in a file of %u bytes", g->n_tensors, g->file_size);
    return BITNET_OK;
}

/* The first 24 bytes. 0x46554747 is "GGUF". A version whose low half is 0 is a small number with its bytes turned
   around: a big-endian file. Version 1 had 32-bit counts and is long gone. */
static bitnet_result bni_gguf_start(bni_gguf *g, bni_cursor *c, bitnet_error *err)
{
    uint32_t magic = bni_take_u32(c);
    g->version = bni_take_u32(c);
    g->n_tensors = bni_take_u64(c);
    g->n_kv = bni_take_u64(c);
    if (c->failed)
        return BITNET_OK;
    if (magic != 0x46554747u)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "not a GGUF file (it starts with %x, not 46554747)",
                        (uint64_t)magic);
    if ((g->version & 0xffff) == 0)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 4, "a big-endian GGUF file");
    if (g->version < 2 || g->version > 3)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 4, "GGUF version %u (2 and 3 are read)", (uint64_t)g->version);
    return bni_gguf_check_counts(g, err);
}

/* general.alignment, 32 where it is absent. A power of two, so that rounding up is a mask. */
static bitnet_result bni_gguf_alignment(bni_gguf *g, bitnet_error *err)
{
    const bni_kv *kv = bni_gguf_find(g, "general.alignment");
    g->alignment = 32;
    if (!kv)
        return BITNET_OK;
    g->alignment = kv->type == BNI_KV_U32 ? bni_load_u32(kv->value) : 0;
    if (g->alignment == 0 || (g->alignment & (g->alignment - 1)) != 0)
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "general.alignment is not a power of two");
    return BITNET_OK;
}

/* Frees the tables, not the header. Right for a cleared struct too. */
static void bni_gguf_close(bni_gguf *g, const bitnet_allocator *allocator)
{
    bni_free(allocator, g->memory, g->memory_size);
    memset(g, 0, sizeof *g);
}

/* Reads the tables from the file's first bytes. *short_of_bytes: the window was too small; with a larger one it may
   go well (how a reader finds out where the header ends). On success header must stay where it is. One block holds all
   tables, measured and committed by the same loop; on an error nothing is left to free. */
static bitnet_result bni_gguf_parse(bni_gguf *g, const uint8_t *header, uint64_t size, uint64_t file_size,
                                    const bitnet_allocator *allocator, int *short_of_bytes, bitnet_error *err)
{
    bni_cursor c;
    bni_arena arena;
    uint32_t *order = NULL;
    uint64_t i;
    bitnet_result r;
    memset(g, 0, sizeof *g);
    memset(&c, 0, sizeof c);
    c.data = header;
    c.size = size;
    g->header = header;
    g->file_size = file_size;
    r = bni_gguf_start(g, &c, err);
    memset(&arena, 0, sizeof arena);
    while (r == BITNET_OK && !c.failed) {
        g->kv = (bni_kv *)bni_arena_take(&arena, g->n_kv, sizeof *g->kv, 8);
        g->tensors = (bni_tensor *)bni_arena_take(&arena, g->n_tensors, sizeof *g->tensors, 8);
        g->by_name = (uint32_t *)bni_arena_take(&arena, g->n_tensors, sizeof *g->by_name, 4);
        order = (uint32_t *)bni_arena_take(&arena, g->n_kv + g->n_tensors, sizeof *order, 4);
        if (arena.base)
            break;
        g->memory_size = arena.used;
        g->memory = bni_alloc(allocator, g->memory_size, BNI_BLOCK_ALIGN);
        if (!g->memory)
            return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory for the file's tables (%u bytes)", g->memory_size);
        arena.base = (uint8_t *)g->memory;
        arena.used = 0;
    }
    for (i = 0; i < g->n_kv && r == BITNET_OK && !c.failed; i++)
        r = bni_gguf_read_kv(&c, &g->kv[i], err);
    for (i = 0; i < g->n_tensors && r == BITNET_OK && !c.failed; i++)
        r = bni_gguf_read_tensor(&c, &g->tensors[i], err);
    *short_of_bytes = r == BITNET_OK && c.failed;
    if (*short_of_bytes)
        r = bni_fail(err, BITNET_ERROR_FORMAT, c.at, "the file ends in its header (byte %u of %u)", c.at, file_size);
    if (r == BITNET_OK)
        r = bni_gguf_alignment(g, err);
    if (r == BITNET_OK) {
        g->tables_end = c.at;
        g->data_start = (c.at + g->alignment - 1) & ~(g->alignment - 1);
        r = bni_gguf_check_names(g, order, err);
    }
    if (r == BITNET_OK)
        r = bni_gguf_place(g, order, err);
    if (r != BITNET_OK)
        bni_gguf_close(g, allocator);
    return r;
}

/* The tensor of that name, or NULL. A binary search: loading asks for ten tensors per layer. */
static bni_tensor *bni_gguf_tensor(const bni_gguf *g, const char *name)
{
    uint64_t low = 0, high = g->n_tensors;
    bni_str key = bni_str_of(name);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        bni_tensor *t = &g->tensors[g->by_name[middle]];
        int c = bni_gguf_compare_str(t->name, key);
        if (c == 0)
            return t;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------ metadata values
   Converters disagree on the width and sign of integers and on f32 or f64, so any fitting type is taken. kv NULL (the
   key is absent) answers like a value of the wrong type: 0. */

/* 1: *integer is the value; 2: *real is; 0: no number. An unsigned 64-bit value over 2^63 comes out negative, and so
   is refused wherever counts are wanted. */
static int bni_kv_number(const uint8_t *p, uint32_t type, int64_t *integer, double *real)
{
    float f;
    *real = 0;
    switch (type) {
    case BNI_KV_U8: case BNI_KV_BOOL: *integer = p[0]; return 1;
    case BNI_KV_I8: *integer = (int8_t)p[0]; return 1;
    case BNI_KV_U16: *integer = bni_load_u16(p); return 1;
    case BNI_KV_I16: *integer = (int16_t)bni_load_u16(p); return 1;
    case BNI_KV_U32: *integer = bni_load_u32(p); return 1;
    case BNI_KV_I32: *integer = (int32_t)bni_load_u32(p); return 1;
    case BNI_KV_U64: case BNI_KV_I64: *integer = (int64_t)bni_load_u64(p); return 1;
    case BNI_KV_F32: f = bni_load_f32(p); *real = (double)f; return 2;
    case BNI_KV_F64: *real = bni_bits_double(bni_load_u64(p)); return 2;
    default: return 0;
    }
}

/* 1 and a value >= 0; negative numbers do not fit. */
static int bni_kv_uint(const bni_kv *kv, uint64_t *out)
{
    int64_t integer;
    double real;
    if (!kv || bni_kv_number(kv->value, kv->type, &integer, &real) != 1 || integer < 0)
        return 0;
    *out = (uint64_t)integer;
    return 1;
}

/* 1 and the nearest float, or 0. It may be infinite or NaN: ranges are the caller's to check. */
static int bni_kv_float(const bni_kv *kv, float *out)
{
    int64_t integer = 0;
    double real;
    int kind = kv ? bni_kv_number(kv->value, kv->type, &integer, &real) : 0;
    if (kind == 0)
        return 0;
    *out = kind == 1 ? (float)integer : (float)real;
    return 1;
}

/* 1 and 0 or 1, or 0 where the entry is absent or no integer. */
static int bni_kv_bool(const bni_kv *kv, int *out)
{
    uint64_t v;
    if (!bni_kv_uint(kv, &v))
        return 0;
    *out = v != 0;
    return 1;
}

/* 1 and the text, borrowed from the header, or 0. */
static int bni_kv_string(const bni_kv *kv, bni_str *out)
{
    if (!kv || kv->type != BNI_KV_STRING)
        return 0;
    out->data = (const char *)kv->value;
    out->size = (size_t)kv->size;
    return 1;
}

/* Elements of an array, 0 for anything else; its element type BNI_KV_..., or -1. */
BNI_INLINE uint64_t bni_kv_count(const bni_kv *kv) { return kv && kv->type == BNI_KV_ARRAY ? kv->count : 0; }
BNI_INLINE int bni_kv_elem(const bni_kv *kv) { return kv && kv->type == BNI_KV_ARRAY ? (int)kv->elem : -1; }

/* Element i of a numeric array; 0 where it is not one. */
static int64_t bni_kv_int_at(const bni_kv *kv, uint64_t i)
{
    int64_t integer = 0;
    double real;
    if (i < bni_kv_count(kv) && bni_kv_number(kv->value + i * bni_kv_scalar_size(kv->elem), kv->elem, &integer, &real) == 1)
        return integer;
    return 0;
}

/* Element i of a numeric array as a float; 0 where it is not one. */
static float bni_kv_float_at(const bni_kv *kv, uint64_t i)
{
    int64_t integer = 0;
    double real = 0;
    int kind = 0;
    if (i < bni_kv_count(kv))
        kind = bni_kv_number(kv->value + i * bni_kv_scalar_size(kv->elem), kv->elem, &integer, &real);
    return kind == 1 ? (float)integer : (float)real;
}

/* Walks an array of strings; the bounds were checked when the file was parsed. */
typedef struct bni_strings { const uint8_t *at; uint64_t left; } bni_strings;

/* At the first string; an empty walk where kv is no array of strings. */
static bni_strings bni_kv_strings(const bni_kv *kv)
{
    bni_strings s;
    s.at = kv ? kv->value : NULL;
    s.left = bni_kv_elem(kv) == BNI_KV_STRING ? kv->count : 0;
    return s;
}

/* 1 and the next string, or 0 at the end. */
static int bni_strings_next(bni_strings *s, bni_str *out)
{
    if (s->left == 0)
        return 0;
    out->size = (size_t)bni_load_u64(s->at);
    out->data = (const char *)s->at + 8;
    s->at += 8 + out->size;
    s->left--;
    return 1;
}
/* ======================================================================================================
   >>formats    Tensor types: their bits, and the way into the kernels' layout
   ======================================================================================================
   Two kinds of tensors matter here. The matrices of the layers are ternary: every weight is -1, 0 or +1 times one scale
   per matrix; a code 0, 1, 2 stands for the weight plus one. Embeddings, norms and the output matrix are numbers in
   one of ggml's types.

   I2_S (type 36) is four codes to the byte, layout A of bitnet_i2s_layout unless the caller knows better:

       byte b of a block of 32 bytes:   bits 7:6   5:4    3:2    1:0
                            columns      b        b+32   b+64   b+96        of 128 consecutive weights

   blocks run over the flat tensor, rows in order; after the nelem/4 bytes of codes follow 32 bytes whose first four are
   the scale, f32. Code 3 is never written and counts as 0.

   The other ternary types are drawn beside the functions that read them (bni_codes_...). Each is turned into rows of codes
   and scales and forgotten: what follows knows only R16 and T5. Types that give every 64, 128 or 256 columns a scale of
   their own nearly always repeat one, since a BitNet matrix has one; where they don't, see bni_linear_grouped.

   R16 is what the kernels read. A strip is 16 rows of a matrix; a block of a strip is 16 columns of it, 64 bytes:

       dword r of the block = row r;  byte j of it:   bits 7:6     5:4     3:2     1:0
                                          columns    12 + j       8 + j   4 + j      j

   so that one shift and one mask turn a block into 64 codes, four consecutive columns of 16 rows, which is what
   pmaddubsw, vpdpbusd, sdot and AMX multiply with a broadcast of four activations: no horizontal sums anywhere.

   T5 packs the same block with a fifth group of columns, 20 columns of 16 rows in 64 bytes, 1.6 bits a weight: three to
   the fifth is 243, so five codes fit a byte. Byte j of dword r holds t0 ... t4, the codes of columns j, 4 + j, 8 + j,
   12 + j, 16 + j; with T = t0 + 3 t1 + 9 t2 + 27 t3, which is 0..80,

       T < 64:    t4 | T          2 and 6 bits: t4 <= 2, so the byte is below 192
       T >= 64:   11 | 3 (T - 64) + t4                51 values: 192..242

   A register of 64 bytes can be a table: one look-up by the low six bits turns T into the bit pairs of R16, and another
   one the rare bytes from 192 on. It pays where such a look-up is one instruction (AVX-512 VBMI).

   Both pad the rows of a strip with code 1 (weight 0), and the columns with code 0, since activations are 0 there. */

enum {
    BNI_TYPE_F32 = 0, BNI_TYPE_F16 = 1, BNI_TYPE_Q4_0 = 2, BNI_TYPE_Q8_0 = 8, BNI_TYPE_Q6_K = 14, BNI_TYPE_BF16 = 30,
    BNI_TYPE_I2_S = 36
};

/* What the bits of a ternary tensor mean: decided by its type, where that is not clear by its size, and for I2_S by the
   caller. The first four are bitnet_i2s_layout, in its order. */
enum {
    BNI_FORM_NONE, BNI_FORM_I2S_A, BNI_FORM_I2S_B, BNI_FORM_I2S_C, BNI_FORM_I2S_D, BNI_FORM_TL1, BNI_FORM_TL2,
    BNI_FORM_TQ1_0, BNI_FORM_TQ2_0, BNI_FORM_Q2_0, BNI_FORM_Q2_0_128, BNI_FORM_IQ1_BN, BNI_FORM_IQ2_BN, BNI_FORM_IQ2_BN_R4
};

typedef struct bni_type {
    uint16_t id;
    uint16_t ternary;                /* 1: fit for the matrices of a BitNet model */
    uint16_t block, bytes;           /* weights per block, bytes per block; 0: not a row of blocks, or unknown */
    const char *name;
} bni_type;

/* All types a public tool writes get their name here, so that a refusal can say it; those with bytes can be sized. */
static const bni_type bni_types[] = {
    {0, 0, 1, 4, "F32"},       {1, 0, 1, 2, "F16"},       {2, 0, 32, 18, "Q4_0"},    {3, 0, 32, 20, "Q4_1"},
    {6, 0, 32, 22, "Q5_0"},    {7, 0, 32, 24, "Q5_1"},    {8, 0, 32, 34, "Q8_0"},    {9, 0, 32, 36, "Q8_1"},
    {10, 0, 256, 84, "Q2_K"},  {11, 0, 256, 110, "Q3_K"}, {12, 0, 256, 144, "Q4_K"}, {13, 0, 256, 176, "Q5_K"},
    {14, 0, 256, 210, "Q6_K"}, {15, 0, 256, 292, "Q8_K"}, {16, 0, 0, 0, "IQ2_XXS"},  {17, 0, 0, 0, "IQ2_XS"},
    {18, 0, 0, 0, "IQ3_XXS"},  {19, 0, 0, 0, "IQ1_S"},    {20, 0, 0, 0, "IQ4_NL"},   {21, 0, 0, 0, "IQ3_S"},
    {22, 0, 0, 0, "IQ2_S"},    {23, 0, 0, 0, "IQ4_XS"},   {24, 0, 1, 1, "I8"},       {25, 0, 1, 2, "I16"},
    {26, 0, 1, 4, "I32"},      {27, 0, 1, 8, "I64"},      {28, 0, 1, 8, "F64"},      {29, 0, 0, 0, "IQ1_M"},
    {30, 0, 1, 2, "BF16"},     {34, 1, 256, 54, "TQ1_0"}, {35, 1, 256, 66, "TQ2_0"}, {36, 1, 0, 0, "I2_S"},
    {38, 1, 0, 0, "TL1"},      {39, 0, 0, 0, "TL2 or MXFP4"}, {42, 1, 0, 0, "Q2_0 or TL2"}, {134, 1, 0, 0, "IQ1_BN"},
    {135, 1, 0, 0, "IQ2_BN"},  {142, 1, 0, 0, "PQ2_0 or IQ2_TN"}, {143, 1, 0, 0, "PTQ1_0 or IQ1_TN"},
    {335, 1, 0, 0, "IQ2_BN_R4"}
};

/* The type's row of the table, or NULL. */
static const bni_type *bni_type_find(uint32_t id)
{
    size_t i;
    for (i = 0; i < sizeof bni_types / sizeof bni_types[0]; i++)
        if (bni_types[i].id == id)
            return &bni_types[i];
    return NULL;
}

static const char *bni_type_name(uint32_t id)
{
    const bni_type *t = bni_type_find(id);
    return t ? t->name : "unknown";
}

BNI_INLINE int bni_type_is_ternary(uint32_t id)
{
    const bni_type *t = bni_type_find(id);
    return t && t->ternary;
}

/* Can it be an embedding, an output matrix (>>decode reads it)? */
BNI_INLINE int bni_type_is_decodable(uint32_t id)
{
    return id == BNI_TYPE_F32 || id == BNI_TYPE_F16 || id == BNI_TYPE_BF16 || id == BNI_TYPE_Q8_0 ||
           id == BNI_TYPE_Q6_K || id == BNI_TYPE_Q4_0;
}

/* Bytes of a row of n weights; 0 where the type is unknown or n is not a multiple of its block. */
static uint64_t bni_row_bytes(uint32_t type, uint64_t n)
{
    const bni_type *t = bni_type_find(type);
    if (!t || t->bytes == 0 || n % t->block != 0)
        return 0;
    return bni_mul(n / t->block, t->bytes);
}

/* Weights of the tensor; UINT64_MAX where the product does not fit. */
static uint64_t bni_tensor_count(const bni_tensor *t)
{
    return bni_mul(bni_mul(t->ne[0], t->ne[1]), bni_mul(t->ne[2], t->ne[3]));
}

/* The type of a tensor, told by its form where the number alone may mean several. */
static const char *bni_tensor_type_name(uint32_t type, int form)
{
    static const char *const names[] = {NULL, "I2_S", "I2_S", "I2_S", "I2_S", "TL1", "TL2", "TQ1_0", "TQ2_0", "Q2_0",
                                        "Q2_0-128", "IQ1_BN", "IQ2_BN", "IQ2_BN_R4"};
    return type == 142 && form == BNI_FORM_Q2_0_128 ? "PQ2_0" : form != BNI_FORM_NONE ? names[form] : bni_type_name(type);
}

#define BNI_TERNARY_TAIL 32          /* bytes after the codes of I2_S, TL1 and TL2: the scale and padding */

/* The types of ternary matrices and what each may mean. 39 and 42 are TL2 in bitnet.cpp, before July 2026 and since; 42 is
   Q2_0 in llama.cpp, in blocks of 64, and was one of 128 in the fork that it came from; elsewhere 39 is MXFP4 and 142
   IQ2_TN. by_size: only where the size says so, too. */
static const struct { uint32_t type; uint8_t form, by_size; } bni_type_forms[] = {
    {34, BNI_FORM_TQ1_0, 0}, {35, BNI_FORM_TQ2_0, 0}, {36, BNI_FORM_I2S_A, 0}, {38, BNI_FORM_TL1, 0}, {39, BNI_FORM_TL2, 1},
    {42, BNI_FORM_TL2, 1}, {42, BNI_FORM_Q2_0, 1}, {42, BNI_FORM_Q2_0_128, 1}, {134, BNI_FORM_IQ1_BN, 0},
    {135, BNI_FORM_IQ2_BN, 0}, {142, BNI_FORM_Q2_0_128, 1}, {335, BNI_FORM_IQ2_BN_R4, 0}
};
enum { BNI_N_TYPE_FORMS = sizeof bni_type_forms / sizeof bni_type_forms[0] };

/* Bytes of a ternary tensor of n_rows by n_cols, of fewer than 2^48 weights; 0: it can't have this shape. TL2: bitnet.cpp's
   own formula, in its integer steps, whatever the tiles. */
static uint64_t bni_form_bytes(int form, uint64_t n_rows, uint64_t n_cols)
{
    const uint64_t n = n_rows * n_cols;
    switch (form) {
    case BNI_FORM_TQ1_0: return n_cols % 256 ? 0 : n / 256 * 54;
    case BNI_FORM_TQ2_0: return n_cols % 256 ? 0 : n / 256 * 66;
    case BNI_FORM_Q2_0: return n_cols % 64 ? 0 : n / 64 * 18;
    case BNI_FORM_Q2_0_128: return n_cols % 128 ? 0 : n / 128 * 34;
    case BNI_FORM_IQ1_BN: return n_cols % 64 ? 0 : n / 64 * 13 + 2 * n_rows;
    case BNI_FORM_IQ2_BN: return n_cols % 64 ? 0 : n / 4 + 4 * n_rows;
    case BNI_FORM_IQ2_BN_R4: return n_cols % 64 || n_rows % 4 ? 0 : n / 4 + 4 * n_rows;
    case BNI_FORM_TL2:
        if (n_cols < 256 || n_rows % 32)
            return 0;
        return (((n_cols - 256) * n_rows / 3 * 5 / 8 + 256 * n_rows / 2 * 4 / 8 + 31) & ~(uint64_t)31) + BNI_TERNARY_TAIL;
    default: return n % 4 ? 0 : n / 4 + BNI_TERNARY_TAIL;
    }
}

/* What the tensors of a type mean: the one form whose size fits the room that each of them has, up to its padding. NONE:
   no form does, or more than one. */
static int bni_form_of_type(const bni_gguf *g, uint32_t type)
{
    int f, form = BNI_FORM_NONE, n = 0;
    uint64_t i;
    for (f = 0; f < BNI_N_TYPE_FORMS; f++) {
        int fits = bni_type_forms[f].type == type;
        for (i = 0; i < g->n_tensors && fits && bni_type_forms[f].by_size; i++) {
            const bni_tensor *t = &g->tensors[i];
            uint64_t bytes = t->type == type ? bni_form_bytes(bni_type_forms[f].form, t->ne[1] * t->ne[2] * t->ne[3], t->ne[0]) : 0;
            fits = t->type != type || (bytes > 0 && bytes <= t->gap && t->gap - bytes < g->alignment);
        }
        if (fits) {
            form = bni_type_forms[f].form;
            n++;
        }
    }
    return n == 1 ? form : BNI_FORM_NONE;
}

/* Bytes of the tensor by its type and shape; 0 where they can't be told. */
static uint64_t bni_tensor_bytes(const bni_tensor *t)
{
    uint64_t n = bni_tensor_count(t);
    if (n == UINT64_MAX)
        return 0;
    if (t->form != BNI_FORM_NONE)
        return bni_form_bytes(t->form, n / t->ne[0], t->ne[0]);
    return bni_mul(bni_row_bytes(t->type, t->ne[0]), n / t->ne[0]);
}

/* Sets bytes of every tensor whose type has a known size, and checks that it ends before the next one begins. The
   bytes of the last may lack their final padding, not their content. */
static bitnet_result bni_gguf_check_sizes(bni_gguf *g, bitnet_error *err)
{
    uint64_t i, k;
    for (i = 0; i < g->n_tensors; i++) {
        bni_tensor *t = &g->tensors[i];
        if (bni_tensor_count(t) >= (uint64_t)1 << 48)
            return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor %S: %u x %u x %u x %u weights", &t->name,
                            t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
    }
    for (k = 0; k < BNI_N_TYPE_FORMS; k++) {
        const int form = bni_form_of_type(g, bni_type_forms[k].type);
        for (i = 0; i < g->n_tensors; i++)
            if (g->tensors[i].type == bni_type_forms[k].type)
                g->tensors[i].form = form;
    }
    for (i = 0; i < g->n_tensors; i++) {
        bni_tensor *t = &g->tensors[i];
        const bni_type *type = bni_type_find(t->type);
        t->bytes = bni_tensor_bytes(t);
        if (t->bytes == 0 && type && (type->bytes || t->form != BNI_FORM_NONE))
            return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset,
                            "tensor %S: rows of %u weights are no whole number of %s blocks", &t->name, t->ne[0],
                            type->name);
        if (t->bytes > t->gap)
            return bni_fail(err, BITNET_ERROR_FORMAT, t->offset,
                            "tensor %S: %u bytes at byte %u, but only %u before the next tensor or the end", &t->name,
                            t->bytes, t->offset, t->gap);
    }
    return BITNET_OK;
}

/* ------------------------------------------------------------------------------------------------------ I2_S */

/* The layouts of weights in memory. The first four are repacked at load; BNI_I2S is the file's own, and a product turns
   two strips at a time into R16 (bni_ref_gather). */
enum { BNI_R16 = 0, BNI_T5 = 1, BNI_TL1 = 2, BNI_TL2 = 3, BNI_N_PACKED = 4, BNI_I2S = 4, BNI_N_LAYOUTS = 5 };
static const char *const bni_layout_names[] = {"r16", "t5", "tl1", "tl2", "i2_s"};

/* Columns as the kernels count them. */
BNI_INLINE uint64_t bni_pad_cols(uint64_t n) { return (n + 15) & ~(uint64_t)15; }

/* Bytes of a strip of n_cols columns, a tensor's or as the kernels count them. */
BNI_INLINE uint64_t bni_strip_bytes(int layout, uint64_t n_cols)
{
    const uint64_t n = bni_pad_cols(n_cols);
    return layout == BNI_TL2 ? (n + 23) / 24 * 80 : layout == BNI_T5 ? (n + 19) / 20 * 64 : n / 16 * 64;
}

/* Zeros behind a row of codes that is to be packed: columns up to bni_pad_cols, and up to 19 that fill up a block. */
enum { BNI_CODES_BEHIND = 36 };

/* One row of codes, n_cols bytes of 0..2, from a whole I2_S tensor of n_cols columns. The slow and general way. */
static void bni_i2s_row_any(const uint8_t *data, bitnet_i2s_layout layout, uint64_t row, uint64_t n_cols, uint8_t *codes)
{
    uint64_t k, i, block, j;
    for (k = 0; k < n_cols; k++) {
        unsigned byte, shift;
        i = row * n_cols + k;
        if (layout == BITNET_I2S_C) {          /* four rows interleaved */
            byte = data[row / 4 * n_cols + k];
            shift = 6 - 2 * (unsigned)(row % 4);
        } else if (layout == BITNET_I2S_D) {   /* sequential */
            byte = data[i / 4];
            shift = 6 - 2 * (unsigned)(i % 4);
        } else {                               /* blocks of 128 (A) or 64 (B) weights in 32 or 16 bytes */
            unsigned bytes = layout == BITNET_I2S_B ? 16 : 32;
            block = i / (4 * bytes);
            j = i % (4 * bytes);
            byte = data[block * bytes + j % bytes];
            shift = 6 - 2 * (unsigned)(j / bytes);
        }
        codes[k] = (uint8_t)((byte >> shift) & 3);
        if (codes[k] == 3)
            codes[k] = 1;
    }
}

/* The same; rows of layout A that are whole blocks four columns at a time. */
static void bni_i2s_row(const uint8_t *data, bitnet_i2s_layout layout, uint64_t row, uint64_t n_cols, uint8_t *codes)
{
    const uint8_t *p = data + row * (n_cols / 4);
    uint64_t k;
    uint32_t four, code, run, j;
    if (layout != BITNET_I2S_A || n_cols % 128 != 0) {
        bni_i2s_row_any(data, layout, row, n_cols, codes);
        return;
    }
    for (k = 0; k < n_cols; k += 128, p += 32)
        for (j = 0; j < 32; j += 4) {
            four = bni_load_u32(p + j);
            for (run = 0; run < 4; run++) {
                code = (four >> (6 - 2 * run)) & 0x03030303u;
                code ^= (code & (code >> 1) & 0x01010101u) << 1;      /* a code 3 becomes 1 */
                bni_store_u32(codes + k + 32 * run + j, code);
            }
        }
}

/* ---------------------------------------------------------------------------------------- other ternary types */

/* A ternary tensor of a file, ready to be read row by row. */
typedef struct bni_ternary {
    int form;                        /* BNI_FORM_... */
    int bm, by, sub;                 /* tiles of TL1 and TL2: rows, columns, rows of a piece */
    uint64_t n_rows, n_cols;
    uint64_t group;                  /* columns that share a scale; n_cols: one a row, or one for all */
    uint64_t scale_at;               /* where the one scale for all is, in bytes; 0: there are more */
} bni_ternary;

/* The digits of numbers to base 3 of which every byte is the nearest above n * 256 / 243: the one from the top down is what
   a multiplication by 3 pushes out of the byte. digit n of q: 0 is the most significant. */
BNI_INLINE uint8_t bni_digit(uint8_t q, int n)
{
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    return (uint8_t)((uint8_t)(q * power[n]) * 3u >> 8);
}

/* TQ1_0, 256 weights in 54 bytes: qs[48], qh[4], f16 scale. Digit n of a byte of five weights:

       qs[m], m < 32: column 32 n + m      qs[32 + m], m < 16: 160 + 16 n + m      qh[m], four digits: 240 + 4 n + m */
static void bni_codes_tq1_0(const uint8_t *p, uint64_t n_cols, uint8_t *codes)
{
    uint64_t k;
    int m, n;
    for (k = 0; k < n_cols; k += 256, p += 54, codes += 256)
        for (n = 0; n < 5; n++) {
            for (m = 0; m < 32; m++) codes[32 * n + m] = bni_digit(p[m], n);
            for (m = 0; m < 16; m++) codes[160 + 16 * n + m] = bni_digit(p[32 + m], n);
            for (m = 0; m < 4 && n < 4; m++) codes[240 + 4 * n + m] = bni_digit(p[48 + m], n);
        }
}

/* TQ2_0, 256 weights in 66 bytes: two halves of 32 bytes, f16 scale. Bits of byte m of a half:

       1:0  column m      3:2  32 + m      5:4  64 + m      7:6  96 + m */
static void bni_codes_tq2_0(const uint8_t *p, uint64_t n_cols, uint8_t *codes)
{
    uint64_t k;
    int m;
    for (k = 0; k < n_cols; k += 256, p += 66, codes += 256)
        for (m = 0; m < 256; m++)
            codes[m] = p[m / 128 * 32 + m % 32] >> (m / 32 % 4 * 2) & 3;
}

/* Q2_0, blocks of 64 or 128 weights: f16 scale, then four weights to the byte, the first in bits 1:0. */
static void bni_codes_q2_0(const uint8_t *p, uint64_t n_cols, uint64_t block, uint8_t *codes)
{
    uint64_t k;
    for (k = 0; k < n_cols; k++)
        codes[k] = p[k / block * (block / 4 + 2) + 2 + k % block / 4] >> (k % 4 * 2) & 3;
}

/* IQ1_BN: a row is an f16 scale, then 13 bytes for 64 weights: for group i of 16, byte 3 i + j holds weights 16 i + 5 j to
   16 i + 5 j + 4, and digit i of byte 12 weight 16 i + 15. Here the first weight is the last digit. */
static void bni_codes_iq1_bn(const uint8_t *row, uint64_t n_cols, uint8_t *codes)
{
    const uint8_t *p = row + 2;
    uint64_t k;
    int i, j;
    for (k = 0; k < n_cols; k += 64, p += 13, codes += 64)
        for (i = 0; i < 4; i++) {
            for (j = 0; j < 15; j++) codes[16 * i + j] = bni_digit(p[3 * i + j / 5], 4 - j % 5);
            codes[16 * i + 15] = bni_digit(p[12], 4 - i);
        }
}

/* IQ2_BN: a row is an f32 scale, then 16 bytes for 64 weights; bits of byte m: 1:0 column m, 3:2 16 + m, 5:4 32 + m, 7:6
   48 + m. IQ2_BN_R4: four rows, their scales first; in 64 bytes for 64 columns, bits 2 s of byte 16 l + 4 r + i hold
   column 16 l + 4 s + i of row r. */
static void bni_codes_iq2_bn(const uint8_t *data, uint64_t row, uint64_t n_cols, int four, uint8_t *codes)
{
    const uint8_t *p = data + (four ? row / 4 * (16 + n_cols) + 16 : row * (4 + n_cols / 4) + 4);
    const int r = (int)(row % 4);
    uint64_t k;
    for (k = 0; k < n_cols; k++) {
        const int c = (int)(k % 64);
        codes[k] = four ? p[k / 64 * 64 + (unsigned)(c / 16 * 16 + 4 * r + c % 4)] >> (c / 4 % 4 * 2) & 3
                        : p[k / 64 * 16 + (unsigned)(c % 16)] >> (c / 16 * 2) & 3;
    }
}

/* Two nibbles 3 a + b of codes a, b; 9 to 15 mean nothing. */
BNI_INLINE void bni_codes_of_pairs(unsigned q, uint8_t *codes)
{
    codes[0] = (uint8_t)(q / 16 / 3 % 3);
    codes[1] = (uint8_t)(q / 16 % 3);
    codes[2] = (uint8_t)(q % 16 / 3 % 3);
    codes[3] = (uint8_t)(q % 16 % 3);
}

/* TL1, made for tables of pairs: a pair of codes a, b is the nibble 3 a + b, a byte four columns of a row, the first pair
   in bits 7:4. Nested tiles, the outermost first, each from left to right and then down: bm rows by `by` columns; sub
   rows by 256 / sub columns; 16 rows by 4 columns, of which a byte is a row. */
static void bni_codes_tl1(const bni_ternary *t, const uint8_t *data, uint64_t row, uint8_t *codes)
{
    const uint64_t bm = (uint64_t)t->bm, by = (uint64_t)t->by, sub = (uint64_t)t->sub, thin = 256 / sub;
    uint64_t k, at;
    for (k = 0; k < t->n_cols; k += 4, codes += 4) {
        unsigned q;
        at = row / bm * (t->n_cols / by) + k / by;
        at = at * (bm / sub) + row % bm / sub;
        at = at * (by / thin) + k % by / thin;
        at = at * (sub / 16) + row % sub / 16;
        at = at * (thin / 4) + k % thin / 4;
        q = data[at * 16 + row % 16];
        bni_codes_of_pairs(q, codes);
    }
}

/* TL2, made for tables of triples: the first columns, a multiple of `by`, in triples v = 9 a + 3 b + c of weights -1, 0, 1:
   |v| is a nibble and its sign a bit; the others in pairs as in TL1. Three regions: nibbles, signs, pairs. A run of 32
   bytes is two triples (or pairs) of 32 rows, whose middle two eights have changed places; a run of signs is eight
   triples, its word r % 16 those of rows r and r + 16 in turn, the first triple in the highest bits. Tiles of bm rows by
   `by` columns, in them 32 rows. */
static void bni_codes_tl2(const bni_ternary *t, const uint8_t *data, uint64_t row, uint8_t *codes)
{
    static const uint8_t swap[4] = {0, 2, 1, 3};
    const uint64_t by = (uint64_t)t->by, k3 = t->n_cols - t->n_cols % by, k2 = t->n_cols - k3, r = row % 32;
    const uint64_t place = 8u * swap[r / 8] + r % 8, tile = row / (uint64_t)t->bm, piece = row % (uint64_t)t->bm / 32;
    const uint64_t pieces = (uint64_t)t->bm / 32;
    const uint8_t *signs = data + k3 * t->n_rows / 6, *pairs = signs + k3 * t->n_rows / 24;
    uint64_t k, at;
    for (k = 0; k < k3; k += 3, codes += 3) {
        const uint64_t in = k % by;
        int v, bit = 15 - (int)(2 * (in % 24 / 3) + r / 16);
        at = (tile * (k3 / by) + k / by) * pieces + piece;
        v = data[(at * (by / 6) + in / 6) * 32 + place] >> (in % 6 == 0 ? 4 : 0) & 15;
        v = bni_load_u16(signs + (at * (by / 24) + in / 24) * 32 + 2 * (r % 16)) >> bit & 1 ? 13 - v : 13 + v;
        v = (v + 27) % 27;                     /* nibbles 14 and 15 mean nothing */
        codes[0] = (uint8_t)(v / 9);
        codes[1] = (uint8_t)(v / 3 % 3);
        codes[2] = (uint8_t)(v % 3);
    }
    for (k = 0; k < k2; k += 4, codes += 4) {
        unsigned q;
        at = (tile * (k2 / 32) + k / 32) * pieces + piece;
        q = pairs[(at * 8 + k % 32 / 4) * 32 + place];
        bni_codes_of_pairs(q, codes);
    }
}

/* Row `row` of the tensor at data: codes [n_cols], weight + 1: 0, 1, 2; in Q2_0 also 3. */
static void bni_ternary_codes(const bni_ternary *t, const uint8_t *data, uint64_t row, uint8_t *codes)
{
    const uint64_t n = t->n_cols;
    switch (t->form) {
    case BNI_FORM_TQ1_0: bni_codes_tq1_0(data + row * (n / 256 * 54), n, codes); break;
    case BNI_FORM_TQ2_0: bni_codes_tq2_0(data + row * (n / 256 * 66), n, codes); break;
    case BNI_FORM_Q2_0: bni_codes_q2_0(data + row * (n / 64 * 18), n, 64, codes); break;
    case BNI_FORM_Q2_0_128: bni_codes_q2_0(data + row * (n / 128 * 34), n, 128, codes); break;
    case BNI_FORM_IQ1_BN: bni_codes_iq1_bn(data + row * (n / 64 * 13 + 2), n, codes); break;
    case BNI_FORM_IQ2_BN: bni_codes_iq2_bn(data, row, n, 0, codes); break;
    case BNI_FORM_IQ2_BN_R4: bni_codes_iq2_bn(data, row, n, 1, codes); break;
    case BNI_FORM_TL1: bni_codes_tl1(t, data, row, codes); break;
    case BNI_FORM_TL2: bni_codes_tl2(t, data, row, codes); break;
    default: bni_i2s_row(data, (bitnet_i2s_layout)(t->form - BNI_FORM_I2S_A + BITNET_I2S_A), row, n, codes);
    }
}

/* The row's scales [n_cols / group]. */
static void bni_ternary_scales(const bni_ternary *t, const uint8_t *data, uint64_t row, float *scales)
{
    const uint64_t n = t->n_cols, n_groups = n / t->group;
    uint64_t i;
    switch (t->form) {
    case BNI_FORM_TQ1_0: for (i = 0; i < n_groups; i++) scales[i] = bni_f16_to_f32(bni_load_u16(data + (row * n_groups + i) * 54 + 52)); break;
    case BNI_FORM_TQ2_0: for (i = 0; i < n_groups; i++) scales[i] = bni_f16_to_f32(bni_load_u16(data + (row * n_groups + i) * 66 + 64)); break;
    case BNI_FORM_Q2_0: for (i = 0; i < n_groups; i++) scales[i] = bni_f16_to_f32(bni_load_u16(data + (row * n_groups + i) * 18)); break;
    case BNI_FORM_Q2_0_128: for (i = 0; i < n_groups; i++) scales[i] = bni_f16_to_f32(bni_load_u16(data + (row * n_groups + i) * 34)); break;
    case BNI_FORM_IQ1_BN: scales[0] = bni_f16_to_f32(bni_load_u16(data + row * (n / 64 * 13 + 2))); break;
    case BNI_FORM_IQ2_BN: scales[0] = bni_load_f32(data + row * (n / 4 + 4)); break;
    case BNI_FORM_IQ2_BN_R4: scales[0] = bni_load_f32(data + row / 4 * (16 + n) + 4 * (row % 4)); break;
    default: scales[0] = bni_load_f32(data + t->scale_at);
    }
}

/* Tiles of TL1 and TL2 by shape: bitnet.cpp's preset_kernels, and what its set-up program generates. TL2's third number is
   32 throughout; where the generated ones are zero they are the presets. */
static const struct { uint16_t n_rows, n_cols, tl1[3], tl1_generated[3], tl2[2]; } bni_tl_tiles[] = {
    {14336, 4096, {256, 128, 64}, {256, 128, 32}, {256, 96}}, {4096, 14336, {256, 128, 32}, {128, 64, 64}, {128, 96}},
    {1024, 4096, {128, 64, 64}, {256, 128, 32}, {256, 96}},   {4096, 4096, {128, 64, 32}, {128, 64, 64}, {128, 96}},
    {3200, 8640, {160, 64, 32}, {0, 0, 0}, {160, 96}},        {3200, 3200, {320, 128, 64}, {0, 0, 0}, {320, 96}},
    {8640, 3200, {320, 64, 32}, {0, 0, 0}, {320, 96}},        {1536, 4096, {256, 128, 32}, {0, 0, 0}, {256, 96}},
    {1536, 1536, {128, 64, 64}, {0, 0, 0}, {128, 192}},       {4096, 1536, {256, 128, 32}, {0, 0, 0}, {256, 96}}
};

/* "BM/BY/bm" to t; 0 if it is no such text. */
static int bni_tl_parse(bni_ternary *t, const char *text)
{
    int *const to[3] = {&t->bm, &t->by, &t->sub}, i;
    for (i = 0; i < 3; i++) {
        int n = 0, digits = 0;
        for (; *text >= '0' && *text <= '9' && digits < 5; text++, digits++)
            n = 10 * n + (*text - '0');
        if (n == 0 || *text != (i < 2 ? '/' : 0))
            return 0;
        text += i < 2;
        *to[i] = n;
    }
    return 1;
}

/* The tiles of a TL1 or TL2 matrix; tiles: as bitnet_model_desc. They must cut it into whole pieces. */
static bitnet_result bni_tl_bind(bni_ternary *t, const bni_tensor *tensor, const char *tiles, bitnet_error *err)
{
    const int two = t->form == BNI_FORM_TL2, generated = tiles && strcmp(tiles, "generated") == 0;
    int i, found = 0;
    if (tiles && *tiles && !generated && !bni_tl_parse(t, tiles))
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "tiles %s: not \"generated\" or like 256/128/64", tiles);
    for (i = 0; t->bm == 0 && i < (int)(sizeof bni_tl_tiles / sizeof bni_tl_tiles[0]); i++)
        if (bni_tl_tiles[i].n_rows == t->n_rows && bni_tl_tiles[i].n_cols == t->n_cols) {
            const uint16_t *one = generated && bni_tl_tiles[i].tl1_generated[0] ? bni_tl_tiles[i].tl1_generated : bni_tl_tiles[i].tl1;
            t->bm = two ? bni_tl_tiles[i].tl2[0] : one[0];
            t->by = two ? bni_tl_tiles[i].tl2[1] : one[1];
            t->sub = two ? 32 : one[2];
        }
    if (t->bm == 0)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, tensor->info_offset, "tensor %S: the tiles of %s matrices of %u x %u are not known: give them",
                        &tensor->name, two ? "TL2" : "TL1", t->n_rows, t->n_cols);
    found = t->n_rows % (uint64_t)t->bm == 0 && t->bm % t->sub == 0;
    if (two)
        found = found && t->sub == 32 && t->by % 24 == 0 && t->n_cols % (uint64_t)t->by % 32 == 0 &&
                (t->n_cols - t->n_cols % (uint64_t)t->by) * t->n_rows / 24 * 5 + t->n_cols % (uint64_t)t->by * t->n_rows / 4 <= t->scale_at;
    else
        found = found && t->sub % 16 == 0 && t->sub <= 64 && 256 % t->sub == 0 && t->n_cols % (uint64_t)t->by == 0 && t->by % (256 / t->sub) == 0;
    if (!found)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, tensor->info_offset, "tensor %S: tiles %d/%d/%d do not cut %u x %u weights",
                        &tensor->name, t->bm, t->by, t->sub, t->n_rows, t->n_cols);
    return BITNET_OK;
}

/* Prepares tensor, of a type with a form, for the functions above. layout: of I2_S; tiles: of TL1 and TL2. */
static bitnet_result bni_ternary_bind(bni_ternary *t, const bni_tensor *tensor, bitnet_i2s_layout layout, const char *tiles, bitnet_error *err)
{
    const uint64_t n = bni_tensor_count(tensor);
    int fits = 1;
    memset(t, 0, sizeof *t);
    t->form = tensor->form == BNI_FORM_I2S_A ? BNI_FORM_I2S_A + (int)layout - (int)BITNET_I2S_A : tensor->form;
    t->n_cols = tensor->ne[0];
    t->n_rows = n / t->n_cols;
    t->group = t->form == BNI_FORM_TQ1_0 || t->form == BNI_FORM_TQ2_0 ? 256 : t->form == BNI_FORM_Q2_0 ? 64 : t->form == BNI_FORM_Q2_0_128 ? 128 : t->n_cols;
    if (t->form <= BNI_FORM_TL2)
        t->scale_at = tensor->bytes - BNI_TERNARY_TAIL;
    /* Blocks of I2_S run on over the ends of rows: they must cut the whole tensor; layout C takes four rows. */
    if (t->form == BNI_FORM_I2S_A) fits = n % 128 == 0;
    if (t->form == BNI_FORM_I2S_B) fits = n % 64 == 0;
    if (t->form == BNI_FORM_I2S_C) fits = t->n_rows % 4 == 0;
    if (!fits)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, tensor->info_offset, "tensor %S: %u x %u weights are no whole number of I2_S blocks",
                        &tensor->name, tensor->ne[0], tensor->ne[1]);
    return t->form == BNI_FORM_TL1 || t->form == BNI_FORM_TL2 ? bni_tl_bind(t, tensor, tiles, err) : BITNET_OK;
}

/* ------------------------------------------------------------------------------------------------- to R16, T5 */

/* Row r (0..15) of a strip of R16 from codes [n_cols padded to 16 with 0]: each dword of codes to its bit pair. */
static void bni_r16_pack_row(uint8_t *strip, int r, const uint8_t *codes, uint64_t n_cols)
{
    uint64_t k;
    for (k = 0; k < bni_pad_cols(n_cols); k += 16) {
        const uint8_t *c = codes + k;
        bni_store_u32(strip + k * 4 + (unsigned)r * 4, bni_load_u32(c) | bni_load_u32(c + 4) << 2 |
                                                           bni_load_u32(c + 8) << 4 | bni_load_u32(c + 12) << 6);
    }
}

/* Row r of a strip of T5 from codes [n_cols padded to 20 with 0], four bytes at a time; no sum below leaves its byte. */
static void bni_t5_pack_row(uint8_t *strip, int r, const uint8_t *codes, uint64_t n_cols)
{
    uint64_t k;
    for (k = 0; k < bni_pad_cols(n_cols); k += 20) {
        const uint8_t *c = codes + k;
        uint32_t t4 = bni_load_u32(c + 16), large, low, high;
        uint32_t t = bni_load_u32(c) + 3 * bni_load_u32(c + 4) + 9 * bni_load_u32(c + 8) + 27 * bni_load_u32(c + 12);
        large = (((t + 0x40404040u) >> 7) & 0x01010101u) * 255;       /* 255 where T >= 64 */
        low = t | t4 << 6;
        high = ((t & 0x3f3f3f3fu) * 3 + t4) | 0xc0c0c0c0u;            /* T <= 80, so T - 64 is T's low bits */
        bni_store_u32(strip + k / 20 * 64 + (unsigned)r * 4, low ^ ((low ^ high) & large));
    }
}

/* TL1 and TL2 are made for tables (>>reference): weights stand in groups, pairs or triples, of neighbouring columns, and a
   nibble is the number of a group's entry in a table. Eight groups of 16 rows are a block:

       byte 16 v + r, v = 0..3    row r: group 2 v in bits 3:0, group 2 v + 1 in bits 7:4
       byte 64 + 2 g, TL2 only    bit r mod 8 of byte 64 + 2 g + r / 8: row r of group g has the opposite sign

   TL1, 16 columns in 64 bytes: codes a, b are entry 3 a + b. TL2, 24 columns in 80 bytes, 1.67 bits a weight: weights a,
   b, c (-1, 0, 1) make v = 9 a + 3 b + c; the entry is |v|, 0 to 13, and the sign that of v. Columns that fill up a
   triple are weights of 0. Row r of a strip from codes [n_cols]. */
static void bni_tl_pack_row(int layout, uint8_t *strip, int r, const uint8_t *codes, uint64_t n_cols)
{
    const uint64_t wide = layout == BNI_TL2 ? 3 : 2, bytes = layout == BNI_TL2 ? 80 : 64;
    uint64_t k, i, g;
    for (k = g = 0; k < (bni_pad_cols(n_cols) + 8 * wide - 1) / (8 * wide) * 8 * wide; k += wide, g++) {
        uint8_t *block = strip + g / 8 * bytes, *at = block + g % 8 / 2 * 16 + (unsigned)r;
        int v = 0;
        for (i = k; i < k + wide; i++)
            v = 3 * v + (i < n_cols ? codes[i] : 1);
        if (layout == BNI_TL2) {
            uint8_t *sign = block + 64 + g % 8 * 2 + (unsigned)r / 8;
            *sign = (uint8_t)((*sign & ~(1u << r % 8)) | (unsigned)(v < 13) << r % 8);
            v = v < 13 ? 13 - v : v - 13;
        }
        *at = (uint8_t)(g % 2 ? (*at & 15) | v << 4 : v);
    }
}

/* A code of TL1 or TL2, as bni_code. */
static unsigned bni_tl_code(int layout, const uint8_t *strip, int r, int k)
{
    const int wide = layout == BNI_TL2 ? 3 : 2, g = k / wide, in_block = g % 8;
    const uint8_t *block = strip + g / 8 * (layout == BNI_TL2 ? 80 : 64);
    int v = block[in_block / 2 * 16 + r] >> (in_block % 2 * 4) & 15, i;
    if (layout == BNI_TL2)
        v = block[64 + 2 * in_block + r / 8] >> (r % 8) & 1 ? 13 - v : 13 + v;
    for (i = k % wide; i < wide - 1; i++)
        v /= 3;
    return (unsigned)(v % 3);
}

/* The code of row r (0..15), column k of a strip: the definition of the layouts, read backwards. */
BNI_UNUSED static unsigned bni_code(int layout, const uint8_t *strip, int r, int k)
{
    static const uint8_t power[4] = {1, 3, 9, 27};
    const int per_block = layout == BNI_T5 ? 20 : 16, group = k % per_block / 4;
    const unsigned byte = layout < BNI_TL1 ? strip[(ptrdiff_t)(k / per_block) * 64 + 4 * r + k % 4] : 0;
    const unsigned large = byte >= 192 ? byte - 192 : 0;
    if (layout >= BNI_TL1)
        return bni_tl_code(layout, strip, r, k);
    if (layout == BNI_R16)
        return (byte >> (2 * group)) & 3;
    if (group == 4)
        return byte >= 192 ? large % 3 : byte >> 6;
    return (byte >= 192 ? 64 + large / 3 : byte & 63) / power[group] % 3;
}

/* Strip s from a whole ternary tensor. codes: scratch [n_cols + BNI_CODES_BEHIND]. 1 if a code was 3, else 0. */
static unsigned bni_pack_strip(int layout, uint8_t *strip, uint64_t s, const bni_ternary *t, const uint8_t *data, uint8_t *codes)
{
    unsigned any = 0;
    uint64_t k;
    int r;
    for (r = 0; r < 16; r++) {
        uint64_t row = s * 16 + (unsigned)r;
        if (row < t->n_rows)
            bni_ternary_codes(t, data, row, codes);
        else
            memset(codes, 1, (size_t)t->n_cols);
        if (t->form >= BNI_FORM_TL1)           /* I2_S has no code 3 (bni_i2s_row) */
            for (k = 0; k < t->n_cols; k++)
                any |= codes[k] & codes[k] >> 1 & 1;
        memset(codes + t->n_cols, 0, BNI_CODES_BEHIND);
        if (layout >= BNI_TL1)
            bni_tl_pack_row(layout, strip, r, codes, t->n_cols);
        else
            (layout == BNI_T5 ? bni_t5_pack_row : bni_r16_pack_row)(strip, r, codes, t->n_cols);
    }
    return any;
}
/* ======================================================================================================
   >>decode    Rows of numbers: embeddings, norms, the output matrix
   ======================================================================================================
   One function turns a piece of a row of any of ggml's plain types into floats. It is the definition: the formulas are
   ggml's, evaluated in float, one rounding per operation, in the order written here. Kernels that decode on the fly
   repeat exactly these operations.

       Q8_0   32 weights, 34 bytes:   f16 d | i8 q[32]                      y = d * q
       Q4_0   32 weights, 18 bytes:   f16 d | u8 q[16]                y[j] = d * ((q[j] & 15) - 8), y[j+16]: q >> 4
       Q6_K  256 weights, 210 bytes:  u8 ql[128] | u8 qh[64] | i8 sc[16] | f16 d
                                      y = (d * sc) * q, q of 6 bits minus 32: 4 in ql, 2 in qh, as drawn below */

static void bni_decode_q8_0(const uint8_t *block, int n, float *dst)
{
    float d = bni_f16_to_f32(bni_load_u16(block));
    int i;
    for (i = 0; i < n; i++)
        dst[i] = d * (float)(int8_t)block[2 + i];
}

static void bni_decode_q4_0(const uint8_t *block, int n, float *dst)
{
    float d = bni_f16_to_f32(bni_load_u16(block));
    int i;
    for (i = 0; i < n; i++) {
        int byte = block[2 + (i & 15)];
        dst[i] = d * (float)((i < 16 ? byte & 15 : byte >> 4) - 8);
    }
}

/* Each half of a Q6_K block, 128 weights, is four runs of 32. Weight l of run r has
       4 low bits in ql[l], ql[l + 32] (low nibbles, r = 0 and 1), ql[l], ql[l + 32] (high nibbles, r = 2 and 3),
       2 high bits in bits 2r+1..2r of qh[l], and scale sc[2r + l / 16]. */
static void bni_decode_q6_k(const uint8_t *block, int n, float *dst)
{
    float d = bni_f16_to_f32(bni_load_u16(block + 208));
    int i;
    for (i = 0; i < n; i++) {
        int half = i >> 7, run = (i >> 5) & 3, l = i & 31;
        int low = block[64 * half + (run & 1) * 32 + l] >> (run & 2 ? 4 : 0) & 15;
        int high = block[128 + 32 * half + l] >> (2 * run) & 3;
        float scale = d * (float)(int8_t)block[192 + 8 * half + 2 * run + l / 16];
        dst[i] = scale * (float)((low | high << 4) - 32);
    }
}

/* Columns first .. first + n - 1 of a row as floats, dst [n]. first is a multiple of the type's block. type is one
   of BNI_TYPE_F32, F16, BF16, Q8_0, Q6_K, Q4_0; the row may start at any address. */
static void bni_decode(int type, const uint8_t *row, int first, int n, float *dst)
{
    const size_t k = (size_t)first;
    int i, step;
    switch (type) {
    case BNI_TYPE_F32:
        for (i = 0; i < n; i++)
            dst[i] = bni_load_f32(row + 4 * (k + (size_t)i));
        break;
    case BNI_TYPE_F16:
        for (i = 0; i < n; i++)
            dst[i] = bni_f16_to_f32(bni_load_u16(row + 2 * (k + (size_t)i)));
        break;
    case BNI_TYPE_BF16:
        for (i = 0; i < n; i++)
            dst[i] = bni_bf16_to_f32(bni_load_u16(row + 2 * (k + (size_t)i)));
        break;
    case BNI_TYPE_Q8_0:
        for (i = 0; i < n; i += step) {
            step = n - i < 32 ? n - i : 32;
            bni_decode_q8_0(row + (k + (size_t)i) / 32 * 34, step, dst + i);
        }
        break;
    case BNI_TYPE_Q4_0:
        for (i = 0; i < n; i += step) {
            step = n - i < 32 ? n - i : 32;
            bni_decode_q4_0(row + (k + (size_t)i) / 32 * 18, step, dst + i);
        }
        break;
    case BNI_TYPE_Q6_K:
        for (i = 0; i < n; i += step) {
            step = n - i < 256 ? n - i : 256;
            bni_decode_q6_k(row + (k + (size_t)i) / 256 * 210, step, dst + i);
        }
        break;
    default:                         /* refused when the model was opened */
        BNI_ASSERT(0);
        for (i = 0; i < n; i++)
            dst[i] = 0.0f;
    }
}

/* ======================================================================================================
   >>reference    What every kernel computes, in plain C
   ======================================================================================================
   These functions define the arithmetic of the engine; they are also the kernel set "scalar". Every other set must
   return the same bits (tests/test_kernels.c), and can, because

     - long sums are sums of integers: their order does not matter, and any integer unit may do them;
     - the few long sums of floats (norms, the output matrix, a block's softmax) have 16 lanes, lane l adding the elements
       l, l + 16, l + 32, ... in that order, and the lanes are folded by halves: l + 8 onto l, l + 4, l + 2, l + 1;
     - attention's sums over blocks of 64 positions are added block after block;
     - the rest is elementwise, multiplication and addition apart.

   Shapes: f32 rows are 64-byte aligned and padded with zeros to a multiple of 16 floats; kernels read and write the
   padding, and leave zeros in it.
   Read first: bni_ref_rms_norm, bni_ref_matmul_r16, bni_ref_attend_block. */

/* Activations between the two halves of a feed-forward layer; and what else can be done with a product's result. */
enum { BNI_ACT_RELU2 = 0, BNI_ACT_SILU = 1, BNI_ACT_GELU = 2, BNI_THEN_SET, BNI_THEN_ADD };

/* Keys and values of 64 consecutive positions, of one layer and one kv head, stand together in one area, laid out so
   that 16 positions (for keys) or 16 columns (for values) fill a vector and the pairs that one instruction multiplies
   are neighbours. d = head size, even; dp = d rounded up to 16:

       K   int16 [d/2][64][2]     pair of columns, position, column of the pair
       V   int16 [32][dp][2]      pair of positions, column, position of the pair
       K scales f32 [64]          V scales f32 [64]

   An area is not cleared when it is first used: whatever belongs to later positions is never looked at. */
enum { BNI_KV_BLOCK = 64 };

BNI_INLINE size_t bni_kv_area_size(int d)
{
    return (size_t)BNI_KV_BLOCK * 2 * (size_t)(d + bni_pad16(d)) + 2 * BNI_KV_BLOCK * sizeof(float);
}
BNI_INLINE int16_t *bni_kv_k(uint8_t *area) { return (int16_t *)(void *)area; }
BNI_INLINE int16_t *bni_kv_v(uint8_t *area, int d) { return bni_kv_k(area) + BNI_KV_BLOCK * d; }
BNI_INLINE float *bni_kv_k_scale(uint8_t *area, int d)
{
    return (float *)(void *)(bni_kv_v(area, d) + BNI_KV_BLOCK * bni_pad16(d));
}
BNI_INLINE float *bni_kv_v_scale(uint8_t *area, int d) { return bni_kv_k_scale(area, d) + BNI_KV_BLOCK; }

/* Puts one position's integers k [d], v [d] and their scales into slot 0..63 of an area. clear_partner: also zero the
   integers of the odd slot after an even one, which share its pairs, so that no byte that was never written is read. */
static void bni_kv_store(uint8_t *area, int d, int slot, const int16_t *k, float k_scale, const int16_t *v,
                         float v_scale, int clear_partner)
{
    int16_t *to_k = bni_kv_k(area) + 2 * slot, *to_v = bni_kv_v(area, d) + (slot >> 1) * 2 * bni_pad16(d);
    const int clear = clear_partner && !(slot & 1), dp = bni_pad16(d);
    int i;
    for (i = 0; i < d; i += 2)
        memcpy(to_k + i * BNI_KV_BLOCK, k + i, 4);
    for (i = 0; i < d && clear; i += 2)
        memset(to_k + i * BNI_KV_BLOCK + 2, 0, 4);
    if (clear)
        memset(to_v, 0, 4 * (size_t)dp);
    for (i = 0; i < d; i++)
        to_v[2 * i + (slot & 1)] = v[i];
    for (; i < dp; i++)
        to_v[2 * i + (slot & 1)] = 0;
    bni_kv_k_scale(area, d)[slot] = k_scale;
    bni_kv_v_scale(area, d)[slot] = v_scale;
}

/* The inverse, for saving a state. */
BNI_UNUSED static void bni_kv_load(const uint8_t *area, int d, int slot, int16_t *k, float *k_scale, int16_t *v,
                                   float *v_scale)
{
    uint8_t *p = (uint8_t *)(uintptr_t)area;   /* only read */
    const int16_t *from = bni_kv_k(p) + 2 * slot;
    int i;
    for (i = 0; i < d; i += 2, from += 2 * BNI_KV_BLOCK) {
        k[i] = from[0];
        k[i + 1] = from[1];
    }
    from = bni_kv_v(p, d) + (slot >> 1) * 2 * bni_pad16(d) + (slot & 1);
    for (i = 0; i < d; i++)
        v[i] = from[2 * i];
    *k_scale = bni_kv_k_scale(p, d)[slot];
    *v_scale = bni_kv_v_scale(p, d)[slot];
}

/* One call of attention: query rows (tokens x the query heads that share a kv head), up to 16 or as many as the kernel
   says, against the positions 0..pos[row] of one kv head. Its two steps may be taken alone for up to 16 rows of one
   position: then other threads can be at the same rows' other blocks of 64 positions. */
enum { BNI_ATTEND_ROWS = 16, BNI_ATTEND_MOST = 128 };
enum { BNI_ATTEND_BLOCKS = 1, BNI_ATTEND_JOIN = 2, BNI_ATTEND_ALL = 3 };
typedef struct bni_attend {
    int steps;                       /* BNI_ATTEND_ALL, or one of them */
    int first, end;                  /* blocks that it walks, as far as any row sees them; JOIN: 0 and all */
    const int16_t *q;                /* [n_rows][dp], from quantize_i16 with range 4095 */
    const float *q_scale;            /* [n_rows] */
    const int32_t *pos;              /* [n_rows], the row's own position: it sees 0..pos */
    int n_rows;                      /* 1 .. BNI_ATTEND_ROWS, or bni_kernels.attend_rows */
    int head_dim;                    /* d, even */
    float scale;                     /* log2(e) / sqrt(d) */
    const uint8_t *const *blocks;    /* the KV area of positions 64 b ... 64 b + 63 is blocks[b] + area, */
    size_t area;                     /* aligned to 64 bytes */
    float *const *out;               /* [n_rows] -> [d], any alignment */
    int32_t *records;                /* [blocks][n_rows][bni_attend_sums], 64-byte aligned: from BLOCKS to JOIN; ALL:
                                        NULL */
    float *scratch;                  /* bni_attend_scratch(d, ...) floats, 64-byte aligned */
} bni_attend;

/* What one row gathers: o [dp], l, m, zeros; what it finds in one block, its record: sums [dp], and as bits l, m and a
   factor (bni_ref_attend_block). */
BNI_INLINE int bni_attend_sums(int d) { return bni_pad16(d) + 16; }

/* Floats of scratch for calls of up to n_rows rows. First, [n_rows] times what they gather. More than BNI_ATTEND_ROWS:
   bni_tiles_begin cuts the rest up, else bni_attend. */
BNI_INLINE uint64_t bni_attend_scratch(int d, int n_rows)
{
    const uint64_t chunks = (uint64_t)((d + 63) / 64), most = BNI_ATTEND_MOST, sums = (uint64_t)bni_attend_sums(d);
    const uint64_t tiles = most * (sums + 6 + 2 * 16 + 64) + 2 * 768 + 2 * 512 + most / 16 * 512 * (1 + chunks);
    const uint64_t pairs = BNI_ATTEND_ROWS * (2 * sums + 64 + 64 + 32);
    return n_rows > BNI_ATTEND_ROWS && tiles > pairs ? tiles : pairs;
}

/* Its last position and its blocks' end. */
BNI_INLINE int bni_attend_last(const bni_attend *a)
{
    int r, last = 0;
    for (r = 0; r < a->n_rows; r++)
        last = a->pos[r] > last ? a->pos[r] : last;
    return last < a->end * BNI_KV_BLOCK ? last : a->end * BNI_KV_BLOCK - 1;
}

/* A ternary product, see bni_ref_matmul_r16. panel: scratch [2 * BNI_PANEL], 64-byte aligned. */
typedef void bni_matmul_fn(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                           int n_tokens, uint8_t *panel);

/* Columns of a strip to one half of the panel. */
typedef void bni_unpack_fn(uint8_t *panel, const uint8_t *w, int n_cols);

/* Several tokens share the work of unpacking: this many columns of a strip at a time become bytes 0..2, 64 of them
   for four columns of 16 rows. 640 is a multiple of 16, 20 and 64, and the two strips of a pair (20 KiB) leave room in
   a first cache of 32 KiB. BNI_ROWS tokens stand together in memory. */
enum { BNI_ROWS = 8, BNI_TILE = 16, BNI_PANEL_COLS = 640, BNI_PANEL = BNI_PANEL_COLS * 16 };

/* A final hidden state in two planes of 8 bits (>>head): x = s[0] * plane 0 + s[1] * plane 1 + a small rest. Those of
   several tokens follow each other in memory, which makes them rows of tiles. */
typedef struct bni_split {
    int8_t *x;                       /* [2][bni_split_stride], zeros behind the last column */
    float s[2];
    int32_t bias[2];                 /* 128 * the sum of a plane */
} bni_split;
BNI_INLINE int bni_split_stride(int n_cols) { return (n_cols + 63) / 64 * 64; }

/* A kernel set. The shapes are told at the reference functions, named bni_ref_ and then as here. */
typedef struct bni_kernels {
    const char *name;
    int layout;                      /* the one it is fastest with */
    void (*rms_norm)(float *y, const float *x, const float *w, float eps, int n);
    uint32_t (*max_abs)(const float *x, int n);
    int32_t (*quantize_i8)(int8_t *q, int run, int stride, const float *x, float s, int n);
    float (*quantize_i16)(int16_t *q, const float *x, int n, int n_pad, int range, uint32_t *max_bits);
    bni_matmul_fn *matmul[BNI_N_PACKED];         /* by layout */
    bni_matmul_fn *matmul_tiles[BNI_N_PACKED];  /* AMX: activations in another order; else NULL */
    void (*rescale)(float *y, size_t y_stride, const int32_t *sum, int ld, const int32_t *x_sum, const float *s,
                    const float *w_scale, int n_rows, int n, int then);
    void (*rope)(float *y, const float *x, const float *cos_sin, int n_rot, int neox);
    void (*attend)(const bni_attend *a);
    int attend_rows;                 /* most rows of a call that takes all steps, up to BNI_ATTEND_MOST */
    void (*dot_rows)(float *const *y, int type, const uint8_t *rows, size_t row_bytes, int n_rows, const float *x,
                     size_t x_stride, int n_tokens, int n);
    void (*plane_rows)(float *const *y, const uint8_t *strips, const float *scale, int n_strips, int n_cols,
                       const bni_split *x, int n_tokens);
    void (*plane_row)(float *w, float about[3], int type, const uint8_t *row, int n);
    int (*plane_seek)(const float *y, const float *error, const float *length, const float by[2], float least, int r,
                      int last);
    int (*seek)(const float *x, float above, int i, int n);
    void (*gather)(uint8_t *strip, const uint8_t *rows, size_t row_bytes, int n_rows, int n_cols);
} bni_kernels;

/* --------------------------------------------------------------------------------------- elementwise and norms */

/* The sum of 16 lanes by halves; destroys them. */
static float bni_ref_fold(float lane[16])
{
    int half, l;
    for (half = 8; half > 0; half /= 2)
        for (l = 0; l < half; l++)
            lane[l] = lane[l] + lane[l + half];
    return lane[0];
}

/* y[n] = (x * (1 / sqrt(mean(x^2) + eps))) * w. y may be x. */
static void bni_ref_rms_norm(float *y, const float *x, const float *w, float eps, int n)
{
    float lane[16] = {0}, r;
    int i;
    for (i = 0; i < n; i++)
        lane[i & 15] = lane[i & 15] + bni_mulf(x[i], x[i]);
    r = 1.0f / bni_sqrtf(bni_ref_fold(lane) / (float)n + eps);
    for (i = 0; i < bni_pad16(n); i++)
        y[i] = (x[i] * r) * w[i];
}

/* gelu(x) = x/2 (1 + tanh u) with u = sqrt(2/pi) (x + 0.044715 x^3); and since (1 + tanh u)/2 = 1/(1 + e^-2u), it is
   silu with another argument: 2u = x (C1 + C3 x^2). */
#define BNI_GELU_C1 1.5957691216f
#define BNI_GELU_C3 0.071354816273f

static float bni_ref_act(float x, int kind)
{
    float t = x;
    if (kind == BNI_ACT_RELU2) {
        t = 0.0f > x ? 0.0f : x;     /* this way round a NaN stays one, and is reported */
        return t * t;
    }
    if (kind == BNI_ACT_GELU)
        t = x * (BNI_GELU_C1 + bni_mulf(BNI_GELU_C3, bni_mulf(x, x)));
    return x / (1.0f + bni_expf(-t));
}

/* The bits of the largest |x[n]|. Bits of positive floats order like the floats, infinity and NaN above all: 0x7f800000
   or more means that x is not finite. */
static uint32_t bni_ref_max_abs(const float *x, int n)
{
    uint32_t max = 0;
    int i;
    for (i = 0; i < n; i++) {
        uint32_t bits = bni_float_bits(x[i]) & 0x7fffffffu;
        max = bits > max ? bits : max;
    }
    return max;
}

/* q = clamp(round_half_even(x * s), -128, 127); returns the sum of q. The first run columns go to q[0..run - 1], the
   next run to q[stride ...], which interleaves tokens; run: 4 or 64. n is rounded up to 16: the padding gives 0. */
static int32_t bni_ref_quantize_i8(int8_t *q, int run, int stride, const float *x, float s, int n)
{
    int32_t sum = 0;
    int i;
    for (i = 0; i < bni_pad16(n); i++) {
        float v = x[i] * s;
        v = v < 127.0f ? v : 127.0f;
        v = v > -128.0f ? v : -128.0f;
        q[(ptrdiff_t)(i / run) * stride + i % run] = (int8_t)bni_round_even(v);
        sum += q[(ptrdiff_t)(i / run) * stride + i % run];
    }
    return sum;
}

/* The integers of attention. With A = max |x[n]|: q = clamp(round_half_even(x * (range / A)), -range, range), returns
   the scale A / range. A < 2^-100: zeros, and scale 0. Not finite (*max_bits >= 0x7f800000): the same, and the caller
   reports. x: any alignment, no padding; q [n_pad], zeros from n on. */
#define BNI_TINY_BITS 0x0d800000u              /* 2^-100 */

static float bni_ref_quantize_i16(int16_t *q, const float *x, int n, int n_pad, int range, uint32_t *max_bits)
{
    uint32_t max = bni_ref_max_abs(x, n);
    float limit = (float)range, s;
    int i;
    *max_bits = max;
    for (i = 0; i < n_pad; i++)
        q[i] = 0;
    if (max < BNI_TINY_BITS || max >= 0x7f800000u)
        return 0.0f;
    s = limit / bni_bits_float(max);
    for (i = 0; i < n; i++) {
        float v = x[i] * s;
        v = v < limit ? v : limit;
        v = v > -limit ? v : -limit;
        q[i] = (int16_t)bni_round_even(v);
    }
    return bni_bits_float(max) / limit;
}

/* Rows i to i + 15 of a product, v[i % 32 ...], to where they go; see below. */
static void bni_ref_deliver(float *y, const float v[32], int i, int then)
{
    const float *half = v + i % 32;
    int l;
    for (l = 0; l < 16; l++)
        if (then == BNI_THEN_SET || then == BNI_THEN_ADD)
            y[i + l] = then == BNI_THEN_ADD ? y[i + l] + half[l] : half[l];
        else if (i % 32)
            y[i / 32 * 16 + l] = bni_ref_act(v[l], then) * v[16 + l];
}

/* v[t][i] = ((float)(sum[t][i] - x_sum[t]) / s[t]) * w_scale[i] for i < n, a multiple of 16, and n_rows tokens t: exact
   sums back to numbers, one scale per row of the matrix. Codes are weights + 1, so x_sum, the sum of the activations, is
   what the products' sums are too large by. then: BNI_THEN_SET y = v; BNI_THEN_ADD y = y + v; else an activation: v is
   16 numbers of gate, 16 of up, and so on, and y = act(gate) * up has half as many. */
static void bni_ref_rescale(float *y, size_t y_stride, const int32_t *sum, int ld, const int32_t *x_sum, const float *s,
                            const float *w_scale, int n_rows, int n, int then)
{
    float v[32];
    int t, i, l;
    for (t = 0; t < n_rows; t++, y += y_stride, sum += ld)
        for (i = 0; i < n; i += 16) {
            for (l = 0; l < 16; l++)
                v[i % 32 + l] = bni_mulf((float)(sum[i + l] - x_sum[t]) / s[t], w_scale[i + l]);
            bni_ref_deliver(y, v, i, then);
        }
}

/* The same where every `group` columns of a row have their own scale (bni_linear): for one token, rows 16 at a time, v[r] =
   (sum over the groups, in order, of (float)(sum of the group) * scale) / s. part: [n_parts][16] sums of 16 rows; x_sum,
   scale: [n_parts], [n_parts][16]. i: which 16 of the rows; v keeps the 16 before. */
static void bni_rescale_groups(float *y, const int32_t *part, const int32_t *x_sum, const float *scale, float s, int n_parts,
                               float v[32], int i, int then)
{
    float *half = v + i % 32;
    int g, l;
    for (l = 0; l < 16; l++)
        half[l] = 0.0f;
    for (g = 0; g < n_parts; g++, part += 16, scale += 16)
        for (l = 0; l < 16; l++)
            half[l] = half[l] + bni_mulf((float)(part[l] - x_sum[g]), scale[l]);
    for (l = 0; l < 16; l++)
        half[l] = half[l] / s;
    bni_ref_deliver(y, v, i, then);
}

/* Pairs first .. last - 1 of bni_ref_rope; kernels call it for what is left of a head. */
static void bni_ref_rope_pairs(float *y, const float *x, const float *cos_sin, int first, int last, int n_rot, int neox)
{
    const int step = neox ? 1 : 2, apart = neox ? n_rot / 2 : 1;
    int i;
    for (i = first; i < last; i++) {
        const float a = x[i * step], b = x[i * step + apart], c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        y[i * step] = bni_mulf(a, c) - bni_mulf(b, s);
        y[i * step + apart] = bni_mulf(a, s) + bni_mulf(b, c);
    }
}

/* Turns the first n_rot columns of one head x by the angles whose cosines and sines are cos_sin [n_rot/2][2], to y. Pair
   i is (x[i], x[i + n_rot/2]) if neox, else (x[2i], x[2i + 1]). Any alignment; y may be x. */
static void bni_ref_rope(float *y, const float *x, const float *cos_sin, int n_rot, int neox)
{
    bni_ref_rope_pairs(y, x, cos_sin, 0, n_rot / 2, n_rot, neox);
}

/* ------------------------------------------------------------------------------------------- I2_S in place */

/* A block of I2_S, 128 weights of one row in 32 bytes (>>formats), is eight dwords, and dword i holds in its bit pairs,
   the topmost first, columns 4 i + 0..3, 32 + 4 i + 0..3, 64 + ... and 96 + ...: a dword of R16, but for which columns it
   stands for. So 16 rows become a strip of R16 by transposing dwords, and the activations change places to suit
   (bni_i2s_order). Code 3 means 0, as code 1 does.

       file   row 0:  d0 d1 d2 ... d7 | d0 ...        strip  block 0:  d0 of row 0, d0 of row 1, ... d0 of row 15
              row 1:  d0 d1 d2 ... d7 | d0 ...               block 1:  d1 of row 0, d1 of row 1, ...

   rows: n_rows of row_bytes each, 1 to 16; for missing ones the last stands in. n_cols: a multiple of 128. */
BNI_INLINE uint32_t bni_i2s_clean(uint32_t codes) { return codes ^ (codes & codes >> 1 & 0x55555555u) << 1; }

static void bni_ref_gather(uint8_t *strip, const uint8_t *rows, size_t row_bytes, int n_rows, int n_cols)
{
    int r, i;
    for (r = 0; r < 16; r++) {
        const uint8_t *row = rows + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
        for (i = 0; i < n_cols / 16; i++)
            bni_store_u32(strip + 64 * (size_t)i + 4 * (size_t)r, bni_i2s_clean(bni_load_u32(row + 4 * (size_t)i)));
    }
}

/* Four columns of activations to where bni_ref_gather puts their weights: column 32 g + 4 i + j of each 128 to
   16 i + 4 (3 - g) + j. q: as quantize_i8 has left it, n columns. */
static void bni_i2s_order(int8_t *q, int run, int stride, int n)
{
    uint32_t old[32];
    int k, d;
    for (k = 0; k < n; k += 128) {
        for (d = 0; d < 32; d++)
            old[d] = bni_load_u32(q + (ptrdiff_t)((k + 4 * d) / run) * stride + (k + 4 * d) % run);
        for (d = 0; d < 32; d++)
            bni_store_u32(q + (ptrdiff_t)((k + 4 * d) / run) * stride + (k + 4 * d) % run, old[8 * (3 - d % 4) + d / 4]);
    }
}

/* ----------------------------------------------------------------------------------------- ternary products */

/* y[t * ldy + 16 strip + r] = sum over k of code[16 strip + r][k] * x[t][k], exactly; a code is weight + 1.
   w: n_strips strips (>>formats draws them); n_cols a multiple of 16.
   x: groups of BNI_ROWS tokens, each [n_cols/4][tokens][4], where only the last group may have fewer tokens; from one
   group to the next BNI_ROWS * n_cols bytes. Up to 19 columns behind the last are read and multiplied with code 0.
   n_cols < 2^19 keeps the largest sum any kernel forms (64 * 2 * 128 * n_cols / 4) inside 32 bits. */
static void bni_ref_matmul_r16(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                               int n_tokens, uint8_t *panel)
{
    int strip, t, k, r, s, j;
    (void)panel;
    for (strip = 0; strip < n_strips; strip++, w += bni_strip_bytes(BNI_R16, (uint64_t)n_cols)) {
        for (t = 0; t < n_tokens; t++) {
            const int group = t / BNI_ROWS * BNI_ROWS, n = n_tokens - group < BNI_ROWS ? n_tokens - group : BNI_ROWS;
            const int8_t *v = x + (ptrdiff_t)group * n_cols + (t - group) * 4;
            int32_t *out = y + (ptrdiff_t)t * ldy + 16 * (ptrdiff_t)strip;
            const uint8_t *block = w;
            memset(out, 0, 16 * sizeof *out);
            for (k = 0; k < n_cols; k += 16, block += 64) {
                for (s = 0; s < 4; s++, v += 4 * n) {
                    for (r = 0; r < 16; r++)
                        for (j = 0; j < 4; j++)
                            out[r] += ((block[4 * r + j] >> (2 * s)) & 3) * v[j];
                }
            }
        }
    }
}

/* The same from T5. */
static void bni_ref_matmul_t5(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                              int n_tokens, uint8_t *panel)
{
    int row, t, k;
    (void)panel;
    for (t = 0; t < n_tokens; t++) {
        const int group = t / BNI_ROWS * BNI_ROWS, n = n_tokens - group < BNI_ROWS ? n_tokens - group : BNI_ROWS;
        const int8_t *v = x + (ptrdiff_t)group * n_cols + (t - group) * 4;
        for (row = 0; row < 16 * n_strips; row++) {
            const uint8_t *strip = w + (size_t)(row / 16) * bni_strip_bytes(BNI_T5, (uint64_t)n_cols);
            int32_t sum = 0;
            for (k = 0; k < n_cols; k++)
                sum += (int32_t)bni_code(BNI_T5, strip, row % 16, k) * v[(ptrdiff_t)(k / 4) * 4 * n + k % 4];
            y[(ptrdiff_t)t * ldy + row] = sum;
        }
    }
}

/* The same from TL1 and TL2, by looking up instead of multiplying (T-MAC, Wei et al. 2024; bitnet.cpp's TL1 and TL2). A
   group of two or three weights has only 9 or 27 values, so what it can contribute to a row is computed once per token,
   for all rows: a table of 16 entries, of which a row's nibble picks one, and one instruction picks for 16 rows at a
   time. For activations 5, -3, 7 the table of a pair (5, -3) and of a triple are

       TL1  a b     -1 -1   -1 0   -1 1    0 -1   0 0   0 1    1 -1   1 0   1 1
            entry     0       1      2      3      4     5      6      7     8
            value    -2      -5     -8      3      0    -3      8      5     2

       TL2  a b c   0 0 0  0 0 1  0 1 -1  0 1 0  0 1 1  1 -1 -1  1 -1 0  1 -1 1  1 0 -1  1 0 0  1 0 1  1 1 -1  1 1 0  1 1 1
            entry     0      1      2       3      4       5       6       7       8       9      10      11     12     13
            value     0      7    -10      -3      4       1       8      15      -2       5      12      -5      2      9

   and the triple -1 1 -1, v = -9 + 3 - 1 = -7, is entry 7 with the opposite sign: -15. A value takes nine or ten bits, so
   the kernels look up two tables, of its low and of its high byte. Nothing is rounded and no sum leaves its int16: 64
   groups reach 64 * 3 * 128 = 24,576. bitnet.cpp adds in int16 without such a limit. */
enum { BNI_LUT_GROUPS = 320, BNI_LUT_RUN = 8 };      /* groups whose tables stand ready; blocks that int16 adds up */

/* Weights of a group's entries, by layout and column; entries that do not occur are 0. */
static const int16_t bni_lut_weights[2][3][16] = {
    {{-1, -1, -1, 0, 0, 0, 1, 1, 1}, {-1, 0, 1, -1, 0, 1, -1, 0, 1}, {0}},
    {{0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 1, 1, 1, -1, -1, -1, 0, 0, 0, 1, 1, 1},
     {0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1, -1, 0, 1}}
};

/* Column k of token t of x, as the products have it. */
BNI_INLINE int bni_lut_x(const int8_t *x, int n_cols, int n_tokens, int t, int k)
{
    const int group = t / BNI_ROWS * BNI_ROWS, n = n_tokens - group < BNI_ROWS ? n_tokens - group : BNI_ROWS;
    return k < n_cols ? x[(ptrdiff_t)group * n_cols + (ptrdiff_t)(k / 4) * 4 * n + (t - group) * 4 + k % 4] : 0;
}

/* The sum of a token's activations: codes are weights + 1, and the tables know weights. */
static int32_t bni_lut_sum(const int8_t *x, int n_cols, int n_tokens, int t)
{
    int32_t sum = 0;
    int k;
    for (k = 0; k < n_cols; k++)
        sum += bni_lut_x(x, n_cols, n_tokens, t, k);
    return sum;
}

static void bni_ref_matmul_lut(int layout, int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                               int n_tokens)
{
    const int wide = layout == BNI_TL2 ? 3 : 2, n_groups = (n_cols + wide - 1) / wide, bytes = layout == BNI_TL2 ? 80 : 64;
    const size_t strip_bytes = (size_t)bni_strip_bytes(layout, (uint64_t)n_cols);
    int t, row, g, i, c;
    for (t = 0; t < n_tokens; t++) {
        int32_t *out = y + (ptrdiff_t)t * ldy, table[16];
        for (row = 0; row < 16 * n_strips; row++)
            out[row] = bni_lut_sum(x, n_cols, n_tokens, t);
        for (g = 0; g < n_groups; g++) {
            for (i = 0; i < 16; i++)
                for (c = 0, table[i] = 0; c < wide; c++)
                    table[i] += bni_lut_weights[wide - 2][c][i] * bni_lut_x(x, n_cols, n_tokens, t, g * wide + c);
            for (row = 0; row < 16 * n_strips; row++) {
                const uint8_t *block = w + (size_t)(row / 16) * strip_bytes + (size_t)(g / 8 * bytes);
                const int32_t v = table[block[g % 8 / 2 * 16 + row % 16] >> (g % 2 * 4) & 15];
                const int opposite = wide == 3 && (block[64 + g % 8 * 2 + row % 16 / 8] >> (row % 8) & 1);
                out[row] += opposite ? -v : v;
            }
        }
    }
}

static void bni_ref_matmul_tl1(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x, int n_tokens,
                               uint8_t *panel)
{
    (void)panel;
    bni_ref_matmul_lut(BNI_TL1, y, ldy, w, n_strips, n_cols, x, n_tokens);
}

static void bni_ref_matmul_tl2(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x, int n_tokens,
                               uint8_t *panel)
{
    (void)panel;
    bni_ref_matmul_lut(BNI_TL2, y, ldy, w, n_strips, n_cols, x, n_tokens);
}

/* ----------------------------------------------------------------------------------------- attention */

/* The score of one position: exact integer products of up to 128 columns (128 * 4095^2 < 2^31), larger heads in parts
   that are added as floats in order. Unsigned, because a damaged state may hold any int16. */
static float bni_ref_score(const int16_t *q, const int16_t *k, int d)
{
    float sum = 0.0f;
    int part, i;
    for (part = 0; part < d; part += 128) {
        uint32_t dot = 0;
        for (i = part; i < d && i < part + 128; i++)
            dot += (uint32_t)(q[i] * k[(i >> 1) * 2 * BNI_KV_BLOCK + (i & 1)]);
        sum = part ? sum + (float)(int32_t)dot : (float)(int32_t)dot;
    }
    return sum;
}

/* w[64] = round(a * (4095 / A)), A = max a[0..n-1], zeros from n on; returns A / 4095, or 0 if A < 2^-100, which means
   that the block has no weight. a >= 0. If A is not finite, zeros and NaN: the row's output becomes NaN and is
   reported. */
static float bni_ref_block_weights(int16_t *w, const float *a, int n)
{
    uint32_t max = bni_ref_max_abs(a, n);
    float s;
    int j;
    memset(w, 0, BNI_KV_BLOCK * sizeof *w);
    if (max < BNI_TINY_BITS)
        return 0.0f;
    if (max >= 0x7f800000u)
        return bni_bits_float(0x7fc00000u);
    s = 4095.0f / bni_bits_float(max);
    for (j = 0; j < n; j++)
        w[j] = (int16_t)bni_round_even(bni_mulf(a[j], s));
    return bni_bits_float(max) / 4095.0f;
}

/* Row r and one block of 64 positions:
       s_j = log2(e) (q . k_j) / sqrt(d),  m = the integer nearest to the largest s_j,  e_j = 2^(s_j - m),
       l = sum of e_j,  a_j = e_j * (scale of v_j),  sums = sum of round(a_j ...) v_j, to be multiplied by a factor.
   The block borders are absolute positions, so the result does not depend on how a prompt was cut. The weights are
   integers relative to the largest of their block: 4095 steps, like q and k. */
static void bni_ref_attend_block(const bni_attend *a, int r, int block, int32_t *record)
{
    const int d = a->head_dim, dp = bni_pad16(d), left = a->pos[r] - block * BNI_KV_BLOCK + 1;
    const int n = left < BNI_KV_BLOCK ? left : BNI_KV_BLOCK;
    uint8_t *area = (uint8_t *)(uintptr_t)(a->blocks[block] + a->area);
    const float scale = a->q_scale[r] * a->scale;
    const int16_t *v = bni_kv_v(area, d);
    float m = -bni_bits_float(0x7f800000u), score[BNI_KV_BLOCK], weighted[BNI_KV_BLOCK], lane[16] = {0};
    int16_t w[BNI_KV_BLOCK];
    int j, c;
    for (j = 0; j < n; j++) {
        const float dot = bni_ref_score(a->q + (ptrdiff_t)r * dp, bni_kv_k(area) + 2 * j, d);
        score[j] = (dot * scale) * bni_kv_k_scale(area, d)[j];
        m = m > score[j] ? m : score[j];
    }
    m = bni_whole(m);
    for (j = 0; j < n; j++) {
        const float e = bni_exp2f(score[j] - m);
        lane[j & 15] = lane[j & 15] + e;
        weighted[j] = e * bni_kv_v_scale(area, d)[j];
    }
    record[dp] = (int32_t)bni_float_bits(bni_ref_fold(lane));
    record[dp + 1] = (int32_t)bni_float_bits(m);
    record[dp + 2] = (int32_t)bni_float_bits(bni_ref_block_weights(w, weighted, n));
    for (c = 0; c < d; c++) {
        uint32_t sum = 0;
        for (j = 0; j < n; j++)
            sum += (uint32_t)(w[j] * v[(j >> 1) * 2 * dp + 2 * c + (j & 1)]);
        record[c] = (int32_t)sum;
    }
}

/* How a block joins those before it: both sides change to the larger m, M,
       o = o 2^(m - M) + sums (factor 2^(m' - M)),  l = l 2^(m - M) + l' 2^(m' - M).
   This is FlashAttention's walk (Dao et al. 2022), with one difference: m is an integer, so changing to M makes no
   roundings, and blocks can be found in any order by any thread if they join in theirs. */
static void bni_ref_attend_add(float *o, const int32_t *record, int d)
{
    const int dp = bni_pad16(d);
    const float m = bni_bits_float((uint32_t)record[dp + 1]), most = o[dp + 1] > m ? o[dp + 1] : m;
    const float old = bni_exp2f(o[dp + 1] - most), by = bni_exp2f(m - most);
    const float factor = bni_bits_float((uint32_t)record[dp + 2]) * by;
    int c;
    for (c = 0; c < d; c++)
        o[c] = bni_mulf(o[c], old) + bni_mulf((float)record[c], factor);
    o[dp] = bni_mulf(o[dp], old) + bni_mulf(bni_bits_float((uint32_t)record[dp]), by);
    o[dp + 1] = most;
}

/* out[row] = softmax(q k / sqrt(d)) v for every row of the call: o / l at the end. */
static void bni_ref_attend(const bni_attend *a)
{
    const int d = a->head_dim, dp = bni_pad16(d), n = bni_attend_sums(d);
    float *o = a->scratch;
    int r, c, block;
    for (r = 0; r < a->n_rows; r++) {
        memset(o, 0, (size_t)n * sizeof *o);
        o[dp + 1] = -bni_bits_float(0x7f800000u);
        for (block = a->first; block < a->end && block * BNI_KV_BLOCK <= a->pos[r]; block++) {
            int32_t *record = (int32_t *)(void *)(o + n);
            if (a->steps != BNI_ATTEND_ALL)
                record = a->records + ((ptrdiff_t)block * a->n_rows + r) * n;
            if (a->steps & BNI_ATTEND_BLOCKS)
                bni_ref_attend_block(a, r, block, record);
            if (a->steps & BNI_ATTEND_JOIN)
                bni_ref_attend_add(o, record, d);
        }
        for (c = 0; c < d && a->steps & BNI_ATTEND_JOIN; c++)
            a->out[r][c] = o[c] / o[dp];
    }
}

/* --------------------------------------------------------------------------------- rows of floats (the head) */

/* y[t][r] = sum over k of row r's weight k times x[t][k], for n_rows rows of n weights of a plain type (>>decode),
   row_bytes apart, at any address; x: [n_tokens][x_stride], n_tokens 1..8, padded with zeros to 16. 16 lanes. */
static void bni_ref_dot_rows(float *const *y, int type, const uint8_t *rows, size_t row_bytes, int n_rows,
                             const float *x, size_t x_stride, int n_tokens, int n)
{
    float w[256], lane[16];
    int r, t, k, i;
    for (r = 0; r < n_rows; r++) {
        for (t = 0; t < n_tokens; t++) {
            const float *v = x + (size_t)t * x_stride;
            memset(lane, 0, sizeof lane);
            for (k = 0; k < n; k += 256) {
                const int count = n - k < 256 ? n - k : 256;
                bni_decode(type, rows + (size_t)r * row_bytes, k, count, w);
                for (i = 0; i < count; i++)
                    lane[i & 15] = lane[i & 15] + bni_mulf(w[i], v[k + i]);
            }
            y[t][r] = bni_ref_fold(lane);
        }
    }
}

/* y[t][r] = scale[r] * (s[0] * (w_r . plane 0) + s[1] * (w_r . plane 1)) for 16 n_strips rows w_r of bytes, stored plus
   128 as [strip][n_cols / 4][16 rows][4]. n_cols: a multiple of 16, at most 65,536 (255 * 128 * 2^16 < 2^31). */
static void bni_ref_plane_rows(float *const *y, const uint8_t *strips, const float *scale, int n_strips, int n_cols,
                               const bni_split *x, int n_tokens)
{
    int r, t, k;
    for (r = 0; r < 16 * n_strips; r++) {
        const uint8_t *w = strips + (size_t)(r / 16) * 16 * (size_t)n_cols + 4 * (r % 16);
        for (t = 0; t < n_tokens; t++) {
            const int8_t *rest = x[t].x + bni_split_stride(n_cols);
            int32_t sum[2] = {0, 0};
            for (k = 0; k < n_cols; k++) {
                const int32_t byte = w[16 * (k & ~3) + (k & 3)];
                sum[0] += byte * x[t].x[k];
                sum[1] += byte * rest[k];
            }
            y[t][r] = bni_mulf(scale[r], bni_mulf(x[t].s[0], (float)(sum[0] - x[t].bias[0])) +
                                         bni_mulf(x[t].s[1], (float)(sum[1] - x[t].bias[1])));
        }
    }
}

/* A row of n weights of a plain type as floats, w [n padded to 16 with zeros]; and what its bytes will be like: about[0]
   the scale, 0 for a row of zeros; sums of squares of [1] the weights, [2] what rounding w / scale to integers leaves. */
static void bni_ref_plane_row(float *w, float about[3], int type, const uint8_t *row, int n)
{
    float length[16] = {0}, error[16] = {0}, max = 0.0f, inverse;
    int i;
    memset(w, 0, (size_t)bni_pad16(n) * sizeof *w);
    bni_decode(type, row, 0, n, w);
    for (i = 0; i < n; i++) {
        const float size = bni_bits_float(bni_float_bits(w[i]) & 0x7fffffffu);
        max = size > max ? size : max;
    }
    about[0] = max < 1e-30f ? 0.0f : max / 127.0f;
    inverse = max < 1e-30f ? 0.0f : 1.0f / about[0];
    for (i = 0; i < bni_pad16(n); i++) {
        const float e = w[i] - bni_mulf((float)bni_round_even(bni_mulf(w[i], inverse)), about[0]);
        length[i & 15] = length[i & 15] + bni_mulf(w[i], w[i]);
        error[i & 15] = error[i & 15] + bni_mulf(e, e);
    }
    about[1] = bni_ref_fold(length);
    about[2] = bni_ref_fold(error);
}

/* The first of the sixteens of rows from r, a multiple of 16, to last in which a row has y + (error * by[0] + length *
   by[1]) >= least; if there is none, last or more. Rows behind last are read, up to a multiple of 16, and may count. */
static int bni_ref_plane_seek(const float *y, const float *error, const float *length, const float by[2], float least,
                              int r, int last)
{
    int i;
    for (; r < last; r += 16)
        for (i = r; i < r + 16; i++)
            if (y[i] + (bni_mulf(error[i], by[0]) + bni_mulf(length[i], by[1])) >= least)
                return r;
    return r;
}

/* The first of the sixteens of x from i, a multiple of 16 like n, in which a number is above that; if there is none, n.
   No NaNs. */
static int bni_ref_seek(const float *x, float above, int i, int n)
{
    int k;
    for (; i < n; i += 16)
        for (k = i; k < i + 16; k++)
            if (x[k] > above)
                return i;
    return i;
}

#endif /* BITNET_IMPLEMENTATION */
#endif /* !BNI_ISA */
#if defined(BNI_ISA)
/* ======================================================================================================
   >>vectors    The same small set of operations for every instruction set
   ======================================================================================================
   This section and the next are compiled once per instruction set: >>dispatch defines BNI_ISA and BNI_SUFFIX, sets the
   compiler's target and includes this very file again, which then consists of these two sections only. So a kernel is
   an ordinary function on ordinary lines, for the debugger too; its names get the suffix of the instruction set
   through the aliases below (bni_vf_add is bni_vf_add_avx2 in one pass, bni_vf_add_avx512 in the next).

   Two types: bni_vf, 16 floats, and bni_vi, 16 int32, in one, two or four registers. Lane l of a
   vector is element l of the row: sums keep the 16 lanes that >>reference defines.

   Products of floats are written a * b on the compiler's vector types, not as an intrinsic, followed on clang by the
   empty asm of BNI_SETTLE: only that keeps clang from fusing under -ffast-math and -ffp-contract=fast.

   Every instruction set defines, for vectors a, b of 16 lanes and addresses of any alignment:

       bni_vf_load store set          16 floats at p; one float in every lane
       bni_vf_add sub mul div         lane by lane, each rounded; mul is never fused with what follows
       bni_vf_min max                 a < b ? a : b and a > b ? a : b, so the second where one is NaN
       bni_vf_negate                  the sign bit turned
       bni_vf_keep(a, n, other)       lanes 0 .. n-1 of a, other's from n on; any n, also below 0 and above 16
       bni_vf_sum highest             the lanes folded by halves, 8 onto 8, 4 onto 4, 2 onto 2, 1 onto 1
       bni_vf_round                   nearest int32, halves to even; of |a| < 2^31, so kernels clamp first; else any
       bni_vf_power2(e)               2^(e - 127), 1 <= e <= 254
       bni_vf_scaled(a, e)            a 2^e by its exponent's bits: of normal floats, from and to
       bni_vf_magnitude               the bits without the sign, as integers
       bni_vf_from_int f16 bf16       converted, exactly or rounded to even
       bni_vf_unzip zip               elements 0, 2, 4, ... and 1, 3, 5, ... of the 32 floats at p; and back
       bni_vi_load store set          16 int32 at p; one in every lane
       bni_vi_add sub and or max      lane by lane, signed
       bni_vi_shr shl(a, n)           every lane by n bits, zeros come in
       bni_vp_zero add sum            bni_vp, sums of products under way: none; (acc, a, b), acc + a.lo * b.lo + a.hi * b.hi of
                                      the int16 halves of each lane; as bni_vi. They wrap around
       bni_vi_sum highest             over the lanes
       bni_vi_from_i8 u8              16 bytes at p, widened
       bni_vi_to_i8 i16               narrowed with saturation, lane 0 first, to the 16 at p

   A new instruction set: a block here with these names, a matrix product in >>kernels, an entry in >>dispatch. */

#define bni_vf BNI_FN(bni_vf)
#define bni_vi BNI_FN(bni_vi)
#define bni_vf_load BNI_FN(bni_vf_load)
#define bni_vf_store BNI_FN(bni_vf_store)
#define bni_vf_set BNI_FN(bni_vf_set)
#define bni_vf_add BNI_FN(bni_vf_add)
#define bni_vf_sub BNI_FN(bni_vf_sub)
#define bni_vf_mul BNI_FN(bni_vf_mul)
#define bni_vf_div BNI_FN(bni_vf_div)
#define bni_vf_min BNI_FN(bni_vf_min)
#define bni_vf_max BNI_FN(bni_vf_max)
#define bni_vf_negate BNI_FN(bni_vf_negate)
#define bni_vf_keep BNI_FN(bni_vf_keep)
#define bni_vf_sum BNI_FN(bni_vf_sum)
#define bni_vf_highest BNI_FN(bni_vf_highest)
#define bni_vf_round BNI_FN(bni_vf_round)
#define bni_vf_power2 BNI_FN(bni_vf_power2)
#define bni_vf_scaled BNI_FN(bni_vf_scaled)
#define bni_vf_magnitude BNI_FN(bni_vf_magnitude)
#define bni_vf_from_int BNI_FN(bni_vf_from_int)
#define bni_vf_from_f16 BNI_FN(bni_vf_from_f16)
#define bni_vf_from_bf16 BNI_FN(bni_vf_from_bf16)
#define bni_half BNI_FN(bni_half)
#define bni_vf_unzip BNI_FN(bni_vf_unzip)
#define bni_vf_zip BNI_FN(bni_vf_zip)
#define bni_vi_load BNI_FN(bni_vi_load)
#define bni_vi_store BNI_FN(bni_vi_store)
#define bni_vi_set BNI_FN(bni_vi_set)
#define bni_vi_add BNI_FN(bni_vi_add)
#define bni_vi_sub BNI_FN(bni_vi_sub)
#define bni_vi_and BNI_FN(bni_vi_and)
#define bni_vi_or BNI_FN(bni_vi_or)
#define bni_vi_max BNI_FN(bni_vi_max)
#define bni_vi_shr BNI_FN(bni_vi_shr)
#define bni_vi_shl BNI_FN(bni_vi_shl)
#define bni_vp BNI_FN(bni_vp)
#define bni_vp_zero BNI_FN(bni_vp_zero)
#define bni_vp_add BNI_FN(bni_vp_add)
#define bni_vp_sum BNI_FN(bni_vp_sum)
#define bni_vi_sum BNI_FN(bni_vi_sum)
#define bni_vi_highest BNI_FN(bni_vi_highest)
#define bni_round4 BNI_FN(bni_round4)
#define bni_float4 BNI_FN(bni_float4)
#define bni_from_f16_4 BNI_FN(bni_from_f16_4)
#define bni_from_u16_4 BNI_FN(bni_from_u16_4)
#define bni_vi_from_i8 BNI_FN(bni_vi_from_i8)
#define bni_vi_from_u8 BNI_FN(bni_vi_from_u8)
#define bni_vi_to_i8 BNI_FN(bni_vi_to_i8)
#define bni_vi_to_i16 BNI_FN(bni_vi_to_i16)

/* Some passes add ternary products to the set of another, no more. */
#if BNI_ISA == BNI_ISA_AVX512VBMI || BNI_ISA == BNI_ISA_DOTPROD || BNI_ISA == BNI_ISA_I8MM
  #define BNI_WHOLE 0
#else
  #define BNI_WHOLE 1
#endif

/* The target of this pass, up to the end of >>kernels; NEON and WebAssembly have that of the build. AVX-VNNI's two
   instructions and those of dotprod and i8mm are written in asm. */
#if defined(__clang__)
  #if BNI_ISA == BNI_ISA_NEON || BNI_ISA == BNI_ISA_WASM
  #elif BNI_ISA == BNI_ISA_DOTPROD
    #pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
  #elif BNI_ISA == BNI_ISA_I8MM
    #pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
  #elif BNI_ISA == BNI_ISA_SSSE3
    #pragma clang attribute push(__attribute__((target("ssse3"))), apply_to = function)
  #elif BNI_ISA <= BNI_ISA_AVXVNNI
    #pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
  #elif BNI_ISA == BNI_ISA_AVX512
    #pragma clang attribute push(__attribute__((target("f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), \
                                 apply_to = function)
  #else
    #pragma clang attribute push( \
        __attribute__((target("f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni"))), \
        apply_to = function)
  #endif
#else
  #pragma GCC push_options
  #ifdef BNI_UNOPTIMISED
    #pragma GCC optimize("O3")
  #endif
  #if BNI_ISA >= BNI_ISA_NEON        /* binutils 2.40 knows sdot from armv8.2-a on, whatever the extensions */
    #if BNI_ISA == BNI_ISA_DOTPROD && !defined(__ARM_FEATURE_DOTPROD)
      #pragma GCC target("arch=armv8.2-a+dotprod")
    #elif BNI_ISA == BNI_ISA_I8MM && !defined(__ARM_FEATURE_DOTPROD)
      #pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
    #elif BNI_ISA == BNI_ISA_I8MM    /* the build's own architecture is 8.2 or later: stay with it */
      #pragma GCC target("+i8mm")
    #endif
  #elif BNI_ISA == BNI_ISA_SSSE3
    #pragma GCC target("ssse3")
  #elif BNI_ISA <= BNI_ISA_AVXVNNI
    #pragma GCC target("avx2,f16c")
  #elif BNI_ISA == BNI_ISA_AVX512
    #pragma GCC target("f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
  #else
    #pragma GCC target("f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni")
  #endif
#endif

/* Without this attribute compilers leave some of these as calls at -O0 and -O2. */
#define BNI_VINLINE static inline __attribute__((always_inline, unused))

/* Full unrolling, so that small arrays of vectors become registers. */
#if defined(__clang__)
  #define BNI_UNROLL _Pragma("clang loop unroll(full)")
  #if BNI_ISA == BNI_ISA_WASM
    #define BNI_VSETTLE(x) ((void)0)
  #elif BNI_ISA >= BNI_ISA_NEON
    #define BNI_VSETTLE(x) __asm__("" : "+w"(x))
  #elif BNI_ISA >= BNI_ISA_AVX512
    #define BNI_VSETTLE(x) __asm__("" : "+v"(x))
  #else
    #define BNI_VSETTLE(x) __asm__("" : "+x"(x))
  #endif
#else
  #define BNI_UNROLL _Pragma("GCC unroll 16")
  #define BNI_VSETTLE(x) ((void)0)
#endif

/* Behind every case of a switch that calls one inline function with another constant: clang merges such calls before it
   inlines them, and the constant becomes a variable. */
#define BNI_APART __asm__ __volatile__("")

#if BNI_HAVE_AMX && (BNI_ISA == BNI_ISA_AVX512 || BNI_ISA == BNI_ISA_AVX512VBMI)
/* AMX: tiles of up to 16 rows of 64 bytes. In asm, because the intrinsics don't say that they read memory (gcc 12.2
   then drops the stores before them), and so that no compiler flag is needed. Tiles keep their contents between the
   statements: nothing else uses them. MUL: sum += a b, kinds: u or s for the bytes of a, then of b, unsigned or
   signed. */
#define BNI_TILE_LOAD(tile, p, stride) \
    __asm__ __volatile__("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define BNI_TILE_STREAM(tile, p, stride) \
    __asm__ __volatile__("tileloaddt1 (%0,%1,1), %%tmm" #tile : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define BNI_TILE_STORE(tile, p, stride) \
    __asm__ __volatile__("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(p), "r"((ptrdiff_t)(stride)) : "memory")
#define BNI_TILE_ZERO(tile) __asm__ __volatile__("tilezero %%tmm" #tile : :)
#define BNI_TILE_MUL(kinds, sum, a, b) \
    __asm__ __volatile__("tdpb" #kinds "d %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)
#define BNI_TILE_DOT(sum, tokens, codes) BNI_TILE_MUL(su, sum, tokens, codes)
/* Every 1,500 cycles or so where there are no products, and tile 4 holds nothing: after 2,500 the unit sleeps, and
   waking it takes 800, after 100 us 8,000 (measured on the Xeon of README's table). */
#define BNI_TILE_AWAKE BNI_TILE_MUL(uu, 4, 6, 7)
#endif

#if BNI_ISA >= BNI_ISA_NEON
/* ------------------------------------------------------------- registers of 16 bytes, NEON and WebAssembly
   Four registers, lanes 0-3 to 12-15. Written with the compiler's own vectors and operators; intrinsics where there is
   no operator. BNI_EACH(x) is x once for every register, with i its number, a constant. */

#define BNI_PARTS 4
#define BNI_LANES 4
#define BNI_EACH(x) { enum { i = 0 }; x; } { enum { i = 1 }; x; } { enum { i = 2 }; x; } { enum { i = 3 }; x; }
#define bni_pf BNI_FN(bni_pf)
#define bni_pi BNI_FN(bni_pi)
#define bni_pu BNI_FN(bni_pu)
#define bni_pi_any BNI_FN(bni_pi_any)
typedef float bni_pf __attribute__((vector_size(16)));
typedef int32_t bni_pi __attribute__((vector_size(16)));
typedef uint32_t bni_pu __attribute__((vector_size(16)));
typedef int32_t bni_pi_any __attribute__((vector_size(16), aligned(1), may_alias));     /* at any address */
#define BNI_LOADI(p) (*(const bni_pi_any *)(const void *)(p))
#define BNI_STOREI(p, a) (*(bni_pi_any *)(void *)(p) = (bni_pi)(a))
#define BNI_ADD(a, b) ((bni_pi)((bni_pu)(a) + (bni_pu)(b)))          /* wraps around */
#define BNI_SHR(a, n) ((bni_pi)((bni_pu)(a) >> (uint32_t)(n)))
#define BNI_BYTES(b) BNI_SPLAT((b) * 0x01010101)
#if BNI_ISA == BNI_ISA_WASM
  #define BNI_SPLAT(x) ((bni_pi)wasm_i32x4_splat(x))
  #define BNI_EVEN(a, b) ((bni_pi)wasm_i32x4_shuffle((v128_t)(a), (v128_t)(b), 0, 2, 4, 6))
  #define BNI_ODD(a, b) ((bni_pi)wasm_i32x4_shuffle((v128_t)(a), (v128_t)(b), 1, 3, 5, 7))
  #define BNI_ZIP_LOW(a, b) ((bni_pi)wasm_i32x4_shuffle((v128_t)(a), (v128_t)(b), 0, 4, 1, 5))
  #define BNI_ZIP_HIGH(a, b) ((bni_pi)wasm_i32x4_shuffle((v128_t)(a), (v128_t)(b), 2, 6, 3, 7))
#else
  #define BNI_SPLAT(x) ((bni_pi)vdupq_n_s32(x))
  #define BNI_EVEN(a, b) ((bni_pi)vuzp1q_s32((int32x4_t)(a), (int32x4_t)(b)))
  #define BNI_ODD(a, b) ((bni_pi)vuzp2q_s32((int32x4_t)(a), (int32x4_t)(b)))
  #define BNI_ZIP_LOW(a, b) ((bni_pi)vzip1q_s32((int32x4_t)(a), (int32x4_t)(b)))
  #define BNI_ZIP_HIGH(a, b) ((bni_pi)vzip2q_s32((int32x4_t)(a), (int32x4_t)(b)))
#endif
#endif /* NEON, WebAssembly */

#if BNI_WHOLE
#if BNI_ISA >= BNI_ISA_NEON
typedef struct bni_vf { bni_pf p[4]; } bni_vf;
typedef struct bni_vi { bni_pi p[4]; } bni_vi;
#endif

/* What differs between NEON and WebAssembly. */
#if BNI_ISA == BNI_ISA_NEON
typedef struct bni_vp { int32x4_t low[4], high[4]; } bni_vp;     /* the pairs of lanes 0, 1 and 2, 3 not yet added */

BNI_VINLINE float bni_half(const uint8_t *p)
{
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bni_load_u16(p)))), 0);
}
BNI_VINLINE bni_pi bni_round4(bni_pf a) { return (bni_pi)vcvtnq_s32_f32((float32x4_t)a); }
BNI_VINLINE bni_pf bni_float4(bni_pi a) { return (bni_pf)vcvtq_f32_s32((int32x4_t)a); }
BNI_VINLINE bni_pf bni_from_f16_4(const uint8_t *p) { return (bni_pf)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
BNI_VINLINE bni_pi bni_from_u16_4(const uint8_t *p) { return (bni_pi)vmovl_u16(vreinterpret_u16_u8(vld1_u8(p))); }
BNI_VINLINE bni_vp bni_vp_zero(void)
{
    bni_vp a;
    BNI_EACH(a.low[i] = a.high[i] = vdupq_n_s32(0))
    return a;
}
/* asm, because clang 14 sees that the halves of a broadcast are equal, and moves the other operand's upper half down
   instead of taking smlal2. */
BNI_VINLINE bni_vp bni_vp_add(bni_vp acc, bni_vi a, bni_vi b)
{
    BNI_EACH(__asm__("smlal %0.4s, %1.4h, %2.4h" : "+w"(acc.low[i]) : "w"(a.p[i]), "w"(b.p[i])))
    BNI_EACH(__asm__("smlal2 %0.4s, %1.8h, %2.8h" : "+w"(acc.high[i]) : "w"(a.p[i]), "w"(b.p[i])))
    return acc;
}
BNI_VINLINE bni_vi bni_vp_sum(bni_vp acc)
{
    bni_vi a;
    BNI_EACH(a.p[i] = (bni_pi)vpaddq_s32(acc.low[i], acc.high[i]))
    return a;
}
BNI_VINLINE bni_vi bni_vi_from_i8(const uint8_t *p)
{
    const int8x16_t bytes = (int8x16_t)BNI_LOADI(p);
    const int16x8_t a = vmovl_s8(vget_low_s8(bytes)), b = vmovl_high_s8(bytes);
    bni_vi r;
    r.p[0] = (bni_pi)vmovl_s16(vget_low_s16(a));
    r.p[1] = (bni_pi)vmovl_high_s16(a);
    r.p[2] = (bni_pi)vmovl_s16(vget_low_s16(b));
    r.p[3] = (bni_pi)vmovl_high_s16(b);
    return r;
}
BNI_VINLINE bni_vi bni_vi_from_u8(const uint8_t *p)
{
    const uint8x16_t bytes = (uint8x16_t)BNI_LOADI(p);
    const uint16x8_t a = vmovl_u8(vget_low_u8(bytes)), b = vmovl_high_u8(bytes);
    bni_vi r;
    r.p[0] = (bni_pi)vmovl_u16(vget_low_u16(a));
    r.p[1] = (bni_pi)vmovl_high_u16(a);
    r.p[2] = (bni_pi)vmovl_u16(vget_low_u16(b));
    r.p[3] = (bni_pi)vmovl_high_u16(b);
    return r;
}
/* Eight int32 to int16, sixteen int16 to int8, saturated. */
#define BNI_NARROW16(a, b) vqmovn_high_s32(vqmovn_s32((int32x4_t)(a)), (int32x4_t)(b))
#define BNI_NARROW8(a, b) vqmovn_high_s16(vqmovn_s16(a), b)

#elif BNI_ISA == BNI_ISA_WASM
typedef bni_vi bni_vp;

BNI_VINLINE float bni_half(const uint8_t *p) { return bni_f16_to_f32(bni_load_u16(p)); }
BNI_VINLINE bni_pi bni_round4(bni_pf a) { return (bni_pi)wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest((v128_t)a)); }
BNI_VINLINE bni_pf bni_float4(bni_pi a) { return (bni_pf)wasm_f32x4_convert_i32x4((v128_t)a); }
BNI_VINLINE bni_pi bni_from_u16_4(const uint8_t *p) { return (bni_pi)wasm_u32x4_load16x4(p); }
/* bni_f16_to_f32: exponent and fraction moved to their places are the number times 2^-112, denormals too; infinity and
   NaN, 31 in the exponent of F16, get 255. */
BNI_VINLINE bni_pf bni_from_f16_4(const uint8_t *p)
{
    const bni_pi h = bni_from_u16_4(p), bits = (h & BNI_SPLAT(0x7fff)) << 13;
    const bni_pi special = (bni_pi)(bits > BNI_SPLAT(0x0f7fffff)) & BNI_SPLAT(0x7f800000);
    const bni_pf number = (bni_pf)bits * (bni_pf)wasm_f32x4_splat(5.192296858534828e33f);
    return (bni_pf)((bni_pi)number | special | (bni_pi)((bni_pu)(h & BNI_SPLAT(0x8000)) << 16u));
}
BNI_VINLINE bni_vp bni_vp_zero(void) { bni_vp a; BNI_EACH(a.p[i] = BNI_SPLAT(0)) return a; }
BNI_VINLINE bni_vi bni_vp_sum(bni_vp acc) { return acc; }
BNI_VINLINE bni_vp bni_vp_add(bni_vp acc, bni_vi a, bni_vi b)
{
    BNI_EACH(acc.p[i] = BNI_ADD(acc.p[i], wasm_i32x4_dot_i16x8((v128_t)a.p[i], (v128_t)b.p[i])))
    return acc;
}
BNI_VINLINE bni_vi bni_vi_from_i8(const uint8_t *p)
{
    const v128_t a = wasm_i16x8_load8x8(p), b = wasm_i16x8_load8x8(p + 8);
    bni_vi r;
    r.p[0] = (bni_pi)wasm_i32x4_extend_low_i16x8(a);
    r.p[1] = (bni_pi)wasm_i32x4_extend_high_i16x8(a);
    r.p[2] = (bni_pi)wasm_i32x4_extend_low_i16x8(b);
    r.p[3] = (bni_pi)wasm_i32x4_extend_high_i16x8(b);
    return r;
}
BNI_VINLINE bni_vi bni_vi_from_u8(const uint8_t *p)
{
    const v128_t a = wasm_u16x8_load8x8(p), b = wasm_u16x8_load8x8(p + 8);
    bni_vi r;
    r.p[0] = (bni_pi)wasm_u32x4_extend_low_u16x8(a);
    r.p[1] = (bni_pi)wasm_u32x4_extend_high_u16x8(a);
    r.p[2] = (bni_pi)wasm_u32x4_extend_low_u16x8(b);
    r.p[3] = (bni_pi)wasm_u32x4_extend_high_u16x8(b);
    return r;
}
#define BNI_NARROW16(a, b) wasm_i16x8_narrow_i32x4((v128_t)(a), (v128_t)(b))
#define BNI_NARROW8(a, b) wasm_i8x16_narrow_i16x8(a, b)
#endif /* WebAssembly */

#if BNI_ISA < BNI_ISA_NEON
/* bni_f16_to_f32, by the instruction where there is one. */
BNI_VINLINE float bni_half(const uint8_t *p)
{
#if BNI_ISA == BNI_ISA_SSSE3
    return bni_f16_to_f32(bni_load_u16(p));
#else
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((int)bni_load_u16(p))));
#endif
}
#endif

#if BNI_ISA == BNI_ISA_AVX512
/* ------------------------------------------------------------------------------------------------- AVX-512
   AVX-512 F, BW, DQ, VL and VNNI: one register of 64 bytes is one vector. */

typedef __m512 bni_vf;
typedef __m512i bni_vi;
typedef __m512i bni_vp;

BNI_VINLINE bni_vf bni_vf_load(const float *p) { return _mm512_loadu_ps(p); }
BNI_VINLINE void bni_vf_store(float *p, bni_vf a) { _mm512_storeu_ps(p, a); }
BNI_VINLINE bni_vf bni_vf_set(float x) { return _mm512_set1_ps(x); }
BNI_VINLINE bni_vf bni_vf_add(bni_vf a, bni_vf b) { return a + b; }
BNI_VINLINE bni_vf bni_vf_sub(bni_vf a, bni_vf b) { return a - b; }
BNI_VINLINE bni_vf bni_vf_mul(bni_vf a, bni_vf b) { bni_vf p = a * b; BNI_VSETTLE(p); return p; }
BNI_VINLINE bni_vf bni_vf_div(bni_vf a, bni_vf b) { return a / b; }
BNI_VINLINE bni_vf bni_vf_min(bni_vf a, bni_vf b) { return _mm512_min_ps(a, b); }
BNI_VINLINE bni_vf bni_vf_max(bni_vf a, bni_vf b) { return _mm512_max_ps(a, b); }
BNI_VINLINE bni_vf bni_vf_negate(bni_vf a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
BNI_VINLINE bni_vf bni_vf_keep(bni_vf a, int n, bni_vf other)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(_mm512_set1_epi32(n), lanes), other, a);
}
BNI_VINLINE float bni_vf_sum(bni_vf a)
{
    __m256 b = _mm512_castps512_ps256(a) + _mm512_extractf32x8_ps(a, 1);
    __m128 c = _mm256_castps256_ps128(b) + _mm256_extractf128_ps(b, 1);
    c = c + _mm_movehl_ps(c, c);
    return _mm_cvtss_f32(c + _mm_movehdup_ps(c));
}
BNI_VINLINE float bni_vf_highest(bni_vf a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ps(c, _mm_movehdup_ps(c)));
}
BNI_VINLINE bni_vi bni_vf_round(bni_vf a) { return _mm512_cvtps_epi32(a); }
BNI_VINLINE bni_vf bni_vf_power2(bni_vi e) { return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23)); }
BNI_VINLINE bni_vf bni_vf_scaled(bni_vf a, bni_vi e)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(e, 23)));
}
BNI_VINLINE bni_vi bni_vf_magnitude(bni_vf a)
{
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
}
BNI_VINLINE bni_vf bni_vf_from_int(bni_vi a) { return _mm512_cvtepi32_ps(a); }
BNI_VINLINE bni_vf bni_vf_from_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
BNI_VINLINE bni_vf bni_vf_from_bf16(const uint8_t *p)
{
    __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
}
BNI_VINLINE void bni_vf_unzip(const float *p, bni_vf *even, bni_vf *odd)
{
    const __m512i i = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    bni_vf a = bni_vf_load(p), b = bni_vf_load(p + 16);
    *even = _mm512_permutex2var_ps(a, i, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(i, _mm512_set1_epi32(1)), b);
}
BNI_VINLINE void bni_vf_zip(float *p, bni_vf even, bni_vf odd)
{
    const __m512i i = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    bni_vf_store(p, _mm512_permutex2var_ps(even, i, odd));
    bni_vf_store(p + 16, _mm512_permutex2var_ps(even, _mm512_add_epi32(i, _mm512_set1_epi32(8)), odd));
}

BNI_VINLINE bni_vi bni_vi_load(const void *p) { return _mm512_loadu_si512(p); }
BNI_VINLINE void bni_vi_store(void *p, bni_vi a) { _mm512_storeu_si512(p, a); }
BNI_VINLINE bni_vi bni_vi_set(int32_t x) { return _mm512_set1_epi32(x); }
BNI_VINLINE bni_vi bni_vi_add(bni_vi a, bni_vi b) { return _mm512_add_epi32(a, b); }
BNI_VINLINE bni_vi bni_vi_sub(bni_vi a, bni_vi b) { return _mm512_sub_epi32(a, b); }
BNI_VINLINE bni_vi bni_vi_and(bni_vi a, bni_vi b) { return _mm512_and_si512(a, b); }
BNI_VINLINE bni_vi bni_vi_or(bni_vi a, bni_vi b) { return _mm512_or_si512(a, b); }
BNI_VINLINE bni_vi bni_vi_max(bni_vi a, bni_vi b) { return _mm512_max_epi32(a, b); }
BNI_VINLINE bni_vi bni_vi_shr(bni_vi a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
BNI_VINLINE bni_vi bni_vi_shl(bni_vi a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
/* asm, because gcc 12.2 copies the accumulators of the intrinsic to the stack in every turn of a loop once 16 of them
   are live. */
BNI_VINLINE bni_vp bni_vp_add(bni_vp acc, bni_vi a, bni_vi b)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
    return acc;
}
BNI_VINLINE bni_vp bni_vp_zero(void) { return _mm512_setzero_si512(); }
BNI_VINLINE bni_vi bni_vp_sum(bni_vp acc) { return acc; }
BNI_VINLINE int32_t bni_vi_sum(bni_vi a) { return _mm512_reduce_add_epi32(a); }
BNI_VINLINE int32_t bni_vi_highest(bni_vi a) { return _mm512_reduce_max_epi32(a); }
BNI_VINLINE bni_vi bni_vi_from_i8(const uint8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
BNI_VINLINE bni_vi bni_vi_from_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}
BNI_VINLINE void bni_vi_to_i8(int8_t *p, bni_vi a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(a));
}
BNI_VINLINE void bni_vi_to_i16(int16_t *p, bni_vi a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtsepi32_epi16(a));
}

#elif BNI_ISA >= BNI_ISA_NEON
/* a where m, b elsewhere. For the smaller of two too: the minimum of NEON is NaN where either is. */
#define BNI_PICK(m, a, b) (((bni_pi)(a) & (bni_pi)(m)) | ((bni_pi)(b) & ~(bni_pi)(m)))

BNI_VINLINE bni_vf bni_vf_load(const float *p) { bni_vf a; BNI_EACH(a.p[i] = (bni_pf)BNI_LOADI(p + 4 * i)) return a; }
BNI_VINLINE void bni_vf_store(float *p, bni_vf a) { BNI_EACH(BNI_STOREI(p + 4 * i, a.p[i])) }
BNI_VINLINE bni_vi bni_vi_load(const void *p) { bni_vi a; BNI_EACH(a.p[i] = BNI_LOADI((const int32_t *)p + 4 * i)) return a; }
BNI_VINLINE void bni_vi_store(void *p, bni_vi a) { BNI_EACH(BNI_STOREI((int32_t *)p + 4 * i, a.p[i])) }
BNI_VINLINE bni_vi bni_vi_set(int32_t x) { bni_vi a; BNI_EACH(a.p[i] = BNI_SPLAT(x)) return a; }
BNI_VINLINE bni_vf bni_vf_set(float x) { bni_vf a; BNI_EACH(a.p[i] = (bni_pf)BNI_SPLAT((int32_t)bni_float_bits(x))) return a; }
BNI_VINLINE bni_vf bni_vf_add(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] + b.p[i]) return a; }
BNI_VINLINE bni_vf bni_vf_sub(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] - b.p[i]) return a; }
BNI_VINLINE bni_vf bni_vf_mul(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] * b.p[i]; BNI_VSETTLE(a.p[i])) return a; }
BNI_VINLINE bni_vf bni_vf_div(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] / b.p[i]) return a; }
BNI_VINLINE bni_vf bni_vf_min(bni_vf a, bni_vf b)
{
    BNI_EACH(a.p[i] = (bni_pf)BNI_PICK(a.p[i] < b.p[i], a.p[i], b.p[i]))
    return a;
}
BNI_VINLINE bni_vf bni_vf_max(bni_vf a, bni_vf b)
{
    BNI_EACH(a.p[i] = (bni_pf)BNI_PICK(a.p[i] > b.p[i], a.p[i], b.p[i]))
    return a;
}
BNI_VINLINE bni_vf bni_vf_negate(bni_vf a)
{
    BNI_EACH(a.p[i] = (bni_pf)((bni_pi)a.p[i] ^ BNI_SPLAT(INT32_MIN)))
    return a;
}
BNI_VINLINE bni_vi bni_vf_round(bni_vf a) { bni_vi r; BNI_EACH(r.p[i] = bni_round4(a.p[i])) return r; }
BNI_VINLINE bni_vf bni_vf_power2(bni_vi e) { bni_vf r; BNI_EACH(r.p[i] = (bni_pf)((bni_pu)e.p[i] << 23u)) return r; }
BNI_VINLINE bni_vf bni_vf_scaled(bni_vf a, bni_vi e)
{
    BNI_EACH(a.p[i] = (bni_pf)((bni_pu)a.p[i] + ((bni_pu)e.p[i] << 23u)))
    return a;
}
BNI_VINLINE bni_vi bni_vf_magnitude(bni_vf a)
{
    bni_vi r;
    BNI_EACH(r.p[i] = (bni_pi)a.p[i] & BNI_SPLAT(INT32_MAX))
    return r;
}
BNI_VINLINE bni_vf bni_vf_from_int(bni_vi a) { bni_vf r; BNI_EACH(r.p[i] = bni_float4(a.p[i])) return r; }
BNI_VINLINE bni_vf bni_vf_from_f16(const uint8_t *p) { bni_vf r; BNI_EACH(r.p[i] = bni_from_f16_4(p + 8 * i)) return r; }
BNI_VINLINE bni_vf bni_vf_from_bf16(const uint8_t *p)
{
    bni_vf r;
    BNI_EACH(r.p[i] = (bni_pf)((bni_pu)bni_from_u16_4(p + 8 * i) << 16u))
    return r;
}
BNI_VINLINE void bni_vf_unzip(const float *p, bni_vf *even, bni_vf *odd)
{
    BNI_EACH(const bni_pi a = BNI_LOADI(p + 8 * i); const bni_pi b = BNI_LOADI(p + 8 * i + 4);
             even->p[i] = (bni_pf)BNI_EVEN(a, b); odd->p[i] = (bni_pf)BNI_ODD(a, b))
}
BNI_VINLINE void bni_vf_zip(float *p, bni_vf even, bni_vf odd)
{
    BNI_EACH(BNI_STOREI(p + 8 * i, BNI_ZIP_LOW(even.p[i], odd.p[i]));
             BNI_STOREI(p + 8 * i + 4, BNI_ZIP_HIGH(even.p[i], odd.p[i])))
}
BNI_VINLINE bni_vf bni_vf_keep(bni_vf a, int n, bni_vf other)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    BNI_EACH(a.p[i] = (bni_pf)BNI_PICK(BNI_SPLAT(n) > BNI_LOADI(lanes + 4 * i), a.p[i], other.p[i]))
    return a;
}
BNI_VINLINE float bni_vf_sum(bni_vf a)
{
    const bni_pf c = (a.p[0] + a.p[2]) + (a.p[1] + a.p[3]);
    return (c[0] + c[2]) + (c[1] + c[3]);
}
BNI_VINLINE float bni_vf_highest(bni_vf a)
{
    const bni_pf b = (bni_pf)BNI_PICK(a.p[0] > a.p[2], a.p[0], a.p[2]), c = (bni_pf)BNI_PICK(a.p[1] > a.p[3], a.p[1], a.p[3]);
    const bni_pf d = (bni_pf)BNI_PICK(b > c, b, c);
    const float e = d[0] > d[2] ? d[0] : d[2], f = d[1] > d[3] ? d[1] : d[3];
    return e > f ? e : f;
}

BNI_VINLINE bni_vi bni_vi_add(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = BNI_ADD(a.p[i], b.p[i])) return a; }
BNI_VINLINE bni_vi bni_vi_sub(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = (bni_pi)((bni_pu)a.p[i] - (bni_pu)b.p[i])) return a; }
BNI_VINLINE bni_vi bni_vi_and(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = a.p[i] & b.p[i]) return a; }
BNI_VINLINE bni_vi bni_vi_or(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = a.p[i] | b.p[i]) return a; }
BNI_VINLINE bni_vi bni_vi_max(bni_vi a, bni_vi b)
{
    BNI_EACH(a.p[i] = BNI_PICK(a.p[i] > b.p[i], a.p[i], b.p[i]))
    return a;
}
BNI_VINLINE bni_vi bni_vi_shr(bni_vi a, int n) { BNI_EACH(a.p[i] = BNI_SHR(a.p[i], n)) return a; }
BNI_VINLINE bni_vi bni_vi_shl(bni_vi a, int n) { BNI_EACH(a.p[i] = (bni_pi)((bni_pu)a.p[i] << (uint32_t)n)) return a; }
BNI_VINLINE int32_t bni_vi_sum(bni_vi a)
{
    const bni_pu c = (bni_pu)a.p[0] + (bni_pu)a.p[1] + (bni_pu)a.p[2] + (bni_pu)a.p[3];
    return (int32_t)(c[0] + c[1] + c[2] + c[3]);
}
BNI_VINLINE int32_t bni_vi_highest(bni_vi a)
{
    const bni_pi b = BNI_PICK(a.p[0] > a.p[2], a.p[0], a.p[2]), c = BNI_PICK(a.p[1] > a.p[3], a.p[1], a.p[3]);
    const bni_pi d = BNI_PICK(b > c, b, c);
    const int32_t e = d[0] > d[2] ? d[0] : d[2], f = d[1] > d[3] ? d[1] : d[3];
    return e > f ? e : f;
}
BNI_VINLINE void bni_vi_to_i8(int8_t *p, bni_vi a)
{
    BNI_STOREI(p, BNI_NARROW8(BNI_NARROW16(a.p[0], a.p[1]), BNI_NARROW16(a.p[2], a.p[3])));
}
BNI_VINLINE void bni_vi_to_i16(int16_t *p, bni_vi a)
{
    BNI_STOREI(p, BNI_NARROW16(a.p[0], a.p[1]));
    BNI_STOREI(p + 8, BNI_NARROW16(a.p[2], a.p[3]));
}
#undef BNI_PICK
#undef BNI_NARROW16
#undef BNI_NARROW8

#else /* SSSE3, AVX2, AVX-VNNI */
/* ------------------------------------------------------------------------------- registers of 16 or 32 bytes
   SSSE3: four registers of 16 bytes, lanes 0-3 to 12-15. AVX2 and F16C, AVX-VNNI: two of 32, lanes 0-7 and 8-15. FMA is
   left out of the target on purpose. BNI_EACH(x) is x once for every register, with i its number, a constant. */

#if BNI_ISA == BNI_ISA_SSSE3
  #define BNI_PARTS 4
  #define BNI_MM(name) _mm_##name
  #define BNI_LOADI(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
  #define BNI_STOREI(p, a) _mm_storeu_si128((__m128i *)(void *)(p), a)
  #define BNI_EACH(x) { enum { i = 0 }; x; } { enum { i = 1 }; x; } { enum { i = 2 }; x; } { enum { i = 3 }; x; }
#define bni_pf BNI_FN(bni_pf)
#define bni_pi BNI_FN(bni_pi)
typedef __m128 bni_pf;
typedef __m128i bni_pi;
#else
  #define BNI_PARTS 2
  #define BNI_MM(name) _mm256_##name
  #define BNI_LOADI(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
  #define BNI_STOREI(p, a) _mm256_storeu_si256((__m256i *)(void *)(p), a)
  #define BNI_EACH(x) { enum { i = 0 }; x; } { enum { i = 1 }; x; }
#define bni_pf BNI_FN(bni_pf)
#define bni_pi BNI_FN(bni_pi)
typedef __m256 bni_pf;
typedef __m256i bni_pi;
#endif
#define BNI_LANES (16 / BNI_PARTS)
typedef struct bni_vf { bni_pf p[BNI_PARTS]; } bni_vf;
typedef struct bni_vi { bni_pi p[BNI_PARTS]; } bni_vi;
typedef bni_vi bni_vp;

BNI_VINLINE bni_vf bni_vf_load(const float *p) { bni_vf a; BNI_EACH(a.p[i] = BNI_MM(loadu_ps)(p + BNI_LANES * i)) return a; }
BNI_VINLINE void bni_vf_store(float *p, bni_vf a) { BNI_EACH(BNI_MM(storeu_ps)(p + BNI_LANES * i, a.p[i])) }
BNI_VINLINE bni_vf bni_vf_set(float x) { bni_vf a; BNI_EACH(a.p[i] = BNI_MM(set1_ps)(x)) return a; }
BNI_VINLINE bni_vf bni_vf_add(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] + b.p[i]) return a; }
BNI_VINLINE bni_vf bni_vf_sub(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] - b.p[i]) return a; }
BNI_VINLINE bni_vf bni_vf_mul(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] * b.p[i]; BNI_VSETTLE(a.p[i])) return a; }
BNI_VINLINE bni_vf bni_vf_div(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = a.p[i] / b.p[i]) return a; }
BNI_VINLINE bni_vf bni_vf_min(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = BNI_MM(min_ps)(a.p[i], b.p[i])) return a; }
BNI_VINLINE bni_vf bni_vf_max(bni_vf a, bni_vf b) { BNI_EACH(a.p[i] = BNI_MM(max_ps)(a.p[i], b.p[i])) return a; }
BNI_VINLINE bni_vf bni_vf_negate(bni_vf a)
{
    BNI_EACH(a.p[i] = BNI_MM(xor_ps)(a.p[i], BNI_MM(set1_ps)(-0.0f)))
    return a;
}
BNI_VINLINE bni_vi bni_vf_round(bni_vf a) { bni_vi r; BNI_EACH(r.p[i] = BNI_MM(cvtps_epi32)(a.p[i])) return r; }
BNI_VINLINE bni_vf bni_vf_power2(bni_vi e) { bni_vf r; BNI_EACH(r.p[i] = (bni_pf)BNI_MM(slli_epi32)(e.p[i], 23)) return r; }
BNI_VINLINE bni_vf bni_vf_scaled(bni_vf a, bni_vi e)
{
    BNI_EACH(a.p[i] = (bni_pf)BNI_MM(add_epi32)((bni_pi)a.p[i], BNI_MM(slli_epi32)(e.p[i], 23)))
    return a;
}
BNI_VINLINE bni_vi bni_vf_magnitude(bni_vf a)
{
    bni_vi r;
    BNI_EACH(r.p[i] = (bni_pi)a.p[i] & BNI_MM(set1_epi32)(0x7fffffff))
    return r;
}
BNI_VINLINE bni_vf bni_vf_from_int(bni_vi a) { bni_vf r; BNI_EACH(r.p[i] = BNI_MM(cvtepi32_ps)(a.p[i])) return r; }

BNI_VINLINE bni_vi bni_vi_load(const void *p)
{
    bni_vi a;
    BNI_EACH(a.p[i] = BNI_LOADI((const int32_t *)p + BNI_LANES * i))
    return a;
}
BNI_VINLINE void bni_vi_store(void *p, bni_vi a) { BNI_EACH(BNI_STOREI((int32_t *)p + BNI_LANES * i, a.p[i])) }
BNI_VINLINE bni_vi bni_vi_set(int32_t x) { bni_vi a; BNI_EACH(a.p[i] = BNI_MM(set1_epi32)(x)) return a; }
BNI_VINLINE bni_vi bni_vi_add(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = BNI_MM(add_epi32)(a.p[i], b.p[i])) return a; }
BNI_VINLINE bni_vi bni_vi_sub(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = BNI_MM(sub_epi32)(a.p[i], b.p[i])) return a; }
BNI_VINLINE bni_vi bni_vi_and(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = a.p[i] & b.p[i]) return a; }
BNI_VINLINE bni_vi bni_vi_or(bni_vi a, bni_vi b) { BNI_EACH(a.p[i] = a.p[i] | b.p[i]) return a; }
BNI_VINLINE bni_vi bni_vi_max(bni_vi a, bni_vi b)
{
    BNI_EACH(bni_pi more = BNI_MM(cmpgt_epi32)(a.p[i], b.p[i]); a.p[i] = (a.p[i] & more) | (b.p[i] & ~more))
    return a;
}
BNI_VINLINE bni_vi bni_vi_shr(bni_vi a, int n)
{
    BNI_EACH(a.p[i] = BNI_MM(srl_epi32)(a.p[i], _mm_cvtsi32_si128(n)))
    return a;
}
BNI_VINLINE bni_vi bni_vi_shl(bni_vi a, int n)
{
    BNI_EACH(a.p[i] = BNI_MM(sll_epi32)(a.p[i], _mm_cvtsi32_si128(n)))
    return a;
}
BNI_VINLINE bni_vp bni_vp_zero(void) { return bni_vi_set(0); }
BNI_VINLINE bni_vi bni_vp_sum(bni_vp acc) { return acc; }
BNI_VINLINE bni_vp bni_vp_add(bni_vp acc, bni_vi a, bni_vi b)
{
#if BNI_ISA == BNI_ISA_AVXVNNI
    BNI_EACH(__asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc.p[i]) : "x"(a.p[i]), "x"(b.p[i])))
#else
    BNI_EACH(acc.p[i] = BNI_MM(add_epi32)(acc.p[i], BNI_MM(madd_epi16)(a.p[i], b.p[i])))
#endif
    return acc;
}

#if BNI_ISA == BNI_ISA_SSSE3
/* 8 onto 8 lanes, then 4 onto 4: what is left to fold fills a register of 16 bytes. */
BNI_VINLINE __m128 bni_vf_quarter(bni_vf a) { return (a.p[0] + a.p[2]) + (a.p[1] + a.p[3]); }
BNI_VINLINE __m128 bni_vf_top(bni_vf a) { return _mm_max_ps(_mm_max_ps(a.p[0], a.p[2]), _mm_max_ps(a.p[1], a.p[3])); }
/* bni_f16_to_f32: exponent and fraction moved to their places are the number times 2^-112, denormals too; infinity and
   NaN, 31 in the exponent of F16, get 255. */
BNI_VINLINE __m128 bni_vf_quarter_f16(__m128i h)
{
    const __m128i bits = _mm_slli_epi32(h & _mm_set1_epi32(0x7fff), 13);
    const __m128i special = _mm_cmpgt_epi32(bits, _mm_set1_epi32(0x0f7fffff)) & _mm_set1_epi32(0x7f800000);
    const __m128 number = (__m128)bits * _mm_set1_ps(5.192296858534828e33f);
    return (__m128)((__m128i)number | special | _mm_slli_epi32(h & _mm_set1_epi32(0x8000), 16));
}
BNI_VINLINE bni_vf bni_vf_from_f16(const uint8_t *p)
{
    const __m128i a = BNI_LOADI(p), b = BNI_LOADI(p + 16), zero = _mm_setzero_si128();
    bni_vf r;
    r.p[0] = bni_vf_quarter_f16(_mm_unpacklo_epi16(a, zero));
    r.p[1] = bni_vf_quarter_f16(_mm_unpackhi_epi16(a, zero));
    r.p[2] = bni_vf_quarter_f16(_mm_unpacklo_epi16(b, zero));
    r.p[3] = bni_vf_quarter_f16(_mm_unpackhi_epi16(b, zero));
    return r;
}
BNI_VINLINE bni_vf bni_vf_from_bf16(const uint8_t *p)
{
    const __m128i a = BNI_LOADI(p), b = BNI_LOADI(p + 16), zero = _mm_setzero_si128();
    bni_vf r;
    r.p[0] = (__m128)_mm_unpacklo_epi16(zero, a);
    r.p[1] = (__m128)_mm_unpackhi_epi16(zero, a);
    r.p[2] = (__m128)_mm_unpacklo_epi16(zero, b);
    r.p[3] = (__m128)_mm_unpackhi_epi16(zero, b);
    return r;
}
BNI_VINLINE void bni_vf_unzip(const float *p, bni_vf *even, bni_vf *odd)
{
    BNI_EACH(even->p[i] = _mm_shuffle_ps(_mm_loadu_ps(p + 8 * i), _mm_loadu_ps(p + 8 * i + 4), 0x88))
    BNI_EACH(odd->p[i] = _mm_shuffle_ps(_mm_loadu_ps(p + 8 * i), _mm_loadu_ps(p + 8 * i + 4), 0xdd))
}
BNI_VINLINE void bni_vf_zip(float *p, bni_vf even, bni_vf odd)
{
    BNI_EACH(_mm_storeu_ps(p + 8 * i, _mm_unpacklo_ps(even.p[i], odd.p[i])))
    BNI_EACH(_mm_storeu_ps(p + 8 * i + 4, _mm_unpackhi_ps(even.p[i], odd.p[i])))
}
BNI_VINLINE __m128i bni_vi_quarter(bni_vi a)
{
    return _mm_add_epi32(_mm_add_epi32(a.p[0], a.p[1]), _mm_add_epi32(a.p[2], a.p[3]));
}
/* Bytes to int32: each doubled to 16 bits with high beside it, then to 32. high: 0, or the byte again, from which an
   arithmetic shift takes the sign. */
BNI_VINLINE bni_vi bni_vi_widen(__m128i bytes, __m128i high)
{
    const __m128i a = _mm_unpacklo_epi8(bytes, high), b = _mm_unpackhi_epi8(bytes, high);
    const __m128i a2 = _mm_srai_epi16(a, 15), b2 = _mm_srai_epi16(b, 15);
    bni_vi r;
    r.p[0] = _mm_unpacklo_epi16(a, a2);
    r.p[1] = _mm_unpackhi_epi16(a, a2);
    r.p[2] = _mm_unpacklo_epi16(b, b2);
    r.p[3] = _mm_unpackhi_epi16(b, b2);
    return r;
}
BNI_VINLINE bni_vi bni_vi_from_i8(const uint8_t *p)
{
    const __m128i bytes = BNI_LOADI(p);
    return bni_vi_widen(bytes, _mm_cmpgt_epi8(_mm_setzero_si128(), bytes));
}
BNI_VINLINE bni_vi bni_vi_from_u8(const uint8_t *p) { return bni_vi_widen(BNI_LOADI(p), _mm_setzero_si128()); }
BNI_VINLINE void bni_vi_to_i8(int8_t *p, bni_vi a)
{
    BNI_STOREI(p, _mm_packs_epi16(_mm_packs_epi32(a.p[0], a.p[1]), _mm_packs_epi32(a.p[2], a.p[3])));
}
BNI_VINLINE void bni_vi_to_i16(int16_t *p, bni_vi a)
{
    BNI_STOREI(p, _mm_packs_epi32(a.p[0], a.p[1]));
    BNI_STOREI(p + 8, _mm_packs_epi32(a.p[2], a.p[3]));
}

#else /* 32 bytes */
BNI_VINLINE __m128 bni_vf_quarter(bni_vf a)
{
    const __m256 b = a.p[0] + a.p[1];
    return _mm256_castps256_ps128(b) + _mm256_extractf128_ps(b, 1);
}
BNI_VINLINE __m128 bni_vf_top(bni_vf a)
{
    const __m256 b = _mm256_max_ps(a.p[0], a.p[1]);
    return _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
}
BNI_VINLINE bni_vf bni_vf_from_f16(const uint8_t *p)
{
    bni_vf r;
    BNI_EACH(r.p[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i))))
    return r;
}
BNI_VINLINE bni_vf bni_vf_from_bf16(const uint8_t *p)
{
    bni_vf r;
    BNI_EACH(r.p[i] = (__m256)_mm256_slli_epi32(
                 _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i))), 16))
    return r;
}
/* The 8 even (s = 0x88) or odd (s = 0xdd) elements of 16: pick within halves, then put the quarters in order. */
#define BNI_PICK(a, b, s) (__m256)_mm256_permute4x64_pd((__m256d)_mm256_shuffle_ps(a, b, s), 0xd8)
BNI_VINLINE void bni_vf_unzip(const float *p, bni_vf *even, bni_vf *odd)
{
    BNI_EACH(even->p[i] = BNI_PICK(_mm256_loadu_ps(p + 16 * i), _mm256_loadu_ps(p + 16 * i + 8), 0x88))
    BNI_EACH(odd->p[i] = BNI_PICK(_mm256_loadu_ps(p + 16 * i), _mm256_loadu_ps(p + 16 * i + 8), 0xdd))
}
#undef BNI_PICK
BNI_VINLINE void bni_vf_zip(float *p, bni_vf even, bni_vf odd)
{
    BNI_EACH(const __m256 a = _mm256_unpacklo_ps(even.p[i], odd.p[i]); const __m256 b = _mm256_unpackhi_ps(even.p[i], odd.p[i]);
             _mm256_storeu_ps(p + 16 * i, _mm256_permute2f128_ps(a, b, 0x20));
             _mm256_storeu_ps(p + 16 * i + 8, _mm256_permute2f128_ps(a, b, 0x31)))
}
BNI_VINLINE __m128i bni_vi_quarter(bni_vi a)
{
    const __m256i b = _mm256_add_epi32(a.p[0], a.p[1]);
    return _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
}
BNI_VINLINE bni_vi bni_vi_from_i8(const uint8_t *p)
{
    bni_vi r;
    BNI_EACH(r.p[i] = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i))))
    return r;
}
BNI_VINLINE bni_vi bni_vi_from_u8(const uint8_t *p)
{
    bni_vi r;
    BNI_EACH(r.p[i] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8 * i))))
    return r;
}
/* 16 saturated int16 in order: packs works within halves, so the quarters come out as 0 2 1 3. */
#define BNI_TO_I16(a) _mm256_permute4x64_epi64(_mm256_packs_epi32((a).p[0], (a).p[1]), 0xd8)
BNI_VINLINE void bni_vi_to_i8(int8_t *p, bni_vi a)
{
    const __m256i b = BNI_TO_I16(a);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packs_epi16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1)));
}
BNI_VINLINE void bni_vi_to_i16(int16_t *p, bni_vi a) { BNI_STOREI(p, BNI_TO_I16(a)); }
#undef BNI_TO_I16
#endif /* 32 bytes */

BNI_VINLINE bni_vf bni_vf_keep(bni_vf a, int n, bni_vf other)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    BNI_EACH(bni_pi m = BNI_MM(cmpgt_epi32)(BNI_MM(set1_epi32)(n), BNI_LOADI(lanes + BNI_LANES * i));
             a.p[i] = (bni_pf)(((bni_pi)a.p[i] & m) | ((bni_pi)other.p[i] & ~m)))
    return a;
}
BNI_VINLINE float bni_vf_sum(bni_vf a)
{
    __m128 c = bni_vf_quarter(a);
    c = c + _mm_movehl_ps(c, c);
    return _mm_cvtss_f32(c + _mm_movehdup_ps(c));
}
BNI_VINLINE float bni_vf_highest(bni_vf a)
{
    __m128 c = bni_vf_top(a);
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ps(c, _mm_movehdup_ps(c)));
}
BNI_VINLINE int32_t bni_vi_sum(bni_vi a)
{
    __m128i c = bni_vi_quarter(a);
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}
BNI_VINLINE int32_t bni_vi_highest(bni_vi a)
{
    int32_t v[16], top;
    int l;
    bni_vi_store(v, a);
    for (top = v[0], l = 1; l < 16; l++)
        top = v[l] > top ? v[l] : top;
    return top;
}

#endif /* registers of 16 or 32 bytes */

/* ======================================================================================================
   >>kernels    The reference, fast
   ======================================================================================================
   One body per kernel over the vectors above; only the ternary product, the engine's inner loop, has one per
   instruction set. The contract of each function is told in >>reference; the comments here say why it is fast.

   Two limits matter. One token is bound by memory: every weight is read once and used once, so what counts is how many
   cache lines are under way at a time. Two far-apart streams with software prefetch keep more lines in flight than one
   stream can. A prompt is bound by arithmetic: a block of weights is unpacked once and used for up to 8 tokens. */

/* The integer products of attention are computed in tiles of rows x vectors of 16: as many accumulators as fit into the
   registers beside one row of operands. Rows of the output matrix for several tokens likewise. */
#if BNI_ISA == BNI_ISA_AVX512
  #define BNI_TILE_ROWS 4
  #define BNI_TILE_VECTORS 4
  #define BNI_TILE_DOT_ROWS 2
#else
  #define BNI_TILE_ROWS 2
  #define BNI_TILE_VECTORS (BNI_PARTS == 2 ? 2 : 1)
  #define BNI_TILE_DOT_ROWS 1
#endif

#define bni_vf_exp BNI_FN(bni_vf_exp)
#define bni_vf_exp2 BNI_FN(bni_vf_exp2)
#define bni_vf_act BNI_FN(bni_vf_act)
#define bni_over BNI_FN(bni_over)
#define bni_over_set BNI_FN(bni_over_set)
#define bni_vf_over BNI_FN(bni_vf_over)
#define bni_rescaled BNI_FN(bni_rescaled)
#define bni_load_tail BNI_FN(bni_load_tail)
#define bni_pair_tile BNI_FN(bni_pair_tile)
#define bni_pair_rows BNI_FN(bni_pair_rows)
#define bni_pair_products BNI_FN(bni_pair_products)
#define bni_attend_ahead BNI_FN(bni_attend_ahead)
#define bni_attend_scores BNI_FN(bni_attend_scores)
#define bni_attend_weights BNI_FN(bni_attend_weights)
#define bni_attend_block BNI_FN(bni_attend_block)
#define bni_attend_add BNI_FN(bni_attend_add)
#define bni_attend_out BNI_FN(bni_attend_out)
#define bni_weights BNI_FN(bni_weights)
#define bni_weights_tail BNI_FN(bni_weights_tail)
#define bni_dot_tile BNI_FN(bni_dot_tile)
#define bni_dot_one BNI_FN(bni_dot_one)
#define bni_dot_batch BNI_FN(bni_dot_batch)
#define bni_vf_quarter BNI_FN(bni_vf_quarter)
#define bni_vf_quarter_f16 BNI_FN(bni_vf_quarter_f16)
#define bni_vf_top BNI_FN(bni_vf_top)
#define bni_vi_quarter BNI_FN(bni_vi_quarter)
#define bni_vi_widen BNI_FN(bni_vi_widen)
#define bni_plane_step BNI_FN(bni_plane_step)
#define bni_plane_tile BNI_FN(bni_plane_tile)
#define bni_plane_scaled BNI_FN(bni_plane_scaled)
#define bni_block_step BNI_FN(bni_block_step)
#define bni_block_finish BNI_FN(bni_block_finish)
#define bni_flush BNI_FN(bni_flush)
#define bni_fetch BNI_FN(bni_fetch)
#define bni_one BNI_FN(bni_one)
#define bni_few BNI_FN(bni_few)
#define bni_few_n BNI_FN(bni_few_n)
#define bni_few_tile BNI_FN(bni_few_tile)
#define bni_unpack BNI_FN(bni_unpack)
#define bni_unpack_block BNI_FN(bni_unpack_block)
#define bni_panel_tile BNI_FN(bni_panel_tile)
#define bni_panel_rows BNI_FN(bni_panel_rows)

/* --------------------------------------------------------------------------------------- elementwise and norms */

/* bni_expf, operation by operation. */
/* The clamps come first, so that the powers of two below are in range; 2^i is applied in two factors, as i alone may
   lie outside the exponents of normal floats. */
BNI_VINLINE bni_vf bni_vf_exp(bni_vf x)
{
    bni_vf n, r, p;
    bni_vi i, half;
    x = bni_vf_min(x, bni_vf_set(BNI_EXP_MAX));
    x = bni_vf_max(x, bni_vf_set(BNI_EXP_MIN));
    i = bni_vf_round(bni_vf_mul(x, bni_vf_set(BNI_EXP_LOG2E)));
    n = bni_vf_from_int(i);
    r = bni_vf_sub(x, bni_vf_mul(n, bni_vf_set(BNI_EXP_LN2_HI)));
    r = bni_vf_sub(r, bni_vf_mul(n, bni_vf_set(BNI_EXP_LN2_LO)));
    p = bni_vf_add(bni_vf_mul(bni_vf_set(BNI_EXP_P0), r), bni_vf_set(BNI_EXP_P1));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(BNI_EXP_P2));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(BNI_EXP_P3));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(BNI_EXP_P4));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(BNI_EXP_P5));
    p = bni_vf_add(bni_vf_add(bni_vf_mul(p, bni_vf_mul(r, r)), r), bni_vf_set(1.0f));
#if BNI_ISA == BNI_ISA_AVX512
    (void)half;
    return _mm512_scalef_ps(p, n);             /* one rounding, as the first of two factors makes none */
#else
    half = bni_vi_shr(bni_vi_add(i, bni_vi_set(256)), 1);
    p = bni_vf_mul(p, bni_vf_power2(bni_vi_sub(half, bni_vi_set(1))));
    return bni_vf_mul(p, bni_vf_power2(bni_vi_sub(bni_vi_add(i, bni_vi_set(255)), half)));
#endif
}

/* bni_exp2f, likewise. */
BNI_VINLINE bni_vf bni_vf_exp2(bni_vf x)
{
    bni_vf r, p;
    bni_vi i;
    x = bni_vf_max(bni_vf_set(-100.0f), x);
    i = bni_vf_round(x);
    r = bni_vf_sub(x, bni_vf_from_int(i));
    p = bni_vf_add(bni_vf_mul(bni_vf_set(BNI_EXP2_C4), r), bni_vf_set(BNI_EXP2_C3));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(BNI_EXP2_C2));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(BNI_EXP2_C1));
    p = bni_vf_add(bni_vf_mul(p, r), bni_vf_set(1.0f));
    return bni_vf_scaled(p, i);
}

/* The first n < 16 of the floats at p, zeros behind them. Through memory: reading a whole vector at the end of a buffer
   could run into a page that isn't there. */
BNI_VINLINE bni_vf bni_load_tail(const float *p, int n)
{
    float tail[16];
    memset(tail, 0, sizeof tail);
    memcpy(tail, p, (size_t)n * sizeof *p);
    return bni_vf_load(tail);
}

/* y = (x * (1 / sqrt(mean of squares + eps))) * w (RMSNorm, Zhang and Sennrich 2019). x and w [n padded to 16 with
   zeros]: padding adds nothing to the sum and comes out as 0. The 16 lanes are those of the reference's definition, on
   every instruction set; that is what keeps the bits. */
static void BNI_FN(bni_rms_norm)(float *y, const float *x, const float *w, float eps, int n)
{
    bni_vf sum = bni_vf_set(0.0f), v, r;
    int i;
    for (i = 0; i < n; i += 16) {
        v = bni_vf_load(x + i);
        sum = bni_vf_add(sum, bni_vf_mul(v, v));
    }
    r = bni_vf_set(1.0f / bni_sqrtf(bni_vf_sum(sum) / (float)n + eps));
    for (i = 0; i < n; i += 16)
        bni_vf_store(y + i, bni_vf_mul(bni_vf_mul(bni_vf_load(x + i), r), bni_vf_load(w + i)));
}

/* relu(x)^2, SiLU x / (1 + e^-x), or GELU in its tanh form written as x / (1 + e^-2t): one exp serves both. kind is
   the same for a whole call, so the branches cost nothing. */
BNI_VINLINE bni_vf bni_vf_act(bni_vf x, int kind)
{
    bni_vf t = x;
    if (kind == BNI_ACT_RELU2) {
        t = bni_vf_max(bni_vf_set(0.0f), x);
        return bni_vf_mul(t, t);
    }
    if (kind == BNI_ACT_GELU) {
        t = bni_vf_mul(bni_vf_set(BNI_GELU_C3), bni_vf_mul(x, x));
        t = bni_vf_mul(x, bni_vf_add(bni_vf_set(BNI_GELU_C1), t));
    }
    return bni_vf_div(x, bni_vf_add(bni_vf_set(1.0f), bni_vf_exp(bni_vf_negate(t))));
}

/* x may lack padding: attention's rows do. */
static uint32_t BNI_FN(bni_max_abs)(const float *x, int n)
{
    bni_vi max = bni_vi_set(0);
    int i;
    for (i = 0; i + 16 <= n; i += 16)
        max = bni_vi_max(max, bni_vf_magnitude(bni_vf_load(x + i)));
    if (i < n)
        max = bni_vi_max(max, bni_vf_magnitude(bni_load_tail(x + i, n - i)));
    return (uint32_t)bni_vi_highest(max);
}

/* Four columns at a time to q, q + stride, ...: the interleaving of the group's rows (bni_group_q8). Result: the sum
   of the integers, which the ternary product subtracts, as its codes are weight + 1. The clamp stands before the
   rounding, because converting what is out of int's range is undefined. */
static int32_t BNI_FN(bni_quantize_i8)(int8_t *q, int run, int stride, const float *x, float s, int n)
{
    bni_vi sum = bni_vi_set(0);
    int i;
    for (i = 0; i < n; i += 16) {
        bni_vf v = bni_vf_mul(bni_vf_load(x + i), bni_vf_set(s));
        int8_t bytes[16];
        bni_vi rounded;
        v = bni_vf_max(bni_vf_min(v, bni_vf_set(127.0f)), bni_vf_set(-128.0f));
        rounded = bni_vf_round(v);
        sum = bni_vi_add(sum, rounded);
        if (run > 4) {                         /* 64: no division in here */
            bni_vi_to_i8(q + (ptrdiff_t)(i / 64) * stride + i % 64, rounded);
        } else {
            int8_t *to = q + (ptrdiff_t)(i / 4) * stride;
            bni_vi_to_i8(bytes, rounded);
            memcpy(to, bytes, 4);
            memcpy(to + stride, bytes + 4, 4);
            memcpy(to + 2 * (ptrdiff_t)stride, bytes + 8, 4);
            memcpy(to + 3 * (ptrdiff_t)stride, bytes + 12, 4);
        }
    }
    return bni_vi_sum(sum);
}

/* Result: the scale, 0 with all integers 0 where the row is tiny (dividing by it could overflow) or not finite; the
   caller tells these apart by *max_bits. q [n_pad], padding 0. */
static float BNI_FN(bni_quantize_i16)(int16_t *q, const float *x, int n, int n_pad, int range, uint32_t *max_bits)
{
    const uint32_t max = BNI_FN(bni_max_abs)(x, n);
    const float limit = (float)range;
    bni_vf s;
    int i;
    *max_bits = max;
    if (max < BNI_TINY_BITS || max >= 0x7f800000u) {
        memset(q, 0, (size_t)n_pad * sizeof *q);
        return 0.0f;
    }
    s = bni_vf_set(limit / bni_bits_float(max));
    for (i = 0; i < n; i += 16) {
        bni_vf v = bni_vf_mul(n - i < 16 ? bni_load_tail(x + i, n - i) : bni_vf_load(x + i), s);
        int16_t part[16];
        v = bni_vf_max(bni_vf_min(v, bni_vf_set(limit)), bni_vf_set(-limit));
        bni_vi_to_i16(n - i < 16 ? part : q + i, bni_vf_round(v));
        if (n - i < 16)
            memcpy(q + i, part, (size_t)(n - i) * sizeof *q);
    }
    for (i = n; i < n_pad; i++)
        q[i] = 0;
    return bni_bits_float(max) / limit;
}

/* Division of many integers by one number. AVX-512 divides 16 lanes in 16 cycles or more and multiplies them in half a one,
   so: with y = 1 / s rounded and q = v y, one fused operation gives the remainder v - q s, and q + remainder * y is as near
   as one float can be, or nearly. Once more, now with an exact remainder, and it is v / s rounded (P. Markstein, IBM J. Res. Dev. 34, 1990,
   theorem 8.2; the first time was enough for all of 18 billion quotients tried, but that is no proof). |v| >= 1 or 0, and
   s from 1e-18 to 1e18, so that nothing comes near the ends of the exponents. */
typedef struct bni_over { bni_vf s, y; int usual; } bni_over;
BNI_VINLINE bni_over bni_over_set(float s)
{
    bni_over o;
    o.usual = s >= 1e-18f && s <= 1e18f;
    o.s = bni_vf_set(s);
    o.y = bni_vf_set(1.0f / s);
    return o;
}
BNI_VINLINE bni_vf bni_vf_over(bni_vf v, const bni_over *o)
{
#if BNI_ISA == BNI_ISA_AVX512
    if (BNI_LIKELY(o->usual)) {
        bni_vf q = bni_vf_mul(v, o->y);
        q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, o->s, v), o->y, q);
        return _mm512_fmadd_ps(_mm512_fnmadd_ps(q, o->s, v), o->y, q);
    }
#endif
    return bni_vf_div(v, o->s);
}

/* v = (sum - x_sum) / s * w_scale. A division, not a product with 1 / s: that would be rounded twice. */
BNI_VINLINE bni_vf bni_rescaled(const int32_t *sum, bni_vi x_sum, const bni_over *s, const float *w_scale)
{
    bni_vf v = bni_vf_from_int(bni_vi_sub(bni_vi_load(sum), x_sum));
    return bni_vf_mul(bni_vf_over(v, s), bni_vf_load(w_scale));
}

/* Gate and up meet here rather than in memory: writing both would be most of what a prompt writes. */
static void BNI_FN(bni_rescale)(float *y, size_t y_stride, const int32_t *sum, int ld, const int32_t *x_sum,
                                const float *s, const float *w_scale, int n_rows, int n, int then)
{
    int t, i;
    for (t = 0; t < n_rows; t++, y += y_stride, sum += ld) {
        const bni_vi minus = bni_vi_set(x_sum[t]);
        const bni_over by = bni_over_set(s[t]);
        if (then == BNI_THEN_SET)
            for (i = 0; i < n; i += 16)
                bni_vf_store(y + i, bni_rescaled(sum + i, minus, &by, w_scale + i));
        else if (then == BNI_THEN_ADD)
            for (i = 0; i < n; i += 16)
                bni_vf_store(y + i, bni_vf_add(bni_vf_load(y + i), bni_rescaled(sum + i, minus, &by, w_scale + i)));
        else
            for (i = 0; i < n; i += 32) {
                const bni_vf gate = bni_rescaled(sum + i, minus, &by, w_scale + i);
                const bni_vf up = bni_rescaled(sum + i + 16, minus, &by, w_scale + i + 16);
                bni_vf_store(y + i / 2, bni_vf_mul(bni_vf_act(gate, then), up));
            }
    }
}

/* Turns each pair by its angle; cos_sin [n_rot / 2][2]. Without neox the pairs lie side by side and are
   unzipped to vectors of firsts and seconds. What doesn't fill a vector is left to the reference: the same bits, as
   pairs don't meet. */
static void BNI_FN(bni_rope)(float *y, const float *x, const float *cos_sin, int n_rot, int neox)
{
    const int half = n_rot / 2;
    bni_vf a, b, c, s, turned;
    int i;
    for (i = 0; i + 16 <= half; i += 16) {
        bni_vf_unzip(cos_sin + 2 * i, &c, &s);
        if (neox) {
            a = bni_vf_load(x + i);
            b = bni_vf_load(x + half + i);
        } else {
            bni_vf_unzip(x + 2 * i, &a, &b);
        }
        turned = bni_vf_sub(bni_vf_mul(a, c), bni_vf_mul(b, s));
        b = bni_vf_add(bni_vf_mul(a, s), bni_vf_mul(b, c));
        if (neox) {
            bni_vf_store(y + i, turned);
            bni_vf_store(y + half + i, b);
        } else {
            bni_vf_zip(y + 2 * i, turned, b);
        }
    }
    bni_ref_rope_pairs(y, x, cos_sin, i, half, n_rot, neox);
}

/* ------------------------------------------------------------------------------------------------ attention */

/* Both halves of attention are one product of int16 pairs. Keys: lanes are positions, pairs are pairs of columns, a
   row's factors are q. Values: lanes are columns, pairs are pairs of positions, a row's factors are its weights. In
   both the layout of a KV area makes the lanes contiguous and lets a pair of factors be one 32-bit broadcast.

   out[r][16 v + l] = sum over p of m[p][16 v + l] . a[r][p], rows and vectors constants, the accumulators in registers.
   m: pairs of int16, stride int16 elements from one p to the next; a: [rows][ld_a] int16. ahead: bytes from what is read
   to what is fetched. */
BNI_VINLINE void bni_pair_tile(const int rows, const int vectors, int32_t *out, int ld_out, const int16_t *m,
                               int stride, int n_pairs, const int16_t *a, int ld_a, uintptr_t ahead)
{
    bni_vp acc[BNI_TILE_ROWS][BNI_TILE_VECTORS];
    bni_vi operand[BNI_TILE_VECTORS];
    int p, r, v;
    BNI_UNROLL for (r = 0; r < rows; r++)
        BNI_UNROLL for (v = 0; v < vectors; v++)
            acc[r][v] = bni_vp_zero();
    for (p = 0; p < n_pairs; p++, m += stride) {
        BNI_UNROLL for (v = 0; v < vectors; v++) {
            operand[v] = bni_vi_load(m + 32 * v);
            __builtin_prefetch((const void *)((uintptr_t)(m + 32 * v) + ahead), 0, 2);
        }
        BNI_UNROLL for (r = 0; r < rows; r++) {
            bni_vi factor = bni_vi_set((int32_t)bni_load_u32(a + (ptrdiff_t)r * ld_a + 2 * p));
            BNI_UNROLL for (v = 0; v < vectors; v++)
                acc[r][v] = bni_vp_add(acc[r][v], operand[v], factor);
        }
    }
    BNI_UNROLL for (r = 0; r < rows; r++)
        BNI_UNROLL for (v = 0; v < vectors; v++)
            bni_vi_store(out + (ptrdiff_t)r * ld_out + 16 * v, bni_vp_sum(acc[r][v]));
}

/* One group of rows over all vectors: whole tiles, then single vectors. */
BNI_VINLINE void bni_pair_rows(const int rows, int n_vectors, int32_t *out, int ld_out, const int16_t *m, int stride,
                               int n_pairs, const int16_t *a, int ld_a, uintptr_t ahead)
{
    int v = 0;
    for (; v + BNI_TILE_VECTORS <= n_vectors; v += BNI_TILE_VECTORS)
        bni_pair_tile(rows, BNI_TILE_VECTORS, out + 16 * v, ld_out, m + 32 * v, stride, n_pairs, a, ld_a, ahead);
    for (; v < n_vectors; v++)
        bni_pair_tile(rows, 1, out + 16 * v, ld_out, m + 32 * v, stride, n_pairs, a, ld_a, ahead);
}

/* out [n_rows][n_vectors * 16]: all rows, as many at a time as a tile has. The switch turns the number of rows into a
   constant, so that accumulators stay in registers. */
static void bni_pair_products(int n_rows, int n_vectors, int32_t *out, int ld_out, const int16_t *m, int stride,
                              int n_pairs, const int16_t *a, int ld_a, uintptr_t ahead)
{
    while (n_rows > 0) {
        const int rows = n_rows < BNI_TILE_ROWS ? n_rows : BNI_TILE_ROWS;
        switch (rows) {
        case 1: bni_pair_rows(1, n_vectors, out, ld_out, m, stride, n_pairs, a, ld_a, ahead); BNI_APART; break;
        case 2: bni_pair_rows(2, n_vectors, out, ld_out, m, stride, n_pairs, a, ld_a, ahead); BNI_APART; break;
#if BNI_TILE_ROWS == 4
        case 3: bni_pair_rows(3, n_vectors, out, ld_out, m, stride, n_pairs, a, ld_a, ahead); BNI_APART; break;
        default: bni_pair_rows(4, n_vectors, out, ld_out, m, stride, n_pairs, a, ld_a, ahead); BNI_APART; break;
#endif
        }
        n_rows -= rows;
        out += (ptrdiff_t)rows * ld_out;
        a += (ptrdiff_t)rows * ld_a;
    }
}

/* Bytes from the block at start to the next one, 0 from the last. A block is fetched into the second cache while the
   one before is at work: reading alone, one core waits. */
static uintptr_t bni_attend_ahead(const bni_attend *a, int start)
{
    const int block = start / BNI_KV_BLOCK, next = start + BNI_KV_BLOCK <= bni_attend_last(a) ? block + 1 : block;
    return (uintptr_t)a->blocks[next] - (uintptr_t)a->blocks[block];
}

/* The scores [n_rows][64] of count positions from start on, also of those that a row does not see. ints: scratch
   [16][64]. */
static void bni_attend_scores(const bni_attend *a, int start, int count, uintptr_t ahead, float *scores, int32_t *ints)
{
    const int d = a->head_dim, dp = bni_pad16(d);
    uint8_t *area = (uint8_t *)(uintptr_t)(a->blocks[start / BNI_KV_BLOCK] + a->area);     /* only read */
    const float *k_scale = bni_kv_k_scale(area, d);
    int r, v, part;
    for (part = 0; part < d; part += 128) {
        const int columns = d - part < 128 ? d - part : 128;
        bni_pair_products(a->n_rows, (count + 15) / 16, ints, BNI_KV_BLOCK, bni_kv_k(area) + part * BNI_KV_BLOCK,
                          2 * BNI_KV_BLOCK, columns / 2, a->q + part, dp, ahead);
        for (r = 0; r < a->n_rows; r++) {
            float *score = scores + r * BNI_KV_BLOCK;
            const bni_vf scale = bni_vf_set(a->q_scale[r] * a->scale);
            for (v = 0; v < count; v += 16) {
                bni_vf s = bni_vf_from_int(bni_vi_load(ints + r * BNI_KV_BLOCK + v));
                if (part > 0)
                    s = bni_vf_add(bni_vf_load(score + v), s);
                if (part + 128 >= d)
                    s = bni_vf_mul(bni_vf_mul(s, scale), bni_vf_load(k_scale + v));
                bni_vf_store(score + v, s);
            }
        }
    }
}

/* The weights w[64] of one row in a block of which it sees the first n positions; about: of its record, l, m and the
   factor. */
static void bni_attend_weights(int16_t *w, int32_t *about, const float *score, const float *v_scale, int n)
{
    const bni_vf zero = bni_vf_set(0.0f), never = bni_vf_set(-bni_bits_float(0x7f800000u));
    bni_vf highest = never, sum = zero, weighted[4] = {zero, zero, zero, zero}, s;
    bni_vi max = bni_vi_set(0);
    uint32_t top;
    float m;
    int v;
    for (v = 0; 16 * v < n; v++)
        highest = bni_vf_max(highest, bni_vf_keep(bni_vf_load(score + 16 * v), n - 16 * v, never));
    m = bni_whole(bni_vf_highest(highest));
    for (v = 0; 16 * v < n; v++) {
        bni_vf e = bni_vf_exp2(bni_vf_sub(bni_vf_load(score + 16 * v), bni_vf_set(m)));
        e = bni_vf_keep(e, n - 16 * v, zero);
        sum = bni_vf_add(sum, e);
        weighted[v] = bni_vf_keep(bni_vf_mul(e, bni_vf_load(v_scale + 16 * v)), n - 16 * v, zero);
        max = bni_vi_max(max, bni_vf_magnitude(weighted[v]));
    }
    top = (uint32_t)bni_vi_highest(max);
    about[0] = (int32_t)bni_float_bits(bni_vf_sum(sum));
    about[1] = (int32_t)bni_float_bits(m);
    about[2] = top < BNI_TINY_BITS ? 0 : 0x7fc00000;
    memset(w, 0, BNI_KV_BLOCK * sizeof *w);
    if (top < BNI_TINY_BITS || top >= 0x7f800000u)
        return;
    about[2] = (int32_t)bni_float_bits(bni_bits_float(top) / 4095.0f);
    s = bni_vf_set(4095.0f / bni_bits_float(top));
    for (v = 0; 16 * v < n; v++)
        bni_vi_to_i16(w + 16 * v, bni_vf_round(bni_vf_mul(weighted[v], s)));
}

/* The records of all rows that see the block at start. room: scratch, ints [16][64] | scores [16][64] | w int16
   [16][64]. */
static void bni_attend_block(const bni_attend *a, int start, int32_t *record, float *room)
{
    const int d = a->head_dim, dp = bni_pad16(d), ld = bni_attend_sums(d), last = bni_attend_last(a);
    const int count = last - start + 1 < BNI_KV_BLOCK ? last - start + 1 : BNI_KV_BLOCK;
    const uintptr_t ahead = bni_attend_ahead(a, start);
    uint8_t *area = (uint8_t *)(uintptr_t)(a->blocks[start / BNI_KV_BLOCK] + a->area);     /* only read */
    float *scores = room + (int)BNI_ATTEND_ROWS * (int)BNI_KV_BLOCK;
    int16_t *w = (int16_t *)(void *)(scores + (int)BNI_ATTEND_ROWS * (int)BNI_KV_BLOCK);
    int r;
    bni_attend_scores(a, start, count, ahead, scores, (int32_t *)(void *)room);
    for (r = 0; r < a->n_rows; r++, scores += BNI_KV_BLOCK) {
        const int n = a->pos[r] - start + 1 < BNI_KV_BLOCK ? a->pos[r] - start + 1 : BNI_KV_BLOCK;
        if (n > 0)
            bni_attend_weights(w + r * BNI_KV_BLOCK, record + r * ld + dp, scores, bni_kv_v_scale(area, d), n);
        else
            memset(w + r * BNI_KV_BLOCK, 0, BNI_KV_BLOCK * sizeof *w);
    }
    bni_pair_products(a->n_rows, dp / 16, record, ld, bni_kv_v(area, d), 2 * dp, (count + 1) / 2, w, BNI_KV_BLOCK,
                      ahead);
}

/* bni_ref_attend_add. */
static void bni_attend_add(float *o, const int32_t *record, int dp)
{
    const float m = bni_bits_float((uint32_t)record[dp + 1]), most = o[dp + 1] > m ? o[dp + 1] : m;
    const float old = bni_exp2f(o[dp + 1] - most), by = bni_exp2f(m - most);
    const bni_vf factor = bni_vf_set(bni_bits_float((uint32_t)record[dp + 2]) * by), keep = bni_vf_set(old);
    int c;
    for (c = 0; c < dp; c += 16)
        bni_vf_store(o + c, bni_vf_add(bni_vf_mul(bni_vf_load(o + c), keep),
                                       bni_vf_mul(bni_vf_from_int(bni_vi_load(record + c)), factor)));
    o[dp] = bni_mulf(o[dp], old) + bni_mulf(bni_bits_float((uint32_t)record[dp]), by);
    o[dp + 1] = most;
}

/* o / l. */
static void bni_attend_out(const bni_attend *a)
{
    const int d = a->head_dim, dp = bni_pad16(d);
    int r, c;
    for (r = 0; r < a->n_rows; r++) {
        float *o = a->scratch + r * bni_attend_sums(d);
        const bni_vf l = bni_vf_set(o[dp]);
        for (c = 0; c < dp; c += 16)
            bni_vf_store(o + c, bni_vf_div(bni_vf_load(o + c), l));
        memcpy(a->out[r], o, (size_t)d * sizeof *o);
    }
}

/* Block after block. Rows may end in different ones: each takes only positions up to its own. */
static void BNI_FN(bni_attend)(const bni_attend *a)
{
    const int dp = bni_pad16(a->head_dim), n = bni_attend_sums(dp), last = bni_attend_last(a);
    float *sums = a->scratch, *room = sums + 2 * (int)BNI_ATTEND_ROWS * n;
    int r, start;
    memset(sums, 0, (size_t)(a->n_rows * n) * sizeof *sums);
    for (r = 0; r < a->n_rows; r++)
        sums[r * n + dp + 1] = -bni_bits_float(0x7f800000u);
    for (start = a->first * BNI_KV_BLOCK; start <= last; start += BNI_KV_BLOCK) {
        int32_t *record = (int32_t *)(void *)(sums + (int)BNI_ATTEND_ROWS * n);
        if (a->steps != BNI_ATTEND_ALL)
            record = a->records + (ptrdiff_t)(start / BNI_KV_BLOCK) * a->n_rows * n;
        if (a->steps & BNI_ATTEND_BLOCKS)
            bni_attend_block(a, start, record, room);
        for (r = 0; r < a->n_rows && a->steps & BNI_ATTEND_JOIN; r++)
            if (a->pos[r] >= start)
                bni_attend_add(sums + r * n, record + r * n, dp);
    }
    if (a->steps & BNI_ATTEND_JOIN)
        bni_attend_out(a);
}

#if BNI_ISA == BNI_ISA_AVX512 && BNI_HAVE_AMX
/* Tiles 0-5 (sums, and what is multiplied from the left) of n_rows rows, 6 and 7 of 16; all 64 bytes wide. */
static void bni_tiles_configure(int n_rows)
{
    struct { uint8_t palette, start, zero[14]; uint16_t width[16]; uint8_t rows[16]; } c;
    int i;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (i = 0; i < 8; i++) {
        c.width[i] = 64;
        c.rows[i] = (uint8_t)(i < 6 ? n_rows : 16);
    }
    __asm__ __volatile__("ldtilecfg %0" : : "m"(c) : "memory");
}

/* ---------------------------------------------------------------------------------- attention of a prompt, by tiles
   An int16 is x = 256 h + l, h a signed byte and l an unsigned one, and tiles multiply bytes of either kind: so
   x y = 65536 hh' + 256 (hl' + lh') + ll', four products for three sums, is exact, modulo 2^32 like the reference,
   whatever the integers are. 16 rows times 64 x 16 take 64 cycles; vpdpwssd, 256.

   What stands to the right must be cut into its bytes first, which takes as long as the products of 16 rows: up to
   BNI_ATTEND_MOST rows share it, and a call with few rows goes another way. */

enum { BNI_TILES_ROWS = 12 };          /* of a call from which tiles pay */

/* 181 KiB at head size 128, see bni_attend_scratch. */
typedef struct bni_tiles_room {
    int chunks;                      /* of 64 columns */
    int least[BNI_ATTEND_MOST / 16], most[BNI_ATTEND_MOST / 16];     /* positions of the rows of a group of 16 */
    float *o;                        /* [BNI_ATTEND_MOST][bni_attend_sums]; l and m stand apart: */
    float *l, *m;                    /* [BNI_ATTEND_MOST], as are these: */
    float *scale;                    /* of scores */
    float *old, *factor;             /* of a block: by which o and l shrink and what its values are multiplied with; */
    float *by;                       /* m', then by which weights become integers */
    float *sum, *top;                /* [BNI_ATTEND_MOST][16] by lanes, of a block: of exponentials, the largest weight */
    float *score;                    /* [BNI_ATTEND_MOST][64] */
    uint8_t *q;                      /* [groups of 16 rows][chunks][planes l, h][16][64] */
    uint8_t *w;                      /* [groups][planes][16][64] */
    uint8_t *block;                  /* [2][planes][16][64] of keys or values */
    int32_t *sums;                   /* [2][3 sums][16][16] */
} bni_tiles_room;

/* Dwords (a0 a1) of int16 and (b0 b1) to bytes a0 b0 a1 b1, low ones at to and high ones 1024 further on. */
BNI_VINLINE void bni_tiles_split(uint8_t *to, bni_vi a, bni_vi b)
{
    const bni_vi even = bni_vi_set(0x00ff00ff);
    bni_vi_store(to, _mm512_ternarylogic_epi32(even, a, _mm512_slli_epi16(b, 8), 0xca));      /* even ? a : b */
    bni_vi_store(to + 1024, _mm512_ternarylogic_epi32(even, _mm512_srli_epi16(a, 8), b, 0xca));
}

/* In all of these, dword r of 16 that are multiplied is number o(r) of those in memory and the 16th after it. o is what
   packing two vectors of weights to int16 makes of their order: 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. */

/* Keys or values to tiles [n_chunks][planes][16][64]. m: n_pairs rows of dwords, stride int16 apart. Behind the last
   pair, which is met by zeros, it stands again: nothing is read that was never written. */
static void bni_tiles_cut(uint8_t *to, const int16_t *m, ptrdiff_t stride, int n_pairs, int n_chunks)
{
    int c, i;
    for (c = 0; c < n_chunks; c++, to += 2048)
        for (i = 0; i < 16; i++) {
            const int near = 32 * c + i < n_pairs ? 32 * c + i : n_pairs - 1;
            const int far = near + 16 < n_pairs ? near + 16 : n_pairs - 1;
            const int16_t *a = m + near * stride, *b = m + far * stride;
            bni_tiles_split(to + 64 * (i % 8 / 2 * 4 + i / 8 * 2 + i % 2), bni_vi_load(a), bni_vi_load(b));
        }
}

/* Zeros behind the last column. */
static void bni_tiles_queries(const bni_attend *a, const bni_tiles_room *t)
{
    const bni_vi order = _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const int dp = bni_pad16(a->head_dim);
    int r, c, half;
    for (r = 0; r < a->n_rows; r++)
        for (c = 0; c < t->chunks; c++) {
            bni_vi q[2];
            for (half = 0; half < 2; half++) {
                const int at = 64 * c + 32 * half;
                const __mmask32 mask = dp - at >= 32 ? 0xffffffffu : dp - at == 16 ? 0xffffu : 0u;
                const int16_t *from = a->q + (ptrdiff_t)r * dp + (mask ? at : 0);
                q[half] = _mm512_permutexvar_epi32(order, _mm512_maskz_loadu_epi16(mask, from));
            }
            bni_tiles_split(t->q + 2048 * (r / 16 * t->chunks + c) + 64 * (r % 16), q[0], q[1]);
        }
}

/* Sums [3][16][16] from a set. */
BNI_VINLINE void bni_tiles_put(const int odd, int32_t *sums)
{
    if (odd) {
        BNI_TILE_STORE(3, sums, 64);
        BNI_TILE_STORE(4, sums + 256, 64);
        BNI_TILE_STORE(5, sums + 512, 64);
    } else {
        BNI_TILE_STORE(0, sums, 64);
        BNI_TILE_STORE(1, sums + 256, 64);
        BNI_TILE_STORE(2, sums + 512, 64);
    }
}

/* 16 products from there. */
BNI_VINLINE bni_vf bni_tiles_sum(const int32_t *sums)
{
    const bni_vi high = _mm512_add_epi32(_mm512_slli_epi32(bni_vi_load(sums), 8), bni_vi_load(sums + 256));
    return bni_vf_from_int(_mm512_add_epi32(_mm512_slli_epi32(high, 8), bni_vi_load(sums + 512)));
}

/* What a product of a group's rows becomes: scores at 16 positions, or part of the sums of values at 16 columns. */
typedef struct bni_tiles_job {
    int first, n_rows;               /* of the call */
    int at, column;                  /* the first position; the first column */
    int usual;                       /* 16 rows, of scores all columns at once, of values all rows in the block */
    float *to;                       /* of row first; the next rows' stand step further on */
    ptrdiff_t step;
    const float *k_scale;            /* [16] */
} bni_tiles_job;

/* The rows of a job whose sums these are; of a usual one bni_tiles_turn does it. */
static void bni_tiles_rows(int values, const bni_attend *a, const bni_tiles_room *t, const bni_tiles_job *j,
                           const int32_t *sums)
{
    float *to = j->to;
    int r;
    for (r = 0; r < j->n_rows; r++, to += j->step) {
        const int row = j->first + r;
        bni_vf s = bni_tiles_sum(sums + 16 * r);
        if (values && a->pos[row] < j->at)
            continue;
        if (values)
            s = bni_vf_add(bni_vf_load(to), bni_vf_mul(s, bni_vf_set(t->factor[row])));
        else if (j->column > 0)
            s = bni_vf_add(bni_vf_load(to), s);
        if (!values && j->column + 128 >= a->head_dim)
            s = bni_vf_mul(bni_vf_mul(s, bni_vf_set(t->scale[row])), bni_vf_load(j->k_scale));
        bni_vf_store(to, s);
    }
}

/* Job k (odd, a constant, says which): left [n][planes][16][64] times t->block alike, in tiles 0-2, or 3-5. Meanwhile
   the sums of job k - 1 go from the other ones to memory, and those of job k - 2 become floats. By turns, since a product
   takes 52 cycles until its sum can be used, and a core looks no further ahead than a job's instructions; three stores
   of tiles in a row hold it up, too. */
BNI_VINLINE void bni_tiles_turn(const int values, const int odd, const int n, const bni_attend *a,
                                const bni_tiles_room *t, const uint8_t *left, const bni_tiles_job jobs[3], int k)
{
    const bni_tiles_job *before = &jobs[(k + 1) % 3];
    const int usual = k > 1 && before->usual;
    const uint8_t *right = t->block;
    int32_t *put = t->sums + (odd ? 0 : 768);
    const int32_t *sums = t->sums + (odd ? 768 : 0);
    const float *by = usual ? (values ? t->factor : t->scale) + before->first : NULL;
    float *to = usual ? before->to : NULL;
    const ptrdiff_t step = values && usual ? before->step : (ptrdiff_t)BNI_KV_BLOCK;
    const bni_vf k_scale = bni_vf_load(usual ? before->k_scale : t->scale);
    int c, i;
    if (k > 1 && !usual)
        bni_tiles_rows(values, a, t, before, sums);
    if (odd) {
        BNI_TILE_ZERO(3);
        BNI_TILE_ZERO(4);
        BNI_TILE_ZERO(5);
    } else {
        BNI_TILE_ZERO(0);
        BNI_TILE_ZERO(1);
        BNI_TILE_ZERO(2);
    }
#define BNI_TURN(kinds, even_sum, odd_sum) do { \
        if (odd) \
            BNI_TILE_MUL(kinds, odd_sum, 6, 7); \
        else \
            BNI_TILE_MUL(kinds, even_sum, 6, 7); \
        if (usual) { \
            BNI_UNROLL for (i = 0; i < 4 / n; i++, sums += 16, to += step) { \
                bni_vf s = bni_vf_mul(bni_tiles_sum(sums), bni_vf_set(by[i])); \
                bni_vf_store(to, values ? bni_vf_add(bni_vf_load(to), s) : bni_vf_mul(s, k_scale)); \
            } \
            by += 4 / n; \
        } \
    } while (0)
#define BNI_PUT(even_sum, odd_sum) do { \
        if (c == 0 && odd) \
            BNI_TILE_STORE(even_sum, put + 256 * (even_sum), 64); \
        else if (c == 0 && k > 0) \
            BNI_TILE_STORE(odd_sum, put + 256 * (even_sum), 64); \
    } while (0)
    BNI_UNROLL for (c = 0; c < n; c++, left += 2048, right += 2048) {
        BNI_TILE_LOAD(6, left, 64);
        BNI_TILE_LOAD(7, right + 1024, 64);
        BNI_TURN(us, 1, 4);
        BNI_PUT(0, 3);
        BNI_TILE_LOAD(6, left + 1024, 64);
        BNI_TURN(ss, 0, 3);
        BNI_PUT(1, 4);
        BNI_TILE_LOAD(7, right, 64);
        BNI_TURN(su, 1, 4);
        BNI_PUT(2, 5);
        BNI_TILE_LOAD(6, left, 64);
        BNI_TURN(uu, 2, 5);
    }
#undef BNI_TURN
#undef BNI_PUT
}

/* The end of the turns: the last two of k jobs. */
BNI_VINLINE void bni_tiles_last(const int values, const bni_attend *a, const bni_tiles_room *t,
                                const bni_tiles_job jobs[3], int k)
{
    if (k % 2)
        bni_tiles_put(0, t->sums);
    else if (k > 0)
        bni_tiles_put(1, t->sums + 768);
    if (k > 1)
        bni_tiles_rows(values, a, t, &jobs[(k - 2) % 3], t->sums + 768 * (k % 2));
    if (k > 0)
        bni_tiles_rows(values, a, t, &jobs[(k - 1) % 3], t->sums + 768 * ((k - 1) % 2));
}

/* The part-th of parts of n bytes at p, of the next block, to the second cache: 4 % at 4,096 tokens. Job by job (6 %
   more), because a core waits for no more than 16 lines at a time. */
BNI_VINLINE void bni_tiles_fetch(uintptr_t p, int n, int part, int parts)
{
    const uintptr_t end = p + (uintptr_t)(n / 64 * (part + 1) / parts * 64);
    for (p += (uintptr_t)(n / 64 * part / parts * 64); p < end; p += 64)
        __builtin_prefetch((const void *)p, 0, 2);
}

/* What t->block holds, n tiles of keys from position at or of values from a column on, times each group of rows that
   sees position at. Result: k, the number of jobs, grown. values: a constant. fetch: as many bytes, of the next
   block. */
BNI_VINLINE int bni_tiles_groups(const int values, const int n, const bni_attend *a, const bni_tiles_room *t, int at,
                                 int column, uintptr_t fetch, bni_tiles_job jobs[3], int k)
{
    const int n_groups = (a->n_rows + 15) / 16, sums = bni_attend_sums(a->head_dim), in_block = at % BNI_KV_BLOCK;
    uint8_t *area = (uint8_t *)(uintptr_t)(a->blocks[at / BNI_KV_BLOCK] + a->area);     /* only read */
    int g;
    for (g = 0; g < n_groups; g++) {
        const uint8_t *left = values ? t->w + 2048 * g : t->q + 2048 * (g * t->chunks + column / 64);
        bni_tiles_job *j = &jobs[k % 3];
        bni_tiles_fetch(fetch, 2048 * n, g, n_groups);
        if (t->most[g] < at)
            continue;
        j->first = 16 * g;
        j->n_rows = a->n_rows - j->first < 16 ? a->n_rows - j->first : 16;
        j->at = at;
        j->column = column;
        j->to = values ? t->o + j->first * sums + column : t->score + j->first * BNI_KV_BLOCK + in_block;
        j->step = values ? sums : BNI_KV_BLOCK;
        j->k_scale = bni_kv_k_scale(area, a->head_dim) + in_block;
        j->usual = j->n_rows == 16 && (values ? at <= t->least[g] : a->head_dim <= 128);
        if (k % 2)
            bni_tiles_turn(values, 1, n, a, t, left, jobs, k);
        else
            bni_tiles_turn(values, 0, n, a, t, left, jobs, k);
        k++;
    }
    return k;
}

/* One step of a fold: sums, the largest of floats or of integers. */
enum { BNI_FOLD_SUM, BNI_FOLD_FLOATS, BNI_FOLD_INTS };
BNI_VINLINE bni_vf bni_tiles_half(const int kind, bni_vf a, bni_vf b)
{
    if (kind == BNI_FOLD_INTS)
        return _mm512_castsi512_ps(bni_vi_max(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    return kind == BNI_FOLD_SUM ? bni_vf_add(a, b) : bni_vf_max(a, b);
}

/* 16 rows of lanes folded by halves at once, as bni_vf_sum does one: lane r is the sum of row r. Two, then four rows
   share a vector. */
BNI_VINLINE bni_vf bni_tiles_fold(const int kind, const float *lanes)
{
    bni_vf v[16];
    int i;
    BNI_UNROLL for (i = 0; i < 16; i++)
        v[i] = bni_vf_load(lanes + 16 * i);
    BNI_UNROLL for (i = 0; i < 4; i++) {
        bni_vf *u = v + i, b;
        u[0] = bni_tiles_half(kind, _mm512_shuffle_f32x4(u[0], u[4], 0x44), _mm512_shuffle_f32x4(u[0], u[4], 0xee));
        b = bni_tiles_half(kind, _mm512_shuffle_f32x4(u[8], u[12], 0x44), _mm512_shuffle_f32x4(u[8], u[12], 0xee));
        u[0] = bni_tiles_half(kind, _mm512_shuffle_f32x4(u[0], b, 0x88), _mm512_shuffle_f32x4(u[0], b, 0xdd));
    }
    BNI_UNROLL for (i = 0; i < 4; i += 2)
        v[i] = bni_tiles_half(kind, _mm512_shuffle_ps(v[i], v[i + 1], 0x44), _mm512_shuffle_ps(v[i], v[i + 1], 0xee));
    return bni_tiles_half(kind, _mm512_shuffle_ps(v[0], v[2], 0x88), _mm512_shuffle_ps(v[0], v[2], 0xdd));
}

/* The weights of a block (bni_attend_weights), step by step for rows [first, first + 16) at a time, so that none waits
   for another. How many of positions at ... at + 15 a row sees: */
BNI_INLINE int bni_tiles_seen(const bni_attend *a, int row, int at)
{
    return row < a->n_rows ? a->pos[row] - at + 1 : 0;
}

/* Do the 16 rows from first on see all of the block? */
BNI_INLINE int bni_tiles_whole(const bni_attend *a, const bni_tiles_room *t, int first, int start)
{
    return first + 16 <= a->n_rows && t->least[first / 16] >= start + BNI_KV_BLOCK - 1;
}

/* First m' and, for o and l, what bni_ref_attend_add finds; factor will be multiplied by the block's. A row that sees
   nothing has m' = -infinity. whole, a constant: the rows see all 64 positions. */
BNI_VINLINE void bni_tiles_highest(const int whole, const bni_attend *a, const bni_tiles_room *t, int first, int start)
{
    const bni_vf never = bni_vf_set(-bni_bits_float(0x7f800000u)), before = bni_vf_load(t->m + first);
    bni_vf m, most;
    int r, v;
    for (r = first; r < first + 16; r++) {
        m = never;
        BNI_UNROLL for (v = 0; v < 64; v += 16) {
            const bni_vf s = bni_vf_load(t->score + r * BNI_KV_BLOCK + v);
            m = bni_vf_max(m, whole ? s : bni_vf_keep(s, bni_tiles_seen(a, r, start + v), never));
        }
        bni_vf_store(t->top + 16 * r, m);
    }
    m = bni_tiles_fold(BNI_FOLD_FLOATS, t->top + 16 * first);
    m = _mm512_mask_mov_ps(m, _mm512_cmplt_epi32_mask(bni_vf_magnitude(m), bni_vi_set(0x4b000000)),      /* bni_whole */
                           bni_vf_from_int(bni_vf_round(m)));
    most = bni_vf_max(before, m);
    bni_vf_store(t->m + first, most);
    bni_vf_store(t->by + first, m);
    bni_vf_store(t->old + first, bni_vf_exp2(bni_vf_sub(before, most)));
    bni_vf_store(t->factor + first, bni_vf_exp2(bni_vf_sub(m, most)));
}

/* Exponentials times scales in place of the scores, and by lanes their sum and the largest magnitude. */
BNI_VINLINE void bni_tiles_exp(const int whole, const bni_attend *a, const bni_tiles_room *t, int first, int start)
{
    const bni_vf zero = bni_vf_set(0.0f);
    uint8_t *area = (uint8_t *)(uintptr_t)(a->blocks[start / BNI_KV_BLOCK] + a->area);     /* only read */
    const float *v_scale = bni_kv_v_scale(area, a->head_dim);
    float *score = t->score + first * BNI_KV_BLOCK;
    int r, v;
    for (r = first; r < first + 16; r++, score += BNI_KV_BLOCK) {
        const bni_vf m = bni_vf_set(t->by[r]);
        bni_vf sum = zero;
        bni_vi top = bni_vi_set(0);
        BNI_UNROLL for (v = 0; v < 4; v++) {
            const int n = whole ? 16 : bni_tiles_seen(a, r, start + 16 * v);
            bni_vf e = bni_vf_exp2(bni_vf_sub(bni_vf_load(score + 16 * v), m)), x;
            e = whole ? e : bni_vf_keep(e, n, zero);
            sum = bni_vf_add(sum, e);
            x = bni_vf_mul(e, bni_vf_load(v_scale + 16 * v));
            x = whole ? x : bni_vf_keep(x, n, zero);
            top = bni_vi_max(top, bni_vf_magnitude(x));
            bni_vf_store(score + 16 * v, x);
        }
        bni_vf_store(t->sum + 16 * r, sum);
        bni_vi_store(t->top + 16 * r, top);
    }
}

/* Then the factors, the numbers by which weights become integers, and l. Where the factor is 0 or NaN
   (bni_ref_block_weights) it does not matter what the weights are. */
static void bni_tiles_factors(const bni_tiles_room *t, int first)
{
    const bni_vf top = bni_tiles_fold(BNI_FOLD_INTS, t->top + 16 * first), range = bni_vf_set(4095.0f);
    const bni_vf old = bni_vf_load(t->old + first), by = bni_vf_load(t->factor + first);
    const bni_vi bits = _mm512_castps_si512(top);
    const __mmask16 large = _mm512_cmpge_epi32_mask(bits, bni_vi_set(0x7f800000));
    const __mmask16 usual = _mm512_cmpge_epi32_mask(bits, bni_vi_set((int32_t)BNI_TINY_BITS));
    const bni_vf factor = _mm512_mask_mov_ps(_mm512_maskz_mov_ps(usual, bni_vf_div(top, range)), large,
                                             bni_vf_set(bni_bits_float(0x7fc00000u)));
    bni_vf_store(t->l + first, bni_vf_add(bni_vf_mul(bni_vf_load(t->l + first), old),
                                          bni_vf_mul(bni_tiles_fold(BNI_FOLD_SUM, t->sum + 16 * first), by)));
    bni_vf_store(t->factor + first, bni_vf_mul(factor, by));
    bni_vf_store(t->by + first, _mm512_maskz_mov_ps(usual, bni_vf_div(range, top)));
}

/* o shrinks where a larger m was found: soon, that is seldom. */
static void bni_tiles_shrink(const bni_attend *a, const bni_tiles_room *t, int first)
{
    unsigned rows = _mm512_cmpneq_ps_mask(bni_vf_load(t->old + first), bni_vf_set(1.0f));
    const int dp = bni_pad16(a->head_dim);
    int r, c;
    for (r = first; rows; r++, rows >>= 1)
        for (c = 0; c < dp && rows & 1u; c += 16) {
            float *o = t->o + r * bni_attend_sums(dp) + c;
            bni_vf_store(o, bni_vf_mul(bni_vf_load(o), bni_vf_set(t->old[r])));
        }
}

/* Then the integers, as tiles. */
static void bni_tiles_round(const bni_tiles_room *t, int first)
{
    const float *x = t->score + first * BNI_KV_BLOCK;
    uint8_t *to = t->w + 2048 * (first / 16);
    int r, v;
    for (r = first; r < first + 16; r++, x += BNI_KV_BLOCK, to += 64) {
        const bni_vf by = bni_vf_set(t->by[r]);
        bni_vi w[4];
        BNI_UNROLL for (v = 0; v < 4; v++)
            w[v] = bni_vf_round(bni_vf_mul(bni_vf_load(x + 16 * v), by));
        bni_tiles_split(to, _mm512_packs_epi32(w[0], w[1]), _mm512_packs_epi32(w[2], w[3]));
    }
}

/* A group's steps one after the other would each wait for the end of the one before, all groups' first steps and then
   all second ones would read everything from the second cache: so three groups at a time, each at another step. */
static void bni_tiles_weights(const bni_attend *a, const bni_tiles_room *t, int start)
{
    int first;
    for (first = -16; first < a->n_rows + 16; first += 16) {
        if (first % 32 == 0)
            BNI_TILE_AWAKE;
        if (first + 16 < a->n_rows && bni_tiles_whole(a, t, first + 16, start))
            bni_tiles_highest(1, a, t, first + 16, start);
        else if (first + 16 < a->n_rows)
            bni_tiles_highest(0, a, t, first + 16, start);
        if (first >= 0 && first < a->n_rows && bni_tiles_whole(a, t, first, start))
            bni_tiles_exp(1, a, t, first, start);
        else if (first >= 0 && first < a->n_rows)
            bni_tiles_exp(0, a, t, first, start);
        if (first >= 16)
            bni_tiles_round(t, first - 16);
        if (first >= 0 && first < a->n_rows) {
            bni_tiles_factors(t, first);
            bni_tiles_shrink(a, t, first);
        }
    }
}

/* The block at start: keys to scores, weights, values to o. The next one is fetched meanwhile. */
static void bni_tiles_block(const bni_attend *a, const bni_tiles_room *t, int start, int count)
{
    const int d = a->head_dim, dp = bni_pad16(d);
    uint8_t *area = (uint8_t *)(uintptr_t)(a->blocks[start / BNI_KV_BLOCK] + a->area);     /* only read */
    const uintptr_t ahead = bni_attend_ahead(a, start);
    bni_tiles_job jobs[3];
    int at, column, k = 0;
    for (column = 0; column < d; column += 128) {
        const int n = d - column < 128 ? d - column : 128, chunks = (n + 63) / 64;
        for (at = 0; at < count; at += 16) {
            const uintptr_t fetch = (uintptr_t)(bni_kv_k(area) + (column + at * chunks) * BNI_KV_BLOCK) + ahead;
            bni_tiles_cut(t->block, bni_kv_k(area) + column * BNI_KV_BLOCK + 2 * at, 2 * BNI_KV_BLOCK, n / 2, chunks);
            if (chunks == 2)
                k = bni_tiles_groups(0, 2, a, t, start + at, column, fetch, jobs, k);
            else
                k = bni_tiles_groups(0, 1, a, t, start + at, column, fetch, jobs, k);
        }
    }
    bni_tiles_last(0, a, t, jobs, k);
    bni_tiles_weights(a, t, start);
    for (column = k = 0; column < dp; column += 16) {
        const uintptr_t fetch = (uintptr_t)(bni_kv_v(area, d) + column * BNI_KV_BLOCK) + ahead;
        bni_tiles_cut(t->block, bni_kv_v(area, d) + 2 * column, 2 * dp, (count + 1) / 2, 1);
        k = bni_tiles_groups(1, 1, a, t, start, column, fetch, jobs, k);
    }
    bni_tiles_last(1, a, t, jobs, k);
}

/* Cuts the scratch up and fills in what does not change. */
static void bni_tiles_begin(const bni_attend *a, bni_tiles_room *t)
{
    const int n_groups = (a->n_rows + 15) / 16, most = BNI_ATTEND_MOST, n = bni_attend_sums(a->head_dim);
    int r, i;
    t->chunks = (a->head_dim + 63) / 64;
    t->o = a->scratch;
    t->l = t->o + most * n;
    t->m = t->l + most;
    t->scale = t->m + most;
    t->old = t->scale + most;
    t->factor = t->old + most;
    t->by = t->factor + most;
    t->sum = t->by + most;
    t->top = t->sum + most * 16;
    t->score = t->top + most * 16;
    t->sums = (int32_t *)(void *)(t->score + most * BNI_KV_BLOCK);
    t->block = (uint8_t *)(t->sums + 2 * 768);
    t->w = t->block + 2 * 2048;
    t->q = t->w + most / 16 * 2048;
    memset(t->o, 0, (size_t)(most * (n + 1)) * sizeof *t->o);      /* and l */
    for (i = 0; i < n_groups; i++)
        t->least[i] = t->most[i] = a->pos[16 * i];
    for (r = 0; r < a->n_rows; r++) {
        t->least[r / 16] = a->pos[r] < t->least[r / 16] ? a->pos[r] : t->least[r / 16];
        t->most[r / 16] = a->pos[r] > t->most[r / 16] ? a->pos[r] : t->most[r / 16];
        t->scale[r] = a->q_scale[r] * a->scale;
    }
    for (r = 0; r < 16 * n_groups; r += 16)
        bni_vf_store(t->m + r, bni_vf_set(-bni_bits_float(0x7f800000u)));
    bni_tiles_queries(a, t);
}

/* tilerelease: jobs run on the host's threads. */
static void bni_tiles_attend(const bni_attend *a)
{
    const int last = bni_attend_last(a), n = bni_attend_sums(a->head_dim);
    bni_tiles_room t;
    int start, r;
    if (a->n_rows < BNI_TILES_ROWS || a->steps != BNI_ATTEND_ALL) {
        bni_attend_avx512(a);
        return;
    }
    bni_tiles_begin(a, &t);
    bni_tiles_configure(BNI_TILE);
    for (start = 0; start <= last; start += BNI_KV_BLOCK)
        bni_tiles_block(a, &t, start, last - start + 1 < BNI_KV_BLOCK ? last - start + 1 : BNI_KV_BLOCK);
    __asm__ __volatile__("tilerelease" : :);
    for (r = 0; r < a->n_rows; r++)
        t.o[r * n + bni_pad16(a->head_dim)] = t.l[r];
    bni_attend_out(a);
}
#endif /* BNI_HAVE_AMX */

/* --------------------------------------------------------------------------------- rows of floats (the head) */

/* Weights k .. k + 15 of a row, k a multiple of 16: bni_decode for one vector. All 16 share their block and, in Q6_K,
   their scale, so every case is loads, shifts and one or two products. */
BNI_VINLINE bni_vf bni_weights(int type, const uint8_t *row, int k)
{
    const uint8_t *p;
    bni_vi q, high;
    float scale;
    int run;
    switch (type) {
    case BNI_TYPE_F16: return bni_vf_from_f16(row + 2 * (ptrdiff_t)k);
    case BNI_TYPE_BF16: return bni_vf_from_bf16(row + 2 * (ptrdiff_t)k);
    case BNI_TYPE_F32: return bni_vf_load((const float *)(const void *)(row + 4 * (ptrdiff_t)k));
    case BNI_TYPE_Q8_0:
        p = row + (ptrdiff_t)(k / 32) * 34;
        q = bni_vi_from_i8(p + 2 + k % 32);
        return bni_vf_mul(bni_vf_set(bni_half(p)), bni_vf_from_int(q));
    case BNI_TYPE_Q4_0:
        p = row + (ptrdiff_t)(k / 32) * 18;
        q = bni_vi_shr(bni_vi_from_u8(p + 2), k % 32 ? 4 : 0);
        q = bni_vi_sub(bni_vi_and(q, bni_vi_set(15)), bni_vi_set(8));
        return bni_vf_mul(bni_vf_set(bni_half(p)), bni_vf_from_int(q));
    default:                         /* Q6_K: half k & 128, run of 32, 16 of them */
        p = row + (ptrdiff_t)(k / 256) * 210;
        run = (k >> 5) & 3;
        q = bni_vi_from_u8(p + (k & 128) / 2 + (run & 1) * 32 + (k & 16));
        q = bni_vi_and(bni_vi_shr(q, run & 2 ? 4 : 0), bni_vi_set(15));
        high = bni_vi_from_u8(p + 128 + (k & 128) / 4 + (k & 16));
        high = bni_vi_and(bni_vi_shr(high, 2 * run), bni_vi_set(3));
        q = bni_vi_sub(bni_vi_or(q, bni_vi_shl(high, 4)), bni_vi_set(32));
        scale = bni_mulf(bni_half(p + 208), (float)(int8_t)p[192 + k % 256 / 16]);
        return bni_vf_mul(bni_vf_set(scale), bni_vf_from_int(q));
    }
}

/* Weights k .. n - 1 of a row, fewer than 16, zeros behind them. Rows of blocks never end like this. Not inlined: it
   would take registers from the loop before it. */
static BNI_NOINLINE void bni_weights_tail(float tail[16], int type, const uint8_t *row, int k, int n)
{
    memset(tail, 0, 16 * sizeof *tail);
    bni_decode(type, row, k, n - k, tail);
}

/* y[t][r0 + r r_step] for a tile of rows and tokens (constants), the rows apart bytes from each other. A row of F16
   runs at the speed of memory only when it is prefetched. */
BNI_VINLINE void bni_dot_tile(const int n_rows, const int n_tokens, float *const *y, int r0, int r_step, int type,
                              const uint8_t *rows, size_t apart, const float *x, size_t x_stride, int n)
{
    bni_vf acc[4][4], w[4], v;
    int r, t, k;
    BNI_UNROLL for (r = 0; r < n_rows; r++)
        BNI_UNROLL for (t = 0; t < n_tokens; t++)
            acc[r][t] = bni_vf_set(0.0f);
    for (k = 0; k + 16 <= n; k += 16) {
        BNI_UNROLL for (r = 0; r < n_rows; r++) {
            w[r] = bni_weights(type, rows + (size_t)r * apart, k);
            __builtin_prefetch(rows + (size_t)r * apart + 2 * (ptrdiff_t)k + 2048, 0, 3);
        }
        BNI_UNROLL for (t = 0; t < n_tokens; t++) {
            v = bni_vf_load(x + (size_t)t * x_stride + k);
            BNI_UNROLL for (r = 0; r < n_rows; r++)
                acc[r][t] = bni_vf_add(acc[r][t], bni_vf_mul(w[r], v));
        }
    }
    if (k < n) {
        BNI_UNROLL for (r = 0; r < n_rows; r++) {
            float tail[16];
            bni_weights_tail(tail, type, rows + (size_t)r * apart, k, n);
            BNI_UNROLL for (t = 0; t < n_tokens; t++) {
                v = bni_vf_load(x + (size_t)t * x_stride + k);
                acc[r][t] = bni_vf_add(acc[r][t], bni_vf_mul(bni_vf_load(tail), v));
            }
        }
    }
    BNI_UNROLL for (r = 0; r < n_rows; r++)
        BNI_UNROLL for (t = 0; t < n_tokens; t++)
            y[t][r0 + r * r_step] = bni_vf_sum(acc[r][t]);
}

/* One token: memory decides. Four rows a quarter of the range apart are four streams. */
static void bni_dot_one(float *const *y, int type, const uint8_t *rows, size_t row_bytes, int n_rows, const float *x,
                        int n)
{
    const int quarter = n_rows / 4;
    const size_t apart = (size_t)quarter * row_bytes;
    int r;
    for (r = 0; r < quarter; r++) {
        const uint8_t *row = rows + (size_t)r * row_bytes;
        switch (type) {              /* a loop of their own for the types that published models have here */
        case BNI_TYPE_F16: bni_dot_tile(4, 1, y, r, quarter, BNI_TYPE_F16, row, apart, x, 0, n); BNI_APART; break;
        case BNI_TYPE_Q6_K: bni_dot_tile(4, 1, y, r, quarter, BNI_TYPE_Q6_K, row, apart, x, 0, n); BNI_APART; break;
        default: bni_dot_tile(4, 1, y, r, quarter, type, row, apart, x, 0, n); BNI_APART; break;
        }
    }
    for (r = 4 * quarter; r < n_rows; r++)
        bni_dot_tile(1, 1, y, r, 0, type, rows + (size_t)r * row_bytes, 0, x, 0, n);
}

/* Up to 4 tokens of several: a row's weights are decoded once for them. */
static void bni_dot_batch(float *const *y, int type, const uint8_t *rows, size_t row_bytes, int n_rows, const float *x,
                          size_t x_stride, int n_tokens, int n)
{
    int r = 0;
    for (; r + BNI_TILE_DOT_ROWS <= n_rows; r += BNI_TILE_DOT_ROWS, rows += BNI_TILE_DOT_ROWS * row_bytes) {
        switch (n_tokens) {
        case 1: bni_dot_tile(BNI_TILE_DOT_ROWS, 1, y, r, 1, type, rows, row_bytes, x, x_stride, n); BNI_APART; break;
        case 2: bni_dot_tile(BNI_TILE_DOT_ROWS, 2, y, r, 1, type, rows, row_bytes, x, x_stride, n); BNI_APART; break;
        case 3: bni_dot_tile(BNI_TILE_DOT_ROWS, 3, y, r, 1, type, rows, row_bytes, x, x_stride, n); BNI_APART; break;
        default: bni_dot_tile(BNI_TILE_DOT_ROWS, 4, y, r, 1, type, rows, row_bytes, x, x_stride, n); BNI_APART; break;
        }
    }
    for (; r < n_rows; r++, rows += row_bytes) {
        int t;
        for (t = 0; t < n_tokens; t++)
            bni_dot_tile(1, 1, y + t, r, 0, type, rows, 0, x + (size_t)t * x_stride, 0, n);
    }
}

/* y[t][r] = row r . x[t], n columns. f32 in 16 lanes, multiply and add apart, folded by halves: the order of the
   reference, whatever the number of tokens. */
static void BNI_FN(bni_dot_rows)(float *const *y, int type, const uint8_t *rows, size_t row_bytes, int n_rows,
                                 const float *x, size_t x_stride, int n_tokens, int n)
{
    int t;
    if (n_tokens == 1) {
        bni_dot_one(y, type, rows, row_bytes, n_rows, x, n);
        return;
    }
    for (t = 0; t < n_tokens; t += 4)
        bni_dot_batch(y + t, type, rows, row_bytes, n_rows, x + (size_t)t * x_stride, x_stride,
                      n_tokens - t < 4 ? n_tokens - t : 4, n);
}

#endif /* whole set */

/* ----------------------------------------------------------------------------------------- ternary products */

/* R16 (>>formats): byte j of dword r of a block holds columns j, 4 + j, 8 + j, 12 + j of row r in its bit pairs.
   Masked, a block is four columns of 16 rows as unsigned bytes 0..2 (times 1, 4, 16 or 64), which one instruction
   multiplies with four signed activations, the same for every row: a broadcast of 32 bits.

   Two streams: strips s and s + n/2 together. With an odd count they overlap by one strip, computed twice. Prefetches
   run past the end of the matrix into the next one: the weights lie in the order of execution, and none can fault. */

#if BNI_ISA == BNI_ISA_AVX512 || BNI_ISA == BNI_ISA_AVX512VBMI

/* acc += the four products of unsigned and signed bytes in every lane. asm: see bni_vp_add. */
#define BNI_DOT4(acc, codes, x) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(x))
#define BNI_FOUR(p) _mm512_set1_epi32((int32_t)bni_load_u32(p))

/* The same functions for R16 and, in the pass with VBMI, for T5, whose blocks have a fifth group of columns. */
#if BNI_ISA == BNI_ISA_AVX512
  #define BNI_LAYOUT BNI_R16
  #define BNI_GROUPS 4
  #define BNI_PAIR(p, i) _mm512_and_si512(_mm512_srli_epi16(p, 2 * (i)), _mm512_set1_epi8(3))
  #define bni_block_decode(block, table, pairs, fifth) (*(fifth) = *(pairs) = _mm512_loadu_si512(block), (void)(table))
  #define BNI_TABLE(i) _mm512_setzero_si512()
#else
  #define BNI_LAYOUT BNI_T5
  #define BNI_GROUPS 5
  #define BNI_TABLE(i) _mm512_loadu_si512(bni_t5_tables[i])

/* Bit pair i (a constant) of every byte, by one instruction for a shift and a mask: a product with a matrix of bits,
   whose row for bit 0 of the result is the top byte, and for bit 1 the next. */
  #define BNI_PAIR(p, i) _mm512_gf2p8affine_epi64_epi8(p, _mm512_set1_epi64(0x0102000000000000 << 2 * (i)), 0)

/* T5 (>>formats): what the 64 values of a byte's low six bits stand for. [0]: T itself, as the bit pairs of R16. For
   bytes from 192 on, whose low bits are i = 3 (T - 64) + t4: [1] the bit pairs of T = 64 + i / 3, [2] t4 at bits 7:6. */
#define BNI_PAIRS(t) (t) % 3 | (t) / 3 % 3 << 2 | (t) / 9 % 3 << 4 | (t) / 27 % 3 << 6
#define BNI_LARGE(i) BNI_PAIRS(64 + (i) / 3)
#define BNI_LAST(i) (i) % 3 << 6
#define BNI_8(f, i) f(i), f(i + 1), f(i + 2), f(i + 3), f(i + 4), f(i + 5), f(i + 6), f(i + 7)
#define BNI_64(f) BNI_8(f, 0), BNI_8(f, 8), BNI_8(f, 16), BNI_8(f, 24), BNI_8(f, 32), BNI_8(f, 40), BNI_8(f, 48), BNI_8(f, 56)
static const uint8_t bni_t5_tables[3][64] = {{BNI_64(BNI_PAIRS)}, {BNI_64(BNI_LARGE)}, {BNI_64(BNI_LAST)}};
#undef BNI_PAIRS
#undef BNI_LARGE
#undef BNI_LAST
#undef BNI_8
#undef BNI_64

/* A block as one of R16 (*pairs) and the fifth group at bits 7:6 (*fifth; its other bits are 0). */
BNI_VINLINE void bni_block_decode(const uint8_t *block, const __m512i table[3], __m512i *pairs, __m512i *fifth)
{
    const __m512i w = _mm512_loadu_si512(block), top = _mm512_set1_epi8((char)192);
    const __mmask64 large = _mm512_cmpge_epu8_mask(w, top);
    const __m512i small = _mm512_permutexvar_epi8(w, table[0]);
    *pairs = _mm512_mask_permutexvar_epi8(small, large, w, table[1]);
    *fifth = _mm512_mask_permutexvar_epi8(_mm512_and_si512(w, top), large, w, table[2]);
}
#endif

/* One block without a shift: column group g goes to acc[g], 4^g times too large, the fifth with the fourth. The top
   codes reach 2 * 64 = 128, a sum of four products 4 * 128 * 128 = 2^16, and BNI_MAX_WIDTH / 16 = 2^14 blocks of R16
   2^30; T5 doubles that in 4/5 of the blocks: int32 holds both. */
BNI_VINLINE void bni_block_step(__m512i acc[4], const uint8_t *block, const __m512i x[5], const __m512i table[3])
{
    __m512i p, c0, c1, c2, c3, c4;
    bni_block_decode(block, table, &p, &c4);
    c0 = _mm512_and_si512(p, _mm512_set1_epi8(3));
    c1 = _mm512_and_si512(p, _mm512_set1_epi8(12));
    c2 = _mm512_and_si512(p, _mm512_set1_epi8(48));
    c3 = _mm512_and_si512(p, _mm512_set1_epi8((char)192));
    BNI_DOT4(acc[0], c0, x[0]);
    BNI_DOT4(acc[1], c1, x[1]);
    BNI_DOT4(acc[2], c2, x[2]);
    BNI_DOT4(acc[3], c3, x[3]);
    if (BNI_GROUPS == 5)
        BNI_DOT4(acc[3], c4, x[4]);
}

/* The exact multiples of 1, 4, 16 and 64 brought back to 1 and added. */
BNI_VINLINE void bni_block_finish(int32_t *y, const __m512i acc[4])
{
    __m512i a = _mm512_add_epi32(acc[0], _mm512_srai_epi32(acc[1], 2));
    __m512i b = _mm512_add_epi32(_mm512_srai_epi32(acc[2], 4), _mm512_srai_epi32(acc[3], 6));
    _mm512_storeu_si512(y, _mm512_add_epi32(a, b));
}

/* One token. Prefetch 1 KiB ahead into the first cache, 4 KiB ahead into the second; the first 4 KiB at once. */
static void bni_one(int32_t *y, const uint8_t *w, int n_strips, int n_cols, const int8_t *x)
{
    const size_t away = (size_t)(n_strips / 2) * (size_t)bni_strip_bytes(BNI_LAYOUT, (uint64_t)n_cols);
    const __m512i zero = _mm512_setzero_si512();
    __m512i table[3];
    int s, k, i;
    BNI_UNROLL for (i = 0; i < 3; i++)
        table[i] = BNI_TABLE(i);
    for (i = 0; i < 4096; i += 64) {
        __builtin_prefetch(w + i, 0, 2);
        __builtin_prefetch(w + away + i, 0, 2);
    }
    for (s = 0; s < (n_strips + 1) / 2; s++) {
        __m512i a[4], b[4], v[5];
        BNI_UNROLL for (i = 0; i < 4; i++)
            a[i] = b[i] = zero;
        for (k = 0; k < n_cols; k += 4 * BNI_GROUPS, w += 64) {
            BNI_UNROLL for (i = 0; i < BNI_GROUPS; i++)
                v[i] = BNI_FOUR(x + k + 4 * i);
            __builtin_prefetch(w + 1024, 0, 3);
            __builtin_prefetch(w + away + 1024, 0, 3);
            __builtin_prefetch(w + 4096, 0, 2);
            __builtin_prefetch(w + away + 4096, 0, 2);
            bni_block_step(a, w, v, table);
            bni_block_step(b, w + away, v, table);
        }
        bni_block_finish(y + 16 * s, a);
        bni_block_finish(y + 16 * (s + n_strips / 2), b);
    }
}

/* Two strips, n tokens (a constant): every block is shifted and masked once for all of them. 2 n accumulators. */
BNI_VINLINE void bni_few(const int n, int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x)
{
    const size_t away = (size_t)(n_strips / 2) * (size_t)bni_strip_bytes(BNI_LAYOUT, (uint64_t)n_cols);
    __m512i table[3];
    int s, k, i, t;
    BNI_UNROLL for (i = 0; i < 3; i++)
        table[i] = BNI_TABLE(i);
    for (s = 0; s < (n_strips + 1) / 2; s++, y += 16) {
        const int8_t *v = x;
        __m512i a[8], b[8];
        BNI_UNROLL for (t = 0; t < n; t++)
            a[t] = b[t] = _mm512_setzero_si512();
        for (k = 0; k < n_cols; k += 4 * BNI_GROUPS, w += 64) {
            __m512i p, q, p4, q4;
            bni_block_decode(w, table, &p, &p4);
            bni_block_decode(w + away, table, &q, &q4);
            __builtin_prefetch(w + 2048, 0, 3);
            __builtin_prefetch(w + away + 2048, 0, 3);
            BNI_UNROLL for (i = 0; i < BNI_GROUPS; i++, v += 4 * n) {
                const __m512i c = i < 4 ? BNI_PAIR(p, i & 3) : _mm512_srli_epi16(p4, 6);
                const __m512i d = i < 4 ? BNI_PAIR(q, i & 3) : _mm512_srli_epi16(q4, 6);
                BNI_UNROLL for (t = 0; t < n; t++) {
                    const __m512i four = BNI_FOUR(v + 4 * t);
                    BNI_DOT4(a[t], c, four);
                    BNI_DOT4(b[t], d, four);
                }
            }
        }
        BNI_UNROLL for (t = 0; t < n; t++) {
            _mm512_storeu_si512(y + (ptrdiff_t)t * ldy, a[t]);
            _mm512_storeu_si512(y + (ptrdiff_t)t * ldy + 16 * (n_strips / 2), b[t]);
        }
    }
}

/* The number of tokens becomes a constant, for which the compiler keeps the accumulators in registers: 16 of 32 at n =
   8, which is why a group has eight rows. BNI_APART keeps the cases from being merged into one slow loop. */
static void bni_few_n(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x, int n)
{
    switch (n) {
    case 2: bni_few(2, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    case 3: bni_few(3, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    case 4: bni_few(4, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    case 5: bni_few(5, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    case 6: bni_few(6, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    case 7: bni_few(7, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    default: bni_few(8, y, ldy, w, n_strips, n_cols, x); BNI_APART; break;
    }
}

/* A block of the layout (a constant) to the panel, four columns of 16 rows to 64 bytes. */
BNI_VINLINE void bni_unpack_block(const int layout, uint8_t *panel, const uint8_t *w, const __m512i table[3])
{
    __m512i p, p4;
    if (layout == BNI_LAYOUT)
        bni_block_decode(w, table, &p, &p4);
    else
        p = _mm512_loadu_si512(w);
    _mm512_storeu_si512(panel, _mm512_and_si512(p, _mm512_set1_epi8(3)));
    _mm512_storeu_si512(panel + 64, BNI_PAIR(p, 1));
    _mm512_storeu_si512(panel + 128, BNI_PAIR(p, 2));
    _mm512_storeu_si512(panel + 192, BNI_PAIR(p, 3));
    if (layout == BNI_T5)
        _mm512_storeu_si512(panel + 256, _mm512_srli_epi16(p4, 6));
}

/* Columns of a strip to the panel; T5's last block may write past n_cols. */
static void bni_unpack(uint8_t *panel, const uint8_t *w, int n_cols)
{
    __m512i table[3];
    int k, i;
    BNI_UNROLL for (i = 0; i < 3; i++)
        table[i] = BNI_TABLE(i);
    for (k = 0; k < n_cols; k += 4 * BNI_GROUPS, w += 64, panel += 64 * BNI_GROUPS)
        bni_unpack_block(BNI_LAYOUT, panel, w, table);
}
#endif

#if BNI_ISA == BNI_ISA_AVX512

/* Both strips of the panel times n tokens (a constant), added to y: 2 n accumulators, 16 of 32 registers. Two strips
   per broadcast keep the loads below the products. */
BNI_VINLINE void bni_panel_tile(const int n, int32_t *y, int32_t *y_far, int ldy, const uint8_t *panel, int n_cols,
                                const int8_t *x)
{
    __m512i a[8], b[8];
    int k, t;
    BNI_UNROLL for (t = 0; t < n; t++) {
        a[t] = _mm512_loadu_si512(y + (ptrdiff_t)t * ldy);
        b[t] = _mm512_loadu_si512(y_far + (ptrdiff_t)t * ldy);
    }
    for (k = 0; k < n_cols; k += 4, panel += 64, x += 4 * n) {
        const __m512i c = _mm512_loadu_si512(panel), d = _mm512_loadu_si512(panel + BNI_PANEL);
        BNI_UNROLL for (t = 0; t < n; t++) {
            const __m512i four = BNI_FOUR(x + 4 * t);
            BNI_DOT4(a[t], c, four);
            BNI_DOT4(b[t], d, four);
        }
    }
    BNI_UNROLL for (t = 0; t < n; t++) {
        _mm512_storeu_si512(y + (ptrdiff_t)t * ldy, a[t]);
        _mm512_storeu_si512(y_far + (ptrdiff_t)t * ldy, b[t]);
    }
}

/* The number of tokens becomes a constant, for which the compiler keeps the accumulators in registers. BNI_APART keeps
   the cases from being merged into one slow loop. */
static void bni_panel_rows(int32_t *y, int32_t *y_far, int ldy, const uint8_t *panel, int n_cols, const int8_t *x, int n)
{
    switch (n) {
    case 1: bni_panel_tile(1, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    case 2: bni_panel_tile(2, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    case 3: bni_panel_tile(3, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    case 4: bni_panel_tile(4, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    case 5: bni_panel_tile(5, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    case 6: bni_panel_tile(6, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    case 7: bni_panel_tile(7, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    default: bni_panel_tile(8, y, y_far, ldy, panel, n_cols, x); BNI_APART; break;
    }
}

#elif BNI_ISA != BNI_ISA_AVX512VBMI   /* registers of 16 or 32 bytes */

/* What the products below need:
       bni_acc                     the sums of BNI_LANES rows under way; BNI_NO_SUMS is none
       BNI_DOT(acc, codes, v, i)   acc += the bytes of codes, rows of four, times group i of v
       BNI_JOIN(p, q)              p + q / 4, still as bni_acc
       BNI_TO_INT32(acc)           int32 sums
       BNI_DOT_COLS                columns of R16 after which bni_acc must go to int32
       bni_fours                   up to four groups of four activations; bni_fours_load(x, n): n of them from x on
       BNI_TILE_TOKENS             tokens of a tile: as many as the registers hold bni_acc */
#define bni_acc BNI_FN(bni_acc)
#define bni_fours BNI_FN(bni_fours)
#define bni_fours_load BNI_FN(bni_fours_load)
#define bni_dot BNI_FN(bni_dot)

#if BNI_ISA == BNI_ISA_NEON
/* smlal, one product into an int16: lanes of rows 0, 1 and of rows 2, 3, four columns each, added in the end. Half of
   what pmaddubsw adds to a lane, so twice the columns fit (bounds: see bni_one). */
#define bni_no_sums BNI_FN(bni_no_sums)
#define bni_join BNI_FN(bni_join)
typedef struct bni_acc { int16x8_t low, high; } bni_acc;
typedef struct bni_fours { bni_pi p[4]; } bni_fours;
BNI_VINLINE bni_fours bni_fours_load(const int8_t *x, const int n)
{
    bni_fours v;
    int i;
    BNI_UNROLL for (i = 0; i < n; i++)
        v.p[i] = BNI_SPLAT((int32_t)bni_load_u32(x + 4 * i));
    return v;
}
BNI_VINLINE bni_acc bni_no_sums(void)
{
    bni_acc a;
    a.low = a.high = vdupq_n_s16(0);
    return a;
}
BNI_VINLINE bni_acc bni_dot(bni_acc acc, bni_pi codes, bni_pi x)      /* asm: see bni_vp_add */
{
    __asm__("smlal %0.8h, %1.8b, %2.8b" : "+w"(acc.low) : "w"(codes), "w"(x));
    __asm__("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(acc.high) : "w"(codes), "w"(x));
    return acc;
}
BNI_VINLINE bni_acc bni_join(bni_acc p, bni_acc q)
{
    p.low = vsraq_n_s16(p.low, q.low, 2);
    p.high = vsraq_n_s16(p.high, q.high, 2);
    return p;
}
#define BNI_NO_SUMS bni_no_sums()
#define BNI_DOT(acc, codes, v, i) (acc = bni_dot(acc, codes, (v).p[i]))
#define BNI_DOT_COLS 256
#define BNI_TO_INT32(a) vpaddq_s32(vpaddlq_s16((a).low), vpaddlq_s16((a).high))
#define BNI_JOIN(p, q) bni_join(p, q)
#define BNI_TILE_TOKENS 2

#elif BNI_ISA == BNI_ISA_WASM
/* i32x4.dot_i16x8_s, two products into an int32. Codes seen as 16 bits hold two columns, 0 and 2 below 1 and 3: masked
   or shifted they are int16 as they stand, and the activations are taken apart to match. */
typedef bni_pi bni_acc;
typedef struct bni_fours { v128_t even[4], odd[4]; } bni_fours;
BNI_VINLINE bni_fours bni_fours_load(const int8_t *x, const int n)
{
    bni_fours v;
    int i;
    BNI_UNROLL for (i = 0; i < n; i++) {
        const v128_t four = wasm_v128_load32_splat(x + 4 * i);
        v.even[i] = wasm_i16x8_shr(wasm_i16x8_shl(four, 8), 8);
        v.odd[i] = wasm_i16x8_shr(four, 8);
    }
    return v;
}
BNI_VINLINE bni_acc bni_dot(bni_acc acc, bni_pi codes, v128_t even, v128_t odd)
{
    acc = BNI_ADD(acc, wasm_i32x4_dot_i16x8((v128_t)(codes & BNI_SPLAT(0x00ff00ff)), even));
    return BNI_ADD(acc, wasm_i32x4_dot_i16x8(wasm_u16x8_shr((v128_t)codes, 8), odd));
}
#define BNI_NO_SUMS BNI_SPLAT(0)
#define BNI_DOT(acc, codes, v, i) (acc = bni_dot(acc, codes, (v).even[i], (v).odd[i]))
#define BNI_DOT_COLS BNI_PANEL_COLS
#define BNI_TO_INT32(a) (a)
#define BNI_JOIN(p, q) BNI_ADD(p, (q) >> 2)
#define BNI_TILE_TOKENS 2

#elif BNI_ISA == BNI_ISA_DOTPROD || BNI_ISA == BNI_ISA_I8MM
/* sdot, four products into an int32. It takes any group of a register as its second operand, so the activations are
   not broadcast. 16 of 32 registers of sums. */
typedef bni_pi bni_acc;
typedef bni_pi bni_fours;
BNI_VINLINE bni_fours bni_fours_load(const int8_t *x, const int n)
{
    (void)n;                         /* 16 bytes in any case: what is behind the last group may be read */
    return BNI_LOADI(x);
}
BNI_VINLINE bni_acc bni_dot(bni_acc acc, bni_pi codes, bni_fours v, const int i)
{
    switch (i) {                     /* a constant once the loops are unrolled, but not for an operand of asm */
    case 0: __asm__("sdot %0.4s, %1.16b, %2.4b[0]" : "+w"(acc) : "w"(codes), "w"(v)); break;
    case 1: __asm__("sdot %0.4s, %1.16b, %2.4b[1]" : "+w"(acc) : "w"(codes), "w"(v)); break;
    case 2: __asm__("sdot %0.4s, %1.16b, %2.4b[2]" : "+w"(acc) : "w"(codes), "w"(v)); break;
    default: __asm__("sdot %0.4s, %1.16b, %2.4b[3]" : "+w"(acc) : "w"(codes), "w"(v)); break;
    }
    return acc;
}
#define BNI_NO_SUMS BNI_SPLAT(0)
#define BNI_DOT(acc, codes, v, i) (acc = bni_dot(acc, codes, v, i))
#define BNI_DOT_COLS BNI_PANEL_COLS
#define BNI_TO_INT32(a) (a)
#define BNI_JOIN(p, q) BNI_ADD(p, (q) >> 2)
#define BNI_TILE_TOKENS 4

#else /* x86 */
/* Unsigned times signed bytes: vpdpbusd, four products into an int32, or pmaddubsw, two into an int16. */
typedef bni_pi bni_acc;
typedef struct bni_fours { bni_pi p[4]; } bni_fours;
BNI_VINLINE bni_fours bni_fours_load(const int8_t *x, const int n)
{
    bni_fours v;
    int i;
    BNI_UNROLL for (i = 0; i < n; i++)
        v.p[i] = BNI_MM(set1_epi32)((int32_t)bni_load_u32(x + 4 * i));
    return v;
}
#define BNI_BYTES(b) BNI_MM(set1_epi8)(b)
#define BNI_SHR(a, n) BNI_MM(srli_epi16)(a, n)
#define BNI_ADD(a, b) BNI_MM(add_epi32)(a, b)
#define BNI_NO_SUMS BNI_MM(set1_epi32)(0)
#define BNI_TILE_TOKENS (8 / BNI_PARTS)
#if BNI_ISA == BNI_ISA_AVXVNNI
  #define BNI_DOT(acc, codes, v, i) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(codes), "x"((v).p[i]))
  #define BNI_DOT_COLS BNI_PANEL_COLS
  #define BNI_TO_INT32(a) (a)
  #define BNI_JOIN(p, q) BNI_MM(add_epi32)(p, BNI_MM(srai_epi32)(q, 2))
#else
  #define BNI_DOT(acc, codes, v, i) (acc = BNI_MM(add_epi16)(acc, BNI_MM(maddubs_epi16)(codes, (v).p[i])))
  #define BNI_DOT_COLS 128
  #define BNI_TO_INT32(a) BNI_MM(madd_epi16)(a, BNI_MM(set1_epi16)(1))
  #define BNI_JOIN(p, q) BNI_MM(add_epi16)(p, BNI_MM(srai_epi16)(q, 2))
#endif
#endif /* x86 */
/* One token: four registers of weights at a time, a block of two strips or, with 16 bytes, of one. */
#define BNI_STREAMS (4 / BNI_PARTS)

/* y[BNI_LANES] += acc. */
BNI_VINLINE void bni_flush(int32_t *y, bni_acc acc)
{
    BNI_STOREI(y, BNI_ADD(BNI_LOADI(y), BNI_TO_INT32(acc)));
}

/* One token, prefetch 4 KiB ahead. Of a block, columns 0-3 and 8-11 go to p as they are, 4-7 and 12-15 to q four times
   too large, which saves two of three shifts. The int32 sums wait in memory between the flushes.
   Bounds of an int16: a block adds at most 2 * 2 * 2 * 128 = 1024 to a lane of p and 4 * 1024 to one of q. Over 8 blocks,
   which are 128 columns, that is 8192 and 32768; x = -128 makes it -32768, which fits, and x = 127 gives 32512. Then
   |p| + |q / 4| <= 16384 still fits. Of an int32: q gets at most 2^14 a block, of which there are 40 in 640 columns. */
static void bni_one(int32_t *y, const uint8_t *w, int n_strips, int n_cols, const int8_t *x)
{
    const size_t away = (size_t)(n_strips / 2) * (size_t)n_cols * 4 * (BNI_STREAMS - 1);
    const bni_pi m0 = BNI_BYTES(3), m1 = BNI_BYTES(12);
    const int turns = (n_strips + BNI_STREAMS - 1) / BNI_STREAMS;
    int s, k, i, end;
    for (s = 0; s < turns; s++) {
        int32_t sum[BNI_STREAMS * 16];
        memset(sum, 0, sizeof sum);
        for (k = 0; k < n_cols; ) {
            bni_acc p[4], q[4];
            BNI_UNROLL for (i = 0; i < 4; i++)
                p[i] = q[i] = BNI_NO_SUMS;
            for (end = k + BNI_DOT_COLS < n_cols ? k + BNI_DOT_COLS : n_cols; k < end; k += 16, w += 64) {
                const bni_fours v = bni_fours_load(x + k, 4);
                __builtin_prefetch(w + 4096, 0, 3);
                if (BNI_STREAMS > 1)
                    __builtin_prefetch(w + away + 4096, 0, 3);
                BNI_UNROLL for (i = 0; i < 4; i++) {
                    const bni_pi low = BNI_LOADI(w + (size_t)(i / BNI_PARTS) * away + (size_t)(i % BNI_PARTS) * (64 / BNI_PARTS));
                    const bni_pi high = BNI_SHR(low, 4);
                    const bni_pi c0 = low & m0, c1 = low & m1, c2 = high & m0, c3 = high & m1;
                    BNI_DOT(p[i], c0, v, 0);
                    BNI_DOT(q[i], c1, v, 1);
                    BNI_DOT(p[i], c2, v, 2);
                    BNI_DOT(q[i], c3, v, 3);
                }
            }
            BNI_UNROLL for (i = 0; i < 4; i++)
                bni_flush(sum + i * BNI_LANES, BNI_JOIN(p[i], q[i]));
        }
        memcpy(y + 16 * (ptrdiff_t)s, sum, 16 * sizeof *sum);
        if (BNI_STREAMS > 1)
            memcpy(y + 16 * (ptrdiff_t)(s + n_strips / 2), sum + (BNI_STREAMS - 1) * 16, 16 * sizeof *sum);
    }
}

#if BNI_ISA == BNI_ISA_I8MM
/* smmla multiplies two rows of eight columns with two tokens of eight columns: 32 products into four int32, twice what
   sdot does. So the panel has eight columns of two rows in a register, 16 rows in 128 bytes. */
static void bni_unpack(uint8_t *panel, const uint8_t *w, int n_cols)
{
    const bni_pi three = BNI_BYTES(3);
    int k;
    for (k = 0; k < n_cols; k += 16, w += 64, panel += 256) {
        BNI_EACH(const bni_pi a = BNI_LOADI(w + 16 * i); uint8_t *to = panel + 32 * i;
                 const bni_pi c0 = a & three; const bni_pi c1 = BNI_SHR(a, 2) & three;
                 const bni_pi c2 = BNI_SHR(a, 4) & three; const bni_pi c3 = BNI_SHR(a, 6) & three;
                 BNI_STOREI(to, BNI_ZIP_LOW(c0, c1));
                 BNI_STOREI(to + 16, BNI_ZIP_HIGH(c0, c1));
                 BNI_STOREI(to + 128, BNI_ZIP_LOW(c2, c3));
                 BNI_STOREI(to + 144, BNI_ZIP_HIGH(c2, c3)))
    }
}

/* y[t][16] += one strip's panel . x for n_tokens (a constant) of the ld tokens of x. acc[.][p] holds rows 2 p, 2 p + 1
   of tokens t, t + 1: r t, r t+1, r+1 t, r+1 t+1. The activations of two pairs of tokens come from two groups of columns;
   of an odd number of tokens, the last pair's second is whatever stands there. */
BNI_VINLINE void bni_panel_tile(const int n_tokens, int32_t *y, int ldy, const uint8_t *panel, int n_cols,
                                const int8_t *x, int ld)
{
    bni_pi acc[2][8], pair[2];
    int k, t, p;
    BNI_UNROLL for (p = 0; p < 8; p++)
        acc[0][p] = acc[1][p] = BNI_NO_SUMS;
    for (k = 0; k < n_cols; k += 8, panel += 128, x += 8 * ld) {
        const bni_pi a = BNI_LOADI(x), b = BNI_LOADI(x + 4 * ld);
        pair[0] = BNI_ZIP_LOW(a, b);
        pair[1] = BNI_ZIP_HIGH(a, b);
        BNI_UNROLL for (p = 0; p < 8; p++) {
            const bni_pi codes = BNI_LOADI(panel + 16 * p);
            BNI_UNROLL for (t = 0; t < (n_tokens + 1) / 2; t++)
                __asm__("smmla %0.4s, %1.16b, %2.16b" : "+w"(acc[t][p]) : "w"(codes), "w"(pair[t]));
        }
    }
    BNI_UNROLL for (p = 0; p < 8; p += 2, y += 4)
        BNI_UNROLL for (t = 0; t < n_tokens; t += 2) {
            bni_flush(y + (ptrdiff_t)t * ldy, BNI_EVEN(acc[t / 2][p], acc[t / 2][p + 1]));
            if (t + 1 < n_tokens)
                bni_flush(y + (ptrdiff_t)(t + 1) * ldy, BNI_ODD(acc[t / 2][p], acc[t / 2][p + 1]));
        }
}

#else
/* Columns of a strip to the panel, four columns of 16 rows to 64 bytes. */
static void bni_unpack(uint8_t *panel, const uint8_t *w, int n_cols)
{
    const bni_pi three = BNI_BYTES(3);
    int k;
    for (k = 0; k < n_cols; k += 16, w += 64, panel += 256) {
        BNI_EACH(const bni_pi a = BNI_LOADI(w + 4 * BNI_LANES * i); uint8_t *to = panel + 4 * BNI_LANES * i;
                 BNI_STOREI(to, a & three);
                 BNI_STOREI(to + 64, BNI_SHR(a, 2) & three);
                 BNI_STOREI(to + 128, BNI_SHR(a, 4) & three);
                 BNI_STOREI(to + 192, BNI_SHR(a, 6) & three))
    }
}

/* y[t][16] += one strip's panel . x for up to 2 * BNI_DOT_COLS columns of n_tokens (a constant) of the ld tokens of x: 8
   or 16 accumulators. With pmaddubsw a step adds at most 2 * 2 * 128 = 512 to an int16; 64 steps, 256 columns, reach
   -32768 with x = -128 and 32512 with x = 127: both fit. smlal adds half of that, so 512 columns fit. */
BNI_VINLINE void bni_panel_tile(const int n_tokens, int32_t *y, int ldy, const uint8_t *panel, int n_cols,
                                const int8_t *x, int ld)
{
    bni_acc acc[BNI_TILE_TOKENS][BNI_PARTS];
    bni_pi codes[BNI_PARTS];
    int k, t, p;
    BNI_UNROLL for (t = 0; t < n_tokens; t++)
        BNI_UNROLL for (p = 0; p < BNI_PARTS; p++)
            acc[t][p] = BNI_NO_SUMS;
    for (k = 0; k < n_cols; k += 4, panel += 64, x += 4 * ld) {
        const bni_fours v = bni_fours_load(x, n_tokens);
        BNI_UNROLL for (p = 0; p < BNI_PARTS; p++)
            codes[p] = BNI_LOADI(panel + 4 * BNI_LANES * p);
        BNI_UNROLL for (t = 0; t < n_tokens; t++)
            BNI_UNROLL for (p = 0; p < BNI_PARTS; p++)
                BNI_DOT(acc[t][p], codes[p], v, t);
    }
    BNI_UNROLL for (t = 0; t < n_tokens; t++)
        BNI_UNROLL for (p = 0; p < BNI_PARTS; p++)
            bni_flush(y + (ptrdiff_t)t * ldy + BNI_LANES * p, acc[t][p]);
}
#endif /* I8MM */

/* Both strips of the panel times n tokens, added to y, a tile of tokens and one strip at a time. */
static void bni_panel_rows(int32_t *y, int32_t *y_far, int ldy, const uint8_t *panel, int n_cols, const int8_t *x, int n)
{
    int k, t, strip;
    for (k = 0; k < n_cols; k += 2 * BNI_DOT_COLS)
        for (strip = 0; strip < (y_far == y ? 1 : 2); strip++)         /* a single strip is both */
            for (t = 0; t < n; t += BNI_TILE_TOKENS) {
                const uint8_t *codes = panel + strip * BNI_PANEL + k * 16;
                const int cols = n_cols - k < 2 * BNI_DOT_COLS ? n_cols - k : 2 * BNI_DOT_COLS;
                const int8_t *v = x + (ptrdiff_t)k * n + 4 * t;
                int32_t *out = (strip ? y_far : y) + (ptrdiff_t)t * ldy;
                switch (n - t) {
                case 1: bni_panel_tile(1, out, ldy, codes, cols, v, n); BNI_APART; break;
#if BNI_TILE_TOKENS == 4
                case 2: bni_panel_tile(2, out, ldy, codes, cols, v, n); BNI_APART; break;
                case 3: bni_panel_tile(3, out, ldy, codes, cols, v, n); BNI_APART; break;
#endif
                default: bni_panel_tile(BNI_TILE_TOKENS, out, ldy, codes, cols, v, n); BNI_APART; break;
                }
            }
}

#if BNI_ISA != BNI_ISA_I8MM
/* As bni_panel_tile, but of a strip as it lies in memory. The block is loaded for each group of columns anew: 16
   registers hold no more. */
BNI_VINLINE void bni_few_tile(const int n_tokens, int32_t *y, int ldy, const uint8_t *w, int n_cols, const int8_t *x,
                              int ld)
{
    bni_acc acc[BNI_TILE_TOKENS][BNI_PARTS];
    const bni_pi three = BNI_BYTES(3);
    int k, i, t, p;
    BNI_UNROLL for (t = 0; t < n_tokens; t++)
        BNI_UNROLL for (p = 0; p < BNI_PARTS; p++)
            acc[t][p] = BNI_NO_SUMS;
    for (k = 0; k < n_cols; k += 16, w += 64) {
        __builtin_prefetch(w + 4096, 0, 3);
        BNI_UNROLL for (i = 0; i < 4; i++, x += 4 * ld) {
            const bni_fours v = bni_fours_load(x, n_tokens);
            BNI_UNROLL for (p = 0; p < BNI_PARTS; p++) {
                const bni_pi c = BNI_SHR(BNI_LOADI(w + 4 * BNI_LANES * p), 2 * i) & three;
                BNI_UNROLL for (t = 0; t < n_tokens; t++)
                    BNI_DOT(acc[t][p], c, v, t);
            }
        }
    }
    BNI_UNROLL for (t = 0; t < n_tokens; t++)
        BNI_UNROLL for (p = 0; p < BNI_PARTS; p++)
            bni_flush(y + (ptrdiff_t)t * ldy + BNI_LANES * p, acc[t][p]);
}

/* Few tokens: unpacking would take longer than their products. The columns of one flush stay in the first cache for all
   tokens. */
static void bni_few(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x, int n_tokens)
{
    int s, k, first, t;
    for (s = 0; s < n_strips; s++, y += 16) {
        for (t = 0; t < n_tokens; t++)
            memset(y + (ptrdiff_t)t * ldy, 0, 16 * sizeof *y);
        for (k = 0; k < n_cols; k += 2 * BNI_DOT_COLS) {
            const int cols = n_cols - k < 2 * BNI_DOT_COLS ? n_cols - k : 2 * BNI_DOT_COLS;
            for (first = 0; first < n_tokens; first += BNI_ROWS) {
                const int n = n_tokens - first < BNI_ROWS ? n_tokens - first : BNI_ROWS;
                for (t = 0; t < n; t += BNI_TILE_TOKENS) {
                    const int8_t *v = x + (ptrdiff_t)first * n_cols + (ptrdiff_t)k * n + 4 * t;
                    int32_t *out = y + (ptrdiff_t)(first + t) * ldy;
                    switch (n - t) {
                    case 1: bni_few_tile(1, out, ldy, w, cols, v, n); BNI_APART; break;
#if BNI_TILE_TOKENS == 4
                    case 2: bni_few_tile(2, out, ldy, w, cols, v, n); BNI_APART; break;
                    case 3: bni_few_tile(3, out, ldy, w, cols, v, n); BNI_APART; break;
#endif
                    default: bni_few_tile(BNI_TILE_TOKENS, out, ldy, w, cols, v, n); BNI_APART; break;
                    }
                }
            }
            w += (ptrdiff_t)((cols + 15) / 16) * 64;
        }
    }
}
#endif
#undef BNI_DOT
#undef BNI_DOT_COLS
#undef BNI_TO_INT32
#undef BNI_JOIN
#undef BNI_BYTES
#undef BNI_SHR
#undef BNI_ADD
#undef BNI_NO_SUMS
#undef BNI_STREAMS
#undef BNI_TILE_TOKENS
#endif /* BNI_ISA */

/* Part t / n_tokens of the bytes at next and away behind it, into the second cache. */
BNI_VINLINE void bni_fetch(const uint8_t *next, size_t away, size_t bytes, int t, int n_tokens, int step)
{
    const size_t part = n_tokens <= step ? bytes : (bytes * (size_t)step / (size_t)n_tokens + 63) / 64 * 64;
    size_t i;
    next += (size_t)(t / step) * part;
    for (i = 0; i < part; i += 64) {
        __builtin_prefetch(next + i, 0, 2);
        __builtin_prefetch(next + away + i, 0, 2);
    }
}

#if BNI_ISA != BNI_ISA_AVX512VBMI

/* Several tokens: pairs of strips are unpacked panel by panel, and each panel multiplied with all groups of tokens.
   Meanwhile the next panel's weights are fetched, some before every group: all at once they would fill the buffers
   that the group's own loads need. */
static void BNI_FN(bni_panel_matmul)(int layout, bni_unpack_fn *unpack, int32_t *y, int ldy, const uint8_t *w,
                                     int n_strips, int n_cols, const int8_t *x, int n_tokens, uint8_t *panel)
{
    const size_t strip = (size_t)bni_strip_bytes(layout, (uint64_t)n_cols), away = (size_t)(n_strips / 2) * strip;
    const size_t panel_bytes = (size_t)bni_strip_bytes(layout, BNI_PANEL_COLS);
    int s, k, t;
    for (s = 0; s < (n_strips + 1) / 2; s++, w += strip, y += 16) {
        int32_t *y_far = y + 16 * (n_strips / 2);
        const uint8_t *from = w;
        for (t = 0; t < n_tokens; t++) {
            memset(y + (ptrdiff_t)t * ldy, 0, 16 * sizeof *y);
            memset(y_far + (ptrdiff_t)t * ldy, 0, 16 * sizeof *y);
        }
        for (k = 0; k < n_cols; k += BNI_PANEL_COLS, from += panel_bytes) {
            const int cols = n_cols - k < BNI_PANEL_COLS ? n_cols - k : BNI_PANEL_COLS;
            unpack(panel, from, cols);
            unpack(panel + BNI_PANEL, from + away, cols);
            for (t = 0; t < n_tokens; t += BNI_ROWS) {
                const int n = n_tokens - t < BNI_ROWS ? n_tokens - t : BNI_ROWS;
                bni_fetch(from + panel_bytes, away, panel_bytes, t, n_tokens, BNI_ROWS);
                bni_panel_rows(y + (ptrdiff_t)t * ldy, y_far + (ptrdiff_t)t * ldy, ldy, panel, cols,
                               x + (ptrdiff_t)t * n_cols + k * n, n);
            }
        }
    }
}

/* Tokens that bni_few takes; from there on unpacking pays. Measured on x86. */
#define BNI_FEW_TOKENS (BNI_ISA == BNI_ISA_AVXVNNI ? 16 : 4)

static void BNI_FN(bni_matmul_r16)(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                                   int n_tokens, uint8_t *panel)
{
    if (n_tokens == 1)
        bni_one(y, w, n_strips, n_cols, x);
#if BNI_ISA == BNI_ISA_AVX512
    else if (n_tokens <= BNI_ROWS)
        bni_few_n(y, ldy, w, n_strips, n_cols, x, n_tokens);
#elif BNI_ISA != BNI_ISA_I8MM
    else if (n_tokens <= BNI_FEW_TOKENS)
        bni_few(y, ldy, w, n_strips, n_cols, x, n_tokens);
#endif
    else
        BNI_FN(bni_panel_matmul)(BNI_R16, bni_unpack, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
}

#else /* AVX512VBMI */

static void BNI_FN(bni_matmul_t5)(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                                  int n_tokens, uint8_t *panel)
{
    if (n_tokens == 1)
        bni_one(y, w, n_strips, n_cols, x);
    else if (n_tokens <= BNI_ROWS)
        bni_few_n(y, ldy, w, n_strips, n_cols, x, n_tokens);
    else
        bni_panel_matmul_avx512(BNI_T5, bni_unpack, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
}

#if BNI_HAVE_AMX
/* ------------------------------------------------------------------------------------------------------- AMX
   Eight tiles of up to 16 rows of 64 bytes. tdpbsud multiplies a tile of 16 tokens x 64 columns (signed) with one of 16
   groups of four columns x 16 rows of weights x 4 (unsigned: a piece of the panel) into 16 tokens x 16 rows of int32:
   32768 operations in 16 cycles, 8 times vpdpbusd. Two tiles of tokens times two strips are four tiles of sums, with
   four tile loads for four products. */

/* 32 (two, a constant) or 16 tokens times both strips of the panel, n tiles deep. Sums start at zero or come from y, and
   return there unless the next panel goes on with them. a: the tokens' tiles of these columns, 16 more tokens a_next
   bytes further on. Loads stand before products: 5.1 against 4.3 TOPS. The
   tokens' tiles, 20 KiB of which pass by for each turn, are not to drive the panel out of the first cache: 6.1 against
   5.7 TOPS with the hint. */
BNI_VINLINE void bni_tiles_run(const int two, int32_t *y, int32_t *y_far, int ldy, const uint8_t *panel, int n,
                               const int8_t *a, size_t a_next, int zero, int load, int store)
{
    const ptrdiff_t row = (ptrdiff_t)ldy * 4;
    if (zero) {
        BNI_TILE_ZERO(0);
        BNI_TILE_ZERO(1);
        BNI_TILE_ZERO(2);
        BNI_TILE_ZERO(3);
    } else if (load) {
        BNI_TILE_LOAD(0, y, row);
        BNI_TILE_LOAD(1, y_far, row);
        if (two) {
            BNI_TILE_LOAD(2, y + 16 * (ptrdiff_t)ldy, row);
            BNI_TILE_LOAD(3, y_far + 16 * (ptrdiff_t)ldy, row);
        }
    }
    for (; n > 0; n--, a += 1024, panel += 1024) {
        BNI_TILE_STREAM(4, a, 64);
        if (two)
            BNI_TILE_STREAM(5, a + a_next, 64);
        BNI_TILE_LOAD(6, panel, 64);
        BNI_TILE_LOAD(7, panel + BNI_PANEL, 64);
        BNI_TILE_DOT(0, 4, 6);
        BNI_TILE_DOT(1, 4, 7);
        if (two) {
            BNI_TILE_DOT(2, 5, 6);
            BNI_TILE_DOT(3, 5, 7);
        }
    }
    if (store) {
        BNI_TILE_STORE(0, y, row);
        BNI_TILE_STORE(1, y_far, row);
        if (two) {
            BNI_TILE_STORE(2, y + 16 * (ptrdiff_t)ldy, row);
            BNI_TILE_STORE(3, y_far + 16 * (ptrdiff_t)ldy, row);
        }
    }
}

/* More than 16 tokens: like bni_panel_matmul, with another order of activations, x [tokens/16][columns/64][16][64], zeros
   behind the last column; tokens that fill up the last 16 may be anything. y has room for them. Up to 32 tokens keep
   their sums in the tiles from panel to panel. */
static void bni_tiles_many(int layout, bni_unpack_fn *unpack, int32_t *y, int ldy, const uint8_t *w, int n_strips,
                           int n_cols, const int8_t *x, int n_tokens, uint8_t *panel)
{
    const size_t strip = (size_t)bni_strip_bytes(layout, (uint64_t)n_cols), away = (size_t)(n_strips / 2) * strip;
    const size_t a_next = ((size_t)n_cols + 63) / 64 * 1024, panel_bytes = (size_t)bni_strip_bytes(layout, BNI_PANEL_COLS);
    const int several = n_tokens > 32;
    int s, k, t;
    for (s = 0; s < (n_strips + 1) / 2; s++, w += strip, y += 16) {
        const uint8_t *from = w;
        for (k = 0; k < n_cols; k += BNI_PANEL_COLS, from += panel_bytes) {
            const int cols = n_cols - k < BNI_PANEL_COLS ? n_cols - k : BNI_PANEL_COLS, n = (cols + 63) / 64;
            const int store = several || k + cols == n_cols;
            BNI_TILE_AWAKE;
            unpack(panel, from, cols);
            BNI_TILE_AWAKE;
            unpack(panel + BNI_PANEL, from + away, cols);
            for (t = 0; t < n_tokens; t += 32) {
                const int8_t *a = x + (size_t)(t / BNI_TILE) * a_next + (ptrdiff_t)k * BNI_TILE;
                int32_t *out = y + (ptrdiff_t)t * ldy, *out_far = out + 16 * (n_strips / 2);
                bni_fetch(from + panel_bytes, away, panel_bytes, t, n_tokens, 32);
                if (n_tokens - t > BNI_TILE)
                    bni_tiles_run(1, out, out_far, ldy, panel, n, a, a_next, k == 0, several, store);
                else
                    bni_tiles_run(0, out, out_far, ldy, panel, n, a, a_next, k == 0, several, store);
            }
        }
    }
}

/* Up to 16 tokens: still bound by memory, if unpacking and products go on at the same time. So 320 columns of both
   strips are unpacked (16 blocks of T5, 20 of R16; 5 tiles) over those before, and every tile's products stand just
   before the blocks that overwrite it. The last columns of a pair of strips are multiplied while the next pair begins. */
BNI_VINLINE void bni_tiles_few(const int layout, int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols,
                               const int8_t *x, uint8_t *panel)
{
    const size_t away = (size_t)(n_strips / 2) * (size_t)bni_strip_bytes(layout, (uint64_t)n_cols);
    const int groups = layout == BNI_T5 ? 5 : 4, per_tile = layout == BNI_T5 ? 3 : 4;
    const int8_t *a = x;
    __m512i table[3];
    int s, k, b, i, ready = 0;
    BNI_UNROLL for (i = 0; i < 3; i++)
        table[i] = BNI_TABLE(i);
    BNI_TILE_ZERO(0);
    BNI_TILE_ZERO(1);
    for (s = 0; s <= (n_strips + 1) / 2; s++)                      /* the last turn only finishes */
        for (k = 0; k < n_cols; k += 320) {
            const int cols = s == (n_strips + 1) / 2 ? 0 : n_cols - k < 320 ? n_cols - k : 320;
            uint8_t *to = panel;
            for (b = i = 0; i < 5; i++) {
                const int end = i == 4 ? cols : 4 * groups * per_tile * (i + 1);
                if (i < ready) {
                    BNI_TILE_STREAM(4, a + 1024 * i, 64);
                    BNI_TILE_LOAD(6, panel + 1024 * i, 64);
                    BNI_TILE_LOAD(7, panel + BNI_PANEL + 1024 * i, 64);
                    BNI_TILE_DOT(0, 4, 6);
                    BNI_TILE_DOT(1, 4, 7);
                }
                for (; b < end && b < cols; b += 4 * groups, w += 64, to += 64 * groups) {
                    __builtin_prefetch(w + 2048, 0, 3);
                    __builtin_prefetch(w + away + 2048, 0, 3);
                    bni_unpack_block(layout, to, w, table);
                    bni_unpack_block(layout, to + BNI_PANEL, w + away, table);
                }
            }
            if (k == 0 && s > 0) {
                int32_t *out = y + 16 * (s - 1);
                BNI_TILE_STORE(0, out, (ptrdiff_t)ldy * 4);
                BNI_TILE_STORE(1, out + 16 * (n_strips / 2), (ptrdiff_t)ldy * 4);
                BNI_TILE_ZERO(0);
                BNI_TILE_ZERO(1);
            }
            if (cols == 0)
                return;
            a = x + (ptrdiff_t)k * BNI_TILE;
            ready = (cols + 63) / 64;
        }
}

/* tilerelease: jobs run on the host's threads. */
BNI_VINLINE void bni_tiles_matmul(const int layout, bni_unpack_fn *unpack, int32_t *y, int ldy, const uint8_t *w,
                                  int n_strips, int n_cols, const int8_t *x, int n_tokens, uint8_t *panel)
{
    bni_tiles_configure(n_tokens < BNI_TILE ? n_tokens : BNI_TILE);
    if (n_tokens <= BNI_TILE)
        bni_tiles_few(layout, y, ldy, w, n_strips, n_cols, x, panel);
    else
        bni_tiles_many(layout, unpack, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
    __asm__ __volatile__("tilerelease" : :);
}

static void bni_tiles_r16(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x, int n_tokens,
                          uint8_t *panel)
{
    bni_tiles_matmul(BNI_R16, bni_unpack_avx512, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
}

static void bni_tiles_t5(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x, int n_tokens,
                         uint8_t *panel)
{
    bni_tiles_matmul(BNI_T5, bni_unpack, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
}

/* The output matrix's bytes are tiles as they lie in memory, and both planes of eight tokens are the 16 rows of another;
   more tokens are a second one, with sums of their own. Behind the last column stand zeros there, so what the bytes' tile
   holds does not matter: the next strip. So it does for rows of tokens that fill up the last eight. */
BNI_VINLINE void bni_tiles_plane_strips(const int two, int32_t sums[4][16 * 16], const uint8_t *w, size_t away, int n_cols,
                                        const int8_t *x)
{
    const ptrdiff_t row = bni_split_stride(n_cols);
    int k, i;
    BNI_TILE_ZERO(0);
    BNI_TILE_ZERO(1);
    BNI_TILE_ZERO(2);
    BNI_TILE_ZERO(3);
    for (k = 0; k < n_cols; k += 64, w += 1024) {
        for (i = 0; i < 1024; i += 64) {
            __builtin_prefetch(w + 4096 + i, 0, 3);
            __builtin_prefetch(w + away + 4096 + i, 0, 3);
        }
        BNI_TILE_LOAD(4, x + k, row);
        BNI_TILE_LOAD(6, w, 64);
        BNI_TILE_LOAD(7, w + away, 64);
        BNI_TILE_DOT(0, 4, 6);
        BNI_TILE_DOT(1, 4, 7);
        if (two) {
            BNI_TILE_LOAD(5, x + 16 * row + k, row);
            BNI_TILE_DOT(2, 5, 6);
            BNI_TILE_DOT(3, 5, 7);
        }
    }
    BNI_TILE_STORE(0, sums[0], 64);
    BNI_TILE_STORE(1, sums[1], 64);
    BNI_TILE_STORE(2, sums[2], 64);
    BNI_TILE_STORE(3, sums[3], 64);
}

static void bni_tiles_plane(float *const *y, const uint8_t *strips, const float *scale, int n_strips, int n_cols,
                            const bni_split *x, int n_tokens)
{
    const size_t strip = 16 * (size_t)n_cols, away = (size_t)(n_strips / 2) * strip;
    const int n = n_tokens < 8 ? n_tokens : 8;
    int32_t sums[4][16 * 16];
    int s, i;
    if (n_tokens == 1) {
        bni_plane_rows_avx512(y, strips, scale, n_strips, n_cols, x, n_tokens);
        return;
    }
    bni_tiles_configure(2 * n);
    for (s = 0; s < (n_strips + 1) / 2; s++, strips += strip) {
        if (n_tokens > 8)
            bni_tiles_plane_strips(1, sums, strips, away, n_cols, x->x);
        else
            bni_tiles_plane_strips(0, sums, strips, away, n_cols, x->x);
        for (i = 0; i < 2; i++) {
            const int at = 16 * (s + i * (n_strips / 2));
            bni_plane_sums_avx512(y, at, scale, x, n, sums[i]);
            if (n_tokens > 8)
                bni_plane_sums_avx512(y + 8, at, scale, x + 8, n_tokens - 8, sums[2 + i]);
        }
    }
    __asm__ __volatile__("tilerelease" : :);
}

#endif /* BNI_HAVE_AMX */
#endif /* AVX512VBMI */

/* ------------------------------------------------------------------------------------------- I2_S in place */

#if BNI_WHOLE

/* BNI_QUAD: 4 dwords of a row, or on x86 from AVX2 on 8, of which the upper half goes four blocks further. */
#if BNI_ISA >= BNI_ISA_AVX2 && BNI_ISA < BNI_ISA_NEON
  #define BNI_QUAD __m256i
  #define BNI_QUAD_LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
  #define BNI_QUAD_STORE(p, a) (_mm_storeu_si128((__m128i *)(void *)(p), _mm256_castsi256_si128(a)), \
                                _mm_storeu_si128((__m128i *)(void *)((p) + 256), _mm256_extracti128_si256(a, 1)))
  #define BNI_ZIP_LOW(a, b) _mm256_unpacklo_epi32(a, b)
  #define BNI_ZIP_HIGH(a, b) _mm256_unpackhi_epi32(a, b)
  #define BNI_CLEAN(a) _mm256_xor_si256(a, _mm256_slli_epi32(_mm256_and_si256(_mm256_and_si256(a, _mm256_srli_epi32(a, 1)), _mm256_set1_epi8(0x55)), 1))
#elif BNI_ISA < BNI_ISA_NEON
  #define BNI_QUAD __m128i
  #define BNI_QUAD_LOAD(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
  #define BNI_QUAD_STORE(p, a) _mm_storeu_si128((__m128i *)(void *)(p), a)
  #define BNI_ZIP_LOW(a, b) _mm_unpacklo_epi32(a, b)
  #define BNI_ZIP_HIGH(a, b) _mm_unpackhi_epi32(a, b)
  #define BNI_CLEAN(a) _mm_xor_si128(a, _mm_slli_epi32(_mm_and_si128(_mm_and_si128(a, _mm_srli_epi32(a, 1)), _mm_set1_epi8(0x55)), 1))
#else
  #define BNI_QUAD bni_pi
  #define BNI_QUAD_LOAD(p) BNI_LOADI(p)
  #define BNI_QUAD_STORE(p, a) BNI_STOREI(p, a)
  #define BNI_CLEAN(a) ((a) ^ ((a) & (bni_pi)((bni_pu)(a) >> 1u) & BNI_SPLAT(0x55555555)) << 1)
#endif

/* As the reference. 4 x 4 dwords of four rows change places, four times. Sixteen streams are too many for the processor
   to foresee, so the next 16 rows are fetched meanwhile. */
static void BNI_FN(bni_gather)(uint8_t *strip, const uint8_t *rows, size_t row_bytes, int n_rows, int n_cols)
{
    const uint8_t *row[16];
    int r, k;
    for (r = 0; r < 16; r++)
        row[r] = rows + (size_t)(r < n_rows ? r : n_rows - 1) * row_bytes;
    for (k = 0; k < n_cols / 4; k += (int)sizeof(BNI_QUAD), strip += 16 * sizeof(BNI_QUAD)) {
        for (r = 0; r < 16 * (int)sizeof(BNI_QUAD); r += 64)
            __builtin_prefetch(rows + 16 * (row_bytes + (size_t)k) + r, 0, 2);
        BNI_UNROLL for (r = 0; r < 16; r += 4) {
            const BNI_QUAD a = BNI_QUAD_LOAD(row[r] + k), b = BNI_QUAD_LOAD(row[r + 1] + k);
            const BNI_QUAD c = BNI_QUAD_LOAD(row[r + 2] + k), d = BNI_QUAD_LOAD(row[r + 3] + k);
            const BNI_QUAD ac = BNI_ZIP_LOW(a, c), bd = BNI_ZIP_LOW(b, d), ac2 = BNI_ZIP_HIGH(a, c), bd2 = BNI_ZIP_HIGH(b, d);
            const BNI_QUAD d0 = BNI_ZIP_LOW(ac, bd), d1 = BNI_ZIP_HIGH(ac, bd);
            const BNI_QUAD d2 = BNI_ZIP_LOW(ac2, bd2), d3 = BNI_ZIP_HIGH(ac2, bd2);
            BNI_QUAD_STORE(strip + 4 * r, BNI_CLEAN(d0));
            BNI_QUAD_STORE(strip + 64 + 4 * r, BNI_CLEAN(d1));
            BNI_QUAD_STORE(strip + 128 + 4 * r, BNI_CLEAN(d2));
            BNI_QUAD_STORE(strip + 192 + 4 * r, BNI_CLEAN(d3));
        }
    }
}

#undef BNI_QUAD
#undef BNI_QUAD_LOAD
#undef BNI_QUAD_STORE
#undef BNI_CLEAN
#endif

/* ------------------------------------------------------------------------------------------- tables: TL1, TL2 */

#if BNI_WHOLE

/* bni_lut: 16 bytes; on x86 from AVX2 on 32, where two strips lie side by side and share the tables, as pshufb looks up in
   each half for itself. */
#if BNI_ISA >= BNI_ISA_NEON
  #define BNI_LUT_STRIPS 1
typedef uint8_t BNI_FN(bni_lut) __attribute__((vector_size(16)));
  #define BNI_LUT_LOAD(p, away) ((bni_lut)BNI_LOADI(p))
  #define BNI_LUT_ALL(p) ((bni_lut)BNI_LOADI(p))
  #define BNI_LUT_LOW(a) ((a) & 15)
  #define BNI_LUT_HIGH(a) ((a) >> 4)
  #define BNI_LUT_ADD(a, b) ((bni_lut)((bni_lut_words)(a) + (bni_lut_words)(b)))
  #define BNI_LUT_SUB(a, b) ((bni_lut)((bni_lut_words)(a) - (bni_lut_words)(b)))
  #define BNI_LUT_SIGN(a, bits) ((bni_lut)(((bni_lut_words)(a) & (bni_lut_words)(bits)) == (bni_lut_words)(bits)))
  #define BNI_LUT_STORE(p, a) memcpy(p, &(a), sizeof(a))
  #if BNI_ISA == BNI_ISA_WASM
    #define BNI_LUT_PICK(t, i) ((bni_lut)wasm_i8x16_swizzle((v128_t)(t), (v128_t)(i)))
    #define BNI_LUT_ZIP_LOW(a, b) ((bni_lut)wasm_i8x16_shuffle((v128_t)(a), (v128_t)(b), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23))
    #define BNI_LUT_ZIP_HIGH(a, b) ((bni_lut)wasm_i8x16_shuffle((v128_t)(a), (v128_t)(b), 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31))
  #else
    #define BNI_LUT_PICK(t, i) ((bni_lut)vqtbl1q_u8((uint8x16_t)(t), (uint8x16_t)(i)))
    #define BNI_LUT_ZIP_LOW(a, b) ((bni_lut)vzip1q_u8((uint8x16_t)(a), (uint8x16_t)(b)))
    #define BNI_LUT_ZIP_HIGH(a, b) ((bni_lut)vzip2q_u8((uint8x16_t)(a), (uint8x16_t)(b)))
  #endif
#else
  #if BNI_ISA == BNI_ISA_SSSE3
    #define BNI_LUT_STRIPS 1
    #define BNI_LUT_MM(name) _mm_##name
typedef __m128i BNI_FN(bni_lut);
    #define BNI_LUT_LOAD(p, away) _mm_loadu_si128((const __m128i *)(const void *)(p))
    #define BNI_LUT_ALL(p) BNI_LUT_LOAD(p, 0)
    #define BNI_LUT_STORE(p, a) _mm_storeu_si128((__m128i *)(void *)(p), a)
    #define BNI_LUT_AND(a, b) _mm_and_si128(a, b)
    #define BNI_LUT_XOR(a, b) _mm_xor_si128(a, b)
  #else
    #define BNI_LUT_STRIPS 2
    #define BNI_LUT_MM(name) _mm256_##name
typedef __m256i BNI_FN(bni_lut);
    #define BNI_LUT_HALF(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
    #define BNI_LUT_LOAD(p, away) _mm256_inserti128_si256(_mm256_castsi128_si256(BNI_LUT_HALF(p)), BNI_LUT_HALF((p) + (away)), 1)
    #define BNI_LUT_ALL(p) _mm256_broadcastsi128_si256(BNI_LUT_HALF(p))
    #define BNI_LUT_STORE(p, a) _mm256_storeu_si256((__m256i *)(void *)(p), a)
    #define BNI_LUT_AND(a, b) _mm256_and_si256(a, b)
    #define BNI_LUT_XOR(a, b) _mm256_xor_si256(a, b)
  #endif
  #define BNI_LUT_LOW(a) BNI_LUT_AND(a, BNI_LUT_MM(set1_epi8)(15))
  #define BNI_LUT_HIGH(a) BNI_LUT_LOW(BNI_LUT_MM(srli_epi16)(a, 4))
  #define BNI_LUT_ADD(a, b) BNI_LUT_MM(add_epi16)(a, b)
  #define BNI_LUT_SUB(a, b) BNI_LUT_MM(sub_epi16)(a, b)
  #define BNI_LUT_SIGN(a, bits) BNI_LUT_MM(cmpeq_epi16)(BNI_LUT_AND(a, bits), bits)
  #define BNI_LUT_PICK(t, i) BNI_LUT_MM(shuffle_epi8)(t, i)
  #define BNI_LUT_ZIP_LOW(a, b) BNI_LUT_MM(unpacklo_epi8)(a, b)
  #define BNI_LUT_ZIP_HIGH(a, b) BNI_LUT_MM(unpackhi_epi8)(a, b)
#endif
#ifndef BNI_LUT_XOR
  #define BNI_LUT_XOR(a, b) ((a) ^ (b))
#endif
#define bni_lut_table BNI_FN(bni_lut_table)
#define bni_lut_tables BNI_FN(bni_lut_tables)
#define bni_lut_strips BNI_FN(bni_lut_strips)
#define bni_lut_matmul BNI_FN(bni_lut_matmul)
#define bni_lut BNI_FN(bni_lut)
#define bni_lut_words BNI_FN(bni_lut_words)
typedef int16_t bni_lut_words __attribute__((vector_size(16)));

/* Which bytes of a block's sign words go to all rows, by group; and the bits of rows 0-7 and 8-15 in them. */
#define BNI_LUT_8(g) 2 * (g), 2 * (g) + 1, 2 * (g), 2 * (g) + 1, 2 * (g), 2 * (g) + 1, 2 * (g), 2 * (g) + 1
#define BNI_LUT_16(g) {BNI_LUT_8(g), BNI_LUT_8(g)}
static const uint8_t BNI_FN(bni_lut_spread)[8][16] = {BNI_LUT_16(0), BNI_LUT_16(1), BNI_LUT_16(2), BNI_LUT_16(3),
                                                     BNI_LUT_16(4), BNI_LUT_16(5), BNI_LUT_16(6), BNI_LUT_16(7)};
static const uint8_t BNI_FN(bni_lut_bits)[2][16] = {{1, 0, 2, 0, 4, 0, 8, 0, 16, 0, 32, 0, 64, 0, 128, 0},
                                                   {0, 1, 0, 2, 0, 4, 0, 8, 0, 16, 0, 32, 0, 64, 0, 128}};
#undef BNI_LUT_8
#undef BNI_LUT_16

/* The table of a group with activations x [wide]: 16 low bytes, then 16 high bytes. */
BNI_VINLINE void bni_lut_table(const int wide, uint8_t *to, const int16_t *x)
{
    const bni_lut_words zero = {0, 0, 0, 0, 0, 0, 0, 0};
    bni_lut_words half[2] = {zero, zero};
    int h, c, i;
    BNI_UNROLL for (h = 0; h < 2; h++)
        BNI_UNROLL for (c = 0; c < wide; c++) {
            const bni_lut_words all = {x[c], x[c], x[c], x[c], x[c], x[c], x[c], x[c]};
            bni_lut_words w;
            memcpy(&w, &bni_lut_weights[wide - 2][c][8 * h], sizeof w);
            half[h] += w * all;
        }
#if BNI_ISA == BNI_ISA_NEON
    i = 0;
    vst1q_u8(to, vuzp1q_u8((uint8x16_t)half[0], (uint8x16_t)half[1]));
    vst1q_u8(to + 16, vuzp2q_u8((uint8x16_t)half[0], (uint8x16_t)half[1]));
    (void)i;
#elif BNI_ISA < BNI_ISA_NEON
    i = 255;
    _mm_storeu_si128((__m128i *)(void *)to, _mm_packus_epi16(_mm_and_si128((__m128i)half[0], _mm_set1_epi16((short)i)),
                                                             _mm_and_si128((__m128i)half[1], _mm_set1_epi16((short)i))));
    _mm_storeu_si128((__m128i *)(void *)(to + 16), _mm_packus_epi16(_mm_srli_epi16((__m128i)half[0], 8), _mm_srli_epi16((__m128i)half[1], 8)));
#else
    for (i = 0; i < 16; i++) {
        to[i] = (uint8_t)(half[i / 8][i % 8] & 255);
        to[16 + i] = (uint8_t)(half[i / 8][i % 8] >> 8 & 255);
    }
#endif
}

/* Tables of groups g to g + n - 1 of a token; of the rest of the last block, zeros. */
BNI_VINLINE void bni_lut_tables(const int wide, uint8_t *to, const int8_t *x, int n_cols, int n_tokens, int t, int g, int n)
{
    int i, c;
    for (i = 0; i < (n + 7) / 8 * 8; i++, to += 32) {
        int16_t v[3];
        BNI_UNROLL for (c = 0; c < wide; c++)
            v[c] = (int16_t)(i < n ? bni_lut_x(x, n_cols, n_tokens, t, (g + i) * wide + c) : 0);
        bni_lut_table(wide, to, v);
    }
}

/* Adds the groups of n_blocks blocks of a strip to y [16], and of another, `away` bytes further, to y_far. */
BNI_VINLINE void bni_lut_strips(const int wide, int32_t *y, int32_t *y_far, const uint8_t *w, size_t away, int n_blocks,
                                const uint8_t *tables)
{
    const bni_lut bits[2] = {BNI_LUT_ALL(BNI_FN(bni_lut_bits)[0]), BNI_LUT_ALL(BNI_FN(bni_lut_bits)[1])};
    int32_t sum[2][16] = {{0}, {0}};
    int b, last, v, h, i;
    for (b = 0; b < n_blocks;) {
        bni_lut acc[2] = {BNI_LUT_SUB(bits[0], bits[0]), BNI_LUT_SUB(bits[0], bits[0])};
        int16_t part[2][8 * BNI_LUT_STRIPS];
        for (last = b + BNI_LUT_RUN < n_blocks ? b + BNI_LUT_RUN : n_blocks; b < last; b++, w += wide == 3 ? 80 : 64) {
            const bni_lut signs = wide == 3 ? BNI_LUT_LOAD(w + 64, away) : bits[0];
            __builtin_prefetch(w + 2048, 0, 3);
            __builtin_prefetch(w + away + 2048, 0, 3);
            BNI_UNROLL for (v = 0; v < 4; v++) {
                const bni_lut two = BNI_LUT_LOAD(w + 16 * v, away);
                BNI_UNROLL for (h = 0; h < 2; h++, tables += 32) {
                    const bni_lut entry = h ? BNI_LUT_HIGH(two) : BNI_LUT_LOW(two);
                    const bni_lut low = BNI_LUT_PICK(BNI_LUT_ALL(tables), entry), high = BNI_LUT_PICK(BNI_LUT_ALL(tables + 16), entry);
                    bni_lut a = BNI_LUT_ZIP_LOW(low, high), c = BNI_LUT_ZIP_HIGH(low, high);
                    if (wide == 3) {
                        const bni_lut word = BNI_LUT_PICK(signs, BNI_LUT_ALL(BNI_FN(bni_lut_spread)[2 * v + h]));
                        const bni_lut m = BNI_LUT_SIGN(word, bits[0]), n = BNI_LUT_SIGN(word, bits[1]);
                        a = BNI_LUT_SUB(BNI_LUT_XOR(a, m), m);
                        c = BNI_LUT_SUB(BNI_LUT_XOR(c, n), n);
                    }
                    acc[0] = BNI_LUT_ADD(acc[0], a);
                    acc[1] = BNI_LUT_ADD(acc[1], c);
                }
            }
        }
        BNI_LUT_STORE(part[0], acc[0]);
        BNI_LUT_STORE(part[1], acc[1]);
        BNI_UNROLL for (h = 0; h < BNI_LUT_STRIPS; h++)
            for (i = 0; i < 8; i++) {
                sum[h][i] += part[0][8 * h + i];
                sum[h][8 + i] += part[1][8 * h + i];
            }
    }
    for (i = 0; i < 16; i++)
        y[i] += sum[0][i];
    for (i = 0; i < 16 && BNI_LUT_STRIPS == 2 && y_far; i++)
        y_far[i] += sum[1][i];
}

/* Token by token, BNI_LUT_GROUPS groups at a time; strips s and s + n/2 together, of which an odd count sees one twice. */
BNI_VINLINE void bni_lut_matmul(const int wide, int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols,
                                const int8_t *x, int n_tokens, uint8_t *tables)
{
    const size_t strip = (size_t)bni_strip_bytes(wide == 3 ? BNI_TL2 : BNI_TL1, (uint64_t)n_cols);
    const int second = BNI_LUT_STRIPS == 2 ? n_strips / 2 : 0, n_groups = (n_cols + wide - 1) / wide;
    int t, g, s, i;
    for (t = 0; t < n_tokens; t++, y += ldy) {
        const int32_t sum = bni_lut_sum(x, n_cols, n_tokens, t);
        for (i = 0; i < 16 * n_strips; i++)
            y[i] = sum;
        for (g = 0; g < n_groups; g += BNI_LUT_GROUPS) {
            const int n = n_groups - g < BNI_LUT_GROUPS ? n_groups - g : BNI_LUT_GROUPS;
            bni_lut_tables(wide, tables, x, n_cols, n_tokens, t, g, n);
            for (s = 0; s < n_strips - second; s++)
                bni_lut_strips(wide, y + 16 * s, s == 0 && n_strips % 2 ? NULL : y + 16 * (s + second),
                               w + (size_t)s * strip + (size_t)(g / 8 * (wide == 3 ? 80 : 64)), (size_t)second * strip, (n + 7) / 8, tables);
        }
    }
}

static void BNI_FN(bni_matmul_tl1)(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                                   int n_tokens, uint8_t *panel)
{
    bni_lut_matmul(2, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
}

static void BNI_FN(bni_matmul_tl2)(int32_t *y, int ldy, const uint8_t *w, int n_strips, int n_cols, const int8_t *x,
                                   int n_tokens, uint8_t *panel)
{
    bni_lut_matmul(3, y, ldy, w, n_strips, n_cols, x, n_tokens, panel);
}

#undef bni_lut
#undef bni_lut_words
#undef bni_lut_table
#undef bni_lut_tables
#undef bni_lut_strips
#undef bni_lut_matmul
#undef BNI_LUT_STRIPS
#undef BNI_LUT_MM
#undef BNI_LUT_HALF
#undef BNI_LUT_LOAD
#undef BNI_LUT_ALL
#undef BNI_LUT_STORE
#undef BNI_LUT_AND
#undef BNI_LUT_XOR
#undef BNI_LUT_LOW
#undef BNI_LUT_HIGH
#undef BNI_LUT_ADD
#undef BNI_LUT_SUB
#undef BNI_LUT_SIGN
#undef BNI_LUT_PICK
#undef BNI_LUT_ZIP_LOW
#undef BNI_LUT_ZIP_HIGH
#endif

/* --------------------------------------------------------------------------------- the output matrix's first pass */

#if BNI_WHOLE

/* Four columns of 16 rows of bytes times those of both planes, `rest` bytes apart. */
BNI_VINLINE void bni_plane_step(bni_vp acc[2], const uint8_t *w, const int8_t *x, int rest)
{
#if BNI_ISA == BNI_ISA_AVX512
    const bni_vi bytes = bni_vi_load(w), x0 = BNI_FOUR(x), x1 = BNI_FOUR(x + rest);
    BNI_DOT4(acc[0], bytes, x0);
    BNI_DOT4(acc[1], bytes, x1);
#else
    /* Even and odd bytes as int16, multiplied in pairs: exact where pmaddubsw's int16 would overflow. */
    const bni_vi bytes = bni_vi_load(w), low = bni_vi_set(0x00ff00ff);
    const bni_vi even = bni_vi_and(bytes, low), odd = bni_vi_and(bni_vi_shr(bytes, 8), low);
    int p;
    BNI_UNROLL for (p = 0; p < 2; p++, x += rest) {
        acc[p] = bni_vp_add(acc[p], even, bni_vi_set((int32_t)((uint32_t)x[2] << 16 | (uint16_t)x[0])));
        acc[p] = bni_vp_add(acc[p], odd, bni_vi_set((int32_t)((uint32_t)x[3] << 16 | (uint16_t)x[1])));
    }
#endif
}

/* As the reference. The maximum of the bits' magnitudes is that of the floats, and a NaN shows in the sums. */
static void BNI_FN(bni_plane_row)(float *w, float about[3], int type, const uint8_t *row, int n)
{
    bni_vi max = bni_vi_set(0);
    bni_vf length = bni_vf_set(0.0f), error = length, inverse, scale;
    float largest;
    int i;
    for (i = 0; i < n; i += 16) {
        float tail[16];
        bni_vf v;
        if (n - i < 16) bni_weights_tail(tail, type, row, i, n);
        v = n - i < 16 ? bni_vf_load(tail) : bni_weights(type, row, i);
        max = bni_vi_max(max, bni_vf_magnitude(v));
        bni_vf_store(w + i, v);
    }
    largest = bni_bits_float((uint32_t)bni_vi_highest(max));
    about[0] = largest < 1e-30f ? 0.0f : largest / 127.0f;
    scale = bni_vf_set(about[0]);
    inverse = bni_vf_set(largest < 1e-30f ? 0.0f : 1.0f / about[0]);
    for (i = 0; i < n; i += 16) {
        const bni_vf v = bni_vf_load(w + i), whole = bni_vf_from_int(bni_vf_round(bni_vf_mul(v, inverse)));
        const bni_vf e = bni_vf_sub(v, bni_vf_mul(whole, scale));
        length = bni_vf_add(length, bni_vf_mul(v, v));
        error = bni_vf_add(error, bni_vf_mul(e, e));
    }
    about[1] = bni_vf_sum(length);
    about[2] = bni_vf_sum(error);
}

/* 16 rows' sums over both planes as floats. */
BNI_VINLINE void bni_plane_scaled(float *y, const float *scale, const bni_split *x, bni_vi sum, bni_vi rest)
{
    const bni_vf a = bni_vf_from_int(bni_vi_sub(sum, bni_vi_set(x->bias[0])));
    const bni_vf b = bni_vf_from_int(bni_vi_sub(rest, bni_vi_set(x->bias[1])));
    const bni_vf both = bni_vf_add(bni_vf_mul(bni_vf_set(x->s[0]), a), bni_vf_mul(bni_vf_set(x->s[1]), b));
    bni_vf_store(y, bni_vf_mul(bni_vf_load(scale), both));
}

/* Two strips, `away` bytes apart, times n tokens (a constant); rows r.. and r + second.. of y. */
BNI_VINLINE void bni_plane_tile(const int n, float *const *y, int r, int second, const uint8_t *w, size_t away,
                                const float *scale, int n_cols, const bni_split *x)
{
    const int rest = bni_split_stride(n_cols);
    bni_vp acc[2 * 4][2];
    int k, i, t;
    BNI_UNROLL for (i = 0; i < 2 * n; i++)
        acc[i][0] = acc[i][1] = bni_vp_zero();
    for (k = 0; k < n_cols; k += 4, w += 64) {
        __builtin_prefetch(w + 1024, 0, 3);
        __builtin_prefetch(w + away + 1024, 0, 3);
        __builtin_prefetch(w + 4096, 0, 2);
        __builtin_prefetch(w + away + 4096, 0, 2);
        BNI_UNROLL for (t = 0; t < n; t++) {
            bni_plane_step(acc[2 * t], w, x[t].x + k, rest);
            bni_plane_step(acc[2 * t + 1], w + away, x[t].x + k, rest);
        }
    }
    BNI_UNROLL for (i = 0; i < 2 * n; i++) {
        const int at = r + (i & 1 ? second : 0);
        bni_plane_scaled(y[i / 2] + at, scale + at, &x[i / 2], bni_vp_sum(acc[i][0]), bni_vp_sum(acc[i][1]));
    }
}

/* All tokens, as many at a time as the registers hold; from the second time on the strips come from the cache. */
static void BNI_FN(bni_plane_rows)(float *const *y, const uint8_t *strips, const float *scale, int n_strips, int n_cols,
                                   const bni_split *x, int n_tokens)
{
    const size_t strip = 16 * (size_t)n_cols, away = (size_t)(n_strips / 2) * strip;
    const int second = n_strips / 2 * 16;
    int s, t;
    for (s = 0; s < (n_strips + 1) / 2; s++, strips += strip)
        for (t = 0; t < n_tokens;) {
#if BNI_ISA == BNI_ISA_AVX512
            if (n_tokens - t >= 4) {
                bni_plane_tile(4, y + t, 16 * s, second, strips, away, scale, n_cols, x + t);
                t += 4;
                continue;
            }
            if (n_tokens - t >= 2) {
                bni_plane_tile(2, y + t, 16 * s, second, strips, away, scale, n_cols, x + t);
                t += 2;
                continue;
            }
#endif
            bni_plane_tile(1, y + t, 16 * s, second, strips, away, scale, n_cols, x + t);
            t++;
        }
}

static int BNI_FN(bni_plane_seek)(const float *y, const float *error, const float *length, const float by[2], float least,
                                  int r, int last)
{
    const bni_vf by_error = bni_vf_set(by[0]), by_length = bni_vf_set(by[1]);
    for (; r < last; r += 16) {
        const bni_vf of_error = bni_vf_mul(bni_vf_load(error + r), by_error);
        const bni_vf of_length = bni_vf_mul(bni_vf_load(length + r), by_length);
        if (bni_vf_highest(bni_vf_add(bni_vf_load(y + r), bni_vf_add(of_error, of_length))) >= least)
            break;
    }
    return r;
}

/* Four at a time, as nearly all are dismissed. */
static int BNI_FN(bni_seek)(const float *x, float above, int i, int n)
{
    for (; i + 64 <= n; i += 64)
        if (bni_vf_highest(bni_vf_max(bni_vf_max(bni_vf_load(x + i), bni_vf_load(x + i + 16)),
                                      bni_vf_max(bni_vf_load(x + i + 32), bni_vf_load(x + i + 48)))) > above)
            break;
    for (; i < n; i += 16)
        if (bni_vf_highest(bni_vf_load(x + i)) > above)
            break;
    return i;
}

#if BNI_ISA == BNI_ISA_AVX512 && BNI_HAVE_AMX
/* What tiles have summed, [n_tokens][2 planes][16 rows], as floats. */
static void bni_plane_sums_avx512(float *const *y, int at, const float *scale, const bni_split *x, int n_tokens,
                                  const int32_t *sums)
{
    int t;
    for (t = 0; t < n_tokens; t++, sums += 32)
        bni_plane_scaled(y[t] + at, scale + at, &x[t], bni_vi_load(sums), bni_vi_load(sums + 16));
}
#endif
#endif

#undef BNI_DOT4
#undef BNI_FOUR
#undef BNI_LAYOUT
#undef BNI_GROUPS
#undef BNI_PAIR
#undef BNI_TABLE
#undef bni_block_decode

#define BNI_STRING_(x) #x
#define BNI_STRING(x) BNI_STRING_(x)
/* A set of this pass, in the order of the struct's members; the functions that base brings are not compiled again. */
#define BNI_SET(name, base, layout, r16, t5, tiles_r16, tiles_t5, attend, rows, plane_rows) \
    {BNI_STRING(name), layout, BNI_PASTE(bni_rms_norm, base), BNI_PASTE(bni_max_abs, base), BNI_PASTE(bni_quantize_i8, base), BNI_PASTE(bni_quantize_i16, base), \
     {r16, t5, BNI_PASTE(bni_matmul_tl1, base), BNI_PASTE(bni_matmul_tl2, base)}, \
     {tiles_r16, tiles_t5, NULL, NULL}, BNI_PASTE(bni_rescale, base), BNI_PASTE(bni_rope, base), attend, rows, \
     BNI_PASTE(bni_dot_rows, base), plane_rows, BNI_PASTE(bni_plane_row, base), BNI_PASTE(bni_plane_seek, base), \
     BNI_PASTE(bni_seek, base), BNI_PASTE(bni_gather, base)}
#if BNI_WHOLE
BNI_UNUSED static const bni_kernels BNI_FN(bni_kernels) =
    BNI_SET(BNI_SUFFIX, BNI_SUFFIX, BNI_R16, BNI_FN(bni_matmul_r16), bni_ref_matmul_t5, NULL, NULL,
            BNI_FN(bni_attend), BNI_ATTEND_ROWS, BNI_FN(bni_plane_rows));
#elif BNI_ISA >= BNI_ISA_NEON
BNI_UNUSED static const bni_kernels BNI_FN(bni_kernels) =
    BNI_SET(BNI_SUFFIX, neon, BNI_R16, BNI_FN(bni_matmul_r16), bni_ref_matmul_t5, NULL, NULL, bni_attend_neon,
            BNI_ATTEND_ROWS, bni_plane_rows_neon);
#else
BNI_UNUSED static const bni_kernels bni_kernels_avx512vbmi =
    BNI_SET(avx512vbmi, avx512, BNI_T5, bni_matmul_r16_avx512, bni_matmul_t5_avx512vbmi, NULL, NULL,
            bni_attend_avx512, BNI_ATTEND_ROWS, bni_plane_rows_avx512);
  #if BNI_HAVE_AMX
BNI_UNUSED static const bni_kernels bni_kernels_amx =
    BNI_SET(amx, avx512, BNI_T5, bni_matmul_r16_avx512, bni_matmul_t5_avx512vbmi, bni_tiles_r16, bni_tiles_t5,
            bni_tiles_attend, BNI_ATTEND_MOST, bni_tiles_plane);
  #endif
#endif
#undef BNI_SET
#undef BNI_WHOLE
#undef BNI_PARTS
#undef BNI_MM
#undef BNI_LOADI
#undef BNI_STOREI
#undef BNI_EACH
#undef BNI_LANES
#undef BNI_SPLAT
#undef BNI_EVEN
#undef BNI_ODD
#undef BNI_ZIP_LOW
#undef BNI_ZIP_HIGH
#undef BNI_VSETTLE
#undef BNI_TILE_ROWS
#undef BNI_TILE_VECTORS
#undef BNI_TILE_DOT_ROWS
#undef BNI_TILE_LOAD
#undef BNI_TILE_STREAM
#undef BNI_TILE_STORE
#undef BNI_TILE_ZERO
#undef BNI_TILE_MUL
#undef BNI_TILE_DOT
#undef BNI_TILE_AWAKE

#if !defined(__clang__)
  #pragma GCC pop_options
#elif BNI_ISA != BNI_ISA_NEON && BNI_ISA != BNI_ISA_WASM
  #pragma clang attribute pop
#endif
#endif /* BNI_ISA */
#if !defined(BNI_ISA)
#ifdef BITNET_IMPLEMENTATION
/* ======================================================================================================
   >>dispatch    Which kernel sets exist, which of them this CPU runs
   ======================================================================================================
   #if decides what is compiled, the CPU what is chosen, and the chosen table is stored in the model: nothing here is
   global. To add an instruction set: a number, its BNI_HAVE_ line, an instantiation, a row of bni_kernel_sets.

   BITNET_NO_SIMD leaves the scalar set alone; BITNET_NO_AVX2 and the like drop one; BITNET_ONLY_AVX2 and the like keep
   one and drop the rest at compile time. */

#define BNI_ISA_SCALAR 1
#define BNI_ISA_SSSE3 2
#define BNI_ISA_AVX2 3
#define BNI_ISA_AVXVNNI 4
#define BNI_ISA_AVX512 5
#define BNI_ISA_AVX512VBMI 6
#define BNI_ISA_AMX 7
#define BNI_ISA_NEON 8
#define BNI_ISA_DOTPROD 9
#define BNI_ISA_I8MM 10
#define BNI_ISA_WASM 11

#if defined(BITNET_ONLY_SCALAR)
  #define BNI_ONLY BNI_ISA_SCALAR
#elif defined(BITNET_ONLY_SSSE3)
  #define BNI_ONLY BNI_ISA_SSSE3
#elif defined(BITNET_ONLY_AVX2)
  #define BNI_ONLY BNI_ISA_AVX2
#elif defined(BITNET_ONLY_AVXVNNI)
  #define BNI_ONLY BNI_ISA_AVXVNNI
#elif defined(BITNET_ONLY_AVX512)
  #define BNI_ONLY BNI_ISA_AVX512
#elif defined(BITNET_ONLY_AVX512VBMI)
  #define BNI_ONLY BNI_ISA_AVX512VBMI
#elif defined(BITNET_ONLY_AMX)
  #define BNI_ONLY BNI_ISA_AMX
#elif defined(BITNET_ONLY_NEON)
  #define BNI_ONLY BNI_ISA_NEON
#elif defined(BITNET_ONLY_DOTPROD)
  #define BNI_ONLY BNI_ISA_DOTPROD
#elif defined(BITNET_ONLY_I8MM)
  #define BNI_ONLY BNI_ISA_I8MM
#elif defined(BITNET_ONLY_WASM)
  #define BNI_ONLY BNI_ISA_WASM
#else
  #define BNI_ONLY 0
#endif
#define BNI_WANTED(isa) (BNI_ONLY == 0 || BNI_ONLY == (isa))

/* x86 vectors need gcc's or clang's target pragmas, operators on vectors and asm. mingw's gcc spills 32 and 64 byte
   registers to a stack that Windows aligns to 16 (gcc bug 54412, still there in gcc 12): there, nothing wider than 128
   bits. BNI_X87 (>>platform): the build's own floats live in the x87 unit, ours in SSE, and intrinsics don't cross that
   line. */
#if !defined(BITNET_NO_SIMD) && BNI_X86 && defined(__GNUC__) && !defined(BNI_X87)
  #define BNI_NARROW_X86 1
#else
  #define BNI_NARROW_X86 0
#endif
#if BNI_NARROW_X86 && (!defined(_WIN32) || defined(__clang__))
  #define BNI_WIDE_X86 1
#else
  #define BNI_WIDE_X86 0
#endif
#if BNI_NARROW_X86 && !defined(BITNET_NO_SSSE3)
  #define BNI_HAVE_SSSE3 BNI_WANTED(BNI_ISA_SSSE3)
#else
  #define BNI_HAVE_SSSE3 0
#endif
#if BNI_WIDE_X86 && !defined(BITNET_NO_AVX2)
  #define BNI_HAVE_AVX2 BNI_WANTED(BNI_ISA_AVX2)
#else
  #define BNI_HAVE_AVX2 0
#endif
#if BNI_WIDE_X86 && BNI_NEW_ASM && !defined(BITNET_NO_AVXVNNI)
  #define BNI_HAVE_AVXVNNI BNI_WANTED(BNI_ISA_AVXVNNI)
#else
  #define BNI_HAVE_AVXVNNI 0
#endif
#if BNI_WIDE_X86 && !defined(BITNET_NO_AVX512)
  #define BNI_HAVE_AVX512 BNI_WANTED(BNI_ISA_AVX512)
#else
  #define BNI_HAVE_AVX512 0
#endif
#if BNI_WIDE_X86 && !defined(BITNET_NO_AVX512VBMI)
  #define BNI_HAVE_AVX512VBMI BNI_WANTED(BNI_ISA_AVX512VBMI)
#else
  #define BNI_HAVE_AVX512VBMI 0
#endif
#if BNI_WIDE_X86 && BNI_AMX && !defined(BITNET_NO_AMX)
  #define BNI_HAVE_AMX BNI_WANTED(BNI_ISA_AMX)
#else
  #define BNI_HAVE_AMX 0
#endif
#define BNI_NEED_AVX512 (BNI_HAVE_AVX512 || BNI_HAVE_AVX512VBMI || BNI_HAVE_AMX)     /* compiled, if not offered */
#define BNI_HAVE_X86 (BNI_HAVE_SSSE3 || BNI_HAVE_AVX2 || BNI_HAVE_AVXVNNI || BNI_NEED_AVX512)

/* Every AArch64 processor has NEON. dotprod: sdot, Armv8.4 and many of 8.2. i8mm: smmla, Armv8.6. */
#if !defined(BITNET_NO_SIMD) && BNI_ARM64 && defined(__GNUC__) && !BNI_BIG_ENDIAN
  #define BNI_SIMD_ARM 1
#else
  #define BNI_SIMD_ARM 0
#endif
#if BNI_SIMD_ARM && !defined(BITNET_NO_NEON)
  #define BNI_HAVE_NEON BNI_WANTED(BNI_ISA_NEON)
#else
  #define BNI_HAVE_NEON 0
#endif
#if BNI_SIMD_ARM && BNI_DOTPROD_ASM && !defined(BITNET_NO_DOTPROD)
  #define BNI_HAVE_DOTPROD BNI_WANTED(BNI_ISA_DOTPROD)
#else
  #define BNI_HAVE_DOTPROD 0
#endif
#if BNI_SIMD_ARM && BNI_I8MM_ASM && !defined(BITNET_NO_I8MM)
  #define BNI_HAVE_I8MM BNI_WANTED(BNI_ISA_I8MM)
#else
  #define BNI_HAVE_I8MM 0
#endif
#define BNI_NEED_NEON (BNI_HAVE_NEON || BNI_HAVE_DOTPROD || BNI_HAVE_I8MM)

/* WebAssembly says at compile time what it runs: SIMD128 with -msimd128. */
#if !defined(BITNET_NO_SIMD) && defined(__wasm_simd128__) && !defined(BITNET_NO_WASM)
  #define BNI_HAVE_WASM BNI_WANTED(BNI_ISA_WASM)
#else
  #define BNI_HAVE_WASM 0
#endif
#define BNI_HAVE_SCALAR BNI_WANTED(BNI_ISA_SCALAR)
#if BNI_ONLY != 0 && !BNI_HAVE_SCALAR && !BNI_HAVE_X86 && !BNI_NEED_NEON && !BNI_HAVE_WASM
  #error "bitnet.h: the instruction set of BITNET_ONLY_... can't be compiled here; remove the macro or choose another"
#endif

#define BNI_PASTE_(a, b) a##_##b
#define BNI_PASTE(a, b) BNI_PASTE_(a, b)
#define BNI_FN(name) BNI_PASTE(name, BNI_SUFFIX)

#if BNI_HAVE_X86
  #include <immintrin.h>
#endif

/* gcc 12 warns of uninitialised variables inside its own AVX-512 intrinsics (gcc bug 105593). */
#if BNI_NEED_AVX512 && !defined(__clang__)
  #pragma GCC diagnostic push
  #pragma GCC diagnostic ignored "-Wuninitialized"
  #pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/* gcc without -O compiles every intrinsic into loads and stores: 0.3 GB/s of weights instead of 13, so the kernels
   alone are optimised then. Asked once, because gcc 12 leaves the macro defined when the pragma is popped. */
#ifndef __OPTIMIZE__
  #define BNI_UNOPTIMISED 1
#endif
#if BNI_HAVE_SSSE3
  #define BNI_ISA BNI_ISA_SSSE3
  #define BNI_SUFFIX ssse3
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_HAVE_AVX2
  #define BNI_ISA BNI_ISA_AVX2
  #define BNI_SUFFIX avx2
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_HAVE_AVXVNNI
  #define BNI_ISA BNI_ISA_AVXVNNI
  #define BNI_SUFFIX avxvnni
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_NEED_AVX512
  #define BNI_ISA BNI_ISA_AVX512
  #define BNI_SUFFIX avx512
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_HAVE_AVX512VBMI || BNI_HAVE_AMX
  #define BNI_ISA BNI_ISA_AVX512VBMI
  #define BNI_SUFFIX avx512vbmi
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_NEED_NEON
  #define BNI_ISA BNI_ISA_NEON
  #define BNI_SUFFIX neon
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_HAVE_DOTPROD
  #define BNI_ISA BNI_ISA_DOTPROD
  #define BNI_SUFFIX dotprod
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_HAVE_I8MM
  #define BNI_ISA BNI_ISA_I8MM
  #define BNI_SUFFIX i8mm
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif
#if BNI_HAVE_WASM
  #define BNI_ISA BNI_ISA_WASM
  #define BNI_SUFFIX wasm
  #include BITNET_HEADER_FILENAME
  #undef BNI_SUFFIX
  #undef BNI_ISA
#endif

#if defined(BNI_UNOPTIMISED) && defined(__OPTIMIZE__)
  #undef __OPTIMIZE__                /* or headers that follow would believe it */
#endif
#if BNI_NEED_AVX512 && !defined(__clang__)
  #pragma GCC diagnostic pop
#endif

BNI_UNUSED static const bni_kernels bni_kernels_scalar = {
    "scalar", BNI_R16, bni_ref_rms_norm, bni_ref_max_abs, bni_ref_quantize_i8, bni_ref_quantize_i16,
    {bni_ref_matmul_r16, bni_ref_matmul_t5, bni_ref_matmul_tl1, bni_ref_matmul_tl2}, {NULL, NULL, NULL, NULL},
    bni_ref_rescale, bni_ref_rope, bni_ref_attend, BNI_ATTEND_ROWS, bni_ref_dot_rows,
    bni_ref_plane_rows, bni_ref_plane_row, bni_ref_plane_seek, bni_ref_seek, bni_ref_gather
};

/* --------------------------------------------------------------------------------------------- what the CPU has */

#if BNI_HAVE_X86
/* eax, ebx, ecx, edx of a CPUID leaf; zeros where the CPU does not have the leaf. */
static void bni_cpuid(uint32_t leaf, uint32_t sub, uint32_t reg[4])
{
    uint32_t top, b, c, d;
    __asm__ __volatile__("cpuid" : "=a"(top), "=b"(b), "=c"(c), "=d"(d) : "0"(0u), "2"(0u));
    memset(reg, 0, 4 * sizeof reg[0]);
    if (leaf <= top)
        __asm__ __volatile__("cpuid" : "=a"(reg[0]), "=b"(reg[1]), "=c"(reg[2]), "=d"(reg[3]) : "0"(leaf), "2"(sub));
}

/* 1 if CPU and operating system run the instruction set. An operating system that does not save the wide registers says
   so in XCR0: bits 1 and 2 for xmm and ymm, 5 to 7 for the masks and zmm, 17 and 18 for tiles. */
static int bni_cpu_runs(int isa)
{
    uint32_t one[4], seven[4], more[4], xcr0, high;
    bni_cpuid(1, 0, one);
    bni_cpuid(7, 0, seven);
    bni_cpuid(7, 1, more);
    if (isa == BNI_ISA_SSSE3)
        return (int)(one[2] >> 9 & 1);
    if (!(one[2] >> 27 & 1))         /* OSXSAVE: xgetbv exists */
        return 0;
    __asm__ __volatile__(".byte 0x0f, 0x01, 0xd0" : "=a"(xcr0), "=d"(high) : "c"(0u));         /* xgetbv */
    if ((xcr0 & 6u) != 6u || !(one[2] >> 28 & 1) || !(one[2] >> 29 & 1) || !(seven[1] >> 5 & 1))
        return 0;                    /* AVX, F16C, AVX2 */
    if (isa <= BNI_ISA_AVXVNNI)
        return isa == BNI_ISA_AVX2 || (more[0] >> 4 & 1);
    if ((xcr0 & 0xe6u) != 0xe6u || !(seven[1] >> 16 & 1) || !(seven[1] >> 17 & 1) || !(seven[1] >> 30 & 1) ||
        !(seven[1] >> 31 & 1) || !(seven[2] >> 11 & 1))
        return 0;                    /* AVX-512 F, DQ, BW, VL, VNNI */
    if (isa == BNI_ISA_AVX512)
        return 1;
    if (!(seven[2] >> 1 & 1) || !(seven[2] >> 8 & 1))            /* AVX512_VBMI, GFNI */
        return 0;
    /* AMX-TILE, AMX-INT8; the tiles' configuration and data in XCR0, which is not yet the permission to use them */
    return isa == BNI_ISA_AVX512VBMI ||
           ((seven[3] >> 24 & 1) && (seven[3] >> 25 & 1) && (xcr0 & 0x60000u) == 0x60000u);
}
#elif BNI_NEED_NEON
/* 1 if CPU and operating system run the instruction set. Linux and Apple's systems tell; elsewhere the set must be in
   what the compiler was told to build for. (Tried under Linux only.) */
static int bni_cpu_runs(int isa)
{
    int dotprod = 0, i8mm = 0;
#if defined(__linux__)
    dotprod = (int)(getauxval(16) >> 20 & 1);  /* AT_HWCAP: HWCAP_ASIMDDP */
    i8mm = (int)(getauxval(26) >> 13 & 1);     /* AT_HWCAP2: HWCAP2_I8MM */
#elif defined(__APPLE__)
    size_t size = sizeof dotprod;
    if (sysctlbyname("hw.optional.arm.FEAT_DotProd", &dotprod, &size, NULL, 0) != 0)
        dotprod = 0;
    size = sizeof i8mm;
    if (sysctlbyname("hw.optional.arm.FEAT_I8MM", &i8mm, &size, NULL, 0) != 0)
        i8mm = 0;
#else
  #if defined(__ARM_FEATURE_DOTPROD)
    dotprod = 1;
  #endif
  #if defined(__ARM_FEATURE_MATMUL_INT8)
    i8mm = 1;
  #endif
#endif
    return isa == BNI_ISA_NEON || (dotprod && (isa == BNI_ISA_DOTPROD || i8mm));
}
#else
static int bni_cpu_runs(int isa) { (void)isa; return 1; }    /* WebAssembly: or it would not have loaded */
#endif

/* The sets of this build, the best last. */
static const struct { const bni_kernels *kernels; int isa; } bni_kernel_sets[] = {
#if BNI_HAVE_SCALAR
    {&bni_kernels_scalar, BNI_ISA_SCALAR},
#endif
#if BNI_HAVE_SSSE3
    {&bni_kernels_ssse3, BNI_ISA_SSSE3},
#endif
#if BNI_HAVE_AVX2
    {&bni_kernels_avx2, BNI_ISA_AVX2},
#endif
#if BNI_HAVE_AVXVNNI
    {&bni_kernels_avxvnni, BNI_ISA_AVXVNNI},
#endif
#if BNI_HAVE_AVX512
    {&bni_kernels_avx512, BNI_ISA_AVX512},
#endif
#if BNI_HAVE_AVX512VBMI
    {&bni_kernels_avx512vbmi, BNI_ISA_AVX512VBMI},
#endif
#if BNI_HAVE_AMX
    {&bni_kernels_amx, BNI_ISA_AMX},
#endif
#if BNI_HAVE_NEON
    {&bni_kernels_neon, BNI_ISA_NEON},
#endif
#if BNI_HAVE_DOTPROD
    {&bni_kernels_dotprod, BNI_ISA_DOTPROD},
#endif
#if BNI_HAVE_I8MM
    {&bni_kernels_i8mm, BNI_ISA_I8MM},
#endif
#if BNI_HAVE_WASM
    {&bni_kernels_wasm, BNI_ISA_WASM},
#endif
};

/* The i-th kernel set of this build: 1 if this CPU runs it, 0 if not, -1 past the end. *name becomes its name. */
static int bni_kernels_list(int i, const char **name)
{
    if (i < 0 || i >= (int)(sizeof bni_kernel_sets / sizeof bni_kernel_sets[0]))
        return -1;
    *name = bni_kernel_sets[i].kernels->name;
    return bni_kernel_sets[i].isa == BNI_ISA_SCALAR || bni_cpu_runs(bni_kernel_sets[i].isa);
}

/* The kernel set called name, or the best this CPU runs for NULL, "" and "auto". NULL if there is none, with the reason
   in *why: never another set than the one asked for. AMX needs allow_amx, and the system's permission, asked for here.
   */
static const bni_kernels *bni_kernels_select(const char *name, int allow_amx, const char **why)
{
    const int any = !name || !*name || strcmp(name, "auto") == 0;
    const char *found;
    int i, runs;
    *why = any ? "this CPU runs none of the kernel sets of this build" : "no kernel set of this name in this build";
    for (i = (int)(sizeof bni_kernel_sets / sizeof bni_kernel_sets[0]) - 1; i >= 0; i--) {
        runs = bni_kernels_list(i, &found);
        if (!any && strcmp(name, found) != 0)
            continue;
        *why = any ? *why : "this CPU does not run that kernel set";
#if BNI_HAVE_AMX
        if (runs == 1 && bni_kernel_sets[i].isa == BNI_ISA_AMX && !(allow_amx && bni_amx_permit() == 0)) {
            runs = 0;
            *why = any ? *why : !allow_amx ? "allow_amx is not set" : "the system refused it (a small sigaltstack?)";
        }
#endif
        if (runs == 1)
            return bni_kernel_sets[i].kernels;
    }
    (void)allow_amx;
    return NULL;
}
/* ======================================================================================================
   >>threads    The default pool behind the scheduler hook
   ======================================================================================================
   A token is some hundred short bursts of parallel work, each around 100 us. Waking sleeping threads for every
   burst costs as much as the burst (a condition variable: 70 to 90 us from call to return), handing work to
   threads that are awake and spinning costs half a microsecond. So the pool's workers spin while a step runs,
   and sleep between steps: a host that generates nothing pays nothing, and one that has other work on the cores
   gets them back at the end of every step.

   The operating system may take a core away from any thread for milliseconds. Indices are therefore not dealt
   out, they are claimed: the caller claims like any worker, and then waits only for indices that somebody has
   claimed and not finished. A worker that lost its core before claiming stalls nobody.

   Read bni_pool_work first (the claim), then bni_pool_round (the publication), then bni_pool_sleep. */

enum {
    BNI_POOL_MAX_THREADS = 1024,
    BNI_POOL_ROUND = 32768,          /* most indices published at once; longer calls run in rounds */
    BNI_POOL_QUICK_SPINS = 256,      /* some 10 us of waiting before others are offered the core */
    BNI_POOL_IDLE_NS = 100000,       /* after 100 us without work inside a step a worker sleeps all the same */
    BNI_POOL_IDLE_SPINS = 1 << 20    /* the same limit where the clock stands still */
};

#if defined(BITNET_NO_THREADS)

/* One thread: jobs run one by one, which the scheduler's contract allows. */
typedef struct bni_pool { int n_threads; } bni_pool;

BNI_UNUSED static uint64_t bni_pool_memory(int n_threads)
{
    (void)n_threads;
    return sizeof(bni_pool);
}

BNI_UNUSED static int bni_pool_start(bni_pool *p, int n_threads)
{
    p->n_threads = 1;
    return n_threads > 1 ? n_threads - 1 : 0;
}

BNI_UNUSED static void bni_pool_stop(bni_pool *p) { (void)p; }
BNI_UNUSED static void bni_pool_step_begin(void *pool) { (void)pool; }
BNI_UNUSED static void bni_pool_step_end(void *pool) { (void)pool; }

BNI_UNUSED static void bni_pool_parallel_for(void *pool, bitnet_job_fn *fn, void *job, int count)
{
    bni_fp_state host = bni_fp_enter();
    int i;
    (void)pool;
    for (i = 0; i < count; i++)
        fn(job, i);
    bni_fp_leave(host);
}

#else

/* Lives in memory of the caller, bni_pool_memory(n_threads) bytes; the threads' handles stand behind it. The
   paddings keep words that different threads write out of each other's cache lines. */
typedef struct bni_pool {
    bni_atomic ticket;               /* count << 16 | next index to claim, see bni_pool_work */
    bitnet_job_fn *fn;               /* with job and base: fixed while a claimed index is unfinished */
    void *job;
    int base;                        /* job index of the round's index 0 */
    char pad_ticket[64];
    bni_atomic sequence;             /* publications so far (mod 2^32): what idle workers watch */
    bni_atomic in_step;              /* 1 between step_begin and step_end: workers may spin */
    bni_atomic quit;
    char pad_sequence[64];
    bni_atomic done;                 /* indices of this round that are finished */
    char pad_done[64];
    bni_atomic n_asleep;             /* workers asleep, or about to be */
    bni_mutex mutex;                 /* guards falling asleep, nothing else */
    bni_cond wake;
    int n_threads;                   /* threads that run jobs, the caller's included */
    int has_mutex;
    bni_thread *threads;             /* [n_threads - 1] */
} bni_pool;

/* Threads that a pool asked for n_threads has. */
BNI_INLINE int bni_pool_clamp(int n_threads)
{
    return n_threads < 1 ? 1 : n_threads > BNI_POOL_MAX_THREADS ? BNI_POOL_MAX_THREADS : n_threads;
}

/* Bytes of a pool of n_threads, the caller's thread included; to be aligned to 64. */
BNI_UNUSED static uint64_t bni_pool_memory(int n_threads)
{
    return sizeof(bni_pool) + (uint64_t)(bni_pool_clamp(n_threads) - 1) * sizeof(bni_thread);
}

/* Claims and runs indices until none is left. Any participant may call it at any time.

   The ticket holds the round's count and the next free index in one word, so that one atomic addition claims an
   index and learns whether it exists: it does if next < count.
   - A claim that succeeds pins the round: fn, job and base were written before the ticket, and the publisher
     writes them again only when done == count, which needs this index to be finished.
   - A claim may come late, on a newer ticket than the one that was looked at. If it succeeds, it is an
     ordinary claim of the newer round: nothing was read of the older one. If it fails, it has only raised next
     past count.
   - next can't run over into count. Each participant adds only to a ticket that it has just seen open. Once one
     of its additions has failed, that ticket is exhausted, and as a thread never sees a variable go back, it sees
     it exhausted until the next publication: one failed addition per participant and round at most. So
     next <= BNI_POOL_ROUND + BNI_POOL_MAX_THREADS < 65536. */
static void bni_pool_work(bni_pool *p)
{
    uint32_t t = bni_atomic_load(&p->ticket);
    while ((t & 0xffffu) < t >> 16) {
        t = bni_atomic_add(&p->ticket, 1);
        if ((t & 0xffffu) >= t >> 16)
            return;
        p->fn(p->job, p->base + (int)(t & 0xffffu));
        bni_atomic_add(&p->done, 1);
        t = bni_atomic_load(&p->ticket);
    }
}

/* Waits inside a step. Returns when something was published, when the step has ended, or after
   BNI_POOL_IDLE_NS. Where there are more threads than cores, yielding lets those run that have work. */
static void bni_pool_spin(bni_pool *p, uint32_t seen)
{
    uint64_t start = 0, now;
    int spins;
    for (spins = 1; spins < BNI_POOL_IDLE_SPINS; spins++) {
        if (bni_atomic_load(&p->sequence) != seen || !bni_atomic_load(&p->in_step))
            return;
        bni_cpu_pause();
        if (spins < BNI_POOL_QUICK_SPINS || spins % 64 != 0)
            continue;
        bni_thread_yield();
        now = bni_time_ns();
        if (start == 0)
            start = now;
        else if (now - start > BNI_POOL_IDLE_NS)
            return;
    }
}

/* Sleeps until something is published.

   A wake-up can't be lost. The sleeper raises n_asleep and then reads sequence, the publisher raises sequence and
   then reads n_asleep; all four are sequentially consistent additions (the reads add 0), so they have one order
   that all threads agree on, and at least one side sees the other's. If the sleeper sees the new sequence, it
   doesn't sleep. If the publisher sees the sleeper, it takes the mutex, which it gets only when the sleeper waits
   on the condition, and then broadcasts. */
static void bni_pool_sleep(bni_pool *p, uint32_t seen)
{
    bni_mutex_lock(&p->mutex);
    bni_atomic_add(&p->n_asleep, 1);
    while (bni_atomic_add(&p->sequence, 0) == seen)
        bni_cond_wait(&p->wake, &p->mutex);
    bni_atomic_add(&p->n_asleep, (uint32_t)-1);
    bni_mutex_unlock(&p->mutex);
}

/* Tells the workers that there is something new: a round, a step, or the end. */
static void bni_pool_publish(bni_pool *p)
{
    bni_atomic_add(&p->sequence, 1);
    if (bni_atomic_add(&p->n_asleep, 0) == 0)
        return;
    bni_mutex_lock(&p->mutex);       /* empty on purpose: see bni_pool_sleep */
    bni_mutex_unlock(&p->mutex);
    bni_cond_broadcast(&p->wake);
}

/* A worker's whole life. The floating-point state is set once: nothing but our own jobs runs on this thread.
   sequence is read before the ticket, so a round published in between is seen again in the next turn. */
static void bni_pool_worker(void *arg)
{
    bni_pool *p = (bni_pool *)arg;
    bni_fp_state host = bni_fp_enter();
    uint32_t seen = 0;
    for (;;) {
        bni_pool_spin(p, seen);
        if (bni_atomic_load(&p->sequence) == seen)
            bni_pool_sleep(p, seen);
        seen = bni_atomic_load(&p->sequence);
        if (bni_atomic_load(&p->quit))
            break;
        bni_pool_work(p);
    }
    bni_fp_leave(host);
}

/* Starts the workers with all signals blocked, so that a host's handlers run on the host's own threads; left open
   are those that a thread's own instruction raises, which a host's crash handler wants to see. A thread inherits
   the mask of its creator, whose mask is put back. Strict C modes that hide the POSIX names do without.
   Result: workers running. */
static int bni_pool_start_workers(bni_pool *p, int n_workers)
{
    int n = 0;
#if defined(SIG_BLOCK) && (defined(__USE_POSIX199506) || !defined(__GLIBC__)) && !defined(_WIN32)
    static const int own[6] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    sigset_t blocked, host;
    int i, changed;
    sigfillset(&blocked);
    for (i = 0; i < 6; i++)
        sigdelset(&blocked, own[i]);
    changed = pthread_sigmask(SIG_SETMASK, &blocked, &host) == 0;
#endif
    while (n < n_workers && bni_thread_start(&p->threads[n], bni_pool_worker, p) == 0)
        n++;
#if defined(SIG_BLOCK) && (defined(__USE_POSIX199506) || !defined(__GLIBC__)) && !defined(_WIN32)
    if (changed)
        pthread_sigmask(SIG_SETMASK, &host, NULL);
#endif
    return n;
}

/* Starts a pool of n_threads (the caller's included; 1 .. BNI_POOL_MAX_THREADS, others are clamped) in memory of
   bni_pool_memory(n_threads) bytes. Result: how many of the threads asked for could not be started. The pool is
   correct with those it has, down to the caller alone: p->n_threads of them. */
BNI_UNUSED static int bni_pool_start(bni_pool *p, int n_threads)
{
    int n_workers = bni_pool_clamp(n_threads) - 1;
    memset(p, 0, sizeof *p);
    p->threads = (bni_thread *)(void *)(p + 1);
    p->n_threads = 1;
    if (n_workers == 0)
        return n_threads > 1 ? n_threads - 1 : 0;
    if (bni_mutex_init(&p->mutex) != 0)
        return n_threads - 1;
    if (bni_cond_init(&p->wake) != 0) {
        bni_mutex_free(&p->mutex);
        return n_threads - 1;
    }
    p->has_mutex = 1;
    p->n_threads = 1 + bni_pool_start_workers(p, n_workers);
    return n_threads - p->n_threads;
}

/* Ends and joins the workers. Not inside parallel_for. The memory is the caller's again. */
BNI_UNUSED static void bni_pool_stop(bni_pool *p)
{
    int i;
    if (!p->has_mutex)
        return;
    bni_atomic_store(&p->quit, 1);
    bni_pool_publish(p);
    for (i = 0; i < p->n_threads - 1; i++)
        bni_thread_join(&p->threads[i]);
    bni_cond_free(&p->wake);
    bni_mutex_free(&p->mutex);
    p->has_mutex = 0;
    p->n_threads = 1;
}

/* Wakes the team and lets it spin: the start of a burst of parallel_for calls. The wake-up takes up to 70 us, which pass
   while the caller works alone; nobody waits for it. */
BNI_UNUSED static void bni_pool_step_begin(void *pool)
{
    bni_pool *p = (bni_pool *)pool;
    if (p->n_threads < 2)
        return;
    bni_atomic_store(&p->in_step, 1);
    bni_pool_publish(p);
}

/* Sends the team to sleep: spinning workers look at in_step in every turn. */
BNI_UNUSED static void bni_pool_step_end(void *pool)
{
    bni_atomic_store(&((bni_pool *)pool)->in_step, 0);
}

/* Runs indices base .. base + count - 1; 2 <= count <= BNI_POOL_ROUND. The last wait is for claimed indices
   only: the caller stops claiming when none is left. */
static void bni_pool_round(bni_pool *p, bitnet_job_fn *fn, void *job, int base, int count)
{
    uint32_t spins;
    p->fn = fn;
    p->job = job;
    p->base = base;
    bni_atomic_store(&p->done, 0);
    bni_atomic_store(&p->ticket, (uint32_t)count << 16);
    bni_pool_publish(p);
    bni_pool_work(p);
    for (spins = 0; bni_atomic_load(&p->done) != (uint32_t)count; spins++) {
        bni_cpu_pause();
        if (spins >= BNI_POOL_QUICK_SPINS && spins % 32 == 0)
            bni_thread_yield();
    }
}

/* bitnet_scheduler's parallel_for with a bni_pool as user: fn(job, 0) .. fn(job, count - 1), in any order, each
   once; returns when all are done, and what they wrote is visible. One call at a time; jobs call no parallel_for.
   Works outside a step too, only slower. */
BNI_UNUSED static void bni_pool_parallel_for(void *pool, bitnet_job_fn *fn, void *job, int count)
{
    bni_pool *p = (bni_pool *)pool;
    bni_fp_state host = bni_fp_enter();
    int base = 0, i;
    if (p->n_threads > 1) {
        for (; count - base >= 2; base += i) {
            i = count - base < BNI_POOL_ROUND ? count - base : BNI_POOL_ROUND;
            bni_pool_round(p, fn, job, base, i);
        }
    }
    for (i = base; i < count; i++)
        fn(job, i);
    bni_fp_leave(host);
}

#endif /* BITNET_NO_THREADS */
/* ======================================================================================================
   >>unicode    UTF-8 and the classes of its characters
   ======================================================================================================
   Tokenizers cut text into words before they look anything up, by regular expressions over classes of characters:
   letters, numbers, spaces, punctuation. Getting a class wrong changes tokens silently, so the classes come from the
   Unicode Character Database (version 15.1), not from the C library's locale.

   Only what the expressions of >>tokenizer can tell apart is kept: eight classes instead of Unicode's thirty. The
   table is a sorted list of runs, searched by halving; ASCII, most of all text, has a short cut.

   Bytes that are not UTF-8 are an everyday thing (a cut-off file, another encoding) and no error: each such byte
   counts as one character of class OTHER and keeps its value, so that text comes back from its tokens unchanged. */

/* >= BNI_CLASS_UPPER: a letter. */
enum {
    BNI_CLASS_OTHER = 0,             /* everything else: symbols, controls, unassigned, bytes that are not UTF-8 */
    BNI_CLASS_SPACE = 1,             /* \s      property White_Space */
    BNI_CLASS_NUMBER = 2,            /* \p{N} */
    BNI_CLASS_PUNCT = 3,             /* \p{P} */
    BNI_CLASS_MARK = 4,              /* \p{M}   accents and vowel signs that combine with a letter */
    BNI_CLASS_UPPER = 5,             /* \p{Lu} \p{Lt} */
    BNI_CLASS_LOWER = 6,             /* \p{Ll} */
    BNI_CLASS_LETTER = 7,            /* \p{Lm} \p{Lo}   letters without case */
    BNI_CLASS_TURNS = 8,             /* in the table only: UPPER, LOWER, UPPER, ... as in Latin and Cyrillic blocks */
    BNI_CLASS_END = 9                /* in >>tokenizer only: past the end of the text */
};

#define BNI_BAD_CODE UINT32_MAX      /* what bni_utf8_decode makes of a byte that is not UTF-8 */

/* Bytes of the character at s [n], n > 0: 1 to 4, and its code point in *code. What no UTF-8 may hold (stray
   continuation bytes, overlong forms, surrogates, above U+10FFFF, cut-off characters) gives 1 and BNI_BAD_CODE. */
static size_t bni_utf8_decode(const uint8_t *s, size_t n, uint32_t *code)
{
    uint32_t c = s[0], low;
    size_t i, size;
    *code = c;
    if (c < 0x80)
        return 1;
    *code = BNI_BAD_CODE;
    if (c < 0xc2 || c > 0xf4)                  /* c0, c1: only in overlong forms; from f5 on: above U+10FFFF */
        return 1;
    size = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    low = size == 2 ? 0x80 : size == 3 ? 0x800 : 0x10000;
    if (n < size)
        return 1;
    c &= 0x7fu >> size;
    for (i = 1; i < size; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 1;
        c = (c << 6) | (s[i] & 0x3fu);
    }
    if (c < low || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 1;
    *code = c;
    return size;
}

/* Where each run begins, code point * 16 + class; it lasts until the next one. General_Category of Unicode 15.1 folded
   as the enumeration says, White_Space first; three or more letters in turns of upper and lower case are one run. */
static const uint32_t bni_class_runs[] = {
    0x0,0x91,0xe0,0x201,0x213,0x240,0x253,0x2b0,0x2c3,0x302,0x3a3,0x3c0,0x3f3,0x415,0x5b3,0x5e0,0x5f3,0x600,0x616,
    0x7b3,0x7c0,0x7d3,0x7e0,0x851,0x860,0xa01,0xa13,0xa20,0xa73,0xa80,0xaa7,0xab3,0xac0,0xb22,0xb40,0xb56,0xb63,0xb80,
    0xb92,0xba7,0xbb3,0xbc2,0xbf3,0xc05,0xd70,0xd85,0xdf6,0xf70,0xf86,0x1008,0x1386,0x1398,0x1496,0x14a8,0x1798,0x17f6,
    0x1815,0x1836,0x1848,0x1878,0x18a5,0x18c6,0x18e5,0x1926,0x1935,0x1956,0x1965,0x1996,0x19c5,0x19e6,0x19f5,0x1a16,
    0x1a28,0x1a78,0x1ab6,0x1ac8,0x1af8,0x1b25,0x1b46,0x1b58,0x1b85,0x1b96,0x1bb7,0x1bc5,0x1bd6,0x1c07,0x1c45,0x1c66,
    0x1c75,0x1c96,0x1ca5,0x1cc6,0x1cd8,0x1dd6,0x1de8,0x1f06,0x1f15,0x1f36,0x1f48,0x1f75,0x1f96,0x1fa8,0x2346,0x23a5,
    0x23c6,0x23d5,0x23f6,0x2418,0x2445,0x2476,0x2488,0x2506,0x2947,0x2956,0x2b07,0x2c20,0x2c67,0x2d20,0x2e07,0x2e50,
    0x2ec7,0x2ed0,0x2ee7,0x2ef0,0x3004,0x3708,0x3747,0x3750,0x3765,0x3776,0x3780,0x37a7,0x37b6,0x37e3,0x37f5,0x3800,
    0x3865,0x3873,0x3885,0x38b0,0x38c5,0x38d0,0x38e5,0x3906,0x3915,0x3a20,0x3a35,0x3ac6,0x3cf5,0x3d06,0x3d25,0x3d56,
    0x3d88,0x3f06,0x3f45,0x3f56,0x3f60,0x3f78,0x3fa5,0x3fb6,0x3fd5,0x4306,0x4608,0x4820,0x4834,0x48a8,0x4c18,0x4cf6,
    0x4d08,0x5300,0x5315,0x5570,0x5597,0x55a3,0x5606,0x5893,0x58b0,0x5914,0x5be3,0x5bf4,0x5c03,0x5c14,0x5c33,0x5c44,
    0x5c63,0x5c74,0x5c80,0x5d07,0x5eb0,0x5ef7,0x5f33,0x5f50,0x6093,0x60b0,0x60c3,0x60e0,0x6104,0x61b3,0x61c0,0x61d3,
    0x6207,0x64b4,0x6602,0x66a3,0x66e7,0x6704,0x6717,0x6d43,0x6d57,0x6d64,0x6dd0,0x6df4,0x6e57,0x6e74,0x6e90,0x6ea4,
    0x6ee7,0x6f02,0x6fa7,0x6fd0,0x6ff7,0x7003,0x70e0,0x7107,0x7114,0x7127,0x7304,0x74b0,0x74d7,0x7a64,0x7b17,0x7b20,
    0x7c02,0x7ca7,0x7eb4,0x7f47,0x7f60,0x7f73,0x7fa7,0x7fb0,0x7fd4,0x7fe0,0x8007,0x8164,0x81a7,0x81b4,0x8247,0x8254,
    0x8287,0x8294,0x82e0,0x8303,0x83f0,0x8407,0x8594,0x85c0,0x85e3,0x85f0,0x8607,0x86b0,0x8707,0x8880,0x8897,0x88f0,
    0x8984,0x8a07,0x8ca4,0x8e20,0x8e34,0x9047,0x93a4,0x93d7,0x93e4,0x9507,0x9514,0x9587,0x9624,0x9643,0x9662,0x9703,
    0x9717,0x9814,0x9840,0x9857,0x98d0,0x98f7,0x9910,0x9937,0x9a90,0x9aa7,0x9b10,0x9b27,0x9b30,0x9b67,0x9ba0,0x9bc4,
    0x9bd7,0x9be4,0x9c50,0x9c74,0x9c90,0x9cb4,0x9ce7,0x9cf0,0x9d74,0x9d80,0x9dc7,0x9de0,0x9df7,0x9e24,0x9e40,0x9e62,
    0x9f07,0x9f20,0x9f42,0x9fa0,0x9fc7,0x9fd3,0x9fe4,0x9ff0,0xa014,0xa040,0xa057,0xa0b0,0xa0f7,0xa110,0xa137,0xa290,
    0xa2a7,0xa310,0xa327,0xa340,0xa357,0xa370,0xa387,0xa3a0,0xa3c4,0xa3d0,0xa3e4,0xa430,0xa474,0xa490,0xa4b4,0xa4e0,
    0xa514,0xa520,0xa597,0xa5d0,0xa5e7,0xa5f0,0xa662,0xa704,0xa727,0xa754,0xa763,0xa770,0xa814,0xa840,0xa857,0xa8e0,
    0xa8f7,0xa920,0xa937,0xaa90,0xaaa7,0xab10,0xab27,0xab40,0xab57,0xaba0,0xabc4,0xabd7,0xabe4,0xac60,0xac74,0xaca0,
    0xacb4,0xace0,0xad07,0xad10,0xae07,0xae24,0xae40,0xae62,0xaf03,0xaf10,0xaf97,0xafa4,0xb000,0xb014,0xb040,0xb057,
    0xb0d0,0xb0f7,0xb110,0xb137,0xb290,0xb2a7,0xb310,0xb327,0xb340,0xb357,0xb3a0,0xb3c4,0xb3d7,0xb3e4,0xb450,0xb474,
    0xb490,0xb4b4,0xb4e0,0xb554,0xb580,0xb5c7,0xb5e0,0xb5f7,0xb624,0xb640,0xb662,0xb700,0xb717,0xb722,0xb780,0xb824,
    0xb837,0xb840,0xb857,0xb8b0,0xb8e7,0xb910,0xb927,0xb960,0xb997,0xb9b0,0xb9c7,0xb9d0,0xb9e7,0xba00,0xba37,0xba50,
    0xba87,0xbab0,0xbae7,0xbba0,0xbbe4,0xbc30,0xbc64,0xbc90,0xbca4,0xbce0,0xbd07,0xbd10,0xbd74,0xbd80,0xbe62,0xbf30,
    0xc004,0xc057,0xc0d0,0xc0e7,0xc110,0xc127,0xc290,0xc2a7,0xc3a0,0xc3c4,0xc3d7,0xc3e4,0xc450,0xc464,0xc490,0xc4a4,
    0xc4e0,0xc554,0xc570,0xc587,0xc5b0,0xc5d7,0xc5e0,0xc607,0xc624,0xc640,0xc662,0xc700,0xc773,0xc782,0xc7f0,0xc807,
    0xc814,0xc843,0xc857,0xc8d0,0xc8e7,0xc910,0xc927,0xca90,0xcaa7,0xcb40,0xcb57,0xcba0,0xcbc4,0xcbd7,0xcbe4,0xcc50,
    0xcc64,0xcc90,0xcca4,0xcce0,0xcd54,0xcd70,0xcdd7,0xcdf0,0xce07,0xce24,0xce40,0xce62,0xcf00,0xcf17,0xcf34,0xcf40,
    0xd004,0xd047,0xd0d0,0xd0e7,0xd110,0xd127,0xd3b4,0xd3d7,0xd3e4,0xd450,0xd464,0xd490,0xd4a4,0xd4e7,0xd4f0,0xd547,
    0xd574,0xd582,0xd5f7,0xd624,0xd640,0xd662,0xd790,0xd7a7,0xd800,0xd814,0xd840,0xd857,0xd970,0xd9a7,0xdb20,0xdb37,
    0xdbc0,0xdbd7,0xdbe0,0xdc07,0xdc70,0xdca4,0xdcb0,0xdcf4,0xdd50,0xdd64,0xdd70,0xdd84,0xde00,0xde62,0xdf00,0xdf24,
    0xdf43,0xdf50,0xe017,0xe314,0xe327,0xe344,0xe3b0,0xe407,0xe474,0xe4f3,0xe502,0xe5a3,0xe5c0,0xe817,0xe830,0xe847,
    0xe850,0xe867,0xe8b0,0xe8c7,0xea40,0xea57,0xea60,0xea77,0xeb14,0xeb27,0xeb44,0xebd7,0xebe0,0xec07,0xec50,0xec67,
    0xec70,0xec84,0xecf0,0xed02,0xeda0,0xedc7,0xee00,0xf007,0xf010,0xf043,0xf130,0xf143,0xf150,0xf184,0xf1a0,0xf202,
    0xf340,0xf354,0xf360,0xf374,0xf380,0xf394,0xf3a3,0xf3e4,0xf407,0xf480,0xf497,0xf6d0,0xf714,0xf853,0xf864,0xf887,
    0xf8d4,0xf980,0xf994,0xfbd0,0xfc64,0xfc70,0xfd03,0xfd50,0xfd93,0xfdb0,0x10007,0x102b4,0x103f7,0x10402,0x104a3,
    0x10507,0x10564,0x105a7,0x105e4,0x10617,0x10624,0x10657,0x10674,0x106e7,0x10714,0x10757,0x10824,0x108e7,0x108f4,
    0x10902,0x109a4,0x109e0,0x10a05,0x10c60,0x10c75,0x10c80,0x10cd5,0x10ce0,0x10d06,0x10fb3,0x10fc7,0x10fd6,0x11007,
    0x12490,0x124a7,0x124e0,0x12507,0x12570,0x12587,0x12590,0x125a7,0x125e0,0x12607,0x12890,0x128a7,0x128e0,0x12907,
    0x12b10,0x12b27,0x12b60,0x12b87,0x12bf0,0x12c07,0x12c10,0x12c27,0x12c60,0x12c87,0x12d70,0x12d87,0x13110,0x13127,
    0x13160,0x13187,0x135b0,0x135d4,0x13603,0x13692,0x137d0,0x13807,0x13900,0x13a05,0x13f60,0x13f86,0x13fe0,0x14003,
    0x14017,0x166d0,0x166e3,0x166f7,0x16801,0x16817,0x169b3,0x169d0,0x16a07,0x16eb3,0x16ee2,0x16f17,0x16f90,0x17007,
    0x17124,0x17160,0x171f7,0x17324,0x17353,0x17370,0x17407,0x17524,0x17540,0x17607,0x176d0,0x176e7,0x17710,0x17724,
    0x17740,0x17807,0x17b44,0x17d43,0x17d77,0x17d83,0x17db0,0x17dc7,0x17dd4,0x17de0,0x17e02,0x17ea0,0x17f02,0x17fa0,
    0x18003,0x180b4,0x180e0,0x180f4,0x18102,0x181a0,0x18207,0x18790,0x18807,0x18854,0x18877,0x18a94,0x18aa7,0x18ab0,
    0x18b07,0x18f60,0x19007,0x191f0,0x19204,0x192c0,0x19304,0x193c0,0x19443,0x19462,0x19507,0x196e0,0x19707,0x19750,
    0x19807,0x19ac0,0x19b07,0x19ca0,0x19d02,0x19db0,0x1a007,0x1a174,0x1a1c0,0x1a1e3,0x1a207,0x1a554,0x1a5f0,0x1a604,
    0x1a7d0,0x1a7f4,0x1a802,0x1a8a0,0x1a902,0x1a9a0,0x1aa03,0x1aa77,0x1aa83,0x1aae0,0x1ab04,0x1acf0,0x1b004,0x1b057,
    0x1b344,0x1b457,0x1b4d0,0x1b502,0x1b5a3,0x1b610,0x1b6b4,0x1b740,0x1b7d3,0x1b7f0,0x1b804,0x1b837,0x1ba14,0x1bae7,
    0x1bb02,0x1bba7,0x1be64,0x1bf40,0x1bfc3,0x1c007,0x1c244,0x1c380,0x1c3b3,0x1c402,0x1c4a0,0x1c4d7,0x1c502,0x1c5a7,
    0x1c7e3,0x1c806,0x1c890,0x1c905,0x1cbb0,0x1cbd5,0x1cc03,0x1cc80,0x1cd04,0x1cd33,0x1cd44,0x1ce97,0x1ced4,0x1cee7,
    0x1cf44,0x1cf57,0x1cf74,0x1cfa7,0x1cfb0,0x1d006,0x1d2c7,0x1d6b6,0x1d787,0x1d796,0x1d9b7,0x1dc04,0x1e008,0x1e966,
    0x1e9e8,0x1f006,0x1f085,0x1f106,0x1f160,0x1f185,0x1f1e0,0x1f206,0x1f285,0x1f306,0x1f385,0x1f406,0x1f460,0x1f485,
    0x1f4e0,0x1f506,0x1f580,0x1f595,0x1f5a0,0x1f5b5,0x1f5c0,0x1f5d5,0x1f5e0,0x1f5f5,0x1f606,0x1f685,0x1f706,0x1f7e0,
    0x1f806,0x1f885,0x1f906,0x1f985,0x1fa06,0x1fa85,0x1fb06,0x1fb50,0x1fb66,0x1fb85,0x1fbd0,0x1fbe6,0x1fbf0,0x1fc26,
    0x1fc50,0x1fc66,0x1fc85,0x1fcd0,0x1fd06,0x1fd40,0x1fd66,0x1fd85,0x1fdc0,0x1fe06,0x1fe85,0x1fed0,0x1ff26,0x1ff50,
    0x1ff66,0x1ff85,0x1ffd0,0x20001,0x200b0,0x20103,0x20281,0x202a0,0x202f1,0x20303,0x20440,0x20453,0x20520,0x20533,
    0x205f1,0x20600,0x20702,0x20717,0x20720,0x20742,0x207a0,0x207d3,0x207f7,0x20802,0x208a0,0x208d3,0x208f0,0x20907,
    0x209d0,0x20d04,0x20f10,0x21025,0x21030,0x21075,0x21080,0x210a6,0x210b5,0x210e6,0x21105,0x21136,0x21140,0x21155,
    0x21160,0x21195,0x211e0,0x21245,0x21250,0x21265,0x21270,0x21285,0x21290,0x212a5,0x212e0,0x212f6,0x21305,0x21346,
    0x21357,0x21396,0x213a0,0x213c6,0x213e5,0x21400,0x21455,0x21466,0x214a0,0x214e6,0x214f0,0x21502,0x21835,0x21846,
    0x21852,0x218a0,0x23083,0x230c0,0x23293,0x232b0,0x24602,0x249c0,0x24ea2,0x25000,0x27683,0x27762,0x27940,0x27c53,
    0x27c70,0x27e63,0x27f00,0x29833,0x29990,0x29d83,0x29dc0,0x29fc3,0x29fe0,0x2c005,0x2c306,0x2c608,0x2c635,0x2c656,
    0x2c678,0x2c6e5,0x2c716,0x2c725,0x2c736,0x2c755,0x2c766,0x2c7c7,0x2c7e5,0x2c816,0x2c828,0x2ce46,0x2ce50,0x2ceb8,
    0x2cef4,0x2cf25,0x2cf36,0x2cf40,0x2cf93,0x2cfd2,0x2cfe3,0x2d006,0x2d260,0x2d276,0x2d280,0x2d2d6,0x2d2e0,0x2d307,
    0x2d680,0x2d6f7,0x2d703,0x2d710,0x2d7f4,0x2d807,0x2d970,0x2da07,0x2da70,0x2da87,0x2daf0,0x2db07,0x2db70,0x2db87,
    0x2dbf0,0x2dc07,0x2dc70,0x2dc87,0x2dcf0,0x2dd07,0x2dd70,0x2dd87,0x2ddf0,0x2de04,0x2e003,0x2e2f7,0x2e303,0x2e500,
    0x2e523,0x2e5e0,0x30001,0x30013,0x30040,0x30057,0x30072,0x30083,0x30120,0x30143,0x30200,0x30212,0x302a4,0x30303,
    0x30317,0x30360,0x30382,0x303b7,0x303d3,0x303e0,0x30417,0x30970,0x30994,0x309b0,0x309d7,0x30a03,0x30a17,0x30fb3,
    0x30fc7,0x31000,0x31057,0x31300,0x31317,0x318f0,0x31922,0x31960,0x31a07,0x31c00,0x31f07,0x32000,0x32202,0x322a0,
    0x32482,0x32500,0x32512,0x32600,0x32802,0x328a0,0x32b12,0x32c00,0x34007,0x4dc00,0x4e007,0xa48d0,0xa4d07,0xa4fe3,
    0xa5007,0xa60d3,0xa6107,0xa6202,0xa62a7,0xa62c0,0xa6408,0xa66e7,0xa66f4,0xa6733,0xa6744,0xa67e3,0xa67f7,0xa6808,
    0xa69c7,0xa69e4,0xa6a07,0xa6e62,0xa6f04,0xa6f23,0xa6f80,0xa7177,0xa7200,0xa7228,0xa7306,0xa7328,0xa7707,0xa7716,
    0xa7798,0xa77e8,0xa7887,0xa7890,0xa78b8,0xa78f7,0xa7908,0xa7946,0xa7968,0xa7ab5,0xa7af6,0xa7b05,0xa7b56,0xa7b68,
    0xa7c55,0xa7c86,0xa7c95,0xa7ca6,0xa7cb0,0xa7d05,0xa7d16,0xa7d20,0xa7d36,0xa7d40,0xa7d56,0xa7d68,0xa7da0,0xa7f27,
    0xa7f55,0xa7f66,0xa7f77,0xa7fa6,0xa7fb7,0xa8024,0xa8037,0xa8064,0xa8077,0xa80b4,0xa80c7,0xa8234,0xa8280,0xa82c4,
    0xa82d0,0xa8302,0xa8360,0xa8407,0xa8743,0xa8780,0xa8804,0xa8827,0xa8b44,0xa8c60,0xa8ce3,0xa8d02,0xa8da0,0xa8e04,
    0xa8f27,0xa8f83,0xa8fb7,0xa8fc3,0xa8fd7,0xa8ff4,0xa9002,0xa90a7,0xa9264,0xa92e3,0xa9307,0xa9474,0xa9540,0xa95f3,
    0xa9607,0xa97d0,0xa9804,0xa9847,0xa9b34,0xa9c13,0xa9ce0,0xa9cf7,0xa9d02,0xa9da0,0xa9de3,0xa9e07,0xa9e54,0xa9e67,
    0xa9f02,0xa9fa7,0xa9ff0,0xaa007,0xaa294,0xaa370,0xaa407,0xaa434,0xaa447,0xaa4c4,0xaa4e0,0xaa502,0xaa5a0,0xaa5c3,
    0xaa607,0xaa770,0xaa7a7,0xaa7b4,0xaa7e7,0xaab04,0xaab17,0xaab24,0xaab57,0xaab74,0xaab97,0xaabe4,0xaac07,0xaac14,
    0xaac27,0xaac30,0xaadb7,0xaade3,0xaae07,0xaaeb4,0xaaf03,0xaaf27,0xaaf54,0xaaf70,0xab017,0xab070,0xab097,0xab0f0,
    0xab117,0xab170,0xab207,0xab270,0xab287,0xab2f0,0xab306,0xab5b0,0xab5c7,0xab606,0xab697,0xab6a0,0xab706,0xabc07,
    0xabe34,0xabeb3,0xabec4,0xabee0,0xabf02,0xabfa0,0xac007,0xd7a40,0xd7b07,0xd7c70,0xd7cb7,0xd7fc0,0xf9007,0xfa6e0,
    0xfa707,0xfada0,0xfb006,0xfb070,0xfb136,0xfb180,0xfb1d7,0xfb1e4,0xfb1f7,0xfb290,0xfb2a7,0xfb370,0xfb387,0xfb3d0,
    0xfb3e7,0xfb3f0,0xfb407,0xfb420,0xfb437,0xfb450,0xfb467,0xfbb20,0xfbd37,0xfd3e3,0xfd400,0xfd507,0xfd900,0xfd927,
    0xfdc80,0xfdf07,0xfdfc0,0xfe004,0xfe103,0xfe1a0,0xfe204,0xfe303,0xfe530,0xfe543,0xfe620,0xfe633,0xfe640,0xfe683,
    0xfe690,0xfe6a3,0xfe6c0,0xfe707,0xfe750,0xfe767,0xfefd0,0xff013,0xff040,0xff053,0xff0b0,0xff0c3,0xff102,0xff1a3,
    0xff1c0,0xff1f3,0xff215,0xff3b3,0xff3e0,0xff3f3,0xff400,0xff416,0xff5b3,0xff5c0,0xff5d3,0xff5e0,0xff5f3,0xff667,
    0xffbf0,0xffc27,0xffc80,0xffca7,0xffd00,0xffd27,0xffd80,0xffda7,0xffdd0,0x100007,0x1000c0,0x1000d7,0x100270,
    0x100287,0x1003b0,0x1003c7,0x1003e0,0x1003f7,0x1004e0,0x100507,0x1005e0,0x100807,0x100fb0,0x101003,0x101030,
    0x101072,0x101340,0x101402,0x101790,0x1018a2,0x1018c0,0x101fd4,0x101fe0,0x102807,0x1029d0,0x102a07,0x102d10,
    0x102e04,0x102e12,0x102fc0,0x103007,0x103202,0x103240,0x1032d7,0x103412,0x103427,0x1034a2,0x1034b0,0x103507,
    0x103764,0x1037b0,0x103807,0x1039e0,0x1039f3,0x103a07,0x103c40,0x103c87,0x103d03,0x103d12,0x103d60,0x104005,
    0x104286,0x104507,0x1049e0,0x104a02,0x104aa0,0x104b05,0x104d40,0x104d86,0x104fc0,0x105007,0x105280,0x105307,
    0x105640,0x1056f3,0x105705,0x1057b0,0x1057c5,0x1058b0,0x1058c5,0x105930,0x105945,0x105960,0x105976,0x105a20,
    0x105a36,0x105b20,0x105b36,0x105ba0,0x105bb6,0x105bd0,0x106007,0x107370,0x107407,0x107560,0x107607,0x107680,
    0x107807,0x107860,0x107877,0x107b10,0x107b27,0x107bb0,0x108007,0x108060,0x108087,0x108090,0x1080a7,0x108360,
    0x108377,0x108390,0x1083c7,0x1083d0,0x1083f7,0x108560,0x108573,0x108582,0x108607,0x108770,0x108792,0x108807,
    0x1089f0,0x108a72,0x108b00,0x108e07,0x108f30,0x108f47,0x108f60,0x108fb2,0x109007,0x109162,0x1091c0,0x1091f3,
    0x109207,0x1093a0,0x1093f3,0x109400,0x109807,0x109b80,0x109bc2,0x109be7,0x109c02,0x109d00,0x109d22,0x10a007,
    0x10a014,0x10a040,0x10a054,0x10a070,0x10a0c4,0x10a107,0x10a140,0x10a157,0x10a180,0x10a197,0x10a360,0x10a384,
    0x10a3b0,0x10a3f4,0x10a402,0x10a490,0x10a503,0x10a590,0x10a607,0x10a7d2,0x10a7f3,0x10a807,0x10a9d2,0x10aa00,
    0x10ac07,0x10ac80,0x10ac97,0x10ae54,0x10ae70,0x10aeb2,0x10af03,0x10af70,0x10b007,0x10b360,0x10b393,0x10b407,
    0x10b560,0x10b582,0x10b607,0x10b730,0x10b782,0x10b807,0x10b920,0x10b993,0x10b9d0,0x10ba92,0x10bb00,0x10c007,
    0x10c490,0x10c805,0x10cb30,0x10cc06,0x10cf30,0x10cfa2,0x10d007,0x10d244,0x10d280,0x10d302,0x10d3a0,0x10e602,
    0x10e7f0,0x10e807,0x10eaa0,0x10eab4,0x10ead3,0x10eae0,0x10eb07,0x10eb20,0x10efd4,0x10f007,0x10f1d2,0x10f277,
    0x10f280,0x10f307,0x10f464,0x10f512,0x10f553,0x10f5a0,0x10f707,0x10f824,0x10f863,0x10f8a0,0x10fb07,0x10fc52,
    0x10fcc0,0x10fe07,0x10ff70,0x110004,0x110037,0x110384,0x110473,0x1104e0,0x110522,0x110704,0x110717,0x110734,
    0x110757,0x110760,0x1107f4,0x110837,0x110b04,0x110bb3,0x110bd0,0x110be3,0x110c24,0x110c30,0x110d07,0x110e90,
    0x110f02,0x110fa0,0x111004,0x111037,0x111274,0x111350,0x111362,0x111403,0x111447,0x111454,0x111477,0x111480,
    0x111507,0x111734,0x111743,0x111767,0x111770,0x111804,0x111837,0x111b34,0x111c17,0x111c53,0x111c94,0x111cd3,
    0x111ce4,0x111d02,0x111da7,0x111db3,0x111dc7,0x111dd3,0x111e00,0x111e12,0x111f50,0x112007,0x112120,0x112137,
    0x1122c4,0x112383,0x1123e4,0x1123f7,0x112414,0x112420,0x112807,0x112870,0x112887,0x112890,0x1128a7,0x1128e0,
    0x1128f7,0x1129e0,0x1129f7,0x112a93,0x112aa0,0x112b07,0x112df4,0x112eb0,0x112f02,0x112fa0,0x113004,0x113040,
    0x113057,0x1130d0,0x1130f7,0x113110,0x113137,0x113290,0x1132a7,0x113310,0x113327,0x113340,0x113357,0x1133a0,
    0x1133b4,0x1133d7,0x1133e4,0x113450,0x113474,0x113490,0x1134b4,0x1134e0,0x113507,0x113510,0x113574,0x113580,
    0x1135d7,0x113624,0x113640,0x113664,0x1136d0,0x113704,0x113750,0x114007,0x114354,0x114477,0x1144b3,0x114502,
    0x1145a3,0x1145c0,0x1145d3,0x1145e4,0x1145f7,0x114620,0x114807,0x114b04,0x114c47,0x114c63,0x114c77,0x114c80,
    0x114d02,0x114da0,0x115807,0x115af4,0x115b60,0x115b84,0x115c13,0x115d87,0x115dc4,0x115de0,0x116007,0x116304,
    0x116413,0x116447,0x116450,0x116502,0x1165a0,0x116603,0x1166d0,0x116807,0x116ab4,0x116b87,0x116b93,0x116ba0,
    0x116c02,0x116ca0,0x117007,0x1171b0,0x1171d4,0x1172c0,0x117302,0x1173c3,0x1173f0,0x117407,0x117470,0x118007,
    0x1182c4,0x1183b3,0x1183c0,0x118a05,0x118c06,0x118e02,0x118f30,0x118ff7,0x119070,0x119097,0x1190a0,0x1190c7,
    0x119140,0x119157,0x119170,0x119187,0x119304,0x119360,0x119374,0x119390,0x1193b4,0x1193f7,0x119404,0x119417,
    0x119424,0x119443,0x119470,0x119502,0x1195a0,0x119a07,0x119a80,0x119aa7,0x119d14,0x119d80,0x119da4,0x119e17,
    0x119e23,0x119e37,0x119e44,0x119e50,0x11a007,0x11a014,0x11a0b7,0x11a334,0x11a3a7,0x11a3b4,0x11a3f3,0x11a474,
    0x11a480,0x11a507,0x11a514,0x11a5c7,0x11a8a4,0x11a9a3,0x11a9d7,0x11a9e3,0x11aa30,0x11ab07,0x11af90,0x11b003,
    0x11b0a0,0x11c007,0x11c090,0x11c0a7,0x11c2f4,0x11c370,0x11c384,0x11c407,0x11c413,0x11c460,0x11c502,0x11c6d0,
    0x11c703,0x11c727,0x11c900,0x11c924,0x11ca80,0x11ca94,0x11cb70,0x11d007,0x11d070,0x11d087,0x11d0a0,0x11d0b7,
    0x11d314,0x11d370,0x11d3a4,0x11d3b0,0x11d3c4,0x11d3e0,0x11d3f4,0x11d467,0x11d474,0x11d480,0x11d502,0x11d5a0,
    0x11d607,0x11d660,0x11d677,0x11d690,0x11d6a7,0x11d8a4,0x11d8f0,0x11d904,0x11d920,0x11d934,0x11d987,0x11d990,
    0x11da02,0x11daa0,0x11ee07,0x11ef34,0x11ef73,0x11ef90,0x11f004,0x11f027,0x11f034,0x11f047,0x11f110,0x11f127,
    0x11f344,0x11f3b0,0x11f3e4,0x11f433,0x11f502,0x11f5a0,0x11fb07,0x11fb10,0x11fc02,0x11fd50,0x11fff3,0x120007,
    0x1239a0,0x124002,0x1246f0,0x124703,0x124750,0x124807,0x125440,0x12f907,0x12ff13,0x12ff30,0x130007,0x134300,
    0x134404,0x134417,0x134474,0x134560,0x144007,0x146470,0x168007,0x16a390,0x16a407,0x16a5f0,0x16a602,0x16a6a0,
    0x16a6e3,0x16a707,0x16abf0,0x16ac02,0x16aca0,0x16ad07,0x16aee0,0x16af04,0x16af53,0x16af60,0x16b007,0x16b304,
    0x16b373,0x16b3c0,0x16b407,0x16b443,0x16b450,0x16b502,0x16b5a0,0x16b5b2,0x16b620,0x16b637,0x16b780,0x16b7d7,
    0x16b900,0x16e405,0x16e606,0x16e802,0x16e973,0x16e9b0,0x16f007,0x16f4b0,0x16f4f4,0x16f507,0x16f514,0x16f880,
    0x16f8f4,0x16f937,0x16fa00,0x16fe07,0x16fe23,0x16fe37,0x16fe44,0x16fe50,0x16ff04,0x16ff20,0x170007,0x187f80,
    0x188007,0x18cd60,0x18d007,0x18d090,0x1aff07,0x1aff40,0x1aff57,0x1affc0,0x1affd7,0x1afff0,0x1b0007,0x1b1230,
    0x1b1327,0x1b1330,0x1b1507,0x1b1530,0x1b1557,0x1b1560,0x1b1647,0x1b1680,0x1b1707,0x1b2fc0,0x1bc007,0x1bc6b0,
    0x1bc707,0x1bc7d0,0x1bc807,0x1bc890,0x1bc907,0x1bc9a0,0x1bc9d4,0x1bc9f3,0x1bca00,0x1cf004,0x1cf2e0,0x1cf304,
    0x1cf470,0x1d1654,0x1d16a0,0x1d16d4,0x1d1730,0x1d17b4,0x1d1830,0x1d1854,0x1d18c0,0x1d1aa4,0x1d1ae0,0x1d2424,
    0x1d2450,0x1d2c02,0x1d2d40,0x1d2e02,0x1d2f40,0x1d3602,0x1d3790,0x1d4005,0x1d41a6,0x1d4345,0x1d44e6,0x1d4550,
    0x1d4566,0x1d4685,0x1d4826,0x1d49c5,0x1d49d0,0x1d49e5,0x1d4a00,0x1d4a25,0x1d4a30,0x1d4a55,0x1d4a70,0x1d4a95,
    0x1d4ad0,0x1d4ae5,0x1d4b66,0x1d4ba0,0x1d4bb6,0x1d4bc0,0x1d4bd6,0x1d4c40,0x1d4c56,0x1d4d05,0x1d4ea6,0x1d5045,
    0x1d5060,0x1d5075,0x1d50b0,0x1d50d5,0x1d5150,0x1d5165,0x1d51d0,0x1d51e6,0x1d5385,0x1d53a0,0x1d53b5,0x1d53f0,
    0x1d5405,0x1d5450,0x1d5465,0x1d5470,0x1d54a5,0x1d5510,0x1d5526,0x1d56c5,0x1d5866,0x1d5a05,0x1d5ba6,0x1d5d45,
    0x1d5ee6,0x1d6085,0x1d6226,0x1d63c5,0x1d6566,0x1d6705,0x1d68a6,0x1d6a60,0x1d6a85,0x1d6c10,0x1d6c26,0x1d6db0,
    0x1d6dc6,0x1d6e25,0x1d6fb0,0x1d6fc6,0x1d7150,0x1d7166,0x1d71c5,0x1d7350,0x1d7366,0x1d74f0,0x1d7506,0x1d7565,
    0x1d76f0,0x1d7706,0x1d7890,0x1d78a6,0x1d7905,0x1d7a90,0x1d7aa6,0x1d7c30,0x1d7c46,0x1d7ca5,0x1d7cb6,0x1d7cc0,
    0x1d7ce2,0x1d8000,0x1da004,0x1da370,0x1da3b4,0x1da6d0,0x1da754,0x1da760,0x1da844,0x1da850,0x1da873,0x1da8c0,
    0x1da9b4,0x1daa00,0x1daa14,0x1dab00,0x1df006,0x1df0a7,0x1df0b6,0x1df1f0,0x1df256,0x1df2b0,0x1e0004,0x1e0070,
    0x1e0084,0x1e0190,0x1e01b4,0x1e0220,0x1e0234,0x1e0250,0x1e0264,0x1e02b0,0x1e0307,0x1e06e0,0x1e08f4,0x1e0900,
    0x1e1007,0x1e12d0,0x1e1304,0x1e1377,0x1e13e0,0x1e1402,0x1e14a0,0x1e14e7,0x1e14f0,0x1e2907,0x1e2ae4,0x1e2af0,
    0x1e2c07,0x1e2ec4,0x1e2f02,0x1e2fa0,0x1e4d07,0x1e4ec4,0x1e4f02,0x1e4fa0,0x1e7e07,0x1e7e70,0x1e7e87,0x1e7ec0,
    0x1e7ed7,0x1e7ef0,0x1e7f07,0x1e7ff0,0x1e8007,0x1e8c50,0x1e8c72,0x1e8d04,0x1e8d70,0x1e9005,0x1e9226,0x1e9444,
    0x1e94b7,0x1e94c0,0x1e9502,0x1e95a0,0x1e95e3,0x1e9600,0x1ec712,0x1ecac0,0x1ecad2,0x1ecb00,0x1ecb12,0x1ecb50,
    0x1ed012,0x1ed2e0,0x1ed2f2,0x1ed3e0,0x1ee007,0x1ee040,0x1ee057,0x1ee200,0x1ee217,0x1ee230,0x1ee247,0x1ee250,
    0x1ee277,0x1ee280,0x1ee297,0x1ee330,0x1ee347,0x1ee380,0x1ee397,0x1ee3a0,0x1ee3b7,0x1ee3c0,0x1ee427,0x1ee430,
    0x1ee477,0x1ee480,0x1ee497,0x1ee4a0,0x1ee4b7,0x1ee4c0,0x1ee4d7,0x1ee500,0x1ee517,0x1ee530,0x1ee547,0x1ee550,
    0x1ee577,0x1ee580,0x1ee597,0x1ee5a0,0x1ee5b7,0x1ee5c0,0x1ee5d7,0x1ee5e0,0x1ee5f7,0x1ee600,0x1ee617,0x1ee630,
    0x1ee647,0x1ee650,0x1ee677,0x1ee6b0,0x1ee6c7,0x1ee730,0x1ee747,0x1ee780,0x1ee797,0x1ee7d0,0x1ee7e7,0x1ee7f0,
    0x1ee807,0x1ee8a0,0x1ee8b7,0x1ee9c0,0x1eea17,0x1eea40,0x1eea57,0x1eeaa0,0x1eeab7,0x1eebc0,0x1f1002,0x1f10d0,
    0x1fbf02,0x1fbfa0,0x200007,0x2a6e00,0x2a7007,0x2b73a0,0x2b7407,0x2b81e0,0x2b8207,0x2cea20,0x2ceb07,0x2ebe10,
    0x2ebf07,0x2ee5e0,0x2f8007,0x2fa1e0,0x300007,0x3134b0,0x313507,0x323b00,0xe01004,0xe01f00
};

/* Class of a code point; BNI_BAD_CODE is OTHER. */
static int bni_class_of(uint32_t code)
{
    uint32_t low = 0, high = (uint32_t)(sizeof bni_class_runs / sizeof bni_class_runs[0]), kind;
    if (code < 0x80) {
        if ((code | 0x20) - 'a' < 26)
            return code & 0x20 ? BNI_CLASS_LOWER : BNI_CLASS_UPPER;
        if (code == ' ')
            return BNI_CLASS_SPACE;
    }
    if (code > 0x10ffff)
        return BNI_CLASS_OTHER;
    while (high - low > 1) {                   /* the run is in [low, high) */
        uint32_t middle = (low + high) / 2;
        if (bni_class_runs[middle] >> 4 <= code)
            low = middle;
        else
            high = middle;
    }
    kind = bni_class_runs[low] & 15;
    if (kind == BNI_CLASS_TURNS)
        return (code - (bni_class_runs[low] >> 4)) & 1 ? BNI_CLASS_LOWER : BNI_CLASS_UPPER;
    return (int)kind;
}
/* ======================================================================================================
   >>tokenizer    Text to tokens and back
   ======================================================================================================
   A model reads numbers: each stands for a piece of text out of a fixed vocabulary. Two ways of cutting text into
   pieces occur, and both are the same game: begin with small symbols, then again and again join the two neighbours
   whose joint is the best one known.

       BPE ("gpt2")    The text is cut into words by a regular expression. Symbols are bytes; an ordered list of
                       merges says which two symbols may join, earlier merges first.
       SPM ("llama")   No words: the whole text, with every space written as U+2581. Symbols are characters; two may
                       join if the joint is in the vocabulary, higher scores first. What is left outside the
                       vocabulary is spelled in byte tokens.

   BPE of "low lower" with the merges "l o", "lo w", "e r", in this order (a dot is a space):

       words             low  .lower
       symbols           l o w   . l o w e r
       l o               lo w    . lo w e r
       lo w              low     . low e r
       e r               low     . low er         four symbols left: four tokens

   In the vocabulary BPE spells bytes as printable characters (U+0120 is the space, see bni_code_of_byte). Nothing is
   spelled that way while merging: symbols are token ids, and a merge is (left id, right id) -> (rank, id), found in
   about one probe of a hash table that is built at load.

   Joining goes through a priority queue, so that a million characters without a space cost n log n and not n^2. The
   regular expressions are small matchers written by hand, each quoted where it is matched: a regular expression engine
   would be longer than the few expressions that exist, and slower.

   Control tokens such as <|eot_id|> are found in the text before all this, and only where the caller allows it:
   what a user typed must not end a turn or begin one in the system's name.

   Memory: all tables lie in the model's arena; token texts stay where the file has them. Tokenizing takes scratch
   only for words over BNI_SHORT_WORD symbols (SPM: always one block for the text with its spaces replaced). */

#define BNI_MAX_TOKENS ((1 << 24) - 2)         /* an id + 1 must fit the 24 bits of a hash entry */
#define BNI_MAX_SPECIALS (1 << 18)             /* published: under 10,000; they are sorted at load */
#define BNI_MAX_TEXT ((size_t)1 << 28)         /* bytes; times 2 queue entries times 4 children still fits 32 bits */
#define BNI_MAX_PROBES 512                     /* honest tables stay under 200; more is a file built to collide */
#define BNI_SHORT_WORD 64                      /* symbols of a word that need no allocation */
#define BNI_MAX_WHOLE 512                      /* bytes of a word that may be one token by itself; published: 128 */
#define BNI_NONE UINT32_MAX

/* tokenizer.ggml.token_type, the file's numbers; 0 and unknown ones count as NORMAL. */
enum {
    BNI_TOKEN_NORMAL = 1, BNI_TOKEN_UNKNOWN = 2, BNI_TOKEN_CONTROL = 3, BNI_TOKEN_USER = 4, BNI_TOKEN_UNUSED = 5,
    BNI_TOKEN_BYTE = 6,
    BNI_TOKEN_KIND = 7,              /* mask of the above */
    BNI_TOKEN_END = 8                /* flag beside it: ends a generation */
};

/* One run of a regular expression over the text. Expressions of the first three match everything; the others only
   cut out their matches, and what lies between stays a piece of its own. */
enum {
    BNI_PASS_LLAMA3, BNI_PASS_QWEN2, BNI_PASS_FALCON_E, BNI_PASS_GPT2,
    BNI_PASS_PUNCT,                  /* [\p{P}\$\+<=>\^~\|]+ */
    BNI_PASS_PUNCT_TICK,             /* the same with ` */
    BNI_PASS_NUMBER,                 /* \p{N} */
    BNI_PASS_NUMBERS,                /* \p{N}+ */
    BNI_PASS_DIGIT,                  /* [0-9] */
    BNI_PASS_DIGITS3                 /* [0-9][0-9][0-9] */
};

#define BNI_MAX_PASSES 4
#define BNI_MAX_NAMES 7

/* A pre-tokenizer: passes one after the other, each cutting every piece of the one before. */
typedef struct bni_pre {
    const char *name[BNI_MAX_NAMES]; /* of tokenizer.ggml.pre; the first is ours */
    uint8_t n_passes, pass[BNI_MAX_PASSES];
    uint8_t whole_words;             /* 1: a word that is a token stays whole, whatever the merges say */
    uint8_t add_bos;                 /* 1: begin-of-text token unless the file says otherwise */
} bni_pre;

/* As in llama.cpp, whose fallback for files that name none is the first row. falcon_e is Falcon-E's tokenizer.json. */
static const bni_pre bni_pres[] = {
    {{"default", 0}, 4, {BNI_PASS_PUNCT, BNI_PASS_GPT2, BNI_PASS_NUMBERS, BNI_PASS_DIGITS3}, 0, 0},
    {{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", 0}, 1, {BNI_PASS_LLAMA3, 0, 0, 0}, 1, 1},
    {{"dbrx", "smaug-bpe", 0}, 1, {BNI_PASS_LLAMA3, 0, 0, 0}, 0, 0},
    {{"qwen2", 0}, 1, {BNI_PASS_QWEN2, 0, 0, 0}, 0, 0},
    {{"gpt-2", "mpt", "olmo", 0}, 1, {BNI_PASS_GPT2, 0, 0, 0}, 0, 0},
    {{"falcon", 0}, 3, {BNI_PASS_PUNCT_TICK, BNI_PASS_GPT2, BNI_PASS_DIGITS3, 0}, 0, 0},
    {{"falcon_e", "falcon-e", 0}, 3, {BNI_PASS_PUNCT_TICK, BNI_PASS_FALCON_E, BNI_PASS_DIGIT, 0}, 0, 0},
    {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", 0}, 2,
     {BNI_PASS_NUMBER, BNI_PASS_GPT2, 0, 0}, 0, 0}
};
#define BNI_PRE_DEFAULT (&bni_pres[0])
#define BNI_PRE_LLAMA3 (&bni_pres[1])
#define BNI_N_PRES (int)(sizeof bni_pres / sizeof bni_pres[0])

/* Where a token's text lies, from bni_tokenizer.base. Eight bytes instead of a pointer and a size: a vocabulary has up
   to 260,000 of them. */
typedef struct bni_token { uint32_t at, size; } bni_token;

/* left and right become id; lower ranks first; rank BNI_NONE: an empty slot. */
typedef struct bni_merge { uint32_t left, right, rank, id; } bni_merge;

/* Written while the model is opened, never again; any number of threads tokenize with it at once. Tables lie in the
   model's block, texts in the file's header. */
typedef struct bni_tokenizer {
    int32_t n_tokens;
    int spm;                         /* 1: SPM, 0: BPE */
    const bni_pre *pre;              /* of BPE */
    const char *pre_name;            /* the rule in force, "none" for SPM */
    int pre_from_file;               /* 0: the file names none, we chose */
    int add_bos, add_eos;
    int add_space_prefix;            /* SPM: text gets a space in front, as inside a sentence */
    int32_t bos, eos, eot, eom, unknown, pad;      /* -1: none */

    const char *base;                /* in the file's header: where the first token's text begins */
    bni_token *tokens;               /* [n_tokens] */
    uint8_t *kinds;                  /* [n_tokens] BNI_TOKEN_... */
    uint32_t longest;                /* bytes of the longest token */
    uint32_t *by_text;               /* [n_by_text] hash table: id + 1 in the low 24 bits, 0 empty; hash bits above */
    uint32_t n_by_text;
    int32_t byte_token[256];         /* the token of a single byte, -1: none */
    int has_bytes;

    bni_merge *merges;               /* BPE: [n_merges] hash table over (left, right) */
    uint32_t n_merges;
    uint32_t *ranks;                 /* SPM: [n_tokens] falls as the score rises */

    /* Tokens found in the text as they are (control, unknown, user-defined), sorted by their bytes. */
    uint32_t *special;               /* [n_special] ids */
    uint32_t *special_prefix;        /* [n_special] index of the longest other one that this one begins with */
    uint32_t n_special;
    uint32_t special_first[2][8];    /* bitsets of first bytes: [0] user-defined only, [1] all */
} bni_tokenizer;

/* ---------------------------------------------------------------------------------------------- bytes, hashes */

/* GPT-2's spelling of bytes: printable Latin-1 stands for itself, the other 68 bytes, in order, are U+0100... */
static uint32_t bni_code_of_byte(uint32_t b)
{
    if (b <= 0x20)
        return 0x100 + b;
    if (b >= 0x7f && b <= 0xa0)
        return 0x121 + (b - 0x7f);
    return b == 0xad ? 0x143 : b;
}

/* The byte that a code point spells, or -1. */
static int bni_byte_of_code(uint32_t code)
{
    if (code > 0x143 || code <= 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0xad)
        return -1;
    if (code < 0x100)
        return (int)code;
    if (code <= 0x120)
        return (int)(code - 0x100);
    return code == 0x143 ? 0xad : (int)(code - 0x121 + 0x7f);
}

/* Writes bytes [size] as the vocabulary spells them, in UTF-8, one or two bytes each. Room: 2 * size. */
static bni_str bni_spell(char *to, const uint8_t *bytes, size_t size)
{
    bni_str s;
    size_t i;
    s.data = to;
    for (i = 0; i < size; i++) {
        uint32_t code = bni_code_of_byte(bytes[i]);
        if (code >= 0x80)
            *to++ = (char)(0xc0 | (code >> 6));
        *to++ = (char)(code < 0x80 ? code : 0x80 | (code & 0x3f));
    }
    s.size = (size_t)(to - s.data);
    return s;
}

#define BNI_HASH_START 2166136261u             /* FNV-1a, 32 bits (Fowler, Noll, Vo) */

/* h carried on over data [size], so that a text may come in parts. */
BNI_INLINE uint32_t bni_hash(uint32_t h, const char *data, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++)
        h = (h ^ (uint8_t)data[i]) * 16777619u;
    return h;
}

/* Spreads every bit over all (the finish of MurmurHash3, public domain): slots come from the high ones. */
BNI_INLINE uint32_t bni_hash_end(uint32_t h)
{
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    return h ^ (h >> 16);
}

/* Not symmetric: (a, b) and (b, a) are different merges. 0x9e3779b1 is 2^32 over the golden ratio, to the next prime.
   */
BNI_INLINE uint32_t bni_hash_pair(int32_t left, int32_t right)
{
    return bni_hash_end((uint32_t)left * 0x9e3779b1u + bni_hash_end((uint32_t)right));
}

/* 0 .. n - 1 from 32 hash bits, without a division. */
BNI_INLINE uint32_t bni_hash_slot(uint32_t h, uint32_t n) { return (uint32_t)(((uint64_t)h * n) >> 32); }

/* The vocabulary's text of a token; empty outside the vocabulary. */
static bni_str bni_token_text(const bni_tokenizer *t, int32_t id)
{
    bni_str s;
    int known = id >= 0 && id < t->n_tokens;
    s.data = known ? t->base + t->tokens[id].at : "";
    s.size = known ? t->tokens[id].size : 0;
    return s;
}

/* Both hash tables are of open addressing: an entry stands in its hash's slot or in the first free one behind it. */
BNI_INLINE uint32_t bni_slot_after(uint32_t i, uint32_t n) { return i + 1 < n ? i + 1 : 0; }

/* The lowest id whose text is a followed by b, or -1. */
static int32_t bni_token_find2(const bni_tokenizer *t, bni_str a, bni_str b)
{
    uint32_t h = bni_hash_end(bni_hash(bni_hash(BNI_HASH_START, a.data, a.size), b.data, b.size)), i;
    if (a.size + b.size > t->longest)
        return -1;
    for (i = bni_hash_slot(h, t->n_by_text); t->by_text[i] != 0; i = bni_slot_after(i, t->n_by_text)) {
        int32_t id = (int32_t)(t->by_text[i] & 0xffffff) - 1;
        bni_str s;
        if ((t->by_text[i] ^ (h << 24)) >> 24 != 0)      /* eight other bits of the hash: saves reading the text */
            continue;
        s = bni_token_text(t, id);
        if (s.size == a.size + b.size && memcmp(s.data, a.data, a.size) == 0 &&
            memcmp(s.data + a.size, b.data, b.size) == 0)
            return id;
    }
    return -1;
}

/* The lowest id with that text, or -1. */
BNI_INLINE int32_t bni_token_find(const bni_tokenizer *t, bni_str text)
{
    return bni_token_find2(t, text, bni_str_of(""));
}

/* id if ordinary text may turn into that token, else -1: control and unknown tokens come only from places that the
   caller allowed. */
static int32_t bni_plain(const bni_tokenizer *t, int32_t id)
{
    int kind = id >= 0 ? t->kinds[id] & BNI_TOKEN_KIND : (int)BNI_TOKEN_CONTROL;
    return kind == BNI_TOKEN_CONTROL || kind == BNI_TOKEN_UNKNOWN ? -1 : id;
}

/* 1 if the token ends a generation; 0 outside the vocabulary. */
BNI_INLINE int bni_token_is_end(const bni_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_tokens && (t->kinds[id] & BNI_TOKEN_END) != 0;
}

/* The merge of two tokens, or NULL. */
static const bni_merge *bni_find_merge(const bni_tokenizer *t, int32_t left, int32_t right)
{
    uint32_t i = bni_hash_slot(bni_hash_pair(left, right), t->n_merges);
    for (; t->merges[i].rank != BNI_NONE; i = bni_slot_after(i, t->n_merges))
        if (t->merges[i].left == (uint32_t)left && t->merges[i].right == (uint32_t)right)
            return &t->merges[i];
    return NULL;
}

/* ------------------------------------------------------------------------------------------- building: settings */

/* Key of a token id: the id, or -1 where it is absent or outside the vocabulary. */
static int32_t bni_special_id(const bni_gguf *g, const char *key, int32_t n_tokens)
{
    uint64_t id;
    return bni_kv_uint(bni_gguf_find(g, key), &id) && id < (uint64_t)n_tokens ? (int32_t)id : -1;
}

/* The id a model of this kind usually has, for files that do not say; only where the file calls that token a control
   (or the unknown) token, or has no types and SPM's order is fixed. Else a comma, token 11, might end the text. */
static int32_t bni_usual_id(const bni_tokenizer *t, const bni_kv *types, int32_t id)
{
    int64_t type = BNI_TOKEN_NORMAL;
    if (types)
        type = bni_kv_int_at(types, (uint64_t)id);
    else if (t->spm)
        type = BNI_TOKEN_CONTROL;
    return id < t->n_tokens && (type == BNI_TOKEN_CONTROL || type == BNI_TOKEN_UNKNOWN) ? id : -1;
}

/* Which pre-tokenizer. A wrong one would only make the model duller, so an unknown name is an error, not a guess. */
static bitnet_result bni_tokenizer_pre(bni_tokenizer *t, const bni_gguf *g, bitnet_error *err)
{
    const bni_kv *kv = bni_gguf_find(g, "tokenizer.ggml.pre");
    bni_str name;
    int i, k;
    t->pre_from_file = bni_kv_string(kv, &name) && name.size > 0;
    if (kv && kv->type != BNI_KV_STRING)
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "tokenizer.ggml.pre is not a string");
    if (t->spm) {
        t->pre_name = "none";
        return BITNET_OK;
    }
    if (t->pre_from_file) {
        for (i = 0; i < BNI_N_PRES; i++)
            for (k = 0; bni_pres[i].name[k]; k++)
                if (bni_str_equal(name, bni_pres[i].name[k]))
                    t->pre = &bni_pres[i];
        if (!t->pre)
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, kv->offset, "tokenizer.ggml.pre: %S is not known", &name);
    } else {
        /* The official 2B-4T file names none. It has Llama 3's vocabulary, whose size gives it away elsewhere too. */
        bni_str arch = bni_str_of("");
        bni_kv_string(bni_gguf_find(g, "general.architecture"), &arch);
        i = t->n_tokens == 128256 || (arch.size >= 6 && memcmp(arch.data, "bitnet", 6) == 0);
        t->pre = i ? BNI_PRE_LLAMA3 : BNI_PRE_DEFAULT;
    }
    t->pre_name = t->pre->name[0];
    return BITNET_OK;
}

/* Ids and flags; defaults as in llama.cpp. */
static void bni_tokenizer_flags(bni_tokenizer *t, const bni_gguf *g, const bni_kv *types)
{
    int32_t n = t->n_tokens;
    t->bos = bni_special_id(g, "tokenizer.ggml.bos_token_id", n);
    t->eos = bni_special_id(g, "tokenizer.ggml.eos_token_id", n);
    t->eot = bni_special_id(g, "tokenizer.ggml.eot_token_id", n);
    t->eom = bni_special_id(g, "tokenizer.ggml.eom_token_id", n);
    t->pad = bni_special_id(g, "tokenizer.ggml.padding_token_id", n);
    t->unknown = bni_special_id(g, "tokenizer.ggml.unknown_token_id", n);
    /* Falcon 3 takes a begin token only where its file has one (llama.cpp would take the usual id). */
    t->add_bos = t->spm || (t->pre->add_bos && t->bos >= 0);
    t->add_space_prefix = t->spm;
    bni_kv_bool(bni_gguf_find(g, "tokenizer.ggml.add_bos_token"), &t->add_bos);
    bni_kv_bool(bni_gguf_find(g, "tokenizer.ggml.add_eos_token"), &t->add_eos);
    if (t->spm)
        bni_kv_bool(bni_gguf_find(g, "tokenizer.ggml.add_space_prefix"), &t->add_space_prefix);
    if (t->bos < 0)
        t->bos = bni_usual_id(t, types, t->spm ? 1 : 11);
    if (t->eos < 0)
        t->eos = bni_usual_id(t, types, t->spm ? 2 : 11);
    if (t->unknown < 0 && t->spm)
        t->unknown = bni_usual_id(t, types, 0);
}

/* The array of a key, at least [n]; *out NULL if it is absent. numbers: 1: of numbers, 0: of strings. */
static bitnet_result bni_token_array(const bni_gguf *g, const char *key, int numbers, uint64_t n, const bni_kv **out,
                                     bitnet_error *err)
{
    const bni_kv *kv = bni_gguf_find(g, key);
    int elem = bni_kv_elem(kv);
    *out = kv;
    if (!kv)
        return BITNET_OK;
    if (kv->type != BNI_KV_ARRAY || (numbers ? elem == BNI_KV_STRING || elem == BNI_KV_BOOL : elem != BNI_KV_STRING))
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "%s is not an array of %s", key,
                        numbers ? "numbers" : "strings");
    if (kv->count < n)
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "%s has %u entries for %u tokens", key, kv->count, n);
    return BITNET_OK;
}

/* --------------------------------------------------------------------------------------------- building: tokens */

/* Texts that end a generation whatever the file's keys say, the first ones also serving as the end of a turn where no
   key names one (as in llama.cpp). */
static int bni_end_text(bni_str text)
{
    static const char *const ends[] = {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>",
        "[EOT]", "</s>", "<eos>", "[EOS]", "<|eom_id|>"
    };
    int i;
    if (text.size < 4 || text.size > 15)
        return -1;
    for (i = 0; i < (int)(sizeof ends / sizeof ends[0]); i++)
        if (bni_str_equal(text, ends[i]))
            return i;
    return -1;
}
#define BNI_N_TURN_ENDS 9            /* of bni_end_text */

/* The byte of a text like <0x0A>, or -1. */
static int bni_byte_text(bni_str text)
{
    int i, value = 0;
    if (text.size != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    for (i = 3; i < 5; i++) {
        int c = text.data[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Kind and END flag of a token. Converters got types wrong: texts like <|this|> count as control tokens where the file
   calls them user-defined (which ordinary text may contain), has no types at all, or they end a generation. */
static uint8_t bni_token_kind(const bni_tokenizer *t, const bni_kv *types, int32_t id, bni_str text)
{
    int64_t type = types ? bni_kv_int_at(types, (uint64_t)id) : 0;
    int end = bni_end_text(text) >= 0 || id == t->eos || id == t->eot || id == t->eom;
    int bars = text.size > 4 && memcmp(text.data, "<|", 2) == 0 && memcmp(text.data + text.size - 2, "|>", 2) == 0;
    if (type < BNI_TOKEN_NORMAL || type > BNI_TOKEN_BYTE)
        type = BNI_TOKEN_NORMAL;
    if (!types) {
        if (end || bars || id == t->bos || id == t->pad)
            type = BNI_TOKEN_CONTROL;
        else if (id == t->unknown)
            type = BNI_TOKEN_UNKNOWN;
        else if (t->spm && bni_byte_text(text) >= 0)
            type = BNI_TOKEN_BYTE;
    } else if ((type == BNI_TOKEN_USER && (bars || end)) || (type == BNI_TOKEN_NORMAL && bars && end)) {
        type = BNI_TOKEN_CONTROL;
    }
    return (uint8_t)(type | (end ? BNI_TOKEN_END : 0));
}

/* 1 for the kinds that are looked for in the text before it is cut into words. */
BNI_INLINE int bni_kind_is_special(int kind)
{
    kind &= BNI_TOKEN_KIND;
    return kind == BNI_TOKEN_UNKNOWN || kind == BNI_TOKEN_CONTROL || kind == BNI_TOKEN_USER;
}

/* Walks the vocabulary: checks it, counts what needs room, and, once there are tables, fills in texts and kinds. The
   same walk does both, so that the counts can't disagree with the use. */
static bitnet_result bni_tokenizer_scan(bni_tokenizer *t, const bni_kv *tokens, const bni_kv *types, bitnet_error *err)
{
    bni_strings strings = bni_kv_strings(tokens);
    bni_str text;
    int32_t id, turn_end = -1;
    int best = BNI_N_TURN_ENDS;
    t->n_special = 0;
    t->longest = 0;
    for (id = 0; id < t->n_tokens && bni_strings_next(&strings, &text); id++) {
        uint8_t kind = bni_token_kind(t, types, id, text);
        int end = bni_end_text(text);
        if (id == 0)
            t->base = text.data;
        if ((uint64_t)(text.data - t->base) + text.size > UINT32_MAX)
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, tokens->offset, "tokenizer.ggml.tokens: over 4 GiB of text");
        if (text.size > t->longest)
            t->longest = (uint32_t)text.size;
        if (t->tokens) {
            t->tokens[id].at = (uint32_t)(text.data - t->base);
            t->tokens[id].size = (uint32_t)text.size;
            t->kinds[id] = kind;
        }
        if (text.size > 0 && bni_kind_is_special(kind)) {
            if (t->special)
                t->special[t->n_special] = (uint32_t)id;
            t->n_special++;
        }
        if (end >= 0 && end < best) {
            best = end;
            turn_end = id;
        }
    }
    if (t->n_special > BNI_MAX_SPECIALS)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, types ? types->offset : 0,
                        "tokenizer.ggml.token_type: %u control and user-defined tokens (at most %d)",
                        (uint64_t)t->n_special, BNI_MAX_SPECIALS);
    if (t->eot < 0)
        t->eot = turn_end;
    return BITNET_OK;
}

/* Enters every token's text into the hash table; of equal texts the lowest id stays. */
static bitnet_result bni_tokenizer_index(bni_tokenizer *t, const bni_kv *tokens, bitnet_error *err)
{
    int32_t id;
    for (id = 0; id < t->n_tokens; id++) {
        bni_str text = bni_token_text(t, id);
        uint32_t h = bni_hash_end(bni_hash(BNI_HASH_START, text.data, text.size));
        uint32_t i = bni_hash_slot(h, t->n_by_text), probes;
        if (text.size == 0 || bni_token_find(t, text) >= 0)
            continue;
        for (probes = 0; t->by_text[i] != 0; probes++)
            i = bni_slot_after(i, t->n_by_text);
        if (probes > BNI_MAX_PROBES)
            return bni_fail(err, BITNET_ERROR_FORMAT, tokens->offset, "tokenizer.ggml.tokens: texts that collide");
        t->by_text[i] = (uint32_t)(id + 1) | (h << 24);
    }
    return BITNET_OK;
}

/* The tokens of single bytes: BPE spells the byte, SPM names it. */
static void bni_tokenizer_bytes(bni_tokenizer *t)
{
    static const char digits[] = "0123456789ABCDEF";
    uint32_t b;
    for (b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        char name[8];
        memcpy(name, "<0x__>", 7);
        name[3] = digits[b >> 4];
        name[4] = digits[b & 15];
        t->byte_token[b] = bni_token_find(t, t->spm ? bni_str_of(name) : bni_spell(name, &byte, 1));
        t->byte_token[b] = bni_plain(t, t->byte_token[b]);
        t->has_bytes |= t->byte_token[b] >= 0;
    }
}

/* ------------------------------------------------------------------------------ building: merges, scores, specials */

/* "left right" -> (left id, right id, joint id); the rank is the place in the file. Merges of texts outside the
   vocabulary can never apply and are left out, as is what has no space in it; of equal merges the first counts. */
static bitnet_result bni_tokenizer_merges(bni_tokenizer *t, const bni_kv *kv, bitnet_error *err)
{
    bni_strings strings = bni_kv_strings(kv);
    bni_str text, left, right;
    uint32_t i, rank, probes;
    for (i = 0; i < t->n_merges; i++)
        t->merges[i].rank = BNI_NONE;
    for (rank = 0; bni_strings_next(&strings, &text); rank++) {
        int32_t a, b, joint;
        left.data = text.data;
        left.size = 1;                         /* a first byte that is a space belongs to the left text */
        while (left.size < text.size && text.data[left.size] != ' ')
            left.size++;
        if (left.size >= text.size)
            continue;
        right.data = text.data + left.size + 1;
        right.size = text.size - left.size - 1;
        a = bni_token_find(t, left);
        b = bni_token_find(t, right);
        joint = bni_plain(t, bni_token_find2(t, left, right));
        if (a < 0 || b < 0 || joint < 0 || bni_find_merge(t, a, b))
            continue;
        i = bni_hash_slot(bni_hash_pair(a, b), t->n_merges);
        for (probes = 0; t->merges[i].rank != BNI_NONE; probes++)
            i = bni_slot_after(i, t->n_merges);
        if (probes > BNI_MAX_PROBES)
            return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "tokenizer.ggml.merges: entries that collide");
        t->merges[i].left = (uint32_t)a;
        t->merges[i].right = (uint32_t)b;
        t->merges[i].rank = rank;
        t->merges[i].id = (uint32_t)joint;
    }
    return BITNET_OK;
}

/* Scores as integers that fall as the score rises, so that both kinds of tokenizer look for the lowest rank. The bits
   of floats order like sign and magnitude: turn the negative ones over, set the sign of the others. */
static void bni_tokenizer_scores(bni_tokenizer *t, const bni_kv *scores)
{
    int32_t id;
    for (id = 0; id < t->n_tokens; id++) {
        uint32_t bits = bni_float_bits(scores ? bni_kv_float_at(scores, (uint64_t)id) : 0.0f);
        bits = bits >> 31 ? ~bits : bits | 0x80000000u;
        t->ranks[id] = bits == 0 ? BNI_NONE - 1 : ~bits;         /* BNI_NONE means no pair */
    }
}

/* By text, then by id: the order of bni_tokenizer.special. */
static int bni_special_before(const void *items, uint32_t a, uint32_t b)
{
    const bni_tokenizer *t = (const bni_tokenizer *)items;
    int c = bni_gguf_compare_str(bni_token_text(t, (int32_t)a), bni_token_text(t, (int32_t)b));
    return c != 0 ? c < 0 : a < b;
}

/* Sorts the special tokens, drops doubles (the lowest id stays), and links each to its longest beginning: the entry
   above it, or one that entry begins with, and so on. */
static void bni_tokenizer_specials(bni_tokenizer *t)
{
    uint32_t i, j, n = 0;
    bni_sort(t->special, t->n_special, bni_special_before, t);
    for (i = 0; i < t->n_special; i++) {
        int32_t id = (int32_t)t->special[i];
        bni_str text = bni_token_text(t, id);
        uint8_t first = (uint8_t)text.data[0];
        for (j = n - 1; j != BNI_NONE; j = t->special_prefix[j]) {
            bni_str other = bni_token_text(t, (int32_t)t->special[j]);
            if (other.size <= text.size && memcmp(other.data, text.data, other.size) == 0)
                break;
        }
        if (j != BNI_NONE && bni_token_text(t, (int32_t)t->special[j]).size == text.size)
            continue;
        t->special[n] = (uint32_t)id;
        t->special_prefix[n++] = j;
        t->special_first[1][first >> 5] |= (uint32_t)1 << (first & 31);
        if ((t->kinds[id] & BNI_TOKEN_KIND) == BNI_TOKEN_USER)
            t->special_first[0][first >> 5] |= (uint32_t)1 << (first & 31);
    }
    t->n_special = n;
}

/* The arrays of the file, checked. */
typedef struct bni_token_arrays { const bni_kv *tokens, *types, *scores, *merges; } bni_token_arrays;

/* Finds and checks them; which kind of tokenizer, and how many tokens. */
static bitnet_result bni_tokenizer_arrays(bni_tokenizer *t, const bni_gguf *g, bni_token_arrays *a, bitnet_error *err)
{
    const bni_kv *model = bni_gguf_find(g, "tokenizer.ggml.model");
    bitnet_result r;
    bni_str name;
    uint64_t n;
    if (!bni_kv_string(model, &name))
        return bni_fail(err, BITNET_ERROR_FORMAT, model ? model->offset : 0, "tokenizer.ggml.model is %s",
                        model ? "not a string" : "missing: the file has no tokenizer");
    t->spm = bni_str_equal(name, "llama");
    if (!t->spm && !bni_str_equal(name, "gpt2"))
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, model->offset,
                        "tokenizer.ggml.model: %S (gpt2 and llama are supported)", &name);
    r = bni_token_array(g, "tokenizer.ggml.tokens", 0, 1, &a->tokens, err);
    n = bni_kv_count(a->tokens);
    if (r == BITNET_OK && !a->tokens)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "tokenizer.ggml.tokens is missing");
    if (r == BITNET_OK && n > BNI_MAX_TOKENS)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, a->tokens->offset,
                        "tokenizer.ggml.tokens: %u tokens (at most %d)", n, BNI_MAX_TOKENS);
    if (r == BITNET_OK)
        r = bni_token_array(g, "tokenizer.ggml.token_type", 1, n, &a->types, err);
    if (r == BITNET_OK)
        r = bni_token_array(g, "tokenizer.ggml.scores", 1, n, &a->scores, err);
    if (r == BITNET_OK && !t->spm)
        r = bni_token_array(g, "tokenizer.ggml.merges", 0, 0, &a->merges, err);
    if (r == BITNET_OK && !t->spm && !a->merges)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "tokenizer.ggml.merges is missing");
    if (r == BITNET_OK && bni_kv_count(a->merges) > INT32_MAX / 2)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, a->merges->offset, "tokenizer.ggml.merges: %u merges",
                        bni_kv_count(a->merges));
    t->n_tokens = (int32_t)n;
    return r;
}

/* Builds *t from the file's metadata, tables in arena. Run twice, first while the arena only measures: then flags, ids
   and names are valid, tables are not. Texts stay in the file's header. FORMAT or UNSUPPORTED name the key. */
static bitnet_result bni_tokenizer_build(bni_tokenizer *t, const bni_gguf *g, bni_arena *arena, bitnet_error *err)
{
    bni_token_arrays a;
    bitnet_result r;
    memset(t, 0, sizeof *t);
    memset(&a, 0, sizeof a);
    r = bni_tokenizer_arrays(t, g, &a, err);
    if (r == BITNET_OK)
        r = bni_tokenizer_pre(t, g, err);
    if (r != BITNET_OK)
        return r;
    bni_tokenizer_flags(t, g, a.types);
    r = bni_tokenizer_scan(t, a.tokens, a.types, err);
    if (r != BITNET_OK)
        return r;
    t->n_by_text = (uint32_t)t->n_tokens + (uint32_t)t->n_tokens / 2 + 1;        /* two thirds full */
    t->n_merges = (uint32_t)(bni_kv_count(a.merges) + bni_kv_count(a.merges) / 2 + 1);
    t->by_text = (uint32_t *)bni_arena_take(arena, t->n_by_text, sizeof *t->by_text, 4);
    if (t->spm)
        t->ranks = (uint32_t *)bni_arena_take(arena, (uint64_t)t->n_tokens, sizeof *t->ranks, 4);
    else
        t->merges = (bni_merge *)bni_arena_take(arena, t->n_merges, sizeof *t->merges, 16);
    t->kinds = (uint8_t *)bni_arena_take(arena, (uint64_t)t->n_tokens, 1, 1);
    t->special = (uint32_t *)bni_arena_take(arena, t->n_special, sizeof *t->special, 4);
    t->special_prefix = (uint32_t *)bni_arena_take(arena, t->n_special, sizeof *t->special_prefix, 4);
    t->tokens = (bni_token *)bni_arena_take(arena, (uint64_t)t->n_tokens, sizeof *t->tokens, 8);
    if (bni_arena_measuring(arena))
        return BITNET_OK;
    r = bni_tokenizer_scan(t, a.tokens, a.types, err);
    if (r == BITNET_OK)
        r = bni_tokenizer_index(t, a.tokens, err);
    if (r != BITNET_OK)
        return r;
    bni_tokenizer_bytes(t);
    bni_tokenizer_specials(t);
    if (!t->spm)
        return bni_tokenizer_merges(t, a.merges, err);
    bni_tokenizer_scores(t, a.scores);
    return BITNET_OK;
}

/* ----------------------------------------------------------------------------------------- cutting text into words
   Matchers look at one piece of text s [size] and say how many of its bytes, from the start, are the next word: at
   least 1. Classes are bits of sets here, so that a run of "letters or marks" is one call. */

#define BNI_SET(kind) (1u << (kind))
#define BNI_SET_LETTERS (BNI_SET(BNI_CLASS_UPPER) | BNI_SET(BNI_CLASS_LOWER) | BNI_SET(BNI_CLASS_LETTER))
#define BNI_SET_SYMBOLS (BNI_SET(BNI_CLASS_OTHER) | BNI_SET(BNI_CLASS_PUNCT) | BNI_SET(BNI_CLASS_MARK))
    /* [^\s\p{L}\p{N}] */

/* Class of the character at s[at], the place behind it in *next; BNI_CLASS_END at the end. */
static int bni_peek(const uint8_t *s, size_t size, size_t at, size_t *next)
{
    uint32_t code;
    *next = at;
    if (at >= size)
        return BNI_CLASS_END;
    *next = at + bni_utf8_decode(s + at, size - at, &code);
    return bni_class_of(code);
}

/* The first place from at on that does not hold a character of the set. */
static size_t bni_run(const uint8_t *s, size_t size, size_t at, unsigned set)
{
    size_t next;
    while (BNI_SET(bni_peek(s, size, at, &next)) & set)
        at = next;
    return at;
}

BNI_INLINE int bni_is_newline(uint8_t c) { return c == '\r' || c == '\n'; }

/* 's|'t|'re|'ve|'m|'ll|'d : bytes of the match, or 0. any_case: (?i:...), where Unicode also counts U+017F as an s. */
static size_t bni_contraction(const uint8_t *s, size_t size, int any_case)
{
    int fold = any_case ? 0x20 : 0, a, b;
    if (size < 2 || s[0] != '\'')
        return 0;
    a = s[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (size < 3)
        return 0;
    b = s[2] | fold;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    return any_case && s[1] == 0xc5 && s[2] == 0xbf ? 3 : 0;
}

/* \s+(?!\S)|\s+ at the start, where a space is: all spaces, but the last one stays for the word that follows, if that
   leaves one. newlines: \s*[\r\n]+ goes first: up to the last line end among them. */
static size_t bni_spaces(const uint8_t *s, size_t size, int newlines)
{
    size_t at = 0, next, last = 0, line_end = 0;
    while (bni_peek(s, size, at, &next) == BNI_CLASS_SPACE) {
        last = at;
        at = next;
        if (bni_is_newline(s[last]))
            line_end = next;
    }
    if (newlines && line_end > 0)
        return line_end;
    return at < size && last > 0 ? last : at;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t bni_word_gpt2(const uint8_t *s, size_t size)
{
    size_t next, start = s[0] == ' ', n = bni_contraction(s, size, 0);
    unsigned set;
    if (n > 0)
        return n;
    set = BNI_SET(bni_peek(s, size, start, &next));
    if (set & BNI_SET_LETTERS)
        return bni_run(s, size, next, BNI_SET_LETTERS);
    if (set & BNI_SET(BNI_CLASS_NUMBER))
        return bni_run(s, size, next, BNI_SET(BNI_CLASS_NUMBER));
    if (set & BNI_SET_SYMBOLS)
        return bni_run(s, size, next, BNI_SET_SYMBOLS);
    return bni_spaces(s, size, 0);
}

#define BNI_SET_FREE (BNI_SET(BNI_CLASS_LETTER) | BNI_SET(BNI_CLASS_MARK))      /* of either case */
#define BNI_SET_HEAD (BNI_SET_FREE | BNI_SET(BNI_CLASS_UPPER))      /* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] */
#define BNI_SET_TAIL (BNI_SET_FREE | BNI_SET(BNI_CLASS_LOWER))      /* [\p{Ll}\p{Lm}\p{Lo}\p{M}] */

/* HEAD*TAIL+ from at: the end of the match, or 0. HEAD* takes all it can; if no lower case letter follows, it gives
   characters back until TAIL+ has one that is in both sets. */
static size_t bni_cased_word(const uint8_t *s, size_t size, size_t at)
{
    size_t next, behind_free = 0;
    unsigned set;
    while ((set = BNI_SET(bni_peek(s, size, at, &next))) & BNI_SET_HEAD) {
        at = next;
        if (set & BNI_SET_FREE)
            behind_free = at;
    }
    return set & BNI_SET_TAIL ? bni_run(s, size, at, BNI_SET_TAIL) : behind_free;
}

/* [^\r\n\p{L}\p{N}]?HEAD*TAIL+|[^\r\n\p{L}\p{N}]?HEAD+TAIL* : bytes of the match, or 0. Each form is tried with the
   leading character taken as such, then without. */
static size_t bni_letters_cased(const uint8_t *s, size_t size)
{
    size_t next, end, at;
    unsigned set = BNI_SET(bni_peek(s, size, 0, &next));
    int lead = !(set & (BNI_SET_LETTERS | BNI_SET(BNI_CLASS_NUMBER))) && !bni_is_newline(s[0]);
    if (lead && (end = bni_cased_word(s, size, next)) > 0)
        return end;
    if ((end = bni_cased_word(s, size, 0)) > 0)
        return end;
    for (at = lead ? next : 0;; at = 0) {
        end = bni_run(s, size, at, BNI_SET_HEAD);
        if (end > at)
            return bni_run(s, size, end, BNI_SET_TAIL);
        if (at == 0)
            return 0;
    }
}

/* [^\r\n\p{L}\p{N}]?\p{L}+ : bytes of the match, or 0. */
static size_t bni_letters(const uint8_t *s, size_t size)
{
    size_t next, start = 0;
    unsigned set = BNI_SET(bni_peek(s, size, 0, &next));
    if (!(set & BNI_SET_LETTERS)) {
        if ((set & BNI_SET(BNI_CLASS_NUMBER)) || bni_is_newline(s[0]))
            return 0;
        start = next;
    }
    next = bni_run(s, size, start, BNI_SET_LETTERS);
    return next > start ? next : 0;
}

/* llama3: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
           \s*[\r\n]+|\s+(?!\S)|\s+
   qwen2: the same with one \p{N}. falcon_e: no contractions, letters by case, one \p{N}, and [\r\n/]* behind symbols,
   whose '/' can't occur: it is punctuation, which the pass before has cut out. */
static size_t bni_word_llama(const uint8_t *s, size_t size, int pass)
{
    int falcon_e = pass == BNI_PASS_FALCON_E;
    int digits = pass == BNI_PASS_LLAMA3 ? 3 : 1;
    size_t next, at = falcon_e ? 0 : bni_contraction(s, size, 1);
    if (at == 0)
        at = falcon_e ? bni_letters_cased(s, size) : bni_letters(s, size);
    if (at > 0)
        return at;
    while (digits-- > 0 && bni_peek(s, size, at, &next) == BNI_CLASS_NUMBER)
        at = next;
    if (at > 0)
        return at;
    if (BNI_SET(bni_peek(s, size, s[0] == ' ', &next)) & BNI_SET_SYMBOLS) {
        at = bni_run(s, size, next, BNI_SET_SYMBOLS);
        while (at < size && bni_is_newline(s[at]))
            at++;
        return at;
    }
    return bni_spaces(s, size, 1);
}

/* 1: the character at s[at] is in the set of a pass that cuts out runs. */
static int bni_in_pass(const uint8_t *s, size_t size, size_t at, size_t *next, int pass)
{
    int kind = bni_peek(s, size, at, next), c = at < size ? s[at] : 0;
    switch (pass) {
    case BNI_PASS_PUNCT:
    case BNI_PASS_PUNCT_TICK:
        return kind == BNI_CLASS_PUNCT || c == '$' || c == '+' || c == '<' || c == '=' || c == '>' || c == '^' ||
               c == '~' || c == '|' || (c == '`' && pass == BNI_PASS_PUNCT_TICK);
    case BNI_PASS_NUMBER:
    case BNI_PASS_NUMBERS:
        return kind == BNI_CLASS_NUMBER;
    default:
        return c >= '0' && c <= '9';
    }
}

/* The next match, or everything before it. */
static size_t bni_word_run(const uint8_t *s, size_t size, int pass)
{
    size_t least = pass == BNI_PASS_DIGITS3 ? 3 : 1;
    size_t most = pass == BNI_PASS_DIGITS3 ? 3 : pass == BNI_PASS_NUMBER || pass == BNI_PASS_DIGIT ? 1 : SIZE_MAX;
    size_t gap = 0, at, n, next;
    while (gap < size) {
        for (at = gap, n = 0; n < most && bni_in_pass(s, size, at, &next, pass); n++)
            at = next;
        if (n >= least)
            return gap > 0 ? gap : at;
        gap = n > 0 ? at : next;               /* too short a run has no match inside either */
    }
    return gap;
}

/* Bytes of the next word of one pass over s [size], size > 0. */
static size_t bni_word_of_pass(const uint8_t *s, size_t size, int pass)
{
    if (pass == BNI_PASS_GPT2)
        return bni_word_gpt2(s, size);
    return pass < BNI_PASS_GPT2 ? bni_word_llama(s, size, pass) : bni_word_run(s, size, pass);
}

/* Goes through the words of a text: every pass remembers where its piece ends, and the next pass cuts inside it. */
typedef struct bni_words {
    const bni_pre *pre;
    const uint8_t *text;
    size_t size, at, end[BNI_MAX_PASSES];
} bni_words;

/* Bytes of the next word, which *word points to; 0 at the end. */
static size_t bni_words_next(bni_words *w, const uint8_t **word)
{
    size_t limit = w->size;
    int k;
    *word = w->text + w->at;
    if (w->at >= w->size)
        return 0;
    for (k = 0; k < w->pre->n_passes; k++) {
        if (w->end[k] <= w->at)
            w->end[k] = w->at + bni_word_of_pass(w->text + w->at, limit - w->at, w->pre->pass[k]);
        limit = w->end[k];
    }
    w->at = limit;
    return (size_t)(w->text + limit - *word);
}

/* -------------------------------------------------------------------------------------------------------- merging
   A word is a list of symbols; the queue holds, for every neighbouring pair that may join, rank * 2^32 + its left
   symbol, so that the smallest entry is the best rank and, among equals, the leftmost. Entries are never taken out
   early: one whose rank is no longer that of its pair is skipped when its turn comes. */

typedef struct bni_symbol {
    uint32_t at;                     /* SPM: where its text begins; it ends where the next symbol's begins */
    int32_t id;                      /* -1: not in the vocabulary */
    uint32_t prev, next;             /* neighbours, BNI_NONE at the ends */
    uint32_t rank;                   /* of joining it with the next one; BNI_NONE: they don't */
    int32_t joint;                   /* the token the two become */
} bni_symbol;

/* One call of bni_tokenize. */
typedef struct bni_work {
    const bni_tokenizer *t;
    const bitnet_allocator *scratch;
    int32_t *tokens;                 /* [capacity] the result; n counts on past capacity */
    int64_t capacity, n;
    int failed;                      /* 1: no memory */
    uint8_t *escaped;                /* SPM: [text_size] the piece, its spaces replaced; room for any piece */
    uint64_t escaped_size;
    uint32_t text_size;
    bni_symbol *symbols;             /* [n_room] */
    uint64_t *queue;                 /* [2 * n_room]: a joint takes one entry away and adds two at most */
    uint32_t n_queue, n_room, most_symbols;
    void *block;                     /* of both, once a word was long */
    bni_symbol few_symbols[BNI_SHORT_WORD];
    uint64_t few_queue[2 * BNI_SHORT_WORD];
} bni_work;

#define BNI_SYMBOL_BYTES (sizeof(bni_symbol) + 2 * sizeof(uint64_t))

/* Counts every token and writes those that fit: the caller learns how much room it needs. */
BNI_INLINE void bni_emit(bni_work *w, int32_t id)
{
    if (w->n < w->capacity)
        w->tokens[w->n] = id;
    w->n++;
}

/* Room for a word of n symbols; 0 where there is no memory. What was in it is lost. Half as much again is taken, since
   words that get longer and longer would else allocate each time. */
static int bni_work_room(bni_work *w, uint32_t n)
{
    uint32_t room = n + n / 2;
    if (n <= w->n_room)
        return 1;
    if (room > w->most_symbols)
        room = w->most_symbols > n ? w->most_symbols : n;
    if (w->block)
        bni_free(w->scratch, w->block, (uint64_t)w->n_room * BNI_SYMBOL_BYTES);
    w->n_room = 0;
    w->block = bni_alloc(w->scratch, (uint64_t)room * BNI_SYMBOL_BYTES, 8);
    if (!w->block) {
        w->failed = 1;
        return 0;
    }
    w->n_room = room;
    w->queue = (uint64_t *)w->block;
    w->symbols = (bni_symbol *)(void *)(w->queue + 2 * (size_t)room);
    return 1;
}

/* The queue is a heap with four children per node, which has half the levels of one with two: a long word's queue is
   larger than the caches, and every level is a miss. */
static void bni_queue_add(bni_work *w, uint64_t key)
{
    uint32_t i = w->n_queue++;
    while (i > 0 && w->queue[(i - 1) / 4] > key) {
        w->queue[i] = w->queue[(i - 1) / 4];
        i = (i - 1) / 4;
    }
    w->queue[i] = key;
}

/* The smallest entry of a queue that has one. The last entry moves to the hole it leaves and sinks. */
static uint64_t bni_queue_take(bni_work *w)
{
    uint64_t *q = w->queue, best = q[0], key = q[--w->n_queue];
    uint32_t i = 0, n = w->n_queue, child, least, end;
    while ((child = 4 * i + 1) < n) {
        end = child + 4 < n ? child + 4 : n;
        for (least = child++; child < end; child++)
            if (q[child] < q[least])
                least = child;
        if (q[least] >= key)
            break;
        q[i] = q[least];
        i = least;
    }
    q[i] = key;
    return best;
}

/* SPM: the text of the symbols from left up to, not including, the symbol past. */
static bni_str bni_symbol_text(const bni_work *w, uint32_t left, uint32_t past)
{
    bni_str s;
    s.data = (const char *)w->escaped + w->symbols[left].at;
    s.size = (past == BNI_NONE ? w->text_size : w->symbols[past].at) - w->symbols[left].at;
    return s;
}

/* Sees whether a symbol and the next one may join, and queues it if so. SPM: the joint text must be a token, and the
   better score goes first. BPE: the pair must be in the file's list of merges, and the earlier one goes first. */
static void bni_queue_pair(bni_work *w, uint32_t left)
{
    const bni_tokenizer *t = w->t;
    bni_symbol *s = &w->symbols[left];
    s->rank = BNI_NONE;
    if (s->next == BNI_NONE)
        return;
    if (t->spm) {
        s->joint = bni_plain(t, bni_token_find(t, bni_symbol_text(w, left, w->symbols[s->next].next)));
        if (s->joint >= 0)
            s->rank = t->ranks[s->joint];
    } else {
        const bni_merge *m = bni_find_merge(t, s->id, w->symbols[s->next].id);
        if (m) {
            s->joint = (int32_t)m->id;
            s->rank = m->rank;
        }
    }
    if (s->rank != BNI_NONE)
        bni_queue_add(w, (uint64_t)s->rank << 32 | left);
}

/* Joins the symbols [n] of a word, given their ids and places, until no pair is left; the first one stays first. A
   joint queues at most two pairs, and there are n - 1 joints at most: n log n on any input, where looking for the best
   pair anew each time would take n^2. */
static void bni_merge_symbols(bni_work *w, uint32_t n)
{
    uint32_t i;
    w->n_queue = 0;
    for (i = 0; i < n; i++) {
        w->symbols[i].prev = i > 0 ? i - 1 : BNI_NONE;
        w->symbols[i].next = i + 1 < n ? i + 1 : BNI_NONE;
    }
    for (i = 0; i < n; i++)
        bni_queue_pair(w, i);
    while (w->n_queue > 0) {
        uint64_t key = bni_queue_take(w);
        bni_symbol *left = &w->symbols[(uint32_t)key], *right;
        /* Stale: the pair has changed since. Where a new pair happens to have the same rank, joining it now is right
           too, as it would be the next one anyway. */
        if (left->rank != (uint32_t)(key >> 32))
            continue;
        right = &w->symbols[left->next];
        right->rank = BNI_NONE;                /* it is gone; no entry in the queue has this rank */
        left->id = left->joint;
        left->next = right->next;
        if (left->next != BNI_NONE)
            w->symbols[left->next].prev = (uint32_t)key;
        bni_queue_pair(w, (uint32_t)key);
        if (left->prev != BNI_NONE)
            bni_queue_pair(w, left->prev);
    }
}

/* One word of BPE (Sennrich et al. 2016, over bytes as in GPT-2). A byte that no token spells is dropped, as in
   llama.cpp. whole_words: a word that is a token is taken as it is, whatever the merges would make of it. */
static void bni_bpe_word(bni_work *w, const uint8_t *word, size_t size)
{
    const bni_tokenizer *t = w->t;
    uint32_t i;
    if (t->pre->whole_words && size <= BNI_MAX_WHOLE) {
        char spelled[2 * BNI_MAX_WHOLE];
        int32_t id = bni_plain(t, bni_token_find(t, bni_spell(spelled, word, size)));
        if (id >= 0) {
            bni_emit(w, id);
            return;
        }
    }
    if (!bni_work_room(w, (uint32_t)size))
        return;
    for (i = 0; i < (uint32_t)size; i++)
        w->symbols[i].id = t->byte_token[word[i]];
    bni_merge_symbols(w, (uint32_t)size);
    for (i = 0; i != BNI_NONE; i = w->symbols[i].next)
        if (w->symbols[i].id >= 0)
            bni_emit(w, w->symbols[i].id);
}

/* A symbol outside the vocabulary: its bytes' tokens, or the unknown token. */
static void bni_spm_spell(bni_work *w, bni_str text)
{
    const bni_tokenizer *t = w->t;
    size_t i;
    for (i = 0; i < text.size && t->has_bytes; i++) {
        int32_t id = t->byte_token[(uint8_t)text.data[i]];
        if (id < 0)
            id = t->unknown;
        if (id >= 0)
            bni_emit(w, id);
    }
    if (!t->has_bytes && t->unknown >= 0)
        bni_emit(w, t->unknown);
}

/* Copies a piece to w->escaped with U+2581 for every space, and one in front where the model wants that. The room was
   counted from the whole text's spaces by bni_work_begin, so any piece of it fits. */
static void bni_spm_escape(bni_work *w, const uint8_t *piece, size_t size)
{
    uint8_t *to = w->escaped;
    size_t i;
    for (i = 0; i < size + 1; i++) {
        if (i == 0 ? w->t->add_space_prefix : piece[i - 1] == ' ') {
            memcpy(to, "\xe2\x96\x81", 3);
            to += 3;
        } else if (i > 0) {
            *to++ = piece[i - 1];
        }
    }
    w->text_size = (uint32_t)(to - w->escaped);
}

/* A piece of text between special tokens, by SPM (SentencePiece, Kudo and Richardson 2018): from characters on, the
   pair with the best score is joined. There are no words; a long piece is one list. */
static void bni_spm_piece(bni_work *w, const uint8_t *piece, size_t size)
{
    uint32_t i, n = 0, at, code;
    if (!bni_work_room(w, (uint32_t)size + 1))
        return;
    bni_spm_escape(w, piece, size);
    for (at = 0; at < w->text_size; n++) {
        bni_str c;
        c.data = (const char *)w->escaped + at;
        c.size = bni_utf8_decode(w->escaped + at, w->text_size - at, &code);
        w->symbols[n].at = at;
        w->symbols[n].id = bni_plain(w->t, bni_token_find(w->t, c));
        at += (uint32_t)c.size;
    }
    bni_merge_symbols(w, n);
    for (i = 0; i != BNI_NONE; i = w->symbols[i].next) {
        if (w->symbols[i].id >= 0)
            bni_emit(w, w->symbols[i].id);
        else
            bni_spm_spell(w, bni_symbol_text(w, i, w->symbols[i].next));
    }
}

/* Ordinary text, no special token in it. */
static void bni_tokenize_piece(bni_work *w, const uint8_t *piece, size_t size)
{
    bni_words words;
    const uint8_t *word;
    size_t n;
    if (size == 0 || w->failed)
        return;
    if (w->t->spm) {
        bni_spm_piece(w, piece, size);
        return;
    }
    memset(&words, 0, sizeof words);
    words.pre = w->t->pre;
    words.text = piece;
    words.size = size;
    while (!w->failed && (n = bni_words_next(&words, &word)) > 0)
        bni_bpe_word(w, word, n);
}

/* ------------------------------------------------------------------------------------------------- special tokens */

/* The longest special token that s [size] begins with, or -1. all: control tokens too, not only user-defined ones.
   Every special text that begins s sorts before s and at or before the last entry that does, which begins with it:
   so it is that entry, or on the chain of beginnings above it. */
static int32_t bni_find_special(const bni_tokenizer *t, const uint8_t *s, size_t size, int all)
{
    uint32_t low = 0, high = t->n_special, j;
    size_t same = 0;
    bni_str text;
    if (!(t->special_first[all != 0][s[0] >> 5] >> (s[0] & 31) & 1))
        return -1;
    while (low < high) {                       /* low: how many entries are at or before s */
        uint32_t middle = low + (high - low) / 2;
        int c;
        text = bni_token_text(t, (int32_t)t->special[middle]);
        c = memcmp(text.data, s, text.size < size ? text.size : size);
        if (c < 0 || (c == 0 && text.size <= size))
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return -1;
    text = bni_token_text(t, (int32_t)t->special[low - 1]);
    while (same < text.size && same < size && (uint8_t)text.data[same] == s[same])
        same++;
    for (j = low - 1; j != BNI_NONE; j = t->special_prefix[j]) {
        int32_t id = (int32_t)t->special[j];
        if (t->tokens[id].size <= same && (all || (t->kinds[id] & BNI_TOKEN_KIND) == BNI_TOKEN_USER))
            return id;
    }
    return -1;
}

/* A stretch of text in which control tokens are read as such, or not. */
typedef struct bni_span { size_t end; int special; } bni_span;

/* Cuts text at its special tokens, leftmost first and the longest there, and tokenizes what is between them. Words may
   reach over the border of two spans, special tokens not. spans: the last one's end is size. */
static void bni_tokenize_text(bni_work *w, const uint8_t *text, size_t size, const bni_span *span)
{
    size_t at = 0, done = 0;
    int32_t id;
    while (at < size && !w->failed) {
        /* A special token can't reach over the end of a span: a user's text must not complete one of the template's.
           */
        while (at >= span->end)
            span++;
        id = bni_find_special(w->t, text + at, span->end - at, span->special);
        if (id < 0) {
            at++;
            continue;
        }
        bni_tokenize_piece(w, text + done, at - done);
        bni_emit(w, id);
        at += w->t->tokens[id].size;
        done = at;
    }
    bni_tokenize_piece(w, text + done, size - done);
}

/* Sets up *w, with SPM's room for the text: 3 bytes for each space, and 3 in front. OK, ARGUMENT (too long) or MEMORY.
   Only what stands before few_symbols is cleared: the arrays are written before they are read. Short words need no
   memory from the allocator. */
static bitnet_result bni_work_begin(bni_work *w, const bni_tokenizer *t, const bitnet_allocator *scratch,
                                    const char *text, size_t size, int32_t *tokens, int64_t capacity)
{
    size_t i, n;
    if (size > BNI_MAX_TEXT)
        return BITNET_ERROR_ARGUMENT;
    memset(w, 0, offsetof(bni_work, few_symbols));
    w->t = t;
    w->scratch = scratch;
    w->tokens = tokens;
    w->capacity = capacity;
    w->symbols = w->few_symbols;
    w->queue = w->few_queue;
    w->n_room = BNI_SHORT_WORD;
    w->most_symbols = (uint32_t)size + 1;        /* SPM: one for the space in front */
    if (t->spm) {
        for (i = 0, n = size + 3; i < size; i++)
            n += text[i] == ' ' ? 2 : 0;
        w->escaped_size = n;
        w->escaped = (uint8_t *)bni_alloc(scratch, n, 1);
        if (!w->escaped)
            return BITNET_ERROR_MEMORY;
    }
    return BITNET_OK;
}

/* Frees what *w took. The number of tokens, or MEMORY. */
static int64_t bni_work_end(bni_work *w)
{
    if (w->block)
        bni_free(w->scratch, w->block, (uint64_t)w->n_room * BNI_SYMBOL_BYTES);
    bni_free(w->scratch, w->escaped, w->escaped_size);
    return w->failed ? (int64_t)BITNET_ERROR_MEMORY : w->n;
}

/* Number of tokens of text [size], of which at most capacity are written; negative: ARGUMENT (over 256 MiB) or MEMORY.
   parse_special: read control tokens in the text. add_ends: begin and end tokens as the model says. */
static int64_t bni_tokenize(const bni_tokenizer *t, const bitnet_allocator *scratch, const char *text, size_t size,
                            int parse_special, int add_ends, int32_t *tokens, int64_t capacity)
{
    bni_work w;
    bni_span span;
    bitnet_result r = bni_work_begin(&w, t, scratch, text, size, tokens, capacity);
    if (r != BITNET_OK)
        return r;
    if (size == 0)
        text = "";
    span.end = size;
    span.special = parse_special;
    if (add_ends && t->add_bos && t->bos >= 0)
        bni_emit(&w, t->bos);
    bni_tokenize_text(&w, (const uint8_t *)text, size, &span);
    if (add_ends && t->add_eos && t->eos >= 0)
        bni_emit(&w, t->eos);
    return bni_work_end(&w);
}

/* --------------------------------------------------------------------------------------------------- tokens to text */

/* Text being written, snprintf rule: size counts on past capacity. */
typedef struct bni_writer {
    char *data;
    size_t capacity, size;
    int skip_space;                  /* 1: a space as the very first byte is left out */
} bni_writer;

/* Empty, over data [capacity]; data may be NULL where capacity is 0. */
static bni_writer bni_writer_of(char *data, size_t capacity)
{
    bni_writer o;
    memset(&o, 0, sizeof o);
    o.data = data;
    o.capacity = capacity;
    return o;
}

/* Appends; what does not fit is only counted. */
static void bni_write(bni_writer *o, const char *data, size_t size)
{
    if (size > 0 && o->skip_space) {
        o->skip_space = 0;
        if (data[0] == ' ') {
            data++;
            size--;
        }
    }
    if (o->size < o->capacity)
        memcpy(o->data + o->size, data, size < o->capacity - o->size ? size : o->capacity - o->size);
    o->size += size;
}

/* The bytes that an ordinary token's text stands for. */
static void bni_write_text(bni_writer *o, const bni_tokenizer *t, bni_str text)
{
    const uint8_t *s = (const uint8_t *)text.data;
    size_t at, n;
    uint32_t code;
    for (at = 0; at < text.size; at += n) {
        int byte;
        char c;
        n = bni_utf8_decode(s + at, text.size - at, &code);
        byte = t->spm ? (code == 0x2581 ? ' ' : -1) : bni_byte_of_code(code);
        c = (char)byte;
        if (byte >= 0)
            bni_write(o, &c, 1);
        else
            bni_write(o, text.data + at, n);       /* odd vocabularies: as it stands */
    }
}

/* What a token prints, by its kind. */
static void bni_write_token(bni_writer *o, const bni_tokenizer *t, int32_t id, int render_special)
{
    bni_str text = bni_token_text(t, id);
    int kind = id >= 0 && id < t->n_tokens ? t->kinds[id] & BNI_TOKEN_KIND : (int)BNI_TOKEN_CONTROL;
    int byte = kind == BNI_TOKEN_BYTE ? bni_byte_text(text) : -1;
    char c = (char)byte;
    if (byte >= 0)
        bni_write(o, &c, 1);
    else if (kind == BNI_TOKEN_NORMAL || kind == BNI_TOKEN_BYTE)
        bni_write_text(o, t, text);
    else if (kind == BNI_TOKEN_USER || render_special)
        bni_write(o, text.data, text.size);
}

/* Bytes that a token prints (part of a UTF-8 character, maybe), at most capacity of them written. Control, unknown and
   unused tokens print nothing, or their names if render_special. Ids outside the vocabulary: 0. */
static size_t bni_token_bytes(const bni_tokenizer *t, int32_t id, int render_special, char *data, size_t capacity)
{
    bni_writer o = bni_writer_of(data, capacity);
    bni_write_token(&o, t, id, render_special);
    return o.size;
}

/* Bytes of the text of tokens [n], at most capacity written; ARGUMENT if one is outside the vocabulary. The space that
   SPM put in front is taken away again. */
static int64_t bni_detokenize(const bni_tokenizer *t, const int32_t *tokens, int64_t n, int render_special, char *data,
                              size_t capacity)
{
    bni_writer o = bni_writer_of(data, capacity);
    int64_t i;
    o.skip_space = t->add_space_prefix;
    for (i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= t->n_tokens)
            return BITNET_ERROR_ARGUMENT;
        bni_write_token(&o, t, tokens[i], render_special);
    }
    return (int64_t)o.size;
}
/* ======================================================================================================
   >>chat    Conversations as text
   ======================================================================================================
   A chat model has learnt conversations in one exact spelling, its chat template. Files carry it as a program in the
   Jinja language; instead of running that, we recognise the few templates that ternary models use, by their
   markers, and keep each as a row of strings.

   Text of the template and text of a message are kept apart until the last moment: control tokens are read in the
   template only. A user who types <|eot_id|> gets ordinary tokens for its letters, not the end of his turn. Both are
   cut into words together, though, since that is how the model saw them: "User: " and "Hi" give "User", ":", " Hi".
   That is why bni_chat_format's text, tokenized again, is not safe: bni_chat_tokenize is. */

enum { BNI_ROLE_SYSTEM, BNI_ROLE_USER, BNI_ROLE_ASSISTANT, BNI_N_ROLES };

/* As callers spell them. */
static const char *const bni_roles[BNI_N_ROLES] = {"system", "user", "assistant"};

/* message = open, role, close, content, end, tail. end is what the model itself says when it is done; tail is what the
   template adds behind it before the next message. */
typedef struct bni_chat_template {
    const char *name;
    const char *open, *role[BNI_N_ROLES], *close, *end, *tail;
    int bos;                         /* 1: the template itself begins with the begin-of-text token */
    int trim;                        /* 1: spaces around a message's content are dropped */
} bni_chat_template;

/* Sources: bitnet: tokenizer_config.json of microsoft/bitnet-b1.58-2B-4T. llama3: Llama-3-8B-Instruct's. falcon3:
   Falcon3-Instruct's, as in llama.cpp. chatml: Qwen's, without a default system message. falcon_e: Falcon-E's model
   card. */
static const bni_chat_template bni_chat_templates[] = {
    {"none", "", {"", "", ""}, "", "", "", 0, 0},
    {"bitnet", "", {"System", "User", "Assistant"}, ": ", "<|eot_id|>", "", 1, 1},
    {"llama3", "<|start_header_id|>", {"system", "user", "assistant"}, "<|end_header_id|>\n\n", "<|eot_id|>", "", 1, 1},
    {"falcon3", "<|", {"system", "user", "assistant"}, "|>\n", "", "\n", 0, 0},
    {"chatml", "<|im_start|>", {"system", "user", "assistant"}, "\n", "<|im_end|>", "\n", 0, 0},
    {"falcon_e", "<|im_start|>", {"system", "user", "assistant"}, "\n", "<|im_end|>", "\n", 0, 0}
};
enum { BNI_CHAT_NONE, BNI_CHAT_BITNET, BNI_CHAT_LLAMA3, BNI_CHAT_FALCON3, BNI_CHAT_CHATML, BNI_CHAT_FALCON_E,
       BNI_N_CHATS };

/* Beside the public flags BITNET_CHAT_ANSWER and _CONTINUE: with CONTINUE, the earlier answer was cut off, so its end
   marker is still to be said. */
#define BNI_CHAT_CLOSE 256

/* Name of the i-th template; NULL past the last. */
static const char *bni_chat_name(int i) { return i >= 0 && i < BNI_N_CHATS ? bni_chat_templates[i].name : NULL; }

/* Index of a template, or -1. */
static int bni_chat_by_name(const char *name)
{
    int i;
    for (i = 0; i < BNI_N_CHATS; i++)
        if (bni_str_equal(bni_str_of(name), bni_chat_templates[i].name))
            return i;
    return -1;
}

static int bni_str_contains(bni_str s, const char *what)
{
    size_t n = strlen(what), at;
    for (at = 0; at + n <= s.size; at++)
        if (memcmp(s.data + at, what, n) == 0)
            return 1;
    return 0;
}

/* The template of a file, by the markers in its tokenizer.chat_template; BNI_CHAT_NONE if it has none that we know.
   The official 2B-4T GGUF holds an outdated one, "Human: ... BITNETAssistant: ", which the model was not trained on. */
static int bni_chat_detect(const bni_gguf *g, const bni_tokenizer *t, bni_str arch)
{
    bni_str text;
    int bitnet = arch.size >= 6 && memcmp(arch.data, "bitnet", 6) == 0;
    if (!bni_kv_string(bni_gguf_find(g, "tokenizer.chat_template"), &text) || t->n_tokens == 0)
        return BNI_CHAT_NONE;
    if (bitnet && bni_str_contains(text, "BITNETAssistant"))
        return BNI_CHAT_BITNET;
    if (bni_str_contains(text, "<|start_header_id|>"))
        return BNI_CHAT_LLAMA3;
    if (bni_str_contains(text, "<|im_start|>"))
        return BNI_CHAT_CHATML;
    if (bni_str_contains(text, "<|eot_id|>") && (bitnet || bni_str_contains(text, "capitalize")))
        return BNI_CHAT_BITNET;
    /* <|end|> beside these would be Phi 3. Falcon 3's own spells every role or builds them as '<|' + role. */
    if (bni_str_contains(text, "<|assistant|>") && !bni_str_contains(text, "<|end|>"))
        return BNI_CHAT_FALCON3;
    return BNI_CHAT_NONE;
}

/* The content of a message without the Unicode spaces around it. */
static bni_str bni_trim(bni_str s)
{
    const uint8_t *b = (const uint8_t *)s.data;
    size_t at = 0, next, first = s.size, past = 0;
    uint32_t code;
    for (; at < s.size; at = next) {
        next = at + bni_utf8_decode(b + at, s.size - at, &code);
        if (bni_class_of(code) != BNI_CLASS_SPACE) {
            if (first == s.size)
                first = at;
            past = next;
        }
    }
    s.data += first;
    s.size = past > first ? past - first : 0;
    return s;
}

/* Text written piece by piece, with a span for every stretch of template or of content. */
typedef struct bni_chat_out {
    bni_writer text;
    bni_span *spans;                 /* [n_spans], or NULL: only counted */
    size_t n_spans;
    int in_template;                 /* of the last span */
} bni_chat_out;

static void bni_chat_piece(bni_chat_out *o, bni_str piece, int in_template)
{
    if (piece.size == 0)
        return;
    bni_write(&o->text, piece.data, piece.size);
    if (o->n_spans == 0 || in_template != o->in_template)
        o->n_spans++;
    o->in_template = in_template;
    if (o->spans) {
        o->spans[o->n_spans - 1].end = o->text.size;
        o->spans[o->n_spans - 1].special = in_template;
    }
}

static void bni_chat_marker(bni_chat_out *o, const char *piece) { bni_chat_piece(o, bni_str_of(piece), 1); }

/* The conversation without its begin-of-text token. ARGUMENT for a NULL or a role that the template doesn't have. */
static bitnet_result bni_chat_emit(bni_chat_out *o, const bni_chat_template *c, const bitnet_chat_message *messages,
                                   int n, int flags)
{
    int i, role;
    if (flags & BNI_CHAT_CLOSE)
        bni_chat_marker(o, c->end);
    if (flags & BITNET_CHAT_CONTINUE)
        bni_chat_marker(o, c->tail);
    for (i = 0; i < n; i++) {
        bni_str content;
        if (!messages[i].role || !messages[i].content)
            return BITNET_ERROR_ARGUMENT;
        for (role = 0; role < BNI_N_ROLES; role++)
            if (bni_str_equal(bni_str_of(messages[i].role), bni_roles[role]))
                break;
        if (role == BNI_N_ROLES)
            return BITNET_ERROR_ARGUMENT;
        content = bni_str_of(messages[i].content);
        bni_chat_marker(o, c->open);
        bni_chat_marker(o, c->role[role]);
        bni_chat_marker(o, c->close);
        bni_chat_piece(o, c->trim ? bni_trim(content) : content, 0);
        bni_chat_marker(o, c->end);
        bni_chat_marker(o, c->tail);
    }
    if (flags & BITNET_CHAT_ANSWER) {
        bni_chat_marker(o, c->open);
        bni_chat_marker(o, c->role[BNI_ROLE_ASSISTANT]);
        bni_chat_marker(o, c->close);
    }
    return BITNET_OK;
}

BNI_INLINE int bni_chat_known(int chat) { return chat > BNI_CHAT_NONE && chat < BNI_N_CHATS; }

/* Bytes of the conversation as text, at most capacity written; ARGUMENT if chat has no template or a role is unknown.
   Starts with the begin-of-text token's name where the template does and flags don't say CONTINUE. */
static int64_t bni_chat_format(const bni_tokenizer *t, int chat, const bitnet_chat_message *messages, int n, int flags,
                               char *text, size_t capacity)
{
    bni_chat_out o;
    bitnet_result r;
    if (!bni_chat_known(chat))
        return BITNET_ERROR_ARGUMENT;
    memset(&o, 0, sizeof o);
    o.text.data = text;
    o.text.capacity = capacity;
    if (bni_chat_templates[chat].bos && !(flags & BITNET_CHAT_CONTINUE))
        bni_chat_piece(&o, bni_token_text(t, t->bos), 1);
    r = bni_chat_emit(&o, &bni_chat_templates[chat], messages, n, flags);
    return r == BITNET_OK ? (int64_t)o.text.size : (int64_t)r;
}

/* Number of tokens of the conversation, at most capacity written. Begins with exactly one begin-of-text token where
   the template or the model wants one and flags don't say CONTINUE. Control tokens are read in the template only.
   Negative: ARGUMENT as above, MEMORY. */
static int64_t bni_chat_tokenize(const bni_tokenizer *t, const bitnet_allocator *scratch, int chat,
                                 const bitnet_chat_message *messages, int n, int flags, int32_t *tokens,
                                 int64_t capacity)
{
    bni_chat_out o;
    bni_work w;
    uint64_t size;
    void *block;
    int64_t count;
    bitnet_result r = bni_chat_known(chat) ? BITNET_OK : BITNET_ERROR_ARGUMENT;
    memset(&o, 0, sizeof o);
    if (r == BITNET_OK)
        r = bni_chat_emit(&o, &bni_chat_templates[chat], messages, n, flags);      /* counts */
    if (r != BITNET_OK)
        return r;
    if (o.text.size > BNI_MAX_TEXT)
        return BITNET_ERROR_ARGUMENT;
    size = (uint64_t)o.n_spans * sizeof(bni_span) + o.text.size + 1;
    block = bni_alloc(scratch, size, sizeof(void *));
    if (!block)
        return BITNET_ERROR_MEMORY;
    o.spans = (bni_span *)block;
    o.text.data = (char *)(o.spans + o.n_spans);
    o.text.capacity = o.text.size;
    o.text.size = 0;
    o.n_spans = 0;
    bni_chat_emit(&o, &bni_chat_templates[chat], messages, n, flags);              /* writes */
    count = bni_work_begin(&w, t, scratch, o.text.data, o.text.size, tokens, capacity);
    if (count == BITNET_OK) {
        if (!(flags & BITNET_CHAT_CONTINUE) && (bni_chat_templates[chat].bos || t->add_bos) && t->bos >= 0)
            bni_emit(&w, t->bos);
        bni_tokenize_text(&w, (const uint8_t *)o.text.data, o.text.size, o.spans);
        count = bni_work_end(&w);
    }
    bni_free(scratch, block, size);
    return count;
}
/* ======================================================================================================
   >>head    The output matrix in two passes
   ======================================================================================================
   The output matrix is the largest of a BitNet model: 656 MB of F16 beside 417 MB of ternary weights in the 2B-4T
   model. Yet a sampler that looks at the best k logits needs k of 128,256 exactly. So at load each row w is also stored
   as bytes, w = scale q + e with q in -127..127: half of the memory traffic. A token then goes in two passes:

   1. From bytes alone, for every row an approximation A of its logit L and a bound |L - A| <= B.
   2. The k-th largest A - B is a threshold T: k rows have logits of at least T, so the best k all have A + B >= T. Those
      rows, a few hundred of 128,256, are computed from F16 by the very function that the full head uses, bit for bit.

   Whatever falls below T gets the logit -3.4e38, which no sampler draws as long as k better ones are there. The
   result is the full head's token, always; only the time differs. min-p without top-k works alike: what lies more than
   -log(min_p) below the largest A - B is out. A request that needs every logit runs the full head.

   The bound. The hidden state x goes in two planes of integers, x = x0 + x1 + d with x0 = s0 q0, x1 = s1 q1: with
   one plane, a channel that stands out, as BitNet models have, would leave nothing for the others. Let |.| be Euclidean
   length, u = 2^-24 and n the number of columns. In real numbers

       w.x - (scale q).(x0 + x1) = e.x + (scale q).d        so at most |e| |x| + (|w| + |e|) |d|     (Cauchy-Schwarz)

   The integer sums are exact. To make A of them each is rounded to float, multiplied, added to the other and multiplied,
   each time within 1 + u: at most 5 u |scale| (|s0 q.q0| + |s1 q.q1|) <= 5 u (|w| + |e|) (|x0| + |x1|). The F16 logit L
   itself is a sum of n products in 16 lanes, n / 16 + 4 additions deep, and within (n / 16 + 6) u |w| |x| of w.x to
   first order. Together, with G = 8 u (|x0| + |x1|) and g = 1.1 (n / 16 + 8) u,

       B = |e| (|x| + |d| + G) + |w| (|d| + g |x| + G)

   The lengths |w| and |e| are stored per row, |x|, |x0|, |x1| and |d| computed once per token, in double; 1e-5 more on
   both parentheses pays for the rounding of all that. */

/* Least bytes of an output matrix for "auto": smaller ones live in the caches anyway. */
#define BNI_PLANE_LEAST (32u << 20)
#define BNI_PLANE_TOP 1024           /* largest k: beyond that most of the time would go into rescoring */
#define BNI_PLANE_OUT (-3.4e38f)     /* logit of rows that were not computed */

/* The bytes of the output matrix. Rows are padded to whole strips of 16, columns to 16. */
typedef struct bni_plane {
    uint8_t *strips;                 /* [n_strips][n_cols / 4][16][4], q + 128; NULL: there is none */
    float *scale;                    /* [16 n_strips] */
    float *error, *length;           /* [16 n_strips] not less than |e| and |w| */
    float longest;                   /* the largest of length */
    int n_strips, n_cols;
} bni_plane;

/* What the first pass knows of a row's hidden state, and what it is looked for. */
typedef struct bni_goal {
    float of_error, of_length;       /* B = of_error * |e| + of_length * |w| */
    double threshold;                /* rows with A + B below it are out */
} bni_goal;

/* Strip s of the table to bytes. w [n_cols] is scratch. The sums of squares are rounded n / 16 + 6 times, of which 1.001
   is a multiple up to 65,536 columns; e itself was rounded twice, 4 u |w| at most; and squares below 1e-38 are lost. */
static void bni_plane_pack(const bni_plane *p, const bni_kernels *kernels, int type, const uint8_t *rows, size_t row_bytes,
                           int n_rows, int n, int s, float *w)
{
    uint8_t *strip = p->strips + (size_t)s * 16 * (size_t)p->n_cols;
    int r, i;
    for (r = 16 * s; r < 16 * s + 16; r++) {
        int8_t *to = (int8_t *)strip + 4 * (r % 16);
        float about[3] = {0.0f, 0.0f, 0.0f};
        if (r < n_rows)
            kernels->plane_row(w, about, type, rows + (size_t)r * row_bytes, n);
        else
            memset(w, 0, (size_t)p->n_cols * sizeof *w);
        (void)kernels->quantize_i8(to, 4, 64, w, about[0] > 0.0f ? 1.0f / about[0] : 0.0f, n);
        p->scale[r] = about[0];
        p->length[r] = bni_sqrtf(about[1]) * 1.001f + 1e-15f;
        p->error[r] = bni_sqrtf(about[2]) * 1.001f + 4.0f / 16777216.0f * p->length[r] + 1e-15f;
    }
    for (i = 0; i < 16 * p->n_cols; i += 8) {            /* signed to unsigned, eight at a time */
        uint64_t eight;
        memcpy(&eight, strip + i, 8);
        eight ^= 0x8080808080808080u;
        memcpy(strip + i, &eight, 8);
    }
}

/* x [n, padded with zeros to n_cols] in two planes, and the bound that follows. 0 where x is too large for the bound to
   be finite; the full head may still be fine then. Any integers would do, as the bound is computed from what they leave. */
static int bni_plane_split(const bni_plane *p, const bni_kernels *kernels, const float *x, int n, float max, bni_split *to,
                           bni_goal *goal)
{
    const double u = 1.0 / 16777216.0;
    const int stride = bni_split_stride(p->n_cols);
    double whole = 0, rest = 0, part[2] = {0, 0}, more;
    float inverse[2];
    int i, c;
    for (c = 0; c < 2; c++) {
        to->s[c] = c ? to->s[0] / 254.0f : max / 127.0f;
        inverse[c] = to->s[c] > 1e-30f ? 1.0f / to->s[c] : 0.0f;
        to->bias[c] = 0;
    }
    for (i = 0; i < p->n_cols; i += 64) {
        const int count = p->n_cols - i < 64 ? p->n_cols - i : 64;
        int8_t *q = to->x + i, *q_rest = q + stride;
        float left[64];
        to->bias[0] += 128 * kernels->quantize_i8(q, 64, 0, x + i, inverse[0], count);
        for (c = 0; c < count; c++)
            left[c] = (float)((double)x[i + c] - (double)to->s[0] * q[c]);
        to->bias[1] += 128 * kernels->quantize_i8(q_rest, 64, 0, left, inverse[1], count);
        for (c = 0; c < count; c++) {
            const double v = (double)x[i + c], a = (double)to->s[0] * q[c], b = (double)to->s[1] * q_rest[c];
            const double d = v - a - b;
            whole += v * v;
            part[0] += a * a;
            part[1] += b * b;
            rest += d * d;
        }
    }
    whole = bni_sqrt(whole);
    rest = bni_sqrt(rest);
    more = 8 * u * (bni_sqrt(part[0]) + bni_sqrt(part[1]));
    goal->of_error = (float)((whole + rest + more) * 1.00001);
    goal->of_length = (float)((rest + 1.1 * (n / 16 + 8) * u * whole + more) * 1.00001);
    /* The first bounds the approximation on its way, s * sum, the second bounds the logits. */
    return whole < 1e30 && whole * (double)p->longest < 1e36;
}

/* B of row r; 1e-30 for products that underflow. */
BNI_INLINE float bni_plane_bound(const bni_plane *p, const bni_goal *goal, int r)
{
    return p->error[r] * goal->of_error + p->length[r] * goal->of_length + 1e-30f;
}

/* The sixteens of rows that have one with y + sign * B >= least, and perhaps some that miss it by a rounding: 1e-5 and
   1e-6 of a sum pay for its few. As bni_ref_plane_seek. */
static int bni_plane_seek(const bni_plane *p, const bni_kernels *kernels, const bni_goal *goal, const float *y, int sign,
                          double least, int r, int last)
{
    const float more = (float)sign + 1e-5f, by[2] = {more * goal->of_error, more * goal->of_length};
    least -= 1e-6 * (least < 0 ? -least : least) + 1e-29;
    return kernels->plane_seek(y, p->error, p->length, by, (float)least, r, last);
}

/* Puts v in the place of the smallest of heap [k], whose root is the smallest. */
static void bni_plane_replace(float *heap, int k, float v)
{
    int i = 0, child;
    while ((child = 2 * i + 1) < k) {
        if (child + 1 < k && heap[child + 1] < heap[child])
            child++;
        if (!(heap[child] < v))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = v;
}

/* The threshold from the approximations y [n_rows] of the rows that mask allows (NULL: all): the k-th largest A - B,
   minus reach, minus what rounding to float may have added. heap [k] is scratch. */
static void bni_plane_threshold(const bni_plane *p, const bni_kernels *kernels, bni_goal *goal, const float *y, int n_rows,
                                const uint32_t *mask, int k, float reach, float *heap)
{
    double size;
    int r, i;
    for (i = 0; i < k; i++)
        heap[i] = BNI_PLANE_OUT;
    for (r = 0; (r = bni_plane_seek(p, kernels, goal, y, -1, (double)heap[0], r, n_rows)) < n_rows; r += 16)
        for (i = r; i < r + 16 && i < n_rows; i++) {
            const float low = y[i] - bni_plane_bound(p, goal, i);
            if (low > heap[0] && (!mask || (mask[i >> 5] >> (i & 31) & 1u)))
                bni_plane_replace(heap, k, low);
        }
    size = heap[0] < 0.0f ? -(double)heap[0] : (double)heap[0];
    goal->threshold = (double)heap[0] - (double)reach - 1e-6 * (size + (double)reach);
}

/* 1 if row r may be among those looked for. */
BNI_INLINE int bni_plane_may_win(const bni_plane *p, const bni_goal *goal, float approximation, int r)
{
    return (double)approximation + (double)bni_plane_bound(p, goal, r) >= goal->threshold;
}

/* ======================================================================================================
   >>model    From a file to weights that can run
   ======================================================================================================
   A family is a row of bni_families; a layer's tensors are rows of bni_linear_parts and bni_norm_parts. Opening a model
   reads the header, takes the hyper-parameters, binds every tensor of the file to a row of those tables (a tensor that
   no row knows would change the result if ignored, so it is refused by name), lays everything out in one block, and
   repacks the ternary matrices into it. Embedding and output matrix stay where they are: in the mapping.

   How a file becomes strips, in the order of the calls:
   1. bni_model_tables opens the source (a mapping, the host's memory, or a reader), parses the tables (>>gguf) and
      checks that every tensor's bytes are there. From here on offsets and sizes may be trusted, contents not.
   2. bni_model_prepare works on a struct on the stack. It reads the hyper-parameters, sizes the tokenizer, binds all
      tensors and measures the block. Nothing large is allocated before the file has passed all of this, and
      bitnet_model_probe stops here.
   3. bni_model_commit allocates the one block, moves the struct into it and lays it out again, with addresses now.
   4. bni_model_load fills it: norms and rope to floats, then matrix by matrix. A job takes a few strips, unpacks 16
      rows of I2_S to codes and packs them as R16 (>>formats). The pages of a mapping are given back after each matrix,
      so that the file's copy and ours are never in memory together.

   Row r of part p of a linear is row r mod 16 of strip first(p) + r / 16, first(p) being the strips of the parts before
   it: every part begins a strip of its own. Rows that pad the last strip of a part have weights and scale 0 and give
   y = 0, which is the padding that the next op's vectors of 16 read.

   After open, nothing writes to a model: that is what lets any number of threads share it without a lock. */

#define BNI_MAX_LAYERS 1024          /* published models have up to 80 */
#define BNI_MAX_WIDTH 262144         /* of any vector: 64 * 2 * 128 * width / 4 stays inside int32 (>>kernels) */
#define BNI_MAX_HEAD_DIM 256         /* published models have 64 to 256; buffers on the stack have this size */
#define BNI_MAX_HEADS 1024           /* published models have up to 128 */
#define BNI_MAX_VOCAB (1 << 24)      /* published models have up to 256 Ki */
#define BNI_MAX_CTX (1 << 24)        /* positions; exact in a float, and sums of them in an int */
#define BNI_MAX_THREADS 256          /* the pool counts jobs in 16 bits (>>threads) */
#define BNI_MAX_HEADER (64u << 20)   /* header bytes looked at: holes in a file are free; real ones have under 32 MiB */

/* The widths a tensor can have, the matrices of a layer after stacking, the norms of a layer: indices of the tables
   below, of hparams.dim, layer.linear and layer.norm. */
enum { BNI_DIM_EMBD, BNI_DIM_Q, BNI_DIM_KV, BNI_DIM_FF, BNI_N_DIMS };
enum { BNI_LINEAR_QKV, BNI_LINEAR_OUT, BNI_LINEAR_GATE_UP, BNI_LINEAR_DOWN, BNI_N_LINEARS };
enum { BNI_NORM_ATTN, BNI_NORM_ATTN_SUB, BNI_NORM_FFN, BNI_NORM_FFN_SUB, BNI_N_NORMS };

/* What the architecture's name decides, and no key of the file says. */
typedef struct bni_family {
    const char *architecture;        /* general.architecture */
    int act;                         /* BNI_ACT_... between gate and up */
    int neox;                        /* rope pairs (i, i + d/2); else (2i, 2i + 1) */
    int sub_norms;                   /* a norm before the output and the down projection */
} bni_family;

static const bni_family bni_families[] = {
    {"bitnet-b1.58", BNI_ACT_RELU2, 1, 1},     /* microsoft/bitnet-b1.58-2B-4T */
    {"bitnet-25", BNI_ACT_RELU2, 1, 1},        /* its first uploads */
    {"bitnet", BNI_ACT_SILU, 1, 1},            /* 1bitLLM/bitnet_b1_58-large and -3B */
    {"llama", BNI_ACT_SILU, 0, 0}              /* Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E */
};

/* Matrices that share an input become one: their strips stand one after the other, in the order of this table, so that
   one op runs over all of them and the input is quantized once. Strips of gate and up alternate, so that whoever has
   computed a pair can combine it. slot: BNI_LINEAR_...; name: the GGUF name between "blk.N." and ".weight"; rows, cols:
   BNI_DIM_... of outputs and inputs; step: strips from one of this part to the next. */
typedef struct bni_linear_part { int slot; const char *name; int rows, cols, step; } bni_linear_part;
static const bni_linear_part bni_linear_parts[] = {
    {BNI_LINEAR_QKV, "attn_q", BNI_DIM_Q, BNI_DIM_EMBD, 1},
    {BNI_LINEAR_QKV, "attn_k", BNI_DIM_KV, BNI_DIM_EMBD, 1},
    {BNI_LINEAR_QKV, "attn_v", BNI_DIM_KV, BNI_DIM_EMBD, 1},
    {BNI_LINEAR_OUT, "attn_output", BNI_DIM_EMBD, BNI_DIM_Q, 1},
    {BNI_LINEAR_GATE_UP, "ffn_gate", BNI_DIM_FF, BNI_DIM_EMBD, 2},
    {BNI_LINEAR_GATE_UP, "ffn_up", BNI_DIM_FF, BNI_DIM_EMBD, 2},
    {BNI_LINEAR_DOWN, "ffn_down", BNI_DIM_EMBD, BNI_DIM_FF, 1}
};
#define BNI_N_PARTS ((int)(sizeof bni_linear_parts / sizeof bni_linear_parts[0]))

/* slot: BNI_NORM_...; size: BNI_DIM_...; sub 1: only in families with sub_norms. bni_unit_quantize looks a norm's
   width up by its slot, so the rows stand in the order of BNI_NORM_.... */
typedef struct bni_norm_part { int slot; const char *name; int size; int sub; } bni_norm_part;
static const bni_norm_part bni_norm_parts[] = {
    {BNI_NORM_ATTN, "attn_norm", BNI_DIM_EMBD, 0},
    {BNI_NORM_ATTN_SUB, "attn_sub_norm", BNI_DIM_Q, 1},
    {BNI_NORM_FFN, "ffn_norm", BNI_DIM_EMBD, 0},
    {BNI_NORM_FFN_SUB, "ffn_sub_norm", BNI_DIM_FF, 1}
};

/* One of the matrices that are stacked in a linear, where it lies in the file: strip s of it is the linear's strip
   first + s * step. */
typedef struct bni_rows { const uint8_t *codes; int n_rows, first, step; } bni_rows;

/* A matrix, or several stacked, in R16 or T5; or in place. */
typedef struct bni_linear {
    uint8_t *strips;                 /* [n_strips] strips of n_cols * 4 bytes; NULL: in place, then */
    bni_rows rows[3];                /* the parts, in the order of their first strips; codes NULL: there are fewer */
    float *row_scale;                /* [n_strips * 16], 0 for padding rows */
    float *group_scale;              /* [n_strips][n_cols / model's group][16]; NULL: no part of the model has groups */
    int grouped;                     /* 1: they count, as some row has more than one scale; R16 only */
    int n_strips;                    /* of 16 rows, all parts together */
    int n_cols;                      /* padded to 16 */
} bni_linear;

/* One transformer block. All pointers lead into the model's block, except part, which leads into gguf's tables. */
typedef struct bni_layer {
    bni_linear linear[BNI_N_LINEARS];
    float *norm[BNI_N_NORMS];        /* padded to 16 with zeros; NULL: the family has none here */
    const bni_tensor *part[8];       /* [BNI_N_PARTS] the tensors, while loading */
} bni_layer;

/* Rows of numbers in one of ggml's types: the embedding, the output matrix. */
typedef struct bni_table {
    const uint8_t *data;             /* [n_rows] rows of row_bytes; any alignment */
    uint64_t row_bytes, n_rows;
    const bni_tensor *tensor;
    int type;                        /* BNI_TYPE_... that >>decode reads */
} bni_table;

/* Checked numbers: each at least 1 and within its BNI_MAX_.... Products of them are taken in 64 bits. */
typedef struct bni_hparams {
    const bni_family *family;
    int n_vocab, n_ctx_train, n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff, n_rot;
    int dim[BNI_N_DIMS];             /* widths by BNI_DIM_... */
    int act, pooling;                /* BNI_ACT_...; as bitnet_model_info */
    float eps;                       /* of all norms */
    double theta, rope_factor;       /* base of the angles; linear scaling divides positions by the factor */
} bni_hparams;

/* Where the file's bytes come from. data NULL: only through read. */
typedef struct bni_source {
    const uint8_t *data;             /* the whole file: the mapping, or borrowed from the host */
    bitnet_reader reader;            /* size is the file's in every case; read only where data is NULL */
    bni_map map;
    bni_file file;
    int mapped, opened;              /* map is ours to close; file is */
    uint8_t *header;                 /* own copy of the header where data is NULL */
    uint64_t header_size;
} bni_source;

/* The head of the model's block. source, gguf and the block are what bni_model_release gives back. */
struct bitnet_model {
    bitnet_allocator allocator;
    bitnet_logger logger;
    bni_source source;
    bni_gguf gguf;
    bni_hparams hp;
    bni_tokenizer tokenizer;
    int chat;                        /* index of the chat template, 0: none */
    int layout;                      /* of the matrices: BNI_R16, BNI_T5, BNI_TL1, BNI_TL2 or BNI_I2S */
    int group, grouped;              /* columns that share a scale, 0: all; 1: and that makes a difference somewhere */
    const bni_kernels *kernels;
    bni_layer *layers;               /* [n_layer] */
    float *output_norm;
    double *inv_freq;                /* [n_rot / 2] angle of position 1 */
    bni_table embedding, output;
    bni_plane plane;                 /* of output, for the two-pass head */
    uint64_t fingerprint;            /* tells saved states of different models apart */
    bitnet_model_info info;
    uint64_t block_size;             /* of the one block this struct begins */
    int vocab_only;
    int locked;                      /* 1: asked to be locked in memory */
};

/* -------------------------------------------------------------------------------------------------- source */

/* Closes what bni_source_open and bni_source_parse have opened; right for a cleared or half-opened source too. */
static void bni_source_close(bni_source *s, const bitnet_allocator *a)
{
    bni_free(a, s->header, s->header_size);
    if (s->mapped)
        bni_map_close(&s->map);
    if (s->opened)
        bni_file_close(&s->file);
    memset(s, 0, sizeof *s);
}

/* Decides where the bytes come from. A file that can't be mapped (a network drive, a 32-bit host) is read instead,
   through the same hook as a host's reader: two ways to the bytes, not three. On an error the caller closes. */
static bitnet_result bni_source_open(bni_source *s, const bitnet_model_desc *d, bitnet_error *err)
{
    uint64_t size = 0;
    memset(s, 0, sizeof *s);
    /* Two sources would leave open which of them counts. */
    errno = 0;                                 /* of an earlier, unrelated failure */
    if ((d->path != NULL) + (d->data != NULL) + (d->reader.read != NULL) != 1)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "a model comes from exactly one of path, data and reader");
    if (d->data) {
        s->data = (const uint8_t *)d->data;
        s->reader.size = d->size;
    } else if (d->reader.read) {
        s->reader = d->reader;
    } else if (!d->no_mmap && bni_map_open(&s->map, d->path) == 0) {
        s->mapped = 1;
        s->data = s->map.data;
        s->reader.size = s->map.size;
    } else {
        if (bni_file_open(&s->file, d->path, &size) != 0)
            return bni_fail(err, BITNET_ERROR_IO, 0, "can't open %s: %s", d->path, bni_why_not_open());
        s->opened = 1;
        s->reader.read = bni_file_read;
        s->reader.user = &s->file;
        s->reader.size = size;
    }
    if (s->reader.size == 0)
        return bni_fail(err, s->opened ? BITNET_ERROR_IO : BITNET_ERROR_FORMAT, 0,
                        "%s is empty, or not a file that can be read", d->path ? d->path : "the file");
    return BITNET_OK;
}

/* Parses the header. Without a mapping it is read in windows from the file's start, 64 KiB and then four times as large
   each, until the tables fit: their length is known only from reading them. The last window is kept, since keys and
   names point into it. At most BNI_MAX_HEADER, so that a damaged count can't have a whole file read into memory. */
static bitnet_result bni_source_parse(bni_source *s, bni_gguf *g, const bitnet_allocator *a, bitnet_error *err)
{
    int short_of_bytes = 0;
    uint64_t size = 65536;
    bitnet_error why;
    bitnet_result r;
    if (s->data) {
        /* A mapping costs nothing to look at, but parsing must end. */
        size = s->reader.size < BNI_MAX_HEADER ? s->reader.size : BNI_MAX_HEADER;
        return bni_gguf_parse(g, s->data, size, s->reader.size, a, &short_of_bytes, err);
    }
    for (;; size *= 4) {
        if (size > s->reader.size)
            size = s->reader.size;
        s->header = (uint8_t *)bni_alloc(a, size, BNI_BLOCK_ALIGN);
        s->header_size = size;
        if (!s->header)
            return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory for the file's header (%u bytes)", size);
        if (s->reader.read(s->reader.user, 0, s->header, (size_t)size) != 0)
            return bni_fail(err, BITNET_ERROR_IO, 0, "the first %u bytes can't be read", size);
        r = bni_gguf_parse(g, s->header, size, s->reader.size, a, &short_of_bytes, &why);
        /* A damaged header is reported at once; only one that runs on is worth a larger window. */
        if (r == BITNET_OK)
            return r;
        if (!short_of_bytes || size == s->reader.size) {
            if (err)
                *err = why;
            return r;
        }
        if (size >= BNI_MAX_HEADER)
            return bni_fail(err, BITNET_ERROR_FORMAT, size, "the header has over %u bytes", (uint64_t)BNI_MAX_HEADER);
        bni_free(a, s->header, s->header_size);
        s->header = NULL;
    }
}

/* n bytes at offset: from memory, or read into scratch [n]. NULL: they can't be read. The range must have been checked
   against the file's size (bni_gguf_check_sizes). What comes back is of any alignment. */
static const uint8_t *bni_source_bytes(const bni_source *s, uint64_t offset, uint64_t n, void *scratch)
{
    if (s->data)
        return s->data + offset;
    return s->reader.read(s->reader.user, offset, scratch, (size_t)n) == 0 ? (const uint8_t *)scratch : NULL;
}

/* -------------------------------------------------------------------------------------------- hyper-parameters */

/* The metadata entry "<architecture>.<name>", or NULL; an architecture too long for the buffer has no entries. */
static const bni_kv *bni_model_key(const bni_gguf *g, bni_str arch, const char *name)
{
    char key[128];
    size_t n = strlen(name);
    if (arch.size + 1 + n + 1 > sizeof key)
        return NULL;
    memcpy(key, arch.data, arch.size);
    key[arch.size] = '.';
    memcpy(key + arch.size + 1, name, n + 1);
    return bni_gguf_find(g, key);
}

/* An integer of the architecture, from 1 to limit. Arrays (one value per layer, as converters write for feed_forward
   and heads) must be of one value. missing: what an absent key means, or -1 where it must be there; it is not checked
   against the limit, so callers see to that themselves. */
static bitnet_result bni_hparam(const bni_gguf *g, bni_str arch, const char *name, int limit, int missing, int *out,
                                bitnet_error *err)
{
    const bni_kv *kv = bni_model_key(g, arch, name);
    uint64_t v = 0, i;
    if (!kv && missing >= 0) {
        *out = missing;
        return BITNET_OK;
    }
    if (!kv)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "key %S.%s is missing", &arch, name);
    /* All layers must agree: one hp describes them all, and a silent first value would give wrong results. */
    if (bni_kv_count(kv) > 0 && bni_kv_int_at(kv, 0) > 0) {
        v = (uint64_t)bni_kv_int_at(kv, 0);
        for (i = 1; i < kv->count; i++)
            if (bni_kv_int_at(kv, i) != (int64_t)v)
                return bni_fail(err, BITNET_ERROR_UNSUPPORTED, kv->offset, "key %S differs between layers", &kv->key);
    } else if (!bni_kv_uint(kv, &v)) {
        v = 0;
    }
    if (v == 0 || v > (uint64_t)limit)
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "key %S is not a number from 1 to %d", &kv->key, limit);
    *out = (int)v;
    return BITNET_OK;
}

/* All integers, with llama.cpp's defaults for absent keys. The checks behind them are the assumptions of
   >>transformer: query heads share key-value heads evenly, heads are even (rope turns pairs, K is stored in pairs of
   columns), K and V are of one width. */
static bitnet_result bni_hparam_sizes(const bni_gguf *g, bni_str arch, bni_hparams *hp, bitnet_error *err)
{
    bitnet_result r = bni_hparam(g, arch, "embedding_length", BNI_MAX_WIDTH, -1, &hp->n_embd, err);
    int value_dim = 0;
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "block_count", BNI_MAX_LAYERS, -1, &hp->n_layer, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "feed_forward_length", BNI_MAX_WIDTH, -1, &hp->n_ff, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "attention.head_count", BNI_MAX_HEADS, -1, &hp->n_head, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "attention.head_count_kv", BNI_MAX_HEADS, hp->n_head, &hp->n_head_kv, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "attention.key_length", BNI_MAX_HEAD_DIM, hp->n_embd / hp->n_head, &hp->head_dim, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "attention.value_length", BNI_MAX_HEAD_DIM, hp->head_dim, &value_dim, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "rope.dimension_count", BNI_MAX_HEAD_DIM, hp->head_dim, &hp->n_rot, err);
    if (r == BITNET_OK)
        r = bni_hparam(g, arch, "context_length", BNI_MAX_CTX, 2048, &hp->n_ctx_train, err);
    if (r != BITNET_OK)
        return r;
    if (hp->n_head % hp->n_head_kv != 0)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "attention.head_count %d is no multiple of attention.head_count_kv %d", hp->n_head,
                        hp->n_head_kv);
    if (hp->head_dim < 2 || hp->head_dim > BNI_MAX_HEAD_DIM || hp->head_dim % 2 || hp->n_rot > hp->head_dim || hp->n_rot % 2)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "attention.key_length %d with rope.dimension_count %d", hp->head_dim,
                        hp->n_rot);
    /* One row of the cache has K and V of the same width. */
    if (value_dim != hp->head_dim)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "attention.key_length %d with attention.value_length %d", hp->head_dim, value_dim);
    /* 1024 * 256 at most, so the product fits an int; n_head_kv divides n_head, so K and V are no wider. */
    if (hp->n_head * hp->head_dim > BNI_MAX_WIDTH)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "%d heads of %d columns", hp->n_head, hp->head_dim);
    hp->dim[BNI_DIM_EMBD] = hp->n_embd;
    hp->dim[BNI_DIM_Q] = hp->n_head * hp->head_dim;
    hp->dim[BNI_DIM_KV] = hp->n_head_kv * hp->head_dim;
    hp->dim[BNI_DIM_FF] = hp->n_ff;
    return BITNET_OK;
}

/* A real number of the architecture, from low to high; where the key is absent, *out stays. */
static bitnet_result bni_hparam_real(const bni_gguf *g, bni_str arch, const char *name, float low, float high, float *out,
                                     bitnet_error *err)
{
    const bni_kv *kv = bni_model_key(g, arch, name);
    float v = 0.0f;
    if (!kv)
        return BITNET_OK;
    if (!bni_kv_float(kv, &v) || !(v >= low && v <= high))
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "key %S is not a number in its range", &kv->key);
    *out = v;
    return BITNET_OK;
}

/* Rope base and scaling. Scaling by per-frequency factors comes as the tensor rope_freqs.weight. */
static bitnet_result bni_hparam_rope(const bni_gguf *g, bni_str arch, bni_hparams *hp, bitnet_error *err)
{
    const bni_kv *scaling = bni_model_key(g, arch, "rope.scaling.type");
    float theta = 10000.0f, factor = 1.0f;
    bni_str type;
    bitnet_result r = bni_hparam_real(g, arch, "rope.freq_base", 1.0f, 1e12f, &theta, err);
    if (r == BITNET_OK && scaling && scaling->type != BNI_KV_STRING)
        return bni_fail(err, BITNET_ERROR_FORMAT, scaling->offset, "key %S is not a string", &scaling->key);
    if (r == BITNET_OK && bni_kv_string(scaling, &type)) {
        if (bni_str_equal(type, "linear"))
            r = bni_hparam_real(g, arch, "rope.scaling.factor", 1e-6f, 1e6f, &factor, err);
        else if (!bni_str_equal(type, "none"))
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, scaling->offset, "rope scaling of type %S", &type);
    }
    if (r != BITNET_OK)
        return r;
    hp->theta = (double)theta;
    hp->rope_factor = (double)factor;
    return BITNET_OK;
}

/* The activation is not in the published files; the 1bitLLM models, converted under the newer name, keep SiLU and are
   told by their vocabulary. An explicit hidden_activation wins. */
static bitnet_result bni_hparam_activation(const bni_gguf *g, bni_str arch, bni_hparams *hp, bitnet_error *err)
{
    const bni_kv *kv = bni_model_key(g, arch, "hidden_activation");
    bni_str name;
    hp->act = hp->family->act;
    if (kv && kv->type != BNI_KV_STRING)
        return bni_fail(err, BITNET_ERROR_FORMAT, kv->offset, "key %S is not a string", &kv->key);
    if (bni_kv_string(kv, &name)) {
        if (bni_str_equal(name, "relu2"))
            hp->act = BNI_ACT_RELU2;
        else if (bni_str_equal(name, "silu"))
            hp->act = BNI_ACT_SILU;
        else
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, kv->offset, "activation %S", &name);
    /* 1bitLLM's models have llama's SPM vocabulary, Microsoft's a BPE one. */
    } else if (hp->act == BNI_ACT_RELU2 && bni_kv_string(bni_gguf_find(g, "tokenizer.ggml.model"), &name) &&
               bni_str_equal(name, "llama")) {
        hp->act = BNI_ACT_SILU;
    }
    return BITNET_OK;
}

/* Everything in hp but n_vocab, which only the embedding's shape tells (bni_bind_ends). Split models are refused
   before a tensor is missed, for the clearer message. Pooling that isn't known is no reason to refuse: it matters to
   bitnet_embed only. */
static bitnet_result bni_model_hparams(const bni_gguf *g, bni_hparams *hp, bitnet_error *err)
{
    bni_str arch;
    bitnet_result r;
    size_t i;
    uint64_t v = 0, parts = 0;
    const bni_kv *kv = bni_gguf_find(g, "general.architecture");
    memset(hp, 0, sizeof *hp);
    if (!bni_kv_string(kv, &arch))
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "key general.architecture is missing");
    for (i = 0; i < sizeof bni_families / sizeof bni_families[0]; i++)
        if (bni_str_equal(arch, bni_families[i].architecture))
            hp->family = &bni_families[i];
    if (!hp->family)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, kv->offset, "architecture %S (bitnet-b1.58, bitnet-25, bitnet "
                        "and llama are run)", &arch);
    kv = bni_gguf_find(g, "split.count");
    if (kv && (!bni_kv_uint(kv, &parts) || parts > 1))
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, kv->offset,
                        "a model split over %u files (split.count); join them first", parts);
    r = bni_hparam_sizes(g, arch, hp, err);
    if (r == BITNET_OK)
        r = bni_hparam_rope(g, arch, hp, err);
    if (r == BITNET_OK)
        r = bni_hparam_activation(g, arch, hp, err);
    if (r != BITNET_OK)
        return r;
    hp->eps = 1e-5f;
    r = bni_hparam_real(g, arch, "attention.layer_norm_rms_epsilon", 0.0f, 0.5f, &hp->eps, err);
    if (r != BITNET_OK)
        return r;
    if (bni_kv_uint(bni_model_key(g, arch, "pooling_type"), &v) && v < 8)
        hp->pooling = (int)v;
    return BITNET_OK;
}

/* ------------------------------------------------------------------------------------------------- binding */

/* "blk.<layer>.<name>.<suffix>" into text [64]. */
static void bni_layer_name(char *text, int layer, const char *name, const char *suffix)
{
    char number[24];
    size_t n = bni_append(text, 64, 0, bni_str_of("blk."));
    n = bni_append(text, 64, n, bni_number(number, (uint64_t)layer, 10));
    n = bni_append(text, 64, n, bni_str_of("."));
    n = bni_append(text, 64, n, bni_str_of(name));
    n = bni_append(text, 64, n, bni_str_of("."));
    bni_append(text, 64, n, bni_str_of(suffix));
}

/* The tensor of that name with exactly these dimensions (rows 0: a vector); FORMAT where it is missing or another.
   Marks it bound: what is unmarked in the end is refused. Shapes are compared here once, so that all later code may
   take the widths from hp. */
static bitnet_result bni_bind(const bni_gguf *g, const char *name, uint64_t cols, uint64_t rows, bni_tensor **out,
                              bitnet_error *err)
{
    bni_tensor *t = bni_gguf_tensor(g, name);
    if (!t)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "tensor %s is missing", name);
    if (t->ne[0] != cols || t->ne[1] != (rows ? rows : 1) || t->ne[2] != 1 || t->ne[3] != 1)
        return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor %s: shape %u x %u, expected %u x %u", name,
                        t->ne[0], t->ne[1], cols, rows ? rows : 1);
    t->bound = 1;
    *out = t;
    return BITNET_OK;
}

/* A vector of norm weights, of a type that bni_load_vector reads. */
static bitnet_result bni_bind_norm(const bni_gguf *g, const char *name, uint64_t size, bitnet_error *err)
{
    bni_tensor *t = NULL;
    bitnet_result r = bni_bind(g, name, size, 0, &t, err);
    if (r == BITNET_OK && t->type != BNI_TYPE_F32 && t->type != BNI_TYPE_F16 && t->type != BNI_TYPE_BF16)
        r = bni_fail(err, BITNET_ERROR_UNSUPPORTED, t->info_offset, "tensor %s: a norm of type %s", name,
                     bni_type_name(t->type));
    return r;
}

BNI_INLINE bitnet_i2s_layout bni_i2s_layout(const bitnet_model_desc *d) { return d->i2s_layout ? d->i2s_layout : BITNET_I2S_A; }

/* Part p of layer i into layer->part[p], with its optional "<name>.scale" [1] F32, which some converters write beside
   the scale inside the I2_S tensor: the product of both counts (bni_load_scale). */
static bitnet_result bni_bind_linear(const bni_gguf *g, bni_layer *layer, int i, int p, const bni_hparams *hp,
                                     const bitnet_model_desc *d, bitnet_error *err)
{
    const bni_linear_part *part = &bni_linear_parts[p];
    char name[64];
    bni_ternary ternary;
    bni_tensor *t = NULL, *scale;
    bitnet_result r;
    bni_layer_name(name, i, part->name, "weight");
    r = bni_bind(g, name, (uint64_t)hp->dim[part->cols], (uint64_t)hp->dim[part->rows], &t, err);
    if (r != BITNET_OK)
        return r;
    if (t->form == BNI_FORM_NONE)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, t->info_offset, "tensor %s: type %s (%u) is no ternary type that is run here", name,
                        bni_type_name(t->type), (uint64_t)t->type);
    r = bni_ternary_bind(&ternary, t, bni_i2s_layout(d), d->tl_tiles, err);
    if (r != BITNET_OK)
        return r;
    layer->part[p] = t;
    bni_layer_name(name, i, part->name, "scale");
    scale = bni_gguf_tensor(g, name);
    if (scale)
        r = bni_bind(g, name, 1, 0, &scale, err);
    if (r == BITNET_OK && scale && scale->type != BNI_TYPE_F32)
        r = bni_fail(err, BITNET_ERROR_UNSUPPORTED, scale->info_offset, "tensor %s: not F32", name);
    return r;
}

/* The smallest group of columns with a scale of its own, of all matrices; with groups "auto" means R16, since other layouts
   can't do them and whether a file needs them is only known from reading it whole. */
static void bni_model_groups(bitnet_model *m, const bitnet_model_desc *d)
{
    const int any = !d->layout || !*d->layout || strcmp(d->layout, "auto") == 0;
    uint64_t t;
    m->group = 0;
    for (t = 0; t < m->gguf.n_tensors; t++) {
        const int form = m->gguf.tensors[t].form;
        const int group = form == BNI_FORM_Q2_0 ? 64 : form == BNI_FORM_Q2_0_128 ? 128 : form == BNI_FORM_TQ1_0 || form == BNI_FORM_TQ2_0 ? 256 : 0;
        if (group && (!m->group || group < m->group))
            m->group = group;
    }
    if (m->group && any)
        m->layout = BNI_R16;
}

/* Can the matrices be used where they lie? Rows must be whole blocks of layout A, and the bytes in memory. */
static bitnet_result bni_bind_in_place(const bitnet_model *m, bitnet_i2s_layout layout, bitnet_error *err)
{
    uint64_t t;
    int p;
    for (t = 0; t < m->gguf.n_tensors; t++)
        if (m->gguf.tensors[t].form != BNI_FORM_NONE && m->gguf.tensors[t].form != BNI_FORM_I2S_A)
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, m->gguf.tensors[t].info_offset, "layout i2_s, in place: tensor %S is of type %s",
                            &m->gguf.tensors[t].name, bni_type_name(m->gguf.tensors[t].type));
    if (layout != BITNET_I2S_A)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "layout i2_s, in place: only for I2_S of layout A");
    if (!m->source.data)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "layout i2_s, in place: only for a file that is mapped or in memory");
    for (p = 0; p < BNI_N_PARTS; p++)
        if (m->hp.dim[bni_linear_parts[p].cols] % 128 != 0)
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "layout i2_s, in place: rows of %d weights are no whole blocks of 128",
                            m->hp.dim[bni_linear_parts[p].cols]);
    return BITNET_OK;
}

/* A [n_vocab, n_embd] table of a type that >>decode reads. data is set later, by the layout. */
static bitnet_result bni_bind_table(const bni_gguf *g, const char *name, const bni_hparams *hp, bni_table *table,
                                    bitnet_error *err)
{
    bni_tensor *t = NULL;
    bitnet_result r = bni_bind(g, name, (uint64_t)hp->n_embd, (uint64_t)hp->n_vocab, &t, err);
    if (r != BITNET_OK)
        return r;
    if (!bni_type_is_decodable(t->type))
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, t->info_offset,
                        "tensor %s: type %s (F32, F16, BF16, Q8_0, Q6_K and Q4_0 are read)", name, bni_type_name(t->type));
    table->tensor = t;
    table->type = (int)t->type;
    table->n_rows = t->ne[1];
    table->row_bytes = bni_row_bytes(t->type, t->ne[0]);
    return BITNET_OK;
}

/* Binds what stands outside the layers, and takes n_vocab from the embedding. The embedding may have more rows than the
   tokenizer has tokens (padding to a round number), never fewer: every token must have a row. No output.weight means
   that the embedding is the output matrix too (tied). */
static bitnet_result bni_bind_ends(bitnet_model *m, bitnet_error *err)
{
    bni_hparams *hp = &m->hp;
    bni_tensor *t = bni_gguf_tensor(&m->gguf, "token_embd.weight"), *unused = NULL;
    bitnet_result r;
    if (!t)
        return bni_fail(err, BITNET_ERROR_FORMAT, 0, "tensor token_embd.weight is missing");
    if (t->ne[1] > BNI_MAX_VOCAB || t->ne[1] < (uint64_t)m->tokenizer.n_tokens)
        return bni_fail(err, BITNET_ERROR_FORMAT, t->info_offset, "tensor token_embd.weight: %u rows for %d tokens",
                        t->ne[1], (int)m->tokenizer.n_tokens);
    hp->n_vocab = (int)t->ne[1];
    r = bni_bind_table(&m->gguf, "token_embd.weight", hp, &m->embedding, err);
    m->output = m->embedding;
    if (r == BITNET_OK && bni_gguf_tensor(&m->gguf, "output.weight"))
        r = bni_bind_table(&m->gguf, "output.weight", hp, &m->output, err);
    if (r == BITNET_OK)
        r = bni_bind_norm(&m->gguf, "output_norm.weight", (uint64_t)hp->n_embd, err);
    if (r == BITNET_OK && bni_gguf_tensor(&m->gguf, "rope_freqs.weight")) {
        r = bni_bind(&m->gguf, "rope_freqs.weight", (uint64_t)hp->n_rot / 2, 0, &unused, err);
        if (r == BITNET_OK && unused->type != BNI_TYPE_F32)
            r = bni_fail(err, BITNET_ERROR_UNSUPPORTED, unused->info_offset, "tensor rope_freqs.weight: not F32");
    }
    return r;
}

/* Binds the layers' tensors and refuses what nothing has bound. layers may be NULL: only checks (a probe). Runs twice
   in an open: before the block exists, to refuse early, and after, to fill layers[].part. Needs bni_bind_ends before
   it, or the tensors outside the layers would count as unknown. */
static bitnet_result bni_bind_layers(bitnet_model *m, const bitnet_model_desc *d, bitnet_error *err)
{
    const bni_hparams *hp = &m->hp;
    bni_layer scratch;
    bitnet_result r = BITNET_OK;
    char name[64];
    uint64_t t;
    int i, p;
    for (i = 0; i < hp->n_layer; i++) {
        bni_layer *layer = m->layers ? &m->layers[i] : &scratch;
        for (p = 0; p < BNI_N_PARTS && r == BITNET_OK; p++)
            r = bni_bind_linear(&m->gguf, layer, i, p, hp, d, err);
        for (p = 0; p < BNI_N_NORMS && r == BITNET_OK; p++) {
            if (bni_norm_parts[p].sub && !hp->family->sub_norms)
                continue;
            bni_layer_name(name, i, bni_norm_parts[p].name, "weight");
            r = bni_bind_norm(&m->gguf, name, (uint64_t)hp->dim[bni_norm_parts[p].size], err);
        }
        if (r != BITNET_OK)
            return r;
    }
    /* Only I2_S tensors are repacked; norms are small and tables are counted below. */
    for (t = 0; t < m->gguf.n_tensors; t++)
        if (!m->gguf.tensors[t].bound)
            return bni_fail(err, BITNET_ERROR_UNSUPPORTED, m->gguf.tensors[t].info_offset,
                            "tensor %S: not part of a %s model as this version knows it", &m->gguf.tensors[t].name,
                            hp->family->architecture);
    return BITNET_OK;
}

/* -------------------------------------------------------------------------------------------------- layout */

/* Decides whether there will be a plane: plane.n_cols is 0, or the padded width. */
static bitnet_result bni_head_select(bitnet_model *m, const char *name, bitnet_error *err)
{
    const bni_table *t = &m->output;
    const int any = !name || !*name || strcmp(name, "auto") == 0;
    int two = !any && strcmp(name, "two-pass") == 0;
    m->plane.n_cols = 0;
    if (!any && !two && strcmp(name, "full") != 0)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "head %s: not auto, full or two-pass", name);
    if (two && m->hp.n_embd > 65536)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, 0, "a two-pass head of %d columns (at most 65536)", m->hp.n_embd);
    if (any)
        two = t->row_bytes >= 2 * (uint64_t)m->hp.n_embd && t->n_rows * t->row_bytes >= BNI_PLANE_LEAST &&
              m->hp.n_embd <= 65536;
    m->plane.n_cols = two ? bni_pad16(m->hp.n_embd) : 0;
    return BITNET_OK;
}

/* The output matrix's bytes, where bni_head_select has said so. */
static void bni_plane_layout(bitnet_model *m, bni_arena *a)
{
    bni_plane *p = &m->plane;
    if (p->n_cols == 0)
        return;
    p->n_strips = bni_pad16(m->hp.n_vocab) / 16;
    p->scale = (float *)bni_arena_take_raw(a, (uint64_t)p->n_strips * 16, 4, BNI_BLOCK_ALIGN);
    p->error = (float *)bni_arena_take_raw(a, (uint64_t)p->n_strips * 16, 4, BNI_BLOCK_ALIGN);
    p->length = (float *)bni_arena_take_raw(a, (uint64_t)p->n_strips * 16, 4, BNI_BLOCK_ALIGN);
    /* Tiles are 64 columns: the last strip's last one may hold 48 that nobody has stored. */
    p->strips = (uint8_t *)bni_arena_take_raw(a, 16 * ((uint64_t)p->n_strips * (uint64_t)p->n_cols + 48), 1, BNI_BLOCK_ALIGN);
}

/* Takes every table and matrix from the arena, in execution order: a pass then reads the block from one end to the
   other, and prefetches that run over the end of a matrix fetch the next one. Run twice; on the second run m->layers is
   there. Strips are taken raw, as repacking writes every byte; scales and norms cleared, for their padding. */
static bitnet_result bni_model_layout(bitnet_model *m, bni_arena *a, bitnet_error *err)
{
    const bni_hparams *hp = &m->hp;
    bitnet_result r = bni_tokenizer_build(&m->tokenizer, &m->gguf, a, err);
    int i, p, s;
    if (r != BITNET_OK || m->vocab_only)
        return r;
    m->layers = (bni_layer *)bni_arena_take(a, (uint64_t)hp->n_layer, sizeof(bni_layer), 8);
    m->inv_freq = (double *)bni_arena_take(a, (uint64_t)hp->n_rot / 2, sizeof(double), 8);
    m->output_norm = (float *)bni_arena_take(a, (uint64_t)bni_pad16(hp->n_embd), 4, BNI_BLOCK_ALIGN);
    for (i = 0; i < hp->n_layer; i++) {
        bni_layer layer;
        /* Built on the stack, as the first run has no layers to write to. */
        memset(&layer, 0, sizeof layer);
        for (p = 0; p < BNI_N_NORMS; p++)
            if (!bni_norm_parts[p].sub || hp->family->sub_norms)
                layer.norm[p] = (float *)bni_arena_take(a, (uint64_t)bni_pad16(hp->dim[bni_norm_parts[p].size]), 4,
                                                        BNI_BLOCK_ALIGN);
        for (p = 0; p < BNI_N_PARTS; p++) {
            bni_linear *l = &layer.linear[bni_linear_parts[p].slot];
            l->n_strips += bni_pad16(hp->dim[bni_linear_parts[p].rows]) / 16;
            l->n_cols = bni_pad16(hp->dim[bni_linear_parts[p].cols]);
        }
        for (s = 0; s < BNI_N_LINEARS; s++) {
            bni_linear *l = &layer.linear[s];
            l->row_scale = (float *)bni_arena_take(a, (uint64_t)l->n_strips * 16, 4, BNI_BLOCK_ALIGN);
            if (m->group)
                l->group_scale = (float *)bni_arena_take(a, (uint64_t)l->n_strips * 16, 4 * (uint64_t)(l->n_cols / m->group),
                                                            BNI_BLOCK_ALIGN);
            if (m->layout != BNI_I2S)
                l->strips = (uint8_t *)bni_arena_take_raw(a, (uint64_t)l->n_strips, bni_strip_bytes(m->layout, (uint64_t)l->n_cols),
                                                          BNI_BLOCK_ALIGN);
        }
        if (m->layers)
            m->layers[i] = layer;
    }
    bni_plane_layout(m, a);
    if (!m->source.data) {                     /* a reader's tables are copied; a mapping's stay where they are */
        m->embedding.data = (const uint8_t *)bni_arena_take_raw(a, m->embedding.n_rows, m->embedding.row_bytes,
                                                                BNI_BLOCK_ALIGN);
        m->output.data = m->output.tensor == m->embedding.tensor
                             ? m->embedding.data
                             : (const uint8_t *)bni_arena_take_raw(a, m->output.n_rows, m->output.row_bytes,
                                                                   BNI_BLOCK_ALIGN);
    } else {
        m->embedding.data = m->source.data + m->embedding.tensor->offset;
        m->output.data = m->source.data + m->output.tensor->offset;
    }
    return BITNET_OK;
}

/* ------------------------------------------------------------------------------------------------- loading */

/* Reads a vector of F32, F16 or BF16 into f32 out [ne[0]]; every value must be finite, so that a NaN found while
   computing is never the file's fault. out serves as the reader's buffer too: no type here is wider than f32. */
static bitnet_result bni_load_vector(const bitnet_model *m, const bni_tensor *t, float *out, bitnet_error *err)
{
    uint64_t i, n = t->ne[0];
    const uint8_t *bytes = bni_source_bytes(&m->source, t->offset, t->bytes, out);
    if (!bytes)
        return bni_fail(err, BITNET_ERROR_IO, t->offset, "tensor %S can't be read", &t->name);
    if (t->type == BNI_TYPE_F32) {
        for (i = 0; i < n; i++)
            out[i] = bni_load_f32(bytes + 4 * i);
    } else {                                   /* from the end: out may be where the bytes are */
        for (i = n; i-- > 0;)
            out[i] = t->type == BNI_TYPE_F16 ? bni_f16_to_f32(bni_load_u16(bytes + 2 * i))
                                             : bni_bf16_to_f32(bni_load_u16(bytes + 2 * i));
    }
    for (i = 0; i < n; i++)
        if ((bni_float_bits(out[i]) & 0x7fffffffu) >= 0x7f800000u)
            return bni_fail(err, BITNET_ERROR_FORMAT, t->offset + i * (t->bytes / n),
                            "tensor %S: element %u is not finite", &t->name, i);
    return BITNET_OK;
}

/* All norm weights. Through the mapping or a reader, small pieces: before the progress callback's bytes begin. */
static bitnet_result bni_load_norms(bitnet_model *m, bitnet_error *err)
{
    const bni_hparams *hp = &m->hp;
    char name[64];
    int i, p;
    bitnet_result r = bni_load_vector(m, bni_gguf_tensor(&m->gguf, "output_norm.weight"), m->output_norm, err);
    for (i = 0; i < hp->n_layer && r == BITNET_OK; i++)
        for (p = 0; p < BNI_N_NORMS && r == BITNET_OK; p++)
            if (m->layers[i].norm[p]) {
                bni_layer_name(name, i, bni_norm_parts[p].name, "weight");
                r = bni_load_vector(m, bni_gguf_tensor(&m->gguf, name), m->layers[i].norm[p], err);
            }
    return r;
}

/* inv_freq[i] = theta^(-2i/n_rot) / factor, in double by our own functions (RoFormer, Su et al. 2021); rope_freqs
   divides each (Llama 3's scaling, as converters write it). Factors out of range are the file's error: 0 would make
   infinite angles. */
static bitnet_result bni_load_rope(bitnet_model *m, bitnet_error *err)
{
    const bni_tensor *t = bni_gguf_tensor(&m->gguf, "rope_freqs.weight");
    float factors[BNI_MAX_HEAD_DIM / 2];
    int i;
    if (t) {
        bitnet_result r = bni_load_vector(m, t, factors, err);
        if (r != BITNET_OK)
            return r;
    }
    for (i = 0; i < m->hp.n_rot / 2; i++) {
        m->inv_freq[i] = bni_pow(m->hp.theta, -(double)(2 * i) / (double)m->hp.n_rot) / m->hp.rope_factor;
        if (t && !(factors[i] >= 1e-6f && factors[i] <= 1e6f))
            return bni_fail(err, BITNET_ERROR_FORMAT, t->offset + 4 * (uint64_t)i,
                            "tensor rope_freqs.weight: element %d out of range", i);
        if (t)
            m->inv_freq[i] = m->inv_freq[i] / (double)factors[i];
    }
    return BITNET_OK;
}

/* One tensor's repacking, shared by jobs that take strips from a counter. */
typedef struct bni_repack {
    const uint8_t *data;             /* the tensor */
    bni_ternary from;                /* what it is */
    uint8_t *strips;                 /* where the first strip goes */
    uint8_t *codes;                  /* scratch [jobs][n_cols + BNI_CODES_BEHIND] */
    int layout;                      /* not BNI_I2S: there is nothing to repack in place */
    uint32_t n_strips, step;         /* how many, and from one to the next */
    bni_atomic next;                 /* first strip that no job has taken */
    bni_atomic strange;              /* strips with a weight that isn't ternary */
} bni_repack;

#define BNI_REPACK_CHUNK 8           /* strips a job takes at a time: 80 KiB of a 2560-wide matrix */

/* Runs on any thread; index picks the scratch. Strips don't overlap, so jobs share nothing but the counter, and the
   result doesn't depend on who took what. */
static void bni_repack_job(void *job, int index)
{
    bni_repack *r = (bni_repack *)job;
    const uint64_t n_cols = r->from.n_cols;
    uint8_t *codes = r->codes + (uint64_t)index * (n_cols + BNI_CODES_BEHIND);
    uint32_t s, first;
    while ((first = bni_atomic_add(&r->next, BNI_REPACK_CHUNK)) < r->n_strips)
        for (s = first; s < first + BNI_REPACK_CHUNK && s < r->n_strips; s++)
            if (bni_pack_strip(r->layout, r->strips + s * r->step * bni_strip_bytes(r->layout, n_cols), s, &r->from, r->data, codes))
                bni_atomic_add(&r->strange, 1);
}

/* What loading needs besides the model, in one temporary block. */
typedef struct bni_loader {
    const bitnet_model_desc *desc;
    bitnet_scheduler scheduler;      /* the host's, or pool behind the same signature */
    bni_pool *pool;                  /* own threads; NULL: the host's */
    int n_jobs;
    uint8_t *codes;                  /* scratch of bni_repack */
    float *values;                   /* [jobs][plane.n_cols] scratch of bni_plane_run */
    uint8_t *buffer;                 /* the largest tensor, where the file is read */
    uint64_t done, total;            /* bytes of the tensors that are repacked or copied */
    void *memory;                    /* the block */
    uint64_t memory_size;
} bni_loader;

/* Jobs at a time: n where the host says so, else one per core, at most 16: beyond that memory is the limit, and a
   library that isn't asked should not take a large machine for itself. */
BNI_INLINE int bni_default_threads(int n)
{
    int cores = n > 0 ? n : bni_cpu_count();
    int limit = n > 0 ? BNI_MAX_THREADS : 16;
    return cores < limit ? cores : limit;
}

/* Sizes and takes the temporary block (measured, then committed, like the others), and starts threads where the host
   has none. total counts what takes time: matrices to repack and, with a reader, tables to copy. On an error there is
   nothing to stop. */
static bitnet_result bni_loader_start(bni_loader *l, const bitnet_model *m, const bitnet_model_desc *d, bitnet_error *err)
{
    uint64_t largest = 0, widest = 0, t;
    bni_arena a;
    memset(l, 0, sizeof *l);
    l->desc = d;
    l->n_jobs = bni_default_threads(d->n_threads);
    for (t = 0; t < m->gguf.n_tensors; t++) {
        const bni_tensor *tensor = &m->gguf.tensors[t];
        if (tensor->form == BNI_FORM_NONE)
            continue;
        l->total += tensor->bytes;
        largest = tensor->bytes > largest ? tensor->bytes : largest;
        widest = tensor->ne[0] > widest ? tensor->ne[0] : widest;
    }
    if (!m->source.data)
        l->total += m->embedding.tensor->bytes +
                    (m->output.tensor == m->embedding.tensor ? 0 : m->output.tensor->bytes);
    l->total += (uint64_t)m->plane.n_strips * 16 * (uint64_t)m->plane.n_cols;
    memset(&a, 0, sizeof a);
    for (;;) {
        l->codes = (uint8_t *)bni_arena_take_raw(&a, (uint64_t)l->n_jobs, widest + BNI_CODES_BEHIND, BNI_BLOCK_ALIGN);
        l->values = (float *)bni_arena_take_raw(&a, (uint64_t)l->n_jobs, 4 * (uint64_t)m->plane.n_cols, BNI_BLOCK_ALIGN);
        l->buffer = (uint8_t *)bni_arena_take_raw(&a, m->source.data ? 0 : largest, 1, BNI_BLOCK_ALIGN);
        l->pool = (bni_pool *)bni_arena_take(&a, 1, bni_pool_memory(l->n_jobs), BNI_BLOCK_ALIGN);
        if (a.base)
            break;
        l->memory_size = a.used;
        l->memory = bni_alloc(&m->allocator, a.used, BNI_BLOCK_ALIGN);
        if (!l->memory)
            return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory to load (%u bytes)", a.used);
        a.base = (uint8_t *)l->memory;
        a.used = 0;
    }
    l->scheduler = d->scheduler;
    if (d->scheduler.parallel_for) {
        l->pool = NULL;
    } else {
        bni_pool_start(l->pool, l->n_jobs);
        l->scheduler.parallel_for = bni_pool_parallel_for;
        l->scheduler.step_begin = bni_pool_step_begin;
        l->scheduler.step_end = bni_pool_step_end;
        l->scheduler.user = l->pool;
    }
    return BITNET_OK;
}

/* Joins the threads before their memory goes. Open needs them no more: an engine starts its own. */
static void bni_loader_stop(bni_loader *l, const bitnet_allocator *allocator)
{
    if (l->pool && l->memory)
        bni_pool_stop(l->pool);
    bni_free(allocator, l->memory, l->memory_size);
}

/* Tells the host how far loading is; CANCELLED if it says stop. */
static bitnet_result bni_loader_advance(bni_loader *l, uint64_t bytes, bitnet_error *err)
{
    l->done += bytes;
    if (l->desc->progress && l->desc->progress(l->desc->progress_user, l->done, l->total) != 0)
        return bni_fail(err, BITNET_ERROR_CANCELLED, 0, "loading was cancelled");
    return BITNET_OK;
}

/* The factor "<name>.scale" beside part p of layer i, 1 if there is none. */
static bitnet_result bni_load_factor(const bitnet_model *m, int i, int p, float *factor, bitnet_error *err)
{
    const bni_tensor *extra;
    char name[64];
    bni_layer_name(name, i, bni_linear_parts[p].name, "scale");
    extra = bni_gguf_tensor(&m->gguf, name);
    *factor = 1.0f;
    return extra ? bni_load_vector(m, extra, factor, err) : BITNET_OK;
}

/* The scales of part p of layer i, read from data, into rows [first_strip * 16, ...) of its linear: one per row, which
   costs nothing in the kernels and lets the parts of one linear differ; and where the type has groups, theirs. A row whose
   groups have one scale is like any other, and so is one with groups of scale 0 if they hold zeros only; with only such
   rows the groups don't count. Padding rows keep the arena's 0. codes: scratch [n_cols]. */
static bitnet_result bni_load_scale(bitnet_model *m, int i, int p, const bni_ternary *from, const uint8_t *data, int first_strip,
                                    uint8_t *codes, bitnet_error *err)
{
    bni_linear *l = &m->layers[i].linear[bni_linear_parts[p].slot];
    const bni_tensor *t = m->layers[i].part[p];
    const int n_groups = m->group ? l->n_cols / m->group : 0, per_group = m->group ? (int)(from->group / (unsigned)m->group) : 0;
    float scales[BNI_MAX_WIDTH / 64], factor;
    uint64_t r;
    int g, k;
    bitnet_result result = bni_load_factor(m, i, p, &factor, err);
    for (r = 0; r < from->n_rows && result == BITNET_OK; r++) {
        const uint64_t strip = (unsigned)first_strip + r / 16 * (unsigned)bni_linear_parts[p].step;
        float one = 0.0f;
        int n_zero = 0;
        bni_ternary_scales(from, data, r, scales);
        for (g = 0; g < (int)(from->n_cols / from->group); g++) {
            if ((bni_float_bits(scales[g]) & 0x7fffffffu) >= 0x7f800000u)
                return bni_fail(err, BITNET_ERROR_FORMAT, t->offset, "tensor %S: a scale of row %u is not finite", &t->name, r);
            one = one == 0.0f ? scales[g] : one;
            l->grouped |= scales[g] != one && scales[g] != 0.0f;
            n_zero += scales[g] == 0.0f;
            for (k = 0; k < per_group; k++)
                l->group_scale[(strip * (unsigned)n_groups + (unsigned)(g * per_group + k)) * 16 + r % 16] = scales[g];
        }
        l->row_scale[strip * 16 + r % 16] = one * factor;
        if (n_zero == 0 || one == 0.0f || l->grouped)
            continue;
        bni_ternary_codes(from, data, r, codes);
        for (k = 0; k < (int)from->n_cols; k++)
            l->grouped |= codes[k] != 1 && scales[(unsigned)k / from->group] == 0.0f;
    }
    if (result == BITNET_OK && l->grouped && factor != 1.0f)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, t->offset, "tensor %S: groups with scales of their own, and a factor beside them", &t->name);
    return result;
}

/* Repacks one matrix to strips [first_strip, ...) of its linear, and gives the file's pages back: peak memory is the
   model plus one matrix, not the model twice. data outlives the jobs, as parallel_for returns when they are done. In
   place there is only a note of where it lies. */
static bitnet_result bni_load_part(bitnet_model *m, bni_loader *l, int i, int p, int first_strip, bitnet_error *err)
{
    bni_linear *linear = &m->layers[i].linear[bni_linear_parts[p].slot];
    const bni_tensor *t = m->layers[i].part[p];
    bni_repack job;
    bitnet_result r;
    memset(&job, 0, sizeof job);
    job.data = bni_source_bytes(&m->source, t->offset, t->bytes, l->buffer);
    if (!job.data)
        return bni_fail(err, BITNET_ERROR_IO, t->offset, "tensor %S can't be read", &t->name);
    r = bni_ternary_bind(&job.from, t, bni_i2s_layout(l->desc), l->desc->tl_tiles, err);
    if (r == BITNET_OK)
        r = bni_load_scale(m, i, p, &job.from, job.data, first_strip, l->codes, err);
    if (r != BITNET_OK)
        return r;
    m->grouped |= linear->grouped;
    if (linear->grouped && m->layout != BNI_R16)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, t->offset, "tensor %S: groups of columns with scales of their own need layout r16", &t->name);
    if (m->layout == BNI_I2S) {
        bni_rows *rows = linear->rows;
        while (rows->codes)
            rows++;
        rows->codes = job.data;
        rows->n_rows = (int)t->ne[1];
        rows->first = first_strip;
        rows->step = bni_linear_parts[p].step;
        return bni_loader_advance(l, t->bytes, err);
    }
    job.strips = linear->strips + (uint64_t)first_strip * bni_strip_bytes(m->layout, job.from.n_cols);
    job.codes = l->codes;
    job.layout = m->layout;
    job.n_strips = (uint32_t)((job.from.n_rows + 15) / 16);
    job.step = (uint32_t)bni_linear_parts[p].step;
    l->scheduler.parallel_for(l->scheduler.user, bni_repack_job, &job, l->n_jobs);
    if (job.strange)
        return bni_fail(err, BITNET_ERROR_UNSUPPORTED, t->offset, "tensor %S: a weight is +2, so it is not ternary", &t->name);
    if (m->source.mapped)
        bni_map_release(job.data, t->bytes);
    return bni_loader_advance(l, t->bytes, err);
}

/* In the order of bni_linear_parts; strips[] is where the next part of each slot begins, as bni_model_layout counted.
   */
static bitnet_result bni_load_linears(bitnet_model *m, bni_loader *l, bitnet_error *err)
{
    bitnet_result r = BITNET_OK;
    int i, p, strips[BNI_N_LINEARS];
    for (i = 0; i < m->hp.n_layer && r == BITNET_OK; i++) {
        memset(strips, 0, sizeof strips);
        for (p = 0; p < BNI_N_PARTS && r == BITNET_OK; p++) {
            int slot = bni_linear_parts[p].slot;
            r = bni_load_part(m, l, i, p, strips[slot], err);
            strips[slot] += bni_linear_parts[p].step > 1 ? 1 : bni_pad16(m->hp.dim[bni_linear_parts[p].rows]) / 16;
        }
    }
    return r;
}

#define BNI_READ_BYTES (8u << 20)    /* read between two calls of the progress callback */

/* Copies a table out of a file that is read, piece by piece, so that progress moves and a cancel is heard in a table of
   hundreds of MiB. data is const to everybody else; here it is our own block. */
static bitnet_result bni_load_table(const bitnet_model *m, bni_loader *l, const bni_table *t, bitnet_error *err)
{
    uint8_t *to = (uint8_t *)(uintptr_t)t->data;
    uint64_t at, n, size = t->tensor->bytes;
    bitnet_result r = BITNET_OK;
    for (at = 0; at < size && r == BITNET_OK; at += n) {
        n = size - at < BNI_READ_BYTES ? size - at : BNI_READ_BYTES;
        if (!bni_source_bytes(&m->source, t->tensor->offset + at, n, to + at))
            return bni_fail(err, BITNET_ERROR_IO, t->tensor->offset + at, "tensor %S can't be read", &t->tensor->name);
        r = bni_loader_advance(l, n, err);
    }
    return r;
}

/* The embedding and the output matrix, where they can't stay in the file. */
static bitnet_result bni_load_tables(const bitnet_model *m, bni_loader *l, bitnet_error *err)
{
    bitnet_result r;
    if (m->source.data)
        return BITNET_OK;
    r = bni_load_table(m, l, &m->embedding, err);
    if (r == BITNET_OK && m->output.data != m->embedding.data)
        r = bni_load_table(m, l, &m->output, err);
    return r;
}

/* The output matrix to bytes, shared by jobs that take strips from a counter. */
typedef struct bni_plane_job { const bitnet_model *model; float *values; bni_atomic next; } bni_plane_job;

#define BNI_PLANE_CHUNK 64           /* strips a job takes at a time; then their pages of the file go back: from now on a
                                        token reads a few rows of them */

static void bni_plane_run(void *job, int index)
{
    bni_plane_job *j = (bni_plane_job *)job;
    const bni_table *t = &j->model->output;
    const bni_plane *p = &j->model->plane;
    const uint32_t n_strips = (uint32_t)p->n_strips;
    uint32_t s, first;
    while ((first = bni_atomic_add(&j->next, BNI_PLANE_CHUNK)) < n_strips) {
        const uint32_t last = first + BNI_PLANE_CHUNK < n_strips ? first + BNI_PLANE_CHUNK : n_strips;
        const uint64_t row = 16 * (uint64_t)first, n_rows = last < n_strips ? 16 * BNI_PLANE_CHUNK : t->n_rows - row;
        for (s = first; s < last; s++)
            bni_plane_pack(p, j->model->kernels, t->type, t->data, (size_t)t->row_bytes, (int)t->n_rows, j->model->hp.n_embd,
                           (int)s, j->values + (size_t)index * (size_t)p->n_cols);
        if (j->model->source.mapped)
            bni_map_sparse(t->data + row * t->row_bytes, n_rows * t->row_bytes);
    }
}

/* Fills the plane; where a row's length is not finite there is none, and the full head will tell the tale. */
static bitnet_result bni_load_plane(bitnet_model *m, bni_loader *l, bitnet_error *err)
{
    bni_plane *p = &m->plane;
    const uint64_t bytes = (uint64_t)p->n_strips * 16 * (uint64_t)p->n_cols;
    bni_plane_job job;
    int r;
    if (p->n_cols == 0)
        return BITNET_OK;
    job.model = m;
    job.values = l->values;
    job.next = 0;
    l->scheduler.parallel_for(l->scheduler.user, bni_plane_run, &job, l->n_jobs);
    for (r = 0; r < 16 * p->n_strips; r++) {
        if (bni_float_bits(p->length[r]) >= 0x7f800000u || bni_float_bits(p->error[r]) >= 0x7f800000u) {
            p->strips = NULL;
            p->n_cols = 0;
        }
        p->longest = p->length[r] > p->longest ? p->length[r] : p->longest;
    }
    return bni_loader_advance(l, bytes, err);
}

/* A word-wise FNV-1a: fast enough for a KV cache, good enough against damage and mistakes (not against attackers). The
   constants are those of the 64-bit FNV-1a; taking 8 bytes at a time and folding the high half in at the end is our own
   variant. Little-endian loads: the same hash on every machine. */
static uint64_t bni_digest(uint64_t hash, const void *data, uint64_t n)
{
    const uint8_t *p = (const uint8_t *)data;
    uint64_t i;
    for (i = 0; i + 8 <= n; i += 8)
        hash = (hash ^ bni_load_u64(p + i)) * 1099511628211u;
    for (; i < n; i++)
        hash = (hash ^ p[i]) * 1099511628211u;
    return hash ^ (hash >> 32);
}
#define BNI_DIGEST_START 14695981039346656037u

/* Of the header and the norms: two models of one shape differ there. The header alone would not do, since fine-tuned
   models share it; hashing all weights would read the whole file. tables_end leaves the padding behind them out. */
static uint64_t bni_model_fingerprint(const bitnet_model *m)
{
    uint64_t hash = bni_digest(BNI_DIGEST_START, m->gguf.header, m->gguf.tables_end);
    int i, p, r;
    for (i = 0; i < m->hp.n_layer; i++)
        for (p = 0; p < BNI_N_NORMS; p++)
            for (r = 0; m->layers[i].norm[p] && r < m->hp.dim[bni_norm_parts[p].size]; r++)
                hash = (hash ^ bni_float_bits(m->layers[i].norm[p][r])) * 1099511628211u;
    return hash;
}

/* ---------------------------------------------------------------------------------------------------- info */

/* text to [capacity], cut where it is too long, always NUL-terminated. */
static void bni_copy_text(char *to, size_t capacity, const char *text) { bni_str_copy(to, capacity, bni_str_of(text)); }

/* What the tables alone tell: also for files that can't be run. Ternary is a file whose matrices inside the layers are
   all of ternary types; embedding and output matrix rarely are. */
static void bni_info_file(const bni_gguf *g, bitnet_model_info *info)
{
    bni_str s;
    uint64_t i, n_matrices = 0, n_ternary = 0;
    int named = 0;
    memset(info, 0, sizeof *info);
    info->bos = info->eos = info->eot = -1;
    if (bni_kv_string(bni_gguf_find(g, "general.architecture"), &s))
        bni_str_copy(info->architecture, sizeof info->architecture, s);
    if (bni_kv_string(bni_gguf_find(g, "general.name"), &s))
        bni_str_copy(info->name, sizeof info->name, s);
    if (bni_kv_string(bni_gguf_find(g, "tokenizer.ggml.model"), &s))
        bni_str_copy(info->tokenizer, sizeof info->tokenizer, s);
    info->n_tensors = (int)g->n_tensors;
    info->file_bytes = g->file_size;
    for (i = 0; i < g->n_tensors; i++) {
        const bni_tensor *t = &g->tensors[i];
        info->n_parameters += bni_tensor_count(t);
        if (t->n_dims < 2 || t->name.size < 4 || memcmp(t->name.data, "blk.", 4) != 0)
            continue;
        n_matrices++;
        n_ternary += t->form != BNI_FORM_NONE || bni_type_is_ternary(t->type);
        if (!named) {
            bni_copy_text(info->linear_type, sizeof info->linear_type, bni_tensor_type_name(t->type, t->form));
            named = 1;
        }
    }
    info->is_ternary = n_matrices > 0 && n_ternary == n_matrices;
}

/* What a prepared model adds: rules in force, sizes, memory. Fits a stack object too (bitnet_model_probe). */
static void bni_info_model(const bitnet_model *m, bitnet_model_info *info)
{
    const bni_hparams *hp = &m->hp;
    bni_copy_text(info->pre_tokenizer, sizeof info->pre_tokenizer, m->tokenizer.pre_name);
    bni_copy_text(info->chat_template, sizeof info->chat_template, bni_chat_name(m->chat));
    info->bos = m->tokenizer.bos;
    info->eos = m->tokenizer.eos;
    info->eot = m->tokenizer.eot;
    info->n_vocab = (int)m->tokenizer.n_tokens;
    info->model_memory = m->block_size + m->gguf.memory_size + m->source.header_size;
    if (m->vocab_only)
        return;
    bni_copy_text(info->head_type, sizeof info->head_type, bni_type_name((uint32_t)m->output.type));
    bni_copy_text(info->head, sizeof info->head, m->plane.n_cols ? "two-pass" : "full");
    info->n_vocab = hp->n_vocab;
    info->n_ctx_train = hp->n_ctx_train;
    info->n_embd = hp->n_embd;
    info->n_layer = hp->n_layer;
    info->n_head = hp->n_head;
    info->n_head_kv = hp->n_head_kv;
    info->head_dim = hp->head_dim;
    info->n_ff = hp->n_ff;
    info->rope_theta = (float)hp->theta;
    info->norm_eps = hp->eps;
    info->pooling = hp->pooling;
    info->tied_output = m->output.tensor == m->embedding.tensor;
    /* Header, embedding and output matrix: the other pages were given back, and with a plane the output matrix's too. In
       place it is everything. */
    if (m->source.mapped && m->layout == BNI_I2S)
        info->mapped_memory = m->source.reader.size - (m->plane.n_cols ? m->output.tensor->bytes : 0);
    else if (m->source.mapped)
        info->mapped_memory = m->gguf.data_start + (info->tied_output ? 0 : m->embedding.tensor->bytes) +
                              (m->plane.n_cols ? 0 : m->output.tensor->bytes);
}

/* Bytes one token reads: the strips with their scales, the norms, the output matrix; of the embedding it is one row,
   not counted. Divided by the machine's bandwidth: the least time a token can take. */
static uint64_t bni_weight_bytes(const bitnet_model *m)
{
    uint64_t bytes = (uint64_t)m->hp.n_embd * 4 +
                     (m->plane.n_cols ? (uint64_t)m->plane.n_strips * 16 * ((uint64_t)m->plane.n_cols + 12)
                                      : m->output.n_rows * m->output.row_bytes);
    int p;
    for (p = 0; p < BNI_N_PARTS; p++) {
        uint64_t rows = (uint64_t)bni_pad16(m->hp.dim[bni_linear_parts[p].rows]);
        bytes += (uint64_t)m->hp.n_layer * (rows / 16 * bni_strip_bytes(m->layout, (uint64_t)m->hp.dim[bni_linear_parts[p].cols]) +
                                            rows * 4);
    }
    for (p = 0; p < BNI_N_NORMS; p++)
        if (!bni_norm_parts[p].sub || m->hp.family->sub_norms)
            bytes += (uint64_t)m->hp.n_layer * (uint64_t)m->hp.dim[bni_norm_parts[p].size] * 4;
    return bytes;
}

/* ---------------------------------------------------------------------------------------------------- open */

/* Everything that needs no weights: tables, hyper-parameters, tokenizer sizes, bindings. m is a stack object whose
   arena was only measured; *size is the block that the real one needs. The tokenizer is built first on a copy of the
   arena: binding needs its number of tokens, and the layout then builds it again in its place. */
static bitnet_result bni_model_prepare(bitnet_model *m, const bitnet_model_desc *d, uint64_t *size, bitnet_error *err)
{
    bni_arena a;
    bni_str arch;
    const bitnet_i2s_layout layout = bni_i2s_layout(d);
    bitnet_result r = BITNET_OK;
    m->vocab_only = d->vocab_only;
    if ((int)layout < BITNET_I2S_A || (int)layout > BITNET_I2S_D)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "I2_S layout %d", (int)layout);
    if (d->n_threads < 0 || d->n_threads > BNI_MAX_THREADS)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "%d threads (at most %d)", d->n_threads, BNI_MAX_THREADS);
    memset(&a, 0, sizeof a);
    bni_arena_take(&a, 1, sizeof *m, BNI_BLOCK_ALIGN);
    if (!m->vocab_only)
        r = bni_model_hparams(&m->gguf, &m->hp, err);
    if (r == BITNET_OK) {
        bni_arena tokenizer = a;
        r = bni_tokenizer_build(&m->tokenizer, &m->gguf, &tokenizer, err);
    }
    if (r == BITNET_OK && !m->vocab_only)
        r = bni_bind_ends(m, err);
    if (r == BITNET_OK && !m->vocab_only)
        r = bni_head_select(m, d->head, err);
    if (r == BITNET_OK && !m->vocab_only)
        r = bni_bind_layers(m, d, err);
    if (r == BITNET_OK && !m->vocab_only)
        bni_model_groups(m, d);
    if (r == BITNET_OK && !m->vocab_only && m->layout == BNI_I2S)
        r = bni_bind_in_place(m, layout, err);
    if (r == BITNET_OK)
        r = bni_model_layout(m, &a, err);
    if (r != BITNET_OK)
        return r;
    if (a.overflow || (uint64_t)(size_t)a.used != a.used)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "the model does not fit this machine's addresses");
    m->chat = 0;
    if (d->chat_template) {
        m->chat = bni_chat_by_name(d->chat_template);
        if (m->chat < 0)
            return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "chat template %s is not known", d->chat_template);
    } else if (bni_kv_string(bni_gguf_find(&m->gguf, "general.architecture"), &arch)) {
        m->chat = bni_chat_detect(&m->gguf, &m->tokenizer, arch);
    }
    *size = a.used;
    return BITNET_OK;
}

/* Opens the source and reads the tables into *m, a cleared stack object. The reader's user points into m itself and is
   set again wherever m moves. On an error bni_model_release closes what is open. */
static bitnet_result bni_model_tables(bitnet_model *m, const bitnet_model_desc *d, bitnet_error *err)
{
    bitnet_result r;
    m->allocator = bni_allocator_or_default(d->allocator);
    m->logger = d->logger;
    r = bni_source_open(&m->source, d, err);
    if (m->source.opened)
        m->source.reader.user = &m->source.file;
    if (r == BITNET_OK)
        r = bni_source_parse(&m->source, &m->gguf, &m->allocator, err);
    if (r == BITNET_OK)
        r = bni_gguf_check_sizes(&m->gguf, err);
    return r;
}

/* Of a stack object (block_size 0) or of a block, which may be half-filled. The allocator is copied out first. */
static void bni_model_release(bitnet_model *m)
{
    bitnet_allocator a = m->allocator;
    uint64_t size = m->block_size;
    bni_gguf_close(&m->gguf, &a);
    bni_source_close(&m->source, &a);
    if (m->locked)                             /* the pages may go on to others, who did not ask for it */
        bni_unlock_memory(m, size);
    if (size)
        bni_free(&a, m, size);
}

/* The layout called name, the kernels' own for NULL, "" and "auto"; -1 if there is none of that name. */
static int bni_layout_select(const char *name, const bni_kernels *kernels)
{
    int i;
    if (!name || !*name || strcmp(name, "auto") == 0)
        return kernels->layout;
    for (i = BNI_N_LAYOUTS - 1; i >= 0 && strcmp(name, bni_layout_names[i]) != 0; i--)
        continue;
    return i;
}

/* Open without the weights: the first two of the four steps above. UNSUPPORTED becomes an answer, not an error; a file
   that is damaged stays one. */
BITNET_API bitnet_result bitnet_model_probe(const bitnet_model_desc *desc, bitnet_model_info *info, bitnet_error *err)
{
    bitnet_model m;
    bitnet_error why;
    const char *no_kernels;
    uint64_t size = 0;
    bitnet_result r;
    bitnet_model_info unused;
    if (!desc)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no description");
    info = info ? info : &unused;
    memset(&m, 0, sizeof m);
    memset(&why, 0, sizeof why);
    m.kernels = bni_kernels_select(NULL, 0, &no_kernels);
    m.layout = m.kernels ? bni_layout_select(desc->layout, m.kernels) : BNI_R16;
    if (m.layout < 0)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "layout %s: not auto, r16, t5, tl1, tl2 or i2_s", desc->layout);
    r = bni_model_tables(&m, desc, err);
    if (r == BITNET_OK) {
        bni_info_file(&m.gguf, info);
        r = bni_model_prepare(&m, desc, &size, &why);
        if (r == BITNET_OK) {
            m.block_size = size;
            bni_info_model(&m, info);
            info->is_supported = 1;
            if (!m.vocab_only)
                info->weight_bytes = bni_weight_bytes(&m);
        } else if (r == BITNET_ERROR_UNSUPPORTED) {
            bni_copy_text(info->unsupported, sizeof info->unsupported, why.text);
            r = BITNET_OK;
        } else if (err) {
            *err = why;
        }
    }
    m.block_size = 0;
    bni_model_release(&m);
    return r;
}

/* The weights: everything after the block is there. Norms and rope come first, since they are small and their errors
   should not wait for gigabytes. step_begin and step_end keep the pool awake over all matrices. */
static bitnet_result bni_model_load(bitnet_model *m, const bitnet_model_desc *d, bitnet_error *err)
{
    bni_loader loader;
    bitnet_result r = bni_load_norms(m, err);
    if (r == BITNET_OK)
        r = bni_load_rope(m, err);
    if (r != BITNET_OK)
        return r;
    r = bni_loader_start(&loader, m, d, err);
    if (r == BITNET_OK) {
        if (loader.scheduler.step_begin)
            loader.scheduler.step_begin(loader.scheduler.user);
        r = bni_load_linears(m, &loader, err);
        if (loader.scheduler.step_end)
            loader.scheduler.step_end(loader.scheduler.user);
        if (r == BITNET_OK)
            r = bni_load_tables(m, &loader, err);
        if (r == BITNET_OK)
            r = bni_load_plane(m, &loader, err);
        bni_loader_stop(&loader, &m->allocator);
    }
    m->fingerprint = r == BITNET_OK ? bni_model_fingerprint(m) : 0;
    return r;
}

/* Moves the prepared stack object into its block and fills it. *out is set as soon as the block owns source and tables:
   from then on the caller releases the block, whatever the result. Binding anew, because layers exist only now. */
static bitnet_result bni_model_commit(bitnet_model *m, const bitnet_model_desc *d, uint64_t size, bitnet_model **out,
                                      bitnet_error *err)
{
    bni_arena a;
    bitnet_model *block;
    bitnet_result r;
    memset(&a, 0, sizeof a);
    a.base = (uint8_t *)bni_alloc(&m->allocator, size, BNI_BLOCK_ALIGN);
    if (!a.base)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory for the weights (%u bytes)", size);
    block = (bitnet_model *)bni_arena_take(&a, 1, sizeof *m, BNI_BLOCK_ALIGN);
    *block = *m;
    *out = block;                              /* from here on the block owns what m owned */
    block->block_size = size;
    if (block->source.opened)
        block->source.reader.user = &block->source.file;
    r = bni_model_layout(block, &a, err);
    if (r != BITNET_OK || block->vocab_only)
        return r;
    r = bni_bind_layers(block, d, err);
    if (r == BITNET_OK)
        r = bni_model_load(block, d, err);
    block->locked = r == BITNET_OK && d->mlock;
    if (r == BITNET_OK && d->mlock &&
        (bni_lock_memory(block, size) != 0 || (block->source.mapped &&
         (block->layout == BNI_I2S ? bni_lock_memory(block->source.data, block->source.reader.size)
                                   : bni_lock_memory(block->output.data, block->output.n_rows * block->output.row_bytes)) != 0)))
        bni_notice(&block->logger, BITNET_LOG_WARNING, "the weights could not be locked in memory");
    return r;
}

/* The four steps above, after two questions to the machine: does the CPU run the kernels, and does this build compute
   as IEEE 754 says (>>numbers)? A build that doesn't would give other bits without a word. */
BITNET_API bitnet_result bitnet_model_open(const bitnet_model_desc *desc, bitnet_model **out, bitnet_error *err)
{
    bitnet_model m, *block = NULL;
    bni_fp_state fp;
    const char *why = NULL;
    uint64_t size = 0;
    bitnet_result r;
    if (!out)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no place for the model");
    *out = NULL;
    if (!desc)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no description");
    memset(&m, 0, sizeof m);
    fp = bni_fp_enter();
    m.kernels = bni_kernels_select(desc->kernels, desc->allow_amx, &why);
    if (!m.kernels)
        r = bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "kernels %s: %s", desc->kernels ? desc->kernels : "auto", why);
    else if ((m.layout = bni_layout_select(desc->layout, m.kernels)) < 0)
        r = bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "layout %s: not auto, r16, t5, tl1, tl2 or i2_s", desc->layout);
    else if (bni_self_check() != 0)
        r = bni_fail(err, BITNET_ERROR_BUILD, 0, "this build breaks IEEE arithmetic (compiler flags?): see >>numbers");
    else
        r = bni_model_tables(&m, desc, err);
    if (r == BITNET_OK)
        r = bni_model_prepare(&m, desc, &size, err);
    if (r == BITNET_OK)
        r = bni_model_commit(&m, desc, size, &block, err);
    bni_fp_leave(fp);
    if (r != BITNET_OK) {
        bni_model_release(block ? block : &m);
        return r;
    }
    bni_info_file(&block->gguf, &block->info);
    bni_info_model(block, &block->info);
    block->info.is_supported = 1;
    bni_copy_text(block->info.kernels, sizeof block->info.kernels, block->kernels->name);
    bni_copy_text(block->info.layout, sizeof block->info.layout, bni_layout_names[block->layout]);
    if (!block->vocab_only)
        block->info.weight_bytes = bni_weight_bytes(block);
    *out = block;
    return BITNET_OK;
}

/* Engines and threads that still use it are the caller's mistake (>>api); nothing here could tell. */
BITNET_API void bitnet_model_close(bitnet_model *model)
{
    if (model)
        bni_model_release(model);
}

BITNET_API void bitnet_model_get_info(const bitnet_model *model, bitnet_model_info *info)
{
    *info = model->info;
}

BITNET_API const char *bitnet_kernels_name(int i, int *usable)
{
    const char *name = NULL;
    int r = bni_kernels_list(i, &name);
    if (usable)
        *usable = r == 1;
    return r < 0 ? NULL : name;
}

BITNET_API const char *bitnet_chat_template_name(int i)
{
    return i >= 0 ? bni_chat_name(i) : NULL;
}
/* ======================================================================================================
   >>transformer    The forward pass
   ======================================================================================================
   A pass takes rows, each a (session, position, token), through the model together: row i of every buffer below belongs
   to row i of the pass, whichever session it is of. One layer of BitNet b1.58 is

       a = norm(x)                      q, k, v = Wq a, Wk a, Wv a       rope(q), rope(k)
       o = attention(q, k, v)           x = x + Wo norm(o)
       f = norm(x)                      u = relu(Wg f)^2 * (Wu f)        x = x + Wd norm(u)

   and every product W a quantizes a to int8 first, one scale per row. bni_layer_ops says just that as data: an op
   names its input, its norm, its matrix. Families differ in the data (a norm they don't have is skipped, another
   activation, another pairing in rope), not in code.

   An op is a number of units that don't depend on each other: pairs of strips times groups of eight rows, heads times
   tiles of rows, and so on. bni_pass_advance runs a slice of the current op's units on the engine's threads, and moves
   on when all are done. Slices are what makes the pass interruptible: a caller with a frame budget gets slices of about
   half a millisecond, everybody else whole ops. No result depends on the slicing, nor on which thread ran what. */

#define BNI_MAX_GROUP 16             /* rows of a group: BNI_ROWS, or BNI_TILE where tiles multiply */
#define BNI_TILE_MIN 3               /* rows of a pass from which tiles pay: with 2, vpdpbusd is as fast */
#define BNI_BLOCK_ROWS 256           /* most rows that share one unpacking of a strip, */
#define BNI_BLOCK_BYTES (1u << 20)   /* and most bytes of their activations: they should stay in a second-level cache */
#define BNI_BLOCK_PAIRS 16           /* most pairs of strips whose sums a job keeps for such rows, */
#define BNI_LEAST_PAIRS 2            /* fewer towards the end of a slice, down to this many */
#define BNI_HEADS_ROWS 16            /* most rows of a unit of HEADS: their keys fill whole cache lines */
#define BNI_CUT_BLOCKS 4             /* blocks of positions from which a part of an attention unit pays */
#define BNI_HEAD_ROWS 16             /* wanted rows that share one reading of the output matrix */
#define BNI_HEAD_BLOCK 128           /* rows of the output matrix in one unit: 640 KiB of F16 at width 2560 */
#define BNI_RESCORE_BLOCK 2048       /* the same for the second pass, which computes few of them */
#define BNI_MAX_CHUNK 16             /* strip pairs that a job takes at a time with BNI_MAX_GROUP rows; more with fewer */
#define BNI_SLICE_NS 400000u         /* aim of a slice under a budget */

/* Ops of a pass. */
enum {
    BNI_OP_EMBED, BNI_OP_QUANTIZE, BNI_OP_LINEAR, BNI_OP_HEADS, BNI_OP_ATTEND,
    BNI_OP_JOIN,                               /* of attention units that are cut */
    BNI_OP_FINAL, BNI_OP_HEAD,
    BNI_OP_THRESHOLD, BNI_OP_RESCORE,          /* two-pass head: HEAD is then its first pass */
    BNI_OP_FINISH, BNI_N_OPS
};

/* Buffers of a row that an op reads or writes. X: the residual stream. H: everything wide and short-lived. */
enum { BNI_BUFFER_X, BNI_BUFFER_H };

/* One step of a layer, as data. */
typedef struct bni_op {
    uint8_t kind;
    uint8_t buffer;                  /* QUANTIZE reads it, LINEAR writes it (adds to it, where it is X) */
    uint8_t norm;                    /* QUANTIZE: BNI_NORM_... before it, skipped where the layer has none */
    uint8_t linear;                  /* LINEAR: BNI_LINEAR_... */
    uint8_t activate;                /* LINEAR: 1: gate and up, combined before they are written */
} bni_op;

static const bni_op bni_layer_ops[] = {
    {BNI_OP_QUANTIZE, BNI_BUFFER_X, BNI_NORM_ATTN, 0, 0},
    {BNI_OP_LINEAR, BNI_BUFFER_H, 0, BNI_LINEAR_QKV, 0},
    {BNI_OP_HEADS, BNI_BUFFER_H, 0, 0, 0},                       /* rope, integers, KV cache */
    {BNI_OP_ATTEND, BNI_BUFFER_H, 0, 0, 0},
    {BNI_OP_JOIN, BNI_BUFFER_H, 0, 0, 0},
    {BNI_OP_QUANTIZE, BNI_BUFFER_H, BNI_NORM_ATTN_SUB, 0, 0},
    {BNI_OP_LINEAR, BNI_BUFFER_X, 0, BNI_LINEAR_OUT, 0},
    {BNI_OP_QUANTIZE, BNI_BUFFER_X, BNI_NORM_FFN, 0, 0},
    {BNI_OP_LINEAR, BNI_BUFFER_H, 0, BNI_LINEAR_GATE_UP, 1},
    {BNI_OP_QUANTIZE, BNI_BUFFER_H, BNI_NORM_FFN_SUB, 0, 0},
    {BNI_OP_LINEAR, BNI_BUFFER_X, 0, BNI_LINEAR_DOWN, 0}
};
#define BNI_N_LAYER_OPS ((int)(sizeof bni_layer_ops / sizeof bni_layer_ops[0]))

/* One row of a pass. */
typedef struct bni_row {
    bitnet_session *session;         /* whose it is; the units below never look inside */
    uint8_t *const *blocks;          /* the session's block table */
    int32_t token, pos;              /* pos: absolute position, counted from 0 */
    int32_t last;                    /* 1: the session's last row of this pass */
    bni_atomic failed;               /* 0, or 1 + the layer in which a value was not finite */
    float *logits;                   /* where its logits go; NULL: none wanted */
    int32_t top;                     /* 0: all logits are wanted; else only the best ones so many, of those that */
    const uint32_t *mask;            /* mask allows (NULL: all), and what is no more than */
    float reach;                     /* reach below them */
} bni_row;

/* Rows [first, first + n) of one session that attend together: their positions follow each other, so they read the same
   keys and values but for the last few. */
typedef struct bni_tile { int32_t first, n; } bni_tile;

/* What one job works in; the job's index picks it, so no two threads ever share one. dp: head_dim padded to 16. */
typedef struct bni_scratch {
    float *norm;                     /* [widest]; for HEADS a turned head */
    float *attend;                   /* bni_attend_scratch */
    int32_t *sums;                   /* bni_sums_size; rows are bni_sums_stride apart */
    uint8_t *panel;                  /* [2 * BNI_PANEL] */
    uint8_t *strips;                 /* [2] strips of the widest linear, for matrices in place; else NULL */
    int32_t *parts;                  /* [BNI_ROWS][17][groups of the widest linear], for grouped ones; else NULL */
    int16_t *k, *v;                  /* [dp] */
    int16_t *q;                      /* [attend_rows][dp] */
} bni_scratch;

/* The place in the list of ops. kind: BNI_OP_...; layer, op: in bni_layer_ops, while kind is one of a layer's; group:
   of BNI_HEAD_ROWS wanted rows, for HEAD. */
typedef struct bni_place { int layer, op, kind, group; } bni_place;

/* The pass in flight, written by bni_pass_start and bni_pass_advance on the engine's thread only; jobs read it. */
typedef struct bni_pass {
    int active;                      /* 1: a pass is in flight */
    int n_rows, n_tiles, n_wanted, n_hidden;   /* wanted: rows with logits; hidden: rows whose final state is wanted */
    int n_sessions;                  /* sessions with rows */
    int heads_per_unit;              /* query heads of one attention unit */
    int n_cut, n_parts;              /* the last n_cut of the attention units are cut into n_parts each (bni_pass_cut) */
    bni_place place;
    uint32_t unit;                   /* first unit of the current op that has not run */
} bni_pass;

/* The head of the engine's block. Row buffers are written by one unit per row (or strip of a row) and op, so jobs need
   no locks; what one op writes the next one reads only after parallel_for has returned. */
struct bitnet_engine {
    const bitnet_model *model;       /* borrowed; outlives the engine */
    const bni_kernels *kernels;      /* the model's choice */
    bitnet_allocator allocator;
    bitnet_scheduler scheduler;      /* the host's, or pool behind the same signature */
    bni_pool *pool;                  /* own threads; NULL: the host's */
    int n_jobs, n_batch, n_ctx;      /* jobs at a time; rows of a pass; positions of the longest session */
    uint64_t block_size;             /* bytes of this block, for the allocator */
    bitnet_session *sessions;        /* a list without a ring, newest first: on from here by older */
    bitnet_session *next;            /* the one that is served first in the next pass */
    bni_pass pass;
    bni_row *rows;                   /* [n_batch] */
    bni_tile *tiles;                 /* [n_batch] */
    int32_t *records;                /* [n_cuts][cut_size], of cut attention units bni_attend.records */
    uint64_t cut_size;
    int n_cuts;
    int32_t *wanted;                 /* [n_batch] rows with logits first, then rows with hidden states */
    bitnet_session **in_pass;        /* [n_batch] */
    float *x, *h;                    /* [n_batch][x_stride], [n_batch][h_stride] */
    int x_stride, h_stride;
    int8_t *q8;                      /* [groups][cols/4][rows of the group][4], or tiles: bni_group_q8 */
    float *q8_scale;                 /* [n_batch] */
    int32_t *q8_sum;                 /* [n_batch] */
    int16_t *q16;                    /* [n_batch][n_head][dp] */
    float *q16_scale;                /* [n_batch][n_head] */
    float *rope;                     /* [n_batch][n_rot/2][2] cos, sin */
    float *row_logits;               /* [BNI_HEAD_ROWS][n_vocab]: logits of rows that only a callback sees */
    bni_split *splits;               /* [n_batch] final states of the wanted rows for a two-pass head; else NULL */
    bni_goal *goals;                 /* [n_batch] */
    float *heaps;                    /* [BNI_HEAD_ROWS][BNI_PLANE_TOP] */
    void *sample_scratch;
    bni_scratch *scratch;            /* [n_jobs] */
    uint32_t ps_per_work[BNI_N_OPS]; /* picoseconds per unit of bni_place_work, as measured */
};

/* ------------------------------------------------------------------------------------------------ geometry */

/* The layout of the strips that products see. */
BNI_INLINE int bni_strip_layout(const bitnet_model *m) { return m->layout == BNI_I2S ? BNI_R16 : m->layout; }

/* The ternary product that the pass uses goes by tiles (AMX): the activations are then in another order. */
BNI_INLINE int bni_pass_tiled(const bitnet_engine *e)
{
    return e->pass.n_rows >= BNI_TILE_MIN && !e->model->grouped && e->kernels->matmul_tiles[bni_strip_layout(e->model)] != NULL;
}

/* Groups of a pass, and rows of one: in the last one perhaps fewer. */
BNI_INLINE int bni_pass_group(const bitnet_engine *e) { return bni_pass_tiled(e) ? BNI_TILE : BNI_ROWS; }
BNI_INLINE int bni_pass_groups(const bitnet_engine *e)
{
    return (e->pass.n_rows + bni_pass_group(e) - 1) / bni_pass_group(e);
}
BNI_INLINE int bni_group_rows(const bitnet_engine *e, int group, int n_groups)
{
    int first = group * bni_pass_group(e), left = e->pass.n_rows - first, n = n_groups * bni_pass_group(e);
    return left < n ? left : n;
}

/* Groups that go through a matrix together: each of its strips is unpacked once for all of them. */
BNI_INLINE int bni_block_groups(const bitnet_engine *e, int n_cols)
{
    int groups = bni_pass_groups(e), most = (int)(BNI_BLOCK_BYTES / (unsigned)n_cols), blocks;
    most = (most < BNI_BLOCK_ROWS ? most : BNI_BLOCK_ROWS) / bni_pass_group(e);
    most = most > 0 ? most : 1;
    blocks = (groups + most - 1) / most;
    return (groups + blocks - 1) / blocks;       /* blocks of one size, not a small one at the end */
}

/* Rows of a unit of QUANTIZE: one among tiles, where each has cache lines of its own, else a group. */
BNI_INLINE int bni_quantize_rows(const bitnet_engine *e) { return bni_pass_tiled(e) ? 1 : BNI_ROWS; }

/* Rows of a unit of HEADS: one where each is of another session, as more units are shared more evenly. */
BNI_INLINE int bni_heads_rows(const bitnet_engine *e)
{
    return e->pass.n_sessions == e->pass.n_rows ? 1 : BNI_HEADS_ROWS;
}

/* Sums of n rows of a matrix, n a multiple of 16, stand this far apart from one token to the next: an odd number of
   cache lines. A power of two would have all tokens of a tile in a few sets of the first cache, which costs a prompt a
   tenth. */
BNI_INLINE int bni_sums_stride(int n) { return n | 16; }

/* The most that an engine of n_batch rows keeps of them: one group's for BNI_MAX_CHUNK * BNI_MAX_GROUP pairs of strips
   over its rows, or a block's; whole tiles, as products write those. */
static uint64_t bni_sums_size(int n_batch)
{
    const int one = BNI_MAX_CHUNK * BNI_MAX_GROUP * 32 + BNI_MAX_GROUP * 16;
    const int rows = n_batch < BNI_BLOCK_ROWS ? (n_batch + BNI_TILE - 1) / BNI_TILE * BNI_TILE : BNI_BLOCK_ROWS;
    const int block = rows * bni_sums_stride(BNI_BLOCK_PAIRS * 32);
    return (uint64_t)(block > one ? block : one);
}

/* A value of the row is not finite; the first to say so is kept. Units of one op may say it together, all the same. */
BNI_INLINE void bni_row_fail(bni_row *row, int layer)
{
    if (bni_atomic_load(&row->failed) == 0)
        bni_atomic_store(&row->failed, (uint32_t)layer);
}

/* The start of a row's x [x_stride] and h [h_stride], both aligned to 64 bytes as widths are padded. */
BNI_INLINE float *bni_row_x(const bitnet_engine *e, int row) { return e->x + (size_t)row * (size_t)e->x_stride; }
BNI_INLINE float *bni_row_h(const bitnet_engine *e, int row) { return e->h + (size_t)row * (size_t)e->h_stride; }

/* The group's n_cols activations, [cols/4][rows of the group][4]: the four columns that one instruction multiplies stand
   together, and for one group of columns all rows follow each other, as the kernels walk them. Or tiles,
   [cols/64][16][64]. */
BNI_INLINE int8_t *bni_group_q8(const bitnet_engine *e, int group, int n_cols)
{
    size_t cols = bni_pass_tiled(e) ? ((size_t)n_cols + 63) & ~(size_t)63 : (size_t)n_cols;
    return e->q8 + (size_t)(group * bni_pass_group(e)) * cols;
}

/* Attention units of one tile: key-value heads times parts of the query heads that share one. */
BNI_INLINE int bni_tile_units(const bitnet_engine *e)
{
    const bni_hparams *hp = &e->model->hp;
    int shared = hp->n_head / hp->n_head_kv;
    return hp->n_head_kv * ((shared + e->pass.heads_per_unit - 1) / e->pass.heads_per_unit);
}

/* Bytes of one block of 64 positions: all layers, all key-value heads. */
BNI_INLINE uint64_t bni_block_bytes(const bni_hparams *hp)
{
    return (uint64_t)hp->n_layer * (uint64_t)hp->n_head_kv * bni_kv_area_size(hp->head_dim);
}

/* Where a head's area (>>reference) lies in a block, in bytes. Layer first: a pass is in one layer at a time. */
BNI_INLINE size_t bni_area_offset(const bni_hparams *hp, int layer, int head)
{
    return ((size_t)layer * (size_t)hp->n_head_kv + (size_t)head) * bni_kv_area_size(hp->head_dim);
}

/* ------------------------------------------------------------------------------------------------- the units */

/* Row u: its embedding to x, and the cosines and sines of its position. 256 weights at a time are whole blocks of every
   type. The padding is cleared, as norms and maxima run over it. The angle is taken in double and the result rounded
   once: at position 100,000 a float angle would have lost a thousandth of a turn. All layers share them. */
static void bni_unit_embed(bitnet_engine *e, int u)
{
    const bitnet_model *m = e->model;
    const bni_table *t = &m->embedding;
    bni_row *row = &e->rows[u];
    float *x = bni_row_x(e, u), *rope = e->rope + (size_t)u * (size_t)m->hp.n_rot;
    double s, c;
    int i, n;
    for (i = 0; i < m->hp.n_embd; i += 256) {
        n = m->hp.n_embd - i < 256 ? m->hp.n_embd - i : 256;
        bni_decode(t->type, t->data + (uint64_t)row->token * t->row_bytes, i, n, x + i);
    }
    for (i = m->hp.n_embd; i < e->x_stride; i++)
        x[i] = 0.0f;
    for (i = 0; i < m->hp.n_rot / 2; i++) {
        bni_sincos((double)row->pos * m->inv_freq[i], &s, &c);
        rope[2 * i] = (float)c;
        rope[2 * i + 1] = (float)s;
    }
}

/* Unit u: norm, then int8 with one scale per row: s = 127 / max(max|x|, 1e-5), q = round(x * s) (BitNet b1.58, Ma et
   al. 2024, "absmax" per token). A value that isn't finite marks the row as failed and goes on with zeros: the other
   rows of the pass belong to sessions that did nothing wrong. */
static void bni_unit_quantize(bitnet_engine *e, const bni_op *op, int layer, int u, bni_scratch *scratch)
{
    const bni_kernels *k = e->kernels;
    const bni_hparams *hp = &e->model->hp;
    const float *w = e->model->layers[layer].norm[op->norm];
    const int n = hp->dim[bni_norm_parts[op->norm].size], padded = bni_pad16(n), tiled = bni_pass_tiled(e);
    const int first = u * bni_quantize_rows(e), group = first / bni_pass_group(e);
    const int n_rows = tiled ? 1 : bni_group_rows(e, group, 1);
    const int run = tiled ? 64 : 4, stride = tiled ? BNI_TILE * 64 : 4 * n_rows;
    int8_t *q8 = bni_group_q8(e, group, padded) + first % bni_pass_group(e) * run;
    int row;
    for (row = first; row < first + n_rows; row++, q8 += run) {
        float *in = op->buffer == BNI_BUFFER_X ? bni_row_x(e, row) : bni_row_h(e, row), amax;
        uint32_t bits;
        if (w)
            k->rms_norm(scratch->norm, in, w, hp->eps, n);
        in = w ? scratch->norm : in;
        /* Padding is 0 and can't be the maximum. */
        bits = k->max_abs(in, padded);
        if (bits >= 0x7f800000u) {
            bni_row_fail(&e->rows[row], layer + 1);
            memset(in, 0, (size_t)padded * sizeof *in);
            bits = 0;
        }
        amax = bni_bits_float(bits);
        e->q8_scale[row] = 127.0f / (amax > 1e-5f ? amax : 1e-5f);
        e->q8_sum[row] = k->quantize_i8(q8, run, stride, in, e->q8_scale[row], n);
        if (e->model->layout == BNI_I2S)
            bni_i2s_order(q8, run, stride, n);
        if (padded % run)                      /* tiles are 64 columns wide */
            memset(q8 + padded / run * stride + padded % run, 0, (size_t)(run - padded % run));
    }
}

/* Strip s of a matrix in place, as R16. */
static void bni_linear_gather(const bni_kernels *k, const bni_linear *l, int s, uint8_t *strip)
{
    const bni_rows *rows = &l->rows[0];
    const size_t row_bytes = (size_t)l->n_cols / 4;
    int p, row;
    for (p = 1; p < 3 && l->rows[p].codes; p++)
        if (s >= l->rows[p].first && (s - l->rows[p].first) % l->rows[p].step == 0)
            rows = &l->rows[p];
    row = (s - rows->first) / rows->step * 16;
    k->gather(strip, rows->codes + (size_t)row * row_bytes, row_bytes, rows->n_rows - row < 16 ? rows->n_rows - row : 16,
              l->n_cols);
}

/* scratch->sums [n_rows][16 (last - first)]: the sums of strips [first, last) with q8. In place two strips at a time,
   which stay in the second cache from one step to the next. */
static void bni_linear_sums(const bitnet_engine *e, const bni_linear *l, int first, int last, const int8_t *q8, int n_rows,
                            const bni_scratch *scratch)
{
    const int layout = bni_strip_layout(e->model), n = bni_sums_stride((last - first) * 16);
    const size_t strip = (size_t)bni_strip_bytes(layout, (uint64_t)l->n_cols);
    bni_matmul_fn *matmul = (bni_pass_tiled(e) ? e->kernels->matmul_tiles : e->kernels->matmul)[layout];
    int s, count;
    if (l->strips) {
        matmul(scratch->sums, n, l->strips + (size_t)first * strip, last - first, l->n_cols, q8, n_rows, scratch->panel);
        return;
    }
    for (s = first; s < last; s += count) {
        count = last - s < 2 ? 1 : 2;
        bni_linear_gather(e->kernels, l, s, scratch->strips);
        if (count == 2)
            bni_linear_gather(e->kernels, l, s + 1, scratch->strips + strip);
        matmul(scratch->sums + 16 * (s - first), n, scratch->strips, count, l->n_cols, q8, n_rows, scratch->panel);
    }
}

/* The sums of columns k to k + n - 1 of a group's activations [cols/4][n_rows][4], of each row, to x_sum [n_rows]. */
static void bni_group_sums(const int8_t *q8, int k, int n, int n_rows, int32_t *x_sum)
{
    int c, t, j;
    for (t = 0; t < n_rows; t++)
        x_sum[t] = 0;
    for (c = k / 4; c < (k + n) / 4; c++)
        for (t = 0; t < n_rows; t++)
            for (j = 0; j < 4; j++)
                x_sum[t] += q8[((ptrdiff_t)c * n_rows + t) * 4 + j];
}

/* As below, for a matrix whose groups of columns have scales of their own: a product for each strip and group of columns,
   of at most BNI_ROWS tokens. Exact, and far slower than one scale a row. */
static void bni_linear_grouped(bitnet_engine *e, const bni_op *op, const bni_linear *l, int first, int last, int group, int n_groups,
                               int then, bni_scratch *scratch)
{
    const int width = e->model->group, n_parts = l->n_cols / width, add = op->buffer == BNI_BUFFER_X, at = op->activate ? first * 8 : first * 16;
    int g, s, c, t;
    for (g = group; g < group + n_groups; g++) {
        const int n_rows = bni_group_rows(e, g, 1), row = g * BNI_ROWS;
        const int8_t *q8 = bni_group_q8(e, g, l->n_cols);
        float v[BNI_ROWS][32];
        for (s = first; s < last; s++) {
            const uint8_t *strip = l->strips + (size_t)s * (size_t)bni_strip_bytes(BNI_R16, (uint64_t)l->n_cols);
            int32_t *part = scratch->parts, *x_sum = part + n_parts * 16 * BNI_ROWS, sums[BNI_ROWS * 16], x[BNI_ROWS];
            for (c = 0; c < n_parts; c++) {
                e->kernels->matmul[BNI_R16](sums, 16, strip + (ptrdiff_t)c * width * 4, 1, width, q8 + (ptrdiff_t)c * width * n_rows, n_rows, scratch->panel);
                bni_group_sums(q8, c * width, width, n_rows, x);
                for (t = 0; t < n_rows; t++) {
                    memcpy(part + (t * n_parts + c) * 16, sums + 16 * t, 16 * sizeof *sums);
                    x_sum[t * n_parts + c] = x[t];
                }
            }
            for (t = 0; t < n_rows; t++)
                bni_rescale_groups((add ? bni_row_x(e, row + t) : bni_row_h(e, row + t)) + at, part + t * n_parts * 16, x_sum + t * n_parts,
                                   l->group_scale + (size_t)s * (size_t)n_parts * 16, e->q8_scale[row + t], n_parts, v[t], 16 * (s - first), then);
        }
    }
}

/* Strips [first, last) of a matrix times the rows of groups: exact int32 sums into scratch, then scaled to floats. Into
   x the result is added: that is the residual connection, and each element of x gets exactly one addition per op. */
static void bni_linear_strips(bitnet_engine *e, const bni_op *op, const bni_linear *l, int first, int last, int group,
                              int n_groups, bni_scratch *scratch)
{
    const int n = (last - first) * 16, row = group * bni_pass_group(e), n_rows = bni_group_rows(e, group, n_groups);
    const int add = op->buffer == BNI_BUFFER_X, at = op->activate ? first * 8 : first * 16;
    const int then = op->activate ? e->model->hp.act : add ? BNI_THEN_ADD : BNI_THEN_SET;
    if (l->grouped) {
        bni_linear_grouped(e, op, l, first, last, group, n_groups, then, scratch);
        return;
    }
    bni_linear_sums(e, l, first, last, bni_group_q8(e, group, l->n_cols), n_rows, scratch);
    e->kernels->rescale((add ? bni_row_x(e, row) : bni_row_h(e, row)) + at,
                        (size_t)(add ? e->x_stride : e->h_stride), scratch->sums, bni_sums_stride(n), e->q8_sum + row,
                        e->q8_scale + row, l->row_scale + 16 * (size_t)first, n_rows, n, then);
}

/* Units [u, last): block by block of groups, in a block pair by pair of strips, and a unit is one group times one pair.
   So a strip is unpacked once for the groups of a block, whose activations stay in the cache for all strips. Several
   pairs go to the kernel as one long run, with one group as many as bni_slice_cut allows: scratch has room. With a
   block it is up to BNI_BLOCK_PAIRS: their sums stay in the second cache, and a row of the result, which as a rule does
   not, gets a KiB or two at a time instead of a line. */
static void bni_units_linear(bitnet_engine *e, const bni_op *op, int layer, uint32_t u, uint32_t last,
                             bni_scratch *scratch)
{
    const bni_linear *l = &e->model->layers[layer].linear[op->linear];
    const uint32_t groups = (uint32_t)bni_pass_groups(e), pairs = (uint32_t)(l->n_strips + 1) / 2;
    const uint32_t per_block = (uint32_t)bni_block_groups(e, l->n_cols);
    uint32_t n;
    if (groups == 1) {
        int end = (int)last * 2;
        bni_linear_strips(e, op, l, (int)u * 2, end < l->n_strips ? end : l->n_strips, 0, 1, scratch);
        return;
    }
    for (; u < last; u += n) {
        const uint32_t block = u / (pairs * per_block), first = block * per_block;
        const uint32_t in_block = groups - first < per_block ? groups - first : per_block;
        const uint32_t at = u - block * pairs * per_block, group = at % in_block;
        const int strip = (int)(at / in_block) * 2;
        uint32_t n_pairs = 1;
        int end;
        n = in_block - group < last - u ? in_block - group : last - u;
        if (n == in_block) {
            n_pairs = (last - u) / in_block < BNI_BLOCK_PAIRS ? (last - u) / in_block : BNI_BLOCK_PAIRS;
            n_pairs = n_pairs < pairs - at / in_block ? n_pairs : pairs - at / in_block;
        }
        end = strip + 2 * (int)n_pairs;
        end = end < l->n_strips ? end : l->n_strips;
        bni_linear_strips(e, op, l, strip, end, (int)(first + group), (int)n, scratch);
        n *= n_pairs;
    }
}

/* A head x [head_dim] with its first n_rot columns turned, to y. x stays as it is: a line of h that nobody writes need not
   go back to memory. */
static void bni_head_turn(const bitnet_engine *e, float *y, const float *x, const float *rope)
{
    const bni_hparams *hp = &e->model->hp;
    e->kernels->rope(y, x, rope, hp->n_rot, hp->family->neox);
    memcpy(y + hp->n_rot, x + hp->n_rot, (size_t)(hp->head_dim - hp->n_rot) * sizeof *y);
}

/* One row, one key-value head and the query heads that share it: rope on q and k, attention integers of q, k, v, k and
   v into the cache. The next position of an odd pair of the cache is cleared where this row is the last one: attention
   reads values in pairs of positions, and a factor of 0 must meet a number, not whatever the memory held. Two rows of a
   session may share a pair, in different bytes. 4095 = 2^12 - 1: 128 products of 4095^2 stay below 2^31. */
static void bni_row_heads(bitnet_engine *e, int layer, int u, int kv_head, bni_scratch *scratch)
{
    const bni_hparams *hp = &e->model->hp;
    const bni_kernels *kern = e->kernels;
    const int d = hp->head_dim, dp = bni_pad16(d), shared = hp->n_head / hp->n_head_kv;
    bni_row *row = &e->rows[u];
    const float *rope = e->rope + (size_t)u * (size_t)hp->n_rot;
    const float *q = bni_row_h(e, u) + kv_head * shared * d, *k = bni_row_h(e, u) + bni_pad16(hp->dim[BNI_DIM_Q]) + kv_head * d;
    const float *v = k + bni_pad16(hp->dim[BNI_DIM_KV]);
    float k_scale, v_scale;
    uint8_t *area = row->blocks[row->pos / 64] + bni_area_offset(hp, layer, kv_head);
    uint32_t bits = 0, worst = 0;
    int head;
    for (head = kv_head * shared; head < (kv_head + 1) * shared; head++, q += d) {
        size_t at = (size_t)u * (size_t)hp->n_head + (size_t)head;
        bni_head_turn(e, scratch->norm, q, rope);
        e->q16_scale[at] = kern->quantize_i16(e->q16 + at * (size_t)dp, scratch->norm, d, dp, 4095, &bits);
        worst = bits > worst ? bits : worst;
    }
    bni_head_turn(e, scratch->norm, k, rope);
    k_scale = kern->quantize_i16(scratch->k, scratch->norm, d, dp, 4095, &bits);
    worst = bits > worst ? bits : worst;
    v_scale = kern->quantize_i16(scratch->v, v, d, dp, 4095, &bits);
    worst = bits > worst ? bits : worst;
    bni_kv_store(area, d, row->pos % 64, scratch->k, k_scale, scratch->v, v_scale, row->last);
    if (worst >= 0x7f800000u)
        bni_row_fail(row, layer + 1);
}

/* A position's keys lie in as many cache lines as there are pairs of columns, its values side by side: they come while
   others are at work. */
static void bni_fetch_slot(const bitnet_engine *e, int layer, int u, int kv_head)
{
    const bni_row *row = &e->rows[u];
    const int d = e->model->hp.head_dim, slot = row->pos % 64;
    uint8_t *area = row->blocks[row->pos / 64] + bni_area_offset(&e->model->hp, layer, kv_head);
    int i;
    for (i = 0; i < d; i += 2)
        BNI_PREFETCH_OWN(bni_kv_k(area) + i * BNI_KV_BLOCK + 2 * slot);
    for (i = 0; i < bni_pad16(d); i += 16)
        BNI_PREFETCH_OWN(bni_kv_v(area, d) + (slot >> 1) * 2 * bni_pad16(d) + 2 * i);
}

/* And what the next row's heads are made of. */
static void bni_fetch_heads(const bitnet_engine *e, int u, int kv_head)
{
    const bni_hparams *hp = &e->model->hp;
    const int d = hp->head_dim, n = hp->n_head / hp->n_head_kv * d;
    const float *h = bni_row_h(e, u), *k = h + bni_pad16(hp->dim[BNI_DIM_Q]) + kv_head * d;
    int i;
    for (i = 0; i < n; i += 16)
        BNI_PREFETCH(h + kv_head * n + i);
    for (i = 0; i < d; i += 16) {
        BNI_PREFETCH(k + i);
        BNI_PREFETCH(k + bni_pad16(hp->dim[BNI_DIM_KV]) + i);
    }
}

/* Unit u: one key-value head of up to bni_heads_rows rows: neighbouring positions, whose keys share cache lines, are
   written by one thread. */
static void bni_unit_heads(bitnet_engine *e, int layer, int u, bni_scratch *scratch)
{
    const int n = e->model->hp.n_head_kv, first = u / n * bni_heads_rows(e);
    const int last = first + bni_heads_rows(e) < e->pass.n_rows ? first + bni_heads_rows(e) : e->pass.n_rows;
    int row;
    bni_fetch_slot(e, layer, first, u % n);
    for (row = first; row < last; row++) {
        if (row + 1 < last)
            bni_fetch_heads(e, row + 1, u % n);
        if (row + 1 < last && e->rows[row + 1].blocks != e->rows[row].blocks)
            bni_fetch_slot(e, layer, row + 1, u % n);
        bni_row_heads(e, layer, row, u % n, scratch);
    }
}

/* A call of the attention kernel and what it points to. */
typedef struct bni_attend_call {
    bni_attend a;
    float scales[BNI_ATTEND_MOST], *out[BNI_ATTEND_MOST];
    int32_t pos[BNI_ATTEND_MOST];
} bni_attend_call;

/* Unit u: one tile of rows, one key-value head, some of the query heads that share it. They read the same keys and
   values, so as many as the kernel takes go to it as one matrix. The output overwrites q in h: nobody needs
   those floats any more, q lives on as integers in q16. */
static void bni_attend_prepare(const bitnet_engine *e, bni_attend_call *call, int layer, int u, const bni_scratch *scratch)
{
    const bni_hparams *hp = &e->model->hp;
    const int per_tile = bni_tile_units(e), shared = hp->n_head / hp->n_head_kv, per_unit = e->pass.heads_per_unit;
    const int slices = (shared + per_unit - 1) / per_unit, kv_head = u % per_tile / slices, slice = u % slices;
    const int head = kv_head * shared + slice * per_unit, dp = bni_pad16(hp->head_dim);
    const bni_tile *tile = &e->tiles[u / per_tile];
    int n_heads = shared - slice * per_unit, t, i, n = 0;
    bni_attend *a = &call->a;
    /* The last slice of the shared heads may be smaller. */
    n_heads = n_heads < per_unit ? n_heads : per_unit;
    for (t = 0; t < tile->n; t++)
        for (i = 0; i < n_heads; i++, n++) {
            int row = tile->first + t;
            size_t at = (size_t)row * (size_t)hp->n_head + (size_t)(head + i);
            memcpy(scratch->q + (size_t)n * (size_t)dp, e->q16 + at * (size_t)dp, (size_t)dp * sizeof(int16_t));
            call->scales[n] = e->q16_scale[at];
            call->pos[n] = e->rows[row].pos;
            call->out[n] = bni_row_h(e, row) + (size_t)(head + i) * (size_t)hp->head_dim;
        }
    a->steps = BNI_ATTEND_ALL;
    a->first = 0;
    a->end = (e->n_ctx + BNI_KV_BLOCK - 1) / BNI_KV_BLOCK;
    a->q = scratch->q;
    a->q_scale = call->scales;
    a->pos = call->pos;
    a->n_rows = n;
    a->head_dim = hp->head_dim;
    a->scale = BNI_EXP_LOG2E / bni_sqrtf((float)hp->head_dim);
    /* A tile is of one session, so one block table serves all its rows. */
    a->blocks = (const uint8_t *const *)e->rows[tile->first].blocks;
    a->area = bni_area_offset(hp, layer, kv_head);
    a->out = call->out;
    a->records = NULL;
    a->scratch = scratch->attend;
}

/* Units [whole, ...) are n_parts parts of each unit that is cut. */
static void bni_unit_attend(bitnet_engine *e, int layer, int u, bni_scratch *scratch)
{
    const int whole = e->pass.n_tiles * bni_tile_units(e) - e->pass.n_cut, n_parts = e->pass.n_parts;
    bni_attend_call call;
    if (u < whole) {
        bni_attend_prepare(e, &call, layer, u, scratch);
    } else {
        const int cut = (u - whole) / n_parts, part = (u - whole) % n_parts;
        int n_blocks;
        bni_attend_prepare(e, &call, layer, whole + cut, scratch);
        n_blocks = call.pos[0] / BNI_KV_BLOCK + 1;     /* a cut unit is of one token */
        call.a.steps = BNI_ATTEND_BLOCKS;
        call.a.first = part * n_blocks / n_parts;
        call.a.end = (part + 1) * n_blocks / n_parts;
        call.a.records = e->records + (size_t)cut * (size_t)e->cut_size;
    }
    e->kernels->attend(&call.a);
}

/* Unit u: one that was cut. */
static void bni_unit_join(bitnet_engine *e, int layer, int u, bni_scratch *scratch)
{
    bni_attend_call call;
    bni_attend_prepare(e, &call, layer, e->pass.n_tiles * bni_tile_units(e) - e->pass.n_cut + u, scratch);
    call.a.steps = BNI_ATTEND_JOIN;
    call.a.records = e->records + (size_t)u * (size_t)e->cut_size;
    e->kernels->attend(&call.a);
}

/* Wanted row u: its final norm, to row u of h, so that the head finds its inputs one after the other. h is free: the
   last layer's op has gone to x. */
static void bni_unit_final(bitnet_engine *e, int u)
{
    bni_row *row = &e->rows[e->wanted[u]];
    float *h = bni_row_h(e, u);
    int n = bni_pad16(e->model->hp.n_embd);
    e->kernels->rms_norm(h, bni_row_x(e, e->wanted[u]), e->model->output_norm, e->model->hp.eps, e->model->hp.n_embd);
    if (e->kernels->max_abs(h, n) >= 0x7f800000u) {
        bni_row_fail(row, e->model->hp.n_layer + 1);
        memset(h, 0, (size_t)n * sizeof *h);
    }
    if (row->top > 0 && !bni_plane_split(&e->model->plane, e->kernels, h, e->model->hp.n_embd,
                                         bni_bits_float(e->kernels->max_abs(h, n)), &e->splits[u], &e->goals[u]))
        row->top = 0;
}

/* Wanted rows of a head group: from group * BNI_HEAD_ROWS, so many. */
BNI_INLINE int bni_head_rows(const bitnet_engine *e, int group)
{
    int n = e->pass.n_wanted - group * BNI_HEAD_ROWS;
    return n < BNI_HEAD_ROWS ? n : BNI_HEAD_ROWS;
}

/* 1 if two passes do for all rows of the group. */
static int bni_head_two_pass(const bitnet_engine *e, int group)
{
    int n = bni_head_rows(e, group), i;
    for (i = 0; i < n; i++)
        if (e->rows[e->wanted[group * BNI_HEAD_ROWS + i]].top == 0)
            return 0;
    return e->model->plane.strips != NULL;
}

/* 1 if each byte of the output matrix is needed once, so that blocks can follow each other as one long run. */
BNI_INLINE int bni_head_streams(const bitnet_engine *e, int group)
{
    return bni_head_rows(e, group) == 1 || bni_head_two_pass(e, group);
}

/* Blocks [u, last) of the output matrix times the wanted rows of a group, to disjoint parts of the logits. With more than
   BNI_HEAD_ROWS wanted rows the matrix is read once per group. */
static void bni_units_head(bitnet_engine *e, int group, uint32_t u, uint32_t last)
{
    const bni_table *t = &e->model->output;
    const bni_plane *p = &e->model->plane;
    const int two_pass = bni_head_two_pass(e, group), n_rows = bni_head_rows(e, group), n_vocab = e->model->hp.n_vocab;
    float *y[BNI_HEAD_ROWS];
    int first = (int)u * BNI_HEAD_BLOCK, end, i;
    for (; u < last; first = end) {
        const uint32_t next = bni_head_streams(e, group) ? last : u + 1;
        end = next * BNI_HEAD_BLOCK < (uint32_t)n_vocab ? (int)next * BNI_HEAD_BLOCK : n_vocab;
        u = next;
        for (i = 0; i < n_rows; i++)
            y[i] = e->rows[e->wanted[group * BNI_HEAD_ROWS + i]].logits + first;
        if (two_pass)
            e->kernels->plane_rows(y, p->strips + (size_t)first * (size_t)p->n_cols, p->scale + first, (end - first + 15) / 16,
                                   p->n_cols, e->splits + group * BNI_HEAD_ROWS, n_rows);
        else
            for (i = 0; i < n_rows; i += BNI_ROWS)               /* the second time from a cache */
                e->kernels->dot_rows(y + i, t->type, t->data + (uint64_t)first * t->row_bytes, (size_t)t->row_bytes,
                                     end - first, bni_row_h(e, group * BNI_HEAD_ROWS + i), (size_t)e->h_stride,
                                     n_rows - i < BNI_ROWS ? n_rows - i : BNI_ROWS, e->model->hp.n_embd);
    }
}

/* Between the passes: row u of the group learns which approximations are too low. */
static void bni_unit_threshold(bitnet_engine *e, int group, int u)
{
    const bni_row *row = &e->rows[e->wanted[group * BNI_HEAD_ROWS + u]];
    bni_plane_threshold(&e->model->plane, e->kernels, &e->goals[group * BNI_HEAD_ROWS + u], row->logits, e->model->hp.n_vocab,
                        row->mask, row->top, row->reach, e->heaps + u * BNI_PLANE_TOP);
}

/* The second pass over block u: logits that may be among the best become exact, the others hopeless. */
static void bni_unit_rescore(bitnet_engine *e, int group, int u)
{
    const bni_table *t = &e->model->output;
    const bni_plane *p = &e->model->plane;
    int first = u * BNI_RESCORE_BLOCK, last = first + BNI_RESCORE_BLOCK, i, r, next;
    last = last < e->model->hp.n_vocab ? last : e->model->hp.n_vocab;
    for (i = group * BNI_HEAD_ROWS; i < group * BNI_HEAD_ROWS + bni_head_rows(e, group); i++) {
        const bni_goal *goal = &e->goals[i];
        float *y = e->rows[e->wanted[i]].logits;
        for (r = first; r < last;) {
            for (next = bni_plane_seek(p, e->kernels, goal, y, 1, goal->threshold, r, last); r < next && r < last; r++)
                y[r] = BNI_PLANE_OUT;
            for (; r < next + 16 && r < last; r++) {
                float *at = y + r;
                if (bni_plane_may_win(p, goal, *at, r))
                    e->kernels->dot_rows(&at, t->type, t->data + (uint64_t)r * t->row_bytes, (size_t)t->row_bytes, 1,
                                         bni_row_h(e, i), (size_t)e->h_stride, 1, e->model->hp.n_embd);
                else
                    *at = BNI_PLANE_OUT;
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------------- slices */

/* Units of the op at a place. FINISH is the session section's. */
static uint32_t bni_place_units(const bitnet_engine *e, const bni_place *p)
{
    const bni_pass *pass = &e->pass;
    switch (p->kind) {
    case BNI_OP_EMBED: return (uint32_t)pass->n_rows;
    case BNI_OP_HEADS:
        return (uint32_t)((pass->n_rows + bni_heads_rows(e) - 1) / bni_heads_rows(e) * e->model->hp.n_head_kv);
    case BNI_OP_QUANTIZE: return (uint32_t)((pass->n_rows + bni_quantize_rows(e) - 1) / bni_quantize_rows(e));
    case BNI_OP_LINEAR: {
        int strips = e->model->layers[p->layer].linear[bni_layer_ops[p->op].linear].n_strips;
        return (uint32_t)((strips + 1) / 2) * (uint32_t)bni_pass_groups(e);
    }
    case BNI_OP_ATTEND: return (uint32_t)(pass->n_tiles * bni_tile_units(e) + pass->n_cut * (pass->n_parts - 1));
    case BNI_OP_JOIN: return (uint32_t)pass->n_cut;
    case BNI_OP_FINAL: return (uint32_t)(pass->n_wanted + pass->n_hidden);
    case BNI_OP_HEAD: return (uint32_t)((e->model->hp.n_vocab + BNI_HEAD_BLOCK - 1) / BNI_HEAD_BLOCK);
    case BNI_OP_THRESHOLD: return (uint32_t)bni_head_rows(e, p->group);
    case BNI_OP_RESCORE: return (uint32_t)((e->model->hp.n_vocab + BNI_RESCORE_BLOCK - 1) / BNI_RESCORE_BLOCK);
    default: return (uint32_t)pass->n_sessions;
    }
}

/* Work of one unit in multiply-adds or the like; only the ratio between units of one kind matters, since the speed is
   learnt per kind. Attention grows with the position, so a slice's length must be judged where it begins. */
static uint64_t bni_place_work(const bitnet_engine *e, const bni_place *p, uint32_t unit)
{
    const bni_hparams *hp = &e->model->hp;
    int rows = e->pass.n_rows < bni_pass_group(e) ? e->pass.n_rows : bni_pass_group(e);
    int heads = bni_heads_rows(e), quantized = bni_quantize_rows(e);
    switch (p->kind) {
    case BNI_OP_EMBED: return (uint64_t)hp->n_embd + 32u * (uint64_t)hp->n_rot;
    case BNI_OP_QUANTIZE:
        return (uint64_t)(rows < quantized ? rows : quantized) *
               (uint64_t)hp->dim[bni_norm_parts[bni_layer_ops[p->op].norm].size];
    case BNI_OP_LINEAR:
        return 32u * (uint64_t)rows * (uint64_t)e->model->layers[p->layer].linear[bni_layer_ops[p->op].linear].n_cols;
    case BNI_OP_HEADS:
        return (uint64_t)(e->pass.n_rows < heads ? e->pass.n_rows : heads) *
               (uint64_t)((hp->dim[BNI_DIM_Q] + 2 * hp->dim[BNI_DIM_KV]) / hp->n_head_kv);
    case BNI_OP_ATTEND: {
        /* Parts of cut units are units, too, and share what the whole ones are. */
        const int whole = e->pass.n_tiles * bni_tile_units(e), all = (int)bni_place_units(e, p);
        const bni_tile *tile = &e->tiles[(uint64_t)unit * (uint64_t)e->pass.n_tiles / (uint64_t)all];
        return (uint64_t)tile->n * (uint64_t)e->pass.heads_per_unit * (uint64_t)(2 * hp->head_dim) *
               (uint64_t)(e->rows[tile->first].pos + 64) * (uint64_t)whole / (uint64_t)all;
    }
    case BNI_OP_JOIN:
        return (uint64_t)e->pass.heads_per_unit * (uint64_t)hp->head_dim * (uint64_t)(e->rows[e->pass.n_rows - 1].pos + 64);
    case BNI_OP_HEAD: return (uint64_t)(BNI_HEAD_BLOCK * bni_head_rows(e, p->group)) * (uint64_t)hp->n_embd;
    case BNI_OP_THRESHOLD: return (uint64_t)hp->n_vocab;
    case BNI_OP_RESCORE: return BNI_RESCORE_BLOCK * (uint64_t)bni_head_rows(e, p->group);
    default: return (uint64_t)hp->n_embd;
    }
}

/* Units [first, last) of the op at place, shared by the jobs of one parallel_for in chunks that get smaller: each of the
   first n_jobs takes half of a job's share, of the next n_jobs half of what is then left for one, and so on, down from at
   most `large` to `small` units, in multiples of `grain`, as they are. Few chunks, as every one starts with cold
   caches, and small ones to even out the end. Only next changes. */
typedef struct bni_slice {
    bitnet_engine *engine;
    bni_place place;
    uint32_t first, last, n_jobs, large, small, grain;
    bni_atomic next;                 /* chunk that nobody has taken */
} bni_slice;

/* First unit of chunk i. */
static uint32_t bni_slice_bound(const bni_slice *s, uint32_t i)
{
    const uint32_t n = s->last - s->first;
    uint32_t at = 0, size;
    for (;; i -= s->n_jobs, at += size * s->n_jobs) {
        size = (n - at) / (2 * s->n_jobs);
        size = size < s->large ? size / s->grain * s->grain : s->large;
        if (size <= s->small || i < s->n_jobs)
            break;
    }
    size = size > s->small ? size : s->small;
    return (n - at) / size < i ? s->last : s->first + at + i * size < s->last ? s->first + at + i * size : s->last;
}

/* Units [u, last) of the op at p, on the calling thread. */
static void bni_slice_run(bitnet_engine *e, const bni_place *p, uint32_t u, uint32_t last, bni_scratch *scratch)
{
    const bni_op *op = &bni_layer_ops[p->op];
    if (p->kind == BNI_OP_LINEAR) {
        bni_units_linear(e, op, p->layer, u, last, scratch);
        return;
    }
    if (p->kind == BNI_OP_HEAD) {
        bni_units_head(e, p->group, u, last);
        return;
    }
    for (; u < last; u++)
        switch (p->kind) {
        case BNI_OP_EMBED: bni_unit_embed(e, (int)u); break;
        case BNI_OP_QUANTIZE: bni_unit_quantize(e, op, p->layer, (int)u, scratch); break;
        case BNI_OP_HEADS: bni_unit_heads(e, p->layer, (int)u, scratch); break;
        case BNI_OP_ATTEND: bni_unit_attend(e, p->layer, (int)u, scratch); break;
        case BNI_OP_JOIN: bni_unit_join(e, p->layer, (int)u, scratch); break;
        case BNI_OP_FINAL: bni_unit_final(e, (int)u); break;
        case BNI_OP_THRESHOLD: bni_unit_threshold(e, p->group, (int)u); break;
        default: bni_unit_rescore(e, p->group, (int)u); break;
        }
}

/* Takes chunks of units from the slice's counter until none are left. Runs on any thread, also the host's, whose
   floating-point state is put back. Handing chunks out as they are asked for evens out cores of different speed. */
static void bni_slice_job(void *job, int index)
{
    bni_slice *s = (bni_slice *)job;
    bni_fp_state fp = bni_fp_enter();
    uint32_t i, u;
    while (i = bni_atomic_add(&s->next, 1), (u = bni_slice_bound(s, i)) < s->last)
        bni_slice_run(s->engine, &s->place, u, bni_slice_bound(s, i + 1), &s->engine->scratch[index]);
    bni_fp_leave(fp);
}

/* Chooses the chunks. Matrices with one group: as much as the scratch for sums takes, down to two pairs of strips, since
   two streams far apart are fastest (>>kernels); with several groups: whole pairs of strips for a block. The output
   matrix: as much as can stream. */
static void bni_slice_cut(bni_slice *s)
{
    const bitnet_engine *e = s->engine;
    s->n_jobs = (uint32_t)e->n_jobs;
    s->large = s->small = s->grain = 1;
    if (s->place.kind == BNI_OP_LINEAR && bni_pass_groups(e) > 1) {
        const bni_op *op = &bni_layer_ops[s->place.op];
        s->grain = (uint32_t)bni_block_groups(e, e->model->layers[s->place.layer].linear[op->linear].n_cols);
        s->large = BNI_BLOCK_PAIRS * s->grain;
        s->small = BNI_LEAST_PAIRS * s->grain;
    } else if (s->place.kind == BNI_OP_LINEAR) {
        s->large = BNI_MAX_CHUNK * BNI_MAX_GROUP / (uint32_t)e->pass.n_rows;
        s->small = 2;
    } else if (s->place.kind == BNI_OP_HEAD && bni_head_streams(e, s->place.group))
        s->large = s->last - s->first;
}

/* Runs units [unit, unit + n) of the op at p. A single chunk stays on this thread: waking others would cost more. */
static void bni_slice_dispatch(bitnet_engine *e, const bni_place *p, uint32_t unit, uint32_t n)
{
    bni_slice s;
    uint32_t jobs = 1;
    s.engine = e;
    s.place = *p;
    s.next = 0;
    s.first = unit;
    s.last = unit + n;
    bni_slice_cut(&s);
    while (jobs < (uint32_t)e->n_jobs && bni_slice_bound(&s, jobs) < s.last)
        jobs++;
    /* Not worth waking anybody; index 0 is as good as any, since no other job runs. */
    if (jobs == 1)
        bni_slice_job(&s, 0);
    else
        e->scheduler.parallel_for(e->scheduler.user, bni_slice_job, &s, (int)jobs);
}

/* How many units of the current op fit into about ns nanoseconds, at least 1, so that every step makes progress. */
static uint32_t bni_slice_units(const bitnet_engine *e, uint32_t left, uint64_t ns)
{
    const bni_place *p = &e->pass.place;
    uint64_t each = bni_place_work(e, p, e->pass.unit) * e->ps_per_work[p->kind] / 1000 + 1, n = ns / each;
    return n > left ? left : n < 1 && left > 0 ? 1 : (uint32_t)n;      /* an op without units has none to run */
}

/* Learns the speed of a kind of op: down at once to the mean, up slowly, since a slice that lost its core says little. */
static void bni_slice_learn(bitnet_engine *e, int kind, uint64_t work, uint64_t ns)
{
    uint64_t old = e->ps_per_work[kind], now = work ? ns * 1000 / work : 0;
    now = now < old ? (now + old) / 2 : now < old + old / 4 + 1 ? now : old + old / 4 + 1;
    e->ps_per_work[kind] = (uint32_t)(now < 1 ? 1 : now > 1000000000u ? 1000000000u : now);
}

/* The place after p: EMBED, the ops of layer 0, of layer 1, ..., FINAL, per group of wanted rows HEAD and perhaps the
   rest of a two-pass head, FINISH. */
static bni_place bni_place_next(const bitnet_engine *e, bni_place p)
{
    int head_groups = (e->pass.n_wanted + BNI_HEAD_ROWS - 1) / BNI_HEAD_ROWS;
    switch (p.kind) {
    case BNI_OP_EMBED:
        p.layer = p.op = 0;
        break;
    case BNI_OP_FINAL:
        p.group = 0;
        p.kind = head_groups > 0 ? BNI_OP_HEAD : BNI_OP_FINISH;
        return p;
    case BNI_OP_HEAD:
    case BNI_OP_THRESHOLD:
        if (p.kind == BNI_OP_THRESHOLD || bni_head_two_pass(e, p.group)) {
            p.kind++;
            return p;
        }
        /* fall through */
    case BNI_OP_RESCORE:
        p.kind = ++p.group < head_groups ? BNI_OP_HEAD : BNI_OP_FINISH;
        return p;
    default:
        if (++p.op == BNI_N_LAYER_OPS) {
            p.op = 0;
            p.layer++;
        }
    }
    p.kind = p.layer < e->model->hp.n_layer ? bni_layer_ops[p.op].kind : (int)BNI_OP_FINAL;
    return p;
}

/* ------------------------------------------------------------------------------------------- attention tiles */

/* Chooses which attention units several jobs share, each at a part of the positions. One token has few units, one for
   each key-value head, and what the number of jobs leaves over would keep most of them waiting: with 5 heads and 2 jobs
   one of them has 3, the other 2. Of a long context those left over are cut. Only units of single tokens, and only where
   few units are evened out by no others. Result: 0 if none are. */
static int bni_pass_cut(bitnet_engine *e)
{
    bni_pass *pass = &e->pass;
    const int n_units = pass->n_tiles * bni_tile_units(e), left = n_units % e->n_jobs, per_tile = bni_tile_units(e);
    int parts = e->n_jobs, i;
    if (pass->n_tiles != pass->n_rows || n_units >= 4 * e->n_jobs || left > e->n_cuts)
        return 0;
    /* Each job gets as many parts: the fewest that do. */
    for (i = 2; i < parts; i++)
        if (left * i % e->n_jobs == 0)
            parts = i;
    for (i = (n_units - left) / per_tile; i < pass->n_rows; i++)
        if (e->rows[i].pos / 64 + 1 < parts * BNI_CUT_BLOCKS)
            parts = (e->rows[i].pos / 64 + 1) / BNI_CUT_BLOCKS;
    if (left == 0 || parts < 2)
        return 0;
    pass->n_cut = left;
    pass->n_parts = parts;
    return 1;
}

/* Cuts the pass into tiles: rows of one session, up to so many. */
static void bni_pass_tile(bni_pass *pass, const bni_row *rows, bni_tile *tiles, int most)
{
    int row, n;
    pass->n_tiles = 0;
    for (row = 0; row < pass->n_rows; row += n) {
        for (n = 1; n < most && row + n < pass->n_rows && rows[row + n].session == rows[row].session; n++)
            continue;
        tiles[pass->n_tiles].first = row;
        tiles[pass->n_tiles].n = n;
        pass->n_tiles++;
    }
}

/* Chooses how many rows and heads a unit of attention takes: as many as the kernel does, but few enough that every job
   gets some. */
static void bni_pass_tiles(bitnet_engine *e)
{
    const bni_hparams *hp = &e->model->hp;
    bni_pass *pass = &e->pass;
    const int shared = hp->n_head / hp->n_head_kv;
    int most = e->kernels->attend_rows;
    pass->heads_per_unit = shared < BNI_ATTEND_ROWS ? shared : BNI_ATTEND_ROWS;
    do
        bni_pass_tile(pass, e->rows, e->tiles, most / pass->heads_per_unit);
    while (pass->n_tiles * bni_tile_units(e) < 4 * e->n_jobs && (most /= 2) >= BNI_ATTEND_ROWS);
    if (bni_pass_cut(e))
        return;
    /* Two units per job even out what differs between positions. Reading keys more often is the price. */
    while (pass->heads_per_unit > 1 && pass->n_tiles * bni_tile_units(e) < 2 * e->n_jobs && e->n_jobs > 1)
        pass->heads_per_unit = (pass->heads_per_unit + 1) / 2;
}
/* ======================================================================================================
   >>sampler    From a row of logits to a token
   ======================================================================================================
   Pure functions: logits, settings, history, position and seed in, token out. Nothing is remembered between calls;
   the random number is a function of seed and position, so rewinding, forking and loading a session replay the same
   text without saving a generator.

   The filters are llama.cpp's, in its usual order: penalties, bias, mask, top-k, top-p, min-p, temperature. Their
   exact definition here:
   - Candidates have one total order: logit descending, then token id ascending. No tie is left to chance.
   - The probability of a candidate is weight / sum of weights with weight = floor(2^40 e^-x), an integer, where
     x = max - logit (after the temperature: times 1 / temperature). Sums of integers don't depend on their order, so
     no algorithm below has to sort in order to be exact. What falls under 2^-40 of the best candidate is never drawn;
     of 128,000 candidates all that is lost is less than 1.2e-7.
   - top-p keeps the shortest prefix of the order that holds at least top_p of the weight.
   - min-p keeps candidates with x <= -log(min_p).
   - The draw takes the first candidate of the order whose prefix holds more than u of the weight.

   Both the border of top-p and the draw are one question: which candidate is the first whose prefix holds more than
   r? bni_mass_find answers it in two passes without sorting the vocabulary: a histogram of weight over x, then a heap
   over the one bucket that r falls into. Read bni_sample first, then that. */

enum {
    BNI_SAMPLE_NOT_FINITE = -1,      /* a logit is infinite or not a number */
    BNI_SAMPLE_NONE_ALLOWED = -2     /* mask and bias leave no token */
};

#define BNI_WEIGHT_ONE 1099511627776.0f        /* 2^40: 2^23 candidates of full weight stay below 2^63 */
#define BNI_WEIGHT_RANGE 28                    /* e^-28 * 2^40 = 0.76: no weight from here on */
#define BNI_BUCKETS_PER_UNIT 16
#define BNI_BUCKETS (BNI_WEIGHT_RANGE * BNI_BUCKETS_PER_UNIT)

typedef struct bni_candidate { float logit; int32_t token; } bni_candidate;

/* What bni_sample needs besides its input; lies in the scratch memory, aligned to 8. */
typedef struct bni_sampler {
    uint64_t bucket[BNI_BUCKETS];    /* weight of the candidates with b <= 16 x < b + 1 */
    bni_candidate *c;                /* [n] candidates left, in any order once top-k has run */
    int n;
    int odd;                         /* 1: a penalty or bias has made a logit infinite or NaN */
    float max;                       /* largest logit left */
    float scale;                     /* x = (max - logit) * scale */
} bni_sampler;

typedef struct bni_sample_args {
    const bni_kernels *kernels;
    const float *logits;             /* [n_vocab], never written */
    int n_vocab;                     /* below 2^23 */
    const bitnet_sampling *sampling;
    const bitnet_logit_bias *bias;   /* [n_bias], may be NULL if n_bias is 0; -infinity bans the token */
    int n_bias;
    const uint32_t *mask;            /* bit t mod 32 of word t / 32: token t is allowed; NULL: all are */
    const int32_t *history;          /* [n_history] tokens before the one to be sampled */
    int n_history;
    uint64_t position;               /* of the token to be sampled: picks the random number */
    void *scratch;                   /* bni_sample_scratch(n_vocab) bytes, aligned to 8 */
} bni_sample_args;

/* Bytes of scratch for a vocabulary: 8 per token, and the histogram. One scratch serves any number of sessions, one
   call at a time. */
BNI_UNUSED static uint64_t bni_sample_scratch(int n_vocab)
{
    return sizeof(bni_sampler) + (uint64_t)(n_vocab > 0 ? n_vocab : 0) * sizeof(bni_candidate);
}

/* NULL, or what is wrong with the settings: a constant text. bni_sample itself takes what comes without harm. */
BNI_UNUSED static const char *bni_sampling_check(const bitnet_sampling *s)
{
    const float field[6] = { s->temperature, s->top_p, s->min_p, s->repeat_penalty, s->frequency_penalty,
                             s->presence_penalty };
    int i;
    for (i = 0; i < 6; i++)
        if ((bni_float_bits(field[i]) & 0x7fffffffu) >= 0x7f800000u)
            return "a sampling setting is not finite";
    if (s->temperature < 0.0f)
        return "temperature is negative";
    if (s->top_k < 0)
        return "top_k is negative";
    if (s->top_p < 0.0f || s->top_p > 1.0f)
        return "top_p is not in 0 .. 1";
    if (s->min_p < 0.0f || s->min_p > 1.0f)
        return "min_p is not in 0 .. 1";
    if (s->repeat_penalty < 0.0f)
        return "repeat_penalty is negative";
    if (s->repeat_last_n < -1)
        return "repeat_last_n is below -1";
    return NULL;
}

/* ------------------------------------------------------------------------------------- order, and heaps in it */

/* 1 if a comes before b: more likely, or as likely with the lower id. */
BNI_INLINE int bni_before(bni_candidate a, bni_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

/* Restores the heap c [n] after c[i] has changed for something that belongs further down. best_first 1: the root
   is the first candidate in the order; 0: the last. */
static void bni_heap_sift(bni_candidate *c, int n, int i, int best_first)
{
    bni_candidate moving = c[i];
    int child;
    while ((child = 2 * i + 1) < n) {
        if (child + 1 < n && bni_before(c[child + 1], c[child]) == best_first)
            child++;
        if (bni_before(moving, c[child]) == best_first)
            break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moving;
}

/* Orders c [n] as a heap, from the last parent up to the root: O(n). */
static void bni_heap_make(bni_candidate *c, int n, int best_first)
{
    int i;
    for (i = n / 2 - 1; i >= 0; i--)
        bni_heap_sift(c, n, i, best_first);
}

/* Keeps the first k candidates of the order, in any order; they come with ids ascending. A heap whose root is the last
   of them: a later candidate loses a tie with it, so most are dismissed by one comparison.
   O(n + k log k log(n / k)) on input in random order. */
static void bni_keep_top(bni_sampler *s, int k)
{
    bni_candidate *c = s->c;
    int i;
    if (k >= s->n)
        return;
    bni_heap_make(c, k, 0);
    for (i = k; i < s->n; i++) {
        if (!(c[i].logit > c[0].logit))
            continue;
        c[0] = c[i];
        bni_heap_sift(c, k, 0, 0);
    }
    s->n = k;
}

/* -------------------------------------------------------------------------------------------- integer weights */

/* How far a candidate lies behind the best, in units of the exponent: 0 or more, perhaps infinite, never NaN.
   It falls with the logit, so that buckets of x are runs of the order. */
BNI_INLINE float bni_distance(const bni_sampler *s, float logit)
{
    return bni_mulf(s->max - logit, s->scale);
}

/* floor(2^40 e^-x) for 0 <= x < BNI_WEIGHT_RANGE. The product is exact (a power of two), the conversion cuts. Signed
   on the way, because that is one instruction on every machine. */
BNI_INLINE uint64_t bni_weight(float x)
{
    return (uint64_t)(int64_t)(bni_expf(-x) * BNI_WEIGHT_ONE);
}

/* Fills the histogram. Result: the sum of all weights, at least 2^40, as the best candidate alone has that. The test
   is written so that a distance too large for int, infinity included, never reaches the conversion. */
static uint64_t bni_mass_total(bni_sampler *s)
{
    uint64_t total = 0, w;
    float x;
    int i;
    memset(s->bucket, 0, sizeof s->bucket);
    for (i = 0; i < s->n; i++) {
        x = bni_distance(s, s->c[i].logit);
        if (!(x < (float)BNI_WEIGHT_RANGE))
            continue;
        w = bni_weight(x);
        s->bucket[(int)(x * (float)BNI_BUCKETS_PER_UNIT)] += w;
        total += w;
    }
    return total;
}

/* The first candidate of the order whose prefix, itself included, has a weight above r; r below the total of the
   bni_mass_total that came right before. Buckets are runs of the order, so walking down the histogram leads to the
   bucket, and popping its candidates best first leads to the one. With real logits a bucket holds few; the worst
   case, all logits equal, is one bucket and a heap sort. Permutes the candidates, which no other step minds. */
static bni_candidate bni_mass_find(bni_sampler *s, uint64_t r)
{
    bni_candidate *c = s->c, swap;
    int b = 0, i, m = 0;
    uint64_t w;
    float x;
    while (b < BNI_BUCKETS - 1 && r >= s->bucket[b])
        r -= s->bucket[b++];
    for (i = 0; i < s->n; i++) {     /* the bucket's candidates to the front */
        x = bni_distance(s, c[i].logit);
        if (!(x < (float)BNI_WEIGHT_RANGE) || (int)(x * (float)BNI_BUCKETS_PER_UNIT) != b)
            continue;
        swap = c[m];
        c[m++] = c[i];
        c[i] = swap;
    }
    bni_heap_make(c, m, 1);
    while (m > 1) {                  /* pop them in order: c[m] is the one just passed */
        w = bni_weight(bni_distance(s, c[0].logit));
        if (r < w)
            break;
        r -= w;
        swap = c[0];
        c[0] = c[--m];
        c[m] = swap;
        bni_heap_sift(c, m, 0, 1);
    }
    return c[0];
}

/* ------------------------------------------------------------------------------------------------- the filters */

/* Candidates 0 .. n_vocab - 1 in their place. Result: 1 if all logits are finite. The exponent's largest value
   marks infinities and NaNs, and an integer maximum can't be fooled by them. */
static int bni_fill(bni_sampler *s, const float *logits, int n_vocab)
{
    uint32_t bits, largest = 0;
    int i;
    for (i = 0; i < n_vocab; i++) {
        s->c[i].logit = logits[i];
        s->c[i].token = i;
        bits = bni_float_bits(logits[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    s->n = n_vocab;
    return largest < 0x7f800000u;
}

/* The same as fill, mask and bni_keep_top without a copy of the logits, for the many cases that change none. Result: 1
   if all are finite. */
static int bni_fill_top(bni_sampler *s, const bni_kernels *kernels, const float *logits, int n_vocab,
                        const uint32_t *mask, int k)
{
    float root = bni_bits_float(0xff800000u);  /* -infinity until there are k */
    int i, n = 0, at;
    if (kernels->max_abs(logits, n_vocab) >= 0x7f800000u)
        return 0;
    for (i = 0; i < n_vocab; i++) {
        if (i % 16 == 0 && i < n_vocab / 16 * 16)
            i = kernels->seek(logits, root, i, n_vocab / 16 * 16);
        if (i == n_vocab)
            break;
        if (!(logits[i] > root) || (mask && !(mask[i >> 5] >> (i & 31) & 1u)))
            continue;
        at = n < k ? n++ : 0;
        s->c[at].logit = logits[i];
        s->c[at].token = i;
        if (n < k)
            continue;
        if (at == 0)
            bni_heap_sift(s->c, k, 0, 0);
        else
            bni_heap_make(s->c, k, 0);         /* once, with the k-th */
        root = s->c[0].logit;
    }
    s->n = n;
    return 1;
}

/* Changes the logit of token t, which still stands in its place. */
BNI_INLINE void bni_set_logit(bni_sampler *s, uint32_t t, float logit)
{
    s->c[t].logit = logit;
    if ((bni_float_bits(logit) & 0x7fffffffu) >= 0x7f800000u)
        s->odd = 1;
}

/* 1 if a penalty or a bias may change a logit. */
BNI_INLINE int bni_changes_logits(const bni_sample_args *a)
{
    const bitnet_sampling *set = a->sampling;
    return a->n_bias > 0 || (set->repeat_penalty != 0.0f && set->repeat_penalty != 1.0f) ||
           set->frequency_penalty != 0.0f || set->presence_penalty != 0.0f;
}

/* Lowers the logits of tokens among the last repeat_last_n of the history: divided by repeat_penalty (multiplied if
   negative, which lowers it too; Keskar et al., CTRL, 2019), minus frequency_penalty * count, minus presence_penalty.
   O(window) and no table: candidates still stand in their token's place, so their token fields can count. */
static void bni_penalize(bni_sampler *s, const bni_sample_args *a)
{
    const bitnet_sampling *set = a->sampling;
    float repeat = set->repeat_penalty > 0.0f ? set->repeat_penalty : 1.0f, drop, v;
    int last_n = set->repeat_last_n == 0 ? 64 : set->repeat_last_n;
    int first = last_n < 0 || last_n > a->n_history ? 0 : a->n_history - last_n;
    uint32_t t, n = (uint32_t)s->n;
    int i;
    for (i = first; i < a->n_history; i++)
        if ((t = (uint32_t)a->history[i]) < n)
            s->c[t].token = 0;
    for (i = first; i < a->n_history; i++)
        if ((t = (uint32_t)a->history[i]) < n)
            s->c[t].token++;
    for (i = first; i < a->n_history; i++) {
        t = (uint32_t)a->history[i];
        if (t >= n || s->c[t].token == 0)      /* 0: done when it was met before */
            continue;
        drop = bni_mulf((float)s->c[t].token, set->frequency_penalty) + set->presence_penalty;
        v = s->c[t].logit;
        v = v > 0.0f ? v / repeat : bni_mulf(v, repeat);
        bni_set_logit(s, t, v - drop);
        s->c[t].token = 0;
    }
    for (i = first; i < a->n_history; i++)
        if ((t = (uint32_t)a->history[i]) < n)
            s->c[t].token = (int32_t)t;
}

/* Adds the bias of each entry in turn; a token may occur more than once. Tokens outside the vocabulary are ignored. */
static void bni_add_bias(bni_sampler *s, const bni_sample_args *a)
{
    uint32_t t;
    int i;
    for (i = 0; i < a->n_bias; i++)
        if ((t = (uint32_t)a->bias[i].token) < (uint32_t)s->n)
            bni_set_logit(s, t, s->c[t].logit + a->bias[i].bias);
}

/* Drops what the mask or a bias of -infinity forbids; the others keep their order. Result: 1, or 0 if a penalty or
   bias has made a logit infinite or NaN otherwise. */
static int bni_apply_mask(bni_sampler *s, const uint32_t *mask)
{
    uint32_t bits;
    int i, m = 0;
    for (i = 0; i < s->n; i++) {
        if (mask && !(mask[i >> 5] >> (i & 31) & 1u))
            continue;
        bits = bni_float_bits(s->c[i].logit);
        if ((bits & 0x7fffffffu) >= 0x7f800000u) {
            if (bits != 0xff800000u)
                return 0;
            continue;
        }
        s->c[m++] = s->c[i];
    }
    s->n = m;
    return 1;
}

/* All steps up to and including top-k; greedy is top-k with k = 1. Result: 0, or an error as bni_sample's. */
static int bni_collect(bni_sampler *s, const bni_sample_args *a)
{
    int k = !(a->sampling->temperature > 0.0f) ? 1 : a->sampling->top_k > 0 ? a->sampling->top_k : a->n_vocab;
    int finite, changes = bni_changes_logits(a);
    if (!changes && k < a->n_vocab) {
        finite = bni_fill_top(s, a->kernels, a->logits, a->n_vocab, a->mask, k);
    } else {
        finite = bni_fill(s, a->logits, a->n_vocab);
        s->odd = 0;
        if (finite && changes) {
            bni_penalize(s, a);
            bni_add_bias(s, a);
        }
        if (finite && (s->odd || a->mask))
            finite = bni_apply_mask(s, a->mask);
        if (finite)
            bni_keep_top(s, k);
    }
    return !finite ? BNI_SAMPLE_NOT_FINITE : s->n <= 0 ? BNI_SAMPLE_NONE_ALLOWED : 0;
}

/* The first candidate of the order; n > 0. One comparison dismisses nearly all. */
static bni_candidate bni_best(const bni_sampler *s)
{
    bni_candidate best = s->c[0];
    int i;
    for (i = 1; i < s->n; i++)
        if (s->c[i].logit >= best.logit && bni_before(s->c[i], best))
            best = s->c[i];
    return best;
}

/* Keeps the shortest prefix of the order that holds at least top_p of the weight: up to and including the first
   candidate whose prefix exceeds target - 1. Always keeps one. As llama.cpp does it, before the temperature. */
static void bni_apply_top_p(bni_sampler *s, float top_p)
{
    uint64_t total, target;
    bni_candidate border;
    int i, m = 0;
    s->scale = 1.0f;
    total = bni_mass_total(s);
    target = (uint64_t)(int64_t)((double)top_p * (double)(int64_t)total);
    border = bni_mass_find(s, target > 0 ? target - 1 : 0);
    for (i = 0; i < s->n; i++)
        if (!bni_before(border, s->c[i]))
            s->c[m++] = s->c[i];
    s->n = m;
}

/* Keeps candidates at least min_p times as likely as the best (Nguyen et al., 2024), told by the distance of logits
   instead of two exponentials each. Always keeps the best. */
static void bni_apply_min_p(bni_sampler *s, float min_p)
{
    float reach = min_p < 1.0f ? -bni_logf(min_p) : 0.0f;
    int i, m = 0;
    for (i = 0; i < s->n; i++)
        if (s->max - s->c[i].logit <= reach)
            s->c[m++] = s->c[i];
    s->n = m;
}

/* The next token, or BNI_SAMPLE_NOT_FINITE, or BNI_SAMPLE_NONE_ALLOWED. A function of its arguments alone, the same on
   every machine; runs inside bni_fp_enter. Time for 128,256 logits: greedy or top-k 40 about 0.03 ms, all
   candidates about 1.2 ms. */
BNI_UNUSED static int32_t bni_sample(const bni_sample_args *a)
{
    const bitnet_sampling *set = a->sampling;
    bni_sampler *s = (bni_sampler *)a->scratch;
    bni_candidate best;
    uint64_t total, r;
    int result;
    s->c = (bni_candidate *)(void *)(s + 1);
    result = bni_collect(s, a);      /* penalties, bias, mask, top-k */
    if (result < 0)
        return result;
    best = bni_best(s);
    if (!(set->temperature > 0.0f) || s->n == 1)
        return best.token;
    s->max = best.logit;
    if (set->top_p > 0.0f && set->top_p < 1.0f)
        bni_apply_top_p(s, set->top_p);
    if (set->min_p > 0.0f)
        bni_apply_min_p(s, set->min_p);
    /* below 1e-30 the reciprocal could overflow, and 0 * infinity is no distance; nobody sees the difference */
    s->scale = set->temperature > 1e-30f ? 1.0f / set->temperature : 1e30f;
    total = bni_mass_total(s);
    /* u < 1, but u * total may round up to total where total has more than 53 bits */
    r = (uint64_t)(int64_t)(bni_random_unit(set->seed, a->position) * (double)(int64_t)total);
    return bni_mass_find(s, r < total ? r : total - 1).token;
}

/* ------------------------------------------------------------------------------------- probabilities to report */

/* Log-softmax of the raw logits [n_vocab], natural logarithm: *logprob of token (may be NULL), and the n_top most
   likely tokens into top, best first (n_top <= BITNET_MAX_LOGPROBS; as many as there are). No sampling setting
   takes part. Result: entries of top, or BNI_SAMPLE_NOT_FINITE. The sum is of integer weights, so exact to 1.2e-7. */
BNI_UNUSED static int bni_logprobs(const float *logits, int n_vocab, int32_t token, float *logprob,
                                   bitnet_logprob *top, int n_top)
{
    bni_candidate best[BITNET_MAX_LOGPROBS], next;
    uint64_t total = 0;
    uint32_t bits, largest = 0;
    double log_total;
    float max = n_vocab > 0 ? logits[0] : 0.0f, x;
    int i, j, n = 0;
    for (i = 0; i < n_vocab; i++) {
        bits = bni_float_bits(logits[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
        max = logits[i] > max ? logits[i] : max;
    }
    if (n_vocab <= 0 || largest >= 0x7f800000u)
        return BNI_SAMPLE_NOT_FINITE;
    n_top = n_top < BITNET_MAX_LOGPROBS ? n_top : BITNET_MAX_LOGPROBS;
    for (i = 0; i < n_vocab; i++) {
        x = max - logits[i];
        if (x < (float)BNI_WEIGHT_RANGE)
            total += bni_weight(x);
        next.logit = logits[i];
        next.token = i;
        if (n_top <= 0 || (n == n_top && !bni_before(next, best[n - 1])))
            continue;
        j = n < n_top ? n++ : n - 1; /* insert from behind; the last of a full list falls out */
        for (; j > 0 && bni_before(next, best[j - 1]); j--)
            best[j] = best[j - 1];
        best[j] = next;
    }
    log_total = bni_log((double)(int64_t)total / (double)BNI_WEIGHT_ONE);
    for (i = 0; i < n; i++) {
        top[i].token = best[i].token;
        top[i].logprob = (float)(((double)best[i].logit - (double)max) - log_total);
    }
    if (logprob && token >= 0 && token < n_vocab)
        *logprob = (float)(((double)logits[token] - (double)max) - log_total);
    return n;
}
/* ======================================================================================================
   >>stream    From tokens to text that can be shown
   ======================================================================================================
   A token is a string of bytes, and its borders fall anywhere: inside a UTF-8 character, inside a stop string. What
   a program wants is text: valid UTF-8, piece by piece, that never has to be taken back. So three small machines in a
   row:
   1. a UTF-8 decoder that passes on whole characters, and U+FFFD for each maximal piece of garbage (as the WHATWG
      encoding standard and Unicode 3.9, D93b, recommend);
   2. a matcher that looks for stop strings in what comes out of it;
   3. a hold: the longest end of the text that may still become a stop string stays back until that is decided.

   The result doesn't depend on where tokens end. The stop string that *ends* first wins, and of those that end
   at the same byte the longest. No byte of it is ever released, nor anything after it. (The one that starts
   first can't be the rule: whether it will be completed is not known yet.) */

enum { BNI_STREAM_KEEP = BITNET_MAX_STOP_BYTES };

/* Lives in memory of the caller, bni_stream_memory(max_bytes) bytes; the text's buffer stands behind it. */
typedef struct bni_stream {
    const char *stop[BITNET_MAX_STOPS];        /* [n_stops], the caller's, until the next reset */
    size_t stop_size[BITNET_MAX_STOPS];
    int n_stops;
    int stopped;                     /* index of the stop string found, plus 1; 0: none */
    size_t max_bytes;                /* longest input of one push */
    char *buffer;                    /* what was held, then what is new */
    size_t n_buffer;
    char held[BNI_STREAM_KEEP];      /* text not yet released: a proper prefix of a stop string */
    size_t n_held;
    uint8_t pending[4];              /* the bytes so far of an incomplete character */
    int n_pending, n_missing;        /* and how many it lacks */
    uint8_t low, high;               /* bounds of its next byte */
    const char *text;                /* the piece to release: valid UTF-8 and a NUL, until the next call */
    size_t size;                     /* of text, without the NUL */
} bni_stream;

/* Bytes that one push may add to the text: each byte of input becomes at most U+FFFD's three, and so does an
   incomplete character from before. */
BNI_INLINE uint64_t bni_stream_growth(uint64_t max_bytes) { return 3 * max_bytes + 3; }

/* Bytes of a stream whose pushes have at most max_bytes each; to be aligned to 8. */
BNI_UNUSED static uint64_t bni_stream_memory(uint64_t max_bytes)
{
    return sizeof(bni_stream) + BNI_STREAM_KEEP + bni_stream_growth(max_bytes) + 8;
}

/* ------------------------------------------------------------------------------------------- 2. stop strings */

/* Appends one byte of the text and looks whether it completes a stop string: then that is cut off, and stopped is
   set. Stop strings are compared from the end of the buffer, which holds at least as much as matches one so far. */
static void bni_stream_append(bni_stream *s, uint8_t byte)
{
    size_t best = 0, n;
    int i;
    if (s->stopped)
        return;
    s->buffer[s->n_buffer++] = (char)byte;
    for (i = 0; i < s->n_stops; i++) {
        n = s->stop_size[i];
        if (n <= best || n > s->n_buffer || (uint8_t)s->stop[i][n - 1] != byte ||
            memcmp(s->buffer + s->n_buffer - n, s->stop[i], n) != 0)
            continue;
        best = n;
        s->stopped = i + 1;
    }
    s->n_buffer -= best;
}

/* Length of the longest end of the buffer that is the beginning of a stop string, but not all of it. Such an end
   starts with a stop string's first byte, so it never starts inside a character. Plain comparisons: stop strings are
   few and short, and nearly all fail at the first byte. */
static size_t bni_stream_open(const bni_stream *s)
{
    size_t n, longest = 0, size;
    int i;
    for (i = 0; i < s->n_stops; i++) {
        size = s->stop_size[i] - 1 < s->n_buffer ? s->stop_size[i] - 1 : s->n_buffer;
        for (n = size; n > longest; n--) {
            if (s->buffer[s->n_buffer - n] != s->stop[i][0])
                continue;
            if (memcmp(s->buffer + s->n_buffer - n, s->stop[i], n) == 0)
                longest = n;         /* ends the loop */
        }
    }
    return longest;
}

/* ----------------------------------------------------------------------------------------- 1. UTF-8 decoder */

/* U+FFFD (ef bf bd) for the incomplete character, if there is one. */
static void bni_stream_drop_pending(bni_stream *s)
{
    if (s->n_pending == 0)
        return;
    s->n_pending = 0;
    bni_stream_append(s, 0xef);
    bni_stream_append(s, 0xbf);
    bni_stream_append(s, 0xbd);
}

/* Takes the first byte of a character. The bounds of the second byte exclude overlong forms (e0, f0), surrogates
   (ed) and what lies beyond U+10FFFF (f4): Unicode table 3-7. */
static void bni_stream_first_byte(bni_stream *s, uint8_t b)
{
    s->low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
    s->high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
    s->pending[0] = b;
    s->n_pending = 1;
    s->n_missing = b < 0xc2 || b > 0xf4 ? 0 : b < 0xe0 ? 1 : b < 0xf0 ? 2 : 3;
    if (b < 0x80) {
        s->n_pending = 0;
        bni_stream_append(s, b);
    } else if (s->n_missing == 0) {
        bni_stream_drop_pending(s);
    }
}

/* One byte of input. A byte that can't continue the character at hand ends it as garbage, and is looked at again as
   the first of the next: so a piece of garbage is maximal, but swallows nothing that could be text. Only the second
   byte has bounds of its own. */
static void bni_stream_byte(bni_stream *s, uint8_t b)
{
    int i;
    if (s->n_pending > 0 && (b < s->low || b > s->high))
        bni_stream_drop_pending(s);
    if (s->n_pending == 0) {
        bni_stream_first_byte(s, b);
        return;
    }
    s->pending[s->n_pending++] = b;
    s->low = 0x80;
    s->high = 0xbf;
    if (--s->n_missing > 0)
        return;
    for (i = 0; i < s->n_pending; i++)
        bni_stream_append(s, s->pending[i]);
    s->n_pending = 0;
}

/* ------------------------------------------------------------------------------------------------ 3. the hold */

/* Splits the buffer into the piece to release and the part to hold, which moves out of the way of the NUL and comes
   back to the front of the buffer with the next push. */
static void bni_stream_release(bni_stream *s, size_t hold)
{
    s->text = s->buffer;
    s->size = s->n_buffer - hold;
    memcpy(s->held, s->buffer + s->size, hold);
    s->n_held = hold;
    s->buffer[s->size] = '\0';
}

/* Prepares for a new text. stops [n_stops] strings with NULs, which must stay until the next reset. Result: 0, or
   -1 with no stop strings set where one is empty, longer than BITNET_MAX_STOP_BYTES, or not valid UTF-8 (it could
   never be found), or where there are more than BITNET_MAX_STOPS.
   Valid UTF-8 is what the decoder passes on unchanged, which never makes it longer. */
static int bni_stream_reset(bni_stream *s, const char *const *stops, int n_stops)
{
    size_t i, n;
    int k, valid = n_stops >= 0 && n_stops <= BITNET_MAX_STOPS && (stops || n_stops == 0);
    s->n_stops = s->stopped = s->n_pending = s->n_missing = 0;
    s->n_held = s->n_buffer = s->size = 0;
    s->text = s->buffer;
    s->buffer[0] = '\0';
    for (k = 0; valid && k < n_stops; k++) {
        n = stops[k] ? strlen(stops[k]) : 0;
        valid = n > 0 && n <= BITNET_MAX_STOP_BYTES;
        for (i = 0; valid && i < n && s->n_buffer <= i; i++)
            bni_stream_byte(s, (uint8_t)stops[k][i]);
        valid = valid && s->n_buffer == n && memcmp(s->buffer, stops[k], n) == 0;
        s->stop[k] = stops[k];
        s->stop_size[k] = n;
        s->n_buffer = 0;
        s->n_pending = 0;
    }
    s->n_stops = valid ? n_stops : 0;
    s->buffer[0] = '\0';
    return valid ? 0 : -1;
}

/* s points to bni_stream_memory(max_bytes) bytes. Leaves a stream without stop strings. */
BNI_UNUSED static void bni_stream_init(bni_stream *s, size_t max_bytes)
{
    memset(s, 0, sizeof *s);
    s->max_bytes = max_bytes;
    s->buffer = (char *)(s + 1);
    bni_stream_reset(s, NULL, 0);
}

/* Takes the bytes [n] of the next token, n <= max_bytes. text and size are then the piece to release (perhaps
   empty). Result: 1 if the text has ended with a stop string (then all later pieces are empty), else 0. */
BNI_UNUSED static int bni_stream_push(bni_stream *s, const void *bytes, size_t n)
{
    const uint8_t *b = (const uint8_t *)bytes;
    size_t i;
    BNI_ASSERT(n <= s->max_bytes);
    memcpy(s->buffer, s->held, s->n_held);
    s->n_buffer = s->n_held;
    if (n > s->max_bytes)            /* a programming error must not become a write past the buffer */
        n = s->max_bytes;
    for (i = 0; i < n && !s->stopped; i++)
        bni_stream_byte(s, b[i]);
    bni_stream_release(s, s->stopped ? 0 : bni_stream_open(s));
    return s->stopped != 0;
}

/* The text ends here: releases what was held back; an incomplete character becomes U+FFFD. Result as
   bni_stream_push: U+FFFD may complete a stop string. */
BNI_UNUSED static int bni_stream_finish(bni_stream *s)
{
    memcpy(s->buffer, s->held, s->n_held);
    s->n_buffer = s->n_held;
    bni_stream_drop_pending(s);
    bni_stream_release(s, 0);
    return s->stopped != 0;
}
/* ======================================================================================================
   >>session    Conversations: what they hold, how they advance, what they tell
   ======================================================================================================
   A session is a list of tokens, of which the first n_kv are evaluated: their keys and values are in the cache. Whatever
   is not evaluated yet, a prompt or the token sampled last, is work for the next pass, so prompts and generation are
   one thing. A pass takes the sessions that wait for one token first, then prompts, as many rows as n_batch allows; at
   its end every session with all tokens evaluated samples the next one.

   The life of a pass:
   1. bitnet_begin copies the prompt behind the tokens and marks the session RUNNING. It computes nothing.
   2. bitnet_step finds no pass in flight and calls bni_pass_start, which gives each session with pending tokens a run
      of consecutive rows. From here to the end of the pass those sessions are BUSY: no call may move what the rows
      use.
   3. bni_pass_advance runs slices of the ops (>>transformer), as many as the budget allows. The place is kept in
      engine->pass, so the next bitnet_step goes on in the middle of an op.
   4. Before the output matrix the host's masks are asked for; after each group of eight rows of logits they are checked
      and bitnet_eval's callback sees them.
   5. FINISH, one unit per session: n_kv moves over the evaluated rows, PROGRESS is noted, and where all tokens are
      evaluated a token is sampled, appended and noted as TOKEN, perhaps with DONE.
   6. The host fetches the events. A session with an unfetched TOKEN has no pending tokens as far as the next pass is
      concerned: that is why one slot per kind of event is enough, and why nothing is ever dropped.

   0 <= n_kv <= n_tokens <= n_ctx always holds. While a session generates, n_tokens - n_kv is 1 between passes: the
   token sampled last is in the list, and not yet in the cache. Cache slots from n_kv on hold garbage that nobody
   reads: attention looks at no position after a row's own, and a row writes its position before it looks. So dropping
   rows, rewinding and failing need no repair of the cache; setting n_kv is enough.

   The KV cache is addressed through a table of blocks of 64 positions, each holding all layers.

   Thread rule: everything here belongs to the one thread that is inside a call on the engine or one of its sessions.
   The workers only run jobs of a slice; they touch rows, buffers and cache areas that their units own. The exception is
   session->cancelled, an atomic flag that any thread may set. */

/* IDLE: nothing to compute until bitnet_begin; DONE may still wait to be fetched. RUNNING: from bitnet_begin to DONE.
   */
enum { BNI_IDLE, BNI_RUNNING };

/* One block of memory: this struct, then what bni_session_layout takes behind it, the cache last. */
struct bitnet_session {
    bitnet_engine *engine;
    bitnet_session *newer, *older;   /* the engine's list */
    uint64_t block_size;             /* bytes of this block, for the allocator */
    int n_ctx, n_blocks;             /* positions; blocks of 64 that hold them, the last perhaps in part */
    uint8_t **blocks;                /* [n_blocks] -> bni_block_bytes */
    int32_t *tokens;                 /* [n_ctx] */
    int n_tokens, n_kv;              /* tokens in the list; of these, evaluated: their K and V are in the cache */
    float *logits;                   /* [n_vocab padded to 16] of the last evaluated token */
    float *final;                    /* [n_embd padded to 16] what they came from */
    int has_logits;                  /* 0: logits is stale, or was never computed */
    int incomplete;                  /* 1: only the best are there (two-pass head), or none: the rest when asked for */
    /* generation */
    int state;                       /* BNI_IDLE, BNI_RUNNING */
    int repeats;                     /* 1: the last evaluated token is being evaluated once more, n_kv is one less */
    int generates;                   /* 0: only evaluates */
    bitnet_generation generation;    /* a copy; what it points to stays the caller's until DONE */
    int prompt_start, prompt_end;    /* tokens of the prompt, as positions, with those that were pending before it */
    int n_generated;                 /* tokens sampled since begin, an end token included */
    uint32_t *mask;                  /* [(n_vocab + 31) / 32] */
    bni_stream *stream;              /* tokens to text; holds back what may become a stop string */
    char *token_bytes;               /* [longest token] */
    bitnet_row_fn *row_fn;           /* bitnet_eval's */
    void *row_user;
    int row_index;                   /* rows handed to row_fn so far */
    float *pooled;                   /* sum of an embedding, in the host's memory; NULL: none wanted */
    /* the pass in flight */
    int first_row, n_rows;           /* n_rows 0: takes no part */
    int dropped;                     /* cancelled: its rows run on, their results are ignored */
    bni_atomic cancelled;            /* set by bitnet_cancel on any thread; read and cleared by the engine's */
    /* events not fetched yet: one slot per kind, fetched in this order */
    int has_progress, has_token, has_done;
    int32_t token;                   /* sampled last */
    float logprob;                   /* its natural logarithm of probability, where asked for */
    int n_top;
    bitnet_logprob top[BITNET_MAX_LOGPROBS];
    bitnet_reason reason;            /* of DONE */
    bitnet_error error;              /* of DONE with reason ERROR; events point to it */
    bitnet_stats stats;
    uint64_t started_ns, first_token_ns;   /* bni_time_ns at begin, and when the first token was sampled (0: not yet) */
};

/* ------------------------------------------------------------------------------------------------- the engine */

/* Room for the attention units that a pass may cut: fewer than jobs, and enough for one token. */
static void bni_cuts_layout(bitnet_engine *e, bni_arena *a)
{
    const bni_hparams *hp = &e->model->hp;
    const uint64_t n_blocks = ((uint64_t)e->n_ctx + BNI_KV_BLOCK - 1) / BNI_KV_BLOCK;
    uint64_t rows = (uint64_t)(hp->n_head / hp->n_head_kv);
    rows = rows < (uint64_t)BNI_ATTEND_ROWS ? rows : (uint64_t)BNI_ATTEND_ROWS;
    e->n_cuts = n_blocks < 2 * BNI_CUT_BLOCKS ? 0 : e->n_jobs - 1 < hp->n_head_kv ? e->n_jobs - 1 : hp->n_head_kv;
    e->cut_size = n_blocks * rows * (uint64_t)bni_attend_sums(hp->head_dim);
    e->records = (int32_t *)bni_arena_take_raw(a, (uint64_t)e->n_cuts * e->cut_size, 4, BNI_BLOCK_ALIGN);
}

/* Everything an engine holds, from one arena; run twice: first to measure (the arena has no base, all pointers come out
   NULL), then to commit. One function for both, so that size and use can't disagree.

   h is one buffer for three short-lived things, never alive together, so its width is the largest of their sums:
   q | k | v (each padded to 16 rows as the strips are, later overwritten by attention's output), act(gate) * up, and the
   final norm's result. q8 has room for whole groups because a group's rows are interleaved at a fixed distance.
   Per job only scratch: the number of threads changes the memory, never a result. */
static void bni_engine_layout(bitnet_engine *e, bni_arena *a)
{
    const bni_hparams *hp = &e->model->hp;
    int dp = bni_pad16(hp->head_dim), q = bni_pad16(hp->dim[BNI_DIM_Q]), kv = bni_pad16(hp->dim[BNI_DIM_KV]);
    int ff = bni_pad16(hp->n_ff), embd = bni_pad16(hp->n_embd), widest, i;
    const uint64_t head_rows = e->n_batch < BNI_HEAD_ROWS ? (uint64_t)e->n_batch : BNI_HEAD_ROWS;
    const uint64_t attend = (uint64_t)e->kernels->attend_rows;
    uint64_t n = (uint64_t)e->n_batch;
    bni_scratch *scratch;
    /* q8 and the norm's scratch hold any op's input: n_embd, the heads' output, or the feed-forward's middle. */
    widest = q > ff ? q : ff;
    widest = widest > embd ? widest : embd;
    e->x_stride = embd;
    e->h_stride = q + 2 * kv > ff ? q + 2 * kv : ff;
    e->h_stride = e->h_stride > embd ? e->h_stride : embd;
    /* n_batch entries are enough for each list: a tile, a session in the pass and a wanted row each hold a row. */
    e->rows = (bni_row *)bni_arena_take(a, n, sizeof(bni_row), 8);
    e->tiles = (bni_tile *)bni_arena_take(a, n, sizeof(bni_tile), 8);
    e->wanted = (int32_t *)bni_arena_take(a, n, 4, 8);
    e->in_pass = (bitnet_session **)bni_arena_take(a, n, sizeof(bitnet_session *), 8);
    e->x = (float *)bni_arena_take_raw(a, n * (uint64_t)e->x_stride, 4, BNI_BLOCK_ALIGN);
    e->h = (float *)bni_arena_take_raw(a, n * (uint64_t)e->h_stride, 4, BNI_BLOCK_ALIGN);
    /* Whole groups of whole tiles, and what T5's kernels read behind the last column. */
    e->q8 = (int8_t *)bni_arena_take_raw(a, (n + BNI_MAX_GROUP - 1) / BNI_MAX_GROUP * BNI_MAX_GROUP *
                                                (((uint64_t)widest + 63) / 64 * 64) + 256, 1, BNI_BLOCK_ALIGN);
    e->q8_scale = (float *)bni_arena_take(a, n, 4, BNI_BLOCK_ALIGN);
    e->q8_sum = (int32_t *)bni_arena_take(a, n, 4, BNI_BLOCK_ALIGN);
    e->q16 = (int16_t *)bni_arena_take_raw(a, n * (uint64_t)hp->n_head * (uint64_t)dp, 2, BNI_BLOCK_ALIGN);
    e->q16_scale = (float *)bni_arena_take_raw(a, n * (uint64_t)hp->n_head, 4, BNI_BLOCK_ALIGN);
    e->rope = (float *)bni_arena_take_raw(a, n * (uint64_t)hp->n_rot, 4, BNI_BLOCK_ALIGN);
    /* One row of logits per row of a head group (bni_pass_add). */
    e->row_logits = (float *)bni_arena_take_raw(a, head_rows * (uint64_t)hp->n_vocab, 4, BNI_BLOCK_ALIGN);
    e->sample_scratch = bni_arena_take_raw(a, 1, bni_sample_scratch(hp->n_vocab), BNI_BLOCK_ALIGN);
    if (e->model->plane.n_cols) {
        const uint64_t split = 2 * (uint64_t)bni_split_stride(e->model->plane.n_cols);
        int8_t *x = (int8_t *)bni_arena_take(a, (n + 7) / 8 * 8 * split, 1, BNI_BLOCK_ALIGN);       /* whole tiles */
        e->splits = (bni_split *)bni_arena_take(a, n, sizeof(bni_split), 8);
        e->goals = (bni_goal *)bni_arena_take(a, n, sizeof(bni_goal), 8);
        e->heaps = (float *)bni_arena_take_raw(a, head_rows * BNI_PLANE_TOP, 4, BNI_BLOCK_ALIGN);
        for (i = 0; e->splits && i < e->n_batch; i++)
            e->splits[i].x = x + (size_t)i * (size_t)split;
    }
    bni_cuts_layout(e, a);
    scratch = (bni_scratch *)bni_arena_take(a, (uint64_t)e->n_jobs, sizeof(bni_scratch), 8);
    for (i = 0; i < e->n_jobs; i++) {
        bni_scratch s;
        s.norm = (float *)bni_arena_take_raw(a, (uint64_t)widest, 4, BNI_BLOCK_ALIGN);
        s.attend = (float *)bni_arena_take_raw(a, bni_attend_scratch(hp->head_dim, (int)attend), 4, BNI_BLOCK_ALIGN);
        s.sums = (int32_t *)bni_arena_take_raw(a, bni_sums_size(e->n_batch), 4, BNI_BLOCK_ALIGN);
        s.panel = (uint8_t *)bni_arena_take_raw(a, 2 * BNI_PANEL, 1, BNI_BLOCK_ALIGN);
        s.strips = e->model->layout == BNI_I2S ? (uint8_t *)bni_arena_take_raw(a, 8 * (uint64_t)widest, 1, BNI_BLOCK_ALIGN) : NULL;
        s.parts = e->model->grouped ? (int32_t *)bni_arena_take_raw(a, BNI_ROWS * 17 * (uint64_t)(widest / e->model->group), 4, BNI_BLOCK_ALIGN) : NULL;
        s.k = (int16_t *)bni_arena_take_raw(a, (uint64_t)dp, 2, BNI_BLOCK_ALIGN);
        s.v = (int16_t *)bni_arena_take_raw(a, (uint64_t)dp, 2, BNI_BLOCK_ALIGN);
        s.q = (int16_t *)bni_arena_take_raw(a, attend * (uint64_t)dp, 2, BNI_BLOCK_ALIGN);
        if (scratch)
            scratch[i] = s;
    }
    e->scratch = scratch;
    /* The host has no threads for us: room for our own. */
    if (!e->scheduler.parallel_for)
        e->pool = (bni_pool *)bni_arena_take(a, 1, bni_pool_memory(e->n_jobs), BNI_BLOCK_ALIGN);
}

/* Resolves the defaults into *e, a stack object that is cleared first, and measures: a->used is what the block needs.
   d may be NULL. ARGUMENT for what is out of range, MEMORY where the size exceeds size_t. Allocates nothing. n_ctx is
   the longest context of its sessions: several jobs that attend together leave records of all its blocks. */
static bitnet_result bni_engine_measure(bitnet_engine *e, const bitnet_model *m, const bitnet_engine_desc *d,
                                        bni_arena *a, bitnet_error *err)
{
    bitnet_engine_desc zero;
    memset(&zero, 0, sizeof zero);
    memset(e, 0, sizeof *e);
    memset(a, 0, sizeof *a);
    d = d ? d : &zero;
    if (!m || m->vocab_only)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, m ? "the model was opened for its vocabulary only" : "no model");
    if (d->n_threads < 0 || d->n_threads > BNI_MAX_THREADS || d->n_batch < 0 || d->n_batch > 65536 || d->n_ctx < 0 ||
        d->n_ctx > BNI_MAX_CTX)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "%d threads (at most %d), batch of %d (65536), context of %d (%d)",
                        d->n_threads, BNI_MAX_THREADS, d->n_batch, d->n_ctx, BNI_MAX_CTX);
    e->model = m;
    e->kernels = m->kernels;
    e->allocator = d->allocator.alloc && d->allocator.free ? d->allocator : m->allocator;
    e->scheduler = d->scheduler;
    e->n_jobs = bni_default_threads(d->n_threads);
    e->n_batch = d->n_batch ? d->n_batch : 256;
    e->n_ctx = d->n_ctx ? d->n_ctx : m->hp.n_ctx_train < 4096 ? m->hp.n_ctx_train : 4096;
    bni_arena_take(a, 1, sizeof *e, BNI_BLOCK_ALIGN);
    bni_engine_layout(e, a);
    if (a->overflow || (uint64_t)(size_t)a->used != a->used)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "the engine does not fit this machine's addresses");
    return BITNET_OK;
}

/* The measuring half of bitnet_engine_create. 0 where create would refuse the description. */
BITNET_API size_t bitnet_engine_memory(const bitnet_model *model, const bitnet_engine_desc *desc)
{
    bitnet_engine e;
    bni_arena a;
    return bni_engine_measure(&e, model, desc, &a, NULL) == BITNET_OK ? (size_t)a.used : 0;
}

/* Measure, allocate once, lay out again in the block, start the threads. A pool that could start fewer threads than
   asked for is no error: jobs run on those there are. The scheduler is set after the layout, as its absence is what
   makes the layout reserve the pool. */
BITNET_API bitnet_result bitnet_engine_create(const bitnet_model *model, const bitnet_engine_desc *desc,
                                              bitnet_engine **out, bitnet_error *err)
{
    bitnet_engine e, *block;
    bni_arena a;
    bitnet_result r;
    int i;
    if (!out)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no place for the engine");
    *out = NULL;
    r = bni_engine_measure(&e, model, desc, &a, err);
    if (r != BITNET_OK)
        return r;
    /* a.base set, used back to 0: the second run hands out addresses where the first counted. */
    e.block_size = a.used;
    a.used = 0;
    a.base = (uint8_t *)bni_alloc(&e.allocator, e.block_size, BNI_BLOCK_ALIGN);
    if (!a.base)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory for the engine (%u bytes)", e.block_size);
    block = (bitnet_engine *)bni_arena_take(&a, 1, sizeof e, BNI_BLOCK_ALIGN);
    *block = e;
    bni_engine_layout(block, &a);
    for (i = 0; i < BNI_N_OPS; i++)
        block->ps_per_work[i] = 1000;          /* a slow core's 1 ns per multiply-add; learnt from there */
    if (block->pool) {
        bni_pool_start(block->pool, block->n_jobs);
        block->scheduler.parallel_for = bni_pool_parallel_for;
        block->scheduler.step_begin = bni_pool_step_begin;
        block->scheduler.step_end = bni_pool_step_end;
        block->scheduler.user = block->pool;
    }
    *out = block;
    return BITNET_OK;
}

/* The sessions must be gone (>>api). The pool's threads are joined before their memory goes; the allocator is copied
   out of the block that it frees. */
BITNET_API void bitnet_engine_destroy(bitnet_engine *engine)
{
    bitnet_allocator a;
    if (!engine)
        return;
    if (engine->pool)
        bni_pool_stop(engine->pool);
    a = engine->allocator;
    bni_free(&a, engine, engine->block_size);
}

/* ------------------------------------------------------------------------------------------- life and memory */

/* Everything a session holds; run twice like bni_engine_layout. The cache is one piece cut into n_blocks blocks;
   everything else reaches it through blocks[], so that blocks may one day lie apart or be shared. longest is a token's
   most bytes plus 1. The cache isn't cleared: see above on slots from n_kv on. */
static void bni_session_layout(bitnet_session *s, const bitnet_model *m, bni_arena *a)
{
    uint64_t n_vocab = (uint64_t)m->hp.n_vocab, block = bni_block_bytes(&m->hp);
    uint64_t longest = (uint64_t)m->tokenizer.longest + 1;
    uint8_t *kv;
    int i;
    s->blocks = (uint8_t **)bni_arena_take(a, (uint64_t)s->n_blocks, sizeof(uint8_t *), 8);
    s->tokens = (int32_t *)bni_arena_take(a, (uint64_t)s->n_ctx, 4, 8);
    s->logits = (float *)bni_arena_take_raw(a, (n_vocab + 15) / 16 * 16, 4, BNI_BLOCK_ALIGN);
    s->final = (float *)bni_arena_take_raw(a, (uint64_t)bni_pad16(m->hp.n_embd), 4, BNI_BLOCK_ALIGN);
    s->mask = (uint32_t *)bni_arena_take_raw(a, (n_vocab + 31) / 32, 4, 8);
    s->stream = (bni_stream *)bni_arena_take(a, 1, bni_stream_memory(longest), 8);
    s->token_bytes = (char *)bni_arena_take_raw(a, longest, 1, 8);
    kv = (uint8_t *)bni_arena_take_raw(a, (uint64_t)s->n_blocks, block, BNI_BLOCK_ALIGN);
    for (i = 0; s->blocks && i < s->n_blocks; i++)
        s->blocks[i] = kv + (size_t)i * (size_t)block;
    if (s->stream)
        bni_stream_init(s->stream, (size_t)longest);
}

/* Resolves the defaults into *s, a stack object that is cleared first, and measures, as bni_engine_measure does. n_ctx
   0 means the training context, but not over 4096: a default must not take gigabytes for a cache nobody fills. */
static bitnet_result bni_session_measure(bitnet_session *s, const bitnet_model *m, const bitnet_session_desc *d,
                                         bni_arena *a, bitnet_error *err)
{
    memset(s, 0, sizeof *s);
    memset(a, 0, sizeof *a);
    if (!m || m->vocab_only)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, m ? "the model was opened for its vocabulary only" : "no model");
    if (d && (d->n_ctx < 0 || d->n_ctx > BNI_MAX_CTX))
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "a context of %d (at most %d)", d->n_ctx, BNI_MAX_CTX);
    s->n_ctx = d && d->n_ctx ? d->n_ctx : m->hp.n_ctx_train < 4096 ? m->hp.n_ctx_train : 4096;
    s->n_blocks = (s->n_ctx + 63) / 64;
    bni_arena_take(a, 1, sizeof *s, BNI_BLOCK_ALIGN);
    bni_session_layout(s, m, a);
    if (a->overflow || (uint64_t)(size_t)a->used != a->used)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "the session does not fit this machine's addresses");
    return BITNET_OK;
}

/* The measuring half of bitnet_session_create. 0 where create would refuse the description. */
BITNET_API size_t bitnet_session_memory(const bitnet_model *model, const bitnet_session_desc *desc)
{
    bitnet_session s;
    bni_arena a;
    return bni_session_measure(&s, model, desc, &a, NULL) == BITNET_OK ? (size_t)a.used : 0;
}

/* Measure, allocate once, lay out again in the block, put it at the head of the engine's list. A context longer than
   the engine's is refused here, because the engine has room for attention's records up to its n_ctx. Creating is allowed while
   a pass is in flight: the new session has no rows in it. */
BITNET_API bitnet_result bitnet_session_create(bitnet_engine *engine, const bitnet_session_desc *desc,
                                               bitnet_session **out, bitnet_error *err)
{
    bitnet_session s, *block;
    bni_arena a;
    bitnet_result r;
    if (!out)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no place for the session");
    *out = NULL;
    if (!engine)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no engine");
    r = bni_session_measure(&s, engine->model, desc, &a, err);
    if (r != BITNET_OK)
        return r;
    if (s.n_ctx > engine->n_ctx)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "a context of %d in an engine made for %d", s.n_ctx, engine->n_ctx);
    /* As in bitnet_engine_create. */
    s.block_size = a.used;
    a.used = 0;
    a.base = (uint8_t *)bni_alloc(&engine->allocator, s.block_size, BNI_BLOCK_ALIGN);
    if (!a.base)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory for the session (%u bytes)", s.block_size);
    block = (bitnet_session *)bni_arena_take(&a, 1, sizeof s, BNI_BLOCK_ALIGN);
    *block = s;
    block->engine = engine;
    block->stats.memory = (size_t)s.block_size;
    bni_session_layout(block, engine->model, &a);
    block->older = engine->sessions;
    if (engine->sessions)
        engine->sessions->newer = block;
    engine->sessions = block;
    *out = block;
    return BITNET_OK;
}

/* BUSY while rows point to the session's block table and tokens. The turn passes to the head of the list where it was
   this session's. */
BITNET_API bitnet_result bitnet_session_destroy(bitnet_session *session)
{
    bitnet_engine *e;
    bitnet_allocator a;
    if (!session)
        return BITNET_OK;
    if (session->n_rows > 0)
        return BITNET_ERROR_BUSY;
    e = session->engine;
    if (session->newer)
        session->newer->older = session->older;
    else
        e->sessions = session->older;
    if (session->older)
        session->older->newer = session->newer;
    /* NULL: the next pass begins at the head of the list. */
    if (e->next == session)
        e->next = NULL;
    a = e->allocator;
    bni_free(&a, session, session->block_size);
    return BITNET_OK;
}

/* The list itself, borrowed: valid until the next call that changes the session. */
BITNET_API int bitnet_session_tokens(const bitnet_session *session, const int32_t **tokens)
{
    if (tokens)
        *tokens = session->tokens;
    return session->n_tokens;
}

BITNET_API int bitnet_session_context(const bitnet_session *session) { return session->n_ctx; }

/* Ends what is running, without an event; events not fetched are dropped. A cancel that came before is forgotten: it
   was meant for the run that ends here. Only for sessions without rows in flight. */
static void bni_session_stop(bitnet_session *s)
{
    s->state = BNI_IDLE;
    s->has_progress = s->has_token = s->has_done = 0;
    s->row_fn = NULL;
    s->pooled = NULL;
    bni_atomic_store(&s->cancelled, 0);
    s->n_kv += s->repeats;
    s->repeats = 0;
}

/* Only as far as tokens are evaluated: pos > n_kv would promise cache rows that aren't there. The pending token is
   dropped in any case. Logits stay valid only where the last evaluated token stays. */
BITNET_API bitnet_result bitnet_session_rewind(bitnet_session *session, int pos)
{
    if (!session || pos < 0 || pos > session->n_kv)
        return BITNET_ERROR_ARGUMENT;
    if (session->n_rows > 0)
        return BITNET_ERROR_BUSY;
    bni_session_stop(session);
    /* Going back to where it stands keeps the logits: they are still those of the last evaluated token. */
    if (pos < session->n_kv)
        session->has_logits = 0;
    session->n_tokens = session->n_kv = pos;
    return BITNET_OK;
}

/* Whole blocks up to n_kv, as their inner layout is no concern of this section; the tail of the last one may be
   garbage. The engines may differ, the model not. from may be RUNNING, between passes; to is idle afterwards. */
BITNET_API bitnet_result bitnet_session_copy(bitnet_session *to, const bitnet_session *from)
{
    int b;
    if (!to || !from || to->engine->model != from->engine->model)
        return BITNET_ERROR_ARGUMENT;
    if (to->n_rows > 0 || from->n_rows > 0)
        return BITNET_ERROR_BUSY;
    /* n_ctx is each session's own. */
    if (from->n_tokens > to->n_ctx)
        return BITNET_ERROR_FULL;
    if (to == from)
        return BITNET_OK;
    bni_session_stop(to);
    memcpy(to->tokens, from->tokens, (size_t)from->n_tokens * sizeof *to->tokens);
    for (b = 0; b < (from->n_kv + 63) / 64; b++)
        memcpy(to->blocks[b], from->blocks[b], (size_t)bni_block_bytes(&to->engine->model->hp));
    to->n_tokens = from->n_tokens;
    to->n_kv = from->n_kv;
    to->has_logits = from->has_logits;
    to->incomplete = from->incomplete;
    if (from->has_logits) {
        memcpy(to->logits, from->logits, (size_t)to->engine->model->hp.n_vocab * sizeof *to->logits);
        memcpy(to->final, from->final, (size_t)bni_pad16(to->engine->model->hp.n_embd) * sizeof *to->final);
    }
    return BITNET_OK;
}

/* Are all logits finite? */
static int bni_logits_finite(const bitnet_engine *e, const float *logits)
{
    return e->kernels->max_abs(logits, e->model->hp.n_vocab) < 0x7f800000u;
}

/* The whole output matrix times one state, shared by jobs that take blocks from a counter. */
typedef struct bni_whole_head { const bitnet_session *session; bni_atomic next; } bni_whole_head;

static void bni_whole_head_run(void *job, int index)
{
    bni_whole_head *w = (bni_whole_head *)job;
    const bitnet_engine *e = w->session->engine;
    const bni_table *t = &e->model->output;
    bni_fp_state fp = bni_fp_enter();
    int first, n;
    (void)index;
    while ((first = (int)bni_atomic_add(&w->next, BNI_HEAD_BLOCK)) < e->model->hp.n_vocab) {
        float *y = w->session->logits + first;
        n = e->model->hp.n_vocab - first < BNI_HEAD_BLOCK ? e->model->hp.n_vocab - first : BNI_HEAD_BLOCK;
        e->kernels->dot_rows(&y, t->type, t->data + (uint64_t)first * t->row_bytes, (size_t)t->row_bytes, n,
                             w->session->final, 0, 1, e->model->hp.n_embd);
    }
    bni_fp_leave(fp);
}

/* Logits that a two-pass head has left out, or that nobody needed so far, are computed when somebody asks. Between two slices the engine's threads
   are free, so this may also happen while a pass is in flight. */
BITNET_API const float *bitnet_logits(const bitnet_session *session)
{
    const bitnet_scheduler *threads = &session->engine->scheduler;
    bni_whole_head job;
    if (!session->has_logits)
        return NULL;
    if (session->incomplete) {
        job.session = session;
        job.next = 0;
        if (threads->step_begin)
            threads->step_begin(threads->user);
        threads->parallel_for(threads->user, bni_whole_head_run, &job, session->engine->n_jobs);
        if (threads->step_end)
            threads->step_end(threads->user);
        ((bitnet_session *)(uintptr_t)session)->incomplete = 0;     /* a cache, not a change */
        if (!bni_logits_finite(session->engine, session->logits))
            ((bitnet_session *)(uintptr_t)session)->has_logits = 0;
    }
    return session->has_logits ? session->logits : NULL;
}

/* Only raises the flag, so that any thread may call it at any time of the session's life; the engine's thread acts on
   it between two slices (bni_engine_cancels). */
BITNET_API void bitnet_cancel(bitnet_session *session)
{
    if (session)
        bni_atomic_store(&session->cancelled, 1);
}

/* ------------------------------------------------------------------------------------------------ the end of a run */

/* Notes DONE. A PROGRESS or TOKEN that is not fetched yet stays, and comes first. */
static void bni_session_done(bitnet_session *s, bitnet_reason reason)
{
    s->state = BNI_IDLE;
    s->pooled = NULL;
    s->has_done = 1;
    s->reason = reason;
    s->n_kv += s->repeats;                     /* its row of the cache has the same bits, evaluated once or twice */
    s->repeats = 0;
}

/* DONE(ERROR). The tokens that were not evaluated are given up: the session is as it was at its last good position.
   a and b are the numbers that format names, in order. */
static void bni_session_fail(bitnet_session *s, bitnet_result code, const char *format, uint64_t a, uint64_t b)
{
    bni_fail(&s->error, code, 0, format, a, b);
    s->n_tokens = s->n_kv;
    s->repeats = 0;
    s->has_logits = s->has_progress = 0;
    bni_session_done(s, BITNET_DONE_ERROR);
}

/* Acts on the flags of bitnet_cancel; called between slices, on the engine's thread. Rows in flight go on, ignored
   (dropped), as taking them out would move the other sessions' rows; a pass in which all rows are ignored ends at once.
   A flag on a session that isn't RUNNING is cleared without effect: cancel and DONE may cross. */
static void bni_engine_cancels(bitnet_engine *e)
{
    bitnet_session *s;
    int live = 0, first, i;
    for (s = e->sessions; s; s = s->older) {
        if (bni_atomic_load(&s->cancelled) == 0)
            continue;
        bni_atomic_store(&s->cancelled, 0);
        /* It came after the run's end. */
        if (s->state != BNI_RUNNING)
            continue;
        if (s->n_rows > 0)
            s->dropped = 1;
        s->has_progress = 0;
        bni_session_done(s, BITNET_DONE_CANCELLED);
    }
    if (!e->pass.active)
        return;
    /* In FINISH the sessions before the current unit have left the pass: their hosts may have destroyed them. */
    first = e->pass.place.kind == BNI_OP_FINISH ? (int)e->pass.unit : 0;
    for (i = first; i < e->pass.n_sessions; i++)
        live += e->in_pass[i]->dropped ? 0 : 1;
    /* Between slices no job runs, so the pass can be forgotten on the spot. */
    if (live == 0) {                           /* nobody waits for this pass any more */
        for (i = first; i < e->pass.n_sessions; i++)
            e->in_pass[i]->n_rows = e->in_pass[i]->dropped = 0;
        e->pass.active = 0;
    }
}

/* --------------------------------------------------------------------------------------------- starting a pass */

/* Tokens the session wants evaluated now. 0 while an event that stops it waits to be fetched. */
static int bni_session_pending(const bitnet_session *s)
{
    return s->state == BNI_RUNNING && !s->has_token && !s->has_done ? s->n_tokens - s->n_kv : 0;
}

/* Where the logits of token i of the session go; NULL: they are not wanted. scratch: the next row of row_logits.
   bitnet_eval with a callback wants every row's, a generation the last token's only, and only in the pass that ends with
   it: the output matrix is the largest of all. Others may ask for them later (bitnet_logits). */
static float *bni_session_logits_of(bitnet_session *s, int i, float *scratch)
{
    if (s->row_fn)
        return scratch;
    return i == s->n_tokens - 1 && s->generates ? s->logits : NULL;
}

/* What the sampler will look at of the row's logits, where that is less than all of them: bni_row's top, mask and reach.
   Penalties and biases change logits before the best are taken, log-probabilities need the sum of all, and top-p
   without top-k as well. */
static void bni_session_goal(const bitnet_session *s, bni_row *row)
{
    const bitnet_generation *g = &s->generation;
    const bitnet_sampling *set = &g->sampling;
    bni_sample_args a;
    row->top = 0;
    row->mask = g->mask ? s->mask : NULL;
    row->reach = 0.0f;
    a.sampling = set;
    a.n_bias = g->n_bias;
    if (!s->engine->model->plane.strips || row->logits != s->logits || !s->generates || s->row_fn || g->logprobs > 0 ||
        bni_changes_logits(&a) || s->n_tokens >= s->n_ctx)       /* full: nothing will be sampled, no mask was asked for */
        return;
    if (!(set->temperature > 0.0f))
        row->top = 1;
    else if (set->top_k > 0)
        row->top = set->top_k <= BNI_PLANE_TOP ? set->top_k : 0;
    else if (set->min_p > 0.0f && !(set->top_p > 0.0f && set->top_p < 1.0f)) {
        row->top = 1;
        row->reach = -bni_logf(set->min_p < 1.0f ? set->min_p : 1.0f);
    }
}

/* Gives the session n rows of the pass: its positions n_kv .. n_kv + n - 1, consecutive and rising, which
   bni_pass_tiles and bni_unit_heads (row->last) rely on. Logits that only a callback sees go to one of eight buffers
   by the number of the wanted row: rows of one head group get eight different ones, and bni_pass_rows hands them over
   before the next group overwrites them. */
static void bni_pass_add(bitnet_engine *e, bitnet_session *s, int n)
{
    bni_pass *pass = &e->pass;
    int i;
    s->first_row = pass->n_rows;
    s->n_rows = n;
    s->dropped = 0;
    e->in_pass[pass->n_sessions++] = s;
    for (i = 0; i < n; i++) {
        int index = pass->n_rows++;
        bni_row *row = &e->rows[index];
        row->session = s;
        row->blocks = s->blocks;
        row->pos = s->n_kv + i;
        row->token = s->tokens[row->pos];
        row->last = i == n - 1;
        row->failed = 0;
        row->logits = bni_session_logits_of(s, row->pos, e->row_logits + (size_t)(pass->n_wanted % BNI_HEAD_ROWS) *
                                                         (size_t)e->model->hp.n_vocab);
        bni_session_goal(s, row);
        if (row->logits == s->logits)
            s->has_logits = 0;                 /* the pass writes over them, and may be dropped half way */
        if (row->logits)
            e->wanted[pass->n_wanted++] = index;
    }
}

/* Rows whose final state is wanted, behind those with logits, so that the head sees a prefix of the list: bitnet_embed's,
   and the last row of what is only evaluated. A session wants logits or states, not both: n_wanted + n_hidden <= n_rows,
   which fits wanted [n_batch]. */
static void bni_pass_hidden(bitnet_engine *e)
{
    int row;
    for (row = 0; row < e->pass.n_rows; row++) {
        const bitnet_session *s = e->rows[row].session;
        if (s->pooled || (!s->generates && !s->row_fn && e->rows[row].pos == s->n_tokens - 1))
            e->wanted[e->pass.n_wanted + e->pass.n_hidden++] = row;
    }
}

/* The session after s in the engine's list, round. */
static bitnet_session *bni_session_after(const bitnet_engine *e, const bitnet_session *s)
{
    return s->older ? s->older : e->sessions;
}

/* Collects rows: first the sessions that wait for one token, then the others, beginning with the one whose turn it is.
   Result: 1 if there is a pass to run. One-token sessions first, since a person is waiting for that token, and one row
   costs next to nothing beside a prompt's. The turn goes to the session after the last one served, so that with more
   work than rows every session of a round gets its share. A prompt's row keeps its bits however it is cut. */
static int bni_pass_start(bitnet_engine *e)
{
    bitnet_session *first = e->next ? e->next : e->sessions, *s = first;
    int round, pending, left, prompts = 0;
    memset(&e->pass, 0, sizeof e->pass);
    if (!first)
        return 0;
    for (s = e->sessions; s; s = s->older)
        prompts += bni_session_pending(s) > 1;
    s = first;
    for (round = 0; round < 2; round++)
        do {
            pending = bni_session_pending(s);
            left = e->n_batch - e->pass.n_rows;
            /* While prompts wait, a quarter of the rows is theirs; with room for one row all take turns. */
            if (round == 0 && prompts > 0 && e->n_batch > 1)
                left -= (e->n_batch + 3) / 4;
            /* Round 0 takes those with one token, round 1 the others; none is taken twice. */
            if (left > 0 && pending > 0 && s->n_rows == 0 && ((pending == 1) == (round == 0) || e->n_batch == 1)) {
                bni_pass_add(e, s, pending < left ? pending : left);
                e->next = bni_session_after(e, s);
            }
            s = bni_session_after(e, s);
        } while (s != first);
    if (e->pass.n_rows == 0)
        return 0;
    bni_pass_hidden(e);
    bni_pass_tiles(e);
    e->pass.place.kind = BNI_OP_EMBED;
    e->pass.active = 1;
    return 1;
}

/* --------------------------------------------------------------------------------------------- finishing a pass */

/* Asks the host which tokens are allowed next. Before the output matrix runs, so that a head that computes only what it
   must knows what that is. Only for sessions that will sample at the end of this pass: a prompt's earlier parts need no
   mask. The bits arrive all ones, so a callback only takes away. Runs on the thread inside bitnet_step. */
static void bni_pass_masks(bitnet_engine *e)
{
    int i;
    size_t words = ((size_t)e->model->hp.n_vocab + 31) / 32;
    for (i = 0; i < e->pass.n_sessions; i++) {
        bitnet_session *s = e->in_pass[i];
        if (s->dropped || !s->generates || !s->generation.mask || s->n_kv + s->n_rows < s->n_tokens ||
            s->n_tokens >= s->n_ctx)           /* a prompt's chunk, or nothing will be sampled */
            continue;
        memset(s->mask, 0xff, words * sizeof *s->mask);
        s->generation.mask(s->generation.mask_user, s->mask, s->tokens, s->n_tokens);
    }
}

/* Checks the finished rows of a head group, and hands them to bitnet_eval's callbacks, in the order of the rows. Once
   per group, since the next group writes the same eight buffers. A callback that says stop ends its session now; the
   pass goes on for the others. The last row's logits are copied: bitnet_logits outlives the pass. */
static void bni_pass_rows(bitnet_engine *e, int group)
{
    const int two_pass = bni_head_two_pass(e, group);
    int w;
    for (w = group * BNI_HEAD_ROWS; w < e->pass.n_wanted && w < (group + 1) * BNI_HEAD_ROWS; w++) {
        bni_row *row = &e->rows[e->wanted[w]];
        bitnet_session *s = row->session;
        /* The head's inputs were finite, but a damaged output matrix can still make infinities. */
        if (!row->failed && !bni_logits_finite(e, row->logits))
            bni_row_fail(row, e->model->hp.n_layer + 1);
        if (row->failed)
            s->row_fn = NULL;                  /* the rows after it have seen its values */
        if (row->logits == s->logits) {
            s->incomplete = two_pass;
            memcpy(s->final, bni_row_h(e, w), (size_t)bni_pad16(e->model->hp.n_embd) * sizeof *s->final);
        }
        if (!s->row_fn || s->dropped || s->state != BNI_RUNNING)
            continue;
        if (s->row_index++ >= 0 && s->row_fn(s->row_user, s->row_index - 1, row->logits) != 0) {
            s->dropped = 1;
            bni_session_done(s, BITNET_DONE_CANCELLED);
            continue;
        }
        if (row->pos == s->n_tokens - 1 && row->logits != s->logits) {
            memcpy(s->logits, row->logits, (size_t)e->model->hp.n_vocab * sizeof *s->logits);
            s->has_logits = 1;
            s->incomplete = 0;
        }
    }
}

/* Text of a sampled token into the stream; result: 1 if it completed a stop string. Output matrices may have more rows
   than the vocabulary has tokens (padding); such a token has no text. */
static int bni_session_push_text(bitnet_session *s, int32_t token)
{
    const bni_tokenizer *t = &s->engine->model->tokenizer;
    size_t capacity = (size_t)t->longest;
    size_t n = token < (int32_t)t->n_tokens
                   ? bni_token_bytes(t, token, s->generation.show_special, s->token_bytes, capacity)
                   : 0;
    return bni_stream_push(s->stream, s->token_bytes, n < capacity ? n : capacity);
}

/* logprob and top of the token just sampled, from the logits as the model gave them: before penalties, bias, mask and
   temperature. k alternatives where logprobs is 1 + k; nothing where it is 0. */
static void bni_session_report_logprobs(bitnet_session *s, int32_t token)
{
    int k = s->generation.logprobs - 1;
    s->n_top = 0;
    s->logprob = 0.0f;
    if (k < 0)
        return;
    k = bni_logprobs(s->logits, s->engine->model->hp.n_vocab, token, &s->logprob, s->top,
                     k < BITNET_MAX_LOGPROBS ? k : BITNET_MAX_LOGPROBS);
    s->n_top = k > 0 ? k : 0;
}

/* Chooses the next token from the session's logits, and whether the run ends with it. The token enters the list before
   it is looked at, so that a saved or continued conversation has its end token too. An end token makes no TOKEN event
   and no text; any other does, also the one that completes a stop string or reaches max_tokens. The random number
   depends on seed and position only, so the same conversation gives the same text however it came about. */
static void bni_session_sample(bitnet_session *s)
{
    bitnet_engine *e = s->engine;
    const bitnet_generation *g = &s->generation;
    bni_sample_args a;
    int32_t token;
    /* No place for one more token, so none is drawn: the text ends before the token, not with it. */
    if (s->n_tokens >= s->n_ctx) {
        bni_session_done(s, BITNET_DONE_CONTEXT);
        return;
    }
    a.kernels = e->kernels;
    a.logits = s->logits;
    a.n_vocab = e->model->hp.n_vocab;
    a.sampling = &g->sampling;
    a.bias = g->bias;
    a.n_bias = g->n_bias;
    a.mask = g->mask ? s->mask : NULL;
    a.history = s->tokens;
    a.n_history = s->n_tokens;
    a.position = (uint64_t)s->n_tokens;
    a.scratch = e->sample_scratch;
    token = bni_sample(&a);
    if (token < 0) {
        bni_session_fail(s, token == BNI_SAMPLE_NOT_FINITE ? BITNET_ERROR_NUMERIC : BITNET_ERROR_ARGUMENT,
                         token == BNI_SAMPLE_NOT_FINITE ? "a logit after position %u is not finite"
                                                        : "mask and bias allow no token after position %u",
                         (uint64_t)(s->n_tokens - 1), 0);
        return;
    }
    bni_session_report_logprobs(s, token);
    /* Pending from here on: in the list, not yet in the cache. */
    s->tokens[s->n_tokens++] = token;
    s->token = token;
    s->n_generated++;
    if (!g->ignore_end && bni_token_is_end(&e->model->tokenizer, token)) {
        bni_session_done(s, BITNET_DONE_END);
        return;
    }
    /* From here the session waits until the event is fetched. */
    s->has_token = 1;
    /* A stop string counts before the length: both may end with the same token, and the text is cut in one case only.
       */
    if (bni_session_push_text(s, token))
        bni_session_done(s, BITNET_DONE_STOP);
    else if (g->max_tokens > 0 && s->n_generated >= g->max_tokens)
        bni_session_done(s, BITNET_DONE_LENGTH);
}

/* After a token was sampled: until the first one it is the prompt's time, from there on the generation's. */
static void bni_session_count(bitnet_session *s, uint64_t now)
{
    if (s->n_generated == 1) {
        s->stats.prompt_tokens = (uint64_t)(s->n_kv - s->prompt_start);
        s->stats.prompt_ns = now - s->started_ns;
        s->first_token_ns = now;
    }
    s->stats.generated_tokens = (uint64_t)s->n_generated;
    s->stats.generate_ns = now - s->first_token_ns;
}

/* x [n] divided by its Euclidean length. */
static void bni_normalise(float *x, int n)
{
    double sum = 0.0, length;
    int i;
    for (i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    length = bni_sqrt(sum);
    for (i = 0; i < n; i++)
        x[i] = length > 0.0 ? (float)((double)x[i] / length) : 0.0f;
}

/* Keeps the final state of the session's last row, from which logits can be computed later. Or, for bitnet_embed, adds
   those of its rows, in order: position 0 or pooling by the last token
   overwrites instead. In f32 and in the order of positions, so that the sum doesn't depend on how the prompt is cut
   into passes. The sum stands for the mean: bitnet_embed divides by the length anyway. */
static void bni_session_states(bitnet_engine *e, bitnet_session *s)
{
    int w, i, n = e->model->hp.n_embd;
    for (w = 0; w < e->pass.n_hidden; w++) {
        const float *h = bni_row_h(e, e->pass.n_wanted + w);
        const bni_row *row = &e->rows[e->wanted[e->pass.n_wanted + w]];
        if (row->session != s)
            continue;
        for (i = 0; i < n && s->pooled; i++)
            s->pooled[i] = e->model->hp.pooling == 3 || row->pos == 0 ? h[i] : s->pooled[i] + h[i];
        if (!s->pooled) {
            memcpy(s->final, h, (size_t)bni_pad16(n) * sizeof *h);
            s->incomplete = 1;
        }
    }
}

/* The pass is over for this session: its tokens are evaluated, or it has failed. n_rows becomes 0 first, as that is
   what the BUSY checks ask. The first failed row is reported; row->failed is 1 + layer, where 1 + n_layer means after
   the last layer. n_kv moves only here, and only when all rows are sound: a pass counts as a whole or not at all. */
static void bni_session_finish_pass(bitnet_engine *e, bitnet_session *s)
{
    int n = s->n_rows, dropped = s->dropped, i, prompt = s->n_kv < s->prompt_end;
    /* Whatever comes of it, the session is out of the pass: calls on it are no longer BUSY. */
    s->n_rows = s->dropped = 0;
    if (dropped)
        return;
    for (i = s->first_row; i < s->first_row + n; i++)
        if (e->rows[i].failed) {
            const int layer = (int)e->rows[i].failed - 1, after = layer == e->model->hp.n_layer;
            bni_session_fail(s, BITNET_ERROR_NUMERIC,
                             after ? "after layer %u, position %u: a value is not finite"
                                   : "layer %u, position %u: a value is not finite",
                             (uint64_t)(layer - after), (uint64_t)e->rows[i].pos);
            return;
        }
    bni_session_states(e, s);
    /* From here on the rows are part of the conversation. */
    s->n_kv += n;
    s->repeats = 0;
    s->has_logits = s->n_kv == s->n_tokens && !s->pooled;
    if (prompt) {
        s->has_progress = 1;
        s->stats.prompt_tokens = (uint64_t)(s->n_kv - s->prompt_start);
        s->stats.prompt_ns = bni_time_ns() - s->started_ns;
    }
    if (s->n_kv < s->n_tokens)
        return;
    /* bitnet_eval, bitnet_embed, or begin without a generation. */
    if (!s->generates) {
        if (s->pooled)
            bni_normalise(s->pooled, e->model->hp.n_embd);
        bni_session_done(s, BITNET_DONE_PROMPT);
        return;
    }
    i = s->n_generated;
    bni_session_sample(s);
    if (s->n_generated > i)
        bni_session_count(s, bni_time_ns());
}

/* Runs one slice: at most about ns nanoseconds of the current op, or all of it (UINT64_MAX). parallel_for returns when
   the slice is done, so between two calls no job runs and the engine's thread owns all buffers. FINISH goes one session
   per slice, on this thread, as sampling and callbacks are not for workers. Speeds are only learnt under a budget:
   without one nobody asks, and two readings of the clock per op are saved. */
static void bni_pass_advance(bitnet_engine *e, uint64_t ns)
{
    bni_pass *pass = &e->pass;
    uint32_t total = bni_place_units(e, &pass->place), left = total - pass->unit, n;
    int kind = pass->place.kind;
    uint64_t start = 0;
    /* Once per pass, right before the head's first slice. */
    if (kind == BNI_OP_HEAD && pass->unit == 0 && pass->place.group == 0)
        bni_pass_masks(e);
    if (kind == BNI_OP_FINISH) {
        bni_session_finish_pass(e, e->in_pass[pass->unit++]);
        if (pass->unit == total)
            pass->active = 0;
        return;
    }
    /* FINAL has no units in a pass that ends inside a prompt. */
    n = ns == UINT64_MAX ? left : bni_slice_units(e, left, ns);
    if (n > 0 && ns != UINT64_MAX)
        start = bni_time_ns();
    if (n > 0)
        bni_slice_dispatch(e, &pass->place, pass->unit, n);
    if (start)
        bni_slice_learn(e, kind, bni_place_work(e, &pass->place, pass->unit) * n, bni_time_ns() - start);
    pass->unit += n;
    if (pass->unit < total)
        return;
    if (kind == BNI_OP_RESCORE || (kind == BNI_OP_HEAD && !bni_head_two_pass(e, pass->place.group)))
        bni_pass_rows(e, pass->place.group);
    pass->place = bni_place_next(e, pass->place);
    pass->unit = 0;
}

/* bitnet_step; start_new 0: only ends the pass in flight. Without a budget a slice is a whole op. Cancels are looked at
   before a pass is chosen (a cancelled prompt must not start) and after every slice. The budget is in wall time from
   entry. The floating-point state is set for this thread here, for workers in bni_slice_job; IDLE returns before. */
static bitnet_result bni_engine_step(bitnet_engine *e, uint32_t budget_us, int start_new)
{
    uint64_t start = bni_time_ns(), budget = (uint64_t)budget_us * 1000, used = 0, slice;
    bni_fp_state fp;
    bni_engine_cancels(e);
    if (!e->pass.active && !(start_new && bni_pass_start(e)))
        return BITNET_IDLE;
    fp = bni_fp_enter();
    if (e->scheduler.step_begin)
        e->scheduler.step_begin(e->scheduler.user);
    do {
        slice = UINT64_MAX;
        if (budget_us != BITNET_NO_BUDGET) {
            slice = budget - used;
            /* Short slices: a wrong guess of the speed overshoots by little, and a cancel is heard soon. */
            slice = slice < BNI_SLICE_NS ? slice : BNI_SLICE_NS;
        }
        bni_pass_advance(e, slice);
        bni_engine_cancels(e);
        used = budget_us == BITNET_NO_BUDGET ? 0 : bni_time_ns() - start;
    } while (e->pass.active && (budget_us == BITNET_NO_BUDGET || used < budget));
    if (e->scheduler.step_end)
        e->scheduler.step_end(e->scheduler.user);
    bni_fp_leave(fp);
    return BITNET_OK;
}

/* See bni_engine_step, which bitnet_finish shares. */
BITNET_API bitnet_result bitnet_step(bitnet_engine *engine, uint32_t budget_us)
{
    return engine ? bni_engine_step(engine, budget_us, 1) : BITNET_ERROR_ARGUMENT;
}

/* Ends after one call of bni_engine_step without a budget; the loop says so without having to know. */
BITNET_API bitnet_result bitnet_finish(bitnet_engine *engine)
{
    if (!engine)
        return BITNET_ERROR_ARGUMENT;
    while (engine->pass.active)
        bni_engine_step(engine, BITNET_NO_BUDGET, 0);
    return BITNET_OK;
}

/* ------------------------------------------------------------------------------------------------------- begin */

/* The generation's own mistakes; OK, or ARGUMENT. Resets the session's stream on the way, since it is the stream that
   knows which stop strings it can find; NULL resets it without stop strings. */
static bitnet_result bni_generation_check(const bitnet_generation *g)
{
    bni_stream trial;
    char text[BITNET_MAX_STOP_BYTES + 16];
    if (!g)
        return BITNET_OK;
    memset(&trial, 0, sizeof trial);
    trial.buffer = text;                       /* a reset writes no more than the stop strings it checks */
    if (bni_sampling_check(&g->sampling) || g->max_tokens < 0 || g->n_bias < 0 || (g->n_bias > 0 && !g->bias) ||
        g->logprobs < 0 || g->logprobs > 1 + BITNET_MAX_LOGPROBS ||
        bni_stream_reset(&trial, g->stops, g->n_stops) != 0)
        return BITNET_ERROR_ARGUMENT;
    return BITNET_OK;
}

/* All checks stand before bni_session_stop: what is refused leaves tokens and run as they were. Where nothing is
   pending (a prompt of no tokens after a rewind, a loaded state, a finished evaluation) the last token is evaluated
   again, because logits aren't saved; it writes the same bits to the same cache slot. No memory: tokens has room for
   n_ctx. */
BITNET_API bitnet_result bitnet_begin(bitnet_session *session, const int32_t *prompt, int n,
                                      const bitnet_generation *generation)
{
    bitnet_session *s = session;
    bitnet_result r;
    int i;
    if (!s || n < 0 || (n > 0 && !prompt))
        return BITNET_ERROR_ARGUMENT;
    if (s->n_rows > 0)
        return BITNET_ERROR_BUSY;
    for (i = 0; i < n; i++)
        if (prompt[i] < 0 || prompt[i] >= s->engine->model->hp.n_vocab)
            return BITNET_ERROR_ARGUMENT;
    /* As a difference: n_tokens + n could overflow. */
    if (n > s->n_ctx - s->n_tokens)
        return BITNET_ERROR_FULL;
    if (n == 0 && s->n_tokens == 0)
        return BITNET_ERROR_ARGUMENT;          /* nothing to continue */
    if (generation && generation->embedding && s->n_tokens > 0)
        return BITNET_ERROR_ARGUMENT;
    r = bni_generation_check(generation);
    if (r != BITNET_OK)
        return r;
    bni_session_stop(s);
    if (n > 0)
        memcpy(s->tokens + s->n_tokens, prompt, (size_t)n * sizeof *prompt);
    s->n_tokens += n;
    /* Evaluating it anew writes the same bits to the same slot of the cache. */
    s->repeats = s->n_kv == s->n_tokens;       /* all evaluated: the last one again, for its logits */
    s->n_kv -= s->repeats;
    s->has_logits = 0;
    s->prompt_start = s->n_kv;
    s->prompt_end = s->n_tokens;
    s->n_generated = 0;
    s->pooled = generation ? generation->embedding : NULL;
    s->generates = generation != NULL && !s->pooled;
    bni_stream_reset(s->stream, generation ? generation->stops : NULL, generation ? generation->n_stops : 0);
    if (generation)
        s->generation = *generation;
    s->row_index = 0;
    s->state = BNI_RUNNING;
    s->started_ns = bni_time_ns();
    s->first_token_ns = 0;
    s->stats.prompt_tokens = s->stats.prompt_ns = s->stats.generated_tokens = s->stats.generate_ns = 0;
    return BITNET_OK;
}

/* ------------------------------------------------------------------------------------------------------ events */

/* Text and top are lent until the next call on the session: has_token 0 lets the next pass overwrite them. */
static void bni_event_token(bitnet_session *s, bitnet_event *event)
{
    event->type = BITNET_EVENT_TOKEN;
    event->token = s->token;
    event->text = s->stream->text;
    event->text_size = s->stream->size;
    event->logprob = s->logprob;
    event->top = s->top;
    event->n_top = s->n_top;
    s->has_token = 0;
}

/* DONE carries the text that was held back, which is why the stream is finished here and not when the run ends: a
   TOKEN fetched before it still shows its own piece of the same buffer. */
static void bni_event_done(bitnet_session *s, bitnet_event *event)
{
    event->type = BITNET_EVENT_DONE;
    event->reason = s->reason;
    event->token = s->n_generated > 0 ? s->token : -1;
    if (s->generates && s->n_generated > 0) {
        bni_stream_finish(s->stream);
        event->text = s->stream->text;
        event->text_size = s->stream->size;
    }
    if (s->reason == BITNET_DONE_ERROR)
        event->error = &s->error;
    s->has_done = 0;
}

/* PROGRESS, TOKEN, DONE: the order in which a pass makes them. PROGRESS counts as of now, not of when it was noted, so
   several passes between two calls make one event. */
BITNET_API int bitnet_next_event(bitnet_session *session, bitnet_event *event)
{
    bitnet_session *s = session;
    memset(event, 0, sizeof *event);
    event->text = "";
    event->token = -1;
    if (s->has_progress) {
        event->type = BITNET_EVENT_PROGRESS;
        event->n_total = s->prompt_end - s->prompt_start;
        event->n_done = (s->n_kv < s->prompt_end ? s->n_kv : s->prompt_end) - s->prompt_start;
        s->has_progress = 0;
    } else if (s->has_token) {
        bni_event_token(s, event);
    } else if (s->has_done) {
        bni_event_done(s, event);
    } else {
        return 0;
    }
    return 1;
}

BITNET_API void bitnet_get_stats(const bitnet_session *session, bitnet_stats *stats) { *stats = session->stats; }

/* --------------------------------------------------------------------------------------------- blocking calls */

/* Runs the engine until the session is done, handing its text to fn (may be NULL). *event is the DONE event. Nonzero
   from fn cancels; the loop still waits for DONE, so that the session is free when it returns. Other sessions of the
   engine advance up to their next TOKEN or DONE, as their events aren't fetched here. */
static void bni_session_run(bitnet_session *s, bitnet_text_fn *fn, void *user, bitnet_event *event)
{
    for (;;) {
        while (bitnet_next_event(s, event)) {
            if (event->text_size > 0 && fn && fn(user, event->text, event->text_size) != 0) {
                bitnet_cancel(s);
                fn = NULL;                     /* it has said stop: no more text */
            }
            if (event->type == BITNET_EVENT_DONE)
                return;
        }
        if (bitnet_step(s->engine, BITNET_NO_BUDGET) == BITNET_IDLE && !s->has_done) {
            event->type = BITNET_EVENT_DONE;   /* can't be: a running session always has work */
            event->reason = BITNET_DONE_CANCELLED;
            return;
        }
    }
}

/* The result of a run that has ended; fills err. Only reason ERROR is an error here; what CANCELLED means is the
   caller's to say. */
static bitnet_result bni_session_result(const bitnet_event *event, bitnet_error *err)
{
    if (event->reason != BITNET_DONE_ERROR)
        return BITNET_OK;
    if (err)
        *err = *event->error;
    return event->error->code;
}

/* r of bitnet_begin (which takes no bitnet_error) with a sentence; n: the tokens that were to be appended. */
static bitnet_result bni_begin_error(const bitnet_session *s, bitnet_result r, int n, bitnet_error *err)
{
    if (r == BITNET_ERROR_FULL)
        return bni_fail(err, r, 0, "%d tokens do not fit: %d of %d are taken", n, s->n_tokens, s->n_ctx);
    if (r == BITNET_ERROR_BUSY)
        return bni_fail(err, r, 0, "the session has rows in the pass in flight");
    if (r != BITNET_OK)
        return bni_fail(err, r, 0, n == 0 ? "no tokens to begin with" : "a token outside the vocabulary, or a wrong setting");
    return r;
}

/* The prompt is tokenized twice, to count and to fill: the only allocation, from the model's allocator and freed
   before the first pass (bitnet_begin copies). FULL is told from the count, before memory is asked for. The begin
   token is added only to an empty session. n + 1 entries, because allocators may refuse 0 bytes. */
BITNET_API bitnet_result bitnet_generate(bitnet_session *session, const char *prompt,
                                         const bitnet_generation *generation, bitnet_text_fn *fn, void *user,
                                         bitnet_reason *reason, bitnet_error *err)
{
    const bitnet_model *m;
    bitnet_generation zero;
    bitnet_event event;
    bitnet_result r;
    int32_t *tokens;
    int64_t n;
    uint64_t bytes;
    size_t size;
    int flags = BITNET_TOKENIZE_SPECIAL;
    if (!session || !prompt)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, session ? "no prompt" : "no session");
    m = session->engine->model;
    /* The begin token belongs to position 0 only. */
    flags |= session->n_tokens == 0 ? BITNET_TOKENIZE_BOS : 0;
    size = strlen(prompt);
    n = bitnet_tokenize(m, prompt, size, NULL, 0, flags);
    if (n < 0)
        return bni_fail(err, (bitnet_result)n, 0, "the prompt could not be tokenized");
    if (n > session->n_ctx - session->n_tokens)
        return bni_begin_error(session, BITNET_ERROR_FULL, n < INT32_MAX ? (int)n : INT32_MAX, err);
    bytes = (uint64_t)(n + 1) * sizeof *tokens;
    tokens = (int32_t *)bni_alloc(&m->allocator, bytes, 8);
    if (!tokens)
        return bni_fail(err, BITNET_ERROR_MEMORY, 0, "no memory for the prompt's %d tokens", (int)n);
    n = bitnet_tokenize(m, prompt, size, tokens, n, flags);
    memset(&zero, 0, sizeof zero);
    r = n < 0 ? (bitnet_result)n : bitnet_begin(session, tokens, (int)n, generation ? generation : &zero);
    bni_free(&m->allocator, tokens, bytes);
    if (n < 0)
        return bni_fail(err, r, 0, "the prompt could not be tokenized");
    if (r != BITNET_OK)
        return bni_begin_error(session, r, (int)n, err);
    bni_session_run(session, fn, user, &event);
    if (reason)
        *reason = event.reason;
    return bni_session_result(&event, err);
}

/* row_fn is set after bitnet_begin, which clears it, and before the first pass reads it. */
BITNET_API bitnet_result bitnet_eval(bitnet_session *session, const int32_t *tokens, int n, bitnet_row_fn *fn,
                                     void *user, bitnet_error *err)
{
    bitnet_event event;
    bitnet_result r;
    if (!session)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no session");
    r = bitnet_begin(session, tokens, n, NULL);
    if (r != BITNET_OK)
        return bni_begin_error(session, r, n, err);
    /* bitnet_begin has cleared the last one's. */
    session->row_fn = fn;
    session->row_user = user;
    /* Tokens that were pending come first, and are of no interest: their rows count below 0. */
    session->row_index = n > 0 ? n - (session->n_tokens - session->n_kv) : 0;
    bni_session_run(session, NULL, NULL, &event);
    session->row_fn = NULL;
    if (event.reason == BITNET_DONE_CANCELLED)
        return bni_fail(err, BITNET_ERROR_CANCELLED, 0, "evaluation was cancelled");
    return bni_session_result(&event, err);
}

/* The passes add up into out itself (bni_session_pool). Position 0 overwrites it, so it need not be cleared. The
   length is summed in double, in order. A sum of zero length gives zeros rather than NaN. */
BITNET_API bitnet_result bitnet_embed(bitnet_session *session, const int32_t *tokens, int n, float *out,
                                      bitnet_error *err)
{
    bitnet_generation generation;
    bitnet_event event;
    bitnet_result r;
    if (!session || !out || n <= 0)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "nothing to embed");
    memset(&generation, 0, sizeof generation);
    generation.embedding = out;
    r = bitnet_session_rewind(session, 0);
    if (r == BITNET_OK)
        r = bitnet_begin(session, tokens, n, &generation);
    if (r != BITNET_OK)
        return bni_begin_error(session, r, n, err);
    bni_session_run(session, NULL, NULL, &event);
    r = event.reason == BITNET_DONE_CANCELLED ? bni_fail(err, BITNET_ERROR_CANCELLED, 0, "embedding was cancelled")
                                              : bni_session_result(&event, err);
    (void)bitnet_session_rewind(session, 0);
    return r;
}

/* ---------------------------------------------------------------------------------------------- text functions */

/* These check arguments and pass on: the work is in >>tokenizer and >>chat. A model is never written after it is open,
   so all of them may run on any number of threads at once. */
BITNET_API int64_t bitnet_tokenize(const bitnet_model *model, const char *text, size_t size, int32_t *tokens,
                                   int64_t capacity, int flags)
{
    if (!model || (size > 0 && !text) || (capacity > 0 && !tokens))
        return BITNET_ERROR_ARGUMENT;
    return bni_tokenize(&model->tokenizer, &model->allocator, text, size, (flags & BITNET_TOKENIZE_SPECIAL) != 0,
                        (flags & BITNET_TOKENIZE_BOS) != 0, tokens, capacity);
}

BITNET_API int64_t bitnet_detokenize(const bitnet_model *model, const int32_t *tokens, int64_t n, char *text,
                                     size_t capacity, int flags)
{
    if (!model || n < 0 || (n > 0 && !tokens) || (capacity > 0 && !text))
        return BITNET_ERROR_ARGUMENT;
    return bni_detokenize(&model->tokenizer, tokens, n, (flags & BITNET_DETOKENIZE_SPECIAL) != 0, text, capacity);
}

/* Borrowed from the file's header and not NUL-terminated: use *size. NULL outside the vocabulary. */
BITNET_API const char *bitnet_token_text(const bitnet_model *model, int32_t token, size_t *size)
{
    bni_str s;
    if (token < 0 || token >= (int32_t)model->tokenizer.n_tokens)
        return NULL;
    s = bni_token_text(&model->tokenizer, token);
    if (size)
        *size = s.size;
    return s.data;
}

BITNET_API int32_t bitnet_token_find(const bitnet_model *model, const char *text)
{
    return bni_token_find(&model->tokenizer, bni_str_of(text));
}

BITNET_API int bitnet_token_is_end(const bitnet_model *model, int32_t token)
{
    return token >= 0 && token < (int32_t)model->tokenizer.n_tokens && bni_token_is_end(&model->tokenizer, token);
}

BITNET_API int64_t bitnet_chat_format(const bitnet_model *model, const bitnet_chat_message *messages, int n, int flags,
                                      char *text, size_t capacity)
{
    if (!model || n < 0 || (n > 0 && !messages))
        return BITNET_ERROR_ARGUMENT;
    return bni_chat_format(&model->tokenizer, model->chat, messages, n, flags, text, capacity);
}

BITNET_API int64_t bitnet_chat_tokenize(const bitnet_model *model, const bitnet_chat_message *messages, int n, int flags,
                                        int32_t *tokens, int64_t capacity)
{
    if (!model || n < 0 || (n > 0 && !messages))
        return BITNET_ERROR_ARGUMENT;
    return bni_chat_tokenize(&model->tokenizer, &model->allocator, model->chat, messages, n, flags, tokens, capacity);
}

/* No default in the switch: the compiler then names a code that was forgotten. */
BITNET_API const char *bitnet_result_text(bitnet_result result)
{
    switch (result) {
    case BITNET_OK: return "ok";
    case BITNET_IDLE: return "nothing to run";
    case BITNET_ERROR_ARGUMENT: return "wrong argument";
    case BITNET_ERROR_MEMORY: return "out of memory";
    case BITNET_ERROR_IO: return "file can't be read";
    case BITNET_ERROR_FORMAT: return "damaged file";
    case BITNET_ERROR_UNSUPPORTED: return "not supported";
    case BITNET_ERROR_NUMERIC: return "a value is not finite";
    case BITNET_ERROR_CANCELLED: return "cancelled";
    case BITNET_ERROR_BUSY: return "session is in the pass in flight";
    case BITNET_ERROR_FULL: return "context is full";
    case BITNET_ERROR_STATE: return "saved state does not fit";
    case BITNET_ERROR_BUILD: return "the build breaks IEEE arithmetic";
    }
    return "unknown result";
}

BITNET_API const char *bitnet_version(void) { return BITNET_VERSION; }
/* ======================================================================================================
   >>state    Saving and loading a session
   ======================================================================================================
   A saved session is

       u32 "BNST" | u32 version 1 | u64 fingerprint of the model | u32 n_tokens, n_kv, n_layer, n_head_kv, head_dim, 0
       i32 tokens [n_tokens]
       for each layer, position, key-value head:  f32 k scale | i16 k [head_dim] | f32 v scale | i16 v [head_dim]
       u64 hash of all the bytes before

   little-endian, rows in their natural order whatever the cache's layout is, so that a state moves between machines,
   kernel sets and versions of the layout. Nothing in it is trusted: everything is checked before the session changes.

   Logits, events and the generation are not saved. The KV rows are integers with a scale, exactly as attention reads
   them, so a loaded session continues with the bits of the one that was saved. The hash finds damage and mistakes; a
   state made by an attacker has a right hash too, so its numbers are checked one by one: what gets past the checks is
   what the arithmetic's bounds assume (>>reference: |integer| <= 4095). */

/* "BNST" as a little-endian number, and 4 + 4 + 8 + 6 * 4 bytes before the tokens. */
#define BNI_STATE_MAGIC 0x54534e42u
#define BNI_STATE_HEADER 40

/* K and V of one position of one head: two f32 scales and 2 * head_dim i16. */
BNI_INLINE uint64_t bni_state_row_bytes(const bni_hparams *hp) { return 8 + 4 * (uint64_t)hp->head_dim; }

/* Bytes of the whole state. The largest counts, 2^24 tokens, 1024 layers and heads of 256, stay below 2^55: no
   overflow. The final 8 are the hash. */
static uint64_t bni_state_bytes(const bni_hparams *hp, uint64_t n_tokens, uint64_t n_kv)
{
    return BNI_STATE_HEADER + 4 * n_tokens +
           (uint64_t)hp->n_layer * n_kv * (uint64_t)hp->n_head_kv * bni_state_row_bytes(hp) + 8;
}

/* 0 can't happen for a session that fits in memory: its cache is as large as the rows, and its struct larger than the
   header. */
BITNET_API size_t bitnet_state_size(const bitnet_session *session)
{
    uint64_t n = bni_state_bytes(&session->engine->model->hp, (uint64_t)session->n_tokens, (uint64_t)session->n_kv);
    return n <= SIZE_MAX ? (size_t)n : 0;
}

/* One row of K and V from the cache to p: k scale | k | v scale | v, see above. slot: position mod 64. area: one head's
   part of a block. bni_kv_load writes d integers, without the padding. Bytes, because p needn't be aligned. */
static void bni_state_put_row(uint8_t *p, const uint8_t *area, int slot, int d)
{
    int16_t k[BNI_MAX_HEAD_DIM], v[BNI_MAX_HEAD_DIM];
    float k_scale, v_scale;
    int i;
    bni_kv_load(area, d, slot, k, &k_scale, v, &v_scale);
    bni_store_u32(p, bni_float_bits(k_scale));
    bni_store_u32(p + 4 + 2 * d, bni_float_bits(v_scale));
    for (i = 0; i < d; i++) {
        p[4 + 2 * i] = (uint8_t)k[i];
        p[5 + 2 * i] = (uint8_t)((uint16_t)k[i] >> 8);
        p[8 + 2 * d + 2 * i] = (uint8_t)v[i];
        p[9 + 2 * d + 2 * i] = (uint8_t)((uint16_t)v[i] >> 8);
    }
}

/* The way back. bni_kv_store reads up to the padded width, so the buffers are cleared and 16 longer; last 1 clears the
   second slot of a pair of positions, as the pass that wrote the row did. */
static void bni_state_get_row(const uint8_t *p, uint8_t *area, int slot, int d, int last)
{
    int16_t k[BNI_MAX_HEAD_DIM + 16], v[BNI_MAX_HEAD_DIM + 16];
    int i;
    memset(k, 0, sizeof k);
    memset(v, 0, sizeof v);
    for (i = 0; i < d; i++) {
        k[i] = (int16_t)bni_load_u16(p + 4 + 2 * i);
        v[i] = (int16_t)bni_load_u16(p + 8 + 2 * d + 2 * i);
    }
    bni_kv_store(area, d, slot, k, bni_load_f32(p), v, bni_load_f32(p + 4 + 2 * d), last);
}

/* Are the integers of a row in their range and the scales finite and not negative? One comparison for both: a sign bit
   makes the unsigned number larger than any infinity's. */
static int bni_state_row_sound(const uint8_t *p, int d)
{
    int i, half;
    for (half = 0; half < 2; half++, p += 4 + 2 * d) {
        if (bni_load_u32(p) >= 0x7f800000u)
            return 0;
        for (i = 0; i < d; i++) {
            int v = (int16_t)bni_load_u16(p + 4 + 2 * i);
            if (v < -4095 || v > 4095)
                return 0;
        }
    }
    return 1;
}

/* Between passes of a running generation too: tokens then has one more than the cache. buffer needs no alignment;
   bytes beyond bitnet_state_size stay untouched. The digest takes 8 bytes at a time with a load that works at any
   address. */
BITNET_API bitnet_result bitnet_state_save(const bitnet_session *session, void *buffer, size_t size, bitnet_error *err)
{
    const bitnet_session *s = session;
    const bni_hparams *hp;
    uint8_t *p = (uint8_t *)buffer;
    uint64_t row, hash;
    int layer, pos, head, i;
    if (!s || !buffer || size < bitnet_state_size(s))
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no session, or a buffer of %u bytes where %u are needed",
                        (uint64_t)size, s ? (uint64_t)bitnet_state_size(s) : 0);
    if (s->n_rows > 0)
        return bni_fail(err, BITNET_ERROR_BUSY, 0, "the session has rows in the pass in flight");
    hp = &s->engine->model->hp;
    row = bni_state_row_bytes(hp);
    bni_store_u32(p, BNI_STATE_MAGIC);
    bni_store_u32(p + 4, 1);
    bni_store_u64(p + 8, s->engine->model->fingerprint);
    bni_store_u32(p + 16, (uint32_t)s->n_tokens);
    bni_store_u32(p + 20, (uint32_t)s->n_kv);
    bni_store_u32(p + 24, (uint32_t)hp->n_layer);
    bni_store_u32(p + 28, (uint32_t)hp->n_head_kv);
    bni_store_u32(p + 32, (uint32_t)hp->head_dim);
    bni_store_u32(p + 36, 0);
    p += BNI_STATE_HEADER;
    for (i = 0; i < s->n_tokens; i++, p += 4)
        bni_store_u32(p, (uint32_t)s->tokens[i]);
    for (layer = 0; layer < hp->n_layer; layer++)
        for (pos = 0; pos < s->n_kv; pos++)
            for (head = 0; head < hp->n_head_kv; head++, p += row)
                bni_state_put_row(p, s->blocks[pos / 64] + bni_area_offset(hp, layer, head), pos % 64, hp->head_dim);
    hash = bni_digest(BNI_DIGEST_START, buffer, (uint64_t)(p - (uint8_t *)buffer));
    bni_store_u64(p, hash);
    return BITNET_OK;
}

/* Everything that can be wrong with a saved state; *n_tokens and *n_kv are its counts. From cheap to dear, and each
   check stands on those before: the counts are bounded by n_ctx before they enter a size, the size is exact before the
   hash reads that far, and only then are tokens and rows read. Offsets in errors are bytes of the state. */
static bitnet_result bni_state_check(const bitnet_session *s, const uint8_t *p, uint64_t size, int *n_tokens, int *n_kv,
                                     bitnet_error *err)
{
    const bitnet_model *m = s->engine->model;
    const bni_hparams *hp = &m->hp;
    uint64_t tokens, kv, i, rows;
    if (size < BNI_STATE_HEADER + 8 || bni_load_u32(p) != BNI_STATE_MAGIC)
        return bni_fail(err, BITNET_ERROR_STATE, 0, "not a saved session");
    if (bni_load_u32(p + 4) != 1)
        return bni_fail(err, BITNET_ERROR_STATE, 4, "a saved session of version %u", (uint64_t)bni_load_u32(p + 4));
    if (bni_load_u64(p + 8) != m->fingerprint || bni_load_u32(p + 24) != (uint32_t)hp->n_layer ||
        bni_load_u32(p + 28) != (uint32_t)hp->n_head_kv || bni_load_u32(p + 32) != (uint32_t)hp->head_dim)
        return bni_fail(err, BITNET_ERROR_STATE, 8, "a session of another model");
    tokens = bni_load_u32(p + 16);
    kv = bni_load_u32(p + 20);
    if (kv > tokens || tokens > (uint64_t)s->n_ctx)
        return bni_fail(err, BITNET_ERROR_STATE, 16, "a session of %u tokens, this one holds %d", tokens, s->n_ctx);
    if (size != bni_state_bytes(hp, tokens, kv))
        return bni_fail(err, BITNET_ERROR_STATE, size, "%u bytes, a session of %u tokens has %u", size, tokens,
                        bni_state_bytes(hp, tokens, kv));
    if (bni_digest(BNI_DIGEST_START, p, size - 8) != bni_load_u64(p + size - 8))
        return bni_fail(err, BITNET_ERROR_STATE, size - 8, "the saved session is damaged (its hash differs)");
    for (i = 0; i < tokens; i++)
        if (bni_load_u32(p + BNI_STATE_HEADER + 4 * i) >= (uint32_t)hp->n_vocab)
            return bni_fail(err, BITNET_ERROR_STATE, BNI_STATE_HEADER + 4 * i, "a token outside the vocabulary");
    p += BNI_STATE_HEADER + 4 * tokens;
    rows = (uint64_t)hp->n_layer * kv * (uint64_t)hp->n_head_kv;
    for (i = 0; i < rows; i++)
        if (!bni_state_row_sound(p + i * bni_state_row_bytes(hp), hp->head_dim))
            return bni_fail(err, BITNET_ERROR_STATE, BNI_STATE_HEADER + 4 * tokens + i * bni_state_row_bytes(hp),
                            "a cache row out of range");
    *n_tokens = (int)tokens;
    *n_kv = (int)kv;
    return BITNET_OK;
}

/* All or nothing: after bni_state_check nothing can fail. No logits: bitnet_begin without a prompt evaluates the last
   token again, or the pending one. */
BITNET_API bitnet_result bitnet_state_load(bitnet_session *session, const void *buffer, size_t size, bitnet_error *err)
{
    bitnet_session *s = session;
    const bni_hparams *hp;
    const uint8_t *p = (const uint8_t *)buffer;
    int n_tokens = 0, n_kv = 0, layer, pos, head, i;
    bitnet_result r;
    if (!s || !buffer)
        return bni_fail(err, BITNET_ERROR_ARGUMENT, 0, "no session or no buffer");
    if (s->n_rows > 0)
        return bni_fail(err, BITNET_ERROR_BUSY, 0, "the session has rows in the pass in flight");
    r = bni_state_check(s, p, size, &n_tokens, &n_kv, err);
    if (r != BITNET_OK)
        return r;
    hp = &s->engine->model->hp;
    bni_session_stop(s);
    p += BNI_STATE_HEADER;
    for (i = 0; i < n_tokens; i++, p += 4)
        s->tokens[i] = (int32_t)bni_load_u32(p);
    for (layer = 0; layer < hp->n_layer; layer++)
        for (pos = 0; pos < n_kv; pos++)
            for (head = 0; head < hp->n_head_kv; head++, p += bni_state_row_bytes(hp))
                bni_state_get_row(p, s->blocks[pos / 64] + bni_area_offset(hp, layer, head), pos % 64, hp->head_dim,
                                  pos == n_kv - 1);
    s->n_tokens = n_tokens;
    s->n_kv = n_kv;
    s->has_logits = 0;
    return BITNET_OK;
}
/* ======================================================================================================
   >>end    Changes and licence
   ======================================================================================================
   0.1.0  First version: GGUF reader; families bitnet-b1.58, bitnet-25, bitnet and llama with matrices of I2_S, TL1, TL2,
          TQ1_0, TQ2_0, Q2_0, PQ2_0, IQ1_BN, IQ2_BN and IQ2_BN_R4; BPE and SPM tokenizers; chat templates; integer
          attention; kernels scalar, SSSE3, AVX2, AVX-VNNI, AVX-512 VNNI and VBMI, and AMX, on the layouts R16 and T5,
          NEON, dotprod, i8mm and WebAssembly's SIMD128 on R16; look-up tables on TL1 and TL2; attention of a prompt by
          AMX; matrices used in place; an output matrix in two passes; attention block by block, joined by powers of two;
          sessions that advance together, in time slices; sampling, stop strings, log probabilities; saved states. */

#if defined(__clang__)
  #if defined(BNI_X87)
    #pragma clang attribute bni_sse2.pop
  #endif
  #if defined(__x86_64__) || defined(__i386__)
    #pragma float_control(pop)
  #endif
#elif defined(__GNUC__)
  #pragma GCC pop_options
#elif defined(_MSC_VER)
  #pragma float_control(pop)
#endif

#undef BITNET_IMPLEMENTATION         /* a second #include of this file declares, and defines nothing */
#endif /* BITNET_IMPLEMENTATION */
#endif /* !BNI_ISA */

/*
   Licence: this software is available under two licences; choose whichever you prefer.
   ------------------------------------------------------------------------------------------------------
   ALTERNATIVE A - MIT License
   Copyright (c) 2026 the bitnet.h authors
   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
   documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
   rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to
   permit persons to whom the Software is furnished to do so, subject to the following conditions:
   The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
   Software.
   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS
   OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
   OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
   ------------------------------------------------------------------------------------------------------
   ALTERNATIVE B - Public Domain (www.unlicense.org)
   This is free and unencumbered software released into the public domain.
   Anyone is free to copy, modify, publish, use, compile, sell, or distribute this software, either in source code form
   or as a compiled binary, for any purpose, commercial or non-commercial, and by any means.
   In jurisdictions that recognize copyright laws, the author or authors of this software dedicate any and all copyright
   interest in the software to the public domain. We make this dedication for the benefit of the public at large and to
   the detriment of our heirs and successors. We intend this dedication to be an overt act of relinquishment in
   perpetuity of all present and future rights to this software under copyright law.
   THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS BE
   LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
   OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
*/
