// SPDX-License-Identifier: Apache-2.0
#include "conformance/expected_results.h"

#include <algorithm>

#include "conformance/case_data.h"

namespace flexep::conformance {
namespace {

std::vector<reference::CombineInput> unchanged(const std::vector<reference::RankOutput>& received) {
  std::vector<reference::CombineInput> rows;
  for (const auto& output : received) rows.push_back({.x = output.x, .topk_weights = output.topk_weights});
  return rows;
}

}  // namespace

ExpectedResults::ExpectedResults(const CaseSpec& spec) {
  const auto dispatch_options = spec.dispatch_options();
  const reference::CombineOptions combine_options{.allow_multiple_reduction = spec.allow_multiple_reduction};
  inputs = make_inputs(spec);
  received = reference::dispatch(inputs, dispatch_options);
  cached_inputs = make_cached_inputs(spec, inputs);
  cached_received = reference::dispatch(cached_inputs, dispatch_options);
  expert_outputs = make_expert_outputs(spec, received);
  combined = reference::combine(inputs, dispatch_options, expert_outputs, combine_options);
  if (is_summable(spec.dtype)) {
    round_trip = reference::combine(inputs, dispatch_options, unchanged(received), combine_options);
  }
}

std::vector<bool> real_rows(const CaseSpec& spec, const reference::RankOutput& received) {
  const auto num_rows = static_cast<std::size_t>(received.x.size(0));
  if (!spec.do_expand) return std::vector<bool>(num_rows, true);
  std::vector<bool> is_real(num_rows, false);
  for (std::size_t expert = 0; expert < received.num_recv_tokens_per_expert.size(); ++expert) {
    const std::int32_t end = received.psum_num_recv_tokens_per_expert[expert];
    const std::int32_t count = received.num_recv_tokens_per_expert[expert];
    std::fill(is_real.begin() + (end - count), is_real.begin() + end, true);
  }
  return is_real;
}

}  // namespace flexep::conformance
