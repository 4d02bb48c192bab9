/* engine.h: the engine thread. It reads requests, gives them slots, lets the engine work, and writes answers.

   engine_turn is the loop's body, and the place to begin reading: take what is new, start what fits, compute for some
   milliseconds, hand out what came of it, look who has gone. All slots of a model advance in one pass over its weights,
   so that a second client costs little. */
#ifndef SERVER_ENGINE_H
#define SERVER_ENGINE_H

#include "answer.h"

#define STEP_US 10000                /* one slice of computing: so late may a hang-up be noticed, or a request begin */
#define LARGE_BODY 65536             /* bytes: about what is parsed and tokenized in a slice's time, at the slowest */

/* What /metrics counts, from the start on. */
typedef struct totals {
    uint64_t prompt_tokens, generated_tokens, steps, busy_slots;
    double prompt_ms, generate_ms;
} totals;

typedef struct engine_thread {
    server *s;
    request *queue;                  /* in the order they came: to be read, waiting for their model or for slots */
    request *running;                /* all of their choices are started */
    request *reading;                /* one of the queue, whose large body the reader reads; NULL: none */
    aside *reader;
    totals totals;
} engine_thread;

/* ------------------------------------------------------------------------------------------- the end of things */

static void unlink_request(request **list, const request *r)
{
    for (; *list; list = &(*list)->next)
        if (*list == r) {
            *list = r->next;
            return;
        }
}

/* r has been answered, or has no one to answer to. */
static void close_request(engine_thread *e, request *r)
{
    unlink_request(&e->queue, r);
    unlink_request(&e->running, r);
    if (r->model) r->model->n_requests--;
    request_finish(e->s, r);
}

/* Takes the slots of r away from it; what their sessions were doing is dropped. */
static void stop_choices(request *r)
{
    hosted *m = r->model;
    bitnet_event event;
    int i;
    for (i = 0; m && i < m->n_slots; i++) {
        slot *s = &m->slots[i];
        if (s->request != r) continue;
        bitnet_cancel(s->session);
        /* The rows in flight are dropped at the next work item, which a budget of 0 is. DONE may follow a TOKEN. */
        do {
            bitnet_step(m->engine, 0);
            while (bitnet_next_event(s->session, &event) && event.type != BITNET_EVENT_DONE)
                if (event.type == BITNET_EVENT_PROGRESS) s->n_done = event.n_done;
        } while (event.type != BITNET_EVENT_DONE);
        slot_release(m, s);
    }
}

/* ------------------------------------------------------------------------------------------------- events */

/* Log probabilities whose tokens' text begins in what is out now. A token that turned out to be part of a stop string
   never is; all of them are due when the text has ended in another way. */
static void release_logprobs(const request *r, choice *c, int all)
{
    int i, n = 0;
    while (n < c->n_waiting && (all || c->waiting[n].start < c->text.size || c->waiting[n].start == c->n_raw)) n++;
    for (i = 0; i < n; i++) {
        if (r->route == ROUTE_COMPLETIONS) put_legacy_entry(r, c, &c->waiting[i]);
        else put_logprob_entry(r, c, &c->waiting[i]);
    }
    c->n_waiting -= n;
    if (n) memmove(c->waiting, c->waiting + n, (size_t)c->n_waiting * sizeof *c->waiting);
}

static void note_logprob(choice *c, const bitnet_event *event)
{
    token_logprob *t;
    if (c->n_waiting == c->waiting_capacity) {
        const int capacity = c->waiting_capacity ? 2 * c->waiting_capacity : 16;
        t = (token_logprob *)realloc(c->waiting, (size_t)capacity * sizeof *t);
        if (!t) {
            c->logprobs.failed = 1;
            return;
        }
        c->waiting = t;
        c->waiting_capacity = capacity;
    }
    t = &c->waiting[c->n_waiting++];
    t->token = event->token;
    t->logprob = event->logprob;
    t->n_top = event->n_top;
    if (event->n_top) memcpy(t->top, event->top, (size_t)event->n_top * sizeof *t->top);
    t->start = c->n_raw;
}

static void on_token(engine_thread *e, request *r, int i, const bitnet_event *event)
{
    choice *c = &r->choices[i];
    const int64_t n = bitnet_detokenize(r->model->model, &event->token, 1, NULL, 0, 0);
    c->n_generated++;
    put(&c->tokens, c->tokens.size ? ",%d" : "%d", (int)event->token);
    if (r->how.logprobs) note_logprob(c, event);
    c->n_raw += n > 0 ? (size_t)n : 0;
    put_bytes(&c->text, event->text, event->text_size);
    release_logprobs(r, c, 0);
    if (r->stream && (event->text_size || c->logprobs.size)) stream_piece(e->s, r, i, event->text, event->text_size);
}

