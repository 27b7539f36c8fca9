// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "lab/stock_criu.h"

// A service in pid, mount, ipc and uts namespaces of its own inside an external network namespace, dumped and restored
// by CRIU's own command line with its defaults as far as they make a move possible. Lives inside a node (stock_end.h).
//
// Chosen for the baseline's benefit: images on tmpfs, CRIU's kernel-feature cache warmed, its nftables lock (requests
// that arrive between freeze and lock are answered after the restore, instead of being dropped as when the link goes
// down first), the receiver of the images waiting, the client's neighbour entry in place, and the destination's network
// namespace a port of the bridge from the start. That is safe because it stays silent (IPv6 off, no address probe): the
// switch goes on sending everything to the source, until the restored sockets themselves send the first frame. By then
// all of them exist, so that no stray packet meets a missing socket, and no answer of theirs meets a closed port.
namespace mose::lab {

class StockService {
 public:
  StockService() = default;

  // `peer`: address of the other node.
  [[nodiscard]] Status prepare(const std::string& peer);
  [[nodiscard]] Status launch(const std::vector<std::string>& command);
  [[nodiscard]] Status dump();
  // The memory stays here, in a frozen tree whose pages CRIU's page server sends; gives back when it serves.
  [[nodiscard]] Status dump_lazily();
  [[nodiscard]] Status send_images(const std::string& address);
  [[nodiscard]] Status receive_images();
  [[nodiscard]] Status restore();
  // It runs before its memory is here: CRIU's lazy-pages fetches that from the page server at the address.
  [[nodiscard]] Status restore_lazily(const std::string& source);
  // After a lazy one, at either end: until the memory has arrived, and at the source the tree has been killed.
  [[nodiscard]] Status finish();
  [[nodiscard]] Status activate();
  [[nodiscard]] Status retire();
  // Kills the tree, if it is here. Idempotent.
  [[nodiscard]] Status stop();
  // The images, the root that it was given, CRIU's cache where that was ours; after stop().
  void forget();
  [[nodiscard]] uint64_t image_bytes() const;

 private:
  [[nodiscard]] CriuCall dump_call() const;
  [[nodiscard]] CriuCall restore_call() const;
  [[nodiscard]] Status restore_by(const CriuCall& call);

  BackgroundCriu page_server_, lazy_pages_;
  Fd net_;       // the service's network namespace
  Fd listener_;  // for the images
  pid_t pid_ = 0;
  std::string peer_;
  unsigned long net_inode_ = 0;
  bool made_cache_ = false;
};

}  // namespace mose::lab
