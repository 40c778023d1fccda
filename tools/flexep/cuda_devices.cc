// SPDX-License-Identifier: Apache-2.0
#include "cuda_devices.h"

#include <cuda_runtime_api.h>

#include <cstdlib>

#include "flexep/env.h"

namespace flexep::tool {

std::string why_no_cuda_device() {
  const Environment environment = Environment::read();
  const bool is_process_of_a_job = environment.rank || environment.mpi_num_ranks;
  // A process of a job may have inherited the number of the process that started it.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", is_process_of_a_job ? "8" : "32", /*overwrite=*/is_process_of_a_job);
  if (!is_process_of_a_job) setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0);
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return num_devices > 0 ? "" : "this machine has no GPU";
}

int num_cuda_devices() {
  int num_devices = 0;
  return cudaGetDeviceCount(&num_devices) == cudaSuccess ? num_devices : 0;
}

std::string cuda_device_name() {
  const auto names = cuda_device_names();
  return names.empty() ? "" : names.front();
}

std::vector<std::string> cuda_device_names() {
  std::vector<std::string> names(static_cast<std::size_t>(num_cuda_devices()));
  cudaDeviceProp properties;
  for (int device = 0; device < static_cast<int>(names.size()); ++device) {
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
      names[static_cast<std::size_t>(device)] = properties.name;
  }
  return names;
}

bool cuda_can_access(int from, int to) {
  int can_access = 0;
  return cudaDeviceCanAccessPeer(&can_access, from, to) == cudaSuccess && can_access != 0;
}

}  // namespace flexep::tool
