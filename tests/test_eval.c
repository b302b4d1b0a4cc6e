/* test_eval.c - decoding, suppression and the evaluator against ultralytics' numbers (fixtures by make_eval.py). */

/* The head's output as ultralytics' model gives it in eval mode: rows x, y, w, h and a row a class, a column an
   anchor, levels one after the other. For tests and comparisons. */
static void det_raw(const net *net, const ten *heads, int image, float *out) {
    int64_t anchors = 0, anchor = 0;
    for (int level = 0; level < net->level_count; level++) anchors += (int64_t)heads[level].h * heads[level].w;
    for (int level = 0; level < net->level_count; level++)
        for (int y = 0; y < heads[level].h; y++)
            for (int x = 0; x < heads[level].w; x++, anchor++) {
                const float *logits = ten_at(&heads[level], image, y, x);
                float box[4];
                det_centre_size(logits, x, y, net->strides[level], box);
                for (int i = 0; i < 4; i++) out[i * anchors + anchor] = box[i];
                for (int c = 0; c < net->class_count; c++)
                    out[(4 + c) * anchors + anchor] = det_sigmoid(logits[4 * NET_REG_MAX + c]);
            }
}

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
            CHECK(det_run(&net, heads, image, &options, &boxes, NULL, NULL) == YOLO_OK);
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
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL, NULL) == YOLO_OK);
    double all = os_clock() - start;
    CHECK(boxes.count == 300);
    mem_free(boxes.items);
    options.max_det = 30000;
    start = os_clock();
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL, NULL) == YOLO_OK);
    printf("    672,000 candidates, 30,000 suppressed: %.0f ms (a quarter of a second is usual); without max_det %.0f ms\n", all * 1e3, (os_clock() - start) * 1e3);
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
        CHECK(det_run(&net, heads, 0, &options, &boxes, NULL, NULL) == YOLO_OK);
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
        CHECK(det_run(&net, wide, 0, &options, &again, NULL, NULL) == YOLO_OK);
        CHECK(again.count == boxes.count && !memcmp(again.items, boxes.items, (size_t)boxes.count * sizeof *boxes.items));
        mem_free(again.items);
        mem_free(boxes.items);
        mem_free(block);
        mem_free(heads[0].data);
    }
}

/* What each kept box suppressed, against all pairs; also where there is room for few. */
static void test_nms_struck(void) {
    net net;
    ten heads[3];
    eval_net(&net, 5);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        det_options options = {0.3f, 0.4f, seed < 3 ? 100000 : 40, seed % 2 == 0, false, NULL, 0};
        yolo_boxes all, boxes, plain;
        int32_t *struck;
        eval_random_heads(heads, 5, -4, 4, seed);
        CHECK(det_run(&net, heads, 0, &options, &boxes, &struck, NULL) == YOLO_OK && det_run(&net, heads, 0, &options, &plain, NULL, NULL) == YOLO_OK);
        CHECK(boxes.count > 10 && plain.count == boxes.count && !memcmp(plain.items, boxes.items, (size_t)boxes.count * sizeof *boxes.items));
        options.iou = 1; /* nothing is suppressed: what there was, in order */
        options.max_det = 100000;
        CHECK(det_run(&net, heads, 0, &options, &all, NULL, NULL) == YOLO_OK && all.count > boxes.count);
        int64_t most = 0;
        for (int i = 0, next = 0; i < all.count; i++) {
            const float shift = options.agnostic ? 0 : NMS_CLASS_OFFSET * (float)all.items[i].class_id;
            const yolo_box *a = &all.items[i];
            nms_kept box = {a->x1 + shift, a->y1 + shift, a->x2 + shift, a->y2 + shift, 0, -1};
            box.area = (box.x2 - box.x1) * (box.y2 - box.y1);
            int by = 0;
            for (; by < next; by++) {
                const yolo_box *b = &boxes.items[by];
                const float move = options.agnostic ? 0 : NMS_CLASS_OFFSET * (float)b->class_id;
                nms_kept other = {b->x1 + move, b->y1 + move, b->x2 + move, b->y2 + move, 0, -1};
                other.area = (other.x2 - other.x1) * (other.y2 - other.y1);
                if ((options.agnostic || a->class_id == b->class_id) && nms_overlaps(&other, &box, 0.4f)) break;
            }
            if (by < next) struck[by]--, most++;
            else if (next < boxes.count) CHECK(!memcmp(&boxes.items[next++], a, sizeof *a));
        }
        for (int i = 0; i < boxes.count; i++) CHECK_MSG(struck[i] == 0, "box %d: %d more than expected", i, struck[i]);
        CHECK(most > 100);
        mem_free(struck);
        mem_free(all.items);
        mem_free(boxes.items);
        mem_free(plain.items);
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
        CHECK(det_run(&net, heads, 0, &options, &boxes, NULL, NULL) == YOLO_OK);
        for (int i = 0; i < boxes.count; i++)
            CHECK(isfinite(boxes.items[i].x1) && isfinite(boxes.items[i].y2) && boxes.items[i].confidence > 0 &&
                  boxes.items[i].confidence <= 1 && boxes.items[i].class_id >= 0 && boxes.items[i].class_id < 5);
        mem_free(boxes.items);
        mem_free(heads[0].data);
    }
    eval_random_heads(heads, 5, 0, 4, 7);
    for (int k = 1; k <= 40; k++) { /* every allocation fails once: an error or a result, no leak */
        os_atomic_set(&mem_fail_after, k);
        yolo_status status = det_run(&net, heads, 0, &options, &boxes, NULL, NULL);
        os_atomic_set(&mem_fail_after, 0);
        CHECK(status == YOLO_OK || (status == YOLO_ERROR_MEMORY && !boxes.items));
        mem_free(boxes.items);
    }
    options.conf = 1;
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL, NULL) == YOLO_OK && boxes.count == 0);
    options.conf = 0;
    CHECK(det_run(&net, heads, 0, &options, &boxes, NULL, NULL) == YOLO_OK && boxes.count == 300);
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

