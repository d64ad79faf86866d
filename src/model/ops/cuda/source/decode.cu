// Decoding: one new token per row, keys and values in a cache where each prompt is stored once for all its rows.
//
// What changes from step to step (lengths, positions) is read from device memory, so that a captured launch can be
// replayed. A row's keys are its prompt's and then its own; the new token's is the last. They are split into runs of
// SPLIT_KEYS whatever else is in the batch, so a row's result does not depend on the others; a second kernel joins the
// runs.
#include "mma.cuh"

namespace decode {

constexpr int SPLIT_KEYS = 256, TILE_KEYS = 16;
constexpr unsigned IDLE = 0xffffffffu;

// Where a row's keys lie; own_len does not count the new token. An idle row stores nothing and gets zeros.
struct Row {
  unsigned slot, prompt_len, place, own_len;
  __device__ bool idle() const { return slot == IDLE; }
  __device__ int keys() const { return idle() ? 0 : prompt_len + own_len + 1; }
};

__device__ inline Row row_of(const unsigned *rows, int index) {
  const unsigned *at = rows + 4 * index;
  return {at[0], at[1], at[2], at[3]};
}

struct Shape {
  int heads, kv_heads, dim, prompt_stride, own_stride;
  float scale;
};

// The vectors of one row's key/value head, from key `first` on; null from `end` on.
template <class T> struct Cached {
  const T *prompt, *own;
  int prompt_len, dim, first, end;
  __device__ Cached(const T *prompts, const T *owns, const Row &row, const Shape &shape, int kv_head, int last)
      : prompt(prompts + ((long long)row.slot * shape.kv_heads + kv_head) * shape.prompt_stride * shape.dim),
        own(owns + ((long long)row.place * shape.kv_heads + kv_head) * shape.own_stride * shape.dim),
        prompt_len(row.prompt_len), dim(shape.dim), first(0), end(last) {}
  __device__ Cached from(int key) const {
    Cached moved = *this;
    moved.first = key;
    return moved;
  }
  __device__ const T *operator()(int i) const {
    int key = first + i;
    if (key >= end) return nullptr;
    return key < prompt_len ? prompt + (long long)key * dim : own + (long long)(key - prompt_len) * dim;
  }
};

// The query heads of one key/value head, null behind the last.
template <class T> struct Queries {
  const T *values;
  int number, dim;
  __device__ const T *operator()(int i) const { return i < number ? values + i * dim : nullptr; }
};

// exp2(x - largest), 0 where nothing has been seen.
__device__ inline float weight_of(float x, float largest) { return x == -INFINITY ? 0.0f : exp2f(x - largest); }

// Four warps take tiles of 16 keys in turn; the rows of their products are the query heads of the key/value head, at
// most 16. Writes sums [row, head, run, dim], and largest score and total [row, head, run, 2].
template <int DIM>
__device__ void attend(const bf16 *q, const bf16 *prompt_k, const bf16 *prompt_v, const bf16 *own_k, const bf16 *own_v,
                       const unsigned *rows, float *sums_of, float *totals_of, Shape shape) {
  constexpr int STRIDE = DIM + 8, WARPS = 4;
  // Per warp a tile of keys and one of values; then each warp's sums.
  __align__(16) __shared__ bf16 tiles[WARPS * 2 * TILE_KEYS * STRIDE];
  __shared__ float largest_of[WARPS][16], total_of[WARPS][16];
  static_assert(sizeof tiles >= WARPS * 16 * DIM * sizeof(float), "sums fit in the tiles");
  Row row = row_of(rows, blockIdx.z);
  int first = blockIdx.x * SPLIT_KEYS, end = min(first + SPLIT_KEYS, row.keys());
  if (first >= end) return;
  int kv_head = blockIdx.y, group = shape.heads / shape.kv_heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  bf16 *k_tile = tiles + warp * 2 * TILE_KEYS * STRIDE, *v_tile = k_tile + TILE_KEYS * STRIDE;
  const bf16 *my_q = q + ((long long)blockIdx.z * shape.heads + kv_head * group) * shape.dim;
  load_tile<16>(k_tile, STRIDE, DIM, shape.dim, lane, 32, Queries<bf16>{my_q, group, shape.dim});
  __syncwarp();
  A queries[DIM / 16];
  for (int k = 0; k < DIM / 16; k++) queries[k] = load_a(k_tile + k * 16, STRIDE);
  __syncwarp();

  Cached<bf16> keys(prompt_k, own_k, row, shape, kv_head, end), values(prompt_v, own_v, row, shape, kv_head, end);
  C sums[DIM / 8] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f}, scale = shape.scale * LOG2E;
  for (int key = first + warp * TILE_KEYS; key < end; key += WARPS * TILE_KEYS) {
    load_tile<TILE_KEYS>(k_tile, STRIDE, DIM, shape.dim, lane, 32, keys.from(key));
    load_tile<TILE_KEYS>(v_tile, STRIDE, DIM, shape.dim, lane, 32, values.from(key));
    __syncwarp();
    C weights[2] = {};
    float now[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int k = 0; k < DIM / 16; k++)
        multiply_add(weights[n], queries[k], load_b(k_tile + n * 8 * STRIDE + k * 16, STRIDE));
#pragma unroll
      for (int i = 0; i < 4; i++) {
        bool seen = key + n * 8 + c_column(i) < end;
        weights[n].x[i] = seen ? weights[n].x[i] * scale : -INFINITY;
        now[i / 2] = fmaxf(now[i / 2], weights[n].x[i]);
      }
    }
    float shrink[2], added[2] = {0.0f, 0.0f};
    for (int i = 0; i < 2; i++) {
      // A warp's tile has at least one key, so this is finite.
      now[i] = fmaxf(largest[i], quad_max(now[i]));
      shrink[i] = exp2f(largest[i] - now[i]);
      largest[i] = now[i];
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        weights[n].x[i] = exp2f(weights[n].x[i] - largest[i / 2]);
        added[i / 2] += weights[n].x[i];
      }
    for (int i = 0; i < 2; i++) total[i] = total[i] * shrink[i] + quad_sum(added[i]);
    A a = as_a(weights[0], weights[1]);
#pragma unroll
    for (int n = 0; n < DIM / 16; n++) {
      for (int i = 0; i < 4; i++) {
        sums[2 * n].x[i] *= shrink[i / 2];
        sums[2 * n + 1].x[i] *= shrink[i / 2];
      }
      B left, right;
      load_b_rows(left, right, v_tile + n * 16, STRIDE);
      multiply_add(sums[2 * n], a, left);
      multiply_add(sums[2 * n + 1], a, right);
    }
    __syncwarp();
  }

  __syncthreads();
  float *sums_of_warp = reinterpret_cast<float *>(tiles);
