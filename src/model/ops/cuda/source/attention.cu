// Attention over packed rows without a score matrix in memory: forward with its log-sum-exp, and gradients.
//
// Keys are taken a tile at a time; the softmax is carried along (Milakov and Gimelshein, arXiv 1805.02867; Dao,
// arXiv 2307.08691). Query heads of a group read the same key/value head. Gradients of keys and values are computed by
// key block, one query head at a time into buffers of its own that are then summed: no atomics, so equal inputs give
// equal bits. bf16 uses tensor cores, f32 plain arithmetic; softmax and sums are in f32.
//
// A query block is consecutive rows that see all keys before and some of their own sequence; where `causal`, a row sees
// no key behind itself. A key block is consecutive keys of one sequence and the rows that may see them.
#include "mma.cuh"

namespace attention {

struct QueryBlock { int start, end, before_start, before_end, own_start, own_end; };
struct KeyBlock { int start, end, query_start, query_end; };

struct Shape {
  int rows, heads, kv_heads, dim, causal;
  float scale;
  __device__ int group() const { return heads / kv_heads; }
  // Where a head's part of a row begins.
  __device__ long long at(int row, int head) const { return ((long long)row * heads + head) * dim; }
  __device__ long long kv_at(int row, int head) const { return ((long long)row * kv_heads + head) * dim; }
  __device__ bool sees(int query, int key) const { return !causal || key <= query; }
};

__device__ inline QueryBlock query_block(const int *table) {
  const int *at = table + 6 * blockIdx.x;
  return {at[0], at[1], at[2], at[3], at[4], at[5]};
}
__device__ inline KeyBlock key_block(const int *table) {
  const int *at = table + 4 * blockIdx.x;
  return {at[0], at[1], at[2], at[3]};
}

// The part that row `i` counted from `start` has in head `head`, null from row `end` on.
template <class T> struct Rows {
  const T *values;
  int start, end, heads, head, dim;
  __device__ const T *operator()(int i) const {
    return start + i < end ? values + ((long long)(start + i) * heads + head) * dim : nullptr;
  }
};

// ---- bf16: four warps of 16 rows each ----

constexpr int WARP_ROWS = 16, BLOCK_ROWS = 64;

template <int DIM> __device__ inline void load_fragments(A (&to)[DIM / 16], const bf16 *tile, int stride) {
  for (int k = 0; k < DIM / 16; k++) to[k] = load_a(tile + k * 16, stride);
}

// products[n] = a · rows n * 8 to n * 8 + 7 of the tile
template <int DIM, int N>
__device__ inline void products(C (&to)[N], const A (&a)[DIM / 16], const bf16 *tile, int stride) {
#pragma unroll
  for (int n = 0; n < N; n++) {
    to[n] = {};
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) multiply_add(to[n], a[k], load_b(tile + n * 8 * stride + k * 16, stride));
  }
}

// to += weights · tile, where weights' columns are the tile's 8 N rows
template <int DIM, int N>
__device__ inline void add_weighted(C (&to)[DIM / 8], const C (&weights)[N], const bf16 *tile, int stride) {
#pragma unroll
  for (int k = 0; k < N / 2; k++) {
    A a = as_a(weights[2 * k], weights[2 * k + 1]);
#pragma unroll
    for (int n = 0; n < DIM / 16; n++) {
      B left, right;
      load_b_rows(left, right, tile + k * 16 * stride + n * 16, stride);
      multiply_add(to[2 * n], a, left);
      multiply_add(to[2 * n + 1], a, right);
    }
  }
}

