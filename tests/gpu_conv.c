/* gpu_conv.c - K8: convolutions forward and backward against op_conv_fwd and op_conv_dgrad, packed weights against their definition.
   What lies around the tensors that are read is NaN, so that reading it shows. */

enum { CONV_BIAS = 1, CONV_RESIDUAL = 2, CONV_MOMENTS = 4, CONV_PADDED = 8 /* in has zeros up to a multiple of 8 channels */ };

/* in and out (or d_in and d_out) are slices: a channel of wider pixels; pixel 0 = dense. */
typedef struct conv_case {
    int n, h, w, c, k, kernel, stride, padding;
    yg_activation activation;
    int options, in_pixel, in_channel, out_pixel, out_channel;
} conv_case;

static const yg_type conv_types[] = {YG_F32, YG_F16, YG_BF16};

static int conv_out(const conv_case *t, int size) { return (size + 2 * t->padding - t->kernel) / t->stride + 1; }
static int conv_padded(int channels) { return (channels + 7) / 8 * 8; }

static gpu_block conv_tensor(int n, int h, int w, int c, int pixel, int channel, yg_type type) {
    return gpu_tensor(n, h, w, c, pixel ? pixel : c, pixel ? channel : 0, type);
}

/* A tensor to read: c values a pixel and zeros up to b->t.c, NaN around them. */
static void conv_fill(gpu_block *b, const float *values, int c) {
    const size_t pixels = gpu_count(&b->t) / (size_t)b->t.c;
    uint8_t *around = mem_alloc(b->bytes);
    float *wide = mem_array(gpu_count(&b->t), sizeof *wide);
    memset(around, 0xFF, b->bytes);
    yg_upload(gpu_device(), b->memory, around, b->bytes);
    gpu_finish();
    for (size_t p = 0; p < pixels; p++)
        for (int i = 0; i < b->t.c; i++) wide[p * (size_t)b->t.c + (size_t)i] = i < c ? values[p * (size_t)c + (size_t)i] : 0;
    gpu_write(b, wide);
    mem_free(around);
    mem_free(wide);
}

static yg_conv conv_make(const conv_case *t, yg_type type, bool turned) {
    yg_conv conv = {t->c, t->k, t->kernel, t->stride, t->padding, t->activation, 0.1f, type, NULL, NULL, NULL};
    if (turned) conv.turned = yg_alloc(gpu_device(), yg_turned_bytes(&conv));
    else conv.weight = yg_alloc(gpu_device(), yg_conv_bytes(&conv));
    return conv;
}

static void conv_free(yg_conv *conv) {
    yg_free(gpu_device(), conv->weight);
    yg_free(gpu_device(), conv->turned);
    yg_free(gpu_device(), conv->bias);
}

static void conv_compare(const conv_case *t, const char *what, yg_type type, const float *have, const float *want, size_t count) {
    static const double energy[] = {1e-10, 1e-6, 5e-5}, largest[] = {2e-5, 2e-3, 1e-2};
    char text[200];
    snprintf(text, sizeof text, "%s, type %d: n%d %dx%d c%d k%d kernel %d stride %d padding %d activation %d options %d", what, (int)type, t->n, t->h, t->w, t->c,
             t->k, t->kernel, t->stride, t->padding, (int)t->activation, t->options);
    gpu_compare(text, have, want, count, energy[type], largest[type]);
}

/* Means of 128 pixels at a time and sums of the squares of the distances from them, of the CPU's output. */
static void conv_check_moments(const conv_case *t, const float *have, const float *out, size_t pixels) {
    const size_t tiles = (pixels + 127) / 128, k = (size_t)t->k;
    float *want = mem_array(tiles * 2 * k, sizeof *want), *sizes = mem_array(tiles * 2 * k, sizeof *sizes);
    for (size_t tile = 0; tile < tiles; tile++)
        for (size_t c = 0; c < k; c++) {
            const size_t first = tile * 128, end = YOLO_MIN(first + 128, pixels);
            double mean = 0, squares = 0;
            for (size_t p = first; p < end; p++) mean += out[p * k + c];
            mean /= (double)(end - first);
            for (size_t p = first; p < end; p++) squares += (out[p * k + c] - mean) * (out[p * k + c] - mean);
            want[tile * 2 * k + c] = (float)mean;
            want[tile * 2 * k + k + c] = (float)squares;
            sizes[tile * 2 * k + c] = have[tile * 2 * k + c];
            sizes[tile * 2 * k + k + c] = have[tile * 2 * k + k + c];
        }
    for (size_t tile = 0; tile < tiles; tile++) {
        gpu_compare("means", sizes + tile * 2 * k, want + tile * 2 * k, k, 1e-9, 1e-4);
        gpu_compare("squares", sizes + tile * 2 * k + k, want + tile * 2 * k + k, k, 1e-9, 1e-4);
    }
    mem_free(want);
    mem_free(sizes);
}

/* out by the CPU, to be freed with mem_free. */
static float *conv_expected(const conv_case *t, const float *in, const float *weight, const float *bias, const float *residual) {
    const int h = conv_out(t, t->h), w = conv_out(t, t->w);
    float *out = mem_array((size_t)t->n * (size_t)h * (size_t)w * (size_t)t->k, sizeof *out);
    op_conv conv;
    yolo_error error;
    CHECK(op_conv_create(&conv, OP_PORTABLE, t->c, t->k, t->kernel, t->stride, t->padding, (net_activation)t->activation, weight, bias, &error) == YOLO_OK);
    conv.slope = 0.1f;
    void *workspace = mem_alloc(op_conv_workspace(&conv, t->n, t->h, t->w, 1));
    const ten to = gpu_ten(out, t->n, h, w, t->k), from = gpu_ten((float *)(uintptr_t)in, t->n, t->h, t->w, t->c);
    const ten added = gpu_ten((float *)(uintptr_t)residual, t->n, h, w, t->k);
    op_conv_fwd(&to, &from, &conv, residual ? &added : NULL, workspace, NULL);
    mem_free(workspace);
    op_conv_destroy(&conv);
    return out;
}

