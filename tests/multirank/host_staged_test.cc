// SPDX-License-Identifier: Apache-2.0
//
// Buffers of a device across domains, whose rows go by way of the host's memory: held against a buffer of the
// host, which the conformance tests hold against the reference. The device is one of threads.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <future>
#include <numeric>
#include <thread>

#include "core/buffer_engine.h"
#include "core/dispatch_state.h"
#include "flexep/error.h"
#include "multirank/delayed_device.h"

/// For the thread sanitizer: that an exception which two threads hold is destroyed by the last of them is
/// seen to by a count in libstdc++.so, which is not compiled with the sanitizer.
extern "C" const char* __tsan_default_suppressions() {
  return "race:std::__exception_ptr::exception_ptr::_M_release";
}

namespace flexep {
namespace {

using namespace std::chrono_literals;
using testing::DelayedDevice;
using ::testing::HasSubstr;
using testing::kDevice;
using testing::relabelled;

constexpr int kNumRanks = 4;
constexpr int kNumExperts = 8;
constexpr int kNumTopk = 3;
constexpr int kHidden = 24;
constexpr int kMaxTokens = 40;

CommunicatorOptions two_domains() {
  return {.timeout = 60s, .num_scaleup_ranks = kNumRanks / 2};
}

Tensor on_device(const Tensor& tensor) {
  return relabelled(tensor, kDevice);
}
Tensor on_host(const Tensor& tensor) {
  return relabelled(tensor, Device::host());
}

template <typename T>
Tensor filled(const Shape& shape, int salt) {
  const Tensor tensor = Tensor::empty(shape, kDTypeOf<T>);
  int i = 0;
  for (T& value : tensor.values<T>()) value = static_cast<T>((salt * 131 + 7 * i++) % 1009);
  return tensor;
}

/// Every token goes to a few experts, or nowhere.
Tensor ids(int num_tokens, int salt) {
  const Tensor tensor = Tensor::empty({num_tokens, kNumTopk}, DType::kInt64);
  for (int token = 0; token < num_tokens; ++token) {
    for (int k = 0; k < kNumTopk; ++k) {
      const bool is_routed = (token + salt + k) % 5 != 0;
      tensor.data<std::int64_t>()[token * kNumTopk + k] =
          is_routed ? (token * 3 + salt + k) % kNumExperts : -1;
    }
  }
  return tensor;
}

/// Layout, host sync, asynchronous.
struct Manner {
  bool do_expand = false;
  bool do_cpu_sync = true;
  bool is_async = false;
};

DispatchArgs dispatch_args(int rank, const Manner& manner, int round) {
  const int num_tokens = (rank * 11 + round * 7) % kMaxTokens;
  return {.x = filled<float>({num_tokens, 2 * kHidden}, rank + round),
          .sf = filled<float>({num_tokens, 3}, rank + round + 1),
          .topk_idx = ids(num_tokens, rank + round),
          .topk_weights = filled<float>({num_tokens, kNumTopk}, rank + round + 2),
          .num_experts = kNumExperts,
          .expert_alignment = 4,
          .do_expand = manner.do_expand,
          .do_zero_padding = manner.do_expand,
          .use_tma_aligned_col_major_sf = round % 2 == 0,
          .do_cpu_sync = manner.do_cpu_sync,
          .async_with_compute_stream = manner.is_async};
}

/// Half of each row, so that rows have holes between them.
Tensor halved(const Tensor& x) {
  return Tensor::from_memory(x.data(), {x.size(0), kHidden}, {2 * kHidden, 1}, x.dtype(), x.owner());
}

DispatchArgs placed(DispatchArgs args) {
  args.x = on_device(args.x);
  args.sf = on_device(args.sf);
  args.topk_idx = on_device(args.topk_idx);
  args.topk_weights = on_device(args.topk_weights);
  args.cumulative_local_expert_recv_stats = on_device(args.cumulative_local_expert_recv_stats);
  return args;
}

void expect_same(const char* what, const Tensor& expected, const Tensor& got, std::int64_t num_rows) {
  ASSERT_EQ(expected.defined(), got.defined()) << what;
  if (!expected) return;
  ASSERT_EQ(got.device(), kDevice) << what;
  ASSERT_EQ(got.shape(), expected.shape()) << what;
  ASSERT_EQ(got.stride(0), expected.stride(0)) << what;
  const Tensor a = expected.rows(0, num_rows).contiguous();
  const Tensor b = on_host(got).rows(0, num_rows).contiguous();
  EXPECT_TRUE(a.num_bytes() == 0 || std::memcmp(a.data(), b.data(), a.num_bytes()) == 0) << what;
}

void expect_same_handle(const DispatchHandle& expected, const DispatchHandle& got) {
  EXPECT_EQ(got.num_rows(), expected.num_rows());
  EXPECT_EQ(got.num_max_tokens_per_rank(), expected.num_max_tokens_per_rank());
  EXPECT_TRUE(std::ranges::equal(got.num_recv_tokens_per_expert(), expected.num_recv_tokens_per_expert()));
  EXPECT_TRUE(std::ranges::equal(got.expert_start_rows(), expected.expert_start_rows()));
  EXPECT_TRUE(
      std::ranges::equal(got.psum_num_recv_tokens_per_rank(), expected.psum_num_recv_tokens_per_rank()));
  EXPECT_TRUE(std::ranges::equal(got.num_dropped_tokens(), expected.num_dropped_tokens()));
  expect_same("handle.topk_idx", expected.topk_idx(), got.topk_idx(), expected.num_tokens());
  expect_same("handle.dst_buffer_slot_idx", expected.dst_buffer_slot_idx(), got.dst_buffer_slot_idx(),
              expected.num_tokens());
  expect_same("handle.recv_src_metadata", expected.recv_src_metadata(), got.recv_src_metadata(),
              expected.psum_num_recv_tokens_per_rank().back());
}

/// A buffer of the host, and one of the device, which have to agree.
class Pair {
 public:
  explicit Pair(const Communicator& comm, std::shared_ptr<DelayedDevice> device = nullptr)
      : device_(device ? std::move(device) : std::make_shared<DelayedDevice>()),
        host_(make_host_planned_engine(comm, {.num_max_tokens_per_rank = kMaxTokens})),
        staged_(make_host_staged_engine(comm, {.device = kDevice, .num_max_tokens_per_rank = kMaxTokens},
                                        device_)) {}

