// SPDX-License-Identifier: Apache-2.0
//
// A mistake on one rank is an error on all ranks, and afterwards the group works.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "flexep/elastic_buffer.h"
#include "flexep/error.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using flexep::testing::tensor_of;
using ::testing::HasSubstr;
using Errors = std::vector<std::exception_ptr>;
using Ids = std::vector<std::int64_t>;

constexpr int kNumRanks = 3;
constexpr int kNumExperts = 6;
constexpr int kHidden = 4;

/// Two tokens, each to the first and the last rank; column 0 of their rows says which they are.
DispatchArgs good_args(int rank) {
  const auto first = static_cast<float>(10 * rank + 1);
  return {.x = tensor_of<float>({2, kHidden}, {first, 0, 0, 0, first + 1, 0, 0, 0}),
          .topk_idx = tensor_of<std::int64_t>({2, 2}, {0, kNumExperts - 1, kNumExperts - 1, 0}),
          .num_experts = kNumExperts};
}

DispatchArgs with_ids(DispatchArgs args, const Ids& ids) {
  args.topk_idx = tensor_of({2, 2}, ids);
  return args;
}

void expect_round_trip_works(ElasticBuffer& buffer) {
  const DispatchArgs args = good_args(buffer.rank());
  const auto received = buffer.dispatch(args);
  const auto combined = buffer.combine({.x = received.x, .handle = received.handle});
  EXPECT_EQ(combined.x.data<float>()[0], 2 * args.x.data<float>()[0]);
  EXPECT_EQ(combined.x.data<float>()[kHidden], 2 * args.x.data<float>()[kHidden]);
}

/// What each rank's `operation` threw. Afterwards a correct call works on every rank.
Errors errors_of(const std::function<void(ElasticBuffer&)>& operation) {
  Errors errors(kNumRanks);
  in_process(kNumRanks, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    try {
      operation(buffer);
    } catch (...) {
      errors[static_cast<std::size_t>(comm.rank())] = std::current_exception();
    }
    expect_round_trip_works(buffer);
  });
  return errors;
}

/// Rank 1 passes `bad`, the others what is right.
Errors errors_when_rank_1_passes(const DispatchArgs& bad) {
  return errors_of(
      [&](ElasticBuffer& buffer) { buffer.dispatch(buffer.rank() == 1 ? bad : good_args(buffer.rank())); });
}

template <typename E>
std::optional<E> as(const std::exception_ptr& error) {
  if (!error) return std::nullopt;
  try {
    std::rethrow_exception(error);
  } catch (const E& caught) {
    return caught;
  } catch (...) {
    return std::nullopt;
  }
}

/// Rank 1 blames `argument` with a text that has `parts`; all others repeat that text and name rank 1.
void expect_rank_1_refused(const Errors& errors, const std::string& argument,
                           const std::vector<std::string>& parts) {
  const auto own = as<InvalidArgument>(errors[1]);
  ASSERT_TRUE(own);
  EXPECT_EQ(own->argument(), argument);
  for (const auto& part : parts) EXPECT_THAT(own->what(), HasSubstr(part));
  for (const std::size_t rank : {0u, 2u}) {
    const auto peer = as<PeerError>(errors[rank]);
    ASSERT_TRUE(peer) << "rank " << rank;
    EXPECT_EQ(peer->rank(), 1);
    EXPECT_THAT(peer->what(), HasSubstr(own->what()));
  }
}

void expect_mismatch(const Errors& errors, const std::string& field, const std::vector<std::string>& values) {
  for (const auto& error : errors) {
    const auto mismatch = as<CollectiveMismatch>(error);
    ASSERT_TRUE(mismatch);
    EXPECT_EQ(mismatch->field(), field);
    EXPECT_EQ(mismatch->values(), values);
    EXPECT_THAT(mismatch->what(), HasSubstr(field));
  }
}

TEST(DispatchErrorsTest, AnIdThatIsNoExpertIsRefusedByName) {
  const auto errors = errors_when_rank_1_passes(with_ids(good_args(1), {0, 5, 1, kNumExperts}));
  expect_rank_1_refused(errors, "topk_idx", {"rank 1", "token 1", "column 1", "6"});
}

TEST(DispatchErrorsTest, AnIdBelowMinusOneIsRefusedByName) {
  const auto errors = errors_when_rank_1_passes(with_ids(good_args(1), {-1, -2, 1, 0}));
  expect_rank_1_refused(errors, "topk_idx", {"rank 1", "token 0", "column 1", "-2"});
}

TEST(DispatchErrorsTest, ADuplicateIdIsRefusedByName) {
  const auto errors = errors_when_rank_1_passes(with_ids(good_args(1), {-1, -1, 4, 4}));
  expect_rank_1_refused(errors, "topk_idx", {"rank 1", "token 1", "column", "4"});
}

