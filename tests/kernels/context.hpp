// A coroutine's context: a stack and the registers that a call preserves. Switching makes no system call, since a launch
// starts up to millions of them; on processors without a version here ucontext does the same more slowly.
#pragma once
#include <algorithm>
#include <cstddef>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

// What the emulator does itself is not the kernel's: no accesses of it are checked.
#define UNCHECKED __attribute__((no_sanitize("thread")))

namespace emulator {

#if defined(__x86_64__)
using Context = void *;  // the stack pointer; the registers lie there
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(Context *from, Context to);
__asm__(R"(
  .text
  .hidden emulator_switch
  .weak emulator_switch
emulator_switch:
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
)");
constexpr size_t SAVED_WORDS = 8, RETURN_WORD = 6;
#elif defined(__aarch64__)
using Context = void *;
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(Context *from, Context to);
__asm__(R"(
  .text
  .hidden emulator_switch
  .weak emulator_switch
emulator_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
constexpr size_t SAVED_WORDS = 20, RETURN_WORD = 11;
#endif

#if defined(__x86_64__) || defined(__aarch64__)
inline void start_at(Context &context, char *stack, size_t bytes, void (*entry)()) {
  void **saved = (void **)(stack + bytes) - SAVED_WORDS;
  std::fill_n(saved, SAVED_WORDS, nullptr);
  saved[RETURN_WORD] = (void *)entry;
  context = saved;
}
UNCHECKED inline void switch_context(Context &from, Context &to) { emulator_switch(&from, to); }
#else
using Context = ucontext_t;
inline void start_at(Context &context, char *stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
UNCHECKED inline void switch_context(Context &from, Context &to) { swapcontext(&from, &to); }
#endif

}  // namespace emulator
