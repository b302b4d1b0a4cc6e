/* gpu_wgrad.c - K9: gradients of weights and biases against op_conv_wgrad, added to what is there, between guards, with a workspace
   full of NaNs; each twice, in the same bits. */

typedef struct wgrad_case {
    int n, h, w, c, in_c, k, kernel, stride, padding; /* in_c: channels of the tensor, zeros from c on */
    int in_before, in_behind, out_before, out_behind; /* channels around the views */
    bool bias;
} wgrad_case;

static yg_conv wgrad_conv(const wgrad_case *t, yg_type type) {
    return (yg_conv){.in_channels = t->c, .out_channels = t->k, .kernel = t->kernel, .stride = t->stride, .padding = t->padding, .type = type};
}

enum { WGRAD_GUARD = 5 }; /* floats: d_weight is then aligned to nothing but floats */

static bool wgrad_guards_hold(const float *values, size_t count) {
    for (int i = 0; i < WGRAD_GUARD; i++)
        if (values[i] != 7 || values[WGRAD_GUARD + count + (size_t)i] != 7) return false;
    return true;
}

/* Both gradients on the GPU, added to `start` (weights, then biases, guards around both), to be freed with mem_free. */
static float *wgrad_on_gpu(const wgrad_case *t, const gpu_block *d_out, const gpu_block *in, const gpu_block *low, const float *start, size_t weights) {
    yg_gpu *gpu = gpu_device();
    const yg_conv conv = wgrad_conv(t, in->t.type);
    const size_t count = weights + (size_t)t->k + 3 * WGRAD_GUARD, bytes = yg_wgrad_bytes(gpu, &d_out->t, &in->t, &conv);
    float *memory = gpu_floats(start, count);
    CHECK(bytes <= 64u << 20);
    uint8_t *workspace = yg_alloc(gpu, bytes + GPU_GUARD), *fill = mem_alloc(bytes + GPU_GUARD);
    memset(fill, 0xFF, bytes + GPU_GUARD);
    yg_upload(gpu, workspace, fill, bytes + GPU_GUARD);
    gpu_finish();
    float *d_bias = t->bias ? memory + weights + 2 * WGRAD_GUARD : NULL;
    if (low) yg_conv_upsampled_wgrad(gpu, memory + WGRAD_GUARD, d_bias, &d_out->t, &in->t, &low->t, &conv, workspace);
    else yg_conv_wgrad(gpu, memory + WGRAD_GUARD, d_bias, &d_out->t, &in->t, &conv, workspace);
    float *result = gpu_floats_read(memory, count);
    yg_download(gpu, fill, workspace, bytes + GPU_GUARD);
    gpu_finish();
    for (size_t i = 0; i < GPU_GUARD; i++) CHECK(fill[bytes + i] == 0xFF);
    yg_free(gpu, workspace);
    yg_free(gpu, memory);
    mem_free(fill);
    return result;
}

static float *wgrad_on_cpu(const wgrad_case *t, const float *d_out, const float *in, const float *start, size_t weights) {
    const int out_h = (t->h + 2 * t->padding - t->kernel) / t->stride + 1, out_w = (t->w + 2 * t->padding - t->kernel) / t->stride + 1;
    const size_t count = weights + (size_t)t->k + 3 * WGRAD_GUARD;
    const size_t pixels = (size_t)t->n * (size_t)t->h * (size_t)t->w;
    float *result = mem_array(count, sizeof *result), *view_in = mem_array(pixels * (size_t)t->c, sizeof *view_in);
    for (size_t p = 0; p < pixels; p++) memcpy(view_in + p * (size_t)t->c, in + p * (size_t)t->in_c, (size_t)t->c * sizeof *in);
    const ten out_view = gpu_ten((float *)(uintptr_t)d_out, t->n, out_h, out_w, t->k), in_view = gpu_ten(view_in, t->n, t->h, t->w, t->c);
    void *workspace = mem_alloc(op_wgrad_workspace(OP_PORTABLE, t->c, t->k, t->kernel, t->stride, t->padding, t->n, t->h, t->w, 1));
    memcpy(result, start, count * sizeof *result);
    op_conv_wgrad(result + WGRAD_GUARD, t->bias ? result + weights + 2 * WGRAD_GUARD : NULL, &out_view, &in_view, OP_PORTABLE, t->kernel, t->stride, t->padding,
                  workspace, NULL);
    mem_free(workspace);
    mem_free(view_in);
    return result;
}

