/* Any bytes as what a client sends: the whole server without its sockets and threads. Requests go the real way, from the head's first
   byte to the last of the answer, on a model of 6 KB. What comes out must be HTTP and JSON, and the same requests must be
   found in the bytes whether they come at once or in pieces. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "examples/server/net.h"
#include "fuzz.h"

static server s;
static network net;
static engine_thread engine;

/* The model and its slots, made once. */
static void start(void)
{
    static uint8_t file[1 << 19];
    static hosted m;
    bitnet_model_desc md;
    bitnet_engine_desc ed;
    bitnet_session_desc sd;
    memset(&md, 0, sizeof md);
    memset(&ed, 0, sizeof ed);
    memset(&sd, 0, sizeof sd);
    forge_sound(&fuzz_forge);
    md.data = file;
    md.size = forge_write(&fuzz_forge, file, sizeof file, NULL);
    md.n_threads = ed.n_threads = 1;
    md.chat_template = "bitnet";
    ed.n_ctx = sd.n_ctx = m.n_ctx = 48;
    if (bitnet_model_open(&md, &m.model, NULL) != BITNET_OK || bitnet_engine_create(m.model, &ed, &m.engine, NULL) != BITNET_OK)
        abort();
    for (; m.n_slots < 2; m.n_slots++) {
        m.slots[m.n_slots].id = m.n_slots;
        if (bitnet_session_create(m.engine, &sd, &m.slots[m.n_slots].session, NULL) != BITNET_OK)
            abort();
    }
    bitnet_model_get_info(m.model, &m.live);
    m.info = m.live;
    m.path = (char *)"folder/fuzz.gguf";
    hosted_set_name(&m, m.path);
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.work, NULL);
    s.models = &m;
    s.n_models = s.ready = s.awake = 1;                  /* awake: nobody is to be woken */
    s.inbox_end = &s.inbox;
    s.o.queue = 100;
    s.o.n_predict = 8;
    s.o.system = "Be brief.";
    net.s = engine.s = &s;
    logger.off = 1;
    (void)network_turn;                                  /* what only a real server calls */
    (void)open_listener;
    (void)engine_main;
    (void)server_add_folder;
}

/* Aborts unless text [n] is JSON. */
static void check_json(const char *text, size_t n)
{
    json_doc d;
    char *copy = (char *)malloc(n + 1);
    memcpy(copy, text, n);
    copy[n] = 0;
    if (!json_parse(&d, copy, n))
        abort();
    json_free(&d);
    free(copy);
}

/* A stream's events. */
static void check_events(const char *p)
{
    while (*p) {
        const char *end = strstr(p, "\n\n");
        if (!end || strncmp(p, "data: ", 6) != 0)
            abort();
        if (strncmp(p, "data: [DONE]\n", 13) != 0)
            check_json(p + 6, (size_t)(end - p - 6));
        p = end + 2;
    }
}

/* Everything the server has said, which is changed on the way. */
static void check_answers(buffer *out)
{
    size_t at = 0, scanned, n;
    while (at < out->size) {
        char *p = out->data + at;
        const char *length, *end;
        buffer body;
        http_chunks chunks;
        memset(&body, 0, sizeof body);
        memset(&chunks, 0, sizeof chunks);
        scanned = 0;
        n = http_head_size(p, out->size - at, &scanned);
        if (n == 0 || strncmp(p, "HTTP/1.1 ", 9) != 0)
            abort();
        p[n - 2] = 0;
        at += n;
        length = strstr(p, "\r\nContent-Length: ");
        end = p + n;
        if (strncmp(p + 9, "100", 3) == 0 || strncmp(p + 9, "204", 3) == 0)
            continue;
        if (length) {
            n = (size_t)strtoul(length + 18, NULL, 10);
            if (n > out->size - at || n == 0)
                abort();
            if (strstr(p, "application/json"))
                check_json(end, n);
        } else if (strstr(p, "Transfer-Encoding: chunked")) {
            n = http_dechunk(&chunks, end, out->size - at, &body);
            put_bytes(&body, "", 1);
            if (chunks.state != CHUNK_DONE)
                abort();
            check_events(body.data);
        } else {
            n = out->size - at;                          /* HTTP/1.0: to the connection's end */
        }
        at += n;
        buffer_free(&body);
    }
}