TEST(DispatchErrorsTest, ALargeIdThatWouldOverflowIsRefused) {
  const auto errors =
      errors_when_rank_1_passes(with_ids(good_args(1), {0, 1, (std::int64_t{1} << 32) + 1, 0}));
  expect_rank_1_refused(errors, "topk_idx", {"token 1", "column 0", "4294967297"});
}

TEST(DispatchErrorsTest, MoreTokensThanAFixedMaximumAreRefusedByName) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    args.num_max_tokens_per_rank = 2;
    if (buffer.rank() == 1) {
      args.x = Tensor::zeros({3, kHidden}, DType::kFloat32);
      args.topk_idx = tensor_of<std::int64_t>({3, 2}, {0, 1, 0, 1, 0, 1});
    }
    buffer.dispatch(args);
  });
  expect_rank_1_refused(errors, "num_max_tokens_per_rank", {"rank 1", "3", "2"});
}

TEST(DispatchErrorsTest, ANumberOfTokensInMemoryIsForGpus) {
  DispatchArgs args = good_args(1);
  args.num_tokens = tensor_of<std::int32_t>({1}, {1});
  expect_rank_1_refused(errors_when_rank_1_passes(args), "num_tokens", {"rank 1"});
}

TEST(DispatchErrorsTest, ARankWithoutXIsRefused) {
  DispatchArgs args = good_args(1);
  args.x = {};
  expect_rank_1_refused(errors_when_rank_1_passes(args), "x", {"rank 1"});
}

TEST(DispatchErrorsTest, ATensorOnAnotherDeviceThanTheBuffersIsRefused) {
  DispatchArgs args = good_args(1);
  args.x =
      Tensor::from_memory(args.x.data(), args.x.shape(), args.x.dtype(), args.x.owner(), Device::cuda(2));
  expect_rank_1_refused(errors_when_rank_1_passes(args), "x", {"rank 1", "cuda:2", "host"});
}

TEST(DispatchErrorsTest, ARowThatIsNoMultipleOf16BytesIsRefused) {
  DispatchArgs args = good_args(1);
  args.x = Tensor::zeros({2, 3}, DType::kFloat32);
  expect_rank_1_refused(errors_when_rank_1_passes(args), "x", {"rank 1", "12 bytes", "16"});
}

TEST(DispatchErrorsTest, RowsWhoseElementsAreNoNeighboursAreRefused) {
  DispatchArgs args = good_args(1);
  const Tensor memory = Tensor::zeros({4, 2}, DType::kFloat64);
  args.x = Tensor::from_memory(memory.data(), {2, 4}, {1, 2}, DType::kFloat64, memory.owner());
  expect_rank_1_refused(errors_when_rank_1_passes(args), "x", {"rank 1", "stride 2"});
}

TEST(DispatchErrorsTest, IdsOfTheWrongTypeOrShapeAreRefused) {
  DispatchArgs args = good_args(1);
  args.topk_idx = Tensor::zeros({2, 2}, DType::kInt16);
  expect_rank_1_refused(errors_when_rank_1_passes(args), "topk_idx", {"int16", "int64"});
  args.topk_idx = tensor_of<std::int64_t>({1, 2}, {0, 1});
  expect_rank_1_refused(errors_when_rank_1_passes(args), "topk_idx", {"[1, 2]"});
  args.topk_idx = {};
  expect_rank_1_refused(errors_when_rank_1_passes(args), "topk_idx", {"rank 1"});
}

TEST(DispatchErrorsTest, WeightsOfTheWrongTypeOrShapeAreRefused) {
  DispatchArgs args = good_args(1);
  args.topk_weights = Tensor::zeros({2, 2}, DType::kBFloat16);
  expect_rank_1_refused(errors_when_rank_1_passes(args), "topk_weights", {"bf16"});
  args.topk_weights = Tensor::zeros({2, 3}, DType::kFloat32);
  expect_rank_1_refused(errors_when_rank_1_passes(args), "topk_weights", {"[2, 3]", "[2, 2]"});
}

TEST(DispatchErrorsTest, ANumberOfExpertsThatRanksCannotShareIsRefused) {
  DispatchArgs args = good_args(1);
  args.num_experts = 7;
  expect_rank_1_refused(errors_when_rank_1_passes(args), "num_experts", {"7", "3 ranks"});
  args.num_experts = 0;
  expect_rank_1_refused(errors_when_rank_1_passes(args), "num_experts", {"0"});
  args.num_experts = -6;
  expect_rank_1_refused(errors_when_rank_1_passes(args), "num_experts", {"-6"});
}

