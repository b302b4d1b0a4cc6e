/* cuda_runtime.h - the part of CUDA that kernels.cu uses, on the host: see emulate.h.

   It is: CUDA's names for kernels (qualifiers, threadIdx, barriers, warps, atomics) and for hosts (memory, streams, events,
   graphs), and functions for the PTX instructions that kernels.cu wraps. It is not: complete, nor a model of time or of
   weakly ordered memory.

   A kernel differs from CUDA's dialect in two places: K_LAUNCH stands for <<<>>>, K_SHARED for extern __shared__.
   __CUDACC__ and __CUDA_ARCH__ are not defined; what a kernel may use is what the newest device it is written for can do.
   Floating point is the host's: a product and a sum become one FMA only where the source says so (nvcc contracts them unless
   told not to), and expf, __expf, rsqrtf and the like are libm's. mma sums in float, product by product.

   MIT licence, see LICENSE. */
#ifndef EMULATE_CUDA_RUNTIME_H
#define EMULATE_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <math.h>

/* ---- qualifiers ------------------------------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
/* An OS thread runs one block at a time, so that what is the block's is the OS thread's. At a block's start it is all ones,
   which the compiler must not think impossible. */
#define __shared__ static thread_local __attribute__((used))

/* Dynamic shared memory of the block: as many bytes as the launch said, all 0xFF at the block's start. */
#define K_SHARED(type, name) type *name = reinterpret_cast<type *>(emulate_block_now->shared)

/* A kernel that is a template with commas stands in parentheses. What is wrong with a launch is cudaGetLastError's. */
#define K_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    emulate_launch(#kernel, kernel, dim3(grid), dim3(block), shared_bytes, stream, ##__VA_ARGS__)

/* ---- vectors ---------------------------------------------------------------------------------------------------- */

#define EMULATE_VECTORS(type, name, align2, align4)                                                           \
    struct name##1 { type x; };                                                                               \
    struct alignas(align2) name##2 { type x, y; };                                                            \
    struct name##3 { type x, y, z; };                                                                         \
    struct alignas(align4) name##4 { type x, y, z, w; };                                                      \
    static inline name##1 make_##name##1(type x) { return {x}; }                                              \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                   \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                        \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATE_VECTORS(signed char, char, 2, 4)
EMULATE_VECTORS(unsigned char, uchar, 2, 4)
EMULATE_VECTORS(short, short, 4, 8)
EMULATE_VECTORS(unsigned short, ushort, 4, 8)
EMULATE_VECTORS(int, int, 8, 16)
EMULATE_VECTORS(unsigned, uint, 8, 16)
EMULATE_VECTORS(float, float, 8, 16)
EMULATE_VECTORS(long long, longlong, 16, 16)
EMULATE_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATE_VECTORS(double, double, 16, 16)
#undef EMULATE_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};

/* ---- where a thread is ------------------------------------------------------------------------------------------ */

struct emulate_block {
    uint3 index;
    dim3 size, grid;
    unsigned char *shared;
};
extern __thread const uint3 *emulate_thread_index;
extern __thread const emulate_block *emulate_block_now;

#define threadIdx (*emulate_thread_index)
#define blockIdx (emulate_block_now->index)
#define blockDim (emulate_block_now->size)
#define gridDim (emulate_block_now->grid)
static constexpr int warpSize = 32;

/* Ends the program with the kernel, the block and the thread that is running. */
[[noreturn]] void emulate_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
inline void __trap() { emulate_die("__trap()"); }

/* ---- barriers and warps ----------------------------------------------------------------------------------------- */

enum emulate_kind {
    EMULATE_BARRIER, EMULATE_SYNCWARP, EMULATE_VOTE, EMULATE_SHUFFLE, EMULATE_MMA, EMULATE_LDMATRIX, EMULATE_NAMED, EMULATE_MMA_TILE, EMULATE_PHASE, EMULATE_WGMMA,
    EMULATE_WGMMA_FENCE, EMULATE_WGMMA_COMMIT, EMULATE_WGMMA_WAIT
};

#define EMULATE_LINE int line = __builtin_LINE() /* of the caller, for complaints */

