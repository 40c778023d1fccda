// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "transport/transport.h"

namespace flexep {

/// What groups over shared memory need of the world of ranks that they live in: one implementation for
/// threads, one for processes. Ranks are numbered in the world. Safe to use from several threads.
class Fabric {
 public:
  virtual ~Fabric() = default;

  virtual std::string_view name() const = 0;
  virtual int rank() const = 0;
  virtual int num_ranks() const = 0;

  /// Memory that the ranks of `audience` (this rank among them or not) can map until its last reference here
  /// is gone. @throws OutOfMemory, TransportError when a rank of the audience cannot be told.
  virtual Segment create_segment(std::size_t num_bytes, std::span<const int> audience) = 0;
  /// Makes a segment of whole pages that the caller has, where they lie. The pages are the caller's alone
  /// again when its last reference here is gone. @throws as create_segment; InvalidArgument for pages that
  /// cannot be shared.
  virtual Segment adopt_segment(std::byte* memory, std::size_t num_bytes, std::span<const int> audience) = 0;
  /// As Transport::pass_file and take_file. Threads of one process have no use for them and throw
  /// TransportError.
  virtual SegmentId pass_file(const FileDescriptor& file, std::size_t num_bytes,
                              std::span<const int> audience) = 0;
  virtual FileDescriptor take_file(int rank, SegmentId id) = 0;
  /// Gives the pages of a segment that this rank made back to the system.
  virtual void discard(const Segment& segment) = 0;
  /// Once for each segment of another rank. @throws TransportError when that rank has no such segment or is
  /// gone.
  virtual std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) = 0;

  /// Why `rank` will never be heard of again ("its process 1234 ended"), or nothing while it may be. Takes
  /// microseconds.
  virtual std::optional<std::string> cause_of_death(int rank) = 0;
};

}  // namespace flexep
