#include "engine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <vector>

const dim3* emu_thread_index;
const dim3* emu_block_index;
const dim3* emu_block_size;
const dim3* emu_grid_size;

// Saves the callee-saved registers and the stack pointer, and goes on where `to` was saved (System V, x86-64).
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
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
.size emu_switch, .-emu_switch
)");

namespace emu {

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kMostThreads = 1024, kMostBarriers = 16, kWarp = 32;

char* map_memory(size_t bytes, int flags) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  if (p == MAP_FAILED) std::perror("emulator: mmap"), std::abort();
  return static_cast<char*>(p);
}

using Group = std::vector<std::function<void()>>;

struct Thread {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  dim3 index;
  int number = 0;
  bool alive = false;
  const char* waits_for = nullptr;
  Votes votes{};
  Group open[2];
  std::deque<Group> committed[2];
};

struct Meeting {  // of lanes that name the same mask
  uint32_t mask, arrived = 0;
  const char* what;
  WarpAction action;
  void* slots[kWarp];
};

struct Barrier {
  uint32_t arrived = 0, any = 0, count = 0, wanted = 0;
  std::vector<Thread*> waiting;
};

class Block {
 public:
  Block() : threads_(kMostThreads), random_(seed()) {
    // Aligned to its size: matrix descriptors hold 18 bits of an address.
    char* window = map_memory(2 * kSharedBytes, MAP_32BIT);
    shared_ = window + (kSharedBytes - reinterpret_cast<uintptr_t>(window) % kSharedBytes) % kSharedBytes;
  }

  void run(int count, size_t shared_bytes, const std::function<void()>& kernel) {
    if (count > kMostThreads || shared_bytes > kSharedBytes)
      fatal("%d threads and %zu bytes of shared memory do not fit a block", count, shared_bytes);
    std::memset(shared_, 0xff, shared_bytes);
    kernel_ = &kernel;
    ready_.clear(), polling_.clear(), deferred_.clear(), meetings_.assign((count + kWarp - 1) / kWarp, {});
    for (Barrier& b : barriers_) b = {};
    alive_ = count;
    for (int i = 0; i < count; i++) prepare(i);
    while (alive_ > 0) {
      if (!deferred_.empty() && (ready_.empty() || random_() % 4 == 0)) run_deferred();
      if (ready_.empty()) poll();
      if (!ready_.empty()) resume(take(ready_));
    }
    while (!deferred_.empty()) run_deferred();
  }

  Thread& current() { return *current_; }
  char* shared() { return shared_; }

  void meet(uint32_t mask, const char* what, void* slot, WarpAction action) {
    Thread& t = *current_;
    const int warp = t.number / kWarp, lane = t.number % kWarp;
    if (!(mask >> lane & 1)) fatal("%s: the lane is not in its own mask %08x", what, mask);
    auto& meetings = meetings_[warp];
    auto m = std::find_if(meetings.begin(), meetings.end(), [&](const Meeting& x) { return x.mask == mask; });
    if (m == meetings.end()) m = meetings.insert(m, Meeting{mask, 0, what, action, {}});
    if (m->what != what && std::strcmp(m->what, what) != 0) fatal("%s: other lanes are in %s", what, m->what);
    m->arrived |= 1u << lane;
    m->slots[lane] = slot;
    if (!complete(warp, *m)) park(what);
  }

  Votes barrier(int id, uint32_t wanted, uint32_t vote, bool wait) {
    if (id >= kMostBarriers) fatal("barrier %d of %d", id, kMostBarriers);
    Barrier& b = barriers_[id];
    if (b.arrived > 0 && b.wanted != wanted) fatal("barrier %d: for %u threads and for %u", id, b.wanted, wanted);
    b.wanted = wanted;
    b.arrived++;
    b.any |= vote, b.count += vote != 0;
    Thread& t = *current_;
    if (wait) b.waiting.push_back(&t);
    if (!complete(b) && wait) park("a barrier");
    return t.votes;
  }

  void wait_until(const std::function<bool()>& ready, const char* what) {
    while (!ready()) {
      polling_.push_back(current_);
      switch_out(what);
    }
  }

  void progress() { progress_++; }
  void defer(std::function<void()> work) { deferred_.push_back(std::move(work)); }

 private:
  static uint64_t seed() {
    static const uint64_t first = [] {
      const char* wanted = std::getenv("MINFERENCE_EMULATOR_SEED");
      const uint64_t s = wanted ? std::strtoull(wanted, nullptr, 10) : std::random_device{}();
      std::fprintf(stderr, "emulated GPU, MINFERENCE_EMULATOR_SEED=%llu\n", (unsigned long long)s);
      return s;
    }();
    return first;
  }

  void prepare(int i) {
    Thread& t = threads_[i];
    if (!t.stack) t.stack = map_memory(kStackBytes, MAP_STACK);
    const dim3 size = *emu_block_size;
    t.number = i;
    t.index = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
    t.alive = true;
    t.waits_for = nullptr;
    for (int q = 0; q < 2; q++) t.open[q].clear(), t.committed[q].clear();
    // What emu_switch pops: six registers, then the address that it returns to, with the stack as after a call.
    void** top = reinterpret_cast<void**>(t.stack + kStackBytes) - 8;
    std::fill(top, top + 8, nullptr);
    top[6] = reinterpret_cast<void*>(&Block::enter);
    t.stack_pointer = top;
    ready_.push_back(&t);
  }

  static void enter();

  void resume(Thread* t) {
    current_ = t;
    emu_thread_index = &t->index;
    emu_switch(&scheduler_, t->stack_pointer);
  }
  void switch_out(const char* what) {
    current_->waits_for = what;
    emu_switch(&current_->stack_pointer, scheduler_);
  }
  void park(const char* what) { switch_out(what); }
  void wake(Thread& t) {
    if (&t != current_) ready_.push_back(&t);
  }

