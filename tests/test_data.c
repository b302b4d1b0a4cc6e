/* Section 9: yaml, class names, labels, data.yaml, folders of pictures. tests/oracle_data.py compares with PyYAML and
   ultralytics themselves. */

#define KOREAN "\xed\x95\x9c\xea\xb8\x80 \xec\x82\xac\xec\xa7\x84" /* a folder with a blank in its Korean name */

/* The lines a log was given, one after another. */
typedef struct test_lines { char text[8192]; int count; } test_lines;

static void test_lines_write(void *user, yolo_log_level level, const char *text) {
    test_lines *lines = user;
    size_t length = strlen(lines->text);
    (void)level;
    lines->count++;
    snprintf(lines->text + length, sizeof lines->text - length, "%s\n", text);
}

static void test_put(const char *path, const char *text) {
    yolo_error error;
    char *folder = path_parent(path);
    CHECK_MSG(path_make_directories(folder, &error) == YOLO_OK, "%s", error.message);
    CHECK_MSG(path_write(path, text, strlen(text), false, &error) == YOLO_OK, "%s", error.message);
    mem_free(folder);
}

static bool test_remove_entry(void *user, const char *name, os_kind kind) {
    char *path = path_join(user, name);
    if (kind != OS_DIRECTORY) os_remove(path);
    else {
        os_list_directory(path, test_remove_entry, path);
#ifdef _WIN32
        wchar_t *wide = os_wide(path);
        RemoveDirectoryW(wide);
        free(wide);
#else
        if (unlink(path)) rmdir(path); /* a link to a folder, or a folder */
#endif
    }
    mem_free(path);
    return true;
}

/* A fresh, empty folder in the scratch folder. */
static const char *test_folder(const char *name) {
    yolo_error error;
    const char *path = test_temp(name);
    os_list_directory(path, test_remove_entry, (void *)(uintptr_t)path);
    CHECK(path_make_directories(path, &error) == YOLO_OK);
    return path;
}

static const char *test_in(const char *folder, const char *name) {
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ & 7];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* The text of a small file, or what went wrong. Valid until the next call. */
static const char *test_content(const char *path) {
    static char text[8192];
    uint8_t *bytes;
    size_t size;
    yolo_error error;
    if (path_read(path, sizeof text - 1, &bytes, &size, &error) != YOLO_OK) snprintf(text, sizeof text, "%s", error.message);
    else {
        memcpy(text, bytes, size + 1);
        mem_free(bytes);
    }
    return text;
}

/* The document as it is written again, or the error. */
static const char *test_yaml(const char *text) {
    static char result[4096];
    arena memory = {0};
    val *root;
    yolo_error error;
    str s = {0};
    if (yaml_parse(&memory, "d.yaml", text, strlen(text), &root, &error) != YOLO_OK) snprintf(result, sizeof result, "%s", error.message);
    else {
        yaml_write(&s, root);
        snprintf(result, sizeof result, "%s", s.text);
    }
    str_free(&s);
    arena_free(&memory);
    return result;
}

