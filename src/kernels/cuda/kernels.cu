// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.cuh"

namespace flexep::cuda {

cudaError_t load_kernels() {
  for (const auto load : {load_dispatch, load_combine, load_refusal, load_casts}) {
    if (const cudaError_t error = load(); error != cudaSuccess) return error;
  }
  return cudaStreamSynchronize(cudaStreamPerThread);
}

cudaError_t prepare_stream(cudaStream_t stream) {
  const cudaError_t error = launch_nothing(stream);
  return error != cudaSuccess ? error : cudaStreamSynchronize(stream);
}

}  // namespace flexep::cuda
