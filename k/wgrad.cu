/* ==== K9 k_wgrad_ d_wgrad_: convolution, gradient of the weights ================================================
   A matrix product with the output pixels as what is summed over: d_weight (K, R*S*C) += d_out^T (K, pixels) * windows (pixels,
   R*S*C), where the windows are the input, looked up in place. Both operands lie pixel by pixel, so tiles of (pixels, channels)
   are copied as they are and turned when they are read. A column of the windows is a chunk of 16 bytes: one tap, some channels;
   taps begin at a chunk of their own, what is beyond C in a tap's last chunk is computed and dropped.
   The sums are few and the pixels many: pixels are cut into splits, each split's sums go to the workspace, and a second kernel
   adds them in the order of the splits. How many there are depends on the shapes and the number of multiprocessors alone.
   Blocks of one split are neighbours in the grid: they run at the same time, and read the same pixels from the second cache. */

enum {
    K_WGRAD_STAGES = 3,       /* tiles in shared memory; 3 of the largest are the 48 KiB that any device gives unasked */
    K_WGRAD_PIXELS = 32,      /* of a tile, tensor cores */
    K_WGRAD_PLAIN = 64,       /* k_wgrad_plain: output channels, and columns, of a tile */
    K_WGRAD_PLAIN_PIXELS = 16,
    K_WGRAD_PLAIN_THREADS = 128,
    K_WGRAD_WORKSPACE = 64 << 20,
    K_WGRAD_ADD_THREADS = 256,
    K_WGRAD_BIAS_ROWS = 8,    /* pixels that a block of k_wgrad_bias reads at once */
    K_WGRAD_BIAS_SLICES = 256
};

/* One gradient, as its kernels take it. */
struct k_wgrad {
    const void *d_out, *in;
    int out_pixel, in_pixel;      /* bytes from pixel to pixel */
    bool out_aligned, in_aligned; /* chunks can be copied whole */
    int K, C, taps, kernel, stride, padding, in_h, in_w, out_h, out_w, pixels;
    int chunks;                   /* of a tap */
    int tiles_m, steps;           /* tiles along K; tiles of pixels a split has */
    float *sums;                  /* of the first split, (K,R,S,C) */
    int64_t sums_stride;          /* from split to split */
    bool add, paired;             /* onto what is there; C is even and sums are 8-byte aligned */
    int step_x, step_y, step_at;  /* d_wgrad_window: from one of a thread's pixels to its next */
    int row_x, row_at, image_y, image_at; /* and from the end of a row, of an image, to the next */
};

/* A tile (pixels, channels) in shared memory, how `threads` copy it, and where its chunks lie, in bytes. A warp reads a chunk of
   8 pixels at once: swizzled, these lie in different banks. */
template <typename T, int tile_pixels, int channels, int threads, bool swizzled> struct d_wgrad_tile {
    static constexpr int vector = 16 / (int)sizeof(T), chunks = channels / vector, pixels = tile_pixels, bytes = 16 * pixels * chunks;
    static constexpr int rows = threads / chunks < pixels ? threads / chunks : pixels; /* pixels that are copied at once */
    static constexpr int copies = pixels / rows;
    static constexpr bool idle = threads > rows * chunks; /* some threads copy nothing */
    static_assert(rows % 8 == 0 && pixels % rows == 0, "the swizzle repeats after 8 pixels");
    static __device__ __forceinline__ int place(int pixel, int chunk) {
        const int turn = chunks >= 8 ? pixel & 7 : pixel / (8 / chunks) & (chunks - 1);
        return 16 * (pixel * chunks + (swizzled ? chunk ^ turn : chunk));
    }
};

/* A chunk to shared memory, zeros where not `valid`; where chunks are not aligned, `count` elements one by one and zeros behind. */
template <typename T, bool aligned> static __device__ __forceinline__ void d_wgrad_copy(unsigned char *to, const unsigned char *from, bool valid, int count) {
    if constexpr (aligned) d_copy_async16(to, from, valid);
    else {
        struct alignas(16) chunk { T element[16 / sizeof(T)]; } gathered;
#pragma unroll
        for (int i = 0; i < 16 / (int)sizeof(T); i++) gathered.element[i] = valid && i < count ? reinterpret_cast<const T *>(from)[i] : k_element<T>::store(0);
        *reinterpret_cast<chunk *>(to) = gathered;
    }
}

