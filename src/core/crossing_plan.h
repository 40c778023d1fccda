// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/routes.h"
#include "routing/count_summary.h"
#include "routing/routing_counts.h"
#include "routing/routing_shape.h"
#include "routing/send_plan.h"
#include "transport/transport.h"

namespace flexep {

/// This rank's tokens that a partner carries to their places.
struct SentTokens {
  int partner = 0;
  std::vector<std::int32_t> tokens;  ///< ascending
};

/// Another rank's tokens that this one carries to their places, and where these are.
struct CarriedTokens {
  int source = 0;
  std::vector<std::int32_t> tokens;  ///< as the source numbers them, ascending
  SendPlan plan;                     ///< [tokens, K]; pairs that others carry, or nobody, are not routed
};

/// What a dispatch across domains leaves on one rank: everything that rows need to cross, there and back.
struct CrossingPlan {
  SendPlan within;                     ///< this rank's pairs inside its domain; the others are not routed
  std::vector<SentTokens> sent;        ///< by Routes::partners(1)
  std::vector<CarriedTokens> carried;  ///< by Routes::partners(-1)
  /// [R], of all that is carried: tokens and pairs of each rank of this domain.
  std::vector<std::int32_t> num_carried_tokens_per_rank;
  std::vector<std::int32_t> num_carried_pairs_per_rank;
};

/// Which tokens cross to whom. Cost: one pass over the ids.
std::vector<SentTokens> list_crossing_tokens(const TopkIds& topk_idx, const RoutingShape& shape,
                                             const Routes& routes);

/// What all ranks send, without everybody's counts, and how many tokens this one is to carry for whom.
struct CrossingCounts {
  CountSummary counts;
  std::vector<std::int32_t> num_carried;  ///< [R]
};

/// Collective. Cost: two sums over vectors of R + E ints, and 2 ints between any two ranks.
CrossingCounts count_across_domains(Transport& transport, const RoutingCounts& own,
                                    const std::vector<SentTokens>& sent, std::uint64_t sequence_number);

/// Tells each partner where this rank's tokens go. Collective.
/// @param send  this rank's whole plan.
CrossingPlan exchange_plans(Transport& transport, const Routes& routes, const SendPlan& send,
                            std::vector<SentTokens> sent, std::span<const std::int32_t> num_carried,
                            std::uint64_t sequence_number);
/// The same of ranks of which none sends anything. Not collective.
CrossingPlan route_nothing_across(const Routes& routes, const SendPlan& send);

/// Pairs whose experts live in other domains.
std::int64_t num_pairs_across(const SendPlan& send, const Routes& routes);

/// Fills in the masters of a plan whose owners, in [0, num_owners), are there.
void list_masters(SendPlan& plan, std::size_t num_owners);

/// Calls body(pair) for the pairs of `token` for which an owner has a row.
template <typename Body>
void for_rows(const SendPlan& plan, bool do_expand, int token, Body body) {
  if (do_expand) {
    for (std::size_t pair = plan.pair(token, 0); pair < plan.pair(token + 1, 0); ++pair) {
      if (plan.is_routed(pair)) body(pair);
    }
  } else {
    for (const std::int64_t master : plan.masters_of(token)) body(static_cast<std::size_t>(master));
  }
}

/// Calls body(pair, partner, place) for those pairs of tokens [begin, end) that cross, in their order;
/// `place` is the token's among the tokens of this range that the partner carries, as a message holds them.
/// @param partner_to  Routes::partner_to()
/// @return [num_partners], tokens of the range that each partner carries.
template <typename Body>
std::vector<int> for_crossing_pairs(const SendPlan& plan, int begin, int end, std::span<const int> partner_to,
                                    std::size_t num_partners, Body body) {
  std::vector<int> num_tokens(num_partners);
  std::vector<int> last_token(num_partners, -1);
  for (int token = begin; token < end; ++token) {
    for (std::size_t pair = plan.pair(token, 0); pair < plan.pair(token + 1, 0); ++pair) {
      if (!plan.is_routed(pair)) continue;
      const int partner = partner_to[static_cast<std::size_t>(plan.owner[pair])];
      if (partner < 0) continue;
      const auto p = static_cast<std::size_t>(partner);
      num_tokens[p] += last_token[p] != token;
      last_token[p] = token;
      body(pair, partner, num_tokens[p] - 1);
    }
  }
  return num_tokens;
}

/// The plan of tokens [begin, end) alone. Numbers of rows stay those of the whole.
SendPlan slice_of(const SendPlan& plan, int begin, int end);

}  // namespace flexep
