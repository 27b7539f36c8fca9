// SPDX-License-Identifier: MIT
#include "agent/wire_messages.h"

#include <fmt/format.h>

#include <algorithm>

#include "mose/wire/wire.pb.h"
#include "restore/image_difference.h"

namespace mose::agent {
namespace {

namespace pb = mose::wire::v1;

constexpr size_t kReasonBytesMax = 4096;
constexpr size_t kTokenBytes = 16;
constexpr uint64_t kPrepareBytesLater = 256;  // token and host:port, the longest about 80
constexpr Nanoseconds kImagesAgeMax = std::chrono::hours(1);

template <typename Message>
Result<Message> parse(const std::string& bytes, const char* name) {
  Message message;
  if (!message.ParseFromString(bytes)) return fail(std::string("the peer's ") + name + " cannot be read");
  return message;
}

pb::Workload to_wire(const WorkloadSpec& spec, const std::string& hostname) {
  pb::Workload out;
  out.set_name(spec.name);
  for (const ServiceAddress& address : spec.addresses) out.add_addresses(format_with_prefix(address));
  out.set_mac(format_mac(spec.mac));
  out.set_gateway(spec.gateway);
  out.set_root(spec.root);
  for (const WorkloadMount& mount : spec.mounts) {
    pb::Mount* m = out.add_mounts();
    m->set_source(mount.source);
    m->set_target(mount.target);
    m->set_mode(static_cast<uint32_t>(mount.mode));
    m->set_read_only(mount.read_only);
  }
  for (const std::string& word : spec.command) out.add_command(word);
  for (const std::string& pair : spec.environment) out.add_environment(pair);
  out.set_hostname(hostname);
  return out;
}

Result<WorkloadSpec> from_wire(const pb::Workload& in) {
  WorkloadSpec spec;
  spec.name = in.name();
  for (const std::string& text : in.addresses()) {
    MOSE_ASSIGN(ServiceAddress address, parse_service_address(text));
    spec.addresses.push_back(address);
  }
  MOSE_ASSIGN(spec.mac, parse_mac(in.mac()));
  spec.gateway = in.gateway();
  spec.root = in.root();
  for (const pb::Mount& mount : in.mounts()) {
    if (mount.mode() > static_cast<uint32_t>(MountMode::copy)) return fail("the peer sent an unknown mount mode");
    spec.mounts.push_back({mount.source(), mount.target(), static_cast<MountMode>(mount.mode()), mount.read_only()});
  }
  spec.command.assign(in.command().begin(), in.command().end());
  spec.environment.assign(in.environment().begin(), in.environment().end());
  MOSE_TRY(validate(spec));
  return spec;
}

}  // namespace

namespace {

Result<std::optional<handover::Tunnel>> tunnel_from_wire(const pb::Prepare& in) {
  if (!in.has_tunnel()) return std::nullopt;
  auto address = [](const std::string& text) {
    return parse_service_address(text + (text.find(':') == std::string::npos ? "/32" : "/128"));
  };
  handover::Tunnel tunnel;
  MOSE_ASSIGN(tunnel.local, address(in.tunnel().source()));
  MOSE_ASSIGN(tunnel.remote, address(in.tunnel().destination()));
  const uint32_t port = in.tunnel().port();
  if (tunnel.local.family != tunnel.remote.family || port == 0 || port > 65535)
    return fail("the peer sent a tunnel that cannot be");
  tunnel.port = static_cast<uint16_t>(port);
  return tunnel;
}

}  // namespace

std::string encode(const PreparePayload& payload) {
  pb::Prepare out;
  *out.mutable_workload() = to_wire(payload.spec, payload.hostname);
  out.set_token(payload.token);
  out.set_page_server_address(payload.page_server_address);
  for (const FileIdentity& file : payload.files) {
    pb::FileIdentity* f = out.add_files();
    f->set_path(file.path);
    f->set_size(file.size);
    f->set_digest(file.digest);
  }
  for (const handover::Neighbour& neighbour : payload.neighbours) {
    pb::Neighbour* n = out.add_neighbours();
    n->set_address(format_address(neighbour.address));
    n->set_mac(format_mac(neighbour.mac));
  }
  if (payload.path.tunnel) {
    out.mutable_tunnel()->set_source(format_address(payload.path.tunnel->local));
    out.mutable_tunnel()->set_destination(format_address(payload.path.tunnel->remote));
    out.mutable_tunnel()->set_port(payload.path.tunnel->port);
  }
  out.set_memory_bytes(payload.memory_bytes);
  if (payload.capabilities) out.set_capabilities(*payload.capabilities);
  out.set_tasks(payload.tasks);
  out.set_mtu(payload.mtu);
  out.set_memory_first(payload.memory_first);
  return out.SerializeAsString();
}

Status check_prepare(const PreparePayload& payload) {
  const uint64_t bytes = encode(payload).size() + kPrepareBytesLater;
  if (bytes <= wire::kControlPayloadMax) return {};
  const WorkloadSpec& spec = payload.spec;
  PreparePayload words, mounts, files, neighbours;
  words.spec.command = spec.command;
  words.spec.environment = spec.environment;
  mounts.spec.mounts = spec.mounts;
  files.files = payload.files;
  neighbours.neighbours = payload.neighbours;
  struct Part {
    uint64_t bytes;
    std::string what;
    const char* remedy;
  };
  const Part parts[] = {
      {encode(words).size(), "its environment and command", "start it with less of them"},
      {encode(mounts).size(), fmt::format("its {} mounts", spec.mounts.size()), "declare directories above them"},
      {encode(files).size(), fmt::format("the {} files that it has open or mapped", payload.files.size()),
       "let it close some, or declare their mount shared or copy"},
      {encode(neighbours).size(), fmt::format("the {} neighbours that it knows", payload.neighbours.size()),
       "migrate when those that it does not speak with are forgotten"},
  };
  const Part& most = *std::ranges::max_element(parts, {}, &Part::bytes);
  return fail(fmt::format("what the other node is told of workload {} first (PREPARE) has {} bytes and may have {}; {} of them are {}: {}",
                          spec.name, bytes, wire::kControlPayloadMax, most.bytes, most.what, most.remedy));
}

Result<PreparePayload> decode_prepare(const std::string& bytes) {
  MOSE_ASSIGN(pb::Prepare in, parse<pb::Prepare>(bytes, "PREPARE"));
  PreparePayload payload;
  MOSE_ASSIGN(payload.spec, from_wire(in.workload()));
  payload.hostname = in.workload().hostname();
  payload.token = in.token();
  if (payload.token.size() != kTokenBytes) return fail("the peer's PREPARE has no token");
  payload.page_server_address = in.page_server_address();
  for (const pb::FileIdentity& file : in.files()) payload.files.push_back({file.path(), file.size(), file.digest()});
  for (const pb::Neighbour& neighbour : in.neighbours()) {
    bool v6 = neighbour.address().find(':') != std::string::npos;
    MOSE_ASSIGN(ServiceAddress address, parse_service_address(neighbour.address() + (v6 ? "/128" : "/32")));
    MOSE_ASSIGN(MacAddress mac, parse_mac(neighbour.mac()));
    payload.neighbours.push_back({address, mac});
  }
  MOSE_ASSIGN(payload.path.tunnel, tunnel_from_wire(in));
  payload.memory_bytes = in.memory_bytes();
  if (in.has_capabilities()) payload.capabilities = in.capabilities();
  payload.tasks = in.tasks();
  payload.mtu = in.mtu();
  payload.memory_first = in.memory_first();
  return payload;
}

std::string encode(const PreparedPayload& payload) {
  pb::Prepared out;
  out.set_uplink_mac(format_mac(payload.uplink_mac));
  out.set_images_bytes_max(payload.images_bytes_max);
  out.set_takes_tunnel(payload.takes_tunnel);
  out.set_takes_differences(payload.takes_differences);
  out.set_memory_first(payload.memory_first);
  return out.SerializeAsString();
}

Result<PreparedPayload> decode_prepared(const std::string& bytes) {
  MOSE_ASSIGN(pb::Prepared in, parse<pb::Prepared>(bytes, "PREPARED"));
  PreparedPayload payload;
  MOSE_ASSIGN(payload.uplink_mac, parse_mac(in.uplink_mac()));
  payload.takes_tunnel = in.takes_tunnel();
  payload.takes_differences = in.takes_differences();
  payload.memory_first = in.memory_first();
  if (in.images_bytes_max() != 0) payload.images_bytes_max = std::min<uint64_t>(in.images_bytes_max(), wire::kImagesPayloadMax);
  return payload;
}

namespace {

const restore::ImageFile* find_image(const ImageFiles* images, std::string_view name) {
  if (images == nullptr) return nullptr;
  auto found = std::ranges::find(*images, name, &restore::ImageFile::name);
  return found == images->end() ? nullptr : &*found;
}

void set_difference(pb::ImageDifference& out, const restore::ImageDifference& difference) {
  out.set_size(difference.size);
  out.set_checksum(difference.checksum);
  for (const restore::ImagePiece& piece : difference.pieces) {
    pb::ImagePiece* p = out.add_pieces();
    p->set_offset(piece.offset);
    p->set_bytes(std::string(piece.bytes));
  }
}

Result<std::string> later_image(const pb::ImageFile& file, const ImageFiles* early) {
  const restore::ImageFile* base = find_image(early, file.name());
  if (base == nullptr) return fail("there is no earlier image that it could differ from");
  restore::ImageDifference difference{.size = file.difference().size(), .checksum = file.difference().checksum(), .pieces = {}};
  for (const pb::ImagePiece& piece : file.difference().pieces()) difference.pieces.push_back({piece.offset(), piece.bytes()});
  return restore::apply_difference(base->bytes, difference);
}

}  // namespace

std::string encode(ImagesPayload payload, const ImageFiles* early) {
  pb::Images out;
  out.set_age_ns(static_cast<uint64_t>(payload.age.count()));
  for (restore::ImageFile& image : payload.images) {
    pb::ImageFile* f = out.add_files();
    const restore::ImageFile* base = find_image(early, image.name);
    if (auto difference = base != nullptr ? restore::image_difference(base->bytes, image.bytes) : std::nullopt) {
      set_difference(*f->mutable_difference(), *difference);
    } else {
      f->set_contents(std::move(image.bytes));
    }
    f->set_name(std::move(image.name));
  }
  for (CopiedFile& file : payload.copied) {
    pb::CopiedFile* f = out.add_copied();
    f->set_mount(file.mount);
    f->set_path(std::move(file.path));
    f->set_mode(file.mode);
    f->set_uid(file.uid);
    f->set_gid(file.gid);
    f->set_directory(file.directory);
    f->set_contents(std::move(file.contents));
  }
  return out.SerializeAsString();
}

Result<ImagesPayload> decode_images(const std::string& bytes, const ImageFiles* early, uint64_t bytes_max) {
  MOSE_ASSIGN(pb::Images in, parse<pb::Images>(bytes, "IMAGES"));
  ImagesPayload payload;
  if (in.age_ns() > static_cast<uint64_t>(kImagesAgeMax.count())) return fail("IMAGES are older than is possible");
  payload.age = Nanoseconds(in.age_ns());
  uint64_t total = 0;  // a difference of few bytes may stand for many
  for (pb::ImageFile& image : *in.mutable_files()) {
    if (image.has_difference()) {
      const std::string name = image.name().substr(0, restore::kImageNameMax);
      total += image.difference().size();
      if (image.difference().size() > bytes_max || total > bytes_max) return fail("IMAGES hold more than limits.images_bytes_max");
      auto later = later_image(image, early);
      if (!later) return context("IMAGES: " + name, std::move(later).error());
      *image.mutable_contents() = std::move(*later);
    }
    payload.images.push_back({std::move(*image.mutable_name()), std::move(*image.mutable_contents())});
  }
  for (pb::CopiedFile& file : *in.mutable_copied()) {
    payload.copied.push_back({file.mount(), std::move(*file.mutable_path()), file.mode() & 07777u, file.uid(), file.gid(),
                              file.directory(), std::move(*file.mutable_contents())});
  }
  return payload;
}

std::string encode_standing(const std::string& problem) {
  pb::Standing out;
  out.set_problem(problem);
  return out.SerializeAsString();
}

Result<std::string> decode_standing(const std::string& bytes) {
  MOSE_ASSIGN(pb::Standing in, parse<pb::Standing>(bytes, "STANDING"));
  return in.problem();
}

std::string encode_committed(int64_t thaw_us) {
  pb::Committed out;
  out.set_thaw_us(thaw_us);
  return out.SerializeAsString();
}

Result<int64_t> decode_committed(const std::string& bytes) {
  MOSE_ASSIGN(pb::Committed in, parse<pb::Committed>(bytes, "COMMITTED"));
  return in.thaw_us();
}

std::string encode_complete(const std::string& report_json) {
  pb::Complete out;
  out.set_report_json(report_json);
  return out.SerializeAsString();
}

Result<std::string> decode_complete(const std::string& bytes) {
  MOSE_ASSIGN(pb::Complete in, parse<pb::Complete>(bytes, "COMPLETE"));
  return in.report_json();
}

std::string encode_reason(const std::string& reason) {
  pb::Failure out;
  out.set_reason(reason.substr(0, kReasonBytesMax));
  return out.SerializeAsString();
}

std::string decode_reason(const std::string& bytes) {
  auto in = parse<pb::Failure>(bytes, "reason");
  return in ? in->reason() : in.error().what;
}

}  // namespace mose::agent
