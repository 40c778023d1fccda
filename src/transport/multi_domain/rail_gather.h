// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/traffic.h"
#include "transport/transport.h"

namespace flexep {

/// What a rank says in a gather: a head, which tells how long the rest is, and its bytes.
struct RailRecord {
  struct Head {
    std::uint64_t num_bytes;
    std::uint64_t sequence_number;
    char operation[Operation::kMaxNameLength + 1];
  };
  /// Head and bytes, from there on.
  explicit RailRecord(std::span<const std::byte> from);

  /// "dispatch #7"
  std::string describe() const;
  static std::vector<std::byte> compose(std::span<const std::byte> bytes, const Operation& operation);

  Head head;
  std::span<const std::byte> bytes;
};

/// The first half of a gather over several domains: every rank swaps records with the ranks of the other
/// domains that have its scale-up index (its rail). A record that fits a frame takes one message.
class RailGather final : public Traffic {
 public:
  static constexpr std::size_t kFrameBytes = 512;

  RailGather(Messages& messages, const Topology& topology, int rank, std::vector<std::byte> record);

  bool advance() override;
  bool is_done() const override;
  std::vector<int> awaited() const override;

  /// Once done: the record of this rail's rank in each domain, by domain.
  const std::vector<std::vector<std::byte>>& records() const { return records_; }

 private:
  struct Partner {
    int rank;
    std::size_t domain;
    std::optional<Messages::Ticket> ticket;  ///< of what is being received
  };

  void use_frame(Partner& partner);

  Messages& messages_;
  PlainTraffic sends_;
  std::vector<std::vector<std::byte>> records_;
  std::vector<Partner> partners_;
};

}  // namespace flexep