/* The first `low_c` channels are upsampled from a map of their own, and NaN in the input itself. */
static void wgrad_run_low(const wgrad_case *t, int low_c, yg_type type) {
    const int out_h = (t->h + 2 * t->padding - t->kernel) / t->stride + 1, out_w = (t->w + 2 * t->padding - t->kernel) / t->stride + 1;
    const size_t weights = (size_t)t->k * (size_t)t->kernel * (size_t)t->kernel * (size_t)t->c, count = weights + (size_t)t->k + 3 * WGRAD_GUARD;
    gpu_block in = gpu_tensor(t->n, t->h, t->w, t->in_c, t->in_before + t->in_c + t->in_behind, t->in_before, type);
    gpu_block d_out = gpu_tensor(t->n, out_h, out_w, t->k, t->out_before + t->k + t->out_behind, t->out_before, type);
    float *in_values = gpu_random(gpu_count(&in.t), 1, type), *out_values = gpu_random(gpu_count(&d_out.t), 2, type), *start = gpu_random(count, 3, YG_F32);
    for (size_t i = 0; i < gpu_count(&in.t); i++)
        if (i % (size_t)t->in_c >= (size_t)t->c) in_values[i] = 0;
    for (int i = 0; i < WGRAD_GUARD; i++) start[i] = start[weights + WGRAD_GUARD + (size_t)i] = start[count - 1 - (size_t)i] = 7;
    gpu_block low = gpu_tensor(t->n, t->h / 2, t->w / 2, YOLO_MAX(low_c, 8), 2 * YOLO_MAX(low_c, 8), 8, type);
    float *low_values = gpu_random(gpu_count(&low.t), 4, type);
    gpu_write(&low, low_values);
    for (size_t i = 0; i < gpu_count(&in.t) && low_c; i++) {
        const size_t p = i / (size_t)t->in_c, c = i % (size_t)t->in_c, line = p / (size_t)t->w, x = p % (size_t)t->w;
        if (c < (size_t)low_c) in_values[i] = low_values[(line / 2 * (size_t)(t->w / 2) + x / 2) * (size_t)low_c + c];
    }
    float *want = wgrad_on_cpu(t, out_values, in_values, start, weights);
    for (size_t i = 0; i < gpu_count(&in.t) && low_c; i++)
        if (i % (size_t)t->in_c < (size_t)low_c) in_values[i] = NAN;
    gpu_write(&in, in_values);
    gpu_write(&d_out, out_values);
    const gpu_block *through = low_c ? &low : NULL;
    float *have = wgrad_on_gpu(t, &d_out, &in, through, start, weights), *again = wgrad_on_gpu(t, &d_out, &in, through, start, weights);
    char what[160];
    snprintf(what, sizeof what, "type %d n%d %dx%d c%d of %d k%d kernel %d stride %d padding %d", (int)type, t->n, t->h, t->w, t->c, t->in_c, t->k,
             t->kernel, t->stride, t->padding);
    gpu_compare(what, have + WGRAD_GUARD, want + WGRAD_GUARD, weights, 1e-11, 1e-5);
    gpu_compare(what, have + weights + 2 * WGRAD_GUARD, want + weights + 2 * WGRAD_GUARD, (size_t)t->k, 1e-11, 1e-5);
    CHECK_MSG(wgrad_guards_hold(have, weights) && wgrad_guards_hold(have + weights + WGRAD_GUARD, (size_t)t->k), "%s", what);
    CHECK_MSG(!memcmp(have, again, count * sizeof *have), "%s: two runs differ", what);
    mem_free(in_values), mem_free(out_values), mem_free(low_values), mem_free(start), mem_free(want), mem_free(have), mem_free(again);
    gpu_free(&in);
    gpu_free(&d_out);
    gpu_free(&low);
}

static void wgrad_run(const wgrad_case *t, yg_type type) { wgrad_run_low(t, 0, type); }

static void wgrad_run_types(const wgrad_case *cases, int count) {
    for (int i = 0; i < count; i++)
        for (int type = YG_F32; type <= YG_BF16; type++) wgrad_run(&cases[i], (yg_type)type);
}

