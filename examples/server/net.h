/* net.h: the network thread: connections, and what can be answered without the engine.

   One thread, one poll() over all sockets, none of which ever blocks. A connection reads a head, then a body, then has
   a request with the engine, then begins anew (keep-alive). It never has two requests at a time; what a client sends
   ahead waits in its buffer.

   Every wait has an end. A request must be here within --timeout seconds of its first byte (or of the connection's
   last answer), and so must the client take what is sent to it. Connections, their memory and the queue are bounded;
   when there are too many connections, the one that has been idle for longest goes. */
#ifndef SERVER_NET_H
#define SERVER_NET_H

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "engine.h"

/* The files of the web page, as the Makefile has put them into build/page.h. Without that the server has no page. */
typedef struct page_file {
    const char *path, *type;
    const unsigned char *data;
    size_t size;
} page_file;

#if defined(__has_include)
#if __has_include("page.h")
#include "page.h"
#define SERVER_HAS_PAGE
#endif
#endif
#if !defined(SERVER_HAS_PAGE)
static const page_file page_files[] = {{NULL, NULL, NULL, 0}};
#endif

#define MAX_CONNECTIONS 1000
#define MAX_BUFFERED ((size_t)256 << 20)       /* bytes that connections hold, and again in bodies with the engine */
#define MAX_PIPELINED 65536                    /* bytes a client may send ahead */
#define LINGER_S 2                             /* seconds that a refused client may go on sending, to read why */

typedef struct connection {
    int fd;
    enum { READING_HEAD, READING_BODY, ANSWERING, LINGERING } state;
    char peer[64];
    buffer in;                       /* received and not looked at */
    size_t scanned;                  /* of in: holds no end of a head */
    http_head head;
    http_chunks chunks;
    buffer body, out;
    size_t n_sent;                   /* of out */
    request *request;                /* with the engine; NULL: none */
    int keep;                        /* 0: closed after what is in out */
    double since;                    /* when the wait of now began */
} connection;

typedef struct network {
    server *s;
    int listener;                    /* -1: no more clients are taken */
    connection *connections[MAX_CONNECTIONS];
    int n;
    uint64_t n_requests;
    size_t buffered;                 /* bytes that all connections hold, as of this round */
} network;

/* ---------------------------------------------------------------------------------------------- sockets */

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* A listening socket; *port becomes the one chosen where it was 0. Exits 1 if there can be none. */
static int open_listener(const char *host, int *port)
{
    struct addrinfo hints, *list = NULL, *a;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char service[16];
    int fd = -1, on = 1, status;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    snprintf(service, sizeof service, "%d", *port);
    status = getaddrinfo(host, service, &hints, &list);
    if (status != 0) cli_fail("--host %s: %s", host, gai_strerror(status));
    for (a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
        if (fd < 0) continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);      /* a restart need not wait for old connections */
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 512) == 0) break;
        status = errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0) cli_fail("cannot listen on %s port %d: %s", host, *port, strerror(status ? status : errno));
    if (getsockname(fd, (struct sockaddr *)&bound, &size) == 0)
        *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port :
                      ((struct sockaddr_in *)&bound)->sin_port);
    set_nonblocking(fd);
    return fd;
}

static void close_connection(network *net, int i)
{
    connection *c = net->connections[i];
    if (c->request) request_abandon(net->s, c->request);
    close(c->fd);
    buffer_free(&c->in);
    buffer_free(&c->body);
    buffer_free(&c->out);
    free(c);
    net->connections[i] = net->connections[--net->n];
}

/* Makes room for one more by closing the connection that has waited longest for its client; 0: all are at work. */
static int evict_connection(network *net)
{
    int i, oldest = -1;
    for (i = 0; i < net->n; i++) {
        if (net->connections[i]->request) continue;
        if (oldest < 0 || net->connections[i]->since < net->connections[oldest]->since) oldest = i;
    }
    if (oldest < 0) return 0;
    close_connection(net, oldest);
    return 1;
}

static void accept_connections(network *net)
{
    struct sockaddr_storage address;
    socklen_t size;
    char host[48], port[8];
    connection *c;
    int fd, on = 1, many;
    for (many = 0; many < 64; many++) {
        size = sizeof address;
        fd = accept(net->listener, (struct sockaddr *)&address, &size);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) evict_connection(net);       /* or poll would return for ever */
            return;
        }
        c = net->n < MAX_CONNECTIONS || evict_connection(net) ? (connection *)calloc(1, sizeof *c) : NULL;
        if (!c) {
            close(fd);
            continue;
        }
        set_nonblocking(fd);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);      /* a token is sent when it is there */
        if (getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV) == 0)
            snprintf(c->peer, sizeof c->peer, "%s:%s", host, port);
        c->fd = fd;
        c->since = cli_seconds();
        c->keep = 1;
        net->connections[net->n++] = c;
    }
}