static void conv_check_fwd(const conv_case *t, yg_type type) {
    const int h = conv_out(t, t->h), w = conv_out(t, t->w);
    const size_t pixels = (size_t)t->n * (size_t)h * (size_t)w, outputs = pixels * (size_t)t->k, weights = (size_t)t->k * (size_t)(t->kernel * t->kernel * t->c);
    float *in = gpu_random((size_t)t->n * (size_t)t->h * (size_t)t->w * (size_t)t->c, 1, type), *weight = gpu_random(weights, 2, type);
    float *bias = gpu_random((size_t)t->k, 3, YG_F32), *residual = gpu_random(outputs, 4, type);
    const bool added = t->options & CONV_RESIDUAL;
    float *want = conv_expected(t, in, weight, t->options & CONV_BIAS ? bias : NULL, added ? residual : NULL);

    yg_conv conv = conv_make(t, type, false);
    float *floats = gpu_floats(weight, weights);
    if (t->options & CONV_BIAS) conv.bias = gpu_floats(bias, (size_t)t->k);
    yg_conv_pack(gpu_device(), &conv, floats, NULL);
    gpu_block x = conv_tensor(t->n, t->h, t->w, t->options & CONV_PADDED ? conv_padded(t->c) : t->c, t->in_pixel, t->in_channel, type);
    gpu_block r = conv_tensor(t->n, h, w, t->k, t->out_pixel, t->out_channel, type);
    conv_fill(&x, in, t->c);
    conv_fill(&r, residual, t->k);
    float *have[2], *moments[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        gpu_block y = conv_tensor(t->n, h, w, t->k, t->out_pixel, t->out_channel, type);
        float *sums = t->options & CONV_MOMENTS ? gpu_floats(NULL, yg_moment_floats(&y.t)) : NULL;
        yg_conv_fwd(gpu_device(), &y.t, &x.t, &conv, added ? &r.t : NULL, sums);
        gpu_finish();
        have[i] = gpu_read(&y);
        if (sums) moments[i] = gpu_floats_read(sums, yg_moment_floats(&y.t));
        if (sums && i == 1) CHECK(!memcmp(moments[0], moments[1], yg_moment_floats(&y.t) * sizeof(float)));
        yg_free(gpu_device(), sums);
        gpu_free(&y);
    }
    conv_compare(t, "forward", type, have[0], want, outputs);
    CHECK(!memcmp(have[0], have[1], outputs * sizeof(float)));
    if (moments[0]) conv_check_moments(t, moments[0], want, pixels);
    for (int i = 0; i < 2; i++) mem_free(have[i]), mem_free(moments[i]);
    mem_free(in), mem_free(weight), mem_free(bias), mem_free(residual), mem_free(want);
    yg_free(gpu_device(), floats);
    gpu_free(&x), gpu_free(&r);
    conv_free(&conv);
}

static void conv_check_dgrad(const conv_case *t, yg_type type, bool accumulate) {
    const int h = conv_out(t, t->h), w = conv_out(t, t->w);
    const size_t inputs = (size_t)t->n * (size_t)t->h * (size_t)t->w * (size_t)t->c, weights = (size_t)t->k * (size_t)(t->kernel * t->kernel * t->c);
    float *d_out = gpu_random((size_t)t->n * (size_t)h * (size_t)w * (size_t)t->k, 5, type), *weight = gpu_random(weights, 6, type);
    float *start = gpu_random(inputs, 7, type), *want = gpu_random(inputs, 7, type);
    op_dgrad dgrad;
    yolo_error error;
    CHECK(op_dgrad_create(&dgrad, OP_PORTABLE, t->c, t->k, t->kernel, t->stride, t->padding, &error) == YOLO_OK);
    void *workspace = mem_alloc(op_dgrad_workspace(&dgrad, t->n, t->h, t->w, 1));
    const ten to = gpu_ten(want, t->n, t->h, t->w, t->c), from = gpu_ten(d_out, t->n, h, w, t->k);
    op_dgrad_pack(&dgrad, weight, NULL);
    op_conv_dgrad(&to, &from, &dgrad, accumulate, workspace, NULL);
    mem_free(workspace);
    op_dgrad_destroy(&dgrad);

    yg_conv conv = conv_make(t, type, true);
    float *floats = gpu_floats(weight, weights), *have[2];
    yg_conv_pack(gpu_device(), &conv, floats, NULL);
    gpu_block y = conv_tensor(t->n, h, w, t->options & CONV_PADDED ? conv_padded(t->k) : t->k, t->out_pixel, t->out_channel, type);
    conv_fill(&y, d_out, t->k);
    for (int i = 0; i < 2; i++) {
        gpu_block x = conv_tensor(t->n, t->h, t->w, t->c, t->in_pixel, t->in_channel, type);
        gpu_write(&x, start);
        yg_conv_dgrad(gpu_device(), &x.t, &y.t, &conv, accumulate);
        gpu_finish();
        have[i] = gpu_read(&x);
        gpu_free(&x);
    }
    conv_compare(t, accumulate ? "gradient added" : "gradient", type, have[0], want, inputs);
    CHECK(!memcmp(have[0], have[1], inputs * sizeof(float)));
    mem_free(have[0]), mem_free(have[1]), mem_free(d_out), mem_free(weight), mem_free(start), mem_free(want);
    yg_free(gpu_device(), floats);
    gpu_free(&y);
    conv_free(&conv);
}

static void conv_check_all(const conv_case *cases, int count) {
    for (int i = 0; i < count; i++)
        for (int type = 0; type < 3; type++) conv_check_fwd(&cases[i], conv_types[type]);
}

