/* request.h: a request, and the place where the two threads meet.

   The network thread owns connections, the engine thread owns models and sessions. What passes between them is a
   request: the network thread makes it and puts it into the inbox; the engine thread takes it out, writes bytes of the
   answer into r->out, and says when it is done; the network thread carries those bytes to the client. Either side may be
   done first: a client that hangs up leaves the request `gone`, and then the engine frees it.

   One lock guards all that both see. It is held for moments, never while computing, so neither thread waits long.

   What takes long and is no step of a generation, an aside does: a thread that lives as long as that work. The engine
   thread begins it, looks now and then whether it is done, and meanwhile keeps its hands off what it gave away. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include <pthread.h>
#include <unistd.h>

#include "http.h"
#include "log.h"

typedef enum route {
    ROUTE_NONE,
    ROUTE_OPTIONS, ROUTE_HEALTH, ROUTE_MODELS, ROUTE_MODEL, ROUTE_PAGE,                /* the network thread answers */
    ROUTE_CHAT, ROUTE_COMPLETIONS, ROUTE_COMPLETION, ROUTE_EMBEDDINGS, ROUTE_EMBEDDING,
    ROUTE_TOKENIZE, ROUTE_DETOKENIZE, ROUTE_TEMPLATE, ROUTE_PROPS, ROUTE_SLOTS, ROUTE_SLOT, ROUTE_METRICS
} route;

/* 1 for work that may have to wait for a slot; the rest is done as soon as it comes. */
static int route_waits(route route) { return route >= ROUTE_CHAT && route <= ROUTE_EMBEDDING; }

/* A log probability that waits for its token's text: `start` is where that begins in the choice's text. */
typedef struct token_logprob {
    int32_t token;
    float logprob;
    int n_top;
    bitnet_logprob top[BITNET_MAX_LOGPROBS];
    size_t start;
} token_logprob;

typedef struct prompt {
    int32_t *tokens;
    int n;
} prompt;

/* One text (or embedding) of an answer: prompt i has choices n * i to n * i + n - 1. */
typedef struct choice {
    enum { CHOICE_WAITING, CHOICE_RUNNING, CHOICE_DONE } state;
    buffer text;                     /* all of it so far */
    size_t n_raw;                    /* bytes of all its tokens so far: where the next one's text begins */
    token_logprob *waiting;          /* [n_waiting] whose text is held back */
    int n_waiting, waiting_capacity;
    buffer logprobs;                 /* JSON of those whose text is out, with commas between */
    buffer tokens;                   /* ids, with commas between */
    float *embedding;                /* [n_embd] */
    bitnet_reason reason;
    int slot;
    int n_cached, n_prompt, n_generated;       /* tokens: found in the cache, evaluated, sampled */
    double prompt_ms, generate_ms;
} choice;

/* A body while it is read. */
typedef struct body {
    json_doc d;
    const json_node *root;
    int status;                      /* of the answer that refuses it; 0: all is well so far */
    char message[300];
} body;

/* What the client asked for. Zeroed strings and lists: absent. */
typedef struct request {
    struct request *next;            /* in the inbox, then in the queue */
    uint64_t id;
    route route;
    char peer[64], path[64];
    char query[256];
    char target[160];                /* what follows the path of /models/ and /slots/ */
    int minor, keep_alive;
    double arrived, deadline;        /* cli_seconds() */
    buffer raw;                      /* the body as it came; empty once it is read */
    size_t raw_size;                 /* of what came */

    /* Under the lock. */
    buffer out;                      /* bytes for the client that the network thread has not taken yet */
    int done;                        /* the engine says: there will be no more */
    int gone;                        /* the network says: nobody listens any more */

    /* The engine thread's own, or while an aside reads the body that one's. */
    enum { AS_IT_CAME, PARSED, READ, OPEN } stage;       /* of reading the body */
    body body;
    struct hosted *model;            /* known when the body is parsed */
    prompt *prompts;
    int n_prompts, n;                /* n choices of each prompt */
    choice *choices;                 /* [n_prompts * n] */
    int n_started, n_done;           /* of the choices */
    int stream, include_usage, base64, native_logprobs, return_tokens, cache_prompt, slot;
    int has_max_tokens;
    bitnet_generation how;           /* stops and bias point to what follows */
    const char *stops[BITNET_MAX_STOPS];
    char *stop_text;                 /* the strings one after the other, each with its NUL */
    bitnet_logit_bias *bias;
    char *prompt_text;               /* of llama-server's /completion, which repeats it in its answer */
    int streaming;                   /* 1: the head of a streamed answer is out */
    int status;                      /* of the answer; 0: not answered yet */
    time_t created;
    char name[40];                   /* "chatcmpl-..." */
} request;

