/* Fault injection: every call runs with its first allocation failing, then its second, ... until it succeeds. Each failure
   must come back as a status with a sentence, and leave nothing behind (the leak check at the end of the ASan run). */

static const char faults_net[] =
    "nc: 2\nscales:\n  n: [0.33, 0.0625, 1024]\n"
    "backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, Conv, [128, 3, 2]]\n  - [-1, 3, C2f, [128, True]]\n"
    "  - [-1, 1, Conv, [256, 3, 2]]\n  - [-1, 1, SPPF, [256, 5]]\nhead:\n  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]\n"
    "  - [[-1, 2], 1, Concat, [1]]\n  - [-1, 3, C2f, [256]]\n  - [[7, 4], 1, Detect, [nc]]\n";

typedef struct faults_paths { char tree[1024], net[1100], pt[1100], again[1100], picture[1100], jpeg[1100], png[1100], onnx[1100], classes[1100], set[1100], labels[1100], out[1100], data[1100]; } faults_paths;
static faults_paths faults;

static yolo_status faults_open(const char *path, yolo_model **model, yolo_error *error) {
    yolo_open_options options = yolo_open_defaults();
    options.threads = 2;
    return yolo_model_open(model, path, options, error);
}

static yolo_status faults_picture(yolo_error *error) {
    yolo_image image = {0};
    yolo_status status = yolo_image_read(&image, faults.picture, error);
    yolo_image_free(&image);
    return status;
}

static yolo_status faults_picture_write(yolo_error *error) {
    uint8_t pixels[16 * 16 * 3] = {0};
    yolo_image image = {pixels, 16, 16};
    yolo_status status = yolo_image_write(&image, faults.jpeg, error);
    return status == YOLO_OK ? yolo_image_write(&image, faults.png, error) : status;
}

static yolo_status faults_labels(yolo_error *error) {
    lbl_list list = {0};
    yolo_status status = lbl_read(faults.labels, 0, &list, NULL, error);
    lbl_list_free(&list);
    return status;
}

static yolo_status faults_dataset(yolo_error *error) {
    data_set set;
    yolo_status status = data_open(&set, faults.data, error);
    if (status == YOLO_OK) data_close(&set);
    return status;
}

static yolo_status faults_from_yaml(yolo_error *error) {
    yolo_model *model = NULL;
    yolo_status status = faults_open(faults.net, &model, error);
    yolo_model_close(model);
    return status;
}

static yolo_status faults_checkpoint(yolo_error *error) {
    yolo_model *model = NULL;
    yolo_status status = faults_open(faults.pt, &model, error);
    if (status == YOLO_OK) status = yolo_model_save(model, faults.again, true, error);
    yolo_model_close(model);
    return status;
}

static yolo_status faults_info(yolo_error *error) {
    char *text = NULL;
    yolo_status status = yolo_info(faults.pt, &text, error);
    yolo_text_free(text);
    return status;
}

static yolo_status faults_export(yolo_error *error) {
    yolo_export_options options = yolo_export_defaults();
    yolo_export_report report;
    options.model = faults.pt;
    options.out = faults.onnx;
    options.height = options.width = 64;
    options.nms = true;
    return yolo_export(options, &report, error);
}

static yolo_status faults_predict(yolo_error *error) {
    yolo_model *model = NULL;
    yolo_image image = {0};
    yolo_boxes boxes = {0};
    yolo_predict_options options = yolo_predict_defaults();
    options.imgsz = 64;
    options.conf = 0.0f;
    yolo_status status = faults_open(faults.pt, &model, error);
    if (status == YOLO_OK) status = yolo_image_read(&image, faults.picture, error);
    if (status == YOLO_OK) status = yolo_predict(model, &image, options, &boxes, error);
    yolo_boxes_free(&boxes);
    yolo_image_free(&image);
    yolo_model_close(model);
    return status;
}

static yolo_status faults_prepare(yolo_error *error) {
    yolo_prepare_options options = yolo_prepare_defaults();
    yolo_prepare_report report;
    options.source = faults.tree;
    options.classes = faults.classes;
    options.out = faults.set;
    return yolo_prepare(options, &report, error);
}

