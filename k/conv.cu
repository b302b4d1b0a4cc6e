/* ==== K8 k_conv_ d_conv_: convolution, forward and gradient of the input ========================================
   A convolution is a product of two matrices that are never written down. A row of the left one is an output pixel: the channels
   of all the taps it sees, side by side; a row of the right one is a filter, laid out alike. A block makes one tile of the product.
   It walks along the reduction in chunks of 64 bytes a row; while one is multiplied, the next ones are on their way.
   The gradient of the input is the same walk over d_out with the turned filters. With stride s, the pixels of d_in whose coordinates
   leave the same remainders (a phase) see the same taps: a product for each of the s * s phases, all in one launch.
   16-bit tensors are multiplied on tensor cores. Floats, and types that the device's tensor cores do not know, are multiplied by
   threads that own the same elements of the tile, so that everything before and after is shared.
   Sums are floats and their order depends on shapes and device alone. Packed weights are 16-byte aligned. */

#ifdef K_ONLY
enum { K_MOMENT_PIXELS = 128 }; /* K4's */
#endif

enum {
    K_CONV_THREADS = 128, /* of a block: 4 warps */
    K_CONV_CHUNK = 64,    /* bytes of a row of shared memory: 4 pieces of 16, one a thread and copy */
    K_CONV_STAGED = 32,   /* rows that a warp lays out at once for its stores */
    K_CONV_MOST_SPLITS = 8
};

/* A block's tile of M pixels by N filters, a warp's part of it, and how many chunks shared memory holds. */
template <int tile_m, int tile_n, int part_m, int part_n, int depth> struct k_conv_shape {
    static constexpr int M = tile_m, N = tile_n, warp_m = part_m, warp_n = part_n, stages = depth;
    static constexpr int warps_m = M / warp_m, warps_n = N / warp_n;
    static constexpr int rows = warp_m / 16, columns = warp_n / 8; /* of a warp's part, in products of 16 x 8 */
    static constexpr int stage_bytes = (M + N) * K_CONV_CHUNK, bytes = stages * stage_bytes;
    static constexpr int copies_m = M * 4 / K_CONV_THREADS, copies_n = (N * 4 + K_CONV_THREADS - 1) / K_CONV_THREADS;
    static constexpr int staged_pitch = warp_n + 8; /* floats */
    static_assert(warps_m * warps_n * K_WARP == K_CONV_THREADS && warp_n % 16 == 0, "four warps make the tile");
    static_assert(4 * K_CONV_STAGED * staged_pitch * 4 <= bytes && bytes <= 48 << 10, "results fit where the chunks were");
};

/* What a kernel has to do. `in` is d_out and `out` d_in where it is `backward`. */
template <typename T> struct k_conv_job {
    k_ten<T> in, out;
    const T *weight, *residual; /* residual: NULL = none; may be out's own memory */
    int64_t residual_pixel;
    const float *bias;
    float *moments, *partial;   /* partial: sums of the splits (splits, pixels, channels up to a multiple of 8); NULL = not split */
    int channels, pitch;        /* of a tap: those that are walked, those of the packed weights */
    int64_t filter;             /* elements of a packed filter */
    int kernel, stride, padding, splits, tiles_n;
    bool backward, vectors;     /* vectors: out and residual in pieces of 16 bytes */
    yg_activation activation;
    float slope;
};

/* The pixels of a product and the taps they see: pixel (i,j) of the grid is (i,j) * out_step + (out_y,out_x) of out, and its tap (a,b)
   is pixel (i,j) * in_step + (in_y,in_x) + (a,b) * direction of in and tap (first_r,first_s) + (a,b) * tap_step of the filter. */
struct k_conv_phase {
    int grid_h, grid_w, taps_h, taps_w;
    int out_step, out_y, out_x, in_step, in_y, in_x, direction, first_r, first_s, tap_step;
};

template <typename T> static __device__ k_conv_phase d_conv_phase(const k_conv_job<T> &job, int index) {
    k_conv_phase p = {job.out.h, job.out.w, job.kernel, job.kernel, 1, 0, 0, job.stride, -job.padding, -job.padding, 1, 0, 0, 1};
    if (!job.backward) return p;
    const int s = job.stride, y = index / s, x = index % s;
    p.grid_h = (job.out.h - y + s - 1) / s;
    p.grid_w = (job.out.w - x + s - 1) / s;
    p.first_r = (y + job.padding) % s;
    p.first_s = (x + job.padding) % s;
    p.taps_h = p.first_r < job.kernel ? (job.kernel - p.first_r + s - 1) / s : 0;
    p.taps_w = p.first_s < job.kernel ? (job.kernel - p.first_s + s - 1) / s : 0;
    p.out_step = p.tap_step = s;
    p.out_y = y;
    p.out_x = x;
    p.in_step = 1;
    p.in_y = (y + job.padding) / s;
    p.in_x = (x + job.padding) / s;
    p.direction = -1;
    return p;
}

