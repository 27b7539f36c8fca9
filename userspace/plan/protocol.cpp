// SPDX-License-Identifier: MIT
#include "plan/protocol.h"

#include <algorithm>

namespace mose::plan {

const char* to_string(Message message) {
  switch (message) {
    case Message::prepare:
      return "prepare";
    case Message::images:
      return "images";
    case Message::commit:
      return "commit";
    case Message::abort:
      return "abort";
    case Message::released:
      return "released";
    case Message::prepared:
      return "prepared";
    case Message::refused:
      return "refused";
    case Message::ready:
      return "ready";
    case Message::failed:
      return "failed";
    case Message::committed:
      return "committed";
    case Message::complete:
      return "complete";
    case Message::aborted:
      return "aborted";
  }
  return "?";
}

const char* to_string(Record record) {
  switch (record) {
    case Record::begun:
      return "begun";
    case Record::ready:
      return "ready";
    case Record::commit:
      return "commit";
    case Record::aborted:
      return "aborted";
    case Record::complete:
      return "complete";
    case Record::finished:
      return "finished";
    case Record::lost:
      return "lost";
  }
  return "?";
}

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::undecided:
      return "undecided";
    case Verdict::commit:
      return "commit";
    case Verdict::abort:
      return "abort";
  }
  return "?";
}

bool contains(const std::vector<Record>& records, Record record) {
  return std::find(records.begin(), records.end(), record) != records.end();
}

bool committed(const std::vector<Record>& records) {
  auto last = std::find_if(records.rbegin(), records.rend(),
                           [](Record record) { return record == Record::commit || record == Record::aborted; });
  return last != records.rend() && *last == Record::commit;
}

}  // namespace mose::plan
