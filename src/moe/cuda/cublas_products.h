// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/cuda/cublas_library.h"
#include "moe/cuda/products.h"

namespace flexep::moe::on_cuda {

/// Products by cuBLAS. cuBLAS's grouped product would be one call for all experts, but takes two times as
/// long for 32 experts of 1024 rows (bf16, hidden 7168, F 2048).
class CublasProducts final : public Products {
 public:
  /// Allocates.
  CublasProducts();
  ~CublasProducts() override;
  CublasProducts(const CublasProducts&) = delete;
  CublasProducts& operator=(const CublasProducts&) = delete;

  void multiply(const Factor& a, const Factor& b, const Tensor& out, cudaStream_t stream) const override;

 private:
  CublasHandle handle_ = nullptr;
};

}  // namespace flexep::moe::on_cuda
