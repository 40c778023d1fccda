// SPDX-License-Identifier: Apache-2.0
//
// Sums over the ranks below and over all: inside the domain everybody reads everybody's values; across
// domains every rail sums a part of them, in rounds that double the distance.
#include <algorithm>
#include <cstring>

#include "transport/multi_domain/multi_domain.h"
#include "transport/traffic.h"

namespace flexep {
namespace {

template <typename T>
T element(std::span<const std::byte> bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

void MultiDomain::scan_and_sum(std::span<const std::int32_t> values, std::span<std::int64_t> before,
                               std::span<std::int64_t> total, const Operation& operation) {
  require_usable(operation);
  const std::size_t num_values = values.size();
  const auto num_rails = static_cast<std::size_t>(parts_.topology.num_scaleup_ranks);
  const auto begin_of = [&](std::size_t rail) { return rail * num_values / num_rails; };
  const auto own_rail = static_cast<std::size_t>(channel().rank());
  const std::size_t begin = begin_of(own_rail);
  const std::size_t part = begin_of(own_rail + 1) - begin;

  guarded([&] {
    std::ranges::fill(before, 0);
    std::ranges::fill(total, 0);
    const auto in_domain = share(std::as_bytes(values), {}, operation);
    for (std::size_t rank = 0; rank < in_domain.size(); ++rank) {
      for (std::size_t i = 0; i < num_values; ++i) {
        const auto value = element<std::int32_t>(in_domain[rank], i);
        if (rank < own_rail) before[i] += value;
        total[i] += value;
      }
    }

    // [2, part]: sums over the domains below, sums over all.
    std::vector<std::int64_t> sums(2 * part);
    const auto lower = std::span(sums).first(part);
    const auto all = std::span(sums).subspan(part);
    std::ranges::copy(total.subspan(begin, part), all.begin());
    scan_rail(lower, all, operation);

    const auto rails = share(std::as_bytes(std::span(sums)), {}, operation);
    for (std::size_t rail = 0; rail < num_rails; ++rail) {
      const std::size_t size = begin_of(rail + 1) - begin_of(rail);
      for (std::size_t i = 0; i < size; ++i) {
        before[begin_of(rail) + i] += element<std::int64_t>(rails[rail], i);
        total[begin_of(rail) + i] = element<std::int64_t>(rails[rail], size + i);
      }
    }
  });
}

// `total` comes as this domain's own sums.
void MultiDomain::scan_rail(std::span<std::int64_t> before, std::span<std::int64_t> total,
                            const Operation& operation) {
  const int num_domains = parts_.topology.num_scaleout_ranks;
  std::vector<std::int64_t> received(total.size());
  // After each round `total` sums over as many domains, up to this one, as the next round's distance.
  for (int distance = 1; distance < num_domains; distance *= 2) {
    PlainTraffic round(messages());
    const bool receives = parts_.domain >= distance;
    if (receives)
      round.receive(rail_rank(parts_.domain - distance), std::as_writable_bytes(std::span(received)));
    if (parts_.domain + distance < num_domains)
      round.send(rail_rank(parts_.domain + distance), std::as_bytes(total));
    drive(round, operation);
    for (std::size_t i = 0; receives && i < total.size(); ++i) {
      before[i] += received[i];
      total[i] += received[i];
    }
  }
  pass_from_last(total, operation);
}

// The last domain has the sums over all. Who has them doubles with each round.
void MultiDomain::pass_from_last(std::span<std::int64_t> values, const Operation& operation) {
  const int num_domains = parts_.topology.num_scaleout_ranks;
  const int place = num_domains - 1 - parts_.domain;
  for (int num_holders = 1; num_holders < num_domains; num_holders *= 2) {
    PlainTraffic round(messages());
    if (place < num_holders && place + num_holders < num_domains)
      round.send(rail_rank(parts_.domain - num_holders), std::as_bytes(values));
    if (place >= num_holders && place < 2 * num_holders)
      round.receive(rail_rank(parts_.domain + num_holders), std::as_writable_bytes(values));
    drive(round, operation);
  }
}

}  // namespace flexep
