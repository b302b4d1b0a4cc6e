/* test_ranks.c - ranks: sums, records and failures of section 4, and trainings of section 25 whose batches several ranks share. */

/* ---- the group ---- */

static const int ranks_sizes[] = {1, 2, 3, 4, 7};

static double ranks_value(int rank, int64_t i) {
    const uint64_t key[2] = {(uint64_t)rank, (uint64_t)i};
    static const double sizes[] = {1e-3, 1e-2, 0.1, 1, 10, 100, 1e3};
    return (double)(hash_bytes(key, sizeof key, 5) >> 11) / 9007199254740992.0 * sizes[i % 7] - 0.5;
}

typedef struct ranks_sum { int64_t count; float *floats[COM_MAX]; double *doubles[COM_MAX]; } ranks_sum;

static yolo_status ranks_sum_body(com_rank *rank, void *context, yolo_error *error) {
    const ranks_sum *t = context;
    yolo_status status = com_sum_f32(rank, t->floats[rank->index], t->count, error);
    if (status == YOLO_OK) status = com_sum_f64(rank, t->doubles[rank->index], t->count, error);
    return status == YOLO_OK ? com_finish(rank, error) : status;
}

static void ranks_check_sum(com_group *group, int64_t count) {
    ranks_sum t = {.count = count};
    yolo_error error = {0};
    int wrong = 0;
    for (int r = 0; r < group->size; r++) {
        t.floats[r] = mem_alloc((size_t)count * sizeof(float));
        t.doubles[r] = mem_alloc((size_t)count * sizeof(double));
        for (int64_t i = 0; i < count; i++) t.floats[r][i] = (float)ranks_value(r, i), t.doubles[r][i] = ranks_value(r, i);
    }
    CHECK_MSG(com_run(group, ranks_sum_body, &t, &error) == YOLO_OK, "%s", error.message);
    for (int64_t i = 0; i < count; i++) {
        float single = (float)ranks_value(0, i);
        double twice = ranks_value(0, i);
        for (int r = 1; r < group->size; r++) single += (float)ranks_value(r, i), twice += ranks_value(r, i);
        for (int r = 0; r < group->size; r++) wrong += !(t.floats[r][i] == single) || !(t.doubles[r][i] == twice);
    }
    CHECK_MSG(!wrong, "%d ranks, %lld elements: %d wrong", group->size, (long long)count, wrong);
    for (int r = 0; r < group->size; r++) mem_free(t.floats[r]), mem_free(t.doubles[r]);
}

/* Sums are those in the order of the ranks, to the bit, on every rank. */
static void test_ranks_sums(void) {
    const int64_t counts[] = {0, 1, 2, 5, 1023, 1024, 7 * 1024 + 1, 40000};
    for (int i = 0; i < YOLO_COUNT(ranks_sizes); i++) {
        com_group *group = com_open(ranks_sizes[i], &com_host);
        CHECK(group != NULL);
        for (int k = 0; k < YOLO_COUNT(counts); k++) ranks_check_sum(group, counts[k]);
        com_close(group);
    }
}

enum { RANKS_ROUNDS = 100 };
typedef struct ranks_talk { os_atomic wrong; int written[COM_MAX]; } ranks_talk;

/* Records go round, a broadcast between them, and what is written before a barrier is read after it. */
static yolo_status ranks_talk_body(com_rank *rank, void *context, yolo_error *error) {
    ranks_talk *t = context;
    const int size = rank->group->size;
    yolo_status status = YOLO_OK;
    for (int round = 0; round < RANKS_ROUNDS && status == YOLO_OK; round++) {
        int record[3] = {rank->index, round, rank->index * round}, all[COM_MAX][3], word = rank->index == round % size ? 7 * round : -1;
        status = com_gather(rank, record, sizeof record, all, error);
        for (int r = 0; r < size && status == YOLO_OK; r++)
            if (all[r][0] != r || all[r][1] != round || all[r][2] != r * round) os_atomic_add(&t->wrong, 1);
        if (status == YOLO_OK) status = com_broadcast(rank, round % size, &word, sizeof word, error);
        if (word != 7 * round) os_atomic_add(&t->wrong, 1);
        t->written[rank->index] = round + 1;
        if (status == YOLO_OK) status = com_gather(rank, NULL, 0, NULL, error);
        if (t->written[(rank->index + 1) % size] != round + 1) os_atomic_add(&t->wrong, 1);
        if (status == YOLO_OK) status = com_gather(rank, NULL, 0, NULL, error);
    }
    return status;
}

static void test_ranks_records(void) {
    for (int i = 0; i < YOLO_COUNT(ranks_sizes); i++) {
        com_group *group = com_open(ranks_sizes[i], &com_host);
        ranks_talk t = {.wrong = {0}};
        yolo_error error = {0};
        CHECK_MSG(com_run(group, ranks_talk_body, &t, &error) == YOLO_OK, "%s", error.message);
        CHECK_MSG(os_atomic_get(&t.wrong) == 0, "%d ranks: %ld wrong", ranks_sizes[i], os_atomic_get(&t.wrong));
        com_close(group);
    }
}

typedef struct ranks_end { int rank, round; yolo_status status; os_atomic told; } ranks_end; /* who fails when, and of what */

/* Everyone adds up until rank `rank` fails; the others must hear of it. */
static yolo_status ranks_end_body(com_rank *rank, void *context, yolo_error *error) {
    ranks_end *t = context;
    float values[64] = {0};
    for (int round = 0;; round++) {
        if (rank->index == t->rank && round == t->round) return err_set(error, t->status, "planted");
        const yolo_status status = com_sum_f32(rank, values, YOLO_COUNT(values), error);
        if (status == YOLO_OK) continue;
        if (status == t->status && strstr(error->message, "planted")) os_atomic_add(&t->told, 1);
        return status;
    }
}

/* One rank fails in the middle: the others stop with its reason, and the group can be used again. */
static void test_ranks_abort(void) {
    for (int i = 0; i < YOLO_COUNT(ranks_sizes); i++) {
        const int size = ranks_sizes[i];
        com_group *group = com_open(size, &com_host);
        for (int k = 0; k < 3 * size; k++) {
            ranks_end t = {.rank = k % size, .round = k, .status = k % 2 ? YOLO_ERROR_INTERRUPTED : YOLO_ERROR_MEMORY};
            yolo_error error = {0};
            char expected[64];
            snprintf(expected, sizeof expected, size == 1 || k % 2 ? "planted" : "rank %d of %d: planted", k % size, size);
            CHECK(com_run(group, ranks_end_body, &t, &error) == t.status && error.status == t.status);
            CHECK_MSG(!strcmp(error.message, expected) && os_atomic_get(&t.told) == size - 1, "'%s', %ld told", error.message, os_atomic_get(&t.told));
        }
        ranks_check_sum(group, 1000);
        com_close(group);
    }
}

