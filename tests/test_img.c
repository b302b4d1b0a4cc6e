/* test_img.c - resizing, letterbox, picture files and drawing, against cv2 and ultralytics (fixture by make_img.py);
   damaged files; want of memory. */

static yolo_image img_test_pattern(int width, int height) {
    yolo_image image = {mem_alloc((size_t)width * (size_t)height * 3), width, height};
    for (uint32_t i = 0; i < (uint32_t)width * (uint32_t)height * 3; i++) image.pixels[i] = (uint8_t)(i * 2654435761u >> 13);
    return image;
}

static int64_t img_test_checksum(const yolo_image *image) {
    uint64_t sum = 0;
    for (int64_t i = 0; i < (int64_t)image->width * image->height * 3; i++) sum += image->pixels[i] * (uint64_t)(i % 65521 + 1);
    return (int64_t)(sum % 2147483647);
}

static const char img_test_fixture[] = "tests/fixtures/img.ref";

static void test_img_resize(void) {
    ref_file ref;
    CHECK(ref_open(&ref, img_test_fixture));
    const ref_array *cases = ref_get(&ref, "resize");
    for (int i = 0; cases && i < cases->dims[0]; i++) {
        const int32_t *c = cases->ints + i * 5;
        yolo_image in = img_test_pattern(c[0], c[1]), out = {mem_alloc((size_t)c[2] * (size_t)c[3] * 3), c[2], c[3]};
        img_resize(&in, out.width, out.height, out.pixels, (size_t)out.width * 3);
        CHECK_MSG(img_test_checksum(&out) == c[4], "%d x %d to %d x %d", c[0], c[1], c[2], c[3]);
        yolo_image_free(&in);
        yolo_image_free(&out);
    }
    ref_close(&ref);
}

static void test_img_letterbox_plans(void) {
    ref_file ref;
    CHECK(ref_open(&ref, img_test_fixture));
    const ref_array *plans = ref_get(&ref, "plans");
    for (int i = 0; plans && i < plans->dims[0]; i++) {
        const int32_t *p = plans->ints + i * 11;
        img_letterbox plan = p[4] == 2 ? img_letterbox_plan_fixed(p[0], p[1], p[2], p[3], false)
                                       : img_letterbox_plan(p[0], p[1], p[2], p[4] == 0, 32);
        CHECK_MSG(plan.width == p[5] && plan.height == p[6] && plan.scaled_width == p[7] && plan.scaled_height == p[8] &&
                  plan.pad_left == p[9] && plan.pad_top == p[10], "%d x %d into %d x %d, mode %d: %d x %d, picture %d x %d at %d, %d",
                  p[0], p[1], p[2], p[3], p[4], plan.width, plan.height, plan.scaled_width, plan.scaled_height, plan.pad_left, plan.pad_top);
    }
    ref_close(&ref);
    static const int loads[][5] = {{640, 480, 640, 640, 480}, {500, 333, 640, 640, 427}, {3000, 1, 640, 640, 1}, {427, 640, 320, 214, 320}};
    for (int i = 0; i < YOLO_COUNT(loads); i++) { /* rounded up, where letterbox rounds to the nearest */
        int width, height;
        img_load_size(loads[i][0], loads[i][1], loads[i][2], &width, &height);
        CHECK_MSG(width == loads[i][3] && height == loads[i][4], "case %d: %d x %d", i, width, height);
    }
}

/* Every float of the input is the resized byte over 255, or the border; the guard behind the buffer stays. */
static void test_img_letterbox_run(void) {
    static const int sizes[][2] = {{640, 480}, {37, 90}, {300, 1}, {1, 1}, {1000, 700}};
    for (int i = 0; i < YOLO_COUNT(sizes); i++) {
        yolo_image in = img_test_pattern(sizes[i][0], sizes[i][1]);
        img_letterbox plan = img_letterbox_plan(in.width, in.height, 320, true, 32);
        size_t count = (size_t)plan.width * (size_t)plan.height * 3;
        float *out = mem_array(count + 1, sizeof *out);
        yolo_image scaled = {mem_array((uint64_t)plan.scaled_width * (uint64_t)plan.scaled_height, 3), plan.scaled_width, plan.scaled_height};
        img_resize(&in, scaled.width, scaled.height, scaled.pixels, (size_t)scaled.width * 3);
        out[count] = -7;
        img_letterbox_run(&plan, &in, out);
        int wrong = 0;
        for (int y = 0; y < plan.height; y++)
            for (int x = 0; x < plan.width * 3; x++) {
                int sx = x - plan.pad_left * 3, sy = y - plan.pad_top;
                bool inside = sx >= 0 && sx < scaled.width * 3 && sy >= 0 && sy < scaled.height;
                float expected = (float)(inside ? scaled.pixels[sy * scaled.width * 3 + sx] : 114) / 255.0f;
                wrong += !(out[y * plan.width * 3 + x] == expected);
            }
        CHECK_MSG(!wrong, "%d x %d: %d values differ", in.width, in.height, wrong);
        CHECK(out[count] == -7);
        yolo_image_free(&in);
        yolo_image_free(&scaled);
        mem_free(out);
    }
}

/* Exact, CMYK too. */
static void test_img_files(void) {
    ref_file ref;
    CHECK(ref_open(&ref, img_test_fixture));
    int files = 0;
    for (int i = 0; i < ref.count; i++) {
        const ref_array *file = &ref.arrays[i], *pixels = file + 1;
        if (!strchr(file->name, '.') || strstr(file->name, ".pixels")) continue;
        yolo_image image;
        yolo_error error = {0};
        files++;
        CHECK_MSG(codec_read_memory(file->name, (const uint8_t *)(file->ints + 1), (size_t)file->ints[0], &image, &error) == YOLO_OK,
                  "%s", error.message);
        CHECK_MSG(image.width == pixels->ints[0] && image.height == pixels->ints[1], "%s: %d x %d", file->name, image.width, image.height);
        int worst = 0;
        for (int k = 0; image.pixels && k < image.width * image.height * 3; k++)
            worst = YOLO_MAX(worst, abs(image.pixels[k] - ((const uint8_t *)(pixels->ints + 2))[k]));
        CHECK_MSG(!worst && !error.message[0], "%s: differs by %d; %s", file->name, worst, error.message);
        const char *path = test_temp("size.bin");
        int width = 0, height = 0;
        CHECK(path_write(path, file->ints + 1, (size_t)file->ints[0], false, NULL) == YOLO_OK);
        CHECK(codec_size(path, &width, &height, NULL) == YOLO_OK && width == image.width && height == image.height);
        yolo_image_free(&image);
    }
    CHECK_MSG(files >= 48, "%d files", files);
    ref_close(&ref);
}

