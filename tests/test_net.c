/* test_net.c - the model graph and its execution: parameter tables, layouts, memory plans, forward passes, damaged
   descriptions. tests/make_net.py makes the reference outputs. */

static bool test_net_builtin(net *n, const char *name, int classes, bool fused) {
    arena memory = {0};
    yolo_error error = {0};
    val *yaml = net_builtin_yaml(&memory, name);
    CHECK_MSG(yaml, "%s", name);
    yolo_status status = yaml ? net_build(n, yaml, NULL, classes, NULL, -1, fused, &error) : YOLO_ERROR_USAGE;
    CHECK_MSG(status == YOLO_OK, "%s: %s", name, error.message);
    arena_free(&memory);
    return status == YOLO_OK;
}

static yolo_status test_net_text(net *n, const char *text, size_t size, int activation, yolo_error *error) {
    arena memory = {.cap = 64 << 20};
    val *yaml = NULL;
    yolo_status status = yaml_parse(&memory, "test.yaml", text, size, &yaml, error);
    if (status == YOLO_OK) status = net_build(n, yaml, NULL, 0, NULL, activation, false, error);
    arena_free(&memory);
    return status;
}

/* A description among the fixtures; `activation` is put in front as ultralytics spells it, or NULL. */
static bool test_net_file(net *n, const char *path, const char *activation) {
    yolo_error error = {0};
    uint8_t *bytes = NULL;
    size_t size;
    str text = {0};
    yolo_status status = path_read(path, 1 << 20, &bytes, &size, &error);
    if (activation) str_format(&text, "activation: %s\n", activation);
    if (status == YOLO_OK) str_append(&text, (const char *)bytes, size);
    if (status == YOLO_OK) status = test_net_text(n, text.text, (size_t)text.length, -1, &error);
    CHECK_MSG(status == YOLO_OK, "%s: %s", path, error.message);
    mem_free(bytes);
    str_free(&text);
    return status == YOLO_OK;
}

static const char *const test_net_names[] = {"yolov8n.yaml", "yolov8s.yaml", "yolov8m", "yolov8l.yaml", "yolov8x.yaml", "yolov8.yml",
                                             "yolov8n-p2.yaml", "yolov8x-p2"};

static void test_net_summaries(void) {
    static const char *const totals[] = { /* as ultralytics prints them; it counts GFLOPs to more digits */
        "YOLOv8n summary: 129 layers, 3,157,200 parameters, 3,157,184 gradients, 8.9 GFLOPs",
        "YOLOv8s summary: 129 layers, 11,166,560 parameters, 11,166,544 gradients, 28.8 GFLOPs",
        "YOLOv8m summary: 169 layers, 25,902,640 parameters, 25,902,624 gradients, 79.3 GFLOPs",
        "YOLOv8l summary: 209 layers, 43,691,520 parameters, 43,691,504 gradients, 165.7 GFLOPs",
        "YOLOv8x summary: 209 layers, 68,229,648 parameters, 68,229,632 gradients, 258.5 GFLOPs",
        "YOLOv8 summary: 129 layers, 3,157,200 parameters, 3,157,184 gradients, 8.9 GFLOPs",
        "YOLOv8n-p2 summary: 160 layers, 3,354,144 parameters, 3,354,128 gradients, 17.4 GFLOPs",
        "YOLOv8x-p2 summary: 256 layers, 66,637,536 parameters, 66,637,520 gradients, 318.0 GFLOPs",
        "YOLOv8n summary (fused): 72 layers, 3,151,904 parameters, 0 gradients, 8.7 GFLOPs"};
    static const double gflops[] = {8.8550912, 28.8119296, 79.313664, 165.734656, 258.5370112, 8.8550912, 17.4288384, 317.980928};
    for (int i = 0; i < YOLO_COUNT(totals); i++) {
        net n;
        str text = {0};
        double counted = 0;
        if (!test_net_builtin(&n, i < 8 ? test_net_names[i] : "yolov8n.yaml", 0, i == 8)) continue;
        net_summary(&n, &text);
        CHECK_MSG(strstr(text.text, totals[i]), "%s: %s", totals[i], text.text);
        for (int j = 0; j < n.layer_count; j++) counted += net_layer_flops(&n, j, 640, 640);
        if (i < 8) CHECK_NEAR(counted * 1e-9, gflops[i], 1e-9);
        str_free(&text);
        net_free(&n);
    }
    arena memory = {0};
    CHECK(!net_builtin_yaml(&memory, "yolov8q.yaml") && !net_builtin_yaml(&memory, "yolov5n.yaml") && !net_builtin_yaml(&memory, "yolov8n.pt"));
    arena_free(&memory);
}