static void test_gpu_conv_kernels(void) {
    static const conv_case cases[] = {
        {1, 9, 11, 16, 16, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0},     {3, 7, 5, 16, 32, 3, 1, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0},
        {1, 13, 12, 16, 24, 3, 2, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0},    {1, 6, 9, 8, 12, 5, 1, 2, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 11, 10, 3, 16, 6, 2, 2, YG_SILU, CONV_BIAS, 0, 0, 0, 0},     {2, 8, 8, 12, 80, 3, 1, 1, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},
        {1, 1, 1, 80, 40, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0},      {1, 1, 1, 8, 8, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 5, 4, 40, 8, 1, 2, 0, YG_LINEAR, 0, 0, 0, 0, 0},             {1, 4, 6, 24, 8, 3, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 3, 4, 8, 8, 1, 1, 1, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},      {1, 7, 7, 8, 8, 2, 3, 1, YG_LINEAR, 0, 0, 0, 0, 0}};
    conv_check_all(cases, YOLO_COUNT(cases));
}

static void test_gpu_conv_slices(void) {
    static const conv_case cases[] = {
        {1, 9, 7, 16, 16, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 48, 16, 32, 8},  {2, 5, 6, 32, 40, 1, 1, 0, YG_LINEAR, CONV_RESIDUAL, 64, 32, 56, 16},
        {1, 6, 7, 3, 5, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 7, 2, 9, 3},       {1, 6, 7, 1, 1, 3, 2, 1, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},
        {2, 6, 5, 3, 16, 3, 2, 1, YG_SILU, CONV_BIAS | CONV_PADDED, 0, 0, 16, 0},       {1, 6, 5, 12, 12, 3, 1, 1, YG_LINEAR, CONV_RESIDUAL, 24, 8, 24, 8},
        {1, 6, 5, 3, 12, 1, 1, 0, YG_LINEAR, CONV_BIAS | CONV_PADDED, 16, 8, 13, 1},    {1, 6, 5, 20, 67, 1, 1, 0, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},
        {1, 5, 5, 17, 9, 3, 1, 1, YG_SILU, CONV_RESIDUAL, 24, 0, 16, 0},                {1, 5, 5, 8, 8, 1, 1, 0, YG_LINEAR, 0, 12, 1, 12, 1}};
    conv_check_all(cases, YOLO_COUNT(cases));
}

static void test_gpu_conv_activations(void) {
    conv_case t = {1, 6, 6, 16, 24, 1, 1, 0, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0};
    for (int activation = YG_LINEAR; activation <= YG_MISH; activation++) {
        t.activation = (yg_activation)activation;
        for (t.options = CONV_BIAS; t.options <= (CONV_BIAS | CONV_RESIDUAL); t.options += CONV_RESIDUAL) conv_check_all(&t, 1);
    }
}

/* Through a 1x1 convolution that copies its input. */
static void test_gpu_conv_activation_range(void) {
    const conv_case t = {1, 1, 32, 1, 1, 1, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0};
    static const float in[32] = {-INFINITY, -3e38f, -1000, -100, -90, -88, -80, -50, -20, -10, -5, -1, -1e-3f, -1e-30f, 0, 1e-30f,
                                 1e-3f, 0.5f, 1, 2, 5, 10, 19, 20, 21, 50, 88, 90, 1000, 3e38f, INFINITY, NAN};
    const float one = 1;
    float *weight = gpu_floats(&one, 1);
    for (int activation = YG_LINEAR; activation <= YG_MISH; activation++) {
        yg_conv conv = conv_make(&t, YG_F32, false);
        conv.activation = (yg_activation)activation;
        yg_conv_pack(gpu_device(), &conv, weight, NULL);
        gpu_block x = conv_tensor(1, 1, 32, 1, 0, 0, YG_F32), y = conv_tensor(1, 1, 32, 1, 0, 0, YG_F32);
        conv_fill(&x, in, 1);
        yg_conv_fwd(gpu_device(), &y.t, &x.t, &conv, NULL, NULL);
        float *have = gpu_read(&y);
        for (int i = 0; i < 32; i++) {
            const double v = in[i], e = exp(v), want = activation == YG_LINEAR ? v : activation == YG_SILU ? v / (1 + exp(-v)) : activation == YG_RELU ? (v > 0 ? v : 0) :
                activation == YG_LEAKYRELU ? (v > 0 ? v : 0.1f * v) : v > 20 ? v : v * e * (e + 2) / (e * (e + 2) + 2);
            const bool gated = activation == YG_SILU || activation == YG_MISH;
            if (i == 31) CHECK(isnan(have[i]));
            else if (gated && v < -70) CHECK_MSG(fabs(have[i]) < 1e-28, "act %d (%g) = %g", activation, v, have[i]);
            else if (isinf(want)) CHECK_MSG(have[i] == want, "act %d (%g) = %g", activation, v, have[i]);
            else CHECK_MSG(fabs(have[i] - want) <= 3e-6 * fabs(want), "act %d (%g) = %.9g, not %.9g", activation, v, have[i], want);
        }
        mem_free(have);
        gpu_free(&x), gpu_free(&y);
        conv_free(&conv);
    }
    yg_free(gpu_device(), weight);
}

static void test_gpu_conv_moments(void) {
    static const conv_case cases[] = {
        {1, 16, 16, 8, 16, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0},              {3, 9, 7, 16, 80, 3, 1, 1, YG_LINEAR, CONV_MOMENTS, 0, 0, 96, 8},
        {1, 23, 12, 3, 12, 3, 2, 1, YG_LINEAR, CONV_MOMENTS | CONV_BIAS, 0, 0, 0, 0}, {1, 1, 1, 8, 24, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0},
        {1, 1, 129, 16, 33, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0}};
    conv_check_all(cases, YOLO_COUNT(cases));
}