template <int DIM>
__device__ void forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *output, float *lse, const int *blocks,
                        Shape shape) {
  constexpr int KEYS = 64, STRIDE = DIM + 8;
  __align__(16) __shared__ bf16 k_tile[KEYS * STRIDE];
  __align__(16) __shared__ bf16 v_tile[KEYS * STRIDE];
  QueryBlock block = query_block(blocks);
  int head = blockIdx.y, kv_head = head / shape.group(), warp = threadIdx.x / 32;
  int first = block.start + warp * WARP_ROWS;
  auto load = [&](bf16 *tile, const bf16 *from, int start, int end, int heads, int which) {
    Rows<bf16> rows = {from, start, end, heads, which, shape.dim};
    load_tile<KEYS>(tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, rows);
  };
  A queries[DIM / 16];
  load(k_tile, q, block.start, block.end, shape.heads, head);
  __syncthreads();
  load_fragments<DIM>(queries, k_tile + warp * WARP_ROWS * STRIDE, STRIDE);
  __syncthreads();

  C sums[DIM / 8] = {};
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  float scale = shape.scale * LOG2E;
  for (int part = 0; part < 2; part++) {
    int end = part == 0 ? block.before_end : block.own_end;
    for (int key = part == 0 ? block.before_start : block.own_start; key < end; key += KEYS) {
      load(k_tile, k, key, end, shape.kv_heads, kv_head);
      load(v_tile, v, key, end, shape.kv_heads, kv_head);
      __syncthreads();
      C weights[KEYS / 8];
      products<DIM>(weights, queries, k_tile, STRIDE);
      float now[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int column = key + n * 8 + c_column(i);
          bool seen = column < end && shape.sees(first + c_row(i), column);
          weights[n].x[i] = seen ? weights[n].x[i] * scale : -INFINITY;
          now[i / 2] = fmaxf(now[i / 2], weights[n].x[i]);
        }
      // Every row sees the first key of its first tile, so its largest score is finite from then on.
      float shrink[2], added[2] = {0.0f, 0.0f};
      for (int row = 0; row < 2; row++) {
        now[row] = fmaxf(largest[row], quad_max(now[row]));
        shrink[row] = exp2f(largest[row] - now[row]);
        largest[row] = now[row];
      }
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          weights[n].x[i] = exp2f(weights[n].x[i] - largest[i / 2]);
          added[i / 2] += weights[n].x[i];
        }
      for (int row = 0; row < 2; row++) total[row] = total[row] * shrink[row] + quad_sum(added[row]);
#pragma unroll
      for (int n = 0; n < DIM / 8; n++)
        for (int i = 0; i < 4; i++) sums[n].x[i] *= shrink[i / 2];
      add_weighted<DIM>(sums, weights, v_tile, STRIDE);
      __syncthreads();
    }
  }
#pragma unroll
  for (int n = 0; n < DIM / 8; n++)
    for (int i = 0; i < 4; i++) {
      int row = first + c_row(i), column = n * 8 + c_column(i);
      if (row < block.end && column < shape.dim)
        output[shape.at(row, head) + column] = from_float<bf16>(sums[n].x[i] / total[i / 2]);
    }
  for (int i = 0; i < 4; i += 2) {
    int row = first + c_row(i);
    if (row < block.end && threadIdx.x % 4 == 0)
      lse[row * shape.heads + head] = (largest[i / 2] + log2f(total[i / 2])) / LOG2E;
  }
}

template <int DIM>
__device__ void backward_queries(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *grad_output, const float *lse,
                                 const float *delta, bf16 *dq, const int *blocks, Shape shape) {
  constexpr int KEYS = 32, STRIDE = DIM + 8;
  __align__(16) __shared__ bf16 tiles[BLOCK_ROWS * STRIDE];
  bf16 *k_tile = tiles, *v_tile = tiles + KEYS * STRIDE;
  QueryBlock block = query_block(blocks);
  int head = blockIdx.y, kv_head = head / shape.group(), warp = threadIdx.x / 32;
  int first = block.start + warp * WARP_ROWS;
  A queries[DIM / 16], above[DIM / 16];
  auto fragments = [&](A(&to)[DIM / 16], const bf16 *from) {
    Rows<bf16> rows = {from, block.start, block.end, shape.heads, head, shape.dim};
    load_tile<BLOCK_ROWS>(tiles, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, rows);
    __syncthreads();
    load_fragments<DIM>(to, tiles + warp * WARP_ROWS * STRIDE, STRIDE);
    __syncthreads();
  };
  fragments(queries, q);
  fragments(above, grad_output);
  float of_row[2], along[2];
  for (int row = 0; row < 2; row++) {
    // Rows behind the block are computed as its last one and not stored.
    int at = min(first + c_row(2 * row), block.end - 1) * shape.heads + head;
    of_row[row] = lse[at] * LOG2E;
    along[row] = delta[at];
  }

  C sums[DIM / 8] = {};
  for (int part = 0; part < 2; part++) {
    int end = part == 0 ? block.before_end : block.own_end;
    for (int key = part == 0 ? block.before_start : block.own_start; key < end; key += KEYS) {
      Rows<bf16> k_rows = {k, key, end, shape.kv_heads, kv_head, shape.dim};
      Rows<bf16> v_rows = {v, key, end, shape.kv_heads, kv_head, shape.dim};
      load_tile<KEYS>(k_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, k_rows);
      load_tile<KEYS>(v_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, v_rows);
      __syncthreads();
      C weights[KEYS / 8], slopes[KEYS / 8];
      products<DIM>(weights, queries, k_tile, STRIDE);
      products<DIM>(slopes, above, v_tile, STRIDE);
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int column = key + n * 8 + c_column(i), row = first + c_row(i);
          bool seen = row < block.end && column < end && shape.sees(row, column);
          float weight = seen ? exp2f(weights[n].x[i] * shape.scale * LOG2E - of_row[i / 2]) : 0.0f;
          slopes[n].x[i] = weight * (slopes[n].x[i] - along[i / 2]) * shape.scale;
        }
      add_weighted<DIM>(sums, slopes, k_tile, STRIDE);
      __syncthreads();
    }
  }
