/* ==== K4 k_pixels_ k_walk_ d_elements_: pictures and floats into tensors ============================================
   Everything here runs at the speed of memory, so that what counts is 16 bytes an access and neighbours side by side.
   A kernel that goes over a view walks: a thread stays at its channels, a vector of them, and takes pixels. Lanes are
   neighbouring channels, then neighbouring pixels; what belongs to the channels is in registers once for all pixels.
   A vector is 16 bytes where every view of the call allows it (k_is_aligned), else one element: the same kernel, slower. */

enum { K_WALK_THREADS = 256, K_WALK_UNROLL = 4, K_WALK_GROUPS = 64 };

/* Calls `function<T, vector>(...)` with the T of a yg_type and as many elements as 16 bytes hold, or one. */
#define K_BY_VECTOR(type, aligned, function, ...)                                         \
    do {                                                                                  \
        if ((type) == YG_F32 && (aligned)) function<float, 4>(__VA_ARGS__);               \
        else if ((type) == YG_F32) function<float, 1>(__VA_ARGS__);                       \
        else if ((type) == YG_F16 && (aligned)) function<__half, 8>(__VA_ARGS__);         \
        else if ((type) == YG_F16) function<__half, 1>(__VA_ARGS__);                      \
        else if (aligned) function<__nv_bfloat16, 8>(__VA_ARGS__);                        \
        else function<__nv_bfloat16, 1>(__VA_ARGS__);                                     \
    } while (0)

/* A vector of elements as memory has it. */
template <typename T, int V> struct __align__(V * sizeof(T)) k_elements { T at[V]; };

template <typename T, int V> static __device__ __forceinline__ k_elements<T, V> d_elements_load(const T *from) {
    k_elements<T, V> e;
    if (V * sizeof(T) == 16) {
        const uint4 bits = *reinterpret_cast<const uint4 *>(from);
        memcpy(&e, &bits, sizeof e);
    } else e.at[0] = *from;
    return e;
}

template <typename T, int V> static __device__ __forceinline__ void d_elements_store(T *to, const k_elements<T, V> &e) {
    if (V * sizeof(T) == 16) {
        uint4 bits;
        memcpy(&bits, &e, sizeof e);
        *reinterpret_cast<uint4 *>(to) = bits;
    } else *to = e.at[0];
}

static __device__ __forceinline__ void d_elements_pair(__half *to, float x, float y) {
    const __half2 pair = __floats2half2_rn(x, y);
    memcpy(to, &pair, sizeof pair);
}
static __device__ __forceinline__ void d_elements_pair(__nv_bfloat16 *to, float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    memcpy(to, &pair, sizeof pair);
}
static __device__ __forceinline__ void d_elements_pair(float *to, float x, float y) {
    to[0] = x;
    to[1] = y;
}

template <typename T, int V> static __device__ __forceinline__ void d_elements_unpack(float x[V], const k_elements<T, V> &e) {
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = k_element<T>::load(e.at[j]);
}

template <typename T, int V> static __device__ __forceinline__ k_elements<T, V> d_elements_pack(const float x[V]) {
    k_elements<T, V> e;
    if (V == 1) e.at[0] = k_element<T>::store(x[0]);
#pragma unroll
    for (int j = 0; j + 1 < V; j += 2) d_elements_pair(e.at + j, x[j], x[j + 1]);
    return e;
}

/* How a grid walks over pixels: blockIdx.y and threadIdx.x are a thread's vector of channels, blockIdx.x and threadIdx.y its
   first pixel; it takes at most `steps` of them, blockDim.y apart. */
typedef struct k_walk { dim3 grid, block; int64_t pixels; int steps; } k_walk;

static int64_t k_pixel_count(const yg_ten *t) { return (int64_t)t->n * t->h * t->w; }

/* `groups`: most vectors side by side in a block. */
static k_walk k_walk_over(const yg_ten *t, int vector, int groups, int64_t steps) {
    k_walk walk;
    const int vectors = (t->c + vector - 1) / vector, pieces = (vectors + groups - 1) / groups, across = (vectors + pieces - 1) / pieces;
    walk.pixels = k_pixel_count(t);
    walk.steps = (int)steps;
    walk.block = dim3((unsigned)across, (unsigned)(K_WALK_THREADS / across));
    walk.grid = dim3((unsigned)k_ceil_div(walk.pixels, (int64_t)walk.block.y * walk.steps), (unsigned)pieces);
    return walk;
}

/* A walk with as many pixels a thread, up to 16, as leave every multiprocessor enough blocks. */
static k_walk k_walk_map(const yg_gpu *gpu, const yg_ten *t, int vector) {
    const int64_t filled = (int64_t)gpu->multiprocessors * 8 * K_WALK_THREADS;
    int64_t steps = 1;
    while (steps < 16 && k_pixel_count(t) * t->c / vector >= 2 * steps * filled) steps *= 2;
    return k_walk_over(t, vector, K_WALK_GROUPS, steps);
}

template <int V> static __device__ __forceinline__ int d_walk_channel() { return (int)(blockIdx.y * blockDim.x + threadIdx.x) * V; }
static __device__ __forceinline__ int64_t d_walk_first(int steps) { return (int64_t)blockIdx.x * blockDim.y * steps + threadIdx.y; }
static __device__ __forceinline__ int64_t d_walk_end(const k_walk &walk) {
    const int64_t end = ((int64_t)blockIdx.x + 1) * blockDim.y * walk.steps;
    return end < walk.pixels ? end : walk.pixels;
}

/* Are these views of the same pixels, channels and type? Else that is the failure. */
static bool k_alike(yg_gpu *gpu, const yg_ten *a, const yg_ten *b, const char *what) {
    if (a->n == b->n && a->h == b->h && a->w == b->w && a->c == b->c && a->type == b->type) return true;
    k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: %s: %dx%dx%dx%d of type %d against %dx%dx%dx%d of type %d", gpu->index, what, a->n, a->h,
           a->w, a->c, (int)a->type, b->n, b->h, b->w, b->c, (int)b->type);
    return false;
}

/* v / 255 as a division rounds it: a product with the reciprocal, mended by what it leaves. */
static __device__ __forceinline__ float d_pixels_share(uint8_t v) {
    const float x = (float)v, reciprocal = 1.0f / 255.0f, q = x * reciprocal;
    return fmaf(fmaf(-255.0f, q, x), reciprocal, q);
}

/* Where a position of the output samples: between `at` and `next`, and how far from `at`; as dl_tap. */
static __device__ __forceinline__ float d_pixels_tap(int position, float scale, int in, int *at, int *next) {
    const float source = fmaxf(scale * ((float)position + 0.5f) - 0.5f, 0.0f);
    *at = min((int)source, in - 1);
    *next = min(*at + 1, in - 1);
    return source - (float)*at;
}

/* Bytes to shares of 255, resized bilinearly where `resized`. A block is a row of the output, a thread pixels of it. Twin:
   dl_floats. */
template <typename T, int V, bool resized>
static __global__ void __launch_bounds__(K_WALK_THREADS) k_pixels(k_ten<T> out, const uint8_t *pixels, int in_h, int in_w, float scale_y, float scale_x) {
    const int n = (int)blockIdx.x / out.h, y = (int)blockIdx.x % out.h;
    int top = y, bottom = y, left, right;
    const float low = resized ? d_pixels_tap(y, scale_y, in_h, &top, &bottom) : 0.0f;
    const uint8_t *above = pixels + ((int64_t)n * in_h + top) * in_w * 3, *below = pixels + ((int64_t)n * in_h + bottom) * in_w * 3;
    const float zeros[V] = {};
    for (int x = (int)threadIdx.x; x < out.w; x += (int)blockDim.x) {
        const float part = resized ? d_pixels_tap(x, scale_x, in_w, &left, &right) : 0.0f;
        float rgb[V < 3 ? 3 : V] = {};
#pragma unroll
        for (int c = 0; c < 3; c++) {
            if (resized) {
                const float a = (1 - part) * d_pixels_share(above[left * 3 + c]) + part * d_pixels_share(above[right * 3 + c]);
                const float b = (1 - part) * d_pixels_share(below[left * 3 + c]) + part * d_pixels_share(below[right * 3 + c]);
                rgb[c] = (1 - low) * a + low * b;
            } else rgb[c] = d_pixels_share(above[x * 3 + c]);
        }
        T *to = out.data + ((int64_t)blockIdx.x * out.w + x) * out.pixel;
        if (V == 1) {
#pragma unroll
            for (int c = 0; c < 3; c++) to[c] = k_element<T>::store(rgb[c]);
        } else d_elements_store<T, V>(to, d_elements_pack<T, V>(rgb));
        for (int c = V == 1 ? 3 : V; c < out.c; c += V) d_elements_store<T, V>(to + c, d_elements_pack<T, V>(zeros));
    }
}

