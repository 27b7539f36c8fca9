// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.h"

namespace mose::bpf {

// A BPF iterator over tasks: a program that the kernel calls for some of them and that writes records about what it sees.
class Iterator {
 public:
  // `owner` keeps the program, which is borrowed.
  Iterator(std::shared_ptr<const void> owner, int program) : owner_(std::move(owner)), program_(program) {}

  // Called for each thread of a process, one after the other.
  template <class Record>
  [[nodiscard]] Result<std::vector<Record>> of_process(pid_t pid) const {
    MOSE_ASSIGN(std::string bytes, read(Over::process, pid));
    return records<Record>(bytes);
  }
  // Called once, for the first thread of this process: of a program that walks by itself.
  template <class Record>
  [[nodiscard]] Result<std::vector<Record>> once() const {
    MOSE_ASSIGN(std::string bytes, read(Over::one_thread, 0));
    return records<Record>(bytes);
  }

 private:
  enum class Over : uint8_t { process, one_thread };
  [[nodiscard]] Result<std::string> read(Over over, pid_t pid) const;

  template <class Record>
  [[nodiscard]] static Result<std::vector<Record>> records(const std::string& bytes) {
    static_assert(std::is_trivially_copyable_v<Record>);
    if (bytes.size() % sizeof(Record) != 0) return fail("a BPF iterator gave part of a record");
    std::vector<Record> out(bytes.size() / sizeof(Record));
    if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }

  std::shared_ptr<const void> owner_;
  int program_;
};

}  // namespace mose::bpf
