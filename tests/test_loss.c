/* test_loss.c - assignment, losses and gradients; tests/make_loss.py makes the reference, tests/oracle_loss.py compares more. */

static const loss_gains test_loss_gains = {7.5f, 0.5f, 1.5f};

typedef struct test_loss_case { net n; ten heads[3], gradients[3]; loss_target *targets; int *first; void *workspace; int64_t floats; } test_loss_case;

/* Heads of levels 8, 16, 32 with logits drawn in [-range, range). */
static void test_loss_start(test_loss_case *t, int pictures, int classes, int h, int w, int targets, const char *key, double range) {
    memset(t, 0, sizeof *t);
    t->n.class_count = classes;
    t->n.level_count = 3;
    for (int l = 0; l < 3; l++) {
        int stride = t->n.strides[l] = 8 << l, c = LOSS_SIDES + classes;
        int64_t floats = (int64_t)pictures * (h / stride) * (w / stride) * c;
        char name[64];
        snprintf(name, sizeof name, "%s %d", key, l);
        rng r = {.key = hash_bytes(name, strlen(name), 7)};
        t->heads[l] = t->gradients[l] = (ten){NULL, pictures, h / stride, w / stride, c, c};
        t->heads[l].data = mem_array((uint64_t)floats, sizeof(float));
        t->gradients[l].data = mem_array((uint64_t)floats, sizeof(float));
        for (int64_t i = 0; i < floats; i++) t->heads[l].data[i] = (float)(2 * rng_uniform(&r) * range - range);
    }
    t->targets = mem_array((uint64_t)targets, sizeof *t->targets);
    t->first = mem_array((uint64_t)pictures + 1, sizeof *t->first);
    t->workspace = mem_alloc(loss_workspace(&t->n, t->heads, targets));
}

static void test_loss_end(test_loss_case *t) {
    for (int l = 0; l < 3; l++) {
        mem_free(t->heads[l].data);
        mem_free(t->gradients[l].data);
    }
    mem_free(t->targets);
    mem_free(t->first);
    mem_free(t->workspace);
}

/* `count` targets for each picture of a w x h input. */
static void test_loss_targets(test_loss_case *t, int count, int w, int h) {
    rng r = {.key = 5};
    for (int i = 0; i < t->heads[0].n; i++) t->first[i + 1] = (i + 1) * count;
    for (int i = 0; i < t->first[t->heads[0].n]; i++) {
        float x = (float)(rng_uniform(&r) * w), y = (float)(rng_uniform(&r) * h), sx = (float)(rng_uniform(&r) * w / 3), sy = (float)(rng_uniform(&r) * h / 3);
        t->targets[i] = (loss_target){(int)(rng_uniform(&r) * t->n.class_count), {x - sx, y - sy, x + sx, y + sy}};
    }
}

static loss_sums test_loss_go(test_loss_case *t, bool gradients, thr_pool *pool) {
    return loss_sum(&t->n, t->heads, gradients ? t->gradients : NULL, t->targets, t->first, test_loss_gains, t->workspace, pool, NULL);
}

static float *test_loss_at(const test_loss_case *t, const ten *views, int picture, int anchor) {
    int l = 0;
    for (; anchor >= views[l].h * views[l].w; l++) anchor -= views[l].h * views[l].w;
    (void)t;
    return ten_at(&views[l], picture, anchor / views[l].w, anchor % views[l].w);
}

static int test_loss_anchors(const test_loss_case *t) {
    int anchors = 0;
    for (int l = 0; l < 3; l++) anchors += t->heads[l].h * t->heads[l].w;
    return anchors;
}

static double test_loss_weighted(const test_loss_case *t, int picture, int anchor) {
    const float *g = test_loss_at(t, t->gradients, picture, anchor);
    double sum = 0;
    for (int i = 0; i < LOSS_SIDES + t->n.class_count; i++) sum += (double)g[i] * (1 + i % 7);
    return sum;
}

static const ref_array *test_loss_get(const ref_file *ref, const char *name, const char *what) {
    char key[64];
    snprintf(key, sizeof key, "%s/%s", name, what);
    return ref_get(ref, key);
}