/* What a thread copies of d_out: a chunk of every tile::rows-th pixel. */
struct d_wgrad_channels {
    const unsigned char *from;
    int to, left, count; /* place in a tile; pixels until none is left, from the next one on; channels there are */
};

template <typename T, typename tile>
static __device__ __forceinline__ d_wgrad_channels d_wgrad_channels_at(const k_wgrad &job, int k0, int first, int end) {
    const int chunk = (int)threadIdx.x % tile::chunks, row = (int)threadIdx.x / tile::chunks, k = k0 + chunk * tile::vector, pixel = first + row;
    d_wgrad_channels at;
    at.from = static_cast<const unsigned char *>(job.d_out) + (int64_t)pixel * job.out_pixel + k * (int)sizeof(T);
    at.to = tile::place(row, chunk);
    at.count = job.K - k;
    at.left = at.count > 0 ? end - pixel : 0;
    return at;
}

template <typename T, typename tile, bool aligned>
static __device__ __forceinline__ void d_wgrad_load_out(unsigned char *to, d_wgrad_channels &at, const k_wgrad &job) {
    if (tile::idle && (int)threadIdx.x >= tile::rows * tile::chunks) return;
#pragma unroll
    for (int i = 0; i < tile::copies; i++) {
        d_wgrad_copy<T, aligned>(to + at.to + i * (tile::bytes / tile::copies), at.from, at.left > i * tile::rows, at.count);
        at.from += tile::rows * (int64_t)job.out_pixel;
    }
    at.left -= tile::pixels;
}

/* What a thread copies of the windows: a chunk, for every tile::rows-th output pixel. y, x: the place in the input under its tap;
   `at`: that place's number in the whole input. */
struct d_wgrad_window {
    const unsigned char *from;
    int to, left, count, y, x, at, y_end, x_end;
};

template <typename T, typename tile>
static __device__ __forceinline__ d_wgrad_window d_wgrad_window_at(const k_wgrad &job, int column, int first, int end) {
    const int place = (int)threadIdx.x % tile::chunks, row = (int)threadIdx.x / tile::chunks, chunk = column / tile::vector + place;
    const int tap = chunk / job.chunks, c = chunk % job.chunks * tile::vector, pixel = first + row, line = pixel / job.out_w;
    const int down = tap / job.kernel - job.padding, right = tap % job.kernel - job.padding;
    d_wgrad_window at;
    at.from = static_cast<const unsigned char *>(job.in) + c * (int)sizeof(T);
    at.to = tile::place(row, place);
    at.count = tap < job.taps ? job.C - c : 0;
    at.left = at.count > 0 ? end - pixel : 0;
    at.y = line % job.out_h * job.stride + down;
    at.x = pixel % job.out_w * job.stride + right;
    at.at = (line / job.out_h * job.in_h + at.y) * job.in_w + at.x;
    at.y_end = job.image_y + down;
    at.x_end = job.row_x + right;
    return at;
}

template <typename T, typename tile, bool aligned>
static __device__ __forceinline__ void d_wgrad_load_in(unsigned char *to, d_wgrad_window &at, const k_wgrad &job) {
    if (tile::idle && (int)threadIdx.x >= tile::rows * tile::chunks) return;
#pragma unroll
    for (int i = 0; i < tile::copies; i++) {
        const bool inside = (unsigned)at.y < (unsigned)job.in_h && (unsigned)at.x < (unsigned)job.in_w;
        const unsigned char *from = at.from + (int64_t)at.at * job.in_pixel;
        d_wgrad_copy<T, aligned>(to + at.to + i * (tile::bytes / tile::copies), from, inside && at.left > i * tile::rows, at.count);
        at.x += job.step_x;
        at.y += job.step_y;
        at.at += job.step_at;
        if (at.x >= at.x_end) at.x -= job.row_x, at.y += job.stride, at.at += job.row_at;
        if (at.y >= at.y_end) at.y -= job.image_y, at.at += job.image_at;
    }
    at.left -= tile::pixels;
}

