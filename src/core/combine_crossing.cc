// SPDX-License-Identifier: Apache-2.0
#include "core/combine_crossing.h"

#include <algorithm>

namespace flexep {

CombineFormat CombineCrossing::format_of(const Routes& routes, const PullJob& rows) {
  return {.num_topk = rows.plan->num_topk,
          .row_bytes = rows.num_columns * size_of(rows.dtype),
          .weight_bytes = rows.weight_bytes,
          .is_row_per_token = CombineFormat::has_row_per_token(routes.is_hybrid, rows.do_expand,
                                                               rows.allow_multiple_reduction)};
}

CombineCrossing::CombineCrossing(const Job& job)
    : job_(job),
      partner_to_(job.routes->partner_to()),
      carried_waves_(list_carried_waves(job.plan->carried, job.waves.num_tokens)) {
  std::byte* room = job.staging;
  for (int i = 0; i < job.waves.num_own; ++i, room += job.waves.own_bytes)
    areas_.push_back({.memory = room, .messages = PlainTraffic(*job.messages), .parts = {}});
  for (int i = 0; i < job.waves.num_slots; ++i, room += job.waves.slot_bytes)
    slots_.push_back({room, PlainTraffic(*job.messages)});
  domain_sums_ = room;
}

bool CombineCrossing::advance() {
  // First what costs nothing, then what keeps the network busy, and of that a wave at a time.
  const bool has_posted = expect_waves();
  return bring_wave() || sum_wave() || has_posted;
}

bool CombineCrossing::is_done() const {
  return num_tokens_begun_ == job_.rows.plan->num_tokens &&
         std::ranges::all_of(areas_, [](const Area& area) { return area.begin == area.end; }) &&
         num_waves_brought_ == carried_waves_.size() &&
         std::ranges::all_of(slots_, [](const Slot& slot) { return slot.message.is_done(); });
}

std::vector<int> CombineCrossing::awaited() const {
  std::vector<int> ranks;
  const auto add = [&](const PlainTraffic& messages) {
    const auto partners = messages.awaited();
    ranks.insert(ranks.end(), partners.begin(), partners.end());
  };
  for (const Area& area : areas_) add(area.messages);
  for (const Slot& slot : slots_) add(slot.message);
  return ranks;
}

bool CombineCrossing::expect_waves() {
  bool has_posted = false;
  for (Area& area : areas_) {
    if (area.begin < area.end || num_tokens_begun_ == job_.rows.plan->num_tokens) continue;
    area.begin = num_tokens_begun_;
    area.end = num_tokens_begun_ = std::min(area.begin + job_.waves.num_tokens, job_.rows.plan->num_tokens);
    expect(area);
    has_posted = true;
  }
  return has_posted;
}

bool CombineCrossing::sum_wave() {
  bool has_moved = false;
  for (Area& area : areas_) {
    has_moved |= area.messages.advance();
    if (area.begin == area.end || !area.messages.is_done()) continue;
    sum(area);
    area.begin = area.end;
    return true;
  }
  return has_moved;
}

void CombineCrossing::expect(Area& area) {
  const SendPlan& plan = *job_.rows.plan;
  const auto& sent = job_.plan->sent;
  area.parts.assign(sent.size(), {});
  const auto num_tokens =
      for_crossing_pairs(plan, area.begin, area.end, partner_to_, sent.size(), [](std::size_t, int, int) {});
  for (int token = area.begin; token < area.end; ++token) {
    for_rows(plan, job_.rows.do_expand, token, [&](std::size_t pair) {
      const int partner = partner_to_[static_cast<std::size_t>(plan.owner[pair])];
      if (partner >= 0) ++area.parts[static_cast<std::size_t>(partner)].num_rows;
    });
  }
  std::byte* room = area.memory;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    Part& part = area.parts[i];
    part.num_tokens = num_tokens[i];
    if (part.num_tokens == 0) continue;
    if (job_.format.is_row_per_token) part.num_rows = part.num_tokens;
    num_rows_received_ += part.num_rows;
    part.memory = room;
    const std::size_t num_bytes = job_.format.message_bytes(part.num_rows, part.num_tokens);
    area.messages.receive(sent[i].partner, {room, num_bytes});
    room += num_bytes;
  }
}

