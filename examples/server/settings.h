/* settings.h: from a request's body to what the engine needs: prompts as tokens, sampling, stop strings.

   The rules for every field are the same: null means absent, an unknown name is passed over, a value of the wrong kind
   or out of range is refused with a message that begins with the field's name. What would change the answer and is not
   supported is refused too, rather than ignored. */
#ifndef SERVER_SETTINGS_H
#define SERVER_SETTINGS_H

#include "models.h"

#define MAX_CHOICES 128              /* as in the OpenAI API */
#define MAX_PROMPTS 2048             /* inputs of one embeddings request: OpenAI's limit, too */
#define MAX_BIAS 1024

CLI_PRINTF(2, 3) static int refuse(body *b, const char *format, ...)
{
    va_list args;
    if (b->status) return 0;
    b->status = 400;
    va_start(args, format);
    vsnprintf(b->message, sizeof b->message, format, args);
    va_end(args);
    return 0;
}

/* For memory that ran out: not the client's fault. */
static int refuse_memory(body *b)
{
    refuse(b, "out of memory");
    b->status = 500;
    return 0;
}

/* ---------------------------------------------------------------------------------------------- fields */

/* The member, NULL: absent or null. */
static const json_node *field(const body *b, const char *name)
{
    const json_node *node = json_get(&b->d, b->root, name);
    return json_is(node, JSON_NULL) ? NULL : node;
}

/* The first of two names, where llama-server and OpenAI differ. */
static const json_node *field2(const body *b, const char *name, const char *other)
{
    const json_node *node = field(b, name);
    return node ? node : field(b, other);
}

static double field_real(body *b, const char *name, double missing, double min, double max)
{
    double v;
    const json_node *node = field(b, name);
    if (!node) return missing;
    if (json_real(&b->d, node, &v) && v >= min && v <= max) return v;
    refuse(b, "%s: not a number from %g to %g", name, min, max);
    return missing;
}

/* A whole number; 5.0 is one, too. */
static int64_t field_int(body *b, const char *name, int64_t missing, int64_t min, int64_t max)
{
    const json_node *node = field(b, name);
    double real = 0;
    int64_t v = 0;
    int whole = json_int(&b->d, node, &v);
    if (!node) return missing;
    if (!whole && json_real(&b->d, node, &real) && fabs(real) < 1e15 && real == floor(real)) {
        whole = 1;
        v = (int64_t)real;
    }
    if (whole && v >= min && v <= max) return v;
    refuse(b, "%s: not a whole number from %" PRId64 " to %" PRId64, name, min, max);
    return missing;
}

static int field_flag(body *b, const char *name, int missing)
{
    const json_node *node = field(b, name);
    const int v = json_truth(node, -1);
    if (!node) return missing;
    if (v < 0) refuse(b, "%s: neither true nor false", name);
    return v > 0;
}

/* A string without NULs inside, NULL: absent or refused. */
static const char *field_string(body *b, const char *name)
{
    const json_node *node = field(b, name);
    const char *s = json_text(&b->d, node);
    if (!node) return NULL;
    if (!s || strlen(s) != node->size) refuse(b, "%s: not a string", name);
    return b->status ? NULL : s;
}

/* Refuses what would change the answer and isn't there. Empty values ask for nothing. */
static void refuse_unsupported(body *b)
{
    static const char *const names[] = {"tools", "functions", "grammar", "json_schema", "suffix", "audio", "echo"};
    const json_node *format = field(b, "response_format"), *node;
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        node = field(b, names[i]);
        if (!node || json_is(node, JSON_FALSE)) continue;
        if (json_is(node, JSON_NUMBER) || json_is(node, JSON_TRUE) || node->size > 0)
            refuse(b, "%s: not supported by this server", names[i]);
    }
    if (format && !json_equal(&b->d, json_get(&b->d, format, "type"), "text"))
        refuse(b, "response_format: not supported by this server, other than {\"type\":\"text\"}");
}

/* --------------------------------------------------------------------------------------------- settings */