static void test_yaml_reads(void) {
    struct { const char *text, *expected; } cases[] = {
        {"path: .\ntrain: images/a # c\nnames:\n  0: person\n  1: no\n", "path: .\ntrain: images/a\nnames:\n  0: person\n  1: false\n"},
        {"\xef\xbb\xbf" "a: 1\r\nb:\r\n- x\r\n", "a: 1\nb:\n- x\n"},
        {"head:\n  - [-1, 1, nn.Upsample, [None, 2, \"nearest\"]]\n  - [[-1, 6], 1, Concat, [1]]\n",
         "head:\n- - -1\n  - 1\n  - nn.Upsample\n  - - None\n    - 2\n    - nearest\n- - - -1\n    - 6\n  - 1\n  - Concat\n  - - 1\n"},
        {"a: [1,\n 2, # c\n {x: y}]\nb: {}\nc: []", "a:\n- 1\n- 2\n- x: y\nb: {}\nc: []\n"},
        {"a: 1e-3\nb: 1.0e-3\nc: 0x1F\nd: 010\ne: 1_000\nf: .inf\ng: 1:30\nh: ~\ni: ON\nj: 08\n",
         "a: 1e-3\nb: 0.001\nc: 31\nd: 8\ne: 1000\nf: .inf\ng: 90\nh: null\ni: true\nj: 08\n"},
        {"a: 1\nb: 2\na: 3\n", "a: 3\nb: 2\n"},
        {"a: |\n  x\n   y\nb: >-\n  x\n  y\nc: 'it''s'\nd: \"\\u00e9\\n\"\n", "a: \"x\\n y\\n\"\nb: x y\nc: it's\nd: '\xc3\xa9\n\n  '\n"},
        {"a: x\n  y\n\n  z\n", "a: 'x y\n\n  z'\n"},
        {"---\n- a\n...\n", "- a\n"},
        {"a:\n\tb: 1", "d.yaml:2: found a tab in the indentation, expected spaces"},
        {"a: 1\n b: 2", "d.yaml:2: found ': ' within a value, expected a value (quote it if the colon belongs to it)"},
        {"a:\n  b: 1\n c: 2", "d.yaml:3: found an indentation of 1, expected 0"},
        {"a: [1, 2\nb: 3", "d.yaml:1: found '[' without its partner, expected ']'"},
        {"a: [1, 2", "d.yaml:1: found '[' without its partner, expected ']'"},
        {"x: 1\na: 'b", "d.yaml:2: found an opening ' without its partner, expected a closing '"},
        {"a: &x 1", "d.yaml:1: found '&', expected a value (anchors, aliases and tags are not supported)"},
        {"a: 1\n---\nb: 2", "d.yaml:2: found a second document, expected one"},
        {"a: \x01", "d.yaml:1: found control character 1, expected text"},
        {"a: 1\nb: \xb0\xa1", "d.yaml:2: found bytes that are not UTF-8, expected the file to be saved as UTF-8"},
        {"a: \"\\q\"", "d.yaml:1: found 'q' after a backslash, expected an escape"},
        {"just words", "just words\n"},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const char *got = test_yaml(cases[i].text);
        CHECK_MSG(!strcmp(got, cases[i].expected), "%s\n-- gave --\n%s\n-- expected --\n%s", cases[i].text, got, cases[i].expected);
    }
    char deep[4000];
    memset(deep, '[', 2000);
    deep[2000] = 0;
    CHECK_MSG(strstr(test_yaml(deep), "nested collections"), "%s", test_yaml(deep));
    for (int i = 0; i < 1000; i++) memcpy(deep + 2 * i, "- ", 3);
    CHECK_MSG(strstr(test_yaml(deep), "nested collections"), "%s", test_yaml(deep));
}

static void test_numbers(void) {
    const char *good[] = {"0", "-0.5", "1e3", ".5", "5.", "0.1", "123456789012345678901234567890", "1e-400", "2.2250738585072011e-308", "1E+22", "1e23", "+7"};
    const char *bad[] = {"", "-", ".", "e5", "1e", "1e+", "0x10", "inf", "nan", "1,5", "1 ", " 1", "1.2.3", "--1"};
    double number;
    for (int i = 0; i < YOLO_COUNT(good); i++) {
        CHECK_MSG(str_to_number(good[i], strlen(good[i]), &number), "%s", good[i]);
        CHECK_MSG(number == strtod(good[i], NULL), "%s: %.17g", good[i], number);
    }
    for (int i = 0; i < YOLO_COUNT(bad); i++) CHECK_MSG(!str_to_number(bad[i], strlen(bad[i]), &number), "%s", bad[i]);
    struct { double number; const char *text; } reprs[] = {{0.1, "0.1"}, {1, "1.0"}, {-0.0, "-0.0"}, {1e16, "1e+16"}, {123456.75, "123456.75"},
        {1e-5, "1e-05"}, {1.5e-7, "1.5e-07"}, {0.0001, "0.0001"}, {1e15, "1000000000000000.0"}, {5e-324, "5e-324"}, {1.0 / 3, "0.3333333333333333"}};
    for (int i = 0; i < YOLO_COUNT(reprs); i++) {
        char text[40];
        yaml_repr(text, reprs[i].number);
        CHECK_MSG(!strcmp(text, reprs[i].text), "%s against %s", text, reprs[i].text);
    }
}

