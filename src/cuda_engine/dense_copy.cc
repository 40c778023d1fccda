// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/dense_copy.h"

#include <cstdint>

#include "backend/cuda/check_cuda.h"

namespace flexep::cuda {
namespace {

/// Rows of `width` bytes, `pitch` bytes from one to the next.
struct Rows {
  std::byte* data;
  std::size_t pitch;
};

void copy_rows(const Rows& to, const Rows& from, std::size_t width, std::size_t num_rows,
               cudaStream_t stream) {
  check(
      cudaMemcpy2DAsync(to.data, to.pitch, from.data, from.pitch, width, num_rows, cudaMemcpyDefault, stream),
      "copy rows");
}

}  // namespace

bool is_dense(const Tensor& tensor) {
  return tensor.num_bytes() == 0 ||
         (tensor.is_contiguous() && reinterpret_cast<std::uintptr_t>(tensor.data()) % 16 == 0);
}

void copy_dense(const Tensor& matrix, std::byte* to, cudaStream_t stream) {
  if (matrix.num_bytes() == 0) return;
  if (matrix.is_contiguous())  // a vector as rows of one element would take a transaction for each
    return check(cudaMemcpyAsync(to, matrix.data(), matrix.num_bytes(), cudaMemcpyDefault, stream),
                 "copy rows");
  const std::size_t element = size_of(matrix.dtype());
  const auto num_columns = static_cast<std::size_t>(matrix.num_elements() / matrix.size(0));
  const auto num_rows = static_cast<std::size_t>(matrix.size(0));
  const std::size_t width = num_columns * element;
  auto* const from = static_cast<std::byte*>(matrix.data());
  if (matrix.num_dims() == 1) {
    copy_rows({to, element}, {from, static_cast<std::size_t>(matrix.stride(0)) * element}, element, num_rows,
              stream);
    return;
  }
  const std::size_t pitch = static_cast<std::size_t>(matrix.stride(0)) * element;
  const bool has_rows = matrix.stride(1) == 1 || num_columns == 1;
  if (has_rows && (pitch >= width || num_rows == 1)) {
    copy_rows({to, width}, {from, std::max(pitch, width)}, width, num_rows, stream);
  } else if (has_rows) {  // rows that overlap, or one row again and again
    for (std::size_t row = 0; row < num_rows; ++row)
      copy_rows({to + row * width, width}, {from + row * pitch, width}, width, 1, stream);
  } else {
    const std::size_t column_pitch = static_cast<std::size_t>(matrix.stride(1)) * element;
    for (std::size_t row = 0; row < num_rows; ++row) {
      for (std::size_t column = 0; column < num_columns; ++column) {
        copy_rows({to + row * width + column * element, element},
                  {from + row * pitch + column * column_pitch, element}, element, 1, stream);
      }
    }
  }
}

}  // namespace flexep::cuda
