// SPDX-License-Identifier: Apache-2.0
#include "plan/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "errors.h"
#include "plan/least_squares.h"
#include "plan/load.h"
#include "plan/simulation.h"

namespace flexep::tool {
namespace {

constexpr std::size_t kFewestMeasurements = 10;
constexpr std::int64_t kSampledTokens = 1 << 14;
constexpr std::size_t kNumFeatures = 7;
constexpr double kMiB = 1024 * 1024;
constexpr double kUnnoticedGbs = 1e5;

using Half = std::vector<const Measurement*>;

/// FNV-1a: the same halves on every machine.
std::uint64_t hash_of(const std::string& name) {
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

/// The terms of host_us and memory_us of ranks that share their memory, before their costs.
std::vector<double> features_of(const Measurement& measured, double cache_bytes) {
  const PlanInputs& in = measured.inputs;
  const RankLoad load = uniform_load(in, measured.variant).mean;
  const double num_ranks = in.num_ranks();
  const double crowding = std::max(1.0, num_ranks / measured.num_cores);
  const double bytes = num_ranks * (load.rows_read + load.rows_written) * in.row_bytes();
  const double cached_bytes = std::min(bytes, cache_bytes);
  return {1,
          crowding * num_ranks,
          crowding * load.pairs / 1e3,
          cached_bytes / 1e3,
          (bytes - cached_bytes) / 1e3,
          crowding * std::log2(in.num_scaleout_ranks),
          crowding * load.net_rows() * in.row_bytes() / 1e3};
}

HostCosts costs_of(const std::vector<double>& coefficients, double cache_bytes, int num_cores) {
  // A cost that the fit finds to be none is a rate that nothing notices.
  const auto rate = [](double inverse) { return 1 / std::max(inverse, 1 / kUnnoticedGbs); };
  return {.operation_us = coefficients[0],
          .rank_us = coefficients[1],
          .pair_ns = coefficients[2],
          .memory_gbs = rate(coefficients[4]),
          .cache_gbs = rate(coefficients[3]),
          .cache_bytes = cache_bytes,
          .domains_us = coefficients[5],
          .crossing_gbs = rate(coefficients[6]),
          .is_shared = true,
          .num_cores = num_cores};
}

struct Fit {
  HostCosts costs;
  double squared_error = std::numeric_limits<double>::infinity();
};

Fit fit_with_cache(const Half& half, double cache_bytes) {
  std::vector<Equation> equations;
  for (const Measurement* measured : half)
    equations.push_back({features_of(*measured, cache_bytes), measured->least_us});
  const auto coefficients = fit_non_negative(equations, kNumFeatures);
  Fit fit{costs_of(coefficients, cache_bytes, half.front()->num_cores), 0};
  for (const auto& [features, target] : equations) {
    double sum = 0;
    for (std::size_t i = 0; i < kNumFeatures; ++i) sum += features[i] * coefficients[i];
    fit.squared_error += std::pow(sum / target - 1, 2);
  }
  return fit;
}

/// The size of cache that explains most: what a machine says of itself need not be what a guest of it gets.
HostCosts fit_costs(const Half& half) {
  Fit best;
  for (double cache_bytes = kMiB; cache_bytes <= 256 * kMiB; cache_bytes *= 2) {
    const Fit fit = fit_with_cache(half, cache_bytes);
    if (fit.squared_error < best.squared_error) best = fit;
  }
  return best.costs;
}

double simulated_us(const Measurement& measured, const HostCosts& costs) {
  PlanInputs inputs = measured.inputs;
  // What ranks do all share is among their costs.
  constexpr double kInstantly = std::numeric_limits<double>::infinity();
  inputs.machine = {.link_gbs = kInstantly,
                    .net_gbs = kInstantly,
                    .link_us = 0,
                    .net_us = 0,
                    .message_us = 0,
                    .plays_domains = true,
                    .dispatch = costs,
                    .combine = costs};
  const SampledRouting routing = sample_routing(inputs, kSampledTokens);
  const Load load = sampled_load(inputs, routing, measured.variant);
  return simulate(inputs, routing, measured.variant, load.mean).total_us;
}

/// One half by the hash of the name.
Half fitted_half(const Half& all) {
  Half half = all;
  std::ranges::sort(half, {}, [](const Measurement* measured) { return hash_of(measured->name()); });
  half.resize(half.size() / 2);
  return half;
}

}  // namespace

Calibration calibrate(const std::vector<Measurement>& measurements) {
  std::map<std::string, Half> by_op;
  for (const Measurement& measured : measurements) by_op[measured.op].push_back(&measured);
  for (const std::string op : {"dispatch", "cached_dispatch", "combine"}) {
    if (by_op[op].size() >= kFewestMeasurements) continue;
    throw UsageError(fmt::format("--calibrate: the files have {} different measurements of {}, fewer than {}",
                                 by_op[op].size(), op, kFewestMeasurements));
  }
  Calibration calibration;
  for (const auto& [op, all] : by_op) {
    const Half half = fitted_half(all);
    const HostCosts costs = fit_costs(half);
    calibration.costs[op] = costs;
    for (const Measurement* measured : all) {
      calibration.checked.push_back({.measurement = *measured,
                                     .is_fitted = std::ranges::find(half, measured) != half.end(),
                                     .predicted_us = simulated_us(*measured, costs)});
    }
  }
  return calibration;
}

double Calibration::worst_error() const {
  double worst = 0;
  for (const Checked& each : checked)
    if (!each.is_fitted && std::abs(each.relative_error()) > std::abs(worst)) worst = each.relative_error();
  return worst;
}

double Calibration::fraction_within(double error) const {
  double num_within = 0, num_predicted = 0;
  for (const Checked& each : checked) {
    if (each.is_fitted) continue;
    ++num_predicted;
    num_within += std::abs(each.relative_error()) <= error ? 1 : 0;
  }
  return num_within / num_predicted;
}

}  // namespace flexep::tool
