// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

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
/// made.
class CaseBuffers {
 public:
  /// Collective.
  CaseBuffers(const Communicator& comm, Device device);

  RegisteringBuffer& of(const CaseSpec& spec) {
    return *buffers_[spec.do_cpu_sync ? 1 : 0][spec.allow_multiple_reduction ? 1 : 0];
  }

 private:
  std::unique_ptr<RegisteringBuffer> buffers_[2][2];  ///< [do_cpu_sync][allow_multiple_reduction]
};

}  // namespace flexep::conformance