/* So many pixels that tiles of every size are the best for some number of channels, whatever the device. */
static void test_gpu_conv_tiles(void) {
    static const int channels[] = {16, 24, 48, 64, 80, 96, 128, 200};
    yg_device device;
    char reason[256];
    CHECK(yg_device_get(0, &device, reason, sizeof reason) == 0);
    for (int i = 0; i < YOLO_COUNT(channels); i++) {
        conv_case t = {1, 3 * device.multiprocessors, 127, 8, channels[i], 1, 1, 0, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 0, 0, 0, 0};
        for (int type = 1; type < 3; type++) conv_check_fwd(&t, conv_types[type]);
        t.options = CONV_MOMENTS;
        t.activation = YG_LINEAR;
        conv_check_fwd(&t, YG_F16);
        if (i % 3 == 0) conv_check_fwd(&t, YG_F32);
    }
    const conv_case square = {1, device.multiprocessors, 128, 8, 64, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0}; /* two tiles of 64 x 64 a multiprocessor */
    for (int type = 1; type < 3; type++) conv_check_fwd(&square, conv_types[type]);
}

/* Height and width h, w are low's, of `low_c` channels; `in` begins with them, as NaN. */
static void conv_check_upsampled(const conv_case *t, int low_c, yg_type type) {
    const size_t low_pixels = (size_t)t->n * (size_t)t->h * (size_t)t->w, pixels = 4 * low_pixels, c = (size_t)t->c, k = (size_t)t->k;
    float *low = gpu_random(low_pixels * (size_t)low_c, 1, type), *in = gpu_random(pixels * c, 2, type), *weight = gpu_random(k * c, 3, type);
    float *bias = gpu_random(k, 4, YG_F32), *residual = gpu_random(pixels * k, 5, type), *have[2], *moments = NULL;
    const bool added = t->options & CONV_RESIDUAL;
    for (size_t p = 0; p < pixels; p++) {
        const size_t line = p / (2 * (size_t)t->w), x = p % (2 * (size_t)t->w);
        memcpy(in + p * c, low + (line / 2 * (size_t)t->w + x / 2) * (size_t)low_c, (size_t)low_c * sizeof *in);
    }
    conv_case whole = *t;
    whole.h *= 2, whole.w *= 2;
    float *want = conv_expected(&whole, in, weight, t->options & CONV_BIAS ? bias : NULL, added ? residual : NULL);
    for (size_t i = 0; i < pixels * c; i++)
        if (i % c < (size_t)low_c) in[i] = NAN;
    yg_conv conv = conv_make(t, type, false);
    float *floats = gpu_floats(weight, k * c);
    if (t->options & CONV_BIAS) conv.bias = gpu_floats(bias, k);
    yg_conv_pack(gpu_device(), &conv, floats, NULL);
    gpu_block x = conv_tensor(t->n, whole.h, whole.w, t->c, t->in_pixel, t->in_channel, type), l = conv_tensor(t->n, t->h, t->w, low_c, 2 * low_c + 8, 8, type);
    gpu_block r = conv_tensor(t->n, whole.h, whole.w, t->k, t->out_pixel, t->out_channel, type);
    conv_fill(&x, in, t->c);
    conv_fill(&l, low, low_c);
    conv_fill(&r, residual, t->k);
    for (int i = 0; i < 2; i++) {
        gpu_block y = conv_tensor(t->n, whole.h, whole.w, t->k, t->out_pixel, t->out_channel, type);
        float *sums = t->options & CONV_MOMENTS ? gpu_floats(NULL, yg_moment_floats(&y.t)) : NULL;
        yg_conv_upsampled_fwd(gpu_device(), &y.t, &x.t, &l.t, &conv, added ? &r.t : NULL, sums);
        gpu_finish();
        have[i] = gpu_read(&y);
        if (sums && i == 0) moments = gpu_floats_read(sums, yg_moment_floats(&y.t));
        yg_free(gpu_device(), sums);
        gpu_free(&y);
    }
    conv_compare(&whole, "upsampled", type, have[0], want, pixels * k);
    CHECK(!memcmp(have[0], have[1], pixels * k * sizeof(float)));
    if (moments) conv_check_moments(&whole, moments, want, pixels);
    mem_free(low), mem_free(in), mem_free(weight), mem_free(bias), mem_free(residual), mem_free(want), mem_free(have[0]), mem_free(have[1]), mem_free(moments);
    yg_free(gpu_device(), floats);
    gpu_free(&x), gpu_free(&l), gpu_free(&r);
    conv_free(&conv);
}

/* Odd sizes, slices, nothing but upsampled channels, sums that are split, all tiles that there are; devices without tensor cores. */
static void test_gpu_conv_upsampled(void) {
    enum { LOW_CASES = 7 };
    static const int low_c[LOW_CASES] = {16, 8, 24, 16, 512, 64, 8};
    yg_device properties;
    char reason[256];
    CHECK(yg_device_get(0, &properties, reason, sizeof reason) == 0);
    const conv_case cases[LOW_CASES] = {
        {2, 3, 5, 24, 16, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0},      {1, 1, 1, 16, 5, 1, 1, 0, YG_LINEAR, CONV_BIAS | CONV_RESIDUAL, 40, 16, 9, 3},
        {3, 7, 3, 24, 40, 1, 1, 0, YG_LINEAR, 0, 32, 8, 48, 8},          {3, 5, 7, 72, 70, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 80, 8},
        {1, 2, 2, 1024, 24, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0},    {2, 9, 10, 96, 64, 1, 1, 0, YG_SILU, CONV_BIAS, 96, 0, 128, 64},
        {1, properties.multiprocessors, 40, 16, 128, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0}};
    for (int type = 0; type < 3; type++)
        for (int i = 0; i < LOW_CASES; i++) conv_check_upsampled(&cases[i], low_c[i], conv_types[type]);
    for (int k = 32; k <= 64; k += 32) { /* tiles of 128 x 64, of 64 x 64 */
        const conv_case t = {1, properties.multiprocessors, k == 32 ? 100 : 32, 16, 64, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0};
        for (int type = 1; type < 3; type++) conv_check_upsampled(&t, 8, conv_types[type]);
    }
#ifdef TEST_EMULATED /* code for a device with tensor cores is not in that for one without */
    gpu_inside *device = gpu_inside_of(gpu_device());
    const int compute = device->compute;
    device->compute = 70;
    for (int type = 1; type < 3; type++)
        for (int i = 0; i < 4; i++) conv_check_upsampled(&cases[i], low_c[i], conv_types[type]);
    device->compute = compute;
#endif
}

