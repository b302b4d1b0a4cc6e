/* gpu_elementwise.c - sections K4 to K7 of kernels.cu against sections 14 and 20 of yolo.c: pictures, copies, upsampling, pooling,
   batch norm; every type, views aligned and not, each operator twice. Uses the helpers of gpu_common.c. */

typedef struct elements_shape { int n, h, w, c, pixel, channel; } elements_shape;

static const elements_shape elements_shapes[] = {
    {1, 1, 1, 1, 1, 0}, {3, 5, 7, 3, 3, 0}, {1, 4, 6, 8, 8, 0},    {1, 3, 5, 12, 16, 2},   {3, 4, 5, 16, 48, 16},
    {1, 9, 7, 80, 96, 8}, {2, 6, 5, 24, 25, 1}, {1, 1, 3, 130, 130, 0}, {1, 1, 2, 1040, 1040, 0}, {1, 17, 33, 16, 16, 0}};

static const char *const elements_names[] = {"f32", "f16", "bf16"};

static gpu_block elements_tensor(elements_shape s, yg_type type) { return gpu_tensor(s.n, s.h, s.w, s.c, s.pixel, s.channel, type); }

static size_t elements_count(elements_shape s) { return (size_t)s.n * (size_t)s.h * (size_t)s.w * (size_t)s.c; }

/* A tensor of these values. */
static gpu_block elements_of(elements_shape s, yg_type type, const float *values) {
    gpu_block b = elements_tensor(s, type);
    gpu_write(&b, values);
    return b;
}

static ten elements_ten(float *values, elements_shape s) { return gpu_ten(values, s.n, s.h, s.w, s.c); }

/* The tensor against what is wanted, rounded to its type once: bit for bit. Frees neither. */
static void elements_exact(const char *what, const gpu_block *have, const float *want) {
    float *values = gpu_read(have);
    size_t wrong = 0;
    for (size_t i = 0; i < gpu_count(&have->t); i++) {
        const float rounded = gpu_round(want[i], have->t.type);
        wrong += !(values[i] == rounded || (values[i] != values[i] && rounded != rounded));
    }
    CHECK_MSG(wrong == 0, "%s, %s: %zu of %zu elements of %dx%dx%dx%d are not as wanted", what, elements_names[have->t.type], wrong,
              gpu_count(&have->t), have->t.n, have->t.h, have->t.w, have->t.c);
    mem_free(values);
}

/* The tensor against what is wanted, with the error that rounding to its type has. */
static void elements_near(const char *what, const gpu_block *have, const float *want) {
    static const double energy[] = {1e-11, 1e-6, 5e-5}, largest[] = {1e-5, 1e-3, 8e-3};
    float *values = gpu_read(have);
    char name[100];
    snprintf(name, sizeof name, "%s, %s, %dx%dx%dx%d", what, elements_names[have->t.type], have->t.n, have->t.h, have->t.w, have->t.c);
    gpu_compare(name, values, want, gpu_count(&have->t), energy[have->t.type], largest[have->t.type]);
    mem_free(values);
}

/* Of a batch of one pixel the gradient is 0, as a difference of two equal numbers whose products may be rounded apart. */
static void elements_nothing(const gpu_block *have, float brought) {
    float *values = gpu_read(have);
    for (size_t i = 0; i < gpu_count(&have->t); i++) CHECK_MSG(fabsf(values[i]) <= 1e-5f * brought, "gradient of one pixel: %g of %g", (double)values[i], (double)brought);
    mem_free(values);
}

static void elements_same(const char *what, const void *a, const void *b, size_t bytes) {
    uint8_t *one = mem_alloc(bytes), *two = mem_alloc(bytes);
    yg_download(gpu_device(), one, a, bytes);
    yg_download(gpu_device(), two, b, bytes);
    gpu_finish();
    CHECK_MSG(!memcmp(one, two, bytes), "%s: two runs, different bits", what);
    mem_free(one);
    mem_free(two);
}

/* ---- pictures and floats ---- */

static void elements_pixels_case(yg_type type, int n, int in_h, int in_w, elements_shape s) {
    rng r = {.key = 7};
    const size_t bytes = (size_t)n * (size_t)in_h * (size_t)in_w * 3;
    uint8_t *pixels = mem_alloc(bytes), *device = yg_alloc(gpu_device(), bytes);
    for (size_t i = 0; i < bytes; i++) pixels[i] = (uint8_t)(256 * rng_uniform(&r));
    for (int i = 0; i < 256 && (size_t)i < bytes; i++) pixels[i] = (uint8_t)i;
    const dl_batch batch = {.pixels = pixels, .n = n, .h = in_h, .w = in_w};
    float *three = mem_array(elements_count(s), sizeof *three), *want = mem_array(elements_count(s), sizeof *want);
    dl_floats(&batch, three, s.h, s.w, NULL);
    for (size_t i = 0; i < elements_count(s); i++) want[i] = i % (size_t)s.c < 3 ? three[i / (size_t)s.c * 3 + i % (size_t)s.c] : 0;
    gpu_block out = elements_tensor(s, type), again = elements_tensor(s, type);
    yg_upload(gpu_device(), device, pixels, bytes);
    yg_pixels(gpu_device(), &out.t, device, in_h, in_w);
    yg_pixels(gpu_device(), &again.t, device, in_h, in_w);
    gpu_finish();
    if (in_h == s.h && in_w == s.w) elements_exact("pixels", &out, want);
    else elements_near("pixels resized", &out, want);
    elements_same("pixels", out.memory, again.memory, out.bytes);
    gpu_free(&out), gpu_free(&again), yg_free(gpu_device(), device);
    mem_free(pixels), mem_free(three), mem_free(want);
}

