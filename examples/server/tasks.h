/* tasks.h: what each route makes of its body: a request for the queue, or an answer at once. */
#ifndef SERVER_TASKS_H
#define SERVER_TASKS_H

static int task_needs_model(route route) { return route != ROUTE_METRICS && route != ROUTE_SLOTS; }

/* 1: the body's text is all that the task is about, and may be long. */
static int task_has_text(route route) { return route >= ROUTE_CHAT && route <= ROUTE_TEMPLATE; }

/* ------------------------------------------------------------------------------------------------ tokens */

/* A token's text, or its bytes where they are only part of a character. */
static void put_piece(buffer *b, const hosted *m, int32_t token)
{
    char text[512];
    size_t n, i, size = 1;
    token_bytes(m, token, text, &n);
    for (i = 0; i < n && size; i += size) size = json_utf8_length((const unsigned char *)text + i, n - i);
    if (size) put_string(b, text, n);
    else put_byte_list(b, text, n);
}

static void task_tokenize(body *b, const request *r, buffer *out)
{
    const bitnet_model *model = r->model->model;
    const json_node *content = field(b, "content");
    const int pieces = field_flag(b, "with_pieces", 0);
    const int flags = (field_flag(b, "add_special", 0) ? BITNET_TOKENIZE_BOS : 0) |
                      (field_flag(b, "parse_special", 1) ? BITNET_TOKENIZE_SPECIAL : 0);
    const char *text = json_is(content, JSON_STRING) ? json_text(&b->d, content) : "";
    const int64_t most = content ? (int64_t)content->size + 16 : 1;   /* a byte each, and what stands around the text */
    int64_t n = 0, i;
    int32_t *tokens;
    if (content && !json_is(content, JSON_STRING)) refuse(b, "content: not a string");
    if (b->status) return;
    tokens = (int32_t *)malloc((size_t)most * sizeof *tokens);
    if (content && tokens) n = bitnet_tokenize(model, text, content->size, tokens, most, flags);
    if (!tokens || n < 0 || n > most) {
        free(tokens);
        refuse_memory(b);
        return;
    }
    put_text(out, "{\"tokens\":[");
    for (i = 0; i < n; i++) {
        put(out, pieces ? "%s{\"id\":%d,\"piece\":" : "%s%d", i ? "," : "", (int)tokens[i]);
        if (!pieces) continue;
        put_piece(out, r->model, tokens[i]);
        put_text(out, "}");
    }
    put_text(out, "]}");
    free(tokens);
}

static void task_detokenize(body *b, const request *r, buffer *out)
{
    const json_node *list = field(b, "tokens");
    int32_t *tokens;
    int64_t n;
    char *text;
    if (!json_is(list, JSON_ARRAY)) {
        refuse(b, "tokens: not a list");
        return;
    }
    tokens = read_tokens(b, r, "tokens", list);
    if (!tokens) return;
    n = bitnet_detokenize(r->model->model, tokens, list->size, NULL, 0, BITNET_DETOKENIZE_SPECIAL);
    text = n >= 0 ? (char *)malloc((size_t)n + 1) : NULL;
    if (n < 0) refuse(b, "tokens: not a token of this model");
    else if (!text) refuse_memory(b);
    else bitnet_detokenize(r->model->model, tokens, list->size, text, (size_t)n, BITNET_DETOKENIZE_SPECIAL);
    if (text) {
        put_text(out, "{\"content\":");
        put_string(out, text, (size_t)n);
        put_text(out, "}");
    }
    free(tokens);
    free(text);
}

static void task_template(body *b, const server_options *o, const request *r, buffer *out)
{
    conversation c;
    buffer text;
    memset(&text, 0, sizeof text);
    if (read_conversation(b, o, &c) && put_conversation(b, r->model, &c, &text)) {
        put_text(out, "{\"prompt\":");
        put_string(out, text.data ? text.data : "", text.size);
        put_text(out, "}");
    }
    conversation_free(&c);
    buffer_free(&text);
}

