/* embed: texts as vectors, in the manner of llama.cpp's llama-embedding.

       cc -O2 -I. tools/embed.c -o embed -lpthread -lm
       ./embed -m model.gguf -p "A text."                                       one number per dimension, in words
       ./embed -m model.gguf -f lines.txt --embd-output-format json             a vector for each line

   A vector is the mean of the model's final hidden states over the text's tokens, or the last one where the file says
   so, divided by its Euclidean length: the scalar product of two is their cosine. Models that were made for it bring
   texts of like meaning close to each other; others place them only roughly.

   Numbers are printed with as many digits as it takes to read the same floats back. Nothing is printed before all texts
   are done, so that what stands on stdout is whole, or nothing. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"

typedef struct arguments {
    cli_model_args model;
    const char *prompt, *file, *separator, *format, *pooling;
    int normalize, escape;
} arguments;

/* Tokens of one text. */
typedef struct sentence { int32_t *tokens; int n; } sentence;

typedef struct embedding {
    bitnet_model *model;
    bitnet_model_info info;
    sentence *sentences;             /* [n] */
    int n, longest;                  /* longest: its tokens */
    float *vectors;                  /* [n, n_embd] */
} embedding;

/* ------------------------------------------------------------------------------------------------- the texts */

/* Begin and end tokens as the model wants them, control tokens read, as llama-embedding does it. */
static void add_sentence(embedding *e, const char *text, size_t size)
{
    const int flags = BITNET_TOKENIZE_BOS | BITNET_TOKENIZE_SPECIAL;
    const int64_t n = bitnet_tokenize(e->model, text, size, NULL, 0, flags);
    sentence *s;
    if (n < 0) cli_fail("text %d: cannot tokenize: %s", e->n + 1, bitnet_result_text((bitnet_result)n));
    if (n == 0) cli_fail("text %d is empty", e->n + 1);
    if (n > e->info.n_ctx_train)
        cli_fail("text %d has %.0f tokens, and the model was trained on at most %d", e->n + 1, (double)n,
                 e->info.n_ctx_train);
    if (e->n == INT_MAX - 1) cli_fail("too many texts");
    if ((e->n & (e->n + 1)) == 0)                        /* 0, 1, 3, 7 ...: room for twice as many and one */
        e->sentences = (sentence *)cli_realloc(e->sentences, (2 * (size_t)e->n + 1) * sizeof *e->sentences);
    s = &e->sentences[e->n++];
    s->n = (int)n;
    s->tokens = (int32_t *)cli_alloc((size_t)n * sizeof *s->tokens);
    bitnet_tokenize(e->model, text, size, s->tokens, n, flags);
    if (s->n > e->longest) e->longest = s->n;
}

/* Where the next separator begins in text [size], or size. */
static size_t find_separator(const char *text, size_t size, const char *separator)
{
    const size_t n = strlen(separator);
    size_t i;
    for (i = 0; n && i + n <= size; i++)
        if (text[i] == separator[0] && memcmp(text + i, separator, n) == 0) return i;
    return size;
}

static void read_sentences(embedding *e, const arguments *a)
{
    char *prompt, *separator, *text;
    size_t size = 0, at = 0;
    prompt = a->file ? cli_read_file(a->file, &size) : NULL;
    if (a->file && !prompt) cli_fail("cannot read %s: %s", a->file, strerror(errno));
    if (a->file && size && prompt[size - 1] == '\n') size--;             /* the editor's, not another text's */
    text = prompt ? prompt : (char *)cli_alloc(strlen(a->prompt) + 1);
    separator = (char *)cli_alloc(strlen(a->separator) + 1);
    memcpy(separator, a->separator, strlen(a->separator) + 1);
    if (!prompt) memcpy(text, a->prompt, strlen(a->prompt) + 1);
    if (!prompt && a->escape) cli_unescape(text);
    if (a->escape) cli_unescape(separator);
    if (!prompt) size = strlen(text);
    for (;;) {
        const size_t length = find_separator(text + at, size - at, separator);
        add_sentence(e, text + at, length);
        at += length;
        if (at == size) break;
        at += strlen(separator);
    }
    free(separator);
    free(text);
}

/* ------------------------------------------------------------------------------------------------ the vectors */

static void embed_all(embedding *e, const arguments *a)
{
    bitnet_engine_desc engine_desc;
    bitnet_session_desc session_desc;
    bitnet_engine *engine = NULL;
    bitnet_session *session = NULL;
    bitnet_error err;
    int i;
    memset(&engine_desc, 0, sizeof engine_desc);
    memset(&session_desc, 0, sizeof session_desc);
    memset(&err, 0, sizeof err);
    engine_desc.n_threads = cli_threads(&a->model);
    engine_desc.n_ctx = session_desc.n_ctx = e->longest;
    if (bitnet_engine_create(e->model, &engine_desc, &engine, &err) != BITNET_OK ||
        bitnet_session_create(engine, &session_desc, &session, &err) != BITNET_OK)
        cli_fail_with(a->model.path, &err);
    e->vectors = (float *)cli_alloc((size_t)e->n * (size_t)e->info.n_embd * sizeof *e->vectors);
    for (i = 0; i < e->n; i++) {
        float *out = e->vectors + (size_t)i * (size_t)e->info.n_embd;
        if (bitnet_embed(session, e->sentences[i].tokens, e->sentences[i].n, out, &err) != BITNET_OK)
            cli_fail_with(a->model.path, &err);
        if (cli_interrupted) exit(CLI_EXIT_INTERRUPTED);
    }
    bitnet_session_destroy(session);
    bitnet_engine_destroy(engine);
}

