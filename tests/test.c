/* test.c - the test program: includes the engine itself, so that private functions are tested as they are.

   test [--list] [--shared DIR] [--order N] [NAME ...]   runs all tests, or those whose area or name begins with a NAME;
                                             N: how the emulation's threads take turns, see tests/emulate/emulate.h
   Prints a line a test and ends with "N passed, N failed, N skipped"; exit status 1 when any failed.
   A test is a function that CHECKs; it may SKIP, which is counted and printed. A NAME is the beginning of AREA/TEST or of
   TEST. With TEST_GPU it holds the tests of kernels.cu instead, which must be linked: as nvcc compiles it, on a machine with a
   GPU, or as a C++ compiler does with tests/emulate, anywhere. With TEST_PLANTED it holds tests that must fail or skip: tests/harness.sh looks at what comes of them. */
#define YOLO_NO_MAIN
#define YOLO_TESTING
#if !defined(YOLO_NO_CUDA) && !defined(TEST_GPU)
#define YOLO_NO_CUDA
#endif
#include "../yolo.c"

typedef struct test_case { const char *name, *what; void (*run)(void); } test_case;

static int test_failures;         /* of the test that runs */
static const char *test_skipped;  /* its reason */
static const char *test_shared_root = "../shared";
static char test_temp_root[512] = "build/tmp \xed\x95\x9c\xea\xb8\x80"; /* Korean, with a space: as users have them */

#define CHECK_MSG(condition, ...) do { \
    if (!(condition)) { \
        test_failures++; \
        printf("    %s:%d: %s: ", __FILE__, __LINE__, #condition); \
        printf(__VA_ARGS__); \
        printf("\n"); \
    } } while (0)
#define CHECK(condition) CHECK_MSG(condition, "false")
/* NaN-safe: a NaN on either side fails. */
#define CHECK_NEAR(a, b, tolerance) \
    CHECK_MSG(fabs((double)(a) - (double)(b)) <= (double)(tolerance), "%.9g against %.9g", (double)(a), (double)(b))
#define SKIP(reason) do { test_skipped = reason; return; } while (0)

/* A path below the folder of shared data, or NULL when it is not there. Valid until the next call. */
static const char *test_shared(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_shared_root, name);
    return os_path_kind(path) == OS_NOTHING ? NULL : path;
}

/* A path in the scratch folder. A few are valid at a time. */
static const char *test_temp(const char *name) {
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ & 7];
    path_make_directories(test_temp_root, NULL);
    snprintf(path, sizeof paths[0], "%s/%s", test_temp_root, name);
    return path;
}

/* How many of `all` cases of one kind are tried: all of them by the plain build, which judges the results; a fourth under a sanitizer, where
   each takes many times as long and the fuzzers go on, and on Windows, where another compiler and system show in the first ones. */
#if defined(__has_feature) /* clang's way to say so */
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(TEST_OWN_CODE) || defined(_WIN32)
enum { TEST_FEW = 1 };
#else
enum { TEST_FEW = 0 };
#endif

static int test_cases(int all) { return TEST_FEW ? (all + 3) / 4 : all; }

/* A millisecond for other threads. */
static void test_rest(void) {
#ifdef _WIN32
    Sleep(1);
#else
    nanosleep(&(struct timespec){0, 1000000}, NULL);
#endif
}

/* Reference dumps, see tests/reference.py. */
typedef struct ref_array { char name[96]; bool integer; int rank; int dims[8]; int64_t count; const float *data; const int32_t *ints; } ref_array;
typedef struct ref_file { uint8_t *bytes; ref_array arrays[512]; int count; } ref_file;

static bool ref_open(ref_file *ref, const char *path) {
    yolo_error error;
    size_t size;
    memset(ref, 0, sizeof *ref);
    if (path_read(path, 256u << 20, &ref->bytes, &size, &error) != YOLO_OK) {
        printf("    %s\n", error.message);
        return false;
    }
    cur c = cur_make(ref->bytes, size);
    const uint8_t *magic = cur_take(&c, 8);
    if (!magic || memcmp(magic, "YREF1\0\0\0", 8)) return false;
    ref->count = (int)cur_le(&c, 4);
    for (int i = 0; i < ref->count && i < 512; i++) {
        ref_array *a = &ref->arrays[i];
        size_t length = (size_t)cur_le(&c, 4);
        const uint8_t *name = cur_take(&c, length);
        if (!name || length >= sizeof a->name) return false;
        memcpy(a->name, name, length);
        a->integer = cur_le(&c, 4) == 1;
        a->rank = (int)cur_le(&c, 4);
        a->count = 1;
        for (int d = 0; d < a->rank && d < 8; d++) a->count *= a->dims[d] = (int)cur_le(&c, 4);
        const uint8_t *data = cur_take(&c, (uint64_t)a->count * 4);
        if (!data) return false;
        void *copy = mem_array((uint64_t)a->count, 4); /* the file is not aligned */
        if (!copy) return false;
        memcpy(copy, data, (size_t)a->count * 4);
        a->data = copy;
        a->ints = copy;
    }
    return !c.failed;
}

