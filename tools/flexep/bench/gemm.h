// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "flexep/tensor.h"

namespace flexep::tool {

/// A product of two bf16 matrices on some of a GPU's multiprocessors, as computation beside communication: a
/// plain kernel on tensor cores (mma through WMMA, copies to shared memory some steps ahead), well below what
/// a vendor's library reaches. Each of its blocks takes a multiprocessor for itself.
class Gemm {
 public:
  static constexpr int kSize = 8192;   ///< rows and columns of the product
  static constexpr int kDepth = 4096;  ///< terms of a sum
  static constexpr double kNumFlops = 2.0 * kSize * kSize * kDepth;

  /// Makes the matrices, small integers, and loads the kernel: not while operations run.
  Gemm(Device device, int num_blocks);

  void enqueue(cudaStream_t stream) const;
  /// Whether some elements of the last product, which has ended, are right.
  bool is_right() const;

 private:
  int num_blocks_;
  Tensor a_;  ///< [kSize, kDepth]
  Tensor b_;  ///< [kDepth, kSize]
  Tensor c_;  ///< [kSize, kSize], bf16
  Tensor next_tile_;
};

}  // namespace flexep::tool
