// SPDX-License-Identifier: Apache-2.0
//
// Ranks take turns with the GPUs that the test sees: CUDA_VISIBLE_DEVICES=0 puts all of them on one.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

#include "cuda_devices.h"
#include "device_memory.h"
#include "flexep/communicator.h"
#include "flexep/tensor.h"

namespace flexep::testing {

/// The GPU that the calling thread uses.
inline Device this_gpu() {
  int device = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  return Device::cuda(device);
}

/// The calling thread is this rank from now on, and uses its GPU.
inline void use_gpu_of(int rank) {
  require(cudaSetDevice(rank % tool::num_cuda_devices()), "cudaSetDevice");
}

/// As in_process(), each thread using the GPU of its rank.
inline void on_gpus(int num_ranks, const std::function<void(Communicator&)>& body,
                    const CommunicatorOptions& options = {}) {
  const auto rank = [&](Communicator& comm) {
    use_gpu_of(comm.rank());
    body(comm);
  };
  in_process(num_ranks, rank, options);
}

}  // namespace flexep::testing
