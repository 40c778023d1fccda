// SPDX-License-Identifier: Apache-2.0
#include "flexep/communicator.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "flexep/error.h"

namespace flexep {
namespace {

class CommunicatorTest : public testing::TestWithParam<int> {
 protected:
  int num_ranks() const { return GetParam(); }
};

TEST_P(CommunicatorTest, GathersMessagesOfDifferentLengthsInRankOrder) {
  in_process(num_ranks(), [](Communicator& comm) {
    const std::vector<std::byte> mine(static_cast<std::size_t>(comm.rank()) * 3, std::byte(comm.rank()));
    const auto all = comm.all_gather_bytes(mine);
    ASSERT_EQ(static_cast<int>(all.size()), comm.num_ranks());
    for (int rank = 0; rank < comm.num_ranks(); ++rank) {
      const std::vector<std::byte> expected(static_cast<std::size_t>(rank) * 3, std::byte(rank));
      EXPECT_EQ(all[static_cast<std::size_t>(rank)], expected);
    }
  });
}

TEST_P(CommunicatorTest, GathersMessagesLongerThanASlot) {
  in_process(num_ranks(), [](Communicator& comm) {
    const auto length_of = [](int rank) { return 100'000 * static_cast<std::size_t>(rank) + 65'536; };
    std::vector<std::byte> mine(length_of(comm.rank()));
    for (std::size_t i = 0; i < mine.size(); ++i)
      mine[i] = std::byte((i * 7 + static_cast<std::size_t>(comm.rank())) % 251);
    const auto all = comm.all_gather_bytes(mine);
    for (int rank = 0; rank < comm.num_ranks(); ++rank) {
      const auto& bytes = all[static_cast<std::size_t>(rank)];
      ASSERT_EQ(bytes.size(), length_of(rank));
      for (std::size_t i = 0; i < bytes.size(); ++i) {
        ASSERT_EQ(bytes[i], std::byte((i * 7 + static_cast<std::size_t>(rank)) % 251))
            << "rank " << rank << " byte " << i;
      }
    }
  });
}

TEST_P(CommunicatorTest, AllReduceAddsInRankOrder) {
  constexpr std::size_t kNumValues = 40'000;  // more than one piece
  const auto value_of = [](int rank, std::size_t i) {
    return 1.0f / static_cast<float>(i + 1) + 1e6f * static_cast<float>(rank % 3);
  };
  in_process(num_ranks(), [&](Communicator& comm) {
    std::vector<float> values(kNumValues);
    for (std::size_t i = 0; i < kNumValues; ++i) values[i] = value_of(comm.rank(), i);
    comm.all_reduce_sum(values);
    for (std::size_t i = 0; i < kNumValues; ++i) {
      float expected = value_of(0, i);
      for (int rank = 1; rank < comm.num_ranks(); ++rank) expected += value_of(rank, i);
      ASSERT_EQ(values[i], expected) << "value " << i;
    }
  });
}

TEST_P(CommunicatorTest, BarrierMakesEarlierWritesVisible) {
  std::vector<int> written(static_cast<std::size_t>(num_ranks()));
  in_process(num_ranks(), [&](Communicator& comm) {
    for (int round = 1; round <= 200; ++round) {
      written[static_cast<std::size_t>(comm.rank())] = round;
      comm.barrier();
      for (const int other : written) EXPECT_EQ(other, round);
      comm.barrier();
    }
  });
}

TEST_P(CommunicatorTest, SplitOrdersByKeyAndSeparatesGroups) {
  in_process(num_ranks(), [](Communicator& comm) {
    Communicator half = comm.split(comm.rank() % 2, -comm.rank());
    const auto world_ranks = half.all_gather(comm.rank());
    std::vector<int> expected;
    for (int rank = comm.num_ranks() - 1; rank >= 0; --rank) {
      if (rank % 2 == comm.rank() % 2) expected.push_back(rank);
    }
    EXPECT_EQ(world_ranks, expected);
    EXPECT_EQ(world_ranks[static_cast<std::size_t>(half.rank())], comm.rank());
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CommunicatorTest, testing::Values(1, 2, 3, 4, 7, 8));

TEST(CommunicatorErrorTest, ErrorOfOneRankReachesTheCallerAndEndsTheOthers) {
  try {
    in_process(4, [](Communicator& comm) {
      if (comm.rank() == 2) throw std::runtime_error("out of cheese");
      comm.barrier();
      comm.barrier();
    });
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "out of cheese");
  }
}

TEST(CommunicatorErrorTest, RankThatLeavesIsNamed) {
  std::atomic<int> num_named{0};
  in_process(3, [&](Communicator& comm) {
    if (comm.rank() == 1) return;
    try {
      comm.barrier();
    } catch (const TransportError& error) {
      num_named += error.failed_ranks() == std::vector<int>{1};
    }
  });
  EXPECT_EQ(num_named, 2);
}

TEST(CommunicatorErrorTest, AbortReachesRanksThatWaitAndRanksThatCallLater) {
  std::atomic<int> num_told{0};
  in_process(3, [&](Communicator& comm) {
    if (comm.rank() == 0) {
      comm.abort("the user pressed stop");
      return;
    }
    if (comm.rank() == 2) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    try {
      comm.barrier();
    } catch (const TransportError& error) {
      num_told += std::string(error.what()).find("the user pressed stop") != std::string::npos;
    }
  });
  EXPECT_EQ(num_told, 2);
}

TEST(CommunicatorErrorTest, TimeoutNamesMissingRankOperationAndPoisonsTheGroup) {
  std::atomic<int> num_checked{0};
  in_process(3,
             [&](Communicator& comm) {
               if (comm.rank() == 2) {
                 while (num_checked < 2) std::this_thread::sleep_for(std::chrono::milliseconds(10));
                 return;
               }
               try {
                 comm.barrier();
                 ADD_FAILURE() << "the barrier completed";
               } catch (const TimeoutError& error) {
                 EXPECT_EQ(error.missing_ranks(), std::vector<int>{2});
                 EXPECT_EQ(error.operation(), "barrier");
                 EXPECT_EQ(error.sequence_number(), 1u);
               }
               EXPECT_THROW(comm.barrier(), TransportError);
               ++num_checked;
             },
             {.timeout = std::chrono::seconds(8)});
  EXPECT_EQ(num_checked, 2);
}

TEST(CommunicatorErrorTest, DifferentOperationsAreAMismatchAndTheGroupStaysUsable) {
  in_process(2, [](Communicator& comm) {
    try {
      if (comm.rank() == 0) {
        comm.barrier();
      } else {
        comm.all_gather(7);
      }
      ADD_FAILURE() << "no mismatch was found";
    } catch (const CollectiveMismatch& error) {
      EXPECT_EQ(error.field(), "operation");
      EXPECT_EQ(error.values().size(), 2u);
    }
    comm.barrier();
  });
}

TEST(CommunicatorErrorTest, AllReduceOfDifferentLengthsIsAMismatch) {
  in_process(3, [](Communicator& comm) {
    std::vector<double> values(static_cast<std::size_t>(comm.rank()));
    EXPECT_THROW(comm.all_reduce_sum(values), CollectiveMismatch);
    std::vector<double> same(5, 1.0);
    comm.all_reduce_sum(same);
    EXPECT_EQ(same[4], 3.0);
  });
}

}  // namespace
}  // namespace flexep
