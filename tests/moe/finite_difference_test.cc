// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "expert_groups.h"
#include "finite_differences.h"
#include "flexep/moe/moe_layer.h"

/// Derivatives of the whole layer over two ranks, measured: every rank moves the same variable of one rank by
/// a little.
namespace flexep::moe {
namespace {

using testing::config_of;
using testing::Division;
using testing::finite_differences;
using testing::inner_product;
using testing::near;
using testing::random_tensor;
using testing::rows_of;
using testing::sum_over_ranks;

constexpr std::int64_t kHidden = 4, kTokens = 3;
constexpr double kTolerance = 1e-8;

MoeConfig small_config(const Division& division) {
  MoeConfig config = config_of(division);
  config.num_moe_experts = 4;
  config.moe_ffn_hidden_size = 2;
  config.moe_router_topk = 2;
  config.moe_aux_loss_coeff = 0.3;
  return config;
}

class FiniteDifferenceTest : public ::testing::TestWithParam<Division> {
 protected:
  const MoeConfig config = small_config(GetParam());
};

// d loss / d (rank owner's variable), known to all; `loss` is collective. The others move a variable that
// nobody reads.
testing::Matrix differences_of(Communicator& comm, int owner, const Tensor& variable,
                               const std::function<double()>& loss) {
  const Tensor unread = Tensor::zeros(variable.shape(), DType::kFloat64);
  return finite_differences(comm.rank() == owner ? variable : unread, loss);
}

TEST_P(FiniteDifferenceTest, TheWholeLayerWithItsAuxiliaryLoss) {
  in_process(config.num_ranks(), [&](Communicator& comm) {
    const auto seed = static_cast<std::uint64_t>(comm.rank());
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    const Tensor hidden = random_tensor(kTokens, kHidden, 10 + seed),
                 grad = random_tensor(kTokens, kHidden, 20 + seed);
    const auto loss = [&] {
      const auto forward = layer.forward(hidden);
      return sum_over_ranks(comm, inner_product(forward.output, grad)) + 0.7 * forward.aux_loss;
    };
    auto forward = layer.forward(hidden);
    const auto grads = layer.backward(std::move(forward.context), {.output = grad, .aux_loss = 0.7});
    const auto& parameters = layer.parameters();

    for (int owner = 0; owner < comm.num_ranks(); ++owner) {
      const auto check = [&](const Tensor& variable, const Tensor& analytic) {
        const auto measured = differences_of(comm, owner, variable, loss);
        if (comm.rank() == owner) {
          EXPECT_TRUE(near(measured, analytic, kTolerance));
        }
      };
      check(hidden, grads.hidden);
      check(parameters.experts.fc1, grads.parameters.experts.fc1);
      check(parameters.experts.fc2, grads.parameters.experts.fc2);
    }
    // The router's weight is one variable, of which every rank has a copy.
    Tensor router_grad = grads.parameters.router_weight.value().clone();
    comm.all_reduce_sum(router_grad.values<double>());
    EXPECT_TRUE(near(finite_differences(parameters.router_weight, loss), router_grad, kTolerance));
  });
}

TEST_P(FiniteDifferenceTest, RouterProbabilitiesThroughDispatchExpertsAndCombine) {
  in_process(config.num_ranks(), [&](Communicator& comm) {
    const auto seed = static_cast<std::uint64_t>(comm.rank());
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    const MoeLayer layer(config, group, 3);
    const auto& weights = layer.parameters().experts;
    const Tensor hidden = random_tensor(kTokens, kHidden, 10 + seed),
                 grad = random_tensor(kTokens, kHidden, 20 + seed);
    const Tensor probs = random_tensor(kTokens, config.num_moe_experts, 30 + seed);
    const Tensor routing_map = Tensor::zeros(probs.shape(), DType::kInt32);

    std::unique_ptr<TokenDispatcher> dispatcher;
    ExpertsForward experts;
    const auto output_of_layer = [&] {
      dispatcher = make_token_dispatcher(config, group);
      const auto local = dispatcher->dispatch_preprocess({.hidden = hidden, .probs = probs}, routing_map);
      const auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local));
      experts = experts_forward(weights, grouped, dispatcher->empty_expert_rows());
      return dispatcher->combine_postprocess(
          dispatcher->token_combine(dispatcher->combine_preprocess(experts.output)));
    };
    const auto loss = [&] { return sum_over_ranks(comm, inner_product(output_of_layer(), grad)); };

    output_of_layer();
    const auto grad_rows = dispatcher->combine_preprocess_backward(
        dispatcher->token_combine_backward(dispatcher->combine_postprocess_backward(grad)));
    const auto grad_experts =
        experts_backward(weights, experts.context, grad_rows, dispatcher->empty_expert_rows());
    const auto grads = dispatcher->dispatch_preprocess_backward(
        dispatcher->token_dispatch_backward(dispatcher->dispatch_postprocess_backward(grad_experts.tokens)));
    for (int owner = 0; owner < comm.num_ranks(); ++owner) {
      const auto measured = differences_of(comm, owner, probs, loss);
      if (comm.rank() == owner) {
        EXPECT_TRUE(near(measured, grads.probs, kTolerance));
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Divisions, FiniteDifferenceTest,
                         ::testing::Values(Division{1, 2, false}, Division{1, 2, true}, Division{2, 1, false},
                                           Division{2, 1, true}),
                         [](const auto& division) { return testing::name_of(division.param); });

}  // namespace
}  // namespace flexep::moe