/* Where a thread is on its way along the reduction: it copies the same piece of each chunk for several pixels and filters. */
template <typename T, typename S> struct k_conv_walk {
    int pixel[S::copies_m], y[S::copies_m], x[S::copies_m]; /* pixels in_step * (i,j) of in, and their coordinates */
    const T *weight;                                        /* the first of the thread's filters */
    int channel, tap_y, tap_x;                              /* where the next piece begins */
    int dy, dx, pixel_offset, weight_offset;                /* its tap, from the pixels and in the filters */
    int place;                                              /* of the first copy in a stage */
};

/* Where piece 0 to 3 of a row is among its chunks. Rows that are read or written together meet different banks; 8 rows further is
   8 chunks further, and the piece after the next is at ^ 32. */
static __device__ __forceinline__ int d_conv_place(int row, int piece) { return row * K_CONV_CHUNK + ((piece ^ (row >> 1 & 3)) << 4); }

template <typename T, typename S>
static __device__ __forceinline__ void d_conv_locate(k_conv_walk<T, S> &walk, const k_conv_job<T> &job, const k_conv_phase &phase) {
    walk.dy = phase.in_y + walk.tap_y * phase.direction;
    walk.dx = phase.in_x + walk.tap_x * phase.direction;
    walk.pixel_offset = walk.dy * job.in.w + walk.dx;
    const int r = phase.first_r + walk.tap_y * phase.tap_step, s = phase.first_s + walk.tap_x * phase.tap_step;
    walk.weight_offset = (r * job.kernel + s) * job.pitch;
}

/* `count` elements on. Behind the last tap, tap_y is taps_h or more. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_advance(k_conv_walk<T, S> &walk, const k_conv_job<T> &job, const k_conv_phase &phase, int count) {
    walk.channel += count;
    if (walk.channel < job.channels) return;
    while (walk.channel >= job.channels) {
        walk.channel -= job.channels;
        if (++walk.tap_x < phase.taps_w) continue;
        walk.tap_x = 0;
        walk.tap_y++;
    }
    d_conv_locate(walk, job, phase);
}

template <typename T, typename S>
static __device__ __forceinline__ void d_conv_begin(k_conv_walk<T, S> &walk, const k_conv_job<T> &job, const k_conv_phase &phase, int m0, int n0,
                                                    int first) {
    const int row = threadIdx.x / 4, pixels = job.in.n * phase.grid_h * phase.grid_w;
#pragma unroll
    for (int i = 0; i < S::copies_m; i++) {
        const int m = m0 + row + i * (K_CONV_THREADS / 4), line = m / phase.grid_w, y = line % phase.grid_h * phase.in_step;
        walk.y[i] = m < pixels ? y : INT32_MIN / 2; /* outside, whatever the tap */
        walk.x[i] = m % phase.grid_w * phase.in_step;
        walk.pixel[i] = (line / phase.grid_h * job.in.h + y) * job.in.w + walk.x[i];
    }
    walk.weight = job.weight + (n0 + row) * job.filter;
    walk.place = d_conv_place(row, threadIdx.x % 4);
    walk.channel = walk.tap_y = walk.tap_x = 0;
    d_conv_locate(walk, job, phase);
    d_conv_advance(walk, job, phase, first + (int)(threadIdx.x % 4 * (16 / sizeof(T))));
}

/* A piece of which `count` elements are there, element by element. */
template <typename T> static __device__ __forceinline__ void d_conv_gather(void *shared, const T *from, bool valid, int count) {
    T piece[16 / sizeof(T)];
    uint4 bits;
#pragma unroll
    for (int i = 0; i < (int)(16 / sizeof(T)); i++) piece[i] = valid && i < count ? from[i] : k_element<T>::store(0);
    memcpy(&bits, piece, sizeof bits);
    *static_cast<uint4 *>(shared) = bits;
}

/* Starts the copies of a chunk; zeros where there is no pixel, filter or tap. */
template <typename T, typename S, bool aligned>
static __device__ __forceinline__ void d_conv_fetch(const k_conv_walk<T, S> &walk, const k_conv_job<T> &job, const k_conv_phase &phase, int n0,
                                                    unsigned char *stage) {
    const int row = threadIdx.x / 4, rows = K_CONV_THREADS / 4;
    const bool inside = walk.tap_y < phase.taps_h;
    const T *in = job.in.data + walk.channel, *weight = walk.weight + (walk.weight_offset + walk.channel);
    stage += walk.place;
#pragma unroll
    for (int i = 0; i < S::copies_m; i++) {
        const bool valid = inside && (unsigned)(walk.y[i] + walk.dy) < (unsigned)job.in.h && (unsigned)(walk.x[i] + walk.dx) < (unsigned)job.in.w;
        const T *from = in + (int64_t)(walk.pixel[i] + walk.pixel_offset) * (int)job.in.pixel;
        if (aligned) d_copy_async16(stage + i * rows * K_CONV_CHUNK, from, valid);
        else d_conv_gather(stage + i * rows * K_CONV_CHUNK, from, valid, job.in.c - walk.channel);
    }
#pragma unroll
    for (int i = 0; i < S::copies_n; i++)
        if (S::N % rows == 0 || row + i * rows < S::N)
            d_copy_async16(stage + (S::M + i * rows) * K_CONV_CHUNK, weight + i * rows * job.filter, inside && n0 + row + i * rows < job.out.c);
}