static const ref_array *ref_get(const ref_file *ref, const char *name) {
    for (int i = 0; i < ref->count; i++)
        if (!strcmp(ref->arrays[i].name, name)) return &ref->arrays[i];
    printf("    no array %s in the reference file\n", name);
    test_failures++;
    return NULL;
}

static void ref_close(ref_file *ref) {
    for (int i = 0; i < ref->count; i++) mem_free((void *)(uintptr_t)ref->arrays[i].data);
    mem_free(ref->bytes);
    memset(ref, 0, sizeof *ref);
}

#ifdef TEST_PLANTED
static void test_planted_check(void) { CHECK(1 + 1 == 3); }
static void test_planted_nan(void) { CHECK_NEAR(NAN, 0.0, 1e9); }
static void test_planted_skip(void) { SKIP("planted"); }
static const test_case tests_planted[] = {
    {"check", "fails", test_planted_check}, {"nan", "fails", test_planted_nan}, {"skip", "skips", test_planted_skip}};
#endif

#include "train_common.c"

#ifndef TEST_GPU
#include "test_base.c"
#include "test_data.c"
#include "test_prepare.c"
#include "test_ops.c"
#include "test_grads.c"
#include "test_net.c"
#include "test_grad.c"
#include "test_loss.c"
#include "test_opt.c"
#include "test_pt.c"
#include "test_aug.c"
#include "test_eval.c"
#include "test_cli.c"
#include "test_ui.c"
#include "test_label.c"
#include "test_demo.c"
#include "test_train.c"
#include "test_ranks.c"
#include "test_onnx.c"
#include "test_scale.c"
#include "test_img.c"
#include "test_plot.c"
#include "test_faults.c"
#else
#include "gpu_common.c"
#include "gpu_elementwise.c"
#include "gpu_conv.c"
#include "gpu_hopper.c"
#include "gpu_wgrad.c"
#include "gpu_decode.c"
#include "gpu_loss.c"
#include "gpu_optimizer.c"
#include "gpu_augment.c"
#include "gpu_step.c"
#include "gpu_label.c"
#include "gpu_bench.c"
#include "gpu_team.c"
#include "gpu_ranks.c"
#endif

