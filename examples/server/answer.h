/* answer.h: what the engine made, as the JSON that OpenAI's and llama-server's clients read.

   Three shapes of one thing: chat (ROUTE_CHAT), text (ROUTE_COMPLETIONS) and llama-server's own (ROUTE_COMPLETION),
   each whole or as a stream of chunks. */
#ifndef SERVER_ANSWER_H
#define SERVER_ANSWER_H

#include "settings.h"

/* ----------------------------------------------------------------------------------------------- counts */

/* Sums over the choices of a request. */
typedef struct answer_counts {
    int prompt_tokens;               /* as the client counts them: each prompt once, evaluated or not */
    int n_cached, n_prompt, n_generated, n_rated;        /* n tokens have n - 1 intervals between them: rated */
    double prompt_ms, generate_ms;
} answer_counts;

static answer_counts count_answer(const request *r)
{
    answer_counts c;
    int i;
    memset(&c, 0, sizeof c);
    for (i = 0; i < r->n_prompts; i++) c.prompt_tokens += r->prompts[i].n;
    for (i = 0; i < r->n_prompts * r->n; i++) {
        c.n_cached += r->choices[i].n_cached;
        c.n_prompt += r->choices[i].n_prompt;
        c.n_generated += r->choices[i].n_generated;
        c.n_rated += r->choices[i].n_generated > 1 ? r->choices[i].n_generated - 1 : 0;
        c.prompt_ms += r->choices[i].prompt_ms;
        c.generate_ms += r->choices[i].generate_ms;
    }
    return c;
}

static void put_usage(buffer *b, const request *r)
{
    const answer_counts c = count_answer(r);
    put(b, "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":"
        "{\"cached_tokens\":%d}}", c.prompt_tokens, c.n_generated, c.prompt_tokens + c.n_generated, c.n_cached);
}

static void put_rate(buffer *b, const char *name, int n, int n_rated, double ms)
{
    put(b, "\"%s_n\":%d,\"%s_ms\":", name, n, name);
    put_measure(b, ms);
    put(b, ",\"%s_per_token_ms\":", name);
    put_measure(b, n_rated ? ms / n_rated : 0);
    put(b, ",\"%s_per_second\":", name);
    put_measure(b, ms > 0 ? 1e3 * n_rated / ms : 0);
}

static void put_timings(buffer *b, const request *r)
{
    const answer_counts c = count_answer(r);
    put(b, "\"timings\":{\"cache_n\":%d,", c.n_cached);
    put_rate(b, "prompt", c.n_prompt, c.n_prompt, c.prompt_ms);
    put_text(b, ",");
    put_rate(b, "predicted", c.n_generated, c.n_rated, c.generate_ms);
    put_text(b, "}");
}

static const char *finish_reason(const choice *c)
{
    return c->reason == BITNET_DONE_END || c->reason == BITNET_DONE_STOP ? "stop" : "length";
}

/* ---------------------------------------------------------------------------------------- log probabilities */

/* One token's bytes; *n of them. Control tokens are spelt as the vocabulary has them. */
static const char *token_bytes(const hosted *m, int32_t token, char text[512], size_t *n)
{
    const int64_t size = bitnet_detokenize(m->model, &token, 1, text, 512, BITNET_DETOKENIZE_SPECIAL);
    *n = size < 0 ? 0 : size > 512 ? 512 : (size_t)size;
    return text;
}

/* "token":"...","logprob":-1.5,"bytes":[...]; llama-server's own has the id, too. */
static void put_token_logprob(buffer *b, const request *r, int32_t token, float logprob)
{
    char text[512];
    size_t n;
    token_bytes(r->model, token, text, &n);
    if (r->native_logprobs) put(b, "\"id\":%d,", (int)token);
    put_text(b, "\"token\":");
    put_string(b, text, n);
    put_text(b, ",\"logprob\":");
    put_logprob(b, logprob);
    put_text(b, ",\"bytes\":");
    put_byte_list(b, text, n);
}

