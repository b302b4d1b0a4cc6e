/* gpu_loss.c - assignment, losses and gradients against section 18. */

typedef struct gpu_loss_case {
    net n;
    int pictures, side, most;
    yg_type type;
    ten heads[3], gradients[3]; /* of the CPU: what the device's heads hold */
    gpu_block device_heads[3], device_gradients[3];
    loss_target *targets;
    int *first;
    void *workspace;
    yg_loss loss;
} gpu_loss_case;

static const loss_gains gpu_loss_gains = {7.5f, 0.5f, 1.5f};

/* Logits as a network has them: each side of a box has its own idea of far, most classes are unlikely. */
static void gpu_loss_fill(float *values, size_t pixels, int classes, uint64_t seed, yg_type type) {
    rng r = {.key = seed};
    for (size_t p = 0; p < pixels; p++) {
        float *logits = values + p * (size_t)(LOSS_SIDES + classes);
        for (int side = 0; side < 4; side++) {
            const float slope = (float)(rng_uniform(&r) * 1.8 - 0.2);
            for (int i = 0; i < NET_REG_MAX; i++) logits[side * NET_REG_MAX + i] = gpu_round((float)(rng_uniform(&r) * 3) - slope * (float)i, type);
        }
        for (int c = 0; c < classes; c++) logits[LOSS_SIDES + c] = gpu_round((float)(rng_uniform(&r) * 8 - 6), type);
    }
}

/* Heads of levels 8, 16, 32 of a square input, room for `most` targets, pixels with `extra` channels, `before` of them in front. */
static void gpu_loss_start(gpu_loss_case *t, int pictures, int classes, int side, int most, int extra, int before, yg_type type) {
    memset(t, 0, sizeof *t);
    t->pictures = pictures;
    t->side = side;
    t->most = most;
    t->type = type;
    t->n.class_count = t->loss.class_count = classes;
    t->n.level_count = t->loss.levels = 3;
    const int channels = LOSS_SIDES + classes;
    for (int l = 0; l < 3; l++) {
        const int stride = t->n.strides[l] = t->loss.strides[l] = 8 << l, w = side / stride;
        const size_t pixels = (size_t)pictures * (size_t)w * (size_t)w;
        t->heads[l] = gpu_ten(mem_array(pixels * (size_t)channels, sizeof(float)), pictures, w, w, channels);
        t->gradients[l] = gpu_ten(mem_array(pixels * (size_t)channels, sizeof(float)), pictures, w, w, channels);
        gpu_loss_fill(t->heads[l].data, pixels, classes, (uint64_t)(l + 10 * classes), type);
        t->device_heads[l] = gpu_tensor(pictures, w, w, channels, channels + extra, before, type);
        t->device_gradients[l] = gpu_tensor(pictures, w, w, channels, channels + extra, before, type);
        gpu_write(&t->device_heads[l], t->heads[l].data);
        t->loss.heads[l] = t->device_heads[l].t;
        t->loss.gradients[l] = t->device_gradients[l].t;
    }
    t->targets = mem_array((size_t)most + 1, sizeof *t->targets);
    t->first = mem_array((size_t)pictures + 1, sizeof *t->first);
    memset(t->first, 0, ((size_t)pictures + 1) * sizeof *t->first);
    t->workspace = mem_alloc(loss_workspace(&t->n, t->heads, most));
    t->loss.targets = yg_alloc(gpu_device(), (size_t)most * sizeof *t->targets);
    t->loss.first = yg_alloc(gpu_device(), ((size_t)pictures + 1) * sizeof *t->first);
    t->loss.most_targets = most;
    t->loss.box = gpu_loss_gains.box;
    t->loss.cls = gpu_loss_gains.cls;
    t->loss.dfl = gpu_loss_gains.dfl;
    t->loss.workspace = yg_alloc(gpu_device(), yg_loss_bytes(&t->loss));
    t->loss.sums = yg_alloc(gpu_device(), 4 * sizeof(double));
}