static void test_elements_pixels(void) {
    for (int type = YG_F32; type <= YG_BF16; type++) {
        elements_pixels_case((yg_type)type, 1, 12, 9, (elements_shape){1, 12, 9, 8, 8, 0});
        elements_pixels_case((yg_type)type, 3, 1, 1, (elements_shape){3, 1, 1, 3, 3, 0});
        elements_pixels_case((yg_type)type, 2, 5, 300, (elements_shape){2, 5, 300, 4, 4, 0});
        elements_pixels_case((yg_type)type, 2, 6, 7, (elements_shape){2, 9, 5, 8, 16, 8});
        elements_pixels_case((yg_type)type, 1, 30, 20, (elements_shape){1, 13, 11, 16, 16, 0});
        elements_pixels_case((yg_type)type, 2, 4, 4, (elements_shape){2, 11, 16, 5, 7, 1});
    }
}

static void test_elements_floats(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int i = 0; i < YOLO_COUNT(elements_shapes); i++) {
            const elements_shape s = elements_shapes[i];
            const int c = i & 1 ? s.c : YOLO_MAX(1, s.c - 2); /* the rest becomes 0 */
            const size_t count = elements_count(s) / (size_t)s.c * (size_t)c;
            float *values = gpu_random(count, 11 + (uint64_t)i, YG_F32), *want = mem_array(elements_count(s), sizeof *want);
            for (size_t j = 0; j < elements_count(s); j++)
                want[j] = (int)(j % (size_t)s.c) < c ? gpu_round(values[j / (size_t)s.c * (size_t)c + j % (size_t)s.c], (yg_type)type) : 0;
            float *in = gpu_floats(values, count), *out = gpu_floats(NULL, elements_count(s));
            gpu_block t = elements_tensor(s, (yg_type)type);
            yg_from_floats(gpu_device(), &t.t, in, c);
            yg_to_floats(gpu_device(), out, &t.t);
            gpu_finish();
            elements_exact("from floats", &t, want);
            float *back = gpu_floats_read(out, elements_count(s));
            CHECK(!memcmp(back, want, elements_count(s) * sizeof *want));
            memset(want, 0, elements_count(s) * sizeof *want);
            yg_zero(gpu_device(), &t.t);
            elements_exact("zeros", &t, want);
            yg_free(gpu_device(), in), yg_free(gpu_device(), out), gpu_free(&t);
            mem_free(values), mem_free(want), mem_free(back);
        }
}

/* ---- copies and upsampling ---- */

static void elements_copy_case(yg_type type, elements_shape s, elements_shape other, bool twice) {
    elements_shape large = other;
    if (twice) large.h *= 2, large.w *= 2;
    float *in = gpu_random(elements_count(s), 21, type), *d_in = gpu_random(elements_count(s), 22, type), *d_out = gpu_random(elements_count(large), 23, type);
    float *out = mem_array(elements_count(large), sizeof *out);
    ten in_ten = elements_ten(in, s), d_in_ten = elements_ten(d_in, s), out_ten = elements_ten(out, large), d_out_ten = elements_ten(d_out, large);
    gpu_block from = elements_of(s, type, in), to = elements_tensor(large, type), d_to = elements_of(large, type, d_out);
    gpu_block d_set = elements_tensor(s, type), d_added = elements_of(s, type, d_in), again = elements_of(s, type, d_in);
    yg_gpu *gpu = gpu_device();
    if (twice) {
        yg_upsample2_fwd(gpu, &to.t, &from.t);
        yg_upsample2_bwd(gpu, &d_set.t, &d_to.t, false);
        yg_upsample2_bwd(gpu, &d_added.t, &d_to.t, true);
        yg_upsample2_bwd(gpu, &again.t, &d_to.t, true);
        op_upsample2_fwd(&out_ten, &in_ten, NULL);
        op_upsample2_bwd(&d_in_ten, &d_out_ten, true, OP_PORTABLE, NULL);
    } else {
        yg_copy_fwd(gpu, &to.t, &from.t);
        yg_copy_bwd(gpu, &d_set.t, &d_to.t, false);
        yg_copy_bwd(gpu, &d_added.t, &d_to.t, true);
        yg_copy_bwd(gpu, &again.t, &d_to.t, true);
        op_copy_fwd(&out_ten, &in_ten, NULL);
        op_copy_bwd(&d_in_ten, &d_out_ten, true, OP_PORTABLE, NULL);
    }
    gpu_finish();
    elements_exact(twice ? "upsampling" : "copy", &to, out);
    elements_exact("gradient added", &d_added, d_in);
    elements_same("gradient added", d_added.memory, again.memory, again.bytes);
    if (twice) op_upsample2_bwd(&d_in_ten, &d_out_ten, false, OP_PORTABLE, NULL);
    else op_copy_bwd(&d_in_ten, &d_out_ten, false, OP_PORTABLE, NULL);
    elements_exact("gradient", &d_set, d_in);
    gpu_free(&from), gpu_free(&to), gpu_free(&d_to), gpu_free(&d_set), gpu_free(&d_added), gpu_free(&again);
    mem_free(in), mem_free(out), mem_free(d_in), mem_free(d_out);
}