static bool ranks_count_entry(void *user, const char *name, os_kind kind) {
    (void)name;
    (void)kind;
    ++*(int *)user;
    return true;
}

/* 200 groups of 4 ranks, half of which fail: no thread stays. */
static void test_ranks_starts(void) {
    int before = 0, after = 0;
    os_list_directory("/proc/self/task", ranks_count_entry, &before);
    for (int i = 0; i < 200; i++) {
        com_group *group = com_open(4, &com_host);
        ranks_end t = {.rank = i % 4, .round = i % 3, .status = YOLO_ERROR_IO};
        yolo_error error = {0};
        CHECK(group && com_run(group, ranks_end_body, &t, &error) == YOLO_ERROR_IO);
        if (i % 2) ranks_check_sum(group, 100);
        com_close(group);
    }
    os_list_directory("/proc/self/task", ranks_count_entry, &after);
    CHECK_MSG(after <= before, "%d threads before, %d after", before, after);
}

/* ---- groups of several processes, which are threads here ---- */

typedef struct ranks_process {
    com_plan plan;
    com_body *body;
    void *context;
    yolo_status opened, status;
    yolo_error error;
    double seconds; /* from the start to the end */
    os_thread thread;
} ranks_process;

static OS_THREAD_RESULT OS_THREAD_CALL ranks_process_main(void *argument) {
    ranks_process *p = argument;
    com_group *group = NULL;
    const double start = os_clock();
    p->opened = p->status = com_net_open(&group, &p->plan, &p->error);
    if (p->opened == YOLO_OK) p->status = com_run(group, p->body, p->context, &p->error);
    if (p->opened == YOLO_OK) p->status = com_part(group, p->status, &p->error);
    com_close(group);
    p->seconds = os_clock() - start;
    return 0;
}

/* A port that nothing listens at. */
static int ranks_port(void) {
    int port = 0;
    os_network_begin();
    os_socket_close(os_socket_listen(&port));
    return port;
}

static void ranks_processes_start(ranks_process *all, int processes, int here, com_body *body, void *context) {
    const int port = ranks_port();
    for (int p = 0; p < processes; p++) {
        all[p] = (ranks_process){.plan = {.process = p, .processes = processes, .here = here, .address = "127.0.0.1", .port = port, .terms = "one: 1\ntwo: 2\n",
                                          .patience = 20, .silence = 20}, .body = body, .context = context};
    }
}

static void ranks_processes_run(ranks_process *all, int processes) {
    for (int p = 0; p < processes; p++) CHECK(os_thread_start(&all[p].thread, ranks_process_main, &all[p]));
    for (int p = 0; p < processes; p++) os_thread_join(all[p].thread);
}

/* Heads as they travel: what goes in comes out, and anything else is rubbish. */
static void test_ranks_heads(void) {
    const com_head good = {COM_FAILED, 0x01020304, 0xfffefdfc, COM_TERMS};
    com_head head;
    uint8_t bytes[COM_HEAD];
    com_write_head(bytes, &good);
    CHECK(com_read_head(bytes, &head) && head.kind == good.kind && head.from == good.from && head.word == good.word && head.size == good.size);
    for (int i = 0; i < 8; i++) { /* magic, version and kind */
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (uint8_t)(1 << bit);
            const int kind = bytes[6] | bytes[7] << 8;
            CHECK(com_read_head(bytes, &head) == (i >= 6 && kind > 0 && kind < COM_KINDS));
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    }
}

/* Waits for news of a connection. */
static com_news ranks_hear(com_talk *t, com_head *head) {
    com_news news = COM_NOTHING;
    for (int i = 0; i < 100 && (news = com_hear(t, head)) == COM_NOTHING; i++) {
        os_wait wait = {t->socket, OS_READ, 0};
        os_socket_wait(&wait, 1, 50);
    }
    return news;
}

/* Messages cut into pieces, one behind the other, too large, damaged, and the end in the middle of one. */
static void test_ranks_messages(void) {
    char host[COM_NAME], reason[256], text[64];
    int port = 0;
    com_head head;
    com_talk *t = mem_array(1, sizeof *t);
    uint8_t bytes[4 * COM_HEAD];
    CHECK(t && os_network_begin());
    const os_socket listener = os_socket_listen(&port);
    for (int round = 0; round < 5; round++) {
        const os_socket s = os_socket_connect("127.0.0.1", port, 5, reason, sizeof reason);
        os_wait wait = {listener, OS_READ, 0};
        os_socket_wait(&wait, 1, 5000);
        *t = (com_talk){.socket = os_socket_accept(listener, host, sizeof host)};
        CHECK(s != OS_NO_SOCKET && t->socket != OS_NO_SOCKET);
        com_write_head(bytes, &(com_head){COM_FAILED, 1, 2, 5});
        memcpy(bytes + COM_HEAD, "a\1b\nc", 5);
        com_write_head(bytes + COM_HEAD + 5, &(com_head){COM_ALIVE, 7, 0, 0});
        if (round < 2) { /* whole, at once or byte by byte */
            for (int at = 0, size = 2 * COM_HEAD + 5, step = round ? 1 : size; at < size; at += step) {
                CHECK(os_socket_send(s, bytes + at, (size_t)step) == step);
                if (round && at < COM_HEAD + 4) CHECK(com_hear(t, &head) == COM_NOTHING);
            }
            CHECK(ranks_hear(t, &head) == COM_MESSAGE && head.kind == COM_FAILED && head.from == 1 && head.word == 2 && head.size == 5);
            com_text(t, 0, text, sizeof text);
            CHECK(!strcmp(text, "a?b\nc"));
            com_text(t, 9, text, sizeof text);
            CHECK(!*text);
            t->got = 0;
            CHECK(ranks_hear(t, &head) == COM_MESSAGE && head.kind == COM_ALIVE && head.from == 7 && !head.size);
        } else if (round == 2) {
            com_write_head(bytes, &(com_head){COM_HELLO, 1, 0, COM_TERMS + 1});
            CHECK(os_socket_send(s, bytes, COM_HEAD) == COM_HEAD && ranks_hear(t, &head) == COM_RUBBISH);
        } else if (round == 3) {
            com_write_head(bytes, &(com_head){COM_HELLO, 1, 0, UINT64_MAX});
            CHECK(os_socket_send(s, bytes, COM_HEAD) == COM_HEAD && ranks_hear(t, &head) == COM_RUBBISH);
        } else CHECK(os_socket_send(s, bytes, COM_HEAD + 2) == COM_HEAD + 2);
        os_socket_close(s);
        t->got = round < 2 ? 0 : t->got;
        if (round != 2 && round != 3) CHECK(ranks_hear(t, &head) == COM_GONE);
        os_socket_close(t->socket);
    }
    os_socket_close(listener);
    mem_free(t);
}