/* ------------------------------------------------------------------------------------------------- state */

static void put_token_text(buffer *b, const hosted *m, const char *name, int32_t token)
{
    size_t n = 0;
    const char *text = token >= 0 ? bitnet_token_text(m->model, token, &n) : "";
    put(b, ",\"%s\":", name);
    put_string(b, text ? text : "", n);
}

static void task_props(const server_options *o, const hosted *m, buffer *out)
{
    bitnet_generation how;
    body empty;
    memset(&how, 0, sizeof how);
    memset(&empty, 0, sizeof empty);
    read_sampling(&empty, o, &how.sampling);             /* the defaults: what a body without a field gets */
    how.sampling.seed = UINT32_MAX;
    put(out, "{\"default_generation_settings\":{\"n_ctx\":%d,\"params\":", m->n_ctx);
    put_settings(out, &how, o->n_predict);
    put(out, "},\"total_slots\":%d,\"model_alias\":", m->n_slots);
    put_cstring(out, m->name);
    put_text(out, ",\"model_path\":");
    put_cstring(out, m->path);
    put_text(out, ",\"chat_template\":");
    put_cstring(out, m->live.chat_template);
    put_token_text(out, m, "bos_token", m->live.bos);
    put_token_text(out, m, "eos_token", m->live.eot >= 0 ? m->live.eot : m->live.eos);
    put(out, ",\"modalities\":{\"vision\":false,\"audio\":false},\"build_info\":\"bitnet.h %s\"}", BITNET_VERSION);
}

static void task_slots(const hosted *m, buffer *out)
{
    int i;
    put_text(out, "[");
    for (i = 0; i < m->n_slots; i++) {
        const slot *s = &m->slots[i];
        put(out, "%s{\"id\":%d,\"id_task\":%" PRId64 ",\"n_ctx\":%d,\"is_processing\":%s,\"n_past\":%d,\"next_token\":"
            "[{\"has_next_token\":%s,\"n_decoded\":%d}]}", i ? "," : "", i, s->request ? (int64_t)s->request->id : -1,
            m->n_ctx, s->request ? "true" : "false",
            s->request ? bitnet_session_tokens(s->session, NULL) : s->n_evaluated,
            s->request ? "true" : "false", s->request ? s->request->choices[s->choice].n_generated : 0);
    }
    put_text(out, "]");
}

static void put_metric(buffer *b, const char *type, const char *name, const char *help, double value)
{
    put(b, "# HELP %s %s\n# TYPE %s %s\n%s %.10g\n", name, help, name, type, name, value);
}

