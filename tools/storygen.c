/* storygen: a corpus of small stories and of questions about them, and a judge of such stories.

       cc -O2 -I. tools/storygen.c -o storygen -lpthread -lm
       ./storygen -n 60000 --seed 1 -o train.txt                  to train on
       ./storygen -n 1000 --seed 1 --held-out -o test.txt         never in any training text, whatever its seed
       ./storygen --quiz 100                                      questions with answers, one per line
       ./storygen --check text.txt                                which stories contradict themselves, and where
       ./storygen --words                                         every word that can occur

   The world, its sentences and its rules are tables in tools/world.h. A document is a story, or a chat in the template
   "User: ...<|eot_id|>Assistant: ...<|eot_id|>", and ends with <|end_of_text|> and a newline. About 40 of 100 are
   stories, 26 are chats in which a story is told and asked about, 34 are questions about a few facts that the user gives.

   Lines of --quiz: the words that a right answer must contain, the right answer, then the messages in turn, the user's
   first, the last one the question; separated by tabs, with \t, \n and \\ for tab, newline and backslash inside. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/world.h"

enum { DOCUMENT_BYTES = 4 * WORLD_MAX_TEXT };

static world the_world;

typedef struct storygen_args {
    int n, quiz, held_out, words;
    uint64_t seed;
    const char *out, *check, *only;
} storygen_args;

/* -1: all kinds; else the kind of world_doc; exits 2 if there is no such kind. */
static int kind_of(const char *name)
{
    static const char *const names[] = {"story", "chat", "facts"};
    int i;
    if (!name) return -1;
    for (i = 0; i < CLI_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) return i;
    cli_usage("--only %s: it is story, chat or facts", name);
}

/* Where results go: a file that is written whole at the end, or stdout at once. */
static void put(const storygen_args *args, cli_buffer *file, const char *text, size_t size)
{
    if (args->out) cli_append(file, text, size);
    else fwrite(text, 1, size, stdout);
}

/* The seed of the stream of documents: near seeds must not give the same stream a step later. */
static uint64_t first_state(uint64_t seed)
{
    uint64_t state = seed;
    return world_random(&state);
}

static void write_documents(const storygen_args *args, cli_buffer *file)
{
    static world_doc doc;
    static char text[DOCUMENT_BYTES];
    const int kind = kind_of(args->only);
    uint64_t state = first_state(args->seed);
    cli_progress progress = {"writing stories", 0, 0};
    int i = 0;
    while (i < args->n && !ferror(stdout)) {
        int size;
        world_make_document(&the_world, world_random(&state), &doc);
        if (doc.held_out != args->held_out || (kind >= 0 && doc.kind != kind)) continue;
        size = world_write_document(&doc, text, (int)sizeof text);
        if (size < 0) cli_fail("document %d is longer than %d bytes", i, (int)sizeof text);
        put(args, file, text, (size_t)size);
        if (++i % 512 == 0 && cli_show_progress(&progress, (uint64_t)i, (uint64_t)args->n)) break;
    }
    cli_end_progress(&progress);
    if (cli_interrupted) exit(CLI_EXIT_INTERRUPTED);
}

static void put_escaped(const storygen_args *args, cli_buffer *file, const char *text)
{
    for (; *text; text++) {
        if (*text == '\t') put(args, file, "\\t", 2);
        else if (*text == '\n') put(args, file, "\\n", 2);
        else if (*text == '\\') put(args, file, "\\\\", 2);
        else put(args, file, text, 1);
    }
}

static void write_quiz(const storygen_args *args, cli_buffer *file)
{
    static world_doc doc;
    uint64_t state = first_state(args->seed);
    int i, k;
    for (i = 0; i < args->quiz && !ferror(stdout); i++) {
        world_make_quiz(&the_world, world_random(&state), &doc);
        put_escaped(args, file, doc.key);
        put(args, file, "\t", 1);
        put_escaped(args, file, doc.message[doc.n - 1].text);
        for (k = 0; k < doc.n - 1; k++) {
            put(args, file, "\t", 1);
            put_escaped(args, file, doc.message[k].text);
        }
        put(args, file, "\n", 1);
    }
}

static int compare_words(const void *a, const void *b)
{
    const char *const *x = (const char *const *)a, *const *y = (const char *const *)b;
    return strcmp(*x, *y);
}

static void write_words(const storygen_args *args, cli_buffer *file)
{
    static const char *list[WORLD_MAX_WORDS];
    int i, n = 0;
    for (i = 0; i < the_world.n_words; i++) {
        const char *text = world_text(&the_world, i);
        if (the_world.listed[i] && world_is_letter(*text)) list[n++] = text;
    }
    qsort(list, (size_t)n, sizeof *list, compare_words);
    for (i = 0; i < n; i++) {
        put(args, file, list[i], strlen(list[i]));
        put(args, file, "\n", 1);
    }
    fprintf(stderr, "%d words\n", n);
}

