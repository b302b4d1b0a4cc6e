/* test_plot.c - charts and sheets: they appear, in their size, whatever the numbers and names; the same input gives the
   same bytes. */

static const char *const plot_test_names[] = {
    "person", "\xec\x95\x88\xec\xa0\x84\xeb\xaa\xa8 \xeb\xaf\xb8\xec\xb0\xa9\xec\x9a\xa9", "", "\xff\xfe\xed\xa0\x80", "\xe4\xba\xba", "na\xc3\xafve caf\xc3\xa9",
};

static uint64_t plot_test_hash(const char *path) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    if (path_read(path, 64 << 20, &bytes, &size, NULL) != YOLO_OK) return 0;
    uint64_t hash = hash_bytes(bytes, size, 0);
    mem_free(bytes);
    return hash;
}

/* A picture that is there, of this size (0 = any), and not empty. */
static void plot_test_seen(const char *path, int width, int height) {
    yolo_image image;
    yolo_error error = {0};
    CHECK_MSG(codec_read(path, &image, &error) == YOLO_OK, "%s", error.message);
    CHECK_MSG((!width || image.width == width) && (!height || image.height == height), "%s: %d x %d", path, image.width, image.height);
    int64_t dark = 0;
    for (int64_t i = 0; image.pixels && i < (int64_t)image.width * image.height * 3; i++) dark += image.pixels[i] < 100;
    CHECK_MSG(dark > 100, "%s: %lld dark bytes", path, (long long)dark);
    yolo_image_free(&image);
}

static void test_plot_results(void) {
    static const char header[] = "epoch,time,train/box_loss, train/cls_loss,metrics/mAP50(B),val/dfl_loss\n";
    static const struct { const char *text; int size; } cases[] = {
        {"", 0}, {"\n\n\n", 3}, {"epoch\n1\n2\n", 10}, {"1,2,3\n,,,\n,\n", 12}, {"epoch,val/box_loss\n1e-320,1e-320\n0,0\n", 38}, {"epoch,val/box_loss\n1e299,-1e299\n-1e299,1e299\n3,7", 45}, {"\0\0,\0\n\xff", 6}, {",,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\n1\n", 79},
    };
    static const char *const rows[] = {
        "1,2,0.5,1,0.25,3\r\n", "nan,inf,nan,-inf,nan,nan\n", "3,1,1e308,-1e308,1e-320,0\n", "4,1,1e99999,0x10,--1,\n", "5\n", "6,1,2,3,4,5,6,7,8,9\n",
    };
    yolo_error error = {0};
    const char *csv = test_temp("results.csv"), *png = test_temp("results.png");
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        CHECK(path_write(csv, cases[i].text, (size_t)cases[i].size, false, NULL) == YOLO_OK);
        CHECK_MSG(plot_results(csv, png, &error) == YOLO_OK, "case %d: %s", i, error.message);
        if (i % 3 == 0) plot_test_seen(png, 2000, 1000);
    }
    for (int count = 1; count <= 300; count = count * 20 + 1) {
        str text = {0};
        str_add(&text, header);
        for (int i = 0; i < count; i++) str_add(&text, rows[i % YOLO_COUNT(rows)]);
        CHECK(path_write(csv, text.text, (size_t)text.length, false, NULL) == YOLO_OK);
        CHECK_MSG(plot_results(csv, png, &error) == YOLO_OK, "%d rows: %s", count, error.message);
        plot_test_seen(png, 2000, 1000);
        uint64_t before = plot_test_hash(png);
        CHECK(count == 1 || (plot_results(csv, png, NULL) == YOLO_OK && plot_test_hash(png) == before));
        str_free(&text);
    }
    CHECK(plot_results(test_temp("nothing.csv"), png, &error) == YOLO_ERROR_IO && strstr(error.message, "nothing.csv"));
}