/* Two convolutions in one against the CPU's two, with the middle rounded, and bit by bit against two calls. */
static void conv_check_pair(const conv_case *t, yg_type type) {
    const size_t pixels = (size_t)t->n * (size_t)t->h * (size_t)t->w, count = pixels * (size_t)t->c, weights = 9 * (size_t)(t->c * t->c);
    float *in = gpu_random(count, 1, type), *residual = gpu_random(count, 4, type), *have[2];
    float *weight[2], *bias[2], *floats[2];
    const bool added = t->options & CONV_RESIDUAL, biased = t->options & CONV_BIAS;
    yg_conv conv[2];
    for (int i = 0; i < 2; i++) {
        weight[i] = gpu_random(weights, 5 + (uint64_t)i, type), bias[i] = gpu_random((size_t)t->c, 7 + (uint64_t)i, YG_F32);
        floats[i] = gpu_floats(weight[i], weights);
        conv[i] = conv_make(t, type, false);
        if (biased) conv[i].bias = gpu_floats(bias[i], (size_t)t->c);
        yg_conv_pack(gpu_device(), &conv[i], floats[i], NULL);
    }
    float *middle = conv_expected(t, in, weight[0], biased ? bias[0] : NULL, NULL);
    for (size_t i = 0; i < count; i++) middle[i] = gpu_round(middle[i], type);
    float *want = conv_expected(t, middle, weight[1], biased ? bias[1] : NULL, added ? residual : NULL);
    gpu_block x = conv_tensor(t->n, t->h, t->w, t->c, t->in_pixel, t->in_channel, type), r = conv_tensor(t->n, t->h, t->w, t->c, t->out_pixel, t->out_channel, type);
    conv_fill(&x, in, t->c);
    conv_fill(&r, residual, t->c);
    for (int i = 0; i < 2; i++) {
        gpu_block y = conv_tensor(t->n, t->h, t->w, t->c, t->out_pixel, t->out_channel, type), z = conv_tensor(t->n, t->h, t->w, t->c, 0, 0, type);
        CHECK(yg_conv_pair_can(gpu_device(), &y.t, &x.t, &conv[0], &conv[1]));
        if (i == 0) yg_conv_pair_fwd(gpu_device(), &y.t, &x.t, &conv[0], &conv[1], added ? &r.t : NULL);
        else yg_conv_fwd(gpu_device(), &z.t, &x.t, &conv[0], NULL, NULL), yg_conv_fwd(gpu_device(), &y.t, &z.t, &conv[1], added ? &r.t : NULL, NULL);
        gpu_finish();
        have[i] = gpu_read(&y);
        gpu_free(&y), gpu_free(&z);
    }
    conv_compare(t, "two in one", type, have[0], want, count);
    CHECK(!memcmp(have[0], have[1], count * sizeof(float)));
    for (int i = 0; i < 2; i++) mem_free(weight[i]), mem_free(bias[i]), mem_free(have[i]), yg_free(gpu_device(), floats[i]), conv_free(&conv[i]);
    mem_free(in), mem_free(residual), mem_free(middle), mem_free(want);
    gpu_free(&x), gpu_free(&r);
}

static void test_gpu_conv_pair(void) {
    static const conv_case cases[] = {
        {1, 8, 8, 16, 16, 3, 1, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0},                        {2, 9, 7, 32, 32, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 64, 32, 96, 8},
        {3, 1, 1, 16, 16, 3, 1, 1, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},                      {1, 17, 20, 32, 32, 3, 1, 1, YG_RELU, 0, 0, 0, 0, 0},
        {1, 5, 26, 16, 16, 3, 1, 1, YG_LEAKYRELU, CONV_BIAS | CONV_RESIDUAL, 24, 8, 19, 3}, {2, 11, 3, 32, 32, 3, 1, 1, YG_MISH, CONV_RESIDUAL, 40, 0, 33, 1}};
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (int type = 1; type < 3; type++) conv_check_pair(&cases[i], conv_types[type]);
}

/* Few pixels and long sums: those are split. */
static void test_gpu_conv_splits(void) {
    static const conv_case cases[] = {
        {1, 5, 5, 128, 32, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 0, 0, 0, 0}, {1, 3, 3, 136, 12, 3, 2, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0},
        {2, 2, 3, 130, 5, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0}};
    conv_check_all(cases, YOLO_COUNT(cases));
    for (int type = 0; type < 3; type++) {
        const conv_case t = {1, 4, 5, 12, 128, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0};
        conv_check_dgrad(&t, conv_types[type], false);
        conv_check_dgrad(&t, conv_types[type], true);
    }
}

static void test_gpu_conv_dgrad(void) {
    static const conv_case cases[] = {
        {1, 9, 11, 16, 16, 1, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0},           {3, 7, 5, 16, 32, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 13, 12, 16, 24, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},          {2, 6, 8, 8, 16, 3, 2, 1, YG_LINEAR, 0, 24, 8, 32, 8},
        {1, 6, 9, 8, 12, 5, 1, 2, YG_LINEAR, 0, 0, 0, 0, 0},             {1, 11, 10, 3, 16, 6, 2, 2, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 5, 4, 40, 8, 1, 2, 0, YG_LINEAR, 0, 0, 0, 0, 0},             {1, 1, 1, 8, 8, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 1, 1, 8, 8, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},              {1, 4, 6, 24, 8, 3, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 6, 7, 5, 3, 3, 2, 1, YG_LINEAR, 0, 7, 2, 9, 3},              {1, 6, 5, 20, 67, 1, 1, 0, YG_LINEAR, CONV_PADDED, 0, 0, 72, 0},
        {1, 7, 7, 8, 8, 2, 3, 1, YG_LINEAR, 0, 0, 0, 0, 0},              {1, 6, 5, 80, 1, 1, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 40, 41, 16, 24, 3, 2, 1, YG_LINEAR, 0, 0, 0, 32, 8},         {2, 17, 19, 40, 16, 3, 1, 1, YG_LINEAR, 0, 48, 8, 0, 0}};
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (int type = 0; type < 3; type++)
            for (int accumulate = 0; accumulate < 2; accumulate++) conv_check_dgrad(&cases[i], conv_types[type], accumulate);
}