static void test_net_table(void) {
    static const struct { const char *name; net_group group; int rank, d0, d1, d2; } rows[] = {
        {"model.0.conv.weight", NET_DECAY, 4, 16, 3, 3}, {"model.0.bn.weight", NET_NO_DECAY, 1, 16, 1, 1},
        {"model.0.bn.bias", NET_BIAS, 1, 16, 1, 1}, {"model.0.bn.running_mean", NET_BN_STAT, 1, 16, 1, 1},
        {"model.0.bn.running_var", NET_BN_STAT, 1, 16, 1, 1}, {"model.0.bn.num_batches_tracked", NET_BN_STAT, 0, 1, 1, 1},
        {"model.9.cv2.conv.weight", NET_DECAY, 4, 256, 512, 1}, {"model.22.cv2.1.2.bias", NET_BIAS, 1, 64, 1, 1},
        {"model.22.cv3.2.2.weight", NET_DECAY, 4, 7, 64, 1}, {"model.22.dfl.conv.weight", NET_FROZEN, 4, 1, 16, 1}};
    net n;
    if (!test_net_builtin(&n, "yolov8n.yaml", 7, false)) return;
    int64_t offset = 0;
    for (int i = 0; i < n.param_count; i++) {
        CHECK_MSG(n.params[i].offset == offset && net_param_find(&n, n.params[i].name) == i, "%s", n.params[i].name);
        offset += n.params[i].count;
    }
    CHECK(offset == n.param_elements && n.class_count == 7 && !strcmp(n.names[6], "6") && n.scale == 'n' && n.max_stride == 32);
    CHECK(val_integer(val_get(n.yaml, "nc"), 0) == 7 && val_integer(val_get(n.yaml, "channels"), 0) == 3);
    CHECK(net_param_find(&n, "model.23.conv.weight") == -1);
    for (int i = 0; i < YOLO_COUNT(rows); i++) {
        int at = net_param_find(&n, rows[i].name);
        CHECK_MSG(at >= 0, "%s", rows[i].name);
        if (at < 0) continue;
        const net_param *p = &n.params[at];
        CHECK_MSG(p->group == rows[i].group && p->rank == rows[i].rank && p->dims[0] == rows[i].d0 && p->dims[1] == rows[i].d1 &&
                  p->dims[2] == rows[i].d2, "%s", p->name);
    }
    net_free(&n);
}

/* Layer 0 is 16 channels at 1/2, layer 1 32 channels at 1/4, layer 2 its upsampling. */
#define TEST_NET_UP "nc: 2\nbackbone: [[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]]]\nhead: [[-1, 1, nn.Upsample, [None, 2, nearest]], "

static void test_net_upsampled(void) {
    static const struct { const char *text; int unread, readers; } cases[] = {
        {TEST_NET_UP "[[-1, 0], 1, Concat, [1]], [-1, 1, C2f, [16]], [-1, 1, Detect, [nc]]]\n", 1, 1},
        {TEST_NET_UP "[-1, 1, Conv, [16, 1]], [2, 1, Conv, [16, 1]], [[3, 4], 1, Concat, [1]], [-1, 1, Detect, [nc]]]\n", 1, 2},
        {TEST_NET_UP "[[0, -1], 1, Concat, [1]], [-1, 1, C2f, [16]], [-1, 1, Detect, [nc]]]\n", 0, 0},                  /* not first */
        {TEST_NET_UP "[[-1, 0], 1, Concat, [1]], [-1, 1, Conv, [16, 3]], [-1, 1, Detect, [nc]]]\n", 0, 0},              /* 3x3 */
        {TEST_NET_UP "[[-1, 0], 1, Concat, [1]], [-1, 1, Conv, [16, 1, 2]], [-1, 1, Detect, [nc]]]\n", 0, 0},           /* stride 2 */
        {TEST_NET_UP "[[-1, 0], 1, Concat, [1]], [-1, 1, C2f, [16]], [[-1, 3], 1, Detect, [nc]]]\n", 0, 0},             /* the head, too */
        {TEST_NET_UP "[[-1, 0], 1, Concat, [1]], [-1, 1, C2f, [16]], [[2, 4], 1, Concat, [1]], [-1, 1, Conv, [16, 1]], [[4, 6], 1, Detect, [nc]]]\n", 0, 0}}; /* copied */
    static const struct { const char *name; int unread; } builtin[] = {{"yolov8n.yaml", 2}, {"yolov8x.yaml", 2}, {"yolov8s-p2.yaml", 3}};
    for (int i = 0; i < YOLO_COUNT(cases) + YOLO_COUNT(builtin); i++) {
        const int b = i - YOLO_COUNT(cases);
        net n;
        yolo_error error = {0};
        int unread = 0, readers = 0;
        if (b >= 0 ? !test_net_builtin(&n, builtin[b].name, 0, false) : test_net_text(&n, cases[i].text, strlen(cases[i].text), -1, &error) != YOLO_OK) {
            CHECK_MSG(b >= 0, "case %d: %s", i, error.message);
            continue;
        }
        for (int j = 0; j < n.op_count; j++) {
            const net_op *op = &n.ops[j];
            unread += op->unread;
            readers += op->low >= 0;
            CHECK(op->low < 0 || (op->kernel == 1 && n.tensors[op->in].channels >= n.tensors[op->low].channels));
        }
        CHECK_MSG(unread == (b >= 0 ? builtin[b].unread : cases[i].unread) && readers == (b >= 0 ? builtin[b].unread : cases[i].readers),
                  "case %d: %d upsamplings are not read, %d convolutions read through", i, unread, readers);
        net_free(&n);
    }
}

/* Every channel is written before it is read and once only, inside its buffer; sizes agree; residuals have the same
   shape; the heads are complete at the end. */