static void gpu_loss_end(gpu_loss_case *t) {
    for (int l = 0; l < 3; l++) {
        mem_free(t->heads[l].data);
        mem_free(t->gradients[l].data);
        gpu_free(&t->device_heads[l]);
        gpu_free(&t->device_gradients[l]);
    }
    mem_free(t->targets);
    mem_free(t->first);
    mem_free(t->workspace);
    yg_free(gpu_device(), (void *)(uintptr_t)t->loss.targets);
    yg_free(gpu_device(), (void *)(uintptr_t)t->loss.first);
    yg_free(gpu_device(), (void *)(uintptr_t)t->loss.scale);
    yg_free(gpu_device(), t->loss.workspace);
    yg_free(gpu_device(), t->loss.sums);
}

/* Targets of all kinds, counts[i] for picture i: tiny, long, as large as the picture, half outside, the same again. */
static void gpu_loss_targets(gpu_loss_case *t, const int *counts, uint64_t seed) {
    rng r = {.key = seed};
    const double side = t->side;
    for (int i = 0; i < t->pictures; i++) t->first[i + 1] = t->first[i] + counts[i];
    for (int i = 0; i < t->first[t->pictures]; i++) {
        const double x = rng_uniform(&r) * side * 1.1, y = rng_uniform(&r) * side * 1.1, sizes[] = {4, 30, side / 3, side / 2};
        const double size = sizes[i % 4], w = (0.1 + rng_uniform(&r)) * size, h = (0.1 + rng_uniform(&r)) * size;
        t->targets[i] = (loss_target){(int)(rng_uniform(&r) * t->n.class_count), {(float)(x - w / 2), (float)(y - h / 2), (float)(x + w / 2), (float)(y + h / 2)}};
        if (i % 9 == 5) memcpy(t->targets[i].box, t->targets[i - 1].box, sizeof t->targets[i].box);
        if (i % 13 == 7) t->targets[i] = t->targets[i - 2];
        if (i % 17 == 6) t->targets[i] = (loss_target){0, {(float)-w - 50, (float)-h - 50, -50, -50}};
        if (i % 17 == 11) t->targets[i] = (loss_target){0, {-100, -100, 50, 40}}; /* its sides' sum is negative: it gets nothing */
    }
}

static void gpu_loss_upload(gpu_loss_case *t) {
    yg_upload(gpu_device(), (void *)(uintptr_t)t->loss.first, t->first, ((size_t)t->pictures + 1) * sizeof *t->first);
    yg_upload(gpu_device(), (void *)(uintptr_t)t->loss.targets, t->targets, (size_t)t->first[t->pictures] * sizeof *t->targets);
    gpu_finish();
}

static loss_sums gpu_loss_sums(const gpu_loss_case *t) {
    loss_sums sums;
    yg_download(gpu_device(), &sums, t->loss.sums, sizeof sums);
    gpu_finish();
    return sums;
}

static bool gpu_loss_near(double a, double b) { return (a != a && b != b) || fabs(a - b) <= 1e-5 * fabs(b); }

static void gpu_loss_check_sums(const gpu_loss_case *t, const loss_sums *want) {
    const loss_sums have = gpu_loss_sums(t);
    CHECK_MSG(gpu_loss_near(have.box, want->box), "box %.9g, expected %.9g", have.box, want->box);
    CHECK_MSG(gpu_loss_near(have.cls, want->cls), "cls %.9g, expected %.9g", have.cls, want->cls);
    CHECK_MSG(gpu_loss_near(have.dfl, want->dfl), "dfl %.9g, expected %.9g", have.dfl, want->dfl);
    CHECK_MSG(gpu_loss_near(have.score, want->score), "score %.9g, expected %.9g", have.score, want->score);
}

/* Pixels whose box logits have a gradient: those that are assigned, where it does not round to nothing. */
static int gpu_loss_assigned(const float *gradient, size_t pixels, int channels, bool *assigned) {
    int count = 0;
    for (size_t p = 0; p < pixels; p++) {
        assigned[p] = false;
        for (int i = 0; i < LOSS_SIDES; i++) assigned[p] |= gradient[p * (size_t)channels + (size_t)i] != 0;
        count += assigned[p];
    }
    return count;
}

