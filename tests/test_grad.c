/* test_grad.c - the training pass: batch norm with its activation, pooling and copies backward against finite differences
   in double precision, then whole graphs. Uses the helpers of test_ops.c and test_net.c. */

static double grad_activate(double x, net_activation activation, double slope) {
    return activation == NET_LEAKYRELU && x < 0 ? slope * x : ops_activate(x, activation);
}

/* ---- batch norm ---- */

typedef struct grad_norm_case {
    ops_tensor z, out, d_out, residual, d_residual;
    int channels;
    double eps, slope;
    net_activation activation;
    bool frozen;
    float *gamma, *beta, *mean, *variance;
} grad_norm_case;

static double grad_at(const ten *t, int64_t pixel, int c) { return t->data[pixel * t->pixel + c]; }
static int64_t grad_pixels(const ten *t) { return (int64_t)t->n * t->h * t->w; }

/* Sum of d_out * out over a channel when z has `change` added at pixel `at` (-1 = none), and gamma and beta are these. */
static double grad_norm_loss(const grad_norm_case *t, int c, int64_t at, double change, double gamma, double beta, double *mean, double *variance) {
    const int64_t count = grad_pixels(&t->z.view);
    double sum = 0, squares = 0, loss = 0;
    for (int64_t p = 0; p < count; p++) sum += grad_at(&t->z.view, p, c) + (p == at ? change : 0);
    *mean = t->frozen ? t->mean[c] : sum / (double)count;
    for (int64_t p = 0; p < count; p++) {
        const double d = grad_at(&t->z.view, p, c) + (p == at ? change : 0) - *mean;
        squares += d * d;
    }
    *variance = t->frozen ? t->variance[c] : squares / (double)count;
    for (int64_t p = 0; p < count; p++) {
        const double d = grad_at(&t->z.view, p, c) + (p == at ? change : 0) - *mean;
        loss += grad_at(&t->d_out.view, p, c) * grad_activate(gamma * d / sqrt(*variance + t->eps) + beta, t->activation, t->slope);
    }
    return loss;
}

/* What a channel has to give at one pixel, drawn at random, and its derivatives by differences. */
typedef struct grad_norm_want { int64_t pixel; double mean, variance, out, size, by_z, by_gamma, by_beta; } grad_norm_want;

static grad_norm_want grad_norm_expect(const grad_norm_case *t, int c, rng *r) {
    const double h = 1e-5, gamma = t->gamma[c], beta = t->beta[c];
    const int64_t count = grad_pixels(&t->z.view), p = ops_pick(r, 0, (int)count - 1);
    grad_norm_want want = {.pixel = p};
    double m, v;
    grad_norm_loss(t, c, -1, 0, gamma, beta, &want.mean, &want.variance);
    want.out = grad_at(&t->residual.view, p, c) + grad_activate(gamma * (grad_at(&t->z.view, p, c) - want.mean) / sqrt(want.variance + t->eps) + beta, t->activation, t->slope);
    for (int64_t q = 0; q < count; q++) want.size += fabs(grad_at(&t->d_out.view, q, c));
    want.by_z = (grad_norm_loss(t, c, p, h, gamma, beta, &m, &v) - grad_norm_loss(t, c, p, -h, gamma, beta, &m, &v)) / (2 * h);
    want.by_gamma = (grad_norm_loss(t, c, -1, 0, gamma + h, beta, &m, &v) - grad_norm_loss(t, c, -1, 0, gamma - h, beta, &m, &v)) / (2 * h);
    want.by_beta = (grad_norm_loss(t, c, -1, 0, gamma, beta + h, &m, &v) - grad_norm_loss(t, c, -1, 0, gamma, beta - h, &m, &v)) / (2 * h);
    return want;
}

