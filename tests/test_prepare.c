/* Section 18: yolo_prepare. Uses the helpers of test_data.c. */

/* A BMP of 8 x 8 pixels of noise that is a function of `number`. */
static void test_put_picture(const char *path, uint32_t number) {
    uint8_t bmp[54 + 192] = {'B', 'M', 246, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 1, 0, 24, 0};
    yolo_error error;
    bmp[34] = 192;
    rng noise = {.key = number};
    for (int i = 0; i < 192; i++) bmp[54 + i] = (uint8_t)rng_next(&noise);
    char *folder = path_parent(path);
    CHECK_MSG(path_make_directories(folder, &error) == YOLO_OK && path_write(path, bmp, sizeof bmp, false, &error) == YOLO_OK, "%s", error.message);
    mem_free(folder);
}

/* SOURCE/sub%d/same%d.bmp, class number % 3 in the label beside it. */
static void test_put_labelled(const char *source, int folder, int number, uint32_t content) {
    char path[1024], label[100];
    snprintf(path, sizeof path, "%s/" KOREAN " %d/same%d.bmp", source, folder, number);
    test_put_picture(path, content);
    char *text = path_with_extension(path, ".txt");
    snprintf(label, sizeof label, "%d 0.5 0.5 0.%d 0.25\n", (int)(content % 3), 1 + (int)(content % 8));
    test_put(text, label);
    mem_free(text);
}

static yolo_prepare_options test_prepare_options(const char *source, const char *out, test_lines *lines) {
    yolo_prepare_options options = yolo_prepare_defaults();
    options.source = source;
    options.out = out;
    if (lines) options.log = (yolo_log){test_lines_write, lines};
    return options;
}

/* The bytes of every file below a folder, names included, as one number; and how many files. report.json is passed over:
   it counts what a run skipped. */
typedef struct test_tree { char path[1024]; uint64_t sum; int files; } test_tree;

static bool test_tree_entry(void *user, const char *name, os_kind kind) {
    test_tree *tree = user;
    size_t length = strlen(tree->path);
    snprintf(tree->path + length, sizeof tree->path - length, "/%s", name);
    if (kind == OS_DIRECTORY) os_list_directory(tree->path, test_tree_entry, tree);
    else if (strcmp(name, "report.json")) {
        uint8_t *bytes;
        size_t size;
        yolo_error error;
        CHECK(path_read(tree->path, 1 << 28, &bytes, &size, &error) == YOLO_OK);
        tree->sum += hash_bytes(bytes, size, hash_bytes(tree->path, strlen(tree->path), 0));
        tree->files++;
        mem_free(bytes);
    }
    tree->path[length] = 0;
    return true;
}

static uint64_t test_tree_sum(const char *folder, int *files) {
    test_tree tree = {.sum = 1};
    snprintf(tree.path, sizeof tree.path, "%s", folder);
    os_list_directory(folder, test_tree_entry, &tree);
    if (files) *files = tree.files;
    return tree.sum;
}

static bool test_there(const char *folder, const char *name) { return os_path_kind(test_in(folder, name)) == OS_FILE; }

static void test_prepare_thousand(void) {
    const int count = test_cases(1000), later = count / 10, all = count + later;
    char source[512], out[512], other[512];
    snprintf(source, sizeof source, "%s", test_folder("source " KOREAN));
    snprintf(out, sizeof out, "%s", test_folder("out " KOREAN));
    snprintf(other, sizeof other, "%s", test_folder("other"));
    test_put(test_in(source, "classes.txt"), "a\nb\nc\n");
    for (int i = 0; i < count; i++) test_put_labelled(source, i % 10, i / 10, (uint32_t)i * 7919 + 1);
    test_lines lines = {0};
    yolo_error error = {0};
    yolo_prepare_report first, again, more, moved;
    uint64_t before = test_tree_sum(source, NULL);
    yolo_prepare_options options = test_prepare_options(source, out, &lines);
    CHECK_MSG(yolo_prepare(options, &first, &error) == YOLO_OK, "%s", error.message);
    CHECK(first.train + first.val == count && first.boxes == count && !first.damaged && !first.duplicates && !first.skipped);
    CHECK_MSG(first.val > count * 0.16 && first.val < count * 0.24, "%d in val", (int)first.val);
    CHECK_MSG(strstr(lines.text, "   1 b ") && !strstr(lines.text, "no box"), "%s", lines.text);
    int files;
    uint64_t sum = test_tree_sum(out, &files);
    CHECK_MSG(files == 2 * count + 4, "%d files", files);
    CHECK_MSG(yolo_prepare(options, &again, &error) == YOLO_OK && again.skipped == count && again.val == first.val && test_tree_sum(out, NULL) == sum,
              "a second run changes nothing");
    /* 10 per cent new ones, into the same folder and into another: nobody changes sides */
    for (int i = count; i < all; i++) test_put_labelled(source, i % 10, i / 10, (uint32_t)i * 7919 + 1);
    CHECK(yolo_prepare(options, &more, &error) == YOLO_OK && more.skipped == count && more.train + more.val == all);
    options.out = other;
    CHECK(yolo_prepare(options, &moved, &error) == YOLO_OK && moved.val == more.val && moved.skipped == 0);
    int sides = 0;
    for (int i = 0; i < count; i++)
        for (int v = 0; v < 2; v++) {
            char name[200];
            snprintf(name, sizeof name, "images/%s/" KOREAN " %d/same%d.bmp", v ? "val" : "train", i % 10, i / 10);
            bool one = test_there(out, name), two = test_there(other, name);
            sides += one;
            CHECK_MSG(one == two, "%s", name);
        }
    CHECK(sides == count);
    options.out = out; /* another share: pictures move, none is left on both sides */
    options.val = 0.5;
    CHECK(yolo_prepare(options, &moved, &error) == YOLO_OK && moved.val > all * 0.41 && moved.val < all * 0.59);
    test_tree_sum(out, &files);
    CHECK_MSG(files == 2 * all + 4, "%d files", files);
    for (int i = count; i < all; i++) { /* the source as it was, to see that nothing touched it */
        char path[1024];
        snprintf(path, sizeof path, "%s/" KOREAN " %d/same%d.bmp", source, i % 10, i / 10);
        char *text = path_with_extension(path, ".txt");
        CHECK(os_remove(path) && os_remove(text));
        mem_free(text);
    }
    CHECK(test_tree_sum(source, NULL) == before);
}

