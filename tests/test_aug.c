/* Augmentation and training batches: each step against a slow reference written on its own, batches for any number of
   threads and any cache, damaged and odd data sets. Held to ultralytics itself by tests/oracle_aug.py. */

enum { AUG_TEST_PICTURES = 23 };

static uint64_t aug_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* A folder of noisy pictures of many shapes with labels; the first time it is asked for it is made. Ends in /images. */
static const char *aug_folder(void) {
    static char folder[1024];
    if (folder[0]) return folder;
    snprintf(folder, sizeof folder, "%s", test_temp("aug/images"));
    char path[1200];
    snprintf(path, sizeof path, "%s", test_temp("aug/labels"));
    path_make_directories(folder, NULL);
    path_make_directories(path, NULL);
    uint64_t seed = 7;
    for (int i = 0; i < AUG_TEST_PICTURES; i++) {
        yolo_image image = {NULL, 20 + (int)(aug_random(&seed) % 150), 20 + (int)(aug_random(&seed) % 150)};
        size_t size = (size_t)image.width * (size_t)image.height * 3;
        image.pixels = mem_alloc(size);
        for (size_t k = 0; k < size; k++) image.pixels[k] = (uint8_t)(k / 29 * 7 + aug_random(&seed) % 90);
        snprintf(path, sizeof path, "%s/%02d.png", folder, i);
        CHECK(codec_write(path, &image, NULL) == YOLO_OK);
        mem_free(image.pixels);
        str text = {0};
        for (uint64_t k = i % 5 ? aug_random(&seed) % 6 : 0; k > 0; k--)
            str_format(&text, "%d 0.%d 0.%d 0.%d 0.%d\n", (int)(aug_random(&seed) % 4), 2 + (int)(aug_random(&seed) % 6), 2 + (int)(aug_random(&seed) % 6),
                       1 + (int)(aug_random(&seed) % 3), 1 + (int)(aug_random(&seed) % 3));
        snprintf(path, sizeof path, "%s/../labels/%02d.txt", folder, i);
        CHECK(path_write(path, text.text ? text.text : "", (size_t)text.length, false, NULL) == YOLO_OK);
        str_free(&text);
    }
    return folder;
}

static dl_options aug_options(int workers) {
    dl_options o = {.imgsz = 96, .batch = 4, .stride = 32, .workers = workers, .shuffle = true, .augment = true, .seed = 5, .fraction = 1,
                    .cache_bytes = 1 << 30};
    o.augmentation = (aug_settings){.hsv_h = 0.015, .hsv_s = 0.7, .hsv_v = 0.4, .translate = 0.1, .scale = 0.5, .fliplr = 0.5, .mosaic = 0.8,
                                    .mixup = 0.3, .cutmix = 0.5, .degrees = 10, .flipud = 0.3, .bgr = 0.2};
    return o;
}

/* One number for all of an epoch: pixels, targets, pictures. */
static uint64_t aug_epoch_hash(dl_loader *dl, int epoch, bool mosaic, int64_t *pictures) {
    yolo_error error;
    dl_batch *b = NULL;
    uint64_t hash = 0;
    *pictures = 0;
    CHECK(dl_start(dl, epoch, mosaic) == YOLO_OK);
    for (int64_t i = 0;; i++) {
        if (dl_next(dl, &b, &error) != YOLO_OK) {
            CHECK_MSG(false, "%s", error.message);
            break;
        }
        CHECK((b == NULL) == (i == dl_batch_count(dl)));
        if (!b) break;
        hash = hash_bytes(b->pixels, (size_t)b->n * (size_t)b->h * (size_t)b->w * 3, hash);
        hash = hash_bytes(b->first, ((size_t)b->n + 1) * sizeof *b->first, hash);
        hash = hash_bytes(b->targets, (size_t)b->first[b->n] * sizeof *b->targets, hash);
        hash = hash_bytes(b->pictures, (size_t)b->n * sizeof *b->pictures, hash);
        *pictures += b->n;
    }
    return hash;
}