/* Rows of case `which` in the flat arrays. */
static void eval_check_table(const yolo_metrics *m, const ref_array *table, int which) {
    CHECK_MSG(m->class_count == table->dims[0] - 1, "case %d: %d classes", which, m->class_count);
    for (int row = 0; row < table->dims[0] && row <= m->class_count; row++) {
        const float *e = table->data + row * 7;
        const yolo_class_metrics all = {-1, m->images, m->instances, m->precision, m->recall, m->map50, m->map50_95};
        const yolo_class_metrics *c = row ? &m->classes[row - 1] : &all;
        CHECK_MSG(c->class_id == (int)e[0] && c->images == (int)e[1] && c->instances == (int)e[2], "case %d row %d", which, row);
        CHECK_NEAR(c->precision, e[3], 1e-6);
        CHECK_NEAR(c->recall, e[4], 1e-6);
        CHECK_NEAR(c->map50, e[5], 1e-6);
        CHECK_NEAR(c->map50_95, e[6], 1e-6);
    }
}

/* Each 27th point. */
static void eval_check_curves(const ev_curve *curves, int count, const ref_array *expected, int which) {
    const float *e = expected->data;
    CHECK(expected->count == (int64_t)count * 4 * 38);
    for (int c = 0; c < count && expected->count == (int64_t)count * 4 * 38; c++)
        for (int kind = 0; kind < 4; kind++)
            for (int p = 0; p < EV_POINTS; p += 27, e++) {
                const double got[] = {curves[c].precision[p], curves[c].recall[p], curves[c].f1[p], curves[c].envelope[p]};
                CHECK_MSG(fabs(got[kind] - (double)*e) <= 1e-6, "case %d class %d curve %d at %d: %g, expected %g", which, c, kind, p, got[kind], (double)*e);
            }
}

static void eval_metrics_case(const ref_file *ref, int which) {
    const ref_array *counts = eval_get(ref, which, "counts"), *targets = eval_get(ref, which, "targets");
    const ref_array *predictions = eval_get(ref, which, "predictions"), *matched = eval_get(ref, which, "matched");
    const ref_array *cells = eval_get(ref, which, "matrix");
    ev_stats stats;
    ev_matrix matrix;
    ev_curve *curves = NULL;
    yolo_metrics metrics = {0};
    CHECK(ev_stats_init(&stats, eval_get(ref, which, "classes")->ints[0], NULL) == YOLO_OK);
    CHECK(ev_matrix_init(&matrix, stats.class_count, NULL) == YOLO_OK && matrix.side == cells->dims[0]);
    const float *t = targets->data, *p = predictions->data;
    for (int picture = 0; picture < counts->dims[0]; picture++) {
        loss_target truth[64];
        yolo_box items[64];
        yolo_boxes boxes = {items, counts->ints[picture * 2 + 1]};
        int truth_count = counts->ints[picture * 2];
        for (int i = 0; i < truth_count; i++, t += 5) truth[i] = (loss_target){(int)t[4], {t[0], t[1], t[2], t[3]}};
        for (int i = 0; i < boxes.count; i++, p += 6) items[i] = (yolo_box){p[0], p[1], p[2], p[3], p[4], (int)p[5]};
        CHECK(ev_add(&stats, &boxes, truth, truth_count, NULL) == YOLO_OK);
        CHECK(ev_matrix_add(&matrix, &boxes, truth, truth_count, 0.25f, NULL) == YOLO_OK);
    }
    CHECK(stats.count == matched->count);
    for (int64_t i = 0; i < stats.count && i < matched->count; i++)
        CHECK_MSG(stats.predictions[i].correct == (uint32_t)matched->ints[i], "case %d prediction %d: %x, expected %x", which, (int)i,
                  (unsigned)stats.predictions[i].correct, (unsigned)matched->ints[i]);
    CHECK(ev_summarise(&stats, &metrics, &curves, NULL) == YOLO_OK);
    eval_check_table(&metrics, eval_get(ref, which, "table"), which);
    eval_check_curves(curves, metrics.class_count, eval_get(ref, which, "curves"), which);
    CHECK_MSG(!memcmp(matrix.cells, cells->ints, (size_t)cells->count * sizeof *matrix.cells), "case %d: confusion matrix", which);
    mem_free(matrix.cells);
    mem_free(curves);
    yolo_metrics_free(&metrics);
    ev_stats_free(&stats);
}

