/* bench_svg.h: the roofline, as one SVG file without scripts, fonts or other files behind it.

   Across: how many operations a kernel does with each byte that it reads from memory. Up: operations a second. Both
   logarithmic, so what reading allows is a slope and what a unit can do is a level: a kernel can be no higher than the
   lower of the two, and the distance to them is what it leaves unused. Include after tools/bench_measure.h.
   Same licence as bitnet.h. */
#ifndef BITNET_BENCH_SVG_H
#define BITNET_BENCH_SVG_H

#define MAX_POINTS 512
#define MAX_BOXES (2 * MAX_POINTS)

typedef struct roof_point {
    char series[40], label[40];      /* who, and what it did */
    double x, y;                     /* operations per byte; operations per second */
} roof_point;

typedef struct roofline {
    char title[160];
    roof_point points[MAX_POINTS];
    int n;
} roofline;

/* Points are kept from left to right, for the lines between them. */
static void roofline_add(roofline *r, const char *series, const char *label, double x, double y)
{
    roof_point *p = &r->points[r->n];
    if (r->n == MAX_POINTS || !(x > 0) || !(y > 0)) return;
    for (; p > r->points && p[-1].x > x; p--) *p = p[-1];
    snprintf(p->series, sizeof p->series, "%s", series);
    snprintf(p->label, sizeof p->label, "%s", label);
    p->x = x;
    p->y = y;
    r->n++;
}

/* ---------------------------------------------------------------------------------------------- geometry */

enum { SVG_WIDTH = 980, SVG_LEFT = 76, SVG_RIGHT = 740, SVG_TOP = 56, SVG_BOTTOM = 500, SVG_TEXT = 12, SVG_LETTER = 7,
       SVG_COLUMN = 160 };

typedef struct svg_box { double x0, y0, x1, y1; } svg_box;

typedef struct svg {
    const roofline *r;
    const limits *l;
    double read;                     /* bytes per second; 0: not measured */
    double x0, x1, y0, y1;           /* decades at the edges */
    int level;                       /* legend entries so far */
    svg_box boxes[MAX_BOXES];        /* taken by markers and labels */
    int n_boxes;
} svg;

static double svg_x(const svg *s, double x)
{
    return SVG_LEFT + (log10(x) - s->x0) / (s->x1 - s->x0) * (SVG_RIGHT - SVG_LEFT);
}

static double svg_y(const svg *s, double y)
{
    return SVG_BOTTOM - (log10(y) - s->y0) / (s->y1 - s->y0) * (SVG_BOTTOM - SVG_TOP);
}

/* Takes [v, v] into the range from lo to hi, in whole decades. */
static void svg_reach(double *lo, double *hi, double v)
{
    if (!(v > 0)) return;
    if (floor(log10(v)) < *lo) *lo = floor(log10(v));
    if (ceil(log10(v)) > *hi) *hi = ceil(log10(v));
}

/* Range of the axes: all points, the peaks, and the corner where reading meets the highest of them. */
static void svg_scale(svg *s)
{
    int i;
    s->x0 = s->y0 = 1e9;
    s->x1 = s->y1 = -1e9;
    for (i = 0; i < s->r->n; i++) {
        svg_reach(&s->x0, &s->x1, s->r->points[i].x);
        svg_reach(&s->y0, &s->y1, s->r->points[i].y);
    }
    for (i = 0; i < s->l->n; i++) {
        const double peak = s->l->of[i].u ? median(&s->l->of[i].s) * 1e12 : 0;
        svg_reach(&s->y0, &s->y1, peak);
        if (s->read > 0) svg_reach(&s->x0, &s->x1, peak / s->read);
    }
    if (s->x0 > s->x1) s->x0 = s->y0 = 0, s->x1 = s->y1 = 1;
    if (s->x1 - s->x0 < 1) s->x1 = s->x0 + 1;
    if (s->y1 - s->y0 < 1) s->y1 = s->y0 + 1;
}

