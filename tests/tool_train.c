/* tool_train.c - steps of a training from a shell, for tests/oracle_train.py and for measuring.

   tool_train step MODEL.pt BATCH OUT.ref [THREADS]   losses, heads, gradients and running statistics of one batch
   tool_train steps MODEL.pt OUT.ref OPTIMIZER LR0 WARMUP NBS BATCH...   losses of each batch, weights and their average in the end;
                                                      defaults else, five batches an epoch, ten epochs
   tool_train ranks MODEL.pt OUT.ref RANKS OPTIMIZER LR0 WARMUP NBS BATCH...   the same by the trainer's ranks
   tool_train time MODEL.pt N H W THREADS COUNT       ms of COUNT steps, the last one's operators, and the memory planned
   tool_train load DATA.yaml IMGSZ BATCH THREADS EPOCHS   img/s of each epoch of the trainer's loader when nothing uses its
                                                      batches; the first one decodes, the others find decoded pictures
   BATCH, little endian: int32 n, h, w, targets; floats (n,h,w,3); per target int32 image, class and float x1 y1 x2 y2 in
   pixels, in the order of the images. Exit status 1 with the sentence of the error on stderr. */
#define YOLO_NO_MAIN
#include "../yolo.c"

typedef struct tool_run {
    pt_model model;
    thr_pool *pool;
    grad_pass *pass;
    float *gradients;
    loss_target *targets;
    int *first, target_count;
    void *workspace;
    loss_parts parts;
} tool_run;

static void tool_put(FILE *f, uint32_t value) {
    uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    fwrite(bytes, 1, 4, f);
}

static void tool_head(FILE *f, const char *prefix, const char *name, int rank, const int *dims) {
    tool_put(f, (uint32_t)(strlen(prefix) + strlen(name)));
    fprintf(f, "%s%s", prefix, name);
    tool_put(f, 0);
    tool_put(f, (uint32_t)rank);
    for (int d = 0; d < rank; d++) tool_put(f, (uint32_t)dims[d]);
}

/* A row of a block of parameters, as a state dict has it. */
static void tool_row(FILE *f, const char *prefix, const net_param *row, const float *block) {
    const float *p = block + row->offset;
    tool_head(f, prefix, row->name, row->rank, row->dims);
    int inner = row->rank == 4 ? row->dims[1] : 1, plane = row->rank == 4 ? row->dims[2] * row->dims[3] : 1;
    for (int64_t o = 0; o < row->count / inner / plane; o++, p += (int64_t)inner * plane)
        for (int c = 0; c < inner; c++)
            for (int k = 0; k < plane; k++) fwrite(&p[(int64_t)k * inner + c], 4, 1, f);
}

static yolo_status tool_open(tool_run *run, const char *path, int n, int h, int w, int threads, yolo_error *error) {
    yolo_status status = pt_read(path, &run->model, error);
    if (status == YOLO_OK) run->pool = thr_pool_create(threads);
    if (status == YOLO_OK) status = grad_create(&run->pass, &run->model.net, op_isa_best(), run_cpu, run->pool, NULL, n, h, w, error);
    if (status == YOLO_OK) run->gradients = mem_array((uint64_t)run->model.net.param_elements, sizeof(float));
    return status;
}

static void tool_close(tool_run *run) {
    grad_destroy(run->pass);
    thr_pool_destroy(run->pool);
    pt_free(&run->model);
    mem_free(run->gradients);
    mem_free(run->targets);
    mem_free(run->first);
    mem_free(run->workspace);
}

/* The losses, and the gradients of the heads. */
static void tool_loss(tool_run *run) {
    ten heads[NET_MAX_LEVELS], gradients[NET_MAX_LEVELS];
    const loss_gains gains = {7.5f, 0.5f, 1.5f};
    for (int level = 0; level < run->model.net.level_count; level++) {
        heads[level] = grad_head(run->pass, level);
        gradients[level] = grad_head_gradient(run->pass, level);
    }
    if (!run->workspace) run->workspace = mem_alloc(loss_workspace(&run->model.net, heads, run->target_count));
    run->parts = loss_detect(&run->model.net, heads, gradients, run->targets, run->first, gains, run->workspace, run->pool, NULL);
}