/* Zero and others mean "off" to clients, and "default" in a bitnet_sampling: see bitnet.h. */
static void read_sampling(body *b, const server_options *o, bitnet_sampling *how)
{
    const int last_n = (int)field_int(b, "repeat_last_n", 64, -1, INT_MAX);
    const double top_p = field_real(b, "top_p", 0.95, 0, 1);
    const int64_t seed = field_int(b, "seed", -1, INT64_MIN, INT64_MAX);
    how->temperature = (float)field_real(b, "temperature", o->temperature, 0, 100);
    how->top_k = (int)field_int(b, "top_k", 40, INT_MIN, INT_MAX);
    if (how->top_k < 0) how->top_k = 0;
    how->top_p = top_p >= 1 ? 0 : top_p > 1e-6 ? (float)top_p : 1e-6f;
    how->min_p = (float)field_real(b, "min_p", 0.05, 0, 1);
    how->repeat_penalty = (float)field_real(b, "repeat_penalty", 1, 0, 100);
    how->frequency_penalty = (float)field_real(b, "frequency_penalty", 0, -100, 100);
    how->presence_penalty = (float)field_real(b, "presence_penalty", 0, -100, 100);
    how->repeat_last_n = last_n;
    if (last_n == 0) how->repeat_penalty = how->frequency_penalty = how->presence_penalty = 0;
    how->seed = (uint64_t)seed;
    if (seed < 0) {
        const uint64_t x = (uint64_t)time(NULL) * 1000003u + (uint64_t)(cli_seconds() * 1e9);
        how->seed = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u >> 16;
    }
}

/* A string or a list of strings; empty ones stop nothing. They are copied, as the body goes away before the answer. */
static void read_stops(body *b, request *r)
{
    const json_node *node = field(b, "stop"), *item;
    const int one = json_is(node, JSON_STRING);
    size_t size = 0;
    int n = 0;
    if (!node) return;
    if (!one && !json_is(node, JSON_ARRAY)) refuse(b, "stop: neither a string nor a list of strings");
    for (item = one ? node : json_first(&b->d, node); item; item = one ? NULL : json_next(&b->d, item)) {
        if (!json_is(item, JSON_STRING)) refuse(b, "stop: neither a string nor a list of strings");
        else if (strlen(json_text(&b->d, item)) != item->size) refuse(b, "stop: a string holds a NUL");
        else if (item->size > BITNET_MAX_STOP_BYTES)
            refuse(b, "stop: a string of more than %d bytes", BITNET_MAX_STOP_BYTES);
        else if (item->size && ++n > BITNET_MAX_STOPS - 1)
            refuse(b, "stop: more than %d strings", BITNET_MAX_STOPS - 1);
        if (b->status) return;
        size += item->size + 1;
    }
    r->stop_text = (char *)malloc(size + 1);
    if (!r->stop_text) {
        refuse_memory(b);
        return;
    }
    size = 0;
    for (item = one ? node : json_first(&b->d, node); item; item = one ? NULL : json_next(&b->d, item)) {
        if (!item->size) continue;
        memcpy(r->stop_text + size, json_text(&b->d, item), item->size + 1);
        r->stops[r->how.n_stops++] = r->stop_text + size;
        size += item->size + 1;
    }
}

/* {"123": -100, ...} or, as llama-server has it, [[123, -100], [123, false], ...]; false: never. */
static void read_bias(body *b, request *r)
{
    const json_node *node = field(b, "logit_bias"), *item;
    const int object = json_is(node, JSON_OBJECT);
    if (!node) return;
    if (!object && !json_is(node, JSON_ARRAY)) refuse(b, "logit_bias: not an object");
    else if (node->size > MAX_BIAS) refuse(b, "logit_bias: more than %d tokens", MAX_BIAS);
    if (b->status || node->size == 0) return;
    r->bias = (bitnet_logit_bias *)calloc(node->size, sizeof *r->bias);
    if (!r->bias) {
        refuse_memory(b);
        return;
    }
    for (item = json_first(&b->d, node); item; item = json_next(&b->d, item)) {
        const json_node *first = json_first(&b->d, item), *value = object ? item : json_next(&b->d, first);
        bitnet_logit_bias *bias = &r->bias[r->how.n_bias++];
        int64_t token = -1;
        double v = 0;
        int id;
        if (object) token = cli_read_int(json_key(&b->d, item), 0, INT_MAX, &id) ? id : -1;
        else if (!json_int(&b->d, first, &token)) token = -1;
        if (token < 0 || token >= r->model->live.n_vocab) refuse(b, "logit_bias: not a token of this model");
        if (json_is(value, JSON_FALSE)) v = -1e9;
        else if (!json_real(&b->d, value, &v) || !(v >= -1e9 && v <= 1e9)) refuse(b, "logit_bias: not a number");
        if (b->status) return;
        bias->token = (int32_t)token;
        bias->bias = (float)v;
    }
}

