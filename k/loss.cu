#if defined(K_ONLY)
#include "decode.cu" /* this part alone: what it calls of K10 */
#endif
/* ==== K11 k_loss_ d_loss_: training loss =========================================================================
   Task-aligned assignment, CIoU, distribution focal loss and BCE with soft targets, and their gradients: section 18 of yolo.c,
   formula by formula.
   1. The host knows no number of targets: grids are by their room and by anchors, and `first` is read on the device.
   2. Claims are counted by integer atomics, the largest of non-negative floats is found by atomicMax of their bits: neither
      depends on an order. Sums are of blocks first, in double, then of the blocks by their number.
   3. The lower anchor comes first among equals. One that aligns by nothing is claimed only if it is inside the target and among
      the first K_LOSS_TOPK of the picture, and what aligns better is too little.
   4. A NaN is above all numbers (its bits are) and stays one. */

enum {
    K_LOSS_TOPK = 10,
    K_LOSS_THREADS = 256,
    K_LOSS_CLAIM_THREADS = 128, /* of one target */
    K_LOSS_TILE = 128           /* anchors of a block of k_loss_classes */
};

static constexpr float K_LOSS_EPS = 1e-9f;                /* of the assigner */
static constexpr float K_LOSS_IOU_EPS = 1e-7f;            /* of CIoU */
static constexpr float K_LOSS_ASPECT = 0.40528473456935109f; /* 4 / pi^2 */

/* What the kernels pass on; arrays of an entry an anchor go picture by picture. */
struct k_loss_state {
    const yg_target *targets;
    const int *first;
    const float *scale;
    double *sums;
    float box_gain, cls_gain, dfl_gain;
    float least;                          /* narrower sides of targets are widened to it */
    int pictures;
    float *box;                           /* predicted, network pixels; 4 an anchor */
    int *claims, *target;                 /* how many targets claim the anchor; the assigned one, -1 = background */
    float *metric;                        /* of the assigned pair, then the soft target of its class */
    unsigned *top_metric, *top_overlap;   /* a target: bits of the best among its anchors */
    double *score_parts, *box_parts, *dfl_parts, *cls_parts; /* sums of blocks */
};

/* Bits that order as the numbers do; for x >= 0 or NaN. */
static __device__ __forceinline__ unsigned d_loss_bits(float x) { return x == x ? __float_as_uint(x) : 0x7fffffffu; }

/* The sum over a block, for its first thread. */
static __device__ __forceinline__ double d_loss_block_sum(double value) {
    __shared__ double of_warp[K_LOSS_THREADS / K_WARP];
    for (int flip = K_WARP / 2; flip; flip /= 2) value += __shfl_xor_sync(K_DECODE_ALL, value, flip);
    __syncthreads();
    if (threadIdx.x % K_WARP == 0) of_warp[threadIdx.x / K_WARP] = value;
    __syncthreads();
    value = 0;
    for (int i = 0; i < K_LOSS_THREADS / K_WARP && !threadIdx.x; i++) value += of_warp[i];
    return value;
}

/* Puts the block's sum where sums of blocks lie. */
static __device__ __forceinline__ void d_loss_put_sum(double *parts, double value) {
    value = d_loss_block_sum(value);
    if (!threadIdx.x) parts[(size_t)blockIdx.y * gridDim.x + blockIdx.x] = value;
}

struct d_loss_ciou { float value, overlap, wa, ha, iw, ih, cw, ch, dx, dy, inter, joined, diagonal, distance, angle, alpha; };

/* Complete IoU of prediction a and target b. As loss_ciou. */
static __device__ __forceinline__ d_loss_ciou d_loss_ciou_of(float4 a, float4 b) {
    d_loss_ciou t;
    const float wb = b.z - b.x, hb = b.w - b.y + K_LOSS_IOU_EPS;
    t.wa = a.z - a.x;
    t.ha = a.w - a.y + K_LOSS_IOU_EPS;
    t.iw = (a.z < b.z ? a.z : b.z) - (a.x > b.x ? a.x : b.x);
    t.ih = (a.w < b.w ? a.w : b.w) - (a.y > b.y ? a.y : b.y);
    t.inter = t.iw > 0 && t.ih > 0 ? t.iw * t.ih : 0;
    t.joined = t.wa * t.ha + wb * hb - t.inter + K_LOSS_IOU_EPS;
    t.cw = (a.z > b.z ? a.z : b.z) - (a.x < b.x ? a.x : b.x);
    t.ch = (a.w > b.w ? a.w : b.w) - (a.y < b.y ? a.y : b.y);
    t.diagonal = t.cw * t.cw + t.ch * t.ch + K_LOSS_IOU_EPS;
    t.dx = b.x + b.z - a.x - a.z;
    t.dy = b.y + b.w - a.y - a.w;
    t.distance = (t.dx * t.dx + t.dy * t.dy) / 4;
    t.angle = atanf(wb / hb) - atanf(t.wa / t.ha);
    t.overlap = t.inter / t.joined;
    const float aspect = K_LOSS_ASPECT * t.angle * t.angle;
    t.alpha = aspect / (1 - t.overlap + aspect + K_LOSS_IOU_EPS);
    t.value = t.overlap - (t.distance / t.diagonal + aspect * t.alpha);
    return t;
}