TEST(DispatchErrorsTest, NegativeOptionsAreRefused) {
  DispatchArgs args = good_args(1);
  args.expert_alignment = -1;
  expect_rank_1_refused(errors_when_rank_1_passes(args), "expert_alignment", {"-1"});
  args = good_args(1);
  args.num_sms = -2;
  expect_rank_1_refused(errors_when_rank_1_passes(args), "num_sms", {"-2"});
  args = good_args(1);
  args.num_max_tokens_per_rank = -3;
  expect_rank_1_refused(errors_when_rank_1_passes(args), "num_max_tokens_per_rank", {"-3"});
}

TEST(DispatchErrorsTest, EveryRankThatIsWrongSaysSoItself) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    buffer.dispatch(buffer.rank() == 2 ? good_args(2) : with_ids(good_args(buffer.rank()), {9, 0, 0, 1}));
  });
  EXPECT_TRUE(as<InvalidArgument>(errors[0]));
  EXPECT_TRUE(as<InvalidArgument>(errors[1]));
  ASSERT_TRUE(as<PeerError>(errors[2]));
}

TEST(DispatchErrorsTest, ABadIdWinsOverAMismatch) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    DispatchArgs args = good_args(buffer.rank());
    if (buffer.rank() == 1) args = with_ids(args, {9, 0, 0, 1});
    if (buffer.rank() == 2) args.x = Tensor::zeros({2, 8}, DType::kFloat32);
    buffer.dispatch(args);
  });
  expect_rank_1_refused(errors, "topk_idx", {"9"});
}

TEST(DispatchErrorsTest, HiddenThatDiffersIsAMismatchOnAllRanks) {
  DispatchArgs args = good_args(1);
  args.x = Tensor::zeros({2, 8}, DType::kFloat32);
  expect_mismatch(errors_when_rank_1_passes(args), "hidden", {"4", "8", "4"});
}

TEST(DispatchErrorsTest, DtypeThatDiffersIsAMismatch) {
  DispatchArgs args = good_args(1);
  args.x = Tensor::zeros({2, 4}, DType::kFloat64);
  expect_mismatch(errors_when_rank_1_passes(args), "dtype", {"fp32", "fp64", "fp32"});
}

TEST(DispatchErrorsTest, NumExpertsThatDiffersIsAMismatch) {
  DispatchArgs args = good_args(1);
  args.num_experts = 12;
  expect_mismatch(errors_when_rank_1_passes(args), "num_experts", {"6", "12", "6"});
}

TEST(DispatchErrorsTest, NumTopkThatDiffersIsAMismatch) {
  DispatchArgs args = good_args(1);
  args.topk_idx = tensor_of<std::int64_t>({2, 3}, {0, 1, 2, 3, 4, 5});
  expect_mismatch(errors_when_rank_1_passes(args), "num_topk", {"2", "3", "2"});
}

TEST(DispatchErrorsTest, AlignmentAndLayoutThatDifferAreMismatches) {
  DispatchArgs args = good_args(1);
  args.expert_alignment = 16;
  expect_mismatch(errors_when_rank_1_passes(args), "expert_alignment", {"1", "16", "1"});
  args = good_args(1);
  args.do_expand = true;
  expect_mismatch(errors_when_rank_1_passes(args), "do_expand", {"false", "true", "false"});
}

TEST(DispatchErrorsTest, WeightsOnOneRankOnlyAreAMismatch) {
  DispatchArgs args = good_args(1);
  args.topk_weights = Tensor::zeros({2, 2}, DType::kFloat32);
  expect_mismatch(errors_when_rank_1_passes(args), "topk_weights", {"absent", "fp32", "absent"});
}

TEST(DispatchErrorsTest, ReductionThatDiffersIsAMismatch) {
  in_process(kNumRanks, [](Communicator& comm) {
    EXPECT_THROW(
        {
          ElasticBuffer buffer(comm, {.allow_multiple_reduction = comm.rank() != 1});
          buffer.dispatch(good_args(comm.rank()));
        },
        CollectiveMismatch);
  });
}

/// One dispatch on each rank; then rank 1 calls with `bad(handle)` what the others call right.
Errors errors_of_cached(const std::function<DispatchArgs(const DispatchHandle&)>& bad) {
  return errors_of([&](ElasticBuffer& buffer) {
    const auto handle = buffer.dispatch(good_args(buffer.rank())).handle;
    DispatchArgs args{.x = good_args(buffer.rank()).x, .handle = handle};
    buffer.dispatch(buffer.rank() == 1 ? bad(handle) : args);
  });
}

TEST(CachedDispatchErrorsTest, RepeatingAnotherValueThanTheHandlesIsRefused) {
  const Tensor x = good_args(1).x;
  expect_rank_1_refused(errors_of_cached([&](const auto& handle) {
                          return DispatchArgs{.x = x, .num_experts = 12, .handle = handle};
                        }),
                        "num_experts", {"12", "6"});
  expect_rank_1_refused(errors_of_cached([&](const auto& handle) {
                          return DispatchArgs{.x = x, .expert_alignment = 8, .handle = handle};
                        }),
                        "expert_alignment", {"8", "1"});
  expect_rank_1_refused(errors_of_cached([&](const auto& handle) {
                          return DispatchArgs{.x = x, .handle = handle, .do_expand = true};
                        }),
                        "do_expand", {"true", "false"});
}

