// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "transport/shm/socket.h"
#include "transport/transport.h"

namespace flexep::cuda {

/// What a rank tells the others of its device memory. Travels as it is.
struct MemoryNews {
  enum class Kind : std::uint32_t {
    kGrowth,   ///< its range has `num_bytes` more; with a file
    kShrink,   ///< the last `num_bytes` of its range go
    kSegment,  ///< segment `slot` of registered memory lies in the allocation of `handle`
    kPiece,    ///< the next `num_bytes` of segment `slot`, which has `total_bytes` in all; with a file
    kEnd,      ///< segment `slot` is no more
  };
  Kind kind = Kind::kGrowth;
  std::int32_t slot = 0;
  std::uint64_t num_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t offset = 0;  ///< where the segment begins in what is mapped
  cudaIpcMemHandle_t handle{};
};

/// Where ranks that are processes tell each other what becomes of their device memory. Each rank has a board
/// in host memory that all have mapped; a thread of each rank watches them and maps what is new, so that a
/// rank can share memory whatever the others are doing.
class MemoryBoard {
 public:
  /// Does what rank `rank` has told. `memory` is the file of the news, if it has one. @return whether it
  /// could; what it throws ends the board.
  using Follow = std::function<bool(int rank, const MemoryNews& news, const FileDescriptor& memory)>;

  /// Collective. @param follow  called by the thread, in the order of each rank's news.
  MemoryBoard(std::shared_ptr<Transport> transport, Follow follow);
  ~MemoryBoard();
  MemoryBoard(const MemoryBoard&) = delete;
  MemoryBoard& operator=(const MemoryBoard&) = delete;

  /// Tells the others; returns when all have followed, but for those that have closed their board. From any
  /// thread. @return the ranks that could not. @throws TimeoutError, TransportError.
  std::vector<int> publish(const MemoryNews& news);
  std::vector<int> publish(const MemoryNews& news, const FileDescriptor& memory);

 private:
  struct Board;
  struct Entry;

  Board& board(int rank) const {
    return *reinterpret_cast<Board*>(boards_[static_cast<std::size_t>(rank)].get());
  }
  void watch();
  void follow_news_of(int rank);
  std::vector<int> publish(const Entry& entry);
  void await_followers(std::uint32_t num_news);
  std::vector<int> ranks_behind(std::uint32_t num_news) const;
  std::vector<int> ranks_that_refused(std::uint32_t num_news) const;

  std::shared_ptr<Transport> transport_;
  Follow follow_;
  std::vector<std::shared_ptr<std::byte>> boards_;  ///< [R]
  std::vector<std::uint32_t> num_followed_;         ///< [R], news of each rank; of the thread alone
  std::mutex mutex_;                                ///< of publish()
  std::atomic<bool> is_closing_ = false;
  std::thread thread_;
};

}  // namespace flexep::cuda
