// SPDX-License-Identifier: Apache-2.0
#include "core/crossing_plan.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "transport/traffic.h"

namespace flexep {
namespace {

/// A plan on its way to a carrier, for n tokens:
///
///   token [n] | owner [n, K] | token_slot [n, K] | row [n, K], int32
std::size_t message_bytes(std::size_t num_tokens, int num_topk) {
  return num_tokens * (1 + 3 * static_cast<std::size_t>(num_topk)) * sizeof(std::int32_t);
}

/// Goes through the parts of a message in order.
class Parts {
 public:
  explicit Parts(std::span<std::byte> message) : rest_(message.data()) {}

  void write(const std::vector<std::int32_t>& values) {
    std::ranges::copy(std::as_bytes(std::span(values)), rest_);
    rest_ += values.size() * sizeof(values[0]);
  }
  void read(std::vector<std::int32_t>& values, std::size_t size) {
    values.resize(size);
    std::copy_n(rest_, size * sizeof(values[0]), std::as_writable_bytes(std::span(values)).begin());
    rest_ += size * sizeof(values[0]);
  }

 private:
  std::byte* rest_;
};

SendPlan unrouted(int num_tokens, int num_topk, std::size_t num_ranks) {
  SendPlan plan{.num_tokens = num_tokens, .num_topk = num_topk};
  const std::size_t num_pairs = plan.pair(num_tokens, 0);
  plan.owner.assign(num_pairs, -1);
  plan.token_slot.resize(num_pairs);
  plan.row.resize(num_pairs);
  plan.num_tokens_per_rank.resize(num_ranks);
  plan.num_pairs_per_rank.resize(num_ranks);
  plan.num_rows_per_rank.resize(num_ranks);
  return plan;
}

void copy_pair(const SendPlan& from, std::size_t from_pair, SendPlan& to, std::size_t to_pair) {
  to.owner[to_pair] = from.owner[from_pair];
  to.token_slot[to_pair] = from.token_slot[from_pair];
  to.row[to_pair] = from.row[from_pair];
}

SendPlan plan_within(const SendPlan& send, const Routes& routes) {
  SendPlan plan = unrouted(send.num_tokens, send.num_topk, send.num_rows_per_rank.size());
  for (std::size_t pair = 0; pair < send.owner.size(); ++pair) {
    if (send.is_routed(pair) && routes.is_within(send.owner[pair])) copy_pair(send, pair, plan, pair);
  }
  list_masters(plan, send.num_rows_per_rank.size());
  for (std::size_t rank = 0; rank < send.num_rows_per_rank.size(); ++rank) {
    if (!routes.is_within(static_cast<int>(rank))) continue;
    plan.num_tokens_per_rank[rank] = send.num_tokens_per_rank[rank];
    plan.num_pairs_per_rank[rank] = send.num_pairs_per_rank[rank];
    plan.num_rows_per_rank[rank] = send.num_rows_per_rank[rank];
  }
  return plan;
}

std::vector<std::byte> compose(const SentTokens& sent, std::size_t partner, const SendPlan& send,
                               const std::vector<int>& partner_to) {
  SendPlan plan = unrouted(static_cast<int>(sent.tokens.size()), send.num_topk, 0);
  for (std::size_t i = 0; i < sent.tokens.size(); ++i) {
    for (int column = 0; column < send.num_topk; ++column) {
      const std::size_t pair = send.pair(sent.tokens[i], column);
      if (!send.is_routed(pair)) continue;
      if (std::cmp_not_equal(partner_to[static_cast<std::size_t>(send.owner[pair])], partner)) continue;
      copy_pair(send, pair, plan, plan.pair(static_cast<int>(i), column));
    }
  }
  std::vector<std::byte> message(message_bytes(sent.tokens.size(), send.num_topk));
  Parts parts(message);
  parts.write(sent.tokens);
  parts.write(plan.owner);
  parts.write(plan.token_slot);
  parts.write(plan.row);
  return message;
}

CarriedTokens carried_in(std::span<std::byte> message, int source, std::size_t num_tokens, int num_topk,
                         std::size_t num_ranks) {
  CarriedTokens carried{.source = source,
                        .tokens = {},
                        .plan = {.num_tokens = static_cast<int>(num_tokens), .num_topk = num_topk}};
  const std::size_t num_pairs = num_tokens * static_cast<std::size_t>(num_topk);
  Parts parts(message);
  parts.read(carried.tokens, num_tokens);
  parts.read(carried.plan.owner, num_pairs);
  parts.read(carried.plan.token_slot, num_pairs);
  parts.read(carried.plan.row, num_pairs);
  list_masters(carried.plan, num_ranks);
  return carried;
}

void count_carried(CrossingPlan& plan, std::size_t num_ranks) {
  plan.num_carried_tokens_per_rank.assign(num_ranks, 0);
  plan.num_carried_pairs_per_rank.assign(num_ranks, 0);
  for (const CarriedTokens& carried : plan.carried) {
    for (const std::int32_t owner : carried.plan.owner) {
      if (owner >= 0) ++plan.num_carried_pairs_per_rank[static_cast<std::size_t>(owner)];
    }
    for (const std::int64_t master : carried.plan.masters) {
      const std::int32_t owner = carried.plan.owner[static_cast<std::size_t>(master)];
      ++plan.num_carried_tokens_per_rank[static_cast<std::size_t>(owner)];
    }
  }
}

}  // namespace

std::vector<SentTokens> list_crossing_tokens(const TopkIds& topk_idx, const RoutingShape& shape,
                                             const Routes& routes) {
  std::vector<SentTokens> sent;
  for (const int partner : routes.partners(1)) sent.push_back({.partner = partner, .tokens = {}});
  const auto partner_to = routes.partner_to();
  const ExpertOwners owners(shape);
  for (int token = 0; token < topk_idx.num_tokens; ++token) {
    for (const std::int64_t expert : topk_idx.of(token)) {
      if (expert < 0) continue;
      const auto owner = static_cast<std::size_t>(owners[expert]);
      if (partner_to[owner] < 0) continue;
      auto& tokens = sent[static_cast<std::size_t>(partner_to[owner])].tokens;
      if (tokens.empty() || tokens.back() != token) tokens.push_back(token);
    }
  }
  return sent;
}

CrossingCounts count_across_domains(Transport& transport, const RoutingCounts& own,
                                    const std::vector<SentTokens>& sent, std::uint64_t sequence_number) {
  const auto num_ranks = static_cast<std::size_t>(transport.num_ranks());
  const auto block = own.block();
  CrossingCounts result;
  result.counts.own.assign(block.begin(), block.end());
  result.counts.before.resize(block.size());
  result.counts.total.resize(block.size());
  transport.scan_and_sum(block, result.counts.before, result.counts.total,
                         {"dispatch: counts", sequence_number});

  // For each rank: the tokens that it receives from this one, and those that it carries.
  std::vector<std::int32_t> told(2 * num_ranks);
  for (std::size_t rank = 0; rank < num_ranks; ++rank) told[2 * rank] = block[rank];
  for (const SentTokens& each : sent)
    told[2 * static_cast<std::size_t>(each.partner) + 1] = static_cast<std::int32_t>(each.tokens.size());
  std::vector<std::int32_t> heard(2 * num_ranks);
  transport.transpose(told, heard, {"dispatch: counts", sequence_number});
  for (std::size_t rank = 0; rank < num_ranks; ++rank) {
    result.counts.received.push_back(heard[2 * rank]);
    result.num_carried.push_back(heard[2 * rank + 1]);
  }
  return result;
}

CrossingPlan exchange_plans(Transport& transport, const Routes& routes, const SendPlan& send,
                            std::vector<SentTokens> sent, std::span<const std::int32_t> num_carried,
                            std::uint64_t sequence_number) {
  CrossingPlan plan{.within = plan_within(send, routes), .sent = std::move(sent)};
  const auto partner_to = routes.partner_to();
  const auto sources = routes.partners(-1);
  const auto num_from = [&](int source) {
    return static_cast<std::size_t>(num_carried[static_cast<std::size_t>(source)]);
  };
  std::vector<std::vector<std::byte>> outgoing;
  std::vector<std::vector<std::byte>> incoming;
  for (std::size_t i = 0; i < plan.sent.size(); ++i)
    outgoing.push_back(compose(plan.sent[i], i, send, partner_to));
  for (const int source : sources) incoming.emplace_back(message_bytes(num_from(source), send.num_topk));

  PlainTraffic traffic(transport.messages());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    if (!incoming[i].empty()) traffic.receive(sources[i], incoming[i]);
  }
  for (std::size_t i = 0; i < plan.sent.size(); ++i) {
    if (!outgoing[i].empty()) traffic.send(plan.sent[i].partner, outgoing[i]);
  }
  transport.settle(traffic, {"dispatch: plans", sequence_number});

