// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/election.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "flexep/error.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;
using Stage = Ballot::Stage;

/// A ballot of ranks that are threads, and which of them are lost.
class Ballots {
 public:
  explicit Ballots(int num_ranks)
      : num_ranks_(num_ranks),
        memory_(1 + static_cast<std::size_t>(num_ranks)),
        is_lost_(static_cast<std::size_t>(num_ranks)),
        ballot_(reinterpret_cast<std::byte*>(memory_.data())) {}

  Election join(int rank, std::chrono::milliseconds patience) {
    return {ballot_,
            {.rank = rank,
             .num_ranks = num_ranks_,
             .patience = patience,
             .cause_of_loss = [this](int other) -> std::optional<std::string> {
               if (!is_lost_[static_cast<std::size_t>(other)]) return std::nullopt;
               return "the test says so";
             }}};
  }
  /// All of a rank's part. @return the members.
  std::vector<int> elect(int rank, std::chrono::milliseconds patience) {
    Election election = join(rank, patience);
    std::vector<int> members;
    election.conclude([&] {
      members = election.settle_members();
      election.announce(static_cast<SegmentId>(100 + rank));
      for (const int member : members) {
        EXPECT_EQ(election.await(member, Stage::kMade).control, static_cast<SegmentId>(100 + member));
      }
      election.confirm();
      for (const int member : members) election.await(member, Stage::kMapped);
    });
    return members;
  }
  void lose(int rank) { is_lost_[static_cast<std::size_t>(rank)] = true; }

 private:
  int num_ranks_;
  std::vector<std::uint64_t> memory_;
  std::vector<std::atomic<bool>> is_lost_;
  Ballot ballot_;
};

void run_threads(const std::vector<int>& ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (const int rank : ranks) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

TEST(ElectionTest, AllRanksThatComeAreMembersWithoutWaiting) {
  Ballots ballots(4);
  run_threads({0, 1, 2, 3}, [&](int rank) {
    EXPECT_EQ(ballots.elect(rank, 60s), (std::vector<int>{0, 1, 2, 3}));
  });
}

TEST(ElectionTest, LostRanksAreNotWaitedForAndAbsentOnesAreExcluded) {
  Ballots ballots(4);
  ballots.lose(0);
  run_threads({2, 3}, [&](int rank) { EXPECT_EQ(ballots.elect(rank, 500ms), (std::vector<int>{2, 3})); });
  EXPECT_THROW(ballots.elect(1, 500ms), TransportError);
}

TEST(ElectionTest, MemberThatIsLostFailsTheRoundOnAllAndTheNextOneGoesOnWithoutIt) {
  Ballots ballots(3);
  run_threads({0, 1, 2}, [&](int rank) {
    if (rank == 1) {
      Election election = ballots.join(rank, 60s);
      election.settle_members();
      return ballots.lose(rank);
    }
    EXPECT_THROW(ballots.elect(rank, 60s), TransportError);
    EXPECT_EQ(ballots.elect(rank, 60s), (std::vector<int>{0, 2}));
  });
}

TEST(ElectionTest, MemberThatFallsSilentIsNamedAndTheNextRoundGoesOnWithoutIt) {
  Ballots ballots(2);
  std::optional<Election> silent;
  run_threads({0, 1}, [&](int rank) {
    if (rank == 1) {
      silent.emplace(ballots.join(rank, 60s));
      silent->settle_members();
      return;
    }
    try {
      ballots.elect(rank, 1s);
      ADD_FAILURE() << "a group has formed";
    } catch (const TimeoutError& error) {
      EXPECT_EQ(error.missing_ranks(), std::vector<int>{1});
      EXPECT_EQ(error.operation(), "rebuild");
      EXPECT_EQ(error.sequence_number(), 1u);
    }
    EXPECT_EQ(ballots.elect(rank, 100ms), std::vector<int>{0});
  });
  // Whatever it does when it wakes up, it changes nothing.
  EXPECT_THROW(silent->announce(7), TransportError);
  EXPECT_THROW(silent->conclude([] {}), TransportError);
  EXPECT_THROW(ballots.elect(1, 1s), TransportError);
}

// Ranks come and give up at random times, until each is in a group or shut out.
TEST(ElectionTest, RanksAgreeHoweverTheyAreDelayed) {
  constexpr int kNumRanks = 5;
  for (unsigned seed = 0; seed < 60; ++seed) {
    Ballots ballots(kNumRanks);
    std::array<std::vector<int>, kNumRanks> members;
    run_threads({0, 1, 2, 3, 4}, [&](int rank) {
      std::mt19937 random(seed * kNumRanks + static_cast<unsigned>(rank));
      for (int attempt = 0; attempt < 20 && members[static_cast<std::size_t>(rank)].empty(); ++attempt) {
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        try {
          members[static_cast<std::size_t>(rank)] =
              ballots.elect(rank, std::chrono::milliseconds(1 + random() % 3));
        } catch (const Error&) {
          // May try again.
        }
      }
    });
    const auto group = std::max_element(members.begin(), members.end());
    for (int rank = 0; rank < kNumRanks; ++rank) {
      const bool is_in = std::find(group->begin(), group->end(), rank) != group->end();
      EXPECT_EQ(members[static_cast<std::size_t>(rank)], is_in ? *group : std::vector<int>())
          << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace flexep
