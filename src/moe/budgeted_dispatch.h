// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/moe/token_dispatcher.h"

namespace flexep::moe {

/// One microbatch at its experts.
struct Dispatched {
  std::unique_ptr<TokenDispatcher> dispatcher;
  GroupedTokens grouped;
};

/// Takes one microbatch through the three steps of a dispatch. With moe_paged_stash, what went over the
/// budget on any rank is dispatched again without one, on all of them. Collective.
Dispatched dispatch_within_budget(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group,
                                  const Tokens& tokens, const Tensor& routing_map);

}  // namespace flexep::moe
