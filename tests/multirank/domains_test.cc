// SPDX-License-Identifier: Apache-2.0
//
// Groups of several domains: threads that share memory only with the threads of their own domain.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>

#include "flexep/communicator.h"
#include "flexep/error.h"
#include "transport/traffic.h"
#include "transport/transport.h"

namespace flexep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::ThrowsMessage;
using namespace std::chrono_literals;

/// Domains, ranks of each.
class DomainsTest : public testing::TestWithParam<std::pair<int, int>> {
 protected:
  int num_domains() const { return GetParam().first; }
  int num_scaleup_ranks() const { return GetParam().second; }
  int num_ranks() const { return num_domains() * num_scaleup_ranks(); }
  void run(const std::function<void(Communicator&)>& body) const {
    in_process(num_ranks(), body, {.timeout = 60s, .num_scaleup_ranks = num_scaleup_ranks()});
  }
};

TEST_P(DomainsTest, SayWhatTheyAre) {
  run([&](Communicator& comm) {
    const Topology topology = comm.transport().topology();
    EXPECT_EQ(topology.num_scaleout_ranks, num_domains());
    EXPECT_EQ(topology.num_scaleup_ranks, num_scaleup_ranks());
    EXPECT_EQ(comm.num_ranks(), num_ranks());
  });
}

