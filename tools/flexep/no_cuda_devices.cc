// SPDX-License-Identifier: Apache-2.0
#include "cuda_devices.h"

namespace flexep::tool {

std::string why_no_cuda_device() {
  return "this build has no CUDA backend";
}

int num_cuda_devices() {
  return 0;
}

std::string cuda_device_name() {
  return "";
}

std::vector<std::string> cuda_device_names() {
  return {};
}

bool cuda_can_access(int /*from*/, int /*to*/) {
  return false;
}

}  // namespace flexep::tool
