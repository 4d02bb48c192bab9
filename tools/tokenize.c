/* tokenize: text to tokens and back, as a model's tokenizer has it.

       cc -O2 -I. tools/tokenize.c -o tokenize -lpthread -lm
       printf 'Hello world' | ./tokenize model.gguf               one token per line: id, tab, text
       printf 'Hello world' | ./tokenize model.gguf --ids         128000 9906 1917
       echo 9906 1917 | ./tokenize model.gguf --decode            Hello world

   Every byte of stdin counts, a final newline and NUL bytes too. The begin token (and the end token of models that want
   one) is added as the model says, unless --no-bos. Control tokens like <|eot_id|> in the text are read as such, unless
   --no-special.

   --decode is the inverse: it drops the begin and end token that the other direction would have added (with --no-bos it
   prints them) and prints control tokens as text (with --no-special it prints nothing for them). Raw bytes, nothing
   added, so that `tokenize M --ids < FILE | tokenize M --decode` gives the file back.

   The file needs no weights: a GGUF with a vocabulary and nothing else will do. */

#include "tools/cli.h"
#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tools/show.h"

typedef struct token_list { int32_t *id; int64_t n; } token_list;

/* The tokens of text; exits 1 on failure. Ownership of id: the caller's, free(). */
static token_list encode(const bitnet_model *model, const char *text, size_t size, int flags)
{
    token_list t;
    int64_t capacity = (int64_t)size / 3 + 16;           /* usually enough; the call says what it needs */
    for (;;) {
        t.id = (int32_t *)cli_alloc((size_t)capacity * sizeof *t.id);
        t.n = bitnet_tokenize(model, text, size, t.id, capacity, flags);
        if (t.n < 0) cli_fail("cannot tokenize: %s", bitnet_result_text((bitnet_result)t.n));
        if (t.n <= capacity) return t;
        free(t.id);
        capacity = t.n;
    }
}

/* The bytes that one token stands for inside a text: what it adds to a text that has it already, since at the beginning
   of a text SPM vocabularies drop a blank. NULL-terminated; ownership: the caller's, free(). */
static char *token_bytes(const bitnet_model *model, int32_t id, size_t *size)
{
    const int32_t twice[2] = {id, id};
    const int64_t one = bitnet_detokenize(model, twice, 1, NULL, 0, BITNET_DETOKENIZE_SPECIAL);
    const int64_t two = bitnet_detokenize(model, twice, 2, NULL, 0, BITNET_DETOKENIZE_SPECIAL);
    char *text;
    if (one < 0 || two < one)
        cli_fail("token %d: %s", (int)id, bitnet_result_text((bitnet_result)(one < 0 ? one : two)));
    text = (char *)cli_alloc((size_t)two + 1);
    bitnet_detokenize(model, twice, 2, text, (size_t)two, BITNET_DETOKENIZE_SPECIAL);
    *size = (size_t)(two - one);
    memmove(text, text + one, *size);
    text[*size] = 0;
    return text;
}

static void print_tokens(const bitnet_model *model, const token_list *t, int ids_only)
{
    int64_t i;
    for (i = 0; i < t->n && !ferror(stdout); i++) {
        if (ids_only) {
            printf(i ? " %d" : "%d", (int)t->id[i]);
        } else {
            size_t size;
            char *text = token_bytes(model, t->id[i], &size);
            printf("%d\t", (int)t->id[i]);
            show_text(stdout, text, size, 0);
            putchar('\n');
            free(text);
        }
    }
    if (ids_only) putchar('\n');
}

/* Ids separated by blanks, newlines or commas; exits 1 on anything else. */
static token_list read_ids(const char *text, size_t size, int n_vocab)
{
    token_list t = {NULL, 0};
    int64_t capacity = (int64_t)size / 2 + 1;            /* a digit and a separator each */
    const char *end = text + size;
    t.id = (int32_t *)cli_alloc((size_t)capacity * sizeof *t.id);
    for (text += strspn(text, ", \t\r\n"); text < end; text += strspn(text, ", \t\r\n")) {
        const int length = (int)strcspn(text, ", \t\r\n");
        int v = -1;
        char number[16];
        snprintf(number, sizeof number, "%.*s", length < 15 ? length : 15, text);
        if (length == 0 || length > 14 || !cli_read_int(number, INT_MIN, INT_MAX, &v))
            cli_fail("'%s' (number %.0f of the input) is not a token id", number, (double)t.n + 1);
        if (v < 0 || v >= n_vocab)
            cli_fail("token %d (number %.0f of the input) is outside the vocabulary, 0 to %d", v, (double)t.n + 1,
                     n_vocab - 1);
        t.id[t.n++] = v;
        text += length;
    }
    return t;
}

