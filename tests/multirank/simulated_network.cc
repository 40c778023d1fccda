// SPDX-License-Identifier: Apache-2.0
#include "simulated_network.h"

#include <algorithm>
#include <stdexcept>

namespace flexep::testing {

SimulatedNetwork::SimulatedNetwork(const Topology& topology, double bytes_per_us, double delay_us)
    : topology_(topology),
      bytes_per_us_(bytes_per_us),
      delay_us_(delay_us),
      out_(static_cast<std::size_t>(topology.num_scaleout_ranks)),
      in_(out_.size()) {}

std::shared_ptr<SimulatedNetwork::Transfer> SimulatedNetwork::post(int from, int to, std::size_t num_bytes,
                                                                   bool is_send, double now_us) {
  Lane& lane = lanes_[{from, to}];
  auto& own_side = is_send ? lane.sends : lane.receives;
  auto& other_side = is_send ? lane.receives : lane.sends;
  const bool meets = !other_side.empty();
  const auto transfer =
      meets ? other_side.front() : std::make_shared<Transfer>(Transfer{from, to, num_bytes});
  if (transfer->num_bytes != num_bytes) throw std::runtime_error("a message of another length");
  (is_send ? transfer->send_posted_us : transfer->receive_posted_us) = now_us;
  if (meets) {
    other_side.pop_front();
    const double asked_us = transfer->send_posted_us + delay_us_;
    ready_.emplace(std::max(asked_us, transfer->receive_posted_us) + delay_us_, transfer);
  } else {
    own_side.push_back(transfer);
  }
  return transfer;
}

bool SimulatedNetwork::is_complete(const Transfer& transfer, bool is_send, double now_us) {
  advance_to(now_us);
  return (is_send ? transfer.sent_us : transfer.received_us) <= now_us;
}

// What becomes ready later may still be overtaken by what nobody has posted yet.
void SimulatedNetwork::advance_to(double now_us) {
  while (!ready_.empty() && ready_.begin()->first <= now_us) {
    const auto [ready_us, transfer] = *ready_.begin();
    ready_.erase(ready_.begin());
    transmit(*transfer, ready_us);
  }
}

// The switch between the cables takes what comes and passes it on as the other cable can.
void SimulatedNetwork::transmit(Transfer& transfer, double ready_us) {
  Cable& out = cable(out_, transfer.from);
  Cable& in = cable(in_, transfer.to);
  const double busy_us = static_cast<double>(transfer.num_bytes) / bytes_per_us_;
  const double sent_us = std::max(ready_us, out.free_us) + busy_us;
  const double passed_on_us = std::max(sent_us, in.free_us + busy_us);
  transfer.sent_us = sent_us;
  transfer.received_us = passed_on_us + delay_us_;
  out = {.free_us = sent_us, .busy_us = out.busy_us + busy_us};
  in = {.free_us = passed_on_us, .busy_us = in.busy_us + busy_us};
}

double SimulatedNetwork::busiest_us() const {
  double busiest = 0;
  for (const auto* cables : {&out_, &in_}) {
    for (const Cable& cable : *cables) busiest = std::max(busiest, cable.busy_us);
  }
  return busiest;
}

bool SimulatedMessages::is_complete(Ticket ticket) {
  const auto found = ends_.find(ticket);
  const auto& [transfer, is_send] = found->second;
  if (!network_.is_complete(*transfer, is_send, now_us_)) return false;
  ends_.erase(found);
  return true;
}

}  // namespace flexep::testing