/* Gradients against the CPU's, which are multiplied by scale. Returns the number of assigned anchors. */
static int gpu_loss_check_gradients(const gpu_loss_case *t, float scale) {
    static const double energy[] = {1e-9, 3e-7, 1e-5}, largest[] = {1e-5, 5e-4, 4e-3};
    int count = 0;
    for (int l = 0; l < 3; l++) {
        const ten *g = &t->gradients[l];
        const size_t pixels = (size_t)g->n * (size_t)g->h * (size_t)g->w;
        float *have = gpu_read(&t->device_gradients[l]);
        bool *a = mem_alloc(pixels), *b = mem_alloc(pixels);
        for (size_t i = 0; i < pixels * (size_t)g->c; i++) g->data[i] *= scale;
        gpu_compare("gradients", have, g->data, pixels * (size_t)g->c, energy[t->type], largest[t->type]);
        count += gpu_loss_assigned(g->data, pixels, g->c, b);
        gpu_loss_assigned(have, pixels, g->c, a);
        for (size_t p = 0; p < pixels && t->type == YG_F32; p++)
            CHECK_MSG(a[p] == b[p], "level %d, pixel %zu is %s", l, p, b[p] ? "not assigned" : "assigned");
        mem_free(have);
        mem_free(a);
        mem_free(b);
    }
    return count;
}

static loss_sums gpu_loss_expect(gpu_loss_case *t) {
    return loss_sum(&t->n, t->heads, t->gradients, t->targets, t->first, gpu_loss_gains, t->workspace, NULL, NULL);
}

/* One call against section 18. Returns the number of assigned anchors. */
static int gpu_loss_check(gpu_loss_case *t, const int *counts, uint64_t seed, float scale) {
    if (counts) gpu_loss_targets(t, counts, seed);
    gpu_loss_upload(t);
    const loss_sums want = gpu_loss_expect(t);
    yg_loss_detect(gpu_device(), &t->loss);
    gpu_loss_check_sums(t, &want);
    return gpu_loss_check_gradients(t, scale);
}

/* Types, classes, batches, pixels that are aligned and that are not, pictures without targets. */
static void test_gpu_loss_cases(void) {
    static const struct { int pictures, classes, extra, before, counts[3], least; } shapes[] = {
        {1, 80, 0, 0, {20}, 40}, {3, 80, 16, 8, {7, 0, 15}, 60}, {3, 1, 0, 0, {0, 12, 8}, 30}, {1, 1, 7, 0, {20}, 60},
        {3, 5, 3, 1, {8, 12, 0}, 30}, {2, 12, 4, 0, {0, 0}, 0}, {1, 300, 4, 0, {30}, 60}};
    for (int s = 0; s < YOLO_COUNT(shapes); s++)
        for (int type = YG_F32; type <= YG_BF16; type++) {
            gpu_loss_case t;
            gpu_loss_start(&t, shapes[s].pictures, shapes[s].classes, 192, 64, shapes[s].extra, shapes[s].before, (yg_type)type);
            const int assigned = gpu_loss_check(&t, shapes[s].counts, (uint64_t)(s + 1), 1);
            CHECK_MSG(assigned >= shapes[s].least, "case %d: %d anchors assigned", s, assigned);
            gpu_loss_end(&t);
        }
}

/* Hundreds of targets in one picture, hundreds of times the same one. */
static void test_gpu_loss_crowd(void) {
    gpu_loss_case t;
    const int counts[] = {2, 400};
    gpu_loss_start(&t, 2, 3, 192, 402, 5, 0, YG_F32);
    CHECK(gpu_loss_check(&t, counts, 3, 1) > 300);
    for (int i = 3; i < 402; i++) t.targets[i] = t.targets[2];
    CHECK(gpu_loss_check(&t, NULL, 0, 1) > 5);
    gpu_loss_end(&t);
}

/* One picture of 2 classes whose predictions reach 7.5 strides to each side, exactly. */
static void gpu_loss_start_even(gpu_loss_case *t) {
    gpu_loss_start(t, 1, 2, 192, 3, 0, 0, YG_F32);
    for (int l = 0; l < 3; l++) {
        const size_t pixels = (size_t)t->heads[l].h * (size_t)t->heads[l].w;
        for (size_t p = 0; p < pixels; p++) memset(t->heads[l].data + p * (LOSS_SIDES + 2), 0, LOSS_SIDES * sizeof(float));
        gpu_write(&t->device_heads[l], t->heads[l].data);
    }
    t->first[1] = 3;
}

