/* gpu_label.c - pictures in, boxes out on a GPU: letterbox and suppression against their twins on the CPU, bit for bit; whole runs. */

/* ---- letterbox ---- */

static yolo_image label_picture(int width, int height) {
    yolo_image image = {mem_alloc((size_t)width * (size_t)height * 3), width, height};
    rng r = {.key = (uint64_t)(width * 10007 + height)};
    for (size_t i = 0; i < (size_t)width * (size_t)height * 3; i++) image.pixels[i] = (uint8_t)(rng_uniform(&r) * 256);
    return image;
}

/* Three pictures of one shape side by side, of which the middle one is looked at; `shift` moves its pixels by words. */
static void label_letterbox_check(const img_letterbox *plan, const yolo_image *image, int channels, int pixel, yg_type type) {
    enum { N = 3 };
    const size_t bytes = (size_t)image->width * (size_t)image->height * 3, room = (bytes + 3) / 4 * 4 + 16, count = (size_t)plan->height * (size_t)plan->width;
    float *want = mem_array(count * 3, sizeof *want);
    uint8_t *pixels = yg_alloc(gpu_device(), N * room);
    yg_letterbox letterboxes[N], *device = yg_alloc(gpu_device(), sizeof letterboxes);
    gpu_block out = gpu_tensor(N, plan->height, plan->width, channels, pixel, 0, type);
    size_t wrong = 0;
    for (int i = 0; i < N; i++) {
        letterboxes[i] = run_gpu_letterbox(plan, image->width, image->height, pixels + room * (size_t)i);
        yg_upload(gpu_device(), pixels + room * (size_t)i, image->pixels, bytes);
    }
    yg_upload(gpu_device(), device, letterboxes, sizeof letterboxes);
    yg_letterbox_run(gpu_device(), &out.t, device);
    gpu_finish();
    img_letterbox_run(plan, image, want);
    float *have = gpu_read(&out);
    for (size_t i = 0; i < N * count; i++)
        for (int c = 0; c < channels; c++) {
            const float should = c < 3 ? gpu_round(want[i % count * 3 + (size_t)c], type) : 0;
            wrong += memcmp(&have[i * (size_t)channels + (size_t)c], &should, sizeof should) != 0;
        }
    CHECK_MSG(wrong == 0, "%d x %d into %d x %d (%d x %d at %d, %d), %d channels of type %d: %zu numbers differ", image->width, image->height, plan->width,
              plan->height, plan->scaled_width, plan->scaled_height, plan->pad_left, plan->pad_top, channels, (int)type, wrong);
    gpu_free(&out);
    yg_free(gpu_device(), pixels);
    yg_free(gpu_device(), device);
    mem_free(want);
    mem_free(have);
}

/* Up, down, by exactly a half, as it is; one pixel, one row, one column; predict's letterboxes and validation's. */
static void test_gpu_label_letterbox(void) {
    static const int sizes[][3] = {{1, 1, 32}, {2, 1, 64}, {1, 7, 64}, {3, 500, 64}, {300, 2, 64}, {64, 64, 64}, {64, 40, 64}, {128, 128, 64}, {128, 96, 64},
                                   {128, 95, 64}, {127, 64, 64}, {33, 47, 96}, {97, 61, 96}, {500, 333, 160}, {640, 427, 64}, {59, 1000, 128}, {1920, 1080, 320}};
    for (int i = 0; i < YOLO_COUNT(sizes); i++) {
        const int imgsz = sizes[i][2];
        yolo_image image = label_picture(sizes[i][0], sizes[i][1]);
        const img_letterbox plans[] = {img_letterbox_plan(image.width, image.height, imgsz, true, 32), img_letterbox_plan(image.width, image.height, imgsz, false, 32),
                                       img_letterbox_plan_fixed(image.width, image.height, imgsz + 32, imgsz, false)};
        for (int k = 0; k < 3; k++) {
            label_letterbox_check(&plans[k], &image, 8, 8, k == 1 ? YG_F32 : YG_F16);
            if (imgsz <= 96) label_letterbox_check(&plans[k], &image, 3, 5, k == 1 ? YG_F16 : YG_F32);
            if (imgsz <= 64) label_letterbox_check(&plans[k], &image, 16, 24, YG_BF16);
        }
        yolo_image_free(&image);
    }
}

/* ---- suppression ---- */

