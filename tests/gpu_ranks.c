/* gpu_ranks.c - trainings on several GPUs: the emulation has as many as it is told; on a machine with fewer than there are ranks, some
   share one. */

typedef struct ranks_run { int ranks; bool sync_bn, half; const char *allreduce; int batch /* 0 = 4 */, epochs /* 0 = 1 */; } ranks_run;

/* Six pictures: a batch of 4 and one of 2. */
static yolo_train_options ranks_options(const char *name, const ranks_run *r) {
    yolo_train_options o = test_train_small(name, 1);
    o.model = gpu_step_little();
    o.epochs = r->epochs ? r->epochs : 1;
    o.fraction = 0.6;
    o.imgsz = 32;
    o.lr0 = 1e-3;
    o.warmup_bias_lr = 0;
    o.val = false;
    o.batch = r->batch ? r->batch : 4;
    o.nbs = (int)o.batch; /* a step a batch */
    o.sync_bn = r->sync_bn;
    o.amp = r->half;
    if (r->allreduce) o.allreduce = r->allreduce;
    return o;
}

/* As many places; on a machine with fewer GPUs some are of one. */
static bool ranks_places(int size, bool half, run_places *places) {
    char reason[256];
    yolo_error error;
#ifdef TEST_EMULATED
    emulate_set_device_count(YOLO_MAX(size, 2));
#endif
    const int devices = yg_device_count(reason, sizeof reason);
    *places = (run_places){.count = size};
    for (int r = 0; r < size; r++) {
        places->items[r] = (run_place){r % devices, half, NULL};
        if (run_gpu_open(&places->items[r].device, r % devices, &error) == YOLO_OK) continue;
        CHECK_MSG(false, "%s", error.message);
        return false;
    }
    yg_enter(places->items[0].device);
    return true;
}

static void ranks_close(run_places *places) {
    dev_close_places(places);
#ifdef TEST_EMULATED
    emulate_set_device_count(2);
#endif
}

/* A training on so many GPUs; what it ends in, 0 where it fails. */
static uint64_t ranks_train(const char *name, const ranks_run *r, yolo_train_report *report) {
    yolo_train_options o = ranks_options(name, r);
    run_places places;
    yolo_error error = {0};
    if (!ranks_places(r->ranks, r->half, &places)) return 0;
    const yolo_status status = tr_train_all(&o, op_isa_best(), &places, report, &error);
    CHECK_MSG(status == YOLO_OK, "%d ranks: %s", r->ranks, error.message);
    ranks_close(&places);
    return status == YOLO_OK ? test_train_hash(report) : 0;
}

/* The mean losses of an epoch on so many GPUs, or ranks on the CPU. */
static bool ranks_losses(const ranks_run *r, bool cpu, loss_parts *losses) {
    yolo_train_options o = ranks_options("gpu_ranks_losses", r);
    run_places places = {{run_cpu}, 1};
    yolo_error error = {0};
    pt_model last = {0};
    if (cpu) o.ranks = r->ranks;
    else if (!ranks_places(r->ranks, r->half, &places)) return false;
    tr_run *run = tr_create(&o, op_isa_best(), places.items[0]);
    run->places = places;
    yolo_status status = tr_new_folder(run, &error);
    if (status == YOLO_OK) status = tr_settle_epochs(run, &last, &error);
    if (status == YOLO_OK) status = tr_settle_ranks(run, &error);
    if (status == YOLO_OK) status = tr_set_up(run, &last, &error);
    if (status == YOLO_OK) status = tr_train_epoch(run, &error);
    CHECK_MSG(status == YOLO_OK && !run->lost, "%d ranks: %s", r->ranks, error.message);
    *losses = run->losses;
    tr_close(run);
    mem_free(run);
    ranks_close(&places);
    return status == YOLO_OK;
}

static double ranks_apart(const loss_parts *a, const loss_parts *b) {
    return YOLO_MAX(fabs(a->box / b->box - 1), YOLO_MAX(fabs(a->cls / b->cls - 1), fabs(a->dfl / b->dfl - 1)));
}

/* With sync_bn 2, 3 and 4 GPUs have the losses of one. Of the last batch ranks 2 and 3 of 4 have no picture. The last level's batch norms
   are over 3 or 4 values here, so that roundings grow: one GPU and the CPU are up to 1e-3 apart. */
static void test_gpu_ranks_sync(void) {
    static const ranks_run runs[] = {{2, true, false, "host", 4, 1}, {4, true, false, "peer", 4, 1}, {3, true, false, "peer", 3, 1}};
    loss_parts one, many;
    for (int i = 0; i < YOLO_COUNT(runs); i++) {
        const ranks_run alone = {.ranks = 1, .batch = runs[i].batch};
        if (i != 1 && !ranks_losses(&alone, false, &one)) return;
        if (!ranks_losses(&runs[i], false, &many)) return;
        CHECK_MSG(ranks_apart(&many, &one) <= 3e-4, "%d GPUs with sync_bn: %.3g", runs[i].ranks, ranks_apart(&many, &one));
    }
}

