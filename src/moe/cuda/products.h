// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "moe/compute_device.h"

namespace flexep::moe::on_cuda {

/// The products of ComputeDevice on the current GPU, in the order of a stream: narrow factors are accumulated
/// in fp32, others in their own type. Used by one thread at a time. @throws CudaError.
class Products {
 public:
  virtual ~Products() = default;

  virtual void multiply(const Factor& a, const Factor& b, const Tensor& out, cudaStream_t stream) const = 0;

  /// One product after the other, for each expert.
  void multiply_rows(const ExpertRows& rows, const Factor& weights, const Tensor& out,
                     cudaStream_t stream) const {
    for_each_expert(rows.tokens_per_expert, [&](auto expert, auto begin, auto end) {
      multiply(rows.rows.rows(begin, end), weights.of_expert(expert), out.rows(begin, end), stream);
    });
  }
  void multiply_transposed_rows(const ExpertRows& a, const Tensor& b, const Tensor& out,
                                cudaStream_t stream) const {
    for_each_expert(a.tokens_per_expert, [&](auto expert, auto begin, auto end) {
      multiply(transposed(a.rows.rows(begin, end)), b.rows(begin, end), Factor(out).of_expert(expert).matrix,
               stream);
    });
  }
};

}  // namespace flexep::moe::on_cuda
