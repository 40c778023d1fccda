// SPDX-License-Identifier: Apache-2.0
//
// Every dispatcher and backend does the same with the same routing, on every division of ranks.
#include <gtest/gtest.h>

#include "dispatcher_cases.h"

namespace flexep::moe {
namespace {

using testing::all_dispatchers;
using testing::Batch;
using testing::check_layer;
using testing::config_of;
using testing::DispatcherKind;
using testing::Grid;
using testing::ragged_tokens;
using testing::router_batch;
using testing::Row;

class DispatcherGridTest : public ::testing::TestWithParam<Grid> {
 protected:
  const int num_ranks = GetParam().tp * GetParam().ep;
  Batch batch = router_batch(ragged_tokens(num_ranks), 1);

  // Checks the batch with every dispatcher for which `change` makes a configuration and returns true.
  template <typename Change>
  void check_all(Change&& change) {
    in_process(num_ranks, [&](Communicator& comm) {
      const auto group = std::make_shared<ExpertParallelGroup>(comm);
      for (const DispatcherKind& kind : all_dispatchers()) {
        MoeConfig config = config_of(GetParam(), kind);
        if (change(kind, config)) {
          EXPECT_EQ("", check_layer(config, kind, batch, group));
        }
      }
    });
  }
  void check_all() {
    check_all([](const DispatcherKind&, MoeConfig&) { return true; });
  }
};

TEST_P(DispatcherGridTest, OutputsAndGradientsAreTheSums) {
  check_all();
}

TEST_P(DispatcherGridTest, DenseProbsWithAMapOfFew) {
  for (std::size_t token = 0; token < batch.probs.size(); ++token)
    for (std::size_t expert = 0; expert < 8; ++expert)
      if (batch.routing_map[token][expert] == 0) batch.probs[token][expert] = 0.25;
  check_all();
}

TEST_P(DispatcherGridTest, DenseMapSendsEveryTokenToEveryExpert) {
  for (Row& probs : batch.probs)
    for (double& prob : probs) prob += 0.5;
  for (Row& map : batch.routing_map) map.assign(8, 1);
  check_all();
}

TEST_P(DispatcherGridTest, ZeroProbsHaveGradientsWhereTheyWereSent) {
  for (Row& probs : batch.probs) probs.assign(8, 0);
  check_all();
}

TEST_P(DispatcherGridTest, DroppedPairsGoNowhere) {
  // As a router with a capacity factor leaves them: every third token loses an expert, every fourth all.
  for (std::size_t token = 0; token < batch.probs.size(); ++token) {
    for (std::size_t expert = 0, seen = 0; expert < 8; ++expert) {
      if (batch.routing_map[token][expert] == 0) continue;
      const bool is_dropped = token % 4 == 0 || (token % 3 == 0 && seen == 0);
      ++seen;
      if (is_dropped) batch.routing_map[token][expert] = batch.probs[token][expert] = 0;
    }
  }
  check_all([](const DispatcherKind&, MoeConfig& config) {
    config.moe_expert_capacity_factor = 1.0;
    return true;
  });
}

TEST_P(DispatcherGridTest, AMapThatIsRespectedExcludesPairs) {
  for (std::size_t token = 0; token < batch.probs.size(); token += 2)
    batch.routing_map[token][testing::largest(batch.probs[token], 1)[0]] = 0;
  check_all([](const DispatcherKind&, MoeConfig& config) {
    config.moe_respect_routing_map = true;
    return true;
  });
}

TEST_P(DispatcherGridTest, AllTokensToOneExpert) {
  for (std::size_t token = 0; token < batch.probs.size(); ++token) {
    batch.probs[token] = batch.routing_map[token] = Row(8);
    batch.probs[token][5] = batch.routing_map[token][5] = 1;
  }
  check_all();
}

TEST_P(DispatcherGridTest, LatentRowsAreWhatTravels) {
  check_all([](const DispatcherKind&, MoeConfig& config) {
    config.hidden_size = 16;
    config.moe_latent_size = 4;
    return true;
  });
}

TEST_P(DispatcherGridTest, NoRankHasTokens) {
  batch = router_batch(std::vector<std::int64_t>(static_cast<std::size_t>(num_ranks)), 1);
  check_all();
}

TEST_P(DispatcherGridTest, PaddingForQuantisationChangesNothing) {
  check_all([](const DispatcherKind& kind, MoeConfig& config) {
    config.fp8 = Fp8Format::kE4M3;
    config.moe_router_padding_for_quantization = true;
    return kind.type != TokenDispatcherType::kAllGather;
  });
}

TEST_P(DispatcherGridTest, PaddedExpertsHaveWholeMultiplesOfRowsThatAreZero) {
  in_process(num_ranks, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    for (const DispatcherKind& kind : all_dispatchers()) {
      if (kind.type == TokenDispatcherType::kAllGather) continue;
      MoeConfig config = config_of(GetParam(), kind);
      config.fp8 = Fp8Format::kE4M3;
      config.moe_router_padding_for_quantization = true;
      {  // so that memory which nobody writes is seen
        const Tensor poison = group->buffer().empty({1 << 16}, DType::kFloat64);
        std::ranges::fill(poison.values<double>(), std::numeric_limits<double>::quiet_NaN());
      }
      const auto grouped = testing::run_dispatch(config, batch, group);
      for (const int count : grouped.tokens_per_expert) EXPECT_EQ(count % 16, 0) << kind.name;
      const auto rows = testing::rows_of(grouped.tokens.hidden);
      for (std::size_t row = 0; row < rows.size(); ++row) {
        if (grouped.tokens.probs.data<double>()[row] == 0) {
          EXPECT_EQ(rows[row], Row(4)) << kind.name;
        }
      }
    }
  });
}

TEST_P(DispatcherGridTest, EveryWayOfRunningGivesTheSame) {
  in_process(num_ranks, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    for (const DispatcherKind& kind : all_dispatchers()) {
      for (const bool async : {false, true}) {
        for (const bool allocate : {false, true}) {
          const bool is_refused = kind.backend == FlexDispatcherBackend::kDeepEp && allocate && !async;
          if (kind.is_flex() && is_refused) continue;
          EXPECT_EQ("", check_layer(config_of(GetParam(), kind), kind, batch, group,
                                    {.async_finish = async, .allocate_on_comm_stream = allocate}));
        }
      }
    }
  });
}