/* How many log probabilities: chat has a flag and a number, completions a number, llama-server n_probs. */
static void read_logprobs(body *b, request *r)
{
    if (r->route == ROUTE_CHAT) {
        const int top = (int)field_int(b, "top_logprobs", 0, 0, BITNET_MAX_LOGPROBS);
        if (field_flag(b, "logprobs", 0)) r->how.logprobs = 1 + top;
        else if (top) refuse(b, "top_logprobs: needs logprobs to be true");
    } else if (r->route == ROUTE_COMPLETIONS && !json_is(field(b, "logprobs"), JSON_FALSE)) {
        r->how.logprobs = 1 + (int)field_int(b, "logprobs", -1, 0, BITNET_MAX_LOGPROBS);
    }
    if (!r->how.logprobs && field(b, "n_probs")) {
        const int n = (int)field_int(b, "n_probs", 0, 0, BITNET_MAX_LOGPROBS);
        r->native_logprobs = r->route == ROUTE_COMPLETION;
        if (n > 0) r->how.logprobs = 1 + n;
    }
}

/* Everything beside the prompt. */
static void read_settings(body *b, const server_options *o, request *r)
{
    const json_node *options = field(b, "stream_options");
    const char *const limit = field(b, "max_completion_tokens") ? "max_completion_tokens" : field(b, "max_tokens") ?
                              "max_tokens" : "n_predict";
    const int64_t most = field_int(b, limit, o->n_predict, -2, INT_MAX);
    refuse_unsupported(b);
    read_sampling(b, o, &r->how.sampling);
    read_stops(b, r);
    read_bias(b, r);
    read_logprobs(b, r);
    r->how.stops = r->stops;
    r->how.bias = r->bias;
    r->how.max_tokens = most > 0 ? (int)most : 0;
    r->has_max_tokens = most >= 0;                       /* 0: only the prompt is evaluated; below 0: no limit */
    r->how.ignore_end = field_flag(b, "ignore_eos", 0);
    r->n = (int)field_int(b, "n", 1, 1, MAX_CHOICES);
    r->stream = field_flag(b, "stream", 0);
    r->include_usage = json_truth(json_get(&b->d, options, "include_usage"), 0);
    r->cache_prompt = field_flag(b, "cache_prompt", 1);
    r->return_tokens = field_flag(b, "return_tokens", 0);
    r->slot = (int)field_int(b, "id_slot", -1, -1, r->model->n_slots - 1);
    if (field_int(b, "best_of", r->n, 1, MAX_CHOICES) > r->n) refuse(b, "best_of: not supported by this server");
}

/* ---------------------------------------------------------------------------------------------- prompts */

/* Does a prompt of n tokens leave room for an answer (an embedding needs none)? */
static int check_fits(body *b, const request *r, int64_t n)
{
    const int embedding = is_embedding(r);
    if (n < 0) return n == BITNET_ERROR_MEMORY ? refuse_memory(b) : refuse(b, "the prompt cannot be tokenized: %s",
                                                                           bitnet_result_text((bitnet_result)n));
    if (n == 0) return refuse(b, "the prompt is empty");
    if (n > r->model->n_ctx - !embedding)
        return refuse(b, "the prompt has %" PRId64 " tokens, but the context holds %d with the answer", n,
                      r->model->n_ctx);
    return 1;
}

