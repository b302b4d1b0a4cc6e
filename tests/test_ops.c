/* Section 14: every operator against double-precision loops, on odd shapes, in slices between sentinels, for every
   instruction set of this machine and pools of 1, 2 and 5 workers, whose results must be the same bits. */

static float ops_random(rng *r) { return (float)(rng_uniform(r) * 2 - 1); }
static int ops_pick(rng *r, int low, int high) { return low + (int)(rng_next(r) % (uint64_t)(high - low + 1)); }

/* A tensor in a block that ends with its last float, at a random channel of wider pixels; NaN all around it. */
typedef struct ops_tensor { ten view; float *block; int64_t floats; int offset; } ops_tensor;

static void ops_make(ops_tensor *t, rng *r, int n, int h, int w, int c, bool dense, bool fill) {
    t->offset = dense ? 0 : ops_pick(r, 0, 5);
    const int64_t pixel = c + (dense ? 0 : t->offset + ops_pick(r, 0, 18));
    t->floats = t->offset + ((int64_t)n * h * w - 1) * pixel + c;
    t->block = malloc((size_t)t->floats * sizeof(float)); /* not mem_alloc, which rounds sizes up */
    for (int64_t i = 0; i < t->floats; i++) t->block[i] = NAN;
    t->view = (ten){t->block + t->offset, n, h, w, c, pixel};
    for (int64_t p = 0; fill && p < (int64_t)n * h * w; p++)
        for (int i = 0; i < c; i++) t->view.data[p * pixel + i] = ops_random(r);
}

/* Every float around the slice is still NaN. */
static bool ops_around_untouched(const ops_tensor *t) {
    for (int64_t i = 0; i < t->floats; i++) {
        const int64_t at = i - t->offset;
        if ((at < 0 || at % t->view.pixel >= t->view.c) && t->block[i] == t->block[i]) return false;
    }
    return true;
}

static bool ops_same_bits(const ops_tensor *a, const ops_tensor *b) {
    return a->floats == b->floats && !memcmp(a->block, b->block, (size_t)a->floats * sizeof(float));
}

/* Another tensor of the same shape and strides, of NaNs. */
static ops_tensor ops_like(const ops_tensor *t) {
    ops_tensor twin = *t;
    twin.block = malloc((size_t)t->floats * sizeof(float));
    for (int64_t i = 0; i < t->floats; i++) twin.block[i] = NAN;
    twin.view.data = twin.block + twin.offset;
    return twin;
}

static double ops_activate(double x, net_activation activation) {
    switch (activation) {
    case NET_SILU: return x / (1 + exp(-x));
    case NET_RELU: return x > 0 ? x : 0;
    case NET_LEAKYRELU: return x > 0 ? x : 0.01 * x;
    case NET_MISH: return x * tanh(log1p(exp(x)));
    default: return x;
    }
}

typedef struct ops_case {
    int n, h, w, c, k, kernel, stride, padding;
    net_activation activation;
    bool bias, residual, dense;
} ops_case;

/* The sum for one output in double, and in *size the sum of its terms' magnitudes, which rounding errors go by. */
static double ops_conv_sum(const ops_case *t, const ten *in, const float *weight, const float *bias, int n, int y, int x, int k, double *size) {
    double sum = bias ? bias[k] : 0;
    *size = fabs(sum);
    for (int r = 0; r < t->kernel; r++)
        for (int s = 0; s < t->kernel; s++) {
            const int iy = y * t->stride + r - t->padding, ix = x * t->stride + s - t->padding;
            if (iy < 0 || ix < 0 || iy >= t->h || ix >= t->w) continue;
            const float *p = ten_at(in, n, iy, ix), *q = weight + (((int64_t)k * t->kernel + r) * t->kernel + s) * t->c;
            for (int c = 0; c < t->c; c++) {
                sum += (double)p[c] * q[c];
                *size += fabs((double)p[c] * q[c]);
            }
        }
    return sum;
}

/* What every instruction set has to give, and the sizes of the sums; free both. */
typedef struct ops_reference { double *out, *size; } ops_reference;

static ops_reference ops_reference_make(const ops_case *t, const ten *out, const ten *in, const ten *residual, const float *weight, const float *bias) {
    const size_t count = (size_t)out->n * (size_t)out->h * (size_t)out->w * (size_t)out->c;
    ops_reference ref = {malloc(count * sizeof(double)), malloc(count * sizeof(double))};
    size_t at = 0;
    for (int n = 0; n < out->n; n++)
        for (int y = 0; y < out->h; y++)
            for (int x = 0; x < out->w; x++)
                for (int k = 0; k < out->c; k++, at++) {
                    ref.out[at] = ops_activate(ops_conv_sum(t, in, weight, bias, n, y, x, k, &ref.size[at]), t->activation);
                    if (residual) ref.out[at] += ten_at(residual, n, y, x)[k];
                }
    return ref;
}

