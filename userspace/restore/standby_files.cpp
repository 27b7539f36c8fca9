// SPDX-License-Identifier: MIT
// Open files of two dumps: descriptors, and what lies behind them. Field numbers are those of CRIU's images/*.proto.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cstring>

#include "restore/standby_parts.h"

namespace mose::restore {
namespace {

// Kinds of files in files.img, and the field that holds each.
enum Kind : uint32_t {
  kRegular = 1,
  kPipe = 2,
  kInetSocket = 4,
  kEventfd = 6,
  kEpoll = 7,
  kInotify = 8,
  kFanotify = 12,
  kTimerfd = 17
};
struct KindField {
  uint32_t kind, field;
};
constexpr KindField kKinds[] = {{kRegular, 3}, {kInetSocket, 4}, {kEventfd, 8},
                                {kEpoll, 9},   {kTimerfd, 12},   {kPipe, 18}};
constexpr uint64_t kEstablished = 1, kClosed = 7, kListening = 10;  // states of TCP
constexpr uint64_t kQueueBytesMax = 256u << 20;

// A file of each side, and how it is reached.
struct FileContext {
  StandbyComparison& c;
  FieldPair fields;
  StandbyDescriptor descriptor;
  std::string what;
  bool shared;  // by several processes
};

uint32_t as_u32(const std::optional<uint64_t>& value) {
  return static_cast<uint32_t>(value.value_or(0));
}

// O_ flags in field `number`: those that fcntl can change may differ.
Status take_flags(FileContext& file, uint32_t number) {
  auto early = file.fields.early.take_number(number);
  auto final = file.fields.final.take_number(number);
  if (!early || !final) return fail(file.what + " has no flags in its image");
  if (*early == *final) return {};
  if ((*early ^ *final) & ~uint64_t{kChangeableFlags})
    return fail(file.what + " has changed its flags since the standby was made");
  file.c.delta.status_flags.push_back({file.descriptor, static_cast<uint32_t>(*final & kChangeableFlags)});
  return {};
}

Status compare_regular(FileContext& file) {
  MOSE_TRY(take_flags(file, 2));
  auto early_position = file.fields.early.take_number(3);
  auto final_position = file.fields.final.take_number(3);
  if (!early_position || !final_position || *final_position > INT64_MAX)
    return fail(file.what + " has no position in its image");
  StandbyFile out;
  out.descriptor = file.descriptor;
  if (*early_position != *final_position) out.position = final_position;
  (void)file.fields.early.take_number(8);
  out.size = file.fields.final.take_number(8);
  ImageFields copy = file.fields.final;
  out.path = copy.take_bytes(6).value_or("");
  const auto mode = copy.take_number(10);
  out.regular = mode && (*mode & 0170000) == 0100000;
  if (out.regular || out.position) file.c.delta.files.push_back(std::move(out));
  return file.fields.rest_equal(file.what, {{"6", "its name"}, {"10", "its permissions"}, {"5", "its owner"}});
}

Status compare_eventfd(FileContext& file) {
  MOSE_TRY(take_flags(file, 2));
  auto early = file.fields.early.take_number(4);
  auto final = file.fields.final.take_number(4);
  if (!early || !final || *final == UINT64_MAX) return fail(file.what + " has no counter in its image");
  if (*early != *final) file.c.delta.eventfds.push_back({file.descriptor, *early, *final});
  return file.fields.rest_equal(file.what);
}

Result<uint64_t> duration(ImageFields& fields, uint32_t seconds_field, const std::string& what) {
  auto seconds = fields.take_number(seconds_field);
  auto nanoseconds = fields.take_number(seconds_field + 1);
  if (!seconds || !nanoseconds || *seconds > kSecondsMax || *nanoseconds >= kNsPerSecond)
    return fail(what + " has an impossible time in its image");
  return *seconds * kNsPerSecond + *nanoseconds;
}

Status compare_timerfd(FileContext& file) {
  MOSE_TRY(take_flags(file, 2));
  FieldPair& fields = file.fields;
  ImageFields copy = fields.final;
  StandbyTimer out;
  out.descriptor = file.descriptor;
  out.clock = static_cast<int>(as_u32(copy.take_number(4)));
  const uint64_t early_ticks = fields.early.take_number(5).value_or(0);
  out.ticks = fields.final.take_number(5).value_or(0);
  auto mode = fields.final.take_number(6).value_or(0);
  auto early_mode = fields.early.take_number(6).value_or(0);
  out.absolute = (mode & TFD_TIMER_ABSTIME) != 0;
  MOSE_ASSIGN(uint64_t early_value, duration(fields.early, 7, file.what));
  MOSE_ASSIGN(uint64_t early_interval, duration(fields.early, 9, file.what));
  MOSE_ASSIGN(out.value_ns, duration(fields.final, 7, file.what));
  MOSE_ASSIGN(out.interval_ns, duration(fields.final, 9, file.what));
  if ((mode | early_mode) & ~uint64_t{TFD_TIMER_ABSTIME}) return fail(file.what + " watches for changes of the clock");
  // One that has expired and was not read since is started again by the read: what was left of its period nobody knows.
  if (out.value_ns == 0 && out.ticks > 0) out.value_ns = out.interval_ns;
  // It ran on in the standby: everything is set anew unless it stood and stands, with nothing in it that has been read
  // since.
  const bool idle = early_value == 0 && out.value_ns == 0 && early_interval == out.interval_ns && mode == early_mode &&
                    early_ticks == 0 && out.ticks == 0;
  if (!idle) file.c.delta.timers.push_back(out);
  return fields.rest_equal(file.what, {{"4", "its clock"}});
}

// What one side's epoll waits for, by the number of a descriptor and the file behind it.
struct Watch {
  uint32_t events = 0;
  uint64_t data = 0;
  ImageFields rest;
};
using Watches = std::map<std::pair<uint64_t, uint64_t>, Watch>;

// The kernel lists them in an order of its own, and each names its epoll by the number that CRIU gave it.
Result<Watches> take_watches(ImageFields& fields, const std::string& what) {
  Watches out;
  for (std::string_view message : fields.take_messages(4)) {
    MOSE_ASSIGN(ImageFields entry, ImageFields::parse(message));
    (void)entry.take_number(1);
    const auto target = entry.take_number(2), events = entry.take_number(3), data = entry.take_number(4);
    if (!target || !events || !data || *target > INT32_MAX || *events > UINT32_MAX) return fail(what + " has an impossible entry in its image");
    ImageFields copy = entry;
    if (!out.try_emplace({*target, copy.take_number(6).value_or(0)}, Watch{static_cast<uint32_t>(*events), *data, std::move(entry)}).second)
      return fail("what " + what + " waits for stands twice in its image");
  }
  return out;
}

Status compare_epoll(FileContext& file) {
  MOSE_ASSIGN(Watches early, take_watches(file.fields.early, file.what));
  MOSE_ASSIGN(Watches final, take_watches(file.fields.final, file.what));
  const size_t of_others = file.c.delta.watches.size();
  auto change = [&](StandbyWatch::Change kind, const Watches::value_type& entry) {
    file.c.delta.watches.push_back({file.descriptor, kind, static_cast<int>(entry.first.first), entry.second.events, entry.second.data});
  };
  // Those that go make room: a number may stand for another file now.
  for (const auto& entry : early) {
    if (!final.contains(entry.first)) change(StandbyWatch::Change::removed, entry);
  }
  for (const auto& entry : final) {
    auto before = early.find(entry.first);
    if (before == early.end()) {
      change(StandbyWatch::Change::added, entry);
      continue;
    }
    const Watch &was = before->second, &is = entry.second;
    if (ImageFields::difference(was.rest, is.rest)) return fail("what " + file.what + " waits for has changed since the standby was made");
    if (was.events == is.events && was.data == is.data) continue;
    // The kernel takes no change of an exclusive one.
    if (((was.events | is.events) & EPOLLEXCLUSIVE) == 0) {
      change(StandbyWatch::Change::modified, entry);
    } else {
      change(StandbyWatch::Change::removed, *before);
      change(StandbyWatch::Change::added, entry);
    }
  }
  // Of several processes the numbers are those of one that the image does not name.
  if (file.shared && file.c.delta.watches.size() != of_others) return fail("what " + file.what + " waits for has changed since the standby was made, and other processes have it too");
  MOSE_TRY(take_flags(file, 2));
  return file.fields.rest_equal(file.what);
}

// ---- connections

Status take_address(ImageFields copy, bool ipv6, StandbyConnection& out, const std::string& what) {
  std::vector<uint64_t> local = copy.take_numbers(11), remote = copy.take_numbers(12);
  auto local_port = copy.take_number(7), remote_port = copy.take_number(8);
  const size_t words = ipv6 ? 4 : 1;
  if (local.size() != words || remote.size() != words || !local_port || !remote_port || *local_port > UINT16_MAX ||
      *remote_port > UINT16_MAX || *local_port == 0 || *remote_port == 0)
    return fail(what + " has no complete addresses in its image");
  for (size_t i = 0; i < words; ++i) {
    for (auto [from, to] : {std::pair{&local, &out.local}, std::pair{&remote, &out.remote}}) {
      auto word = static_cast<uint32_t>((*from)[i]);
      std::memcpy(to->data() + 4 * i, &word, 4);
    }
  }
  // Would need the number of an interface.
  if (ipv6 && out.remote[0] == 0xfe && (out.remote[1] & 0xc0) == 0x80) return fail(what + " has a link-local address");
  out.ipv6 = ipv6;
  out.local_port = static_cast<uint16_t>(*local_port);
  out.remote_port = static_cast<uint16_t>(*remote_port);
  return {};
}

struct Stream {
  uint64_t in_length = 0, in_sequence = 0, out_length = 0, out_sequence = 0, unsent = 0;
  bool has_window = false;
  std::array<uint64_t, 15> all{};  // by field, for the comparison
  ImageFields rest;
  std::string_view queues;
};

Result<Stream> read_stream(const ImageSet& images, const std::string& name) {
  MOSE_ASSIGN(ImageContent content, images.content(name, kMagicTcpStream, 1));
  auto fields = ImageFields::parse(content.messages[0]);
  if (!fields) return context(name, std::move(fields).error());
  Stream out;
  std::array<std::optional<uint64_t>, 18> values;
  for (uint32_t number : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 12u, 13u, 14u, 15u, 16u, 17u}) {
    values[number] = fields->take_number(number);
    if (values[number].value_or(0) > UINT32_MAX) return fail(name + " holds an impossible number");
  }
  for (uint32_t number : {1u, 2u, 3u, 4u, 5u, 7u, 12u}) {
    if (!values[number]) return fail(name + " is not complete");
  }
  size_t at = 0;
  for (uint32_t number : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 12u, 13u, 14u, 15u, 16u, 17u})
    out.all[at++] = values[number].value_or(0);
  out.in_length = *values[1];
  out.in_sequence = *values[2];
  out.out_length = *values[3];
  out.out_sequence = *values[4];
  out.unsent = *values[12];
  out.has_window = values[14].has_value();
  if (out.has_window && (!values[13] || !values[15] || !values[16] || !values[17]))
    return fail(name + " is not complete");
  if (out.in_length > kQueueBytesMax || out.out_length > kQueueBytesMax || out.unsent > out.out_length ||
      content.rest.size() != out.in_length + out.out_length)
    return fail(name + " has queues of another length than it says");
  out.queues = content.rest;
  out.rest = std::move(*fields);
  return out;
}

