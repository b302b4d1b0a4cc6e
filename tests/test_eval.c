/* test_eval.c - decoding, suppression and the evaluator against ultralytics' numbers (fixtures by make_eval.py). */

/* A network as far as decoding looks at it, and views of heads that are `pixel` floats apart. */
static void eval_net(net *net, int class_count) {
    static const int strides[] = {8, 16, 32};
    memset(net, 0, sizeof *net);
    net->class_count = class_count;
    net->level_count = 3;
    net->max_stride = 32;
    memcpy(net->strides, strides, sizeof strides);
}

static void eval_heads(ten *heads, const ref_file *ref, int which, int level_count) {
    for (int level = 0; level < level_count; level++) {
        char name[32];
        snprintf(name, sizeof name, "%d.head%d", which, level);
        const ref_array *a = ref_get(ref, name);
        heads[level] = (ten){(float *)(uintptr_t)a->data, a->dims[0], a->dims[1], a->dims[2], a->dims[3], a->dims[3]};
    }
}

static const ref_array *eval_get(const ref_file *ref, int which, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "%d.%s", which, name);
    return ref_get(ref, full);
}

static void eval_check_boxes(const yolo_boxes *boxes, const ref_array *expected, int which, int image) {
    CHECK_MSG(boxes->count == expected->dims[0], "case %d image %d: %d boxes, expected %d", which, image, boxes->count, expected->dims[0]);
    for (int i = 0; i < boxes->count && i < expected->dims[0]; i++) {
        const float *e = expected->data + i * 6;
        const yolo_box *b = &boxes->items[i];
        CHECK_MSG(b->class_id == (int)e[5] && fabsf(b->confidence - e[4]) <= 1e-6f && fabsf(b->x1 - e[0]) <= 1e-4f &&
                  fabsf(b->y1 - e[1]) <= 1e-4f && fabsf(b->x2 - e[2]) <= 1e-4f && fabsf(b->y2 - e[3]) <= 1e-4f,
                  "case %d image %d box %d: %g %g %g %g conf %g class %d", which, image, i, (double)b->x1, (double)b->y1,
                  (double)b->x2, (double)b->y2, (double)b->confidence, b->class_id);
    }
}

static void test_nms_reference(void) {
    static ref_file ref;
    if (!ref_open(&ref, "tests/fixtures/eval_nms.ref")) SKIP("no fixture");
    int count = ref_get(&ref, "count")->ints[0];
    for (int which = 0; which < count; which++) {
        const ref_array *ints = eval_get(&ref, which, "ints"), *floats = eval_get(&ref, which, "floats");
        const ref_array *classes = eval_get(&ref, which, "classes");
        net net;
        ten heads[3];
        eval_net(&net, ints->ints[0]);
        eval_heads(heads, &ref, which, 3);
        det_options options = {floats->data[0], floats->data[1], ints->ints[1], ints->ints[2] != 0, ints->ints[3] != 0,
                               classes->count ? classes->ints : NULL, (int)classes->count};
        for (int image = 0; image < heads[0].n; image++) {
            char name[16];
            yolo_boxes boxes;
            snprintf(name, sizeof name, "out%d", image);
            CHECK(det_run(&net, heads, image, &options, &boxes, NULL) == YOLO_OK);
            eval_check_boxes(&boxes, eval_get(&ref, which, name), which, image);
            mem_free(boxes.items);
        }
    }
    ref_close(&ref);
}

static void test_raw_reference(void) {
    static ref_file ref;
    if (!ref_open(&ref, "tests/fixtures/eval_nms.ref")) SKIP("no fixture");
    const ref_array *raw = ref_get(&ref, "raw");
    net net;
    ten heads[3];
    eval_net(&net, raw->dims[1] - 4);
    eval_heads(heads, &ref, 1, 3);
    int64_t plane = (int64_t)raw->dims[1] * raw->dims[2];
    float *decoded = mem_array((uint64_t)plane, sizeof *decoded);
    for (int image = 0; image < raw->dims[0]; image++) {
        double worst = 0;
        det_raw(&net, heads, image, decoded);
        for (int64_t i = 0; i < plane; i++) worst = fmax(worst, fabs((double)decoded[i] - (double)raw->data[image * plane + i]));
        CHECK_NEAR(worst, 0, 1e-4);
    }
    mem_free(decoded);
    ref_close(&ref);
}

