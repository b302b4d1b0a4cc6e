/* test_opt.c - optimizers, warm-up, schedule, accumulation, clip, average; tests/make_opt.py makes the reference. */

enum { TEST_OPT_SAMPLES = 3, TEST_OPT_BATCHES = 20 };

static const char *const test_opt_cases[] = {
    "sgd", "musgd", "adam", "adamax", "adamw", "nadam", "radam", "rmsprop", "adaptive rate", "auto few", "auto many", "auto cold",
    "frozen", "short", "capped"};

typedef struct test_opt_run { net n; float *params, *gradients; opt_state *state; } test_opt_run;

static bool test_opt_start(test_opt_run *t, const opt_settings *settings, int frozen) {
    bool layers[NET_MAX_LAYERS] = {false};
    yolo_error error = {0};
    memset(t, 0, sizeof *t);
    if (!test_net_file(&t->n, "tests/fixtures/net_tiny.yaml", NULL)) return false;
    for (int i = 0; i < frozen; i++) layers[i] = true;
    t->params = mem_array((uint64_t)t->n.param_elements, sizeof(float));
    t->gradients = mem_array((uint64_t)t->n.param_elements, sizeof(float));
    net_init_params(&t->n, t->params, 7);
    test_net_random_norm(&t->n, t->params, 7);
    yolo_status status = opt_create(&t->state, &t->n, settings, layers, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    if (status == YOLO_OK) opt_begin(t->state, t->params);
    return status == YOLO_OK;
}

static void test_opt_end(test_opt_run *t) {
    opt_destroy(t->state);
    mem_free(t->params);
    mem_free(t->gradients);
    net_free(&t->n);
}

/* What the backward pass of a batch would give: the same in every run, so it is drawn once. */
static const float *test_opt_gradients(const net *n, int64_t batch) {
    static float *drawn[TEST_OPT_BATCHES];
    double scale = pow(10, (double)(batch % 4 - 3));
    if (drawn[batch]) return drawn[batch];
    float *g = drawn[batch] = mem_array((uint64_t)n->param_elements, sizeof *g);
    for (int i = 0; i < n->param_count; i++) {
        const net_param *row = &n->params[i];
        char key[120];
        snprintf(key, sizeof key, "%lld %s", (long long)batch, row->name);
        rng r = {.key = hash_bytes(key, strlen(key), 7)};
        for (int64_t j = 0; j < row->count; j++) g[row->offset + j] = (float)((2 * rng_uniform(&r) - 1) * scale);
    }
    return g;
}

/* Adds them; statistics move as well. */
static void test_opt_batch(test_opt_run *t, int64_t batch, int frozen) {
    const float *drawn = test_opt_gradients(&t->n, batch);
    int first = frozen ? t->n.layers[frozen].first_param : 0;
    for (int i = 0; i < t->n.param_count; i++) {
        const net_param *row = &t->n.params[i];
        float *p = t->params + row->offset, *g = t->gradients + row->offset;
        float move = str_ends_with(row->name, "running_mean") ? 0.01f : str_ends_with(row->name, "num_batches_tracked") ? 1.0f : 0;
        for (int64_t j = 0; j < row->count && move != 0; j++) p[j] += move;
        for (int64_t j = 0; j < row->count && row->group != NET_BN_STAT && row->group != NET_FROZEN && i >= first; j++) g[j] += drawn[row->offset + j];
    }
}

static opt_settings test_opt_settings(const double *v, opt_kind kind) {
    return (opt_settings){.kind = kind, .lr0 = v[0], .lrf = v[1], .momentum = v[2], .weight_decay = v[3], .warmup_epochs = v[4],
                          .warmup_momentum = v[5], .warmup_bias_lr = v[6], .cos_lr = v[7] != 0, .epochs = (int)v[8], .batch = (int)v[9],
                          .nbs = (int)v[10], .batches = (int64_t)v[11], .pictures = (int64_t)v[12], .class_count = 4,
                          .isa = op_isa_best()};
}

/* Largest difference of the samples of a block, by the size of the largest sample of its row. */
static double test_opt_compare(const net *n, const float *block, const ref_array *wanted) {
    double worst = 0;
    for (int i = 0; i < n->param_count; i++) {
        double size = 1e-3, difference = 0;
        for (int j = 0; j < TEST_OPT_SAMPLES; j++) {
            double have = (double)block[n->params[i].offset + j * n->params[i].count / TEST_OPT_SAMPLES];
            double want = (double)wanted->data[i * TEST_OPT_SAMPLES + j];
            size = YOLO_MAX(size, fabs(want));
            difference = fabs(have - want) > difference || have != have ? fabs(have - want) : difference;
        }
        worst = difference / size > worst || difference != difference ? difference / size : worst;
    }
    return worst;
}

static const ref_array *test_opt_get(const ref_file *ref, const char *name, const char *what) {
    char key[96];
    snprintf(key, sizeof key, "%s/%s", name, what);
    return ref_get(ref, key);
}

static void test_opt_case(const ref_file *ref, const char *name, thr_pool *pool) {
    const ref_array *settings = test_opt_get(ref, name, "settings"), *kind = test_opt_get(ref, name, "kind"), *trace = test_opt_get(ref, name, "trace");
    const ref_array *params = test_opt_get(ref, name, "params"), *ema = test_opt_get(ref, name, "ema");
    if (!settings || !kind || !trace || !params || !ema) return;
    double v[15];
    for (int i = 0; i < 15; i++) v[i] = (double)settings->data[i];
    test_opt_run t;
    opt_settings set = test_opt_settings(v, (opt_kind)kind->ints[0]);
    if (!test_opt_start(&t, &set, (int)v[14])) { test_opt_end(&t); return; }
    CHECK_MSG((int)t.state->settings.kind == kind->ints[1], "%s: %s", name, opt_kind_name(t.state->settings.kind));
    CHECK_MSG(t.state->group_count == trace->dims[1] - 3, "%s: %d groups", name, t.state->group_count);
    for (int i = 0; i < trace->dims[0]; i++) {
        const float *row = trace->data + (size_t)i * (size_t)trace->dims[1];
        opt_schedule(t.state, i, i / (int)set.batches);
        test_opt_batch(&t, i, (int)v[14]);
        double norm = opt_due(t.state) ? opt_step(t.state, t.params, t.gradients, pool) : -1;
        CHECK_MSG(fabs(norm - (double)row[0]) <= 1e-5 * fabs(norm), "%s: batch %d: norm %.7g against %.7g", name, i, norm, (double)row[0]);
        CHECK_MSG(t.state->accumulate == (int)row[1], "%s: batch %d: %d against %d", name, i, t.state->accumulate, (int)row[1]);
        if (row[2] >= 0) CHECK_NEAR(t.state->momentum, row[2], 1e-7);
        for (int j = 0; j < t.state->group_count; j++)
            CHECK_MSG(fabs(t.state->groups[j].lr - (double)row[3 + j]) <= 1e-8, "%s: batch %d, group %d: %.9g against %.9g", name, i, j,
                      t.state->groups[j].lr, (double)row[3 + j]);
    }
    double tolerance = t.state->settings.kind == OPT_MUSGD ? 1e-3 : 2e-5;
    double apart = test_opt_compare(&t.n, t.params, params), ema_apart = test_opt_compare(&t.n, t.state->ema, ema);
    CHECK_MSG(apart <= tolerance && ema_apart <= tolerance, "%s: parameters differ by %.2g, their average by %.2g", name, apart, ema_apart);
    test_opt_end(&t);
}

static void test_opt_reference(void) {
    ref_file ref;
    thr_pool *pool = thr_pool_create(2);
    CHECK(ref_open(&ref, "tests/fixtures/opt.ref"));
    for (int i = 0; i < YOLO_COUNT(test_opt_cases); i++) test_opt_case(&ref, test_opt_cases[i], pool);
    ref_close(&ref);
    thr_pool_destroy(pool);
}

/* Batches [from, to) of a run that learns with `kind`. */
static void test_opt_go(test_opt_run *t, int from, int to, thr_pool *pool) {
    for (int i = from; i < to; i++) {
        opt_schedule(t->state, i, i / 5);
        test_opt_batch(t, i, 0);
        if (opt_due(t->state)) opt_step(t->state, t->params, t->gradients, pool);
    }
}

static bool test_opt_default(test_opt_run *t, opt_kind kind) {
    opt_settings set = {.kind = kind, .lr0 = 0.01, .lrf = 0.01, .momentum = 0.937, .weight_decay = 5e-4, .warmup_epochs = 1, .warmup_momentum = 0.8,
                        .warmup_bias_lr = 0.1, .epochs = 4, .batch = 16, .nbs = 32, .batches = 5, .pictures = 80, .class_count = 4,
                        .isa = op_isa_best()};
    return test_opt_start(t, &set, 0);
}

/* Blocks and numbers carried into a new state go on in the same bits; so do other thread counts. */
static void test_opt_resume(void) {
    thr_pool *pool = thr_pool_create(5);
    for (int kind = OPT_SGD; kind <= OPT_RMSPROP; kind++) {
        test_opt_run whole, first, second;
        size_t bytes;
        if (!test_opt_default(&whole, (opt_kind)kind) || !test_opt_default(&first, (opt_kind)kind) || !test_opt_default(&second, (opt_kind)kind)) return;
        bytes = (size_t)whole.n.param_elements * sizeof(float);
        test_opt_go(&whole, 0, 9, pool);
        test_opt_go(&first, 0, 5, NULL);
        memcpy(second.params, first.params, bytes);
        memcpy(second.gradients, first.gradients, bytes); /* what is accumulated so far */
        for (int i = 0; i < opt_block_count(first.state); i++) {
            const char *a, *b;
            const float *from = opt_block(first.state, i, &a);
            memcpy(opt_block(second.state, i, &b), from, bytes);
            CHECK(!strcmp(a, b) && strlen(a) < 24);
        }
        for (int i = 0; i < OPT_NUMBERS; i++) {
            const char *name;
            double number = *opt_number(first.state, i, &name);
            *opt_number(second.state, i, &name) = number;
        }
        test_opt_go(&second, 5, 9, NULL);
        CHECK_MSG(!memcmp(whole.params, second.params, bytes) && !memcmp(whole.state->ema, second.state->ema, bytes), "%s", opt_kind_name((opt_kind)kind));
        test_opt_end(&whole);
        test_opt_end(&first);
        test_opt_end(&second);
    }
    thr_pool_destroy(pool);
}

/* What is not a number spreads as in torch: one NaN gradient makes all that learns NaN, an infinite one itself. */
static void test_opt_nan(void) {
    for (int infinite = 0; infinite < 2; infinite++) {
        test_opt_run t;
        if (!test_opt_default(&t, OPT_SGD)) return;
        t.gradients[5] = infinite ? INFINITY : NAN;
        opt_schedule(t.state, 7, 1);
        double norm = opt_step(t.state, t.params, t.gradients, NULL);
        CHECK(infinite ? norm > 1e30 : norm != norm);
        CHECK(t.params[5] != t.params[5]);
        CHECK((t.params[6] != t.params[6]) == !infinite);
        const net_param *statistic = &t.n.params[3];
        CHECK(t.params[statistic->offset] == t.params[statistic->offset] && t.gradients[5] == 0);
        test_opt_end(&t);
    }
}

static void test_opt_usage(void) {
    opt_kind kind;
    CHECK(opt_kind_of("rmsprop", &kind) && kind == OPT_RMSPROP && opt_kind_of("AUTO", &kind) && kind == OPT_AUTO && !opt_kind_of("Lion", &kind));
    test_opt_run t;
    yolo_error error;
    opt_state *state;
    if (!test_opt_default(&t, OPT_MUSGD)) return;
    opt_settings set = t.state->settings;
    CHECK(opt_memory(&t.n, OPT_MUSGD) > 3 * (uint64_t)t.n.param_elements * sizeof(float));
    bool all[NET_MAX_LAYERS];
    for (int i = 0; i < NET_MAX_LAYERS; i++) all[i] = true;
    CHECK(opt_create(&state, &t.n, &set, all, &error) == YOLO_ERROR_USAGE && !state && strstr(error.message, "frozen"));
    set.momentum = NAN;
    CHECK(opt_create(&state, &t.n, &set, NULL, &error) == YOLO_ERROR_USAGE && strstr(error.message, "momentum"));
    set.momentum = 0.9;
    set.batches = 0;
    CHECK(opt_create(&state, &t.n, &set, NULL, &error) == YOLO_ERROR_USAGE && strstr(error.message, "batches"));
    set.batches = 5;
    for (int i = 1; i < 8; i++) { /* every allocation fails once */
        os_atomic_set(&mem_fail_after, i);
        yolo_status status = opt_create(&state, &t.n, &set, NULL, &error);
        os_atomic_set(&mem_fail_after, 0);
        CHECK(status == YOLO_OK || status == YOLO_ERROR_MEMORY);
        if (status == YOLO_OK) opt_destroy(state);
    }
    opt_set_epochs(t.state, 1); /* no room for a warm-up */
    opt_schedule(t.state, 0, 0);
    CHECK(t.state->warmup == 0 && t.state->accumulate == 2 && t.state->groups[1].lr == 0.01);
    test_opt_end(&t);
}

static const test_case tests_opt[] = {
    {"reference", "twenty batches of every kind as ultralytics does them", test_opt_reference},
    {"resume", "a state put together from what a checkpoint keeps; threads", test_opt_resume},
    {"nan", "what a norm that is no number does", test_opt_nan},
    {"usage", "names, refusals, failing allocations", test_opt_usage},
};
