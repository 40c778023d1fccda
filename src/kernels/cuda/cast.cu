// SPDX-License-Identifier: Apache-2.0
//
// A warp takes a pack: the group or groups of 128 elements whose factors share 32 bits. A lane takes four
// neighbours of a group.
#include <algorithm>

#include "common/fp8_scaling.h"
#include "common/math.h"
#include "kernels/cuda/cast.h"
#include "kernels/cuda/launch.cuh"

namespace flexep::cuda {
namespace {

constexpr int kElementsPerLane = static_cast<int>(fp8::kGroup) / kWarpSize;

template <typename T>
struct alignas(kElementsPerLane * sizeof(T)) Four {
  T values[kElementsPerLane];
};

/// The elements of one lane in one group: [first, first + count) of a row.
struct Slice {
  std::int64_t token;
  std::int64_t first;
  int count;  ///< 0 beyond the end of the row
};

__device__ Slice slice_of(const CastLaunch& launch, std::int64_t token, std::int64_t group) {
  const std::int64_t first = group * fp8::kGroup + lane_in_warp() * kElementsPerLane;
  const std::int64_t left = launch.hidden - first;
  return {token, first, static_cast<int>(max(min(left, std::int64_t{kElementsPerLane}), std::int64_t{0}))};
}

template <typename T>
__device__ Four<T> load(const CastLaunch& launch, const Slice& slice) {
  const T* from = reinterpret_cast<const T*>(launch.from) + slice.token * launch.row_stride +
                  slice.first * launch.column_stride;
  const bool is_whole = slice.count == kElementsPerLane && launch.column_stride == 1 &&
                        reinterpret_cast<std::uintptr_t>(from) % sizeof(Four<T>) == 0;
  if (is_whole) return *reinterpret_cast<const Four<T>*>(from);
  Four<T> four{};
  for (int i = 0; i < slice.count; ++i) four.values[i] = from[i * launch.column_stride];
  return four;
}

template <typename T>
__device__ void store(const CastLaunch& launch, const Slice& slice, const Four<T>& four) {
  T* to = reinterpret_cast<T*>(launch.to) + slice.token * launch.hidden + slice.first;
  if (slice.count == kElementsPerLane && reinterpret_cast<std::uintptr_t>(to) % sizeof(Four<T>) == 0) {
    *reinterpret_cast<Four<T>*>(to) = four;
  } else {
    for (int i = 0; i < slice.count; ++i) to[i] = four.values[i];
  }
}

__device__ float largest_of_warp(float largest) {
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    largest = fp8::larger(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, distance));
  return largest;
}

/// Calls body(token, pack) for the packs of this warp.
template <typename Body>
__device__ void for_each_pack(const CastLaunch& launch, int groups_per_pack, Body body) {
  const std::int64_t num_packs = ceil_div(launch.hidden, groups_per_pack * fp8::kGroup);
  const std::int64_t first = static_cast<std::int64_t>(block()) * kNumWarps + warp_in_block();
  for (std::int64_t i = first; i < launch.num_tokens * num_packs;
       i += static_cast<std::int64_t>(num_blocks()) * kNumWarps)
    body(i / num_packs, i % num_packs);
}

__device__ int groups_per_pack(const CastLaunch& launch) {
  return launch.has_packed_exponents ? static_cast<int>(fp8::kExponentsPerInt) : 1;
}

/// @return the group's factor.
template <typename T>
__device__ float quantise_group(const CastLaunch& launch, const Slice& slice) {
  const Four<T> four = load<T>(launch, slice);
  float largest = fp8::kSmallestMagnitude;
  for (const T value : four.values)
    largest = fp8::larger(largest, fp8::magnitude_of(static_cast<float>(value)));
  const float factor = fp8::factor_of(largest_of_warp(largest), launch.has_packed_exponents);
  const float reciprocal = 1.0f / factor;
  Four<Float8E4M3> quantised;
  for (int i = 0; i < kElementsPerLane; ++i)
    quantised.values[i] = fp8::quantise(static_cast<float>(four.values[i]), reciprocal);
  store(launch, slice, quantised);
  return factor;
}

template <typename T>
__global__ void __launch_bounds__(kNumThreads) to_fp8_kernel(const __grid_constant__ CastLaunch launch) {
  const int num_groups = groups_per_pack(launch);
  for_each_pack(launch, num_groups, [&](std::int64_t token, std::int64_t pack) {
    std::uint32_t factors = 0;
    for (int i = 0; i < num_groups; ++i) {
      const std::int64_t group = pack * num_groups + i;
      if (group * fp8::kGroup >= launch.hidden) break;
      const float factor = quantise_group<T>(launch, slice_of(launch, token, group));
      factors |= launch.has_packed_exponents ? fp8::exponent_of(factor) << (8 * i) : fp8::bits_of(factor);
    }
    if (lane_in_warp() == 0) launch.sf[token * launch.sf_row_stride + pack * launch.sf_pack_stride] = factors;
  });
}

template <typename T>
__global__ void __launch_bounds__(kNumThreads) from_fp8_kernel(const __grid_constant__ CastLaunch launch) {
  const int num_groups = groups_per_pack(launch);
  for_each_pack(launch, num_groups, [&](std::int64_t token, std::int64_t pack) {
    const std::uint32_t factors = launch.sf[token * launch.sf_row_stride + pack * launch.sf_pack_stride];
    for (int i = 0; i < num_groups; ++i) {
      const Slice slice = slice_of(launch, token, pack * num_groups + i);
      const Four<Float8E4M3> four = load<Float8E4M3>(launch, slice);
      const float factor = launch.has_packed_exponents ? fp8::power_of_exponent(factors >> (8 * i) & 0xFFu)
                                                       : std::bit_cast<float>(factors);
      Four<T> restored;
      for (int k = 0; k < kElementsPerLane; ++k) restored.values[k] = T(fp8::restore(four.values[k], factor));
      store(launch, slice, restored);
    }
  });
}

/// Enough blocks to fill any GPU, and no more than there is work.
int blocks_for(const CastLaunch& launch) {
  constexpr std::int64_t kMaxBlocks = 2048;
  const std::int64_t num_groups = launch.num_tokens * ceil_div(launch.hidden, fp8::kGroup);
  return static_cast<int>(
      std::clamp(ceil_div(num_groups, std::int64_t{kNumWarps}), std::int64_t{1}, kMaxBlocks));
}

}  // namespace

cudaError_t load_casts() {
  cudaError_t error = cudaSuccess;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    fp8::visit_rows(dtype, [&]<typename T>(T) {
      if (error == cudaSuccess) error = load(to_fp8_kernel<T>, 0);
      if (error == cudaSuccess) error = load(from_fp8_kernel<T>, 0);
    });
  }
  return error;
}

cudaError_t launch_cast_to_fp8(const CastLaunch& launch, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  fp8::visit_rows(launch.dtype, [&]<typename T>(T) {
    error = enqueue(to_fp8_kernel<T>, launch, blocks_for(launch), 0, stream);
  });
  return error;
}

cudaError_t launch_cast_from_fp8(const CastLaunch& launch, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  fp8::visit_rows(launch.dtype, [&]<typename T>(T) {
    error = enqueue(from_fp8_kernel<T>, launch, blocks_for(launch), 0, stream);
  });
  return error;
}

}  // namespace flexep::cuda
