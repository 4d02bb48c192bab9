/* fuzz.h: what the fuzz targets share. Each is one function that gets bytes and must neither crash, leak nor hang:

       clang -g -O1 -DFUZZ_LIB -fsanitize=fuzzer,address,undefined -I. tests/fuzz_model.c -lm -o fuzz_model
       mkdir corpus; cc -I. tests/fuzz_model.c -o seed -lm; ./seed --seed corpus/sound
       ./fuzz_model -max_len=65536 corpus

   Without FUZZ_LIB the program runs the files named on its command line, to look at what a fuzzer found, and writes a
   sound input to begin with. */

#ifndef BITNET_TEST_FUZZ_H
#define BITNET_TEST_FUZZ_H

#include "test.h"
#include "forge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static forge fuzz_forge;

#if !defined(FUZZ_LIB)
static size_t fuzz_seed(uint8_t *out, size_t capacity);

int main(int argc, char **argv)
{
    static uint8_t data[1 << 24];
    int i;
    for (i = 1; i < argc; i++) {
        int seed = strcmp(argv[i], "--seed") == 0 && i + 1 < argc;
        FILE *f = fopen(argv[i + seed], seed ? "wb" : "rb");
        if (!f) {
            fprintf(stderr, "can't open %s\n", argv[i + seed]);
            return 1;
        }
        if (seed)
            fwrite(data, 1, fuzz_seed(data, sizeof data), f);
        else
            LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, f));
        fclose(f);
        printf("%s: %s\n", argv[i + seed], seed ? "written" : "survived");
        i += seed;
    }
    return 0;
}
#endif
#endif
