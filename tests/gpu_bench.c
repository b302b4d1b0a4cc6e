/* gpu_bench.c - what `yolo bench` measures on a GPU: calls and their times, peaks, passes and steps, and what is said when it fails.
   Under the emulation times are made up but the same every time, so that all of it runs. */

static yolo_model *gpu_bench_open(const char *path, yolo_error *error) {
    yolo_open_options open = yolo_open_defaults();
    yolo_model *model = NULL;
    open.device = "0";
    open.threads = 2;
    yolo_model_open(&model, path, open, error);
    return model;
}

static yolo_model *gpu_bench_model(yolo_error *error) { return gpu_bench_open("tests/fixtures/net_tiny.yaml", error); }

static yolo_bench_options gpu_bench_options(bool train) {
    yolo_bench_options o = yolo_bench_defaults();
    o.imgsz = 64;
    o.repeats = 2;
    o.kernels = true;
    o.train = train;
    return o;
}

/* The line of `text` that holds `words`, or "". */
static const char *gpu_bench_line(const char *text, const char *words) {
    static char line[400];
    const char *at = strstr(text, words), *start = at;
    while (start && start > text && start[-1] != '\n') start--;
    snprintf(line, sizeof line, "%.*s", start ? (int)strcspn(start, "\n") : 0, start ? start : "");
    return line;
}

static void test_gpu_watch(void) {
    yg_gpu *gpu = gpu_device();
    gpu_block a = gpu_tensor(2, 6, 8, 16, 16, 0, YG_F16), b = gpu_tensor(2, 6, 8, 16, 16, 0, YG_F16);
    const yg_call *calls;
    CHECK(yg_watching(gpu) == 0 && yg_watched(gpu, &calls) == 0);
    yg_watch(gpu, 4);
    yg_zero(gpu, &a.t);
    gpu_finish();
    yg_copy_fwd(gpu, &b.t, &a.t);
    CHECK(yg_watching(gpu) == 3);
    for (int i = 0; i < 3; i++) yg_copy_bwd(gpu, &b.t, &a.t, true); /* two more than there is room for */
    CHECK(yg_watched(gpu, &calls) == 4);
    CHECK(!strcmp(calls[0].what, "zeros") && !calls[1].what && !strcmp(calls[2].what, "copy") && !strcmp(calls[3].what, "gradient of a copy"));
    for (int i = 0; i < 4; i++) CHECK_MSG(calls[i].ms > 0 && calls[i].ms < 1000, "%s: %g ms", calls[i].what, calls[i].ms);
    const double bytes = 2 * 6 * 8 * 16 * 2;
    CHECK(calls[0].bytes == bytes && calls[2].bytes == 2 * bytes && calls[3].bytes == 3 * bytes && calls[1].bytes == 0 && calls[2].flops == 0);
    yg_watch(gpu, 2);
    yg_record(gpu);
    yg_zero(gpu, &a.t);
    yg_graph *graph = yg_recorded(gpu);
    yg_replay(gpu, graph);
    CHECK(yg_watched(gpu, &calls) == 0); /* what is recorded is not noted */
    yg_watch(gpu, 0);
    yg_zero(gpu, &a.t);
    CHECK(yg_watching(gpu) == 0);
    yg_graph_free(graph);
    gpu_free(&a);
    gpu_free(&b);
}

static void test_gpu_peaks(void) {
    static const yg_type types[] = {YG_F16, YG_BF16, YG_F32};
    yg_peaks peaks;
    for (int i = 0; i < YOLO_COUNT(types); i++) {
        yg_measure_peaks(gpu_device(), types[i], &peaks);
        gpu_finish();
        CHECK_MSG(peaks.copies > 1e9 && peaks.copies < 1e14, "%g bytes a second", peaks.copies);
        CHECK_MSG(peaks.products > 1e9 && peaks.products < 1e17, "type %d: %g products a second", types[i], peaks.products);
    }
}

