/* gpu_step.c - the network on a GPU against itself on the CPU: forward pass, training step, whole trainings, and what is said
   when a device fails. With TEST_EMULATED it is linked with tests/emulate, which can fail on demand. */
#ifdef TEST_EMULATED
#include "emulate/emulate.h"
#endif

/* A network with random weights and statistics: of a description, NULL = the demo's. */
static bool gpu_step_described(const char *text, pt_model *model) {
    yolo_open_options open = yolo_open_defaults();
    yolo_error error;
    const char *path = test_temp("gpu_step.yaml");
    rng r = {.key = 3};
    memset(model, 0, sizeof *model);
    yolo_status status = text ? path_write(path, text, strlen(text), false, &error) : demo_describe(path, &error);
    if (status == YOLO_OK) status = pt_load(path, &open, model, &error);
    if (status != YOLO_OK) {
        printf("    %s\n", error.message);
        test_failures++;
        return false;
    }
    for (int i = 0; i < model->net.param_count; i++) {
        const net_param *row = &model->net.params[i];
        const bool variance = str_ends_with(row->name, "running_var"), mean = str_ends_with(row->name, "running_mean"), gamma = row->group == NET_NO_DECAY;
        for (int64_t k = 0; k < row->count && (variance || mean || gamma); k++)
            model->params[row->offset + k] = (float)(mean ? rng_uniform(&r) - 0.5 : 0.5 + rng_uniform(&r));
    }
    return true;
}

/* A network with some of every kind of operator, and few of them, for what trains again and again. */
static const char *gpu_step_little(void) {
    static const char text[] = "nc: 4\nbackbone: [[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]], [-1, 1, C2f, [32, True]], [-1, 1, Conv, [64, 3, 2]], "
                               "[-1, 1, SPPF, [64, 5]]]\nhead: [[-1, 1, nn.Upsample, [None, 2, nearest]], [[-1, 2], 1, Concat, [1]], [-1, 1, C2f, [32]], "
                               "[-1, 1, Conv, [32, 3, 2]], [[-1, 4], 1, Concat, [1]], [-1, 1, C2f, [64]], [[7, 10], 1, Detect, [nc]]]\n";
    static char path[1024];
    yolo_error error;
    snprintf(path, sizeof path, "%s", test_temp("gpu_little.yaml"));
    CHECK_MSG(path_write(path, text, sizeof text - 1, false, &error) == YOLO_OK, "%s", error.message);
    return path;
}

static bool gpu_step_model(pt_model *model) { return gpu_step_described(NULL, model); }

static run_place gpu_step_place(bool half) { return (run_place){0, half, gpu_device()}; }

static bool gpu_step_alone; /* lanes run no two operators together */

/* Heads of a forward pass on a place, one after the other; to be freed with mem_free. */
static float *gpu_step_heads(const pt_model *model, run_place place, int n, int h, int w, size_t *count) {
    run_weights *weights = NULL;
    run_lane *lane = NULL;
    yolo_error error = {0};
    rng r = {.key = 5};
    float *all = NULL;
    *count = 0;
    yolo_status status = run_weights_create(&weights, &model->net, model->params, op_isa_best(), place, &error);
    if (status == YOLO_OK) status = run_lane_create(&lane, weights, &model->net, NULL, n, 32, 32, &error);
    if (status == YOLO_OK) status = run_lane_shape(lane, n, h, w, &error);
    if (status == YOLO_OK && gpu_step_alone) memset(lane->gpu->pairs, 0, (size_t)model->net.op_count * sizeof *lane->gpu->pairs);
    if (status == YOLO_OK) {
        float *input = run_lane_input(lane);
        for (int i = 0; i < n * h * w * 3; i++) input[i] = (float)rng_uniform(&r);
        run_forward(lane);
        status = run_status(lane, &error);
    }
    for (int level = 0; level < model->net.level_count && status == YOLO_OK; level++) {
        const ten head = run_lane_head(lane, level);
        const size_t pixels = (size_t)head.n * (size_t)head.h * (size_t)head.w;
        float *larger = mem_array(*count + pixels * (size_t)head.c, sizeof *larger);
        if (all) memcpy(larger, all, *count * sizeof *larger);
        mem_free(all);
        all = larger;
        for (size_t p = 0; p < pixels; p++, *count += (size_t)head.c) memcpy(all + *count, head.data + p * (size_t)head.pixel, (size_t)head.c * sizeof *all);
    }
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    run_lane_destroy(lane);
    run_weights_destroy(weights);
    return all;
}

static void test_gpu_forward(void) {
    pt_model model;
    size_t count, others;
    if (!gpu_step_model(&model)) return;
    float *want = gpu_step_heads(&model, run_cpu, 2, 64, 96, &count);
    float *whole = gpu_step_heads(&model, gpu_step_place(false), 2, 64, 96, &others);
    CHECK(count && count == others);
    gpu_compare("heads in float", whole, want, count, 1e-9, 1e-4);
    float *half = gpu_step_heads(&model, gpu_step_place(true), 2, 64, 96, &others);
    CHECK(count == others);
    gpu_compare("heads in fp16", half, want, count, 1e-4, 2e-2);
    mem_free(want);
    mem_free(whole);
    mem_free(half);
    pt_free(&model);
}

