// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/experts.h"

#include <algorithm>
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

void check_rows(const char* name, const Tensor& rows, const Shape& shape, DType dtype) {
  require_argument(rows.shape() == shape && rows.dtype() == dtype, name, "{} must be {} {}, not {} {}", name,
                   name_of(dtype), shape.to_string(), name_of(rows.dtype()), rows.shape().to_string());
}

void check_weights(const ExpertWeights<Tensor>& weights, const GroupedTokens& input) {
  const auto& [fc1, fc2] = weights;
  const Tensor& hidden = input.tokens.hidden;
  const DType dtype = hidden.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  require_argument(fc2.num_dims() == 3, "fc2", "fc2 must be [experts, H, F], not {}",
                   fc2.shape().to_string());
  check_rows("fc2", fc2,
             {static_cast<std::int64_t>(input.tokens_per_expert.size()), hidden.size(1), fc2.size(2)}, dtype);
  check_rows("fc1", fc1, {fc2.size(0), 2 * fc2.size(2), hidden.size(1)}, dtype);
}

void check_input(const GroupedTokens& input) {
  const auto& [hidden, probs] = input.tokens;
  const auto num_rows =
      std::accumulate(input.tokens_per_expert.begin(), input.tokens_per_expert.end(), std::int64_t{0});
  require_argument(hidden.num_dims() == 2, "hidden", "hidden must be [rows, H], not {}",
                   hidden.shape().to_string());
  require_argument(num_rows == hidden.size(0), "tokens_per_expert",
                   "tokens_per_expert sums to {}, not to {} rows", num_rows, hidden.size(0));
  require_argument(probs.shape() == Shape{num_rows} &&
                       (probs.dtype() == DType::kFloat32 || probs.dtype() == DType::kFloat64),
                   "probs", "probs must be fp32 or fp64 [{}], not {} {}", num_rows, name_of(probs.dtype()),
                   probs.shape().to_string());
}

// Calls visit(expert, first row, rows) for each expert.
template <typename Visitor>
void for_each_expert(const GroupedTokens& input, Visitor&& visit) {
  std::int64_t begin = 0;
  for (std::size_t expert = 0; expert < input.tokens_per_expert.size(); ++expert) {
    const std::int64_t end = begin + input.tokens_per_expert[expert];
    visit(static_cast<std::int64_t>(expert), begin, end);
    begin = end;
  }
}

// Expert `expert`'s [rows, columns] of [El, rows, columns].
Tensor of_expert(const Tensor& weights, std::int64_t expert) {
  return weights.rows(expert, expert + 1).reshape({weights.size(1), weights.size(2)});
}

// out = a * b, rounded once when `out` is narrower than C.
template <typename C>
void multiply_into(Matrix<const C> a, Matrix<const C> b, const Tensor& out) {
  const bool is_narrow = out.dtype() != kDTypeOf<C>;
  const Tensor product = is_narrow ? Tensor::empty(out.shape(), kDTypeOf<C>) : out;
  multiply(a, b, matrix_of<C>(product));
  if (is_narrow) cast_into(product, out);
}

// C is the type of the weights, P that of the probs.
template <typename C, typename P>
void forward(const ExpertWeights<Tensor>& weights, const GroupedTokens& input, const Tensor& fc1_output,
             const Tensor& out) {
  const std::int64_t ffn = ffn_size(weights);
  for_each_expert(input, [&](std::int64_t expert, std::int64_t begin, std::int64_t end) {
    const Tensor x = cast(input.tokens.hidden.rows(begin, end), kDTypeOf<C>);
    const Tensor probs = input.tokens.probs.rows(begin, end), gate_up = fc1_output.rows(begin, end);
    Tensor activated = Tensor::empty({end - begin, ffn}, kDTypeOf<C>);
    multiply(matrix_of<const C>(x), matrix_of<const C>(of_expert(weights.fc1, expert)).transposed(),
             matrix_of<C>(gate_up));
    swiglu(gate_up.data<C>(), probs.data<P>(), end - begin, ffn, activated.data<C>());
    multiply_into(matrix_of<const C>(activated),
                  matrix_of<const C>(of_expert(weights.fc2, expert)).transposed(), out.rows(begin, end));
  });
}

