// SPDX-License-Identifier: Apache-2.0
#include "bench/report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "bench/layer_report.h"
#include "build_info.h"
#include "cuda_devices.h"
#include "json_output.h"

namespace flexep::tool {
namespace {

using Json = nlohmann::ordered_json;

/// "AMD EPYC 9654 96-Core Processor, 2 cores": the hardware, not its name in a network.
std::string describe_machine() {
  std::string model = "unknown processor";
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    model = line.substr(std::min(line.size(), line.find(':') + 2));
    break;
  }
  return fmt::format("{}, {} cores", model, std::thread::hardware_concurrency());
}

double fraction_of_floor(const BenchResult& result) {
  return result.floor->median_us / result.times.median_us;
}

/// Of a round trip; the inverse of a fraction, since what is asked is stated so.
double over_barrier_and_copies(const BenchResult& result) {
  return result.times.median_us / result.barrier_and_copies->median_us;
}

/// What each thread, or multiprocessor, of the ranks with tokens moves: GB/s, read and written.
struct RatePerSm {
  double all = 0;
  double written = 0;
};

RatePerSm rate_per_sm(const BenchOptions& options, const BenchResult& result) {
  const double num_sms = options.num_active_ranks * result.num_sms;
  const auto rate = [&](std::int64_t num_bytes) {
    return static_cast<double>(num_bytes) / (result.times.median_us * 1000) / num_sms;
  };
  return {rate(result.bytes->bytes_read + result.bytes->bytes_written), rate(result.bytes->bytes_written)};
}

Json median_or_null(const std::optional<Times>& times) {
  return times ? Json(times->median_us) : Json();
}

Json json_of(const GemmBeside& gemm) {
  return {{"num_sms", gemm.num_sms},     {"alone_us", gemm.alone_us},   {"beside_us", gemm.beside_us},
          {"tflops_alone", gemm.tflops}, {"slowdown", gemm.slowdown()}, {"is_right", gemm.is_right}};
}

Json json_of(const BenchOptions& options, const BenchResult& result) {
  const auto bytes = [&](std::int64_t OperationCounters::*counter) {
    return result.bytes ? Json((*result.bytes).*counter) : Json();
  };
  return {{"op", result.op},
          {"mode", result.num_domains > 1 ? options.mode : "direct"},
          {"device", options.device},
          {"num_gpus", options.num_gpus_used()},
          {"transport", options.transport},
          {"num_ranks", options.num_ranks},
          {"num_domains", result.num_domains},
          {"num_tokens", options.num_tokens},
          {"hidden", options.hidden},
          {"num_topk", options.num_topk},
          {"num_experts", options.num_experts},
          {"dtype", options.dtype},
          {"layout", options.layout},
          {"routing", options.routing},
          {"input", options.input},
          {"memory", options.memory},
          {"sync", options.sync},
          {"ops_per_graph", options.num_ops_per_graph},
          {"num_active_ranks", options.has_idle_ranks() ? options.num_active_ranks : options.num_ranks},
          {"num_sms", result.num_sms},
          {"iters", options.num_iters},
          {"seed", options.seed},
          {"median_us", result.times.median_us},
          {"p99_us", result.times.p99_us},
          {"min_us", result.times.min_us},
          {"cpu_us", result.times.cpu_us},
          {"floor_us", median_or_null(result.floor)},
          {"fraction_of_floor", result.floor ? Json(fraction_of_floor(result)) : Json()},
          {"barrier_and_copies_us", median_or_null(result.barrier_and_copies)},
          {"round_trip_over_barrier_and_copies",
           result.barrier_and_copies ? Json(over_barrier_and_copies(result)) : Json()},
          {"baseline_us", median_or_null(result.baseline)},
          {"bytes_read", bytes(&OperationCounters::bytes_read)},
          {"bytes_written", bytes(&OperationCounters::bytes_written)},
          {"link_bytes", bytes(&OperationCounters::link_bytes)},
          {"scaleout_bytes", bytes(&OperationCounters::bytes_scaleout)},
          {"staging_bytes", bytes(&OperationCounters::staging_bytes)},
          {"gemm_beside", result.gemm ? json_of(*result.gemm) : Json()},
          {"verified", result.verified}};
}

Json json_of_run(const BenchOptions& options, const BenchResults& results, const std::string& command) {
  const BuildInfo build = build_info();
  Json list = Json::array();
  for (const BenchResult& result : results.operations) list.push_back(json_of(options, result));
  for (const LayerResult& result : results.layers) {
    list.push_back(json_of_layer(options, result, alltoall_of(results.layers, result)));
  }
  return {{"schema_version", 1},
          {"machine", options.device == "cuda" ? cuda_device_name() : describe_machine()},
          {"commit", build.commit.empty() ? Json() : Json(build.commit)},
          {"dirty", build.commit.empty() ? Json() : Json(build.dirty)},
          {"date", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
          {"command", command},
          {"results", std::move(list)}};
}

const BenchResult* find_op(const std::vector<BenchResult>& results, std::string_view op) {
  const auto found =
      std::find_if(results.begin(), results.end(), [&](const auto& each) { return each.op == op; });
  return found == results.end() ? nullptr : &*found;
}

std::string number_or_dash(const std::optional<double>& value, int num_decimals) {
  return value ? fmt::format("{:.{}f}", *value, num_decimals) : "-";
}

/// What is not as usual.
void print_variant(const BenchOptions& options) {
  if (options.num_gpus_used() > 1) fmt::print("on {} GPUs\n", options.num_gpus_used());
  if (options.memory != "device") fmt::print("rows in {} memory\n", options.memory);
  if (!options.do_cpu_sync()) fmt::print("no host sync");
  if (options.num_ops_per_graph > 0)
    fmt::print(", {} operations in a graph, per operation", options.num_ops_per_graph);
  if (!options.do_cpu_sync()) fmt::print("\n");
}

/// What each GPU sends to the others, where every rank has one of its own.
void print_link_rates(const BenchOptions& options, const std::vector<BenchResult>& results) {
  if (options.num_ranks == 1 || options.num_gpus_used() != options.num_ranks) return;
  for (const BenchResult& result : results) {
    if (!result.bytes) continue;
    const double num_bytes = static_cast<double>(result.bytes->link_bytes) / options.num_ranks;
    fmt::print("{}: {:.1f} MB from each GPU to the others, {:.0f} GB/s\n", result.op, num_bytes / 1e6,
               num_bytes / (result.times.median_us * 1000));
  }
}

void print_table(const BenchOptions& options, const std::vector<BenchResult>& results) {
  const int num_domains = results.front().num_domains;
  const std::string domains =
      num_domains > 1 ? fmt::format(" in {} domains, {} mode", num_domains, options.mode) : "";
  fmt::print(
      "{} ranks ({}){}, {} tokens each, hidden {}, {}, top-{} of {} experts, {}, {} routing, {} input; us, "
      "slowest rank\n",
      options.num_ranks, options.transport, domains, options.num_tokens, options.hidden, options.dtype,
      options.num_topk, options.num_experts, options.layout, options.routing, options.input);
  print_variant(options);
  constexpr auto kRow = "{:<19} {:>10} {:>10} {:>10} {:>10} {:>9} {:>10} {:>8}  {}\n";
  fmt::print(kRow, "op", "median", "p99", "min", "floor", "of floor", "baseline", "speedup", "verified");
  for (const BenchResult& result : results) {
    std::optional<double> floor, fraction, baseline, speedup;
    if (result.floor) floor = result.floor->median_us, fraction = fraction_of_floor(result);
    if (result.baseline) baseline = result.baseline->median_us, speedup = *baseline / result.times.median_us;
    fmt::print(kRow, result.op, number_or_dash(result.times.median_us, 1),
               number_or_dash(result.times.p99_us, 1), number_or_dash(result.times.min_us, 1),
               number_or_dash(floor, 1), number_or_dash(fraction, 2), number_or_dash(baseline, 1),
               number_or_dash(speedup, 2), result.verified ? "yes" : "NO");
  }
  for (const BenchResult& result : results) {
    if (!result.barrier_and_copies) continue;
    fmt::print("{}: {:.2f} times a barrier and the copies ({:.1f} us)\n", result.op,
               over_barrier_and_copies(result), result.barrier_and_copies->median_us);
  }
  for (const BenchResult& result : results) {
    if (!options.has_idle_ranks() || !result.bytes) continue;
    const RatePerSm rate = rate_per_sm(options, result);
    fmt::print("{}: {} active rank(s), {} SMs each: {:.1f} GB/s per SM, {:.1f} of them written\n", result.op,
               options.num_active_ranks, result.num_sms, rate.all, rate.written);
  }
  for (const BenchResult& result : results) {
    if (!result.gemm) continue;
    fmt::print(
        "{}, {} SMs a rank: a bf16 matrix product on {} SMs takes {:.0f} us alone ({:.0f} TFLOP/s), {:.0f} "
        "beside it, {:.3f} times{}\n",
        result.op, result.num_sms, result.gemm->num_sms, result.gemm->alone_us, result.gemm->tflops,
        result.gemm->beside_us, result.gemm->slowdown(), result.gemm->is_right ? "" : ", and is WRONG");
  }
  print_link_rates(options, results);
  const BenchResult* checks = find_op(results, "checks");
  const BenchResult* dispatch = find_op(results, "dispatch");
  if (checks == nullptr) return;
  const double cost_us = checks->times.median_us - checks->floor->median_us;
  fmt::print("checks cost a dispatch {:.2f} us", cost_us);
  if (dispatch != nullptr) fmt::print(", {:.2f}% of it", 100 * cost_us / dispatch->times.median_us);
  fmt::print("\n");
}

}  // namespace

bool BenchResults::verified() const {
  const auto is_verified = [](const auto& result) { return result.verified; };
  return std::all_of(operations.begin(), operations.end(), is_verified) &&
         std::all_of(layers.begin(), layers.end(), is_verified);
}

void print_tables(const BenchOptions& options, const BenchResults& results) {
  if (!results.operations.empty()) print_table(options, results.operations);
  if (!results.layers.empty()) print_layer_table(options, results.layers);
}

void write_json(const BenchOptions& options, const BenchResults& results, const std::string& command) {
  write_json_output(options.json_file, json_of_run(options, results, command));
}

}  // namespace flexep::tool
