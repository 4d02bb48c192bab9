/* logits: what a model answers to given tokens, as numbers.

       cc -O2 -I. tools/logits.c -o logits -lpthread -lm
       ./logits model.gguf --tokens 1,2,3                  the ten likeliest next tokens
       ./logits model.gguf --tokens @ids.txt --all -o rows.f32
       ./logits model.gguf --tokens 1,2,3 --hash           one number to compare builds, machines and settings by

   No begin token is added: the tokens are the whole input. -o writes little-endian float32: [n_vocab] for the last
   token, [n, n_vocab] with --all, [n_embd] with --embed.

   bitnet.h promises the same bits for every kernel set, thread count, batch size and company. This program is how to
   check that: --hash must not change with --kernels, --threads, --batch, --company or --repeat. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/show.h"

#define TOP 10                       /* tokens shown to a person */
#define COMPANY_CTX 256              /* context of the sessions that keep ours company */
#define MAX_COMPANY 64

/* ------------------------------------------------------------------------------------------------- output */

/* Where rows go: a file, a hash, or nowhere. */
typedef struct output {
    const char *path;                /* NULL: no file */
    char *beside;                    /* the name it has until it is complete; NULL: written in place */
    FILE *file;
    uint64_t hash;                   /* FNV-1a over the little-endian bytes of all rows */
    int n_values;                    /* floats per row */
    uint64_t n_rows;
} output;

static void output_open(output *o, const char *path, int n_values)
{
    memset(o, 0, sizeof *o);
    o->path = path;
    o->hash = UINT64_C(0xcbf29ce484222325);
    o->n_values = n_values;
    if (!path) return;
    if (strcmp(path, "-") == 0) {
        o->file = stdout;
        return;
    }
    if (!cli_is_special(path)) {
        o->beside = (char *)cli_alloc(strlen(path) + 6);
        sprintf(o->beside, "%s.part", path);
    }
    o->file = fopen(o->beside ? o->beside : path, "wb");
    if (!o->file) cli_fail("cannot write %s: %s", path, strerror(errno));
}

/* Ends the program (exit 1) without leaving half a file. */
static void give_up(output *o, const char *what, const bitnet_error *err)
{
    if (o->beside) remove(o->beside);
    cli_fail_with(what, err);
}

static void output_row(output *o, const float *row)
{
    unsigned char bytes[4096];
    int i = 0;
    while (i < o->n_values) {
        size_t n = 0, k;
        for (; n < sizeof bytes && i < o->n_values; i++, n += 4) {
            uint32_t bits;                     /* no private call with a float: gcc -m32 passes those differently */
            memcpy(&bits, row + i, sizeof bits);
            bni_store_u32(bytes + n, bits);
        }
        for (k = 0; k < n; k++) o->hash = (o->hash ^ bytes[k]) * UINT64_C(0x100000001b3);
        if (o->file) fwrite(bytes, 1, n, o->file);
    }
    o->n_rows++;
}

static void output_close(output *o)
{
    int bad;
    if (!o->file || o->file == stdout) return;
    errno = 0;
    bad = ferror(o->file);
    if (fclose(o->file) != 0) bad = 1;
#if defined(_WIN32)
    if (!bad && o->beside) remove(o->path);
#endif
    if (!bad && o->beside && rename(o->beside, o->path) != 0) bad = 1;
    if (bad) {
        const int why = errno;
        if (o->beside) remove(o->beside);
        cli_fail("cannot write %s: %s", o->path, strerror(why ? why : EIO));
    }
    free(o->beside);
}

/* ------------------------------------------------------------------------------------------------- tokens */

typedef struct tokens { int32_t *id; int n; } tokens;

/* Ids separated by commas or blanks; text "@FILE": the file's content, "@-": stdin's. Exits 2 on anything else. */
static tokens read_tokens(const char *text)
{
    tokens t = {NULL, 0};
    char *file = NULL;
    int capacity = 0;
    if (*text == '@') {
        size_t size = 0;
        file = cli_read_file(text + 1, &size);
        if (!file) cli_fail("cannot read %s: %s", text + 1, strerror(errno));
        if (strlen(file) != size) cli_fail("%s: not a list of token ids", text + 1);
        text = file;
    }
    for (text += strspn(text, ", \t\r\n"); *text; text += strspn(text, ", \t\r\n")) {
        const int length = (int)strcspn(text, ", \t\r\n");
        char *end;
        long long v;
        errno = 0;
        v = strtoll(text, &end, 10);
        if (end != text + length || length > 24)
            cli_usage("--tokens: '%.*s' (number %d of the list) is not a token id", length < 40 ? length : 40, text,
                      t.n + 1);
        if (v < 0 || v > INT32_MAX || errno)
            cli_usage("--tokens: %.*s (number %d of the list) cannot be a token id", length, text, t.n + 1);
        if (t.n == capacity) {
            if (capacity > INT_MAX / 8) cli_usage("--tokens: too many");
            capacity = capacity ? 2 * capacity : 256;
            t.id = (int32_t *)cli_realloc(t.id, (size_t)capacity * sizeof *t.id);
        }
        t.id[t.n++] = (int32_t)v;
        text = end;
    }
    free(file);
    if (t.n == 0) cli_usage("--tokens: the list is empty");
    return t;
}