typedef struct ranks_far { int64_t count; os_atomic wrong; } ranks_far;

/* Sums as those of one process, to the bit; records and broadcasts. */
static yolo_status ranks_far_body(com_rank *rank, void *context, yolo_error *error) {
    ranks_far *t = context;
    const int size = rank->group->size;
    float *floats = mem_alloc((size_t)t->count * sizeof *floats);
    double *doubles = mem_alloc((size_t)t->count * sizeof *doubles);
    yolo_status status = YOLO_OK;
    for (int round = 0; round < 3 && status == YOLO_OK; round++) {
        int record[2] = {rank->index, round}, all[COM_MAX][2], word[3] = {rank->index, 0, round};
        for (int64_t i = 0; i < t->count; i++) floats[i] = (float)ranks_value(rank->index, i + round), doubles[i] = ranks_value(rank->index, i + round);
        status = com_sum_f32(rank, floats, t->count, error);
        if (status == YOLO_OK) status = com_sum_f64(rank, doubles, t->count, error);
        if (status == YOLO_OK) status = com_gather(rank, record, sizeof record, all, error);
        if (status == YOLO_OK) status = com_broadcast(rank, (round * 5 + 1) % size, word, sizeof word, error);
        if (status == YOLO_OK) status = com_finish(rank, error);
        for (int64_t i = 0; i < t->count && status == YOLO_OK; i++) {
            float single = (float)ranks_value(0, i + round);
            double twice = ranks_value(0, i + round);
            for (int r = 1; r < size; r++) single += (float)ranks_value(r, i + round), twice += ranks_value(r, i + round);
            if (!(floats[i] == single) || !(doubles[i] == twice)) os_atomic_add(&t->wrong, 1);
        }
        for (int r = 0; r < size && status == YOLO_OK; r++)
            if (all[r][0] != r || all[r][1] != round) os_atomic_add(&t->wrong, 1);
        if (word[0] != (round * 5 + 1) % size || word[2] != round) os_atomic_add(&t->wrong, 1);
    }
    mem_free(floats);
    mem_free(doubles);
    return status;
}

static void test_ranks_far(void) {
    const int shapes[][2] = {{2, 1}, {2, 2}, {3, 1}, {4, 3}};
    const int64_t counts[] = {1, 1000, 40000};
    int before = 0, after = 0;
    os_list_directory("/proc/self/fd", ranks_count_entry, &before);
    for (int i = 0; i < YOLO_COUNT(shapes); i++) {
        for (int k = 0; k < YOLO_COUNT(counts); k++) {
            ranks_process all[4];
            ranks_far t = {.count = counts[k]};
            ranks_processes_start(all, shapes[i][0], shapes[i][1], ranks_far_body, &t);
            ranks_processes_run(all, shapes[i][0]);
            for (int p = 0; p < shapes[i][0]; p++) CHECK_MSG(all[p].status == YOLO_OK, "%s", all[p].error.message);
            CHECK_MSG(!os_atomic_get(&t.wrong), "%d x %d, %lld elements: %ld wrong", shapes[i][0], shapes[i][1], (long long)counts[k], os_atomic_get(&t.wrong));
        }
    }
    os_list_directory("/proc/self/fd", ranks_count_entry, &after);
    CHECK_MSG(after <= before, "%d files before, %d after", before, after);
}

/* Process 2 comes, is let in, and goes before its place in the chain is taken. */
static OS_THREAD_RESULT OS_THREAD_CALL ranks_deserter_main(void *argument) {
    ranks_process *p = argument;
    com_links *links;
    com_head head;
    p->status = com_links_open(&links, &p->plan, &p->error);
    if (p->status == YOLO_OK) p->status = com_knock(links, &head, &p->error);
    if (p->status == YOLO_OK) com_links_close(links);
    return 0;
}

/* A barrier. */
static yolo_status ranks_barrier_body(com_rank *rank, void *context, yolo_error *error) {
    (void)context;
    return com_gather(rank, NULL, 0, NULL, error);
}

/* A process that goes while the others still meet, and one that has another's number: nobody waits for long. */
static void test_ranks_meeting(void) {
    ranks_process all[3];
    ranks_processes_start(all, 3, 1, ranks_barrier_body, NULL);
    for (int p = 0; p < 3; p++) CHECK(os_thread_start(&all[p].thread, p < 2 ? ranks_process_main : ranks_deserter_main, &all[p]));
    for (int p = 0; p < 3; p++) os_thread_join(all[p].thread);
    CHECK_MSG(all[2].status == YOLO_OK, "%s", all[2].error.message);
    for (int p = 0; p < 2; p++) CHECK_MSG(all[p].status == YOLO_ERROR_IO && all[p].seconds < 10 && strstr(all[p].error.message, "gone: the connection was closed"), "%d: %.1f s, %s", p, all[p].seconds, all[p].error.message);
    ranks_processes_start(all, 3, 1, ranks_barrier_body, NULL);
    all[2].plan.process = 1;
    ranks_processes_run(all, 3);
    for (int p = 0; p < 3; p++) CHECK_MSG(all[p].opened != YOLO_OK && all[p].seconds < 25, "%d: %.1f s, %s", p, all[p].seconds, all[p].error.message);
    CHECK_MSG(strstr(all[0].error.message, "rank 1 (host ") && strstr(all[0].error.message, "two processes say"), "%s", all[0].error.message);
}

/* ---- the backward in parts ---- */

