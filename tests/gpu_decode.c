/* gpu_decode.c - boxes from the raw heads against det_anchor, run over the anchors as det_run does. */

typedef struct decode_case {
    net n;
    int pictures, most;
    yg_type type;
    float *values[YG_MAX_LEVELS]; /* what the heads hold, dense */
    gpu_block heads[YG_MAX_LEVELS];
    yg_candidate *candidates;     /* device */
    int *counts;
    void *workspace;
} decode_case;

/* Heads of levels 8, 16, ... for an h x w input; `extra` channels around those that are looked at, `before` of them before. */
static void decode_start(decode_case *t, int pictures, int classes, int levels, int h, int w, int extra, int before, yg_type type) {
    memset(t, 0, sizeof *t);
    t->n.class_count = classes;
    t->n.level_count = levels;
    t->pictures = pictures;
    t->type = type;
    const int channels = 4 * NET_REG_MAX + classes;
    yg_ten views[YG_MAX_LEVELS];
    int anchors = 0;
    for (int l = 0; l < levels; l++) {
        const int stride = t->n.strides[l] = 8 << l;
        t->heads[l] = gpu_tensor(pictures, h / stride, w / stride, channels, channels + extra, before, type);
        t->values[l] = gpu_random(gpu_count(&t->heads[l].t), (uint64_t)(100 * classes + l + 1), type);
        anchors += (h / stride) * (w / stride);
        views[l] = t->heads[l].t;
    }
    t->most = anchors * classes;
    t->candidates = yg_alloc(gpu_device(), (size_t)pictures * (size_t)t->most * sizeof *t->candidates);
    t->counts = yg_alloc(gpu_device(), (size_t)pictures * sizeof *t->counts);
    t->workspace = yg_alloc(gpu_device(), yg_decode_bytes(views, levels, classes));
}

/* Logits as a network has them: most classes unlikely, none whose score is so near to conf that rounding decides. */
static void decode_fill(decode_case *t, float conf) {
    const int channels = 4 * NET_REG_MAX + t->n.class_count;
    for (int l = 0; l < t->n.level_count; l++) {
        const size_t count = gpu_count(&t->heads[l].t);
        for (size_t i = 0; i < count; i++) {
            const bool is_class = (int)(i % (size_t)channels) >= 4 * NET_REG_MAX;
            float x = gpu_round(t->values[l][i] * (is_class ? 6.0f : 4.0f) - (is_class ? 3.0f : 0.0f), t->type);
            if (is_class && fabsf(det_sigmoid(x) - conf) < 1e-4f) x = -8;
            t->values[l][i] = x;
        }
    }
}

static void decode_upload(decode_case *t) {
    for (int l = 0; l < t->n.level_count; l++) gpu_write(&t->heads[l], t->values[l]);
}

static void decode_end(decode_case *t) {
    for (int l = 0; l < t->n.level_count; l++) {
        gpu_free(&t->heads[l]);
        mem_free(t->values[l]);
    }
    yg_free(gpu_device(), t->candidates);
    yg_free(gpu_device(), t->counts);
    yg_free(gpu_device(), t->workspace);
}

static float *decode_logits(const decode_case *t, int picture, int level, int y, int x) {
    const yg_ten *head = &t->heads[level].t;
    return t->values[level] + (((size_t)picture * (size_t)head->h + (size_t)y) * (size_t)head->w + (size_t)x) * (size_t)head->c;
}

/* The candidates of a picture as det_run has them. */
static nms_list decode_expect(const decode_case *t, int picture, const det_options *options) {
    nms_list list = {0};
    const float threshold = logf(options->conf / (1 - options->conf)) - 1e-3f;
    det_options effective = *options;
    effective.multi_label = options->multi_label && t->n.class_count > 1;
    for (int l = 0; l < t->n.level_count; l++)
        for (int y = 0; y < t->heads[l].t.h; y++)
            for (int x = 0; x < t->heads[l].t.w; x++) {
                const float *logits = decode_logits(t, picture, l, y, x);
                if (det_above(logits + 4 * NET_REG_MAX, t->n.class_count, threshold))
                    CHECK(det_anchor(&list, logits, x, y, t->n.strides[l], t->n.class_count, threshold, &effective));
            }
    return list;
}