void CombineCrossing::sum(const Area& area) {
  const SendPlan plan = plan_sums(area);
  PullJob sums = job_.rows;
  sums.plan = &plan;
  sums.topk_weights = nullptr;
  sums.num_output_tokens = job_.rows.plan->num_tokens;
  const std::size_t first_byte = static_cast<std::size_t>(area.begin) * job_.format.row_bytes;
  sums.x += first_byte;
  for (auto& bias : sums.bias) bias = bias == nullptr ? nullptr : bias + first_byte;
  if (reduces_domains(*job_.routes, job_.rows.allow_multiple_reduction)) {
    sum_domains(area, sums);
  } else {
    sum_ranks(area, sums);
  }
  if (job_.rows.topk_weights != nullptr) gather_weights(area);
}

// Stage F over domains, of which the own one does its stage S now.
void CombineCrossing::sum_domains(const Area& area, PullJob& sums) {
  const SendPlan within = slice_of(job_.plan->within, area.begin, area.end);
  PullJob own = job_.rows;
  own.plan = &within;
  own.bias = {};
  own.topk_weights = nullptr;
  own.x = domain_sums_;
  job_.backend->pull(own, job_.width);

  const Topology& topology = job_.routes->topology;
  std::vector<PullSource> sources(static_cast<std::size_t>(topology.num_scaleout_ranks));
  for (PullSource& source : sources) source = {.x = domain_sums_, .is_per_token = true};
  for (std::size_t i = 0; i < area.parts.size(); ++i)
    sources[static_cast<std::size_t>(topology.domain_of(job_.plan->sent[i].partner))].x =
        area.parts[i].memory;
  sources[static_cast<std::size_t>(topology.domain_of(job_.routes->rank))].x = domain_sums_;
  sums.do_expand = false;
  sums.sources = sources;
  job_.backend->pull(sums, job_.width);
}

// Stage F over ranks, or columns; stage L in between where rows of this domain still need it.
void CombineCrossing::sum_ranks(const Area& area, PullJob& sums) {
  const auto sources = sources_with(area);
  sums.sources = sources;
  job_.backend->pull(sums, job_.width);
}

// [R]: the rows of this domain where they are, those of others in the messages that brought them.
std::vector<PullSource> CombineCrossing::sources_with(const Area& area) const {
  std::vector<PullSource> sources(job_.rows.sources.begin(), job_.rows.sources.end());
  const bool is_per_token = !job_.rows.do_expand || job_.format.is_row_per_token;
  for (std::size_t rank = 0; rank < sources.size(); ++rank) {
    if (partner_to_[rank] < 0) continue;
    const Part& part = area.parts[static_cast<std::size_t>(partner_to_[rank])];
    if (part.memory == nullptr) continue;
    sources[rank] = {.x = part.memory,
                     .topk_weights = part.memory + job_.format.weights_offset(part.num_rows),
                     .is_per_token = is_per_token};
  }
  return sources;
}

// Where each of the wave's rows lies: in this domain as planned, else its place in its message. With stage S
// the owners are domains.
SendPlan CombineCrossing::plan_sums(const Area& area) const {
  SendPlan plan = slice_of(*job_.rows.plan, area.begin, area.end);
  for_crossing_pairs(
      plan, 0, plan.num_tokens, partner_to_, area.parts.size(),
      [&](std::size_t pair, int, int place) { plan.row[pair] = plan.token_slot[pair] = place; });
  std::vector<int> num_rows(area.parts.size());
  for (int token = 0; token < plan.num_tokens && !job_.format.is_row_per_token; ++token) {
    for_rows(plan, job_.rows.do_expand, token, [&](std::size_t pair) {
      const int partner = partner_to_[static_cast<std::size_t>(plan.owner[pair])];
      if (partner >= 0)
        plan.row[pair] = plan.token_slot[pair] = num_rows[static_cast<std::size_t>(partner)]++;
    });
  }
  if (reduces_domains(*job_.routes, job_.rows.allow_multiple_reduction)) name_domains(plan);
  return plan;
}

