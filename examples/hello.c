/* hello.c: the smallest whole program: open a model, make it continue a text, print what it says as it comes.

       cc -O2 -I. examples/hello.c -o hello -lpthread -lm
       ./hello model.gguf "Once upon a time"

   Copy it and go on from here. Exit status: 0 done, 1 could not be done, 2 wrong usage. */
#include <stdio.h>

#define BITNET_IMPLEMENTATION      /* in exactly one C or C++ file of a program */
#include "bitnet.h"

/* Gets each piece of text: whole UTF-8 characters. Nonzero stops the generation. */
static int print_text(void *user, const char *text, size_t size)
{
    (void)user;
    return fwrite(text, 1, size, stdout) != size || fflush(stdout) != 0;
}

int main(int argc, char **argv)
{
    bitnet_model_desc model_desc = {0};              /* zero means default, in every description */
    bitnet_engine_desc engine_desc = {0};
    bitnet_session_desc session_desc = {0};
    bitnet_generation generation = {0};              /* zero: greedy, so the same text every time */
    bitnet_model *model = NULL;
    bitnet_engine *engine = NULL;
    bitnet_session *session = NULL;
    bitnet_error err = {0};
    bitnet_result result;

    if (argc < 2 || argc > 3 || argv[1][0] == '-') {
        fprintf(stderr, "usage: hello MODEL [PROMPT]\n");
        return 2;
    }
    model_desc.path = argv[1];
    generation.max_tokens = 100;

    result = bitnet_model_open(&model_desc, &model, &err);
    if (result == BITNET_OK) result = bitnet_engine_create(model, &engine_desc, &engine, &err);
    if (result == BITNET_OK) result = bitnet_session_create(engine, &session_desc, &session, &err);
    if (result == BITNET_OK)
        result = bitnet_generate(session, argc > 2 ? argv[2] : "Once upon a time", &generation, print_text, NULL,
                                 NULL, &err);
    if (result == BITNET_OK) printf("\n");
    else fprintf(stderr, "hello: %s\n", err.text[0] ? err.text : bitnet_result_text(result));

    bitnet_session_destroy(session);                 /* in this order; NULL is allowed */
    bitnet_engine_destroy(engine);
    bitnet_model_close(model);
    return result == BITNET_OK ? 0 : 1;
}
