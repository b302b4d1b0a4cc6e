/* draw.c - draws a small data set: pictures of rectangles, discs and triangles with their YOLO labels.

   draw DIR COUNT [SEED]     DIR/0000.bmp, DIR/0000.txt, ... and DIR/classes.txt; DIR exists
   Plain C, nothing of the engine: what it draws is known without it. The same seed draws the same bytes everywhere. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 320, HEIGHT = 240, SHAPES = 4 };
static const char *const class_names[] = {"rectangle", "disc", "triangle"};

typedef struct shape { int kind, x, y, w, h; uint8_t colour[3]; } shape;

static uint32_t draw_random(uint32_t *state, uint32_t below) { /* xorshift32, Marsaglia 2003 */
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state % below;
}

static int draw_inside(const shape *s, int x, int y) {
    int u = 2 * (x - s->x) + 1, v = 2 * (y - s->y) + 1; /* 0 .. 2w, 0 .. 2h: twice the pixel's centre */
    if (u < 0 || v < 0 || u > 2 * s->w || v > 2 * s->h) return 0;
    if (s->kind == 1) {
        double a = (double)(u - s->w) / s->w, b = (double)(v - s->h) / s->h;
        return a * a + b * b <= 1.0;
    }
    return s->kind == 0 || abs(u - s->w) * 2 * s->h <= v * s->w;
}

/* One picture of 1..SHAPES shapes, each in a column of its own, so that none hides another. */
static int draw_shapes(shape *shapes, uint32_t *state) {
    int count = 1 + (int)draw_random(state, SHAPES), column = WIDTH / SHAPES;
    for (int i = 0; i < count; i++) {
        shape *s = &shapes[i];
        s->kind = (int)draw_random(state, 3);
        s->w = 24 + (int)draw_random(state, 48);
        s->h = s->kind == 1 ? s->w : 24 + (int)draw_random(state, 120);
        s->x = i * column + (int)draw_random(state, (uint32_t)(column - s->w));
        s->y = (int)draw_random(state, (uint32_t)(HEIGHT - s->h));
        for (int c = 0; c < 3; c++) s->colour[c] = (uint8_t)(s->kind == c ? 160 + draw_random(state, 96) : draw_random(state, 96));
    }
    return count;
}

static int draw_picture(const char *path, const shape *shapes, int count, uint32_t *state) {
    static uint8_t rows[HEIGHT][WIDTH][3]; /* BMP: bottom up, blue green red */
    uint8_t header[54] = {'B', 'M'};
    uint32_t fields[] = {sizeof header + sizeof rows, 0, sizeof header, 40, WIDTH, HEIGHT, 1 | 24 << 16, 0, sizeof rows};
    uint8_t shade = (uint8_t)(110 + draw_random(state, 80));
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < 3; c++) {
                uint8_t value = (uint8_t)(shade + draw_random(state, 24));
                for (int i = 0; i < count; i++)
                    if (draw_inside(&shapes[i], x, y)) value = shapes[i].colour[c];
                rows[HEIGHT - 1 - y][x][2 - c] = value;
            }
    for (int i = 0; i < (int)(sizeof fields / sizeof fields[0]); i++)
        for (int b = 0; b < 4; b++) header[2 + 4 * i + b] = (uint8_t)(fields[i] >> (8 * b));
    FILE *file = fopen(path, "wb");
    if (!file) return 0;
    size_t written = fwrite(header, 1, sizeof header, file) + fwrite(rows, 1, sizeof rows, file);
    return fclose(file) == 0 && written == sizeof header + sizeof rows;
}

static int draw_labels(const char *path, const shape *shapes, int count) {
    FILE *file = fopen(path, "w");
    if (!file) return 0;
    for (int i = 0; i < count; i++)
        fprintf(file, "%d %.6f %.6f %.6f %.6f\n", shapes[i].kind, (shapes[i].x + shapes[i].w / 2.0) / WIDTH,
                (shapes[i].y + shapes[i].h / 2.0) / HEIGHT, (double)shapes[i].w / WIDTH, (double)shapes[i].h / HEIGHT);
    return fclose(file) == 0;
}

int main(int argc, char **argv) {
    char path[1024];
    if (argc < 3) {
        fprintf(stderr, "usage: draw DIR COUNT [SEED]\n");
        return 2;
    }
    uint32_t state = 2463534242u ^ (argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) * 2654435761u : 0);
    if (!state) state = 1;
    for (int i = 0; i < atoi(argv[2]); i++) {
        shape shapes[SHAPES];
        int count = draw_shapes(shapes, &state);
        snprintf(path, sizeof path, "%s/%04d.bmp", argv[1], i);
        int good = draw_picture(path, shapes, count, &state);
        snprintf(path, sizeof path, "%s/%04d.txt", argv[1], i);
        if (!good || !draw_labels(path, shapes, count)) {
            perror(path);
            return 1;
        }
    }
    snprintf(path, sizeof path, "%s/classes.txt", argv[1]);
    FILE *file = fopen(path, "w");
    for (int c = 0; file && c < 3; c++) fprintf(file, "%s\n", class_names[c]);
    return file && fclose(file) == 0 ? 0 : 1;
}