/* A bucket is what it will be as soon as its operator has been through the backward; together they are the whole table. */
static void test_ranks_buckets(void) {
    const char *const files[] = {"tests/fixtures/net_tiny.yaml", "yolov8n.yaml"};
    for (int f = 0; f < YOLO_COUNT(files); f++) {
        yolo_open_options open = {.classes = 3};
        yolo_error error = {0};
        pt_model model;
        grad_pass *pass = NULL;
        grad_bucket buckets[GRAD_BUCKETS + 1];
        CHECK_MSG(pt_load(files[f], &open, &model, &error) == YOLO_OK, "%s", error.message);
        const net *n = &model.net;
        float *gradients = mem_array((uint64_t)n->param_elements, sizeof(float)), *early = mem_array((uint64_t)n->param_elements, sizeof(float));
        CHECK_MSG(grad_create(&pass, n, op_isa_best(), run_cpu, NULL, NULL, 1, 64, 64, &error) == YOLO_OK, "%s", error.message);
        const int count = grad_buckets(n, n->param_elements / 9, buckets);
        int64_t covered = 0;
        for (int i = 0; i < 64 * 64 * 3; i++) grad_input(pass)[i] = (float)(i % 255) / 255;
        grad_forward(pass, model.params);
        for (int level = 0; level < n->level_count; level++) {
            ten d = grad_head_gradient(pass, level);
            for (int64_t i = 0; i < (int64_t)d.h * d.w * d.c; i++) d.data[i] = (float)ranks_value(level, i);
        }
        for (int i = 0, end = n->op_count; i < count; i++) {
            const grad_bucket *b = &buckets[i];
            grad_backward_ops(pass, gradients, b->op, end);
            end = YOLO_MIN(end, b->op);
            memcpy(early + b->first, gradients + b->first, (size_t)b->count * sizeof(float));
            covered += b->count;
            CHECK(i == 0 || b->op <= buckets[i - 1].op);
        }
        CHECK_MSG(count > 3 && covered == n->param_elements, "%d buckets, %lld of %lld", count, (long long)covered, (long long)n->param_elements);
        CHECK(!memcmp(early, gradients, (size_t)n->param_elements * sizeof(float)));
        grad_destroy(pass);
        pt_free(&model);
        mem_free(gradients);
        mem_free(early);
    }
}

/* ---- trainings ---- */

/* A data set of 58 drawn pictures, and 10 to validate; its data.yaml. */
static const char *ranks_data(void) {
    static char yaml[600];
    yolo_error error;
    char train[600], val[600], text[2000];
    if (*yaml) return yaml;
    snprintf(train, sizeof train, "%s/images/train", test_temp("ranks_data"));
    snprintf(val, sizeof val, "%s/images/val", test_temp("ranks_data"));
    if (path_make_directories(train, &error) != YOLO_OK || path_make_directories(val, &error) != YOLO_OK ||
        demo_draw(train, 1, 0, 58, &error) != YOLO_OK || demo_draw(val, 1, 100, 10, &error) != YOLO_OK) return NULL;
    snprintf(yaml, sizeof yaml, "%s/data.yaml", test_temp("ranks_data"));
    int length = snprintf(text, sizeof text, "path: %s\ntrain: images/train\nval: images/val\nnames:\n", test_temp("ranks_data"));
    for (int i = 0; i < DEMO_KINDS; i++) length += snprintf(text + length, sizeof text - (size_t)length, "  %d: %s\n", i, demo_names[i]);
    return path_write(yaml, text, (size_t)length, false, &error) == YOLO_OK ? yaml : NULL;
}

/* A training in which ranks fail and go on: of a network with an eighth of the width. What a rank hands to the others does not go by
   it, and test_train.c trains yolov8n; writing and adding up three million weights would be most of the time. */
static yolo_train_options ranks_small(const char *name, int threads) {
    yolo_train_options o = test_train_small(name, threads);
    o.model = "tests/fixtures/net_tiny.yaml";
    return o;
}

enum { RANKS_EPOCHS = 2 };
typedef struct ranks_course { loss_parts losses[RANKS_EPOCHS], validation; double map50, map50_95; } ranks_course;

/* The validation once more, by one rank: the same bits. */
static void ranks_look_again(tr_run *run) {
    const int ranks = run->rank_count;
    const loss_parts losses = run->outcome.losses;
    const yolo_metrics metrics = run->outcome.metrics;
    yolo_error error = {0};
    run_copies_destroy(&run->weights);
    run->rank_count = 1;
    CHECK_MSG(tr_validate(run, &error) == YOLO_OK, "%s", error.message);
    run->rank_count = ranks;
    CHECK(!memcmp(&losses, &run->outcome.losses, sizeof losses));
    CHECK(metrics.map50 == run->outcome.metrics.map50 && metrics.map50_95 == run->outcome.metrics.map50_95);
}

/* Epochs of 5 steps of batch 12, the last of 10 pictures, the second epoch without mosaic: means of the losses an epoch, then validation. */
static void ranks_follow(int ranks, bool sync_bn, int epochs, ranks_course *course) {
    yolo_train_options o = test_train_small("course", 2);
    yolo_error error = {0};
    pt_model last = {0};
    o.data = ranks_data();
    o.model = "weights/shapes.pt";
    o.imgsz = 96;
    o.batch = o.nbs = 12;
    o.epochs = RANKS_EPOCHS;
    o.close_mosaic = 1;
    o.lr0 = 0.002;
    o.warmup_bias_lr = 0.002;
    o.ranks = ranks;
    o.sync_bn = sync_bn;
    tr_run *run = tr_create(&o, op_isa_best(), run_cpu);
    yolo_status status = tr_new_folder(run, &error);
    if (status == YOLO_OK) status = tr_settle_epochs(run, &last, &error);
    if (status == YOLO_OK) status = tr_settle_ranks(run, &error);
    if (status == YOLO_OK) status = tr_set_up(run, &last, &error);
    for (int epoch = 0; epoch < epochs && status == YOLO_OK; epoch++) {
        status = tr_train_epoch(run, &error);
        CHECK(!run->lost && dl_batch_count(run->loader) == 5);
        course->losses[epoch] = run->losses;
        run->done++;
    }
    if (status == YOLO_OK && epochs == RANKS_EPOCHS) status = tr_validate(run, &error);
    CHECK_MSG(status == YOLO_OK, "%d ranks: %s", ranks, error.message);
    if (status == YOLO_OK && epochs == RANKS_EPOCHS && ranks > 1) ranks_look_again(run);
    course->validation = run->outcome.losses;
    course->map50 = run->outcome.metrics.map50;
    course->map50_95 = run->outcome.metrics.map50_95;
    tr_close(run);
    mem_free(run);
}

static double ranks_apart(const loss_parts *a, const loss_parts *b) {
    return YOLO_MAX(fabs(a->box / b->box - 1), YOLO_MAX(fabs(a->cls / b->cls - 1), fabs(a->dfl / b->dfl - 1)));
}

/* With sync_bn 2, 3 and 4 ranks follow the course of one; without, they do not. */
static void test_ranks_sync(void) {
    ranks_course one, other;
    if (os_path_kind("weights/shapes.pt") != OS_FILE) SKIP("no weights/shapes.pt: run at the top of the repository");
    ranks_follow(1, true, RANKS_EPOCHS, &one);
    CHECK_MSG(one.map50 > 0.1, "mAP50 %g", one.map50);
    for (int ranks = 2; ranks <= 4; ranks++) {
        ranks_follow(ranks, true, RANKS_EPOCHS, &other);
        for (int epoch = 0; epoch < RANKS_EPOCHS; epoch++) {
            const double apart = ranks_apart(&other.losses[epoch], &one.losses[epoch]);
            CHECK_MSG(apart <= 1e-5, "%d ranks, epoch %d: %.3g", ranks, epoch, apart);
        }
        CHECK_MSG(ranks_apart(&other.validation, &one.validation) <= 1e-5, "%d ranks: validation %.3g", ranks, ranks_apart(&other.validation, &one.validation));
        CHECK_NEAR(other.map50, one.map50, 1e-9);
        CHECK_NEAR(other.map50_95, one.map50_95, 1e-9);
    }
    ranks_follow(3, false, 1, &other);
    CHECK(ranks_apart(&other.losses[0], &one.losses[0]) > 1e-3);
}

