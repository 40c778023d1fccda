// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/token_dispatcher.h"

#include "common/check.h"
#include "moe/deepepv2_backend.h"
#include "moe/flex_token_dispatcher.h"

namespace flexep::moe {
namespace {

std::unique_ptr<FlexBackend> make_deepepv2_backend(const MoeConfig& config,
                                                   std::shared_ptr<ExpertParallelGroup> group) {
  if (config.moe_permute_fusion) return std::make_unique<DeepEpV2ExpandedBackend>(config, std::move(group));
  return std::make_unique<DeepEpV2CompactBackend>(config, std::move(group));
}

std::unique_ptr<FlexBackend> make_flex_backend(const MoeConfig& config,
                                               std::shared_ptr<ExpertParallelGroup> group) {
  switch (config.flex_dispatcher_backend()) {
    case FlexDispatcherBackend::kDeepEpV2:
      return make_deepepv2_backend(config, std::move(group));
    case FlexDispatcherBackend::kDeepEp:
    case FlexDispatcherBackend::kHybridEp:
    case FlexDispatcherBackend::kNcclEp:
      break;
  }
  throw InvalidArgument("moe_flex_dispatcher_backend",
                        "this moe_flex_dispatcher_backend is not available yet");
}

}  // namespace

std::unique_ptr<TokenDispatcher> make_token_dispatcher(const MoeConfig& config,
                                                       std::shared_ptr<ExpertParallelGroup> group) {
  config.validate();
  const int num_ranks = group->comm().num_ranks();
  require_argument(
      config.num_ranks() == num_ranks, "expert_model_parallel_size",
      "expert_model_parallel_size {} times expert_tensor_parallel_size {} must be the number of ranks, {}",
      config.expert_model_parallel_size, config.expert_tensor_parallel_size, num_ranks);
  switch (config.moe_token_dispatcher_type) {
    case TokenDispatcherType::kFlex:
      return std::make_unique<FlexTokenDispatcher>(config, make_flex_backend(config, std::move(group)));
    case TokenDispatcherType::kAllGather:
    case TokenDispatcherType::kAllToAll:
      break;
  }
  throw InvalidArgument("moe_token_dispatcher_type", "this moe_token_dispatcher_type is not available yet");
}

}  // namespace flexep::moe
