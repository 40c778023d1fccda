// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/operation.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "backend/cuda/check_cuda.h"
#include "common/check.h"
#include "common/deadline.h"
#include "common/interruption.h"
#include "cuda_engine/dense_copy.h"
#include "kernels/cuda/refusal.h"

namespace flexep::cuda {

void Operation::follow(const Event& previous, const Event& before_rows) const {
  require_argument(current_stream() != group_.stream(), "current_stream",
                   "the current stream of rank {} is its communication stream, which cannot wait for itself",
                   group_.rank());
  require_argument(is_captured_ || !is_captured(group_.stream()), "current_stream",
                   "the communication stream of rank {} is being captured with another stream than the "
                   "current one, which is not",
                   group_.rank());
  if (previous) {
    wait(previous, group_.stream());
  } else {
    follow_current_stream();
  }
  if (before_rows) wait(before_rows, group_.stream());
  // An event from before the capture has made the host wait, and the communication stream join nothing.
  if (is_captured_ && !is_captured(group_.stream())) follow_current_stream();
}

void Operation::follow_current_stream() const {
  const auto point = std::make_shared<const StreamEvent>(current_stream());
  point->hold_back(group_.stream());
  if (!is_captured_) group_.note_wait(point);
}

void Operation::keep(const std::shared_ptr<Flight>& flight) const {
  if (is_captured_) return keep_with_graph_of(group_.stream(), flight);
  group_.note_operation(flight->point());
  flights_.add(flight);
}

void Operation::check_num_sms(int num_sms) const {
  require_argument(num_sms <= group_.max_sms, "num_sms",
                   "num_sms on rank {} is {}, but the {} ranks of its GPU have {} multiprocessors each",
                   group_.rank(), num_sms, group_.ranges->num_ranks_on_device(), group_.max_sms);
}

void Operation::refuse(std::string_view reason) {
  RefusalLaunch refusal{.peers = group_.peers};
  std::memcpy(refusal.text, reason.data(), std::min(reason.size(), sizeof(refusal.text) - 1));
  const auto flight = take_off(1, [&](const Reports& reports) {
    refusal.reports = reports;
    check(launch_refusal(refusal, group_.stream()), "launch a refusal");
  });
  flight->mark_heard();
}

void Operation::await_verdict(const Flight& flight) const {
  constexpr int kNumSpins = 100000;
  // Kernels have deadlines of their own: this one is for a kernel that does not get to run.
  const Deadline deadline(2 * group_.transport->timeout() + std::chrono::seconds(10));
  const std::atomic_ref<std::uint64_t> ready(flight.result().ready);
  const auto is_ready = [&] { return ready.load(std::memory_order_acquire) != 0; };
  const bool came = wait_until(deadline, kNumSpins, is_ready, [&](std::chrono::nanoseconds) {
    // Throws when the device has failed.
    if (flight.is_done() && !is_ready())
      throw CudaError(fmt::format("{}: its kernel ended without a result", name_.name));
    if (is_interrupted()) {
      group_.transport->abort("it was interrupted");
      throw TransportError(fmt::format("{} was interrupted on rank {}", name_.name, group_.rank()));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  });
  if (!came) {
    throw TimeoutError(
        {}, std::string(name_.name), name_.sequence_number,
        fmt::format("{} (operation {}): its kernel did not run on rank {}: does work of the program wait "
                    "for another rank?",
                    name_.name, name_.sequence_number, group_.rank()));
  }
}

Event Operation::let_follow(const std::shared_ptr<Flight>& flight, bool is_async) const {
  if (is_async) return Event(std::static_pointer_cast<const Event::Moment>(flight));
  flight->hold_back(current_stream());
  return {};
}

Tensor Operation::dense(const Tensor& tensor) const {
  if (is_dense(tensor)) return tensor;
  Tensor copy = group_.local->make_tensor(reserve_local(tensor.num_bytes()), tensor.shape(), tensor.dtype());
  copy_dense(tensor, static_cast<std::byte*>(copy.data()), group_.stream());
  if (is_captured_) keep_with_graph_of(group_.stream(), copy.owner());
  return copy;
}

}  // namespace flexep::cuda
