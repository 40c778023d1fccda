// SPDX-License-Identifier: Apache-2.0
//
// That `flexep bench` would notice a wrong row: its figures are worth as much as this check.
#include <gtest/gtest.h>

#include "bench/row_check.h"

namespace flexep::tool {
namespace {

BenchOptions small_bench(const std::string& layout) {
  BenchOptions options;
  options.num_ranks = 2;
  options.num_tokens = 9;
  options.hidden = 16;
  options.num_topk = 3;
  options.num_experts = 8;
  options.layout = layout;
  return options;
}

/// What rank 1 receives, made from the rows that the ranks send.
class RowCheckTest : public ::testing::TestWithParam<std::string> {
 protected:
  RowCheckTest() : options_(small_bench(GetParam())), workload_(options_), check_(options_, workload_, 1) {
    std::vector<Tensor> inputs;
    for (int rank = 0; rank < options_.num_ranks; ++rank) {
      inputs.push_back(Tensor::empty({options_.num_tokens, options_.hidden}, DType::kBFloat16));
      RowCheck(options_, workload_, rank).write_inputs(inputs.back());
    }
    const auto& origins = workload_.received_by(1);
    received_.x =
        Tensor::empty({static_cast<std::int64_t>(origins.size()), options_.hidden}, DType::kBFloat16);
    for (std::size_t row = 0; row < origins.size(); ++row) {
      const auto* sent = inputs[static_cast<std::size_t>(origins[row].src_rank)].data<BFloat16>();
      std::copy_n(sent + origins[row].token * options_.hidden, options_.hidden,
                  received_.x.data<BFloat16>() + static_cast<std::ptrdiff_t>(row) * options_.hidden);
    }
  }

  BenchOptions options_;
  Workload workload_;
  RowCheck check_;
  DispatchResult received_;
};

TEST_P(RowCheckTest, RightRowsPass) {
  EXPECT_EQ(check_.check_dispatch(received_), std::nullopt);
}

TEST_P(RowCheckTest, OneWrongElementIsFound) {
  BFloat16& element = received_.x.data<BFloat16>()[3 * options_.hidden + 5];
  element = BFloat16(static_cast<float>(element) + 1);
  const Finding finding = check_.check_dispatch(received_);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->substr(0, 15), "row 3, column 5");
}

TEST_P(RowCheckTest, RowsInTheWrongOrderAreFound) {
  BFloat16* rows = received_.x.data<BFloat16>();
  std::swap_ranges(rows, rows + options_.hidden, rows + options_.hidden);
  EXPECT_TRUE(check_.check_dispatch(received_));
}

TEST_P(RowCheckTest, AMissingRowIsFound) {
  received_.x = received_.x.rows(0, received_.x.size(0) - 1);
  EXPECT_TRUE(check_.check_dispatch(received_));
}

INSTANTIATE_TEST_SUITE_P(Layouts, RowCheckTest, ::testing::Values("compact", "expanded"),
                         [](const auto& layout) { return layout.param; });

TEST(WorkloadTest, EveryPlaceIsNamedOnceAndHoldsItsToken) {
  for (const char* layout : {"compact", "expanded"}) {
    const BenchOptions options = small_bench(layout);
    const Workload workload(options);
    std::size_t num_places = 0;
    for (int rank = 0; rank < options.num_ranks; ++rank) {
      const auto places = workload.places_of(rank);
      for (std::size_t token = 0; token < places.size(); ++token) {
        for (const RowPlace& place : places[token]) {
          const RowOrigin& origin = workload.received_by(place.rank)[static_cast<std::size_t>(place.row)];
          EXPECT_EQ(origin.src_rank, rank);
          EXPECT_EQ(origin.token, static_cast<int>(token));
          ++num_places;
        }
      }
    }
    EXPECT_EQ(num_places, workload.received_by(0).size() + workload.received_by(1).size());
  }
}

TEST(WorkloadTest, ZipfRoutingPrefersTheFirstExperts) {
  BenchOptions options = small_bench("compact");
  options.num_tokens = 500;
  options.routing = "zipf:2";
  const Workload workload(options);
  std::vector<int> num_chosen(8);
  for (const std::int64_t expert : workload.topk_idx(0)) ++num_chosen[static_cast<std::size_t>(expert)];
  EXPECT_GT(num_chosen[0], 400);
  EXPECT_LT(num_chosen[7], 100);
}

}  // namespace
}  // namespace flexep::tool