static dl_loader *aug_open(const data_list *list, const dl_options *o) {
    yolo_error error = {0};
    dl_loader *dl = NULL;
    yolo_status status = dl_create(&dl, list, 4, o, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    return dl;
}

static void test_aug_threads(void) {
    static const struct { int workers, pool; uint64_t cache; bool rect; } cases[] = {
        {0, 1, 1 << 30, false}, {1, 1, 1 << 30, false}, {2, 1, 1 << 30, false}, {5, 1, 1 << 30, false}, {0, 3, 1 << 30, false},
        {2, 1, 0, false}, {5, 1, 70000, false}, {0, 1, 1, false}, {0, 1, 1 << 30, true}, {5, 1, 90000, true}};
    data_list list = {0};
    uint64_t first[2][3] = {{0}};
    CHECK(data_collect(aug_folder(), &list, NULL) == YOLO_OK);
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        dl_options o = aug_options(cases[i].workers);
        o.cache_bytes = cases[i].cache;
        o.rect = cases[i].rect;
        o.pool = cases[i].pool > 1 ? thr_pool_create(cases[i].pool) : NULL;
        dl_loader *dl = aug_open(&list, &o);
        for (int epoch = 0; dl && epoch < 3; epoch++) {
            int64_t pictures;
            uint64_t hash = aug_epoch_hash(dl, epoch, epoch < 2, &pictures), *expected = &first[o.rect][epoch];
            if (!*expected) *expected = hash;
            CHECK_MSG(hash == *expected, "case %d, epoch %d", i, epoch);
            CHECK(pictures == AUG_TEST_PICTURES);
        }
        CHECK(dl && (!o.cache_bytes || o.cache_bytes > 100000 || dl->cached_bytes <= o.cache_bytes));
        dl_destroy(dl);
        thr_pool_destroy(o.pool);
    }
    CHECK(first[0][0] != first[0][1]);
    data_list_free(&list);
}

/* An epoch may be left at any point, begun anew and destroyed, with workers in mid-air. */
static void test_aug_stops(void) {
    data_list list = {0};
    CHECK(data_collect(aug_folder(), &list, NULL) == YOLO_OK);
    dl_options o = aug_options(5);
    int64_t pictures;
    dl_loader *dl = aug_open(&list, &o);
    uint64_t whole = aug_epoch_hash(dl, 7, true, &pictures);
    for (int taken = 0; taken < 4; taken++) {
        dl_batch *b;
        CHECK(dl_start(dl, 3, true) == YOLO_OK);
        for (int i = 0; i < taken; i++) CHECK(dl_next(dl, &b, NULL) == YOLO_OK && b);
        if (taken == 2) CHECK(aug_epoch_hash(dl, 7, true, &pictures) == whole);
        dl_destroy(dl);
        dl = aug_open(&list, &o);
    }
    yolo_error error;
    dl_batch *b;
    CHECK(dl_start(dl, 3, true) == YOLO_OK && dl_next(dl, &b, &error) == YOLO_OK);
    yolo_interrupt();
    CHECK(dl_next(dl, &b, &error) == YOLO_ERROR_INTERRUPTED && error.message[0] && !b);
    CHECK(dl_start(dl, 4, true) == YOLO_OK && dl_next(dl, &b, &error) == YOLO_ERROR_INTERRUPTED && strstr(error.message, "interrupted"));
    yolo_interrupt_clear();
    CHECK(aug_epoch_hash(dl, 7, true, &pictures) == whole);
    dl_destroy(dl);
    data_list_free(&list);
}

/* ---- geometry */

/* A view on random pictures: alone or a mosaic. `canvas` gets what ultralytics would build. */
static void aug_random_view(aug_view *v, uint8_t *pictures, uint8_t *canvas, bool mosaic, int imgsz, const aug_view_draw *d, uint64_t *seed) {
    v->tile_count = 0;
    v->canvas_width = v->canvas_height = 2 * imgsz;
    for (int i = 0; i < (mosaic ? 4 : 1); i++) {
        int w = 3 + (int)(aug_random(seed) % (uint64_t)(imgsz - 2)), h = 3 + (int)(aug_random(seed) % (uint64_t)(imgsz - 2));
        uint8_t *pixels = pictures + (size_t)i * ((size_t)imgsz * (size_t)imgsz * 3 + AUG_SLACK);
        for (int k = 0; k < w * h * 3; k++) pixels[k] = (uint8_t)aug_random(seed);
        aug_tile *t = &v->tiles[v->tile_count++];
        *t = (aug_tile){.pixels = pixels, .stride = w * 3, .x2 = w, .y2 = h};
        if (mosaic) aug_tile_place(t, i, w, h, d->center_x, d->center_y, 2 * imgsz);
        else v->canvas_width = w, v->canvas_height = h;
    }
    memset(canvas, 114, (size_t)v->canvas_width * (size_t)v->canvas_height * 3);
    for (int i = 0; i < v->tile_count; i++) {
        const aug_tile *t = &v->tiles[i];
        for (int y = t->y1; y < t->y2; y++)
            memcpy(canvas + ((size_t)y * (size_t)v->canvas_width + (size_t)t->x1) * 3,
                   t->pixels + (size_t)(y - t->shift_y) * (size_t)t->stride + (size_t)(t->x1 - t->shift_x) * 3, (size_t)(t->x2 - t->x1) * 3);
    }
}

