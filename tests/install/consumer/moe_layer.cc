// SPDX-License-Identifier: Apache-2.0
//
// A MoE layer over two ranks, in a program that knows nothing but what is installed.

#include <flexep/flexep.h>
#include <flexep/moe/moe_layer.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>

namespace {

void run_rank(flexep::Communicator& comm) {
  const auto group = std::make_shared<flexep::moe::ExpertParallelGroup>(comm);
  const flexep::moe::MoeConfig config = {
      .hidden_size = 8,
      .num_moe_experts = 4,
      .moe_ffn_hidden_size = 16,
      .expert_model_parallel_size = comm.num_ranks(),
      .moe_token_dispatcher_type = flexep::moe::TokenDispatcherType::kFlex,
      .moe_flex_dispatcher_backend = flexep::moe::FlexDispatcherBackend::kDeepEpV2};
  flexep::moe::MoeLayer layer(config, group, /*seed=*/1);
  const flexep::Tensor hidden = flexep::Tensor::zeros({3, 8}, flexep::DType::kFloat32);
  const auto forward = layer.forward(hidden);
  if (forward.output.shape() != hidden.shape()) {
    throw std::runtime_error("output of shape " + forward.output.shape().to_string());
  }
}

}  // namespace

int main() {
  try {
    flexep::in_process(2, run_rank);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "moe_layer: %s\n", error.what());
    return 1;
  }
}
