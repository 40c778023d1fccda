// SPDX-License-Identifier: Apache-2.0
//
// What `flexep plan` expects is what buffers count.
#include <gtest/gtest.h>

#include <mutex>

#include "flexep/flexep.h"
#include "plan/expert_sampler.h"
#include "plan/load.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using tool::Operation;
using tool::PlanInputs;
using tool::RankLoad;
using tool::Variant;

constexpr PlanInputs kInputs{.num_scaleout_ranks = 2,
                             .num_scaleup_ranks = 2,
                             .num_experts = 16,
                             .num_topk = 4,
                             .num_tokens = 2000,
                             .hidden = 16,
                             .dtype = DType::kFloat32,
                             .machine = {}};

struct Counted {
  OperationCounters dispatch;
  OperationCounters combine;
};

/// Sums over ranks of one dispatch and one combine of a uniform routing.
Counted run(const Variant& variant) {
  Counted counted;
  std::mutex mutex;
  in_process(
      kInputs.num_ranks(),
      [&](Communicator& comm) {
        std::vector<std::int64_t> ids(static_cast<std::size_t>(kInputs.num_tokens * kInputs.num_topk));
        tool::ExpertSampler sampler(kInputs.num_experts, 0, static_cast<std::uint64_t>(comm.rank()));
        for (std::size_t i = 0; i < ids.size(); i += static_cast<std::size_t>(kInputs.num_topk))
          sampler.draw(std::span(ids).subspan(i, static_cast<std::size_t>(kInputs.num_topk)));
        ElasticBuffer buffer(comm, {.allow_multiple_reduction = variant.allow_multiple_reduction,
                                    .network = {.allow_hybrid_mode = variant.is_hybrid}});
        const auto recv = buffer.dispatch(
            {.x = Tensor::zeros({kInputs.num_tokens, kInputs.hidden}, kInputs.dtype),
             .topk_idx = Tensor::from_values<std::int64_t>(ids, {kInputs.num_tokens, kInputs.num_topk}),
             .num_experts = kInputs.num_experts,
             .do_expand = variant.do_expand});
        buffer.combine({.x = recv.x, .handle = recv.handle});
        const std::lock_guard lock(mutex);
        counted.dispatch += buffer.counters().last_dispatch;
        counted.combine += buffer.counters().last_combine;
      },
      {.num_scaleup_ranks = kInputs.num_scaleup_ranks});
  return counted;
}

class PlanCountersTest : public ::testing::TestWithParam<Variant> {};

TEST_P(PlanCountersTest, RowsByLevelAreThoseThatWerePlanned) {
  const Variant& variant = GetParam();
  const Counted counted = run(variant);
  const OperationCounters& rows =
      variant.operation == Operation::kDispatch ? counted.dispatch : counted.combine;
  const RankLoad planned = tool::uniform_load(kInputs, variant).mean;
  const auto expect_near = [](std::int64_t counted_rows, double planned_rows) {
    EXPECT_NEAR(static_cast<double>(counted_rows) / kInputs.num_ranks(), planned_rows, 0.05 * planned_rows);
  };
  expect_near(rows.num_rows_local, planned.local);
  expect_near(rows.num_rows_scaleup, planned.scaleup);
  expect_near(rows.num_rows_scaleout, planned.scaleout);
}

INSTANTIATE_TEST_SUITE_P(Variants, PlanCountersTest, ::testing::ValuesIn(tool::all_variants(true)),
                         [](const auto& tested) { return std::to_string(tested.index); });

}  // namespace
}  // namespace flexep
