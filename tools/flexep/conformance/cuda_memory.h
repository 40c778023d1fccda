// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "conformance/placement.h"
#include "flexep/tensor.h"

namespace flexep::conformance {

/// Placement's steps in memory of a GPU, in the order of the current stream. In a build without CUDA they
/// throw InvalidArgument.
/// The calling thread uses this GPU from now on.
void use_cuda(Device device);
Tensor put_on_cuda(const Tensor& on_host, Device device);
Tensor empty_on_cuda(const Shape& shape, DType dtype, Device device);
Pages pages_on_cuda(std::size_t num_bytes, Device device);
Tensor fetch_from_cuda(const Tensor& tensor);
void synchronise_cuda();
void fill_on_cuda(const Tensor& tensor, int byte);
void write_on_cuda(const Tensor& tensor, const Tensor& on_host);
/// Memory that can be registered: cudaMalloc.
std::shared_ptr<std::byte> allocate_on_cuda(std::size_t num_bytes, Device device);

}  // namespace flexep::conformance