/* 1 and the box is taken, if it is inside the plot and nothing stands there. */
static int svg_take(svg *s, double x0, double y0, double x1, double y1)
{
    svg_box *b = &s->boxes[s->n_boxes];
    int i;
    if (s->n_boxes == MAX_BOXES || x0 < SVG_LEFT || x1 > SVG_RIGHT || y0 < SVG_TOP || y1 > SVG_BOTTOM) return 0;
    for (i = 0; i < s->n_boxes; i++)
        if (x0 < s->boxes[i].x1 && s->boxes[i].x0 < x1 && y0 < s->boxes[i].y1 && s->boxes[i].y0 < y1) return 0;
    b->x0 = x0;
    b->y0 = y0;
    b->x1 = x1;
    b->y1 = y1;
    s->n_boxes++;
    return 1;
}

/* ------------------------------------------------------------------------------------------------ drawing */

static const char *const svg_colours[] = {"#4477aa", "#cc3311", "#228833", "#aa3377", "#ee7733", "#009988", "#997700", "#555555"};

/* Text, escaped. place: "start", "middle" or "end"; drawn over a white rim, as lines may pass behind it. */
static void svg_text(double x, double y, const char *place, const char *colour, int bold, const char *text)
{
    printf("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\"%s paint-order=\"stroke\" stroke=\"#ffffff\" "
           "stroke-width=\"3\">", x, y, place, colour, bold ? " font-weight=\"bold\"" : "");
    for (; *text; text++) {
        if (*text == '<') fputs("&lt;", stdout);
        else if (*text == '&') fputs("&amp;", stdout);
        else if ((unsigned char)*text >= 32 && (unsigned char)*text < 127) putchar(*text);
        else putchar('?');
    }
    printf("</text>\n");
}

static void svg_line(double x0, double y0, double x1, double y1, const char *colour, double width)
{
    printf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%.1f\"/>\n", x0, y0, x1, y1,
           colour, width);
}

/* Marker number i: a colour, and a shape that tells the series apart without colours. */
static void svg_marker(double x, double y, int i)
{
    const char *colour = svg_colours[i % 8];
    if (i % 4 == 0) printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\"", x, y);
    if (i % 4 == 1) printf("<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\"", x - 4, y - 4);
    if (i % 4 == 2) printf("<path d=\"M%.1f %.1fl5.5 9.5h-11z\"", x, y - 6);
    if (i % 4 == 3) printf("<path d=\"M%.1f %.1fl5.5 5.5l-5.5 5.5l-5.5 -5.5z\"", x, y - 5.5);
    printf(" fill=\"%s\" fill-opacity=\"%s\" stroke=\"%s\"", colour, i % 16 < 8 ? "0.85" : "0.15", colour);
}

/* "1", "10", ... "10^9" with a unit of operations per second. */
static void svg_decade(char text[32], double decade, int up)
{
    if (!up) snprintf(text, 32, "%g", pow(10, decade));
    else if (decade >= 12) snprintf(text, 32, "%g TOPS", pow(10, decade - 12));
    else if (decade >= 9) snprintf(text, 32, "%g GOPS", pow(10, decade - 9));
    else snprintf(text, 32, "%g MOPS", pow(10, decade - 6));
}

