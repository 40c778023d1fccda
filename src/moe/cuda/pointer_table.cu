// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/cuda/check.h"
#include "moe/cuda/kernels.h"

namespace flexep::moe::on_cuda {
namespace {

constexpr unsigned kMaxPointers = 384;  // that fit into the 4 KiB of a kernel's arguments

struct Pointers {
  const void* values[kMaxPointers];
};

__global__ void store_kernel(const Pointers pointers, const void** table) {
  table[threadIdx.x] = pointers.values[threadIdx.x];
}

}  // namespace

void store_pointers(std::span<const void* const> pointers, const Tensor& table, cudaStream_t stream) {
  auto* to = static_cast<const void**>(table.data());
  while (!pointers.empty()) {
    const auto chunk = pointers.first(std::min<std::size_t>(pointers.size(), kMaxPointers));
    Pointers arguments{};
    std::copy(chunk.begin(), chunk.end(), arguments.values);
    store_kernel<<<1, static_cast<unsigned>(chunk.size()), 0, stream>>>(arguments, to);
    check(cudaGetLastError(), "store pointers");
    pointers = pointers.subspan(chunk.size());
    to += chunk.size();
  }
}

}  // namespace flexep::moe::on_cuda