static double aug_reference_pixel(const aug_view *v, const uint8_t *canvas, double x, double y, int c) {
    double sum = 0;
    for (int k = 0; k < 4; k++) {
        double left = floor(x) + (k & 1), top = floor(y) + (k >> 1), weight = (1 - fabs(x - left)) * (1 - fabs(y - top));
        bool in = left >= 0 && left < v->canvas_width && top >= 0 && top < v->canvas_height;
        sum += weight * (in ? canvas[((size_t)top * (size_t)v->canvas_width + (size_t)left) * 3 + (size_t)c] : 114);
    }
    return sum;
}

static void test_aug_warp(void) {
    enum { SIZE = 64 };
    uint8_t *pictures = mem_array(4, SIZE * SIZE * 3 + AUG_SLACK), *canvas = mem_array(4 * SIZE * SIZE, 3), row[SIZE * 4];
    aug_settings s = {.degrees = 180, .translate = 0.6, .scale = 0.9, .shear = 30, .perspective = 0.004, .mosaic = 1};
    aug_view *v = mem_array(1, sizeof *v);
    uint64_t seed = 3;
    double worst = 0;
    for (int trial = 0; trial < 120; trial++) {
        aug_view_draw d;
        rng r = {(uint64_t)trial, 0};
        s.degrees = trial % 4 ? 180 : 0;
        s.shear = trial % 4 ? 30 : 0;
        s.perspective = trial % 3 == 2 ? 0.004 : 0;
        aug_draw_view(&d, &r, &s, SIZE, true);
        aug_random_view(v, pictures, canvas, trial % 5 != 4, SIZE, &d, &seed);
        aug_view_aim(v, &d, s.perspective > 0, SIZE, SIZE);
        for (int y = 0; y < SIZE; y++) {
            const double *m = v->inverse;
            aug_row(v, y, 0, SIZE, row);
            for (int x = 0; x < SIZE; x++)
                for (int c = 0; c < 3; c++) {
                    double w = m[6] * x + m[7] * y + m[8];
                    if (fabs(w) < 0.05) continue; /* at the horizon floats say nothing */
                    double exact = aug_reference_pixel(v, canvas, (m[0] * x + m[1] * y + m[2]) / w, (m[3] * x + m[4] * y + m[5]) / w, c);
                    worst = YOLO_MAX(worst, fabs(exact - row[4 * x + c]));
                }
        }
    }
    CHECK_MSG(worst < 0.75, "%g", worst);
    mem_free(pictures);
    mem_free(canvas);
    mem_free(v);
}

/* A part of a row, as cutmix asks for it, is that part of the row. */
static void test_aug_part(void) {
    enum { SIZE = 96 };
    uint8_t *pictures = mem_array(4, SIZE * SIZE * 3 + AUG_SLACK), *canvas = mem_array(4 * SIZE * SIZE, 3), row[SIZE * 4], part[SIZE * 4];
    aug_settings s = {.degrees = 20, .translate = 0.1, .scale = 0.5, .mosaic = 1};
    aug_view *v = mem_array(1, sizeof *v);
    uint64_t seed = 11;
    for (int trial = 0; trial < 40; trial++) {
        aug_view_draw d;
        rng r = {(uint64_t)trial, 0};
        int first = (int)(aug_random(&seed) % SIZE), end = first + (int)(aug_random(&seed) % (uint64_t)(SIZE - first + 1));
        aug_draw_view(&d, &r, &s, SIZE, true);
        aug_random_view(v, pictures, canvas, true, SIZE, &d, &seed);
        aug_view_aim(v, &d, false, SIZE, SIZE);
        aug_row(v, trial * 2 % SIZE, 0, SIZE, row);
        memset(part, 1, sizeof part);
        aug_row(v, trial * 2 % SIZE, first, end, part);
        for (int x = 0; x < SIZE; x++)
            for (int c = 0; c < 3; c++)
                CHECK(x >= first && x < end ? abs(part[4 * x + c] - row[4 * x + c]) == 0 : part[4 * x + c] == 1);
    }
    mem_free(pictures);
    mem_free(canvas);
    mem_free(v);
}