static bool tool_read_batch(FILE *f, tool_run *run, const char *model, int threads, yolo_error *error) {
    int32_t sizes[4];
    if (fread(sizes, 4, 4, f) != 4) return false;
    if (!run->pass && tool_open(run, model, sizes[0], sizes[1], sizes[2], threads, error) != YOLO_OK) return false;
    mem_free(run->targets);
    mem_free(run->first);
    mem_free(run->workspace);
    run->workspace = NULL;
    const size_t floats = (size_t)sizes[0] * (size_t)sizes[1] * (size_t)sizes[2] * 3;
    bool whole = fread(grad_input(run->pass), 4, floats, f) == floats;
    run->target_count = sizes[3];
    run->targets = mem_array((uint64_t)sizes[3], sizeof *run->targets);
    run->first = mem_array((uint64_t)sizes[0] + 1, sizeof *run->first);
    for (int i = 0; i < sizes[3] && whole; i++) {
        int32_t image;
        whole = fread(&image, 4, 1, f) == 1 && fread(&run->targets[i].class_id, 4, 1, f) == 1 && fread(run->targets[i].box, 4, 4, f) == 4;
        for (int next = image + 1; next <= sizes[0] && whole; next++) run->first[next] = i + 1;
    }
    return whole;
}

/* What a step makes, into OUT.ref: losses and heads before the backward, in which the heads are lost, rows after it. */
static bool tool_write(tool_run *run, const char *path) {
    const net *net = &run->model.net;
    const float parts[3] = {(float)run->parts.box, (float)run->parts.cls, (float)run->parts.dfl};
    FILE *f = os_open(path, "wb");
    if (!f) return false;
    fwrite("YREF1\0\0\0", 1, 8, f);
    tool_put(f, (uint32_t)(1 + net->level_count + 2 * net->param_count));
    tool_head(f, "loss", "", 1, (const int[]){3});
    fwrite(parts, 4, 3, f);
    for (int level = 0; level < net->level_count; level++) {
        ten head = grad_head(run->pass, level);
        const char name[2] = {(char)('0' + level), 0};
        tool_head(f, "head.", name, 4, (const int[]){head.n, head.h, head.w, head.c});
        fwrite(head.data, sizeof(float), (size_t)head.n * (size_t)head.h * (size_t)head.w * (size_t)head.c, f);
    }
    grad_backward(run->pass, run->gradients);
    for (int i = 0; i < net->param_count; i++) {
        tool_row(f, "after.", &net->params[i], run->model.params);
        tool_row(f, "gradient.", &net->params[i], run->gradients);
    }
    return fclose(f) == 0;
}

static void tool_step(int argc, char **argv, yolo_error *error) {
    tool_run run = {0};
    FILE *f = os_open(argv[3], "rb");
    if (f && tool_read_batch(f, &run, argv[2], argc > 5 ? atoi(argv[5]) : 1, error)) {
        grad_forward(run.pass, run.model.params);
        tool_loss(&run);
        if (!tool_write(&run, argv[4])) snprintf(error->message, sizeof error->message, "cannot write %s", argv[4]);
    } else if (!error->message[0]) snprintf(error->message, sizeof error->message, "cannot read %s", argv[3]);
    if (f) fclose(f);
    tool_close(&run);
}

/* Into OUT.ref: the losses of each batch, and every row in the end. */
static bool tool_write_steps(const tool_run *run, const opt_state *state, const char *path, const float *losses, int count) {
    const net *net = &run->model.net;
    FILE *f = os_open(path, "wb");
    if (!f) return false;
    fwrite("YREF1\0\0\0", 1, 8, f);
    tool_put(f, (uint32_t)(1 + 2 * net->param_count));
    tool_head(f, "losses", "", 2, (const int[]){count, 3});
    fwrite(losses, sizeof *losses * 3, (size_t)count, f);
    for (int i = 0; i < net->param_count; i++) {
        tool_row(f, "after.", &net->params[i], run->model.params);
        tool_row(f, "average.", &net->params[i], state->ema);
    }
    return fclose(f) == 0;
}

