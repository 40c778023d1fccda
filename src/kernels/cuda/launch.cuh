// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "kernels/cuda/operation.cuh"

namespace flexep::cuda {

template <typename Launch>
using Kernel = void (*)(const Launch);

template <typename Launch>
cudaError_t enqueue(Kernel<Launch> kernel, const Launch& launch, int num_blocks, std::size_t dynamic_bytes,
                    cudaStream_t stream) {
  kernel<<<static_cast<unsigned>(num_blocks), kNumThreads, dynamic_bytes, stream>>>(launch);
  return cudaGetLastError();
}

/// Lets the kernel use that much dynamic shared memory, and runs it once with nothing to do: only a launch is
/// sure to load it, and would otherwise do so while kernels of other ranks wait for this one.
template <typename Launch>
cudaError_t load(Kernel<Launch> kernel, std::size_t dynamic_bytes) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(dynamic_bytes));
  return error != cudaSuccess ? error : enqueue(kernel, Launch{}, 1, dynamic_bytes, cudaStreamPerThread);
}

inline bool current_device_has_bulk_copies() {
  int device = 0;
  int major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

// Of the source files of this folder, for load_kernels().
cudaError_t load_dispatch();
cudaError_t load_combine();
cudaError_t load_refusal();
cudaError_t load_casts();
/// A kernel with nothing to do.
cudaError_t launch_nothing(cudaStream_t stream);

}  // namespace flexep::cuda
