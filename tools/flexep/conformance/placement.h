// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "flexep/tensor.h"

namespace flexep::conformance {

/// Ordinary memory that begins and ends with a page, as register_memory takes it.
struct Pages {
  std::shared_ptr<std::byte> memory;
  std::size_t num_bytes = 0;
};

/// Takes a case's tensors to the device of its operations, and their results back to the host. On the host it
/// does nothing.
class Placement {
 public:
  /// For the calling thread, which uses a GPU from now on. @throws InvalidArgument when the device is one of
  /// CUDA and this build has no CUDA.
  explicit Placement(Device device);

  Device device() const { return device_; }
  /// The tensor, strides and all, where operations of the device read it.
  Tensor put(const Tensor& on_host) const;
  /// The tensor where the host reads it, once what the device has to do for it is done.
  Tensor fetch(const Tensor& tensor) const;
  /// Ordinary memory of the device, uninitialised.
  Tensor empty(const Shape& shape, DType dtype) const;
  Pages pages(std::size_t num_bytes) const;
  /// Waits for all that the current stream of the device has been given.
  void synchronise() const;
  /// Overwrites all elements of a dense tensor.
  void fill(const Tensor& tensor, int byte) const;
  void write(const Tensor& tensor, const Tensor& on_host) const;

 private:
  Device device_;
};

}  // namespace flexep::conformance