/* The next tile of both operands, the windows behind d_out. */
template <typename T, typename tile_out, typename tile_in, bool gather>
static __device__ __forceinline__ void d_wgrad_load(unsigned char *to, d_wgrad_channels &channels, d_wgrad_window &window, const k_wgrad &job) {
    if (!gather || job.out_aligned) d_wgrad_load_out<T, tile_out, true>(to, channels, job);
    else d_wgrad_load_out<T, tile_out, false>(to, channels, job);
    if (!gather || job.in_aligned) d_wgrad_load_in<T, tile_in, true>(to + tile_out::bytes, window, job);
    else d_wgrad_load_in<T, tile_in, false>(to + tile_out::bytes, window, job);
}

/* Two neighbouring sums of output channel k; column is even. */
template <int vector> static __device__ __forceinline__ void d_wgrad_store(const k_wgrad &job, float *sums, int k, int column, float a, float b) {
    const int tap = column / vector / job.chunks, c = column / vector % job.chunks * vector + column % vector;
    if (k >= job.K || tap >= job.taps || c >= job.C) return;
    float *to = sums + ((int64_t)k * job.taps + tap) * job.C + c;
    if (job.paired) {
        *reinterpret_cast<float2 *>(to) = make_float2(a, b);
        return;
    }
    to[0] = job.add ? to[0] + a : a;
    if (c + 1 < job.C) to[1] = job.add ? to[1] + b : b;
}

template <typename T> static __device__ __forceinline__ void d_wgrad_mma(float d[4], const uint32_t a[4], const uint32_t b[2]);
template <> __device__ __forceinline__ void d_wgrad_mma<__half>(float d[4], const uint32_t a[4], const uint32_t b[2]) { d_mma_f16(d, a, b); }
template <> __device__ __forceinline__ void d_wgrad_mma<__nv_bfloat16>(float d[4], const uint32_t a[4], const uint32_t b[2]) { d_mma_bf16(d, a, b); }

/* A warp's part of a tile, (16 high, 8 wide) sums, += the products of the tile's pixels; m and n: its first output channel and
   column in the tile. */
template <typename T, typename tile_out, typename tile_in, int high, int wide>
static __device__ __forceinline__ void d_wgrad_products(float (&sums)[high][wide][4], const unsigned char *tile, int m, int n) {
    const int matrix = (int)threadIdx.x % K_WARP / 8, row = (int)threadIdx.x % 8;
    const unsigned char *out = tile, *in = tile + tile_out::bytes;
#pragma unroll
    for (int pixel = 0; pixel < tile_out::pixels; pixel += 16, out += tile_out::place(16, 0), in += tile_in::place(16, 0)) {
        uint32_t a[high][4], b[wide / 2][4];
#pragma unroll
        for (int i = 0; i < high; i++) d_ldmatrix_x4_trans(a[i], out + tile_out::place(matrix / 2 * 8 + row, m / 8 + 2 * i + matrix % 2));
#pragma unroll
        for (int j = 0; j < wide / 2; j++) d_ldmatrix_x4_trans(b[j], in + tile_in::place(matrix % 2 * 8 + row, n / 8 + 2 * j + matrix / 2));
#pragma unroll
        for (int i = 0; i < high; i++)
#pragma unroll
            for (int j = 0; j < wide; j++) d_wgrad_mma<T>(sums[i][j], a[i], b[j / 2] + j % 2 * 2);
    }
}

/* Sums of one split on tensor cores. Grid (tiles along K, then along the columns; splits); a block has a tile of (M, N) sums, its
   warps_m * warps_n warps a part each, of 16 x 8 pieces as mma gives them. Order of the sums: pixels. Twin: op_conv_wgrad. */
