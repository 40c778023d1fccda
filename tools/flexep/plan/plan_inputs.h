// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "flexep/types.h"

namespace flexep::tool {

/// What one rank's processor and memory cost, beside the links. The defaults know a memory rate alone.
struct HostCosts {
  double operation_us = 0;   ///< of an operation without rows
  double rank_us = 0;        ///< more of it for each rank of the domain
  double pair_ns = 0;        ///< planning and side data of a (token, expert) pair
  double memory_gbs = 3000;  ///< read and written bytes together
  double cache_gbs = 3000;   ///< of the first cache_bytes
  double cache_bytes = 0;
  double domains_us = 0;  ///< more of an operation for each doubling of domains: messages of its exchanges
  /// Of rows that MPI sends, beside what they take of the memory.
  double crossing_gbs = std::numeric_limits<double>::infinity();
  /// Whether the ranks of a machine share the rates and the cache, as processes do.
  bool is_shared = false;
  /// That the ranks of a machine share; 0 = each has its own.
  int num_cores = 0;
};

/// Links, latencies and host of each rank; GB/s = 1e9 bytes a second, of each direction.
struct Machine {
  double link_gbs = 450;       ///< to ranks of the domain
  double net_gbs = 50;         ///< to ranks of other domains
  double link_us = 2;          ///< latency of a row or a signal inside the domain
  double net_us = 5;           ///< between domains
  double message_us = 0.5;     ///< that a message takes of its sender's network link beside its bytes
  double chunk_mib = 1;        ///< longest message; hybrid mode forwards a chunk while the next one comes
  bool plays_domains = false;  ///< all ranks are on one machine, and not each domain on its own
  HostCosts dispatch;
  HostCosts combine;
};

/// The ranks, the model and the machine to plan for.
struct PlanInputs {
  int num_scaleout_ranks = 1;  ///< domains
  int num_scaleup_ranks = 8;   ///< ranks of a domain
  int num_experts = 256;
  int num_topk = 8;
  std::int64_t num_tokens = 4096;  ///< of each rank
  std::int64_t hidden = 7168;
  DType dtype = DType::kBFloat16;
  int expert_alignment = 1;
  /// Expert e is chosen in proportion to 1 / (e + 1)^S; 0 = all alike.
  double zipf_exponent = 0;
  std::uint64_t seed = 1;
  Machine machine;

  int num_ranks() const { return num_scaleout_ranks * num_scaleup_ranks; }
  int num_ranks_of_machine() const { return machine.plays_domains ? num_ranks() : num_scaleup_ranks; }
  int num_local_experts() const { return num_experts / num_ranks(); }
  double row_bytes() const { return static_cast<double>(hidden) * static_cast<double>(size_of(dtype)); }
  /// That travel with a dispatched row: an id (8) and a weight (4) for each column, and K + 2 ints of
  /// metadata.
  double side_bytes() const { return 12.0 * num_topk + 4.0 * (num_topk + 2); }
};

}  // namespace flexep::tool
