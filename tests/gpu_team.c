/* gpu_team.c - sums over several GPUs: the emulation has as many as it is told; on a machine with fewer than there are ranks, some
   share one. */

enum { TEAM_BUCKETS = 3 };

typedef struct team_job {
    yg_gpu *gpus[YG_RANKS];
    int size;
    int64_t count;       /* of each bucket */
    const float *values; /* [size][buckets * count], as each rank brings them */
    float *sums;         /* the same, as each rank got them */
    double totals[YG_RANKS];
    int wrong;           /* of whatever else is looked at */
} team_job;

#ifdef TEST_EMULATED
static void team_devices(int count) { emulate_set_device_count(count); }
#else
static void team_devices(int count) { (void)count; }
#endif

static bool team_open(team_job *job, int size) {
    char reason[256];
    team_devices(YOLO_MAX(size, 2));
    const int devices = yg_device_count(reason, sizeof reason);
    *job = (team_job){.size = size};
    for (int r = 0; r < size; r++)
        if (yg_open(&job->gpus[r], r % devices, reason, sizeof reason)) {
            CHECK_MSG(false, "%s", reason);
            return false;
        }
    return true;
}

static void team_close(team_job *job) {
    for (int r = 0; r < job->size; r++) yg_close(job->gpus[r]);
    team_devices(2);
}

/* Buckets copied into place by the stream, summed, and copied away: whoever does not wait for whom he has to gets other numbers. */
static yolo_status team_sum_rank(com_rank *rank, void *context, yolo_error *error) {
    team_job *job = context;
    yg_gpu *gpu = job->gpus[rank->index];
    const size_t all = (size_t)job->count * TEAM_BUCKETS, bytes = all * sizeof(float);
    const float *values = job->values + all * (size_t)rank->index;
    yolo_status status = YOLO_OK;
    yg_enter(gpu);
    float *from = yg_alloc(gpu, bytes), *sums = yg_alloc(gpu, bytes + 4), *to = yg_alloc(gpu, bytes);
    double *total = yg_alloc(gpu, 8), mine = rank->index + 0.25;
    yg_upload(gpu, from, values, bytes);
    yg_upload(gpu, total, &mine, 8);
    for (int round = 0; round < 2 && status == YOLO_OK; round++) { /* the second time over what is there */
        for (int b = 0; b < TEAM_BUCKETS && status == YOLO_OK; b++) {
            float *bucket = sums + 1 + b * job->count; /* not aligned */
            yg_copy(gpu, bucket, from + b * job->count, (size_t)job->count * sizeof *from);
            status = com_sum_f32(rank, bucket, job->count, error);
        }
        if (status == YOLO_OK) status = com_finish(rank, error);
        if (status != YOLO_OK) return status; /* others may be reading */
        yg_copy(gpu, to, sums + 1, bytes);
        yg_clear(gpu, sums, bytes + 4);
    }
    if (status == YOLO_OK) status = com_sum_f64(rank, total, 1, error);
    yg_download(gpu, job->sums + all * (size_t)rank->index, to, bytes);
    yg_download(gpu, &job->totals[rank->index], total, 8);
    if (status == YOLO_OK) status = run_gpu_error(gpu, error);
    if (status == YOLO_OK) status = com_gather(rank, NULL, 0, &(char){0}, error); /* nobody reads this rank's memory any more */
    if (status != YOLO_OK) return status;
    yg_free(gpu, from);
    yg_free(gpu, sums);
    yg_free(gpu, to);
    yg_free(gpu, total);
    return YOLO_OK;
}

/* The sums of `size` ranks in one way, bit for bit those in the order of the ranks. */
static void team_case(team_job *job, yg_way way, const com_nccl *nccl, int64_t count) {
    const size_t all = (size_t)count * TEAM_BUCKETS, whole = all * (size_t)job->size;
    float *values = gpu_random(whole, 5 + (uint64_t)count, YG_F32), *sums = mem_array(whole, sizeof *sums);
    com_group *group;
    yolo_error error = {0};
    bool hangs;
    job->count = count, job->values = values, job->sums = sums;
    yolo_status status = com_gpus_open(&group, job->gpus, job->size, way, nccl, &hangs, &error);
    if (status == YOLO_OK) status = com_run(group, team_sum_rank, job, &error);
    CHECK_MSG(status == YOLO_OK && !hangs, "%s", error.message);
    size_t wrong = 0;
    double total = 0;
    for (size_t i = 0; i < all && status == YOLO_OK; i++) {
        float sum = values[i];
        for (int r = 1; r < job->size; r++) sum += values[(size_t)r * all + i];
        for (int r = 0; r < job->size; r++) wrong += memcmp(&sum, &sums[(size_t)r * all + i], sizeof sum) != 0;
    }
    for (int r = 0; r < job->size; r++) total += r + 0.25;
    for (int r = 0; r < job->size; r++) CHECK(job->totals[r] == total);
    CHECK_MSG(!wrong, "%zu of %zu numbers differ: %d ranks, %s, %lld numbers", wrong, whole, job->size, com_gpu_backs[way].name, (long long)count);
    com_close(group);
    mem_free(values);
    mem_free(sums);
}

