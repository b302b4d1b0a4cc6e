/* Sections 1-6: platform, memory, threads, base. */

static void test_half_round_trip(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        float value = f16_from_half((uint16_t)h), brain = f16_from_bfloat((uint16_t)h);
        if (value == value) CHECK_MSG(f16_to_half(value) == h, "half %04x", (unsigned)h);
        if (brain == brain) CHECK_MSG(f16_to_bfloat(brain) == h, "bfloat %04x", (unsigned)h);
    }
    CHECK(f16_to_half(65520.0f) == 0x7c00);
    CHECK(f16_to_half(65519.0f) == 0x7bff);
    CHECK(f16_to_half(2.9802322e-8f) == 0);      /* half of the smallest subnormal: to even */
    CHECK(f16_to_half(2.9802326e-8f) == 1);
    CHECK(f16_to_half(1.00048828125f) == 0x3c00); /* tie to even */
}

static void test_cursor_is_sticky(void) {
    cur c = cur_make("\1\2\3\4\5", 5);
    CHECK(cur_le(&c, 2) == 0x0201 && cur_be(&c, 2) == 0x0304);
    CHECK(cur_le(&c, 2) == 0 && c.failed && c.failed_at == 4);
    CHECK(cur_le(&c, 1) == 0 && !cur_take(&c, 0));
    CHECK(!cur_take(&c, UINT64_MAX));
}

static void test_utf8(void) {
    CHECK(str_is_utf8("\xed\x95\x9c\xea\xb8\x80 a", 8));
    CHECK(!str_is_utf8("\xc0\x80", 2) && !str_is_utf8("\xed\xa0\x80", 3) && !str_is_utf8("\xe0\x80\x80", 3) && !str_is_utf8("\xf4\x90\x80\x80", 4));
    CHECK(!str_is_utf8("\xed\x95", 2));
}

static void test_columns(void) {
    char row[40];
    CHECK(str_columns("cat", 22) == 22 && str_columns("caf\xc3\xa9", 22) == 23 && str_columns("\xed\x95\x9c\xea\xb8\x80", 22) == 24);
    snprintf(row, sizeof row, "%*s|", str_columns("\xed\x95\x9c\xea\xb8\x80", -6), "\xed\x95\x9c\xea\xb8\x80");
    CHECK_MSG(!strcmp(row, "\xed\x95\x9c\xea\xb8\x80  |"), "'%s'", row);
}

