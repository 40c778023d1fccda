// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "flexep/event.h"
#include "flexep/moe/tokens.h"
#include "moe/factor.h"
#include "moe/swiglu.h"

namespace flexep::moe {

/// Rows of several experts, one expert's after the other's.
struct ExpertRows {
  Tensor rows;  ///< [n, width]
  std::span<const std::int32_t> tokens_per_expert;
};

/// Calls visit(expert, first row, end of its rows) for each expert.
template <typename Visitor>
void for_each_expert(std::span<const std::int32_t> tokens_per_expert, Visitor&& visit) {
  std::int64_t begin = 0;
  for (std::size_t expert = 0; expert < tokens_per_expert.size(); ++expert) {
    const std::int64_t end = begin + tokens_per_expert[expert];
    visit(static_cast<std::int64_t>(expert), begin, end);
    begin = end;
  }
}

class DeviceRouter;

/// Where a layer's rows and weights are, and who computes with them. On a GPU everything is in the order of
/// the calling thread's current stream, and nothing but the copies from and to the host waits for it.
///
/// Tensors are contiguous and in this device's memory; floating types are bf16, fp16, fp32 and fp64. Results
/// are memory that the caller brings, written completely, unless they are returned.
class ComputeDevice {
 public:
  virtual ~ComputeDevice() = default;

  /// Uninitialised.
  virtual Tensor empty(const Shape& shape, DType dtype) const = 0;
  virtual Tensor ones(const Shape& shape, DType dtype) const = 0;
  /// A tensor of the host here, one from here on the host; what is there already is the tensor itself. No
  /// tensor stays none.
  virtual Tensor from_host(const Tensor& tensor) const = 0;
  virtual Tensor to_host(const Tensor& tensor) const = 0;
  /// The moment at which everything is done that the caller has asked for so far.
  virtual Event capture() const = 0;

  /// The type in which rows are multiplied by weights.
  virtual DType product_dtype(DType rows, DType weights) const = 0;
  /// Whether all experts' products are one step, or each expert takes all steps, so that what lies between
  /// them stays in caches.
  virtual bool computes_experts_together() const = 0;

  /// out = a * b. The factors have one type; a result of another one is rounded once.
  virtual void multiply(const Factor& a, const Factor& b, const Tensor& out) const = 0;
  /// For each expert: its rows of out = its rows * its factor of the stack `weights`.
  virtual void multiply_rows(const ExpertRows& rows, const Factor& weights, const Tensor& out) const = 0;
  /// For each expert: its matrix of out [El, a's width, b's width] = its rows of a, transposed, * its rows of
  /// b. Zeros for an expert without rows.
  virtual void multiply_transposed_rows(const ExpertRows& a, const Tensor& b, const Tensor& out) const = 0;

  /// What decides where tokens go; null where that is the host's, whatever the configuration.
  virtual const DeviceRouter* router() const { return nullptr; }

  /// The same values in another type, rounded to nearest even.
  virtual void cast_into(const Tensor& tensor, const Tensor& out) const = 0;
  /// a + b, in the type of a; b may be of another.
  virtual Tensor add(const Tensor& a, const Tensor& b) const = 0;
  /// As in swiglu.h, for rows of any type.
  virtual void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated) const = 0;
  virtual void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                               const SwigluGradients& out) const = 0;
  /// As in probs_on_input.h.
  virtual GroupedTokens apply_probs(const GroupedTokens& input) const = 0;
  virtual TokenGradients apply_probs_backward(const GroupedTokens& input,
                                              const Gradient<Tensor>& weighted) const = 0;
  /// 1 / (1 + exp(-x)), in place; fp32 or fp64.
  virtual void sigmoid(const Tensor& values) const = 0;
  /// The gradient of the sigmoid's argument, of its result `values`.
  virtual Tensor sigmoid_backward(const Tensor& values, const Tensor& grad_values) const = 0;

  /// The tensor itself when it has that type.
  Tensor cast(const Tensor& tensor, DType dtype) const {
    if (tensor.dtype() == dtype) return tensor;
    Tensor result = empty(tensor.shape(), dtype);
    cast_into(tensor, result);
    return result;
  }
};

const ComputeDevice& cpu_device();

/// @param threads_share_it  see make_cuda_device. @throws what that throws.
std::shared_ptr<const ComputeDevice> make_compute_device(Device device, bool threads_share_it);

}  // namespace flexep::moe
