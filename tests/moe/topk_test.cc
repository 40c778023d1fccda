// SPDX-License-Identifier: Apache-2.0
#include "moe/topk.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/tensors.h"

namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using Ids = std::vector<std::int64_t>;

TEST(TopkTest, LargestComeFirst) {
  const auto values = tensor_of<float>({2, 4}, {1, 4, 2, 3, -1, -2, -3, -4});
  EXPECT_EQ(values_of<std::int64_t>(topk(values, 2)), (Ids{1, 3, 0, 1}));
}

TEST(TopkTest, EqualValuesGoToTheLowestColumn) {
  const auto values = tensor_of<double>({2, 4}, {0, 7, 7, 7, 0, 0, 0, 0});
  EXPECT_EQ(values_of<std::int64_t>(topk(values, 3)), (Ids{1, 2, 3, 0, 1, 2}));
}

TEST(TopkTest, NansAreChosenLast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(values_of<std::int64_t>(topk(tensor_of<float>({1, 4}, {nan, 1, nan, 2}), 4)), (Ids{3, 1, 0, 2}));
}

TEST(TopkTest, NoRowsGiveNoRows) {
  EXPECT_EQ(topk(Tensor::empty({0, 4}, DType::kFloat32), 2).shape(), (Shape{0, 2}));
}

TEST(TopkTest, ScatterIsTheInverseOfGatherAndSkipsMinusOne) {
  const auto idx = tensor_of<std::int64_t>({2, 2}, {2, 0, -1, 1});
  const auto chosen = gather_columns(tensor_of<float>({2, 3}, {1, 2, 3, 4, 5, 6}), idx);
  EXPECT_EQ(values_of<float>(chosen), (std::vector<float>{3, 1, 0, 5}));
  EXPECT_EQ(values_of<float>(scatter_columns(chosen, idx, 3)), (std::vector<float>{1, 0, 3, 0, 5, 0}));
  EXPECT_EQ(values_of<std::int32_t>(multihot(idx, 3)), (std::vector<std::int32_t>{1, 0, 1, 0, 1, 0}));
}

}  // namespace
}  // namespace flexep::moe