template <typename T, int M, int N, int warps_m, int warps_n, bool gather>
static __global__ void __launch_bounds__(K_WARP *warps_m *warps_n) k_wgrad_tensor(const k_wgrad job) {
    typedef d_wgrad_tile<T, K_WGRAD_PIXELS, M, K_WARP * warps_m * warps_n, true> tile_out;
    typedef d_wgrad_tile<T, K_WGRAD_PIXELS, N, K_WARP * warps_m * warps_n, true> tile_in;
    constexpr int high = M / warps_m / 16, wide = N / warps_n / 8, stage_bytes = tile_out::bytes + tile_in::bytes;
    K_SHARED(unsigned char, tiles);
    const int k0 = (int)blockIdx.x % job.tiles_m * M, column0 = (int)blockIdx.x / job.tiles_m * N;
    const int first = (int)blockIdx.y * job.steps * K_WGRAD_PIXELS, end = min(job.pixels, first + job.steps * K_WGRAD_PIXELS);
    const int warp = (int)threadIdx.x / K_WARP, lane = (int)threadIdx.x % K_WARP, m = warp % warps_m * high * 16, n = warp / warps_m * wide * 8;
    const bool busy = k0 + m < job.K && (column0 + n) / 8 < job.taps * job.chunks;
    d_wgrad_channels channels = d_wgrad_channels_at<T, tile_out>(job, k0, first, end);
    d_wgrad_window window = d_wgrad_window_at<T, tile_in>(job, column0, first, end);
    float sums[high][wide][4] = {};
    for (int stage = 0; stage < K_WGRAD_STAGES - 1; stage++) {
        if (stage < job.steps) d_wgrad_load<T, tile_out, tile_in, gather>(tiles + stage * stage_bytes, channels, window, job);
        d_copy_async_commit();
    }
    int from = 0, to = (K_WGRAD_STAGES - 1) * stage_bytes;
    for (int left = job.steps; left > 0; left--) {
        d_copy_async_wait<K_WGRAD_STAGES - 2>();
        __syncthreads();
        if (left >= K_WGRAD_STAGES) d_wgrad_load<T, tile_out, tile_in, gather>(tiles + to, channels, window, job);
        d_copy_async_commit();
        if (busy) d_wgrad_products<T, tile_out, tile_in, high, wide>(sums, tiles + from, m, n);
        to = from; /* the next tile takes the place of the one just read */
        from = from + stage_bytes < K_WGRAD_STAGES * stage_bytes ? from + stage_bytes : 0;
    }
    float *all = job.sums + (int64_t)blockIdx.y * job.sums_stride;
#pragma unroll
    for (int j = 0; j < wide; j++)
#pragma unroll
        for (int i = 0; i < high; i++) {
            const int k = k0 + m + i * 16 + lane / 4, column = column0 + n + j * 8 + lane % 4 * 2;
            d_wgrad_store<8>(job, all, k, column, sums[i][j][0], sums[i][j][1]);
            d_wgrad_store<8>(job, all, k + 8, column, sums[i][j][2], sums[i][j][3]);
        }
}

/* Four elements that lie together, as numbers. */
template <typename T> static __device__ __forceinline__ void d_wgrad_four(float to[4], const T *from) {
    struct alignas(4 * sizeof(T)) four { T element[4]; };
    const four read = *reinterpret_cast<const four *>(from);
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = k_element<T>::load(read.element[i]);
}

/* The same without tensor cores, in float. Grid as above, tiles of K_WGRAD_PLAIN squared; a thread has 4 columns of 4 output
   channels in the upper half of the tile and of 4 in the lower. Order of the sums: pixels. Twin: op_conv_wgrad. */
