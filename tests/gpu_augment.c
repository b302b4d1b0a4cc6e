/* gpu_augment.c - pictures rendered from scenes on the device against aug_render, and what brings them there. */

enum { AUGMENT_MOST = 64, AUGMENT_SEEDS = 24 };

/* Random pictures in host memory and in a block of device memory, for scenes that are drawn by chance. */
typedef struct augment_case {
    tr_pictures pictures;
    int64_t where[AUG_VIEWS * AUG_TILES];
    uint8_t *pixels[AUG_VIEWS * AUG_TILES];
    int width[AUG_VIEWS * AUG_TILES], height[AUG_VIEWS * AUG_TILES];
} augment_case;

static void augment_start(augment_case *c, uint64_t seed, int width, int height) {
    rng r = {.key = seed};
    int64_t bytes = 0;
    memset(c, 0, sizeof *c);
    for (int i = 0; i < AUG_VIEWS * AUG_TILES; i++) {
        c->width[i] = 1 + (int)(rng_uniform(&r) * width);
        c->height[i] = 1 + (int)(rng_uniform(&r) * height);
        if (i < 2) c->width[i] = width, c->height[i] = height;
        const int size = c->width[i] * c->height[i] * 3;
        c->pixels[i] = mem_alloc((size_t)size + AUG_SLACK);
        for (int k = 0; k < size + AUG_SLACK; k++) c->pixels[i][k] = (uint8_t)(k / 29 * 7 + (int)(rng_uniform(&r) * 120));
        c->where[i] = bytes;
        bytes += (int64_t)tr_picture_room((uint64_t)size + AUG_SLACK);
    }
    c->pictures.where = c->where;
    c->pictures.block = yg_alloc(gpu_device(), (size_t)bytes);
    for (int i = 0; i < AUG_VIEWS * AUG_TILES; i++)
        yg_upload(gpu_device(), c->pictures.block + c->where[i], c->pixels[i], (size_t)(c->width[i] * c->height[i] * 3 + AUG_SLACK));
    gpu_finish();
}

static void augment_end(augment_case *c) {
    yg_free(gpu_device(), c->pictures.block);
    for (int i = 0; i < AUG_VIEWS * AUG_TILES; i++) mem_free(c->pixels[i]);
}

/* A view on the pictures from `first` on, as dl_view makes it. */
static void augment_view(aug_view *v, const augment_case *c, int first, const aug_view_draw *d, bool perspective, int imgsz, int w, int h) {
    v->tile_count = 0;
    v->canvas_width = v->canvas_height = 2 * imgsz;
    for (int i = first; i < first + (d->mosaic ? AUG_TILES : 1); i++) {
        aug_tile *t = &v->tiles[v->tile_count];
        *t = (aug_tile){.pixels = c->pixels[i], .stride = c->width[i] * 3, .x2 = c->width[i], .y2 = c->height[i], .picture = i};
        if (d->mosaic) aug_tile_place(t, v->tile_count, c->width[i], c->height[i], d->center_x, d->center_y, 2 * imgsz);
        else v->canvas_width = c->width[i], v->canvas_height = c->height[i];
        v->tile_count++;
    }
    aug_view_aim(v, d, perspective, w, h);
}

/* A scene of chance, as dl_make_augmented makes it, with a cut that always happens when there is cutmix. */
static void augment_scene(aug_scene *s, const augment_case *c, const aug_settings *settings, uint64_t seed, int imgsz, int w, int h) {
    aug_draw d;
    rng r = {.key = seed};
    memset(s, 0, sizeof *s);
    aug_draw_sample(&d, &r, settings, imgsz, settings->mosaic > 0);
    for (int i = 0; i < AUG_VIEWS; i++) augment_view(&s->views[i], c, i * AUG_TILES, &d.views[i], settings->perspective > 0, imgsz, w, h);
    s->width = w;
    s->height = h;
    s->mixup = d.mixed[1];
    s->ratio = d.ratio;
    if (d.mixed[2]) {
        float area[4];
        aug_cut_area(d.areas[0], w, h, area);
        for (int i = 0; i < 4; i++) s->cut[i] = (int)area[i];
    }
    s->coloured = settings->hsv_h > 0 || settings->hsv_s > 0 || settings->hsv_v > 0;
    if (s->coloured) aug_hsv_make(&s->colours, d.gains, d.bgr);
    s->bgr = d.bgr;
    s->flip_x = d.flip_x;
    s->flip_y = d.flip_y;
}

