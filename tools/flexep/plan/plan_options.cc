// SPDX-License-Identifier: Apache-2.0
#include "plan/plan_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include "errors.h"
#include "plan/growth.h"
#include "plan/machine_file.h"

namespace flexep::tool {
namespace {

constexpr int kMaxRanks = 4096;
constexpr int kMaxExperts = 65536;
constexpr int kMaxTopk = 1024;
constexpr std::int64_t kMaxTokens = 1 << 20;

void require(bool condition, std::string_view option, const auto& value, std::string_view rule) {
  if (!condition) throw UsageError(fmt::format("{} {}: {}", option, value, rule));
}

void require_range(std::string_view option, std::int64_t value, std::int64_t lowest, std::int64_t highest) {
  require(lowest <= value && value <= highest, option, value,
          fmt::format("not from {} to {}", lowest, highest));
}

/// Whether all of `text` is a number.
template <typename T>
bool parse(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

void set_topology(const std::string& topology, PlanInputs& inputs) {
  const auto cross = topology.find('x');
  const std::string_view text = topology;
  int domains = 0, ranks = 0;
  const bool is_topology = cross != std::string::npos && parse(text.substr(0, cross), domains) &&
                           parse(text.substr(cross + 1), ranks) && domains > 0 && ranks > 0;
  require(is_topology, "--topology", topology, "not SOxSU, domains of ranks, as in 2x8");
  require(domains <= kMaxRanks / ranks, "--topology", topology, fmt::format("more than {} ranks", kMaxRanks));
  inputs.num_scaleout_ranks = domains;
  inputs.num_scaleup_ranks = ranks;
}

double zipf_exponent(const std::string& skew) {
  if (skew == "uniform") return 0;
  constexpr std::string_view kPrefix = "zipf:";
  double exponent = -1;
  const bool is_known = skew.starts_with(kPrefix) &&
                        parse(std::string_view(skew).substr(kPrefix.size()), exponent) && exponent >= 0 &&
                        exponent <= 10;
  require(is_known, "--skew", skew, "neither uniform nor zipf:S with S from 0 to 10");
  return exponent;
}

DType element_type(const std::string& dtype) {
  std::string names;
  for (const DType type : {DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64}) {
    if (dtype == name_of(type)) return type;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name_of(type));
  }
  throw UsageError(fmt::format("--dtype {}: not one of {}", dtype, names));
}

void validate_machine(const PlanOptions& options) {
  const auto require_rate = [](std::string_view option, double value) {
    require(std::isfinite(value) && value > 0, option, value, "not a positive number");
  };
  const auto require_time = [](std::string_view option, double value) {
    require(std::isfinite(value) && value >= 0, option, value, "not a number of at least 0");
  };
  require_rate("--link-gbs", options.link_gbs);
  require_rate("--net-gbs", options.net_gbs);
  require_rate("--memory-gbs", options.memory_gbs);
  require_rate("--chunk-mib", options.chunk_mib);
  require_time("--link-us", options.link_us);
  require_time("--net-us", options.net_us);
  require_time("--message-us", options.message_us);
}

Machine machine_of(const PlanOptions& options) {
  validate_machine(options);
  Machine machine{.link_gbs = options.link_gbs,
                  .net_gbs = options.net_gbs,
                  .link_us = options.link_us,
                  .net_us = options.net_us,
                  .message_us = options.message_us,
                  .chunk_mib = options.chunk_mib,
                  .dispatch = {.memory_gbs = options.memory_gbs},
                  .combine = {.memory_gbs = options.memory_gbs}};
  if (!options.machine_file.empty()) read_machine_file(options.machine_file, machine);
  return machine;
}

void validate_model(const PlanInputs& inputs, int most_ranks) {
  const int num_ranks = inputs.num_ranks();
  require_range("--experts", inputs.num_experts, 1, kMaxExperts);
  require(inputs.num_experts % num_ranks == 0, "--experts", inputs.num_experts,
          fmt::format("not a multiple of the {} ranks", num_ranks));
  require_range("--topk", inputs.num_topk, 1, std::min(inputs.num_experts, kMaxTopk));
  require_range("--tokens", inputs.num_tokens, 1, kMaxTokens);
  require_range("--hidden", inputs.hidden, 1, 1 << 20);
  require(static_cast<std::int64_t>(inputs.row_bytes()) % 16 == 0, "--hidden", inputs.hidden,
          "a row is not a multiple of 16 bytes");
  require_range("--alignment", inputs.expert_alignment, 1, 1 << 16);
  // Whatever the routing, what comes to one rank has to fit 31 bits.
  const int num_local = experts_for(most_ranks, inputs.num_experts) / most_ranks;
  const double most_rows = static_cast<double>(most_ranks) * static_cast<double>(inputs.num_tokens) *
                               std::min(inputs.num_topk, num_local) +
                           static_cast<double>(num_local) * inputs.expert_alignment;
  require(most_rows < std::numeric_limits<std::int32_t>::max(), "--tokens", inputs.num_tokens,
          fmt::format("{} ranks could send one of them more than 2^31 - 1 rows", most_ranks));
}

}  // namespace

PlanInputs resolve(const PlanOptions& options) {
  PlanInputs inputs{.num_experts = options.num_experts,
                    .num_topk = options.num_topk,
                    .num_tokens = options.num_tokens,
                    .hidden = options.hidden,
                    .dtype = element_type(options.dtype),
                    .expert_alignment = options.expert_alignment,
                    .zipf_exponent = zipf_exponent(options.skew),
                    .seed = options.seed,
                    .machine = machine_of(options)};
  set_topology(options.topology, inputs);
  require_range("--max-ranks", options.max_ranks, inputs.num_scaleup_ranks, kMaxRanks);
  // A plan looks at twice the ranks too.
  const int most_ranks = options.simulate ? std::max(options.max_ranks, inputs.num_ranks())
                                          : std::min(2 * inputs.num_ranks(), kMaxRanks);
  validate_model(inputs, most_ranks);
  return inputs;
}

}  // namespace flexep::tool
