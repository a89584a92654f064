#include "cuda/emulator/device.h"

#include <csetjmp>
#include <cstdlib>
#include <deque>
#include <ucontext.h>
#include <vector>

namespace emulator {

place here;

namespace {

constexpr int MOST_THREADS = 1024;
constexpr size_t STACK_BYTES = 128 * 1024;

// Made once; from then on it runs the body of each block.
struct fiber {
    std::vector<char> stack;
    ucontext_t start;
    jmp_buf jump;
    bool begun = false, done = false;
};

struct barrier {
    int arrived = 0;
    unsigned round = 0;
};

fiber fibers[MOST_THREADS];
ucontext_t scheduler_start;
jmp_buf scheduler;
barrier block_barrier, warp_barrier[MOST_THREADS / 32];
uint64_t slots[MOST_THREADS / 32][2][32];
unsigned shuffles[MOST_THREADS];
const std::function<void()> *body;
std::vector<float4> shared;
int current;
std::deque<std::function<void()>> queue;
uint64_t n_enqueued, n_run;

void yield() {
    if (!_setjmp(fibers[current].jump)) _longjmp(scheduler, 1);
}

void run_bodies() {
    for (;;) {
        (*body)();
        fibers[current].done = true;
        yield();
    }
}

void wait_at(barrier &b, int members) {
    unsigned round = b.round;
    if (++b.arrived == members) {
        b.arrived = 0;
        b.round++;
        return;
    }
    while (b.round == round) yield();
}

void resume(int i) {
    fiber &f = fibers[i];
    current = i;
    here.thread = {static_cast<unsigned>(i), 0, 0};
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.jump, 1);
    f.begun = true;
    setcontext(&f.start);
}

void make_fiber(fiber &f) {
    f.stack.resize(STACK_BYTES);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.data();
    f.start.uc_stack.ss_size = STACK_BYTES;
    f.start.uc_link = &scheduler_start;
    makecontext(&f.start, run_bodies, 0);
}

void run_block(int threads) {
    for (int i = 0; i < threads; i++) {
        if (!fibers[i].begun) make_fiber(fibers[i]);
        fibers[i].done = false;
        shuffles[i] = 0;
    }
    volatile bool busy = true;
    while (busy) {
        busy = false;
        for (volatile int i = 0; i < threads; i = i + 1)
            if (!fibers[i].done) {
                busy = true;
                resume(i);
            }
    }
}

} // namespace

void enqueue(std::function<void()> work) {
    queue.push_back(std::move(work));
    n_enqueued++;
}

uint64_t last_enqueued() {
    return n_enqueued;
}

void run_until(uint64_t number) {
    for (; n_run < number; n_run++) {
        queue.front()();
        queue.pop_front();
    }
}

static void run_grid(bool waits, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel) {
    body = &kernel;
    here.grid = grid;
    here.size = block;
    shared.assign(shared_bytes / sizeof(float4) + 1, make_float4(NAN, NAN, NAN, NAN));
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            here.block = {x, y, 0};
            if (!waits) {
                for (here.thread = {0, 0, 0}; here.thread.x < block.x; here.thread.x++) kernel();
                continue;
            }
            block_barrier.arrived = 0;
            for (barrier &b : warp_barrier) b.arrived = 0;
            run_block(static_cast<int>(block.x));
        }
}

void launch(bool waits, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel) {
    enqueue([=] { run_grid(waits, grid, block, shared_bytes, kernel); });
}

void *dynamic_shared() {
    return shared.data();
}

void sync_block() {
    wait_at(block_barrier, static_cast<int>(here.size.x));
}

void sync_warp() {
    wait_at(warp_barrier[current / 32], 32);
}

uint64_t exchange(uint64_t value, int from) {
    int me = current, warp = me / 32;
    unsigned turn = shuffles[me]++ % 2;
    slots[warp][turn][me % 32] = value;
    wait_at(warp_barrier[warp], 32);
    return slots[warp][turn][from];
}

} // namespace emulator