void CombineCrossing::name_domains(SendPlan& plan) const {
  const Topology& topology = job_.routes->topology;
  for (int token = 0; token < plan.num_tokens; ++token) {
    for (std::size_t pair = plan.pair(token, 0); pair < plan.pair(token + 1, 0); ++pair) {
      if (!plan.is_routed(pair)) continue;
      if (job_.routes->is_within(plan.owner[pair])) plan.token_slot[pair] = token;
      plan.owner[pair] = topology.domain_of(plan.owner[pair]);
    }
  }
  list_masters(plan, static_cast<std::size_t>(topology.num_scaleout_ranks));
}

// A message has its tokens' weights [tokens, K], in either layout.
void CombineCrossing::gather_weights(const Area& area) {
  SendPlan plan = slice_of(*job_.rows.plan, area.begin, area.end);
  for_crossing_pairs(plan, 0, plan.num_tokens, partner_to_, area.parts.size(),
                     [&](std::size_t pair, int, int place) {
                       const auto column = static_cast<int>(pair % static_cast<std::size_t>(plan.num_topk));
                       plan.token_slot[pair] = place;
                       plan.row[pair] = place * plan.num_topk + column;
                     });
  const auto sources = sources_with(area);
  PullJob weights = job_.rows;
  weights.plan = &plan;
  weights.sources = sources;
  weights.topk_weights += job_.rows.plan->pair(area.begin, 0) * weights.weight_bytes;
  job_.backend->pull_weights(weights, job_.width);
}

bool CombineCrossing::bring_wave() {
  bool has_moved = false;
  for (Slot& slot : slots_) {
    has_moved |= slot.message.advance();
    if (!slot.message.is_done() || num_waves_brought_ == carried_waves_.size()) continue;
    gather(slot, carried_waves_[num_waves_brought_++]);
    return true;
  }
  return has_moved;
}

void CombineCrossing::gather(Slot& slot, const CarriedWave& wave) {
  const CarriedTokens& carried = job_.plan->carried[wave.stream];
  const SendPlan tokens = slice_of(carried.plan, wave.begin, wave.end);
  const bool is_row_per_token = job_.format.is_row_per_token;
  const SendPlan rows = is_row_per_token ? tokens : plan_rows(tokens);
  PullJob pull = job_.rows;
  pull.plan = &rows;
  pull.bias = {};
  pull.x = slot.memory;
  pull.topk_weights = nullptr;
  job_.backend->pull(pull, job_.width);
  if (job_.rows.topk_weights != nullptr) {
    pull.plan = &tokens;
    pull.topk_weights = slot.memory + job_.format.weights_offset(rows.num_tokens);
    job_.backend->pull_weights(pull, job_.width);
  }
  slot.message.send(carried.source,
                    {slot.memory, job_.format.message_bytes(rows.num_tokens, tokens.num_tokens)});
}

// Every row by itself, as if each were a token of one column.
SendPlan CombineCrossing::plan_rows(const SendPlan& carried) const {
  SendPlan rows{.num_topk = 1};
  for (int token = 0; token < carried.num_tokens; ++token) {
    for_rows(carried, job_.rows.do_expand, token, [&](std::size_t pair) {
      ++rows.num_tokens;
      rows.owner.push_back(carried.owner[pair]);
      rows.token_slot.push_back(carried.token_slot[pair]);
      rows.row.push_back(carried.row[pair]);
    });
  }
  list_masters(rows, job_.rows.sources.size());
  return rows;
}

}  // namespace flexep
