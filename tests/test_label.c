/* Labelling over labels that are there: the journal of a run and what becomes of it, words of lists, boxes against boxes. */

static char label_root[1024];
enum { LABEL_FILES = 6 };
static const char *const label_names[LABEL_FILES] = {"a.txt", "b.txt", "가 나/c.txt", "classes.txt", "review.csv", "a.xml"};

static void label_path(char path[1200], const char *name) { snprintf(path, 1200, "%s/%s", label_root, name); }

static void label_put(const char *name, const char *text) {
    char path[1200];
    yolo_error error;
    label_path(path, name);
    CHECK_MSG(path_write(path, text, strlen(text), false, &error) == YOLO_OK, "%s", error.message);
}

/* Does the file say this? NULL: is it absent? */
static bool label_says(const char *name, const char *text) {
    char path[1200];
    uint8_t *bytes = NULL;
    size_t size = 0;
    label_path(path, name);
    if (!text) return os_path_kind(path) == OS_NOTHING;
    bool same = path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK && size == strlen(text) && !memcmp(bytes, text, size);
    mem_free(bytes);
    return same;
}

/* Three pictures, of which a.txt and c.txt are labels of a person's; what other tests left is removed. */
static void label_make_tree(const char *name) {
    char path[1200];
    snprintf(label_root, sizeof label_root, "%s", test_temp(name));
    label_path(path, "가 나");
    CHECK(path_make_directories(path, NULL) == YOLO_OK);
    for (int i = 0; i < LABEL_FILES; i++) {
        label_path(path, label_names[i]);
        os_remove(path);
    }
    label_path(path, "a.png");
    test_lab_picture(path, 3);
    label_path(path, "b.png");
    test_lab_picture(path, 5);
    label_path(path, "가 나/c.png");
    test_lab_picture(path, 7);
    label_put("a.txt", "0 0.5 0.5 0.25 0.25");
    label_put("가 나/c.txt", "1 0.1 0.1 0.2 0.2\r\n# note\n");
}

static bool label_is_before(void) {
    return label_says("a.txt", "0 0.5 0.5 0.25 0.25") && label_says("가 나/c.txt", "1 0.1 0.1 0.2 0.2\r\n# note\n") && label_says("b.txt", NULL) &&
           label_says("classes.txt", NULL) && label_says("review.csv", NULL) && label_says("a.xml", NULL);
}

static yolo_status label_undo(const char *run, yolo_undo_report *report, yolo_error *error) {
    return yolo_label_undo((yolo_undo_options){.source = label_root, .run = run}, report, error);
}

static yolo_label_options label_options(yolo_existing existing) {
    yolo_label_options options = yolo_label_defaults();
    options.source = label_root;
    options.existing = existing;
    options.predict.imgsz = 64;
    options.predict.conf = 0.00001f;
    options.predict.max_det = 3;
    options.also = "coco,csv,voc";
    options.review = options.alike = true;
    return options;
}

/* Takes all runs back. */
static void label_undo_all(void) {
    yolo_undo_report report;
    yolo_error error;
    for (int i = 0; i < 1000 && label_undo("last", &report, &error) == YOLO_OK; i++) CHECK(!report.kept);
}

/* Every allocation of a run fails once, and then every one of undo: whatever came of it, all is as before in the end. */
static void label_faults(yolo_existing existing) {
    yolo_model *model;
    yolo_error error = {0};
    yolo_open_options open = yolo_open_defaults();
    yolo_label_options options = label_options(existing);
    yolo_label_report report;
    yolo_undo_report undone;
    bool labelled = false;
    label_make_tree("label_faults");
    options.source = label_root;
    open.threads = 1;
    CHECK_MSG(yolo_model_open(&model, "weights/shapes.pt", open, &error) == YOLO_OK, "%s", error.message);
    for (long n = 1; model && n < 100000 && !labelled; n += 1 + n / 64) {
        error.message[0] = 0;
        os_atomic_set(&mem_fail_after, n);
        yolo_status status = yolo_label(model, options, &report, &error);
        labelled = os_atomic_get(&mem_fail_after) > 0;
        os_atomic_set(&mem_fail_after, 0);
        CHECK_MSG(status == YOLO_OK || error.message[0], "allocation %ld: %d without a word", n, status);
        yolo_label_report_free(&report);
        os_atomic_set(&mem_fail_after, n % 97 + 1);
        label_undo("last", &undone, &error);
        os_atomic_set(&mem_fail_after, 0);
        label_undo_all();
        CHECK_MSG(label_is_before(), "allocation %ld", n);
    }
    CHECK(labelled);
    yolo_model_close(model);
}