static void check_tokens(const tokens *t, int n_vocab)
{
    int i;
    for (i = 0; i < t->n; i++)
        if (t->id[i] >= n_vocab)
            cli_usage("--tokens: %d (number %d of the list) is outside the vocabulary, 0 to %d", (int)t->id[i], i + 1,
                      n_vocab - 1);
}

/* ------------------------------------------------------------------------------------------------ company
   Other sessions of the same engine, with prompts of their own, that generate while ours is evaluated. They share its
   passes over the weights, in ever changing numbers, and must not change one bit of its result. */

typedef struct company {
    bitnet_session *session[MAX_COMPANY];
    bitnet_generation generation[MAX_COMPANY];
    int n, n_vocab;
    uint32_t random;
} company;

/* Begins a conversation of companion i that has nothing to do with any other: 1 to 40 random tokens, random text. */
static void company_begin(company *c, int i)
{
    int32_t prompt[40];
    int n, k;
    bitnet_result result;
    for (k = 0; k < 40; k++) {
        c->random = c->random * 1664525u + 1013904223u;             /* Numerical Recipes' generator */
        prompt[k] = (int32_t)((c->random >> 8) % (uint32_t)c->n_vocab);
    }
    n = 1 + (int)((c->random >> 16) % 40);
    bitnet_session_rewind(c->session[i], 0);
    result = bitnet_begin(c->session[i], prompt, n, &c->generation[i]);
    if (result != BITNET_OK) cli_fail("company: %s", bitnet_result_text(result));
}

static void company_start(company *c, bitnet_engine *engine, int n, int n_vocab)
{
    int i;
    memset(c, 0, sizeof *c);
    c->n = n;
    c->n_vocab = n_vocab;
    c->random = 12345;
    for (i = 0; i < n; i++) {
        bitnet_session_desc desc;
        bitnet_error err;
        memset(&desc, 0, sizeof desc);
        memset(&err, 0, sizeof err);
        desc.n_ctx = COMPANY_CTX;
        if (bitnet_session_create(engine, &desc, &c->session[i], &err) != BITNET_OK) cli_fail_with("company", &err);
        c->generation[i].sampling.temperature = 0.8f;
        c->generation[i].sampling.top_k = 40;
        c->generation[i].sampling.seed = (uint64_t)i;
        c->generation[i].max_tokens = 3 + 5 * i;
        c->generation[i].ignore_end = 1;
        company_begin(c, i);
    }
}

/* Fetches what the companions said, so that they go on; those that are done begin anew. */
static void company_listen(company *c)
{
    bitnet_event event;
    int i;
    for (i = 0; i < c->n; i++)
        while (bitnet_next_event(c->session[i], &event))
            if (event.type == BITNET_EVENT_DONE) {
                if (event.reason == BITNET_DONE_ERROR) cli_fail_with("company", event.error);
                company_begin(c, i);
            }
}

static void company_end(company *c, bitnet_engine *engine)
{
    int i;
    if (c->n) bitnet_finish(engine);
    for (i = 0; i < c->n; i++) bitnet_session_destroy(c->session[i]);
}

/* ---------------------------------------------------------------------------------------------- evaluation */

typedef struct evaluation {
    bitnet_engine *engine;
    bitnet_session *session;
    company friends;
    tokens input;
    int all, embed;
    int n_embd;
} evaluation;

static int on_row(void *user, int i, const float *logits)
{
    (void)i;
    output_row((output *)user, logits);
    return 0;
}