/* ------------------------------------------------------------------------------------------------ answers */

/* An answer that this thread gives. HEAD gets the head alone. */
static void answer_bytes(connection *c, int status, const char *type, const void *data, size_t size, const char *more)
{
    http_put_head(&c->out, status, type, (int64_t)size, c->head.minor, c->keep, more);
    if (strcmp(c->head.method, "HEAD") != 0) put_bytes(&c->out, data, size);
}

/* A path for the log: one word, cut, whatever bytes it was made of. */
static void log_path(char out[64], const char *path)
{
    size_t i;
    for (i = 0; path[i] && i < 63; i++) out[i] = path[i] > 32 && path[i] < 127 && path[i] != '"' ? path[i] : '?';
    out[i] = 0;
}

static void answer_error(connection *c, int status, const char *message, const char *more)
{
    char path[64];
    log_path(path, c->head.path);
    http_put_error(&c->out, status, message, c->head.minor, c->keep, more);
    log_line("refused", "client=%s path=%s status=%d", c->peer, path, status);
}

/* Refuses what the client is still sending: the connection cannot be used any more, since nobody knows where the next
   request in it begins. The client gets a moment to read why. */
static void refuse_rest(connection *c, int status, const char *message)
{
    c->keep = 0;
    c->state = LINGERING;
    buffer_free(&c->in);
    buffer_free(&c->body);
    c->since = cli_seconds();
    answer_error(c, status, message, "");
}

static void put_model(buffer *b, const hosted *m)
{
    put_text(b, "{\"id\":");
    put_cstring(b, m->name);
    put(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"bitnet.h\",\"meta\":{\"n_vocab\":%d,"
        "\"n_ctx_train\":%d,\"n_embd\":%d,\"n_params\":%" PRIu64 ",\"size\":%" PRIu64 "}}", (long long)m->changed,
        m->info.n_vocab, m->info.n_ctx_train, m->info.n_embd, m->info.n_parameters, m->info.file_bytes);
}

/* One model, or with name NULL all of them. */
static void answer_models(connection *c, const server *s, const char *name)
{
    buffer b;
    int i;
    memset(&b, 0, sizeof b);
    if (!name) put_text(&b, "{\"object\":\"list\",\"data\":[");
    for (i = 0; i < s->n_models; i++) {
        if (name && strcmp(name, s->models[i].name) != 0) continue;
        if (!name && i) put_text(&b, ",");
        put_model(&b, &s->models[i]);
    }
    if (!name) put_text(&b, "]}");
    if (b.size) answer_bytes(c, 200, JSON_TYPE, b.data, b.size, "");
    else answer_error(c, 404, "there is no such model; GET /v1/models lists what there is", "");
    buffer_free(&b);
}

static void answer_page(connection *c)
{
    const page_file *file;
    for (file = page_files; file->path; file++) {
        if (strcmp(file->path, c->head.path) != 0) continue;
        answer_bytes(c, 200, file->type, file->data, file->size,
                     "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
                     "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
                     "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n");
        return;
    }
    answer_error(c, 404, "no such page", "");
}

static void answer_health(connection *c, int ready)
{
    static const char ok[] = "{\"status\":\"ok\"}";
    if (ready) answer_bytes(c, 200, JSON_TYPE, ok, sizeof ok - 1, "");
    else http_put_error(&c->out, 503, "Loading model", c->head.minor, c->keep, "");
}

/* ------------------------------------------------------------------------------------------------- routing */

typedef struct route_row {
    const char *path;                /* a slash at the end: more follows */
    route route;
    int post;                        /* 1: POST, 0: GET and HEAD */
} route_row;

/* Each of these also with /v1 in front. */
static const route_row route_rows[] = {
    {"/health", ROUTE_HEALTH, 0}, {"/models", ROUTE_MODELS, 0}, {"/models/", ROUTE_MODEL, 0},
    {"/chat/completions", ROUTE_CHAT, 1}, {"/completions", ROUTE_COMPLETIONS, 1}, {"/completion", ROUTE_COMPLETION, 1},
    {"/embeddings", ROUTE_EMBEDDINGS, 1}, {"/embedding", ROUTE_EMBEDDING, 1}, {"/tokenize", ROUTE_TOKENIZE, 1},
    {"/detokenize", ROUTE_DETOKENIZE, 1}, {"/apply-template", ROUTE_TEMPLATE, 1}, {"/props", ROUTE_PROPS, 0},
    {"/slots", ROUTE_SLOTS, 0}, {"/slots/", ROUTE_SLOT, 1}, {"/metrics", ROUTE_METRICS, 0}
};