/* A small training of 4 ranks, twice: the same bits, however the ranks come. The thread sanitizer looks at it too. */
static void test_ranks_four(void) {
    uint64_t hashes[2] = {0};
    for (int i = 0; i < 2; i++) {
        yolo_train_options o = ranks_small("ranks_four", 1 + 4 * i);
        yolo_train_report report;
        yolo_error error = {0};
        o.imgsz = 32;
        o.epochs = 1;
        o.ranks = 4;
        o.sync_bn = true;
        CHECK_MSG(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_OK, "%s", error.message);
        hashes[i] = test_train_hash(&report);
    }
    CHECK(hashes[0] && hashes[0] == hashes[1]);
}

/* Interrupted at the beginning of the second epoch, with gradients that no step has used; resumed: as if nothing had been. */
static void test_ranks_resume(void) {
    for (int k = 0; k < 2; k++) {
        yolo_train_options o = ranks_small(k ? "ranks_whole_sync" : "ranks_whole", 2), again = tr_defaults();
        yolo_train_report whole, part;
        yolo_error error = {0};
        test_train_ear ear = {.interrupt_at = 2};
        char last[1100];
        o.ranks = k ? 4 : 2;
        o.sync_bn = k == 1;
        CHECK_MSG(tr_train(&o, op_isa_best(), run_cpu, &whole, &error) == YOLO_OK, "%s", error.message);
        o.name = k ? "ranks_part_sync" : "ranks_part";
        o.log = (yolo_log){test_train_listen, &ear};
        CHECK(tr_train(&o, op_isa_best(), run_cpu, &part, &error) == YOLO_ERROR_INTERRUPTED && part.epochs == 1);
        CHECK_MSG(!strncmp(error.message, "interrupted", 11), "%s", error.message);
        yolo_interrupt_clear();
        snprintf(last, sizeof last, "%s/weights/last.pt", part.folder);
        again.resume = true;
        again.model = last;
        again.threads = 3;
        ear = (test_train_ear){.wanted = k ? "Number of CPU ranks: 4" : "Number of CPU ranks: 2"};
        again.log = (yolo_log){test_train_listen, &ear};
        CHECK_MSG(tr_train(&again, op_isa_best(), run_cpu, &part, &error) == YOLO_OK, "%s", error.message);
        CHECK(ear.heard && part.epochs == 3 && test_train_hash(&whole) && test_train_hash(&whole) == test_train_hash(&part));
    }
}

static os_atomic ranks_calls; /* of rank 2 */
static int ranks_fatal;       /* the call at which memory is out */

static yolo_status ranks_out_of_memory(const com_rank *rank, yolo_error *error) {
    return rank->index == 2 && os_atomic_add(&ranks_calls, 1) + 1 == ranks_fatal ? err_memory(error, 1 << 20) : YOLO_OK;
}

static yolo_status ranks_slow(const com_rank *rank, yolo_error *error) {
    const double start = os_clock();
    (void)error;
    while (rank->index == 1 && os_clock() - start < 0.01) test_rest();
    return YOLO_OK;
}

/* Hash of what a training by 4 ranks leaves that nothing befell, which is trained once. Memory runs out in rank 2 half way through the
   next one. */
static uint64_t ranks_train_whole(void) {
    static uint64_t hash;
    static int calls;
    com_test_visit = ranks_out_of_memory;
    ranks_fatal = 0;
    os_atomic_set(&ranks_calls, 0);
    if (!hash) {
        yolo_train_options o = ranks_small("ranks_whole_four", 2);
        yolo_train_report report;
        yolo_error error = {0};
        o.ranks = 4;
        CHECK_MSG(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_OK, "%s", error.message);
        hash = test_train_hash(&report);
        calls = (int)os_atomic_get(&ranks_calls);
    }
    ranks_fatal = calls / 2;
    os_atomic_set(&ranks_calls, 0);
    return hash;
}

/* Memory runs out in rank 2 in the second epoch: a sentence that names it; from last.pt the training ends as it would have. */
static void test_ranks_memory(void) {
    yolo_train_options o = ranks_small("ranks_memory", 2);
    yolo_train_report part;
    yolo_error error = {0};
    char last[1100];
    const uint64_t whole = ranks_train_whole();
    o.ranks = 4;
    CHECK(tr_train(&o, op_isa_best(), run_cpu, &part, &error) == YOLO_ERROR_MEMORY && part.epochs == 1);
    CHECK_MSG(!strcmp(error.message, "rank 2 of 4: out of memory: 1.0 MiB wanted"), "%s", error.message);
    snprintf(last, sizeof last, "%s/weights/last.pt", part.folder);
    com_test_visit = ranks_slow; /* and the rest with a rank that is much slower than the others */
    yolo_train_options again = tr_defaults();
    again.resume = true;
    again.model = last;
    again.threads = 2;
    CHECK_MSG(tr_train(&again, op_isa_best(), run_cpu, &part, &error) == YOLO_OK, "%s", error.message);
    com_test_visit = NULL;
    CHECK(part.epochs == 3 && whole && whole == test_train_hash(&part));
}

typedef struct ranks_training { yolo_train_options options; yolo_train_report report; yolo_status status; yolo_error error; os_thread thread; } ranks_training;

static OS_THREAD_RESULT OS_THREAD_CALL ranks_training_main(void *argument) {
    ranks_training *t = argument;
    t->status = tr_train(&t->options, op_isa_best(), run_cpu, &t->report, &t->error);
    return 0;
}

/* Two processes, which are threads here, with two ranks each. */
static void ranks_train_apart(ranks_training *both, const yolo_train_options *options) {
    const int port = ranks_port();
    for (int p = 0; p < 2; p++) {
        both[p] = (ranks_training){.options = *options};
        both[p].options.ranks = 2;
        both[p].options.peers = (yolo_peers){.count = 2, .rank = p, .address = "127.0.0.1", .port = port};
        CHECK(os_thread_start(&both[p].thread, ranks_training_main, &both[p]));
    }
    for (int p = 0; p < 2; p++) os_thread_join(both[p].thread);
}