static yolo_status faults_val(yolo_error *error) {
    yolo_model *model = NULL;
    yolo_metrics metrics = {0};
    yolo_val_options options = yolo_val_defaults();
    options.data = faults.data;
    options.imgsz = 64;
    yolo_status status = faults_open(faults.pt, &model, error);
    if (status == YOLO_OK) status = yolo_val(model, options, &metrics, error);
    yolo_metrics_free(&metrics);
    yolo_model_close(model);
    return status;
}

static void faults_sheet(void *user, const ev_sheet *sheet) { (void)user, (void)sheet; }

/* As the trainer looks: weights refreshed, losses, curves, matrix, sheets. */
static yolo_status faults_check(yolo_error *error) {
    static const loss_gains gains = {7.5f, 0.5f, 1.5f};
    static const ev_extra extra = {&gains, true, faults_sheet, NULL};
    yolo_model *model = NULL;
    data_set data;
    const data_list *list;
    ev_set set = {0};
    ev_outcome out = {0};
    yolo_val_options options = yolo_val_defaults();
    options.imgsz = 64;
    yolo_status status = faults_open(faults.pt, &model, error);
    if (status == YOLO_OK) {
        const net *net = &model->checkpoint.net;
        const ev_labels labels = {.data_classes = net->class_count, .net_classes = net->class_count};
        pipe_job job = {.net = net, .weights = &model->weights, .pool = model->pool};
        status = data_open(&data, faults.data, error);
        if (status == YOLO_OK) {
            status = data_split(&data, "val", &list, error);
            if (status == YOLO_OK) status = ev_set_open(&set, list, &labels, true, &options.log, error);
            if (status == YOLO_OK) status = run_weights_refresh(model->weights.of[0], model->checkpoint.params, model->pool, error);
            if (status == YOLO_OK) status = ev_check(&job, &set, &options, &extra, &out, error);
            data_close(&data);
        }
    }
    ev_outcome_free(&out);
    ev_set_close(&set);
    yolo_model_close(model);
    return status;
}

static yolo_status faults_label(yolo_error *error) {
    yolo_model *model = NULL;
    yolo_label_report report = {0};
    yolo_label_options options = yolo_label_defaults();
    options.source = faults.tree;
    options.out = faults.out;
    options.existing = YOLO_EXISTING_REPLACE;
    options.predict.imgsz = 64;
    yolo_status status = faults_open(faults.pt, &model, error);
    if (status == YOLO_OK) status = yolo_label(model, options, &report, error);
    yolo_label_report_free(&report);
    yolo_model_close(model);
    return status;
}

/* A tree of four small pictures with labels, classes.txt and data.yaml, a network description and a checkpoint of it. */
static bool faults_ready(void) {
    static int ready; /* 0 not yet, 1 yes, -1 cannot be made */
    yolo_error error = {0};
    if (ready) return ready > 0;
    snprintf(faults.tree, sizeof faults.tree, "%s", test_temp("faults")); /* test_temp allocates: not during a call */
    const struct { char *path; const char *name; } places[] = {
        {faults.net, "/yolov8n.yaml"}, {faults.pt, "/model.pt"}, {faults.again, "/again.pt"}, {faults.onnx, "/export.onnx"}, {faults.jpeg, "/write.jpeg"}, {faults.png, "/write.PNG"},
        {faults.set, "-set"}, {faults.out, "-labels"}, {faults.data, "/data.yaml"}, {faults.classes, "/classes.txt"}};
    for (int i = 0; i < YOLO_COUNT(places); i++) snprintf(places[i].path, sizeof faults.net, "%s%s", faults.tree, places[i].name);
    static const char data[] = "path: .\ntrain: .\nval: .\nnames: [one, two]\n", classes[] = "one\ntwo\n", labels[] = "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.1 0.1\n";
    yolo_status status = path_make_directories(faults.tree, &error);
    if (status == YOLO_OK) status = path_write(faults.net, faults_net, sizeof faults_net - 1, false, &error);
    if (status == YOLO_OK) status = path_write(faults.data, data, sizeof data - 1, false, &error);
    if (status == YOLO_OK) status = path_write(faults.classes, classes, sizeof classes - 1, false, &error);
    for (int i = 0; i < 4 && status == YOLO_OK; i++) {
        uint8_t pixels[40 * 24 * 3];
        for (int p = 0; p < YOLO_COUNT(pixels); p++) pixels[p] = (uint8_t)(p * (i + 3));
        yolo_image image = {pixels, 40, 24};
        snprintf(faults.labels, sizeof faults.labels, "%s/%d.txt", faults.tree, i);
        snprintf(faults.picture, sizeof faults.picture, "%s/%d.%s", faults.tree, i, i % 2 ? "png" : "jpg");
        status = path_write(faults.labels, labels, sizeof labels - 1, false, &error);
        if (status == YOLO_OK) status = yolo_image_write(&image, faults.picture, &error);
    }
    yolo_model *model = NULL;
    if (status == YOLO_OK) status = faults_open(faults.net, &model, &error);
    if (status == YOLO_OK) status = yolo_model_save(model, faults.pt, false, &error);
    yolo_model_close(model);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    ready = status == YOLO_OK ? 1 : -1;
    return ready > 0;
}

