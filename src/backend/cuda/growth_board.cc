// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/growth_board.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <chrono>
#include <cstring>

#include "common/deadline.h"
#include "flexep/error.h"
#include "transport/shared_memory/signal.h"

namespace flexep::cuda {
namespace {

constexpr std::size_t kMaxRanks = 1024;
/// An arena adds a quarter to itself at each growth.
constexpr std::size_t kMaxGrowths = 1024;
/// How long news may wait where a wake-up is missed.
constexpr std::chrono::milliseconds kIdleNap{20};

struct Growth {
  SegmentId file;
  std::uint64_t num_bytes;
};

}  // namespace

/// Zero is the initial state. Signals are only napped on and woken: what they are about stands beside them.
struct GrowthBoard::Board {
  Signal news;      ///< the owner's thread sleeps here
  Signal progress;  ///< the owner sleeps here while others map
  std::atomic<std::uint32_t> num_growths;
  std::atomic<std::uint32_t> num_mapped[kMaxRanks];  ///< growths of each rank that the owner has mapped
  std::atomic<std::uint32_t> has_failed;             ///< the owner could not map something
  std::array<Growth, kMaxGrowths> growths;
};

GrowthBoard::GrowthBoard(std::shared_ptr<Transport> transport, MapGrowth map_growth)
    : transport_(std::move(transport)),
      map_growth_(std::move(map_growth)),
      num_mapped_(static_cast<std::size_t>(transport_->num_ranks())) {
  if (num_mapped_.size() > kMaxRanks)
    throw InvalidArgument("device", "more than 1024 ranks cannot share GPUs");
  const Segment mine = transport_->create_segment(sizeof(Board));
  std::vector<SegmentId> ids;
  for (const auto bytes : transport_->all_gather(bytes_of(mine.id), {.name = "construct"}))
    std::memcpy(&ids.emplace_back(), bytes.data(), sizeof(SegmentId));
  for (int rank = 0; rank < transport_->num_ranks(); ++rank) {
    const bool is_own = rank == transport_->rank();
    boards_.push_back(is_own ? mine.memory
                             : transport_->map_segment(rank, ids[static_cast<std::size_t>(rank)]));
  }
  thread_ = std::thread([this] { watch(); });
}

GrowthBoard::~GrowthBoard() {
  is_closing_ = true;
  wake(board(transport_->rank()).news);
  thread_.join();
}

void GrowthBoard::watch() {
  Board& own = board(transport_->rank());
  try {
    while (!is_closing_) {
      for (int rank = 0; rank < transport_->num_ranks(); ++rank) {
        if (rank != transport_->rank()) map_news_of(rank);
      }
      nap(own.news, own.news.epoch + 1, kIdleNap);
    }
  } catch (const Error&) {
    own.has_failed = 1;
  }
}

// Acquire: pairs with publish(). Release: pairs with ranks_behind().
void GrowthBoard::map_news_of(int rank) {
  std::uint32_t& num_mapped = num_mapped_[static_cast<std::size_t>(rank)];
  const std::uint32_t num_growths = board(rank).num_growths.load(std::memory_order_acquire);
  if (num_mapped == num_growths) return;
  for (; num_mapped < num_growths; ++num_mapped) {
    const Growth& growth = board(rank).growths[num_mapped];
    map_growth_(rank, transport_->take_file(rank, growth.file), growth.num_bytes);
  }
  board(transport_->rank()).num_mapped[rank].store(num_mapped, std::memory_order_release);
  wake(board(rank).progress);
}

std::vector<int> GrowthBoard::ranks_behind(std::uint32_t num_growths) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < transport_->num_ranks(); ++rank) {
    if (rank == transport_->rank()) continue;
    if (board(rank).num_mapped[transport_->rank()].load(std::memory_order_acquire) < num_growths)
      ranks.push_back(rank);
  }
  return ranks;
}

void GrowthBoard::publish(const FileDescriptor& memory, std::size_t num_bytes) {
  Board& own = board(transport_->rank());
  const std::uint32_t index = own.num_growths.load(std::memory_order_relaxed);
  if (index == kMaxGrowths) throw OutOfMemory("an arena has grown too often to grow again");
  own.growths[index] = {.file = transport_->pass_file(memory, num_bytes), .num_bytes = num_bytes};
  own.num_growths.store(index + 1, std::memory_order_release);
  for (int rank = 0; rank < transport_->num_ranks(); ++rank) wake(board(rank).news);
  const bool mapped = wait_until(
      Deadline(transport_->timeout()), 100, [&] { return ranks_behind(index + 1).empty(); },
      [&](std::chrono::nanoseconds longest) {
        for (const int rank : ranks_behind(index + 1)) {
          if (board(rank).has_failed != 0)
            throw TransportError(
                fmt::format("rank {} cannot map memory of rank {}", rank, transport_->rank()), {rank});
        }
        nap(own.progress, own.progress.epoch + 1, longest);
      });
  if (mapped) return;
  std::vector<int> missing = ranks_behind(index + 1);
  const auto what = fmt::format("rank {} waited for rank(s) {} to map new device memory", transport_->rank(),
                                fmt::join(missing, ", "));
  throw TimeoutError(std::move(missing), "growth", index + 1, what);
}

}  // namespace flexep::cuda
