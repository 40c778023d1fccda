// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "moe/compute_device.h"

namespace flexep::moe {

/// A GPU: cuBLAS, and kernels of our own. Made where nothing of this rank is in flight: it allocates.
/// @throws InvalidArgument in a build without CUDA, CudaError when there is no cuBLAS or no such GPU.
std::shared_ptr<const ComputeDevice> make_cuda_device(Device device);

}  // namespace flexep::moe