/* Feeds data in pieces of at most `piece` bytes, and lets the engine work whenever there is a request. Returns a hash of the
   requests that were found. */
static uint64_t serve(const uint8_t *data, size_t size, size_t piece)
{
    connection *c = (connection *)calloc(1, sizeof *c);
    uint64_t hash = BNI_DIGEST_START;
    buffer out;
    size_t at = 0, n;
    int idle = 0, heads = 0, more;
    for (n = 0; n + 4 <= size; n++) heads |= memcmp(data + n, "HEAD", 4) == 0;
    memset(&out, 0, sizeof out);
    c->keep = 1;
    c->fd = -1;
    while (c->keep && at < size) {
        n = size - at < piece ? size - at : piece;
        put_bytes(&c->in, data + at, n);
        at += n;
        do {
            advance_connection(&net, c);
            more = c->request || c->out.size >= MAX_PIPELINED;
            if (c->request) {
                request *r = c->request;
                hash = bni_digest(hash, &r->route, sizeof r->route);
                if (r->raw.size)
                    hash = bni_digest(hash, r->raw.data, r->raw.size);
                while (!r->done) engine_turn(&engine, &idle);
                fetch_answer(&s, c);
            }
            put_bytes(&out, c->out.data, c->out.size);
            c->out.size = 0;
        } while (more);
    }
    if (s.n_open || s.n_waiting || engine.queue || engine.running || s.models[0].n_requests || out.failed)
        abort();
    if (!heads)                                          /* whose answers have a length and no body */
        check_answers(&out);
    buffer_free(&c->in);
    buffer_free(&c->body);
    buffer_free(&c->out);
    buffer_free(&out);
    free(c);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!s.models)
        start();
    if (serve(data, size, size) != serve(data, size, 1 + size / 7))
        abort();
    return 0;
}

#if !defined(FUZZ_LIB)
static size_t request_text(uint8_t *out, const char *method, const char *path, const char *body)
{
    return (size_t)sprintf((char *)out, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: %zu\r\n\r\n%s", method, path,
                           strlen(body), body);
}

/* One of each, one after the other. */
static size_t fuzz_seed(uint8_t *out, size_t capacity)
{
    static const char *const requests[][3] = {
        {"GET", "/health", ""}, {"GET", "/v1/models", ""}, {"OPTIONS", "*", ""}, {"GET", "/slots", ""}, {"GET", "/metrics", ""}, {"GET", "/props", ""},
        {"POST", "/v1/chat/completions", "{\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},{\"role\":\"user\","
         "\"content\":\"b\\u00e4\\ud83d\\ude00\"}],\"n\":2,\"stream\":true,\"logprobs\":true,\"top_logprobs\":2,\"stop\":[\"ab\"],\"seed\":1,"
         "\"stream_options\":{\"include_usage\":true},\"logit_bias\":{\"1\":-100},\"temperature\":0.5,\"max_tokens\":4}"},
        {"POST", "/v1/completions", "{\"prompt\":[\"a b\",[1,2]],\"logprobs\":1,\"max_completion_tokens\":3,\"tools\":null,\"ignore_eos\":true}"},
        {"POST", "/completion", "{\"prompt\":\"a\",\"n_predict\":3,\"n_probs\":1,\"stream\":true,\"id_slot\":1,\"return_tokens\":true,\"logit_bias\":[[1,false]]}"},
        {"POST", "/v1/embeddings", "{\"input\":[\"a\",\"b c\"],\"encoding_format\":\"base64\"}"}, {"POST", "/embedding", "{\"content\":\"a\"}"},
        {"POST", "/tokenize", "{\"content\":\"a b\",\"with_pieces\":true}"}, {"POST", "/detokenize", "{\"tokens\":[1,2,3]}"},
        {"POST", "/apply-template", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"}, {"POST", "/slots/0?action=erase", ""}};
    size_t i, n = 0;
    (void)capacity;
    for (i = 0; i < sizeof requests / sizeof *requests; i++) n += request_text(out + n, requests[i][0], requests[i][1], requests[i][2]);
    return n + (size_t)sprintf((char *)out + n, "POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "8;x=y\r\n{\"conten\r\nb\r\nt\":\"a b c\"}\r\n0\r\nA: b\r\n\r\n");
}
#endif