static void test_label_faults_replace(void) { label_faults(YOLO_EXISTING_REPLACE); }
static void test_label_faults_skip(void) { label_faults(YOLO_EXISTING_SKIP); }
static void test_label_faults_merge(void) { label_faults(YOLO_EXISTING_MERGE); }

static void test_label_faults_compare(void) {
    yolo_model *model;
    yolo_error error = {0};
    yolo_label_report report;
    yolo_status status = YOLO_ERROR_MEMORY;
    label_make_tree("label_compare");
    yolo_label_options options = label_options(YOLO_EXISTING_COMPARE);
    options.also = NULL;
    CHECK(yolo_model_open(&model, "weights/shapes.pt", yolo_open_defaults(), &error) == YOLO_OK);
    for (long n = 1; model && n < 100000 && status != YOLO_OK; n++) {
        os_atomic_set(&mem_fail_after, n);
        status = yolo_label(model, options, &report, &error);
        if (os_atomic_get(&mem_fail_after) <= 0 && status == YOLO_OK) status = YOLO_ERROR_MEMORY; /* a picture called damaged */
        os_atomic_set(&mem_fail_after, 0);
        yolo_label_report_free(&report);
        CHECK(label_says("a.txt", "0 0.5 0.5 0.25 0.25") && label_says("가 나/c.txt", "1 0.1 0.1 0.2 0.2\r\n# note\n") && label_says("classes.txt", NULL));
    }
    CHECK(status == YOLO_OK);
    yolo_model_close(model);
}

/* A journal as a program could forge it: every line with its hash. */
static void label_forge(const char *run, const char *const *lines, int count) {
    str s = {0};
    char name[2048];
    for (int i = 0; i < count; i++) {
        int64_t start = s.length;
        str_add(&s, lines[i]);
        undo_seal(&s, start, i + 1);
    }
    snprintf(name, sizeof name, "%s/" UNDO_FOLDER "/%s", label_root, run);
    CHECK(path_make_directories(name, NULL) == YOLO_OK);
    snprintf(name, sizeof name, UNDO_FOLDER "/%s/journal.txt", run);
    label_put(name, s.text);
    str_free(&s);
}

static void test_label_forged(void) {
    static const char run[] = "20240101-000000";
    static const struct { const char *line, *said; } cases[] = {
        {"K 0 ../victim.txt 3 0000000000000000", "leads out"}, {"N 0 ../victim.txt", "leads out"}, {"N 0 /etc/passwd", "leads out"}, {"F 0 ..", "leads out"},
        {"N 0 a/../../victim.txt", "leads out"}, {"N 0 a//b", "leads out"}, {"N 0 ./a", "leads out"}, {"N 0 .yolo_undo/x", "leads out"}, {"N 2 a", "leads out"},
        {"N 0 %2e%2e/victim.txt", "leads out"}, {"N 0 a%00b", "leads out"}, {"N 0 a%zz", "leads out"}, {"N 0 a%", "leads out"}, {"N 0 ", "leads out"}, {"N 1 a.txt", "labels folder"},
        {"K 0 a.txt x 0000000000000000", "damaged size"}, {"K 0 a.txt 3 00", "damaged size"}, {"K 0 a.txt", "unknown record"}, {"W 0 0000000000000000", "to no file"},
        {"W -1 0000000000000000", "to no file"}, {"W 99999999999999999999 0000000000000000", "to no file"}, {"X", "unknown record"}, {"H 12", "damaged key"}, {"", "damaged line"},
        {"B 1", "unknown record"}, {"N 0 a b c d e f g", "unknown record"}, {"V 1", "no journal"}};
    yolo_undo_report report;
    yolo_error error;
    label_make_tree("label_forged");
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const char *lines[] = {"V 1", "H 0000000000000000", cases[i].line, "B"};
        label_forge(run, lines, YOLO_COUNT(lines));
        error.message[0] = 0;
        yolo_status status = label_undo(run, &report, &error);
        CHECK_MSG(status == YOLO_ERROR_FORMAT && strstr(error.message, cases[i].said) && strstr(error.message, "journal.txt:3"), "%s: %d %s", cases[i].line, status, error.message);
        CHECK(label_is_before());
    }
    const char *const other[] = {"V 2"}, *const none[] = {"H 0000000000000000"};
    label_forge(run, other, 1);
    CHECK(label_undo(run, &report, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "another version"));
    label_forge(run, none, 1);
    CHECK(label_undo(run, &report, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "no journal"));
    const char *const names[] = {"..", ".", "../x", "20240101-000000/..", "/tmp", "x"};
    for (int i = 0; i < YOLO_COUNT(names); i++) CHECK(label_undo(names[i], &report, &error) == YOLO_ERROR_IO);
}

