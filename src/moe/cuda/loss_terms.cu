// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/check.h"
#include "moe/cuda/router_kernels.h"
#include "moe/cuda/warp_row.cuh"
#include "moe/score_functions.h"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename T>
struct TokenTerms {
  bool divides;  // scores by their sum
  std::int64_t num_tokens;
  int num_experts;
  const T* logits;
  const T* scores;
  T* shares;
  double* squared_log_sums;
};

// A warp takes a token.
template <typename T>
__global__ void token_terms_kernel(const TokenTerms<T> job) {
  const std::int64_t token = row_of_warp();
  if (token >= job.num_tokens) return;
  const std::int64_t row = token * job.num_experts;
  T largest = kLowest<T>, sum = 0;
  for (int e = lane(); e < job.num_experts; e += kWarp) {
    largest = max(largest, job.logits[row + e]);
    sum += job.scores[row + e];
  }
  largest = warp_max(largest);
  sum = warp_sum(sum) + static_cast<T>(kSumEpsilon);
  double exponentials = 0;
  for (int e = lane(); e < job.num_experts; e += kWarp) {
    exponentials += exp(static_cast<double>(job.logits[row + e] - largest));
    job.shares[row + e] = job.divides ? job.scores[row + e] / sum : job.scores[row + e];
  }
  const double log_sum = static_cast<double>(largest) + log(warp_sum(exponentials));
  if (lane() == 0) job.squared_log_sums[token] = log_sum * log_sum;
}

constexpr int kRowsOfBlock = 32;

// A block takes 32 experts of a sequence, a thread every 32nd of its tokens: the order of the sums is fixed.
template <typename T>
__global__ void sum_kernel(const T* shares, const std::int32_t* routing_map, double* sums,
                           std::int64_t num_tokens, int num_experts) {
  const int expert = static_cast<int>(blockIdx.y) * kWarp + lane(), part = static_cast<int>(threadIdx.y);
  const std::int64_t sequence = blockIdx.x, num_sequences = gridDim.x;
  double share = 0, pairs = 0;
  if (expert < num_experts) {
    for (std::int64_t t = sequence + num_sequences * part; t < num_tokens;
         t += num_sequences * kRowsOfBlock) {
      share += static_cast<double>(shares[t * num_experts + expert]);
      pairs += routing_map[t * num_experts + expert];
    }
  }
  __shared__ double parts[2][kRowsOfBlock][kWarp];
  parts[0][part][lane()] = share;
  parts[1][part][lane()] = pairs;
  __syncthreads();
  if (part > 1 || expert >= num_experts) return;
  double sum = 0;
  for (int i = 0; i < kRowsOfBlock; ++i) sum += parts[part][i][lane()];
  sums[(2 * sequence + part) * num_experts + expert] = sum;
}

}  // namespace

void token_terms(const RoutingRules& rules, const Tensor& logits, const Tensor& scores, const Tensor& shares,
                 const Tensor& squared_log_sums, cudaStream_t stream) {
  visit_wide(logits.dtype(), [&](auto wide) {
    using T = decltype(wide);
    const TokenTerms<T> job{
        has_score_sum(rules.score), logits.size(0),   static_cast<int>(logits.size(1)), logits.data<T>(),
        scores.data<T>(),           shares.data<T>(), squared_log_sums.data<double>()};
    launch_for_rows(logits.size(0), 1, [&](auto, auto blocks, auto threads) {
      token_terms_kernel<<<blocks, threads, 0, stream>>>(job);
    });
  });
  check(cudaGetLastError(), "compute shares of scores");
}

void sum_by_sequence(const Tensor& shares, const Tensor& routing_map, const Tensor& sums,
                     cudaStream_t stream) {
  const auto num_experts = static_cast<int>(shares.size(1));
  const dim3 blocks(static_cast<unsigned>(sums.size(0)),
                    static_cast<unsigned>((num_experts + kWarp - 1) / kWarp));
  visit_wide(shares.dtype(), [&](auto wide) {
    using T = decltype(wide);
    sum_kernel<<<blocks, dim3(kWarp, kRowsOfBlock), 0, stream>>>(
        shares.data<T>(), routing_map.data<std::int32_t>(), sums.data<double>(), shares.size(0), num_experts);
  });
  check(cudaGetLastError(), "sum the load of experts");
}

}  // namespace flexep::moe::on_cuda