  const std::size_t num_ranks = send.num_rows_per_rank.size();
  for (std::size_t i = 0; i < sources.size(); ++i) {
    plan.carried.push_back(
        carried_in(incoming[i], sources[i], num_from(sources[i]), send.num_topk, num_ranks));
  }
  count_carried(plan, num_ranks);
  return plan;
}

CrossingPlan route_nothing_across(const Routes& routes, const SendPlan& send) {
  CrossingPlan plan{.within = send};
  for (const int partner : routes.partners(1)) plan.sent.push_back({.partner = partner, .tokens = {}});
  for (const int source : routes.partners(-1)) {
    SendPlan nothing = unrouted(0, send.num_topk, 0);
    list_masters(nothing, 0);
    plan.carried.push_back({.source = source, .tokens = {}, .plan = nothing});
  }
  count_carried(plan, send.num_rows_per_rank.size());
  return plan;
}

std::int64_t num_pairs_across(const SendPlan& send, const Routes& routes) {
  std::int64_t num_pairs = 0;
  for (std::size_t rank = 0; rank < send.num_pairs_per_rank.size(); ++rank) {
    if (!routes.is_within(static_cast<int>(rank))) num_pairs += send.num_pairs_per_rank[rank];
  }
  return num_pairs;
}

void list_masters(SendPlan& plan, std::size_t num_owners) {
  plan.masters.resize(plan.owner.size());
  plan.master_begin.assign(1, 0);
  // By owner, from -1 on. Written without a branch on owners, which are random.
  std::vector<std::size_t> last_pair(num_owners + 1);
  const auto last_of_owner = [&](std::size_t pair) -> std::size_t& {
    return last_pair[static_cast<std::size_t>(plan.owner[pair] + 1)];
  };
  std::size_t num_masters = 0;
  for (int token = 0; token < plan.num_tokens; ++token) {
    const std::size_t begin = plan.pair(token, 0);
    const std::size_t end = plan.pair(token + 1, 0);
    for (std::size_t pair = begin; pair < end; ++pair) last_of_owner(pair) = pair;
    for (std::size_t pair = begin; pair < end; ++pair) {
      plan.masters[num_masters] = static_cast<std::int64_t>(pair);
      num_masters += static_cast<std::size_t>(plan.is_routed(pair)) &
                     static_cast<std::size_t>(last_of_owner(pair) == pair);
    }
    plan.master_begin.push_back(static_cast<std::int64_t>(num_masters));
  }
  plan.masters.resize(num_masters);
}

SendPlan slice_of(const SendPlan& plan, int begin, int end) {
  const auto cut = [](const auto& values, std::int64_t from, std::int64_t to) {
    return std::decay_t<decltype(values)>(values.begin() + from, values.begin() + to);
  };
  const auto first = static_cast<std::int64_t>(plan.pair(begin, 0));
  const auto last = static_cast<std::int64_t>(plan.pair(end, 0));
  SendPlan slice{.num_tokens = end - begin,
                 .num_topk = plan.num_topk,
                 .owner = cut(plan.owner, first, last),
                 .token_slot = cut(plan.token_slot, first, last),
                 .row = cut(plan.row, first, last),
                 .masters = {},
                 .master_begin = cut(plan.master_begin, begin, end + 1),
                 .num_tokens_per_rank = plan.num_tokens_per_rank,
                 .num_pairs_per_rank = plan.num_pairs_per_rank,
                 .num_rows_per_rank = plan.num_rows_per_rank};
  const std::int64_t first_master = slice.master_begin.front();
  slice.masters = cut(plan.masters, first_master, slice.master_begin.back());
  for (std::int64_t& master : slice.masters) master -= first;
  for (std::int64_t& index : slice.master_begin) index -= first_master;
  return slice;
}

}  // namespace flexep
