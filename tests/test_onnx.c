/* test_onnx.c - export: the protobuf writer, the slices of buffers, the file as it is written. What the graph computes is for
   tests/oracle_onnx.py, which has a runtime. */

typedef struct onnx_field { int number, kind; uint64_t value; cur body; } onnx_field;

/* The next field of a message; false at its end, and the cursor has failed where it is none. */
static bool onnx_next(cur *c, onnx_field *field) {
    uint64_t numbers[2] = {0};
    if (c->at == c->size || c->failed) return false;
    memset(field, 0, sizeof *field);
    for (int i = 0; i < 2; i++) {
        const uint8_t *p;
        int shift = 0;
        if (i && (field->kind = (int)(numbers[0] & 7)) == 5) break;
        do {
            if (!(p = cur_take(c, 1)) || shift > 63) return false;
            numbers[i] |= (uint64_t)(*p & 127) << shift;
            shift += 7;
        } while (*p & 128);
    }
    field->number = (int)(numbers[0] >> 3);
    field->value = numbers[1];
    if (field->kind == 5) field->value = cur_le(c, 4);
    if (field->kind == 2) {
        const uint8_t *body = cur_take(c, field->value);
        if (!body) return false;
        field->body = cur_make(body, (size_t)field->value);
    }
    return !c->failed && (field->kind == 0 || field->kind == 2 || field->kind == 5);
}