/* d CIoU / d one side of a, which is at `edge` there and at `wanted` in b. As loss_ciou_slope. */
static __device__ __forceinline__ float d_loss_slope(const d_loss_ciou &t, int side, float edge, float wanted) {
    const float turn = 2 * K_LOSS_ASPECT * t.angle * t.alpha / (t.wa * t.wa + t.ha * t.ha);
    const bool meet = t.iw >= 0 && t.ih >= 0, horizontal = !(side & 1), low = side < 2;
    const float sign = low ? -1.0f : 1.0f, across = horizontal ? t.ha : t.wa;
    const float inside = edge == wanted ? 0.5f : low == (edge > wanted) ? 1.0f : 0.0f;
    const float d_inter = meet ? inside * sign * (horizontal ? t.ih : t.iw) : 0;
    const float d_joined = sign * across - d_inter;
    const float d_diagonal = (1 - inside) * sign * 2 * (horizontal ? t.cw : t.ch);
    const float d_distance = -(horizontal ? t.dx : t.dy) / 2;
    return (d_inter * t.joined - t.inter * d_joined) / (t.joined * t.joined) -
           (d_distance * t.diagonal - t.distance * d_diagonal) / (t.diagonal * t.diagonal) + sign * turn * (horizontal ? t.ha : -t.wa);
}

/* ---- the assignment */

/* Predicted boxes of pictures with targets; nothing is claimed yet. Grid: (4 threads an anchor, pictures), a side a thread.
   Twin: loss_decode. */
template <typename T, bool aligned>
static __global__ void __launch_bounds__(K_LOSS_THREADS) k_loss_decode(k_decode_heads<const T> heads, k_loss_state state) {
    const int index = (int)(blockIdx.x * K_LOSS_THREADS + threadIdx.x), anchor = index / 4, side = index & 3, picture = (int)blockIdx.y;
    if (anchor >= heads.anchors) return;
    const int64_t at = (int64_t)picture * heads.anchors + anchor;
    if (!side) {
        state.claims[at] = 0;
        state.target[at] = -1;
    }
    if (state.first[picture] == state.first[picture + 1]) return;
    const d_decode_cell cell = d_decode_cell_of(heads, anchor);
    d_decode_side bins;
    d_decode_read_side<T, aligned>(&bins, d_decode_logits(heads, picture, cell) + side * YG_BINS);
    const float centre = (float)(side & 1 ? cell.y : cell.x) + 0.5f;
    state.box[at * 4 + side] = (centre + (side < 2 ? -bins.distance : bins.distance)) * cell.stride;
}

/* Where a target's anchors have their centres; false for a box left and above of the picture. As loss_reach. */
static __device__ __forceinline__ bool d_loss_reach(const k_loss_state &state, const yg_target &target, float4 *reach) {
    const float *box = target.box;
    float w = box[2] - box[0], h = box[3] - box[1];
    const float x = (box[0] + box[2]) / 2, y = (box[1] + box[3]) / 2;
    w = w < state.least ? state.least : w;
    h = h < state.least ? state.least : h;
    *reach = make_float4(x - w / 2, y - h / 2, x + w / 2, y + h / 2);
    return box[0] + box[1] + box[2] + box[3] > 0;
}

struct d_loss_pair { bool inside; float metric, overlap; };

static __device__ __forceinline__ bool d_loss_inside(float4 reach, d_decode_cell cell) {
    const float x = ((float)cell.x + 0.5f) * cell.stride, y = ((float)cell.y + 0.5f) * cell.stride;
    return x - reach.x > K_LOSS_EPS && y - reach.y > K_LOSS_EPS && reach.z - x > K_LOSS_EPS && reach.w - y > K_LOSS_EPS;
}