static void test_loss_reference_case(const ref_file *ref, const char *name) {
    const ref_array *shape = test_loss_get(ref, name, "shape"), *first = test_loss_get(ref, name, "first"), *boxes = test_loss_get(ref, name, "boxes");
    const ref_array *losses = test_loss_get(ref, name, "losses"), *assigned = test_loss_get(ref, name, "assigned");
    const ref_array *score = test_loss_get(ref, name, "score"), *gradient = test_loss_get(ref, name, "gradient");
    if (!shape || !first || !boxes || !losses || !assigned || !score || !gradient) return;
    test_loss_case t;
    int pictures = shape->ints[0], count = assigned->dims[0], found = 0, anchors;
    test_loss_start(&t, pictures, shape->ints[1], shape->ints[2], shape->ints[3], boxes->dims[0], name, 4);
    anchors = test_loss_anchors(&t);
    memcpy(t.first, first->ints, ((size_t)pictures + 1) * sizeof(int));
    for (int i = 0; i < boxes->dims[0]; i++) {
        t.targets[i].class_id = (int)boxes->data[i * 5];
        memcpy(t.targets[i].box, boxes->data + i * 5 + 1, sizeof t.targets[i].box);
    }
    loss_parts parts = loss_detect(&t.n, t.heads, t.gradients, t.targets, t.first, test_loss_gains, t.workspace, NULL, NULL);
    CHECK_NEAR(parts.box, losses->data[0], 1e-5 * fabs((double)losses->data[0]) + 1e-9);
    CHECK_NEAR(parts.cls, losses->data[1], 1e-5 * fabs((double)losses->data[1]));
    CHECK_NEAR(parts.dfl, losses->data[2], 1e-5 * fabs((double)losses->data[2]) + 1e-9);
    const loss_image *images = t.workspace;
    double all = 0, largest = 1e-9, worst = 0;
    for (int i = 0; i < count; i++) largest = YOLO_MAX(largest, fabs((double)gradient->data[i]));
    for (int i = 0; i < pictures; i++)
        for (int a = 0; a < anchors; a++) {
            all += test_loss_weighted(&t, i, a);
            found += images[i].target[a] >= 0;
        }
    for (int i = 0; i < count; i++) {
        int picture = assigned->ints[i * 3], anchor = assigned->ints[i * 3 + 1], target = assigned->ints[i * 3 + 2];
        CHECK_MSG(images[picture].target[anchor] == t.first[picture] + target, "case %s, picture %d, anchor %d", name, picture, anchor);
        CHECK_NEAR(images[picture].score[anchor], score->data[i], 1e-5);
        worst = YOLO_MAX(worst, fabs(test_loss_weighted(&t, picture, anchor) - (double)gradient->data[i]) / largest);
    }
    CHECK_MSG(found == count, "case %s: %d anchors assigned, %d in the reference", name, found, count);
    CHECK_MSG(worst < 1e-4, "case %s: gradients differ by %g", name, worst);
    CHECK_NEAR(all, gradient->data[count], 1e-4 * fabs((double)gradient->data[count]));
    test_loss_end(&t);
}

static void test_loss_reference(void) {
    static const char *const names[] = {"0", "2", "3", "8", "12", "14"};
    ref_file ref;
    CHECK(ref_open(&ref, "tests/fixtures/loss.ref"));
    for (int i = 0; i < YOLO_COUNT(names); i++) test_loss_reference_case(&ref, names[i]);
    ref_close(&ref);
}

