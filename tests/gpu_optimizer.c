/* gpu_optimizer.c - K12 against section 19 of yolo.c: norm, updates, average, MuSGD's orthogonal part, whole steps.

   nvcc contracts products and sums into FMA, which the CPU's loops do not: an update may be off by a rounding or two of its
   operands. MuSGD rounds its products to bf16, where another order of additions now and then tips a value to its neighbour; five
   iterations make up to 5e-5 of the energy of that, measured with sums cut off as tensor cores do it. */
#include "emulate/emulate.h"

/* Only linked where kernels run on the host; elsewhere NULL. */
extern void emulate_set_order(uint64_t seed) __attribute__((weak));
extern void emulate_set_capability(int major, int minor) __attribute__((weak));

#define TEST_OPT_MUON 3e-4 /* most of the energy that MuSGD may be off by */
#define TEST_OPT_CLIP 0.3f /* of steps that are not whole ones */
enum { TEST_OPT_GUARD = 64, TEST_OPT_BLOCKS = 5 }; /* floats around a block; parameters, gradients, average, two moments */

/* Pieces as opt_make_pieces makes them, but also with gaps between, at every offset from a boundary of 16 bytes. */
typedef struct test_opt_pieces { yg_piece *pieces; int count; int64_t floats; } test_opt_pieces;

static test_opt_pieces test_opt_make_pieces(void) {
    static const int counts[] = {1, 2, 3, 4, 5, 7, 8, 16, 27, 80, 255, 1024, 4099, OPT_PIECE, OPT_PIECE, 6001, 3, 130};
    test_opt_pieces made = {.pieces = mem_array(YOLO_COUNT(counts), sizeof *made.pieces), .count = YOLO_COUNT(counts), .floats = TEST_OPT_GUARD};
    for (int i = 0; i < made.count; i++) {
        made.pieces[i] = (yg_piece){.offset = made.floats, .count = counts[i], .group = i % 4 - (i % 4 == 3 ? 4 : 0), .averaged = i % 5 != 2};
        made.floats += counts[i] + i % 3;
    }
    made.floats += TEST_OPT_GUARD;
    return made;
}

static yg_piece *test_opt_upload(const test_opt_pieces *made) {
    yg_piece *pieces = yg_alloc(gpu_device(), (size_t)made->count * sizeof *pieces);
    yg_upload(gpu_device(), pieces, made->pieces, (size_t)made->count * sizeof *pieces);
    gpu_finish();
    return pieces;
}

static yg_decision *test_opt_decision(yg_decision decision) {
    yg_decision *device = yg_alloc(gpu_device(), sizeof *device);
    yg_upload(gpu_device(), device, &decision, sizeof decision);
    gpu_finish();
    return device;
}

/* What yg_decide makes of a decision; the sums of the pieces go to `parts` where that is not NULL. */
static yg_decision test_opt_decide(yg_decision decision, const float *gradients, const yg_piece *pieces, int count, yg_scaling scaling, double *parts) {
    double *memory = yg_alloc(gpu_device(), (size_t)(count + 1) * sizeof *memory);
    yg_decision *device = test_opt_decision(decision);
    yg_decide(gpu_device(), device, gradients, pieces, count, (float)OPT_CLIP, scaling, memory);
    yg_download(gpu_device(), &decision, device, sizeof decision);
    if (parts) yg_download(gpu_device(), parts, memory, (size_t)count * sizeof *parts);
    gpu_finish();
    yg_free(gpu_device(), memory);
    yg_free(gpu_device(), device);
    return decision;
}

static double test_opt_squares(const float *gradients, const yg_piece *pieces, int count, double *parts) {
    return test_opt_decide((yg_decision){.scale = 1}, gradients, pieces, count, (yg_scaling){0, 0}, parts).squares;
}

