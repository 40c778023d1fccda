// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/rendezvous.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string_view>

#include "flexep/error.h"

namespace flexep {
namespace {

/// The first message on a connection, from the higher rank to the lower.
struct Hello {
  std::uint32_t magic = kMagic;
  std::int32_t rank = 0;
  std::int32_t num_ranks = 0;

  static constexpr std::uint32_t kMagic = 0x464C5802;  // "FLX", version of the protocol
};

constexpr std::chrono::seconds kLongestSilence{1};

// 64-bit FNV-1a: equal in all processes, unlike std::hash of another library.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

// The readable part is for the person who looks at /proc/net/unix; the hash makes it unique.
std::string socket_name(const ShmJob& job, int rank) {
  return fmt::format("flexep/{}/{:016x}/{:.32}/{}", geteuid(), hash_of(job.id), job.id, rank);
}

[[noreturn]] void throw_missing(const ShmJob& job, const std::vector<FileDescriptor>& links) {
  std::vector<int> missing;
  for (int rank = 0; rank < job.num_ranks; ++rank) {
    if (rank != job.rank && !links[static_cast<std::size_t>(rank)]) missing.push_back(rank);
  }
  throw TimeoutError(missing, "rendezvous", 0,
                     fmt::format("rank {} of job '{}' has not met rank{} {} in time", job.rank, job.id,
                                 missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")));
}

// Who is at the other end of a fresh connection; -1 for a stranger.
int receive_hello(const FileDescriptor& link, const ShmJob& job, const Deadline& deadline) {
  Hello hello;
  // Ranks say it at once; a stranger who says nothing must not keep the ranks behind him out.
  const Deadline soon(std::min<std::chrono::nanoseconds>(deadline.remaining(), kLongestSilence));
  const auto message = receive_message(link, std::as_writable_bytes(std::span(&hello, 1)), soon);
  if (!message || message->num_bytes != sizeof(Hello) || hello.magic != Hello::kMagic) return -1;
  if (hello.num_ranks != job.num_ranks) {
    throw TransportError(fmt::format("rank {} of job '{}' counts {} ranks, rank {} counts {}", job.rank,
                                     job.id, job.num_ranks, hello.rank, hello.num_ranks));
  }
  const bool expected = job.rank < hello.rank && hello.rank < job.num_ranks;
  return expected ? hello.rank : -1;
}

}  // namespace

std::vector<FileDescriptor> meet_all(const ShmJob& job, const Deadline& deadline) {
  std::vector<FileDescriptor> links(static_cast<std::size_t>(job.num_ranks));
  // Connecting succeeds as soon as the lower rank listens, before it accepts: so nobody waits in a circle.
  const FileDescriptor listener = listen_at(socket_name(job, job.rank), job.num_ranks, deadline);
  const Hello hello{.rank = job.rank, .num_ranks = job.num_ranks};
  for (int rank = 0; rank < job.rank; ++rank) {
    auto link = connect_to(socket_name(job, rank), deadline);
    if (!link || send_message(*link, bytes_of(hello), -1) != SendResult::kSent) throw_missing(job, links);
    links[static_cast<std::size_t>(rank)] = std::move(*link);
  }
  for (int num_missing = job.num_ranks - 1 - job.rank; num_missing > 0;) {
    auto link = accept_from(listener, deadline);
    if (!link) throw_missing(job, links);
    const int rank = receive_hello(*link, job, deadline);
    if (rank < 0 || links[static_cast<std::size_t>(rank)]) continue;
    links[static_cast<std::size_t>(rank)] = std::move(*link);
    --num_missing;
  }
  return links;
}

}  // namespace flexep
