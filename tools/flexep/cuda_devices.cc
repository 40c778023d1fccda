// SPDX-License-Identifier: Apache-2.0
#include "cuda_devices.h"

#include <cuda_runtime_api.h>

#include <cstdlib>

namespace flexep::tool {

std::string why_no_cuda_device() {
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return num_devices > 0 ? "" : "this machine has no GPU";
}

}  // namespace flexep::tool