  DelayedDevice& device() { return *device_; }
  BufferEngine& staged() { return *staged_; }
  int rank() const { return host_->rank(); }

  void expect_round_agrees(const Manner& manner, int round) {
    DispatchArgs args = dispatch_args(rank(), manner, round);
    args.x = halved(args.x);
    args.cumulative_local_expert_recv_stats = filled<std::int32_t>({kNumExperts / kNumRanks}, round);
    DispatchArgs device_args = placed(args);
    const Tensor stats = args.cumulative_local_expert_recv_stats.clone();
    device_args.cumulative_local_expert_recv_stats = on_device(stats);

    const DispatchResult expected = finished(host_->dispatch(args));
    const DispatchResult got = finished(staged_->dispatch(device_args));
    expect_same_rows(expected, got);
    expect_same_handle(expected.handle, got.handle);
    expect_same("stats", args.cumulative_local_expert_recv_stats, on_device(stats), stats.size(0));

    const DispatchArgs again{.x = args.x,
                             .sf = args.sf,
                             .topk_weights = args.topk_weights,
                             .handle = expected.handle,
                             .async_with_compute_stream = manner.is_async};
    DispatchArgs device_again = placed(again);
    device_again.handle = got.handle;
    expect_same_rows(finished(host_->dispatch(again)), finished(staged_->dispatch(device_again)));

    CombineArgs back{.x = expected.x,
                     .handle = expected.handle,
                     .topk_weights = expected.topk_weights,
                     .bias = {filled<float>(args.x.shape(), round), {}},
                     .async_with_compute_stream = manner.is_async};
    CombineArgs device_back = back;
    device_back.x = got.x;
    device_back.handle = got.handle;
    device_back.topk_weights = got.topk_weights;
    device_back.bias[0] = on_device(back.bias[0]);
    const CombineResult expected_sums = finished(host_->combine(back));
    const CombineResult sums = finished(staged_->combine(device_back));
    expect_same("combined x", expected_sums.x, sums.x, args.x.size(0));
    expect_same("combined weights", expected_sums.topk_weights, sums.topk_weights, args.x.size(0));
  }

 private:
  template <typename Result>
  static Result finished(Result result) {
    if (result.event) result.event.wait();
    return result;
  }
  static void expect_same_rows(const DispatchResult& expected, const DispatchResult& got) {
    const auto& handle = expected.handle;
    const int num_rows = handle.do_expand() ? handle.state().receive.num_expanded_tokens
                                            : handle.state().receive.num_recv_tokens;
    expect_same("x", expected.x, got.x, num_rows);
    expect_same("sf", expected.sf, got.sf, num_rows);
    expect_same("topk_idx", expected.topk_idx, got.topk_idx, num_rows);
    expect_same("topk_weights", expected.topk_weights, got.topk_weights, num_rows);
  }

