/* ==== K13 k_augment_ d_augment_: augmentation and letterbox from decoded pictures =================================
   A batch's pictures in one pass: flip, up to three views (each one picture or a mosaic of four, through its matrix), blend,
   cut, colours. Nothing between the decoded pictures and the batch's bytes is ever in memory.
   1. The bytes are the CPU's: positions, weights and colours are made by the same operations in the same order, each rounded,
      none contracted, so that a training does not depend on where its pictures are made.
   2. A pixel is a function of its scene and its place alone; tiles of a view do not overlap.
   3. Doubles, slow on most devices, are for a row's start and for mixup. */

enum { K_AUGMENT_ROWS = 8, K_AUGMENT_ONE = 2048 };

static constexpr unsigned K_AUGMENT_GRAY = 0x727272, K_AUGMENT_ALL = 0xffffffff; /* the border; the lanes of a warp */

/* Canvas coordinates along a row of the output: x of pixel i is i * step_x + start_x, with perspective over i * step_w + start_w. */
struct d_augment_line { float step_x, start_x, step_y, start_y, step_w, start_w; };

static __device__ __forceinline__ float d_augment_along(int i, float step, float start) { return __fadd_rn(__fmul_rn((float)i, step), start); }

static __device__ __forceinline__ float d_augment_start(double a, int y, double b) { return (float)__dadd_rn(__dmul_rn(a, (double)y), b); }

static __device__ __forceinline__ d_augment_line d_augment_line_of(const yg_view *view, int y) {
    const double *m = view->inverse;
    d_augment_line line;
    line.step_x = (float)m[0];
    line.start_x = d_augment_start(m[1], y, m[2]);
    line.step_y = (float)m[3];
    line.start_y = d_augment_start(m[4], y, m[5]);
    line.step_w = (float)m[6];
    line.start_w = d_augment_start(m[7], y, m[8]);
    return line;
}

/* A pixel is red | green << 8 | blue << 16. */
static __device__ __forceinline__ int d_augment_channel(unsigned pixel, int c) { return (int)(pixel >> 8 * c & 255); }

static __device__ __forceinline__ int d_augment_weight(float at) { return __float2int_rn((at - floorf(at)) * K_AUGMENT_ONE); }

/* As aug_mix. */
static __device__ __forceinline__ unsigned d_augment_mix(unsigned a, unsigned b, unsigned c, unsigned d, int right, int low) {
    unsigned pixel = 0;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const int above = (d_augment_channel(a, i) * (K_AUGMENT_ONE - right) + d_augment_channel(b, i) * right) >> 4;
        const int below = (d_augment_channel(c, i) * (K_AUGMENT_ONE - right) + d_augment_channel(d, i) * right) >> 4;
        pixel |= (unsigned)((above * (K_AUGMENT_ONE - low) + below * low + (1 << 17)) >> 18) << 8 * i;
    }
    return pixel;
}

/* Two neighbouring pixels, by three aligned words; the bytes above a pixel's three mean nothing. */
static __device__ __forceinline__ void d_augment_two(const uint8_t *p, unsigned *left, unsigned *right) {
    const unsigned shift = (unsigned)((uintptr_t)p & 3), which = 0x3210 + 0x1111 * shift;
    const unsigned *words = reinterpret_cast<const unsigned *>(p - shift);
    const unsigned middle = __ldg(words + 1), high = __byte_perm(middle, __ldg(words + 2), which);
    *left = __byte_perm(__ldg(words), middle, which);
    *right = *left >> 24 | high << 8;
}

static __device__ __forceinline__ const uint8_t *d_augment_at(const yg_tile *t, int x, int y) {
    return t->pixels + (int64_t)(y - t->shift_y) * t->stride + (x - t->shift_x) * 3;
}

