// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer across domains, beside its answers (tests/conformance/domains_conformance_test.cc): what it
// counts, how much room it takes, and how it fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <future>
#include <latch>

#include "flexep/elastic_buffer.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using namespace std::chrono_literals;

constexpr int kHidden = 64;
constexpr std::int64_t kRowBytes = kHidden * 4;

const CommunicatorOptions kTwoByTwo{.timeout = 60s, .num_scaleup_ranks = 2};

/// Every token goes to one expert of each of the four ranks, and to two of rank 3.
DispatchArgs everywhere(int num_tokens) {
  const Tensor topk_idx = Tensor::empty({num_tokens, 5}, DType::kInt64);
  for (int token = 0; token < num_tokens; ++token) {
    const std::int64_t ids[] = {7, 0, 2, 4, 6};
    std::memcpy(topk_idx.data<std::int64_t>() + token * 5, ids, sizeof(ids));
  }
  return {.x = Tensor::zeros({num_tokens, kHidden}, DType::kFloat32), .topk_idx = topk_idx, .num_experts = 8};
}

TEST(CrossingTest, SaysHowRanksLie) {
  in_process(
      4,
      [](Communicator& comm) {
        const ElasticBuffer hybrid(comm);
        EXPECT_EQ(hybrid.get_physical_domain_size().num_scaleout_ranks, 2);
        EXPECT_EQ(hybrid.get_logical_domain_size().num_scaleout_ranks, 2);
        EXPECT_EQ(hybrid.get_logical_domain_size().num_scaleup_ranks, 2);
        const ElasticBuffer direct(comm, {.network = {.allow_hybrid_mode = false}});
        EXPECT_EQ(direct.get_physical_domain_size().num_scaleup_ranks, 2);
        EXPECT_EQ(direct.get_logical_domain_size().num_scaleout_ranks, 1);
        EXPECT_EQ(direct.get_logical_domain_size().num_scaleup_ranks, 4);
      },
      kTwoByTwo);
}

/// What one combine and one dispatch of `everywhere` count across domains.
BufferCounters count(Communicator& comm, int num_tokens, const ElasticBufferConfig& config) {
  ElasticBuffer buffer(comm, config);
  const DispatchResult received = buffer.dispatch(everywhere(num_tokens));
  buffer.combine({.x = received.x, .handle = received.handle});
  return buffer.counters();
}

TEST(CrossingTest, TokenCrossesOnceForEachDomainInHybridMode) {
  in_process(
      4,
      [](Communicator& comm) {
        const BufferCounters counters = count(comm, 10, {});
        EXPECT_EQ(counters.dispatch.num_rows_scaleout, 10);
        EXPECT_EQ(counters.dispatch.bytes_scaleout, 10 * kRowBytes);
        // Of its own tokens and of those that it carries.
        EXPECT_EQ(counters.dispatch.num_rows_local, 20);
        EXPECT_EQ(counters.dispatch.num_rows_scaleup, 20);
        EXPECT_EQ(counters.dispatch.link_bytes, 30 * kRowBytes);
        EXPECT_EQ(counters.combine.num_rows_scaleout, 10);
      },
      kTwoByTwo);
}

TEST(CrossingTest, EveryRanksRowCrossesWithoutMultipleReduction) {
  in_process(
      4,
      [](Communicator& comm) {
        const BufferCounters counters = count(comm, 10, {.allow_multiple_reduction = false});
        EXPECT_EQ(counters.dispatch.num_rows_scaleout, 10);
        EXPECT_EQ(counters.combine.num_rows_scaleout, 20);
      },
      kTwoByTwo);
}

TEST(CrossingTest, TokenCrossesOnceForEachRankInDirectMode) {
  in_process(
      4,
      [](Communicator& comm) {
        const BufferCounters counters = count(comm, 10, {.network = {.allow_hybrid_mode = false}});
        EXPECT_EQ(counters.dispatch.num_rows_scaleout, 20);
        EXPECT_EQ(counters.combine.num_rows_scaleout, 20);
      },
      kTwoByTwo);
}

TEST(CrossingTest, RoomThatHoldsNoRowIsRefusedByAll) {
  in_process(
      4,
      [](Communicator& comm) {
        ElasticBuffer buffer(comm, {.max_staging_bytes = comm.rank() == 1 ? 1000 : 64 << 20});
        EXPECT_THAT([&] { buffer.dispatch(everywhere(3)); },
                    ThrowsMessage<Error>(HasSubstr("max_staging_bytes is 1000, but rows that cross domains "
                                                   "here need at least")));
        buffer.barrier();
      },
      kTwoByTwo);
}

TEST(CrossingTest, RoomDoesNotGrowWithTheTokens) {
  in_process(
      4,
      [](Communicator& comm) {
        constexpr std::int64_t kRoom = 64 << 10;
        ElasticBuffer buffer(comm, {.max_staging_bytes = kRoom});
        const DispatchResult received = buffer.dispatch(everywhere(2000));
        EXPECT_EQ(received.x.size(0), 8000);
        buffer.combine({.x = received.x, .handle = received.handle});
        // Two outputs, with a quarter of headroom each, in chunks of 8 MiB.
        const std::int64_t outputs = 10'000 * kRowBytes;
        EXPECT_LE(buffer.arena_bytes(), 2 * outputs + kRoom + (16 << 20));
      },
      kTwoByTwo);
}