static const char *test_names(const char *text, int *count) {
    static char result[1000];
    arena memory = {0};
    yolo_error error;
    char **names;
    const char *path = test_temp("classes.txt");
    test_put(path, text);
    if (data_read_names(path, &memory, &names, count, &error) != YOLO_OK) snprintf(result, sizeof result, "%s", strstr(error.message, "classes.txt"));
    else {
        result[0] = 0;
        for (int i = 0; i < *count; i++) snprintf(result + strlen(result), sizeof result - strlen(result), "%s|", names[i]);
    }
    arena_free(&memory);
    return result;
}

static void test_class_names(void) {
    int n;
    CHECK(!strcmp(test_names("\xef\xbb\xbf" "person\r\ntraffic light \r\n" KOREAN "\r\n\r\n\r\n", &n), "person|traffic light|" KOREAN "|") && n == 3);
    CHECK(!strcmp(test_names("a", &n), "a|"));
    CHECK_MSG(!strcmp(test_names("a\n\nb\n", &n), "classes.txt:2: found an empty line, expected a class name"), "%s", test_names("a\n\nb\n", &n));
    CHECK(!strcmp(test_names("a\nb\nc\nb\na\n", &n), "classes.txt:4: found 'b' again after line 2, expected each name once"));
    CHECK(!strcmp(test_names("a\n\xb0\xa1\n", &n), "classes.txt:2: found bytes that are not UTF-8, expected a class name saved as UTF-8"));
    CHECK(!strcmp(test_names("\n \n", &n), "classes.txt: found no name, expected a class name a line"));
}

static void test_labels_read(void) {
    const char *path = test_temp("labels.txt");
    test_lines lines = {0};
    yolo_log log = {test_lines_write, &lines};
    lbl_list list;
    yolo_error error;
    test_put(path, "\xef\xbb\xbf" "0 0.5 0.5 0.2 0.4\r\n"
                   "2.0 0.25 0.25 1.005 0\n"            /* within ultralytics' one per cent; no area */
                   "\n"
                   "0 0.5 0.5 0.2 0.4\n"                /* again */
                   "1 0.1 0.1 0.3 0.1 0.3 0.5\n"        /* a triangle */
                   "1 0.3 0.3 0.3 0.3 0.9\n"            /* with its confidence */
                   "0 -0.005 0.5 0.1 0.1\n"
                   "0 0.5 0.5 0.2\n" "3 0.5 0.5 0.2 0.4\n" "0 0.5 1.2 0.2 0.4\n" "0 0.5 0.5 -0.001 0.4\n" "0 nan 0.5 0.2 0.4\n"
                   "-1 0.5 0.5 0.2 0.4\n" "0.5 0.5 0.5 0.2 0.4\n" "0 1e999 0.5 0.2 0.4\n" "1 0.1 0.1 0.3 0.1 0.3 0.5 0.2\n");
    CHECK(lbl_read(path, 3, &list, &log, &error) == YOLO_OK);
    CHECK_MSG(list.count == 5 && list.duplicates == 1 && list.bad_lines == 9, "%d %d %d", (int)list.count, (int)list.duplicates, (int)list.bad_lines);
    CHECK(list.items[1].class_id == 2 && list.items[1].w == 1.005);
    CHECK(list.items[2].class_id == 1 && fabs(list.items[2].x - 0.2) < 1e-12 && fabs(list.items[2].h - 0.4) < 1e-12);
    CHECK_MSG(lines.count == 6 && strstr(lines.text, "labels.txt:8: found 4 numbers, expected 5 (class x_center y_center width height) or a class and 3 points or more\n"), "%s", lines.text);
    CHECK_MSG(strstr(lines.text, "labels.txt:9: class 3 out of range [0,3)\n"), "%s", lines.text);
    CHECK(strstr(lines.text, "labels.txt:10: found y_center 1.2, expected a share of the picture, 0 to 1\n"));
    CHECK(strstr(lines.text, "labels.txt:12: found 'nan', expected a number\n") && strstr(lines.text, "labels.txt: 4 more bad lines\n"));
    lbl_list_free(&list);
    CHECK(lbl_read(test_temp("no such label.txt"), 3, &list, &log, &error) == YOLO_OK && list.missing && !list.count);
    CHECK(lbl_read(test_folder("a folder.txt"), 3, &list, &log, &error) == YOLO_ERROR_IO);
    lbl_list_free(&list);
}

