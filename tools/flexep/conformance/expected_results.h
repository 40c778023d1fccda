// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "conformance/case_spec.h"
#include "flexep/reference.h"

namespace flexep::conformance {

/// One case's data and what the reference makes of it, for all ranks.
struct ExpectedResults {
  explicit ExpectedResults(const CaseSpec& spec);

  std::vector<reference::RankInput> inputs;
  std::vector<reference::RankOutput> received;
  /// [R][El], pairs routed to each local expert, those that a limit drops included.
  std::vector<std::vector<std::int32_t>> num_routed_tokens_per_expert;
  /// [R], the ids that were sent, -1 where a limit dropped the pair.
  std::vector<Tensor> kept_topk_idx;
  std::vector<reference::RankInput> cached_inputs;
  std::vector<reference::RankOutput> cached_received;
  std::vector<reference::CombineInput> expert_outputs;
  std::vector<reference::CombineOutput> combined;
  /// Combine of the rows as dispatch delivered them; none when their type has no sum.
  std::vector<reference::CombineOutput> round_trip;
};

/// Which rows of received[rank] hold a token; the others are alignment gaps.
std::vector<bool> real_rows(const CaseSpec& spec, const reference::RankOutput& received);

}  // namespace flexep::conformance