static void test_metrics_reference(void) {
    static ref_file ref;
    if (!ref_open(&ref, "tests/fixtures/eval_ap.ref")) SKIP("no fixture");
    for (int t = 0; t < EV_LEVELS; t++) CHECK(ev_level(t) == ref_get(&ref, "levels")->data[t]);
    for (int which = 0; which < ref_get(&ref, "count")->ints[0]; which++) eval_metrics_case(&ref, which);
    ref_close(&ref);
}

/* ---- runs of a network that knows nothing, over drawn pictures of many shapes ---- */

enum { EVAL_PICTURES = 24, EVAL_DAMAGED = 5 };

typedef struct eval_run {
    char paths[EVAL_PICTURES][600];
    int64_t next;             /* index that `result` must bring */
    uint64_t hash;
    int damaged, worked;
    os_mutex mutex;
    int stop_at;              /* index at which `result` fails or interrupts; -1 = never */
    bool interrupt;
} eval_run;

static bool eval_pictures(eval_run *run) {
    rng r = {5, 0};
    bool good = true;
    for (int i = 0; i < EVAL_PICTURES; i++) {
        char name[64];
        yolo_image image = {NULL, 8 + (int)(rng_next(&r) % 90), 8 + (int)(rng_next(&r) % 90)};
        snprintf(name, sizeof name, "eval/images/%02d.png", i);
        snprintf(run->paths[i], sizeof run->paths[i], "%s", test_temp(name));
        char *folder = path_parent(run->paths[i]);
        good &= path_make_directories(folder, NULL) == YOLO_OK;
        mem_free(folder);
        image.pixels = mem_array((uint64_t)image.width * (uint64_t)image.height, 3);
        for (int k = 0; k < image.width * image.height * 3; k++) image.pixels[k] = (uint8_t)rng_next(&r);
        if (i == EVAL_DAMAGED) good &= path_write(run->paths[i], "no picture", 10, false, NULL) == YOLO_OK;
        else good &= yolo_image_write(&image, run->paths[i], NULL) == YOLO_OK;
        mem_free(image.pixels);
    }
    return good;
}

/* Where the run is to be interrupted, the last pictures are not loaded before: what is loaded is delivered. */
static const char *eval_path(void *user, int64_t index) {
    eval_run *run = user;
    for (int i = 0; i < 10000 && run->interrupt && index > EVAL_PICTURES - 6 && !err_interrupted(); i++) test_rest();
    return run->paths[index];
}

/* The first pictures take longest, so that the others overtake them wherever they can. */
static yolo_status eval_work(void *user, pipe_picture *picture, yolo_error *error) {
    eval_run *run = user;
    (void)error;
    double start = os_clock();
    while (picture->index % 8 == 0 && os_clock() - start < 0.03) os_spin_pause();
    picture->work_data = run->paths[picture->index];
    os_mutex_lock(&run->mutex);
    run->worked++;
    os_mutex_unlock(&run->mutex);
    return YOLO_OK;
}