/* One pixel of the canvas, border where no tile is. */
static __device__ unsigned d_augment_canvas(const yg_view *view, int x, int y) {
    for (int i = 0; i < view->tile_count; i++) {
        const yg_tile *t = &view->tiles[i];
        if (x < t->x1 || x >= t->x2 || y < t->y1 || y >= t->y2) continue;
        const uint8_t *p = d_augment_at(t, x, y);
        return (unsigned)__ldg(p) | (unsigned)__ldg(p + 1) << 8 | (unsigned)__ldg(p + 2) << 16;
    }
    return K_AUGMENT_GRAY;
}

/* As aug_sample. Mostly all four neighbours lie in one tile; elsewhere each is looked up. */
static __device__ __forceinline__ unsigned d_augment_sample(const yg_view *view, float x, float y) {
    if (!(x >= -1 && x < (float)view->canvas_width && y >= -1 && y < (float)view->canvas_height)) return K_AUGMENT_GRAY;
    const int left = __float2int_rd(x), top = __float2int_rd(y);
    unsigned a = 0, b = 0, c = 0, d = 0;
    bool found = false;
    for (int i = 0; i < view->tile_count && !found; i++) {
        const yg_tile *t = &view->tiles[i];
        found = left >= t->x1 && left < t->x2 - 1 && top >= t->y1 && top < t->y2 - 1;
        if (!found) continue;
        const uint8_t *p = d_augment_at(t, left, top);
        d_augment_two(p, &a, &b);
        d_augment_two(p + t->stride, &c, &d);
    }
    if (!found) {
        a = d_augment_canvas(view, left, top);
        b = d_augment_canvas(view, left + 1, top);
        c = d_augment_canvas(view, left, top + 1);
        d = d_augment_canvas(view, left + 1, top + 1);
    }
    return d_augment_mix(a, b, c, d, d_augment_weight(x), d_augment_weight(y));
}

/* Pixel x of a view's row. */
static __device__ __forceinline__ unsigned d_augment_view(const yg_view *view, const d_augment_line *line, int x) {
    float at_x = d_augment_along(x, line->step_x, line->start_x), at_y = d_augment_along(x, line->step_y, line->start_y);
    if (view->perspective) {
        const float w = d_augment_along(x, line->step_w, line->start_w);
        at_x = __fdiv_rn(at_x, w);
        at_y = __fdiv_rn(at_y, w);
    }
    return d_augment_sample(view, at_x, at_y);
}

/* As aug_blend. */
static __device__ __forceinline__ unsigned d_augment_blend(unsigned own, unsigned other, double ratio) {
    unsigned pixel = 0;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const double a = __dmul_rn((double)d_augment_channel(own, c), ratio), b = __dmul_rn((double)d_augment_channel(other, c), 1 - ratio);
        pixel |= (unsigned)(int)__dadd_rn(a, b) << 8 * c;
    }
    return pixel;
}

/* As aug_hsv_row. */
static __device__ __forceinline__ unsigned d_augment_colour(const yg_colours *t, unsigned in) {
    const int r = d_augment_channel(in, 0), g = d_augment_channel(in, 1), b = d_augment_channel(in, 2);
    const int high = max(r, max(g, b)), range = high - min(r, min(g, b));
    const int around = high == r ? g - b : high == g ? b - r + 2 * range : r - g + 4 * range;
    const int hue = (around * __ldg(t->by_range + range) + 2048) >> 12, saturation = (range * __ldg(t->by_value + high) + 2048) >> 12;
    const float *weight = t->weight[hue < 0 ? hue + 180 : hue], s = __ldg(t->saturation + saturation), v = __ldg(t->value + high);
    unsigned pixel = 0;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        const float rest = __fsub_rn(1.0f, __fmul_rn(s, __ldg(weight + c)));
        pixel |= (unsigned)__float2int_rz(__fmul_rn(__fmul_rn(v, rest), 255.0f)) << 8 * c;
    }
    return pixel;
}

