/* server.c: an HTTP service on bitnet.h that programs written for the OpenAI API or llama-server use without a change.

       cc -O2 -I. examples/server/server.c -o server -lpthread -lm         (make adds the web page)
       ./server -m model.gguf
       curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages":[{"role":"user","content":"Hello"}]}'

   Two threads. The network thread (net.h) reads and writes sockets; the engine thread (engine.h) owns models and
   computes. Between them go requests (request.h). A third comes for as long as a model is loaded or a large body read.
   The way of one request: net.h take_head, take_body, handle_request; engine.h open_request; settings.h
   read_generation; engine.h start_choices, step_models, on_token, on_done; answer.h.

   Exit status: 0 ended by a signal, 1 it could not be done, 2 wrong usage. */
#include "tools/cli.h"

#define BITNET_IMPLEMENTATION
#include "bitnet.h"

#include "net.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#define DRAIN_S 0.5                  /* after a signal: what runs may end by itself */
#define END_S 0.85                   /* after a signal: whatever still holds us up, the process ends */

static volatile sig_atomic_t stop_signal;
static int signal_fd;                /* the pipe that wakes the network thread */

static void on_stop_signal(int number)
{
    const int saved = errno;
    stop_signal = number;
    if (write(signal_fd, "", 1) != 1) {}                 /* a full pipe wakes as well */
    errno = saved;
}

static void catch_signals(int fd)
{
    struct sigaction action;
    signal_fd = fd;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_stop_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    cli_ignore_sigpipe();
}

/* ------------------------------------------------------------------------------------------------- options */

/* --api-key-file. The key stays in memory until the end. */
static const char *read_key(const char *path)
{
    char *text = cli_read_file(path, NULL);
    if (!text) cli_fail("--api-key-file %s: %s", path, strerror(errno));
    text[strcspn(text, "\r\n")] = 0;
    if (!text[0]) cli_fail("--api-key-file %s: its first line is empty", path);
    return text;
}

static void check_options(const server_options *o)
{
    struct stat info;
    if (!o->models.n && !o->models_dir) cli_usage("no model given: -m FILE or --models-dir FOLDER (--help says more)");
    if (o->alias && (o->models.n > 1 || o->models_dir)) cli_usage("--alias: names one model, and there may be several");
    if (o->slot_path && (stat(o->slot_path, &info) != 0 || !S_ISDIR(info.st_mode)))
        cli_fail("--slot-save-path %s: not a folder", o->slot_path);
    if (o->api_key && o->api_key_file) cli_usage("--api-key and --api-key-file: which one?");
    if (o->api_key && !o->api_key[0]) cli_usage("--api-key: the key is empty");
    cli_check_model_args(&o->model);
}