/* Memory runs out in rank 2, which is another process': told in both, and nothing lost; then the rest, slowly. */
static void test_ranks_apart(void) {
    yolo_train_options o = ranks_small("ranks_apart", 2), again = tr_defaults();
    ranks_training both[2];
    char last[1100];
    const uint64_t whole = ranks_train_whole();
    ranks_train_apart(both, &o);
    for (int p = 0; p < 2; p++)
        CHECK_MSG(both[p].status == YOLO_ERROR_MEMORY && !strcmp(both[p].error.message, "rank 2 of 4: out of memory: 1.0 MiB wanted"), "%d: %s", p, both[p].error.message);
    CHECK(both[0].report.epochs == 1 && *both[0].report.folder && !*both[1].report.folder);
    snprintf(last, sizeof last, "%s/weights/last.pt", both[0].report.folder);
    com_test_visit = ranks_slow;
    again.resume = true;
    again.model = last;
    again.threads = 2;
    ranks_train_apart(both, &again);
    com_test_visit = NULL;
    for (int p = 0; p < 2; p++) CHECK_MSG(both[p].status == YOLO_OK && both[p].report.epochs == 3, "%d: %s", p, both[p].error.message);
    CHECK(whole && whole == test_train_hash(&both[0].report));
}

/* A weight that is no number, once, at the beginning of the second epoch. */
typedef struct ranks_poison { tr_run *run; os_atomic given; } ranks_poison;

static void ranks_give(void *user, tr_part part) {
    ranks_poison *poison = user;
    if (part == TR_INPUT && poison->run->done == 1 && !os_atomic_add(&poison->given, 1)) poison->run->model.params[0] = NAN;
}

typedef struct ranks_lost { yolo_train_options options; yolo_train_report report; bool poisoned; yolo_status status; yolo_error error; os_thread thread; } ranks_lost;

static OS_THREAD_RESULT OS_THREAD_CALL ranks_lost_main(void *argument) {
    ranks_lost *t = argument;
    pt_model last = {0};
    tr_run *run = tr_create(&t->options, op_isa_best(), run_cpu);
    ranks_poison poison = {.run = run};
    if (t->poisoned) run->lap = ranks_give, run->lap_user = &poison;
    t->status = tr_new_folder(run, &t->error);
    if (t->status == YOLO_OK) t->status = tr_train_run(run, &last, &t->error);
    tr_report(run, &t->report);
    tr_close(run);
    mem_free(run);
    return 0;
}

/* An epoch whose loss is not finite in one process begins anew in both, from process 0's state: the bits of one process. */
static void test_ranks_relay(void) {
    const int port = ranks_port();
    ranks_lost all[3];
    test_train_ear ears[2] = {{.wanted = "is not finite: epoch 2 begins anew"}, {.wanted = "is not finite: epoch 2 begins anew"}};
    for (int p = 0; p < 3; p++) { /* one alone, then two */
        all[p] = (ranks_lost){.options = ranks_small(p ? "ranks_relay_both" : "ranks_relay_one", 2), .poisoned = p < 2};
        all[p].options.ranks = p ? 2 : 4;
        if (p < 2) all[p].options.log = (yolo_log){test_train_listen, &ears[p]};
        if (p) all[p].options.peers = (yolo_peers){.count = 2, .rank = p - 1, .address = "127.0.0.1", .port = port};
        CHECK(os_thread_start(&all[p].thread, ranks_lost_main, &all[p]));
    }
    for (int p = 0; p < 3; p++) os_thread_join(all[p].thread);
    for (int p = 0; p < 3; p++) CHECK_MSG(all[p].status == YOLO_OK, "%d: %s", p, all[p].error.message);
    CHECK(ears[0].heard && ears[1].heard && all[1].report.epochs == 3);
    CHECK(test_train_hash(&all[0].report) && test_train_hash(&all[0].report) == test_train_hash(&all[1].report));
}

/* Allocations fail one after the other while ranks are made and trained: an error or a training, no hang. */
static void test_ranks_faults(void) {
    int failed = 0;
    for (long at = 40; at < 4000 && test_failures == 0; at += at / 3) {
        yolo_train_options o = ranks_small("ranks_faults", 1);
        yolo_train_report report;
        yolo_error error = {0};
        o.ranks = 3;
        o.batch = 9;
        o.epochs = 1;
        o.multi_scale = 0.5;
        o.val = false;
        os_atomic_set(&mem_fail_after, at);
        const yolo_status status = tr_train(&o, op_isa_best(), run_cpu, &report, &error);
        os_atomic_set(&mem_fail_after, 0);
        failed += status != YOLO_OK;
        CHECK_MSG(status == YOLO_OK || error.message[0], "allocation %ld: %d without a sentence", at, status);
    }
    CHECK(failed > 2);
}

/* A weight that is not a number, and what cannot be split. */
static void test_ranks_sentences(void) {
    yolo_open_options open = {.classes = DEMO_KINDS};
    yolo_train_options o = test_train_small("ranks_wild", 2);
    yolo_train_report report;
    yolo_error error = {0};
    pt_model model;
    char path[600];
    snprintf(path, sizeof path, "%s", test_temp("ranks_poisoned.pt"));
    CHECK(pt_load("yolov8n.yaml", &open, &model, &error) == YOLO_OK);
    model.params[model.net.params[net_param_find(&model.net, "model.2.cv1.conv.weight")].offset] = NAN;
    CHECK(pt_write(path, &model, false, &error) == YOLO_OK);
    pt_free(&model);
    o.model = path;
    o.ranks = 2;
    CHECK(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_ERROR_FORMAT);
    CHECK_MSG(strstr(error.message, "the loss of rank 0 in epoch 1 is not finite for the 4th time") && test_train_hash(&report), "%s", error.message);
    o.model = "yolov8n.yaml";
    o.batch = 30;
    o.ranks = 4;
    CHECK(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "use batch=28 or batch=32"));
    o.batch = 3;
    CHECK(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "use batch=4, or fewer ranks"));
    o.ranks = 65;
    CHECK(tr_train(&o, op_isa_best(), run_cpu, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "ranks=65"));
}

/* ---- pictures shared out ---- */

enum { RANKS_PICTURES = 64 };
static const char *const ranks_damaged[] = {"p07.jpg", "sub/p20.png"};

