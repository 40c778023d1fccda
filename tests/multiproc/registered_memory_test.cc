// SPDX-License-Identifier: Apache-2.0
//
// Memory of a process's own that the other processes read in place.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <iterator>

#include "flexep/flexep.h"
#include "job.h"
#include "support/pages.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using testing::page_bytes;
using testing::Pages;
using namespace std::chrono_literals;

constexpr int kNumTokens = 50;
constexpr int kHidden = 64;

// Each token to every rank.
DispatchResult dispatch(ElasticBuffer& buffer) {
  const int num_ranks = buffer.num_ranks();
  const Tensor topk_idx = Tensor::empty({kNumTokens, num_ranks}, DType::kInt64);
  for (int i = 0; i < kNumTokens * num_ranks; ++i) topk_idx.data<std::int64_t>()[i] = i % num_ranks;
  return buffer.dispatch({.x = Tensor::zeros({kNumTokens, kHidden}, DType::kFloat32),
                          .topk_idx = topk_idx,
                          .num_experts = num_ranks});
}

// Combines rows that are all `value`, written into `pages` first; whether the sums are right.
bool combine(ElasticBuffer& buffer, const DispatchResult& recv, const Pages& pages, float value) {
  const Tensor y = Tensor::from_memory(pages.data(), recv.x.shape(), DType::kFloat32);
  for (float& element : y.values<float>()) element = value;
  const auto out = buffer.combine({.x = y, .handle = recv.handle});
  for (const float element : out.x.values<float>()) {
    if (element != value * static_cast<float>(buffer.num_ranks())) return false;
  }
  return true;
}

std::ptrdiff_t num_open_files() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

TEST(RegisteredMemoryShmTest, ProcessesReadItInPlaceForAsLongAsItIsRegistered) {
  Processes processes(job_id("registered"), 3, [](int) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    const auto recv = dispatch(buffer);
    const Pages pages(20);
    bool ok = combine(buffer, recv, pages, 1);
    const auto staged = buffer.counters().combine.staging_bytes;
    const auto num_files = num_open_files();
    for (int round = 0; round < 3; ++round) {
      RegisteredMemory registration = buffer.register_memory(pages.data(), pages.num_bytes());
      for (int i = 0; i < 3; ++i) ok = ok && combine(buffer, recv, pages, static_cast<float>(10 * round + i));
      ok = ok && buffer.counters().combine.staging_bytes == staged;
    }
    ok = ok && num_open_files() == num_files;
    ok = ok && combine(buffer, recv, pages, 5) && buffer.counters().combine.staging_bytes > staged;
    return ok && staged > 0 ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 3), 0);
}

// Runs in a process that is forked off, which writes to the first page and ends.
void write_in_child(const Pages& pages, const std::function<void()>& before_exit) {
  const pid_t pid = fork();
  if (pid == 0) {
    pages.data()[0] = std::byte{77};
    before_exit();
    std::_Exit(0);
  }
  waitpid(pid, nullptr, 0);
}

TEST(RegisteredMemoryShmTest, ContentsStayAndTheMemoryIsPrivateAgainAfterwards) {
  Processes processes(job_id("private"), 2, [](int) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    const Pages pages(4);
    std::memset(pages.data(), 3, pages.num_bytes());
    RegisteredMemory registration = buffer.register_memory(pages.data() + page_bytes(), 2 * page_bytes());
    bool ok = pages.data()[page_bytes() + 5] == std::byte{3};
    pages.data()[page_bytes() + 5] = std::byte{4};
    registration = {};
    ok = ok && pages.data()[page_bytes() + 5] == std::byte{4} &&
         pages.data()[2 * page_bytes()] == std::byte{3};
    write_in_child(pages, [&] { pages.data()[page_bytes() + 5] = std::byte{9}; });
    return ok && pages.data()[page_bytes() + 5] == std::byte{4} ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(RegisteredMemoryShmTest, ProcessThatIsForkedOffTakesNothingAwayWhenItEnds) {
  Processes processes(job_id("forked"), 2, [](int) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    const Pages pages(1);
    RegisteredMemory registration = buffer.register_memory(pages.data(), pages.num_bytes());
    write_in_child(pages, [&] { registration = {}; });
    // Shared while it is registered, and still there.
    return pages.data()[0] == std::byte{77} ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(RegisteredMemoryShmTest, MemoryThatIsNotPrivateIsRefused) {
  Processes processes(job_id("unfit"), 2, [](int) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    ElasticBuffer buffer(comm);
    ElasticBuffer other(comm);
    const auto is_refused = [&](ElasticBuffer& by, void* memory, std::size_t num_bytes) {
      try {
        const auto unexpected = by.register_memory(memory, num_bytes);
        return false;
      } catch (const InvalidArgument& error) {
        return error.argument() == "memory";
      }
    };
    const auto map = [](int protection, int flags) {
      return mmap(nullptr, 4 * page_bytes(), protection, flags | MAP_ANONYMOUS, -1, 0);
    };
    constexpr int kReadWrite = PROT_READ | PROT_WRITE;
    bool ok = is_refused(buffer, map(kReadWrite, MAP_SHARED), page_bytes());
    ok = ok && is_refused(buffer, map(PROT_READ, MAP_PRIVATE), page_bytes());
    void* with_a_hole = map(kReadWrite, MAP_PRIVATE);
    munmap(static_cast<std::byte*>(with_a_hole) + 2 * page_bytes(), page_bytes());
    ok = ok && is_refused(buffer, with_a_hole, 3 * page_bytes());
    ok = ok && !is_refused(buffer, with_a_hole, 2 * page_bytes());
    const RegisteredMemory registration = buffer.register_memory(with_a_hole, page_bytes());
    ok = ok && is_refused(other, with_a_hole, page_bytes());
    return ok ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

}  // namespace
}  // namespace flexep