static void elements_copy_cases(bool twice) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int i = 0; i < YOLO_COUNT(elements_shapes); i++) {
            const elements_shape s = elements_shapes[i];
            elements_shape other = s; /* the same in another view: dense, or with more behind */
            other.pixel = i & 1 ? s.c : s.c + 8, other.channel = 0;
            elements_copy_case((yg_type)type, s, other, twice);
        }
}

static void test_elements_copy(void) { elements_copy_cases(false); }
static void test_elements_upsample2(void) { elements_copy_cases(true); }

/* ---- pooling ---- */

typedef struct elements_pool { elements_shape in; int kernel, stride, padding; } elements_pool;

static const elements_pool elements_pools[] = {
    {{1, 20, 20, 16, 48, 16}, 5, 1, 2}, {{3, 7, 5, 24, 24, 0}, 5, 1, 2}, {{1, 1, 1, 8, 8, 0}, 5, 1, 2},  {{2, 6, 9, 3, 5, 1}, 5, 1, 2},
    {{1, 11, 13, 8, 8, 0}, 9, 1, 4},    {{1, 9, 8, 1, 1, 0}, 13, 1, 6},  {{1, 10, 9, 16, 16, 0}, 3, 2, 1}, {{2, 8, 6, 12, 12, 0}, 2, 2, 0},
    {{1, 5, 7, 8, 8, 0}, 2, 1, 1},      {{1, 7, 6, 40, 40, 0}, 4, 1, 2}, {{1, 13, 12, 8, 8, 0}, 5, 2, 2},  {{1, 18, 6, 8, 8, 0}, 17, 1, 8},
    {{1, 40, 66, 16, 16, 0}, 5, 1, 2},  {{1, 2, 1040, 8, 8, 0}, 5, 1, 2}, {{1, 20, 7, 80, 80, 0}, 4, 3, 1}, {{1, 9, 9, 8, 8, 0}, 4, 6, 0},
    {{1, 1, 1, 1, 1, 0}, 1, 1, 0}};

static elements_shape elements_pooled(const elements_pool *p) {
    elements_shape out = p->in;
    out.h = (p->in.h + 2 * p->padding - p->kernel) / p->stride + 1;
    out.w = (p->in.w + 2 * p->padding - p->kernel) / p->stride + 1;
    out.pixel = out.c + (out.c == 3 ? 1 : 8);
    out.channel = 0;
    return out;
}

static void elements_pool_case(yg_type type, const elements_pool *p, bool ties) {
    const elements_shape small = elements_pooled(p);
    elements_shape d_shape = p->in;
    d_shape.pixel = p->in.pixel + 16;
    float *in = gpu_random(elements_count(p->in), 31, type), *d_in = gpu_random(elements_count(p->in), 32, type), *d_out = gpu_random(elements_count(small), 33, type);
    float *out = mem_array(elements_count(small), sizeof *out);
    for (size_t i = 0; ties && i < elements_count(p->in); i++) in[i] = floorf(2 * in[i]) / 2;
    if (ties) in[elements_count(p->in) / 2] = -INFINITY;
    ten in_ten = elements_ten(in, p->in), d_in_ten = elements_ten(d_in, p->in), out_ten = elements_ten(out, small), d_out_ten = elements_ten(d_out, small);
    gpu_block from = elements_of(p->in, type, in), to = elements_tensor(small, type), d_to = elements_of(small, type, d_out);
    gpu_block d_from = elements_of(d_shape, type, d_in), again = elements_of(d_shape, type, d_in), to_again = elements_tensor(small, type);
    yg_gpu *gpu = gpu_device();
    yg_maxpool_fwd(gpu, &to.t, &from.t, p->kernel, p->stride, p->padding);
    yg_maxpool_fwd(gpu, &to_again.t, &from.t, p->kernel, p->stride, p->padding);
    yg_maxpool_bwd(gpu, &d_from.t, &d_to.t, &from.t, &to.t, p->kernel, p->stride, p->padding);
    yg_maxpool_bwd(gpu, &again.t, &d_to.t, &from.t, &to.t, p->kernel, p->stride, p->padding);
    gpu_finish();
    op_maxpool_fwd(&out_ten, &in_ten, OP_PORTABLE, p->kernel, p->stride, p->padding, NULL);
    op_maxpool_bwd(&d_in_ten, &d_out_ten, &in_ten, &out_ten, OP_PORTABLE, p->kernel, p->stride, p->padding, NULL);
    char name[64];
    snprintf(name, sizeof name, "pooling %d/%d/%d", p->kernel, p->stride, p->padding);
    elements_exact(name, &to, out);
    elements_exact(name, &d_from, d_in);
    elements_same(name, to.memory, to_again.memory, to.bytes);
    elements_same(name, d_from.memory, again.memory, again.bytes);
    gpu_free(&from), gpu_free(&to), gpu_free(&to_again), gpu_free(&d_to), gpu_free(&d_from), gpu_free(&again);
    mem_free(in), mem_free(out), mem_free(d_in), mem_free(d_out);
}