// Positions in Stream::all.
enum : size_t {
  kOptions = 4,
  kSendScale,
  kMss,
  kReceiveScale,
  kTimestamp,
  kUnsent,
  kWl1,
  kSendWindow,
  kMaxWindow,
  kReceiveWindow,
  kReceiveWup
};

void fill_stream(const Stream& final, StandbyConnection& out) {
  auto value = [&](size_t at) { return static_cast<uint32_t>(final.all[at]); };
  out.in_sequence = static_cast<uint32_t>(final.in_sequence);
  out.out_sequence = static_cast<uint32_t>(final.out_sequence);
  out.options = value(kOptions);
  out.send_scale = value(kSendScale);
  out.receive_scale = value(kReceiveScale);
  out.mss = value(kMss);
  out.timestamp = value(kTimestamp);
  if (final.has_window)
    out.window = StandbyConnection::Window{value(kWl1), value(kSendWindow), value(kMaxWindow), value(kReceiveWindow),
                                           value(kReceiveWup)};
  out.in_queue = final.queues.substr(0, final.in_length);
  out.sent = final.queues.substr(final.in_length, final.out_length - final.unsent);
  out.unsent = final.queues.substr(final.in_length + final.out_length - final.unsent);
}

Status compare_socket(FileContext& file) {
  FieldPair& fields = file.fields;
  ImageFields early = fields.early, final = fields.final;
  const auto early_ino = early.take_number(2), final_ino = final.take_number(2);
  if (early_ino != final_ino) return fail(file.what + " is another socket since the standby was made");
  const std::string name = fmt::format("tcp-stream-{:x}.img", final_ino.value_or(0));
  const bool tcp = final.take_number(4) == SOCK_STREAM && final.take_number(5) == IPPROTO_TCP;
  const auto early_state = early.take_number(6), final_state = final.take_number(6);
  const bool connection = tcp && final_state == kEstablished && early_state == kEstablished;
  if (!connection || !file.c.final.has(name) || !file.c.early.has(name)) {
    if (tcp && (final_state == kClosed || final_state == kListening)) {
      file.c.delta.unconnected.push_back(file.descriptor);
    } else if (tcp) {
      MOSE_ASSIGN(ImageFields options, ImageFields::parse(final.take_bytes(14).value_or("")));
      file.c.delta.resting.push_back({file.descriptor, options.take_number(7).value_or(0) != 0});
    }
    MOSE_TRY(take_flags(file, 9));
    return fields.rest_equal(file.what,
                             {{"6", "the state of its connection"}, {"14", "its options"}, {"20", "its options"}});
  }
  StandbyConnection out;
  out.descriptor = file.descriptor;
  const auto family = final.take_number(3);
  if (family != AF_INET && family != AF_INET6) return fail(file.what + " is of an unknown family");
  MOSE_TRY(take_address(fields.final, family == AF_INET6, out, file.what));
  MOSE_ASSIGN(Stream early_stream, read_stream(file.c.early, name));
  MOSE_ASSIGN(Stream final_stream, read_stream(file.c.final, name));
  file.c.compared.insert(name);
  if (auto field = ImageFields::difference(early_stream.rest, final_stream.rest))
    return fail("the connection behind " + file.what + " has changed since the standby was made (field " + *field +
                ")");
  fill_stream(final_stream, out);

  MOSE_TRY(take_flags(file, 9));
  (void)fields.early.take_number(10);  // the backlog of a listener; here the kernel tells what is queued
  (void)fields.final.take_number(10);
  MOSE_ASSIGN(FieldPair options, take_pair(fields, 14, file.what));
  auto take_both = [&](uint32_t number) {
    (void)options.early.take_number(number);
    return as_u32(options.final.take_number(number));
  };
  // The kernel tunes the sizes of the buffers while data flows.
  out.send_buffer = take_both(1);
  out.receive_buffer = take_both(2);
  if (out.send_buffer > INT32_MAX || out.receive_buffer > INT32_MAX) return fail(file.what + " has impossible buffers");
  ImageFields copy = options.final;
  out.buffer_lock = as_u32(copy.take_number(25));
  // Leaving repair mode after the early dump took it from the source; what the workload had set is what it gets.
  const bool had_reuse = options.early.take_number(7).value_or(0) != 0;
  out.reuse_address = options.final.take_number(7).value_or(0) != 0 || had_reuse;
  MOSE_TRY(options.rest_equal("the options of " + file.what));
  MOSE_TRY(fields.rest_equal(file.what, {{"11", "its address"},
                                         {"12", "its peer"},
                                         {"8", "its peer"},
                                         {"19", "what it has shut down"},
                                         {"20", "its options"}}));
  file.c.delta.connections.push_back(out);
  return {};
}

