/* generate.c: text from a model on the command line, in the manner of llama.cpp's llama-cli.

       cc -O2 -I. examples/generate.c -o generate -lpthread -lm
       ./generate -m model.gguf -p "Once upon a time" -n 100

   stdout carries the text and nothing else; everything else is on stderr. stdin is only read when a conversation was
   asked for (-cnv, -i, -if, -st without -p) or named as a file (-f -). Called by a name like llama-cli it also prints
   the prompt first, as that program does. Exit status: 0 done, also when the reader of stdout hung up; 1 it could not be
   done; 2 wrong usage; 130 interrupted by Ctrl-C. */
#include "talk.h"

#define BITNET_IMPLEMENTATION
#include "bitnet.h"

#define MAX_BIAS 256

typedef struct arguments {
    talk_options talk;
    const char *prompt, *prompt_file;
    int chat, interactive, input_first, single_turn;
    int display_prompt, escape, escape_file, color, logprobs;
    cli_strings bias_texts;
    bitnet_logit_bias bias[MAX_BIAS];
    int n_bias;
} arguments;

/* ------------------------------------------------------------------------------------------ command line */

/* "15043+1.5" or "15043-inf": a token and what to add to its logit, as llama.cpp writes it. */
static void parse_bias(arguments *a)
{
    int i;
    for (i = 0; i < a->bias_texts.n; i++) {
        const char *text = a->bias_texts.item[i];
        const size_t digits = strspn(text, "0123456789");
        char number[16] = "";
        double bias = 0;
        int token = 0;
        if (digits && digits < sizeof number) memcpy(number, text, digits);
        if (!cli_read_int(number, 0, INT_MAX, &token) || (text[digits] != '+' && text[digits] != '-'))
            cli_usage("--logit-bias: '%s' is not of the form TOKEN+BIAS or TOKEN-BIAS", text);
        if (strcmp(text + digits + 1, "inf") == 0) bias = text[digits] == '-' ? -1e9 : 1e9;
        else if (!cli_read_real(text + digits, -1e9, 1e9, &bias))
            cli_usage("--logit-bias: '%s' is not a number", text + digits);
        a->bias[i].token = token;
        a->bias[i].bias = (float)bias;
    }
    a->n_bias = a->bias_texts.n;
}

