// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "flexep/types.h"

namespace flexep::tool {

/// The options of `flexep bench`, as typed.
struct BenchOptions {
  std::string device = "cpu";
  int num_gpus = 0;  ///< that ranks take turns with; 0 = all
  std::string transport = "shm";
  int num_ranks = 2;
  int num_domains = 0;  ///< 0 = as the transport finds them
  std::string mode = "hybrid";
  int num_tokens = 2048;  ///< of each rank
  int hidden = 7168;
  int num_topk = 8;
  int num_experts = 64;
  int ffn = 64;        ///< feed-forward size of the experts of a layer
  int shared_ffn = 0;  ///< of its shared expert, 0 = none
  std::string dtype = "bf16";
  std::string layout = "compact";
  std::vector<std::string> ops = {"dispatch", "cached_dispatch", "combine", "round_trip"};
  std::string input = "arena";
  std::string memory = "device";
  std::string sync = "host";
  int num_ops_per_graph = 0;  ///< 0 = operations are called one by one
  int num_active_ranks = 0;   ///< ranks that have tokens, the first ones; 0 = all
  bool runs_gemm_beside = false;
  std::string routing = "uniform";
  int num_sms = 0;
  int num_warmups = 5;
  int num_iters = 30;
  std::uint64_t seed = 1;
  std::string json_file;

  /// Ranks of a domain, as CommunicatorOptions::num_scaleup_ranks takes it.
  int scaleup_size() const { return num_domains == 0 ? 0 : num_ranks / num_domains; }
  bool has_op(std::string_view op) const;
  /// Whether any operation is one of a buffer, not of a layer.
  bool has_buffer_op() const;
  bool do_expand() const { return layout == "expanded"; }
  bool do_cpu_sync() const { return sync == "host"; }
  /// GPUs that ranks are on, by rank % num_gpus_used().
  int num_gpus_used() const;
  bool has_idle_ranks() const { return num_active_ranks > 0 && num_active_ranks < num_ranks; }
  int num_tokens_of(int rank) const { return has_idle_ranks() && rank >= num_active_ranks ? 0 : num_tokens; }
  /// @throws UsageError.
  DType element_type() const;
  std::size_t row_bytes() const { return static_cast<std::size_t>(hidden) * size_of(element_type()); }
  /// Scaling factors beside a row: one for each 128 elements of fp8, else none.
  int num_sf_packs() const { return element_type() == DType::kFloat8E4M3 ? (hidden + 127) / 128 : 0; }
  /// Exponent S of "zipf:S"; 0 for "uniform". @throws UsageError.
  double zipf_exponent() const;
};

/// @throws UsageError that names the option and its value, NotAvailable.
void validate(const BenchOptions& options);

}  // namespace flexep::tool
