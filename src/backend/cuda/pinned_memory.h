// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

namespace flexep::cuda {

/// Pinned host memory that all GPUs reach at the same address; contents do not matter. Taken from the system
/// once and never given back, but used again by whoever asks later: both would wait for all that runs on the
/// GPU.
/// @throws OutOfMemory, CudaError.
std::shared_ptr<std::byte> pin_memory(std::size_t num_bytes);

}  // namespace flexep::cuda