#pragma unroll
  for (int n = 0; n < DIM / 8; n++)
    for (int i = 0; i < 4; i++) {
      int row = first + c_row(i), column = n * 8 + c_column(i);
      if (row < block.end && column < shape.dim)
        dq[shape.at(row, head) + column] = from_float<bf16>(sums[n].x[i]);
    }
}

// dk and dv of one query head: [group, rows, kv_heads * dim].
template <int DIM>
__device__ void backward_keys(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *grad_output, const float *lse,
                              const float *delta, float *dk, float *dv, const int *blocks, Shape shape) {
  constexpr int QUERIES = 16, STRIDE = DIM + 8;
  __align__(16) __shared__ bf16 k_tile[BLOCK_ROWS * STRIDE];
  __align__(16) __shared__ bf16 v_tile[BLOCK_ROWS * STRIDE];
  __align__(16) __shared__ bf16 q_tile[QUERIES * STRIDE];
  __align__(16) __shared__ bf16 above_tile[QUERIES * STRIDE];
  __shared__ float of_query[QUERIES], along[QUERIES];
  KeyBlock block = key_block(blocks);
  int head = blockIdx.y, kv_head = head / shape.group(), warp = threadIdx.x / 32;
  int first = block.start + warp * WARP_ROWS;
  Rows<bf16> k_rows = {k, block.start, block.end, shape.kv_heads, kv_head, shape.dim};
  Rows<bf16> v_rows = {v, block.start, block.end, shape.kv_heads, kv_head, shape.dim};
  load_tile<BLOCK_ROWS>(k_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, k_rows);
  load_tile<BLOCK_ROWS>(v_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, v_rows);
  const bf16 *my_keys = k_tile + warp * WARP_ROWS * STRIDE, *my_values = v_tile + warp * WARP_ROWS * STRIDE;

  C k_sums[DIM / 8] = {}, v_sums[DIM / 8] = {};
  for (int query = block.query_start; query < block.query_end; query += QUERIES) {
    Rows<bf16> q_rows = {q, query, block.query_end, shape.heads, head, shape.dim};
    Rows<bf16> above_rows = {grad_output, query, block.query_end, shape.heads, head, shape.dim};
    load_tile<QUERIES>(q_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, q_rows);
    load_tile<QUERIES>(above_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, above_rows);
    if (threadIdx.x < QUERIES) {
      int at = min(query + (int)threadIdx.x, block.query_end - 1) * shape.heads + head;
      of_query[threadIdx.x] = lse[at] * LOG2E;
      along[threadIdx.x] = delta[at];
    }
    __syncthreads();
    C weights[2] = {}, slopes[2] = {};
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
      A key = load_a(my_keys + k * 16, STRIDE), value = load_a(my_values + k * 16, STRIDE);
      for (int n = 0; n < 2; n++) {
        multiply_add(weights[n], key, load_b(q_tile + n * 8 * STRIDE + k * 16, STRIDE));
        multiply_add(slopes[n], value, load_b(above_tile + n * 8 * STRIDE + k * 16, STRIDE));
      }
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int column = n * 8 + c_column(i);
        bool seen = query + column < block.query_end && shape.sees(query + column, first + c_row(i));
        float weight = seen ? exp2f(weights[n].x[i] * shape.scale * LOG2E - of_query[column]) : 0.0f;
        weights[n].x[i] = weight;
        slopes[n].x[i] = weight * (slopes[n].x[i] - along[column]) * shape.scale;
      }
    add_weighted<DIM>(v_sums, weights, above_tile, STRIDE);
    add_weighted<DIM>(k_sums, slopes, q_tile, STRIDE);
    __syncthreads();
  }
  long long part = (long long)(head % shape.group()) * shape.rows * shape.kv_heads * shape.dim;