template <typename T, int V> static void k_pixels_launch(yg_gpu *gpu, const yg_ten *out, const uint8_t *pixels, int in_h, int in_w) {
    const unsigned rows = (unsigned)(out->n * out->h), passes = ((unsigned)out->w + K_WALK_THREADS - 1) / K_WALK_THREADS;
    const unsigned threads = (((unsigned)out->w + passes - 1) / passes + K_WARP - 1) / K_WARP * K_WARP;
    const float scale_y = (float)in_h / (float)out->h, scale_x = (float)in_w / (float)out->w;
    if (in_h == out->h && in_w == out->w)
        K_LAUNCH((k_pixels<T, V, false>), rows, threads, 0, gpu->stream, k_view<T>(out), pixels, in_h, in_w, scale_y, scale_x);
    else K_LAUNCH((k_pixels<T, V, true>), rows, threads, 0, gpu->stream, k_view<T>(out), pixels, in_h, in_w, scale_y, scale_x);
}

void yg_pixels(yg_gpu *gpu, const yg_ten *out, const uint8_t *pixels, int in_h, int in_w) {
    if (gpu->error) return;
    if (out->c < 3) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: pixels into %d channels, at least 3 are needed", gpu->index, out->c);
        return;
    }
    K_BY_VECTOR(out->type, k_is_aligned(out), k_pixels_launch, gpu, out, pixels, in_h, in_w);
    k_launched(gpu, "pixels into a tensor");
}

/* Dense floats of c channels into a view, zeros behind them. A thread is a channel of some pixels. */
template <typename T> static __global__ void __launch_bounds__(K_WALK_THREADS) k_pixels_from_floats(k_ten<T> out, const float *in, int c, k_walk walk) {
    const int channel = d_walk_channel<1>();
    if (channel >= out.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y)
        out.data[p * out.pixel + channel] = k_element<T>::store(channel < c ? in[p * c + channel] : 0.0f);
}

template <typename T> static void k_pixels_from_floats_launch(yg_gpu *gpu, const yg_ten *out, const float *in, int c) {
    const k_walk walk = k_walk_map(gpu, out, 1);
    K_LAUNCH(k_pixels_from_floats<T>, walk.grid, walk.block, 0, gpu->stream, k_view<T>(out), in, c, walk);
}

void yg_from_floats(yg_gpu *gpu, const yg_ten *out, const float *in, int c) {
    if (gpu->error) return;
    K_BY_TYPE(out->type, k_pixels_from_floats_launch, gpu, out, in, c);
    k_launched(gpu, "floats into a tensor");
}

/* A view into dense floats. A thread is a channel of some pixels. */
template <typename T> static __global__ void __launch_bounds__(K_WALK_THREADS) k_pixels_to_floats(float *out, k_ten<T> in, k_walk walk) {
    const int channel = d_walk_channel<1>();
    if (channel >= in.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y)
        out[p * in.c + channel] = k_element<T>::load(in.data[p * in.pixel + channel]);
}

template <typename T> static void k_pixels_to_floats_launch(yg_gpu *gpu, float *out, const yg_ten *in) {
    const k_walk walk = k_walk_map(gpu, in, 1);
    K_LAUNCH(k_pixels_to_floats<T>, walk.grid, walk.block, 0, gpu->stream, out, k_view<T>(in), walk);
}

void yg_to_floats(yg_gpu *gpu, float *out, const yg_ten *in) {
    if (gpu->error) return;
    K_BY_TYPE(in->type, k_pixels_to_floats_launch, gpu, out, in);
    k_launched(gpu, "a tensor into floats");
}

/* ==== K5 k_copy_ k_upsample2_: copies, upsampling ====================================================================
   Activations are copied bit by bit; gradients are added in float, in the CPU's order, and rounded once. No two threads
   write the same element. */

/* out = 0. Twin: op_zero. */
template <typename T, int V> static __global__ void __launch_bounds__(K_WALK_THREADS) k_copy_zero(k_ten<T> out, k_walk walk) {
    const int c = d_walk_channel<V>();
    const float zeros[V] = {};
    if (c >= out.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y)
        d_elements_store<T, V>(out.data + p * out.pixel + c, d_elements_pack<T, V>(zeros));
}

template <typename T, int V> static void k_copy_zero_launch(yg_gpu *gpu, const yg_ten *out) {
    const k_walk walk = k_walk_map(gpu, out, V);
    K_LAUNCH((k_copy_zero<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(out), walk);
}

void yg_zero(yg_gpu *gpu, const yg_ten *t) {
    if (gpu->error) return;
    K_BY_VECTOR(t->type, k_is_aligned(t), k_copy_zero_launch, gpu, t);
    k_launched(gpu, "zeros");
}

/* out = in, or += where `accumulate`. A thread reads K_WALK_UNROLL pixels before it writes them. Twins: op_copy_fwd, op_copy_bwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS) k_copy(k_ten<T> out, k_ten<T> in, bool accumulate, k_walk walk) {
    const int c = d_walk_channel<V>(), rows = (int)blockDim.y;
    if (c >= out.c) return;
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += K_WALK_UNROLL * rows) {
        k_elements<T, V> e[K_WALK_UNROLL];
#pragma unroll
        for (int u = 0; u < K_WALK_UNROLL; u++)
            if (p + u * rows < end) e[u] = d_elements_load<T, V>(in.data + (p + u * rows) * in.pixel + c);
#pragma unroll
        for (int u = 0; u < K_WALK_UNROLL; u++) {
            if (p + u * rows >= end) continue;
            T *to = out.data + (p + u * rows) * out.pixel + c;
            if (accumulate) {
                float sum[V], x[V];
                d_elements_unpack<T, V>(sum, e[u]);
                d_elements_unpack<T, V>(x, d_elements_load<T, V>(to));
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] += x[j];
                e[u] = d_elements_pack<T, V>(sum);
            }
            d_elements_store<T, V>(to, e[u]);
        }
    }
}

template <typename T, int V> static void k_copy_launch(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, bool accumulate) {
    const k_walk walk = k_walk_map(gpu, out, V);
    K_LAUNCH((k_copy<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(out), k_view<T>(in), accumulate, walk);
}

void yg_copy_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in) {
    if (gpu->error || !k_alike(gpu, out, in, "copy")) return;
    K_BY_VECTOR(out->type, k_is_aligned(out) && k_is_aligned(in), k_copy_launch, gpu, out, in, false);
    k_launched(gpu, "copy");
}

void yg_copy_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate) {
    if (gpu->error || !k_alike(gpu, d_in, d_out, "gradient of a copy")) return;
    K_BY_VECTOR(d_in->type, k_is_aligned(d_in) && k_is_aligned(d_out), k_copy_launch, gpu, d_in, d_out, accumulate);
    k_launched(gpu, "gradient of a copy");
}

/* The pixel above left of the four that pixel p of a map of width w became: rows are twice as many and as long, of all pictures. */
static __device__ __forceinline__ int64_t d_upsample2_first(int64_t p, int w) {
    const unsigned row = (unsigned)p / (unsigned)w;
    return 2 * (2 * (int64_t)row * w + (int64_t)((unsigned)p - row * (unsigned)w));
}

/* Nearest neighbour. A walk over the input; a thread writes its vector four times. Twin: op_upsample2_fwd. */
template <typename T, int V> static __global__ void __launch_bounds__(K_WALK_THREADS) k_upsample2_fwd(k_ten<T> out, k_ten<T> in, k_walk walk) {
    const int c = d_walk_channel<V>();
    if (c >= in.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y) {
        const k_elements<T, V> e = d_elements_load<T, V>(in.data + p * in.pixel + c);
        T *above = out.data + d_upsample2_first(p, in.w) * out.pixel + c, *below = above + out.w * out.pixel;
        d_elements_store<T, V>(above, e);
        d_elements_store<T, V>(above + out.pixel, e);
        d_elements_store<T, V>(below, e);
        d_elements_store<T, V>(below + out.pixel, e);
    }
}

/* d_in (= or +=) the sum of four, row by row. A walk over d_in. Twin: op_upsample2_bwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS) k_upsample2_bwd(k_ten<T> d_in, k_ten<T> d_out, bool accumulate, k_walk walk) {
    const int c = d_walk_channel<V>();
    if (c >= d_in.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y) {
        const T *above = d_out.data + d_upsample2_first(p, d_in.w) * d_out.pixel + c, *below = above + d_out.w * d_out.pixel;
        T *to = d_in.data + p * d_in.pixel + c;
        k_elements<T, V> e[4] = {d_elements_load<T, V>(above), d_elements_load<T, V>(above + d_out.pixel), d_elements_load<T, V>(below),
                                 d_elements_load<T, V>(below + d_out.pixel)};
        float sum[V], x[V];
        d_elements_unpack<T, V>(sum, e[0]);
#pragma unroll
        for (int i = 1; i < 4; i++) {
            d_elements_unpack<T, V>(x, e[i]);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += x[j];
        }
        if (accumulate) {
            d_elements_unpack<T, V>(x, d_elements_load<T, V>(to));
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += x[j];
        }
        d_elements_store<T, V>(to, d_elements_pack<T, V>(sum));
    }
}

template <typename T, int V> static void k_upsample2_fwd_launch(yg_gpu *gpu, const yg_ten *out, const yg_ten *in) {
    const k_walk walk = k_walk_map(gpu, in, V);
    K_LAUNCH((k_upsample2_fwd<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(out), k_view<T>(in), walk);
}

template <typename T, int V> static void k_upsample2_bwd_launch(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate) {
    const k_walk walk = k_walk_map(gpu, d_in, V);
    K_LAUNCH((k_upsample2_bwd<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(d_in), k_view<T>(d_out), accumulate, walk);
}

/* Is `large` twice as high and wide as `small`, whose pixels an int can count? Else that is the failure. */
static bool k_is_twice(yg_gpu *gpu, const yg_ten *large, const yg_ten *small) {
    if (large->n == small->n && large->h == 2 * small->h && large->w == 2 * small->w && large->c == small->c && large->type == small->type &&
        k_pixel_count(small) <= INT32_MAX) return true;
    k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: upsampling between %dx%dx%dx%d and %dx%dx%dx%d", gpu->index, small->n, small->h, small->w,
           small->c, large->n, large->h, large->w, large->c);
    return false;
}

