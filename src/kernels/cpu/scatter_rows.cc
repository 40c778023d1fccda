// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/scatter_rows.h"

#include <algorithm>
#include <cstring>

// One pass of this file per instruction set: foreach_target.h includes it again with another HWY_TARGET.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/scatter_rows.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flexep::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Places = std::span<std::byte* const>;
using Bytes = hn::ScalableTag<std::uint8_t>;

HWY_INLINE const std::uint8_t* lanes(const std::byte* p) {
  return reinterpret_cast<const std::uint8_t*>(p);
}
HWY_INLINE std::uint8_t* lanes(std::byte* p) {
  return reinterpret_cast<std::uint8_t*>(p);
}

HWY_INLINE std::size_t bytes_to_vector_boundary(const std::byte* p) {
  return (0 - reinterpret_cast<std::uintptr_t>(p)) % hn::Lanes(Bytes());
}

/// Reads four vectors, stores them to every place, reads on: the order that was fastest
/// (docs/performance.md). src[begin, end) is a multiple of four vectors; at `begin` every place is on a
/// vector boundary.
void stream_blocks(const std::byte* src, std::size_t begin, std::size_t end, Places dsts) {
  const Bytes d;
  const std::size_t N = hn::Lanes(d);
  for (std::size_t i = begin; i < end; i += 4 * N) {
    const auto v0 = hn::LoadU(d, lanes(src + i));
    const auto v1 = hn::LoadU(d, lanes(src + i + N));
    const auto v2 = hn::LoadU(d, lanes(src + i + 2 * N));
    const auto v3 = hn::LoadU(d, lanes(src + i + 3 * N));
    for (std::byte* dst : dsts) {
      hn::Stream(v0, d, lanes(dst + i));
      hn::Stream(v1, d, lanes(dst + i + N));
      hn::Stream(v2, d, lanes(dst + i + 2 * N));
      hn::Stream(v3, d, lanes(dst + i + 3 * N));
    }
  }
}

/// For places that are equally far from a vector boundary; what lies before the first and after the last
/// whole block goes through the cache.
void stream_to_alike(const std::byte* src, std::size_t row_bytes, Places dsts) {
  const std::size_t begin = std::min(bytes_to_vector_boundary(dsts.front()), row_bytes);
  const std::size_t end = row_bytes - (row_bytes - begin) % (4 * hn::Lanes(Bytes()));
  stream_blocks(src, begin, end, dsts);
  for (std::byte* dst : dsts) {
    if (begin > 0) std::memcpy(dst, src, begin);
    if (end < row_bytes) std::memcpy(dst + end, src + end, row_bytes - end);
  }
}

void stream_row(const std::byte* src, std::size_t row_bytes, Places dsts) {
  const bool alike = std::all_of(dsts.begin(), dsts.end(), [&](const std::byte* dst) {
    return bytes_to_vector_boundary(dst) == bytes_to_vector_boundary(dsts.front());
  });
  if (alike) return stream_to_alike(src, row_bytes, dsts);
  for (std::size_t i = 0; i < dsts.size(); ++i) stream_to_alike(src, row_bytes, dsts.subspan(i, 1));
}

void stream_rows(const ScatterRows& job) {
  for (std::size_t i = 0; i + 1 < job.dst_begin.size(); ++i) {
    const auto begin = static_cast<std::size_t>(job.dst_begin[i]);
    const auto end = static_cast<std::size_t>(job.dst_begin[i + 1]);
    if (begin < end)
      stream_row(job.src + i * job.src_stride, job.row_bytes, job.dsts.subspan(begin, end - begin));
  }
  hwy::FlushStream();
}

}  // namespace flexep::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flexep::cpu {
namespace {

HWY_EXPORT(stream_rows);

void store_rows(const ScatterRows& job) {
  for (std::size_t i = 0; i + 1 < job.dst_begin.size(); ++i) {
    for (std::int64_t k = job.dst_begin[i]; k < job.dst_begin[i + 1]; ++k) {
      std::memcpy(job.dsts[static_cast<std::size_t>(k)], job.src + i * job.src_stride, job.row_bytes);
    }
  }
}

}  // namespace

void scatter_rows(const ScatterRows& job, StoreMode mode) {
  switch (mode) {
    case StoreMode::kCached:
      return store_rows(job);
    case StoreMode::kStreaming:
      return HWY_DYNAMIC_DISPATCH(stream_rows)(job);
  }
}

}  // namespace flexep::cpu
#endif