typedef struct test_area { const char *name; const test_case *cases; int count; } test_area;
static const test_area test_areas[] = {
#ifdef TEST_PLANTED
    {"planted", tests_planted, YOLO_COUNT(tests_planted)},
#endif
#ifndef TEST_GPU
    {"base", tests_base, YOLO_COUNT(tests_base)},
    {"data", tests_data, YOLO_COUNT(tests_data)},
    {"prepare", tests_prepare, YOLO_COUNT(tests_prepare)},
    {"ops", tests_ops, YOLO_COUNT(tests_ops)},
    {"grads", tests_grads, YOLO_COUNT(tests_grads)},
    {"net", tests_net, YOLO_COUNT(tests_net)},
    {"grad", tests_grad, YOLO_COUNT(tests_grad)},
    {"loss", tests_loss, YOLO_COUNT(tests_loss)},
    {"opt", tests_opt, YOLO_COUNT(tests_opt)},
    {"pt", tests_pt, YOLO_COUNT(tests_pt)},
    {"aug", tests_aug, YOLO_COUNT(tests_aug)},
    {"eval", tests_eval, YOLO_COUNT(tests_eval)},
    {"cli", tests_cli, YOLO_COUNT(tests_cli)},
    {"ui", tests_ui, YOLO_COUNT(tests_ui)},
    {"label", tests_label, YOLO_COUNT(tests_label)},
    {"demo", tests_demo, YOLO_COUNT(tests_demo)},
    {"train", tests_train, YOLO_COUNT(tests_train)},
    {"ranks", tests_ranks, YOLO_COUNT(tests_ranks)},
    {"onnx", tests_onnx, YOLO_COUNT(tests_onnx)},
    {"scale", tests_scale, YOLO_COUNT(tests_scale)},
    {"img", tests_img, YOLO_COUNT(tests_img)},
    {"plot", tests_plot, YOLO_COUNT(tests_plot)},
    {"faults", tests_faults, YOLO_COUNT(tests_faults)},
#else
    {"device", tests_gpu_device, YOLO_COUNT(tests_gpu_device)},
    {"elementwise", tests_gpu_elementwise, YOLO_COUNT(tests_gpu_elementwise)},
    {"conv", tests_gpu_conv, YOLO_COUNT(tests_gpu_conv)},
    {"hopper", tests_gpu_hopper, YOLO_COUNT(tests_gpu_hopper)},
    {"wgrad", tests_gpu_wgrad, YOLO_COUNT(tests_gpu_wgrad)},
    {"decode", tests_gpu_decode, YOLO_COUNT(tests_gpu_decode)},
    {"loss", tests_gpu_loss, YOLO_COUNT(tests_gpu_loss)},
    {"optimizer", tests_gpu_optimizer, YOLO_COUNT(tests_gpu_optimizer)},
    {"augment", tests_gpu_augment, YOLO_COUNT(tests_gpu_augment)},
    {"step", tests_gpu_step, YOLO_COUNT(tests_gpu_step)},
    {"label", tests_gpu_label, YOLO_COUNT(tests_gpu_label)},
    {"bench", tests_gpu_bench, YOLO_COUNT(tests_gpu_bench)},
    {"team", tests_gpu_team, YOLO_COUNT(tests_gpu_team)},
    {"ranks", tests_gpu_ranks, YOLO_COUNT(tests_gpu_ranks)},
#endif
};

static void test_log_to_stdout(void *user, yolo_log_level level, const char *text) {
    (void)user;
    if (level != YOLO_LOG_PROGRESS) printf("    log: %s\n", text);
}
static const yolo_log test_log = {test_log_to_stdout, NULL};

/* Each program has a scratch folder of its own: they may run at a time. */
static void test_choose_temp_root(const char *program) {
    const char *name = program + strlen(program);
    while (name > program && name[-1] != '/' && name[-1] != '\\') name--;
    const size_t length = strlen(test_temp_root);
    snprintf(test_temp_root + length, sizeof test_temp_root - length, " %s", name);
}

int main(int argc, char **argv) {
    bool list = false;
    int names = 0, passed = 0, failed = 0, skipped = 0;
    (void)test_log;
    test_choose_temp_root(argv[0]);
    setvbuf(stdout, NULL, _IOLBF, 4096);
#ifndef TEST_GPU
    if (argc > 1 && !strcmp(argv[1], "--dump-heads")) return test_dump_heads(argc - 2, argv + 2);
#endif
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--list")) list = true;
        else if (!strcmp(argv[i], "--shared") && i + 1 < argc) test_shared_root = argv[++i];
#ifdef TEST_EMULATED
        else if (!strcmp(argv[i], "--order") && i + 1 < argc) emulate_set_order(strtoull(argv[++i], NULL, 10));
#endif
        else argv[++names] = argv[i];
    }
    for (int a = 0; a < YOLO_COUNT(test_areas); a++)
        for (int t = 0; t < test_areas[a].count; t++) {
            const test_case *test = &test_areas[a].cases[t];
            char full[200];
            snprintf(full, sizeof full, "%s/%s", test_areas[a].name, test->name);
            bool wanted = !names;
            for (int i = 1; i <= names; i++)
                wanted |= !strncmp(full, argv[i], strlen(argv[i])) || !strncmp(test->name, argv[i], strlen(argv[i]));
            if (!wanted) continue;
            if (list) {
                printf("%-8s %-28s %s\n", test_areas[a].name, test->name, test->what);
                continue;
            }
            test_failures = 0;
            test_skipped = NULL;
            double start = os_clock();
            test->run();
            const char *verdict = test_failures ? "FAIL" : test_skipped ? "skip" : "ok";
            printf("%-4s %-8s %-28s %6.2f s  %s\n", verdict, test_areas[a].name, test->name, os_clock() - start,
                   test_skipped ? test_skipped : test->what);
            if (test_failures) failed++;
            else if (test_skipped) skipped++;
            else passed++;
        }
    if (list) return 0;
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed || passed + skipped == 0 ? 1 : 0; /* no test at all is a mistake in a NAME */
}