void yg_upsample2_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in) {
    if (gpu->error || !k_is_twice(gpu, out, in)) return;
    K_BY_VECTOR(in->type, k_is_aligned(out) && k_is_aligned(in), k_upsample2_fwd_launch, gpu, out, in);
    k_launched(gpu, "upsampling");
}

void yg_upsample2_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate) {
    if (gpu->error || !k_is_twice(gpu, d_out, d_in)) return;
    K_BY_VECTOR(d_in->type, k_is_aligned(d_in) && k_is_aligned(d_out), k_upsample2_bwd_launch, gpu, d_in, d_out, accumulate);
    k_launched(gpu, "gradient of upsampling");
}

/* ==== K6 k_maxpool_: max-pooling =====================================================================================
   A window has padding of minus infinity; the largest is the NaN where there is one. Windows that overlap much are separable: a
   block keeps the maxima of a tile's rows under the windows' columns in shared memory, then takes those of the columns. The
   backward keeps with each window where its first largest pixel is, and every pixel of the input gathers from the windows that
   have it: no atomics, sums in the CPU's order. A window without overlap worth it, or a map too wide, goes directly. */

enum {
    K_MAXPOOL_THREADS = 256,
    K_MAXPOOL_CHANNELS = 16,       /* of a block: the least that memory moves of a pixel at full speed */
    K_MAXPOOL_SHARED = 48 << 10,   /* bytes a block has without asking */
    K_MAXPOOL_SMALL = 3,           /* kernels up to this go directly */
    K_MAXPOOL_MOST = 15,           /* a place in a window of the separable backward is a byte */
    K_MAXPOOL_NOWHERE = 255
};

typedef struct k_window { int kernel, stride, padding; } k_window;

/* most = the larger one, or the NaN. */
static __device__ __forceinline__ float d_maxpool_larger(float most, float x) { return x > most || x != x ? x : most; }
static __device__ __forceinline__ void d_maxpool_pair(float *most, const float *x) {
    most[0] = d_maxpool_larger(most[0], x[0]);
    most[1] = d_maxpool_larger(most[1], x[1]);
}
#define K_MAXPOOL_PAIR(T, pair)                                                           \
    static __device__ __forceinline__ void d_maxpool_pair(T *most, const T *x) {          \
        pair a, b;                                                                        \
        memcpy(&a, most, sizeof a);                                                       \
        memcpy(&b, x, sizeof b);                                                          \
        a = __hmax2_nan(a, b);                                                            \
        memcpy(most, &a, sizeof a);                                                       \
    }
K_MAXPOOL_PAIR(__half, __half2)
K_MAXPOOL_PAIR(__nv_bfloat16, __nv_bfloat162)
#undef K_MAXPOOL_PAIR

template <typename T, int V> static __device__ __forceinline__ void d_maxpool_keep(k_elements<T, V> *most, const k_elements<T, V> &x) {
    if (V == 1) most->at[0] = k_element<T>::store(d_maxpool_larger(k_element<T>::load(most->at[0]), k_element<T>::load(x.at[0])));
#pragma unroll
    for (int j = 0; j + 1 < V; j += 2) d_maxpool_pair(most->at + j, x.at + j);
}

template <typename T, int V> static __device__ __forceinline__ k_elements<T, V> d_maxpool_least() {
    k_elements<T, V> least;
#pragma unroll
    for (int j = 0; j < V; j++) least.at[j] = k_element<T>::store(-INFINITY);
    return least;
}

/* A tile of `rows` rows of the output and K_MAXPOOL_CHANNELS channels. blockIdx.x is picture and tile, blockIdx.y channels; threads
   take vectors of channels of a position. `kernel` 0 = window's. Twin: op_maxpool_fwd. */
template <typename T, int V, int kernel>
static __global__ void __launch_bounds__(K_MAXPOOL_THREADS) k_maxpool_fwd(k_ten<T> out, k_ten<T> in, k_window window, int rows) {
    K_SHARED(T, row_most);
    const int size = kernel ? kernel : window.kernel, lanes = K_MAXPOOL_CHANNELS / V, tiles = (out.h + rows - 1) / rows;
    const int n = (int)blockIdx.x / tiles, first = (int)blockIdx.x % tiles * rows, count = min(rows, out.h - first);
    const int top = max(first * window.stride - window.padding, 0);
    const int bottom = min((first + count - 1) * window.stride - window.padding + size, in.h);
    for (int i = (int)threadIdx.x; i < (bottom - top) * out.w * lanes; i += K_MAXPOOL_THREADS) {
        const int position = i / lanes, c = (int)blockIdx.y * K_MAXPOOL_CHANNELS + i % lanes * V;
        const int row = position / out.w, left = position % out.w * window.stride - window.padding;
        if (c >= in.c) continue;
        const T *from = in.data + ((int64_t)n * in.h + top + row) * in.w * in.pixel + c;
        k_elements<T, V> most = d_maxpool_least<T, V>();
#pragma unroll
        for (int x = left; x < left + size; x++)
            if (x >= 0 && x < in.w) d_maxpool_keep<T, V>(&most, d_elements_load<T, V>(from + x * in.pixel));
        d_elements_store<T, V>(row_most + i * V, most);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < count * out.w * lanes; i += K_MAXPOOL_THREADS) {
        const int position = i / lanes, c = (int)blockIdx.y * K_MAXPOOL_CHANNELS + i % lanes * V;
        const int y = position / out.w, x = position % out.w, above = (first + y) * window.stride - window.padding;
        if (c >= in.c) continue;
        k_elements<T, V> most = d_maxpool_least<T, V>();
#pragma unroll
        for (int row = above; row < above + size; row++)
            if (row >= top && row < bottom)
                d_maxpool_keep<T, V>(&most, d_elements_load<T, V>(row_most + ((row - top) * out.w + x) * K_MAXPOOL_CHANNELS + i % lanes * V));
        d_elements_store<T, V>(out.data + (((int64_t)n * out.h + first + y) * out.w + x) * out.pixel + c, most);
    }
}

/* Every window by itself: a walk over the output. Twin: op_maxpool_fwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS) k_maxpool_direct_fwd(k_ten<T> out, k_ten<T> in, k_window window, k_walk walk) {
    const int c = d_walk_channel<V>();
    if (c >= in.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y) {
        const unsigned row = (unsigned)p / (unsigned)out.w, n = row / (unsigned)out.h;
        const int x = (int)((unsigned)p % (unsigned)out.w), y = (int)(row % (unsigned)out.h);
        const int top = max(y * window.stride - window.padding, 0), bottom = min(y * window.stride - window.padding + window.kernel, in.h);
        const int left = max(x * window.stride - window.padding, 0), right = min(x * window.stride - window.padding + window.kernel, in.w);
        k_elements<T, V> most = d_maxpool_least<T, V>();
        for (int i = top; i < bottom; i++)
            for (int j = left; j < right; j++)
                d_maxpool_keep<T, V>(&most, d_elements_load<T, V>(in.data + (((int64_t)n * in.h + i) * in.w + j) * in.pixel + c));
        d_elements_store<T, V>(out.data + p * out.pixel + c, most);
    }
}

/* Rows of a tile, of `height` there are: as many as fit, fewer where blocks would be too few; 0 where not even one fits. Shared
   memory holds rows * step + beyond rows of `row_bytes`. */
static int k_maxpool_rows(const yg_gpu *gpu, int height, int64_t blocks, int64_t row_bytes, int step, int beyond) {
    int rows = height;
    while (rows > 1 && (row_bytes * (rows * step + beyond) > K_MAXPOOL_SHARED ||
                        (rows > 8 && blocks * k_ceil_div(height, rows) < gpu->multiprocessors))) rows = (rows + 1) / 2;
    return row_bytes * (rows * step + beyond) > K_MAXPOOL_SHARED ? 0 : rows;
}

