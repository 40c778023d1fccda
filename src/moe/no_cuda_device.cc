// SPDX-License-Identifier: Apache-2.0
//
// In place of moe/cuda in a build without CUDA.
#include <fmt/format.h>

#include "flexep/error.h"
#include "moe/make_cuda_device.h"

namespace flexep::moe {

std::shared_ptr<const ComputeDevice> make_cuda_device(Device device, bool) {
  throw InvalidArgument("device",
                        fmt::format("device is {}, but this build has no CUDA backend", device.to_string()));
}

}  // namespace flexep::moe
