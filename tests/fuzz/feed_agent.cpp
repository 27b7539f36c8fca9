// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "agent/config.h"
#include "agent/control_frames.h"
#include "agent/http_request.h"
#include "agent/journal.h"
#include "agent/peer_query.h"
#include "agent/wire_messages.h"
#include "agent/workload_record.h"
#include "base/check.h"
#include "base/fd.h"
#include "base/xxh3.h"
#include "fuzz/targets.h"
#include "model/report.h"
#include "mose/control/control.pb.h"
#include "plan/destination.h"
#include "plan/source.h"

namespace mose::fuzz {
namespace {

using namespace agent;

// A value that was taken, written and taken again must be the same one.
void check_report(const std::string& json) {
  auto report = report_from_json(json);
  if (!report) return;
  const std::string once = to_json(*report);
  auto again = report_from_json(once);
  MOSE_CHECK(again && to_json(*again) == once, "a report survives its text");
}

// Of the STANDBY before them.
const ImageFiles& early_images() {
  static const ImageFiles images = {{"pages-1.img", std::string(16384, 'p')}, {"a", std::string(9000, '\0')}};
  return images;
}

void check_prepare_payload(const std::string& bytes) {
  auto prepare = decode_prepare(bytes);
  if (!prepare) return;
  MOSE_CHECK(validate(prepare->spec).has_value(), "what PREPARE brings may be started here");
  auto again = decode_prepare(encode(*prepare));
  MOSE_CHECK(again && again->spec == prepare->spec && again->token == prepare->token, "PREPARE survives its bytes");
}

}  // namespace

// The first byte says which message.
void feed_payloads(Input input) {
  if (input.empty()) return;
  const std::string bytes(text_of(input.subspan(1)));
  switch (static_cast<unsigned>(input[0]) % 7) {
    case 0:
      return check_prepare_payload(bytes);
    case 1:
      if (auto prepared = decode_prepared(bytes)) MOSE_CHECK(decode_prepared(encode(*prepared)), "PREPARED survives its bytes");
      return;
    case 2:
      if (auto images = decode_images(bytes, &early_images())) {
        MOSE_CHECK(images->images.size() <= restore::kImageFilesMax, "images are bounded");
        const ImagesPayload whole = *images;
        auto again = decode_images(encode(std::move(*images), &early_images()), &early_images());
        MOSE_CHECK(again && again->images.size() == whole.images.size(), "IMAGES survive their bytes");
        for (size_t i = 0; i < whole.images.size(); ++i)
          MOSE_CHECK(again->images[i].bytes == whole.images[i].bytes, "a difference gives the image that was sent");
      }
      return;
    case 3:
      static_cast<void>(decode_standing(bytes));
      return static_cast<void>(decode_committed(bytes));
    case 4:
      if (auto report = decode_complete(bytes)) check_report(*report);
      return;
    case 5:
      return static_cast<void>(decode_reason(bytes));
    default:
      return check_report(bytes);
  }
}

void feed_control(Input input) {
  if (input.empty()) return;
  const std::string_view bytes = text_of(input.subspan(1));
  const auto kind = static_cast<unsigned>(input[0]);
  if (kind % 4 == 0) {
    FrameReader reader;
    // In pieces, as a socket gives them.
    const size_t piece = 1 + kind / 4;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      reader.append(bytes.substr(at, piece));
      for (;;) {
        auto frame = reader.next();
        if (!frame) return;
        if (!*frame) break;
        control::v1::Request request;
        static_cast<void>(request.ParseFromString(**frame));
      }
    }
  } else if (kind % 4 == 1) {
    auto request = parse_http_request(bytes);
    MOSE_CHECK(bytes.size() < kHttpRequestMax || !request || *request, "it ends");
    if (request && *request) MOSE_CHECK((*request)->path.starts_with('/'), "a path is one");
  } else if (kind % 4 == 2) {
    auto record = decode_record(std::string(bytes));
    if (record) MOSE_CHECK(decode_record(encode_record(*record)), "a record survives its text");
  } else {
    static_cast<void>(from_hex(std::string(bytes)));
  }
}

void feed_config(Input input) {
  if (input.empty()) return;
  const std::string text(text_of(input.subspan(1)));
  if (static_cast<unsigned>(input[0]) % 4 == 0) {
    static_cast<void>(parse_description("redis", text, "redis.toml"));
    return;
  }
  Config config;
  config.node.name = "fuzz";  // else the host's
  if (!merge_config(config, text, "fuzz.toml") || !complete_config(config)) return;
  const std::string printed = format_config(config);
  Config again;
  auto read = merge_config(again, printed, "printed.toml");
  MOSE_CHECK(read && complete_config(again) && format_config(again) == printed, "what is printed is what was read");
}

// Lines; one that begins with 'j' gets the checksum that it needs to count.
void feed_journal(Input input) {
  const std::string& directory = scratch_directory();
  std::string_view text = text_of(input);
  std::string journal;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end), json = line.substr(std::min<size_t>(1, line.size()));
    if (line.starts_with('j')) journal += fmt::format("{:016x} {}", XXH3_64bits(json.data(), json.size()), json);
    else journal += line;
    if (end < text.size()) journal += '\n';
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  const MigrationId id{{1, 2, 3}};
  for (Role role : {Role::source, Role::destination}) {
    const std::string path = Journal::file_path(directory, id, role);
    auto file = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MOSE_CHECK(file && write_all(file->get(), journal), "a file in /dev/shm");
    file->reset();
    auto contents = read_journal(path);
    if (contents) {
      static_cast<void>(plan::committed(contents->records));
      if (!contents->records.empty() && role == Role::source) static_cast<void>(plan::step(plan::recover_source(contents->records, !contents->notes.empty(), {}).state, plan::Tick{}, {}));
      if (!contents->records.empty() && role == Role::destination) {
        static_cast<void>(plan::step(plan::recover_destination(contents->records, {}).state, plan::Tick{}, {}));
      }
      auto prepare = contents->notes.find("prepare");
      if (prepare != contents->notes.end()) {
        if (auto bytes = from_hex(prepare->second)) check_prepare_payload(*bytes);
      }
    }
    auto opened = Journal::open(directory, id, role);
    MOSE_CHECK(!opened || contents, "what cannot be read cannot be gone on with");
    if (opened && opened->append(plan::Record::aborted, {}, Journal::Survives::agent)) {
      auto longer = read_journal(path);
      MOSE_CHECK(longer && longer->records.size() == contents->records.size() + 1 && longer->records.back() == plan::Record::aborted,
                 "a record stands behind those before it");
    }
    unlink(path.c_str());
  }
}

}  // namespace mose::fuzz
