// SPDX-License-Identifier: Apache-2.0
//
// Dispatch without host sync between processes; what its rows are, tests/multirank/no_sync_test.cc says.
#include <gtest/gtest.h>

#include <algorithm>

#include "flexep/flexep.h"
#include "job.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

constexpr int kNumRanks = 3;
constexpr int kMaxTokens = 200;
constexpr int kHidden = 64;

// Each token to two of three experts, which live on three ranks: the round trip doubles it.
DispatchArgs args_for(int rank, int num_tokens) {
  const Tensor x = Tensor::empty({num_tokens, kHidden}, DType::kFloat32);
  const Tensor topk_idx = Tensor::empty({num_tokens, 2}, DType::kInt64);
  for (int i = 0; i < num_tokens * kHidden; ++i) x.data<float>()[i] = static_cast<float>(1000 * rank + i);
  for (int token = 0; token < num_tokens; ++token) {
    topk_idx.data<std::int64_t>()[2 * token] = (token + rank) % kNumRanks;
    topk_idx.data<std::int64_t>()[2 * token + 1] = (token + rank + 1) % kNumRanks;
  }
  return {.x = x, .topk_idx = topk_idx, .num_experts = kNumRanks, .do_cpu_sync = false};
}

bool is_multiple(const Tensor& out, const Tensor& x, float factor) {
  return std::ranges::equal(out.values<float>(), x.values<float>(),
                            [&](float sum, float value) { return sum == factor * value; });
}

CombineResult round_trip(ElasticBuffer& buffer, DispatchArgs args) {
  args.async_with_compute_stream = true;
  const auto recv = buffer.dispatch(args);
  // Nothing is waited for between the two.
  auto out = buffer.combine({.x = recv.x, .handle = recv.handle, .async_with_compute_stream = true});
  out.event.wait();
  return out;
}

TEST(NoSyncShmTest, ProcessesExchangeRowsWithoutWaitingForCounts) {
  Processes processes(job_id("no_sync"), kNumRanks, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm, {.num_max_tokens_per_rank = kMaxTokens});
    bool ok = true;
    for (const int num_tokens : {0, 1, 7, 60, 200}) {
      for (const bool do_expand : {false, true}) {
        DispatchArgs args = args_for(rank, rank == 1 ? num_tokens / 2 : num_tokens);
        args.do_expand = do_expand;
        ok = ok && is_multiple(round_trip(buffer, args).x, args.x, 2);
      }
    }
    buffer.check();
    return ok ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, kNumRanks), 0);
}

TEST(NoSyncShmTest, BadIdsReachTheOtherProcessesLater) {
  Processes processes(job_id("no_sync_errors"), kNumRanks, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm, {.num_max_tokens_per_rank = kMaxTokens});
    DispatchArgs args = args_for(rank, 9);
    if (rank == 1) args.topk_idx.data<std::int64_t>()[3] = kNumRanks;
    bool ok = is_multiple(round_trip(buffer, args).x, args.x, 0);
    try {
      buffer.check();
      ok = false;
    } catch (const InvalidArgument& error) {
      ok = ok && rank == 1 && error.argument() == "topk_idx";
    } catch (const PeerError& error) {
      ok = ok && rank != 1 && error.rank() == 1;
    }
    args = args_for(rank, 9);
    return ok && is_multiple(round_trip(buffer, args).x, args.x, 2) ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, kNumRanks), 0);
}

}  // namespace
}  // namespace flexep
