// SPDX-License-Identifier: Apache-2.0
//
// What a rank does in its own memory.
#include <algorithm>
#include <array>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "kernels/cpu/scatter_rows.h"

namespace flexep::cpu {
namespace {

constexpr std::int64_t kBytesPerPiece = 256 << 10;

}  // namespace

void CpuBackend::zero_gaps(const ZeroGapsJob& job, int width) {
  const ReceiveLayout& layout = *job.layout;
  const auto num_experts = static_cast<std::int64_t>(layout.expert_start_rows.size());
  pool(width).parallel_for(num_experts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto expert = static_cast<std::size_t>(begin); expert < static_cast<std::size_t>(end); ++expert) {
      const std::int32_t num_rows = layout.num_recv_tokens_per_expert[expert];
      const std::int32_t num_gap_rows = layout.num_aligned_recv_tokens_per_expert[expert] - num_rows;
      const auto first_gap_row = static_cast<std::size_t>(layout.expert_start_rows[expert] + num_rows);

      for (auto row = first_gap_row; row < first_gap_row + static_cast<std::size_t>(num_gap_rows); ++row) {
        std::memset(job.rows + row * job.row_stride, 0, job.row_bytes);
      }
    }
  });
}

void CpuBackend::copy(std::byte* to, const std::byte* from, std::size_t num_bytes, int width) {
  pool(width).parallel_for(static_cast<std::int64_t>(num_bytes), kBytesPerPiece,
                           [&](std::int64_t begin, std::int64_t end) {
                             // One "row" to one place: the kernel knows how to store around the caches.
                             const std::array<std::int64_t, 2> dst_begin = {0, 1};
                             std::byte* const dst = to + begin;
                             scatter_rows({.src = from + begin,
                                           .src_stride = static_cast<std::size_t>(end - begin),
                                           .row_bytes = static_cast<std::size_t>(end - begin),
                                           .dst_begin = dst_begin,
                                           .dsts = std::span(&dst, 1)},
                                          choose_store_mode(num_bytes));
                           });
}

}  // namespace flexep::cpu