static void test_paths(void) {
    struct { const char *path, *name, *extension, *parent; } cases[] = {
        {"a/b.txt", "b.txt", ".txt", "a"}, {"b", "b", "", "."}, {"/x", "x", "", "/"}, {"a/.hidden", ".hidden", "", "a"}, {"a.b/c", "c", "", "a.b"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        char *parent = path_parent(cases[i].path);
        CHECK(!strcmp(path_name(cases[i].path), cases[i].name) && !strcmp(path_extension(cases[i].path), cases[i].extension));
        CHECK_MSG(parent && !strcmp(parent, cases[i].parent), "%s -> %s", cases[i].path, parent);
        mem_free(parent);
    }
}

static void test_write_is_atomic(void) {
    const char *path = test_temp("\xed\x95\x9c\xea\xb8\x80 file.txt");
    uint8_t *bytes;
    size_t size;
    yolo_error error;
    CHECK(path_write(path, "one", 3, true, &error) == YOLO_OK && path_write(path, "three", 5, false, &error) == YOLO_OK);
    CHECK(path_read(path, 100, &bytes, &size, &error) == YOLO_OK && size == 5 && !memcmp(bytes, "three", 5));
    mem_free(bytes);
    CHECK(path_read(path, 4, &bytes, &size, &error) == YOLO_ERROR_FORMAT);
    CHECK(path_read(test_temp("none"), 4, &bytes, &size, &error) == YOLO_ERROR_IO);
    CHECK_MSG(strstr(error.message, "none: cannot open: "), "%s", error.message);
}

static void test_pool_body(void *context, int index, int worker) {
    int *hits = context;
    hits[index] += worker >= 0;
}

static void test_pool_runs_every_index_once(void) {
    for (int size = 1; size <= 5; size += 2) {
        thr_pool *pool = thr_pool_create(size);
        int *hits = mem_array(1000, sizeof *hits);
        for (int round = 1; round <= 200; round++) {
            thr_parallel_for(pool, 1000, test_pool_body, hits);
            for (int i = 0; i < 1000; i++)
                if (hits[i] != round) { CHECK_MSG(false, "index %d ran %d times of %d", i, hits[i], round); break; }
        }
        mem_free(hits);
        thr_pool_destroy(pool);
    }
}

static void test_checked_sizes(void) {
    arena a = {.cap = 1000};
    CHECK(!mem_array(UINT64_MAX / 2, 4) && !mem_alloc((size_t)-1));
    CHECK(arena_alloc(&a, 900) && !arena_alloc(&a, 200) && !arena_array(&a, UINT64_MAX / 8, 16));
    arena_free(&a);
    os_atomic_set(&mem_fail_after, 2);
    void *first = mem_alloc(1), *second = mem_alloc(1), *third = mem_alloc(1);
    CHECK(first && !second && third);
    mem_free(first);
    mem_free(third);
}

/* Collects what a meter says. */
static void test_meter_log(void *user, yolo_log_level level, const char *text) {
    if (level == YOLO_LOG_PROGRESS) str_format(user, "%s;", text);
}

static void test_meter_is_monotone(void) {
    str said = {0};
    yolo_log log = {test_meter_log, &said};
    log_meter meter = log_meter_start(&log, YOLO_PROGRESS_PLAIN, "label", "Progress", 3);
    for (int i = 0; i <= 3; i++) log_meter_step(&meter, i), log_meter_step(&meter, i);
    CHECK_MSG(!strcmp(said.text, "Progress:0%;Progress:33%;Progress:66%;Progress:100%;"), "%s", said.text);
    str_free(&said);
    meter = log_meter_start(&log, YOLO_PROGRESS_PLAIN, "label", "Progress", 100000);
    for (int i = 0; i <= 100000; i++) log_meter_step(&meter, i);
    int lines = 0;
    for (int64_t i = 0; i < said.length; i++) lines += said.text[i] == ';';
    CHECK(lines == 101);
    str_free(&said);
    meter = log_meter_start(&log, YOLO_PROGRESS_BAR, "label", "Progress", 4);
    log_meter_step(&meter, 4);
    CHECK(said.text && strstr(said.text, "label 4/4 100%") && strstr(said.text, "0 s left [####"));
    str_free(&said);
    meter = log_meter_start(&log, YOLO_PROGRESS_NONE, "label", "Progress", 4);
    log_meter_step(&meter, 4);
    CHECK(!said.text);
    char text[32];
    CHECK(!strcmp(log_duration(65, text, sizeof text), "1:05") && !strcmp(log_duration(7384, text, sizeof text), "2:03:04"));
}

static void test_json(void) {
    json j = {.lines = 2};
    yolo_error error;
    const char *path = test_temp("out.json");
    uint8_t *bytes;
    size_t size;
    json_object(&j, NULL);
    json_text(&j, "a\"b\\\x01\n", "\xed\x95\x9c \xed\xa0 \xff\x7f");
    json_array(&j, "list");
    json_number(&j, NULL, (double)NAN, 3);
    json_number(&j, NULL, -HUGE_VAL, 3);
    json_number(&j, NULL, -1.0 / 3, 3);
    json_array(&j, NULL);
    json_int(&j, NULL, INT64_MIN);
    json_int(&j, NULL, 7);
    json_end(&j);
    json_end(&j);
    json_object(&j, "none");
    json_end(&j);
    json_text_part(&j, "part", "abc", 2);
    json_end(&j);
    CHECK_MSG(json_write(&j, path, &error) == YOLO_OK && !j.text.text, "%s", error.message);
    CHECK(path_read(path, 1 << 20, &bytes, &size, &error) == YOLO_OK);
    CHECK_MSG(bytes && !strcmp((char *)bytes, "{\n \"a\\\"b\\\\\\u0001\\u000a\":\"\xed\x95\x9c \xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd\x7f\",\n \"list\":[\n  null,\n  null,\n  -0.333,\n"
                              "  [-9223372036854775808,7]\n ],\n \"none\":{},\n \"part\":\"ab\"\n}\n"), "%s", (char *)bytes);
    mem_free(bytes);
    os_atomic_set(&mem_fail_after, 1);
    json_array(&j, NULL);
    os_atomic_set(&mem_fail_after, 0);
    json_end(&j);
    CHECK(json_write(&j, path, &error) == YOLO_ERROR_MEMORY && !j.text.text && os_path_kind(path) == OS_FILE);
}

/* Nothing is asked of a GPU: the library tells its version and makes an id without one. */
static void test_nccl(void) {
    com_nccl nccl;
    com_nccl_id a, b;
    char reason[512] = "";
#ifdef __linux__
    void *other = os_library_open("libm.so.6");
    memset(&nccl, 0, sizeof nccl);
    snprintf(nccl.path, sizeof nccl.path, "libm.so.6");
    CHECK(other && !com_nccl_read(&nccl, other, reason, sizeof reason));
    CHECK_MSG(!strcmp(reason, "libm.so.6: there is no ncclGetVersion in it"), "%s", reason);
    if (other) os_library_close(other);
#endif
    if (!com_nccl_open(&nccl, reason, sizeof reason)) {
        CHECK_MSG(strstr(reason, "not found: ") && strstr(reason, "nccl"), "%s", reason);
        SKIP("there is no NCCL here");
    }
    printf("  %s, version %d.%d.%d\n", nccl.path, nccl.version[0], nccl.version[1], nccl.version[2]);
#ifdef TEST_OWN_CODE
    SKIP("the sanitizer sees into our own code alone");
#endif
    CHECK(nccl.version[0] == 2 && nccl.version[1] >= 0 && nccl.version[1] < 100 && nccl.version[2] < 100);
    CHECK(!strcmp(nccl.get_error_string(0), "no error"));
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    CHECK(nccl.get_unique_id(&a) == 0 && nccl.get_unique_id(&b) == 0 && memcmp(&a, &b, sizeof a));
}

static const test_case tests_base[] = {
    {"nccl", "NCCL, where it is installed, is opened with all that is wanted of it", test_nccl},
    {"half_round_trip", "fp16 and bf16 conversions are exact and round to even", test_half_round_trip},
    {"cursor_is_sticky", "a byte cursor stays failed and never reads outside", test_cursor_is_sticky},
    {"utf8", "well-formed UTF-8 and nothing else", test_utf8},
    {"json", "JSON whatever the texts and numbers are, laid out by depth", test_json},
    {"columns", "Hangul in columns of a table", test_columns},
    {"paths", "names, extensions, parents", test_paths},
    {"write_is_atomic", "files are written beside and renamed; caps and reasons", test_write_is_atomic},
    {"pool_runs_every_index_once", "parallel loops of 1, 3, 5 threads", test_pool_runs_every_index_once},
    {"meter_is_monotone", "progress lines: each percentage once, a bar, silence", test_meter_is_monotone},
    {"checked_sizes", "overflows and caps are refused; faults can be injected", test_checked_sizes},
};
