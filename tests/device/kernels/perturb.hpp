// A GPU's functions are off by one or two units in the last place, the host's are not: off by up to PERTURB here.
#pragma once
inline float perturbed(float x, float y) {
  if (x == 0 || y == 0 || y != y || std::isinf(y)) return y;
  unsigned bits = __float_as_uint(y);
  return __uint_as_float(bits + (int)((bits * 2654435761u) >> 16) % (2 * PERTURB + 1) - PERTURB);
}
#define expf(x) perturbed(x, std::exp((float)(x)))
#define exp2f(x) perturbed(x, std::exp2((float)(x)))
#define logf(x) perturbed((x) - 1, std::log((float)(x)))
#define log2f(x) perturbed((x) - 1, std::log2((float)(x)))
#define sinf(x) perturbed(x, std::sin((float)(x)))
#define cosf(x) perturbed(x, std::cos((float)(x)))