/* The route of the head, or NONE with *allow: the methods that the path has, NULL where there is no such path.
   *rest: what follows a path that ends with a slash. */
static route find_route(const http_head *h, const char **rest, const char **allow)
{
    const char *path = h->path;
    const page_file *file;
    size_t i;
    *allow = NULL;
    *rest = "";
    if (strcmp(h->method, "OPTIONS") == 0) return ROUTE_OPTIONS;
    if (strncmp(path, "/v1/", 4) == 0) path += 3;
    for (i = 0; i < sizeof route_rows / sizeof *route_rows; i++) {
        const size_t n = strlen(route_rows[i].path);
        const int open = route_rows[i].path[n - 1] == '/';
        if (strncmp(path, route_rows[i].path, n) != 0 || open == !path[n]) continue;
        *allow = route_rows[i].post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
        *rest = path + n;
        if (strcmp(h->method, route_rows[i].post ? "POST" : "GET") == 0) return route_rows[i].route;
        if (strcmp(h->method, "HEAD") == 0 && route_rows[i].route <= ROUTE_PAGE) return route_rows[i].route;
        return ROUTE_NONE;
    }
    for (file = page_files; file->path; file++)
        if (strcmp(h->path, file->path) == 0) *allow = "GET, HEAD, OPTIONS";
    return *allow && (strcmp(h->method, "GET") == 0 || strcmp(h->method, "HEAD") == 0) ? ROUTE_PAGE : ROUTE_NONE;
}

/* Takes as long for a wrong key as for the right one, wherever they differ. */
static int same_key(const char *given, const char *key)
{
    const size_t n = strlen(given), m = strlen(key);
    unsigned char differs = n != m;
    size_t i;
    for (i = 0; i < n; i++) differs |= (unsigned char)(given[i] ^ key[m ? i % m : 0]);
    return !differs;
}

/* Gives the request to the engine thread. */
static void submit_request(network *net, connection *c, route route, const char *rest)
{
    server *s = net->s;
    request *r = (request *)calloc(1, sizeof *r);
    if (!r) {
        answer_error(c, 500, "out of memory", "");
        return;
    }
    r->id = ++net->n_requests;
    r->route = route;
    memcpy(r->peer, c->peer, sizeof r->peer);
    log_path(r->path, c->head.path);
    memcpy(r->query, c->head.query, sizeof r->query);
    snprintf(r->target, sizeof r->target, "%s", rest);
    r->minor = c->head.minor;
    r->keep_alive = c->keep;
    r->arrived = cli_seconds();
    r->deadline = r->arrived + (s->o.request_timeout ? s->o.request_timeout : 1e9);
    r->raw = c->body;
    r->raw_size = c->body.size;
    memset(&c->body, 0, sizeof c->body);
    c->request = r;
    c->state = ANSWERING;
    pthread_mutex_lock(&s->lock);
    server_submit(s, r);
    pthread_mutex_unlock(&s->lock);
}

/* What the server thinks of a request at the moment. */
typedef struct server_mood { int ready, ending, full; } server_mood;

static server_mood server_look(server *s, route route)
{
    server_mood mood;
    pthread_mutex_lock(&s->lock);
    mood.ready = s->ready;
    mood.ending = s->ending;
    mood.full = (route_waits(route) && s->n_waiting >= s->o.queue) || s->n_bytes > MAX_BUFFERED;
    s->n_refused += (uint64_t)mood.full;
    pthread_mutex_unlock(&s->lock);
    return mood;
}