/* Predictions whose edges are exactly those of targets: an edge that two boxes share counts half for each. */
static void test_gpu_loss_edges(void) {
    gpu_loss_case t;
    gpu_loss_start_even(&t);
    t.targets[0] = (loss_target){0, {32, 32, 152, 152}}; /* of the cell (11, 11) */
    t.targets[1] = (loss_target){1, {40, 32, 160, 100}};
    t.targets[2] = (loss_target){0, {16, 24, 80, 144}};
    CHECK(gpu_loss_check(&t, NULL, 0, 1) > 15);
    gpu_loss_end(&t);
}

/* Anchor 5 aligns by nothing with the first target, which claims it all the same, and well with the second; that makes two claims,
   and it goes to the third, which it overlaps most and which did not claim it. */
static void test_gpu_loss_nothing(void) {
    gpu_loss_case t;
    gpu_loss_start_even(&t);
    t.targets[0] = (loss_target){0, {43.5f, 1, 44.5f, 7}};
    t.targets[1] = (loss_target){0, {20, -18, 70, 30}};
    t.targets[2] = (loss_target){1, {-16, -56, 104, 64}}; /* as predicted */
    float *classes = t.heads[0].data + 5 * (LOSS_SIDES + 2) + LOSS_SIDES;
    classes[0] = 10;
    classes[1] = -60;
    gpu_write(&t.device_heads[0], t.heads[0].data);
    CHECK(gpu_loss_check(&t, NULL, 0, 1) > 10);
    CHECK(((const loss_image *)t.workspace)[0].claims[5] == 2 && ((const loss_image *)t.workspace)[0].target[5] == 2);
    gpu_loss_end(&t);
}

static void test_gpu_loss_scale(void) {
    for (int type = YG_F32; type <= YG_BF16; type++) {
        gpu_loss_case t;
        const int counts[] = {20};
        const float scale = 512;
        gpu_loss_start(&t, 1, 8, 192, 20, 0, 0, (yg_type)type);
        t.loss.scale = gpu_floats(&scale, 1);
        CHECK(gpu_loss_check(&t, counts, 4, scale) > 30);
        gpu_loss_end(&t);
    }
}

/* The same bits twice; without gradients the same sums, and no gradient is written. */
static void test_gpu_loss_same(void) {
    for (int type = YG_F32; type <= YG_BF16; type++) {
        gpu_loss_case t;
        const int counts[] = {30, 0, 12};
        gpu_loss_start(&t, 3, 9, 192, 42, 7, 0, (yg_type)type);
        gpu_loss_targets(&t, counts, 5);
        gpu_loss_upload(&t);
        yg_loss_detect(gpu_device(), &t.loss);
        const loss_sums sums = gpu_loss_sums(&t);
        float *gradients[3];
        for (int l = 0; l < 3; l++) gradients[l] = gpu_read(&t.device_gradients[l]);
        yg_loss_detect(gpu_device(), &t.loss);
        loss_sums again = gpu_loss_sums(&t);
        CHECK(!memcmp(&sums, &again, sizeof sums));
        for (int l = 0; l < 3; l++) {
            float *twice = gpu_read(&t.device_gradients[l]);
            CHECK(!memcmp(gradients[l], twice, gpu_count(&t.device_gradients[l].t) * sizeof *twice));
            mem_free(twice);
            mem_free(gradients[l]);
            yg_clear(gpu_device(), t.device_gradients[l].memory, t.device_gradients[l].bytes);
            t.loss.gradients[l].data = NULL;
        }
        yg_loss_detect(gpu_device(), &t.loss);
        again = gpu_loss_sums(&t);
        CHECK(!memcmp(&sums, &again, sizeof sums));
        for (int l = 0; l < 3; l++) {
            const gpu_block *b = &t.device_gradients[l];
            uint8_t *bytes = mem_alloc(b->bytes);
            size_t written = 0;
            yg_download(gpu_device(), bytes, b->memory, b->bytes);
            gpu_finish();
            for (size_t i = 0; i < b->bytes; i++) written += bytes[i] != 0;
            CHECK_MSG(written == 0, "%zu bytes of gradients written", written);
            mem_free(bytes);
        }
        gpu_loss_end(&t);
    }
}