static void test_gpu_squares(void) {
    test_opt_pieces made = test_opt_make_pieces();
    yg_piece *pieces = test_opt_upload(&made);
    float *values = gpu_random((size_t)made.floats, 1, YG_F32), *gradients = gpu_floats(values, (size_t)made.floats);
    double *parts = mem_array((uint64_t)made.count, sizeof *parts), want = 0;
    double have = test_opt_squares(gradients, pieces, made.count, parts);
    opt_state state = {.pieces = mem_array((uint64_t)made.count, sizeof(opt_piece))};
    opt_pass pass = {.state = &state, .gradients = values};
    for (int i = 0; i < made.count; i++) {
        state.pieces[i] = (opt_piece){.offset = made.pieces[i].offset, .count = made.pieces[i].count, .group = made.pieces[i].group};
        opt_measure_piece(&pass, i, 0);
        CHECK_NEAR(parts[i], state.pieces[i].squares, 1e-13 * state.pieces[i].squares);
        want += state.pieces[i].squares;
    }
    CHECK_NEAR(have, want, 1e-13 * want);
    if (emulate_set_order) emulate_set_order(9);
    CHECK(test_opt_squares(gradients, pieces, made.count, NULL) == have);
    if (emulate_set_order) emulate_set_order(0);
    CHECK(test_opt_squares(gradients, pieces, 0, NULL) == 0);
    /* What is no number, in the head, a vector and the tail of pieces; and in one that has no group, where it does not count. */
    const struct { int piece, at; float value; } cases[] = {{12, 0, NAN}, {13, 9001, INFINITY}, {14, OPT_PIECE - 1, NAN}, {0, 0, -INFINITY}, {3, 1, NAN}, {16, 2, 1e30f}};
    for (int i = 0; i < YOLO_COUNT(cases); i++) {
        const yg_piece *piece = &made.pieces[cases[i].piece];
        yg_upload(gpu_device(), gradients + piece->offset + cases[i].at, &cases[i].value, sizeof(float));
        double found = test_opt_squares(gradients, pieces, made.count, NULL);
        if (piece->group < 0) CHECK(found == have);
        else if (isfinite(cases[i].value)) CHECK_NEAR(found, (double)1e30f * (double)1e30f, 1e50);
        else CHECK(isinf(cases[i].value) ? isinf(found) : isnan(found));
        yg_upload(gpu_device(), gradients + piece->offset + cases[i].at, values + piece->offset + cases[i].at, sizeof(float));
        gpu_finish();
    }
    yg_free(gpu_device(), gradients);
    yg_free(gpu_device(), pieces);
    mem_free(state.pieces);
    mem_free(parts);
    mem_free(values);
    mem_free(made.pieces);
}

/* Clip and scale as the host made them while it waited: for small, large, overflowing gradients, with a scale that follows and without. */
static void test_gpu_decide(void) {
    static const float sizes[] = {1e-6f, 0.5f, 40, 1e30f, INFINITY, NAN};
    static const yg_scaling scalings[] = {{0, 0}, {3, 1024}};
    for (int i = 0; i < YOLO_COUNT(sizes); i++)
        for (int k = 0; k < YOLO_COUNT(scalings); k++)
            for (int steps = 0; steps < 3; steps++) {
                test_opt_pieces made = test_opt_make_pieces();
                yg_piece *pieces = test_opt_upload(&made);
                float *values = mem_array((uint64_t)made.floats, sizeof *values);
                const yg_decision start = {.scale = k ? 1024 >> (i % 2) : 1, .scaled_steps = steps};
                values[made.pieces[5].offset] = sizes[i] * start.scale;
                float *gradients = gpu_floats(values, (size_t)made.floats);
                const yg_decision have = test_opt_decide(start, gradients, pieces, made.count, scalings[k], NULL);
                const float norm = (float)(sqrt(have.squares) / (double)start.scale), clip = opt_clip(norm) * (float)(1 / (double)start.scale);
                const bool finite = isfinite(norm), doubles = k && finite && steps == 2;
                CHECK_MSG(have.clip == clip || (isnan(clip) && isnan(have.clip)), "%g: clip %g, expected %g", (double)sizes[i], (double)have.clip, (double)clip);
                CHECK(have.taken == (finite || !k));
                CHECK(have.scaled_steps == (!k ? steps : doubles || !finite ? 0 : steps + 1));
                CHECK(have.scale == (!k ? 1 : !finite ? start.scale / 2 : doubles ? YOLO_MIN(start.scale * 2, 1024) : start.scale));
                yg_free(gpu_device(), gradients);
                yg_free(gpu_device(), pieces);
                mem_free(values);
                mem_free(made.pieces);
            }
}

