// SPDX-License-Identifier: Apache-2.0
#include "moe/compute_device.h"

#include "moe/make_cuda_device.h"

namespace flexep::moe {

std::shared_ptr<const ComputeDevice> make_compute_device(Device device, bool threads_share_it) {
  if (device.is_host()) return {std::shared_ptr<void>(), &cpu_device()};
  return make_cuda_device(device, threads_share_it);
}

}  // namespace flexep::moe
