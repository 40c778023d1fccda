// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/peer_ranges.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "backend/cuda/check_cuda.h"
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
  const std::shared_ptr<DeviceRange>* range;  ///< to be copied before the next exchange, in the same process
};

}  // namespace

PeerRanges::PeerRanges(Transport& transport, int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "describe a device");
  own_ = std::make_shared<DeviceRange>(device, properties.totalGlobalMem);

  const Introduction mine{process_token(), properties.uuid, &own_};
  std::vector<Introduction> all;
  for (const auto bytes : transport.all_gather(bytes_of(mine), {.name = "construct"})) {
    std::memcpy(&all.emplace_back(), bytes.data(), sizeof(Introduction));
  }
  const auto is_same_gpu = [&](const Introduction& other) {
    return std::memcmp(&other.gpu, &mine.gpu, sizeof(mine.gpu)) == 0;
  };
  num_ranks_on_device_ = static_cast<int>(std::ranges::count_if(all, is_same_gpu));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    require_argument(all[rank].process == mine.process, "device",
                     "not supported on cuda yet: ranks {} and {} are different processes", transport.rank(),
                     rank);
    require_argument(is_same_gpu(all[rank]), "device",
                     "not supported on cuda yet: ranks {} and {} are on different GPUs", transport.rank(),
                     rank);
    ranges_.push_back(*all[rank].range);
  }
  transport.all_gather({}, {.name = "construct"});
}

std::vector<std::byte*> PeerRanges::begins() const {
  std::vector<std::byte*> begins;
  for (const auto& range : ranges_) begins.push_back(range->begin());
  return begins;
}

// Ranks of one process address the same mapping.
void PeerRanges::publish() {}

}  // namespace flexep::cuda