static void grad_norm_check(const grad_norm_case *t, op_isa isa, thr_pool *pool, bool accumulate, const grad_norm_want *wants, ops_tensor *out, ops_tensor *d) {
    const ten *z = &t->z.view;
    op_norm norm;
    void *workspace = mem_alloc(op_norm_workspace(t->channels, z->n, z->h, z->w));
    float *memory = mem_alloc((size_t)(OP_NORM_ARRAYS * op_align(t->channels)) * sizeof(float)), *rows = mem_array(4 * (uint64_t)t->channels, sizeof(float));
    float *d_gamma = rows, *d_beta = rows + t->channels, *mean = d_beta + t->channels, *variance = mean + t->channels;
    ops_tensor d_residual = ops_like(&t->d_residual);
    memcpy(d->block, t->d_out.block, (size_t)d->floats * sizeof(float));
    memcpy(d_residual.block, t->d_residual.block, (size_t)d_residual.floats * sizeof(float));
    op_norm_place(&norm, t->channels, t->activation, (float)t->slope, memory);
    for (int c = 0; c < t->channels; c++) mean[c] = t->mean[c], variance[c] = t->variance[c], d_gamma[c] = 1, d_beta[c] = 2;
    for (int n = 0; n < z->n && !t->frozen; n++) op_norm_moments(&norm, z, n, 1, isa, workspace, pool);
    if (!t->frozen) op_norm_measure(&norm, op_norm_statistics(&norm, z, workspace), t->gamma, t->beta, mean, variance, t->eps, 0.03);
    for (int c = 0; t->frozen && c < t->channels; c++) op_norm_set(&norm, c, mean[c], variance[c], t->eps, t->gamma[c], t->beta[c]);
    op_norm_fwd(&out->view, z, &norm, &t->residual.view, isa, pool);
    if (!t->frozen) op_norm_spread(&norm, op_norm_sums(&norm, d_gamma, d_beta, &d->view, z, isa, workspace, pool));
    op_norm_bwd(&d->view, &d_residual.view, accumulate, z, &norm, isa, pool);
    CHECK(ops_around_untouched(out) && ops_around_untouched(d) && ops_around_untouched(&d_residual));
    const int64_t count = grad_pixels(z);
    for (int c = 0; c < t->channels && test_failures < 10; c++) {
        const grad_norm_want *want = &wants[c];
        const int64_t p = want->pixel;
        const double m = want->mean, v = want->variance, steep = fabs(t->gamma[c] / sqrt(v + t->eps));
        CHECK_NEAR(grad_at(&out->view, p, c), want->out, 1e-5 * (1 + fabs(m * t->gamma[c]) / sqrt(v + t->eps) / 20));
        CHECK_NEAR(grad_at(&d_residual.view, p, c), grad_at(&t->d_out.view, p, c) + (accumulate ? grad_at(&t->d_residual.view, p, c) : 0), 1e-6);
        CHECK_MSG(fabs(grad_at(&d->view, p, c) - want->by_z) <= 3e-5 * (1 + steep), "d_z %.9g, not %.9g", grad_at(&d->view, p, c), want->by_z);
        if (t->frozen) continue;
        CHECK_NEAR(d_gamma[c] - 1, want->by_gamma, 1e-5 * (1 + want->size));
        CHECK_NEAR(d_beta[c] - 2, want->by_beta, 1e-5 * (1 + want->size));
        CHECK_NEAR(mean[c], 0.97 * t->mean[c] + 0.03 * m, 1e-5);
        CHECK_NEAR(variance[c], 0.97 * t->variance[c] + 0.03 * v * (double)count / YOLO_MAX((double)count - 1, 1), 1e-5 * (1 + v));
    }
    free(d_residual.block);
    mem_free(workspace);
    mem_free(memory);
    mem_free(rows);
}

static void test_grad_norm(void) {
    rng r = {160, 0};
    ops_start_pools();
    for (int i = 0; i < 60 && test_failures < 10; i++) {
        grad_norm_case t = {.eps = 1e-3, .slope = i % 3 ? 0.01 : 0.2, .activation = (net_activation)(i % 5), .frozen = i % 7 == 0};
        const bool large = i % 10 == 9; /* several pieces an image */
        const int n = ops_pick(&r, 1, 3), h = large ? 41 : ops_pick(&r, 1, 9), w = large ? 43 : ops_pick(&r, n * h == 1 ? 2 : 1, 9);
        t.channels = i % 4 ? ops_pick(&r, 1, 50) : 16;
        ops_make(&t.z, &r, n, h, w, t.channels, i & 1, true);
        ops_make(&t.d_out, &r, n, h, w, t.channels, false, true);
        ops_make(&t.residual, &r, n, h, w, t.channels, false, true);
        ops_make(&t.d_residual, &r, n, h, w, t.channels, false, true);
        ops_make(&t.out, &r, n, h, w, t.channels, false, false);
        t.gamma = mem_array(4 * (uint64_t)t.channels, sizeof(float));
        t.beta = t.gamma + t.channels, t.mean = t.beta + t.channels, t.variance = t.mean + t.channels;
        for (int c = 0; c < t.channels; c++) {
            t.gamma[c] = 2 * ops_random(&r), t.beta[c] = ops_random(&r), t.mean[c] = ops_random(&r), t.variance[c] = 1.5f + ops_random(&r);
            const float offset = 20 * ops_random(&r); /* a mean that is large against the deviations */
            for (int64_t p = 0; p < grad_pixels(&t.z.view) && i % 2; p++) t.z.view.data[p * t.z.view.pixel + c] += offset;
            if (i % 2) t.mean[c] += offset;
        }
        grad_norm_want wants[50];
        for (int c = 0; c < t.channels; c++) wants[c] = grad_norm_expect(&t, c, &r);
        for (op_isa isa = OP_PORTABLE; isa <= op_isa_best(); isa++) {
            ops_tensor outs[3], ds[3];
            for (int p = 0; p < 3; p++) {
                outs[p] = ops_like(&t.out), ds[p] = ops_like(&t.d_out);
                grad_norm_check(&t, isa, ops_pools[p], i & 2, wants, &outs[p], &ds[p]);
            }
            CHECK(ops_same_bits(&outs[0], &outs[1]) && ops_same_bits(&outs[0], &outs[2]) && ops_same_bits(&ds[0], &ds[1]) && ops_same_bits(&ds[0], &ds[2]));
            for (int p = 0; p < 3; p++) free(outs[p].block), free(ds[p].block);
        }
        free(t.z.block), free(t.d_out.block), free(t.residual.block), free(t.d_residual.block), free(t.out.block);
        mem_free(t.gamma);
    }
    ops_stop_pools();
}

