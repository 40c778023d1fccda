// SPDX-License-Identifier: Apache-2.0
//
// Dispatch without host sync: the caller waits for nothing, outputs have the bound's rows, errors come later.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "flexep/flexep.h"
#include "flexep/reference.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using testing::tensor_of;
using testing::values_of;

constexpr int kNumTopk = 3;
constexpr int kHidden = 16;
constexpr int kMaxTokens = 12;  // N

int num_experts_of(int num_ranks) {
  return 4 * num_ranks;
}

/// Rank r has 5 + 2 r tokens; a third of the pairs goes nowhere.
reference::RankInput input_of(int rank, int num_ranks) {
  const int num_tokens = std::min(5 + 2 * rank, kMaxTokens);
  reference::RankInput input{.x = Tensor::empty({num_tokens, kHidden}, DType::kFloat32),
                             .topk_idx = Tensor::empty({num_tokens, kNumTopk}, DType::kInt64),
                             .topk_weights = Tensor::empty({num_tokens, kNumTopk}, DType::kFloat32)};
  for (int i = 0; i < num_tokens * kHidden; ++i)
    input.x.data<float>()[i] = static_cast<float>(1000 * rank + i);
  for (int i = 0; i < num_tokens * kNumTopk; ++i) {
    const int token = i / kNumTopk, column = i % kNumTopk;
    const bool is_routed = (token + 2 * column + rank) % 3 != 0;
    input.topk_idx.data<std::int64_t>()[i] =
        is_routed ? (token * 5 + column * 3 + rank) % num_experts_of(num_ranks) : -1;
    input.topk_weights.data<float>()[i] = static_cast<float>(rank + 1) + 0.25F * static_cast<float>(i);
  }
  return input;
}

std::vector<reference::RankInput> all_inputs(int num_ranks) {
  std::vector<reference::RankInput> inputs;
  for (int rank = 0; rank < num_ranks; ++rank) inputs.push_back(input_of(rank, num_ranks));
  return inputs;
}

DispatchArgs args_of(const Communicator& comm) {
  const auto input = input_of(comm.rank(), comm.num_ranks());
  return {.x = input.x,
          .topk_idx = input.topk_idx,
          .topk_weights = input.topk_weights,
          .num_experts = num_experts_of(comm.num_ranks()),
          .do_cpu_sync = false};
}

ElasticBuffer make_buffer(const Communicator& comm) {
  // The largest of what ranks pass counts.
  return ElasticBuffer(comm, {.num_max_tokens_per_rank = comm.rank() == 0 ? kMaxTokens : 1});
}

/// Rows [begin, end) are the same, bit for bit.
void expect_same_rows(const Tensor& expected, const Tensor& got, std::int64_t begin, std::int64_t end) {
  ASSERT_EQ(expected.defined(), got.defined());
  if (!expected) return;
  const Tensor a = expected.rows(begin, end), b = got.rows(begin, end);
  ASSERT_EQ(a.shape(), b.shape());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.num_bytes()), 0) << "rows " << begin << " to " << end;
}

struct Layout {
  bool do_expand;
  int expert_alignment;
  int max_recv_tokens;
  bool is_async;
};

class NoSyncTest : public ::testing::TestWithParam<std::tuple<int, Layout>> {};

void expect_reference_rows(const reference::RankOutput& expected, const DispatchResult& got, bool do_expand) {
  const auto num_tokens = expected.recv_src_metadata.size(0);
  if (!do_expand) {
    expect_same_rows(expected.x, got.x, 0, num_tokens);
    expect_same_rows(expected.topk_idx, got.topk_idx, 0, num_tokens);
    expect_same_rows(expected.topk_weights, got.topk_weights, 0, num_tokens);
    return;
  }
  for (std::size_t i = 0; i < expected.num_recv_tokens_per_expert.size(); ++i) {
    const int begin = got.handle.expert_start_rows()[i];
    const int end = begin + expected.num_recv_tokens_per_expert[i];
    expect_same_rows(expected.x, got.x, begin, end);
    expect_same_rows(expected.topk_weights, got.topk_weights, begin, end);
  }
}