/* The scenes of a case on the device between guards, twice; every byte against `want`. Returns how many differ. */
static int64_t augment_compare(const char *what, const yg_scene *scenes, const uint8_t *want, int n, int h, int w, int shift) {
    const size_t bytes = (size_t)n * (size_t)h * (size_t)w * 3, all = bytes + 2 * GPU_GUARD;
    uint8_t *memory = yg_alloc(gpu_device(), all), *fill = mem_alloc(all), *have[2];
    yg_scene *device = yg_alloc(gpu_device(), (size_t)n * sizeof *device);
    int64_t off = 0, changed = 0;
    int most = 0;
    memset(fill, 0xA5, all);
    yg_upload(gpu_device(), device, scenes, (size_t)n * sizeof *device);
    for (int i = 0; i < 2; i++) {
        have[i] = mem_alloc(all);
        yg_upload(gpu_device(), memory, fill, all);
        yg_augment(gpu_device(), memory + GPU_GUARD + shift, device, n, h, w);
        yg_download(gpu_device(), have[i], memory, all);
        gpu_finish();
    }
    CHECK_MSG(!memcmp(have[0], have[1], all), "%s: two times, two results", what);
    for (size_t i = 0; i < all; i++) {
        const bool inside = i >= (size_t)(GPU_GUARD + shift) && i < GPU_GUARD + (size_t)shift + bytes;
        const int d = inside ? abs(have[0][i] - want[i - GPU_GUARD - (size_t)shift]) : 0;
        changed += !inside && have[0][i] != 0xA5;
        off += d != 0;
        most = YOLO_MAX(most, d);
    }
    CHECK_MSG(changed == 0, "%s: %d bytes around the pictures have changed", what, (int)changed);
    CHECK_MSG(most <= 1, "%s: a byte is %d off", what, most);
    CHECK_MSG(off * 1000 <= (int64_t)bytes, "%s: %d of %d bytes differ", what, (int)off, (int)bytes);
    for (int i = 0; i < 2; i++) mem_free(have[i]);
    mem_free(fill);
    yg_free(gpu_device(), memory);
    yg_free(gpu_device(), device);
    return off;
}

/* `seeds` pictures of h x w drawn with the settings, in one call. */
static int64_t augment_check(const char *what, const aug_settings *settings, int seeds, int h, int w, int shift) {
    const size_t bytes = (size_t)h * (size_t)w * 3;
    const int imgsz = YOLO_MAX(h, w);
    augment_case c;
    aug_scene *scene = mem_array(1, sizeof *scene);
    yg_scene *scenes = mem_array((uint64_t)seeds, sizeof *scenes);
    uint8_t *want = mem_alloc(bytes * (size_t)seeds), *rows = mem_alloc((size_t)w * 8);
    augment_start(&c, (uint64_t)(h * w), YOLO_MIN(40, imgsz), YOLO_MIN(56, imgsz));
    for (int i = 0; i < seeds; i++) {
        augment_scene(scene, &c, settings, (uint64_t)(1000 + i), imgsz, w, h);
        scene->rows[0] = rows;
        scene->rows[1] = rows + (size_t)w * 4;
        aug_render(scene, want + bytes * (size_t)i);
        tr_gpu_scene(&scenes[i], scene, &c.pictures);
    }
    const int64_t off = augment_compare(what, scenes, want, seeds, h, w, shift);
    augment_end(&c);
    mem_free(scene);
    mem_free(scenes);
    mem_free(want);
    mem_free(rows);
    return off;
}

static const aug_settings augment_all = {.hsv_h = 0.1, .hsv_s = 0.7, .hsv_v = 0.4, .degrees = 30, .translate = 0.2, .scale = 0.6, .shear = 8,
                                         .flipud = 0.5, .fliplr = 0.5, .bgr = 0.4, .mosaic = 0.7, .mixup = 0.5, .cutmix = 0.5};

