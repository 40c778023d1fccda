// SPDX-License-Identifier: Apache-2.0
#include "bench/layer_cases.h"

#include "flexep/moe/moe_enums.h"

namespace flexep::tool {
namespace {

using moe::FlexDispatcherBackend;
using moe::MoeConfig;
using moe::TokenDispatcherType;

MoeConfig config_of(const BenchOptions& options, TokenDispatcherType type) {
  MoeConfig config{.hidden_size = options.hidden,
                   .num_moe_experts = options.num_experts,
                   .moe_ffn_hidden_size = options.ffn,
                   .expert_model_parallel_size = options.num_ranks,
                   .moe_router_topk = options.num_topk,
                   .moe_router_pre_softmax = options.num_topk == 1,
                   .moe_token_dispatcher_type = type};
  if (options.shared_ffn > 0) config.moe_shared_expert_intermediate_size = options.shared_ffn;
  if (options.element_type() == DType::kFloat64) config.params_dtype = DType::kFloat64;
  return config;
}

MoeConfig flex_config(const BenchOptions& options, FlexDispatcherBackend backend) {
  MoeConfig config = config_of(options, TokenDispatcherType::kFlex);
  config.moe_flex_dispatcher_backend = backend;
  // Room for everybody's tokens on one rank.
  if (backend == FlexDispatcherBackend::kNcclEp) config.moe_expert_rank_capacity_factor = options.num_ranks;
  if (options.num_sms > 0) config.moe_flex_dispatcher_num_sms = options.num_sms;
  return config;
}

}  // namespace

std::vector<LayerCase> layer_cases(const BenchOptions& options) {
  MoeConfig fused = flex_config(options, FlexDispatcherBackend::kDeepEpV2);
  fused.moe_permute_fusion = true;
  std::vector<LayerCase> cases = {
      {"alltoall", config_of(options, TokenDispatcherType::kAllToAll)},
      {"allgather", config_of(options, TokenDispatcherType::kAllGather)},
      {"deepep", flex_config(options, FlexDispatcherBackend::kDeepEp)},
      {"deepepv2", flex_config(options, FlexDispatcherBackend::kDeepEpV2)},
      {"deepepv2+fusion", fused},
      {"hybridep", flex_config(options, FlexDispatcherBackend::kHybridEp)},
      {"ncclep", flex_config(options, FlexDispatcherBackend::kNcclEp)},
  };
  if (options.shared_ffn > 0) {
    fused.moe_shared_expert_overlap = true;
    cases.push_back({"deepepv2+fusion+overlap", fused});
  }
  return cases;
}

}  // namespace flexep::tool