static void test_net_check_layout(const net *n, const char *name) {
    bool **written = mem_array((uint64_t)n->buffer_count, sizeof *written);
    for (int i = 0; i < n->buffer_count; i++) written[i] = mem_array((uint64_t)n->buffers[i].channels, 1);
    memset(written[0], 1, 3);
    for (int i = 0; i < n->op_count; i++) {
        const net_op *op = &n->ops[i];
        const net_tensor *in = &n->tensors[op->in], *out = &n->tensors[op->out];
        const net_buffer *from = &n->buffers[in->buffer], *to = &n->buffers[out->buffer];
        int h = op->kind == NET_UPSAMPLE ? from->h * 2 : op->kind == NET_COPY ? from->h : (from->h + 2 * op->padding - op->kernel) / op->stride + 1;
        bool good = in->channel + in->channels <= from->channels && out->channel + out->channels <= to->channels && h == to->h;
        good = good && (op->kind == NET_CONV || in->channels == out->channels);
        for (int c = 0; c < in->channels && good; c++) good = written[in->buffer][in->channel + c];
        if (op->residual >= 0) {
            const net_tensor *r = &n->tensors[op->residual];
            good = good && r->channels == out->channels && n->buffers[r->buffer].down == to->down;
            for (int c = 0; c < r->channels && good; c++) good = written[r->buffer][r->channel + c];
        }
        for (int c = 0; c < out->channels && good; c++) {
            good = !written[out->buffer][out->channel + c];
            written[out->buffer][out->channel + c] = true;
        }
        CHECK_MSG(good, "%s: operator %d of layer %d", name, i, op->layer);
        if (!good) break;
    }
    for (int j = 0; j < n->level_count; j++)
        for (int c = 0; c < n->tensors[n->heads[j]].channels; c++)
            if (!written[n->tensors[n->heads[j]].buffer][c]) { CHECK_MSG(false, "%s: head %d channel %d", name, j, c); break; }
    for (int i = 0; i < n->buffer_count; i++) mem_free(written[i]);
    mem_free(written);
}

/* Buffers that live at the same operator do not overlap and lie inside the arena. Returns the most floats that live. */
static int64_t test_net_check_plan(const net *n, const char *name) {
    int64_t live_most = 0;
    for (int i = -1; i <= n->op_count; i++) {
        int64_t live = 0;
        for (int a = 0; a < n->buffer_count; a++) {
            const net_buffer *x = &n->buffers[a];
            if (x->first_op > i || x->last_op < i) continue;
            int64_t end = x->offset + (int64_t)n->n * x->h * x->w * x->channels;
            live += end - x->offset;
            CHECK_MSG(x->offset >= 0 && end <= n->arena_floats && x->offset % 16 == 0, "%s: buffer %d", name, a);
            for (int b = 0; b < a; b++) {
                const net_buffer *y = &n->buffers[b];
                if (y->first_op > i || y->last_op < i) continue;
                int64_t other_end = y->offset + (int64_t)n->n * y->h * y->w * y->channels;
                if (x->offset < other_end && y->offset < end) { CHECK_MSG(false, "%s: buffers %d and %d at operator %d", name, a, b, i); return live; }
            }
        }
        live_most = YOLO_MAX(live_most, live);
    }
    return live_most;
}

static void test_net_plans(void) {
    static const int sizes[][3] = {{1, 640, 640}, {1, 640, 448}, {1, 32, 32}, {3, 64, 1280}};
    for (int i = 0; i <= YOLO_COUNT(test_net_names); i++) {
        net n;
        const char *name = i < YOLO_COUNT(test_net_names) ? test_net_names[i] : "odd";
        if (i < YOLO_COUNT(test_net_names) ? !test_net_builtin(&n, name, 0, i % 2) : !test_net_file(&n, "tests/fixtures/net_odd.yaml", NULL)) continue;
        for (int s = 0; s < YOLO_COUNT(sizes); s++) {
            CHECK(net_shape(&n, sizes[s][0], sizes[s][1], sizes[s][2], NULL) == YOLO_OK);
            double live = (double)test_net_check_plan(&n, name);
            CHECK_MSG((double)n.arena_floats <= 1.2 * live, "%s: %lld floats planned, %.0f live", name, (long long)n.arena_floats, live);
            test_net_check_layout(&n, name);
        }
        yolo_error error;
        CHECK(net_shape(&n, 1, 640, 650, &error) == YOLO_ERROR_USAGE && net_shape(&n, 0, 64, 64, &error) == YOLO_ERROR_USAGE);
        CHECK(net_shape(&n, 4096, 65504, 65504, &error) == YOLO_ERROR_MEMORY && net_shape(&n, 1, 1 << 30, 32, &error) == YOLO_ERROR_MEMORY);
        net_free(&n);
    }
}

/* Batch norms that are not the identity; tests/make_net.py draws the same numbers. */
static void test_net_random_norm(const net *n, float *params, uint64_t seed) {
    static const struct { const char *end; double low, high; } ranges[] = {
        {"bn.weight", 0.7, 1.3}, {"bn.bias", -0.5, 0.5}, {"running_mean", -0.2, 0.2}, {"running_var", 0.06, 0.2}};
    for (int i = 0; i < n->param_count; i++)
        for (int k = 0; k < YOLO_COUNT(ranges); k++) {
            const net_param *p = &n->params[i];
            rng r = {.key = hash_bytes(p->name, strlen(p->name), seed)};
            for (int64_t j = 0; j < p->count && str_ends_with(p->name, ranges[k].end); j++)
                params[p->offset + j] = (float)(ranges[k].low + (ranges[k].high - ranges[k].low) * rng_uniform(&r));
        }
}

