// SPDX-License-Identifier: MIT
#include "sim/disk.h"

#include <algorithm>
#include <cerrno>

namespace mose::sim {
namespace {

constexpr size_t kSector = 512, kPage = 4096;
constexpr uint64_t kWrongWithin = 30;  // of the last new bytes of a sector

}  // namespace

// An agent's descriptor of a file: the file itself is the disk's.
class SimulatedFile : public agent::JournalFile {
 public:
  SimulatedFile(SimulatedDisk& disk, SimulatedDisk::Number file, std::string path)
      : disk_(disk), file_(file), path_(std::move(path)) {}

  Status write_at(size_t offset, std::string_view bytes) override { return disk_.do_write(file_, offset, bytes); }
  Status truncate(size_t bytes) override {
    if (disk_.next_fails()) return fail_errno("truncate", EIO);
    disk_.view_.files[file_].resize(bytes);
    disk_.add({.what = SimulatedDisk::What::truncate, .file = file_, .at = bytes}, 20us);
    return {};
  }
  Status sync_data() override { return disk_.do_sync(file_); }
  Status sync() override { return disk_.do_sync(file_); }
  Status publish() override { return disk_.do_publish(file_, path_); }

 private:
  SimulatedDisk& disk_;
  SimulatedDisk::Number file_;
  std::string path_;
};

// ---- What the agent asks for

void SimulatedDisk::begin_job(bool fails) {
  settle();
  job_begin_ = bench_.loop.now();
  takes_ = takes_unsynced_ = steps_.empty() ? 0ns : steps_.back().end - job_begin_;  // one after the other
  job_steps_ = 0;
  fail_at_ = fails ? static_cast<unsigned>(bench_.random.below(bench_.random.chance(0.75) ? 2 : 8)) : ~0u;
  fail_all_ = fails && bench_.random.coin();
}

bool SimulatedDisk::next_fails() {
  const unsigned step = job_steps_++;
  return step == fail_at_ || (fail_all_ && step > fail_at_);
}

void SimulatedDisk::add(Step step, Nanoseconds takes) {
  step.begin = job_begin_ + takes_;
  takes_ += takes;
  step.end = job_begin_ + takes_;
  steps_.push_back(std::move(step));
}

Status SimulatedDisk::do_write(Number file, size_t at, std::string_view bytes) {
  const bool fails = next_fails();
  const bool full = bench_.random.coin();
  if (fails) bytes = bytes.substr(0, bench_.random.below(bytes.size() + 1));
  std::string& text = view_.files[file];
  text.resize(std::max(text.size(), at + bytes.size()));
  text.replace(at, bytes.size(), bytes);
  add({.what = What::write, .file = file, .at = at, .text = std::string(bytes)}, bench_.random.between(10us, 50us));
  if (fails) return fail_errno("write", full ? ENOSPC : EIO);
  return {};
}

Status SimulatedDisk::do_sync(Number file) {
  const bool fails = next_fails();
  takes_unsynced_ = takes_;
  add({.what = What::sync, .file = file, .fails = fails}, bench_.duration(2ms));
  bench_.may_lose_power(side_, steps_.back().begin, steps_.back().end);
  if (fails) return fail_errno("fsync", EIO);
  return {};
}

Status SimulatedDisk::do_publish(Number file, const std::string& path) {
  if (view_.names.contains(path)) return fail_errno("link", EEXIST);
  if (next_fails()) return fail_errno("link", ENOSPC);
  view_.names[path] = file;
  add({.what = What::give_name, .file = file, .text = path}, 20us);
  return {};
}

Result<std::unique_ptr<agent::JournalFile>> SimulatedDisk::create(const std::string& path) {
  if (next_fails()) return fail_errno("open " + path, ENOSPC);
  const Number file = next_++;
  view_.files[file];
  inodes_[file];
  return std::make_unique<SimulatedFile>(*this, file, path);
}

Result<std::unique_ptr<agent::JournalFile>> SimulatedDisk::open(const std::string& path) {
  auto it = view_.names.find(path);
  if (it == view_.names.end()) return fail_errno("open " + path, ENOENT);
  return std::make_unique<SimulatedFile>(*this, it->second, path);
}

Result<std::string> SimulatedDisk::read(const std::string& path, size_t bytes_max) {
  auto it = view_.names.find(path);
  if (it == view_.names.end()) return fail_errno("open " + path, ENOENT);
  const std::string& text = view_.files[it->second];
  if (text.size() > bytes_max) return fail(path + ": too long");
  return bench_.hooks.read ? bench_.hooks.read(text) : text;
}

Result<std::vector<std::string>> SimulatedDisk::list(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& [path, file] : view_.names) names.push_back(path.substr(directory.size() + 1));
  return names;
}

Status SimulatedDisk::remove(const std::string& path) {
  if (next_fails()) return fail_errno("remove " + path, EIO);
  if (view_.names.erase(path) != 0) add({.what = What::take_name, .text = path}, 20us);
  return {};
}

Status SimulatedDisk::sync_directory(const std::string& directory) {
  if (bench_.hooks.directories_unsynced) return {};
  const bool fails = next_fails();
  add({.what = What::sync_names, .fails = fails}, bench_.duration(1ms));
  bench_.may_lose_power(side_, steps_.back().begin, steps_.back().end);
  if (fails) return fail_errno("fsync " + directory, EIO);
  return {};
}

// ---- What comes of it

