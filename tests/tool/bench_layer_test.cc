// SPDX-License-Identifier: Apache-2.0
//
// That `flexep bench --ops layer` would notice a wrong row of an output or a gradient.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "bench/layer_check.h"

namespace flexep::tool {
namespace {

constexpr int kHidden = 32;

LayerValues some_values(DType dtype) {
  const auto parameter = [](const Shape& shape) { return normal_tensor(shape, DType::kFloat32, 5); };
  return {.output = normal_tensor({9, kHidden}, dtype, 1),
          .gradients = {.hidden = normal_tensor({9, kHidden}, dtype, 2),
                        .parameters = {
                            .router_weight = parameter({4, kHidden}),
                            .experts = {.fc1 = parameter({2, 6, kHidden}), .fc2 = parameter({2, kHidden, 3})},
                            .latent = {.down = Tensor(), .up = Tensor()},
                            .shared_expert = {.fc1 = Tensor(), .fc2 = Tensor(), .gate = Tensor()}}}};
}

Finding compare(const LayerValues& got) {
  BenchOptions options;
  options.hidden = kHidden;
  options.num_topk = 3;
  return compare_layers(options, some_values(got.output.dtype()), got);
}

TEST(LayerCheckTest, TheSameValuesPass) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32, DType::kFloat64})
    EXPECT_EQ(compare(some_values(dtype)), std::nullopt);
}

TEST(LayerCheckTest, AnOutputRowOfAnotherTokenIsFound) {
  const LayerValues values = some_values(DType::kBFloat16);
  BFloat16* rows = values.output.data<BFloat16>();
  std::copy_n(rows, kHidden, rows + 4 * kHidden);
  const Finding finding = compare(values);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->substr(0, 13), "output, row 4");
}

TEST(LayerCheckTest, AGradientThatIsSlightlyOffIsFound) {
  const LayerValues values = some_values(DType::kBFloat16);
  const Tensor& fc2 = values.gradients.parameters.experts.fc2;
  for (float& value : fc2.rows(1, 2).values<float>()) value *= 1.001F;
  const Finding finding = compare(values);
  ASSERT_TRUE(finding);
  EXPECT_EQ(finding->substr(0, 24), "gradient of fc2, row 32:");
}

TEST(LayerCheckTest, NaNIsFound) {
  const LayerValues values = some_values(DType::kFloat32);
  const Tensor& hidden = values.gradients.hidden;
  hidden.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(compare(values));
}

}  // namespace
}  // namespace flexep::tool
