/* chat.c: a conversation with a model in a terminal.

       cc -O2 -I. examples/chat.c -o chat -lpthread -lm
       ./chat model.gguf

   Ctrl-C stops the answer, not the program; twice at the prompt, or Ctrl-D, or /exit, leaves. Lines may also come from
   a pipe: answers go to stdout, everything else to stderr. Exit status: 0 done, 1 something could not be done, 2 wrong
   usage. */
#include "talk.h"

#define BITNET_IMPLEMENTATION
#include "bitnet.h"

static const char help_text[] =
    "  /reset        forget the conversation and begin a new one\n"
    "  /system TEXT  instructions for the assistant, sent with your next message; alone: shows them\n"
    "  /save FILE    write the conversation to a file\n"
    "  /load FILE    go on with a saved conversation (this one is forgotten)\n"
    "  /help         this list\n"
    "  /exit         leave, as Ctrl-D does\n"
    "Ctrl-C stops an answer. A backslash at the end of a line continues it on the next.";

typedef struct chat {
    talk talk;
    char *system;                    /* the instructions in force: sent again after /reset; NULL: none */
    int failed;                      /* 1: something went wrong that a pipe's exit status should tell */
} chat;

/* ----------------------------------------------------------------------------------------------- commands */

/* Uses text as instructions from the next message on. */
static void set_system(chat *c, const char *text)
{
    const size_t n = strlen(text) + 1;
    char *copy = (char *)cli_alloc(n);
    memcpy(copy, text, n);
    free(c->system);
    c->system = copy;
    c->talk.system = copy;
}

static void reset(chat *c)
{
    bitnet_session_rewind(c->talk.session, 0);
    c->talk.system = c->system;
    c->talk.generation.sampling.seed++;                  /* or the same words would get the same answers again */
}

/* A complaint that a person just reads, and that a script finds in the exit status. */
#define COMPLAIN(c, ...) (cli_message(__VA_ARGS__), (void)((c)->failed = 1))

static void save(chat *c, const char *path)
{
    const size_t size = bitnet_state_size(c->talk.session);
    void *state = malloc(size ? size : 1);
    bitnet_error err;
    char text[24];
    memset(&err, 0, sizeof err);
    if (!state)
        COMPLAIN(c, "%s: not saved, no memory for %s", path, cli_size(text, size));
    else if (bitnet_state_save(c->talk.session, state, size, &err) != BITNET_OK)
        COMPLAIN(c, "%s: not saved: %s", path, err.text);
    else if (cli_write_file(path, state, size) != 0)
        COMPLAIN(c, "%s: not saved: %s", path, strerror(errno));
    else
        cli_message("%s: saved, %d tokens, %s", path, bitnet_session_tokens(c->talk.session, NULL),
                    cli_size(text, size));
    free(state);
}

static void load(chat *c, const char *path)
{
    size_t size = 0, n;
    char *state = cli_read_file(path, &size), *tail;
    bitnet_error err;
    memset(&err, 0, sizeof err);
    if (!state) {
        COMPLAIN(c, "%s: not loaded: %s", path, strerror(errno));
        return;
    }
    if (bitnet_state_load(c->talk.session, state, size, &err) != BITNET_OK) {
        COMPLAIN(c, "%s: not loaded: %s", path, err.text);
        free(state);
        return;
    }
    free(state);
    c->talk.system = NULL;                               /* whatever instructions there were are in the file */
    tail = talk_tail(&c->talk);
    n = strlen(tail) < 200 ? strlen(tail) : 200;
    while (n < strlen(tail) && ((unsigned char)tail[strlen(tail) - n] & 0xc0) == 0x80) n--;      /* whole UTF-8 */
    cli_message("%s: loaded, %d tokens; it ends:\n%s", path, bitnet_session_tokens(c->talk.session, NULL),
                tail + strlen(tail) - n);
    free(tail);
}

/* The rest of line if it is this command, else NULL: "/save  a b " is /save with "a b". Cuts blanks at the end. */
static char *command_argument(char *line, const char *command)
{
    const size_t n = strlen(command);
    size_t end = strlen(line);
    if (strncmp(line, command, n) != 0 || (line[n] && line[n] != ' ' && line[n] != '\t')) return NULL;
    while (end > n && (line[end - 1] == ' ' || line[end - 1] == '\t')) line[--end] = 0;
    return line + n + strspn(line + n, " \t");
}