static yolo_status eval_result(void *user, pipe_picture *picture, yolo_error *error) {
    eval_run *run = user;
    CHECK(picture->index == run->next && picture->work_data == run->paths[picture->index]);
    run->next++;
    run->damaged += picture->damage != NULL;
    for (int i = 0; i < picture->boxes.count; i++) {
        const yolo_box *b = &picture->boxes.items[i];
        CHECK(b->x1 >= 0 && b->y1 >= 0 && b->x2 <= (float)picture->width && b->y2 <= (float)picture->height && b->x1 <= b->x2 && b->y1 <= b->y2);
    }
    if (picture->boxes.count) run->hash = hash_bytes(picture->boxes.items, (size_t)picture->boxes.count * sizeof *picture->boxes.items, run->hash);
    if (picture->index != run->stop_at) return YOLO_OK;
    if (!run->interrupt) return err_set(error, YOLO_ERROR_IO, "the disk is full");
    yolo_interrupt();
    return YOLO_OK;
}

static yolo_model *eval_model(int threads) {
    yolo_open_options options = yolo_open_defaults();
    yolo_model *model = NULL;
    options.threads = threads;
    options.classes = 3;
    CHECK(yolo_model_open(&model, "yolov8n.yaml", options, NULL) == YOLO_OK);
    return model;
}

static yolo_status eval_run_pipe(eval_run *run, const yolo_model *model, int threads, yolo_error *error) {
    pipe_job job = {.net = &model->checkpoint.net, .weights = &model->weights, .pool = model->pool, .threads = threads, .count = EVAL_PICTURES,
                    .path = eval_path, .imgsz = 60, .rect = true, .detect = {.conf = 0.0001f, .iou = 0.7f, .max_det = 300},
                    .work = eval_work, .result = eval_result, .user = run};
    run->next = run->damaged = run->worked = 0;
    run->hash = 0;
    return pipe_run(&job, error);
}

static void test_pipe(void) {
    static eval_run run;
    yolo_error error;
    uint64_t hash = 0;
    run.stop_at = -1;
    CHECK(eval_pictures(&run));
    os_mutex_init(&run.mutex);
    yolo_model *model = eval_model(4);
    for (int threads = 1; model && threads <= 4; threads++) {
        CHECK(eval_run_pipe(&run, model, threads, &error) == YOLO_OK);
        CHECK(run.next == EVAL_PICTURES && run.worked == EVAL_PICTURES && run.damaged == 1);
        CHECK(threads == 1 || run.hash == hash);
        hash = run.hash;
    }
    run.stop_at = 9;
    for (int threads = 1; model && threads <= 3; threads += 2) {
        run.interrupt = false;
        CHECK(eval_run_pipe(&run, model, threads, &error) == YOLO_ERROR_IO && !strcmp(error.message, "the disk is full") && run.next == 10);
        run.interrupt = true;
        yolo_status status = eval_run_pipe(&run, model, threads, &error);
        yolo_interrupt_clear();
        CHECK(status == YOLO_ERROR_INTERRUPTED && run.next >= 10 && run.next < EVAL_PICTURES);
        CHECK_MSG(strstr(error.message, "of 24 pictures") != NULL, "%s", error.message);
    }
    yolo_model_close(model);
    os_mutex_destroy(&run.mutex);
}

static void test_predict_extremes(void) {
    static const int sizes[][2] = {{1, 1}, {65500, 10}, {3, 4000}, {64, 64}};
    yolo_error error;
    yolo_boxes boxes;
    yolo_model *model = eval_model(2);
    if (!model) return;
    for (int i = 0; i < YOLO_COUNT(sizes); i++) {
        yolo_image image = {mem_array((uint64_t)sizes[i][0] * (uint64_t)sizes[i][1], 3), sizes[i][0], sizes[i][1]};
        yolo_predict_options options = yolo_predict_defaults();
        options.imgsz = i == 2 ? 1 : 100;
        options.conf = 0;
        CHECK(yolo_predict(model, &image, options, &boxes, &error) == YOLO_OK);
        CHECK(boxes.count > 0);
        for (int k = 0; k < boxes.count; k++)
            CHECK(boxes.items[k].x1 >= 0 && boxes.items[k].x2 <= (float)image.width && boxes.items[k].y2 <= (float)image.height);
        yolo_boxes_free(&boxes);
        mem_free(image.pixels);
    }
    static const int three = 3;
    const yolo_predict_options good = yolo_predict_defaults();
    yolo_predict_options bad[] = {good, good, good, good, good, good};
    bad[0].imgsz = 0;
    bad[1].imgsz = 1 << 30;
    bad[2].conf = NAN;
    bad[3].iou = 1.5f;
    bad[4].max_det = 0;
    bad[5].classes = &three;
    bad[5].class_count = 1;
    uint8_t pixel[3] = {0};
    yolo_image image = {pixel, 1, 1};
    for (int i = 0; i < YOLO_COUNT(bad); i++)
        CHECK_MSG(yolo_predict(model, &image, bad[i], &boxes, &error) == YOLO_ERROR_USAGE && !boxes.items, "case %d", i);
    image.width = 0;
    CHECK(yolo_predict(model, &image, good, &boxes, &error) == YOLO_ERROR_USAGE);
    yolo_model_close(model);
}