// ---- pipes

constexpr size_t kEmptyImageBytes = 8;

struct PipeData {
  uint64_t size = 0;
  std::string_view contents;
};
Result<std::map<uint32_t, PipeData>> read_pipes(const ImageSet& images) {
  std::map<uint32_t, PipeData> out;
  const std::string name = "pipes-data.img";
  if (!images.has(name)) return out;
  if (images.bytes(name)->size() == kEmptyImageBytes) return out;
  // Messages and contents take turns.
  MOSE_ASSIGN(ImageContent start, images.content(name, kMagicPipesData, 1));
  std::string_view message = start.messages[0], in = start.rest;
  for (;;) {
    MOSE_ASSIGN(ImageFields fields, ImageFields::parse(message));
    auto id = fields.take_number(1), bytes = fields.take_number(2);
    PipeData data{fields.take_number(3).value_or(0), {}};
    if (!id || !bytes || *bytes > in.size() || !fields.empty()) return fail(name + " is damaged");
    data.contents = in.substr(0, *bytes);
    in.remove_prefix(*bytes);
    if (!out.emplace(static_cast<uint32_t>(*id), data).second) return fail(name + " names a pipe twice");
    if (in.empty()) return out;
    uint32_t size = 0;
    if (in.size() < sizeof size) return fail(name + " is cut off");
    std::memcpy(&size, in.data(), sizeof size);
    if (size > in.size() - sizeof size) return fail(name + " is cut off");
    message = in.substr(sizeof size, size);
    in.remove_prefix(sizeof size + size);
  }
}

