// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a group whose ranks are lost.
#include <gtest/gtest.h>

#include <future>
#include <numeric>

#include "flexep/flexep.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;

// Rows go around and come back doubled.
void expect_round_trip(const Communicator& comm) {
  constexpr int kNumTokens = 24;
  ElasticBuffer buffer(comm);
  const Tensor x = Tensor::empty({kNumTokens, 64}, DType::kFloat32);
  const Tensor topk_idx = Tensor::empty({kNumTokens, 1}, DType::kInt64);
  std::iota(x.data<float>(), x.data<float>() + x.num_elements(), static_cast<float>(comm.rank() * 10'000));
  for (int token = 0; token < kNumTokens; ++token)
    topk_idx.data<std::int64_t>()[token] = token % comm.num_ranks();
  const auto recv = buffer.dispatch({.x = x, .topk_idx = topk_idx, .num_experts = comm.num_ranks()});
  for (float& value : recv.x.values<float>()) value *= 2;
  const auto out = buffer.combine({.x = recv.x, .handle = recv.handle});
  for (std::size_t i = 0; i < x.values<float>().size(); ++i) {
    ASSERT_EQ(out.x.values<float>()[i], 2 * x.values<float>()[i]) << "element " << i;
  }
}

// How long ranks are waited for that do not come. Much more than those that do may be apart, however busy the
// machine.
constexpr auto kPatience = 8s;

class RebuildTest : public testing::TestWithParam<int> {};

TEST_P(RebuildTest, RanksThatAreThereMakeAGroupInTheirOrder) {
  const int lost = GetParam() / 2;
  std::promise<void> rebuilt;
  const auto others_are_done = rebuilt.get_future().share();
  std::atomic<int> num_rebuilt{0};
  in_process(GetParam(),
             [&](Communicator& comm) {
               if (comm.rank() == lost) {
                 others_are_done.wait();
                 EXPECT_THROW(comm.rebuild(), TransportError);
                 EXPECT_THROW(comm.barrier(), Error);
                 return;
               }
               EXPECT_THROW(comm.barrier(), TimeoutError);
               Communicator group = comm.rebuild(kPatience);
               std::vector<int> expected(static_cast<std::size_t>(comm.num_ranks()));
               std::iota(expected.begin(), expected.end(), 0);
               std::erase(expected, lost);
               EXPECT_EQ(group.all_gather(comm.rank()), expected);
               EXPECT_EQ(group.timeout(), comm.timeout());
               expect_round_trip(group);
               if (++num_rebuilt == comm.num_ranks() - 1) rebuilt.set_value();
             },
             {.timeout = kPatience});
}

INSTANTIATE_TEST_SUITE_P(Ranks, RebuildTest, testing::Values(2, 7));

TEST(RebuildAgainTest, RanksThatEndedAreNotWaitedFor) {
  in_process(5,
             [](Communicator& world) {
               Communicator comm = world;
               // One after the other ends, each time in the middle of something.
               while (comm.num_ranks() > 1) {
                 if (comm.rank() == 0) return;
                 EXPECT_THROW(for (;;) comm.barrier(), TransportError);
                 comm = comm.rebuild();
                 expect_round_trip(comm);
               }
             },
             {.timeout = 300s});
}

TEST(RebuildAgainTest, HealthyGroupIsReplacedAndEnded) {
  in_process(3, [](Communicator& comm) {
    Communicator group = comm.rebuild();
    EXPECT_EQ(group.num_ranks(), 3);
    EXPECT_THROW(comm.barrier(), TransportError);
    EXPECT_THROW(comm.rebuild(), TransportError);
    expect_round_trip(group);
  });
}

TEST(RebuildAgainTest, RankThatWaitsInTheOldGroupIsToldAndCanCome) {
  in_process(3,
             [](Communicator& comm) {
               if (comm.rank() == 2) {
                 EXPECT_THROW(comm.barrier(), TransportError);
               }
               EXPECT_EQ(comm.rebuild().num_ranks(), 3);
             },
             {.timeout = 300s});
}

TEST(RebuildAgainTest, OtherGroupsOfTheSameRanksGoOn) {
  in_process(3,
             [](Communicator& comm) {
               Communicator pair = comm.split(comm.rank() == 0, 0);
               Communicator rest = comm.rank() == 0 ? pair : pair.rebuild();
               EXPECT_EQ(rest.num_ranks(), comm.rank() == 0 ? 1 : 2);
               expect_round_trip(rest);
               expect_round_trip(comm);
             },
             {.timeout = 300s});
}

TEST(RebuildAgainTest, PatienceIsChecked) {
  in_process(1, [](Communicator& comm) {
    EXPECT_THROW(comm.rebuild(-1ms), InvalidArgument);
    EXPECT_EQ(comm.rebuild(1ms).num_ranks(), 1);
  });
}

}  // namespace
}  // namespace flexep
