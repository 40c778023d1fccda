// SPDX-License-Identifier: Apache-2.0
//
// What groups and buffers of processes leave behind: nothing.
#include <gtest/gtest.h>

#include "flexep/flexep.h"
#include "job.h"
#include "support/footprint.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

TEST(ShmLifetimeTest, ThousandGroupsAndBuffersLeaveNoMappingDescriptorOrThread) {
  Processes processes(job_id("lifetime"), 2, [](int) {
    const auto cycle = [](int i) {
      const Communicator comm = Communicator::from_environment({.timeout = 60s});
      ElasticBuffer buffer(comm);
      if (i % 10 != 0) return;  // arenas are memory to zero
      DispatchArgs args;
      args.x = Tensor::zeros({4, 64}, DType::kFloat32);
      args.topk_idx = Tensor::zeros({4, 1}, DType::kInt64);
      args.num_experts = 2;
      const auto recv = buffer.dispatch(args);
      buffer.combine({.x = recv.x, .handle = recv.handle});
    };
    for (int i = 0; i < 20; ++i) cycle(i);
    const auto before = test::Footprint::now();
    for (int i = 0; i < 1000; ++i) cycle(i);
    test::expect_no_more_than(before);
    return testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

}  // namespace
}  // namespace flexep
