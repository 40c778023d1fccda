// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "flexep/tensor.h"

/// Between the host's memory, where all of the model computes but its MoE layers, and that of the device
/// where those do. On the CPU both are one, and a tensor is its own copy.
namespace moe_lm {

/// Empty when this process can use a GPU; to be called before CUDA is used. Sets how many hardware queues it
/// gets, and, for ranks that are threads, that kernels are loaded before the first one runs.
std::string why_no_gpu(bool ranks_are_threads);

/// The GPU of a rank, which the calling thread uses from now on: ranks take turns with those that the process
/// sees. Where launchers show each process one GPU, that one.
flexep::Device use_gpu_of(int rank);

flexep::Tensor to_layer(const flexep::Tensor& tensor, flexep::Device device);
flexep::Tensor to_host(const flexep::Tensor& tensor);
/// Into a tensor of the layer, of the same shape.
void copy_to_layer(const flexep::Tensor& tensor, const flexep::Tensor& out);

}  // namespace moe_lm
