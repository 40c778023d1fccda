// SPDX-License-Identifier: Apache-2.0
#include "transport/multi_domain/rail_gather.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace flexep {

RailRecord::RailRecord(std::span<const std::byte> from) {
  std::memcpy(&head, from.data(), sizeof(head));
  bytes = from.subspan(sizeof(head), head.num_bytes);
}

std::string RailRecord::describe() const {
  return fmt::format("{} #{}", head.operation, head.sequence_number);
}

std::vector<std::byte> RailRecord::compose(std::span<const std::byte> bytes, const Operation& operation) {
  Head head{.num_bytes = bytes.size(), .sequence_number = operation.sequence_number, .operation = {}};
  const auto name = operation.name.substr(0, Operation::kMaxNameLength);
  std::copy(name.begin(), name.end(), head.operation);
  std::vector<std::byte> record(std::max(sizeof(head) + bytes.size(), RailGather::kFrameBytes));
  std::memcpy(record.data(), &head, sizeof(head));
  std::copy(bytes.begin(), bytes.end(), record.begin() + sizeof(head));
  return record;
}

RailGather::RailGather(Messages& messages, const Topology& topology, int rank, std::vector<std::byte> record)
    : messages_(messages),
      sends_(messages),
      records_(static_cast<std::size_t>(topology.num_scaleout_ranks), std::vector<std::byte>(kFrameBytes)) {
  const int own = topology.domain_of(rank);
  auto& mine = records_[static_cast<std::size_t>(own)];
  mine = std::move(record);
  for (int i = 1; i < topology.num_scaleout_ranks; ++i) {
    const int before = (own + topology.num_scaleout_ranks - i) % topology.num_scaleout_ranks;
    const int partner = topology.rank_of(before, topology.scaleup_rank_of(rank));
    auto& frame = records_[static_cast<std::size_t>(before)];
    partners_.push_back({partner, static_cast<std::size_t>(before), messages.receive(partner, frame)});
  }
  // Each rank starts with the domain after its own, so that nobody is everyone's first partner.
  for (int i = 1; i < topology.num_scaleout_ranks; ++i) {
    const int partner =
        topology.rank_of((own + i) % topology.num_scaleout_ranks, topology.scaleup_rank_of(rank));
    sends_.send(partner, std::span(mine).first(kFrameBytes));
    if (mine.size() > kFrameBytes) sends_.send(partner, std::span(mine).subspan(kFrameBytes));
  }
}

bool RailGather::advance() {
  bool has_moved = sends_.advance();
  for (Partner& partner : partners_) {
    if (!partner.ticket || !messages_.is_complete(*partner.ticket)) continue;
    partner.ticket.reset();
    has_moved = true;
    if (records_[partner.domain].size() == kFrameBytes) use_frame(partner);
  }
  return has_moved;
}

// The frame tells whether more is to come.
void RailGather::use_frame(Partner& partner) {
  auto& record = records_[partner.domain];
  RailRecord::Head head;
  std::memcpy(&head, record.data(), sizeof(head));
  const std::size_t num_bytes = sizeof(head) + head.num_bytes;
  if (num_bytes <= kFrameBytes) return;
  record.resize(num_bytes);
  partner.ticket = messages_.receive(partner.rank, std::span(record).subspan(kFrameBytes));
}

bool RailGather::is_done() const {
  return sends_.is_done() &&
         std::ranges::none_of(partners_, [](const Partner& partner) { return partner.ticket.has_value(); });
}

std::vector<int> RailGather::awaited() const {
  std::vector<int> ranks = sends_.awaited();
  for (const Partner& partner : partners_) {
    if (partner.ticket) ranks.push_back(partner.rank);
  }
  return ranks;
}

}  // namespace flexep