/* Files that libwebp's tools made, and what libwebp reads from them (tests/make_webp.py), opacity included. */
static void test_img_webp(void) {
    ref_file ref;
    CHECK(ref_open(&ref, "tests/fixtures/webp.ref"));
    CHECK_MSG(ref.count >= 33, "%d files", ref.count);
    for (int i = 0; i < ref.count; i++) {
        const int32_t *expected = ref.arrays[i].ints;
        char path[200];
        uint8_t *bytes = NULL, *alpha = NULL;
        size_t size;
        yolo_error error = {0};
        yolo_image image, stored = {0};
        int width, height;
        snprintf(path, sizeof path, "tests/fixtures/%s.webp", ref.arrays[i].name);
        CHECK_MSG(codec_read(path, &image, &error) == YOLO_OK, "%s", error.message);
        CHECK_MSG(image.width == expected[0] && image.height == expected[1] && img_test_checksum(&image) == expected[2], "%s: %d x %d", path, image.width, image.height);
        CHECK(codec_size(path, &width, &height, &error) == YOLO_OK && width == image.width && height == image.height);
        CHECK(path_read(path, 1 << 20, &bytes, &size, &error) == YOLO_OK);
        codec_file file = {path, cur_make(bytes, size)};
        codec_header header = {0};
        CHECK(wbp_header(&file, &header, &error) == YOLO_OK);
        alpha = mem_array((uint64_t)header.width * (uint64_t)header.height, 1);
        CHECK_MSG(wbp_read_file(&file, &header, &stored, alpha, &error) == YOLO_OK, "%s", error.message);
        uint64_t sum = 0;
        for (int64_t k = 0; k < (int64_t)header.width * header.height; k++) sum += alpha[k] * (uint64_t)(k % 65521 + 1);
        CHECK_MSG((int64_t)(sum % 2147483647) == expected[3], "%s: opacity", path);
        yolo_image_free(&image);
        yolo_image_free(&stored);
        mem_free(alpha);
        mem_free(bytes);
    }
    ref_close(&ref);
}

/* Cut off anywhere, a file is refused, with the place. */
static void test_img_webp_cut(void) {
    static const struct { const char *name; size_t picture; } files[] = { /* where the picture ends, if not with the file */
        {"lossy", SIZE_MAX}, {"parts", SIZE_MAX}, {"groups", SIZE_MAX}, {"alpha", SIZE_MAX}, {"filter1", SIZE_MAX}, {"animation", 328}, {"orientation8", 306}};
    for (int i = 0; i < YOLO_COUNT(files); i++) {
        char path[200];
        uint8_t *bytes;
        size_t size;
        snprintf(path, sizeof path, "tests/fixtures/%s.webp", files[i].name);
        CHECK(path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK);
        for (size_t cut = 1; cut + 1 < size; cut += 1 + cut / 40) {
            for (int own = 0; own < (cut >= 12 && cut < files[i].picture ? 2 : 1); own++) { /* own: the file says that it is so short */
                uint8_t *exact = mem_alloc(cut);
                yolo_image image;
                yolo_error error = {0};
                memcpy(exact, bytes, cut);
                for (int k = 0; k < 4 && own; k++) exact[4 + k] = (uint8_t)((cut - 8) >> (8 * k));
                yolo_status status = codec_read_memory(path, exact, cut, &image, &error);
                yolo_image_free(&image);
                CHECK_MSG(status == YOLO_ERROR_FORMAT && strstr(error.message, cut < 4 ? "not a picture" : ": byte "), "%s of %d bytes: %s", path, (int)cut, error.message);
                mem_free(exact);
            }
        }
        mem_free(bytes);
    }
}

/* Three planes to pixels at every width, and no byte behind them. */
static void test_img_interleave(void) {
    for (int width = 0; width < 80; width++) {
        uint8_t *planes[3], *out = mem_alloc((size_t)width * 3 + 1);
        for (int c = 0; c < 3; c++) {
            planes[c] = mem_alloc((size_t)width + 1);
            for (int x = 0; x < width; x++) planes[c][x] = (uint8_t)(x * 3 + c + 1);
        }
        out[width * 3] = 0;
        codec_interleave(out, planes[0], planes[1], planes[2], width);
        int wrong = out[width * 3] != 0;
        for (int i = 0; i < width * 3; i++) wrong += out[i] != (uint8_t)(i + 1);
        CHECK_MSG(!wrong, "%d wrong bytes of %d pixels", wrong, width);
        for (int c = 0; c < 3; c++) mem_free(planes[c]);
        mem_free(out);
    }
}

#ifdef YOLO_X86
/* A coefficient of one of six tempers: few and small as in photographs, dense, at the ends of 16 bits, around the ends. */
static short img_test_coefficient(rng *r, int temper) {
    static const short ends[] = {SHRT_MIN, SHRT_MAX, SHRT_MIN + 1, 0, -1, 1};
    uint64_t any = rng_next(r);
    if (temper == 0) return (short)(any % 8 ? 0 : (int)(any >> 8) % 64);
    if (temper == 1) return (short)((int)(any % 2048) - 1024);
    if (temper == 2) return (short)any;
    if (temper == 3) return ends[any % 2];
    return temper == 4 ? ends[any % YOLO_COUNT(ends)] : (short)(any % 16 ? 0 : any >> 16);
}

/* Both inverse DCTs of a JPEG's block give the same bytes, and write no others. */
static void test_img_jpeg_vectors(void) {
    enum { STRIDE = 19 };
    rng r = {21, 0};
    int differ = 0, clipped = 0, varied = 0;
    for (int i = 0; i < 60000; i++) {
        short data[64] = {0};
        uint8_t expected[STRIDE * 8], got[STRIDE * 8];
        memset(expected, 77, sizeof expected);
        memset(got, 77, sizeof got);
        if (i < 256) data[i % 64] = (short[]){SHRT_MIN, SHRT_MAX, 100, -1}[i / 64]; /* each basis alone */
        else for (int k = 0; k < 64; k++) data[k] = img_test_coefficient(&r, i % 6);
        codec_jpeg_idct(expected + 5, STRIDE, data);
        codec_jpeg_idct_x86(got + 5, STRIDE, data);
        differ += memcmp(expected, got, sizeof got) != 0;
        for (int k = 0; k < 8; k++) clipped += got[5 + k] == 0 || got[5 + k] == 255, varied += got[5 + k] > 0 && got[5 + k] < 255;
    }
    CHECK_MSG(!differ, "%d blocks differ", differ);
    CHECK_MSG(clipped > 50000 && varied > 50000, "%d samples clipped, %d not", clipped, varied);
}