enum { TOOL_STEPS = 64 };

static void tool_steps(int argc, char **argv, yolo_error *error) {
    tool_run run = {0};
    opt_state *state = NULL;
    float losses[TOOL_STEPS][3];
    const int count = YOLO_MIN(argc - 8, TOOL_STEPS);
    opt_settings set = {.lr0 = atof(argv[5]), .lrf = 0.01, .momentum = 0.937, .weight_decay = 5e-4, .warmup_epochs = atof(argv[6]),
                        .warmup_momentum = 0.8, .warmup_bias_lr = 0.1, .epochs = 10, .nbs = atoi(argv[7]), .batches = 5, .isa = op_isa_best()};
    bool good = opt_kind_of(argv[4], &set.kind);
    for (int i = 0; i < count && good; i++) {
        FILE *f = os_open(argv[8 + i], "rb");
        good = f && tool_read_batch(f, &run, argv[2], 2, error);
        if (f) fclose(f);
        if (good && !state) {
            set.batch = run.pass->n;
            set.pictures = set.batch * set.batches;
            set.class_count = run.model.net.class_count;
            good = opt_create(&state, &run.model.net, &set, NULL, error) == YOLO_OK;
            if (good) opt_begin(state, run.model.params);
        }
        if (!good) break;
        opt_schedule(state, i, (int)(i / set.batches));
        grad_forward(run.pass, run.model.params);
        tool_loss(&run);
        losses[i][0] = (float)run.parts.box, losses[i][1] = (float)run.parts.cls, losses[i][2] = (float)run.parts.dfl;
        grad_backward(run.pass, run.gradients);
        if (opt_due(state)) opt_step(state, run.model.params, run.gradients, run.pool);
    }
    if (good) good = tool_write_steps(&run, state, argv[3], losses[0], count);
    if (!good && !error->message[0]) snprintf(error->message, sizeof error->message, "cannot read a batch or write %s", argv[3]);
    opt_destroy(state);
    tool_close(&run);
}

typedef struct tool_shared { tr_run *run; tr_task task; } tool_shared;

static yolo_status tool_rank(com_rank *com, void *context, yolo_error *error) {
    tool_shared *shared = context;
    tr_rank *rank = &shared->run->ranks[com->index];
    return tr_share_step(rank, com, &shared->task, error);
}

/* Everything that steps of `run` need, for batches of the size of `read`. */
static yolo_status tool_make_ranks(tr_run *run, const tool_run *read, const char *model, yolo_error *error) {
    yolo_status status = pt_read(model, &run->model, error);
    run->batch = read->pass->n;
    run->largest = YOLO_MAX(read->pass->h, read->pass->w);
    run->class_count = run->model.net.class_count;
    run->epochs = 10;
    run->pictures = 5 * run->batch;
    if (status == YOLO_OK) status = tr_settle_ranks(run, error);
    if (status == YOLO_OK) status = tr_make_optimizer(run, error);
    return status == YOLO_OK ? tr_make_ranks(run, error) : status;
}

/* One step on the batch that lies in `read`. */
static yolo_status tool_step_ranks(tr_run *run, const tool_run *read, int number, float *losses, yolo_error *error) {
    const grad_pass *pass = read->pass;
    const size_t bytes = (size_t)pass->n * (size_t)pass->h * (size_t)pass->w * 3;
    int64_t pictures[TR_MAX_BATCH] = {0};
    dl_batch batch = {.pixels = mem_alloc(bytes), .n = pass->n, .h = pass->h, .w = pass->w, .targets = read->targets, .first = read->first, .pictures = pictures};
    tool_shared shared = {.run = run};
    for (size_t i = 0; i < bytes; i++) batch.pixels[i] = (uint8_t)lrintf(grad_input(read->pass)[i] * 255);
    opt_schedule(run->opt, number, number / 5);
    run->batch_now = &batch;
    run->measured = 0;
    shared.task = (tr_task){true, opt_due(run->opt), number};
    const yolo_status status = com_run(run->group, tool_rank, &shared, error);
    losses[0] = (float)run->losses.box, losses[1] = (float)run->losses.cls, losses[2] = (float)run->losses.dfl;
    mem_free(batch.pixels);
    return status;
}

