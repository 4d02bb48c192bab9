/* talk.h: what generate and chat share: the options that set up a model and its sampling, one generation from its
   first event to its last, and the turns of a conversation.

   Everything here is made of public calls of bitnet.h; read talk_run first, it is the loop that every program that
   streams text has at its heart. */
#ifndef BITNET_TALK_H
#define BITNET_TALK_H

#include "../tools/cli.h"

/* ---------------------------------------------------------------------------------------------- options */

/* The numbers of the command line, in llama-cli's terms. */
typedef struct talk_options {
    cli_model_args model;
    int n_ctx;                       /* -1: min(training context, 4096); 0: the training context */
    int n_batch;                     /* a hint, see talk_batch */
    int n_predict;                   /* below 0: until the model ends or the context is full */
    int ignore_end, show_special;
    double temperature, top_p, min_p, repeat_penalty, frequency_penalty, presence_penalty;
    int top_k, repeat_last_n;
    uint64_t seed;                   /* all ones: a random one */
    const char *system;              /* instructions for the assistant; NULL: none */
    cli_strings stops;
} talk_options;

/* llama-cli's defaults. */
static talk_options talk_defaults(void)
{
    talk_options o;
    memset(&o, 0, sizeof o);
    o.n_ctx = -1;
    o.n_predict = -1;
    o.temperature = 0.8;
    o.top_k = 40;
    o.top_p = 0.95;
    o.min_p = 0.05;
    o.repeat_penalty = 1;
    o.repeat_last_n = 64;
    o.seed = UINT64_MAX;
    return o;
}

/* Rows of an option table; the last comma is part of it. */
#define TALK_OPTIONS(o) \
    {NULL, CLI_HEADING, NULL, NULL, "Model", 0, 0}, \
    {"-m --model", CLI_STRING, &(o).model.path, "FILE", "the model, a GGUF file", 0, 0}, \
    CLI_MODEL_OPTIONS((o).model) \
    {"-c --ctx-size", CLI_INT, &(o).n_ctx, "N", "tokens of context, prompt and answer together; at most the\n" \
     "training context; 0: the training context (default: 4096 of it)", 0, INT_MAX}, \
    {"-b --batch-size", CLI_INT, &(o).n_batch, "N", "prompt tokens per pass over the weights: a hint", 0, INT_MAX}, \
    {"--chat-template", CLI_STRING, &(o).model.chat_template, "NAME", "use this template, not the file's", 0, 0}, \
    {NULL, CLI_HEADING, NULL, NULL, "Sampling", 0, 0}, \
    {"-n --predict --n-predict", CLI_INT, &(o).n_predict, "N", \
     "tokens to generate; -1: until the model ends (default)", -2, INT_MAX}, \
    {"-s --seed", CLI_U64, &(o).seed, "N", "seed; the same seed gives the same text (default -1: random)", 0, 0}, \
    {"--temp -temp --temperature", CLI_REAL, &(o).temperature, "T", \
     "temperature; 0: greedy (default 0.8)", -1e6, 1e6}, \
    {"--top-k", CLI_INT, &(o).top_k, "N", "only the N likeliest tokens; 0: off (default 40)", INT_MIN, INT_MAX}, \
    {"--top-p", CLI_REAL, &(o).top_p, "P", "only the likeliest that sum to P; 1: off (default 0.95)", 0, 1e6}, \
    {"--min-p", CLI_REAL, &(o).min_p, "P", "only those at least P times as likely as the best; 0: off\n" \
     "(default 0.05)", 0, 1}, \
    {"--repeat-penalty", CLI_REAL, &(o).repeat_penalty, "X", \
     "above 1: recent tokens become less likely (default 1: off)", 1e-3, 1e3}, \
    {"--repeat-last-n", CLI_INT, &(o).repeat_last_n, "N", \
     "how far back the penalties look; 0: off; -1: all (default 64)", -1, INT_MAX}, \
    {"--frequency-penalty", CLI_REAL, &(o).frequency_penalty, "X", "per occurrence (default 0)", -1e3, 1e3}, \
    {"--presence-penalty", CLI_REAL, &(o).presence_penalty, "X", "once for each token seen (default 0)", -1e3, 1e3}, \
    {"--ignore-eos", CLI_FLAG, &(o).ignore_end, NULL, "go on after the model's end token", 0, 0}, \
    {"-sp --special", CLI_FLAG, &(o).show_special, NULL, "show control tokens in the text", 0, 0}, \
    {"-r --reverse-prompt", CLI_STRINGS, &(o).stops, "TEXT", \
     "stop where the model writes TEXT; may be given several times", 0, 0}, \
    {"-sys --system-prompt", CLI_STRING, &(o).system, "TEXT", "instructions for the assistant (chat)", 0, 0},

