/* test_scale.c - what `yolo bench scaling=true` foretells: cases worked out by hand, bounds, and the order and times of a real backward's sums. */

/* A link that carries exactly `rate` bytes a second. */
static bench_link scale_link(double rate, double memory, double latency) {
    return (bench_link){"test", YG_DIRECTLY, rate / BENCH_WIRE, memory / BENCH_DIMMS, latency, 0, 0, true};
}

static double scale_sums(const bench_team *team, const grad_bucket *buckets, int count) {
    double ready[GRAD_BUCKETS + 1] = {0}, ends[GRAD_BUCKETS + 1];
    return bench_sum_buckets(&(bench_job){team, buckets, count, ready, ends});
}

/* One bucket of 4 MB between two GPUs, 1 GB/s each way, 1 ms a step: 4 ms of bytes and 2 of waiting. Before the backward 10 ms, the last
   operator's 5, the first one's `first`; the bucket is whole after the last, or after both. */
static void test_scale_overlap(void) {
    const bench_link link = scale_link(1e9, 0, 1e-3);
    const bench_team team = {&link, YG_DIRECTLY, 2, 1}, one = {&link, YG_DIRECTLY, 1, 1};
    static const struct { double first; int op, multiprocessors; double exposed; } cases[] = {
        {20e-3, 1, 0, 0},     /* all hidden: 15 + 6 < 35 */
        {2e-3, 1, 0, 4e-3},   /* 15 + 6 - 17 */
        {20e-3, 0, 0, 6e-3},  /* nothing is left that could hide it */
        {20e-3, 1, 32, 2e-3}, /* hidden, but 32 x 512 threads of 32 x 1536 are taken for 6 ms */
    };
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        double backward[2] = {cases[i].first, 5e-3};
        const bench_cost cost = {10e-3, backward, 1e-3, cases[i].multiprocessors};
        const grad_bucket bucket = {0, 1000000, cases[i].op};
        const bench_forecast f = bench_foretell(&team, &cost, 2, &bucket, 1), alone = bench_foretell(&one, &cost, 2, &bucket, 1);
        CHECK_MSG(fabs(f.sums - 6e-3) < 1e-9 && fabs(f.exposed - cases[i].exposed) < 1e-9, "case %d: sums %g, exposed %g", i, f.sums, f.exposed);
        CHECK(fabs(f.step - (16e-3 + cases[i].first + f.exposed)) < 1e-9 && fabs(alone.step - (16e-3 + cases[i].first)) < 1e-9 && alone.sums == 0);
    }
}

/* A ring of 8 has 14 steps. Ten sums of next to nothing wait one behind the other. */
static void test_scale_latency(void) {
    const bench_link link = scale_link(1e9, 0, 1e-3);
    const bench_team team = {&link, YG_BY_LIBRARY, 8, 1}, both = {&link, YG_DIRECTLY, 8, 1};
    grad_bucket buckets[10];
    for (int i = 0; i < 10; i++) buckets[i] = (grad_bucket){i, 1, 9 - i};
    CHECK_NEAR(scale_sums(&team, buckets, 10), 140e-3, 1e-6);
    CHECK_NEAR(scale_sums(&both, buckets, 10), 10e-3, 1e-6); /* two streams, two steps each */
}

/* Through host memory, two GPUs, a pinned chunk a second: its copy out takes 1, adding up 0.5 in and 0.5 out, fetching 0.5 in. */
static void test_scale_host(void) {
    const double chunk = YG_TEAM_CHUNK;
    const int64_t elements = YG_TEAM_CHUNK / 4;
    bench_link link = scale_link(chunk, 0, 0);
    bench_team team = {&link, YG_THROUGH_HOST, 2, 1};
    const grad_bucket one = {0, elements, 0}, two = {0, 2 * elements, 0}, bit = {0, 1024, 0};
    CHECK_NEAR(scale_sums(&team, &one, 1), 2.0, 1e-9);
    CHECK_NEAR(scale_sums(&team, &two, 1), 3.5, 1e-9); /* copy 0-1, add 1-1.5, the other's copy 1.5-2.5, add -3, fetch -3.5 */
    link = scale_link(1e18, 2 * chunk, 0);             /* the host's memory alone: 2 + 2 + 1 chunks, 2 a second */
    CHECK_NEAR(scale_sums(&team, &one, 1), 2.5, 1e-9);
    CHECK_NEAR(scale_sums(&team, &two, 1), 5.0, 1e-9);
    link = scale_link(4096, 0, 1); /* small: 4 KiB out, those of three others in, twice a second of waiting */
    team.size = 4;
    CHECK_NEAR(scale_sums(&team, &bit, 1), 1 + 3 + 2.0, 1e-9);
}

/* Bytes of a ring over 2 machines of 4: twice 7/8 each way, and each machine's memory has its four write and read them. */
static void test_scale_ring(void) {
    const bench_link link = scale_link(1, 1, 1);
    bench_phase phases[BENCH_PHASES];
    CHECK(bench_phases(&(bench_team){&link, YG_BY_LIBRARY, 8, 2}, 800, phases) == 1);
    CHECK(phases[0].out == 1400 && phases[0].in == 1400 && phases[0].memory == 4 * 2800 && phases[0].latency == 14);
}