static void tool_ranks(int argc, char **argv, yolo_error *error) {
    yolo_train_options o = tr_defaults();
    float losses[TOOL_STEPS][3];
    tool_run read = {0};
    const int count = YOLO_MIN(argc - 9, TOOL_STEPS);
    o.ranks = atoi(argv[4]);
    o.optimizer = argv[5];
    o.lr0 = atof(argv[6]);
    o.warmup_epochs = atof(argv[7]);
    o.nbs = atoi(argv[8]);
    tr_run *run = tr_create(&o, op_isa_best(), run_cpu);
    bool good = true;
    for (int i = 0; i < count && good; i++) {
        FILE *f = os_open(argv[9 + i], "rb");
        good = f && tool_read_batch(f, &read, argv[2], 1, error);
        if (f) fclose(f);
        if (good && !run->opt) good = tool_make_ranks(run, &read, argv[2], error) == YOLO_OK;
        if (good) good = tool_step_ranks(run, &read, i, losses[i], error) == YOLO_OK;
    }
    const tool_run out = {.model = run->model};
    if (good) good = tool_write_steps(&out, run->opt, argv[3], losses[0], count);
    if (!good && !error->message[0]) snprintf(error->message, sizeof error->message, "cannot read a batch or write %s", argv[3]);
    tr_close(run);
    mem_free(run);
    tool_close(&read);
}

/* An operator's line of the last step. */
static void tool_line(const tool_run *run, int i, double forward, double backward) {
    const net *net = &run->model.net;
    const net_op *op = &net->ops[i];
    const int down = net->buffers[net->tensors[op->out].buffer].down;
    const double flops = net_op_flops(net, op, run->pass->n, run->pass->h, run->pass->w);
    static const char *const kinds[] = {"conv", "maxpool", "upsample", "copy"};
    printf("%3d %2d %-8s %dx%d/%d %4d -> %4d  1/%-2d  forward %7.2f ms %6.1f GFLOP/s  backward %7.2f ms %6.1f GFLOP/s\n", i, op->layer,
           kinds[op->kind], op->kernel, op->kernel, op->stride, net->tensors[op->in].channels, net->tensors[op->out].channels, down,
           forward, flops / forward * 1e-6, backward, (run->pass->ops[i].in ? 2 : 1) * flops / backward * 1e-6);
}