template <typename C, typename P>
void backward(const ExpertWeights<Tensor>& weights, const ExpertsContext& context, const Tensor& grad_output,
              const ExpertsGradients& grads) {
  const std::int64_t ffn = ffn_size(weights);
  const auto& [hidden, probs] = context.input.tokens;
  for_each_expert(context.input, [&, &hidden = hidden, &probs = probs](std::int64_t expert,
                                                                       std::int64_t begin, std::int64_t end) {
    const std::int64_t num_rows = end - begin;
    const Tensor x = cast(hidden.rows(begin, end), kDTypeOf<C>);
    const Tensor dy = cast(grad_output.rows(begin, end), kDTypeOf<C>);
    const Tensor gate_up = context.fc1_output.rows(begin, end);
    const P* p = probs.rows(begin, end).template data<P>();
    Tensor activated = Tensor::empty({num_rows, ffn}, kDTypeOf<C>);
    Tensor grad_activated = Tensor::empty({num_rows, ffn}, kDTypeOf<C>);
    Tensor grad_gate_up = Tensor::empty({num_rows, 2 * ffn}, kDTypeOf<C>);

    // Down projection.
    swiglu(gate_up.data<C>(), p, num_rows, ffn, activated.data<C>());
    multiply(matrix_of<const C>(dy).transposed(), matrix_of<const C>(activated),
             matrix_of<C>(of_expert(grads.weights.fc2, expert)));
    multiply(matrix_of<const C>(dy), matrix_of<const C>(of_expert(weights.fc2, expert)),
             matrix_of<C>(grad_activated));
    // Activation and probability.
    swiglu_backward(gate_up.data<C>(), p, grad_activated.data<C>(), num_rows, ffn, grad_gate_up.data<C>(),
                    grads.tokens.probs.value().rows(begin, end).template data<P>());
    // Gate and up projections.
    multiply(matrix_of<const C>(grad_gate_up).transposed(), matrix_of<const C>(x),
             matrix_of<C>(of_expert(grads.weights.fc1, expert)));
    multiply_into(matrix_of<const C>(grad_gate_up), matrix_of<const C>(of_expert(weights.fc1, expert)),
                  grads.tokens.hidden.value().rows(begin, end));
  });
}

// Calls visitor(C{}, P{}) for the types of weights and probs.
template <typename Visitor>
void visit_types(const ExpertWeights<Tensor>& weights, const Tensor& probs, Visitor&& visitor) {
  const bool wide_weights = weights.fc1.dtype() == DType::kFloat64,
             wide_probs = probs.dtype() == DType::kFloat64;
  if (wide_weights) return wide_probs ? visitor(double{}, double{}) : visitor(double{}, float{});
  return wide_probs ? visitor(float{}, double{}) : visitor(float{}, float{});
}

}  // namespace

ExpertsForward experts_forward(const ExpertWeights<Tensor>& weights, const GroupedTokens& input,
                               const Tensor& out) {
  const auto& [hidden, probs] = input.tokens;
  check_input(input);
  check_weights(weights, input);
  check_rows("out", out, hidden.shape(), hidden.dtype());
  Tensor fc1_output = Tensor::empty({hidden.size(0), 2 * ffn_size(weights)}, weights.fc1.dtype());
  visit_types(weights, probs,
              [&]<typename C, typename P>(C, P) { forward<C, P>(weights, input, fc1_output, out); });
  return {.output = out, .context = {.input = input, .fc1_output = fc1_output}};
}

ExpertsGradients experts_backward(const ExpertWeights<Tensor>& weights, const ExpertsContext& context,
                                  const Gradient<Tensor>& output, const Tensor& out_hidden) {
  const auto& [hidden, probs] = context.input.tokens;
  check_rows("output", output, hidden.shape(), hidden.dtype());
  check_rows("out_hidden", out_hidden, hidden.shape(), hidden.dtype());
  const ExpertsGradients grads{
      .tokens = {.hidden = out_hidden, .probs = Tensor::empty(probs.shape(), probs.dtype())},
      .weights = {.fc1 = Tensor::empty(weights.fc1.shape(), weights.fc1.dtype()),
                  .fc2 = Tensor::empty(weights.fc2.shape(), weights.fc2.dtype())}};
  visit_types(weights, probs,
              [&]<typename C, typename P>(C, P) { backward<C, P>(weights, context, output, grads); });
  return grads;
}

}  // namespace flexep::moe
