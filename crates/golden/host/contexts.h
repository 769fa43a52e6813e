// As much of CUDA as kernels need, for a C++ compiler: a block's threads are contexts of one
// thread, which run until they wait for one another.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "half_types.h"

using std::isfinite, std::isnan, std::max, std::min;

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after the other.
#define __shared__ static
#define DYNAMIC_SHARED(T, NAME) T *NAME = reinterpret_cast<T *>(dynamic_shared)
inline void *dynamic_shared;

struct Index {
    unsigned x, y;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;
// Blocks, warps and lanes take turns from the last to the first: what two of them do between two
// barriers is done in the other order then, and should come to the same.
inline bool backwards = false;

#ifdef __SANITIZE_ADDRESS__
// Asked at every jump to forget what it knows of stacks, which are not watched.
extern "C" void __asan_handle_no_return() {}
#endif

enum class State { RUNS, WAITS_FOR_BLOCK, WAITS_FOR_WARP, ENDED };
struct Thread {
    ucontext_t context;
    jmp_buf place;
    bool begun;
    State state;
    unsigned number;
};
inline std::vector<Thread> threads;
inline jmp_buf scheduler;
inline Thread *running;
inline std::function<void()> body;

// Jumps, because switching contexts asks the system for more than is needed here.
inline void wait(State state) {
    running->state = state;
    if (_setjmp(running->place) == 0) _longjmp(scheduler, 1);
    threadIdx = {running->number, 0};
}
inline void __syncthreads() { wait(State::WAITS_FOR_BLOCK); }
inline void __syncwarp() { wait(State::WAITS_FOR_WARP); }

// What the lanes of a warp show one another.
inline unsigned char shown[1024][16];
template <typename T> T from_thread(T value, unsigned thread) {
    std::memcpy(shown[threadIdx.x], &value, sizeof(value));
    __syncwarp();
    T other;
    std::memcpy(&other, shown[thread], sizeof(other));
    __syncwarp();
    return other;
}
inline unsigned own_warp() { return threadIdx.x / 32 * 32; }
template <typename T> T __shfl_xor_sync(unsigned, T value, int distance) {
    return from_thread(value, threadIdx.x ^ distance);
}
template <typename T> T __shfl_up_sync(unsigned, T value, unsigned distance) {
    return from_thread(value, threadIdx.x - (threadIdx.x % 32 >= distance ? distance : 0));
}
template <typename T> T __shfl_sync(unsigned, T value, int lane, int width = 32) {
    return from_thread(value, threadIdx.x / width * width + lane % width);
}
inline uint32_t __ballot_sync(unsigned, bool says) {
    uint32_t all = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        all |= static_cast<uint32_t>(__shfl_sync(~0u, says, static_cast<int>(lane))) << lane;
    return all;
}
inline bool __all_sync(unsigned, bool says) { return __ballot_sync(~0u, says) == ~0u; }
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value = max(value, __shfl_xor_sync(~0u, value, distance));
    return value;
}
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(~0u, value, distance);
    return value;
}
inline bool __syncthreads_or(bool says) {
    static bool all[1024];
    all[threadIdx.x] = says;
    __syncthreads();
    bool some = false;
    for (unsigned t = 0; t < blockDim.x; ++t) some |= all[t];
    __syncthreads();
    return some;
}
inline int __ffs(uint32_t bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }
inline int __popc(uint32_t bits) { return std::popcount(bits); }
// The upper half of both, as one number, moved up.
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, unsigned by) {
    const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
    return static_cast<uint32_t>(both << by >> 32);
}
// Nobody else is at work meanwhile.
template <typename T> T atomicAdd(T *to, T value) {
    const T before = *to;
    *to += value;
    return before;
}
template <typename T> T atomicMax(T *to, T value) {
    const T before = *to;
    *to = max(before, value);
    return before;
}
template <typename T> T atomicOr(T *to, T value) {
    const T before = *to;
    *to |= value;
    return before;
}
// Not to be fused: the compiler is told -ffp-contract=off.
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline long long __double2ll_rn(double x) { return std::llrint(x); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }

struct alignas(8) float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct alignas(8) uint2 {
    uint32_t x, y;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

inline void run_thread() {
    threadIdx = {running->number, 0};
    body();
    running->state = State::ENDED;
    _longjmp(scheduler, 1);
}

// Until it waits or ends.
inline void go_on(Thread &thread) {
    running = &thread;
    if (_setjmp(scheduler) != 0) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    setcontext(&thread.context);
}

// Has the lanes of a warp go on that wait for one another; false where they cannot.
inline bool release_warp(unsigned first) {
    unsigned waiting = 0, gone = 0;
    for (unsigned t = first; t < first + 32; ++t) {
        waiting += threads[t].state == State::WAITS_FOR_WARP;
        gone += threads[t].state == State::ENDED;
    }
    if (waiting == 0 || waiting + gone < 32) return false;
    for (unsigned t = first; t < first + 32; ++t)
        if (threads[t].state == State::WAITS_FOR_WARP) threads[t].state = State::RUNS;
    return true;
}

// The same of all threads.
inline bool release_block() {
    size_t waiting = 0, gone = 0;
    for (const Thread &thread : threads) {
        waiting += thread.state == State::WAITS_FOR_BLOCK;
        gone += thread.state == State::ENDED;
    }
    if (waiting == 0 || waiting + gone < threads.size()) return false;
    for (Thread &thread : threads)
        if (thread.state == State::WAITS_FOR_BLOCK) thread.state = State::RUNS;
    return true;
}

// One after the other of so many, in the order that is asked for.
template <typename F> void in_turn(unsigned count, F visit) {
    for (unsigned i = 0; i < count; ++i) visit(backwards ? count - 1 - i : i);
}

// Runs `kernel` on a grid of blocks of `count` threads, which share `bytes` beside what kernels
// declare. Threads that wait in vain end it all.
inline void launch(Index grid, unsigned count, std::function<void()> kernel, size_t bytes = 0) {
    constexpr size_t STACK = 1 << 16;
    static std::vector<char> stacks(1024 * STACK);
    gridDim = grid;
    blockDim = {count, 1};
    body = std::move(kernel);
    // No more than that, and aligned as on a GPU.
    dynamic_shared = std::aligned_alloc(16, (bytes + 15) / 16 * 16);
    in_turn(grid.x * grid.y, [&](unsigned block) {
        blockIdx = {block % grid.x, block / grid.x};
        threads.assign(count, {});
        for (unsigned t = 0; t < count; ++t) {
            Thread &thread = threads[t];
            thread.number = t;
            thread.state = State::RUNS;
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = &stacks[t * STACK];
            thread.context.uc_stack.ss_size = STACK;
            thread.context.uc_link = nullptr;
            makecontext(&thread.context, run_thread, 0);
        }
        // A warp goes as far as it can before the next one begins.
        do in_turn(count / 32, [&](unsigned warp) {
            do in_turn(32, [&](unsigned lane) {
                Thread &thread = threads[32 * warp + lane];
                if (thread.state == State::RUNS) go_on(thread);
            });
            while (release_warp(32 * warp));
        });
        while (release_block());
        for (const Thread &thread : threads)
            if (thread.state != State::ENDED) {
                std::printf("threads wait in vain\n");
                std::exit(1);
            }
    });
    std::free(dynamic_shared);
}
