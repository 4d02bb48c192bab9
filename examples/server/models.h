/* models.h: the models that the server offers, and the slots of each.

   A model that is loaded has one engine, and slots: sessions that the engine advances together. A request takes a slot
   for as long as it generates; what the slot's cache holds stays there afterwards, so that the next request of the same
   conversation needs to read only what is new.

   Loading takes seconds, in which the streams of other models must go on: so an aside does it. All else here belongs to
   the engine thread, but for path, name, info and changed, which stay as they are once the server runs. */
#ifndef SERVER_MODELS_H
#define SERVER_MODELS_H

#include <dirent.h>
#include <sys/stat.h>

#include "request.h"

#define MAX_MODELS 256
#define MAX_SLOTS 64
#define SHARED_PREFIX 8              /* tokens: fewer are evaluated sooner than a conversation is read again */

typedef struct slot {
    int id;
    bitnet_session *session;
    request *request;                /* who has it; NULL: free */
    int choice;                      /* of the request */
    int start;                       /* position at bitnet_begin: tokens that were found in the cache */
    int n_done, n_total;             /* of the prompt behind it */
    int n_evaluated;                 /* tokens that are surely in the cache, while the slot is free */
    uint64_t used;                   /* by the count of uses: the larger, the more recent */
} slot;

typedef struct hosted {
    char *path;
    char name[128];
    bitnet_model_info info;          /* as probed */
    bitnet_model_info live;          /* of the model, while it is loaded */
    time_t changed;                  /* of the file */
    bitnet_model *model;             /* NULL: not loaded */
    bitnet_engine *engine;
    slot slots[MAX_SLOTS];
    int n_slots, n_ctx;              /* context of each slot */
    int n_requests;                  /* that are open */
    uint64_t uses;                   /* of slots */
    double last_used;
    struct load *load;               /* NULL: it is not being loaded */
} hosted;

/* The aside's own until that is done. */
typedef struct load {
    hosted m;                        /* what the model becomes */
    bitnet_error err;
    int ok;
    struct aside *aside;
} load;

/* ---------------------------------------------------------------------------------------------- the list */

/* "x.gguf" without the ending and the folder: what clients call the model. */
static void hosted_set_name(hosted *m, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n;
    snprintf(m->name, sizeof m->name, "%s", slash ? slash + 1 : path);
    n = strlen(m->name);
    if (n > 5 && strcmp(m->name + n - 5, ".gguf") == 0) m->name[n - 5] = 0;
}

/* Adds a file to the list. Exits 1 if it is no model that runs; from a folder such a file is passed over. */
static void server_add_model(server *s, const char *path, int from_folder)
{
    hosted *m = &s->models[s->n_models];
    bitnet_model_desc desc;
    bitnet_error err;
    struct stat file;
    memset(&desc, 0, sizeof desc);
    memset(&err, 0, sizeof err);
    memset(m, 0, sizeof *m);
    if (s->n_models == MAX_MODELS) cli_fail("more than %d models", MAX_MODELS);
    desc.path = path;
    if (bitnet_model_probe(&desc, &m->info, &err) != BITNET_OK || !m->info.is_supported) {
        const char *why = err.text[0] ? err.text : m->info.unsupported;
        if (!from_folder) cli_fail("%s: %s", path, why);
        log_line("skip", "file=\"%s\" reason=\"%s\"", path, why);
        return;
    }
    if (stat(path, &file) == 0) m->changed = file.st_mtime;
    m->path = (char *)cli_alloc(strlen(path) + 1);
    memcpy(m->path, path, strlen(path) + 1);
    hosted_set_name(m, path);
    s->n_models++;
}

static int compare_models(const void *a, const void *b)
{
    return strcmp(((const hosted *)a)->name, ((const hosted *)b)->name);
}

/* Every .gguf of the folder, by name. */
static void server_add_folder(server *s, const char *path)
{
    const int first = s->n_models;
    const struct dirent *entry;
    DIR *folder = opendir(path);
    if (!folder) cli_fail("%s: %s", path, strerror(errno));
    while ((entry = readdir(folder)) != NULL) {
        const size_t n = strlen(entry->d_name);
        cli_buffer file = {0};
        if (n <= 5 || strcmp(entry->d_name + n - 5, ".gguf") != 0) continue;
        cli_append(&file, path, strlen(path));
        cli_append(&file, "/", 1);
        cli_append(&file, entry->d_name, n);
        server_add_model(s, file.data, 1);
        free(file.data);
    }
    closedir(folder);
    qsort(s->models + first, (size_t)(s->n_models - first), sizeof *s->models, compare_models);
}

