/* Section 14, backward: gradients of convolutions against double-precision loops, on odd shapes, in slices between
   sentinels, accumulating and not, for every instruction set of this machine and pools of 1, 2 and 5 workers, whose
   results must be the same bits. Uses the helpers of test_ops.c. */

typedef struct grads_reference { double *in, *in_size, *weight, *weight_size, *bias; } grads_reference; /* sums, and their terms' magnitudes */

/* Both gradients of one convolution in double: every product of the forward pass, once into each. */
static void grads_reference_make(grads_reference *ref, const ops_case *t, const ten *d_out, const ten *in, const float *weight) {
    const int64_t inputs = (int64_t)t->n * t->h * t->w * t->c, weights = (int64_t)t->k * t->kernel * t->kernel * t->c;
    *ref = (grads_reference){calloc((size_t)inputs, 8), calloc((size_t)inputs, 8), calloc((size_t)weights, 8), calloc((size_t)weights, 8), calloc((size_t)t->k, 8)};
    for (int64_t p = 0; p < (int64_t)d_out->n * d_out->h * d_out->w; p++)
        for (int k = 0; k < t->k; k++) {
            const double d = d_out->data[p * d_out->pixel + k];
            const int n = (int)(p / d_out->w / d_out->h), y = (int)(p / d_out->w % d_out->h), x = (int)(p % d_out->w);
            ref->bias[k] += d;
            for (int r = 0; r < t->kernel; r++)
                for (int s = 0; s < t->kernel; s++) {
                    const int iy = y * t->stride + r - t->padding, ix = x * t->stride + s - t->padding;
                    if (iy < 0 || ix < 0 || iy >= t->h || ix >= t->w) continue;
                    const float *from = ten_at(in, n, iy, ix);
                    const int64_t at = (((int64_t)n * t->h + iy) * t->w + ix) * t->c, filter = (((int64_t)k * t->kernel + r) * t->kernel + s) * t->c;
                    for (int c = 0; c < t->c; c++) {
                        ref->in[at + c] += d * weight[filter + c];
                        ref->in_size[at + c] += fabs(d * weight[filter + c]);
                        ref->weight[filter + c] += d * from[c];
                        ref->weight_size[filter + c] += fabs(d * from[c]);
                    }
                }
        }
}

static void grads_reference_free(grads_reference *ref) {
    free(ref->in), free(ref->in_size), free(ref->weight), free(ref->weight_size), free(ref->bias);
}

typedef struct grads_job {
    const ops_case *t;
    op_isa isa;
    const ops_tensor *in, *d_out, *start; /* start: what d_in holds before */
    const float *weight;
    const grads_reference *ref;
} grads_job;

/* The worst error of d_in in units of the size of its sum, at least `least`. */
static double grads_in_error(const grads_job *job, const ten *d_in, bool accumulate, double least) {
    double worst = 0;
    const ops_case *t = job->t;
    for (int64_t p = 0; p < (int64_t)t->n * t->h * t->w; p++)
        for (int c = 0; c < t->c; c++) {
            const double before = accumulate ? job->start->view.data[p * job->start->view.pixel + c] : 0;
            const double expected = before + job->ref->in[p * t->c + c], size = fabs(before) + job->ref->in_size[p * t->c + c];
            const double error = fabs(d_in->data[p * d_in->pixel + c] - expected) / YOLO_MAX(size, least);
            if (!(error <= worst)) worst = error == error ? error : INFINITY;
        }
    return worst;
}

static void grads_check_in(const grads_job *job, bool accumulate) {
    const ops_case *t = job->t;
    op_dgrad dgrad;
    yolo_error error;
    ops_tensor outs[3];
    CHECK(op_dgrad_create(&dgrad, job->isa, t->c, t->k, t->kernel, t->stride, t->padding, &error) == YOLO_OK);
    for (int p = 0; p < 3; p++) {
        void *workspace = mem_alloc(op_dgrad_workspace(&dgrad, t->n, t->h, t->w, thr_pool_size(ops_pools[p])));
        outs[p] = ops_like(job->start);
        if (accumulate) memcpy(outs[p].block, job->start->block, (size_t)job->start->floats * sizeof(float));
        op_dgrad_pack(&dgrad, job->weight, ops_pools[p]);
        op_conv_dgrad(&outs[p].view, &job->d_out->view, &dgrad, accumulate, workspace, ops_pools[p]);
        mem_free(workspace);
    }
    const double worst = grads_in_error(job, &outs[0].view, accumulate, dgrad.conv.winograd ? 9 * t->k / 4.0 : 1);
    CHECK_MSG(worst <= (dgrad.conv.winograd ? 4e-6 : 6e-7), "error %.3g isa %d: n%d %dx%d c%d k%d kernel %d stride %d padding %d accumulate %d",
              worst, (int)job->isa, t->n, t->h, t->w, t->c, t->k, t->kernel, t->stride, t->padding, accumulate);
    CHECK(ops_around_untouched(&outs[0]));
    CHECK(ops_same_bits(&outs[0], &outs[1]) && ops_same_bits(&outs[0], &outs[2]));
    for (int p = 0; p < 3; p++) free(outs[p].block);
    op_dgrad_destroy(&dgrad);
}

