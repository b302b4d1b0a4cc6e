/* kernels.cu - the GPU half of the engine; yolo.c is the other half, yolo.h's private part the boundary between them.

   It is: CUDA C++ behind plain C names (yg_*), linked with cudart alone, statically, so that the executable starts on a
   machine without a driver. It is not: a library of its own; no cuDNN, no cuBLAS, and NCCL is never linked.
   Every kernel also runs on the host: tests/emulate stands in for CUDA there, with the same source.

   CONTENTS (tests/check_layout.sh compares this list with the banners below)
     K1 k_ d_          conventions: errors, launches, the instructions behind functions
     K2 yg_            devices: discovery, streams, memory, copies, recorded work

   LAYERING: a section calls only itself and sections above it. k_ kernels and host helpers, d_ device functions, yg_ the
   boundary. A launcher stands below its kernels; a kernel's comment names its mapping and its twin in yolo.c.
   Dimensions: N batch, C input channels, K output channels, H W height and width, R S kernel height and width,
   A anchors, Z classes.

   MIT licence, see LICENSE. */
#define YOLO_PRIVATE
#include "yolo.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ==== K1 k_ d_: conventions =====================================================================================
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

/* The same of bf16; only where the device has it (8.0 and newer). */
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
#endif /* __CUDACC__ */

enum { K_WARP = 32, K_SCRATCH_BYTES = YG_SCRATCH_BYTES };

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

struct yg_gpu {
    int index;
    int compute, multiprocessors; /* compute: 10 * major + minor */
    size_t shared_most;           /* bytes that a block can get */
    cudaStream_t stream;
    void *scratch;                /* K_SCRATCH_BYTES for what one call leaves from one of its kernels to the next */
    bool recording;
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

/* Is `error` a success? Else it is kept. */
static bool k_good(yg_gpu *gpu, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return true;
    k_fail(gpu, (int)error, "GPU %d: %s: %s (CUDA error %d)", gpu->index, what, cudaGetErrorString(error), (int)error);
    return false;
}

/* After a launch. */
static void k_launched(yg_gpu *gpu, const char *what) { k_good(gpu, cudaGetLastError(), what); }

/* Scratch of a call; NULL, and a failure, when it wants more than there is. */
template <typename T> static T *k_scratch(yg_gpu *gpu, size_t count) {
    if (count * sizeof(T) <= K_SCRATCH_BYTES) return static_cast<T *>(gpu->scratch);
    k_fail(gpu, (int)cudaErrorMemoryAllocation, "GPU %d: %zu bytes of scratch wanted, at most %d", gpu->index, count * sizeof(T), (int)K_SCRATCH_BYTES);
    return NULL;
}

/* ==== K2 yg_: devices ===========================================================================================
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
    if (!driver) snprintf(reason, reason_size, "no NVIDIA driver is installed, or it does not run");
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

int yg_open(yg_gpu **out, int index, char *reason, size_t reason_size) {
    cudaDeviceProp properties;
    *out = NULL;
    yg_gpu *gpu = static_cast<yg_gpu *>(calloc(1, sizeof *gpu));
    if (!gpu) return k_reason(cudaErrorMemoryAllocation, "no host memory for a device", reason, reason_size);
    gpu->index = index;
    bool good = k_good(gpu, cudaSetDevice(index), "cannot be used") && k_good(gpu, cudaGetDeviceProperties(&properties, index), "properties cannot be read");
    if (good) {
        gpu->compute = 10 * properties.major + properties.minor;
        gpu->multiprocessors = properties.multiProcessorCount;
        gpu->shared_most = properties.sharedMemPerBlockOptin;
        good = k_good(gpu, cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking), "no stream") &&
               k_good(gpu, cudaMalloc(&gpu->scratch, K_SCRATCH_BYTES), "no memory for scratch");
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

void yg_close(yg_gpu *gpu) {
    if (!gpu) return;
    (void)cudaSetDevice(gpu->index);
    if (gpu->stream) (void)cudaStreamSynchronize(gpu->stream);
    if (gpu->scratch) (void)cudaFree(gpu->scratch);
    if (gpu->stream) (void)cudaStreamDestroy(gpu->stream);
    (void)cudaGetLastError();
    free(gpu);
}

int yg_finish(yg_gpu *gpu, char *reason, size_t reason_size) {
    k_good(gpu, cudaStreamSynchronize(gpu->stream), "work failed");
    if (gpu->error && reason && reason_size) snprintf(reason, reason_size, "%s", gpu->reason);
    return gpu->error;
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
    k_fail(gpu, (int)error, "GPU %d: %.0f MiB wanted, %.0f of %.0f MiB are free: %s", gpu->index, (double)bytes / mib, (double)free_bytes / mib,
           (double)total / mib, cudaGetErrorString(error));
    return NULL;
}

void yg_free(yg_gpu *gpu, void *memory) {
    if (!memory) return;
    (void)cudaSetDevice(gpu->index);
    (void)cudaStreamSynchronize(gpu->stream);
    k_good(gpu, cudaFree(memory), "memory cannot be freed");
}

void *yg_host_alloc(yg_gpu *gpu, size_t bytes) {
    void *memory = NULL;
    (void)cudaSetDevice(gpu->index);
    if (cudaMallocHost(&memory, k_max(bytes, (size_t)256)) == cudaSuccess) return memory;
    (void)cudaGetLastError();
    return NULL;
}

void yg_host_free(yg_gpu *gpu, void *memory) {
    if (!memory) return;
    (void)cudaStreamSynchronize(gpu->stream);
    k_good(gpu, cudaFreeHost(memory), "host memory cannot be freed");
}

static void k_copy(yg_gpu *gpu, void *to, const void *from, size_t bytes, cudaMemcpyKind kind, const char *what) {
    if (!gpu->error && bytes) k_good(gpu, cudaMemcpyAsync(to, from, bytes, kind, gpu->stream), what);
}

void yg_upload(yg_gpu *gpu, void *to, const void *from, size_t bytes) { k_copy(gpu, to, from, bytes, cudaMemcpyHostToDevice, "upload"); }
void yg_download(yg_gpu *gpu, void *to, const void *from, size_t bytes) { k_copy(gpu, to, from, bytes, cudaMemcpyDeviceToHost, "download"); }
void yg_copy(yg_gpu *gpu, void *to, const void *from, size_t bytes) { k_copy(gpu, to, from, bytes, cudaMemcpyDeviceToDevice, "copy"); }

void yg_clear(yg_gpu *gpu, void *memory, size_t bytes) {
    if (!gpu->error && bytes) k_good(gpu, cudaMemsetAsync(memory, 0, bytes, gpu->stream), "clearing memory");
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

/* Parts, each a section */
#if !defined(K_ONLY) || K_ONLY == 4
#include "k/elementwise.cu"
#endif
#if !defined(K_ONLY) || K_ONLY == 8
#include "k/conv.cu"
#endif
#if !defined(K_ONLY) || K_ONLY == 9
#include "k/wgrad.cu"
#endif
#if !defined(K_ONLY) || K_ONLY == 10
#include "k/decode.cu"
#endif
#if !defined(K_ONLY) || K_ONLY == 11
#include "k/loss.cu"
#endif
#if !defined(K_ONLY) || K_ONLY == 12
#include "k/optimizer.cu"
#endif
#if !defined(K_ONLY) || K_ONLY == 13
#include "k/augment.cu"
#endif