static void test_gpu_bench_forward(void) {
    yolo_error error = {0};
    yolo_model *model = gpu_bench_model(&error);
    yolo_bench_options o = gpu_bench_options(false);
    char *text = NULL;
    if (!model) { CHECK_MSG(false, "%s", error.message); return; }
    o.layers = true;
    CHECK_MSG(yolo_bench(model, o, &text, &error) == YOLO_OK, "%s", error.message);
    if (text) {
        int layers = 0, op;
        double ms, total = 0;
        for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
            if (sscanf(line, "%d %*d %*s %*s %*s %*s %lf", &op, &ms) == 2 && op == layers) layers++, total += ms;
        CHECK_MSG(layers > 30 && total > 0, "%d operators, %g ms", layers, total);
        CHECK(strstr(text, "  forward\n") && strstr(text, "input and heads on the GPU\n") && strstr(text, "the same, recorded\n"));
        CHECK(strstr(text, "peaks measured: copies ") && strchr(gpu_bench_line(text, "max-pooling "), '%') && strstr(text, "  aim: kernels that only move memory"));
    }
    yolo_text_free(text);
    yolo_model_close(model);
}

/* Steps on drawn pictures and on a data set; the model is what it was. */
static void test_gpu_bench_train(void) {
    yolo_error error = {0};
    yolo_model *model = gpu_bench_open(gpu_step_little(), &error);
    yolo_bench_options o = gpu_bench_options(true);
    if (!model) { CHECK_MSG(false, "%s", error.message); return; }
    const size_t bytes = (size_t)model->checkpoint.net.param_elements * sizeof(float);
    float *before = mem_alloc(bytes);
    memcpy(before, model->checkpoint.params, bytes);
    o.batch = 2;
    o.repeats = 1;
    for (int i = 0; i < 2; i++) {
        char *text = NULL;
        o.data = i ? test_train_data() : NULL;
        o.optimizer = i ? "MuSGD" : "SGD";
        o.imgsz = i ? 32 : 64;
        CHECK_MSG(yolo_bench(model, o, &text, &error) == YOLO_OK, "%s", error.message);
        if (!text) continue;
        double input, forward, loss, backward, update;
        const int parts = sscanf(gpu_bench_line(text, "parts"), " parts, each call by itself: input %lf ms (%*d %%), forward %lf ms (%*d %%), loss %lf ms (%*d %%), backward %lf ms (%*d %%), update %lf",
                                 &input, &forward, &loss, &backward, &update);
        CHECK_MSG(parts == 5 && input > 0 && forward > 0 && loss > 0 && backward > forward && update > 0, "%s", gpu_bench_line(text, "parts"));
        CHECK(strstr(text, "training step") && strchr(gpu_bench_line(text, "update of the parameters"), '%'));
        CHECK((strstr(text, "orthogonal update") != NULL) == (i == 1) && (strstr(text, "pictures of a batch") != NULL) == (i == 1));
        CHECK(strchr(gpu_bench_line(text, "gradient of a convolution's weights"), '%') && strchr(gpu_bench_line(text, "gradient of a batch norm"), '%'));
        yolo_text_free(text);
    }
    CHECK(!memcmp(before, model->checkpoint.params, bytes));
    mem_free(before);
    yolo_model_close(model);
}

/* Forward, then a step with all three products of a convolution. Steps share the
   device of their model, which remembers; each lane of a forward pass has one of its own. */
static void test_gpu_bench_tune(void) {
    for (int train = 0; train < 2; train++) {
        yolo_error error = {0};
        yolo_model *model = gpu_bench_open(gpu_step_little(), &error);
        yolo_bench_options o = gpu_bench_options(train);
        if (!model) { CHECK_MSG(false, "%s", error.message); return; }
        o.tune = true, o.kernels = false, o.repeats = 1, o.batch = 2;
        for (int again = 0; again < 2; again++) {
            char *text = NULL;
            int shapes = -1, lines = 0;
            double usual = -1, best = -1;
            CHECK_MSG(yolo_bench(model, o, &text, &error) == YOLO_OK, "%s", error.message);
            if (!text) continue;
            sscanf(gpu_bench_line(text, "shapes of convolutions"), " %d shapes of convolutions, each once: %lf ms by the rule, %lf ms", &shapes, &usual, &best);
            for (const char *at = text; (at = strstr(at, "%\n")); at++) lines++;
            CHECK_MSG(again && train ? shapes == 0 : shapes > (train ? 20 : 5), "%d shapes", shapes);
            CHECK_MSG(best <= usual && ((again && train) || (best > 0 && lines > 0 && lines <= shapes)), "%d lines, %g ms and %g", lines, usual, best);
            CHECK(strstr(text, train ? "training step" : "the same, recorded"));
            yolo_text_free(text);
        }
        yolo_model_close(model);
    }
}