/* The slope of each activation over all magnitudes, through a batch norm that does nothing. */
static void test_grad_slope(void) {
    static float x[2001], d[2001];
    float memory[OP_NORM_ARRAYS * 16];
    for (op_isa isa = OP_PORTABLE; isa <= op_isa_best(); isa++)
        for (net_activation activation = NET_LINEAR; activation <= NET_MISH; activation++) {
            for (int i = 0; i < 2001; i++) x[i] = (float)((i - 1000) * (i % 2 ? 0.12 : 0.011) + 0.001), d[i] = 1;
            x[0] = INFINITY, x[1] = -INFINITY, x[2] = FLT_MAX, x[3] = -FLT_MAX, x[4] = NAN, x[5] = 0;
            op_norm norm;
            op_norm_place(&norm, 1, activation, 0.25f, memory);
            op_norm_set(&norm, 0, 0, 1, 0, 1, 0);
            ten z = {x, 1, 1, 2001, 1, 1}, gradient = {d, 1, 1, 2001, 1, 1};
            op_norm_bwd(&gradient, NULL, false, &z, &norm, isa, NULL);
            for (int i = 0; i < 2001 && test_failures < 10; i++) {
                const double h = 1e-4, limit = x[i] > 0 ? 1 : activation == NET_LEAKYRELU ? 0.25 : activation == NET_LINEAR ? 1 : 0;
                double expected = (grad_activate(x[i] + h, activation, 0.25) - grad_activate(x[i] - h, activation, 0.25)) / (2 * h);
                if (fabs(x[i]) > 100) expected = limit; /* infinities, too */
                if (i == 5 && activation == NET_RELU) expected = 0;
                if (i == 5 && activation == NET_LEAKYRELU) expected = 0.25;
                if (i == 4) CHECK(activation == NET_RELU || activation == NET_LEAKYRELU || activation == NET_LINEAR || d[i] != d[i]);
                else if (i < 4 && isinf(x[i]) && activation == NET_LINEAR) continue; /* 0 * infinity in what comes through the mean */
                else if (!isinf(x[i])) CHECK_MSG(fabs(d[i] - expected) <= 2e-6, "isa %d activation %d slope at %g: %.9g, not %.9g", (int)isa, (int)activation, x[i], d[i], expected);
            }
        }
}

/* ---- pooling, upsampling, copying ---- */

static void test_grad_maxpool(void) {
    rng r = {161, 0};
    ops_start_pools();
    for (int i = 0; i < 60 && test_failures < 10; i++) {
        const int kernel = i < 20 ? 5 : ops_pick(&r, 1, 9), stride = i < 20 ? 1 : ops_pick(&r, 1, 2), padding = kernel / 2;
        const op_isa isa = (op_isa)ops_pick(&r, OP_PORTABLE, (int)op_isa_best());
        ops_tensor in, out, d_out, d_in;
        ops_make(&in, &r, ops_pick(&r, 1, 2), ops_pick(&r, 1, 12), ops_pick(&r, 1, 12), ops_pick(&r, 1, 40), i & 1, true);
        const ten *x = &in.view;
        for (int64_t p = 0; p < grad_pixels(x) && i % 3 == 0; p++) /* many that are equally large */
            for (int c = 0; c < x->c; c++) x->data[p * x->pixel + c] = floorf(2 * x->data[p * x->pixel + c]);
        ops_make(&out, &r, x->n, (x->h + 2 * padding - kernel) / stride + 1, (x->w + 2 * padding - kernel) / stride + 1, x->c, i & 1, false);
        ops_make(&d_out, &r, x->n, out.view.h, out.view.w, x->c, false, true);
        ops_make(&d_in, &r, x->n, x->h, x->w, x->c, false, true);
        op_maxpool_fwd(&out.view, x, isa, kernel, stride, padding, NULL);
        double *expected = calloc((size_t)(grad_pixels(x) * x->c), sizeof *expected);
        for (int64_t p = 0; p < grad_pixels(x); p++)
            for (int c = 0; c < x->c; c++) expected[p * x->c + c] = grad_at(&d_in.view, p, c);
        for (int64_t p = 0; p < grad_pixels(&out.view); p++)
            for (int c = 0; c < x->c; c++) {
                const int n = (int)(p / (out.view.h * out.view.w)), y = (int)(p / out.view.w % out.view.h) * stride - padding, column = (int)(p % out.view.w) * stride - padding;
                int64_t best = -1;
                for (int iy = YOLO_MAX(y, 0); iy < YOLO_MIN(y + kernel, x->h); iy++)
                    for (int ix = YOLO_MAX(column, 0); ix < YOLO_MIN(column + kernel, x->w); ix++) {
                        const int64_t at = ((int64_t)n * x->h + iy) * x->w + ix;
                        if (best < 0 || grad_at(x, at, c) > grad_at(x, best, c)) best = at;
                    }
                expected[best * x->c + c] += grad_at(&d_out.view, p, c);
            }
        op_maxpool_bwd(&d_in.view, &d_out.view, x, &out.view, isa, kernel, stride, padding, ops_pools[i % 3]);
        double worst = 0;
        for (int64_t p = 0; p < grad_pixels(x); p++)
            for (int c = 0; c < x->c; c++) worst = fmax(worst, fabs(expected[p * x->c + c] - grad_at(&d_in.view, p, c)));
        CHECK_MSG(worst <= 1e-5, "%g: kernel %d stride %d", worst, kernel, stride);
        CHECK(ops_around_untouched(&d_in));
        free(expected), free(in.block), free(out.block), free(d_out.block), free(d_in.block);
    }
    ops_stop_pools();
}

