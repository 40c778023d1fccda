// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "backend/cuda/device_range.h"
#include "backend/cuda/memory_board.h"
#include "backend/cuda/segment_mappings.h"
#include "backend/cuda/segment_table.h"
#include "backend/cuda/shareable_memory.h"
#include "backend/cuda/survey_ranks.h"
#include "transport/transport.h"

namespace flexep::cuda {

/// The device memory of all ranks of a group, as this rank addresses it: the range of each, and what it has
/// registered. Ranks of one process share mappings, others map what they are told of. A rank's range stays
/// mapped on the others as long as they need it, whatever becomes of that rank.
class PeerRanges {
 public:
  /// Makes this rank's range, and reserves addresses for the others'. Collective.
  /// @throws InvalidArgument when ranks cannot reach each other's memory, CudaError.
  /// @param memory  what this rank's range is made of.
  PeerRanges(const std::shared_ptr<Transport>& transport, int device, ArenaMemory memory);

  const std::shared_ptr<DeviceRange>& own() const { return own_; }
  /// [R], where the range of each rank begins.
  std::vector<std::byte*> begins() const;
  /// Ranks on this rank's GPU, itself included.
  int num_ranks_on_device() const { return survey_.places.num_ranks_on_gpu_of(rank_); }
  /// [R], see RankPlaces.
  std::vector<std::uint8_t> across_link() const { return survey_.places.across_link(rank_); }

  /// Returns when all other ranks can reach all that the own range has behind it. Not collective.
  void publish();
  /// Returns when all other ranks have let go of the last `num_bytes` of the own range. Not collective.
  void withdraw(std::size_t num_bytes);

  /// [R, SegmentTable::kMaxSegments]: registered memory of all ranks.
  const SegmentTable& segments() const { return *segments_; }
  /// Makes other memory of the device this rank's segment `slot`; returns when all ranks can reach it. Not
  /// collective.
  /// @throws InvalidArgument that says why it cannot be shared, TimeoutError, TransportError.
  void share(int slot, const DeviceMemory& memory);
  /// Nobody reads the segment any more. Returns when all ranks have forgotten it. @throws TimeoutError,
  /// TransportError.
  void end_sharing(int slot);
  /// Unmaps what other ranks have ended to share. Waits for all kernels of this process.
  void let_go() {
    if (mappings_) mappings_->let_go();
  }

 private:
  void reach_memory_of_threads() const;
  void map_other_processes(const std::shared_ptr<Transport>& transport);
  bool follow(int rank, const MemoryNews& news, const FileDescriptor& memory);
  std::vector<int> publish_segment(int slot, const ShareableMemory& memory);

  int rank_;
  int device_;
  Survey survey_;
  std::shared_ptr<DeviceRange> own_;
  std::vector<std::shared_ptr<DeviceRange>> ranges_;  ///< [R]
  std::shared_ptr<SegmentTable> segments_;
  std::vector<std::shared_ptr<SegmentTable>> segments_of_threads_;  ///< [R], for ranks of one process
  // For ranks that are processes. The board is last: its thread uses the others.
  std::unique_ptr<SegmentMappings> mappings_;
  std::unique_ptr<MemoryBoard> board_;
};

}  // namespace flexep::cuda
