// SPDX-License-Identifier: MIT OR Apache-2.0
#include "fibre.h"

#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace lacuna_simt {

#if defined(__x86_64__) && !defined(_WIN32)
#define LACUNA_NATIVE_SWITCH 1
extern "C" void lacuna_simt_switch(void** from, void* to);
// The registers that the System V ABI says a call preserves; swapcontext would also make a system
// call for the signal mask, which costs more than everything else together.
asm(R"(
.text
.globl lacuna_simt_switch
.hidden lacuna_simt_switch
.type lacuna_simt_switch, @function
lacuna_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lacuna_simt_switch, .-lacuna_simt_switch
)");
#endif

bool has_native_switch() {
#ifdef LACUNA_NATIVE_SWITCH
  return true;
#else
  return false;
#endif
}

void prepare_context(Context* context, bool native, uint8_t* stack, size_t stack_bytes,
                     void (*enter)()) {
  context->stack = stack;
  context->stack_bytes = stack_bytes;
  context->frames = nullptr;
#ifdef LACUNA_NATIVE_SWITCH
  if (native) {
    // As if `enter` had been called: a return address that is never used, so that the stack is
    // aligned as the ABI wants it at a function's first instruction; then six saved registers.
    void** top = reinterpret_cast<void**>(stack + stack_bytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context->stack_pointer = top;
    return;
  }
#endif
  (void)native;
  getcontext(&context->portable);
  context->portable.uc_stack.ss_sp = stack;
  context->portable.uc_stack.ss_size = stack_bytes;
  context->portable.uc_link = nullptr;
  makecontext(&context->portable, enter, 0);
}

namespace {
void switch_stacks(Context* from, Context* to, bool native) {
#ifdef LACUNA_NATIVE_SWITCH
  if (native) {
    lacuna_simt_switch(&from->stack_pointer, to->stack_pointer);
    return;
  }
#endif
  (void)native;
  swapcontext(&from->portable, &to->portable);
}
}  // namespace

#ifdef __SANITIZE_ADDRESS__
void switch_context(Context* from, Context* to, bool native) {
  __sanitizer_start_switch_fiber(&from->frames, to->stack, to->stack_bytes);
  switch_stacks(from, to, native);
  __sanitizer_finish_switch_fiber(from->frames, nullptr, nullptr);
}

void begin_context(Context* from) {
  __sanitizer_finish_switch_fiber(nullptr, &from->stack, &from->stack_bytes);
}

void forget_frames(const uint8_t* stack, size_t stack_bytes) {
  ASAN_UNPOISON_MEMORY_REGION(stack, stack_bytes);
}
#else
void switch_context(Context* from, Context* to, bool native) { switch_stacks(from, to, native); }
void begin_context(Context*) {}
void forget_frames(const uint8_t*, size_t) {}
#endif

namespace {
size_t page_bytes() {
  static const size_t n_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return n_bytes;
}
}  // namespace

Stacks::~Stacks() {
  if (base_ != nullptr) munmap(base_, n_stacks_ * (kStackBytes + page_bytes()));
}

bool Stacks::reserve(size_t n_stacks) {
  if (n_stacks <= n_stacks_) return true;
  const size_t slot_bytes = kStackBytes + page_bytes();
  void* base = mmap(nullptr, n_stacks * slot_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return false;
  if (base_ != nullptr) munmap(base_, n_stacks_ * slot_bytes);
  base_ = static_cast<uint8_t*>(base);
  n_stacks_ = n_stacks;
  for (size_t i = 0; i < n_stacks; ++i) {
    if (mprotect(base_ + i * slot_bytes, page_bytes(), PROT_NONE) != 0) return false;
  }
  return true;
}

uint8_t* Stacks::stack(size_t idx) const {
  return base_ + idx * (kStackBytes + page_bytes()) + page_bytes();
}

}  // namespace lacuna_simt