static void note_stats(engine_thread *e, choice *c, const slot *s)
{
    bitnet_stats stats;
    memset(&stats, 0, sizeof stats);
    bitnet_get_stats(s->session, &stats);
    c->n_prompt = (int)stats.prompt_tokens;
    c->n_generated = (int)stats.generated_tokens;
    c->prompt_ms = 1e-6 * (double)stats.prompt_ns;
    c->generate_ms = 1e-6 * (double)stats.generate_ns;
    e->totals.prompt_tokens += stats.prompt_tokens;
    e->totals.generated_tokens += stats.generated_tokens;
    e->totals.prompt_ms += c->prompt_ms;
    e->totals.generate_ms += c->generate_ms;
}

/* The slot's choice has ended by itself. */
static void on_done(engine_thread *e, hosted *m, slot *s, const bitnet_event *event)
{
    request *r = s->request;
    const int i = s->choice;
    choice *c = &r->choices[i];
    if (event->reason == BITNET_DONE_ERROR || event->reason == BITNET_DONE_CANCELLED) {
        char why[240];
        snprintf(why, sizeof why, "%s", event->error ? event->error->text : "cancelled");
        slot_release(m, s);
        stop_choices(r);
        request_fail(e->s, r, 500, "%s", why);
        close_request(e, r);
        return;
    }
    c->state = CHOICE_DONE;
    c->reason = event->reason;
    put_bytes(&c->text, event->text, event->text_size);
    release_logprobs(r, c, event->reason != BITNET_DONE_STOP);
    note_stats(e, c, s);
    if (is_embedding(r)) write_embedding(r, c);
    if (r->stream && (event->text_size || c->logprobs.size)) stream_piece(e->s, r, i, event->text, event->text_size);
    slot_release(m, s);
    r->n_done++;
    if (r->stream) stream_finish(e->s, r, i);
    if (r->n_done < r->n_prompts * r->n) return;
    if (r->stream) request_stream_end(e->s, r);
    else answer_whole(e->s, r);
    close_request(e, r);
}

/* Everything that the slot's session has to tell. */
static void collect_events(engine_thread *e, hosted *m, slot *s)
{
    bitnet_event event;
    while (s->request && bitnet_next_event(s->session, &event)) {
        if (event.type == BITNET_EVENT_PROGRESS) s->n_done = event.n_done;
        else if (event.type == BITNET_EVENT_TOKEN) on_token(e, s->request, s->choice, &event);
        else on_done(e, m, s, &event);
    }
}

/* ------------------------------------------------------------------------------------------------ starting */

/* Begins choice i, a text or an embedding, in the slot. 0: it could not, and r has its answer. */
static int start_choice(engine_thread *e, slot *s, request *r, int i)
{
    const prompt *p = &r->prompts[i / r->n];
    bitnet_generation how = r->how;
    bitnet_result result;
    choice *c = &r->choices[i];
    const int keep = r->cache_prompt && !is_embedding(r) ? slot_common_prefix(s, p) : 0;
    if (is_embedding(r)) {
        c->embedding = (float *)malloc((size_t)r->model->live.n_embd * sizeof *c->embedding);
        if (!c->embedding) {
            request_fail(e->s, r, 500, "out of memory");
            return 0;
        }
        memset(&how, 0, sizeof how);
        how.embedding = c->embedding;
    }
    bitnet_session_rewind(s->session, keep);
    how.sampling.seed += (uint64_t)i;                    /* or all choices were the same */
    result = bitnet_begin(s->session, p->tokens + keep, p->n - keep,
                          !how.embedding && r->has_max_tokens && !how.max_tokens ? NULL : &how);
    if (result != BITNET_OK) {
        request_fail(e->s, r, 400, "the model refuses these settings: %s", bitnet_result_text(result));
        return 0;
    }
    s->request = r;
    s->choice = i;
    s->start = keep;
    s->n_done = 0;
    s->n_total = p->n - keep;
    c->state = CHOICE_RUNNING;
    c->slot = s->id;
    c->n_cached = keep;
    if (r->stream) stream_start(e->s, r, i);
    return 1;
}

/* The first choice of r is about to start: it waits no longer. */
static void leave_queue_count(server *s, const request *r)
{
    if (r->n_started || !route_waits(r->route)) return;
    pthread_mutex_lock(&s->lock);
    s->n_waiting--;
    pthread_mutex_unlock(&s->lock);
}

