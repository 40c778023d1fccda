// SPDX-License-Identifier: Apache-2.0
#include "bench/copy_floor.h"

#include <cuda_runtime_api.h>

#include "flexep/cuda.h"
#include "flexep/error.h"

namespace flexep::tool {
namespace {

void require(cudaError_t error) {
  if (error != cudaSuccess) throw CudaError(cudaGetErrorString(error));
}

class CopyFloor final : public Floor {
 public:
  explicit CopyFloor(std::int64_t num_bytes)
      : from_(cuda::empty({num_bytes}, DType::kUInt8, Device::cuda(0))),
        to_(cuda::empty({num_bytes}, DType::kUInt8, Device::cuda(0))) {
    // Not zeros, which some memory moves faster.
    require(cudaMemsetAsync(from_.data(), 0x5A, from_.num_bytes(), cuda::current_stream()));
  }

  void dispatch(const std::byte*, const std::byte*) override { copy(); }
  void combine() override { copy(); }

 private:
  void copy() {
    require(cudaMemcpyAsync(to_.data(), from_.data(), from_.num_bytes(), cudaMemcpyDeviceToDevice,
                            cuda::current_stream()));
    require(cudaStreamSynchronize(cuda::current_stream()));
  }

  Tensor from_;
  Tensor to_;
};

}  // namespace

// Dispatch reads each row once and writes it at each place; combine the other way round.
std::unique_ptr<Floor> make_copy_floor(const Workload& workload, const BenchOptions& options, int rank) {
  std::size_t num_rows = 0;
  for (const auto& places : workload.places_of(rank)) num_rows += 1 + places.size();
  return std::make_unique<CopyFloor>(static_cast<std::int64_t>(num_rows * options.row_bytes() / 2));
}

}  // namespace flexep::tool
