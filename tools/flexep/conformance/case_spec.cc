// SPDX-License-Identifier: Apache-2.0
#include "conformance/case_spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "conformance/random.h"

namespace flexep::conformance {
namespace {

const char* name_of(RoutingKind kind) {
  switch (kind) {
    case RoutingKind::kUniform:
      return "uniform";
    case RoutingKind::kSomeUnrouted:
      return "some unrouted";
    case RoutingKind::kNothingRouted:
      return "nothing routed";
    case RoutingKind::kOneExpert:
      return "one expert";
    case RoutingKind::kOwnRank:
      return "own rank";
    case RoutingKind::kZipf:
      return "zipf";
  }
  return "unknown";
}

const char* name_of(ValueKind kind) {
  switch (kind) {
    case ValueKind::kOrdinary:
      return "ordinary";
    case ValueKind::kWide:
      return "wide";
    case ValueKind::kSpecial:
      return "special";
  }
  return "unknown";
}

/// A row is a multiple of 16 bytes: usually short, sometimes longer than any vector loop's unrolled body.
int draw_hidden(Random& random, DType dtype) {
  const int units = random.one_in(8) ? random.in_range(40, 200) : random.in_range(1, 12);
  return units * 16 / static_cast<int>(size_of(dtype));
}

int draw_num_tokens(Random& random) {
  if (random.one_in(5)) return 0;
  return random.one_in(10) ? random.in_range(30, 120) : random.in_range(1, 20);
}

DType draw_summable_dtype(Random& random) {
  return random.one_of(
      {DType::kBFloat16, DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64});
}

DType draw_payload_dtype(Random& random) {
  if (!random.one_in(4)) return draw_summable_dtype(random);
  return random.one_of(
      {DType::kFloat8E4M3, DType::kUInt8, DType::kInt8, DType::kInt16, DType::kInt32, DType::kInt64});
}

/// Limits around what ranks receive: some bite, some do not, some ranks have none.
void draw_limits(Random& random, CaseSpec& spec) {
  spec.max_recv_tokens.assign(spec.num_tokens.size(), 0);
  if (!random.one_in(4)) return;
  const int total = std::accumulate(spec.num_tokens.begin(), spec.num_tokens.end(), 0);
  for (int& limit : spec.max_recv_tokens) {
    if (!random.one_in(3)) limit = random.in_range(1, std::max(2, spec.do_expand ? 2 * total : total));
  }
}

void draw_extras(Random& random, CaseSpec& spec) {
  draw_limits(random, spec);
  if (random.one_in(4)) spec.idx_dtype = DType::kInt32;
  if (random.one_in(3)) spec.num_sf_packs = random.in_range(1, 9);
  if (random.one_in(2)) spec.sf_dtype = DType::kInt32;
  spec.sf_is_col_major = random.one_in(2);
  spec.num_biases = random.one_in(2) ? random.in_range(1, 2) : 0;
  spec.is_strided = random.one_in(4);
  spec.do_handle_copy = !random.one_in(4);
}

void draw_routing(Random& random, CaseSpec& spec) {
  const int num_local_experts = random.one_in(6) ? random.in_range(8, 40) : random.in_range(1, 6);
  spec.num_experts = num_local_experts * spec.num_ranks();
  spec.num_topk = random.in_range(1, std::min(spec.num_experts, random.one_in(8) ? 20 : 8));
  spec.routing = random.one_of({RoutingKind::kUniform, RoutingKind::kUniform, RoutingKind::kSomeUnrouted,
                                RoutingKind::kSomeUnrouted, RoutingKind::kZipf, RoutingKind::kOwnRank,
                                RoutingKind::kOneExpert});
  if (random.one_in(20)) spec.routing = RoutingKind::kNothingRouted;
}

/// What fits the buffers that dispatch without host sync.
void drop_host_sync(CaseSpec& spec) {
  spec.do_cpu_sync = false;
  spec.num_max_tokens_per_rank = 0;
  for (int& num_tokens : spec.num_tokens) num_tokens = std::min(num_tokens, kNoSyncMaxTokens);
}

/// Some 6 MiB of rows from each rank, so much that kernels store around the caches.
void make_large(Random& random, CaseSpec& spec) {
  for (int& num_tokens : spec.num_tokens) num_tokens = random.in_range(700, 900) / spec.num_topk;
  spec.hidden = 8192 / static_cast<int>(size_of(spec.dtype));
  spec.expert_hidden = 8192 / static_cast<int>(size_of(spec.expert_dtype));
}

}  // namespace

int CaseSpec::agreed_num_max_tokens() const {
  if (!do_cpu_sync) return kNoSyncMaxTokens;
  return num_max_tokens_per_rank > 0 ? num_max_tokens_per_rank : *std::ranges::max_element(num_tokens);
}

reference::DispatchOptions CaseSpec::dispatch_options() const {
  return {.num_experts = num_experts,
          .expert_alignment = expert_alignment,
          .do_expand = do_expand,
          .do_zero_padding = do_zero_padding,
          .num_max_tokens_per_rank = agreed_num_max_tokens(),
          .max_recv_tokens = max_recv_tokens};
}

reference::CombineOptions CaseSpec::combine_options() const {
  return {.allow_multiple_reduction = allow_multiple_reduction,
          .num_scaleup_ranks = allow_hybrid_mode ? num_scaleup_ranks : 0};
}

std::string CaseSpec::to_string() const {
  std::string text = fmt::format(
      "tokens {}, top-{} of {} experts ({}), {} layout, alignment {}{}{}, rows {} x {}, back {} x {}, "
      "weights {}, "
      "values {}, N {}, num_sms {}{}",
      fmt::join(num_tokens, "/"), num_topk, num_experts, name_of(routing), do_expand ? "expanded" : "compact",
      expert_alignment, do_zero_padding ? ", zeroed gaps" : "",
      allow_multiple_reduction ? "" : ", single reduction", hidden, flexep::name_of(dtype), expert_hidden,
      flexep::name_of(expert_dtype), weights_dtype ? flexep::name_of(*weights_dtype) : "none",
      name_of(values), num_max_tokens_per_rank, num_sms, is_async ? ", asynchronous" : "");
  text += fmt::format(", ids {}, {} packs of {} sf{}, {} biases{}{}", flexep::name_of(idx_dtype),
                      num_sf_packs, flexep::name_of(sf_dtype), sf_is_col_major ? " by columns" : "",
                      num_biases, is_strided ? ", strided" : "", do_handle_copy ? "" : ", ids kept");
  if (!do_cpu_sync) text += ", no host sync";
  if (num_scaleup_ranks > 0) {
    text +=
        fmt::format(", domains of {} ranks, {}{}", num_scaleup_ranks, allow_hybrid_mode ? "hybrid" : "direct",
                    has_little_staging ? ", little staging" : "");
  }
  return text + fmt::format(", limits {}", fmt::join(max_recv_tokens, "/"));
}

CaseSpec draw_case(std::uint64_t seed, int num_ranks, int num_domains) {
  Random random(seed, static_cast<std::uint64_t>(num_ranks));
  CaseSpec spec{.seed = seed};
  for (int rank = 0; rank < num_ranks; ++rank) spec.num_tokens.push_back(draw_num_tokens(random));
  if (random.one_in(30)) std::ranges::fill(spec.num_tokens, 0);
  draw_routing(random, spec);

  spec.do_expand = random.one_in(2);
  spec.do_zero_padding = spec.do_expand && random.one_in(2);
  spec.allow_multiple_reduction = random.one_in(2);
  spec.expert_alignment = random.one_of({1, 1, 3, 16, 128});
  spec.num_sms = random.in_range(0, 3);
  spec.is_async = random.one_in(3);

  spec.dtype = draw_payload_dtype(random);
  const bool keeps_dtype = is_summable(spec.dtype) && !random.one_in(4);
  spec.expert_dtype = keeps_dtype ? spec.dtype : draw_summable_dtype(random);
  spec.hidden = draw_hidden(random, spec.dtype);
  const bool keeps_hidden = spec.expert_dtype == spec.dtype && !random.one_in(4);
  spec.expert_hidden = keeps_hidden ? spec.hidden : draw_hidden(random, spec.expert_dtype);
  if (!random.one_in(3))
    spec.weights_dtype = random.one_of({DType::kFloat32, DType::kFloat32, DType::kFloat64});
  draw_extras(random, spec);
  spec.values = random.one_of({ValueKind::kOrdinary, ValueKind::kWide, ValueKind::kSpecial});

  if (random.one_in(500)) make_large(random, spec);
  if (random.one_in(3)) spec.num_max_tokens_per_rank = spec.agreed_num_max_tokens() + random.in_range(1, 50);
  if (random.one_in(4)) drop_host_sync(spec);
  if (num_domains == 1) return spec;
  spec.num_scaleup_ranks = num_ranks / num_domains;
  spec.allow_hybrid_mode = !random.one_in(3);
  constexpr std::size_t kShortRow = 192;
  const auto row_bytes = [](int hidden, DType dtype) {
    return static_cast<std::size_t>(hidden) * size_of(dtype);
  };
  const std::size_t longest =
      std::max(row_bytes(spec.hidden, spec.dtype), row_bytes(spec.expert_hidden, spec.expert_dtype));
  spec.has_little_staging = longest <= kShortRow && !random.one_in(4);
  return spec;
}

}  // namespace flexep::conformance
