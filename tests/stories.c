/* stories.c: does a model trained on the stories of tools/storygen.c keep its world straight?

       build/stories [-m MODEL] [--stories N] [--questions N] [--seed S] [-v]

   Samples stories, each with a seed of its own and the settings that examples/generate.c has by default, and lets the
   grammar that wrote the training text judge them: a story passes if every sentence is one of the world's and none
   contradicts what was said before (names, kinds, colours, owners, places). Then asks questions from the part of the
   corpus that training never saw, greedily, through the model's chat template: an answer passes if it is the right
   sentence or at least holds the words that a right answer must hold. Prints both shares and, with -v, everything that
   failed. Exit status 0 if the shares reach --min-stories and --min-answers. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/world.h"

static world the_world;

typedef struct asker {
    bitnet_model *model;
    bitnet_engine *engine;
    bitnet_session *session;
    char text[WORLD_MAX_TEXT];       /* what the model said */
    size_t size;
} asker;

static int keep_text(void *user, const char *text, size_t size)
{
    asker *a = (asker *)user;
    if (size >= sizeof a->text - a->size) return 1;
    memcpy(a->text + a->size, text, size);
    a->size += size;
    return 0;
}

/* Runs the session over the tokens and keeps the text; 1 if the model ended by itself. */
static int answer(asker *a, const int32_t *tokens, int n, const bitnet_generation *g)
{
    bitnet_event event;
    int ended = 0, done = 0;
    a->size = 0;
    bitnet_session_rewind(a->session, 0);
    if (bitnet_begin(a->session, tokens, n, g) != BITNET_OK) return 0;
    while (!done) {
        bitnet_step(a->engine, BITNET_NO_BUDGET);
        while (!done && bitnet_next_event(a->session, &event)) {
            if (event.type == BITNET_EVENT_TOKEN || event.type == BITNET_EVENT_DONE) keep_text(a, event.text, event.text_size);
            if (event.type == BITNET_EVENT_DONE) {
                ended = event.reason == BITNET_DONE_END;
                done = 1;
            }
        }
    }
    a->text[a->size] = 0;
    return ended;
}

static int sample_stories(asker *a, int n, uint64_t seed, int verbose)
{
    static const char opening[] = "Once upon a time";
    int32_t tokens[64];
    bitnet_generation g;
    int i, good = 0, sentences = 0, parsed = 0, wrong = 0;
    const int n_tokens = (int)bitnet_tokenize(a->model, opening, strlen(opening), tokens, 64, BITNET_TOKENIZE_BOS);
    memset(&g, 0, sizeof g);
    g.sampling.temperature = 0.8f;       /* as in examples/generate.c */
    g.sampling.top_k = 40;
    g.sampling.top_p = 0.95f;
    g.sampling.min_p = 0.05f;
    for (i = 0; i < n; i++) {
        char story[WORLD_MAX_TEXT + sizeof opening];
        world_verdict v;
        int ended;
        g.sampling.seed = seed + (uint64_t)i;
        ended = answer(a, tokens, n_tokens, &g);
        snprintf(story, sizeof story, "%s%s", opening, a->text);
        world_check(&the_world, story, strlen(story), &v);
        good += v.consistent && ended;
        sentences += v.n_sentences;
        parsed += v.n_parsed;
        wrong += v.n_false;
        if (verbose && !(v.consistent && ended)) {
            if (!ended) printf("story %d: does not end\n", i);
            else printf("story %d: %s: %.*s\n", i, v.why, v.bad_size, story + v.bad_at);
            printf("    %s\n", story);
        }
    }
    printf("stories: %d of %d consistent (%d sentences, %d of them of the world, %d false)\n", good, n, sentences, parsed, wrong);
    return good;
}

static int ask_questions(asker *a, int n, uint64_t seed, int verbose)
{
    static world_doc doc;
    int32_t tokens[1024];
    uint64_t state = seed;
    bitnet_generation g;
    int i, k, good = 0, exact = 0;
    memset(&g, 0, sizeof g);
    g.max_tokens = 60;
    for (i = 0; i < n; i++) {
        bitnet_chat_message messages[WORLD_MESSAGES];
        const char *right;
        int64_t n_tokens;
        int held;
        world_make_quiz(&the_world, world_random(&state), &doc);
        for (k = 0; k < doc.n - 1; k++) {
            messages[k].role = doc.message[k].assistant ? "assistant" : "user";
            messages[k].content = doc.message[k].text;
        }
        right = doc.message[doc.n - 1].text;
        n_tokens = bitnet_chat_tokenize(a->model, messages, doc.n - 1, BITNET_CHAT_ANSWER, tokens, CLI_COUNT(tokens));
        if (n_tokens < 1 || n_tokens > CLI_COUNT(tokens)) cli_fail("the model has no chat template that fits");
        answer(a, tokens, (int)n_tokens, &g);
        held = strcmp(a->text, right) == 0 || (strstr(a->text, doc.key) != NULL && strlen(a->text) < strlen(right) + 40);
        exact += strcmp(a->text, right) == 0;
        good += held;
        if (verbose && !held) {
            printf("question %d: right: %s\n            said: %s\n", i, right, a->text);
            for (k = 0; k < doc.n - 1; k++) printf("    %s: %s\n", messages[k].role, messages[k].content);
        }
    }
    printf("questions: %d of %d answered rightly (%d word for word)\n", good, n, exact);
    return good;
}

int main(int argc, char **argv)
{
    int stories = 200, questions = 200, min_stories = 0, min_answers = 0, verbose = 0, good, right;
    uint64_t seed = 1;
    cli_model_args where;
    static asker a;
    bitnet_error err;
    bitnet_engine_desc desc;
    const char *none[1];
    const cli_option options[] = {
        {"-m --model", CLI_STRING, &where.path, "FILE", "the model (examples/stories.gguf)", 0, 0},
        {"--stories", CLI_INT, &stories, "N", "stories to sample (200)", 0, 1000000},
        {"--questions", CLI_INT, &questions, "N", "questions to ask (200)", 0, 1000000},
        {"--min-stories", CLI_INT, &min_stories, "N", "consistent stories that must be reached", 0, 1000000},
        {"--min-answers", CLI_INT, &min_answers, "N", "right answers that must be reached", 0, 1000000},
        {"--seed", CLI_U64, &seed, "N", "of the first story and of the questions (1)", 0, 0},
        {"-v --verbose", CLI_FLAG, &verbose, NULL, "print what failed", 0, 0},
        CLI_MODEL_OPTIONS(where)
    };
    const cli_program program = {"stories", "[options]", "Judges a model of the story world.", NULL, options, CLI_COUNT(options), 0, 0};
    memset(&where, 0, sizeof where);
    where.path = "examples/stories.gguf";
    cli_parse(&program, argc, argv, none);
    memset(&desc, 0, sizeof desc);
    memset(&err, 0, sizeof err);
    desc.n_threads = where.n_threads > 0 ? where.n_threads : 1;       /* so small a model gains little from more */
    world_init(&the_world);
    a.model = cli_open_model(&where, 0);
    if (bitnet_engine_create(a.model, &desc, &a.engine, &err) != BITNET_OK || bitnet_session_create(a.engine, NULL, &a.session, &err) != BITNET_OK)
        cli_fail_with(where.path, &err);
    good = sample_stories(&a, stories, seed, verbose);
    right = ask_questions(&a, questions, seed, verbose);
    bitnet_session_destroy(a.session);
    bitnet_engine_destroy(a.engine);
    bitnet_model_close(a.model);
    if (good < min_stories || right < min_answers) return CLI_EXIT_FAILED;
    return cli_finish_output();
}
