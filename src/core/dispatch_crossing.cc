// SPDX-License-Identifier: Apache-2.0
#include "core/dispatch_crossing.h"

#include <algorithm>
#include <numeric>

#include "core/push_target.h"

namespace flexep {

DispatchCrossing::DispatchCrossing(const Job& job)
    : job_(job),
      partner_to_(job.routes->partner_to()),
      all_tokens_(static_cast<std::size_t>(job.send->num_tokens)),
      carried_waves_(list_carried_waves(job.plan->carried, job.waves.num_tokens)) {
  std::iota(all_tokens_.begin(), all_tokens_.end(), 0);
  std::byte* room = job.staging;
  for (int i = 0; i < job.waves.num_own; ++i, room += job.waves.own_bytes)
    areas_.push_back({room, PlainTraffic(*job.messages)});
  for (int i = 0; i < job.waves.num_slots; ++i, room += job.waves.slot_bytes)
    slots_.push_back({.memory = room, .wave = {}});
}

bool DispatchCrossing::advance() {
  // First what costs nothing, then what keeps the network busy, and of that a wave at a time. What needs
  // nobody fills the time in which nothing comes.
  const bool has_posted = expect_waves();
  return send_wave() || carry_wave() || store_within() || has_posted;
}

bool DispatchCrossing::is_done() const {
  return num_tokens_sent_ == job_.send->num_tokens && num_tokens_stored_ == job_.send->num_tokens &&
         num_waves_carried_ == carried_waves_.size() &&
         std::ranges::all_of(areas_, [](const Area& area) { return area.messages.is_done(); });
}

std::vector<int> DispatchCrossing::awaited() const {
  std::vector<int> ranks;
  for (const Slot& slot : slots_) {
    if (slot.wave) ranks.push_back(job_.plan->carried[carried_waves_[*slot.wave].stream].source);
  }
  for (const Area& area : areas_) {
    const auto partners = area.messages.awaited();
    ranks.insert(ranks.end(), partners.begin(), partners.end());
  }
  return ranks;
}

bool DispatchCrossing::send_wave() {
  bool has_moved = false;
  for (Area& area : areas_) {
    has_moved |= area.messages.advance();
    if (!area.messages.is_done() || num_tokens_sent_ == job_.send->num_tokens) continue;
    const int begin = num_tokens_sent_;
    num_tokens_sent_ = std::min(begin + job_.waves.num_tokens, job_.send->num_tokens);
    pack(area, begin, num_tokens_sent_);
    return true;
  }
  return has_moved;
}

// Each row is read once and stored into the messages of all partners that it goes to.
void DispatchCrossing::pack(Area& area, int begin, int end) {
  const auto& sent = job_.plan->sent;
  std::vector<int> num_tokens;
  const SendPlan packing = plan_packing(begin, end, num_tokens);
  const OutputFormat format = wave_format(job_.format);
  std::vector<PushTarget> targets(sent.size());
  std::vector<std::span<const std::byte>> messages(sent.size());
  std::byte* room = area.memory;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (num_tokens[i] == 0) continue;
    const ReceiveSize size{.num_recv_tokens = num_tokens[i]};
    targets[i] = target_in(format, size, room);
    messages[i] = {room, OutputLayout(format, size).num_bytes()};
    room += messages[i].size();
  }

  PushJob rows = rows_from(begin, end, packing);
  rows.do_expand = false;
  rows.num_local_experts = 0;  // ids stay global
  rows.idx_bytes = sizeof(std::int64_t);
  rows.targets = targets;
  job_.backend->push(rows, job_.width);
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (!messages[i].empty()) area.messages.send(sent[i].partner, messages[i]);
  }
}

// The wave as a small dispatch whose ranks are the partners. @param num_tokens  [partners], set.
SendPlan DispatchCrossing::plan_packing(int begin, int end, std::vector<int>& num_tokens) const {
  const SendPlan& send = *job_.send;
  SendPlan packing{.num_tokens = end - begin, .num_topk = send.num_topk};
  const std::size_t num_pairs = packing.pair(packing.num_tokens, 0);
  packing.owner.assign(num_pairs, -1);
  packing.token_slot.resize(num_pairs);
  const std::size_t first_pair = send.pair(begin, 0);
  num_tokens = for_crossing_pairs(send, begin, end, partner_to_, job_.plan->sent.size(),
                                  [&](std::size_t pair, int partner, int place) {
                                    packing.owner[pair - first_pair] = partner;
                                    packing.token_slot[pair - first_pair] = place;
                                  });
  packing.row = packing.token_slot;
  list_masters(packing, num_tokens.size());
  return packing;
}

