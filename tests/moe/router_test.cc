// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/router.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "finite_differences.h"
#include "matrices.h"
#include "moe/floating.h"
#include "support/tensors.h"

namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using testing::finite_differences;
using testing::Matrix;
using testing::near;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;

constexpr std::int64_t kTokens = 9, kExperts = 6, kHidden = 4;

MoeConfig softmax_config() {
  return {.hidden_size = kHidden,
          .num_moe_experts = kExperts,
          .moe_ffn_hidden_size = 1,
          .moe_router_topk = 3,
          .moe_router_dtype = DType::kFloat64,
          .moe_router_topk_scaling_factor = 2.5,
          .moe_aux_loss_coeff = 0.3,
          .params_dtype = DType::kFloat64};
}

struct Case {
  const char* name;
  MoeConfig config;
};

MoeConfig with(const std::function<void(MoeConfig&)>& change) {
  MoeConfig config = softmax_config();
  change(config);
  return config;
}

// Every way to make probabilities from logits, every loss, every limit.
const std::vector<Case>& all_cases() {
  using Config = MoeConfig;
  static const std::vector<Case> cases{
      {"Softmax", softmax_config()},
      {"PreSoftmax", with([](Config& c) { c.moe_router_pre_softmax = true; })},
      {"PreSoftmaxTop1", with([](Config& c) {
         c.moe_router_pre_softmax = true;
         c.moe_router_topk = 1;
       })},
      {"Sigmoid", with([](Config& c) { c.moe_router_score_function = RouterScoreFunction::kSigmoid; })},
      {"SigmoidTop1", with([](Config& c) {
         c.moe_router_score_function = RouterScoreFunction::kSigmoid;
         c.moe_router_topk = 1;
       })},
      {"SqrtSoftplus",
       with([](Config& c) { c.moe_router_score_function = RouterScoreFunction::kSqrtSoftplus; })},
      {"Groups", with([](Config& c) {
         c.moe_router_num_groups = 3;
         c.moe_router_group_topk = 2;
       })},
      {"SigmoidGroups", with([](Config& c) {
         c.moe_router_score_function = RouterScoreFunction::kSigmoid;
         c.moe_router_num_groups = 2;
         c.moe_router_group_topk = 1;
       })},
      {"SeqAuxLoss",
       with([](Config& c) { c.moe_router_load_balancing_type = RouterLoadBalancing::kSeqAuxLoss; })},
      {"GlobalAuxLoss",
       with([](Config& c) { c.moe_router_load_balancing_type = RouterLoadBalancing::kGlobalAuxLoss; })},
      {"ZLoss", with([](Config& c) { c.moe_z_loss_coeff = 0.25; })},
      {"ZLossAlone", with([](Config& c) {
         c.moe_z_loss_coeff = 0.25;
         c.moe_aux_loss_coeff = 0;
         c.moe_router_load_balancing_type = RouterLoadBalancing::kNone;
         c.moe_router_score_function = RouterScoreFunction::kSigmoid;
       })},
      {"CapacityByProbs", with([](Config& c) { c.moe_expert_capacity_factor = 0.8; })},
      {"CapacityByPosition", with([](Config& c) {
         c.moe_expert_capacity_factor = 0.8;
         c.moe_token_drop_policy = TokenDropPolicy::kPosition;
       })},
      {"PaddedCapacity", with([](Config& c) {
         c.moe_expert_capacity_factor = 1.2;
         c.moe_pad_expert_input_to_capacity = true;
       })}};
  return cases;
}

constexpr std::size_t kSequences = 3;

// Loads of earlier microbatches, for global_aux_loss.
const std::vector<double> kPastLoad{3, 1, 4, 1, 5, 9};

class RouterTest : public ::testing::TestWithParam<std::size_t> {
 protected:
  const MoeConfig config = all_cases()[GetParam()].config;
  const RouterInput input{.past_tokens_per_expert = kPastLoad, .num_sequences = kSequences};
  const reference::RouteInput reference_input{.past_load = kPastLoad, .num_sequences = kSequences};
  const Tensor hidden = random_tensor(kTokens, kHidden, 1), weight = random_tensor(kExperts, kHidden, 2);
  const Tensor grad_probs = random_tensor(kTokens, kExperts, 3);
  Communicator comm = Communicator::self();

