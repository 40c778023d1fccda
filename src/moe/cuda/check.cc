// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/check.h"

#include <fmt/format.h>

#include "flexep/error.h"

namespace flexep::moe::on_cuda {

void check(cudaError_t error, const char* action) {
  if (error != cudaSuccess)
    throw CudaError(fmt::format("a MoE layer could not {}: {}", action, cudaGetErrorString(error)));
}

CurrentDevice::CurrentDevice(int index) {
  check(cudaGetDevice(&previous_), "find the current GPU");
  check(cudaSetDevice(index), "use its GPU");
}

CurrentDevice::~CurrentDevice() {
  cudaSetDevice(previous_);
}

}  // namespace flexep::moe::on_cuda