static void test_elements_maxpool(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int i = 0; i < YOLO_COUNT(elements_pools); i++) elements_pool_case((yg_type)type, &elements_pools[i], false);
}

static void test_elements_maxpool_ties(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int i = 0; i < YOLO_COUNT(elements_pools); i++) elements_pool_case((yg_type)type, &elements_pools[i], true);
}

/* A NaN is the largest of its windows, forward; backward such windows give their gradient to nobody, as on the CPU. */
static void test_elements_maxpool_nan(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int kernel = 2; kernel <= 5; kernel += 3) {
            const elements_pool p = {{1, 9, 8, 8, 8, 0}, kernel, 1, kernel / 2};
            const elements_shape small = elements_pooled(&p);
            float *in = gpu_random(elements_count(p.in), 41, (yg_type)type), *out = mem_array(elements_count(small), sizeof *out);
            float *d_in = gpu_random(elements_count(p.in), 42, (yg_type)type), *d_out = gpu_random(elements_count(small), 43, (yg_type)type);
            in[0] = in[8 * 30 + 3] = in[8 * 31 + 3] = NAN;
            ten in_ten = elements_ten(in, p.in), d_in_ten = elements_ten(d_in, p.in), out_ten = elements_ten(out, small), d_out_ten = elements_ten(d_out, small);
            gpu_block from = elements_of(p.in, (yg_type)type, in), to = elements_tensor(small, (yg_type)type);
            gpu_block d_from = elements_of(p.in, (yg_type)type, d_in), d_to = elements_of(small, (yg_type)type, d_out);
            yg_maxpool_fwd(gpu_device(), &to.t, &from.t, kernel, 1, kernel / 2);
            yg_maxpool_bwd(gpu_device(), &d_from.t, &d_to.t, &from.t, &to.t, kernel, 1, kernel / 2);
            op_maxpool_fwd(&out_ten, &in_ten, OP_PORTABLE, kernel, 1, kernel / 2, NULL);
            op_maxpool_bwd(&d_in_ten, &d_out_ten, &in_ten, &out_ten, OP_PORTABLE, kernel, 1, kernel / 2, NULL);
            elements_exact("pooling of NaN", &to, out);
            elements_exact("gradient of pooling of NaN", &d_from, d_in);
            gpu_free(&from), gpu_free(&to), gpu_free(&d_from), gpu_free(&d_to);
            mem_free(in), mem_free(out), mem_free(d_in), mem_free(d_out);
        }
}

/* ---- batch norm ---- */

typedef struct elements_norm { /* one on each side, with its parameters */
    int channels;
    op_norm host;
    yg_norm device;
    float *host_memory, *device_memory;            /* of the arrays */
    float *gamma, *beta, *mean, *variance, *grads; /* host; grads: d_gamma, d_beta */
    float *rows;                                   /* device: gamma, beta, mean, variance, d_gamma, d_beta, batches */
    yg_norm_rows device_rows;
} elements_norm;

static elements_norm elements_norm_make(int channels, net_activation activation, uint64_t seed) {
    elements_norm t = {.channels = channels};
    const size_t count = (size_t)channels;
    const float slope = 0.1f;
    t.host_memory = mem_alloc((size_t)(OP_NORM_ARRAYS * op_align(channels)) * sizeof(float));
    op_norm_place(&t.host, channels, activation, slope, t.host_memory);
    t.gamma = gpu_random(6 * count + 1, seed, YG_F32);
    t.beta = t.gamma + count, t.mean = t.beta + count, t.variance = t.mean + count, t.grads = t.variance + count;
    for (int c = 0; c < channels; c++) t.gamma[c] += 0.5f, t.variance[c] = fabsf(t.variance[c]) + 0.1f;
    t.grads[2 * channels] = 3;
    t.rows = gpu_floats(t.gamma, 6 * count + 1);
    t.device_rows = (yg_norm_rows){t.rows, t.rows + count, t.rows + 2 * count, t.rows + 3 * count, t.rows + 6 * count};
    float *garbage = gpu_random(6 * count, seed, YG_F32);
    t.device_memory = gpu_floats(garbage, 6 * count);
    t.device = (yg_norm){channels, (yg_activation)activation, slope, t.device_memory, t.device_memory + count, t.device_memory + 2 * count,
                         t.device_memory + 3 * count, t.device_memory + 4 * count, t.device_memory + 5 * count};
    mem_free(garbage);
    return t;
}