/* Waits for the block. Results are the number of threads of the block that gave a `value`. */
int emulate_barrier(bool value, int line);
inline void __syncthreads(EMULATE_LINE) { emulate_barrier(false, line); }
inline int __syncthreads_count(int value, EMULATE_LINE) { return emulate_barrier(value != 0, line); }
inline int __syncthreads_or(int value, EMULATE_LINE) { return emulate_barrier(value != 0, line) != 0; }
inline int __syncthreads_and(int value, EMULATE_LINE) { return emulate_barrier(value == 0, line) == 0; }

/* Waits for `threads` threads, whole warps, at the barrier of this number. */
void emulate_named_barrier(int index, int threads, int line);
inline void d_barrier(int index, int threads, EMULATE_LINE) { emulate_named_barrier(index, threads, line); }

/* Waits for the lanes of `mask`; the lanes that gave a `value`. */
unsigned emulate_vote(emulate_kind kind, unsigned mask, bool value, int line);
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATE_LINE) { emulate_vote(EMULATE_SYNCWARP, mask, false, line); }
inline unsigned __ballot_sync(unsigned mask, int value, EMULATE_LINE) { return emulate_vote(EMULATE_VOTE, mask, value != 0, line); }
inline int __any_sync(unsigned mask, int value, EMULATE_LINE) { return emulate_vote(EMULATE_VOTE, mask, value != 0, line) != 0; }
inline int __all_sync(unsigned mask, int value, EMULATE_LINE) { return emulate_vote(EMULATE_VOTE, mask, value != 0, line) == mask; }
int emulate_lane();
/* CUDA promises no more of it than that the caller is in. */
inline unsigned __activemask() { return 1u << emulate_lane(); }

/* Waits for the lanes of `mask`; what the lane `source` gave, all ones where it is not in `mask`. */
uint64_t emulate_shuffle(unsigned mask, uint64_t value, int source, int line);
template <typename T> inline T emulate_shuffled(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles are of 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = emulate_shuffle(mask, bits, source, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <typename T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATE_LINE) {
    return emulate_shuffled(mask, value, (emulate_lane() & -width) | (source & (width - 1)), line);
}
template <typename T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATE_LINE) {
    const int lane = emulate_lane(), source = lane - (int)delta;
    return emulate_shuffled(mask, value, source < (lane & -width) ? lane : source, line);
}
template <typename T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATE_LINE) {
    const int lane = emulate_lane(), source = lane + (int)delta;
    return emulate_shuffled(mask, value, source > (lane | (width - 1)) ? lane : source, line);
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32, EMULATE_LINE) {
    const int lane = emulate_lane(), source = lane ^ flip;
    return emulate_shuffled(mask, value, source > (lane | (width - 1)) ? lane : source, line);
}

/* ---- instructions of the matrix units and of copying ------------------------------------------------------------- */

enum emulate_mma_kind { EMULATE_F16_K16, EMULATE_BF16_K16, EMULATE_F16_K8 };
void emulate_mma(emulate_mma_kind kind, float *d, const uint32_t *a, const uint32_t *b, int line);
inline void d_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], EMULATE_LINE) { emulate_mma(EMULATE_F16_K16, d, a, b, line); }
inline void d_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], EMULATE_LINE) { emulate_mma(EMULATE_BF16_K16, d, a, b, line); }
inline void d_mma_f16_k8(float d[4], const uint32_t a[2], const uint32_t b[1], EMULATE_LINE) { emulate_mma(EMULATE_F16_K8, d, a, b, line); }

