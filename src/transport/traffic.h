// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "transport/messages.h"

namespace flexep {

/// The messages of one phase of an operation, and what is done with them. Transport::settle() drives it.
class Traffic {
 public:
  virtual ~Traffic() = default;

  /// Posts, tests and uses what it can without waiting. @return whether anything moved.
  virtual bool advance() = 0;
  virtual bool is_done() const = 0;
  /// The ranks that it waits for now.
  virtual std::vector<int> awaited() const = 0;
};

/// Messages that nobody does anything with but wait.
class PlainTraffic final : public Traffic {
 public:
  explicit PlainTraffic(Messages& messages) : messages_(messages) {}

  void send(int rank, std::span<const std::byte> bytes) {
    pending_.push_back({rank, messages_.send(rank, bytes)});
  }
  void receive(int rank, std::span<std::byte> bytes) {
    pending_.push_back({rank, messages_.receive(rank, bytes)});
  }

  bool advance() override {
    return std::erase_if(pending_,
                         [&](const auto& message) { return messages_.is_complete(message.ticket); }) > 0;
  }
  bool is_done() const override { return pending_.empty(); }
  std::vector<int> awaited() const override {
    std::vector<int> ranks;
    for (const auto& message : pending_) ranks.push_back(message.rank);
    return ranks;
  }

 private:
  struct Pending {
    int rank;
    Messages::Ticket ticket;
  };

  Messages& messages_;
  std::vector<Pending> pending_;
};

}  // namespace flexep