/* Exits 2 if an option makes no sense; before the model is opened, so that mistakes show at once. One stop is kept
   for conversations without a template. */
static void talk_check_options(const talk_options *o)
{
    int i;
    if (!o->model.path) cli_usage("no model given: -m FILE (--help says more)");
    cli_check_model_args(&o->model);
    if (o->stops.n > BITNET_MAX_STOPS - 1) cli_usage("-r: at most %d are possible", BITNET_MAX_STOPS - 1);
    for (i = 0; i < o->stops.n; i++) {
        if (!o->stops.item[i][0]) cli_usage("-r: the text is empty");
        if (strlen(o->stops.item[i]) > BITNET_MAX_STOP_BYTES)
            cli_usage("-r: the text is longer than %d bytes", BITNET_MAX_STOP_BYTES);
    }
}

/* A seed that differs from run to run, short enough to be typed in again. */
static uint64_t talk_random_seed(void)
{
    uint64_t x = (uint64_t)time(NULL) * 1000003u + (uint64_t)(cli_seconds() * 1e6);
    x = (x ^ (uint64_t)(uintptr_t)&x) * 0x9e3779b97f4a7c15u;             /* a stack address: random with ASLR */
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9u >> 32;
}

/* llama-cli's spellings of "off" become ours: there, top_p 0 means the best token alone and repeat_last_n 0 no
   penalties at all; here, zeros mean defaults. */
static bitnet_sampling talk_sampling(const talk_options *o)
{
    bitnet_sampling s;
    memset(&s, 0, sizeof s);
    s.temperature = o->temperature > 0 ? (float)o->temperature : 0;
    s.top_k = o->top_k > 0 ? o->top_k : 0;
    s.top_p = o->top_p >= 1 ? 0 : o->top_p > 1e-6 ? (float)o->top_p : 1e-6f;
    s.min_p = (float)o->min_p;
    s.seed = o->seed;
    if (o->repeat_last_n != 0) {
        s.repeat_penalty = (float)o->repeat_penalty;
        s.frequency_penalty = (float)o->frequency_penalty;
        s.presence_penalty = (float)o->presence_penalty;
        s.repeat_last_n = o->repeat_last_n;
    }
    return s;
}

/* Batch sizes never change the text, only speed and memory. bitnet.cpp's scripts say -b 1, which would read the whole
   model once per prompt token; huge ones cost scratch memory and gain nothing. */
static int talk_batch(int wanted)
{
    return wanted < 32 ? 0 : wanted > 512 ? 512 : wanted;
}

/* ------------------------------------------------------------------------------------- a model, ready to talk */

typedef struct talk {
    bitnet_model *model;
    bitnet_engine *engine;
    bitnet_session *session;
    bitnet_model_info info;
    int n_ctx;
    bitnet_generation generation;    /* as the options say; stops point into stop_list */
    const char *stop_list[BITNET_MAX_STOPS];
    const char *system;              /* instructions that were not sent yet; NULL: none */
    int plain;                       /* 1: the model has no chat template: "User:" and "Assistant:" lines */

    /* How the last talk_run ended. */
    bitnet_reason reason;
    int write_error;                 /* errno of a failed write to stdout; EPIPE: the reader hung up */
    int at_line_start;               /* 1: nothing was written yet, or it ended with a newline */

    /* Sums over all runs. Times are seconds; rated: tokens that generate_time covers. */
    uint64_t prompt_tokens, generated_tokens, rated_tokens;
    double load_time, prompt_time, generate_time;
} talk;