/* Recorded once, done with other targets each time: fewer, none, as many as there is room for. */
static void test_gpu_loss_record(void) {
    gpu_loss_case t;
    static const int counts[][2] = {{5, 4}, {0, 3}, {0, 0}, {12, 8}, {20, 0}};
    gpu_loss_start(&t, 2, 6, 192, 20, 2, 0, YG_F32);
    yg_record(gpu_device());
    yg_loss_detect(gpu_device(), &t.loss);
    yg_graph *graph = yg_recorded(gpu_device());
    CHECK(graph != NULL);
    for (int i = 0; i < YOLO_COUNT(counts) && graph; i++) {
        gpu_loss_targets(&t, counts[i], (uint64_t)(20 + i));
        gpu_loss_upload(&t);
        const loss_sums want = gpu_loss_expect(&t);
        yg_replay(gpu_device(), graph);
        gpu_loss_check_sums(&t, &want);
        gpu_loss_check_gradients(&t, 1);
    }
    yg_graph_free(graph);
    gpu_loss_end(&t);
}

/* NaN and infinities: the sums are no numbers where the CPU's are none. */
static void test_gpu_loss_nan(void) {
    static const float values[] = {NAN, INFINITY, -INFINITY, 6e4f, -6e4f};
    for (int type = YG_F32; type <= YG_F16; type++) {
        gpu_loss_case t;
        const int counts[] = {3};
        gpu_loss_start(&t, 1, 3, 192, 3, 5, 0, (yg_type)type);
        gpu_loss_targets(&t, counts, 7);
        t.targets[0] = (loss_target){0, {60, 60, 120, 120}};
        gpu_loss_upload(&t);
        for (int k = 0; k < YOLO_COUNT(values); k++)
            for (int c = 0; c < LOSS_SIDES + 3; c += 6) {
                float *logit = t.heads[0].data + (size_t)(11 * 24 + 11) * (LOSS_SIDES + 3) + c, kept = *logit;
                *logit = values[k];
                gpu_write(&t.device_heads[0], t.heads[0].data);
                const loss_sums want = gpu_loss_expect(&t);
                yg_loss_detect(gpu_device(), &t.loss);
                gpu_loss_check_sums(&t, &want);
                if (k == 0) CHECK_MSG(want.box != want.box || want.cls != want.cls, "logit %d", c);
                *logit = kept;
            }
        gpu_loss_end(&t);
    }
}

/* On a device of its own, because its failure sticks. */
static void test_gpu_loss_refuses(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    yg_loss loss = {.levels = 1, .class_count = 4, .strides = {8}};
    loss.heads[0] = (yg_ten){NULL, 1, 4, 4, LOSS_SIDES + 3, LOSS_SIDES + 3, YG_F16};
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_loss_detect(gpu, &loss);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "do not belong together"), "%s", reason);
    yg_close(gpu);
}

static const test_case tests_gpu_loss[] = {
    {"loss_cases", "losses, gradients and assignment are section 18's", test_gpu_loss_cases},
    {"loss_crowd", "400 targets in a picture, 400 times the same", test_gpu_loss_crowd},
    {"loss_edges", "edges that predictions and targets share", test_gpu_loss_edges},
    {"loss_nothing", "an anchor that aligns by nothing is claimed", test_gpu_loss_nothing},
    {"loss_scale", "gradients are multiplied by a number on the device", test_gpu_loss_scale},
    {"loss_same", "the same bits twice, and without gradients", test_gpu_loss_same},
    {"loss_record", "recorded once, done with other targets", test_gpu_loss_record},
    {"loss_nan", "NaN and infinite logits", test_gpu_loss_nan},
    {"loss_refuses", "heads that do not belong together", test_gpu_loss_refuses},
};