/* ---- colours: doubles, and the textbook's formulas, but for what cv2 rounds on the way */

static void aug_reference_hsv(const uint8_t *in, const double *gains, uint8_t *out) {
    int r = in[0], g = in[1], b = in[2], v = YOLO_MAX(r, YOLO_MAX(g, b)), low = YOLO_MIN(r, YOLO_MIN(g, b)), d = v - low;
    double h = !d ? 0 : v == r ? 30.0 * (g - b) / d : v == g ? 60 + 30.0 * (b - r) / d : 120 + 30.0 * (r - g) / d;
    int hue = (int)floor((h < 0 ? h + 180 : h) + 0.5) % 180, saturation = v ? (int)floor(255.0 * d / v + 0.5) : 0;
    hue = (int)fmod(fmod(hue + gains[0] * 180, 180) + 180, 180);
    saturation = saturation ? (int)YOLO_MIN(saturation * (gains[1] + 1), 255.0) : 0;
    v = (int)YOLO_MIN(v * (gains[2] + 1), 255.0);
    for (int c = 0; c < 3; c++) {
        double k = fmod((c == 0 ? 5 : c == 1 ? 3 : 1) + hue / 30.0, 6);
        out[c] = (uint8_t)(v - v * saturation / 255.0 * YOLO_MAX(0, YOLO_MIN(k, YOLO_MIN(4 - k, 1))) + 1e-6);
    }
}

static void test_aug_hsv(void) {
    aug_hsv *t = mem_array(1, sizeof *t);
    uint64_t seed = 1;
    int64_t off = 0, count = 0;
    for (int trial = 0; trial < 40; trial++) {
        double gains[3];
        for (int i = 0; i < 3; i++) gains[i] = ((double)aug_random(&seed) / 2147483648.0 * 2 - 1) * (i == 0 ? 0.1 : 0.9);
        aug_hsv_make(t, gains, trial & 1);
        for (int i = 0; i < 4000; i++) {
            uint8_t in[4] = {(uint8_t)aug_random(&seed), (uint8_t)aug_random(&seed), (uint8_t)aug_random(&seed), 9}, out[3], expected[3];
            if (i % 7 == 0) in[1] = in[2] = in[0];
            aug_hsv_row(t, in, 1, out, 3);
            aug_reference_hsv(in, gains, expected);
            for (int c = 0; c < 3; c++, count++) off += abs(out[trial & 1 ? 2 - c : c] - expected[c]) > 1;
        }
    }
    CHECK_MSG(off * 200 < count, "%lld of %lld", (long long)off, (long long)count); /* a hue or saturation at a tie */
    mem_free(t);
}

/* ---- what becomes of the picture and of its boxes is the same */