static void elements_norm_free(elements_norm *t) {
    yg_free(gpu_device(), t->rows), yg_free(gpu_device(), t->device_memory);
    mem_free(t->host_memory), mem_free(t->gamma);
}

/* Arrays, running statistics and gradients of both sides. A mean's last bit, where the variance is small beside it, moves the sum of
   g * (z - mean) and so d_mean and d_gamma by much more than their own last bits. */
static void elements_norm_check(const elements_norm *t, const char *what, float batches) {
    static const char *const names[] = {"mean", "inverse", "scale", "shift", "d_shift", "d_mean", "gamma", "beta", "running mean", "running variance", "d_gamma", "d_beta"};
    const size_t count = (size_t)t->channels;
    const float *host[] = {t->host.mean, t->host.inverse, t->host.scale, t->host.shift, t->host.d_shift, t->host.d_mean,
                           t->gamma, t->beta, t->mean, t->variance, t->grads, t->grads + count};
    float *arrays = gpu_floats_read(t->device_memory, 6 * count), *rows = gpu_floats_read(t->rows, 6 * count + 1);
    for (int i = 0; i < YOLO_COUNT(names); i++) {
        char name[100];
        snprintf(name, sizeof name, "%s: %s of %d channels", what, names[i], t->channels);
        gpu_compare(name, i < 6 ? arrays + (size_t)i * count : rows + (size_t)(i - 6) * count, host[i], count, i == 5 || i == 10 ? 1e-8 : 1e-10, i == 5 || i == 10 ? 1e-4 : 2e-5);
    }
    CHECK_MSG(rows[6 * count] == batches, "%s: %g batches", what, (double)rows[6 * count]);
    mem_free(arrays), mem_free(rows);
}

/* Moments as a convolution leaves them: tiles of 128 pixels. */
static float *elements_moments(const float *z, int64_t pixels, int channels, int64_t each) {
    const int64_t tiles = (pixels + each - 1) / each;
    float *moments = mem_array((uint64_t)(tiles * 2 * channels), sizeof *moments);
    for (int64_t t = 0; t < tiles; t++)
        for (int c = 0; c < channels; c++) {
            const int64_t end = YOLO_MIN(pixels, (t + 1) * each);
            double sum = 0, squares = 0;
            for (int64_t p = t * each; p < end; p++) sum += (double)z[p * channels + c];
            const double mean = sum / (double)(end - t * each);
            for (int64_t p = t * each; p < end; p++) squares += ((double)z[p * channels + c] - mean) * ((double)z[p * channels + c] - mean);
            moments[t * 2 * channels + c] = (float)mean;
            moments[(t * 2 + 1) * channels + c] = (float)squares;
        }
    return moments;
}

/* What the batch is: noise around an offset, a channel in 4 nearly constant. */
static float *elements_batch(elements_shape s, yg_type type, uint64_t seed) {
    float *z = gpu_random(elements_count(s), seed, YG_F32);
    for (size_t i = 0; i < elements_count(s); i++) {
        const int c = (int)(i % (size_t)s.c);
        z[i] = gpu_round((c % 4 == 3 ? 0.02f : 2.0f) * z[i] + 0.5f * (float)(c % 7 - 3), type);
    }
    return z;
}