template <typename T> static __global__ void __launch_bounds__(K_WGRAD_PLAIN_THREADS) k_wgrad_plain(const k_wgrad job) {
    typedef d_wgrad_tile<T, K_WGRAD_PLAIN_PIXELS, K_WGRAD_PLAIN, K_WGRAD_PLAIN_THREADS, false> tile;
    K_SHARED(unsigned char, tiles);
    const int k0 = (int)blockIdx.x % job.tiles_m * K_WGRAD_PLAIN, column0 = (int)blockIdx.x / job.tiles_m * K_WGRAD_PLAIN;
    const int first = (int)blockIdx.y * job.steps * tile::pixels, end = min(job.pixels, first + job.steps * tile::pixels);
    const int m = (int)threadIdx.x / (K_WGRAD_PLAIN / 4) * 4, n = (int)threadIdx.x % (K_WGRAD_PLAIN / 4) * 4;
    d_wgrad_channels channels = d_wgrad_channels_at<T, tile>(job, k0, first, end);
    d_wgrad_window window = d_wgrad_window_at<T, tile>(job, column0, first, end);
    float sums[8][4] = {};
    for (int stage = 0; stage < K_WGRAD_STAGES - 1; stage++) {
        if (stage < job.steps) d_wgrad_load<T, tile, tile, true>(tiles + stage * 2 * tile::bytes, channels, window, job);
        d_copy_async_commit();
    }
    for (int step = 0; step < job.steps; step++) {
        const int next = step + K_WGRAD_STAGES - 1;
        d_copy_async_wait<K_WGRAD_STAGES - 2>();
        __syncthreads();
        if (next < job.steps) d_wgrad_load<T, tile, tile, true>(tiles + next % K_WGRAD_STAGES * 2 * tile::bytes, channels, window, job);
        d_copy_async_commit();
        const T *out = reinterpret_cast<const T *>(tiles + step % K_WGRAD_STAGES * 2 * tile::bytes), *in = out + tile::pixels * K_WGRAD_PLAIN;
#pragma unroll
        for (int pixel = 0; pixel < tile::pixels; pixel++) {
            float a[8], b[4];
            d_wgrad_four(a, out + pixel * K_WGRAD_PLAIN + m);
            d_wgrad_four(a + 4, out + pixel * K_WGRAD_PLAIN + K_WGRAD_PLAIN / 2 + m);
            d_wgrad_four(b, in + pixel * K_WGRAD_PLAIN + n);
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
    }
    float *all = job.sums + (int64_t)blockIdx.y * job.sums_stride;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int k = k0 + m + i % 4 + i / 4 * (K_WGRAD_PLAIN / 2);
        d_wgrad_store<tile::vector>(job, all, k, column0 + n, sums[i][0], sums[i][1]);
        d_wgrad_store<tile::vector>(job, all, k, column0 + n + 2, sums[i][2], sums[i][3]);
    }
}

/* to += the sums of all splits. Grid: elements; a block is (elements, groups): group g adds the splits g, g + groups, ..., then
   the groups are added in their order. */
static __global__ void __launch_bounds__(K_WGRAD_ADD_THREADS) k_wgrad_add(float *to, const float *sums, int64_t stride, int count, int splits) {
    __shared__ float shared[K_WGRAD_ADD_THREADS];
    const int groups = (int)blockDim.y, i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float sum = 0;
    if (i < count) {
#pragma unroll 4
        for (int split = (int)threadIdx.y; split < splits; split += groups) sum += sums[split * stride + i];
    }
    shared[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || i >= count) return;
    for (int group = 1; group < groups; group++) sum += shared[group * (int)blockDim.x + (int)threadIdx.x];
    to[i] += sum;
}

static void k_wgrad_add_all(yg_gpu *gpu, float *to, const float *sums, int64_t stride, int count, int splits) {
    const int groups = splits <= 4 ? 1 : splits <= 64 ? 8 : 32, elements = K_WGRAD_ADD_THREADS / groups;
    const dim3 grid((unsigned)k_ceil_div(count, elements)), block((unsigned)elements, (unsigned)groups);
    K_LAUNCH(k_wgrad_add, grid, block, 0, gpu->stream, to, sums, stride, count, splits);
}

/* sums(slice, channel) = those of d_out over a slice of its pixels. Grid (32 channels, slices), block (32 channels, pixels): a
   thread adds every K_WGRAD_BIAS_ROWS-th pixel, then the rows are added in their order. Twin: op_bias_body. */
template <typename T>
static __global__ void __launch_bounds__(K_WARP *K_WGRAD_BIAS_ROWS) k_wgrad_bias(float *sums, k_ten<const T> d_out, int pixels, int slice_pixels) {
    __shared__ float shared[K_WGRAD_BIAS_ROWS][K_WARP];
    const int k = (int)(blockIdx.x * K_WARP + threadIdx.x), first = (int)blockIdx.y * slice_pixels, end = min(pixels, first + slice_pixels);
    float sum = 0;
    if (k < d_out.c) {
#pragma unroll 4
        for (int pixel = first + (int)threadIdx.y; pixel < end; pixel += K_WGRAD_BIAS_ROWS) sum += k_element<T>::load(d_out.data[pixel * d_out.pixel + k]);
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || k >= d_out.c) return;
    for (int row = 1; row < K_WGRAD_BIAS_ROWS; row++) sum += shared[row][threadIdx.x];
    sums[(int64_t)blockIdx.y * d_out.c + k] = sum;
}