static const struct { yg_optimizer device; opt_kind host; } test_opt_kinds[] = {
    {YG_SGD, OPT_SGD}, {YG_ADAM, OPT_ADAM}, {YG_ADAM, OPT_ADAMW}, {YG_ADAMAX, OPT_ADAMAX}, {YG_NADAM, OPT_NADAM}, {YG_RADAM, OPT_RADAM}, {YG_RMSPROP, OPT_RMSPROP}};

/* Rates of step `step` of a kind, for three groups. */
static void test_opt_rates(yg_rates rates[3], opt_kind kind, double step) {
    opt_state state = {.settings = {.kind = kind}, .beta1 = 0.9, .momentum = 0.937, .steps = step, .product = 0.4};
    for (int i = 0; i < 3; i++) {
        const opt_group group = {.lr = 0.01 * (i + 1), .weight_decay = i == 1 ? 0 : 5e-4 * (i + 1)};
        const opt_rates r = opt_rates_of(&state, &group, 1);
        rates[i] = (yg_rates){r.lr, r.decay, r.keep, r.momentum, r.beta1, r.beta2, r.root, r.grow, r.step};
    }
}

/* The step of the CPU's loops over the blocks. */
static void test_opt_host(float *const blocks[TEST_OPT_BLOCKS], const test_opt_pieces *made, opt_kind kind, const yg_rates *rates, float weight) {
    for (int i = 0; i < made->count; i++) {
        const yg_piece *piece = &made->pieces[i];
        float *p = blocks[0] + piece->offset, *g = blocks[1] + piece->offset;
        if (piece->group >= 0) {
            const yg_rates *r = &rates[piece->group];
            const opt_rates same = {TEST_OPT_CLIP, r->lr, r->decay, r->keep, r->momentum, r->beta1, r->beta2, r->root, r->grow, r->step};
            opt_rows[kind].update(&same, p, g, blocks[3] + piece->offset, blocks[4] + piece->offset, piece->count);
        }
        memset(g, 0, (size_t)piece->count * sizeof *g);
        if (piece->averaged) opt_average(blocks[2] + piece->offset, p, weight, piece->count);
    }
}

/* Two steps of a kind. `apart`: the average begins elsewhere in 16 bytes than the other blocks, so that no vector fits. */
static void test_opt_kind(int index, const test_opt_pieces *made, const yg_piece *pieces, int apart) {
    static const char *const names[TEST_OPT_BLOCKS] = {"parameters", "gradients", "average", "first moment", "second moment"};
    const opt_kind kind = test_opt_kinds[index].host;
    const size_t floats = (size_t)made->floats;
    float *host[TEST_OPT_BLOCKS], *device[TEST_OPT_BLOCKS], *memory[TEST_OPT_BLOCKS];
    yg_decision *decision = test_opt_decision((yg_decision){.clip = TEST_OPT_CLIP, .taken = 1});
    for (int b = 0; b < TEST_OPT_BLOCKS; b++) {
        host[b] = gpu_random(floats + 1, (uint64_t)b + 10, YG_F32);
        for (size_t i = 0; b == 4 && i < floats; i++) host[b][i] = host[b][i] * host[b][i] + 0.01f;
        memory[b] = gpu_floats(NULL, floats + 1);
        device[b] = memory[b] + (b == 2 ? apart : 0);
        yg_upload(gpu_device(), device[b], host[b], floats * sizeof(float));
        gpu_finish();
    }
    for (int step = 0; step < 2; step++) {
        const float weight = step ? 0.0123f : 0.75f;
        yg_rates rates[3];
        test_opt_rates(rates, kind, step ? 30 : 1);
        test_opt_host(host, made, kind, rates, weight);
        yg_update(gpu_device(), test_opt_kinds[index].device, device[0], device[1], device[2], device[3], kind == OPT_SGD ? NULL : device[4],
                  pieces, made->count, rates, 3, decision, weight);
        for (int b = 0; b < TEST_OPT_BLOCKS; b++) { /* gradients of the next step, unless this is the last */
            float *have = gpu_floats_read(device[b], floats), *next = gpu_random(floats, (uint64_t)(20 + step), YG_F32);
            char what[80];
            snprintf(what, sizeof what, "%s, step %d, %s", opt_kind_name(kind), step, names[b]);
            gpu_compare(what, have, host[b], floats, 1e-13, 1e-6);
            if (b == 1) {
                for (int i = 0; i < made->count; i++)
                    for (int j = 0; j < made->pieces[i].count; j++) CHECK(have[made->pieces[i].offset + j] == 0);
                memcpy(host[b], next, floats * sizeof(float));
                yg_upload(gpu_device(), device[b], next, floats * sizeof(float));
                gpu_finish();
            }
            mem_free(have);
            mem_free(next);
        }
    }
    for (int b = 0; b < TEST_OPT_BLOCKS; b++) {
        yg_free(gpu_device(), memory[b]);
        mem_free(host[b]);
    }
    yg_free(gpu_device(), decision);
}