/* Without sync_bn several GPUs are what as many ranks on the CPU are, which is DDP, and not what one is. */
static void test_gpu_ranks_apart(void) {
    for (int ranks = 2; ranks <= 4; ranks += 2) {
        const ranks_run r = {.ranks = ranks, .allreduce = "host"}, together = {.ranks = ranks, .sync_bn = true};
        loss_parts gpus, cpu, sync;
        if (!ranks_losses(&r, true, &cpu) || !ranks_losses(&together, true, &sync) || !ranks_losses(&r, false, &gpus)) return;
        CHECK_MSG(ranks_apart(&gpus, &cpu) <= 1e-4, "%d GPUs against the CPU: %.3g", ranks, ranks_apart(&gpus, &cpu));
        CHECK_MSG(ranks_apart(&gpus, &sync) > 3e-3, "%d GPUs against sync_bn: %.3g", ranks, ranks_apart(&gpus, &sync));
    }
}

/* Each way of adding up gives the same bits from run to run; both of this program's give those of a sum in the order of the ranks, and
   with one rank those of no sum. */
static void test_gpu_ranks_ways(void) {
    static const ranks_run runs[] = {{2, false, true, "host", 4, 1}, {2, false, true, "peer", 4, 1}, {2, false, true, "host", 4, 1}, {1, false, true, NULL, 4, 1}, {1, false, true, "host", 4, 1}};
    yolo_train_report report;
    uint64_t want[3] = {0, 0, 0};
    for (int i = 0; i < YOLO_COUNT(runs); i++) {
        const uint64_t hash = ranks_train("gpu_ranks_ways", &runs[i], &report);
        if (!want[runs[i].ranks]) want[runs[i].ranks] = hash;
        CHECK_MSG(hash && hash == want[runs[i].ranks], "run %d", i);
    }
}

/* Training by NCCL, one rank: where the library and a GPU are. */
static void test_gpu_ranks_nccl(void) {
#ifdef TEST_EMULATED
    SKIP("NCCL needs a GPU");
#else
    yolo_train_report report;
    com_nccl nccl;
    char reason[512];
    if (!com_nccl_open(&nccl, reason, sizeof reason)) SKIP("NCCL is not installed");
    const uint64_t want = ranks_train("gpu_ranks_nccl", &(ranks_run){.ranks = 1}, &report);
    CHECK(want && ranks_train("gpu_ranks_nccl", &(ranks_run){.ranks = 1, .allreduce = "nccl"}, &report) == want);
#endif
}

/* Rank 1 fails between two calls of the group. */
static os_atomic ranks_calls;
static int ranks_fatal;

static yolo_status ranks_out_of_memory(const com_rank *rank, yolo_error *error) {
    return rank->index == 1 && os_atomic_add(&ranks_calls, 1) + 1 == ranks_fatal ? err_memory(error, 1 << 20) : YOLO_OK;
}

/* Interrupted at the beginning of the second epoch, or rank 1 out of memory in it; resumed: as if nothing had been. */
static void test_gpu_ranks_resume(void) {
    const ranks_run r = {.ranks = 2, .half = true, .allreduce = "host", .epochs = 2};
    yolo_train_report whole, part;
    os_atomic_set(&ranks_calls, 0);
    ranks_fatal = 0;
    com_test_visit = ranks_out_of_memory;
    const uint64_t want = ranks_train("gpu_ranks_whole", &r, &whole);
    const int calls = (int)os_atomic_get(&ranks_calls);
    for (int k = 0; k < 2 && want; k++) {
        yolo_train_options o = ranks_options("gpu_ranks_part", &r), again = tr_defaults();
        test_train_ear ear = {.interrupt_at = k ? 0 : 2, .wanted = "MULTI-GPU TRAINING ENABLED"};
        run_places places;
        yolo_error error = {0};
        char last[1100];
        o.log = (yolo_log){test_train_listen, &ear};
        ranks_fatal = k ? calls * 3 / 4 : 0;
        os_atomic_set(&ranks_calls, 0);
        if (!ranks_places(2, true, &places)) return;
        CHECK(tr_train_all(&o, op_isa_best(), &places, &part, &error) == (k ? YOLO_ERROR_MEMORY : YOLO_ERROR_INTERRUPTED) && part.epochs == 1);
        CHECK_MSG(!strncmp(error.message, k ? "rank 1 of 2: out of memory: 1.0 MiB wanted" : "interrupted", k ? 42 : 11), "%s", error.message);
        CHECK(ear.heard);
        yolo_interrupt_clear();
        ranks_fatal = 0;
        snprintf(last, sizeof last, "%s/weights/last.pt", part.folder);
        again.resume = true;
        again.model = last;
        CHECK_MSG(tr_train_all(&again, op_isa_best(), &places, &part, &error) == YOLO_OK, "%s", error.message);
        CHECK(test_train_hash(&part) == want);
        ranks_close(&places);
    }
    com_test_visit = NULL;
}

