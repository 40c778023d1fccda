// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/election.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <thread>

#include "flexep/error.h"

namespace flexep {
namespace {

using Stage = Ballot::Stage;
using Verdict = Ballot::Verdict;

constexpr std::chrono::nanoseconds kPollInterval = std::chrono::milliseconds(1);

void nap(std::chrono::nanoseconds longest) {
  std::this_thread::sleep_for(std::min(longest, kPollInterval));
}

}  // namespace

Election::Election(Ballot& ballot, Voter voter)
    : ballot_(ballot), voter_(std::move(voter)), deadline_(voter_.patience) {
  const auto round = ballot_.open_round();
  if (!round) throw_too_late();
  round_ = *round;
  own_ = {.round = round_, .stage = Stage::kCame};
  for (;;) {
    const Ballot::Vote last = ballot_.vote_of(voter_.rank);
    // A vote of this round is an exclusion: this rank's own ends with the round.
    if (last.round >= round_) throw_too_late();
    if (ballot_.cast(voter_.rank, last, own_)) return;
  }
}

std::vector<int> Election::settle_members() {
  const auto has_decided = [&](int rank) {
    return ballot_.vote_of(rank).round >= round_ || voter_.cause_of_loss(rank);
  };
  const auto all_have = [&] {
    for (int rank = 0; rank < voter_.num_ranks; ++rank) {
      if (!has_decided(rank)) return false;
    }
    return true;
  };
  wait_until(
      deadline_, 1, [&] { return is_over() || all_have(); }, nap);
  exclude_absent();
  for (int rank = 0; rank < voter_.num_ranks; ++rank) {
    if (has_reached(rank, Stage::kCame)) members_.push_back(rank);
  }
  if (is_over()) throw_failed();
  deadline_ = Deadline(voter_.patience);
  return members_;
}

// Every rank does this for all, and each vote is cast once: afterwards all read the same.
void Election::exclude_absent() {
  for (int rank = 0; rank < voter_.num_ranks; ++rank) {
    for (Ballot::Vote vote = ballot_.vote_of(rank); vote.round < round_; vote = ballot_.vote_of(rank)) {
      ballot_.cast(rank, vote, {.round = round_, .stage = Stage::kExcluded});
    }
  }
}

void Election::announce(SegmentId control) {
  advance({.round = round_, .stage = Stage::kMade, .control = control});
}

void Election::confirm() {
  advance({.round = round_, .stage = Stage::kMapped, .control = own_.control});
}

void Election::advance(const Ballot::Vote& next) {
  if (!ballot_.cast(voter_.rank, own_, next)) throw_failed();
  own_ = next;
}

Ballot::Vote Election::await(int rank, Stage stage) {
  const bool has_come = wait_until(
      deadline_, 1, [&] { return has_reached(rank, stage); },
      [&](std::chrono::nanoseconds longest) {
        if (is_over()) throw_failed();
        if (const auto cause = voter_.cause_of_loss(rank)) {
          throw TransportError(
              fmt::format("rank {} is gone ({}) while rank {} rebuilds the group", rank, *cause, voter_.rank),
              {rank});
        }
        nap(longest);
      });
  if (!has_come) throw_missing(stage);
  return ballot_.vote_of(rank);
}

// Of a round that has formed its group, whoever takes part sees all votes.
bool Election::is_over() const {
  const Ballot::Outcome outcome = ballot_.outcome();
  return outcome.round != round_ || outcome.verdict == Verdict::kFailed;
}

bool Election::has_reached(int rank, Stage stage) const {
  const Ballot::Vote vote = ballot_.vote_of(rank);
  return vote.round == round_ && vote.stage >= stage;
}

bool Election::decide(Verdict verdict) {
  return ballot_.decide(round_, verdict) == Ballot::Outcome{round_, Verdict::kFormed};
}

void Election::throw_failed() const {
  throw TransportError(fmt::format(
      "rank {} has not rebuilt the group: another rank could not (round {}); it may be tried again",
      voter_.rank, round_));
}

void Election::throw_too_late() const {
  const Ballot::Vote own = ballot_.vote_of(voter_.rank);
  if (own.stage == Stage::kMapped) {
    throw TransportError(fmt::format("rank {} has rebuilt this group already: use the new one", voter_.rank));
  }
  throw TransportError(
      fmt::format("rank {} did not come in time: the others rebuild the group without it", voter_.rank),
      {voter_.rank});
}

void Election::throw_missing(Stage stage) const {
  std::vector<int> missing;
  std::copy_if(members_.begin(), members_.end(), std::back_inserter(missing),
               [&](int rank) { return !has_reached(rank, stage); });
  const double secs = std::chrono::duration<double>(voter_.patience).count();
  throw TimeoutError(
      missing, "rebuild", round_,
      fmt::format("rank {} waited {} s in rebuild #{} and has not heard from rank{} {} any more", voter_.rank,
                  secs, round_, missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")));
}

}  // namespace flexep
