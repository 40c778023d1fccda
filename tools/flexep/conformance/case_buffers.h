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

/// A buffer, and ordinary memory that it has registered.
class RegisteringBuffer {
 public:
  /// Collective.
  RegisteringBuffer(const Communicator& comm, const ElasticBufferConfig& config);

  ElasticBuffer& buffer() { return buffer_; }
  /// A tensor in the registered memory; none when it does not fit.
  Tensor registered(const Shape& shape, DType dtype) const;

 private:
  Device device_;
  std::shared_ptr<std::byte> memory_;  ///< allocated before, and freed after, anything is in flight
  ElasticBuffer buffer_;
  RegisteredMemory registration_;
};

/// The buffers that the cases of a group share: one for each combination of what is fixed when a buffer is
/// made, made when a case first needs it.
class CaseBuffers {
 public:
  /// @param config  what cases do not decide.
  CaseBuffers(const Communicator& comm, const ElasticBufferConfig& config) : comm_(comm), config_(config) {}

  /// Collective where it is the first of its kind.
  RegisteringBuffer& of(const CaseSpec& spec);

 private:
  /// do_cpu_sync, allow_multiple_reduction, allow_hybrid_mode, bytes of staging.
  using Kind = std::tuple<bool, bool, bool, std::int64_t>;

  Communicator comm_;
  ElasticBufferConfig config_;
  std::map<Kind, std::unique_ptr<RegisteringBuffer>> buffers_;
};

}  // namespace flexep::conformance