/* A whole request is here. */
static void handle_request(network *net, connection *c)
{
    server *s = net->s;
    const char *rest, *allow;
    const route route = find_route(&c->head, &rest, &allow);
    const server_mood mood = server_look(s, route);
    char more[64] = "";
    c->keep = c->head.keep_alive && !mood.ending;
    c->state = READING_HEAD;
    c->since = cli_seconds();
    if (allow) snprintf(more, sizeof more, "Allow: %s\r\n", allow);
    if (route == ROUTE_OPTIONS)
        answer_bytes(c, 204, NULL, "", 0, "Access-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
                     "Access-Control-Allow-Headers: Authorization, Content-Type, X-Api-Key, *\r\n"
                     "Access-Control-Max-Age: 86400\r\n");
    else if (route == ROUTE_HEALTH) answer_health(c, mood.ready);
    else if (route == ROUTE_PAGE && !s->o.no_page) answer_page(c);
    else if (s->o.api_key && !same_key(c->head.key, s->o.api_key))
        answer_error(c, 401, "Invalid API Key", "WWW-Authenticate: Bearer\r\n");
    else if (route == ROUTE_NONE && allow) answer_error(c, 405, "the path is there, but not for this method", more);
    else if (route == ROUTE_NONE || route == ROUTE_PAGE) answer_error(c, 404, "no such path", "");
    else if (route == ROUTE_MODELS || route == ROUTE_MODEL) answer_models(c, s, route == ROUTE_MODEL ? rest : NULL);
    else if (!mood.ready) answer_error(c, 503, "Loading model", "");
    else if (mood.ending) answer_error(c, 503, "The server is shutting down", "");
    else if (mood.full) answer_error(c, 503, "Too many requests are waiting; try again in a moment", "");
    else submit_request(net, c, route, rest);
    if (c->state == READING_HEAD) c->body.size = 0;
}

/* ------------------------------------------------------------------------------------------------- reading */