/* The eight samples across an edge: any of the two next to it, neighbours within and beyond the thresholds. */
static void img_test_across(rng *r, int pair, int spread, uint8_t samples[8]) {
    int p = pair & 255, q = pair >> 8;
    for (int i = 3; i >= 0; i--) {
        samples[i] = (uint8_t)YOLO_CLAMP(p, 0, 255);
        samples[7 - i] = (uint8_t)YOLO_CLAMP(q, 0, 255);
        p += (int)(rng_next(r) % (uint64_t)(2 * spread + 1)) - spread;
        q += (int)(rng_next(r) % (uint64_t)(2 * spread + 1)) - spread;
    }
}

/* Smooths 16 places both ways, along rows or columns; false where any byte differs. Counts the bytes that moved. */
static bool img_test_smooth(rng *r, int pair, int spread, const wbp_strength *s, int kind, int *moved) {
    enum { STRIDE = 21 };
    bool rows = kind % 2, simple = kind / 2 % 2, outer = kind / 4;
    uint8_t before[24 * STRIDE], expected[24 * STRIDE], got[24 * STRIDE], samples[8];
    for (int i = 0; i < (int)sizeof before; i++) before[i] = (uint8_t)rng_next(r);
    int first = rows ? 5 * STRIDE + 2 : 2 * STRIDE + 6, second = rows ? first + 9 : first + 10 * STRIDE;
    for (int i = 0; i < 16; i++) {
        img_test_across(r, pair + i, spread, samples);
        int at = (i < 8 ? first : second) + i % 8 * (rows ? 1 : STRIDE);
        for (int k = 0; k < 8; k++) before[at + (k - 4) * (rows ? STRIDE : 1)] = samples[k];
    }
    memcpy(expected, before, sizeof before);
    memcpy(got, before, sizeof before);
    wbp_smooth_edge(expected + first, expected + second, STRIDE, rows, s, simple, outer);
    wbp_smooth_edge_x86(got + first, got + second, STRIDE, rows, s, simple, outer);
    for (int i = 0; i < (int)sizeof before; i++) *moved += got[i] != before[i];
    return !memcmp(expected, got, sizeof got);
}

/* Every strength that a file can ask for, every pair of samples at an edge, each filter. */
static void test_img_webp_vectors(void) {
    static const int spreads[] = {0, 1, 2, 4, 12, 40, 255};
    rng r = {22, 0};
    int differ[8] = {0}, moved[8] = {0}, edges = 0;
    for (int level = 0; level < 64; level++)
        for (int inner = 1; inner <= YOLO_MAX(level, 1); inner += inner < 9 ? 1 : 9)
            for (int kind = 0; kind < 8; kind++)
                for (int variance = 0; variance < 3; variance++)
                    for (int spread = 0; spread < YOLO_COUNT(spreads); spread++, edges++) {
                        wbp_strength s = {(uint8_t)(2 * level + inner), (uint8_t)inner, (uint8_t)variance, true};
                        int pair = edges * 16 % 65536; /* all of them, again and again */
                        differ[kind] += !img_test_smooth(&r, pair, spreads[spread], &s, kind, &moved[kind]);
                    }
    for (int kind = 0; kind < 8; kind++) CHECK_MSG(!differ[kind] && moved[kind] > 10000, "filter %d: %d edges differ, %d bytes moved", kind, differ[kind], moved[kind]);
}
#else
static void test_img_jpeg_vectors(void) { SKIP("not an x86-64 processor"); }
static void test_img_webp_vectors(void) { SKIP("not an x86-64 processor"); }
#endif

/* Files that libtiff wrote, and what it reads from them (tests/make_tiff.py). */
static void test_img_tiff(void) {
    ref_file ref;
    CHECK(ref_open(&ref, "tests/fixtures/tiff.ref"));
    CHECK_MSG(ref.count >= 29, "%d files", ref.count);
    for (int i = 0; i < ref.count; i++) {
        const int32_t *expected = ref.arrays[i].ints;
        char path[200];
        yolo_error error = {0};
        yolo_image image;
        int width, height;
        snprintf(path, sizeof path, "tests/fixtures/%s.tif", ref.arrays[i].name);
        CHECK_MSG(codec_read(path, &image, &error) == YOLO_OK, "%s", error.message);
        CHECK_MSG(image.width == expected[0] && image.height == expected[1] && img_test_checksum(&image) == expected[2], "%s: %d x %d", path, image.width, image.height);
        CHECK(codec_size(path, &width, &height, &error) == YOLO_OK && width == image.width && height == image.height);
        yolo_image_free(&image);
    }
    ref_close(&ref);
}

/* Cut off anywhere, a file is refused, with the place; but for the end of a directory, that nothing needs. */
static void test_img_tiff_cut(void) {
    ref_file ref;
    CHECK(ref_open(&ref, "tests/fixtures/tiff.ref"));
    for (int i = 0; i < ref.count; i++) {
        char path[200];
        uint8_t *bytes;
        size_t size;
        int whole = 0;
        snprintf(path, sizeof path, "tests/fixtures/%s.tif", ref.arrays[i].name);
        CHECK(path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK);
        for (size_t cut = 1; cut < size; cut += 1 + cut / 40) {
            uint8_t *exact = mem_alloc(cut);
            yolo_image image;
            yolo_error error = {0};
            memcpy(exact, bytes, cut);
            yolo_status status = codec_read_memory(path, exact, cut, &image, &error);
            if (status == YOLO_OK) {
                whole++;
                CHECK_MSG(img_test_checksum(&image) == ref.arrays[i].ints[2], "%s of %d bytes is another picture", path, (int)cut);
            } else CHECK_MSG(status == YOLO_ERROR_FORMAT && strstr(error.message, cut < 4 ? "not a picture" : ": byte "), "%s of %d bytes: %s", path, (int)cut, error.message);
            yolo_image_free(&image);
            mem_free(exact);
        }
        CHECK_MSG(whole <= 6, "%s: %d of its beginnings are read", path, whole);
        mem_free(bytes);
    }
    ref_close(&ref);
}

#define EXIF_II "II*\0\10\0\0\0"
#define EXIF_MM "MM\0*\0\0\0\10"
#define EXIF_OTHER "\17\1\2\0\4\0\0\0abc\0"
#define EXIF_SIX "\22\1\3\0\1\0\0\0\6\0\0\0"
#define EXIF(text) text, sizeof text - 1

