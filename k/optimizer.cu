/* ==== K12 k_opt_ d_opt_ k_muon_ d_muon_ yg_: optimizers and moving average =========================================
   Twins of section 19 of yolo.c, over the same blocks of floats and the same pieces.
   1. Rows of the parameter table lie one behind the other, so a piece may begin at any float. The blocks themselves begin
      alike, so all of them reach a boundary of 16 bytes at the same element: up to three elements before it and behind the
      last whole vector are done one by one.
   2. Sums of squares are made in double, each thread's in order, then by a tree of fixed shape: the same bits always, and what is
      no number comes through.
   3. MuSGD's matrices are bf16 with sums in float, the shorter side first, padded with zeros that every product keeps. A matrix
      whose products fit into shared memory is one block's work; others take a launch a product. */

enum { K_OPT_THREADS = 256, K_OPT_PARTS = 4 /* blocks that share a piece of yg_update */, K_OPT_GROUPS = 8 };
#define K_OPT_EPS 1e-8f /* OPT_EPS */

/* The sum of the block's values, there for every thread; a multiple of 32 threads, at most 1024. */
static __device__ __forceinline__ double d_opt_block_sum(double value) {
    __shared__ double sums[K_WARP];
    const int lane = threadIdx.x % K_WARP, warp = threadIdx.x / K_WARP, warps = blockDim.x / K_WARP;
    for (int step = K_WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    if (lane == 0) sums[warp] = value;
    __syncthreads();
    double total = 0;
    for (int i = 0; i < warps; i++) total += sums[i];
    return total;
}

/* Of `count` floats: those before the first whole vector; all of them where there is none. */
static __device__ __forceinline__ int d_opt_head(const float *first, int count) {
    const int head = (int)((16 - ((uintptr_t)first & 15)) & 15) / 4;
    return head < count ? head : count;
}

/* A block a piece; thread t sums vectors t, t + 256, ... and then at most one of the loose elements. Twin: opt_measure_piece. */
static __global__ void __launch_bounds__(K_OPT_THREADS) k_opt_squares(double *sums, const float *gradients, const yg_piece *pieces) {
    const yg_piece piece = pieces[blockIdx.x];
    const float *g = gradients + piece.offset;
    double squares = 0;
    if (piece.group >= 0) {
        const int head = d_opt_head(g, piece.count), vectors = (piece.count - head) / 4;
        const float4 *wide = reinterpret_cast<const float4 *>(g + head);
        for (int i = threadIdx.x; i < vectors; i += K_OPT_THREADS) {
            const float4 v = wide[i];
            squares += (double)v.x * (double)v.x + (double)v.y * (double)v.y + ((double)v.z * (double)v.z + (double)v.w * (double)v.w);
        }
        for (int i = threadIdx.x; i < piece.count - 4 * vectors; i += K_OPT_THREADS) {
            const double x = g[i < head ? i : i + 4 * vectors];
            squares += x * x;
        }
    }
    squares = d_opt_block_sum(squares);
    if (threadIdx.x == 0) sums[blockIdx.x] = squares;
}

/* One block; thread t adds sums t, t + 1024, ... */
static __global__ void __launch_bounds__(1024) k_opt_total(double *total, const double *sums, int count) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += 1024) sum += sums[i];
    sum = d_opt_block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}

void yg_gradient_squares(yg_gpu *gpu, double *squares, const float *gradients, const yg_piece *pieces, int count, double *workspace) {
    if (gpu->error) return;
    if (count > 0) K_LAUNCH(k_opt_squares, count, K_OPT_THREADS, 0, gpu->stream, workspace, gradients, pieces);
    K_LAUNCH(k_opt_total, 1, 1024, 0, gpu->stream, squares, workspace, count);
    k_launched(gpu, "squares of the gradients");
}

/* ---- updates */

struct k_opt_rates { yg_rates groups[K_OPT_GROUPS]; };
struct k_opt_blocks { float *params, *gradients, *average, *a, *b; };