/* A thread's sums: element [i][j][2*h+e] is row 16*i + 8*h + lane/4 and column 8*j + lane%4*2 + e of the warp's part. */
template <typename S> struct k_conv_sums { float at[S::rows][S::columns][4]; };

static __device__ __forceinline__ void d_conv_mma(float d[4], const uint32_t a[4], const uint32_t b[2], __half) { d_mma_f16(d, a, b); }
static __device__ __forceinline__ void d_conv_mma(float d[4], const uint32_t a[4], const uint32_t b[2], __nv_bfloat16) { d_mma_bf16(d, a, b); }
static __device__ __forceinline__ void d_conv_mma(float *, const uint32_t *, const uint32_t *, float) {}

/* Adds the product of a chunk by tensor cores. `pixels` and `filters` are where d_conv_operands says. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_multiply_cores(k_conv_sums<S> &sums, const unsigned char *stage, int pixels, int filters) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
        uint32_t a[S::rows][4], b[S::columns / 2][4];
#pragma unroll
        for (int i = 0; i < S::rows; i++) d_ldmatrix_x4(a[i], stage + (pixels ^ step * 32) + i * 16 * K_CONV_CHUNK);
#pragma unroll
        for (int j = 0; j < S::columns / 2; j++) d_ldmatrix_x4(b[j], stage + (filters ^ step * 32) + j * 16 * K_CONV_CHUNK);
#pragma unroll
        for (int i = 0; i < S::rows; i++)
#pragma unroll
            for (int j = 0; j < S::columns; j++) d_conv_mma(sums.at[i][j], a[i], &b[j / 2][j % 2 * 2], T());
    }
}

template <typename T> struct __align__(4 * sizeof(T)) k_conv_four { T at[4]; };

template <typename T> static __device__ __forceinline__ void d_conv_load4(float to[4], const unsigned char *from) {
    const k_conv_four<T> four = *reinterpret_cast<const k_conv_four<T> *>(from);
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = k_element<T>::load(four.at[i]);
}

/* The same by plain arithmetic, four elements of every row at a time. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_multiply_plain(k_conv_sums<S> &sums, const unsigned char *stage, int pixels, int filters) {
#pragma unroll 1
    for (int q = 0; q < K_CONV_CHUNK; q += (int)(4 * sizeof(T))) {
        const unsigned char *a_row = stage + (pixels ^ (q & 48)) + q % 16, *b_row = stage + (filters ^ (q & 48)) + q % 16;
        float a[2 * S::rows][4], b[4];
#pragma unroll
        for (int i = 0; i < 2 * S::rows; i++) d_conv_load4<T>(a[i], a_row + i * 8 * K_CONV_CHUNK);
#pragma unroll
        for (int j = 0; j < 2 * S::columns; j++) {
            d_conv_load4<T>(b, b_row + (j / 2 * 8 + j % 2) * K_CONV_CHUNK);
#pragma unroll
            for (int c = 0; c < 4; c++)
#pragma unroll
                for (int i = 0; i < 2 * S::rows; i++) sums.at[i / 2][j / 2][i % 2 * 2 + j % 2] += a[i][c] * b[c];
        }
    }
}

/* Where in a stage a lane begins to read its warp's pixels and filters: as d_ldmatrix_x4 wants them, or the rows of its own sums. */
template <bool cores, typename S> static __device__ __forceinline__ int2 d_conv_operands() {
    const int warp = threadIdx.x / K_WARP, lane = threadIdx.x % K_WARP, m = warp / S::warps_n * S::warp_m, n = S::M + warp % S::warps_n * S::warp_n;
    if (cores) return make_int2(d_conv_place(m + lane % 16, lane / 16), d_conv_place(n + lane % 8 + lane / 16 * 8, lane / 8 % 2));
    return make_int2(d_conv_place(m + lane / 4, 0), d_conv_place(n + lane % 4 * 2, 0));
}

/* Means of the tile's columns, then sums of the squares of the distances from them; `count` rows of the tile are there. Rows of a
   thread, lanes, warps: always in this order. shared: a float a column and row of warps. */
template <typename S>
static __device__ __forceinline__ void d_conv_moments(const k_conv_sums<S> &sums, float *shared, float *moments, int count, int n0, int channels) {
    const int warp = threadIdx.x / K_WARP, lane = threadIdx.x % K_WARP, m = warp / S::warps_n * S::warp_m, n = warp % S::warps_n * S::warp_n;
    float mean[S::columns][2] = {};
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
#pragma unroll
        for (int j = 0; j < 2 * S::columns; j++) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 2 * S::rows; i++) {
                const float x = sums.at[i / 2][j / 2][i % 2 * 2 + j % 2] - mean[j / 2][j % 2];
                if (m + 8 * i + lane / 4 < count) sum += pass ? x * x : x;
            }
#pragma unroll
            for (int other = 4; other < K_WARP; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
            if (lane < 4) shared[warp / S::warps_n * S::N + n + j / 2 * 8 + lane * 2 + j % 2] = sum;
        }
        __syncthreads();
        const float scale = pass ? 1.0f : 1.0f / (float)count;
