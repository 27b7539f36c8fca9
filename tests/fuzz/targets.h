// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

// What reads bytes that others have made, each as one function of the bytes. It ends the process (CHECK, sanitizer) when
// something accepts what it must not. Two programs call them: fuzz_corpus_test with the saved corpus and mutations of it, and
// per target a libFuzzer program that looks for more (tools/fuzz).
namespace mose::fuzz {

using Input = std::span<const std::byte>;

void feed_frames(Input input);    // the stream of another node: frames, their page payloads, HELLO
void feed_payloads(Input input);  // what it sends as messages of wire.proto, and half of a report
void feed_control(Input input);   // the control socket, the HTTP door, records of workloads
void feed_config(Input input);    // mose.toml and descriptions of workloads
void feed_journal(Input input);   // a journal, and what follows from it
void feed_images(Input input);    // CRIU's images, and the comparison of two dumps
void feed_criu(Input input);      // what CRIU answers, and what it hands to the pager
void feed_mappings(Input input);  // what the preload is told of mappings
void feed_packet(Input input);    // frames on the wire, by the parser of the BPF programs

struct Target {
  const char* name;  // also of its directory in tests/fuzz/corpus
  void (*feed)(Input);
};
inline constexpr Target kTargets[] = {
    {"frames", feed_frames},   {"payloads", feed_payloads}, {"control", feed_control},   {"config", feed_config}, {"journal", feed_journal},
    {"images", feed_images},   {"criu", feed_criu},         {"mappings", feed_mappings}, {"packet", feed_packet},
};

// A directory in memory for those who read files; it goes with the program.
[[nodiscard]] const std::string& scratch_directory();

inline std::string_view text_of(Input input) { return {reinterpret_cast<const char*>(input.data()), input.size()}; }

}  // namespace mose::fuzz