  std::shared_ptr<DelayedDevice> device_;
  std::unique_ptr<BufferEngine> host_;
  std::unique_ptr<BufferEngine> staged_;
};

TEST(HostStagedTest, GivesTheBitsOfTheHost) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        Pair pair(comm);
        for (int round = 0; round < 16; ++round) {
          SCOPED_TRACE(fmt::format("rank {}, round {}", comm.rank(), round));
          pair.expect_round_agrees(
              {.do_expand = round % 2 == 0, .do_cpu_sync = round % 4 < 2, .is_async = round % 8 < 4}, round);
        }
      },
      two_domains());
}

TEST(HostStagedTest, CopiesThatTakeTheirTimeAreWaitedFor) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        Pair pair(comm);
        pair.device().set_delay(2ms);
        for (int round = 1; round < 5; ++round)
          pair.expect_round_agrees({.do_cpu_sync = round % 2 == 0, .is_async = round < 3}, round);
      },
      two_domains());
}

TEST(HostStagedTest, InputsAreReadBehindTheCurrentStream) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        Pair pair(comm);
        std::promise<void> written;
        pair.device().set_current(Event(written.get_future().share()));
        DispatchArgs args = placed(dispatch_args(comm.rank(), {.is_async = true}, 3));
        const Tensor x = on_host(args.x);
        std::thread stream([&] {
          std::this_thread::sleep_for(20ms);
          for (float& value : x.values<float>()) value = static_cast<float>(comm.rank() + 1);
          written.set_value();
        });
        const DispatchResult received = pair.staged().dispatch(args);
        received.event.wait();
        stream.join();
        const auto starts = received.handle.psum_num_recv_tokens_per_rank();
        for (int source = 0, row = 0; source < kNumRanks; ++source) {
          for (; row < starts[static_cast<std::size_t>(source)]; ++row)
            ASSERT_EQ(on_host(received.x).data<float>()[row * 2 * kHidden], static_cast<float>(source + 1));
        }
      },
      two_domains());
}

TEST(HostStagedTest, AMistakeOfOneRankIsHeardByAll) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        Pair pair(comm);
        for (const bool is_async : {false, true}) {
          DispatchArgs args = placed(dispatch_args(comm.rank(), {.is_async = is_async}, 1));
          if (comm.rank() == 1) args.x = on_host(args.x);
          try {
            pair.staged().dispatch(args);
            ADD_FAILURE() << "a tensor of the host was taken";
          } catch (const InvalidArgument& error) {
            EXPECT_EQ(comm.rank(), 1);
            EXPECT_THAT(error.what(), HasSubstr("x on rank 1 is in memory of host"));
          } catch (const PeerError& error) {
            EXPECT_NE(comm.rank(), 1);
            EXPECT_THAT(error.what(), HasSubstr("x on rank 1 is in memory of host"));
          }
          pair.expect_round_agrees({.is_async = is_async}, 2);
        }
      },
      two_domains());
}

TEST(HostStagedTest, ADeviceThatIsNotThereIsHeardByAll) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        const auto device = std::make_shared<DelayedDevice>();
        if (comm.rank() == 2) device->fail();
        try {
          make_host_staged_engine(comm, {.device = kDevice}, device);
          ADD_FAILURE() << "a buffer without a device was made";
        } catch (const InvalidArgument& error) {
          EXPECT_EQ(comm.rank(), 2);
        } catch (const PeerError& error) {
          EXPECT_THAT(error.what(), HasSubstr("there is no such device"));
        }
      },
      two_domains());
}

TEST(HostStagedTest, MemoryIsPinnedAsLongAsItIsHeld) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        const auto device = std::make_shared<DelayedDevice>();
        DispatchHandle handle;
        {
          Pair pair(comm, device);
          handle = pair.staged().dispatch(placed(dispatch_args(comm.rank(), {}, 1))).handle;
          EXPECT_GT(device->num_pinned(), 0u);
        }
        EXPECT_GT(device->num_pinned(), 0u) << "a handle keeps what the host has planned";
        handle = {};
        EXPECT_EQ(device->num_pinned(), 0u);
      },
      two_domains());
}

TEST(HostStagedTest, TrimmedMemoryIsNotPinnedAnyMore) {
  in_process(
      kNumRanks,
      [](Communicator& comm) {
        Pair pair(comm);
        pair.expect_round_agrees({}, 4);
        EXPECT_GT(pair.staged().trim(), 0);
        EXPECT_EQ(pair.device().num_pinned(), 0u);
        pair.expect_round_agrees({}, 5);
      },
      two_domains());
}

}  // namespace
}  // namespace flexep
