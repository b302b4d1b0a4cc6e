/* gpu_common.c - what the tests of kernels.cu share: a device, tensors on it between guard bands, comparisons. */

#ifdef TEST_EMULATED
#include "emulate/emulate.h"
#endif

typedef struct gpu_block { yg_ten t; uint8_t *memory; size_t bytes; } gpu_block;

enum { GPU_GUARD = 256 }; /* bytes before and behind a tensor's memory that nobody may write */

static yg_gpu *test_gpu; /* opened by the first test that asks */

static yg_gpu *gpu_device(void) {
    char reason[256];
    if (!test_gpu && yg_open(&test_gpu, 0, reason, sizeof reason)) {
        printf("    %s\n", reason);
        exit(1);
    }
    return test_gpu;
}

/* How yg_gpu begins. The number of multiprocessors decides how the sums are cut, the compute capability which kernel makes them. */
typedef struct gpu_inside { int index, compute, multiprocessors; } gpu_inside;

static gpu_inside *gpu_inside_of(yg_gpu *gpu) {
    yg_device device;
    gpu_inside *own = (gpu_inside *)gpu;
    CHECK(yg_device_get(0, &device, NULL, 0) == 0);
    if (own->index == 0 && own->compute == 10 * device.compute_major + device.compute_minor && own->multiprocessors == device.multiprocessors) return own;
    printf("    yg_gpu begins differently\n");
    exit(1);
}

/* Waits; a failure is a test's. */
static void gpu_finish(void) {
    char reason[256] = "";
    CHECK_MSG(yg_finish(gpu_device(), reason, sizeof reason) == 0, "%s", reason);
}

static size_t gpu_type_size(yg_type type) { return type == YG_F32 ? 4 : 2; }

static float gpu_round(float x, yg_type type) {
    return type == YG_F32 ? x : type == YG_F16 ? f16_from_half(f16_to_half(x)) : f16_from_bfloat(f16_to_bfloat(x));
}

/* A tensor of c channels in pixels of `pixel` elements, beginning at `channel` of them. Guards and the other channels hold 0xA5. */
static gpu_block gpu_tensor(int n, int h, int w, int c, int pixel, int channel, yg_type type) {
    gpu_block b = {0};
    const size_t inner = (size_t)n * (size_t)h * (size_t)w * (size_t)pixel * gpu_type_size(type);
    b.bytes = inner + 2 * GPU_GUARD;
    b.memory = yg_alloc(gpu_device(), b.bytes);
    uint8_t *fill = mem_alloc(b.bytes);
    memset(fill, 0xA5, b.bytes);
    yg_upload(gpu_device(), b.memory, fill, b.bytes);
    gpu_finish();
    mem_free(fill);
    b.t = (yg_ten){b.memory + GPU_GUARD + (size_t)channel * gpu_type_size(type), n, h, w, c, pixel, type};
    return b;
}

static void gpu_free(gpu_block *b) { yg_free(gpu_device(), b->memory); }

static size_t gpu_count(const yg_ten *t) { return (size_t)t->n * (size_t)t->h * (size_t)t->w * (size_t)t->c; }

static void gpu_store(uint8_t *to, float x, yg_type type) {
    const uint16_t half = type == YG_F16 ? f16_to_half(x) : f16_to_bfloat(x);
    if (type == YG_F32) memcpy(to, &x, 4);
    else memcpy(to, &half, 2);
}

static float gpu_load(const uint8_t *from, yg_type type) {
    uint16_t half;
    float x;
    if (type == YG_F32) {
        memcpy(&x, from, 4);
        return x;
    }
    memcpy(&half, from, 2);
    return type == YG_F16 ? f16_from_half(half) : f16_from_bfloat(half);
}

static size_t gpu_offset(const gpu_block *b, size_t pixel, int c) {
    return (size_t)((uint8_t *)b->t.data - b->memory) + (pixel * (size_t)b->t.pixel + (size_t)c) * gpu_type_size(b->t.type);
}