/* One element: p with its gradient g and moments a and b. Twin: opt_update_*. */
template <yg_optimizer kind> static __device__ __forceinline__ void d_opt_update(const yg_rates &r, float &p, float g, float &a, float &b) {
    const float d = g * r.clip + r.decay * p;
    if (kind == YG_SGD) {
        a = a * r.momentum + d;
        p -= r.lr * (d + r.momentum * a); /* Nesterov */
        return;
    }
    if (kind == YG_RMSPROP) {
        b = b * r.beta2 + r.grow * d * d;
        a = a * r.momentum + d / (sqrtf(b) + K_OPT_EPS);
        p -= r.lr * a;
        return;
    }
    a += r.beta1 * (d - a);
    if (kind == YG_ADAMAX) {
        const float size = fabsf(d) + K_OPT_EPS, least = b * r.beta2;
        b = least > size ? least : size; /* not fmaxf, which drops a NaN */
        p -= r.step * (a / b);
        return;
    }
    b = b * r.beta2 + r.grow * d * d;
    if (kind == YG_ADAM) p = p * r.keep - r.step * (a / (sqrtf(b) / r.root + K_OPT_EPS));
    if (kind == YG_RADAM) p -= a * r.step * (r.root > 0 ? r.root / (sqrtf(b) + K_OPT_EPS) : 1.0f);
    if (kind == YG_NADAM) {
        const float size = sqrtf(b / r.root) + K_OPT_EPS;
        p = p - r.lr * (d / size) - r.step * (a / size);
    }
}

/* The elements of V, one float or a vector of them, at `at`. */
template <yg_optimizer kind, typename V>
static __device__ __forceinline__ void d_opt_step(const k_opt_blocks &blocks, const yg_piece &piece, const yg_rates &rates, float weight, int64_t at) {
    constexpr int lanes = sizeof(V) / sizeof(float);
    V p, g, a, b, average;
    float *const p_lane = reinterpret_cast<float *>(&p), *const g_lane = reinterpret_cast<float *>(&g), *const a_lane = reinterpret_cast<float *>(&a);
    float *const b_lane = reinterpret_cast<float *>(&b), *const average_lane = reinterpret_cast<float *>(&average);
    p = *reinterpret_cast<const V *>(blocks.params + at);
    if (piece.averaged) average = *reinterpret_cast<const V *>(blocks.average + at);
    if (piece.group >= 0) {
        g = *reinterpret_cast<const V *>(blocks.gradients + at);
        a = *reinterpret_cast<const V *>(blocks.a + at);
        if (kind != YG_SGD) b = *reinterpret_cast<const V *>(blocks.b + at);
#pragma unroll
        for (int i = 0; i < lanes; i++) d_opt_update<kind>(rates, p_lane[i], g_lane[i], a_lane[i], b_lane[i]);
        *reinterpret_cast<V *>(blocks.params + at) = p;
        *reinterpret_cast<V *>(blocks.a + at) = a;
        if (kind != YG_SGD) *reinterpret_cast<V *>(blocks.b + at) = b;
    }
#pragma unroll
    for (int i = 0; i < lanes; i++) g_lane[i] = 0;
    *reinterpret_cast<V *>(blocks.gradients + at) = g;
    if (!piece.averaged) return;
#pragma unroll
    for (int i = 0; i < lanes; i++) {
        if (weight < 0.5f) average_lane[i] += weight * (p_lane[i] - average_lane[i]);
        else average_lane[i] = p_lane[i] - (p_lane[i] - average_lane[i]) * (1 - weight);
    }
    *reinterpret_cast<V *>(blocks.average + at) = average;
}

/* Grid (pieces, K_OPT_PARTS): the blocks of a piece take turns at its vectors, `vectors_fit` where the blocks begin alike. Every
   element is one thread's. Twins: opt_update_piece, opt_average. */
template <yg_optimizer kind>
static __global__ void __launch_bounds__(K_OPT_THREADS) k_opt_update(const k_opt_blocks blocks, const yg_piece *pieces, const k_opt_rates rates, float weight, bool vectors_fit) {
    const yg_piece piece = pieces[blockIdx.x];
    const int thread = blockIdx.y * K_OPT_THREADS + threadIdx.x, step = K_OPT_PARTS * K_OPT_THREADS;
    const int head = vectors_fit ? d_opt_head(blocks.params + piece.offset, piece.count) : piece.count, vectors = (piece.count - head) / 4;
    const yg_rates mine = rates.groups[piece.group >= 0 ? piece.group : 0];
    for (int i = thread; i < vectors; i += step) d_opt_step<kind, float4>(blocks, piece, mine, weight, piece.offset + head + 4 * i);
    for (int i = thread; i < piece.count - 4 * vectors; i += step) d_opt_step<kind, float>(blocks, piece, mine, weight, piece.offset + (i < head ? i : i + 4 * vectors));
}