/* Writes a data.yaml beside a list of pictures. */
static const char *eval_data(const char *name, const char *list, const char *names) {
    static char path[700];
    char file[64], text[700];
    str yaml = {0};
    snprintf(file, sizeof file, "eval/%s.txt", name);
    snprintf(text, sizeof text, "%s", test_temp(file));
    CHECK(path_write(text, list, strlen(list), false, NULL) == YOLO_OK);
    str_format(&yaml, "path: .\ntrain: %s.txt\nval: %s.txt\n%s\n", name, name, names);
    snprintf(file, sizeof file, "eval/%s.yaml", name);
    snprintf(path, sizeof path, "%s", test_temp(file));
    CHECK(path_write(path, yaml.text, (size_t)yaml.length, false, NULL) == YOLO_OK);
    str_free(&yaml);
    return path;
}

/* Draws the pictures with labels of classes 0 to 3 and gives a list of them. */
static void eval_labelled(str *list) {
    static eval_run run;
    char label[100], name[64], real[1024];
    CHECK(eval_pictures(&run));
    CHECK(path_make_directories(test_temp("eval/labels"), NULL) == YOLO_OK);
    for (int i = 0; i < EVAL_PICTURES; i++) {
        snprintf(name, sizeof name, "eval/labels/%02d.txt", i);
        snprintf(label, sizeof label, "%d 0.5 0.5 0.25 0.5\n%d 0.25 0.25 0.1 0.1\n", i % 4, i % 2);
        CHECK(path_write(test_temp(name), label, strlen(label), false, NULL) == YOLO_OK);
        CHECK(os_real_path(run.paths[i], real, sizeof real));
        str_format(list, "%s\n", real);
    }
}

/* Damaged pictures, labels of classes that the model does not know, one class, json; counts, not quality. */
static void test_val_counts(void) {
    yolo_error error;
    char json[600];
    str list = {0};
    eval_labelled(&list);
    yolo_model *model = eval_model(3); /* classes 0 to 2, so that six targets of class 3 are left out */
    yolo_metrics metrics;
    yolo_val_options options = yolo_val_defaults();
    options.data = eval_data("counts", list.text, "names: [a, b, c, d]");
    options.imgsz = 64;
    options.conf = 0;
    snprintf(json, sizeof json, "%s", test_temp("eval/predictions.json"));
    options.save_json = json;
    for (int single = 0; model && single < 2; single++) {
        options.single_cls = single;
        CHECK_MSG(yolo_val(model, options, &metrics, &error) == YOLO_OK, "%s", error.message);
        CHECK_MSG(metrics.images == 23 && metrics.damaged == 1 && metrics.instances == (single ? 46 : 40) && metrics.class_count == (single ? 1 : 3),
                  "%d pictures, %d instances of %d classes", metrics.images, metrics.instances, metrics.class_count);
        for (int c = 0; c < metrics.class_count; c++) CHECK(metrics.classes[c].class_id == c && metrics.classes[c].images <= metrics.classes[c].instances);
        yolo_metrics_free(&metrics);
    }
    uint8_t *bytes;
    size_t size;
    CHECK(path_read(json, 1 << 26, &bytes, &size, &error) == YOLO_OK && size > 1000 && bytes[0] == '[' && bytes[size - 2] == ']');
    mem_free(bytes);
    options.split = "nothing";
    CHECK(model && yolo_val(model, options, &metrics, &error) == YOLO_ERROR_USAGE);
    yolo_model_close(model);
    str_free(&list);
}

/* ---- looks of the trainer ---- */

typedef struct eval_look { int sheets, pictures, targets, boxes; uint64_t hash; } eval_look;

static void eval_sheet(void *user, const ev_sheet *sheet) {
    eval_look *look = user;
    CHECK(sheet->batch == look->sheets++ && sheet->count <= EV_SHEET);
    for (int i = 0; i < sheet->count; i++) {
        look->pictures++;
        look->targets += (int)sheet->target_counts[i];
        look->boxes += sheet->boxes[i].count;
        CHECK(sheet->paths[i] != NULL);
        for (int64_t k = 0; k < sheet->target_counts[i]; k++) {
            const float *b = sheet->targets[i][k].box;
            CHECK(b[0] >= 0 && b[1] >= 0 && b[0] < b[2] && b[1] < b[3] && b[2] <= (float)sheet->w && b[3] <= (float)sheet->h);
        }
    }
    look->hash = hash_bytes(sheet->pixels, (size_t)sheet->count * (size_t)sheet->w * (size_t)sheet->h * 3, look->hash);
}

