// SPDX-License-Identifier: MIT OR Apache-2.0
// Stackful fibres: a switch in assembly on x86-64, and ucontext everywhere.
#ifndef LACUNA_SIMT_FIBRE_H_
#define LACUNA_SIMT_FIBRE_H_

#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

namespace lacuna_simt {

// Where a fibre, or the scheduler, was when it last gave way.
struct Context {
  void* stack_pointer;
  ucontext_t portable;
  // For AddressSanitizer, where the executor is compiled for it: the stack, and the frames that it
  // keeps.
  const void* stack;
  size_t stack_bytes;
  void* frames;
};

bool has_native_switch();

// `enter` never returns; it runs at the first switch to `context`.
void prepare_context(Context* context, bool native, uint8_t* stack, size_t stack_bytes,
                     void (*enter)());
void switch_context(Context* from, Context* to, bool native);
// The first of a fibre's calls: it was switched to from `from`.
void begin_context(Context* from);
// Of frames that a fault left, and that others will lie in the place of.
void forget_frames(const uint8_t* stack, size_t stack_bytes);

// Stacks of one worker, each above a page that faults.
class Stacks {
 public:
  // What a thread of a GPU may have, and what the executor's own functions need below it. With the
  // page that faults it is an odd number of pages: else all stacks would share lines of the cache.
  static constexpr size_t kLocalBytes = 512 * 1024;
  static constexpr size_t kOwnBytes = 64 * 1024;
  static constexpr size_t kStackBytes = kLocalBytes + kOwnBytes;

  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks();

  // False where the system has no memory left.
  bool reserve(size_t n_stacks);
  uint8_t* stack(size_t idx) const;

 private:
  uint8_t* base_ = nullptr;
  size_t n_stacks_ = 0;
};

}  // namespace lacuna_simt

#endif  // LACUNA_SIMT_FIBRE_H_
