/* page.c: writes files as a C header, so that a program carries them inside. Used by the Makefile for the web page.

       page PATH TYPE FILE [PATH TYPE FILE ...] > page.h */
#include <stdio.h>

int main(int argc, char **argv)
{
    int i;
    if (argc < 4 || argc % 3 != 1) {
        fprintf(stderr, "usage: page PATH TYPE FILE [PATH TYPE FILE ...]\n");
        return 2;
    }
    for (i = 1; i < argc; i += 3) {
        FILE *f = fopen(argv[i + 2], "rb");
        int c, n = 0;
        if (!f) {
            perror(argv[i + 2]);
            return 1;
        }
        printf("static const unsigned char page_data_%d[] = {", i);
        while ((c = getc(f)) != EOF) printf(n++ % 32 ? "%d," : "\n%d,", c);
        printf("0};\n");
        fclose(f);
    }
    printf("static const page_file page_files[] = {\n");
    for (i = 1; i < argc; i += 3)
        printf("    {\"%s\", \"%s\", page_data_%d, sizeof page_data_%d - 1},\n", argv[i], argv[i + 1], i, i);
    printf("    {NULL, NULL, NULL, 0}\n};\n");
    return fflush(stdout) != 0 || ferror(stdout);
}