typedef struct eval_check { data_set data; ev_set set; ev_outcome out; eval_look look; yolo_log log; } eval_check;

static bool eval_check_open(eval_check *check, const char *yaml, const yolo_model *model, const int *classes, int class_count) {
    yolo_error error;
    const data_list *list;
    const ev_labels labels = {.net_classes = model->checkpoint.net.class_count, .classes = classes, .class_count = class_count, .data_classes = 4};
    memset(check, 0, sizeof *check);
    bool good = data_open(&check->data, yaml, &error) == YOLO_OK && data_split(&check->data, "val", &list, &error) == YOLO_OK &&
                ev_set_open(&check->set, list, &labels, true, &check->log, &error) == YOLO_OK;
    CHECK_MSG(good, "%s", error.message);
    return good;
}

static yolo_status eval_check_run(eval_check *check, const yolo_model *model, const run_copies *weights, int threads, int batch, bool full) {
    const loss_gains gains = {7.5f, 0.5f, 1.5f};
    yolo_error error;
    const ev_extra extra = {full ? &gains : NULL, full, full ? eval_sheet : NULL, &check->look};
    yolo_val_options options = yolo_val_defaults();
    pipe_job job = {.net = &model->checkpoint.net, .weights = weights, .pool = model->pool, .threads = threads};
    options.imgsz = 64;
    options.batch = batch;
    options.conf = full ? options.conf : 0.3f;
    memset(&check->look, 0, sizeof check->look);
    return ev_check(&job, &check->set, &options, &extra, &check->out, &error);
}

static void eval_check_close(eval_check *check) {
    ev_outcome_free(&check->out);
    ev_set_close(&check->set);
    data_close(&check->data);
}

/* Every box above the confidence is in a row, every target in a column. */
static int eval_matrix_targets(const ev_matrix *matrix) {
    int targets = 0;
    for (int p = 0; p < matrix->side; p++)
        for (int t = 0; t < matrix->side - 1; t++) targets += matrix->cells[p * matrix->side + t];
    return targets;
}

static void test_check(void) {
    static eval_check check, again;
    static const int one = 1;
    str list = {0};
    eval_labelled(&list);
    const char *yaml = eval_data("check", list.text, "names: [a, b, c, d]");
    yolo_model *model = eval_model(3);
    if (!model || !eval_check_open(&check, yaml, model, NULL, 0)) return;
    CHECK(eval_check_run(&check, model, &model->weights, 3, 5, true) == YOLO_OK);
    CHECK(check.out.metrics.images == 23 && check.out.metrics.damaged == 1 && check.out.metrics.instances == 40 && check.out.metrics.class_count == 3);
    CHECK(check.look.sheets == 3 && check.look.pictures == 15 && check.look.targets > 15 && check.look.boxes > 0);
    const loss_parts *losses = &check.out.losses;
    CHECK_MSG(losses->box > 0 && losses->cls > 0 && losses->dfl > 0 && check.out.curves, "%g %g %g", losses->box, losses->cls, losses->dfl);
    CHECK(check.out.matrix.side == 4 && eval_matrix_targets(&check.out.matrix) == 40);
    CHECK(eval_check_open(&again, yaml, model, NULL, 0));
    for (int threads = 1; threads <= 2; threads++) { /* the same bits, the same set looked at twice */
        ev_outcome_free(&again.out);
        CHECK(eval_check_run(&again, model, &model->weights, threads, 5, true) == YOLO_OK);
        CHECK(!memcmp(&again.out.losses, &check.out.losses, sizeof check.out.losses) && again.look.hash == check.look.hash);
        CHECK(!memcmp(again.out.curves, check.out.curves, 3 * sizeof(ev_curve)));
        CHECK(!memcmp(again.out.matrix.cells, check.out.matrix.cells, 16 * sizeof(int32_t)));
    }
    eval_check_close(&again);
    ev_outcome_free(&check.out);
    uint64_t bytes, weights, lane;
    CHECK(ev_memory(&model->checkpoint.net, model->isa, run_cpu, 3, 16, &check.set, 64, &bytes, NULL) == YOLO_OK);
    CHECK(run_measure(&model->checkpoint.net, model->isa, run_cpu, 1, 96, 96, &weights, &lane, NULL) == YOLO_OK && bytes > weights + 3 * lane);
    run_lane *real = NULL;
    CHECK(run_lane_create(&real, model->weights.of[0], &model->checkpoint.net, NULL, 1, 96, 96, NULL) == YOLO_OK);
    if (real) CHECK(lane == (uint64_t)real->activation_floats * sizeof(float) + real->workspace_bytes);
    run_lane_destroy(real);
    CHECK(eval_check_run(&check, model, &model->weights, 2, 100, false) == YOLO_OK); /* nothing extra, one batch */
    CHECK(!check.out.curves && !check.out.matrix.cells && !check.look.sheets && check.out.losses.cls == 0 && check.out.fitness >= 0);
    eval_check_close(&check);
    CHECK(eval_check_open(&check, yaml, model, &one, 1)); /* class 1 only: 6 + 12 labels, less one picture's */
    CHECK(eval_check_run(&check, model, &model->weights, 2, 8, true) == YOLO_OK);
    CHECK_MSG(check.out.metrics.class_count == 1 && check.out.metrics.instances == 16, "%d", check.out.metrics.instances);
    eval_check_close(&check);
    yolo_model_close(model);
    str_free(&list);
}