#pragma unroll
  for (int n = 0; n < DIM / 8; n++)
    for (int i = 0; i < 4; i++) {
      int row = first + c_row(i), column = n * 8 + c_column(i);
      if (row < block.end && column < shape.dim) {
        long long at = part + shape.kv_at(row, kv_head) + column;
        dk[at] = k_sums[n].x[i];
        dv[at] = v_sums[n].x[i];
      }
    }
}

// ---- f32: 16 rows of four threads each ----

constexpr int QUAD_ROWS = 16;

// to[j] = row of a · row `part + 4 j` of b, in the four threads of the row
__device__ inline void products(float (&to)[4], const float *a, const float *b, int stride, int dim) {
  for (int j = 0; j < 4; j++) to[j] = 0.0f;
  for (int c = 0; c < dim; c++)
    for (int j = 0; j < 4; j++) to[j] += a[c] * b[(threadIdx.x % 4 + 4 * j) * stride + c];
}

// to[j] += Σ weights[i] · tile[i][part + 4 j]
template <int DIM>
__device__ inline void add_weighted(float (&to)[DIM / 4], const float *weights, const float *tile, int stride) {
  for (int i = 0; i < QUAD_ROWS; i++)
#pragma unroll
    for (int j = 0; j < DIM / 4; j++) to[j] += weights[i] * tile[i * stride + threadIdx.x % 4 + 4 * j];
}

template <int DIM>
__device__ void forward(const float *q, const float *k, const float *v, float *output, float *lse, const int *blocks,
                        Shape shape) {
  constexpr int STRIDE = DIM + 1;
  __shared__ float q_tile[QUAD_ROWS * STRIDE], k_tile[QUAD_ROWS * STRIDE], v_tile[QUAD_ROWS * STRIDE];
  __shared__ float weights_tile[QUAD_ROWS][QUAD_ROWS + 1];
  QueryBlock block = query_block(blocks);
  int head = blockIdx.y, kv_head = head / shape.group(), quad = threadIdx.x / 4, part = threadIdx.x % 4;
  int row = block.start + quad;
  Rows<float> q_rows = {q, block.start, block.end, shape.heads, head, shape.dim};
  load_tile<QUAD_ROWS>(q_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, q_rows);
  float sums[DIM / 4] = {}, largest = -INFINITY, total = 0.0f, scale = shape.scale * LOG2E;
  for (int half = 0; half < 2; half++) {
    int end = half == 0 ? block.before_end : block.own_end;
    for (int key = half == 0 ? block.before_start : block.own_start; key < end; key += QUAD_ROWS) {
      Rows<float> k_rows = {k, key, end, shape.kv_heads, kv_head, shape.dim};
      Rows<float> v_rows = {v, key, end, shape.kv_heads, kv_head, shape.dim};
      load_tile<QUAD_ROWS>(k_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, k_rows);
      load_tile<QUAD_ROWS>(v_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, v_rows);
      __syncthreads();
      float weights[4], now = -INFINITY;
      products(weights, q_tile + quad * STRIDE, k_tile, STRIDE, shape.dim);
      for (int j = 0; j < 4; j++) {
        int column = key + part + 4 * j;
        weights[j] = column < end && shape.sees(row, column) ? weights[j] * scale : -INFINITY;
        now = fmaxf(now, weights[j]);
      }
      now = fmaxf(largest, quad_max(now));
      float shrink = exp2f(largest - now), added = 0.0f;
      largest = now;
      for (int j = 0; j < 4; j++) {
        weights[j] = exp2f(weights[j] - largest);
        added += weights[j];
        weights_tile[quad][part + 4 * j] = weights[j];
      }
      total = total * shrink + quad_sum(added);
      for (int j = 0; j < DIM / 4; j++) sums[j] *= shrink;
      __syncwarp();
      add_weighted<DIM>(sums, weights_tile[quad], v_tile, STRIDE);
      __syncthreads();
    }
  }
  if (row >= block.end) return;
#pragma unroll
  for (int j = 0; j < DIM / 4; j++)
    if (part + 4 * j < shape.dim) output[shape.at(row, head) + part + 4 * j] = sums[j] / total;
  if (part == 0) lse[row * shape.heads + head] = (largest + log2f(total)) / LOG2E;
}