static void test_gpu_update(void) {
    test_opt_pieces made = test_opt_make_pieces();
    yg_piece *pieces = test_opt_upload(&made);
    for (int i = 0; i < YOLO_COUNT(test_opt_kinds); i++) test_opt_kind(i, &made, pieces, 0);
    test_opt_kind(1, &made, pieces, 1);
    yg_free(gpu_device(), pieces);
    mem_free(made.pieces);
}

/* A step that is not taken zeroes the gradients of the pieces, and no more. */
static void test_gpu_update_skipped(void) {
    test_opt_pieces made = test_opt_make_pieces();
    const size_t floats = (size_t)made.floats;
    yg_piece *pieces = test_opt_upload(&made);
    yg_decision *decision = test_opt_decision((yg_decision){.clip = NAN, .taken = 0});
    float *host = gpu_random(floats, 3, YG_F32), *device[TEST_OPT_BLOCKS];
    yg_rates rates[3];
    test_opt_rates(rates, OPT_ADAM, 1);
    for (int b = 0; b < TEST_OPT_BLOCKS; b++) device[b] = gpu_floats(host, floats);
    yg_update(gpu_device(), YG_ADAM, device[0], device[1], device[2], device[3], device[4], pieces, made.count, rates, 3, decision, 0.75f);
    for (int b = 0; b < TEST_OPT_BLOCKS; b++) {
        float *have = gpu_floats_read(device[b], floats);
        for (int i = 0; i < made.count && b == 1; i++)
            for (int j = 0; j < made.pieces[i].count; j++) CHECK(have[made.pieces[i].offset + j] == 0);
        CHECK(b == 1 || !memcmp(have, host, floats * sizeof(float)));
        mem_free(have);
        yg_free(gpu_device(), device[b]);
    }
    yg_free(gpu_device(), decision);
    yg_free(gpu_device(), pieces);
    mem_free(host);
    mem_free(made.pieces);
}

static void test_gpu_update_refuses(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    const yg_rates rates[9] = {{0}};
    CHECK(yg_open(&gpu, 0, reason, sizeof reason) == 0);
    yg_update(gpu, YG_SGD, NULL, NULL, NULL, NULL, NULL, NULL, 1, rates, 9, NULL, 0);
    CHECK(yg_finish(gpu, reason, sizeof reason) != 0);
    CHECK_MSG(strstr(reason, "9 groups"), "%s", reason);
    yg_close(gpu);
}