/* Bright squares on black: after everything but colours each box that stays encloses its square. */
static void test_aug_boxes_follow(void) {
    enum { SIZE = 128 };
    aug_settings s = {.degrees = 25, .translate = 0.1, .scale = 0.4, .shear = 5, .flipud = 0.5, .fliplr = 0.5};
    aug_scene *scene = mem_array(1, sizeof *scene);
    uint8_t *pixels = mem_array(SIZE * SIZE * 3 + AUG_SLACK, 1), *out = mem_array(SIZE * SIZE * 3, 1);
    aug_boxes boxes = {0};
    scene->width = scene->height = SIZE;
    for (int k = 0; k < 2; k++) scene->rows[k] = mem_array(SIZE, 4);
    for (int y = 44; y < 76; y++) memset(pixels + (y * SIZE + 30) * 3, 255, 40 * 3);
    for (int trial = 0; trial < 60; trial++) {
        aug_draw d;
        aug_label label = {2, 50.0f / SIZE, 60.0f / SIZE, 40.0f / SIZE, 32.0f / SIZE};
        rng r = {(uint64_t)trial, 0};
        s.perspective = trial % 2 ? 0.001 : 0;
        aug_draw_sample(&d, &r, &s, SIZE, false);
        aug_view *v = &scene->views[0];
        v->tiles[0] = (aug_tile){.pixels = pixels, .stride = SIZE * 3, .x2 = SIZE, .y2 = SIZE};
        v->tile_count = 1;
        v->canvas_width = v->canvas_height = SIZE;
        aug_view_aim(v, &d.views[0], s.perspective > 0, SIZE, SIZE);
        boxes.count = 0;
        CHECK(aug_boxes_add(&boxes, &label, 1, SIZE, SIZE, 0, 0));
        aug_boxes_move(&boxes, v->matrix, v->perspective, d.views[0].factor, SIZE, SIZE);
        aug_boxes_flip(&boxes, d.flip_x, d.flip_y, SIZE, SIZE);
        scene->flip_x = d.flip_x;
        scene->flip_y = d.flip_y;
        aug_render(scene, out);
        float found[4] = {SIZE, SIZE, 0, 0};
        for (int y = 0; y < SIZE; y++)
            for (int x = 0; x < SIZE; x++)
                if (out[(y * SIZE + x) * 3] > 160) { /* brighter than the border */
                    found[0] = YOLO_MIN(found[0], (float)x);
                    found[1] = YOLO_MIN(found[1], (float)y);
                    found[2] = YOLO_MAX(found[2], (float)x + 1);
                    found[3] = YOLO_MAX(found[3], (float)y + 1);
                }
        CHECK(boxes.count <= 1 && (boxes.count == 1) == (found[2] - found[0] > 12 && found[3] - found[1] > 12));
        for (int i = 0; boxes.count && i < 4; i++) CHECK_NEAR(boxes.items[0].box[i], found[i], 3.0);
    }
    mem_free(boxes.items);
    for (int k = 0; k < 2; k++) mem_free(scene->rows[k]);
    mem_free(scene);
    mem_free(pixels);
    mem_free(out);
}

static void test_aug_floats(void) {
    uint8_t pixels[2 * 4 * 6 * 3];
    for (int i = 0; i < (int)sizeof pixels; i++) pixels[i] = (uint8_t)(i * 37);
    dl_batch b = {.pixels = pixels, .n = 2, .h = 4, .w = 6};
    float same[2 * 4 * 6 * 3], larger[2 * 8 * 12 * 3];
    dl_floats(&b, same, 4, 6, NULL);
    for (int i = 0; i < (int)sizeof pixels; i++) CHECK(same[i] == (float)pixels[i] / 255.0f);
    dl_floats(&b, larger, 8, 12, NULL);
    CHECK_NEAR(larger[0], same[0], 1e-7); /* the corner is the corner; one step in it is 3/4 of it and 1/4 of the next */
    CHECK_NEAR(larger[3], 0.75 * same[0] + 0.25 * same[3], 1e-6);
    CHECK_NEAR(larger[12 * 3], 0.75 * same[0] + 0.25 * same[18], 1e-6);
    int counts[3] = {0}, h, w;
    for (int i = 0; i < 3000; i++) {
        int size = dl_scale(1, 0, i, 64, 0.5, 32);
        CHECK(size % 32 == 0 && size >= 32 && size <= 96 + 31);
        counts[size / 32 - 1]++;
    }
    CHECK_NEAR(counts[0] / 3000.0, 1.0 / 3, 0.03); /* 32..127 in thirds */
    b.h = 64, b.w = 96;
    dl_scaled_size(&b, 128, 32, &h, &w);
    CHECK(w == 128 && h == 96); /* 85.3 is rounded up */
}

/* ---- odd data sets */

typedef struct aug_said { char text[4000]; } aug_said;

static void aug_listen(void *user, yolo_log_level level, const char *text) {
    aug_said *said = user;
    size_t length = strlen(said->text);
    (void)level;
    snprintf(said->text + length, sizeof said->text - length, "%s\n", text);
}

