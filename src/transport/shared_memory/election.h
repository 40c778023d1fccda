// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/deadline.h"
#include "transport/shared_memory/ballot.h"

namespace flexep {

/// One rank's part in one round of agreeing on a new group, over a Ballot. Every rank that takes part sees
/// the same members and the same outcome. Waits look once a millisecond: this happens after a failure, not in
/// a step.
class Election {
 public:
  /// Who takes part.
  struct Voter {
    int rank = 0;
    int num_ranks = 1;
    /// How long to wait for ranks that may still come, and then for the members.
    std::chrono::milliseconds patience{0};
    /// Why a rank will not come any more, if that is known.
    std::function<std::optional<std::string>(int rank)> cause_of_loss;
  };

  /// Joins the open round. @throws TransportError when a group has formed already, or this round goes on
  /// without this rank.
  Election(Ballot& ballot, Voter voter);

  /// Returns when every rank has come, is lost, or patience has run out: the ranks that take part, ascending.
  /// The others are excluded from the round for good.
  std::vector<int> settle_members();
  /// Tells the members of this rank's control block for the new group.
  void announce(SegmentId control);
  /// Tells the members that this rank has mapped all of theirs.
  void confirm();
  /// The vote of a member that has reached `stage`. @throws TimeoutError that names who has not,
  /// TransportError.
  Ballot::Vote await(int rank, Ballot::Stage stage);

  /// Runs this rank's part of forming the group, and decides the round: either it forms the group on all
  /// members, or all throw and may try again.
  template <typename Work>
  void conclude(Work work) {
    try {
      work();
    } catch (...) {
      // Others may have seen this rank do its part in full, and formed the group.
      if (!decide(Ballot::Verdict::kFailed)) throw;
      return;
    }
    if (!decide(Ballot::Verdict::kFormed)) throw_failed();
  }

 private:
  void advance(const Ballot::Vote& next);
  bool is_over() const;
  bool has_reached(int rank, Ballot::Stage stage) const;
  /// Whether the group has formed.
  bool decide(Ballot::Verdict verdict);
  void exclude_absent();
  [[noreturn]] void throw_failed() const;
  [[noreturn]] void throw_too_late() const;
  [[noreturn]] void throw_missing(Ballot::Stage stage) const;

  Ballot& ballot_;
  Voter voter_;
  std::uint32_t round_ = 0;
  Ballot::Vote own_;
  std::vector<int> members_;
  Deadline deadline_;
};

}  // namespace flexep