/* Takes away what encode adds around a text: a tokenized empty text shows what that is. */
static token_list strip(const bitnet_model *model, const bitnet_model_info *info, token_list t)
{
    const token_list added = encode(model, "", 0, BITNET_TOKENIZE_BOS);
    int64_t i;
    for (i = 0; i < added.n; i++) {
        const int at_end = added.id[i] == info->eos && (added.id[i] != info->bos || i > 0);
        if (t.n == 0) break;
        if (at_end && t.id[t.n - 1] == added.id[i]) {
            t.n--;
        } else if (!at_end && t.id[0] == added.id[i]) {
            t.n--;
            memmove(t.id, t.id + 1, (size_t)t.n * sizeof *t.id);
        }
    }
    free(added.id);
    return t;
}

static void decode(const bitnet_model *model, const token_list *t, int flags)
{
    const int64_t size = bitnet_detokenize(model, t->id, t->n, NULL, 0, flags);
    char *text;
    if (size < 0) cli_fail("cannot decode: %s", bitnet_result_text((bitnet_result)size));
    text = (char *)cli_alloc((size_t)size);
    bitnet_detokenize(model, t->id, t->n, text, (size_t)size, flags);
    fwrite(text, 1, (size_t)size, stdout);
    free(text);
}

static void binary_streams(void)
{
#if defined(_WIN32)
    _setmode(_fileno(stdin), _O_BINARY);                 /* or \r\n and Ctrl-Z would mean something */
    _setmode(_fileno(stdout), _O_BINARY);
#endif
}

int main(int argc, char **argv)
{
    int ids = 0, bos = 1, special = 1, decoding = 0;
    cli_model_args where;
    bitnet_model_info info;
    bitnet_model *model;
    token_list tokens;
    char *input;
    size_t size = 0;
    const cli_option options[] = {
        {"--ids", CLI_FLAG, &ids, NULL, "the ids alone, on one line", 0, 0},
        {"--decode", CLI_FLAG, &decoding, NULL, "read ids, write the text", 0, 0},
        {"--no-bos", CLI_NO_FLAG, &bos, NULL, "add no begin and end token (--decode: drop none)", 0, 0},
        {"--no-special", CLI_NO_FLAG, &special, NULL, "<|eot_id|> and the like in the text are text (--decode: print\n"
         "nothing for control tokens)", 0, 0},
        {"--no-mmap", CLI_FLAG, &where.no_mmap, NULL, "read the file into memory instead of mapping it", 0, 0},
    };
    const cli_program program = {
        "tokenize", "[options] MODEL", "Text from stdin to tokens, and back. Every byte of stdin counts, a final\n"
        "newline too.", NULL, options, CLI_COUNT(options), 1, 1};
    memset(&where, 0, sizeof where);
    cli_parse(&program, argc, argv, &where.path);
    binary_streams();
    model = cli_open_model(&where, 1);
    bitnet_model_get_info(model, &info);
    input = cli_read_file("-", &size);
    if (!input) cli_fail("cannot read stdin: %s", strerror(errno));
    if (decoding) {
        tokens = read_ids(input, size, info.n_vocab);
        if (bos) tokens = strip(model, &info, tokens);
        decode(model, &tokens, special ? BITNET_DETOKENIZE_SPECIAL : 0);
    } else {
        tokens = encode(model, input, size, (bos ? BITNET_TOKENIZE_BOS : 0) | (special ? BITNET_TOKENIZE_SPECIAL : 0));
        print_tokens(model, &tokens, ids);
    }
    free(tokens.id);
    free(input);
    bitnet_model_close(model);
    return cli_finish_output();
}