void yg_update(yg_gpu *gpu, yg_optimizer kind, float *params, float *gradients, float *average, float *a, float *b, const yg_piece *pieces,
               int count, const yg_rates *rates, int groups, float weight) {
    if (gpu->error || count <= 0) return;
    if (groups < 0 || groups > K_OPT_GROUPS) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: %d groups of parameters, at most %d", gpu->index, groups, (int)K_OPT_GROUPS);
        return;
    }
    const k_opt_blocks blocks = {params, gradients, average, a, b};
    const uintptr_t apart = ((uintptr_t)params ^ (uintptr_t)gradients) | ((uintptr_t)params ^ (uintptr_t)average) | ((uintptr_t)params ^ (uintptr_t)a) |
                            (kind == YG_SGD ? 0 : (uintptr_t)params ^ (uintptr_t)b);
    const bool vectors_fit = (apart & 15) == 0;
    const dim3 grid(count, K_OPT_PARTS);
    k_opt_rates copies = {};
    for (int i = 0; i < groups; i++) copies.groups[i] = rates[i];
    switch (kind) {
    case YG_SGD: K_LAUNCH(k_opt_update<YG_SGD>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, weight, vectors_fit); break;
    case YG_ADAM: K_LAUNCH(k_opt_update<YG_ADAM>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, weight, vectors_fit); break;
    case YG_ADAMAX: K_LAUNCH(k_opt_update<YG_ADAMAX>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, weight, vectors_fit); break;
    case YG_NADAM: K_LAUNCH(k_opt_update<YG_NADAM>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, weight, vectors_fit); break;
    case YG_RADAM: K_LAUNCH(k_opt_update<YG_RADAM>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, weight, vectors_fit); break;
    case YG_RMSPROP: K_LAUNCH(k_opt_update<YG_RMSPROP>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, weight, vectors_fit); break;
    }
    k_launched(gpu, "update of the parameters");
}

/* ---- the orthogonal part of MuSGD */

enum {
    K_MUON_STEPS = 5,
    K_MUON_TILE = 64, K_MUON_DEPTH = 32, K_MUON_STAGES = 4, /* of a product: rows and columns a block, depth a stage */
    K_MUON_THREADS = 128,
    K_MUON_SPLITS = 8, K_MUON_SPLIT_DEPTH = 576, /* most blocks that share a tile, and the depth worth one of them */
    K_MUON_BLOCKS = 256,                         /* most blocks of k_muon_momentum */
    K_MUON_SQUARE = 32,                          /* side of what is turned at a time */
    K_MUON_SMALL_SIDE = 64, K_MUON_SMALL_THREADS = 512, K_MUON_SMALL_BYTES = 96 << 10
};
/* Of opt_orthogonal. */
#define K_MUON_A 3.4445f
#define K_MUON_B (-4.7750f)
#define K_MUON_C 2.0315f

typedef __nv_bfloat16 k_bf16;

static __device__ __forceinline__ float d_muon_round(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

/* What opt_muon_row divides by. */
static __device__ __forceinline__ float d_muon_norm(double squares) { return d_muon_round(d_muon_round((float)sqrt(squares)) + 1e-7f); }

/* Momentum follows the gradient; returns Nesterov's combination before it is rounded. */
static __device__ __forceinline__ float d_muon_combine(float *momentum, float gradient, float clip, float beta, float rest) {
    const float d = gradient * clip, m = *momentum * beta + rest * d;
    *momentum = m;
    return m * beta + rest * d;
}

static __device__ __forceinline__ uint32_t d_muon_pair(float x, float y) {
    return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(x)) | (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(y)) << 16;
}

static __device__ __forceinline__ float2 d_muon_unpair(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

/* Two bf16 as fp16, for devices whose tensor cores have no bf16. Exact from 2^-14 on, 2^-25 off below; all values here are below
   about 10, and 2^-25 is small against the 2^-9 of what the products are rounded to. */
static __device__ __forceinline__ uint32_t d_muon_as_half(uint32_t pair) {
    const float2 v = d_muon_unpair(pair);
    return (uint32_t)__half_as_ushort(__float2half_rn(v.x)) | (uint32_t)__half_as_ushort(__float2half_rn(v.y)) << 16;
}

/* d_mma_bf16, also where the device or the code that is compiled for it has none. */
template <bool bf16> static __device__ __forceinline__ void d_muon_mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    if (bf16) {
        d_mma_bf16(d, a, b);
        return;
    }
#endif
    const uint32_t left[4] = {d_muon_as_half(a[0]), d_muon_as_half(a[1]), d_muon_as_half(a[2]), d_muon_as_half(a[3])};
    const uint32_t right[2] = {d_muon_as_half(b[0]), d_muon_as_half(b[1])};
    d_mma_f16(d, left, right);
}

/* Fragments for a 16x16 step of a warp out of shared memory, rows `pitch` apart, an odd number of 16 bytes, which no two of eight
   rows share banks at. Left: (row, depth). Right: (column, depth), or (depth, column) where not `turned`; r[0], r[1] are of
   columns 0 to 7, r[2], r[3] of 8 to 15. */