/* Candidates crowded around some places, with few different scores when `ties`. */
static void label_candidates(nms_candidate *items, int count, int classes, bool ties, uint64_t seed) {
    rng r = {.key = seed};
    for (int i = 0; i < count; i++) {
        const float x = (float)(int)(rng_uniform(&r) * 8) * 60 + (float)rng_uniform(&r) * 20, y = (float)(int)(rng_uniform(&r) * 8) * 60 + (float)rng_uniform(&r) * 20;
        const float w = 10 + (float)rng_uniform(&r) * 40, h = ties && i % 7 == 0 ? 0 : 10 + (float)rng_uniform(&r) * 40, score = (float)rng_uniform(&r);
        items[i] = (nms_candidate){x, y, x + w, y + h, ties ? (float)(1 + (int)(score * 9)) / 16 : score, (int32_t)(rng_uniform(&r) * classes), i};
        if (ties && i % 5 == 1) { /* the same box again */
            const int32_t class_id = items[i].class_id;
            items[i] = items[i - 1];
            items[i].class_id = i % 2 ? class_id : items[i].class_id;
            items[i].order = i;
        }
    }
}

/* Suppression of pictures with these numbers of candidates, by room for `most` of each, against nms_run. */
static void label_nms_check(const int *counts, int pictures, int most, int classes, bool ties, det_options options) {
    yg_gpu *gpu = gpu_device();
    nms_candidate *items = mem_array((uint64_t)pictures * (uint64_t)most, sizeof *items);
    const size_t kept_bytes = (size_t)pictures * (size_t)options.max_det * sizeof *items;
    nms_candidate *kept = mem_alloc(kept_bytes), *candidates = yg_alloc(gpu, (size_t)pictures * (size_t)most * sizeof *items), *device_kept = yg_alloc(gpu, kept_bytes);
    int *device_counts = yg_alloc(gpu, (size_t)pictures * sizeof(int)), *device_found = yg_alloc(gpu, (size_t)pictures * sizeof(int)), found[16];
    void *workspace = yg_alloc(gpu, yg_nms_bytes(pictures, most));
    for (int i = 0; i < pictures; i++) label_candidates(items + (int64_t)i * most, YOLO_MIN(counts[i], most), classes, ties, (uint64_t)(counts[i] + 7 * i + 1));
    yg_upload(gpu, candidates, items, (size_t)pictures * (size_t)most * sizeof *items);
    yg_upload(gpu, device_counts, counts, (size_t)pictures * sizeof *counts);
    yg_nms(gpu, device_kept, device_found, candidates, device_counts, pictures, most, options.iou, options.max_det, options.agnostic, workspace);
    yg_download(gpu, kept, device_kept, kept_bytes);
    yg_download(gpu, found, device_found, (size_t)pictures * sizeof *found);
    gpu_finish();
    for (int i = 0; i < pictures; i++) {
        nms_list list = {.items = items + (int64_t)i * most, .count = counts[i]};
        yolo_boxes want = {0};
        int32_t *struck = NULL;
        int wrong = 0;
        if (counts[i] > most) {
            CHECK_MSG(found[i] == -1, "picture %d: %d", i, found[i]);
            continue;
        }
        if (list.count) CHECK(nms_run(&list, classes, &options, &want, &struck, NULL) == YOLO_OK);
        CHECK_MSG(found[i] == want.count, "%d candidates: %d are kept, expected %d", counts[i], found[i], want.count);
        for (int k = 0; k < YOLO_MIN(found[i], want.count); k++) {
            const nms_candidate *a = &kept[(int64_t)i * options.max_det + k];
            const yolo_box have = {a->x1, a->y1, a->x2, a->y2, a->score, a->class_id};
            wrong += memcmp(&have, &want.items[k], sizeof have) != 0 || a->order != struck[k];
        }
        CHECK_MSG(wrong == 0, "%d candidates: %d boxes differ, or what they suppressed", counts[i], wrong);
        mem_free(struck);
        yolo_boxes_free(&want);
    }
    void *const blocks[] = {candidates, device_kept, device_counts, device_found, workspace};
    for (int i = 0; i < YOLO_COUNT(blocks); i++) yg_free(gpu, blocks[i]);
    mem_free(items);
    mem_free(kept);
}

static void test_gpu_label_nms(void) {
    static const int counts[] = {0, 1, 31, 32, 33, 255, 256, 257, 700, 1500, 1600};
    for (int variant = 0; variant < 12; variant++) {
        const det_options options = {.iou = variant % 3 == 0 ? 0.7f : variant % 3 == 1 ? 0.3f : 0, .max_det = variant < 6 ? 300 : 5, .agnostic = variant % 2};
        label_nms_check(counts, YOLO_COUNT(counts), 1500, variant % 4 ? 80 : 3, variant % 5 < 3, options);
    }
}