static void test_gpu_conv_pack(void) {
    static const int shapes[][3] = {{5, 3, 3}, {16, 8, 1}, {33, 12, 3}, {1, 1, 2}, {40, 70, 1}};
    for (int i = 0; i < YOLO_COUNT(shapes); i++)
        for (int type = 0; type < 3; type++) {
            const int K = shapes[i][0], C = shapes[i][1], taps = shapes[i][2] * shapes[i][2];
            const conv_case t = {.c = C, .k = K, .kernel = shapes[i][2]};
            const size_t count = (size_t)(K * taps * C);
            float *weight = gpu_random(count, 8, YG_F32), *scale = gpu_random((size_t)K, 9, YG_F32);
            float *floats = gpu_floats(weight, count), *scales = gpu_floats(scale, (size_t)K);
            yg_conv conv = conv_make(&t, conv_types[type], false), turned = conv_make(&t, conv_types[type], true);
            CHECK(yg_conv_bytes(&conv) == (size_t)(K * taps * conv_padded(C)) * gpu_type_size(conv.type));
            CHECK(yg_turned_bytes(&conv) == (size_t)(C * taps * conv_padded(K)) * gpu_type_size(conv.type));
            uint8_t *packed = mem_alloc(yg_conv_bytes(&conv)), *packed_turned = mem_alloc(yg_turned_bytes(&conv));
            for (int scaled = 0; scaled < 2; scaled++) {
                int wrong = 0;
                yg_conv_pack(gpu_device(), &conv, floats, scaled ? scales : NULL);
                yg_conv_pack(gpu_device(), &turned, floats, scaled ? scales : NULL);
                yg_download(gpu_device(), packed, conv.weight, yg_conv_bytes(&conv));
                yg_download(gpu_device(), packed_turned, turned.turned, yg_turned_bytes(&conv));
                gpu_finish();
                for (int k = 0; k < conv_padded(K); k++)
                    for (int tap = 0; tap < taps; tap++)
                        for (int c = 0; c < conv_padded(C); c++) {
                            const float plain = k < K && c < C ? weight[(k * taps + tap) * C + c] : 0, want = scaled && k < K ? plain * scale[k] : plain;
                            const size_t size = gpu_type_size(conv.type);
                            const size_t at = (size_t)((k * taps + tap) * conv_padded(C) + c), turned_at = (size_t)((c * taps + tap) * conv_padded(K) + k);
                            wrong += k < K && gpu_load(packed + at * size, conv.type) != gpu_round(want, conv.type);
                            wrong += c < C && gpu_load(packed_turned + turned_at * size, conv.type) != gpu_round(want, conv.type);
                        }
                CHECK_MSG(wrong == 0, "%d weights are wrong: k%d c%d taps %d type %d", wrong, K, C, taps, type);
            }
            mem_free(weight), mem_free(scale), mem_free(packed), mem_free(packed_turned);
            yg_free(gpu_device(), floats), yg_free(gpu_device(), scales);
            conv_free(&conv), conv_free(&turned);
        }
}

/* The bytes of a convolution's packed weights, then of its turned ones; to be freed with mem_free. */
static uint8_t *conv_packed(const yg_conv *conv, size_t *bytes) {
    const size_t weight = conv->weight ? yg_conv_bytes(conv) : 0, turned = conv->turned ? yg_turned_bytes(conv) : 0;
    uint8_t *packed = mem_alloc(weight + turned);
    if (weight) yg_download(gpu_device(), packed, conv->weight, weight);
    if (turned) yg_download(gpu_device(), packed + weight, conv->turned, turned);
    gpu_finish();
    *bytes = weight + turned;
    return packed;
}

/* NaN everywhere, so that what is not written shows. */
static void conv_spoil(void *memory, size_t bytes) {
    uint8_t *spoilt = mem_alloc(bytes);
    memset(spoilt, 0xFF, bytes);
    if (memory) yg_upload(gpu_device(), memory, spoilt, bytes);
    gpu_finish();
    mem_free(spoilt);
}

/* A table of `count` convolutions against as many calls; the first has both kinds of weights, then one has one of them. */
static void conv_check_pack_all(const int (*shapes)[3], int count) {
    enum { MOST = 16 };
    yg_conv convs[MOST];
    yg_packing rows[2 * MOST];
    float *floats[MOST], *scales[MOST];
    uint8_t *single[MOST];
    size_t bytes;
    int row_count = 0;
    for (int i = 0; i < count; i++) {
        const conv_case t = {.c = shapes[i][1], .k = shapes[i][0], .kernel = shapes[i][2]};
        const size_t weights = (size_t)(t.k * t.kernel * t.kernel * t.c);
        float *weight = gpu_random(weights, 20 + (uint64_t)i, YG_F32), *scale = gpu_random((size_t)t.k, 40 + (uint64_t)i, YG_F32);
        floats[i] = gpu_floats(weight, weights), scales[i] = i % 2 ? gpu_floats(scale, (size_t)t.k) : NULL;
        convs[i] = conv_make(&t, conv_types[i / 2 % 3], i % 3 == 1);
        if (i % 3 == 0) convs[i].turned = yg_alloc(gpu_device(), yg_turned_bytes(&convs[i]));
        yg_conv_pack(gpu_device(), &convs[i], floats[i], scales[i]);
        single[i] = conv_packed(&convs[i], &bytes);
        conv_spoil(convs[i].weight, yg_conv_bytes(&convs[i]));
        conv_spoil(convs[i].turned, yg_turned_bytes(&convs[i]));
        row_count = yg_packing_add(rows, row_count, &convs[i], floats[i], scales[i]);
        mem_free(weight), mem_free(scale);
    }
    CHECK(row_count == count + (count + 2) / 3);
    yg_packing *table = yg_alloc(gpu_device(), sizeof rows);
    yg_upload(gpu_device(), table, rows, (size_t)row_count * sizeof *rows);
    yg_conv_pack_all(gpu_device(), table, rows, row_count);
    for (int i = 0; i < count; i++) {
        uint8_t *packed = conv_packed(&convs[i], &bytes);
        CHECK_MSG(!memcmp(packed, single[i], bytes), "convolution %d of %d is packed otherwise", i, count);
        mem_free(packed), mem_free(single[i]);
        yg_free(gpu_device(), floats[i]), yg_free(gpu_device(), scales[i]);
        conv_free(&convs[i]);
    }
    yg_free(gpu_device(), table);
}