static __device__ __forceinline__ void d_muon_left(uint32_t r[4], const k_bf16 *tile, int pitch) {
    const int lane = threadIdx.x % K_WARP;
    d_ldmatrix_x4(r, tile + lane % 16 * pitch + lane / 16 * 8);
}
template <bool turned> static __device__ __forceinline__ void d_muon_right(uint32_t r[4], const k_bf16 *tile, int pitch) {
    const int lane = threadIdx.x % K_WARP;
    if (turned) d_ldmatrix_x4(r, tile + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
    else d_ldmatrix_x4_trans(r, tile + lane % 16 * pitch + lane / 16 * 8);
}

struct k_muon_product_job { /* out = bf16(add * plus + scale * left right), plus NULL = nothing */
    k_bf16 *out;
    float *partial;           /* where more than one block shares a tile: their sums instead, for k_muon_gather */
    const k_bf16 *left, *right, *plus;
    int depth, left_pitch, right_pitch, out_pitch;
    float add, scale;
};

/* A stage of a product on its way into shared memory. */
template <bool turned>
static __device__ __forceinline__ void d_muon_fetch(k_bf16 *left, k_bf16 *right, const k_muon_product_job &job, int depth) {
    constexpr int pitch = K_MUON_DEPTH + 8, wide = K_MUON_TILE + 8;
    const k_bf16 *const a = job.left + (int64_t)blockIdx.y * K_MUON_TILE * job.left_pitch + depth;
    const k_bf16 *const b = turned ? job.right + (int64_t)blockIdx.x * K_MUON_TILE * job.right_pitch + depth
                                   : job.right + (int64_t)depth * job.right_pitch + blockIdx.x * K_MUON_TILE;
#pragma unroll
    for (int i = threadIdx.x; i < K_MUON_TILE * K_MUON_DEPTH / 8; i += K_MUON_THREADS) {
        const int row = i / (K_MUON_DEPTH / 8), at = i % (K_MUON_DEPTH / 8) * 8;
        d_copy_async16(left + row * pitch + at, a + (int64_t)row * job.left_pitch + at, true);
        if (turned) d_copy_async16(right + row * pitch + at, b + (int64_t)row * job.right_pitch + at, true);
        else {
            const int down = i / (K_MUON_TILE / 8), across = i % (K_MUON_TILE / 8) * 8;
            d_copy_async16(right + down * wide + across, b + (int64_t)down * job.right_pitch + across, true);
        }
    }
}

/* sums += a stage, for a warp's 32x32. */
template <bool bf16, bool turned> static __device__ __forceinline__ void d_muon_stage(float sums[2][4][4], const k_bf16 *left, const k_bf16 *right) {
    constexpr int pitch = K_MUON_DEPTH + 8, wide = K_MUON_TILE + 8;
    const int warp = threadIdx.x / K_WARP, row = warp / 2 * 32, column = warp % 2 * 32;
#pragma unroll
    for (int k = 0; k < K_MUON_DEPTH; k += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            d_muon_left(a[i], left + (row + 16 * i) * pitch + k, pitch);
            d_muon_right<turned>(b[i], turned ? right + (column + 16 * i) * pitch + k : right + k * wide + column + 16 * i, turned ? pitch : wide);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) d_muon_mma<bf16>(sums[i][j], a[i], b[j / 2] + j % 2 * 2);
    }
}

/* Grid (columns / 64, rows / 64, blocks that share a tile), 128 threads, a warp 32x32 of the tile; four stages under way.
   The shares of a tile are consecutive in depth and added in order. Twin: opt_multiply. */