/* The last token's logits, by the calls that a game or a server would make: ours is one session among others. */
static void step_in_company(evaluation *e, output *out)
{
    bitnet_event event;
    bitnet_error err;
    int done = 0;
    memset(&err, 0, sizeof err);
    err.code = bitnet_begin(e->session, e->input.id, e->input.n, NULL);
    while (err.code == BITNET_OK && !done) {
        err.code = bitnet_step(e->engine, BITNET_NO_BUDGET);
        company_listen(&e->friends);
        while (bitnet_next_event(e->session, &event))
            if (event.type == BITNET_EVENT_DONE) {
                done = 1;
                if (event.reason == BITNET_DONE_ERROR) err = *event.error;
            }
        if (err.code == BITNET_IDLE) {
            err.code = done ? BITNET_OK : BITNET_ERROR_ARGUMENT;
            if (!done) strcpy(err.text, "the engine is idle, but the prompt is not done");
        }
    }
    if (err.code != BITNET_OK) give_up(out, "evaluation", &err);
    bitnet_finish(e->engine);
}

/* All rows' logits in company: in pieces of changing size, with the companions heard in between. */
static void eval_in_company(evaluation *e, output *out)
{
    bitnet_error err;
    int at = 0, piece = 1;
    memset(&err, 0, sizeof err);
    while (at < e->input.n) {
        const int n = piece < e->input.n - at ? piece : e->input.n - at;
        err.code = bitnet_eval(e->session, e->input.id + at, n, on_row, out, &err);
        if (err.code != BITNET_OK) give_up(out, "evaluation", &err);
        company_listen(&e->friends);
        at += n;
        piece = piece % 5 + 1;
    }
    bitnet_finish(e->engine);
}

/* Sends every row that was asked for to out; row: a copy of the last one [n_vocab or n_embd]. */
static void evaluate(evaluation *e, output *out, float *row)
{
    bitnet_error err;
    const float *last;
    bitnet_result result = bitnet_session_rewind(e->session, 0);
    memset(&err, 0, sizeof err);
    if (result != BITNET_OK) {
        err.code = result;
        give_up(out, "rewind", &err);
    }
    if (e->embed) {
        result = bitnet_embed(e->session, e->input.id, e->input.n, row, &err);
        if (result == BITNET_OK) output_row(out, row);
    } else if (e->friends.n) {
        if (e->all) eval_in_company(e, out);
        else step_in_company(e, out);
    } else {
        result = bitnet_eval(e->session, e->input.id, e->input.n, e->all ? on_row : NULL, out, &err);
    }
    if (result != BITNET_OK) {
        err.code = result;
        give_up(out, "evaluation", &err);
    }
    if (e->embed) return;
    last = bitnet_logits(e->session);
    if (last) {
        memcpy(row, last, (size_t)out->n_values * sizeof *row);
    } else {
        err.code = BITNET_ERROR_ARGUMENT;
        strcpy(err.text, "the session has no logits after the evaluation");
        give_up(out, "evaluation", &err);
    }
    if (!e->all) output_row(out, row);
}

/* ------------------------------------------------------------------------------------------- for a person */

static void print_top(const bitnet_model *model, const float *logits, int n_vocab)
{
    int top[TOP], n = 0, i, k;
    for (i = 0; i < n_vocab; i++) {                      /* insertion into a short sorted list; ties: lower id first */
        for (k = n; k > 0 && logits[top[k - 1]] < logits[i]; k--)
            if (k < TOP) top[k] = top[k - 1];
        if (k < TOP) {
            top[k] = i;
            if (n < TOP) n++;
        }
    }
    printf("   token      logit  text\n");
    for (i = 0; i < n; i++) {
        char text[256];
        const int32_t id = top[i];
        const int64_t size = bitnet_detokenize(model, &id, 1, text, sizeof text, BITNET_DETOKENIZE_SPECIAL);
        printf("%8d %10.4f  \"", top[i], (double)logits[top[i]]);
        if (size > 0) show_text(stdout, text, (size_t)size < sizeof text ? (size_t)size : sizeof text, 60);
        printf("\"\n");
    }
}

static void print_embedding(const float *v, int n)
{
    const int shown = n < 8 ? n : 8;
    int i;
    for (i = 0; i < shown; i++) printf("%s%.6f", i ? ", " : "[", (double)v[i]);
    printf(n > shown ? ", ...] %d numbers; -o FILE writes them all\n" : "] %d numbers\n", n);
}

/* ---------------------------------------------------------------------------------------------------- main */

typedef struct arguments {
    cli_model_args model;
    const char *tokens, *out;
    int all, embed, batch, ctx, company, hash, repeat;
} arguments;