/* The gradient is added to 1s, between guards that must stay. */
static void grads_check_weight(const grads_job *job) {
    enum { GUARD = 16 };
    const ops_case *t = job->t;
    const int64_t count = (int64_t)t->k * t->kernel * t->kernel * t->c, block = count + t->k + 3 * GUARD;
    float *results[3];
    for (int p = 0; p < 3; p++) {
        float *d = results[p] = malloc((size_t)block * sizeof(float));
        for (int64_t i = 0; i < block; i++) d[i] = 1;
        void *workspace = mem_alloc(op_wgrad_workspace(job->isa, t->c, t->k, t->kernel, t->stride, t->padding, t->n, t->h, t->w, thr_pool_size(ops_pools[p])));
        op_conv_wgrad(d + GUARD, t->bias ? d + count + 2 * GUARD : NULL, &job->d_out->view, &job->in->view, job->isa, t->kernel, t->stride,
                      t->padding, workspace, ops_pools[p]);
        mem_free(workspace);
        CHECK(!memcmp(d, results[0], (size_t)block * sizeof(float)));
    }
    const float *d = results[0] + GUARD, *bias = d + count + GUARD;
    const double outputs = (double)t->n * job->d_out->view.h * job->d_out->view.w;
    double worst = 0, worst_bias = 0, largest = 1;
    for (int64_t i = 0; i < count; i++) largest = YOLO_MAX(largest, job->ref->weight_size[i]);
    for (int64_t i = 0; i < count; i++) {
        const double error = fabs(d[i] - 1 - job->ref->weight[i]) / largest;
        if (!(error <= worst)) worst = error == error ? error : INFINITY;
    }
    for (int k = 0; k < t->k; k++) worst_bias = YOLO_MAX(worst_bias, fabs(bias[k] - 1 - (t->bias ? job->ref->bias[k] : 0)) / YOLO_MAX(outputs, 1));
    CHECK_MSG(worst <= 3e-6 && worst_bias <= 1e-6, "errors %.3g, bias %.3g isa %d: n%d %dx%d c%d k%d kernel %d stride %d padding %d", worst, worst_bias,
              (int)job->isa, t->n, t->h, t->w, t->c, t->k, t->kernel, t->stride, t->padding);
    for (int i = 0; i < GUARD; i++) CHECK(d[-1 - i] == 1 && d[count + i] == 1 && bias[t->k + i] == 1);
    for (int p = 0; p < 3; p++) free(results[p]);
}

static void grads_run_conv(const ops_case *t, rng *r) {
    const int out_h = (t->h + 2 * t->padding - t->kernel) / t->stride + 1, out_w = (t->w + 2 * t->padding - t->kernel) / t->stride + 1;
    const int64_t weights = (int64_t)t->k * t->kernel * t->kernel * t->c;
    float *weight = malloc((size_t)weights * sizeof(float));
    for (int64_t i = 0; i < weights; i++) weight[i] = ops_random(r);
    ops_tensor in, d_out, d_in;
    grads_reference ref;
    ops_make(&in, r, t->n, t->h, t->w, t->c, t->dense, true);
    ops_make(&d_in, r, t->n, t->h, t->w, t->c, t->dense, true);
    ops_make(&d_out, r, t->n, out_h, out_w, t->k, t->dense, true);
    grads_reference_make(&ref, t, &d_out.view, &in.view, weight);
    for (int isa = OP_PORTABLE; isa <= (int)op_isa_best(); isa++) {
        const grads_job job = {t, (op_isa)isa, &in, &d_out, &d_in, weight, &ref};
        grads_check_in(&job, t->residual);
        grads_check_weight(&job);
    }
    grads_reference_free(&ref);
    free(weight), free(in.block), free(d_out.block), free(d_in.block);
}

