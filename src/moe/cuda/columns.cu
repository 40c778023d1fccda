// SPDX-License-Identifier: Apache-2.0
//
// A warp takes a row.
#include "moe/cuda/check.h"
#include "moe/cuda/router_kernels.h"
#include "moe/cuda/warp_row.cuh"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename T>
struct Topk {
  std::int64_t num_rows;
  int num_columns;
  int k;
  const T* values;
  std::int64_t* idx;
  T* best;
};

template <typename T, int kWidth>
__global__ void topk_kernel(const Topk<T> job) {
  const std::int64_t row = row_of_warp();
  if (row >= job.num_rows) return;
  T values[kWidth], ranked[kWidth];
  int place[kWidth];
  for_each_column<kWidth>(job.num_columns, [&](int j, int column) {
    values[j] = job.values[row * job.num_columns + column];
    ranked[j] = as_number(values[j]);
  });
  rank_best(ranked, job.num_columns, job.k, place);
  for_each_column<kWidth>(job.num_columns, [&](int j, int column) {
    if (place[j] < 0) return;
    job.idx[row * job.k + place[j]] = column;
    job.best[row * job.k + place[j]] = values[j];
  });
}

template <typename T>
__global__ void scatter_kernel(const T* values, const std::int64_t* idx, T* out, std::int64_t num_rows,
                               int num_columns, int k) {
  const std::int64_t row = row_of_warp();
  if (row >= num_rows) return;
  for (int column = lane(); column < num_columns; column += kWarp) out[row * num_columns + column] = 0;
  __syncwarp();
  for (int i = lane(); i < k; i += kWarp) out[row * num_columns + idx[row * k + i]] = values[row * k + i];
}

}  // namespace

void topk(const Tensor& values, const TopColumns& out, cudaStream_t stream) {
  visit_wide(values.dtype(), [&](auto wide) {
    using T = decltype(wide);
    const Topk<T> job{values.size(0),   static_cast<int>(values.size(1)), static_cast<int>(out.idx.size(1)),
                      values.data<T>(), out.idx.data<std::int64_t>(),     out.values.data<T>()};
    launch_for_rows(values.size(0), values.size(1), [&](auto width, auto blocks, auto threads) {
      topk_kernel<T, decltype(width)::value><<<blocks, threads, 0, stream>>>(job);
    });
  });
  check(cudaGetLastError(), "find the largest probabilities");
}

void scatter_columns(const Tensor& values, const Tensor& idx, const Tensor& out, cudaStream_t stream) {
  visit_wide(values.dtype(), [&](auto wide) {
    using T = decltype(wide);
    launch_for_rows(values.size(0), 1, [&](auto, auto blocks, auto threads) {
      scatter_kernel<<<blocks, threads, 0, stream>>>(
          values.data<T>(), idx.data<std::int64_t>(), out.data<T>(), values.size(0),
          static_cast<int>(out.size(1)), static_cast<int>(values.size(1)));
    });
  });
  check(cudaGetLastError(), "scatter columns");
}

}  // namespace flexep::moe::on_cuda