static void test_prepare_kinds(void) {
    char source[512], out[600];
    snprintf(source, sizeof source, "%s", test_folder("kinds"));
    snprintf(out, sizeof out, "%s/out", source);
    test_put(test_in(source, "labels/classes.txt"), "\xef\xbb\xbf" "cat\r\ndog\r\n");
    test_put_picture(test_in(source, "images/a/x.bmp"), 1);
    test_put(test_in(source, "labels/a/x.txt"), "0 0.479492 0.688771 0.955609 0.5955\n1 0.1 0.1 0.3 0.1 0.3 0.5\nrubbish\n0 0.479492 0.688771 0.955609 0.5955\n0 0.5 0.5 0.1 0.1 0.9\n");
    test_put_picture(test_in(source, "a/x.bmp"), 2);              /* would share its name with the one above */
    test_put_picture(test_in(source, "b/y.bmp"), 3);
    test_put(test_in(source, "b/y.txt"), "");                     /* background */
    test_put_picture(test_in(source, "b/copy of y.bmp"), 3);      /* the same, without a label */
    test_put_picture(test_in(source, "b/z.bmp"), 4);
    test_put(test_in(source, "b/z.txt"), "7 0.5 0.5 0.1 0.1\n");  /* no line is good */
    test_put(test_in(source, "b/broken.jpg"), "this is no picture");
    test_put(test_in(source, "b/empty.png"), "");
    test_lines lines = {0};
    yolo_error error = {0};
    yolo_prepare_report r;
    yolo_prepare_options options = test_prepare_options(source, out, &lines);
    options.val = 0;
    CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK, "%s", error.message);
    CHECK_MSG(r.train == 3 && r.val == 0 && r.background == 1 && r.unlabelled == 1 && r.damaged == 3 && r.duplicates == 1 && r.bad_lines == 2 && r.boxes == 3,
              "%d %d %d %d %d %d %d %d\n%s", (int)r.train, (int)r.val, (int)r.background, (int)r.unlabelled, (int)r.damaged, (int)r.duplicates, (int)r.bad_lines, (int)r.boxes, lines.text);
    CHECK_MSG(strstr(lines.text, "copy of y.bmp: left out: same picture as ") && strstr(lines.text, "labels/a/x.txt:3: found 'rubbish', expected a number") &&
              strstr(lines.text, "z.bmp: left out: no line of ") && strstr(lines.text, "no box in val of: cat, dog"), "%s", lines.text);
    CHECK(test_there(out, "images/train/a/x.bmp") && test_there(out, "images/train/b/y.bmp") && !test_there(out, "images/train/b/z.bmp"));
    CHECK(test_there(out, "labels/train/b/y.txt") && !test_there(out, "labels/train/a/x.txt"));
    char label[2000], picture[2000];
    const char *rows = test_content(test_in(out, "prepared.tsv")), *row = strstr(rows, "images/train/a/x_");
    CHECK_MSG(row != NULL, "%s", rows);
    snprintf(picture, sizeof picture, "%s/%.*s", out, row ? (int)strcspn(row, "\t") : 0, row ? row : "");
    char *beside = data_label_rule(picture);
    snprintf(label, sizeof label, "%s", beside);
    mem_free(beside);
    CHECK_MSG(!strcmp(test_content(label), "0 0.479492 0.688771 0.955609 0.5955\n1 0.2 0.3 0.2 0.4\n0 0.5 0.5 0.1 0.1\n"), "%s", test_content(label));
    const char *yaml = test_content(test_in(out, "data.yaml"));
    CHECK_MSG(!strcmp(yaml, "train: images/train\nval: images/val\nnc: 2\nnames:\n  0: cat\n  1: dog\n"), "%s", yaml);
    /* what a person changed in out stays: a label, a picture of their own, a file of their own */
    test_put(label, "1 0.5 0.5 0.5 0.5\n");
    test_put(test_in(out, "labels/train/mine.txt"), "0 0.5 0.5 0.5 0.5\n");
    test_put_picture(test_in(out, "images/train/b/new.bmp"), 99);
    test_put_picture(test_in(source, "b/new.bmp"), 5);
    lines = (test_lines){0};
    CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train == 4, "%s", error.message);
    CHECK(strstr(lines.text, "kept: changed since it was prepared") && strstr(lines.text, "kept: another picture than") && test_there(out, "labels/train/mine.txt"));
    CHECK(!strcmp(test_content(label), "1 0.5 0.5 0.5 0.5\n"));
    test_put(test_in(source, "labels/classes.txt"), "dog\ncat\n");
    CHECK(yolo_prepare(options, &r, &error) == YOLO_ERROR_USAGE && strstr(error.message, "classes.txt:1: found 'cat', expected 'dog'"));
}

