// SPDX-License-Identifier: Apache-2.0
#include "bench/memory_floor.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/reduce_rows.h"
#include "kernels/cpu/scatter_rows.h"

namespace flexep::tool {
namespace {

constexpr std::int64_t kTokensPerPiece = 32;
constexpr std::size_t kBytesThatACacheHolds = 4 << 20;

/// Memory that peers can map, its pages present.
Segment make_region(Transport& transport, std::size_t num_bytes) {
  Segment segment = transport.create_segment(std::max<std::size_t>(num_bytes, 64));
  std::memset(segment.memory.get(), 0, segment.num_bytes);
  return segment;
}

/// [begin, end] of offsets that count from one array, for tokens [begin, end).
std::span<const std::int64_t> offsets_of(const std::vector<std::int64_t>& offsets, std::int64_t begin,
                                         std::int64_t end) {
  return std::span(offsets).subspan(static_cast<std::size_t>(begin),
                                    static_cast<std::size_t>(end - begin + 1));
}

}  // namespace

cpu::StoreMode best_store_mode(std::size_t num_bytes) {
  return num_bytes < kBytesThatACacheHolds ? cpu::StoreMode::kCached : cpu::StoreMode::kStreaming;
}

MemoryFloor::MemoryFloor(Transport& transport, const Workload& workload, const BenchOptions& options,
                         int num_threads)
    : dtype_(options.element_type()),
      num_columns_(static_cast<std::size_t>(options.hidden)),
      row_bytes_(options.row_bytes()),
      sf_bytes_(static_cast<std::size_t>(options.num_sf_packs()) * sizeof(float)),
      sums_(make_region(transport, static_cast<std::size_t>(options.num_tokens) * options.row_bytes())),
      pool_(num_threads) {
  const std::size_t num_rows = workload.received_by(transport.rank()).size();
  find_places(transport, workload, make_region(transport, num_rows * (row_bytes_ + sf_bytes_)));
}

void MemoryFloor::find_places(Transport& transport, const Workload& workload, const Segment& received) {
  std::vector<SegmentId> ids;
  for (const auto& bytes : transport.all_gather(bytes_of(received.id), {.name = "bench: floor"})) {
    std::memcpy(&ids.emplace_back(), bytes.data(), sizeof(SegmentId));
  }
  for (int rank = 0; rank < transport.num_ranks(); ++rank) {
    received_.push_back(rank == transport.rank()
                            ? received.memory
                            : transport.map_segment(rank, ids[static_cast<std::size_t>(rank)]));
  }
  for (const auto& token_places : workload.places_of(transport.rank())) {
    for (const RowPlace& place : token_places) {
      std::byte* rows = received_[static_cast<std::size_t>(place.rank)].get();
      std::byte* scales = rows + workload.received_by(place.rank).size() * row_bytes_;
      places_.push_back(rows + static_cast<std::size_t>(place.row) * row_bytes_);
      sf_places_.push_back(scales + static_cast<std::size_t>(place.row) * sf_bytes_);
    }
    place_begin_.push_back(static_cast<std::int64_t>(places_.size()));
    if (!token_places.empty()) term_begin_.push_back(place_begin_.back());
    sum_begin_.push_back(static_cast<std::int64_t>(term_begin_.size()) - 1);
  }
}

void MemoryFloor::dispatch(const std::byte* x, const std::byte* sf) {
  scatter(x, row_bytes_, places_);
  if (sf_bytes_ > 0) scatter(sf, sf_bytes_, sf_places_);
}

void MemoryFloor::scatter(const std::byte* rows, std::size_t row_bytes,
                          const std::vector<std::byte*>& places) {
  const auto num_tokens = static_cast<std::int64_t>(place_begin_.size()) - 1;
  pool_.parallel_for(num_tokens, kTokensPerPiece, [&](std::int64_t begin, std::int64_t end) {
    cpu::scatter_rows({.src = rows + static_cast<std::size_t>(begin) * row_bytes,
                       .src_stride = row_bytes,
                       .row_bytes = row_bytes,
                       .dst_begin = offsets_of(place_begin_, begin, end),
                       .dsts = places},
                      best_store_mode(places.size() * row_bytes));
  });
}

void MemoryFloor::combine() {
  const auto num_tokens = static_cast<std::int64_t>(sum_begin_.size()) - 1;
  pool_.parallel_for(num_tokens, kTokensPerPiece, [&](std::int64_t begin, std::int64_t end) {
    cpu::reduce_rows({.dtype = dtype_,
                      .num_columns = num_columns_,
                      .group_begin = offsets_of(sum_begin_, begin, end),
                      .source_begin = term_begin_,
                      .sources = places_,
                      .out = sums_.memory.get() + static_cast<std::size_t>(begin) * row_bytes_},
                     best_store_mode(sums_.num_bytes));
  });
}

}  // namespace flexep::tool