static void talk_close(talk *t)
{
    bitnet_session_destroy(t->session);
    bitnet_engine_destroy(t->engine);
    bitnet_model_close(t->model);
    t->session = NULL;
    t->engine = NULL;
    t->model = NULL;
}

/* The context that was asked for, within what the model was trained for: beyond it the text falls apart, and scripts
   that ask for too much should still run. */
static int talk_context(const talk_options *o, int n_train)
{
    if (n_train <= 0) n_train = 4096;
    if (o->n_ctx < 0) return n_train < 4096 ? n_train : 4096;
    if (o->n_ctx > n_train)
        cli_message("-c %d: the model was trained for %d tokens; using %d", o->n_ctx, n_train, n_train);
    return o->n_ctx == 0 || o->n_ctx > n_train ? n_train : o->n_ctx;
}

/* How to get more context, for messages that say it is full; "" if the model has no more. */
static const char *talk_more_context(const talk *t, char text[64])
{
    text[0] = 0;
    if (t->n_ctx < t->info.n_ctx_train) snprintf(text, 64, "; -c N makes room for up to %d", t->info.n_ctx_train);
    return text;
}

static void talk_describe(const talk *t)
{
    char parameters[24], file[24], model[24], session[24];
    bitnet_session_desc desc;
    desc.n_ctx = t->n_ctx;
    cli_message("%s \"%s\": %s weights (%s, output %s), file %s", t->info.architecture, t->info.name,
                cli_count(parameters, t->info.n_parameters), t->info.linear_type, t->info.head_type,
                cli_size(file, t->info.file_bytes));
    cli_message("kernels %s, model memory %s, context %d tokens in %s, chat template %s", t->info.kernels,
                cli_size(model, t->info.model_memory), t->n_ctx,
                cli_size(session, bitnet_session_memory(t->model, &desc)), t->info.chat_template);
}

/* Opens the model and makes an engine and a session; exits 1 if that cannot be done. A random seed is chosen here and
   left in o->seed. Ownership: talk_close. */
static void talk_open(talk *t, talk_options *o)
{
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    bitnet_error err;
    const double start = cli_seconds();
    int i;
    memset(t, 0, sizeof *t);
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    memset(&err, 0, sizeof err);
    t->model = cli_open_model(&o->model, 0);
    bitnet_model_get_info(t->model, &t->info);
    t->n_ctx = talk_context(o, t->info.n_ctx_train);
    engine.n_threads = cli_threads(&o->model);
    engine.n_batch = talk_batch(o->n_batch);
    engine.n_ctx = t->n_ctx;
    session.n_ctx = t->n_ctx;
    if (bitnet_engine_create(t->model, &engine, &t->engine, &err) != BITNET_OK) cli_fail_with(o->model.path, &err);
    if (bitnet_session_create(t->engine, &session, &t->session, &err) != BITNET_OK) cli_fail_with(o->model.path, &err);
    if (o->seed == UINT64_MAX) o->seed = talk_random_seed();
    t->generation.sampling = talk_sampling(o);
    t->generation.max_tokens = o->n_predict > 0 ? o->n_predict : 0;
    t->generation.ignore_end = o->ignore_end;
    t->generation.show_special = o->show_special;
    for (i = 0; i < o->stops.n; i++) t->stop_list[i] = o->stops.item[i];
    t->generation.stops = t->stop_list;
    t->generation.n_stops = o->stops.n;
    t->system = o->system;
    t->plain = strcmp(t->info.chat_template, "none") == 0;
    t->at_line_start = 1;
    t->load_time = cli_seconds() - start;
    if (cli_verbose()) talk_describe(t);
}

/* ----------------------------------------------------------------------------------------- one generation */

/* Text to stdout, at once. A failure is remembered in write_error. */
static void talk_write(talk *t, const char *text, size_t size)
{
    if (!size || t->write_error) return;
    errno = 0;
    if (fwrite(text, 1, size, stdout) != size || fflush(stdout) != 0) t->write_error = errno ? errno : EIO;
    t->at_line_start = text[size - 1] == '\n';
}

