// SPDX-License-Identifier: Apache-2.0
//
// A warp takes a token. The backwards of score_functions.h, in registers.
#include "moe/cuda/check.h"
#include "moe/cuda/router_kernels.h"
#include "moe/cuda/warp_row.cuh"
#include "moe/score_functions.h"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename T>
struct RouteBackward {
  RoutingRules rules;
  std::int64_t num_tokens;
  int num_experts;
  const T* scores;               // [T, E]
  const std::int64_t* topk_idx;  // [T, K]
  const T* topk_probs;           // [T, K]
  const T* grad_probs;           // [T, E]
  const double* share_slopes;    // [sequences, E], or none
  std::int64_t num_sequences;
  const T* logits;  // [T, E], with a z-loss, or none
  double grad_loss;
  double z_slope;
  T* grad_logits;  // [T, E]
};

/// One token's row.
template <typename T, int kWidth>
class TokenGradient {
 public:
  __device__ TokenGradient(const RouteBackward<T>& job, std::int64_t token)
      : job_(job), token_(token), row_(token * job.num_experts) {}

  __device__ void run() {
    load();
    const ScoreRule& rule = job_.rules.score;
    if (job_.share_slopes != nullptr) add_balancing_gradient();
    if (rule.is_post_softmax) {
      add_softmax_gradient(probs_, grad_chosen_);
    } else {
      if (rule.is_normalised) unnormalise();
      for_each([&](int j, int) { grad_scores_[j] += grad_chosen_[j]; });
    }
    add_score_gradient();
    if (job_.logits != nullptr) add_z_gradient();
    for_each([&](int j, int column) { job_.grad_logits[row_ + column] = grad_[j]; });
  }

 private:
  template <typename Visit>
  __device__ void for_each(Visit visit) const {
    for_each_column<kWidth>(job_.num_experts, visit);
  }

  // Gradients and probabilities of what was chosen; 0 of the rest.
  __device__ void load() {
    const auto factor = static_cast<T>(job_.rules.scaling_factor);
    for_each([&](int j, int column) { scores_[j] = job_.scores[row_ + column]; });
    for (int k = 0; k < job_.rules.topk; ++k) {
      const std::int64_t at = token_ * job_.rules.topk + k;
      const std::int64_t chosen = job_.topk_idx[at];
      for_each([&](int j, int column) {
        if (column != chosen) return;
        is_chosen_ |= 1u << j;
        probs_[j] = job_.topk_probs[at];
        grad_chosen_[j] = job_.grad_probs[row_ + column] * factor;
      });
    }
  }

  // grad_ += the gradient of what a softmax was made of; its result and its gradient are given.
  __device__ void add_softmax_gradient(const T (&result)[kWidth], const T (&grad_result)[kWidth]) {
    T mean = 0;
    for_each([&](int j, int) { mean += result[j] * grad_result[j]; });
    mean = warp_sum(mean);
    for_each([&](int j, int) { grad_[j] += result[j] * (grad_result[j] - mean); });
  }

  // The gradient of values, of which shares are made; of the columns for which is_in(j) holds.
  template <typename IsIn>
  __device__ void normalise_backward(T (&grad_shares)[kWidth], IsIn is_in) {
    T sum = 0, weighted = 0;
    for_each([&](int j, int) {
      if (!is_in(j)) return;
      sum += scores_[j];
      weighted += scores_[j] * grad_shares[j];
    });
    sum = warp_sum(sum) + static_cast<T>(kSumEpsilon);
    weighted = warp_sum(weighted);
    for_each([&](int j, int) { grad_shares[j] = is_in(j) ? (grad_shares[j] - weighted / sum) / sum : T{0}; });
  }

  __device__ void unnormalise() {
    normalise_backward(grad_chosen_, [&](int j) { return (is_chosen_ >> j & 1u) != 0; });
  }

  __device__ void add_balancing_gradient() {
    const double* slopes = job_.share_slopes + token_ % job_.num_sequences * job_.num_experts;
    for_each([&](int j, int column) { grad_scores_[j] = static_cast<T>(job_.grad_loss * slopes[column]); });
    if (has_score_sum(job_.rules.score)) normalise_backward(grad_scores_, [](int) { return true; });
  }

  __device__ void add_score_gradient() {
    switch (job_.rules.score.function) {
      case RouterScoreFunction::kSoftmax:
        return add_softmax_gradient(scores_, grad_scores_);
      case RouterScoreFunction::kSigmoid:
        return for_each([&](int j, int) { grad_[j] += grad_scores_[j] * scores_[j] * (1 - scores_[j]); });
      case RouterScoreFunction::kSqrtSoftplus:
        return for_each([&](int j, int) {
          const T s = scores_[j];
          if (s > 0) grad_[j] -= grad_scores_[j] * expm1(-s * s) / (2 * s);
        });
    }
  }

  __device__ void add_z_gradient() {
    T logits[kWidth] = {}, largest = kLowest<T>;
    for_each([&](int j, int column) {
      logits[j] = job_.logits[row_ + column];
      largest = max(largest, logits[j]);
    });
    largest = warp_max(largest);
    double sum = 0;
    for_each([&](int j, int) { sum += exp(static_cast<double>(logits[j] - largest)); });
    const double lse = static_cast<double>(largest) + log(warp_sum(sum));
    for_each([&](int j, int) {
      grad_[j] +=
          static_cast<T>(job_.grad_loss * job_.z_slope * 2 * lse * exp(static_cast<double>(logits[j]) - lse));
    });
  }

  const RouteBackward<T>& job_;
  std::int64_t token_, row_;
  unsigned is_chosen_ = 0;
  T scores_[kWidth] = {}, probs_[kWidth] = {}, grad_chosen_[kWidth] = {}, grad_scores_[kWidth] = {},
    grad_[kWidth] = {};
};

template <typename T, int kWidth>
__global__ void route_backward_kernel(const __grid_constant__ RouteBackward<T> job) {
  const std::int64_t token = row_of_warp();
  if (token < job.num_tokens) TokenGradient<T, kWidth>(job, token).run();
}

}  // namespace

void route_backward(const RoutingRules& rules, const RouterContext& context, const Tensor& share_slopes,
                    const Tensor& grad_probs, double grad_loss, const Tensor& grad_logits,
                    cudaStream_t stream) {
  const Tensor& scores = context.scores;
  visit_wide(scores.dtype(), [&](auto wide) {
    using T = decltype(wide);
    const RouteBackward<T> job{rules,
                               scores.size(0),
                               static_cast<int>(scores.size(1)),
                               scores.data<T>(),
                               context.topk_idx.data<std::int64_t>(),
                               context.topk_probs.data<T>(),
                               grad_probs.data<T>(),
                               share_slopes ? share_slopes.data<double>() : nullptr,
                               share_slopes ? share_slopes.size(0) : 1,
                               context.logits ? context.logits.data<T>() : nullptr,
                               grad_loss,
                               context.z_slope,
                               grad_logits.data<T>()};
    launch_for_rows(scores.size(0), scores.size(1), [&](auto width, auto blocks, auto threads) {
      route_backward_kernel<T, decltype(width)::value><<<blocks, threads, 0, stream>>>(job);
    });
  });
  check(cudaGetLastError(), "compute the gradient of logits");
}

}  // namespace flexep::moe::on_cuda