static void test_gpu_augment_all(void) {
    static const int sizes[][3] = {{64, 64, 0}, {64, 64, 1}, {33, 47, 0}, {9, 34, 0}, {1, 1, 0}, {40, 96, 2}}; /* h, w, where the bytes begin */
    int64_t off = 0;
    for (int i = 0; i < YOLO_COUNT(sizes); i++) off += augment_check("all", &augment_all, i ? 6 : AUGMENT_SEEDS, sizes[i][0], sizes[i][1], sizes[i][2]);
    CHECK_MSG(off == 0, "%d bytes differ", (int)off);
}

static void test_gpu_augment_perspective(void) {
    aug_settings s = augment_all;
    s.perspective = 0.004;
    CHECK_MSG(augment_check("perspective", &s, AUGMENT_SEEDS, 64, 64, 0) == 0, "some bytes differ");
}

/* Each augmentation alone, and none: the picture, unchanged or in gray. */
static void test_gpu_augment_single(void) {
    static const struct { const char *what; aug_settings settings; } cases[] = {
        {"none", {.hsv_h = 0}}, {"hue", {.hsv_h = 0.5}}, {"value", {.hsv_v = 0.9}}, {"flips", {.flipud = 0.6, .fliplr = 0.6}}, {"bgr", {.bgr = 0.5}},
        {"scale", {.scale = 0.9}}, {"upside down", {.degrees = 180, .scale = 0.5}}, {"mosaic", {.mosaic = 1}}, {"mixup", {.mosaic = 1, .mixup = 1}}, {"cutmix", {.mosaic = 1, .cutmix = 1}}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) CHECK_MSG(augment_check(cases[i].what, &cases[i].settings, 5, 64, 64, 0) == 0, "%s: some bytes differ", cases[i].what);
}

static void test_gpu_augment_refused(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_augment(gpu, NULL, NULL, 0, 64, 64);
    CHECK(yg_finish(gpu, reason, sizeof reason) == 0);
    yg_augment(gpu, NULL, NULL, 70000, 64, 64);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0 && strstr(reason, "70000 pictures"));
    yg_close(gpu);
}

/* ---- the loader's scenes, and the pictures that they show on the device ---- */

static dl_options augment_options(int workers, bool scenes, uint64_t cache, bool rect) {
    dl_options o = {.imgsz = AUGMENT_MOST, .batch = 3, .stride = 32, .workers = workers, .shuffle = true, .augment = true, .seed = 5, .fraction = 1,
                    .cache_bytes = cache, .scenes = scenes, .rect = rect, .augmentation = augment_all};
    o.augmentation.mosaic = 0.9;
    return o;
}

