// SPDX-License-Identifier: Apache-2.0
//
// A block takes a tile of 64 x 64 results, a thread 4 x 4 of them, 16 apart.
#include "moe/convert.h"
#include "moe/cuda/check.h"
#include "moe/cuda/own_products.h"

namespace flexep::moe::on_cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kSide = 16, kThreads = kSide * kSide, kEach = kTile / kSide;

/// A factor as the kernel reads it: `outer` are rows of the left factor, columns of the right one.
template <typename T>
struct Operand {
  const T* values;
  std::int64_t num_outer, outer_stride, inner_stride;
};

template <typename T>
using Tile = Wide<T>[kDepth][kTile];

/// Zeros where the factor ends. Neighbouring threads load neighbouring values.
template <typename T>
__device__ void load(const Operand<T>& from, std::int64_t first_outer, std::int64_t first_inner,
                     std::int64_t num_inner, Tile<T>& tile) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += kThreads) {
    const bool runs_along_inner = from.inner_stride == 1;
    const int outer = runs_along_inner ? i / kDepth : i % kTile;
    const int inner = runs_along_inner ? i % kDepth : i / kTile;
    const std::int64_t at_outer = first_outer + outer, at_inner = first_inner + inner;
    const bool is_inside = at_outer < from.num_outer && at_inner < num_inner;
    tile[inner][outer] =
        is_inside ? convert<Wide<T>>(from.values[at_outer * from.outer_stride + at_inner * from.inner_stride])
                  : Wide<T>{0};
  }
}

template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads)
    product_kernel(const Operand<T> left, const Operand<T> right, std::int64_t num_inner, Out* out) {
  __shared__ Tile<T> rows, columns;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t first_column = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const int row = static_cast<int>(threadIdx.x) / kSide, column = static_cast<int>(threadIdx.x) % kSide;
  Wide<T> sums[kEach][kEach] = {};
  for (std::int64_t first = 0; first < num_inner; first += kDepth) {
    load(left, first_row, first, num_inner, rows);
    load(right, first_column, first, num_inner, columns);
    __syncthreads();
#pragma unroll
    for (int inner = 0; inner < kDepth; ++inner) {
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          sums[i][j] += rows[inner][row + kSide * i] * columns[inner][column + kSide * j];
    }
    __syncthreads();
  }
  for (int i = 0; i < kEach; ++i) {
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t at_row = first_row + row + kSide * i, at_column = first_column + column + kSide * j;
      if (at_row < left.num_outer && at_column < right.num_outer)
        out[at_row * right.num_outer + at_column] = convert<Out>(sums[i][j]);
    }
  }
}

unsigned tiles_of(std::int64_t length) {
  return static_cast<unsigned>((length + kTile - 1) / kTile);
}

// Elements from one row of the memory to the next.
std::int64_t pitch_of(const Tensor& matrix) {
  return matrix.size(matrix.num_dims() - 1);
}

template <typename T>
Operand<T> left_operand(const Factor& factor) {
  const std::int64_t pitch = pitch_of(factor.matrix);
  return {factor.matrix.data<T>(), factor.rows(), factor.is_transposed ? 1 : pitch,
          factor.is_transposed ? pitch : 1};
}
template <typename T>
Operand<T> right_operand(const Factor& factor) {
  const std::int64_t pitch = pitch_of(factor.matrix);
  return {factor.matrix.data<T>(), factor.columns(), factor.is_transposed ? pitch : 1,
          factor.is_transposed ? 1 : pitch};
}

}  // namespace

void OwnProducts::multiply(const Factor& a, const Factor& b, const Tensor& out, cudaStream_t stream) const {
  if (out.num_elements() == 0) return;
  const dim3 blocks(tiles_of(a.rows()), tiles_of(b.columns()));
  visit_summable(a.matrix.dtype(), [&](auto factor) {
    visit_summable(out.dtype(), [&](auto result) {
      using T = decltype(factor);
      using Out = decltype(result);
      product_kernel<T, Out><<<blocks, kThreads, 0, stream>>>(left_operand<T>(a), right_operand<T>(b),
                                                              a.columns(), out.data<Out>());
    });
  });
  check(cudaGetLastError(), "multiply matrices");
}

}  // namespace flexep::moe::on_cuda
