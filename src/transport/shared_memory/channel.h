// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "transport/shared_memory/control_block.h"
#include "transport/shared_memory/fabric.h"
#include "transport/transport.h"

namespace flexep {

class Election;

/// A group of ranks over shared memory: every member has a control block that all members have mapped.
class Channel final : public Transport {
 public:
  /// The control block of a rank in the group of all ranks of `fabric`: must be the fabric's first segment,
  /// so that the others know its id.
  static Segment create_world_control_block(Fabric& fabric);
  /// Which ranks of a fabric make up a group, and how it calls them in errors: member i is rank first + i of
  /// the fabric and called first_name + i.
  struct Members {
    int first = 0;
    int num_ranks = 1;
    int first_name = 0;
  };
  /// The group of these ranks of `fabric`; maps all their control blocks.
  static std::shared_ptr<Channel> open(std::shared_ptr<Fabric> fabric, const Segment& control,
                                       std::chrono::milliseconds timeout, const Members& members);
  /// The group of all ranks of `fabric`.
  static std::shared_ptr<Transport> open_world(std::shared_ptr<Fabric> fabric, const Segment& control,
                                               std::chrono::milliseconds timeout);
  ~Channel() override;

  std::string_view name() const override { return fabric_->name(); }
  int rank() const override { return rank_; }
  int num_ranks() const override { return static_cast<int>(members_.size()); }
  int num_local_ranks() const override { return fabric_->num_ranks(); }
  bool can_work_in_background() const override { return true; }
  std::chrono::milliseconds timeout() const override { return timeout_; }
  Topology topology() const override { return {.num_scaleup_ranks = num_ranks()}; }
  Messages& messages() override;
  void settle(Traffic& traffic, const Operation& operation) override;

  Gathered all_gather(std::span<const std::byte> mine, const Operation& requested) override;
  void scan_and_sum(std::span<const std::int32_t> values, std::span<std::int64_t> before,
                    std::span<std::int64_t> total, const Operation& operation) override;
  void transpose(std::span<const std::int32_t> values, std::span<std::int32_t> received,
                 const Operation& operation) override;
  std::span<const std::int64_t> wait_ns() const override { return wait_ns_; }
  Segment create_segment(std::size_t num_bytes) override;
  Segment adopt_segment(std::byte* memory, std::size_t num_bytes) override;
  SegmentId pass_file(const FileDescriptor& file, std::size_t num_bytes) override;
  FileDescriptor take_file(int rank, SegmentId id) override;
  void discard(const Segment& segment) override { fabric_->discard(segment); }
  std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) override;
  std::shared_ptr<Transport> split(int color, int key) override;
  std::shared_ptr<Transport> rebuild(std::chrono::milliseconds patience) override;
  void abort(std::string_view reason) override;
  void leave() override;

  // For groups of which this one is a domain.

  /// all_gather() that leaves it to the caller to see whether ranks name the same operation.
  Gathered gather(std::span<const std::byte> mine, const Operation& operation);
  /// As split(), with a timeout of its own and names that begin with `first_name`.
  std::shared_ptr<Channel> split(int color, int key, int first_name, std::chrono::milliseconds timeout);
  /// Breaks this group with a failure that may have come from outside. From any thread; the first one counts.
  void give_up(std::string_view reason, std::span<const int> culprits, bool is_timeout);
  /// @throws TimeoutError or TransportError when the group is broken.
  void require_usable(const Operation& operation);

 private:
  /// One rank of the group, as this rank sees it.
  struct Member {
    int world_rank;
    std::shared_ptr<std::byte> memory;
    ControlBlock control;
  };

  Channel(std::shared_ptr<Fabric> fabric, std::chrono::milliseconds timeout, int rank, int first_name,
          std::vector<Member> members);

  std::vector<int> world_ranks() const;

  // One exchange: at most a slot's capacity of every rank's message, beginning at `offset`.
  void exchange(std::span<const std::byte> mine, std::size_t offset, const Operation& operation);
  Operation numbered(const Operation& requested);
  int name_of(int rank) const { return first_name_ + rank; }
  void await_all(const Operation& operation);
  void await(int rank, const Deadline& deadline, const Operation& operation);
  Gathered collect(std::span<const std::byte> mine, const Operation& operation);
  void require_same_operation(const Operation& operation);
  std::span<const std::byte> chunk_of(int rank, std::size_t offset);

  std::vector<Member> meet_again(Election& election, const std::vector<int>& ranks);

  // How the group breaks: the first failure that a rank meets is shared with all, so that all blame the same
  // rank.
  void require_member() const;
  void throw_if_broken(const Operation& operation);
  void throw_if_missing(const Operation& operation);
  template <typename E>
  [[noreturn]] void poison(const E& error);
  std::optional<std::string> cause_of_loss(int rank);
  bool has_arrived_from(int rank);
  ControlBlock& control_block(int rank) { return members_[static_cast<std::size_t>(rank)].control; }

  std::shared_ptr<Fabric> fabric_;
  std::chrono::milliseconds timeout_;
  int rank_;
  int first_name_;
  std::vector<Member> members_;
  int num_spins_;
  std::uint32_t epoch_ = 0;
  std::uint64_t num_gathers_ = 0;
  std::vector<std::int64_t> wait_ns_;
  std::string poisoned_by_;
  pid_t owner_;
  std::atomic<bool> has_left_ = false;
  std::atomic_flag has_failed_;
  std::vector<std::span<const std::byte>> gathered_;
  std::vector<std::vector<std::byte>> assembled_;
};

}  // namespace flexep