/* Both ways. */
static void team_ways(int size, const int64_t *counts, int count) {
    team_job job;
    if (!team_open(&job, size)) return;
    for (int c = 0; c < count; c++)
        for (yg_way way = YG_DIRECTLY; way <= YG_THROUGH_HOST; way++) team_case(&job, way, NULL, counts[c]);
    team_close(&job);
}

static void test_team_sums(void) {
    static const int64_t counts[] = {1, 2, 1001, 8192, 8193, 40001};
    for (int size = 2; size <= 7; size += size == 4 ? 3 : 1) team_ways(size, counts, YOLO_COUNT(counts));
}

static void test_team_large(void) {
    static const int64_t several_chunks[] = {2300001};
    for (int size = 2; size <= 3; size++) team_ways(size, several_chunks, 1);
}

static void test_team_late(void) {
#ifdef TEST_EMULATED
    static const int64_t counts[] = {1001, 8193};
    emulate_set_lazy(1);
    for (int size = 2; size <= 4; size++) team_ways(size, counts, YOLO_COUNT(counts));
    emulate_set_lazy(0);
    emulate_set_protect(1);
    team_ways(2, counts, 1);
    emulate_set_protect(0);
#else
    SKIP("without the emulation work begins when it likes");
#endif
}

/* ---- what goes wrong */

static int team_calls;

static yolo_status team_second_fails(const com_rank *rank, yolo_error *error) {
    if (rank->index != 1 || team_calls++ < 2) return YOLO_OK;
    return err_set(error, YOLO_ERROR_DEVICE, "planted");
}

static void test_team_failure(void) {
    team_job job;
    if (!team_open(&job, 4)) return;
    job.count = 1001;
    float *values = gpu_random(4 * 3003, 1, YG_F32);
    job.values = values, job.sums = mem_array(4 * 3003, sizeof *values);
    for (yg_way way = YG_DIRECTLY; way <= YG_THROUGH_HOST; way++) {
        com_group *group;
        yolo_error error = {0};
        bool hangs;
        CHECK(com_gpus_open(&group, job.gpus, 4, way, NULL, &hangs, &error) == YOLO_OK);
        team_calls = 0;
        com_test_visit = team_second_fails;
        CHECK(com_run(group, team_sum_rank, &job, &error) == YOLO_ERROR_DEVICE);
        CHECK_MSG(!strcmp(error.message, "rank 1 of 4: planted"), "%s", error.message);
        com_test_visit = NULL;
        com_close(group);
    }
    mem_free(values);
    mem_free(job.sums);
    team_close(&job);
}

#ifdef TEST_EMULATED
static void test_team_faults(void) {
    float *values = gpu_random(3 * 3003, 1, YG_F32), *sums = mem_array(3 * 3003, sizeof *sums);
    int failed = 0, done = 0;
    gpu_device();
    for (yg_way way = YG_DIRECTLY; way <= YG_THROUGH_HOST; way++)
        for (int n = 1, came = true; came; n += n < 40 ? 1 : 11) {
            team_job job;
            com_group *group;
            yolo_error error = {0};
            bool hangs;
            const int handles = emulate_handles();
            const size_t pinned = emulate_allocated(-1);
            if (!team_open(&job, 3)) return;
            job.count = 1001, job.values = values, job.sums = sums;
            emulate_fail_after(n);
            yolo_status status = com_gpus_open(&group, job.gpus, 3, way, NULL, &hangs, &error);
            if (status == YOLO_OK) status = com_run(group, team_sum_rank, &job, &error);
            failed += status != YOLO_OK;
            done += status == YOLO_OK;
            if (status != YOLO_OK) CHECK_MSG(strlen(error.message) > 20, "call %d: %s", n, error.message);
            came = emulate_failed();
            emulate_fail_after(0);
            com_close(group);
            team_close(&job);
            CHECK_MSG(emulate_handles() == handles && emulate_allocated(-1) == pinned, "call %d, %s: something is left", n, error.message);
        }
    CHECK_MSG(failed > 100, "%d failed, %d did not", failed, done);
    mem_free(values);
    mem_free(sums);
}