template <typename T, int V> static void k_maxpool_fwd_launch(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, k_window window) {
    const int64_t row_bytes = (int64_t)out->w * K_MAXPOOL_CHANNELS * (int64_t)sizeof(T);
    const int pieces = (in->c + K_MAXPOOL_CHANNELS - 1) / K_MAXPOOL_CHANNELS, beyond = window.kernel - window.stride;
    const int rows = k_maxpool_rows(gpu, out->h, (int64_t)pieces * out->n, row_bytes, window.stride, beyond);
    if (window.kernel <= K_MAXPOOL_SMALL || window.stride >= window.kernel || !rows) {
        const k_walk walk = k_walk_map(gpu, out, V);
        K_LAUNCH((k_maxpool_direct_fwd<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(out), k_view<T>(in), window, walk);
        return;
    }
    const dim3 grid((unsigned)(out->n * k_ceil_div(out->h, rows)), (unsigned)pieces);
    const size_t bytes = (size_t)(row_bytes * (rows * window.stride + beyond));
    if (window.kernel == 5) K_LAUNCH((k_maxpool_fwd<T, V, 5>), grid, K_MAXPOOL_THREADS, bytes, gpu->stream, k_view<T>(out), k_view<T>(in), window, rows);
    else K_LAUNCH((k_maxpool_fwd<T, V, 0>), grid, K_MAXPOOL_THREADS, bytes, gpu->stream, k_view<T>(out), k_view<T>(in), window, rows);
}

/* Do the windows make sense? Else that is the failure. */
static bool k_maxpool_possible(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, k_window window) {
    if (window.kernel > 0 && window.stride > 0 && 2 * window.padding <= window.kernel && out->n == in->n && out->c == in->c &&
        out->type == in->type && k_pixel_count(in) <= INT32_MAX && k_pixel_count(out) <= INT32_MAX) return true;
    k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: max-pooling of %dx%dx%dx%d into %dx%dx%dx%d, kernel %d, stride %d, padding %d", gpu->index,
           in->n, in->h, in->w, in->c, out->n, out->h, out->w, out->c, window.kernel, window.stride, window.padding);
    return false;
}

void yg_maxpool_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, int kernel, int stride, int padding) {
    const k_window window = {kernel, stride, padding};
    if (gpu->error || !k_maxpool_possible(gpu, out, in, window)) return;
    K_BY_VECTOR(in->type, k_is_aligned(out) && k_is_aligned(in), k_maxpool_fwd_launch, gpu, out, in, window);
    k_launched(gpu, "max-pooling");
}

/* The largest of each channel so far and where it is; once a NaN, always that. */
template <int V> struct k_largest { float most[V]; int at[V]; };

template <int V> static __device__ __forceinline__ void d_maxpool_first(k_largest<V> *largest, int at) {
#pragma unroll
    for (int j = 0; j < V; j++) largest->most[j] = -INFINITY, largest->at[j] = at;
}

/* Bytes, one a channel, to and from shared memory. */
template <int V> static __device__ __forceinline__ void d_maxpool_store_bytes(uint8_t *to, const int at[V]) {
    if (V == 1) to[0] = (uint8_t)at[0];
#pragma unroll
    for (int j = 0; j + 3 < V; j += 4)
        *reinterpret_cast<uint32_t *>(to + j) = (uint32_t)at[j] | (uint32_t)at[j + 1] << 8 | (uint32_t)at[j + 2] << 16 | (uint32_t)at[j + 3] << 24;
}
template <int V> static __device__ __forceinline__ void d_maxpool_load_bytes(int at[V], const uint8_t *from) {
    if (V == 1) at[0] = from[0];
#pragma unroll
    for (int j = 0; j + 3 < V; j += 4) {
        const uint32_t four = *reinterpret_cast<const uint32_t *>(from + j);
#pragma unroll
        for (int i = 0; i < 4; i++) at[j + i] = (int)(four >> 8 * i & 255);
    }
}

/* What the backward's block works on: some rows of the input, the windows over them, the rows under those. */
typedef struct k_pool_tile { int first, last; int out_first, out_last; int top, bottom; } k_pool_tile;

static __device__ __forceinline__ k_pool_tile d_maxpool_tile(int first, int last, int in_h, int out_h, const k_window &window) {
    k_pool_tile t = {first, min(last, in_h), 0, 0, 0, 0};
    const int before = t.first + window.padding - window.kernel + window.stride; /* of the first window's row, times the stride */
    t.out_first = before > 0 ? before / window.stride : 0;
    t.out_last = min((t.last - 1 + window.padding) / window.stride + 1, out_h);
    t.top = max(t.out_first * window.stride - window.padding, 0);
    t.bottom = min((t.out_last - 1) * window.stride - window.padding + window.kernel, in_h);
    return t;
}

/* Of each row the largest under each window's columns, and in which column of the window it is first. */
template <typename T, int V>
static __device__ __forceinline__ void d_maxpool_columns(T *row_most, uint8_t *row_at, const k_ten<T> &in, int n, int out_w, const k_pool_tile &t, const k_window &window) {
    const int lanes = K_MAXPOOL_CHANNELS / V;
    for (int i = (int)threadIdx.x; i < (t.bottom - t.top) * out_w * lanes; i += K_MAXPOOL_THREADS) {
        const int position = i / lanes, c = (int)blockIdx.y * K_MAXPOOL_CHANNELS + i % lanes * V;
        const int row = position / out_w, left = position % out_w * window.stride - window.padding;
        if (c >= in.c) continue;
        const T *from = in.data + ((int64_t)n * in.h + t.top + row) * in.w * in.pixel + c;
        k_largest<V> largest;
        d_maxpool_first<V>(&largest, max(-left, 0));
        for (int x = max(left, 0); x < min(left + window.kernel, in.w); x++) {
            float value[V];
            d_elements_unpack<T, V>(value, d_elements_load<T, V>(from + x * in.pixel));
#pragma unroll
            for (int j = 0; j < V; j++)
                if (value[j] > largest.most[j] || value[j] != value[j]) largest.most[j] = value[j], largest.at[j] = x - left;
        }
        d_elements_store<T, V>(row_most + i * V, d_elements_pack<T, V>(largest.most));
        d_maxpool_store_bytes<V>(row_at + i * V, largest.at);
    }
}

/* Of each window where its first largest pixel is: row * kernel + column. */
template <typename T, int V>
static __device__ __forceinline__ void d_maxpool_places(uint8_t *place, const T *row_most, const uint8_t *row_at, int out_w, const k_pool_tile &t, const k_window &window) {
    const int lanes = K_MAXPOOL_CHANNELS / V;
    for (int i = (int)threadIdx.x; i < (t.out_last - t.out_first) * out_w * lanes; i += K_MAXPOOL_THREADS) {
        const int position = i / lanes, y = position / out_w, x = position % out_w, above = (t.out_first + y) * window.stride - window.padding;
        k_largest<V> largest;
        d_maxpool_first<V>(&largest, 0);
        for (int row = max(above, t.top); row < min(above + window.kernel, t.bottom); row++) {
            const int at = ((row - t.top) * out_w + x) * K_MAXPOOL_CHANNELS + i % lanes * V;
            float value[V];
            int column[V];
            d_elements_unpack<T, V>(value, d_elements_load<T, V>(row_most + at));
            d_maxpool_load_bytes<V>(column, row_at + at);
#pragma unroll
            for (int j = 0; j < V; j++)
                if (value[j] > largest.most[j] || value[j] != value[j] || row == max(above, t.top))
                    largest.most[j] = value[j], largest.at[j] = (row - above) * window.kernel + column[j];
        }
#pragma unroll
        for (int j = 0; j < V; j++)
            if (largest.most[j] != largest.most[j]) largest.at[j] = K_MAXPOOL_NOWHERE;
        d_maxpool_store_bytes<V>(place + i * V, largest.at);
    }
}

/* d_in += d_out of the windows whose place is here. */
template <typename T, int V>
static __device__ __forceinline__ void d_maxpool_gather(const k_ten<T> &d_in, const k_ten<T> &d_out, const uint8_t *place, int n, const k_pool_tile &t, const k_window &window) {
    const int lanes = K_MAXPOOL_CHANNELS / V;
    for (int i = (int)threadIdx.x; i < (t.last - t.first) * d_in.w * lanes; i += K_MAXPOOL_THREADS) {
        const int position = i / lanes, y = t.first + position / d_in.w, x = position % d_in.w;
        const int c = (int)blockIdx.y * K_MAXPOOL_CHANNELS + i % lanes * V;
        if (c >= d_in.c) continue;
        T *to = d_in.data + (((int64_t)n * d_in.h + y) * d_in.w + x) * d_in.pixel + c;
        const int left = x + window.padding - window.kernel + window.stride, x_first = left > 0 ? left / window.stride : 0;
        const int x_last = min((x + window.padding) / window.stride + 1, d_out.w), y_last = min((y + window.padding) / window.stride + 1, d_out.h);
        const int above = y + window.padding - window.kernel + window.stride, y_first = above > 0 ? above / window.stride : 0;
        float sum[V];
        d_elements_unpack<T, V>(sum, d_elements_load<T, V>(to));
        for (int oy = y_first; oy < y_last; oy++)
            for (int ox = x_first; ox < x_last; ox++) {
                const int here = (y + window.padding - oy * window.stride) * window.kernel + x + window.padding - ox * window.stride;
                int at[V];
                bool some = false;
                d_maxpool_load_bytes<V>(at, place + ((oy - t.out_first) * d_out.w + ox) * K_MAXPOOL_CHANNELS + i % lanes * V);
#pragma unroll
                for (int j = 0; j < V; j++) some |= at[j] == here;
                if (!some) continue;
                float d[V];
                d_elements_unpack<T, V>(d, d_elements_load<T, V>(d_out.data + (((int64_t)n * d_out.h + oy) * d_out.w + ox) * d_out.pixel + c));
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] += at[j] == here ? d[j] : 0.0f;
            }
        d_elements_store<T, V>(to, d_elements_pack<T, V>(sum));
    }
}