/* The cost of a step is shared out over parts and operators, every one with a time of its own. */
static void test_gpu_bench_scaling(void) {
    yolo_error error = {0};
    yolo_model *model = gpu_bench_model(&error);
    yolo_bench_options o = gpu_bench_options(false);
    o.repeats = 1;
    CHECK_MSG(model != NULL, "%s", error.message);
    const bench_case c = {.model = model, .options = &o, .n = 1, .h = 32, .w = 32};
    const net *net = &model->checkpoint.net;
    bench_cost cost = {.backward = mem_array((uint64_t)net->op_count, sizeof(double))};
    CHECK_MSG(bench_measure_cost(&c, &cost, &error) == YOLO_OK, "%s", error.message);
    CHECK(cost.before > 0 && cost.update > 0 && cost.multiprocessors > 0);
    for (int i = 0; i < net->op_count; i++) CHECK_MSG(net->ops[i].kind != NET_CONV || cost.backward[i] > 0, "operator %d: %g", i, cost.backward[i]);
    mem_free(cost.backward);
    yolo_model_close(model);
}

#ifdef TEST_EMULATED
/* Every call of CUDA fails once: a sentence, nothing left on the device. */
static void test_gpu_bench_faults(void) {
    for (int train = 0; train < 2; train++) {
        const size_t before = emulate_allocated(0);
        const int handles = emulate_handles();
        int told = 0;
        for (int64_t n = 1; n < 100000; n += 1 + n) {
            yolo_error error = {0};
            yolo_bench_options o = gpu_bench_options(train);
            char *text = NULL;
            o.repeats = 1;
            o.imgsz = 32;
            o.kernels = !train;
            o.tune = true;
            emulate_fail_after(n);
            yolo_model *model = gpu_bench_open(gpu_step_little(), &error);
            const yolo_status status = model ? yolo_bench(model, o, &text, &error) : YOLO_ERROR_DEVICE;
            yolo_model_close(model);
            const bool failed = emulate_failed();
            emulate_fail_after(0);
            CHECK_MSG((status == YOLO_OK) == (text != NULL), "call %d: %d", (int)n, status);
            yolo_text_free(text);
            CHECK_MSG(emulate_allocated(0) == before && emulate_handles() == handles, "call %d: %zu bytes and %d handles are left", (int)n, emulate_allocated(0) - before,
                      emulate_handles() - handles);
            if (!failed) break;
            told += status != YOLO_OK;
            CHECK_MSG(status == YOLO_OK || error.message[0], "call %d: %d, '%s'", (int)n, status, error.message);
        }
        CHECK(told > 5);
    }
}
#endif

static const test_case tests_gpu_bench[] = {
    {"watch", "calls are noted with time, bytes and what they were", test_gpu_watch},
    {"peaks", "copies and products of each type have a peak", test_gpu_peaks},
    {"forward", "passes, operators and kinds of kernels have lines", test_gpu_bench_forward},
    {"steps", "training steps on drawn and on decoded pictures; the model stays", test_gpu_bench_train},
    {"scaling", "what a step costs, part by part and operator by operator", test_gpu_bench_scaling},
    {"tune", "tiles by measuring: a sum, a line where the tile is not the rule's", test_gpu_bench_tune},
#ifdef TEST_EMULATED
    {"faults", "calls that fail: a sentence, nothing left behind", test_gpu_bench_faults},
#endif
};