static void test_prepare_modes(void) {
    char source[512], out[600];
    yolo_error error = {0};
    yolo_prepare_report r;
    test_lines lines = {0};
    int64_t n;
    char names[600];
    snprintf(source, sizeof source, "%s", test_folder("modes"));
    snprintf(out, sizeof out, "%s", test_folder("modes out"));
    test_put(test_in(source, "names.txt"), "a\nb\nc\n");
    for (int i = 0; i < 20; i++) test_put_labelled(source, i & 1, i, (uint32_t)i + 1);
    yolo_prepare_options options = test_prepare_options(source, out, &lines);
    CHECK(yolo_prepare(options, &r, &error) == YOLO_ERROR_IO && strstr(error.message, "classes.txt: no such file"));
    snprintf(names, sizeof names, "%s/names.txt", source);
    options.classes = names;
    options.progress = YOLO_PROGRESS_PLAIN;
    for (int m = 0; m < 3; m++) {
        static const char *const modes[] = {"list", "link", "copy"};
        options.mode = modes[m];
        lines = (test_lines){0};
        CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train + r.val == 20 && r.val > 0 && r.boxes == 20, "%s: %s", modes[m], error.message);
        CHECK(strstr(lines.text, "PrepProgress:100%\n"));
        CHECK_MSG((test_open(test_in(out, "data.yaml"), "train", &n), n) == r.train, "%s: %d", modes[m], (int)n);
        CHECK((test_open(test_in(out, "data.yaml"), "val", &n), n) == r.val);
        CHECK(test_there(out, "train.txt") && test_there(out, "prepared.tsv") == (m > 0));
    }
    options.val = 1e-9; /* nobody is drawn: one is taken all the same */
    CHECK(yolo_prepare(options, &r, &error) == YOLO_OK && r.val == 1 && r.train == 19);
    struct { const char *source, *out, *mode; double val; const char *message; } wrong[] = {
        {source, source, "copy", 20, "is the source itself"}, {source, out, "move", 20, "mode=move: expected copy, link or list"},
        {source, out, "copy", 101, "val=101: expected a share"}, {source, out, "copy", (double)NAN, "expected a share"}, {"", out, "copy", 20, "source: found nothing"},
        {test_in(source, "none"), out, "copy", 20, "none: no such folder"}, {test_in(out, "images"), out, "copy", 20, "is a folder that out="},
        {test_folder("empty"), out, "copy", 20, "found no picture"}};
    for (int i = 0; i < YOLO_COUNT(wrong); i++) {
        options.source = wrong[i].source;
        options.out = wrong[i].out;
        options.mode = wrong[i].mode;
        options.val = wrong[i].val;
        CHECK_MSG(yolo_prepare(options, &r, &error) != YOLO_OK && strstr(error.message, wrong[i].message), "%d: %s", i, error.message);
    }
    yolo_interrupt();
    options = test_prepare_options(source, out, NULL);
    options.classes = names;
    CHECK(yolo_prepare(options, &r, &error) == YOLO_ERROR_INTERRUPTED);
    yolo_interrupt_clear();
}

static void test_prepare_faults(void) {
    char source[512], out[600];
    snprintf(source, sizeof source, "%s", test_folder("prepare faults"));
    test_put(test_in(source, "classes.txt"), "a\nb\nc\n");
    for (int i = 0; i < 3; i++) test_put_labelled(source, i & 1, i, (uint32_t)i + 1);
    snprintf(out, sizeof out, "%s", test_folder("prepare faults out"));
    bool passed = false;
    int n = 1;
    yolo_prepare_report r;
    yolo_error error = {0};
    for (; n < 2000 && !passed; n++) {
        os_atomic_set(&mem_fail_after, n);
        yolo_status status = yolo_prepare(test_prepare_options(source, out, NULL), &r, &error);
        passed = os_atomic_get(&mem_fail_after) > 0;
        os_atomic_set(&mem_fail_after, 0);
        CHECK_MSG(!passed || status == YOLO_OK, "allocation %d: %s", n, error.message);
    }
    CHECK_MSG(passed && n > 50, "%d allocations", n);
    CHECK(yolo_prepare(test_prepare_options(source, out, NULL), &r, &error) == YOLO_OK && r.train + r.val == 3 && r.boxes == 3);
}