/* A folder of its own with gray pictures 0.png, 1.png ... and the labels given; NULL = no label file. */
static const char *aug_small(const char *name, int count, const char *const *labels) {
    static char folder[1024];
    char path[1200];
    snprintf(folder, sizeof folder, "%s/images", test_temp(name));
    path_make_directories(folder, NULL);
    snprintf(path, sizeof path, "%s/labels", test_temp(name));
    path_make_directories(path, NULL);
    uint8_t pixels[40 * 30 * 3];
    for (int i = 0; i < count; i++) {
        yolo_image image = {pixels, 40, 30};
        memset(pixels, 20 * i + 10, sizeof pixels);
        snprintf(path, sizeof path, "%s/%d.png", folder, i);
        CHECK(codec_write(path, &image, NULL) == YOLO_OK);
        snprintf(path, sizeof path, "%s/labels/%d.txt", test_temp(name), i);
        if (labels[i]) CHECK(path_write(path, labels[i], strlen(labels[i]), false, NULL) == YOLO_OK);
        else os_remove(path);
    }
    return folder;
}

/* Opens a folder and runs an epoch; the sentences that were said, the error's last. */
static yolo_status aug_try(const char *folder, dl_options *o, aug_said *said, int *pictures, int *targets) {
    data_list list = {0};
    yolo_error error = {0};
    dl_loader *dl = NULL;
    dl_batch *b = NULL;
    memset(said, 0, sizeof *said);
    *pictures = *targets = 0;
    o->log = (yolo_log){aug_listen, said};
    yolo_status status = data_collect(folder, &list, &error);
    if (status == YOLO_OK) status = dl_create(&dl, &list, 4, o, &error);
    if (status == YOLO_OK) status = dl_start(dl, 0, true);
    while (status == YOLO_OK && (status = dl_next(dl, &b, &error)) == YOLO_OK && b) {
        *pictures += b->n;
        *targets += b->first[b->n];
        for (int i = 0; i < b->first[b->n]; i++) {
            const float *box = b->targets[i].box;
            CHECK(box[0] >= 0 && box[1] >= 0 && box[2] <= (float)b->w && box[3] <= (float)b->h && box[2] > box[0] && box[3] > box[1]);
        }
    }
    dl_destroy(dl);
    data_list_free(&list);
    if (status != YOLO_OK) aug_listen(said, YOLO_LOG_WARNING, error.message);
    return status;
}

static bool aug_has(const aug_said *said, const char *text) { return strstr(said->text, text) != NULL; }

static void test_aug_odd(void) {
    static const char *const whole[] = {"0 0.5 0.5 0.4 0.4\n", "1 0.5 0.5 0.5 0.5\n", "2 0.4 0.4 0.3 0.3\n"}, *const empty[] = {"", "", ""},
        *const none[] = {NULL, NULL, NULL}, *const wrong[] = {"7 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n", "1 2 2 0.5 0.5\n", "x\n"};
    dl_options o = aug_options(2);
    aug_said said;
    int pictures, targets;
    CHECK(aug_try(aug_small("aug/one", 1, whole), &o, &said, &pictures, &targets) == YOLO_OK && pictures == 1 && targets > 0);
    CHECK(aug_has(&said, "train: 1 pictures, 1 labels, 0 background, 0 damaged"));
    CHECK(aug_try(aug_small("aug/background", 3, empty), &o, &said, &pictures, &targets) == YOLO_OK && pictures == 3 && !targets);
    CHECK_MSG(aug_has(&said, "none of the 3 pictures to train on has a labelled object"), "%s", said.text);
    CHECK(aug_try(aug_small("aug/none", 3, none), &o, &said, &pictures, &targets) == YOLO_ERROR_IO);
    CHECK_MSG(aug_has(&said, "no label file for any of the 3 pictures") && aug_has(&said, "aug/none/labels/0.txt"), "%s", said.text);
    CHECK(aug_try(aug_small("aug/wrong", 3, wrong), &o, &said, &pictures, &targets) == YOLO_OK && pictures == 3);
    CHECK_MSG(aug_has(&said, "labels/0.txt:1: class 7 out of range [0,4)") && aug_has(&said, "3 pictures, 1 labels, 2 background") &&
              aug_has(&said, "3 label lines left out as bad, 1 as there twice"), "%s", said.text);
    path_make_directories(test_temp("aug/nothing"), NULL);
    CHECK(aug_try(test_temp("aug/nothing"), &o, &said, &pictures, &targets) != YOLO_OK && said.text[0]);
    data_list list = {0};
    yolo_error error;
    dl_loader *dl;
    CHECK(dl_create(&dl, &list, 4, &o, &error) == YOLO_ERROR_IO && !dl && strstr(error.message, "no pictures"));
}