/* Looks for a head in what was received; 1: there is one, and the body comes next. */
static int take_head(connection *c)
{
    http_error error = {400, ""};
    size_t size;
    while (c->in.size && c->scanned == 0 && (c->in.data[0] == '\r' || c->in.data[0] == '\n')) buffer_consume(&c->in, 1);
    size = http_head_size(c->in.data, c->in.size, &c->scanned);
    if (size == 0 || size > HTTP_MAX_HEAD) {
        if (c->in.size > HTTP_MAX_HEAD) refuse_rest(c, 431, "the request's headers are too long");
        return 0;
    }
    c->scanned = 0;
    memset(&c->chunks, 0, sizeof c->chunks);
    if (!http_parse_head(&c->head, c->in.data, size, &error)) {
        refuse_rest(c, error.status, error.why);
        return 0;
    }
    if (c->head.length > HTTP_MAX_BODY) {
        refuse_rest(c, 413, "the request's body is larger than 8 MiB");
        return 0;
    }
    buffer_consume(&c->in, size);
    c->state = READING_BODY;
    if (c->head.expects_continue) put_text(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    return 1;
}

/* Moves what was received to the body; 1: it is all there. */
static int take_body(network *net, connection *c)
{
    size_t n = c->in.size;
    if (c->head.chunked) {
        n = http_dechunk(&c->chunks, c->in.data, n, &c->body);
    } else {
        if (n > c->head.length - c->body.size) n = (size_t)(c->head.length - c->body.size);
        put_bytes(&c->body, c->in.data, n);
    }
    buffer_consume(&c->in, n);
    if (c->chunks.state == CHUNK_WRONG) refuse_rest(c, 400, "a wrong chunk in the body");
    else if (c->body.size > HTTP_MAX_BODY) refuse_rest(c, 413, "the request's body is larger than 8 MiB");
    else if (c->body.failed || (c->body.size > MAX_PIPELINED && net->buffered > MAX_BUFFERED)) {
        net->buffered -= c->body.capacity;               /* so that no more are refused than must be */
        refuse_rest(c, 503, "too many large requests at a time");
    } else {
        return c->head.chunked ? c->chunks.state == CHUNK_DONE : c->body.size == c->head.length;
    }
    return 0;
}

/* Goes on with what was received, as far as it reaches. */
static void advance_connection(network *net, connection *c)
{
    while (c->keep && c->state <= READING_BODY && c->out.size - c->n_sent < MAX_PIPELINED) {
        if (c->state == READING_HEAD && !take_head(c)) return;
        if (c->state != READING_BODY || !take_body(net, c)) return;
        handle_request(net, c);
    }
}

/* Reads once. 0: the client is gone, or something is wrong with the connection. */
static int receive(connection *c)
{
    char piece[65536];
    const ssize_t n = recv(c->fd, piece, sizeof piece, 0);
    if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (n == 0) return 0;
    if (c->state == LINGERING) return 1;
    if (c->in.size == 0 && c->state == READING_HEAD) c->since = cli_seconds();
    put_bytes(&c->in, piece, (size_t)n);
    return !c->in.failed;
}

/* Sends what the socket takes. 0: the client is gone. */
static int transmit(connection *c)
{
    while (c->n_sent < c->out.size) {
        const ssize_t n = send(c->fd, c->out.data + c->n_sent, c->out.size - c->n_sent, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
        c->n_sent += (size_t)n;
        c->since = cli_seconds();
    }
    if (c->out.capacity > MAX_PIPELINED) buffer_free(&c->out);        /* or an idle client would hold megabytes */
    c->out.size = c->n_sent = 0;
    return 1;
}

/* ------------------------------------------------------------------------------------------------- the loop */

/* Takes over what the engine has written for the connection's request. */
static void fetch_answer(server *s, connection *c)
{
    request *r = c->request;
    buffer got;
    int done;
    pthread_mutex_lock(&s->lock);
    got = r->out;
    memset(&r->out, 0, sizeof r->out);
    done = r->done;
    pthread_mutex_unlock(&s->lock);
    if (got.size && c->n_sent == c->out.size) c->since = cli_seconds();          /* the client's time begins */
    buffer_move(&c->out, &got);
    buffer_free(&got);
    if (!done) return;
    c->keep = r->keep_alive;
    c->request = NULL;
    c->state = READING_HEAD;
    c->since = cli_seconds();
    request_free(r);
}

/* Has the connection waited too long? Says so where a request is half there. 1: it is to be closed. */
static int check_time(const server *s, connection *c, double now)
{
    const double limit = c->state == LINGERING ? LINGER_S : s->o.timeout;
    if (now - c->since < limit || (c->state == ANSWERING && c->n_sent == c->out.size)) return 0;
    if (c->state == LINGERING || c->out.size > c->n_sent || (c->state == READING_HEAD && c->in.size == 0)) return 1;
    refuse_rest(c, 408, "the request did not arrive in time");
    return 0;
}

/* One round for a connection, after poll. 0: it is over. */
static int serve_connection(network *net, connection *c, short events, int ending, double now)
{
    int alive = 1;
    if (events & (POLLIN | POLLHUP | POLLERR)) alive = receive(c);
    if (alive && c->request) fetch_answer(net->s, c);
    if (alive) advance_connection(net, c);
    if (alive && c->out.size > c->n_sent) alive = transmit(c);
    if (alive && c->out.size == c->n_sent && !c->request) {
        if (!c->keep && c->state != LINGERING) alive = 0;
        else if (c->state == LINGERING) shutdown(c->fd, SHUT_WR);
        else if (ending && c->state == READING_HEAD) alive = 0;
    }
    return alive && !check_time(net->s, c, now) && !c->out.failed;
}

/* What to wait for on connection c. While its request is with the engine it is read on, to see a hang-up. */
static short wanted_events(const connection *c)
{
    short events = 0;
    if (c->out.size > c->n_sent) events |= POLLOUT;
    if (c->in.size < (c->state == READING_BODY ? HTTP_MAX_BODY : MAX_PIPELINED)) events |= POLLIN;
    return events;
}

static void drain_pipe(int fd)
{
    char bytes[64];
    while (read(fd, bytes, sizeof bytes) > 0) {}
}

/* One poll and what follows from it. wake: the pipe that signals and the engine write to. */
static void network_turn(network *net, int timeout_ms, int ending)
{
    static struct pollfd fds[MAX_CONNECTIONS + 2];
    server *s = net->s;
    const int n = net->n;
    double now;
    int i;
    fds[0].fd = s->wake_read;
    fds[1].fd = net->listener;                           /* -1: poll passes over it */
    fds[0].events = fds[1].events = POLLIN;
    net->buffered = 0;
    for (i = 0; i < n; i++) {
        const connection *c = net->connections[i];
        fds[i + 2].fd = c->fd;
        fds[i + 2].events = wanted_events(c);
        net->buffered += c->in.capacity + c->body.capacity + c->out.capacity;
    }
    for (i = 0; i < n + 2; i++) fds[i].revents = 0;
    if (poll(fds, (nfds_t)n + 2, timeout_ms) < 0) return;
    if (fds[0].revents) {
        drain_pipe(s->wake_read);                        /* first: a byte that comes now must stay there */
        pthread_mutex_lock(&s->lock);
        s->awake = 0;
        pthread_mutex_unlock(&s->lock);
    }
    now = cli_seconds();
    for (i = 0; i < n; i++)                              /* who came first has the first turn */
        fds[i + 2].revents = (short)!serve_connection(net, net->connections[i], fds[i + 2].revents, ending, now);
    for (i = n - 1; i >= 0; i--)                         /* backwards: closing one moves the last to its place */
        if (fds[i + 2].revents) close_connection(net, i);
    if (fds[1].revents) accept_connections(net);
}

#endif /* SERVER_NET_H */
