// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace flexep::cuda {

/// @throws OutOfMemory when the GPU has none, CudaError for any other failure of `action` ("map memory").
void check(cudaError_t error, const char* action);
void check(CUresult result, const char* action);

}  // namespace flexep::cuda