static void parse(arguments *a, int argc, char **argv)
{
    const cli_option options[] = {
        {"--tokens", CLI_STRING, &a->tokens, "IDS", "1,2,3 or @FILE (@-: stdin); no begin token is added", 0, 0},
        {"--all", CLI_FLAG, &a->all, NULL, "the logits of every token, not only of the last", 0, 0},
        {"--embed", CLI_FLAG, &a->embed, NULL, "the embedding of the whole input instead of logits", 0, 0},
        {"-o --output", CLI_STRING, &a->out, "FILE", "write the rows as little-endian float32; -: stdout", 0, 0},
        {"--hash", CLI_FLAG, &a->hash, NULL, "print a 64-bit hash (FNV-1a) of the rows' bytes", 0, 0},
        {"-c --ctx --ctx-size", CLI_INT, &a->ctx, "N", "context of the session; 0: as many tokens as given", 0,
         INT_MAX},
        {NULL, CLI_HEADING, NULL, NULL, "Settings that must not change one bit", 0, 0},
        CLI_MODEL_OPTIONS(a->model)
        {"-b --batch --batch-size", CLI_INT, &a->batch, "N", "most tokens of one pass; 0: the engine's default", 0,
         1 << 20},
        {"--company", CLI_INT, &a->company, "N", "N other sessions generate on the same engine", 0, MAX_COMPANY},
        {"--repeat", CLI_FLAG, &a->repeat, NULL, "evaluate twice and fail if the results differ", 0, 0},
    };
    const cli_program program = {
        "logits", "MODEL --tokens IDS [options]", "What a model answers to given tokens, as numbers.",
        "Without -o and --hash: the ten likeliest next tokens, for a person.", options, CLI_COUNT(options), 0, 1};
    cli_parse(&program, argc, argv, &a->model.path);
    cli_check_model_args(&a->model);
    if (!a->model.path) cli_usage("which model? usage: logits %s", program.usage);
    if (!a->tokens) cli_usage("which tokens? usage: logits %s", program.usage);
    if (a->all && a->embed) cli_usage("--all and --embed exclude each other");
}

static void create(const arguments *a, const bitnet_model *model, int n, evaluation *e)
{
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    bitnet_error err;
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    memset(&err, 0, sizeof err);
    session.n_ctx = a->ctx ? a->ctx : n;
    engine.n_ctx = a->company && session.n_ctx < COMPANY_CTX ? COMPANY_CTX : session.n_ctx;
    engine.n_batch = a->batch;
    engine.n_threads = a->model.n_threads > 0 ? a->model.n_threads : 0;
    if (bitnet_engine_create(model, &engine, &e->engine, &err) != BITNET_OK) cli_fail_with("engine", &err);
    if (bitnet_session_create(e->engine, &session, &e->session, &err) != BITNET_OK) cli_fail_with("session", &err);
}

int main(int argc, char **argv)
{
    arguments a;
    evaluation e;
    output out, again;
    bitnet_model *model;
    bitnet_model_info info;
    float *row;
    memset(&a, 0, sizeof a);
    memset(&e, 0, sizeof e);
    parse(&a, argc, argv);
    e.input = read_tokens(a.tokens);
    e.all = a.all;
    e.embed = a.embed;
    model = cli_open_model(&a.model, 0);
    bitnet_model_get_info(model, &info);
    check_tokens(&e.input, info.n_vocab);
    create(&a, model, e.input.n, &e);
    company_start(&e.friends, e.engine, a.company, info.n_vocab);
    row = (float *)cli_alloc((size_t)(a.embed ? info.n_embd : info.n_vocab) * sizeof *row);
    output_open(&out, a.out, a.embed ? info.n_embd : info.n_vocab);
    evaluate(&e, &out, row);
    output_close(&out);
    if (a.repeat) {
        output_open(&again, NULL, out.n_values);
        evaluate(&e, &again, row);
        if (again.hash != out.hash)
            cli_fail("the second evaluation differs from the first: %016llx, %016llx", (unsigned long long)again.hash,
                     (unsigned long long)out.hash);
    }
    if (a.hash) fprintf(out.file == stdout ? stderr : stdout, "%016llx\n", (unsigned long long)out.hash);
    if (!a.out && !a.hash && a.embed) print_embedding(row, info.n_embd);
    if (!a.out && !a.hash && !a.embed) print_top(model, row, info.n_vocab);
    free(row);
    free(e.input.id);
    company_end(&e.friends, e.engine);
    bitnet_session_destroy(e.session);
    bitnet_engine_destroy(e.engine);
    bitnet_model_close(model);
    return cli_finish_output();
}
