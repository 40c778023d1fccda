// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "flexep/event.h"
#include "flexep/tensor.h"

namespace flexep {

/// A device whose tensors are moved by way of the host's memory: what a HostStagedEngine needs of it. Called
/// by one thread at a time, but for store() and finish_stores(), which another one may call meanwhile.
class StagedDevice {
 public:
  virtual ~StagedDevice() = default;

  /// Called once, before anything else, while ranks agree on a buffer: what it throws, all of them hear.
  virtual void prepare() = 0;

  /// Makes memory of the host ready for copies, until the last reference to the result goes; on any thread,
  /// whatever has become of the device. @throws OutOfMemory, CudaError.
  virtual std::shared_ptr<void> pin(std::byte* memory, std::size_t num_bytes) = 0;

  /// Copies to the host that are begun from now on start after all that the caller's current stream has been
  /// given, or, if there is one, after `previous` instead. @throws InvalidArgument where that stream cannot
  /// be followed.
  virtual void follow(const Event& previous) = 0;
  /// They start after this event, too, if there is one.
  virtual void follow_also(const Event& event) = 0;
  /// Begins to copy the elements of a tensor of the device, row-major, to memory of the host.
  virtual void fetch(const Tensor& from, std::byte* to) = 0;
  /// When all copies to the host that have been begun are made.
  virtual Event fetched() = 0;

  /// Memory for a tensor that store() writes and the caller's current stream finds. It goes back in stream
  /// order when the last copy of the tensor goes. @throws OutOfMemory.
  virtual Tensor make_result(const Shape& shape, const Shape& strides, DType dtype) = 0;
  /// Memory for the caller's current stream alone. @throws OutOfMemory.
  virtual Tensor empty(const Shape& shape, DType dtype) = 0;
  /// Bytes held for both.
  virtual std::int64_t num_bytes() const = 0;

  /// Begins to copy memory of the host to memory of the device.
  virtual void store(const std::byte* from, void* to, std::size_t num_bytes) = 0;
  /// Returns when all copies to the device that have been begun are made. @throws CudaError.
  virtual void finish_stores() = 0;
};

}  // namespace flexep