TEST(CrossingTest, DifferentModesAreAMismatch) {
  in_process(2,
             [](Communicator& comm) {
               EXPECT_THROW(ElasticBuffer(comm, {.network = {.allow_hybrid_mode = comm.rank() == 0}}),
                            CollectiveMismatch);
             },
             {.timeout = 60s, .num_scaleup_ranks = 1});
}

TEST(CrossingTest, MistakeOfOneRankIsAnErrorOfAllAndTheGroupGoesOn) {
  in_process(
      4,
      [](Communicator& comm) {
        ElasticBuffer buffer(comm);
        DispatchArgs args = everywhere(3);
        args.topk_idx = args.topk_idx.clone();
        if (comm.rank() == 2) args.topk_idx.data<std::int64_t>()[4] = 8;
        if (comm.rank() == 2) {
          EXPECT_THROW(buffer.dispatch(args), InvalidArgument);
        } else {
          EXPECT_THAT([&] { buffer.dispatch(args); }, ThrowsMessage<PeerError>(HasSubstr("rank 2")));
        }
        EXPECT_EQ(buffer.dispatch(everywhere(3)).x.size(0), 12);
      },
      kTwoByTwo);
}

TEST(CrossingTest, FailedEventIsAnErrorOfAllAndTheGroupGoesOn) {
  in_process(
      4,
      [](Communicator& comm) {
        ElasticBuffer buffer(comm);
        const DispatchResult received = buffer.dispatch(everywhere(3));
        const CombineArgs args{.x = received.x, .handle = received.handle};
        CombineArgs failing = args;
        std::promise<void> failed;
        if (comm.rank() == 1) {
          failed.set_exception(std::make_exception_ptr(std::runtime_error("the expert burnt down")));
          failing.previous_event_before_epilogue = Event(failed.get_future().share());
          EXPECT_THROW(buffer.combine(failing), std::runtime_error);
        } else {
          EXPECT_THAT([&] { buffer.combine(failing); },
                      ThrowsMessage<PeerError>(HasSubstr("the expert burnt down")));
        }
        buffer.combine(args);
      },
      kTwoByTwo);
}

TEST(CrossingTest, RankThatEndsInTheMiddleIsNamed) {
  in_process(
      4,
      [](Communicator& comm) {
        ElasticBuffer buffer(comm);
        const DispatchResult received = buffer.dispatch(everywhere(3));
        if (comm.rank() == 3) return;
        try {
          buffer.combine({.x = received.x, .handle = received.handle});
          ADD_FAILURE() << "nobody noticed";
        } catch (const TransportError& error) {
          EXPECT_THAT(error.failed_ranks(), ElementsAre(3)) << error.what();
        }
      },
      kTwoByTwo);
}

TEST(CrossingTest, RankThatStaysAwayIsNamedByAll) {
  std::latch has_been_missed(3);
  in_process(4,
             [&](Communicator& comm) {
               ElasticBuffer buffer(comm);
               const DispatchResult received = buffer.dispatch(everywhere(3));
               if (comm.rank() == 0) {
                 has_been_missed.wait();
                 return;
               }
               try {
                 buffer.combine({.x = received.x, .handle = received.handle});
                 ADD_FAILURE() << "nobody was missed";
               } catch (const TimeoutError& error) {
                 EXPECT_THAT(error.missing_ranks(), ElementsAre(0)) << error.what();
               }
               has_been_missed.count_down();
             },
             {.timeout = 3s, .num_scaleup_ranks = 2});
}

TEST(CrossingTest, HandleOfAnotherModeIsRefused) {
  in_process(
      4,
      [](Communicator& comm) {
        ElasticBuffer hybrid(comm);
        ElasticBuffer direct(comm, {.network = {.allow_hybrid_mode = false}});
        const DispatchResult received = hybrid.dispatch(everywhere(3));
        EXPECT_THAT([&] { direct.combine({.x = received.x, .handle = received.handle}); },
                    ThrowsMessage<InvalidArgument>(HasSubstr("another allow_hybrid_mode")));
        hybrid.combine({.x = received.x, .handle = received.handle});
      },
      kTwoByTwo);
}

TEST(CrossingTest, BuffersOfOneGroupWorkIndependently) {
  in_process(
      4,
      [](Communicator& comm) {
        ElasticBuffer first(comm);
        ElasticBuffer second(comm, {.network = {.allow_hybrid_mode = false}});
        DispatchArgs args = everywhere(20);
        args.async_with_compute_stream = true;
        DispatchResult a = first.dispatch(args);
        DispatchResult b = second.dispatch(args);
        a.event.wait();
        b.event.wait();
        EXPECT_EQ(std::memcmp(a.x.data(), b.x.data(), a.x.num_bytes()), 0);
      },
      kTwoByTwo);
}

}  // namespace
}  // namespace flexep