bool DispatchCrossing::expect_waves() {
  bool has_posted = false;
  for (Slot& slot : slots_) {
    if (slot.wave || num_waves_awaited_ == carried_waves_.size()) continue;
    expect(slot, num_waves_awaited_++);
    has_posted = true;
  }
  return has_posted;
}

void DispatchCrossing::expect(Slot& slot, std::size_t index) {
  const CarriedWave& wave = carried_waves_[index];
  const OutputLayout layout(wave_format(job_.format), {.num_recv_tokens = wave.end - wave.begin});
  slot.ticket =
      job_.messages->receive(job_.plan->carried[wave.stream].source, {slot.memory, layout.num_bytes()});
  slot.wave = index;
}

bool DispatchCrossing::carry_wave() {
  for (Slot& slot : slots_) {
    if (!slot.wave || !job_.messages->is_complete(slot.ticket)) continue;
    carry(slot);
    slot.wave.reset();
    ++num_waves_carried_;
    return true;
  }
  return false;
}

// Stores the rows of a message at their final places, as their source would.
void DispatchCrossing::carry(const Slot& slot) {
  const CarriedWave& wave = carried_waves_[*slot.wave];
  const CarriedTokens& carried = job_.plan->carried[wave.stream];
  SendPlan plan = slice_of(carried.plan, wave.begin, wave.end);
  // All that is carried decides how rows are stored: around the caches where it is more than they hold.
  plan.num_rows_per_rank =
      job_.rows.do_expand ? job_.plan->num_carried_pairs_per_rank : job_.plan->num_carried_tokens_per_rank;
  const auto num_tokens = static_cast<std::size_t>(plan.num_tokens);
  const PushTarget message =
      target_in(wave_format(job_.format), {.num_recv_tokens = plan.num_tokens}, slot.memory);
  PushJob rows = job_.rows;
  rows.plan = &plan;
  rows.rank = carried.source;
  rows.src_tokens = std::span(carried.tokens).subspan(static_cast<std::size_t>(wave.begin), num_tokens);
  rows.x = message.x;
  rows.x_stride = rows.row_bytes;
  rows.sf = message.sf;
  rows.sf_row_stride = message.sf_row_stride;
  rows.sf_pack_stride = message.sf_pack_stride;
  rows.topk_idx = {reinterpret_cast<const std::int64_t*>(message.topk_idx),
                   num_tokens * static_cast<std::size_t>(plan.num_topk)};
  rows.topk_weights = message.topk_weights;
  job_.backend->push(rows, job_.width);
}

bool DispatchCrossing::store_within() {
  if (num_tokens_stored_ == job_.send->num_tokens) return false;
  const int begin = num_tokens_stored_;
  num_tokens_stored_ = std::min(begin + job_.waves.num_tokens, job_.send->num_tokens);
  const SendPlan plan = slice_of(job_.plan->within, begin, num_tokens_stored_);
  job_.backend->push(rows_from(begin, num_tokens_stored_, plan), job_.width);
  return true;
}

PushJob DispatchCrossing::rows_from(int begin, int end, const SendPlan& plan) const {
  const auto first = static_cast<std::size_t>(begin);
  const auto num_tokens = static_cast<std::size_t>(end - begin);
  const auto num_topk = static_cast<std::size_t>(plan.num_topk);
  PushJob rows = job_.rows;
  rows.plan = &plan;
  rows.src_tokens = std::span(all_tokens_).subspan(first, num_tokens);
  rows.x += first * rows.x_stride;
  if (rows.sf != nullptr) rows.sf += begin * rows.sf_row_stride;
  rows.topk_idx = rows.topk_idx.subspan(first * num_topk, num_tokens * num_topk);
  if (rows.topk_weights != nullptr) rows.topk_weights += first * num_topk * rows.weight_bytes;
  return rows;
}

}  // namespace flexep