/* opt_muon_row and yg_muon on one matrix; lies at an odd offset, and nothing around it changes. */
static void test_opt_muon(yg_gpu *gpu, int rows, int columns, double momentum) {
    const int64_t count = (int64_t)rows * columns;
    const size_t floats = (size_t)count + 2 * TEST_OPT_GUARD;
    const int64_t offset = TEST_OPT_GUARD + 1;
    net_param row = {.dims = {rows, columns, 1, 1}, .rank = 4, .count = count, .offset = offset};
    opt_state state = {.settings = {.isa = op_isa_best()}, .momentum = momentum};
    const opt_group group = {.lr = 0.05};
    const float clip = 0.4f, lr = (float)(0.05 * OPT_MUON_SHARE);
    float *params = mem_array(floats, sizeof *params), *gradients = gpu_random(floats, (uint64_t)count, YG_F32), *before = gpu_random(floats, 3, YG_F32);
    state.blocks[2] = gpu_random(floats, 5, YG_F32);
    state.muon = mem_array((uint64_t)opt_muon_floats(&row), sizeof(float));
    float *d_params = gpu_floats(params, floats), *d_gradients = gpu_floats(gradients, floats), *d_momentum = gpu_floats(state.blocks[2], floats);
    yg_decision *decision = test_opt_decision((yg_decision){.clip = clip, .taken = 1});
    const yg_muon_row table = {offset, rows, columns, 1};
    const float rates[] = {NAN, lr};
    yg_muon_plan *plan = yg_muon_open(gpu, &table, 1, 0);
    CHECK(plan != NULL);
    opt_muon_row(&state, &row, &group, clip, params, gradients, NULL);
    yg_muon(gpu, plan, d_params, d_momentum, d_gradients, decision, (float)momentum, rates, 2);
    CHECK(yg_finish(gpu, NULL, 0) == 0);
    float *have = gpu_floats_read(d_params, floats), *moved = gpu_floats_read(d_momentum, floats);
    char what[80];
    snprintf(what, sizeof what, "%dx%d", rows, columns);
    gpu_compare(what, have, params, floats, TEST_OPT_MUON, 0.1);
    gpu_compare("its momentum", moved, state.blocks[2], floats, 1e-12, 1e-6);
    /* Again, from the same: the same bits. */
    float *d_again = gpu_floats(before, floats), *d_once = gpu_floats(before, floats);
    for (int i = 0; i < 2; i++) {
        yg_upload(gpu, d_momentum, gradients, floats * sizeof(float));
        if (emulate_set_order) emulate_set_order((uint64_t)(i * 7));
        yg_muon(gpu, plan, i ? d_again : d_once, d_momentum, d_gradients, decision, (float)momentum, rates, 2);
        CHECK(yg_finish(gpu, NULL, 0) == 0);
    }
    if (emulate_set_order) emulate_set_order(0);
    float *once = gpu_floats_read(d_once, floats), *again = gpu_floats_read(d_again, floats);
    CHECK_MSG(!memcmp(once, again, floats * sizeof(float)), "%s: other bits the second time", what);
    CHECK(memcmp(once, before, floats * sizeof(float)) && once[offset - 1] == before[offset - 1] && once[offset + count] == before[offset + count]);
    float *const device[] = {d_params, d_gradients, d_momentum, d_again, d_once};
    float *const host[] = {params, gradients, before, state.blocks[2], state.muon, have, moved, once, again};
    for (int i = 0; i < YOLO_COUNT(device); i++) yg_free(gpu_device(), device[i]);
    for (int i = 0; i < YOLO_COUNT(host); i++) mem_free(host[i]);
    yg_muon_close(gpu, plan);
    yg_free(gpu_device(), decision);
}

static void test_gpu_muon_small(void) {
    static const int sizes[][2] = {{8, 27}, {16, 27}, {80, 27}, {1, 1}, {3, 100}, {17, 5}, {32, 144}, {64, 64}, {40, 300}};
    for (int i = 0; i < YOLO_COUNT(sizes); i++) test_opt_muon(gpu_device(), sizes[i][0], sizes[i][1], i % 2 ? 0.937 : 0.8);
}

/* Too large for a block: products by launches; the last two with shares of a tile. */
static void test_gpu_muon_large(void) {
    static const int sizes[][2] = {{65, 65}, {80, 144}, {150, 70}, {65, 1155}, {1160, 33 + 32}};
    for (int i = 0; i < YOLO_COUNT(sizes); i++) test_opt_muon(gpu_device(), sizes[i][0], sizes[i][1], 0.937);
}

/* Matrices of all kinds in one call become, bit for bit, what each becomes alone, whether all of them go together or some after others;
   what lies between stays, and all does in a step that is not taken. */