void emulate_ldmatrix(uint32_t *r, const void *row, int matrices, bool transposed, int line);
inline void d_ldmatrix_x1(uint32_t r[1], const void *row, EMULATE_LINE) { emulate_ldmatrix(r, row, 1, false, line); }
inline void d_ldmatrix_x2(uint32_t r[2], const void *row, EMULATE_LINE) { emulate_ldmatrix(r, row, 2, false, line); }
inline void d_ldmatrix_x4(uint32_t r[4], const void *row, EMULATE_LINE) { emulate_ldmatrix(r, row, 4, false, line); }
inline void d_ldmatrix_x1_trans(uint32_t r[1], const void *row, EMULATE_LINE) { emulate_ldmatrix(r, row, 1, true, line); }
inline void d_ldmatrix_x2_trans(uint32_t r[2], const void *row, EMULATE_LINE) { emulate_ldmatrix(r, row, 2, true, line); }
inline void d_ldmatrix_x4_trans(uint32_t r[4], const void *row, EMULATE_LINE) { emulate_ldmatrix(r, row, 4, true, line); }

/* What high + wide / 2 ldmatrix and high * wide mma do: one meeting of the lanes, for speed. d[high][wide][4]. */
void emulate_mma_tile(emulate_mma_kind kind, float *d, const void *const *a, const void *const *b, int high, int wide, bool transposed, int line);
template <bool brain, bool transposed, int high, int wide>
inline void d_mma_tile(float (&d)[high][wide][4], const void *const (&a)[high], const void *const (&b)[wide / 2], EMULATE_LINE) {
    static_assert(high <= 8 && wide <= 32 && high * wide <= 64, "there is room for as much");
    emulate_mma_tile(brain ? EMULATE_BF16_K16 : EMULATE_F16_K16, d[0][0], a, b, high, wide, transposed, line);
}

/* Until a wait that covers the copy, its destination is all ones. */
void emulate_copy_async16(void *shared, const void *global, bool valid, int line);
void emulate_copy_async8(void *shared, const void *global, bool valid, int line);
void emulate_copy_async4(void *shared, const void *global, bool valid, int line);
void emulate_copy_commit();
void emulate_copy_wait(int pending);
inline void d_copy_async16(void *shared, const void *global, bool valid, EMULATE_LINE) { emulate_copy_async16(shared, global, valid, line); }
inline void d_copy_async8(void *shared, const void *global, bool valid, EMULATE_LINE) { emulate_copy_async8(shared, global, valid, line); }
inline void d_copy_async4(void *shared, const void *global, bool valid, EMULATE_LINE) { emulate_copy_async4(shared, global, valid, line); }
inline void d_copy_async_commit() { emulate_copy_commit(); }
template <int pending> inline void d_copy_async_wait() { emulate_copy_wait(pending); }

/* ---- Hopper: barriers with phases, copies of tensors, products of warpgroups; see emulate.cpp --------------------- */

/* As PTX sees a pointer into dynamic shared memory. */
unsigned d_shared_address(const void *shared);

void emulate_phase_make(uint64_t *barrier, int arrivals, int line);
void emulate_phase_fence();
void emulate_phase_arrive(uint64_t *barrier, int bytes, int line);
void emulate_phase_wait(uint64_t *barrier, int parity, int line);
inline void d_phase_make(uint64_t *barrier, int arrivals, EMULATE_LINE) { emulate_phase_make(barrier, arrivals, line); }
inline void d_phase_fence() { emulate_phase_fence(); }
inline void d_phase_arrive(uint64_t *barrier, EMULATE_LINE) { emulate_phase_arrive(barrier, 0, line); }
inline void d_phase_expect(uint64_t *barrier, int bytes, EMULATE_LINE) { emulate_phase_arrive(barrier, bytes, line); }
inline void d_phase_wait(uint64_t *barrier, int parity, EMULATE_LINE) { emulate_phase_wait(barrier, parity, line); }

struct CUtensorMap;
/* at: as many coordinates as the map has dimensions; offsets: of im2col mode, else NULL. */
void emulate_tensor_copy(void *shared, const CUtensorMap *map, const int *at, int rank, const int *offsets, uint64_t *barrier, int line);
inline void d_tensor_box(void *shared, const CUtensorMap *map, int x, int y, int z, uint64_t *barrier, EMULATE_LINE) {
    const int at[] = {x, y, z};
    emulate_tensor_copy(shared, map, at, 3, NULL, barrier, line);
}
inline void d_tensor_windows(void *shared, const CUtensorMap *map, int c, int x, int y, int n, int s, int r, uint64_t *barrier, EMULATE_LINE) {
    const int at[] = {c, x, y, n}, offsets[] = {s, r};
    emulate_tensor_copy(shared, map, at, 4, offsets, barrier, line);
}

