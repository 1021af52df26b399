// Checks csrc/cpu/thread_team.h with threads of its own; test_threads.py builds and runs it, also under
// ThreadSanitizer.
#include "cpu/thread_team.h"

#include <cstdio>
#include <thread>
#include <vector>

using stateful_lstm::cpu::Barrier;
using stateful_lstm::cpu::Gathering;
using stateful_lstm::cpu::Part;
using stateful_lstm::cpu::Progress;

namespace {

int failures = 0;
void expect(bool truth, const char* what) {
  if (!truth) {
    std::printf("failed: %s\n", what);
    ++failures;
  }
}

// Every member writes its number of the round, and after the barrier finds those of all others.
void rounds(int members) {
  constexpr int kRounds = 2000;
  Barrier barrier;
  Gathering gathering;
  std::vector<int> slots(2 * members, -1), wrong(members, 0);
  std::vector<std::thread> threads;
  std::vector<Part> parts(members);
  for (int k = 0; k < members; ++k)
    threads.emplace_back([&, k] {
      parts[k] = gathering.enter(7, k, members);
      const int member = static_cast<int>(parts[k].member);
      for (int round = 0; round < kRounds; ++round) {
        int* now = slots.data() + round % 2 * members;  // two turn about, as h does
        now[member] = round;
        barrier.wait(members);
        for (int other = 0; other < members; ++other) wrong[member] += now[other] != round;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (int k = 0; k < members; ++k) {
    expect(parts[k].members == members && parts[k].row_end == 7, "all work together");
    expect(parts[k].member == k && parts[k].call == k, "each has the share of its number");
    expect(wrong[k] == 0, "after the barrier the others' numbers are there");
  }
}

// Each stage takes what the one before has written, piece by piece; the first is ahead as far as it likes.
void stages(int members) {
  constexpr int kPieces = 2000;
  std::vector<Progress> progress(members);
  std::vector<std::vector<int>> made(members, std::vector<int>(kPieces, 0));
  std::vector<std::thread> threads;
  for (int k = 0; k < members; ++k)
    threads.emplace_back([&, k] {
      for (int piece = 0; piece < kPieces; ++piece) {
        if (k > 0) progress[k - 1].wait_for(piece + 1);
        made[k][piece] = k > 0 ? made[k - 1][piece] + 1 : piece;
        progress[k].advance();
      }
    });
  for (std::thread& thread : threads) thread.join();
  int wrong = 0;
  for (int piece = 0; piece < kPieces; ++piece)
    wrong += made[members - 1][piece] != piece + members - 1;
  expect(wrong == 0, "each stage finds what the one before has made");
}

}  // namespace

int main() {
  for (const int members : {1, 2, 3, 5}) {
    rounds(members);
    stages(members);
  }
  Gathering one_by_one;  // as in a pool with a single free thread
  const Part first = one_by_one.enter(7, 0, 2), second = one_by_one.enter(7, 1, 2);
  expect(first.members == 1 && first.row_begin == 0 && first.row_end == 7, "the first does it all");
  expect(second.members == 0, "the second does nothing");
  Gathering last_first;  // who does it all has made inputs where its own number says
  const Part last = last_first.enter(7, 1, 2);
  expect(last.members == 1 && last.member == 0 && last.call == 1, "the last call does it all");
  std::puts(failures ? "broken" : "sound");
  return failures != 0;
}