/* n h w, c in_c k, kernel stride padding, channels around in and d_out, bias */
static const wgrad_case wgrad_aligned[] = {
    {1, 1, 1, 8, 8, 8, 1, 1, 0, 0, 0, 0, 0, false},       {1, 1, 1, 16, 16, 16, 3, 1, 1, 0, 0, 0, 0, false},
    {3, 7, 5, 16, 16, 16, 1, 1, 0, 0, 0, 0, 0, true},     {1, 9, 11, 16, 16, 32, 3, 1, 1, 0, 0, 0, 0, false},
    {3, 8, 6, 32, 32, 16, 3, 2, 1, 0, 0, 0, 0, false},    {1, 13, 9, 8, 8, 24, 5, 1, 2, 0, 0, 0, 0, false},
    {3, 6, 6, 64, 64, 80, 3, 1, 1, 0, 0, 0, 0, true},     {1, 12, 13, 136, 136, 144, 1, 1, 0, 0, 0, 0, 0, false},
    {3, 12, 13, 128, 128, 128, 1, 1, 0, 8, 16, 24, 8, true}, {1, 10, 7, 40, 40, 128, 3, 2, 1, 8, 8, 0, 16, false},
    {1, 23, 31, 16, 16, 8, 3, 2, 1, 0, 8, 8, 0, false},   {2, 5, 4, 24, 24, 48, 2, 2, 0, 0, 0, 0, 0, false},
    {1, 4, 3, 16, 16, 16, 3, 1, 0, 0, 0, 0, 0, false},    {1, 3, 9, 8, 8, 16, 5, 3, 3, 0, 0, 0, 0, false},
    {5, 9, 7, 16, 16, 16, 3, 2, 1, 0, 0, 0, 0, false},    {5, 9, 8, 24, 24, 64, 3, 1, 0, 0, 0, 0, 0, false},
    {90, 1, 1, 16, 16, 32, 1, 1, 0, 0, 0, 0, 0, true},    {40, 2, 3, 16, 16, 128, 3, 1, 1, 0, 0, 0, 0, false},
    {33, 3, 4, 8, 8, 16, 2, 1, 0, 0, 0, 0, 0, true},      {3, 4, 70, 128, 128, 96, 1, 2, 0, 0, 0, 0, 0, false},
};

static void test_gpu_wgrad_aligned(void) { wgrad_run_types(wgrad_aligned, YOLO_COUNT(wgrad_aligned)); }

static const wgrad_case wgrad_views[] = {
    {3, 16, 12, 3, 8, 16, 3, 2, 1, 0, 0, 0, 0, false},  {1, 16, 12, 3, 3, 16, 3, 2, 1, 0, 0, 0, 0, false},
    {1, 9, 7, 12, 12, 20, 3, 1, 1, 0, 0, 0, 0, false},  {1, 9, 7, 12, 16, 24, 3, 1, 1, 0, 0, 0, 0, false},
    {2, 5, 6, 64, 64, 3, 1, 1, 0, 0, 0, 64, 0, true},   {1, 7, 7, 1, 1, 1, 3, 1, 1, 0, 0, 0, 0, true},
    {1, 6, 5, 17, 17, 64, 3, 1, 1, 3, 2, 0, 0, false},  {3, 6, 5, 16, 16, 80, 1, 1, 0, 3, 2, 1, 4, true},
    {1, 6, 5, 16, 16, 67, 3, 2, 1, 0, 0, 5, 0, true},   {1, 1, 1, 5, 5, 9, 5, 1, 2, 1, 1, 1, 1, true},
};

static void test_gpu_wgrad_views(void) { wgrad_run_types(wgrad_views, YOLO_COUNT(wgrad_views)); }

/* Few sums of many pixels, many sums of few. */
static void test_gpu_wgrad_splits(void) {
    static const int counts[] = {1, 3, 40, 132, 500};
    static const wgrad_case cases[] = {
        {1, 70, 90, 3, 8, 16, 3, 2, 1, 0, 0, 0, 0, true}, {1, 60, 50, 16, 16, 16, 1, 1, 0, 0, 0, 0, 0, true},
        {1, 13, 11, 64, 64, 64, 3, 1, 1, 0, 0, 0, 0, false}, {2, 6, 7, 12, 12, 33, 3, 1, 1, 0, 0, 1, 0, true},
        {1, 20, 20, 128, 128, 256, 1, 1, 0, 0, 0, 0, 0, false}};
    gpu_inside *device = gpu_inside_of(gpu_device());
    const int multiprocessors = device->multiprocessors;
    for (int i = 0; i < YOLO_COUNT(counts); i++) {
        device->multiprocessors = counts[i];
        for (int c = 0; c < YOLO_COUNT(cases); c++) wgrad_run(&cases[c], (yg_type)((i + c) % 3));
    }
    device->multiprocessors = multiprocessors;
}