template <bool bf16, bool turned> static __global__ void __launch_bounds__(K_MUON_THREADS) k_muon_product(const k_muon_product_job job) {
    __shared__ __align__(128) k_bf16 left[K_MUON_STAGES][K_MUON_TILE * (K_MUON_DEPTH + 8)];
    __shared__ __align__(128) k_bf16 right[K_MUON_STAGES][turned ? K_MUON_TILE * (K_MUON_DEPTH + 8) : K_MUON_DEPTH * (K_MUON_TILE + 8)];
    const int all = job.depth / K_MUON_DEPTH, first = (int)blockIdx.z * all / (int)gridDim.z, end = ((int)blockIdx.z + 1) * all / (int)gridDim.z;
    float sums[2][4][4] = {};
    for (int i = first; i < first + K_MUON_STAGES - 1; i++) {
        if (i < end) d_muon_fetch<turned>(left[i - first], right[i - first], job, i * K_MUON_DEPTH);
        d_copy_async_commit();
    }
    for (int i = first; i < end; i++) {
        const int next = i + K_MUON_STAGES - 1, now = (i - first) % K_MUON_STAGES, then = (next - first) % K_MUON_STAGES;
        d_copy_async_wait<K_MUON_STAGES - 2>();
        __syncthreads(); /* stage `now` is there, and `then` has been used by all */
        if (next < end) d_muon_fetch<turned>(left[then], right[then], job, next * K_MUON_DEPTH);
        d_copy_async_commit();
        d_muon_stage<bf16, turned>(sums, left[now], right[now]);
    }
    d_copy_async_wait<0>();
    const int lane = threadIdx.x % K_WARP, warp = threadIdx.x / K_WARP;
    const int row = blockIdx.y * K_MUON_TILE + warp / 2 * 32 + lane / 4, column = blockIdx.x * K_MUON_TILE + warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float x = sums[i / 4][i % 4][2 * j], y = sums[i / 4][i % 4][2 * j + 1];
            const int64_t at = (int64_t)(row + i / 4 * 16 + j * 8) * job.out_pitch + column + i % 4 * 8;
            if (job.partial) {
                const int64_t square = (int64_t)gridDim.y * K_MUON_TILE * job.out_pitch;
                *reinterpret_cast<float2 *>(job.partial + blockIdx.z * square + at) = make_float2(x, y);
                continue;
            }
            const float2 plus = job.plus ? d_muon_unpair(*reinterpret_cast<const uint32_t *>(job.plus + at)) : make_float2(0, 0);
            *reinterpret_cast<uint32_t *>(job.out + at) = d_muon_pair(job.add * plus.x + job.scale * x, job.add * plus.y + job.scale * y);
        }
}

/* A thread 4 elements of out(count), each the sum of its `splits` shares in their order. */
static __global__ void __launch_bounds__(K_OPT_THREADS) k_muon_gather(k_bf16 *out, const float *partial, int64_t count, int splits) {
    const int64_t at = 4 * ((int64_t)blockIdx.x * K_OPT_THREADS + threadIdx.x);
    if (at >= count) return;
    float4 sum = *reinterpret_cast<const float4 *>(partial + at);
    for (int i = 1; i < splits; i++) {
        const float4 more = *reinterpret_cast<const float4 *>(partial + i * count + at);
        sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
    }
    *reinterpret_cast<uint2 *>(out + at) = make_uint2(d_muon_pair(sum.x, sum.y), d_muon_pair(sum.z, sum.w));
}

/* Thread t of all takes elements t, t + all, ...: momentum, raw = bf16(Nesterov's combination), and its squares, summed by block. */
static __global__ void __launch_bounds__(K_OPT_THREADS)
k_muon_momentum(k_bf16 *raw, double *squares, float *momentum, const float *gradients, int64_t count, float clip, float beta, float rest) {
    double sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * K_OPT_THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * K_OPT_THREADS) {
        const k_bf16 x = __float2bfloat16_rn(d_muon_combine(momentum + i, gradients[i], clip, beta, rest));
        raw[i] = x;
        sum += (double)__bfloat162float(x) * (double)__bfloat162float(x);
    }
    sum = d_opt_block_sum(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

/* out (pitch a row, grid (pitch / 32, rows / 32), 32x8 threads) = raw (rows, columns) over its norm, turned where `tall`; zeros
   around it. Every block adds up the `parts` sums of squares anew. */
static __global__ void __launch_bounds__(K_OPT_THREADS)
k_muon_begin(k_bf16 *out, const k_bf16 *raw, const double *squares, int parts, int rows, int columns, int pitch, bool tall) {
    __shared__ k_bf16 tile[K_MUON_SQUARE][K_MUON_SQUARE + 2];
    const int x = threadIdx.x % K_MUON_SQUARE, step = K_OPT_THREADS / K_MUON_SQUARE;
    const float norm = d_muon_norm(d_opt_block_sum((int)threadIdx.x < parts ? squares[threadIdx.x] : 0.0));
    const int row = (tall ? blockIdx.x : blockIdx.y) * K_MUON_SQUARE, column = (tall ? blockIdx.y : blockIdx.x) * K_MUON_SQUARE;
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step) {
        const bool there = row + y < rows && column + x < columns;
        tile[y][x] = __float2bfloat16_rn(there ? __bfloat162float(raw[(int64_t)(row + y) * columns + column + x]) / norm : 0.0f);
    }
    __syncthreads();
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step)
        out[(int64_t)(blockIdx.y * K_MUON_SQUARE + y) * pitch + blockIdx.x * K_MUON_SQUARE + x] = tall ? tile[x][y] : tile[y][x];
}