void expect_reference_handle(const reference::RankOutput& expected, const DispatchHandle& handle) {
  const auto values = [](std::span<const std::int32_t> span) {
    return std::vector<std::int32_t>(span.begin(), span.end());
  };
  EXPECT_EQ(values(handle.num_recv_tokens_per_expert()), expected.num_recv_tokens_per_expert);
  EXPECT_EQ(values(handle.num_dropped_tokens()), expected.num_dropped_tokens);
  EXPECT_EQ(values(handle.psum_num_recv_tokens_per_expert()), expected.psum_num_recv_tokens_per_expert);
  EXPECT_EQ(values(handle.psum_num_recv_tokens_per_rank()), expected.psum_num_recv_tokens_per_rank);
  EXPECT_TRUE(handle.num_aligned_recv_tokens_per_expert().empty());
  const Tensor& metadata = handle.recv_src_metadata();
  EXPECT_EQ(metadata.shape(), (Shape{handle.num_recv_tokens(), kNumTopk + 2}));
  for (std::int64_t row = 0; row < expected.recv_src_metadata.size(0); ++row) {
    EXPECT_EQ(metadata.data<std::int32_t>()[row * (kNumTopk + 2)],
              expected.recv_src_metadata.data<std::int32_t>()[row * (kNumTopk + 2)]);
  }
}

TEST_P(NoSyncTest, RowsThatArriveAndWhatCombineMakesOfThemAreTheReferences) {
  const auto [num_ranks, layout] = GetParam();
  const auto inputs = all_inputs(num_ranks);
  const reference::DispatchOptions options{
      .num_experts = num_experts_of(num_ranks),
      .expert_alignment = layout.expert_alignment,
      .do_expand = layout.do_expand,
      .num_max_tokens_per_rank = kMaxTokens,
      .max_recv_tokens = std::vector<int>(inputs.size(), layout.max_recv_tokens)};
  const auto expected = reference::dispatch(inputs, options);
  std::vector<reference::CombineInput> expert_outputs;
  for (const auto& output : expected)
    expert_outputs.push_back({.x = output.x, .topk_weights = output.topk_weights, .bias = {}});
  const auto combined = reference::combine(inputs, options, expert_outputs, {});

  in_process(num_ranks, [&, layout = layout](Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    ElasticBuffer buffer = make_buffer(comm);
    DispatchArgs args = args_of(comm);
    args.do_expand = layout.do_expand;
    args.expert_alignment = layout.expert_alignment;
    args.max_recv_tokens = layout.max_recv_tokens;
    args.async_with_compute_stream = layout.is_async;
    const auto recv = buffer.dispatch(args);
    if (layout.is_async) recv.event.wait();

    const int most = comm.num_ranks() * kMaxTokens;
    const int num_expanded = (3 * most + (layout.expert_alignment - 1) * 4 + layout.expert_alignment - 1) /
                             layout.expert_alignment * layout.expert_alignment;
    const int bound = layout.do_expand ? num_expanded : most;
    EXPECT_EQ(recv.x.size(0), layout.max_recv_tokens > 0 ? std::min(bound, layout.max_recv_tokens) : bound);
    EXPECT_EQ(recv.handle.num_rows(), recv.x.size(0));
    EXPECT_EQ(recv.handle.num_max_tokens_per_rank(), kMaxTokens);
    expect_reference_rows(expected[rank], recv, layout.do_expand);
    expect_reference_handle(expected[rank], recv.handle);

    DispatchArgs again{.x = args.x, .topk_weights = args.topk_weights, .handle = recv.handle};
    again.async_with_compute_stream = layout.is_async;
    const auto cached = buffer.dispatch(again);
    if (layout.is_async) cached.event.wait();
    EXPECT_EQ(cached.x.shape(), recv.x.shape());
    expect_reference_rows(expected[rank], cached, layout.do_expand);

    // In place, and from memory that has to be staged.
    for (const Tensor& x : {recv.x, recv.x.clone()}) {
      const auto out = buffer.combine({.x = x, .handle = recv.handle, .topk_weights = recv.topk_weights});
      expect_same_rows(combined[rank].x, out.x, 0, args.x.size(0));
      expect_same_rows(combined[rank].topk_weights, out.topk_weights, 0, args.x.size(0));
    }
    buffer.check();
  });
}

INSTANTIATE_TEST_SUITE_P(
    All, NoSyncTest,
    ::testing::Combine(::testing::Values(1, 2, 3),
                       ::testing::Values(Layout{false, 1, 0, false}, Layout{false, 4, 0, true},
                                         Layout{false, 1, 7, false}, Layout{true, 1, 0, true},
                                         Layout{true, 4, 0, false}, Layout{true, 4, 16, true})));

