/* gpu_label.c - pictures in, boxes out on a GPU: letterbox and suppression against their twins on the CPU, bit for bit. */

/* ---- letterbox ---- */

static yolo_image label_picture(int width, int height) {
    yolo_image image = {mem_alloc((size_t)width * (size_t)height * 3), width, height};
    rng r = {.key = (uint64_t)(width * 10007 + height)};
    for (size_t i = 0; i < (size_t)width * (size_t)height * 3; i++) image.pixels[i] = (uint8_t)(rng_uniform(&r) * 256);
    return image;
}

/* Three pictures of one shape side by side, of which the middle one is looked at; `shift` moves its pixels by words. */
static void label_letterbox_check(const img_letterbox *plan, const yolo_image *image, int channels, int pixel, yg_type type) {
    enum { N = 3 };
    const size_t bytes = (size_t)image->width * (size_t)image->height * 3, room = (bytes + 3) / 4 * 4 + 16, count = (size_t)plan->height * (size_t)plan->width;
    float *want = mem_array(count * 3, sizeof *want);
    uint8_t *pixels = yg_alloc(gpu_device(), N * room);
    yg_letterbox letterboxes[N], *device = yg_alloc(gpu_device(), sizeof letterboxes);
    gpu_block out = gpu_tensor(N, plan->height, plan->width, channels, pixel, 0, type);
    size_t wrong = 0;
    for (int i = 0; i < N; i++) {
        letterboxes[i] = run_gpu_letterbox(plan, image->width, image->height, pixels + room * (size_t)i);
        yg_upload(gpu_device(), pixels + room * (size_t)i, image->pixels, bytes);
    }
    yg_upload(gpu_device(), device, letterboxes, sizeof letterboxes);
    yg_letterbox_run(gpu_device(), &out.t, device);
    gpu_finish();
    img_letterbox_run(plan, image, want);
    float *have = gpu_read(&out);
    for (size_t i = 0; i < N * count; i++)
        for (int c = 0; c < channels; c++) {
            const float should = c < 3 ? gpu_round(want[i % count * 3 + (size_t)c], type) : 0;
            wrong += memcmp(&have[i * (size_t)channels + (size_t)c], &should, sizeof should) != 0;
        }
    CHECK_MSG(wrong == 0, "%d x %d into %d x %d (%d x %d at %d, %d), %d channels of type %d: %zu numbers differ", image->width, image->height, plan->width,
              plan->height, plan->scaled_width, plan->scaled_height, plan->pad_left, plan->pad_top, channels, (int)type, wrong);
    gpu_free(&out);
    yg_free(gpu_device(), pixels);
    yg_free(gpu_device(), device);
    mem_free(want);
    mem_free(have);
}

/* Up, down, by exactly a half, as it is; one pixel, one row, one column; predict's letterboxes and validation's. */
static void test_gpu_label_letterbox(void) {
    static const int sizes[][3] = {{1, 1, 32}, {2, 1, 64}, {1, 7, 64}, {3, 500, 64}, {300, 2, 64}, {64, 64, 64}, {64, 40, 64}, {128, 128, 64}, {128, 96, 64},
                                   {128, 95, 64}, {127, 64, 64}, {33, 47, 96}, {97, 61, 96}, {500, 333, 160}, {640, 427, 64}, {59, 1000, 128}, {1920, 1080, 320}};
    for (int i = 0; i < YOLO_COUNT(sizes); i++) {
        const int imgsz = sizes[i][2];
        yolo_image image = label_picture(sizes[i][0], sizes[i][1]);
        const img_letterbox plans[] = {img_letterbox_plan(image.width, image.height, imgsz, true, 32), img_letterbox_plan(image.width, image.height, imgsz, false, 32),
                                       img_letterbox_plan_fixed(image.width, image.height, imgsz + 32, imgsz, false)};
        for (int k = 0; k < 3; k++) {
            label_letterbox_check(&plans[k], &image, 8, 8, k == 1 ? YG_F32 : YG_F16);
            if (imgsz <= 96) label_letterbox_check(&plans[k], &image, 3, 5, k == 1 ? YG_F16 : YG_F32);
            if (imgsz <= 64) label_letterbox_check(&plans[k], &image, 16, 24, YG_BF16);
        }
        yolo_image_free(&image);
    }
}

/* ---- suppression ---- */

/* Candidates crowded around some places, with few different scores when `ties`. */
static void label_candidates(nms_candidate *items, int count, int classes, bool ties, uint64_t seed) {
    rng r = {.key = seed};
    for (int i = 0; i < count; i++) {
        const float x = (float)(int)(rng_uniform(&r) * 8) * 60 + (float)rng_uniform(&r) * 20, y = (float)(int)(rng_uniform(&r) * 8) * 60 + (float)rng_uniform(&r) * 20;
        const float w = 10 + (float)rng_uniform(&r) * 40, h = ties && i % 7 == 0 ? 0 : 10 + (float)rng_uniform(&r) * 40, score = (float)rng_uniform(&r);
        items[i] = (nms_candidate){x, y, x + w, y + h, ties ? (float)(1 + (int)(score * 9)) / 16 : score, (int32_t)(rng_uniform(&r) * classes), i};
        if (ties && i % 5 == 1) { /* the same box again */
            const int32_t class_id = items[i].class_id;
            items[i] = items[i - 1];
            items[i].class_id = i % 2 ? class_id : items[i].class_id;
            items[i].order = i;
        }
    }
}