static void tool_time(char **argv, yolo_error *error) {
    tool_run run = {0};
    const int n = atoi(argv[3]), h = atoi(argv[4]), w = atoi(argv[5]), count = atoi(argv[7]);
    if (tool_open(&run, argv[2], n, h, w, atoi(argv[6]), error) == YOLO_OK) {
        const grad_memory *m = &run.pass->memory;
        const int ops = run.model.net.op_count;
        rng r = {.key = 1};
        run.target_count = 8 * n;
        run.targets = mem_array((uint64_t)run.target_count, sizeof *run.targets);
        run.first = mem_array((uint64_t)n + 1, sizeof *run.first);
        for (int i = 0; i < run.target_count; i++) {
            const float x = (float)(rng_uniform(&r) * 0.7 * w), y = (float)(rng_uniform(&r) * 0.7 * h), side = (float)(0.05 + 0.2 * rng_uniform(&r));
            run.targets[i] = (loss_target){i % run.model.net.class_count, {x, y, x + side * (float)w, y + side * (float)h}};
        }
        for (int i = 0; i <= n; i++) run.first[i] = 8 * i;
        printf("MiB: activations %.0f, gradients %.0f, weights %.0f, workspace %.0f\n", (double)m->activations / 1048576,
               (double)m->gradients / 1048576, (double)m->weights / 1048576, (double)m->workspace / 1048576);
        for (int step = 0; step < count; step++) {
            double forward[NET_MAX_OPS], backward[NET_MAX_OPS], start = os_clock(), total = start;
            for (int64_t i = 0; i < (int64_t)n * h * w * 3; i++) grad_input(run.pass)[i] = (float)(i * 7919 % 1000) / 1000;
            printf("input %.1f ms, ", (os_clock() - start) * 1e3);
            total = os_clock();
            run.pass->params = run.model.params;
            for (int i = 0; i < ops; i++) {
                start = os_clock();
                grad_forward_op(run.pass, i, run.model.params);
                forward[i] = (os_clock() - start) * 1e3;
            }
            const double middle = os_clock();
            tool_loss(&run);
            const double after = os_clock();
            for (int i = ops - 1; i >= 0; i--) {
                start = os_clock();
                if (run.pass->ops[i].back) grad_backward_op(run.pass, i, run.gradients);
                backward[i] = (os_clock() - start) * 1e3;
            }
            const double end = os_clock();
            printf("forward %.1f, loss %.1f, backward %.1f, step %.1f ms, %.3f img/s\n", (middle - total) * 1e3, (after - middle) * 1e3,
                   (end - after) * 1e3, (end - total) * 1e3, n / (end - total));
            for (int i = 0; i < ops && step == count - 1; i++) tool_line(&run, i, forward[i], backward[i]);
        }
    }
    tool_close(&run);
}

/* The loader of a training with default options, on a machine that has memory for all of its pictures. */
static void tool_load(char **argv, yolo_error *error) {
    tr_run run = {.options = tr_defaults(), .imgsz = atoi(argv[3]), .batch = atoi(argv[4]), .model.net.max_stride = 32};
    const int epochs = atoi(argv[6]);
    run.options.workers = atoi(argv[5]);
    yolo_status status = data_open(&run.data, argv[2], error);
    if (status == YOLO_OK) status = data_split(&run.data, "train", &run.train, error);
    if (status == YOLO_OK) status = tr_make_loader(&run, UINT64_MAX, error);
    for (int epoch = 0; epoch < epochs && status == YOLO_OK; epoch++) {
        const double start = os_clock();
        dl_batch *batch;
        int64_t pictures = 0;
        dl_start(run.loader, epoch, true);
        while ((status = dl_next(run.loader, &batch, error)) == YOLO_OK && batch) pictures += batch->n;
        printf("epoch %d: %.2f img/s\n", epoch + 1, (double)pictures / (os_clock() - start));
    }
    dl_destroy(run.loader);
    data_close(&run.data);
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    yolo_error error = {0};
    if (!strcmp(verb, "step") && argc > 4) tool_step(argc, argv, &error);
    else if (!strcmp(verb, "steps") && argc > 8) tool_steps(argc, argv, &error);
    else if (!strcmp(verb, "ranks") && argc > 9) tool_ranks(argc, argv, &error);
    else if (!strcmp(verb, "time") && argc > 7) tool_time(argv, &error);
    else if (!strcmp(verb, "load") && argc > 6) tool_load(argv, &error);
    else snprintf(error.message, sizeof error.message, "usage: tool_train step MODEL.pt BATCH OUT.ref [THREADS] | steps MODEL.pt OUT.ref OPTIMIZER LR0 WARMUP NBS BATCH... | "
                  "ranks MODEL.pt OUT.ref RANKS OPTIMIZER LR0 WARMUP NBS BATCH... | time MODEL.pt N H W THREADS COUNT | load DATA.yaml IMGSZ BATCH THREADS EPOCHS");
    if (error.message[0]) fprintf(stderr, "%s\n", error.message);
    return error.message[0] != 0;
}
