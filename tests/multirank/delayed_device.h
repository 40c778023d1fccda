// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "core/communication_thread.h"
#include "core/staged_device.h"
#include "flexep/error.h"

namespace flexep::testing {

inline constexpr Device kDevice = Device::cuda(0);

/// The same memory under the name of the other side: a DelayedDevice's memory is the host's.
inline Tensor relabelled(const Tensor& tensor, Device device) {
  if (!tensor) return {};
  std::vector<std::int64_t> strides;
  for (int dim = 0; dim < tensor.num_dims(); ++dim) strides.push_back(tensor.stride(dim));
  return Tensor::from_memory(tensor.data(), tensor.shape(), Shape(strides), tensor.dtype(), tensor.owner(),
                             device);
}

/// A device without a device: its copies are made by threads, each in the order in which they were begun, and
/// none before what it follows.
class DelayedDevice final : public StagedDevice {
 public:
  /// What the caller's current stream is at, from now on.
  void set_current(Event point) { current_ = std::move(point); }
  /// How long each copy takes, from now on.
  void set_delay(std::chrono::milliseconds delay) { delay_ = delay; }
  /// prepare() shall throw.
  void fail() { fails_ = true; }
  std::size_t num_pinned() const {
    const std::lock_guard lock(pins_->mutex);
    return pins_->begins.size();
  }

  void prepare() override {
    if (fails_) throw InvalidArgument("device", "there is no such device");
  }
  std::shared_ptr<void> pin(std::byte* memory, std::size_t) override {
    const std::lock_guard lock(pins_->mutex);
    pins_->begins.insert(memory);
    return {memory, [pins = pins_](std::byte* begin) {
              const std::lock_guard pins_lock(pins->mutex);
              pins->begins.erase(begin);
            }};
  }
  void follow(const Event& previous) override { follow_also(previous ? previous : current_); }
  void follow_also(const Event& event) override {
    if (event) fetching_.submit([event] { event.wait(); });
  }
  void fetch(const Tensor& from, std::byte* to) override {
    fetching_.submit([from, to, delay = delay_] {
      std::this_thread::sleep_for(delay);
      const Tensor dense = relabelled(from, Device::host()).contiguous();
      if (dense.num_bytes() > 0) std::memcpy(to, dense.data(), dense.num_bytes());
    });
  }
  Event fetched() override {
    return fetching_.submit([] {});
  }
  Tensor make_result(const Shape& shape, const Shape& strides, DType dtype) override {
    std::int64_t num_elements = 1;
    for (int dim = 0; dim < shape.num_dims(); ++dim) num_elements += shape[dim] * strides[dim];
    const Tensor memory = Tensor::empty({num_elements}, dtype);
    std::memset(memory.data(), 0xEE, memory.num_bytes());
    return Tensor::from_memory(memory.data(), shape, strides, dtype, memory.owner(), kDevice);
  }
  Tensor empty(const Shape& shape, DType dtype) override {
    return relabelled(Tensor::empty(shape, dtype), kDevice);
  }
  std::int64_t num_bytes() const override { return 0; }
  void store(const std::byte* from, void* to, std::size_t num_bytes) override {
    storing_.submit([from, to, num_bytes, delay = delay_] {
      std::this_thread::sleep_for(delay);
      if (num_bytes > 0) std::memcpy(to, from, num_bytes);
    });
  }
  void finish_stores() override {
    storing_.submit([] {}).wait();
  }

 private:
  struct Pins {
    std::mutex mutex;
    std::set<std::byte*> begins;
  };

  Event current_;
  std::chrono::milliseconds delay_{0};
  bool fails_ = false;
  std::shared_ptr<Pins> pins_ = std::make_shared<Pins>();
  CommunicationThread fetching_{false};
  CommunicationThread storing_{false};
};

}  // namespace flexep::testing