/* Devices without tensor cores for the type. */
static void test_gpu_wgrad_plain(void) {
    gpu_inside *device = gpu_inside_of(gpu_device());
    const int compute = device->compute;
    for (int i = 0; i < YOLO_COUNT(wgrad_views); i++) {
        device->compute = i % 2 ? 61 : 70;
        wgrad_run(&wgrad_views[i], YG_F16);
        device->compute = 75;
        wgrad_run(&wgrad_views[i], YG_BF16);
        wgrad_run(&wgrad_aligned[i], i % 2 ? YG_BF16 : YG_F16);
    }
    device->compute = compute;
}

/* From one multiprocessor to many, all tiles; d_out whole and not; devices without tensor cores. */
static void test_gpu_wgrad_upsampled(void) {
    static const struct { wgrad_case t; int low_c; } cases[] = {
        {{2, 6, 10, 24, 24, 16, 1, 1, 0, 0, 0, 0, 0, false}, 16},     {{1, 2, 2, 16, 16, 5, 1, 1, 0, 8, 8, 3, 1, true}, 8},
        {{3, 14, 6, 24, 24, 40, 1, 1, 0, 0, 8, 8, 0, false}, 24},     {{3, 10, 14, 136, 136, 144, 1, 1, 0, 8, 0, 0, 0, false}, 64},
        {{1, 4, 66, 192, 192, 64, 1, 1, 0, 0, 0, 64, 0, false}, 128}, {{5, 2, 2, 40, 40, 32, 1, 1, 0, 0, 0, 0, 0, true}, 8}};
    static const int counts[] = {1, 3, 40, 500};
    gpu_inside *device = gpu_inside_of(gpu_device());
    const gpu_inside before = *device;
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (int type = YG_F32; type <= YG_BF16; type++) {
            device->multiprocessors = counts[(i + type) % YOLO_COUNT(counts)];
            wgrad_run_low(&cases[i].t, cases[i].low_c, (yg_type)type);
            device->compute = 70;
            if (type != YG_F32) wgrad_run_low(&cases[i].t, cases[i].low_c, (yg_type)type);
            *device = before;
        }
}

/* The rule's bits are those of measuring and of each tile that was measured. A device of its own: it remembers. */
static void test_gpu_wgrad_tuned(void) {
    static const wgrad_case cases[] = {{1, 23, 31, 16, 16, 72, 3, 2, 1, 0, 8, 8, 0, true}, {3, 12, 13, 128, 128, 40, 1, 1, 0, 0, 0, 0, 0, false},
                                       {1, 3, 2, 24, 24, 136, 3, 1, 1, 0, 0, 0, 0, true},  {1, 2, 2, 264, 264, 256, 3, 1, 1, 0, 0, 0, 0, false}};
    yg_gpu *others = test_gpu;
    test_gpu = NULL;
    for (int i = 0; i < 2 * YOLO_COUNT(cases); i++) {
        const wgrad_case *t = &cases[i / 2];
        const yg_type type = i % 2 ? YG_BF16 : YG_F16;
        const int out_h = (t->h + 2 * t->padding - t->kernel) / t->stride + 1, out_w = (t->w + 2 * t->padding - t->kernel) / t->stride + 1;
        const size_t weights = (size_t)(t->k * t->kernel * t->kernel * t->c), count = weights + (size_t)t->k + 3 * WGRAD_GUARD;
        gpu_block x = gpu_tensor(t->n, t->h, t->w, t->c, t->in_before + t->c + t->in_behind, t->in_before, type);
        gpu_block d = gpu_tensor(t->n, out_h, out_w, t->k, t->out_before + t->k + t->out_behind, t->out_before, type);
        float *in = gpu_random(gpu_count(&x.t), 1, type), *d_out = gpu_random(gpu_count(&d.t), 2, type), *start = gpu_random(count, 3, YG_F32);
        const yg_tuned *list;
        gpu_write(&x, in);
        gpu_write(&d, d_out);
        float *want = wgrad_on_gpu(t, &d, &x, NULL, start, weights);
        yg_tune(gpu_device(), true);
        float *have = wgrad_on_gpu(t, &d, &x, NULL, start, weights);
        yg_tune(gpu_device(), false);
        CHECK(!memcmp(have, want, count * sizeof *have));
        mem_free(have);
        CHECK(yg_tuned_list(gpu_device(), &list) == i + 1);
        if (yg_tuned_list(gpu_device(), &list) > i) CHECK(list[i].way == YG_TUNED_WGRAD && list[i].choices == 15 && list[i].best_ms <= list[i].rule_ms);
        for (int shape = 0; shape < 4 && yg_tuned_list(gpu_device(), &list) > i; shape++) {
            ((yg_tuned *)(uintptr_t)list)[i].choice = shape;
            have = wgrad_on_gpu(t, &d, &x, NULL, start, weights);
            CHECK_MSG(!memcmp(have, want, count * sizeof *have), "tile %d of case %d", shape, i);
            mem_free(have);
        }
        mem_free(want), mem_free(in), mem_free(d_out), mem_free(start);
        gpu_free(&x), gpu_free(&d);
    }
    yg_close(test_gpu);
    test_gpu = others;
}

