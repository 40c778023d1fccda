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

/// Where memory is: in the host's, or in that of one GPU.
struct Device {
  enum class Type : std::uint8_t { kHost, kCuda };

  Type type = Type::kHost;
  int index = 0;  ///< CUDA's number of the GPU

  static constexpr Device host() { return {}; }
  static constexpr Device cuda(int index = 0) { return {Type::kCuda, index}; }
  constexpr bool is_host() const { return type == Type::kHost; }
  /// "host", "cuda:0".
  std::string to_string() const;
  friend bool operator==(const Device&, const Device&) = default;
};

/// An array with shared ownership of its memory. Row-major and dense unless made with strides.
///
/// Memory is the host's unless the tensor was made with another device. What reads or writes elements here,
/// on the host (values, clone, contiguous where it must copy), throws InvalidArgument for a device's memory;
/// flexep/cuda.h copies it.
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
                            std::shared_ptr<void> owner = nullptr, Device device = Device::host());
  /// The same with strides in elements, one per dimension, each at least 0; stride 0 repeats. @throws
  /// InvalidArgument.
  static Tensor from_memory(void* data, const Shape& shape, const Shape& strides, DType dtype,
                            std::shared_ptr<void> owner = nullptr, Device device = Device::host());
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
  Device device() const { return device_; }
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
  /// All elements. @throws InvalidArgument when T is not the tensor's dtype, the tensor is not contiguous, or
  /// its memory is a device's.
  template <typename T>
  std::span<T> values() const {
    require_host("values");
    require_contiguous();
    return {data<T>(), static_cast<std::size_t>(num_elements())};
  }

  /// The same memory under another shape. @throws InvalidArgument when the number of elements differs or it
  /// is not contiguous.
  Tensor reshape(const Shape& shape) const;
  /// Rows [begin, end) of the outermost dimension; shares the memory. @throws InvalidArgument when out of
  /// range.
  Tensor rows(std::int64_t begin, std::int64_t end) const;
  /// A contiguous copy in memory of its own. @throws InvalidArgument when the memory is a device's.
  Tensor clone() const;
  /// This tensor if it is contiguous, else a clone.
  Tensor contiguous() const { return !defined_ || is_contiguous() ? *this : clone(); }

  const std::shared_ptr<void>& owner() const { return owner_; }

 private:
  void require_dtype(DType dtype) const;
  void require_contiguous() const;
  void require_host(const char* operation) const;
  void copy_from(const void* values, std::size_t num_values) const;

  void* data_ = nullptr;
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::kFloat32;
  Device device_;
  bool defined_ = false;
  std::shared_ptr<void> owner_;
};

}  // namespace flexep