/* The picture's pixel (x, y), before flips; `lines` are the row's, one a view. */
static __device__ __forceinline__ unsigned d_augment_pixel(const yg_layout *s, const yg_colours *colours, const d_augment_line *lines, int x, int y) {
    unsigned pixel;
    if (x >= s->cut[0] && x < s->cut[2] && y >= s->cut[1] && y < s->cut[3]) pixel = d_augment_view(&s->views[2], lines + 2, x);
    else {
        pixel = d_augment_view(&s->views[0], lines, x);
        if (s->mixup) pixel = d_augment_blend(pixel, d_augment_view(&s->views[1], lines + 1, x), s->ratio);
    }
    if (s->coloured) return d_augment_colour(colours, pixel);
    return s->bgr ? __byte_perm(pixel, 0, 0x4012) : pixel;
}

/* Pictures of scenes. Grid (columns / 32, rows / K_AUGMENT_ROWS, pictures); a warp makes 32 pixels of a row, a thread one, and of
   four threads three write a word each where rows lie on words. No order of threads matters. Twin: aug_render. */
static __global__ void __launch_bounds__(K_WARP *K_AUGMENT_ROWS)
    k_augment(uint8_t *__restrict__ out, const yg_scene *__restrict__ scenes, int h, int w, bool on_words) {
    __shared__ yg_layout layout;
    __shared__ d_augment_line lines[K_AUGMENT_ROWS][YG_VIEWS];
    const yg_scene *scene = scenes + blockIdx.z;
    const int lane = (int)threadIdx.x, thread = (int)threadIdx.y * K_WARP + lane;
    static_assert(sizeof(yg_layout) % 4 == 0, "copied by words");
    for (int i = thread; i < (int)(sizeof layout / 4); i += K_WARP * K_AUGMENT_ROWS)
        reinterpret_cast<unsigned *>(&layout)[i] = __ldg(reinterpret_cast<const unsigned *>(&scene->layout) + i);
    __syncthreads();
    if (thread < YG_VIEWS * K_AUGMENT_ROWS) {
        const int row = thread / YG_VIEWS, view = thread % YG_VIEWS, at = (int)blockIdx.y * K_AUGMENT_ROWS + row;
        lines[row][view] = d_augment_line_of(&layout.views[view], layout.flip_y ? h - 1 - at : at);
    }
    __syncthreads();
    const int column = (int)blockIdx.x * K_WARP + lane, row = (int)blockIdx.y * K_AUGMENT_ROWS + (int)threadIdx.y;
    const bool inside = column < w && row < h;
    const int x = layout.flip_x ? w - 1 - column : column, y = layout.flip_y ? h - 1 - row : row;
    unsigned pixel = 0;
    if (inside) pixel = d_augment_pixel(&layout, &scene->colours, lines[threadIdx.y], x, y);
    const unsigned next = __shfl_down_sync(K_AUGMENT_ALL, pixel, 1);
    uint8_t *to = out + (((int64_t)blockIdx.z * h + row) * w + column) * 3;
    const int part = lane & 3;
    if (!inside) return;
    if (!on_words) {
#pragma unroll
        for (int c = 0; c < 3; c++) to[c] = (uint8_t)(pixel >> 8 * c);
    } else if (part < 3) *reinterpret_cast<unsigned *>(to + part) = pixel >> 8 * part | next << (24 - 8 * part);
}

void yg_augment(yg_gpu *gpu, uint8_t *out, const yg_scene *scenes, int n, int h, int w) {
    if (gpu->error || n < 1 || h < 1 || w < 1) return;
    const dim3 grid((unsigned)k_ceil_div(w, K_WARP), (unsigned)k_ceil_div(h, K_AUGMENT_ROWS), (unsigned)n);
    if (n > 65535 || grid.y > 65535) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: %d pictures of %d x %d at a time", gpu->index, n, w, h);
        return;
    }
    K_LAUNCH(k_augment, grid, dim3(K_WARP, K_AUGMENT_ROWS), 0, gpu->stream, out, scenes, h, w, w % 4 == 0 && ((uintptr_t)out & 3) == 0);
    k_launched(gpu, "pictures of a batch");
}