/* Opens a team in a way that must fail; its message. */
static const char *team_refused(team_job *job, bool *hangs) {
    static yolo_error error;
    com_group *group;
    const yolo_status status = com_gpus_open(&group, job->gpus, job->size, YG_DIRECTLY, NULL, hangs, &error);
    CHECK(status == YOLO_ERROR_DEVICE && !group);
    return error.message;
}

static void test_team_proof(void) {
    team_job job;
    bool hangs;
    if (!team_open(&job, 3)) return;
    emulate_set_peers(EMULATE_PEERS_NONE);
    const char *said = team_refused(&job, &hangs);
    CHECK_MSG(!hangs && !strcmp(said, "GPU 0 does not reach the memory of GPU 1"), "%s", said);
    emulate_set_peers(EMULATE_PEERS_WRONG);
    said = team_refused(&job, &hangs);
    CHECK_MSG(!hangs && !strcmp(said, "GPU 0 reads 1 of 300007 numbers wrongly from GPU 1"), "%s", said);
    team_case(&job, YG_THROUGH_HOST, NULL, 40001);
    emulate_set_peers(EMULATE_PEERS_GOOD);
    team_case(&job, YG_DIRECTLY, NULL, 1001);
    team_close(&job);
}

/* A device that does not answer is given up; nothing waits for it. */
static void test_team_hang(void) {
    team_job job;
    bool hangs;
    if (!team_open(&job, 2)) return;
    emulate_set_peers(EMULATE_PEERS_HANG);
    const double start = os_clock();
    const char *said = team_refused(&job, &hangs);
    CHECK_MSG(hangs && strstr(said, "GPU 0 has not answered for 5 s while it reached into the memory of GPU 1"), "%s", said);
    CHECK_MSG(os_clock() - start < 30, "%.1f s", os_clock() - start);
    emulate_set_peers(EMULATE_PEERS_GOOD);
    team_close(&job);
}

static void test_team_leaks(void) {
    team_job job;
    if (!team_open(&job, 4)) return;
    size_t first[5] = {0};
    int handles = 0;
    for (int i = 0; i < 201; i++) {
        com_group *group;
        yolo_error error = {0};
        bool hangs;
        const yg_way way = i % 8 ? YG_THROUGH_HOST : YG_DIRECTLY;
        CHECK(com_gpus_open(&group, job.gpus, 4, way, NULL, &hangs, &error) == YOLO_OK);
        com_close(group);
        if (i == 0) handles = emulate_handles();
        for (int d = -1; d < 4; d++) {
            if (i == 0) first[d + 1] = emulate_allocated(d);
            else CHECK(first[d + 1] == emulate_allocated(d));
        }
    }
    CHECK(handles == emulate_handles());
    team_close(&job);
}

/* ---- a library that stands in for NCCL where work is done at once and the host sees device memory */

typedef struct team_comm { int size, rank; } team_comm;
static team_comm team_comms[YG_RANKS];
static const float *team_offers[YG_RANKS];
static os_atomic team_met, team_destroyed, team_aborted;

static void team_meet(int size) {
    const long mine = os_atomic_add(&team_met, 1) / size;
    while (os_atomic_get(&team_met) / size == mine) sched_yield();
}

static int team_nccl_id(com_nccl_id *id) {
    memset(id, 7, sizeof *id);
    return 0;
}

static int team_nccl_join(void **comm, int size, com_nccl_id id, int rank) {
    CHECK(id.bytes[0] == 7 && id.bytes[127] == 7);
    team_comms[rank] = (team_comm){size, rank};
    *comm = &team_comms[rank];
    team_meet(size); /* as NCCL's does */
    return 0;
}

static int team_nccl_sum(const void *from, void *to, size_t count, int type, int operation, void *comm, void *stream) {
    const team_comm *c = comm;
    const size_t size = type == COM_NCCL_DOUBLE ? 8 : 4;
    void *sums = mem_alloc(count * size);
    team_offers[c->rank] = from;
    team_meet(c->size);
    for (size_t i = 0; i < count; i++) {
        float sum = team_offers[0][i];
        double wide = type == COM_NCCL_DOUBLE ? ((const double *)team_offers[0])[i] : 0;
        for (int r = 1; r < c->size; r++) {
            if (type == COM_NCCL_DOUBLE) wide += ((const double *)team_offers[r])[i];
            else sum += team_offers[r][i];
        }
        memcpy((char *)sums + i * size, type == COM_NCCL_DOUBLE ? (void *)&wide : (void *)&sum, size);
    }
    team_meet(c->size);
    memcpy(to, sums, count * size);
    mem_free(sums);
    return operation == COM_NCCL_SUM && stream ? 0 : 4;
}

