// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <future>

#include "flexep/moe/experts.h"
#include "flexep/moe/moe_layer.h"
#include "moe/compute_device.h"

namespace flexep::moe {

/// One forward of the expert that every token visits: out = fc2(swiglu(fc1(x))), times sigmoid(gate * x)
/// where there is a gate.
///
/// It has two halves, so that each can run beside an exchange of tokens: begin_fc1 before the dispatch,
/// begin_fc2 before the combine, finish after it, in this order. With overlap the halves run on threads of
/// their own, one after the other; without, both run in finish. The results have the same bits.
class SharedExpertForward {
 public:
  /// @param rows  [T, H], which stay as they are until finish.
  SharedExpertForward(const ComputeDevice& device, const SharedExpertWeights<Tensor>& weights,
                      const Tensor& rows, bool overlap);
  SharedExpertForward(const SharedExpertForward&) = delete;  // its thread knows where it is
  SharedExpertForward& operator=(const SharedExpertForward&) = delete;

  void begin_fc1();
  void begin_fc2();
  /// Waits. @return [T, H] in the type of the rows.
  Tensor finish();

  /// What the backward needs; after finish.
  const ExpertsContext& context() const { return context_; }

 private:
  enum class State { kIdle, kFc1, kFc2, kDone };

  void advance(State from, State to);
  void run_fc1();
  void run_fc2();

  const ComputeDevice& device_;
  SharedExpertWeights<Tensor> weights_;
  Tensor rows_;
  std::launch policy_;
  State state_ = State::kIdle;
  ExpertsContext context_;
  Tensor activated_;
  Tensor output_;
  std::shared_future<void> half_;  // the half that was begun last; last member, so that its end waits for it
};

struct SharedExpertGradients {
  Gradient<Tensor> rows;
  SharedExpertWeights<Gradient<Tensor>> weights;  ///< of this rank's tokens: sum them over the ranks
};

/// The backward: beside whatever its thread does until finish, with moe_shared_expert_overlap; else in
/// finish.
class SharedExpertBackward {
 public:
  /// @param grad  [T, H], of SharedExpertForward::finish's result. All arguments live until the end of this.
  SharedExpertBackward(const ComputeDevice& device, const MoeConfig& config,
                       const SharedExpertWeights<Tensor>& weights, const ExpertsContext& context,
                       const Tensor& grad);
  /// Waits. Without a shared expert all are "no tensor".
  SharedExpertGradients finish() { return grads_.get(); }

 private:
  std::future<SharedExpertGradients> grads_;
};

}  // namespace flexep::moe