/* The worst error of `out` in units of the size of its sum; at least `least`, because Winograd's errors go by the tile's. */
static double ops_conv_error(const ops_reference *ref, double least, const ten *out) {
    double worst = 0;
    for (int64_t p = 0, at = 0; p < (int64_t)out->n * out->h * out->w; p++)
        for (int k = 0; k < out->c; k++, at++) {
            const double error = fabs(out->data[p * out->pixel + k] - ref->out[at]) / YOLO_MAX(ref->size[at], least);
            if (!(error <= worst)) worst = error; /* NaN too */
            if (worst != worst) return INFINITY;
        }
    return worst;
}

static thr_pool *ops_pools[3]; /* 1, 2 and 5 workers */

/* One case on one instruction set: error, sentinels, and the same bits from every pool. */
static void ops_check_conv(const ops_case *t, op_isa isa, const ops_tensor *in, const ops_tensor *residual, const ops_tensor *shape,
                           const float *weight, const float *bias, const ops_reference *ref) {
    op_conv conv;
    yolo_error error;
    ops_tensor outs[3];
    CHECK(op_conv_create(&conv, isa, t->c, t->k, t->kernel, t->stride, t->padding, t->activation, weight, bias, &error) == YOLO_OK);
    for (int p = 0; p < 3; p++) {
        void *workspace = mem_alloc(op_conv_workspace(&conv, t->n, t->h, t->w, thr_pool_size(ops_pools[p])));
        outs[p] = ops_like(shape);
        op_conv_fwd(&outs[p].view, &in->view, &conv, t->residual ? &residual->view : NULL, workspace, ops_pools[p]);
        mem_free(workspace);
    }
    const double least = conv.winograd ? 9 * t->c / 4.0 : 1;
    const double worst = ops_conv_error(ref, least, &outs[0].view);
    const double tolerance = conv.winograd ? 4e-6 : 5e-7;
    CHECK_MSG(worst <= tolerance, "error %.3g isa %d: n%d %dx%d c%d k%d kernel %d stride %d padding %d activation %d", worst, (int)isa,
              t->n, t->h, t->w, t->c, t->k, t->kernel, t->stride, t->padding, (int)t->activation);
    CHECK(ops_around_untouched(&outs[0]));
    CHECK(ops_same_bits(&outs[0], &outs[1]) && ops_same_bits(&outs[0], &outs[2]));
    for (int p = 0; p < 3; p++) free(outs[p].block);
    op_conv_destroy(&conv);
}

static void ops_run_conv(const ops_case *t, rng *r) {
    const int out_h = (t->h + 2 * t->padding - t->kernel) / t->stride + 1, out_w = (t->w + 2 * t->padding - t->kernel) / t->stride + 1;
    const int64_t weights = (int64_t)t->k * t->kernel * t->kernel * t->c;
    float *weight = malloc((size_t)weights * sizeof(float)), *bias = malloc((size_t)t->k * sizeof(float));
    for (int64_t i = 0; i < weights; i++) weight[i] = ops_random(r);
    for (int i = 0; i < t->k; i++) bias[i] = ops_random(r);
    ops_tensor in, residual, out;
    ops_make(&in, r, t->n, t->h, t->w, t->c, t->dense, true);
    ops_make(&residual, r, t->n, out_h, out_w, t->k, t->dense, true);
    ops_make(&out, r, t->n, out_h, out_w, t->k, t->dense, false);
    const ops_reference ref = ops_reference_make(t, &out.view, &in.view, t->residual ? &residual.view : NULL, weight, t->bias ? bias : NULL);
    for (int isa = OP_PORTABLE; isa <= (int)op_isa_best(); isa++)
        ops_check_conv(t, (op_isa)isa, &in, &residual, &out, weight, t->bias ? bias : NULL, &ref);
    free(ref.out), free(ref.size), free(weight), free(bias), free(in.block), free(residual.block), free(out.block);
}

static void ops_start_pools(void) {
    ops_pools[0] = NULL;
    ops_pools[1] = thr_pool_create(2);
    ops_pools[2] = thr_pool_create(5);
}
static void ops_stop_pools(void) {
    for (int p = 0; p < 3; p++) thr_pool_destroy(ops_pools[p]);
}