static void test_plot_curves(void) {
    enum { ROWS = 45, POINTS = 300 };
    double *y = mem_array(ROWS * POINTS, sizeof *y), ap[ROWS];
    rng r = {4, 0};
    for (int i = 0; i < ROWS * POINTS; i++) y[i] = i % 97 == 0 ? NAN : i % 89 == 0 ? INFINITY : i % 83 == 0 ? -1e300 : (i % POINTS) / (double)POINTS * (0.9 + 0.1 * rng_uniform(&r));
    for (int i = 0; i < ROWS; i++) ap[i] = i % 7 == 3 ? NAN : rng_uniform(&r);
    static const int rows[] = {0, 1, 6, 20, ROWS};
    for (int i = 0; i < YOLO_COUNT(rows); i++)
        for (int kind = 0; kind < 2; kind++) {
            const char *path = test_temp("curve.png");
            yolo_error error = {0};
            plot_curve_set set = {.metric = "F1", .y = y, .stride = POINTS, .rows = rows[i], .points = i == 1 ? 1 : POINTS, .ap = kind ? ap : NULL,
                                  .ap_stride = 1, .names = plot_test_names, .class_count = YOLO_COUNT(plot_test_names)};
            CHECK_MSG(plot_curves(path, &set, &error) == YOLO_OK, "%d rows: %s", rows[i], error.message);
            plot_test_seen(path, 1800, 1200);
        }
    mem_free(y);
}

static void test_plot_confusion(void) {
    static const int sizes[] = {0, 1, 6, 40, 150, 1300};
    for (int i = 0; i < YOLO_COUNT(sizes); i++) {
        int n = sizes[i] + 1;
        int32_t *counts = mem_array((uint64_t)n * (uint64_t)n, sizeof *counts);
        for (int k = 0; k < n * n; k++) counts[k] = i == 2 ? 0 : k % 7 == 0 ? k % 30000 * 7 : k == 5 ? INT32_MAX : 0;
        const char *const *names = sizes[i] == 6 ? plot_test_names : NULL;
        for (int normalised = 0; normalised < (n > 100 ? 1 : 2); normalised++) {
            const char *path = test_temp("confusion.png");
            yolo_error error = {0};
            CHECK_MSG(plot_confusion(path, counts, names, sizes[i], normalised, &error) == YOLO_OK, "%d classes: %s", sizes[i], error.message);
            plot_test_seen(path, 0, 0);
        }
        mem_free(counts);
    }
}

static void test_plot_labels(void) {
    enum { BOXES = 3000 };
    yolo_box *boxes = mem_array(BOXES, sizeof *boxes);
    int64_t instances[200] = {0};
    rng r = {6, 0};
    for (int i = 0; i < BOXES; i++) {
        float values[4];
        for (int k = 0; k < 4; k++) values[k] = (float)(rng_uniform(&r) * 1.4 - 0.2);
        if (i % 31 == 0) values[i % 4] = i % 2 ? NAN : INFINITY;
        boxes[i] = (yolo_box){values[0], values[1], values[2], values[3], -1, (int)(rng_next(&r) % 200)};
        instances[boxes[i].class_id]++;
    }
    static const int classes[] = {0, 1, 6, 50, 200};
    for (int i = 0; i < YOLO_COUNT(classes); i++) {
        const char *path = test_temp("labels.jpg");
        yolo_error error = {0};
        CHECK_MSG(plot_labels(path, boxes, i == 1 ? 0 : BOXES, instances, classes[i] == 6 ? plot_test_names : NULL, classes[i], &error) == YOLO_OK, "%s", error.message);
        plot_test_seen(path, 1600, 1600);
    }
    mem_free(boxes);
}