/* One token with its alternatives, appended to the choice's list. */
static void put_logprob_entry(const request *r, choice *c, const token_logprob *t)
{
    buffer *b = &c->logprobs;
    int i;
    put_text(b, b->size ? ",{" : "{");
    put_token_logprob(b, r, t->token, t->logprob);
    put_text(b, ",\"top_logprobs\":[");
    for (i = 0; i < t->n_top; i++) {
        put_text(b, i ? ",{" : "{");
        put_token_logprob(b, r, t->top[i].token, t->top[i].logprob);
        put_text(b, "}");
    }
    put_text(b, "]}");
}

/* The old completions have four lists side by side; c->logprobs then holds them one behind the other for each token:
   here they are built from the entries that are out. */
static void put_legacy_entry(const request *r, choice *c, const token_logprob *t)
{
    buffer *b = &c->logprobs;
    char text[512];
    size_t n;
    int i;
    /* token \t logprob \t alternatives \t offset \n: split again in put_legacy_logprobs; JSON holds no raw tabs */
    token_bytes(r->model, t->token, text, &n);
    put_string(b, text, n);
    put_text(b, "\t");
    put_logprob(b, t->logprob);
    put_text(b, "\t{");
    for (i = 0; i < t->n_top; i++) {
        token_bytes(r->model, t->top[i].token, text, &n);
        put_text(b, i ? "," : "");
        put_string(b, text, n);
        put_text(b, ":");
        put_logprob(b, t->top[i].logprob);
    }
    put(b, "}\t%zu\n", t->start);
}

static void put_legacy_column(buffer *b, const buffer *rows, int column)
{
    const char *s = rows->data ? rows->data : "", *const end = s + rows->size;
    int first = 1, i;
    put_text(b, "[");
    while (s < end) {
        size_t n;
        for (i = 0; i < column; i++) s = strchr(s, '\t') + 1;
        n = strcspn(s, "\t\n");
        put_text(b, first ? "" : ",");
        put_bytes(b, s, n);
        first = 0;
        s = strchr(s, '\n') + 1;
    }
    put_text(b, "]");
}