/* The loss of one assigned anchor in double precision, plainly; alpha < 0 is computed and returned, else taken. */
static double test_loss_plain(const double *logits, const double *centre, const float *pixels, double stride, double score, double *alpha) {
    const double pi = 3.14159265358979323846;
    double box[4], want[4], dfl = 0;
    for (int side = 0; side < 4; side++) {
        double sum = 0, mean = 0;
        for (int i = 0; i < NET_REG_MAX; i++) sum += exp(logits[side * NET_REG_MAX + i]);
        for (int i = 0; i < NET_REG_MAX; i++) mean += exp(logits[side * NET_REG_MAX + i]) / sum * i;
        box[side] = centre[side & 1] + (side < 2 ? -mean : mean);
        want[side] = (double)pixels[side] / stride;
        double wanted = fmin(fmax(fabs(want[side] - centre[side & 1]) * ((want[side] < centre[side & 1]) == (side < 2) ? 1 : -1), 0), 14.99);
        int left = (int)wanted;
        dfl -= (logits[side * NET_REG_MAX + left] - log(sum)) * (left + 1 - wanted) / 4 + (logits[side * NET_REG_MAX + left + 1] - log(sum)) * (wanted - left) / 4;
    }
    double w = box[2] - box[0], h = box[3] - box[1] + 1e-7, ww = want[2] - want[0], wh = want[3] - want[1] + 1e-7;
    double inter = fmax(fmin(box[2], want[2]) - fmax(box[0], want[0]), 0) * fmax(fmin(box[3], want[3]) - fmax(box[1], want[1]), 0);
    double iou = inter / (w * h + ww * wh - inter + 1e-7);
    double cw = fmax(box[2], want[2]) - fmin(box[0], want[0]), ch = fmax(box[3], want[3]) - fmin(box[1], want[1]);
    double apart = (pow(want[0] + want[2] - box[0] - box[2], 2) + pow(want[1] + want[3] - box[1] - box[3], 2)) / 4;
    double v = 4 / (pi * pi) * pow(atan(ww / wh) - atan(w / h), 2);
    if (*alpha < 0) *alpha = v / (1 - iou + v + 1e-7);
    return (7.5 * (1 - (iou - apart / (cw * cw + ch * ch + 1e-7) - v * *alpha)) + 1.5 * dfl) * score;
}

static void test_loss_check_anchor(const test_loss_case *t, int picture, int anchor, double scale) {
    const loss_image *image = &((const loss_image *)t->workspace)[picture];
    const loss_target *target = &t->targets[image->target[anchor]];
    const float *in = test_loss_at(t, t->heads, picture, anchor), *d = test_loss_at(t, t->gradients, picture, anchor);
    double logits[LOSS_SIDES], alpha = -1, score = (double)image->score[anchor], step = 1e-5, largest = 1e-12, centre[2];
    int level = 0, at = anchor;
    for (; at >= t->heads[level].h * t->heads[level].w; level++) at -= t->heads[level].h * t->heads[level].w;
    centre[0] = at % t->heads[level].w + 0.5;
    centre[1] = at / t->heads[level].w + 0.5;
    for (int i = 0; i < LOSS_SIDES; i++) logits[i] = (double)in[i], largest = YOLO_MAX(largest, fabs((double)d[i]));
    test_loss_plain(logits, centre, target->box, t->n.strides[level], score, &alpha);
    for (int i = 0; i < LOSS_SIDES; i++) {
        double sums[2];
        for (int up = 0; up < 2; up++) {
            logits[i] = (double)in[i] + (up ? step : -step);
            sums[up] = test_loss_plain(logits, centre, target->box, t->n.strides[level], score, &alpha);
        }
        logits[i] = (double)in[i];
        CHECK_NEAR(d[i], (sums[1] - sums[0]) / (2 * step) * scale, 1e-4 * largest);
    }
    for (int z = 0; z < t->n.class_count; z++) {
        double wanted = z == target->class_id ? score : 0, expected = (1 / (1 + exp(-(double)in[LOSS_SIDES + z])) - wanted) * 0.5 * scale;
        CHECK_NEAR(d[LOSS_SIDES + z], expected, 1e-6 * scale);
    }
}

/* Central differences of a plain loss in double precision, for every logit of every anchor that a target got. */
static void test_loss_differences(void) {
    test_loss_case t;
    int checked = 0;
    test_loss_start(&t, 2, 5, 192, 224, 16, "differences", 3);
    test_loss_targets(&t, 8, 224, 192);
    loss_sums sums = test_loss_go(&t, true, NULL);
    const loss_image *images = t.workspace;
    for (int i = 0; i < 2; i++)
        for (int a = 0; a < test_loss_anchors(&t) && !test_failures; a++) {
            if (images[i].target[a] < 0) {
                const float *d = test_loss_at(&t, t.gradients, i, a);
                for (int j = 0; j < LOSS_SIDES; j++) CHECK(d[j] == 0);
            } else {
                test_loss_check_anchor(&t, i, a, 2 / YOLO_MAX(sums.score, 1));
                checked++;
            }
        }
    CHECK_MSG(checked > 50, "%d", checked);
    test_loss_end(&t);
}