/* Statistics, forward and backward of a batch on both sides; twice on the device. */
static void elements_norm_case(yg_type type, elements_shape s, net_activation activation, bool frozen, bool moments, int residual) {
    yg_gpu *gpu = gpu_device();
    const size_t count = elements_count(s);
    elements_shape dense = s, other = s;
    dense.pixel = s.c, dense.channel = 0;
    other.pixel = s.c + 24, other.channel = 16;
    float *z = elements_batch(s, type, 51), *more = gpu_random(count, 52, type), *d = gpu_random(count, 53, type), *d_more = gpu_random(count, 54, type);
    float *out = mem_array(count, sizeof *out), *left = elements_moments(z, (int64_t)s.n * s.h * s.w, s.c, 128);
    float *device_left = gpu_floats(left, (size_t)((s.n * s.h * s.w + 127) / 128) * 2 * (size_t)s.c);
    elements_norm t = elements_norm_make(s.c, activation, 55), again = elements_norm_make(s.c, activation, 55);
    gpu_block z_block = elements_of(dense, type, z), more_block = elements_of(other, type, more);
    gpu_block out_block = elements_tensor(s, type), d_block[2] = {elements_of(other, type, d), elements_of(other, type, d)};
    gpu_block d_more_block = elements_of(s, type, d_more);
    for (int run = 0; run < 2; run++) {
        elements_norm *norm = run ? &again : &t;
        if (frozen) yg_norm_frozen(gpu, &norm->device, &norm->device_rows, 1e-3);
        else yg_norm_measure(gpu, &norm->device, &norm->device_rows, &z_block.t, moments ? device_left : NULL, 1e-3, 0.03);
        yg_norm_fwd(gpu, &out_block.t, &z_block.t, &norm->device, residual ? &more_block.t : NULL);
        if (!frozen) yg_norm_sums(gpu, &norm->device, norm->rows + 4 * s.c, norm->rows + 5 * s.c, NULL, &d_block[run].t, &z_block.t);
        yg_norm_bwd(gpu, &d_block[run].t, residual && !run ? &d_more_block.t : NULL, residual == 2, &z_block.t, &norm->device);
    }
    gpu_finish();
    ten z_ten = elements_ten(z, s), out_ten = elements_ten(out, s), d_ten = elements_ten(d, s), more_ten = elements_ten(more, s), d_more_ten = elements_ten(d_more, s);
    void *workspace = mem_alloc(op_norm_workspace(s.c, s.n, s.h, s.w));
    if (!frozen) {
        op_norm_moments(&t.host, &z_ten, 0, s.n, OP_PORTABLE, workspace, NULL);
        op_norm_measure(&t.host, op_norm_statistics(&t.host, &z_ten, workspace), t.gamma, t.beta, t.mean, t.variance, 1e-3, 0.03);
    } else
        for (int c = 0; c < s.c; c++) op_norm_set(&t.host, c, t.mean[c], t.variance[c], 1e-3, t.gamma[c], t.beta[c]);
    op_norm_fwd(&out_ten, &z_ten, &t.host, residual ? &more_ten : NULL, OP_PORTABLE, NULL);
    if (!frozen) op_norm_spread(&t.host, op_norm_sums(&t.host, t.grads, t.grads + s.c, &d_ten, &z_ten, OP_PORTABLE, workspace, NULL));
    op_norm_bwd(&d_ten, residual ? &d_more_ten : NULL, residual == 2, &z_ten, &t.host, OP_PORTABLE, NULL);
    elements_norm_check(&t, elements_names[type], frozen ? 3 : 4);
    elements_near("batch norm", &out_block, out);
    if (s.n * s.h * s.w > 1 || frozen) elements_near("gradient of a batch norm", &d_block[0], d);
    else elements_nothing(&d_block[0], 32 * fabsf(t.gamma[0])); /* 1 / sqrt(eps) */
    if (residual) elements_exact("gradient of a residual", &d_more_block, d_more);
    elements_same("batch norm", t.device_memory, again.device_memory, 6 * (size_t)s.c * sizeof(float));
    elements_same("rows of a batch norm", t.rows, again.rows, (6 * (size_t)s.c + 1) * sizeof(float));
    elements_same("gradient of a batch norm", d_block[0].memory, d_block[1].memory, d_block[0].bytes);
    gpu_free(&z_block), gpu_free(&more_block), gpu_free(&out_block), gpu_free(&d_block[0]), gpu_free(&d_block[1]), gpu_free(&d_more_block);
    yg_free(gpu, device_left), elements_norm_free(&t), elements_norm_free(&again);
    mem_free(z), mem_free(more), mem_free(d), mem_free(d_more), mem_free(out), mem_free(left), mem_free(workspace);
}

static void test_elements_norm(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int i = 0; i < YOLO_COUNT(elements_shapes); i++)
            elements_norm_case((yg_type)type, elements_shapes[i], i % 3 ? NET_SILU : NET_LINEAR, false, i & 1, i % 3);
}

static void test_elements_norm_frozen(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int i = 2; i < 5; i++) elements_norm_case((yg_type)type, elements_shapes[i], NET_SILU, true, false, i % 3);
}

/* Many pixels of few channels and few pixels of many: one block, and more tiles than threads that merge them. */
static void test_elements_norm_shapes(void) {
    elements_norm_case(YG_F16, (elements_shape){1, 160, 120, 16, 16, 0}, NET_SILU, false, true, 0);
    elements_norm_case(YG_F16, (elements_shape){2, 97, 101, 8, 8, 0}, NET_SILU, false, false, 0);
    elements_norm_case(YG_BF16, (elements_shape){1, 5, 4, 640, 640, 0}, NET_SILU, false, false, 1);
    elements_norm_case(YG_F32, (elements_shape){3, 7, 13, 320, 328, 8}, NET_SILU, false, true, 2);
}