/* The overlap of a target and an anchor inside it. */
static __device__ __forceinline__ float d_loss_overlap(float4 predicted, const yg_target &target) {
    const float overlap = d_loss_ciou_of(make_float4(target.box[0], target.box[1], target.box[2], target.box[3]), predicted).value;
    return overlap <= 0 ? 0 : overlap;
}

/* The pair of a target and an anchor. As loss_align. */
template <typename T>
static __device__ __forceinline__ d_loss_pair d_loss_align(const k_decode_heads<const T> &heads, const k_loss_state &state, int picture,
                                                           const yg_target &target, float4 reach, int anchor, d_decode_cell cell) {
    if (!d_loss_inside(reach, cell)) return {false, 0, 0};
    const float4 predicted = reinterpret_cast<const float4 *>(state.box)[(int64_t)picture * heads.anchors + anchor];
    const float overlap = d_loss_overlap(predicted, target), cubed = overlap * overlap * overlap;
    const float logit = k_element<T>::load(d_decode_logits(heads, picture, cell)[K_DECODE_SIDES + target.class_id]);
    return {true, sqrtf(1.0f / (1.0f + expf(-logit))) * cubed * cubed, overlap};
}

struct d_loss_window { int x, y, w, cells; }; /* of a level: what a target can reach */

static __device__ __forceinline__ int d_loss_clamp(float x, int most) { return x <= 0 ? 0 : x >= (float)most ? most : (int)x; }

template <typename T> static __device__ __forceinline__ d_loss_window d_loss_window_of(const k_decode_heads<T> &heads, int level, float4 reach) {
    const int w = heads.width[level], h = (heads.first[level + 1] - heads.first[level]) / w;
    const float stride = (float)heads.stride[level];
    const int x0 = d_loss_clamp(floorf(reach.x / stride - 0.5f), w), x1 = d_loss_clamp(ceilf(reach.z / stride + 0.5f), w);
    const int y0 = d_loss_clamp(floorf(reach.y / stride - 0.5f), h), y1 = d_loss_clamp(ceilf(reach.w / stride + 0.5f), h);
    const d_loss_window window = {x0, y0, x1 - x0, (x1 - x0) * (y1 - y0)};
    return window;
}

/* The K_LOSS_TOPK largest keys of a warp whose lanes hold falling lists; lane i gets the one of rank i, 0 = there is none. */
template <int length> static __device__ __forceinline__ unsigned long long d_loss_merge(unsigned long long (&list)[length]) {
    unsigned long long mine = 0;
    for (int rank = 0; rank < K_LOSS_TOPK; rank++) {
        unsigned long long top = list[0];
        for (int flip = K_WARP / 2; flip; flip /= 2) {
            const unsigned long long other = __shfl_xor_sync(K_DECODE_ALL, top, flip);
            top = other > top ? other : top;
        }
        if (!top) break;
        if ((int)threadIdx.x % K_WARP == rank) mine = top;
        if (list[0] != top) continue;
#pragma unroll
        for (int i = 0; i < length; i++) list[i] = i + 1 < length ? list[i + 1] : 0;
    }
    return mine;
}

/* A thread's K_LOSS_TOPK best pairs of a target and the cells of its windows, as falling keys: metric, then the lower anchor. */
template <typename T>
static __device__ __forceinline__ void d_loss_scan(unsigned long long (&list)[K_LOSS_TOPK], const d_loss_window *windows, const k_decode_heads<const T> &heads,
                                                   const k_loss_state &state, int picture, const yg_target &target, float4 reach) {
    for (int i = (int)threadIdx.x;; i += K_LOSS_CLAIM_THREADS) {
        d_decode_cell cell = {0, 0, 0, i, 0};
        while (cell.level < heads.levels && cell.at >= windows[cell.level].cells) cell.at -= windows[cell.level++].cells;
        if (cell.level == heads.levels) break;
        const d_loss_window window = windows[cell.level];
        cell.y = cell.at / window.w;
        cell.x = window.x + cell.at - cell.y * window.w;
        cell.y += window.y;
        cell.at = cell.y * heads.width[cell.level] + cell.x;
        cell.stride = (float)heads.stride[cell.level];
        const int anchor = heads.first[cell.level] + cell.at;
        const d_loss_pair pair = d_loss_align(heads, state, picture, target, reach, anchor, cell);
        if (!pair.inside || (pair.metric == 0 && anchor >= K_LOSS_TOPK)) continue;
        unsigned long long key = (unsigned long long)d_loss_bits(pair.metric) << 32 | (unsigned)~anchor;
        if (key <= list[K_LOSS_TOPK - 1]) continue;
#pragma unroll
        for (int j = 0; j < K_LOSS_TOPK; j++) {
            const unsigned long long kept = list[j];
            list[j] = key > kept ? key : kept;
            key = key > kept ? kept : key;
        }
    }
}