/* Sums of a real network: never faster than the busiest wire, never slower than one phase after the other. */
static void test_scale_bounds(void) {
    yolo_open_options open = {.classes = 3};
    yolo_error error = {0};
    pt_model model;
    grad_bucket buckets[GRAD_BUCKETS + 1];
    CHECK_MSG(pt_load("yolov8s.yaml", &open, &model, &error) == YOLO_OK, "%s", error.message);
    const int count = grad_buckets(&model.net, TR_BUCKET, buckets);
    for (int l = 0; l < BENCH_LINKS; l++)
        for (int n = 2; n <= 8; n *= 2) {
            const bench_link *link = &bench_links[l];
            const bench_team team = {link, link->way, n, bench_network(link) ? n : 1};
            double out = 0, in = 0, memory = 0, serial = 0;
            for (int i = 0; i < count; i++)
                for (int64_t left = buckets[i].count * 4, most = link->way == YG_THROUGH_HOST ? YG_TEAM_CHUNK : left; left > 0; left -= most) {
                    bench_phase phases[BENCH_PHASES];
                    const int phase_count = bench_phases(&team, (double)YOLO_MIN(left, most), phases);
                    for (int k = 0; k < phase_count; k++) {
                        const bench_wires w = bench_wants(&team, &phases[k]);
                        out += w.out, in += w.in, memory += w.memory;
                        serial += YOLO_MAX(YOLO_MAX(w.out, w.in), w.memory) + phases[k].latency;
                    }
                }
            const double least = YOLO_MAX(YOLO_MAX(out, in), memory), took = scale_sums(&team, buckets, count);
            CHECK_MSG(took >= least * 0.999999 && took <= serial * 1.000001, "%s, %d GPUs: %g, expected %g to %g", link->name, n, took, least, serial);
        }
    pt_free(&model);
}

/* ---- a real backward, whose sums go over a wire that takes its time */

typedef struct scale_wire {
    bench_team team;
    float *gradients;
    double start, free;
    double ready[GRAD_BUCKETS + 1], ends[GRAD_BUCKETS + 1]; /* seconds from the start */
    int64_t first[GRAD_BUCKETS + 1], counts[GRAD_BUCKETS + 1];
    int sums;
} scale_wire;

static scale_wire scale_slow;

/* A sum over two ranks by a ring: what is sent is what is summed. */
static yolo_status scale_sum(com_rank *rank, float *values, int64_t count, yolo_error *error) {
    scale_wire *w = &scale_slow;
    const double now = os_clock() - w->start;
    (void)rank;
    (void)error;
    w->first[w->sums] = values - w->gradients;
    w->counts[w->sums] = count;
    w->ready[w->sums] = now;
    w->free = YOLO_MAX(w->free, now) + (double)count * 4 / (w->team.link->rate * BENCH_WIRE) + 2 * w->team.link->latency;
    w->ends[w->sums++] = w->free;
    return YOLO_OK;
}

static yolo_status scale_finish(com_rank *rank, yolo_error *error) {
    (void)rank;
    (void)error;
    while (os_clock() < scale_slow.start + scale_slow.free) os_spin_pause();
    return YOLO_OK;
}

/* The trainer's sums come in the foretold order and sizes; their ends, from when they began, are the simulation's; and a step takes what
   was foretold of it from each layer's time, as far as a busy machine's clock can tell. */
