// SPDX-License-Identifier: Apache-2.0
#include "cuda/device_group.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/kernels.h"

namespace flexep::testing {
namespace {

constexpr std::size_t kStateBytes = 256;

std::size_t table_bytes(int num_ranks) {
  return static_cast<std::size_t>(num_ranks) * (2 * sizeof(std::byte*) + kStateBytes) + kStateBytes;
}

}  // namespace

bool DeviceGroup::is_possible() {
  // Ranks wait for each other: each stream needs a hardware queue of its own.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  int num_devices = 0;
  int major = 0;
  return cudaGetDeviceCount(&num_devices) == cudaSuccess && num_devices > 0 &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess && major >= 9;
}

DeviceGroup::DeviceGroup(int num_ranks, const Sizes& sizes)
    : num_ranks_(num_ranks),
      timeout_ns_(sizes.timeout_ns),
      mailbox_{.num_ranks = num_ranks, .max_experts = sizes.max_experts},
      ranks_(static_cast<std::size_t>(num_ranks)),
      tables_(std::make_unique<DeviceMemory>(table_bytes(num_ranks))) {
  require(cuda::load_kernels(), "load_kernels");
  require(cudaDeviceGetAttribute(&num_device_sms_, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
  result_bytes_ = cuda::ResultLayout{num_ranks, sizes.max_experts}.num_bytes();
  std::vector<std::byte*> pointers;
  for (Rank& rank : ranks_) {
    require(cudaStreamCreateWithFlags(&rank.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    require(cuda::prepare_stream(rank.stream), "prepare_stream");
    rank.mailbox = std::make_unique<DeviceMemory>(mailbox_.num_bytes());
    rank.shared = std::make_unique<DeviceMemory>(sizes.shared_bytes);
    rank.private_memory = std::make_unique<DeviceMemory>(sizes.private_bytes);
    require(cudaHostAlloc(reinterpret_cast<void**>(&rank.result), result_bytes_, cudaHostAllocMapped),
            "cudaHostAlloc");
    pointers.push_back(rank.mailbox->data());
  }
  for (const Rank& rank : ranks_) pointers.push_back(rank.shared->data());
  require(cudaMemcpy(tables_->data(), pointers.data(), pointers.size() * sizeof(std::byte*),
                     cudaMemcpyHostToDevice),
          "tables");
}

DeviceGroup::~DeviceGroup() {
  cudaDeviceSynchronize();
  for (const Rank& rank : ranks_) {
    cudaFreeHost(rank.result);
    cudaStreamDestroy(rank.stream);
  }
}

cuda::Peers DeviceGroup::peers(int rank) const {
  auto* pointers = reinterpret_cast<std::byte**>(tables_->data());
  const auto num_ranks = static_cast<std::size_t>(num_ranks_);
  const std::size_t states =
      (2 * num_ranks * sizeof(std::byte*) + kStateBytes - 1) / kStateBytes * kStateBytes;
  return {.rank = rank,
          .num_ranks = num_ranks_,
          .mailbox = mailbox_,
          .mailboxes = pointers,
          .segments = pointers + num_ranks,
          .num_segments = 1,
          .state = reinterpret_cast<cuda::DeviceState*>(tables_->data() + states +
                                                        static_cast<std::size_t>(rank) * kStateBytes),
          .timeout_ns = timeout_ns_};
}

cuda::Reports DeviceGroup::reports(int rank, int num_local_experts) const {
  std::memset(static_cast<void*>(of(rank).result), 0, result_bytes_);
  return {.result = of(rank).result, .layout = {num_ranks_, num_local_experts}};
}

}  // namespace flexep::testing