template <typename T> static void k_wgrad_bias_sums(yg_gpu *gpu, float *d_bias, const yg_ten *d_out, int pixels) {
    const int slice = (int)k_max(k_ceil_div(pixels, K_WGRAD_BIAS_SLICES), (int64_t)64), slices = (int)k_ceil_div(pixels, slice);
    float *sums = k_scratch<float>(gpu, (size_t)slices * (size_t)d_out->c);
    if (!sums) return;
    K_LAUNCH(k_wgrad_bias<T>, dim3((unsigned)k_ceil_div(d_out->c, K_WARP), (unsigned)slices), dim3(K_WARP, K_WGRAD_BIAS_ROWS), 0, gpu->stream, sums,
             k_view<const T>(d_out), pixels, slice);
    k_wgrad_add_all(gpu, d_bias, sums, d_out->c, d_out->c, slices);
}

/* Tiles that there are kernels for. `warp_m`, `warp_n`: a warp's part, left out where it is all beyond the sums. `resident`: blocks
   that keep a multiprocessor busy. */
struct k_wgrad_shape { int m, n, warp_m, warp_n, pixels, resident; };
enum { K_WGRAD_16, K_WGRAD_32, K_WGRAD_64, K_WGRAD_128, K_WGRAD_FLOAT, K_WGRAD_SHAPES };
static const k_wgrad_shape k_wgrad_shapes[K_WGRAD_SHAPES] = {
    {16, 128, 16, 32, K_WGRAD_PIXELS, 3}, {32, 128, 32, 32, K_WGRAD_PIXELS, 3}, {64, 64, 32, 32, K_WGRAD_PIXELS, 4}, {128, 128, 64, 32, K_WGRAD_PIXELS, 2},
    {K_WGRAD_PLAIN, K_WGRAD_PLAIN, K_WGRAD_PLAIN, K_WGRAD_PLAIN, K_WGRAD_PLAIN_PIXELS, 4}};

/* Which tile, and how many splits of how many tiles of pixels. `time` is a guess, in clocks of a multiprocessor. */
struct k_wgrad_plan { int shape, tiles_m, tiles_n, splits, steps; int64_t time; };

static int64_t k_wgrad_count(const yg_conv *conv) { return (int64_t)conv->out_channels * conv->kernel * conv->kernel * conv->in_channels; }

/* The plan with about `each` blocks on a multiprocessor. What counts: products, chunks that are read, blocks too few to hide the
   waiting, start and end of each block, and the sums that go through the workspace. */
static k_wgrad_plan k_wgrad_plan_make(const yg_gpu *gpu, const yg_conv *conv, int64_t pixels, int columns, int shape, int each) {
    const k_wgrad_shape *tile = &k_wgrad_shapes[shape];
    const int64_t steps = k_ceil_div(pixels, tile->pixels), stride = (k_wgrad_count(conv) + 1) & ~(int64_t)1;
    k_wgrad_plan plan = {shape, (int)k_ceil_div(conv->out_channels, tile->m), (int)k_ceil_div(columns, tile->n), 1, 1, 0};
    const int64_t tiles = (int64_t)plan.tiles_m * plan.tiles_n, most = k_min(k_min(steps, (int64_t)K_WGRAD_WORKSPACE / 4 / stride), (int64_t)65535);
    const int64_t splits = k_max(k_min((int64_t)each * gpu->multiprocessors / tiles, most), (int64_t)1);
    plan.steps = (int)k_ceil_div(steps, splits);
    plan.splits = (int)k_ceil_div(steps, plan.steps);
    const int64_t K = conv->out_channels, products = k_ceil_div(K, tile->warp_m) * tile->warp_m * k_ceil_div(columns, tile->warp_n) * tile->warp_n / tiles;
    const int64_t read = k_ceil_div(K, plan.tiles_m) + k_ceil_div(columns, plan.tiles_n), step = tile->pixels * (products / 16 + read) / 32;
    const int64_t blocks = k_ceil_div(tiles * plan.splits, gpu->multiprocessors), rounds = k_ceil_div(blocks, tile->resident);
    plan.time = rounds * (tile->resident * plan.steps * step + 1500) + blocks * tile->m * tile->n / 4;
    if (plan.splits > 1) plan.time += 3000 + plan.splits * stride / 2 / gpu->multiprocessors;
    return plan;
}