struct Pipes {
  std::map<uint32_t, PipeData> early, final;
  std::set<uint32_t> done;
};

Status compare_pipe(FileContext& file, Pipes& pipes) {
  ImageFields copy = file.fields.final, early_copy = file.fields.early;
  const uint32_t id = as_u32(copy.take_number(2));
  if (id != as_u32(early_copy.take_number(2))) return fail(file.what + " is another pipe since the standby was made");
  const uint32_t both_flags = as_u32(copy.take_number(3)) | as_u32(early_copy.take_number(3));
  MOSE_TRY(take_flags(file, 3));
  MOSE_TRY(file.fields.rest_equal(file.what));
  auto early = pipes.early.find(id), final = pipes.final.find(id);
  if ((early == pipes.early.end()) != (final == pipes.final.end()))
    return fail("the pipe behind " + file.what + " has changed since the standby was made");
  if (final == pipes.final.end() || !pipes.done.insert(id).second) return {};
  if (early->second.size != final->second.size)
    return fail("the pipe behind " + file.what + " has another size since the standby was made");
  if (early->second.contents == final->second.contents) return {};
  if (both_flags & O_DIRECT) return fail("the pipe behind " + file.what + " keeps packets apart");
  file.c.delta.pipes.push_back({file.descriptor, early->second.contents.size(), final->second.contents});
  return {};
}

