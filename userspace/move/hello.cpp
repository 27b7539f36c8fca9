// SPDX-License-Identifier: MIT
#include "move/hello.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "mose/wire/wire.pb.h"

namespace mose::move {
namespace {

namespace pb = mose::wire::v1;

// Flags of /proc/cpuinfo that a program can find by CPUID and then use: a program that was started where they exist may
// crash where they do not. Flags that only concern the kernel (mitigations, virtualisation, microcode) would refuse
// moves between machines that are alike.
constexpr std::array kProgramFlags = std::to_array<std::string_view>({
    "abm", "adx", "aes", "amx_bf16", "amx_int8", "amx_tile", "avx", "avx2", "avx512_4fmaps", "avx512_4vnniw",
    "avx512_bf16", "avx512_bitalg", "avx512_fp16", "avx512_vbmi2", "avx512_vnni", "avx512_vp2intersect",
    "avx512_vpopcntdq", "avx512bw", "avx512cd", "avx512dq", "avx512er", "avx512f", "avx512ifma", "avx512pf",
    "avx512vbmi", "avx512vl", "avx_ifma", "avx_vnni", "avx_vnni_int8", "avx_ne_convert", "bmi1", "bmi2", "cldemote",
    "clflush", "clflushopt", "clwb", "clzero", "cmov", "cx16", "cx8", "erms", "f16c", "fma", "fma4", "fsgsbase",
    "fsrm", "fxsr", "gfni", "hle", "lahf_lm", "lm", "lzcnt", "misalignsse", "mmx", "movbe", "movdir64b", "movdiri",
    "nopl", "pclmulqdq", "pku", "ospke", "popcnt", "prefetchwt1", "rdpid", "rdrand", "rdseed", "rdtscp", "rtm",
    "serialize", "sha_ni", "sha512", "sse", "sse2", "sse4_1", "sse4_2", "sse4a", "ssse3", "tbm", "tsc", "vaes",
    "vpclmulqdq", "waitpkg", "xop", "xsave", "xsavec", "xsaveopt"});

std::vector<std::string> read_cpu_features() {
  std::vector<std::string> features;
  auto text = read_file("/proc/cpuinfo");
  if (!text) return features;
  // x86 says "flags", arm64 "Features" (all of which are for programs).
  for (std::string_view field : {"flags", "Features"}) {
    size_t at = text->find(std::string("\n") + std::string(field));
    if (at == std::string::npos) continue;
    std::string_view line = std::string_view(*text).substr(at + 1);
    line = line.substr(0, line.find('\n'));
    line.remove_prefix(std::min(line.find(':') + 1, line.size()));
    while (!line.empty()) {
      size_t end = line.find(' ');
      std::string_view flag = line.substr(0, end);
      line.remove_prefix(end == std::string_view::npos ? line.size() : end + 1);
      bool wanted = field == "Features" || std::find(kProgramFlags.begin(), kProgramFlags.end(), flag) != kProgramFlags.end();
      if (!flag.empty() && wanted) features.emplace_back(flag);
    }
    break;
  }
  std::sort(features.begin(), features.end());
  return features;
}

std::string quote(const std::string& text) { return text.empty() ? "(unknown)" : text; }

}  // namespace

Hello local_hello(std::string node, Purpose purpose) {
  static const std::vector<std::string> cpu_features = read_cpu_features();
  Hello hello;
  hello.node = std::move(node);
  utsname name{};
  if (uname(&name) == 0) hello.architecture = name.machine;
  hello.page_size = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  hello.cpu_features = cpu_features;
  hello.features = wire::kFeatures;
  hello.purpose = purpose;
  return hello;
}

std::vector<std::byte> encode_hello(const Hello& hello) {
  pb::Hello message;
  message.set_version_min(hello.version_min);
  message.set_version_max(hello.version_max);
  message.set_features(hello.features);
  message.set_node(hello.node);
  message.set_architecture(hello.architecture);
  message.set_page_size(hello.page_size);
  for (const std::string& feature : hello.cpu_features) message.add_cpu_features(feature);
  message.set_criu_version(hello.criu_version);
  message.set_software(hello.software);
  message.set_purpose(static_cast<pb::Hello::Purpose>(hello.purpose));
  message.set_token(hello.token);
  std::vector<std::byte> out(message.ByteSizeLong());
  message.SerializeToArray(out.data(), static_cast<int>(out.size()));
  return out;
}

Result<Hello> decode_hello(std::span<const std::byte> payload) {
  pb::Hello message;
  if (!message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return fail("HELLO does not parse");
  if (message.purpose() < pb::Hello::PURPOSE_UNSPECIFIED || message.purpose() > pb::Hello::PURPOSE_QUERY) {
    return fail("HELLO with unknown purpose " + std::to_string(message.purpose()));
  }
  // It stands in log lines and in what the other end is told.
  if (message.node().size() > kNodeNameMax) return fail("HELLO with a node name of " + std::to_string(message.node().size()) + " bytes");
  Hello hello;
  hello.version_min = message.version_min();
  hello.version_max = message.version_max();
  hello.features = message.features();
  hello.node = message.node();
  hello.architecture = message.architecture();
  hello.page_size = message.page_size();
  hello.cpu_features.assign(message.cpu_features().begin(), message.cpu_features().end());
  std::sort(hello.cpu_features.begin(), hello.cpu_features.end());
  hello.criu_version = message.criu_version();
  hello.software = message.software();
  hello.purpose = static_cast<Purpose>(message.purpose());
  hello.token = message.token();
  return hello;
}

Status check_peer(const Hello& mine, const Hello& theirs) {
  const std::string peer = "node " + quote(theirs.node);
  if (theirs.version_min > mine.version_max || theirs.version_max < mine.version_min) {
    return fail(peer + " speaks protocol versions " + std::to_string(theirs.version_min) + " to " +
                std::to_string(theirs.version_max) + ", this node " + std::to_string(mine.version_min) + " to " +
                std::to_string(mine.version_max) + ": update the older one");
  }
  if (theirs.architecture != mine.architecture) {
    return fail(peer + " is a " + quote(theirs.architecture) + " machine, this node a " + quote(mine.architecture) +
                " one: processes cannot move between them");
  }
  if (theirs.page_size != mine.page_size) {
    return fail(peer + " has pages of " + std::to_string(theirs.page_size) + " bytes, this node of " +
                std::to_string(mine.page_size) + ": processes cannot move between them");
  }
  return {};
}

std::vector<std::string> missing_cpu_features(const Hello& source, const Hello& destination) {
  std::vector<std::string> missing;
  std::set_difference(source.cpu_features.begin(), source.cpu_features.end(), destination.cpu_features.begin(),
                      destination.cpu_features.end(), std::back_inserter(missing));
  return missing;
}

bool same_token(std::string_view a, std::string_view b) {
  if (a.empty() || a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

Result<Hello> greet(Channel& channel, const Hello& mine, Nanoseconds bound) {
  MOSE_TRY(channel.send(wire::FrameType::hello, encode_hello(mine)));
  MOSE_ASSIGN(Frame answer, channel.receive(bound));
  if (answer.type == wire::FrameType::error) return fail("peer refuses: " + std::string(as_text(answer.payload)));
  if (answer.type != wire::FrameType::hello) {
    return fail(std::string("peer answers HELLO with ") + to_string(answer.type));
  }
  MOSE_ASSIGN(Hello theirs, decode_hello(answer.payload));
  MOSE_TRY(check_peer(mine, theirs));
  return theirs;
}

Status welcome(Channel& channel, const Hello& mine) {
  return channel.send(wire::FrameType::hello, encode_hello(mine));
}

Status turn_away(Channel& channel, std::string_view reason) {
  return channel.send(wire::FrameType::error, as_bytes(reason));
}

}  // namespace mose::move