TEST(NoSyncDispatchTest, ReturnsBeforeOtherRanksComeAndKnowsItsCountsLater) {
  std::atomic<bool> rank0_has_returned{false};
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer = make_buffer(comm);
    DispatchArgs args = args_of(comm);
    args.async_with_compute_stream = true;
    while (comm.rank() == 1 && !rank0_has_returned) std::this_thread::yield();
    const auto recv = buffer.dispatch(args);
    if (comm.rank() == 0) {
      EXPECT_FALSE(recv.event.is_done());
      EXPECT_EQ(recv.x.size(0), 2 * kMaxTokens);
      EXPECT_EQ(recv.handle.num_recv_tokens(), 2 * kMaxTokens);
      EXPECT_THROW(recv.handle.psum_num_recv_tokens_per_rank(), InvalidArgument);
      EXPECT_THROW(recv.handle.topk_idx(), InvalidArgument);
      rank0_has_returned = true;
    }
    recv.event.wait();
    EXPECT_LT(recv.handle.psum_num_recv_tokens_per_rank().back(), 2 * kMaxTokens);
    EXPECT_EQ(values_of<std::int64_t>(recv.handle.topk_idx()), values_of<std::int64_t>(args.topk_idx));
  });
}

TEST(NoSyncDispatchTest, CachedDispatchReturnsBeforeOtherRanksComeWhateverItsHandle) {
  std::atomic<bool> rank0_has_returned{false};
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = args_of(comm);
    args.do_cpu_sync = true;
    const auto first = buffer.dispatch(args);
    while (comm.rank() == 1 && !rank0_has_returned) std::this_thread::yield();
    const auto cached =
        buffer.dispatch({.x = args.x, .handle = first.handle, .async_with_compute_stream = true});
    if (comm.rank() == 0) {
      EXPECT_FALSE(cached.event.is_done());
      rank0_has_returned = true;
    }
    cached.event.wait();
    expect_same_rows(first.x, cached.x, 0, first.x.size(0));
    EXPECT_EQ(first.x.size(0), cached.x.size(0));
  });
}

TEST(NoSyncDispatchTest, OperationsMayBeQueuedOnAHandleThatIsNotDone) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer = make_buffer(comm);
    DispatchArgs args = args_of(comm);
    args.async_with_compute_stream = true;
    const auto recv = buffer.dispatch(args);
    const auto cached =
        buffer.dispatch({.x = args.x, .handle = recv.handle, .async_with_compute_stream = true});
    const auto out =
        buffer.combine({.x = cached.x, .handle = recv.handle, .async_with_compute_stream = true});
    out.event.wait();
    const auto expected = buffer.combine({.x = recv.x, .handle = recv.handle});
    expect_same_rows(expected.x, out.x, 0, args.x.size(0));
  });
}

/// What `rank` throws when it calls `report`: InvalidArgument that blames `argument` on rank 1, PeerError
/// that names rank 1 elsewhere.
void expect_report(int rank, const std::function<void()>& report, const std::string& argument) {
  try {
    report();
    ADD_FAILURE() << "no error on rank " << rank;
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(rank, 1);
    EXPECT_EQ(error.argument(), argument);
  } catch (const PeerError& error) {
    EXPECT_NE(rank, 1);
    EXPECT_EQ(error.rank(), 1);
  }
}

/// A mistake that only data tell, and the argument that it is about.
struct Mistake {
  const char* argument;
  std::function<void(DispatchArgs&)> make;
};

const std::vector<Mistake> kMistakes = {
    {"topk_idx", [](DispatchArgs& args) { args.topk_idx.data<std::int64_t>()[4] = 99; }},
    {"topk_idx",
     [](DispatchArgs& args) {
       args.topk_idx.data<std::int64_t>()[0] = args.topk_idx.data<std::int64_t>()[1] = 2;
     }},
    {"num_max_tokens_per_rank",
     [](DispatchArgs& args) {
       args.x = Tensor::zeros({kMaxTokens + 1, kHidden}, DType::kFloat32);
       args.topk_idx = Tensor::zeros({kMaxTokens + 1, kNumTopk}, DType::kInt64);
       args.topk_weights = Tensor::zeros({kMaxTokens + 1, kNumTopk}, DType::kFloat32);
     }},
    {"topk_weights",
     [](DispatchArgs& args) {
       args.check_weights = true;
       std::ranges::fill(args.topk_weights.values<float>(), std::numeric_limits<float>::quiet_NaN());
     }},
};