static void test_gpu_muon_together(void) {
    static const int sizes[][2] = {{65, 65}, {8, 27}, {65, 1155}, {64, 64}, {80, 144}, {1, 1}, {1160, 65}, {17, 5}, {140, 70}};
    enum { COUNT = YOLO_COUNT(sizes), WAYS = 4 /* alone, together, in rounds, in a step that is not taken */ };
    static const size_t most[WAYS] = {0, 64 << 20, 1 << 20, 64 << 20};
    yg_gpu *gpu = gpu_device();
    yg_muon_row rows[COUNT];
    const float lr[] = {0.1f, 0.02f};
    size_t floats = TEST_OPT_GUARD;
    for (int i = 0; i < COUNT; i++) {
        rows[i] = (yg_muon_row){(int64_t)floats, sizes[i][0], sizes[i][1], i % 2};
        floats += (size_t)sizes[i][0] * (size_t)sizes[i][1] + 3;
    }
    float *values = gpu_random(floats, 8, YG_F32), *gradients = gpu_floats(values, floats), *params[WAYS], *momentum[WAYS], *have[WAYS][2];
    yg_decision *taken = test_opt_decision((yg_decision){.clip = 0.4f, .taken = 1}), *left = test_opt_decision((yg_decision){.clip = NAN});
    for (int i = 0; i < WAYS; i++) {
        params[i] = gpu_floats(values, floats);
        momentum[i] = gpu_floats(values, floats);
    }
    for (int i = 0; i < COUNT; i++) {
        yg_muon_plan *alone = yg_muon_open(gpu, &rows[i], 1, most[0]);
        yg_muon(gpu, alone, params[0], momentum[0], gradients, taken, 0.9f, lr, 2);
        yg_muon_close(gpu, alone);
    }
    for (int i = 1; i < WAYS; i++) {
        yg_muon_plan *plan = yg_muon_open(gpu, rows, COUNT, most[i]);
        CHECK(plan != NULL);
        yg_muon(gpu, plan, params[i], momentum[i], gradients, i == 3 ? left : taken, 0.9f, lr, 2);
        yg_muon_close(gpu, plan);
    }
    CHECK(yg_muon_bytes(gpu, rows, COUNT, most[2]) < (1 << 20) + 2000 && yg_muon_bytes(gpu, rows, COUNT, most[1]) > 2 << 20);
    for (int i = 0; i < WAYS; i++) {
        have[i][0] = gpu_floats_read(params[i], floats);
        have[i][1] = gpu_floats_read(momentum[i], floats);
    }
    for (int k = 0; k < 2; k++) {
        CHECK(!memcmp(have[1][k], have[0][k], floats * sizeof(float)));
        CHECK(!memcmp(have[2][k], have[0][k], floats * sizeof(float)));
        CHECK(!memcmp(have[3][k], values, floats * sizeof(float)));
        CHECK(have[1][k][0] == values[0] && have[1][k][rows[1].offset] != values[rows[1].offset]);
    }
    for (int i = 0; i < WAYS; i++) {
        yg_free(gpu, params[i]);
        yg_free(gpu, momentum[i]);
        mem_free(have[i][0]);
        mem_free(have[i][1]);
    }
    yg_free(gpu, taken);
    yg_free(gpu, left);
    yg_free(gpu, gradients);
    mem_free(values);
}

/* A device without bf16 in its tensor cores. */
static void test_gpu_muon_turing(void) {
    yg_gpu *gpu;
    char reason[256] = "";
    if (!emulate_set_capability) SKIP("only where kernels run on the host");
    gpu_device();
    emulate_set_capability(7, 5);
    CHECK_MSG(yg_open(&gpu, 0, reason, sizeof reason) == 0, "%s", reason);
    test_opt_muon(gpu, 16, 27, 0.9);
    test_opt_muon(gpu, 64, 576, 0.9); /* in one block elsewhere, but here there is less shared memory */
    test_opt_muon(gpu, 70, 150, 0.9);
    yg_close(gpu);
    emulate_set_capability(8, 6);
}

/* A matrix that is not finite makes its parameters NaN, as on the CPU; one of zeros changes nothing. */
static void test_gpu_muon_nan(void) {
    static const int sizes[][2] = {{16, 27}, {70, 90}};
    for (int i = 0; i < 4; i++) {
        const int rows = sizes[i / 2][0], columns = sizes[i / 2][1];
        const size_t count = (size_t)rows * (size_t)columns;
        float *values = mem_array(count, sizeof *values);
        if (i % 2) values[5] = NAN;
        float *params = gpu_floats(NULL, count), *momentum = gpu_floats(NULL, count), *gradients = gpu_floats(values, count);
        yg_decision *decision = test_opt_decision((yg_decision){.clip = 1, .taken = 1});
        const yg_muon_row table = {0, rows, columns, 0};
        const float lr = 0.1f;
        yg_muon_plan *plan = yg_muon_open(gpu_device(), &table, 1, 0);
        yg_muon(gpu_device(), plan, params, momentum, gradients, decision, 0.9f, &lr, 1);
        float *have = gpu_floats_read(params, count);
        for (size_t j = 0; j < count; j++) CHECK(i % 2 ? isnan(have[j]) : have[j] == 0);
        void *const device[] = {params, momentum, gradients, decision};
        yg_muon_close(gpu_device(), plan);
        for (int j = 0; j < YOLO_COUNT(device); j++) yg_free(gpu_device(), device[j]);
        mem_free(have);
        mem_free(values);
    }
}

