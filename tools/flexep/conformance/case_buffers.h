// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "conformance/case_spec.h"
#include "flexep/elastic_buffer.h"

namespace flexep::conformance {

/// A buffer, and pages of ordinary memory that it has registered if it works on such.
class RegisteringBuffer {
 public:
  /// Collective.
  RegisteringBuffer(const Communicator& comm, const ElasticBufferConfig& config);

  ElasticBuffer& buffer() { return buffer_; }
  /// A tensor in the registered pages; none when there are none or it does not fit.
  Tensor registered(const Shape& shape, DType dtype) const;

 private:
  ElasticBuffer buffer_;
  std::shared_ptr<std::byte> pages_;
  RegisteredMemory registration_;
};

/// The buffers that the cases of a group share: one for each combination of what is fixed when a buffer is
/// made, made when a case first needs it.
class CaseBuffers {
 public:
  CaseBuffers(const Communicator& comm, Device device) : comm_(comm), device_(device) {}

  /// Collective where it is the first of its kind.
  RegisteringBuffer& of(const CaseSpec& spec);

 private:
  /// do_cpu_sync, allow_multiple_reduction, allow_hybrid_mode, bytes of staging.
  using Kind = std::tuple<bool, bool, bool, std::int64_t>;

  Communicator comm_;
  Device device_;
  std::map<Kind, std::unique_ptr<RegisteringBuffer>> buffers_;
};

}  // namespace flexep::conformance