/* The model of that name or file name. One model answers to every name, since programs often send one that means
   nothing; of several, NULL names the first, and an unknown name none. */
static hosted *server_find_model(server *s, const char *name)
{
    int i;
    for (i = 0; name && i < s->n_models; i++) {
        const char *slash = strrchr(s->models[i].path, '/');
        if (strcmp(name, s->models[i].name) == 0 || strcmp(name, slash ? slash + 1 : s->models[i].path) == 0)
            return &s->models[i];
    }
    return s->n_models == 1 || !name ? &s->models[0] : NULL;
}

/* ---------------------------------------------------------------------------------------- load and unload */

static void hosted_unload(hosted *m)
{
    int i;
    for (i = 0; i < m->n_slots; i++) bitnet_session_destroy(m->slots[i].session);
    bitnet_engine_destroy(m->engine);
    bitnet_model_close(m->model);
    m->engine = NULL;
    m->model = NULL;
    m->n_slots = 0;
}

/* A bitnet_progress_fn: stops loading when the server ends. */
static int loading_progress(void *user, uint64_t done, uint64_t total)
{
    server *s = (server *)user;
    int ending;
    (void)done;
    (void)total;
    pthread_mutex_lock(&s->lock);
    ending = s->ending;
    pthread_mutex_unlock(&s->lock);
    return ending;
}

static void loading_log(void *user, bitnet_log_level level, const char *text)
{
    (void)user;
    if (level == BITNET_LOG_WARNING || logger.verbose) log_line("model", "note=\"%s\"", text);
}

static bitnet_result hosted_open(server *s, hosted *m, bitnet_error *err)
{
    bitnet_model_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.path = m->path;
    desc.logger.log = loading_log;
    desc.n_threads = cli_threads(&s->o.model);
    desc.progress = loading_progress;
    desc.progress_user = s;
    desc.kernels = s->o.model.kernels;
    desc.allow_amx = 1;                                  /* ours to say: this program sets no signal stacks */
    desc.layout = s->o.model.layout;
    desc.head = s->o.model.head;
    desc.chat_template = s->o.model.chat_template;
    desc.i2s_layout = cli_i2s_layout(s->o.model.i2s_layout);
    desc.tl_tiles = s->o.model.tl_tiles;
    desc.no_mmap = s->o.model.no_mmap;
    desc.mlock = s->o.model.mlock;
    return bitnet_model_open(&desc, &m->model, err);
}

/* Context of a slot. -c is what all slots share, where -np says how many there are; without -np each has all of it, as
   memory that nobody fills costs nothing. Never more than the model was trained for: beyond it the text falls apart. */
static int hosted_context(const server *s, const hosted *m)
{
    const int trained = m->info.n_ctx_train > 0 ? m->info.n_ctx_train : 4096;
    int n = s->o.n_ctx < 0 ? (trained < 4096 ? trained : 4096) : s->o.n_ctx == 0 ? trained : s->o.n_ctx;
    if (s->o.n_parallel && s->o.n_ctx > 0) n /= s->o.n_parallel;
    n = n < trained ? n : trained;
    return n < 16 ? 16 : n;
}

/* 1, or 0 with *err. */
static int hosted_load(server *s, hosted *m, bitnet_error *err)
{
    const double start = cli_seconds();
    bitnet_engine_desc engine;
    bitnet_session_desc session;
    bitnet_result result;
    int i;
    memset(err, 0, sizeof *err);
    memset(&engine, 0, sizeof engine);
    memset(&session, 0, sizeof session);
    m->n_ctx = hosted_context(s, m);
    engine.n_threads = cli_threads(&s->o.model);
    /* A hint that never changes a text. Callers say -b 1, which would read the model once per token of a prompt. */
    engine.n_batch = s->o.n_batch < 32 ? 0 : s->o.n_batch > 512 ? 512 : s->o.n_batch;
    engine.n_ctx = session.n_ctx = m->n_ctx;
    result = hosted_open(s, m, err);
    if (result == BITNET_OK) result = bitnet_engine_create(m->model, &engine, &m->engine, err);
    for (i = 0; result == BITNET_OK && i < (s->o.n_parallel ? s->o.n_parallel : 4); i++) {
        memset(&m->slots[i], 0, sizeof m->slots[i]);
        m->slots[i].id = i;
        result = bitnet_session_create(m->engine, &session, &m->slots[i].session, err);
        if (result == BITNET_OK) m->n_slots++;
    }
    if (result != BITNET_OK) {
        hosted_unload(m);
        if (!err->text[0]) snprintf(err->text, sizeof err->text, "%s", bitnet_result_text(result));
        log_line("load", "model=%s failed=\"%s\"", m->name, err->text);
        return 0;
    }
    bitnet_model_get_info(m->model, &m->live);
    m->last_used = cli_seconds();
    log_line("load", "model=%s seconds=%.2f slots=%d context=%d kernels=%s", m->name, m->last_used - start, m->n_slots,
             m->n_ctx, m->live.kernels);
    return 1;
}