static void test_gpu_conv_pack_all(void) {
    static const int shapes[][3] = {{5, 3, 3},   {16, 8, 1},  {33, 12, 3}, {1, 1, 2},  {40, 70, 1}, {64, 16, 3}, {32, 32, 1},
                                    {80, 80, 3}, {65, 33, 1}, {16, 3, 3},  {8, 8, 1},  {1, 40, 1},  {24, 100, 2}};
    for (int count = 0; count <= YOLO_COUNT(shapes); count += count < 3 ? 1 : 5) conv_check_pack_all(shapes, count);
}

/* As run_fold has it. */
static void test_gpu_conv_fold(void) {
    enum { CHANNELS = 150 };
    const double eps = 1e-3;
    float *rows[4], *device[4], *scale = gpu_floats(NULL, CHANNELS), *bias = gpu_floats(NULL, CHANNELS);
    for (int i = 0; i < 4; i++) {
        rows[i] = gpu_random(CHANNELS, 10 + (uint64_t)i, YG_F32);
        for (int c = 0; c < CHANNELS && i == 3; c++) rows[i][c] = fabsf(rows[i][c]);
        device[i] = gpu_floats(rows[i], CHANNELS);
    }
    const yg_norm_rows norm = {device[0], device[1], device[2], device[3], NULL};
    yg_conv_fold(gpu_device(), scale, bias, &norm, CHANNELS, eps);
    float *scales = gpu_floats_read(scale, CHANNELS), *biases = gpu_floats_read(bias, CHANNELS);
    for (int c = 0; c < CHANNELS; c++) {
        const double want = rows[0][c] / sqrt((double)rows[3][c] + eps);
        CHECK_NEAR(scales[c], want, 1e-7 * fabs(want));
        CHECK_NEAR(biases[c], rows[1][c] - rows[2][c] * want, 1e-6 * (1 + fabs(want)));
    }
    for (int i = 0; i < 4; i++) mem_free(rows[i]), yg_free(gpu_device(), device[i]);
    mem_free(scales), mem_free(biases);
    yg_free(gpu_device(), scale), yg_free(gpu_device(), bias);
}

/* One call on drawn numbers: its output, added to what was there where it has CONV_RESIDUAL, then its moments; to be freed with mem_free. */
static float *conv_tune_once(const conv_case *t, yg_type type, bool backward, size_t *count) {
    const int h = conv_out(t, t->h), w = conv_out(t, t->w);
    const size_t weights = (size_t)t->k * (size_t)(t->kernel * t->kernel * t->c);
    gpu_block x = conv_tensor(t->n, t->h, t->w, t->c, t->in_pixel, t->in_channel, type), y = conv_tensor(t->n, h, w, t->k, t->out_pixel, t->out_channel, type);
    float *in = gpu_random(gpu_count(&x.t), 1, type), *out = gpu_random(gpu_count(&y.t), 2, type), *weight = gpu_random(weights, 3, type);
    float *floats = gpu_floats(weight, weights), *sums = t->options & CONV_MOMENTS ? gpu_floats(NULL, yg_moment_floats(&y.t)) : NULL;
    const bool added = t->options & CONV_RESIDUAL;
    yg_conv conv = conv_make(t, type, backward);
    yg_conv_pack(gpu_device(), &conv, floats, NULL);
    gpu_write(&x, in);
    gpu_write(&y, out);
    if (backward) yg_conv_dgrad(gpu_device(), &x.t, &y.t, &conv, added);
    else yg_conv_fwd(gpu_device(), &y.t, &x.t, &conv, added ? &y.t : NULL, sums);
    gpu_finish();
    const gpu_block *written = backward ? &x : &y;
    const size_t outputs = gpu_count(&written->t), moments = sums ? yg_moment_floats(&y.t) : 0;
    float *have = gpu_read(written), *all = mem_array(outputs + moments, sizeof *all), *have_sums = sums ? gpu_floats_read(sums, moments) : NULL;
    memcpy(all, have, outputs * sizeof *all);
    if (sums) memcpy(all + outputs, have_sums, moments * sizeof *all);
    *count = outputs + moments;
    mem_free(in), mem_free(out), mem_free(weight), mem_free(have), mem_free(have_sums);
    yg_free(gpu_device(), floats), yg_free(gpu_device(), sums);
    gpu_free(&x), gpu_free(&y);
    conv_free(&conv);
    return all;
}