/* A tree of drawn pictures of many shapes, two of them damaged; its folder, "" where it cannot be made. */
static const char *ranks_tree(void) {
    static char folder[600];
    yolo_error error = {0};
    char path[700], drawn[600];
    if (*folder) return folder;
    snprintf(drawn, sizeof drawn, "%s", test_temp("ranks_drawn"));
    snprintf(folder, sizeof folder, "%s", test_temp("ranks_tree"));
    snprintf(path, sizeof path, "%s/sub", folder);
    bool good = path_make_directories(drawn, &error) == YOLO_OK && path_make_directories(path, &error) == YOLO_OK && demo_draw(drawn, 3, 0, 8, &error) == YOLO_OK;
    for (int i = 0; i < RANKS_PICTURES && good; i++) {
        yolo_image from = {0}, to = {NULL, 40 + i * 37 % 90, 40 + i * 53 % 70};
        snprintf(path, sizeof path, "%s/%05d.jpg", drawn, i % 8);
        good = codec_read(path, &from, &error) == YOLO_OK;
        to.pixels = mem_array((uint64_t)to.width * (uint64_t)to.height, 3);
        if (good) img_resize(&from, to.width, to.height, to.pixels, (size_t)to.width * 3);
        snprintf(path, sizeof path, "%s/%sp%02d.%s", folder, i % 5 ? "" : "sub/", i, i % 4 ? "jpg" : "png");
        if (good) good = yolo_image_write(&to, path, &error) == YOLO_OK;
        yolo_image_free(&from);
        yolo_image_free(&to);
    }
    for (int i = 0; i < YOLO_COUNT(ranks_damaged) && good; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, ranks_damaged[i]);
        good = path_write(path, "no picture", 10, false, &error) == YOLO_OK;
    }
    CHECK_MSG(good, "%s", error.message);
    return good ? folder : "";
}

/* Writes labels for the tree to `out`. */
static yolo_status ranks_label(const char *out, int ranks, int threads, yolo_existing existing, yolo_label_report *report, yolo_error *error) {
    yolo_open_options open = yolo_open_defaults();
    yolo_label_options options = yolo_label_defaults();
    yolo_model *model = NULL;
    open.threads = threads;
    open.ranks = ranks;
    open.device = "cpu";
    options.source = ranks_tree();
    options.out = out;
    options.predict.imgsz = 64;
    options.save_conf = true;
    options.existing = existing;
    yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, error);
    if (status == YOLO_OK) status = yolo_label(model, options, report, error);
    yolo_label_report_free(report);
    yolo_model_close(model);
    return status;
}

/* Of the pictures' label files in `have`, how many are there; each as in `want`. */
static int ranks_same_labels(const char *have, const char *want) {
    int there = 0, boxes = 0;
    for (int i = 0; i < RANKS_PICTURES; i++) {
        const char *const roots[] = {have, want};
        char path[900];
        uint8_t *bytes[2] = {NULL, NULL};
        size_t sizes[2] = {0, 0};
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/%sp%02d.txt", roots[k], i % 5 ? "" : "sub/", i);
            if (path_read(path, 1 << 20, &bytes[k], &sizes[k], NULL) != YOLO_OK) bytes[k] = NULL;
        }
        if (bytes[0]) {
            there++;
            boxes += sizes[0] > 0;
            CHECK_MSG(bytes[1] && sizes[0] == sizes[1] && !memcmp(bytes[0], bytes[1], sizes[0]), "picture %d: other labels", i);
        }
        mem_free(bytes[0]);
        mem_free(bytes[1]);
    }
    CHECK_MSG(boxes * 2 > there, "%d of %d pictures have boxes", boxes, there);
    return there;
}

static os_atomic ranks_begun[COM_MAX]; /* batches of each rank */
static int ranks_others;               /* that rank 1 waits for before its first picture */

static long ranks_begun_beside(int rank) {
    long sum = 0;
    for (int r = 0; r < COM_MAX; r++) sum += r == rank ? 0 : os_atomic_get(&ranks_begun[r]);
    return sum;
}

/* Rank 1 is slower than all others: it is at its first picture until they have begun `ranks_others`. */
static yolo_status ranks_overtaken(int rank, yolo_error *error) {
    const double start = os_clock();
    if (os_atomic_add(&ranks_begun[rank], 1) || rank != 1) return YOLO_OK;
    while (ranks_begun_beside(1) < ranks_others && os_clock() - start < 30) test_rest();
    return ranks_begun_beside(1) < ranks_others ? err_set(error, YOLO_ERROR_DEVICE, "the others have stopped at %ld", ranks_begun_beside(1)) : YOLO_OK;
}

static void ranks_reset(pipe_visit *visit) {
    for (int r = 0; r < COM_MAX; r++) os_atomic_set(&ranks_begun[r], 0);
    pipe_test_visit = visit;
}

/* 1, 2 and 4 ranks write the same bytes, also where one of them is slow: the others do not wait for it. */
static void test_ranks_label(void) {
    static const struct { int ranks, threads; bool slow; } cases[] = {{1, 1, false}, {1, 3, false}, {2, 1, false}, {4, 8, false}, {4, 2, true}, {5, 1, false}};
    char want[600], have[600];
    if (os_path_kind("weights/shapes.pt") != OS_FILE) SKIP("no weights/shapes.pt: run at the top of the repository");
    for (int i = 0; i < YOLO_COUNT(cases) && *ranks_tree(); i++) {
        yolo_label_report report = {0};
        yolo_error error = {0};
        char name[32];
        snprintf(name, sizeof name, "ranks_labels%d", i);
        snprintf(i ? have : want, sizeof want, "%s", test_temp(name));
        ranks_others = 40;
        ranks_reset(cases[i].slow ? ranks_overtaken : NULL);
        const yolo_status status = ranks_label(i ? have : want, cases[i].ranks, cases[i].threads, YOLO_EXISTING_REPLACE, &report, &error);
        pipe_test_visit = NULL;
        CHECK_MSG(status == YOLO_OK, "%d ranks: %s", cases[i].ranks, error.message);
        CHECK(ranks_same_labels(i ? have : want, want) == RANKS_PICTURES - YOLO_COUNT(ranks_damaged));
    }
}

/* Rank 2 is out of memory at its third picture, which comes before the tenth of others. */
static yolo_status ranks_third_fails(int rank, yolo_error *error) {
    const double start = os_clock();
    const long begun = os_atomic_add(&ranks_begun[rank], 1) + 1;
    while (rank != 2 && begun == 10 && os_atomic_get(&ranks_begun[2]) < 3 && os_clock() - start < 30) test_rest();
    return rank == 2 && begun == 3 ? err_memory(error, 1 << 20) : YOLO_OK;
}

