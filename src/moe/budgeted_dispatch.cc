// SPDX-License-Identifier: Apache-2.0
#include "moe/budgeted_dispatch.h"

#include <utility>

namespace flexep::moe {
namespace {

MoeConfig without_budget(MoeConfig config) {
  config.moe_expert_rank_capacity_factor.reset();
  config.moe_paged_stash = false;
  return config;
}

bool any_rank(Communicator& comm, bool mine) {
  bool any = false;
  for (const char theirs : comm.all_gather(static_cast<char>(mine ? 1 : 0))) any = any || theirs != 0;
  return any;
}

Dispatched dispatch(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group,
                    const Tokens& tokens, const Tensor& routing_map) {
  auto dispatcher = make_token_dispatcher(config, group);
  const auto local = dispatcher->dispatch_preprocess(tokens, routing_map);
  auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local, kSynchronous));
  return {.dispatcher = std::move(dispatcher), .grouped = std::move(grouped)};
}

}  // namespace

Dispatched dispatch_within_budget(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group,
                                  const Tokens& tokens, const Tensor& routing_map) {
  auto dispatched = dispatch(config, group, tokens, routing_map);
  const auto over_budget = dispatched.dispatcher->check_over_budget();
  if (!config.moe_paged_stash || !over_budget || !any_rank(group->comm(), *over_budget)) return dispatched;
  group->reset_over_budget();
  return dispatch(without_budget(config), group, tokens, routing_map);
}

}  // namespace flexep::moe