/* Shapes drawn at random, mostly the kernels that YOLOv8 has; channel counts around the vector widths are likely. */
static void test_conv_random(void) {
    static const int kernels[] = {1, 1, 3, 3, 3, 3, 5, 6}, edges[] = {1, 3, 16, 17, 33, 64};
    rng r = {14, 0};
    ops_start_pools();
    for (int i = 0; i < test_cases(300) && test_failures < 10; i++) {
        ops_case t = {.n = ops_pick(&r, 1, 2), .h = ops_pick(&r, 1, 37), .w = ops_pick(&r, 1, 37)};
        t.c = i & 1 ? ops_pick(&r, 1, 70) : edges[ops_pick(&r, 0, 5)];
        t.k = i & 2 ? ops_pick(&r, 1, 70) : edges[ops_pick(&r, 0, 5)];
        t.kernel = kernels[ops_pick(&r, 0, 7)];
        t.stride = ops_pick(&r, 1, 2);
        t.padding = ops_pick(&r, 0, 3) ? t.kernel / 2 : ops_pick(&r, 0, t.kernel);
        t.activation = (net_activation)ops_pick(&r, NET_LINEAR, NET_MISH);
        t.bias = ops_pick(&r, 0, 3) > 0;
        t.residual = ops_pick(&r, 0, 1);
        t.dense = ops_pick(&r, 0, 1);
        if (t.h + 2 * t.padding >= t.kernel && t.w + 2 * t.padding >= t.kernel) ops_run_conv(&t, &r);
    }
    ops_stop_pools();
}

/* Sizes at which blocks, bands and the shared Winograd input are more than one piece. */
static void test_conv_blocked(void) {
    static const ops_case cases[] = {
        {1, 40, 52, 32, 48, 3, 1, 1, NET_SILU, true, true, true},   {2, 20, 20, 128, 40, 3, 1, 1, NET_SILU, true, false, false},
        {1, 20, 20, 300, 24, 3, 1, 1, NET_LINEAR, true, false, true}, {1, 37, 90, 160, 20, 3, 2, 1, NET_SILU, true, false, true},
        {1, 200, 3, 600, 20, 1, 1, 0, NET_SILU, true, true, false},  {1, 96, 64, 3, 16, 3, 2, 1, NET_SILU, true, false, true},
        {3, 64, 64, 16, 16, 3, 1, 1, NET_SILU, true, true, false},   {1, 61, 67, 17, 33, 6, 2, 2, NET_RELU, true, false, true},
        {1, 80, 80, 640, 1, 3, 1, 1, NET_SILU, true, false, true} /* transformed in waves */};
    rng r = {15, 0};
    ops_start_pools();
    for (int i = 0; i < YOLO_COUNT(cases); i++) ops_run_conv(&cases[i], &r);
    ops_stop_pools();
}

/* y = act(x) through a 1x1 convolution that copies its input, over all magnitudes. */
static void test_activation_range(void) {
    const float one = 1;
    static float x[4001], y[4001];
    for (int i = 0; i < 4001; i++) x[i] = (float)((i - 2000) / 2000.0 * 100);
    x[0] = -FLT_MAX, x[1] = -INFINITY, x[2] = FLT_MAX, x[3] = INFINITY, x[4] = NAN, x[5] = -1e-30f, x[6] = 0;
    ten in = {x, 1, 1, 4001, 1, 1}, out = {y, 1, 1, 4001, 1, 1};
    for (int isa = OP_PORTABLE; isa <= (int)op_isa_best(); isa++)
        for (int activation = NET_LINEAR; activation <= NET_MISH; activation++) {
            op_conv conv;
            yolo_error error;
            CHECK(op_conv_create(&conv, (op_isa)isa, 1, 1, 1, 1, 0, (net_activation)activation, &one, NULL, &error) == YOLO_OK);
            void *workspace = mem_alloc(op_conv_workspace(&conv, 1, 1, 4001, 1));
            op_conv_fwd(&out, &in, &conv, NULL, workspace, NULL);
            for (int i = 0; i < 4001; i++) {
                const double expected = ops_activate(x[i], (net_activation)activation);
                const bool gated = activation == NET_SILU || activation == NET_MISH;
                if (i == 4) CHECK(y[i] != y[i]);
                else if (gated && x[i] < -70) CHECK_MSG(fabs(y[i]) < 1e-28, "act(%g) = %g", x[i], y[i]);
                else if (i == 3) CHECK(y[i] == INFINITY);
                else if (isinf(expected)) CHECK(y[i] == expected);
                else CHECK_MSG(fabs(y[i] - expected) <= (x[i] < -20 ? 1e-5 : 1.5e-6) * fabs(expected), "isa %d act %d (%g) = %.9g, not %.9g", isa, activation, x[i], y[i], expected);
                if (test_failures > 20) return;
            }
            mem_free(workspace);
            op_conv_destroy(&conv);
        }
}