TEST(CachedDispatchErrorsTest, RepeatingTheHandlesValuesIsFine) {
  const Tensor x = good_args(1).x;
  const auto errors = errors_of_cached([&](const auto& handle) {
    return DispatchArgs{
        .x = x, .num_experts = 6, .expert_alignment = 1, .handle = handle, .do_expand = false};
  });
  for (const auto& error : errors) EXPECT_FALSE(error);
}

TEST(CachedDispatchErrorsTest, IdsTogetherWithAHandleAreRefused) {
  expect_rank_1_refused(errors_of_cached([](const auto& handle) {
                          DispatchArgs args = good_args(1);
                          args.handle = handle;
                          return args;
                        }),
                        "topk_idx", {"handle"});
}

TEST(CachedDispatchErrorsTest, AnotherNumberOfTokensThanTheHandlesIsRefused) {
  expect_rank_1_refused(
      errors_of_cached([](const auto& handle) {
        return DispatchArgs{.x = Tensor::zeros({3, kHidden}, DType::kFloat32), .handle = handle};
      }),
      "x", {"3", "2"});
}

TEST(CachedDispatchErrorsTest, DifferentHandlesAreAMismatch) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    const auto first = buffer.dispatch(good_args(buffer.rank())).handle;
    const auto second = buffer.dispatch(good_args(buffer.rank())).handle;
    buffer.dispatch({.x = good_args(buffer.rank()).x, .handle = buffer.rank() == 1 ? first : second});
  });
  for (const auto& error : errors) {
    ASSERT_TRUE(as<CollectiveMismatch>(error));
    EXPECT_EQ(as<CollectiveMismatch>(error)->field(), "handle");
  }
}

/// One dispatch on each rank; then rank 1 combines with `bad(received)`, the others right.
Errors errors_of_combine(const std::function<CombineArgs(const DispatchResult&)>& bad) {
  return errors_of([&](ElasticBuffer& buffer) {
    const auto received = buffer.dispatch(good_args(buffer.rank()));
    const CombineArgs good{.x = received.x, .handle = received.handle};
    buffer.combine(buffer.rank() == 1 ? bad(received) : good);
  });
}

TEST(CombineErrorsTest, ARankWithoutAHandleIsRefused) {
  expect_rank_1_refused(errors_of_combine([](const auto& received) { return CombineArgs{.x = received.x}; }),
                        "handle", {"rank 1"});
}

TEST(CombineErrorsTest, AnotherNumberOfRowsThanReceivedIsRefused) {
  // Rank 1 of these three receives nothing.
  expect_rank_1_refused(
      errors_of_combine([](const auto& received) {
        return CombineArgs{.x = Tensor::zeros({1, kHidden}, DType::kFloat32), .handle = received.handle};
      }),
      "x", {"1 rows", "0"});
}

TEST(CombineErrorsTest, IntegerRowsAreRefused) {
  expect_rank_1_refused(
      errors_of_combine([](const auto& received) {
        return CombineArgs{.x = Tensor::zeros({0, kHidden}, DType::kInt32), .handle = received.handle};
      }),
      "x", {"int32"});
}

TEST(CombineErrorsTest, HiddenThatDiffersIsAMismatch) {
  expect_mismatch(
      errors_of_combine([](const auto& received) {
        return CombineArgs{.x = Tensor::zeros({0, 8}, DType::kFloat32), .handle = received.handle};
      }),
      "hidden", {"4", "8", "4"});
}

TEST(CombineErrorsTest, WeightsOnOneRankOnlyAreAMismatch) {
  expect_mismatch(errors_of_combine([](const auto& received) {
                    return CombineArgs{.x = received.x,
                                       .handle = received.handle,
                                       .topk_weights = Tensor::zeros({0, 2}, DType::kFloat32)};
                  }),
                  "topk_weights", {"absent", "fp32", "absent"});
}

TEST(CombineErrorsTest, DispatchOnOneRankAndCombineOnAnotherIsAMismatch) {
  const auto errors = errors_of([](ElasticBuffer& buffer) {
    const auto received = buffer.dispatch(good_args(buffer.rank()));
    if (buffer.rank() == 1) {
      buffer.dispatch({.x = good_args(1).x, .handle = received.handle});
    } else {
      buffer.combine({.x = received.x, .handle = received.handle});
    }
  });
  for (const auto& error : errors) EXPECT_TRUE(as<CollectiveMismatch>(error));
}

}  // namespace
}  // namespace flexep
