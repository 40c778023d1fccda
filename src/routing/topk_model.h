// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace flexep {

/// Expected number of groups that own one of a token's K distinct experts, when every one of `num_groups`
/// groups owns E / num_groups of them and all choices are equally likely.
double expected_groups(int num_groups, int num_experts, int num_topk);

/// @return the number of ranks. @throws InvalidArgument when it is none, or more than flexep knows.
std::int64_t check_topology(int num_scaleout_ranks, int num_scaleup_ranks);

/// @throws InvalidArgument for experts that the ranks do not divide, or top-k outside [1, num_experts].
void check_topk(std::int64_t num_ranks, int num_experts, int num_topk);

}  // namespace flexep