/* Kernels launched so far. */
static int64_t gpu_step_launches(void) {
#ifdef TEST_EMULATED
    return emulate_launches();
#else
    return 0;
#endif
}

/* `with` launches less than `without` by `saved`; unknown on a device. */
static void gpu_step_check_launches(const char *what, int64_t with, int64_t without, int saved) {
    if (gpu_step_launches()) CHECK_MSG(without - with == saved, "%s: %d launches instead of %d", what, (int)with, (int)without);
}

/* Upsamplings are written again. */
static void gpu_step_write_upsampled(net *net) {
    for (int i = 0; i < net->op_count; i++) net->ops[i].low = -1, net->ops[i].unread = false;
}

/* Boxes of a drawn picture, found by the trained network; to be freed with yolo_boxes_free. */
static yolo_boxes gpu_step_boxes(const char *device, bool half, float conf) {
    yolo_open_options open = yolo_open_defaults();
    yolo_predict_options options = yolo_predict_defaults();
    yolo_boxes boxes = {0};
    yolo_model *model = NULL;
    yolo_image image = {0};
    yolo_error error = {0};
    char folder[600], path[700];
    snprintf(folder, sizeof folder, "%s", test_temp("gpu_predict"));
    snprintf(path, sizeof path, "%s/00000.jpg", folder);
    open.device = device;
    open.half = half;
    options.imgsz = 160;
    options.conf = conf;
    yolo_status status = path_make_directories(folder, &error);
    if (status == YOLO_OK) status = demo_draw(folder, 4, 0, 1, &error);
    if (status == YOLO_OK) status = yolo_image_read(&image, path, &error);
    if (status == YOLO_OK) status = yolo_model_open(&model, "weights/shapes.pt", open, &error);
    if (status == YOLO_OK) status = yolo_predict(model, &image, options, &boxes, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    yolo_model_close(model);
    yolo_image_free(&image);
    return boxes;
}

/* Each box of `want` has its like in `have`, and there are no others. */
static void gpu_step_same_boxes(const char *what, yolo_boxes have, yolo_boxes want, float pixels, float confidence) {
    CHECK_MSG(have.count == want.count && want.count > 0, "%s: %d boxes, %d on the CPU", what, have.count, want.count);
    for (int i = 0; i < YOLO_MIN(have.count, want.count); i++) {
        const yolo_box *a = &have.items[i], *b = &want.items[i];
        CHECK_MSG(a->class_id == b->class_id && fabsf(a->x1 - b->x1) <= pixels && fabsf(a->y1 - b->y1) <= pixels && fabsf(a->x2 - b->x2) <= pixels &&
                  fabsf(a->y2 - b->y2) <= pixels && fabsf(a->confidence - b->confidence) <= confidence, "%s: box %d: class %d at %g,%g scores %g, on the CPU class %d at %g,%g, %g",
                  what, i, a->class_id, (double)a->x1, (double)a->y1, (double)a->confidence, b->class_id, (double)b->x1, (double)b->y1, (double)b->confidence);
    }
}

static void test_gpu_predict(void) {
    yolo_boxes want = gpu_step_boxes("cpu", true, 0.25f), whole = gpu_step_boxes("0", false, 0.25f), half = gpu_step_boxes("0", true, 0.25f);
    gpu_step_same_boxes("float", whole, want, 0.01f, 1e-4f);
    gpu_step_same_boxes("fp16", half, want, 0.5f, 1e-2f);
    yolo_boxes_free(&want);
    yolo_boxes_free(&whole);
    yolo_boxes_free(&half);
}

/* Losses and gradients of one batch. */
typedef struct gpu_step_result { loss_parts losses; float *gradients, *params; } gpu_step_result;

enum { GPU_STEP_N = 2, GPU_STEP_SIDE = 64 };
static const loss_target gpu_step_targets[] = {{0, {4, 6, 30, 40}}, {3, {20, 20, 60, 50}}, {5, {1, 1, 9, 8}}, {2, {10, 30, 50, 63}}};
static const int gpu_step_first[] = {0, 3, 4};

static void gpu_step_pixels(uint8_t *pixels, size_t count) {
    rng r = {.key = 14}; /* few roundings turn the assignment of these targets into another */
    for (size_t i = 0; i < count; i++) pixels[i] = (uint8_t)(rng_uniform(&r) * 256);
}

static void gpu_step_on_cpu(const pt_model *model, grad_pass *pass, const uint8_t *pixels, gpu_step_result *out) {
    ten heads[NET_MAX_LEVELS], gradients[NET_MAX_LEVELS];
    const size_t count = (size_t)GPU_STEP_N * GPU_STEP_SIDE * GPU_STEP_SIDE * 3;
    for (size_t i = 0; i < count; i++) grad_input(pass)[i] = (float)pixels[i] / 255.0f;
    for (int level = 0; level < model->net.level_count; level++) {
        heads[level] = grad_head(pass, level);
        gradients[level] = grad_head_gradient(pass, level);
    }
    void *workspace = mem_alloc(loss_workspace(&model->net, heads, gpu_step_first[GPU_STEP_N]));
    grad_forward(pass, out->params);
    out->losses = loss_detect(&model->net, heads, gradients, gpu_step_targets, gpu_step_first, (loss_gains){7.5f, 0.5f, 1.5f}, workspace, NULL, NULL);
    grad_backward(pass, out->gradients);
    mem_free(workspace);
}

static void gpu_step_on_gpu(const pt_model *model, grad_pass *pass, const uint8_t *pixels, float scale, gpu_step_result *out) {
    yg_gpu *gpu = gpu_device();
    const size_t table = (size_t)model->net.param_elements * sizeof(float), bytes = (size_t)GPU_STEP_N * GPU_STEP_SIDE * GPU_STEP_SIDE * 3;
    double sums[4];
    yg_loss loss = {.levels = model->net.level_count, .class_count = model->net.class_count, .most_targets = 16, .box = 7.5f, .cls = 0.5f, .dfl = 1.5f};
    uint8_t *device_pixels = yg_alloc(gpu, bytes);
    yg_target *targets = yg_alloc(gpu, 16 * sizeof *targets);
    int *first = yg_alloc(gpu, sizeof gpu_step_first);
    float *device_scale = yg_alloc(gpu, sizeof scale);
    for (int level = 0; level < loss.levels; level++) {
        loss.strides[level] = model->net.strides[level];
        loss.heads[level] = grad_gpu_activation(pass, model->net.heads[level]);
        loss.gradients[level] = grad_gpu_gradient(pass, model->net.heads[level]);
    }
    loss.sums = yg_alloc(gpu, sizeof sums);
    loss.workspace = yg_alloc(gpu, yg_loss_bytes(&loss));
    loss.targets = targets;
    loss.first = first;
    loss.scale = device_scale;
    yg_upload(gpu, pass->gpu->params, out->params, table);
    yg_upload(gpu, device_pixels, pixels, bytes);
    yg_upload(gpu, targets, gpu_step_targets, sizeof gpu_step_targets);
    yg_upload(gpu, first, gpu_step_first, sizeof gpu_step_first);
    yg_upload(gpu, device_scale, &scale, sizeof scale);
    grad_gpu_pack(pass);
    const yg_ten input = grad_gpu_in(pass, 0);
    yg_pixels(gpu, &input, device_pixels, GPU_STEP_SIDE, GPU_STEP_SIDE);
    grad_gpu_forward(pass);
    yg_loss_detect(gpu, &loss);
    grad_gpu_backward_ops(pass, 0, pass->net->op_count);
    yg_download(gpu, sums, loss.sums, sizeof sums);
    yg_download(gpu, out->gradients, pass->gpu->gradients, table);
    yg_download(gpu, out->params, pass->gpu->params, table);
    gpu_finish();
    const double score = YOLO_MAX(sums[3], 1);
    out->losses = (loss_parts){sums[0] / score, sums[1] / score, sums[2] / score};
    for (int64_t i = 0; i < model->net.param_elements; i++) out->gradients[i] /= scale;
    void *const blocks[] = {device_pixels, targets, first, device_scale, loss.sums, loss.workspace};
    for (int i = 0; i < YOLO_COUNT(blocks); i++) yg_free(gpu, blocks[i]);
}

static gpu_step_result gpu_step_run(const pt_model *model, run_place place) {
    const size_t bytes = (size_t)GPU_STEP_N * GPU_STEP_SIDE * GPU_STEP_SIDE * 3;
    gpu_step_result out = {.gradients = mem_array((uint64_t)model->net.param_elements, sizeof(float)), .params = mem_array((uint64_t)model->net.param_elements, sizeof(float))};
    uint8_t *pixels = mem_alloc(bytes);
    grad_pass *pass = NULL;
    yolo_error error = {0};
    gpu_step_pixels(pixels, bytes);
    memcpy(out.params, model->params, (size_t)model->net.param_elements * sizeof(float));
    const yolo_status status = grad_create(&pass, &model->net, op_isa_best(), place, NULL, NULL, GPU_STEP_N, GPU_STEP_SIDE, GPU_STEP_SIDE, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    if (status == YOLO_OK && place.device) gpu_step_on_gpu(model, pass, pixels, place.half ? 1024.0f : 1.0f, &out);
    else if (status == YOLO_OK) gpu_step_on_cpu(model, pass, pixels, &out);
    grad_destroy(pass);
    mem_free(pixels);
    return out;
}

static void gpu_step_free(gpu_step_result *result) {
    mem_free(result->gradients);
    mem_free(result->params);
}

/* How far gradients are from others, by the others' norm. */
static double gpu_step_distance(const pt_model *model, const gpu_step_result *have, const gpu_step_result *want) {
    double error = 0, size = 0;
    for (int64_t k = 0; k < model->net.param_elements; k++) {
        const double d = (double)have->gradients[k] - (double)want->gradients[k];
        error += d * d;
        size += (double)want->gradients[k] * (double)want->gradients[k];
    }
    return sqrt(error / size);
}

/* How far the CPU's gradients go at most when its parameters are up to half a unit in a type's last place away, by chance. */
static double gpu_step_rounded(pt_model *model, yg_type type, const gpu_step_result *want) {
    const size_t count = (size_t)model->net.param_elements;
    const float unit = type == YG_F32 ? 1.0f / (1 << 24) : 1.0f / (1 << 11);
    float *kept = mem_array(count, sizeof *kept);
    double most = 0;
    memcpy(kept, model->params, count * sizeof *kept);
    for (uint64_t chance = 0; chance < 4; chance++) {
        rng r = {.key = 77 + chance};
        for (size_t i = 0; i < count; i++) model->params[i] = kept[i] * (1 + unit * (2 * (float)rng_uniform(&r) - 1));
        gpu_step_result result = gpu_step_run(model, run_cpu);
        most = fmax(most, gpu_step_distance(model, &result, want));
        gpu_step_free(&result);
    }
    memcpy(model->params, kept, count * sizeof *kept);
    mem_free(kept);
    return most;
}

/* The losses, the running statistics, and the gradients, which may be no further from the CPU's than three times what rounding the
   parameters alone does to those at most: batch norms over few pixels make much of little, and an assignment may turn. */
static void gpu_step_compare(pt_model *model, const gpu_step_result *want, bool half, double losses) {
    gpu_step_result have = gpu_step_run(model, gpu_step_place(half)), again = gpu_step_run(model, gpu_step_place(half));
    const double off = gpu_step_distance(model, &have, want), floor = gpu_step_rounded(model, half ? YG_F16 : YG_F32, want);
    CHECK_MSG(off <= 3 * floor && floor < 0.1, "%s: gradients are %.3g of their norm off, rounded parameters make that %.3g", half ? "fp16" : "float", off, floor);
    CHECK_NEAR(have.losses.box, want->losses.box, losses * want->losses.box);
    CHECK_NEAR(have.losses.cls, want->losses.cls, losses * want->losses.cls);
    CHECK_NEAR(have.losses.dfl, want->losses.dfl, losses * want->losses.dfl);
    for (int i = 0; i < model->net.param_count; i++) {
        const net_param *row = &model->net.params[i];
        if (row->group == NET_BN_STAT)
            gpu_compare(row->name, have.params + row->offset, want->params + row->offset, (size_t)row->count, half ? 1e-4 : 1e-9, half ? 2e-2 : 1e-4);
    }
    CHECK(!memcmp(have.gradients, again.gradients, (size_t)model->net.param_elements * sizeof(float)));
    gpu_step_free(&have);
    gpu_step_free(&again);
}

static void test_gpu_batch(void) {
    pt_model model;
    if (!gpu_step_model(&model)) return;
    gpu_step_result want = gpu_step_run(&model, run_cpu);
    gpu_step_compare(&model, &want, false, 1e-5);
    gpu_step_compare(&model, &want, true, 1e-2);
    gpu_step_free(&want);
    pt_free(&model);
}

/* Seven bottlenecks of 16 and 32 channels, each in one kernel: the same bits. Floats are never done so. */
static void test_gpu_pairs(void) {
    pt_model model;
    size_t count, others;
    if (!gpu_step_model(&model)) return;
    for (int half = 0; half < 2; half++) {
        int64_t launches[3] = {gpu_step_launches()};
        float *together = gpu_step_heads(&model, gpu_step_place(half), 1, 64, 96, &count);
        launches[1] = gpu_step_launches();
        gpu_step_alone = true;
        float *alone = gpu_step_heads(&model, gpu_step_place(half), 1, 64, 96, &others);
        gpu_step_alone = false;
        launches[2] = gpu_step_launches();
        gpu_step_check_launches("bottlenecks", launches[1] - launches[0], launches[2] - launches[1], half ? 7 : 0);
        CHECK(count && count == others && !memcmp(together, alone, count * sizeof *alone));
        mem_free(together);
        mem_free(alone);
    }
    pt_free(&model);
}

/* Reading upsampled channels where they come from changes no bit of a forward pass; in training, tiles of another width may sum moments in
   another order. In the second network nothing else keeps the map that is read. */
static void test_gpu_upsampled(void) {
    static const char *const texts[] = {NULL, "nc: 6\nbackbone: [[-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [32, 3, 2]]]\nhead: [[-1, 1, nn.Upsample, [None, 2, nearest]], "
                                              "[[-1, 0], 1, Concat, [1]], [-1, 1, C2f, [16]], [-1, 1, Detect, [nc]]]\n"};
    for (int i = 0; i < 3; i++) {
        const run_place place = gpu_step_place(i > 0);
        const int saved = i < 2 ? 2 : 1;
        int64_t launches[5] = {gpu_step_launches()};
        size_t count, others;
        pt_model model;
        if (!gpu_step_described(texts[i / 2], &model)) return;
        float *with = gpu_step_heads(&model, place, 2, 64, 96, &count);
        launches[1] = gpu_step_launches();
        gpu_step_result step = gpu_step_run(&model, place);
        launches[2] = gpu_step_launches();
        gpu_step_write_upsampled(&model.net);
        float *without = gpu_step_heads(&model, place, 2, 64, 96, &others);
        launches[3] = gpu_step_launches();
        gpu_step_result plain = gpu_step_run(&model, place);
        launches[4] = gpu_step_launches();
        CHECK(count && count == others && !memcmp(with, without, count * sizeof *with));
        gpu_step_check_launches("forward pass", launches[1] - launches[0], launches[3] - launches[2], saved);
        gpu_step_check_launches("step", launches[2] - launches[1], launches[4] - launches[3], saved);
        const double off = gpu_step_distance(&model, &step, &plain);
        CHECK_MSG(off <= (i ? 1e-2 : 1e-5), "gradients are %.3g of their norm off", off);
        gpu_step_free(&plain);
        gpu_step_free(&step);
        mem_free(with);
        mem_free(without);
        pt_free(&model);
    }
}

/* Whole trainings. */

/* From trained weights, with small steps: there the course of a training is no matter of roundings. */
static yolo_train_options gpu_step_small(const char *name) {
    yolo_train_options o = test_train_small(name, 2);
    o.model = "weights/shapes.pt";
    o.epochs = 2;
    o.lr0 = 1e-3;
    o.warmup_bias_lr = 0;
    return o;
}

static bool gpu_step_train(const char *name, const char *model, const char *device, bool amp, const char *optimizer, int interrupt_at, yolo_train_report *report) {
    yolo_train_options o = gpu_step_small(name);
    test_train_ear ear = {.interrupt_at = interrupt_at};
    yolo_error error = {0};
    o.model = model;
    o.device = device;
    o.amp = amp;
    o.optimizer = optimizer;
    o.log = (yolo_log){test_train_listen, &ear};
    const yolo_status status = yolo_train(o, report, &error);
    CHECK_MSG(status == (interrupt_at ? YOLO_ERROR_INTERRUPTED : YOLO_OK), "%s: %s", name, error.message);
    if (interrupt_at) yolo_interrupt_clear();
    return status == YOLO_OK;
}

/* The numbers of results.csv, from train/box_loss to val/dfl_loss, of the last epoch. */
static void gpu_step_numbers(const yolo_train_report *report, double *numbers) {
    char path[1100];
    uint8_t *bytes = NULL;
    size_t size;
    yolo_error error;
    snprintf(path, sizeof path, "%s/results.csv", report->folder);
    memset(numbers, 0, 10 * sizeof *numbers);
    if (path_read(path, 1 << 20, &bytes, &size, &error) != YOLO_OK) return;
    const char *line = (const char *)bytes, *at = line;
    for (const char *p = line; p < line + size - 1; p++)
        if (*p == '\n') at = p + 1;
    for (int field = 0; field < 12 && at; field++) {
        if (field >= 2) numbers[field - 2] = strtod(at, NULL);
        at = strchr(at, ',');
        if (at) at++;
    }
    mem_free(bytes);
}

static void test_gpu_train(void) {
    yolo_train_report cpu, gpu, half;
    double want[10], have[10], rough[10];
    static const char shapes[] = "weights/shapes.pt";
    if (!gpu_step_train("cpu", shapes, "cpu", true, "SGD", 0, &cpu) || !gpu_step_train("gpu", shapes, "0", false, "SGD", 0, &gpu)) return;
    if (!gpu_step_train("half", shapes, "0", true, "SGD", 0, &half)) return;
    gpu_step_numbers(&cpu, want);
    gpu_step_numbers(&gpu, have);
    gpu_step_numbers(&half, rough);
    for (int i = 0; i < 10; i++) {
        CHECK_MSG(fabs(have[i] - want[i]) <= 1e-3 * want[i], "float: number %d is %g, on the CPU %g", i, have[i], want[i]);
        const double room = i >= 3 && i < 7 ? 0.01 : 3e-2 * want[i]; /* metrics of four pictures go in steps */
        CHECK_MSG(fabs(rough[i] - want[i]) <= room, "fp16: number %d is %g, on the CPU %g", i, rough[i], want[i]);
    }
}

static void test_gpu_train_resume(void) {
    yolo_train_report whole, part;
    static const char *const optimizers[] = {"SGD", "AdamW", "MuSGD"};
    for (int i = 0; i < YOLO_COUNT(optimizers); i++) {
        yolo_error error = {0};
        if (!gpu_step_train("gpu_whole", gpu_step_little(), "0", true, optimizers[i], 0, &whole)) return;
        gpu_step_train("gpu_part", gpu_step_little(), "0", true, optimizers[i], 2, &part);
        yolo_train_options again = tr_defaults();
        char last[1100];
        snprintf(last, sizeof last, "%s/weights/last.pt", part.folder);
        again.model = last;
        again.resume = true;
        again.device = "0";
        again.threads = 2;
        CHECK_MSG(yolo_train(again, &part, &error) == YOLO_OK, "%s", error.message);
        CHECK_MSG(test_train_hash(&whole) == test_train_hash(&part), "%s", optimizers[i]);
    }
}

/* Validation in lanes of two threads, on the last device there is. */
static void test_gpu_val(void) {
    yolo_metrics want = {0}, have = {0};
    char reason[256], device[16];
    snprintf(device, sizeof device, "%d", yg_device_count(reason, sizeof reason) - 1);
    for (int i = 0; i < 2; i++) {
        yolo_open_options open = yolo_open_defaults();
        yolo_val_options options = yolo_val_defaults();
        yolo_model *model = NULL;
        yolo_error error = {0};
        open.device = i ? device : "cpu";
        open.half = false;
        open.threads = 2;
        options.data = test_train_data();
        options.imgsz = 96;
        yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, &error);
        if (status == YOLO_OK) status = yolo_val(model, options, i ? &have : &want, &error);
        CHECK_MSG(status == YOLO_OK, "%s", error.message);
        yolo_model_close(model);
    }
    CHECK(want.images == 4 && have.images == 4 && want.map50 > 0);
    CHECK_NEAR(have.map50, want.map50, 1e-3);
    CHECK_NEAR(have.map50_95, want.map50_95, 1e-3);
    yolo_metrics_free(&want);
    yolo_metrics_free(&have);
}

#ifdef TEST_EMULATED
/* A training of one epoch with a step a batch, which is over soon. */
static yolo_train_options gpu_step_short(const char *name) {
    yolo_train_options o = gpu_step_small(name);
    o.model = gpu_step_little();
    o.device = "0";
    o.epochs = 1;
    o.val = false;
    o.imgsz = 32;
    o.batch = 3;
    o.nbs = 3;
    return o;
}

/* Work that is done late, uploads that are done early, and all mixtures end in the same bits; no memory of the device is the host's. */
static void test_gpu_train_ahead(void) {
    uint64_t want = 0;
    for (uint64_t lazy = 0; lazy < 4; lazy++) {
        yolo_train_options o = gpu_step_short("gpu_ahead");
        yolo_train_report report;
        yolo_error error = {0};
        o.mixup = 0.5;
        emulate_set_lazy(lazy);
        emulate_set_protect(lazy == 1);
        CHECK_MSG(yolo_train(o, &report, &error) == YOLO_OK, "%s", error.message);
        emulate_set_lazy(0);
        emulate_set_protect(0);
        const uint64_t hash = test_train_hash(&report);
        if (!want) want = hash;
        CHECK_MSG(hash && hash == want, "streams in order %d", (int)lazy);
    }
}

/* Every call of CUDA fails once: a sentence, nothing left on the device. */
static void test_gpu_faults(void) {
    const size_t before = emulate_allocated(0);
    const int handles = emulate_handles();
    int told = 0;
    for (int64_t n = 1; n < 100000; n += 1 + n / 3) {
        yolo_train_options o = gpu_step_short("gpu_faults");
        yolo_train_report report;
        yolo_error error = {0};
        emulate_fail_after(n);
        const yolo_status status = yolo_train(o, &report, &error);
        const bool failed = emulate_failed();
        emulate_fail_after(0);
        CHECK_MSG(emulate_allocated(0) == before && emulate_handles() == handles, "call %d: %zu bytes and %d handles are left", (int)n, emulate_allocated(0) - before, emulate_handles() - handles);
        if (!failed) break;
        told += status != YOLO_OK;
        CHECK_MSG(status == YOLO_OK || error.message[0], "call %d: %d, '%s'", (int)n, status, error.message);
    }
    CHECK(told > 5);
}

static void test_gpu_small_memory(void) {
    yolo_train_options o = gpu_step_small("gpu_small");
    yolo_train_report report;
    yolo_error error = {0};
    o.device = "0";
    o.batch = 8;
    o.imgsz = 320;
    emulate_set_memory(230 << 20);
    CHECK_MSG(yolo_train(o, &report, &error) == YOLO_ERROR_MEMORY && strstr(error.message, "largest batch that fits is"), "%s", error.message);
    emulate_set_memory((size_t)2 << 30);
}

/* Listens to a training, and does something to the device when epoch `at` begins. */
typedef struct gpu_step_saboteur { int at, heads; int64_t lose_after; size_t memory; char last[2048]; } gpu_step_saboteur;

static void gpu_step_sabotage(void *user, yolo_log_level level, const char *text) {
    gpu_step_saboteur *s = user;
    (void)level;
    snprintf(s->last, sizeof s->last, "%s", text);
    if (!strstr(text, "box_loss") || ++s->heads != s->at) return;
    if (s->memory) emulate_set_memory(s->memory);
    if (s->lose_after) emulate_fail_after(s->lose_after);
    if (s->lose_after) emulate_fail_with(214 /* uncorrectable ECC error */, 1);
}

/* Resumes the run's last.pt on GPU 0; what it ends in. */
static uint64_t gpu_step_resumed(const yolo_train_report *before) {
    yolo_train_options o = tr_defaults();
    yolo_train_report report;
    yolo_error error = {0};
    char last[1100];
    snprintf(last, sizeof last, "%s/weights/last.pt", before->folder);
    o.model = last;
    o.resume = true;
    o.device = "0";
    o.threads = 2;
    const yolo_status status = yolo_train(o, &report, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    return status == YOLO_OK ? test_train_hash(&report) : 0;
}

/* The GPU is lost in the second of two epochs, sooner and later: last.pt holds the first, and leads to where an undisturbed run ends. */
static void test_gpu_lost(void) {
    static const int64_t calls[] = {1, 60, 400};
    yolo_train_options o = gpu_step_short("gpu_lost");
    yolo_train_report report;
    yolo_error error = {0};
    o.epochs = 2;
    CHECK_MSG(yolo_train(o, &report, &error) == YOLO_OK, "%s", error.message);
    const uint64_t want = test_train_hash(&report);
    for (int i = 0; i < YOLO_COUNT(calls); i++) {
        gpu_step_saboteur saboteur = {.at = 2, .lose_after = calls[i]};
        const size_t before = emulate_allocated(0);
        const int handles = emulate_handles();
        o.log = (yolo_log){gpu_step_sabotage, &saboteur};
        CHECK(yolo_train(o, &report, &error) == YOLO_ERROR_DEVICE);
        CHECK_MSG(strstr(error.message, "uncorrectable ECC error") && strstr(error.message, "the GPU is lost to this process"), "%s", error.message);
        CHECK_MSG(strstr(saboteur.last, "1 epochs are saved; to go on: yolo train resume=true"), "%s", saboteur.last);
        CHECK(emulate_failed());
        emulate_fail_after(0);
        CHECK(emulate_allocated(0) == before && emulate_handles() == handles);
        CHECK_MSG(gpu_step_resumed(&report) == want, "lost after %d calls", (int)calls[i]);
    }
}

/* Another program takes memory after the plan was made, before the first batch has all of its own. */
static void test_gpu_memory_gone(void) {
    static const struct { size_t memory; const char *advice; } cases[] = {{200 << 20, "the largest batch that fits now is "}, {60 << 20, "now not even one picture of 320 fits"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        gpu_step_saboteur saboteur = {.at = 1, .memory = cases[i].memory};
        yolo_train_options o = gpu_step_short("gpu_memory");
        yolo_train_report report;
        yolo_error error = {0};
        const size_t before = emulate_allocated(0);
        o.model = "weights/shapes.pt"; /* large enough beside what other tests keep on the device */
        o.imgsz = 320;
        o.batch = 10;
        o.log = (yolo_log){gpu_step_sabotage, &saboteur};
        CHECK(yolo_train(o, &report, &error) == YOLO_ERROR_MEMORY);
        CHECK_MSG(strstr(error.message, "MiB wanted, ") && strstr(error.message, "MiB are free") && strstr(error.message, cases[i].advice), "%s", error.message);
        CHECK(emulate_allocated(0) == before);
        emulate_set_memory((size_t)2 << 30);
    }
}

/* What a val or label makes of calls that fail for good: a sentence, and nothing left on the device. */
static yolo_status gpu_step_use(bool label, yolo_error *error) {
    yolo_open_options open = yolo_open_defaults();
    yolo_val_options val = yolo_val_defaults();
    yolo_label_options options = yolo_label_defaults();
    yolo_label_report report = {0};
    yolo_metrics metrics = {0};
    yolo_model *model = NULL;
    char source[600];
    if (!test_train_data()) return YOLO_ERROR_IO;
    snprintf(source, sizeof source, "%s/images/val", test_temp("train_data"));
    open.device = "0";
    open.threads = 2;
    val.data = test_train_data();
    val.imgsz = options.predict.imgsz = 64;
    options.source = source;
    options.out = test_temp("gpu_labels");
    options.existing = YOLO_EXISTING_REPLACE;
    yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, error);
    if (status == YOLO_OK) status = label ? yolo_label(model, options, &report, error) : yolo_val(model, val, &metrics, error);
    yolo_metrics_free(&metrics);
    yolo_label_report_free(&report);
    yolo_model_close(model);
    return status;
}

static void test_gpu_use_lost(void) {
    for (int label = 0; label < 2; label++) {
        const size_t before = emulate_allocated(0);
        const int handles = emulate_handles();
        int told = 0;
        for (int64_t n = 1; n < 100000; n += 1 + n / 2) {
            yolo_error error = {0};
            emulate_fail_after(n);
            emulate_fail_with(214, 1);
            const yolo_status status = gpu_step_use(label, &error);
            const bool failed = emulate_failed();
            emulate_fail_after(0);
            CHECK_MSG(emulate_allocated(0) == before && emulate_handles() == handles, "call %d: %zu bytes are left", (int)n, emulate_allocated(0) - before);
            if (!failed) {
                CHECK_MSG(status == YOLO_OK, "%s", error.message);
                break;
            }
            told += status == YOLO_ERROR_DEVICE;
            CHECK_MSG(status == YOLO_ERROR_DEVICE && strstr(error.message, "uncorrectable ECC error"), "%s, call %d: %d, '%s'", label ? "label" : "val", (int)n, status, error.message);
        }
        CHECK(told > 5);
    }
}

/* The status of `yolo train` on GPU 0, as a shell sees it. */
static int gpu_step_exit_status(void) {
    char data[700];
    snprintf(data, sizeof data, "data=%s", test_train_data());
    char *arguments[] = {"train", "model=weights/shapes.pt", data, "device=0", "epochs=1", "imgsz=32", NULL};
    return cli_main(arguments);
}

/* A program without code for the device, as the driver tells when it is asked about a kernel. */
static void test_gpu_no_code(void) {
    static const struct { int major, minor; const char *advice; } cases[] = {{8, 9, "build it with ./build.sh cuda arch=sm_89"}, {5, 2, "6.0 or newer is needed"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        bool told = false;
        emulate_set_capability(cases[i].major, cases[i].minor);
        for (int n = 1; n < 30 && !told; n++) {
            yolo_error error = {0};
            run_place place = run_cpu;
            emulate_fail_after(n);
            emulate_fail_with(209 /* no kernel image for the device */, 0);
            const yolo_status status = dev_place("0", true, &place, &error);
            told = status == YOLO_ERROR_DEVICE && strstr(error.message, cases[i].advice);
            dev_close(&place);
        }
        CHECK_MSG(told, "%s", cases[i].advice);
        emulate_fail_after(0);
        emulate_set_capability(8, 6);
    }
}

/* device=auto: the first GPU, and the CPU where there is none or its driver is missing or old. */
static void test_gpu_auto(void) {
    static const char *const names[] = {NULL, "", "auto", "AUTO"};
    gpu_device();
    for (int count = -2; count <= 2; count++)
        for (int i = 0; i < YOLO_COUNT(names); i++) {
            run_place place;
            yolo_error error;
            emulate_set_device_count(count);
            CHECK(dev_place(names[i], true, &place, &error) == YOLO_OK);
            CHECK(count > 0 ? place.gpu == 0 && place.half && place.device : place.gpu < 0 && !place.device);
            dev_close(&place);
        }
    emulate_set_device_count(2);
}

static void test_gpu_absent(void) {
    yolo_error error;
    run_place place;
    static const struct { int count; const char *said; } counts[] = {{0, "no GPU detected"}, {-1, "no NVIDIA driver is installed"}, {-2, "install a newer driver"}};
    for (int i = 0; i < YOLO_COUNT(counts); i++) {
        yolo_train_options o = gpu_step_short("gpu_absent");
        yolo_train_report report;
        emulate_set_device_count(counts[i].count);
        CHECK_MSG(yolo_train(o, &report, &error) == YOLO_ERROR_DEVICE && strstr(error.message, counts[i].said) && strstr(error.message, "device=cpu"), "%s", error.message);
        CHECK(gpu_step_exit_status() == 1);
    }
    emulate_set_device_count(-1);
    CHECK(dev_place("0", true, &place, &error) == YOLO_ERROR_DEVICE && strstr(error.message, "no NVIDIA driver is installed"));
    emulate_set_device_count(-2);
    CHECK(dev_place("0", true, &place, &error) == YOLO_ERROR_DEVICE && strstr(error.message, "install a newer driver"));
    emulate_set_device_count(2);
    CHECK(dev_place("2", true, &place, &error) == YOLO_ERROR_DEVICE && strstr(error.message, "GPU 2 not available: 2 GPU(s) detected (0: "));
    CHECK(dev_place("0,1", true, &place, &error) == YOLO_ERROR_UNSUPPORTED);
    CHECK(dev_place("1", true, &place, &error) == YOLO_OK && place.device && place.gpu == 1);
    dev_close(&place);
}

/* Several: those that are named, or all; a GPU that cannot be opened closes the others, and auto goes on without it. */
static void test_gpu_places(void) {
    static const struct { const char *device; int count, gpus[3]; } cases[] = {{"auto", 3, {0, 1, 2}}, {NULL, 3, {0, 1, 2}}, {"2,0", 2, {2, 0}}, {"cpu", 1, {-1}}, {"1", 1, {1}}};
    run_places places;
    yolo_error error;
    gpu_device();
    emulate_set_device_count(3);
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        CHECK(dev_places(cases[i].device, false, RUN_PLACES, &places, &error) == YOLO_OK && places.count == cases[i].count);
        for (int r = 0; r < places.count; r++) CHECK(places.items[r].gpu == cases[i].gpus[r] && !places.items[r].device == (cases[i].gpus[r] < 0));
        dev_close_places(&places);
    }
    const int handles = emulate_handles();
    for (int n = 1; n < 12; n++) {
        emulate_fail_after(n);
        CHECK(dev_places("0,1,2", true, RUN_PLACES, &places, &error) == YOLO_OK || (places.count == 1 && places.items[0].gpu < 0 && error.message[0]));
        dev_close_places(&places);
        emulate_fail_after(n);
        CHECK(dev_places("auto", true, RUN_PLACES, &places, &error) == YOLO_OK);
        dev_close_places(&places);
        emulate_fail_after(0);
        CHECK(emulate_handles() == handles);
    }
    CHECK(dev_places("0,3", true, RUN_PLACES, &places, &error) == YOLO_ERROR_DEVICE && strstr(error.message, "GPU 3 not available: 3 GPU(s) detected (0: "));
    emulate_set_device_count(2);
}
#endif

static const test_case tests_gpu_step[] = {
    {"forward", "heads as on the CPU, in float and in fp16", test_gpu_forward},
    {"predict", "boxes of a picture as on the CPU", test_gpu_predict},
    {"val", "metrics as on the CPU, from another device and other threads", test_gpu_val},
    {"step", "losses, gradients and statistics of a batch as on the CPU; twice the same bits", test_gpu_batch},
    {"upsampled", "upsamplings that are not written change nothing and save their launches", test_gpu_upsampled},
    {"pairs", "bottlenecks in one kernel: the same bits, fewer launches", test_gpu_pairs},
    {"train", "two epochs end as on the CPU", test_gpu_train},
    {"resume", "interrupted and resumed: the same bits", test_gpu_train_resume},
#ifdef TEST_EMULATED
    {"ahead", "the same bits however late work is done and however early uploads are", test_gpu_train_ahead},
    {"faults", "calls that fail: a sentence, nothing left behind", test_gpu_faults},
    {"small_memory", "a batch that does not fit is refused with the largest that does", test_gpu_small_memory},
    {"lost", "a GPU that is lost in mid-run: the run goes on from last.pt to the same bits", test_gpu_lost},
    {"memory_gone", "memory that another program takes after the start", test_gpu_memory_gone},
    {"use_lost", "a GPU that is lost in val and label", test_gpu_use_lost},
    {"no_code", "no code for the architecture", test_gpu_no_code},
    {"auto", "the first GPU, else the CPU", test_gpu_auto},
    {"absent", "no driver, an old one, no such GPU", test_gpu_absent},
    {"places", "several GPUs, named or all", test_gpu_places},
#endif
};
