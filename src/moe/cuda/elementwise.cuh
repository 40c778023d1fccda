// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>

#include "moe/cuda/check.h"

namespace flexep::moe::on_cuda {

/// Neighbours that are loaded and stored at once.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T values[kWidth];

  static __device__ Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  __device__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

/// Whether packs of `num_bytes` bytes start at each of the addresses.
inline bool are_aligned(std::initializer_list<const void*> addresses, std::uintptr_t num_bytes) {
  for (const void* address : addresses)
    if (reinterpret_cast<std::uintptr_t>(address) % num_bytes != 0) return false;
  return true;
}

/// operation.at<n>(i) does elements i .. i + n - 1.
template <int kWidth, typename Operation>
__global__ void run_elementwise(const Operation operation, std::int64_t num_elements) {
  std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (i + kWidth <= num_elements) return operation.template at<kWidth>(i);
  for (; i < num_elements; ++i) operation.template at<1>(i);
}

/// @param is_aligned  for packs of four of every type.
template <typename Operation>
void launch_elementwise(const Operation& operation, std::int64_t num_elements, bool is_aligned,
                        const char* action, cudaStream_t stream) {
  constexpr int kThreads = 256, kWidth = 4;
  if (num_elements == 0) return;
  const std::int64_t per_block = kThreads * (is_aligned ? kWidth : 1);
  const auto num_blocks = static_cast<unsigned>((num_elements + per_block - 1) / per_block);
  if (is_aligned)
    run_elementwise<kWidth><<<num_blocks, kThreads, 0, stream>>>(operation, num_elements);
  else
    run_elementwise<1><<<num_blocks, kThreads, 0, stream>>>(operation, num_elements);
  check(cudaGetLastError(), action);
}

}  // namespace flexep::moe::on_cuda
