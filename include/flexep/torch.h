// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/torch.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "flexep/elastic_buffer.h"
#include "flexep/error.h"

/// Dispatch and combine as LibTorch operations with gradients. Opt-in: the only header of flexep that
/// includes LibTorch's, and no library of flexep's needs it.
///
/// Dispatch is a linear map of rows and weights, and combine on the same handle its transpose: each is the
/// other's backward, which is as collective as forward: every rank runs it, in the same order. Tensors are
/// the CPU's; with flexep/torch_cuda.h, or a GPU's. The buffer must outlive the backward pass.
namespace flexep::autograd {

struct Dispatched {
  torch::Tensor x;             ///< [M, H], or [rows, H] expanded, alignment gaps zero
  torch::Tensor topk_idx;      ///< [M, K], local experts or -1; undefined in the expanded layout
  torch::Tensor topk_weights;  ///< [M, K], or [rows] expanded; undefined without weights
  DispatchHandle handle;
};

struct Combined {
  torch::Tensor x;             ///< [T, H]
  torch::Tensor topk_weights;  ///< [T, K]; undefined without weights
};

namespace detail {

inline constexpr std::array<std::pair<at::ScalarType, DType>, 9> kDTypes{{{at::kBFloat16, DType::kBFloat16},
                                                                          {at::kHalf, DType::kFloat16},
                                                                          {at::kFloat, DType::kFloat32},
                                                                          {at::kDouble, DType::kFloat64},
                                                                          {at::kByte, DType::kUInt8},
                                                                          {at::kChar, DType::kInt8},
                                                                          {at::kShort, DType::kInt16},
                                                                          {at::kInt, DType::kInt32},
                                                                          {at::kLong, DType::kInt64}}};

/// Runs an operation in the order of LibTorch's current stream of a GPU; null unless flexep/torch_cuda.h says
/// how.
inline void (*run_in_order_of_gpu)(c10::Device device, const std::function<void()>& operation) = nullptr;

/// What the operation returns, run in the order of the current stream of the device of `x`.
template <typename Operation>
auto in_order_of(const torch::Tensor& x, Operation operation) {
  if (!x.is_cuda()) return operation();
  std::optional<decltype(operation())> result;
  run_in_order_of_gpu(x.device(), [&] { result.emplace(operation()); });
  return *std::move(result);
}

/// @throws InvalidArgument for a device that flexep does not have.
inline Device to_flexep(const char* argument, c10::Device device) {
  if (device.is_cpu()) return Device::host();
  if (device.is_cuda() && run_in_order_of_gpu != nullptr) return Device::cuda(device.index());
  throw InvalidArgument(argument, std::string(argument) + " is on " + device.str() +
                                      ", and must be a tensor of the CPU" +
                                      (device.is_cuda() ? " unless flexep/torch_cuda.h is included" : ""));
}

inline c10::Device to_torch(Device device) {
  if (device.is_host()) return c10::kCPU;
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(device.index)};
}

/// The same memory, kept alive; "no tensor" for an undefined one. @throws InvalidArgument for a device and
/// for a type that flexep does not have.
inline Tensor to_flexep(const char* argument, const torch::Tensor& given) {
  if (!given.defined()) return {};
  const Device device = to_flexep(argument, given.device());
  for (const auto& [theirs, ours] : kDTypes) {
    if (given.scalar_type() != theirs) continue;
    const auto owner = std::make_shared<torch::Tensor>(given.detach().contiguous());
    const Shape shape(std::span(owner->sizes().data(), owner->sizes().size()));
    return Tensor::from_memory(owner->data_ptr(), shape, ours, owner, device);
  }
  throw InvalidArgument(argument, std::string(argument) + " has an element type that flexep does not have");
}

/// The same memory; it goes back when the last tensor that shares it dies.
inline torch::Tensor to_torch(const Tensor& tensor) {
  if (!tensor) return {};
  for (const auto& [theirs, ours] : kDTypes) {
    if (tensor.dtype() != ours) continue;
    const auto extents = tensor.shape().extents();
    const c10::Device device = to_torch(tensor.device());
    // The device is told, since LibTorch would ask CUDA whose memory it is, and of an empty tensor nobody's.
    return at::for_blob(tensor.data(), at::IntArrayRef(extents.data(), extents.size()))
        .deleter([tensor](void*) {})
        .options(at::TensorOptions(theirs).device(device))
        .target_device(device)
        .make_tensor();
  }
  throw Error("a tensor of a type that LibTorch does not have");
}

/// What an operation needs in its backward; on its way through LibTorch's context.
struct Context : torch::CustomClassHolder {
  Context(ElasticBuffer* its_buffer, DispatchArgs its_args) : buffer(its_buffer), args(std::move(its_args)) {}

