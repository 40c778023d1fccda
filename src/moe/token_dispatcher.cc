// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/token_dispatcher.h"

#include "common/check.h"
#include "moe/allgather_token_dispatcher.h"
#include "moe/alltoall_token_dispatcher.h"
#include "moe/device_rules.h"
#include "moe/flex_backends.h"
#include "moe/flex_token_dispatcher.h"

namespace flexep::moe {

Tensor TokenDispatcher::get_cudagraph_attr(std::string_view path) {
  const Tensor* attr = find_cudagraph_attr(path);
  return attr != nullptr ? *attr : Tensor();
}

void TokenDispatcher::set_cudagraph_attr(std::string_view path, const Tensor& value) {
  Tensor* attr = find_cudagraph_attr(path);
  require_argument(attr != nullptr, "path", "the dispatcher has no attribute at path \"{}\"", path);
  *attr = value;
}

Tensor* TokenDispatcher::find_cudagraph_attr(std::string_view) {
  return nullptr;
}

std::unique_ptr<TokenDispatcher> make_token_dispatcher(const MoeConfig& config,
                                                       std::shared_ptr<ExpertParallelGroup> group) {
  config.validate();
  const int num_ranks = group->comm().num_ranks();
  require_argument(
      config.num_ranks() == num_ranks, "expert_model_parallel_size",
      "expert_model_parallel_size {} times expert_tensor_parallel_size {} must be the number of ranks, {}",
      config.expert_model_parallel_size, config.expert_tensor_parallel_size, num_ranks);
  check_runs_on(group->device(), config);
  switch (config.moe_token_dispatcher_type) {
    case TokenDispatcherType::kAllGather:
      return std::make_unique<AllGatherTokenDispatcher>(config, std::move(group));
    case TokenDispatcherType::kAllToAll:
      return std::make_unique<AllToAllTokenDispatcher>(config, std::move(group));
    case TokenDispatcherType::kFlex:
      return std::make_unique<FlexTokenDispatcher>(config, make_flex_backend(config, std::move(group)));
  }
  throw InvalidArgument("moe_token_dispatcher_type", "moe_token_dispatcher_type is no enumerator");
}

}  // namespace flexep::moe
