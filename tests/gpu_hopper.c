/* gpu_hopper.c - K15: the convolution of Hopper against the same expectations as K8's, on a device of capability 9.0. */
#ifdef TEST_EMULATED
#include "emulate/emulate.h"
#endif

static yg_gpu *hopper_other; /* the device of the other tests, meanwhile */

/* From here to hopper_end the tests' device is a Hopper; false, and the test skips, where there is none. */
static bool hopper_begin(void) {
    hopper_other = test_gpu;
    test_gpu = NULL;
#ifdef TEST_EMULATED
    emulate_set_capability(9, 0);
#endif
    yg_device device;
    char reason[256];
    if (yg_device_get(0, &device, reason, sizeof reason) == 0 && device.compute_major == 9 && device.compute_minor == 0) return true;
    test_gpu = hopper_other;
    test_skipped = "the device is not a Hopper";
    return false;
}

static void hopper_end(void) {
    yg_close(test_gpu);
    test_gpu = hopper_other;
#ifdef TEST_EMULATED
    emulate_set_capability(8, 6);
#endif
}

/* Products of Hopper's kind that were launched so far; the emulation alone knows. */
static int64_t hopper_launched(void) {
#ifdef TEST_EMULATED
    return emulate_launched("k_hopper_product");
#else
    return 0;
#endif
}

/* Was every one of `count` convolutions done in Hopper's way? */
static void hopper_taken(int64_t before, int64_t count) {
#ifdef TEST_EMULATED
    CHECK_MSG(hopper_launched() - before == count, "%lld of %lld convolutions", (long long)(hopper_launched() - before), (long long)count);
#endif
    (void)before, (void)count;
}

static void hopper_check_fwd(const conv_case *cases, int count) {
    if (!hopper_begin()) return;
    for (int i = 0; i < count; i++)
        for (int type = 1; type < 3; type++) {
            const int64_t before = hopper_launched();
            conv_check_fwd(&cases[i], conv_types[type]);
            hopper_taken(before, 2);
        }
    hopper_end();
}

static void test_gpu_hopper_kernels(void) {
    static const conv_case cases[] = {
        {1, 11, 13, 64, 64, 1, 1, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0},    {2, 9, 11, 64, 72, 3, 1, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0},
        {1, 23, 25, 64, 64, 3, 2, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0},    {3, 16, 18, 72, 80, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 15, 17, 136, 100, 3, 1, 1, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0}, {1, 14, 13, 64, 64, 5, 1, 2, YG_RELU, 0, 0, 0, 0, 0},
        {2, 19, 21, 64, 96, 1, 2, 0, YG_SILU, CONV_BIAS, 0, 0, 0, 0},    {1, 12, 130, 64, 64, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 41, 38, 64, 64, 2, 3, 3, YG_LINEAR, 0, 0, 0, 0, 0},          {1, 13, 14, 64, 64, 1, 1, 1, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},
        {150, 1, 1, 64, 64, 1, 1, 0, YG_LINEAR, CONV_BIAS, 0, 0, 0, 0},  {130, 1, 1, 64, 64, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 1, 301, 64, 64, 1, 2, 0, YG_LINEAR, 0, 0, 0, 0, 0},          {1, 301, 1, 64, 64, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0}};
    hopper_check_fwd(cases, YOLO_COUNT(cases));
}

static void test_gpu_hopper_slices(void) {
    static const conv_case cases[] = {
        {1, 13, 11, 64, 64, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 192, 64, 128, 8}, {2, 11, 9, 72, 88, 1, 1, 0, YG_LINEAR, CONV_RESIDUAL, 88, 8, 96, 8},
        {1, 13, 11, 64, 67, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 80, 16, 71, 3},   {1, 25, 27, 70, 64, 3, 2, 1, YG_LINEAR, CONV_BIAS | CONV_PADDED, 0, 0, 64, 0},
        {1, 12, 12, 76, 64, 1, 1, 0, YG_LINEAR, CONV_BIAS | CONV_PADDED, 96, 8, 0, 0}};
    hopper_check_fwd(cases, YOLO_COUNT(cases));
}