void emulate_wgmma(float *d, uint64_t a, uint64_t b, int columns, bool brain, int line);
void emulate_wgmma_fence(int line);
void emulate_wgmma_commit(int line);
void emulate_wgmma_wait(int pending, int line);
template <int N, bool brain> inline void d_wgmma(float *d, uint64_t a, uint64_t b, EMULATE_LINE) { emulate_wgmma(d, a, b, N, brain, line); }
inline void d_wgmma_fence(EMULATE_LINE) { emulate_wgmma_fence(line); }
inline void d_wgmma_commit(EMULATE_LINE) { emulate_wgmma_commit(line); }
template <int pending> inline void d_wgmma_wait(EMULATE_LINE) { emulate_wgmma_wait(pending, line); }

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

template <typename To, typename From> inline To emulate_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits are as many");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return emulate_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulate_bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulate_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulate_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulate_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulate_bits<double>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
    x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
    x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
    return __builtin_bswap32(x);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
/* Bytes of the 8 that y:x has, chosen by the nibbles of `which`; its top bits, which spread signs, are not emulated. */
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
    const uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= (unsigned)(bytes >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return r;
}

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float rsqrtf(float x) { return __frsqrt_rn(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __saturatef(float x) { return x > 0.0f ? x < 1.0f ? x : 1.0f : 0.0f; }

/* Conversions saturate, and a NaN becomes 0. */
template <typename T> inline T emulate_saturate(double x) {
    if (!(x == x)) return 0;
    if (x <= (double)std::numeric_limits<T>::min()) return std::numeric_limits<T>::min();
    return x >= (double)std::numeric_limits<T>::max() ? std::numeric_limits<T>::max() : (T)x;
}
inline int __float2int_rn(float x) { return emulate_saturate<int>(nearbyint(x)); }
inline int __float2int_rz(float x) { return emulate_saturate<int>(trunc(x)); }
inline int __float2int_rd(float x) { return emulate_saturate<int>(floor(x)); }
inline int __float2int_ru(float x) { return emulate_saturate<int>(ceil(x)); }
inline unsigned __float2uint_rn(float x) { return emulate_saturate<unsigned>(nearbyint(x)); }
inline unsigned __float2uint_rz(float x) { return emulate_saturate<unsigned>(trunc(x)); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }

#define EMULATE_MIN_MAX(a_type, b_type, type)                                              \
    inline type min(a_type a, b_type b) { return (type)a < (type)b ? (type)a : (type)b; }  \
    inline type max(a_type a, b_type b) { return (type)a > (type)b ? (type)a : (type)b; }
EMULATE_MIN_MAX(int, int, int)
EMULATE_MIN_MAX(unsigned, unsigned, unsigned)
EMULATE_MIN_MAX(int, unsigned, unsigned)
EMULATE_MIN_MAX(unsigned, int, unsigned)
EMULATE_MIN_MAX(long, long, long)
EMULATE_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATE_MIN_MAX(long long, long long, long long)
EMULATE_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef EMULATE_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

/* ---- memory ----------------------------------------------------------------------------------------------------- */

template <typename T> inline T __ldg(const T *p) { return *p; }
template <typename T> inline T __ldca(const T *p) { return *p; }
template <typename T> inline T __ldcg(const T *p) { return *p; }
template <typename T> inline T __ldcs(const T *p) { return *p; }
template <typename T> inline void __stcg(T *p, T value) { *p = value; }
template <typename T> inline void __stcs(T *p, T value) { *p = value; }
template <typename T> inline void __stwt(T *p, T value) { *p = value; }

inline void __threadfence() {
#ifndef __SANITIZE_THREAD__ /* which knows no fences; atomics are enough for it */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

/* The new value from the old one, as one step; returns the old one. */
template <typename T, typename F> inline T emulate_atomic(T *p, F next) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, next(old), true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {}
    return old;
}
#define EMULATE_ATOMICS(T)                                                                                          \
    inline T atomicMax(T *p, T x) { return emulate_atomic(p, [x](T old) { return old > x ? old : x; }); }           \
    inline T atomicMin(T *p, T x) { return emulate_atomic(p, [x](T old) { return old < x ? old : x; }); }           \
    inline T atomicOr(T *p, T x) { return __atomic_fetch_or(p, x, __ATOMIC_SEQ_CST); }                              \
    inline T atomicAnd(T *p, T x) { return __atomic_fetch_and(p, x, __ATOMIC_SEQ_CST); }                            \
    inline T atomicXor(T *p, T x) { return __atomic_fetch_xor(p, x, __ATOMIC_SEQ_CST); }                            \
    inline T atomicAdd(T *p, T x) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); }                            \
    inline T atomicExch(T *p, T x) { return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST); }                          \
    inline T atomicCAS(T *p, T expected, T x) { return emulate_atomic(p, [expected, x](T old) { return old == expected ? x : old; }); }
