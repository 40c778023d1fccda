// SPDX-License-Identifier: Apache-2.0
//
// Groups of some of the ranks: several domains again, or one.
#include <algorithm>
#include <cstring>
#include <map>

#include "common/check.h"
#include "flexep/error.h"
#include "transport/multi_domain/multi_domain.h"
#include "transport/shared_memory/attempt.h"

namespace flexep {
namespace {

struct Request {
  int color;
  int key;
  int rank;
  std::uint64_t name;  ///< of the messages of the group that this rank comes first in
};

// The new groups by color, each in its new order.
std::map<int, std::vector<Request>> groups_of(Gathered all) {
  std::map<int, std::vector<Request>> groups;
  for (const auto bytes : all) {
    Request request{};
    std::memcpy(&request, bytes.data(), sizeof(request));
    groups[request.color].push_back(request);
  }
  for (auto& [color, group] : groups) std::ranges::stable_sort(group, std::less(), &Request::key);
  return groups;
}

// The domains of a new group: rank = domain * size + index, as everywhere. @throws InvalidArgument.
Topology topology_of(const std::vector<Request>& group, const Topology& parent) {
  std::vector<int> num_ranks;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const bool is_same = i > 0 && parent.domain_of(group[i].rank) == parent.domain_of(group[i - 1].rank);
    if (!is_same) num_ranks.push_back(0);
    ++num_ranks.back();
  }
  std::vector<int> domains;
  for (const Request& member : group) domains.push_back(parent.domain_of(member.rank));
  std::ranges::sort(domains);
  const auto num_domains = std::unique(domains.begin(), domains.end()) - domains.begin();
  const bool is_even =
      std::ranges::adjacent_find(num_ranks, std::ranges::not_equal_to()) == num_ranks.end() &&
      std::cmp_equal(num_ranks.size(), num_domains);
  require_argument(is_even, "color",
                   "the group of color {} would have {} ranks in {} domains, but every domain must have as "
                   "many of its ranks, one domain after the other",
                   group.front().color, group.size(), num_domains);
  return {.num_scaleout_ranks = static_cast<int>(num_domains), .num_scaleup_ranks = num_ranks.front()};
}

}  // namespace

std::shared_ptr<Transport> MultiDomain::split(int color, int key) {
  const Request request{color, key, rank_, messages().draw_group_name()};
  const auto groups = groups_of(all_gather(bytes_of(request), {.name = "split"}));
  // Every rank looks at every group, so that all refuse or none.
  for (const auto& [other_color, group] : groups) topology_of(group, parts_.topology);

  const auto& group = groups.at(color);
  const Topology topology = topology_of(group, parts_.topology);
  std::vector<int> ranks;
  for (const Request& member : group) ranks.push_back(member.rank);
  const auto new_rank = std::ranges::find(ranks, rank_) - ranks.begin();
  const int domain = topology.domain_of(static_cast<int>(new_rank));
  const bool is_one_domain = topology.num_scaleout_ranks == 1;

  Parts parts = parts_;
  parts.topology = topology;
  parts.domain = domain;
  const Attempt creation([&] {
    parts.channel = channel().split(color, key, topology.rank_of(domain, 0),
                                    is_one_domain ? timeout() : channel_timeout(timeout()));
    if (!is_one_domain) parts.messages = messages().subgroup(ranks, group.front().name);
  });
  std::vector<Attempt::Report> reports(gathered_.size());
  const Gathered all = all_gather(bytes_of(creation.report()), {.name = "split"});
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    std::memcpy(&reports[rank], all[rank].data(), sizeof(reports[rank]));
  creation.require_success("split", reports);
  if (is_one_domain) return parts.channel;
  return std::make_shared<MultiDomain>(std::move(parts));
}

}  // namespace flexep