/* A tile of `rows` rows of the input and K_MAXPOOL_CHANNELS channels; at most `most_rows` rows of windows and under them. blockIdx.x is
   picture and tile, blockIdx.y channels; threads take vectors of channels of a position. Twin: op_maxpool_bwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_MAXPOOL_THREADS, 4) k_maxpool_bwd(k_ten<T> d_in, k_ten<T> d_out, k_ten<T> in, k_window window, int rows, int most_rows) {
    K_SHARED(T, row_most);
    uint8_t *row_at = reinterpret_cast<uint8_t *>(row_most + most_rows * d_out.w * K_MAXPOOL_CHANNELS);
    uint8_t *place = row_at + most_rows * d_out.w * K_MAXPOOL_CHANNELS;
    const int tiles = (in.h + rows - 1) / rows, n = (int)blockIdx.x / tiles, first = (int)blockIdx.x % tiles * rows;
    const k_pool_tile tile = d_maxpool_tile(first, first + rows, in.h, d_out.h, window);
    d_maxpool_columns<T, V>(row_most, row_at, in, n, d_out.w, tile, window);
    __syncthreads();
    d_maxpool_places<T, V>(place, row_most, row_at, d_out.w, tile, window);
    __syncthreads();
    d_maxpool_gather<T, V>(d_in, d_out, place, n, tile, window);
}

/* A walk over the input, a channel a thread: of the windows that have a pixel, those in which it is the largest and none before it
   is. Twin: op_maxpool_bwd. */
template <typename T>
static __global__ void __launch_bounds__(K_WALK_THREADS, 4) k_maxpool_direct_bwd(k_ten<T> d_in, k_ten<T> d_out, k_ten<T> in, k_ten<T> out, k_window window, k_walk walk) {
    const int c = d_walk_channel<1>();
    if (c >= in.c) return;
#pragma unroll 1
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += blockDim.y) {
        const unsigned row = (unsigned)p / (unsigned)in.w, n = row / (unsigned)in.h;
        const int x = (int)((unsigned)p % (unsigned)in.w), y = (int)(row % (unsigned)in.h);
        const T *picture = in.data + (int64_t)n * in.h * in.w * in.pixel + c;
        const k_pool_tile tall = d_maxpool_tile(y, y + 1, in.h, out.h, window), wide = d_maxpool_tile(x, x + 1, in.w, out.w, window);
        const float own = k_element<T>::load(in.data[p * in.pixel + c]);
        float sum = k_element<T>::load(d_in.data[p * d_in.pixel + c]);
        for (int oy = tall.out_first; oy < tall.out_last; oy++)
            for (int ox = wide.out_first; ox < wide.out_last; ox++) {
                const int64_t window_at = ((int64_t)n * out.h + oy) * out.w + ox;
                const int left = ox * window.stride - window.padding, right = min(left + window.kernel, in.w);
                bool largest = own == k_element<T>::load(out.data[window_at * out.pixel + c]);
                for (int i = max(oy * window.stride - window.padding, 0); largest && i <= y; i++)
                    for (int j = max(left, 0); largest && j < (i == y ? x : right); j++)
                        largest = k_element<T>::load(picture[((int64_t)i * in.w + j) * in.pixel]) != own;
                if (largest) sum += k_element<T>::load(d_out.data[window_at * d_out.pixel + c]);
            }
        d_in.data[p * d_in.pixel + c] = k_element<T>::store(sum);
    }
}

template <typename T, int V>
static void k_maxpool_bwd_launch(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, const yg_ten *in, const yg_ten *out, k_window window) {
    const int pieces = (in->c + K_MAXPOOL_CHANNELS - 1) / K_MAXPOOL_CHANNELS, beyond = 2 * (window.kernel - 1);
    const int64_t row_bytes = (int64_t)out->w * K_MAXPOOL_CHANNELS * (int64_t)(sizeof(T) + 2);
    const int rows = k_maxpool_rows(gpu, in->h, (int64_t)pieces * in->n, row_bytes, 1, beyond), most_rows = k_min(rows + beyond, k_max(in->h, out->h));
    if (window.kernel <= K_MAXPOOL_SMALL || window.kernel > K_MAXPOOL_MOST || window.stride >= window.kernel || !rows) {
        const k_walk walk = k_walk_map(gpu, in, 1);
        K_LAUNCH(k_maxpool_direct_bwd<T>, walk.grid, walk.block, 0, gpu->stream, k_view<T>(d_in), k_view<T>(d_out), k_view<T>(in), k_view<T>(out), window, walk);
        return;
    }
    const dim3 grid((unsigned)(in->n * k_ceil_div(in->h, rows)), (unsigned)pieces);
    const size_t bytes = (size_t)(row_bytes * most_rows);
    K_LAUNCH((k_maxpool_bwd<T, V>), grid, K_MAXPOOL_THREADS, bytes, gpu->stream, k_view<T>(d_in), k_view<T>(d_out), k_view<T>(in), window, rows, most_rows);
}

void yg_maxpool_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, const yg_ten *in, const yg_ten *out, int kernel, int stride, int padding) {
    const k_window window = {kernel, stride, padding};
    if (gpu->error || !k_maxpool_possible(gpu, out, in, window) || !k_alike(gpu, d_in, in, "gradient of max-pooling") ||
        !k_alike(gpu, d_out, out, "gradient of max-pooling")) return;
    const bool aligned = k_is_aligned(d_in) && k_is_aligned(d_out) && k_is_aligned(in) && k_is_aligned(out);
    K_BY_VECTOR(in->type, aligned, k_maxpool_bwd_launch, gpu, d_in, d_out, in, out, window);
    k_launched(gpu, "gradient of max-pooling");
}

/* ==== K7 k_norm_ d_norm_: batch norm with its activation =============================================================
   Moments are floats (tiles, 2, channels): the mean of a tile's pixels and the sum of their squared distances from it. Tile t has
   pixels t * K_MOMENT_PIXELS and on of all pictures' pixels; what yg_norm_measure makes itself has larger ones.
   Sums are made in threads in float, over few numbers that are distances from one of them, then over threads in double; both in an
   order that the shape alone decides. Tensors are read once and written once.
   An activation in a kernel is a switch around a vector's loop: the same for all threads, and little beside the loop. */

enum {
    K_MOMENT_PIXELS = 128, /* of a tile of yg_conv_fwd's moments */
    K_NORM_GROUPS = 16,    /* vectors of channels side by side in a block that sums */
    K_NORM_STEPS = 4,      /* pixels, at least, that a thread sums */
    K_NORM_TILES = 1024,   /* at most, of what is summed here */
    K_NORM_MERGED = 2048,  /* more tiles than this are merged first, to about K_NORM_SHARES */
    K_NORM_SHARES = 256,
    K_NORM_CHANNELS = 8,   /* of a block that merges: the least that memory moves at full speed */
    K_NORM_ROWS = 128      /* and its rows of threads, at most */
};

/* Functions of 16-bit elements have an error of some 1e-6 of the value, those of floats of some 1e-7. */
template <typename T> static __device__ __forceinline__ float d_norm_exp(float x) { return sizeof(T) == 4 ? expf(x) : __expf(x); }
template <typename T> static __device__ __forceinline__ float d_norm_reciprocal(float x) { return sizeof(T) == 4 ? 1.0f / x : __fdividef(1.0f, x); }

/* As OP_(activate): below -80 SiLU and Mish are 0 in all the digits that matter, above 80, and 20, they are x. NaN stays. */
template <typename T, yg_activation activation> static __device__ __forceinline__ float d_norm_activate(float x, float slope) {
    const float low = x < -80.0f ? -80.0f : x;
    if (activation == YG_SILU) return low * d_norm_reciprocal<T>(1.0f + d_norm_exp<T>(-(low > 80.0f ? 80.0f : low)));
    if (activation == YG_RELU) return x < 0.0f ? 0.0f : x;
    if (activation == YG_LEAKYRELU) return slope * x > x ? slope * x : x;
    if (activation == YG_MISH) { /* x tanh(log(1 + e)) = x n / (n + 2), n = e (e + 2) */
        const float e = d_norm_exp<T>(low > 20.0f ? 20.0f : low), n = e * (e + 2.0f);
        return low * (n * d_norm_reciprocal<T>(n + 2.0f));
    }
    return x;
}