/* The picture that owns a target. */
static __device__ __forceinline__ int d_loss_picture_of(const k_loss_state &state, int target) {
    int low = 0, high = state.pictures;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (state.first[middle] <= target) low = middle;
        else high = middle;
    }
    return low;
}

/* Each target claims its best aligned anchors. Grid: room for targets, a block a target, its threads take cells in turn; each warp
   merges its lists, the first one those of the warps. Twin: loss_candidates. */
template <typename T>
static __global__ void __launch_bounds__(K_LOSS_CLAIM_THREADS) k_loss_claim(k_decode_heads<const T> heads, k_loss_state state) {
    constexpr int warps = K_LOSS_CLAIM_THREADS / K_WARP;
    static_assert(warps * K_LOSS_TOPK <= 2 * K_WARP, "the first warp merges two keys a lane");
    __shared__ d_loss_window windows[YG_MAX_LEVELS];
    __shared__ unsigned long long keys[warps * K_LOSS_TOPK];
    const int index = (int)blockIdx.x, lane = (int)threadIdx.x % K_WARP, warp = (int)threadIdx.x / K_WARP;
    float4 reach;
    if (index >= state.first[state.pictures]) return;
    if (!threadIdx.x) state.top_metric[index] = state.top_overlap[index] = 0;
    const int picture = d_loss_picture_of(state, index);
    const yg_target target = state.targets[index];
    if (!d_loss_reach(state, target, &reach)) return;
    if ((int)threadIdx.x < heads.levels) windows[threadIdx.x] = d_loss_window_of(heads, (int)threadIdx.x, reach);
    __syncthreads();
    unsigned long long list[K_LOSS_TOPK] = {};
    d_loss_scan(list, windows, heads, state, picture, target, reach);
    __syncwarp();
    unsigned long long key = d_loss_merge(list);
    if (lane < K_LOSS_TOPK) keys[warp * K_LOSS_TOPK + lane] = key;
    __syncthreads();
    if (warp) return;
    unsigned long long pair[2] = {keys[lane], lane + K_WARP < warps * K_LOSS_TOPK ? keys[lane + K_WARP] : 0};
    if (pair[0] < pair[1]) {
        key = pair[0];
        pair[0] = pair[1];
        pair[1] = key;
    }
    key = d_loss_merge(pair);
    if (!key) return;
    const int64_t at = (int64_t)picture * heads.anchors + (int)~(unsigned)key;
    atomicAdd(&state.claims[at], 1);
    atomicMax(&state.target[at], index);
}

/* The target that an anchor overlaps most of all that contain it, the first of equals; a whole warp looks. -1: none. */
template <typename T>
static __device__ __forceinline__ int d_loss_owner(const k_decode_heads<const T> &heads, const k_loss_state &state, int picture, int anchor) {
    const d_decode_cell cell = d_decode_cell_of(heads, anchor);
    const float4 predicted = reinterpret_cast<const float4 *>(state.box)[(int64_t)picture * heads.anchors + anchor];
    unsigned long long best = 0;
    for (int i = state.first[picture] + (int)threadIdx.x % K_WARP; i < state.first[picture + 1]; i += K_WARP) {
        const yg_target target = state.targets[i];
        float4 reach;
        if (!d_loss_reach(state, target, &reach) || !d_loss_inside(reach, cell)) continue;
        const unsigned overlap = d_loss_bits(d_loss_overlap(predicted, target));
        const unsigned long long key = (unsigned long long)overlap << 32 | (unsigned)~i;
        if (overlap && key > best) best = key;
    }
    __syncwarp();
    for (int flip = K_WARP / 2; flip; flip /= 2) {
        const unsigned long long other = __shfl_xor_sync(K_DECODE_ALL, best, flip);
        best = other > best ? other : best;
    }
    return best ? (int)~(unsigned)best : -1;
}

/* An anchor that several targets claim goes to the one it overlaps most, claimed by that one or not; then each target's best
   metric and overlap. Grid: (anchors, pictures), an anchor a thread; its warp helps where several claim it.
   Twin: loss_settle, the first half of loss_score. */
