// SPDX-License-Identifier: Apache-2.0
#include "bench/copy_floor.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>

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

/// Where rows lie in host memory, they cross PCIe: one way in a dispatch, the other way in a combine.
class PcieFloor final : public Floor {
 public:
  explicit PcieFloor(std::size_t num_bytes)
      : num_bytes_(num_bytes),
        on_device_(cuda::empty({static_cast<std::int64_t>(num_bytes)}, DType::kUInt8, Device::cuda(0))) {
    void* memory = nullptr;
    require(cudaMallocHost(&memory, std::max(num_bytes, std::size_t{1})));
    on_host_ = {static_cast<std::byte*>(memory), [](std::byte* begin) { cudaFreeHost(begin); }};
  }

  void dispatch(const std::byte*, const std::byte*) override { copy(on_host_.get(), on_device_.data()); }
  void combine() override { copy(on_device_.data(), on_host_.get()); }

 private:
  void copy(void* to, const void* from) {
    require(cudaMemcpyAsync(to, from, num_bytes_, cudaMemcpyDefault, cuda::current_stream()));
    require(cudaStreamSynchronize(cuda::current_stream()));
  }

  std::size_t num_bytes_;
  Tensor on_device_;
  std::shared_ptr<std::byte> on_host_;
};

}  // namespace

// Dispatch reads each row once and writes it at each place; combine the other way round.
std::unique_ptr<Floor> make_copy_floor(const Workload& workload, const BenchOptions& options, int rank) {
  std::size_t num_rows = 0, num_places = 0;
  for (const auto& places : workload.places_of(rank)) {
    num_rows += 1 + places.size();
    num_places += places.size();
  }
  if (options.memory != "device") return std::make_unique<PcieFloor>(num_places * options.row_bytes());
  return std::make_unique<CopyFloor>(static_cast<std::int64_t>(num_rows * options.row_bytes() / 2));
}

}  // namespace flexep::tool
