// SPDX-License-Identifier: Apache-2.0
//
// What a dispatcher does over time: many steps, steps that overlap, state that is captured and dropped.
#include <gtest/gtest.h>

#include <future>

#include "dispatcher_cases.h"
#include "flexep/error.h"
#include "flexep/moe/moe_layer.h"

namespace flexep::moe {
namespace {

using testing::all_dispatchers;
using testing::Batch;
using testing::check_layer;
using testing::config_of;
using testing::DispatcherKind;
using testing::Grid;
using testing::map_of;
using testing::rejected_argument;
using testing::router_batch;
using testing::rows_of;
using testing::tokens_of;

// Tokens of each rank in a step: other ones each time, some none, growing far beyond those of the first.
std::vector<std::int64_t> tokens_of_step(int step, int num_ranks) {
  std::vector<std::int64_t> counts;
  for (int rank = 0; rank < num_ranks; ++rank) counts.push_back((step * 7 + rank * 5) % (2 + step / 8));
  return counts;
}

TEST(DispatcherStepsTest, TokenCountsMayChangeDifferAndGrow) {
  const Grid grid{.tp = 2, .ep = 2};
  in_process(4, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    for (int step = 0; step < 200; ++step) {
      const Batch batch = router_batch(tokens_of_step(step, 4), static_cast<std::uint64_t>(step));
      for (const DispatcherKind& kind : all_dispatchers())
        ASSERT_EQ("", check_layer(config_of(grid, kind), kind, batch, group)) << "step " << step;
    }
    // All memory has come back.
    group->buffer().trim();
    EXPECT_EQ(group->buffer().arena_bytes(), 0);
  });
}

TEST(DispatcherStepsTest, AMoeLayerIsTheSameWithEveryDispatcher) {
  in_process(4, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    const Tensor hidden = testing::random_tensor(comm.rank() * 5, 4, 7),
                 grad = testing::random_tensor(comm.rank() * 5, 4, 8);
    testing::Matrix output, grad_hidden, grad_router, grad_fc1;
    for (const DispatcherKind& kind : all_dispatchers()) {
      MoeConfig config = config_of({.tp = 2, .ep = 2}, kind);
      config.moe_router_dtype = DType::kFloat64;
      config.init_method_std = 0.5;
      MoeLayer layer(config, group, /*seed=*/1);
      auto forward = layer.forward(hidden);
      const auto grads = layer.backward(std::move(forward.context), {.output = grad, .aux_loss = 1.0});
      if (output.empty() && grad_router.empty()) {
        output = rows_of(forward.output);
        grad_hidden = rows_of(grads.hidden);
        grad_router = rows_of(grads.parameters.router_weight);
        grad_fc1 = rows_of(grads.parameters.experts.fc1);
      }
      EXPECT_TRUE(testing::near(output, forward.output, 1e-12)) << kind.name;
      EXPECT_TRUE(testing::near(grad_hidden, grads.hidden, 1e-12)) << kind.name;
      EXPECT_TRUE(testing::near(grad_router, grads.parameters.router_weight, 1e-12)) << kind.name;
      EXPECT_TRUE(testing::near(grad_fc1, grads.parameters.experts.fc1, 1e-12)) << kind.name;
    }
  });
}

TEST(DispatcherStepsTest, AnAsynchronousCombineReturnsBeforeOtherRanksCome) {
  const Batch batch = router_batch({5, 3}, 1);
  for (const DispatcherKind& kind : all_dispatchers()) {
    if (!kind.is_deepep_family()) continue;
    std::promise<void> has_returned;
    in_process(2, [&](Communicator& comm) {
      const auto dispatcher = make_token_dispatcher(config_of({.tp = 1, .ep = 2}, kind),
                                                    std::make_shared<ExpertParallelGroup>(comm));
      const auto local =
          dispatcher->dispatch_preprocess(tokens_of(batch, comm.rank()), map_of(batch, comm.rank()));
      const auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local));
      const Tensor partial = dispatcher->combine_preprocess(grouped.tokens.hidden);
      if (comm.rank() == 1) has_returned.get_future().wait();
      const Tensor sums = dispatcher->token_combine(partial);
      if (comm.rank() == 0) has_returned.set_value();
      testing::Matrix twice = batch.share(batch.hidden, comm.rank());
      for (auto& row : twice)
        for (double& value : row) value *= 2;
      EXPECT_TRUE(testing::near(twice, dispatcher->combine_postprocess(sums), 0)) << kind.name;
    });
  }
}

TEST(DispatcherStepsTest, DeepEpNeedsAsyncFinishToAllocateOnTheCommunicationStream) {
  const Batch batch = router_batch({5}, 1);
  const auto& kind = all_dispatchers()[2];
  const auto dispatcher = make_token_dispatcher(config_of({.tp = 1, .ep = 1}, kind),
                                                std::make_shared<ExpertParallelGroup>(Communicator::self()));
  const auto local = dispatcher->dispatch_preprocess(tokens_of(batch, 0), map_of(batch, 0));
  EXPECT_EQ(rejected_argument([&] {
              dispatcher->token_dispatch(local, {.async_finish = false, .allocate_on_comm_stream = true});
            }),
            "allocate_on_comm_stream");
}