/* What a picture looks like in small, of photographs as they are and changed in ways that leave them the same to the eye. */
static void test_prepare_alike(void) {
    enum { WAYS = 4, STEP = 6 };
    static const char *const ways[WAYS] = {"compressed again", "half as large", "three quarters as large", "3 % brighter"};
    data_list found = {0};
    yolo_error error;
    if (!test_shared("data/coco128/images/train2017")) SKIP("no ../shared/data/coco128");
    CHECK(data_walk(test_shared("data/coco128/images/train2017"), &found, &error) == YOLO_OK && found.count == 128);
    const int64_t count = test_cases(128);
    prep_look *looks = mem_array((uint64_t)count, sizeof *looks);
    int64_t group[128], alike = 0, pairs = 0;
    int worst[WAYS] = {0};
    for (int64_t i = 0; looks && i < count; i++) {
        yolo_image image = {0};
        CHECK_MSG(codec_read(found.paths[i], &image, &error) == YOLO_OK, "%s", error.message);
        prep_look_at(&image, &looks[i]);
        for (int w = 0; w < WAYS && i % STEP == 0; w++) {
            yolo_image changed = {.width = w == 1 ? image.width / 2 : w == 2 ? image.width * 3 / 4 : image.width, .height = w == 1 ? image.height / 2 : w == 2 ? image.height * 3 / 4 : image.height};
            size_t size = (size_t)changed.width * (size_t)changed.height * 3;
            changed.pixels = mem_alloc(size);
            img_resize(&image, changed.width, changed.height, changed.pixels, (size_t)changed.width * 3);
            for (size_t k = 0; w == 3 && k < size; k++) changed.pixels[k] = (uint8_t)YOLO_MIN(changed.pixels[k] * 1.03 + 0.5, 255.0);
            CHECK(codec_write(test_temp("changed.jpg"), &changed, &error) == YOLO_OK);
            mem_free(changed.pixels);
            CHECK(codec_read(test_temp("changed.jpg"), &changed, &error) == YOLO_OK);
            prep_look look;
            prep_look_at(&changed, &look);
            int difference = prep_difference(&looks[i], &look);
            CHECK_MSG(difference <= PREP_APART, "%s, %s", found.paths[i], ways[w]);
            worst[w] = YOLO_MAX(worst[w], difference);
            mem_free(changed.pixels);
        }
        mem_free(image.pixels);
        for (int64_t k = 0; k < i; k++, pairs++) alike += prep_difference(&looks[i], &looks[k]) != INT_MAX;
    }
    CHECK(prep_group_alike(looks, count, group, &error) == YOLO_OK);
    for (int64_t i = 0; i < count; i++) CHECK(group[i] == i);
    printf("    %d of %d pairs of photographs are alike; the same changed differs by %d, %d, %d, %d at most of the %d let pass\n", (int)alike, (int)pairs, worst[0], worst[1], worst[2], worst[3], PREP_APART);
    CHECK(alike == 0 && pairs == count * (count - 1) / 2);
    mem_free(looks);
    data_list_free(&found);
}

/* A picture of `from`, a little brighter and without a label. */
static void test_put_brighter(const char *from, const char *to, double factor) {
    yolo_image image = {0};
    yolo_error error;
    CHECK_MSG(codec_read(from, &image, &error) == YOLO_OK, "%s", error.message);
    for (size_t k = 0; k < (size_t)image.width * (size_t)image.height * 3; k++) image.pixels[k] = (uint8_t)YOLO_MIN(image.pixels[k] * factor + 0.5, 255.0);
    CHECK_MSG(codec_write(to, &image, &error) == YOLO_OK, "%s", error.message);
    mem_free(image.pixels);
}

/* The side of a picture in out: 1 val, 0 train, -1 neither, -2 both. */
static int test_side(const char *out, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "images/train/%s", name);
    const bool train = test_there(out, path);
    snprintf(path, sizeof path, "images/val/%s", name);
    const bool val = test_there(out, path);
    return train && val ? -2 : val ? 1 : train ? 0 : -1;
}