/* params (rows, columns; grid (columns / 32, rows / 32) rounded up, 32x8 threads) -= lr * orthogonal, which is turned where `tall`. */
static __global__ void __launch_bounds__(K_OPT_THREADS)
k_muon_end(float *params, const k_bf16 *orthogonal, int rows, int columns, int pitch, bool tall, float lr) {
    __shared__ k_bf16 tile[K_MUON_SQUARE][K_MUON_SQUARE + 2];
    const int x = threadIdx.x % K_MUON_SQUARE, step = K_OPT_THREADS / K_MUON_SQUARE;
    const int row = blockIdx.y * K_MUON_SQUARE, column = blockIdx.x * K_MUON_SQUARE;
    const k_bf16 *const corner = orthogonal + (tall ? (int64_t)column * pitch + row : (int64_t)row * pitch + column);
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step) tile[y][x] = corner[(int64_t)y * pitch + x];
    __syncthreads();
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step)
        if (row + y < rows && column + x < columns)
            params[(int64_t)(row + y) * columns + column + x] -= lr * __bfloat162float(tall ? tile[x][y] : tile[y][x]);
}

/* A matrix that one block does, see K_MUON_SMALL_BYTES: its padded sides and where it lies in shared memory. */
struct k_muon_small_job {
    float *params, *momentum;
    const float *gradients;
    int rows, columns;     /* as the parameters lie */
    int side, other;       /* the shorter and the longer one, up to a multiple of 16 */
    float clip, beta, rest, lr;
};

/* out (side, side) = bf16(add * plus + scale * left right), all in shared memory; a warp 16x16 at a time. The right factor is
   given by its columns: (side, depth). */
template <bool bf16>
static __device__ __forceinline__ void d_muon_square(k_bf16 *out, const k_bf16 *left, const k_bf16 *right, const k_bf16 *plus, int side, int depth,
                                                     int pitch, float add, float scale) {
    const int lane = threadIdx.x % K_WARP, tiles = side / 16, out_pitch = side + 8;
    for (int tile = threadIdx.x / K_WARP; tile < tiles * tiles; tile += K_MUON_SMALL_THREADS / K_WARP) {
        const int row = tile / tiles * 16, column = tile % tiles * 16;
        float sums[2][4] = {};
        for (int k = 0; k < depth; k += 16) {
            uint32_t a[4], b[4];
            d_muon_left(a, left + row * pitch + k, pitch);
            d_muon_right<true>(b, right + column * pitch + k, pitch);
            d_muon_mma<bf16>(sums[0], a, b);
            d_muon_mma<bf16>(sums[1], a, b + 2);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = (row + i % 2 * 8 + lane / 4) * out_pitch + column + i / 2 * 8 + lane % 4 * 2;
            const float2 more = plus ? d_muon_unpair(*reinterpret_cast<const uint32_t *>(plus + at)) : make_float2(0, 0);
            *reinterpret_cast<uint32_t *>(out + at) = d_muon_pair(add * more.x + scale * sums[i / 2][i % 2 * 2], add * more.y + scale * sums[i / 2][i % 2 * 2 + 1]);
        }
    }
}

/* x (side, other) = bf16(K_MUON_A * x + mixed x), in place: a warp has all rows of 16 columns at a time. */
template <bool bf16> static __device__ __forceinline__ void d_muon_advance(k_bf16 *x, const k_bf16 *mixed, int side, int other) {
    const int lane = threadIdx.x % K_WARP, pitch = other + 8, mixed_pitch = side + 8;
    for (int strip = threadIdx.x / K_WARP; strip < other / 16; strip += K_MUON_SMALL_THREADS / K_WARP) {
        float sums[K_MUON_SMALL_SIDE / 16][2][4] = {};
        for (int k = 0; k < side; k += 16) {
            uint32_t a[4], b[4];
            d_muon_right<false>(b, x + k * pitch + strip * 16, pitch);
#pragma unroll
            for (int i = 0; i < K_MUON_SMALL_SIDE / 16; i++)
                if (16 * i < side) {
                    d_muon_left(a, mixed + 16 * i * mixed_pitch + k, mixed_pitch);
                    d_muon_mma<bf16>(sums[i][0], a, b);
                    d_muon_mma<bf16>(sums[i][1], a, b + 2);
                }
        }
        __syncwarp(); /* all lanes have read the strip */
#pragma unroll
        for (int i = 0; i < K_MUON_SMALL_SIDE / 16 * 4; i++) {
            const int row = i / 4 * 16 + i % 2 * 8 + lane / 4;
            if (row >= side) break;
            uint32_t *const pair = reinterpret_cast<uint32_t *>(x + row * pitch + strip * 16 + i % 4 / 2 * 8 + lane % 4 * 2);
            const float2 old = d_muon_unpair(*pair);
            const float *const sum = &sums[i / 4][i % 4 / 2][i % 2 * 2];
            *pair = d_muon_pair(K_MUON_A * old.x + sum[0], K_MUON_A * old.y + sum[1]);
        }
    }
}