static void test_onnx_protobuf(void) {
    static const struct { uint64_t value; const char *bytes; size_t count; } numbers[] = {
        {0, "\0", 1}, {1, "\1", 1}, {127, "\x7f", 1}, {128, "\x80\1", 2}, {300, "\xac\2", 2}, {16383, "\xff\x7f", 2}, {16384, "\x80\x80\1", 3},
        {UINT64_MAX, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\1", 10}};
    for (int i = 0; i < YOLO_COUNT(numbers); i++) {
        str out = {0};
        onnx_put_varint(&out, numbers[i].value);
        CHECK((size_t)out.length == numbers[i].count && !memcmp(out.text, numbers[i].bytes, numbers[i].count));
        str_free(&out);
    }
    str out = {0}, inner = {0};
    onnx_put_int(&out, 1, 150);
    onnx_put_int(&out, 1, -1);
    onnx_put_float(&out, 2, 1.5f);
    onnx_put_text(&inner, 3, "a\xed\x95\x9c");
    onnx_put_message(&out, 100, &inner);
    CHECK(!inner.text && !inner.length);
    static const char whole[] = "\x08\x96\1\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\1\x15\0\0\xc0\x3f\xa2\6\6\x1a\4a\xed\x95\x9c";
    CHECK((size_t)out.length == sizeof whole - 1 && !memcmp(out.text, whole, sizeof whole - 1));
    str_free(&out);
}

static void test_onnx_python(void) {
    static const char *const rows[][2] = {{"", "''"}, {"cat", "'cat'"}, {"it's", "'it\\'s'"}, {"a\\b\"", "'a\\\\b\"'"}, {"t\t\n", "'t\\x09\\x0a'"},
                                          {"\xed\x95\x9c", "'\xed\x95\x9c'"}, {"\xff", "'\\xff'"}};
    for (int i = 0; i < YOLO_COUNT(rows); i++) {
        str out = {0};
        onnx_put_python(&out, rows[i][0]);
        CHECK_MSG(!strcmp(out.text, rows[i][1]), "%s", out.text);
        str_free(&out);
    }
}

/* Two slices of one buffer, and one across pieces: split where it begins and ends, and concatenated. */
static void test_onnx_slices(void) {
    net_tensor tensors[] = {{0, 0, 8}, {0, 8, 4}};
    onnx_piece pieces[16];
    onnx_value parts[16];
    onnx_tensor constants[16];
    const net n = {.tensors = tensors, .tensor_count = 2};
    onnx_graph g = {.net = &n, .pieces = pieces, .parts = parts, .tensors = constants, .room = 16};
    onnx_write(&g, 0, (onnx_value){"a"});
    onnx_write(&g, 1, (onnx_value){"b"});
    CHECK(!strcmp(onnx_read(&g, 0).name, "a") && !strcmp(onnx_read(&g, 1).name, "b") && !g.nodes.length && g.piece_count == 2);
    onnx_value across = onnx_read_slice(&g, 0, 6, 4); /* the end of a, the beginning of b */
    CHECK(strstr(across.name, "Concat") && g.piece_count == 4 && g.tensor_count == 2);
    CHECK(pieces[0].channels == 6 && pieces[1].channels == 2 && pieces[2].channel == 6 && pieces[2].channels == 2 && pieces[3].channel == 10);
    int64_t given[2];
    memcpy(given, constants[0].given, sizeof given);
    CHECK(given[0] == 6 && given[1] == 2);
    CHECK(!strcmp(onnx_read_slice(&g, 0, 6, 2).name, pieces[2].value.name));
    onnx_free(&g);
}

static yolo_status onnx_test_export(const char *model, const char *out, void (*change)(yolo_export_options *options), yolo_export_report *report, yolo_error *error) {
    yolo_export_options options = yolo_export_defaults();
    options.model = model;
    options.out = out;
    options.height = options.width = 64;
    if (change) change(&options);
    return yolo_export(options, report, error);
}

static void onnx_half(yolo_export_options *options) { options->half = true; }
static void onnx_all(yolo_export_options *options) { options->dynamic = options->nms = options->half = true; }

/* Walks the file: every length fits, every input of a node is there before it, tensors have as many bytes as their sizes say, one output. */
static void onnx_check_file(const char *path, int64_t bytes) {
    enum { MOST = 2000 };
    static char seen[MOST][96];
    uint8_t *file;
    size_t size;
    int count = 0, nodes = 0, outputs = 0;
    yolo_error error;
    onnx_field f, g, h;
    bool graph = false;
    CHECK(path_read(path, 1 << 28, &file, &size, &error) == YOLO_OK && (int64_t)size == bytes);
    if (!file) return;
    for (int pass = 0; pass < 2; pass++) { /* constants first, they may stand behind the nodes */
        cur model = cur_make(file, size);
        while (onnx_next(&model, &f)) {
            if (f.number != 7) continue;
            graph = true;
            for (cur c = f.body; onnx_next(&c, &g);) {
                int64_t elements = 1, type = 0, raw = -1;
                bool tensor = g.number == 5, good = !pass || g.number != 1;
                for (cur m = g.body; onnx_next(&m, &h);) {
                    char name[96] = "";
                    if (h.kind == 2) snprintf(name, sizeof name, "%.*s", (int)h.value, (const char *)h.body.bytes);
                    if (tensor && h.number == 1) elements *= (int64_t)h.value;
                    if (tensor && h.number == 2) type = (int64_t)h.value;
                    if (tensor && h.number == 9) raw = (int64_t)h.value;
                    const bool given = (tensor && h.number == 8) || (g.number == 11 && h.number == 1), read = g.number == 1 && h.number == 1;
                    const bool made = g.number == 1 && h.number == 2;
                    bool known = !*name;
                    for (int i = 0; i < count && read; i++) known |= !strcmp(seen[i], name);
                    if (pass && read) CHECK_MSG(known, "%s is read before it is written", name);
                    if ((pass ? made : given) && count < MOST) snprintf(seen[count++], sizeof seen[0], "%s", name);
                    outputs += pass && g.number == 12 && h.number == 1 && !strcmp(name, "output0");
                }
                if (tensor) CHECK(raw == elements * (type == ONNX_INT64 ? 8 : type == ONNX_HALF ? 2 : 4));
                nodes += pass && !good;
            }
        }
        CHECK(!model.failed && model.at == size);
    }
    CHECK_MSG(graph && nodes > 30 && outputs == 1, "%d nodes, %d outputs", nodes, outputs);
    mem_free(file);
}

static void test_onnx_file(void) {
    void (*const changes[])(yolo_export_options *) = {NULL, onnx_half, onnx_all};
    const char *path = test_temp("a.onnx"), *again = test_temp("b.onnx");
    for (int i = 0; i < YOLO_COUNT(changes); i++) {
        yolo_export_report report;
        yolo_error error = {0};
        CHECK_MSG(onnx_test_export("yolov8n.yaml", path, changes[i], &report, &error) == YOLO_OK, "%s", error.message);
        CHECK(!strcmp(report.path, path));
        onnx_check_file(path, report.bytes);
        uint8_t *a, *b;
        size_t a_size, b_size;
        CHECK(onnx_test_export("yolov8n.yaml", again, changes[i], &report, &error) == YOLO_OK);
        if (path_read(path, 1 << 28, &a, &a_size, &error) != YOLO_OK || path_read(again, 1 << 28, &b, &b_size, &error) != YOLO_OK) { CHECK(false); return; }
        CHECK(a_size == b_size && !memcmp(a, b, a_size));
        mem_free(a);
        mem_free(b);
    }
}

static void onnx_huge(yolo_export_options *options) { options->height = options->width = 65000; }
static void onnx_old(yolo_export_options *options) { options->opset = 12; }
static void onnx_engine(yolo_export_options *options) { options->format = "engine"; }
static void onnx_none(yolo_export_options *options) { options->batch = 0; }
static void onnx_above(yolo_export_options *options) { options->conf = 2; }
static void onnx_itself(yolo_export_options *options) { options->out = options->model; }
static void onnx_nowhere(yolo_export_options *options) { options->out = "no such folder/a.onnx"; }

static void test_onnx_refusals(void) {
    static const struct { const char *model; void (*change)(yolo_export_options *options); yolo_status status; const char *says; } rows[] = {
        {"yolov8n-p2.yaml", onnx_huge, YOLO_ERROR_UNSUPPORTED, "GB, and the format ends at 2"},
        {"yolov8n.yaml", onnx_old, YOLO_ERROR_USAGE, "opset=12: expected 17 to 22"},
        {"yolov8n.yaml", onnx_engine, YOLO_ERROR_USAGE, "format=engine: this version writes onnx"},
        {"yolov8n.yaml", onnx_none, YOLO_ERROR_USAGE, "0 pictures"},
        {"yolov8n.yaml", onnx_above, YOLO_ERROR_USAGE, "conf=2"},
        {"yolov8n.yaml", onnx_itself, YOLO_ERROR_USAGE, "is the model itself"},
        {"yolov8n.yaml", onnx_nowhere, YOLO_ERROR_IO, "no such folder/a.onnx"},
        {"missing.pt", NULL, YOLO_ERROR_IO, "missing.pt"}};
    const char *path = test_temp("refused.onnx");
    for (int i = 0; i < YOLO_COUNT(rows); i++) {
        yolo_export_report report;
        yolo_error error = {0};
        yolo_status status = onnx_test_export(rows[i].model, path, rows[i].change, &report, &error);
        CHECK_MSG(status == rows[i].status && error.status == status && strstr(error.message, rows[i].says), "%d %s", (int)status, error.message);
        CHECK(os_path_kind(path) == OS_NOTHING && !report.bytes);
    }
}

/* A weight that halves cannot hold. */
static void test_onnx_overflow(void) {
    pt_model m = {0};
    yolo_error error = {0};
    yolo_open_options open = yolo_open_defaults();
    yolo_export_options options = yolo_export_defaults();
    yolo_export_report report;
    const char *path = test_temp("overflow.onnx");
    CHECK(pt_load("yolov8n.yaml", &open, &m, &error) == YOLO_OK);
    m.params[m.net.params[0].offset] = 1e6f;
    options.height = options.width = 64;
    options.out = path;
    CHECK_MSG(onnx_export(&m, &options, &report, &error) == YOLO_OK, "%s", error.message);
    os_remove(path);
    options.half = true;
    CHECK(onnx_export(&m, &options, &report, &error) == YOLO_ERROR_UNSUPPORTED);
    CHECK_MSG(strstr(error.message, "model.0.conv.weight") && strstr(error.message, "half"), "%s", error.message);
    CHECK(os_path_kind(path) == OS_NOTHING);
    pt_free(&m);
}

static const test_case tests_onnx[] = {
    {"protobuf", "numbers, floats and nested messages, byte for byte", test_onnx_protobuf},
    {"python", "class names as Python's literals", test_onnx_python},
    {"slices", "slices of buffers become splits and concatenations", test_onnx_slices},
    {"file", "lengths fit, values are written before they are read, the same bytes twice", test_onnx_file},
    {"refusals", "files above 2 GB, old operators, bad options and places: a sentence and no file", test_onnx_refusals},
    {"overflow", "weights beyond half precision are refused with half=true alone", test_onnx_overflow},
};