template <typename T> static __global__ void __launch_bounds__(K_LOSS_THREADS) k_loss_settle(k_decode_heads<const T> heads, k_loss_state state) {
    const int anchor = (int)(blockIdx.x * K_LOSS_THREADS + threadIdx.x), picture = (int)blockIdx.y, lane = (int)threadIdx.x % K_WARP;
    const int64_t at = (int64_t)picture * heads.anchors + anchor;
    const int claims = anchor < heads.anchors ? state.claims[at] : 0;
    int target = claims ? state.target[at] : -1;
    bool overlaps = true;
    for (unsigned several = __ballot_sync(K_DECODE_ALL, claims > 1); several; several &= several - 1) {
        const int helped = __ffs((int)several) - 1, owner = d_loss_owner(heads, state, picture, anchor - lane + helped);
        if (lane != helped) continue;
        overlaps = owner >= 0;
        target = overlaps ? owner : state.first[picture];
    }
    if (target < 0) return;
    d_loss_pair pair = {false, 0, 0};
    if (overlaps) {
        const yg_target wanted = state.targets[target];
        float4 reach;
        d_loss_reach(state, wanted, &reach);
        pair = d_loss_align(heads, state, picture, wanted, reach, anchor, d_decode_cell_of(heads, anchor));
    }
    state.target[at] = target;
    state.metric[at] = pair.metric;
    atomicMax(&state.top_metric[target], d_loss_bits(pair.metric));
    atomicMax(&state.top_overlap[target], d_loss_bits(pair.overlap));
}

/* The soft target of each assigned anchor, and the blocks' sums of them. Grid: (anchors, pictures). Twin: loss_score. */
static __global__ void __launch_bounds__(K_LOSS_THREADS) k_loss_score(int anchors, k_loss_state state) {
    const int anchor = (int)(blockIdx.x * K_LOSS_THREADS + threadIdx.x);
    const int64_t at = (int64_t)blockIdx.y * anchors + anchor;
    const int target = anchor < anchors ? state.target[at] : -1;
    float score = 0;
    if (target >= 0) {
        score = state.metric[at] * __uint_as_float(state.top_overlap[target]) / (__uint_as_float(state.top_metric[target]) + K_LOSS_EPS);
        state.metric[at] = score;
    }
    d_loss_put_sum(state.score_parts, (double)score);
}

struct k_loss_total { const double *parts[3]; double *sum[3], gain[3]; int count[3]; };

/* Adds up the sums of blocks in a fixed order. Grid: a block a sum. */
static __global__ void __launch_bounds__(K_LOSS_THREADS) k_loss_add(const __grid_constant__ k_loss_total total) {
    double sum = 0;
    for (int i = (int)threadIdx.x; i < total.count[blockIdx.x]; i += K_LOSS_THREADS) sum += total.parts[blockIdx.x][i];
    sum = d_loss_block_sum(sum);
    if (!threadIdx.x) *total.sum[blockIdx.x] = sum * total.gain[blockIdx.x];
}

/* ---- losses and gradients */

/* What a loss is divided by, as a float: the sum of scores, at least 1; a NaN stays. */
static __device__ __forceinline__ float d_loss_divisor(const k_loss_state &state) {
    const double sum = state.sums[3];
    return (float)(sum < 1 ? 1.0 : sum);
}

/* The first `some` of `count` numbers. */
template <typename T, bool aligned, int count> static __device__ __forceinline__ void d_loss_store(T *to, const float (&from)[count], int some) {
    constexpr int step = 16 / (int)sizeof(T);
    static_assert(count % step == 0, "whole vectors");
    if (aligned && some >= count) {
#pragma unroll
        for (int i = 0; i < count; i += step) {
            uint4 vector;
            T part[step];
#pragma unroll
            for (int j = 0; j < step; j++) part[j] = k_element<T>::store(from[i + j]);
            memcpy(&vector, part, sizeof vector);
            *reinterpret_cast<uint4 *>(to + i) = vector;
        }
    } else {
#pragma unroll
        for (int i = 0; i < count; i++)
            if (i < some) to[i] = k_element<T>::store(from[i]);
    }
}

/* Box and DFL terms of one side of an assigned anchor, and the gradient of its logits, by a thread of a quad; a whole warp comes
   here, with target = -1 where nothing is assigned. As loss_box. */