  // What the finite differences differentiate: sum of probs * grad_probs + 0.7 * aux_loss.
  double loss() {
    const auto result = router_forward(config, comm, hidden, weight, input);
    const auto probs = result.probs.values<double>(), grad = grad_probs.values<double>();
    return std::inner_product(probs.begin(), probs.end(), grad.begin(), 0.7 * result.aux_loss);
  }
};

TEST_P(RouterTest, AgreesWithTheReference) {
  const auto result = router_forward(config, comm, hidden, weight, input);
  const auto expected =
      reference::route(config, reference::to_matrix(hidden), reference::to_matrix(weight), reference_input);
  EXPECT_TRUE(near(expected.probs, result.probs, 1e-14));
  EXPECT_NEAR(expected.aux_loss, result.aux_loss, 1e-14);
  for (std::size_t t = 0; t < kTokens; ++t)
    for (std::size_t e = 0; e < kExperts; ++e)
      EXPECT_EQ(result.routing_map.values<std::int32_t>()[t * kExperts + e], expected.map[t][e]);
}

TEST_P(RouterTest, GradientsAgreeWithTheReferenceAndFiniteDifferences) {
  const auto result = router_forward(config, comm, hidden, weight, input);
  const auto grads = router_backward(config, weight, result.context, {.probs = grad_probs, .aux_loss = 0.7});
  const auto expected =
      reference::route_backward(config, reference::to_matrix(hidden), reference::to_matrix(weight),
                                reference::to_matrix(grad_probs), 0.7, reference_input);
  EXPECT_TRUE(near(expected.hidden, grads.hidden, 1e-13));
  EXPECT_TRUE(near(expected.router_weight, grads.weight, 1e-13));
  EXPECT_TRUE(near(finite_differences(hidden, [this] { return loss(); }), grads.hidden, 1e-7));
  EXPECT_TRUE(near(finite_differences(weight, [this] { return loss(); }), grads.weight, 1e-7));
}

TEST_P(RouterTest, Fp32AgreesWithFp64) {
  MoeConfig narrow = config;
  narrow.moe_router_dtype = DType::kFloat32;
  const auto result = router_forward(narrow, comm, hidden, weight, input);
  ASSERT_EQ(result.probs.dtype(), DType::kFloat32);
  EXPECT_TRUE(near(rows_of(router_forward(config, comm, hidden, weight, input).probs), result.probs, 1e-6));
  const auto grads = router_backward(narrow, weight, result.context,
                                     {.probs = cast(grad_probs, DType::kFloat32), .aux_loss = 0.7});
  const auto wide =
      router_backward(config, weight, router_forward(config, comm, hidden, weight, input).context,
                      {.probs = grad_probs, .aux_loss = 0.7});
  EXPECT_EQ(grads.weight.value().dtype(), DType::kFloat64);
  EXPECT_TRUE(near(rows_of(wide.weight), grads.weight, 1e-5));
}

// Neither capacity, which each rank has for itself, nor losses of sequences, which no division may cut.
class RouterDivisionTest : public RouterTest {};

TEST_P(RouterDivisionTest, TheLossIsThatOfAllTokensHoweverTheyAreDividedBetweenRanks) {
  const auto whole = router_forward(config, comm, hidden, weight, input);
  const auto whole_grads =
      router_backward(config, weight, whole.context, {.probs = grad_probs, .aux_loss = 0.7});
  const std::vector<std::int64_t> begin{0, 6, 6, kTokens};
  std::vector<Matrix> parts(3);
  in_process(3, [&](Communicator& rank_comm) {
    const auto rank = static_cast<std::size_t>(rank_comm.rank());
    const Tensor mine = hidden.rows(begin[rank], begin[rank + 1]);
    const auto result = router_forward(config, rank_comm, mine, weight, input);
    EXPECT_NEAR(result.aux_loss, whole.aux_loss, 1e-14);
    const auto grads =
        router_backward(config, weight, result.context,
                        {.probs = grad_probs.rows(begin[rank], begin[rank + 1]), .aux_loss = 0.7});
    parts[rank] = rows_of(grads.hidden);
  });
  Matrix joined = parts[0];
  joined.insert(joined.end(), parts[2].begin(), parts[2].end());
  EXPECT_TRUE(parts[1].empty());
  EXPECT_TRUE(near(rows_of(whole_grads.hidden), joined, 1e-14));
}

