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

// Row-major strides of a dense array.
Shape dense_strides(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxDims> strides{};
  std::int64_t stride = 1;
  for (int dim = shape.num_dims() - 1; dim >= 0; --dim) {
    strides[static_cast<std::size_t>(dim)] = stride;
    stride *= shape[dim];
  }
  return Shape(std::span<const std::int64_t>(strides.data(), static_cast<std::size_t>(shape.num_dims())));
}

// Copies the elements that the extents span, row-major, to where `to` points, and moves it behind them.
void copy_strided(std::byte*& to, const std::byte* from, std::span<const std::int64_t> extents,
                  std::span<const std::int64_t> strides, std::size_t element_bytes) {
  if (extents.empty()) {
    std::memcpy(to, from, element_bytes);
    to += element_bytes;
    return;
  }
  for (std::int64_t i = 0; i < extents.front(); ++i) {
    copy_strided(to, from + static_cast<std::size_t>(i * strides.front()) * element_bytes, extents.subspan(1),
                 strides.subspan(1), element_bytes);
  }
}

}  // namespace

Shape::Shape(std::span<const std::int64_t> extents) : num_dims_(static_cast<int>(extents.size())) {
  require_argument(extents.size() <= kMaxDims, "shape", "a tensor has at most {} dimensions, not {}",
                   kMaxDims, extents.size());
  std::copy(extents.begin(), extents.end(), extents_.begin());
  require_argument(std::all_of(extents.begin(), extents.end(), [](auto extent) { return extent >= 0; }),
                   "shape", "shape {} has a negative extent", *this);
  // So that sizes in bytes and strides fit 63 bits, whatever the element type; strides also of a shape
  // without elements.
  constexpr std::int64_t kMaxElements = std::int64_t{1} << 59;
  std::int64_t num_elements = 1;
  for (const std::int64_t extent : extents) {
    const std::int64_t factor = std::max<std::int64_t>(extent, 1);
    require_argument(num_elements <= kMaxElements / factor, "shape", "shape {} has too many elements", *this);
    num_elements *= factor;
  }
}

std::int64_t Shape::num_elements() const {
  const auto all = extents();
  return std::accumulate(all.begin(), all.end(), std::int64_t{1}, std::multiplies<>());
}

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(extents(), ", "));
}

std::string Device::to_string() const {
  return is_host() ? "host" : fmt::format("cuda:{}", index);
}

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

Tensor Tensor::from_memory(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner,
                           Device device) {
  return from_memory(data, shape, dense_strides(shape), dtype, std::move(owner), device);
}

Tensor Tensor::from_memory(void* data, const Shape& shape, const Shape& strides, DType dtype,
                           std::shared_ptr<void> owner, Device device) {
  require_argument(shape.num_dims() == strides.num_dims(), "strides",
                   "strides {} do not fit a tensor of shape {}", strides, shape);
  Tensor tensor;
  tensor.data_ = data;
  tensor.shape_ = shape;
  tensor.strides_ = strides;
  tensor.dtype_ = dtype;
  tensor.device_ = device;
  tensor.defined_ = true;
  tensor.owner_ = std::move(owner);
  return tensor;
}

bool Tensor::is_contiguous() const {
  std::int64_t stride = 1;
  for (int dim = num_dims() - 1; dim >= 0; --dim) {
    // The stride of a dimension of one element is never taken, and an empty tensor has no elements to be
    // apart.
    if (shape_[dim] != 1 && strides_[dim] != stride && num_elements() > 0) return false;
    stride *= shape_[dim];
  }
  return true;
}

Tensor Tensor::reshape(const Shape& shape) const {
  require_contiguous();
  require_argument(shape.num_elements() == num_elements(), "shape", "a tensor of shape {} cannot become {}",
                   shape_, shape);
  return from_memory(data_, shape, dtype_, owner_, device_);
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t end) const {
  require_argument(num_dims() > 0 && 0 <= begin && begin <= end && end <= size(0), "rows",
                   "rows [{}, {}) are not in a tensor of shape {}", begin, end, shape_);
  auto extents = std::array<std::int64_t, Shape::kMaxDims>{};
  std::copy_n(shape_.extents().begin(), num_dims(), extents.begin());
  extents[0] = end - begin;
  const Shape shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(num_dims())));
  auto* first =
      static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * strides_[0]) * size_of(dtype_);
  return from_memory(first, shape, strides_, dtype_, owner_, device_);
}

Tensor Tensor::clone() const {
  if (!defined_) return {};
  require_host("clone");
  Tensor copy = empty(shape_, dtype_);
  if (num_bytes() == 0) return copy;
  if (is_contiguous()) {
    std::memcpy(copy.data(), data_, num_bytes());
  } else {
    auto* to = static_cast<std::byte*>(copy.data());
    copy_strided(to, static_cast<const std::byte*>(data_), shape_.extents(), strides_.extents(),
                 size_of(dtype_));
  }
  return copy;
}

void Tensor::require_contiguous() const {
  require_argument(is_contiguous(), "tensor",
                   "a tensor of shape {} has strides {}, but must be contiguous here", shape_, strides_);
}

void Tensor::require_host(const char* operation) const {
  require_argument(device_.is_host(), "tensor", "{} needs a tensor in host memory, but this one is on {}",
                   operation, device_.to_string());
}

void Tensor::require_dtype(DType dtype) const {
  require_argument(defined_, "tensor", "there is no tensor to read");
  require_argument(dtype_ == dtype, "dtype", "a tensor of {} was read as {}", name_of(dtype_),
                   name_of(dtype));
}

void Tensor::copy_from(const void* values, std::size_t num_values) const {
  require_argument(num_values == static_cast<std::size_t>(num_elements()), "values",
                   "{} values do not fill a tensor of shape {}", num_values, shape_);
  if (num_values > 0) std::memcpy(data_, values, num_bytes());
}

}  // namespace flexep
