// SPDX-License-Identifier: Apache-2.0
#include "bench/bench_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "bench/alltoallv_baseline.h"
#include "bench/layer_bench.h"
#include "bench/row_pattern.h"
#include "device.h"
#include "errors.h"

namespace flexep::tool {
namespace {

using Words = std::vector<std::string>;

void require(bool condition, std::string_view option, const auto& value, std::string_view rule) {
  if (!condition) throw UsageError(fmt::format("{} {}: {}", option, value, rule));
}

bool is_any_of(const std::string& value, const Words& words) {
  return std::find(words.begin(), words.end(), value) != words.end();
}

void require_one_of(std::string_view option, const std::string& value, const Words& words) {
  require(is_any_of(value, words), option, value, fmt::format("not one of {}", fmt::join(words, ", ")));
}

void require_range(std::string_view option, int value, int lowest, int highest) {
  require(lowest <= value && value <= highest, option, value,
          fmt::format("not from {} to {}", lowest, highest));
}

void validate_shape(const BenchOptions& options) {
  require_range("--ranks", options.num_ranks, 1, 256);
  require_range("--tokens", options.num_tokens, 0, 1 << 20);
  require_range("--hidden", options.hidden, 1, 1 << 20);
  require(options.row_bytes() % 16 == 0, "--hidden", options.hidden, "a row is not a multiple of 16 bytes");
  require_range("--experts", options.num_experts, 1, 65536);
  require(options.num_experts % options.num_ranks == 0, "--experts", options.num_experts,
          fmt::format("not a multiple of --ranks {}", options.num_ranks));
  require_range("--ffn", options.ffn, 1, 1 << 20);
  require_range("--shared-ffn", options.shared_ffn, 0, 1 << 20);
  require_range("--topk", options.num_topk, 1, std::min(options.num_experts, RowPattern::kMaxTerms));
}

void validate_domains(const BenchOptions& options) {
  require_one_of("--mode", options.mode, {"hybrid", "direct"});
  if (options.num_domains == 0) return;
  require_range("--domains", options.num_domains, 1, options.num_ranks);
  require(options.num_ranks % options.num_domains == 0, "--domains", options.num_domains,
          fmt::format("does not divide --ranks {}", options.num_ranks));
  require(options.num_domains == 1 || options.transport != "shm", "--domains", options.num_domains,
          "needs --transport in_process or mpi");
}

void validate_ops(const BenchOptions& options) {
  for (const auto& op : options.ops) {
    require_one_of("--ops", op,
                   {"dispatch", "cached_dispatch", "combine", "round_trip", "exchange", "checks",
                    "baseline_alltoallv", "layer"});
    const bool is_sum = op == "combine" || op == "round_trip" || op == "baseline_alltoallv" || op == "layer";
    require(!is_sum || is_summable(options.element_type()), "--ops", op,
            fmt::format("--dtype {} has no sums", options.dtype));
  }
  require(!options.has_op("layer") || options.device == "cpu", "--ops", "layer", "needs --device cpu");
  if (options.has_op("layer") && !layer_bench_is_available()) {
    throw NotAvailable("--ops layer: this binary was built without the MoE layer");
  }
  if (!options.has_op("baseline_alltoallv")) return;
  require(options.transport != "in_process", "--ops", "baseline_alltoallv",
          "MPI ranks are processes, so it needs --transport shm or mpi");
  if (!AlltoallvBaseline::is_available()) {
    throw NotAvailable("--ops baseline_alltoallv: this binary was built without MPI");
  }
}

void validate_graph(const BenchOptions& options) {
  require_range("--graph", options.num_ops_per_graph, 0, 1000);
  if (options.num_ops_per_graph == 0) return;
  require(options.device == "cuda", "--graph", options.num_ops_per_graph, "needs --device cuda");
  require(!options.do_cpu_sync(), "--graph", options.num_ops_per_graph, "needs --sync none");
  for (const auto& op : options.ops)
    require(is_any_of(op, {"dispatch", "cached_dispatch", "combine", "round_trip"}), "--ops", op,
            "cannot be captured into a graph");
}

void validate_active_ranks(const BenchOptions& options) {
  require_range("--active-ranks", options.num_active_ranks, 0, options.num_ranks);
  for (const auto& op : options.ops)
    require(!options.has_idle_ranks() || !is_any_of(op, {"baseline_alltoallv", "layer"}), "--ops", op,
            "is not measured with --active-ranks");
}

/// Before minutes of measuring, not after.
void validate_json_file(const BenchOptions& options) {
  if (options.json_file.empty()) return;
  const auto folder = std::filesystem::absolute(options.json_file).parent_path();
  require(std::filesystem::is_directory(folder), "--json", options.json_file, "there is no such folder");
  require(!std::filesystem::is_directory(options.json_file), "--json", options.json_file, "is a folder");
}

}  // namespace

bool BenchOptions::has_op(std::string_view op) const {
  return std::find(ops.begin(), ops.end(), op) != ops.end();
}

bool BenchOptions::has_buffer_op() const {
  return std::any_of(ops.begin(), ops.end(), [](const auto& op) { return op != "layer"; });
}

int BenchOptions::num_gpus_used() const {
  return device == "cpu" ? 0 : num_gpus_of(num_gpus, num_ranks);
}

DType BenchOptions::element_type() const {
  for (const DType type : {DType::kBFloat16, DType::kFloat32, DType::kFloat64, DType::kFloat8E4M3}) {
    if (dtype == name_of(type)) return type;
  }
  throw UsageError(fmt::format("--dtype {}: not one of bf16, fp32, fp64, fp8_e4m3", dtype));
}

double BenchOptions::zipf_exponent() const {
  if (routing == "uniform") return 0;
  constexpr std::string_view kPrefix = "zipf:";
  double exponent = -1;
  if (routing.starts_with(kPrefix)) {
    const char* end = routing.data() + routing.size();
    const auto [rest, error] = std::from_chars(routing.data() + kPrefix.size(), end, exponent);
    if (error != std::errc{} || rest != end) exponent = -1;
  }
  require(exponent >= 0 && exponent <= 10, "--routing", routing,
          "neither uniform nor zipf:S with S from 0 to 10");
  return exponent;
}

void validate(const BenchOptions& options) {
  device_of(options.device, options.num_gpus);
  require_one_of("--transport", options.transport, {"shm", "in_process", "mpi"});
  require_one_of("--layout", options.layout, {"compact", "expanded"});
  require_one_of("--input", options.input, {"arena", "ordinary", "registered"});
  arena_memory_of(options.memory);
  require(options.memory == "device" || options.device == "cuda", "--memory", options.memory,
          "the CPU has one kind");
  require_one_of("--sync", options.sync, {"host", "none"});
  validate_shape(options);
  validate_domains(options);
  validate_ops(options);
  validate_graph(options);
  validate_active_ranks(options);
  require(!options.runs_gemm_beside || options.device == "cuda", "--gemm-beside", "", "needs --device cuda");
  options.zipf_exponent();
  require_range("--num-sms", options.num_sms, 0, 1024);
  require_range("--warmup", options.num_warmups, 0, 1 << 20);
  require_range("--iters", options.num_iters, 1, 1 << 20);
  validate_json_file(options);
}

}  // namespace flexep::tool