/* Does what a line that begins with a slash says. Returns 1 to leave. */
static int do_command(chat *c, char *line)
{
    char *text;
    if (command_argument(line, "/exit") || command_argument(line, "/quit")) return 1;
    if (command_argument(line, "/help")) {
        fprintf(stderr, "%s\n", help_text);
    } else if (command_argument(line, "/reset")) {
        reset(c);
        cli_message("a new conversation");
    } else if ((text = command_argument(line, "/system")) != NULL) {
        if (*text) set_system(c, text);
        cli_message("instructions%s: %s", *text ? ", from your next message on" : "", c->system ? c->system : "none");
    } else if ((text = command_argument(line, "/save")) != NULL) {
        if (*text) save(c, text);
        else COMPLAIN(c, "/save needs a file's name");
    } else if ((text = command_argument(line, "/load")) != NULL) {
        if (*text) load(c, text);
        else COMPLAIN(c, "/load needs a file's name");
    } else {
        COMPLAIN(c, "unknown command %.*s; /help lists them", (int)strcspn(line, " \t"), line);
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------- conversation */

/* One message and its answer. Returns 1 to leave: stdout cannot be written any more. */
static int answer(chat *c, const char *line)
{
    talk *t = &c->talk;
    bitnet_error err;
    char more[64];
    int n = 0;
    const uint64_t words = t->generated_tokens;
    const bitnet_result result = talk_say(t, line, &n, &err);
    talk_end_line(t);
    if (t->write_error) {
        if (t->write_error != EPIPE) COMPLAIN(c, "cannot write: %s", strerror(t->write_error));
        return 1;
    }
    if (result == BITNET_ERROR_FULL && bitnet_session_tokens(t->session, NULL) == 0)
        COMPLAIN(c, "the message has %d tokens, the context holds %d%s", n, t->n_ctx, talk_more_context(t, more));
    else if (result == BITNET_ERROR_FULL)
        COMPLAIN(c, "the context is full: %d of %d tokens are used, this message needs %d. Nothing is lost: /save FILE "
                 "keeps the conversation, /reset begins a new one%s", bitnet_session_tokens(t->session, NULL), t->n_ctx,
                 n, talk_more_context(t, more));
    else if (result != BITNET_OK)
        COMPLAIN(c, "%s", err.text[0] ? err.text : bitnet_result_text(result));
    else if (t->reason == BITNET_DONE_CONTEXT)
        COMPLAIN(c, "the answer stopped here because the context of %d tokens is full. Nothing is lost: /save FILE "
                 "keeps the conversation, /reset begins a new one", t->n_ctx);
    else if (t->reason == BITNET_DONE_CANCELLED)
        cli_message(t->generated_tokens > words ? "stopped" : "stopped; your message is forgotten");
    return 0;
}

/* Reads lines and answers them until the input ends. */
static void converse(chat *c)
{
    const int terminal = cli_is_terminal(stdin);
    cli_buffer line;
    int interrupts = 0;
    memset(&line, 0, sizeof line);
    for (;;) {
        const int got = talk_read_line(&line, "> ", 0);
        if (got == 0 && terminal) fputc('\n', stderr);   /* the shell's prompt begins on a line of its own */
        if (got == 0 || (got < 0 && (!terminal || ++interrupts == 2))) break;
        if (got < 0) {
            cli_message("Ctrl-C once more, Ctrl-D or /exit leaves");
            continue;
        }
        interrupts = 0;
        if (talk_is_blank(line.data)) continue;
        if (line.data[0] == '/' ? do_command(c, line.data) : answer(c, line.data)) break;
        cli_interrupted = 0;                             /* a Ctrl-C that stopped an answer has done its work */
    }
    free(line.data);
}

int main(int argc, char **argv)
{
    static chat c;
    talk_options o = talk_defaults();
    const char *args[1], *state = NULL;
    const cli_option options[] = {
        {"--load", CLI_STRING, &state, "FILE", "go on with a conversation saved by /save", 0, 0},
        TALK_OPTIONS(o)
    };
    const cli_program program = {"chat", "[options] MODEL", "Talks with a model, a line at a time. Commands in it:",
                                 help_text, options, CLI_COUNT(options), 0, 1};
    if (cli_parse(&program, argc, argv, args) == 1) {
        if (o.model.path) cli_usage("unexpected argument '%s': the model is given by -m already", args[0]);
        o.model.path = args[0];
    }
    talk_check_options(&o);

    cli_ignore_sigpipe();
    cli_catch_interrupts();
    talk_open(&c.talk, &o);
    if (o.system) set_system(&c, o.system);
    if (state) load(&c, state);
    if (cli_is_terminal(stdin))
        cli_message("%s, a context of %d tokens; /help lists the commands", c.talk.info.name[0] ? c.talk.info.name :
                    o.model.path, c.talk.n_ctx);
    talk_warn_plain(&c.talk);
    if (cli_verbose()) cli_message("seed %" PRIu64, o.seed);
    converse(&c);
    if (cli_verbose()) talk_print_speed(&c.talk);
    free(c.system);
    talk_close(&c.talk);
    return c.failed && !cli_is_terminal(stdin) ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}