#pragma unroll
  for (int n = 0; n < DIM / 8; n++)
    for (int i = 0; i < 4; i++)
      sums_of_warp[(warp * 16 + c_row(i)) * DIM + n * 8 + c_column(i)] = sums[n].x[i];
  for (int i = 0; i < 4; i += 2)
    if (lane % 4 == 0) {
      largest_of[warp][c_row(i)] = largest[i / 2];
      total_of[warp][c_row(i)] = total[i / 2];
    }
  __syncthreads();
  for (int index = threadIdx.x; index < group * shape.dim; index += blockDim.x) {
    int head = index / shape.dim, column = index % shape.dim;
    float most = -INFINITY, sum = 0.0f, all = 0.0f;
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, largest_of[w][head]);
    for (int w = 0; w < WARPS; w++) {
      float share = weight_of(largest_of[w][head], most);
      sum += share * sums_of_warp[(w * 16 + head) * DIM + column];
      all += share * total_of[w][head];
    }
    long long at = ((long long)blockIdx.z * shape.heads + kv_head * group + head) * gridDim.x + blockIdx.x;
    sums_of[at * shape.dim + column] = sum;
    if (column == 0) {
      totals_of[2 * at] = most;
      totals_of[2 * at + 1] = all;
    }
  }
}

// The same in f32: 16 rows of four threads each.
template <int DIM>
__device__ void attend(const float *q, const float *prompt_k, const float *prompt_v, const float *own_k,
                       const float *own_v, const unsigned *rows, float *sums_of, float *totals_of, Shape shape) {
  constexpr int STRIDE = DIM + 1;
  __shared__ float q_tile[16 * STRIDE], k_tile[TILE_KEYS * STRIDE], v_tile[TILE_KEYS * STRIDE];
  __shared__ float weights_tile[16][TILE_KEYS + 1];
  Row row = row_of(rows, blockIdx.z);
  int first = blockIdx.x * SPLIT_KEYS, end = min(first + SPLIT_KEYS, row.keys());
  if (first >= end) return;
  int kv_head = blockIdx.y, group = shape.heads / shape.kv_heads, head = threadIdx.x / 4, part = threadIdx.x % 4;
  const float *my_q = q + ((long long)blockIdx.z * shape.heads + kv_head * group) * shape.dim;
  load_tile<16>(q_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, Queries<float>{my_q, group, shape.dim});
  Cached<float> keys(prompt_k, own_k, row, shape, kv_head, end), values(prompt_v, own_v, row, shape, kv_head, end);
  float sums[DIM / 4] = {}, largest = -INFINITY, total = 0.0f;
  for (int key = first; key < end; key += TILE_KEYS) {
    load_tile<TILE_KEYS>(k_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, keys.from(key));
    load_tile<TILE_KEYS>(v_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, values.from(key));
    __syncthreads();
    float weights[4] = {}, now = -INFINITY, added = 0.0f;
    for (int c = 0; c < shape.dim; c++)
      for (int j = 0; j < 4; j++) weights[j] += q_tile[head * STRIDE + c] * k_tile[(part + 4 * j) * STRIDE + c];
    for (int j = 0; j < 4; j++) {
      weights[j] = key + part + 4 * j < end ? weights[j] * shape.scale * LOG2E : -INFINITY;
      now = fmaxf(now, weights[j]);
    }
    now = fmaxf(largest, quad_max(now));
    float shrink = exp2f(largest - now);
    largest = now;
    for (int j = 0; j < 4; j++) {
      weights[j] = exp2f(weights[j] - largest);
      added += weights[j];
      weights_tile[head][part + 4 * j] = weights[j];
    }
    total = total * shrink + quad_sum(added);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < DIM / 4; j++) {
      sums[j] *= shrink;
      for (int i = 0; i < TILE_KEYS; i++) sums[j] += weights_tile[head][i] * v_tile[i * STRIDE + part + 4 * j];
    }
    __syncthreads();
  }
  if (head >= group) return;
  long long at = ((long long)blockIdx.z * shape.heads + kv_head * group + head) * gridDim.x + blockIdx.x;