typedef struct test_net_run { net n; float *params; run_weights *weights; run_lane *lane; } test_net_run;

static bool test_net_start(test_net_run *t, op_isa isa, thr_pool *pool, int n, int h, int w) {
    yolo_error error = {0};
    t->params = mem_array((uint64_t)t->n.param_elements, sizeof(float));
    net_init_params(&t->n, t->params, 7);
    test_net_random_norm(&t->n, t->params, 7);
    t->lane = NULL;
    yolo_status status = run_weights_create(&t->weights, &t->n, t->params, isa, run_cpu, &error);
    if (status == YOLO_OK) status = run_lane_create(&t->lane, t->weights, &t->n, pool, n, h, w, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    return status == YOLO_OK;
}

static void test_net_end(test_net_run *t) {
    run_lane_destroy(t->lane);
    run_weights_destroy(t->weights);
    mem_free(t->params);
    net_free(&t->n);
}

/* Everything the lane owns becomes NaN, then the input is drawn. */
static void test_net_input(run_lane *lane) {
    for (int64_t i = 0; i < lane->activation_floats; i++) lane->activations[i] = NAN;
    for (size_t i = 0; i < lane->workspace_bytes / sizeof(float); i++) ((float *)lane->workspace)[i] = NAN;
    rng r = {.key = hash_bytes("input", 5, 7)};
    float *input = run_lane_input(lane);
    for (int64_t i = 0; i < (int64_t)lane->n * lane->h * lane->w * 3; i++) input[i] = (float)rng_uniform(&r);
}

static uint64_t test_net_heads_hash(const run_lane *lane) {
    uint64_t hash = 0;
    for (int j = 0; j < lane->net->level_count; j++) {
        ten head = run_lane_head(lane, j);
        hash = hash_bytes(head.data, (size_t)head.n * head.h * head.w * head.c * sizeof(float), hash);
    }
    return hash;
}

static void test_net_forward(void) {
    static const struct { const char *name, *file, *activation; int h, w; } cases[] = {
        {"silu", "tests/fixtures/net_tiny.yaml", NULL, 64, 96},
        {"relu", "tests/fixtures/net_tiny.yaml", "nn.ReLU()", 32, 64},
        {"leakyrelu", "tests/fixtures/net_tiny.yaml", "torch.nn.LeakyReLU(0.1)", 32, 64},
        {"mish", "tests/fixtures/net_tiny.yaml", "nn.Mish()", 32, 64},
        {"odd", "tests/fixtures/net_odd.yaml", NULL, 32, 32}};
    ref_file ref;
    CHECK(ref_open(&ref, "tests/fixtures/net.ref"));
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (op_isa isa = OP_PORTABLE; isa <= op_isa_best(); isa++) {
            test_net_run t;
            if (!test_net_file(&t.n, cases[i].file, cases[i].activation)) continue;
            if (test_net_start(&t, isa, NULL, 1, cases[i].h, cases[i].w)) {
                test_net_input(t.lane);
                run_forward(t.lane);
                for (int j = 0; j < t.n.level_count; j++) {
                    char name[32];
                    snprintf(name, sizeof name, "%s.%d", cases[i].name, j);
                    const ref_array *want = ref_get(&ref, name);
                    ten head = run_lane_head(t.lane, j);
                    double worst = 0, low = 1e30, high = -1e30;
                    CHECK(want && want->count == (int64_t)head.h * head.w * head.c && want->dims[1] == head.h && want->dims[2] == head.w);
                    for (int64_t k = 0; want && k < want->count; k++) {
                        double difference = fabs((double)head.data[k] - want->data[k]);
                        worst = difference <= worst ? worst : difference;
                        low = YOLO_MIN(low, want->data[k]);
                        high = YOLO_MAX(high, want->data[k]);
                    }
                    CHECK_MSG(worst <= 2e-5 * (high - low), "%s, instruction set %d: %g of a range of %g", name, (int)isa, worst, high - low);
                }
            }
            test_net_end(&t);
        }
    ref_close(&ref);
}

/* Threads, batches and other sizes in between change no bit. */
static void test_net_same_bits(void) {
    test_net_run one, two;
    thr_pool *pool = thr_pool_create(3);
    if (!test_net_file(&one.n, "tests/fixtures/net_tiny.yaml", NULL) || !test_net_file(&two.n, "tests/fixtures/net_tiny.yaml", NULL)) return;
    if (test_net_start(&one, op_isa_best(), NULL, 1, 64, 96) && test_net_start(&two, op_isa_best(), pool, 2, 96, 96)) {
        test_net_input(one.lane);
        run_forward(one.lane);
        uint64_t hash = test_net_heads_hash(one.lane);
        test_net_input(one.lane);
        run_forward(one.lane);
        run_forward(one.lane); /* the input is still there */
        CHECK(test_net_heads_hash(one.lane) == hash);
        CHECK(run_lane_shape(two.lane, 1, 64, 96, NULL) == YOLO_OK);
        test_net_input(two.lane);
        run_forward(two.lane);
        CHECK(test_net_heads_hash(two.lane) == hash);
        CHECK(run_lane_shape(two.lane, 2, 64, 96, NULL) == YOLO_OK);
        test_net_input(two.lane);
        size_t floats = 64 * 96 * 3;
        float *input = run_lane_input(two.lane);
        memmove(input + floats, input, floats * sizeof *input); /* the same picture after another */
        for (size_t i = 0; i < floats; i++) input[i] = 1 - input[i];
        run_forward(two.lane);
        for (int j = 0; j < one.n.level_count; j++) {
            ten a = run_lane_head(one.lane, j), b = run_lane_head(two.lane, j);
            size_t count = (size_t)a.h * a.w * a.c;
            CHECK(!memcmp(a.data, b.data + count, count * sizeof(float)) && memcmp(a.data, b.data, count * sizeof(float)));
        }
    }
    test_net_end(&one);
    test_net_end(&two);
    thr_pool_destroy(pool);
}

static void test_net_no_allocation(void) {
    test_net_run t;
    thr_pool *pool = thr_pool_create(2);
    double ms[NET_MAX_OPS], sum = 0;
    if (test_net_file(&t.n, "tests/fixtures/net_tiny.yaml", NULL) && test_net_start(&t, op_isa_best(), pool, 2, 96, 96)) {
        os_atomic_set(&mem_fail_after, 1); /* the next allocation would fail, and clear this */
        CHECK(run_lane_shape(t.lane, 1, 96, 64, NULL) == YOLO_OK);
        test_net_input(t.lane);
        run_forward(t.lane);
        uint64_t hash = test_net_heads_hash(t.lane);
        run_forward_timed(t.lane, ms);
        CHECK(os_atomic_get(&mem_fail_after) == 1 && test_net_heads_hash(t.lane) == hash);
        CHECK(run_lane_shape(t.lane, 4, 128, 128, NULL) == YOLO_ERROR_MEMORY && os_atomic_get(&mem_fail_after) == 0);
        test_net_input(t.lane); /* the old size still works */
        run_forward(t.lane);
        CHECK(t.lane->h == 96 && t.lane->w == 64 && test_net_heads_hash(t.lane) == hash);
        CHECK(run_lane_shape(t.lane, 4, 128, 128, NULL) == YOLO_OK);
        for (int i = 0; i < t.n.op_count; i++) sum += ms[i];
        CHECK(sum > 0);
    }
    os_atomic_set(&mem_fail_after, 0);
    test_net_end(&t);
    thr_pool_destroy(pool);
}

static void test_net_out_of_memory(void) {
    arena memory = {0};
    yolo_error error;
    static const char text[] = "nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]], [0, 3, C2f, [16]]]\nhead: [[[0, 1], 1, Concat, [1]], [2, 1, Detect, [nc]]]\n";
    val *yaml = NULL;
    CHECK(yaml_parse(&memory, "test.yaml", text, sizeof text - 1, &yaml, &error) == YOLO_OK);
    bool done = false;
    for (int fail = 1; !done && fail < 1000; fail++) {
        net n;
        run_weights *weights = NULL;
        run_lane *lane = NULL;
        float *params = NULL;
        os_atomic_set(&mem_fail_after, fail);
        yolo_status status = net_build(&n, yaml, NULL, 2, NULL, NET_RELU, false, &error);
        bool built = status == YOLO_OK;
        if (built && !(params = mem_array((uint64_t)n.param_elements, sizeof *params))) status = YOLO_ERROR_MEMORY;
        if (status == YOLO_OK) status = run_weights_create(&weights, &n, params, OP_PORTABLE, run_cpu, &error);
        if (status == YOLO_OK) status = run_lane_create(&lane, weights, &n, NULL, 1, 32, 32, &error);
        done = os_atomic_get(&mem_fail_after) > 0;
        os_atomic_set(&mem_fail_after, 0);
        CHECK_MSG(done ? status == YOLO_OK : status == YOLO_ERROR_MEMORY, "allocation %d: status %d", fail, (int)status);
        run_lane_destroy(lane);
        run_weights_destroy(weights);
        mem_free(params);
        if (built) net_free(&n);
    }
    CHECK(done);
    arena_free(&memory);
}

/* The graph of a state dict is that of the description it came from. */
static void test_net_from_shapes(void) {
    static const struct { const char *name; int classes, class_channels; bool fused; } cases[] = {
        {"yolov8n.yaml", 80, 0, false}, {"yolov8x.yaml", 1, 0, true}, {"yolov8m.yaml", 500, 0, false}, {"yolov8s-p2.yaml", 3, 0, false},
        {"yolov8n.yaml", 365, 365, false}};
    arena memory = {0};
    yolo_error error = {0};
    for (int i = 0; i <= YOLO_COUNT(cases); i++) {
        net a, b;
        bool odd = i == YOLO_COUNT(cases); /* a width and depth of no scale */
        yolo_status status = YOLO_OK;
        if (odd ? !test_net_file(&a, "tests/fixtures/net_tiny.yaml", NULL) : false) continue;
        if (!odd) status = net_build_with(&a, net_builtin_yaml(&memory, cases[i].name), NULL, cases[i].classes, NULL, -1, cases[i].fused,
                                          cases[i].class_channels, &error);
        if (status == YOLO_OK) status = net_build_from_shapes(&b, a.params, a.param_count, &error);
        CHECK_MSG(status == YOLO_OK, "%d: %s", i, error.message);
        if (status != YOLO_OK) continue;
        CHECK(a.param_count == b.param_count && a.param_elements == b.param_elements && a.op_count == b.op_count && a.fused == b.fused &&
              a.class_count == b.class_count && a.scale == b.scale);
        for (int j = 0; j < a.param_count && j < b.param_count; j++) CHECK(!memcmp(&a.params[j], &b.params[j], sizeof a.params[j]));
        a.params[a.param_count / 2].dims[0]++;
        net_free(&b);
        CHECK(net_build_from_shapes(&b, a.params, a.param_count, &error) == YOLO_ERROR_UNSUPPORTED && !b.layers);
        CHECK(net_build_from_shapes(&b, a.params, a.param_count - 30, &error) == YOLO_ERROR_UNSUPPORTED);
        net_free(&a);
    }
    CHECK(net_build_from_shapes(&(net){0}, NULL, 0, &error) == YOLO_ERROR_UNSUPPORTED);
    arena_free(&memory);
}

static void test_net_activations(void) {
    static const struct { const char *text; bool good; net_activation activation; double slope; } cases[] = {
        {"silu", true, NET_SILU, 0.01}, {"nn.SiLU()", true, NET_SILU, 0.01}, {"torch.nn.SiLU(inplace=True)", true, NET_SILU, 0.01},
        {"torch.nn.ReLU()", true, NET_RELU, 0.01}, {"LeakyReLU", true, NET_LEAKYRELU, 0.01}, {"nn.LeakyReLU()", true, NET_LEAKYRELU, 0.01},
        {"nn.LeakyReLU(0.1)", true, NET_LEAKYRELU, 0.1}, {"torch.nn.LeakyReLU(negative_slope=0.2, inplace=True)", true, NET_LEAKYRELU, 0.2},
        {"nn.LeakyReLU(inplace=True)", true, NET_LEAKYRELU, 0.01}, {"mish", true, NET_MISH, 0.01}, {"nn.Identity()", true, NET_LINEAR, 0.01},
        {"nn.GELU()", false, NET_SILU, 0}, {"", false, NET_SILU, 0}, {"nn.ReLU6()", false, NET_SILU, 0}, {"nn.ReLU(", false, NET_SILU, 0},
        {"nn.LeakyReLU(-1)", false, NET_SILU, 0}, {"nn.LeakyReLU(1e999)", false, NET_SILU, 0}, {"os.system('x')", false, NET_SILU, 0}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        net_activation activation;
        double slope;
        bool good = net_parse_activation(cases[i].text, &activation, &slope);
        CHECK_MSG(good == cases[i].good && (!good || (activation == cases[i].activation && slope == cases[i].slope)), "%s", cases[i].text);
    }
    arena memory = {0};
    net n;
    CHECK(net_build(&n, net_builtin_yaml(&memory, "yolov8n"), "m", 5, NULL, NET_MISH, false, NULL) == YOLO_OK);
    CHECK(n.activation == NET_MISH && n.scale == 'm' && !strcmp(val_text(val_get(n.yaml, "activation"), ""), "torch.nn.Mish()"));
    net_free(&n);
    arena_free(&memory);
}

static void test_net_damaged(void) {
    static const struct { const char *text, *message; } cases[] = {
        {"[1, 2]", "expected a map"},
        {"nc: 80\nhead: []\n", "backbone and head"},
        {"backbone: []\nhead: []\n", "nc is -1"},
        {"nc: 0\nbackbone: []\nhead: []\n", "nc is 0, expected 1"},
        {"nc: 99999999999\nbackbone: []\nhead: []\n", "nc is 99999999999"},
        {"nc: 2\nbackbone: []\nhead: []\n", "0 layers"},
        {"nc: 2\nch: 4\nbackbone: []\nhead: []\n", "4 input channels"},
        {"nc: 2\nwidth_multiple: 1.0e+9\nbackbone: []\nhead: []\n", "width 1e+09"},
        {"nc: 2\ndepth_multiple: deep\nbackbone: []\nhead: []\n", "depth nan"},
        {"nc: 2\nactivation: nn.GELU()\nbackbone: []\nhead: []\n", "activation 'nn.GELU()' is not supported; supported: silu"},
        {"nc: 2\nscales: {n: [1]}\nbackbone: []\nhead: []\n", "no row 'n' of depth"},
        {"nc: 2\nscale: q\nscales: {n: [1, 1, 99]}\nbackbone: []\nhead: []\n", "no row 'q' of depth"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]], 7]\nhead: []\n", "layer 1: expected a row"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[-1, 1, C3k2, [8]]]\n", "layer 1: module C3k2 is not supported; supported: Conv"},
        {"nc: 2\nbackbone: [[0, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8]]]\nhead: []\n", "layer 0: input 0 is not an earlier"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]], [-7, 1, Conv, [8]]]\nhead: []\n", "layer 1: input -7 is not an earlier"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [0, 3, 2]]]\nhead: [[-1, 1, Detect, [nc]]]\n", "argument 1 of Conv is 0"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 4, 2]]]\nhead: [[-1, 1, Detect, [nc]]]\n", "does not divide the size"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 1, 1, 2]]]\nhead: [[-1, 1, Detect, [nc]]]\n", "argument 5 of Conv is 2"},
        {"nc: 2\nbackbone: [[-1, 99, C2f, [8]]]\nhead: [[-1, 1, Detect, [nc]]]\n", "99 repeats, expected 1 to 64"},
        {"nc: 2\nbackbone: [[-1, 2, Conv, [8]]]\nhead: [[-1, 1, Detect, [nc]]]\n", "Conv repeated 2 times"},
        {"nc: 2\nbackbone: [[-1, 1, nn.Upsample, [None, 2, nearest]]]\nhead: [[-1, 1, Detect, [nc]]]\n", "nn.Upsample other than"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]]]\nhead: [[[0, 1], 1, Concat, [1]]]\n", "1/2 and 1/4 of the picture"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[[0, 0], 1, Conv, [8]]]\n", "Conv with 2 inputs"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[0, 1, Detect, [80]]]\n", "Detect of 80 classes, but nc is 2"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[0, 1, Detect, [nc]], [0, 1, Conv, [8]]]\n", "not the last layer"},
        {"nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[0, 1, Conv, [8]]]\n", "the last layer is Conv, expected Detect"},
        {"nc: 2\nend2end: True\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[0, 1, Detect, [nc]]]\n", "end2end"},
        {"nc: 8192\nbackbone: [[-1, 1, Conv, [8192, 15]]]\nhead: [[0, 1, Detect, [nc]]]\n", "more than 200000000 parameters"},
        {"nc: [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]\n", "nested deeper"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        net n;
        yolo_error error = {0};
        yolo_status status = test_net_text(&n, cases[i].text, strlen(cases[i].text), -1, &error);
        CHECK_MSG(status != YOLO_OK && strstr(error.message, cases[i].message), "%s gives: %s", cases[i].text, error.message);
        if (status == YOLO_OK) net_free(&n);
    }
    arena memory = {0}; /* a pickle can make a list that holds itself */
    yolo_error error = {0};
    val *map = val_new(&memory, VAL_MAP), *list = val_new(&memory, VAL_LIST);
    CHECK(val_add(&memory, list, NULL, list) && val_add(&memory, list, NULL, list) && net_set_val(&memory, map, "backbone", list));
    CHECK(net_build(&(net){0}, map, NULL, 1, NULL, -1, false, &error) == YOLO_ERROR_FORMAT && strstr(error.message, "nested deeper"));
    arena_free(&memory);
}

