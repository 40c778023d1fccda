// SPDX-License-Identifier: Apache-2.0
//
// Combine, before the exchange: input that other ranks cannot reach is copied to where they can, and each
// received token's rows become one on the way where the contract reduces by owner (stage L). Of input that
// they reach, across a link, only the latter.
#pragma once

#include "kernels/cuda/combine.h"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/work_deal.cuh"

namespace flexep::cuda {

/// Copies memory, 16 bytes a thread while there are as many; all threads of the grid take part.
__device__ inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t num_bytes) {
  constexpr std::size_t kVectors = 4;  // in flight for each thread
  const std::size_t num_threads = static_cast<std::size_t>(num_blocks()) * kNumThreads;
  const std::size_t thread = static_cast<std::size_t>(block()) * kNumThreads + threadIdx.x;
  const std::size_t step = num_threads * sizeof(uint4);
  const std::size_t whole = num_bytes / sizeof(uint4) * sizeof(uint4);
  std::size_t at = thread * sizeof(uint4);
  for (; at + (kVectors - 1) * step < whole; at += kVectors * step) {
    uint4 values[kVectors];
#pragma unroll
    for (std::size_t i = 0; i < kVectors; ++i) values[i] = load_row16(from + at + i * step);
#pragma unroll
    for (std::size_t i = 0; i < kVectors; ++i) store_row16(to + at + i * step, values[i]);
  }
  for (; at < whole; at += step) store_row16(to + at, load_row16(from + at));
  for (std::size_t i = whole + thread; i < num_bytes; i += num_threads) to[i] = from[i];
}

/// Whether only tokens from across a link are staged, and of these only those that have several rows.
__device__ __forceinline__ bool stages_sums_only(const CombineLaunch& launch) {
  return launch.header.summed_x.segment >= 0;
}

/// Rows that go where the other ranks reach them: all of them as they are, or one for each received token.
/// The rows that this rank itself would read are left where they are, if they are in one piece.
class StagedTokens {
 public:
  /// @param own  received tokens that are left out
  __device__ StagedTokens(const CombineLaunch& launch, std::size_t row_bytes, int num_rows,
                          const TokenRange& own, SumTerm* terms, int worker, int num_workers)
      : launch_(launch),
        row_bytes_(row_bytes),
        own_(own),
        terms_(terms),
        deal_(launch.peers.state->num_items_taken + 1, num_rows - (own.end - own.begin), worker,
              num_workers) {}

  __device__ bool next(TokenSum& sum) {
    const int least = stages_sums_only(launch_) ? 2 : 1;
    int row = 0;
    do {
      const int item = deal_.next();
      if (item < 0) return false;
      row = item < own_.begin ? item : item + (own_.end - own_.begin);
      sum.num_terms = launch_.metadata != nullptr ? list_rows_of_token(row) : list_row(row);
    } while (sum.num_terms < least);
    sum.terms = terms_;
    sum.in_groups = false;
    sum.out = launch_.staged_x + static_cast<std::size_t>(row) * row_bytes_;
    sum.part = {0, row_bytes_};
    return true;
  }

 private:
  __device__ SumTerm term(std::int32_t row) const {
    return SumTerm(launch_.x + static_cast<std::size_t>(row) * row_bytes_, true);
  }

  __device__ int list_row(int row) {
    if (lane_in_warp() == 0) terms_[0] = term(row);
    __syncwarp();
    return 1;
  }

  /// Stage L: a received token's rows, in ascending column order, become one row. None, where the token is
  /// not wanted.
  __device__ int list_rows_of_token(int token) {
    const int num_topk = launch_.plan_layout.num_topk;
    const std::int32_t* rows = launch_.metadata + static_cast<std::int64_t>(token) * (num_topk + 2) + 2;
    const int source = rows[-1] / num_topk;  // see FanOutJob
    if (stages_sums_only(launch_) && launch_.peers.is_across_link[source] == 0) return 0;
    int num_terms = 0;
    for (int begin = 0; begin < num_topk; begin += kWarpSize) {
      const int k = begin + lane_in_warp();
      const std::int32_t row = k < num_topk ? rows[k] : -1;
      const std::uint32_t those = __ballot_sync(0xFFFFFFFFu, row >= 0);
      if (row >= 0) terms_[num_terms + __popc(those & ((1u << lane_in_warp()) - 1))] = term(row);
      num_terms += __popc(those);
    }
    __syncwarp();
    return num_terms;
  }

  const CombineLaunch& launch_;
  std::size_t row_bytes_;
  TokenRange own_;
  SumTerm* terms_;
  WorkDeal deal_;
};

}  // namespace flexep::cuda