static void test_elements_norm_activations(void) {
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int activation = NET_LINEAR; activation <= NET_MISH; activation++)
            elements_norm_case((yg_type)type, (elements_shape){2, 5, 9, activation & 1 ? 16 : 7, 24, 0}, (net_activation)activation, false, false, 1);
}

/* Forward and backward of single numbers, where exp would overflow or all digits cancel. */
static void test_elements_norm_extremes(void) {
    const float values[] = {-60000, -1000, -100, -88.75f, -80.5f, -80, -30, -20, -12, -5, -1.25f, -0.0625f, -0.0f, 0, 0.0625f, 1, 3, 12, 19.5f, 20, 20.5f, 50, 80, 88.75f, 100, 1000, 60000, NAN};
    enum { COUNT = YOLO_COUNT(values) };
    const elements_shape s = {1, 1, COUNT, 8, 8, 0};
    for (int type = YG_F32; type <= YG_BF16; type++)
        for (int activation = NET_LINEAR; activation <= NET_MISH; activation++) {
            elements_norm t = elements_norm_make(8, (net_activation)activation, 61);
            const float plain[4][8] = {{1, 1, 1, 1, 1, 1, 1, 1}, {0}, {0}, {1, 1, 1, 1, 1, 1, 1, 1}};
            float z[COUNT * 8], out[COUNT * 8], d[COUNT * 8];
            for (int i = 0; i < COUNT * 8; i++) z[i] = gpu_round(values[i / 8], (yg_type)type), d[i] = 1;
            for (int c = 0; c < 8; c++) op_norm_set(&t.host, c, 0, 1, 0, 1, 0);
            yg_upload(gpu_device(), t.rows, plain, sizeof plain);
            gpu_block z_block = elements_of(s, (yg_type)type, z), d_block = elements_of(s, (yg_type)type, d);
            yg_norm_frozen(gpu_device(), &t.device, &t.device_rows, 0);
            yg_norm_bwd(gpu_device(), &d_block.t, NULL, false, &z_block.t, &t.device);
            yg_norm_fwd(gpu_device(), &z_block.t, &z_block.t, &t.device, NULL); /* in place */
            gpu_finish();
            ten z_ten = elements_ten(z, s), out_ten = elements_ten(out, s), d_ten = elements_ten(d, s);
            op_norm_fwd(&out_ten, &z_ten, &t.host, NULL, OP_PORTABLE, NULL);
            op_norm_bwd(&d_ten, NULL, false, &z_ten, &t.host, OP_PORTABLE, NULL);
            float *have = gpu_read(&z_block), *d_have = gpu_read(&d_block);
            const double relative = type == YG_F32 ? 4e-6 : type == YG_F16 ? 6e-4 : 5e-3, least = 1e-6;
            for (int i = 0; i < COUNT * 8; i += 8) {
                const bool nan = values[i / 8] != values[i / 8];
                const float want = nan ? NAN : gpu_round(out[i], (yg_type)type);
                if (nan && activation != NET_RELU && activation != NET_LEAKYRELU) CHECK(have[i] != have[i] && (d_have[i] != d_have[i] || activation == NET_LINEAR));
                else if (nan) CHECK(have[i] != have[i]);
                else CHECK_MSG(fabs((double)have[i] - (double)want) <= relative * fabs((double)want) + least && fabs((double)d_have[i] - (double)d[i]) <= relative * fabs((double)d[i]) + least,
                               "activation %d, %s of %g: %.9g for %.9g, %.9g for %.9g", activation, elements_names[type], (double)z[i], (double)have[i], (double)want, (double)d_have[i], (double)d[i]);
            }
            gpu_free(&z_block), gpu_free(&d_block), elements_norm_free(&t);
            mem_free(have), mem_free(d_have);
        }
}

/* Variances that are small beside the mean, as a bias before a norm makes them, and more tiles than one kernel merges. */
static void test_elements_norm_merge(void) {
    const int channels = 3, height = 700, width = 401;
    const int64_t pixels = (int64_t)height * width, tiles = (pixels + 127) / 128;
    elements_norm t = elements_norm_make(channels, NET_SILU, 71);
    rng r = {.key = 72};
    float *moments = mem_array((uint64_t)(tiles * 2 * channels), sizeof *moments);
    double sum[3] = {0}, squares[3] = {0};
    for (int64_t i = 0; i < tiles; i++)
        for (int c = 0; c < channels; c++) {
            moments[i * 2 * channels + c] = 100 + 0.1f * (float)rng_uniform(&r);
            moments[(i * 2 + 1) * channels + c] = (float)rng_uniform(&r);
        }
    for (int step = 0; step < 2; step++)
        for (int64_t i = 0; i < tiles; i++)
            for (int c = 0; c < channels; c++) {
                const double count = (double)YOLO_MIN(128, pixels - i * 128), mean = (double)moments[i * 2 * channels + c], off = mean - sum[c] / (double)pixels;
                if (!step) sum[c] += count * mean;
                else squares[c] += (double)moments[(i * 2 + 1) * channels + c] + count * off * off;
            }
    float *device = gpu_floats(moments, (size_t)(tiles * 2 * channels));
    const yg_ten z = {NULL, 1, height, width, channels, channels, YG_F32};
    yg_norm_measure(gpu_device(), &t.device, &t.device_rows, &z, device, 1e-5, 0.1);
    gpu_finish();
    for (int c = 0; c < channels; c++) {
        const double mean = sum[c] / (double)pixels, variance = squares[c] / (double)pixels;
        op_norm_set(&t.host, c, mean, variance, 1e-5, t.gamma[c], t.beta[c]);
        t.mean[c] = (float)(t.mean[c] * 0.9 + mean * 0.1);
        t.variance[c] = (float)(t.variance[c] * 0.9 + squares[c] / (double)(pixels - 1) * 0.1);
    }
    elements_norm_check(&t, "merged", 4);
    yg_free(gpu_device(), device), elements_norm_free(&t);
    mem_free(moments);
}