#pragma unroll
        for (int j = 0; j < 2 * S::columns; j++) {
            float sum = 0;
            for (int w = 0; w < S::warps_m; w++) sum += shared[w * S::N + n + j / 2 * 8 + lane % 4 * 2 + j % 2];
            mean[j / 2][j % 2] = sum * scale;
            const int column = n0 + n + j / 2 * 8 + lane % 4 * 2 + j % 2;
            if (m == 0 && lane < 4 && column < channels) moments[(int64_t)pass * channels + column] = sum * scale;
        }
        __syncthreads();
    }
}

/* Twin of OP_(activate), also at infinity; NaN comes through. What goes into 16 bits takes the fast functions. */
template <typename T> static __device__ __forceinline__ float d_conv_activate(float x, yg_activation activation, float slope) {
    const bool exact = sizeof(T) == 4;
    if (activation == YG_SILU) {
        const float low = x < -80.0f ? -80.0f : x, e = exact ? expf(-low) : __expf(-low);
        return exact ? low / (1.0f + e) : __fdividef(low, 1.0f + e);
    }
    if (activation == YG_RELU) return x < 0.0f ? 0.0f : x;
    if (activation == YG_LEAKYRELU) return x < 0.0f ? slope * x : x;
    if (activation == YG_MISH) { /* x tanh(log(1 + e)) = x n / (n + 2), n = e (e + 2) */
        const float low = x < -80.0f ? -80.0f : x, e = exact ? expf(fminf(low, 20.0f)) : __expf(fminf(low, 20.0f)), n = e * (e + 2.0f);
        return low * (exact ? n / (n + 2.0f) : __fdividef(n, n + 2.0f));
    }
    return x;
}

/* Eight elements at once. */
template <typename T> static __device__ __forceinline__ void d_conv_load8(T to[8], const T *from) {
    uint4 bits[sizeof(T) / 2];
#pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / 2); i++) bits[i] = reinterpret_cast<const uint4 *>(from)[i];
    memcpy(to, bits, sizeof bits);
}

template <typename T> static __device__ __forceinline__ void d_conv_store8(T *to, const T from[8]) {
    uint4 bits[sizeof(T) / 2];
    memcpy(bits, from, sizeof bits);
#pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / 2); i++) reinterpret_cast<uint4 *>(to)[i] = bits[i];
}

/* Eight sums of one pixel, from `channel` on, become elements of out. */
template <typename T> static __device__ __forceinline__ void d_conv_finish(const k_conv_job<T> &job, int64_t pixel, int channel, float x[8]) {
    const int count = job.out.c - channel;
    T *out = job.out.data + pixel * job.out.pixel + channel;
    const T *residual = job.residual ? job.residual + pixel * job.residual_pixel + channel : NULL;
    const bool whole = job.vectors && count >= 8;
    T y[8];
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] = k_element<T>::store(0);
    if (residual && whole) d_conv_load8(y, residual);
    else if (residual) {
#pragma unroll
        for (int i = 0; i < 8; i++) if (i < count) y[i] = residual[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        x[i] = d_conv_activate<T>(x[i], job.activation, job.slope);
        y[i] = k_element<T>::store(residual ? x[i] + k_element<T>::load(y[i]) : x[i]);
    }
    if (whole) d_conv_store8(out, y);
    else {
#pragma unroll
        for (int i = 0; i < 8; i++) if (i < count) out[i] = y[i];
    }
}

/* Row m of a product as a pixel of out. */
static __device__ __forceinline__ int64_t d_conv_pixel(const k_conv_phase &phase, int m, int h, int w) {
    if (phase.out_step == 1) return m;
    const int line = m / phase.grid_w, y = line % phase.grid_h * phase.out_step + phase.out_y, x = m % phase.grid_w * phase.out_step + phase.out_x;
    return ((int64_t)(line / phase.grid_h) * h + y) * w + x;
}

/* The tile goes out, 32 rows of each warp at a time, through shared memory so that lanes side by side have channels side by side. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_put(const k_conv_job<T> &job, const k_conv_phase &phase, const k_conv_sums<S> &sums,
                                                  unsigned char *shared, int m0, int n0, int pixels) {
    const int warp = threadIdx.x / K_WARP, lane = threadIdx.x % K_WARP, eights = S::warp_n / 8;
    float *staged = reinterpret_cast<float *>(shared) + warp * K_CONV_STAGED * S::staged_pitch;
    m0 += warp / S::warps_n * S::warp_m;
    n0 += warp % S::warps_n * S::warp_n;
    const int split = blockIdx.y;
#pragma unroll
    for (int part = 0; part < S::warp_m / K_CONV_STAGED; part++) {
#pragma unroll
        for (int i = 0; i < K_CONV_STAGED / 8; i++)
#pragma unroll
            for (int j = 0; j < S::columns; j++) {
                const float *pair = &sums.at[part * (K_CONV_STAGED / 16) + i / 2][j][i % 2 * 2];
                *reinterpret_cast<float2 *>(staged + (8 * i + lane / 4) * S::staged_pitch + 8 * j + lane % 4 * 2) = make_float2(pair[0], pair[1]);
            }
        __syncwarp();
#pragma unroll 1
        for (int item = lane; item < K_CONV_STAGED * eights; item += K_WARP) {
            const int row = item / eights, column = item % eights * 8, m = m0 + part * K_CONV_STAGED + row;
            if (m >= pixels || n0 + column >= job.out.c) continue;
            float x[8];
            d_conv_load8(x, staged + row * S::staged_pitch + column);
            if (job.partial) d_conv_store8(job.partial + ((int64_t)split * pixels + m) * ((job.out.c + 7) & ~7) + n0 + column, x);
            else d_conv_finish(job, d_conv_pixel(phase, m, job.out.h, job.out.w), n0 + column, x);
        }
        __syncwarp();
    }
}

/* Does k_conv_run launch that kernel on the architecture that is being compiled? What it does not launch stays empty. */
template <typename T, bool cores> static __device__ constexpr bool d_conv_launched() {
#ifdef __CUDA_ARCH__
    return sizeof(T) == 4 || cores == (__CUDA_ARCH__ >= (std::is_same<T, __half>::value ? 750 : 800));
#else
    return true;
#endif
}