template <typename T, bool aligned>
static __device__ __forceinline__ void d_loss_side(float (&d)[YG_BINS], double *box_sum, double *dfl_sum, const k_loss_state &state, int target,
                                                   float score, const T *logits, d_decode_cell cell, float loss_scale) {
    const int side = (int)threadIdx.x & 3;
    const float centre_x = (float)cell.x + 0.5f, centre_y = (float)cell.y + 0.5f, centre = side & 1 ? centre_y : centre_x;
    d_decode_side bins;
    bins.distance = 0;
    if (target >= 0) d_decode_read_side<T, aligned>(&bins, logits);
    float4 box;
    box.x = centre_x - __shfl_sync(K_DECODE_ALL, bins.distance, 0, 4);
    box.y = centre_y - __shfl_sync(K_DECODE_ALL, bins.distance, 1, 4);
    box.z = centre_x + __shfl_sync(K_DECODE_ALL, bins.distance, 2, 4);
    box.w = centre_y + __shfl_sync(K_DECODE_ALL, bins.distance, 3, 4);
    if (target < 0) return;
    const float *pixels = state.targets[target].box;
    const float4 aim = make_float4(pixels[0] / cell.stride, pixels[1] / cell.stride, pixels[2] / cell.stride, pixels[3] / cell.stride);
    const float edge = side < 2 ? centre - bins.distance : centre + bins.distance, aim_edge = pixels[side] / cell.stride;
    const d_loss_ciou ciou = d_loss_ciou_of(box, aim);
    const float scale = score / d_loss_divisor(state) * (float)state.pictures, focal = scale * state.dfl_gain / 4;
    float wanted = side < 2 ? centre - aim_edge : aim_edge - centre;
    wanted = wanted > 0 ? wanted : 0;
    wanted = wanted < YG_BINS - 1 - 0.01f ? wanted : YG_BINS - 1 - 0.01f;
    const int left = (int)wanted;
    const float right_share = wanted - (float)left, left_share = 1 - right_share, log_sum = bins.highest + logf(bins.sum);
    const float left_loss = log_sum - k_element<T>::load(logits[left]), right_loss = log_sum - k_element<T>::load(logits[left + 1]);
    if (!side) *box_sum = (double)((1 - ciou.value) * score);
    *dfl_sum = (double)((left_loss * left_share + right_loss * right_share) / 4 * score);
    const float slope = d_loss_slope(ciou, side, edge, aim_edge), pull = (side < 2 ? slope : -slope) * scale * state.box_gain;
#pragma unroll
    for (int i = 0; i < YG_BINS; i++) {
        d[i] = bins.share[i] / bins.sum * (pull * ((float)i - bins.distance) + focal);
        d[i] = (d[i] - (i == left ? focal * left_share : i == left + 1 ? focal * right_share : 0)) * loss_scale;
    }
}

/* Box and DFL losses and the gradients of box logits, zeros for the background. Grid: (4 threads an anchor, pictures), a side a
   thread. Twin: loss_box. */
template <typename T, bool aligned>
static __global__ void __launch_bounds__(K_LOSS_THREADS, 3) k_loss_boxes(k_decode_heads<const T> heads, k_decode_heads<T> gradients, k_loss_state state) {
    const int index = (int)(blockIdx.x * K_LOSS_THREADS + threadIdx.x), side = index & 3, picture = (int)blockIdx.y;
    const bool inside = index / 4 < heads.anchors;
    const int anchor = inside ? index / 4 : 0;
    const int64_t at = (int64_t)picture * heads.anchors + anchor;
    const int target = inside ? state.target[at] : -1;
    const d_decode_cell cell = d_decode_cell_of(heads, anchor);
    float d[YG_BINS] = {};
    double box = 0, dfl = 0;
    if (__any_sync(K_DECODE_ALL, target >= 0))
        d_loss_side<T, aligned>(d, &box, &dfl, state, target, target >= 0 ? state.metric[at] : 0, d_decode_logits(heads, picture, cell) + side * YG_BINS, cell,
                                state.scale ? *state.scale : 1);
    if (inside && gradients.data[0]) d_loss_store<T, aligned>(d_decode_logits(gradients, picture, cell) + side * YG_BINS, d, YG_BINS);
    d_loss_put_sum(state.box_parts, box);
    d_loss_put_sum(state.dfl_parts, dfl);
}

/* BCE of a class logit against zero, rounded where torch rounds: a background that is sure costs 0. *sigmoid: of it.
   log(1 + e) is e times a polynomial, to one unit in the last place. */
static __device__ __forceinline__ float d_loss_absent(float x, float *sigmoid) {
    const float e = expf(-fabsf(x)), share = __fdividef(1.0f, 1.0f + e);
    float p = -0.00317605701f;
    p = p * e + 0.0195425265f;
    p = p * e - 0.0563736111f;
    p = p * e + 0.105436236f;
    p = p * e - 0.152696669f;
    p = p * e + 0.196632743f;
    p = p * e - 0.249516159f;
    p = p * e + 0.333297104f;
    p = p * e - 0.499998927f;
    p = p * e + 1.0f;
    *sigmoid = x >= 0 ? share : e * share;
    return x - (0.5f * (x - fabsf(x)) - p * e);
}