static void test_labels_write(void) {
    const char *path = test_temp(KOREAN ".txt");
    yolo_box items[] = {{10, 20, 30, 60, 0.87654321f, 3}, {-5, -5, 700, 500, 1.0f, 0}};
    yolo_boxes boxes = {items, 2}, none = {NULL, 0};
    yolo_error error;
    CHECK(lbl_write(path, &boxes, 640, 480, false, &error) == YOLO_OK);
    CHECK_MSG(!strcmp(test_content(path), "3 0.031250 0.083333 0.031250 0.083333\n0 0.500000 0.500000 1.000000 1.000000\n"), "%s", test_content(path));
    CHECK(lbl_write(path, &boxes, 640, 480, true, &error) == YOLO_OK);
    CHECK_MSG(!strncmp(test_content(path), "3 0.031250 0.083333 0.031250 0.083333 0.876543\n", 47), "%s", test_content(path));
    CHECK(lbl_write(path, &none, 640, 480, true, &error) == YOLO_OK && !test_content(path)[0]);
    CHECK(lbl_write(test_temp("no folder/x.txt"), &none, 640, 480, true, &error) == YOLO_ERROR_IO);
}

static void test_label_paths(void) {
    const char *folder = test_folder("paths");
    struct { const char *picture, *label; } cases[] = {
        {"/a/images/b/images/c.jpg", "/a/images/b/labels/c.txt"}, {"images/c.d.JPG", "labels/c.d.txt"},
        {"/a/myimages/c.png", "/a/myimages/c.txt"}, {"c.bmp", "c.txt"}, {"/images/x/y", "/labels/x/y.txt"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        char *label = data_label_path(cases[i].picture);
        CHECK_MSG(label && !strcmp(label, cases[i].label), "%s -> %s", cases[i].picture, label);
        mem_free(label);
    }
    test_put(test_in(folder, "images/a.txt"), "");
    char *label = data_label_path(test_in(folder, "images/a.jpg"));
    CHECK_MSG(!strcmp(label, test_in(folder, "images/a.txt")), "beside: %s", label);
    mem_free(label);
    test_put(test_in(folder, "labels/a.txt"), "");
    label = data_label_path(test_in(folder, "images/a.jpg"));
    CHECK_MSG(!strcmp(label, test_in(folder, "labels/a.txt")), "the rule goes first: %s", label);
    mem_free(label);
}

static void test_walk(void) {
    const char *folder = test_folder("walk");
    data_list list = {0};
    yolo_error error;
    test_put(test_in(folder, KOREAN "/b.JPG"), "");
    test_put(test_in(folder, KOREAN "/deep/er/a.webp"), "");
    test_put(test_in(folder, "a.txt"), "");
    test_put(test_in(folder, "a/z.png"), "");
    test_put(test_in(folder, "a.png"), "");
    test_put(test_in(folder, ".hidden/x.png"), "");
    test_put(test_in(folder, "._a.png"), "");
    test_put(test_in(folder, "folder.png/x.bmp"), "");
#ifndef _WIN32
    CHECK(!symlink("..", test_in(folder, "a/up")) && !symlink(".", test_in(folder, "self")) && !symlink("a.png", test_in(folder, "link.png")) &&
          !symlink("nowhere", test_in(folder, "broken.png")));
#endif
    CHECK(data_walk(folder, &list, &error) == YOLO_OK);
    const char *expected[] = {"a.png", "a/z.png", "folder.png/x.bmp",
#ifndef _WIN32
                              "link.png",
#endif
                              KOREAN "/b.JPG", KOREAN "/deep/er/a.webp"};
    CHECK_MSG(list.count == YOLO_COUNT(expected), "%d", (int)list.count);
    for (int i = 0; i < YOLO_COUNT(expected) && i < list.count; i++)
        CHECK_MSG(!strcmp(list.paths[i], test_in(folder, expected[i])), "%d: %s", i, list.paths[i]);
    data_list_free(&list);
    CHECK(data_walk(test_temp("no such folder"), &list, &error) == YOLO_ERROR_IO && strstr(error.message, "cannot read folder: "));
    data_list_free(&list);
}

static const char *test_open(const char *yaml, const char *split, int64_t *count) {
    static char result[1500];
    data_set set;
    const data_list *list;
    yolo_error error = {0};
    *count = -1;
    snprintf(result, sizeof result, "ok");
    if (data_open(&set, yaml, &error) == YOLO_OK) {
        if (data_split(&set, split, &list, &error) == YOLO_OK) *count = list->count;
        data_close(&set);
    }
    if (*count < 0) snprintf(result, sizeof result, "%s", error.message);
    return result;
}

static void test_data_yaml(void) {
    const char *folder = test_folder(KOREAN);
    char yaml[1024], message[1500];
    int64_t n;
    snprintf(yaml, sizeof yaml, "%s/data.yaml", folder);
    test_put(test_in(folder, "images/train/a.jpg"), "");
    test_put(test_in(folder, "images/train/b.jpg"), "");
    test_put(test_in(folder, "images/val/c.jpg"), "");
    test_put(test_in(folder, "list.txt"), "\xef\xbb\xbf./images/val/c.jpg\r\nimages/train/a.jpg\n/elsewhere/x.png\n\nnote.txt\n");
    struct { const char *text, *split; int64_t count; const char *message; } cases[] = {
        {"train: images/train\nval: images/val\nnc: 2\nnames: [a, b]\n", "train", 2, ""},
        {"train: images/train\nval: images/val\nnames:\n  1: b\n  0: a\n", "val", 1, ""},
        {"path: ./\ntrain: [images/train, images/val]\nval: list.txt\nnc: 3\n", "train", 3, ""},
        {"path: images\ntrain: train\nval: ../list.txt\nnc: '3'\n", "val", 3, ""},
        {"path: /not/on/this/machine\ntrain: ../images/train\nvalidation: images/val\nnc: 3.0\n", "train", 2, ""},
        {"train: images/train\nval: images/none\nnc: 1\n", "train", 2, ""},
        {"train: images/train\nval: images/none\nnc: 1\n", "val", -1, "images/none does not exist"},
        {"train: images/train\nval: [images/val, images/none]\nnc: 1\n", "val", -1, "images/none does not exist"},
        {"train: images/train\nnc: 1\n", "val", -1, "found no 'val'"},
        {"train: images/train\nval: ''\nnc: 1\n", "val", -1, "found no 'val'"},
        {"train: images/train\nval: 3\nnc: 1\n", "val", -1, "data.yaml:2: 'val' is no path"},
        {"train: images/train\nval: images/val\nnc: 3\nnames: [a, b]\n", "val", -1, "data.yaml:3: found nc: 3 and 2 names, expected the same number"},
        {"train: images/train\nval: images/val\n", "val", -1, "found neither 'names' nor 'nc'"},
        {"train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", "val", -1, "expected one name for each class from 0 to 1"},
        {"train: images/train\nval: images/val\nnames: []\n", "val", -1, "data.yaml:3: 'names' has no class name"},
        {"train: images/train\nval: images/val\nnc: 1.5\n", "val", -1, "data.yaml:3: 'nc' is no number of classes"},
        {"- a\n", "val", -1, "found no 'key: value' lines"},
        {"", "val", -1, "found no 'key: value' lines"},
        {"train: images/train\nval: images/val\nnc: 1\n", "trian", -1, "split 'trian': expected train, val or test"},
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        test_put(yaml, cases[i].text);
        snprintf(message, sizeof message, "%s", test_open(yaml, cases[i].split, &n));
        CHECK_MSG(n == cases[i].count && (n >= 0 || strstr(message, cases[i].message)), "%s-- %s: %d, %s", cases[i].text, cases[i].split, (int)n, message);
    }
    data_set set;
    yolo_error error;
    test_put(yaml, "names: [no, 1.50, 'x', null]\ntrain: images/train\nval: images/val\n");
    CHECK(data_open(&set, yaml, &error) == YOLO_OK && !strcmp(set.names[0], "False") && !strcmp(set.names[1], "1.5") && !strcmp(set.names[3], "None"));
    data_close(&set);
    if (!test_shared("data/coco128/data.yaml")) SKIP("no ../shared/data/coco128");
    CHECK(data_open(&set, test_shared("data/coco128/data.yaml"), &error) == YOLO_OK && set.class_count == 80 && set.val.count == 128);
    data_close(&set);
}

/* One file with a few bytes changed, given to every reader of section 9. */
static void test_mutate_one(const char *path, const char *text, rng *r) {
    char copy[2048];
    static const char spice[] = "\n\r\t -:,[]{}'\"#|>&*!?0.e\xff\x80\xef\x01\\";
    size_t length = strlen(text);
    memcpy(copy, text, length);
    for (int edits = 1 + (int)(rng_next(r) % 6); edits > 0; edits--) {
        size_t at = (size_t)(rng_next(r) % (length + 1));
        switch (rng_next(r) % 4) {
        case 0: length = at; break;
        case 1: if (at < length) copy[at] = spice[rng_next(r) % (sizeof spice - 1)]; break;
        case 2: if (at < length) copy[at] = (char)rng_next(r); break;
        default:
            if (length < 1500) { /* a piece doubled */
                size_t drawn = (size_t)(rng_next(r) % 40), piece = YOLO_MIN(drawn, length - at);
                memmove(copy + at + piece, copy + at, length - at);
                length += piece;
            }
        }
    }
    yolo_error error;
    arena memory = {.cap = 64u << 20};
    val *root;
    str written = {0};
    char **names;
    int count;
    lbl_list labels;
    data_set set;
    if (yaml_parse(&memory, "x", copy, length, &root, &error) == YOLO_OK) {
        yaml_write(&written, root);
        CHECK(!written.failed && yaml_parse(&memory, "x", written.text, (size_t)written.length, &root, &error) == YOLO_OK);
    } else CHECK(error.message[0] && strlen(error.message) < 400);
    str_free(&written);
    CHECK(path_write(path, copy, length, false, &error) == YOLO_OK);
    data_read_names(path, &memory, &names, &count, &error);
    CHECK(lbl_read(path, 80, &labels, NULL, &error) == YOLO_OK);
    for (int64_t i = 0; i < labels.count; i++) CHECK(labels.items[i].class_id >= 0 && labels.items[i].class_id < 80 && labels.items[i].w <= 1.03);
    lbl_list_free(&labels);
    if (data_open(&set, path, &error) == YOLO_OK) data_close(&set);
    arena_free(&memory);
}

static void test_data_mutations(void) {
    static const char *const texts[] = {
        "path: .\ntrain: list.txt\nval:\n  - images/val\n  - list.txt\nnc: 3\nnames:\n  0: person\n  1: 'traffic light'\n  2: \"\\u00e9\"\n",
        "nc: 80 # classes\nscales: {n: [0.33, 0.25, 1024]}\nbackbone:\n  - [-1, 1, Conv, [64, 3, 2]] # 0\n  - [[-1, 6], 1, Concat, [1]]\n",
        "0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n79 0.999999 1 1e-3 0.02 0.5\n",
        "\xef\xbb\xbfperson\r\ncar\r\n" KOREAN "\r\n",
        "a: |\n  text\n   more\nb: >-\n  folded\n  text\n\nc: x\n  y\n- d\n"};
    const char *folder = test_folder("mutations");
    rng r = {.key = 20261124};
    char path[1024];
    snprintf(path, sizeof path, "%s/list.txt", folder);
    for (int i = 0; i < test_cases(2000) && !test_failures; i++) {
        uint64_t before = r.counter;
        test_mutate_one(path, texts[i % YOLO_COUNT(texts)], &r);
        CHECK_MSG(!test_failures, "mutation %d, counter %llu", i, (unsigned long long)before);
    }
}

/* Every allocation on the way fails once. */
static void test_data_faults(void) {
    const char *folder = test_folder("faults");
    char yaml[1024], label[1024];
    snprintf(yaml, sizeof yaml, "%s/data.yaml", folder);
    snprintf(label, sizeof label, "%s/labels/a.txt", folder);
    test_put(test_in(folder, "images/a.jpg"), "");
    test_put(label, "0 .5 .5 .1 .1\n0 .5 .5 .1 .1\n");
    test_put(test_in(folder, "list.txt"), "./images/a.jpg\n");
    test_put(yaml, "train: images\nval: list.txt\nnames: {0: a, 1: 'b c'}\n");
    bool passed = false;
    int n = 1;
    for (; n < 500 && !passed; n++) {
        data_set set;
        lbl_list labels;
        yolo_error error;
        os_atomic_set(&mem_fail_after, n);
        yolo_status first = data_open(&set, yaml, &error);
        yolo_status second = lbl_read(label, 0, &labels, NULL, &error);
        passed = os_atomic_get(&mem_fail_after) > 0;
        os_atomic_set(&mem_fail_after, 0);
        CHECK_MSG(passed ? !first && !second : first == YOLO_ERROR_MEMORY || second == YOLO_ERROR_MEMORY, "allocation %d: %d %d", n, first, second);
        if (first == YOLO_OK) data_close(&set);
        lbl_list_free(&labels);
    }
    CHECK_MSG(passed && n > 20, "%d allocations", n);
}

static const test_case tests_data[] = {
    {"yaml_reads", "block, flow, quotes, typing, and errors with their line", test_yaml_reads},
    {"numbers", "decimal text to doubles and back, correctly rounded", test_numbers},
    {"class_names", "classes.txt: BOM, CRLF, blank lines, duplicates", test_class_names},
    {"labels_read", "boxes, polygons, tolerance, bad lines told by line", test_labels_read},
    {"labels_write", "six decimals, clipped, confidence, empty file", test_labels_write},
    {"label_paths", "images/ -> labels/, else beside", test_label_paths},
    {"walk", "any depth, case and script; links and their cycles; sorted", test_walk},
    {"data_yaml", "folders, lists, relative paths, names, disagreements", test_data_yaml},
    {"data_mutations", "2,000 damaged texts: an error or a result", test_data_mutations},
    {"data_faults", "every allocation fails once: an error, no leak", test_data_faults},
};
