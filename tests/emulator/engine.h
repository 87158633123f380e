// The emulated multiprocessor: runs the threads of one block at a time as fibers, in an order drawn anew each time, and
// switches only where CUDA lets threads wait for each other. What a warp does together is computed once its last lane
// arrives. A block whose threads all wait is reported as the deadlock that it is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern const dim3* emu_thread_index;
extern const dim3* emu_block_index;
extern const dim3* emu_block_size;
extern const dim3* emu_grid_size;
#define threadIdx (*emu_thread_index)
#define blockIdx (*emu_block_index)
#define blockDim (*emu_block_size)
#define gridDim (*emu_grid_size)
constexpr int warpSize = 32;

namespace emu {

// Where a block's dynamic shared memory is: a window in the low 4 GB, so that 32-bit addresses name it.
constexpr size_t kSharedBytes = 256 << 10;
char* dynamic_shared();

// Runs `kernel` in every thread of the grid, one grid at a time in the process. The dynamic shared memory holds NaNs at the start of each block.
void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

// True if the stream is being captured: `work` then is a node of its graph. Else what the stream holds has run.
bool captured(const void* stream, const std::function<void()>& work);

// What the stream holds has run.
void catch_up(const void* stream);

// The same with the arguments of <<< >>>.
template <class Kernel>
void launch_on(dim3 grid, dim3 block, size_t shared_bytes, const void* stream, const Kernel& kernel) {
  const auto work = [=] { launch(grid, block, shared_bytes, kernel); };
  if (!captured(stream, work)) work();
}

// Ends the process, saying what and in which thread.
[[noreturn]] void fatal(const char* format, ...) __attribute__((format(printf, 1, 2)));

int lane();  // of the running thread

// Lanes of a warp meet. Each brings `slot`; the last to arrive runs action(slots, arrived lanes). Lanes that have left the
// kernel are not waited for. `what` names the instruction: lanes that meet in different ones have diverged.
using WarpAction = void (*)(void* const* slots, uint32_t lanes);
void meet(uint32_t mask, const char* what, void* slot, WarpAction action);

// Barrier `id` of the block (0: all threads, where `threads` is 0). Returns the OR and the sum of what the threads bring.
struct Votes {
  uint32_t any, count;
};
Votes barrier_sync(int id, uint32_t threads, uint32_t vote = 0);
void barrier_arrive(int id, uint32_t threads);

// Lets the others run until `ready` holds.
void wait_until(const std::function<bool()>& ready, const char* what);

// For what is polled: something has changed.
void progress();

// Work that the hardware does by itself, some time from now: bulk copies.
void defer(std::function<void()> work);

// The thread's queue of asynchronous work of a kind (copies, products). Groups run at the latest moment that is legal: in
// wait(), which leaves the newest `pending` groups.
enum class Queue { kCopies, kProducts };
void enqueue(Queue queue, std::function<void()> work);
void commit(Queue queue);
void wait(Queue queue, int pending);

}  // namespace emu