/* Dense (n,h,w,c) floats into the tensor; what lies around stays. */
static void gpu_write(gpu_block *b, const float *values) {
    uint8_t *bytes = mem_alloc(b->bytes);
    yg_download(gpu_device(), bytes, b->memory, b->bytes);
    gpu_finish();
    const size_t pixels = (size_t)b->t.n * (size_t)b->t.h * (size_t)b->t.w;
    for (size_t p = 0; p < pixels; p++)
        for (int c = 0; c < b->t.c; c++) gpu_store(bytes + gpu_offset(b, p, c), values[p * (size_t)b->t.c + (size_t)c], b->t.type);
    yg_upload(gpu_device(), b->memory, bytes, b->bytes);
    gpu_finish();
    mem_free(bytes);
}

/* The tensor as dense floats, to be freed with mem_free; a test fails when anything around it has changed. */
static float *gpu_read(const gpu_block *b) {
    uint8_t *bytes = mem_alloc(b->bytes);
    float *values = mem_array(gpu_count(&b->t), sizeof *values);
    yg_download(gpu_device(), bytes, b->memory, b->bytes);
    gpu_finish();
    const size_t pixels = (size_t)b->t.n * (size_t)b->t.h * (size_t)b->t.w, size = gpu_type_size(b->t.type);
    for (size_t p = 0; p < pixels; p++)
        for (int c = 0; c < b->t.c; c++) {
            values[p * (size_t)b->t.c + (size_t)c] = gpu_load(bytes + gpu_offset(b, p, c), b->t.type);
            memset(bytes + gpu_offset(b, p, c), 0xA5, size);
        }
    size_t changed = 0;
    for (size_t i = 0; i < b->bytes; i++) changed += bytes[i] != 0xA5;
    CHECK_MSG(changed == 0, "%zu bytes around a tensor of %dx%dx%dx%d have changed", changed, b->t.n, b->t.h, b->t.w, b->t.c);
    mem_free(bytes);
    return values;
}

/* Numbers in [-1, 1) that the type can hold, a function of the seed; to be freed with mem_free. */
static float *gpu_random(size_t count, uint64_t seed, yg_type type) {
    rng r = {.key = seed};
    float *values = mem_array(count, sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = gpu_round((float)(2 * rng_uniform(&r) - 1), type);
    return values;
}

/* A dense view of floats for the CPU's operators. */
static ten gpu_ten(float *data, int n, int h, int w, int c) { return (ten){data, n, h, w, c, c}; }

/* Floats in device memory; gpu_floats_read frees nothing, yg_free does. */
static float *gpu_floats(const float *values, size_t count) {
    float *memory = yg_alloc(gpu_device(), count * sizeof *values);
    if (values) yg_upload(gpu_device(), memory, values, count * sizeof *values);
    else yg_clear(gpu_device(), memory, count * sizeof *values);
    gpu_finish();
    return memory;
}

static float *gpu_floats_read(const float *memory, size_t count) {
    float *values = mem_array(count, sizeof *values);
    yg_download(gpu_device(), values, memory, count * sizeof *values);
    gpu_finish();
    return values;
}

/* The error's energy against that of what is wanted, and the largest error against the largest value. NaN-safe: a NaN is worst. */
static void gpu_compare(const char *what, const float *have, const float *want, size_t count, double energy, double largest) {
    double error = 0, size = 0, most = 0, range = 0;
    for (size_t i = 0; i < count; i++) {
        const double d = fabs((double)have[i] - (double)want[i]);
        error += d * d;
        size += (double)want[i] * (double)want[i];
        most = !(d <= most) ? d : most;
        range = YOLO_MAX(range, fabs((double)want[i]));
    }
    CHECK_MSG(error <= energy * size || (size == 0 && error == 0), "%s: error's energy is %.3g of the whole, at most %.3g", what, error / size, energy);
    CHECK_MSG(most <= largest * range || (range == 0 && most == 0), "%s: largest error is %.3g of the range, at most %.3g", what, most / range, largest);
}

static void test_gpu_memory(void) {
    yg_gpu *gpu = gpu_device();
    float *host = yg_host_alloc(gpu, 400), *a = yg_alloc(gpu, 400), *b = yg_alloc(gpu, 400);
    CHECK(host && a && b);
    for (int i = 0; i < 100; i++) host[i] = (float)i;
    yg_upload(gpu, a, host, 400);
    yg_copy(gpu, b, a, 400);
    yg_clear(gpu, b, 40);
    yg_download(gpu, host, b, 400);
    gpu_finish();
    for (int i = 0; i < 100; i++) CHECK(host[i] == (i < 10 ? 0 : (float)i));
    yg_free(gpu, a);
    yg_free(gpu, b);
    yg_host_free(gpu, host);
}

/* A device of its own, because its failure sticks. */
static void test_gpu_no_memory(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    CHECK(yg_alloc(gpu, (size_t)1 << 50) == NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "MiB wanted") && strstr(reason, "MiB are free"), "%s", reason);
    yg_close(gpu);
}

