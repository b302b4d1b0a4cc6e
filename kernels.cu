/* kernels.cu - the GPU half of the engine; yolo.c is the other half, yolo.h's private part the boundary between them.

   It is: CUDA C++ behind plain C names (yg_*), linked with cudart alone, statically, so that the executable starts on a
   machine without a driver. It is not: a library of its own; no cuDNN, no cuBLAS, and NCCL is never linked.
   Every kernel also runs on the host: tests/emulate stands in for CUDA there, with the same source.

   CONTENTS (tests/check_layout.sh compares this list with the banners below)
     K1  k_ d_ yg_    conventions
     K2  k_ d_ yg_    devices
     K4  k_ d_ yg_    pictures and floats into tensors
     K5  k_ d_ yg_    copies, upsampling
     K6  k_ d_ yg_    max-pooling
     K7  k_ d_ yg_    batch norm with its activation
     K8  k_ d_ yg_    convolution, forward and gradient of the input
     K9  k_ d_ yg_    convolution, gradient of the weights
     K15 k_ d_ yg_    convolution on Hopper, and which way a convolution goes
     K10 k_ d_ yg_    boxes from the raw heads, suppression
     K11 k_ d_ yg_    training loss
     K12 k_ d_ yg_    optimizers and moving average
     K13 k_ d_ yg_    augmentation and letterbox from decoded pictures
     K14 k_ d_ yg_    peaks of the device
     K16 k_ d_ yg_    sums over several devices

   LAYERING: a section calls only itself and sections above it. k_ kernels and host helpers, d_ device functions, yg_ the
   boundary. A launcher stands below its kernels; a kernel's comment names its mapping and its twin in yolo.c.
   Dimensions: N batch, C input channels, K output channels, H W height and width, R S kernel height and width,
   A anchors, Z classes.

   MIT licence, see LICENSE. */
#define YOLO_PRIVATE
#include "yolo.h"

#include <cuda.h> /* types alone: the executable starts without a driver */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ==== K1 k_ d_ yg_: conventions ======================================================================================
   A call that can fail at once returns its CUDA error number, 0 for success, and leaves a sentence in the caller's buffer.
   What is put onto a stream leaves its failure in the yg_gpu, where the first one stays.
   CUDA keeps the last error of a thread; whoever reports one clears it, so that it is not reported twice.
   Kernels are launched by K_LAUNCH and get their dynamic shared memory by K_SHARED, because the emulation knows no <<<>>>.
   Instructions that C++ has no name for are functions here (d_mma_f16, d_copy_async16, ...); the emulation brings its own. */

#ifdef __CUDACC__
#define K_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define K_SHARED(type, name)                                               \
    extern __shared__ __align__(128) unsigned char k_shared_bytes[];       \
    type *name = reinterpret_cast<type *>(k_shared_bytes)

/* The address that PTX wants for a pointer into shared memory. */
static __device__ __forceinline__ unsigned d_shared_address(const void *shared) { return (unsigned)__cvta_generic_to_shared(shared); }

/* D(16,8) += A(16,16) B(16,8) by a warp, floats from halves; fragments as PTX ISA has them for mma.m16n8k16. */
static __device__ __forceinline__ void d_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif __CUDA_ARCH__ >= 750
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

/* The same of bf16; only in code for 8.0 and newer, see yg_gpu.compute. */
static __device__ __forceinline__ void d_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8, 16-byte aligned. */
static __device__ __forceinline__ void d_ldmatrix_x4(uint32_t r[4], const void *row) {
#if __CUDA_ARCH__ >= 750
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(d_shared_address(row)) : "memory");
#endif
}

static __device__ __forceinline__ void d_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
#if __CUDA_ARCH__ >= 750
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(d_shared_address(row)) : "memory");
#endif
}

/* d[i][j] += a[i] b[j], pieces of 16x8; a[i] and the pair b[j / 2] are loaded from the rows that the lane gives, `turned` as they are. */
template <bool brain, bool turned, int high, int wide>
static __device__ __forceinline__ void d_mma_tile(float (&d)[high][wide][4], const void *const (&a_rows)[high], const void *const (&b_rows)[wide / 2]) {
    uint32_t a[high][4], b[wide / 2][4];
#pragma unroll
    for (int i = 0; i < high; i++) turned ? d_ldmatrix_x4_trans(a[i], a_rows[i]) : d_ldmatrix_x4(a[i], a_rows[i]);
#pragma unroll
    for (int j = 0; j < wide / 2; j++) turned ? d_ldmatrix_x4_trans(b[j], b_rows[j]) : d_ldmatrix_x4(b[j], b_rows[j]);
#pragma unroll
    for (int i = 0; i < high; i++)
#pragma unroll
        for (int j = 0; j < wide; j++) brain ? d_mma_bf16(d[i][j], a[i], &b[j / 2][j % 2 * 2]) : d_mma_f16(d[i][j], a[i], &b[j / 2][j % 2 * 2]);
}

/* 16 bytes from global to shared memory behind the thread's back, zeros where not `valid`; both 16-byte aligned. They are there
   for this thread after d_copy_async_wait, for others after a barrier behind it. */
static __device__ __forceinline__ void d_copy_async16(void *shared, const void *global, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(d_shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
#else
    *static_cast<uint4 *>(shared) = valid ? *static_cast<const uint4 *>(global) : make_uint4(0, 0, 0, 0);
#endif
}

static __device__ __forceinline__ void d_copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most `pending` of the groups committed are on their way. */
template <int pending> static __device__ __forceinline__ void d_copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

/* ---- of Hopper: instructions that code for sm_90a alone has; elsewhere these are empty */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define K_HOPPER_ASM asm volatile
#else
#define K_HOPPER_ASM(...) ((void)0)
#endif

/* A barrier in shared memory: a phase of it ends when `arrivals` threads have arrived and all bytes they announced have come.
   Phases count from 0. Between making barriers and the block's first barrier: d_phase_fence. */
static __device__ __forceinline__ void d_phase_make(uint64_t *barrier, int arrivals) {
    K_HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(d_shared_address(barrier)), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void d_phase_fence() { K_HOPPER_ASM("fence.proxy.async.shared::cta;" ::: "memory"); }

static __device__ __forceinline__ void d_phase_arrive(uint64_t *barrier) {
    K_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(d_shared_address(barrier)) : "memory");
}

/* Arrives, and announces bytes of d_tensor_ copies. */
static __device__ __forceinline__ void d_phase_expect(uint64_t *barrier, int bytes) {
    K_HOPPER_ASM("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(d_shared_address(barrier)), "r"(bytes) : "memory");
}

/* Waits for the end of the phase of this parity: at once where a phase of the other one is running. */
static __device__ __forceinline__ void d_phase_wait(uint64_t *barrier, int parity) {
    unsigned done = 1;
    do
        K_HOPPER_ASM("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done) : "r"(d_shared_address(barrier)), "r"(parity) : "memory");
    while (!done);
}

/* A box of a tensor of three dimensions, from element (x,y,z) on, to shared memory, laid out as the map says; zeros beyond the tensor.
   Called by one thread; the bytes that come are counted by the barrier. */
static __device__ __forceinline__ void d_tensor_box(void *shared, const CUtensorMap *map, int x, int y, int z, uint64_t *barrier) {
    K_HOPPER_ASM("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
                 ::"r"(d_shared_address(shared)), "l"(map), "r"(x), "r"(y), "r"(z), "r"(d_shared_address(barrier)) : "memory");
}

/* Channels c and on of the pixels that one tap of a convolution sees (im2col mode): from window (n,y,x) on, tap (r,s) of each. */
static __device__ __forceinline__ void d_tensor_windows(void *shared, const CUtensorMap *map, int c, int x, int y, int n, int s, int r, uint64_t *barrier) {
    K_HOPPER_ASM("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};"
                 ::"r"(d_shared_address(shared)), "l"(map), "r"(c), "r"(x), "r"(y), "r"(n), "r"(d_shared_address(barrier)), "h"((unsigned short)s),
                 "h"((unsigned short)r) : "memory");
}

/* Waits for `threads` threads, whole warps, at barrier `index`, 1 to 15. */
static __device__ __forceinline__ void d_barrier(int index, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(index), "r"(threads) : "memory");
}

/* Products of a warpgroup: four warps, D(64,N) += A(64,16) B(16,N), all of it behind the threads' backs. Before the first: d_wgmma_fence.
   What was begun is a group with d_wgmma_commit; D can be touched after d_wgmma_wait has waited for its group, and so can A and B. */
static __device__ __forceinline__ void d_wgmma_fence() { K_HOPPER_ASM("wgmma.fence.sync.aligned;" ::: "memory"); }
static __device__ __forceinline__ void d_wgmma_commit() { K_HOPPER_ASM("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> static __device__ __forceinline__ void d_wgmma_wait() { K_HOPPER_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }

#define K_TEN(tens) "%" #tens "0,%" #tens "1,%" #tens "2,%" #tens "3,%" #tens "4,%" #tens "5,%" #tens "6,%" #tens "7,%" #tens "8,%" #tens "9,"
#define K_EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define K_WGMMA_TYPE(n, type, registers, operands, ...)                                                                                        \
    K_HOPPER_ASM("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" registers "}, " operands \
                 ", p, 1, 1, 0, 0;}" : __VA_ARGS__ : "l"(a), "l"(b))
#define K_WGMMA(n, registers, operands, ...)                                    \
    do {                                                                        \
        if (brain) K_WGMMA_TYPE(n, "bf16", registers, operands, __VA_ARGS__);   \
        else K_WGMMA_TYPE(n, "f16", registers, operands, __VA_ARGS__);          \
    } while (0)

/* a, b: descriptors of K-major matrices in shared memory, see d_hopper_matrix; of bf16 where `brain`, else of halves. d: N / 2 floats a
   thread, as PTX ISA has the fragment of wgmma.m64nNk16: warp w has rows 16 w and on, as mma.m16n8k16 would have them. */
template <int N, bool brain> static __device__ __forceinline__ void d_wgmma(float *d, uint64_t a, uint64_t b) {
    if constexpr (N == 64)
        K_WGMMA("64", K_TEN() K_TEN(1) K_TEN(2) "%30,%31", "%32, %33", K_EIGHT(0), K_EIGHT(8), K_EIGHT(16), K_EIGHT(24));
    else if constexpr (N == 96)
        K_WGMMA("96", K_TEN() K_TEN(1) K_TEN(2) K_TEN(3) "%40,%41,%42,%43,%44,%45,%46,%47", "%48, %49", K_EIGHT(0), K_EIGHT(8), K_EIGHT(16),
                K_EIGHT(24), K_EIGHT(32), K_EIGHT(40));
    else if constexpr (N == 128)
        K_WGMMA("128", K_TEN() K_TEN(1) K_TEN(2) K_TEN(3) K_TEN(4) K_TEN(5) "%60,%61,%62,%63", "%64, %65", K_EIGHT(0), K_EIGHT(8), K_EIGHT(16),
                K_EIGHT(24), K_EIGHT(32), K_EIGHT(40), K_EIGHT(48), K_EIGHT(56));
    else
        K_WGMMA("256", K_TEN() K_TEN(1) K_TEN(2) K_TEN(3) K_TEN(4) K_TEN(5) K_TEN(6) K_TEN(7) K_TEN(8) K_TEN(9) K_TEN(10) K_TEN(11)
                "%120,%121,%122,%123,%124,%125,%126,%127", "%128, %129", K_EIGHT(0), K_EIGHT(8), K_EIGHT(16), K_EIGHT(24), K_EIGHT(32),
                K_EIGHT(40), K_EIGHT(48), K_EIGHT(56), K_EIGHT(64), K_EIGHT(72), K_EIGHT(80), K_EIGHT(88), K_EIGHT(96), K_EIGHT(104),
                K_EIGHT(112), K_EIGHT(120));
}
#endif /* __CUDACC__ */

/* A kernel's parameter that stays where it is when it is indexed; on 6.x, which has no such thing, every thread copies it. */
#if __CUDA_ARCH__ >= 700
#define K_CONSTANT __grid_constant__
#else
#define K_CONSTANT
#endif

/* Is the code that is being compiled for Hopper, with the instructions that only sm_90a has? */
static __device__ constexpr bool d_hopper_code() {
#if defined(__CUDACC__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
    return false;
#else
    return true;
#endif
}

enum { K_OLDEST = 60 /* compute capability, times ten, that kernels are written for */ };
enum { K_WARP = 32, K_SCRATCH_BYTES = YG_SCRATCH_BYTES, K_STAGES = 8, K_STAGE_BYTES = YG_STAGING_BYTES / K_STAGES };

static constexpr unsigned K_ALL_LANES = 0xffffffff; /* of a warp, as a mask */

/* Elements in memory, numbers in registers. */
template <typename T> struct k_element;
template <> struct k_element<float> {
    static __device__ __forceinline__ float load(float x) { return x; }
    static __device__ __forceinline__ float store(float x) { return x; }
};
template <> struct k_element<__half> {
    static __device__ __forceinline__ float load(__half x) { return __half2float(x); }
    static __device__ __forceinline__ __half store(float x) { return __float2half_rn(x); }
};
template <> struct k_element<__nv_bfloat16> {
    static __device__ __forceinline__ float load(__nv_bfloat16 x) { return __bfloat162float(x); }
    static __device__ __forceinline__ __nv_bfloat16 store(float x) { return __float2bfloat16_rn(x); }
};

/* Calls `function<T>(...)` with the T of a yg_type. */
#define K_BY_TYPE(type, function, ...)                                \
    do {                                                              \
        if ((type) == YG_F32) function<float>(__VA_ARGS__);           \
        else if ((type) == YG_F16) function<__half>(__VA_ARGS__);     \
        else function<__nv_bfloat16>(__VA_ARGS__);                    \
    } while (0)

/* A view as kernels take it: T in place of a pointer to whatever. */
template <typename T> struct k_ten { T *data; int n, h, w, c; int64_t pixel; };

template <typename T> static k_ten<T> k_view(const yg_ten *t) {
    const k_ten<T> view = {static_cast<T *>(t->data), t->n, t->h, t->w, t->c, t->pixel};
    return view;
}

static size_t k_type_size(yg_type type) { return type == YG_F32 ? 4 : 2; }

/* May pixels be read and written in vectors of 16 bytes? */
static bool k_is_aligned(const yg_ten *t) {
    const int64_t step = 16 / (int64_t)k_type_size(t->type);
    return t->c % step == 0 && t->pixel % step == 0 && ((uintptr_t)t->data & 15) == 0;
}

template <typename T> static T k_min(T a, T b) { return a < b ? a : b; }
template <typename T> static T k_max(T a, T b) { return a > b ? a : b; }
static int64_t k_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Writes "what: CUDA's text (error N)" into `reason` and returns the error's number. */
static int k_reason(cudaError_t error, const char *what, char *reason, size_t reason_size) {
    if (error == cudaSuccess) return 0;
    (void)cudaGetLastError();
    if (reason && reason_size) snprintf(reason, reason_size, "%s: %s (CUDA error %d)", what, cudaGetErrorString(error), (int)error);
    return (int)error;
}

/* "13.0" for 13000. */
static void k_version_text(int version, char *text, size_t size) {
    snprintf(text, size, "%d.%d", version / 1000, version % 1000 / 10);
}

/* What yg_watch notes: events.at[i] is before call i, events.at[i + 1] behind it. */
struct k_watch { cudaEvent_t *at; yg_call *calls; int most, count; yg_call next; };

/* The driver's functions that make tensor maps, asked for by name, so that nothing is linked. */
struct k_encoders { decltype(&cuTensorMapEncodeTiled) box; decltype(&cuTensorMapEncodeIm2col) windows; };

/* What yg_tune has measured. */
struct k_tune { bool on; yg_tuned *list; int count; };

struct yg_gpu {
    int index;
    int compute, multiprocessors; /* compute: 10 * major + minor of the device, or of the code it runs where that is older */
    size_t shared_most;           /* bytes that a block can get */
    k_encoders encoders;          /* of tensor maps; NULL where the device, its code or the driver knows none */
    cudaStream_t stream;
    void *scratch;                /* K_SCRATCH_BYTES for what one call leaves from one of its kernels to the next */
    cudaEvent_t mark;             /* of yg_mark; NULL before the first */
    cudaStream_t copies;          /* of yg_send; NULL before the first, as all down to `copied` */
    cudaEvent_t sent, released;   /* of yg_receive and yg_release */
    uint8_t *staging;             /* pinned: K_STAGES times K_STAGE_BYTES */
    cudaEvent_t copied[K_STAGES]; /* a stage may be written again */
    int stage;                    /* the one that is written, and how far */
    size_t staged;
    bool received;                /* and not released */
    bool recording;
    k_watch watch;                /* most 0: nobody asks */
    k_tune tune;
    int error;                    /* the first failure, 0 = none */
    char reason[256];
};

/* Keeps the first failure. */
static void k_fail(yg_gpu *gpu, int error, const char *format, ...) {
    (void)cudaGetLastError();
    if (gpu->error || !error) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(gpu->reason, sizeof gpu->reason, format, arguments);
    va_end(arguments);
    gpu->error = error;
}

/* What to do about an error; "" where nothing is known. */
static const char *k_advice(cudaError_t error) {
    switch (error) {
    case cudaErrorMemoryAllocation: return ": close what else uses the GPU, or take a smaller batch, imgsz or model";
    case cudaErrorDevicesUnavailable: return ": another program has the GPU for itself, see nvidia-smi";
    case cudaErrorInsufficientDriver: case cudaErrorUnsupportedPtxVersion: return ": install a newer driver";
    case cudaErrorNoKernelImageForDevice: case cudaErrorInvalidDeviceFunction:
        return ": this program has no code for the GPU, build it on this machine with ./build.sh cuda";
    case cudaErrorIllegalAddress: case cudaErrorLaunchTimeout: case cudaErrorLaunchFailure: case cudaErrorECCUncorrectable: case cudaErrorUnknown:
        return ": the GPU is lost to this process, see nvidia-smi and the system's log, and start again";
    default: return "";
    }
}

/* Is `error` a success? Else it is kept. */
static bool k_good(yg_gpu *gpu, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return true;
    k_fail(gpu, (int)error, "GPU %d: %s: %s (CUDA error %d)%s", gpu->index, what, cudaGetErrorString(error), (int)error, k_advice(error));
    return false;
}

/* What the call in hand does, for yg_watch: before k_launched. */
static void k_amount(yg_gpu *gpu, double bytes, double flops) { gpu->watch.next.bytes = bytes, gpu->watch.next.flops = flops; }

/* Notes that a call ends here. */
static void k_note(yg_gpu *gpu, const char *what) {
    k_watch *w = &gpu->watch;
    if (w->count < w->most && !gpu->recording && !gpu->error && k_good(gpu, cudaEventRecord(w->at[w->count + 1], gpu->stream), "a call's time")) {
        w->next.what = what;
        w->calls[w->count++] = w->next;
    }
    w->next = yg_call();
}

/* After the launches of a call. */
static void k_launched(yg_gpu *gpu, const char *what) {
    k_good(gpu, cudaGetLastError(), what);
    k_note(gpu, what);
}

/* Bytes of a tensor's elements. */
static double k_bytes(const yg_ten *t) { return (double)t->n * t->h * t->w * t->c * (double)k_type_size(t->type); }

/* Scratch of a call; NULL, and a failure, when it wants more than there is. */
template <typename T> static T *k_scratch(yg_gpu *gpu, size_t count) {
    if (count * sizeof(T) <= K_SCRATCH_BYTES) return static_cast<T *>(gpu->scratch);
    k_fail(gpu, (int)cudaErrorMemoryAllocation, "GPU %d: %zu bytes of scratch wanted, at most %d", gpu->index, count * sizeof(T), (int)K_SCRATCH_BYTES);
    return NULL;
}

/* ==== K2 k_ d_ yg_: devices ==========================================================================================
   Discovery only reads. It makes a context on a device where free memory is asked for, and changes no device's state;
   the calling thread's current device is the same afterwards.
   A yg_gpu's calls leave its device as the thread's current one. */

void yg_versions(int *driver, int *runtime) {
    if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
    if (cudaRuntimeGetVersion(runtime) != cudaSuccess) *runtime = 0;
    (void)cudaGetLastError();
}

int yg_device_count(char *reason, size_t reason_size) {
    int driver, runtime, count = 0;
    char have[16], need[16];
    yg_versions(&driver, &runtime);
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) return count;
    (void)cudaGetLastError();
    if (error == cudaErrorNoDevice) return 0;
    k_version_text(driver, have, sizeof have);
    k_version_text(runtime, need, sizeof need);
    if (!driver) snprintf(reason, reason_size, "no NVIDIA driver is installed, or it does not run: nvidia-smi tells which");
    else if (error == cudaErrorInsufficientDriver)
        snprintf(reason, reason_size, "the NVIDIA driver supports CUDA %s, this program needs %s: install a newer driver", have, need);
    else k_reason(error, "GPUs cannot be counted", reason, reason_size);
    return -1;
}

/* Which of `count` devices this one reads directly, as bits. */
static uint64_t yg_peers(int index, int count) {
    uint64_t peers = 0;
    for (int other = 0; other < count && other < 64; other++) {
        int direct = 0;
        if (other != index && cudaDeviceCanAccessPeer(&direct, index, other) == cudaSuccess && direct) peers |= (uint64_t)1 << other;
    }
    (void)cudaGetLastError();
    return peers;
}

int yg_device_get(int index, yg_device *device, char *reason, size_t reason_size) {
    cudaDeviceProp properties;
    int count = 0, current = 0;
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, index);
    if (error != cudaSuccess) return k_reason(error, "the GPU's properties cannot be read", reason, reason_size);
    *device = yg_device();
    snprintf(device->name, sizeof device->name, "%s", properties.name);
    device->memory_total = properties.totalGlobalMem;
    device->compute_major = properties.major;
    device->compute_minor = properties.minor;
    device->multiprocessors = properties.multiProcessorCount;
    device->peer_access = yg_peers(index, count);
    if ((error = cudaGetDevice(&current)) == cudaSuccess && (error = cudaSetDevice(index)) == cudaSuccess) {
        error = cudaMemGetInfo(&free_bytes, &total_bytes);
        (void)cudaSetDevice(current);
    }
    device->memory_free = free_bytes;
    return k_reason(error, "the GPU's free memory cannot be read", reason, reason_size);
}

/* A kernel to ask the driver about. */
static __global__ void k_nothing() {}

/* Sets gpu->compute: of the device, or of the PTX that the driver has compiled for it where that is older: instructions beyond
   that are not in the code. False where there is no code for the device at all. */
static bool k_find_code(yg_gpu *gpu, const cudaDeviceProp *properties) {
    const int compute = 10 * properties->major + properties->minor;
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, k_nothing);
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        if (compute < K_OLDEST)
            k_fail(gpu, (int)error, "GPU %d: %s has compute capability %d.%d, %d.%d or newer is needed: use another GPU, or device=cpu", gpu->index,
                   properties->name, properties->major, properties->minor, K_OLDEST / 10, K_OLDEST % 10);
        else
            k_fail(gpu, (int)error, "GPU %d: this program has no code for %s: build it with ./build.sh cuda arch=sm_%d", gpu->index, properties->name, compute);
        return false;
    }
    if (!k_good(gpu, error, "its code cannot be looked at")) return false;
    gpu->compute = k_min(compute, attributes.ptxVersion);
    return true;
}

/* Keeps the device busy for some milliseconds, so that the host gets ahead of it. One thread. */
static __global__ void k_idle(long long clocks) {
#ifdef __CUDACC__
    for (const long long start = clock64(); clock64() - start < clocks;) {}
#else
    (void)clocks;
#endif
}

static void k_watch_end(yg_gpu *gpu) {
    k_watch *w = &gpu->watch;
    for (int i = 0; i <= w->most && w->at; i++)
        if (w->at[i]) (void)cudaEventDestroy(w->at[i]);
    free(w->at);
    free(w->calls);
    *w = k_watch();
}

/* The device works on nothing while the host goes ahead: no call is to be charged with the host's time. */
static void k_watch_idle(yg_gpu *gpu) {
    K_LAUNCH(k_idle, 1, 1, 0, gpu->stream, 8000000LL);
    k_good(gpu, cudaGetLastError(), "a call's time");
}

void yg_watch(yg_gpu *gpu, int most) {
    k_watch *w = &gpu->watch;
    k_watch_end(gpu);
    if (gpu->error || most < 1) return;
    w->at = static_cast<cudaEvent_t *>(calloc((size_t)most + 1, sizeof *w->at));
    w->calls = static_cast<yg_call *>(calloc((size_t)most, sizeof *w->calls));
    if (w->at && w->calls) w->most = most;
    else k_fail(gpu, (int)cudaErrorMemoryAllocation, "GPU %d: no host memory to note %d calls", gpu->index, most);
    for (int i = 0; i <= w->most && !gpu->error && w->most; i++) k_good(gpu, cudaEventCreate(&w->at[i]), "a call's time");
    if (!gpu->error) k_watch_idle(gpu);
    if (gpu->error || !k_good(gpu, cudaEventRecord(w->at[0], gpu->stream), "a call's time")) k_watch_end(gpu);
}

int yg_watching(const yg_gpu *gpu) { return gpu->watch.count; }

int yg_watched(yg_gpu *gpu, const yg_call **calls) {
    k_watch *w = &gpu->watch;
    const int count = w->count;
    k_good(gpu, cudaStreamSynchronize(gpu->stream), "work failed");
    for (int i = 0; i < count && !gpu->error; i++) {
        float ms = 0;
        if (k_good(gpu, cudaEventElapsedTime(&ms, w->at[i], w->at[i + 1]), "a call's time")) w->calls[i].ms = ms;
    }
    *calls = w->calls;
    return gpu->error ? 0 : count;
}

/* ---- tiles by measuring */

enum { K_TUNE_ROUNDS = 5, K_TUNE_MOST = 8 };

/* A convolution, and the tiles that it may have: the rule's and others that give the same bits. */
struct k_tune_case {
    yg_tuned key;
    int rule, count, choices[K_TUNE_MOST], m[K_TUNE_MOST], n[K_TUNE_MOST];
    size_t shadow; /* bytes to write to while measuring, 0 = what is written does not change by writing it again */
};

static void k_tune_add(k_tune_case *c, int choice, int m, int n) {
    c->choices[c->count] = choice, c->m[c->count] = m, c->n[c->count++] = n;
}

void yg_tune(yg_gpu *gpu, bool on) { gpu->tune.on = on; }

int yg_tuned_list(const yg_gpu *gpu, const yg_tuned **list) {
    *list = gpu->tune.list;
    return gpu->tune.count;
}

static const yg_tuned *k_tune_find(const yg_gpu *gpu, const yg_tuned *key) {
    for (int i = 0; i < gpu->tune.count; i++)
        if (!memcmp(&gpu->tune.list[i], key, offsetof(yg_tuned, choice))) return &gpu->tune.list[i];
    return NULL;
}

/* The median of the times from at[0], at[step], ... to the event behind each. */
static double k_tune_median(yg_gpu *gpu, const cudaEvent_t *at, int step) {
    float ms[K_TUNE_ROUNDS] = {};
    for (int round = 0; round < K_TUNE_ROUNDS; round++) {
        float each = 0;
        int to = round;
        if (!gpu->error) k_good(gpu, cudaEventElapsedTime(&each, at[round * step], at[round * step + 1]), "a tile's time");
        for (; to > 0 && ms[to - 1] > each; to--) ms[to] = ms[to - 1];
        ms[to] = each;
    }
    return ms[K_TUNE_ROUNDS / 2];
}

