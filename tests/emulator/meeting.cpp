#include <cstring>
#include <map>
#include <stdexcept>
#include <tuple>

#include "machine.h"

namespace stateful_lstm::emulator {
namespace {

std::string name(const Thread& thread) {
  return "thread " + std::to_string(thread.index) + " of block " +
         std::to_string(thread.block->index);
}

std::string place(const Request& request) {
  return std::string(request.name) + " at " + request.file + ":" + std::to_string(request.line);
}

bool same_place(const Request& one, const Request& other) {
  return one.line == other.line && std::strcmp(one.name, other.name) == 0 &&
         std::strcmp(one.file, other.file) == 0;
}

}  // namespace

void arrive(Meeting& meeting, Thread& thread) {
  const Request& request = thread.request;
  if (meeting.exited != nullptr) {
    throw std::runtime_error(name(thread) + " waits in " + place(request) + ", but " +
                             name(*meeting.exited) + " has exited");
  }
  if (meeting.arrived == 0) meeting.first = &thread;
  // Blocks of a cluster may wait at different lines; threads of a block may not.
  if (request.kind == Request::meet && !same_place(meeting.first->request, request)) {
    throw std::runtime_error("divergent: " + name(*meeting.first) + " waits in " +
                             place(meeting.first->request) + ", but " + name(thread) + " in " +
                             place(request));
  }
  if (++meeting.arrived < meeting.expected) return;
  meeting.arrived = 0;
  ++meeting.generation;
}

void leave_for_good(Meeting& meeting, const Thread& thread) {
  if (meeting.arrived > 0) {
    throw std::runtime_error(name(thread) + " exited, but " + name(*meeting.first) + " and " +
                             std::to_string(meeting.arrived - 1) + " more wait for it in " +
                             place(meeting.first->request));
  }
  meeting.exited = &thread;
}

void deadlock(const Machine& machine, const char* what) {
  struct Group {
    const Thread* first;
    int count;
  };
  std::map<std::tuple<int, std::string>, Group> groups;  // by block and place
  for (const Thread& thread : machine.threads) {
    if (thread.finished) continue;
    const char* does = thread.waits_for != nullptr ? "waits in " : "spins in ";
    const auto key = std::make_tuple(thread.block->index, does + place(thread.request));
    ++groups.try_emplace(key, Group{&thread, 0}).first->second.count;
  }
  std::string text = std::string("deadlock: ") + what;
  for (const auto& [key, group] : groups) {
    text += "\n  " + name(*group.first) + " " + std::get<1>(key);
    if (group.count > 1) text += ", and " + std::to_string(group.count - 1) + " more of the block";
  }
  throw std::runtime_error(text);
}

}  // namespace stateful_lstm::emulator
