// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/cuda/products.h"

namespace flexep::moe::on_cuda {

/// Products by a kernel of our own, for ranks that are threads and share a GPU: cuBLAS loads a kernel when it
/// first needs it, for which the driver waits until the process's kernels have ended, and another rank's may
/// wait for this one. Each sum is in the order of its terms, whatever the sizes. Without tensor cores: a
/// fraction of cuBLAS's rate.
class OwnProducts final : public Products {
 public:
  void multiply(const Factor& a, const Factor& b, const Tensor& out, cudaStream_t stream) const override;
};

}  // namespace flexep::moe::on_cuda
