// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/experts.h"

#include <numeric>

#include "common/check.h"
#include "moe/floating.h"
#include "moe/gemm.h"
#include "moe/swiglu.h"

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

// Calls visit(expert, first row, end of its rows) for each expert.
template <typename Visitor>
void for_each_expert(const GroupedTokens& input, Visitor&& visit) {
  std::int64_t begin = 0;
  for (std::size_t expert = 0; expert < input.tokens_per_expert.size(); ++expert) {
    const std::int64_t end = begin + input.tokens_per_expert[expert];
    visit(static_cast<std::int64_t>(expert), begin, end);
    begin = end;
  }
}

// One expert's matrix of [El, rows, columns].
Tensor of_expert(const Tensor& weights, std::int64_t expert) {
  return weights.rows(expert, expert + 1).reshape({weights.size(1), weights.size(2)});
}

ExpertWeights<Tensor> of_expert(const ExpertWeights<Tensor>& weights, std::int64_t expert) {
  return {.fc1 = of_expert(weights.fc1, expert), .fc2 = of_expert(weights.fc2, expert)};
}

// out = a * b in the type of the factors, rounded once when `out` is narrower.
void multiply_and_round(const Factor& a, const Factor& b, const Tensor& out) {
  const DType dtype = a.matrix.dtype();
  if (out.dtype() == dtype) return multiply(a, b, out);
  const Tensor product = Tensor::empty(out.shape(), dtype);
  multiply(a, b, product);
  cast_into(product, out);
}

// One expert on its own rows: fc1 [2F, H], fc2 [H, F], tokens [n, H].
void forward(const ExpertWeights<Tensor>& weights, const Tokens& tokens, const Tensor& fc1_output,
             const Tensor& out) {
  const DType dtype = weights.fc1.dtype();
  const Tensor activated = Tensor::empty({tokens.hidden.size(0), weights.fc2.size(1)}, dtype);
  multiply(cast(tokens.hidden, dtype), transposed(weights.fc1), fc1_output);
  swiglu(fc1_output, tokens.probs, activated);
  multiply_and_round(activated, transposed(weights.fc2), out);
}

void backward(const ExpertWeights<Tensor>& weights, const Tokens& tokens, const Tensor& fc1_output,
              const Tensor& grad_output, const Tokens& grad_tokens,
              const ExpertWeights<Tensor>& grad_weights) {
  const DType dtype = weights.fc1.dtype();
  const Shape activated_shape{tokens.hidden.size(0), weights.fc2.size(1)};
  const Tensor grad_out = cast(grad_output, dtype), grad_activated = Tensor::empty(activated_shape, dtype);
  const SwigluGradients swiglu_grads{.gate_up = Tensor::empty(fc1_output.shape(), dtype),
                                     .probs = grad_tokens.probs,
                                     .activated = Tensor::empty(activated_shape, dtype)};
  multiply(grad_out, weights.fc2, grad_activated);
  swiglu_backward(fc1_output, tokens.probs, grad_activated, swiglu_grads);
  multiply(transposed(grad_out), swiglu_grads.activated, grad_weights.fc2);
  multiply(transposed(swiglu_grads.gate_up), cast(tokens.hidden, dtype), grad_weights.fc1);
  multiply_and_round(swiglu_grads.gate_up, weights.fc1, grad_tokens.hidden);
}

Tokens rows_of(const Tokens& tokens, std::int64_t begin, std::int64_t end) {
  return {.hidden = tokens.hidden.rows(begin, end), .probs = tokens.probs.rows(begin, end)};
}

}  // namespace

ExpertsForward experts_forward(const ExpertWeights<Tensor>& weights, const GroupedTokens& input,
                               const Tensor& out) {
  const Tensor& hidden = input.tokens.hidden;
  check_input(input);
  check_weights(weights, input);
  check_tensor("out", out, hidden.shape(), hidden.dtype());
  const Tensor fc1_output = Tensor::empty({hidden.size(0), 2 * ffn_size(weights)}, weights.fc1.dtype());
  for_each_expert(input, [&](std::int64_t expert, std::int64_t begin, std::int64_t end) {
    forward(of_expert(weights, expert), rows_of(input.tokens, begin, end), fc1_output.rows(begin, end),
            out.rows(begin, end));
  });
  return {.output = out, .context = {.input = input, .fc1_output = fc1_output}};
}

ExpertsGradients experts_backward(const ExpertWeights<Tensor>& weights, const ExpertsContext& context,
                                  const Gradient<Tensor>& output, const Tensor& out_hidden) {
  const auto& [hidden, probs] = context.input.tokens;
  const Tensor& grad_output = output;
  check_tensor("output", grad_output, hidden.shape(), hidden.dtype());
  check_tensor("out_hidden", out_hidden, hidden.shape(), hidden.dtype());
  const Tokens grad_tokens{.hidden = out_hidden, .probs = Tensor::empty(probs.shape(), probs.dtype())};
  const ExpertWeights<Tensor> grad_weights{.fc1 = Tensor::empty(weights.fc1.shape(), weights.fc1.dtype()),
                                           .fc2 = Tensor::empty(weights.fc2.shape(), weights.fc2.dtype())};
  for_each_expert(context.input, [&](std::int64_t expert, std::int64_t begin, std::int64_t end) {
    backward(of_expert(weights, expert), rows_of(context.input.tokens, begin, end),
             context.fc1_output.rows(begin, end), grad_output.rows(begin, end),
             rows_of(grad_tokens, begin, end), of_expert(grad_weights, expert));
  });
  return {.tokens = {.hidden = grad_tokens.hidden, .probs = grad_tokens.probs},
          .weights = {.fc1 = grad_weights.fc1, .fc2 = grad_weights.fc2}};
}

}  // namespace flexep::moe