/* Recorded once, replayed twice; with d_gamma and d_beta not wanted. */
static void test_elements_norm_recorded(void) {
    const elements_shape s = {1, 4, 5, 8, 8, 0};
    elements_norm t = elements_norm_make(8, NET_SILU, 81);
    float *z = elements_batch(s, YG_F16, 82);
    gpu_block z_block = elements_of(s, YG_F16, z), d_block = elements_of(s, YG_F16, z);
    yg_record(gpu_device());
    yg_norm_measure(gpu_device(), &t.device, &t.device_rows, &z_block.t, NULL, 1e-3, 0.03);
    yg_norm_sums(gpu_device(), &t.device, NULL, NULL, NULL, &d_block.t, &z_block.t);
    yg_graph *graph = yg_recorded(gpu_device());
    CHECK(graph != NULL);
    yg_replay(gpu_device(), graph);
    yg_replay(gpu_device(), graph);
    gpu_finish();
    float *rows = gpu_floats_read(t.rows, 49);
    CHECK(rows[48] == 5 && !memcmp(rows + 32, t.grads, 16 * sizeof *rows));
    yg_graph_free(graph);
    gpu_free(&z_block), gpu_free(&d_block), elements_norm_free(&t);
    mem_free(z), mem_free(rows);
}

/* Shapes that do not fit are a failure with both in its text, on a device of its own because it sticks. */
static void test_elements_refused(void) {
    for (int i = 0; i < 6; i++) {
        yg_gpu *gpu;
        char reason[256] = "";
        CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
        const yg_norm norm = {.channels = 4};
        const yg_ten a = {NULL, 1, 2, 3, 8, 8, YG_F16}, b = {NULL, 1, 2, 3, 16, 16, YG_F16}, two = {NULL, 1, 2, 3, 2, 2, YG_F16};
        if (i == 0) yg_copy_fwd(gpu, &a, &b);
        else if (i == 1) yg_upsample2_fwd(gpu, &a, &b);
        else if (i == 2) yg_maxpool_fwd(gpu, &a, &a, 3, 1, 2);
        else if (i == 3) yg_maxpool_bwd(gpu, &a, &a, &b, &b, 3, 1, 1);
        else if (i == 4) yg_norm_fwd(gpu, &a, &a, &norm, NULL);
        else yg_pixels(gpu, &two, NULL, 2, 3);
        CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
        CHECK_MSG(strstr(reason, "GPU 0: "), "%s", reason);
        yg_close(gpu);
    }
}

static const test_case tests_gpu_elementwise[] = {
    {"pixels", "bytes become shares of 255, resized as the loader does", test_elements_pixels},
    {"floats", "floats into tensors and back, zeros", test_elements_floats},
    {"copy", "copies and their gradients", test_elements_copy},
    {"upsample2", "upsampling and its gradient", test_elements_upsample2},
    {"maxpool", "max-pooling and its gradient", test_elements_maxpool},
    {"maxpool_ties", "of equally large pixels the first one gets the gradient", test_elements_maxpool_ties},
    {"maxpool_nan", "a NaN comes through max-pooling", test_elements_maxpool_nan},
    {"norm", "batch norm: statistics, forward, gradients", test_elements_norm},
    {"norm_frozen", "batch norm of running statistics", test_elements_norm_frozen},
    {"norm_shapes", "batch norm of many pixels, of many channels", test_elements_norm_shapes},
    {"norm_activations", "batch norm with every activation", test_elements_norm_activations},
    {"norm_extremes", "activations of large numbers and NaN", test_elements_norm_extremes},
    {"norm_merge", "moments of many tiles, variances small beside the mean", test_elements_norm_merge},
    {"norm_recorded", "batch norm is recorded and replayed", test_elements_norm_recorded},
    {"refused", "shapes that do not fit are refused", test_elements_refused},
};