static void svg_axes(const svg *s)
{
    char text[32];
    double d;
    int k;
    for (d = s->x0; d <= s->x1; d++) {
        for (k = 2; k < 10 && d < s->x1; k++)
            svg_line(svg_x(s, k * pow(10, d)), SVG_TOP, svg_x(s, k * pow(10, d)), SVG_BOTTOM, "#f2f2f2", 1);
        svg_line(svg_x(s, pow(10, d)), SVG_TOP, svg_x(s, pow(10, d)), SVG_BOTTOM, "#d0d0d0", 1);
        svg_decade(text, d, 0);
        svg_text(svg_x(s, pow(10, d)), SVG_BOTTOM + 18, "middle", "#333333", 0, text);
    }
    for (d = s->y0; d <= s->y1; d++) {
        for (k = 2; k < 10 && d < s->y1; k++)
            svg_line(SVG_LEFT, svg_y(s, k * pow(10, d)), SVG_RIGHT, svg_y(s, k * pow(10, d)), "#f2f2f2", 1);
        svg_line(SVG_LEFT, svg_y(s, pow(10, d)), SVG_RIGHT, svg_y(s, pow(10, d)), "#d0d0d0", 1);
        svg_decade(text, d, 1);
        svg_text(SVG_LEFT - 6, svg_y(s, pow(10, d)) + 4, "end", "#333333", 0, text);
    }
    svg_text((SVG_LEFT + SVG_RIGHT) / 2, SVG_BOTTOM + 38, "middle", "#333333", 0,
             "operations for each byte read from memory (a multiplication and an addition are two)");
}

/* The slope of reading, with its name in the empty space left of its upper end. */
static void svg_slope(svg *s)
{
    const double top = pow(10, s->y1), from = pow(10, s->x0), right = pow(10, s->x1);
    const double low = pow(10, s->y0), x0 = from > low / s->read ? from : low / s->read;
    const double x1 = right < top / s->read ? right : top / s->read, at = x1 / 2;
    char text[64];
    if (s->read <= 0 || at <= x0) return;
    svg_line(svg_x(s, x0), svg_y(s, x0 * s->read), svg_x(s, x1), svg_y(s, x1 * s->read), "#000000", 1.5);
    snprintf(text, sizeof text, "read %.1f GB/s", s->read * 1e-9);
    svg_text(svg_x(s, at) - 12, svg_y(s, at * s->read), "end", "#000000", 0, text);
    svg_take(s, svg_x(s, at) - 12 - SVG_LETTER * (double)strlen(text), svg_y(s, at * s->read) - SVG_TEXT, svg_x(s, at) - 12,
             svg_y(s, at * s->read) + 3);
}

/* The peaks, with their names to the right of the plot, moved apart where they are close. */
static void svg_levels(const svg *s)
{
    double last = SVG_BOTTOM + 100;
    int i, k, done[MAX_LIMITS] = {0};
    for (;;) {
        const limit *lowest = NULL;
        double peak, from, y, at;
        char text[96];
        for (i = 0, k = 0; i < s->l->n; i++)
            if (s->l->of[i].u && !done[i] && (!lowest || median(&s->l->of[i].s) < median(&lowest->s)))
                lowest = &s->l->of[i], k = i;
        if (!lowest) return;
        done[k] = 1;
        peak = median(&lowest->s) * 1e12;
        if (!(peak > 0)) continue;
        from = s->read > 0 && peak / s->read > pow(10, s->x0) ? peak / s->read : pow(10, s->x0);
        y = svg_y(s, peak);
        at = y + 4 > last - 16 ? last - 16 : y + 4;
        last = at;
        svg_line(svg_x(s, from), y, SVG_RIGHT, y, "#000000", 1.2);
        svg_line(SVG_RIGHT, y, SVG_RIGHT + 12, at - 4, "#888888", 0.8);
        snprintf(text, sizeof text, "%s  %.3g TOPS", lowest->u->name, peak * 1e-12);
        svg_text(SVG_RIGHT + 16, at, "start", "#000000", 0, text);
    }
}

/* The first point of its series? */
static int svg_is_first(const roofline *r, int i)
{
    int k;
    for (k = 0; k < i; k++)
        if (strcmp(r->points[k].series, r->points[i].series) == 0) return 0;
    return 1;
}