static void test_maxpool(void) {
    rng r = {16, 0};
    ops_start_pools();
    for (int i = 0; i < 60; i++) {
        const int kernel = i < 20 ? 5 : ops_pick(&r, 1, 9), stride = i < 20 ? 1 : ops_pick(&r, 1, 2), padding = kernel / 2;
        const op_isa isa = (op_isa)ops_pick(&r, OP_PORTABLE, (int)op_isa_best());
        ops_tensor in, out;
        ops_make(&in, &r, ops_pick(&r, 1, 2), ops_pick(&r, 1, 25), ops_pick(&r, 1, 200), ops_pick(&r, 1, 40), i & 1, true);
        if (i % 3 == 0) in.view.data[0] = NAN;
        const ten *x = &in.view;
        ops_make(&out, &r, x->n, (x->h + 2 * padding - kernel) / stride + 1, (x->w + 2 * padding - kernel) / stride + 1, x->c, i & 1, false);
        ops_tensor again = ops_like(&out);
        op_maxpool_fwd(&out.view, x, isa, kernel, stride, padding, ops_pools[i % 3]);
        op_maxpool_fwd(&again.view, x, isa, kernel, stride, padding, NULL);
        CHECK(ops_around_untouched(&out) && ops_same_bits(&out, &again));
        int64_t wrong = 0;
        for (int n = 0; n < out.view.n; n++)
            for (int y = 0; y < out.view.h; y++)
                for (int column = 0; column < out.view.w; column++)
                    for (int c = 0; c < x->c; c++) {
                        float best = -INFINITY, got = ten_at(&out.view, n, y, column)[c];
                        for (int iy = y * stride - padding; iy < y * stride - padding + kernel; iy++)
                            for (int ix = column * stride - padding; ix < column * stride - padding + kernel; ix++)
                                if (iy >= 0 && ix >= 0 && iy < x->h && ix < x->w && !(ten_at(x, n, iy, ix)[c] <= best)) {
                                    best = ten_at(x, n, iy, ix)[c];
                                    if (best != best) iy = ix = 1 << 20;
                                }
                        wrong += !(got == best) && !(got != got && best != best);
                    }
        CHECK_MSG(wrong == 0, "%d wrong: kernel %d stride %d", (int)wrong, kernel, stride);
        free(in.block);
        free(out.block);
        free(again.block);
    }
    ops_stop_pools();
}

static void test_copies(void) {
    rng r = {17, 0};
    ops_start_pools();
    for (int i = 0; i < 30; i++) {
        ops_tensor a, up, copy;
        const int n = ops_pick(&r, 1, 2), h = ops_pick(&r, 1, 20), w = ops_pick(&r, 1, 20), c = ops_pick(&r, 1, 40);
        thr_pool *pool = ops_pools[i % 3];
        ops_make(&a, &r, n, h, w, c, i & 1, true);
        ops_make(&up, &r, n, 2 * h, 2 * w, c, i & 1, false);
        ops_make(&copy, &r, n, h, w, c, i & 1, false);
        op_upsample2_fwd(&up.view, &a.view, pool);
        op_copy_fwd(&copy.view, &a.view, pool);
        int64_t wrong = 0;
        for (int64_t p = 0; p < (int64_t)n * 2 * h * 2 * w; p++) {
            const int image = (int)(p / (4 * h * w)), y = (int)(p / (2 * w) % (2 * h)), x = (int)(p % (2 * w));
            for (int k = 0; k < c; k++) {
                const float from = ten_at(&a.view, image, y / 2, x / 2)[k];
                wrong += ten_at(&up.view, image, y, x)[k] != from;
                wrong += ten_at(&copy.view, image, y / 2, x / 2)[k] != from;
            }
        }
        CHECK(wrong == 0);
        CHECK(ops_around_untouched(&up) && ops_around_untouched(&copy));
        free(a.block), free(up.block), free(copy.block);
    }
    ops_stop_pools();
}

static void test_conv_out_of_memory(void) {
    static const float weight[9 * 16 * 16];
    for (int nth = 1; nth <= 2; nth++) {
        op_conv conv;
        yolo_error error;
        os_atomic_set(&mem_fail_after, nth);
        CHECK(op_conv_create(&conv, OP_PORTABLE, 16, 16, 3, 1, 1, NET_SILU, weight, NULL, &error) == YOLO_ERROR_MEMORY);
        os_atomic_set(&mem_fail_after, 0);
        op_conv_destroy(&conv);
    }
}

static const test_case tests_ops[] = {
    {"conv-random", "convolutions of odd shapes against double precision; slices, threads, instruction sets", test_conv_random},
    {"conv-blocked", "convolutions large enough to be cut into blocks", test_conv_blocked},
    {"activation-range", "activations to 1.5e-6 over all magnitudes; NaN comes through", test_activation_range},
    {"maxpool", "max-pooling windows, strides, NaN", test_maxpool},
    {"copies", "upsampling and copying in slices", test_copies},
    {"conv-out-of-memory", "a failed allocation is reported and nothing leaks", test_conv_out_of_memory},
};