static void test_aug_damaged(void) {
    static const char *const labels[] = {"0 0.5 0.5 0.4 0.4\n", "1 0.5 0.5 0.5 0.5\n", "2 0.4 0.4 0.3 0.3\n", "3 0.5 0.5 0.5 0.5\n"};
    dl_options o = aug_options(2);
    aug_said said;
    int pictures, targets;
    char path[1200];
    uint8_t *bytes;
    size_t size;
    const char *folder = aug_small("aug/damaged", 4, labels);
    snprintf(path, sizeof path, "%s/1.png", folder);
    CHECK(path_write(path, "no picture", 10, false, NULL) == YOLO_OK);
    snprintf(path, sizeof path, "%s/3.png", folder); /* a good head and nothing behind it: found when it is decoded */
    CHECK(path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK && path_write(path, bytes, 44, false, NULL) == YOLO_OK);
    mem_free(bytes);
    snprintf(path, sizeof path, "%s/2.png", folder); /* more than half of its rows are there: good enough */
    CHECK(path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK && path_write(path, bytes, size - 40, false, NULL) == YOLO_OK);
    mem_free(bytes);
    o.augmentation.mosaic = 1;
    for (int workers = 0; workers < 3; workers += 2) {
        o.workers = workers;
        CHECK_MSG(aug_try(folder, &o, &said, &pictures, &targets) == YOLO_OK && pictures == 3, "%s", said.text);
        CHECK_MSG(aug_has(&said, "1.png: not a picture") && aug_has(&said, "3 pictures, 3 labels") && aug_has(&said, "stands in for it"), "%s", said.text);
        const char *once = strstr(said.text, "stands in for it");
        CHECK(once && !strstr(once + 1, "stands in for it"));
        once = strstr(said.text, "2.png: byte ");
        CHECK_MSG(once && strstr(once, "PNG is cut short: 19 of 30 rows are there\n") && !strstr(once + 1, "2.png"), "%s", said.text);
    }
    for (int i = 0; i < 4; i += 2) {
        snprintf(path, sizeof path, "%s/%d.png", folder, i);
        CHECK(path_read(path, 1 << 20, &bytes, &size, NULL) == YOLO_OK && path_write(path, bytes, 44, false, NULL) == YOLO_OK);
        mem_free(bytes);
    }
    CHECK(aug_try(folder, &o, &said, &pictures, &targets) == YOLO_ERROR_FORMAT);
    CHECK_MSG(aug_has(&said, "none of the 3 pictures to train on can be read"), "%s", said.text);
}

/* A crowd: 5,000 boxes a picture, four of them in a mosaic, mixed with four more. */
static void test_aug_crowd(void) {
    str text = {0};
    uint64_t seed = 2;
    for (int i = 0; i < 5000; i++)
        str_format(&text, "%d 0.%05d 0.%05d 0.1 0.1\n", i % 4, 10000 + (int)(aug_random(&seed) % 80000), 10000 + (int)(aug_random(&seed) % 80000));
    const char *const labels[] = {text.text, text.text};
    dl_options o = aug_options(2);
    aug_said said;
    int pictures, targets;
    o.augmentation = (aug_settings){.mosaic = 1, .mixup = 1, .cutmix = 1};
    CHECK(aug_try(aug_small("aug/crowd", 2, labels), &o, &said, &pictures, &targets) == YOLO_OK && pictures == 2);
    CHECK_MSG(targets > 20000 && aug_has(&said, "2 pictures, 10000 labels"), "%d %s", targets, said.text);
    str_free(&text);
}