template <int DIM>
__device__ void backward_queries(const float *q, const float *k, const float *v, const float *grad_output,
                                 const float *lse, const float *delta, float *dq, const int *blocks, Shape shape) {
  constexpr int STRIDE = DIM + 1;
  __shared__ float q_tile[QUAD_ROWS * STRIDE], k_tile[QUAD_ROWS * STRIDE], v_tile[QUAD_ROWS * STRIDE];
  __shared__ float above_tile[QUAD_ROWS * STRIDE], slopes_tile[QUAD_ROWS][QUAD_ROWS + 1];
  QueryBlock block = query_block(blocks);
  int head = blockIdx.y, kv_head = head / shape.group(), quad = threadIdx.x / 4, part = threadIdx.x % 4;
  int row = min(block.start + quad, block.end - 1);
  Rows<float> q_rows = {q, block.start, block.end, shape.heads, head, shape.dim};
  Rows<float> above_rows = {grad_output, block.start, block.end, shape.heads, head, shape.dim};
  load_tile<QUAD_ROWS>(q_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, q_rows);
  load_tile<QUAD_ROWS>(above_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, above_rows);
  float of_row = lse[row * shape.heads + head] * LOG2E, along = delta[row * shape.heads + head];
  float sums[DIM / 4] = {};
  for (int half = 0; half < 2; half++) {
    int end = half == 0 ? block.before_end : block.own_end;
    for (int key = half == 0 ? block.before_start : block.own_start; key < end; key += QUAD_ROWS) {
      Rows<float> k_rows = {k, key, end, shape.kv_heads, kv_head, shape.dim};
      Rows<float> v_rows = {v, key, end, shape.kv_heads, kv_head, shape.dim};
      load_tile<QUAD_ROWS>(k_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, k_rows);
      load_tile<QUAD_ROWS>(v_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, v_rows);
      __syncthreads();
      float weights[4], slopes[4];
      products(weights, q_tile + quad * STRIDE, k_tile, STRIDE, shape.dim);
      products(slopes, above_tile + quad * STRIDE, v_tile, STRIDE, shape.dim);
      for (int j = 0; j < 4; j++) {
        int column = key + part + 4 * j;
        bool seen = column < end && shape.sees(row, column);
        float weight = seen ? exp2f(weights[j] * shape.scale * LOG2E - of_row) : 0.0f;
        slopes_tile[quad][part + 4 * j] = weight * (slopes[j] - along) * shape.scale;
      }
      __syncwarp();
      add_weighted<DIM>(sums, slopes_tile[quad], k_tile, STRIDE);
      __syncthreads();
    }
  }
  if (block.start + quad >= block.end) return;
#pragma unroll
  for (int j = 0; j < DIM / 4; j++)
    if (part + 4 * j < shape.dim) dq[shape.at(row, head) + part + 4 * j] = sums[j];
}

template <int DIM>
__device__ void backward_keys(const float *q, const float *k, const float *v, const float *grad_output, const float *lse,
                              const float *delta, float *dk, float *dv, const int *blocks, Shape shape) {
  constexpr int STRIDE = DIM + 1;
  __shared__ float q_tile[QUAD_ROWS * STRIDE], k_tile[QUAD_ROWS * STRIDE], v_tile[QUAD_ROWS * STRIDE];
  __shared__ float above_tile[QUAD_ROWS * STRIDE];
  __shared__ float weights_tile[QUAD_ROWS][QUAD_ROWS + 1], slopes_tile[QUAD_ROWS][QUAD_ROWS + 1];
  KeyBlock block = key_block(blocks);
  int head = blockIdx.y, kv_head = head / shape.group(), quad = threadIdx.x / 4, part = threadIdx.x % 4;
  int key = block.start + quad;
  Rows<float> k_rows = {k, block.start, block.end, shape.kv_heads, kv_head, shape.dim};
  Rows<float> v_rows = {v, block.start, block.end, shape.kv_heads, kv_head, shape.dim};
  load_tile<QUAD_ROWS>(k_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, k_rows);
  load_tile<QUAD_ROWS>(v_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, v_rows);
  float k_sums[DIM / 4] = {}, v_sums[DIM / 4] = {};
  for (int query = block.query_start; query < block.query_end; query += QUAD_ROWS) {
    Rows<float> q_rows = {q, query, block.query_end, shape.heads, head, shape.dim};
    Rows<float> above_rows = {grad_output, query, block.query_end, shape.heads, head, shape.dim};
    load_tile<QUAD_ROWS>(q_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, q_rows);
    load_tile<QUAD_ROWS>(above_tile, STRIDE, DIM, shape.dim, threadIdx.x, blockDim.x, above_rows);
    __syncthreads();
    float weights[4], slopes[4];
    products(weights, k_tile + quad * STRIDE, q_tile, STRIDE, shape.dim);
    products(slopes, v_tile + quad * STRIDE, above_tile, STRIDE, shape.dim);
    for (int j = 0; j < 4; j++) {
      int row = query + part + 4 * j, at = min(row, block.query_end - 1) * shape.heads + head;
      bool seen = row < block.query_end && shape.sees(row, key);
      float weight = seen ? exp2f(weights[j] * shape.scale * LOG2E - lse[at] * LOG2E) : 0.0f;
      weights_tile[quad][part + 4 * j] = weight;
      slopes_tile[quad][part + 4 * j] = weight * (slopes[j] - delta[at]) * shape.scale;
    }
    __syncwarp();
    add_weighted<DIM>(v_sums, weights_tile[quad], above_tile, STRIDE);
    add_weighted<DIM>(k_sums, slopes_tile[quad], q_tile, STRIDE);
    __syncthreads();
  }
  if (key >= block.end) return;
  long long to = (long long)(head % shape.group()) * shape.rows * shape.kv_heads * shape.dim + shape.kv_at(key, kv_head);
#pragma unroll
  for (int j = 0; j < DIM / 4; j++)
    if (part + 4 * j < shape.dim) {
      dk[to + part + 4 * j] = k_sums[j];
      dv[to + part + 4 * j] = v_sums[j];
    }
}