/* Threads, pictures one by one and the absence of gradients change nothing. */
static void test_loss_same(void) {
    test_loss_case t, one;
    test_loss_start(&t, 5, 3, 160, 192, 50, "same", 3);
    test_loss_targets(&t, 10, 192, 160);
    loss_sums wanted = test_loss_go(&t, true, NULL), added = {0, 0, 0, 0}, sums;
    size_t bytes = (size_t)5 * 20 * 24 * 67 * sizeof(float);
    float *kept = mem_alloc(bytes);
    memcpy(kept, t.gradients[0].data, bytes);
    for (int threads = 2; threads <= 5; threads += 3) {
        thr_pool *pool = thr_pool_create(threads);
        memset(t.gradients[0].data, 0x55, bytes);
        sums = test_loss_go(&t, true, pool);
        CHECK(!memcmp(&sums, &wanted, sizeof sums) && !memcmp(kept, t.gradients[0].data, bytes));
        sums = test_loss_go(&t, false, pool);
        CHECK(!memcmp(&sums, &wanted, sizeof sums));
        thr_pool_destroy(pool);
    }
    test_loss_start(&one, 1, 3, 160, 192, 10, "one", 3);
    for (int i = 0; i < 5; i++) {
        for (int l = 0; l < 3; l++) memcpy(one.heads[l].data, ten_at(&t.heads[l], i, 0, 0), (size_t)t.heads[l].h * (size_t)t.heads[l].w * 67 * sizeof(float));
        memcpy(one.targets, t.targets + t.first[i], 10 * sizeof *t.targets);
        one.first[1] = 10;
        sums = loss_measure(&one.n, one.heads, one.targets, one.first, test_loss_gains, one.workspace, NULL);
        added = (loss_sums){added.box + sums.box, added.cls + sums.cls, added.dfl + sums.dfl, added.score + sums.score};
    }
    CHECK(!memcmp(&added, &wanted, sizeof added));
    mem_free(kept);
    test_loss_end(&t);
    test_loss_end(&one);
}

static void test_loss_crowd(void) {
    test_loss_case t;
    test_loss_start(&t, 1, 80, 320, 320, 5000, "crowd", 3);
    test_loss_targets(&t, 5000, 320, 320);
    loss_sums sums = test_loss_go(&t, true, NULL);
    CHECK(sums.box > 0 && sums.cls > 0 && sums.dfl > 0 && sums.score > 0 && sums.cls < 1e9);
    for (int i = 0; i < 5000; i++) t.targets[i] = t.targets[0]; /* one place, 5,000 times */
    sums = test_loss_go(&t, true, NULL);
    CHECK(sums.box >= 0 && sums.cls > 0);
    t.first[1] = 0;
    sums = test_loss_go(&t, true, NULL);
    CHECK(sums.box == 0 && sums.cls > 0 && sums.dfl == 0 && sums.score == 0);
    test_loss_end(&t);
}

/* NaN and infinities anywhere: no crash, and a loss that is no number shows them. */
static void test_loss_nan(void) {
    static const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
    test_loss_case t;
    test_loss_start(&t, 1, 3, 192, 192, 6, "nan", 3);
    for (int k = 0; k < YOLO_COUNT(values); k++)
        for (int c = 0; c < LOSS_SIDES + 3; c += 3) {
            test_loss_targets(&t, 6, 192, 192);
            t.targets[0] = (loss_target){0, {60, 60, 120, 120}};
            float *logit = test_loss_at(&t, t.heads, 0, 11 * 24 + 11) + c, kept = *logit;
            *logit = values[k];
            loss_sums sums = test_loss_go(&t, true, NULL);
            double all = sums.box + sums.cls + sums.dfl;
            if (k == 0) CHECK_MSG(all != all, "logit %d: %g", c, all);
            *logit = kept;
        }
    for (int i = 0; i < t.heads[0].h * t.heads[0].w * 67; i++) t.heads[0].data[i] = NAN;
    loss_sums sums = test_loss_go(&t, true, NULL);
    CHECK(sums.cls != sums.cls);
    test_loss_end(&t);
}

static const test_case tests_loss[] = {
    {"reference", "assignment, losses and gradients are ultralytics'", test_loss_reference},
    {"differences", "gradients against central differences of a plain loss", test_loss_differences},
    {"same", "threads, single pictures, no gradients: the same sums", test_loss_same},
    {"crowd", "5,000 targets in a picture, 5,000 times the same, none", test_loss_crowd},
    {"nan", "NaN and infinite logits", test_loss_nan},
};