/* One block of 512 threads from gradients to parameters; thread t has elements t, t + 512, ... Twin: opt_muon_row. */
template <bool bf16> static __global__ void __launch_bounds__(K_MUON_SMALL_THREADS) k_muon_small(const k_muon_small_job job) {
    K_SHARED(k_bf16, x);
    const int pitch = job.other + 8, square = job.side * (job.side + 8), count = job.rows * job.columns;
    k_bf16 *const outer = x + job.side * pitch, *const mixed = outer + square;
    const bool tall = job.rows > job.columns;
    const int down = tall ? 1 : pitch, across = tall ? pitch : 1; /* from row to row and column to column of the parameters */
    double squares = 0;
    for (int i = threadIdx.x; i < job.side * pitch / 2; i += K_MUON_SMALL_THREADS) reinterpret_cast<uint32_t *>(x)[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += K_MUON_SMALL_THREADS) {
        const k_bf16 value = __float2bfloat16_rn(d_muon_combine(job.momentum + i, job.gradients[i], job.clip, job.beta, job.rest));
        x[i / job.columns * down + i % job.columns * across] = value;
        squares += (double)__bfloat162float(value) * (double)__bfloat162float(value);
    }
    const float norm = d_muon_norm(d_opt_block_sum(squares));
    for (int i = threadIdx.x; i < count; i += K_MUON_SMALL_THREADS) {
        k_bf16 *const value = x + i / job.columns * down + i % job.columns * across;
        *value = __float2bfloat16_rn(__bfloat162float(*value) / norm);
    }
    __syncthreads();
    for (int i = 0; i < K_MUON_STEPS; i++) {
        d_muon_square<bf16>(outer, x, x, NULL, job.side, job.other, pitch, 0, 1);
        __syncthreads();
        d_muon_square<bf16>(mixed, outer, outer, outer, job.side, job.side, job.side + 8, K_MUON_B, K_MUON_C);
        __syncthreads();
        d_muon_advance<bf16>(x, mixed, job.side, job.other);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count; i += K_MUON_SMALL_THREADS)
        job.params[i] -= job.lr * __bfloat162float(x[i / job.columns * down + i % job.columns * across]);
}

/* How a matrix of MuSGD is laid out in the workspace. */
struct k_muon_plan {
    bool tall;
    int side, other;      /* the shorter and the longer side, padded */
    int splits;           /* of the product of the matrix with itself */
    int64_t matrix, square; /* elements */
};

static k_muon_plan k_muon_plan_of(int rows, int columns) {
    k_muon_plan plan;
    plan.tall = rows > columns;
    plan.side = (int)k_ceil_div(k_min(rows, columns), K_MUON_TILE) * K_MUON_TILE;
    plan.other = (int)k_ceil_div(k_max(rows, columns), K_MUON_TILE) * K_MUON_TILE;
    plan.splits = k_max(1, k_min((int)K_MUON_SPLITS, plan.other / K_MUON_SPLIT_DEPTH));
    plan.matrix = (int64_t)plan.side * plan.other;
    plan.square = (int64_t)plan.side * plan.side;
    return plan;
}

/* Two matrices, two squares, the sums of squares and the shares of a product. */
size_t yg_muon_bytes(int rows, int columns) {
    const k_muon_plan plan = k_muon_plan_of(rows, columns);
    return (size_t)(2 * plan.matrix + 2 * plan.square) * sizeof(k_bf16) + K_MUON_BLOCKS * sizeof(double) +
           (plan.splits > 1 ? (size_t)(plan.splits * plan.square) * sizeof(float) : 0);
}