/* Class losses and gradients of every anchor. Grid: (tiles of K_LOSS_TILE anchors, pictures); a row of threads covers an anchor's
   classes by vectors, rows take anchors in turn. Sums: a vector in float, the rest in double. Twin: loss_absent, loss_picture. */
template <typename T, bool aligned>
static __global__ void __launch_bounds__(K_LOSS_THREADS, 4) k_loss_classes(k_decode_heads<const T> heads, k_decode_heads<T> gradients, k_loss_state state) {
    constexpr int step = 16 / (int)sizeof(T);
    const int vectors = (heads.classes + step - 1) / step, columns = vectors < K_LOSS_THREADS ? vectors : K_LOSS_THREADS, rows = K_LOSS_THREADS / columns;
    const int row = (int)threadIdx.x / columns, column = (int)threadIdx.x - row * columns, picture = (int)blockIdx.y;
    const int begin = (int)blockIdx.x * K_LOSS_TILE, end = begin + K_LOSS_TILE < heads.anchors ? begin + K_LOSS_TILE : heads.anchors;
    const float scale = state.cls_gain / d_loss_divisor(state) * (float)state.pictures, loss_scale = state.scale ? *state.scale : 1;
    double total = 0;
    for (int anchor = row < rows ? begin + row : end; anchor < end; anchor += rows) {
        const int64_t at = (int64_t)picture * heads.anchors + anchor;
        const int target = state.target[at], class_id = target >= 0 ? state.targets[target].class_id : -1;
        const float score = target >= 0 ? state.metric[at] : 0;
        const d_decode_cell cell = d_decode_cell_of(heads, anchor);
        const T *logits = d_decode_logits(heads, picture, cell) + K_DECODE_SIDES;
        T *gradient = gradients.data[0] ? d_decode_logits(gradients, picture, cell) + K_DECODE_SIDES : NULL;
        for (int c = column * step; c < heads.classes; c += columns * step) {
            float x[step], sum = 0;
            const int some = heads.classes - c;
            d_decode_load<T, aligned>(x, logits + c, some);
#pragma unroll
            for (int i = 0; i < step; i++) {
                float sigmoid, loss = d_loss_absent(x[i], &sigmoid);
                sum += i < some ? loss : 0;
                x[i] = (sigmoid * scale - (c + i == class_id ? score * scale : 0)) * loss_scale;
            }
            total += (double)sum;
            if (class_id >= c && class_id < c + step) total -= (double)(k_element<T>::load(logits[class_id]) * score);
            if (gradient) d_loss_store<T, aligned>(gradient + c, x, some);
        }
    }
    d_loss_put_sum(state.cls_parts, total);
}

/* ---- the call */

/* The next piece of a workspace, 256-byte aligned; NULL while sizes are counted. */
template <typename T> static T *k_loss_take(void *workspace, size_t *used, size_t count) {
    T *piece = workspace ? reinterpret_cast<T *>(static_cast<uint8_t *>(workspace) + *used) : NULL;
    *used += (count * sizeof(T) + 255) / 256 * 256;
    return piece;
}

struct k_loss_grids { unsigned quads, anchors, tiles; }; /* blocks of a picture */

static k_loss_grids k_loss_grids_of(int anchors) {
    const k_loss_grids grids = {(unsigned)k_ceil_div((int64_t)anchors * 4, K_LOSS_THREADS), (unsigned)k_ceil_div(anchors, K_LOSS_THREADS),
                                (unsigned)k_ceil_div(anchors, K_LOSS_TILE)};
    return grids;
}

/* Divides the workspace; its size. */
static size_t k_loss_lay_out(const yg_loss *loss, void *workspace, k_loss_state *state) {
    size_t used = 0, anchors = 0, pictures = (size_t)loss->heads[0].n, targets = (size_t)loss->most_targets;
    for (int l = 0; l < loss->levels; l++) anchors += (size_t)loss->heads[l].h * (size_t)loss->heads[l].w;
    const k_loss_grids grids = k_loss_grids_of((int)anchors);
    state->box = k_loss_take<float>(workspace, &used, pictures * anchors * 4);
    state->claims = k_loss_take<int>(workspace, &used, pictures * anchors);
    state->target = k_loss_take<int>(workspace, &used, pictures * anchors);
    state->metric = k_loss_take<float>(workspace, &used, pictures * anchors);
    state->top_metric = k_loss_take<unsigned>(workspace, &used, targets);
    state->top_overlap = k_loss_take<unsigned>(workspace, &used, targets);
    state->score_parts = k_loss_take<double>(workspace, &used, pictures * grids.anchors);
    state->box_parts = k_loss_take<double>(workspace, &used, pictures * grids.quads);
    state->dfl_parts = k_loss_take<double>(workspace, &used, pictures * grids.quads);
    state->cls_parts = k_loss_take<double>(workspace, &used, pictures * grids.tiles);
    return used;
}

