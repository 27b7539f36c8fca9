// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

// What the owners of BPF programs share: libbpf's voice in our log, errors with the verifier's last words, pins, plain
// map access by descriptor, and whether TCX links work here. Skeletons are loaded by the stage that owns the
// program (bpf_skeleton.h).
namespace mose::bpf {

// From now on libbpf's output goes to our log at debug. Call before the first use of libbpf; repeated calls are
// harmless.
void capture_libbpf_log();

// The error of a libbpf call that has just returned `code` (negative errno) in this thread, with the last lines that
// libbpf printed meanwhile (the verifier's among them).
[[nodiscard]] std::unexpected<Error> fail_libbpf(std::string_view what, int code);

// What libbpf has printed so far is not part of the next error.
void forget_libbpf_words();

// A descriptor of whatever is pinned at `path`.
[[nodiscard]] Result<Fd> open_pinned(const std::string& path);
// Makes the directories above `path` (which must lie in a bpffs) and pins.
[[nodiscard]] Status pin(int object, const std::string& path);
// Removes pins in `directory` and the directory itself. Nothing there is fine.
[[nodiscard]] Status unpin_directory(const std::string& directory);

inline constexpr uint64_t kMapLocked = 4;  // BPF_F_LOCK: under the spin lock of the value
[[nodiscard]] Status map_lookup(int map, const void* key, void* value, uint64_t flags = 0);
[[nodiscard]] Status map_update(int map, const void* key, const void* value, uint64_t flags = 0);
// For maps that allocate as they grow: the kernel fills its stores of small pieces in the background, and a burst may be
// ahead of it.
[[nodiscard]] Status map_update_patiently(int map, const void* key, const void* value);
// Nothing there is fine.
[[nodiscard]] Status map_delete(int map, const void* key);
// `next` gets the key behind `key` (null: the first). False: there is none.
[[nodiscard]] Result<bool> map_next_key(int map, const void* key, void* next);

// Every entry of a hash or array: keys and values end to end; a value of a per-CPU map is possible_cpus() of them, each
// rounded up to 8 bytes. Not one moment: what comes or goes meanwhile may be there or not.
struct MapDump {
  size_t count = 0;
  std::vector<std::byte> keys, values;
};
[[nodiscard]] Result<MapDump> map_dump(int map);

// Size of one value; per-CPU maps give possible_cpus() of them, each rounded up to 8 bytes.
[[nodiscard]] Result<uint32_t> map_value_size(int map);
[[nodiscard]] Result<unsigned> possible_cpus();

enum class TcPoint : uint8_t { ingress, egress };
// A link of `program` at one point of a device; detached when the last descriptor and pin are gone.
[[nodiscard]] Result<Fd> attach_tcx(int program, unsigned ifindex, TcPoint point);

// Where there are no TCX links: a filter of the device's clsact qdisc, which is made when there is none and stays. The
// filter goes with the device or by detach_clsact(). `handle` tells our filters on one device apart; the priority is
// the first from 1 on that no other kind of filter has, so that ours sees a frame first. What is attached already is
// left so.
[[nodiscard]] Status attach_clsact(int program, unsigned ifindex, TcPoint point, uint32_t handle);
// Removes the filters of these programs from every device of the caller's network namespace. Nothing there is fine.
[[nodiscard]] Status detach_clsact(std::span<const uint32_t> program_ids);

enum class XdpMode : uint8_t { native, generic };
// A link of `program` in the one slot that a device has, whatever the mode; fails with EBUSY when another is there and
// with EOPNOTSUPP when its driver has no such mode.
[[nodiscard]] Result<Fd> attach_xdp(int program, unsigned ifindex, XdpMode mode);
// A program that lets everything through, native, without a link: it goes with the device. A veth takes what a program at
// its other end sends back only where it has one itself.
[[nodiscard]] Status attach_xdp_pass(unsigned ifindex);
// The device that a link at XDP is on; 0: none any more (the device is gone, or somebody has detached it).
[[nodiscard]] Result<unsigned> xdp_link_device(int link);

[[nodiscard]] Result<uint32_t> program_id(int program);
// Follows from the instructions alone: equal for two loads of one program.
[[nodiscard]] Result<std::array<uint8_t, 8>> program_tag(int program);

// How often a tracing program was skipped because it ran already on that CPU.
[[nodiscard]] Result<uint64_t> program_misses(int program);

// The program behind a link.
[[nodiscard]] Result<Fd> program_of_link(int link);

// One frame through a TC program, as if it were attached: what it decides and what the frame is like afterwards. Nothing
// is sent; maps change as they would.
enum class TcVerdict : uint8_t { next, drop, redirect, other };
struct TcRun {
  TcVerdict verdict = TcVerdict::other;
  std::vector<uint8_t> frame;
};
[[nodiscard]] Result<TcRun> run_at_tc(int program, std::span<const uint8_t> frame);

// Attaches an empty program to the loopback of the caller's network namespace for a moment. The error is the reason why
// TCX links do not work here.
[[nodiscard]] Status probe_tcx();

}  // namespace mose::bpf