static void put_legacy_logprobs(buffer *b, const buffer *rows)
{
    static const char *const names[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    int i;
    for (i = 0; i < 4; i++) {
        put(b, "%s\"%s\":", i ? "," : "{", names[i]);
        put_legacy_column(b, rows, i);
    }
    put_text(b, "}");
}

/* ,"logprobs":... of what c->logprobs holds, in the shape of the route. */
static void put_choice_logprobs(buffer *b, const request *r, const choice *c)
{
    if (r->route == ROUTE_COMPLETION) {
        if (!r->how.logprobs) return;
        put_text(b, ",\"completion_probabilities\":[");
        put_bytes(b, c->logprobs.data, c->logprobs.size);
        put_text(b, "]");
        return;
    }
    put_text(b, ",\"logprobs\":");
    if (!r->how.logprobs || (r->stream && c->logprobs.size == 0)) {
        put_text(b, "null");
    } else if (r->route == ROUTE_COMPLETIONS) {
        put_legacy_logprobs(b, &c->logprobs);
    } else {
        put_text(b, "{\"content\":[");
        put_bytes(b, c->logprobs.data, c->logprobs.size);
        put_text(b, "],\"refusal\":null}");
    }
}

/* ------------------------------------------------------------------------------------------ whole answers */

/* "id", "object", "created", "model": how every OpenAI answer begins. */
static void put_opening(buffer *b, const request *r, const char *object)
{
    put(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", r->name, object, (long long)r->created);
    put_cstring(b, r->model->name);
    put(b, ",\"system_fingerprint\":\"bitnet.h-%s\"", BITNET_VERSION);
}

static void put_openai_answer(buffer *b, const request *r)
{
    const int chat = r->route == ROUTE_CHAT;
    int i;
    put_opening(b, r, chat ? "chat.completion" : "text_completion");
    put_text(b, ",\"choices\":[");
    for (i = 0; i < r->n_prompts * r->n; i++) {
        const choice *c = &r->choices[i];
        put(b, "%s{\"index\":%d,", i ? "," : "", i);
        put_text(b, chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
        put_string(b, c->text.data ? c->text.data : "", c->text.size);
        put_text(b, chat ? ",\"refusal\":null}" : "");
        put_choice_logprobs(b, r, c);
        put(b, ",\"finish_reason\":\"%s\"}", finish_reason(c));
        b->failed |= c->text.failed | c->logprobs.failed;
    }
    put_text(b, "],");
    put_usage(b, r);
    put_text(b, ",");
    put_timings(b, r);
    put_text(b, "}");
}

/* The settings in force, in llama-server's words. */
static void put_settings(buffer *b, const bitnet_generation *how, int n_predict)
{
    const bitnet_sampling *s = &how->sampling;
    put(b, "{\"seed\":%" PRIu64 ",\"temperature\":%g,\"top_k\":%d,\"top_p\":%g,\"min_p\":%g,\"repeat_last_n\":%d,"
        "\"repeat_penalty\":%g,\"presence_penalty\":%g,\"frequency_penalty\":%g,\"n_predict\":%d,\"ignore_eos\":%s}",
        s->seed, (double)s->temperature, s->top_k, s->top_p > 0 ? (double)s->top_p : 1.0, (double)s->min_p,
        s->repeat_last_n, (double)s->repeat_penalty, (double)s->presence_penalty, (double)s->frequency_penalty,
        n_predict, how->ignore_end ? "true" : "false");
}

/* What llama-server's answer and its last chunk have beside the text. */
static void put_native_end(buffer *b, const request *r, const choice *c)
{
    static const char *const types[] = {"limit", "eos", "word", "limit", "limit", "none", "none"};
    put(b, ",\"tokens\":[");
    if (r->return_tokens) put_bytes(b, c->tokens.data, c->tokens.size);
    put(b, "],\"id_slot\":%d,\"stop\":true,\"model\":", c->slot);
    put_cstring(b, r->model->name);
    put(b, ",\"tokens_predicted\":%d,\"tokens_evaluated\":%d,\"tokens_cached\":%d,\"truncated\":false,"
        "\"stop_type\":\"%s\",\"stopping_word\":\"\",\"generation_settings\":", c->n_generated, r->prompts[0].n,
        r->prompts[0].n + (c->n_generated > 0 ? c->n_generated - 1 : 0), types[c->reason]);
    put_settings(b, &r->how, r->has_max_tokens ? r->how.max_tokens : -1);
    put_text(b, ",\"prompt\":");
    put_cstring(b, r->prompt_text ? r->prompt_text : "");
    put_text(b, ",");
    put_timings(b, r);
    put_text(b, "}");
}

static void put_native_answer(buffer *b, const request *r)
{
    const choice *c = &r->choices[0];
    put_text(b, "{\"index\":0,\"content\":");
    put_string(b, c->text.data ? c->text.data : "", c->text.size);
    put_choice_logprobs(b, r, c);
    put_native_end(b, r, c);
    b->failed |= c->text.failed | c->logprobs.failed | c->tokens.failed;
}

/* The choice's embedding as text: as each is done, since those of a large request take seconds to write. */
static void write_embedding(const request *r, choice *c)
{
    if (r->base64) put_floats_base64(&c->text, c->embedding, r->model->live.n_embd);
    else put_floats(&c->text, c->embedding, r->model->live.n_embd);
    free(c->embedding);
    c->embedding = NULL;
}

static void put_embeddings(buffer *b, const request *r)
{
    const int native = r->route == ROUTE_EMBEDDING;
    int i;
    put_text(b, native ? "[" : "{\"object\":\"list\",\"data\":[");
    for (i = 0; i < r->n_prompts; i++) {
        put(b, "%s{%s\"index\":%d,\"embedding\":%s", i ? "," : "", native ? "" : "\"object\":\"embedding\",", i,
            native ? "[" : "");
        put_bytes(b, r->choices[i].text.data, r->choices[i].text.size);
        b->failed |= r->choices[i].text.failed;
        put_text(b, native ? "]}" : "}");
    }
    put_text(b, "]");
    if (!native) {
        const int n = count_answer(r).prompt_tokens;
        put_text(b, ",\"model\":");
        put_cstring(b, r->model->name);
        put(b, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}", n, n);
    }
}

/* All choices are done. */
static void answer_whole(server *s, request *r)
{
    buffer b;
    memset(&b, 0, sizeof b);
    if (is_embedding(r)) put_embeddings(&b, r);
    else if (r->route == ROUTE_COMPLETION) put_native_answer(&b, r);
    else put_openai_answer(&b, r);
    request_answer(s, r, JSON_TYPE, &b);
    buffer_free(&b);
}

/* ----------------------------------------------------------------------------------------------- streams */

/* A chunk of choice i: text, or the finish, or (chat) the role alone, with text NULL. */
static void put_chunk(buffer *b, const request *r, int i, const char *text, size_t size, const char *finish)
{
    const choice *c = &r->choices[i];
    const int chat = r->route == ROUTE_CHAT;
    put_opening(b, r, chat ? "chat.completion.chunk" : "text_completion");
    put(b, ",\"choices\":[{\"index\":%d,", i);
    put_text(b, chat ? "\"delta\":{" : "\"text\":");
    if (chat && !text) put_text(b, "\"role\":\"assistant\",\"content\":\"\"");
    else if (chat && !finish) put_text(b, "\"content\":");
    if (text && !(chat && finish)) put_string(b, text, size);
    put_text(b, chat ? "}" : "");
    put_choice_logprobs(b, r, c);
    put(b, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", finish);
}

static void put_native_chunk(buffer *b, const request *r, const choice *c, const char *text, size_t size)
{
    put_text(b, "{\"index\":0,\"content\":");
    put_string(b, text, size);
    put_text(b, ",\"tokens\":[");
    put_bytes(b, c->tokens.data, c->tokens.size);
    put(b, "],\"stop\":false,\"id_slot\":%d,\"tokens_predicted\":%d,\"tokens_evaluated\":%d", c->slot, c->n_generated,
        r->prompts[0].n);
    put_choice_logprobs(b, r, c);
    put_text(b, "}");
}

/* The answer begins: choice i has got a slot. */
static void stream_start(server *s, request *r, int i)
{
    buffer b;
    request_stream_begin(s, r);
    if (r->route != ROUTE_CHAT) return;
    memset(&b, 0, sizeof b);
    put_chunk(&b, r, i, NULL, 0, NULL);
    put_text(&b, r->include_usage ? ",\"usage\":null}" : "}");
    request_stream_event(s, r, &b);
    buffer_free(&b);
}

/* New text of choice i, and the log probabilities that are due with it. */
static void stream_piece(server *s, request *r, int i, const char *text, size_t size)
{
    choice *c = &r->choices[i];
    buffer b;
    memset(&b, 0, sizeof b);
    if (r->route == ROUTE_COMPLETION) {
        put_native_chunk(&b, r, c, text, size);
    } else {
        put_chunk(&b, r, i, text, size, NULL);
        put_text(&b, r->include_usage ? ",\"usage\":null}" : "}");
    }
    b.failed |= c->logprobs.failed | c->tokens.failed;
    request_stream_event(s, r, &b);
    c->logprobs.size = c->tokens.size = 0;
    buffer_free(&b);
}

/* Choice i is done, and its text is out. The last one carries the sums; with stream_options.include_usage OpenAI sends
   them once more, in a chunk without choices. */
static void stream_finish(server *s, request *r, int i)
{
    const int last = r->n_done == r->n_prompts * r->n;
    choice *c = &r->choices[i];
    buffer b;
    memset(&b, 0, sizeof b);
    if (r->route == ROUTE_COMPLETION) {
        put_text(&b, "{\"index\":0,\"content\":\"\"");
        put_native_end(&b, r, c);
        request_stream_event(s, r, &b);
        buffer_free(&b);
        return;
    }
    put_chunk(&b, r, i, "", 0, finish_reason(c));
    if (r->include_usage) {
        put_text(&b, ",");
        if (last && r->n_prompts * r->n == 1) put_usage(&b, r);
        else put_text(&b, "\"usage\":null");
    }
    if (last) {
        put_text(&b, ",");
        put_timings(&b, r);
    }
    put_text(&b, "}");
    request_stream_event(s, r, &b);
    if (last && r->include_usage) {
        put_opening(&b, r, r->route == ROUTE_CHAT ? "chat.completion.chunk" : "text_completion");
        put_text(&b, ",\"choices\":[],");
        put_usage(&b, r);
        put_text(&b, "}");
        request_stream_event(s, r, &b);
    }
    buffer_free(&b);
}

#endif /* SERVER_ANSWER_H */
