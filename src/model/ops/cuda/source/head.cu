// What a loss needs of a row of logits, and the gradient with respect to it. One block per row. Logits are f32 in every
// model: in bf16 those from 16 to 32 are 1/8 apart, more than two models differ.
#include "common.cuh"

// scores [5, rows]: log p(target), entropy, log-sum-exp; with a bias model also its log-sum-exp and KL(p || bias).
__device__ void score(const float *logits, const uint32_t *targets, const float *bias, float *scores, int rows, int vocabulary) {
  int row = blockIdx.x;
  logits += (long long)row * vocabulary;
  if (bias) bias += (long long)row * vocabulary;
  float largest = -INFINITY, bias_largest = -INFINITY;
  for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
    largest = fmaxf(largest, logits[i]);
    if (bias) bias_largest = fmaxf(bias_largest, bias[i]);
  }
  largest = block_max(largest);
  if (bias) bias_largest = block_max(bias_largest);

  float total = 0.0f, below = 0.0f, bias_total = 0.0f, gap = 0.0f;
  for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
    float distance = logits[i] - largest, weight = expf(distance);
    total += weight;
    below += weight * distance;
    if (bias) {
      float bias_distance = bias[i] - bias_largest;
      bias_total += expf(bias_distance);
      gap += weight * (distance - bias_distance);
    }
  }
  total = block_sum(total);
  below = block_sum(below);
  if (bias) {
    bias_total = block_sum(bias_total);
    gap = block_sum(gap);
  }
  if (threadIdx.x > 0) return;
  float log_total = logf(total);
  scores[row] = logits[targets[row]] - largest - log_total;
  scores[rows + row] = log_total - below / total;
  scores[2 * rows + row] = largest + log_total;
  if (bias) {
    float bias_log_total = logf(bias_total);
    scores[3 * rows + row] = bias_largest + bias_log_total;
    scores[4 * rows + row] = gap / total - log_total + bias_log_total;
  }
}

// gradient = d_logprob * (onehot - p) + d_kl * p * (log p - log b - KL); it may take the logits' place.
template <class T>
__device__ void backward(const float *logits, const uint32_t *targets, const float *bias, const float *scores,
                         const float *d_logprob, const float *d_kl, T *gradient, int rows, int vocabulary) {
  int row = blockIdx.x, target = targets[row];
  logits += (long long)row * vocabulary;
  gradient += (long long)row * vocabulary;
  float log_total = scores[2 * rows + row], above = d_logprob[row];
  float above_kl = bias ? d_kl[row] : 0.0f, bias_log_total = bias ? scores[3 * rows + row] : 0.0f;
  float divergence = bias ? scores[4 * rows + row] : 0.0f;
  if (bias) bias += (long long)row * vocabulary;
  for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
    float log_p = logits[i] - log_total, slope = -above;
    if (bias) slope += above_kl * (log_p - (bias[i] - bias_log_total) - divergence);
    gradient[i] = from_float<T>(slope * expf(log_p) + (i == target ? above : 0.0f));
  }
}

// sum += part
template <class T> __device__ void add(float *sum, const T *part, long long count) {
  for (long long i = global_index(); i < count; i += global_stride()) sum[i] += to_float(part[i]);
}

KERNEL(512, head_scores, const float *logits, const uint32_t *targets, const float *bias, float *scores, int rows, int vocabulary) {
  score(logits, targets, bias, scores, rows, vocabulary);
}

#define HEAD(T, suffix)                                                                                            \
  KERNEL(512, head_backward_##suffix, const float *logits, const uint32_t *targets, const float *bias,             \
         const float *scores, const float *d_logprob, const float *d_kl, T *gradient, int rows, int vocabulary) {  \
    backward(logits, targets, bias, scores, d_logprob, d_kl, gradient, rows, vocabulary);                          \
  }                                                                                                                \
  KERNEL(256, head_add_##suffix, float *sum, const T *part, long long count) { add(sum, part, count); }

HEAD(float, f32)
HEAD(bf16, bf16)
