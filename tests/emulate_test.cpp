/* emulate_test.cpp - tests of CUDA on the host (tests/emulate): each feature against what is plainly expected of it, and planted
   mistakes that it must find. Ends with "N passed, N failed, N skipped"; exit status 1 when any failed.

     g++ -std=c++17 -O2 -Itests/emulate tests/emulate_test.cpp tests/emulate/emulate.cpp -o build/emulate-test -lpthread
     build/emulate-test [--list] [NAME ...]   all tests, or those whose name begins with a NAME

   MIT licence, see LICENSE. */
#include <cuda.h>
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "emulate/emulate.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int test_failures; /* of the test that runs */
static const char *test_skipped;

#define CHECK_MSG(condition, ...) do { \
    if (!(condition)) { \
        test_failures++; \
        printf("    %s:%d: %s: ", __FILE__, __LINE__, #condition); \
        printf(__VA_ARGS__); \
        printf("\n"); \
    } } while (0)
#define CHECK(condition) CHECK_MSG(condition, "false")
#define CHECK_IS(a, b) \
    do { const auto x_ = (a); const auto y_ = (b); CHECK_MSG(x_ == y_, "%.9g against %.9g", (double)x_, (double)y_); } while (0)
#define GOOD(call) CHECK_IS(call, cudaSuccess)

#if defined(__SANITIZE_ADDRESS__)
#define TEST_ASAN
#elif defined(__SANITIZE_THREAD__)
#define TEST_TSAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TEST_ASAN
#elif __has_feature(thread_sanitizer)
#define TEST_TSAN
#endif
#endif
#ifdef TEST_TSAN
extern "C" const char *__tsan_default_options() { return "die_after_fork=0:halt_on_error=1"; }
#endif

static uint64_t test_random_state = 20240917;
static uint32_t test_random() { /* xorshift64* */
    test_random_state ^= test_random_state >> 12;
    test_random_state ^= test_random_state << 25;
    test_random_state ^= test_random_state >> 27;
    return (uint32_t)(test_random_state * 0x2545f4914f6cdd1du >> 32);
}
static float test_uniform() { return (float)(test_random() >> 8) / (float)(1 << 23) - 1.0f; }

