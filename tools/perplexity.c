/* perplexity: how well a model predicts a text.

       cc -O2 -I. tools/perplexity.c -o perplexity -lpthread -lm
       ./perplexity -m model.gguf -f wiki.test.raw                     Final estimate: PPL = 16.6500 +/- 0.12345
       ./perplexity -m model.gguf -f stories.txt --documents

   Perplexity is e to the mean of -ln p(token | the tokens before it); less is better, and blind guessing gets the size
   of the vocabulary. It depends on the text, on the tokenizer and on how much of the text stands before each token,
   so compare only figures made alike.

   Without --documents: llama.cpp's method, so that figures compare with its own. The text's tokens (control tokens
   like <|eot_id|> are text there) are cut into chunks of n_ctx (-c, 512); what is left at the end is not used. If the
   model wants a begin token, it stands in front of the first chunk and replaces the first token of the others. The
   second half of each chunk is scored, tokens n_ctx / 2 + 1 to n_ctx - 1, so that each has half a chunk before it. A
   text of less than two chunks is refused, as there.

   With --documents: the text is documents that end in <|end_of_text|>. Each is evaluated by itself, after the begin
   token if the model wants one, and all its tokens are scored, the end token too (the model's own, if it has none by
   that name). Without a begin token nothing stands before a document's first token, which is then not scored. Control
   tokens in the text are read as such. Documents longer than n_ctx (-c; here the training context, at most 4096) are
   cut to n_ctx tokens, begin and end token counted. One newline behind an end token is the file's, not the next
   document's, as tools/train.c reads it.

   One newline at the end of the file is dropped in either mode, as llama.cpp does with -f. A file with NUL bytes is
   refused: it is no text, or UTF-16.

   +/- is the standard error of the mean of ln p, times the perplexity (the first-order error of e^mean), with tokens
   taken as independent: as llama.cpp has it. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include <math.h>

#define DEFAULT_CHUNK 512            /* n_ctx of chunks, as in llama.cpp */
#define MAX_DOCUMENT 4096            /* default n_ctx of documents, if the model was trained on more */
#define END_TEXT "<|end_of_text|>"

/* -------------------------------------------------------------------------------------------- arithmetic
   The logits are the same bits for every kernel set, thread count and batch, so what is made of them here must be too:
   doubles, in an order that the source fixes. exp and log are our own, since those of two C libraries may differ in
   the last bit; the compiler may fuse a product and a sum, which is worth some 1e-16 and far below what is printed. */

#define LN2 0.69314718055994530942
#define LANES 8                      /* sums that run beside each other: one would wait for every addition */

