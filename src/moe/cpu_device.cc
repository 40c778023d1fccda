// SPDX-License-Identifier: Apache-2.0
//
// The layer on the CPU: OpenBLAS, and loops over rows.
#include <algorithm>
#include <type_traits>

#include "flexep/elastic_buffer.h"
#include "moe/compute_device.h"
#include "moe/floating.h"
#include "moe/gemm.h"
#include "moe/probs_on_input.h"
#include "moe/score_functions.h"
#include "moe/visit_types.h"

namespace flexep::moe {
namespace {

class CpuDevice final : public ComputeDevice {
 public:
  Tensor empty(const Shape& shape, DType dtype) const override { return Tensor::empty(shape, dtype); }
  Tensor ones(const Shape& shape, DType dtype) const override {
    Tensor tensor = Tensor::empty(shape, dtype);
    visit_wide(dtype, [&]<typename T>(T) { std::ranges::fill(tensor.values<T>(), T{1}); });
    return tensor;
  }
  Tensor from_host(const Tensor& tensor) const override { return tensor; }
  Tensor to_host(const Tensor& tensor) const override { return tensor; }
  Event capture() const override { return ElasticBuffer::capture(); }

  DType product_dtype(DType /*rows*/, DType weights) const override { return weights; }
  bool computes_experts_together() const override { return false; }

  void multiply(const Factor& a, const Factor& b, const Tensor& out) const override {
    const DType dtype = a.matrix.dtype();
    if (out.dtype() == dtype) return moe::multiply(a, b, out);
    const Tensor product = Tensor::empty(out.shape(), dtype);
    moe::multiply(a, b, product);
    moe::cast_into(product, out);
  }
  void multiply_rows(const ExpertRows& rows, const Factor& weights, const Tensor& out) const override {
    for_each_expert(rows.tokens_per_expert, [&](auto expert, auto begin, auto end) {
      multiply(rows.rows.rows(begin, end), weights.of_expert(expert), out.rows(begin, end));
    });
  }
  void multiply_transposed_rows(const ExpertRows& a, const Tensor& b, const Tensor& out) const override {
    for_each_expert(a.tokens_per_expert, [&](auto expert, auto begin, auto end) {
      multiply(transposed(a.rows.rows(begin, end)), b.rows(begin, end), Factor(out).of_expert(expert).matrix);
    });
  }

  void cast_into(const Tensor& tensor, const Tensor& out) const override { moe::cast_into(tensor, out); }
  Tensor add(const Tensor& a, const Tensor& b) const override { return moe::add(a, b); }
  void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated) const override {
    moe::swiglu(gate_up, probs, activated);
  }
  void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                       const SwigluGradients& out) const override {
    moe::swiglu_backward(gate_up, probs, grad, out);
  }
  GroupedTokens apply_probs(const GroupedTokens& input) const override { return moe::apply_probs(input); }
  TokenGradients apply_probs_backward(const GroupedTokens& input,
                                      const Gradient<Tensor>& weighted) const override {
    return moe::apply_probs_backward(input, weighted);
  }
  void sigmoid(const Tensor& values) const override {
    visit_wide(values.dtype(), [&]<typename T>(T) { moe::sigmoid(values.values<T>()); });
  }
  Tensor sigmoid_backward(const Tensor& values, const Tensor& grad_values) const override {
    const Tensor grad = Tensor::zeros(values.shape(), values.dtype());
    visit_wide(values.dtype(), [&]<typename T>(T) {
      moe::sigmoid_backward<T>(values.values<T>(), grad_values.values<T>(), grad.values<T>());
    });
    return grad;
  }
};

}  // namespace

const ComputeDevice& cpu_device() {
  static const CpuDevice device;
  return device;
}

}  // namespace flexep::moe
