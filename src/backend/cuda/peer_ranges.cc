// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/peer_ranges.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "backend/cuda/check_cuda.h"
#include "backend/cuda/stream.h"
#include "common/check.h"

namespace flexep::cuda {
namespace {

/// Tells processes apart, also those that are equal in number because they live in different containers.
using ProcessToken = std::array<std::uint32_t, 4>;

ProcessToken process_token() {
  static const ProcessToken token = [] {
    std::random_device entropy;
    return ProcessToken{entropy(), entropy(), entropy(), entropy()};
  }();
  return token;
}

/// Who a rank is, for the others.
struct Introduction {
  ProcessToken process;
  cudaUUID_t gpu;
};

std::vector<Introduction> introduce(Transport& transport, const Introduction& mine) {
  std::vector<Introduction> all;
  for (const auto bytes : transport.all_gather(bytes_of(mine), {.name = "construct"}))
    std::memcpy(&all.emplace_back(), bytes.data(), sizeof(Introduction));
  return all;
}

/// Every rank's pointer, where ranks are threads.
std::vector<std::shared_ptr<DeviceRange>> share_in_process(Transport& transport,
                                                           const std::shared_ptr<DeviceRange>& mine) {
  std::vector<std::shared_ptr<DeviceRange>> all;
  const auto* const address = &mine;
  for (const auto bytes : transport.all_gather(bytes_of(address), {.name = "construct"})) {
    const std::shared_ptr<DeviceRange>* other = nullptr;
    std::memcpy(&other, bytes.data(), sizeof(other));
    all.push_back(*other);
  }
  // Nobody goes on before all have copied.
  transport.all_gather({}, {.name = "construct"});
  return all;
}

}  // namespace

PeerRanges::PeerRanges(const std::shared_ptr<Transport>& transport, int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "describe a device");
  const Introduction mine{process_token(), properties.uuid};
  const std::vector<Introduction> all = introduce(*transport, mine);
  const auto is_same_gpu = [&](const Introduction& other) {
    return std::memcmp(&other.gpu, &mine.gpu, sizeof(mine.gpu)) == 0;
  };
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    require_argument(is_same_gpu(all[rank]), "device",
                     "not supported on cuda yet: ranks {} and {} are on different GPUs", transport->rank(),
                     rank);
  }
  num_ranks_on_device_ = static_cast<int>(std::ranges::count_if(all, is_same_gpu));
  const auto is_thread = [&](const Introduction& other) { return other.process == mine.process; };
  const auto num_threads = std::ranges::count_if(all, is_thread);
  require_argument(num_threads == 1 || num_threads == std::ssize(all), "device",
                   "ranks on a GPU must be threads of one process, or all be processes");

  // Addresses for twice a rank's share of the memory; all of it for one or two ranks.
  const std::size_t share = properties.totalGlobalMem / static_cast<std::size_t>(num_ranks_on_device_);
  own_ = std::make_shared<DeviceRange>(device, std::min(2 * share, properties.totalGlobalMem));
  if (num_threads == std::ssize(all)) {
    ranges_ = share_in_process(*transport, own_);
  } else {
    map_other_processes(transport, device);
  }
}

void PeerRanges::map_other_processes(const std::shared_ptr<Transport>& transport, int device) {
  for (int rank = 0; rank < transport->num_ranks(); ++rank) {
    const bool is_own = rank == transport->rank();
    ranges_.push_back(is_own ? own_ : std::make_shared<DeviceRange>(device, own_->reserved_bytes()));
  }
  board_ = std::make_unique<GrowthBoard>(
      transport, [this, device](int rank, const FileDescriptor& memory, std::size_t num_bytes) {
        const DeviceGuard guard(device);
        ranges_[static_cast<std::size_t>(rank)]->grow_with(memory, num_bytes);
      });
}

std::vector<std::byte*> PeerRanges::begins() const {
  std::vector<std::byte*> begins;
  for (const auto& range : ranges_) begins.push_back(range->begin());
  return begins;
}

void PeerRanges::publish() {
  if (board_) board_->publish(own_->export_last(), own_->last_growth());
}

}  // namespace flexep::cuda