/* Adds a prompt of n tokens, which become the request's; n may be too many, or an error. */
static int add_prompt(body *b, request *r, int32_t *tokens, int64_t n)
{
    const int fits = check_fits(b, r, n);
    prompt *p = fits ? (prompt *)realloc(r->prompts, ((size_t)r->n_prompts + 1) * sizeof *p) : NULL;
    int32_t *less;
    if (!p) {
        free(tokens);
        return fits ? refuse_memory(b) : 0;
    }
    r->prompts = p;
    p += r->n_prompts++;
    p->tokens = tokens;
    less = (int32_t *)realloc(tokens, (size_t)n * sizeof *tokens);              /* most have less than they might */
    if (less) p->tokens = less;
    p->n = (int)n;
    return 1;
}

/* Memory for the tokens of any text that fits, so that one pass over the text both counts and writes them. */
static int32_t *new_tokens(body *b, const request *r)
{
    int32_t *tokens = (int32_t *)malloc((size_t)r->model->n_ctx * sizeof *tokens);
    if (!tokens) refuse_memory(b);
    return tokens;
}

static int add_text(body *b, request *r, const char *text, size_t size)
{
    int32_t *tokens = new_tokens(b, r);
    return tokens && add_prompt(b, r, tokens, bitnet_tokenize(r->model->model, text, size, tokens, r->model->n_ctx,
                                                              BITNET_TOKENIZE_BOS | BITNET_TOKENIZE_SPECIAL));
}

/* The numbers of a list as tokens, in memory that is the caller's; NULL: refused. */
static int32_t *read_tokens(body *b, const request *r, const char *name, const json_node *list)
{
    int32_t *tokens = (int32_t *)malloc(((size_t)list->size + 1) * sizeof *tokens);
    const json_node *item;
    uint32_t n = 0;
    if (!tokens) refuse_memory(b);
    for (item = json_first(&b->d, list); item && tokens; item = json_next(&b->d, item)) {
        int64_t token;
        if (!json_int(&b->d, item, &token) || token < 0 || token >= r->model->live.n_vocab) {
            refuse(b, "%s: not a token of this model", name);
            free(tokens);
            return NULL;
        }
        tokens[n++] = (int32_t)token;
    }
    return tokens;
}

/* One prompt: a string, or a list of tokens. */
static int add_prompt_value(body *b, request *r, const char *name, const json_node *node)
{
    int32_t *tokens;
    if (json_is(node, JSON_STRING)) return add_text(b, r, json_text(&b->d, node), node->size);
    if (!json_is(node, JSON_ARRAY) || !json_is(json_first(&b->d, node), JSON_NUMBER))
        return refuse(b, "%s: neither text nor tokens", name);
    if (!check_fits(b, r, node->size)) return 0;
    tokens = read_tokens(b, r, name, node);
    return tokens && add_prompt(b, r, tokens, node->size);
}

/* prompt or input: one of them, or a list of several. */
static int read_prompts(body *b, request *r, const char *name, const char *other, uint32_t most)
{
    const json_node *node = field2(b, name, other), *item = json_first(&b->d, node);
    const int several = json_is(node, JSON_ARRAY) && !json_is(item, JSON_NUMBER);
    if (!node) return refuse(b, "%s: missing", name);
    if (!several) return add_prompt_value(b, r, name, node);
    if (node->size == 0) return refuse(b, "%s: empty", name);
    if (node->size > most) return refuse(b, "%s: a list of more than %u", name, most);
    for (; item; item = json_next(&b->d, item))
        if (!add_prompt_value(b, r, name, item)) return 0;
    return 1;
}

/* ---------------------------------------------------------------------------------------------- messages */

/* A conversation in memory that lives as long as the tokens are made. */
typedef struct conversation {
    bitnet_chat_message *messages;
    int n;
    buffer joined;                   /* contents that came in parts */
} conversation;

