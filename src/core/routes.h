// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "transport/transport.h"

namespace flexep {

/// Which way rows take between this rank and the ranks of other domains. A row that crosses is brought to its
/// final places by a carrier in the other domain: in hybrid mode the rank with this rank's scale-up index, so
/// that a token crosses once for each domain; in direct mode each destination itself.
struct Routes {
  Topology topology;
  int rank = 0;
  bool is_hybrid = true;

  bool cross_domains() const { return topology.num_scaleout_ranks > 1; }
  bool is_within(int other) const { return topology.domain_of(other) == topology.domain_of(rank); }
  /// Whether a plan that one made serves the other.
  bool are_those_of(const Routes& other) const {
    if (!cross_domains()) return !other.cross_domains();
    return topology == other.topology && is_hybrid == other.is_hybrid;
  }
  int num_ranks() const { return topology.num_scaleout_ranks * topology.num_scaleup_ranks; }

  /// The ranks that carry for this one, and those that it carries for: the same ones. Nearest first: from the
  /// domain after (direction 1) or before (-1) this rank's on, so that nobody is everyone's first.
  std::vector<int> partners(int direction) const {
    std::vector<int> ranks;
    const auto [num_domains, num_scaleup_ranks] = topology;
    const int index = topology.scaleup_rank_of(rank);
    for (int i = 1; i < num_domains; ++i) {
      const int domain = (topology.domain_of(rank) + direction * i + num_domains) % num_domains;
      for (int j = 0; j < (is_hybrid ? 1 : num_scaleup_ranks); ++j)
        ranks.push_back(
            topology.rank_of(domain, (index + direction * j + num_scaleup_ranks) % num_scaleup_ranks));
    }
    return ranks;
  }

  /// [R], the place among partners(1) of the one that carries this rank's rows to each rank; -1 inside the
  /// domain.
  std::vector<int> partner_to() const {
    const std::vector<int> all = partners(1);
    std::vector<int> places(static_cast<std::size_t>(num_ranks()), -1);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const int first = is_hybrid ? topology.rank_of(topology.domain_of(all[i]), 0) : all[i];
      for (int j = 0; j < (is_hybrid ? topology.num_scaleup_ranks : 1); ++j)
        places[static_cast<std::size_t>(first + j)] = static_cast<int>(i);
    }
    return places;
  }
};

}  // namespace flexep
