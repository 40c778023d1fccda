// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace flexep::moe::on_cuda {

/// @throws CudaError for any failure of `action` ("compute an activation").
void check(cudaError_t error, const char* action);

/// Makes a GPU the calling thread's current one, for as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int previous_ = 0;
};

}  // namespace flexep::moe::on_cuda
