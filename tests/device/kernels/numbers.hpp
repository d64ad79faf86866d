// Number types of candle's kernels as C++: f16 and bf16 with operators, f8 by name only. Includes the emulator, whose own
// bf16 has none.
#pragma once
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#define __nv_bfloat16 raw_bf16
#define __nv_bfloat162 raw_bf162
#define __bfloat162float raw_to_float
#define __float2bfloat16 raw_from_float
#define __float2bfloat16_rn raw_from_float_rn
#define __bfloat1622float2 raw_two
#define __floats2bfloat162_rn raw_pair
#define __float22bfloat162_rn raw_pair2
#define __bfloat16_as_ushort raw_bits
#define __ushort_as_bfloat16 raw_of_bits
#include "emulator.hpp"
#undef __nv_bfloat16
#undef __nv_bfloat162
#undef __bfloat162float
#undef __float2bfloat16
#undef __float2bfloat16_rn
#undef __bfloat1622float2
#undef __floats2bfloat162_rn
#undef __float22bfloat162_rn
#undef __bfloat16_as_ushort
#undef __ushort_as_bfloat16

struct Bf16 {
  static uint16_t pack(float x) { return raw_from_float(x).bits; }
  static float unpack(uint16_t bits) { return raw_to_float({bits}); }
};
struct F16 {
  static uint16_t pack(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    if (magnitude < 0x38800000) return sign | (uint16_t)std::nearbyint(std::ldexp(__uint_as_float(magnitude), 24));
    return sign | ((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
  }
  static float unpack(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float x = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024.f + fraction, exponent - 25) : std::ldexp((float)fraction, -24);
    return bits & 0x8000 ? -x : x;
  }
};
struct F8 {
  static uint8_t pack(float) { emulator::fail("f8 is not covered"); }
  static float unpack(uint8_t) { emulator::fail("f8 is not covered"); }
};

// A number that is stored as `Bits` and computed with as f32, rounded after each operation.
template <class Format, class Bits> struct Small {
  union {
    Bits bits, __x;
  };
  Small() = default;
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> Small(T x) : bits(Format::pack((float)x)) {}
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> operator T() const { return (T)Format::unpack(bits); }
  float f() const { return Format::unpack(bits); }
  Small operator-() const { return Small(-f()); }
  Small &operator+=(Small o) { return *this = Small(f() + o.f()); }
  Small &operator*=(float x) { return *this = Small(f() * x); }
  friend Small operator+(Small a, Small b) { return Small(a.f() + b.f()); }
  friend Small operator-(Small a, Small b) { return Small(a.f() - b.f()); }
  friend Small operator*(Small a, Small b) { return Small(a.f() * b.f()); }
  friend Small operator/(Small a, Small b) { return Small(a.f() / b.f()); }
  friend bool operator<(Small a, Small b) { return a.f() < b.f(); }
  friend bool operator>(Small a, Small b) { return a.f() > b.f(); }
  friend bool operator<=(Small a, Small b) { return a.f() <= b.f(); }
  friend bool operator>=(Small a, Small b) { return a.f() >= b.f(); }
  friend bool operator==(Small a, Small b) { return a.f() == b.f(); }
  friend bool operator!=(Small a, Small b) { return a.f() != b.f(); }
};
using __nv_bfloat16 = Small<Bf16, uint16_t>;
using __half = Small<F16, uint16_t>;
using __nv_fp8_e4m3 = Small<F8, uint8_t>;
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
struct __half2 {
  __half x, y;
};

inline float __bfloat162float(__nv_bfloat16 x) { return x.f(); }
inline __nv_bfloat16 __float2bfloat16(float x) { return {x}; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {x}; }
inline float __half2float(__half x) { return x.f(); }
inline __half __float2half(float x) { return {x}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) {
  __half x;
  x.bits = bits;
  return x;
}
#define __NV_E4M3 0
inline __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { emulator::fail("f8 is not covered"); }
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }

#define OF_SMALL(name, function) \
  template <class F, class B> Small<F, B> name(Small<F, B> a) { return function(a.f()); }
OF_SMALL(hsqrt, std::sqrt)
OF_SMALL(hcos, std::cos)
OF_SMALL(hsin, std::sin)
OF_SMALL(hexp, std::exp)
OF_SMALL(hlog, std::log)
OF_SMALL(__habs, std::fabs)
template <class F, class B> bool __hisnan(Small<F, B> a) { return std::isnan(a.f()); }
template <class F, class B> bool isnan(Small<F, B> a) { return std::isnan(a.f()); }
using std::isnan;
using std::signbit;
template <class F, class B> Small<F, B> __hmax_nan(Small<F, B> a, Small<F, B> b) { return __hisnan(a) || __hisnan(b) ? Small<F, B>(NAN) : Small<F, B>(std::fmax(a.f(), b.f())); }
template <class F, class B> Small<F, B> __hmin_nan(Small<F, B> a, Small<F, B> b) { return __hisnan(a) || __hisnan(b) ? Small<F, B>(NAN) : Small<F, B>(std::fmin(a.f(), b.f())); }

inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678118654752440f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }
template <class A, class B, class = std::enable_if_t<!std::is_same_v<A, B> && std::is_integral_v<A> && std::is_integral_v<B>>> std::common_type_t<A, B> min(A a, B b) { return a < b ? a : b; }
namespace cuda {
namespace std {
template <class T> using numeric_limits = ::std::numeric_limits<T>;
}
}  // namespace cuda