/* EXIF well made and badly made. 0 = the block does not tell, and the next one may. Cut off anywhere, nothing behind it is read. */
static void test_img_exif(void) {
    static const struct { const char *bytes; size_t size; int expected; } cases[] = {
        {EXIF(EXIF_II "\1\0" EXIF_SIX), 6}, {EXIF(EXIF_MM "\0\1\1\22\0\3\0\0\0\1\0\10\0\0"), 8}, {EXIF("Exif\0\0" EXIF_II "\1\0" EXIF_SIX), 6},
        {EXIF(EXIF_II "\2\0" EXIF_OTHER EXIF_SIX), 6}, {EXIF("II*\0\12\0\0\0..\1\0" EXIF_SIX), 6}, {EXIF(EXIF_II "\377\377" EXIF_SIX), 6},
        {EXIF(EXIF_MM "\0\1\1\22\0\4\0\0\0\1\0\0\0\3"), 3}, {EXIF(EXIF_II "\1\0\22\1\1\0\1\0\0\0\5\0\0\0"), 5}, /* 32 bits; a byte */
        {EXIF(EXIF_II "\1\0\22\1\3\0\2\0\0\0\7\0\1\0"), 7}, {EXIF(EXIF_II "\2\0\22\1\3\0\1\0\0\0\2\0\0\0" EXIF_SIX), 2}, /* two values; twice */
        {EXIF(EXIF_II "\1\0\22\1\3\0\1\0\0\0\0\0\0\0"), 1}, {EXIF(EXIF_II "\1\0\22\1\3\0\1\0\0\0\11\0\0\0"), 1}, /* 0; 9 */
        {EXIF(EXIF_II "\1\0\22\1\4\0\1\0\0\0\6\0\1\0"), 1}, {EXIF(EXIF_II "\1\0\22\1\2\0\1\0\0\0\6\0\0\0"), 0}, /* 65,542; text */
        {EXIF(EXIF_II "\1\0\22\1\3\0\0\0\0\0\6\0\0\0"), 0}, {EXIF(EXIF_II "\1\0" EXIF_OTHER "\10\0\0\0"), 0}, /* no value; a directory that is its own next */
        {EXIF("II*\0\377\377\377\377\1\0" EXIF_SIX), 0}, {EXIF("II*\0\0\0\0\0\1\0" EXIF_SIX), 0}, {EXIF("II+\0\10\0\0\0\1\0" EXIF_SIX), 0},
        {EXIF("IM*\0\10\0\0\0\1\0" EXIF_SIX), 0}, {EXIF("http://ns.adobe.com/xap/1.0/\0<x/>"), 0}, {EXIF(""), 0},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (size_t size = 0; size <= cases[i].size; size++) {
            uint8_t *exact = mem_alloc(size + !size);
            codec_header header = {0};
            memcpy(exact, cases[i].bytes, size);
            codec_exif(&header, exact, size);
            CHECK_MSG(header.orientation == cases[i].expected || (size < cases[i].size && !header.orientation), "case %d, %d bytes: %d", i, (int)size, header.orientation);
            mem_free(exact);
        }
}

/* Blocks of EXIF in a JPEG: XMP and a block that does not tell go before; of two that tell, the first counts. And one in a PNG. */
static void test_img_exif_files(void) {
    static const struct { const char *bytes; size_t size; int width; } cases[] = {
        {EXIF("\xff\xe1\0\12http://\0\xff\xe1\0\42Exif\0\0" EXIF_II "\1\0" EXIF_SIX "\0\0\0\0"), 16},
        {EXIF("\xff\xe1\0\12Exif\0\0\xff\xe1\0\42Exif\0\0" EXIF_II "\1\0" EXIF_SIX "\0\0\0\0"), 24}, /* its length takes in the next one's head */
        {EXIF("\xff\xe1\0\12Exif\0\0II\xff\xe1\0\42Exif\0\0" EXIF_II "\1\0" EXIF_SIX "\0\0\0\0"), 16},
        {EXIF("\xff\xe1\0\42Exif\0\0" EXIF_II "\1\0\22\1\3\0\1\0\0\0\3\0\0\0....\xff\xe1\0\42Exif\0\0" EXIF_II "\1\0" EXIF_SIX "...."), 24},
    };
    yolo_image image = img_test_pattern(24, 16), again;
    for (int i = 0; i <= YOLO_COUNT(cases); i++) {
        bool png = i == YOLO_COUNT(cases);
        const char *path = test_temp(png ? "exif.png" : "exif.jpg"), chunk[] = "\0\0\0\32eXIf" EXIF_II "\1\0" EXIF_SIX "\0\0\0\0....";
        uint8_t *bytes;
        size_t size, head = png ? 33 : 2;
        str s = {0};
        int width, height;
        CHECK(codec_write(path, &image, NULL) == YOLO_OK && path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK);
        str_append(&s, (const char *)bytes, head);
        str_append(&s, png ? chunk : cases[i].bytes, png ? sizeof chunk - 1 : cases[i].size);
        str_append(&s, (const char *)bytes + head, size - head);
        CHECK(path_write(path, s.text, (size_t)s.length, false, NULL) == YOLO_OK);
        int expected = png ? 16 : cases[i].width;
        CHECK_MSG(codec_size(path, &width, &height, NULL) == YOLO_OK && width == expected && height == 40 - expected, "case %d: %d x %d", i, width, height);
        CHECK(codec_read(path, &again, NULL) == YOLO_OK && again.width == expected && again.height == 40 - expected);
        yolo_image_free(&again);
        mem_free(bytes);
        str_free(&s);
    }
    yolo_image_free(&image);
}

/* Of a JPEG and a PNG that are cut short the rows that are there stay, with a warning; less than half is damage. */
static void test_img_cut(void) {
    enum { WIDTH = 120, HEIGHT = 96 };
    yolo_image image = img_test_pattern(WIDTH, HEIGHT);
    for (int kind = 0; kind < 2; kind++) {
        const char *path = test_temp(kind ? "cut.png" : "cut.jpg");
        uint8_t *bytes;
        size_t size;
        int kept = 0, refused = 0;
        yolo_image whole = {0};
        CHECK(codec_write(path, &image, NULL) == YOLO_OK && path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK && codec_read(path, &whole, NULL) == YOLO_OK);
        for (size_t cut = 1; cut < size; cut += 1 + size / 101) {
            uint8_t *exact = mem_alloc(cut);
            yolo_image part;
            yolo_error error;
            memcpy(exact, bytes, cut);
            yolo_status status = codec_read_memory(path, exact, cut, &part, &error);
            const char *said = strstr(error.message, " is cut short: ");
            int rows = said ? atoi(said + strlen(" is cut short: ")) : 0, step = kind ? 1 : 8;
            if (status != YOLO_OK) {
                refused++;
                CHECK_MSG(status == YOLO_ERROR_FORMAT && error.status == status && rows < HEIGHT / 2 && !part.pixels, "%s of %d bytes: %s", path, (int)cut, error.message);
            } else {
                kept++;
                CHECK_MSG(error.status == YOLO_OK && rows >= HEIGHT / 2 && rows <= HEIGHT && rows % step == 0, "%s of %d bytes: %s", path, (int)cut, error.message);
                size_t at = (size_t)YOLO_MIN(rows + (kind ? 0 : step), HEIGHT) * WIDTH * 3; /* a JPEG's next blocks may be there in part */
                CHECK(part.height == HEIGHT && !memcmp(part.pixels, whole.pixels, (size_t)rows * WIDTH * 3));
                for (; at < WIDTH * HEIGHT * 3; at++) CHECK(part.pixels[at] == 128);
            }
            yolo_image_free(&part);
            mem_free(exact);
        }
        CHECK_MSG(kept > 40 && refused > 40, "%s: %d kept, %d refused", path, kept, refused);
        yolo_image_free(&whole);
        mem_free(bytes);
    }
    yolo_image_free(&image);
}

/* A JPEG whose size stands behind 130,000 bytes of comments, more than is looked at first. */
static void test_img_long_head(void) {
    uint8_t pixels[24 * 16 * 3] = {0}, *bytes, comment[65002] = {0xff, 0xfe, 65000 >> 8, 65000 & 255};
    yolo_image image = {pixels, 24, 16};
    const char *path = test_temp("long.jpg");
    size_t size;
    str s = {0};
    int width = 0, height = 0;
    CHECK(codec_write(path, &image, NULL) == YOLO_OK && path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK);
    str_append(&s, (const char *)bytes, 2);
    for (int i = 0; i < 2; i++) str_append(&s, (const char *)comment, sizeof comment);
    str_append(&s, (const char *)bytes + 2, size - 2);
    CHECK(path_write(path, s.text, (size_t)s.length, false, NULL) == YOLO_OK);
    CHECK(codec_size(path, &width, &height, NULL) == YOLO_OK && width == 24 && height == 16);
    mem_free(bytes);
    str_free(&s);
}

static void test_img_write(void) {
    yolo_image image = img_test_pattern(67, 45), again;
    for (int y = 10; y < 30; y++) memset(image.pixels + y * 67 * 3, 90, 150);
    CHECK(yolo_image_write(&image, test_temp("w.png"), NULL) == YOLO_OK && yolo_image_read(&again, test_temp("w.png"), NULL) == YOLO_OK);
    CHECK(again.width == 67 && again.height == 45 && again.pixels && !memcmp(again.pixels, image.pixels, 67 * 45 * 3));
    yolo_image_free(&again);
    for (int y = 0; y < 45; y++)
        for (int x = 0; x < 67 * 3; x++) image.pixels[y * 67 * 3 + x] = (uint8_t)(2 * y + x / 2);
    CHECK(yolo_image_write(&image, test_temp("w.JPG"), NULL) == YOLO_OK && yolo_image_read(&again, test_temp("w.JPG"), NULL) == YOLO_OK);
    int worst = 0;
    for (int i = 0; again.pixels && i < 67 * 45 * 3; i++) worst = YOLO_MAX(worst, abs(again.pixels[i] - image.pixels[i]));
    CHECK_MSG(again.width == 67 && worst <= 12, "differs by %d", worst);
    yolo_error error;
    CHECK(yolo_image_write(&image, test_temp("w.gif"), &error) == YOLO_ERROR_USAGE);
    yolo_image_free(&again);
    yolo_image_free(&image);
}

static void test_img_refused(void) {
    static const struct { const char *name, *bytes; int size; yolo_status status; const char *says; } cases[] = {
        {"a.jpg", "", 0, YOLO_ERROR_FORMAT, "empty"},
        {"a.jpg", "<html>", 6, YOLO_ERROR_FORMAT, "not a picture: begins with bytes 3c 68"},
        {"a.jpg", "RIFF\4\0\0\0WEBP", 12, YOLO_ERROR_FORMAT, "a.jpg: byte 12 of 12: WebP whose first chunk is neither VP8, VP8L nor VP8X"},
        {"a.webp", "RIFF\4\0\0\0WAVE", 12, YOLO_ERROR_FORMAT, "byte 12 of 12: RIFF file that is not WebP"},
        {"a.webp", "RIFF\26\0\0\0WEBPVP8L\12\0\0\0\x2f\0\0", 23, YOLO_ERROR_FORMAT, "byte 20 of 23: WebP header cut short"},
        {"a.webp", "RIFF\26\0\0\0WEBPVP8X\12\0\0\0\0\0\0\0\377\377\377\0\0\0", 30, YOLO_ERROR_MEMORY, "16777216 x 1 pixels"},
        {"a.webp", "RIFF\26\0\0\0WEBPVP8X\12\0\0\0\0\0\0\0\377\77\0\377\77\0", 30, YOLO_ERROR_FORMAT, "16384 x 16384 pixels claimed, too many for a file of this size"},
        {"a.webp", "RIFF\26\0\0\0WEBPVP8X\12\0\0\0\2\0\0\0\1\0\0\1\0\0", 30, YOLO_ERROR_FORMAT, "byte 30 of 30: animated WebP without a frame"},
        {"a.webp", "RIFF\36\0\0\0WEBPVP8X\12\0\0\0\0\0\0\0\1\0\0\1\0\0VP8 \7\0\0\0", 38, YOLO_ERROR_FORMAT,
         "byte 38 of 38: WebP chunk 'VP8 ' of 7 bytes expected, 0 are left"},
        {"a.webp", "RIFF\30\0\0\0WEBPVP8L\13\0\0\0\x2f\0\0\0\1....", 29, YOLO_ERROR_FORMAT, "WebP is cut short: 32 bytes expected"},
        {"a.jpg", "GIF89a..", 8, YOLO_ERROR_UNSUPPORTED, "GIF is not supported"},
        {"a.tif", "II*\0\10\0\0\0", 8, YOLO_ERROR_FORMAT, "a.tif: byte 8 of 8: TIFF directory cut short"},
        {"a.tif", "II*\0\7\0\0\0.......", 15, YOLO_ERROR_FORMAT, "TIFF directory expected at byte 7"},
        {"a.tif", "MM\0+\0\4\0\0", 8, YOLO_ERROR_FORMAT, "a.tif: byte 4 of 8: BigTIFF with offsets of other than 8 bytes"},
        {"a.tif", "MM\0*\0\0\0\10\0\1\1\0\0\3\0\0\0\1\0\1\0\0", 22, YOLO_ERROR_FORMAT, "a picture of 1 x 0 pixels"},
        {"a.tif", "MM\0*\0\0\0\10\0\1\1\21\0\4\100\0\0\0\0\0\0\10", 22, YOLO_ERROR_FORMAT, "a.tif: byte 10 of 22: TIFF tag 273 has 1073741824 values from byte 8 on, behind the end"},
        {"a.tif", "MM\0*\0\0\0\10\0\1\1\21\0\60\0\0\0\1\0\0\0\10", 22, YOLO_ERROR_FORMAT, "byte 10 of 22: TIFF tag 273 has values of type 48"},
        {"a.tif", "MM\0*\0\0\0\10\0\2\1\0\0\4\0\0\0\1\0\1\206\240\1\1\0\3\0\0\0\1\0\1\0\0", 34, YOLO_ERROR_MEMORY, "100000 x 1 pixels"},
        {"a.tif", "MM\0*\0\0\0\10\0\3\1\0\0\3\0\0\0\1\0\1\0\0\1\1\0\3\0\0\0\1\0\1\0\0\1\3\0\3\0\0\0\1\0\6\0\0", 46, YOLO_ERROR_UNSUPPORTED,
         "TIFF of old-style JPEG (6) is not supported; convert it to PNG"},
        {"a.tif", "MM\0*\0\0\0\10\0\2\1\0\0\3\0\0\0\1\0\1\0\0\1\1\0\3\0\0\0\1\0\1\0\0", 34, YOLO_ERROR_FORMAT, "0 strips listed, expected 1"},
        {"a.tif", "MM\0*\0\0\0\10\0\3\1\0\0\3\0\0\0\1\0\1\0\0\1\1\0\3\0\0\0\1\0\1\0\0\1\21\0\4\0\0\0\1\0\0\0\100", 46, YOLO_ERROR_FORMAT,
         "a.tif: byte 46 of 46: TIFF is cut short: strip 0 has 1 bytes from byte 64 on"},
        {"a.webp", "?", 1, YOLO_ERROR_FORMAT, "not a picture: begins with bytes 3f 00, expected JPEG, PNG, BMP, TIFF or WebP"},
        {"a.jpg", "\xff\xd8\xff\xe0\0", 5, YOLO_ERROR_FORMAT, "byte 4 of 5: JPEG header cut short"},
        {"a.jpg", "\xff\xd8\xff\xc0\0\13\10\0\0\0\20\1\0\21\0", 15, YOLO_ERROR_FORMAT, "16 x 0 pixels"},
        {"a.jpg", "\xff\xd8\xff\xc9\0\10\10\0\20\0\20\3", 12, YOLO_ERROR_UNSUPPORTED, "arithmetic-coded JPEG"},
        {"a.jpg", "\xff\xd8\xff\xc0\0\10\14\0\20\0\20\3", 12, YOLO_ERROR_UNSUPPORTED, "12-bit JPEG"},
        {"a.png", "\x89PNG\r\n\x1a\n\0\0\0\15IHDR\0\1\x86\xa0\0\0\0\1\10\2\0\0\0....", 33, YOLO_ERROR_MEMORY, "100000 x 1 pixels"},
        {"a.png", "\x89PNG\r\n\x1a\n\0\0\0\15IHDR\0\0\0\1\0\0\0\1\3\2\0\0\0....", 33, YOLO_ERROR_FORMAT, "colour type 2 with 3 bits"},
        {"a.bmp", "BM........\66\0\0\0\50\0\0\0\1\0\0\0\0\0\0\x80\1\0\30\0\0\0\0\0", 34, YOLO_ERROR_FORMAT, "1 x 0 pixels"},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        yolo_image image;
        yolo_error error = {0};
        yolo_status status = codec_read_memory(cases[i].name, (const uint8_t *)cases[i].bytes, (size_t)cases[i].size, &image, &error);
        CHECK_MSG(status == cases[i].status && strstr(error.message, cases[i].says) && !image.pixels, "case %d: %d %s", i, (int)status, error.message);
    }
    yolo_error error;
    yolo_image image;
    CHECK(codec_read("tests/none.jpg", &image, &error) == YOLO_ERROR_IO && !image.pixels);
    CHECK(codec_is_picture_name("a/b.JPeG") && codec_is_picture_name("x.webp") && codec_is_picture_name("x.TIFF") && !codec_is_picture_name("jpg") && !codec_is_picture_name(".jpg"));
}

/* One way of damaging a file: bits, bytes, runs, the end. */
static size_t img_test_mutate(uint8_t *bytes, size_t size, rng *r) {
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xfe, 0xff, 0xda, 0xc0, 0xd9};
    for (uint64_t changes = 1 + rng_next(r) % 6; changes; changes--) {
        size_t at = (size_t)(rng_next(r) % (rng_next(r) % 3 ? size : YOLO_MIN(size, 64)));
        uint64_t kind = rng_next(r) % 8, run = rng_next(r) % 9;
        if (kind < 3) bytes[at] ^= (uint8_t)(1u << rng_next(r) % 8);
        else if (kind < 5) bytes[at] = values[rng_next(r) % YOLO_COUNT(values)];
        else if (kind == 5) bytes[at] = (uint8_t)rng_next(r);
        else if (kind == 6) memset(bytes + at, values[rng_next(r) % YOLO_COUNT(values)], YOLO_MIN(size - at, (size_t)run));
        else if (!(rng_next(r) % 4)) size = YOLO_MAX(at, 1);
    }
    return size;
}