static dl_loader *augment_loader(const dl_options *o, data_list *list) {
    char folder[600];
    yolo_error error = {0};
    dl_loader *dl = NULL;
    if (!test_train_data()) return NULL;
    snprintf(folder, sizeof folder, "%s/images/train", test_temp("train_data"));
    yolo_status status = data_collect(folder, list, &error);
    if (status == YOLO_OK) status = dl_create(&dl, list, DEMO_KINDS, o, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    return dl;
}

/* The batch's pixels, wherever they come from; to be freed with mem_free. */
static uint8_t *augment_pixels(tr_gpu *gpu, const dl_loader *dl, const dl_batch *b) {
    const size_t bytes = (size_t)b->n * (size_t)b->h * (size_t)b->w * 3;
    uint8_t *pixels;
    if (!gpu && b->scenes) return dl_render(b, b->n);
    pixels = mem_alloc(bytes);
    if (!gpu) memcpy(pixels, b->pixels, bytes);
    else {
        tr_gpu_render(gpu, dl, b, b->targets);
        yg_download(gpu->device, pixels, gpu->pixels, bytes);
        gpu_finish();
    }
    return pixels;
}

/* A number for two epochs of a loader: pixels, targets, pictures. The second epoch begins in the middle of another. */
static uint64_t augment_hash(tr_gpu *gpu, dl_loader *dl) {
    yolo_error error;
    dl_batch *b = NULL;
    uint64_t hash = 0;
    for (int epoch = 0; epoch < 2; epoch++) {
        if (epoch) CHECK(dl_start(dl, 7, true) == YOLO_OK && dl_next(dl, &b, &error) == YOLO_OK);
        CHECK(dl_start(dl, epoch, true) == YOLO_OK);
        while (dl_next(dl, &b, &error) == YOLO_OK && b) {
            CHECK((b->scenes != NULL) == dl->options.scenes && (b->pixels == NULL) == dl->options.scenes);
            uint8_t *pixels = augment_pixels(gpu, dl, b);
            hash = hash_bytes(pixels, (size_t)b->n * (size_t)b->h * (size_t)b->w * 3, hash);
            hash = hash_bytes(b->targets, (size_t)b->first[b->n] * sizeof *b->targets, hash);
            hash = hash_bytes(b->pictures, (size_t)b->n * sizeof *b->pictures, hash);
            mem_free(pixels);
        }
        CHECK(b == NULL);
    }
    for (int64_t i = 0; i < dl->pictures; i++) CHECK_MSG(dl->items[i].holders == 0, "picture %d is held by %d", (int)i, dl->items[i].holders);
    return hash;
}

static void test_gpu_augment_loader(void) {
    static const struct { int workers; bool scenes; uint64_t cache; bool rect; } cases[] = {
        {0, false, 1 << 30, false}, {0, true, 1 << 30, false}, {1, true, 1 << 30, false}, {3, true, 1 << 30, false}, {0, true, 1, false}, {3, true, 1, false},
        {2, true, 0, false}, {2, true, 30000, false}, {0, false, 1 << 30, true}, {2, true, 30000, true}};
    uint64_t first[2] = {0, 0};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const dl_options o = augment_options(cases[i].workers, cases[i].scenes, cases[i].cache, cases[i].rect);
        data_list list = {0};
        dl_loader *dl = augment_loader(&o, &list);
        if (!dl) return;
        const uint64_t hash = augment_hash(NULL, dl);
        if (!first[o.rect]) first[o.rect] = hash;
        CHECK_MSG(hash == first[o.rect], "case %d", i);
        CHECK(o.cache_bytes != 1 || dl->cached_bytes <= 1); /* what was held beyond the limit is gone */
        dl_destroy(dl);
        data_list_free(&list);
    }
}

static void augment_close(tr_gpu *gpu) {
    tr_rank rank = {.gpu = gpu};
    tr_gpu_close(&rank);
}

/* Memory for all pictures, for some that stay and a few that pass, and for no more than one scene needs. */
static void test_gpu_augment_pictures(void) {
    const uint64_t picture = tr_picture_room(AUGMENT_MOST * AUGMENT_MOST * 3 + AUG_SLACK);
    const uint64_t budgets[] = {0 /* the CPU */, 1000 * picture, 10 * picture, 8 * picture, 5 * picture, 4 * picture + 32};
    const uint64_t least[] = {0, 13 * picture, 13 * picture, 6 * picture, 5 * picture, 4 * picture + 32};
    for (int mixed = 0; mixed < 2; mixed++) {
        uint64_t want = 0;
        for (int i = 0; i < YOLO_COUNT(budgets); i++) {
            dl_options o = augment_options(2, i > 0, 20000, false);
            if (!mixed) o.augmentation.mixup = o.augmentation.cutmix = 0; /* four pictures a scene, not all that there are */
            else if (i > 2) continue;
            data_list list = {0};
            yolo_error error = {0};
            dl_loader *dl = augment_loader(&o, &list);
            tr_gpu *gpu = i ? mem_array(1, sizeof *gpu) : NULL;
            if (!dl) return;
            if (gpu) {
                gpu->device = gpu_device();
                CHECK(tr_gpu_reserve(gpu, (size_t)o.batch * AUGMENT_MOST * AUGMENT_MOST * 3, 1, &error) == YOLO_OK);
                CHECK_MSG(tr_gpu_open_pictures(gpu, dl, budgets[i], least[i], o.batch, &error) == YOLO_OK, "%s", error.message);
                CHECK(gpu->pictures.bytes <= budgets[i] && gpu->pictures.keep_limit <= gpu->pictures.bytes);
            }
            const uint64_t hash = augment_hash(gpu, dl);
            if (!want) want = hash;
            CHECK_MSG(hash == want, "budget %d", i);
            if (gpu) augment_close(gpu);
            dl_destroy(dl);
            data_list_free(&list);
        }
    }
}

