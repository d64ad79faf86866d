// One token per row of logits, the one that policy::sampler draws on the CPU. One block per row.
//
// Weights exp((logit - max) / T) are f32, their sums f64. What top-k and top-p keep is found by selection, digit by
// digit: a sort of a whole vocabulary would take most of a decoding step.
#include "common.cuh"

typedef unsigned long long u64;
constexpr unsigned NOT_FINITE = 0xffffffffu;
constexpr int DIGITS = 256;
constexpr double FIXED_POINT = 1099511627776.0;  // 2^40: sums of integers do not depend on their order

// --- random numbers: word pair 0 of block `position` of the ChaCha8 stream with this key, as rand_chacha has it

__device__ inline void quarter_round(uint32_t *s, int a, int b, int c, int d) {
  auto rotate = [](uint32_t x, int by) { return x << by | x >> (32 - by); };
  s[a] += s[b]; s[d] = rotate(s[d] ^ s[a], 16);
  s[c] += s[d]; s[b] = rotate(s[b] ^ s[c], 12);
  s[a] += s[b]; s[d] = rotate(s[d] ^ s[a], 8);
  s[c] += s[d]; s[b] = rotate(s[b] ^ s[c], 7);
}

__device__ inline double uniform(const uint32_t *key, uint32_t position) {
  uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  for (int i = 0; i < 8; i++) s[4 + i] = key[i];
  s[12] = position;
  s[13] = s[14] = s[15] = 0;
  for (int i = 0; i < 4; i++) {
    quarter_round(s, 0, 4, 8, 12);
    quarter_round(s, 1, 5, 9, 13);
    quarter_round(s, 2, 6, 10, 14);
    quarter_round(s, 3, 7, 11, 15);
    quarter_round(s, 0, 5, 10, 15);
    quarter_round(s, 1, 6, 11, 12);
    quarter_round(s, 2, 7, 8, 13);
    quarter_round(s, 3, 4, 9, 14);
  }
  u64 bits = (u64)(s[1] + 0x3320646eu) << 32 | (s[0] + 0x61707865u);
  return (double)(bits >> 11) / 9007199254740992.0;
}

// --- a row

template <class T> struct Row {
  const T *logits;
  const uint32_t *banned;  // one bit per id
  int vocabulary;
  float largest, inverse_temperature;
  uint32_t lowest_key;  // kept: allowed, with a larger key, or this one and an id up to last_tie
  int last_tie;

  __device__ bool allowed(int id) const { return !(banned[id / 32] >> (id % 32) & 1); }
  __device__ float logit(int id) const { return to_float(logits[id]); }
  __device__ float weight(float logit) const { return expf((logit - largest) * inverse_temperature); }
  __device__ bool kept(int id, float logit) const;

  // f(id, logit) for every id, each thread some of them.
  template <class F> __device__ void each(F f) const {
    if (packs(vocabulary, logits)) {
      for (int i = threadIdx.x; i < vocabulary / WIDE<T>; i += blockDim.x) {
        Pack<T, WIDE<T>> pack = ((const Pack<T, WIDE<T>> *)logits)[i];
        for (int n = 0; n < WIDE<T>; n++) f(i * WIDE<T> + n, to_float(pack.at[n]));
      }
    } else {
      for (int id = threadIdx.x; id < vocabulary; id += blockDim.x) f(id, logit(id));
    }
  }
};