#ifdef TEST_EMULATED
/* Epochs of a few small batches, which are over soon. */
static yolo_train_options ranks_short(const char *name, const char *device) {
    yolo_train_options o = ranks_options(name, &(ranks_run){.half = true, .epochs = 2});
    o.device = device;
    return o;
}

/* Calls of CUDA fail one after the other, for want of memory or because a GPU is lost: a sentence, nothing left on any device, no hang, and
   where an epoch was done the run goes on from there to the same bits. */
static void test_gpu_ranks_faults(void) {
    yolo_train_options o = ranks_short("gpu_ranks_faults", "0,1");
    yolo_train_report report;
    yolo_error error = {0};
    o.allreduce = "host"; /* auto would go on in another way where one fails */
    const int handles = emulate_handles();
    const size_t before[2] = {emulate_allocated(0), emulate_allocated(1)};
    int told = 0, named = 0, resumed = 0;
    CHECK_MSG(yolo_train(o, &report, &error) == YOLO_OK, "%s", error.message);
    const uint64_t want = test_train_hash(&report);
    for (int64_t n = 20; n < 100000; n += 10 + n / 2) {
        error.message[0] = 0;
        emulate_fail_after(n);
        emulate_fail_with(told % 2 ? 214 /* uncorrectable ECC error */ : 2 /* out of memory */, told % 2);
        const yolo_status status = yolo_train(o, &report, &error);
        const bool failed = emulate_failed();
        emulate_fail_after(0);
        CHECK_MSG(emulate_handles() == handles && emulate_allocated(0) == before[0] && emulate_allocated(1) == before[1], "call %d: something is left", (int)n);
        if (!failed) break;
        told += status != YOLO_OK;
        named += !strncmp(error.message, "rank ", 5);
        CHECK_MSG(status == YOLO_OK || error.message[0], "call %d: %d", (int)n, status);
        if (status == YOLO_OK || report.epochs != 1 || resumed) continue;
        CHECK_MSG(gpu_step_resumed(&report) != 0, "call %d", (int)n);
        resumed++;
    }
    CHECK_MSG(told > 4 && named > 2 && resumed > 0 && want, "%d told, %d named a rank, %d resumed", told, named, resumed);
}

/* Work that is done late, on streams in any order: the same bits. */
static void test_gpu_ranks_late(void) {
    uint64_t want = 0;
    for (int i = 0; i < 5; i++) {
        yolo_train_options o = ranks_short("gpu_ranks_late", "0,1");
        yolo_train_report report;
        yolo_error error = {0};
        o.allreduce = i < 3 ? "peer" : "host";
        o.epochs = 1;
        emulate_set_lazy(i < 3 ? (uint64_t)i : (uint64_t)i - 2);
        emulate_set_protect(i == 3);
        CHECK_MSG(yolo_train(o, &report, &error) == YOLO_OK, "%s", error.message);
        emulate_set_lazy(0);
        emulate_set_protect(0);
        const uint64_t hash = test_train_hash(&report);
        if (!want) want = hash;
        CHECK_MSG(hash && hash == want, "case %d", i);
    }
}

/* Devices that reach each other wrongly, or hang when they try. */
static void test_gpu_ranks_peers(void) {
    yolo_train_options o = ranks_short("gpu_ranks_peers", "auto");
    yolo_train_report report;
    yolo_error error = {0};
    test_train_ear ear = {.wanted = "allreduce=peer is not possible: GPU 0 reads 1 of 300007 numbers wrongly"};
    run_places places;
    o.log = (yolo_log){test_train_listen, &ear};
    o.epochs = 1;
    gpu_device();
    emulate_set_peers(EMULATE_PEERS_WRONG);
    CHECK_MSG(yolo_train(o, &report, &error) == YOLO_OK && ear.heard, "%s", error.message);
    o.allreduce = "peer";
    CHECK_MSG(yolo_train(o, &report, &error) == YOLO_ERROR_DEVICE && strstr(error.message, "wrongly") && strstr(error.message, "allreduce=host"), "%s", error.message);
    if (!ranks_places(2, true, &places)) return;
    run_places kept = places;
    const double start = os_clock();
    emulate_set_peers(EMULATE_PEERS_HANG);
    CHECK(tr_train_all(&o, op_isa_best(), &places, &report, &error) == YOLO_ERROR_DEVICE && places.count == 0);
    CHECK_MSG(strstr(error.message, "has not answered for 5 s") && os_clock() - start < 60, "%s", error.message);
    emulate_set_peers(EMULATE_PEERS_GOOD);
    ranks_close(&kept);
}