  ElasticBuffer* buffer;
  DispatchArgs args;       ///< of a dispatch; after it, nothing but its handle
  torch::Tensor topk_idx;  ///< what the dispatch received
};
using ContextPtr = c10::intrusive_ptr<Context>;

inline ContextPtr context_of(torch::autograd::AutogradContext* context) {
  return c10::static_intrusive_pointer_cast<Context>(context->saved_data["flexep"].toCapsule());
}

/// Zeroes the rows of `rows` that belong to no token, which a cached dispatch leaves as they were.
inline void zero_gaps(const torch::Tensor& rows, const DispatchHandle& handle) {
  if (!rows.defined()) return;
  if (!handle.do_expand()) {
    rows.slice(0, handle.psum_num_recv_tokens_per_rank().back()).zero_();
    return;
  }
  const auto starts = handle.expert_start_rows();
  const auto counts = handle.num_recv_tokens_per_expert();
  for (std::size_t expert = 0; expert < counts.size(); ++expert) {
    const std::int64_t end = expert + 1 < counts.size() ? starts[expert + 1] : rows.size(0);
    rows.slice(0, starts[expert] + counts[expert], end).zero_();
  }
}

// LibTorch takes no undefined outputs: without weights there is one less.
inline torch::autograd::variable_list defined_of(torch::Tensor x, const torch::Tensor& topk_weights) {
  torch::autograd::variable_list outputs{std::move(x)};
  if (topk_weights.defined()) outputs.push_back(topk_weights);
  return outputs;
}
// Nor undefined inputs.
inline std::optional<torch::Tensor> if_defined(const torch::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}
inline torch::Tensor second_of(const torch::autograd::variable_list& tensors) {
  return tensors.size() > 1 ? tensors[1] : torch::Tensor();
}

inline torch::autograd::variable_list run_combine(const ContextPtr& context, const torch::Tensor& x,
                                                  const torch::Tensor& topk_weights);

struct DispatchFunction : torch::autograd::Function<DispatchFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* autograd,
                                                const torch::Tensor& x,
                                                const std::optional<torch::Tensor>& topk_weights,
                                                const ContextPtr& context) {
    DispatchArgs args = context->args;
    const bool is_cached = static_cast<bool>(args.handle);
    args.x = to_flexep("x", x);
    args.topk_weights = to_flexep("topk_weights", topk_weights.value_or(torch::Tensor()));
    const DispatchResult received = in_order_of(x, [&] { return context->buffer->dispatch(args); });
    context->args = {};
    context->args.handle = received.handle;
    autograd->saved_data["flexep"] = c10::IValue::make_capsule(context);
    context->topk_idx = to_torch(received.topk_idx);
    auto outputs = defined_of(to_torch(received.x), to_torch(received.topk_weights));
    if (is_cached) {
      for (const torch::Tensor& rows : outputs) zero_gaps(rows, received.handle);
    }
    return outputs;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* autograd,
                                                 torch::autograd::variable_list grads) {
    const auto inputs = run_combine(context_of(autograd), grads[0], second_of(grads));
    return {inputs[0], second_of(inputs), torch::Tensor()};
  }
};