/* The Prometheus names are llama-server's. */
static void task_metrics(engine_thread *e, buffer *out)
{
    const totals *t = &e->totals;
    int processing = 0, used = 0, room = 0, waiting, i, k;
    uint64_t refused;
    for (i = 0; i < e->s->n_models; i++)
        for (k = 0; k < e->s->models[i].n_slots; k++) {
            processing += e->s->models[i].slots[k].request != NULL;
            used += bitnet_session_tokens(e->s->models[i].slots[k].session, NULL);
            room += e->s->models[i].n_ctx;
        }
    pthread_mutex_lock(&e->s->lock);
    waiting = e->s->n_waiting;
    refused = e->s->n_refused;
    pthread_mutex_unlock(&e->s->lock);
    put_metric(out, "counter", "llamacpp:prompt_tokens_total", "Prompt tokens evaluated.", (double)t->prompt_tokens);
    put_metric(out, "counter", "llamacpp:prompt_seconds_total", "Time spent on prompts.", 1e-3 * t->prompt_ms);
    put_metric(out, "counter", "llamacpp:tokens_predicted_total", "Tokens generated.", (double)t->generated_tokens);
    put_metric(out, "counter", "llamacpp:tokens_predicted_seconds_total", "Time spent on generating.",
               1e-3 * t->generate_ms);
    put_metric(out, "counter", "llamacpp:n_decode_total", "Slices of work.", (double)t->steps);
    put_metric(out, "gauge", "llamacpp:n_busy_slots_per_decode", "Slots that take part in a slice, on average.",
               t->steps ? (double)t->busy_slots / (double)t->steps : 0);
    put_metric(out, "gauge", "llamacpp:prompt_tokens_seconds", "Prompt tokens per second.",
               t->prompt_ms > 0 ? 1e3 * (double)t->prompt_tokens / t->prompt_ms : 0);
    put_metric(out, "gauge", "llamacpp:predicted_tokens_seconds", "Generated tokens per second, in each slot.",
               t->generate_ms > 0 ? 1e3 * (double)t->generated_tokens / t->generate_ms : 0);
    put_metric(out, "gauge", "llamacpp:kv_cache_usage_ratio", "Share of the slots' contexts in use.",
               room ? (double)used / room : 0);
    put_metric(out, "gauge", "llamacpp:kv_cache_tokens", "Tokens in the slots' contexts.", used);
    put_metric(out, "gauge", "llamacpp:requests_processing", "Texts being generated.", processing);
    put_metric(out, "gauge", "llamacpp:requests_deferred", "Requests waiting for a slot.", waiting);
    put_metric(out, "counter", "bitnet:requests_refused_total", "Requests that found the queue full.", (double)refused);
    put_metric(out, "counter", "bitnet:log_lines_dropped_total", "Log lines that nobody took.", (double)log_dropped());
}

/* ------------------------------------------------------------------------------------------- saved slots */

/* The file's whole name, in memory that is the caller's. Only plain names: no folders, nothing hidden. */
static char *slot_file(body *b, const server_options *o)
{
    const char *name = field_string(b, "filename");
    size_t size;
    char *path;
    if (!o->slot_path) {
        refuse(b, "slots can be saved only where the server was started with --slot-save-path");
        b->status = 501;
    } else if (!name || !name[0] || name[0] == '.' || strpbrk(name, "/\\") || strlen(name) > 200) {
        refuse(b, "filename: not a plain name");
    }
    if (b->status) return NULL;
    size = strlen(o->slot_path) + strlen(name) + 2;
    path = (char *)malloc(size);
    if (path) snprintf(path, size, "%s/%s", o->slot_path, name);
    else refuse_memory(b);
    return path;
}

static void save_slot(body *b, slot *s, const char *path, buffer *out)
{
    const double start = cli_seconds();
    bitnet_error err;
    size_t size;
    void *state;
    memset(&err, 0, sizeof err);
    size = bitnet_state_size(s->session);
    state = malloc(size);
    if (!state) {
        refuse_memory(b);
        return;
    }
    if (bitnet_state_save(s->session, state, size, &err) != BITNET_OK) refuse(b, "%s", err.text);
    else if (cli_write_file(path, state, size) != 0) refuse(b, "filename: cannot be written: %s", strerror(errno));
    if (b->status) b->status = 500;
    free(state);
    put(out, "{\"id_slot\":%d,\"filename\":", s->id);
    put_cstring(out, strrchr(path, '/') + 1);
    put(out, ",\"n_saved\":%d,\"n_written\":%zu,\"timings\":{\"save_ms\":%.3f}}",
        bitnet_session_tokens(s->session, NULL), size, 1e3 * (cli_seconds() - start));
}

/* The file's bytes, in memory that is the caller's; NULL: refused. */
static void *read_state(body *b, const char *path, size_t *size)
{
    struct stat info;
    FILE *f = fopen(path, "rb");
    void *state = NULL;
    if (!f) refuse(b, "filename: cannot be read: %s", strerror(errno));
    else if (fstat(fileno(f), &info) != 0 || !S_ISREG(info.st_mode)) refuse(b, "filename: not a file");
    else if ((state = malloc((size_t)info.st_size + 1)) == NULL) refuse_memory(b);
    else *size = fread(state, 1, (size_t)info.st_size, f);
    if (f) fclose(f);
    return state;
}