/* e^x to 1e-15 for x from -700 to 700; beyond that as at the nearer end. */
static inline double exp_of(double x)
{
    static const double c[] = {1.0 / 6227020800.0, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                               1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0};
    double r, p, scale;
    int64_t bits;
    int i, k;
    x = x > -700.0 ? x : -700.0;
    x = x < 700.0 ? x : 700.0;
    i = (int)(x * (1.0 / LN2) + (x < 0 ? -0.5 : 0.5));   /* x = i ln 2 + r, |r| < 0.35 */
    r = x - i * 6.93147180369123816490e-01;              /* ln 2 in two parts: i times the first, 33 bits, is exact */
    r = r - i * 1.90821492927058770002e-10;
    p = c[0];                                            /* Taylor up to r^13 / 13!; what comes next is below 5e-18 */
    for (k = 1; k < CLI_COUNT(c); k++) p = p * r + c[k];
    bits = (int64_t)(i + 1023) << 52;                    /* 2^i */
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* ln x to 1e-15 for x from 1 to 1e300: Halley's iteration, which cubes the error. */
static double log_of(double x)
{
    double y = 0.0, rest = x;
    int k;
    for (; rest > 1.5; rest *= 0.5) y += LN2;            /* an error of at most 0.41, then 6e-3, 2e-8, 1e-24 */
    for (k = 0; k < 4; k++) {
        const double e = exp_of(y);
        y += 2.0 * (x - e) / (x + e);
    }
    return y;
}

/* -ln of the probability that softmax over logits [n] gives to token. */
static double surprise(const float *logits, int n, int32_t token)
{
    double sum[LANES] = {0}, max = (double)logits[0];
    int i, k;
    for (i = 1; i < n; i++) max = (double)logits[i] > max ? (double)logits[i] : max;
    for (i = 0; i + LANES <= n; i += LANES)
        for (k = 0; k < LANES; k++) sum[k] += exp_of((double)logits[i + k] - max);
    for (k = 0; i + k < n; k++) sum[k] += exp_of((double)logits[i + k] - max);
    for (k = LANES / 2; k >= 1; k /= 2)
        for (i = 0; i < k; i++) sum[i] += sum[i + k];
    return log_of(sum[0]) - ((double)logits[token] - max);
}

/* What the tokens scored so far cost. */
typedef struct score {
    int64_t n;
    double mean, spread;             /* of v = -ln p, and the sum of (v - mean)^2 */
    const int32_t *next;             /* next[i]: the token that row i of the evaluation at hand predicts */
    int n_vocab;
} score;

static double score_ppl(const score *s) { return exp_of(s->mean); }

/* The error of score_ppl, if n is 2 or more. */
static double score_error(const score *s)
{
    const double n = (double)s->n;
    return sqrt(s->spread / n / (n - 1)) * score_ppl(s);
}

static int on_row(void *user, int i, const float *logits)
{
    score *s = (score *)user;
    const double v = surprise(logits, s->n_vocab, s->next[i]);
    const double from_mean = v - s->mean;
    s->n++;
    s->mean += from_mean / (double)s->n;                 /* Welford: the sum of v^2 less n mean^2 would cancel digits */
    s->spread += from_mean * (v - s->mean);
    return 0;
}

/* ------------------------------------------------------------------------------------------------- the text */

/* Tokens that are evaluated together, by themselves: a chunk or a document. */
typedef struct piece { int64_t start; int n; } piece;

typedef struct corpus {
    int32_t *id;                     /* [n] */
    int64_t n, capacity;
    piece *pieces;                   /* [n_pieces] */
    int n_pieces, piece_capacity;
    int first;                       /* the first row of a piece whose prediction is scored */
    int n_cut, unended;              /* documents cut to n_ctx; 1: the last document has no end token */
    int64_t n_unused;                /* tokens at the end that fill no chunk */
} corpus;

static void add_token(corpus *c, int32_t id)
{
    if (c->n == c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : 1024;
        c->id = (int32_t *)cli_realloc(c->id, (size_t)c->capacity * sizeof *c->id);
    }
    c->id[c->n++] = id;
}

static void add_text(corpus *c, const bitnet_model *model, const char *text, size_t size, int flags)
{
    int64_t room = (int64_t)size + 16;                   /* a token is at least a byte; the call says if it is not */
    for (;;) {
        int64_t n;
        if (c->capacity - c->n < room) {
            c->capacity = c->n + room;
            c->id = (int32_t *)cli_realloc(c->id, (size_t)c->capacity * sizeof *c->id);
        }
        n = bitnet_tokenize(model, text, size, c->id + c->n, room, flags);
        if (n < 0) cli_fail("cannot tokenize the text: %s", bitnet_result_text((bitnet_result)n));
        if (n <= room) {
            c->n += n;
            return;
        }
        room = n;
    }
}

static void add_piece(corpus *c, int64_t start, int n)
{
    if (c->n_pieces == c->piece_capacity) {
        if (c->piece_capacity > INT_MAX / 2) cli_fail("too many documents");
        c->piece_capacity = c->piece_capacity ? 2 * c->piece_capacity : 64;
        c->pieces = (piece *)cli_realloc(c->pieces, (size_t)c->piece_capacity * sizeof *c->pieces);
    }
    c->pieces[c->n_pieces].start = start;
    c->pieces[c->n_pieces].n = n;
    c->n_pieces++;
}

/* The token that the model wants in front of a text, or -1: a tokenized empty text shows it. */
static int32_t begin_token(const bitnet_model *model)
{
    bitnet_model_info info;
    int32_t id[4] = {-1, -1, -1, -1};
    const int64_t n = bitnet_tokenize(model, "", 0, id, CLI_COUNT(id), BITNET_TOKENIZE_BOS);
    bitnet_model_get_info(model, &info);
    if (n < 0) cli_fail("cannot tokenize: %s", bitnet_result_text((bitnet_result)n));
    return n > 0 && id[0] == info.bos ? id[0] : -1;
}

static void make_chunks(corpus *c, const bitnet_model *model, const char *text, size_t size, int n_ctx)
{
    const int32_t begin = begin_token(model);
    int64_t at;
    if (begin >= 0) add_token(c, begin);
    add_text(c, model, text, size, 0);
    if (c->n < 2 * (int64_t)n_ctx)
        cli_fail("the text has %.0f tokens, and chunks of %d need at least two of them, %.0f tokens; give more text, "
                 "-c %.0f or less, or --documents", (double)c->n, n_ctx, 2.0 * n_ctx, (double)(c->n / 2));
    if (c->n / n_ctx > INT_MAX) cli_fail("too many chunks");
    for (at = 0; at + n_ctx <= c->n; at += n_ctx) {
        if (begin >= 0) c->id[at] = begin;
        add_piece(c, at, n_ctx);
    }
    c->first = n_ctx / 2;
    c->n_unused = c->n - at;
}

/* Where the next END_TEXT begins in text [size], or size. */
static size_t find_end(const char *text, size_t size)
{
    const size_t n = sizeof END_TEXT - 1;
    size_t i;
    for (i = 0; i + n <= size; i++)
        if (text[i] == END_TEXT[0] && memcmp(text + i, END_TEXT, n) == 0) return i;
    return size;
}

static void make_documents(corpus *c, const bitnet_model *model, const char *text, size_t size, int n_ctx)
{
    const int32_t begin = begin_token(model);
    int32_t end = bitnet_token_find(model, END_TEXT);
    bitnet_model_info info;
    bitnet_model_get_info(model, &info);
    if (end < 0) end = info.eos;
    if (end < 0) cli_fail("--documents: the model has no end-of-text token");
    while (size) {
        const size_t length = find_end(text, size);
        const int64_t start = c->n;
        int64_t n;
        if (begin >= 0) add_token(c, begin);
        add_text(c, model, text, length, BITNET_TOKENIZE_SPECIAL);
        if (length < size) {
            add_token(c, end);
            text += length + sizeof END_TEXT - 1;
            size -= length + sizeof END_TEXT - 1;
            if (size && *text == '\n') {
                text++;
                size--;
            }
        } else {
            c->unended = 1;
            size = 0;
        }
        n = c->n - start;
        if (n > n_ctx) {
            n = n_ctx;
            c->n_cut++;
        }
        add_piece(c, start, (int)n);
    }
}

/* The bytes of a text file, without one newline at the end. Exits 1 if there is no text. */
static char *read_text(const char *path, size_t *size)
{
    char *text = cli_read_file(path, size);
    const char *nul;
    if (!text) cli_fail("cannot read %s: %s", path, strerror(errno));
    nul = (const char *)memchr(text, 0, *size);
    if (nul) cli_fail("%s is not a text file: byte %.0f is NUL", path, (double)(nul - text));
    if (*size && text[*size - 1] == '\n') --*size;
    if (*size == 0) cli_fail("%s is empty", path);
    return text;
}

/* ----------------------------------------------------------------------------------------------- evaluation */

typedef struct arguments {
    cli_model_args model;
    const char *file;
    int n_ctx, n_batch, documents, progress;
} arguments;

typedef struct evaluation {
    bitnet_engine *engine;
    bitnet_session *session;
    const char *noun;                /* "chunk" or "document" */
    int lines;                       /* progress as lines, a terminal or not */
    int64_t n_total, n_done;         /* tokens to evaluate, and evaluated */
    double started, shown;           /* seconds */
} evaluation;

static void create(const arguments *a, const bitnet_model *model, evaluation *e)
{
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    bitnet_error err;
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    memset(&err, 0, sizeof err);
    engine.n_ctx = session.n_ctx = a->n_ctx;
    engine.n_batch = a->n_batch < a->n_ctx ? a->n_batch : a->n_ctx;    /* scripts say -b 2048; more is never used */
    engine.n_threads = cli_threads(&a->model);
    if (bitnet_engine_create(model, &engine, &e->engine, &err) != BITNET_OK) cli_fail_with("engine", &err);
    if (bitnet_session_create(e->engine, &session, &e->session, &err) != BITNET_OK) cli_fail_with("session", &err);
}

/* A line that rewrites itself, ten times a second at most; or one line for each piece. */
static void show_progress(evaluation *e, int i, int n, const score *s)
{
    const double now = cli_seconds(), past = now - e->started;
    const int terminal = !e->lines && cli_is_terminal(stderr);
    if (!s->n || (!e->lines && (!terminal || now - e->shown < 0.1))) return;
    e->shown = now;
    fprintf(stderr, "%s%s %d of %d, PPL %.4f, %.0f s left%s", terminal ? "\r" : "", e->noun, i, n, score_ppl(s),
            past * (double)(e->n_total - e->n_done) / (double)e->n_done, terminal ? "\033[K" : "\n");
    fflush(stderr);
}

/* Adds the tokens id [n] to s, from the prediction of row first on. The last token needs no evaluation, and the rows
   before first no logits. */
static void score_piece(evaluation *e, const int32_t *id, int n, int first, score *s)
{
    bitnet_error err;
    bitnet_result result;
    memset(&err, 0, sizeof err);
    if (n - 1 <= first) return;
    s->next = id + first + 1;
    result = bitnet_session_rewind(e->session, 0);
    if (result == BITNET_OK && first) result = bitnet_eval(e->session, id, first, NULL, NULL, &err);
    if (result == BITNET_OK) result = bitnet_eval(e->session, id + first, n - 1 - first, on_row, s, &err);
    err.code = result;
    if (result != BITNET_OK) cli_fail_with("evaluation", &err);
    e->n_done += n - 1;
}

static void score_corpus(evaluation *e, const corpus *c, score *s)
{
    int i;
    for (i = 0; i < c->n_pieces; i++)
        if (c->pieces[i].n - 1 > c->first) e->n_total += c->pieces[i].n - 1;
    e->started = e->shown = cli_seconds();
    for (i = 0; i < c->n_pieces; i++) {
        score_piece(e, c->id + c->pieces[i].start, c->pieces[i].n, c->first, s);
        show_progress(e, i + 1, c->n_pieces, s);
    }
    if (!e->lines && cli_is_terminal(stderr)) fprintf(stderr, "\r\033[K");
}

/* ---------------------------------------------------------------------------------------------------- main */

static void parse(arguments *a, int argc, char **argv, const char *name)
{
    const cli_option options[] = {
        {"-m --model", CLI_STRING, &a->model.path, "FILE", "the model", 0, 0},
        {"-f --file", CLI_STRING, &a->file, "FILE", "the text; -: stdin", 0, 0},
        {"--documents", CLI_FLAG, &a->documents, NULL, "the text is documents that end in " END_TEXT ": score each\n"
         "by itself, from its first token on", 0, 0},
        {"-c --ctx --ctx-size", CLI_INT, &a->n_ctx, "N", "tokens of a chunk (0: 512), or most tokens of a document\n"
         "(0: the training context, at most 4096)", 0, INT_MAX},
        {"--progress", CLI_FLAG, &a->progress, NULL, "a line on stderr after each chunk or document, no terminal\n"
         "needed", 0, 0},
        {NULL, CLI_HEADING, NULL, NULL, "Settings that change no digit of the result", 0, 0},
        CLI_MODEL_OPTIONS(a->model)
        {"-b --batch --batch-size", CLI_INT, &a->n_batch, "N", "most tokens of one pass; 0: the engine's default", 0,
         INT_MAX},
        {"-ngl --gpu-layers --n-gpu-layers -ub --ubatch-size -tb --threads-batch -ctk --cache-type-k -ctv "
         "--cache-type-v --numa --poll --prio -mg --main-gpu -sm --split-mode -ts --tensor-split -dev --device -s "
         "--seed --log-file", CLI_IGNORED_VALUE, NULL, NULL, NULL, 0, 0},
        {"-fa --flash-attn", CLI_IGNORED_SWITCH, NULL, NULL, NULL, 0, 0},
        {"--perplexity --mmap --perf --no-perf --warmup --no-warmup --log-disable -v --verbose -nkvo --no-kv-offload",
         CLI_IGNORED, NULL, NULL, NULL, 0, 0},
    };
    const cli_program program = {
        name, "-m MODEL -f FILE [options]", "How well a model predicts a text: \"Final estimate: PPL = x +/- "
        "y\" on stdout.",
        "Without --documents as llama.cpp does it: chunks of -c tokens, of which the second half is scored.",
        options, CLI_COUNT(options), 0, 0};
    cli_parse(&program, argc, argv, NULL);
    cli_check_model_args(&a->model);
    if (!a->model.path) cli_usage("which model? usage: %s %s", name, program.usage);
    if (!a->file) cli_usage("which text? usage: %s %s", name, program.usage);
    if (a->n_ctx && a->n_ctx < (a->documents ? 2 : 3))
        cli_usage("-c %d: too short to score a token; at least %d", a->n_ctx, a->documents ? 2 : 3);
}

/* Resolves the default of n_ctx, and exits if the model cannot do what is asked. */
static void check_model(arguments *a, const bitnet_model_info *info)
{
    const int limit = a->documents ? MAX_DOCUMENT : DEFAULT_CHUNK;
    if (info->pooling) cli_fail("%s is an embedding model: its logits predict no text", a->model.path);
    if (a->n_ctx > info->n_ctx_train)
        cli_usage("-c %d: the model was trained on at most %d tokens", a->n_ctx, info->n_ctx_train);
    if (!a->n_ctx) a->n_ctx = info->n_ctx_train < limit ? info->n_ctx_train : limit;
    if (a->n_ctx < (a->documents ? 2 : 3)) cli_fail("a training context of %d is too short", info->n_ctx_train);
}

static void summarize(const evaluation *e, const corpus *c, const score *s, const arguments *a)
{
    const double seconds = cli_seconds() - e->started;
    cli_message("%.0f tokens scored in %d %s%s of %s%d; %.0f evaluated in %.2f s, %.1f tokens/s", (double)s->n,
                c->n_pieces, e->noun, c->n_pieces == 1 ? "" : "s", a->documents ? "at most " : "", a->n_ctx,
                (double)e->n_done, seconds, seconds > 0 ? (double)e->n_done / seconds : 0.0);
    if (c->n_unused) cli_message("%.0f tokens at the end fill no chunk and were not used", (double)c->n_unused);
    if (c->n_cut) cli_message("%d documents were longer than %d tokens and were cut", c->n_cut, a->n_ctx);
    if (c->unended) cli_message("no " END_TEXT " at the end of the text: the last document was scored without it");
}

int main(int argc, char **argv)
{
    arguments a;
    evaluation e;
    corpus c;
    score s;
    bitnet_model *model;
    bitnet_model_info info;
    char called[64], *text;
    const char *name = "perplexity";
    size_t size = 0;
    memset(&a, 0, sizeof a);
    memset(&e, 0, sizeof e);
    memset(&c, 0, sizeof c);
    memset(&s, 0, sizeof s);
    cli_called_as_llama(argc, argv, called, &name);
    parse(&a, argc, argv, name);
    text = read_text(a.file, &size);
    model = cli_open_model(&a.model, 0);
    bitnet_model_get_info(model, &info);
    check_model(&a, &info);
    if (a.documents) make_documents(&c, model, text, size, a.n_ctx);
    else make_chunks(&c, model, text, size, a.n_ctx);
    free(text);
    create(&a, model, &e);
    e.noun = a.documents ? "document" : "chunk";
    e.lines = a.progress;
    s.n_vocab = info.n_vocab;
    score_corpus(&e, &c, &s);
    summarize(&e, &c, &s, &a);
    if (s.n < 2) cli_fail("%.0f tokens were scored, and an estimate with its error needs two", (double)s.n);
    if (s.mean > 700) cli_fail("the perplexity is over 1e304");
    printf("Final estimate: PPL = %.4f +/- %.5f\n", score_ppl(&s), score_error(&s));
    free(c.id);
    free(c.pieces);
    bitnet_session_destroy(e.session);
    bitnet_engine_destroy(e.engine);
    bitnet_model_close(model);
    return cli_finish_output();
}