/* Its derivative, as torch has it at 0. */
template <typename T, yg_activation activation> static __device__ __forceinline__ float d_norm_activate_slope(float x, float slope) {
    const float low = x < -80.0f ? -80.0f : x;
    if (activation == YG_SILU) { /* s + x s (1 - s), 1 - s = e s */
        const float inside = low > 80.0f ? 80.0f : low, e = d_norm_exp<T>(-inside), s = d_norm_reciprocal<T>(1.0f + e);
        return fmaf(inside * s, e * s, s);
    }
    if (activation == YG_RELU) return x > 0.0f ? 1.0f : 0.0f;
    if (activation == YG_LEAKYRELU) return x > 0.0f ? 1.0f : slope;
    if (activation == YG_MISH) { /* n r + 4 x e (e + 1) r^2, r = 1 / (n + 2) */
        const float inside = low > 20.0f ? 20.0f : low, e = d_norm_exp<T>(inside), n = e * (e + 2.0f), r = d_norm_reciprocal<T>(n + 2.0f);
        return fmaf(n, r, 4.0f * inside * (e * r * ((e + 1.0f) * r)));
    }
    return 1.0f;
}

template <typename T, int V, yg_activation activation> static __device__ __forceinline__ void d_norm_activate_each(float x[V], float slope) {
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = d_norm_activate<T, activation>(x[j], slope);
}

template <typename T, int V> static __device__ __forceinline__ void d_norm_activate_all(float x[V], yg_activation activation, float slope) {
    if (activation == YG_SILU) d_norm_activate_each<T, V, YG_SILU>(x, slope);
    else if (activation == YG_RELU) d_norm_activate_each<T, V, YG_RELU>(x, slope);
    else if (activation == YG_LEAKYRELU) d_norm_activate_each<T, V, YG_LEAKYRELU>(x, slope);
    else if (activation == YG_MISH) d_norm_activate_each<T, V, YG_MISH>(x, slope);
}

/* d *= the activation's derivative at x. */
template <typename T, int V, yg_activation activation> static __device__ __forceinline__ void d_norm_slope_each(float d[V], const float x[V], float slope) {
#pragma unroll
    for (int j = 0; j < V; j++) d[j] *= d_norm_activate_slope<T, activation>(x[j], slope);
}

template <typename T, int V> static __device__ __forceinline__ void d_norm_slope_all(float d[V], const float x[V], yg_activation activation, float slope) {
    if (activation == YG_SILU) d_norm_slope_each<T, V, YG_SILU>(d, x, slope);
    else if (activation == YG_RELU) d_norm_slope_each<T, V, YG_RELU>(d, x, slope);
    else if (activation == YG_LEAKYRELU) d_norm_slope_each<T, V, YG_LEAKYRELU>(d, x, slope);
    else if (activation == YG_MISH) d_norm_slope_each<T, V, YG_MISH>(d, x, slope);
}

/* V channels of one of the norm's arrays, which are aligned as the tensors are. */
template <int V> static __device__ __forceinline__ void d_norm_row(float x[V], const float *from) {
    if (V == 1) x[0] = from[0];
#pragma unroll
    for (int j = 0; j + 3 < V; j += 4) {
        const float4 four = *reinterpret_cast<const float4 *>(from + j);
        x[j] = four.x, x[j + 1] = four.y, x[j + 2] = four.z, x[j + 3] = four.w;
    }
}

static bool k_norm_aligned(const yg_norm *norm) {
    const uintptr_t all = (uintptr_t)norm->mean | (uintptr_t)norm->scale | (uintptr_t)norm->shift | (uintptr_t)norm->d_shift | (uintptr_t)norm->d_mean;
    return (all & 15) == 0;
}

static bool k_norm_fits(yg_gpu *gpu, const yg_norm *norm, const yg_ten *z) {
    if (norm->channels == z->c) return true;
    k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: a batch norm of %d channels of a tensor of %d", gpu->index, norm->channels, z->c);
    return false;
}

/* ---- statistics */

/* Adds up what the threads of a column (threadIdx.x) have, by halves; x of threadIdx.y 0, and `shared` for all, have the sums:
   shared[j * K_WALK_THREADS + threadIdx.x]. */
template <int count> static __device__ __forceinline__ void d_norm_add_rows(float x[count], float *shared) {
    const int place = (int)(threadIdx.y * blockDim.x + threadIdx.x);
#pragma unroll
    for (int j = 0; j < count; j++) shared[j * K_WALK_THREADS + place] = x[j];
    __syncthreads();
    for (int rows = (int)blockDim.y, half; rows > 1; rows = half) {
        half = (rows + 1) / 2;
        if ((int)threadIdx.y + half < rows) {
#pragma unroll
            for (int j = 0; j < count; j++) {
                x[j] += shared[j * K_WALK_THREADS + place + half * (int)blockDim.x];
                shared[j * K_WALK_THREADS + place] = x[j];
            }
        }
        __syncthreads();
    }
}

/* The moments of a tile: the pixels of a block of the walk. Distances from the tile's first pixel are summed for the mean, then
   squared distances from the mean; the second time z comes from the cache. Twin: OP_(moments). */
template <typename T, int V> static __global__ void __launch_bounds__(K_WALK_THREADS) k_norm_moments(float *moments, k_ten<T> z, k_walk walk) {
    __shared__ float shared[V * K_WALK_THREADS];
    const int c = d_walk_channel<V>();
    const bool valid = c < z.c;
    const int64_t first = (int64_t)blockIdx.x * blockDim.y * walk.steps, end = valid ? d_walk_end(walk) : 0;
    const float share = 1.0f / (float)(d_walk_end(walk) - first);
    float start[V] = {}, mean[V] = {}, x[V];
    if (valid) d_elements_unpack<T, V>(start, d_elements_load<T, V>(z.data + first * z.pixel + c));
#pragma unroll 4
    for (int64_t p = first + threadIdx.y; p < end; p += blockDim.y) {
        d_elements_unpack<T, V>(x, d_elements_load<T, V>(z.data + p * z.pixel + c));
#pragma unroll
        for (int j = 0; j < V; j++) mean[j] += x[j] - start[j];
    }
    d_norm_add_rows<V>(mean, shared);
#pragma unroll
    for (int j = 0; j < V; j++) mean[j] = fmaf(shared[j * K_WALK_THREADS + threadIdx.x], share, start[j]);
    __syncthreads();
    float squares[V] = {};
#pragma unroll 4
    for (int64_t p = first + threadIdx.y; p < end; p += blockDim.y) {
        d_elements_unpack<T, V>(x, d_elements_load<T, V>(z.data + p * z.pixel + c));
#pragma unroll
        for (int j = 0; j < V; j++) squares[j] = fmaf(x[j] - mean[j], x[j] - mean[j], squares[j]);
    }
    d_norm_add_rows<V>(squares, shared);
    if (!valid || threadIdx.y) return;
    float *tile = moments + (int64_t)blockIdx.x * 2 * z.c + c;
#pragma unroll
    for (int j = 0; j < V; j++) tile[j] = mean[j], tile[z.c + j] = squares[j];
}

/* The walk of what sums over pixels: tiles are its blockIdx.x, a function of the shape alone. */
static k_walk k_norm_walk(const yg_ten *z, int vector) {
    const k_walk walk = k_walk_over(z, vector, K_NORM_GROUPS, 1);
    return k_walk_over(z, vector, K_NORM_GROUPS, k_max((int64_t)K_NORM_STEPS, k_ceil_div(walk.pixels, (int64_t)walk.block.y * K_NORM_TILES)));
}

/* Tiles of moments or sums of `channels`, and how many pixels each has (the last one: what is left of `pixels`). */
typedef struct k_tiles { const float *at; int64_t pixels, each; int count, channels; } k_tiles;

template <typename T, int V> static void k_norm_moments_launch(yg_gpu *gpu, const yg_ten *z, k_tiles *tiles) {
    const k_walk walk = k_norm_walk(z, V);
    float *moments = k_scratch<float>(gpu, (size_t)walk.grid.x * 2 * (size_t)z->c);
    tiles->at = moments;
    tiles->each = (int64_t)walk.block.y * walk.steps;
    tiles->count = (int)walk.grid.x;
    if (moments) K_LAUNCH((k_norm_moments<T, V>), walk.grid, walk.block, 0, gpu->stream, moments, k_view<T>(z), walk);
}