/* Reads the command line into a; exits 2 on a mistake. */
static void parse_arguments(arguments *a, int argc, char **argv, const char *name)
{
    const char *args[1];
    const cli_option options[] = {
        {NULL, CLI_HEADING, NULL, NULL, "Text", 0, 0},
        {"-p --prompt", CLI_STRING, &a->prompt, "TEXT", "the text to continue", 0, 0},
        {"-f --file", CLI_STRING, &a->prompt_file, "FILE", "the text to continue, from a file; -: from stdin", 0, 0},
        {"-e --escape", CLI_FLAG, &a->escape_file, NULL,
         "read \\n, \\t, \\xHH in a prompt file too; in -p, -sys and -r\nthey are read anyway", 0, 0},
        {"--no-escape", CLI_NO_FLAG, &a->escape, NULL, "take backslashes as they are", 0, 0},
        {"--display-prompt", CLI_FLAG, &a->display_prompt, NULL, "print the prompt first", 0, 0},
        {"--no-display-prompt", CLI_NO_FLAG, &a->display_prompt, NULL,
         "do not (default, unless called as llama-cli)", 0, 0},
        {"--color --colour -co", CLI_SWITCH, &a->color, NULL, "colour the prompt and the user's words", 0, 0},
        {"--logprobs", CLI_INT, &a->logprobs, "K", "each token's log probability and the K best, on stderr", 0,
         BITNET_MAX_LOGPROBS},
        {"-l --logit-bias", CLI_STRINGS, &a->bias_texts, "TOKEN+X",
         "add X to a token's logit (TOKEN-X, TOKEN-inf)", 0, 0},

        {NULL, CLI_HEADING, NULL, NULL, "Conversation", 0, 0},
        {"-cnv --conversation", CLI_FLAG, &a->chat, NULL,
         "talk with the model, a line at a time; -p is then the system\nprompt (with -sys or -st: the first message)",
         0, 0},
        {"-no-cnv --no-conversation", CLI_NO_FLAG, &a->chat, NULL, "do not (default)", 0, 0},
        {"-st --single-turn", CLI_FLAG, &a->single_turn, NULL,
         "a conversation of one message, -p or a line of stdin", 0, 0},
        {"-i --interactive", CLI_FLAG, &a->interactive, NULL,
         "where the model stops, read a line and go on after it", 0, 0},
        {"-if --interactive-first", CLI_FLAG, &a->input_first, NULL, "the same, reading a line first", 0, 0},

        TALK_OPTIONS(a->talk)

        {"-ngl --gpu-layers --n-gpu-layers -ub --ubatch-size -tb --threads-batch -ctk --cache-type-k -ctv "
         "--cache-type-v --keep --numa --poll --prio -mg --main-gpu -sm --split-mode -ts --tensor-split -dev --device "
         "--log-file", CLI_IGNORED_VALUE, NULL, NULL, NULL, 0, 0},
        {"-fa --flash-attn", CLI_IGNORED_SWITCH, NULL, NULL, NULL, 0, 0},
        {"--stream --simple-io -cb --cont-batching -nocb --no-cont-batching --warmup --no-warmup "
         "--mmap --jinja --perf --no-perf --log-disable -v --verbose --verbose-prompt --context-shift "
         "--no-context-shift -nkvo --no-kv-offload", CLI_IGNORED, NULL, NULL, NULL, 0, 0},
    };
    const cli_program program = {
        name, "-m MODEL [-p PROMPT] [options]",
        "Continues a text with a BitNet model. The text goes to stdout, everything else to stderr.",
        "Exit status: 0 done (also when the reader of stdout hangs up), 1 it could not be done, 2 wrong usage,\n"
        "130 interrupted. BITNET_VERBOSE=1 tells more on stderr.",
        options, CLI_COUNT(options), 0, 1};
    if (cli_parse(&program, argc, argv, args) == 1) {
        if (a->talk.model.path) cli_usage("unexpected argument '%s': the model is given by -m already", args[0]);
        a->talk.model.path = args[0];
    }
    if (a->prompt && a->prompt_file) cli_usage("-p and -f cannot both be given");
    if (a->bias_texts.n > MAX_BIAS) cli_usage("--logit-bias: more than %d", MAX_BIAS);
    if (a->single_turn) a->chat = 1;
    if (a->input_first) a->interactive = 1;
    if (a->chat && a->interactive) a->interactive = 0;   /* a conversation is interactive by itself */
    parse_bias(a);
    talk_check_options(&a->talk);
}

/* A copy of text with its escapes read; NULL stays NULL. Kept until the program ends. */
static char *unescaped(const char *text)
{
    char *copy;
    if (!text) return NULL;
    copy = (char *)cli_alloc(strlen(text) + 1);
    memcpy(copy, text, strlen(text) + 1);
    cli_unescape(copy);
    return copy;
}

/* The prompt's bytes, from -p or -f, NULL if neither was given. As in llama-cli, one newline at the end of a file is
   the editor's, not the prompt's. Kept until the program ends. */
static const char *read_prompt(arguments *a, size_t *size)
{
    char *text;
    int i;
    if (a->escape) {
        a->prompt = unescaped(a->prompt);
        a->talk.system = unescaped(a->talk.system);
        for (i = 0; i < a->talk.stops.n; i++) a->talk.stops.item[i] = unescaped(a->talk.stops.item[i]);
    }
    *size = a->prompt ? strlen(a->prompt) : 0;
    if (!a->prompt_file) return a->prompt;
    text = cli_read_file(a->prompt_file, size);
    if (!text) cli_fail("cannot read %s: %s", a->prompt_file, strerror(errno));
    if (*size && text[*size - 1] == '\n') text[--*size] = 0;
    if (a->escape_file && a->escape) {
        cli_unescape(text);
        *size = strlen(text);
    }
    return text;
}

