// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "transport/transport.h"

namespace flexep {

/// Shared memory in which the ranks of a broken group agree on who makes up the next one. It lies in rank 0's
/// control block, which all have mapped and which outlives rank 0 itself. Zero is the initial state.
///
///   outcome | Vote votes[num_ranks]
///
/// Agreement is by compare-and-swap on single words that only move forward, so that whoever reads a decision
/// reads the same one: a rank is in a round or excluded from it, and a round forms a group or fails. A rank
/// that slept through a round finds every word that it would change moved on.
class Ballot {
 public:
  enum class Stage : std::uint8_t {
    kAbsent,
    kExcluded,  ///< did not come in time; cast by the others
    kCame,      ///< takes part
    kMade,      ///< knows the members, and has made its control block for the new group
    kMapped,    ///< has mapped all members' control blocks
  };
  struct Vote {
    std::uint32_t round = 0;  ///< of 24 bits
    Stage stage = Stage::kAbsent;
    SegmentId control = 0;  ///< from kMade on
    friend bool operator==(const Vote&, const Vote&) = default;
  };
  enum class Verdict : std::uint8_t { kFailed, kOpen, kFormed };
  struct Outcome {
    std::uint32_t round = 0;
    Verdict verdict = Verdict::kFailed;
    friend bool operator==(const Outcome&, const Outcome&) = default;
  };

  static std::size_t num_bytes(int num_ranks);

  Ballot() = default;
  explicit Ballot(std::byte* memory);

  Outcome outcome() const;
  /// The round that is open now; opens the next one if the last has failed. Nothing once a group has formed.
  std::optional<std::uint32_t> open_round();
  /// Decides an open round, unless that has happened already. @return what was decided.
  Outcome decide(std::uint32_t round, Verdict verdict);

  Vote vote_of(int rank) const;
  /// Moves a rank's vote from `expected` to `next`; false when it is not, or no longer, `expected`.
  bool cast(int rank, const Vote& expected, const Vote& next);

 private:
  std::atomic<std::uint64_t>* words_ = nullptr;
};

}  // namespace flexep