/* Decodes into memory full of 0x5A; the candidates of all pictures, to be freed with mem_free. */
static yg_candidate *decode_go(decode_case *t, const det_options *options, int most, int *counts) {
    const size_t bytes = (size_t)t->pictures * (size_t)t->most * sizeof(yg_candidate);
    yg_candidate *host = mem_alloc(bytes);
    uint8_t *wanted = NULL, bytes_wanted[256] = {0};
    yg_ten views[YG_MAX_LEVELS];
    for (int l = 0; l < t->n.level_count; l++) views[l] = t->heads[l].t;
    memset(host, 0x5A, bytes);
    yg_upload(gpu_device(), t->candidates, host, bytes);
    if (options->classes) {
        for (int i = 0; i < options->class_count; i++) bytes_wanted[options->classes[i]] = 1;
        wanted = yg_alloc(gpu_device(), (size_t)t->n.class_count);
        yg_upload(gpu_device(), wanted, bytes_wanted, (size_t)t->n.class_count);
    }
    yg_decode(gpu_device(), t->candidates, t->counts, views, t->n.strides, t->n.level_count, t->n.class_count, options->conf, options->multi_label,
              wanted, most, t->workspace);
    gpu_finish();
    yg_download(gpu_device(), host, t->candidates, bytes);
    yg_download(gpu_device(), counts, t->counts, (size_t)t->pictures * sizeof *counts);
    gpu_finish();
    yg_free(gpu_device(), wanted);
    return host;
}

/* Compares with room for `most` a picture, twice. Returns the number of candidates. */
static int64_t decode_check(decode_case *t, const det_options *options, int most) {
    const size_t bytes = (size_t)t->pictures * (size_t)t->most * sizeof(yg_candidate);
    int counts[8], again[8];
    int64_t all = 0, wrong = 0, touched = 0;
    yg_candidate *have = decode_go(t, options, most, counts), *twice = decode_go(t, options, most, again);
    CHECK(!memcmp(have, twice, bytes) && !memcmp(counts, again, (size_t)t->pictures * sizeof *counts));
    for (int i = 0; i < t->pictures; i++) {
        nms_list want = decode_expect(t, i, options);
        all += want.count;
        CHECK_MSG(counts[i] == want.count, "picture %d: %d candidates, expected %lld", i, counts[i], (long long)want.count);
        for (int j = 0; j < YOLO_MIN(YOLO_MIN(want.count, most), counts[i]); j++) {
            const nms_candidate *a = &want.items[j];
            const yg_candidate *b = &have[(int64_t)i * most + j];
            const float far = YOLO_MAX(YOLO_MAX(fabsf(a->x1 - b->x1), fabsf(a->y1 - b->y1)), YOLO_MAX(fabsf(a->x2 - b->x2), fabsf(a->y2 - b->y2)));
            wrong += !(a->class_id == b->class_id && a->order == b->order && fabsf(a->score - b->score) <= 1e-6f * a->score && far <= 1e-3f);
        }
        mem_free(want.items);
    }
    CHECK_MSG(wrong == 0, "%lld candidates differ", (long long)wrong);
    for (int i = 0; i < t->pictures; i++)
        for (size_t j = (size_t)YOLO_MIN(counts[i], most) * sizeof *have; j < (size_t)most * sizeof *have; j++)
            touched += ((const uint8_t *)(have + (int64_t)i * most))[j] != 0x5A;
    for (size_t j = (size_t)t->pictures * (size_t)most * sizeof *have; j < bytes; j++) touched += ((const uint8_t *)have)[j] != 0x5A;
    CHECK_MSG(touched == 0, "%lld bytes behind the candidates have changed", (long long)touched);
    mem_free(have);
    mem_free(twice);
    return all;
}

/* Types, numbers of classes, strides of pixels that are aligned and that are not. */
static void test_gpu_decode_lists(void) {
    static const struct { int pictures, classes, levels, h, w, extra, before; } shapes[] = {
        {1, 80, 3, 96, 160, 0, 0}, {3, 80, 3, 64, 64, 16, 8}, {1, 80, 2, 48, 80, 5, 3}, {3, 1, 3, 96, 64, 0, 0}, {1, 3, 3, 64, 96, 5, 0}, {1, 17, 5, 128, 128, 7, 0}};
    for (int s = 0; s < YOLO_COUNT(shapes); s++)
        for (int type = YG_F32; type <= YG_BF16; type++)
            for (int multi = 0; multi < 2; multi++) {
                decode_case t;
                const det_options options = {.conf = multi ? 0.01f : 0.25f, .multi_label = multi};
                decode_start(&t, shapes[s].pictures, shapes[s].classes, shapes[s].levels, shapes[s].h, shapes[s].w, shapes[s].extra, shapes[s].before, (yg_type)type);
                decode_fill(&t, options.conf);
                decode_upload(&t);
                CHECK(decode_check(&t, &options, t.most) > 10);
                decode_end(&t);
            }
}

/* The best class is chosen first, then asked whether it is wanted. */
static void test_gpu_decode_wanted(void) {
    static const int classes[] = {0, 2, 7};
    decode_case t;
    decode_start(&t, 2, 8, 3, 64, 64, 0, 0, YG_F16);
    decode_fill(&t, 0.2f);
    decode_upload(&t);
    for (int multi = 0; multi < 2; multi++) {
        det_options options = {.conf = 0.2f, .multi_label = multi};
        const int64_t all = decode_check(&t, &options, t.most);
        options.classes = classes;
        options.class_count = 3;
        const int64_t some = decode_check(&t, &options, t.most);
        CHECK(some > 0 && some < all);
    }
    decode_end(&t);
}

