// SPDX-License-Identifier: Apache-2.0
#include "cuda/device_group.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/kernels.h"

namespace flexep::testing {
namespace {

constexpr std::size_t kStateBytes = 256;

std::size_t states_offset(int num_ranks) {
  const std::size_t pointers = 2 * static_cast<std::size_t>(num_ranks) * sizeof(std::byte*);
  return (pointers + kStateBytes - 1) / kStateBytes * kStateBytes;
}
std::size_t links_offset(int num_ranks) {
  return states_offset(num_ranks) + static_cast<std::size_t>(num_ranks) * kStateBytes;
}
std::size_t table_bytes(int num_ranks) {
  return links_offset(num_ranks) + static_cast<std::size_t>(num_ranks * num_ranks);
}

/// [R, R]
std::vector<std::uint8_t> links_between(int num_ranks, int ranks_per_memory) {
  std::vector<std::uint8_t> links;
  for (int i = 0; i < num_ranks; ++i) {
    for (int j = 0; j < num_ranks; ++j) links.push_back(i / ranks_per_memory != j / ranks_per_memory);
  }
  return links;
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
      ranks_per_memory_(sizes.ranks_per_memory),
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
  if (ranks_per_memory_ == 0) return;
  const auto links = links_between(num_ranks, ranks_per_memory_);
  require(cudaMemcpy(tables_->data() + links_offset(num_ranks), links.data(), links.size(),
                     cudaMemcpyHostToDevice),
          "links");
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
  std::byte* states = tables_->data() + states_offset(num_ranks_);
  const auto* links = reinterpret_cast<const std::uint8_t*>(tables_->data() + links_offset(num_ranks_));
  return {
      .rank = rank,
      .num_ranks = num_ranks_,
      .mailbox = mailbox_,
      .mailboxes = pointers,
      .segments = pointers + num_ranks,
      .num_segments = 1,
      .is_across_link = ranks_per_memory_ == 0 ? nullptr : links + rank * num_ranks_,
      .state = reinterpret_cast<cuda::DeviceState*>(states + static_cast<std::size_t>(rank) * kStateBytes),
      .timeout_ns = timeout_ns_};
}

cuda::Reports DeviceGroup::reports(int rank, int num_local_experts) const {
  std::memset(static_cast<void*>(of(rank).result), 0, result_bytes_);
  return {.result = of(rank).result, .layout = {num_ranks_, num_local_experts}};
}

}  // namespace flexep::testing