static void test_plot_batch(void) {
    static const int sizes[][2] = {{640, 480}, {32, 32}, {1, 1}, {900, 3}, {0, 0}};
    enum { BOXES = 40 };
    yolo_box boxes[BOXES];
    rng r = {8, 0};
    for (int i = 0; i < BOXES; i++) {
        float values[4];
        for (int k = 0; k < 4; k++) values[k] = (float)(rng_uniform(&r) * 900 - 200);
        if (i % 9 == 0) values[i % 4] = i % 2 ? NAN : -INFINITY;
        boxes[i] = (yolo_box){values[0], values[1], values[2], values[3], i % 3 ? (float)rng_uniform(&r) : -1, (int)(rng_next(&r) % 9) - 1};
    }
    for (int i = 0; i < YOLO_COUNT(sizes); i++)
        for (int count = i; count <= 18; count += 5) {
            plot_picture pictures[18];
            for (int k = 0; k < count; k++) {
                const int *size = sizes[k == 1 ? (i + 1) % YOLO_COUNT(sizes) : i];
                pictures[k] = (plot_picture){{mem_array((uint64_t)size[0] * (uint64_t)size[1] + 1, 3), size[0], size[1]}, boxes, BOXES, k % 2 ? "a/\xea\xb0\x80\xf0\x9f\x90\xb1.jpg" : NULL};
            }
            plot_sheet sheet = {pictures, count, plot_test_names, YOLO_COUNT(plot_test_names), 0.25f};
            const char *path = test_temp("batch.jpg");
            yolo_error error = {0};
            CHECK_MSG(plot_batch(path, &sheet, &error) == YOLO_OK, "%s", error.message);
            yolo_image image;
            CHECK(codec_read(path, &image, &error) == YOLO_OK && image.width <= 2000 && image.height <= 2100);
            yolo_image_free(&image);
            for (int k = 0; k < count; k++) mem_free(pictures[k].image.pixels);
        }
}

/* Want of memory anywhere is an error, and nothing leaks (under the address sanitizer). */
static void test_plot_memory(void) {
    const double y[4] = {0.1, 0.5, 0.4, 0};
    const int32_t counts[4] = {3, 1, 2, 0};
    const int64_t instances = 3;
    const yolo_box box = {0.1f, 0.1f, 0.5f, 0.5f, -1, 0};
    plot_curve_set set = {.metric = "F1", .y = y, .stride = 4, .rows = 1, .points = 4};
    uint8_t pixels[12] = {0};
    plot_picture picture = {{pixels, 2, 2}, &box, 1, "a.jpg"};
    plot_sheet sheet = {&picture, 1, NULL, 0, 0};
    const char *csv = test_temp("m.csv"), *png = test_temp("m.png"), *jpg = test_temp("m.jpg");
    CHECK(path_write(csv, "epoch,train/box_loss\n1,2\n", 25, false, NULL) == YOLO_OK);
    for (int kind = 0; kind < 5; kind++) {
        yolo_status status = YOLO_ERROR_MEMORY;
        int n = 1;
        for (; n < 200 && status == YOLO_ERROR_MEMORY; n++) {
            os_atomic_set(&mem_fail_after, n);
            status = kind == 0 ? plot_results(csv, png, NULL) : kind == 1 ? plot_curves(png, &set, NULL) : kind == 2 ? plot_confusion(png, counts, NULL, 1, true, NULL)
                   : kind == 3 ? plot_labels(jpg, &box, 1, &instances, NULL, 1, NULL) : plot_batch(jpg, &sheet, NULL);
        }
        os_atomic_set(&mem_fail_after, 0);
        CHECK_MSG(status == YOLO_OK && n > 3, "kind %d: status %d after %d", kind, status, n);
    }
}

static const test_case tests_plot[] = {
    {"plot_results", "results.png of any results.csv", test_plot_results},
    {"plot_curves", "curves of none to many classes, with NaN", test_plot_curves},
    {"plot_confusion", "confusion matrices of none to many classes", test_plot_confusion},
    {"plot_labels", "labels.jpg of any boxes", test_plot_labels},
    {"plot_batch", "sheets of pictures of any size, boxes and names", test_plot_batch},
    {"plot_memory", "want of memory is an error in every chart", test_plot_memory},
};