/* ---- whole steps of a small network, as the trainer will make them */

typedef struct test_opt_net { net n; opt_state *state; float *params, *gradients, *d[TEST_OPT_BLOCKS]; yg_piece *pieces; yg_muon_plan *muon; yg_decision *decision; double *squares; } test_opt_net;

static bool test_opt_begin(test_opt_net *t, opt_kind kind) {
    yolo_error error = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;
    arena memory = {.cap = 64 << 20};
    val *yaml = NULL;
    memset(t, 0, sizeof *t);
    const opt_settings settings = {.kind = kind, .lr0 = 0.01, .lrf = 0.01, .momentum = 0.937, .weight_decay = 5e-4, .epochs = 4, .batch = 16, .nbs = 64,
                                   .batches = 5, .pictures = 80, .class_count = 4, .isa = op_isa_best()};
    bool frozen[NET_MAX_LAYERS] = {true};
    yolo_status status = path_read("tests/fixtures/net_tiny.yaml", 1 << 20, &bytes, &size, &error);
    if (status == YOLO_OK) status = yaml_parse(&memory, "net_tiny.yaml", (const char *)bytes, size, &yaml, &error);
    if (status == YOLO_OK) status = net_build(&t->n, yaml, NULL, 0, NULL, -1, false, &error);
    if (status == YOLO_OK) status = opt_create(&t->state, &t->n, &settings, frozen, &error);
    CHECK_MSG(status == YOLO_OK, "%s", error.message);
    arena_free(&memory);
    mem_free(bytes);
    return status == YOLO_OK;
}

/* Uploads all, pieces too. */
static void test_opt_upload_net(test_opt_net *t) {
    const size_t floats = (size_t)t->n.param_elements;
    const opt_state *s = t->state;
    float *const host[TEST_OPT_BLOCKS] = {t->params, t->gradients, s->ema, s->blocks[1], s->blocks[2]};
    test_opt_pieces made = {mem_array((uint64_t)s->piece_count, sizeof(yg_piece)), s->piece_count, 0};
    yg_muon_row *rows = mem_array((uint64_t)made.count, sizeof *rows);
    int count = 0;
    for (int i = 0; i < made.count; i++) {
        const opt_piece *p = &s->pieces[i];
        made.pieces[i] = (yg_piece){.offset = p->offset, .count = p->count, .group = p->group, .averaged = p->averaged};
        if (s->muon && opt_piece_is_muon(s, p)) rows[count++] = tr_gpu_muon_row(&t->n.params[p->row], p->group);
    }
    if (count) t->muon = yg_muon_open(gpu_device(), rows, count, TR_MUON_BYTES);
    mem_free(rows);
    for (int i = 0; i < TEST_OPT_BLOCKS; i++) t->d[i] = gpu_floats(host[i], floats);
    t->pieces = test_opt_upload(&made);
    t->decision = test_opt_decision((yg_decision){.scale = 1});
    t->squares = yg_alloc(gpu_device(), (size_t)made.count * sizeof(double));
    mem_free(made.pieces);
}

/* opt_step, with the pieces, blocks and numbers of t->state after it. */
static double test_opt_device_step(test_opt_net *t, yg_optimizer kind) {
    opt_state *s = t->state;
    yg_gpu *gpu = gpu_device();
    yg_rates rates[OPT_MAX_GROUPS];
    yg_decision decision;
    float muon[OPT_MAX_GROUPS];
    for (int i = 0; i < s->group_count; i++) {
        const opt_rates r = opt_rates_of(s, &s->groups[i], 1);
        rates[i] = (yg_rates){r.lr, r.decay, r.keep, r.momentum, r.beta1, r.beta2, r.root, r.grow, r.step};
        muon[i] = (float)(s->groups[i].lr * OPT_MUON_SHARE);
    }
    yg_decide(gpu, t->decision, t->d[1], t->pieces, s->piece_count, (float)OPT_CLIP, (yg_scaling){0, 0}, t->squares);
    if (t->muon) yg_muon(gpu, t->muon, t->d[0], t->d[4], t->d[1], t->decision, (float)s->momentum, muon, s->group_count);
    yg_update(gpu, kind, t->d[0], t->d[1], t->d[2], t->d[3], t->d[4], t->pieces, s->piece_count, rates, s->group_count, t->decision,
              (float)(1 - OPT_EMA_DECAY * (1 - exp(-s->updates / OPT_EMA_RAMP))));
    yg_download(gpu, &decision, t->decision, sizeof decision);
    gpu_finish();
    return sqrt(decision.squares);
}

