// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/cuda/CUDAStream.h>

#include <functional>

#include "flexep/cuda.h"
#include "flexep/torch.h"

/// flexep/torch.h for tensors of GPUs as well: what includes this one instead links flexep with its CUDA
/// backend, and LibTorch with its own (c10_cuda).
///
/// An operation follows LibTorch's current stream of the device of `x`, forward and backward, and that stream
/// finds its outputs. An output that is used on another stream: flexep::cuda::record_stream, or let the first
/// one wait before the tensor dies; LibTorch's own record_stream knows its own memory alone.
namespace flexep::autograd::detail {

inline void run_in_order_of_cuda(c10::Device device, const std::function<void()>& operation) {
  const cuda::StreamGuard guard(c10::cuda::getCurrentCUDAStream(device.index()).stream());
  operation();
}

inline const bool kKnowsStreamsOfCuda = (run_in_order_of_gpu = &run_in_order_of_cuda) != nullptr;

}  // namespace flexep::autograd::detail