typedef struct server_options {
    cli_model_args model;            /* its path is not used */
    cli_strings models;
    const char *models_dir, *host, *alias, *api_key, *api_key_file, *system, *slot_path;
    int port, n_ctx, n_batch, n_parallel, n_predict, timeout, request_timeout, queue, idle_unload, no_page;
    double temperature;
} server_options;

typedef struct server {
    server_options o;
    pthread_mutex_t lock;
    pthread_cond_t work;             /* the inbox or a flag below has changed */
    int wake_read, wake_write;       /* a pipe: a byte in it wakes the network thread */
    struct hosted *models;           /* [n_models]; the list itself does not change */
    int n_models;

    /* Under the lock. */
    int awake;                       /* 1: that byte is on its way */
    request *inbox, **inbox_end;
    int n_open, n_waiting;           /* requests with the engine; of these, not started */
    size_t n_bytes;                  /* of their bodies */
    int ready;                       /* 0: the only model is being loaded */
    int ending;                      /* 1: take no more, finish; 2: cancel what still runs; 3: end the thread */
    int aside_done;                  /* 1: an aside is done, and the engine thread has not looked yet */
    int engine_ended;
    int failed;                      /* 1: the only model could not be loaded, */
    char failure[400];               /* and why */
    uint64_t n_refused;              /* requests that found the queue full */
} server;

/* ---------------------------------------------------------------------------------------------- asides */

typedef struct aside {
    server *s;
    pthread_t thread;
    void (*work)(server *s, void *what);
    void *what;
    int done;                        /* under the lock */
} aside;

static void *aside_main(void *user)
{
    aside *a = (aside *)user;
    a->work(a->s, a->what);
    pthread_mutex_lock(&a->s->lock);
    a->done = a->s->aside_done = 1;
    pthread_cond_signal(&a->s->work);
    pthread_mutex_unlock(&a->s->lock);
    return NULL;
}

/* NULL: the system has no memory or no thread for it. */
static aside *aside_start(server *s, void (*work)(server *s, void *what), void *what)
{
    aside *a = (aside *)calloc(1, sizeof *a);
    if (!a) return NULL;
    a->s = s;
    a->work = work;
    a->what = what;
    if (pthread_create(&a->thread, NULL, aside_main, a) == 0) return a;
    free(a);
    return NULL;
}

/* 1: all that it did is there, and *a is gone and NULL. Without wait 0 if it still works. */
static int aside_end(aside **a, int wait)
{
    int done;
    pthread_mutex_lock(&(*a)->s->lock);
    done = (*a)->done;
    pthread_mutex_unlock(&(*a)->s->lock);
    if (!done && !wait) return 0;
    pthread_join((*a)->thread, NULL);
    free(*a);
    *a = NULL;
    return 1;
}

/* ---------------------------------------------------------------------------------------------- life */

static void request_free(request *r)
{
    int i;
    if (!r) return;
    for (i = 0; r->choices && i < r->n_prompts * r->n; i++) {
        buffer_free(&r->choices[i].text);
        buffer_free(&r->choices[i].logprobs);
        buffer_free(&r->choices[i].tokens);
        free(r->choices[i].waiting);
        free(r->choices[i].embedding);
    }
    for (i = 0; r->prompts && i < r->n_prompts; i++) free(r->prompts[i].tokens);
    free(r->choices);
    free(r->prompts);
    free(r->stop_text);
    free(r->bias);
    free(r->prompt_text);
    json_free(&r->body.d);
    buffer_free(&r->raw);
    buffer_free(&r->out);
    free(r);
}

/* The network thread will look at all requests soon. Under the lock. */
static void server_wake_network(server *s)
{
    if (s->awake) return;
    s->awake = 1;
    if (write(s->wake_write, "", 1) != 1) s->awake = 0;  /* a full pipe holds a byte that wakes as well */
}

