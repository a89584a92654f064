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
uint32_t operands[MOST_THREADS / 32][2][32][6]; // of a matrix product: a, b
struct copy {
    void *to;
    const void *from;
    size_t bytes;
};
std::vector<copy> copies[MOST_THREADS];
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
    static bool backwards = false; // nothing may depend on the order of blocks
    backwards = !backwards;
    body = &kernel;
    here.grid = grid;
    here.size = block;
    shared.assign(shared_bytes / sizeof(float4) + 1, make_float4(NAN, NAN, NAN, NAN));
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            here.block = backwards ? uint3{grid.x - 1 - x, grid.y - 1 - y, 0} : uint3{x, y, 0};
            if (!waits) {
                for (here.thread = {0, 0, 0}; here.thread.x < block.x; here.thread.x++) kernel();
                continue;
            }
            block_barrier.arrived = 0;
            for (barrier &b : warp_barrier) b.arrived = 0;
            for (unsigned i = 0; i < block.x; i++) copies[i].clear();
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

void copy_later(void *to, const void *from, size_t bytes) {
    copies[current].push_back({to, from, bytes});
}

void copy_now() {
    for (const copy &c : copies[current]) std::memcpy(c.to, c.from, c.bytes);
    copies[current].clear();
}

static float bf16(uint32_t pair, int i) {
    const uint32_t bits = i ? pair & 0xffff0000u : pair << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Lane 4 i + j has of a: rows i and i + 8, columns 2 j, 2 j + 1 and 8 more; of b: the rows like a's columns, column i;
// of d: a's rows, columns 2 j, 2 j + 1.
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const int me = current, warp = me / 32, i = me % 32 / 4, j = me % 4;
    const unsigned turn = shuffles[me]++ % 2;
    uint32_t(*all)[6] = operands[warp][turn];
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    std::memcpy(all[me % 32], mine, sizeof mine);
    wait_at(warp_barrier[warp], 32);
    for (int n = 0; n < 4; n++) {
        const int column = 2 * j + n % 2;
        double sum = 0;
        for (int k = 0; k < 16; k++)
            sum += static_cast<double>(bf16(all[4 * i + k % 8 / 2][n / 2 + k / 8 * 2], k % 2)) *
                   static_cast<double>(bf16(all[4 * column + k % 8 / 2][4 + k / 8], k % 2));
        d[n] = static_cast<float>(static_cast<double>(d[n]) + sum);
    }
}

} // namespace emulator
