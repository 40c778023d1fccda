// SPDX-License-Identifier: Apache-2.0
//
// Who does what: tokens to blocks, items to warps.
#pragma once

#include "kernels/cuda/operation.cuh"

namespace flexep::cuda {

/// Tokens [begin, end) of one block: every block takes a contiguous part of them.
struct TokenRange {
  int begin;
  int end;
};

__device__ inline TokenRange tokens_of_block(int num_tokens, int block) {
  const auto total = static_cast<std::int64_t>(num_tokens);
  return {static_cast<int>(total * block / num_blocks()),
          static_cast<int>(total * (block + 1) / num_blocks())};
}

/// Deals items [0, num_items) out to the warps of a kernel: one to each by its number, the rest one by one to
/// whoever is free, since multiprocessors are not equally fast. For whole warps, each of which asks until it
/// gets none.
class WorkDeal {
 public:
  /// @param num_taken  0 at first; the kernel's own for each deal
  /// @param worker     of this warp, in [0, num_workers)
  __device__ WorkDeal(std::uint32_t* num_taken, int num_items, int worker, int num_workers)
      : num_taken_(num_taken), num_items_(num_items), num_workers_(num_workers), next_(worker) {}

  /// The next item, or -1.
  __device__ int next() {
    const int item = __shfl_sync(0xFFFFFFFFu, next_, 0);
    if (item >= num_items_) return -1;
    // Asked for one item ahead: the answer takes its time.
    next_ = num_items_;
    if (num_items_ > num_workers_ && lane_in_warp() == 0)
      next_ = num_workers_ + static_cast<int>(atomicAdd(num_taken_, 1u));
    return item;
  }

 private:
  std::uint32_t* num_taken_;
  int num_items_;
  int num_workers_;
  int next_;
};

}  // namespace flexep::cuda
