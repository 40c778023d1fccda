// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include "flexep/tensor.h"
#include "moe/swiglu.h"

/// What stands between a layer's products, on the current GPU, one file each. All tensors are contiguous and
/// in its memory; floating types are bf16, fp16, fp32 and fp64, and narrow ones are computed in fp32. Each
/// function starts one kernel on the stream. @throws CudaError.
namespace flexep::moe::on_cuda {

/// out = tensor in another type, rounded to nearest even.
void cast(const Tensor& tensor, const Tensor& out, cudaStream_t stream);
/// sum = a + b, in the type of a; b may be of another.
void add(const Tensor& a, const Tensor& b, const Tensor& sum, cudaStream_t stream);
void fill_with_ones(const Tensor& tensor, cudaStream_t stream);

/// As in swiglu.h, for rows of any type.
void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated, cudaStream_t stream);
void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                     const SwigluGradients& out, cudaStream_t stream);

/// scaled[r] = rows[r] * probs[r], rounded once. @param probs  [rows], fp32 or fp64.
void scale_rows(const Tensor& rows, const Tensor& probs, const Tensor& scaled, cudaStream_t stream);
/// grad_rows[r] = grad[r] * probs[r], grad_probs[r] = grad[r] . rows[r].
void scale_rows_backward(const Tensor& rows, const Tensor& probs, const Tensor& grad, const Tensor& grad_rows,
                         const Tensor& grad_probs, cudaStream_t stream);

/// 1 / (1 + exp(-x)), in place; fp32 or fp64.
void sigmoid(const Tensor& values, cudaStream_t stream);
/// grad = grad_values * values * (1 - values).
void sigmoid_backward(const Tensor& values, const Tensor& grad_values, const Tensor& grad,
                      cudaStream_t stream);

}  // namespace flexep::moe::on_cuda
