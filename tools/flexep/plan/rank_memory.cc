// SPDX-License-Identifier: Apache-2.0
#include "plan/rank_memory.h"

#include <algorithm>
#include <cmath>

#include "routing/output_layout.h"

namespace flexep::tool {
namespace {

// Of a pair in the send plan: owner, slot, row; and its id, which the handle keeps.
constexpr double kPlanBytesOfAPair = 4 + 4 + 4 + 8;
// Of a token and a rank that it goes to: the pair that stands for it; and of a token, where its pairs begin.
constexpr double kMasterBytes = 8;
// Of each rank and expert in a summary of counts: two sums of 8 bytes and the rank's own count; of each rank
// what it sends.
constexpr double kSummaryBytes = 8 + 8 + 4;
constexpr double kReceivedBytes = 4;

double arena_bytes(const PlanInputs& inputs, const ReceivedRows& rows, bool do_expand) {
  const ReceiveSize size{.num_recv_tokens = static_cast<int>(std::ceil(rows.num_tokens)),
                         .num_expanded_tokens = static_cast<int>(std::ceil(rows.num_expanded))};
  const auto row_bytes = static_cast<std::size_t>(inputs.row_bytes());
  const OutputLayout outputs({.do_expand = do_expand,
                              .num_topk = inputs.num_topk,
                              .row_bytes = row_bytes,
                              .weight_bytes = sizeof(float)},
                             size);
  const double expert_output = size.num_rows(do_expand) * inputs.row_bytes();
  const double sums = static_cast<double>(inputs.num_tokens) * inputs.row_bytes();
  return static_cast<double>(outputs.num_bytes()) + expert_output + sums;
}

double most_sent_tokens(const PlanInputs& inputs, const SampledRouting& routing) {
  double most = 0;
  for (int rank = 0; rank < inputs.num_ranks(); ++rank) {
    double sent = 0;
    for (int to = 0; to < inputs.num_ranks(); ++to) sent += routing.scale * routing.tokens.at(rank, to);
    most = std::max(most, sent);
  }
  return most;
}

}  // namespace

RankMemory rank_memory(const PlanInputs& inputs, const SampledRouting& routing) {
  RankMemory memory;
  for (const ReceivedRows& rows : routing.received) {
    memory.compact_arena = std::max(memory.compact_arena, arena_bytes(inputs, rows, false));
    memory.expanded_arena = std::max(memory.expanded_arena, arena_bytes(inputs, rows, true));
  }
  const auto num_tokens = static_cast<double>(inputs.num_tokens);
  memory.plan = kPlanBytesOfAPair * num_tokens * inputs.num_topk +
                kMasterBytes * (num_tokens + most_sent_tokens(inputs, routing)) +
                kSummaryBytes * (inputs.num_ranks() + inputs.num_experts) +
                kReceivedBytes * inputs.num_ranks();
  return memory;
}

}  // namespace flexep::tool