using FileMap = std::map<uint32_t, ImageFields>;
Result<FileMap> read_files(const ImageSet& images) {
  MOSE_ASSIGN(ImageContent content, images.content("files.img", kMagicFiles));
  FileMap out;
  for (std::string_view message : content.messages) {
    auto fields = ImageFields::parse(message);
    if (!fields) return context("files.img", std::move(fields).error());
    auto id = fields->take_number(2);
    if (!id || *id > UINT32_MAX || !out.emplace(static_cast<uint32_t>(*id), std::move(*fields)).second)
      return fail("files.img names files without or with the same number");
  }
  return out;
}

Status compare_file(StandbyComparison& c, uint32_t id, FieldPair& entry, Pipes& pipes) {
  auto early_kind = entry.early.take_number(1), final_kind = entry.final.take_number(1);
  auto reached = c.descriptors.find(id);
  const bool has_descriptor = reached != c.descriptors.end();
  const std::string what = has_descriptor ? "descriptor " + std::to_string(reached->second.number) + " of process " +
                                                std::to_string(reached->second.space)
                                          : "a file of the workload";
  if (early_kind != final_kind) return fail(what + " is of another kind since the standby was made");
  // The standby's own hears what happens to the files of the destination, and images hold no events.
  if (early_kind == kInotify || early_kind == kFanotify) return fail(what + " watches files");
  const auto* known =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const KindField& k) { return k.kind == early_kind; });
  if (known == std::end(kKinds)) return entry.rest_equal(what);
  MOSE_ASSIGN(FieldPair fields, take_pair(entry, known->field, what));
  (void)fields.early.take_number(1);  // the number of the file again
  (void)fields.final.take_number(1);
  MOSE_TRY(entry.rest_equal(what));
  if (!has_descriptor) return fields.rest_equal(what, {{"8", "its size"}});  // mapped, a directory, the program
  FileContext file{c, std::move(fields), reached->second, what, c.shared.contains(id)};
  switch (*early_kind) {
    case kRegular:
      return compare_regular(file);
    case kPipe:
      return compare_pipe(file, pipes);
    case kInetSocket:
      return compare_socket(file);
    case kEventfd:
      return compare_eventfd(file);
    case kEpoll:
      return compare_epoll(file);
    default:
      return compare_timerfd(file);
  }
}