static void test_scale_trainer(void) {
    static const com_back back = {"a slow wire", scale_sum, NULL, NULL, NULL, scale_finish};
    const bench_link link = scale_link(400e6, 0, 1e-3);
    yolo_open_options open = yolo_open_defaults();
    yolo_bench_options options = yolo_bench_defaults();
    yolo_error error = {0};
    yolo_model *model = NULL;
    bench_train *t = mem_array(1, sizeof *t);
    double predicted[GRAD_BUCKETS + 1], *backward;
    open.threads = 1, open.device = "cpu";
    options.imgsz = 96, options.batch = 2, options.repeats = 2;
    CHECK_MSG(yolo_model_open(&model, "yolov8s.yaml", open, &error) == YOLO_OK, "%s", error.message);
    const bench_case c = {.model = model, .options = &options, .n = 2, .h = 96, .w = 96};
    bench_cost cost = {.backward = backward = mem_array((uint64_t)model->checkpoint.net.op_count, sizeof *backward)};
    CHECK_MSG(bench_measure_cost(&c, &cost, &error) == YOLO_OK, "%s", error.message);
    t->c = &c;
    CHECK_MSG(bench_train_open(t, &error) == YOLO_OK && bench_next(t, &error) == YOLO_OK, "%s", error.message);
    tr_run *run = &t->run;
    com_group *group = com_open(2, &back), *alone = run->group;
    tr_share share;
    double took = 0, fastest = 1e9;
    run->group = group;
    for (int i = 0; i < 3; i++) {
        scale_slow = (scale_wire){.team = {&link, YG_BY_LIBRARY, 2, 1}, .gradients = run->gradients, .start = os_clock()};
        CHECK(tr_batch(&run->ranks[0], &group->ranks[0], t->batch, &(tr_task){true, true, i}, &share, &error) == YOLO_OK);
        took = os_clock() - scale_slow.start;
        fastest = YOLO_MIN(fastest, took);
    }
    run->group = alone;
    const int count = run->bucket_count;
    CHECK_MSG(scale_slow.sums == count && count > 5, "%d sums, %d buckets", scale_slow.sums, count);
    for (int i = 0; i < count; i++) CHECK(scale_slow.first[i] == run->buckets[i].first && scale_slow.counts[i] == run->buckets[i].count);
    bench_sum_buckets(&(bench_job){&scale_slow.team, run->buckets, count, scale_slow.ready, predicted});
    for (int i = 0; i < count; i++) CHECK_NEAR(predicted[i], scale_slow.ends[i], 1e-9);
    CHECK(took >= predicted[count - 1]);
    const bench_forecast f = bench_foretell(&scale_slow.team, &cost, run->model.net.op_count, run->buckets, count);
    printf("  a step of yolov8s over a wire of 400 MB/s: foretold %.0f ms (sums %.0f, of them %.0f exposed), took %.0f ms\n", 1000 * (f.step - cost.update), 1000 * f.sums,
           1000 * f.exposed, 1000 * fastest);
    CHECK(f.exposed > 0 && f.exposed < f.sums && f.step - cost.update > f.sums); /* times are told, not judged: others may use this machine */
    com_close(group);
    bench_train_close(t);
    mem_free(t);
    mem_free(backward);
    yolo_model_close(model);
}

/* What is printed, and what is refused. */
static void test_scale_table(void) {
    yolo_open_options open = yolo_open_defaults();
    yolo_error error = {0};
    yolo_model *model = NULL;
    open.threads = 1, open.device = "cpu";
    CHECK_MSG(yolo_model_open(&model, "yolov8n.yaml", open, &error) == YOLO_OK, "%s", error.message);
    static const struct { const char *gpu, *link, *sums; int per_machine; const char *said; } cases[] = {
        {"auto", "all", "auto", 4, "one GPU: rtx4090"}, {"rtx4090", "pcie4-host", "host", 4, "pcie4-host   host         4     64"},
        {"h200", "nvlink4", "direct", 4, "nvlink4      direct       8    128"}, {"a100", "ethernet25", "auto", 2, "ethernet25   nccl     4 x 2    128"},
        {"rtx4090", "pcie4-host", "nccl", 4, "pcie4-host   nccl "}, {"rtx4091", "all", "auto", 4, "gpu=rtx4091: expected one of auto, this, rtx3090"},
        {"auto", "pcie9", "auto", 4, "link=pcie9: expected one of all, nvlink4"}, {"auto", "ethernet10", "direct", 4, "sums=direct: gradients cannot be added up so over link=ethernet10"},
        {"auto", "pcie4-host", "direct", 4, "sums=direct: "}, {"auto", "nvlink4", "host", 4, "sums=host: "}, {"auto", "all", "auto", 17, "per_machine=17"}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        yolo_bench_options o = yolo_bench_defaults();
        char *text = NULL;
        o.scaling = true, o.batch = 16, o.gpu = cases[i].gpu, o.link = cases[i].link, o.sums = cases[i].sums, o.per_machine = cases[i].per_machine;
        const bool good = yolo_bench(model, o, &text, &error) == YOLO_OK;
        CHECK(good == (i < 5) && good == (text != NULL));
        CHECK_MSG(strstr(good ? text : error.message, cases[i].said), "case %d: %s", i, good ? text : error.message);
        CHECK(!good || (strstr(text, "PREDICTED, not measured") && strstr(text, "that is an estimate")));
        CHECK(i || (!strstr(text, "nvlink") && !strstr(text, "pcie5") && !strstr(text, "peer")));
        yolo_text_free(text);
    }
    yolo_bench_options o = yolo_bench_defaults();
    char *text = NULL;
    o.scaling = true, o.gpu = "this", o.imgsz = 32, o.repeats = 1;
    CHECK_MSG(yolo_bench(model, o, &text, &error) == YOLO_OK, "%s", error.message);
    CHECK(text && strstr(text, "one GPU: this machine's CPU") && strstr(text, "that is measured") && strstr(text, "nvlink3") && strstr(text, "ethernet10"));
    yolo_text_free(text);
    yolo_model_close(model);
}

static const test_case tests_scale[] = {
    {"overlap", "one bucket: all, some and nothing hidden, and what sums take of the GPU", test_scale_overlap},
    {"latency", "small sums wait for the link's latency alone", test_scale_latency},
    {"host", "chunks through pinned memory, phase by phase", test_scale_host},
    {"ring", "bytes of a ring over machines", test_scale_ring},
    {"bounds", "between the busiest wire and no overlap, over all links", test_scale_bounds},
    {"trainer", "a real backward's sums in order, size and time", test_scale_trainer},
    {"table", "what is printed and refused", test_scale_table},
};