/* out = activation(conv(in) + bias) + residual, or its backward twin; see the head of the section.
   grid: x a tile of M pixels by N channels, channels first, so that neighbours read the same pixels; y a split of the reduction; z a
   phase. block: 128 threads, a warp owns a part of the tile. Every element's sum runs along the reduction; deterministic.
   Twins: op_conv_fwd, op_conv_dgrad. */
template <typename T, bool cores, typename S, bool aligned>
__global__ __launch_bounds__(K_CONV_THREADS) void k_conv_multiply(const k_conv_job<T> job) {
    if (!d_conv_launched<T, cores>()) return;
    K_SHARED(unsigned char, shared);
    const k_conv_phase phase = d_conv_phase(job, blockIdx.z);
    const int m0 = (int)(blockIdx.x / job.tiles_n) * S::M, n0 = (int)(blockIdx.x % job.tiles_n) * S::N;
    const int pixels = job.in.n * phase.grid_h * phase.grid_w;
    if (m0 >= pixels) return;
    const int chunk = K_CONV_CHUNK / sizeof(T), all = (phase.taps_h * phase.taps_w * job.channels + chunk - 1) / chunk;
    const int first = (int)((int64_t)all * blockIdx.y / job.splits), count = (int)((int64_t)all * (blockIdx.y + 1) / job.splits) - first;
    k_conv_sums<S> sums = {};
    if (count > 0) {
        const int2 operands = d_conv_operands<cores, S>();
        k_conv_walk<T, S> walk;
        d_conv_begin(walk, job, phase, m0, n0, first * chunk);
#pragma unroll 1
        for (int k = 0; k < S::stages - 1; k++) {
            if (k < count) d_conv_fetch<T, S, aligned>(walk, job, phase, n0, shared + k * S::stage_bytes);
            d_conv_advance(walk, job, phase, chunk);
            d_copy_async_commit();
        }
        int full = 0, free = (S::stages - 1) * S::stage_bytes; /* the stages to multiply and to fill */
#pragma unroll 1
        for (int k = 0; k < count; k++) {
            d_copy_async_wait<S::stages - 2>();
            __syncthreads();
            if (k + S::stages - 1 < count) {
                d_conv_fetch<T, S, aligned>(walk, job, phase, n0, shared + free);
                d_conv_advance(walk, job, phase, chunk);
            }
            d_copy_async_commit();
            if (cores) d_conv_multiply_cores<T, S>(sums, shared + full, operands.x, operands.y);
            else d_conv_multiply_plain<T, S>(sums, shared + full, operands.x, operands.y);
            free = full;
            full = full + S::stage_bytes == S::bytes ? 0 : full + S::stage_bytes;
        }
        d_copy_async_wait<0>();
        __syncthreads();
    }
    if (job.bias && !job.partial) {
        const int column = n0 + (int)(threadIdx.x / K_WARP) % S::warps_n * S::warp_n + (int)(threadIdx.x % 4) * 2;
#pragma unroll
        for (int j = 0; j < 2 * S::columns; j++) {
            const float bias = column + j / 2 * 8 + j % 2 < job.out.c ? job.bias[column + j / 2 * 8 + j % 2] : 0.0f;
#pragma unroll
            for (int i = 0; i < 2 * S::rows; i++) sums.at[i / 2][j / 2][i % 2 * 2 + j % 2] += bias;
        }
    }
    if (S::M == K_MOMENT_PIXELS && job.moments)
        d_conv_moments(sums, reinterpret_cast<float *>(shared), job.moments + (int64_t)(m0 / S::M) * 2 * job.out.c, min(pixels - m0, S::M), n0, job.out.c);
    d_conv_put<T, S>(job, phase, sums, shared, m0, n0, pixels);
}

/* Adds up the splits of a product and finishes it. grid, block: a thread eight channels of a pixel; the splits in their order. */
template <typename T> __global__ void k_conv_join(const k_conv_job<T> job, int pixels) {
    const int eights = (job.out.c + 7) / 8;
    const int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= (int64_t)pixels * eights) return;
    const int channel = (int)(item % eights) * 8;
    float x[8] = {};
    for (int split = 0; split < job.splits; split++) {
        float part[8];
        d_conv_load8(part, job.partial + ((int64_t)split * pixels * eights + item) * 8);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] += part[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) if (job.bias && channel + i < job.out.c) x[i] += job.bias[channel + i];
    d_conv_finish(job, item / eights, channel, x);
}

