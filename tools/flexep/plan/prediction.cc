// SPDX-License-Identifier: Apache-2.0
#include "plan/prediction.h"

#include <algorithm>
#include <cmath>

namespace flexep::tool {
namespace {

constexpr double kBytesPerMicrosecond = 1e3;  // of one GB/s
constexpr int kNumExchanges = 2;

const HostCosts& costs_of(const PlanInputs& inputs, Operation operation) {
  switch (operation) {
    case Operation::kDispatch:
      return inputs.machine.dispatch;
    case Operation::kCombine:
      return inputs.machine.combine;
  }
  return inputs.machine.dispatch;
}

/// Ranks of a machine for each core that they share.
double ranks_per_core(const PlanInputs& inputs, const HostCosts& costs) {
  if (costs.num_cores == 0) return 1;
  return std::max(1.0, static_cast<double>(inputs.num_ranks_of_machine()) / costs.num_cores);
}

double travel_us(const PlanInputs& inputs, const Variant& variant) {
  const Machine& machine = inputs.machine;
  const double inside_us = inputs.num_scaleup_ranks > 1 ? machine.link_us : 0;
  if (inputs.num_scaleout_ranks == 1) return inside_us;
  if (!variant.is_hybrid) return machine.net_us;
  const double chunk_us = machine.chunk_mib * 1024 * 1024 / machine.link_gbs / kBytesPerMicrosecond;
  return machine.net_us + inside_us + chunk_us;
}

}  // namespace

double Prediction::floor_us() const {
  return std::max({link_us, net_us, memory_us});
}

std::string_view Prediction::bottleneck() const {
  if (exchange_us + travel_us + host_us > floor_us()) return "latency";
  if (net_us == floor_us()) return "scale-out link";
  return link_us == floor_us() ? "scale-up link" : "memory";
}

double bytes_on_link(const PlanInputs& inputs, Operation operation) {
  return inputs.row_bytes() + (operation == Operation::kDispatch ? inputs.side_bytes() : 0);
}

double memory_us(const PlanInputs& inputs, Operation operation, const RankLoad& load) {
  const HostCosts& costs = costs_of(inputs, operation);
  const double num_sharing = costs.is_shared ? inputs.num_ranks_of_machine() : 1;
  const double num_bytes = num_sharing * (load.rows_read + load.rows_written) * inputs.row_bytes();
  const double cached_bytes = std::min(num_bytes, costs.cache_bytes);
  return (cached_bytes / costs.cache_gbs + (num_bytes - cached_bytes) / costs.memory_gbs) /
         kBytesPerMicrosecond;
}

double exchange_us(const PlanInputs& inputs) {
  const Machine& machine = inputs.machine;
  const double count_bytes = 4.0 * (inputs.num_ranks() + inputs.num_experts);
  double us = 0;
  if (inputs.num_scaleup_ranks > 1) {
    us += machine.link_us +
          (inputs.num_scaleup_ranks - 1) * count_bytes / machine.link_gbs / kBytesPerMicrosecond;
  }
  // A scan and a sum over domains double their reach with each step.
  const double num_steps = std::ceil(std::log2(inputs.num_scaleout_ranks));
  return us + num_steps * (machine.net_us + 2 * count_bytes / machine.net_gbs / kBytesPerMicrosecond);
}

double host_us(const PlanInputs& inputs, Operation operation, const RankLoad& load) {
  const HostCosts& costs = costs_of(inputs, operation);
  const double sent_bytes = load.net_rows() * inputs.row_bytes();
  const double work_us = costs.rank_us * inputs.num_ranks_of_machine() + costs.pair_ns * load.pairs / 1e3 +
                         costs.domains_us * std::log2(inputs.num_scaleout_ranks) +
                         sent_bytes / costs.crossing_gbs / kBytesPerMicrosecond;
  return costs.operation_us + ranks_per_core(inputs, costs) * work_us;
}

Prediction predict(const PlanInputs& inputs, const Variant& variant, const RankLoad& busiest) {
  const Machine& machine = inputs.machine;
  const double row_bytes = bytes_on_link(inputs, variant.operation);
  return {.link_us = busiest.link_rows() * row_bytes / machine.link_gbs / kBytesPerMicrosecond,
          .net_us = busiest.net_rows() * row_bytes / machine.net_gbs / kBytesPerMicrosecond +
                    busiest.messages * machine.message_us,
          .memory_us = memory_us(inputs, variant.operation, busiest),
          .exchange_us = kNumExchanges * exchange_us(inputs),
          .travel_us = travel_us(inputs, variant),
          .host_us = host_us(inputs, variant.operation, busiest)};
}

}  // namespace flexep::tool
