// SPDX-License-Identifier: Apache-2.0
//
// Combine, before the exchange: input that other ranks cannot reach is copied to where they can, and each
// received token's rows become one on the way where the contract reduces by owner (stage L).
#pragma once

#include "kernels/cuda/combine.h"
#include "kernels/cuda/row_sums.cuh"

namespace flexep::cuda {

/// Copies memory, 16 bytes a thread while there are as many; all threads of the grid take part.
__device__ inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t num_bytes) {
  constexpr std::size_t kVectors = 8;  // in flight for each thread
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

/// Stage L: each received token's rows, in ascending column order, become one row.
template <typename T>
__device__ void reduce_tokens(const CombineLaunch& launch, int num_recv_tokens, SumTerm* terms) {
  const int num_topk = launch.plan_layout.num_topk;
  const std::size_t row_bytes = static_cast<std::size_t>(launch.num_columns) * sizeof(T);
  const int num_workers = num_blocks() * kNumWarps;
  for (int token = block() * kNumWarps + warp_in_block(); token < num_recv_tokens; token += num_workers) {
    const std::int32_t* rows = launch.metadata + static_cast<std::int64_t>(token) * (num_topk + 2) + 2;
    int num_terms = 0;
    for (int begin = 0; begin < num_topk; begin += kWarpSize) {
      const int k = begin + lane_in_warp();
      const std::int32_t row = k < num_topk ? rows[k] : -1;
      const std::uint32_t those = __ballot_sync(0xFFFFFFFFu, row >= 0);
      if (row >= 0) {
        const int position = num_terms + __popc(those & ((1u << lane_in_warp()) - 1));
        terms[position] = SumTerm(launch.x + static_cast<std::size_t>(row) * row_bytes, true);
      }
      num_terms += __popc(those);
    }
    __syncwarp();
    sum_rows<T>(terms, num_terms, false, launch.staged_x + static_cast<std::size_t>(token) * row_bytes,
                {0, row_bytes});
    __syncwarp();
  }
}

}  // namespace flexep::cuda