/* Any byte of a journal changed, any end cut off: an error that touches nothing, or all is as before. */
static void test_label_torn(void) {
    static const char run[] = "20240101-000000";
    char name[128], path[1200], folder[1200];
    uint8_t *bytes;
    size_t size;
    yolo_undo_report report;
    yolo_error error;
    const char old[] = "0 0.5 0.5 0.25 0.25", new[] = "written";
    int brought = 0, refused = 0;
    label_make_tree("label_torn");
    str kept = {0}, wrote = {0}, made = {0};
    str_format(&kept, "K 0 a.txt %d %016llx", (int)strlen(old), (unsigned long long)undo_digest(old, strlen(old)));
    str_format(&wrote, "W 0 %016llx", (unsigned long long)undo_digest(new, strlen(new)));
    str_format(&made, "W 1 %016llx", (unsigned long long)undo_digest(new, strlen(new)));
    const char *lines[] = {"V 1", "H 0000000000000000", kept.text, "N 0 b.txt", "B", wrote.text, made.text, "D"};
    label_forge(run, lines, YOLO_COUNT(lines));
    snprintf(name, sizeof name, UNDO_FOLDER "/%s/journal.txt", run);
    label_path(path, name);
    CHECK(path_read(path, 1 << 20, &bytes, &size, &error) == YOLO_OK);
    for (size_t i = 0; i < 2 * size; i += 3) {
        const size_t at = i / 2;
        uint8_t before = bytes[at];
        label_put("a.txt", new);
        label_put("b.txt", new);
        snprintf(name, sizeof name, UNDO_FOLDER "/%s/source", run);
        label_path(folder, name);
        CHECK(path_make_directories(folder, NULL) == YOLO_OK);
        snprintf(name, sizeof name, UNDO_FOLDER "/%s/source/a.txt", run);
        label_put(name, old);
        bytes[at] ^= (uint8_t)(1 + i % 255);
        CHECK(path_write(path, bytes, i % 2 ? at : size, false, &error) == YOLO_OK);
        bytes[at] = before;
        error.message[0] = 0;
        yolo_status status = label_undo(run, &report, &error);
        *(status == YOLO_OK ? &brought : &refused) += 1;
        if (status != YOLO_OK) CHECK_MSG(error.message[0] && label_says("a.txt", new) && label_says("b.txt", new), "byte %d: %s", (int)i, error.message);
        else CHECK(label_says("a.txt", report.restored ? old : new) && label_says("b.txt", report.removed ? NULL : new));
    }
    CHECK_MSG(brought > 3 && refused > 30, "%d brought back, %d refused", brought, refused);
    mem_free(bytes);
    str_free(&kept);
    str_free(&wrote);
    str_free(&made);
}