/* As many as there may be, and all of them of one class. */
static void test_gpu_label_nms_many(void) {
    static const int counts[] = {YG_NMS_MOST, 12345};
    label_nms_check(counts, 2, YG_NMS_MOST, 80, true, (det_options){.iou = 0.7f, .max_det = 300});
    label_nms_check(counts + 1, 1, YG_NMS_MOST, 1, false, (det_options){.iou = 0.9f, .max_det = 1000});
}

static void test_gpu_label_refused(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_nms(gpu, NULL, NULL, NULL, NULL, 1, YG_NMS_MOST + 1, 0.7f, 300, false, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0 && strstr(reason, "30001 candidates"));
    yg_close(gpu);
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_letterbox_run(gpu, &(yg_ten){.n = 1, .h = 32, .w = 32, .c = 2}, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0 && strstr(reason, "2 channels"));
    yg_close(gpu);
}

/* ---- pictures in, boxes out ---- */

enum { LABEL_PICTURES = 27, LABEL_LARGE = 22 };

/* What a run over the folder told. */
typedef struct label_run {
    yolo_boxes boxes[LABEL_PICTURES];
    int damaged, count;
    uint64_t hash;
} label_run;

/* Shapes in the picture's size: wide and tall alternate, one of each is rare, one is large; two files are damaged. */
static bool label_folder(char *folder, size_t size) {
    static const int sizes[][2] = {{160, 120}, {120, 160}, {160, 120}, {61, 97}, {160, 160}, {120, 160}, {160, 120}, {301, 203}};
    yolo_error error = {0};
    yolo_image drawn = {0};
    char path[900];
    snprintf(folder, size, "%s", test_temp("gpu_label"));
    snprintf(path, sizeof path, "%s/drawn", folder);
    bool good = path_make_directories(path, &error) == YOLO_OK && demo_draw(path, 4, 0, 4, &error) == YOLO_OK;
    for (int i = 0; i < LABEL_PICTURES && good; i++) {
        const int *wanted = i == LABEL_LARGE ? (const int[]){1500, 1100} : sizes[i % YOLO_COUNT(sizes)];
        yolo_image image = {mem_alloc((size_t)wanted[0] * (size_t)wanted[1] * 3), wanted[0], wanted[1]};
        snprintf(path, sizeof path, "%s/drawn/%05d.jpg", folder, i % 4);
        good = codec_read(path, &drawn, &error) == YOLO_OK;
        if (good) img_resize(&drawn, image.width, image.height, image.pixels, (size_t)image.width * 3);
        snprintf(path, sizeof path, "%s/%02d.png", folder, i);
        if (good) good = i == 5 || i == 11 ? path_write(path, "no picture", 10, false, &error) == YOLO_OK : codec_write(path, &image, &error) == YOLO_OK;
        yolo_image_free(&drawn);
        yolo_image_free(&image);
    }
    snprintf(path, sizeof path, "%s/*.png", folder);
    snprintf(folder, size, "%s", path);
    CHECK_MSG(good, "%s", error.message);
    return good;
}

static void label_see(void *user, const yolo_label_picture *picture) {
    label_run *run = user;
    CHECK(picture->index == run->count && picture->index < LABEL_PICTURES);
    run->count++;
    run->damaged += picture->damage != NULL;
    const size_t count = (size_t)picture->boxes->count;
    yolo_box *items = run->boxes[picture->index].items = mem_array(count + 1, sizeof *items);
    run->boxes[picture->index].count = (int)count;
    if (count) memcpy(items, picture->boxes->items, count * sizeof *items);
    run->hash = hash_bytes(items, count * sizeof *items, run->hash);
}

static void label_free(label_run *run) {
    for (int i = 0; i < LABEL_PICTURES; i++) yolo_boxes_free(&run->boxes[i]);
    memset(run, 0, sizeof *run);
}

/* Labels what `source` names. */
static yolo_status label_go(label_run *run, const char *source, const char *device, bool half, int threads, yolo_error *error) {
    yolo_open_options open = yolo_open_defaults();
    yolo_label_options options = yolo_label_defaults();
    yolo_label_report report = {0};
    yolo_model *model = NULL;
    memset(run, 0, sizeof *run);
    open.device = device;
    open.half = half;
    open.threads = threads;
    options.source = source;
    options.out = test_temp("gpu_label_out");
    options.existing = YOLO_EXISTING_REPLACE;
    options.predict.imgsz = 96;
    options.on_picture = label_see;
    options.user = run;
    yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, error);
    if (status == YOLO_OK) status = yolo_label(model, options, &report, error);
    yolo_label_report_free(&report);
    yolo_model_close(model);
    return status;
}