static int team_nccl_fails(const void *from, void *to, size_t count, int type, int operation, void *comm, void *stream) {
    (void)from, (void)to, (void)count, (void)type, (void)operation, (void)stream;
    return ((const team_comm *)comm)->rank == 1 ? 5 : 0;
}

static int team_nccl_destroy(void *comm) {
    (void)comm;
    os_atomic_add(&team_destroyed, 1);
    return 0;
}

static int team_nccl_abort(void *comm) {
    (void)comm;
    os_atomic_add(&team_aborted, 1);
    return 0;
}

static const char *team_nccl_error(int result) { return result == 5 ? "planted" : "no error"; }

static void test_team_nccl(void) {
    com_nccl nccl = {.get_unique_id = team_nccl_id, .comm_init_rank = team_nccl_join, .all_reduce = team_nccl_sum, .comm_destroy = team_nccl_destroy,
                     .comm_abort = team_nccl_abort, .get_error_string = team_nccl_error};
    team_job job;
    if (!team_open(&job, 3)) return;
    team_case(&job, YG_BY_LIBRARY, &nccl, 1001);
    CHECK(os_atomic_get(&team_destroyed) == 3 && os_atomic_get(&team_aborted) == 0);
    float *values = gpu_random(3 * 3003, 1, YG_F32);
    com_group *group;
    yolo_error error = {0};
    bool hangs;
    job.count = 1001, job.values = values, job.sums = mem_array(3 * 3003, sizeof *values);
    nccl.all_reduce = team_nccl_fails;
    CHECK(com_gpus_open(&group, job.gpus, 3, YG_BY_LIBRARY, &nccl, &hangs, &error) == YOLO_OK);
    CHECK(com_run(group, team_sum_rank, &job, &error) == YOLO_ERROR_DEVICE);
    CHECK_MSG(!strcmp(error.message, "rank 1 of 3: GPU 1: sum over GPUs: NCCL: planted"), "%s", error.message);
    com_close(group);
    CHECK(os_atomic_get(&team_destroyed) == 3 && os_atomic_get(&team_aborted) == 3);
    mem_free(values);
    mem_free(job.sums);
    team_close(&job);
}

/* What `yolo devices` says of sums: which way is used, why not another. */
static void test_team_told(void) {
    yolo_error error;
    char *text = NULL;
    team_devices(3);
    CHECK(yolo_devices(&text, &error) == YOLO_OK);
    CHECK_MSG(text && strstr(text, "Sums     over 3 GPUs, the first way that works:\n"), "%s", text ? text : "nothing");
    CHECK_MSG(text && strstr(text, "directly between GPUs ") && strstr(text, "GB/s, used\n           through host memory"), "%s", text ? text : "nothing");
    yolo_text_free(text);
    emulate_set_peers(EMULATE_PEERS_WRONG);
    CHECK(yolo_devices(&text, &error) == YOLO_OK);
    CHECK_MSG(text && strstr(text, "not used: GPU 0 reads 1 of 300007 numbers wrongly from GPU 1\n           through host memory") && strstr(text, "GB/s, used\n"), "%s", text);
    yolo_text_free(text);
    emulate_set_peers(EMULATE_PEERS_GOOD);
    team_devices(2);
}
#endif

static const test_case tests_gpu_team[] = {
    {"team_sums", "2, 3, 4, 7 ranks, directly and through host memory: the bits of a sum in the order of the ranks", test_team_sums},
    {"team_large", "sums of several chunks", test_team_large},
    {"team_late", "no stream forgets to wait for another; no device touches what it has no access to", test_team_late},
    {"team_failure", "a rank that fails is named by all, and the team goes on afterwards", test_team_failure},
#ifdef TEST_EMULATED
    {"team_faults", "any call of CUDA may fail: a message, no hang, nothing left", test_team_faults},
    {"team_proof", "devices that do not reach each other, or wrongly, are found", test_team_proof},
    {"team_hang", "a device that does not answer is given up", test_team_hang},
    {"team_leaks", "200 teams leave nothing", test_team_leaks},
    {"team_nccl", "what NCCL is asked, and what becomes of a failure of it", test_team_nccl},
    {"team_told", "what `devices` says", test_team_told},
#endif
};
