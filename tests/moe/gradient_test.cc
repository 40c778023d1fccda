// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/gradient.h"

#include <gtest/gtest.h>

#include <type_traits>

#include "flexep/moe/moe_layer.h"

namespace flexep::moe {
namespace {

template <typename T>
concept MadeWithoutProbs = requires(Tensor grad) {
  T{.hidden = grad};
};
template <typename T>
concept MadeWithBoth = requires(Tensor grad) {
  T{.hidden = grad, .probs = grad};
};
template <typename T>
concept MadeWithoutAuxLoss = requires(Tensor grad) {
  T{.output = grad};
};
template <typename T>
concept MadeWithoutParameters = requires(Tensor grad) {
  T{.hidden = grad};
};

TEST(GradientTest, AForgottenGradientDoesNotCompile) {
  EXPECT_TRUE(MadeWithBoth<TokenGradients>);
  EXPECT_FALSE(MadeWithoutProbs<TokenGradients>);
  EXPECT_FALSE(MadeWithoutAuxLoss<MoeOutputGradients>);
  EXPECT_FALSE(MadeWithoutParameters<MoeGradients>);
  EXPECT_FALSE(std::is_default_constructible_v<Gradient<Tensor>>);
}

}  // namespace
}  // namespace flexep::moe
