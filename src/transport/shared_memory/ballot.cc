// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/ballot.h"

namespace flexep {
namespace {

static_assert(std::atomic<std::uint64_t>::is_always_lock_free, "ballots work between processes");

// round | stage | control, from the high end, so that a later vote is a larger word.
std::uint64_t word_of(const Ballot::Vote& vote) {
  return std::uint64_t{vote.round} << 40 | static_cast<std::uint64_t>(vote.stage) << 32 | vote.control;
}
Ballot::Vote vote_in(std::uint64_t word) {
  return {.round = static_cast<std::uint32_t>(word >> 40),
          .stage = static_cast<Ballot::Stage>(word >> 32 & 0xff),
          .control = static_cast<SegmentId>(word)};
}

std::uint64_t word_of(const Ballot::Outcome& outcome) {
  return std::uint64_t{outcome.round} << 40 | static_cast<std::uint64_t>(outcome.verdict);
}
Ballot::Outcome outcome_in(std::uint64_t word) {
  return {.round = static_cast<std::uint32_t>(word >> 40),
          .verdict = static_cast<Ballot::Verdict>(word & 0xff)};
}

// Acquire and release: whoever reads a word sees what its writer did before. Each pairs with the loads below.
bool advance(std::atomic<std::uint64_t>& word, std::uint64_t expected, std::uint64_t next) {
  return word.compare_exchange_strong(expected, next, std::memory_order_acq_rel);
}

}  // namespace

std::size_t Ballot::num_bytes(int num_ranks) {
  return (1 + static_cast<std::size_t>(num_ranks)) * sizeof(std::uint64_t);
}

Ballot::Ballot(std::byte* memory) : words_(reinterpret_cast<std::atomic<std::uint64_t>*>(memory)) {}

Ballot::Outcome Ballot::outcome() const {
  return outcome_in(words_[0].load(std::memory_order_acquire));
}

std::optional<std::uint32_t> Ballot::open_round() {
  for (;;) {
    const Outcome last = outcome();
    switch (last.verdict) {
      case Verdict::kFormed:
        return std::nullopt;
      case Verdict::kOpen:
        return last.round;
      case Verdict::kFailed:
        const Outcome next{.round = last.round + 1, .verdict = Verdict::kOpen};
        advance(words_[0], word_of(last), word_of(next));
    }
  }
}

Ballot::Outcome Ballot::decide(std::uint32_t round, Verdict verdict) {
  advance(words_[0], word_of(Outcome{round, Verdict::kOpen}), word_of(Outcome{round, verdict}));
  return outcome();
}

Ballot::Vote Ballot::vote_of(int rank) const {
  return vote_in(words_[1 + rank].load(std::memory_order_acquire));
}

bool Ballot::cast(int rank, const Vote& expected, const Vote& next) {
  return advance(words_[1 + rank], word_of(expected), word_of(next));
}

}  // namespace flexep
