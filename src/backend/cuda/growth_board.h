// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "transport/shm/socket.h"
#include "transport/transport.h"

namespace flexep::cuda {

/// Where ranks that are processes tell each other how their device memory has grown. Each rank has a board in
/// host memory that all have mapped; a thread of each rank watches them and maps what is new, so that a rank
/// can grow whatever the others are doing.
class GrowthBoard {
 public:
  /// Maps memory that rank `rank` has added to its own.
  using MapGrowth = std::function<void(int rank, const FileDescriptor& memory, std::size_t num_bytes)>;

  /// Collective. @param map_growth  called by the thread, in the order of each rank's growths.
  GrowthBoard(std::shared_ptr<Transport> transport, MapGrowth map_growth);
  ~GrowthBoard();
  GrowthBoard(const GrowthBoard&) = delete;
  GrowthBoard& operator=(const GrowthBoard&) = delete;

  /// Tells the others of a growth of this rank; returns when all have mapped it. One thread at a time.
  /// @throws TimeoutError, TransportError.
  void publish(const FileDescriptor& memory, std::size_t num_bytes);

 private:
  struct Board;

  Board& board(int rank) const {
    return *reinterpret_cast<Board*>(boards_[static_cast<std::size_t>(rank)].get());
  }
  void watch();
  void map_news_of(int rank);
  std::vector<int> ranks_behind(std::uint32_t num_growths) const;

  std::shared_ptr<Transport> transport_;
  MapGrowth map_growth_;
  std::vector<std::shared_ptr<std::byte>> boards_;  ///< [R]
  std::vector<std::uint32_t> num_mapped_;           ///< [R], growths of each rank; of the thread alone
  std::atomic<bool> is_closing_ = false;
  std::thread thread_;
};

}  // namespace flexep::cuda
