// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/memory_board.h"

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
/// News that a rank may tell before all others have followed the first of them; they wait for each, so that
/// this is plenty.
constexpr std::uint32_t kNumEntries = 16;
/// How long news may wait where a wake-up is missed.
constexpr std::chrono::milliseconds kIdleNap{20};

}  // namespace

struct MemoryBoard::Entry {
  MemoryNews news;
  SegmentId file = 0;
  std::uint32_t has_file = 0;
};

/// Zero is the initial state. Signals are only napped on and woken: what they are about stands beside them.
struct MemoryBoard::Board {
  Signal news;      ///< the owner's thread sleeps here
  Signal progress;  ///< the owner sleeps here while others follow
  std::atomic<std::uint32_t> num_news;
  std::atomic<std::uint32_t> num_followed[kMaxRanks];  ///< news of each rank that the owner has followed
  std::atomic<std::uint32_t>
      last_refused[kMaxRanks];             ///< news of each rank, from 1, that the owner could not follow
  std::atomic<std::uint32_t> has_failed;   ///< the owner could not follow something
  std::atomic<std::uint32_t> is_closed;    ///< the owner follows nothing any more
  std::array<Entry, kNumEntries> entries;  ///< news n in entry n % kNumEntries
};

MemoryBoard::MemoryBoard(std::shared_ptr<Transport> transport, Follow follow)
    : transport_(std::move(transport)),
      follow_(std::move(follow)),
      num_followed_(static_cast<std::size_t>(transport_->num_ranks())) {
  if (num_followed_.size() > kMaxRanks)
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

MemoryBoard::~MemoryBoard() {
  Board& own = board(transport_->rank());
  is_closing_ = true;
  wake(own.news);
  thread_.join();
  own.is_closed.store(1, std::memory_order_release);
}

void MemoryBoard::watch() {
  Board& own = board(transport_->rank());
  try {
    while (!is_closing_) {
      for (int rank = 0; rank < transport_->num_ranks(); ++rank) {
        if (rank != transport_->rank()) follow_news_of(rank);
      }
      nap(own.news, own.news.epoch + 1, kIdleNap);
    }
  } catch (const Error&) {
    own.has_failed = 1;
  }
}

// Acquire: pairs with publish(). Release: pairs with ranks_behind().
void MemoryBoard::follow_news_of(int rank) {
  std::uint32_t& num_followed = num_followed_[static_cast<std::size_t>(rank)];
  const std::uint32_t num_news = board(rank).num_news.load(std::memory_order_acquire);
  if (num_followed == num_news) return;
  for (; num_followed < num_news; ++num_followed) {
    const Entry& entry = board(rank).entries[num_followed % kNumEntries];
    const FileDescriptor memory =
        entry.has_file != 0 ? transport_->take_file(rank, entry.file) : FileDescriptor();
    if (!follow_(rank, entry.news, memory))
      board(transport_->rank()).last_refused[rank].store(num_followed + 1, std::memory_order_relaxed);
  }
  board(transport_->rank()).num_followed[rank].store(num_followed, std::memory_order_release);
  wake(board(rank).progress);
}

std::vector<int> MemoryBoard::ranks_behind(std::uint32_t num_news) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < transport_->num_ranks(); ++rank) {
    if (rank == transport_->rank()) continue;
    const Board& other = board(rank);
    const bool has_followed =
        other.num_followed[transport_->rank()].load(std::memory_order_acquire) >= num_news;
    if (!has_followed && other.is_closed.load(std::memory_order_acquire) == 0) ranks.push_back(rank);
  }
  return ranks;
}

std::vector<int> MemoryBoard::ranks_that_refused(std::uint32_t num_news) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < transport_->num_ranks(); ++rank) {
    if (board(rank).last_refused[transport_->rank()].load(std::memory_order_relaxed) == num_news)
      ranks.push_back(rank);
  }
  return ranks;
}

std::vector<int> MemoryBoard::publish(const MemoryNews& news) {
  return publish(Entry{.news = news});
}

std::vector<int> MemoryBoard::publish(const MemoryNews& news, const FileDescriptor& memory) {
  return publish(Entry{.news = news, .file = transport_->pass_file(memory, news.num_bytes), .has_file = 1});
}

// One at a time: whoever publishes next finds that all have followed, or that the group has failed.
std::vector<int> MemoryBoard::publish(const Entry& entry) {
  const std::lock_guard lock(mutex_);
  Board& own = board(transport_->rank());
  const std::uint32_t index = own.num_news.load(std::memory_order_relaxed);
  if (index >= kNumEntries) await_followers(index + 1 - kNumEntries);
  own.entries[index % kNumEntries] = entry;
  own.num_news.store(index + 1, std::memory_order_release);
  for (int rank = 0; rank < transport_->num_ranks(); ++rank) wake(board(rank).news);
  await_followers(index + 1);
  return ranks_that_refused(index + 1);
}

void MemoryBoard::await_followers(std::uint32_t num_news) {
  Board& own = board(transport_->rank());
  const bool followed = wait_until(
      Deadline(transport_->timeout()), 100, [&] { return ranks_behind(num_news).empty(); },
      [&](std::chrono::nanoseconds longest) {
        for (const int rank : ranks_behind(num_news)) {
          if (board(rank).has_failed != 0)
            throw TransportError(
                fmt::format("rank {} cannot map memory of rank {}", rank, transport_->rank()), {rank});
        }
        nap(own.progress, own.progress.epoch + 1, longest);
      });
  if (followed) return;
  std::vector<int> missing = ranks_behind(num_news);
  const auto what = fmt::format("rank {} waited for rank(s) {} to map new device memory", transport_->rank(),
                                fmt::join(missing, ", "));
  throw TimeoutError(std::move(missing), "growth", num_news, what);
}

}  // namespace flexep::cuda
