/* model.h: small models for tests, made by build/synth. BUILD (environment) names the build folder, default "build". */

#ifndef BITNET_TEST_MODEL_H
#define BITNET_TEST_MODEL_H

#include "test.h"

static const char *test_build(void)
{
    const char *build = getenv("BUILD");
    return build && *build ? build : "build";
}

/* Writes "BUILD/test-NAME.gguf" with synth's options; path [512] gets its name. Gives up where that fails. */
TEST_UNUSED static void test_make_model(char *path, const char *name, const char *options)
{
    char command[1536];
    snprintf(path, 512, "%s/test-%s.gguf", test_build(), name);
    snprintf(command, sizeof command, "%s/synth %s -o %s", test_build(), options, path);
    REQUIRE(system(command) == 0, "%s", command);
}

/* The file's bytes, malloc'ed. */
TEST_UNUSED static uint8_t *test_read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data;
    long n;
    REQUIRE(f != NULL, "%s", path);
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    fseek(f, 0, SEEK_SET);
    data = (uint8_t *)malloc(n > 0 ? (size_t)n : 1);
    REQUIRE(n > 0 && data && fread(data, 1, (size_t)n, f) == (size_t)n, "%s: %ld bytes", path, n);
    fclose(f);
    *size = (size_t)n;
    return data;
}

#endif