/* Ends the line of the text on stdout, if it is not at an end. */
static void talk_end_line(talk *t)
{
    if (!t->at_line_start) talk_write(t, "\n", 1);
}

/* The token, its probability and the alternatives, as one line on stderr. */
static void talk_print_logprobs(const talk *t, const bitnet_event *event)
{
    size_t size = 0;
    const char *text = bitnet_token_text(t->model, event->token, &size);
    int i;
    size_t j;
    fprintf(stderr, "%6d \"", (int)event->token);
    for (j = 0; j < size; j++)                           /* as the file spells it, which may hold line ends */
        if ((unsigned char)text[j] < 32) fprintf(stderr, "\\x%02x", (unsigned)(unsigned char)text[j]);
        else fputc(text[j], stderr);
    fprintf(stderr, "\" %.5f", (double)event->logprob);
    for (i = 0; i < event->n_top; i++)
        fprintf(stderr, "%s %d:%.5f", i ? "" : "  |", (int)event->top[i].token, (double)event->top[i].logprob);
    fputc('\n', stderr);
}

static void talk_add_stats(talk *t)
{
    bitnet_stats stats;
    memset(&stats, 0, sizeof stats);
    bitnet_get_stats(t->session, &stats);
    t->prompt_tokens += stats.prompt_tokens;
    t->prompt_time += 1e-9 * (double)stats.prompt_ns;
    t->generated_tokens += stats.generated_tokens;
    if (stats.generated_tokens > 1) {                    /* n tokens have n - 1 intervals between them */
        t->rated_tokens += stats.generated_tokens - 1;
        t->generate_time += 1e-9 * (double)stats.generate_ns;
    }
}

/* Appends tokens [n] and generates; the text goes to stdout as it comes. Ctrl-C, or a stdout that cannot be written,
   cancels. generation NULL: only evaluates the tokens. Returns OK with t->reason set, or FULL and nothing changed, or
   another error, whose text is in *err. */
static bitnet_result talk_run(talk *t, const int32_t *tokens, int n, const bitnet_generation *generation,
                              bitnet_error *err)
{
    cli_progress progress = {"reading", 0, 0};
    bitnet_result result = bitnet_begin(t->session, tokens, n, generation);
    int cancelled = 0, idle = 0, reading = 1, n_read = 0;
    memset(err, 0, sizeof *err);
    if (result != BITNET_OK) return result;
    while (idle < 2) {
        bitnet_event event;
        /* A slice of 20 ms: short enough that Ctrl-C during a long prompt is noticed at once. */
        bitnet_result step = bitnet_step(t->engine, 20000);
        idle = step == BITNET_OK ? 0 : idle + 1;
        while (bitnet_next_event(t->session, &event)) {
            idle = 0;
            if (event.type == BITNET_EVENT_PROGRESS) {
                n_read = event.n_done;
                continue;
            }
            cli_end_progress(&progress);
            reading = 0;
            talk_write(t, event.text, event.text_size);
            if (event.type == BITNET_EVENT_TOKEN && generation && generation->logprobs) talk_print_logprobs(t, &event);
            if (event.type != BITNET_EVENT_DONE) continue;
            t->reason = event.reason;
            talk_add_stats(t);
            if (event.error) *err = *event.error;
            return event.reason == BITNET_DONE_ERROR ? (err->code < 0 ? err->code : BITNET_ERROR_NUMERIC) : BITNET_OK;
        }
        if (reading) cli_show_progress(&progress, (uint64_t)n_read, (uint64_t)n);
        if ((cli_interrupted || t->write_error) && !cancelled) {
            bitnet_cancel(t->session);
            cancelled = 1;
        }
        if (step < 0) result = step;
    }
    cli_end_progress(&progress);
    return result < 0 ? result : BITNET_ERROR_ARGUMENT;  /* not reached: every generation ends with DONE */
}