  Thread* take(std::vector<Thread*>& from) {
    std::swap(from[random_() % from.size()], from.back());
    Thread* t = from.back();
    from.pop_back();
    return t;
  }

  // Nobody can run: those who poll look again, unless nothing has happened since they looked.
  void poll() {
    if (polling_.empty() || progress_ == progress_at_poll_) report_deadlock();
    progress_at_poll_ = progress_;
    ready_.swap(polling_);
  }

  void run_deferred() {
    const size_t i = random_() % deferred_.size();
    const auto work = std::move(deferred_[i]);
    deferred_.erase(deferred_.begin() + i);
    progress_++;
    work();
  }

  uint32_t living(int warp) const {
    uint32_t lanes = 0;
    for (int i = 0; i < kWarp && warp * kWarp + i < kMostThreads; i++) {
      const Thread& t = threads_[warp * kWarp + i];
      lanes |= uint32_t(t.alive) << i;
    }
    return lanes;
  }

  bool complete(int warp, Meeting& m) {
    if (m.arrived == 0 || (m.mask & living(warp) & ~m.arrived)) return false;
    progress_++;
    const Meeting done = m;
    m.arrived = 0;
    meetings_[warp].erase(meetings_[warp].begin() + (&m - meetings_[warp].data()));
    if (done.action) done.action(done.slots, done.arrived);
    for (int i = 0; i < kWarp; i++)
      if (done.arrived >> i & 1) wake(threads_[warp * kWarp + i]);
    return true;
  }

  bool complete(Barrier& b) {
    const uint32_t wanted = b.wanted ? b.wanted : uint32_t(alive_);
    if (b.arrived == 0 || b.arrived < wanted) return false;
    if (b.arrived > wanted) fatal("%u threads at a barrier for %u", b.arrived, wanted);
    progress_++;
    for (Thread* t : b.waiting) t->votes = {b.any, b.count}, wake(*t);
    b = {};
    return true;
  }

  void leave() {
    Thread& t = *current_;
    t.alive = false;
    alive_--;
    progress_++;
    // Those who waited for this thread as well.
    current_ = nullptr;
    const int warp = t.number / kWarp;
    for (size_t i = 0; i < meetings_[warp].size();)
      if (!complete(warp, meetings_[warp][i])) i++;
    if (barriers_[0].wanted == 0 && alive_ > 0) complete(barriers_[0]);
    void* unused;
    emu_switch(&unused, scheduler_);
  }

  [[noreturn]] void report_deadlock() {
    std::fprintf(stderr, "emulator: deadlock in block (%u, %u, %u):\n", emu_block_index->x, emu_block_index->y,
                 emu_block_index->z);
    for (const Thread& t : threads_)
      if (t.alive && t.number % kWarp == 0) std::fprintf(stderr, "  warp %d waits for %s\n", t.number / kWarp, t.waits_for);
    std::abort();
  }

  std::vector<Thread> threads_;
  char* shared_;
  std::mt19937_64 random_;
  const std::function<void()>* kernel_ = nullptr;
  void* scheduler_ = nullptr;
  Thread* current_ = nullptr;
  int alive_ = 0;
  std::vector<Thread*> ready_, polling_;
  std::vector<std::function<void()>> deferred_;
  std::vector<std::vector<Meeting>> meetings_;  // [warp]
  Barrier barriers_[kMostBarriers];
  uint64_t progress_ = 1, progress_at_poll_ = 0;
};

Block& block() {
  static Block instance;
  return instance;
}

void Block::enter() {
  Block& b = block();
  (*b.kernel_)();
  b.leave();
}

}  // namespace

char* dynamic_shared() { return block().shared(); }
int lane() { return block().current().number % kWarp; }

void launch(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex one_at_a_time;
  std::lock_guard<std::mutex> lock(one_at_a_time);
  emu_block_size = &size;
  emu_grid_size = &grid;
  dim3 at;
  emu_block_index = &at;
  for (at.z = 0; at.z < grid.z; at.z++)
    for (at.y = 0; at.y < grid.y; at.y++)
      for (at.x = 0; at.x < grid.x; at.x++) block().run(int(size.x * size.y * size.z), shared_bytes, kernel);
}

void fatal(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "emulator: ");
  std::vfprintf(stderr, format, arguments);
  if (emu_thread_index)
    std::fprintf(stderr, " (block %u, %u, %u, thread %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
                 threadIdx.y);
  std::fprintf(stderr, "\n");
  std::abort();
}

void meet(uint32_t mask, const char* what, void* slot, WarpAction action) { block().meet(mask, what, slot, action); }
Votes barrier_sync(int id, uint32_t threads, uint32_t vote) { return block().barrier(id, threads, vote, true); }
void barrier_arrive(int id, uint32_t threads) { block().barrier(id, threads, 0, false); }
void wait_until(const std::function<bool()>& ready, const char* what) { block().wait_until(ready, what); }
void progress() { block().progress(); }
void defer(std::function<void()> work) { block().defer(std::move(work)); }

void enqueue(Queue queue, std::function<void()> work) {
  block().current().open[int(queue)].push_back(std::move(work));
}
void commit(Queue queue) {
  Thread& t = block().current();
  t.committed[int(queue)].push_back(std::move(t.open[int(queue)]));
  t.open[int(queue)].clear();
}
void wait(Queue queue, int pending) {
  auto& groups = block().current().committed[int(queue)];
  while (int(groups.size()) > pending) {
    for (const auto& work : groups.front()) work();
    groups.pop_front();
  }
}

}  // namespace emu