/* The rule's bits are those of measuring and of each tile that was measured; the tile chosen is the one that is launched. */
static void conv_check_tuned(const conv_case *t, yg_type type, bool backward) {
    const yg_tuned *list;
    const yg_call *calls;
    size_t count;
    const int before = yg_tuned_list(gpu_device(), &list);
    float *want = conv_tune_once(t, type, backward, &count);
    CHECK(yg_tuned_list(gpu_device(), &list) == before);
    yg_tune(gpu_device(), true);
    float *have = conv_tune_once(t, type, backward, &count);
    yg_tune(gpu_device(), false);
    CHECK(!memcmp(have, want, count * sizeof *have));
    mem_free(have);
    if (yg_tuned_list(gpu_device(), &list) != before + 1) { CHECK_MSG(false, "nothing was measured: n%d %dx%d c%d k%d", t->n, t->h, t->w, t->c, t->k); return; }
    yg_tuned *line = (yg_tuned *)(uintptr_t)&list[before]; /* the test decides, in place of the times */
    const int best = line->choice;
    CHECK(line->way == (backward ? YG_TUNED_DGRAD : YG_TUNED_FWD) && (line->choices >> best & 1) && line->best_ms > 0 && line->best_ms <= line->rule_ms);
    CHECK_MSG(line->choices & (line->choices - 1), "one tile: %x", line->choices);
    double least = INFINITY, most = 0, ms[32] = {0};
    for (int choice = 0; choice < 32; choice++) {
        if (!(line->choices >> choice & 1)) continue;
        line->choice = choice;
        yg_watch(gpu_device(), 64);
        have = conv_tune_once(t, type, backward, &count);
        const int noted = yg_watched(gpu_device(), &calls);
        for (int i = 0; i < noted; i++) ms[choice] += calls[i].what && calls[i].kernel ? calls[i].ms : 0;
        yg_watch(gpu_device(), 0);
        least = YOLO_MIN(least, ms[choice]), most = YOLO_MAX(most, ms[choice]);
        CHECK_MSG(!memcmp(have, want, count * sizeof *have), "tile %d of %x: n%d %dx%d c%d k%d kernel %d type %d backward %d", choice, line->choices, t->n, t->h, t->w,
                  t->c, t->k, t->kernel, (int)type, backward);
        mem_free(have);
    }
    line->choice = best;
#ifdef TEST_EMULATED /* its times are those of the threads */
    CHECK_MSG(ms[best] == least && least < most, "%g ms are chosen, from %g to %g", ms[best], least, most);
#endif
    CHECK(most > 0 && yg_tuned_list(gpu_device(), &list) == before + 1);
    mem_free(want);
}

/* A device of its own, because it remembers what was measured. */
static void test_gpu_conv_tuned(void) {
    static const conv_case cases[] = {
        {1, 19, 21, 16, 72, 3, 1, 1, YG_LINEAR, CONV_RESIDUAL, 24, 8, 80, 8}, {2, 13, 11, 24, 40, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 5, 4, 256, 48, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},                {3, 9, 7, 136, 200, 1, 1, 0, YG_LINEAR, CONV_RESIDUAL, 0, 0, 0, 0},
        {1, 23, 12, 8, 24, 3, 1, 1, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0},     {2, 17, 9, 72, 136, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0}};
    yg_gpu *others = test_gpu;
    test_gpu = NULL;
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (int type = YG_F16; type <= YG_BF16; type++) {
            if (TEST_FEW && type % 2 == i % 2) continue;
            conv_check_tuned(&cases[i], (yg_type)type, false);
            if (!(cases[i].options & CONV_MOMENTS)) conv_check_tuned(&cases[i], (yg_type)type, true);
        }
    yg_close(test_gpu);
    test_gpu = others;
}

/* A device of its own, because its failure sticks. */
static void test_gpu_conv_misfit(void) {
    const conv_case t = {1, 4, 4, 8, 8, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0};
    yg_gpu *gpu;
    char reason[256] = "";
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_conv conv = conv_make(&t, YG_F16, false);
    gpu_block x = conv_tensor(1, 4, 4, 8, 0, 0, YG_F16), y = conv_tensor(1, 4, 5, 8, 0, 0, YG_F16);
    yg_conv_fwd(gpu, &y.t, &x.t, &conv, NULL, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "1x4x4x8 to 1x4x5x8, kernel 3"), "%s", reason);
    yg_close(gpu);
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    gpu_block half = conv_tensor(1, 2, 2, 8, 0, 0, YG_F16), same = conv_tensor(1, 4, 4, 8, 0, 0, YG_F16);
    yg_conv_upsampled_fwd(gpu, &same.t, &x.t, &half.t, &conv, NULL, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "1x4x4x8, kernel 3, stride 1, padding 1, cannot read through to 1x2x2x8"), "%s", reason);
    yg_close(gpu);
    gpu_free(&x), gpu_free(&y), gpu_free(&half), gpu_free(&same);
    conv_free(&conv);
}

static const test_case tests_gpu_conv[] = {
    {"kernels", "convolutions of all kinds of kernels against the CPU's", test_gpu_conv_kernels},
    {"slices", "slices of wider pixels, residuals, odd channels; NaN around is not read", test_gpu_conv_slices},
    {"activations", "every activation, with and without residual", test_gpu_conv_activations},
    {"activation-range", "activations over all magnitudes; NaN comes through", test_gpu_conv_activation_range},
    {"moments", "means and squares of 128 pixels at a time against their definition", test_gpu_conv_moments},
    {"tiles", "so many pixels that every size of tile is used", test_gpu_conv_tiles},
    {"splits", "long sums of few pixels are split", test_gpu_conv_splits},
    {"dgrad", "gradients of the input against the CPU's, added and not", test_gpu_conv_dgrad},
    {"pack", "packed and turned weights against their definition", test_gpu_conv_pack},
    {"pack_all", "many packed in one launch as each by its own call", test_gpu_conv_pack_all},
    {"fold", "a batch norm folded into scale and bias", test_gpu_conv_fold},
    {"upsampled", "the first channels read from the map they are upsampled from", test_gpu_conv_upsampled},
    {"pair", "two convolutions in one against the CPU's two, and the same bits as two calls", test_gpu_conv_pair},
    {"tuned", "tiles by measuring: all give the rule's bits, the one chosen is used", test_gpu_conv_tuned},
    {"misfit", "shapes that do not fit are told", test_gpu_conv_misfit},
};