/* ---------------------------------------------------------------------------------------------- running */

/* Prints the prompt as llama-cli does, before the text that continues it. */
static void show_prompt(talk *t, const arguments *a, const char *prompt, size_t size)
{
    const int color = a->color && cli_is_terminal(stdout);
    if (color) talk_write(t, "\033[33m", 5);
    talk_write(t, prompt, size);
    if (color) talk_write(t, "\033[0m", 4);
}

/* Says why a run failed; it did, so the exit status is 1. */
static int report_failure(const talk *t, bitnet_result result, const bitnet_error *err, int n_needed)
{
    const int used = bitnet_session_tokens(t->session, NULL);
    char more[64];
    if (result == BITNET_ERROR_FULL && used)
        cli_message("the context is full: %d of %d tokens are used, the next text needs %d%s", used, t->n_ctx, n_needed,
                    talk_more_context(t, more));
    else if (result == BITNET_ERROR_FULL)
        cli_message("the prompt has %d tokens, the context holds %d%s", n_needed, t->n_ctx, talk_more_context(t, more));
    else
        cli_message("%s", err->text[0] ? err->text : bitnet_result_text(result));
    return CLI_EXIT_FAILED;
}

/* Says how a run ended where that is not plain from the text, which end_line ends with a newline; returns the exit
   status, or -1 to go on. */
static int check_end(talk *t, int end_line)
{
    char more[64];
    if (end_line || t->reason == BITNET_DONE_CONTEXT) talk_end_line(t);
    if (t->write_error == EPIPE) return CLI_EXIT_OK;
    if (t->write_error) {
        cli_message("cannot write the text: %s", strerror(t->write_error));
        return CLI_EXIT_FAILED;
    }
    if (t->reason == BITNET_DONE_CANCELLED && t->generated_tokens == 0)
        cli_message("interrupted while the prompt was read");
    if (t->reason == BITNET_DONE_CONTEXT)
        cli_message("stopped: the context of %d tokens is full%s", t->n_ctx, talk_more_context(t, more));
    return -1;
}

enum { RAW_PROMPT = BITNET_TOKENIZE_BOS | BITNET_TOKENIZE_SPECIAL };

/* A run over a piece of raw text. end_line: put a newline behind what the model wrote. Returns the exit status, or -1
   to go on. */
static int run_text(talk *t, const char *text, size_t size, int flags, const bitnet_generation *generation,
                    int end_line)
{
    int n;
    bitnet_error err;
    bitnet_result result;
    int32_t *tokens = talk_tokenize(t, text, size, flags, &n);
    if (n == 0 && bitnet_session_tokens(t->session, NULL) == 0) {
        if (t->info.bos < 0) cli_fail("the prompt is empty, and the model has no token to begin with");
        tokens[0] = t->info.bos;                         /* cli_alloc never returns less than room for one */
        n = 1;
    }
    result = talk_run(t, tokens, n, generation, &err);
    free(tokens);
    if (result != BITNET_OK) {
        talk_end_line(t);
        return report_failure(t, result, &err, n);
    }
    return check_end(t, end_line);
}

/* Prints the reverse prompt that stopped the model, the cue for the person to write on (-i). */
static void show_stop(talk *t)
{
    char *tail = talk_tail(t);
    int i;
    for (i = 0; i < t->generation.n_stops; i++)
        if (talk_ends_with(tail, t->generation.stops[i]))
            talk_write(t, t->generation.stops[i], strlen(t->generation.stops[i]));
    free(tail);
}

/* -i: the model writes until it stops or Ctrl-C comes, then a line of the person's follows in the same text, and so on
   until the input ends. Ctrl-C at the prompt ends it. */
