// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/experts.h"

#include <algorithm>
#include <numeric>

#include "common/check.h"
#include "moe/experts_on_device.h"

namespace flexep::moe {
namespace {

std::int64_t ffn_size(const ExpertWeights<Tensor>& weights) {
  return weights.fc2.size(2);
}

void check_tensor(const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
  require_argument(tensor.is_contiguous(), name, "{} must be contiguous", name);
  require_argument(tensor.shape() == shape && tensor.dtype() == dtype, name, "{} must be {} {}, not {} {}",
                   name, name_of(dtype), shape.to_string(), name_of(tensor.dtype()),
                   tensor.shape().to_string());
}

void check_input(const GroupedTokens& input) {
  const auto& [hidden, probs] = input.tokens;
  const auto& counts = input.tokens_per_expert;
  const auto num_rows = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  require_argument(hidden.num_dims() == 2 && hidden.is_contiguous(), "hidden",
                   "hidden must be contiguous [rows, H], not {}", hidden.shape().to_string());
  require_argument(num_rows == hidden.size(0), "tokens_per_expert",
                   "tokens_per_expert sums to {}, not to {} rows", num_rows, hidden.size(0));
  check_tensor("probs", probs, {num_rows},
               probs.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
}

void check_weights(const ExpertWeights<Tensor>& weights, const GroupedTokens& input) {
  const auto& [fc1, fc2] = weights;
  const Tensor& hidden = input.tokens.hidden;
  const DType dtype = hidden.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  require_argument(fc2.num_dims() == 3, "fc2", "fc2 must be [experts, H, F], not {}",
                   fc2.shape().to_string());
  const auto num_experts = static_cast<std::int64_t>(input.tokens_per_expert.size());
  check_tensor("fc2", fc2, {num_experts, hidden.size(1), fc2.size(2)}, dtype);
  check_tensor("fc1", fc1, {num_experts, 2 * fc2.size(2), hidden.size(1)}, dtype);
}

// Some experts on their own rows.
struct Slice {
  ExpertWeights<Tensor> weights;  // fc1 [n, 2F, H], fc2 [n, H, F]
  Tokens tokens;
  std::span<const std::int32_t> tokens_per_expert;
  std::int64_t first_expert, first_row;

  Tensor rows_of(const Tensor& rows) const { return rows.rows(first_row, first_row + tokens.hidden.size(0)); }
  Tensor experts_of(const Tensor& stack) const {
    return stack.rows(first_expert, first_expert + weights.fc1.size(0));
  }
};

Slice slice_of(const ExpertWeights<Tensor>& weights, const GroupedTokens& input, std::int64_t first_expert,
               std::int64_t num_experts, std::int64_t first_row) {
  const auto counts =
      std::span(input.tokens_per_expert)
          .subspan(static_cast<std::size_t>(first_expert), static_cast<std::size_t>(num_experts));
  const std::int64_t end = first_row + std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  return {.weights = {.fc1 = weights.fc1.rows(first_expert, first_expert + num_experts),
                      .fc2 = weights.fc2.rows(first_expert, first_expert + num_experts)},
          .tokens = {.hidden = input.tokens.hidden.rows(first_row, end),
                     .probs = input.tokens.probs.rows(first_row, end)},
          .tokens_per_expert = counts,
          .first_expert = first_expert,
          .first_row = first_row};
}

// Calls visit(slice) for as many experts at a time as suit the device.
template <typename Visitor>
void for_each_slice(const ComputeDevice& device, const ExpertWeights<Tensor>& weights,
                    const GroupedTokens& input, Visitor&& visit) {
  const auto num_experts = static_cast<std::int64_t>(input.tokens_per_expert.size());
  const std::int64_t step = device.computes_experts_together() ? std::max<std::int64_t>(num_experts, 1) : 1;
  std::int64_t row = 0;
  for (std::int64_t expert = 0; expert < num_experts; expert += step) {
    const Slice slice = slice_of(weights, input, expert, step, row);
    visit(slice);
    row += slice.tokens.hidden.size(0);
  }
}

void forward(const ComputeDevice& device, const Slice& slice, const Tensor& fc1_output, const Tensor& out) {
  const DType dtype = fc1_output.dtype();
  const auto& [hidden, probs] = slice.tokens;
  const Tensor activated = device.empty({hidden.size(0), ffn_size(slice.weights)}, dtype);
  device.multiply_rows({device.cast(hidden, dtype), slice.tokens_per_expert},
                       transposed(device.cast(slice.weights.fc1, dtype)), fc1_output);
  device.swiglu(fc1_output, probs, activated);
  device.multiply_rows({activated, slice.tokens_per_expert},
                       transposed(device.cast(slice.weights.fc2, dtype)), out);
}

void backward(const ComputeDevice& device, const Slice& slice, const Tensor& fc1_output,
              const Tensor& grad_output, const Tokens& grad_tokens,
              const ExpertWeights<Tensor>& grad_weights) {
  const DType dtype = fc1_output.dtype();
  const auto& [hidden, probs] = slice.tokens;
  const auto counts = slice.tokens_per_expert;
  const Shape activated_shape{hidden.size(0), ffn_size(slice.weights)};
  const Tensor grad_out = device.cast(grad_output, dtype);
  const Tensor grad_activated = device.empty(activated_shape, dtype);
  const SwigluGradients grads{.gate_up = device.empty(fc1_output.shape(), dtype),
                              .probs = grad_tokens.probs,
                              .activated = device.empty(activated_shape, dtype)};
  device.multiply_rows({grad_out, counts}, device.cast(slice.weights.fc2, dtype), grad_activated);
  device.swiglu_backward(fc1_output, probs, grad_activated, grads);
  device.multiply_transposed_rows({grad_out, counts}, grads.activated, grad_weights.fc2);
  device.multiply_transposed_rows({grads.gate_up, counts}, device.cast(hidden, dtype), grad_weights.fc1);
  device.multiply_rows({grads.gate_up, counts}, device.cast(slice.weights.fc1, dtype), grad_tokens.hidden);
}

}  // namespace

ExpertsForward experts_forward(const ExpertWeights<Tensor>& weights, const GroupedTokens& input,
                               const Tensor& out) {
  return experts_forward(cpu_device(), weights, input, out);
}

ExpertsGradients experts_backward(const ExpertWeights<Tensor>& weights, const ExpertsContext& context,
                                  const Gradient<Tensor>& output, const Tensor& out_hidden) {
  return experts_backward(cpu_device(), weights, context, output, out_hidden);
}

ExpertsForward experts_forward(const ComputeDevice& device, const ExpertWeights<Tensor>& weights,
                               const GroupedTokens& input, const Tensor& out) {
  const Tensor& hidden = input.tokens.hidden;
  check_input(input);
  check_weights(weights, input);
  check_tensor("out", out, hidden.shape(), hidden.dtype());
  const Tensor fc1_output = device.empty({hidden.size(0), 2 * ffn_size(weights)},
                                         device.product_dtype(hidden.dtype(), weights.fc1.dtype()));
  for_each_slice(device, weights, input, [&](const Slice& slice) {
    forward(device, slice, slice.rows_of(fc1_output), slice.rows_of(out));
  });
  return {.output = out, .context = {.input = input, .fc1_output = fc1_output}};
}

ExpertsGradients experts_backward(const ComputeDevice& device, const ExpertWeights<Tensor>& weights,
                                  const ExpertsContext& context, const Gradient<Tensor>& output,
                                  const Tensor& out_hidden) {
  const auto& [hidden, probs] = context.input.tokens;
  const Tensor& grad_output = output;
  check_tensor("output", grad_output, hidden.shape(), hidden.dtype());
  check_tensor("out_hidden", out_hidden, hidden.shape(), hidden.dtype());
  const Tokens grad_tokens{.hidden = out_hidden, .probs = device.empty(probs.shape(), probs.dtype())};
  const ExpertWeights<Tensor> grad_weights{.fc1 = device.empty(weights.fc1.shape(), weights.fc1.dtype()),
                                           .fc2 = device.empty(weights.fc2.shape(), weights.fc2.dtype())};
  for_each_slice(device, weights, context.input, [&](const Slice& slice) {
    backward(device, slice, slice.rows_of(context.fc1_output), slice.rows_of(grad_output),
             {.hidden = slice.rows_of(out_hidden), .probs = slice.rows_of(grad_tokens.probs)},
             {.fc1 = slice.experts_of(grad_weights.fc1), .fc2 = slice.experts_of(grad_weights.fc2)});
  });
  return {.tokens = {.hidden = grad_tokens.hidden, .probs = grad_tokens.probs},
          .weights = {.fc1 = grad_weights.fc1, .fc2 = grad_weights.fc2}};
}

}  // namespace flexep::moe
