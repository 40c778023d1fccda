// SPDX-License-Identifier: Apache-2.0
#include "flexep/memory_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/math.h"
#include "flexep/plan_model.h"
#include "routing/output_layout.h"
#include "routing/receive_layout.h"
#include "routing/waves.h"

namespace flexep {
namespace {

void check_inputs(const MemoryInputs& in) {
  require_argument(in.num_tokens > 0 && in.num_tokens <= std::numeric_limits<std::int32_t>::max(),
                   "num_tokens", "num_tokens is {}, outside [1, 2^31)", in.num_tokens);
  require_argument(in.hidden > 0, "hidden", "hidden is {}, but must be positive", in.hidden);
  require_argument(in.expert_alignment > 0, "expert_alignment",
                   "expert_alignment is {}, but must be positive", in.expert_alignment);
  require_argument(in.num_domains > 0 && in.num_ranks % in.num_domains == 0, "num_domains",
                   "num_domains is {}, which does not divide {} ranks", in.num_domains, in.num_ranks);
  require_argument(in.max_staging_bytes > 0, "max_staging_bytes",
                   "max_staging_bytes is {}, but must be positive", in.max_staging_bytes);
  require_argument(in.num_live_dispatches >= 0, "num_live_dispatches",
                   "num_live_dispatches is {}, but must not be negative", in.num_live_dispatches);
}

// Every expert of a rank gets its share of the pairs, every rank its share of the tokens.
ReceiveSize uniform_receive_size(const MemoryInputs& in, double ranks_per_token) {
  const auto tokens = static_cast<double>(in.num_tokens);
  const std::int64_t num_local_experts = in.num_experts / in.num_ranks;
  const auto pairs_per_expert = static_cast<std::int64_t>(
      std::ceil(tokens * in.num_ranks * in.num_topk / static_cast<double>(in.num_experts)));
  const std::int64_t num_expanded =
      num_local_experts * align_up(pairs_per_expert, std::int64_t{in.expert_alignment});
  const double num_tokens = std::ceil(tokens * ranks_per_token);
  require_argument(
      std::max(num_tokens, static_cast<double>(num_expanded)) < std::numeric_limits<std::int32_t>::max(),
      "num_tokens", "num_tokens is {}: outputs would have more than 2^31 - 1 rows", in.num_tokens);
  return {static_cast<int>(num_tokens), static_cast<int>(num_expanded)};
}

ReceiveSize receive_size(const MemoryInputs& in) {
  // Checks experts and top-k, too.
  const double ranks_per_token =
      explain_num_sms(
          {.num_scaleup_ranks = in.num_ranks, .num_experts = in.num_experts, .num_topk = in.num_topk})
          .ranks_per_token;
  if (!in.is_worst_case) return uniform_receive_size(in, ranks_per_token);
  const RoutingShape shape{.num_ranks = in.num_ranks,
                           .num_experts = in.num_experts,
                           .num_topk = in.num_topk,
                           .expert_alignment = in.expert_alignment,
                           .do_expand = in.do_expand};
  return bound_receive_size(shape, static_cast<int>(in.num_tokens), in.max_recv_tokens);
}

std::int64_t aligned(std::int64_t num_bytes) {
  return align_up(num_bytes, static_cast<std::int64_t>(OutputLayout::kAlignment));
}

// The larger of what a dispatch and a combine need.
std::int64_t staging_bytes(const MemoryInputs& in, const OutputFormat& rows, std::size_t combined_row_bytes) {
  if (in.num_domains == 1) return 0;
  const int num_partners =
      in.allow_hybrid_mode ? in.num_domains - 1 : in.num_ranks - in.num_ranks / in.num_domains;
  const WaveLimits limits{.max_staging_bytes = static_cast<std::size_t>(in.max_staging_bytes),
                          .num_partners = num_partners,
                          .num_max_tokens_per_rank = static_cast<int>(in.num_tokens)};
  const CombineFormat combined{.num_topk = in.num_topk,
                               .row_bytes = combined_row_bytes,
                               .weight_bytes = rows.weight_bytes,
                               .is_row_per_token = CombineFormat::has_row_per_token(
                                   in.allow_hybrid_mode, in.do_expand, in.allow_multiple_reduction)};
  return static_cast<std::int64_t>(std::max(plan_dispatch_waves(rows, limits).num_bytes(),
                                            plan_combine_waves(combined, limits).num_bytes()));
}

}  // namespace

MemoryNeed plan_memory(const MemoryInputs& in) {
  check_inputs(in);
  const ReceiveSize size = receive_size(in);
  const std::size_t weight_bytes = in.weight_dtype ? size_of(*in.weight_dtype) : 0;
  const OutputFormat format{.do_expand = in.do_expand,
                            .num_topk = in.num_topk,
                            .row_bytes = static_cast<std::size_t>(in.hidden) * size_of(in.dtype),
                            .idx_bytes = size_of(in.idx_dtype),
                            .weight_bytes = weight_bytes,
                            .num_sf_packs = in.num_sf_packs};
  const OutputLayout layout(format, size);
  const std::int64_t num_rows = size.num_rows(in.do_expand);
  const std::int64_t combined_row_bytes = in.hidden * static_cast<std::int64_t>(size_of(in.combine_dtype));
  return {
      .num_recv_tokens = size.num_recv_tokens,
      .num_rows = num_rows,
      .recv_x = static_cast<std::int64_t>(layout.x_bytes),
      .recv_sf = static_cast<std::int64_t>(layout.sf_bytes),
      .recv_topk_idx = static_cast<std::int64_t>(layout.topk_idx_bytes),
      .recv_topk_weights = static_cast<std::int64_t>(layout.topk_weights_bytes),
      .recv_src_metadata = static_cast<std::int64_t>(layout.metadata_bytes),
      .expert_output = aligned(num_rows * combined_row_bytes),
      .combined_x = aligned(in.num_tokens * combined_row_bytes),
      .combined_topk_weights = aligned(in.num_tokens * in.num_topk * static_cast<std::int64_t>(weight_bytes)),
      .num_live_dispatches = in.num_live_dispatches,
      .staging = staging_bytes(in, format, static_cast<std::size_t>(combined_row_bytes))};
}

std::string MemoryNeed::to_string() const {
  std::string text = fmt::format("{} live dispatches of {} rows ({} tokens), bytes each:\n",
                                 num_live_dispatches, num_rows, num_recv_tokens);
  const auto add = [&](const char* purpose, std::int64_t num_bytes) {
    text += fmt::format("  {:<24}{:>18}\n", purpose, num_bytes);
  };
  add("recv.x", recv_x);
  add("recv.sf", recv_sf);
  add("recv.topk_idx", recv_topk_idx);
  add("recv.topk_weights", recv_topk_weights);
  add("recv_src_metadata", recv_src_metadata);
  text += "one combine, bytes:\n";
  add("expert output", expert_output);
  add("combined.x", combined_x);
  add("combined.topk_weights", combined_topk_weights);
  if (staging > 0) {
    text += "beside the arena, bytes:\n";
    add("staging between domains", staging);
  }
  add("total", total_bytes());
  return text;
}

}  // namespace flexep