/* The engine's: the only model is loaded, or (ok 0) cannot be. What happens to models later changes nothing. */
static void server_set_ready(server *s, int ok, const char *why)
{
    pthread_mutex_lock(&s->lock);
    if (!s->ready) {
        s->ready = ok;
        s->failed = !ok;
        snprintf(s->failure, sizeof s->failure, "%s", why);
        server_wake_network(s);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Hands r over to the engine thread. Under the lock. */
static void server_submit(server *s, request *r)
{
    r->next = NULL;
    *s->inbox_end = r;
    s->inbox_end = &r->next;
    s->n_open++;
    s->n_bytes += r->raw_size;
    s->n_waiting += route_waits(r->route);
    pthread_cond_signal(&s->work);
}

/* The engine's: bytes for the client; taken out of *b, which is empty afterwards. */
static void request_send(server *s, request *r, buffer *b)
{
    pthread_mutex_lock(&s->lock);
    if (r->gone) b->size = 0;
    buffer_move(&r->out, b);
    server_wake_network(s);
    pthread_mutex_unlock(&s->lock);
}

/* The engine's: r is answered. It may be freed when this returns. */
static void request_finish(server *s, request *r)
{
    const choice *c = r->choices;
    int gone;
    if (r->status)
        log_line("request", "id=%" PRIu64 " client=%s path=%s status=%d ms=%.0f prompt=%d cached=%d generated=%d", r->id,
                 r->peer, r->path, r->status, 1e3 * (cli_seconds() - r->arrived), c ? c->n_prompt : 0,
                 c ? c->n_cached : 0, c ? c->n_generated : 0);
    pthread_mutex_lock(&s->lock);
    gone = r->gone;
    r->done = 1;
    s->n_open--;
    s->n_bytes -= r->raw_size;
    server_wake_network(s);
    pthread_mutex_unlock(&s->lock);
    if (gone) request_free(r);
}

/* The network's: nobody waits for r any more. */
static void request_abandon(server *s, request *r)
{
    int done;
    pthread_mutex_lock(&s->lock);
    done = r->done;
    r->gone = 1;
    if (!done) pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (done) request_free(r);
}

static int is_embedding(const request *r) { return r->route == ROUTE_EMBEDDING || r->route == ROUTE_EMBEDDINGS; }

static int request_is_gone(server *s, request *r)
{
    int gone;
    pthread_mutex_lock(&s->lock);
    gone = r->gone;
    pthread_mutex_unlock(&s->lock);
    return gone;
}

/* ---------------------------------------------------------------------------------------------- answers */

/* An error as the answer; or, where a stream has begun, as its last event. The request is not finished by this. */
CLI_PRINTF(4, 5) static void request_fail(server *s, request *r, int status, const char *format, ...)
{
    char message[400];
    buffer b, event;
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    memset(&b, 0, sizeof b);
    memset(&event, 0, sizeof event);
    r->status = status;
    if (r->streaming) {
        put_text(&event, "data: ");
        put_error(&event, status, message);
        put_text(&event, r->route == ROUTE_COMPLETION ? "\n\n" : "\n\ndata: [DONE]\n\n");
        http_put_chunk(&b, event.data, event.size, r->minor);
        put_text(&b, r->minor ? "0\r\n\r\n" : "");
    } else {
        http_put_error(&b, status, message, r->minor, r->keep_alive, "");
    }
    request_send(s, r, &b);
    buffer_free(&event);
    buffer_free(&b);
}

/* A whole answer. */
static void request_answer(server *s, request *r, const char *type, buffer *body)
{
    buffer b;
    if (body->failed) {
        request_fail(s, r, 500, "out of memory");
        return;
    }
    memset(&b, 0, sizeof b);
    r->status = 200;
    http_put_head(&b, 200, type, (int64_t)body->size, r->minor, r->keep_alive, "");
    put_bytes(&b, body->data, body->size);
    request_send(s, r, &b);
    buffer_free(&b);
}

#define JSON_TYPE "application/json; charset=utf-8"

/* The head of a streamed answer (server-sent events). */
static void request_stream_begin(server *s, request *r)
{
    buffer b;
    if (r->streaming) return;
    memset(&b, 0, sizeof b);
    r->streaming = 1;
    if (!r->minor) r->keep_alive = 0;                    /* only the connection's end can tell that it is over */
    http_put_head(&b, 200, "text/event-stream", -1, r->minor, r->keep_alive,
                  "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");     /* the latter: or nginx collects them */
    request_send(s, r, &b);
    buffer_free(&b);
}

/* One event; data is JSON and holds no line end. */
static void request_stream_event(server *s, request *r, buffer *data)
{
    buffer b, event;
    memset(&b, 0, sizeof b);
    memset(&event, 0, sizeof event);
    put_text(&event, "data: ");
    put_bytes(&event, data->data, data->size);
    put_text(&event, "\n\n");
    event.failed |= data->failed;
    http_put_chunk(&b, event.data, event.size, r->minor);
    b.failed |= event.failed;
    request_send(s, r, &b);
    data->size = 0;
    buffer_free(&event);
    buffer_free(&b);
}

static void request_stream_end(server *s, request *r)
{
    buffer b;
    memset(&b, 0, sizeof b);
    r->status = 200;
    if (r->route != ROUTE_COMPLETION) http_put_chunk(&b, "data: [DONE]\n\n", 14, r->minor);
    put_text(&b, r->minor ? "0\r\n\r\n" : "");
    request_send(s, r, &b);
    buffer_free(&b);
}

#endif /* SERVER_REQUEST_H */
