// SPDX-License-Identifier: Apache-2.0
//
// Every dispatcher and backend does the same with the same routing, on every division of ranks.
#include <gtest/gtest.h>

#include <tuple>

#include "dispatcher_cases.h"
#include "dispatcher_situations.h"

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
using testing::Situation;

class DispatcherGridTest : public ::testing::TestWithParam<Grid> {
 protected:
  const int num_ranks = GetParam().tp * GetParam().ep;
  Batch batch = router_batch(ragged_tokens(num_ranks), 1);
};

class DispatcherSituationTest : public ::testing::TestWithParam<std::tuple<Grid, Situation>> {};

TEST_P(DispatcherSituationTest, OutputsAndGradientsAreTheSums) {
  const auto& [grid, situation] = GetParam();
  const int num_ranks = grid.tp * grid.ep;
  const Batch batch = router_batch(ragged_tokens(num_ranks), 1);
  in_process(num_ranks, [&, &grid = grid, &situation = situation](Communicator& comm) {
    EXPECT_EQ("",
              testing::check_situation(grid, situation, batch, std::make_shared<ExpertParallelGroup>(comm)));
  });
}

// The recipes of quantisation, with what rows are a multiple of.
std::vector<std::pair<int, MoeConfig>> padded_configs(const Grid& grid, const DispatcherKind& kind) {
  MoeConfig config = config_of(grid, kind);
  config.moe_router_padding_for_quantization = true;
  MoeConfig fp8 = config, mxfp8 = config, fp4 = config, fused = config;
  fp8.fp8 = Fp8Format::kE4M3;
  mxfp8.fp8 = Fp8Format::kE4M3;
  mxfp8.fp8_recipe = Fp8Recipe::kMxFp8;
  fp4.fp4 = Fp4Format::kE2M1;
  fused.fp8 = Fp8Format::kE4M3;
  fused.use_transformer_engine_op_fuser = true;
  // Room for what fills up every expert.
  for (MoeConfig* each : {&fp8, &mxfp8, &fp4, &fused})
    if (each->moe_expert_rank_capacity_factor) each->moe_expert_rank_capacity_factor = 32 * grid.tp * grid.ep;
  return {{16, fp8}, {32, mxfp8}, {128, fp4}, {256, fused}};
}

TEST_P(DispatcherGridTest, PaddedExpertsHaveWholeMultiplesOfRowsThatAreZero) {
  in_process(num_ranks, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    for (const DispatcherKind& kind : all_dispatchers()) {
      if (kind.type == TokenDispatcherType::kAllGather) continue;
      for (const auto& [multiple, config] : padded_configs(GetParam(), kind)) {
        {  // so that memory which nobody writes is seen
          const Tensor poison = group->buffer().empty({1 << 16}, DType::kFloat64);
          std::ranges::fill(poison.values<double>(), std::numeric_limits<double>::quiet_NaN());
        }
        const auto grouped = testing::run_dispatch(config, batch, group);
        for (const int count : grouped.tokens_per_expert)
          EXPECT_EQ(count % multiple, 0) << kind.name << ", " << multiple;
        const auto rows = testing::rows_of(grouped.tokens.hidden);
        for (std::size_t row = 0; row < rows.size(); ++row) {
          if (grouped.tokens.probs.data<double>()[row] == 0) {
            EXPECT_EQ(rows[row], Row(4)) << kind.name << ", " << multiple;
          }
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

const auto kGrids =
    ::testing::Values(Grid{1, 1}, Grid{1, 4}, Grid{4, 1}, Grid{2, 2}, Grid{1, 8}, Grid{8, 1}, Grid{4, 2});

INSTANTIATE_TEST_SUITE_P(Grids, DispatcherGridTest, kGrids, [](const auto& grid) {
  return fmt::format("Tp{}Ep{}", grid.param.tp, grid.param.ep);
});
std::string name_of_case(const ::testing::TestParamInfo<std::tuple<Grid, Situation>>& params) {
  const auto& [grid, situation] = params.param;
  return fmt::format("Tp{}Ep{}{}", grid.tp, grid.ep, situation.name);
}

INSTANTIATE_TEST_SUITE_P(Grids, DispatcherSituationTest,
                         ::testing::Combine(kGrids, ::testing::ValuesIn(testing::all_situations())),
                         name_of_case);

}  // namespace
}  // namespace flexep::moe