static void print_vector(const float *v, int n, const char *between)
{
    int i;
    for (i = 0; i < n; i++) printf("%s%.9g", i ? between : "", (double)v[i]);
}

/* array: [[...],[...]]; json: the answer of OpenAI's embeddings API; else lines for a person. */
static void print_all(const embedding *e, const char *format)
{
    const int array = strcmp(format, "array") == 0, json = strcmp(format, "json") == 0;
    int i, n_tokens = 0;
    if (array) printf("[");
    if (json) printf("{\n  \"object\": \"list\",\n  \"data\": [\n");
    for (i = 0; i < e->n; i++) {
        const float *v = e->vectors + (size_t)i * (size_t)e->info.n_embd;
        if (array) printf(i ? ",[" : "[");
        else if (json) printf("    {\n      \"object\": \"embedding\",\n      \"index\": %d,\n", i);
        else printf("embedding %d: ", i);
        if (json) printf("      \"embedding\": [");
        print_vector(v, e->info.n_embd, array || json ? "," : " ");
        if (array) printf("]");
        else if (json) printf("]\n    }%s\n", i + 1 < e->n ? "," : "");
        else printf("\n");
        n_tokens += e->sentences[i].n;
    }
    if (array) printf("]\n");
    if (json)
        printf("  ],\n  \"usage\": {\"prompt_tokens\": %d, \"total_tokens\": %d}\n}\n", n_tokens, n_tokens);
}

/* ------------------------------------------------------------------------------------------------------ main */

static void parse(arguments *a, int argc, char **argv, const char *name)
{
    const cli_option options[] = {
        {"-m --model", CLI_STRING, &a->model.path, "FILE", "the model", 0, 0},
        {"-p --prompt", CLI_STRING, &a->prompt, "TEXT", "the text, or texts with a separator between them", 0, 0},
        {"-f --file", CLI_STRING, &a->file, "FILE", "the same from a file; -: from stdin", 0, 0},
        {"--embd-separator", CLI_STRING, &a->separator, "TEXT", "what is between texts (\\n); \"\": one text", 0, 0},
        {"--embd-output-format", CLI_STRING, &a->format, "array|json",
         "[[...],[...]], or the OpenAI API's answer; without it, lines\nfor a person", 0, 0},
        {"--embd-normalize", CLI_INT, &a->normalize, "2", "2: Euclidean, the only one there is", 2, 2},
        {"--pooling", CLI_STRING, &a->pooling, "mean|last", "the file's, or an error", 0, 0},
        {"--no-escape", CLI_NO_FLAG, &a->escape, NULL, "take backslashes in -p and --embd-separator as they are", 0, 0},
        CLI_MODEL_OPTIONS(a->model)
        {"-c --ctx-size -b --batch-size -ub --ubatch-size -ngl --gpu-layers --n-gpu-layers -tb --threads-batch "
         "-s --seed --numa", CLI_IGNORED_VALUE, NULL, NULL, NULL, 0, 0},
        {"-fa --flash-attn", CLI_IGNORED_SWITCH, NULL, NULL, NULL, 0, 0},
        {"-e --escape --embedding --embeddings --log-disable -v --verbose --warmup --no-warmup --mmap", CLI_IGNORED,
         NULL, NULL, NULL, 0, 0},
    };
    const cli_program program = {
        name, "-m MODEL -p TEXT [options]", "Texts as vectors of Euclidean length 1.",
        "Pooling is as the model's file says, mean where it says nothing.", options, CLI_COUNT(options), 0, 0};
    cli_parse(&program, argc, argv, NULL);
    cli_check_model_args(&a->model);
    if (!a->model.path) cli_usage("which model? usage: %s %s", name, program.usage);
    if (!a->prompt == !a->file) cli_usage("one of -p and -f must be given");
    if (strcmp(a->format, "") != 0 && strcmp(a->format, "array") != 0 && strcmp(a->format, "json") != 0)
        cli_usage("--embd-output-format: '%s' is not array or json", a->format);
}

/* Other poolings would be other vectors, so they are refused rather than taken for the one there is. */
static void check_pooling(const arguments *a, const bitnet_model_info *info)
{
    const char *there = info->pooling == 3 ? "last" : "mean";
    if (a->pooling && strcmp(a->pooling, there) != 0)
        cli_fail("--pooling %s: that of %s is %s, and it has no other", a->pooling, a->model.path, there);
}

int main(int argc, char **argv)
{
    arguments a;
    embedding e;
    char called[64];
    const char *name = "embed";
    int i;
    memset(&a, 0, sizeof a);
    memset(&e, 0, sizeof e);
    a.separator = "\\n";
    a.format = "";
    a.normalize = 2;
    a.escape = 1;
    cli_called_as_llama(argc, argv, called, &name);
    parse(&a, argc, argv, name);
    cli_catch_interrupts();
    e.model = cli_open_model(&a.model, 0);
    bitnet_model_get_info(e.model, &e.info);
    check_pooling(&a, &e.info);
    read_sentences(&e, &a);
    embed_all(&e, &a);
    print_all(&e, a.format);
    for (i = 0; i < e.n; i++) free(e.sentences[i].tokens);
    free(e.sentences);
    free(e.vectors);
    bitnet_model_close(e.model);
    return cli_finish_output();
}
