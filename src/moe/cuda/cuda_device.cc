// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "flexep/cuda.h"
#include "moe/cuda/check.h"
#include "moe/cuda/cublas_products.h"
#include "moe/cuda/cuda_router.h"
#include "moe/cuda/kernels.h"
#include "moe/cuda/loading.h"
#include "moe/cuda/own_products.h"
#include "moe/make_cuda_device.h"

namespace flexep::moe {
namespace {

using on_cuda::CurrentDevice;

class CudaDevice final : public ComputeDevice {
 public:
  CudaDevice(Device device, std::unique_ptr<const on_cuda::Products> products)
      : device_(device), products_(std::move(products)), router_(*this, device) {}

  Tensor empty(const Shape& shape, DType dtype) const override {
    return flexep::cuda::empty(shape, dtype, device_);
  }
  Tensor ones(const Shape& shape, DType dtype) const override {
    const CurrentDevice here(device_.index);
    Tensor tensor = empty(shape, dtype);
    on_cuda::fill_with_ones(tensor, stream());
    return tensor;
  }
  Tensor from_host(const Tensor& tensor) const override {
    return is_here(tensor) ? tensor : flexep::cuda::to_device(tensor, device_);
  }
  Tensor to_host(const Tensor& tensor) const override {
    return is_here(tensor) ? flexep::cuda::to_host(tensor) : tensor;
  }
  Event capture() const override {
    const CurrentDevice here(device_.index);
    return flexep::cuda::capture();
  }

  // Narrow rows are what tensor cores multiply.
  DType product_dtype(DType rows, DType weights) const override {
    return size_of(rows) < size_of(weights) ? rows : weights;
  }
  bool computes_experts_together() const override { return true; }

  void multiply(const Factor& a, const Factor& b, const Tensor& out) const override {
    const CurrentDevice here(device_.index);
    products_->multiply(a, b, out, stream());
  }
  void multiply_rows(const ExpertRows& rows, const Factor& weights, const Tensor& out) const override {
    const CurrentDevice here(device_.index);
    products_->multiply_rows(rows, weights, out, stream());
  }
  void multiply_transposed_rows(const ExpertRows& a, const Tensor& b, const Tensor& out) const override {
    const CurrentDevice here(device_.index);
    products_->multiply_transposed_rows(a, b, out, stream());
  }

  const DeviceRouter* router() const override { return &router_; }

  void cast_into(const Tensor& tensor, const Tensor& out) const override {
    const CurrentDevice here(device_.index);
    on_cuda::cast(tensor, out, stream());
  }
  Tensor add(const Tensor& a, const Tensor& b) const override {
    const CurrentDevice here(device_.index);
    Tensor sum = empty(a.shape(), a.dtype());
    on_cuda::add(a, b, sum, stream());
    return sum;
  }
  void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated) const override {
    const CurrentDevice here(device_.index);
    on_cuda::swiglu(gate_up, probs, activated, stream());
  }
  void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                       const SwigluGradients& out) const override {
    const CurrentDevice here(device_.index);
    on_cuda::swiglu_backward(gate_up, probs, grad, out, stream());
  }
  GroupedTokens apply_probs(const GroupedTokens& input) const override {
    const CurrentDevice here(device_.index);
    const auto& [hidden, probs] = input.tokens;
    const Tensor scaled = empty(hidden.shape(), hidden.dtype());
    on_cuda::scale_rows(hidden, probs, scaled, stream());
    return {.tokens = {.hidden = scaled, .probs = ones(probs.shape(), probs.dtype())},
            .tokens_per_expert = input.tokens_per_expert};
  }
  TokenGradients apply_probs_backward(const GroupedTokens& input,
                                      const Gradient<Tensor>& weighted) const override {
    const CurrentDevice here(device_.index);
    const auto& [hidden, probs] = input.tokens;
    const Tensor grad_hidden = empty(hidden.shape(), hidden.dtype());
    const Tensor grad_probs = empty(probs.shape(), probs.dtype());
    on_cuda::scale_rows_backward(hidden, probs, weighted, grad_hidden, grad_probs, stream());
    return {.hidden = grad_hidden, .probs = grad_probs};
  }
  void sigmoid(const Tensor& values) const override {
    const CurrentDevice here(device_.index);
    on_cuda::sigmoid(values, stream());
  }
  Tensor sigmoid_backward(const Tensor& values, const Tensor& grad_values) const override {
    const CurrentDevice here(device_.index);
    Tensor grad = empty(values.shape(), values.dtype());
    on_cuda::sigmoid_backward(values, grad_values, grad, stream());
    return grad;
  }

 private:
  static cudaStream_t stream() { return flexep::cuda::current_stream(); }
  static bool is_here(const Tensor& tensor) { return tensor && !tensor.device().is_host(); }

  Device device_;
  std::unique_ptr<const on_cuda::Products> products_;
  on_cuda::CudaRouter router_;
};

}  // namespace

std::shared_ptr<const ComputeDevice> make_cuda_device(Device device, bool threads_share_it) {
  const CurrentDevice here(device.index);
  std::unique_ptr<const on_cuda::Products> products;
  if (threads_share_it) {
    on_cuda::require_eager_loading();
    products = std::make_unique<const on_cuda::OwnProducts>();
  } else {
    products = std::make_unique<const on_cuda::CublasProducts>();
  }
  const auto made = std::make_shared<const CudaDevice>(device, std::move(products));
  // A first kernel on a stream, and a first product, may wait for all that runs on the GPU: now nothing does.
  const Tensor one = made->ones({1, 1}, DType::kFloat32);
  made->multiply(one, one, made->empty({1, 1}, DType::kFloat32));
  made->to_host(one);
  return made;
}

}  // namespace flexep::moe