// Ascending with the logit; -0 and 0 are equal.
__device__ inline uint32_t key_of(float logit) {
  if (logit == 0.0f) return 0x80000000u;
  uint32_t bits = __float_as_uint(logit);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

template <class T> __device__ bool Row<T>::kept(int id, float logit) const {
  uint32_t key = key_of(logit);
  return allowed(id) && (key > lowest_key || (key == lowest_key && id <= last_tie));
}

// The first digit: quarters of a nat below the largest logit. Digits of the key itself would be the same for most of a
// vocabulary, and a histogram's counters would be waited for.
template <class T> __device__ int distance_of(const Row<T> &row, float logit) {
  return DIGITS - 1 - (int)fminf(fmaxf(row.largest - logit, 0.0f) * 4.0f, DIGITS - 1.0f);
}

// From the highest digit down, the first at which the amounts reach `needed`, which loses what lies above.
template <class C> __device__ int reach(const C *amounts, C *needed) {
  __shared__ int digit;
  __shared__ C left;
  if (threadIdx.x < 32) {
    int lane = threadIdx.x, high = DIGITS - 1 - lane * (DIGITS / 32);
    C own = 0;
    for (int i = 0; i < DIGITS / 32; i++) own += amounts[high - i];
    C sum = own;
    for (int by = 1; by < 32; by *= 2) {
      C before = __shfl_up_sync(0xffffffffu, sum, by);
      if (lane >= by) sum += before;
    }
    unsigned reached = __ballot_sync(0xffffffffu, sum >= *needed);
    if (reached ? lane == __ffs(reached) - 1 : lane == 31) {
      C rest = *needed - (sum - own);
      int i = high;
      while (i > high - DIGITS / 32 + 1 && amounts[i] < rest) rest -= amounts[i--];
      digit = i;
      left = rest;
    }
  }
  __syncthreads();
  *needed = left;
  int found = digit;
  __syncthreads();
  return found;
}

// The key at which the amounts of the kept ids, best first, reach `needed`; `needed` becomes what that key must give.
template <class C, class T, class F> __device__ uint32_t select(const Row<T> &row, C *needed, F amount) {
  __shared__ C amounts[DIGITS];
  uint32_t key = 0, mask = 0;
  int distance = -1;
  for (int shift = 32; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < DIGITS; i += blockDim.x) amounts[i] = 0;
    __syncthreads();
    row.each([&](int id, float logit) {
      int bin = distance_of(row, logit);
      if (distance >= 0 && (bin != distance || (key_of(logit) & mask) != key)) return;
      if (row.kept(id, logit)) atomicAdd(&amounts[distance < 0 ? bin : key_of(logit) >> shift & (DIGITS - 1)], amount(logit));
    });
    __syncthreads();
    int digit = reach(amounts, needed);
    if (distance < 0) {
      distance = digit;
    } else {
      key |= (uint32_t)digit << shift;
      mask |= (DIGITS - 1u) << shift;
    }
  }
  return key;
}

// The first id at which the running sum of `amount` exceeds `target`, or `fraction` of the whole when target is
// negative; the last id with an amount where rounding leaves a sliver beyond.
template <class T, class F> __device__ int first_beyond(const Row<T> &row, double target, double fraction, F amount) {
  __shared__ double parts[32];
  __shared__ int found;
  int begin = 0, end = row.vocabulary, warps = blockDim.x / 32, warp = threadIdx.x / 32;
  do {
    int length = (end - begin + warps - 1) / warps;
    int from = min(begin + warp * length, end), to = min(from + length, end);
    double part = 0.0;
    for (int id = from + threadIdx.x % 32; id < to; id += 32) part += amount(id, row.logit(id));
    part = warp_sum(part);
    if (threadIdx.x % 32 == 0) parts[warp] = part;
    __syncthreads();
    if (target < 0.0) {
      double whole = 0.0;
      for (int i = 0; i < warps; i++) whole += parts[i];
      target = fraction * whole;
    }
    int chosen = 0;
    bool reached = false;
    for (int i = 0; i < warps && !reached; i++) {
      if (parts[i] <= 0.0) continue;
      chosen = i;
      reached = target < parts[i];
      if (!reached) target -= parts[i];
    }
    if (!reached) target = INFINITY;
    __syncthreads();
    begin = min(begin + chosen * length, end);
    end = min(begin + length, end);
  } while (end - begin > 32);
  if (threadIdx.x == 0) {
    found = begin;
    for (int id = begin; id < end; id++) {
      double share = amount(id, row.logit(id));
      if (share <= 0.0) continue;
      found = id;
      if (target < share) break;
      target -= share;
    }
  }
  __syncthreads();
  return found;
}