std::vector<std::size_t> divisible_cases() {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < all_cases().size(); ++i) {
    const MoeConfig& config = all_cases()[i].config;
    if (!config.expert_capacity_factor() &&
        config.moe_router_load_balancing_type != RouterLoadBalancing::kSeqAuxLoss)
      chosen.push_back(i);
  }
  return chosen;
}

const auto kNameOfCase = [](const auto& info) { return all_cases()[info.param].name; };
INSTANTIATE_TEST_SUITE_P(All, RouterTest, ::testing::Range(std::size_t{0}, all_cases().size()), kNameOfCase);
INSTANTIATE_TEST_SUITE_P(All, RouterDivisionTest, ::testing::ValuesIn(divisible_cases()), kNameOfCase);

TEST(RouterSequenceTest, SequencesOfSeveralRanksCountAlike) {
  const MoeConfig config =
      with([](MoeConfig& c) { c.moe_router_load_balancing_type = RouterLoadBalancing::kSeqAuxLoss; });
  const Tensor weight = random_tensor(kExperts, kHidden, 2);
  const std::vector<Tensor> sequences{random_tensor(4, kHidden, 5), random_tensor(7, kHidden, 6)};
  double sum = 0;
  for (const Tensor& sequence : sequences) {
    auto self = Communicator::self();
    sum += router_forward(config, self, sequence, weight).aux_loss;
  }
  in_process(3, [&](Communicator& comm) {  // the last has no tokens, and no sequence
    const Tensor mine = comm.rank() < 2 ? sequences[static_cast<std::size_t>(comm.rank())]
                                        : Tensor::empty({0, kHidden}, DType::kFloat64);
    EXPECT_NEAR(router_forward(config, comm, mine, weight).aux_loss, sum / 2, 1e-14);
  });
}

TEST(RouterTieTest, TiesGoToTheLowestExpert) {
  auto comm = Communicator::self();
  const auto result = router_forward(softmax_config(), comm, random_tensor(kTokens, kHidden, 1),
                                     Tensor::zeros({kExperts, kHidden}, DType::kFloat64));
  EXPECT_EQ(result.tokens_per_expert, (std::vector<std::int64_t>{kTokens, kTokens, kTokens, 0, 0, 0}));
}

TEST(RouterLossTest, AnEvenLoadCostsTheCoefficient) {
  // With K = E every expert gets every token: f_e = 1 / E, and the mean scores sum to 1.
  MoeConfig config = softmax_config();
  config.moe_router_topk = kExperts;
  auto comm = Communicator::self();
  const auto result =
      router_forward(config, comm, random_tensor(kTokens, kHidden, 1), random_tensor(kExperts, kHidden, 2));
  EXPECT_NEAR(result.aux_loss, config.moe_aux_loss_coeff, 1e-14);
}

TEST(RouterLossTest, GradientsOfWhatWasNotRoutedAreNotRead) {
  MoeConfig config = softmax_config();
  auto comm = Communicator::self();
  const Tensor weight = random_tensor(kExperts, kHidden, 2), grad = random_tensor(kTokens, kExperts, 3);
  const auto result = router_forward(config, comm, random_tensor(kTokens, kHidden, 1), weight);
  const auto before = router_backward(config, weight, result.context, {.probs = grad.clone(), .aux_loss = 1});
  for (std::size_t i = 0; i < grad.values<double>().size(); ++i)
    if (result.routing_map.values<std::int32_t>()[i] == 0) grad.values<double>()[i] = std::nan("");
  const auto after = router_backward(config, weight, result.context, {.probs = grad, .aux_loss = 1});
  EXPECT_TRUE(near(rows_of(before.hidden), after.hidden, 0));
}

TEST(RouterArgumentTest, ShapesThatDoNotFitAreNamed) {
  auto comm = Communicator::self();
  const Tensor hidden = random_tensor(kTokens, kHidden, 1), weight = random_tensor(kExperts, kHidden, 2);
  const auto reject = [&](const Tensor& h, const Tensor& w) {
    return rejected_argument([&] { router_forward(softmax_config(), comm, h, w); });
  };
  EXPECT_EQ(reject(random_tensor(kTokens, kHidden + 1, 1), weight), "hidden");
  EXPECT_EQ(reject(hidden, random_tensor(kExperts, kHidden + 1, 2)), "weight");
}

}  // namespace
}  // namespace flexep::moe