#ifdef TEST_EMULATED
/* A number for the pixels and targets of an epoch whose batches are called for one after the other, without waiting; the loader's memory
   is overwritten meanwhile. */
static uint64_t augment_hash_ahead(tr_gpu *gpu, dl_loader *dl) {
    const int batches = (int)dl_batch_count(dl), most = dl->options.batch;
    const size_t pixels = (size_t)most * AUGMENT_MOST * AUGMENT_MOST * 3, each = pixels + TR_LABELS_AT;
    uint8_t *kept = yg_alloc(gpu->device, (size_t)batches * each), *host = mem_array((uint64_t)batches, each);
    yolo_error error;
    dl_batch *b = NULL;
    yg_clear(gpu->device, kept, (size_t)batches * each);
    CHECK(dl_start(dl, 3, true) == YOLO_OK);
    for (int i = 0; i < batches && dl_next(dl, &b, &error) == YOLO_OK && b; i++) {
        tr_gpu_render(gpu, dl, b, b->targets);
        yg_copy(gpu->device, kept + (size_t)i * each, gpu->pixels, (size_t)b->n * (size_t)b->h * (size_t)b->w * 3);
        yg_copy(gpu->device, kept + (size_t)i * each + pixels, gpu->labels + TR_LABELS_AT, (size_t)b->first[b->n] * sizeof *b->targets);
    }
    yg_download(gpu->device, host, kept, (size_t)batches * each);
    gpu_finish();
    const uint64_t hash = hash_bytes(host, (size_t)batches * each, 1);
    yg_free(gpu->device, kept);
    mem_free(host);
    return hash;
}

/* Nothing that is sent overwrites what is still needed, however late or early its copies are done, and whatever displaces what. */
static void test_gpu_augment_ahead(void) {
    const uint64_t picture = tr_picture_room(AUGMENT_MOST * AUGMENT_MOST * 3 + AUG_SLACK), budgets[] = {1000 * picture, 8 * picture, 4 * picture + 32};
    uint64_t want = 0;
    for (int i = 0; i < YOLO_COUNT(budgets); i++)
        for (uint64_t lazy = 0; lazy < 6; lazy++) {
            dl_options o = augment_options(0, true, 20000, false);
            data_list list = {0};
            yolo_error error = {0};
            o.augmentation.mixup = o.augmentation.cutmix = 0;
            o.batch = 3;
            dl_loader *dl = augment_loader(&o, &list);
            tr_gpu *gpu = mem_array(1, sizeof *gpu);
            if (!dl || !gpu) return;
            gpu->device = gpu_device();
            emulate_set_lazy(lazy);
            CHECK(tr_gpu_reserve(gpu, (size_t)o.batch * AUGMENT_MOST * AUGMENT_MOST * 3, 1, &error) == YOLO_OK);
            CHECK_MSG(tr_gpu_open_pictures(gpu, dl, budgets[i], YOLO_MIN(budgets[i], 6 * picture), o.batch, &error) == YOLO_OK, "%s", error.message);
            const uint64_t hash = augment_hash_ahead(gpu, dl);
            if (!want) want = hash;
            CHECK_MSG(hash == want, "budget %d, streams in order %d", i, (int)lazy);
            emulate_set_lazy(0);
            augment_close(gpu);
            dl_destroy(dl);
            data_list_free(&list);
        }
}
#endif

static const test_case tests_gpu_augment[] = {
    {"all", "all augmentations at once, the bytes of aug_render; odd sizes, guards, twice the same", test_gpu_augment_all},
    {"perspective", "the same with perspective", test_gpu_augment_perspective},
    {"single", "each augmentation alone, and none", test_gpu_augment_single},
    {"refused", "nothing, and too much", test_gpu_augment_refused},
    {"loader", "batches of scenes are those of pixels, for any workers and cache; nothing stays held", test_gpu_augment_loader},
    {"pictures", "the same batches however few pictures the device holds", test_gpu_augment_pictures},
#ifdef TEST_EMULATED
    {"ahead", "the same batches however early or late uploads are done", test_gpu_augment_ahead},
#endif
};