/* Starts as many choices of r as there are free slots. */
static void start_choices(engine_thread *e, request *r)
{
    hosted *m = r->model;
    const int n = r->n_prompts * r->n;
    slot *s;
    int ok = 1;
    while (ok && r->n_started < n && (s = hosted_pick_slot(m, &r->prompts[r->n_started / r->n], r->slot)) != NULL) {
        leave_queue_count(e->s, r);
        slot_settle(m, s);
        ok = start_choice(e, s, r, r->n_started);
        r->n_started++;
    }
    if (!ok) {
        stop_choices(r);
        close_request(e, r);
    } else if (r->n_started == n) {
        unlink_request(&e->queue, r);
        r->next = e->running;
        e->running = r;
    }
}

/* ------------------------------------------------------------------------------------------- reading requests */

#include "tasks.h"

/* Parses the body and finds the model that it names. */
static void parse_request(server *s, request *r)
{
    body *b = &r->body;
    const char *name;
    char target[sizeof r->query];
    if (r->raw.size == 0) put_text(&r->raw, "{}");       /* GET */
    if (r->raw.failed) refuse_memory(b);
    else if (!json_parse(&b->d, r->raw.data, r->raw.size))
        refuse(b, "the body is not JSON: %s at byte %zu", b->d.error, b->d.error_at);
    b->root = json_root(&b->d);
    if (!b->status && !json_is(b->root, JSON_OBJECT)) refuse(b, "the body is not a JSON object");
    name = b->status ? NULL : field_string(b, "model");
    if (!name && http_query(r->query, "model", target, sizeof target)) name = target;
    if (b->status) return;
    r->model = server_find_model(s, name);
    if (r->model) return;
    refuse(b, "model: there is no '%.100s' here; GET /v1/models lists what there is", name);
    b->status = 404;
}

static void reader_aside(server *s, void *what)
{
    request *r = (request *)what;
    if (r->stage == AS_IT_CAME) parse_request(s, r);
    else read_text_task(s, r);
}

/* The stage after that of now is reached. */
static void next_stage(request *r)
{
    if (r->stage == AS_IT_CAME && r->model) r->model->n_requests++;
    r->stage++;
}

/* Brings r one stage on. 1: it is there; 0: the reader is to bring it, as it takes long, or is busy with another. */
static int read_on(engine_thread *e, request *r)
{
    if (r->raw.size > LARGE_BODY && task_has_text(r->route)) {
        if (e->reading) return 0;
        e->reader = aside_start(e->s, reader_aside, r);
        if (e->reader) e->reading = r;
        if (e->reader) return 0;
    }
    if (r->stage == AS_IT_CAME) parse_request(e->s, r);
    else if (task_has_text(r->route)) read_text_task(e->s, r);
    else answer_state_task(e, r);
    next_stage(r);
    return 1;
}

/* Reads what r asks for, as far as that goes now. 1: its choices can start; 0: it waits, or is answered, and gone. */
static int open_request(engine_thread *e, request *r)
{
    body *b = &r->body;
    if (r->stage == OPEN) return 1;
    if (r == e->reading) return 0;
    if (r->stage == AS_IT_CAME && !read_on(e, r)) return 0;
    if (!b->status && !r->model->model && task_needs_model(r->route)) {
        if (hosted_start_load(e->s, r->model)) return 0;
        refuse_memory(b);
    }
    if (!b->status && r->stage == PARSED && !read_on(e, r)) return 0;
    json_free(&b->d);
    buffer_free(&r->raw);
    if (b->status) request_fail(e->s, r, b->status, "%s", b->message);
    r->stage = OPEN;
    if (!r->status) return 1;
    leave_queue_count(e->s, r);
    close_request(e, r);
    return 0;
}

/* m could not be loaded: all who wait for it hear why. */
static void fail_load(engine_thread *e, const hosted *m, const bitnet_error *err)
{
    request *r, *next;
    for (r = e->queue; r; r = next) {
        next = r->next;
        if (r == e->reading || r->model != m) continue;
        if (err->code == BITNET_ERROR_CANCELLED) request_fail(e->s, r, 503, "The server is shutting down");
        else request_fail(e->s, r, 500, "%s: %s", m->name, err->text);
        leave_queue_count(e->s, r);
        close_request(e, r);
    }
}

/* Takes over what asides have done. */
static void take_asides(engine_thread *e)
{
    int i;
    if (e->reading && aside_end(&e->reader, 0)) {
        next_stage(e->reading);
        e->reading = NULL;
    }
    for (i = 0; i < e->s->n_models; i++) {
        hosted *m = &e->s->models[i];
        bitnet_error err;
        int ok;
        if (!m->load || !aside_end(&m->load->aside, 0)) continue;
        ok = hosted_end_load(m, &err);
        server_set_ready(e->s, ok, err.text);
        if (!ok) fail_load(e, m, &err);
    }
}

