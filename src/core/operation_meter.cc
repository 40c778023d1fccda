// SPDX-License-Identifier: Apache-2.0
#include "core/operation_meter.h"

#include <algorithm>
#include <utility>

namespace flexep {

OperationCounters& OperationCounters::operator+=(const OperationCounters& other) {
  num_operations += other.num_operations;
  num_rows_local += other.num_rows_local;
  bytes_local += other.bytes_local;
  num_rows_scaleup += other.num_rows_scaleup;
  bytes_scaleup += other.bytes_scaleup;
  num_rows_scaleout += other.num_rows_scaleout;
  bytes_scaleout += other.bytes_scaleout;
  num_rows_deduplicated += other.num_rows_deduplicated;
  link_bytes += other.link_bytes;
  staging_bytes += other.staging_bytes;
  bytes_read += other.bytes_read;
  bytes_written += other.bytes_written;
  wait_ns.resize(std::max(wait_ns.size(), other.wait_ns.size()));
  for (std::size_t rank = 0; rank < other.wait_ns.size(); ++rank) wait_ns[rank] += other.wait_ns[rank];
  return *this;
}

OperationMeter::OperationMeter(const Transport& transport) : transport_(transport) {
  const auto num_ranks = static_cast<std::size_t>(transport.num_ranks());
  for (OperationCounters* counters : {&current_, &counters_.dispatch, &counters_.combine,
                                      &counters_.last_dispatch, &counters_.last_combine}) {
    counters->wait_ns.resize(num_ranks);
  }
  wait_ns_at_begin_.resize(num_ranks);
}

void OperationMeter::begin() {
  // Keeps the vector's memory.
  auto wait_ns = std::move(current_.wait_ns);
  current_ = {.num_operations = 1, .wait_ns = std::move(wait_ns)};
  std::ranges::copy(transport_.wait_ns(), wait_ns_at_begin_.begin());
}

std::int64_t OperationMeter::add_rows(std::span<const std::int32_t> num_rows,
                                      std::span<const std::int32_t> num_pairs, std::size_t row_bytes) {
  std::int64_t total_bytes = 0;
  for (std::size_t rank = 0; rank < num_rows.size(); ++rank) {
    const std::int64_t num_bytes = std::int64_t{num_rows[rank]} * static_cast<std::int64_t>(row_bytes);
    total_bytes += num_bytes;
    if (static_cast<int>(rank) == transport_.rank()) {
      current_.num_rows_local += num_rows[rank];
      current_.bytes_local += num_bytes;
      continue;
    }
    current_.num_rows_scaleup += num_rows[rank];
    current_.bytes_scaleup += num_bytes;
    current_.link_bytes += num_bytes;
    current_.num_rows_deduplicated += num_pairs[rank] - num_rows[rank];
  }
  return total_bytes;
}

std::int64_t OperationMeter::add_crossing(std::int64_t num_rows, std::int64_t num_pairs,
                                          std::size_t row_bytes) {
  const std::int64_t num_bytes = num_rows * static_cast<std::int64_t>(row_bytes);
  current_.num_rows_scaleout += num_rows;
  current_.bytes_scaleout += num_bytes;
  current_.link_bytes += num_bytes;
  current_.num_rows_deduplicated += num_pairs - num_rows;
  return num_bytes;
}

void OperationMeter::add_memory(std::int64_t bytes_read, std::int64_t bytes_written) {
  current_.bytes_read += bytes_read;
  current_.bytes_written += bytes_written;
}

void OperationMeter::end_dispatch(std::span<const std::int32_t> num_recv_tokens_per_expert,
                                  std::span<const std::int32_t> num_dropped_tokens) {
  complete();
  const std::lock_guard lock(mutex_);
  counters_.dispatch += current_;
  counters_.last_dispatch = current_;
  auto& load = counters_.expert_load;
  load.resize(std::max(load.size(), num_recv_tokens_per_expert.size()));
  for (std::size_t i = 0; i < num_recv_tokens_per_expert.size(); ++i) {
    load[i] += num_recv_tokens_per_expert[i] + num_dropped_tokens[i];
  }
}

void OperationMeter::end_combine() {
  complete();
  const std::lock_guard lock(mutex_);
  counters_.combine += current_;
  counters_.last_combine = current_;
}

void OperationMeter::complete() {
  const auto wait_ns = transport_.wait_ns();
  for (std::size_t rank = 0; rank < wait_ns.size(); ++rank) {
    current_.wait_ns[rank] = wait_ns[rank] - wait_ns_at_begin_[rank];
  }
}

BufferCounters OperationMeter::read() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace flexep