/* Five iterations on matrix, whose last value lies in `next`; both are overwritten. */
template <bool bf16> static void k_muon_orthogonal(yg_gpu *gpu, const k_muon_plan &plan, k_bf16 *matrix, k_bf16 *next, k_bf16 *outer, k_bf16 *mixed, float *partial) {
    const int across = plan.other / K_MUON_TILE, down = plan.side / K_MUON_TILE;
    for (int i = 0; i < K_MUON_STEPS; i++) {
        k_bf16 *const x = i % 2 ? next : matrix, *const y = i % 2 ? matrix : next;
        const k_muon_product_job with_itself = {outer, plan.splits > 1 ? partial : NULL, x, x, NULL, plan.other, plan.other, plan.other, plan.side, 0, 1};
        const k_muon_product_job squared = {mixed, NULL, outer, outer, outer, plan.side, plan.side, plan.side, plan.side, K_MUON_B, K_MUON_C};
        const k_muon_product_job onwards = {y, NULL, mixed, x, x, plan.side, plan.side, plan.other, plan.other, K_MUON_A, 1};
        K_LAUNCH((k_muon_product<bf16, true>), dim3(down, down, plan.splits), K_MUON_THREADS, 0, gpu->stream, with_itself);
        if (plan.splits > 1)
            K_LAUNCH(k_muon_gather, (unsigned)k_ceil_div(plan.square, 4 * K_OPT_THREADS), K_OPT_THREADS, 0, gpu->stream, outer, partial, plan.square, plan.splits);
        K_LAUNCH((k_muon_product<bf16, true>), dim3(down, down), K_MUON_THREADS, 0, gpu->stream, squared); /* outer is symmetric */
        K_LAUNCH((k_muon_product<bf16, false>), dim3(across, down), K_MUON_THREADS, 0, gpu->stream, onwards);
    }
}

/* Does one block do the job? Returns whether it was launched. */
static bool k_muon_try_small(yg_gpu *gpu, k_muon_small_job job) {
    job.side = (int)k_ceil_div(k_min(job.rows, job.columns), 16) * 16;
    const int64_t other = k_ceil_div(k_max(job.rows, job.columns), 16) * 16;
    const int64_t bytes = (job.side * (other + 8) + 2 * (int64_t)job.side * (job.side + 8)) * (int64_t)sizeof(k_bf16);
    if (job.side > K_MUON_SMALL_SIDE || bytes > K_MUON_SMALL_BYTES || bytes + 1024 > (int64_t)gpu->shared_most) return false;
    job.other = (int)other;
    void (*const kernel)(const k_muon_small_job) = gpu->compute >= 80 ? k_muon_small<true> : k_muon_small<false>;
    if (k_good(gpu, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "shared memory for MuSGD"))
        K_LAUNCH(kernel, 1, K_MUON_SMALL_THREADS, (size_t)bytes, gpu->stream, job);
    return true;
}

void yg_muon(yg_gpu *gpu, float *params, float *momentum, const float *gradients, int rows, int columns, float clip, float beta, float lr, void *workspace) {
    if (gpu->error) return;
    const float rest = (float)(1 - (double)beta);
    const k_muon_small_job small_job = {params, momentum, gradients, rows, columns, 0, 0, clip, beta, rest, lr};
    if (k_muon_try_small(gpu, small_job)) {
        k_launched(gpu, "orthogonal update");
        return;
    }
    const k_muon_plan plan = k_muon_plan_of(rows, columns);
    const int64_t count = (int64_t)rows * columns;
    const int parts = (int)k_min(k_ceil_div(count, 4 * K_OPT_THREADS), (int64_t)K_MUON_BLOCKS);
    k_bf16 *const matrix = static_cast<k_bf16 *>(workspace), *const next = matrix + plan.matrix;
    k_bf16 *const outer = next + plan.matrix, *const mixed = outer + plan.square;
    double *const squares = reinterpret_cast<double *>(mixed + plan.square);
    float *const partial = reinterpret_cast<float *>(squares + K_MUON_BLOCKS);
    K_LAUNCH(k_muon_momentum, parts, K_OPT_THREADS, 0, gpu->stream, next, squares, momentum, gradients, count, clip, beta, rest);
    K_LAUNCH(k_muon_begin, dim3(plan.other / K_MUON_SQUARE, plan.side / K_MUON_SQUARE), K_OPT_THREADS, 0, gpu->stream, matrix, next, squares, parts, rows,
             columns, plan.other, plan.tall);
    if (gpu->compute >= 80) k_muon_orthogonal<true>(gpu, plan, matrix, next, outer, mixed, partial);
    else k_muon_orthogonal<false>(gpu, plan, matrix, next, outer, mixed, partial);
    K_LAUNCH(k_muon_end, dim3((unsigned)k_ceil_div(columns, K_MUON_SQUARE), (unsigned)k_ceil_div(rows, K_MUON_SQUARE)), K_OPT_THREADS, 0, gpu->stream, params,
             next, rows, columns, plan.other, plan.tall, lr);
    k_launched(gpu, "orthogonal update");
}