TEST(DispatcherStepsTest, EveryDispatcherNamesWhatDoesNotFit) {
  const Batch batch = router_batch({2}, 1);
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  const Tokens tokens = tokens_of(batch, 0);
  const Tensor map = map_of(batch, 0);
  for (const DispatcherKind& kind : all_dispatchers()) {
    const auto dispatcher = make_token_dispatcher(config_of({.tp = 1, .ep = 1}, kind), group);
    const auto reject = [&](const Tensor& hidden, const Tensor& probs, const Tensor& routing_map) {
      return rejected_argument(
          [&] { dispatcher->dispatch_preprocess({.hidden = hidden, .probs = probs}, routing_map); });
    };
    EXPECT_EQ(reject(tokens.probs, tokens.probs, map), "hidden") << kind.name;
    EXPECT_EQ(reject(tokens.hidden, tokens.hidden, map), "probs") << kind.name;
    EXPECT_EQ(reject(tokens.hidden, tokens.probs, tokens.probs), "routing_map") << kind.name;
    EXPECT_EQ(reject(tokens.hidden, tokens.probs, map), "") << kind.name;
  }
}

TEST(DispatcherStepsTest, CapturedAttributesReplaceWhatPreprocessLeft) {
  const Batch batch = router_batch({6}, 1);
  Batch other = batch;
  std::reverse(other.probs.begin(), other.probs.end());
  std::reverse(other.routing_map.begin(), other.routing_map.end());
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  for (const DispatcherKind& kind : all_dispatchers()) {
    if (!kind.is_flex()) continue;
    const MoeConfig config = config_of({.tp = 1, .ep = 1}, kind);
    const auto captured = make_token_dispatcher(config, group),
               replayed = make_token_dispatcher(config, group);
    const auto expected = captured->dispatch_preprocess(tokens_of(batch, 0), map_of(batch, 0));
    replayed->dispatch_preprocess(tokens_of(other, 0), map_of(other, 0));
    const std::string second = kind.reads_map() ? "_comm_manager.routing_map" : "_comm_manager.token_indices";
    for (const std::string& path : {std::string("_comm_manager.token_probs"), second}) {
      ASSERT_TRUE(captured->get_cudagraph_attr(path)) << kind.name << " " << path;
      replayed->set_cudagraph_attr(path, captured->get_cudagraph_attr(path));
    }
    const auto a = captured->dispatch_postprocess(captured->token_dispatch(expected));
    const auto b =
        replayed->dispatch_postprocess(replayed->token_dispatch({.hidden = expected.hidden, .probs = {}}));
    EXPECT_EQ(a.tokens_per_expert, b.tokens_per_expert) << kind.name;
    EXPECT_TRUE(testing::near(testing::rows_of(a.tokens.hidden), b.tokens.hidden, 0)) << kind.name;
    EXPECT_TRUE(testing::near(testing::rows_of(a.tokens.probs), b.tokens.probs, 0)) << kind.name;
  }
}

TEST(DispatcherStepsTest, AMissingHopOfAPathIsNoAttribute) {
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  for (const DispatcherKind& kind : all_dispatchers()) {
    const auto dispatcher = make_token_dispatcher(config_of({.tp = 1, .ep = 1}, kind), group);
    for (const char* path :
         {"", "token_probs", "_comm_manager", "_comm_manager.nothing", "shared_experts.x"}) {
      EXPECT_FALSE(dispatcher->get_cudagraph_attr(path)) << kind.name << " " << path;
      EXPECT_EQ(rejected_argument([&] { dispatcher->set_cudagraph_attr(path, {}); }), "path");
    }
  }
}

TEST(DispatcherStepsTest, AResetDropsTheForwardAndItsMemory) {
  const Batch batch = router_batch({6}, 1);
  for (const DispatcherKind& kind : all_dispatchers()) {
    const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
    const auto dispatcher = make_token_dispatcher(config_of({.tp = 1, .ep = 1}, kind), group);
    const auto forward = [&] {
      const auto local = dispatcher->dispatch_preprocess(tokens_of(batch, 0), map_of(batch, 0));
      return dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local, kSynchronous));
    };
    forward();
    dispatcher->reset_transient_forward_state();
    group->buffer().trim();
    EXPECT_EQ(group->buffer().arena_bytes(), 0) << kind.name;
    if (kind.is_flex()) {
      EXPECT_THROW(dispatcher->token_combine(tokens_of(batch, 0).hidden), InvalidArgument) << kind.name;
    }
    EXPECT_EQ(forward().tokens.hidden.size(0), 12) << kind.name;  // and can begin anew
  }
}

}  // namespace
}  // namespace flexep::moe
