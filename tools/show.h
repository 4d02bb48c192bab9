/* show.h: bytes of unknown content as text that is safe to print: escaped for a person, or as a JSON string.
   Tokens end inside UTF-8 characters and file metadata may hold anything; a terminal or a JSON parser must not see it
   raw. Include after tools/cli.h. Same licence as bitnet.h. */
#ifndef BITNET_SHOW_H
#define BITNET_SHOW_H

/* Bytes (1 to 4) of the well-formed UTF-8 character that p [n bytes, n > 0] begins with; 0 where there is none.
   Overlong forms, surrogates and code points over U+10FFFF are not well-formed (Unicode 15, table 3-7). */
CLI_FN int show_utf8_length(const unsigned char *p, size_t n)
{
    const unsigned char a = p[0], b = n > 1 ? p[1] : 0;
    int length, i;
    if (a < 0x80) return 1;
    if (a < 0xc2 || a > 0xf4) return 0;
    length = a < 0xe0 ? 2 : a < 0xf0 ? 3 : 4;
    if ((size_t)length > n) return 0;
    for (i = 1; i < length; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f) || (a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f))
        return 0;
    return length;
}

/* One character of a text for people: printable characters as they are; backslash, control characters (C0, DEL, C1) and
   stray bytes escaped as in C. Returns the bytes consumed, at least 1. */
CLI_FN size_t show_character(FILE *f, const unsigned char *p, size_t n)
{
    static const char from[] = "\n\r\t\\", to[] = "nrt\\";
    const char *at = p[0] ? strchr(from, p[0]) : NULL;
    const int length = show_utf8_length(p, n);
    if (at) {
        fprintf(f, "\\%c", to[at - from]);
        return 1;
    }
    if (length == 0 || p[0] < 32 || p[0] == 127) {
        fprintf(f, "\\x%02x", p[0]);
        return 1;
    }
    if (length == 2 && p[0] == 0xc2 && p[1] < 0xa0) fprintf(f, "\\xc2\\x%02x", p[1]);
    else fwrite(p, 1, (size_t)length, f);
    return (size_t)length;
}

/* All of data [n bytes], escaped for people. At most max_characters of it, then "..."; 0: no limit. */
CLI_FN void show_text(FILE *f, const void *data, size_t n, int max_characters)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i = 0;
    int count = 0;
    while (i < n) {
        if (max_characters && count++ == max_characters) {
            fputs("...", f);
            return;
        }
        i += show_character(f, p + i, n - i);
    }
}

/* A JSON string, quotes included; bytes that are not UTF-8 become U+FFFD, so that the output always is. */
CLI_FN void show_json(FILE *f, const void *data, size_t n)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i = 0;
    fputc('"', f);
    while (i < n) {
        const int length = show_utf8_length(p + i, n - i);
        if (length == 0) fputs("\\ufffd", f);
        else if (p[i] == '"' || p[i] == '\\') fprintf(f, "\\%c", p[i]);
        else if (p[i] < 32 || p[i] == 127) fprintf(f, "\\u%04x", p[i]);
        else fwrite(p + i, 1, (size_t)length, f);
        i += length ? (size_t)length : 1;
    }
    fputc('"', f);
}

CLI_FN void show_json_string(FILE *f, const char *text) { show_json(f, text, strlen(text)); }

#endif /* BITNET_SHOW_H */