/* New weights in the memory of the old ones; weights that are not numbers. */
static void test_check_refresh(void) {
    static eval_check check;
    yolo_error error;
    str list = {0};
    eval_labelled(&list);
    yolo_model *model = eval_model(2);
    if (!model || !eval_check_open(&check, eval_data("refresh", list.text, "names: [a, b, c, d]"), model, NULL, 0)) return;
    const net *net = &model->checkpoint.net;
    float *params = model->checkpoint.params;
    loss_parts losses[2];
    run_copies fresh = {0};
    for (int64_t i = 0; i < net->param_elements; i++) params[i] *= 1.1f;
    CHECK(run_copies_set(&fresh, net, params, model->isa, &model->places, 1, NULL, &error) == YOLO_OK);
    CHECK(run_weights_refresh(model->weights.of[0], params, model->pool, &error) == YOLO_OK);
    for (int which = 0; which < 2; which++) {
        CHECK(eval_check_run(&check, model, which ? &fresh : &model->weights, 2, 8, true) == YOLO_OK);
        losses[which] = check.out.losses;
        ev_outcome_free(&check.out);
    }
    CHECK(!memcmp(&losses[0], &losses[1], sizeof losses[0]));
    for (int64_t i = 0; i < net->param_elements; i++) params[i] = NAN;
    CHECK(run_weights_refresh(model->weights.of[0], params, model->pool, &error) == YOLO_OK);
    CHECK(eval_check_run(&check, model, &model->weights, 2, 8, true) == YOLO_OK);
    CHECK(check.out.fitness == 0 && isnan(check.out.losses.cls) && check.look.boxes == 0 && check.out.metrics.map50 == 0);
    CHECK(eval_matrix_targets(&check.out.matrix) == 40);
    run_copies_destroy(&fresh);
    eval_check_close(&check);
    yolo_model_close(model);
    str_free(&list);
}

/* Nothing to look at, nothing to find, nothing found; an interrupt. */
static void test_check_edges(void) {
    static eval_check check;
    static const int none = 3;
    char real[1024];
    str list = {0}, damaged = {0};
    eval_labelled(&list);
    yolo_model *model = eval_model(2);
    if (!model || !eval_check_open(&check, eval_data("edges", list.text, "names: [a, b, c, d]"), model, &none, 1)) return;
    CHECK(check.set.target_count == 0); /* all background */
    CHECK(eval_check_run(&check, model, &model->weights, 2, 8, true) == YOLO_OK);
    CHECK(check.out.fitness == 0 && check.out.metrics.class_count == 0 && check.out.losses.box == 0 && check.out.losses.cls > 0 && check.look.sheets == 3);
    CHECK(eval_matrix_targets(&check.out.matrix) == 0);
    eval_check_close(&check);
    CHECK(eval_check_open(&check, test_temp("eval/edges.yaml"), model, NULL, 0));
    CHECK(eval_check_run(&check, model, &model->weights, 2, 8, false) == YOLO_OK); /* conf 0.3 of random weights: no boxes */
    CHECK(check.out.metrics.map50 == 0 && check.out.metrics.class_count == 3 && check.out.metrics.images == 23);
    ev_outcome_free(&check.out);
    yolo_interrupt();
    CHECK(eval_check_run(&check, model, &model->weights, 2, 8, true) == YOLO_ERROR_INTERRUPTED);
    yolo_interrupt_clear();
    eval_check_close(&check);
    snprintf(real, sizeof real, "%s", test_temp("eval/broken.png")); /* a header that can be read, and nothing behind it */
    uint8_t *bytes;
    size_t size;
    CHECK(path_read(test_temp("eval/images/00.png"), 1 << 20, &bytes, &size, NULL) == YOLO_OK && path_write(real, bytes, 60, false, NULL) == YOLO_OK);
    mem_free(bytes);
    str_format(&damaged, "./broken.png\n./images/%02d.png\n", EVAL_DAMAGED);
    CHECK(eval_check_open(&check, eval_data("broken", damaged.text, "names: [a, b, c, d]"), model, NULL, 0));
    CHECK(check.set.count == 1 && check.set.damaged == 1);
    for (int epoch = 0; epoch < 2; epoch++) {
        CHECK(eval_check_run(&check, model, &model->weights, 2, 8, true) == YOLO_OK);
        CHECK(check.out.metrics.images == 0 && check.out.metrics.damaged == 2 && check.out.fitness == 0 && check.look.sheets == 1 && check.out.losses.cls == 0);
        ev_outcome_free(&check.out);
    }
    check.set.count = 0; /* no picture at all */
    CHECK(eval_check_run(&check, model, &model->weights, 2, 8, true) == YOLO_OK && check.out.fitness == 0 && check.out.metrics.images == 0);
    eval_check_close(&check);
    yolo_model_close(model);
    str_free(&list);
    str_free(&damaged);
}