struct CombineFunction : torch::autograd::Function<CombineFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* autograd,
                                                const torch::Tensor& x,
                                                const std::optional<torch::Tensor>& topk_weights,
                                                const std::optional<torch::Tensor>& bias,
                                                const ContextPtr& context) {
    const CombineArgs args{.x = to_flexep("x", x),
                           .handle = context->args.handle,
                           .topk_weights = to_flexep("topk_weights", topk_weights.value_or(torch::Tensor())),
                           .bias = {to_flexep("bias", bias.value_or(torch::Tensor()))}};
    const CombineResult sums = in_order_of(x, [&] { return context->buffer->combine(args); });
    autograd->saved_data["flexep"] = c10::IValue::make_capsule(context);
    autograd->saved_data["has_bias"] = bias.has_value();
    autograd->saved_data["num_rows"] = x.size(0);
    return defined_of(to_torch(sums.x), to_torch(sums.topk_weights));
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* autograd,
                                                 torch::autograd::variable_list grads) {
    const bool has_bias = autograd->saved_data["has_bias"].toBool();
    const std::int64_t num_rows = autograd->saved_data["num_rows"].toInt();
    const ContextPtr forward = context_of(autograd);
    DispatchArgs repeated;
    repeated.handle = forward->args.handle;
    const auto inputs =
        DispatchFunction::apply(grads[0], if_defined(second_of(grads)),
                                c10::make_intrusive<Context>(forward->buffer, std::move(repeated)));
    return {extended(inputs[0], num_rows), extended(second_of(inputs), num_rows),
            has_bias ? grads[0] : torch::Tensor(), torch::Tensor()};
  }

 private:
  // Combine accepts more rows than its dispatch made; the gradient of the rest is zero.
  static torch::Tensor extended(const torch::Tensor& rows, std::int64_t num_rows) {
    if (!rows.defined() || rows.size(0) == num_rows) return rows;
    auto shape = rows.sizes().vec();
    shape[0] = num_rows - rows.size(0);
    return torch::cat({rows, rows.new_zeros(shape)});
  }
};

inline torch::autograd::variable_list run_combine(const ContextPtr& context, const torch::Tensor& x,
                                                  const torch::Tensor& topk_weights) {
  return CombineFunction::apply(x, if_defined(topk_weights), if_defined({}), context);
}

}  // namespace detail

/// Sends each row of `x` [T, H] to the ranks of its experts. Gradients: x, topk_weights.
///
/// @param args  what else ElasticBuffer::dispatch takes and changes no order of execution, such as
///              num_experts, do_expand, expert_alignment; or the handle of an earlier dispatch, and then no
///              topk_idx. Its own tensors are not used.
inline Dispatched dispatch(ElasticBuffer& buffer, const torch::Tensor& x, const torch::Tensor& topk_idx,
                           const torch::Tensor& topk_weights, DispatchArgs args) {
  args.topk_idx = detail::to_flexep("topk_idx", topk_idx);
  // A gap that was not zeroed would put whatever lies there into the weight gradients of the experts.
  if (!args.handle) args.do_zero_padding = args.do_expand.value_or(false);
  const auto context = c10::make_intrusive<detail::Context>(&buffer, std::move(args));
  const auto received = detail::DispatchFunction::apply(x, detail::if_defined(topk_weights), context);
  return {.x = received[0],
          .topk_idx = context->topk_idx,
          .topk_weights = detail::second_of(received),
          .handle = context->args.handle};
}

/// Sums rows by token; weights are brought back, never applied. Gradients: x, topk_weights, bias.
inline Combined combine(ElasticBuffer& buffer, const torch::Tensor& x, const DispatchHandle& handle,
                        const torch::Tensor& topk_weights = {}, const torch::Tensor& bias = {}) {
  DispatchArgs args;
  args.handle = handle;
  const auto sums =
      detail::CombineFunction::apply(x, detail::if_defined(topk_weights), detail::if_defined(bias),
                                     c10::make_intrusive<detail::Context>(&buffer, std::move(args)));
  return {.x = sums[0], .topk_weights = detail::second_of(sums)};
}

}  // namespace flexep::autograd