// ---- both ----

// delta[row, head] = Σ output · grad_output over the head, one warp each: what the softmax's slope subtracts.
template <class T> __device__ void row_products(const T *output, const T *grad_output, float *delta, int count, int dim) {
  int index = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  bool exists = index < count;
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; exists && i < dim; i += 32)
    sum += to_float(output[(long long)index * dim + i]) * to_float(grad_output[(long long)index * dim + i]);
  sum = warp_sum(sum);
  if (exists && threadIdx.x % 32 == 0) delta[index] = sum;
}

// sum[i] = Σ parts[p][i]
template <class T> __device__ void sum_parts(const float *parts, T *sum, int number, long long count) {
  long long i = global_index();
  if (i >= count) return;
  float total = 0.0f;
  for (int part = 0; part < number; part++) total += parts[part * count + i];
  sum[i] = from_float<T>(total);
}

}  // namespace attention

#define SHAPE_PARAMETERS int rows, int heads, int kv_heads, int dim, int causal, float scale
#define SHAPE {rows, heads, kv_heads, dim, causal, scale}
#define KERNELS(T, threads, DIM)                                                                                      \
  KERNEL(threads, attention_forward_##T##_##DIM, const T *q, const T *k, const T *v, T *output, float *lse,           \
         const int *blocks, SHAPE_PARAMETERS) {                                                                       \
    attention::forward<DIM>(q, k, v, output, lse, blocks, SHAPE);                                                                \
  }                                                                                                                   \
  KERNEL(threads, attention_backward_queries_##T##_##DIM, const T *q, const T *k, const T *v, const T *grad_output,   \
         const float *lse, const float *delta, T *dq, const int *blocks, SHAPE_PARAMETERS) {                          \
    attention::backward_queries<DIM>(q, k, v, grad_output, lse, delta, dq, blocks, SHAPE);                                       \
  }                                                                                                                   \
  KERNEL(threads, attention_backward_keys_##T##_##DIM, const T *q, const T *k, const T *v, const T *grad_output,      \
         const float *lse, const float *delta, float *dk, float *dv, const int *blocks, SHAPE_PARAMETERS) {           \
    attention::backward_keys<DIM>(q, k, v, grad_output, lse, delta, dk, dv, blocks, SHAPE);                                      \
  }

using f32 = float;
KERNELS(bf16, 128, 32)
KERNELS(bf16, 128, 80)
KERNELS(bf16, 128, 128)
KERNELS(f32, 64, 32)
KERNELS(f32, 64, 128)

KERNEL(256, attention_row_products_f32, const float *output, const float *grad_output, float *delta, int count, int dim) {
  attention::row_products(output, grad_output, delta, count, dim);
}
KERNEL(256, attention_row_products_bf16, const bf16 *output, const bf16 *grad_output, float *delta, int count, int dim) {
  attention::row_products(output, grad_output, delta, count, dim);
}
KERNEL(256, attention_sum_parts_f32, const float *parts, float *sum, int number, long long count) {
  attention::sum_parts(parts, sum, number, count);
}
KERNEL(256, attention_sum_parts_bf16, const float *parts, bf16 *sum, int number, long long count) {
  attention::sum_parts(parts, sum, number, count);
}