static void test_gpu_hopper_moments(void) {
    static const conv_case cases[] = {
        {1, 16, 16, 64, 64, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0},             {3, 9, 7, 64, 80, 3, 1, 1, YG_LINEAR, CONV_MOMENTS, 0, 0, 96, 8},
        {1, 23, 25, 72, 100, 3, 2, 1, YG_LINEAR, CONV_MOMENTS | CONV_BIAS, 0, 0, 0, 0}, {1, 1, 129, 64, 131, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0}};
    hopper_check_fwd(cases, YOLO_COUNT(cases));
}

/* Channels for which tiles of each width are best, over more pixels than the device has multiprocessors for at once. */
static void test_gpu_hopper_tiles(void) {
    static const int channels[] = {64, 96, 128, 200, 256, 320};
    yg_device device;
    char reason[256];
    CHECK(yg_device_get(0, &device, reason, sizeof reason) == 0);
    for (int i = 0; i < YOLO_COUNT(channels); i++) {
        const conv_case plain = {1, 3 * device.multiprocessors, 127, 64, channels[i], 1, 1, 0, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 0, 0, 0, 0};
        const conv_case moments = {1, 3 * device.multiprocessors, 127, 64, channels[i], 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0};
        hopper_check_fwd(&plain, 1);
        hopper_check_fwd(&moments, 1);
        if (test_skipped) return;
    }
}

static void test_gpu_hopper_splits(void) {
    static const conv_case cases[] = {
        {1, 12, 12, 136, 64, 3, 1, 1, YG_SILU, CONV_BIAS | CONV_RESIDUAL, 0, 0, 0, 0}, {1, 23, 23, 128, 70, 3, 2, 1, YG_SILU, CONV_BIAS, 0, 0, 0, 0}};
    hopper_check_fwd(cases, YOLO_COUNT(cases));
}

static void test_gpu_hopper_dgrad(void) {
    static const conv_case cases[] = {
        {1, 11, 13, 64, 64, 1, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0},            {2, 9, 11, 72, 64, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 27, 25, 64, 64, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},            {2, 18, 22, 64, 80, 3, 2, 1, YG_LINEAR, 0, 96, 8, 88, 8},
        {1, 13, 14, 64, 64, 5, 1, 2, YG_LINEAR, 0, 0, 0, 0, 0},            {1, 26, 28, 67, 70, 3, 2, 1, YG_LINEAR, CONV_PADDED, 71, 3, 72, 0},
        {1, 14, 16, 64, 64, 3, 1, 0, YG_LINEAR, 0, 0, 0, 0, 0},            {1, 25, 24, 64, 64, 2, 2, 0, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 24, 26, 64, 64, 6, 2, 2, YG_LINEAR, 0, 0, 0, 0, 0},            {130, 2, 2, 64, 64, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 12, 13, 64, 136, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0}};
    if (!hopper_begin()) return;
    for (int i = 0; i < YOLO_COUNT(cases); i++)
        for (int type = 1; type < 3; type++) {
            const int64_t before = hopper_launched();
            conv_check_dgrad(&cases[i], conv_types[type], (i + type) % 2);
            hopper_taken(before, 2);
        }
    hopper_end();
}

/* What goes K8's way on a Hopper: floats, few channels or pixels, pixels that are not aligned, what stride 3 leaves. */
static void test_gpu_hopper_others(void) {
    static const conv_case cases[] = {
        {1, 12, 12, 56, 64, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0}, {1, 12, 12, 64, 56, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0},
        {1, 11, 11, 64, 64, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0}, {1, 12, 12, 64, 64, 1, 1, 0, YG_LINEAR, 0, 68, 4, 0, 0}};
    const conv_case third = {1, 36, 36, 64, 64, 3, 3, 0, YG_LINEAR, 0, 0, 0, 0, 0}, pointed = {1, 25, 25, 64, 64, 1, 2, 0, YG_LINEAR, 0, 0, 0, 0, 0};
    if (!hopper_begin()) return;
    const int64_t before = hopper_launched();
    for (int i = 0; i < YOLO_COUNT(cases); i++) conv_check_fwd(&cases[i], YG_F16);
    conv_check_fwd(&third, YG_F32);
    conv_check_dgrad(&third, YG_F16, false);
    conv_check_dgrad(&pointed, YG_F16, false);
    hopper_taken(before, 0);
    hopper_end();
}