/* A rank that fails: one sentence that names it; what is written is whole, and the same again writes the rest. */
static void test_ranks_lost(void) {
    yolo_label_report report = {0};
    yolo_error error = {0};
    char want[600], have[600];
    if (os_path_kind("weights/shapes.pt") != OS_FILE || !*ranks_tree()) SKIP("no weights/shapes.pt: run at the top of the repository");
    snprintf(want, sizeof want, "%s", test_temp("ranks_lost_want"));
    snprintf(have, sizeof have, "%s", test_temp("ranks_lost"));
    CHECK(ranks_label(want, 1, 2, YOLO_EXISTING_REPLACE, &report, &error) == YOLO_OK);
    for (int i = 0; i < RANKS_PICTURES; i++) { /* those of an earlier run of the tests */
        char path[900];
        snprintf(path, sizeof path, "%s/%sp%02d.txt", have, i % 5 ? "" : "sub/", i);
        os_remove(path);
    }
    ranks_reset(ranks_third_fails);
    CHECK(ranks_label(have, 4, 4, YOLO_EXISTING_SKIP, &report, &error) == YOLO_ERROR_MEMORY);
    pipe_test_visit = NULL;
    CHECK_MSG(!strcmp(error.message, "rank 2 of 4: out of memory: 1.0 MiB wanted"), "%s", error.message);
    CHECK_MSG(os_atomic_get(&ranks_begun[2]) == 3 && ranks_same_labels(have, want) < RANKS_PICTURES - 2, "%d pictures", ranks_same_labels(have, want));
    CHECK_MSG(ranks_label(have, 4, 4, YOLO_EXISTING_SKIP, &report, &error) == YOLO_OK, "%s", error.message);
    CHECK(ranks_same_labels(have, want) == RANKS_PICTURES - YOLO_COUNT(ranks_damaged));
    CHECK(ranks_label(have, 65, 4, YOLO_EXISTING_SKIP, &report, &error) == YOLO_ERROR_USAGE && strstr(error.message, "65 ranks"));
}

/* Allocations fail one after the other while 3 ranks label: an error or labels, no hang, and nothing torn. */
static void test_ranks_shortage(void) {
    yolo_label_report report = {0};
    yolo_error error = {0};
    char want[600], have[600];
    int failed = 0;
    if (os_path_kind("weights/shapes.pt") != OS_FILE || !*ranks_tree()) SKIP("no weights/shapes.pt: run at the top of the repository");
    snprintf(want, sizeof want, "%s", test_temp("ranks_short_want"));
    snprintf(have, sizeof have, "%s", test_temp("ranks_short"));
    CHECK(ranks_label(want, 1, 2, YOLO_EXISTING_REPLACE, &report, &error) == YOLO_OK);
    for (long at = 400; at < 20000 && test_failures == 0; at += at / test_cases(12)) {
        memset(&error, 0, sizeof error);
        os_atomic_set(&mem_fail_after, at);
        const yolo_status status = ranks_label(have, 3, 3, YOLO_EXISTING_REPLACE, &report, &error);
        const bool reached = os_atomic_get(&mem_fail_after) <= 0;
        os_atomic_set(&mem_fail_after, 0);
        failed += status != YOLO_OK;
        CHECK_MSG(status == YOLO_OK || (status == YOLO_ERROR_MEMORY && error.message[0]), "allocation %ld: %d, \"%s\"", at, status, error.message);
        if (!reached) break;
    }
    CHECK_MSG(failed > 2, "%d", failed);
    ranks_same_labels(have, want);
}

/* Validation by 1 to 5 ranks, one of them slow: the same bits; by one that fails: a sentence. */
static void test_ranks_val(void) {
    yolo_metrics want = {0}, have = {0};
    yolo_error error = {0};
    if (os_path_kind("weights/shapes.pt") != OS_FILE) SKIP("no weights/shapes.pt: run at the top of the repository");
    for (int ranks = 1; ranks <= 6; ranks++) {
        yolo_open_options open = yolo_open_defaults();
        yolo_val_options options = yolo_val_defaults();
        yolo_model *model = NULL;
        yolo_metrics *metrics = ranks == 1 ? &want : &have;
        open.device = "cpu";
        open.ranks = ranks;
        open.threads = 2;
        options.data = ranks_data();
        options.split = "train";
        options.imgsz = 96;
        ranks_others = 20;
        ranks_reset(ranks == 6 ? ranks_third_fails : ranks == 4 ? ranks_overtaken : NULL);
        yolo_status status = yolo_model_open(&model, "weights/shapes.pt", open, &error);
        if (status == YOLO_OK) status = yolo_val(model, options, metrics, &error);
        pipe_test_visit = NULL;
        yolo_model_close(model);
        if (ranks == 6) CHECK_MSG(status == YOLO_ERROR_MEMORY && !strncmp(error.message, "rank 2 of 6: out of memory", 26), "%s", error.message);
        else CHECK_MSG(status == YOLO_OK && metrics->images == 58 && metrics->map50 > 0.1, "%d ranks: mAP50 %g, %s", ranks, metrics->map50, error.message);
        if (ranks > 1 && ranks < 6) CHECK(have.map50 == want.map50 && have.map50_95 == want.map50_95 && have.precision == want.precision && have.recall == want.recall);
        if (ranks > 1) yolo_metrics_free(metrics);
    }
    yolo_metrics_free(&want);
}

static const test_case tests_ranks[] = {
    {"sums", "sums in the order of 1 to 7 ranks, to the bit", test_ranks_sums},
    {"records", "records, broadcasts and barriers", test_ranks_records},
    {"abort", "a rank that fails stops the others, with its reason", test_ranks_abort},
    {"starts", "200 groups come and go", test_ranks_starts},
    {"heads", "heads of messages, and damaged ones", test_ranks_heads},
    {"messages", "messages in pieces, too large, and cut off", test_ranks_messages},
    {"meeting", "processes that leave while the others meet, or have one number", test_ranks_meeting},
    {"far", "sums, records and broadcasts of several processes, as those of one", test_ranks_far},
    {"buckets", "parts of the gradients are whole when they are said to be", test_ranks_buckets},
    {"sync", "with sync_bn any number of ranks trains alike", test_ranks_sync},
    {"four", "4 ranks leave the same state, whatever the threads", test_ranks_four},
    {"resume", "2 and 4 ranks, interrupted and resumed: the same bits", test_ranks_resume},
    {"memory", "out of memory in rank 2: told, and nothing lost; a slow rank", test_ranks_memory},
    {"apart", "two processes: out of memory in rank 2, told in both; resumed, the bits of one process", test_ranks_apart},
    {"relay", "two processes: a lost epoch begins anew in both", test_ranks_relay},
    {"faults", "failed allocations in any rank end the training", test_ranks_faults},
    {"sentences", "infinite losses of a rank, batches that are not even", test_ranks_sentences},
    {"label", "1 to 5 ranks write the same labels, and none waits for a slow one", test_ranks_label},
    {"lost", "a rank fails among labels: named, whole files, and the rest by the same call again", test_ranks_lost},
    {"shortage", "failed allocations in any rank end a labelling, or cost a picture", test_ranks_shortage},
    {"val", "1 to 5 ranks measure the same bits; one that fails is named", test_ranks_val},
};