static void test_grad_copies(void) {
    rng r = {162, 0};
    ops_start_pools();
    for (int i = 0; i < 40 && test_failures < 10; i++) {
        const int n = ops_pick(&r, 1, 2), h = ops_pick(&r, 1, 9), w = ops_pick(&r, 1, 9), c = ops_pick(&r, 1, 40);
        const op_isa isa = (op_isa)ops_pick(&r, OP_PORTABLE, (int)op_isa_best());
        const bool accumulate = i & 1, twice = i & 2;
        ops_tensor d_in, d_out;
        ops_make(&d_in, &r, n, h, w, c, false, true);
        ops_make(&d_out, &r, n, twice ? 2 * h : h, twice ? 2 * w : w, c, false, true);
        ops_tensor result = ops_like(&d_in);
        for (int64_t p = 0; p < grad_pixels(&d_in.view) && accumulate; p++)
            memcpy(result.view.data + p * result.view.pixel, d_in.view.data + p * d_in.view.pixel, (size_t)c * sizeof(float));
        if (twice) op_upsample2_bwd(&result.view, &d_out.view, accumulate, isa, ops_pools[i % 3]);
        else op_copy_bwd(&result.view, &d_out.view, accumulate, isa, ops_pools[i % 3]);
        double worst = 0;
        for (int64_t p = 0; p < grad_pixels(&d_in.view); p++)
            for (int k = 0; k < c; k++) {
                const int image = (int)(p / (h * w)), y = (int)(p / w % h), x = (int)(p % w), scale = twice ? 2 : 1;
                double expected = accumulate ? grad_at(&d_in.view, p, k) : 0;
                for (int q = 0; q < scale * scale; q++) expected += ten_at(&d_out.view, image, scale * y + q / scale, scale * x + q % scale)[k];
                worst = fmax(worst, fabs(expected - grad_at(&result.view, p, k)));
            }
        CHECK_MSG(worst <= 2e-6, "%g", worst);
        CHECK(ops_around_untouched(&result));
        op_zero(&result.view, ops_pools[i % 3]);
        CHECK(ops_around_untouched(&result) && grad_at(&result.view, grad_pixels(&result.view) - 1, c - 1) == 0);
        free(d_in.block), free(d_out.block), free(result.block);
    }
    ops_stop_pools();
}

/* ---- whole graphs ---- */

/* The graph in double precision, in loops; `from` = the first operator whose inputs have changed. */
typedef struct grad_reference { const net *net; const bool *frozen; int n, h, w; double *params; double **buffers; } grad_reference;

static double *grad_reference_at(const grad_reference *ref, int tensor, int n, int y, int x) {
    const net_tensor *t = &ref->net->tensors[tensor];
    const net_buffer *b = &ref->net->buffers[t->buffer];
    return ref->buffers[t->buffer] + (((int64_t)n * (ref->h / b->down) + y) * (ref->w / b->down) + x) * b->channels + t->channel;
}

/* Four sums, which need not wait for one another. The address sanitizer has nothing to look at in a loop of the test's own. */
__attribute__((no_sanitize("address", "undefined")))
static double grad_dot(const double *a, const double *b, int count) {
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int i = 0;
    for (; i + 4 <= count; i += 4) s0 += a[i] * b[i], s1 += a[i + 1] * b[i + 1], s2 += a[i + 2] * b[i + 2], s3 += a[i + 3] * b[i + 3];
    for (; i < count; i++) s0 += a[i] * b[i];
    return s0 + s1 + (s2 + s3);
}

