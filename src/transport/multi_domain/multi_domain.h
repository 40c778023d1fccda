// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transport/messages.h"
#include "transport/shared_memory/channel.h"
#include "transport/transport.h"

namespace flexep {

/// A group of several domains of equal size: ranks of one domain share memory, domains are joined by
/// messages. A gather is two steps: each rank swaps with its rail (the ranks of its scale-up index in the
/// other domains), then the domain's ranks share what their rails gave them.
class MultiDomain final : public Transport {
 public:
  /// What it is made of.
  struct Parts {
    std::string name;
    Topology topology;
    int domain = 0;  ///< this rank's
    std::shared_ptr<Channel>
        channel;  ///< of the domain's ranks, which calls them by their ranks in the group
    std::shared_ptr<Messages> messages;  ///< of all ranks
    int num_local_ranks = 1;
    bool can_work_in_background = true;
    std::chrono::milliseconds timeout;
  };

  explicit MultiDomain(Parts parts);
  ~MultiDomain() override;

  /// The timeout of the channel: longer, for who waits for a rank across domains waits for that rank alone,
  /// while its neighbours wait for it because of others.
  static std::chrono::milliseconds channel_timeout(std::chrono::milliseconds timeout) {
    return 2 * timeout + std::chrono::seconds(1);
  }

  std::string_view name() const override { return parts_.name; }
  int rank() const override { return rank_; }
  int num_ranks() const override {
    return parts_.topology.num_scaleout_ranks * parts_.topology.num_scaleup_ranks;
  }
  int num_local_ranks() const override { return parts_.num_local_ranks; }
  bool can_work_in_background() const override { return parts_.can_work_in_background; }
  std::chrono::milliseconds timeout() const override { return parts_.timeout; }
  Topology topology() const override { return parts_.topology; }
  Messages& messages() override { return *parts_.messages; }
  void settle(Traffic& traffic, const Operation& operation) override;

  Gathered all_gather(std::span<const std::byte> mine, const Operation& requested) override;
  void scan_and_sum(std::span<const std::int32_t> values, std::span<std::int64_t> before,
                    std::span<std::int64_t> total, const Operation& operation) override;
  void transpose(std::span<const std::int32_t> values, std::span<std::int32_t> received,
                 const Operation& operation) override;
  std::span<const std::int64_t> wait_ns() const override;

  Segment create_segment(std::size_t num_bytes) override { return channel().create_segment(num_bytes); }
  Segment adopt_segment(std::byte* memory, std::size_t num_bytes) override {
    return channel().adopt_segment(memory, num_bytes);
  }
  SegmentId pass_file(const FileDescriptor& file, std::size_t num_bytes) override;
  FileDescriptor take_file(int rank, SegmentId id) override;
  void discard(const Segment& segment) override { channel().discard(segment); }
  std::shared_ptr<std::byte> map_segment(int rank, SegmentId id) override;

  std::shared_ptr<Transport> split(int color, int key) override;
  std::shared_ptr<Transport> rebuild(std::chrono::milliseconds patience) override;
  void abort(std::string_view reason) override;
  void leave() override;

 private:
  Channel& channel() const { return *parts_.channel; }
  int domain_rank(int rank) const;

  // Across domains.
  void drive(Traffic& traffic, const Operation& operation);
  void await_progress(Traffic& traffic, const Operation& operation);
  void scan_rail(std::span<std::int64_t> before, std::span<std::int64_t> total, const Operation& operation);
  void pass_from_last(std::span<std::int64_t> values, const Operation& operation);
  int rail_rank(int domain) const {
    return parts_.topology.rank_of(domain, parts_.topology.scaleup_rank_of(rank_));
  }

  // Inside the domain.
  std::vector<std::span<const std::byte>> share(std::span<const std::byte> mine, std::span<const int> missing,
                                                const Operation& operation);
  void require_same_operation();

  // How the group breaks.
  void guarded(const std::function<void()>& work);
  void break_up(const GroupFailure& failure);
  void require_usable(const Operation& operation);
  void throw_if_told(const Operation& operation);
  [[noreturn]] void throw_missing(std::vector<int> missing, const Operation& operation) const;

  Parts parts_;
  int rank_;
  int num_spins_;
  std::uint64_t num_gathers_ = 0;
  std::string poisoned_by_;
  std::vector<std::byte> outgoing_;
  std::vector<std::span<const std::byte>> gathered_;
  std::vector<std::string> called_;  ///< [R], in the last gather
  std::vector<std::int64_t> rail_wait_ns_;
  mutable std::vector<std::int64_t> wait_ns_;
};

}  // namespace flexep