typedef struct img_test_damage { int read, refused; double slowest; } img_test_damage;

/* Damages a file in many ways and reads each. */
static void img_test_damaged(img_test_damage *damage, const char *name, const uint8_t *original, size_t original_size) {
    enum { EACH = 60 };
    for (int k = 0; k < EACH; k++) {
        rng r = {hash_bytes(name, strlen(name), 11), (uint64_t)k << 32};
        size_t size = original_size;
        uint8_t *bytes = mem_alloc(size);
        memcpy(bytes, original, size);
        size = img_test_mutate(bytes, size, &r);
        uint8_t *exact = mem_alloc(size); /* its own block, so that a read behind the end is seen */
        memcpy(exact, bytes, size);
        yolo_image image;
        yolo_error error = {0};
        double start = os_clock();
        yolo_status status = codec_read_memory(name, exact, size, &image, &error);
        damage->slowest = YOLO_MAX(damage->slowest, os_clock() - start);
        CHECK_MSG((status == YOLO_OK) == (image.pixels != NULL) && (status == YOLO_OK || error.message[0]), "%s, mutation %d", name, k);
        if (status == YOLO_OK) {
            CHECK(image.width > 0 && image.height > 0);
            img_test_checksum(&image); /* touches every pixel */
            damage->read++;
        } else damage->refused++;
        yolo_image_free(&image);
        mem_free(bytes);
        mem_free(exact);
    }
}