/* Recorded work has its tensor maps in it: the same bits as at once. */
static void test_gpu_hopper_recorded(void) {
    const conv_case t = {1, 12, 13, 64, 64, 3, 1, 1, YG_SILU, 0, 0, 0, 0, 0};
    const size_t pixels = 12 * 13;
    if (!hopper_begin()) return;
    float *in = gpu_random(pixels * 64, 1, YG_F16), *weight = gpu_random(64 * 9 * 64, 2, YG_F16), *floats = gpu_floats(weight, 64 * 9 * 64), *have[2];
    yg_conv conv = conv_make(&t, YG_F16, false);
    yg_conv_pack(gpu_device(), &conv, floats, NULL);
    gpu_block x = conv_tensor(1, 12, 13, 64, 0, 0, YG_F16), y = conv_tensor(1, 12, 13, 64, 0, 0, YG_F16);
    conv_fill(&x, in, 64);
    yg_conv_fwd(gpu_device(), &y.t, &x.t, &conv, NULL, NULL);
    have[0] = gpu_read(&y);
    yg_record(gpu_device());
    yg_conv_fwd(gpu_device(), &y.t, &x.t, &conv, NULL, NULL);
    yg_graph *graph = yg_recorded(gpu_device());
    CHECK(graph != NULL);
    gpu_write(&y, in);
    if (graph) yg_replay(gpu_device(), graph);
    have[1] = gpu_read(&y);
    CHECK(!memcmp(have[0], have[1], pixels * 64 * sizeof(float)));
    yg_graph_free(graph);
    mem_free(in), mem_free(weight), mem_free(have[0]), mem_free(have[1]);
    yg_free(gpu_device(), floats);
    gpu_free(&x), gpu_free(&y);
    conv_free(&conv);
    hopper_end();
}

/* All widths give the same bits. */
static void test_gpu_hopper_tuned(void) {
    static const conv_case cases[] = {{1, 12, 13, 72, 136, 3, 1, 1, YG_LINEAR, CONV_RESIDUAL, 0, 0, 144, 8},
                                      {2, 23, 22, 72, 104, 3, 2, 1, YG_LINEAR, 0, 0, 0, 0, 0},
                                      {1, 17, 9, 128, 136, 1, 1, 0, YG_LINEAR, CONV_MOMENTS, 0, 0, 0, 0},
                                      {1, 9, 16, 320, 72, 3, 1, 1, YG_LINEAR, 0, 0, 0, 0, 0}};
    if (!hopper_begin()) return;
    for (int i = 0; i < 2 * YOLO_COUNT(cases); i++) {
        if (TEST_FEW && i % 2 == i / 2 % 2) continue;
        const int64_t before = hopper_launched();
        conv_check_tuned(&cases[i / 2], i % 2 ? YG_BF16 : YG_F16, false);
        hopper_taken(before, 2 + 4 * 6 + 4); /* by the rule, measured, then each width by itself */
        if (i / 2 < 2) conv_check_tuned(&cases[i / 2], i % 2 ? YG_BF16 : YG_F16, true);
    }
    hopper_end();
}

static const test_case tests_gpu_hopper[] = {
    {"kernels", "convolutions of all kinds of kernels against the CPU's", test_gpu_hopper_kernels},
    {"slices", "slices of wider pixels, residuals, odd channels; NaN around is not read", test_gpu_hopper_slices},
    {"moments", "means and squares of 128 pixels at a time against their definition", test_gpu_hopper_moments},
    {"tiles", "tiles of every width", test_gpu_hopper_tiles},
    {"splits", "long sums of few pixels are split", test_gpu_hopper_splits},
    {"dgrad", "gradients of the input against the CPU's, added and not", test_gpu_hopper_dgrad},
    {"others", "what it does not do is done in the common way", test_gpu_hopper_others},
    {"recorded", "recorded work gives the same bits", test_gpu_hopper_recorded},
    {"tuned", "tiles by measuring: all widths give the rule's bits", test_gpu_hopper_tuned},
};