/* No room for all: the first ones, and the count of all. */
static void test_gpu_decode_room(void) {
    decode_case t;
    decode_start(&t, 3, 5, 3, 96, 96, 0, 0, YG_F32);
    decode_fill(&t, 0.1f);
    decode_upload(&t);
    for (int multi = 0; multi < 2; multi++)
        for (int most = 0; most <= 70; most += 35) {
            const det_options options = {.conf = 0.1f, .multi_label = multi};
            CHECK(decode_check(&t, &options, most) > 3 * 70);
        }
    decode_end(&t);
}

/* NaN and infinities among the logits, saturated scores that are equal, conf 0 and 1. */
static void test_gpu_decode_edges(void) {
    static const float values[] = {NAN, INFINITY, -INFINITY, 30, 40};
    for (int type = YG_F32; type <= YG_BF16; type++) {
        decode_case t;
        decode_start(&t, 1, 12, 3, 64, 64, 0, 0, (yg_type)type);
        decode_fill(&t, 0.3f);
        for (int l = 0; l < 3; l++) {
            const size_t count = gpu_count(&t.heads[l].t);
            for (size_t i = 0, k = 0; i < count; i += 13 + i % 11) t.values[l][i] = values[k++ % YOLO_COUNT(values)];
        }
        decode_upload(&t);
        for (int multi = 0; multi < 2; multi++)
            for (int c = 0; c < 3; c++) {
                const det_options options = {.conf = c == 0 ? 0 : c == 1 ? 0.3f : 1, .multi_label = multi};
                const int64_t count = decode_check(&t, &options, t.most);
                CHECK(c == 2 ? count == 0 : count > 5);
            }
        decode_end(&t);
    }
}

/* More anchors than fit blocks of one tile each. */
static void test_gpu_decode_large(void) {
    decode_case t;
    const det_options options = {.conf = 0.3f};
    decode_start(&t, 1, 1, 1, 8 * 263, 8 * 256, 7, 0, YG_F16);
    decode_fill(&t, options.conf);
    decode_upload(&t);
    CHECK(decode_check(&t, &options, t.most) > 1000);
    decode_end(&t);
}

static void test_gpu_decode_record(void) {
    decode_case t;
    int counts[1];
    const det_options options = {.conf = 0.3f};
    decode_start(&t, 1, 4, 3, 64, 64, 0, 0, YG_F16);
    decode_fill(&t, options.conf);
    decode_upload(&t);
    yg_candidate *want = decode_go(&t, &options, t.most, counts);
    const size_t bytes = (size_t)counts[0] * sizeof *want;
    yg_ten views[3] = {t.heads[0].t, t.heads[1].t, t.heads[2].t};
    yg_clear(gpu_device(), t.candidates, bytes);
    yg_record(gpu_device());
    yg_decode(gpu_device(), t.candidates, t.counts, views, t.n.strides, 3, 4, options.conf, false, NULL, t.most, t.workspace);
    yg_graph *graph = yg_recorded(gpu_device());
    CHECK(graph != NULL);
    yg_replay(gpu_device(), graph);
    yg_candidate *have = mem_alloc(bytes);
    yg_download(gpu_device(), have, t.candidates, bytes);
    gpu_finish();
    CHECK(bytes && !memcmp(have, want, bytes));
    yg_graph_free(graph);
    mem_free(have);
    mem_free(want);
    decode_end(&t);
}

/* On a device of its own, because its failure sticks. */
static void test_gpu_decode_refuses(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    const int strides[1] = {8};
    const yg_ten head = {NULL, 1, 4, 4, 64 + 3, 67, YG_F16};
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_decode(gpu, NULL, NULL, &head, strides, 1, 4, 0.5f, false, NULL, 0, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "do not belong together"), "%s", reason);
    yg_close(gpu);
}

static const test_case tests_gpu_decode[] = {
    {"decode_lists", "candidates are those of det_run, in its order", test_gpu_decode_lists},
    {"decode_wanted", "classes that are wanted", test_gpu_decode_wanted},
    {"decode_room", "more candidates than there is room for", test_gpu_decode_room},
    {"decode_edges", "NaN, infinities, equal scores, conf 0 and 1", test_gpu_decode_edges},
    {"decode_large", "75,000 anchors", test_gpu_decode_large},
    {"decode_record", "recorded work", test_gpu_decode_record},
    {"decode_refuses", "heads that do not belong together", test_gpu_decode_refuses},
};