/* One line about the speed of all runs so far, on stderr; nothing if there were none. */
static void talk_print_speed(const talk *t)
{
    if (!t->prompt_tokens && !t->generated_tokens) return;
    fprintf(stderr, "load %.2f s", t->load_time);
    fprintf(stderr, "; prompt %.0f tokens", (double)t->prompt_tokens);
    if (t->prompt_time > 0) fprintf(stderr, " in %.2f s, %.2f tokens/s", t->prompt_time,
                                    (double)t->prompt_tokens / t->prompt_time);
    fprintf(stderr, "; generated %.0f tokens", (double)t->generated_tokens);
    if (t->generate_time > 0) fprintf(stderr, " in %.2f s, %.2f tokens/s", t->generate_time,
                                      (double)t->rated_tokens / t->generate_time);
    fputc('\n', stderr);
}

/* Tokens of text, in memory that is the caller's; *n of them. Exits 1 if that cannot be done. */
static int32_t *talk_tokenize(const talk *t, const char *text, size_t size, int flags, int *n)
{
    int64_t count = bitnet_tokenize(t->model, text, size, NULL, 0, flags);
    int32_t *tokens;
    if (count < 0) cli_fail("cannot tokenize: %s", bitnet_result_text((bitnet_result)count));
    if (count > INT_MAX - 8) cli_fail("the text is too long: %.0f tokens", (double)count);
    tokens = (int32_t *)cli_alloc((size_t)count * sizeof *tokens);
    if (bitnet_tokenize(t->model, text, size, tokens, count, flags) != count) cli_fail("cannot tokenize");
    *n = (int)count;
    return tokens;
}

/* ------------------------------------------------------------------------------------------- conversations */

/* The end of the conversation so far as text: that of the last 64 tokens, control tokens left out. free() it. */
static char *talk_tail(const talk *t)
{
    const int32_t *history;
    const int n = bitnet_session_tokens(t->session, &history);
    const int last = n < 64 ? n : 64;
    int64_t size = bitnet_detokenize(t->model, history + n - last, last, NULL, 0, 0);
    char *text = (char *)cli_alloc(size > 0 ? (size_t)size + 1 : 1);
    if (size < 0) size = 0;
    bitnet_detokenize(t->model, history + n - last, last, text, (size_t)size, 0);
    text[size] = 0;
    return text;
}

static int talk_ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && memcmp(text + n - m, end, m) == 0;
}

/* A turn for models without a template, as lines that a base model understands from the web's interviews. Where the
   model was stopped because it wrote "User:" itself, the words just follow. */
static int32_t *talk_plain_turn(const talk *t, const char *text, int *n)
{
    cli_buffer turn = {0};
    int32_t *tokens;
    char *tail = talk_tail(t);
    const int first = bitnet_session_tokens(t->session, NULL) == 0;
    const int asked = talk_ends_with(tail, "\nUser:") && !t->system;
    if (!first && !asked && !talk_ends_with(tail, "\n")) cli_append(&turn, "\n", 1);
    if (t->system) {
        cli_append(&turn, t->system, strlen(t->system));
        cli_append(&turn, "\n", 1);
    }
    if (!asked) cli_append(&turn, "User:", 5);
    cli_append(&turn, " ", 1);
    cli_append(&turn, text, strlen(text));
    cli_append(&turn, "\nAssistant:", 11);
    tokens = talk_tokenize(t, turn.data, turn.size, first ? BITNET_TOKENIZE_BOS : 0, n);
    free(turn.data);
    free(tail);
    return tokens;
}

/* The same with the model's template. An answer that did not end by itself (Ctrl-C, -n, -r) gets its end token here,
   so that the model sees the turns it was trained on. */
static int32_t *talk_template_turn(const talk *t, const char *text, int *n)
{
    bitnet_chat_message messages[2];
    const int32_t *history;
    const int old = bitnet_session_tokens(t->session, &history);
    const int flags = BITNET_CHAT_ANSWER | (old ? BITNET_CHAT_CONTINUE : 0);
    const int32_t end = t->info.eot >= 0 ? t->info.eot : t->info.eos;
    const int close = old > 0 && end >= 0 && !bitnet_token_is_end(t->model, history[old - 1]);
    int n_messages = 0;
    int64_t count;
    int32_t *tokens;
    if (t->system) {
        messages[n_messages].role = "system";
        messages[n_messages++].content = t->system;
    }
    messages[n_messages].role = "user";
    messages[n_messages++].content = text;
    count = bitnet_chat_tokenize(t->model, messages, n_messages, flags, NULL, 0);
    if (count < 0) cli_fail("cannot apply the chat template: %s", bitnet_result_text((bitnet_result)count));
    if (count > INT_MAX - 8) cli_fail("the message is too long");
    tokens = (int32_t *)cli_alloc((size_t)(count + 1) * sizeof *tokens);
    if (close) tokens[0] = end;
    bitnet_chat_tokenize(t->model, messages, n_messages, flags, tokens + close, count);
    *n = (int)count + close;
    return tokens;
}