Result<std::map<uint64_t, ImageFields>> read_descriptors(const ImageSet& images, const std::string& name) {
  MOSE_ASSIGN(ImageContent content, images.content(name, kMagicFdinfo));
  std::map<uint64_t, ImageFields> out;
  for (std::string_view message : content.messages) {
    auto fields = ImageFields::parse(message);
    if (!fields) return context(name, std::move(fields).error());
    auto number = fields->take_number(4);
    if (!number || *number > INT32_MAX || !out.emplace(*number, std::move(*fields)).second)
      return fail(name + " names descriptors without or with the same number");
  }
  return out;
}

Result<uint64_t> files_id(const ImageSet& images, SpaceId space) {
  const std::string name = "ids-" + std::to_string(space) + ".img";
  MOSE_ASSIGN(std::string_view message, images.message(name, kMagicIds));
  MOSE_ASSIGN(ImageFields fields, ImageFields::parse(message));
  auto id = fields.take_number(2);
  if (!id) return fail(name + " names no descriptors");
  return *id;
}

}  // namespace

Status compare_descriptors(StandbyComparison& c) {
  for (const auto& [space, threads] : c.delta.processes) {
    const std::string what = "process " + std::to_string(space);
    MOSE_ASSIGN(uint64_t early_id, files_id(c.early, space));
    MOSE_ASSIGN(uint64_t final_id, files_id(c.final, space));
    if (early_id != final_id)
      return fail("the images number the descriptors of " + what + " differently");  // ids-*.img are compared later
    const std::string name = "fdinfo-" + std::to_string(final_id) + ".img";
    if (c.compared.contains(name)) continue;  // shared with another process
    if (!c.early.has(name) && !c.final.has(name)) continue;
    MOSE_ASSIGN(auto early, read_descriptors(c.early, name));
    MOSE_ASSIGN(auto final, read_descriptors(c.final, name));
    c.compared.insert(name);
    for (auto& [number, fields] : final) {
      if (!early.contains(number))
        return fail(what + " has opened descriptor " + std::to_string(number) + " since the standby was made");
    }
    for (auto& [number, fields] : early) {
      auto other = final.find(number);
      const std::string descriptor = "descriptor " + std::to_string(number) + " of " + what;
      if (other == final.end())
        return fail(what + " has closed descriptor " + std::to_string(number) + " since the standby was made");
      FieldPair pair{std::move(fields), std::move(other->second)};
      auto early_file = pair.early.take_number(1), final_file = pair.final.take_number(1);
      if (!early_file || !final_file || !c.pair_files(as_u32(early_file), as_u32(final_file)))
        return fail(descriptor + " is shared with another one since the standby was made");
      MOSE_TRY(pair.rest_equal(descriptor, {{"2", "whether it is closed on exec"}, {"3", "its kind"}}));
      auto first = c.descriptors.try_emplace(as_u32(early_file), StandbyDescriptor{space, static_cast<int>(number)}).first;
      if (first->second.space != space) c.shared.insert(as_u32(early_file));
    }
  }
  return {};
}

Status compare_files(StandbyComparison& c) {
  MOSE_ASSIGN(FileMap early, read_files(c.early));
  MOSE_ASSIGN(FileMap final, read_files(c.final));
  Pipes pipes;
  MOSE_ASSIGN(pipes.early, read_pipes(c.early));
  MOSE_ASSIGN(pipes.final, read_pipes(c.final));
  c.compared.insert({"files.img", "pipes-data.img"});
  if (early.size() != final.size())
    return fail("the workload has another number of open files since the standby was made");
  for (auto& [id, fields] : early) {
    // What nothing refers to has the same number in both, or is not understood.
    if (!c.final_file.contains(id) && !c.pair_files(id, id))
      return fail("the images name files that nothing refers to");
    auto other = final.find(c.final_file.at(id));
    if (other == final.end()) return fail("files.img lacks a file that is open");
    FieldPair entry{std::move(fields), std::move(other->second)};
    MOSE_TRY(compare_file(c, id, entry, pipes));
  }
  for (const auto& [id, data] : pipes.early) {
    if (!pipes.final.contains(id)) return fail("a pipe has gone since the standby was made");
    if (!pipes.done.contains(id) && pipes.final.at(id).contents != data.contents)
      return fail("a pipe that nothing refers to has changed since the standby was made");
  }
  for (const auto& [id, data] : pipes.final) {
    if (!pipes.early.contains(id)) return fail("a pipe is new since the standby was made");
  }
  return {};
}

}  // namespace mose::restore