static bool k_wgrad_on_tensor_cores(const yg_gpu *gpu, yg_type type) { return type != YG_F32 && gpu->compute >= (type == YG_F16 ? 75 : 80); }

static k_wgrad_plan k_wgrad_plan_best(const yg_gpu *gpu, const yg_ten *d_out, const yg_ten *in, const yg_conv *conv, bool aligned) {
    const int vector = 16 / (int)k_type_size(in->type), columns = conv->kernel * conv->kernel * (int)k_ceil_div(conv->in_channels, vector) * vector;
    const int64_t pixels = (int64_t)d_out->n * d_out->h * d_out->w;
    const bool tensor = k_wgrad_on_tensor_cores(gpu, in->type);
    k_wgrad_plan best = {0, 0, 0, 0, 0, INT64_MAX};
    for (int shape = 0; shape < K_WGRAD_SHAPES; shape++) {
        if (!tensor ? shape != K_WGRAD_FLOAT : shape == K_WGRAD_FLOAT || (!aligned && shape != K_WGRAD_64)) continue;
        for (int each = 1; each <= 8; each++) {
            const k_wgrad_plan plan = k_wgrad_plan_make(gpu, conv, pixels, columns, shape, each);
            if (plan.time < best.time) best = plan;
        }
    }
    return best;
}

/* Why it cannot be done, or NULL. */
static const char *k_wgrad_refuses(const yg_ten *d_out, const yg_ten *in, const yg_conv *conv) {
    const int64_t most = INT32_MAX / 2;
    if (d_out->type != in->type) return "tensors of two types";
    if (conv->kernel < 1 || conv->stride < 1 || conv->padding < 0) return "no such window";
    if (d_out->n != in->n || d_out->c != conv->out_channels || in->c < conv->in_channels || in->h + 2 * conv->padding < conv->kernel ||
        in->w + 2 * conv->padding < conv->kernel || d_out->h != (in->h + 2 * conv->padding - conv->kernel) / conv->stride + 1 ||
        d_out->w != (in->w + 2 * conv->padding - conv->kernel) / conv->stride + 1)
        return "shapes that do not match";
    if ((int64_t)in->n * in->h * in->w > most || (int64_t)d_out->n * d_out->h * d_out->w > most || in->pixel > most / 4 || d_out->pixel > most / 4 ||
        k_wgrad_count(conv) > most)
        return "too large";
    return NULL;
}

/* Enough for aligned views and others: they may move after the memory was planned. */
size_t yg_wgrad_bytes(const yg_gpu *gpu, const yg_ten *d_out, const yg_ten *in, const yg_conv *conv) {
    if (k_wgrad_refuses(d_out, in, conv)) return 0;
    const int splits = k_max(k_wgrad_plan_best(gpu, d_out, in, conv, true).splits, k_wgrad_plan_best(gpu, d_out, in, conv, false).splits);
    return splits > 1 ? (size_t)splits * (((size_t)k_wgrad_count(conv) + 1) & ~(size_t)1) * sizeof(float) : 0;
}

/* How a thread goes on to the output pixel that is `rows` further. */
static void k_wgrad_stride(k_wgrad *job, int rows) {
    job->step_x = rows % job->out_w * job->stride;
    job->step_y = rows / job->out_w % job->out_h * job->stride;
    job->step_at = (rows / job->out_w / job->out_h * job->in_h + job->step_y) * job->in_w + job->step_x;
    job->row_x = job->out_w * job->stride;
    job->row_at = job->stride * job->in_w - job->row_x;
    job->image_y = job->out_h * job->stride;
    job->image_at = (job->in_h - job->image_y) * job->in_w;
}

template <typename T, int M, int N, int warps_m, int warps_n, bool gather> static void k_wgrad_launch(yg_gpu *gpu, k_wgrad *job, dim3 grid) {
    constexpr int threads = K_WARP * warps_m * warps_n, bytes = K_WGRAD_STAGES * K_WGRAD_PIXELS * (M + N) * (int)sizeof(T);
    k_wgrad_stride(job, d_wgrad_tile<T, K_WGRAD_PIXELS, N, threads, true>::rows);
    K_LAUNCH((k_wgrad_tensor<T, M, N, warps_m, warps_n, gather>), grid, dim3(threads), bytes, gpu->stream, *job);
}