/* A new near-duplicate follows the picture that is there, from scratch too, and even where that is gone from the source. */
static void test_prepare_follow(void) {
    enum { N = 60, CHANGED = 20 };
    char source[512], out[600], fresh[600], name[40], twin[40];
    snprintf(source, sizeof source, "%s", test_folder("follow"));
    snprintf(out, sizeof out, "%s", test_folder("follow out"));
    snprintf(fresh, sizeof fresh, "%s", test_folder("follow fresh"));
    yolo_error error = {0};
    yolo_prepare_report r;
    test_lines lines = {0};
    int sides[N], val = 0;
    CHECK_MSG(demo_draw(source, 3, 0, N, &error) == YOLO_OK, "%s", error.message);
    yolo_prepare_options options = test_prepare_options(source, out, &lines);
    options.val = 0.4;
    CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train + r.val == N && !r.near_duplicates && !r.leaks, "%s: %d alike", error.message, (int)r.near_duplicates);
    data_list found = {0};
    CHECK(data_walk(source, &found, &error) == YOLO_OK && found.count == N);
    for (int i = 0; i < N; i++) {
        sides[i] = test_side(out, path_name(found.paths[i]));
        val += sides[i] == 1;
        CHECK(sides[i] >= 0);
    }
    CHECK(val > 10 && val < 40);
    for (int i = 0; i < CHANGED; i++) {
        snprintf(name, sizeof name, "changed/%02d.png", i);
        snprintf(twin, sizeof twin, "changed/again%02d.jpg", i);
        CHECK(path_make_directories(test_in(source, "changed"), &error) == YOLO_OK);
        test_put_brighter(found.paths[i], test_in(source, name), 1.03);
        if (i % 2) test_put_brighter(found.paths[i], test_in(source, twin), 0.97);
    }
    for (int way = 0; way < 2; way++) { /* into the same folder, and into a new one */
        options.out = way ? fresh : out;
        lines = (test_lines){0};
        CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.near_duplicates == CHANGED + CHANGED / 2 && !r.leaks, "%s: %d alike, %d leaks", error.message, (int)r.near_duplicates, (int)r.leaks);
        CHECK_MSG(strstr(lines.text, ": looks like ") && strstr(lines.text, "22 more near-duplicates"), "%s", lines.text);
        for (int i = 0; i < N; i++) {
            int side = test_side(options.out, path_name(found.paths[i]));
            CHECK(way || side == sides[i]);
            snprintf(name, sizeof name, "changed/%02d.png", i);
            snprintf(twin, sizeof twin, "changed/again%02d.jpg", i);
            if (i < CHANGED) CHECK_MSG(test_side(options.out, name) == side && (i % 2 == 0 || test_side(options.out, twin) == side), "%s: %d", name, side);
        }
    }
    for (int i = 0; i < CHANGED; i++) { /* another one of those that are gone */
        snprintf(name, sizeof name, "changed/%02d.png", i);
        snprintf(twin, sizeof twin, "later/%02d.png", i);
        CHECK(path_make_directories(test_in(source, "later"), &error) == YOLO_OK);
        test_put_brighter(found.paths[i], test_in(source, twin), 1.01);
        CHECK(os_remove(test_in(source, name)) && os_remove(found.paths[i]));
        snprintf(name, sizeof name, "changed/again%02d.jpg", i);
        if (i % 2) CHECK(os_remove(test_in(source, name)));
    }
    options.out = out;
    CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train + r.val == N && !r.near_duplicates, "%s", error.message);
    for (int i = 0; i < N; i++) {
        snprintf(twin, sizeof twin, "later/%02d.png", i);
        CHECK_MSG(test_side(out, i < CHANGED ? twin : path_name(found.paths[i])) == sides[i], "%d", i);
    }
    options.alike = false; /* each by itself */
    options.out = fresh;
    CHECK(yolo_prepare(options, &r, &error) == YOLO_OK && !r.near_duplicates);
    data_list_free(&found);
}