/* `tolerant`: a picture that cannot be had is listed and the run goes on, so success is an answer too. */
static void faults_run(yolo_status (*call)(yolo_error *error), bool tolerant) {
    if (!faults_ready()) return;
    for (long n = 1; n < 1000000; n += 1 + n / 16) {
        yolo_error error = {0};
        os_atomic_set(&mem_fail_after, n);
        yolo_status status = call(&error);
        bool reached = os_atomic_get(&mem_fail_after) <= 0;
        os_atomic_set(&mem_fail_after, 0);
        if (status != YOLO_OK) CHECK_MSG(error.message[0] && error.status == status, "allocation %ld: status %d, \"%s\"", n, (int)status, error.message);
        if (!reached) {
            CHECK_MSG(status == YOLO_OK, "after %ld allocations: %s", n, error.message);
            return;
        }
        CHECK_MSG(tolerant || status != YOLO_OK, "allocation %ld failed and nobody noticed", n);
    }
    CHECK_MSG(false, "allocates for ever");
}

static void test_faults_picture(void) { faults_run(faults_picture, false); }
static void test_faults_picture_write(void) { faults_run(faults_picture_write, false); }
static void test_faults_labels(void) { faults_run(faults_labels, false); }
static void test_faults_dataset(void) { faults_run(faults_dataset, false); }
static void test_faults_from_yaml(void) { faults_run(faults_from_yaml, false); }
static void test_faults_checkpoint(void) { faults_run(faults_checkpoint, false); }
static void test_faults_info(void) { faults_run(faults_info, false); }
static void test_faults_export(void) { faults_run(faults_export, false); }
static void test_faults_predict(void) { faults_run(faults_predict, false); }
static void test_faults_prepare(void) { faults_run(faults_prepare, true); }
static void test_faults_val(void) { faults_run(faults_val, true); }
static void test_faults_check(void) { faults_run(faults_check, true); }
static void test_faults_label(void) { faults_run(faults_label, true); }

static const test_case tests_faults[] = {
    {"picture", "reading a picture when memory is short", test_faults_picture},
    {"picture_write", "writing a picture when memory is short", test_faults_picture_write},
    {"labels", "reading labels when memory is short", test_faults_labels},
    {"dataset", "opening a data set when memory is short", test_faults_dataset},
    {"from_yaml", "building a network when memory is short", test_faults_from_yaml},
    {"checkpoint", "reading and writing a checkpoint when memory is short", test_faults_checkpoint},
    {"info", "describing a checkpoint when memory is short", test_faults_info},
    {"export", "writing an ONNX file when memory is short", test_faults_export},
    {"predict", "finding objects when memory is short", test_faults_predict},
    {"prepare", "preparing data when memory is short", test_faults_prepare},
    {"val", "validating when memory is short", test_faults_val},
    {"check", "looking as the trainer does when memory is short", test_faults_check},
    {"label", "labelling a tree when memory is short", test_faults_label},
};
