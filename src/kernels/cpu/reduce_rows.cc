// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/reduce_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "flexep/error.h"
#include "kernels/cpu/float_environment.h"

// One pass of this file per instruction set: foreach_target.h includes it again with another HWY_TARGET.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reduce_rows.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/row_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace flexep::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Sources = std::span<const std::byte* const>;

template <class Sum>
using BlockOf = Block<typename Sum::D>;

/// What one output row sums.
struct RowGroups {
  /// [num_groups + 1], where each group begins; counted from begins[0], which is sources[0].
  std::span<const std::int64_t> begins;
  Sources sources;

  std::size_t num_groups() const { return begins.size() - 1; }
  Sources group(std::size_t g) const {
    return sources.subspan(static_cast<std::size_t>(begins[g] - begins[0]),
                           static_cast<std::size_t>(begins[g + 1] - begins[g]));
  }
};

/// The three ways to make a row. Each returns the block of results at byte `offset`.
template <class Sum>
struct Copy {
  const std::byte* source;
  HWY_INLINE BlockOf<Sum> operator()(std::size_t offset) const { return BlockOf<Sum>::load(source + offset); }
};

template <class Sum>
HWY_INLINE BlockSum<Sum> sum_at(Sources sources, std::size_t offset) {
  BlockSum<Sum> sum;
  for (const std::byte* source : sources) sum.add(BlockOf<Sum>::load(source + offset));
  return sum;
}

/// One sum of all sources, rounded once.
template <class Sum>
struct OneStage {
  Sources sources;
  HWY_INLINE BlockOf<Sum> operator()(std::size_t offset) const {
    return sum_at<Sum>(sources, offset).rounded();
  }
};

/// Stages L and F: groups of several rows are summed and rounded first.
template <class Sum>
struct TwoStages {
  RowGroups row;
  HWY_INLINE BlockOf<Sum> operator()(std::size_t offset) const {
    BlockSum<Sum> sum;
    for (std::size_t g = 0; g < row.num_groups(); ++g) {
      const Sources group = row.group(g);
      if (group.size() == 1) {
        sum.add(BlockOf<Sum>::load(group.front() + offset));
      } else {
        sum.add_rounded(sum_at<Sum>(group, offset));
      }
    }
    return sum.rounded();
  }
};

/// Writes a row of at least one block. Where the row does not start or end with a whole block, its first or
/// last block overlaps the neighbour: the same bits twice.
template <class Sum, class BlockAt>
void write_row(std::byte* out, std::size_t row_bytes, StoreMode mode, const BlockAt& block_at) {
  using Block = BlockOf<Sum>;
  std::size_t i = 0;
  if (mode == StoreMode::kStreaming) {
    i = (0 - reinterpret_cast<std::uintptr_t>(out)) % Block::kVectorBytes;
    if (i > 0) block_at(0).store(out);
    for (; i + Block::kBytes <= row_bytes; i += Block::kBytes) block_at(i).stream(out + i);
  }
  for (; i + Block::kBytes <= row_bytes; i += Block::kBytes) block_at(i).store(out + i);
  if (i < row_bytes) block_at(row_bytes - Block::kBytes).store(out + row_bytes - Block::kBytes);
}

template <class Sum>
void reduce_row(const RowGroups& row, std::byte* out, std::size_t row_bytes, StoreMode mode) {
  const std::size_t num_sources = row.sources.size();
  if (num_sources == 0) {
    std::memset(out, 0, row_bytes);
  } else if (num_sources == 1) {
    write_row<Sum>(out, row_bytes, mode, Copy<Sum>{row.sources.front()});
  } else if (row.num_groups() == 1 || row.num_groups() == num_sources) {
    write_row<Sum>(out, row_bytes, mode, OneStage<Sum>{row.sources});
  } else {
    write_row<Sum>(out, row_bytes, mode, TwoStages<Sum>{row});
  }
}

/// A row shorter than a block: the same, on copies of the sources that are filled up with zeros.
template <class Sum>
void reduce_short_row(const RowGroups& row, std::byte* out, std::size_t row_bytes) {
  using Padded = std::array<std::byte, BlockOf<Sum>::kBytes>;
  std::vector<Padded> copies(row.sources.size());
  std::vector<const std::byte*> sources;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    std::memcpy(copies[i].data(), row.sources[i], row_bytes);
    sources.push_back(copies[i].data());
  }
  Padded sum;
  reduce_row<Sum>({row.begins, sources}, sum.data(), sum.size(), StoreMode::kCached);
  std::memcpy(out, sum.data(), row_bytes);
}

template <class Sum>
void reduce_all(const ReduceRows& job, StoreMode mode) {
  const std::size_t row_bytes = job.num_columns * size_of(job.dtype);
  for (std::size_t i = 0; i + 1 < job.group_begin.size(); ++i) {
    const auto first = static_cast<std::size_t>(job.group_begin[i]);
    const auto last = static_cast<std::size_t>(job.group_begin[i + 1]);
    const RowGroups row = {.begins = job.source_begin.subspan(first, last - first + 1),
                           .sources = job.sources.subspan(
                               static_cast<std::size_t>(job.source_begin[first]),
                               static_cast<std::size_t>(job.source_begin[last] - job.source_begin[first]))};
    std::byte* out = job.out + i * row_bytes;
    if (row_bytes < BlockOf<Sum>::kBytes) {
      reduce_short_row<Sum>(row, out, row_bytes);
    } else {
      reduce_row<Sum>(row, out, row_bytes, mode);
    }
  }
  hwy::FlushStream();
}

void reduce_summable(const ReduceRows& job, StoreMode mode) {
  visit_summable(job.dtype, [&]<typename T>(T) { reduce_all<SumOf<T>>(job, mode); });
}

}  // namespace flexep::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexep::cpu {
namespace {
HWY_EXPORT(reduce_summable);
}

void reduce_rows(const ReduceRows& job, StoreMode mode) {
  if (!is_summable(job.dtype)) {
    throw InvalidArgument("dtype", fmt::format("rows of {} cannot be summed", name_of(job.dtype)));
  }
  const FloatEnvironment default_environment;
  HWY_DYNAMIC_DISPATCH(reduce_summable)(job, mode);
}

}  // namespace flexep::cpu
#endif
