// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/peer_ranges.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <set>

#include "backend/cuda/capture.h"
#include "backend/cuda/check_cuda.h"
#include "backend/cuda/shareable_memory.h"
#include "backend/cuda/stream.h"
#include "flexep/error.h"

namespace flexep::cuda {
namespace {

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
      survey_(survey_ranks(*transport, device)),
      segments_(std::make_shared<SegmentTable>(transport->num_ranks())) {
  const bool are_threads = survey_.places.are_threads();
  own_ = std::make_shared<DeviceRange>(device, survey_.places.reserved_bytes(rank_), memory,
                                       are_threads ? survey_.devices : std::vector<int>{device});
  if (are_threads) {
    reach_memory_of_threads();
    ranges_ = share_in_process(*transport, own_);
    segments_of_threads_ = share_in_process(*transport, segments_);
  } else {
    map_other_processes(transport);
  }
}

// What a rank registers is mapped for its own GPU alone. Ranges and pinned memory need nothing of this.
void PeerRanges::reach_memory_of_threads() const {
  for (const int other : std::set<int>(survey_.devices.begin(), survey_.devices.end())) {
    if (other == device_) continue;
    const cudaError_t error = cudaDeviceEnablePeerAccess(other, 0);
    if (error == cudaErrorPeerAccessAlreadyEnabled) {
      cudaGetLastError();
    } else {
      check(error, "reach the memory of another device");
    }
  }
}

void PeerRanges::map_other_processes(const std::shared_ptr<Transport>& transport) {
  for (int rank = 0; rank < transport->num_ranks(); ++rank) {
    ranges_.push_back(
        rank == rank_ ? own_ : std::make_shared<DeviceRange>(device_, survey_.places.reserved_bytes(rank)));
  }
  mappings_ = std::make_unique<SegmentMappings>(device_, segments_);
  board_ = std::make_unique<MemoryBoard>(
      transport, [this](int rank, const MemoryNews& news, const FileDescriptor& memory) {
        return follow(rank, news, memory);
      });
}

bool PeerRanges::follow(int rank, const MemoryNews& news, const FileDescriptor& memory) {
  const DeviceGuard guard(device_);
  const RelaxedCapture relaxed;
  DeviceRange& range = *ranges_[static_cast<std::size_t>(rank)];
  switch (news.kind) {
    case MemoryNews::Kind::kGrowth:
      range.grow_with(memory, news.num_bytes);
      return true;
    case MemoryNews::Kind::kShrink:
      range.shrink(news.num_bytes);
      return true;
    case MemoryNews::Kind::kSegment:
    case MemoryNews::Kind::kPiece:
    case MemoryNews::Kind::kEnd:
      break;
  }
  return mappings_->follow(rank, news, memory);
}

std::vector<std::byte*> PeerRanges::begins() const {
  std::vector<std::byte*> begins;
  for (const auto& range : ranges_) begins.push_back(range->begin());
  return begins;
}

void PeerRanges::publish() {
  if (board_) board_->publish({.num_bytes = own_->last_growth()}, own_->export_last());
}

void PeerRanges::withdraw(std::size_t num_bytes) {
  if (board_) board_->publish({.kind = MemoryNews::Kind::kShrink, .num_bytes = num_bytes});
}

void PeerRanges::share(int slot, const DeviceMemory& memory) {
  require_memory_of(memory, device_, rank_);
  if (!board_ && !across_link().empty()) require_reachable_by_peers(memory, rank_);
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
