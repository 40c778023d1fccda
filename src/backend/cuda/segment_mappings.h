// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/cuda/device_range.h"
#include "backend/cuda/memory_board.h"
#include "backend/cuda/segment_table.h"

namespace flexep::cuda {

/// Registered memory of other processes, mapped here.
///
/// Mapping an allocation of cudaMalloc waits for nothing, but letting go of it waits for all kernels of this
/// process, which may wait for the rank that would wait for this: so mappings that have ended are only let go
/// of where the program says so, or with the buffer.
class SegmentMappings {
 public:
  SegmentMappings(int device, std::shared_ptr<SegmentTable> table)
      : device_(device), table_(std::move(table)) {}

  /// Maps what rank `rank` tells of, or forgets it. @return whether it could be mapped.
  /// By one thread.
  bool follow(int rank, const MemoryNews& news, const FileDescriptor& memory);
  /// Lets go of allocations whose registration has ended. From any thread.
  void let_go();

 private:
  using Name = std::pair<int, int>;  ///< rank, slot

  void open(int rank, const MemoryNews& news);
  void end(const Name& name);
  void add_piece(int rank, const MemoryNews& news, const FileDescriptor& memory);

  int device_;
  std::shared_ptr<SegmentTable> table_;
  std::map<Name, std::shared_ptr<std::byte>> allocations_;
  std::map<Name, DeviceRange> ranges_;
  std::mutex mutex_;  ///< of ended_
  std::vector<std::shared_ptr<std::byte>> ended_;
};

}  // namespace flexep::cuda