// Narrows what is kept to the shortest list of best ids that holds top_p of it, the lower id first on ties.
template <class T> __device__ void keep_top_p(Row<T> &row, double top_p) {
  auto mass = [&](float logit) { return (u64)((double)row.weight(logit) * FIXED_POINT); };
  u64 whole = 0;
  row.each([&](int id, float logit) { if (row.kept(id, logit)) whole += mass(logit); });
  whole = block_sum(whole);
  u64 needed = (u64)ceil(top_p * (double)whole);
  if (needed == 0) needed = 1;
  uint32_t key = select(row, &needed, mass);
  float logit = key >> 31 ? __uint_as_float(key & 0x7fffffffu) : __uint_as_float(~key);
  u64 each = mass(logit);
  if (each == 0) each = 1;
  double ties = (double)((needed + each - 1) / each);
  int last = first_beyond(row, ties - 1.0, 0.0, [&](int id, float x) { return row.kept(id, x) && key_of(x) == key ? 1.0 : 0.0; });
  row.lowest_key = key;
  row.last_tie = last;
}

template <class T>
__device__ void sample(const T *logits, const uint32_t *banned, const uint32_t *keys, const uint32_t *positions, uint32_t *ids,
                       float *logprobs, int vocabulary, float temperature, int top_k, double top_p) {
  Row<T> row = {logits + (long long)blockIdx.x * vocabulary, banned, vocabulary, 0.0f, 1.0f, 0, vocabulary};
  float largest = -INFINITY, best = -INFINITY;
  row.each([&](int id, float logit) {
    largest = fmaxf(largest, logit);
    if (row.allowed(id)) best = fmaxf(best, logit);
  });
  row.largest = block_max(largest);
  best = block_max(best);
  bool greedy = temperature == 0.0f;
  if (!greedy) row.inverse_temperature = 1.0f / temperature;
  double partition = 0.0;
  row.each([&](int, float logit) { partition += row.weight(logit); });
  partition = block_sum(partition);
  if (!(partition < INFINITY) || best == -INFINITY) {
    if (threadIdx.x == 0) ids[blockIdx.x] = NOT_FINITE;
    return;
  }
  float top = row.largest;
  // From here on only ratios of the allowed ids' weights count, which would all be 0 far below a banned one.
  row.largest = best;
  int id;
  if (greedy) {
    id = first_beyond(row, 0.0, 0.0, [&](int id, float x) { return row.allowed(id) && x == best ? 1.0 : 0.0; });
  } else {
    if (top_k > 0) {
      uint32_t needed = top_k;
      row.lowest_key = select(row, &needed, [](float) { return 1u; });
    }
    if (top_p < 1.0) keep_top_p(row, top_p);
    double random = uniform(keys + 8ll * blockIdx.x, positions[blockIdx.x]);
    id = first_beyond(row, -1.0, random, [&](int id, float x) { return row.kept(id, x) ? (double)row.weight(x) : 0.0; });
  }
  if (threadIdx.x > 0) return;
  ids[blockIdx.x] = id;
  logprobs[blockIdx.x] = (float)((double)((row.logit(id) - top) * row.inverse_temperature) - log(partition));
}

// top_k 0: all. banned: one bit per id. keys: 8 words per row. An id of all ones: the row's logits are not finite.
#define SAMPLE(T, suffix)                                                                                           \
  KERNEL(1024, sample_##suffix, const T *logits, const uint32_t *banned, const uint32_t *keys, const uint32_t *positions, \
         uint32_t *ids, float *logprobs, int vocabulary, float temperature, int top_k, double top_p) {              \
    sample(logits, banned, keys, positions, ids, logprobs, vocabulary, temperature, top_k, top_p);                  \
  }

SAMPLE(float, f32)
SAMPLE(bf16, bf16)
