// SPDX-License-Identifier: Apache-2.0
#include "plan/sampled_routing.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "plan/expert_sampler.h"
#include "routing/receive_layout.h"
#include "routing/routing_counts.h"
#include "routing/send_plan.h"

namespace flexep::tool {
namespace {

constexpr std::int64_t kMinTokensOfARank = 16;

/// The ids of all ranks, one after the other, and what they count.
struct DrawnRouting {
  int num_tokens = 0;
  int num_topk = 0;
  std::vector<std::int64_t> ids;  ///< [R, T, K]
  std::vector<RoutingCounts> counts;

  TopkIds of(int rank) const {
    const auto num_ids = static_cast<std::size_t>(num_tokens) * static_cast<std::size_t>(num_topk);
    return {.ids = std::span(ids).subspan(static_cast<std::size_t>(rank) * num_ids, num_ids),
            .num_tokens = num_tokens,
            .num_topk = num_topk};
  }
};

RoutingShape shape_of(const PlanInputs& inputs) {
  return {.num_ranks = inputs.num_ranks(),
          .num_experts = inputs.num_experts,
          .num_topk = inputs.num_topk,
          .expert_alignment = inputs.expert_alignment,
          .do_expand = true};
}

DrawnRouting draw_routing(const PlanInputs& inputs, const RoutingShape& shape, int num_tokens) {
  DrawnRouting drawn{.num_tokens = num_tokens, .num_topk = inputs.num_topk, .ids = {}, .counts = {}};
  drawn.ids.resize(static_cast<std::size_t>(shape.num_ranks) * static_cast<std::size_t>(num_tokens) *
                   static_cast<std::size_t>(inputs.num_topk));
  ExpertSampler sampler(inputs.num_experts, inputs.zipf_exponent, inputs.seed);
  const auto num_topk = static_cast<std::size_t>(inputs.num_topk);
  for (std::size_t i = 0; i < drawn.ids.size(); i += num_topk)
    sampler.draw(std::span(drawn.ids).subspan(i, num_topk));
  for (int rank = 0; rank < shape.num_ranks; ++rank)
    drawn.counts.push_back(count_routing(drawn.of(rank), shape, rank));
  return drawn;
}

/// Every rank's summary in turn, as the exclusive scan and the sum over ranks would give it.
class SummaryScan {
 public:
  explicit SummaryScan(const std::vector<RoutingCounts>& counts) : counts_(counts) {
    const std::size_t num_entries = counts.front().block().size();
    summary_.before.resize(num_entries);
    summary_.total.resize(num_entries);
    summary_.received.resize(counts.size());
    for (const RoutingCounts& source : counts) add(source.block(), summary_.total);
  }

  const CountSummary& of_next_rank() {
    if (next_ > 0) add(summary_.own, summary_.before);
    const auto own = counts_[next_].block();
    summary_.own.assign(own.begin(), own.end());
    for (std::size_t s = 0; s < counts_.size(); ++s) summary_.received[s] = counts_[s].block()[next_];
    ++next_;
    return summary_;
  }

 private:
  static void add(std::span<const std::int32_t> block, std::vector<std::int64_t>& sums) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += block[i];
  }

  const std::vector<RoutingCounts>& counts_;
  std::size_t next_ = 0;
  CountSummary summary_;
};

ReceivedRows scaled_rows(const ReceiveLayout& layout, double scale, int alignment) {
  ReceivedRows rows{.num_tokens = scale * layout.num_recv_tokens};
  for (const std::int32_t num_pairs : layout.num_recv_tokens_per_expert)
    rows.num_expanded += std::ceil(std::ceil(scale * num_pairs) / alignment) * alignment;
  return rows;
}

}  // namespace

SampledRouting sample_routing(const PlanInputs& inputs, std::int64_t max_total_tokens) {
  const RoutingShape shape = shape_of(inputs);
  const std::int64_t wanted = std::max(kMinTokensOfARank, max_total_tokens / shape.num_ranks);
  const auto num_tokens = static_cast<int>(std::min(inputs.num_tokens, wanted));
  const DrawnRouting drawn = draw_routing(inputs, shape, num_tokens);

  SampledRouting sampled{.num_sampled_tokens = num_tokens,
                         .scale = static_cast<double>(inputs.num_tokens) / num_tokens,
                         .tokens = CountTable(shape.num_ranks, shape.num_ranks),
                         .pairs = CountTable(shape.num_ranks, shape.num_ranks),
                         .domains = CountTable(shape.num_ranks, inputs.num_scaleout_ranks),
                         .received = {}};
  // A token crosses to a domain once, as it would to a rank that had all the domain's experts.
  RoutingShape domains = shape;
  domains.num_ranks = inputs.num_scaleout_ranks;

  SummaryScan summaries(drawn.counts);
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const CountSummary& summary = summaries.of_next_rank();
    const SendPlan plan = plan_send(drawn.of(rank), summary, shape);
    for (int to = 0; to < shape.num_ranks; ++to) {
      sampled.tokens.at(rank, to) = plan.num_tokens_per_rank[static_cast<std::size_t>(to)];
      sampled.pairs.at(rank, to) = plan.num_pairs_per_rank[static_cast<std::size_t>(to)];
    }
    RoutingCounts per_domain = count_routing(drawn.of(rank), domains, rank);
    for (int domain = 0; domain < domains.num_ranks; ++domain)
      sampled.domains.at(rank, domain) = per_domain.tokens_per_rank()[static_cast<std::size_t>(domain)];
    sampled.received.push_back(
        scaled_rows(plan_receive(summary, shape, rank), sampled.scale, shape.expert_alignment));
  }
  return sampled;
}

}  // namespace flexep::tool
