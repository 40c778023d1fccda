// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

namespace flexep::moe::on_cuda {

/// The sum of all threads' values, always in the same order; in thread 0. For blocks of kThreads, a multiple
/// of 32 of at most 1024.
template <int kThreads, typename T>
__device__ T block_sum(T value) {
  constexpr int kWarp = 32, kNumWarps = kThreads / kWarp;
  __shared__ T of_warps[kNumWarps];
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value += __shfl_down_sync(0xFFFFFFFFu, value, static_cast<unsigned>(distance));
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  if (threadIdx.x != 0) return value;
  for (int warp = 1; warp < kNumWarps; ++warp) value += of_warps[warp];
  return value;
}

}  // namespace flexep::moe::on_cuda
