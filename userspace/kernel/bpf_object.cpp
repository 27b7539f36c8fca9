// SPDX-License-Identifier: MIT
#include "kernel/bpf_object.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>

#include "base/log.h"
#include "kernel/bpf_info.h"

namespace mose::bpf {
namespace {

// The kernel headers of Debian 12 end before TCX (Linux 6.6).
constexpr auto kTcxIngress = static_cast<bpf_attach_type>(46);
constexpr auto kTcxEgress = static_cast<bpf_attach_type>(47);

constexpr size_t kTailMax = 2000;  // of libbpf's output in an error; the verifier states its reason at the end
thread_local std::string tail;

void keep_tail(std::string_view line) {
  tail += line;
  if (tail.size() > 2 * kTailMax) tail.erase(0, tail.size() - kTailMax);
}

int print(libbpf_print_level level, const char* format, va_list arguments) {
  std::array<char, 4096> text;
  int size = vsnprintf(text.data(), text.size(), format, arguments);
  if (size <= 0) return size;
  std::string_view line(text.data(), std::min<size_t>(size, text.size() - 1));
  if (level != LIBBPF_DEBUG) keep_tail(line);
  while (line.ends_with('\n')) line.remove_suffix(1);
  log::debug("libbpf", {{"text", line}});
  return size;
}

}  // namespace

void capture_libbpf_log() {
  libbpf_set_print(print);
}

std::unexpected<Error> fail_libbpf(std::string_view what, int code) {
  std::string text(what);
  std::string words = std::exchange(tail, {});
  if (words.size() > kTailMax) words.erase(0, words.size() - kTailMax);
  while (words.ends_with('\n')) words.pop_back();
  if (!words.empty()) text += " [" + words + "]";
  return fail_errno(text, code < 0 ? -code : code);
}

void forget_libbpf_words() {
  tail.clear();
}

Result<Fd> open_pinned(const std::string& path) {
  int fd = bpf_obj_get(path.c_str());
  if (fd < 0) return fail_errno("pinned object " + path, -fd);
  return Fd(fd);
}

Status pin(int object, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return fail_errno("directory of pin " + path, error.value());
  if (int code = bpf_obj_pin(object, path.c_str()); code < 0) {
    return fail_errno("pin " + path + (code == -EPERM ? " (is this a bpffs?)" : ""), -code);
  }
  return {};
}

Status unpin_directory(const std::string& directory) {
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  if (error) return fail_errno("remove pins in " + directory, error.value());
  return {};
}

Status map_lookup(int map, const void* key, void* value, uint64_t flags) {
  if (int code = bpf_map_lookup_elem_flags(map, key, value, flags); code < 0) return fail_errno("map lookup", -code);
  return {};
}

Status map_update(int map, const void* key, const void* value, uint64_t flags) {
  if (int code = bpf_map_update_elem(map, key, value, flags); code < 0) return fail_errno("map update", -code);
  return {};
}

Status map_delete(int map, const void* key) {
  if (int code = bpf_map_delete_elem(map, key); code < 0 && code != -ENOENT) return fail_errno("map delete", -code);
  return {};
}

Result<bool> map_next_key(int map, const void* key, void* next) {
  int code = bpf_map_get_next_key(map, key, next);
  if (code == -ENOENT) return false;
  if (code < 0) return fail_errno("next key of a map", -code);
  return true;
}

Result<bpf_map_info> map_info(int map) {
  bpf_map_info info{};
  uint32_t size = sizeof info;
  if (int code = bpf_map_get_info_by_fd(map, &info, &size); code < 0) return fail_errno("map info", -code);
  return info;
}

Result<bpf_prog_info> program_info(int program) {
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  if (int code = bpf_obj_get_info_by_fd(program, &info, &size); code < 0) return fail_errno("program info", -code);
  return info;
}

bool is_per_cpu(uint32_t map_type) {
  return map_type == BPF_MAP_TYPE_PERCPU_HASH || map_type == BPF_MAP_TYPE_PERCPU_ARRAY ||
         map_type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

Result<uint32_t> map_value_size(int map) {
  MOSE_ASSIGN(bpf_map_info info, map_info(map));
  return info.value_size;
}

Result<MapDump> map_dump(int map) {
  MOSE_ASSIGN(bpf_map_info info, map_info(map));
  size_t value_size = info.value_size;
  if (is_per_cpu(info.type)) {
    MOSE_ASSIGN(unsigned cpus, possible_cpus());
    value_size = (value_size + 7) / 8 * 8 * cpus;
  }
  // A batch ends at the end of a bucket: one that is too small for the next bucket is refused and made larger.
  uint32_t batch = std::min(256u, std::max(info.max_entries, 1u));
  MapDump out;
  std::array<std::byte, 64> from{}, to{};  // the kernel's place: 4 bytes, or a key
  if (info.key_size > from.size()) return fail("dump a map: keys of " + std::to_string(info.key_size) + " bytes");
  for (bool first = true;;) {
    out.keys.resize((out.count + batch) * info.key_size);
    out.values.resize((out.count + batch) * value_size);
    uint32_t count = batch;
    int code =
        bpf_map_lookup_batch(map, first ? nullptr : from.data(), to.data(), out.keys.data() + out.count * info.key_size,
                             out.values.data() + out.count * value_size, &count, nullptr);
    if (code == -ENOSPC && batch < info.max_entries) {
      batch = std::min(batch * 2, info.max_entries);
      continue;
    }
    if (code < 0 && code != -ENOENT) return fail_errno("dump a map", -code);
    out.count += count;
    if (code == -ENOENT) break;
    from = to;
    first = false;
  }
  out.keys.resize(out.count * info.key_size);
  out.values.resize(out.count * value_size);
  return out;
}

Status map_update_patiently(int map, const void* key, const void* value) {
  constexpr int kTries = 100;
  constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 1'000'000};
  for (int tries = 1;; ++tries) {
    Status updated = map_update(map, key, value);
    if (updated || updated.error().code != ENOMEM || tries == kTries) return updated;
    nanosleep(&kPause, nullptr);
  }
}

Result<unsigned> possible_cpus() {
  int count = libbpf_num_possible_cpus();
  if (count < 0) return fail_errno("number of possible CPUs", -count);
  return static_cast<unsigned>(count);
}

Result<Fd> attach_tcx(int program, unsigned ifindex, TcPoint point) {
  auto type = point == TcPoint::ingress ? kTcxIngress : kTcxEgress;
  int fd = bpf_link_create(program, static_cast<int>(ifindex), type, nullptr);
  if (fd < 0) return fail_errno("TCX link on device " + std::to_string(ifindex), -fd);
  return Fd(fd);
}

Result<Fd> attach_xdp(int program, unsigned ifindex, XdpMode mode) {
  // XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE of linux/if_link.h.
  LIBBPF_OPTS(bpf_link_create_opts, options, .flags = mode == XdpMode::generic ? 2u : 4u);
  int fd = bpf_link_create(program, static_cast<int>(ifindex), BPF_XDP, &options);
  if (fd >= 0) return Fd(fd);
  std::string what = "XDP link on device " + std::to_string(ifindex);
  // The kernel gives EEXIST where the other one is there in another mode.
  if (fd == -EBUSY || fd == -EEXIST) return fail_errno(what + ": another XDP program is there", EBUSY);
  if (fd == -EOPNOTSUPP) what += ": its driver has no XDP of this mode";
  return fail_errno(what, -fd);
}

Status attach_xdp_pass(unsigned ifindex) {
  constexpr int kXdpPass = 2;         // XDP_PASS
  constexpr uint32_t kFlags = 1 | 4;  // XDP_FLAGS_UPDATE_IF_NOEXIST, XDP_FLAGS_DRV_MODE
  std::array<bpf_insn, 2> code{};
  code[0] = {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = kXdpPass};
  code[1] = {.code = BPF_JMP | BPF_EXIT};
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  // Frames of many fragments as well, or a device with a large MTU refuses it.
  options.prog_flags = 1u << 5;  // BPF_F_XDP_HAS_FRAGS
  Fd program(bpf_prog_load(BPF_PROG_TYPE_XDP, "mose_pass", "Dual MIT/GPL", code.data(), code.size(), &options));
  if (!program) return fail_errno("load an empty XDP program");
  if (int code_of = bpf_xdp_attach(static_cast<int>(ifindex), program.get(), kFlags, nullptr); code_of < 0) {
    return fail_errno("XDP program on device " + std::to_string(ifindex), -code_of);
  }
  return {};
}

Result<unsigned> xdp_link_device(int link) {
  bpf_link_info info{};
  uint32_t size = sizeof info;
  if (int code = bpf_obj_get_info_by_fd(link, &info, &size); code < 0) return fail_errno("link info", -code);
  if (info.type != BPF_LINK_TYPE_XDP) return fail("a pinned link is not one at XDP");
  return info.xdp.ifindex;
}

Result<uint32_t> program_id(int program) {
  MOSE_ASSIGN(bpf_prog_info info, program_info(program));
  return info.id;
}

Result<std::array<uint8_t, 8>> program_tag(int program) {
  MOSE_ASSIGN(bpf_prog_info info, program_info(program));
  std::array<uint8_t, 8> tag{};
  std::copy(std::begin(info.tag), std::end(info.tag), tag.begin());
  return tag;
}

Result<uint64_t> program_misses(int program) {
  MOSE_ASSIGN(bpf_prog_info info, program_info(program));
  return info.recursion_misses;
}

Result<Fd> program_of_link(int link) {
  bpf_link_info info{};
  uint32_t size = sizeof info;
  if (int code = bpf_obj_get_info_by_fd(link, &info, &size); code < 0) return fail_errno("link info", -code);
  int fd = bpf_prog_get_fd_by_id(info.prog_id);
  if (fd < 0) return fail_errno("open program " + std::to_string(info.prog_id), -fd);
  return Fd(fd);
}

namespace {

// TC_ACT_* of linux/pkt_cls.h.
constexpr int kTcNext = -1, kTcDrop = 2, kTcRedirect = 7;
constexpr size_t kRunHeadroom = 256;  // a program may put headers in front

}  // namespace

Result<TcRun> run_at_tc(int program, std::span<const uint8_t> frame) {
  TcRun run;
  run.frame.resize(frame.size() + kRunHeadroom);
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(), .data_out = run.frame.data(),
              .data_size_in = static_cast<uint32_t>(frame.size()),
              .data_size_out = static_cast<uint32_t>(run.frame.size()));
  if (int code = bpf_prog_test_run_opts(program, &options); code < 0) return fail_errno("run a TC program", -code);
  run.frame.resize(options.data_size_out);
  int verdict = static_cast<int>(options.retval);
  if (verdict == kTcNext) run.verdict = TcVerdict::next;
  if (verdict == kTcDrop) run.verdict = TcVerdict::drop;
  if (verdict == kTcRedirect) run.verdict = TcVerdict::redirect;
  return run;
}

Status probe_tcx() {
  std::array<bpf_insn, 2> code{};
  code[0] = {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = -1};
  code[1] = {.code = BPF_JMP | BPF_EXIT};
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = kTcxIngress);
  Fd program(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "mose_probe", "Dual MIT/GPL", code.data(), code.size(), &options));
  if (!program) return fail_errno("load an empty TC program");
  constexpr unsigned kLoopback = 1;
  if (auto link = attach_tcx(program.get(), kLoopback, TcPoint::ingress); !link) {
    return context("TCX links do not work here (Linux 6.6 and later have them)", link.error());
  }
  return {};
}

}  // namespace mose::bpf
