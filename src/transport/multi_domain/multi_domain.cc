// SPDX-License-Identifier: Apache-2.0
#include "transport/multi_domain/multi_domain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "common/math.h"
#include "flexep/error.h"
#include "transport/different_operations.h"
#include "transport/multi_domain/rail_gather.h"
#include "transport/shm/socket.h"

namespace flexep {
namespace {

// Records lie at multiples of this, so that what ranks say can be read where it is.
constexpr std::size_t kAlignment = 8;

// As in a domain: with more ranks than cores a spinning waiter only keeps the awaited one from running.
int choose_num_spins(int num_local_ranks) {
  return num_local_ranks <= static_cast<int>(std::thread::hardware_concurrency()) ? 1000 : 0;
}

}  // namespace

MultiDomain::MultiDomain(Parts parts)
    : parts_(std::move(parts)),
      rank_(parts_.topology.rank_of(parts_.domain, parts_.channel->rank())),
      num_spins_(choose_num_spins(parts_.num_local_ranks)),
      gathered_(static_cast<std::size_t>(MultiDomain::num_ranks())),
      called_(gathered_.size()),
      rail_wait_ns_(gathered_.size()),
      wait_ns_(gathered_.size()) {}

MultiDomain::~MultiDomain() {
  MultiDomain::leave();
}

Gathered MultiDomain::all_gather(std::span<const std::byte> mine, const Operation& requested) {
  ++num_gathers_;
  const Operation operation{requested.name,
                            requested.sequence_number == 0 ? num_gathers_ : requested.sequence_number};
  require_usable(operation);
  const auto num_domains = static_cast<std::size_t>(parts_.topology.num_scaleout_ranks);
  guarded([&] {
    RailGather rail(messages(), parts_.topology, rank_, RailRecord::compose(mine, operation));
    drive(rail, operation);
    std::vector<std::byte> records;
    for (const auto& record : rail.records()) {
      records.insert(records.end(), record.begin(), record.end());
      records.resize(align_up(records.size(), kAlignment));
    }
    const auto all = share(records, {}, operation);
    for (std::size_t scaleup_rank = 0; scaleup_rank < all.size(); ++scaleup_rank) {
      auto rest = all[scaleup_rank];
      for (std::size_t domain = 0; domain < num_domains; ++domain) {
        const RailRecord record(rest);
        const std::size_t rank = domain * all.size() + scaleup_rank;
        gathered_[rank] = record.bytes;
        called_[rank] = record.describe();
        rest = rest.subspan(align_up(
            std::max(sizeof(record.head) + record.bytes.size(), RailGather::kFrameBytes), kAlignment));
      }
    }
  });
  require_same_operation();
  return gathered_;
}

void MultiDomain::require_same_operation() {
  if (std::ranges::adjacent_find(called_, std::ranges::not_equal_to()) == called_.end()) return;
  throw_different_operations(called_);
}

void MultiDomain::transpose(std::span<const std::int32_t> values, std::span<std::int32_t> received,
                            const Operation& operation) {
  require_usable(operation);
  const int num_domains = parts_.topology.num_scaleout_ranks;
  const std::size_t num_values = received.size() / gathered_.size();
  const std::size_t domain_values = num_values * static_cast<std::size_t>(parts_.topology.num_scaleup_ranks);
  // What a rank of this rail has for the ranks of this domain, by that rank's domain.
  std::vector<std::int32_t> for_domain(values.size());
  const auto part = [&](auto& all, int domain) {
    return std::span(all).subspan(static_cast<std::size_t>(domain) * domain_values, domain_values);
  };
  guarded([&] {
    PlainTraffic swap(messages());
    std::ranges::copy(part(values, parts_.domain), part(for_domain, parts_.domain).begin());
    for (int i = 1; i < num_domains; ++i) {
      const int domain = (parts_.domain + i) % num_domains;
      swap.receive(rail_rank(domain), std::as_writable_bytes(part(for_domain, domain)));
      swap.send(rail_rank(domain), std::as_bytes(part(values, domain)));
    }
    drive(swap, operation);
    const auto all = share(std::as_bytes(std::span(for_domain)), {}, operation);
    for (std::size_t rank = 0; rank < gathered_.size(); ++rank) {
      const auto& rail = all[rank % all.size()];
      const std::size_t first =
          rank / all.size() * domain_values + static_cast<std::size_t>(channel().rank()) * num_values;
      std::memcpy(received.data() + rank * num_values, rail.data() + first * sizeof(std::int32_t),
                  num_values * sizeof(std::int32_t));
    }
  });
}

// A block of the domain's gathers: the ranks that its writer misses, and what it says.
std::vector<std::span<const std::byte>> MultiDomain::share(std::span<const std::byte> mine,
                                                           std::span<const int> missing,
                                                           const Operation& operation) {
  const auto begin_of = [](std::uint64_t num_missing) {
    return align_up(sizeof(num_missing) + num_missing * sizeof(int), kAlignment);
  };
  const std::uint64_t num_missing = missing.size();
  outgoing_.assign(begin_of(num_missing) + mine.size(), std::byte{0});
  std::memcpy(outgoing_.data(), &num_missing, sizeof(num_missing));
  std::ranges::copy(std::as_bytes(missing), outgoing_.begin() + sizeof(num_missing));
  std::ranges::copy(mine, outgoing_.end() - static_cast<std::ptrdiff_t>(mine.size()));

  std::vector<int> all_missing;
  std::vector<std::span<const std::byte>> all;
  for (const auto block : channel().gather(outgoing_, operation)) {
    std::uint64_t count = 0;
    std::memcpy(&count, block.data(), sizeof(count));
    for (std::uint64_t i = 0; i < count; ++i) {
      int rank = 0;
      std::memcpy(&rank, block.data() + sizeof(count) + i * sizeof(rank), sizeof(rank));
      all_missing.push_back(rank);
    }
    all.push_back(block.subspan(begin_of(count)));
  }
  if (!all_missing.empty()) throw_missing(std::move(all_missing), operation);
  return all;
}

std::span<const std::int64_t> MultiDomain::wait_ns() const {
  wait_ns_ = rail_wait_ns_;
  const auto in_domain = channel().wait_ns();
  const auto first = static_cast<std::size_t>(parts_.topology.rank_of(parts_.domain, 0));
  for (std::size_t i = 0; i < in_domain.size(); ++i) wait_ns_[first + i] += in_domain[i];
  return wait_ns_;
}

int MultiDomain::domain_rank(int rank) const {
  if (parts_.topology.domain_of(rank) != parts_.domain) {
    throw TransportError(
        fmt::format("rank {} shares no memory with rank {}: they are of different domains", rank, rank_));
  }
  return parts_.topology.scaleup_rank_of(rank);
}

std::shared_ptr<std::byte> MultiDomain::map_segment(int rank, SegmentId id) {
  return channel().map_segment(domain_rank(rank), id);
}

SegmentId MultiDomain::pass_file(const FileDescriptor& file, std::size_t num_bytes) {
  return channel().pass_file(file, num_bytes);
}
FileDescriptor MultiDomain::take_file(int rank, SegmentId id) {
  return channel().take_file(domain_rank(rank), id);
}

std::shared_ptr<Transport> MultiDomain::rebuild(std::chrono::milliseconds) {
  throw TransportError("a group of several domains cannot be rebuilt: its ranks have to be started again");
}

}  // namespace flexep
