/* test_train.c - the trainer of section 25: options in and out of checkpoints, the same bits whatever the threads and
   interruptions, and what it says when it cannot go on. */

static void test_train_options(void) {
    yolo_train_options o = tr_defaults(), back;
    arena memory = {0};
    o.epochs = 7;
    o.time = 1.5;
    o.batch = 8;
    o.freeze = "0,3,5";
    o.pretrained = "a.pt";
    o.cache = "false";
    o.seed = 12345678901234u;
    o.lr0 = 1.0 / 3;
    o.cos_lr = true;
    back = tr_defaults();
    for (int i = 0; i < YOLO_COUNT(tr_arguments); i++) tr_set_argument(&memory, &tr_arguments[i], tr_argument_val(&memory, &tr_arguments[i], &o), &back);
    for (int i = 0; i < YOLO_COUNT(tr_arguments); i++) CHECK_MSG(tr_is_same(&tr_arguments[i], &o, &back), "%s", tr_arguments[i].name);
    /* Values of the wrong kind change nothing. */
    for (int i = 0; i < YOLO_COUNT(tr_arguments); i++) tr_set_argument(&memory, &tr_arguments[i], val_new(&memory, VAL_MAP), &back);
    for (int i = 0; i < YOLO_COUNT(tr_arguments); i++) CHECK_MSG(tr_is_same(&tr_arguments[i], &o, &back), "%s", tr_arguments[i].name);
    arena_free(&memory);
}

static void test_train_layers(void) {
    const struct { const char *text; bool good; int frozen; } cases[] = {
        {"3", true, 7}, {"0", true, 0}, {"0,2", true, 5}, {"[1]", true, 2}, {"[0, 1]", true, 3}, {"5", true, 31}, {"6", false, 0}, {"-1", false, 0},
        {"model.1", false, 0}, {"1,x", false, 0}, {"3 4", false, 0}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        bool frozen[5] = {false};
        int bits = 0;
        bool good = tr_parse_layers(cases[i].text, 5, frozen);
        for (int k = 0; k < 5; k++) bits |= frozen[k] << k;
        CHECK_MSG(good == cases[i].good && (!good || bits == cases[i].frozen), "'%s': %d, %d", cases[i].text, good, bits);
    }
}

/* Of yolov8n; where it takes many times as long, of a network with an eighth of the width. */
static yolo_train_options test_train_choose(const char *name, int threads) {
    yolo_train_options o = test_train_small(name, threads);
    if (TEST_FEW) o.model = "tests/fixtures/net_tiny.yaml";
    return o;
}

/* Hash of what a training leaves. */
static uint64_t test_train_run(const char *name, int threads) {
    yolo_train_options o = test_train_choose(name, threads);
    yolo_train_report report;
    yolo_error error = {0};
    CHECK_MSG(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_OK, "%s", error.message);
    CHECK(report.epochs == 3 && report.best_epoch >= 1);
    return test_train_hash(&report);
}

/* That of one by 2 threads that nothing befell, which is trained once. */
static uint64_t test_train_whole(void) {
    static uint64_t hash;
    if (!hash) hash = test_train_run("whole", 2);
    return hash;
}

static void test_train_same_bits(void) {
    const uint64_t whole = test_train_whole();
    CHECK(whole && test_train_run("one", 1) == whole && test_train_run("five", 5) == whole);
}

/* Interrupted at the beginning of the second epoch, resumed: as if nothing had been. */
static void test_train_resume(void) {
    yolo_train_options o = test_train_choose("part", 2);
    yolo_train_report part;
    yolo_error error = {0};
    test_train_ear ear = {.interrupt_at = 2};
    const uint64_t whole = test_train_whole();
    o.log = (yolo_log){test_train_listen, &ear};
    CHECK(tr_train(&o, op_isa_best(), run_cpu, &part, &error) == YOLO_ERROR_INTERRUPTED && part.epochs == 1);
    yolo_interrupt_clear();
    char last[1100];
    snprintf(last, sizeof last, "%s/weights/last.pt", part.folder);
    yolo_train_options again = tr_defaults();
    again.resume = true;
    again.model = last;
    again.threads = 1;
    again.lr0 = 0.5; /* is not taken: the run goes on as it began */
    ear = (test_train_ear){.wanted = "lr0"};
    again.log = (yolo_log){test_train_listen, &ear};
    CHECK_MSG(tr_train(&again, op_isa_best(), run_cpu, &part, &error) == YOLO_OK, "%s", error.message);
    CHECK(ear.heard && part.epochs == 3 && whole && whole == test_train_hash(&part));
    CHECK(tr_train(&again, op_isa_best(), run_cpu, &part, &error) == YOLO_ERROR_USAGE && strstr(error.message, "3 epochs are done"));
    again.epochs = 4;
    CHECK_MSG(tr_train(&again, op_isa_best(), run_cpu, &part, &error) == YOLO_OK && part.epochs == 4, "%s", error.message);
}