static void test_label_words(void) {
    static const struct { const char *text, *stops, *word, *rest; } cases[] = {
        {"a,b", ",", "a", "b"}, {" traffic light , x", ",", "traffic light", " x"}, {"a\\,b,c", ",", "a,b", "c"}, {"a\\:b:0.5", ":,", "a:b", "0.5"},
        {"\\\\:1", ":", "\\", "1"}, {"a\\", ",", "a\\", ""}, {"", ",", "", ""}, {"\\ a\\ ,", ",", " a ", ""}, {"사람,x", ",", "사람", "x"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const char *at = cases[i].text;
        char word[LAB_MAX_WORD], stop;
        CHECK(lab_word(&at, cases[i].stops, word, &stop));
        CHECK_MSG(!strcmp(word, cases[i].word) && !strcmp(at, cases[i].rest), "%s: '%s', '%s' left", cases[i].text, word, at);
    }
    char text[2 * LAB_MAX_WORD], word[LAB_MAX_WORD], stop;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 0;
    const char *at = text;
    CHECK(!lab_word(&at, ",", word, &stop));
}

static void test_label_pairs(void) {
    yolo_box person[] = {{0, 0, 10, 10, 0, 0}, {20, 0, 30, 10, 0, 1}, {40, 0, 50, 10, 0, 2}, {60, 0, 70, 10, 0, 3}};
    yolo_box model[] = {{0, 0, 10, 9, 0.9f, 0}, {0, 0, 10, 8, 0.8f, 0}, {20, 0, 30, 5, 0.7f, 1}, {40, 0, 50, 10, 0.6f, 5}, {80, 0, 90, 10, 0.5f, 0}};
    static const int expected[LAB_KINDS] = {1, 1, 1, 1, 2}; /* right, poor, wrong class, missing, extra */
    lab_item item = {0};
    yolo_error error;
    CHECK(lab_compare(&item, &(yolo_boxes){person, 4}, &(yolo_boxes){model, 5}, true, &error) == YOLO_OK);
    for (int i = 0; i < LAB_KINDS; i++) CHECK_MSG(item.differences[i] == expected[i], "kind %d: %d", i, item.differences[i]);
    CHECK(item.row_count == 6 && lab_wrong_count(&item) == 5);
    mem_free(item.rows);
    const yolo_box line = {5, 3, 9, 3, 0, 0}, other = {5, 30, 9, 30, 0, 0};
    CHECK(lab_iou(&line, &line) == 1 && lab_iou(&line, &other) == 0 && lab_iou(&person[0], &person[0]) == 1 && lab_iou(&person[0], &person[1]) == 0);
    CHECK_NEAR(lab_iou(&person[0], &model[1]), 0.8, 1e-6);
}

/* A box that stands for many others is a reason to look, one below its threshold is not. */
static void test_label_crowded(void) {
    yolo_box items[] = {{0, 0, 10, 10, 0.9f, 0}, {20, 0, 30, 10, 0.8f, 1}, {40, 0, 50, 10, 0.3f, 1}};
    static const struct { int32_t struck[3]; bool crowded; float unsure; } cases[] = {
        {{9, 20, 0}, true, 0.5f}, {{16, 0, 0}, true, 0.375f}, {{15, 15, 100}, false, 0}, {{0, 0, 0}, false, 0}};
    float thresholds[] = {0.4f, 0.4f};
    int map[] = {0, 1};
    yolo_label_options options = yolo_label_defaults();
    options.review = true;
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        lab_item item = {0};
        yolo_boxes boxes = {items, 3};
        lab_choose(&(lab_run){.options = &options, .thresholds = thresholds, .map = map}, &item, &boxes, cases[i].struck);
        CHECK(boxes.count == 2 && item.doubt.reasons == (cases[i].crowded ? LAB_IS_CROWDED : 0));
        CHECK_NEAR(item.doubt.unsure, cases[i].unsure, 1e-6);
    }
}

static void test_label_xml(void) {
    static const struct { const char *text, *said; } cases[] = {
        {"a & <b> \"c\"", "<n>a &amp; &lt;b&gt; \"c\"</n>\n"}, {"한글", "<n>한글</n>\n"}, {"a\x01" "b\xff", "<n>a\xef\xbf\xbd" "b\xef\xbf\xbd</n>\n"}, {"", "<n></n>\n"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        str s = {0};
        lab_xml(&s, "n", cases[i].text);
        CHECK_MSG(!strcmp(s.text, cases[i].said), "%s", s.text);
        str_free(&s);
    }
    str s = {0};
    lab_csv(&s, "a");
    lab_csv(&s, "b,\"c\"\n");
    lab_csv(&s, "");
    lab_csv_number(&s, NAN, 3);
    lab_csv_number(&s, 0.5, 3);
    CHECK_MSG(!strcmp(s.text, "a,\"b,\"\"c\"\"\n\",,,0.500"), "%s", s.text);
    str_free(&s);
}

/* Days of four centuries, and times of a day. */
static void test_label_stamp(void) {
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int64_t day = 0;
    for (int year = 1970; year < 2400; year++)
        for (int month = 0; month < 12; month++) {
            bool leap = year % 4 == 0 && (year % 100 || year % 400 == 0);
            for (int d = 1; d <= lengths[month] + (leap && month == 1); d++, day++) {
                char text[16], expected[64];
                int second = (int)(day * 7919 % 86400);
                os_stamp(day * 86400 + second, text);
                snprintf(expected, sizeof expected, "%04d%02d%02d-%02d%02d%02d", year, month + 1, d, second / 3600, second / 60 % 60, second % 60);
                if (strcmp(text, expected)) CHECK_MSG(false, "%s, expected %s", text, expected);
            }
        }
}

static const test_case tests_label[] = {
    {"words", "lists of words with escapes", test_label_words},
    {"pairs", "a person's boxes against a model's", test_label_pairs},
    {"crowded", "boxes that stand for many others", test_label_crowded},
    {"xml", "text for XML and CSV", test_label_xml},
    {"stamp", "names of runs", test_label_stamp},
    {"forged", "a journal that would lead out of the folder", test_label_forged},
    {"torn", "a journal with any byte changed or cut off", test_label_torn},
    {"faults_replace", "each allocation fails once, undo brings all back", test_label_faults_replace},
    {"faults_merge", "the same where labels are merged", test_label_faults_merge},
    {"faults_skip", "the same where new ones are made", test_label_faults_skip},
    {"faults_compare", "the same where they are compared: no label is touched", test_label_faults_compare},
};
