// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/gradient.h"

#include <gtest/gtest.h>

#include <type_traits>
#include <utility>

#include "flexep/moe/moe_layer.h"
#include "flexep/moe/permute.h"

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

// Converts to whatever a member wants to be made from.
struct Anything {
  template <typename T>
  operator T() const;
};

template <typename T, std::size_t... kIndices>
constexpr bool is_made_from(std::index_sequence<kIndices...>) {
  return requires {
    T{(static_cast<void>(kIndices), Anything())...};
  };
}

// The number of members of an aggregate: the most initialisers that it takes.
template <typename T, std::size_t kCount = 8>
constexpr std::size_t num_members() {
  if constexpr (is_made_from<T>(std::make_index_sequence<kCount>()))
    return kCount;
  else
    return num_members<T, kCount - 1>();
}

TEST(GradientTest, ABackwardReturnsAGradientForEachDifferentiableInput) {
  // dispatch (upstream: of ten inputs, those at 1 and 3): x and probs. combine (of six, that at 1): x.
  EXPECT_EQ(num_members<Tokens>(), 2U);
  EXPECT_EQ(num_members<TokenGradients>(), 2U);
  using Dispatch = TokenGradients (TokenDispatcher::*)(const TokenGradients&);
  using Combine = Gradient<Tensor> (TokenDispatcher::*)(const Gradient<Tensor>&);
  EXPECT_TRUE((std::is_same_v<decltype(&TokenDispatcher::dispatch_preprocess_backward), Dispatch>));
  EXPECT_TRUE((std::is_same_v<decltype(&TokenDispatcher::token_dispatch_backward), Dispatch>));
  EXPECT_TRUE((std::is_same_v<decltype(&TokenDispatcher::dispatch_postprocess_backward), Dispatch>));
  EXPECT_TRUE((std::is_same_v<decltype(&TokenDispatcher::combine_preprocess_backward), Combine>));
  EXPECT_TRUE((std::is_same_v<decltype(&TokenDispatcher::token_combine_backward), Combine>));
  EXPECT_TRUE((std::is_same_v<decltype(&TokenDispatcher::combine_postprocess_backward), Combine>));
  // permute and the sort of chunks: rows and probs. unpermute: rows, with weights their probs too.
  using Permute = TokenGradients (*)(const TokenGradients&, const Permutation&, const Tensor&);
  using Unpermute = Gradient<Tensor> (*)(const Gradient<Tensor>&, const Permutation&, const Tensor&);
  using WeightedUnpermute = TokenGradients (*)(const Gradient<Tensor>&, const Tokens&, const Permutation&);
  using SortChunks = TokenGradients (*)(const TokenGradients&, const ChunkOrder&);
  EXPECT_TRUE((std::is_same_v<decltype(&permute_backward), Permute>));
  EXPECT_NE(static_cast<Unpermute>(&unpermute_backward), nullptr);
  EXPECT_NE(static_cast<WeightedUnpermute>(&unpermute_backward), nullptr);
  EXPECT_NE(static_cast<SortChunks>(&sort_chunks_by_idxs_backward), nullptr);
  // router: hidden and weight, from probs and aux_loss.
  EXPECT_EQ(num_members<RouterGradients>(), 2U);
  EXPECT_EQ(num_members<RouterOutputGradients>(), 2U);
  // experts: rows with their probs, and weights fc1 and fc2.
  EXPECT_EQ(num_members<ExpertsGradients>(), 2U);
  EXPECT_EQ(num_members<ExpertWeights<Gradient<Tensor>>>(), 2U);
  // layer: hidden and parameters, from output and aux_loss.
  EXPECT_EQ(num_members<MoeGradients>(), 2U);
  EXPECT_EQ(num_members<MoeOutputGradients>(), 2U);
  EXPECT_EQ(num_members<MoeParameters<Tensor>>(), num_members<MoeParameters<Gradient<Tensor>>>());
}

template <typename T>
concept MadeWithASurplus = requires(Tensor grad) {
  T{grad, grad, grad};
};

TEST(GradientTest, ASurplusGradientDoesNotCompile) {
  EXPECT_FALSE(MadeWithASurplus<TokenGradients>);
  EXPECT_FALSE(MadeWithASurplus<RouterGradients>);
}

}  // namespace
}  // namespace flexep::moe
