// SPDX-License-Identifier: Apache-2.0
#include "moe/shared_expert.h"

#include <algorithm>

#include "common/check.h"
#include "moe/floating.h"
#include "moe/gemm.h"
#include "moe/projection.h"
#include "moe/rows.h"
#include "moe/score_functions.h"
#include "moe/swiglu.h"

namespace flexep::moe {
namespace {

// [T], what the gate makes of each row; ones without a gate.
Tensor gate_values(const SharedExpertWeights<Tensor>& weights, const Tensor& rows) {
  const DType dtype = weights.fc1.dtype();
  Tensor values = Tensor::empty({rows.size(0), 1}, dtype);
  if (weights.gate) multiply(cast(rows, dtype), transposed(weights.gate), values);
  visit_floating(dtype, "gate", [&]<typename T>(T) {
    if constexpr (std::is_floating_point_v<T>) {
      if (weights.gate)
        sigmoid(values.values<T>());
      else
        std::fill(values.values<T>().begin(), values.values<T>().end(), T{1});
    }
  });
  return values.reshape({rows.size(0)});
}

// The one expert, as experts_backward wants it: [1, ...].
ExpertWeights<Tensor> as_experts(const SharedExpertWeights<Tensor>& weights) {
  const auto stack = [](const Tensor& matrix) { return matrix.reshape({1, matrix.size(0), matrix.size(1)}); };
  return {.fc1 = stack(weights.fc1), .fc2 = stack(weights.fc2)};
}

// [T, 1], the gradient of the gate's logits from that of its values s: ds * s * (1 - s).
Tensor gate_logits_backward(const Tensor& values, const Tensor& grad_values) {
  const Tensor grad = Tensor::zeros(values.shape(), values.dtype());
  visit_floating(values.dtype(), "gate", [&]<typename T>(T) {
    if constexpr (std::is_floating_point_v<T>)
      sigmoid_backward<T>(values.values<T>(), grad_values.values<T>(), grad.values<T>());
  });
  return grad.reshape({values.size(0), 1});
}

}  // namespace

SharedExpertForward::SharedExpertForward(const SharedExpertWeights<Tensor>& weights, const Tensor& rows,
                                         bool overlap)
    : weights_(weights),
      rows_(rows.contiguous()),
      policy_(overlap ? std::launch::async : std::launch::deferred) {}

void SharedExpertForward::advance(State from, State to) {
  require_argument(state_ == from, "shared_expert",
                   "the steps of a shared_expert are begin_fc1, begin_fc2, finish, in this order, once");
  state_ = to;
}

void SharedExpertForward::begin_fc1() {
  advance(State::kIdle, State::kFc1);
  half_ = std::async(policy_, [this] { run_fc1(); }).share();
}

void SharedExpertForward::begin_fc2() {
  advance(State::kFc1, State::kFc2);
  half_ = std::async(policy_, [this, fc1 = half_] {
            fc1.get();
            run_fc2();
          }).share();
}

Tensor SharedExpertForward::finish() {
  advance(State::kFc2, State::kDone);
  half_.get();
  return output_;
}

void SharedExpertForward::run_fc1() {
  const DType dtype = weights_.fc1.dtype();
  context_ = {.input = {.tokens = {.hidden = rows_, .probs = gate_values(weights_, rows_)},
                        .tokens_per_expert = {static_cast<std::int32_t>(rows_.size(0))}},
              .fc1_output = Tensor::empty({rows_.size(0), weights_.fc1.size(0)}, dtype)};
  activated_ = Tensor::empty({rows_.size(0), weights_.fc2.size(1)}, dtype);
  multiply(cast(rows_, dtype), transposed(weights_.fc1), context_.fc1_output);
  swiglu(context_.fc1_output, context_.input.tokens.probs, activated_);
}

void SharedExpertForward::run_fc2() {
  output_ = cast(project(activated_, weights_.fc2), rows_.dtype());
  activated_ = {};
}

namespace {

SharedExpertGradients run_backward(const SharedExpertWeights<Tensor>& weights, const ExpertsContext& context,
                                   const Tensor& grad) {
  if (!weights.fc1)
    return {.rows = Tensor(), .weights = {.fc1 = Tensor(), .fc2 = Tensor(), .gate = Tensor()}};
  const auto& [rows, gate_probs] = context.input.tokens;
  const auto experts =
      experts_backward(as_experts(weights), context, grad, Tensor::empty(rows.shape(), rows.dtype()));
  const Tensor grad_fc1 = experts.weights.fc1.value().reshape(weights.fc1.shape());
  const Tensor grad_fc2 = experts.weights.fc2.value().reshape(weights.fc2.shape());
  if (!weights.gate)
    return {.rows = experts.tokens.hidden, .weights = {.fc1 = grad_fc1, .fc2 = grad_fc2, .gate = Tensor()}};
  const auto gate =
      project_backward(rows, weights.gate, gate_logits_backward(gate_probs, experts.tokens.probs));
  return {.rows = add(experts.tokens.hidden, gate.rows),
          .weights = {.fc1 = grad_fc1, .fc2 = grad_fc2, .gate = gate.weight}};
}

}  // namespace

SharedExpertBackward::SharedExpertBackward(const MoeConfig& config,
                                           const SharedExpertWeights<Tensor>& weights,
                                           const ExpertsContext& context, const Tensor& grad)
    : grads_(std::async(config.moe_shared_expert_overlap ? std::launch::async : std::launch::deferred,
                        [&weights, &context, grad] { return run_backward(weights, context, grad); })) {}

}  // namespace flexep::moe