#pragma unroll
  for (int j = 0; j < DIM / 4; j++)
    if (part + 4 * j < shape.dim) sums_of[at * shape.dim + part + 4 * j] = sums[j];
  if (part == 0) {
    totals_of[2 * at] = largest;
    totals_of[2 * at + 1] = total;
  }
}

// One block per row and head: the runs' sums become the output.
template <class T>
__device__ void join(const float *sums_of, const float *totals_of, const unsigned *rows, T *output, int heads, int dim,
                     int runs) {
  int used = (row_of(rows, blockIdx.x / heads).keys() + SPLIT_KEYS - 1) / SPLIT_KEYS;
  const float *totals = totals_of + 2ll * blockIdx.x * runs, *sums = sums_of + (long long)blockIdx.x * runs * dim;
  float largest = -INFINITY;
  for (int run = 0; run < used; run++) largest = fmaxf(largest, totals[2 * run]);
  for (int column = threadIdx.x; column < dim; column += blockDim.x) {
    float sum = 0.0f, total = 0.0f;
    for (int run = 0; run < used; run++) {
      float share = exp2f(totals[2 * run] - largest);
      sum += share * sums[run * dim + column];
      total += share * totals[2 * run + 1];
    }
    output[(long long)blockIdx.x * dim + column] = from_float<T>(used > 0 ? sum / total : 0.0f);
  }
}

template <class T> __device__ float biased(const T *x, const T *bias, long long row, int width, int column) {
  return to_float(x[row * width + column]) + (bias == nullptr ? 0.0f : to_float(bias[column]));
}

// One block per row and head of q, k and v: adds the biases, turns q and k by the row's angles (pairs i and
// i + dim / 2), writes q and puts k and v where the row's next token goes.
template <class T>
__device__ void append(const T *q, const T *k, const T *v, const T *q_bias, const T *k_bias, const T *v_bias,
                       const float *cos, const float *sin, const unsigned *rows, T *turned, T *own_k, T *own_v,
                       int heads, int kv_heads, int dim, int own_stride) {
  Row row = row_of(rows, blockIdx.x);
  int head = blockIdx.y, half = dim / 2;
  bool is_q = head < heads, is_v = head >= heads + kv_heads;
  if (row.idle() && !is_q) return;
  int own_head = is_q ? head : (head - heads) % kv_heads, width = (is_q ? heads : kv_heads) * dim;
  const T *x = is_q ? q : is_v ? v : k, *bias = is_q ? q_bias : is_v ? v_bias : k_bias;
  T *to = is_q ? turned + ((long long)blockIdx.x * heads + head) * dim
               : (is_v ? own_v : own_k) +
                     (((long long)row.place * kv_heads + own_head) * own_stride + row.own_len) * dim;
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    float a = biased(x, bias, blockIdx.x, width, own_head * dim + i);
    float b = biased(x, bias, blockIdx.x, width, own_head * dim + half + i);
    float c = is_v ? 1.0f : cos[blockIdx.x * half + i], s = is_v ? 0.0f : sin[blockIdx.x * half + i];
    to[i] = from_float<T>(a * c - b * s);
    to[half + i] = from_float<T>(b * c + a * s);
  }
}

}  // namespace decode