static void grad_reference_conv(const grad_reference *ref, const net_op *op, int h, int w, int in_h, int in_w) {
    const net *net = ref->net;
    const int C = net->tensors[op->in].channels, K = net->tensors[op->out].channels;
    const int64_t count = (int64_t)ref->n * h * w;
    const double *weight = ref->params + net->params[op->weight].offset, *rows[4] = {0};
    for (int j = 0; j < 4 && op->bn >= 0; j++) rows[j] = ref->params + net->params[op->bn + j].offset;
    const int terms = op->kernel * op->kernel * C;
    double *z = malloc((size_t)count * (size_t)K * sizeof *z), *window = malloc((size_t)terms * sizeof *window);
    for (int64_t p = 0; p < count; p++) {
        memset(window, 0, (size_t)terms * sizeof *window);
        for (int i = 0; i < op->kernel * op->kernel; i++) {
            const int y = (int)(p / w % h) * op->stride + i / op->kernel - op->padding, x = (int)(p % w) * op->stride + i % op->kernel - op->padding;
            if (y >= 0 && x >= 0 && y < in_h && x < in_w) memcpy(window + i * C, grad_reference_at(ref, op->in, (int)(p / w / h), y, x), (size_t)C * sizeof *window);
        }
        for (int k = 0; k < K; k++) z[p * K + k] = grad_dot(window, weight + (int64_t)k * terms, terms);
    }
    free(window);
    for (int k = 0; k < K; k++) {
        double mean = 0, variance = 0;
        for (int64_t p = 0; p < count; p++) mean += z[p * K + k] / (double)count;
        for (int64_t p = 0; p < count; p++) variance += (z[p * K + k] - mean) * (z[p * K + k] - mean) / (double)count;
        if (op->bn >= 0 && ref->frozen[op->layer]) mean = rows[2][k], variance = rows[3][k];
        for (int64_t p = 0; p < count; p++) {
            double x = z[p * K + k];
            const int n = (int)(p / w / h), y = (int)(p / w % h), column = (int)(p % w);
            if (op->bn >= 0) x = rows[0][k] * (x - mean) / sqrt(variance + net->bn_eps) + rows[1][k];
            else x += ref->params[net->params[op->bias].offset + k];
            x = grad_activate(x, op->activation, net->slope);
            if (op->residual >= 0) x += grad_reference_at(ref, op->residual, n, y, column)[k];
            grad_reference_at(ref, op->out, n, y, column)[k] = x;
        }
    }
    free(z);
}

static void grad_reference_op(const grad_reference *ref, const net_op *op) {
    const net *net = ref->net;
    const int down = net->buffers[net->tensors[op->out].buffer].down, in_down = net->buffers[net->tensors[op->in].buffer].down;
    const int h = ref->h / down, w = ref->w / down, in_h = ref->h / in_down, in_w = ref->w / in_down;
    if (op->kind == NET_CONV) {
        grad_reference_conv(ref, op, h, w, in_h, in_w);
        return;
    }
    for (int n = 0; n < ref->n; n++)
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++)
                for (int c = 0; c < net->tensors[op->out].channels; c++) {
                    const int shift = op->kind == NET_UPSAMPLE;
                    double value = grad_reference_at(ref, op->in, n, y >> shift, x >> shift)[c];
                    for (int i = 0; i < op->kernel * op->kernel && op->kind == NET_MAXPOOL; i++) {
                        const int iy = y + i / op->kernel - op->padding, ix = x + i % op->kernel - op->padding;
                        if (iy >= 0 && ix >= 0 && iy < in_h && ix < in_w) value = fmax(value, grad_reference_at(ref, op->in, n, iy, ix)[c]);
                    }
                    grad_reference_at(ref, op->out, n, y, x)[c] = value;
                }
}

/* A weighted sum of the heads: the weight of an element is what grad_reference_weight draws. */
static float grad_reference_weight(int level, int64_t at, int c) {
    rng r = {.key = (uint64_t)(level * 1000003 + at * 1009 + c)};
    return (float)(2 * rng_uniform(&r) - 1);
}

static double grad_reference_loss(const grad_reference *ref, int from) {
    double loss = 0;
    for (int i = from; i < ref->net->op_count; i++) grad_reference_op(ref, &ref->net->ops[i]);
    for (int level = 0; level < ref->net->level_count; level++) {
        const int h = ref->h / ref->net->strides[level], w = ref->w / ref->net->strides[level];
        for (int64_t p = 0; p < (int64_t)ref->n * h * w; p++)
            for (int c = 0; c < ref->net->tensors[ref->net->heads[level]].channels; c++)
                loss += grad_reference_weight(level, p, c) * grad_reference_at(ref, ref->net->heads[level], (int)(p / w / h), (int)(p / w % h), (int)(p % w))[c];
    }
    return loss;
}

typedef struct grad_run { net n; grad_pass *pass; float *params, *gradients; } grad_run;

