/* uneven: gives every group of columns of a model's ternary matrices a scale of its own: half to one and a half times the
   old one, by its place in the file. For types whose groups have scales: TQ1_0, TQ2_0, Q2_0.

       uneven MODEL.gguf        changed in place */

#define BITNET_IMPLEMENTATION
#include "bitnet.h"
#include "tests/test.h"
#include "tests/model.h"

/* Where the scale of a block is, in bytes; and the block's bytes. 0: no block has one. */
static int block_of(const bni_tensor *t, int *scale_at)
{
    *scale_at = t->form == BNI_FORM_TQ1_0 ? 52 : t->form == BNI_FORM_TQ2_0 ? 64 : 0;
    return t->form == BNI_FORM_TQ1_0 ? 54 : t->form == BNI_FORM_TQ2_0 ? 66 : t->form == BNI_FORM_Q2_0 ? 18 : t->form == BNI_FORM_Q2_0_128 ? 34 : 0;
}

int main(int argc, char **argv)
{
    bitnet_error err;
    bni_gguf g;
    bitnet_allocator allocator;
    int short_of_bytes, changed = 0, at;
    uint64_t i, b;
    size_t size = 0;
    uint8_t *file;
    FILE *f;
    if (argc != 2)
        return 2;
    memset(&allocator, 0, sizeof allocator);
    allocator = bni_allocator_or_default(allocator);
    file = test_read_file(argv[1], &size);
    if (bni_gguf_parse(&g, file, size, size, &allocator, &short_of_bytes, &err) != BITNET_OK || bni_gguf_check_sizes(&g, &err) != BITNET_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (i = 0; i < g.n_tensors; i++) {
        const int bytes = block_of(&g.tensors[i], &at);
        for (b = 0; bytes && b < g.tensors[i].bytes / (unsigned)bytes; b++, changed++) {
            uint8_t *scale = file + g.tensors[i].offset + b * (unsigned)bytes + at;
            const float factor = 0.5f + (float)((i * 2654435761u + b * 40503u) >> 4 & 1023) / 1024.0f;
            const uint16_t bits = bni_f32_to_f16(bni_f16_to_f32(bni_load_u16(scale)) * factor);
            scale[0] = (uint8_t)bits;
            scale[1] = (uint8_t)(bits >> 8);
        }
    }
    bni_gguf_close(&g, &allocator);
    f = fopen(argv[1], "wb");
    if (!changed || !f || fwrite(file, 1, size, f) != size || fclose(f) != 0)
        return 1;
    free(file);
    printf("%d scales changed\n", changed);
    return 0;
}