/* Recorded work adds once a replay. */
static void test_gpu_wgrad_record(void) {
    yg_gpu *gpu = gpu_device();
    const wgrad_case t = {1, 8, 8, 8, 8, 8, 3, 1, 1, 0, 0, 0, 0, true};
    const yg_conv conv = wgrad_conv(&t, YG_F16);
    gpu_block in = gpu_tensor(1, 8, 8, 8, 8, 0, YG_F16), d_out = gpu_tensor(1, 8, 8, 8, 8, 0, YG_F16);
    float *ones = mem_array(512, sizeof *ones), *d = gpu_floats(NULL, 8 * 72 + 8);
    for (int i = 0; i < 512; i++) ones[i] = 1;
    gpu_write(&in, ones);
    gpu_write(&d_out, ones);
    void *workspace = yg_alloc(gpu, yg_wgrad_bytes(gpu, &d_out.t, &in.t, &conv));
    yg_record(gpu);
    yg_conv_wgrad(gpu, d, d + 576, &d_out.t, &in.t, &conv, workspace);
    yg_graph *graph = yg_recorded(gpu);
    yg_replay(gpu, graph);
    yg_replay(gpu, graph);
    float *have = gpu_floats_read(d, 584);
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < 72; i++) {
            const int r = i / 24, s = i / 8 % 3;
            CHECK(have[72 * k + i] == (float)(2 * (r == 1 ? 8 : 7) * (s == 1 ? 8 : 7)));
        }
        CHECK(have[576 + k] == 128);
    }
    yg_graph_free(graph);
    mem_free(ones), mem_free(have);
    yg_free(gpu, d), yg_free(gpu, workspace);
    gpu_free(&in), gpu_free(&d_out);
}

/* A device of its own, because its failure sticks. */
static void test_gpu_wgrad_refused(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    float memory[4];
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    const wgrad_case t = {1, 8, 8, 8, 8, 8, 3, 1, 1, 0, 0, 0, 0, false};
    const yg_conv conv = wgrad_conv(&t, YG_F16);
    const yg_ten in = {memory, 1, 8, 8, 8, 8, YG_F16}, d_out = {memory, 1, 7, 8, 8, 8, YG_F16};
    CHECK(yg_wgrad_bytes(gpu, &d_out, &in, &conv) == 0);
    yg_conv_wgrad(gpu, memory, NULL, &d_out, &in, &conv, memory);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "shapes that do not match"), "%s", reason);
    yg_close(gpu);
}

static const test_case tests_gpu_wgrad[] = {
    {"aligned", "1x1 to 5x5, strides, remainders, whole chunks of channels", test_gpu_wgrad_aligned},
    {"views", "odd channels and strides, three channels padded and not", test_gpu_wgrad_views},
    {"splits", "from one multiprocessor to five hundred", test_gpu_wgrad_splits},
    {"plain", "without tensor cores", test_gpu_wgrad_plain},
    {"upsampled", "the first channels read from the map they are upsampled from", test_gpu_wgrad_upsampled},
    {"tuned", "tiles by measuring: all give the rule's bits", test_gpu_wgrad_tuned},
    {"record", "recorded work adds at each replay", test_gpu_wgrad_record},
    {"refused", "shapes that do not match are told", test_gpu_wgrad_refused},
};