/* Content in parts as one text, into c->joined: its place there, as that may still move. Only text has a meaning. */
static size_t join_parts(body *b, conversation *c, int index, const json_node *parts)
{
    const size_t at = c->joined.size;
    const json_node *part;
    int i = 0;
    for (part = json_first(&b->d, parts); part && !b->status; part = json_next(&b->d, part), i++) {
        const json_node *text = json_get(&b->d, part, "text");
        if (!json_equal(&b->d, json_get(&b->d, part, "type"), "text"))
            refuse(b, "messages[%d].content[%d].type: only text is supported", index, i);
        else if (!json_is(text, JSON_STRING) || strlen(json_text(&b->d, text)) != text->size)
            refuse(b, "messages[%d].content[%d].text: not a string", index, i);
        else
            put_text(&c->joined, json_text(&b->d, text));
    }
    put_bytes(&c->joined, "", 1);
    return at;
}

static void read_message(body *b, conversation *c, int index, const json_node *node)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const json_node *role = json_get(&b->d, node, "role"), *content = json_get(&b->d, node, "content");
    bitnet_chat_message *m = &c->messages[c->n++];
    int i;
    m->role = json_equal(&b->d, role, "developer") ? "system" : NULL;
    for (i = 0; i < 3; i++)
        if (json_equal(&b->d, role, roles[i])) m->role = roles[i];
    m->content = NULL;                                   /* in parts: join_parts has them */
    if (!m->role) refuse(b, "messages[%d].role: not system, user or assistant", index);
    else if (json_is(content, JSON_STRING)) m->content = json_text(&b->d, content);
    else if (!content || json_is(content, JSON_NULL)) m->content = strcmp(m->role, "assistant") == 0 ? "" : NULL;
    else if (!json_is(content, JSON_ARRAY)) refuse(b, "messages[%d].content: neither text nor a list of parts", index);
    if (!m->content && !json_is(content, JSON_ARRAY)) refuse(b, "messages[%d].content: missing", index);
    if (m->content && json_is(content, JSON_STRING) && strlen(m->content) != content->size)
        refuse(b, "messages[%d].content: holds a NUL", index);
}

/* messages, with the server's own instructions in front if there are none. */
static int read_conversation(body *b, const server_options *o, conversation *c)
{
    const json_node *list = field(b, "messages"), *node;
    size_t *place;
    int i = 0, first = 0;
    memset(c, 0, sizeof *c);
    if (!json_is(list, JSON_ARRAY) || list->size == 0)
        return refuse(b, "messages: not a list with at least one message");
    c->messages = (bitnet_chat_message *)calloc((size_t)list->size + 1, sizeof *c->messages);
    place = (size_t *)calloc((size_t)list->size + 1, sizeof *place);
    if (c->messages && o->system && !json_equal(&b->d, json_get(&b->d, json_first(&b->d, list), "role"), "system")) {
        c->messages[0].role = "system";
        c->messages[0].content = o->system;
        c->n = first = 1;
    }
    for (node = json_first(&b->d, list); node && c->messages && place && !b->status; node = json_next(&b->d, node)) {
        const json_node *content = json_get(&b->d, node, "content");
        read_message(b, c, i, node);
        if (!b->status && json_is(content, JSON_ARRAY)) place[first + i] = join_parts(b, c, i, content);
        i++;
    }
    if (!c->messages || !place || c->joined.failed) refuse_memory(b);
    for (i = first; i < c->n && !b->status; i++)
        if (!c->messages[i].content) c->messages[i].content = c->joined.data + place[i];
    free(place);
    return !b->status;
}

static void conversation_free(conversation *c)
{
    free(c->messages);
    buffer_free(&c->joined);
}

/* The conversation as lines that a base model understands from the web's interviews, for models without a template. */
static void put_plain_conversation(buffer *text, const conversation *c)
{
    int i;
    for (i = 0; i < c->n; i++) {
        const char *role = c->messages[i].role;
        put_text(text, strcmp(role, "user") == 0 ? "User: " : strcmp(role, "assistant") == 0 ? "Assistant: " : "");
        put_text(text, c->messages[i].content);
        put_text(text, "\n");
    }
    put_text(text, "Assistant:");
}