/* Suppression of pictures with these numbers of candidates, by room for `most` of each, against nms_run. */
static void label_nms_check(const int *counts, int pictures, int most, int classes, bool ties, det_options options) {
    yg_gpu *gpu = gpu_device();
    nms_candidate *items = mem_array((uint64_t)pictures * (uint64_t)most, sizeof *items);
    const size_t kept_bytes = (size_t)pictures * (size_t)options.max_det * sizeof *items;
    nms_candidate *kept = mem_alloc(kept_bytes), *candidates = yg_alloc(gpu, (size_t)pictures * (size_t)most * sizeof *items), *device_kept = yg_alloc(gpu, kept_bytes);
    int *device_counts = yg_alloc(gpu, (size_t)pictures * sizeof(int)), *device_found = yg_alloc(gpu, (size_t)pictures * sizeof(int)), found[16];
    void *workspace = yg_alloc(gpu, yg_nms_bytes(pictures, most));
    for (int i = 0; i < pictures; i++) label_candidates(items + (int64_t)i * most, YOLO_MIN(counts[i], most), classes, ties, (uint64_t)(counts[i] + 7 * i + 1));
    yg_upload(gpu, candidates, items, (size_t)pictures * (size_t)most * sizeof *items);
    yg_upload(gpu, device_counts, counts, (size_t)pictures * sizeof *counts);
    yg_nms(gpu, device_kept, device_found, candidates, device_counts, pictures, most, options.iou, options.max_det, options.agnostic, workspace);
    yg_download(gpu, kept, device_kept, kept_bytes);
    yg_download(gpu, found, device_found, (size_t)pictures * sizeof *found);
    gpu_finish();
    for (int i = 0; i < pictures; i++) {
        nms_list list = {.items = items + (int64_t)i * most, .count = counts[i]};
        yolo_boxes want = {0};
        int wrong = 0;
        if (counts[i] > most) {
            CHECK_MSG(found[i] == -1, "picture %d: %d", i, found[i]);
            continue;
        }
        if (list.count) CHECK(nms_run(&list, classes, &options, &want, NULL) == YOLO_OK);
        CHECK_MSG(found[i] == want.count, "%d candidates: %d are kept, expected %d", counts[i], found[i], want.count);
        for (int k = 0; k < YOLO_MIN(found[i], want.count); k++) {
            const nms_candidate *a = &kept[(int64_t)i * options.max_det + k];
            const yolo_box have = {a->x1, a->y1, a->x2, a->y2, a->score, a->class_id};
            wrong += memcmp(&have, &want.items[k], sizeof have) != 0;
        }
        CHECK_MSG(wrong == 0, "%d candidates: %d boxes differ", counts[i], wrong);
        yolo_boxes_free(&want);
    }
    void *const blocks[] = {candidates, device_kept, device_counts, device_found, workspace};
    for (int i = 0; i < YOLO_COUNT(blocks); i++) yg_free(gpu, blocks[i]);
    mem_free(items);
    mem_free(kept);
}

static void test_gpu_label_nms(void) {
    static const int counts[] = {0, 1, 31, 32, 33, 255, 256, 257, 700, 1500, 1600};
    for (int variant = 0; variant < 12; variant++) {
        const det_options options = {.iou = variant % 3 == 0 ? 0.7f : variant % 3 == 1 ? 0.3f : 0, .max_det = variant < 6 ? 300 : 5, .agnostic = variant % 2};
        label_nms_check(counts, YOLO_COUNT(counts), 1500, variant % 4 ? 80 : 3, variant % 5 < 3, options);
    }
}

/* As many as there may be, and all of them of one class. */
static void test_gpu_label_nms_many(void) {
    static const int counts[] = {YG_NMS_MOST, 12345};
    label_nms_check(counts, 2, YG_NMS_MOST, 80, true, (det_options){.iou = 0.7f, .max_det = 300});
    label_nms_check(counts + 1, 1, YG_NMS_MOST, 1, false, (det_options){.iou = 0.9f, .max_det = 1000});
}

static void test_gpu_label_refused(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_nms(gpu, NULL, NULL, NULL, NULL, 1, YG_NMS_MOST + 1, 0.7f, 300, false, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0 && strstr(reason, "30001 candidates"));
    yg_close(gpu);
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_letterbox_run(gpu, &(yg_ten){.n = 1, .h = 32, .w = 32, .c = 2}, NULL);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0 && strstr(reason, "2 channels"));
    yg_close(gpu);
}

static const test_case tests_gpu_label[] = {
    {"letterbox", "the network's input, bit for bit img_letterbox_run's", test_gpu_label_letterbox},
    {"nms", "what is kept, bit for bit nms_run's; ties, room, max_det", test_gpu_label_nms},
    {"nms_many", "30,000 candidates", test_gpu_label_nms_many},
    {"refused", "too many candidates, too few channels", test_gpu_label_refused},
};