static void test_img_mutations(void) {
    static const char *const sets[] = {"webp", "webp", "tiff", "tif"};
    ref_file ref, made;
    img_test_damage damage = {0};
    uint64_t before = os_peak_memory();
    CHECK(ref_open(&ref, img_test_fixture));
    for (int i = 0; i < ref.count; i++) {
        const ref_array *file = &ref.arrays[i];
        if (strchr(file->name, '.') && !strstr(file->name, ".pixels"))
            img_test_damaged(&damage, file->name, (const uint8_t *)(file->ints + 1), (size_t)file->ints[0]);
    }
    for (int set = 0; set < YOLO_COUNT(sets); set += 2) {
        char path[200];
        snprintf(path, sizeof path, "tests/fixtures/%s.ref", sets[set]);
        CHECK(ref_open(&made, path));
        for (int i = 0; i < made.count; i++) {
            uint8_t *bytes;
            size_t size;
            snprintf(path, sizeof path, "tests/fixtures/%s.%s", made.arrays[i].name, sets[set + 1]);
            CHECK(path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK);
            img_test_damaged(&damage, path, bytes, size);
            mem_free(bytes);
        }
        ref_close(&made);
    }
    printf("    %d mutations: %d read, %d refused; slowest %.3f s; %.0f MiB at most\n", damage.read + damage.refused, damage.read, damage.refused,
           damage.slowest, (double)os_peak_memory() / 1048576.0);
    CHECK(damage.read > 500 && damage.refused > 2000 && damage.slowest < 10);
    CHECK(os_peak_memory() < YOLO_MAX(before + 1, (uint64_t)1 << 30));
    ref_close(&ref);
}

