/* test_demo.c - the drawn pictures of section 27: the same bytes everywhere, boxes that fit what is drawn. */

enum { TEST_DEMO_PICTURES = 300 };

static void test_demo_same_bytes(void) {
    uint64_t hash = 0, again = 0, other = 0;
    for (int run = 0; run < 3; run++)
        for (int i = 0; i < 8; i++) {
            yolo_image image = {0};
            yolo_box boxes[DEMO_MOST_SHAPES];
            yolo_error error;
            int count;
            CHECK(demo_picture(run == 2, i, &image, boxes, &count, &error) == YOLO_OK);
            uint64_t *sum = run == 0 ? &hash : run == 1 ? &again : &other;
            *sum = hash_bytes(image.pixels, (size_t)image.width * (size_t)image.height * 3, *sum);
            for (int b = 0; b < count; b++) *sum = hash_bytes(&boxes[b], sizeof boxes[b], *sum);
            yolo_image_free(&image);
        }
    CHECK(hash == again && hash != other);
    CHECK_MSG(hash == 0xf830b2ee8046468au, "0x%016llxu", (unsigned long long)hash);
}

/* The smallest box around the points of a fine grid that are inside. */
static void test_demo_boxes(void) {
    rng r = {7, 0};
    for (int i = 0; i < 60; i++) {
        demo_shape s = {.kind = i % DEMO_KINDS, .x = 500, .y = 500, .radius = 300};
        demo_direction(&r, &s.turn_x, &s.turn_y);
        CHECK_NEAR(s.turn_x * s.turn_x + s.turn_y * s.turn_y, 1, 1e-12);
        yolo_box box = demo_box(&s, 1000, 1000), found = {1e9f, 1e9f, -1e9f, -1e9f, 1, 0};
        for (int y = 0; y < 1000; y += 2)
            for (int x = 0; x < 1000; x += 2) {
                double px = (x - s.x) / s.radius, py = (y - s.y) / s.radius;
                if (!demo_inside(s.kind, px * s.turn_x + py * s.turn_y, py * s.turn_x - px * s.turn_y)) continue;
                found = (yolo_box){YOLO_MIN(found.x1, (float)x), YOLO_MIN(found.y1, (float)y), YOLO_MAX(found.x2, (float)x), YOLO_MAX(found.y2, (float)y), 1, 0};
            }
        CHECK_MSG(fabsf(box.x1 - found.x1) < 6 && fabsf(box.y1 - found.y1) < 6 && fabsf(box.x2 - found.x2) < 6 && fabsf(box.y2 - found.y2) < 6,
                  "%s: %.0f %.0f %.0f %.0f against %.0f %.0f %.0f %.0f", demo_names[s.kind], (double)box.x1, (double)box.y1, (double)box.x2,
                  (double)box.y2, (double)found.x1, (double)found.y1, (double)found.x2, (double)found.y2);
    }
}

static void test_demo_variety(void) {
    int kinds[DEMO_KINDS] = {0}, total = 0, sizes = 0;
    for (int i = 0; i < TEST_DEMO_PICTURES; i++) {
        rng r = {(uint64_t)i * 1000, 0};
        demo_shape shapes[DEMO_MOST_SHAPES];
        const uint8_t ground[3] = {(uint8_t)i, (uint8_t)(2 * i), (uint8_t)(3 * i)};
        int count = demo_place(&r, shapes, ground, 240, 176);
        CHECK(count >= 1 && count <= DEMO_MOST_SHAPES);
        total += count;
        for (int k = 0; k < count; k++) {
            const demo_shape *s = &shapes[k];
            kinds[s->kind]++;
            sizes += s->radius > 24;
            CHECK(s->box.x1 >= 0 && s->box.y1 >= 0 && s->box.x2 <= 240 && s->box.y2 <= 176 && s->box.x2 - s->box.x1 >= 8 && s->box.y2 - s->box.y1 >= 8);
            CHECK_MSG(demo_contrast(s->colour, ground) >= 100, "picture %d: a colour like the ground's", i);
        }
    }
    CHECK_MSG(total > 2 * TEST_DEMO_PICTURES && total < 5 * TEST_DEMO_PICTURES && sizes > total / 8 && sizes < total, "%d shapes, %d large", total, sizes);
    for (int k = 0; k < DEMO_KINDS; k++) CHECK_MSG(kinds[k] > total / 9 && kinds[k] < total / 4, "%s: %d of %d", demo_names[k], kinds[k], total);
}

/* What is written can be read, and a failure of memory or disk is told. */
static void test_demo_files(void) {
    char folder[1024];
    yolo_error error;
    data_set set;
    const data_list *list;
    lbl_list labels;
    snprintf(folder, sizeof folder, "%s/drawn", test_temp("demo"));
    CHECK_MSG(demo_draw(folder, 3, 5, 6, &error) == YOLO_OK, "%s", error.message);
    CHECK_MSG(data_open(&set, test_temp("demo/drawn/data.yaml"), &error) == YOLO_OK, "%s", error.message);
    CHECK(data_split(&set, "val", &list, &error) == YOLO_OK && list->count == 6 && set.class_count == DEMO_KINDS);
    data_close(&set);
    CHECK(lbl_read(test_temp("demo/drawn/00005.txt"), DEMO_KINDS, &labels, NULL, &error) == YOLO_OK && labels.count >= 1 && !labels.bad_lines);
    lbl_list_free(&labels);
    int failures = 0;
    yolo_status status = YOLO_ERROR_MEMORY;
    for (long n = 1; status == YOLO_ERROR_MEMORY && n < 2000; n++, failures++) {
        os_atomic_set(&mem_fail_after, n);
        status = demo_draw(folder, 3, 5, 1, &error);
        os_atomic_set(&mem_fail_after, 0);
    }
    CHECK_MSG(status == YOLO_OK && failures > 5, "%d failures: %s", failures, error.message);
    CHECK(path_write(test_temp("demo/file"), "x", 1, false, &error) == YOLO_OK);
    snprintf(folder, sizeof folder, "%s/sub", test_temp("demo/file"));
    CHECK(demo_draw(folder, 0, 0, 1, &error) == YOLO_ERROR_IO && strstr(error.message, "file"));
}

static const test_case tests_demo[] = {
    {"demo_same_bytes", "a picture is a function of seed and number, on every machine", test_demo_same_bytes},
    {"demo_boxes", "boxes are as large as the shapes", test_demo_boxes},
    {"demo_variety", "kinds, sizes and colours", test_demo_variety},
    {"demo_files", "folders of pictures; memory and disk that fail", test_demo_files},
};
