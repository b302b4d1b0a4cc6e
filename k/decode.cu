/* ==== K10 k_decode_ d_decode_: boxes from the raw heads ===========================================================
   An anchor is a pixel of a head: YG_BINS logits for each side of a box, then a logit a class. The anchors of a picture are
   numbered level by level, row by row.
   1. Four neighbouring threads, a quad, work on an anchor: a side each, and every fourth group of its classes.
   2. Candidates are counted block by block first and then written behind those of the blocks before: their order is that of
      anchors and classes without a sort or an atomic.
   3. NaN never survives: every test is written so that it fails.
   4. What reads heads (d_decode_load, d_decode_cell_of, d_decode_read_side) serves the loss too. */

enum {
    K_DECODE_SIDES = 4 * YG_BINS,
    K_DECODE_THREADS = 256,
    K_DECODE_TILE = K_DECODE_THREADS / 4, /* anchors that a block has in hand at a time */
    K_DECODE_BLOCKS = 1024                /* most blocks of a picture; larger pictures give each of them more tiles */
};

static constexpr unsigned K_DECODE_ALL = 0xffffffff; /* the lanes of a warp */

template <typename T> struct k_decode_heads {
    T *data[YG_MAX_LEVELS];
    int64_t pixel[YG_MAX_LEVELS];
    int width[YG_MAX_LEVELS], stride[YG_MAX_LEVELS];
    int first[YG_MAX_LEVELS + 1]; /* anchors before a level; all of them behind the last */
    int levels, anchors, classes;
};

template <typename T> static k_decode_heads<T> k_decode_view(const yg_ten *heads, const int *strides, int levels, int classes) {
    k_decode_heads<T> view = {};
    for (int l = 0; l < levels; l++) {
        view.data[l] = static_cast<T *>(heads[l].data);
        view.pixel[l] = heads[l].pixel;
        view.width[l] = heads[l].w;
        view.stride[l] = strides[l];
        view.first[l] = view.anchors;
        view.anchors += heads[l].h * heads[l].w;
    }
    for (int l = levels; l <= YG_MAX_LEVELS; l++) view.first[l] = view.anchors;
    view.levels = levels;
    view.classes = classes;
    return view;
}

/* May 16 bytes be moved at a time, from the first channel on? */
static bool k_decode_is_aligned(const yg_ten *heads, int levels) {
    for (int l = 0; l < levels; l++)
        if (((uintptr_t)heads[l].data & 15) || heads[l].pixel % (16 / (int64_t)k_type_size(heads[l].type))) return false;
    return true;
}

/* Are these the heads of one network? */
static bool k_decode_check(yg_gpu *gpu, const char *what, const yg_ten *heads, int levels, int classes) {
    int64_t anchors = 0;
    bool good = levels >= 1 && levels <= YG_MAX_LEVELS && classes >= 1 && heads[0].n <= 65535;
    for (int l = 0; good && l < levels; l++) {
        anchors += (int64_t)heads[l].h * heads[l].w;
        good = heads[l].c == K_DECODE_SIDES + classes && heads[l].n == heads[0].n && heads[l].type == heads[0].type && anchors < 1 << 28;
    }
    if (!good) k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: %s: %d heads that do not belong together", gpu->index, what, levels);
    return good;
}