/* Adds up what the threads of a column have; those of threadIdx.y 0 have the sums. */
static __device__ __forceinline__ void d_norm_add_doubles(double *a, double *b, double shared[2][K_NORM_ROWS * K_NORM_CHANNELS]) {
    const int place = (int)(threadIdx.y * K_NORM_CHANNELS + threadIdx.x);
    shared[0][place] = *a;
    shared[1][place] = *b;
    __syncthreads();
    for (int half = (int)blockDim.y / 2; half; half /= 2) {
        if ((int)threadIdx.y < half) {
            shared[0][place] = *a += shared[0][place + half * K_NORM_CHANNELS];
            shared[1][place] = *b += shared[1][place + half * K_NORM_CHANNELS];
        }
        __syncthreads();
    }
}

/* Number of pixels, mean and sum of squared distances of tiles first .. last - 1, for the threads of threadIdx.y 0. */
static __device__ __forceinline__ void d_norm_merge(double *pixels, double *mean, double *squares, const k_tiles &tiles, int first, int last, int c) {
    __shared__ double shared[2][K_NORM_ROWS * K_NORM_CHANNELS];
    const bool valid = c < tiles.channels;
    const float start = valid ? tiles.at[(int64_t)first * 2 * tiles.channels + c] : 0.0f;
    float sum = 0.0f, square = 0.0f;
#pragma unroll 4
    for (int t = first + (int)threadIdx.y; t < (valid ? last : first); t += (int)blockDim.y) {
        const float *tile = tiles.at + (int64_t)t * 2 * tiles.channels + c;
        const int64_t left = tiles.pixels - t * tiles.each;
        const float count = (float)(left < tiles.each ? left : tiles.each), off = tile[0] - start;
        sum = fmaf(count, off, sum);
        square += fmaf(count * off, off, tile[tiles.channels]);
    }
    double total = sum, around = square;
    d_norm_add_doubles(&total, &around, shared);
    const int64_t end = last * tiles.each;
    *pixels = (double)((end < tiles.pixels ? end : tiles.pixels) - first * tiles.each);
    *mean = start + total / *pixels;
    *squares = fmax(around - total * total / *pixels, 0.0);
}

/* Each `share` tiles become one. blockIdx.x and threadIdx.x are channels, blockIdx.y the tile, threadIdx.y goes over its parts. */
static __global__ void __launch_bounds__(K_NORM_ROWS *K_NORM_CHANNELS) k_norm_merge(float *merged, k_tiles tiles, int share) {
    const int c = (int)(blockIdx.x * K_NORM_CHANNELS + threadIdx.x), first = (int)blockIdx.y * share;
    double pixels, mean, squares;
    d_norm_merge(&pixels, &mean, &squares, tiles, first, min(first + share, tiles.count), c);
    if (threadIdx.y || c >= tiles.channels) return;
    merged[(int64_t)blockIdx.y * 2 * tiles.channels + c] = (float)mean;
    merged[((int64_t)blockIdx.y * 2 + 1) * tiles.channels + c] = (float)squares;
}

/* What a channel's mean and variance make of z. Twin: op_norm_set. */
static __device__ __forceinline__ void d_norm_set(const yg_norm &norm, int c, double mean, double variance, double eps, float gamma, float beta) {
    const double inverse = 1.0 / sqrt(variance + eps);
    norm.mean[c] = (float)mean;
    norm.inverse[c] = (float)inverse;
    norm.scale[c] = (float)(gamma * inverse);
    norm.shift[c] = beta;
    norm.d_shift[c] = norm.d_mean[c] = 0.0f;
}

/* From moments to a norm and running statistics. blockIdx.x and threadIdx.x are channels, threadIdx.y goes over tiles. Twins:
   op_norm_combine, op_norm_measure. */
static __global__ void __launch_bounds__(K_NORM_ROWS *K_NORM_CHANNELS) k_norm_measure(yg_norm norm, yg_norm_rows rows, k_tiles tiles, double eps, double momentum) {
    const int c = (int)(blockIdx.x * K_NORM_CHANNELS + threadIdx.x);
    double pixels, mean, squares;
    d_norm_merge(&pixels, &mean, &squares, tiles, 0, tiles.count, c);
    if (threadIdx.y || c >= tiles.channels) return;
    d_norm_set(norm, c, mean, squares / pixels, eps, rows.gamma[c], rows.beta[c]);
    rows.running_mean[c] = (float)(rows.running_mean[c] * (1 - momentum) + mean * momentum);
    rows.running_variance[c] = (float)(rows.running_variance[c] * (1 - momentum) + squares / fmax(pixels - 1, 1.0) * momentum);
    if (c == 0) *rows.batches += 1.0f;
}

/* A block for `count` tiles: a few for each of its threads. */
static dim3 k_norm_block(int count) {
    unsigned rows = 4;
    while (rows < K_NORM_ROWS && rows * 4 < (unsigned)count) rows *= 2;
    return dim3(K_NORM_CHANNELS, rows);
}

void yg_norm_measure(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, const yg_ten *z, const float *moments, double eps, double momentum) {
    if (gpu->error || !k_norm_fits(gpu, norm, z)) return;
    const unsigned blocks = ((unsigned)z->c + K_NORM_CHANNELS - 1) / K_NORM_CHANNELS;
    k_tiles tiles = {moments, k_pixel_count(z), K_MOMENT_PIXELS, (int)k_ceil_div(k_pixel_count(z), K_MOMENT_PIXELS), z->c};
    if (!moments) K_BY_VECTOR(z->type, k_is_aligned(z), k_norm_moments_launch, gpu, z, &tiles);
    if (tiles.count > K_NORM_MERGED) {
        const int share = (int)k_ceil_div(tiles.count, K_NORM_SHARES), shares = (int)k_ceil_div(tiles.count, share);
        float *merged = k_scratch<float>(gpu, (size_t)shares * 2 * (size_t)z->c);
        if (merged) K_LAUNCH(k_norm_merge, dim3(blocks, (unsigned)shares), k_norm_block(share), 0, gpu->stream, merged, tiles, share);
        tiles.at = merged;
        tiles.each *= share;
        tiles.count = shares;
    }
    if (gpu->error) return;
    K_LAUNCH(k_norm_measure, blocks, k_norm_block(tiles.count), 0, gpu->stream, *norm, *rows, tiles, eps, momentum);
    k_launched(gpu, "statistics of a batch");
}

/* The running statistics. A thread is a channel. Twin: op_norm_set. */
static __global__ void k_norm_frozen(yg_norm norm, yg_norm_rows rows, double eps) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c < norm.channels) d_norm_set(norm, c, rows.running_mean[c], rows.running_variance[c], eps, rows.gamma[c], rows.beta[c]);
}

void yg_norm_frozen(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, double eps) {
    if (gpu->error) return;
    K_LAUNCH(k_norm_frozen, ((unsigned)norm->channels + 127) / 128, 128, 0, gpu->stream, *norm, *rows, eps);
    k_launched(gpu, "running statistics");
}

/* ---- forward and backward */

/* out = activation(scale * (z - mean) + shift) + residual. A walk; a thread reads two pixels before it writes them. out may
   be z or residual. Twin: op_norm_fwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS) k_norm_fwd(k_ten<T> out, k_ten<T> z, yg_norm norm, k_ten<T> residual, k_walk walk) {
    const int c = d_walk_channel<V>(), rows = (int)blockDim.y;
    if (c >= z.c) return;
    float mean[V], scale[V], shift[V];
    d_norm_row<V>(mean, norm.mean + c);
    d_norm_row<V>(scale, norm.scale + c);
    d_norm_row<V>(shift, norm.shift + c);
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += 2 * rows) {
        k_elements<T, V> e[2], more[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (p + u * rows >= end) continue;
            e[u] = d_elements_load<T, V>(z.data + (p + u * rows) * z.pixel + c);
            if (residual.data) more[u] = d_elements_load<T, V>(residual.data + (p + u * rows) * residual.pixel + c);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (p + u * rows >= end) continue;
            float x[V], y[V];
            d_elements_unpack<T, V>(x, e[u]);
#pragma unroll
            for (int j = 0; j < V; j++) x[j] = fmaf(scale[j], x[j] - mean[j], shift[j]);
            d_norm_activate_all<T, V>(x, norm.activation, norm.slope);
            if (residual.data) {
                d_elements_unpack<T, V>(y, more[u]);
#pragma unroll
                for (int j = 0; j < V; j++) x[j] += y[j];
            }
            d_elements_store<T, V>(out.data + (p + u * rows) * out.pixel + c, d_elements_pack<T, V>(x));
        }
    }
}

template <typename T, int V> static void k_norm_fwd_launch(yg_gpu *gpu, const yg_ten *out, const yg_ten *z, const yg_norm *norm, const yg_ten *residual) {
    const k_walk walk = k_walk_map(gpu, z, V);
    k_ten<T> none = {};
    K_LAUNCH((k_norm_fwd<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(out), k_view<T>(z), *norm, residual ? k_view<T>(residual) : none, walk);
}

void yg_norm_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *z, const yg_norm *norm, const yg_ten *residual) {
    if (gpu->error || !k_norm_fits(gpu, norm, z) || !k_alike(gpu, out, z, "batch norm") || (residual && !k_alike(gpu, residual, z, "batch norm"))) return;
    const bool aligned = k_norm_aligned(norm) && k_is_aligned(out) && k_is_aligned(z) && (!residual || k_is_aligned(residual));
    K_BY_VECTOR(z->type, aligned, k_norm_fwd_launch, gpu, out, z, norm, residual);
    k_launched(gpu, "batch norm");
}

/* The sums of g = d_out * activation' and of g * (z - mean) over a tile: the pixels of a block of the walk. Twin: OP_(norm_sums). */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS, 2) k_norm_sums(float *sums, k_ten<T> d_out, k_ten<T> z, yg_norm norm, k_walk walk) {
    __shared__ float shared[2 * V * K_WALK_THREADS];
    const int c = d_walk_channel<V>(), rows = (int)blockDim.y;
    const bool valid = c < z.c;
    const int64_t end = valid ? d_walk_end(walk) : 0;
    float mean[V] = {}, scale[V] = {}, shift[V] = {}, sum[2 * V] = {}; /* of g, then of the products */
    if (valid) {
        d_norm_row<V>(mean, norm.mean + c);
        d_norm_row<V>(scale, norm.scale + c);
        d_norm_row<V>(shift, norm.shift + c);
    }
    for (int64_t p = d_walk_first(walk.steps); p < end; p += 2 * rows) {
        k_elements<T, V> e[2], d[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (p + u * rows >= end) continue;
            e[u] = d_elements_load<T, V>(z.data + (p + u * rows) * z.pixel + c);
            d[u] = d_elements_load<T, V>(d_out.data + (p + u * rows) * d_out.pixel + c);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (p + u * rows >= end) continue;
            float x[V], g[V], inside[V];
            d_elements_unpack<T, V>(x, e[u]);
            d_elements_unpack<T, V>(g, d[u]);
#pragma unroll
            for (int j = 0; j < V; j++) x[j] -= mean[j], inside[j] = fmaf(scale[j], x[j], shift[j]);
            d_norm_slope_all<T, V>(g, inside, norm.activation, norm.slope);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += g[j], sum[V + j] = fmaf(g[j], x[j], sum[V + j]);
        }
    }
    d_norm_add_rows<2 * V>(sum, shared);
    if (!valid || threadIdx.y) return;
    float *tile = sums + (int64_t)blockIdx.x * 2 * z.c + c;
#pragma unroll
    for (int j = 0; j < V; j++) tile[j] = sum[j], tile[z.c + j] = sum[V + j];
}

