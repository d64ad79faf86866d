// AdamW in one pass. Every product and sum is rounded on its own, as on the CPU, so that both give the same bits.
#include "common.cuh"

namespace {

__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }

// See model::ops::cuda::adamw::Rates.
struct Rates {
  float scale, first, keep_second, second, keep, size, correction, epsilon;
};
}  // namespace

#define RATES float scale, float first_rate, float keep_second, float second_rate, float keep, float size, \
              float correction, float epsilon
#define GIVEN_RATES Rates{scale, first_rate, keep_second, second_rate, keep, size, correction, epsilon}

namespace {

__device__ inline float moved(float w, float &m, float &v, float gradient, const Rates &rates) {
  float g = times(gradient, rates.scale);
  m = plus(m, times(rates.first, plus(g, -m)));
  v = plus(times(rates.keep_second, v), times(times(rates.second, g), g));
  float root = plus(sqrtf(v) / rates.correction, rates.epsilon);
  return plus(times(rates.keep, w), -times(rates.size, m / root));
}

}  // namespace

// For a state in f32; an f32 weight is its own master.
KERNEL(256, adamw_f32, float *weight, float *first, float *second, const float *gradient, long long count, RATES) {
  long long i = global_index();
  if (i >= count) return;
  weight[i] = moved(weight[i], first[i], second[i], gradient[i], GIVEN_RATES);
}
KERNEL(256, adamw_bf16, float *master, float *first, float *second, const bf16 *gradient, bf16 *weight,
       long long count, RATES) {
  long long i = global_index();
  if (i >= count) return;
  float w = moved(master[i], first[i], second[i], to_float(gradient[i]), GIVEN_RATES);
  master[i] = w;
  weight[i] = from_float<bf16>(w);
}

namespace {

// The maps and the rounding of the 8-bit moments and the split master: see train::optimizer::compact.
constexpr uint32_t DROPPED = 20, ONE = 0x3f800000u >> DROPPED;
constexpr uint32_t FIRST_OFFSET = ONE - 127, SECOND_OFFSET = ONE - 255, SMALLEST = (FIRST_OFFSET + 1) << DROPPED;

__device__ inline uint32_t hash(uint32_t seed, uint32_t index) {
  uint32_t x = seed ^ index;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

__device__ inline float decoded_first(uint8_t code, float scale) {
  uint32_t magnitude = code & 0x7f, kept = magnitude == 0 ? 0 : magnitude + FIRST_OFFSET;
  return times(__uint_as_float(kept << DROPPED | (uint32_t)(code & 0x80) << 24), scale);
}

__device__ inline float decoded_second(uint8_t code, float scale) {
  return times(__uint_as_float((code + SECOND_OFFSET) << DROPPED), scale);
}

__device__ inline uint32_t rounded(float relative, uint32_t noise) {
  return (__float_as_uint(relative) + (noise << (DROPPED - 16))) >> DROPPED;
}

__device__ inline uint8_t first_code(float value, float scale, uint32_t noise) {
  float relative = scale > 0.0f ? fabsf(value) / scale : 0.0f;
  uint32_t magnitude;
  if (__float_as_uint(relative) < SMALLEST) {
    float threshold = times(times(plus((float)noise, 0.5f), __uint_as_float(SMALLEST)), 1.0f / 65536.0f);
    magnitude = relative > threshold;
  } else {
    magnitude = rounded(relative, noise) - FIRST_OFFSET;
  }
  return (magnitude < 127 ? magnitude : 127) | (__float_as_uint(value) >> 24 & 0x80);
}

__device__ inline uint8_t second_code(float value, float scale, uint32_t noise) {
  uint32_t kept = rounded(scale > 0.0f ? value / scale : 0.0f, noise);
  uint32_t code = kept < SECOND_OFFSET ? 0 : kept - SECOND_OFFSET;
  return code < 255 ? code : 255;
}

// A thread's element of a block of 256 that share a scale; returns the new master.
__device__ inline float compact(float master, float gradient, uint8_t *first_codes, float *first_scales,
                                uint8_t *second_codes, float *second_scales, long long count, uint32_t seed,
                                const Rates &rates) {
  long long i = global_index();
  bool inside = i < count;
  float m = 0.0f, v = 0.0f;
  if (inside) {
    m = decoded_first(first_codes[i], first_scales[blockIdx.x]);
    v = decoded_second(second_codes[i], second_scales[blockIdx.x]);
    master = moved(master, m, v, gradient, rates);
  }
  // The barriers inside also keep the old scales until all have read them.
  float first_scale = block_max(fabsf(m)), second_scale = block_max(v);
  if (inside) {
    uint32_t noise = hash(seed, (uint32_t)i);
    first_codes[i] = first_code(m, first_scale, noise & 0xffffu);
    second_codes[i] = second_code(v, second_scale, noise >> 16);
  }
  if (threadIdx.x == 0) {
    first_scales[blockIdx.x] = first_scale;
    second_scales[blockIdx.x] = second_scale;
  }
  return master;
}

}  // namespace

KERNEL(256, adamw_compact_f32, float *weight, uint8_t *first_codes, float *first_scales, uint8_t *second_codes,
       float *second_scales, const float *gradient, long long count, uint32_t seed, RATES) {
  long long i = global_index();
  bool inside = i < count;
  float w = compact(inside ? weight[i] : 0.0f, inside ? gradient[i] : 0.0f, first_codes, first_scales, second_codes,
                    second_scales, count, seed, GIVEN_RATES);
  if (inside) weight[i] = w;
}
// `weight` holds bf16 as bits, `low` the signed low halves of the masters.
KERNEL(256, adamw_compact_bf16, uint16_t *weight, int16_t *low, uint8_t *first_codes, float *first_scales,
       uint8_t *second_codes, float *second_scales, const bf16 *gradient, long long count, uint32_t seed, RATES) {
  long long i = global_index();
  bool inside = i < count;
  float w = inside ? __uint_as_float(((uint32_t)weight[i] << 16) + (uint32_t)(int32_t)low[i]) : 0.0f;
  w = compact(w, inside ? to_float(gradient[i]) : 0.0f, first_codes, first_scales, second_codes, second_scales, count,
              seed, GIVEN_RATES);
  if (inside) {
    weight[i] = (uint16_t)((__float_as_uint(w) + 0x8000u) >> 16);
    low[i] = (int16_t)(__float_as_uint(w) & 0xffffu);
  }
}