/* The first `some` of `count` elements; those behind are lower than all others. */
template <typename T, bool aligned, int count> static __device__ __forceinline__ void d_decode_load(float (&to)[count], const T *from, int some) {
    constexpr int step = 16 / (int)sizeof(T);
    static_assert(count % step == 0, "whole vectors");
    if (aligned && some >= count) {
#pragma unroll
        for (int i = 0; i < count; i += step) {
            const uint4 vector = *reinterpret_cast<const uint4 *>(from + i);
            T part[step];
            memcpy(part, &vector, sizeof vector);
#pragma unroll
            for (int j = 0; j < step; j++) to[i + j] = k_element<T>::load(part[j]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < count; i++) to[i] = i < some ? k_element<T>::load(from[i]) : -INFINITY;
    }
}

struct d_decode_cell { int level, x, y, at; float stride; }; /* at: the anchor's number in its level */

template <typename T> static __device__ __forceinline__ d_decode_cell d_decode_cell_of(const k_decode_heads<T> &heads, int anchor) {
    d_decode_cell cell;
    cell.level = 0;
#pragma unroll
    for (int l = 1; l < YG_MAX_LEVELS; l++) cell.level += anchor >= heads.first[l];
    cell.at = anchor - heads.first[cell.level];
    cell.y = cell.at / heads.width[cell.level];
    cell.x = cell.at - cell.y * heads.width[cell.level];
    cell.stride = (float)heads.stride[cell.level];
    return cell;
}

template <typename T> static __device__ __forceinline__ T *d_decode_logits(const k_decode_heads<T> &heads, int picture, d_decode_cell cell) {
    const int64_t cells = heads.first[cell.level + 1] - heads.first[cell.level];
    return heads.data[cell.level] + (picture * cells + cell.at) * heads.pixel[cell.level];
}

struct d_decode_side { float share[YG_BINS], sum, highest, distance; }; /* share: exp(logit - highest), not yet divided by sum */

/* The distribution of one side; distance is its expected value, in cells. As loss_read_bins and det_distance. */
template <typename T, bool aligned> static __device__ __forceinline__ void d_decode_read_side(d_decode_side *side, const T *logits) {
    float weighted = 0;
    d_decode_load<T, aligned>(side->share, logits, YG_BINS);
    side->highest = side->share[0];
#pragma unroll
    for (int i = 1; i < YG_BINS; i++) side->highest = side->highest > side->share[i] ? side->highest : side->share[i];
    side->sum = 0;
#pragma unroll
    for (int i = 0; i < YG_BINS; i++) {
        side->share[i] = expf(side->share[i] - side->highest);
        side->sum += side->share[i];
        weighted += side->share[i] * (float)i;
    }
    side->distance = weighted / side->sum;
}

struct k_decode_job {
    float conf, threshold; /* of scores; of logits, a little low */
    bool multi_label;
    const uint8_t *wanted;
    int most, tiles;       /* tiles of a block */
    int *found;            /* candidates of each block, picture by picture */
    int *counts;
    yg_candidate *candidates;
};

/* What an anchor gives: so many candidates, and the best class when only that is asked for. The same in a quad's threads. */
struct d_decode_anchor { int count, class_id; float score; float4 corners; };

/* The score of a class's logit, or -1 where it is not above conf. */
static __device__ __forceinline__ float d_decode_score(const k_decode_job &job, float logit) {
    if (!(logit > job.threshold)) return -1;
    const float score = 1.0f / (1.0f + expf(-logit));
    return score > job.conf ? score : -1;
}

static __device__ __forceinline__ bool d_decode_wanted(const k_decode_job &job, int class_id) { return !job.wanted || job.wanted[class_id]; }

/* Counts candidates and finds the best class of an anchor; classes == NULL: no anchor. */
template <typename T, bool aligned>
static __device__ __forceinline__ void d_decode_classes(d_decode_anchor *anchor, const k_decode_job &job, const T *classes, int class_count) {
    constexpr int step = 16 / (int)sizeof(T);
    const int quad_lane = threadIdx.x & 3;
    int count = 0, best_class = -1;
    float best = -1;
    for (int c = quad_lane * step; classes && c < class_count; c += 4 * step) {
        float logits[step];
        d_decode_load<T, aligned>(logits, classes + c, class_count - c);
#pragma unroll
        for (int i = 0; i < step; i++) {
            const float score = d_decode_score(job, logits[i]);
            if (score < 0) continue;
            if (job.multi_label) count += d_decode_wanted(job, c + i);
            else if (score > best) {
                best = score;
                best_class = c + i;
            }
        }
    }
#pragma unroll
    for (int flip = 1; flip < 4; flip *= 2) {
        const float score = __shfl_xor_sync(K_DECODE_ALL, best, flip);
        const int class_id = __shfl_xor_sync(K_DECODE_ALL, best_class, flip);
        count += __shfl_xor_sync(K_DECODE_ALL, count, flip);
        if (score > best || (score == best && class_id < best_class)) {
            best = score;
            best_class = class_id;
        }
    }
    anchor->count = job.multi_label ? count : best_class >= 0 && d_decode_wanted(job, best_class);
    anchor->class_id = best_class;
    anchor->score = best;
}

/* The corners of an anchor with candidates; one whose box is not finite has none. As det_centre_size and det_anchor. */
template <typename T, bool aligned>
static __device__ __forceinline__ void d_decode_corners(d_decode_anchor *anchor, const T *logits, d_decode_cell cell) {
    d_decode_side side;
    side.distance = 0;
    if (anchor->count) d_decode_read_side<T, aligned>(&side, logits + (threadIdx.x & 3) * YG_BINS);
    const float centre_x = (float)cell.x + 0.5f, centre_y = (float)cell.y + 0.5f;
    const float x1 = centre_x - __shfl_sync(K_DECODE_ALL, side.distance, 0, 4), y1 = centre_y - __shfl_sync(K_DECODE_ALL, side.distance, 1, 4);
    const float x2 = centre_x + __shfl_sync(K_DECODE_ALL, side.distance, 2, 4), y2 = centre_y + __shfl_sync(K_DECODE_ALL, side.distance, 3, 4);
    const float x = (x1 + x2) / 2 * cell.stride, y = (y1 + y2) / 2 * cell.stride;
    const float w = (x2 - x1) * cell.stride / 2, h = (y2 - y1) * cell.stride / 2;
    anchor->corners = make_float4(x - w, y - h, x + w, y + h);
    if (!(isfinite(x - w) && isfinite(y - h) && isfinite(x + w) && isfinite(y + h))) anchor->count = 0;
}

/* What the anchor of this thread's quad gives; all threads of a warp come here together. */
template <typename T, bool aligned>
static __device__ __forceinline__ const T *d_decode_look(d_decode_anchor *anchor, const k_decode_heads<const T> &heads, const k_decode_job &job, int index) {
    const bool inside = index < heads.anchors;
    const d_decode_cell cell = d_decode_cell_of(heads, inside ? index : 0);
    const T *logits = d_decode_logits(heads, (int)blockIdx.y, cell), *classes = logits + K_DECODE_SIDES;
    d_decode_classes<T, aligned>(anchor, job, inside ? classes : NULL, heads.classes);
    if (__any_sync(K_DECODE_ALL, anchor->count)) d_decode_corners<T, aligned>(anchor, logits, cell);
    return classes;
}

/* The sum of `value` over the threads before this one; *total: over all. */
static __device__ __forceinline__ int d_decode_scan(int value, int *total) {
    __shared__ int of_warp[K_DECODE_THREADS / K_WARP];
    const int lane = threadIdx.x % K_WARP, warp = threadIdx.x / K_WARP;
    int sum = value, before = 0, all = 0;
    for (int up = 1; up < K_WARP; up *= 2) {
        const int other = __shfl_up_sync(K_DECODE_ALL, sum, up);
        if (lane >= up) sum += other;
    }
    __syncthreads();
    if (lane == K_WARP - 1) of_warp[warp] = sum;
    __syncthreads();
    for (int i = 0; i < K_DECODE_THREADS / K_WARP; i++) {
        before += i < warp ? of_warp[i] : 0;
        all += of_warp[i];
    }
    *total = all;
    return before + sum - value;
}

/* Counts the candidates of each block. Grid: (blocks of a picture, pictures), a quad an anchor; integers, so any order. */
template <typename T, bool aligned>
static __global__ void __launch_bounds__(K_DECODE_THREADS, 4) k_decode_count(k_decode_heads<const T> heads, k_decode_job job) {
    int count = 0, total;
    for (int tile = 0; tile < job.tiles; tile++) {
        d_decode_anchor anchor = {};
        const int index = ((int)blockIdx.x * job.tiles + tile) * K_DECODE_TILE + (int)threadIdx.x / 4;
        d_decode_look<T, aligned>(&anchor, heads, job, index);
        count += threadIdx.x & 3 ? 0 : anchor.count;
    }
    d_decode_scan(count, &total);
    if (!threadIdx.x) job.found[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

static __device__ __forceinline__ void d_decode_put(const k_decode_job &job, const d_decode_anchor &anchor, int at, int class_id, float score) {
    const yg_candidate candidate = {anchor.corners.x, anchor.corners.y, anchor.corners.z, anchor.corners.w, score, class_id, at};
    if (at < job.most) job.candidates[(int64_t)blockIdx.y * job.most + at] = candidate;
}

/* Writes a candidate for each class of an anchor above conf, from place `at` on; all threads of a warp come here together. */
template <typename T, bool aligned>
static __device__ __forceinline__ void d_decode_put_classes(const k_decode_job &job, const d_decode_anchor &anchor, const T *classes, int class_count, int at) {
    constexpr int step = 16 / (int)sizeof(T);
    const int quad_lane = threadIdx.x & 3;
    for (int round = 0; round < class_count; round += 4 * step) {
        const int c = round + quad_lane * step;
        float scores[step];
        int count = 0, before = 0;
        d_decode_load<T, aligned>(scores, classes + c, anchor.count ? class_count - c : 0);
#pragma unroll
        for (int i = 0; i < step; i++) {
            scores[i] = d_decode_score(job, scores[i]);
            if (scores[i] >= 0 && !d_decode_wanted(job, c + i)) scores[i] = -1;
            count += scores[i] >= 0;
        }
        for (int i = 0; i < 4; i++) {
            const int other = __shfl_sync(K_DECODE_ALL, count, i, 4);
            before += i < quad_lane ? other : 0;
        }
        const int all = __shfl_sync(K_DECODE_ALL, before + count, 3, 4);
        before += at;
#pragma unroll
        for (int i = 0; i < step; i++)
            if (scores[i] >= 0) d_decode_put(job, anchor, before++, c + i, scores[i]);
        at += all;
    }
}

/* Writes what k_decode_count counted, by the same grid and the same arithmetic; blocks that found nothing are done at once.
   Twin: det_run before nms_run. */
template <typename T, bool aligned>
static __global__ void __launch_bounds__(K_DECODE_THREADS, 4) k_decode_write(k_decode_heads<const T> heads, k_decode_job job) {
    const int *found = job.found + blockIdx.y * gridDim.x;
    const int own = found[blockIdx.x];
    int before = 0, at;
    for (int i = (int)threadIdx.x; i < (int)blockIdx.x; i += K_DECODE_THREADS) before += found[i];
    d_decode_scan(before, &at);
    if (!threadIdx.x && blockIdx.x + 1 == gridDim.x) job.counts[blockIdx.y] = at + own;
    if (!own || at >= job.most) return;
    for (int tile = 0; tile < job.tiles; tile++) {
        d_decode_anchor anchor = {};
        const int index = ((int)blockIdx.x * job.tiles + tile) * K_DECODE_TILE + (int)threadIdx.x / 4;
        const T *classes = d_decode_look<T, aligned>(&anchor, heads, job, index);
        int total, place = d_decode_scan(threadIdx.x & 3 ? 0 : anchor.count, &total);
        place = at + __shfl_sync(K_DECODE_ALL, place, 0, 4);
        at += total;
        if (!__any_sync(K_DECODE_ALL, anchor.count)) continue;
        if (job.multi_label) d_decode_put_classes<T, aligned>(job, anchor, classes, heads.classes, place);
        else if (anchor.count && !(threadIdx.x & 3)) d_decode_put(job, anchor, place, anchor.class_id, anchor.score);
    }
}

/* Blocks of a picture. */
static int k_decode_blocks(int anchors, int *tiles) {
    const int all = (int)k_ceil_div(anchors, K_DECODE_TILE);
    *tiles = (int)k_ceil_div(all, K_DECODE_BLOCKS);
    return (int)k_ceil_div(all, *tiles);
}

template <typename T, bool aligned> static void k_decode_run(yg_gpu *gpu, const k_decode_heads<const T> &heads, const k_decode_job &job, dim3 grid) {
    K_LAUNCH((k_decode_count<T, aligned>), grid, K_DECODE_THREADS, 0, gpu->stream, heads, job);
    K_LAUNCH((k_decode_write<T, aligned>), grid, K_DECODE_THREADS, 0, gpu->stream, heads, job);
}

template <typename T> static void k_decode(yg_gpu *gpu, const yg_ten *heads, const int *strides, int levels, int class_count, k_decode_job job) {
    const k_decode_heads<const T> view = k_decode_view<const T>(heads, strides, levels, class_count);
    const int blocks = k_decode_blocks(view.anchors, &job.tiles);
    const dim3 grid((unsigned)blocks, (unsigned)heads[0].n);
    if (k_decode_is_aligned(heads, levels)) k_decode_run<T, true>(gpu, view, job, grid);
    else k_decode_run<T, false>(gpu, view, job, grid);
}

void yg_decode(yg_gpu *gpu, yg_candidate *candidates, int *counts, const yg_ten *heads, const int *strides, int levels, int class_count,
               float conf, bool multi_label, const uint8_t *wanted, int most, void *workspace) {
    if (gpu->error || !k_decode_check(gpu, "decoding", heads, levels, class_count)) return;
    const float threshold = logf(conf / (1 - conf)) - 1e-3f; /* as in det_run: conf 0 and 1 give infinities, which are right */
    const k_decode_job job = {conf, threshold, multi_label && class_count > 1, wanted, most, 0, static_cast<int *>(workspace), counts, candidates};
    K_BY_TYPE(heads[0].type, k_decode, gpu, heads, strides, levels, class_count, job);
    k_launched(gpu, "decoding");
}

size_t yg_decode_bytes(const yg_ten *heads, int levels, int class_count) {
    int tiles, anchors = 0;
    (void)class_count;
    for (int l = 0; l < levels; l++) anchors += heads[l].h * heads[l].w;
    return (size_t)heads[0].n * (size_t)k_decode_blocks(anchors, &tiles) * sizeof(int);
}