static void test_aug_selection(void) {
    static const int two[] = {1, 3};
    data_list list = {0};
    CHECK(data_collect(aug_folder(), &list, NULL) == YOLO_OK);
    dl_options o = aug_options(0);
    dl_loader *all = aug_open(&list, &o);
    o.classes = two;
    o.class_count = 2;
    dl_loader *some = aug_open(&list, &o);
    CHECK(!some->instances[0] && some->instances[1] == all->instances[1] && !some->instances[2] && some->instances[3] == all->instances[3]);
    CHECK(some->label_count == all->instances[1] + all->instances[3] && some->pictures == all->pictures && some->background >= all->background);
    o.single_cls = true;
    dl_loader *one = aug_open(&list, &o);
    CHECK(one->instances[0] == some->label_count && one->labels[0].class_id == 0);
    dl_destroy(all), dl_destroy(some), dl_destroy(one);
    static const struct { double fraction; int64_t pictures; } cases[] = {{0.5, 12}, {0.001, 1}, {0.1, 2}, {5, 5}, {1000, 23}}; /* round(11.5) is 12 */
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        o.fraction = cases[i].fraction;
        dl_loader *dl = aug_open(&list, &o);
        CHECK(dl->pictures == cases[i].pictures && !strcmp(dl->items[0].path, list.paths[0]));
        dl_destroy(dl);
    }
    yolo_error error;
    dl_loader *dl;
    static const int bad[] = {4};
    o = aug_options(0);
    o.classes = bad, o.class_count = 1;
    CHECK(dl_create(&dl, &list, 4, &o, &error) == YOLO_ERROR_USAGE && !strcmp(error.message, "classes: 4 is no class, expected 0 to 3"));
    o = aug_options(0);
    o.fraction = 0;
    CHECK(dl_create(&dl, &list, 4, &o, &error) == YOLO_ERROR_USAGE && strstr(error.message, "fraction=0"));
    o = aug_options(0);
    o.imgsz = 100;
    CHECK(dl_create(&dl, &list, 4, &o, &error) == YOLO_ERROR_USAGE && strstr(error.message, "multiple of the stride 32"));
    o = aug_options(0);
    o.augmentation.mosaic = NAN;
    CHECK(dl_create(&dl, &list, 4, &o, &error) == YOLO_ERROR_USAGE && strstr(error.message, "mosaic="));
    data_list_free(&list);
}

/* The n-th allocation fails, for every n: a sentence, nothing left behind, and in the end the right batches. */
static void test_aug_faults(void) {
    data_list list = {0};
    CHECK(data_collect(aug_folder(), &list, NULL) == YOLO_OK);
    for (int workers = 0; workers <= 2; workers += 2) {
        uint64_t expected = 0;
        bool done = false;
        for (long n = -1; !done && n < 4000; n += n < test_cases(300) ? 1 : 7) {
            dl_options o = aug_options(workers);
            yolo_error error = {0};
            dl_loader *dl = NULL;
            dl_batch *b = NULL;
            uint64_t hash = 0;
            o.cache_bytes = 200000;
            o.imgsz = 32; /* the allocations are the same */
            os_atomic_set(&mem_fail_after, n > 0 ? n : 0);
            yolo_status status = dl_create(&dl, &list, 4, &o, &error);
            if (status == YOLO_OK) status = dl_start(dl, 0, true);
            for (int i = 0; i < 2 && status == YOLO_OK; i++)
                if ((status = dl_next(dl, &b, &error)) == YOLO_OK) hash = hash_bytes(b->pixels, (size_t)b->n * (size_t)b->h * (size_t)b->w * 3, hash);
            done = os_atomic_get(&mem_fail_after) > 0 && n > 0; /* never reached */
            os_atomic_set(&mem_fail_after, 0);
            if (n <= 0) expected = hash;
            CHECK_MSG(status == YOLO_OK ? hash == expected && (dl->damaged == 0) : status == YOLO_ERROR_MEMORY && error.message[0],
                      "allocation %ld: %d %s", n, (int)status, error.message);
            dl_destroy(dl);
        }
        CHECK(done);
    }
    data_list_free(&list);
}

static const test_case tests_aug[] = {
    {"threads", "the same batches for 1, 2 and 5 workers, a pool, and every size of cache", test_aug_threads},
    {"stops", "an epoch can be left, begun anew, interrupted and destroyed at any point", test_aug_stops},
    {"warp", "mosaic and matrix in one pass against canvas and matrix in doubles", test_aug_warp},
    {"part", "a part of a row", test_aug_part},
    {"hsv", "hue, saturation and value against the textbook's formulas", test_aug_hsv},
    {"boxes_follow", "a box goes where its object goes", test_aug_boxes_follow},
    {"odd", "one picture, background alone, no labels, wrong labels, no pictures", test_aug_odd},
    {"damaged", "what cannot be read is told, left out or stood in for", test_aug_damaged},
    {"crowd", "5,000 boxes a picture", test_aug_crowd},
    {"selection", "classes, single_cls, fraction, and options that make no sense", test_aug_selection},
    {"faults", "every allocation fails once", test_aug_faults},
    {"floats", "bytes to the network's floats, other sizes, multi_scale's draws", test_aug_floats},
};
