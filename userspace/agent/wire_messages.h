// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/file_sync.h"
#include "base/result.h"
#include "handover/workload_network.h"
#include "model/workload.h"
#include "mose/wire/frame.h"
#include "restore/images.h"

// The control payloads of wire v1 as values of ours: generated code stays behind this header, and everything that comes
// from a peer is checked here before anybody sees it.
namespace mose::agent {

// PREPARE: what is coming.
struct PreparePayload {
  WorkloadSpec spec;
  std::string hostname;
  std::string token;                // BULK and URGENT connections carry it
  std::string page_server_address;  // host:port that the destination's pager connects to
  std::vector<FileIdentity> files;
  std::vector<handover::Neighbour> neighbours;
  handover::PeerPath path;  // of redirected frames, as the sender sees it; only the tunnel is sent
  uint64_t memory_bytes = 0;
  std::optional<uint64_t> capabilities;  // of any process of it; nothing: an agent that does not say them
  uint32_t tasks = 0;
  uint32_t mtu = 0;  // of the workload's device; 0: an agent that does not say it
  bool memory_first = false;  // READY only when every page is in
};
[[nodiscard]] std::string encode(const PreparePayload& payload);
// Whether it fits into a frame; the error names the largest part and what to try. What is only known once the nodes speak
// (token, page_server_address) may still be missing.
[[nodiscard]] Status check_prepare(const PreparePayload& payload);
[[nodiscard]] Result<PreparePayload> decode_prepare(const std::string& bytes);

struct PreparedPayload {
  MacAddress uplink_mac{};
  uint64_t images_bytes_max = wire::kImagesPayloadMax;  // of a whole IMAGES or STANDBY
  bool takes_tunnel = false;
  bool memory_first = false;  // as asked for
  bool takes_differences = true;  // of images; false: an agent that does not know them
};
[[nodiscard]] std::string encode(const PreparedPayload& payload);
[[nodiscard]] Result<PreparedPayload> decode_prepared(const std::string& bytes);

struct ImagesPayload {
  std::vector<restore::ImageFile> images;
  std::vector<CopiedFile> copied;
  Nanoseconds age{0};  // STANDBY: since the workload's clocks in them were read, or longer
};
using ImageFiles = std::vector<restore::ImageFile>;
// With the images of the STANDBY before it, IMAGES carries their difference to those, where that is less.
[[nodiscard]] std::string encode(ImagesPayload payload, const ImageFiles* early = nullptr);
[[nodiscard]] Result<ImagesPayload> decode_images(const std::string& bytes, const ImageFiles* early = nullptr, uint64_t bytes_max = wire::kImagesPayloadMax);

// STANDING: why there is no standby; empty: it stands.
[[nodiscard]] std::string encode_standing(const std::string& problem);
[[nodiscard]] Result<std::string> decode_standing(const std::string& bytes);

// COMMITTED: when the destination thawed, on its clock.
[[nodiscard]] std::string encode_committed(int64_t thaw_us);
[[nodiscard]] Result<int64_t> decode_committed(const std::string& bytes);
// COMPLETE: the destination's part of the report.
[[nodiscard]] std::string encode_complete(const std::string& report_json);
[[nodiscard]] Result<std::string> decode_complete(const std::string& bytes);
// REFUSED, FAILED, ABORT: one sentence.
[[nodiscard]] std::string encode_reason(const std::string& reason);
[[nodiscard]] std::string decode_reason(const std::string& bytes);

}  // namespace mose::agent
