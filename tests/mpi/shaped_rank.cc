// SPDX-License-Identifier: Apache-2.0
//
// mpi_shaped_rank <hybrid | direct> <tokens>: a rank behind a slow cable. Rank 0 says what each of some
// dispatches and combines took, and what it moved, in lines of
//
//   <operation> <seconds> <bytes of rows between domains> <bytes on the cables>
//
// Bytes are those of one direction, summed over all machines.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "cable.h"
#include "flexep/flexep.h"

namespace {

using flexep::Tensor;
using flexep::testing::num_bytes_sent_from_machine_of;

constexpr int kNumExperts = 64;
constexpr int kNumTopk = 8;
constexpr int kHidden = 7168;

Tensor draw_topk_idx(int num_tokens, int rank) {
  std::mt19937 random(static_cast<unsigned>(rank) + 1);
  std::vector<std::int64_t> experts(kNumExperts);
  std::iota(experts.begin(), experts.end(), 0);
  std::vector<std::int64_t> ids;
  for (int token = 0; token < num_tokens; ++token) {
    std::ranges::shuffle(experts, random);
    ids.insert(ids.end(), experts.begin(), experts.begin() + kNumTopk);
  }
  return Tensor::from_values<std::int64_t>(ids, {num_tokens, kNumTopk});
}

struct Measured {
  double secs = 0;
  std::int64_t scaleout_bytes = 0;
  std::int64_t cable_bytes = 0;
};

/// Runs an operation on all ranks. @param counted  its bytes on this rank, afterwards.
template <typename Body, typename Counted>
Measured measure(flexep::Communicator& comm, bool is_first_of_machine, Body body, Counted counted) {
  comm.barrier();
  const std::int64_t sent_before = num_bytes_sent_from_machine_of("self");
  const auto begin = std::chrono::steady_clock::now();
  body();
  const std::chrono::duration<double> secs = std::chrono::steady_clock::now() - begin;
  comm.barrier();  // all bytes are out
  Measured mine{.secs = secs.count(), .scaleout_bytes = counted()};
  if (is_first_of_machine) mine.cable_bytes = num_bytes_sent_from_machine_of("self") - sent_before;

  Measured all;
  for (const Measured& rank : comm.all_gather(mine)) {
    all.secs = std::max(all.secs, rank.secs);
    all.scaleout_bytes += rank.scaleout_bytes;
    all.cable_bytes += rank.cable_bytes;
  }
  return all;
}

void report(const flexep::Communicator& comm, std::string_view operation, const Measured& measured) {
  if (comm.rank() != 0) return;
  std::cout << operation << ' ' << measured.secs << ' ' << measured.scaleout_bytes << ' '
            << measured.cable_bytes << std::endl;
}

void run(bool is_hybrid, int num_tokens) {
  using namespace std::chrono_literals;
  auto comm = flexep::Communicator::from_environment({.timeout = 60s});
  flexep::ElasticBuffer buffer(comm, {.network = {.allow_hybrid_mode = is_hybrid}});
  const bool is_first = comm.rank() % buffer.get_physical_domain_size().num_scaleup_ranks == 0;
  const Tensor x = Tensor::zeros({num_tokens, kHidden}, flexep::DType::kBFloat16);
  const Tensor topk_idx = draw_topk_idx(num_tokens, comm.rank());
  const flexep::DispatchArgs args{.x = x, .topk_idx = topk_idx, .num_experts = kNumExperts};

  // The first round makes connections and touches memory for the first time.
  for (int round = 0; round < 3; ++round) {
    flexep::DispatchResult recv;
    const Measured dispatch = measure(
        comm, is_first, [&] { recv = buffer.dispatch(args); },
        [&] { return buffer.counters().last_dispatch.bytes_scaleout; });
    const Measured combine = measure(
        comm, is_first, [&] { buffer.combine({.x = recv.x, .handle = recv.handle}); },
        [&] { return buffer.counters().last_combine.bytes_scaleout; });
    report(comm, "dispatch", dispatch);
    report(comm, "combine", combine);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(std::string_view(argv[1]) == "hybrid", std::stoi(argv[argc - 1]));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
