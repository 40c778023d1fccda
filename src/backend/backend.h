// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "flexep/types.h"
#include "routing/receive_layout.h"
#include "routing/send_plan.h"

namespace flexep {

/// The region of one destination rank, as this rank addresses it; parts that the output lacks are null.
struct PushTarget {
  std::byte* x = nullptr;
  std::uint32_t* sf = nullptr;
  std::int64_t sf_row_stride = 0;
  std::int64_t sf_pack_stride = 0;
  std::byte* topk_idx = nullptr;
  std::byte* topk_weights = nullptr;
  std::int32_t* metadata = nullptr;
};

/// Dispatch, data phase: every row of this rank to its places, and what travels with it.
struct PushJob {
  const SendPlan* plan = nullptr;
  bool do_expand = false;
  int rank = 0;  ///< whose tokens these are
  /// [T], the tokens as that rank numbers them; empty = 0, 1, ...
  std::span<const std::int32_t> src_tokens;
  int num_local_experts = 1;
  int num_max_tokens_per_rank = 0;
  const std::byte* x = nullptr;
  std::size_t x_stride = 0;  ///< bytes from one row to the next
  std::size_t row_bytes = 0;
  const std::uint32_t* sf = nullptr;  ///< [T, P], bits, or null
  std::int64_t sf_row_stride = 0;     ///< in elements
  std::int64_t sf_pack_stride = 0;
  int num_sf_packs = 0;
  std::span<const std::int64_t> topk_idx;   ///< [T, K]
  std::size_t idx_bytes = 8;                ///< of an id in the output
  const std::byte* topk_weights = nullptr;  ///< [T, K] or null
  std::size_t weight_bytes = 0;
  std::span<const PushTarget> targets;  ///< [R]
};

/// Zeroes the alignment gaps of one expanded output on the rank that owns it.
struct ZeroGapsJob {
  const ReceiveLayout* layout = nullptr;
  std::byte* rows = nullptr;
  std::size_t row_bytes = 0;   ///< zeroed of each gap row
  std::size_t row_stride = 0;  ///< bytes from one row to the next
};

/// The rows that one owner offers to combine, as this rank addresses them.
struct PullSource {
  const std::byte* x = nullptr;
  const std::byte* topk_weights = nullptr;  ///< null without weights
  /// Whether x holds one row per received token (stage L is done, or the layout is compact) instead of one
  /// per pair.
  bool is_per_token = false;
};

/// Combine, data phase: the sum of every token's rows.
struct PullJob {
  const SendPlan* plan = nullptr;
  bool do_expand = false;
  bool allow_multiple_reduction = true;
  DType dtype = DType::kBFloat16;
  std::size_t num_columns = 0;
  std::size_t weight_bytes = 0;
  std::span<const PullSource> sources;        ///< [R]
  std::array<const std::byte*, 2> bias = {};  ///< [T, H'] or null
  std::byte* x = nullptr;                     ///< [T, H'], written
  std::byte* topk_weights = nullptr;          ///< [T, K], written, or null
  /// Of the output that x is a part of, in tokens; 0 = x is all of it. How sums are stored depends on it.
  int num_output_tokens = 0;
};

/// Stage L on the owner, for input that has to be staged anyway: each received token's rows become one.
struct ReduceTokensJob {
  std::span<const std::int32_t> metadata;  ///< [M, K + 2] of the dispatch
  int num_recv_tokens = 0;
  int num_topk = 1;
  DType dtype = DType::kBFloat16;
  std::size_t num_columns = 0;
  const std::byte* x = nullptr;  ///< [rows, H']
  std::byte* out = nullptr;      ///< [M, H']
};

/// Owns the kernels of one kind of device. Knows nothing of groups: addresses are this rank's own. `width` is
/// the number of threads or multiprocessors that a kernel may occupy.
class Backend {
 public:
  virtual ~Backend() = default;

  /// The width that suits `num_local_ranks` ranks sharing the device.
  virtual int default_width(int num_local_ranks) const = 0;

  virtual void push(const PushJob& job, int width) = 0;
  virtual void zero_gaps(const ZeroGapsJob& job, int width) = 0;
  virtual void pull(const PullJob& job, int width) = 0;
  /// Of a pull, the weights alone.
  virtual void pull_weights(const PullJob& job, int width) = 0;
  virtual void reduce_tokens(const ReduceTokensJob& job, int width) = 0;
  virtual void copy(std::byte* to, const std::byte* from, std::size_t num_bytes, int width) = 0;
};

std::unique_ptr<Backend> make_cpu_backend();

}  // namespace flexep