/* From the tiles' sums to the gradients of gamma and beta and to the d_ arrays. blockIdx.x and threadIdx.x are channels, threadIdx.y goes
   over tiles. Twin: op_norm_sums. */
static __global__ void __launch_bounds__(K_NORM_ROWS *K_NORM_CHANNELS) k_norm_gradients(yg_norm norm, float *d_gamma, float *d_beta, k_tiles tiles) {
    __shared__ double shared[2][K_NORM_ROWS * K_NORM_CHANNELS];
    const int c = (int)(blockIdx.x * K_NORM_CHANNELS + threadIdx.x);
    float g = 0.0f, products = 0.0f;
#pragma unroll 4
    for (int t = (int)threadIdx.y; t < (c < tiles.channels ? tiles.count : 0); t += (int)blockDim.y) {
        g += tiles.at[(int64_t)t * 2 * tiles.channels + c];
        products += tiles.at[((int64_t)t * 2 + 1) * tiles.channels + c];
    }
    double sum = g, product = products;
    d_norm_add_doubles(&sum, &product, shared);
    if (threadIdx.y || c >= tiles.channels) return;
    const double inverse = norm.inverse[c], scale = norm.scale[c] / (double)tiles.pixels;
    if (d_gamma) d_gamma[c] += (float)(product * inverse);
    if (d_beta) d_beta[c] += (float)sum;
    norm.d_shift[c] = (float)(scale * sum);
    norm.d_mean[c] = (float)(scale * inverse * inverse * product);
}

template <typename T, int V> static void k_norm_sums_launch(yg_gpu *gpu, const yg_norm *norm, const yg_ten *d_out, const yg_ten *z, k_tiles *tiles) {
    const k_walk walk = k_norm_walk(z, V);
    float *sums = k_scratch<float>(gpu, (size_t)walk.grid.x * 2 * (size_t)z->c);
    tiles->at = sums;
    tiles->count = (int)walk.grid.x;
    if (sums) K_LAUNCH((k_norm_sums<T, V>), walk.grid, walk.block, 0, gpu->stream, sums, k_view<T>(d_out), k_view<T>(z), *norm, walk);
}

void yg_norm_sums(yg_gpu *gpu, const yg_norm *norm, float *d_gamma, float *d_beta, const yg_ten *d_out, const yg_ten *z) {
    if (gpu->error || !k_norm_fits(gpu, norm, z) || !k_alike(gpu, d_out, z, "gradient of a batch norm")) return;
    const unsigned blocks = ((unsigned)z->c + K_NORM_CHANNELS - 1) / K_NORM_CHANNELS;
    k_tiles tiles = {NULL, k_pixel_count(z), 0, 0, z->c};
    K_BY_VECTOR(z->type, k_norm_aligned(norm) && k_is_aligned(d_out) && k_is_aligned(z), k_norm_sums_launch, gpu, norm, d_out, z, &tiles);
    if (gpu->error) return;
    K_LAUNCH(k_norm_gradients, blocks, k_norm_block(tiles.count), 0, gpu->stream, *norm, d_gamma, d_beta, tiles);
    k_launched(gpu, "sums of a batch norm's gradient");
}

/* d = scale * g - d_mean * (z - mean) - d_shift in place; the residual's gradient (= or +=) what d was. A walk. Twin: op_norm_bwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS, 2) k_norm_bwd(k_ten<T> d, k_ten<T> d_residual, bool accumulate, k_ten<T> z, yg_norm norm, k_walk walk) {
    const int c = d_walk_channel<V>(), rows = (int)blockDim.y;
    if (c >= z.c) return;
    float mean[V], scale[V], shift[V], d_mean[V], d_shift[V];
    d_norm_row<V>(mean, norm.mean + c);
    d_norm_row<V>(scale, norm.scale + c);
    d_norm_row<V>(shift, norm.shift + c);
    d_norm_row<V>(d_mean, norm.d_mean + c);
    d_norm_row<V>(d_shift, norm.d_shift + c);
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += 2 * rows) {
        k_elements<T, V> e[2], before[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (p + u * rows >= end) continue;
            e[u] = d_elements_load<T, V>(z.data + (p + u * rows) * z.pixel + c);
            before[u] = d_elements_load<T, V>(d.data + (p + u * rows) * d.pixel + c);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            if (p + u * rows >= end) continue;
            float x[V], g[V], inside[V];
            d_elements_unpack<T, V>(x, e[u]);
            d_elements_unpack<T, V>(g, before[u]);
            if (d_residual.data) {
                T *to = d_residual.data + (p + u * rows) * d_residual.pixel + c;
                if (accumulate) {
                    d_elements_unpack<T, V>(inside, d_elements_load<T, V>(to));
#pragma unroll
                    for (int j = 0; j < V; j++) inside[j] += g[j];
                    d_elements_store<T, V>(to, d_elements_pack<T, V>(inside));
                } else d_elements_store<T, V>(to, before[u]);
            }
#pragma unroll
            for (int j = 0; j < V; j++) x[j] -= mean[j], inside[j] = fmaf(scale[j], x[j], shift[j]);
            d_norm_slope_all<T, V>(g, inside, norm.activation, norm.slope);
#pragma unroll
            for (int j = 0; j < V; j++) g[j] = scale[j] * g[j] - fmaf(d_mean[j], x[j], d_shift[j]);
            d_elements_store<T, V>(d.data + (p + u * rows) * d.pixel + c, d_elements_pack<T, V>(g));
        }
    }
}

template <typename T, int V>
static void k_norm_bwd_launch(yg_gpu *gpu, const yg_ten *d, const yg_ten *d_residual, bool accumulate, const yg_ten *z, const yg_norm *norm) {
    const k_walk walk = k_walk_map(gpu, z, V);
    k_ten<T> none = {};
    K_LAUNCH((k_norm_bwd<T, V>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(d), d_residual ? k_view<T>(d_residual) : none, accumulate, k_view<T>(z), *norm, walk);
}

void yg_norm_bwd(yg_gpu *gpu, const yg_ten *d, const yg_ten *d_residual, bool accumulate, const yg_ten *z, const yg_norm *norm) {
    if (gpu->error || !k_norm_fits(gpu, norm, z) || !k_alike(gpu, d, z, "gradient of a batch norm") ||
        (d_residual && !k_alike(gpu, d_residual, z, "gradient of a batch norm"))) return;
    const bool aligned = k_norm_aligned(norm) && k_is_aligned(d) && k_is_aligned(z) && (!d_residual || k_is_aligned(d_residual));
    K_BY_VECTOR(z->type, aligned, k_norm_bwd_launch, gpu, d, d_residual, accumulate, z, norm);
    k_launched(gpu, "gradient of a batch norm");
}
