// SPDX-License-Identifier: Apache-2.0
//
// Tokens that are routed on a GPU go where the CPU sends them, and so do gradients.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "cuda_devices.h"
#include "flexep/cuda.h"
#include "moe/layer_step.h"

namespace flexep::moe {
namespace {

using testing::Matrix;
using testing::near;
using testing::random_tensor;
using testing::rows_of;

const Device kGpu = Device::cuda(0);
constexpr std::int64_t kHidden = 24, kNumTokens = 60, kNumSequences = 3;

/// A layer in double precision, where only the last bits of sums and exponentials may differ.
MoeConfig config_for(int num_experts, int topk) {
  return {.hidden_size = kHidden,
          .num_moe_experts = num_experts,
          .moe_ffn_hidden_size = 16,
          .moe_router_topk = topk,
          .moe_router_dtype = DType::kFloat64,
          .moe_token_dispatcher_type = TokenDispatcherType::kFlex,
          .moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEpV2,
          .moe_permute_fusion = true,
          .params_dtype = DType::kFloat64};
}

/// What one step of a layer of one rank says of its routing.
struct Routed {
  Matrix topk_idx, output, grad_hidden, grad_router;
  std::vector<std::int64_t> tokens_per_expert;
  double load_balancing_loss = 0, z_loss = 0;
};

Matrix ids_of(const Tensor& topk_idx) {
  Matrix ids;
  for (std::int64_t t = 0; t < topk_idx.size(0); ++t) {
    const auto row = topk_idx.rows(t, t + 1).values<std::int64_t>();
    ids.emplace_back(row.begin(), row.end());
  }
  return ids;
}

Routed run_step(const MoeConfig& config, const Tensor& hidden, Device device) {
  Routed routed;
  const Tensor grad = random_tensor(hidden.size(0), kHidden, 2);
  const bool is_host = device.is_host();
  const auto there = [&](const Tensor& tensor) { return is_host ? tensor : cuda::to_device(tensor, device); };
  const auto back = [&](const Tensor& tensor) { return is_host ? tensor : cuda::to_host(tensor); };
  const auto sequences = [](const Tensor& rows) {
    return rows.reshape({rows.size(0) / kNumSequences, kNumSequences, kHidden});
  };
  in_process(1, [&](Communicator& comm) {
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm, device), /*seed=*/3);
    // A bias that is not zero: that of the second of two steps.
    layer.forward(there(sequences(hidden)));
    layer.update_expert_bias();
    auto forward = layer.forward(there(sequences(hidden)));
    routed.topk_idx = ids_of(forward.topk_idx);
    routed.tokens_per_expert = forward.tokens_per_expert;
    routed.load_balancing_loss = forward.load_balancing_loss;
    routed.z_loss = forward.z_loss;
    routed.output = rows_of(back(forward.output).reshape(hidden.shape()));
    const auto grads =
        layer.backward(std::move(forward.context), {.output = there(sequences(grad)), .aux_loss = 0.7});
    routed.grad_hidden = rows_of(back(grads.hidden).reshape(hidden.shape()));
    routed.grad_router = rows_of(back(grads.parameters.router_weight));
  });
  return routed;
}

void expect_as_on_the_cpu(const MoeConfig& config, const Tensor& hidden) {
  const Routed expected = run_step(config, hidden, Device::host()), got = run_step(config, hidden, kGpu);
  EXPECT_EQ(expected.topk_idx, got.topk_idx);
  EXPECT_EQ(expected.tokens_per_expert, got.tokens_per_expert);
  EXPECT_NEAR(expected.load_balancing_loss, got.load_balancing_loss, 1e-12);
  EXPECT_NEAR(expected.z_loss, got.z_loss, 1e-12);
  EXPECT_TRUE(near(expected.output, got.output, 1e-11));
  EXPECT_TRUE(near(expected.grad_hidden, got.grad_hidden, 1e-11));
  EXPECT_TRUE(near(expected.grad_router, got.grad_router, 1e-11));
}

class CudaRouterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  }

  const Tensor hidden = random_tensor(kNumTokens, kHidden, 1);
};