static int run_interactive(talk *t, const arguments *a, const char *prompt, size_t size)
{
    cli_buffer line = {0};
    const int terminal = cli_is_terminal(stdin);
    int status, got = 1;
    status = run_text(t, prompt, size, RAW_PROMPT, a->input_first ? NULL : &t->generation, 0);
    while (status < 0 && t->reason != BITNET_DONE_CONTEXT) {
        cli_interrupted = 0;
        if (t->reason == BITNET_DONE_STOP) show_stop(t);
        else if (terminal) talk_end_line(t);
        got = talk_read_line(&line, t->reason == BITNET_DONE_STOP ? "" : "> ", a->color);
        if (got <= 0) break;
        cli_append(&line, "\n", 1);
        t->at_line_start = 1;
        status = run_text(t, line.data, line.size, 0, &t->generation, 0);
    }
    free(line.data);
    talk_end_line(t);
    return status >= 0 ? status : got < 0 ? CLI_EXIT_INTERRUPTED : CLI_EXIT_OK;
}

/* -cnv: messages and answers by the model's chat template, until the input ends, or after one answer with -st. first:
   the first message, NULL to read it from stdin. */
static int run_chat(talk *t, const arguments *a, const char *first)
{
    cli_buffer line = {0};
    int status = -1, got = 1;
    talk_warn_plain(t);
    while (status < 0) {
        const char *text = first;
        int n = 0;
        bitnet_error err;
        bitnet_result result;
        if (!text) {
            got = talk_read_line(&line, "> ", a->color);
            if (got <= 0) break;
            text = line.data;
        }
        first = NULL;
        if (talk_is_blank(text) && !a->single_turn) continue;
        result = talk_say(t, text, &n, &err);
        talk_end_line(t);
        status = result == BITNET_OK ? check_end(t, 1) : report_failure(t, result, &err, n);
        if (a->single_turn) break;
        cli_interrupted = 0;
    }
    free(line.data);
    if (status >= 0) return status;
    return got < 0 || cli_interrupted ? CLI_EXIT_INTERRUPTED : CLI_EXIT_OK;
}

/* The plain case: one prompt, one text. */
static int run_once(talk *t, const arguments *a, const char *prompt, size_t size)
{
    const int nothing = a->talk.n_predict == 0;          /* -n 0: the prompt is evaluated, and that is all */
    int status;
    if (!prompt) cli_message("no prompt (-p, -f): the model begins by itself");
    status = run_text(t, prompt ? prompt : "", size, RAW_PROMPT, nothing ? NULL : &t->generation, 1);
    return status >= 0 ? status : cli_interrupted ? CLI_EXIT_INTERRUPTED : CLI_EXIT_OK;
}

int main(int argc, char **argv)
{
    static arguments a;
    static talk t;
    char called[64];
    const char *prompt, *name = "generate";
    size_t size;
    int status, i;

    a.talk = talk_defaults();
    a.display_prompt = cli_called_as_llama(argc, argv, called, &name);
    a.escape = 1;
    a.logprobs = -1;
    parse_arguments(&a, argc, argv, name);
    prompt = read_prompt(&a, &size);
    if (a.chat && !a.talk.system && !a.single_turn && prompt) {
        a.talk.system = prompt;                          /* bitnet.cpp's run_inference.py -cnv means this by -p */
        prompt = NULL;
    }

    cli_ignore_sigpipe();
    cli_catch_interrupts();
    talk_open(&t, &a.talk);
    for (i = 0; i < a.n_bias; i++)
        if (a.bias[i].token >= t.info.n_vocab)
            cli_usage("--logit-bias: token %d is outside the vocabulary of %d", (int)a.bias[i].token, t.info.n_vocab);
    t.generation.bias = a.bias;
    t.generation.n_bias = a.n_bias;
    t.generation.logprobs = a.logprobs < 0 ? 0 : 1 + a.logprobs;
    cli_message("seed %" PRIu64, a.talk.seed);

    if (a.display_prompt && !a.chat && prompt) show_prompt(&t, &a, prompt, size);
    if (a.chat) status = run_chat(&t, &a, prompt);
    else if (a.interactive) status = run_interactive(&t, &a, prompt ? prompt : "", size);
    else status = run_once(&t, &a, prompt, size);

    if (t.write_error != EPIPE) talk_print_speed(&t);
    talk_close(&t);
    return status;
}