/* Rare classes are on both sides; the first run decides, whatever comes later. */
static void test_prepare_classes(void) {
    enum { RARE = 8, SINGLE = 4 };
    char source[512], out[600], place[100];
    snprintf(source, sizeof source, "%s", test_folder("rare"));
    test_put(test_in(source, "classes.txt"), "common\na\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n");
    for (int i = 0; i < 200; i++) {
        snprintf(place, sizeof place, "common/%d.bmp", i);
        test_put_picture(test_in(source, place), (uint32_t)i + 1);
        snprintf(place, sizeof place, "common/%d.txt", i);
        test_put(test_in(source, place), "0 0.5 0.5 0.2 0.2\n");
    }
    for (int i = 0; i < RARE * 3; i++) { /* three of each: 0.6 of a picture are due to val */
        char label[60];
        snprintf(place, sizeof place, "rare/%d.bmp", i);
        test_put_picture(test_in(source, place), (uint32_t)i + 1001);
        snprintf(place, sizeof place, "rare/%d.txt", i);
        snprintf(label, sizeof label, "%d 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.1 0.1\n", i / 3 + 1);
        test_put(test_in(source, place), label);
    }
    for (int i = 0; i < SINGLE; i++) { /* one of each: for train */
        char label[60];
        snprintf(place, sizeof place, "single/%d.bmp", i);
        test_put_picture(test_in(source, place), (uint32_t)i + 2001);
        snprintf(place, sizeof place, "single/%d.txt", i);
        snprintf(label, sizeof label, "%d 0.5 0.5 0.2 0.2\n", RARE + 1 + i);
        test_put(test_in(source, place), label);
    }
    yolo_error error = {0};
    yolo_prepare_report r;
    test_lines lines = {0};
    const int seeds = test_cases(6);
    int moved = 0;
    for (int seed = 0; seed < seeds; seed++) {
        snprintf(out, sizeof out, "%s", test_folder("rare out"));
        yolo_prepare_options options = test_prepare_options(source, out, &lines);
        options.seed = (uint64_t)seed;
        lines = (test_lines){0};
        CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train + r.val == 200 + RARE * 3 + SINGLE, "%s", error.message);
        CHECK_MSG(strstr(lines.text, "no box in val of: i, j, k, l") && !strstr(lines.text, "no box in train"), "%s", lines.text);
        for (int i = 0; i < RARE; i++) {
            int val = 0;
            for (int k = 0; k < 3; k++) {
                snprintf(place, sizeof place, "rare/%d.bmp", i * 3 + k);
                val += test_side(out, place);
            }
            CHECK_MSG(val == 1 || val == 2, "class %d: %d in val", i + 1, val);
        }
        const char *report = test_content(test_in(out, "report.json"));
        for (const char *p = strstr(report, "moved_for_a_class"), *end = p ? strstr(p, "]") : NULL; p && (p = strstr(p + 1, "\"picture\"")) != NULL && p < end;) moved++;
    }
    CHECK_MSG(moved > seeds, "%d moved of %d classes, half of which chance leaves out of val", moved, seeds * RARE);
    int sides[RARE * 3]; /* a new picture that the draw puts into val changes nothing */
    for (int i = 0; i < RARE * 3; i++) snprintf(place, sizeof place, "rare/%d.bmp", i), sides[i] = test_side(out, place);
    for (int i = 0; i < 40; i++) {
        char label[60];
        snprintf(place, sizeof place, "new/%d.bmp", i);
        test_put_picture(test_in(source, place), (uint32_t)i + 5001);
        snprintf(place, sizeof place, "new/%d.txt", i);
        snprintf(label, sizeof label, "%d 0.5 0.5 0.2 0.2\n", i % RARE + 1);
        test_put(test_in(source, place), label);
    }
    yolo_prepare_options options = test_prepare_options(source, out, &lines);
    options.seed = (uint64_t)seeds - 1;
    CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train + r.val == 240 + RARE * 3 + SINGLE, "%s", error.message);
    for (int i = 0; i < RARE * 3; i++) {
        snprintf(place, sizeof place, "rare/%d.bmp", i);
        CHECK_MSG(test_side(out, place) == sides[i], "%s", place);
    }
}

