// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "transport/messages.h"
#include "transport/transport.h"

namespace flexep::testing {

/// Cables between domains, in a time of their own: microseconds that pass when the ranks say so. A cable
/// carries a domain's messages one after the other, each way; no byte of them moves.
///
/// A message costs what a long one costs MPI: the sender asks, the receiver answers once it has posted, then
/// the bytes come. So it takes three delays, of which two pass while neither end of the cable is busy with
/// it.
class SimulatedNetwork {
 public:
  SimulatedNetwork(const Topology& topology, double bytes_per_us, double delay_us);

  static constexpr double kNever = std::numeric_limits<double>::infinity();
  /// One message: its ends meet in the order in which they are posted.
  struct Transfer {
    int from;
    int to;
    std::size_t num_bytes;
    double send_posted_us = 0;
    double receive_posted_us = 0;
    double sent_us = kNever;  ///< when its last byte has left
    double received_us = kNever;
  };
  /// Calls come in the order of time, over all ranks.
  std::shared_ptr<Transfer> post(int from, int to, std::size_t num_bytes, bool is_send, double now_us);
  /// Whether the sender, or the receiver, is through with a message at that time.
  bool is_complete(const Transfer& transfer, bool is_send, double now_us);

  /// What the cables alone need for all messages so far: that of the busiest.
  double busiest_us() const;

 private:
  struct Cable {
    double free_us = 0;
    double busy_us = 0;
  };
  struct Lane {
    std::deque<std::shared_ptr<Transfer>> sends;
    std::deque<std::shared_ptr<Transfer>> receives;
  };

  void advance_to(double now_us);
  void transmit(Transfer& transfer, double ready_us);
  Cable& cable(std::vector<Cable>& cables, int rank) {
    return cables[static_cast<std::size_t>(topology_.domain_of(rank))];
  }

  Topology topology_;
  double bytes_per_us_;
  double delay_us_;
  std::map<std::pair<int, int>, Lane> lanes_;
  std::multimap<double, std::shared_ptr<Transfer>> ready_;  ///< by when the answer is back
  std::vector<Cable> out_;                                  ///< by domain
  std::vector<Cable> in_;
};

/// One rank's end of it.
class SimulatedMessages final : public Messages {
 public:
  /// @param now_us  the rank's clock.
  SimulatedMessages(SimulatedNetwork& network, int rank, const double& now_us)
      : network_(network), rank_(rank), now_us_(now_us) {}

  Ticket send(int rank, std::span<const std::byte> bytes) override {
    return keep({network_.post(rank_, rank, bytes.size(), true, now_us_), true});
  }
  Ticket receive(int rank, std::span<std::byte> bytes) override {
    return keep({network_.post(rank, rank_, bytes.size(), false, now_us_), false});
  }
  bool is_complete(Ticket ticket) override;

  // Nothing fails here.
  void cancel() override {}
  void give_up(const GroupFailure&) override {}
  std::optional<GroupFailure> failure() override { return std::nullopt; }
  std::optional<std::string> cause_of_loss(int) override { return std::nullopt; }
  void leave() override {}
  std::uint64_t draw_group_name() override { return 0; }
  std::shared_ptr<Messages> subgroup(std::span<const int>, std::uint64_t) override { return nullptr; }

 private:
  struct End {
    std::shared_ptr<SimulatedNetwork::Transfer> transfer;
    bool is_send;
  };
  Ticket keep(End end) {
    ends_.emplace(++last_ticket_, std::move(end));
    return last_ticket_;
  }

  SimulatedNetwork& network_;
  int rank_;
  const double& now_us_;
  Ticket last_ticket_ = 0;
  std::map<Ticket, End> ends_;
};

}  // namespace flexep::testing