/* Thousands of changed bytes: an error or a graph whose plan holds; every fourth runs if it is small. */
static void test_net_mutations(void) {
    uint8_t *bytes = NULL;
    size_t size;
    int built = 0, run = 0;
    CHECK(path_read("tests/fixtures/net_odd.yaml", 1 << 20, &bytes, &size, NULL) == YOLO_OK);
    for (int i = 0; bytes && i < 3000; i++) {
        rng r = {.key = (uint64_t)i};
        char *text = mem_alloc(size + 1);
        memcpy(text, bytes, size + 1);
        for (int k = (int)(rng_next(&r) % 4); k >= 0; k--) text[rng_next(&r) % size] = "0123456789-[],: nC\n"[rng_next(&r) % 19];
        test_net_run t;
        yolo_error error = {0};
        if (test_net_text(&t.n, text, size, -1, &error) == YOLO_OK) {
            built++;
            if (net_shape(&t.n, 1, t.n.max_stride, t.n.max_stride, &error) == YOLO_OK) {
                test_net_check_plan(&t.n, text);
                test_net_check_layout(&t.n, text);
            }
            if (i % 4 == 0 && t.n.param_elements < 1000000 && t.n.arena_floats < 2000000 && test_net_start(&t, OP_PORTABLE, NULL, 1, t.n.max_stride, t.n.max_stride)) {
                test_net_input(t.lane);
                run_forward(t.lane);
                run++;
                test_net_end(&t);
            } else net_free(&t.n);
        } else CHECK(error.message[0]);
        mem_free(text);
    }
    CHECK_MSG(built > 300 && run > 50, "%d built, %d run", built, run);
    mem_free(bytes);
}