static void read_options(server_options *o, int argc, char **argv)
{
    const char *args[1];
    const cli_option options[] = {
        {NULL, CLI_HEADING, NULL, NULL, "Models", 0, 0},
        {"-m --model", CLI_STRINGS, &o->models, "FILE", "a model, a GGUF file; several times: several models,\n"
         "each loaded when a request names it", 0, 0},
        {"--models-dir", CLI_STRING, &o->models_dir, "FOLDER", "offer every model of a folder, likewise", 0, 0},
        {"-a --alias", CLI_STRING, &o->alias, "NAME", "what clients call the model (default: the file's name)", 0, 0},
        {"--idle-unload", CLI_INT, &o->idle_unload, "S", "give a model's memory back after S seconds without a request",
         0, INT_MAX},
        CLI_MODEL_OPTIONS(o->model)
        {"--chat-template", CLI_STRING, &o->model.chat_template, "NAME", "use this template, not the file's", 0, 0},
        {NULL, CLI_HEADING, NULL, NULL, "Work", 0, 0},
        {"-np --parallel", CLI_INT, &o->n_parallel, "N", "slots: texts generated at a time, in one pass (default 4)",
         1, MAX_SLOTS},
        {"-c --ctx-size", CLI_INT, &o->n_ctx, "N", "tokens of context; with -np: of all slots together; 0: the\n"
         "training context (default: at most 4096 of it)", 0, INT_MAX},
        {"-b --batch-size", CLI_INT, &o->n_batch, "N", "prompt tokens per pass over the weights: a hint", 0, INT_MAX},
        {"-n --predict --n-predict", CLI_INT, &o->n_predict, "N", "tokens of an answer, where the request does\n"
         "not say; -1: until the model ends (default)", -2, INT_MAX},
        {"--temp", CLI_REAL, &o->temperature, "T", "temperature, where the request does not say (default 0.8)", 0, 100},
        {"-p --prompt --system-prompt", CLI_STRING, &o->system, "TEXT", "instructions for conversations that have none",
         0, 0},
        {"--queue", CLI_INT, &o->queue, "N", "requests that may wait; further ones get 503 (default 256)", 1, 100000},
        {"--request-timeout", CLI_INT, &o->request_timeout, "S", "seconds until a request is answered, or given up; 0:\n"
         "no limit (default 600)", 0, 1000000},
        {"--slot-save-path", CLI_STRING, &o->slot_path, "FOLDER", "allow slots to be saved there", 0, 0},
        {NULL, CLI_HEADING, NULL, NULL, "Network", 0, 0},
        {"--host", CLI_STRING, &o->host, "ADDRESS", "where to listen (default 127.0.0.1: this machine only)", 0, 0},
        {"--port", CLI_INT, &o->port, "N", "TCP port; 0: any, which is printed (default 8080)", 0, 65535},
        {"--api-key-file", CLI_STRING, &o->api_key_file, "FILE", "the same, where ps does not show it: the file's first line", 0, 0},
        {"--api-key", CLI_STRING, &o->api_key, "KEY", "clients must know it (\"Authorization: Bearer KEY\")", 0, 0},
        {"--timeout", CLI_INT, &o->timeout, "S", "seconds for a request to arrive, and for a client that does\n"
         "not read (default 60)", 1, 1000000},
        {"--no-webui", CLI_FLAG, &o->no_page, NULL, "no web page at /", 0, 0},
        {"--log-disable", CLI_FLAG, &logger.off, NULL, "no log on stderr", 0, 0},
        {"-v --verbose", CLI_FLAG, &logger.verbose, NULL, "a longer log", 0, 0},
        {"-ub --ubatch-size -tb --threads-batch -ngl --n-gpu-layers --gpu-layers -ctk --cache-type-k -ctv "
         "--cache-type-v --pooling --threads-http --cache-reuse -sps --slot-prompt-similarity",
         CLI_IGNORED_VALUE, NULL, NULL, NULL, 0, 0},
        {"-fa --flash-attn", CLI_IGNORED_SWITCH, NULL, NULL, NULL, 0, 0},
        {"-cb --cont-batching -nocb --no-cont-batching --embedding --embeddings --metrics --slots --no-slots --props "
         "--jinja --no-warmup --no-perf --log-colors", CLI_IGNORED, NULL, NULL, NULL, 0, 0}
    };
    const cli_program program = {"server", "[options] -m MODEL", "Serves models over HTTP: the APIs of OpenAI and of "
                                 "llama-server, and a page to chat at /.", NULL, options, CLI_COUNT(options), 0, 0};
    cli_parse(&program, argc, argv, args);
    check_options(o);
}

/* -------------------------------------------------------------------------------------------- start and end */

/* Large buffers go back to the system when they are freed. Left alone, glibc learns from the first ones to keep such
   memory, in every thread's heap anew, and a few bodies of megabytes leave the process tens of megabytes larger. */
static void keep_memory_small(void)
{
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 256 << 10);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
#endif
}