static void test_opt_whole_step(yg_optimizer device, opt_kind kind) {
    test_opt_net t;
    if (!test_opt_begin(&t, kind)) return;
    const size_t floats = (size_t)t.n.param_elements;
    t.params = gpu_random(floats, 1, YG_F32);
    t.gradients = gpu_random(floats, 2, YG_F32);
    if (!t.state->blocks[2]) t.state->blocks[2] = mem_array(floats, sizeof(float)); /* opt_destroy knows of it only by block_count */
    opt_begin(t.state, t.params);
    float *before = mem_array(floats, sizeof *before);
    memcpy(before, t.params, floats * sizeof *before);
    opt_schedule(t.state, 0, 0);
    test_opt_upload_net(&t);
    const double norm = opt_step(t.state, t.params, t.gradients, NULL), have_norm = test_opt_device_step(&t, device);
    CHECK_NEAR(have_norm, norm, 1e-6 * norm);
    float *const want[TEST_OPT_BLOCKS] = {t.params, t.gradients, t.state->ema, t.state->blocks[1], t.state->blocks[2]};
    for (int i = 0; i < TEST_OPT_BLOCKS; i++) {
        float *have = gpu_floats_read(t.d[i], floats);
        char what[80];
        snprintf(what, sizeof what, "%s, block %d", opt_kind_name(kind), i);
        for (size_t j = 0; j < floats && (i == 0 || i == 2); j++) { /* what has been learned */
            have[j] -= before[j];
            want[i][j] -= before[j];
        }
        /* What has been learned is about 1e-3 of parameters near 1, so their rounding is 1e-4 of it; a clipped gradient and decay nearly cancel. */
        const bool learned = i == 0 || i == 2, muon = learned && kind == OPT_MUSGD;
        gpu_compare(what, have, want[i], floats, muon ? TEST_OPT_MUON : learned ? 1e-9 : 1e-12, muon ? 0.1 : learned ? 1e-3 : 1e-4);
        mem_free(have);
        yg_free(gpu_device(), t.d[i]);
    }
    yg_free(gpu_device(), t.pieces);
    yg_muon_close(gpu_device(), t.muon);
    yg_free(gpu_device(), t.decision);
    yg_free(gpu_device(), t.squares);
    if (t.state->block_count < 3) mem_free(t.state->blocks[2]);
    opt_destroy(t.state);
    mem_free(t.params);
    mem_free(t.gradients);
    mem_free(before);
    net_free(&t.n);
}

static void test_gpu_step(void) {
    for (int i = 0; i < YOLO_COUNT(test_opt_kinds); i++) test_opt_whole_step(test_opt_kinds[i].device, test_opt_kinds[i].host);
}

static void test_gpu_step_musgd(void) { test_opt_whole_step(YG_SGD, OPT_MUSGD); }

static const test_case tests_gpu_optimizer[] = {
    {"squares", "norm of the gradients, also of what is no number", test_gpu_squares},
    {"decide", "clip and scale of a step, for gradients of all sizes", test_gpu_decide},
    {"update", "two steps of every kind, all offsets, average, gradients zeroed", test_gpu_update},
    {"update_skipped", "a step that is not taken", test_gpu_update_skipped},
    {"update_refuses", "more groups than there can be", test_gpu_update_refuses},
    {"muon_small", "MuSGD's matrices that one block does", test_gpu_muon_small},
    {"muon_large", "MuSGD's matrices by launches", test_gpu_muon_large},
    {"muon_together", "many matrices in one call as each alone", test_gpu_muon_together},
    {"muon_turing", "the same on a device without bf16", test_gpu_muon_turing},
    {"muon_nan", "MuSGD of zeros and of what is no number", test_gpu_muon_nan},
    {"step", "a step of a network as opt_step makes it", test_gpu_step},
    {"step_musgd", "a step of MuSGD", test_gpu_step_musgd},
};