/* How many channels a tap has in packed weights. */
static int k_conv_pitch(int channels) { return (channels + 7) / 8 * 8; }

/* Pixels of the largest phase. */
template <typename T> static int64_t k_conv_pixels(const k_conv_job<T> &job) {
    const int step = job.backward ? job.stride : 1;
    return job.in.n * k_ceil_div(job.out.h, step) * k_ceil_div(job.out.w, step);
}

template <typename T, bool cores, typename S, bool aligned> static void k_conv_launch(yg_gpu *gpu, k_conv_job<T> job) {
    const int64_t pixels = k_conv_pixels(job), tiles_n = k_ceil_div(job.out.c, S::N), tiles = k_ceil_div(pixels, S::M) * tiles_n;
    const int phases = job.backward ? job.stride * job.stride : 1;
    const int64_t chunks = (int64_t)job.kernel * job.kernel * job.channels * (int64_t)sizeof(T) / K_CONV_CHUNK;
    const int64_t room = k_min(K_SCRATCH_BYTES / (int64_t)sizeof(float) / (pixels * k_conv_pitch(job.out.c)), (int64_t)K_CONV_MOST_SPLITS);
    job.tiles_n = (int)tiles_n;
    job.splits = 1;
    if (phases == 1 && !job.moments) job.splits = (int)k_min(k_min(gpu->multiprocessors / tiles, chunks / 16), room);
    if (job.splits > 1) job.partial = static_cast<float *>(gpu->scratch);
    else job.splits = 1;
    const dim3 grid((unsigned)tiles, (unsigned)job.splits, (unsigned)phases);
    K_LAUNCH((k_conv_multiply<T, cores, S, aligned>), grid, K_CONV_THREADS, S::bytes, gpu->stream, job);
    if (job.partial) {
        const int64_t items = pixels * ((job.out.c + 7) / 8);
        K_LAUNCH(k_conv_join<T>, dim3((unsigned)k_ceil_div(items, 128)), 128, 0, gpu->stream, job, (int)pixels);
    }
}

typedef k_conv_shape<128, 128, 64, 64, 3> k_conv_128x128;
typedef k_conv_shape<128, 96, 64, 48, 3> k_conv_128x96;
typedef k_conv_shape<128, 64, 64, 32, 4> k_conv_128x64;
typedef k_conv_shape<128, 32, 32, 32, 3> k_conv_128x32;
typedef k_conv_shape<128, 16, 32, 16, 3> k_conv_128x16;
typedef k_conv_shape<64, 64, 32, 32, 4> k_conv_64x64;
typedef k_conv_shape<64, 32, 32, 16, 4> k_conv_64x32;

/* Time of a product in tiles of (m,n), in units of its own. A tile costs its products, and the loads of its edges; a multiprocessor
   has two of them at work before it has to go round again. */
static int64_t k_conv_cost(const yg_gpu *gpu, int64_t pixels, int channels, int m, int n) {
    const int64_t tiles = k_ceil_div(pixels, m) * k_ceil_div(channels, n);
    return k_max(k_ceil_div(tiles, gpu->multiprocessors), (int64_t)2) * (m * n + 64 * (m + n));
}

enum { K_CONV_CHOICES = 7, K_CONV_SMALL = 5 /* the first choice of fewer than K_MOMENT_PIXELS pixels */ };

template <typename T> static int k_conv_choose(const yg_gpu *gpu, const k_conv_job<T> &job) {
    static const int shapes[K_CONV_CHOICES][2] = {{128, 128}, {128, 96}, {128, 64}, {128, 32}, {128, 16}, {64, 64}, {64, 32}};
    const int phases = job.backward ? job.stride * job.stride : 1;
    int best = 0;
    int64_t least = INT64_MAX;
    for (int i = 0; i < (job.moments ? (int)K_CONV_SMALL : (int)K_CONV_CHOICES); i++) {
        const int64_t cost = k_conv_cost(gpu, k_conv_pixels(job) * phases, job.out.c, shapes[i][0], shapes[i][1]);
        if (cost < least) least = cost, best = i;
    }
    return best;
}

template <typename T> static void k_conv_run_cores(yg_gpu *gpu, const k_conv_job<T> &job, bool aligned) {
    if (!aligned) k_conv_launch<T, true, k_conv_128x64, false>(gpu, job);
    else switch (k_conv_choose(gpu, job)) {
    case 0: k_conv_launch<T, true, k_conv_128x128, true>(gpu, job); break;
    case 1: k_conv_launch<T, true, k_conv_128x96, true>(gpu, job); break;
    case 2: k_conv_launch<T, true, k_conv_128x64, true>(gpu, job); break;
    case 3: k_conv_launch<T, true, k_conv_128x32, true>(gpu, job); break;
    case 4: k_conv_launch<T, true, k_conv_128x16, true>(gpu, job); break;
    case 5: k_conv_launch<T, true, k_conv_64x64, true>(gpu, job); break;
    default: k_conv_launch<T, true, k_conv_64x32, true>(gpu, job);
    }
}