static void load_aside(server *s, void *what)
{
    load *l = (load *)what;
    l->ok = hosted_load(s, &l->m, &l->err);
}

/* Begins to load m, unless that has begun already; 0: it cannot. */
static int hosted_start_load(server *s, hosted *m)
{
    if (m->load) return 1;
    m->load = (struct load *)calloc(1, sizeof *m->load);
    if (!m->load) return 0;
    m->load->m = *m;
    m->load->aside = aside_start(s, load_aside, m->load);
    if (m->load->aside) return 1;
    free(m->load);
    m->load = NULL;
    return 0;
}

/* m becomes what its load, which is done, has made of it. 1, or 0 with *err. */
static int hosted_end_load(hosted *m, bitnet_error *err)
{
    load *l = m->load;
    const int ok = l->ok;
    *err = l->err;
    m->live = l->m.live;
    m->model = l->m.model;
    m->engine = l->m.engine;
    memcpy(m->slots, l->m.slots, sizeof m->slots);
    m->n_slots = l->m.n_slots;
    m->n_ctx = l->m.n_ctx;
    m->last_used = l->m.last_used;
    m->load = NULL;
    free(l);
    return ok;
}

/* ------------------------------------------------------------------------------------------------- slots */

/* Tokens at the beginning of p that the slot's cache holds. The last token of a prompt is always evaluated: it is what
   the first word follows from. */
static int slot_common_prefix(const slot *s, const prompt *p)
{
    const int32_t *have;
    int n = bitnet_session_tokens(s->session, &have), i = 0;
    if (n > s->n_evaluated) n = s->n_evaluated;
    if (n > p->n - 1) n = p->n - 1;
    while (i < n && have[i] == p->tokens[i]) i++;
    return i;
}

/* Makes a free slot ready for any call: the rows of a cancelled request may still be in the pass in flight, and the
   token sampled last still wait in the list. */
static void slot_settle(hosted *m, slot *s)
{
    if (bitnet_session_rewind(s->session, s->n_evaluated) == BITNET_OK) return;
    bitnet_finish(m->engine);
    if (bitnet_session_rewind(s->session, s->n_evaluated) == BITNET_OK) return;
    s->n_evaluated = 0;                                  /* a restored slot may hold less than it seemed */
    bitnet_session_rewind(s->session, 0);
}

/* A free slot for the prompt, NULL: there is none. The one whose cache helps most, if it spares a tenth of the work (as
   in llama-server) and more than the beginning that any two texts share; else the one that was not used for the longest
   time, so that other conversations keep theirs. Where the cache goes on with something else, perhaps another
   conversation with the same system prompt, an empty slot becomes a copy; not where the whole prompt is there, which is
   asked for once more. wanted: its id, or -1. */
static slot *hosted_pick_slot(hosted *m, const prompt *p, int wanted)
{
    slot *best = NULL, *oldest = NULL;
    int i, most = 0;
    for (i = 0; i < m->n_slots; i++) {
        slot *s = &m->slots[i];
        int n;
        if (s->request || (wanted >= 0 && wanted != i)) continue;
        if (!oldest || s->used < oldest->used) oldest = s;
        n = slot_common_prefix(s, p);
        if (n > most) {
            most = n;
            best = s;
        }
    }
    if (!best || most < SHARED_PREFIX || most <= p->n / 10) return oldest;
    if (most == p->n - 1 || best->n_evaluated - most < SHARED_PREFIX) return best;
    if (bitnet_session_tokens(oldest->session, NULL) > 0) return best;
    slot_settle(m, best);
    if (bitnet_session_copy(oldest->session, best->session) != BITNET_OK) return best;
    oldest->n_evaluated = best->n_evaluated;
    return oldest;
}

/* The slot is free again. What the cache surely holds: all but the token sampled last, which is never evaluated, or as
   much of the prompt as was told. */
static void slot_release(hosted *m, slot *s)
{
    const int n = bitnet_session_tokens(s->session, NULL);
    s->n_evaluated = s->n_done < s->n_total ? s->start + s->n_done : n > 0 ? n - 1 : 0;
    s->request = NULL;
    s->used = ++m->uses;
    m->last_used = cli_seconds();
}

#endif /* SERVER_MODELS_H */
