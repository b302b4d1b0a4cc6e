/* train_common.c - small trainings, for test_train.c and gpu_step.c. */

/* A small drawn data set, made once; its data.yaml. */
static const char *test_train_data(void) {
    static char yaml[600];
    yolo_error error;
    if (*yaml) return yaml;
    char train[600], val[600], text[2000];
    snprintf(train, sizeof train, "%s/images/train", test_temp("train_data"));
    snprintf(val, sizeof val, "%s/images/val", test_temp("train_data"));
    if (path_make_directories(train, &error) != YOLO_OK || path_make_directories(val, &error) != YOLO_OK ||
        demo_draw(train, 1, 0, 10, &error) != YOLO_OK || demo_draw(val, 1, 10, 4, &error) != YOLO_OK) return NULL;
    snprintf(yaml, sizeof yaml, "%s/data.yaml", test_temp("train_data"));
    int length = snprintf(text, sizeof text, "path: %s\ntrain: images/train\nval: images/val\nnames:\n", test_temp("train_data"));
    for (int i = 0; i < DEMO_KINDS; i++) length += snprintf(text + length, sizeof text - (size_t)length, "  %d: %s\n", i, demo_names[i]);
    return path_write(yaml, text, (size_t)length, false, &error) == YOLO_OK ? yaml : NULL;
}

static yolo_train_options test_train_small(const char *name, int threads) {
    yolo_train_options o = tr_defaults();
    o.model = "yolov8n.yaml";
    o.data = test_train_data();
    o.epochs = 3;
    o.imgsz = 64;
    o.batch = 4;
    o.nbs = 8;
    o.project = test_temp("train_runs");
    o.name = name;
    o.exist_ok = true;
    o.plots = false;
    o.threads = threads;
    o.workers = threads;
    o.warmup_epochs = 1;
    o.close_mosaic = 1;
    o.optimizer = "SGD";
    return o;
}

/* Hash of all that a run leaves in last.pt: the average, weights, moments and gradients that wait. */
static uint64_t test_train_hash(const yolo_train_report *report) {
    char path[1100];
    pt_model model;
    yolo_error error;
    snprintf(path, sizeof path, "%s/weights/last.pt", report->folder);
    if (pt_read(path, &model, &error) != YOLO_OK || !model.state) return 0;
    uint64_t hash = hash_bytes(model.params, (size_t)model.net.param_elements * 4, 1);
    for (int i = 0; i < model.state->block_count; i++)
        hash = hash_bytes(model.state->blocks[i].data, (size_t)model.state->blocks[i].count * 4, hash);
    pt_free(&model);
    return hash;
}

typedef struct test_train_ear { const char *wanted; int interrupt_at, heads; bool heard; char last[2048]; } test_train_ear;

static void test_train_listen(void *user, yolo_log_level level, const char *text) {
    test_train_ear *ear = user;
    (void)level;
    if (ear->wanted && strstr(text, ear->wanted)) ear->heard = true;
    if (strstr(text, "box_loss") && ++ear->heads == ear->interrupt_at) yolo_interrupt();
    snprintf(ear->last, sizeof ear->last, "%s", text);
}

/* A training on one place. */
static yolo_status tr_train(const yolo_train_options *options, op_isa isa, run_place place, yolo_train_report *report, yolo_error *error) {
    run_places places = {{place}, 1};
    return tr_train_all(options, isa, &places, report, error);
}

/* One place that device= names. */
static yolo_status dev_place(const char *device, bool half, run_place *place, yolo_error *error) {
    run_places places;
    const yolo_status status = dev_places(device, half, 1, &places, error);
    *place = places.items[0];
    return status;
}
