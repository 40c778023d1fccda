// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "flexep/types.h"

namespace flexep {

/// What one rank has to hold in a training step: in its arena dispatches whose outputs live until the
/// backward pass and one combine at a time, and beside it the room for rows that cross domains.
struct MemoryInputs {
  int num_ranks = 1;
  std::int64_t num_tokens = 0;  ///< per rank; the bound N for outputs without host sync
  std::int64_t hidden = 0;
  int num_topk = 0;
  int num_experts = 0;
  int expert_alignment = 1;
  bool do_expand = false;
  DType dtype = DType::kBFloat16;
  int num_sf_packs = 0;  ///< 4-byte scaling factors of a row
  DType idx_dtype = DType::kInt64;
  std::optional<DType> weight_dtype = DType::kFloat32;
  /// Of the experts' output and of combine.
  DType combine_dtype = DType::kBFloat16;
  /// Without it, the rows of a uniform routing, alike on all ranks; with it, the most that any routing gives,
  /// which is what outputs without host sync have.
  bool is_worst_case = false;
  /// The most rows of an output; 0 = no limit. Counts in the worst case.
  int max_recv_tokens = 0;
  /// Dispatches whose outputs are alive at the same time: layers x microbatches.
  std::int64_t num_live_dispatches = 1;
  /// Several, all of one size, stage rows that cross: as ElasticBufferConfig says.
  int num_domains = 1;
  bool allow_hybrid_mode = true;
  bool allow_multiple_reduction = true;
  std::int64_t max_staging_bytes = 64 << 20;
};

/// Bytes by purpose, each part aligned as the arena aligns it. The arena itself grows in chunks of whole 2
/// MiB with a quarter to spare.
struct MemoryNeed {
  std::int64_t num_recv_tokens = 0;  ///< rows of one dispatch, compact
  std::int64_t num_rows = 0;         ///< of recv.x

  // One dispatch.
  std::int64_t recv_x = 0;
  std::int64_t recv_sf = 0;
  std::int64_t recv_topk_idx = 0;
  std::int64_t recv_topk_weights = 0;
  std::int64_t recv_src_metadata = 0;  ///< kept by the handle
  // One combine.
  std::int64_t expert_output = 0;  ///< from empty(), or staged; not there where it is registered memory
  std::int64_t combined_x = 0;
  std::int64_t combined_topk_weights = 0;

  std::int64_t num_live_dispatches = 1;

  /// Beside the arena, one for each buffer: rows on their way between domains.
  std::int64_t staging = 0;

  std::int64_t dispatch_bytes() const {
    return recv_x + recv_sf + recv_topk_idx + recv_topk_weights + recv_src_metadata;
  }
  std::int64_t combine_bytes() const { return expert_output + combined_x + combined_topk_weights; }
  std::int64_t total_bytes() const {
    return num_live_dispatches * dispatch_bytes() + combine_bytes() + staging;
  }
  /// A line for each purpose and the total.
  std::string to_string() const;
};

/// A pure function: nothing is allocated, no other rank is needed. @throws InvalidArgument for experts that
/// the ranks do not divide, ranks that the domains do not divide, top-k outside [1, num_experts], sizes that
/// are not positive, or max_staging_bytes that hold no row.
MemoryNeed plan_memory(const MemoryInputs& inputs);

}  // namespace flexep