/* One series: its points with a line through them, and its entry below the plot. */
static void svg_series(svg *s, int first)
{
    const char *name = s->r->points[first].series;
    const int number = s->level++;
    const double x = SVG_LEFT + number % 5 * SVG_COLUMN, y = SVG_BOTTOM + 66 + number / 5 * 20;
    int i;
    printf("<polyline fill=\"none\" stroke=\"%s\" stroke-opacity=\"0.5\" points=\"", svg_colours[number % 8]);
    for (i = first; i < s->r->n; i++)
        if (strcmp(s->r->points[i].series, name) == 0)
            printf("%.1f,%.1f ", svg_x(s, s->r->points[i].x), svg_y(s, s->r->points[i].y));
    printf("\"/>\n");
    for (i = first; i < s->r->n; i++) {
        const roof_point *p = &s->r->points[i];
        if (strcmp(p->series, name) != 0) continue;
        svg_marker(svg_x(s, p->x), svg_y(s, p->y), number);
        printf("><title>%s, %s: %.4g GOPS</title>%s\n", p->series, p->label, p->y * 1e-9,
               number % 4 == 0 ? "</circle>" : number % 4 == 1 ? "</rect>" : "</path>");
    }
    svg_marker(x, y - 4, number);
    printf("/>\n");
    svg_text(x + 10, y, "start", "#333333", 0, name);
}

/* Each label once, at the highest point that has it, wherever there is room around it. */
static void svg_labels(svg *s)
{
    static const double around[][2] = {{0, -12}, {0, 20}, {-1, 4}, {1, 4}, {-1, -9}, {1, -9}, {-1, 17}, {1, 17},
                                       {0, -26}, {0, 34}, {-1, -24}, {1, -24}, {-1, 32}, {1, 32}};
    int i, k;
    for (i = 0; i < s->r->n; i++)
        svg_take(s, svg_x(s, s->r->points[i].x) - 5, svg_y(s, s->r->points[i].y) - 5,
                 svg_x(s, s->r->points[i].x) + 5, svg_y(s, s->r->points[i].y) + 5);
    for (i = 0; i < s->r->n; i++) {
        const roof_point *p = &s->r->points[i];
        const double width = SVG_LETTER * (double)strlen(p->label) + 4;
        int highest = 1;
        for (k = 0; k < s->r->n; k++)
            if (strcmp(s->r->points[k].label, p->label) == 0 && (s->r->points[k].y > p->y ||
                (s->r->points[k].y == p->y && k < i))) highest = 0;
        for (k = 0; highest && k < (int)(sizeof around / sizeof around[0]); k++) {
            const double x = svg_x(s, p->x) + around[k][0] * (9 + width / 2), y = svg_y(s, p->y) + around[k][1];
            if (!svg_take(s, x - width / 2, y - SVG_TEXT, x + width / 2, y + 3)) continue;
            svg_text(x, y, "middle", "#333333", 0, p->label);
            break;
        }
    }
}

/* The whole picture on stdout. Limits are those of n_threads. */
static void svg_print(const roofline *r, const limits *l, int n_threads)
{
    static svg s;
    int i, n_series = 0, height;
    memset(&s, 0, sizeof s);
    s.r = r;
    s.l = l;
    for (i = 0; i < l->n; i++)
        if (!l->of[i].u && l->of[i].n_threads == n_threads) s.read = median(&l->of[i].s) * 1e9;
    svg_scale(&s);
    for (i = 0; i < r->n; i++) n_series += svg_is_first(r, i);
    height = SVG_BOTTOM + 60 + (n_series + 4) / 5 * 20;
    printf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
           "font-family=\"sans-serif\" font-size=\"%d\">\n", SVG_WIDTH, height, SVG_WIDTH, height, SVG_TEXT);
    printf("<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n");
    svg_text(SVG_LEFT, 24, "start", "#000000", 1, r->title);
    svg_axes(&s);
    svg_slope(&s);
    svg_levels(&s);
    for (i = 0; i < r->n; i++)
        if (svg_is_first(r, i)) svg_series(&s, i);
    svg_labels(&s);
    printf("</svg>\n");
}

#endif /* BITNET_BENCH_SVG_H */
