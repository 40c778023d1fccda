// SPDX-License-Identifier: Apache-2.0
#include "plan/load.h"
#include "plan/memory_rows.h"
#include "routing/topk_model.h"

namespace flexep::tool {
namespace {

double per_token(RowsPer rows, const PlanInputs& inputs) {
  switch (rows) {
    case RowsPer::kPair:
      return inputs.num_topk;
    case RowsPer::kRank:
      return expected_groups(inputs.num_ranks(), inputs.num_experts, inputs.num_topk);
    case RowsPer::kDomain:
      return expected_groups(inputs.num_scaleout_ranks, inputs.num_experts, inputs.num_topk);
  }
  return 0;
}

}  // namespace

Load uniform_load(const PlanInputs& inputs, const Variant& variant) {
  const double num_ranks = inputs.num_ranks();
  const double domain_size = inputs.num_scaleup_ranks;
  const double num_domains = inputs.num_scaleout_ranks;
  const auto tokens = static_cast<double>(inputs.num_tokens);
  const double placed = tokens * per_token(variant.placed(), inputs);
  const double placed_away = placed * (num_domains - 1) / num_domains;

  RankLoad load;
  // Who carries what comes from other domains stores its own part of it: in direct mode all.
  load.local = placed / num_ranks + placed_away / (variant.is_hybrid ? domain_size : 1);
  load.scaleup = placed * (domain_size - 1) / num_ranks;
  load.scaleout = tokens * per_token(variant.crossing(), inputs) * (num_domains - 1) / num_domains;
  if (variant.is_hybrid) {
    load.forwarded = placed_away * (domain_size - 1) / domain_size;
    load.scaleup += load.forwarded;
  }
  load.scaleup_back = load.scaleup;
  load.scaleout_back = load.scaleout;
  load.pairs = tokens * inputs.num_topk;
  const double num_partners = variant.is_hybrid ? num_domains - 1 : num_ranks - domain_size;
  if (num_partners > 0) load.messages = num_partners * messages_of(load.scaleout / num_partners, inputs);
  add_memory_rows(
      variant.operation,
      {.tokens = tokens, .placed = placed, .crossing_out = load.scaleout, .crossing_in = load.scaleout},
      load);
  return {.mean = load, .busiest = load};
}

}  // namespace flexep::tool
