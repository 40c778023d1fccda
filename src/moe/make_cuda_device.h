// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "moe/compute_device.h"

namespace flexep::moe {

/// A GPU: cuBLAS, and kernels of our own. Made where nothing of this rank is in flight: it allocates.
/// @param threads_share_it  several ranks are threads of this process and use it: without cuBLAS (see
/// on_cuda::OwnProducts).
/// @throws InvalidArgument in a build without CUDA, or where threads share it and kernels are loaded lazily;
/// CudaError when there is no cuBLAS or no such GPU.
std::shared_ptr<const ComputeDevice> make_cuda_device(Device device, bool threads_share_it);

}  // namespace flexep::moe