TEST(NoSyncErrorsTest, WhatOnlyDataTellIsReportedByCheckAndRoutesNothing) {
  for (const Mistake& mistake : kMistakes) {
    in_process(3, [&](Communicator& comm) {
      ElasticBuffer buffer = make_buffer(comm);
      DispatchArgs args = args_of(comm);
      if (comm.rank() == 1) mistake.make(args);
      args.cumulative_local_expert_recv_stats = Tensor::zeros({4}, DType::kInt32);
      const auto recv = buffer.dispatch(args);
      EXPECT_EQ(recv.handle.psum_num_recv_tokens_per_rank().back(), 0);
      EXPECT_EQ(values_of<std::int32_t>(args.cumulative_local_expert_recv_stats),
                std::vector<std::int32_t>(4));

      // Nobody wrote, and combine finds nothing to sum.
      std::memset(recv.x.data(), 1, recv.x.num_bytes());
      const auto cached =
          buffer.dispatch({.x = args.x, .topk_weights = args.topk_weights, .handle = recv.handle});
      const auto out =
          buffer.combine({.x = recv.x, .handle = recv.handle, .topk_weights = recv.topk_weights});
      EXPECT_EQ(values_of<float>(out.x), std::vector<float>(static_cast<std::size_t>(args.x.num_elements())));
      for (const float weight : out.topk_weights.values<float>()) EXPECT_EQ(weight, 0.0F);

      expect_report(
          comm.rank(), [&] { buffer.check(); }, mistake.argument);
      buffer.check();  // once
      EXPECT_GT(buffer.dispatch(args_of(comm)).handle.psum_num_recv_tokens_per_rank().back(), 0);
    });
  }
}

TEST(NoSyncErrorsTest, TheFirstOfSeveralErrorsIsKeptForTheNextCallThatWaitsForTheHost) {
  for (const bool by_barrier : {false, true}) {
    in_process(3, [&](Communicator& comm) {
      ElasticBuffer buffer = make_buffer(comm);
      for (const std::size_t i : {2U, 0U}) {
        DispatchArgs args = args_of(comm);
        if (comm.rank() == 1) kMistakes[i].make(args);
        args.async_with_compute_stream = true;
        buffer.dispatch(args).event.wait();
      }
      DispatchArgs args = args_of(comm);
      args.do_cpu_sync = true;
      const auto report = [&] { by_barrier ? buffer.barrier() : static_cast<void>(buffer.dispatch(args)); };
      expect_report(comm.rank(), report, kMistakes[2].argument);
      report();
    });
  }
}

TEST(NoSyncErrorsTest, RanksThatHaveHeardOfAnErrorStayInStepWithThoseThatHaveNot) {
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer = make_buffer(comm);
    DispatchArgs args = args_of(comm);
    if (comm.rank() == 1) kMistakes[0].make(args);
    buffer.dispatch(args);
    if (comm.rank() == 1) {
      EXPECT_THROW(buffer.check(), InvalidArgument);
    }
    // Rank 0 has not checked: its error reaches rank 1 again, and both go on.
    EXPECT_THROW(buffer.barrier(), PeerError);
    buffer.barrier();
  });
}

TEST(NoSyncErrorsTest, MistakesThatTheHostSeesAreThrownAtOnceAndToldToTheOthers) {
  for (const bool is_async : {false, true}) {
    in_process(3, [&](Communicator& comm) {
      ElasticBuffer buffer = make_buffer(comm);
      DispatchArgs args = args_of(comm);
      args.async_with_compute_stream = is_async;
      if (comm.rank() == 1) {
        args.topk_idx = Tensor::zeros({1, kNumTopk}, DType::kInt64);
        EXPECT_THROW(buffer.dispatch(args), InvalidArgument);
        buffer.check();
      } else {
        buffer.dispatch(args);
        EXPECT_THROW(buffer.check(), PeerError);
      }
      buffer.dispatch(args_of(comm));
      buffer.check();
    });
  }
}

void expect_refused(const std::function<void(ElasticBuffer&, DispatchArgs)>& call,
                    const std::string& argument, const std::string& part) {
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer = make_buffer(comm);
    try {
      call(buffer, args_of(comm));
      ADD_FAILURE() << "no error";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), argument);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  });
}

TEST(NoSyncErrorsTest, IllegalArgumentsSayWhy) {
  expect_refused(
      [](ElasticBuffer& buffer, DispatchArgs args) {
        const auto recv = buffer.dispatch(args);
        buffer.dispatch({.x = args.x, .handle = recv.handle, .do_cpu_sync = true});
      },
      "do_cpu_sync", "handle");
  expect_refused(
      [](ElasticBuffer& buffer, DispatchArgs args) {
        args.num_max_tokens_per_rank = kMaxTokens + 5;
        buffer.dispatch(args);
      },
      "num_max_tokens_per_rank", "17");
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    EXPECT_THROW(buffer.dispatch(args_of(comm)), InvalidArgument);
  });
}

TEST(NoSyncErrorsTest, RanksOfDifferentModesDisagree) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer = make_buffer(comm);
    DispatchArgs args = args_of(comm);
    args.do_cpu_sync = comm.rank() == 0;
    if (comm.rank() == 0) {
      EXPECT_THROW(buffer.dispatch(args), CollectiveMismatch);
    } else {
      buffer.dispatch(args);
      EXPECT_THROW(buffer.check(), CollectiveMismatch);
    }
    buffer.barrier();
  });
}

}  // namespace
}  // namespace flexep
