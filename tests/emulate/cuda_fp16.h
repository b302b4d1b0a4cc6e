/* cuda_fp16.h - half precision on the host: see emulate.h. */
#ifndef EMULATE_FP16_H
#define EMULATE_FP16_H

#include "cuda_runtime.h"

struct alignas(2) __half { unsigned short bits; };
struct alignas(4) __half2 { __half x, y; };
typedef __half half;
typedef __half2 half2;

inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline short __half_as_short(__half h) { return (short)h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline __half __short_as_half(short bits) { return {(unsigned short)bits}; }

/* To the nearest, ties to even; NaNs become one. */
inline __half __float2half_rn(float x) {
    unsigned u = __float_as_uint(x), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return {0x7fff};
    if (u >= 0x47800000) return {(unsigned short)(sign | 0x7c00)};
    /* Below 2^-14 the last bit of x + 0.5 is the last bit of a denormal half. */
    if (u < 0x38800000) return {(unsigned short)(sign | (__float_as_uint(__uint_as_float(u) + 0.5f) - 0x3f000000))};
    return {(unsigned short)(sign | ((u + 0xfff + (u >> 13 & 1) - 0x38000000) >> 13))};
}
inline float __half2float(__half h) {
    const unsigned magnitude = h.bits & 0x7fff, sign = (unsigned)(h.bits & 0x8000) << 16;
    /* The exponent's bias is 112 larger in a float; the product makes denormals normal. */
    const unsigned scaled = __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f);
    return __uint_as_float(sign | scaled | (magnitude >= 0x7c00 ? 0x7f800000 : 0));
}
inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline __half2 __float2half2_rn(float x) { return __floats2half2_rn(x, x); }
inline __half2 __float22half2_rn(float2 x) { return __floats2half2_rn(x.x, x.y); }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline bool __hisnan(__half h) { return (h.bits & 0x7fff) > 0x7c00; }
inline int __hisinf(__half h) { return h.bits == 0x7c00 ? 1 : h.bits == 0xfc00 ? -1 : 0; }

/* The larger, or the NaN. */
inline __half2 __hmax2_nan(__half2 a, __half2 b) {
    const auto larger = [](__half x, __half y) { return __hisnan(x) || __hisnan(y) ? __half{0x7fff} : __half2float(x) > __half2float(y) ? x : y; };
    return {larger(a.x, b.x), larger(a.y, b.y)};
}

#endif