/* Memory of the current device, with the host's copy of it. */
template <typename T> struct buffer {
    T *device = NULL;
    std::vector<T> host;
    explicit buffer(size_t count) : host(count) { GOOD(cudaMalloc(&device, count * sizeof(T))); }
    ~buffer() { GOOD(cudaFree(device)); }
    void up() { GOOD(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    std::vector<T> &down() {
        GOOD(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

/* Runs `work` in a child. Does it end the way that the emulation or a sanitizer ends programs, with `text` on stderr? */
template <typename F> static void check_dies(const char *name, F work, const char *text) {
    int ends[2];
    fflush(stdout);
    CHECK(pipe(ends) == 0);
    const pid_t child = fork();
    if (!child) {
        dup2(ends[1], 2);
        work();
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char part[512];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) said.append(part, (size_t)n);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    const bool died = (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) || (WIFEXITED(status) && WEXITSTATUS(status) != 0);
    CHECK_MSG(died && said.find(text) != std::string::npos, "%s: status %d, expected \"%s\", said: %.1500s", name, status, text, said.c_str());
}
#define DIES(text, ...) check_dies(#__VA_ARGS__, [&]() { __VA_ARGS__; }, text)
#ifdef TEST_TSAN
/* For the thread sanitizer a forked child is no place to find races in: this program anew, see main. */
static void check_race(const char *name, const char *text) {
    check_dies(name, [name]() { execl("/proc/self/exe", "emulate-test", "--planted", name, (char *)NULL); }, text);
}
#endif

/* Calls `body` in different orders and with different numbers of workers. */
template <typename F> static void in_orders(F body) {
    for (int workers = 1; workers <= 2; workers++)
        for (uint64_t order : {0, 1, 2, 3, 4, 5}) {
            emulate_set_workers(workers);
            emulate_set_order(order);
            body();
        }
    emulate_reset();
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

/* The nearest of the format's values, ties to the one whose last bit is 0, by arithmetic in double. */
static unsigned reference_round(float x, int mantissa, int least_exponent, int most_exponent) {
    const unsigned sign = std::signbit(x) ? 1u << 15 : 0, infinity = (unsigned)(most_exponent - least_exponent + 2) << mantissa;
    if (std::isnan(x)) return 0x7fff;
    if (std::isinf(x)) return sign | infinity;
    const double value = fabs((double)x);
    int exponent = value > 0 ? std::ilogb(value) : least_exponent;
    if (exponent < least_exponent) exponent = least_exponent;
    /* The bits of a positive value are its exponent and mantissa as one number, so that rounding up carries by itself. */
    const double steps = nearbyint(ldexp(value, mantissa - exponent));
    const double bits = steps + ldexp((double)(exponent - least_exponent), mantissa);
    return sign | (bits >= infinity ? infinity : (unsigned)bits);
}
static double reference_value(unsigned bits, int mantissa, int least_exponent, int most_exponent) {
    const unsigned magnitude = bits & 0x7fff, exponent = magnitude >> mantissa, fraction = magnitude & ((1u << mantissa) - 1);
    const double sign = bits & 0x8000 ? -1 : 1;
    if ((int)exponent == most_exponent - least_exponent + 2) return fraction ? NAN : sign * INFINITY;
    if (!exponent) return sign * ldexp(fraction, least_exponent - mantissa);
    return sign * ldexp(1.0 + ldexp(fraction, -mantissa), (int)exponent - 1 + least_exponent);
}
static bool same_number(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

template <typename F> static void with_many_floats(F check) {
    for (unsigned i = 0; i < 65536; i++)
        for (unsigned low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) check(__uint_as_float(i << 16 | low));
    for (int i = 0; i < 500000; i++) check(__uint_as_float(test_random()));
    for (int i = 0; i < 200000; i++) check(ldexpf(test_uniform(), (int)(test_random() % 48) - 30));
}

static void test_half() {
    int wrong = 0;
    for (unsigned i = 0; i < 65536; i++) {
        const __half h = __ushort_as_half((unsigned short)i);
        const float x = __half2float(h);
        wrong += !same_number(x, reference_value(i, 10, -14, 15));
        wrong += __half_as_ushort(__float2half_rn(x)) != (std::isnan(x) ? 0x7fff : i);
    }
    CHECK_IS(wrong, 0);
    with_many_floats([&](float x) {
        const unsigned got = __half_as_ushort(__float2half_rn(x)), expected = reference_round(x, 10, -14, 15);
        if (got != expected && wrong++ < 5) CHECK_MSG(false, "%a became 0x%04x, not 0x%04x", (double)x, got, expected);
    });
    CHECK_IS(__half_as_ushort(__float2half_rn(65519.9f)), 0x7bff);
    CHECK_IS(__half_as_ushort(__float2half_rn(65520.0f)), 0x7c00);
    const __half2 pair = __floats2half2_rn(1.5f, -2.25f);
    uint32_t bits;
    memcpy(&bits, &pair, 4);
    CHECK_IS(bits, 0xc0803e00u);
    CHECK(__half22float2(pair).x == 1.5f && __half22float2(pair).y == -2.25f);
    CHECK(__low2float(pair) == 1.5f && __high2float(pair) == -2.25f);
}

static void test_bfloat() {
    int wrong = 0;
    for (unsigned i = 0; i < 65536; i++) {
        const __nv_bfloat16 b = __ushort_as_bfloat16((unsigned short)i);
        const float x = __bfloat162float(b);
        wrong += !same_number(x, reference_value(i, 7, -126, 127));
        wrong += __bfloat16_as_ushort(__float2bfloat16_rn(x)) != (std::isnan(x) ? 0x7fff : i);
    }
    CHECK_IS(wrong, 0);
    with_many_floats([&](float x) {
        const unsigned got = __bfloat16_as_ushort(__float2bfloat16_rn(x)), expected = reference_round(x, 7, -126, 127);
        if (got != expected && wrong++ < 5) CHECK_MSG(false, "%a became 0x%04x, not 0x%04x", (double)x, got, expected);
    });
    const __nv_bfloat162 pair = __floats2bfloat162_rn(1.5f, -2.25f);
    uint32_t bits;
    memcpy(&bits, &pair, 4);
    CHECK_IS(bits, 0xc0103fc0u);
    CHECK(__bfloat1622float2(pair).x == 1.5f && __bfloat1622float2(pair).y == -2.25f);
}

static void test_bits() {
    for (int i = 0; i < 2000; i++) {
        const unsigned x = i < 33 ? (unsigned)(1ull << i >> 1) : test_random() >> test_random() % 32, y = test_random();
        int ones = 0, first = 0, zeros = 32;
        unsigned reversed = 0;
        for (int b = 31; b >= 0; b--)
            if (x >> b & 1) ones++, first = b + 1, reversed |= 1u << (31 - b);
        for (int b = 0; b < 32; b++)
            if (x >> b & 1) zeros = 31 - b;
        CHECK_IS(__popc(x), ones);
        CHECK_IS(__ffs((int)x), first);
        CHECK_IS(__clz((int)x), zeros);
        CHECK_IS(__brev(x), reversed);
        CHECK_IS(__umulhi(x, y), (unsigned)((uint64_t)x * y >> 32));
        CHECK_IS(__byte_perm(x, y, 0x7041), (x >> 8 & 0xff) | (y & 0xff) << 8 | (x & 0xff) << 16 | (y & 0xff000000));
        CHECK_IS(__float_as_uint(__uint_as_float(y)), y);
    }
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 && __float2int_rz(-2.7f) == -2 && __float2int_rd(-2.1f) == -3 && __float2int_ru(2.1f) == 3);
    CHECK(__float2int_rn(1e20f) == 2147483647 && __float2int_rn(-1e20f) == -2147483647 - 1 && __float2int_rn(NAN) == 0 && __float2uint_rn(-5.0f) == 0);
    CHECK(min(-1, 2) == -1 && max(-1, 2) == 2 && min(3u, 5u) == 3 && max(1.0f, NAN) == 1.0f && min(NAN, 2.0f) == 2.0f);
    CHECK(rsqrtf(4.0f) == 0.5f && __frcp_rn(8.0f) == 0.125f && __saturatef(NAN) == 0.0f && __saturatef(2.0f) == 1.0f);
    CHECK_IS(__fmaf_rn(1.0f + 0x1p-12f, 1.0f - 0x1p-12f, -1.0f), -0x1p-24f);
}

/* ---- launches --------------------------------------------------------------------------------------------------- */

struct shape { int64_t stride; const float *unused; int offset; };

static __global__ void __launch_bounds__(1024, 1) k_index(uint4 *out, const shape s, float scale) {
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[block * s.stride + thread + s.offset] = make_uint4(threadIdx.x | threadIdx.y << 16, threadIdx.z, blockIdx.x | blockIdx.y << 16, blockIdx.z + (unsigned)scale);
}
static __global__ void k_empty() {}
template <typename T, int COUNT> static __global__ void k_count(T *out) { out[blockIdx.x * blockDim.x + threadIdx.x] = (T)COUNT; }

static void test_indices() {
    const dim3 grid(3, 2, 2), block(5, 3, 2);
    in_orders([&]() {
        buffer<uint4> out(12 * 30 + 1);
        K_LAUNCH(k_index, grid, block, 0, 0, out.device, shape{30, NULL, 1}, 7);
        GOOD(cudaGetLastError());
        int wrong = 0, i = 1;
        out.down();
        CHECK_IS(out.host[0].x, ~0u); /* nobody wrote there */
        for (unsigned bz = 0; bz < 2; bz++) for (unsigned by = 0; by < 2; by++) for (unsigned bx = 0; bx < 3; bx++)
            for (unsigned z = 0; z < 2; z++) for (unsigned y = 0; y < 3; y++) for (unsigned x = 0; x < 5; x++, i++)
                wrong += out.host[i].x != (x | y << 16) || out.host[i].y != z || out.host[i].z != (bx | by << 16) || out.host[i].w != bz + 7;
        CHECK_IS(wrong, 0);
    });
    buffer<double> counts(2000);
    K_LAUNCH(k_empty, 1, 1, 0, 0);
    K_LAUNCH((k_count<double, 41>), 2, 1000, 0, 0, counts.device);
    GOOD(cudaGetLastError());
    CHECK_IS(std::count(counts.down().begin(), counts.host.end(), 41.0), 2000);
    CHECK_IS(emulate_launches(), 2);
}

static void test_limits() {
    buffer<float> x(1024);
    const auto launch = [&](dim3 grid, dim3 block, size_t shared) {
        K_LAUNCH((k_count<float, 1>), grid, block, shared, 0, x.device);
        CHECK_IS(cudaPeekAtLastError(), cudaPeekAtLastError());
        return cudaGetLastError();
    };
    GOOD(launch(1, 1024, 48 << 10));
    CHECK_IS(launch(1, 1025, 0), cudaErrorInvalidConfiguration);
    CHECK_IS(launch(1, dim3(32, 33), 0), cudaErrorInvalidConfiguration);
    CHECK_IS(launch(1, dim3(1, 1, 65), 0), cudaErrorInvalidConfiguration);
    CHECK_IS(launch(0, 32, 0), cudaErrorInvalidConfiguration);
    CHECK_IS(launch(dim3(1, 65536), 32, 0), cudaErrorInvalidConfiguration);
    CHECK_IS(launch(0x80000000u, 32, 0), cudaErrorInvalidConfiguration);
    CHECK_IS(launch(1, 32, (48 << 10) + 1), cudaErrorInvalidValue);
    GOOD(cudaGetLastError()); /* it was told once */
    GOOD(cudaFuncSetAttribute(k_count<float, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 << 10));
    GOOD(launch(1, 32, 99 << 10));
    CHECK_IS(launch(1, 32, (99 << 10) + 1), cudaErrorInvalidValue);
    CHECK_IS(cudaFuncSetAttribute(k_count<float, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, (99 << 10) + 1), cudaErrorInvalidValue);
    emulate_set_capability(7, 5);
    CHECK_IS(cudaFuncSetAttribute(k_count<float, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, 65 << 10), cudaErrorInvalidValue);
    emulate_set_capability(9, 0);
    GOOD(cudaFuncSetAttribute(k_count<float, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10));
    emulate_reset();
    int blocks = 0;
    GOOD(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k_count<double, 41>, 256, 40 << 10));
    CHECK_IS(blocks, 2);
    GOOD(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k_count<double, 41>, 256, 0));
    CHECK_IS(blocks, 6);
    (void)cudaGetLastError();
}

/* ---- shared memory and barriers --------------------------------------------------------------------------------- */

static __device__ float d_block_sum(float x) {
    __shared__ float part[32];
    for (int delta = 16; delta; delta >>= 1) x += __shfl_down_sync(0xffffffffu, x, delta);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) sum += part[i];
    __syncthreads();
    return sum;
}
/* A chain of sums over a tile that is handed from thread to thread. */
static __global__ void k_relay(const float *x, float *out) {
    K_SHARED(float, tile);
    const unsigned t = threadIdx.x, n = blockDim.x;
    tile[t] = x[blockIdx.x * n + t];
    __syncthreads();
    for (unsigned step = 1; step < 20; step++) {
        const float next = 0.5f * tile[(t + step) % n] + tile[t];
        __syncthreads();
        tile[t] = next;
        __syncthreads();
    }
    out[blockIdx.x * n + t] = d_block_sum(tile[(t + 7) % n]) + tile[t];
}

static void test_barrier() {
    const int blocks = 9, n = 96;
    buffer<float> x(blocks * n), out(blocks * n);
    std::vector<float> expected(blocks * n);
    for (float &v : x.host) v = (float)(int)(test_random() % 16);
    x.up();
    for (int b = 0; b < blocks; b++) {
        std::vector<float> tile(x.host.begin() + b * n, x.host.begin() + (b + 1) * n), next(n);
        for (int step = 1; step < 20; step++) {
            for (int t = 0; t < n; t++) next[t] = 0.5f * tile[(t + step) % n] + tile[t];
            tile = next;
        }
        float sum = 0; /* in the kernel's order */
        for (int w = 0; w < n; w += 32) {
            float lanes[64] = {0};
            for (int l = 0; l < 32; l++) lanes[l] = tile[(w + l + 7) % n];
            for (int delta = 16; delta; delta >>= 1)
                for (int l = 0; l < delta; l++) lanes[l] += lanes[l + delta];
            sum += lanes[0];
        }
        for (int t = 0; t < n; t++) expected[b * n + t] = sum + tile[t];
    }
    in_orders([&]() {
        GOOD(cudaMemset(out.device, 0, blocks * n * sizeof(float)));
        K_LAUNCH(k_relay, blocks, n, n * sizeof(float), 0, x.device, out.device);
        CHECK(out.down() == expected);
    });
}

static __global__ void k_votes(int *out) {
    const int t = (int)threadIdx.x, n = (int)blockDim.x;
    int wrong = 0;
    for (int i = 0; i < 40; i++) {
        wrong += __syncthreads_count(t % 7 < i % 8) != (n / 7) * (i % 8 < 7 ? i % 8 : 7) + (n % 7 < i % 8 ? n % 7 : i % 8);
        wrong += (__syncthreads_or(t == i) != 0) != (i < n);
        wrong += (__syncthreads_and(t != i) != 0) != (i >= n);
    }
    out[t] = wrong;
}

static void test_barrier_votes() {
    in_orders([]() {
        for (int n : {1, 33, 64, 1024}) {
            buffer<int> out(n);
            K_LAUNCH(k_votes, 1, n, 0, 0, out.device);
            GOOD(cudaGetLastError());
            CHECK_IS(std::count(out.down().begin(), out.host.end(), 0), n);
        }
    });
}

static __device__ unsigned d_unwritten(unsigned value) {
    __shared__ unsigned fixed[32];
    const unsigned before = fixed[threadIdx.x];
    fixed[threadIdx.x] = value;
    return before;
}
/* What shared memory holds before anybody writes it; then writes it, so that the next block would see it. */
static __global__ void k_unwritten(unsigned *out) {
    K_SHARED(unsigned, dynamic);
    __shared__ unsigned fixed[32], other;
    const unsigned t = threadIdx.x;
    out[blockIdx.x * 32 + t] = dynamic[t] & fixed[t] & other & d_unwritten(t);
    __syncthreads();
    dynamic[t] = fixed[t] = t;
    if (t == 0) other = 3;
}
static void test_poison() {
    buffer<unsigned> out(4 * 32);
    for (unsigned v : out.down()) CHECK_IS(v, ~0u);
    emulate_set_workers(1);
    K_LAUNCH(k_unwritten, 4, 32, 32 * sizeof(unsigned), 0, out.device);
    for (unsigned v : out.down()) CHECK_IS(v, ~0u);
    cudaFuncAttributes attributes;
    GOOD(cudaFuncGetAttributes(&attributes, k_unwritten));
    CHECK_IS(attributes.sharedSizeBytes, 33 * sizeof(unsigned));
    emulate_reset();
}

/* ---- warps ------------------------------------------------------------------------------------------------------- */

template <typename T> static __global__ void k_shuffles(T *out, int width, int n) {
    const int lane = (int)threadIdx.x;
    const T mine = (T)(lane * 3 + 1);
    out[lane] = __shfl_sync(0xffffffffu, mine, n, width);
    out[32 + lane] = __shfl_up_sync(0xffffffffu, mine, n, width);
    out[64 + lane] = __shfl_down_sync(0xffffffffu, mine, n, width);
    out[96 + lane] = __shfl_xor_sync(0xffffffffu, mine, n, width);
}
template <typename T> static void check_shuffles() {
    buffer<T> out(128);
    for (int width = 1; width <= 32; width *= 2)
        for (int n = 0; n < 32; n++) {
            K_LAUNCH(k_shuffles<T>, 1, 32, 0, 0, out.device, width, n);
            out.down();
            for (int lane = 0; lane < 32; lane++) {
                const int group = lane / width * width, up = lane - n, down = lane + n, flipped = lane ^ n;
                const int sources[4] = {group + n % width, up < group ? lane : up, down >= group + width ? lane : down, flipped >= group + width ? lane : flipped};
                for (int k = 0; k < 4; k++) CHECK_IS(out.host[k * 32 + lane], (T)(sources[k] * 3 + 1));
            }
        }
}
static void test_shuffle() {
    check_shuffles<int>();
    check_shuffles<unsigned>();
    check_shuffles<float>();
    check_shuffles<double>();
    check_shuffles<long long>();
}

/* Halves of a warp, and its odd and even lanes, go separate ways and meet again. */
static __global__ void k_masks(unsigned *out) {
    const unsigned lane = threadIdx.x % 32, bit = 1u << lane;
    unsigned x = lane;
    for (int round = 0; round < 5; round++) {
        const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u, parity = lane % 2 ? 0xaaaaaaaau : 0x55555555u;
        if (lane < 16) x += __shfl_xor_sync(half, x, 8);
        else x += 3 * __shfl_xor_sync(half, x, 4);
        if (lane % 2) x ^= __ballot_sync(parity, x & 1);
        else x ^= __popc(__ballot_sync(parity, x & 2));
        __syncwarp();
        if (__any_sync(0xffffffffu, x == lane)) x++;
        if (__all_sync(0xffffffffu, x > 0)) x += 2;
    }
    if (lane < 8) x += __shfl_sync(0xffu, x, 20); /* no lane of the mask: undefined */
    out[threadIdx.x] = x + (__activemask() & bit ? 0 : 1000);
}
static void test_masks() {
    unsigned x[32];
    for (unsigned l = 0; l < 32; l++) x[l] = l;
    for (int round = 0; round < 5; round++) {
        unsigned y[32], odd = 0, even = 0, any = 0, all = 1;
        for (int l = 0; l < 32; l++) y[l] = l < 16 ? x[l] + x[l ^ 8] : x[l] + 3 * x[l ^ 4];
        for (int l = 0; l < 32; l++) (l % 2 ? odd : even) |= (l % 2 ? y[l] & 1 : y[l] >> 1 & 1) << l;
        for (int l = 0; l < 32; l++) x[l] = y[l] ^ (l % 2 ? odd : (unsigned)__builtin_popcount(even));
        for (unsigned l = 0; l < 32; l++) any |= x[l] == l;
        for (int l = 0; l < 32; l++) x[l] += any;
        for (int l = 0; l < 32; l++) all &= x[l] > 0;
        for (int l = 0; l < 32; l++) x[l] += 2 * all;
    }
    for (int l = 0; l < 8; l++) x[l] += ~0u;
    in_orders([&]() {
        buffer<unsigned> out(64);
        K_LAUNCH(k_masks, 1, 64, 0, 0, out.device);
        out.down();
        for (int t = 0; t < 64; t++) CHECK_IS(out.host[t], x[t % 32]);
    });
}

/* ---- atomics ----------------------------------------------------------------------------------------------------- */

static __global__ void k_atomics(int *i, unsigned *u, unsigned long long *l, unsigned *ticket, int *last) {
    const int id = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    __shared__ bool is_last;
    atomicAdd(&i[0], id);
    atomicMax(&i[1], id * 7 % 1000);
    atomicMin(&i[2], -(id * 7 % 1000));
    atomicOr(&u[0], 1u << id % 32);
    atomicAdd(&u[1], 3u);
    atomicAdd(l, (unsigned long long)id << 32);
    unsigned old = atomicAdd(&u[2], 0u);
    for (unsigned seen; (seen = atomicCAS(&u[2], old, old * 5 + 1)) != old;) old = seen;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (is_last && threadIdx.x == 0) *last = (int)u[1] + atomicExch(&i[3], 9);
}
static void test_atomics() {
    const int n = 100 * 64;
    unsigned chain = 1;
    for (int k = 0; k < n; k++) chain = chain * 5 + 1;
    in_orders([&]() {
        buffer<int> i(4), last(1);
        buffer<unsigned> u(3), ticket(1);
        buffer<unsigned long long> l(1);
        i.host = {0, -1, 1, 5}, u.host = {0, 0, 1}, ticket.host = {0}, l.host = {0}, last.host = {0};
        i.up(), u.up(), ticket.up(), l.up(), last.up();
        K_LAUNCH(k_atomics, 100, 64, 0, 0, i.device, u.device, l.device, ticket.device, last.device);
        i.down(), u.down(), l.down(), last.down();
        CHECK_IS(i.host[0], n / 2 * (n - 1));
        CHECK_IS(i.host[1], 999);
        CHECK_IS(i.host[2], -999);
        CHECK_IS(i.host[3], 9);
        CHECK_IS(u.host[0], ~0u);
        CHECK_IS(u.host[1], 3u * n);
        CHECK_IS(u.host[2], chain);
        CHECK_IS(l.host[0], (unsigned long long)(n / 2 * (n - 1)) << 32);
        CHECK_IS(last.host[0], 3 * n + 5);
    });
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

enum load_way { ROWS, TURNED, BY_HAND };

/* D(16,8) += A(16,depth) B(depth,8) by one warp. A comes as (m,k), or TURNED as (k,m); B as (n,k), or TURNED as (k,n). */
template <typename T, int DEPTH> static __global__ void k_product(const T *a, const T *b, float *d, load_way a_way, load_way b_way) {
    enum { PITCH = 24 }; /* elements: rows stay 16-byte aligned */
    K_SHARED(T, as);
    T *bs = as + 16 * PITCH;
    const int lane = (int)threadIdx.x, group = lane / 4, pair = lane % 4 * 2;
    const int a_columns = a_way == TURNED ? 16 : DEPTH, b_columns = b_way == TURNED ? 8 : DEPTH;
    for (int i = lane; i < 16 * DEPTH; i += 32) as[i / a_columns * PITCH + i % a_columns] = a[i];
    for (int i = lane; i < DEPTH * 8; i += 32) bs[i / b_columns * PITCH + i % b_columns] = b[i];
    __syncwarp();
    uint32_t af[4], bf[2];
    float df[4] = {d[group * 8 + pair], d[group * 8 + pair + 1], d[(group + 8) * 8 + pair], d[(group + 8) * 8 + pair + 1]};
    const int row = lane % 8, matrix = lane / 8;
    if (a_way == ROWS && DEPTH == 16) d_ldmatrix_x4(af, as + (row + matrix % 2 * 8) * PITCH + matrix / 2 * 8);
    else if (a_way == ROWS) d_ldmatrix_x2(af, as + (row + matrix % 2 * 8) * PITCH);
    else if (a_way == TURNED && DEPTH == 16) d_ldmatrix_x4_trans(af, as + (row + matrix / 2 * 8) * PITCH + matrix % 2 * 8);
    else if (a_way == TURNED) d_ldmatrix_x2_trans(af, as + row * PITCH + matrix % 2 * 8);
    else
        for (int r = 0; r < DEPTH / 4; r++) memcpy(&af[r], as + (group + r % 2 * 8) * PITCH + pair + r / 2 * 8, 4);
    if (b_way == ROWS && DEPTH == 16) d_ldmatrix_x2(bf, bs + row * PITCH + matrix % 2 * 8);
    else if (b_way == ROWS) d_ldmatrix_x1(bf, bs + row * PITCH);
    else if (b_way == TURNED && DEPTH == 16) d_ldmatrix_x2_trans(bf, bs + (row + matrix % 2 * 8) * PITCH);
    else if (b_way == TURNED) d_ldmatrix_x1_trans(bf, bs + row * PITCH);
    else
        for (int r = 0; r < DEPTH / 8; r++) memcpy(&bf[r], bs + group * PITCH + pair + r * 8, 4);
    if (DEPTH == 8) d_mma_f16_k8(df, af, bf);
    else if (std::is_same<T, __half>::value) d_mma_f16(df, af, bf);
    else d_mma_bf16(df, af, bf);
    d[group * 8 + pair] = df[0], d[group * 8 + pair + 1] = df[1];
    d[(group + 8) * 8 + pair] = df[2], d[(group + 8) * 8 + pair + 1] = df[3];
}

static __half element(float x, __half) { return __float2half_rn(x); }
static __nv_bfloat16 element(float x, __nv_bfloat16) { return __float2bfloat16_rn(x); }
static double value(__half h) { return __half2float(h); }
static double value(__nv_bfloat16 b) { return __bfloat162float(b); }

template <typename T, int DEPTH> static void check_products() {
    for (load_way a_way : {ROWS, TURNED, BY_HAND})
        for (load_way b_way : {ROWS, TURNED, BY_HAND})
            for (int round = 0; round < 6; round++) {
                buffer<T> a(16 * DEPTH), b(DEPTH * 8);
                buffer<float> d(16 * 8);
                for (T &x : a.host) x = element(ldexpf(test_uniform(), round - 3), T());
                for (T &x : b.host) x = element(test_uniform(), T());
                for (float &x : d.host) x = test_uniform();
                const std::vector<float> before = d.host;
                a.up(), b.up(), d.up();
                emulate_set_order((uint64_t)round);
                K_LAUNCH((k_product<T, DEPTH>), 1, 32, 24 * 32 * sizeof(T), 0, a.device, b.device, d.device, a_way, b_way);
                d.down();
                for (int m = 0; m < 16; m++)
                    for (int n = 0; n < 8; n++) {
                        double sum = before[m * 8 + n], size = fabs(sum);
                        for (int k = 0; k < DEPTH; k++) {
                            const double product = value(a.host[a_way == TURNED ? k * 16 + m : m * DEPTH + k]) * value(b.host[b_way == TURNED ? k * 8 + n : n * DEPTH + k]);
                            sum += product;
                            size += fabs(product);
                        }
                        CHECK_MSG(fabs(d.host[m * 8 + n] - sum) <= size * 1e-6, "%d,%d (ways %d, %d): %.9g against %.9g", m, n, a_way, b_way, d.host[m * 8 + n], sum);
                    }
            }
    emulate_reset();
}
static void test_mma() {
    check_products<__half, 16>();
    check_products<__nv_bfloat16, 16>();
    check_products<__half, 8>();
}
/* A tile from rows that lie anywhere, and the same by single instructions: does the lane see other bits? */
template <bool brain, bool turned> static __global__ void k_tile(const uint32_t *elements, int *differs) {
    K_SHARED(uint32_t, s); /* 64 rows */
    const int lane = (int)threadIdx.x;
    const void *a_rows[2], *b_rows[3];
    float tile[2][6][4], single[2][6][4];
    uint32_t a[2][4], b[3][4];
    for (int i = lane; i < 64 * 4; i += 32) s[i] = elements[i];
    __syncwarp();
    for (int i = 0; i < 48; i++) tile[i / 24][i / 4 % 6][i % 4] = single[i / 24][i / 4 % 6][i % 4] = (float)(lane * i);
    for (int i = 0; i < 2; i++) a_rows[i] = s + (lane * 7 + i * 13) % 64 * 4;
    for (int j = 0; j < 3; j++) b_rows[j] = s + (lane * 11 + j * 29 + 5) % 64 * 4;
    d_mma_tile<brain, turned>(tile, a_rows, b_rows);
    for (int i = 0; i < 2; i++) turned ? d_ldmatrix_x4_trans(a[i], a_rows[i]) : d_ldmatrix_x4(a[i], a_rows[i]);
    for (int j = 0; j < 3; j++) turned ? d_ldmatrix_x4_trans(b[j], b_rows[j]) : d_ldmatrix_x4(b[j], b_rows[j]);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 6; j++) brain ? d_mma_bf16(single[i][j], a[i], &b[j / 2][j % 2 * 2]) : d_mma_f16(single[i][j], a[i], &b[j / 2][j % 2 * 2]);
    differs[lane] = memcmp(tile, single, sizeof tile);
}
static void test_mma_tile() {
    buffer<__half> elements(64 * 8);
    buffer<int> differs(32);
    for (size_t i = 0; i < elements.host.size(); i++) elements.host[i] = __float2half_rn(sinf((float)i));
    elements.up();
    in_orders([&]() {
        for (int way = 0; way < 4; way++) {
            const uint32_t *words = (const uint32_t *)elements.device;
            if (way == 0) K_LAUNCH((k_tile<false, false>), 1, 32, 1024, 0, words, differs.device);
            if (way == 1) K_LAUNCH((k_tile<false, true>), 1, 32, 1024, 0, words, differs.device);
            if (way == 2) K_LAUNCH((k_tile<true, false>), 1, 32, 1024, 0, words, differs.device);
            if (way == 3) K_LAUNCH((k_tile<true, true>), 1, 32, 1024, 0, words, differs.device);
            for (int differ : differs.down()) CHECK_IS(differ, 0);
        }
    });
}
/* Infinities, NaNs and denormals pass through as they should. */
static void test_mma_special() {
    buffer<__half> a(256), b(128);
    buffer<float> d(128);
    for (__half &x : a.host) x = __float2half_rn(0.0f);
    for (__half &x : b.host) x = __float2half_rn(1.0f);
    for (float &x : d.host) x = 0.0f;
    a.host[0 * 16 + 3] = __ushort_as_half(0x7c00), a.host[1 * 16 + 4] = __ushort_as_half(0x7e00), a.host[2 * 16 + 5] = __ushort_as_half(0x8001);
    a.host[3 * 16 + 6] = __ushort_as_half(0x03ff), a.host[4 * 16 + 7] = __ushort_as_half(0xfbff);
    a.up(), b.up(), d.up();
    K_LAUNCH((k_product<__half, 16>), 1, 32, 24 * 32 * 2, 0, a.device, b.device, d.device, ROWS, ROWS);
    d.down();
    for (int n = 0; n < 8; n++) {
        CHECK(std::isinf(d.host[n]) && std::isnan(d.host[8 + n]));
        CHECK_IS(d.host[16 + n], -0x1p-24f);
        CHECK_IS(d.host[24 + n], 0x3ffp-24f);
        CHECK_IS(d.host[32 + n], -65504.0f);
        CHECK_IS(d.host[40 + n], 0.0f);
    }
}

/* ---- copies behind the thread's back ----------------------------------------------------------------------------- */

/* Sums of tiles through `stages` buffers. With `late` a wait too short is planted, with `open` a missing barrier. */
static __global__ void k_pipeline(const float *x, float *out, int tiles, bool late, bool open) {
    enum { STAGES = 3 };
    K_SHARED(float, ring);
    const int t = (int)threadIdx.x, n = (int)blockDim.x;
    for (int k = 0; k < STAGES - 1; k++) {
        if (k < tiles) d_copy_async16(ring + k * n * 4 + t * 4, x + (k * n + t) * 4, true);
        d_copy_async_commit();
    }
    float sum = 0;
    for (int k = 0; k < tiles; k++) {
        if (late) d_copy_async_wait<STAGES - 1>();
        else d_copy_async_wait<STAGES - 2>();
        if (!open) __syncthreads();
        const float *stage = ring + k % STAGES * n * 4;
        for (int i = 0; i < 4; i++) sum += stage[(t * 4 + i + 5) % (n * 4)];
        const int next = k + STAGES - 1;
        if (next < tiles) d_copy_async16(ring + next % STAGES * n * 4 + t * 4, x + (next * n + t) * 4, true);
        d_copy_async_commit();
    }
    out[t] = sum;
}
static bool pipeline(int tiles, bool late, bool open) {
    const int n = 64;
    buffer<float> x((size_t)tiles * n * 4), out(n);
    for (float &v : x.host) v = (float)(int)(test_random() % 100);
    x.up();
    K_LAUNCH(k_pipeline, 1, n, 3 * n * 16, 0, x.device, out.device, tiles, late, open);
    out.down();
    for (int t = 0; t < n; t++) {
        float sum = 0;
        for (int k = 0; k < tiles; k++)
            for (int i = 0; i < 4; i++) sum += x.host[k * n * 4 + (t * 4 + i + 5) % (n * 4)];
        if (!(out.host[t] == sum)) return false;
    }
    return true;
}
static __global__ void k_copies(const unsigned *x, unsigned *out) {
    K_SHARED(unsigned, s);
    for (int i = 0; i < 10; i++) s[i] = 77;
    d_copy_async16(s, x, true);
    d_copy_async8(s + 4, x + 4, true);
    d_copy_async4(s + 6, x + 6, true);
    d_copy_async4(s + 7, NULL, false);
    d_copy_async_commit();
    d_copy_async8(s + 8, x + 8, true);
    for (int i = 0; i < 10; i++) out[i] = s[i]; /* under way */
    d_copy_async_wait<0>();
    for (int i = 0; i < 10; i++) out[10 + i] = s[i]; /* the last was not committed */
    d_copy_async_commit();
    d_copy_async_wait<1>();
    out[20] = s[8];
    d_copy_async_wait<0>();
    out[21] = s[8];
    d_copy_async4(s, x, true); /* never waited for */
}
static __global__ void k_copies_after(unsigned *out) {
    K_SHARED(unsigned, s);
    d_copy_async_commit();
    d_copy_async_wait<0>();
    *out = s[0];
}
static void test_copy_async() {
    buffer<unsigned> x(10), out(22);
    for (unsigned i = 0; i < 10; i++) x.host[i] = i + 1;
    x.up();
    K_LAUNCH(k_copies, 1, 1, 40, 0, x.device, out.device);
    out.down();
    for (int i = 0; i < 10; i++) CHECK_IS(out.host[i], ~0u);
    for (unsigned i = 0; i < 10; i++) CHECK_IS(out.host[10 + i], i < 7 ? i + 1 : i == 7 ? 0 : ~0u);
    CHECK_IS(out.host[20], ~0u);
    CHECK_IS(out.host[21], 9u);
    K_LAUNCH(k_copies_after, 1, 1, 40, 0, out.device);
    CHECK_IS(out.down()[0], ~0u);
    for (int tiles : {1, 2, 3, 10}) in_orders([&]() { CHECK(pipeline(tiles, false, false)); });
    CHECK(!pipeline(10, true, false));
#ifdef TEST_TSAN
    check_race("pipeline", "#0 k_pipeline");
#else
    bool seen = false;
    in_orders([&]() { seen |= !pipeline(10, false, true); });
    CHECK(seen);
#endif
}

/* ---- planted mistakes -------------------------------------------------------------------------------------------- */

static __global__ void k_race(const int *x, int *out, bool barriers) {
    K_SHARED(int, tile);
    const unsigned t = threadIdx.x, n = blockDim.x;
    tile[t] = x[t];
    __syncthreads();
    for (int step = 0; step < 3; step++) {
        const int next = tile[t] + tile[(t + 1) % n];
        if (barriers) __syncthreads();
        tile[t] = next;
        __syncthreads();
    }
    out[t] = tile[t];
}
static std::vector<int> race(bool barriers) {
    buffer<int> x(64), out(64);
    for (int i = 0; i < 64; i++) x.host[i] = i * i % 37;
    x.up();
    K_LAUNCH(k_race, 1, 64, 64 * sizeof(int), 0, x.device, out.device, barriers);
    return out.down();
}
/* The different results of different orders. */
static int race_results(bool barriers) {
    std::vector<std::vector<int>> seen;
    in_orders([&]() {
        const std::vector<int> result = race(barriers);
        if (std::find(seen.begin(), seen.end(), result) == seen.end()) seen.push_back(result);
    });
    return (int)seen.size();
}
#ifdef TEST_TSAN
/* A shuffle waits for the lanes, but promises nothing of memory. */
static __global__ void k_race_of_warp(int *out) {
    __shared__ int tile[32];
    const int t = (int)threadIdx.x;
    tile[t] = t;
    const int x = __shfl_xor_sync(0xffffffffu, t, 1);
    out[t] = tile[x];
}
/* Every block writes the same. */
static __global__ void k_race_of_blocks(int *out) { out[threadIdx.x] = 1; }
static void planted_race(const char *name) {
    if (!strcmp(name, "lanes")) race(false);
    else if (!strcmp(name, "pipeline")) pipeline(10, false, true);
    else {
        buffer<int> out(256);
        if (!strcmp(name, "warp")) K_LAUNCH(k_race_of_warp, 1, 32, 0, 0, out.device);
        emulate_set_workers(2);
        K_LAUNCH(k_race_of_blocks, 10000, 256, 0, 0, out.device);
    }
}
#endif

static void test_planted_race() {
    CHECK_IS(race_results(true), 1);
#ifdef TEST_TSAN
    check_race("lanes", "#0 k_race");
    check_race("blocks", "#0 k_race_of_blocks");
    check_race("warp", "#0 k_race_of_warp");
#else
    CHECK(race_results(false) > 2);
#endif
}

static __global__ void k_stuck(int way) {
    const unsigned t = threadIdx.x;
    switch (way) {
    case 0: if (t != 5) __syncthreads(); break;
    case 1: if (t < 32) __syncthreads(); else __syncwarp(); break;
    case 2: if (t < 32) __syncthreads();
            else
                __syncthreads(); /* another place of the source */
            break;
    case 3: if (t != 0) __ballot_sync(0xffffffffu, 1); break;
    case 4: __shfl_sync(0x0000fffeu, t, 3); break;
    case 5: if (t % 2) __ballot_sync(0xffffffffu, 1); else __syncwarp(); break;
    case 6: for (unsigned i = 0; i < (t == 9 ? 3u : 2u); i++) __syncthreads(); break;
    case 7: if (t < 16) __syncthreads(); else __syncwarp(); break;
    case 8: __syncwarp(); break;
    case 9: __trap(); break;
    }
}
static void test_planted_deadlock() {
    const auto launch = [](int way, int threads) { K_LAUNCH(k_stuck, dim3(2, 3), threads, 0, 0, way); };
    for (uint64_t order : {0, 1, 7}) {
        emulate_set_order(order);
        emulate_set_workers(1);
        DIES("deadlock: 1 of 64 threads have ended", launch(0, 64));
        DIES("thread (0,0,0) and on: waits at a barrier of the block, line ", launch(0, 64));
        DIES("deadlock: 32 of 64 threads have ended", launch(1, 64));
        DIES("a barrier of the block at line", launch(2, 64));
        DIES("deadlock: 63 of 64 threads have ended", launch(6, 64));
    }
    emulate_set_order(1);
    DIES("emulate: k_stuck, block (1,2,0), thread (31,0,0): a barrier", launch(2, 64));
    emulate_reset();
}
static void test_planted_masks() {
    const auto launch = [](int way, int threads) { K_LAUNCH(k_stuck, 1, threads, 0, 0, way); };
    DIES("of the mask 0xffffffff, lanes 0x00000001 have ended", launch(3, 32));
    DIES("the mask 0x0000fffe does not name the calling lane 0", launch(4, 32));
    DIES("other lanes of the mask 0xffffffff are at __syncwarp", launch(5, 32));
    DIES("thread (16,0,0) and on: waits at __syncwarp, line ", launch(7, 32));
    DIES("names lanes that the warp has not: it has 0x000000ff", launch(8, 40));
    DIES("thread (0,0,0): __trap()", launch(9, 32));
}

static __global__ void k_shared_overrun(int offset) {
    K_SHARED(unsigned char, s);
    if (threadIdx.x == 0) s[offset] = 1;
}
static __global__ void k_overrun(unsigned char *x, int64_t offset) { x[offset] = 1; }
static __global__ void k_bad_row(int way, const uint32_t *global) {
    K_SHARED(uint32_t, s);
    uint32_t r[4];
    if (way == 0) d_ldmatrix_x4(r, s + threadIdx.x * 4 + 1);
    if (way == 1) d_ldmatrix_x4(r, s + (threadIdx.x + 1) * 4);
    if (way == 2) d_ldmatrix_x4(r, global);
    if (way == 3) d_copy_async16(s, global + 1, true);
    if (way == 6) {
        float d[1][2][4] = {};
        const void *const a[] = {s}, *const b[] = {global};
        d_mma_tile<false, false>(d, a, b);
    }
    if (way == 4) d_copy_async16(s + 2, global, true);
    if (way == 5) d_copy_async16(const_cast<uint32_t *>(global), global, true);
}
static void test_planted_overrun() {
#ifdef TEST_TSAN
    test_skipped = "for the thread sanitizer an overrun is a race, in a forked child";
    return;
#endif
#ifdef TEST_ASAN
    const char *shared = "AddressSanitizer", *device = shared, *host = shared;
#else
    const char *shared = "of 100 of dynamic shared memory", *device = "of 1000 of memory", *host = "of the host";
#endif
    K_LAUNCH(k_shared_overrun, 1, 32, 100, 0, 99);
    DIES(shared, K_LAUNCH(k_shared_overrun, 1, 32, 100, 0, 100));
    DIES(shared, K_LAUNCH(k_shared_overrun, 1, 32, 100, 0, -1));
    for (int64_t offset : {(int64_t)1000, (int64_t)-1}) {
        unsigned char *x = NULL, *h = NULL;
        GOOD(cudaMalloc(&x, 1000));
        GOOD(cudaMallocHost(&h, 1000));
        DIES(device, K_LAUNCH(k_overrun, 1, 1, 0, 0, x, offset); cudaDeviceSynchronize());
        DIES(device, K_LAUNCH(k_overrun, 1, 1, 0, 0, x, offset); cudaFree(x));
        DIES(host, K_LAUNCH(k_overrun, 1, 1, 0, 0, h, offset); cudaStreamSynchronize(0));
        GOOD(cudaFree(x));
        GOOD(cudaFreeHost(h));
    }
    buffer<uint32_t> x(32);
    const auto row = [&](int way) { K_LAUNCH(k_bad_row, 1, 32, 32 * 16, 0, way, x.device); };
    DIES("thread (0,0,0): ldmatrix, line ", row(0));
    DIES("address is no multiple of 16", row(0));
    DIES("thread (31,0,0): ldmatrix, line ", row(1));
    DIES("the row is not in shared memory", row(2));
    DIES("the global address is no multiple of 16", row(3));
    DIES("the shared address is no multiple of 16", row(4));
    DIES("the destination is not in shared memory", row(5));
    DIES("the row is not in shared memory", row(6));
}

/* ---- Hopper ----------------------------------------------------------------------------------------------------- */

static __device__ unsigned char *hopper_shared(unsigned char *unaligned) { return unaligned + (-d_shared_address(unaligned) & 1023); }

/* Warp 0 fills a ring of two places, warp 1 empties it: phases, their parities, who waits for whom. */
static __global__ void k_ring(int *out, int count) {
    K_SHARED(unsigned char, unaligned);
    int *ring = reinterpret_cast<int *>(hopper_shared(unaligned));
    uint64_t *full = reinterpret_cast<uint64_t *>(ring + 64), *empty = full + 2;
    if (threadIdx.x < 2) {
        d_phase_make(full + threadIdx.x, 32);
        d_phase_make(empty + threadIdx.x, 32);
        d_phase_fence();
    }
    __syncthreads();
    for (int i = 0; i < count; i++) {
        const int lane = (int)threadIdx.x % 32, place = i % 2;
        if (threadIdx.x < 32) {
            d_phase_wait(empty + place, (i / 2 & 1) ^ 1);
            ring[place * 32 + lane] = i * 100 + lane;
            d_phase_arrive(full + place);
        } else {
            d_phase_wait(full + place, i / 2 & 1);
            out[i * 32 + lane] = ring[place * 32 + (lane ^ 5)];
            d_phase_arrive(empty + place);
        }
    }
}
static void test_phases() {
    const int count = 9;
    buffer<int> out(count * 32);
    in_orders([&]() {
        K_LAUNCH(k_ring, 1, 64, 2048, 0, out.device, count);
        GOOD(cudaGetLastError());
        out.down();
        for (int i = 0; i < count * 32; i++) CHECK_IS(out.host[(size_t)i], i / 32 * 100 + (i % 32 ^ 5));
    });
}

/* Two halves of a block of four warps, each with a barrier of its own; then all. */
static __global__ void k_halves(int *out) {
    K_SHARED(int, s);
    const int thread = (int)threadIdx.x, half = thread / 64;
    for (int round = 0; round < 3; round++) {
        s[thread] = thread * 10 + round;
        d_barrier(1 + half, 64);
        out[round * 128 + thread] = s[thread ^ 33];
        d_barrier(1 + half, 64);
    }
    d_barrier(3, 128);
    if (half == 0) out[3 * 128 + thread] = s[127 - thread];
}
static void test_named_barriers() {
    buffer<int> out(4 * 128);
    in_orders([&]() {
        K_LAUNCH(k_halves, 1, 128, 512, 0, out.device);
        out.down();
        for (int i = 0; i < 384; i++) CHECK_IS(out.host[(size_t)i], (i % 128 ^ 33) * 10 + i / 128);
        for (int i = 0; i < 64; i++) CHECK_IS(out.host[(size_t)(384 + i)], (127 - i) * 10 + 2);
    });
}

/* Copies one box or one column of windows, as 64 halves a line, and gives it out line by line. before: what is there at first. */
static __global__ void k_fetch(const CUtensorMap map, int4 at, int2 offsets, bool windows, bool swizzled, int lines, unsigned short *out, unsigned *before) {
    K_SHARED(unsigned char, unaligned);
    unsigned char *s = hopper_shared(unaligned);
    uint64_t *barrier = reinterpret_cast<uint64_t *>(s + lines * 128);
    if (threadIdx.x == 0) {
        d_phase_make(barrier, 1);
        d_phase_fence();
        d_phase_expect(barrier, lines * 128);
        if (windows) d_tensor_windows(s, &map, at.x, at.y, at.z, at.w, offsets.x, offsets.y, barrier);
        else d_tensor_box(s, &map, at.x, at.y, at.z, barrier);
        *before = *reinterpret_cast<unsigned *>(s);
    }
    __syncthreads();
    d_phase_wait(barrier, 0);
    for (int i = (int)threadIdx.x; i < lines * 64; i += (int)blockDim.x) {
        const int place = i * 2 ^ (swizzled ? i * 2 >> 3 & 0x70 : 0);
        memcpy(out + i, s + place, 2);
    }
}

/* Numbers that tell where they are from; never 0. */
static unsigned short fetch_value(int64_t element) { return (unsigned short)(element * 7 % 65000 + 1); }

static CUresult fetch_boxes(CUtensorMap *map, void *data, cuuint64_t x, cuuint64_t y, cuuint64_t z, cuuint64_t pitch, cuuint32_t box_y, cuuint32_t box_z, bool swizzled) {
    const cuuint64_t sizes[3] = {x, y, z}, strides[2] = {pitch * 2, pitch * 2 * y};
    const cuuint32_t box[3] = {64, box_y, box_z}, steps[3] = {1, 1, 1};
    return cuTensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

static void test_boxes() {
    const int x = 72, y = 5, z = 6, pitch = 80, box_y = 3, box_z = 4, lines = box_y * box_z;
    buffer<unsigned short> in((size_t)(pitch * y * z)), out((size_t)(lines * 64));
    buffer<unsigned> before(1);
    for (size_t i = 0; i < in.host.size(); i++) in.host[i] = fetch_value((int64_t)i);
    in.up();
    const int4 corners[] = {{0, 0, 0, 0}, {64, 1, 2, 0}, {8, 3, 4, 0}, {-8, -1, -2, 0}};
    for (int swizzled = 0; swizzled < 2; swizzled++)
        for (const int4 at : corners)
            in_orders([&]() {
                CUtensorMap map;
                CHECK_IS(fetch_boxes(&map, in.device, x, y, z, pitch, box_y, box_z, swizzled), CUDA_SUCCESS);
                K_LAUNCH(k_fetch, 1, 32, 8192, 0, map, at, int2{0, 0}, false, (bool)swizzled, lines, out.device, before.device);
                out.down();
                int wrong = 0;
                for (int i = 0; i < lines * 64; i++) {
                    const int a = at.x + i % 64, b = at.y + i / 64 % box_y, c = at.z + i / 64 / box_y;
                    const bool inside = a >= 0 && a < x && b >= 0 && b < y && c >= 0 && c < z;
                    wrong += out.host[(size_t)i] != (inside ? fetch_value(((int64_t)c * y + b) * pitch + a) : 0);
                }
                CHECK_MSG(!wrong, "%d of %d elements, from (%d,%d,%d)", wrong, lines * 64, at.x, at.y, at.z);
            });
}

/* Of a convolution of that kernel, stride and padding over (n,h,w) pixels: what tap (r,s) of the windows from number `first` on sees. */
static void windows_case(int n, int h, int w, int kernel, int stride, int padding, int first) {
    const int out_h = (h + 2 * padding - kernel) / stride + 1, out_w = (w + 2 * padding - kernel) / stride + 1, pixels = 40, pitch = 80, c = 72;
    buffer<unsigned short> in((size_t)(pitch * n * h * w)), out((size_t)(pixels * 64));
    buffer<unsigned> before(1);
    for (size_t i = 0; i < in.host.size(); i++) in.host[i] = fetch_value((int64_t)i);
    in.up();
    const cuuint64_t sizes[4] = {(cuuint64_t)c, (cuuint64_t)w, (cuuint64_t)h, (cuuint64_t)n}, strides[3] = {160, 160 * sizes[1], 160 * sizes[1] * sizes[2]};
    const int lower[2] = {-padding, -padding}, upper[2] = {padding - kernel + 1, padding - kernel + 1};
    const cuuint32_t steps[4] = {1, (cuuint32_t)stride, (cuuint32_t)stride, 1};
    CUtensorMap map;
    CHECK_IS(cuTensorMapEncodeIm2col(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, in.device, sizes, strides, lower, upper, 64, (cuuint32_t)pixels, steps,
                                     CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
             CUDA_SUCCESS);
    for (int tap = 0; tap < kernel * kernel; tap++)
        for (int channel = 0; channel < c; channel += 64) {
            const int4 at = {channel, first % out_w * stride - padding, first / out_w % out_h * stride - padding, first / out_w / out_h};
            K_LAUNCH(k_fetch, 1, 32, 8192, 0, map, at, int2{tap % kernel, tap / kernel}, true, true, pixels, out.device, before.device);
            out.down();
            CHECK_IS(before.down()[0], ~0u);
            int wrong = 0;
            for (int i = 0; i < pixels * 64; i++) {
                const int m = first + i / 64, y = m / out_w % out_h * stride - padding + tap / kernel, x = m % out_w * stride - padding + tap % kernel, p = m / out_w / out_h;
                const bool inside = p < n && y >= 0 && y < h && x >= 0 && x < w && channel + i % 64 < c;
                wrong += out.host[(size_t)i] != (inside ? fetch_value((((int64_t)p * h + y) * w + x) * pitch + channel + i % 64) : 0);
            }
            CHECK_MSG(!wrong, "%d of %d elements: %dx%dx%d, kernel %d, stride %d, padding %d, from %d, tap %d", wrong, pixels * 64, n, h, w, kernel, stride, padding, first, tap);
        }
}
static void test_windows() {
    windows_case(2, 5, 7, 3, 1, 1, 0);
    windows_case(2, 5, 7, 3, 1, 1, 37);
    windows_case(2, 7, 9, 3, 2, 1, 11);
    windows_case(3, 6, 8, 3, 2, 1, 5);
    windows_case(2, 9, 6, 1, 2, 0, 3);
    windows_case(2, 6, 6, 6, 2, 2, 4);
    windows_case(50, 1, 1, 3, 1, 1, 20);
}

/* What the driver documents, and refuses. */
static void test_tensor_maps() {
    buffer<unsigned short> x(4096);
    CUtensorMap map;
    CHECK_IS(fetch_boxes(&map, x.device, 64, 8, 8, 64, 8, 8, true), CUDA_SUCCESS);
    CHECK_IS(fetch_boxes(&map, x.device + 4, 64, 8, 7, 64, 8, 7, true), CUDA_ERROR_INVALID_VALUE); /* of 16 bytes */
    CHECK_IS(fetch_boxes(&map, x.device, 64, 8, 7, 68, 8, 7, true), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(fetch_boxes(&map, x.device, 64, 8, 8, 64, 257, 1, true), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(fetch_boxes(&map, x.device, 64, 0, 8, 64, 8, 1, true), CUDA_ERROR_INVALID_VALUE);
    const cuuint64_t sizes[4] = {64, 4, 4, 2}, strides[3] = {128, 512, 2048};
    const auto windows = [&](int lower, int upper, cuuint32_t channels, cuuint32_t pixels, cuuint32_t step) {
        const int from[2] = {lower, lower}, to[2] = {upper, upper};
        const cuuint32_t steps[4] = {1, step, step, 1};
        return cuTensorMapEncodeIm2col(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, x.device, sizes, strides, from, to, channels, pixels, steps,
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    };
    CHECK_IS(windows(-1, -1, 64, 128, 1), CUDA_SUCCESS);
    CHECK_IS(windows(-129, -1, 64, 128, 1), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(windows(-1, 128, 64, 128, 1), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(windows(0, -4, 64, 128, 1), CUDA_ERROR_INVALID_VALUE); /* an empty box */
    CHECK_IS(windows(-1, -1, 72, 128, 1), CUDA_ERROR_INVALID_VALUE); /* a line longer than the swizzle */
    CHECK_IS(windows(-1, -1, 64, 1025, 1), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(windows(-1, -1, 64, 128, 9), CUDA_ERROR_INVALID_VALUE);
    CHECK_IS(windows(-1, -1, 64, 128, 0), CUDA_ERROR_INVALID_VALUE);
    void *function;
    cudaDriverEntryPointQueryResult result;
    GOOD(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result));
    CHECK(function == (void *)cuTensorMapEncodeTiled && result == cudaDriverEntryPointSuccess);
    GOOD(cudaGetDriverEntryPoint("cuNothing", &function, cudaEnableDefault, &result));
    CHECK(!function && result == cudaDriverEntryPointSymbolNotFound);
}

static uint64_t hopper_descriptor(const void *at) { return (d_shared_address(at) & 0x3ffff) >> 4 | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62; }

/* D(64 a warpgroup, 64) = A B, A(64 a warpgroup, 64) and B(64, 64) with rows along the sum; `way` breaks a rule. */
template <bool brain> static __global__ void k_wgmma(const unsigned short *a, const unsigned short *b, float *out, int way) {
    K_SHARED(unsigned char, unaligned);
    const int thread = (int)threadIdx.x, groups = (int)blockDim.x / 128, group = thread / 128;
    unsigned char *s = hopper_shared(unaligned), *filters = s + groups * 8192;
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = (float)i;
    for (int i = thread; i < (groups + 1) * 4096; i += (int)blockDim.x) {
        const int place = i * 2 ^ (i * 2 >> 3 & 0x70);
        memcpy(s + place, i < groups * 4096 ? a + i : b + i - groups * 4096, 2);
    }
    d_phase_fence();
    __syncthreads();
    if (way != 1) d_wgmma_fence();
    for (int k = 0; k < 4; k++) d_wgmma<64, brain>(d, hopper_descriptor(s + group * 8192) + 2 * k + (way == 2 ? 8 : 0), hopper_descriptor(filters) + 2 * k);
    d_wgmma_commit();
    if (way == 3) d[0] = 1;
    if (way == 3) d_wgmma<64, brain>(d, hopper_descriptor(s), hopper_descriptor(filters));
    if (way == 4 && thread == 0) filters[0] ^= 1;
    if (way == 5) out[thread] = d[0];
    if (way == 5) d_wgmma_wait<1>();
    if (way != 6) d_wgmma_wait<0>();
    for (int i = 0; i < 32 && way == 0; i++)
        out[(thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[i] - (float)i;
}
static void test_wgmma() {
    buffer<unsigned short> a(128 * 64), b(64 * 64);
    buffer<float> out(128 * 64);
    for (int brain = 0; brain < 2; brain++) {
        const auto random = [brain]() { return brain ? __bfloat16_as_ushort(__float2bfloat16_rn(test_uniform())) : __half_as_ushort(__float2half_rn(test_uniform())); };
        const auto value = [brain](unsigned short x) { return (double)(brain ? __bfloat162float(__ushort_as_bfloat16(x)) : __half2float(__ushort_as_half(x))); };
        for (unsigned short &x : a.host) x = random();
        for (unsigned short &x : b.host) x = random();
        a.up(), b.up();
        in_orders([&]() {
            if (brain) K_LAUNCH(k_wgmma<true>, 1, 256, 25600, 0, a.device, b.device, out.device, 0);
            else K_LAUNCH(k_wgmma<false>, 1, 256, 25600, 0, a.device, b.device, out.device, 0);
            out.down();
            int wrong = 0;
            for (int m = 0; m < 128; m++)
                for (int n = 0; n < 64; n++) {
                    double sum = 0;
                    for (int k = 0; k < 64; k++) sum += value(a.host[(size_t)(m * 64 + k)]) * value(b.host[(size_t)(n * 64 + k)]);
                    wrong += !(fabs(out.host[(size_t)(m * 64 + n)] - sum) <= 2e-5);
                }
            CHECK_MSG(!wrong, "%d of %d sums", wrong, 128 * 64);
        });
    }
    K_LAUNCH(k_wgmma<false>, 1, 128, 17408, 0, a.device, b.device, out.device, 5);
    for (int i = 0; i < 128; i++) CHECK(std::isnan(out.down()[(size_t)i])); /* not there yet */
}

static __global__ void k_phase_mistake(const CUtensorMap map, int way) {
    K_SHARED(unsigned char, unaligned);
    unsigned char *s = hopper_shared(unaligned);
    uint64_t *barrier = reinterpret_cast<uint64_t *>(s + 1024);
    if (way == 0) d_phase_arrive(barrier);
    d_phase_make(barrier, way == 1 ? 2 : 1);
    if (way == 2) d_phase_arrive(barrier);
    d_phase_fence();
    if (way == 3) *barrier = 0;
    if (way == 4) d_phase_expect(barrier, 64);
    else d_phase_expect(barrier, 1024);
    if (way == 5) d_tensor_box(s + 64, &map, 0, 0, 0, barrier);
    else if (way == 6) d_tensor_windows(s, &map, 0, 0, 0, 0, 0, 0, barrier);
    else d_tensor_box(s, &map, 0, 0, 0, barrier);
    if (way == 7) return;
    d_phase_wait(barrier, 0);
}
static void test_planted_hopper() {
    buffer<unsigned short> x(4096);
    buffer<float> out(128 * 64);
    CUtensorMap map;
    CHECK_IS(fetch_boxes(&map, x.device, 64, 8, 8, 64, 8, 1, true), CUDA_SUCCESS);
    const auto mistake = [&map](int way) { K_LAUNCH(k_phase_mistake, 1, 1, 4096, 0, map, way); };
    DIES("this barrier was never made", mistake(0));
    DIES("waits at a phase of a barrier, line ", mistake(1));
    DIES("no d_phase_fence after this barrier was made", mistake(2));
    DIES("a barrier's memory was overwritten", mistake(3));
    DIES("waits at a phase of a barrier, line ", mistake(4));
    DIES("128-byte aligned", mistake(5));
    DIES("no tensor map of this kind", mistake(6));
    DIES("at its end, copies of tensors are on their way", mistake(7));
    const auto product = [&](int way) { K_LAUNCH(k_wgmma<false>, 1, 128, 17408, 0, x.device, x.device, out.device, way); };
    DIES("no wgmma.fence since the last wait", product(1));
    DIES("begins in the midst of the swizzle's pattern", product(2));
    DIES("accumulators were written before they were waited for", product(3));
    DIES("operands were written before they were waited for", product(4));
    DIES("at its end, a wgmma was not waited for", product(6));
}

/* ---- the runtime ------------------------------------------------------------------------------------------------- */

static void test_devices() {
    int n = -1, driver = -1, can = -1;
    GOOD(cudaGetDeviceCount(&n));
    CHECK_IS(n, 2);
    emulate_set_device_count(0);
    CHECK_IS(cudaGetDeviceCount(&n), cudaErrorNoDevice);
    CHECK_IS(cudaGetLastError(), cudaErrorNoDevice);
    emulate_set_device_count(-1);
    CHECK_IS(cudaGetDeviceCount(&n), cudaErrorInsufficientDriver);
    GOOD(cudaDriverGetVersion(&driver));
    CHECK_IS(driver, 0);
    emulate_set_device_count(-2);
    CHECK_IS(cudaGetDeviceCount(&n), cudaErrorInsufficientDriver);
    GOOD(cudaDriverGetVersion(&driver));
    int runtime = 0;
    GOOD(cudaRuntimeGetVersion(&runtime));
    CHECK(driver > 0 && driver < runtime);
    emulate_reset();
    emulate_set_device_count(3);
    emulate_set_capability(7, 5);
    cudaDeviceProp p;
    GOOD(cudaGetDeviceProperties(&p, 2));
    CHECK(p.major == 7 && p.minor == 5 && p.warpSize == 32 && p.sharedMemPerBlockOptin == 64 << 10 && !strcmp(p.name, "Emulated GPU 2"));
    CHECK_IS(cudaGetDeviceProperties(&p, 3), cudaErrorInvalidDevice);
    GOOD(cudaDeviceGetAttribute(&n, cudaDevAttrComputeCapabilityMajor, 1));
    CHECK_IS(n, 7);
    CHECK_IS(cudaSetDevice(3), cudaErrorInvalidDevice);
    GOOD(cudaSetDevice(2));
    GOOD(cudaGetDevice(&n));
    CHECK_IS(n, 2);
    std::thread([]() {
        int other = -1;
        GOOD(cudaGetDevice(&other)); /* each OS thread has its own */
        CHECK_IS(other, 0);
    }).join();
    GOOD(cudaDeviceCanAccessPeer(&can, 0, 1));
    CHECK_IS(can, 1);
    GOOD(cudaDeviceEnablePeerAccess(1, 0));
    CHECK_IS(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessAlreadyEnabled);
    (void)cudaGetLastError();
    GOOD(cudaSetDevice(0));
    CHECK(!strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory") && !strcmp(cudaGetErrorName(cudaErrorNotReady), "cudaErrorNotReady"));
    emulate_reset();
}

static void test_memory() {
    signed char *x = NULL, *y = NULL, *h = NULL;
    size_t free_bytes, total;
    emulate_set_memory(1 << 20);
    GOOD(cudaMalloc(&x, 600 << 10));
    CHECK(x && (uintptr_t)x % 256 == 0);
    CHECK_IS(cudaMalloc(&y, 600 << 10), cudaErrorMemoryAllocation);
    CHECK(!y);
    CHECK_IS(cudaGetLastError(), cudaErrorMemoryAllocation);
    GOOD(cudaMemGetInfo(&free_bytes, &total));
    CHECK(total == 1 << 20 && free_bytes == 424 << 10);
    GOOD(cudaSetDevice(1));
    GOOD(cudaMalloc(&y, 600 << 10)); /* the other device's */
    GOOD(cudaSetDevice(0));
    GOOD(cudaMallocHost(&h, 1000));
    std::vector<signed char> back(600 << 10);
    memset(h, 5, 1000);
    GOOD(cudaMemcpy(x + 100, h, 1000, cudaMemcpyHostToDevice));
    GOOD(cudaMemset(x + 200, 7, 10));
    GOOD(cudaMemcpyPeerAsync(y, 1, x, 0, 2000, 0));
    GOOD(cudaMemcpy(back.data(), y, 2000, cudaMemcpyDefault));
    CHECK(back[99] == -1 && back[100] == 5 && back[199] == 5 && back[200] == 7 && back[209] == 7 && back[210] == 5 && back[1099] == 5 && back[1100] == -1);
    CHECK_IS(cudaMemcpyPeerAsync(y, 0, x, 1, 2000, 0), cudaErrorInvalidValue);
    CHECK_IS(cudaMemcpy(x, h, 1000, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    CHECK_IS(cudaMemcpy(x, h, 1001, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    CHECK_IS(cudaMemcpy(x + (600 << 10) - 999, h, 1000, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    CHECK_IS(cudaMemset(x, 0, (600 << 10) + 1), cudaErrorInvalidValue);
    CHECK_IS(cudaFree(x + 1), cudaErrorInvalidValue);
    CHECK_IS(cudaFree(h), cudaErrorInvalidValue);
    for (int i = 0; i < 1000; i++) h[i] = (signed char)(i % 100);
    GOOD(cudaMemcpy2DAsync(x, 300, h, 100, 50, 10, cudaMemcpyHostToDevice));
    GOOD(cudaMemcpy(back.data(), x, 3000, cudaMemcpyDeviceToHost));
    for (int row = 0; row < 10; row++) CHECK(back[row * 300] == 0 && back[row * 300 + 49] == 49 && back[row * 300 + 51] != 51);
    CHECK_IS(cudaMemcpy2DAsync(x, 40, h, 100, 50, 10, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);
    CHECK_IS(emulate_allocated(0), (size_t)600 << 10);
    GOOD(cudaFree(x));
    CHECK_IS(cudaFree(x), cudaErrorInvalidValue);
    GOOD(cudaFree(NULL));
    GOOD(cudaFree(y));
    GOOD(cudaFreeHost(h));
    GOOD(cudaMalloc(&x, 0));
    CHECK(!x && emulate_allocated(0) == 0 && emulate_allocated(1) == 0 && emulate_allocated(-1) == 0);
    (void)cudaGetLastError();
    emulate_reset();
}

static __global__ void k_add(int *x, int n) { x[threadIdx.x] += n; }
static __global__ void k_copy(const int *x, int *y) { y[threadIdx.x] = x[threadIdx.x]; }

static void test_streams() {
    cudaStream_t s = NULL, other = NULL;
    cudaEvent_t a = NULL, b = NULL, plain = NULL;
    float ms = -1;
    buffer<int> x(32);
    GOOD(cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, -1));
    GOOD(cudaEventCreate(&a));
    GOOD(cudaEventCreate(&b));
    GOOD(cudaEventCreateWithFlags(&plain, cudaEventDisableTiming));
    GOOD(cudaEventRecord(a, s));
    GOOD(cudaMemsetAsync(x.device, 0, 128, s));
    for (int i = 0; i < 10; i++) K_LAUNCH(k_add, 1, 32, 0, s, x.device, i);
    GOOD(cudaEventRecord(b, s));
    GOOD(cudaEventSynchronize(b));
    GOOD(cudaEventElapsedTime(&ms, a, b));
    CHECK(fabsf(ms - (1000 + 128 / 16 + 10 * (1000 + 32)) * 1e-6f) < 1e-6f); /* the emulation's own clock */
    CHECK_IS(cudaEventElapsedTime(&ms, a, plain), cudaErrorInvalidResourceHandle);
    CHECK_IS(x.down()[31], 45);
    GOOD(cudaStreamQuery(s));
    GOOD(cudaSetDevice(1));
    GOOD(cudaStreamCreate(&other));
    GOOD(cudaStreamWaitEvent(other, b, 0));
    GOOD(cudaSetDevice(0));
    K_LAUNCH(k_add, 1, 32, 0, other, x.device, 1); /* a stream of a device that is not the current one */
    CHECK_IS(cudaGetLastError(), cudaErrorInvalidResourceHandle);
    CHECK_IS(cudaEventRecord(b, other), cudaErrorInvalidResourceHandle);
    GOOD(cudaStreamDestroy(other));
    CHECK_IS(cudaStreamDestroy(other), cudaErrorInvalidResourceHandle);
    CHECK_IS(cudaStreamSynchronize(other), cudaErrorInvalidResourceHandle);
    GOOD(cudaStreamDestroy(s));
    GOOD(cudaEventDestroy(a));
    GOOD(cudaEventDestroy(b));
    GOOD(cudaEventDestroy(plain));
    CHECK_IS(cudaEventDestroy(plain), cudaErrorInvalidResourceHandle);
    CHECK_IS(emulate_handles(), 0);
    (void)cudaGetLastError();
}

/* What k_copy leaves of two numbers that follow each other through `from`, on a stream of their own: each copy waits for the number,
   each number but the first for the copy before, or not. */
static int handshake(bool copies_wait, bool numbers_wait) {
    cudaStream_t copies = NULL, work = NULL;
    cudaEvent_t there = NULL, used = NULL;
    int *numbers = NULL;
    GOOD(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
    GOOD(cudaStreamCreateWithFlags(&work, cudaStreamNonBlocking));
    GOOD(cudaEventCreateWithFlags(&there, cudaEventDisableTiming));
    GOOD(cudaEventCreateWithFlags(&used, cudaEventDisableTiming));
    GOOD(cudaMallocHost(&numbers, 256));
    buffer<int> from(32), to(64);
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < 32; k++) numbers[32 * i + k] = i + 1;
        GOOD(cudaMemcpyAsync(from.device, numbers + 32 * i, 128, cudaMemcpyHostToDevice, copies));
        GOOD(cudaEventRecord(there, copies));
        if (copies_wait) GOOD(cudaStreamWaitEvent(work, there, 0));
        K_LAUNCH(k_copy, 1, 32, 0, work, from.device, to.device + 32 * i);
        GOOD(cudaEventRecord(used, work));
        if (numbers_wait) GOOD(cudaStreamWaitEvent(copies, used, 0));
    }
    GOOD(cudaStreamSynchronize(work));
    const int result = 10 * to.down()[0] + to.down()[32];
    GOOD(cudaStreamDestroy(copies));
    GOOD(cudaStreamDestroy(work));
    GOOD(cudaEventDestroy(there));
    GOOD(cudaEventDestroy(used));
    GOOD(cudaFreeHost(numbers));
    return result;
}

/* Streams that wait for each other come to the same whichever goes first; a wait that is missing shows. */
static void test_ahead() {
    for (uint64_t lazy = 0; lazy < 20; lazy++) {
        emulate_set_lazy(lazy);
        CHECK_IS(handshake(true, true), 12);
    }
    emulate_set_lazy(0);
    CHECK_IS(handshake(false, false), 12);
    emulate_set_lazy(1);
    CHECK(handshake(false, true) != 12);
    emulate_set_lazy(2);
    CHECK_IS(handshake(true, false), 22);
    bool seen = false;
    for (uint64_t lazy = 3; lazy < 20 && !seen; lazy++) {
        emulate_set_lazy(lazy);
        seen = handshake(true, false) != 12;
    }
    CHECK(seen);
    emulate_set_lazy(0);
}

/* A host that waits gets what it should, in every order; one that does not gets what was there before. */
static void test_lazy() {
    cudaStream_t s = NULL, u = NULL;
    cudaEvent_t e = NULL;
    int *pinned = NULL;
    GOOD(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    GOOD(cudaStreamCreateWithFlags(&u, cudaStreamNonBlocking));
    GOOD(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    GOOD(cudaMallocHost(&pinned, 128));
    buffer<int> x(32), y(32);
    emulate_set_lazy(1);
    for (int i = 0; i < 32; i++) pinned[i] = 1;
    GOOD(cudaMemcpyAsync(x.device, pinned, 128, cudaMemcpyHostToDevice, s));
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, 10);
    GOOD(cudaEventRecord(e, s));
    CHECK_IS(cudaEventQuery(e), cudaErrorNotReady);
    GOOD(cudaStreamWaitEvent(u, e, 0));
    K_LAUNCH(k_copy, 1, 32, 0, u, x.device, y.device);
    GOOD(cudaMemcpyAsync(pinned, y.device, 128, cudaMemcpyDeviceToHost, u));
    CHECK_IS(pinned[0], 1); /* not waited for */
    GOOD(cudaStreamSynchronize(u));
    CHECK_IS(pinned[0], 11);
    for (int i = 0; i < 32; i++) pinned[i] = 5;
    GOOD(cudaMemcpyAsync(x.device, pinned, 128, cudaMemcpyHostToDevice, s));
    K_LAUNCH(k_copy, 1, 32, 0, u, x.device, y.device); /* does not wait for s */
    for (int i = 0; i < 32; i++) pinned[i] = 6; /* still needed */
    GOOD(cudaDeviceSynchronize());
    std::vector<int> local(32);
    GOOD(cudaMemcpyAsync(local.data(), x.device, 128, cudaMemcpyDeviceToHost, s)); /* memory that is not pinned */
    CHECK_IS(local[0], 6);
    local[0] = 8;
    GOOD(cudaMemcpyAsync(x.device, local.data(), 128, cudaMemcpyHostToDevice, s));
    local[0] = 9;
    GOOD(cudaStreamSynchronize(s));
    CHECK_IS(x.down()[0], 8);
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, 1);
    emulate_set_lazy(0);
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, -1); /* behind the one that is queued */
    GOOD(cudaStreamQuery(s));
    emulate_set_lazy(1);
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, 1);
    int steps = 0;
    while (cudaStreamQuery(s) == cudaErrorNotReady && steps < 100) steps++;
    CHECK_IS(x.down()[0], 9);
    emulate_reset();
    GOOD(cudaStreamDestroy(s));
    GOOD(cudaStreamDestroy(u));
    GOOD(cudaEventDestroy(e));
    GOOD(cudaFreeHost(pinned));
}

/* Memory of a device is not the host's, nor another device's without peer access. */
static void test_protect() {
    cudaStream_t s = NULL;
    emulate_set_protect(1);
    buffer<int> x(32), y(32);
    GOOD(cudaMemset(x.device, 0, 128));
    K_LAUNCH(k_add, 1, 32, 0, 0, x.device, 4);
    K_LAUNCH(k_copy, 1, 32, 0, 0, x.device, y.device);
    CHECK_IS(y.down()[31], 4);
    GOOD(cudaDeviceSynchronize());
    DIES("the host touches byte 124 of 128 of memory of device 0", x.device[31] = 1);
    GOOD(cudaSetDevice(1));
    GOOD(cudaStreamCreate(&s));
    DIES("thread (0,0,0): touches byte 0 of 128 of memory of device 0, whose peer it is not", K_LAUNCH(k_add, 1, 32, 0, s, x.device, 1));
    GOOD(cudaDeviceEnablePeerAccess(0, 0));
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, 1);
    GOOD(cudaStreamSynchronize(s));
    GOOD(cudaStreamDestroy(s));
    GOOD(cudaSetDevice(0));
    CHECK_IS(x.down()[0], 5);
    emulate_reset();
}

static void test_graphs() {
    cudaStream_t s = NULL, u = NULL;
    cudaEvent_t fork = NULL, join = NULL;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    buffer<int> x(32), y(32);
    void *memory = NULL;
    GOOD(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    GOOD(cudaStreamCreateWithFlags(&u, cudaStreamNonBlocking));
    GOOD(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    GOOD(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    GOOD(cudaMemset(x.device, 0, 128));
    GOOD(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    int n = 3;
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, n);
    n = 1000; /* arguments were copied */
    GOOD(cudaEventRecord(fork, s));
    GOOD(cudaStreamWaitEvent(u, fork, 0));
    K_LAUNCH(k_copy, 1, 32, 0, u, x.device, y.device);
    GOOD(cudaEventRecord(join, u));
    GOOD(cudaStreamWaitEvent(s, join, 0));
    GOOD(cudaMemsetAsync(x.device, 1, 4, s));
    GOOD(cudaStreamEndCapture(s, &graph));
    CHECK_IS(x.down()[0], 0); /* nothing ran */
    GOOD(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    GOOD(cudaGraphDestroy(graph));
    emulate_reset();
    for (int i = 0; i < 4; i++) GOOD(cudaGraphLaunch(exec, s));
    GOOD(cudaStreamSynchronize(s));
    CHECK_IS(emulate_launches(), 8);
    CHECK(x.down()[0] == 0x01010101 && x.host[1] == 12 && y.down()[1] == 12 && y.host[0] == 0x01010101 + 3);
    GOOD(cudaGraphExecDestroy(exec));
    CHECK_IS(cudaGraphLaunch(exec, s), cudaErrorInvalidValue);

    /* What may not be done meanwhile */
    GOOD(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    std::thread([]() { buffer<int> elsewhere(10); }).join(); /* another thread may */
    CHECK_IS(cudaMalloc(&memory, 100), cudaErrorStreamCaptureUnsupported);
    CHECK(!memory);
    CHECK_IS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    GOOD(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_IS(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    CHECK_IS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    GOOD(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    GOOD(cudaEventRecord(fork, s));
    GOOD(cudaStreamWaitEvent(u, fork, 0));
    CHECK_IS(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureUnjoined);
    CHECK(!graph);
    CHECK_IS(cudaStreamEndCapture(s, &graph), cudaErrorInvalidValue);
    CHECK_IS(cudaStreamBeginCapture(0, cudaStreamCaptureModeThreadLocal), cudaErrorStreamCaptureUnsupported);
    K_LAUNCH(k_add, 1, 32, 0, s, x.device, 1); /* all is as before */
    GOOD(cudaStreamSynchronize(s));
    CHECK_IS(x.down()[1], 13);
    GOOD(cudaStreamDestroy(s));
    GOOD(cudaStreamDestroy(u));
    GOOD(cudaEventDestroy(fork));
    GOOD(cudaEventDestroy(join));
    CHECK_IS(emulate_handles(), 0);
    (void)cudaGetLastError();
}

/* A host that gives up at the first failure and frees all that it has. */
static bool careful_host() {
    cudaStream_t s = NULL;
    int *x = NULL, *h = NULL;
    bool good = cudaStreamCreate(&s) == cudaSuccess && cudaMalloc(&x, 128) == cudaSuccess && cudaMallocHost(&h, 128) == cudaSuccess &&
                cudaMemsetAsync(x, 0, 128, s) == cudaSuccess;
    if (good) {
        K_LAUNCH(k_add, 1, 32, 0, s, x, 4);
        good = cudaGetLastError() == cudaSuccess && cudaMemcpyAsync(h, x, 128, cudaMemcpyDeviceToHost, s) == cudaSuccess && cudaStreamSynchronize(s) == cudaSuccess;
    }
    if (good) CHECK_IS(h[31], 4);
    if (h) good &= cudaFreeHost(h) == cudaSuccess;
    if (x) good &= cudaFree(x) == cudaSuccess;
    if (s) good &= cudaStreamDestroy(s) == cudaSuccess;
    return good;
}
static void test_faults() {
    int n = 1;
    for (;; n++) {
        (void)cudaGetLastError();
        emulate_fail_after(n);
        const bool good = careful_host();
        CHECK(emulate_allocated(0) == 0 && emulate_allocated(-1) == 0 && emulate_handles() == 0);
        CHECK_IS(good, !emulate_failed());
        if (!emulate_failed()) break;
    }
    CHECK_IS(n, 11);
    emulate_fail_after(3);
    emulate_fail_with(cudaErrorECCUncorrectable, true); /* a device that is lost */
    CHECK(!careful_host());
    CHECK_IS(cudaDeviceSynchronize(), cudaErrorECCUncorrectable);
    CHECK(emulate_allocated(0) == 0 && emulate_allocated(-1) == 0 && emulate_handles() == 0);
    emulate_fail_after(1);
    emulate_fail_with(cudaErrorECCUncorrectable, false);
    CHECK_IS(cudaDeviceSynchronize(), cudaErrorECCUncorrectable);
    GOOD(cudaDeviceSynchronize());
    emulate_reset();
    CHECK(careful_host());
    CHECK_IS(emulate_calls(), 10);
    emulate_reset();
}

/* Host threads with a device each. */
static void test_host_threads() {
    std::vector<std::thread> threads;
    bool good[4] = {false};
    emulate_set_device_count(4);
    for (int device = 0; device < 4; device++)
        threads.emplace_back([device, &good]() {
            good[device] = cudaSetDevice(device) == cudaSuccess;
            for (int round = 0; round < 20; round++) {
                buffer<float> x(64 * 96), out(64 * 96);
                std::fill(x.host.begin(), x.host.end(), 1.0f);
                x.up();
                K_LAUNCH(k_relay, 64, 96, 96 * sizeof(float), 0, x.device, out.device);
                out.down();
                for (float v : out.host) good[device] &= v == out.host[0];
            }
        });
    for (std::thread &t : threads) t.join();
    for (bool g : good) CHECK(g);
    emulate_reset();
}

/* ---- costs ------------------------------------------------------------------------------------------------------- */

static __global__ void k_barriers(int n) {
    for (int i = 0; i < n; i++) __syncthreads();
}
static __global__ void k_shuffle_chain(int n, int *out) {
    unsigned x = threadIdx.x;
    for (int i = 0; i < n; i++) x += __shfl_xor_sync(0xffffffffu, x, 1);
    out[threadIdx.x] = (int)x;
}
static __global__ void k_products(int n, float *out) {
    float d[4] = {0};
    uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};
    for (int i = 0; i < n; i++) d_mma_f16(d, a, b);
    out[threadIdx.x] = d[0];
}
static double seconds() { /* of this thread on a processor */
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
template <typename F> static double nanoseconds(double count, F work) {
    const double start = seconds();
    work();
    return (seconds() - start) * 1e9 / count;
}
static void test_costs() {
    buffer<float> out(1 << 20);
    emulate_set_workers(1);
    const int n = 2000;
    for (uint64_t order : {0, 1, 2}) {
        emulate_set_order(order);
        printf("     %s: ns a barrier and thread %.1f, a shuffle and thread %.1f, an mma of a warp %.0f, a thread that waits for nobody %.1f, a launch %.0f\n",
               order == 0 ? "forward " : order == 1 ? "backward" : "shuffled",
               nanoseconds(n * 256.0, [&]() { K_LAUNCH(k_barriers, 1, 256, 0, 0, n); }),
               nanoseconds(n * 256.0, [&]() { K_LAUNCH(k_shuffle_chain, 1, 256, 0, 0, n, (int *)out.device); }),
               nanoseconds(n * 8.0, [&]() { K_LAUNCH(k_products, 1, 256, 0, 0, n, out.device); }),
               nanoseconds(1 << 20, [&]() { K_LAUNCH((k_count<float, 3>), 1 << 12, 256, 0, 0, out.device); }),
               nanoseconds(n, [&]() { for (int i = 0; i < n; i++) K_LAUNCH(k_empty, 1, 1, 0, 0); }));
    }
    emulate_reset();
}

/* ---- all of them -------------------------------------------------------------------------------------------------- */

struct test_case { const char *name, *what; void (*run)(); };
static const test_case tests[] = {
    {"half", "fp16 from and to float", test_half},
    {"bfloat", "bf16 from and to float", test_bfloat},
    {"bits", "bits, roundings, minima", test_bits},
    {"indices", "threadIdx and the like; arguments; template kernels", test_indices},
    {"limits", "what a launch may ask for", test_limits},
    {"barrier", "__syncthreads hands shared memory on", test_barrier},
    {"barrier-votes", "__syncthreads_count, _or, _and", test_barrier_votes},
    {"poison", "memory is all ones before it is written", test_poison},
    {"shuffle", "all shuffles, widths and types", test_shuffle},
    {"masks", "votes and shuffles of parts of a warp", test_masks},
    {"atomics", "atomics, the last block", test_atomics},
    {"mma", "matrix products through ldmatrix against double", test_mma},
    {"mma-tile", "a tile at one meeting: the bits of its single instructions", test_mma_tile},
    {"mma-special", "infinities, NaNs, denormals", test_mma_special},
    {"copy-async", "copies arrive with their wait, not before", test_copy_async},
    {"planted-race", "a missing barrier shows in some order", test_planted_race},
    {"planted-deadlock", "barriers that not all reach", test_planted_deadlock},
    {"planted-masks", "masks that name wrong lanes", test_planted_masks},
    {"planted-overrun", "writes and rows beyond memory", test_planted_overrun},
    {"phases", "barriers that count arrivals: a ring of two places", test_phases},
    {"named-barriers", "barriers of some of the warps", test_named_barriers},
    {"boxes", "boxes of a tensor, swizzled or not, zeros beyond it", test_boxes},
    {"windows", "what a tap of a convolution sees, against its definition", test_windows},
    {"tensor-maps", "what the driver refuses", test_tensor_maps},
    {"wgmma", "products of warpgroups against double; nothing is there before the wait", test_wgmma},
    {"planted-hopper", "barriers, copies and products used wrongly", test_planted_hopper},
    {"devices", "devices, versions, properties", test_devices},
    {"memory", "allocations and copies", test_memory},
    {"streams", "streams and events", test_streams},
    {"ahead", "streams that wait for each other, and that do not", test_ahead},
    {"lazy", "a host that does not wait", test_lazy},
    {"protect", "memory of a device is not the host's", test_protect},
    {"graphs", "recorded work", test_graphs},
    {"faults", "each call fails once", test_faults},
    {"host-threads", "several host threads launch", test_host_threads},
    {"costs", "of a barrier, a shuffle, an mma, a thread, a launch", test_costs},
};

int main(int argc, char **argv) {
    const bool list = argc > 1 && !strcmp(argv[1], "--list");
    int passed = 0, failed = 0, skipped = 0;
    setvbuf(stdout, NULL, _IOLBF, 4096);
#ifdef TEST_TSAN
    if (argc == 3 && !strcmp(argv[1], "--planted")) return planted_race(argv[2]), 0;
#endif
    for (const test_case &test : tests) {
        bool wanted = argc == 1 || list;
        for (int i = 1; i < argc; i++) wanted |= !strncmp(test.name, argv[i], strlen(argv[i]));
        if (!wanted) continue;
        if (list) {
            printf("%-18s %s\n", test.name, test.what);
            continue;
        }
        test_failures = 0;
        test_skipped = NULL;
        emulate_reset();
        test.run();
        if (test_failures) failed++;
        else if (test_skipped) skipped++;
        else passed++;
        printf("%s %s%s%s\n", test_failures ? "FAIL" : test_skipped ? "skip" : "ok  ", test.name, test_skipped ? ": " : "", test_skipped ? test_skipped : "");
    }
    if (list) return 0;
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0 || (!passed && !skipped);
}