void SimulatedDisk::settle() {
  while (!steps_.empty() && steps_.front().end <= bench_.loop.now()) {
    apply(steps_.front());
    steps_.pop_front();
  }
}

void SimulatedDisk::apply(const Step& step) {
  const bool syncs = step.what == What::sync || step.what == What::sync_names;
  ++(syncs ? versions_.durable : versions_.cached);
  Inode& inode = inodes_[step.file];
  switch (step.what) {
    case What::write:
      inode.cache.resize(std::max(inode.cache.size(), step.at + step.text.size()));
      inode.cache.replace(step.at, step.text.size(), step.text);
      if (step.text.empty()) return;
      for (size_t page = step.at / kPage; page <= (step.at + step.text.size() - 1) / kPage; ++page) inode.dirty.insert(page);
      return;
    case What::truncate:
      inode.cache.resize(step.at);
      inode.dirty.insert(step.at / kPage);
      return;
    case What::sync:
      if (!step.fails) return flush(inode);
      flush_some(inode);
      // The kernel takes pages that could not be written for clean: no later sync writes them. Or they stay.
      if (bench_.random.coin()) inode.dirty.clear();
      return;
    case What::give_name:
      names_[step.text] = step.file;
      return;
    case What::take_name:
      names_.erase(step.text);
      return;
    case What::sync_names:
      if (!step.fails || bench_.random.coin()) platter_names_ = names_;
      return;
  }
}

void SimulatedDisk::flush(Inode& inode) {
  inode.platter.resize(inode.cache.size());
  for (size_t page : inode.dirty) {
    const size_t at = page * kPage;
    if (at < inode.cache.size()) inode.platter.replace(at, kPage, inode.cache, at, kPage);
  }
  inode.dirty.clear();
}

// The kernel writes when it likes, and a disk in an order of its own.
void SimulatedDisk::flush_some(Inode& inode) {
  Random& random = bench_.random;
  enum { none, all, first, some };
  const auto how = random.below(4);
  if (how == none) return;
  if (how == all || random.coin()) inode.platter.resize(inode.cache.size());
  uint64_t left = how == first ? random.below(8) : ~0ull;
  for (size_t page : inode.dirty) {
    const size_t end = std::min({(page + 1) * kPage, inode.platter.size(), inode.cache.size()});
    for (size_t at = page * kPage; at < end; at += kSector) {
      const size_t size = std::min({kSector, inode.platter.size() - at, inode.cache.size() - at});
      if (inode.platter.compare(at, size, inode.cache, at, size) == 0) continue;
      const std::string before = inode.platter.substr(at, size);
      std::string after = inode.cache.substr(at, size);
      if (left == 0 || (how == some && random.coin())) continue;
      --left;
      if (random.chance(0.1)) {
        size_t last = size;
        while (before[last - 1] == after[last - 1]) --last;
        for (size_t i = last - std::min<size_t>(last, 1 + random.below(kWrongWithin)); i < last; ++i) {
          if (before[i] != after[i]) after[i] ^= static_cast<char>(1 + random.below(15));
        }
      }
      inode.platter.replace(at, size, after);
    }
  }
}

// The step that was under way may have been done in part; those after it were never asked for.
void SimulatedDisk::forget_later() {
  settle();
  if (!steps_.empty() && steps_.front().begin <= bench_.loop.now()) {
    Step step = std::move(steps_.front());
    if (step.what == What::write) step.text.resize(bench_.random.below(step.text.size() + 1));
    if (step.what == What::sync && !step.fails) {
      flush_some(inodes_[step.file]);  // the rest stays dirty
    } else if (step.what != What::sync_names || bench_.random.coin()) {
      apply(step);
    }
  }
  steps_.clear();
}

void SimulatedDisk::lose_agent() {
  forget_later();
  view_ = {};
  view_.names = names_;
  for (const auto& [path, file] : names_) {
    Inode& inode = inodes_[file];
    // What the kernel has taken for clean it may read again from the disk.
    if (inode.dirty.empty() && bench_.random.coin()) inode.cache = inode.platter;
    view_.files[file] = inode.cache;
  }
  ++versions_.durable;
  ++versions_.cached;
}

void SimulatedDisk::lose_power() {
  forget_later();
  for (auto& [file, inode] : inodes_) {
    flush_some(inode);
    inode.cache = inode.platter;
    inode.dirty.clear();
  }
  std::map<std::string, Number> both = names_;
  both.insert(platter_names_.begin(), platter_names_.end());
  for (const auto& [path, file] : both) {
    const bool had = platter_names_.contains(path), has = names_.contains(path);
    if (had == has || bench_.random.coin()) continue;
    if (has) platter_names_[path] = file;
    else platter_names_.erase(path);
  }
  names_ = platter_names_;
  lose_agent();
}

void SimulatedDisk::lose_files() {
  steps_.clear();
  view_ = {};
  names_.clear();
  platter_names_.clear();
  ++versions_.durable;
  ++versions_.cached;
}

std::map<std::string, std::string> SimulatedDisk::durable() {
  settle();
  std::map<std::string, std::string> out;
  for (const auto& [path, file] : platter_names_) out[path] = inodes_[file].platter;
  return out;
}

std::map<std::string, std::string> SimulatedDisk::cached() {
  settle();
  std::map<std::string, std::string> out;
  for (const auto& [path, file] : names_) out[path] = inodes_[file].cache;
  return out;
}

}  // namespace mose::sim