EMULATE_ATOMICS(int)
EMULATE_ATOMICS(unsigned)
EMULATE_ATOMICS(unsigned long long)
#undef EMULATE_ATOMICS
inline int atomicSub(int *p, int x) { return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST); }
inline unsigned atomicSub(unsigned *p, unsigned x) { return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST); }
inline unsigned atomicInc(unsigned *p, unsigned most) { return emulate_atomic(p, [most](unsigned old) { return old >= most ? 0 : old + 1; }); }
inline float atomicExch(float *p, float x) { return __uint_as_float(atomicExch(reinterpret_cast<unsigned *>(p), __float_as_uint(x))); }
/* Sums of floats must not depend on an order. */
float atomicAdd(float *, float) = delete;
double atomicAdd(double *, double) = delete;

/* ---- the runtime's types ---------------------------------------------------------------------------------------- */

#define CUDART_VERSION 12040
#define CUDART_CB

enum cudaError_t {
    cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9, cudaErrorInvalidPitchValue = 12, cudaErrorInvalidSymbol = 13,
    cudaErrorInvalidDevicePointer = 17, cudaErrorInvalidMemcpyDirection = 21, cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46, cudaErrorInvalidDeviceFunction = 98, cudaErrorNoDevice = 100, cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209, cudaErrorECCUncorrectable = 214, cudaErrorPeerAccessUnsupported = 217,
    cudaErrorUnsupportedPtxVersion = 222, cudaErrorInvalidResourceHandle = 400, cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700, cudaErrorLaunchOutOfResources = 701, cudaErrorLaunchTimeout = 702, cudaErrorPeerAccessAlreadyEnabled = 704,
    cudaErrorPeerAccessNotEnabled = 705, cudaErrorMisalignedAddress = 716, cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801, cudaErrorStreamCaptureUnsupported = 900, cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureMerge = 902, cudaErrorStreamCaptureUnmatched = 903, cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905, cudaErrorStreamCaptureImplicit = 906, cudaErrorCapturedEvent = 907,
    cudaErrorStreamCaptureWrongThread = 908, cudaErrorUnknown = 999
};
typedef cudaError_t cudaError;

typedef struct emulate_stream *cudaStream_t;
typedef struct emulate_event *cudaEvent_t;
typedef struct emulate_graph *cudaGraph_t;
typedef struct emulate_graph_exec *cudaGraphExec_t;

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2, cudaHostAllocWriteCombined = 4 };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive, cudaStreamCaptureStatusInvalidated };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaFuncCache { cudaFuncCachePreferNone, cudaFuncCachePreferShared, cudaFuncCachePreferL1, cudaFuncCachePreferEqual };
enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1, cudaDevAttrMaxSharedMemoryPerBlock = 8, cudaDevAttrWarpSize = 10,
    cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxThreadsPerMultiProcessor = 39, cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76, cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97, cudaDevAttrL2CacheSize = 38
};

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor, totalConstMem, memPitch;
    int regsPerBlock, regsPerMultiprocessor, warpSize, maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    int major, minor, multiProcessorCount, maxThreadsPerMultiProcessor, maxBlocksPerMultiProcessor;
    int l2CacheSize, memoryBusWidth, asyncEngineCount, concurrentKernels, unifiedAddressing, canMapHostMemory, integrated;
    int pciBusID, pciDeviceID, pciDomainID;
};
enum { cudaEnableDefault = 0 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound, cudaDriverEntryPointVersionNotSufficent };
struct cudaFuncAttributes { size_t sharedSizeBytes; int maxThreadsPerBlock, numRegs, maxDynamicSharedSizeBytes, ptxVersion, binaryVersion; };