/* Heads of one 640x640 picture with random logits; mem_free(heads[0].data). */
static void eval_random_heads(ten *heads, int class_count, double mean, double spread, uint64_t seed) {
    int channels = 4 * NET_REG_MAX + class_count;
    float *block = mem_array((uint64_t)8400 * (uint64_t)channels, sizeof *block), *next = block;
    rng r = {seed, 0};
    for (int64_t i = 0; i < (int64_t)8400 * channels; i++) block[i] = (float)((rng_uniform(&r) - 0.5) * 2 * spread + (i % channels < 64 ? 0 : mean));
    for (int level = 0; level < 3; level++) {
        int side = 80 >> level;
        heads[level] = (ten){next, 1, side, side, channels, channels};
        next += (int64_t)side * side * channels;
    }
}

static void test_nms_speed(void) {
    net net;
    ten heads[3];
    yolo_boxes boxes;
    det_options options = {0.001f, 0.7f, 300, false, true, NULL, 0};
    eval_net(&net, 80);
    eval_random_heads(heads, 80, 0, 4, 1); /* 672,000 candidates */
    double start = os_clock();
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL) == YOLO_OK);
    double all = os_clock() - start;
    CHECK(boxes.count == 300);
    mem_free(boxes.items);
    options.max_det = 30000;
    start = os_clock();
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL) == YOLO_OK);
    printf("    672,000 candidates, 30,000 suppressed: %.0f ms; without max_det %.0f ms\n", all * 1e3, (os_clock() - start) * 1e3);
    CHECK_MSG(all < 1.0, "%.2f s", all);
    mem_free(boxes.items);
    mem_free(heads[0].data);
}

/* What suppression leaves: falling scores, no two of a class above the threshold, a subset of what a lower threshold on
   confidence gives, and the same for a slice of a wider tensor. */
static void test_nms_properties(void) {
    net net;
    ten heads[3], wide[3];
    eval_net(&net, 5);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        yolo_boxes boxes, again;
        det_options options = {0.3f, 0.5f, 100000, seed % 2 == 0, seed > 2, NULL, 0};
        eval_random_heads(heads, 5, -4, 4, seed);
        CHECK(det_run(&net, heads, 0, &options, &boxes, NULL) == YOLO_OK);
        CHECK(boxes.count > 10);
        for (int i = 0; i < boxes.count; i++) {
            const yolo_box *a = &boxes.items[i];
            CHECK(a->confidence > options.conf && (!i || a->confidence <= boxes.items[i - 1].confidence));
            for (int j = 0; j < i; j++) {
                const yolo_box *b = &boxes.items[j];
                if (!options.agnostic && a->class_id != b->class_id) continue;
                float w = fmaxf(0, fminf(a->x2, b->x2) - fmaxf(a->x1, b->x1)), h = fmaxf(0, fminf(a->y2, b->y2) - fmaxf(a->y1, b->y1));
                float area = (a->x2 - a->x1) * (a->y2 - a->y1) + (b->x2 - b->x1) * (b->y2 - b->y1) - w * h;
                CHECK(w * h / area <= 0.5f + 1e-3f);
            }
        }
        float *block = mem_array((uint64_t)8400 * 80, sizeof *block), *next = block;
        for (int level = 0; level < 3; level++) {
            wide[level] = heads[level];
            wide[level].data = next;
            wide[level].pixel = 80;
            for (int64_t p = 0; p < (int64_t)heads[level].h * heads[level].w; p++) {
                for (int c = 0; c < 80; c++) next[p * 80 + c] = c < 69 ? heads[level].data[p * 69 + c] : NAN;
            }
            next += (int64_t)heads[level].h * heads[level].w * 80;
        }
        CHECK(det_run(&net, wide, 0, &options, &again, NULL) == YOLO_OK);
        CHECK(again.count == boxes.count && !memcmp(again.items, boxes.items, (size_t)boxes.count * sizeof *boxes.items));
        mem_free(again.items);
        mem_free(boxes.items);
        mem_free(block);
        mem_free(heads[0].data);
    }
}

