// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/peer_ranges.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "backend/cuda/capture.h"
#include "backend/cuda/check_cuda.h"
#include "backend/cuda/shareable_memory.h"
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
template <typename T>
std::vector<std::shared_ptr<T>> share_in_process(Transport& transport, const std::shared_ptr<T>& mine) {
  std::vector<std::shared_ptr<T>> all;
  const auto* const address = &mine;
  for (const auto bytes : transport.all_gather(bytes_of(address), {.name = "construct"})) {
    const std::shared_ptr<T>* other = nullptr;
    std::memcpy(&other, bytes.data(), sizeof(other));
    all.push_back(*other);
  }
  // Nobody goes on before all have copied.
  transport.all_gather({}, {.name = "construct"});
  return all;
}

}  // namespace

PeerRanges::PeerRanges(const std::shared_ptr<Transport>& transport, int device, ArenaMemory memory)
    : rank_(transport->rank()),
      device_(device),
      segments_(std::make_shared<SegmentTable>(transport->num_ranks())) {
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
  own_ = std::make_shared<DeviceRange>(device, std::min(2 * share, properties.totalGlobalMem), memory);
  if (num_threads == std::ssize(all)) {
    ranges_ = share_in_process(*transport, own_);
    segments_of_threads_ = share_in_process(*transport, segments_);
  } else {
    map_other_processes(transport);
  }
}

void PeerRanges::map_other_processes(const std::shared_ptr<Transport>& transport) {
  for (int rank = 0; rank < transport->num_ranks(); ++rank) {
    const bool is_own = rank == transport->rank();
    ranges_.push_back(is_own ? own_ : std::make_shared<DeviceRange>(device_, own_->reserved_bytes()));
  }
  mappings_ = std::make_unique<SegmentMappings>(device_, segments_);
  board_ = std::make_unique<MemoryBoard>(
      transport, [this](int rank, const MemoryNews& news, const FileDescriptor& memory) {
        const DeviceGuard guard(device_);
        const RelaxedCapture relaxed;
        if (news.kind != MemoryNews::Kind::kGrowth) return mappings_->follow(rank, news, memory);
        ranges_[static_cast<std::size_t>(rank)]->grow_with(memory, news.num_bytes);
        return true;
      });
}

std::vector<std::byte*> PeerRanges::begins() const {
  std::vector<std::byte*> begins;
  for (const auto& range : ranges_) begins.push_back(range->begin());
  return begins;
}

void PeerRanges::publish() {
  if (board_) board_->publish({.num_bytes = own_->last_growth()}, own_->export_last());
}

void PeerRanges::share(int slot, const DeviceMemory& memory) {
  require_memory_of(memory, device_, rank_);
  for (const auto& table : segments_of_threads_) table->set(rank_, slot, memory.begin);
  if (!board_) return;
  segments_->set(rank_, slot, memory.begin);
  const std::vector<int> refusing = publish_segment(slot, flexep::cuda::share(memory, rank_));
  if (refusing.empty()) return;
  end_sharing(slot);
  throw InvalidArgument("memory", fmt::format("memory of rank {} cannot be mapped by rank(s) {}", rank_,
                                              fmt::join(refusing, ", ")));
}

std::vector<int> PeerRanges::publish_segment(int slot, const ShareableMemory& memory) {
  MemoryNews news{.kind = MemoryNews::Kind::kSegment, .slot = slot, .offset = memory.offset};
  if (memory.handle) {
    news.handle = *memory.handle;
    return board_->publish(news);
  }
  news.kind = MemoryNews::Kind::kPiece;
  news.total_bytes = memory.num_piece_bytes;
  std::vector<int> refusing;
  for (const auto& piece : memory.pieces) {
    news.num_bytes = piece.num_bytes;
    refusing = board_->publish(news, piece.file);
    if (!refusing.empty()) break;
  }
  return refusing;
}

void PeerRanges::end_sharing(int slot) {
  for (const auto& table : segments_of_threads_) table->set(rank_, slot, nullptr);
  if (!board_) return;
  segments_->set(rank_, slot, nullptr);
  board_->publish({.kind = MemoryNews::Kind::kEnd, .slot = slot});
}

}  // namespace flexep::cuda
