// SPDX-License-Identifier: Apache-2.0
#include "core/staged_combine.h"

#include <exception>

#include "core/requests.h"

namespace flexep {

void StagedCombine::run() {
  std::exception_ptr refusal;
  try {
    stage();
  } catch (...) {
    refusal = std::current_exception();
  }
  on_host_ = host_.combine(staged_, refusal);
  result_.x = make_like(on_host_.x);
  result_.topk_weights = make_like(on_host_.topk_weights);
}

// Rows first: the others wait to hear where they are.
void StagedCombine::stage() {
  staged_ = args_;
  resolve_combine(args_, context_);
  staged_.handle = args_.handle.state().on_host;
  const DispatchState& planned = staged_.handle.state();

  device_.follow(args_.previous_event);
  device_.follow_also(args_.previous_event_before_epilogue);
  // Without host sync there may be room for more rows than have arrived, which nobody reads.
  const int num_rows =
      planned.is_planned ? planned.receive.num_rows(planned.shape.do_expand) : planned.num_rows();
  staged_.x = inputs_.fetch_rows(args_.x, num_rows);
  staged_.topk_weights = inputs_.fetch_rows(args_.topk_weights, num_rows);
  staged_.previous_event = inputs_.fetched();
  staged_.allocate_on_comm_stream = true;
  for (std::size_t i = 0; i < args_.bias.size(); ++i) staged_.bias[i] = inputs_.fetch(args_.bias[i]);
  staged_.previous_event_before_epilogue = inputs_.fetched();
}

Tensor StagedCombine::make_like(const Tensor& on_host) {
  if (!on_host) return {};
  return device_.make_result(on_host.shape(), {on_host.size(1), 1}, on_host.dtype());
}

void StagedCombine::finish() {
  if (on_host_.event) on_host_.event.wait();
  store(on_host_.x, result_.x);
  store(on_host_.topk_weights, result_.topk_weights);
  device_.finish_stores();
}

void StagedCombine::store(const Tensor& on_host, const Tensor& on_device) {
  if (!on_host) return;
  device_.store(static_cast<const std::byte*>(on_host.data()), on_device.data(), on_host.num_bytes());
}

}  // namespace flexep