TEST_P(DomainsTest, GatherMessagesOfAnyLengthInRankOrder) {
  run([&](Communicator& comm) {
    for (const std::size_t unit : {0, 7, 400, 70'000}) {
      const auto bytes_from = [&](int rank) {
        return std::vector<std::byte>(unit * static_cast<std::size_t>(rank), std::byte(rank + 1));
      };
      const auto all = comm.all_gather_bytes(bytes_from(comm.rank()));
      ASSERT_EQ(static_cast<int>(all.size()), num_ranks());
      for (int rank = 0; rank < num_ranks(); ++rank)
        ASSERT_EQ(all[static_cast<std::size_t>(rank)], bytes_from(rank)) << "rank " << rank;
    }
  });
}

TEST_P(DomainsTest, BarrierMakesEarlierWritesVisible) {
  std::vector<int> written(static_cast<std::size_t>(num_ranks()));
  run([&](Communicator& comm) {
    for (int round = 1; round <= 20; ++round) {
      written[static_cast<std::size_t>(comm.rank())] = round;
      comm.barrier();
      for (const int other : written) EXPECT_EQ(other, round);
      comm.barrier();
    }
  });
}

TEST_P(DomainsTest, ScanSumsOverTheRanksBelowAndOverAll) {
  run([&](Communicator& comm) {
    constexpr int kNumValues = 23;
    const auto value_of = [](int rank, int i) { return (rank + 1) * 100'000'000 + i * i; };
    std::vector<std::int32_t> values;
    for (int i = 0; i < kNumValues; ++i) values.push_back(value_of(comm.rank(), i));
    std::vector<std::int64_t> before(kNumValues, -1);
    std::vector<std::int64_t> total(kNumValues, -1);
    comm.transport().scan_and_sum(values, before, total, {.name = "scan"});
    for (int i = 0; i < kNumValues; ++i) {
      std::int64_t below = 0;
      std::int64_t all = 0;
      for (int rank = 0; rank < num_ranks(); ++rank) {
        if (rank < comm.rank()) below += value_of(rank, i);
        all += value_of(rank, i);
      }
      EXPECT_EQ(before[static_cast<std::size_t>(i)], below) << "value " << i;
      EXPECT_EQ(total[static_cast<std::size_t>(i)], all) << "value " << i;
    }
  });
}

TEST_P(DomainsTest, TransposeGivesEachRankWhatIsForIt) {
  run([&](Communicator& comm) {
    const auto value_of = [](int from, int to, int i) { return from * 10'000 + to * 100 + i; };
    std::vector<std::int32_t> values;
    for (int to = 0; to < num_ranks(); ++to) {
      for (int i = 0; i < 2; ++i) values.push_back(value_of(comm.rank(), to, i));
    }
    std::vector<std::int32_t> received(values.size(), -1);
    comm.transport().transpose(values, received, {.name = "transpose"});
    for (int from = 0; from < num_ranks(); ++from) {
      for (int i = 0; i < 2; ++i)
        EXPECT_EQ(received[static_cast<std::size_t>(2 * from + i)], value_of(from, comm.rank(), i));
    }
  });
}

TEST_P(DomainsTest, SumsAreThoseOfOneDomain) {
  std::vector<float> expected(1);
  const auto value_of = [](int rank) { return 1.0f / static_cast<float>(rank + 3) + 1e6f * (rank % 2); };
  for (int rank = 0; rank < num_ranks(); ++rank)
    expected[0] = rank == 0 ? value_of(0) : expected[0] + value_of(rank);
  run([&](Communicator& comm) {
    std::vector<float> values{value_of(comm.rank())};
    comm.all_reduce_sum(values);
    EXPECT_EQ(values, expected);
  });
}

TEST_P(DomainsTest, MismatchNamesEveryRanksOperation) {
  run([&](Communicator& comm) {
    const auto call = [&] {
      if (comm.rank() == num_ranks() - 1) comm.barrier();
      comm.all_gather(1);
    };
    try {
      call();
      ADD_FAILURE() << "no mismatch was found";
    } catch (const CollectiveMismatch& error) {
      ASSERT_EQ(static_cast<int>(error.values().size()), num_ranks());
      EXPECT_THAT(error.values().back(), HasSubstr("barrier"));
      EXPECT_THAT(error.values().front(), HasSubstr("all_gather"));
    }
    EXPECT_EQ(comm.all_gather(comm.rank()).back(), num_ranks() - 1) << "the group stays usable";
  });
}

TEST_P(DomainsTest, SplitMakesGroupsAcrossAndInsideOfDomains) {
  run([&](Communicator& comm) {
    const int domain = comm.rank() / num_scaleup_ranks();
    const int index = comm.rank() % num_scaleup_ranks();
    Communicator rail = comm.split(index, -comm.rank());
    EXPECT_EQ(rail.num_ranks(), num_domains());
    EXPECT_EQ(rail.all_gather(comm.rank()).front(), (num_domains() - 1) * num_scaleup_ranks() + index);
    Communicator inside = comm.split(domain, 0);
    EXPECT_EQ(inside.num_ranks(), num_scaleup_ranks());
    EXPECT_EQ(inside.all_gather(comm.rank()).front(), domain * num_scaleup_ranks());
    EXPECT_EQ(comm.duplicate().all_gather(comm.rank()).back(), num_ranks() - 1);
  });
}

std::string name_of_size(const testing::TestParamInfo<std::pair<int, int>>& info) {
  return std::to_string(info.param.first) + "x" + std::to_string(info.param.second);
}

INSTANTIATE_TEST_SUITE_P(Sizes, DomainsTest,
                         testing::Values(std::pair(2, 1), std::pair(2, 2), std::pair(3, 2), std::pair(4, 1),
                                         std::pair(5, 1), std::pair(2, 3), std::pair(4, 2)),
                         name_of_size);

TEST(DomainsErrorTest, DomainsOfDifferentSizesAreRefused) {
  EXPECT_THAT([] { in_process(5, [](Communicator&) {}, {.num_scaleup_ranks = 2}); },
              ThrowsMessage<InvalidArgument>(HasSubstr("which does not divide the 5 ranks")));
}

TEST(DomainsErrorTest, GroupWithUnevenDomainsIsRefusedByAll) {
  in_process(4,
             [](Communicator& comm) {
               EXPECT_THROW(comm.split(comm.rank() == 3 ? 1 : 0, 0), InvalidArgument);
               // 0, 2, 1, 3: the ranks of a domain have to follow each other.
               EXPECT_THROW(comm.split(0, comm.rank() % 2), InvalidArgument);
               comm.barrier();
             },
             {.timeout = 60s, .num_scaleup_ranks = 2});
}

TEST(DomainsErrorTest, RankThatStaysAwayIsNamedByAll) {
  std::latch has_been_missed(5);
  in_process(6,
             [&](Communicator& comm) {
               Communicator group = comm.duplicate();
               if (comm.rank() == 3) {
                 has_been_missed.wait();
                 return;
               }
               try {
                 group.barrier();
                 ADD_FAILURE() << "nobody was missed";
               } catch (const TimeoutError& error) {
                 EXPECT_THAT(error.missing_ranks(), ElementsAre(3)) << error.what();
               }
               EXPECT_THROW(group.barrier(), TransportError) << "the group is poisoned";
               has_been_missed.count_down();
             },
             {.timeout = 2s, .num_scaleup_ranks = 2});
}

TEST(DomainsErrorTest, RankThatThrowsEndsTheOthersWait) {
  std::atomic<int> num_told = 0;
  EXPECT_THAT(
      [&] {
        in_process(4,
                   [&](Communicator& comm) {
                     if (comm.rank() == 2) throw std::runtime_error("out of paper");
                     try {
                       comm.barrier();
                     } catch (const TransportError& error) {
                       EXPECT_THAT(error.what(), HasSubstr("out of paper"));
                       EXPECT_THAT(error.failed_ranks(), ElementsAre(2));
                       ++num_told;
                       throw;
                     }
                   },
                   {.timeout = 60s, .num_scaleup_ranks = 2});
      },
      ThrowsMessage<std::runtime_error>(HasSubstr("out of paper")));
  EXPECT_EQ(num_told, 3);
}

TEST(DomainsErrorTest, RankThatLeavesIsNamed) {
  in_process(4,
             [&](Communicator& comm) {
               Communicator group = comm.duplicate();
               if (comm.rank() == 1) return;
               try {
                 group.barrier();
                 ADD_FAILURE() << "nobody was missed";
               } catch (const TransportError& error) {
                 EXPECT_THAT(error.failed_ranks(), ElementsAre(1)) << error.what();
               }
             },
             {.timeout = 60s, .num_scaleup_ranks = 2});
}

TEST(DomainsErrorTest, FailureOfATrafficReachesEveryRank) {
  /// Fails as a full disk might in the middle of moving rows.
  class Failing final : public Traffic {
   public:
    bool advance() override { throw OutOfMemory("no more rows"); }
    bool is_done() const override { return false; }
    std::vector<int> awaited() const override { return {}; }
  };
  in_process(4,
             [&](Communicator& comm) {
               Communicator group = comm.duplicate();
               if (comm.rank() == 0) {
                 Failing traffic;
                 EXPECT_THROW(group.transport().settle(traffic, {.name = "move"}), OutOfMemory);
                 EXPECT_THROW(group.barrier(), TransportError);
               } else {
                 EXPECT_THAT([&] { group.barrier(); },
                             ThrowsMessage<TransportError>(HasSubstr("no more rows")));
               }
               comm.barrier();
             },
             {.timeout = 60s, .num_scaleup_ranks = 2});
}

TEST(DomainsErrorTest, MessagesOfDifferentLengthsAreAMismatch) {
  in_process(2,
             [&](Communicator& comm) {
               Communicator group = comm.duplicate();
               std::vector<std::byte> bytes(8);
               PlainTraffic traffic(group.transport().messages());
               if (comm.rank() == 0) {
                 traffic.send(1, bytes);
               } else {
                 traffic.receive(0, std::span(bytes).first(4));
               }
               EXPECT_THROW(group.transport().settle(traffic, {.name = "move"}), CollectiveMismatch);
               comm.barrier();
             },
             {.timeout = 60s, .num_scaleup_ranks = 1});
}

}  // namespace
}  // namespace flexep
