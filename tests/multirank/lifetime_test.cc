// SPDX-License-Identifier: Apache-2.0
//
// What groups and buffers leave behind in a process: nothing.
#include <gtest/gtest.h>

#include "flexep/flexep.h"
#include "support/footprint.h"

namespace flexep {
namespace {

TEST(LifetimeTest, ThousandGroupsAndBuffersLeaveNoMappingDescriptorOrThread) {
  const auto cycle = [] {
    in_process(2, [](Communicator& comm) {
      ElasticBuffer buffer(comm);
      DispatchArgs args;
      args.x = Tensor::zeros({4, 64}, DType::kFloat32);
      args.topk_idx = Tensor::zeros({4, 1}, DType::kInt64);
      args.num_experts = 2;
      args.async_with_compute_stream = true;  // starts the communication thread
      const auto recv = buffer.dispatch(args);
      recv.event.wait();
      buffer.combine({.x = recv.x, .handle = recv.handle});
    });
  };
  // What the C library keeps for the next threads, it has after some.
  for (int i = 0; i < 50; ++i) cycle();
  const auto before = test::Footprint::now();
  for (int i = 0; i < 1000; ++i) cycle();
  test::expect_no_more_than(before);
}

}  // namespace
}  // namespace flexep
