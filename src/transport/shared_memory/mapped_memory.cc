// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/mapped_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "flexep/error.h"

namespace flexep {
namespace {

std::shared_ptr<std::byte> map(std::size_t num_bytes, int flags, int fd) {
  void* memory = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) {
    throw OutOfMemory(fmt::format("cannot map {} bytes of memory: {}", num_bytes, std::strerror(errno)));
  }
  // A hint: refused where the kernel has no huge pages for this kind of memory.
  madvise(memory, num_bytes, MADV_HUGEPAGE);
  return {static_cast<std::byte*>(memory), [num_bytes](std::byte* pages) { munmap(pages, num_bytes); }};
}

}  // namespace

std::shared_ptr<std::byte> map_anonymous(std::size_t num_bytes) {
  return map(num_bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

std::shared_ptr<std::byte> map_shared(int fd, std::size_t num_bytes) {
  return map(num_bytes, MAP_SHARED, fd);
}

void discard_anonymous(std::byte* memory, std::size_t num_bytes) {
  madvise(memory, num_bytes, MADV_DONTNEED);
}
void discard_shared(std::byte* memory, std::size_t num_bytes) {
  madvise(memory, num_bytes, MADV_REMOVE);
}

}  // namespace flexep
