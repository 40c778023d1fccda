// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "flexep/tensor.h"

namespace flexep::cuda {

/// Whether kernels can read the tensor, or its absence, as it is: row-major, 16-byte aligned.
bool is_dense(const Tensor& tensor);

/// Copies the elements of a matrix with any strides, row-major, to `to`. Enqueues a copy for the whole, or
/// one for each column or row where the strides leave no other way.
void copy_dense(const Tensor& matrix, std::byte* to, cudaStream_t stream);

}  // namespace flexep::cuda