template <typename T> static void k_wgrad_launch_tensor(yg_gpu *gpu, k_wgrad *job, int shape, dim3 grid) {
    if (shape == K_WGRAD_16) k_wgrad_launch<T, 16, 128, 1, 4, false>(gpu, job, grid);
    else if (shape == K_WGRAD_32) k_wgrad_launch<T, 32, 128, 1, 4, false>(gpu, job, grid);
    else if (shape == K_WGRAD_64) k_wgrad_launch<T, 64, 64, 2, 2, true>(gpu, job, grid);
    else k_wgrad_launch<T, 128, 128, 2, 4, false>(gpu, job, grid);
}

template <typename T> static void k_wgrad_launch_plain(yg_gpu *gpu, k_wgrad *job, dim3 grid) {
    constexpr int bytes = K_WGRAD_STAGES * K_WGRAD_PLAIN_PIXELS * 2 * K_WGRAD_PLAIN * (int)sizeof(T);
    k_wgrad_stride(job, d_wgrad_tile<T, K_WGRAD_PLAIN_PIXELS, K_WGRAD_PLAIN, K_WGRAD_PLAIN_THREADS, false>::rows);
    K_LAUNCH(k_wgrad_plain<T>, grid, dim3(K_WGRAD_PLAIN_THREADS), bytes, gpu->stream, *job);
}

void yg_conv_wgrad(yg_gpu *gpu, float *d_weight, float *d_bias, const yg_ten *d_out, const yg_ten *in, const yg_conv *conv, void *workspace) {
    if (gpu->error) return;
    const char *refusal = k_wgrad_refuses(d_out, in, conv);
    if (refusal) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: gradient of a convolution's weights: %s", gpu->index, refusal);
        return;
    }
    const int pixels = d_out->n * d_out->h * d_out->w, count = (int)k_wgrad_count(conv);
    if (!pixels) return;
    const bool out_aligned = k_is_aligned(d_out), in_aligned = k_is_aligned(in);
    const k_wgrad_plan plan = k_wgrad_plan_best(gpu, d_out, in, conv, out_aligned && in_aligned);
    const bool direct = plan.splits == 1;
    k_wgrad job = {};
    job.d_out = d_out->data, job.in = in->data;
    const int size = (int)k_type_size(in->type);
    job.out_pixel = (int)d_out->pixel * size, job.in_pixel = (int)in->pixel * size;
    job.out_aligned = out_aligned, job.in_aligned = in_aligned;
    job.K = conv->out_channels, job.C = conv->in_channels;
    job.kernel = conv->kernel, job.stride = conv->stride, job.padding = conv->padding, job.taps = conv->kernel * conv->kernel;
    job.in_h = in->h, job.in_w = in->w, job.out_h = d_out->h, job.out_w = d_out->w, job.pixels = pixels;
    job.chunks = (int)k_ceil_div(conv->in_channels, 16 / size);
    job.tiles_m = plan.tiles_m, job.steps = plan.steps;
    job.sums = direct ? d_weight : static_cast<float *>(workspace);
    job.sums_stride = direct ? 0 : (count + 1) & ~1;
    job.add = direct, job.paired = !direct && conv->in_channels % 2 == 0;
    const dim3 grid((unsigned)(plan.tiles_m * plan.tiles_n), (unsigned)plan.splits);
    if (plan.shape == K_WGRAD_FLOAT) K_BY_TYPE(in->type, k_wgrad_launch_plain, gpu, &job, grid);
    else if (in->type == YG_F16) k_wgrad_launch_tensor<__half>(gpu, &job, plan.shape, grid);
    else k_wgrad_launch_tensor<__nv_bfloat16>(gpu, &job, plan.shape, grid);
    if (!direct) k_wgrad_add_all(gpu, d_weight, job.sums, job.sums_stride, count, plan.splits);
    if (d_bias) K_BY_TYPE(in->type, k_wgrad_bias_sums, gpu, d_bias, d_out, pixels);
    k_launched(gpu, "gradient of a convolution's weights");
}
