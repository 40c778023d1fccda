// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz target without a fuzzer: over its corpus, and over inputs that are made of the corpus by random
// edits, the same ones each time.
//
//   fuzz_replay_<target> <folder or file> [<number of random inputs> [<seed>]]
//
// The input that is running is always in the file <program>.input: when the target crashes, that is what it
// crashed on.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fuzz_input.h"

namespace {

using Bytes = std::vector<std::uint8_t>;
using Random = std::mt19937_64;

constexpr std::size_t kMaxBytes = 1024;
constexpr std::size_t kMaxEdits = 8;

Bytes read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<Bytes> read_corpus(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) return {read(path)};
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Bytes> corpus;
  for (const auto& file : files) corpus.push_back(read(file));
  return corpus;
}

std::size_t below(Random& random, std::size_t bound) {
  return bound == 0 ? 0 : static_cast<std::size_t>(random() % bound);
}

/// A part of `bytes`, up to 16 of them.
Bytes piece_of(Random& random, const Bytes& bytes) {
  const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(below(random, bytes.size() + 1));
  const auto num_left = static_cast<std::size_t>(bytes.end() - begin);
  return {begin, begin + static_cast<std::ptrdiff_t>(std::min(num_left, below(random, 17)))};
}

void edit(Random& random, Bytes& bytes, const std::vector<Bytes>& corpus) {
  const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(below(random, bytes.size() + 1));
  const auto num_behind = static_cast<std::size_t>(bytes.end() - place);
  switch (below(random, 4)) {
    case 0:
      if (num_behind > 0) *place = static_cast<std::uint8_t>(random());
      break;
    case 1:
      bytes.insert(place, static_cast<std::uint8_t>(random()));
      break;
    case 2:
      bytes.erase(place, place + static_cast<std::ptrdiff_t>(std::min(num_behind, below(random, 17))));
      break;
    default: {
      const Bytes piece = piece_of(random, corpus[below(random, corpus.size())]);
      bytes.insert(place, piece.begin(), piece.end());
    }
  }
}

Bytes make_input(Random& random, const std::vector<Bytes>& corpus) {
  Bytes bytes = corpus[below(random, corpus.size())];
  const std::size_t num_edits = 1 + below(random, kMaxEdits);
  for (std::size_t i = 0; i < num_edits; ++i) edit(random, bytes, corpus);
  bytes.resize(std::min(bytes.size(), kMaxBytes));
  return bytes;
}

/// A file that holds the input that is running.
class Record {
 public:
  explicit Record(std::string path)
      : path_(std::move(path)), fd_(open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644)) {}
  ~Record() {
    close(fd_);
    std::filesystem::remove(path_);
  }
  Record(const Record&) = delete;
  Record& operator=(const Record&) = delete;

  void keep(const Bytes& bytes) const {
    const auto size = static_cast<ssize_t>(bytes.size());
    if (ftruncate(fd_, size) == 0 && pwrite(fd_, bytes.data(), bytes.size(), 0) == size) return;
    std::fprintf(stderr, "%s: cannot be written\n", path_.c_str());
  }

 private:
  std::string path_;
  int fd_;
};

void run(const Bytes& bytes, const Record& record) {
  record.keep(bytes);
  // From memory of exactly this size, so that a sanitizer sees a target that reads beyond.
  const Bytes exact(bytes);
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path program(*argv);
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s <folder or file> [<number of random inputs> [<seed>]]\n", argv[0]);
    return 2;
  }
  const auto corpus = read_corpus(argv[1]);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: nothing in %s\n", argv[0], argv[1]);
    return 2;
  }
  const long num_random = argc > 2 ? std::stol(argv[2]) : 0;
  Random random(argc > 3 ? std::stoull(argv[3]) : 1);
  const Record record(program.filename().string() + ".input");
  for (const Bytes& bytes : corpus) run(bytes, record);
  for (long i = 0; i < num_random; ++i) run(make_input(random, corpus), record);
  std::printf("%zu inputs of the corpus and %ld random ones\n", corpus.size(), num_random);
  return 0;
}