static void test_nms_damaged(void) {
    net net;
    ten heads[3];
    yolo_boxes boxes;
    det_options options = {0.001f, 0.7f, 300, false, true, NULL, 0};
    eval_net(&net, 5);
    for (int kind = 0; kind < 4; kind++) {
        static const float values[] = {NAN, INFINITY, -INFINITY, 1e30f};
        eval_random_heads(heads, 5, 0, 4, 7);
        rng r = {3, 0};
        for (int i = 0; i < 200000; i++) heads[0].data[rng_next(&r) % (8400 * 69)] = values[kind];
        for (int i = 0; i < 69; i++) heads[2].data[i] = values[kind];
        CHECK(det_run(&net, heads, 0, &options, &boxes, NULL) == YOLO_OK);
        for (int i = 0; i < boxes.count; i++)
            CHECK(isfinite(boxes.items[i].x1) && isfinite(boxes.items[i].y2) && boxes.items[i].confidence > 0 &&
                  boxes.items[i].confidence <= 1 && boxes.items[i].class_id >= 0 && boxes.items[i].class_id < 5);
        mem_free(boxes.items);
        mem_free(heads[0].data);
    }
    eval_random_heads(heads, 5, 0, 4, 7);
    for (int k = 1; k <= 40; k++) { /* every allocation fails once: an error or a result, no leak */
        os_atomic_set(&mem_fail_after, k);
        yolo_status status = det_run(&net, heads, 0, &options, &boxes, NULL);
        os_atomic_set(&mem_fail_after, 0);
        CHECK(status == YOLO_OK || (status == YOLO_ERROR_MEMORY && !boxes.items));
        mem_free(boxes.items);
    }
    options.conf = 1;
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL) == YOLO_OK && boxes.count == 0);
    options.conf = 0;
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL) == YOLO_OK && boxes.count == 300);
    mem_free(boxes.items);
    mem_free(heads[0].data);
}

/* REF ultralytics/utils/ops.py scale_boxes: numbers worked out with it for a 500x375 picture in 640x480. */
static void test_unletterbox(void) {
    yolo_box items[] = {{100, 50, 300, 400, 0.5f, 0}, {-20, -20, 700, 700, 0.5f, 1}};
    yolo_boxes boxes = {items, 2};
    img_letterbox plan = {640, 480, 640, 480, 0, 0, 1.28};
    det_unletterbox(&boxes, &plan, 500, 375);
    CHECK_NEAR(items[0].x1, 78.125, 1e-4);
    CHECK_NEAR(items[0].y2, 312.5, 1e-4);
    CHECK(items[1].x1 == 0 && items[1].y1 == 0 && items[1].x2 == 500 && items[1].y2 == 375);
    yolo_box thin[] = {{0, 16, 640, 17, 0.5f, 0}};
    boxes = (yolo_boxes){thin, 1};
    plan = (img_letterbox){640, 32, 640, 1, 0, 15, 640.0 / 65500}; /* 65500x10 */
    det_unletterbox(&boxes, &plan, 65500, 10);
    CHECK_NEAR(thin[0].x2, 65500, 0.05);
    CHECK_NEAR(thin[0].y1, 10, 1e-4);
}

static const test_case tests_eval[] = {
    {"nms-reference", "decoding and suppression give ultralytics' boxes", test_nms_reference},
    {"raw-reference", "decoding gives the eval-mode output of ultralytics' head", test_raw_reference},
    {"nms-properties", "what suppression leaves; slices of wider tensors", test_nms_properties},
    {"nms-damaged", "NaN, infinities, failing allocations", test_nms_damaged},
    {"nms-speed", "all anchors above the threshold", test_nms_speed},
    {"unletterbox", "back to pixels of the picture", test_unletterbox},
};
