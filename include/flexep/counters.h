// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace flexep {

/// What operations of one buffer moved on this rank. Rows are payload rows (x), and bytes are theirs:
/// dispatch stores rows to other ranks, combine reads rows from them.
struct OperationCounters {
  std::int64_t num_operations = 0;

  /// On this rank itself.
  std::int64_t num_rows_local = 0;
  std::int64_t bytes_local = 0;
  /// On other ranks of the scale-up domain: those whose memory this rank can address.
  std::int64_t num_rows_scaleup = 0;
  std::int64_t bytes_scaleup = 0;
  /// On ranks of other domains; 0 while there is one domain.
  std::int64_t num_rows_scaleout = 0;
  std::int64_t bytes_scaleout = 0;

  /// Pairs (token, expert) of other ranks without a row of their own, because another pair of the token had
  /// crossed to that rank, or that rank had summed the token's rows (on a GPU only this is counted).
  std::int64_t num_rows_deduplicated = 0;
  /// Bytes that crossed between this rank and others, once for each time.
  std::int64_t link_bytes = 0;
  /// Bytes copied only because combine's input was memory that other ranks cannot read.
  std::int64_t staging_bytes = 0;
  /// Bytes that this rank's kernels read and wrote to move rows; staging is not among them.
  std::int64_t bytes_read = 0;
  std::int64_t bytes_written = 0;

  /// [R], nanoseconds that this rank waited for each rank, in all exchanges of the operation. A wait for
  /// several is counted for the one that was awaited first, until it came, then for the next: the sum is the
  /// time waited. 0 on a GPU, where kernels wait.
  std::vector<std::int64_t> wait_ns;

  /// Adds up, as for all operations: dispatch + combine.
  OperationCounters& operator+=(const OperationCounters& other);
};

/// Counters of one buffer on this rank, of operations that completed. Always on: a few additions for each
/// operation and rank, and a look at the clock only where a rank has to wait.
struct BufferCounters {
  /// Since construction.
  OperationCounters dispatch;
  OperationCounters combine;
  /// The last one alone.
  OperationCounters last_dispatch;
  OperationCounters last_combine;
  /// [El] of the dispatch with the most local experts: pairs that all dispatches routed to each local expert,
  /// before alignment, dropped ones included.
  std::vector<std::int64_t> expert_load;
};

}  // namespace flexep
