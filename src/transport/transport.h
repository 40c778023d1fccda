// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace flexep {

class FileDescriptor;
class Messages;
class Traffic;

/// Names a segment among those of the rank that made it.
using SegmentId = std::uint32_t;

/// Memory of one rank that every rank of its group can map. The memory lives as long as somebody holds it.
struct Segment {
  SegmentId id = 0;
  std::shared_ptr<std::byte> memory;
  std::size_t num_bytes = 0;
};

/// Names an exchange in errors, and holds ranks to the same one.
struct Operation {
  std::string_view name;  ///< at most kMaxNameLength characters count
  std::uint64_t sequence_number =
      0;  ///< of the caller, equal on all ranks; 0 = the group's own count of exchanges
  static constexpr std::size_t kMaxNameLength = 31;
};

/// How ranks lie in domains: rank = scaleout_rank * num_scaleup_ranks + scaleup_rank. Ranks of one domain
/// load and store each other's memory; domains are joined by messages.
struct Topology {
  int num_scaleout_ranks = 1;  ///< domains
  int num_scaleup_ranks = 1;   ///< ranks of a domain

  int domain_of(int rank) const { return rank / num_scaleup_ranks; }
  int scaleup_rank_of(int rank) const { return rank % num_scaleup_ranks; }
  int rank_of(int domain, int scaleup_rank) const { return domain * num_scaleup_ranks + scaleup_rank; }

  friend bool operator==(const Topology&, const Topology&) = default;
};

/// Every rank's bytes, by rank.
using Gathered = std::span<const std::span<const std::byte>>;

/// Moves bytes and signals between the ranks of one group, and knows nothing of tokens.
///
/// One object is one rank's end of one group; it is used by one thread at a time, abort() excepted.
class Transport {
 public:
  virtual ~Transport() = default;

  virtual std::string_view name() const = 0;
  virtual int rank() const = 0;
  virtual int num_ranks() const = 0;
  /// Ranks that share this rank's processor cores, itself included.
  virtual int num_local_ranks() const = 0;
  /// Whether a thread of flexep's own may use the group while the caller's threads do other things.
  virtual bool can_work_in_background() const = 0;
  virtual std::chrono::milliseconds timeout() const = 0;

  virtual Topology topology() const = 0;
  /// To the ranks of other domains. @throws TransportError where there is one domain.
  virtual Messages& messages() = 0;
  /// Drives `traffic` until it is done. Each wait for it to move on has the group's timeout. Whatever ends it
  /// early poisons the group, is told to the others, and cancels this rank's messages.
  /// @throws TimeoutError that names whom it waits for, TransportError, and what `traffic` throws.
  virtual void settle(Traffic& traffic, const Operation& operation) = 0;

  /// Gives every rank everybody's bytes. What a rank wrote to any segment before the call, all ranks see
  /// after it. The result stays valid until the next call. Lengths may differ. Collective.
  /// @throws CollectiveMismatch when ranks name different operations, TimeoutError, TransportError; the last
  /// two poison the group.
  virtual Gathered all_gather(std::span<const std::byte> mine, const Operation& operation) = 0;

  /// before[i] becomes the sum of values[i] over the ranks below this one, total[i] over all; wide enough
  /// never to overflow. For plans that no rank wants to make from everybody's counts. Collective; the ranks
  /// have agreed on the length. Cost: O(n log R) across domains. @throws as all_gather.
  virtual void scan_and_sum(std::span<const std::int32_t> values, std::span<std::int64_t> before,
                            std::span<std::int64_t> total, const Operation& operation) = 0;

  /// Every rank has some values for each rank, [R, n]; received[r] becomes what rank r has for this one, [n].
  /// Collective; the ranks have agreed on n. Cost: O(R * n). @throws as all_gather.
  virtual void transpose(std::span<const std::int32_t> values, std::span<std::int32_t> received,
                         const Operation& operation) = 0;

  /// [R], nanoseconds that this rank has waited for each rank in this group so far. A wait for several counts
  /// for one until it has come, then for the next.
  virtual std::span<const std::int64_t> wait_ns() const = 0;

  /// Memory that the other ranks of the domain can map once they are told its id, as long as it is referred
  /// to here. Not collective. @throws OutOfMemory, TransportError.
  virtual Segment create_segment(std::size_t num_bytes) = 0;

  /// Makes a segment of memory that the caller has: whole pages, which keep their address and contents. It
  /// ends with the segment's last reference here; meanwhile the memory stays. Not collective.
  /// @throws InvalidArgument for memory that is no whole pages, or that other processes cannot be given;
  /// OutOfMemory, TransportError.
  virtual Segment adopt_segment(std::byte* memory, std::size_t num_bytes) = 0;

  /// Passes an open file, say of a device's memory of `num_bytes`, to the other ranks, which are processes.
  /// Not collective; from any thread. @return its id for take_file. @throws TransportError.
  virtual SegmentId pass_file(const FileDescriptor& file, std::size_t num_bytes) = 0;
  /// The file that another rank has passed. Once for each id; from any thread. @throws TransportError.
  virtual FileDescriptor take_file(int rank, SegmentId id) = 0;

  /// Gives the pages of a segment that this rank made back to the system; they read as zeros afterwards, on
  /// all ranks.
  virtual void discard(const Segment& segment) = 0;

  /// The memory of segment `id` of another rank of the domain, as this rank addresses it. Once for each
  /// segment. @throws TransportError.
  virtual std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) = 0;

  /// The group of the ranks that pass the same color, ordered by (key, rank). Collective. When one rank
  /// cannot, all throw and this group stays usable.
  virtual std::shared_ptr<Transport> split(int color, int key) = 0;

  /// A group of those ranks that call this, ordered as here; ends this group. Waits up to `patience` for
  /// ranks that may still come, and as long again for those that have. All that take part get the same group,
  /// or all throw and may try again.
  /// @throws TimeoutError, TransportError, also where a transport cannot do this, OutOfMemory.
  virtual std::shared_ptr<Transport> rebuild(std::chrono::milliseconds patience) = 0;

  /// Makes every rank that waits in this group, or calls it later, throw TransportError with `reason`. From
  /// any thread.
  virtual void abort(std::string_view reason) = 0;

  /// Ends this rank's part in the group: ranks that wait for it are told, and its own later calls throw
  /// TransportError. Idempotent; destruction does it too.
  virtual void leave() = 0;
};

/// The bytes of one value.
template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace flexep
