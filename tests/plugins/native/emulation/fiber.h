// Functions that run in turn, each on a stack of its own, until they yield.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace emulation {

class Fiber {
 public:
  explicit Fiber(std::function<void()> body) : body_(std::move(body)), stack_(new char[kStackBytes]) {
    getcontext(&context_);
    context_.uc_stack = {stack_.get(), 0, kStackBytes};
    context_.uc_link = nullptr;
    makecontext(&context_, run, 0);
  }

  bool done() const { return done_; }

  // Runs it on, until it yields or is done.
  [[gnu::noinline]] void resume() {
    running_ = this;
    if (__builtin_setjmp(outside_) != 0) return;
    if (started_) __builtin_longjmp(inside_, 1);
    started_ = true;
    setcontext(&context_);
  }

  // Called by the fiber that runs. Unlike swapcontext, a jump makes no system call.
  [[gnu::noinline]] static void yield() {
    if (__builtin_setjmp(running_->inside_) == 0) leave();
  }

 private:
  static constexpr std::size_t kStackBytes = 256 << 10;

  static void run() {
    running_->body_();
    running_->done_ = true;
    leave();
  }
  [[noreturn, gnu::noinline]] static void leave() { __builtin_longjmp(outside_, 1); }

  static inline Fiber* running_;
  static inline void* outside_[5];
  void* inside_[5];
  std::function<void()> body_;
  std::unique_ptr<char[]> stack_;  // not cleared: most of it is never touched
  ucontext_t context_;
  bool started_ = false, done_ = false;
};

}  // namespace emulation