/* ------------------------------------------------------------------------------------------------ the loop */

/* Ends requests whose client has gone, whose time is over, or all of them. */
static void drop_requests(engine_thread *e, request *list, int ending, double now)
{
    request *r, *next;
    for (r = list; r; r = next) {
        const int gone = request_is_gone(e->s, r);
        next = r->next;
        if (r == e->reading || (!gone && now < r->deadline && ending < 2)) continue;
        stop_choices(r);
        if (!r->n_started) leave_queue_count(e->s, r);
        if (gone) r->status = 499;                       /* for the log, as nginx has it */
        else if (ending) request_fail(e->s, r, 503, "The server is shutting down");
        else request_fail(e->s, r, 504, "The request took longer than --request-timeout");
        close_request(e, r);
    }
}

/* Starts what the free slots allow, in the order of arrival. A request that waits for a model's slots does not hold
   up those of other models. */
static void start_requests(engine_thread *e)
{
    request *r, *next;
    for (r = e->queue; r; r = next) {
        next = r->next;
        if (open_request(e, r)) start_choices(e, r);
    }
}

/* A slice of work for every model that has some. Returns whether there was any. */
static int step_models(engine_thread *e)
{
    int i, k, busy, any = 0;
    for (i = 0; i < e->s->n_models; i++) {
        hosted *m = &e->s->models[i];
        for (k = busy = 0; k < m->n_slots; k++) busy += m->slots[k].request != NULL;
        if (!busy) continue;
        any = 1;
        bitnet_step(m->engine, STEP_US);
        e->totals.steps++;
        e->totals.busy_slots += (uint64_t)busy;
        for (k = 0; k < m->n_slots; k++) collect_events(e, m, &m->slots[k]);
    }
    return any;
}

/* Models that nobody has asked for in a while give their memory back. */
static void unload_idle(engine_thread *e, double now)
{
    int i;
    for (i = 0; e->s->o.idle_unload > 0 && i < e->s->n_models; i++) {
        hosted *m = &e->s->models[i];
        if (!m->model || m->n_requests > 0 || now - m->last_used < e->s->o.idle_unload) continue;
        hosted_unload(m);
        log_line("unload", "model=%s", m->name);
    }
}

/* Takes everything out of the inbox, waiting for it where there is nothing else to do. *ending as in server. */
static request *take_inbox(engine_thread *e, int wait, int *ending)
{
    server *s = e->s;
    request *first;
    struct timespec until;
    pthread_mutex_lock(&s->lock);
    if (wait && !s->inbox && !s->aside_done && s->ending < 2) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;                                  /* for deadlines and idle models, which nobody announces */
        pthread_cond_timedwait(&s->work, &s->lock, &until);
    }
    first = s->inbox;
    s->inbox = NULL;
    s->inbox_end = &s->inbox;
    s->aside_done = 0;
    *ending = s->ending;
    pthread_mutex_unlock(&s->lock);
    return first;
}

/* One round; *idle: the last one found nothing to compute. Returns 0 when the thread is to end. */
static int engine_turn(engine_thread *e, int *idle)
{
    request **end = &e->queue;
    int ending;
    const double now = cli_seconds();
    while (*end) end = &(*end)->next;
    *end = take_inbox(e, *idle, &ending);
    take_asides(e);
    drop_requests(e, e->queue, ending, now);
    drop_requests(e, e->running, ending, now);
    start_requests(e);
    *idle = !step_models(e);                             /* who is in the queue then waits for an aside */
    unload_idle(e, now);
    return ending < 3 || e->queue || e->running;
}

static void *engine_main(void *user)
{
    engine_thread e;
    bitnet_error err;
    int idle = 1, i;
    memset(&e, 0, sizeof e);
    e.s = (server *)user;
    if (e.s->n_models == 1 && !hosted_start_load(e.s, &e.s->models[0])) server_set_ready(e.s, 0, "out of memory");
    while (engine_turn(&e, &idle)) {}
    for (i = 0; i < e.s->n_models; i++) {
        hosted *m = &e.s->models[i];
        if (m->load && aside_end(&m->load->aside, 1)) hosted_end_load(m, &err);
        hosted_unload(m);
    }
    pthread_mutex_lock(&e.s->lock);
    e.s->engine_ended = 1;
    server_wake_network(e.s);
    pthread_mutex_unlock(&e.s->lock);
    return NULL;
}

#endif /* SERVER_ENGINE_H */
