// SPDX-License-Identifier: Apache-2.0
#include "moe/shared_expert.h"

#include "common/check.h"
#include "moe/experts_on_device.h"
#include "moe/projection.h"

namespace flexep::moe {
namespace {

// [T], what the gate makes of each row; ones without a gate.
Tensor gate_values(const ComputeDevice& device, const SharedExpertWeights<Tensor>& weights,
                   const Tensor& rows) {
  const DType dtype = weights.fc1.dtype();
  if (!weights.gate) return device.ones({rows.size(0)}, dtype);
  const DType product_dtype = device.product_dtype(rows.dtype(), dtype);
  const Tensor values = device.empty({rows.size(0), 1}, dtype);
  device.multiply(device.cast(rows, product_dtype), transposed(device.cast(weights.gate, product_dtype)),
                  values);
  device.sigmoid(values);
  return values.reshape({rows.size(0)});
}

// The one expert, as experts_backward wants it: [1, ...].
ExpertWeights<Tensor> as_experts(const SharedExpertWeights<Tensor>& weights) {
  const auto stack = [](const Tensor& matrix) { return matrix.reshape({1, matrix.size(0), matrix.size(1)}); };
  return {.fc1 = stack(weights.fc1), .fc2 = stack(weights.fc2)};
}

}  // namespace

SharedExpertForward::SharedExpertForward(const ComputeDevice& device,
                                         const SharedExpertWeights<Tensor>& weights, const Tensor& rows,
                                         bool overlap)
    : device_(device),
      weights_(weights),
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
  const DType dtype = device_.product_dtype(rows_.dtype(), weights_.fc1.dtype());
  context_ = {.input = {.tokens = {.hidden = rows_, .probs = gate_values(device_, weights_, rows_)},
                        .tokens_per_expert = {static_cast<std::int32_t>(rows_.size(0))}},
              .fc1_output = device_.empty({rows_.size(0), weights_.fc1.size(0)}, dtype)};
  activated_ = device_.empty({rows_.size(0), weights_.fc2.size(1)}, dtype);
  device_.multiply(device_.cast(rows_, dtype), transposed(device_.cast(weights_.fc1, dtype)),
                   context_.fc1_output);
  device_.swiglu(context_.fc1_output, context_.input.tokens.probs, activated_);
}

void SharedExpertForward::run_fc2() {
  output_ = device_.empty(rows_.shape(), rows_.dtype());
  device_.multiply(activated_, transposed(device_.cast(weights_.fc2, activated_.dtype())), output_);
  activated_ = {};
}

namespace {

SharedExpertGradients run_backward(const ComputeDevice& device, const SharedExpertWeights<Tensor>& weights,
                                   const ExpertsContext& context, const Tensor& grad) {
  if (!weights.fc1)
    return {.rows = Tensor(), .weights = {.fc1 = Tensor(), .fc2 = Tensor(), .gate = Tensor()}};
  const auto& [rows, gate_probs] = context.input.tokens;
  const auto experts =
      experts_backward(device, as_experts(weights), context, grad, device.empty(rows.shape(), rows.dtype()));
  const Tensor grad_fc1 = experts.weights.fc1.value().reshape(weights.fc1.shape());
  const Tensor grad_fc2 = experts.weights.fc2.value().reshape(weights.fc2.shape());
  if (!weights.gate)
    return {.rows = experts.tokens.hidden, .weights = {.fc1 = grad_fc1, .fc2 = grad_fc2, .gate = Tensor()}};
  const Tensor grad_logits = device.sigmoid_backward(gate_probs, experts.tokens.probs);
  const auto gate = project_backward(device, rows, weights.gate, grad_logits.reshape({rows.size(0), 1}));
  return {.rows = device.add(experts.tokens.hidden, gate.rows),
          .weights = {.fc1 = grad_fc1, .fc2 = grad_fc2, .gate = gate.weight}};
}

}  // namespace

SharedExpertBackward::SharedExpertBackward(const ComputeDevice& device, const MoeConfig& config,
                                           const SharedExpertWeights<Tensor>& weights,
                                           const ExpertsContext& context, const Tensor& grad)
    : grads_(std::async(
          config.moe_shared_expert_overlap ? std::launch::async : std::launch::deferred,
          [&device, &weights, &context, grad] { return run_backward(device, weights, context, grad); })) {}

}  // namespace flexep::moe
