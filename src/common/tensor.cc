// SPDX-License-Identifier: Apache-2.0
#include "flexep/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>

#include "common/check.h"
#include "common/math.h"

namespace flexep {
namespace {

constexpr std::size_t kAlignment = 64;

std::shared_ptr<void> allocate(std::size_t num_bytes) {
  void* memory = std::aligned_alloc(kAlignment, align_up(std::max(num_bytes, std::size_t{1}), kAlignment));
  if (memory == nullptr) throw OutOfMemory(fmt::format("no memory for a tensor of {} bytes", num_bytes));
  return {memory, std::free};
}

}  // namespace

Shape::Shape(std::span<const std::int64_t> extents) : num_dims_(static_cast<int>(extents.size())) {
  require_argument(extents.size() <= kMaxDims, "shape", "a tensor has at most {} dimensions, not {}", kMaxDims,
                   extents.size());
  std::copy(extents.begin(), extents.end(), extents_.begin());
  require_argument(std::all_of(extents.begin(), extents.end(), [](auto extent) { return extent >= 0; }), "shape",
                   "shape {} has a negative extent", to_string());
}

std::int64_t Shape::num_elements() const {
  const auto all = extents();
  return std::accumulate(all.begin(), all.end(), std::int64_t{1}, std::multiplies<>());
}

std::string Shape::to_string() const { return fmt::format("[{}]", fmt::join(extents(), ", ")); }

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  auto memory = allocate(num_bytes);
  void* data = memory.get();
  return from_memory(data, shape, dtype, std::move(memory));
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  std::memset(tensor.data(), 0, tensor.num_bytes());
  return tensor;
}

Tensor Tensor::from_memory(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner) {
  Tensor tensor;
  tensor.data_ = data;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.defined_ = true;
  tensor.owner_ = std::move(owner);
  return tensor;
}

Tensor Tensor::reshape(const Shape& shape) const {
  require_argument(shape.num_elements() == num_elements(), "shape", "a tensor of shape {} cannot become {}",
                   shape_.to_string(), shape.to_string());
  Tensor tensor = *this;
  tensor.shape_ = shape;
  return tensor;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  require_argument(num_dims() > 0 && 0 <= begin && begin <= end && end <= size(0), "rows",
                   "rows [{}, {}) are not in a tensor of shape {}", begin, end, shape_.to_string());
  auto extents = std::array<std::int64_t, Shape::kMaxDims>{};
  std::copy_n(shape_.extents().begin(), num_dims(), extents.begin());
  extents[0] = end - begin;
  const Shape shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(num_dims())));
  const std::size_t row_bytes = size(0) == 0 ? 0 : num_bytes() / static_cast<std::size_t>(size(0));
  return from_memory(static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin) * row_bytes, shape, dtype_,
                     owner_);
}

Tensor Tensor::clone() const {
  if (!defined_) return {};
  Tensor copy = empty(shape_, dtype_);
  if (num_bytes() > 0) std::memcpy(copy.data(), data_, num_bytes());
  return copy;
}

void Tensor::require_dtype(DType dtype) const {
  require_argument(dtype_ == dtype, "dtype", "a tensor of {} was read as {}", name_of(dtype_), name_of(dtype));
}

void Tensor::copy_from(const void* values, std::size_t num_values) const {
  require_argument(num_values == static_cast<std::size_t>(num_elements()), "values",
                   "{} values do not fill a tensor of shape {}", num_values, shape_.to_string());
  if (num_values > 0) std::memcpy(data_, values, num_bytes());
}

}  // namespace flexep