/* Medians of all choices, which take turns; each has run once before, so that its code is loaded. */
template <typename Launch> static void k_tune_measure(yg_gpu *gpu, const k_tune_case &c, double *ms, void *shadow, Launch launch) {
    cudaEvent_t at[K_TUNE_MOST * K_TUNE_ROUNDS + 1] = {};
    const int runs = c.count * K_TUNE_ROUNDS;
    for (int i = 0; i <= runs && !gpu->error; i++) k_good(gpu, cudaEventCreate(&at[i]), "a tile's time");
    for (int i = 0; i < c.count && !gpu->error; i++) launch(c.choices[i], shadow);
    if (!gpu->error) k_watch_idle(gpu);
    for (int i = 0; i <= runs && !gpu->error; i++) {
        k_good(gpu, cudaEventRecord(at[i], gpu->stream), "a tile's time");
        if (i < runs) launch(c.choices[i % c.count], shadow);
    }
    k_good(gpu, cudaStreamSynchronize(gpu->stream), "work failed");
    for (int i = 0; i < c.count; i++) ms[i] = k_tune_median(gpu, at + i, c.count);
    for (int i = 0; i <= runs; i++)
        if (at[i]) (void)cudaEventDestroy(at[i]);
}

/* Room for one more line; false where the host has none. */
static bool k_tune_grow(k_tune *tune) {
    yg_tuned *list = static_cast<yg_tuned *>(realloc(tune->list, ((size_t)tune->count + 1) * sizeof *list));
    if (list) tune->list = list;
    return list != NULL;
}

/* The choice that was measured, else the rule's. While yg_tune is on, a convolution that is new is measured: `launch(choice, shadow)`
   launches it, into the shadow where that is not NULL. Without memory for that, the rule decides. */
template <typename Launch> static int k_tune_choose(yg_gpu *gpu, const k_tune_case &c, Launch launch) {
    const yg_tuned *known = k_tune_find(gpu, &c.key);
    double ms[K_TUNE_MOST] = {};
    void *shadow = NULL;
    if (known) return known->choice;
    if (!gpu->tune.on || gpu->recording || gpu->error || c.count < 2) return c.rule;
    if (!k_tune_grow(&gpu->tune) || (c.shadow && cudaMalloc(&shadow, c.shadow) != cudaSuccess)) {
        (void)cudaGetLastError();
        return c.rule;
    }
    k_tune_measure(gpu, c, ms, shadow, launch);
    if (shadow) k_good(gpu, cudaFree(shadow), "memory cannot be freed");
    if (gpu->error) return c.rule;
    int rule = 0;
    while (c.choices[rule] != c.rule) rule++;
    int best = rule;
    for (int i = 0; i < c.count; i++)
        if (ms[i] < ms[best]) best = i;
    yg_tuned *line = &gpu->tune.list[gpu->tune.count++];
    *line = c.key;
    line->choice = c.choices[best], line->rule_m = c.m[rule], line->rule_n = c.n[rule], line->best_m = c.m[best], line->best_n = c.n[best];
    line->rule_ms = ms[rule], line->best_ms = ms[best];
    for (int i = 0; i < c.count; i++) line->choices |= 1u << c.choices[i];
    return line->choice;
}

static __global__ void k_ask_hopper(int *answer) { *answer = d_hopper_code(); }

/* A function of the driver, NULL where it has none. */
static void *k_driver_function(const char *name) {
    void *function = NULL;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t error = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &result);
#endif
    (void)cudaGetLastError();
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? function : NULL;
}

/* Fills in the encoders where the device is a Hopper and runs code for sm_90a: that of sm_90, or from PTX, lacks the instructions. */
static bool k_ask_encoders(yg_gpu *gpu) {
    int answer = 0;
    if (gpu->compute != 90) return true;
    K_LAUNCH(k_ask_hopper, 1, 1, 0, gpu->stream, static_cast<int *>(gpu->scratch));
    const bool good = k_good(gpu, cudaGetLastError(), "no kernel runs") &&
                      k_good(gpu, cudaMemcpyAsync(&answer, gpu->scratch, sizeof answer, cudaMemcpyDeviceToHost, gpu->stream), "no answer") &&
                      k_good(gpu, cudaStreamSynchronize(gpu->stream), "no answer");
    if (!good || !answer) return good;
    gpu->encoders.box = reinterpret_cast<decltype(gpu->encoders.box)>(k_driver_function("cuTensorMapEncodeTiled"));
    gpu->encoders.windows = reinterpret_cast<decltype(gpu->encoders.windows)>(k_driver_function("cuTensorMapEncodeIm2col"));
    return true;
}

void *yg_alloc(yg_gpu *gpu, size_t bytes) {
    void *memory = NULL;
    size_t free_bytes = 0, total = 0;
    const double mib = 1048576.0;
    (void)cudaSetDevice(gpu->index);
    const cudaError_t error = cudaMalloc(&memory, k_max(bytes, (size_t)256));
    if (error == cudaSuccess) return memory;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total);
    k_fail(gpu, (int)error, "GPU %d: %.0f MiB wanted, %.0f of %.0f MiB are free: %s (CUDA error %d)%s", gpu->index, (double)bytes / mib,
           (double)free_bytes / mib, (double)total / mib, cudaGetErrorString(error), (int)error, k_advice(error));
    return NULL;
}

int yg_open(yg_gpu **out, int index, char *reason, size_t reason_size) {
    cudaDeviceProp properties;
    *out = NULL;
    yg_gpu *gpu = static_cast<yg_gpu *>(calloc(1, sizeof *gpu));
    if (!gpu) return k_reason(cudaErrorMemoryAllocation, "no host memory for a device", reason, reason_size);
    gpu->index = index;
    bool good = k_good(gpu, cudaSetDevice(index), "cannot be used") && k_good(gpu, cudaGetDeviceProperties(&properties, index), "properties cannot be read");
    good = good && k_find_code(gpu, &properties);
    if (good) {
        gpu->multiprocessors = properties.multiProcessorCount;
        gpu->shared_most = properties.sharedMemPerBlockOptin;
        good = k_good(gpu, cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking), "no stream") &&
               (gpu->scratch = yg_alloc(gpu, K_SCRATCH_BYTES)) != NULL && k_ask_encoders(gpu);
    }
    if (good) {
        *out = gpu;
        return 0;
    }
    const int error = gpu->error;
    if (reason && reason_size) snprintf(reason, reason_size, "%s", gpu->reason);
    yg_close(gpu);
    return error;
}

/* Waits for both streams. */
static cudaError_t k_drain(const yg_gpu *gpu) {
    const cudaError_t copied = gpu->copies ? cudaStreamSynchronize(gpu->copies) : cudaSuccess, done = gpu->stream ? cudaStreamSynchronize(gpu->stream) : cudaSuccess;
    return copied == cudaSuccess ? done : copied;
}

void yg_close(yg_gpu *gpu) {
    if (!gpu) return;
    cudaEvent_t const events[] = {gpu->mark, gpu->sent, gpu->released};
    (void)cudaSetDevice(gpu->index);
    (void)k_drain(gpu);
    k_watch_end(gpu);
    free(gpu->tune.list);
    if (gpu->scratch) (void)cudaFree(gpu->scratch);
    if (gpu->staging) (void)cudaFreeHost(gpu->staging);
    for (cudaEvent_t event : events)
        if (event) (void)cudaEventDestroy(event);
    for (cudaEvent_t event : gpu->copied)
        if (event) (void)cudaEventDestroy(event);
    if (gpu->copies) (void)cudaStreamDestroy(gpu->copies);
    if (gpu->stream) (void)cudaStreamDestroy(gpu->stream);
    (void)cudaGetLastError();
    free(gpu);
}

void yg_enter(yg_gpu *gpu) { k_good(gpu, cudaSetDevice(gpu->index), "cannot be used"); }

static int k_tell(const yg_gpu *gpu, char *reason, size_t reason_size) {
    if (gpu->error && reason && reason_size) snprintf(reason, reason_size, "%s", gpu->reason);
    return gpu->error;
}

int yg_finish(yg_gpu *gpu, char *reason, size_t reason_size) {
    k_good(gpu, k_drain(gpu), "work failed");
    if (gpu->watch.most && !gpu->error) {
        k_watch_idle(gpu);
        k_note(gpu, NULL);
    }
    return k_tell(gpu, reason, reason_size);
}

/* An event without a clock; a thread that waits for it sleeps, so that the cores are the loader's. */
static bool k_event(yg_gpu *gpu, cudaEvent_t *event) {
    return *event || k_good(gpu, cudaEventCreateWithFlags(event, cudaEventDisableTiming | cudaEventBlockingSync), "no event");
}

void yg_mark(yg_gpu *gpu) {
    if (!gpu->error && k_event(gpu, &gpu->mark)) k_good(gpu, cudaEventRecord(gpu->mark, gpu->stream), "marking the work");
}

int yg_wait(yg_gpu *gpu, char *reason, size_t reason_size) {
    if (!gpu->error && gpu->mark) k_good(gpu, cudaEventSynchronize(gpu->mark), "work failed");
    return k_tell(gpu, reason, reason_size);
}

void yg_free(yg_gpu *gpu, void *memory) {
    if (!memory) return;
    (void)cudaSetDevice(gpu->index);
    (void)k_drain(gpu);
    k_good(gpu, cudaFree(memory), "memory cannot be freed");
}

void *yg_host_alloc(yg_gpu *gpu, size_t bytes) {
    void *memory = NULL;
    (void)cudaSetDevice(gpu->index);
    return k_good(gpu, cudaMallocHost(&memory, k_max(bytes, (size_t)256)), "no pinned memory of the host") ? memory : NULL;
}

void yg_host_free(yg_gpu *gpu, void *memory) {
    if (!memory) return;
    (void)k_drain(gpu);
    k_good(gpu, cudaFreeHost(memory), "host memory cannot be freed");
}

static void k_copy(yg_gpu *gpu, void *to, const void *from, size_t bytes, cudaMemcpyKind kind, const char *what) {
    if (!gpu->error && bytes && k_good(gpu, cudaMemcpyAsync(to, from, bytes, kind, gpu->stream), what)) k_note(gpu, what);
}

void yg_upload(yg_gpu *gpu, void *to, const void *from, size_t bytes) { k_copy(gpu, to, from, bytes, cudaMemcpyHostToDevice, "upload"); }
void yg_download(yg_gpu *gpu, void *to, const void *from, size_t bytes) { k_copy(gpu, to, from, bytes, cudaMemcpyDeviceToHost, "download"); }
void yg_copy(yg_gpu *gpu, void *to, const void *from, size_t bytes) { k_copy(gpu, to, from, bytes, cudaMemcpyDeviceToDevice, "copy"); }

void yg_clear(yg_gpu *gpu, void *memory, size_t bytes) {
    if (!gpu->error && bytes && k_good(gpu, cudaMemsetAsync(memory, 0, bytes, gpu->stream), "clearing memory")) k_note(gpu, "clearing memory");
}

/* ---- copies beside the work */

static bool k_sending_open(yg_gpu *gpu) {
    if (gpu->staging) return true;
    (void)cudaSetDevice(gpu->index);
    bool good = (gpu->copies || k_good(gpu, cudaStreamCreateWithFlags(&gpu->copies, cudaStreamNonBlocking), "no stream")) &&
                k_event(gpu, &gpu->sent) && k_event(gpu, &gpu->released);
    for (int i = 0; i < K_STAGES; i++) good = good && k_event(gpu, &gpu->copied[i]);
    return good && k_good(gpu, cudaMallocHost(&gpu->staging, (size_t)K_STAGES * K_STAGE_BYTES), "no pinned memory");
}

/* Bytes that there are in the stage at hand; the next one where it is full, once that has been copied. */
static size_t k_stage_room(yg_gpu *gpu) {
    if (gpu->staged == K_STAGE_BYTES) {
        k_good(gpu, cudaEventRecord(gpu->copied[gpu->stage], gpu->copies), "upload beside the work");
        gpu->stage = (gpu->stage + 1) % K_STAGES;
        k_good(gpu, cudaEventSynchronize(gpu->copied[gpu->stage]), "upload beside the work");
        gpu->staged = 0;
    }
    return K_STAGE_BYTES - gpu->staged;
}

void yg_send(yg_gpu *gpu, void *to, const void *from, size_t bytes) {
    if (gpu->error || !bytes) return;
    if (gpu->received || gpu->recording) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: sent %s", gpu->index, gpu->recording ? "while work is recorded" : "before yg_release");
        return;
    }
    if (!k_sending_open(gpu)) return;
    for (size_t done = 0, part; done < bytes && !gpu->error; done += part) {
        part = k_min(bytes - done, k_stage_room(gpu));
        uint8_t *const stage = gpu->staging + (size_t)gpu->stage * K_STAGE_BYTES + gpu->staged;
        memcpy(stage, static_cast<const uint8_t *>(from) + done, part);
        k_good(gpu, cudaMemcpyAsync(static_cast<uint8_t *>(to) + done, stage, part, cudaMemcpyHostToDevice, gpu->copies), "upload beside the work");
        gpu->staged = k_min(gpu->staged + (part + 255) / 256 * 256, (size_t)K_STAGE_BYTES);
    }
}

/* `waiting` goes on when `other` has come to where it is now. */
static void k_handshake(yg_gpu *gpu, cudaStream_t waiting, cudaStream_t other, cudaEvent_t event) {
    if (!gpu->error && gpu->copies && k_good(gpu, cudaEventRecord(event, other), "handshake of streams"))
        k_good(gpu, cudaStreamWaitEvent(waiting, event, 0), "handshake of streams");
}

void yg_receive(yg_gpu *gpu) {
    k_handshake(gpu, gpu->stream, gpu->copies, gpu->sent);
    gpu->received = true;
}

void yg_release(yg_gpu *gpu) {
    k_handshake(gpu, gpu->copies, gpu->stream, gpu->released);
    gpu->received = false;
}

struct yg_graph { cudaGraph_t graph; cudaGraphExec_t executable; };

void yg_record(yg_gpu *gpu) {
    if (gpu->error) return;
    (void)cudaSetDevice(gpu->index);
    gpu->recording = k_good(gpu, cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal), "recording");
}

yg_graph *yg_recorded(yg_gpu *gpu) {
    if (!gpu->recording) return NULL;
    gpu->recording = false;
    yg_graph *graph = static_cast<yg_graph *>(calloc(1, sizeof *graph));
    cudaGraph_t recorded = NULL;
    bool good = k_good(gpu, cudaStreamEndCapture(gpu->stream, &recorded), "recording") && graph != NULL;
    if (good) {
        graph->graph = recorded;
        good = k_good(gpu, cudaGraphInstantiateWithFlags(&graph->executable, recorded, 0), "recorded work cannot be prepared");
    } else if (recorded) (void)cudaGraphDestroy(recorded);
    if (good) return graph;
    yg_graph_free(graph);
    return NULL;
}

void yg_replay(yg_gpu *gpu, yg_graph *graph) {
    if (!gpu->error) k_good(gpu, cudaGraphLaunch(graph->executable, gpu->stream), "recorded work");
}

void yg_graph_free(yg_graph *graph) {
    if (!graph) return;
    if (graph->executable) (void)cudaGraphExecDestroy(graph->executable);
    if (graph->graph) (void)cudaGraphDestroy(graph->graph);
    free(graph);
}

/* ==== K4 k_ d_ yg_: pictures and floats into tensors =================================================================
   Everything here runs at the speed of memory, so that what counts is 16 bytes an access and neighbours side by side.
   A kernel that goes over a view walks: a thread stays at its channels, a vector of them, and takes pixels. Lanes are
   neighbouring channels, then neighbouring pixels; what belongs to the channels is in registers once for all pixels.
   A vector is 16 bytes, or 8, where every view of the call allows it (k_is_aligned), else one element: the same kernel, slower. */

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
    } else if (V * sizeof(T) == 8) {
        const uint2 bits = *reinterpret_cast<const uint2 *>(from);
        memcpy(&e, &bits, sizeof e);
    } else e.at[0] = *from;
    return e;
}