static void start_server(server *s)
{
    int fds[2], i;
    s->models = (hosted *)cli_alloc(MAX_MODELS * sizeof *s->models);
    for (i = 0; i < s->o.models.n; i++) server_add_model(s, s->o.models.item[i], 0);
    if (s->o.models_dir) server_add_folder(s, s->o.models_dir);
    if (s->n_models == 0) cli_fail("%s: no model in this folder", s->o.models_dir);
    if (s->o.alias) snprintf(s->models[0].name, sizeof s->models[0].name, "%s", s->o.alias);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    s->inbox_end = &s->inbox;
    if (pipe(fds) != 0) cli_fail("no pipe: %s", strerror(errno));
    set_nonblocking(fds[0]);
    set_nonblocking(fds[1]);
    s->wake_read = fds[0];
    s->wake_write = fds[1];
}

static void announce(const server *s)
{
    char line[200];
    const int v6 = strchr(s->o.host, ':') != NULL;
    const int n = snprintf(line, sizeof line, "listening on http://%s%.99s%s:%d\n", v6 ? "[" : "", s->o.host,
                           v6 ? "]" : "", s->o.port);
    write_if_room(STDOUT_FILENO, line, (size_t)n);
    log_line("listen", "host=%s port=%d models=%d", s->o.host, s->o.port, s->n_models);
    if (!s->o.api_key && strcmp(s->o.host, "127.0.0.1") != 0 && strcmp(s->o.host, "localhost") != 0 &&
        strcmp(s->o.host, "::1") != 0)
        log_line("warning", "note=\"other machines may reach this server, and there is no --api-key\"");
}

/* Tells the engine how far the end has come, see server.ending. */
static void set_ending(server *s, int stage)
{
    pthread_mutex_lock(&s->lock);
    if (s->ending < stage) {
        s->ending = stage;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
}

static int server_flag(server *s, const int *flag)
{
    int v;
    pthread_mutex_lock(&s->lock);
    v = *flag;
    pthread_mutex_unlock(&s->lock);
    return v;
}

/* The network thread's life. Returns when a signal came and all is said, or (1) when the model could not be loaded. */
static int run_network(network *net)
{
    server *s = net->s;
    double asked = 0;                                    /* when the signal came; 0: not yet */
    for (;;) {
        double now;
        network_turn(net, asked > 0 ? 10 : net->n ? 200 : -1, asked > 0);
        now = cli_seconds();
        if (server_flag(s, &s->failed) && !stop_signal) return 1;
        if (!stop_signal) continue;
        if (asked <= 0) {
            asked = now;
            log_line("stop", "signal=%d", (int)stop_signal);
            close(net->listener);
            net->listener = -1;
            set_ending(s, 1);
        }
        if (now - asked > DRAIN_S || server_flag(s, &s->n_open) == 0) set_ending(s, 2);
        if (net->n == 0 || now - asked > END_S - 0.1) break;
    }
    set_ending(s, 3);
    while (!server_flag(s, &s->engine_ended)) {
        if (cli_seconds() - asked > END_S) _exit(0);     /* the engine is in the middle of something long */
        network_turn(net, 10, 1);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static server s;
    static network net;
    pthread_t engine;
    int failed, i;
    s.o.n_ctx = -1;
    s.o.n_predict = -1;
    s.o.temperature = 0.8;
    s.o.host = "127.0.0.1";
    s.o.port = 8080;
    s.o.timeout = 60;
    s.o.request_timeout = 600;
    s.o.queue = 256;
    read_options(&s.o, argc, argv);
    if (s.o.api_key_file) s.o.api_key = read_key(s.o.api_key_file);
    keep_memory_small();
    start_server(&s);
    catch_signals(s.wake_write);
    net.s = &s;
    net.listener = open_listener(s.o.host, &s.o.port);
    s.ready = s.n_models > 1;                            /* several are loaded when they are asked for */
    if (pthread_create(&engine, NULL, engine_main, &s) != 0) cli_fail("no thread: %s", strerror(errno));
    announce(&s);
    failed = run_network(&net);
    if (failed) cli_fail("%s", s.failure);
    pthread_join(engine, NULL);
    while (net.n) close_connection(&net, net.n - 1);
    for (i = 0; i < s.n_models; i++) free(s.models[i].path);
    free(s.models);
    log_line("end", "requests=%" PRIu64, net.n_requests);
    return CLI_EXIT_OK;
}