static void img_test_memory(const char *name, const uint8_t *bytes, size_t size) {
    yolo_status status = YOLO_ERROR_MEMORY;
    for (long n = 1; n < 200 && status != YOLO_OK; n++) {
        yolo_image image;
        yolo_error error = {0};
        os_atomic_set(&mem_fail_after, n);
        status = codec_read_memory(name, bytes, size, &image, &error);
        os_atomic_set(&mem_fail_after, 0);
        CHECK_MSG(status == YOLO_OK || (status == YOLO_ERROR_MEMORY && !image.pixels), "%s, allocation %ld: %s", name, n, error.message);
        yolo_image_free(&image);
    }
    CHECK(status == YOLO_OK);
}

/* Reading and writing with the n-th allocation failing, for every n: an error each time, nothing lost. */
static void test_img_memory(void) {
    static const char *const names[] = {"orientation6.jpg", "progressive.jpg", "colour6_16i.png", "colour3_4.png", "RGB.bmp"};
    static const char *const paths[] = {"tests/fixtures/alpha.webp", "tests/fixtures/groups.webp", "tests/fixtures/colours4.webp", "tests/fixtures/animation.webp",
                                        "tests/fixtures/planes.tif", "tests/fixtures/float.tif", "tests/fixtures/fax4.tif", "tests/fixtures/jpeg_ycbcr.tif"};
    ref_file ref;
    CHECK(ref_open(&ref, img_test_fixture));
    for (int i = 0; i < YOLO_COUNT(names); i++) {
        const ref_array *file = ref_get(&ref, names[i]);
        CHECK(file != NULL);
        if (file) img_test_memory(names[i], (const uint8_t *)(file->ints + 1), (size_t)file->ints[0]);
    }
    ref_close(&ref);
    for (int i = 0; i < YOLO_COUNT(paths); i++) {
        uint8_t *bytes;
        size_t size;
        CHECK(path_read(paths[i], 1 << 20, &bytes, &size, NULL) == YOLO_OK);
        img_test_memory(paths[i], bytes, size);
        mem_free(bytes);
    }
    yolo_image image = img_test_pattern(40, 30);
    for (int jpeg = 0; jpeg < 2; jpeg++) {
        yolo_status status = YOLO_ERROR_MEMORY;
        const char *path = test_temp(jpeg ? "m.jpg" : "m.png");
        for (long n = 1; n < 200 && status != YOLO_OK; n++) {
            os_atomic_set(&mem_fail_after, n);
            status = codec_write(path, &image, NULL);
            os_atomic_set(&mem_fail_after, 0);
            CHECK(status == YOLO_OK || status == YOLO_ERROR_MEMORY);
        }
        CHECK(status == YOLO_OK);
    }
    yolo_image_free(&image);
}

/* Boxes anywhere, of any size, with any name, on pictures of any size: the sanitizers and the guard bytes watch. */
static void test_img_draw(void) {
    static const char *const names[] = {"person", "", "\xea\xb3\xa0\xec\x96\x91\xec\x9d\xb4", "a name that is much longer than the picture is wide", "{|}~ !\"#"};
    static const int sizes[][2] = {{1, 1}, {3, 200}, {200, 3}, {64, 48}, {320, 240}};
    rng r = {3, 0};
    for (int i = 0; i < 400; i++) {
        const int *size = sizes[i % YOLO_COUNT(sizes)];
        yolo_image image = img_test_pattern(size[0], size[1]);
        yolo_box box = {(float)(rng_uniform(&r) * 600 - 200), (float)(rng_uniform(&r) * 600 - 200), (float)(rng_uniform(&r) * 600 - 200),
                        (float)(rng_uniform(&r) * 600 - 200), 0.5f, (int)(rng_next(&r) % 90) - 2};
        if (i % 17 == 0) box.x1 = NAN;
        if (i % 19 == 0) box.y2 = INFINITY;
        if (i % 23 == 0) box.x2 = -1e30f;
        yolo_boxes boxes = {&box, 1};
        if (i % 5) img_draw_box(&image, &box, names[i % YOLO_COUNT(names)], 1 + i % 4);
        else yolo_image_draw_boxes(&image, NULL, &boxes, 0);
        yolo_image_free(&image);
    }
    yolo_image image = {mem_array(100 * 80, 3), 100, 80};
    img_draw_box(&image, &(yolo_box){20, 40, 70, 70, 0.5f, 6}, "cat", 2);
    const uint8_t *colour = img_class_colour(6);
    CHECK(!memcmp(image.pixels + (50 * 100 + 20) * 3, colour, 3) && !memcmp(image.pixels + (70 * 100 + 45) * 3, colour, 3));
    CHECK(!image.pixels[(55 * 100 + 45) * 3]); /* the inside is left alone */
    CHECK(!memcmp(image.pixels + (16 * 100 + 40) * 3, colour, 3)); /* the label is above */
    yolo_image_free(&image);
    CHECK(img_text_known("cat \xea\xb3\xa0\xec\x96\x91 \xc3\x85") && !img_text_known("a\tb") && !img_text_known("") && !img_text_known("\xe4\xb8\xad"));
}

/* The picture of one character in black on white; its hash. */
static uint64_t img_test_character(yolo_image *image, uint32_t code, float size) {
    static const uint8_t black[3] = {0, 0, 0};
    char text[8] = {0};
    if (code < 0x80) text[0] = (char)code;
    else if (code < 0x800) snprintf(text, sizeof text, "%c%c", (int)(0xc0 | code >> 6), (int)(0x80 | (code & 63)));
    else snprintf(text, sizeof text, "%c%c%c", (int)(0xe0 | code >> 12), (int)(0x80 | (code >> 6 & 63)), (int)(0x80 | (code & 63)));
    memset(image->pixels, 255, (size_t)image->width * (size_t)image->height * 3);
    img_draw_text(image, 20, 20, (img_type){.size = size, .colour = black}, text, strlen(text));
    return hash_bytes(image->pixels, (size_t)image->width * (size_t)image->height * 3, 0);
}