/* The conversation as text: for people to look at, as control tokens and contents are told apart only in tokens. */
static int put_conversation(body *b, const hosted *m, const conversation *c, buffer *text)
{
    int64_t n = bitnet_chat_format(m->model, c->messages, c->n, BITNET_CHAT_ANSWER, NULL, 0);
    if (strcmp(m->live.chat_template, "none") == 0) {
        put_plain_conversation(text, c);
    } else if (n < 0) {
        return refuse(b, "messages: %s", bitnet_result_text((bitnet_result)n));
    } else if (buffer_reserve(text, (size_t)n)) {
        bitnet_chat_format(m->model, c->messages, c->n, BITNET_CHAT_ANSWER, text->data + text->size, (size_t)n);
        text->size += (size_t)n;
    }
    return text->failed ? refuse_memory(b) : 1;
}

/* The conversation as the request's prompt. */
static int add_conversation(body *b, request *r, const conversation *c)
{
    int32_t *tokens;
    if (strcmp(r->model->live.chat_template, "none") == 0) {
        buffer text = {0};
        int ok;
        put_plain_conversation(&text, c);
        ok = text.failed ? refuse_memory(b) : add_text(b, r, text.data, text.size);
        buffer_free(&text);
        r->stops[r->how.n_stops++] = "\nUser:";          /* read_stops left room for it */
        return ok;
    }
    tokens = new_tokens(b, r);
    return tokens && add_prompt(b, r, tokens, bitnet_chat_tokenize(r->model->model, c->messages, c->n,
                                                                   BITNET_CHAT_ANSWER, tokens, r->model->n_ctx));
}

/* ---------------------------------------------------------------------------------------------- requests */

static void read_name(request *r)
{
    static const char *const prefixes[] = {"chatcmpl", "cmpl"};
    const uint64_t x = ((uint64_t)time(NULL) ^ r->id << 32 ^ (uint64_t)(cli_seconds() * 1e9)) * 0x9e3779b97f4a7c15u;
    r->created = time(NULL);
    snprintf(r->name, sizeof r->name, "%s-%016" PRIx64 "%08" PRIx64, prefixes[r->route != ROUTE_CHAT],
             (x ^ x >> 31) * 0xbf58476d1ce4e5b9u, r->id);
}

/* A body that asks for text. */
static int read_generation(body *b, const server_options *o, request *r)
{
    read_settings(b, o, r);
    if (b->status) return 0;
    if (r->route == ROUTE_CHAT) {
        conversation c;
        const int ok = read_conversation(b, o, &c) && add_conversation(b, r, &c);
        conversation_free(&c);
        return ok;
    }
    if (!read_prompts(b, r, "prompt", "prompt", r->route == ROUTE_COMPLETION ? 1 : MAX_CHOICES)) return 0;
    if (r->n_prompts * r->n > MAX_CHOICES) return refuse(b, "n: more than %d texts in one answer", MAX_CHOICES);
    if (r->route == ROUTE_COMPLETION && json_is(field(b, "prompt"), JSON_STRING)) {
        const json_node *node = field(b, "prompt");
        r->prompt_text = (char *)malloc((size_t)node->size + 1);
        if (!r->prompt_text) return refuse_memory(b);
        memcpy(r->prompt_text, json_text(&b->d, node), (size_t)node->size + 1);
    }
    return 1;
}

/* A body that asks for embeddings. */
static int read_embeddings(body *b, request *r)
{
    const char *format = field_string(b, "encoding_format");
    int64_t dimensions;
    r->n = 1;
    r->slot = -1;
    if (!read_prompts(b, r, "input", "content", MAX_PROMPTS)) return 0;
    dimensions = field_int(b, "dimensions", r->model->live.n_embd, 1, INT_MAX);
    if (dimensions != r->model->live.n_embd) return refuse(b, "dimensions: this model has %d", r->model->live.n_embd);
    r->base64 = format && strcmp(format, "base64") == 0;
    if (format && !r->base64 && strcmp(format, "float") != 0)
        return refuse(b, "encoding_format: neither float nor base64");
    return !b->status;
}

/* The choices of a request whose prompts are known. */
static int make_choices(body *b, request *r)
{
    r->choices = (choice *)calloc((size_t)r->n_prompts * (size_t)r->n, sizeof *r->choices);
    return r->choices ? 1 : refuse_memory(b);
}

#endif /* SERVER_SETTINGS_H */
