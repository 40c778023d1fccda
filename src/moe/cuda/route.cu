// SPDX-License-Identifier: Apache-2.0
//
// A warp takes a token, and holds its row in registers.
#include "moe/cuda/check.h"
#include "moe/cuda/router_kernels.h"
#include "moe/cuda/warp_row.cuh"
#include "moe/score_functions.h"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename T>
struct Route {
  RoutingRules rules;
  std::int64_t num_tokens;
  int num_experts;
  const T* logits;       // [T, E]
  const T* expert_bias;  // [E], or none
  T* scores;             // [T, E]
  std::int64_t* topk_idx;
  T* topk_probs;
  T* probs;
  std::int32_t* routing_map;
};

/// One token's row.
template <typename T, int kWidth>
class TokenRoute {
 public:
  __device__ TokenRoute(const Route<T>& job, std::int64_t token)
      : job_(job), token_(token), row_(token * job.num_experts) {}

  __device__ void run() {
    load();
    score();
    rank();
    weigh();
    store();
  }

 private:
  template <typename Visit>
  __device__ void for_each(Visit visit) const {
    for_each_column<kWidth>(job_.num_experts, visit);
  }

  __device__ void load() {
    for_each([&](int j, int column) { logits_[j] = job_.logits[row_ + column]; });
  }

  __device__ void score() {
    switch (job_.rules.score.function) {
      case RouterScoreFunction::kSoftmax:
        return softmax(logits_, scores_, [](int) { return true; });
      case RouterScoreFunction::kSigmoid:
        return for_each([&](int j, int) { scores_[j] = 1 / (1 + exp(-logits_[j])); });
      case RouterScoreFunction::kSqrtSoftplus:
        return for_each([&](int j, int) {
          const T z = logits_[j];
          scores_[j] = sqrt(max(z, T{0}) + log1p(exp(-abs(z))));
        });
    }
  }

  // Of the columns for which is_in(j) holds; 0 in others.
  template <typename IsIn>
  __device__ void softmax(const T (&values)[kWidth], T (&result)[kWidth], IsIn is_in) {
    T largest = kLowest<T>, sum = 0;
    for_each([&](int j, int) {
      if (is_in(j)) largest = max(largest, values[j]);
    });
    largest = warp_max(largest);
    for_each([&](int j, int) { sum += result[j] = is_in(j) ? exp(values[j] - largest) : T{0}; });
    sum = warp_sum(sum);
    for_each([&](int j, int) { result[j] /= sum; });
  }

  __device__ void rank() {
    T values[kWidth];
    for_each([&](int j, int column) {
      const T value = job_.rules.score.is_post_softmax ? logits_[j] : scores_[j];
      values[j] = as_number(job_.expert_bias ? value + job_.expert_bias[column] : value);
    });
    if (job_.rules.num_groups > 1) keep_best_groups(values);
    rank_best(values, job_.num_experts, job_.rules.topk, place_);
  }

  // Lane g ranks group g.
  __device__ void keep_best_groups(T (&values)[kWidth]) {
    const int num_groups = job_.rules.num_groups, group_size = job_.num_experts / num_groups;
    const int num_summed = min(job_.rules.topk / job_.rules.group_topk, group_size);
    T worth = kLowest<T>;
    for (int group = 0; group < num_groups; ++group) {
      const T sum = sum_of_largest(values, num_summed, group, group_size);
      if (lane() == group) worth = sum;
    }
    int num_better = 0;
    for (int group = 0; group < num_groups; ++group) {
      const T other = __shfl_sync(kWholeWarp, worth, group);
      if (other > worth || (other == worth && group < lane())) ++num_better;
    }
    const unsigned kept = __ballot_sync(kWholeWarp, num_better < job_.rules.group_topk);
    for_each([&](int j, int column) {
      if ((kept >> (column / group_size) & 1u) == 0) values[j] = kLowest<T>;
    });
  }

  __device__ T sum_of_largest(const T (&values)[kWidth], int count, int group, int group_size) const {
    T sum = 0;
    unsigned is_summed = 0;
    for (int i = 0; i < count; ++i) {
      const auto best = best_column(values, job_.num_experts, [&](int j, int column) {
        return column / group_size == group && (is_summed >> j & 1u) == 0;
      });
      for_each([&](int j, int column) {
        if (column == best.column) is_summed |= 1u << j;
      });
      sum += best.value;
    }
    return sum;
  }

  // The probabilities of what is chosen.
  __device__ void weigh() {
    const ScoreRule& rule = job_.rules.score;
    const auto is_chosen = [&](int j) { return place_[j] >= 0; };
    if (rule.is_post_softmax) return softmax(logits_, probs_, is_chosen);
    for_each([&](int j, int) { probs_[j] = is_chosen(j) ? scores_[j] : T{0}; });
    if (!rule.is_normalised) return;
    T sum = 0;
    for_each([&](int j, int) { sum += probs_[j]; });
    sum = warp_sum(sum) + static_cast<T>(kSumEpsilon);
    for_each([&](int j, int) { probs_[j] /= sum; });
  }

  __device__ void store() const {
    const auto factor = static_cast<T>(job_.rules.scaling_factor);
    for_each([&](int j, int column) {
      job_.scores[row_ + column] = scores_[j];
      job_.probs[row_ + column] = probs_[j] * factor;
      job_.routing_map[row_ + column] = place_[j] >= 0 ? 1 : 0;
      if (place_[j] < 0) return;
      const std::int64_t at = token_ * job_.rules.topk + place_[j];
      job_.topk_idx[at] = column;
      job_.topk_probs[at] = probs_[j];
    });
  }

  const Route<T>& job_;
  std::int64_t token_, row_;
  T logits_[kWidth] = {}, scores_[kWidth] = {}, probs_[kWidth] = {};
  int place_[kWidth];
};

template <typename T, int kWidth>
__global__ void route_kernel(const __grid_constant__ Route<T> job) {
  const std::int64_t token = row_of_warp();
  if (token < job.num_tokens) TokenRoute<T, kWidth>(job, token).run();
}

}  // namespace

void route(const RoutingRules& rules, const Tensor& logits, const Tensor& expert_bias,
           const RoutingDecision& out, cudaStream_t stream) {
  visit_wide(logits.dtype(), [&](auto wide) {
    using T = decltype(wide);
    const Route<T> job{rules,
                       logits.size(0),
                       static_cast<int>(logits.size(1)),
                       logits.data<T>(),
                       expert_bias ? expert_bias.data<T>() : nullptr,
                       out.scores.data<T>(),
                       out.topk_idx.data<std::int64_t>(),
                       out.topk_probs.data<T>(),
                       out.probs.data<T>(),
                       out.routing_map.data<std::int32_t>()};
    launch_for_rows(logits.size(0), logits.size(1), [&](auto width, auto blocks, auto threads) {
      route_kernel<T, decltype(width)::value><<<blocks, threads, 0, stream>>>(job);
    });
  });
  check(cudaGetLastError(), "route tokens");
}

}  // namespace flexep::moe::on_cuda
