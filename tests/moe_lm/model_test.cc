// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "flexep/communicator.h"

namespace moe_lm {
namespace {

constexpr std::int64_t kBatchSize = 24;

ModelConfig small_config(int num_ranks) {
  return {.moe = {.hidden_size = 16,
                  .num_moe_experts = 4,
                  .moe_ffn_hidden_size = 6,
                  .moe_latent_size = 8,
                  .moe_shared_expert_intermediate_size = 5,
                  .moe_shared_expert_gate = true,
                  .expert_model_parallel_size = num_ranks,
                  .moe_router_topk = 2,
                  .moe_router_dtype = flexep::DType::kFloat64,
                  .moe_aux_loss_coeff = 0.1,
                  .moe_token_dispatcher_type = flexep::moe::TokenDispatcherType::kFlex,
                  .moe_flex_dispatcher_backend = flexep::moe::FlexDispatcherBackend::kDeepEpV2,
                  .moe_permute_fusion = true,
                  .params_dtype = flexep::DType::kFloat64,
                  .init_method_std = 0.5},
          .embedding_dim = 4,
          .max_samples = kBatchSize,
          .seed = 3};
}

Batch share_of_batch(const flexep::Communicator& comm) {
  Bytes text(4096);
  const RandomStream random(1, "text");
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::uint8_t>(random.bits(i) % 256);
  Batch batch;
  BatchSampler(text, kBatchSize, 1).draw(0, share_of(kBatchSize, comm.rank(), comm.num_ranks()), batch);
  return batch;
}

/// A model on some ranks, and its loss over all of them.
class DistributedModel {
 public:
  explicit DistributedModel(flexep::Communicator& comm)
      : comm_(comm),
        batch_(share_of_batch(comm)),
        model_(small_config(comm.num_ranks()), std::make_shared<flexep::moe::ExpertParallelGroup>(comm)) {}

  double loss() {
    const PassResult pass = model_.evaluate(batch_);
    return sum_over_ranks(pass.loss) / kBatchSize + pass.aux_loss;
  }

  void backward() { model_.train(batch_, 1.0 / kBatchSize); }

  /// Holds the gradient of `parameter` against central differences in about ten places. All ranks call it,
  /// those that are to be disturbed with `is_mine`; `grad_of` gives the gradient of the loss with respect to
  /// element i.
  template <typename GradOf>
  void expect_gradient(const Parameter& parameter, bool is_mine, const GradOf& grad_of) {
    constexpr double kStep = 1e-5;
    const auto x = parameter.value.values<double>();
    const auto loss_at = [&](std::size_t i, double offset) {
      const double middle = x[i];
      if (is_mine) x[i] += offset;
      const double value = loss();
      x[i] = middle;
      return value;
    };
    for (std::size_t i = 0; i < x.size(); i += x.size() / 10 + 1) {
      const double expected = (loss_at(i, kStep) - loss_at(i, -kStep)) / (2 * kStep);
      const double grad = grad_of(i);
      if (!is_mine) continue;
      EXPECT_NEAR(grad, expected, 1e-8 + 1e-5 * std::abs(expected)) << parameter.name << "[" << i << "]";
    }
  }

  double sum_over_ranks(double value) {
    comm_.all_reduce_sum(std::span(&value, 1));
    return value;
  }

  const ParameterList& parameters() const { return model_.parameters(); }

 private:
  flexep::Communicator comm_;
  Batch batch_;
  ByteModel<double> model_;
};

class ModelTest : public ::testing::TestWithParam<int> {};

TEST_P(ModelTest, GradientsOfReplicatedParametersAreSumsOverRanks) {
  flexep::in_process(GetParam(), [](flexep::Communicator& comm) {
    DistributedModel model(comm);
    model.backward();
    for (const Parameter* parameter : model.parameters().replicated) {
      const flexep::Tensor grad = parameter->grad.clone();
      model.expect_gradient(*parameter, /*is_mine=*/true,
                            [&](std::size_t i) { return model.sum_over_ranks(grad.values<double>()[i]); });
    }
  });
}

TEST_P(ModelTest, GradientsOfExpertsAreCompleteOnTheirOwner) {
  flexep::in_process(GetParam(), [](flexep::Communicator& comm) {
    DistributedModel model(comm);
    model.backward();
    for (const Parameter* parameter : model.parameters().sharded) {
      for (int owner = 0; owner < comm.num_ranks(); ++owner) {
        model.expect_gradient(*parameter, /*is_mine=*/comm.rank() == owner,
                              [&](std::size_t i) { return parameter->grad.values<double>()[i]; });
      }
    }
  });
}

TEST_P(ModelTest, IsTheSameForAnyNumberOfRanks) {
  double alone = 0;
  flexep::in_process(1, [&](flexep::Communicator& comm) { alone = DistributedModel(comm).loss(); });
  flexep::in_process(GetParam(), [&](flexep::Communicator& comm) {
    EXPECT_NEAR(DistributedModel(comm).loss(), alone, 1e-12 * alone);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, ModelTest, ::testing::Values(1, 2, 4), ::testing::PrintToStringParamName());

}  // namespace
}  // namespace moe_lm