template <typename T, int V> static __device__ __forceinline__ void d_elements_store(T *to, const k_elements<T, V> &e) {
    if (V * sizeof(T) == 16) {
        uint4 bits;
        memcpy(&bits, &e, sizeof e);
        *reinterpret_cast<uint4 *>(to) = bits;
    } else if (V * sizeof(T) == 8) {
        uint2 bits;
        memcpy(&bits, &e, sizeof e);
        *reinterpret_cast<uint2 *>(to) = bits;
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

/* A pixel of three channels, zeros in those behind them up to `channels`. rgb holds zeros behind the third. */
template <typename T, int V> static __device__ __forceinline__ void d_pixels_store(T *to, const float (&rgb)[V < 3 ? 3 : V], int channels) {
    const float zeros[V] = {};
    if (V == 1) {
#pragma unroll
        for (int c = 0; c < 3; c++) to[c] = k_element<T>::store(rgb[c]);
    } else d_elements_store<T, V>(to, d_elements_pack<T, V>(rgb));
    for (int c = V == 1 ? 3 : V; c < channels; c += V) d_elements_store<T, V>(to + c, d_elements_pack<T, V>(zeros));
}

/* Bytes to shares of 255, resized bilinearly where `resized`. A block is a row of the output, a thread pixels of it. Twin:
   dl_floats. */
template <typename T, int V, bool resized>
static __global__ void __launch_bounds__(K_WALK_THREADS) k_pixels(k_ten<T> out, const uint8_t *pixels, int in_h, int in_w, float scale_y, float scale_x) {
    const int n = (int)blockIdx.x / out.h, y = (int)blockIdx.x % out.h;
    int top = y, bottom = y, left, right;
    const float low = resized ? d_pixels_tap(y, scale_y, in_h, &top, &bottom) : 0.0f;
    const uint8_t *above = pixels + ((int64_t)n * in_h + top) * in_w * 3, *below = pixels + ((int64_t)n * in_h + bottom) * in_w * 3;
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
        d_pixels_store<T, V>(out.data + ((int64_t)blockIdx.x * out.w + x) * out.pixel, rgb, out.c);
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
    k_amount(gpu, 3.0 * out->n * in_h * in_w + k_bytes(out), 0);
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

/* ==== K5 k_ d_ yg_: copies, upsampling ===============================================================================
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
    k_amount(gpu, k_bytes(t), 0);
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
    k_amount(gpu, 2 * k_bytes(out), 0);
    k_launched(gpu, "copy");
}

void yg_copy_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate) {
    if (gpu->error || !k_alike(gpu, d_in, d_out, "gradient of a copy")) return;
    K_BY_VECTOR(d_in->type, k_is_aligned(d_in) && k_is_aligned(d_out), k_copy_launch, gpu, d_in, d_out, accumulate);
    k_amount(gpu, (accumulate ? 3 : 2) * k_bytes(d_in), 0);
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
    k_amount(gpu, k_bytes(in) + k_bytes(out), 0);
    k_launched(gpu, "upsampling");
}

void yg_upsample2_bwd(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, bool accumulate) {
    if (gpu->error || !k_is_twice(gpu, d_out, d_in)) return;
    K_BY_VECTOR(d_in->type, k_is_aligned(d_in) && k_is_aligned(d_out), k_upsample2_bwd_launch, gpu, d_in, d_out, accumulate);
    k_amount(gpu, k_bytes(d_out) + (accumulate ? 2 : 1) * k_bytes(d_in), 0);
    k_launched(gpu, "gradient of upsampling");
}

/* ==== K6 k_ d_ yg_: max-pooling ======================================================================================
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
/* The same of 16 bits, by one instruction where there is one. */
template <typename pair, typename T> static __device__ __forceinline__ void d_maxpool_halves(T *most, const T *x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    pair a, b;
    memcpy(&a, most, sizeof a);
    memcpy(&b, x, sizeof b);
    a = __hmax2_nan(a, b);
    memcpy(most, &a, sizeof a);
#else
#pragma unroll
    for (int j = 0; j < 2; j++) most[j] = k_element<T>::store(d_maxpool_larger(k_element<T>::load(most[j]), k_element<T>::load(x[j])));
#endif
}
static __device__ __forceinline__ void d_maxpool_pair(__half *most, const __half *x) { d_maxpool_halves<__half2>(most, x); }
static __device__ __forceinline__ void d_maxpool_pair(__nv_bfloat16 *most, const __nv_bfloat16 *x) { d_maxpool_halves<__nv_bfloat162>(most, x); }

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
    k_amount(gpu, k_bytes(in) + k_bytes(out), 0);
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
    k_amount(gpu, k_bytes(in) + k_bytes(d_out) + 2 * k_bytes(d_in), 0);
    k_launched(gpu, "gradient of max-pooling");
}

/* ==== K7 k_ d_ yg_: batch norm with its activation ===================================================================
   Moments are floats (tiles, 2, channels): the mean of a tile's pixels and the sum of their squared distances from it. Tile t has
   pixels t * K_MOMENT_PIXELS and on of all pictures' pixels; what yg_norm_measure makes itself has larger ones.
   Sums are made in threads in float, over few numbers that are distances from one of them, then over threads in double; both in an
   order that the shape alone decides. Tensors are read once and written once.
   An activation in a kernel is a switch around a vector's loop: the same for all threads, and little beside the loop. */

enum {
    K_MOMENT_PIXELS = 128, /* of a tile of yg_conv_fwd's moments */
    K_NORM_VECTOR = 4,     /* elements, at most, of a backward vector: more take registers that many threads, and so many loads, need */
    K_NORM_GROUPS = 16,    /* vectors of channels side by side in a block that sums */
    K_NORM_STEPS = 4,      /* pixels, at least, that a thread sums */
    K_NORM_BLOCKS = 384,   /* at most, of a grid that sums: a GPU of 128 multiprocessors holds them all at once */
    K_NORM_AHEAD = 8,      /* tiles that a thread reads at once */
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
    const int64_t steps = k_ceil_div((int64_t)walk.grid.x * walk.grid.y, K_NORM_BLOCKS);
    return k_walk_over(z, vector, K_NORM_GROUPS, k_max((int64_t)K_NORM_STEPS, steps));
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

/* Reads both numbers of tiles t, t + blockDim.y .. below `last`, all of them before it waits for one. */
static __device__ __forceinline__ void d_norm_read_tiles(float a[K_NORM_AHEAD], float b[K_NORM_AHEAD], const k_tiles &tiles, int t, int last, int c) {
#pragma unroll
    for (int u = 0; u < K_NORM_AHEAD; u++, t += (int)blockDim.y) {
        if (t >= last) continue;
        const float *tile = tiles.at + (int64_t)t * 2 * tiles.channels + c;
        a[u] = tile[0];
        b[u] = tile[tiles.channels];
    }
}

/* Number of pixels, mean and sum of squared distances of tiles first .. last - 1, for the threads of threadIdx.y 0. */
static __device__ __forceinline__ void d_norm_merge(double *pixels, double *mean, double *squares, const k_tiles &tiles, int first, int last, int c) {
    __shared__ double shared[2][K_NORM_ROWS * K_NORM_CHANNELS];
    const bool valid = c < tiles.channels;
    const int rows = (int)blockDim.y;
    const float start = valid ? tiles.at[(int64_t)first * 2 * tiles.channels + c] : 0.0f;
    float sum = 0.0f, square = 0.0f;
    for (int t = first + (int)threadIdx.y, end = valid ? last : first; t < end; t += K_NORM_AHEAD * rows) {
        float means[K_NORM_AHEAD], around[K_NORM_AHEAD];
        d_norm_read_tiles(means, around, tiles, t, end, c);
#pragma unroll
        for (int u = 0; u < K_NORM_AHEAD; u++) {
            if (t + u * rows >= end) continue;
            const int64_t left = tiles.pixels - (t + u * rows) * tiles.each;
            const float count = (float)(left < tiles.each ? left : tiles.each), off = means[u] - start;
            sum = fmaf(count, off, sum);
            square += fmaf(count * off, off, around[u]);
        }
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
   op_norm_statistics, op_norm_measure. */
static __global__ void __launch_bounds__(K_NORM_ROWS *K_NORM_CHANNELS) k_norm_measure(yg_norm norm, yg_norm_rows rows, k_tiles tiles, double eps, double momentum) {
    const int c = (int)(blockIdx.x * K_NORM_CHANNELS + threadIdx.x);
    const bool writes = !threadIdx.y && c < tiles.channels;
    float gamma = 0.0f, beta = 0.0f, running_mean = 0.0f, running_variance = 0.0f;
    if (writes) { /* early: memory is far */
        gamma = rows.gamma[c], beta = rows.beta[c];
        running_mean = rows.running_mean[c], running_variance = rows.running_variance[c];
    }
    double pixels, mean, squares;
    d_norm_merge(&pixels, &mean, &squares, tiles, 0, tiles.count, c);
    if (!writes) return;
    d_norm_set(norm, c, mean, squares / pixels, eps, gamma, beta);
    rows.running_mean[c] = (float)(running_mean * (1 - momentum) + mean * momentum);
    rows.running_variance[c] = (float)(running_variance * (1 - momentum) + squares / fmax(pixels - 1, 1.0) * momentum);
    if (c == 0) *rows.batches += 1.0f;
}

/* A block for `count` tiles: a few for each of its threads. */
static dim3 k_norm_block(int count) {
    unsigned rows = 4;
    while (rows < K_NORM_ROWS && rows * 4 < (unsigned)count) rows *= 2;
    return dim3(K_NORM_CHANNELS, rows);
}

static unsigned k_norm_blocks(int channels) { return ((unsigned)channels + K_NORM_CHANNELS - 1) / K_NORM_CHANNELS; }

/* The tiles of a batch's moments, measured where there are none, merged where there are many. */
static k_tiles k_norm_tiles(yg_gpu *gpu, const yg_ten *z, const float *moments) {
    k_tiles tiles = {moments, k_pixel_count(z), K_MOMENT_PIXELS, (int)k_ceil_div(k_pixel_count(z), K_MOMENT_PIXELS), z->c};
    if (!moments) K_BY_VECTOR(z->type, k_is_aligned(z), k_norm_moments_launch, gpu, z, &tiles);
    if (tiles.count > K_NORM_MERGED) {
        const int share = (int)k_ceil_div(tiles.count, K_NORM_SHARES), shares = (int)k_ceil_div(tiles.count, share);
        float *merged = k_scratch<float>(gpu, (size_t)shares * 2 * (size_t)z->c);
        if (merged) K_LAUNCH(k_norm_merge, dim3(k_norm_blocks(z->c), (unsigned)shares), k_norm_block(share), 0, gpu->stream, merged, tiles, share);
        tiles.at = merged;
        tiles.each *= share;
        tiles.count = shares;
    }
    return tiles;
}

void yg_norm_measure(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, const yg_ten *z, const float *moments, double eps, double momentum) {
    if (gpu->error || !k_norm_fits(gpu, norm, z)) return;
    const k_tiles tiles = k_norm_tiles(gpu, z, moments);
    if (gpu->error) return;
    K_LAUNCH(k_norm_measure, k_norm_blocks(z->c), k_norm_block(tiles.count), 0, gpu->stream, *norm, *rows, tiles, eps, momentum);
    k_launched(gpu, "statistics of a batch");
}

/* The sums of z and of its squares, then the pixels, so that those of several batches can be added up. As k_norm_measure. Twin:
   grad_share_statistics. */
static __global__ void __launch_bounds__(K_NORM_ROWS *K_NORM_CHANNELS) k_norm_totals(double *totals, k_tiles tiles) {
    const int c = (int)(blockIdx.x * K_NORM_CHANNELS + threadIdx.x);
    double pixels, mean, squares;
    d_norm_merge(&pixels, &mean, &squares, tiles, 0, tiles.count, c);
    if (threadIdx.y || c >= tiles.channels) return;
    totals[c] = mean * pixels;
    totals[tiles.channels + c] = squares + mean * mean * pixels;
    if (c == 0) totals[2 * tiles.channels] = pixels;
}

void yg_norm_totals(yg_gpu *gpu, double *totals, const yg_norm *norm, const yg_ten *z, const float *moments) {
    if (gpu->error || !k_norm_fits(gpu, norm, z)) return;
    const k_tiles tiles = k_norm_tiles(gpu, z, moments);
    if (gpu->error) return;
    K_LAUNCH(k_norm_totals, k_norm_blocks(z->c), k_norm_block(tiles.count), 0, gpu->stream, totals, tiles);
    k_launched(gpu, "statistics of a part");
}

/* From such totals to a norm and running statistics. A thread is a channel. Twins: grad_share_statistics, op_norm_measure. */
static __global__ void k_norm_take(yg_norm norm, yg_norm_rows rows, const double *totals, double eps, double momentum) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= norm.channels) return;
    const double pixels = totals[2 * norm.channels], mean = totals[c] / pixels;
    const double variance = fmax(totals[norm.channels + c] / pixels - mean * mean, 0.0);
    d_norm_set(norm, c, mean, variance, eps, rows.gamma[c], rows.beta[c]);
    rows.running_mean[c] = (float)(rows.running_mean[c] * (1 - momentum) + mean * momentum);
    rows.running_variance[c] = (float)(rows.running_variance[c] * (1 - momentum) + variance * pixels / fmax(pixels - 1, 1.0) * momentum);
    if (c == 0) *rows.batches += 1.0f;
}

void yg_norm_take(yg_gpu *gpu, const yg_norm *norm, const yg_norm_rows *rows, const double *totals, double eps, double momentum) {
    if (gpu->error) return;
    K_LAUNCH(k_norm_take, ((unsigned)norm->channels + 127) / 128, 128, 0, gpu->stream, *norm, *rows, totals, eps, momentum);
    k_launched(gpu, "statistics of all parts");
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
    k_amount(gpu, (residual ? 3 : 2) * k_bytes(z), 0);
    k_launched(gpu, "batch norm");
}

/* Pixels that a thread of the backward pass reads before it uses one: 32 bytes of z, and of the gradient, in a vector. */
template <typename T> struct k_norm_unroll { enum { count = 8 / sizeof(T) }; };

/* Reads z and its gradient at U pixels from p on, before any of them is used. */
template <typename T, int V, int U>
static __device__ __forceinline__ void d_norm_read(k_elements<T, V> e[U], k_elements<T, V> before[U], const k_ten<T> &z, const k_ten<T> &d, int64_t p, int64_t end, int c) {
#pragma unroll
    for (int u = 0; u < U; u++, p += blockDim.y) {
        if (p >= end) continue;
        e[u] = d_elements_load<T, V>(z.data + p * z.pixel + c);
        before[u] = d_elements_load<T, V>(d.data + p * d.pixel + c);
    }
}

/* x = z - mean, g = the gradient before the activation. */
template <typename T, int V>
static __device__ __forceinline__ void d_norm_gradient(float x[V], float g[V], const k_elements<T, V> &z, const k_elements<T, V> &d, const float mean[V],
                                                       const float scale[V], const float shift[V], const yg_norm &norm) {
    float inside[V];
    d_elements_unpack<T, V>(x, z);
    d_elements_unpack<T, V>(g, d);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] -= mean[j], inside[j] = fmaf(scale[j], x[j], shift[j]);
    d_norm_slope_all<T, V>(g, inside, norm.activation, norm.slope);
}

/* The sums of g = d_out * activation' and of g * (z - mean) over a tile: the pixels of a block of the walk. Twin: OP_(norm_sums). */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS, 3) k_norm_sums(float *sums, k_ten<T> d_out, k_ten<T> z, yg_norm norm, k_walk walk) {
    enum { U = k_norm_unroll<T>::count };
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
    for (int64_t p = d_walk_first(walk.steps); p < end; p += U * rows) {
        k_elements<T, V> e[U], d[U];
        d_norm_read<T, V, U>(e, d, z, d_out, p, end, c);
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (p + u * rows >= end) continue;
            float x[V], g[V];
            d_norm_gradient<T, V>(x, g, e[u], d[u], mean, scale, shift, norm);
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

/* The d_ arrays of a channel, from the sums of g and of the products over so many pixels. Twin: op_norm_spread. */
static __device__ __forceinline__ void d_norm_spread(const yg_norm &norm, int c, double sum, double product, double inverse, double scale, double pixels) {
    norm.d_shift[c] = (float)(scale / pixels * sum);
    norm.d_mean[c] = (float)(scale / pixels * inverse * inverse * product);
}

/* From the tiles' sums to the gradients of gamma and beta and to the d_ arrays or, where they are wanted, totals: both sums, then the
   pixels. blockIdx.x and threadIdx.x are channels, threadIdx.y goes over tiles. Twin: op_norm_sums. */
static __global__ void __launch_bounds__(K_NORM_ROWS *K_NORM_CHANNELS) k_norm_gradients(yg_norm norm, float *d_gamma, float *d_beta, double *totals, k_tiles tiles) {
    __shared__ double shared[2][K_NORM_ROWS * K_NORM_CHANNELS];
    const int c = (int)(blockIdx.x * K_NORM_CHANNELS + threadIdx.x), rows = (int)blockDim.y;
    const bool writes = !threadIdx.y && c < tiles.channels;
    const double inverse = writes ? norm.inverse[c] : 0.0f, scale = writes ? norm.scale[c] : 0.0f; /* early: memory is far */
    float g = 0.0f, products = 0.0f;
    for (int t = (int)threadIdx.y, end = c < tiles.channels ? tiles.count : 0; t < end; t += K_NORM_AHEAD * rows) {
        float a[K_NORM_AHEAD], b[K_NORM_AHEAD];
        d_norm_read_tiles(a, b, tiles, t, end, c);
#pragma unroll
        for (int u = 0; u < K_NORM_AHEAD; u++)
            if (t + u * rows < end) g += a[u], products += b[u];
    }
    double sum = g, product = products;
    d_norm_add_doubles(&sum, &product, shared);
    if (!writes) return;
    if (d_gamma) d_gamma[c] += (float)(product * inverse);
    if (d_beta) d_beta[c] += (float)sum;
    if (!totals) {
        d_norm_spread(norm, c, sum, product, inverse, scale, (double)tiles.pixels);
        return;
    }
    totals[c] = sum;
    totals[tiles.channels + c] = product;
    if (c == 0) totals[2 * tiles.channels] = (double)tiles.pixels;
}

/* A thread is a channel. */
static __global__ void k_norm_spread(yg_norm norm, const double *totals) {
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c < norm.channels) d_norm_spread(norm, c, totals[c], totals[norm.channels + c], norm.inverse[c], norm.scale[c], totals[2 * norm.channels]);
}

void yg_norm_spread(yg_gpu *gpu, const yg_norm *norm, const double *totals) {
    if (gpu->error) return;
    K_LAUNCH(k_norm_spread, ((unsigned)norm->channels + 127) / 128, 128, 0, gpu->stream, *norm, totals);
    k_launched(gpu, "sums of all parts' gradients");
}

template <typename T, int V> static void k_norm_sums_launch(yg_gpu *gpu, const yg_norm *norm, const yg_ten *d_out, const yg_ten *z, k_tiles *tiles) {
    enum { FEW = V < K_NORM_VECTOR ? V : K_NORM_VECTOR };
    const k_walk walk = k_norm_walk(z, FEW);
    float *sums = k_scratch<float>(gpu, (size_t)walk.grid.x * 2 * (size_t)z->c);
    tiles->at = sums;
    tiles->count = (int)walk.grid.x;
    if (sums) K_LAUNCH((k_norm_sums<T, FEW>), walk.grid, walk.block, 0, gpu->stream, sums, k_view<T>(d_out), k_view<T>(z), *norm, walk);
}

void yg_norm_sums(yg_gpu *gpu, const yg_norm *norm, float *d_gamma, float *d_beta, double *totals, const yg_ten *d_out, const yg_ten *z) {
    if (gpu->error || !k_norm_fits(gpu, norm, z) || !k_alike(gpu, d_out, z, "gradient of a batch norm")) return;
    k_tiles tiles = {NULL, k_pixel_count(z), 0, 0, z->c};
    K_BY_VECTOR(z->type, k_norm_aligned(norm) && k_is_aligned(d_out) && k_is_aligned(z), k_norm_sums_launch, gpu, norm, d_out, z, &tiles);
    if (gpu->error) return;
    K_LAUNCH(k_norm_gradients, k_norm_blocks(z->c), k_norm_block(tiles.count), 0, gpu->stream, *norm, d_gamma, d_beta, totals, tiles);
    k_amount(gpu, 2 * k_bytes(z), 0);
    k_launched(gpu, "sums of a batch norm's gradient");
}

/* d = scale * g - d_mean * (z - mean) - d_shift in place; the residual's gradient (= or +=) what d was. A walk. Twin: op_norm_bwd. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WALK_THREADS, 3) k_norm_bwd(k_ten<T> d, k_ten<T> d_residual, bool accumulate, k_ten<T> z, yg_norm norm, k_walk walk) {
    enum { U = k_norm_unroll<T>::count };
    const int c = d_walk_channel<V>(), rows = (int)blockDim.y;
    if (c >= z.c) return;
    float mean[V], scale[V], shift[V], d_mean[V], d_shift[V];
    d_norm_row<V>(mean, norm.mean + c);
    d_norm_row<V>(scale, norm.scale + c);
    d_norm_row<V>(shift, norm.shift + c);
    d_norm_row<V>(d_mean, norm.d_mean + c);
    d_norm_row<V>(d_shift, norm.d_shift + c);
    for (int64_t p = d_walk_first(walk.steps), end = d_walk_end(walk); p < end; p += U * rows) {
        k_elements<T, V> e[U], before[U];
        d_norm_read<T, V, U>(e, before, z, d, p, end, c);
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (p + u * rows >= end) continue;
            float x[V], g[V];
            if (d_residual.data) {
                T *to = d_residual.data + (p + u * rows) * d_residual.pixel + c;
                if (accumulate) {
                    d_elements_unpack<T, V>(x, d_elements_load<T, V>(to));
                    d_elements_unpack<T, V>(g, before[u]);
#pragma unroll
                    for (int j = 0; j < V; j++) x[j] += g[j];
                    d_elements_store<T, V>(to, d_elements_pack<T, V>(x));
                } else d_elements_store<T, V>(to, before[u]);
            }
            d_norm_gradient<T, V>(x, g, e[u], before[u], mean, scale, shift, norm);
#pragma unroll
            for (int j = 0; j < V; j++) g[j] = scale[j] * g[j] - fmaf(d_mean[j], x[j], d_shift[j]);
            d_elements_store<T, V>(d.data + (p + u * rows) * d.pixel + c, d_elements_pack<T, V>(g));
        }
    }
}

template <typename T, int V>
static void k_norm_bwd_launch(yg_gpu *gpu, const yg_ten *d, const yg_ten *d_residual, bool accumulate, const yg_ten *z, const yg_norm *norm) {
    enum { FEW = V < K_NORM_VECTOR ? V : K_NORM_VECTOR };
    const k_walk walk = k_walk_map(gpu, z, FEW);
    k_ten<T> none = {};
    K_LAUNCH((k_norm_bwd<T, FEW>), walk.grid, walk.block, 0, gpu->stream, k_view<T>(d), d_residual ? k_view<T>(d_residual) : none, accumulate, k_view<T>(z), *norm, walk);
}

void yg_norm_bwd(yg_gpu *gpu, const yg_ten *d, const yg_ten *d_residual, bool accumulate, const yg_ten *z, const yg_norm *norm) {
    if (gpu->error || !k_norm_fits(gpu, norm, z) || !k_alike(gpu, d, z, "gradient of a batch norm") ||
        (d_residual && !k_alike(gpu, d_residual, z, "gradient of a batch norm"))) return;
    const bool aligned = k_norm_aligned(norm) && k_is_aligned(d) && k_is_aligned(z) && (!d_residual || k_is_aligned(d_residual));
    K_BY_VECTOR(z->type, aligned, k_norm_bwd_launch, gpu, d, d_residual, accumulate, z, norm);
    k_amount(gpu, (3 + (d_residual ? accumulate ? 2 : 1 : 0)) * k_bytes(z), 0);
    k_launched(gpu, "gradient of a batch norm");
}

/* ==== K8 k_ d_ yg_: convolution, forward and gradient of the input ===================================================
   A convolution is a product of two matrices that are never written down. A row of the left one is an output pixel: the channels
   of all the taps it sees, side by side; a row of the right one is a filter, laid out alike. A block makes one tile of the product.
   It walks along the reduction in chunks of 64 bytes a row; while one is multiplied, the next ones are on their way.
   The gradient of the input is the same walk over d_out with the turned filters. With stride s, the pixels of d_in whose coordinates
   leave the same remainders (a phase) see the same taps: a product for each of the s * s phases, all in one launch.
   16-bit tensors are multiplied on tensor cores. Floats, and types that the device's tensor cores do not know, are multiplied by
   threads that own the same elements of the tile, so that everything before and after is shared.
   Sums are floats and their order depends on shapes and device alone. Packed weights are 16-byte aligned.
   A rule guesses the best tile (k_conv_choose); yg_tune measures. The bits do not depend on which it is: an element's sum runs along the
   reduction in every tile, the number of splits is always that of the rule's tile, and moments, which are added up warp by warp, are
   only made by tiles whose warps have as many rows as the rule's.
   Where the first channels of the input are an upsampled map, that is read in their place: it need not have been upsampled. */

enum {
    K_CONV_THREADS = 128, /* of a block: 4 warps */
    K_CONV_CHUNK = 64,    /* bytes of a row of shared memory: 4 pieces of 16, one a thread and copy */
    K_CONV_MOST_SPLITS = 8
};

/* A block's tile of M pixels by N filters, a warp's part of it, and how many chunks shared memory holds. */
template <int tile_m, int tile_n, int part_m, int part_n, int depth> struct k_conv_shape {
    static constexpr int M = tile_m, N = tile_n, warp_m = part_m, warp_n = part_n, stages = depth, threads = K_CONV_THREADS;
    static constexpr int warps_m = M / warp_m, warps_n = N / warp_n;
    static constexpr int rows = warp_m / 16, columns = warp_n / 8; /* of a warp's part, in products of 16 x 8 */
    static constexpr int stage_bytes = (M + N) * K_CONV_CHUNK, bytes = stages * stage_bytes;
    static constexpr int copies_m = M * 4 / K_CONV_THREADS, copies_n = (N * 4 + K_CONV_THREADS - 1) / K_CONV_THREADS;
    static constexpr int staged = 32, staged_pitch = warp_n + 8; /* rows that a warp lays out at once for its stores, in floats */
    static_assert(warps_m * warps_n * K_WARP == threads && warp_n % 16 == 0, "four warps make the tile");
    static_assert(threads / K_WARP * staged * staged_pitch * 4 <= bytes && bytes <= 48 << 10, "results fit where the chunks were");
};

/* What a kernel has to do. `in` is d_out and `out` d_in where it is `backward`. */
template <typename T> struct k_conv_job {
    k_ten<T> in, out, low;      /* low: what in's first channels are upsampled from, see k_conv_described; data NULL = nothing */
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

template <typename T> static __host__ __device__ k_conv_phase d_conv_phase(const k_conv_job<T> &job, int index) {
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
    int pixel[S::copies_m], y[S::copies_m], x[S::copies_m]; /* pixels in_step * (i,j) of in, and their coordinates; y of an upsampled in: */
                                                            /* the pixel of low */
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

/* The pixel that became, with three others, pixel m of a map of twice its width; rows of all pictures, whose number is even. */
static __device__ __forceinline__ int d_conv_low(int m, int low_w) {
    const int line = m / (2 * low_w), x = m - line * 2 * low_w;
    return line / 2 * low_w + x / 2;
}

template <typename T, typename S, bool upsampled>
static __device__ __forceinline__ void d_conv_begin(k_conv_walk<T, S> &walk, const k_conv_job<T> &job, const k_conv_phase &phase, int m0, int n0,
                                                    int first) {
    const int row = threadIdx.x / 4, pixels = job.in.n * phase.grid_h * phase.grid_w;
#pragma unroll
    for (int i = 0; i < S::copies_m; i++) {
        const int m = m0 + row + i * (K_CONV_THREADS / 4), line = m / phase.grid_w, y = line % phase.grid_h * phase.in_step;
        walk.y[i] = m < pixels ? y : INT32_MIN / 2; /* outside, whatever the tap */
        walk.x[i] = m % phase.grid_w * phase.in_step;
        walk.pixel[i] = (line / phase.grid_h * job.in.h + y) * job.in.w + walk.x[i];
        if (upsampled && m < pixels) walk.y[i] = d_conv_low(m, job.low.w);
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
template <typename T, typename S, bool aligned, bool upsampled>
static __device__ __forceinline__ void d_conv_fetch(const k_conv_walk<T, S> &walk, const k_conv_job<T> &job, const k_conv_phase &phase, int n0,
                                                    unsigned char *stage) {
    const int row = threadIdx.x / 4, rows = K_CONV_THREADS / 4;
    const bool inside = walk.tap_y < phase.taps_h;
    const bool low = upsampled && walk.channel < job.low.c;
    const T *in = (low ? job.low.data : job.in.data) + walk.channel, *weight = walk.weight + (walk.weight_offset + walk.channel);
    const int pitch = (int)(low ? job.low.pixel : job.in.pixel);
    stage += walk.place;
#pragma unroll
    for (int i = 0; i < S::copies_m; i++) {
        const bool there = upsampled ? walk.y[i] >= 0 : (unsigned)(walk.y[i] + walk.dy) < (unsigned)job.in.h && (unsigned)(walk.x[i] + walk.dx) < (unsigned)job.in.w;
        const bool valid = inside && there;
        const T *from = in + (int64_t)(low ? walk.y[i] : walk.pixel[i] + walk.pixel_offset) * pitch;
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

/* Adds the product of a chunk by tensor cores. `pixels` and `filters` are where d_conv_operands says. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_multiply_cores(k_conv_sums<S> &sums, const unsigned char *stage, int pixels, int filters) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
        const void *a[S::rows], *b[S::columns / 2];
#pragma unroll
        for (int i = 0; i < S::rows; i++) a[i] = stage + (pixels ^ step * 32) + i * 16 * K_CONV_CHUNK;
#pragma unroll
        for (int j = 0; j < S::columns / 2; j++) b[j] = stage + (filters ^ step * 32) + j * 16 * K_CONV_CHUNK;
        d_mma_tile<std::is_same<T, __nv_bfloat16>::value, false>(sums.at, a, b);
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

/* Waits for the threads that have sums: all of the block, but on Hopper. */
template <typename S> static __device__ __forceinline__ void d_conv_sync() {
    if (S::threads == K_CONV_THREADS) __syncthreads();
    else d_barrier(1, S::threads);
}

/* Sum of a column over the rows of warps, in their order. */
template <typename S> static __device__ __forceinline__ float d_conv_column(const float *shared, int column) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < S::warps_m; w++) sum += shared[w * S::N + column];
    return sum;
}

/* Means of the tile's columns, then sums of the squares of the distances from them; `count` rows of the tile are there. Rows of a
   thread, lanes, warps: always in this order. shared: two floats a column and row of warps. */
template <typename S>
static __device__ __forceinline__ void d_conv_moments(const k_conv_sums<S> &sums, float *shared, float *moments, int count, int n0, int channels) {
    const int warp = threadIdx.x / K_WARP, lane = threadIdx.x % K_WARP, m = warp / S::warps_n * S::warp_m, n = warp % S::warps_n * S::warp_n;
    float *squares = shared + S::warps_m * S::N;
    const float scale = 1.0f / (float)count;
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
#pragma unroll
        for (int j = 0; j < 2 * S::columns; j++) {
            const int column = n + j / 2 * 8 + lane % 4 * 2 + j % 2;
            const float mean = pass ? d_conv_column<S>(shared, column) * scale : 0.0f;
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 2 * S::rows; i++) {
                const float x = sums.at[i / 2][j / 2][i % 2 * 2 + j % 2] - mean;
                if (m + 8 * i + lane / 4 < count) sum += pass ? x * x : x;
            }
#pragma unroll
            for (int other = 4; other < K_WARP; other *= 2) sum += __shfl_xor_sync(K_ALL_LANES, sum, other);
            if (lane < 4) (pass ? squares : shared)[warp / S::warps_n * S::N + column] = sum;
        }
        d_conv_sync<S>();
    }
    for (int column = threadIdx.x; column < S::N && n0 + column < channels; column += S::threads) {
        moments[n0 + column] = d_conv_column<S>(shared, column) * scale;
        moments[channels + n0 + column] = d_conv_column<S>(squares, column);
    }
    d_conv_sync<S>();
}

template <typename T> static __device__ __forceinline__ float d_conv_activate(float x, yg_activation activation, float slope) {
    switch (activation) {
    case YG_SILU: return d_norm_activate<T, YG_SILU>(x, slope);
    case YG_RELU: return d_norm_activate<T, YG_RELU>(x, slope);
    case YG_LEAKYRELU: return d_norm_activate<T, YG_LEAKYRELU>(x, slope);
    case YG_MISH: return d_norm_activate<T, YG_MISH>(x, slope);
    default: return x;
    }
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

/* The tile goes out, some rows of each warp at a time, through shared memory so that lanes side by side have channels side by side. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_put(const k_conv_job<T> &job, const k_conv_phase &phase, const k_conv_sums<S> &sums,
                                                  unsigned char *shared, int m0, int n0, int pixels) {
    const int warp = threadIdx.x / K_WARP, lane = threadIdx.x % K_WARP, eights = S::warp_n / 8;
    float *staged = reinterpret_cast<float *>(shared) + warp * S::staged * S::staged_pitch;
    m0 += warp / S::warps_n * S::warp_m;
    n0 += warp % S::warps_n * S::warp_n;
    const int split = blockIdx.y;
#pragma unroll
    for (int part = 0; part < S::warp_m / S::staged; part++) {
#pragma unroll
        for (int i = 0; i < S::staged / 8; i++)
#pragma unroll
            for (int j = 0; j < S::columns; j++) {
                const float *pair = &sums.at[part * (S::staged / 16) + i / 2][j][i % 2 * 2];
                *reinterpret_cast<float2 *>(staged + (8 * i + lane / 4) * S::staged_pitch + 8 * j + lane % 4 * 2) = make_float2(pair[0], pair[1]);
            }
        __syncwarp();
#pragma unroll 1
        for (int item = lane; item < S::staged * eights; item += K_WARP) {
            const int row = item / eights, column = item % eights * 8, m = m0 + part * S::staged + row;
            if (m >= pixels || n0 + column >= job.out.c) continue;
            float x[8];
            d_conv_load8(x, staged + row * S::staged_pitch + column);
            if (job.partial) d_conv_store8(job.partial + ((int64_t)split * pixels + m) * ((job.out.c + 7) & ~7) + n0 + column, x);
            else d_conv_finish(job, d_conv_pixel(phase, m, job.out.h, job.out.w), n0 + column, x);
        }
        __syncwarp();
    }
}

/* What becomes of a tile's sums; nobody reads the chunks any more. */
template <typename T, typename S>
static __device__ __forceinline__ void d_conv_end(const k_conv_job<T> &job, const k_conv_phase &phase, k_conv_sums<S> &sums, unsigned char *shared,
                                                  int m0, int n0, int pixels) {
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
template <typename T, bool cores, typename S, bool aligned, bool upsampled>
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
        d_conv_begin<T, S, upsampled>(walk, job, phase, m0, n0, first * chunk);
#pragma unroll 1
        for (int k = 0; k < S::stages - 1; k++) {
            if (k < count) d_conv_fetch<T, S, aligned, upsampled>(walk, job, phase, n0, shared + k * S::stage_bytes);
            d_conv_advance(walk, job, phase, chunk);
            d_copy_async_commit();
        }
        int full = 0, free = (S::stages - 1) * S::stage_bytes; /* the stages to multiply and to fill */
#pragma unroll 1
        for (int k = 0; k < count; k++) {
            d_copy_async_wait<S::stages - 2>();
            __syncthreads();
            if (k + S::stages - 1 < count) {
                d_conv_fetch<T, S, aligned, upsampled>(walk, job, phase, n0, shared + free);
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
    d_conv_end<T, S>(job, phase, sums, shared, m0, n0, pixels);
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

/* Parts of the reduction, more than one where tiles of (m,n) alone are too few. */
template <typename T> static int k_conv_splits(const yg_gpu *gpu, const k_conv_job<T> &job, int m, int n) {
    const int64_t pixels = k_conv_pixels(job), tiles = k_ceil_div(pixels, m) * k_ceil_div(job.out.c, n);
    const int64_t chunks = (int64_t)job.kernel * job.kernel * job.channels * (int64_t)sizeof(T) / K_CONV_CHUNK;
    const int64_t room = k_min(K_SCRATCH_BYTES / (int64_t)sizeof(float) / (pixels * k_conv_pitch(job.out.c)), (int64_t)K_CONV_MOST_SPLITS);
    if (job.moments || (job.backward && job.stride > 1)) return 1;
    return (int)k_max(k_min(k_min(gpu->multiprocessors / tiles, chunks / 16), room), (int64_t)1);
}

/* Cuts a product into tiles of S, and its reduction into splits where nobody has yet; the grid. */
template <typename T, typename S> static dim3 k_conv_divide(yg_gpu *gpu, k_conv_job<T> &job) {
    const int64_t tiles_n = k_ceil_div(job.out.c, S::N), tiles = k_ceil_div(k_conv_pixels(job), S::M) * tiles_n;
    const int phases = job.backward ? job.stride * job.stride : 1;
    job.tiles_n = (int)tiles_n;
    if (!job.splits) job.splits = k_conv_splits(gpu, job, S::M, S::N);
    if (job.splits > 1) job.partial = static_cast<float *>(gpu->scratch);
    return dim3((unsigned)tiles, (unsigned)job.splits, (unsigned)phases);
}

/* Behind the product, where that was split. */
template <typename T> static void k_conv_joined(yg_gpu *gpu, const k_conv_job<T> &job) {
    if (!job.partial) return;
    const int64_t pixels = k_conv_pixels(job), items = pixels * ((job.out.c + 7) / 8);
    K_LAUNCH(k_conv_join<T>, dim3((unsigned)k_ceil_div(items, 128)), 128, 0, gpu->stream, job, (int)pixels);
}

template <typename T, bool cores, typename S, bool aligned, bool upsampled> static void k_conv_launch(yg_gpu *gpu, k_conv_job<T> job) {
    const dim3 grid = k_conv_divide<T, S>(gpu, job);
    K_LAUNCH((k_conv_multiply<T, cores, S, aligned, upsampled>), grid, K_CONV_THREADS, S::bytes, gpu->stream, job);
    k_conv_joined(gpu, job);
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

struct k_conv_size { int m, n, warp_m; bool upsampled; }; /* of a tile; is there a kernel for upsampled inputs? */
static const k_conv_size k_conv_sizes[K_CONV_CHOICES] = {{128, 128, 64, true}, {128, 96, 64, false}, {128, 64, 64, true}, {128, 32, 32, false},
                                                         {128, 16, 32, false}, {64, 64, 32, true},   {64, 32, 32, true}};

template <typename T> static int k_conv_choose(const yg_gpu *gpu, const k_conv_job<T> &job) {
    const int phases = job.backward ? job.stride * job.stride : 1;
    int best = 0;
    int64_t least = INT64_MAX;
    for (int i = 0; i < (job.moments ? (int)K_CONV_SMALL : (int)K_CONV_CHOICES); i++) {
        const int64_t cost = k_conv_cost(gpu, k_conv_pixels(job) * phases, job.out.c, k_conv_sizes[i].m, k_conv_sizes[i].n);
        if (job.low.data && !k_conv_sizes[i].upsampled) continue;
        if (cost < least) least = cost, best = i;
    }
    return best;
}

template <typename T> static void k_conv_launch_upsampled(yg_gpu *gpu, const k_conv_job<T> &job, int choice) {
    switch (choice) {
    case 0: k_conv_launch<T, true, k_conv_128x128, true, true>(gpu, job); break;
    case 2: k_conv_launch<T, true, k_conv_128x64, true, true>(gpu, job); break;
    case 5: k_conv_launch<T, true, k_conv_64x64, true, true>(gpu, job); break;
    default: k_conv_launch<T, true, k_conv_64x32, true, true>(gpu, job);
    }
}

template <typename T> static void k_conv_launch_choice(yg_gpu *gpu, const k_conv_job<T> &job, int choice) {
    if (job.low.data) k_conv_launch_upsampled(gpu, job, choice);
    else switch (choice) {
    case 0: k_conv_launch<T, true, k_conv_128x128, true, false>(gpu, job); break;
    case 1: k_conv_launch<T, true, k_conv_128x96, true, false>(gpu, job); break;
    case 2: k_conv_launch<T, true, k_conv_128x64, true, false>(gpu, job); break;
    case 3: k_conv_launch<T, true, k_conv_128x32, true, false>(gpu, job); break;
    case 4: k_conv_launch<T, true, k_conv_128x16, true, false>(gpu, job); break;
    case 5: k_conv_launch<T, true, k_conv_64x64, true, false>(gpu, job); break;
    default: k_conv_launch<T, true, k_conv_64x32, true, false>(gpu, job);
    }
}

/* What is to be measured of a product, without its choices. Where the residual is out's own memory, a second time would add twice. */
template <typename T> static k_tune_case k_conv_case(const k_conv_job<T> &job, int rule) {
    k_tune_case c = {};
    c.rule = rule;
    c.key.way = job.backward ? YG_TUNED_DGRAD : YG_TUNED_FWD;
    c.key.type = std::is_same<T, __half>::value ? YG_F16 : YG_BF16;
    c.key.n = job.out.n, c.key.h = job.out.h, c.key.w = job.out.w, c.key.c = job.out.c, c.key.in_c = job.in.c, c.key.low_c = job.low.c;
    c.key.kernel = job.kernel, c.key.stride = job.stride, c.key.padding = job.padding, c.key.moments = job.moments != NULL;
    if (job.residual == job.out.data) c.shadow = (size_t)job.out.n * job.out.h * job.out.w * (size_t)job.out.pixel * sizeof(T);
    return c;
}

/* The tile, by measuring or by the rule, and the splits, by the rule. */
template <typename T> static int k_conv_tune(yg_gpu *gpu, k_conv_job<T> &job) {
    const int rule = k_conv_choose(gpu, job);
    const k_conv_size &usual = k_conv_sizes[rule];
    k_tune_case c = k_conv_case(job, rule);
    job.splits = k_conv_splits(gpu, job, usual.m, usual.n);
    for (int i = 0; i < K_CONV_CHOICES; i++) {
        const k_conv_size &size = k_conv_sizes[i];
        const bool same = !job.moments || (size.m == K_MOMENT_PIXELS && size.warp_m == usual.warp_m);
        if (same && (!job.low.data || size.upsampled)) k_tune_add(&c, i, size.m, size.n);
    }
    return k_tune_choose(gpu, c, [&](int choice, void *shadow) {
        k_conv_job<T> trial = job;
        if (shadow) trial.out.data = static_cast<T *>(shadow);
        k_conv_launch_choice(gpu, trial, choice);
    });
}

template <typename T> static void k_conv_run_cores(yg_gpu *gpu, k_conv_job<T> job, bool aligned) {
    if (!aligned) k_conv_launch<T, true, k_conv_128x64, false, false>(gpu, job);
    else {
        const int choice = k_conv_tune(gpu, job);
        k_conv_launch_choice(gpu, job, choice);
    }
}

/* The wide tile only for floats; the others come here on old devices alone. */
template <typename T> static void k_conv_run_plain(yg_gpu *gpu, const k_conv_job<T> &job, bool aligned) {
    typedef typename std::conditional<sizeof(T) == 4, k_conv_128x64, k_conv_128x32>::type wide;
    const int64_t pixels = k_conv_pixels(job);
    const bool best = k_conv_cost(gpu, pixels, job.out.c, wide::M, wide::N) < k_conv_cost(gpu, pixels, job.out.c, 128, 32);
    if (job.low.data) k_conv_launch<T, false, wide, true, true>(gpu, job);
    else if (!aligned) k_conv_launch<T, false, k_conv_128x32, false, false>(gpu, job);
    else if (best) k_conv_launch<T, false, wide, true, false>(gpu, job);
    else k_conv_launch<T, false, k_conv_128x32, true, false>(gpu, job);
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

/* What both directions share; backward, `out` is d_in and `in` d_out. `low`, or NULL: a map of half the height and width whose channels,
   upsampled, stand for in's first ones. */
template <typename T>
static k_conv_job<T> k_conv_described(const yg_ten *out, const yg_ten *in, const yg_ten *low, const yg_conv *conv, bool backward, const yg_ten *residual,
                                      float *moments) {
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
    if (low) job.low = k_view<T>(low);
    if (residual) job.residual = static_cast<const T *>(residual->data), job.residual_pixel = residual->pixel;
    if (!backward) job.bias = conv->bias, job.activation = conv->activation, job.slope = conv->slope;
    if (conv->kernel == 1 && conv->stride == 1 && conv->padding == 0) { /* pixels in a row */
        job.in.w = job.out.w = in->n * in->h * in->w;
        job.in.n = job.out.n = job.in.h = job.out.h = 1;
    }
    return job;
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

/* What one of the three products of a convolution does at least, for yg_watch. */
static void k_conv_amount(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *conv) {
    const double filters = (double)conv->out_channels * conv->kernel * conv->kernel * conv->in_channels;
    yg_call *call = &gpu->watch.next;
    k_amount(gpu, k_bytes(out) + k_bytes(in) + filters * (double)k_type_size(conv->type), 2.0 * out->n * out->h * out->w * filters);
    call->n = out->n, call->h = out->h, call->w = out->w, call->c = conv->out_channels;
    call->in_c = conv->in_channels, call->kernel = conv->kernel, call->stride = conv->stride;
}

/* Can a convolution of `in` read `low` in the place of in's first channels? Else it is a failure. */
static bool k_conv_upsampled_fits(yg_gpu *gpu, const yg_ten *in, const yg_ten *low, const yg_conv *conv) {
    const bool twice = in->n == low->n && in->h == 2 * low->h && in->w == 2 * low->w && low->c <= in->c && in->type == low->type;
    if (twice && conv->kernel == 1 && conv->stride == 1 && conv->padding == 0 && k_is_aligned(in) && k_is_aligned(low)) return true;
    k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: a convolution of %dx%dx%dx%d, kernel %d, stride %d, padding %d, cannot read through to %dx%dx%dx%d",
           gpu->index, in->n, in->h, in->w, in->c, conv->kernel, conv->stride, conv->padding, low->n, low->h, low->w, low->c);
    return false;
}

/* A pair of rows a tile of K_MOMENT_PIXELS pixels, in their order: K means, then K sums of the squares of the distances from them. */
size_t yg_moment_floats(const yg_ten *out) {
    return (size_t)k_ceil_div((int64_t)out->n * out->h * out->w, K_MOMENT_PIXELS) * 2 * (size_t)out->c;
}

/* ---- two 3x3 convolutions in one kernel

   Where channels are few, two small kernels wait more than they multiply. A block makes a square of the second's output; what the
   first makes for it, with a border of a pixel, never leaves shared memory, rounded as if it did: the same bits as from two calls. */

enum {
    K_PAIR_SIDE = 8,                      /* of a block's square of out */
    K_PAIR_MIDDLE = K_PAIR_SIDE + 2,      /* of what the first makes for it */
    K_PAIR_IN = K_PAIR_SIDE + 4,          /* of what that is made from */
    K_PAIR_BLOCKS = 4                     /* at most this many a multiprocessor: beyond, they have to wait for each other */
};

template <typename T> struct k_pair_job { k_conv_job<T> first, second; };

/* Places in shared memory, in bytes. Pitches are odd multiples of 16, so that rows side by side lie in different banks. */
template <int C> struct k_pair_places {
    static constexpr int pixel = 2 * C + 16, filter = 18 * C + 16;
    static constexpr int middle = K_PAIR_IN * K_PAIR_IN * pixel, weight = middle + K_PAIR_MIDDLE * K_PAIR_MIDDLE * pixel, bytes = weight + C * filter;
    static_assert(K_PAIR_SIDE * K_PAIR_SIDE * C * 4 <= middle && bytes <= 48 << 10, "the results fit where the input was");
};

template <typename T, int C> static __device__ __forceinline__ void d_pair_load_weights(unsigned char *shared, const T *weight) {
    const int pieces = 9 * C / 8;
    for (int i = threadIdx.x; i < C * pieces; i += K_CONV_THREADS)
        d_copy_async16(shared + k_pair_places<C>::weight + i / pieces * k_pair_places<C>::filter + i % pieces * 16, weight + i * 8, true);
    d_copy_async_commit();
}

/* The square of `in` whose upper left corner is (top,left), zeros outside the picture. */
template <typename T, int C> static __device__ __forceinline__ void d_pair_load_in(unsigned char *shared, const k_ten<T> &in, int top, int left) {
    const int pieces = C / 8;
    for (int i = threadIdx.x; i < K_PAIR_IN * K_PAIR_IN * pieces; i += K_CONV_THREADS) {
        const int pixel = i / pieces, y = top + pixel / K_PAIR_IN, x = left + pixel % K_PAIR_IN;
        const bool valid = (unsigned)y < (unsigned)in.h && (unsigned)x < (unsigned)in.w;
        const T *from = in.data + ((int64_t)blockIdx.z * in.h * in.w + (valid ? y * in.w + x : 0)) * in.pixel + i % pieces * 8;
        d_copy_async16(shared + pixel * k_pair_places<C>::pixel + i % pieces * 16, from, valid);
    }
}

template <int C> struct k_pair_sums { float at[C / 8][4]; }; /* of 16 pixels, as in k_conv_sums */

/* Sums of 16 pixels and all filters, then the bias. `map`: the pixel of the lane's row under the first tap, in a square of `side` pixels. */
template <typename T, int C, int side>
static __device__ __forceinline__ void d_pair_multiply(k_pair_sums<C> &sums, const unsigned char *map, const unsigned char *weight, const float *bias) {
    const int lane = threadIdx.x % K_WARP;
    map += lane / 16 * 16;
    weight += (lane % 8 + lane / 16 * 8) * k_pair_places<C>::filter + lane / 8 % 2 * 16;
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
        for (int c = 0; c < C; c += 16) {
            uint32_t a[4], b[4];
            d_ldmatrix_x4(a, map + (tap / 3 * side + tap % 3) * k_pair_places<C>::pixel + 2 * c);
#pragma unroll
            for (int j = 0; j < C / 16; j++) {
                d_ldmatrix_x4(b, weight + j * 16 * k_pair_places<C>::filter + 2 * (tap * C + c));
                d_conv_mma(sums.at[2 * j], a, b, T());
                d_conv_mma(sums.at[2 * j + 1], a, b + 2, T());
            }
        }
#pragma unroll
    for (int j = 0; j < C / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums.at[j][i] += bias ? bias[8 * j + lane % 4 * 2 + i % 2] : 0.0f;
}

/* What the first convolution makes of the input in shared memory, 16 pixels a warp at a time; zeros outside the picture, which are the
   second's padding. (top,left): the square's corner in the picture. */
template <typename T, int C>
static __device__ __forceinline__ void d_pair_first(unsigned char *shared, const k_conv_job<T> &job, int top, int left) {
    typedef k_pair_places<C> places;
    const int lane = threadIdx.x % K_WARP, all = K_PAIR_MIDDLE * K_PAIR_MIDDLE;
    for (int m0 = (int)threadIdx.x / K_WARP * 16; m0 < all; m0 += K_CONV_THREADS / K_WARP * 16) {
        const int row = min(m0 + lane % 16, all - 1);
        k_pair_sums<C> sums = {};
        d_pair_multiply<T, C, K_PAIR_IN>(sums, shared + (row / K_PAIR_MIDDLE * K_PAIR_IN + row % K_PAIR_MIDDLE) * places::pixel, shared + places::weight, job.bias);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int m = m0 + 8 * h + lane / 4, y = top + m / K_PAIR_MIDDLE, x = left + m % K_PAIR_MIDDLE;
            const bool inside = (unsigned)y < (unsigned)job.in.h && (unsigned)x < (unsigned)job.in.w;
            if (m >= all) continue;
            T *to = reinterpret_cast<T *>(shared + places::middle + m * places::pixel) + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < C / 4; j++)
                to[j / 2 * 8 + j % 2] = k_element<T>::store(inside ? d_conv_activate<T>(sums.at[j / 2][2 * h + j % 2], job.activation, job.slope) : 0.0f);
        }
    }
}

/* The second convolution, 16 pixels a warp, by way of shared memory so that lanes side by side have channels side by side. */
template <typename T, int C>
static __device__ __forceinline__ void d_pair_second(unsigned char *shared, const k_conv_job<T> &job, int top, int left) {
    typedef k_pair_places<C> places;
    const int lane = threadIdx.x % K_WARP, m0 = (int)threadIdx.x / K_WARP * 16, row = m0 + lane % 16;
    float *staged = reinterpret_cast<float *>(shared) + m0 * C;
    k_pair_sums<C> sums = {};
    d_pair_multiply<T, C, K_PAIR_MIDDLE>(sums, shared + places::middle + (row / K_PAIR_SIDE * K_PAIR_MIDDLE + row % K_PAIR_SIDE) * places::pixel,
                                         shared + places::weight, job.bias);
#pragma unroll
    for (int j = 0; j < C / 2; j++) staged[(j % 4 / 2 * 8 + lane / 4) * C + j / 4 * 8 + lane % 4 * 2 + j % 2] = sums.at[j / 4][j % 4];
    __syncwarp();
    for (int i = lane; i < 16 * C / 8; i += K_WARP) {
        const int m = m0 + i / (C / 8), y = top + m / K_PAIR_SIDE, x = left + m % K_PAIR_SIDE;
        float eight[8];
        if (y >= job.out.h || x >= job.out.w) continue;
        d_conv_load8(eight, staged + i * 8);
        d_conv_finish(job, ((int64_t)blockIdx.z * job.out.h + y) * job.out.w + x, i % (C / 8) * 8, eight);
    }
}

/* grid: x and y a square of out, z a picture. block: 128 threads, a warp 16 pixels at a time. Sums as k_conv_multiply's. */
template <typename T, int C> static __global__ void __launch_bounds__(K_CONV_THREADS) k_pair(const k_pair_job<T> job) {
    static_assert(K_PAIR_SIDE * K_PAIR_SIDE == K_CONV_THREADS / K_WARP * 16, "a warp has 16 pixels of out");
    if (!d_conv_launched<T, true>()) return;
    K_SHARED(unsigned char, shared);
    const int top = (int)blockIdx.y * K_PAIR_SIDE, left = (int)blockIdx.x * K_PAIR_SIDE;
    d_pair_load_in<T, C>(shared, job.first.in, top - 2, left - 2);
    d_pair_load_weights<T, C>(shared, job.first.weight);
    d_copy_async_wait<0>();
    __syncthreads();
    d_pair_first<T, C>(shared, job.first, top - 1, left - 1);
    __syncthreads();
    d_pair_load_weights<T, C>(shared, job.second.weight);
    d_copy_async_wait<0>();
    __syncthreads();
    d_pair_second<T, C>(shared, job.second, top, left);
}

static dim3 k_pair_grid(const yg_ten *out) {
    return dim3((unsigned)k_ceil_div(out->w, K_PAIR_SIDE), (unsigned)k_ceil_div(out->h, K_PAIR_SIDE), (unsigned)out->n);
}

static bool k_pair_convolves(const yg_conv *conv, int channels, yg_type type) {
    return conv->in_channels == channels && conv->out_channels == channels && conv->kernel == 3 && conv->stride == 1 && conv->padding == 1 && conv->type == type;
}

bool yg_conv_pair_can(const yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second) {
    const bool cores = in->type == YG_F16 ? gpu->compute >= 75 : in->type == YG_BF16 && gpu->compute >= 80;
    const bool alike = out->n == in->n && out->h == in->h && out->w == in->w && out->c == in->c && out->type == in->type;
    const dim3 grid = k_pair_grid(out);
    return cores && alike && (in->c == 16 || in->c == 32) && k_is_aligned(in) && k_pair_convolves(first, in->c, in->type) &&
           k_pair_convolves(second, in->c, in->type) && grid.y <= 65535 && grid.z <= 65535 && (int64_t)in->h * in->w < INT32_MAX / 2;
}

/* The border makes 7 products of 4; that is less than the second kernel's start and its waiting while all blocks run at once. */
bool yg_conv_pair_pays(const yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second) {
    const dim3 grid = k_pair_grid(out);
    return yg_conv_pair_can(gpu, out, in, first, second) && (int64_t)grid.x * grid.y * grid.z <= (int64_t)K_PAIR_BLOCKS * gpu->multiprocessors;
}

template <typename T> static k_conv_job<T> k_pair_half(const yg_ten *out, const yg_ten *in, const yg_conv *conv) {
    k_conv_job<T> job = {};
    job.in = k_view<T>(in), job.out = k_view<T>(out);
    job.weight = static_cast<const T *>(conv->weight);
    job.bias = conv->bias, job.activation = conv->activation, job.slope = conv->slope;
    return job;
}

template <typename T>
static void k_pair_launch(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second, const yg_ten *residual) {
    k_pair_job<T> job = {k_pair_half<T>(in, in, first), k_pair_half<T>(out, in, second)};
    job.second.vectors = k_conv_vectors(out) && (!residual || k_conv_vectors(residual));
    if (residual) job.second.residual = static_cast<const T *>(residual->data), job.second.residual_pixel = residual->pixel;
    if (in->c == 16) K_LAUNCH((k_pair<T, 16>), k_pair_grid(out), K_CONV_THREADS, k_pair_places<16>::bytes, gpu->stream, job);
    else K_LAUNCH((k_pair<T, 32>), k_pair_grid(out), K_CONV_THREADS, k_pair_places<32>::bytes, gpu->stream, job);
}

void yg_conv_pair_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *first, const yg_conv *second, const yg_ten *residual) {
    if (gpu->error) return;
    if (!yg_conv_pair_can(gpu, out, in, first, second)) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: two convolutions of %dx%dx%dx%d cannot be done in one", gpu->index, in->n, in->h, in->w, in->c);
        return;
    }
    if (in->type == YG_F16) k_pair_launch<__half>(gpu, out, in, first, second, residual);
    else k_pair_launch<__nv_bfloat16>(gpu, out, in, first, second, residual);
    k_conv_amount(gpu, out, in, second);
    gpu->watch.next.bytes += (double)yg_conv_bytes(first);
    gpu->watch.next.flops *= 2;
    k_launched(gpu, "two convolutions");
}

/* ---- weights */

size_t yg_conv_bytes(const yg_conv *conv) {
    return (size_t)conv->out_channels * (size_t)(conv->kernel * conv->kernel) * (size_t)k_conv_pitch(conv->in_channels) * k_type_size(conv->type);
}

size_t yg_turned_bytes(const yg_conv *conv) {
    return (size_t)conv->in_channels * (size_t)(conv->kernel * conv->kernel) * (size_t)k_conv_pitch(conv->out_channels) * k_type_size(conv->type);
}

/* Of a block that packs; a square is what a block turns at a time. */
enum { K_PACK_THREADS = 256, K_PACK_ELEMENTS = 1024, K_PACK_SIDE = 32 };
static_assert((int)K_PACK_ELEMENTS == (int)K_PACK_SIDE * (int)K_PACK_SIDE, "a block packs as much either way");

/* to(K,R,S,pitch) from weight(K,R,S,C): K_PACK_ELEMENTS that follow each other. Their first one alone costs a division of 64 bits. */
template <typename T> static __device__ void d_pack_straight(const yg_packing &p, int block) {
    const int64_t start = (int64_t)block * K_PACK_ELEMENTS, row0 = start / p.pitch, count = (int64_t)p.outputs * p.taps * p.pitch;
    const unsigned c0 = (unsigned)(start - row0 * p.pitch), pitch = (unsigned)p.pitch;
    for (unsigned i = threadIdx.x; i < K_PACK_ELEMENTS && start + i < count; i += K_PACK_THREADS) {
        const int64_t row = row0 + (c0 + i) / pitch;
        const int c = (int)((c0 + i) % pitch);
        const float x = c < p.channels ? p.weight[row * p.channels + c] : 0.0f;
        static_cast<T *>(p.to)[start + i] = k_element<T>::store(p.scale ? x * p.scale[row / p.taps] : x);
    }
}

/* to(C,R,S,pitch) from weight(K,R,S,C), through a square in shared memory so that both sides run along their rows. Blocks go through
   K first, then C, then taps. */
template <typename T> static __device__ void d_pack_turned(const yg_packing &p, int block, float *square) {
    const int across = (p.pitch + K_PACK_SIDE - 1) / K_PACK_SIDE, down = (p.channels + K_PACK_SIDE - 1) / K_PACK_SIDE, tap = block / across / down;
    const int k0 = block % across * K_PACK_SIDE, c0 = block / across % down * K_PACK_SIDE, x = threadIdx.x % K_PACK_SIDE, y0 = threadIdx.x / K_PACK_SIDE;
    for (int y = y0; y < K_PACK_SIDE; y += K_PACK_THREADS / K_PACK_SIDE) {
        const bool inside = k0 + y < p.outputs && c0 + x < p.channels;
        const float w = inside ? p.weight[((int64_t)(k0 + y) * p.taps + tap) * p.channels + c0 + x] : 0.0f;
        square[y * (K_PACK_SIDE + 1) + x] = inside && p.scale ? w * p.scale[k0 + y] : w;
    }
    __syncthreads();
    for (int y = y0; y < K_PACK_SIDE; y += K_PACK_THREADS / K_PACK_SIDE)
        if (c0 + y < p.channels && k0 + x < p.pitch)
            static_cast<T *>(p.to)[((int64_t)(c0 + y) * p.taps + tap) * p.pitch + k0 + x] = k_element<T>::store(square[x * (K_PACK_SIDE + 1) + y]);
}

template <typename T> static __device__ void d_pack(const yg_packing &p, int block, float *square) {
    if (p.turned) d_pack_turned<T>(p, block, square);
    else d_pack_straight<T>(p, block);
}

/* grid: blocks of the row. block: K_PACK_THREADS. */
static __global__ void k_conv_pack(const yg_packing p) {
    K_SHARED(float, square);
    K_BY_TYPE(p.type, d_pack, p, (int)blockIdx.x, square);
}

/* grid: blocks of all rows, each of which finds its row. block: K_PACK_THREADS. */
static __global__ void k_conv_pack_all(const yg_packing *table, int count) {
    K_SHARED(float, square);
    int row = 0, end = count;
    while (end - row > 1) {
        const int middle = (row + end) / 2;
        (table[middle].first <= (int)blockIdx.x ? row : end) = middle;
    }
    const yg_packing p = table[row];
    K_BY_TYPE(p.type, d_pack, p, (int)blockIdx.x - p.first, square);
}

static int k_pack_blocks(const yg_packing *p) {
    if (p->turned) return (int)(k_ceil_div(p->pitch, K_PACK_SIDE) * k_ceil_div(p->channels, K_PACK_SIDE)) * p->taps;
    return (int)k_ceil_div((int64_t)p->outputs * p->taps * p->pitch, K_PACK_ELEMENTS);
}

/* Bytes that a row moves. */
static double k_pack_bytes(const yg_packing *p) {
    const double rows = (double)(p->turned ? p->channels : p->outputs) * p->taps;
    return rows * p->pitch * (double)k_type_size(p->type) + 4.0 * p->outputs * p->taps * p->channels;
}

int yg_packing_add(yg_packing *rows, int count, const yg_conv *conv, const float *weight, const float *scale) {
    for (int turned = 0; turned < 2; turned++) {
        void *const to = turned ? conv->turned : conv->weight;
        const int pitch = k_conv_pitch(turned ? conv->out_channels : conv->in_channels), first = count ? rows[count - 1].first + k_pack_blocks(&rows[count - 1]) : 0;
        const yg_packing row = {weight, scale, to, conv->out_channels, conv->in_channels, conv->kernel * conv->kernel, pitch, first, conv->type, turned == 1};
        if (to) rows[count++] = row;
    }
    return count;
}

enum { K_PACK_SHARED = K_PACK_SIDE * (K_PACK_SIDE + 1) * (int)sizeof(float) };

void yg_conv_pack(yg_gpu *gpu, const yg_conv *conv, const float *weight, const float *scale) {
    yg_packing rows[2];
    const int count = yg_packing_add(rows, 0, conv, weight, scale);
    for (int i = 0; i < count && !gpu->error; i++) {
        K_LAUNCH(k_conv_pack, (unsigned)k_pack_blocks(&rows[i]), K_PACK_THREADS, K_PACK_SHARED, gpu->stream, rows[i]);
        k_amount(gpu, k_pack_bytes(&rows[i]), 0);
        k_launched(gpu, "packing weights");
    }
}

void yg_conv_pack_all(yg_gpu *gpu, const yg_packing *table, const yg_packing *rows, int count) {
    double bytes = 0;
    if (gpu->error || !count) return;
    for (int i = 0; i < count; i++) bytes += k_pack_bytes(&rows[i]);
    const unsigned blocks = (unsigned)(rows[count - 1].first + k_pack_blocks(&rows[count - 1]));
    K_LAUNCH(k_conv_pack_all, blocks, K_PACK_THREADS, K_PACK_SHARED, gpu->stream, table, count);
    k_amount(gpu, bytes, 0);
    k_launched(gpu, "packing weights");
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

/* ==== K9 k_ d_ yg_: convolution, gradient of the weights =============================================================
   A matrix product with the output pixels as what is summed over: d_weight (K, R*S*C) += d_out^T (K, pixels) * windows (pixels,
   R*S*C), where the windows are the input, looked up in place. Both operands lie pixel by pixel, so tiles of (pixels, channels)
   are copied as they are and turned when they are read. A column of the windows is a chunk of 16 bytes: one tap, some channels;
   taps begin at a chunk of their own, what is beyond C in a tap's last chunk is computed and dropped.
   The sums are few and the pixels many: pixels are cut into splits, each split's sums go to the workspace, and a second kernel
   adds them in the order of the splits. How many there are depends on the shapes and the number of multiprocessors alone: where yg_tune
   has measured another tile than the rule's, its splits are the rule's still, and so are the bits.
   Blocks of one split are neighbours in the grid: they run at the same time, and read the same pixels from the second cache.
   The first channels of the windows may be looked up in the map that they are upsampled from, as in K8. */

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
    const void *d_out, *in, *low; /* low: what in's first low_channels are upsampled from, NULL = nothing */
    int out_pixel, in_pixel, low_pixel, low_channels; /* _pixel: bytes from pixel to pixel */
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
    int halved, width, pixel; /* of an upsampled input instead of `at`: 1 = the chunk is low's, else 0; width and bytes of a pixel of its map */
};

template <typename T, typename tile, bool upsampled>
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
    at.halved = upsampled && c < job.low_channels;
    at.width = job.in_w >> at.halved;
    at.pixel = at.halved ? job.low_pixel : job.in_pixel;
    if (at.halved) at.from = static_cast<const unsigned char *>(job.low) + c * (int)sizeof(T);
    return at;
}

template <typename T, typename tile, bool aligned, bool upsampled>
static __device__ __forceinline__ void d_wgrad_load_in(unsigned char *to, d_wgrad_window &at, const k_wgrad &job) {
    if (tile::idle && (int)threadIdx.x >= tile::rows * tile::chunks) return;
#pragma unroll
    for (int i = 0; i < tile::copies; i++) {
        const bool inside = (unsigned)at.y < (unsigned)job.in_h && (unsigned)at.x < (unsigned)job.in_w;
        const int pixel = upsampled ? (at.y >> at.halved) * at.width + (at.x >> at.halved) : at.at;
        const unsigned char *from = at.from + (int64_t)pixel * (upsampled ? at.pixel : job.in_pixel);
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
template <typename T, typename tile_out, typename tile_in, bool gather, bool upsampled>
static __device__ __forceinline__ void d_wgrad_load(unsigned char *to, d_wgrad_channels &channels, d_wgrad_window &window, const k_wgrad &job) {
    if (!gather || job.out_aligned) d_wgrad_load_out<T, tile_out, true>(to, channels, job);
    else d_wgrad_load_out<T, tile_out, false>(to, channels, job);
    if (!gather || upsampled || job.in_aligned) d_wgrad_load_in<T, tile_in, true, upsampled>(to + tile_out::bytes, window, job);
    else d_wgrad_load_in<T, tile_in, false, upsampled>(to + tile_out::bytes, window, job);
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

/* A warp's part of a tile, (16 high, 8 wide) sums, += the products of the tile's pixels; m and n: its first output channel and
   column in the tile. */
template <typename T, typename tile_out, typename tile_in, int high, int wide>
static __device__ __forceinline__ void d_wgrad_products(float (&sums)[high][wide][4], const unsigned char *tile, int m, int n) {
    const int matrix = (int)threadIdx.x % K_WARP / 8, row = (int)threadIdx.x % 8;
    const unsigned char *out = tile, *in = tile + tile_out::bytes;
#pragma unroll
    for (int pixel = 0; pixel < tile_out::pixels; pixel += 16, out += tile_out::place(16, 0), in += tile_in::place(16, 0)) {
        const void *a[high], *b[wide / 2];
#pragma unroll
        for (int i = 0; i < high; i++) a[i] = out + tile_out::place(matrix / 2 * 8 + row, m / 8 + 2 * i + matrix % 2);
#pragma unroll
        for (int j = 0; j < wide / 2; j++) b[j] = in + tile_in::place(matrix % 2 * 8 + row, n / 8 + 2 * j + matrix / 2);
        d_mma_tile<std::is_same<T, __nv_bfloat16>::value, true>(sums, a, b);
    }
}

/* Sums of one split on tensor cores. Grid (tiles along K, then along the columns; splits); a block has a tile of (M, N) sums, its
   warps_m * warps_n warps a part each, of 16 x 8 pieces as mma gives them. Order of the sums: pixels. Twin: op_conv_wgrad. */
template <typename T, int M, int N, int warps_m, int warps_n, bool gather, bool upsampled>
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
    d_wgrad_window window = d_wgrad_window_at<T, tile_in, upsampled>(job, column0, first, end);
    float sums[high][wide][4] = {};
    for (int stage = 0; stage < K_WGRAD_STAGES - 1; stage++) {
        if (stage < job.steps) d_wgrad_load<T, tile_out, tile_in, gather, upsampled>(tiles + stage * stage_bytes, channels, window, job);
        d_copy_async_commit();
    }
    int from = 0, to = (K_WGRAD_STAGES - 1) * stage_bytes;
    for (int left = job.steps; left > 0; left--) {
        d_copy_async_wait<K_WGRAD_STAGES - 2>();
        __syncthreads();
        if (left >= K_WGRAD_STAGES) d_wgrad_load<T, tile_out, tile_in, gather, upsampled>(tiles + to, channels, window, job);
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
template <typename T, bool upsampled> static __global__ void __launch_bounds__(K_WGRAD_PLAIN_THREADS) k_wgrad_plain(const k_wgrad job) {
    typedef d_wgrad_tile<T, K_WGRAD_PLAIN_PIXELS, K_WGRAD_PLAIN, K_WGRAD_PLAIN_THREADS, false> tile;
    K_SHARED(unsigned char, tiles);
    const int k0 = (int)blockIdx.x % job.tiles_m * K_WGRAD_PLAIN, column0 = (int)blockIdx.x / job.tiles_m * K_WGRAD_PLAIN;
    const int first = (int)blockIdx.y * job.steps * tile::pixels, end = min(job.pixels, first + job.steps * tile::pixels);
    const int m = (int)threadIdx.x / (K_WGRAD_PLAIN / 4) * 4, n = (int)threadIdx.x % (K_WGRAD_PLAIN / 4) * 4;
    d_wgrad_channels channels = d_wgrad_channels_at<T, tile>(job, k0, first, end);
    d_wgrad_window window = d_wgrad_window_at<T, tile, upsampled>(job, column0, first, end);
    float sums[8][4] = {};
    for (int stage = 0; stage < K_WGRAD_STAGES - 1; stage++) {
        if (stage < job.steps) d_wgrad_load<T, tile, tile, true, upsampled>(tiles + stage * 2 * tile::bytes, channels, window, job);
        d_copy_async_commit();
    }
    for (int step = 0; step < job.steps; step++) {
        const int next = step + K_WGRAD_STAGES - 1;
        d_copy_async_wait<K_WGRAD_STAGES - 2>();
        __syncthreads();
        if (next < job.steps) d_wgrad_load<T, tile, tile, true, upsampled>(tiles + next % K_WGRAD_STAGES * 2 * tile::bytes, channels, window, job);
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
    if (job->low) K_LAUNCH((k_wgrad_tensor<T, M, N, warps_m, warps_n, gather, true>), grid, dim3(threads), bytes, gpu->stream, *job);
    else K_LAUNCH((k_wgrad_tensor<T, M, N, warps_m, warps_n, gather, false>), grid, dim3(threads), bytes, gpu->stream, *job);
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
    if (job->low) K_LAUNCH((k_wgrad_plain<T, true>), grid, dim3(K_WGRAD_PLAIN_THREADS), bytes, gpu->stream, *job);
    else K_LAUNCH((k_wgrad_plain<T, false>), grid, dim3(K_WGRAD_PLAIN_THREADS), bytes, gpu->stream, *job);
}

/* The sums of all splits, in tiles of one shape. */
static void k_wgrad_run(yg_gpu *gpu, k_wgrad job, yg_type type, int shape, int splits) {
    const int columns = job.taps * job.chunks * (16 / (int)k_type_size(type));
    job.tiles_m = (int)k_ceil_div(job.K, k_wgrad_shapes[shape].m);
    const dim3 grid((unsigned)(job.tiles_m * k_ceil_div(columns, k_wgrad_shapes[shape].n)), (unsigned)splits);
    if (shape == K_WGRAD_FLOAT) K_BY_TYPE(type, k_wgrad_launch_plain, gpu, &job, grid);
    else if (type == YG_F16) k_wgrad_launch_tensor<__half>(gpu, &job, shape, grid);
    else k_wgrad_launch_tensor<__nv_bfloat16>(gpu, &job, shape, grid);
}

/* The shape, by measuring or by the rule. Sums that are added to what is there go elsewhere while it measures. */
static int k_wgrad_tune(yg_gpu *gpu, const k_wgrad &job, yg_type type, const k_wgrad_plan &plan) {
    if (plan.shape == K_WGRAD_FLOAT || !job.out_aligned || !job.in_aligned) return plan.shape;
    k_tune_case c = {};
    c.rule = plan.shape;
    c.key.way = YG_TUNED_WGRAD, c.key.type = type;
    c.key.n = job.pixels / (job.out_h * job.out_w), c.key.h = job.out_h, c.key.w = job.out_w, c.key.c = job.K, c.key.in_c = job.C;
    c.key.low_c = job.low_channels, c.key.kernel = job.kernel, c.key.stride = job.stride, c.key.padding = job.padding;
    if (job.add) c.shadow = (size_t)job.K * job.taps * job.C * sizeof(float);
    for (int i = K_WGRAD_16; i < K_WGRAD_FLOAT; i++) k_tune_add(&c, i, k_wgrad_shapes[i].m, k_wgrad_shapes[i].n);
    return k_tune_choose(gpu, c, [&](int shape, void *shadow) {
        k_wgrad trial = job;
        if (shadow) trial.sums = static_cast<float *>(shadow);
        k_wgrad_run(gpu, trial, type, shape, plan.splits);
    });
}

void yg_conv_upsampled_wgrad(yg_gpu *gpu, float *d_weight, float *d_bias, const yg_ten *d_out, const yg_ten *in, const yg_ten *low, const yg_conv *conv,
                             void *workspace) {
    if (gpu->error || (low && !k_conv_upsampled_fits(gpu, in, low, conv))) return;
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
    if (low) { /* all pictures are rows of one */
        job.low = low->data, job.low_pixel = (int)low->pixel * size, job.low_channels = low->c;
        job.in_h = job.out_h = in->n * in->h;
    }
    job.steps = plan.steps;
    job.sums = direct ? d_weight : static_cast<float *>(workspace);
    job.sums_stride = direct ? 0 : (count + 1) & ~1;
    job.add = direct, job.paired = !direct && conv->in_channels % 2 == 0;
    k_wgrad_run(gpu, job, in->type, k_wgrad_tune(gpu, job, in->type, plan), plan.splits);
    if (!direct) k_wgrad_add_all(gpu, d_weight, job.sums, job.sums_stride, count, plan.splits);
    if (d_bias) K_BY_TYPE(in->type, k_wgrad_bias_sums, gpu, d_bias, d_out, pixels);
    k_conv_amount(gpu, d_out, in, conv);
    k_launched(gpu, "gradient of a convolution's weights");
}

void yg_conv_wgrad(yg_gpu *gpu, float *d_weight, float *d_bias, const yg_ten *d_out, const yg_ten *in, const yg_conv *conv, void *workspace) {
    yg_conv_upsampled_wgrad(gpu, d_weight, d_bias, d_out, in, NULL, conv, workspace);
}

/* ==== K15 k_ d_ yg_: convolution on Hopper, and which way a convolution goes ==========================================
   The products of K8 by what only compute capability 9.0 has: tiles that the copying unit (TMA) fetches on its own, and tensor cores
   that read both operands from shared memory and work behind the threads' backs (wgmma).
   A block makes a tile of 128 pixels by N filters. One thread of its last warp, the producer, has the copying unit fetch chunks of
   64 channels: of the pixels that a tap sees (im2col mode: padding, strides and odd sizes cost nothing), and of the filters. Two
   warpgroups of 64 pixels each multiply them. Each stage of shared memory has two barriers: it is full; it is free again.
   A producer of one warp takes so few registers that none have to be moved to those who multiply (setmaxnreg): no kernel spills.
   A row of a chunk is 128 bytes, its 16-byte pieces are swizzled by the copying unit and found by the tensor cores: bits 4 to 6 of
   the address are combined with bits 7 to 9. Stages begin at multiples of 1024 bytes, where that pattern begins.
   Channels beyond the last are zeros on both sides. Tensor maps are made by the host at each launch and travel as an argument, so that
   recorded work keeps them. What becomes of the sums is K8's.
   Guessed, to be measured: the widths of tiles, their stages, two blocks a multiprocessor so that one's stores hide behind the other's
   products (in place of a persistent kernel), which width is best (k_hopper_choose), from which size on all this pays (k_hopper_fits), and
   that it does where the channels are no multiple of 64, so that part of the last chunk is zeros. */

enum {
    K_HOPPER_THREADS = 288,  /* two warpgroups that multiply, a warp of which a thread fetches */
    K_HOPPER_PIXELS = K_MOMENT_PIXELS, /* of a tile */
    K_HOPPER_CHUNK = 64,     /* channels */
    K_HOPPER_LINE = 128,     /* bytes of a chunk's row */
    K_HOPPER_PATTERN = 1024, /* bytes after which the swizzle repeats */
    K_HOPPER_PHASES = 4      /* of a gradient: stride 2 at most */
};

/* As k_conv_shape. A warp has 16 rows and all columns. `blocks` run at once on a multiprocessor. */
template <int tile_n, int depth, int together> struct k_hopper_shape {
    static constexpr int M = K_HOPPER_PIXELS, N = tile_n, warp_m = 16, warp_n = N, stages = depth, blocks = together, threads = 256;
    static constexpr int warps_m = 8, warps_n = 1, rows = 1, columns = N / 8;
    static constexpr int stage_bytes = (M + N) * K_HOPPER_LINE, bytes = stages * stage_bytes;
    static constexpr int shared_bytes = K_HOPPER_PATTERN + bytes + 2 * stages * (int)sizeof(uint64_t);
    static constexpr int staged = warp_m, staged_pitch = warp_n + 8;
    static_assert(8 * staged * staged_pitch * 4 <= bytes && stage_bytes % K_HOPPER_PATTERN == 0, "results fit where the chunks were");
    static_assert(blocks * (shared_bytes + 1024) <= 228 << 10, "the blocks fit a multiprocessor");
};

/* Where a product's operands are: pixels of each phase, and filters. */
struct k_hopper_maps { CUtensorMap pixels[K_HOPPER_PHASES], filters; };

/* Are the pixels in a row, see k_conv_described? They are fetched as boxes then, without windows. */
template <typename T> static __host__ __device__ __forceinline__ bool d_hopper_flat(const k_conv_job<T> &job) {
    return job.kernel == 1 && job.stride == 1 && job.padding == 0;
}

/* The descriptor of a matrix whose rows are lines of a chunk, 16 of their elements from `at` on. PTX ISA, matrix descriptor format of
   wgmma: address / 16, in bits 32 and on what lies between 8 rows and the next / 16, in bits 62 and on the swizzle of 128 bytes;
   the leading dimension's offset has no meaning then. */
static __device__ __forceinline__ uint64_t d_hopper_matrix(const void *at) {
    return (d_shared_address(at) & 0x3ffff) >> 4 | (uint64_t)1 << 16 | (uint64_t)(K_HOPPER_PATTERN >> 4) << 32 | (uint64_t)1 << 62;
}

/* The producer. Chunk k of the reduction is channels k % per_tap * 64 and on of tap k / per_tap. */
template <typename T, typename S>
static __device__ __forceinline__ void d_hopper_fetch(const k_conv_job<T> &job, const k_conv_phase &phase, const k_hopper_maps &maps,
                                                      unsigned char *shared, uint64_t *full, uint64_t *empty, int2 tile, int first, int count) {
    const int per_tap = (job.channels + K_HOPPER_CHUNK - 1) / K_HOPPER_CHUNK, line = tile.x / phase.grid_w;
    const int back_y = phase.direction < 0 ? phase.taps_h - 1 : 0, back_x = phase.direction < 0 ? phase.taps_w - 1 : 0;
    const int y = line % phase.grid_h * phase.in_step + phase.in_y - back_y, x = tile.x % phase.grid_w * phase.in_step + phase.in_x - back_x;
    const CUtensorMap *pixels = &maps.pixels[blockIdx.z];
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        const int stage = i % S::stages, tap = (first + i) / per_tap, channel = (first + i) % per_tap * K_HOPPER_CHUNK;
        const int tap_y = tap / phase.taps_w, tap_x = tap % phase.taps_w;
        const int r = phase.first_r + tap_y * phase.tap_step, s = phase.first_s + tap_x * phase.tap_step;
        unsigned char *to = shared + stage * S::stage_bytes;
        d_phase_wait(empty + stage, (i / S::stages & 1) ^ 1);
        d_phase_expect(full + stage, S::stage_bytes);
        if (d_hopper_flat(job)) d_tensor_box(to, pixels, channel, tile.x, 0, full + stage);
        else d_tensor_windows(to, pixels, channel, x, y, line / phase.grid_h, back_x ? back_x - tap_x : tap_x, back_y ? back_y - tap_y : tap_y, full + stage);
        d_tensor_box(to + S::M * K_HOPPER_LINE, &maps.filters, channel, r * job.kernel + s, tile.y, full + stage);
    }
}

/* Those who multiply. A stage is free when the products of the next one have begun and its own are done. */
template <bool brain, typename S>
static __device__ __forceinline__ void d_hopper_multiply(k_conv_sums<S> &sums, unsigned char *shared, uint64_t *full, uint64_t *empty, int count) {
    const unsigned char *pixels = shared + threadIdx.x / 128 * 64 * K_HOPPER_LINE, *filters = shared + S::M * K_HOPPER_LINE;
#pragma unroll 1
    for (int i = 0; i < count; i++) {
        const int stage = i % S::stages;
        const uint64_t a = d_hopper_matrix(pixels + stage * S::stage_bytes), b = d_hopper_matrix(filters + stage * S::stage_bytes);
        d_phase_wait(full + stage, i / S::stages & 1);
        d_wgmma_fence();
#pragma unroll
        for (int k = 0; k < K_HOPPER_LINE / 32; k++) d_wgmma<S::N, brain>(&sums.at[0][0][0], a + 2 * k, b + 2 * k);
        d_wgmma_commit();
        d_wgmma_wait<1>();
        if (i > 0 && threadIdx.x % K_WARP == 0) d_phase_arrive(empty + (i - 1) % S::stages);
    }
    d_wgmma_wait<0>();
}

/* As k_conv_multiply; grid: the same. block: 384 threads, 256 of which have sums. Deterministic. Twins: op_conv_fwd, op_conv_dgrad. */
template <typename T, typename S>
__global__ __launch_bounds__(K_HOPPER_THREADS, S::blocks) void k_hopper_product(const k_conv_job<T> job, const K_CONSTANT k_hopper_maps maps) {
    if (!d_hopper_code()) return;
    K_SHARED(unsigned char, unaligned);
    unsigned char *shared = unaligned + (-d_shared_address(unaligned) & (K_HOPPER_PATTERN - 1));
    uint64_t *full = reinterpret_cast<uint64_t *>(shared + S::bytes), *empty = full + S::stages;
    const k_conv_phase phase = d_conv_phase(job, blockIdx.z);
    const int m0 = (int)(blockIdx.x / job.tiles_n) * S::M, n0 = (int)(blockIdx.x % job.tiles_n) * S::N;
    const int pixels = job.in.n * phase.grid_h * phase.grid_w;
    if (m0 >= pixels) return;
    const int all = phase.taps_h * phase.taps_w * ((job.channels + K_HOPPER_CHUNK - 1) / K_HOPPER_CHUNK);
    const int first = (int)((int64_t)all * blockIdx.y / job.splits), count = (int)((int64_t)all * (blockIdx.y + 1) / job.splits) - first;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < S::stages; stage++) {
            d_phase_make(full + stage, 1);
            d_phase_make(empty + stage, S::threads / K_WARP);
        }
        d_phase_fence();
    }
    __syncthreads();
    if (threadIdx.x >= S::threads) {
        if (threadIdx.x == S::threads) d_hopper_fetch<T, S>(job, phase, maps, shared, full, empty, make_int2(m0, n0), first, count);
        return;
    }
    k_conv_sums<S> sums = {};
    d_hopper_multiply<std::is_same<T, __nv_bfloat16>::value>(sums, shared, full, empty, count);
    d_conv_sync<S>();
    d_conv_end<T, S>(job, phase, sums, shared, m0, n0, pixels);
}

template <typename T> static CUtensorMapDataType k_hopper_type() {
    return std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

/* A tensor of (z, y, x), of which boxes of `rows` by 64 elements are fetched. Strides are in elements. */
template <typename T>
static bool k_hopper_boxes(const yg_gpu *gpu, CUtensorMap *map, const T *data, const cuuint64_t size[3], int64_t stride_y, int64_t stride_z, cuuint32_t rows_y,
                           cuuint32_t rows_z) {
    const cuuint64_t strides[2] = {(cuuint64_t)stride_y * sizeof(T), (cuuint64_t)stride_z * sizeof(T)};
    const cuuint32_t box[3] = {K_HOPPER_CHUNK, rows_y, rows_z}, steps[3] = {1, 1, 1};
    return gpu->encoders.box(map, k_hopper_type<T>(), 3, const_cast<T *>(data), size, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* The pixels of a phase. The corners of im2col mode bound where tap (0,0) may be: the lower one from the tensor's first pixel, the
   upper one from behind its last; in the order x, y. */
template <typename T> static bool k_hopper_windows(const yg_gpu *gpu, CUtensorMap *map, const k_conv_job<T> &job, const k_conv_phase &phase) {
    const k_ten<T> &in = job.in;
    const cuuint64_t size[4] = {(cuuint64_t)in.c, (cuuint64_t)in.w, (cuuint64_t)in.h, (cuuint64_t)in.n}, pixel = (cuuint64_t)in.pixel * sizeof(T);
    const cuuint64_t strides[3] = {pixel, pixel * size[1], pixel * size[1] * size[2]};
    const int lower[2] = {phase.in_x - (phase.direction < 0 ? phase.taps_w - 1 : 0), phase.in_y - (phase.direction < 0 ? phase.taps_h - 1 : 0)};
    const int upper[2] = {lower[0] + (phase.grid_w - 1) * phase.in_step + 1 - in.w, lower[1] + (phase.grid_h - 1) * phase.in_step + 1 - in.h};
    const cuuint32_t steps[4] = {1, (cuuint32_t)phase.in_step, (cuuint32_t)phase.in_step, 1};
    return gpu->encoders.windows(map, k_hopper_type<T>(), 4, in.data, size, strides, lower, upper, K_HOPPER_CHUNK, K_HOPPER_PIXELS, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Makes the maps; false where the driver refuses one. */
template <typename T> static bool k_hopper_map(const yg_gpu *gpu, k_hopper_maps *maps, const k_conv_job<T> &job, int tile_n) {
    const int taps = job.kernel * job.kernel, phases = job.backward ? job.stride * job.stride : 1;
    const cuuint64_t filters[3] = {(cuuint64_t)job.in.c, (cuuint64_t)taps, (cuuint64_t)job.out.c}, row[3] = {(cuuint64_t)job.in.c, (cuuint64_t)job.in.w, 1};
    bool good = k_hopper_boxes(gpu, &maps->filters, job.weight, filters, job.pitch, job.filter, 1, (cuuint32_t)tile_n);
    if (d_hopper_flat(job)) good = good && k_hopper_boxes(gpu, &maps->pixels[0], job.in.data, row, job.in.pixel, job.in.pixel * job.in.w, K_HOPPER_PIXELS, 1);
    else for (int i = 0; i < phases; i++) good = good && k_hopper_windows(gpu, &maps->pixels[i], job, d_conv_phase(job, i));
    return good;
}

template <typename T, typename S> static bool k_hopper_launch(yg_gpu *gpu, k_conv_job<T> job) {
    k_hopper_maps maps = {};
    if (!k_hopper_map(gpu, &maps, job, S::N)) return false;
    const dim3 grid = k_conv_divide<T, S>(gpu, job);
    k_good(gpu, cudaFuncSetAttribute(k_hopper_product<T, S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::shared_bytes), "shared memory for a convolution");
    K_LAUNCH((k_hopper_product<T, S>), grid, K_HOPPER_THREADS, S::shared_bytes, gpu->stream, job, maps);
    k_conv_joined(gpu, job);
    return true;
}

/* Is it worth while, and can it be done? Tap (0,0) of every phase has to be within 127 pixels of the tensor's edges. */
template <typename T> static bool k_hopper_fits(const yg_gpu *gpu, const k_conv_job<T> &job) {
    const bool known = gpu->encoders.box && gpu->encoders.windows && !job.low.data;
    const bool large = job.in.c >= K_HOPPER_CHUNK && job.out.c >= K_HOPPER_CHUNK && k_conv_pixels(job) >= K_HOPPER_PIXELS;
    const bool near = job.kernel <= 16 && job.padding <= 16 && job.stride <= 8;
    const bool phases = !job.backward || (job.stride <= 2 && job.kernel >= job.stride && job.out.h >= job.stride && job.out.w >= job.stride);
    return known && large && near && phases;
}

static const int k_hopper_widths[] = {256, 128, 96, 64};

/* Which width of tiles; K8's measure of time. */
template <typename T> static int k_hopper_choose(const yg_gpu *gpu, const k_conv_job<T> &job) {
    const int *widths = k_hopper_widths;
    const int64_t pixels = k_conv_pixels(job) * (job.backward ? job.stride * job.stride : 1);
    int best = 0;
    for (int i = 1; i < 4; i++)
        if (k_conv_cost(gpu, pixels, job.out.c, K_HOPPER_PIXELS, widths[i]) < k_conv_cost(gpu, pixels, job.out.c, K_HOPPER_PIXELS, widths[best])) best = i;
    return best;
}

template <typename T> static bool k_hopper_launch_choice(yg_gpu *gpu, const k_conv_job<T> &job, int choice) {
    switch (k_hopper_widths[choice]) {
    case 256: return k_hopper_launch<T, k_hopper_shape<256, 4, 1>>(gpu, job);
    case 128: return k_hopper_launch<T, k_hopper_shape<128, 3, 2>>(gpu, job);
    case 96: return k_hopper_launch<T, k_hopper_shape<96, 3, 2>>(gpu, job);
    default: return k_hopper_launch<T, k_hopper_shape<64, 4, 2>>(gpu, job);
    }
}

/* As k_conv_tune, of the widths: K8's own products add up in another order. */
template <typename T> static int k_hopper_tune(yg_gpu *gpu, k_conv_job<T> &job) {
    const int rule = k_hopper_choose(gpu, job);
    k_tune_case c = k_conv_case(job, rule);
    c.key.hopper = 1;
    job.splits = k_conv_splits(gpu, job, K_HOPPER_PIXELS, k_hopper_widths[rule]);
    for (int i = 0; i < 4; i++) {
        k_hopper_maps maps;
        if (i == rule || (gpu->tune.on && k_hopper_map(gpu, &maps, job, k_hopper_widths[i]))) k_tune_add(&c, i, K_HOPPER_PIXELS, k_hopper_widths[i]);
    }
    return k_tune_choose(gpu, c, [&](int choice, void *shadow) {
        k_conv_job<T> trial = job;
        if (shadow) trial.out.data = static_cast<T *>(shadow);
        k_hopper_launch_choice(gpu, trial, choice);
    });
}

/* False: it has to be done in K8's way. */
static bool k_hopper_run(yg_gpu *, const k_conv_job<float> &) { return false; }

template <typename T> static bool k_hopper_run(yg_gpu *gpu, k_conv_job<T> job) {
    if (!k_hopper_fits(gpu, job)) return false;
    const int choice = k_hopper_tune(gpu, job);
    return k_hopper_launch_choice(gpu, job, choice);
}

template <typename T>
static void k_hopper_or_any(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_ten *low, const yg_conv *conv, bool backward, const yg_ten *residual,
                            float *moments) {
    const k_conv_job<T> job = k_conv_described<T>(out, in, low, conv, backward, residual, moments);
    const bool aligned = k_is_aligned(in);
    if (!aligned || !k_hopper_run(gpu, job)) k_conv_run(gpu, job, aligned);
}

void yg_conv_upsampled_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_ten *low, const yg_conv *conv, const yg_ten *residual, float *moments) {
    if (gpu->error || !k_conv_fits(gpu, out, in, conv, false) || (low && !k_conv_upsampled_fits(gpu, in, low, conv))) return;
    K_BY_TYPE(conv->type, k_hopper_or_any, gpu, out, in, low, conv, false, residual, moments);
    k_conv_amount(gpu, out, in, conv);
    if (low) gpu->watch.next.bytes -= 3 * k_bytes(low);
    k_launched(gpu, "convolution");
}

void yg_conv_fwd(yg_gpu *gpu, const yg_ten *out, const yg_ten *in, const yg_conv *conv, const yg_ten *residual, float *moments) {
    yg_conv_upsampled_fwd(gpu, out, in, NULL, conv, residual, moments);
}

void yg_conv_dgrad(yg_gpu *gpu, const yg_ten *d_in, const yg_ten *d_out, const yg_conv *conv, bool accumulate) {
    if (gpu->error || !k_conv_fits(gpu, d_out, d_in, conv, true)) return;
    K_BY_TYPE(conv->type, k_hopper_or_any, gpu, d_in, d_out, NULL, conv, true, accumulate ? d_in : NULL, NULL);
    k_conv_amount(gpu, d_out, d_in, conv);
    k_launched(gpu, "gradient of a convolution's input");
}

/* ==== K10 k_ d_ yg_: boxes from the raw heads, suppression ===========================================================
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
        const float score = __shfl_xor_sync(K_ALL_LANES, best, flip);
        const int class_id = __shfl_xor_sync(K_ALL_LANES, best_class, flip);
        count += __shfl_xor_sync(K_ALL_LANES, count, flip);
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
    const float x1 = centre_x - __shfl_sync(K_ALL_LANES, side.distance, 0, 4), y1 = centre_y - __shfl_sync(K_ALL_LANES, side.distance, 1, 4);
    const float x2 = centre_x + __shfl_sync(K_ALL_LANES, side.distance, 2, 4), y2 = centre_y + __shfl_sync(K_ALL_LANES, side.distance, 3, 4);
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
    if (__any_sync(K_ALL_LANES, anchor->count)) d_decode_corners<T, aligned>(anchor, logits, cell);
    return classes;
}

/* The sum of `value` over the threads before this one; *total: over all. */
static __device__ __forceinline__ int d_decode_scan(int value, int *total) {
    __shared__ int of_warp[K_DECODE_THREADS / K_WARP];
    const int lane = threadIdx.x % K_WARP, warp = threadIdx.x / K_WARP;
    int sum = value, before = 0, all = 0;
    for (int up = 1; up < K_WARP; up *= 2) {
        const int other = __shfl_up_sync(K_ALL_LANES, sum, up);
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
            const int other = __shfl_sync(K_ALL_LANES, count, i, 4);
            before += i < quad_lane ? other : 0;
        }
        const int all = __shfl_sync(K_ALL_LANES, before + count, 3, 4);
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
        place = at + __shfl_sync(K_ALL_LANES, place, 0, 4);
        at += total;
        if (!__any_sync(K_ALL_LANES, anchor.count)) continue;
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

/* Suppression. Candidates are put in order by counting, for each, those that come before it: no more work than the comparisons
   of boxes that follow, and no padding, no passes. Then a block a picture keeps the best that is left and strikes out what it
   overlaps, over and over: at most max_det rounds over a bit a candidate. Boxes are compared as nms_overlaps does it, each
   operation rounded, none contracted. */

enum { K_NMS_THREADS = 256, K_NMS_SWEEP_THREADS = 512, K_NMS_WORDS = (YG_NMS_MOST + 31) / 32 };

/* The shift that keeps classes apart, as NMS_CLASS_OFFSET. */
static constexpr float K_NMS_CLASS_OFFSET = 7680.0f;

struct k_nms_item { float4 box; int index, chain; }; /* shifted; which candidate; its class, or 0 where classes do not matter */

struct k_nms_job {
    const yg_candidate *candidates;
    const int *counts;
    k_nms_item *sorted;
    yg_candidate *kept;
    int *kept_counts;
    int most, max_det;
    float iou;
    bool agnostic;
};

/* Candidates into order: by falling score, equal ones as they come. Grid (candidates / threads, pictures), a thread a candidate.
   Twin: nms_compare. */
static __global__ void __launch_bounds__(K_NMS_THREADS) k_nms_sort(k_nms_job job) {
    __shared__ float scores[K_NMS_THREADS];
    const int picture = (int)blockIdx.y, count = job.counts[picture], thread = (int)threadIdx.x, own = (int)blockIdx.x * K_NMS_THREADS + thread;
    const yg_candidate *candidates = job.candidates + (int64_t)picture * job.most;
    if (count > job.most || (int)blockIdx.x * K_NMS_THREADS >= count) return;
    const float score = own < count ? candidates[own].score : 0;
    int before = 0;
    for (int first = 0; first < count; first += K_NMS_THREADS) {
        const int some = min(count - first, (int)K_NMS_THREADS);
        __syncthreads();
        if (thread < some) scores[thread] = candidates[first + thread].score;
        __syncthreads();
        for (int i = 0; i < some; i++) before += scores[i] > score || (scores[i] == score && first + i < own);
    }
    if (own >= count) return;
    const yg_candidate c = candidates[own];
    const int chain = job.agnostic ? 0 : c.class_id;
    const float shift = __fmul_rn(K_NMS_CLASS_OFFSET, (float)chain);
    const float4 box = make_float4(__fadd_rn(c.x1, shift), __fadd_rn(c.y1, shift), __fadd_rn(c.x2, shift), __fadd_rn(c.y2, shift));
    job.sorted[(int64_t)picture * job.most + before] = k_nms_item{box, own, chain};
}

static __device__ __forceinline__ float d_nms_area(float4 box) { return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y)); }

/* As nms_overlaps. */
static __device__ __forceinline__ bool d_nms_overlaps(float4 a, float area, float4 b, float threshold) {
    const float w = fmaxf(0.0f, __fsub_rn(fminf(a.z, b.z), fmaxf(a.x, b.x))), h = fmaxf(0.0f, __fsub_rn(fminf(a.w, b.w), fmaxf(a.y, b.y)));
    const float both = __fmul_rn(w, h);
    return __fdiv_rn(both, __fsub_rn(__fadd_rn(area, d_nms_area(b)), both)) > threshold;
}

/* Strikes out what the kept one overlaps of the 32 candidates of a word, and adds their number to *all; a warp comes here together. */
static __device__ __forceinline__ void d_nms_strike(unsigned *word, int *all, int first, const k_nms_item *sorted, const k_nms_item &kept, float area, float iou) {
    const unsigned alive = *word;
    const int lane = (int)threadIdx.x % K_WARP;
    bool struck = false;
    if (!alive) return;
    if (alive >> lane & 1) {
        const k_nms_item other = sorted[first + lane];
        struck = other.chain == kept.chain && d_nms_overlaps(kept.box, area, other.box, iou);
    }
    const unsigned lanes = __ballot_sync(K_ALL_LANES, struck);
    __syncwarp(); /* all have read the word */
    if (lane || !lanes) return;
    *word = alive & ~lanes;
    atomicAdd(all, __popc(lanes));
}

/* What is kept of a picture, a block each. Twin: nms_run. */
static __global__ void __launch_bounds__(K_NMS_SWEEP_THREADS) k_nms_sweep(k_nms_job job) {
    __shared__ unsigned alive[K_NMS_WORDS];
    __shared__ int struck; /* by the last that was kept */
    const int picture = (int)blockIdx.x, count = job.counts[picture], thread = (int)threadIdx.x, words = (count + 31) / 32;
    const yg_candidate *candidates = job.candidates + (int64_t)picture * job.most;
    const k_nms_item *sorted = job.sorted + (int64_t)picture * job.most;
    yg_candidate *out = job.kept + (int64_t)picture * job.max_det;
    int kept = 0, at = 0;
    if (count > job.most) {
        if (!thread) job.kept_counts[picture] = -1;
        return;
    }
    for (int word = thread; word < words; word += K_NMS_SWEEP_THREADS) alive[word] = count - word * 32 >= 32 ? K_ALL_LANES : (1u << (count - word * 32)) - 1;
    for (; kept < job.max_det; kept++) {
        __syncthreads();
        while (at < words && !alive[at]) at++;
        if (at == words) break;
        const int best = at * 32 + __ffs((int)alive[at]) - 1;
        const k_nms_item item = sorted[best];
        const float area = d_nms_area(item.box);
        __syncthreads();
        if (!thread) {
            if (kept) out[kept - 1].order = struck;
            struck = 0;
            out[kept] = candidates[item.index];
            alive[at] &= ~(1u << best % 32);
        }
        __syncthreads();
        for (int word = at + thread / K_WARP; word < words; word += K_NMS_SWEEP_THREADS / K_WARP)
            d_nms_strike(alive + word, &struck, word * 32, sorted, item, area, job.iou);
    }
    __syncthreads();
    if (thread) return;
    if (kept) out[kept - 1].order = struck;
    job.kept_counts[picture] = kept;
}

void yg_nms(yg_gpu *gpu, yg_candidate *kept, int *kept_counts, const yg_candidate *candidates, const int *counts, int pictures, int most,
            float iou, int max_det, bool agnostic, void *workspace) {
    if (gpu->error || pictures < 1) return;
    if (pictures > 65535 || most < 1 || most > YG_NMS_MOST || max_det < 1) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: suppression of %d candidates in %d pictures, %d to be kept", gpu->index, most, pictures, max_det);
        return;
    }
    const k_nms_job job = {candidates, counts, static_cast<k_nms_item *>(workspace), kept, kept_counts, most, max_det, iou, agnostic};
    K_LAUNCH(k_nms_sort, dim3((unsigned)k_ceil_div(most, K_NMS_THREADS), (unsigned)pictures), K_NMS_THREADS, 0, gpu->stream, job);
    K_LAUNCH(k_nms_sweep, pictures, K_NMS_SWEEP_THREADS, 0, gpu->stream, job);
    k_launched(gpu, "suppression");
}

size_t yg_nms_bytes(int pictures, int most) { return (size_t)pictures * (size_t)most * sizeof(k_nms_item); }

/* ==== K11 k_ d_ yg_: training loss ===================================================================================
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
    int pictures, whole;                  /* here, and of the batch whose score divides the losses */
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
    for (int flip = K_WARP / 2; flip; flip /= 2) value += __shfl_xor_sync(K_ALL_LANES, value, flip);
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
            const unsigned long long other = __shfl_xor_sync(K_ALL_LANES, top, flip);
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
        const unsigned long long other = __shfl_xor_sync(K_ALL_LANES, best, flip);
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
    for (unsigned several = __ballot_sync(K_ALL_LANES, claims > 1); several; several &= several - 1) {
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
static __global__ void __launch_bounds__(K_LOSS_THREADS) k_loss_add(const K_CONSTANT k_loss_total total) {
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
    box.x = centre_x - __shfl_sync(K_ALL_LANES, bins.distance, 0, 4);
    box.y = centre_y - __shfl_sync(K_ALL_LANES, bins.distance, 1, 4);
    box.z = centre_x + __shfl_sync(K_ALL_LANES, bins.distance, 2, 4);
    box.w = centre_y + __shfl_sync(K_ALL_LANES, bins.distance, 3, 4);
    if (target < 0) return;
    const float *pixels = state.targets[target].box;
    const float4 aim = make_float4(pixels[0] / cell.stride, pixels[1] / cell.stride, pixels[2] / cell.stride, pixels[3] / cell.stride);
    const float edge = side < 2 ? centre - bins.distance : centre + bins.distance, aim_edge = pixels[side] / cell.stride;
    const d_loss_ciou ciou = d_loss_ciou_of(box, aim);
    const float scale = score / d_loss_divisor(state) * (float)state.whole, focal = scale * state.dfl_gain / 4;
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
    if (__any_sync(K_ALL_LANES, target >= 0))
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
    const float scale = state.cls_gain / d_loss_divisor(state) * (float)state.whole, loss_scale = state.scale ? *state.scale : 1;
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

/* Which anchor gets which target, and the sum of scores. */
template <typename T, bool aligned> static void k_loss_assign(yg_gpu *gpu, const yg_loss *loss, const k_loss_state &state) {
    const k_decode_heads<const T> heads = k_decode_view<const T>(loss->heads, loss->strides, loss->levels, loss->class_count);
    const k_loss_grids grids = k_loss_grids_of(heads.anchors);
    const unsigned n = (unsigned)state.pictures;
    const k_loss_total score = {{state.score_parts}, {state.sums + 3}, {1}, {state.pictures * (int)grids.anchors}};
    K_LAUNCH((k_loss_decode<T, aligned>), dim3(grids.quads, n), K_LOSS_THREADS, 0, gpu->stream, heads, state);
    if (loss->most_targets > 0) {
        K_LAUNCH((k_loss_claim<T>), (unsigned)loss->most_targets, K_LOSS_CLAIM_THREADS, 0, gpu->stream, heads, state);
        K_LAUNCH((k_loss_settle<T>), dim3(grids.anchors, n), K_LOSS_THREADS, 0, gpu->stream, heads, state);
    }
    K_LAUNCH(k_loss_score, dim3(grids.anchors, n), K_LOSS_THREADS, 0, gpu->stream, heads.anchors, state);
    K_LAUNCH(k_loss_add, 1, K_LOSS_THREADS, 0, gpu->stream, score);
}

/* Losses and gradients, when the score is there. */
template <typename T, bool aligned> static void k_loss_finish(yg_gpu *gpu, const yg_loss *loss, const k_loss_state &state) {
    const bool wanted = loss->gradients[0].data != NULL;
    const k_decode_heads<const T> heads = k_decode_view<const T>(loss->heads, loss->strides, loss->levels, loss->class_count);
    const k_decode_heads<T> gradients = k_decode_view<T>(loss->gradients, loss->strides, wanted ? loss->levels : 0, loss->class_count);
    const k_loss_grids grids = k_loss_grids_of(heads.anchors);
    const unsigned n = (unsigned)state.pictures;
    const int pictures = state.pictures;
    const k_loss_total losses = {{state.box_parts, state.cls_parts, state.dfl_parts},
                                 {state.sums, state.sums + 1, state.sums + 2},
                                 {(double)loss->box, (double)loss->cls, (double)loss->dfl},
                                 {pictures * (int)grids.quads, pictures * (int)grids.tiles, pictures * (int)grids.quads}};
    K_LAUNCH((k_loss_boxes<T, aligned>), dim3(grids.quads, n), K_LOSS_THREADS, 0, gpu->stream, heads, gradients, state);
    K_LAUNCH((k_loss_classes<T, aligned>), dim3(grids.tiles, n), K_LOSS_THREADS, 0, gpu->stream, heads, gradients, state);
    K_LAUNCH(k_loss_add, 3, K_LOSS_THREADS, 0, gpu->stream, losses);
}

enum k_loss_part { K_LOSS_ASSIGN = 1, K_LOSS_FINISH = 2 };

template <typename T> static void k_loss(yg_gpu *gpu, const yg_loss *loss, const k_loss_state &state, int parts) {
    const bool wanted = loss->gradients[0].data != NULL;
    const bool aligned = k_decode_is_aligned(loss->heads, loss->levels) && (!wanted || k_decode_is_aligned(loss->gradients, loss->levels));
    if (parts & K_LOSS_ASSIGN && aligned) k_loss_assign<T, true>(gpu, loss, state);
    else if (parts & K_LOSS_ASSIGN) k_loss_assign<T, false>(gpu, loss, state);
    if (parts & K_LOSS_FINISH && aligned) k_loss_finish<T, true>(gpu, loss, state);
    else if (parts & K_LOSS_FINISH) k_loss_finish<T, false>(gpu, loss, state);
}

size_t yg_loss_bytes(const yg_loss *loss) {
    k_loss_state state;
    return k_loss_lay_out(loss, NULL, &state);
}

static void k_loss_call(yg_gpu *gpu, const yg_loss *loss, int parts) {
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
    state.whole = loss->whole ? loss->whole : state.pictures;
    k_loss_lay_out(loss, loss->workspace, &state);
    K_BY_TYPE(loss->heads[0].type, k_loss, gpu, loss, state, parts);
    k_launched(gpu, "loss");
}

void yg_loss_detect(yg_gpu *gpu, const yg_loss *loss) { k_loss_call(gpu, loss, K_LOSS_ASSIGN | K_LOSS_FINISH); }
void yg_loss_assign(yg_gpu *gpu, const yg_loss *loss) { k_loss_call(gpu, loss, K_LOSS_ASSIGN); }
void yg_loss_finish(yg_gpu *gpu, const yg_loss *loss) { k_loss_call(gpu, loss, K_LOSS_FINISH); }

/* ==== K12 k_ d_ yg_: optimizers and moving average ===================================================================
   Twins of section 19 of yolo.c, over the same blocks of floats and the same pieces.
   1. Rows of the parameter table lie one behind the other, so a piece may begin at any float. The blocks themselves begin
      alike, so all of them reach a boundary of 16 bytes at the same element: up to three elements before it and behind the
      last whole vector are done one by one.
   2. Sums of squares are made in double, each thread's in order, then by a tree of fixed shape: the same bits always, and what is
      no number comes through.
   3. MuSGD's matrices are bf16 with sums in float, the shorter side first, padded with zeros that every product keeps. A matrix
      whose products fit into shared memory is one block's work, and one launch does all of these. The others go through their
      products together: a launch a product, whose blocks find their matrix in a table. What a matrix becomes depends on no other. */

enum { K_OPT_THREADS = 256, K_OPT_PARTS = 4 /* blocks that share a piece of yg_update */, K_OPT_GROUPS = 8 };
#define K_OPT_EPS 1e-8f /* OPT_EPS */

/* The sum of the block's values, there for every thread; a multiple of 32 threads, at most 1024. */
static __device__ __forceinline__ double d_opt_block_sum(double value) {
    __shared__ double sums[K_WARP];
    const int lane = threadIdx.x % K_WARP, warp = threadIdx.x / K_WARP, warps = blockDim.x / K_WARP;
    for (int step = K_WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(K_ALL_LANES, value, step);
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

/* One block; thread t adds sums t, t + 1024, ..., the first one decides. Twin: opt_clip. REF torch/amp/grad_scaler.py */
static __global__ void __launch_bounds__(1024) k_opt_decide(yg_decision *decision, const double *sums, int count, float most, yg_scaling scaling) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += 1024) sum += sums[i];
    sum = d_opt_block_sum(sum);
    if (threadIdx.x) return;
    const double scale = decision->scale;
    const float norm = (float)(sqrt(sum) / scale), clip = most / (norm + 1e-6f);
    const bool finite = isfinite(norm);
    decision->squares = sum;
    decision->clip = (clip > 1 ? 1 : clip) * (float)(1 / scale);
    decision->taken = finite || !scaling.steps;
    if (!scaling.steps) return;
    decision->scaled_steps = finite ? decision->scaled_steps + 1 : 0;
    if (finite && decision->scaled_steps < scaling.steps) return;
    decision->scaled_steps = 0;
    decision->scale = finite ? fminf(decision->scale * 2, scaling.largest) : decision->scale / 2;
}

void yg_decide(yg_gpu *gpu, yg_decision *decision, const float *gradients, const yg_piece *pieces, int count, float most, yg_scaling scaling, double *workspace) {
    if (gpu->error) return;
    if (count > 0) K_LAUNCH(k_opt_squares, count, K_OPT_THREADS, 0, gpu->stream, workspace, gradients, pieces);
    K_LAUNCH(k_opt_decide, 1, 1024, 0, gpu->stream, decision, workspace, count, most, scaling);
    k_launched(gpu, "norm of the gradients");
}

/* ---- updates */

struct k_opt_rates { yg_rates groups[K_OPT_GROUPS]; };
struct k_opt_blocks { float *params, *gradients, *average, *a, *b; };

/* One element: p with its gradient g and moments a and b. Twin: opt_update_*. */
template <yg_optimizer kind> static __device__ __forceinline__ void d_opt_update(const yg_rates &r, float clip, float &p, float g, float &a, float &b) {
    const float d = g * clip + r.decay * p;
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
static __device__ __forceinline__ void d_opt_step(const k_opt_blocks &blocks, const yg_piece &piece, const yg_rates &rates, float clip, float weight, int64_t at) {
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
        for (int i = 0; i < lanes; i++) d_opt_update<kind>(rates, clip, p_lane[i], g_lane[i], a_lane[i], b_lane[i]);
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
   element is one thread's. A step that is not taken leaves all but the gradients. Twins: opt_update_piece, opt_average. */
template <yg_optimizer kind>
static __global__ void __launch_bounds__(K_OPT_THREADS)
k_opt_update(const k_opt_blocks blocks, const yg_piece *pieces, const k_opt_rates rates, const yg_decision *decision, float weight, bool vectors_fit) {
    yg_piece piece = pieces[blockIdx.x];
    const float clip = decision->clip;
    if (!decision->taken) {
        piece.group = -1;
        piece.averaged = 0;
    }
    const int thread = blockIdx.y * K_OPT_THREADS + threadIdx.x, step = K_OPT_PARTS * K_OPT_THREADS;
    const int head = vectors_fit ? d_opt_head(blocks.params + piece.offset, piece.count) : piece.count, vectors = (piece.count - head) / 4;
    const yg_rates mine = rates.groups[piece.group >= 0 ? piece.group : 0];
    for (int i = thread; i < vectors; i += step) d_opt_step<kind, float4>(blocks, piece, mine, clip, weight, piece.offset + head + 4 * i);
    for (int i = thread; i < piece.count - 4 * vectors; i += step) d_opt_step<kind, float>(blocks, piece, mine, clip, weight, piece.offset + (i < head ? i : i + 4 * vectors));
}

void yg_update(yg_gpu *gpu, yg_optimizer kind, float *params, float *gradients, float *average, float *a, float *b, const yg_piece *pieces,
               int count, const yg_rates *rates, int groups, const yg_decision *decision, float weight) {
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
    case YG_SGD: K_LAUNCH(k_opt_update<YG_SGD>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, decision, weight, vectors_fit); break;
    case YG_ADAM: K_LAUNCH(k_opt_update<YG_ADAM>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, decision, weight, vectors_fit); break;
    case YG_ADAMAX: K_LAUNCH(k_opt_update<YG_ADAMAX>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, decision, weight, vectors_fit); break;
    case YG_NADAM: K_LAUNCH(k_opt_update<YG_NADAM>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, decision, weight, vectors_fit); break;
    case YG_RADAM: K_LAUNCH(k_opt_update<YG_RADAM>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, decision, weight, vectors_fit); break;
    case YG_RMSPROP: K_LAUNCH(k_opt_update<YG_RMSPROP>, grid, K_OPT_THREADS, 0, gpu->stream, blocks, pieces, copies, decision, weight, vectors_fit); break;
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
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(x, y); /* CUDA 12.1 has __bfloat16_as_ushort for 8.0 and newer only */
    uint32_t pair;
    memcpy(&pair, &rounded, sizeof pair);
    return pair;
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

/* What the blocks of a launch do, each for its matrix. */
enum k_muon_launch { K_MUON_MOMENTUM, K_MUON_BEGIN, K_MUON_OUTER, K_MUON_GATHER, K_MUON_MIXED, K_MUON_ONWARDS, K_MUON_END, K_MUON_LAUNCHES };

/* A row of the table: a matrix and where it is worked on. */
struct k_muon_matrix {
    int64_t offset;                  /* of the parameters, gradients and momentum */
    int rows, columns, group;
    int side, other;                 /* the shorter and the longer side, padded */
    int parts;                       /* blocks of k_muon_momentum */
    int splits;                      /* of the product of the matrix with itself */
    k_bf16 *matrix, *next;           /* (side, other), which follow each other */
    k_bf16 *outer, *mixed;           /* (side, side) */
    double *squares;                 /* an element a part */
    float *partial;                  /* the shares of a product, where there are several */
    int first[K_MUON_LAUNCHES];      /* of its blocks, in each launch of its round */
};

/* The block's matrix, the last one that begins at or before it; *block becomes its number within that. */
static __device__ __forceinline__ const k_muon_matrix &d_muon_find(const k_muon_matrix *matrices, int count, k_muon_launch launch, int *block) {
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (matrices[middle].first[launch] <= (int)blockIdx.x) low = middle;
        else high = middle - 1;
    }
    *block = (int)blockIdx.x - matrices[low].first[launch];
    return matrices[low];
}

struct k_muon_rates { float beta, rest, lr[K_OPT_GROUPS]; };

struct k_muon_product_job { /* out = bf16(add * plus + scale * left right), plus NULL = nothing */
    k_bf16 *out;
    float *partial;           /* where more than one block shares a tile: their sums instead, for k_muon_gather */
    const k_bf16 *left, *right, *plus;
    int depth, left_pitch, right_pitch, out_pitch;
    float add, scale;
    int across, down, splits; /* tiles, and blocks that share one */
};

/* A product of iteration `step`, which leads from `matrix` to `next` or back. `outer` is symmetric. */
static __device__ __forceinline__ k_muon_product_job d_muon_job(const k_muon_matrix &m, k_muon_launch launch, int step) {
    k_bf16 *const x = step % 2 ? m.next : m.matrix, *const y = step % 2 ? m.matrix : m.next;
    const int side = m.side, other = m.other, tiles = side / K_MUON_TILE;
    if (launch == K_MUON_OUTER) return {m.outer, m.splits > 1 ? m.partial : NULL, x, x, NULL, other, other, other, side, 0, 1, tiles, tiles, m.splits};
    if (launch == K_MUON_MIXED) return {m.mixed, NULL, m.outer, m.outer, m.outer, side, side, side, side, K_MUON_B, K_MUON_C, tiles, tiles, 1};
    return {y, NULL, m.mixed, x, x, side, side, other, other, K_MUON_A, 1, other / K_MUON_TILE, tiles, 1};
}

/* A stage of a product on its way into shared memory. */
template <bool turned>
static __device__ __forceinline__ void d_muon_fetch(k_bf16 *left, k_bf16 *right, const k_muon_product_job &job, int tile, int depth) {
    constexpr int pitch = K_MUON_DEPTH + 8, wide = K_MUON_TILE + 8;
    const int row = tile / job.across * K_MUON_TILE, column = tile % job.across * K_MUON_TILE;
    const k_bf16 *const a = job.left + (int64_t)row * job.left_pitch + depth;
    const k_bf16 *const b = turned ? job.right + (int64_t)column * job.right_pitch + depth : job.right + (int64_t)depth * job.right_pitch + column;
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

/* A block a tile of 64x64, or a share of one; 128 threads, a warp 32x32 of the tile; four stages under way. The shares of a tile are
   consecutive in depth and added in order. `turned`: the right factor is given by its columns. Twin: opt_multiply. */
template <bool bf16, bool turned>
static __global__ void __launch_bounds__(K_MUON_THREADS) k_muon_product(const k_muon_matrix *matrices, int count, k_muon_launch launch, int step) {
    __shared__ __align__(128) k_bf16 left[K_MUON_STAGES][K_MUON_TILE * (K_MUON_DEPTH + 8)];
    __shared__ __align__(128) k_bf16 right[K_MUON_STAGES][turned ? K_MUON_TILE * (K_MUON_DEPTH + 8) : K_MUON_DEPTH * (K_MUON_TILE + 8)];
    int block;
    const k_muon_product_job job = d_muon_job(d_muon_find(matrices, count, launch, &block), launch, step);
    const int tiles = job.across * job.down, tile = block % tiles, share = block / tiles;
    const int all = job.depth / K_MUON_DEPTH, first = share * all / job.splits, end = (share + 1) * all / job.splits;
    float sums[2][4][4] = {};
    for (int i = first; i < first + K_MUON_STAGES - 1; i++) {
        if (i < end) d_muon_fetch<turned>(left[i - first], right[i - first], job, tile, i * K_MUON_DEPTH);
        d_copy_async_commit();
    }
    for (int i = first; i < end; i++) {
        const int next = i + K_MUON_STAGES - 1, now = (i - first) % K_MUON_STAGES, then = (next - first) % K_MUON_STAGES;
        d_copy_async_wait<K_MUON_STAGES - 2>();
        __syncthreads(); /* stage `now` is there, and `then` has been used by all */
        if (next < end) d_muon_fetch<turned>(left[then], right[then], job, tile, next * K_MUON_DEPTH);
        d_copy_async_commit();
        d_muon_stage<bf16, turned>(sums, left[now], right[now]);
    }
    d_copy_async_wait<0>();
    const int lane = threadIdx.x % K_WARP, warp = threadIdx.x / K_WARP;
    const int row = tile / job.across * K_MUON_TILE + warp / 2 * 32 + lane / 4, column = tile % job.across * K_MUON_TILE + warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float x = sums[i / 4][i % 4][2 * j], y = sums[i / 4][i % 4][2 * j + 1];
            const int64_t at = (int64_t)(row + i / 4 * 16 + j * 8) * job.out_pitch + column + i % 4 * 8;
            if (job.partial) {
                const int64_t square = (int64_t)job.down * K_MUON_TILE * job.out_pitch;
                *reinterpret_cast<float2 *>(job.partial + share * square + at) = make_float2(x, y);
                continue;
            }
            const float2 plus = job.plus ? d_muon_unpair(*reinterpret_cast<const uint32_t *>(job.plus + at)) : make_float2(0, 0);
            *reinterpret_cast<uint32_t *>(job.out + at) = d_muon_pair(job.add * plus.x + job.scale * x, job.add * plus.y + job.scale * y);
        }
}

/* A thread 4 elements of `outer`, each the sum of its shares in their order. */
static __global__ void __launch_bounds__(K_OPT_THREADS) k_muon_gather(const k_muon_matrix *matrices, int count) {
    int block;
    const k_muon_matrix &m = d_muon_find(matrices, count, K_MUON_GATHER, &block);
    const int64_t at = 4 * ((int64_t)block * K_OPT_THREADS + threadIdx.x), square = (int64_t)m.side * m.side;
    if (at >= square) return;
    float4 sum = *reinterpret_cast<const float4 *>(m.partial + at);
    for (int i = 1; i < m.splits; i++) {
        const float4 more = *reinterpret_cast<const float4 *>(m.partial + i * square + at);
        sum = make_float4(sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w);
    }
    *reinterpret_cast<uint2 *>(m.outer + at) = make_uint2(d_muon_pair(sum.x, sum.y), d_muon_pair(sum.z, sum.w));
}

/* Thread t of a matrix takes elements t, t + all, ...: momentum, `next` = bf16(Nesterov's combination) as the parameters lie, and its
   squares, summed by block. */
static __global__ void __launch_bounds__(K_OPT_THREADS)
k_muon_momentum(const k_muon_matrix *matrices, int count, float *momentum, const float *gradients, const yg_decision *decision, const k_muon_rates rates) {
    int block;
    const k_muon_matrix &m = d_muon_find(matrices, count, K_MUON_MOMENTUM, &block);
    const int64_t elements = (int64_t)m.rows * m.columns;
    const float clip = decision->clip;
    double sum = 0;
    if (!decision->taken) return;
    for (int64_t i = (int64_t)block * K_OPT_THREADS + threadIdx.x; i < elements; i += (int64_t)m.parts * K_OPT_THREADS) {
        const k_bf16 x = __float2bfloat16_rn(d_muon_combine(momentum + m.offset + i, gradients[m.offset + i], clip, rates.beta, rates.rest));
        m.next[i] = x;
        sum += (double)__bfloat162float(x) * (double)__bfloat162float(x);
    }
    sum = d_opt_block_sum(sum);
    if (threadIdx.x == 0) m.squares[block] = sum;
}

/* `matrix` = `next` over its norm, the shorter side first, zeros around it. A block 32x32 of it, 32x8 threads. Every block adds up the
   sums of squares anew. */
static __global__ void __launch_bounds__(K_OPT_THREADS) k_muon_begin(const k_muon_matrix *matrices, int count) {
    __shared__ k_bf16 tile[K_MUON_SQUARE][K_MUON_SQUARE + 2];
    int block;
    const k_muon_matrix &m = d_muon_find(matrices, count, K_MUON_BEGIN, &block);
    const int x = threadIdx.x % K_MUON_SQUARE, step = K_OPT_THREADS / K_MUON_SQUARE;
    const int across = block % (m.other / K_MUON_SQUARE) * K_MUON_SQUARE, down = block / (m.other / K_MUON_SQUARE) * K_MUON_SQUARE;
    const bool tall = m.rows > m.columns;
    const float norm = d_muon_norm(d_opt_block_sum((int)threadIdx.x < m.parts ? m.squares[threadIdx.x] : 0.0));
    const int row = tall ? across : down, column = tall ? down : across;
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step) {
        const bool there = row + y < m.rows && column + x < m.columns;
        tile[y][x] = __float2bfloat16_rn(there ? __bfloat162float(m.next[(int64_t)(row + y) * m.columns + column + x]) / norm : 0.0f);
    }
    __syncthreads();
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step)
        m.matrix[(int64_t)(down + y) * m.other + across + x] = tall ? tile[x][y] : tile[y][x];
}

/* params -= lr * what the matrix has become, in `next` after an odd number of iterations. A block 32x32 of the parameters, 32x8
   threads. */
static __global__ void __launch_bounds__(K_OPT_THREADS)
k_muon_end(const k_muon_matrix *matrices, int count, float *params, const yg_decision *decision, const k_muon_rates rates) {
    __shared__ k_bf16 tile[K_MUON_SQUARE][K_MUON_SQUARE + 2];
    static_assert(K_MUON_STEPS % 2 == 1, "the last iteration writes `next`");
    int block;
    const k_muon_matrix &m = d_muon_find(matrices, count, K_MUON_END, &block);
    const int x = threadIdx.x % K_MUON_SQUARE, step = K_OPT_THREADS / K_MUON_SQUARE, across = (m.columns + K_MUON_SQUARE - 1) / K_MUON_SQUARE;
    const int row = block / across * K_MUON_SQUARE, column = block % across * K_MUON_SQUARE;
    const bool tall = m.rows > m.columns;
    const k_bf16 *const corner = m.next + (tall ? (int64_t)column * m.other + row : (int64_t)row * m.other + column);
    const float lr = rates.lr[m.group];
    if (!decision->taken) return;
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step) tile[y][x] = corner[(int64_t)y * m.other + x];
    __syncthreads();
    for (int y = threadIdx.x / K_MUON_SQUARE; y < K_MUON_SQUARE; y += step)
        if (row + y < m.rows && column + x < m.columns)
            params[m.offset + (int64_t)(row + y) * m.columns + column + x] -= lr * __bfloat162float(tall ? tile[x][y] : tile[y][x]);
}

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

/* A block of 512 threads a matrix, from gradients to parameters; thread t has elements t, t + 512, ... Twin: opt_muon_row. */
template <bool bf16>
static __global__ void __launch_bounds__(K_MUON_SMALL_THREADS)
k_muon_small(const k_muon_matrix *matrices, float *params, float *momentum, const float *gradients, const yg_decision *decision, const k_muon_rates rates) {
    K_SHARED(k_bf16, x);
    const k_muon_matrix &m = matrices[blockIdx.x];
    const int side = m.side, pitch = m.other + 8, square = side * (side + 8), columns = m.columns, count = m.rows * columns;
    k_bf16 *const outer = x + side * pitch, *const mixed = outer + square;
    const bool tall = m.rows > columns;
    const int down = tall ? 1 : pitch, across = tall ? pitch : 1; /* from row to row and column to column of the parameters */
    const float clip = decision->clip;
    double squares = 0;
    if (!decision->taken) return;
    for (int i = threadIdx.x; i < side * pitch / 2; i += K_MUON_SMALL_THREADS) reinterpret_cast<uint32_t *>(x)[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += K_MUON_SMALL_THREADS) {
        const k_bf16 value = __float2bfloat16_rn(d_muon_combine(momentum + m.offset + i, gradients[m.offset + i], clip, rates.beta, rates.rest));
        x[i / columns * down + i % columns * across] = value;
        squares += (double)__bfloat162float(value) * (double)__bfloat162float(value);
    }
    const float norm = d_muon_norm(d_opt_block_sum(squares));
    for (int i = threadIdx.x; i < count; i += K_MUON_SMALL_THREADS) {
        k_bf16 *const value = x + i / columns * down + i % columns * across;
        *value = __float2bfloat16_rn(__bfloat162float(*value) / norm);
    }
    __syncthreads();
    for (int i = 0; i < K_MUON_STEPS; i++) {
        d_muon_square<bf16>(outer, x, x, NULL, side, m.other, pitch, 0, 1);
        __syncthreads();
        d_muon_square<bf16>(mixed, outer, outer, outer, side, side, side + 8, K_MUON_B, K_MUON_C);
        __syncthreads();
        d_muon_advance<bf16>(x, mixed, side, m.other);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count; i += K_MUON_SMALL_THREADS)
        params[m.offset + i] -= rates.lr[m.group] * __bfloat162float(x[i / columns * down + i % columns * across]);
}

/* Matrices that go together: rows of the table, and the blocks of each launch. */
struct k_muon_round { int first, count, blocks[K_MUON_LAUNCHES]; };

struct yg_muon_plan {
    k_muon_matrix *matrices, *table; /* on the host and on the device: those of one block each before all others */
    k_muon_round *rounds;            /* of the others */
    int count, small_count, round_count;
    size_t small_bytes;              /* of shared memory, the most that one of them takes */
    uint8_t *workspace;
    size_t bytes;                    /* of the workspace, the most that a round takes */
};

static int k_muon_round_up(int x, int step) { return (x + step - 1) / step * step; }

/* Shared memory for the row as one block's work, 0 where it is none; sets the padded sides. */
static size_t k_muon_small_bytes(const yg_gpu *gpu, k_muon_matrix *m) {
    m->side = k_muon_round_up(k_min(m->rows, m->columns), 16);
    m->other = k_muon_round_up(k_max(m->rows, m->columns), 16);
    const int64_t bytes = ((int64_t)m->side * (m->other + 8) + 2 * (int64_t)m->side * (m->side + 8)) * (int64_t)sizeof(k_bf16);
    return m->side > K_MUON_SMALL_SIDE || bytes > K_MUON_SMALL_BYTES || bytes + 1024 > (int64_t)gpu->shared_most ? 0 : (size_t)bytes;
}

/* Lays a matrix out from byte `at` of the workspace on; returns where the next one begins. */
static size_t k_muon_lay_out(k_muon_matrix *m, uint8_t *workspace, size_t at) {
    const int64_t elements = (int64_t)m->rows * m->columns;
    m->side = k_muon_round_up(k_min(m->rows, m->columns), K_MUON_TILE);
    m->other = k_muon_round_up(k_max(m->rows, m->columns), K_MUON_TILE);
    m->parts = (int)k_min(k_ceil_div(elements, 4 * K_OPT_THREADS), (int64_t)K_MUON_BLOCKS);
    m->splits = k_max(1, k_min((int)K_MUON_SPLITS, m->other / K_MUON_SPLIT_DEPTH));
    const size_t matrix = (size_t)m->side * (size_t)m->other, square = (size_t)m->side * (size_t)m->side;
    const size_t bytes = (2 * matrix + 2 * square) * sizeof(k_bf16) + K_MUON_BLOCKS * sizeof(double) + (m->splits > 1 ? (size_t)m->splits * square * sizeof(float) : 0);
    if (workspace) {
        m->matrix = reinterpret_cast<k_bf16 *>(workspace + at);
        m->next = m->matrix + matrix;
        m->outer = m->next + matrix;
        m->mixed = m->outer + square;
        m->squares = reinterpret_cast<double *>(m->mixed + square);
        m->partial = reinterpret_cast<float *>(m->squares + K_MUON_BLOCKS);
    }
    return at + bytes;
}

/* Appends a matrix to a round. */
static void k_muon_join(k_muon_round *round, k_muon_matrix *m) {
    const int tiles = m->side / K_MUON_TILE, squares = m->side / K_MUON_SQUARE;
    const int blocks[K_MUON_LAUNCHES] = {
        m->parts, m->other / K_MUON_SQUARE * squares, tiles * tiles * m->splits, m->splits > 1 ? (int)k_ceil_div((int64_t)m->side * m->side, 4 * K_OPT_THREADS) : 0,
        tiles * tiles, m->other / K_MUON_TILE * tiles, (int)(k_ceil_div(m->rows, K_MUON_SQUARE) * k_ceil_div(m->columns, K_MUON_SQUARE))};
    for (int i = 0; i < K_MUON_LAUNCHES; i++) {
        m->first[i] = round->blocks[i];
        round->blocks[i] += blocks[i];
    }
    round->count++;
}

/* The rows into the table, those that are one block's work in front. */
static void k_muon_sort(const yg_gpu *gpu, yg_muon_plan *plan, const yg_muon_row *rows, int count) {
    for (int large = 0; large < 2; large++)
        for (int i = 0; i < count; i++) {
            k_muon_matrix *const m = &plan->matrices[plan->count];
            *m = k_muon_matrix();
            m->offset = rows[i].offset;
            m->rows = rows[i].rows;
            m->columns = rows[i].columns;
            m->group = rows[i].group;
            const size_t bytes = k_muon_small_bytes(gpu, m);
            if ((bytes == 0) != (large == 1)) continue;
            plan->count++;
            if (!large) plan->small_count++;
            plan->small_bytes = k_max(plan->small_bytes, bytes);
        }
}

/* Divides the larger matrices into rounds of at most `most` bytes; their places are in `workspace`, NULL = only counts. */
static void k_muon_divide(yg_muon_plan *plan, size_t most, uint8_t *workspace) {
    size_t at = 0;
    plan->round_count = 0;
    plan->bytes = 0;
    for (int i = plan->small_count; i < plan->count; i++) {
        k_muon_matrix *const m = &plan->matrices[i];
        if (!plan->round_count || k_muon_lay_out(m, NULL, at) > most) {
            at = 0;
            plan->rounds[plan->round_count] = k_muon_round();
            plan->rounds[plan->round_count++].first = i;
        }
        at = k_muon_lay_out(m, workspace, at);
        plan->bytes = k_max(plan->bytes, at);
        k_muon_join(&plan->rounds[plan->round_count - 1], m);
    }
}

static void k_muon_free(yg_muon_plan *plan) {
    free(plan->matrices);
    free(plan->rounds);
    free(plan);
}

/* A plan without device memory; NULL for want of memory. */
static yg_muon_plan *k_muon_plan_of(const yg_gpu *gpu, const yg_muon_row *rows, int count, size_t most) {
    yg_muon_plan *plan = static_cast<yg_muon_plan *>(calloc(1, sizeof *plan));
    if (!plan) return NULL;
    plan->matrices = static_cast<k_muon_matrix *>(calloc((size_t)count + 1, sizeof *plan->matrices)); /* k_muon_sort looks at one more */
    plan->rounds = static_cast<k_muon_round *>(calloc((size_t)count + 1, sizeof *plan->rounds));
    if (plan->matrices && plan->rounds) {
        k_muon_sort(gpu, plan, rows, count);
        k_muon_divide(plan, most, NULL);
        return plan;
    }
    k_muon_free(plan);
    return NULL;
}

size_t yg_muon_bytes(const yg_gpu *gpu, const yg_muon_row *rows, int count, size_t most) {
    yg_muon_plan *plan = k_muon_plan_of(gpu, rows, count, most);
    const size_t bytes = plan ? plan->bytes + (size_t)count * sizeof *plan->table : 0;
    if (plan) k_muon_free(plan);
    return bytes;
}

yg_muon_plan *yg_muon_open(yg_gpu *gpu, const yg_muon_row *rows, int count, size_t most) {
    if (gpu->error) return NULL;
    yg_muon_plan *plan = k_muon_plan_of(gpu, rows, count, most);
    if (!plan) {
        k_fail(gpu, (int)cudaErrorMemoryAllocation, "GPU %d: no host memory for a plan of %d matrices", gpu->index, count);
        return NULL;
    }
    const int shared = (int)k_min((size_t)K_MUON_SMALL_BYTES, gpu->shared_most - 1024);
    plan->table = static_cast<k_muon_matrix *>(yg_alloc(gpu, (size_t)count * sizeof *plan->table));
    plan->workspace = static_cast<uint8_t *>(yg_alloc(gpu, plan->bytes));
    if (!gpu->error) k_muon_divide(plan, most, plan->workspace);
    k_good(gpu, cudaFuncSetAttribute(gpu->compute >= 80 ? k_muon_small<true> : k_muon_small<false>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
           "shared memory for MuSGD");
    yg_upload(gpu, plan->table, plan->matrices, (size_t)count * sizeof *plan->table);
    if (!yg_finish(gpu, NULL, 0)) return plan;
    yg_muon_close(gpu, plan);
    return NULL;
}

void yg_muon_close(yg_gpu *gpu, yg_muon_plan *plan) {
    if (!plan) return;
    yg_free(gpu, plan->table);
    yg_free(gpu, plan->workspace);
    k_muon_free(plan);
}

template <bool bf16>
static void k_muon_run(yg_gpu *gpu, const k_muon_matrix *table, const k_muon_round &round, float *params, float *momentum, const float *gradients,
                       const yg_decision *decision, const k_muon_rates &rates) {
    const k_muon_matrix *const m = table + round.first;
    const int *const blocks = round.blocks, n = round.count;
    K_LAUNCH(k_muon_momentum, blocks[K_MUON_MOMENTUM], K_OPT_THREADS, 0, gpu->stream, m, n, momentum, gradients, decision, rates);
    K_LAUNCH(k_muon_begin, blocks[K_MUON_BEGIN], K_OPT_THREADS, 0, gpu->stream, m, n);
    for (int i = 0; i < K_MUON_STEPS; i++) {
        K_LAUNCH((k_muon_product<bf16, true>), blocks[K_MUON_OUTER], K_MUON_THREADS, 0, gpu->stream, m, n, K_MUON_OUTER, i);
        if (blocks[K_MUON_GATHER]) K_LAUNCH(k_muon_gather, blocks[K_MUON_GATHER], K_OPT_THREADS, 0, gpu->stream, m, n);
        K_LAUNCH((k_muon_product<bf16, true>), blocks[K_MUON_MIXED], K_MUON_THREADS, 0, gpu->stream, m, n, K_MUON_MIXED, i);
        K_LAUNCH((k_muon_product<bf16, false>), blocks[K_MUON_ONWARDS], K_MUON_THREADS, 0, gpu->stream, m, n, K_MUON_ONWARDS, i);
    }
    K_LAUNCH(k_muon_end, blocks[K_MUON_END], K_OPT_THREADS, 0, gpu->stream, m, n, params, decision, rates);
}

void yg_muon(yg_gpu *gpu, const yg_muon_plan *plan, float *params, float *momentum, const float *gradients, const yg_decision *decision, float beta,
             const float *lr, int groups) {
    if (gpu->error) return;
    if (groups < 0 || groups > K_OPT_GROUPS) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: %d groups of parameters, at most %d", gpu->index, groups, (int)K_OPT_GROUPS);
        return;
    }
    const bool bf16 = gpu->compute >= 80;
    k_muon_rates rates = {beta, (float)(1 - (double)beta), {}};
    for (int i = 0; i < groups; i++) rates.lr[i] = lr[i];
    const auto small_kernel = bf16 ? k_muon_small<true> : k_muon_small<false>;
    if (plan->small_count)
        K_LAUNCH(small_kernel, plan->small_count, K_MUON_SMALL_THREADS, plan->small_bytes, gpu->stream, plan->table, params,
                 momentum, gradients, decision, rates);
    for (int i = 0; i < plan->round_count; i++) {
        if (bf16) k_muon_run<true>(gpu, plan->table, plan->rounds[i], params, momentum, gradients, decision, rates);
        else k_muon_run<false>(gpu, plan->table, plan->rounds[i], params, momentum, gradients, decision, rates);
    }
    k_launched(gpu, "orthogonal update");
}

/* ==== K13 k_ d_ yg_: augmentation and letterbox from decoded pictures ================================================
   A batch's pictures in one pass: flip, up to three views (each one picture or a mosaic of four, through its matrix), blend,
   cut, colours. Nothing between the decoded pictures and the batch's bytes is ever in memory.
   1. The bytes are the CPU's: positions, weights and colours are made by the same operations in the same order, each rounded,
      none contracted, so that a training does not depend on where its pictures are made.
   2. A pixel is a function of its scene and its place alone; tiles of a view do not overlap.
   3. Doubles, slow on most devices, are for a row's start and for mixup. */

enum { K_AUGMENT_ROWS = 8, K_AUGMENT_ONE = 2048 };

static constexpr unsigned K_AUGMENT_GRAY = 0x727272; /* the border */

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
    const unsigned next = __shfl_down_sync(K_ALL_LANES, pixel, 1);
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
    k_amount(gpu, 2 * 3.0 * n * h * w, 0);
    k_launched(gpu, "pictures of a batch");
}

/* Letterbox: a decoded picture, resized as OpenCV does it in fixed point, into the network's input, in a border of gray. The
   numbers are img_letterbox_run's: positions are rounded as there, all else is integers up to the division by 255. */

enum { K_LETTERBOX_ROWS = 8, K_LETTERBOX_SIDE = 32 };

/* Where a position samples an axis: `at` and its neighbour, with weights that add up to K_AUGMENT_ONE. As img_tap. */
struct d_letterbox_tap { int at, next, low, high; };

static __device__ __forceinline__ d_letterbox_tap d_letterbox_tap_of(int position, double step) {
    const float at = (float)__dadd_rn(__dmul_rn((double)position + 0.5, step), -0.5);
    const int low = __float2int_rd(at);
    const float part = at - (float)low;
    return d_letterbox_tap{low, low + 1, __float2int_rn((1.0f - part) * K_AUGMENT_ONE), __float2int_rn(part * K_AUGMENT_ONE)};
}

/* Along x a position beyond the edge takes the edge's pixel alone. */
static __device__ __forceinline__ d_letterbox_tap d_letterbox_column(int x, double step, int width) {
    const d_letterbox_tap tap = d_letterbox_tap_of(x, step);
    if (tap.at >= 0 && tap.at < width - 1) return tap;
    const int edge = tap.at < 0 ? 0 : width - 1;
    return d_letterbox_tap{edge, edge, K_AUGMENT_ONE, 0};
}

/* Along y both rows are moved to the edge and keep their weights. */
static __device__ __forceinline__ d_letterbox_tap d_letterbox_row(int y, double step, int height) {
    d_letterbox_tap tap = d_letterbox_tap_of(y, step);
    tap.at = min(max(tap.at, 0), height - 1);
    tap.next = min(max(tap.next, 0), height - 1);
    return tap;
}

/* As img_tile_row, and where `halved` as img_tile_halve. */
static __device__ __forceinline__ unsigned d_letterbox_pixel(const yg_letterbox &l, const d_letterbox_tap &x, const d_letterbox_tap &y, bool halved) {
    unsigned a, b, c, d, pixel = 0;
    d_augment_two(l.pixels + ((int64_t)y.at * l.width + x.at) * 3, &a, &b);
    d_augment_two(l.pixels + ((int64_t)y.next * l.width + x.at) * 3, &c, &d);
#pragma unroll
    for (int i = 0; i < 3; i++) {
        const int p = d_augment_channel(a, i), q = d_augment_channel(b, i), r = d_augment_channel(c, i), s = d_augment_channel(d, i);
        const int upper = (p * x.low + q * x.high) >> 4, lower = (r * x.low + s * x.high) >> 4;
        const int mixed = (((upper * y.low) >> 16) + ((lower * y.high) >> 16) + 2) >> 2;
        pixel |= (unsigned)(halved ? (p + q + r + s + 2) >> 2 : mixed) << 8 * i;
    }
    return pixel;
}

/* Grid (columns / 32, rows / 32, pictures); a thread is a column of a block's square and every eighth row of it; the positions
   of columns and rows are worked out once a block. Twin: img_letterbox_run. */
template <typename T, int V>
static __global__ void __launch_bounds__(K_WARP *K_LETTERBOX_ROWS) k_letterbox(k_ten<T> out, const yg_letterbox *__restrict__ letterboxes) {
    __shared__ d_letterbox_tap columns[K_LETTERBOX_SIDE], rows[K_LETTERBOX_SIDE];
    const yg_letterbox l = letterboxes[blockIdx.z];
    const int lane = (int)threadIdx.x, x = (int)blockIdx.x * K_LETTERBOX_SIDE + lane, top = (int)blockIdx.y * K_LETTERBOX_SIDE;
    const bool halved = l.width == 2 * l.scaled_width && l.height == 2 * l.scaled_height;
    if (threadIdx.y == 0) columns[lane] = d_letterbox_column(x - l.pad_left, l.step_x, l.width);
    if (threadIdx.y == 1) rows[lane] = d_letterbox_row(top + lane - l.pad_top, l.step_y, l.height);
    __syncthreads();
    for (int row = (int)threadIdx.y; row < K_LETTERBOX_SIDE; row += K_LETTERBOX_ROWS) {
        const int y = top + row, across = x - l.pad_left, down = y - l.pad_top;
        if (x >= out.w || y >= out.h) continue;
        unsigned pixel = K_AUGMENT_GRAY;
        if (across >= 0 && across < l.scaled_width && down >= 0 && down < l.scaled_height) pixel = d_letterbox_pixel(l, columns[lane], rows[row], halved);
        float rgb[V < 3 ? 3 : V] = {};
#pragma unroll
        for (int c = 0; c < 3; c++) rgb[c] = d_pixels_share((uint8_t)d_augment_channel(pixel, c));
        d_pixels_store<T, V>(out.data + (((int64_t)blockIdx.z * out.h + y) * out.w + x) * out.pixel, rgb, out.c);
    }
}

template <typename T, int V> static void k_letterbox_launch(yg_gpu *gpu, const yg_ten *out, const yg_letterbox *letterboxes) {
    const dim3 grid((unsigned)k_ceil_div(out->w, K_LETTERBOX_SIDE), (unsigned)k_ceil_div(out->h, K_LETTERBOX_SIDE), (unsigned)out->n);
    K_LAUNCH((k_letterbox<T, V>), grid, dim3(K_WARP, K_LETTERBOX_ROWS), 0, gpu->stream, k_view<T>(out), letterboxes);
}

void yg_letterbox_run(yg_gpu *gpu, const yg_ten *out, const yg_letterbox *letterboxes) {
    if (gpu->error) return;
    if (out->c < 3 || out->n > 65535) {
        k_fail(gpu, (int)cudaErrorInvalidValue, "GPU %d: letterbox of %d pictures into %d channels", gpu->index, out->n, out->c);
        return;
    }
    K_BY_VECTOR(out->type, k_is_aligned(out), k_letterbox_launch, gpu, out, letterboxes);
    k_amount(gpu, 2 * k_bytes(out), 0);
    k_launched(gpu, "letterbox");
}

/* ==== K14 k_ d_ yg_: peaks of the device ==============================================================================
   What other kernels are held to: not what a data sheet says, but what a kernel reaches that does nothing else, on this device, at
   the clock it has now. Memory: a copy that the second cache does not help. Products: out of registers, as many at a time as the
   unit takes. The shortest of some runs counts. */

enum {
    K_PEAK_THREADS = 256,
    K_PEAK_VECTORS = 4,  /* of 16 bytes, that a thread of the copy has on their way */
    K_PEAK_CHAINS = 8,   /* products of a warp that do not wait for each other */
    K_PEAK_RUNS = 8,
#ifdef __CUDACC__
    K_PEAK_ROUNDS = 4096 /* of all chains */
#else
    K_PEAK_ROUNDS = 1    /* the emulation takes its time */
#endif
};

/* A block copies K_PEAK_VECTORS pieces of K_PEAK_THREADS vectors. */
static __global__ void __launch_bounds__(K_PEAK_THREADS) k_peak_copy(uint4 *to, const uint4 *from) {
    const int64_t at = (int64_t)blockIdx.x * K_PEAK_THREADS * K_PEAK_VECTORS + threadIdx.x;
    uint4 vector[K_PEAK_VECTORS];
#pragma unroll
    for (int i = 0; i < K_PEAK_VECTORS; i++) vector[i] = from[at + i * K_PEAK_THREADS];
#pragma unroll
    for (int i = 0; i < K_PEAK_VECTORS; i++) to[at + i * K_PEAK_THREADS] = vector[i];
}

/* Products of 16 x 16 by 16 x 8 in each warp. The sums are only kept where they are what they never are. */
template <typename T> static __global__ void __launch_bounds__(K_PEAK_THREADS) k_peak_cores(float *kept, unsigned seed) {
    float sums[K_PEAK_CHAINS][4] = {};
    uint32_t a[4], b[2];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = (seed * (threadIdx.x + 7 * i + 1) & 0x03ff03ff) | 0x2c002c00; /* halves of 1/16 to 1/8 */
#pragma unroll
    for (int i = 0; i < 2; i++) b[i] = (a[i] ^ 0x01230123) | 0x80000000;
#pragma unroll 1
    for (int round = 0; round < K_PEAK_ROUNDS; round++)
#pragma unroll
        for (int i = 0; i < K_PEAK_CHAINS; i++) d_conv_mma(sums[i], a, b, T());
    float sum = 0;
#pragma unroll
    for (int i = 0; i < K_PEAK_CHAINS; i++) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    if (sum == 1.25e30f) kept[blockIdx.x] = sum;
}

/* The same of single floats: four to a chain, as many as the sums above. */
static __global__ void __launch_bounds__(K_PEAK_THREADS) k_peak_floats(float *kept, float seed) {
    float sums[K_PEAK_CHAINS][4] = {}, a[4];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = seed * (float)(threadIdx.x + i);
#pragma unroll 1
    for (int round = 0; round < K_PEAK_ROUNDS; round++)
#pragma unroll
        for (int i = 0; i < K_PEAK_CHAINS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][j] = fmaf(sums[i][j], seed, a[j]);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < K_PEAK_CHAINS; i++) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    if (sum == 1.25e30f) kept[blockIdx.x] = sum;
}

/* The shortest time of a launch in ms, the first one left out; 0 on failure. */
template <typename F> static double k_peak_time(yg_gpu *gpu, F launch) {
    const yg_call *calls;
    double best = 0;
    yg_watch(gpu, K_PEAK_RUNS + 1);
    for (int i = 0; i <= K_PEAK_RUNS; i++) {
        launch();
        k_launched(gpu, "a peak");
    }
    const int count = yg_watched(gpu, &calls);
    for (int i = 1; i < count; i++)
        if (calls[i].ms > 0 && (best <= 0 || calls[i].ms < best)) best = calls[i].ms;
    yg_watch(gpu, 0);
    return best;
}

/* Bytes a second that a copy of several times the second cache reads and writes. */
static double k_peak_copies(yg_gpu *gpu) {
    const size_t block = sizeof(uint4) * K_PEAK_THREADS * K_PEAK_VECTORS, least = (size_t)32 << 20;
    int cache = 0;
    if (!k_good(gpu, cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, gpu->index), "the cache's size cannot be read")) return 0;
    const size_t blocks = k_max(least, 4 * (size_t)cache) / block;
    uint4 *const from = static_cast<uint4 *>(yg_alloc(gpu, blocks * block)), *const to = static_cast<uint4 *>(yg_alloc(gpu, blocks * block));
    if (from && to) yg_clear(gpu, from, blocks * block);
    const double ms = gpu->error ? 0 : k_peak_time(gpu, [=]() { K_LAUNCH(k_peak_copy, dim3((unsigned)blocks), K_PEAK_THREADS, 0, gpu->stream, to, from); });
    yg_free(gpu, from);
    yg_free(gpu, to);
    return ms > 0 ? 2 * (double)(blocks * block) / ms * 1000 : 0;
}

/* Products and sums a second. */
static double k_peak_products(yg_gpu *gpu, yg_type type) {
    const bool cores = type != YG_F32 && gpu->compute >= (type == YG_F16 ? 75 : 80);
    const unsigned blocks = (unsigned)gpu->multiprocessors * 8;
    float *const kept = static_cast<float *>(gpu->scratch);
    const double threads = (double)blocks * K_PEAK_THREADS, rounds = (double)K_PEAK_ROUNDS * K_PEAK_CHAINS;
    const double flops = cores ? threads / K_WARP * rounds * 2 * 16 * 8 * 16 : threads * rounds * 2 * 4;
    const double ms = k_peak_time(gpu, [=]() {
        if (!cores) K_LAUNCH(k_peak_floats, dim3(blocks), K_PEAK_THREADS, 0, gpu->stream, kept, 0.5f);
        else if (type == YG_F16) K_LAUNCH(k_peak_cores<__half>, dim3(blocks), K_PEAK_THREADS, 0, gpu->stream, kept, 2654435761u);
        else K_LAUNCH(k_peak_cores<__nv_bfloat16>, dim3(blocks), K_PEAK_THREADS, 0, gpu->stream, kept, 2654435761u);
    });
    return ms > 0 ? flops / ms * 1000 : 0;
}

void yg_measure_peaks(yg_gpu *gpu, yg_type type, yg_peaks *peaks) {
    *peaks = yg_peaks();
    if (gpu->error) return;
    peaks->copies = k_peak_copies(gpu);
    peaks->products = k_peak_products(gpu, type);
}

/* ==== K16 k_ d_ yg_: sums over several devices =======================================================================
   The ranks of a team, each with a thread and a yg_gpu, add up what they have in device memory, beside the work on their streams.

   Directly: each rank adds up its segment of all ranks' values, which it reads where they are, and writes the sum into all of them.
   That moves as much as a ring does, in one step instead of 2 (N - 1), and adds in the order of the ranks.
   Through host memory, for devices that do not reach one another: a chunk at a time, each rank copies its values into pinned memory,
   adds up its segment of all ranks' from there, and fetches the other segments. Small chunks are added up whole by everyone.
   Both give the bits of the host threads' sums, see com_ in yolo.c. By a library: what it makes of it.

   A turn is a sum, or a chunk of one. Turns use two streams and pinned chunks alternately, so that two are on their way. Streams
   wait for other ranks' events, and an event can only be waited for when it has been recorded: so the threads meet in between, which
   takes no device's time. What a rank has set up for a turn is written again two turns later, when all have come to the turn between.
   No kernel waits for another device in a loop: a rank that fails leaves none behind that hangs.
   Guessed, to be measured: size of the chunks, number of threads, what is small. */

enum {
    K_TEAM_EACH = 4,          /* loads of a thread on their way, times the ranks */
    K_TEAM_PATTERN = 300007,  /* floats that prove a way */
    K_TEAM_PATIENCE = 5       /* seconds until a device that does not answer is given up */
};

/* What one rank has of a team. */
struct k_member {
    yg_gpu *gpu;
    cudaStream_t streams[YG_TEAM_SLOTS];
    cudaEvent_t filled;                 /* the values to be summed are there */
    cudaEvent_t ready[YG_TEAM_SLOTS];    /* and may be read by the others */
    cudaEvent_t summed[YG_TEAM_SLOTS];   /* the segment is added up */
    cudaEvent_t fetched[YG_TEAM_SLOTS];  /* nothing more is read of others' pinned memory */
    cudaEvent_t done[YG_TEAM_SLOTS];     /* of all sums begun */
    unsigned char *chunks[YG_TEAM_SLOTS]; /* pinned */
    void *values[YG_TEAM_SLOTS];
    unsigned turn;
};

struct yg_team {
    yg_team_plan plan;
    bool hangs; /* a device does not answer */
    k_member members[YG_RANKS];
};

struct k_team_views { const void *in[YG_RANKS]; void *out[YG_RANKS]; int ins, outs; };

/* out[..][i] = in[0][i] + in[1][i] + ...; an `out` may be an `in`. A thread: K_TEAM_EACH elements of a round. Twin: com_add_float. */
template <typename T> static __global__ void __launch_bounds__(YG_TEAM_THREADS) k_team_sum(const K_CONSTANT k_team_views views, int64_t count) {
    const int64_t round = (int64_t)gridDim.x * YG_TEAM_THREADS * K_TEAM_EACH;
    for (int64_t at = (int64_t)blockIdx.x * YG_TEAM_THREADS * K_TEAM_EACH + threadIdx.x; at < count; at += round) {
        T sums[K_TEAM_EACH], more[K_TEAM_EACH];
        for (int rank = 0; rank < views.ins; rank++) {
            const T *in = static_cast<const T *>(views.in[rank]);
#pragma unroll
            for (int j = 0; j < K_TEAM_EACH; j++)
                if (at + j * YG_TEAM_THREADS < count) more[j] = in[at + j * YG_TEAM_THREADS];
#pragma unroll
            for (int j = 0; j < K_TEAM_EACH; j++) sums[j] = rank ? sums[j] + more[j] : more[j];
        }
        for (int rank = 0; rank < views.outs; rank++) {
            T *out = static_cast<T *>(views.out[rank]);
#pragma unroll
            for (int j = 0; j < K_TEAM_EACH; j++)
                if (at + j * YG_TEAM_THREADS < count) out[at + j * YG_TEAM_THREADS] = sums[j];
        }
    }
}

static cudaError_t k_team_launch(const k_team_views &views, int64_t count, bool wide, cudaStream_t stream) {
    const unsigned blocks = (unsigned)k_min(k_ceil_div(count, YG_TEAM_THREADS * K_TEAM_EACH), (int64_t)YG_TEAM_BLOCKS);
    if (!count) return cudaSuccess;
    if (wide) K_LAUNCH(k_team_sum<double>, dim3(blocks), YG_TEAM_THREADS, 0, stream, views, count);
    else K_LAUNCH(k_team_sum<float>, dim3(blocks), YG_TEAM_THREADS, 0, stream, views, count);
    return cudaGetLastError();
}

/* ---- do devices read and write each other's memory, and correctly? */

/* Waits for a stream, but not for ever. */
static cudaError_t k_team_await(yg_team *team, k_member *member, cudaStream_t stream) {
    const time_t start = time(NULL);
    cudaError_t error = cudaEventRecord(member->done[0], stream);
    if (error != cudaSuccess) return error;
    while ((error = cudaEventQuery(member->done[0])) == cudaErrorNotReady && difftime(time(NULL), start) <= K_TEAM_PATIENCE) {}
    team->hangs = error == cudaErrorNotReady;
    (void)cudaGetLastError();
    return error;
}

/* Lets two devices reach each other's memory. */
static bool k_team_connect(int from, int to, char *reason, size_t reason_size) {
    int direct = 0;
    cudaError_t error = cudaDeviceCanAccessPeer(&direct, from, to);
    if (error == cudaSuccess && !direct) {
        snprintf(reason, reason_size, "GPU %d does not reach the memory of GPU %d", from, to);
        return false;
    }
    if (error == cudaSuccess) error = cudaSetDevice(from);
    if (error == cudaSuccess) error = cudaDeviceEnablePeerAccess(to, 0);
    (void)cudaGetLastError();
    if (error == cudaSuccess || error == cudaErrorPeerAccessAlreadyEnabled) return true;
    char what[80];
    snprintf(what, sizeof what, "GPU %d may not reach the memory of GPU %d", from, to);
    k_reason(error, what, reason, reason_size);
    return false;
}

/* Whole numbers that a float holds, also when those of all ranks are added. */
static float k_team_pattern(int which, int i) { return (float)(((unsigned)i * 2654435761u >> 11) + (unsigned)which); }

/* A rank's part of a proof: values, and where sums go. */
struct k_proof { float *values, *sums, *host; };

/* Values and an empty place for sums, on the member's device. */
static cudaError_t k_proof_make(yg_team *team, k_member *m, k_proof *proof, int which) {
    const size_t bytes = K_TEAM_PATTERN * sizeof(float);
    proof->host = static_cast<float *>(malloc(bytes));
    if (!proof->host) return cudaErrorMemoryAllocation;
    for (int i = 0; i < K_TEAM_PATTERN; i++) proof->host[i] = k_team_pattern(which, i);
    cudaError_t error = cudaSetDevice(m->gpu->index);
    if (error == cudaSuccess) error = cudaMalloc(reinterpret_cast<void **>(&proof->values), bytes);
    if (error == cudaSuccess) error = cudaMalloc(reinterpret_cast<void **>(&proof->sums), bytes);
    if (error == cudaSuccess) error = cudaMemcpyAsync(proof->values, proof->host, bytes, cudaMemcpyHostToDevice, m->streams[0]);
    if (error == cudaSuccess) error = cudaMemsetAsync(proof->sums, 0, bytes, m->streams[0]);
    return error == cudaSuccess ? k_team_await(team, m, m->streams[0]) : error;
}

static void k_proof_free(const yg_team *team, const k_member *m, k_proof *proof) {
    if (team->hangs) return; /* whoever frees would wait */
    (void)cudaSetDevice(m->gpu->index);
    if (proof->values) (void)cudaFree(proof->values);
    if (proof->sums) (void)cudaFree(proof->sums);
    free(proof->host);
    (void)cudaGetLastError();
}

/* The numbers that are wrong where rank `at` got sums of the patterns 0 and 1. */
static cudaError_t k_proof_errors(yg_team *team, k_member *m, k_proof *proof, int *errors) {
    cudaError_t error = cudaSetDevice(m->gpu->index);
    *errors = 0;
    if (error == cudaSuccess) error = cudaMemcpyAsync(proof->host, proof->sums, K_TEAM_PATTERN * sizeof(float), cudaMemcpyDeviceToHost, m->streams[0]);
    if (error == cudaSuccess) error = k_team_await(team, m, m->streams[0]);
    for (int i = 0; i < K_TEAM_PATTERN && error == cudaSuccess; i++) *errors += proof->host[i] != k_team_pattern(0, i) + k_team_pattern(1, i);
    return error;
}

/* Rank `a` adds up a pattern of its own and one of `b`, for both. */
static bool k_team_prove(yg_team *team, k_member *a, k_member *b, char *reason, size_t reason_size) {
    k_proof own = {}, other = {};
    int read = 0, written = 0;
    cudaError_t error = k_proof_make(team, b, &other, 1);
    if (error == cudaSuccess) error = k_proof_make(team, a, &own, 0);
    if (error == cudaSuccess) {
        const k_team_views views = {{own.values, other.values}, {own.sums, other.sums}, 2, 2};
        error = k_team_launch(views, K_TEAM_PATTERN, false, a->streams[0]);
    }
    if (error == cudaSuccess) error = k_team_await(team, a, a->streams[0]);
    if (error == cudaSuccess) error = k_proof_errors(team, a, &own, &read);
    if (error == cudaSuccess) error = k_proof_errors(team, b, &other, &written);
    k_proof_free(team, a, &own);
    k_proof_free(team, b, &other);
    const int from = a->gpu->index, to = b->gpu->index;
    char what[120];
    snprintf(what, sizeof what, "GPU %d cannot work in the memory of GPU %d", from, to);
    if (team->hangs)
        snprintf(reason, reason_size, "GPU %d has not answered for %d s while it reached into the memory of GPU %d: a known fault of boards whose IOMMU or ACS "
                 "is on, switch that off in the BIOS, or use one of the two alone", from, (int)K_TEAM_PATIENCE, to);
    else if (error != cudaSuccess) k_reason(error, what, reason, reason_size);
    else if (read) snprintf(reason, reason_size, "GPU %d reads %d of %d numbers wrongly from GPU %d", from, read, (int)K_TEAM_PATTERN, to);
    else if (written) snprintf(reason, reason_size, "GPU %d writes %d of %d numbers wrongly to GPU %d", from, written, (int)K_TEAM_PATTERN, to);
    return error == cudaSuccess && !read && !written;
}

/* Takes back what k_team_connect has given. */
static void k_team_disconnect(const yg_team *team) {
    for (int a = 0; a < team->plan.size; a++)
        for (int b = 0; b < team->plan.size; b++)
            if (cudaSetDevice(team->members[a].gpu->index) == cudaSuccess) (void)cudaDeviceDisablePeerAccess(team->members[b].gpu->index);
    (void)cudaGetLastError();
}

/* All pairs of devices, both ways. */
static bool k_team_reach(yg_team *team, char *reason, size_t reason_size) {
    bool good = true;
    for (int a = 0; a < team->plan.size && good; a++)
        for (int b = 0; b < team->plan.size && good; b++) {
            k_member *from = &team->members[a], *to = &team->members[b];
            if (from->gpu->index == to->gpu->index) continue;
            good = k_team_connect(from->gpu->index, to->gpu->index, reason, reason_size) && k_team_prove(team, from, to, reason, reason_size);
        }
    if (!good && !team->hangs) k_team_disconnect(team);
    return good;
}

/* ---- a team */

static cudaError_t k_member_open(k_member *m, yg_way way) {
    int least = 0, greatest = 0;
    cudaError_t error = cudaSetDevice(m->gpu->index);
    if (error == cudaSuccess) error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&m->filled, cudaEventDisableTiming);
    for (int slot = 0; slot < YG_TEAM_SLOTS && error == cudaSuccess; slot++) {
        cudaEvent_t *const events[] = {&m->ready[slot], &m->summed[slot], &m->fetched[slot], &m->done[slot]};
        error = cudaStreamCreateWithPriority(&m->streams[slot], cudaStreamNonBlocking, greatest); /* others wait for this one */
        for (int i = 0; i < 4 && error == cudaSuccess; i++) error = cudaEventCreateWithFlags(events[i], cudaEventDisableTiming);
        if (way == YG_THROUGH_HOST && error == cudaSuccess)
            error = cudaHostAlloc(&m->chunks[slot], YG_TEAM_CHUNK, cudaHostAllocPortable | cudaHostAllocMapped);
    }
    return error;
}

static void k_member_wait(const k_member *m) {
    (void)cudaSetDevice(m->gpu->index);
    for (int slot = 0; slot < YG_TEAM_SLOTS; slot++)
        if (m->streams[slot]) (void)cudaStreamSynchronize(m->streams[slot]);
}

static void k_member_close(k_member *m) {
    (void)cudaSetDevice(m->gpu->index);
    for (int slot = 0; slot < YG_TEAM_SLOTS; slot++) {
        cudaEvent_t const events[] = {m->ready[slot], m->summed[slot], m->fetched[slot], m->done[slot]};
        for (cudaEvent_t event : events)
            if (event) (void)cudaEventDestroy(event);
        if (m->streams[slot]) (void)cudaStreamDestroy(m->streams[slot]);
        if (m->chunks[slot]) (void)cudaFreeHost(m->chunks[slot]);
    }
    if (m->filled) (void)cudaEventDestroy(m->filled);
}

void yg_team_close(yg_team *team) {
    if (!team) return;
    for (int r = 0; r < team->plan.size && !team->hangs; r++) k_member_wait(&team->members[r]); /* all, before memory of one goes */
    for (int r = 0; r < team->plan.size && !team->hangs; r++) k_member_close(&team->members[r]);
    (void)cudaGetLastError();
    free(team);
}

int yg_team_open(yg_team **out, const yg_team_plan *plan, char *reason, size_t reason_size) {
    *out = NULL;
    yg_team *team = static_cast<yg_team *>(calloc(1, sizeof *team));
    cudaError_t error = team ? cudaSuccess : cudaErrorMemoryAllocation;
    if (team) team->plan = *plan;
    for (int r = 0; r < plan->size && team; r++) team->members[r].gpu = plan->gpus[r];
    for (int r = 0; r < plan->size && error == cudaSuccess; r++) error = k_member_open(&team->members[r], plan->way);
    int result = k_reason(error, "no streams, events or pinned memory for sums over GPUs", reason, reason_size);
    if (!result && plan->way == YG_DIRECTLY && !k_team_reach(team, reason, reason_size)) result = team->hangs ? YG_HANGS : YG_NO_WAY;
    if (!result) *out = team;
    else yg_team_close(team);
    return result;
}

/* ---- sums */

static bool k_team_note(k_member *m, cudaEvent_t event, cudaStream_t stream) { return k_good(m->gpu, cudaEventRecord(event, stream), "sum over GPUs"); }
static bool k_team_wait(k_member *m, cudaStream_t stream, cudaEvent_t event) { return k_good(m->gpu, cudaStreamWaitEvent(stream, event, 0), "sum over GPUs"); }
static bool k_team_copy(k_member *m, void *to, const void *from, int64_t bytes, cudaMemcpyKind kind, int slot) {
    return !bytes || k_good(m->gpu, cudaMemcpyAsync(to, from, (size_t)bytes, kind, m->streams[slot]), "sum over GPUs");
}

/* A rank's values where the others may read them, when its stream has come there. */
static bool k_team_offer(yg_team *team, k_member *m, void *values, int64_t bytes, int slot) {
    const cudaStream_t stream = m->streams[slot];
    bool good = k_team_note(m, m->filled, m->gpu->stream) && k_team_wait(m, stream, m->filled);
    m->values[slot] = values;
    if (team->plan.way == YG_THROUGH_HOST) {
        for (int q = 0; q < team->plan.size && good; q++) good = k_team_wait(m, stream, team->members[q].fetched[slot]);
        good = good && k_team_copy(m, m->chunks[slot], values, bytes, cudaMemcpyDeviceToHost, slot);
    }
    return good && k_team_note(m, m->ready[slot], stream);
}

/* Adds up [first, end) bytes of all ranks' for those who are to have them: all, or through host memory this rank and who fetches it. */
static bool k_team_add(yg_team *team, int rank, int64_t first, int64_t end, bool wide, bool alone, int slot) {
    k_member *m = &team->members[rank];
    const bool host = team->plan.way == YG_THROUGH_HOST;
    k_team_views views = {};
    bool good = true;
    for (int q = 0; q < team->plan.size && good; q++) {
        k_member *other = &team->members[q];
        good = q == rank || k_team_wait(m, m->streams[slot], other->ready[slot]);
        const bool there = !host || q == rank;
        views.in[views.ins++] = (there ? static_cast<unsigned char *>(other->values[slot]) : other->chunks[slot]) + first;
        if (there) views.out[views.outs++] = static_cast<unsigned char *>(other->values[slot]) + first;
    }
    if (host && !alone) views.out[views.outs++] = m->chunks[slot] + first;
    return good && k_good(m->gpu, k_team_launch(views, (end - first) / (wide ? 8 : 4), wide, m->streams[slot]), "sum over GPUs");
}

/* The other ranks' segments, from their pinned memory. */
static bool k_team_fetch(yg_team *team, int rank, int64_t count, int64_t size, int slot) {
    k_member *m = &team->members[rank];
    bool good = k_team_note(m, m->summed[slot], m->streams[slot]) && team->plan.meet(team->plan.users[rank]);
    for (int q = 0; q < team->plan.size && good; q++) {
        const int64_t first = count * q / team->plan.size * size, end = count * (q + 1) / team->plan.size * size;
        if (q == rank) continue;
        good = k_team_wait(m, m->streams[slot], team->members[q].summed[slot]) &&
               k_team_copy(m, static_cast<unsigned char *>(m->values[slot]) + first, team->members[q].chunks[slot] + first, end - first, cudaMemcpyHostToDevice, slot);
    }
    return good;
}

static bool k_team_library(yg_team *team, int rank, int64_t count, bool wide, int slot) {
    k_member *m = &team->members[rank];
    char reason[200] = "";
    const int error = team->plan.reduce(team->plan.users[rank], m->values[slot], count, wide, m->streams[slot], reason, sizeof reason);
    k_fail(m->gpu, error, "GPU %d: sum over GPUs: %s", m->gpu->index, reason);
    return !error;
}

/* False: this rank has failed, which its yg_gpu knows, or another. */
static bool k_team_turn(yg_team *team, int rank, void *values, int64_t count, bool wide) {
    k_member *m = &team->members[rank];
    const yg_way way = team->plan.way;
    const int slot = way == YG_BY_LIBRARY ? 0 : (int)(m->turn++ % YG_TEAM_SLOTS); /* a library wants its calls in order */
    const int64_t size = wide ? 8 : 4;
    const bool alone = way == YG_THROUGH_HOST && count * size <= YG_TEAM_SMALL;
    if (!k_team_offer(team, m, values, count * size, slot) || !team->plan.meet(team->plan.users[rank])) return false;
    if (way == YG_BY_LIBRARY) return k_team_library(team, rank, count, wide, slot);
    const int64_t first = alone ? 0 : count * rank / team->plan.size * size, end = alone ? count * size : count * (rank + 1) / team->plan.size * size;
    if (!k_team_add(team, rank, first, end, wide, alone, slot)) return false;
    if (way == YG_THROUGH_HOST && !alone && !k_team_fetch(team, rank, count, size, slot)) return false;
    return way != YG_THROUGH_HOST || k_team_note(m, m->fetched[slot], m->streams[slot]);
}

bool yg_sum(yg_team *team, int rank, void *values, int64_t count, bool wide) {
    const int64_t size = wide ? 8 : 4, most = team->plan.way == YG_THROUGH_HOST ? YG_TEAM_CHUNK / size : count;
    bool good = !team->members[rank].gpu->error;
    for (int64_t first = 0; first < count && good; first += most)
        good = k_team_turn(team, rank, static_cast<unsigned char *>(values) + first * size, k_min(most, count - first), wide);
    return good;
}

bool yg_sums_finish(yg_team *team, int rank) {
    k_member *m = &team->members[rank];
    bool good = !m->gpu->error;
    for (int slot = 0; slot < YG_TEAM_SLOTS && good; slot++) good = k_team_note(m, m->done[slot], m->streams[slot]);
    good = good && team->plan.meet(team->plan.users[rank]);
    for (int q = 0; q < team->plan.size && good; q++)
        for (int slot = 0; slot < YG_TEAM_SLOTS && good; slot++)
            if (q == rank || team->plan.way == YG_DIRECTLY) good = k_team_wait(m, m->gpu->stream, team->members[q].done[slot]);
    return good;
}
