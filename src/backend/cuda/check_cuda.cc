// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/check_cuda.h"

#include <fmt/format.h>

#include "backend/cuda/driver_api.h"
#include "flexep/error.h"

namespace flexep::cuda {

void check(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
  // So that the next caller does not find an error that it did not make.
  cudaGetLastError();
  const auto what =
      fmt::format("CUDA cannot {}: {} ({})", action, cudaGetErrorString(error), cudaGetErrorName(error));
  if (error == cudaErrorMemoryAllocation) throw OutOfMemory(what);
  throw CudaError(what);
}

void check(CUresult result, const char* action) {
  if (result == CUDA_SUCCESS) return;
  const char* text = "unknown error";
  driver().error_string(result, &text);
  const auto what = fmt::format("CUDA cannot {}: {} ({})", action, text, static_cast<int>(result));
  if (result == CUDA_ERROR_OUT_OF_MEMORY) throw OutOfMemory(what);
  throw CudaError(what);
}

}  // namespace flexep::cuda