TEST_P(DispatcherGridTest, ExpertsGetRowsInOneOrder) {
  const Grid grid = GetParam();
  in_process(num_ranks, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    for (const DispatcherKind& kind : all_dispatchers()) {
      const MoeConfig config = config_of(grid, kind);
      // Source ranks as the dispatcher orders them.
      std::vector<int> sources;
      for (int i = 0; i < num_ranks; ++i) {
        const bool is_tp_major = kind.type == TokenDispatcherType::kAllToAll;
        sources.push_back(is_tp_major ? i % grid.ep * grid.tp + i / grid.ep : i);
      }
      testing::Matrix hidden, probs;
      std::vector<std::int32_t> counts;
      for (int local = 0; local < config.num_local_experts(); ++local) {
        const int expert = comm.rank() / grid.tp * config.num_local_experts() + local;
        const std::size_t before = hidden.size();
        for (const int source : sources) {
          for (std::size_t i = 0;
               i < static_cast<std::size_t>(batch.num_tokens[static_cast<std::size_t>(source)]); ++i) {
            const std::size_t token = batch.first_token(source) + i;
            if (batch.routing_map[token][static_cast<std::size_t>(expert)] == 0) continue;
            hidden.push_back(batch.hidden[token]);
            probs.push_back({batch.probs[token][static_cast<std::size_t>(expert)]});
          }
        }
        counts.push_back(static_cast<std::int32_t>(hidden.size() - before));
      }
      const auto grouped = testing::run_dispatch(config, batch, group);
      EXPECT_TRUE(testing::near(hidden, grouped.tokens.hidden, 0)) << kind.name;
      EXPECT_TRUE(testing::near(probs, grouped.tokens.probs, 0)) << kind.name;
      EXPECT_EQ(counts, grouped.tokens_per_expert) << kind.name;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Grids, DispatcherGridTest,
                         ::testing::Values(Grid{1, 1}, Grid{1, 4}, Grid{4, 1}, Grid{2, 2}, Grid{1, 8},
                                           Grid{8, 1}, Grid{4, 2}),
                         [](const auto& grid) {
                           return fmt::format("Tp{}Ep{}", grid.param.tp, grid.param.ep);
                         });

}  // namespace
}  // namespace flexep::moe
