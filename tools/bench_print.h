/* bench_print.h: rows for programs. A row is a list of named values; as JSON it is an object of an array, as CSV a line
   under the names of the first row. What stands in both formats is said once. Include after tools/show.h.
   Same licence as bitnet.h. */
#ifndef BITNET_BENCH_PRINT_H
#define BITNET_BENCH_PRINT_H

typedef struct records {
    int format;                      /* 'j', 'c'; any other letter: nothing is printed */
    int n_rows, n_fields;            /* rows so far; fields of this one */
    cli_buffer names, values;        /* of the CSV row under way */
} records;

/* A field of a CSV file: quoted, quotes doubled. */
static void csv_append(cli_buffer *b, const char *text)
{
    if (b->size) cli_append(b, ",", 1);
    cli_append(b, "\"", 1);
    for (; *text; text++) cli_append(b, *text == '"' ? "\"\"" : text, *text == '"' ? 2 : 1);
    cli_append(b, "\"", 1);
}

static void record_begin(records *r)
{
    if (r->format == 'j') printf(r->n_rows ? ",\n  {" : "[\n  {");
    r->n_fields = 0;
    r->names.size = r->values.size = 0;
}

static void json_name(records *r, const char *name) { printf("%s\n    \"%s\": ", r->n_fields ? "," : "", name); }

static void csv_value(records *r, const char *name, const char *value)
{
    if (r->names.size) cli_append(&r->names, ",", 1);
    cli_append(&r->names, name, strlen(name));
    csv_append(&r->values, value);
}

static void record_text(records *r, const char *name, const char *value)
{
    if (r->format == 'j') {
        json_name(r, name);
        show_json_string(stdout, value);
    }
    if (r->format == 'c') csv_value(r, name, value);
    r->n_fields++;
}

/* digits: after the point. */
static void record_number(records *r, const char *name, double value, int digits)
{
    char text[64];
    snprintf(text, sizeof text, "%.*f", digits, value);
    if (r->format == 'j') {
        json_name(r, name);
        fputs(text, stdout);
    }
    if (r->format == 'c') csv_value(r, name, text);
    r->n_fields++;
}

/* An array, in JSON alone. */
static void record_samples(records *r, const char *name, const samples *s, int digits)
{
    int i;
    if (r->format != 'j') return;
    json_name(r, name);
    printf("[");
    for (i = 0; i < s->n; i++) printf("%s%.*f", i ? ", " : " ", digits, s->v[i]);
    printf(" ]");
    r->n_fields++;
}

static void record_end(records *r)
{
    if (r->format == 'j') printf("\n  }");
    if (r->format == 'c' && r->n_rows == 0) printf("%.*s\n", (int)r->names.size, r->names.data);
    if (r->format == 'c') printf("%.*s\n", (int)r->values.size, r->values.data);
    r->n_rows++;
    fflush(stdout);
}

static void records_end(records *r)
{
    if (r->format == 'j') printf(r->n_rows ? "\n]\n" : "[\n]\n");
    free(r->names.data);
    free(r->values.data);
}

/* The processor's name; "" where nothing tells. */
static void cpu_name(char *text, size_t size)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[512];
    text[0] = 0;
    while (f && !text[0] && fgets(line, sizeof line, f)) {
        const char *at = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (at && at[1]) snprintf(text, size, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
    }
    if (f) fclose(f);
}

/* "63 %" of a share; "" where it was not measured. */
static const char *percent(char text[16], double share)
{
    text[0] = 0;
    if (share > 0) snprintf(text, 16, share < 0.0995 ? "%.1f %%" : "%.0f %%", share * 100);
    return text;
}

#endif /* BITNET_BENCH_PRINT_H */