static void test_net_open(void) {
    static const char text[] = "nc: 3\nscales: {n: [1, 0.5, 64], s: [1, 1, 64]}\nbackbone: [[-1, 1, Conv, [16, 3, 2]]]\nhead: [[0, 1, Detect, [nc]]]\n";
    static const char bad[] = "nc: 3\nbackbone: [[-1, 1, Conv, [16, 3, 2]]]\nhead: [[0, 1, Segment, [nc]]]\n";
    yolo_model *model;
    yolo_error error;
    yolo_open_options options = yolo_open_defaults();
    options.threads = 2;
    options.classes = 5;
    options.activation = "relu";
    CHECK(yolo_model_open(&model, "nowhere/yolov8n.yaml", options, &error) == YOLO_OK);
    if (model) {
        const net *n = &model->checkpoint.net;
        CHECK(yolo_class_count(model) == 5 && !strcmp(yolo_class_name(model, 4), "4") && !*yolo_class_name(model, 5) && !*yolo_class_name(model, -1));
        CHECK(n->activation == NET_RELU && n->scale == 'n' && model->checkpoint.built && model->isa == op_isa_best() && model->threads == 2);
        const float *bias = model->checkpoint.params + n->params[net_param_find(n, "model.22.cv3.0.2.bias")].offset;
        CHECK_NEAR(bias[4], log(5.0 / 5 / (80.0 * 80.0)), 1e-6);
    }
    yolo_model_close(model);
    options = yolo_open_defaults();
    const char *path = test_temp("my-yolov8s-long.yaml"), *damaged = test_temp("bad.yml");
    CHECK(path_write(path, text, sizeof text - 1, false, NULL) == YOLO_OK && path_write(damaged, bad, sizeof bad - 1, false, NULL) == YOLO_OK);
    CHECK(yolo_model_open(&model, path, options, &error) == YOLO_OK);
    if (model) CHECK(model->checkpoint.net.scale == 's' && model->checkpoint.net.layers[0].out_channels == 16);
    yolo_model_close(model);
    CHECK(yolo_model_open(&model, damaged, options, &error) == YOLO_ERROR_UNSUPPORTED && !model && strstr(error.message, "bad.yml") &&
          strstr(error.message, "layer 1: module Segment is not supported"));
    CHECK(yolo_model_open(&model, "yolov8q.yaml", options, &error) == YOLO_ERROR_IO && !model && strstr(error.message, "built in are"));
    options.activation = "gelu";
    CHECK(yolo_model_open(&model, "yolov8n", options, &error) == YOLO_ERROR_USAGE && strstr(error.message, "expected silu"));
    options = yolo_open_defaults();
    options.isa = "sse9";
    CHECK(yolo_model_open(&model, "yolov8n", options, &error) == YOLO_ERROR_USAGE && strstr(error.message, "sse9"));
    yolo_model_close(NULL);
}