typedef struct tally { int n, consistent, chats, sentences, parsed; } tally;

static void judge(const storygen_args *args, cli_buffer *file, const char *text, size_t size, tally *sum)
{
    world_verdict v;
    char line[64];
    while (size && strchr(" \t\r\n", *text)) text++, size--;
    while (size && strchr(" \t\r\n", text[size - 1])) size--;
    if (!size) return;
    if (size > 6 && strncmp(text, "User: ", 6) == 0) {
        sum->chats++;
        return;
    }
    world_check(&the_world, text, size, &v);
    sum->n++;
    sum->consistent += v.consistent;
    sum->sentences += v.n_sentences;
    sum->parsed += v.n_parsed;
    if (v.consistent) return;
    snprintf(line, sizeof line, "%d: ", sum->n);
    put(args, file, line, strlen(line));
    put(args, file, v.why, strlen(v.why));
    put(args, file, ": ", 2);
    put(args, file, text + v.bad_at, (size_t)v.bad_size);
    put(args, file, "\n", 1);
}

/* Documents end at <|end_of_text|>, and at the end of the file. */
static void check_file(const storygen_args *args, cli_buffer *file)
{
    static const char mark[] = "<|end_of_text|>", turn[] = "<|eot_id|>";
    size_t size, begin = 0, i, n;
    char *text = cli_read_file(args->check, &size), line[160];
    tally sum = {0, 0, 0, 0, 0};
    if (!text) cli_fail("cannot read %s: %s", args->check, strerror(errno));
    for (i = 0; i <= size; i++) {
        const int ends = i == size || strncmp(text + i, mark, sizeof mark - 1) == 0;
        if (!ends) continue;
        n = i - begin;
        if (n >= sizeof turn - 1 && strncmp(text + i - (sizeof turn - 1), turn, sizeof turn - 1) == 0) n -= sizeof turn - 1;
        judge(args, file, text + begin, n, &sum);
        begin = i + sizeof mark - 1;
        i = begin - 1;
    }
    if (sum.chats) {
        snprintf(line, sizeof line, "%d chats were not judged\n", sum.chats);
        put(args, file, line, strlen(line));
    }
    snprintf(line, sizeof line, "consistent %d of %d; parsed %d of %d sentences\n", sum.consistent, sum.n, sum.parsed,
             sum.sentences);
    put(args, file, line, strlen(line));
    free(text);
}

int main(int argc, char **argv)
{
    storygen_args args;
    cli_buffer file = {NULL, 0, 0};
    const cli_option options[] = {
        {"-n --stories", CLI_INT, &args.n, "N", "documents to write (default 1000)", 0, INT_MAX},
        {"-s --seed", CLI_U64, &args.seed, "S", "other seed, other documents (default 1)", 0, 0},
        {"--held-out", CLI_FLAG, &args.held_out, NULL, "only what is never written without this option: one\nstory in 50", 0, 0},
        {"--only", CLI_STRING, &args.only, "KIND", "story, chat or facts (default: all three)", 0, 0},
        {"-o --output", CLI_STRING, &args.out, "FILE", "write there (default: stdout)", 0, 0},
        {"", CLI_HEADING, NULL, NULL, "Instead of documents", 0, 0},
        {"--quiz", CLI_INT, &args.quiz, "N", "held-out questions, one per line: key words, answer,\nmessages; separated by tabs", 0, INT_MAX},
        {"--check", CLI_STRING, &args.check, "FILE", "judge the stories of FILE (-: stdin)", 0, 0},
        {"--words", CLI_FLAG, &args.words, NULL, "all words, sorted; their number on stderr", 0, 0},
    };
    const cli_program program = {
        "storygen", "[options]", "Writes small stories, and chats with questions about them, to train a small model on; and\n"
        "judges whether stories of that world make sense.", NULL, options, CLI_COUNT(options), 0, 0};
    memset(&args, 0, sizeof args);
    args.n = 1000;
    args.seed = 1;
    args.quiz = -1;
    cli_parse(&program, argc, argv, NULL);
    if ((args.quiz >= 0) + args.words + (args.check != NULL) > 1) cli_usage("--quiz, --check and --words exclude each other");
    kind_of(args.only);
    if (args.out) cli_catch_interrupts();
    world_init(&the_world);
    if (the_world.problem) cli_fail("the tables of world.h: %s", the_world.problem);
    if (args.words) write_words(&args, &file);
    else if (args.check) check_file(&args, &file);
    else if (args.quiz >= 0) write_quiz(&args, &file);
    else write_documents(&args, &file);
    if (args.out && cli_write_file(args.out, file.data, file.size) != 0)
        cli_fail("cannot write %s: %s", args.out, strerror(errno));
    free(file.data);
    return cli_finish_output();
}