/* Says text to the model and streams its answer to stdout. A turn that brought no word of an answer (Ctrl-C while the
   message was read, an error, a full context) leaves the conversation as it was; *n_needed (may be NULL) is the number
   of tokens of the turn. Returns as talk_run. */
static bitnet_result talk_say(talk *t, const char *text, int *n_needed, bitnet_error *err)
{
    int n = 0;
    const int before = bitnet_session_tokens(t->session, NULL);
    const uint64_t words = t->generated_tokens;
    int32_t *tokens = t->plain ? talk_plain_turn(t, text, &n) : talk_template_turn(t, text, &n);
    bitnet_generation generation = t->generation;
    bitnet_result result;
    t->reason = BITNET_DONE_PROMPT;
    if (t->plain) {
        t->stop_list[generation.n_stops] = "\nUser:";    /* talk_check_options left room for it */
        generation.n_stops++;
    }
    result = talk_run(t, tokens, n, &generation, err);
    free(tokens);
    if (n_needed) *n_needed = n;
    if (result == BITNET_OK && (t->reason != BITNET_DONE_CANCELLED || t->generated_tokens > words)) {
        t->system = NULL;                                /* it is part of the conversation now */
        return result;
    }
    /* The token that was pending before may be gone with the rest; the turn is closed anew next time. */
    if (result != BITNET_ERROR_FULL && bitnet_session_rewind(t->session, before) != BITNET_OK)
        bitnet_session_rewind(t->session, before > 0 ? before - 1 : 0);
    return result;
}

/* Tells once what happens to models without a template. */
static void talk_warn_plain(const talk *t)
{
    if (t->plain)
        cli_message("this model has no chat template: talking in lines of \"User:\" and \"Assistant:\" "
                    "(--chat-template NAME chooses one)");
}

/* Reads one line of the person's words; a backslash at its end continues it on the next. prompt is shown on stderr if
   stdin is a terminal. Returns 1 and the line in *line (without newline; free the buffer's data when done with all),
   0 at the end of input, -1 after Ctrl-C. */
static int talk_read_line(cli_buffer *line, const char *prompt, int color)
{
    const int terminal = cli_is_terminal(stdin);
    int c = 0, got = 0;
    line->size = 0;
    cli_append(line, "", 0);
    fflush(stdout);
    if (terminal) fputs(prompt, stderr);
    if (terminal && color) fputs("\033[32m", stderr);
    for (;;) {
        errno = 0;
        c = cli_interrupted ? EOF : getchar();
        if (c == EOF && errno == EINTR && !cli_interrupted) {          /* another signal, or ours still on its way */
            clearerr(stdin);
            fflush(stdout);
            continue;
        }
        if (c == EOF) break;
        got = 1;
        if (c == '\n' && line->size && line->data[line->size - 1] == '\\') {
            line->data[line->size - 1] = '\n';
            continue;
        }
        if (c == '\n') break;
        if (c != 0) {                                    /* messages are C strings */
            const char byte = (char)c;
            cli_append(line, &byte, 1);
        }
    }
    if (terminal && color) fputs("\033[0m", stderr);
    if (line->size && line->data[line->size - 1] == '\r') line->data[--line->size] = 0;
    if (cli_interrupted) {
        cli_interrupted = 0;
        clearerr(stdin);
        if (terminal) fputc('\n', stderr);
        return -1;
    }
    return c != EOF || got;
}

/* 1 if the line holds nothing but blanks. */
static int talk_is_blank(const char *line)
{
    return line[strspn(line, " \t\r\n")] == 0;
}

#endif /* BITNET_TALK_H */