static void test_gpu_record(void) {
    yg_gpu *gpu = gpu_device();
    float *a = gpu_floats(NULL, 64), ones[64];
    for (int i = 0; i < 64; i++) ones[i] = 1;
    yg_upload(gpu, a, ones, sizeof ones);
    gpu_finish();
    yg_record(gpu);
    yg_clear(gpu, a, 128);
    yg_graph *graph = yg_recorded(gpu);
    CHECK(graph != NULL);
    float *before = gpu_floats_read(a, 64);
    CHECK(before[0] == 1);
    yg_replay(gpu, graph);
    float *after = gpu_floats_read(a, 64);
    CHECK(after[0] == 0 && after[31] == 0 && after[32] == 1);
    yg_graph_free(graph);
    mem_free(before);
    mem_free(after);
    yg_free(gpu, a);
}

/* More than the staging holds, from memory that changes at once; a send out of turn is refused. */
static void test_gpu_send(void) {
    enum { COUNT = 5, PART = 9 << 20 };
    yg_gpu *gpu;
    char reason[256] = "";
    uint8_t *host = mem_alloc(PART), *back = mem_alloc(PART);
    for (uint64_t lazy = 0; lazy < 4; lazy++) {
        CHECK_MSG(yg_open(&gpu, 0, reason, sizeof reason) == 0, "%s", reason);
        uint8_t *arriving = yg_alloc(gpu, PART), *kept = yg_alloc(gpu, (size_t)COUNT * PART);
#ifdef TEST_EMULATED
        emulate_set_lazy(lazy);
#endif
        for (int i = 0; i < COUNT; i++) {
            for (size_t k = 0; k < PART; k++) host[k] = (uint8_t)(k * 7 + (size_t)i * 31 + (k >> 16));
            yg_send(gpu, arriving, host, PART - 1000);
            yg_send(gpu, arriving + PART - 1000, host + PART - 1000, 1000);
            yg_receive(gpu);
            yg_copy(gpu, kept + (size_t)i * PART, arriving, PART);
            yg_release(gpu);
            yg_mark(gpu);
            if (i == 3) CHECK(yg_wait(gpu, reason, sizeof reason) == 0);
        }
        for (int i = 0; i < COUNT; i++) {
            size_t wrong = 0;
            yg_download(gpu, back, kept + (size_t)i * PART, PART);
            CHECK_MSG(yg_finish(gpu, reason, sizeof reason) == 0, "%s", reason);
            for (size_t k = 0; k < PART; k++) wrong += back[k] != (uint8_t)(k * 7 + (size_t)i * 31 + (k >> 16));
            CHECK_MSG(!wrong, "part %d, streams in order %d: %zu bytes", i, (int)lazy, wrong);
        }
        yg_receive(gpu);
        yg_send(gpu, arriving, host, 10);
        CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
        CHECK_MSG(strstr(reason, "before yg_release"), "%s", reason);
#ifdef TEST_EMULATED
        emulate_set_lazy(0);
#endif
        yg_free(gpu, arriving);
        yg_free(gpu, kept);
        yg_close(gpu);
    }
    mem_free(host);
    mem_free(back);
}

static const test_case tests_gpu_device[] = {
    {"memory", "memory is copied and cleared", test_gpu_memory},
    {"no_memory", "want of memory is told in MiB", test_gpu_no_memory},
    {"send", "uploads beside the work are there in time, and not too early", test_gpu_send},
    {"record", "recorded work is done when it is replayed, not before", test_gpu_record},
};