/* Names that are one to some file systems. */
static void test_prepare_names(void) {
    static const char *const same[][2] = {
        {"A", "a"}, {"\xc3\xa9", "e\xcc\x81"}, {"\xc3\x89", "e\xcc\x81"}, {"\xea\xb0\x81", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8"},
        {"\xe3\x81\x8c", "\xe3\x81\x8b\xe3\x82\x99"}, {"\xe3\x83\x91", "\xe3\x83\x8f\xe3\x82\x9a"}, {"\xd0\xb9", "\xd0\xb8\xcc\x86"}, {"\xc5\x8d", "o\xcc\x84"},
        {"\xce\xa9", "\xcf\x89"}, {"\xce\xac", "\xce\xb1\xcc\x81"}, {"\xd0\x94", "\xd0\xb4"}, {"\xe1\xbb\x87", "e\xcc\xa3\xcc\x82"}};
    static const char *const other[][2] = {{"a", "b"}, {"\xea\xb0\x80", "\xeb\x82\x98"}, {"\xe3\x81\x8b", "\xe3\x81\x8d"}, {"\xd0\xb0", "\xd0\xb1"}, {"e", "\xc3\xa9"}};
    arena memory = {0};
    for (int k = 0; k < YOLO_COUNT(same) + YOLO_COUNT(other); k++) {
        const char *const *pair = k < YOLO_COUNT(same) ? same[k] : other[k - YOLO_COUNT(same)];
        char *a = prep_fold_name(&memory, pair[0], strlen(pair[0])), *b = prep_fold_name(&memory, pair[1], strlen(pair[1]));
        CHECK_MSG(a && b && !strcmp(a, b) == (k < YOLO_COUNT(same)), "%s and %s: %s and %s", pair[0], pair[1], a, b);
    }
    char source[512], out[600], name[60];
    snprintf(source, sizeof source, "%s", test_folder("names"));
    snprintf(out, sizeof out, "%s", test_folder("names out"));
    test_put(test_in(source, "classes.txt"), "a\n");
    for (int k = 0; k < 2 * YOLO_COUNT(same); k++) { /* folders called images are left out of the names in out */
        snprintf(name, sizeof name, "%s%02d%s.bmp", k % 2 ? "images/" : "", k / 2, same[k / 2][k % 2]);
        test_put_picture(test_in(source, name), (uint32_t)k + 1);
    }
    yolo_error error = {0};
    yolo_prepare_report r;
    data_list found = {0};
    CHECK_MSG(yolo_prepare(test_prepare_options(source, out, NULL), &r, &error) == YOLO_OK && r.train + r.val == 2 * YOLO_COUNT(same), "%s", error.message);
    CHECK_MSG(data_walk(out, &found, &error) == YOLO_OK && found.count == 2 * YOLO_COUNT(same), "%d", (int)found.count);
    for (int64_t i = 0; i < found.count; i++)
        for (int64_t k = 0; k < i; k++) {
            const char *x = path_name(found.paths[i]), *y = path_name(found.paths[k]);
            char *a = prep_fold_name(&memory, x, strlen(x)), *b = prep_fold_name(&memory, y, strlen(y));
            CHECK_MSG(a && b && strcmp(a, b), "%s and %s", x, y);
        }
    data_list_free(&found);
    arena_free(&memory);
}

/* The index finds what comparing all with all finds; many pictures of one scene and even ones take no longer. */
static void test_prepare_groups(void) {
    const int64_t few = test_cases(2000), many = test_cases(20000);
    prep_look *looks = mem_array((uint64_t)many, sizeof *looks);
    int64_t *group = mem_array((uint64_t)many, sizeof *group), *slow = mem_array((uint64_t)few, sizeof *slow);
    rng r = {.key = 5};
    yolo_error error;
    for (int64_t i = 0; i < many; i++) { /* every third: an earlier one with up to 7 other bits and up to 20 in a cell */
        prep_look *look = &looks[i];
        look->sight = i % 50 == 7 ? PREP_BLANK : PREP_WHOLE;
        look->hash = rng_next(&r) & ~(uint64_t)1;
        for (int k = 0; k < PREP_CELLS * PREP_CELLS; k += 8) {
            uint64_t bits = rng_next(&r);
            for (int b = 0; b < 8; b++) look->cells[k + b] = (int8_t)((int)(bits >> b * 8 & 127) - 64);
        }
        if (i % 3 || !i) continue;
        const prep_look *from = &looks[rng_next(&r) % (uint64_t)i];
        uint64_t hash = from->hash;
        memcpy(look->cells, from->cells, sizeof look->cells);
        for (uint64_t k = rng_next(&r) % 9; k > 0; k--) hash ^= (uint64_t)2 << rng_next(&r) % 63;
        look->hash = hash;
        look->cells[i % 256] = (int8_t)(look->cells[i % 256] + 5 + (int)(rng_next(&r) % 20));
    }
    for (int64_t i = 0; i < few; i++) {
        slow[i] = i;
        for (int64_t k = 0; k < i; k++)
            if (prep_difference(&looks[i], &looks[k]) != INT_MAX) {
                int64_t a = prep_group_of(slow, i), b = prep_group_of(slow, k);
                slow[YOLO_MAX(a, b)] = YOLO_MIN(a, b);
            }
    }
    CHECK(prep_group_alike(looks, few, group, &error) == YOLO_OK);
    int64_t grouped = 0, differ = 0;
    for (int64_t i = 0; i < few; i++) {
        grouped += group[i] != i;
        differ += group[i] != prep_group_of(slow, i);
    }
    CHECK_MSG(!differ && grouped > few / 5, "%d of %d grouped, %d otherwise than by comparing all", (int)grouped, (int)few, (int)differ);
    double start = os_clock();
    CHECK(prep_group_alike(looks, many, group, &error) == YOLO_OK);
    const double apart = os_clock() - start;
    for (int64_t i = 1; i < many; i++) { /* one scene in which something moves far or hardly */
        looks[i] = looks[1];
        looks[i].cells[i % 256] = (int8_t)(looks[i].cells[i % 256] / 2 + (int)(i / 256 % 2 * 60));
    }
    start = os_clock();
    CHECK(prep_group_alike(looks, many, group, &error) == YOLO_OK);
    printf("    %d pictures grouped in %.2f s, of one scene in %.2f s\n", (int)many, apart, os_clock() - start);
    CHECK(os_clock() - start < 60 && apart < 60);
    mem_free(looks);
    mem_free(group);
    mem_free(slow);
}

/* A damaged or hostile prepared.tsv, split.tsv, classes.txt or label: an error or a result, and the source as it was. */
static void test_prepare_mutations(void) {
    static const char *const names[] = {"prepared.tsv", "classes.txt", "data.yaml", "split.tsv"};
    char source[512], out[512], victim[600], path[600];
    snprintf(source, sizeof source, "%s", test_folder("prepare mutations"));
    snprintf(out, sizeof out, "%s", test_folder("prepare mutations out"));
    snprintf(victim, sizeof victim, "%s", test_temp("victim.bmp"));
    test_put(test_in(source, "classes.txt"), "a\nb\nc\n");
    for (int i = 0; i < 3; i++) test_put_labelled(source, i & 1, i, (uint32_t)i + 1);
    test_put_picture(victim, 1);
    yolo_prepare_options options = test_prepare_options(source, out, NULL);
    yolo_prepare_report r;
    yolo_error error;
    rng random = {.key = 18};
    uint64_t before = test_tree_sum(source, NULL);
    for (int i = 0; i < test_cases(300) && !test_failures; i++) {
        uint8_t *bytes;
        size_t size;
        CHECK_MSG(yolo_prepare(options, &r, &error) == YOLO_OK && r.train + r.val == 3, "%s", error.message);
        snprintf(path, sizeof path, "%s/%s", out, names[i % YOLO_COUNT(names)]);
        if (path_read(path, 1 << 20, &bytes, &size, &error) != YOLO_OK) continue;
        for (int k = 0; k < 4 && size; k++) bytes[rng_next(&random) % size] = (uint8_t)rng_next(&random);
        CHECK(path_write(path, bytes, size - rng_next(&random) % (size / 2 + 1), false, &error) == YOLO_OK);
        mem_free(bytes);
        if (i % 8 == 0) options.val = (double)(rng_next(&random) % 101);
        if (yolo_prepare(options, &r, &error) != YOLO_OK) CHECK_MSG(os_remove(path), "%s", error.message);
    }
    snprintf(path, sizeof path, "%s/prepared.tsv", out); /* a row that leads outside */
    test_put(path, "images/../../victim.bmp\t0000000000000000\t-\nimages/../../../victim.bmp\t\n");
    CHECK(yolo_prepare(options, &r, &error) == YOLO_OK && os_path_kind(victim) == OS_FILE);
    CHECK(test_tree_sum(source, NULL) == before);
}

static void test_prepare_coco(void) {
    char source[1100], out[600];
    if (!test_shared("data/coco128")) SKIP("no ../shared/data/coco128");
    snprintf(source, sizeof source, "%s", test_shared("data/coco128"));
    snprintf(out, sizeof out, "%s", test_folder("coco128 out"));
    yolo_prepare_report r;
    yolo_error error = {0};
    CHECK_MSG(yolo_prepare(test_prepare_options(source, out, NULL), &r, &error) == YOLO_OK, "%s", error.message);
    CHECK_MSG(r.train + r.val == 128 && r.boxes == 929 && r.unlabelled == 2 && !r.bad_lines && !r.damaged, "%d %d %d %d %d %d", (int)r.train, (int)r.val, (int)r.boxes,
              (int)r.unlabelled, (int)r.bad_lines, (int)r.damaged);
}

/* A photograph that was cut off has a sound header; only decoding it tells. */
static void test_prepare_cut_off(void) {
    char source[512], out[600];
    if (!test_shared("data/coco128/images/train2017/000000000009.jpg")) SKIP("no ../shared/data/coco128");
    uint8_t *bytes;
    size_t size;
    yolo_error error = {0};
    test_lines lines = {0};
    yolo_prepare_report r;
    CHECK(path_read(test_shared("data/coco128/images/train2017/000000000009.jpg"), 1 << 24, &bytes, &size, &error) == YOLO_OK);
    snprintf(source, sizeof source, "%s", test_folder("cut"));
    snprintf(out, sizeof out, "%s", test_folder("cut out"));
    test_put(test_in(source, "classes.txt"), "a\n");
    CHECK(path_write(test_in(source, "whole.jpg"), bytes, size, false, &error) == YOLO_OK);
    CHECK(path_write(test_in(source, "cut.jpg"), bytes, size / 3, false, &error) == YOLO_OK);
    mem_free(bytes);
    CHECK(yolo_prepare(test_prepare_options(source, out, &lines), &r, &error) == YOLO_OK);
    CHECK_MSG(r.train + r.val == 1 && r.unlabelled == 1 && r.damaged == 1 && strstr(lines.text, "left out: ") && strstr(lines.text, "cut.jpg: "), "%d %d\n%s", (int)r.train,
              (int)r.damaged, lines.text);
}

static const test_case tests_prepare[] = {
    {"prepare_thousand", "1,000 same-named pictures in 10 folders; new ones; another share", test_prepare_thousand},
    {"prepare_kinds", "background, damaged, duplicate, cleaned labels; a person's files stay", test_prepare_kinds},
    {"prepare_modes", "copy, link, list; wrong options; interruption", test_prepare_modes},
    {"prepare_faults", "every allocation fails once; the next run finishes", test_prepare_faults},
    {"prepare_alike", "photographs changed a little are near-duplicates, others are not", test_prepare_alike},
    {"prepare_follow", "near-duplicates are on the side of what they look like, new ones too", test_prepare_follow},
    {"prepare_classes", "rare classes are on both sides and stay there", test_prepare_classes},
    {"prepare_names", "names that are one to some file systems: case, NFC and NFD", test_prepare_names},
    {"prepare_groups", "near-duplicates among many as by comparing all; 20,000 pictures", test_prepare_groups},
    {"prepare_mutations", "300 damaged or hostile files in out", test_prepare_mutations},
    {"prepare_cut_off", "a truncated photograph is noticed", test_prepare_cut_off},
    {"prepare_coco", "the 128 photographs", test_prepare_coco},
};