/* --dump-heads MODEL INPUT.ref OUTPUT.ref [ISA]: the raw head outputs of a model for the array "input" (n,h,w,3), as arrays
   head.0, head.1, ... for tests/oracle_net.py. The reason of a failure goes to stdout. */
static int test_dump_heads(int count, char **arguments) {
    yolo_model *model = NULL;
    yolo_error error = {0};
    yolo_open_options options = yolo_open_defaults();
    ref_file ref;
    if (count < 3) return 2;
    if (count > 3) options.isa = arguments[3];
    if (!ref_open(&ref, arguments[1])) return 1;
    const ref_array *input = ref_get(&ref, "input");
    yolo_status status = !input || input->rank != 4 ? YOLO_ERROR_FORMAT : yolo_model_open(&model, arguments[0], options, &error);
    run_lane *lane = NULL;
    if (status == YOLO_OK)
        status = run_lane_create(&lane, model->weights.of[0], &model->checkpoint.net, model->pool, input->dims[0], input->dims[1], input->dims[2], &error);
    FILE *file = status == YOLO_OK ? os_open(arguments[2], "wb") : NULL;
    if (file) {
        int32_t levels = model->checkpoint.net.level_count;
        memcpy(run_lane_input(lane), input->data, (size_t)input->count * sizeof(float));
        run_forward(lane);
        fwrite("YREF1\0\0\0", 8, 1, file);
        fwrite(&levels, 4, 1, file);
        for (int j = 0; j < levels; j++) {
            ten head = run_lane_head(lane, j);
            int32_t length = 6, rest[] = {0, 4, head.n, head.h, head.w, head.c}; /* type, rank, sizes */
            char name[24];
            snprintf(name, sizeof name, "head.%d", j);
            fwrite(&length, 4, 1, file);
            fwrite(name, 6, 1, file);
            fwrite(rest, sizeof rest, 1, file);
            fwrite(head.data, sizeof(float), (size_t)head.n * head.h * head.w * head.c, file);
        }
        if (fclose(file)) status = YOLO_ERROR_IO;
    } else if (status == YOLO_OK) status = err_os(&error, arguments[2], "create");
    if (status != YOLO_OK) printf("%s\n", error.message);
    run_lane_destroy(lane);
    yolo_model_close(model);
    ref_close(&ref);
    return status == YOLO_OK ? 0 : 1;
}

static const test_case tests_net[] = {
    {"summaries", "n..x, p2: layers, parameters, GFLOPs as ultralytics counts", test_net_summaries},
    {"table", "names, shapes, groups and places of the parameters", test_net_table},
    {"upsampled", "upsamplings that a GPU need not write are found, others are not", test_net_upsampled},
    {"plans", "no live buffers overlap; each channel is written once, before it is read", test_net_plans},
    {"forward", "head outputs equal torch's; four activations, odd graphs, poisoned memory", test_net_forward},
    {"same_bits", "threads, batches and changes of size change no bit", test_net_same_bits},
    {"no_allocation", "a forward pass and a smaller size allocate nothing", test_net_no_allocation},
    {"out_of_memory", "every allocation may fail", test_net_out_of_memory},
    {"from_shapes", "a bare state dict gives the same graph", test_net_from_shapes},
    {"open", "a model of a description: names, scales, classes, activations, errors", test_net_open},
    {"activations", "spellings and slopes", test_net_activations},
    {"damaged", "damaged descriptions are refused with a reason", test_net_damaged},
    {"mutations", "3,000 mutated descriptions", test_net_mutations},
};
