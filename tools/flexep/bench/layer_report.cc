// SPDX-License-Identifier: Apache-2.0
#include "bench/layer_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

namespace flexep::tool {
namespace {

using Json = nlohmann::ordered_json;

/// Of the time that is in any step.
double share_of(const LayerResult& result, std::size_t step) {
  return result.steps_us[step] / std::reduce(result.steps_us.begin(), result.steps_us.end());
}

Json steps_of(const LayerResult& result) {
  Json steps;
  for (std::size_t step = 0; step < kLayerSteps.size(); ++step) {
    steps[std::string(kLayerSteps[step])] = {{"us", result.steps_us[step]},
                                             {"share", share_of(result, step)}};
  }
  return steps;
}

}  // namespace

const LayerResult& alltoall_of(const std::vector<LayerResult>& results, const LayerResult& result) {
  return *std::find_if(results.begin(), results.end(), [&](const LayerResult& other) {
    return other.op == result.op && other.dispatcher == "alltoall";
  });
}

Json json_of_layer(const BenchOptions& options, const LayerResult& result, const LayerResult& alltoall) {
  return {{"op", result.op},
          {"dispatcher", result.dispatcher},
          {"device", options.device},
          {"transport", options.transport},
          {"num_ranks", options.num_ranks},
          {"num_tokens", options.num_tokens},
          {"hidden", options.hidden},
          {"ffn", options.ffn},
          {"shared_ffn", options.shared_ffn},
          {"num_topk", options.num_topk},
          {"num_experts", options.num_experts},
          {"dtype", options.dtype},
          {"num_sms", options.num_sms},
          {"iters", options.num_iters},
          {"seed", options.seed},
          {"median_us", result.times.median_us},
          {"p99_us", result.times.p99_us},
          {"min_us", result.times.min_us},
          {"cpu_us", result.times.cpu_us},
          {"rest_us", result.rest_us},
          {"rest_speedup", alltoall.rest_us / result.rest_us},
          {"steps", steps_of(result)},
          {"shared_expert_hidden", result.shared_expert_hidden ? Json(*result.shared_expert_hidden) : Json()},
          {"verified", result.verified}};
}

void print_layer_table(const BenchOptions& options, const std::vector<LayerResult>& results) {
  fmt::print(
      "MoE layer, {} ranks ({}), {} tokens each, hidden {}, {}, top-{} of {} experts, ffn {}, shared ffn {}; "
      "us, slowest rank;\nrest: all but the GEMMs (the router's products, the experts); speedup: of the "
      "rest, over alltoall; shares of the "
      "steps in %\n",
      options.num_ranks, options.transport, options.num_tokens, options.hidden, options.dtype,
      options.num_topk, options.num_experts, options.ffn, options.shared_ffn);
  constexpr auto kRow = "{:<22} {:<23} {:>11} {:>11} {:>11} {:>8} {:>7} {:>10} {:>9} {:>8} {:>8} {:>7}  {}\n";
  fmt::print(kRow, "op", "dispatcher", "median", "min", "rest", "speedup", "router", "its gemms", "dispatch",
             "experts", "combine", "shared", "verified");
  for (const LayerResult& result : results) {
    const auto decimal = [](double value, int digits) { return fmt::format("{:.{}f}", value, digits); };
    const auto share = [&](std::size_t step) { return decimal(100 * share_of(result, step), 1); };
    fmt::print(kRow, result.op, result.dispatcher, decimal(result.times.median_us, 1),
               decimal(result.times.min_us, 1), decimal(result.rest_us, 1),
               decimal(alltoall_of(results, result).rest_us / result.rest_us, 2), share(0), share(1),
               share(2), share(3), share(4), share(5), result.verified ? "yes" : "NO");
  }
  for (const LayerResult& result : results) {
    if (!result.shared_expert_hidden) continue;
    fmt::print("{} with {} hides {:.1f}% of the shared expert\n", result.op, result.dispatcher,
               100 * *result.shared_expert_hidden);
  }
}

}  // namespace flexep::tool