/* What device=, batch= and allreduce= can be. */
static void test_gpu_ranks_sentences(void) {
    static const struct { const char *device, *allreduce; double batch; int ranks; const char *said; } cases[] = {
        {"0,1", "auto", 5, 1, "batch=5 cannot be split evenly over 2 GPUs: use batch=4 or batch=6"}, {"auto", "auto", 1, 1, "batch=1 is too small for 2 GPUs: use batch=2, or fewer GPUs"},
        {"0,1", "ring", 4, 1, "allreduce=ring: expected auto, nccl, peer or host"}, {"0,1", "auto", 4, 2, "ranks=2: each GPU of device= is a rank"},
        {"0,1,1", "auto", 4, 1, "GPU 1 is named twice"}, {"0,2", "auto", 4, 1, "GPU 2 not available: 2 GPU(s) detected (0: "}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        yolo_train_options o = ranks_short("gpu_ranks_sentences", cases[i].device);
        yolo_train_report report;
        yolo_error error = {0};
        o.allreduce = cases[i].allreduce;
        o.batch = cases[i].batch;
        o.ranks = cases[i].ranks;
        CHECK(yolo_train(o, &report, &error) != YOLO_OK);
        CHECK_MSG(strstr(error.message, cases[i].said), "%s", error.message);
    }
}
#endif

/* A training's validation by two GPUs, and once more, with new weights in the same memory, by both and by one: the same bits. */
static void test_gpu_ranks_val(void) {
    yolo_train_options o = ranks_options("gpu_ranks_val", &(ranks_run){.ranks = 2, .batch = 2});
    run_places places;
    yolo_error error = {0};
    pt_model last = {0};
    double map[3] = {0};
    loss_parts losses[3] = {{0}};
    o.model = "weights/shapes.pt";
    o.imgsz = 96;
    if (!ranks_places(2, false, &places)) return;
    tr_run *run = tr_create(&o, op_isa_best(), places.items[0]);
    run->places = places;
    yolo_status status = tr_new_folder(run, &error);
    if (status == YOLO_OK) status = tr_settle_epochs(run, &last, &error);
    if (status == YOLO_OK) status = tr_settle_ranks(run, &error);
    if (status == YOLO_OK) status = tr_set_up(run, &last, &error);
    for (int i = 0; i < 3 && status == YOLO_OK; i++) {
        if (i == 2) {
            run_copies_destroy(&run->weights);
            run->places.count = run->rank_count = 1;
        }
        status = tr_validate(run, &error);
        CHECK(run->weights.count == (i < 2 ? 2 : 1) && (i == 2 || run->weights.of[0] != run->weights.of[1]));
        map[i] = run->outcome.metrics.map50_95;
        losses[i] = run->outcome.losses;
    }
    run->rank_count = 2;
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    CHECK_MSG(map[0] > 0.1 && map[1] == map[0] && map[2] == map[0], "mAP50-95 %g, %g, %g", map[0], map[1], map[2]);
    CHECK(!memcmp(&losses[0], &losses[1], sizeof losses[0]) && !memcmp(&losses[0], &losses[2], sizeof losses[0]));
    tr_close(run);
    mem_free(run);
    ranks_close(&places);
}

static const test_case tests_gpu_ranks[] = {
    {"ranks_sync", "with sync_bn 1 to 4 GPUs end alike", test_gpu_ranks_sync},
    {"ranks_apart", "without it they end as ranks on the CPU", test_gpu_ranks_apart},
    {"ranks_ways", "each way to add up gives the same bits every time", test_gpu_ranks_ways},
    {"ranks_nccl", "one rank by NCCL", test_gpu_ranks_nccl},
    {"ranks_val", "two GPUs validate as one does", test_gpu_ranks_val},
    {"ranks_resume", "interrupted, or out of memory in rank 1, and resumed: the same bits", test_gpu_ranks_resume},
#ifdef TEST_EMULATED
    {"ranks_faults", "calls that fail, GPUs that are lost: a sentence, nothing left, no hang", test_gpu_ranks_faults},
    {"ranks_late", "the same bits however late work is done", test_gpu_ranks_late},
    {"ranks_peers", "GPUs that reach each other wrongly, or hang", test_gpu_ranks_peers},
    {"ranks_sentences", "batches that are not even, GPUs that are not there", test_gpu_ranks_sentences},
#endif
};