/* The wide tile only for floats; the others come here on old devices alone. */
template <typename T> static void k_conv_run_plain(yg_gpu *gpu, const k_conv_job<T> &job, bool aligned) {
    typedef typename std::conditional<sizeof(T) == 4, k_conv_128x64, k_conv_128x32>::type wide;
    const int64_t pixels = k_conv_pixels(job);
    const bool best = k_conv_cost(gpu, pixels, job.out.c, wide::M, wide::N) < k_conv_cost(gpu, pixels, job.out.c, 128, 32);
    if (!aligned) k_conv_launch<T, false, k_conv_128x32, false>(gpu, job);
    else if (best) k_conv_launch<T, false, wide, true>(gpu, job);
    else k_conv_launch<T, false, k_conv_128x32, true>(gpu, job);
}

static void k_conv_run(yg_gpu *gpu, const k_conv_job<float> &job, bool aligned) { k_conv_run_plain(gpu, job, aligned); }

static void k_conv_run(yg_gpu *gpu, const k_conv_job<__half> &job, bool aligned) {
    if (gpu->compute >= 75) k_conv_run_cores(gpu, job, aligned);
    else k_conv_run_plain(gpu, job, aligned);
}

static void k_conv_run(yg_gpu *gpu, const k_conv_job<__nv_bfloat16> &job, bool aligned) {
    if (gpu->compute >= 80) k_conv_run_cores(gpu, job, aligned);
    else k_conv_run_plain(gpu, job, aligned);
}

/* Pixels that begin at multiples of 16 bytes. */
static bool k_conv_vectors(const yg_ten *t) { return ((uintptr_t)t->data & 15) == 0 && t->pixel * (int64_t)k_type_size(t->type) % 16 == 0; }

/* What both directions share; backward, `out` is d_in and `in` d_out. */
template <typename T>
static void k_conv_any(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *conv, bool backward, const yg_ten *residual, float *moments) {
    const int piece = 16 / (int)sizeof(T);
    k_conv_job<T> job = {};
    job.in = k_view<T>(in);
    job.out = k_view<T>(out);
    job.weight = static_cast<const T *>(backward ? conv->turned : conv->weight);
    job.channels = (in->c + piece - 1) / piece * piece;
    job.pitch = k_conv_pitch(backward ? conv->out_channels : conv->in_channels);
    job.filter = (int64_t)conv->kernel * conv->kernel * job.pitch;
    job.kernel = conv->kernel;
    job.stride = conv->stride;
    job.padding = conv->padding;
    job.backward = backward;
    job.vectors = k_conv_vectors(out) && (!residual || k_conv_vectors(residual));
    job.moments = moments;
    if (residual) job.residual = static_cast<const T *>(residual->data), job.residual_pixel = residual->pixel;
    if (!backward) job.bias = conv->bias, job.activation = conv->activation, job.slope = conv->slope;
    if (conv->kernel == 1 && conv->stride == 1 && conv->padding == 0) { /* pixels in a row */
        job.in.w = job.out.w = in->n * in->h * in->w;
        job.in.n = job.out.n = job.in.h = job.out.h = 1;
    }
    k_conv_run(gpu, job, k_is_aligned(in));
}

/* Is it the convolution's shape? Else it is a failure. `small` is d_out or out, `large` in or d_in. */
static bool k_conv_fits(yg_gpu *gpu, const yg_ten *small, const yg_ten *large, const yg_conv *conv, bool backward) {
    const int channels = backward ? small->c : large->c, wanted = backward ? conv->out_channels : conv->in_channels;
    const bool shaped = small->n == large->n && small->h == (large->h + 2 * conv->padding - conv->kernel) / conv->stride + 1 &&
                        small->w == (large->w + 2 * conv->padding - conv->kernel) / conv->stride + 1;
    const bool whole = (channels == wanted || channels == k_conv_pitch(wanted)) && (backward ? large->c == conv->in_channels : small->c == conv->out_channels);
    const bool typed = small->type == conv->type && large->type == conv->type;
    const int64_t most = k_max((int64_t)small->n * small->h * small->w, (int64_t)large->n * large->h * large->w);
    const bool counted = most < INT32_MAX / 2 && k_max(small->pixel, large->pixel) < INT32_MAX / 4;
    if (shaped && whole && typed && counted) return true;
    k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: a convolution of %dx%dx%dx%d to %dx%dx%dx%d, kernel %d, stride %d, padding %d, cannot be done",
           gpu->index, large->n, large->h, large->w, large->c, small->n, small->h, small->w, small->c, conv->kernel, conv->stride, conv->padding);
    return false;
}

void yg_conv_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *conv, const yg_ten *residual, float *moments) {
    if (gpu->error || !k_conv_fits(gpu, out, in, conv, false)) return;
    K_BY_TYPE(conv->type, k_conv_any, gpu, out, in, conv, false, residual, moments);
    k_launched(gpu, "convolution");
}

/* A pair of rows a tile of K_MOMENT_PIXELS pixels, in their order: K means, then K sums of the squares of the distances from them. */
size_t yg_moment_floats(const yg_ten *out) {
    return (size_t)k_ceil_div((int64_t)out->n * out->h * out->w, K_MOMENT_PIXELS) * 2 * (size_t)out->c;
}