/* The first 16 pictures of coco128 against what ultralytics 8.4.190 measures on them (batch 16, rect). */
static void test_val_coco(void) {
    yolo_error error;
    data_list pictures = {0};
    str list = {0}, names = {0};
    char real[1024];
    if (!test_shared("data/yolov8n-coco.pt")) SKIP("no shared/data/yolov8n-coco.pt");
    if (!test_shared("data/coco128/images")) SKIP("no shared/data/coco128");
    yolo_model *model = NULL;
    CHECK(yolo_model_open(&model, test_shared("data/yolov8n-coco.pt"), yolo_open_defaults(), &error) == YOLO_OK);
    CHECK(data_walk(test_shared("data/coco128/images"), &pictures, &error) == YOLO_OK && pictures.count == 128);
    for (int i = 0; i < 16 && i < pictures.count; i++) {
        CHECK(os_real_path(pictures.paths[i], real, sizeof real));
        str_format(&list, "%s\n", real);
    }
    str_add(&names, "names:\n");
    for (int c = 0; model && c < yolo_class_count(model); c++) str_format(&names, "  - %s\n", yolo_class_name(model, c));
    yolo_metrics metrics = {0};
    yolo_val_options options = yolo_val_defaults();
    options.data = eval_data("coco16", list.text, names.text);
    CHECK_MSG(model && yolo_val(model, options, &metrics, &error) == YOLO_OK, "%s", error.message);
    CHECK(metrics.images == 16 && metrics.instances == 72 && metrics.class_count == 21);
    CHECK_NEAR(metrics.precision, 0.64291, 0.02);
    CHECK_NEAR(metrics.recall, 0.80117, 0.02);
    CHECK_NEAR(metrics.map50, 0.85274, 0.005);
    CHECK_NEAR(metrics.map50_95, 0.71716, 0.005);
    yolo_metrics_free(&metrics);
    str_free(&names);
    str_free(&list);
    data_list_free(&pictures);
    yolo_model_close(model);
}

static const test_case tests_eval[] = {
    {"nms-reference", "decoding and suppression give ultralytics' boxes", test_nms_reference},
    {"raw-reference", "decoding gives the eval-mode output of ultralytics' head", test_raw_reference},
    {"nms-properties", "what suppression leaves; slices of wider tensors", test_nms_properties},
    {"nms-struck", "what each kept box suppressed", test_nms_struck},
    {"nms-damaged", "NaN, infinities, failing allocations", test_nms_damaged},
    {"nms-speed", "all anchors above the threshold", test_nms_speed},
    {"unletterbox", "back to pixels of the picture", test_unletterbox},
    {"metrics-reference", "matching, average precision, curves and confusion matrix are ultralytics'", test_metrics_reference},
    {"pipe", "in order, the same for any number of threads, damage, failure, interrupt", test_pipe},
    {"predict-extremes", "pictures of 1x1 and 65500x10; options out of range", test_predict_extremes},
    {"val-counts", "pictures, instances, damage, unknown classes, one class, json", test_val_counts},
    {"check", "the trainer's look: losses, curves, matrix, sheets; the same bits for any number of threads", test_check},
    {"check-refresh", "new weights in place; weights that are not numbers", test_check_refresh},
    {"check-edges", "no pictures, no labels, no predictions, damage, interrupt", test_check_edges},
    {"val-coco", "16 photographs within the tolerance of ultralytics' numbers", test_val_coco},
};