static void label_good(label_run *run, const char *source, const char *device, bool half, int threads) {
    yolo_error error = {0};
    const yolo_status status = label_go(run, source, device, half, threads, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
}

/* The boxes of each picture are those of the other run. */
static void label_same(const char *what, const label_run *have, const label_run *want, float pixels, float confidence) {
    char text[64];
    int boxes = 0;
    CHECK_MSG(have->count == want->count && have->damaged == want->damaged, "%s: %d pictures, %d damaged", what, have->count, have->damaged);
    for (int i = 0; i < have->count; i++) {
        const float larger = i == LABEL_LARGE ? 10 : 2; /* the picture's pixels for one of the network's */
        snprintf(text, sizeof text, "%s, picture %d", what, i);
        boxes += want->boxes[i].count;
        if (want->boxes[i].count || have->boxes[i].count) gpu_step_same_boxes(text, have->boxes[i], want->boxes[i], pixels * larger, confidence);
    }
    CHECK_MSG(boxes > LABEL_PICTURES, "%s: %d boxes", what, boxes);
}

/* Mixed shapes, damaged files in the middle, batches that are not full: as on the CPU; the same bits for any number of threads, and
   when work is only done once it is waited for. */
static void test_gpu_label_folder(void) {
    static label_run want, have, again;
    char source[900];
    if (!label_folder(source, sizeof source)) return;
    label_good(&want, source, "cpu", false, 2);
    CHECK(want.count == LABEL_PICTURES && want.damaged == 2);
    label_good(&have, source, "0", false, 1);
    label_same("float", &have, &want, 0.01f, 1e-4f);
#ifdef TEST_EMULATED
    emulate_set_lazy(1);
#endif
    label_good(&again, source, "0", false, 3);
    CHECK_MSG(again.hash == have.hash && again.count == have.count, "other threads give other bits");
    label_free(&again);
#ifdef TEST_EMULATED
    emulate_set_device_count(3);
    label_good(&again, source, "2,0,1", false, 2);
    CHECK_MSG(again.hash == have.hash && again.count == have.count, "three GPUs give other bits");
    label_free(&again);
    emulate_set_device_count(2);
    emulate_set_lazy(0);
#endif
    label_free(&have);
    label_good(&have, source, "0", true, 2);
    label_same("fp16", &have, &want, 0.5f, 2e-2f);
    label_free(&have);
    label_free(&want);
}

/* A word of a line of review.csv, as a number and as text. */
static const char *label_word(const char **line, double *number) {
    static char word[2][300];
    static int turn;
    char *to = word[turn ^= 1];
    const size_t length = strcspn(*line, ",\n");
    snprintf(to, sizeof word[0], "%.*s", (int)length, *line);
    *number = atof(to);
    *line += length + ((*line)[length] == ',');
    return to;
}

/* The list of what is to be reviewed; its lines. */
static int label_review(char *text, size_t size, const char *source, const char *device) {
    yolo_open_options open = yolo_open_defaults();
    yolo_label_options options = yolo_label_defaults();
    yolo_label_report report = {0};
    yolo_model *model = NULL;
    yolo_error error = {0};
    uint8_t *bytes = NULL;
    size_t length = 0;
    char path[900];
    int lines = 0;
    open.device = device;
    open.half = false;
    options.source = source;
    options.out = test_temp("gpu_label_out");
    options.save_labels = false;
    options.predict.imgsz = 160;
    options.predict.iou = options.predict.conf = 0.05f;
    options.predict.agnostic_nms = true;
    options.review = true;
    snprintf(path, sizeof path, "%s/review.csv", options.out);
    yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, &error);
    if (status == YOLO_OK) status = yolo_label(model, options, &report, &error);
    if (status == YOLO_OK) status = path_read(path, size - 1, &bytes, &length, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    snprintf(text, size, "%.*s", (int)length, bytes ? (char *)bytes : "");
    for (const char *p = text; *p; p++) lines += *p == '\n';
    mem_free(bytes);
    yolo_label_report_free(&report);
    yolo_model_close(model);
    return lines;
}

/* The same pictures for the same reasons in the same order, whatever found the boxes. */
static void test_gpu_label_review(void) {
    static char want[65536], have[65536];
    char source[900];
    if (!label_folder(source, sizeof source)) return;
    memcpy(strrchr(source, '/'), "/0?.png", sizeof "/0?.png"); /* the first ten */
    const int lines = label_review(want, sizeof want, source, "cpu");
    const char *a = want, *b = have;
    int crowded = 0;
    CHECK_MSG(label_review(have, sizeof have, source, "0") == lines && lines > 5, "%d lines", lines);
    for (int i = 0; i < lines && *a && *b; i++, a += *a == '\n', b += *b == '\n')
        for (int field = 0; field < 8; field++) {
            double x, y;
            const char *said = label_word(&a, &x);
            crowded += field == 1 && strstr(said, "many boxes suppressed");
            const char *same = label_word(&b, &y);
            CHECK_MSG(!strcmp(said, same) || (field != 1 && field != 2 && fabs(x - y) < 1e-3), "line %d: %s, expected %s", i + 1, same, said);
        }
    CHECK_MSG(crowded > 1, "%d pictures are crowded", crowded);
}

/* A single picture; the same with others beside it. */
static void test_gpu_label_one(void) {
    static label_run want, have;
    char source[900], one[900];
    if (!label_folder(source, sizeof source)) return;
    snprintf(one, sizeof one, "%.*s/%d.png", (int)(path_name(source) - source - 1), source, LABEL_LARGE);
    label_good(&want, one, "cpu", false, 1);
    label_good(&have, one, "0", false, 2);
    CHECK(want.count == 1 && have.count == 1);
    gpu_step_same_boxes("one", have.boxes[0], want.boxes[0], 0.1f, 1e-4f);
    label_free(&have);
    label_free(&want);
}

/* A model on a place, for what asks the pipeline itself. */
static yolo_model *label_model(const char *device) {
    yolo_open_options open = yolo_open_defaults();
    yolo_model *model = NULL;
    yolo_error error = {0};
    open.device = device;
    open.half = false;
    open.threads = 2;
    const yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    return model;
}

/* Boxes of drawn pictures in one pass, as det_run finds them in the heads. */
static void label_batch_check(yolo_model *model, int count, int imgsz, det_options detect, bool crowded) {
    char path[900];
    yolo_error error = {0};
    pipe_picture pictures[4] = {{0}}, *list[4];
    const pipe_job job = {.net = &model->checkpoint.net, .weights = &model->weights, .detect = detect, .network_boxes = true};
    const yg_candidate *found;
    run_lane *lane = NULL;
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/drawn/%05d.jpg", test_temp("gpu_label"), 3 - i);
        CHECK(codec_read(path, &pictures[i].image, &error) == YOLO_OK);
        pictures[i].width = pictures[i].image.width;
        pictures[i].height = pictures[i].image.height;
        pictures[i].letterbox = img_letterbox_plan(pictures[i].width, pictures[i].height, imgsz, false, 32);
        list[i] = &pictures[i];
    }
    yolo_status status = run_lane_create_seeing(&lane, model->weights.of[0], job.net, NULL, &detect, count, imgsz, imgsz, &error);
    if (status == YOLO_OK) status = pipe_infer(lane, &job, list, count, &error);
    if (status == YOLO_OK) status = run_gpu_fetch_heads(lane, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    for (int i = 0; i < count && status == YOLO_OK; i++) {
        ten heads[NET_MAX_LEVELS];
        yolo_boxes want = {0};
        for (int level = 0; level < job.net->level_count; level++) heads[level] = run_lane_head(lane, level);
        CHECK(det_run(job.net, heads, i, &detect, &want, NULL, &error) == YOLO_OK && want.count > 0);
        CHECK_MSG((run_gpu_found(lane, i, &found) < 0) == crowded, "picture %d: %d", i, run_gpu_found(lane, i, &found));
        gpu_step_same_boxes("batch", pictures[i].boxes, want, 1e-3f, 1e-6f);
        yolo_boxes_free(&want);
        yolo_boxes_free(&pictures[i].boxes);
        yolo_image_free(&pictures[i].image);
    }
    run_lane_destroy(lane);
}

/* Options of predict and of validation; more candidates than there is room for, so that the heads have to tell. */
static void test_gpu_label_batch(void) {
    static const int wanted[] = {1, 3, 4};
    char source[900];
    yolo_model *model = label_folder(source, sizeof source) ? label_model("0") : NULL;
    if (!model) return;
    label_batch_check(model, 3, 96, (det_options){.conf = 0.25f, .iou = 0.7f, .max_det = 300}, false);
    label_batch_check(model, 3, 96, (det_options){.conf = 0.001f, .iou = 0.7f, .max_det = 300, .multi_label = true}, false);
    label_batch_check(model, 2, 64, (det_options){.conf = 0.1f, .iou = 0.2f, .max_det = 2, .agnostic = true}, false);
    label_batch_check(model, 3, 96, (det_options){.conf = 0.1f, .iou = 0.7f, .max_det = 300, .multi_label = true, .classes = wanted, .class_count = 3}, false);
    label_batch_check(model, 1, 640, (det_options){.conf = 0, .iou = 0.7f, .max_det = 20, .multi_label = true}, true);
    yolo_model_close(model);
}

static void test_gpu_label_predict(void) {
    yolo_model *model = label_model("0");
    yolo_boxes first = {0}, boxes = {0};
    yolo_image image = label_picture(90, 70);
    yolo_predict_options options = yolo_predict_defaults();
    options.imgsz = 64;
    options.conf = 0.01f;
    for (int i = 0; model && i < 4; i++) { /* done, recorded, replayed */
        CHECK(yolo_predict(model, &image, options, i ? &boxes : &first, NULL) == YOLO_OK);
        if (!i) continue;
        CHECK(boxes.count == first.count && !memcmp(boxes.items, first.items, (size_t)boxes.count * sizeof *boxes.items));
        yolo_boxes_free(&boxes);
    }
    CHECK_MSG(first.count > 0, "no boxes");
    options.max_det = first.count - 1; /* what was recorded is not replayed */
    if (model) CHECK(yolo_predict(model, &image, options, &boxes, NULL) == YOLO_OK && boxes.count == first.count - 1);
    yolo_boxes_free(&boxes);
    yolo_boxes_free(&first);
    yolo_image_free(&image);
    yolo_model_close(model);
}

#ifdef TEST_EMULATED
/* So little memory that batches are smaller; then so little that nothing runs. */
static void test_gpu_label_memory(void) {
    static label_run want, have;
    char source[900];
    yolo_error error = {0};
    if (!label_folder(source, sizeof source)) return;
    label_good(&want, source, "0", false, 2);
    const size_t used = emulate_allocated(0);
    emulate_set_memory(used + (220 << 20));
    yolo_model *model = label_model("0");
    if (model) {
        const pipe_job job = {.net = &model->checkpoint.net, .weights = &model->weights, .count = LABEL_PICTURES, .imgsz = 96};
        const int batch = pipe_fitting_batch(&job);
        CHECK_MSG(batch > 1 && batch < PIPE_BATCH, "a batch of %d", batch);
    }
    yolo_model_close(model);
    label_good(&have, source, "0", false, 2);
    label_same("small memory", &have, &want, 0.01f, 1e-4f);
    label_free(&have);
    emulate_set_memory(used + (100 << 20));
    CHECK_MSG(label_go(&have, source, "0", false, 2, &error) == YOLO_ERROR_MEMORY && strstr(error.message, "memory"), "%s", error.message);
    emulate_set_memory((size_t)2 << 30);
    label_free(&have);
    label_free(&want);
}

/* What there is on all devices. */
typedef struct label_held { size_t bytes[4]; int handles; } label_held;
static label_held label_hold(void) {
    return (label_held){{emulate_allocated(0), emulate_allocated(1), emulate_allocated(2), emulate_allocated(-1)}, emulate_handles()};
}

static void label_check_held(const label_held *before, const char *what) {
    const label_held now = label_hold();
    CHECK_MSG(!memcmp(now.bytes, before->bytes, sizeof now.bytes) && now.handles == before->handles, "%s: something is left", what);
}

/* Every call of CUDA fails once, or it and all that come after it: a sentence, nothing left on any device. */
static void label_faults(const char *device, bool for_good, int step) {
    static label_run run;
    char source[900], what[64];
    int told = 0;
    if (!label_folder(source, sizeof source)) return;
    const label_held before = label_hold();
    for (int64_t n = 1; n < 100000; n += 1 + n * step / 2) {
        yolo_error error = {0};
        snprintf(what, sizeof what, "device=%s, call %d", device, (int)n);
        emulate_fail_after(n);
        if (for_good) emulate_fail_with(0, true);
        const yolo_status status = label_go(&run, source, device, true, 2, &error);
        const bool failed = emulate_failed();
        emulate_fail_after(0);
        label_free(&run);
        if (!for_good) label_check_held(&before, what);
        if (!failed) break;
        told += status != YOLO_OK;
        CHECK_MSG(status == YOLO_OK || error.message[0], "%s: %d without a sentence", what, status);
    }
    CHECK(told > 5);
}

static void test_gpu_label_faults(void) {
    label_faults("0", false, 1);
    label_faults("1,0", false, 3);
    label_faults("0,1", true, 3);
}

/* ---- pictures shared out over three GPUs ---- */

enum { LABEL_GPUS = 3 };
static os_atomic label_begun[LABEL_GPUS]; /* batches */
static int label_fatal;                   /* the GPU whose second batch fails; -1 = none */

/* Each GPU's first batch is begun before any is done. */
static yolo_status label_meet(int rank, yolo_error *error) {
    const double start = os_clock();
    const long batch = os_atomic_add(&label_begun[rank], 1) + 1;
    bool all = false;
    while (!all && os_clock() - start < 60) {
        all = true;
        for (int r = 0; r < LABEL_GPUS; r++) all &= os_atomic_get(&label_begun[r]) > (label_fatal == r && rank != r && batch > 1);
        if (!all) test_rest();
    }
    if (!all) return err_set(error, YOLO_ERROR_DEVICE, "a GPU has nothing to do");
    return rank == label_fatal && batch == 2 ? err_set(error, YOLO_ERROR_DEVICE, "GPU %d: lost", rank) : YOLO_OK;
}

typedef struct label_list { char paths[LABEL_PICTURES][900]; uint64_t hash; int count; } label_list;

static const char *label_path(void *user, int64_t index) { return ((label_list *)user)->paths[index]; }

static yolo_status label_result(void *user, pipe_picture *picture, yolo_error *error) {
    label_list *list = user;
    (void)error;
    CHECK(picture->index == list->count++);
    if (picture->boxes.count) list->hash = hash_bytes(picture->boxes.items, (size_t)picture->boxes.count * sizeof *picture->boxes.items, list->hash);
    return YOLO_OK;
}

/* The folder in batches of 4, all GPUs at work. */
static yolo_status label_share(const char *device, int fatal, uint64_t *hash, yolo_error *error) {
    static label_list list;
    char source[900];
    yolo_model *model = label_folder(source, sizeof source) ? label_model(device) : NULL;
    if (!model) return YOLO_ERROR_IO;
    for (int i = 0; i < LABEL_PICTURES; i++) snprintf(list.paths[i], sizeof list.paths[i], "%.*s/%02d.png", (int)(path_name(source) - source - 1), source, i);
    const pipe_job job = {.net = &model->checkpoint.net, .weights = &model->weights, .threads = 2, .batch = 4, .count = LABEL_PICTURES, .path = label_path,
                          .imgsz = 64, .rect = true, .detect = {.conf = 0.1f, .iou = 0.7f, .max_det = 100}, .result = label_result, .user = &list};
    list.hash = 0;
    list.count = 0;
    for (int r = 0; r < LABEL_GPUS; r++) os_atomic_set(&label_begun[r], 0);
    label_fatal = fatal;
    pipe_test_visit = model->weights.count == LABEL_GPUS ? label_meet : NULL;
    const yolo_status status = pipe_run(&job, error);
    pipe_test_visit = NULL;
    CHECK(status != YOLO_OK || list.count == LABEL_PICTURES);
    *hash = list.hash;
    yolo_model_close(model);
    return status;
}

/* Three GPUs find what one finds, to the bit, with all at work; one that fails is named, and all is given back. */
static void test_gpu_label_share(void) {
    uint64_t want = 0, have = 0;
    yolo_error error = {0};
    CHECK_MSG(label_share("0", -1, &want, &error) == YOLO_OK && want, "%s", error.message);
    emulate_set_device_count(LABEL_GPUS);
    const label_held before = label_hold();
    emulate_set_lazy(2);
    CHECK_MSG(label_share("auto", -1, &have, &error) == YOLO_OK && have == want, "%s", error.message);
    emulate_set_lazy(0);
    CHECK(label_share("0,1,2", 1, &have, &error) == YOLO_ERROR_DEVICE);
    CHECK_MSG(!strcmp(error.message, "rank 1 of 3: GPU 1: lost"), "%s", error.message);
    label_check_held(&before, "a GPU that is lost");
    emulate_set_device_count(2);
}

/* One GPU has less memory than the other: all take the batch that there is room for on it; where it has none, it is named. */
static void test_gpu_label_uneven(void) {
    yg_gpu *gpu = NULL;
    char reason[256];
    yolo_error error = {0};
    yolo_model *model = label_model("0,1");
    if (!model) return;
    const pipe_job job = {.net = &model->checkpoint.net, .weights = &model->weights, .count = 4 * PIPE_BATCH, .imgsz = 640};
    const int whole = pipe_fitting_batch(&job);
    CHECK(yg_open(&gpu, 1, reason, sizeof reason) == 0);
    void *taken = yg_alloc(gpu, ((size_t)1 << 30) + ((size_t)500 << 20));
    const int less = pipe_fitting_batch(&job);
    CHECK_MSG(taken && less < whole && less == pipe_fitting_batch_of(&job, 1, whole) && pipe_fitting_batch_of(&job, 0, whole) == whole, "batches of %d, %d", whole, less);
    yolo_model_close(model);
    void *rest = yg_alloc(gpu, ((size_t)450 << 20));
    yolo_open_options open = yolo_open_defaults();
    open.device = "0,1";
    CHECK(rest && yolo_model_open(&model, "yolov8s.yaml", open, &error) == YOLO_ERROR_MEMORY);
    CHECK_MSG(!strncmp(error.message, "rank 1 of 2: GPU 1: ", 20), "%s", error.message);
    open.ranks = 3;
    CHECK(yolo_model_open(&model, "yolov8n.yaml", open, &error) == YOLO_ERROR_USAGE && strstr(error.message, "3 ranks on 2 GPUs"));
    yg_free(gpu, taken);
    yg_free(gpu, rest);
    yg_close(gpu);
}

/* Validation by one GPU and by three. */
static void test_gpu_label_val(void) {
    char source[900], yaml[900], text[1200];
    yolo_metrics metrics[2] = {{0}};
    yolo_error error = {0};
    if (!label_folder(source, sizeof source)) return;
    snprintf(yaml, sizeof yaml, "%s/drawn/data.yaml", test_temp("gpu_label"));
    int length = snprintf(text, sizeof text, "train: .\nval: .\nnames:\n");
    for (int i = 0; i < DEMO_KINDS; i++) length += snprintf(text + length, sizeof text - (size_t)length, "  %d: %s\n", i, demo_names[i]);
    CHECK(path_write(yaml, text, (size_t)length, false, &error) == YOLO_OK);
    emulate_set_device_count(3);
    for (int i = 0; i < 2; i++) {
        yolo_model *model = label_model(i ? "auto" : "1");
        yolo_val_options options = yolo_val_defaults();
        options.data = yaml;
        options.imgsz = 96;
        options.batch = 1;
        CHECK(model && model->weights.count == (i ? 3 : 1));
        CHECK_MSG(yolo_val(model, options, &metrics[i], &error) == YOLO_OK && metrics[i].images == 4, "%s", error.message);
        yolo_model_close(model);
    }
    CHECK_MSG(metrics[0].map50 > 0.1 && metrics[0].map50 == metrics[1].map50 && metrics[0].map50_95 == metrics[1].map50_95, "mAP50 %g, %g", metrics[0].map50, metrics[1].map50);
    for (int i = 0; i < 2; i++) yolo_metrics_free(&metrics[i]);
    emulate_set_device_count(2);
}
#endif

static const test_case tests_gpu_label[] = {
    {"letterbox", "the network's input, bit for bit img_letterbox_run's", test_gpu_label_letterbox},
    {"nms", "what is kept, bit for bit nms_run's; ties, room, max_det", test_gpu_label_nms},
    {"nms_many", "30,000 candidates", test_gpu_label_nms_many},
    {"refused", "too many candidates, too few channels", test_gpu_label_refused},
    {"folder", "mixed shapes, damaged files, remainders: boxes as on the CPU, the same bits for any threads", test_gpu_label_folder},
    {"review", "the list of what is to be reviewed, as on the CPU", test_gpu_label_review},
    {"one", "a single picture", test_gpu_label_one},
    {"batch", "boxes of a batch as det_run finds them in its heads, also more than there is room for", test_gpu_label_batch},
    {"predict", "one picture again and again, recorded and replayed", test_gpu_label_predict},
#ifdef TEST_EMULATED
    {"memory", "batches shrink to what the device has; a sentence when nothing fits", test_gpu_label_memory},
    {"faults", "calls that fail: a sentence, nothing left behind", test_gpu_label_faults},
    {"share", "three GPUs find what one finds; one that is lost is named", test_gpu_label_share},
    {"uneven", "GPUs of other sizes: one batch for all; a GPU that is full is named", test_gpu_label_uneven},
    {"val", "three GPUs measure what one measures", test_gpu_label_val},
#endif
};