template <typename T, bool aligned> static void k_loss_run(yg_gpu *gpu, const yg_loss *loss, const k_loss_state &state) {
    const bool wanted = loss->gradients[0].data != NULL;
    const k_decode_heads<const T> heads = k_decode_view<const T>(loss->heads, loss->strides, loss->levels, loss->class_count);
    const k_decode_heads<T> gradients = k_decode_view<T>(loss->gradients, loss->strides, wanted ? loss->levels : 0, loss->class_count);
    const k_loss_grids grids = k_loss_grids_of(heads.anchors);
    const unsigned n = (unsigned)state.pictures;
    const int pictures = state.pictures;
    const k_loss_total score = {{state.score_parts}, {state.sums + 3}, {1}, {pictures * (int)grids.anchors}};
    const k_loss_total losses = {{state.box_parts, state.cls_parts, state.dfl_parts},
                                 {state.sums, state.sums + 1, state.sums + 2},
                                 {(double)loss->box, (double)loss->cls, (double)loss->dfl},
                                 {pictures * (int)grids.quads, pictures * (int)grids.tiles, pictures * (int)grids.quads}};
    K_LAUNCH((k_loss_decode<T, aligned>), dim3(grids.quads, n), K_LOSS_THREADS, 0, gpu->stream, heads, state);
    if (loss->most_targets > 0) {
        K_LAUNCH((k_loss_claim<T>), (unsigned)loss->most_targets, K_LOSS_CLAIM_THREADS, 0, gpu->stream, heads, state);
        K_LAUNCH((k_loss_settle<T>), dim3(grids.anchors, n), K_LOSS_THREADS, 0, gpu->stream, heads, state);
    }
    K_LAUNCH(k_loss_score, dim3(grids.anchors, n), K_LOSS_THREADS, 0, gpu->stream, heads.anchors, state);
    K_LAUNCH(k_loss_add, 1, K_LOSS_THREADS, 0, gpu->stream, score);
    K_LAUNCH((k_loss_boxes<T, aligned>), dim3(grids.quads, n), K_LOSS_THREADS, 0, gpu->stream, heads, gradients, state);
    K_LAUNCH((k_loss_classes<T, aligned>), dim3(grids.tiles, n), K_LOSS_THREADS, 0, gpu->stream, heads, gradients, state);
    K_LAUNCH(k_loss_add, 3, K_LOSS_THREADS, 0, gpu->stream, losses);
}

template <typename T> static void k_loss(yg_gpu *gpu, const yg_loss *loss, const k_loss_state &state) {
    const bool wanted = loss->gradients[0].data != NULL;
    const bool aligned = k_decode_is_aligned(loss->heads, loss->levels) && (!wanted || k_decode_is_aligned(loss->gradients, loss->levels));
    if (aligned) k_loss_run<T, true>(gpu, loss, state);
    else k_loss_run<T, false>(gpu, loss, state);
}

size_t yg_loss_bytes(const yg_loss *loss) {
    k_loss_state state;
    return k_loss_lay_out(loss, NULL, &state);
}

void yg_loss_detect(yg_gpu *gpu, const yg_loss *loss) {
    if (gpu->error || !k_decode_check(gpu, "loss", loss->heads, loss->levels, loss->class_count)) return;
    if (loss->gradients[0].data && !k_decode_check(gpu, "gradients of the loss", loss->gradients, loss->levels, loss->class_count)) return;
    k_loss_state state = {};
    state.targets = loss->targets;
    state.first = loss->first;
    state.scale = loss->scale;
    state.sums = loss->sums;
    state.box_gain = loss->box;
    state.cls_gain = loss->cls;
    state.dfl_gain = loss->dfl;
    state.least = (float)loss->strides[loss->levels > 1 ? 1 : 0];
    state.pictures = loss->heads[0].n;
    k_loss_lay_out(loss, loss->workspace, &state);
    K_BY_TYPE(loss->heads[0].type, k_loss, gpu, loss, state);
    k_launched(gpu, "loss");
}
