// SPDX-License-Identifier: Apache-2.0
#include "bench/copy_floor.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "conformance/cuda_memory.h"
#include "device.h"
#include "flexep/cuda.h"
#include "flexep/error.h"

namespace flexep::tool {
namespace {

/// Not zeros, which some memory moves faster.
constexpr int kFiller = 0x5A;

void require(cudaError_t error) {
  if (error != cudaSuccess) throw CudaError(cudaGetErrorString(error));
}

/// Copies between this rank's GPU and another one, over what links them.
class LinkCopy {
 public:
  LinkCopy(Device own, int other, std::size_t num_bytes)
      : own_(own.index),
        other_(other),
        num_bytes_(num_bytes),
        here_(conformance::allocate_on_cuda(std::max(num_bytes, std::size_t{1}), own)),
        there_(conformance::allocate_on_cuda(std::max(num_bytes, std::size_t{1}), Device::cuda(other))) {
    conformance::use_cuda(own);
    if (cudaDeviceEnablePeerAccess(other, 0) == cudaErrorPeerAccessAlreadyEnabled) cudaGetLastError();
    cudaStream_t stream = nullptr;
    require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    stream_ = {stream, cudaStreamDestroy};
    for (const auto& memory : {here_, there_})
      require(cudaMemsetAsync(memory.get(), kFiller, num_bytes, stream));
  }

  void push() const { copy(there_.get(), other_, here_.get(), own_); }
  void pull() const { copy(here_.get(), own_, there_.get(), other_); }
  void wait() const { require(cudaStreamSynchronize(stream_.get())); }

 private:
  void copy(std::byte* to, int to_gpu, const std::byte* from, int from_gpu) const {
    require(cudaMemcpyPeerAsync(to, to_gpu, from, from_gpu, num_bytes_, stream_.get()));
  }

  int own_;
  int other_;
  std::size_t num_bytes_;
  std::shared_ptr<std::byte> here_;
  std::shared_ptr<std::byte> there_;
  std::shared_ptr<CUstream_st> stream_;
};

class CopyFloor final : public Floor {
 public:
  CopyFloor(Device gpu, std::int64_t num_bytes, std::vector<LinkCopy> link_copies)
      : from_(cuda::empty({num_bytes}, DType::kUInt8, gpu)),
        to_(cuda::empty({num_bytes}, DType::kUInt8, gpu)),
        link_copies_(std::move(link_copies)) {
    require(cudaMemsetAsync(from_.data(), kFiller, from_.num_bytes(), cuda::current_stream()));
  }

  void dispatch(const std::byte*, const std::byte*) override {
    for (const LinkCopy& link : link_copies_) link.push();
    copy_in_memory();
  }
  void combine() override {
    for (const LinkCopy& link : link_copies_) link.pull();
    copy_in_memory();
  }

 private:
  void copy_in_memory() {
    require(cudaMemcpyAsync(to_.data(), from_.data(), from_.num_bytes(), cudaMemcpyDeviceToDevice,
                            cuda::current_stream()));
    require(cudaStreamSynchronize(cuda::current_stream()));
    for (const LinkCopy& link : link_copies_) link.wait();
  }

  Tensor from_;
  Tensor to_;
  std::vector<LinkCopy> link_copies_;
};

/// Where rows lie in host memory, or go by way of it, they cross PCIe: in a combine the other way round than
/// in a dispatch.
class PcieFloor final : public Floor {
 public:
  /// Bytes of a dispatch.
  PcieFloor(Device gpu, std::size_t bytes_to_host, std::size_t bytes_to_device)
      : sent_(gpu, bytes_to_host), received_(gpu, bytes_to_device) {}

  void dispatch(const std::byte*, const std::byte*) override { copy(/*is_dispatch=*/true); }
  void combine() override { copy(/*is_dispatch=*/false); }

 private:
  /// Rows that a dispatch brings one way, and a stream for them.
  struct Way {
    Way(Device gpu, std::size_t size)
        : num_bytes(size), on_device(cuda::empty({static_cast<std::int64_t>(size)}, DType::kUInt8, gpu)) {
      void* memory = nullptr;
      require(cudaMallocHost(&memory, std::max(num_bytes, std::size_t{1})));
      on_host = {static_cast<std::byte*>(memory), [](std::byte* begin) { cudaFreeHost(begin); }};
      cudaStream_t made = nullptr;
      require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
      stream = {made, cudaStreamDestroy};
    }
    void copy(bool is_to_host) const {
      void* const to = is_to_host ? on_host.get() : on_device.data();
      const void* const from = is_to_host ? on_device.data() : on_host.get();
      require(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyDefault, stream.get()));
    }

    std::size_t num_bytes;
    Tensor on_device;
    std::shared_ptr<std::byte> on_host;
    std::shared_ptr<CUstream_st> stream;
  };

  // Both ways at a time.
  void copy(bool is_dispatch) {
    sent_.copy(is_dispatch);
    received_.copy(!is_dispatch);
    for (const Way* way : {&sent_, &received_}) require(cudaStreamSynchronize(way->stream.get()));
  }

  Way sent_;
  Way received_;
};

/// Rows that a rank brings to each GPU, a token once for each rank; those to its own GPU count as none.
std::vector<std::int64_t> rows_across_links(const Workload& workload, const BenchOptions& options, int rank) {
  const int num_gpus = options.num_gpus_used();
  std::vector<std::int64_t> num_rows(static_cast<std::size_t>(num_gpus));
  for (const auto& places : workload.places_of(rank)) {
    std::set<int> ranks;
    for (const RowPlace& place : places) ranks.insert(place.rank);
    for (const int other : ranks) num_rows[static_cast<std::size_t>(other % num_gpus)] += 1;
  }
  num_rows[static_cast<std::size_t>(rank % num_gpus)] = 0;
  return num_rows;
}

}  // namespace

// Dispatch reads each row once and writes it at each place; combine the other way round. What copies between
// GPUs read and write is part of that.
std::unique_ptr<Floor> make_copy_floor(const Workload& workload, const BenchOptions& options, int rank,
                                       int num_domains) {
  const Device gpu = device_of(options.device, options.num_gpus, rank);
  if (num_domains > 1) {
    const std::size_t num_received = workload.received_by(rank).size();
    return std::make_unique<PcieFloor>(
        gpu, static_cast<std::size_t>(options.num_tokens_of(rank)) * options.row_bytes(),
        num_received * options.row_bytes());
  }
  std::int64_t num_rows = 0, num_places = 0;
  for (const auto& places : workload.places_of(rank)) {
    num_rows += 1 + static_cast<std::int64_t>(places.size());
    num_places += static_cast<std::int64_t>(places.size());
  }
  const auto row_bytes = static_cast<std::int64_t>(options.row_bytes());
  if (options.memory != "device")
    return std::make_unique<PcieFloor>(gpu, static_cast<std::size_t>(num_places * row_bytes), 0);
  std::vector<LinkCopy> link_copies;
  const auto crossing = rows_across_links(workload, options, rank);
  for (std::size_t other = 0; other < crossing.size(); ++other) {
    if (crossing[other] == 0) continue;
    link_copies.emplace_back(gpu, static_cast<int>(other),
                             static_cast<std::size_t>(crossing[other] * row_bytes));
    num_rows -= 2 * crossing[other];
  }
  return std::make_unique<CopyFloor>(gpu, std::max(num_rows, std::int64_t{0}) * row_bytes / 2,
                                     std::move(link_copies));
}

}  // namespace flexep::tool