/* A weight that is not a number: three new beginnings, each told, then a sentence; last.pt stays what it was. */
static void test_train_not_finite(void) {
    yolo_open_options open = {.classes = DEMO_KINDS};
    yolo_train_options o = test_train_small("wild", 2);
    yolo_train_report report;
    yolo_error error = {0};
    pt_model model;
    test_train_ear ear = {.wanted = "learning rate times 0.125"};
    char path[600];
    snprintf(path, sizeof path, "%s", test_temp("poisoned.pt"));
    CHECK(pt_load("yolov8n.yaml", &open, &model, &error) == YOLO_OK);
    model.params[model.net.params[net_param_find(&model.net, "model.2.cv1.conv.weight")].offset] = NAN;
    CHECK(pt_write(path, &model, false, &error) == YOLO_OK);
    pt_free(&model);
    o.model = path;
    o.log = (yolo_log){test_train_listen, &ear};
    CHECK_MSG(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "not finite"), "%s", error.message);
    CHECK(ear.heard && report.epochs == 0 && test_train_hash(&report) != 0);
    o.save = false; /* then the last.pt that lies there is another run's */
    CHECK_MSG(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "save=false"), "%s", error.message);
}

static void test_train_sentences(void) {
    yolo_train_report report;
    yolo_error error = {0};
    yolo_train_options o = test_train_small("wrong", 1);
    const char *data = o.data;
    o.data = NULL;
    CHECK(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "data="));
    o.data = data;
    o.model = NULL;
    CHECK(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "model="));
    o.model = "yolov8n.yaml";
    o.freeze = "23";
    CHECK(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "no layer"));
    o.freeze = NULL;
    o.batch = 2.5;
    CHECK(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "batch=2.5"));
    o.batch = 4;
    o.fraction = 0;
    CHECK_MSG(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "fraction=0"), "%s", error.message);
    o.fraction = 1;
    o.batch = 1000;
    o.imgsz = 8192;
    CHECK_MSG(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_MEMORY && strstr(error.message, "fits"), "%s", error.message);
    o.resume = true;
    o.project = test_temp("no such project");
    o.model = NULL;
    CHECK(tr_train(&o, OP_PORTABLE, run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "last.pt"));
}

/* Rows of epochs that are not done are cut off. */
static void test_train_csv(void) {
    char folder[600], path[700];
    yolo_error error;
    uint8_t *bytes = NULL;
    size_t size = 0;
    opt_state opt = {.group_count = 3};
    snprintf(folder, sizeof folder, "%s", test_temp("train_csv"));
    snprintf(path, sizeof path, "%s/results.csv", folder);
    CHECK(path_make_directories(folder, &error) == YOLO_OK);
    tr_run run = {.folder = folder, .opt = &opt};
    CHECK(tr_csv_begin(&run, &error) == YOLO_OK);
    for (int i = 0; i < 3; i++) {
        run.done++;
        run.losses.box = 1.0 / 3;
        CHECK(tr_csv_row(&run, &error) == YOLO_OK);
    }
    run.done = 1;
    CHECK(tr_csv_begin(&run, &error) == YOLO_OK && path_read(path, 1 << 20, &bytes, &size, &error) == YOLO_OK);
    str text = {0};
    str_append(&text, (const char *)bytes, size);
    CHECK_MSG(strstr(text.text, "\n1,0,0.33333,0,") && !strstr(text.text, "\n2,") && strstr(text.text, "epoch,time,train/box_loss"), "%s", text.text);
    str_free(&text);
    mem_free(bytes);
    arena_free(&run.memory);
}

static const test_case tests_train[] = {
    {"options", "options survive a checkpoint", test_train_options},
    {"layers", "what freeze= may say", test_train_layers},
    {"csv", "results.csv: rows, and the cut on resume", test_train_csv},
    {"same_bits", "1, 2 and 5 threads leave the same state", test_train_same_bits},
    {"resume", "interrupted and resumed: the same bits; more epochs", test_train_resume},
    {"not_finite", "infinite losses: told, retried, given up, last.pt intact", test_train_not_finite},
    {"sentences", "what cannot be trained is said", test_train_sentences},
};