/* What a pass computes of the loss of grad_reference_loss; its memory is NaN before. */
static bool grad_run_start(grad_run *t, op_isa isa, thr_pool *pool, const bool *frozen, int n, int h, int w) {
    yolo_error error = {0};
    t->params = mem_array((uint64_t)t->n.param_elements, sizeof(float));
    t->gradients = mem_array((uint64_t)t->n.param_elements, sizeof(float));
    net_init_params(&t->n, t->params, 7);
    test_net_random_norm(&t->n, t->params, 7);
    const yolo_status status = grad_create(&t->pass, &t->n, isa, run_cpu, pool, frozen, n, h, w, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    return status == YOLO_OK;
}

static void grad_run_step(grad_run *t) {
    grad_pass *pass = t->pass;
    for (int64_t i = 0; i < pass->block_floats; i++) pass->block[i] = NAN;
    for (size_t i = 0; i < pass->workspace_bytes / sizeof(float); i++) ((float *)pass->workspace)[i] = NAN;
    for (int64_t i = 0; i < pass->packed_floats; i++) pass->packed[i] = NAN;
    rng r = {.key = 77};
    float *input = grad_input(pass);
    for (int64_t i = 0; i < (int64_t)pass->n * pass->h * pass->w * 3; i++) input[i] = (float)rng_uniform(&r);
    grad_forward(pass, t->params);
    for (int level = 0; level < t->n.level_count; level++) {
        ten d = grad_head_gradient(pass, level);
        for (int64_t p = 0; p < grad_pixels(&d); p++)
            for (int c = 0; c < d.c; c++) d.data[p * d.pixel + c] = grad_reference_weight(level, p, c);
    }
    grad_backward(pass, t->gradients);
}

static void grad_run_end(grad_run *t) {
    grad_destroy(t->pass);
    mem_free(t->params);
    mem_free(t->gradients);
    net_free(&t->n);
}

static void grad_reference_start(grad_reference *ref, const grad_run *t, const bool *frozen, int n, int h, int w) {
    *ref = (grad_reference){&t->n, frozen, n, h, w, calloc((size_t)t->n.param_elements, sizeof(double)), calloc((size_t)t->n.buffer_count, sizeof(double *))};
    for (int64_t i = 0; i < t->n.param_elements; i++) ref->params[i] = t->params[i];
    for (int i = 0; i < t->n.buffer_count; i++) {
        const net_buffer *b = &t->n.buffers[i];
        ref->buffers[i] = calloc((size_t)n * (size_t)(h / b->down) * (size_t)(w / b->down) * (size_t)b->channels, sizeof(double));
    }
    rng r = {.key = 77};
    for (int64_t i = 0; i < (int64_t)n * h * w * 3; i++) ref->buffers[0][i] = (float)rng_uniform(&r);
}

static void grad_reference_end(grad_reference *ref) {
    for (int i = 0; i < ref->net->buffer_count; i++) free(ref->buffers[i]);
    free(ref->buffers);
    free(ref->params);
}

/* One row of the table: the derivative along a random direction against the gradient's. */
static void grad_check_row(const grad_reference *ref, const grad_run *t, int op, int row, const char *what) {
    const net_param *p = &t->n.params[row];
    rng r = {.key = (uint64_t)row + 5};
    const double h = 1e-7; /* few kinks of ReLU on the way */
    double along = 0, size = 0, loss[2];
    for (int64_t i = 0; i < p->count; i++) {
        const double d = 2 * rng_uniform(&r) - 1;
        along += d * t->gradients[p->offset + i];
        size += (double)t->gradients[p->offset + i] * t->gradients[p->offset + i];
    }
    if (ref->frozen[t->n.ops[op].layer]) {
        CHECK_MSG(size == 0, "%s: %s is frozen and has a gradient", what, p->name);
        return;
    }
    for (int side = 0; side < 2; side++) {
        r = (rng){.key = (uint64_t)row + 5};
        for (int64_t i = 0; i < p->count; i++) ref->params[p->offset + i] = t->params[p->offset + i] + (side ? -h : h) * (2 * rng_uniform(&r) - 1);
        loss[side] = grad_reference_loss(ref, op);
    }
    for (int64_t i = 0; i < p->count; i++) ref->params[p->offset + i] = t->params[p->offset + i];
    const double expected = (loss[0] - loss[1]) / (2 * h);
    CHECK_MSG(fabs(along - expected) <= 2e-3 * (sqrt(size) + 0.02), "%s: %s: %.9g along a direction, not %.9g (norm %g)", what, p->name, along, expected, sqrt(size));
}

static void grad_check_heads(const grad_reference *ref, const grad_run *t, const char *what) {
    double worst = 0, span = 0;
    for (int level = 0; level < t->n.level_count; level++) {
        ten head = grad_head(t->pass, level);
        for (int64_t p = 0; p < grad_pixels(&head); p++)
            for (int c = 0; c < head.c; c++) {
                const double expected = grad_reference_at(ref, t->n.heads[level], (int)(p / head.w / head.h), (int)(p / head.w % head.h), (int)(p % head.w))[c];
                worst = fmax(worst, fabs(grad_at(&head, p, c) - expected));
                span = fmax(span, fabs(expected));
            }
    }
    CHECK_MSG(worst <= 1e-4 * span, "%s: heads differ by %g of %g", what, worst, span);
}

static void grad_check_op(const grad_reference *ref, const grad_run *t, int i, const char *what) {
    const net_op *op = &t->n.ops[i];
    grad_check_row(ref, t, i, op->weight, what);
    if (op->bias >= 0) grad_check_row(ref, t, i, op->bias, what);
    if (op->bn >= 0) grad_check_row(ref, t, i, op->bn, what), grad_check_row(ref, t, i, op->bn + 1, what);
}

/* A batch was counted and its mean taken in, but where the layer is frozen. */
static void grad_check_statistics(const grad_run *t, const net_op *op, const float *before, bool frozen) {
    if (op->bn < 0) return;
    const int64_t batches = t->n.params[op->bn + 4].offset, mean = t->n.params[op->bn + 2].offset;
    CHECK(t->params[batches] == before[batches] + !frozen);
    CHECK((t->params[mean] == before[mean]) == frozen);
}

/* Every row of every convolution, or of every `step`-th; `freeze` layers are frozen, from the first on or (negative) of the last. */
static void grad_check_graph(const char *file, const char *activation, int freeze, int n, int h, int w, int step) {
    grad_run t = {0};
    grad_reference ref;
    bool frozen[NET_MAX_LAYERS] = {0};
    char what[100];
    snprintf(what, sizeof what, "%s %s freeze %d", path_name(file), activation ? activation : "silu", freeze);
    if (!test_net_file(&t.n, file, activation)) return;
    for (int i = 0; i < t.n.layer_count; i++) frozen[i] = freeze < 0 ? i >= t.n.layer_count + freeze : i < freeze;
    if (!grad_run_start(&t, op_isa_best(), NULL, frozen, n, h, w)) return;
    grad_reference_start(&ref, &t, frozen, n, h, w);
    float *before = mem_alloc((size_t)t.n.param_elements * sizeof(float));
    memcpy(before, t.params, (size_t)t.n.param_elements * sizeof(float));
    grad_run_step(&t);
    grad_reference_loss(&ref, 0);
    for (int i = 0; i < t.n.op_count && test_failures < 10; i++) {
        const net_op *op = &t.n.ops[i];
        if (op->kind == NET_CONV) grad_check_statistics(&t, op, before, frozen[op->layer]);
        if (op->kind == NET_CONV && i % step == 0) grad_check_op(&ref, &t, i, what);
        grad_reference_op(&ref, op); /* its rows are what they were, and so is what it gives the next one */
    }
    for (int i = 0; i < t.n.param_count; i++)
        for (int64_t j = 0; j < t.n.params[i].count && t.n.params[i].group >= NET_BN_STAT; j++) CHECK(t.gradients[t.n.params[i].offset + j] == 0);
    memcpy(t.params, before, (size_t)t.n.param_elements * sizeof(float));
    rng r = {.key = 77};
    for (int64_t i = 0; i < (int64_t)n * h * w * 3; i++) grad_input(t.pass)[i] = (float)rng_uniform(&r);
    grad_forward(t.pass, t.params);
    grad_check_heads(&ref, &t, what);
    mem_free(before);
    grad_reference_end(&ref);
    grad_run_end(&t);
}

static void test_grad_graphs(void) {
    static const char *const tiny = "tests/fixtures/net_tiny.yaml", *const odd = "tests/fixtures/net_odd.yaml";
    grad_check_graph(tiny, NULL, 0, 2, 32, 64, 8);
    grad_check_graph(tiny, "nn.Mish()", 10, 2, 32, 64, 12);
    grad_check_graph(odd, NULL, 0, 2, 32, 32, 1);
    grad_check_graph(odd, "nn.ReLU()", 0, 2, 32, 32, 2);
    grad_check_graph(odd, "torch.nn.LeakyReLU(0.1)", 3, 2, 32, 32, 1);
    grad_check_graph(odd, "nn.Mish()", -4, 3, 32, 32, 1);
}

/* The same bits from 1, 2 and 5 workers, from a pass that was larger and smaller before, and gradients that add up. */
static void test_grad_bits(void) {
    ops_start_pools();
    for (op_isa isa = OP_PORTABLE; isa <= op_isa_best(); isa++) {
        uint64_t first = 0;
        for (int p = 0; p < 3; p++) {
            grad_run t = {0};
            if (!test_net_file(&t.n, "tests/fixtures/net_tiny.yaml", NULL) || !grad_run_start(&t, isa, ops_pools[p], NULL, 3, p == 1 ? 128 : 32, 64)) continue;
            const float *block = t.pass->block;
            if (p == 1) {
                CHECK(grad_shape(t.pass, 3, 32, 64, NULL) == YOLO_OK && t.pass->block == block);
                CHECK(grad_shape(t.pass, 3, 33, 64, NULL) == YOLO_ERROR_USAGE && t.pass->h == 32);
            }
            grad_run_step(&t);
            const size_t bytes = (size_t)t.n.param_elements * sizeof(float);
            const uint64_t hash = hash_bytes(t.gradients, bytes, hash_bytes(t.params, bytes, 0));
            if (!p) first = hash;
            CHECK_MSG(hash == first, "isa %d, pool %d", (int)isa, p);
            float *once = mem_alloc(bytes);
            memcpy(once, t.gradients, bytes);
            net_init_params(&t.n, t.params, 7);
            test_net_random_norm(&t.n, t.params, 7);
            grad_run_step(&t);
            double worst = 0;
            for (int64_t i = 0; i < t.n.param_elements; i++) worst = fmax(worst, fabs(t.gradients[i] - 2.0 * once[i]) / (1 + fabs(once[i])));
            CHECK_MSG(worst < 1e-5, "%g", worst);
            mem_free(once);
            grad_run_end(&t);
        }
    }
    ops_stop_pools();
}

/* No two things that live at the same time lie on one another, in any of the built-in models. */
static void test_grad_plans(void) {
    for (int i = 0; i < YOLO_COUNT(test_net_names); i++) {
        net n;
        grad_pass *pass = NULL;
        grad_memory memory = {0};
        bool frozen[NET_MAX_LAYERS] = {0};
        for (int j = 0; j < 10; j++) frozen[j] = i == 1;
        if (!test_net_builtin(&n, test_net_names[i], 0, false)) continue;
        CHECK(grad_open(&pass, &n, OP_PORTABLE, run_cpu, NULL, 2, frozen, 4, 320, 640, NULL) == YOLO_OK);
        const int64_t floats = (int64_t)((pass->memory.activations + pass->memory.gradients) / sizeof(float));
        double most = 0;
        for (int a = 0; a < pass->order_count; a++) {
            const net_buffer *x = &pass->buffers[pass->order[a]];
            const int64_t end = x->offset + net_buffer_floats(x, 4);
            double live = 0;
            CHECK(x->offset >= 0 && end <= floats);
            for (int b = 0; b < pass->order_count; b++) {
                const net_buffer *y = &pass->buffers[pass->order[b]];
                if (y->first_op <= x->first_op && x->first_op <= y->last_op) live += (double)net_buffer_floats(y, 4);
                if (b >= a || y->last_op < x->first_op || x->last_op < y->first_op) continue;
                CHECK(end <= y->offset || y->offset + net_buffer_floats(y, 4) <= x->offset);
            }
            most = fmax(most, live);
        }
        CHECK_MSG((double)floats <= 1.1 * most, "%s: %lld floats planned, %.0f live", test_net_names[i], (long long)floats, most);
        CHECK(grad_measure(&n, OP_PORTABLE, run_cpu, 2, 4, 320, 640, &memory, NULL) == YOLO_OK);
        CHECK((i == 1) == (memory.activations != pass->memory.activations));
        grad_destroy(pass);
        net_free(&n);
    }
    net n;
    yolo_error error = {0};
    grad_memory memory;
    grad_pass *pass;
    if (!test_net_builtin(&n, "yolov8n.yaml", 0, true)) return;
    CHECK(grad_create(&pass, &n, OP_PORTABLE, run_cpu, NULL, NULL, 1, 32, 32, &error) == YOLO_ERROR_UNSUPPORTED && !pass && strstr(error.message, "fused"));
    CHECK(grad_measure(&n, OP_PORTABLE, run_cpu, 1, 1, 32, 32, &memory, &error) == YOLO_ERROR_UNSUPPORTED);
    net_free(&n);
}

static void test_grad_out_of_memory(void) {
    net n;
    yolo_error error = {0};
    grad_pass *pass = NULL;
    if (!test_net_file(&n, "tests/fixtures/net_odd.yaml", NULL)) return;
    int failed = 0;
    for (int nth = 1; nth < 100; nth++) {
        os_atomic_set(&mem_fail_after, nth);
        const yolo_status status = grad_create(&pass, &n, OP_PORTABLE, run_cpu, NULL, NULL, 1, 32, 32, &error);
        const bool spent = os_atomic_get(&mem_fail_after) == 0;
        os_atomic_set(&mem_fail_after, 0);
        if (!spent) break;
        failed++;
        CHECK(status == YOLO_ERROR_MEMORY && !pass);
    }
    CHECK(failed >= 5 && pass);
    os_atomic_set(&mem_fail_after, 1);
    CHECK(grad_shape(pass, 2, 64, 64, &error) == YOLO_ERROR_MEMORY && pass->n == 1 && pass->h == 32);
    os_atomic_set(&mem_fail_after, 0);
    CHECK(grad_shape(pass, 2, 64, 64, &error) == YOLO_OK && grad_head(pass, 0).n == 2);
    grad_destroy(pass);
    net_free(&n);
}

static const test_case tests_grad[] = {
    {"norm", "batch norm with its activation and residual, both ways, against finite differences; slices, threads", test_grad_norm},
    {"slope", "derivatives of the activations over all magnitudes", test_grad_slope},
    {"maxpool", "the gradient goes to the first largest pixel", test_grad_maxpool},
    {"copies", "gradients of upsampling and copying", test_grad_copies},
    {"graphs", "whole graphs: derivatives along random directions of every row, frozen layers, statistics", test_grad_graphs},
    {"bits", "the same bits for any number of threads and after another size", test_grad_bits},
    {"plans", "nothing that lives at the same time overlaps; little more memory than what lives; fused models are refused", test_grad_plans},
    {"out-of-memory", "failed allocations are reported and nothing leaks", test_grad_out_of_memory},
};
