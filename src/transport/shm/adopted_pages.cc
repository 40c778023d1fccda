// SPDX-License-Identifier: Apache-2.0
#include "transport/shm/adopted_pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <ios>
#include <sstream>
#include <string>

#include "common/check.h"
#include "flexep/error.h"

namespace flexep {
namespace {

/// A line of /proc/self/maps.
struct Mapping {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::string permissions;
  std::uint64_t inode = 0;
  std::string name;

  // A stack grows by itself, below what is mapped.
  bool is_private_memory() const { return permissions == "rw-p" && inode == 0 && name != "[stack]"; }
};

Mapping parse_mapping(const std::string& line) {
  Mapping mapping;
  char dash = 0;
  std::string offset, device;
  std::istringstream stream(line);
  stream >> std::hex >> mapping.begin >> dash >> mapping.end >> mapping.permissions >> offset >> device >>
      std::dec >> mapping.inode >> mapping.name;
  return mapping;
}

// Pages of a file, or of memory that others share, would be cut off from them without a word.
void require_private_memory(const std::byte* memory, std::size_t num_bytes) {
  auto next = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t end = next + num_bytes;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; next < end && std::getline(maps, line);) {
    const Mapping mapping = parse_mapping(line);
    if (mapping.end <= next) continue;
    if (mapping.begin > next) break;
    require_argument(mapping.is_private_memory(), "memory",
                     "the page at {:#x} is not private memory of this process that can be written ({} {})",
                     next, mapping.permissions, mapping.name);
    next = mapping.end;
  }
  require_argument(next >= end, "memory", "the page at {:#x} is not memory of this process", next);
}

// Not the C library's: UCX, which many an MPI brings, puts a function of its own in its place that loses the
// new address.
bool move_pages(void* pages, std::size_t num_bytes, void* to) {
  return syscall(SYS_mremap, pages, num_bytes, num_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) != -1;
}

// Fills new pages with the contents of `memory` and puts them in its place at once: whoever reads it notices
// nothing.
bool replace_pages(std::byte* memory, std::size_t num_bytes, int flags, int fd) {
  void* pages = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (pages == MAP_FAILED) return false;
  std::memcpy(pages, memory, num_bytes);
  if (move_pages(pages, num_bytes, memory)) return true;
  munmap(pages, num_bytes);
  return false;
}

}  // namespace

AdoptedPages::AdoptedPages(FileDescriptor fd, std::byte* memory, std::size_t num_bytes)
    : fd_(std::move(fd)), memory_(memory), num_bytes_(num_bytes), owner_(getpid()) {
  require_private_memory(memory, num_bytes);
  if (!replace_pages(memory, num_bytes, MAP_SHARED, fd_.get())) {
    throw OutOfMemory(
        fmt::format("cannot move {} bytes onto shared memory: {}", num_bytes, std::strerror(errno)));
  }
}

AdoptedPages::~AdoptedPages() {
  // A copy in a process that was forked off must not take the parent's pages away.
  if (getpid() != owner_) return;
  // Where there is no memory to move to, the pages stay shared, and are as good.
  if (!replace_pages(memory_, num_bytes_, MAP_PRIVATE | MAP_ANONYMOUS, -1)) return;
  // Others may have the pages mapped until their buffer goes: they keep addresses, not memory.
  fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(num_bytes_));
}

}  // namespace flexep