void yg_conv_dgrad(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, const yg_conv *conv, bool accumulate) {
    if (gpu->error || !k_conv_fits(gpu, d_out, d_in, conv, true)) return;
    K_BY_TYPE(conv->type, k_conv_any, gpu, d_in, d_out, conv, true, accumulate ? d_in : NULL, NULL);
    k_launched(gpu, "gradient of a convolution's input");
}

/* ---- weights */

size_t yg_conv_bytes(const yg_conv *conv) {
    return (size_t)conv->out_channels * (size_t)(conv->kernel * conv->kernel) * (size_t)k_conv_pitch(conv->in_channels) * k_type_size(conv->type);
}

size_t yg_turned_bytes(const yg_conv *conv) {
    return (size_t)conv->in_channels * (size_t)(conv->kernel * conv->kernel) * (size_t)k_conv_pitch(conv->out_channels) * k_type_size(conv->type);
}

/* to(K,R,S,pitch) from weight(K,R,S,C). grid, block: a thread an element of `to`. */
template <typename T> __global__ void k_conv_pack(T *to, const float *weight, const float *scale, int64_t count, int channels, int pitch, int taps) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / pitch;
    const int c = (int)(i % pitch);
    if (i >= count) return;
    const float x = c < channels ? weight[row * channels + c] : 0.0f;
    to[i] = k_element<T>::store(scale ? x * scale[row / taps] : x);
}

template <typename T> static void k_conv_pack_as(yg_gpu *gpu, const yg_conv *conv, const float *weight, const float *scale) {
    const int64_t count = (int64_t)(yg_conv_bytes(conv) / sizeof(T));
    const dim3 grid((unsigned)k_ceil_div(count, 256));
    K_LAUNCH(k_conv_pack<T>, grid, 256, 0, gpu->stream, static_cast<T *>(conv->weight), weight, scale, count, conv->in_channels,
             k_conv_pitch(conv->in_channels), conv->kernel * conv->kernel);
}

void yg_conv_pack(yg_gpu *gpu, const yg_conv *conv, const float *weight, const float *scale) {
    if (gpu->error) return;
    K_BY_TYPE(conv->type, k_conv_pack_as, gpu, conv, weight, scale);
    k_launched(gpu, "packing weights");
}

/* to(C,R,S,pitch) from weight(K,R,S,C), through squares of 32 x 32 in shared memory so that both sides run along their rows.
   grid: x squares along K, y along C, z a tap. block: (32,8), a thread four elements. */
template <typename T> __global__ void k_conv_turn(T *to, const float *weight, int outputs, int channels, int pitch) {
    K_SHARED(float, square);
    const int taps = gridDim.z, tap = blockIdx.z, k0 = blockIdx.x * 32, c0 = blockIdx.y * 32, x = threadIdx.x;
    for (int y = threadIdx.y; y < 32; y += 8) {
        const bool inside = k0 + y < outputs && c0 + x < channels;
        square[y * 33 + x] = inside ? weight[((int64_t)(k0 + y) * taps + tap) * channels + c0 + x] : 0.0f;
    }
    __syncthreads();
    for (int y = threadIdx.y; y < 32; y += 8)
        if (c0 + y < channels && k0 + x < pitch) to[((int64_t)(c0 + y) * taps + tap) * pitch + k0 + x] = k_element<T>::store(square[x * 33 + y]);
}

template <typename T> static void k_conv_turn_as(yg_gpu *gpu, const yg_conv *conv, const float *weight) {
    const int pitch = k_conv_pitch(conv->out_channels);
    const dim3 grid((unsigned)k_ceil_div(pitch, 32), (unsigned)k_ceil_div(conv->in_channels, 32), (unsigned)(conv->kernel * conv->kernel));
    K_LAUNCH(k_conv_turn<T>, grid, dim3(32, 8), 32 * 33 * sizeof(float), gpu->stream, static_cast<T *>(conv->turned), weight, conv->out_channels,
             conv->in_channels, pitch);
}

void yg_conv_pack_turned(yg_gpu *gpu, const yg_conv *conv, const float *weight) {
    if (gpu->error) return;
    K_BY_TYPE(conv->type, k_conv_turn_as, gpu, conv, weight);
    k_launched(gpu, "packing turned weights");
}

/* grid, block: a thread a channel. Twin of run_fold. */
static __global__ void k_conv_fold(float *scale, float *bias, const yg_norm_rows rows, int channels, double eps) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= channels) return;
    const double each = (double)rows.gamma[k] / sqrt((double)rows.running_variance[k] + eps);
    scale[k] = (float)each;
    bias[k] = (float)((double)rows.beta[k] - (double)rows.running_mean[k] * each);
}

void yg_conv_fold(yg_gpu *gpu, float *scale, float *bias, const yg_norm_rows *rows, int channels, double eps) {
    if (gpu->error) return;
    K_LAUNCH(k_conv_fold, dim3((unsigned)k_ceil_div(channels, 128)), 128, 0, gpu->stream, scale, bias, *rows, channels, eps);
    k_launched(gpu, "folding a batch norm");
}
