// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "flexep/types.h"

namespace flexep {

/// Extents of a tensor, outermost first; at most kMaxDims of them, each at least 0, fewer than 2^59 elements
/// in all.
class Shape {
 public:
  static constexpr int kMaxDims = 4;

  Shape() = default;
  /// @throws InvalidArgument for more than kMaxDims extents, a negative one, or too many elements.
  Shape(std::initializer_list<std::int64_t> extents)
      : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents);

  int num_dims() const { return num_dims_; }
  std::int64_t operator[](int dim) const { return extents_[static_cast<std::size_t>(dim)]; }
  std::int64_t num_elements() const;
  std::span<const std::int64_t> extents() const {
    return {extents_.data(), static_cast<std::size_t>(num_dims_)};
  }
  /// "[2048, 7168]".
  std::string to_string() const;
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<std::int64_t, kMaxDims> extents_{};
  int num_dims_ = 0;
};

/// An array in host memory, with shared ownership of that memory. Row-major and dense unless made with
/// strides.
///
/// A Tensor is a handle, as in the tensor libraries of the field: copies share the data, and a const Tensor
/// still lets its elements be written. The memory lives until the last copy is gone. A default-constructed
/// Tensor is "no tensor". Distinct Tensor objects may be used from distinct threads; one object is not
/// synchronised.
class Tensor {
 public:
  Tensor() = default;

  /// Memory of our own, 64-byte aligned, uninitialised. @throws OutOfMemory.
  static Tensor empty(const Shape& shape, DType dtype);
  /// Memory of our own, all bits zero. @throws OutOfMemory.
  static Tensor zeros(const Shape& shape, DType dtype);
  /// Memory of somebody else. `owner` is kept as long as a copy of the tensor lives; without it the caller
  /// guarantees that `data` outlives every use.
  static Tensor from_memory(void* data, const Shape& shape, DType dtype,
                            std::shared_ptr<void> owner = nullptr);
  /// The same with strides in elements, one per dimension, each at least 0; stride 0 repeats. @throws
  /// InvalidArgument.
  static Tensor from_memory(void* data, const Shape& shape, const Shape& strides, DType dtype,
                            std::shared_ptr<void> owner = nullptr);
  /// Copies `values` into memory of our own. @throws InvalidArgument when the shape does not have as many
  /// elements.
  template <typename T>
  static Tensor from_values(std::span<const T> values, const Shape& shape) {
    Tensor tensor = empty(shape, kDTypeOf<T>);
    tensor.copy_from(values.data(), values.size());
    return tensor;
  }

  /// False for "no tensor".
  bool defined() const { return defined_; }
  explicit operator bool() const { return defined_; }

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int num_dims() const { return shape_.num_dims(); }
  std::int64_t size(int dim) const { return shape_[dim]; }
  /// 0 for "no tensor".
  std::int64_t num_elements() const { return defined_ ? shape_.num_elements() : 0; }
  /// Bytes of the elements; of the memory they span where the tensor is contiguous.
  std::size_t num_bytes() const { return static_cast<std::size_t>(num_elements()) * size_of(dtype_); }
  /// Elements between neighbours in dimension `dim`.
  std::int64_t stride(int dim) const { return strides_[dim]; }
  /// Whether the elements lie one after the other in row-major order.
  bool is_contiguous() const;

  void* data() const { return data_; }
  /// The address of the first element as T*. @throws InvalidArgument when there is no tensor, or T is not its
  /// dtype.
  template <typename T>
  T* data() const {
    require_dtype(kDTypeOf<T>);
    return static_cast<T*>(data_);
  }
  /// All elements. @throws InvalidArgument when T is not the tensor's dtype or the tensor is not contiguous.
  template <typename T>
  std::span<T> values() const {
    require_contiguous();
    return {data<T>(), static_cast<std::size_t>(num_elements())};
  }

  /// The same memory under another shape. @throws InvalidArgument when the number of elements differs or it
  /// is not contiguous.
  Tensor reshape(const Shape& shape) const;
  /// Rows [begin, end) of the outermost dimension; shares the memory. @throws InvalidArgument when out of
  /// range.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// A contiguous copy in memory of its own.
  Tensor clone() const;
  /// This tensor if it is contiguous, else a clone.
  Tensor contiguous() const { return !defined_ || is_contiguous() ? *this : clone(); }

  const std::shared_ptr<void>& owner() const { return owner_; }

 private:
  void require_dtype(DType dtype) const;
  void require_contiguous() const;
  void copy_from(const void* values, std::size_t num_values) const;

  void* data_ = nullptr;
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::kFloat32;
  bool defined_ = false;
  std::shared_ptr<void> owner_;
};

}  // namespace flexep