/* ---- the runtime's functions ------------------------------------------------------------------------------------ */

const char *cudaGetErrorString(cudaError_t error);
const char *cudaGetErrorName(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDriverEntryPoint(const char *name, void **function, unsigned long long flags, cudaDriverEntryPointQueryResult *result);
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer);
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags);
cudaError_t cudaDeviceDisablePeerAccess(int peer);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaDeviceReset();
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);

cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMallocHost(void **memory, size_t bytes);
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
template <typename T> inline cudaError_t cudaMalloc(T **memory, size_t bytes) { return cudaMalloc((void **)memory, bytes); }
template <typename T> inline cudaError_t cudaMallocHost(T **memory, size_t bytes) { return cudaMallocHost((void **)memory, bytes); }
template <typename T> inline cudaError_t cudaHostAlloc(T **memory, size_t bytes, unsigned flags) { return cudaHostAlloc((void **)memory, bytes, flags); }

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = 0);
cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream = 0);
cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes);
cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t stream = 0);
cudaError_t cudaMemset(void *memory, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream = 0);

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *data);

cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = 0);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags = 0);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *nodes, size_t *count);

cudaError_t emulate_function_set(const void *function, cudaFuncAttribute attribute, int value);
cudaError_t emulate_function_get(cudaFuncAttributes *attributes, const void *function);
cudaError_t emulate_occupancy(int *blocks, const void *function, int block, size_t shared_bytes);
template <typename T> inline cudaError_t cudaFuncSetAttribute(T *function, cudaFuncAttribute attribute, int value) {
    return emulate_function_set(reinterpret_cast<const void *>(function), attribute, value);
}
template <typename T> inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, T *function) {
    return emulate_function_get(attributes, reinterpret_cast<const void *>(function));
}
template <typename T> inline cudaError_t cudaFuncSetCacheConfig(T *, cudaFuncCache) { return cudaSuccess; }
template <typename T> inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, T *function, int block, size_t shared_bytes) {
    return emulate_occupancy(blocks, reinterpret_cast<const void *>(function), block, shared_bytes);
}

/* A variable of __constant__ or __device__ is the same for all devices here. */
template <typename T> inline cudaError_t cudaMemcpyToSymbol(T &symbol, const void *from, size_t bytes, size_t offset = 0, cudaMemcpyKind = cudaMemcpyHostToDevice) {
    if (offset > sizeof symbol || bytes > sizeof symbol - offset) return cudaErrorInvalidValue;
    memcpy(reinterpret_cast<unsigned char *>(&symbol) + offset, from, bytes);
    return cudaSuccess;
}

/* ---- launches --------------------------------------------------------------------------------------------------- */

/* A kernel with its arguments. */
struct emulate_callable {
    virtual ~emulate_callable() {}
    virtual void call() const = 0; /* as one thread */
};
template <typename... P> struct emulate_bound : emulate_callable {
    void (*kernel)(P...);
    std::tuple<P...> values;
    emulate_bound(void (*kernel)(P...), P... values) : kernel(kernel), values{values...} {}
    void call() const override { std::apply(kernel, values); }
};

/* Runs, queues or records; takes `thread` over. */
void emulate_submit(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, const emulate_callable *thread);

template <typename... P, typename... A>
inline void emulate_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A &&...arguments) {
    static_assert(sizeof...(P) == sizeof...(A), "a kernel's arguments are as many as its parameters");
    emulate_submit(name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes, stream, new emulate_bound<P...>(kernel, static_cast<P>(arguments)...));
}

#endif
