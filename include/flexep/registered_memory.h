// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

namespace flexep {

/// Memory of the caller's that the other ranks can read where it lies, made by
/// ElasticBuffer::register_memory. Ends when it is destroyed: waits for combines that read the memory, after
/// which it is the caller's alone again, addresses and contents as they were. May outlive its buffer; the
/// memory must outlive it. Safe to end on any thread.
class RegisteredMemory {
 public:
  /// Nothing.
  RegisteredMemory() = default;
  explicit RegisteredMemory(std::shared_ptr<void> registration) : registration_(std::move(registration)) {}
  RegisteredMemory(RegisteredMemory&&) noexcept = default;
  RegisteredMemory& operator=(RegisteredMemory&&) noexcept = default;
  RegisteredMemory(const RegisteredMemory&) = delete;
  RegisteredMemory& operator=(const RegisteredMemory&) = delete;

  explicit operator bool() const { return registration_ != nullptr; }

 private:
  std::shared_ptr<void> registration_;
};

}  // namespace flexep