static void restore_slot(body *b, slot *s, const char *path, buffer *out)
{
    const double start = cli_seconds();
    bitnet_error err;
    size_t size = 0;
    void *state = read_state(b, path, &size);
    memset(&err, 0, sizeof err);
    if (!state) return;
    if (bitnet_state_load(s->session, state, size, &err) != BITNET_OK) refuse(b, "filename: %s", err.text);
    free(state);
    if (b->status) return;
    s->n_evaluated = bitnet_session_tokens(s->session, NULL);
    put(out, "{\"id_slot\":%d,\"filename\":", s->id);
    put_cstring(out, strrchr(path, '/') + 1);
    put(out, ",\"n_restored\":%d,\"n_read\":%zu,\"timings\":{\"restore_ms\":%.3f}}", s->n_evaluated, size,
        1e3 * (cli_seconds() - start));
}

/* POST /slots/ID?action=save|restore|erase */
static void task_slot(body *b, const server_options *o, const request *r, buffer *out)
{
    char action[16] = "";
    int id = -1, known;
    char *path = NULL;
    slot *s;
    http_query(r->query, "action", action, sizeof action);
    known = strcmp(action, "save") == 0 || strcmp(action, "restore") == 0 || strcmp(action, "erase") == 0;
    if (!cli_read_int(r->target, 0, r->model->n_slots - 1, &id)) refuse(b, "there is no slot '%.20s'", r->target);
    else if (!known) refuse(b, "action: not save, restore or erase");
    if (b->status) return;
    s = &r->model->slots[id];
    if (s->request) {
        refuse(b, "slot %d is busy", id);
        b->status = 503;
        return;
    }
    slot_settle(r->model, s);                            /* all that is saved is evaluated */
    if (action[0] == 'e') {
        put(out, "{\"id_slot\":%d,\"n_erased\":%d}", id, bitnet_session_tokens(s->session, NULL));
        bitnet_session_rewind(s->session, 0);
        s->n_evaluated = 0;
        return;
    }
    path = slot_file(b, o);
    if (path && action[0] == 's') save_slot(b, s, path, out);
    else if (path) restore_slot(b, s, path, out);
    free(path);
}

/* ------------------------------------------------------------------------------------------------ dispatch */

/* Reads a body that holds text: either it is refused, or r is answered (r->status), or its choices can start. On any
   thread, as long as nobody else has r and its model is loaded. */
static void read_text_task(server *s, request *r)
{
    body *b = &r->body;
    buffer out;
    memset(&out, 0, sizeof out);
    switch (r->route) {
    case ROUTE_CHAT: case ROUTE_COMPLETIONS: case ROUTE_COMPLETION:
        if (read_generation(b, &s->o, r)) make_choices(b, r);
        read_name(r);
        return;
    case ROUTE_EMBEDDINGS: case ROUTE_EMBEDDING:
        if (read_embeddings(b, r)) make_choices(b, r);
        return;
    case ROUTE_TOKENIZE: task_tokenize(b, r, &out); break;
    case ROUTE_DETOKENIZE: task_detokenize(b, r, &out); break;
    default: task_template(b, &s->o, r, &out); break;
    }
    if (!b->status) request_answer(s, r, JSON_TYPE, &out);
    buffer_free(&out);
}

/* Answers what concerns the state of things, or refuses it. */
static void answer_state_task(engine_thread *e, request *r)
{
    const char *type = JSON_TYPE;
    buffer out;
    memset(&out, 0, sizeof out);
    switch (r->route) {
    case ROUTE_PROPS: task_props(&e->s->o, r->model, &out); break;
    case ROUTE_SLOTS: task_slots(r->model, &out); break;
    case ROUTE_SLOT: task_slot(&r->body, &e->s->o, r, &out); break;
    default:
        type = "text/plain; version=0.0.4";
        task_metrics(e, &out);
        break;
    }
    if (!r->body.status) request_answer(e->s, r, type, &out);
    buffer_free(&out);
}

#endif /* SERVER_TASKS_H */