static void test_grads_random(void) {
    static const int kernels[] = {1, 1, 3, 3, 3, 3, 2, 4, 5, 6, 15}, edges[] = {1, 3, 16, 17, 33, 64};
    rng r = {24, 0};
    ops_start_pools();
    for (int i = 0; i < test_cases(300) && test_failures < 10; i++) {
        ops_case t = {.n = ops_pick(&r, 1, 3), .h = ops_pick(&r, 1, 25), .w = ops_pick(&r, 1, 25)};
        t.c = i & 1 ? ops_pick(&r, 1, 70) : edges[ops_pick(&r, 0, 5)];
        t.k = i & 2 ? ops_pick(&r, 1, 70) : edges[ops_pick(&r, 0, 5)];
        t.kernel = kernels[ops_pick(&r, 0, 10)];
        t.stride = i % 10 ? ops_pick(&r, 1, 2) : ops_pick(&r, 1, 5);
        t.padding = ops_pick(&r, 0, 3) ? t.kernel / 2 : ops_pick(&r, 0, t.kernel);
        t.bias = ops_pick(&r, 0, 1);
        t.residual = ops_pick(&r, 0, 1);
        t.dense = ops_pick(&r, 0, 1);
        if (t.kernel == 15 && t.c * t.k > 300) t.c = t.k = 4;
        if (t.h + 2 * t.padding >= t.kernel && t.w + 2 * t.padding >= t.kernel) grads_run_conv(&t, &r);
    }
    ops_stop_pools();
}

/* Sizes at which pieces, bands, panels and blocks are more than one. */
static void test_grads_blocked(void) {
    static const ops_case cases[] = {
        {1, 40, 52, 32, 48, 3, 1, 1, NET_LINEAR, true, false, true}, {2, 20, 20, 128, 70, 3, 1, 1, NET_LINEAR, false, true, false},
        {1, 20, 20, 150, 24, 3, 1, 1, NET_LINEAR, false, false, true}, {1, 37, 90, 80, 40, 3, 2, 1, NET_LINEAR, false, true, true},
        {2, 40, 41, 64, 50, 1, 1, 0, NET_LINEAR, true, false, false}, {2, 96, 64, 3, 16, 3, 2, 1, NET_LINEAR, false, false, true},
        {3, 64, 64, 16, 16, 3, 1, 1, NET_LINEAR, true, true, false}, {1, 61, 67, 17, 33, 6, 2, 2, NET_LINEAR, false, false, true},
        {5, 7, 300, 24, 8, 3, 2, 1, NET_LINEAR, false, false, false}, {1, 1, 700, 40, 33, 1, 1, 0, NET_LINEAR, true, true, true}};
    rng r = {25, 0};
    ops_start_pools();
    for (int i = 0; i < YOLO_COUNT(cases); i++) grads_run_conv(&cases[i], &r);
    ops_stop_pools();
}

/* New weights into a convolution are what creating it with them gives. */
static void test_grads_repack(void) {
    rng r = {26, 0};
    ops_start_pools();
    for (int i = 0; i < 40; i++) {
        const int c = ops_pick(&r, 1, 70), k = ops_pick(&r, 1, 70), kernel = i & 1 ? 3 : 1, stride = i & 2 ? 2 : 1;
        const int64_t count = (int64_t)k * kernel * kernel * c;
        float *weight = malloc((size_t)count * sizeof(float)), *zeros = calloc((size_t)count, sizeof(float));
        for (int64_t j = 0; j < count; j++) weight[j] = ops_random(&r);
        for (int isa = OP_PORTABLE; isa <= (int)op_isa_best(); isa++) {
            op_conv a, b;
            yolo_error error;
            CHECK(op_conv_create(&a, (op_isa)isa, c, k, kernel, stride, kernel / 2, NET_LINEAR, weight, NULL, &error) == YOLO_OK);
            CHECK(op_conv_create(&b, (op_isa)isa, c, k, kernel, stride, kernel / 2, NET_LINEAR, zeros, NULL, &error) == YOLO_OK);
            op_conv_repack(&b, weight, ops_pools[i % 3]);
            const int64_t taps = a.winograd ? OP_FREQUENCIES : kernel * kernel, last = op_panel_vectors(&a, a.panels - 1) * a.kernels->vector;
            const int64_t floats = ((int64_t)(a.panels - 1) * 2 * a.kernels->vector + last) * taps * c;
            CHECK(!memcmp(a.weight, b.weight, (size_t)floats * sizeof(float)));
            op_conv_destroy(&a), op_conv_destroy(&b);
        }
        free(weight), free(zeros);
    }
    ops_stop_pools();
}

static void test_grads_out_of_memory(void) {
    for (int nth = 1; nth <= 2; nth++) {
        op_dgrad dgrad;
        yolo_error error;
        os_atomic_set(&mem_fail_after, nth);
        CHECK(op_dgrad_create(&dgrad, OP_PORTABLE, 16, 16, 3, 1, 1, &error) == YOLO_ERROR_MEMORY);
        os_atomic_set(&mem_fail_after, 0);
        op_dgrad_destroy(&dgrad);
    }
}

static const test_case tests_grads[] = {
    {"conv-random", "gradients of convolutions of odd shapes against double precision; slices, threads, instruction sets", test_grads_random},
    {"conv-blocked", "convolutions large enough to be cut into pieces", test_grads_blocked},
    {"conv-repack", "other weights into a convolution that is there", test_grads_repack},
    {"conv-out-of-memory", "a failed allocation is reported and nothing leaks", test_grads_out_of_memory},
};
