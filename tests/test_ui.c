/* Tests of the page's server, as far as they need no connection: sections 30 and 31. tests/ui_test.py has the rest. */

/* Parses a copy of a head that is in a block of just its size; the request points into it until the next call. */
static int test_http_parse(const char *head, http_request *r) {
    static char *copy;
    const size_t size = strlen(head);
    free(copy);
    if (!(copy = malloc(size + 1))) return 0;
    memcpy(copy, head, size + 1);
    return http_parse(copy, size, r);
}

static void test_http_requests(void) {
    http_request r;
    CHECK(!test_http_parse("PUT /api/%ED%95%9c+?root=%2fa+b&name=x%26y&empty HTTP/1.1\r\nhost: 127.0.0.1:80 \r\nX-YOLO-Token:\t0123\r\n"
                           "Origin: http://localhost:80\r\nContent-Length: 12\r\n\r\n", &r));
    CHECK(!strcmp(r.method, "PUT") && !strcmp(r.path, "/api/\xed\x95\x9c+") && r.keeps && r.body_size == 12);
    CHECK(!strcmp(r.host, "127.0.0.1:80") && !strcmp(r.token, "0123") && !strcmp(r.origin, "http://localhost:80") && !r.site);
    CHECK(!strcmp(http_query(&r, "root"), "/a b") && !strcmp(http_query(&r, "name"), "x&y") && !strcmp(http_query(&r, "empty"), "") && !http_query(&r, "none"));
    CHECK(!test_http_parse("GET / HTTP/1.0\nHost: x\n\n", &r) && !r.keeps);
    CHECK(!test_http_parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", &r) && !r.keeps);
    static const struct { int status; const char *head; } refused[] = {
        {400, "GET / HTTP/1.1\r\n\r\n"}, {400, "\r\n\r\n"}, {400, "GET /\r\nHost: x\r\n\r\n"}, {405, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"}, {505, "GET / HTTP/1.2\r\nHost: x\r\n\r\n"},
        {400, "GET / FTP/1.1\r\nHost: x\r\n\r\n"}, {400, "GET x HTTP/1.1\r\nHost: x\r\n\r\n"}, {400, "GET /%0a HTTP/1.1\r\nHost: x\r\n\r\n"}, {400, "GET /%c0%ae HTTP/1.1\r\nHost: x\r\n\r\n"},
        {400, "GET /% HTTP/1.1\r\nHost: x\r\n\r\n"}, {400, "GET /?a=%4 HTTP/1.1\r\nHost: x\r\n\r\n"}, {400, "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: x\r\nOrigin: a\r\norigin: b\r\n\r\n"}, {400, "GET / HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n"}, {400, "GET / HTTP/1.1\r\nHost : x\r\n\r\n"},
        {413, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"}, {400, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\n"}, {501, "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n"}};
    for (int i = 0; i < YOLO_COUNT(refused); i++) {
        const int status = test_http_parse(refused[i].head, &r);
        CHECK_MSG(status == refused[i].status, "%d, expected %d: %s", status, refused[i].status, refused[i].head);
    }
    CHECK(http_head_end("a\n\nb", 4) == 3 && http_head_end("a\r\n\r\nb", 6) == 5 && !http_head_end("a\r\n\r", 4) && !http_head_end("", 0));
}

static void test_http_strangers(void) {
    http_server server = {.port = 8080, .token = "0123456789abcdef0123456789abcdef"};
    static const struct { int refused; const char *line; } cases[] = {
        {0, "Host: 127.0.0.1:8080\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdef"}, {0, "Host: LocalHost:8080\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdef"},
        {403, "Host: 127.0.0.1:8080"}, {403, "Host: 127.0.0.1:8080\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdeF"}, {403, "Host: 127.0.0.1:8080\r\nX-Yolo-Token: "},
        {421, "Host: 127.0.0.1\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdef"}, {421, "Host: evil:8080\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdef"},
        {403, "Host: 127.0.0.1:8080\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdef\r\nOrigin: http://evil:8080"},
        {403, "Host: 127.0.0.1:8080\r\nX-Yolo-Token: 0123456789abcdef0123456789abcdef\r\nSec-Fetch-Site: cross-site"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        http_request r;
        char head[400];
        snprintf(head, sizeof head, "GET /api HTTP/1.1\r\n%s\r\n\r\n", cases[i].line);
        CHECK(!test_http_parse(head, &r));
        CHECK_MSG(http_refuses(&server, &r) == cases[i].refused, "%d: %s", http_refuses(&server, &r), cases[i].line);
    }
}

static void test_ui_names(void) {
    static const char *const good[] = {"a.jpg", "a/b.jpg", "..a/b..c", "a b/\xed\x95\x9c", ".a"}, *const bad[] = {"", "/a", "a/", "a//b", "..", "../a", "a/..", "a/../b", ".", "./a", "a/./b"};
    for (int i = 0; i < YOLO_COUNT(good); i++) CHECK_MSG(ui_is_name(good[i]), "%s", good[i]);
    for (int i = 0; i < YOLO_COUNT(bad); i++) CHECK_MSG(!ui_is_name(bad[i]), "%s", bad[i]);
#ifdef _WIN32
    CHECK(!ui_is_name("a\\..\\b") && !ui_is_name("C:x") && !ui_is_name("a:b"));
#endif
}

static void test_ui_lines(void) {
    ui *u = mem_array(1, sizeof *u);
    ui_job *job = mem_array(1, sizeof *job);
    char line[200];
    if (!u || !job) SKIP("no memory");
    *job = (ui_job){.owner = u, .verb = "train", .percent = -1};
    ui_take_line(job, "Progress:7%");
    CHECK(job->percent == 7 && !job->log.length);
    ui_take_line(job, "PrepProgress:100%");
    ui_take_line(job, "Progress:101%");
    ui_take_line(job, "yolo train: out of luck");
    CHECK(job->percent == 100 && !strcmp(job->error, "out of luck") && !strcmp(job->log.text, "Progress:101%\nyolo train: out of luck\n"));
    ui_take_line(job, "RunFolder:/a/b");
    CHECK(!strcmp(job->folder, "/a/b"));
    for (int i = 0; i < 10000; i++) {
        snprintf(line, sizeof line, "line %d of many, each of them rather long so that the log fills up", i);
        ui_take_line(job, line);
        CHECK(job->log.length <= UI_LOG);
    }
    CHECK(job->dropped > 0 && job->log.length > UI_LOG / 2 && !strncmp(job->log.text, "line ", 5) && str_ends_with(job->log.text, "\n"));
    str_free(&job->log);
    mem_free(job);
    mem_free(u);
}

static void test_ui_csv(void) {
    static const char text[] = "a,\"b,\"\"c\"\"\",,d";
    const char *at = text;
    char field[8];
    static const char *const expected[] = {"a", "b,\"c\"", "", "d"};
    for (int i = 0; i < YOLO_COUNT(expected); i++) CHECK(ui_csv_field(&at, text + sizeof text - 1, field, sizeof field) && !strcmp(field, expected[i]));
    CHECK(!ui_csv_field(&at, text + sizeof text - 1, field, sizeof field));
    at = text;
    CHECK(ui_csv_field(&at, text + 3, field, 2) && ui_csv_field(&at, text + 3, field, 2)); /* an open quote; room for one letter */
}

/* Options of JSON come back as JSON; what YAML alone knows does not. */
static void test_ui_json(void) {
    static const char text[] = "{\"a\": [1, -2.5, 1e300, true, null, \"\\u0000\\ud55c\\n\"], \"b\": {\"\": {}}, \"c\": .inf}";
    arena memory = {0};
    val *root;
    yolo_error error;
    json j = {0};
    CHECK(yaml_parse(&memory, "test", text, sizeof text - 1, &root, &error) == YOLO_OK);
    ui_put(&j, NULL, root, JSON_MAX_DEPTH);
    CHECK_MSG(!strcmp(j.text.text, "{\"a\":[1,-2.5,\"1e300\",true,null,\"\\u0000\xed\x95\x9c\\u000a\"],\"b\":{\"\":{}},\"c\":null}\n"), "%s", j.text.text);
    CHECK(ui_number(val_get(root, "a")->items[2]) == 1e300 && isnan(ui_number(val_get(root, "b"))) && isnan(ui_number(NULL)));
    json_free(&j);
    ui_put(&j, NULL, root, 1);
    CHECK(!strcmp(j.text.text, "{\"a\":null,\"b\":null,\"c\":null}\n"));
    json_free(&j);
    arena_free(&memory);
}

static void test_ui_persons(void) {
    lab_persons persons = {0};
    yolo_error error;
    bool is = true;
    char label[1024], other[1024];
    snprintf(label, sizeof label, "%s", test_temp("persons/a.txt"));
    snprintf(other, sizeof other, "%s", test_temp("persons/b.txt"));
    CHECK(path_make_directories(test_temp("persons"), &error) == YOLO_OK);
    os_remove(test_temp("persons/" LAB_PERSONS));
    CHECK(lab_is_person(&persons, label, &is, &error) == YOLO_OK && !is);
    CHECK(lab_mark_person(label, &error) == YOLO_OK && lab_mark_person(label, &error) == YOLO_OK && lab_mark_person(other, &error) == YOLO_OK);
    lab_persons_free(&persons);
    CHECK(lab_is_person(&persons, label, &is, &error) == YOLO_OK && is && os_path_size(test_temp("persons/" LAB_PERSONS)) == 12);
    for (long n = 1; n < 50; n++) { /* each allocation fails once */
        lab_persons_free(&persons);
        os_atomic_set(&mem_fail_after, n);
        const yolo_status status = lab_is_person(&persons, other, &is, &error);
        const bool reached = os_atomic_get(&mem_fail_after) <= 0;
        os_atomic_set(&mem_fail_after, 0);
        CHECK(status == YOLO_OK ? is || reached : status == YOLO_ERROR_MEMORY && !is);
        if (!reached) break;
    }
    lab_persons_free(&persons);
}

static const test_case tests_ui[] = {
    {"http_requests", "heads of requests: what they say, what is refused", test_http_requests},
    {"http_strangers", "other hosts, pages and tokens are refused", test_http_strangers},
    {"ui_names", "names stay below their folder", test_ui_names},
    {"ui_lines", "lines of a job: progress, folder, error, a log that forgets", test_ui_lines},
    {"ui_csv", "fields of CSV", test_ui_csv},
    {"ui_json", "trees as JSON", test_ui_json},
    {"ui_persons", "labels that a person made", test_ui_persons},
};
