// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "flexep/counters.h"
#include "transport/transport.h"

namespace flexep {

/// Counts what the operations of one buffer move: one operation at a time, on the thread that runs it.
/// Reading is safe on any thread at any time. Allocates nothing from one operation to the next.
class OperationMeter {
 public:
  explicit OperationMeter(const Transport& transport);

  /// An operation begins. Forgets what one that failed has counted.
  void begin();
  /// Rows of `row_bytes` that moved between this rank and each rank, and the pairs that they stand for; both
  /// [R]. @return the bytes of these rows.
  std::int64_t add_rows(std::span<const std::int32_t> num_rows, std::span<const std::int32_t> num_pairs,
                        std::size_t row_bytes);
  /// Rows that crossed between this rank and other domains, and the pairs that they stand for. @return the
  /// bytes of these rows.
  std::int64_t add_crossing(std::int64_t num_rows, std::int64_t num_pairs, std::size_t row_bytes);
  void add_memory(std::int64_t bytes_read, std::int64_t bytes_written);
  void add_staging(std::int64_t num_bytes) { current_.staging_bytes += num_bytes; }
  /// The operation has completed; from here on it is counted. Both [El].
  void end_dispatch(std::span<const std::int32_t> num_recv_tokens_per_expert,
                    std::span<const std::int32_t> num_dropped_tokens);
  void end_combine();

  BufferCounters read() const;

 private:
  void complete();

  const Transport& transport_;
  OperationCounters current_;
  std::vector<std::int64_t> wait_ns_at_begin_;
  mutable std::mutex mutex_;  ///< of counters_
  BufferCounters counters_;
};

}  // namespace flexep