TEST_F(CudaRouterTest, EveryScoreFunctionChoosesAsOnTheCpu) {
  for (const auto function :
       {RouterScoreFunction::kSoftmax, RouterScoreFunction::kSigmoid, RouterScoreFunction::kSqrtSoftplus}) {
    for (const bool is_pre_softmax : {false, true}) {
      if (is_pre_softmax && function != RouterScoreFunction::kSoftmax) continue;
      SCOPED_TRACE(::testing::Message() << static_cast<int>(function) << is_pre_softmax);
      MoeConfig config = config_for(16, 4);
      config.moe_router_score_function = function;
      config.moe_router_pre_softmax = is_pre_softmax;
      config.moe_router_topk_scaling_factor = 2.5;
      expect_as_on_the_cpu(config, hidden);
    }
  }
}

TEST_F(CudaRouterTest, AnyNumberOfExpertsIsRanked) {
  for (const int num_experts : {2, 33, 64, 100, 256, 300, 1024, 1025}) {
    SCOPED_TRACE(num_experts);
    expect_as_on_the_cpu(config_for(num_experts, std::min(num_experts, 7)), hidden);
  }
}

TEST_F(CudaRouterTest, ABiasAndGroupsChooseAndDoNotWeigh) {
  MoeConfig config = config_for(48, 6);
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  config.moe_router_enable_expert_bias = true;
  config.moe_router_bias_update_rate = 0.05;
  expect_as_on_the_cpu(config, hidden);
  config.moe_router_num_groups = 8;
  config.moe_router_group_topk = 3;
  expect_as_on_the_cpu(config, hidden);
}

TEST_F(CudaRouterTest, LossesAndTheirGradientsAreThoseOfTheCpu) {
  for (const auto type : {RouterLoadBalancing::kAuxLoss, RouterLoadBalancing::kSeqAuxLoss,
                          RouterLoadBalancing::kGlobalAuxLoss}) {
    for (const auto function : {RouterScoreFunction::kSoftmax, RouterScoreFunction::kSigmoid}) {
      SCOPED_TRACE(::testing::Message() << static_cast<int>(type) << static_cast<int>(function));
      MoeConfig config = config_for(40, 3);
      config.moe_router_load_balancing_type = type;
      config.moe_router_score_function = function;
      config.moe_aux_loss_coeff = 0.3;
      config.moe_z_loss_coeff = 0.1;
      expect_as_on_the_cpu(config, hidden);
    }
  }
}

TEST_F(CudaRouterTest, TiesGoToTheLowestExperts) {
  const Tensor zeros = Tensor::zeros({kNumTokens, kHidden}, DType::kFloat64);
  const Routed got = run_step(config_for(70, 5), zeros, kGpu);
  EXPECT_EQ(got.topk_idx, Matrix(kNumTokens, {0, 1, 2, 3, 4}));
}

TEST_F(CudaRouterTest, WhatIsDecidedOnTheHostIsSentAsWell) {
  MoeConfig config = config_for(16, 4);
  config.moe_router_load_balancing_type = RouterLoadBalancing::kSinkhorn;
  expect_as_on_the_cpu(config, hidden);
  config = config_for(16, 4);
  config.moe_expert_capacity_factor = 1.0;
  expect_as_on_the_cpu(config, hidden);
}

TEST_F(CudaRouterTest, ExpertsMayBePermuted) {
  const MoeConfig config = config_for(4, 2);
  const auto output_on = [&](Device device) {
    Matrix output;
    in_process(1, [&](Communicator& comm) {
      MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm, device), /*seed=*/3);
      const bool is_host = device.is_host();
      auto forward = layer.forward(is_host ? hidden : cuda::to_device(hidden, device),
                                   {.expert_permutation = {2, 0, 3, 1}});
      const auto grads =
          layer.backward(std::move(forward.context),
                         {.output = is_host ? hidden : cuda::to_device(hidden, device), .aux_loss = 0.0});
      output = rows_of(is_host ? Tensor(grads.hidden) : cuda::to_host(grads.hidden));
    });
    return output;
  };
  EXPECT_TRUE(near(output_on(Device::host()), output_on(kGpu), 1e-11));
}

}  // namespace
}  // namespace flexep::moe