/* Every character the font has: whole points on the grid, nothing cut off, and no two alike at 20 pixels. */
static void test_img_font(void) {
    yolo_image image = {mem_array(60 * 60, 3), 60, 60};
    uint64_t *seen = mem_array(12000, sizeof *seen);
    uint8_t cover[60 * 60];
    int count = 0, alike = 0, cut = 0;
    for (uint32_t code = '!'; code <= 0xd7a3; code = code == 0xff ? 0xac00 : code + 1) {
        img_glyph glyph = img_glyph_make(code);
        CHECK_MSG(glyph.count || (code > '~' && code < 0xc0), "U+%04X is missing", (unsigned)code);
        if (!glyph.count || code == 0xa0) continue;
        for (int i = 0; i < glyph.count; i++)
            for (const char *p = glyph.pieces[i].strokes; *p; p += p[2] == ' ' ? 3 : 2)
                CHECK_MSG(((*p >= '0' && *p <= '9') || (*p >= 'A' && *p <= 'F')) && isalpha((unsigned char)p[1]), "U+%04X: %s", (unsigned)code, p);
        seen[count++] = img_test_character(&image, code, 14.6f);
        if (code > 0xff && code % 7) continue;
        img_pen pen = {20, 20, 14.6f / IMG_CAPITAL, 14.6f / IMG_CAPITAL * 1.35f, false, code > 0xff};
        img_mask mask = {cover, 0, 0, 60, 60};
        memset(cover, 0, sizeof cover);
        for (int i = 0; i < glyph.count; i++) img_pen_draw(&pen, &mask, &glyph.pieces[i]);
        for (int i = 0; i < 60 * 60; i++) cut += (cover[i] > 0) != (image.pixels[3 * i] < 255);
    }
    CHECK_MSG(count > 94 + 64 + 11172 - 1 && !cut, "%d characters, %d pixels cut off", count, cut);
    for (int i = 0; i < count; i++) /* a full search would be 60 million comparisons: neighbours and a stride */
        for (int k = i + 1; k < count && k < i + 600; k++) alike += seen[i] == seen[k];
    CHECK_MSG(alike <= 2, "%d pairs of characters look the same", alike); /* '-' and the soft hyphen; "'" is none */
    mem_free(seen);
    yolo_image_free(&image);
}

/* Text that is no UTF-8, cut anywhere, in parts as macOS writes it. */
static void test_img_text(void) {
    static const struct { const char *text; uint32_t codes[4]; } cases[] = {
        {"", {0}}, {"a\xea\xb0\x80", {'a', 0xac00}}, {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", {0xac01}}, {"\xe1\x84\x92\xe1\x85\xb5x", {0xd788, 'x'}},
        {"e\xcc\x81", {0xe9}}, {"n\xcc\x83o", {0xf1, 'o'}}, {"x\xcc\x81", {'x', 0x301}}, {"\xea\xb0", {0xfffd, 0xfffd}}, {"\xed\xa0\x80", {0xfffd, 0xfffd, 0xfffd}},
        {"\xc0\x80", {0xfffd, 0xfffd}}, {"\xf0\x9f\x90\xb1", {0x1f431}}, {"\xff", {0xfffd}}, {"\xe1\x84\x80", {0x1100}},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const char *text = cases[i].text;
        for (int k = 0; k < 4; k++) {
            uint32_t code = img_text_next(&text);
            CHECK_MSG(code == cases[i].codes[k], "case %d: character %d is U+%04X", i, k, (unsigned)code);
        }
    }
    yolo_image image = img_test_pattern(90, 40);
    rng r = {9, 0};
    for (int i = 0; i < 3000; i++) {
        char text[24], label[20];
        float width;
        for (int k = 0; k < 23; k++) text[k] = (char)(rng_next(&r) % (i % 2 ? 256 : 64) + (i % 2 ? 0 : 0xc0));
        text[rng_next(&r) % 23] = 0;
        size_t length = strlen(text), fits = img_text_fit(text, 12, 60, &width);
        CHECK(fits <= length && width <= 60);
        img_draw_text(&image, (float)(i % 120) - 20, (float)(i % 50), (img_type){12, 0, i % 3 == 0, img_class_colour(i)}, text, length);
        img_class_label(label, sizeof label, text, 7);
        CHECK(strlen(label) < sizeof label && (!strcmp(label, "7") || str_is_utf8(label, strlen(label))));
    }
    char label[8];
    img_class_label(label, sizeof label, "\xea\xb0\x80\xea\xb0\x80\xea\xb0\x80", 1);
    CHECK(!strcmp(label, "\xea\xb0\x80\xea\xb0\x80"));
    yolo_image_free(&image);
}

static const test_case tests_img[] = {
    {"img_resize", "bilinear resizing gives cv2's bytes", test_img_resize},
    {"img_plans", "letterbox and load sizes are ultralytics'", test_img_letterbox_plans},
    {"img_letterbox", "the network's input is the resized picture over 255 in a border of 114", test_img_letterbox_run},
    {"img_files", "JPEG, PNG and BMP of every kind read as cv2 reads them, EXIF applied", test_img_files},
    {"img_webp", "WebP of every kind read as libwebp reads them, opacity included", test_img_webp},
    {"img_interleave", "three planes to pixels at every width", test_img_interleave},
    {"img_jpeg_vectors", "vector instructions give the same samples of a JPEG, bit for bit", test_img_jpeg_vectors},
    {"img_webp_vectors", "vector instructions smooth a WebP alike, bit for bit", test_img_webp_vectors},
    {"img_tiff", "TIFF of every kind read as libtiff reads them", test_img_tiff},
    {"img_tiff_cut", "TIFF cut off anywhere is refused with the place", test_img_tiff_cut},
    {"img_webp_cut", "WebP cut off anywhere is refused with the place", test_img_webp_cut},
    {"img_exif", "orientation in EXIF of every making", test_img_exif},
    {"img_exif_files", "of several blocks of EXIF the first that tells counts", test_img_exif_files},
    {"img_cut", "JPEG and PNG that are cut short keep their rows", test_img_cut},
    {"long_head", "a size that stands far from the beginning", test_img_long_head},
    {"img_write", "PNG comes back exactly, JPEG nearly", test_img_write},
    {"img_refused", "files that cannot be read say why", test_img_refused},
    {"img_mutations", "damaged pictures give a picture or an error", test_img_mutations},
    {"img_memory", "want of memory is an error while reading and writing", test_img_memory},
    {"img_font", "every character is there, whole, and like no other", test_img_font},
    {"img_text", "text that is damaged, cut or in parts", test_img_text},
    {"img_draw", "boxes and labels stay inside the picture", test_img_draw},
};