#define KERNELS(T, threads, DIM)                                                                                      \
  KERNEL(threads, decode_attention_##T##_##DIM, const T *q, const T *prompt_k, const T *prompt_v, const T *own_k,     \
         const T *own_v, const unsigned *rows, float *sums, float *totals, int heads, int kv_heads, int dim,          \
         int prompt_stride, int own_stride, float scale) {                                                            \
    decode::Shape shape = {heads, kv_heads, dim, prompt_stride, own_stride, scale};                                   \
    decode::attend<DIM>(q, prompt_k, prompt_v, own_k, own_v, rows, sums, totals, shape);                              \
  }

#define KERNELS_OF(T)                                                                                                 \
  KERNEL(256, decode_embed_##T, const unsigned *tokens, const T *table, T *output, int rows, int width) {             \
    long long index = global_index();                                                                                 \
    if (index < (long long)rows * width) output[index] = table[(long long)tokens[index / width] * width + index % width]; \
  }                                                                                                                   \
  KERNEL(128, decode_join_##T, const float *sums, const float *totals, const unsigned *rows, T *output, int heads,    \
         int dim, int runs) {                                                                                         \
    decode::join(sums, totals, rows, output, heads, dim, runs);                                                       \
  }                                                                                                                   \
  KERNEL(64, decode_append_##T, const T *q, const T *k, const T *v, const T *q_bias, const T *k_bias,                 \
         const T *v_bias, const float *cos, const float *sin, const unsigned *rows, T *turned, T *own_k, T *own_v,    \
         int heads, int kv_heads, int dim, int own_stride) {                                                          \
    decode::append(q, k, v, q_bias, k_bias, v_bias, cos, sin, rows, turned, own_k, own_v, heads, kv_heads, dim,       \
                   own_stride);                                                                                       \
  }

using f32 = float;
KERNELS(bf16, 128, 32)
KERNELS(bf16, 128, 80)
KERNELS(bf16, 128, 128)
KERNELS(f32, 64, 32)
KERNELS(f32, 64, 128)
KERNELS_OF(bf16)
KERNELS_OF(f32)

// Cosines and sines [rows, half] of text tokens at `positions`: all rotary axes are equal there.
KERNEL(256, decode_rotary, const unsigned *positions, const float *frequencies, float *cos, float *sin, int rows,
       int half) {
  long long index = global_index();
  if (index >= (long long)rows * half) return;
  float angle = (float)positions[index / half] * frequencies[index % half];
  cos[index] = cosf(angle);
  sin[index] = sinf(angle);
}

// Ends a step of at most 1024 rows: keeps what was drawn in row `*step` of `token_log` and `logprob_log`, makes it the
// next input and counts. A row whose cache is full stays at its last place: what it draws is not used.
KERNEL(1024, decode_advance, const unsigned *drawn, const float *logprobs, unsigned *tokens, unsigned *positions,
       unsigned *indices, unsigned *rows, unsigned *step, unsigned *token_log, float *logprob_log, int count,
       int capacity) {
  unsigned row = threadIdx.x, now = *step;
  __syncthreads();
  if (row == 0) *step = now + 1;
  if (row >= (unsigned)count) return;
  token_log[now * count + row] = drawn[row];
  logprob_log[now * count + row] = logprobs[row];
  // What stands for no token is logged for the host to see, and is no row of the embedding.
  tokens[row] = drawn[row] == 0xffffffffu ? 0 : drawn[row];
  positions[row] += 1;
  indices[row] += 1;
  unsigned own_len = rows[4 * row + 3];
  if (own_len + 1 < (unsigned)capacity) rows[4 * row + 3] = own_len + 1;
}
