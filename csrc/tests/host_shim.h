// A CUDA grid on the CPU: blocks one after the other, one fibre (ucontext) a thread. It runs kernel sources in tests,
// without a GPU.
//
// A fibre runs until a barrier or a warp operation; then the next one in the chosen order does. Several orders make a
// missing barrier visible. Not modelled: the memory model (every store is seen at once), blocks at the same time, the
// accuracy of approximate instructions, resource limits. With -fsanitize=address -fsanitize-sections=biasgen_shared an
// index past a shared array is caught. A kernel with __shared__ variables must not be a template with external linkage
// (its section would be another one).
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define BIASGEN_HOST_SHIM
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static __attribute__((section("biasgen_shared")))  // one section, so that it can be poisoned

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the fibre that runs

// Ends of the section; absent in a program without __shared__ variables.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_biasgen_shared[], __stop_biasgen_shared[];

namespace host_shim {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;

enum class State { ready, at_barrier, at_warp, done };

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  dim3 thread;
  unsigned lane, mask;       // mask: the lanes that a warp operation waits for
  const char* where;         // the operation that it waits in
  uint64_t deposit;          // what it gives to a warp operation ...
  uint64_t received[kWarp];  // ... and what all lanes gave, copied when the operation completes
  void* sanitizer_stack;
};

inline std::vector<Fibre> fibres;
inline Fibre* current = nullptr;
inline ucontext_t scheduler;
inline const std::function<void()>* kernel = nullptr;
inline unsigned order = 0;  // 0: forward, 1: reversed, >= 2: shuffled at every turn, with this seed
inline std::string error;
inline std::unique_ptr<unsigned char[]> dynamic_shared;  // of the block that runs; a heap block of the size asked for

inline const char* last_error() { return error.empty() ? nullptr : error.c_str(); }

// AddressSanitizer must hear of every change of stack.
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_stack_bytes = 0;
#if defined(__SANITIZE_ADDRESS__)
inline void leave(void** save, const void* stack, size_t bytes) { __sanitizer_start_switch_fiber(save, stack, bytes); }
inline void enter(void* saved, const void** from, size_t* bytes) {
  __sanitizer_finish_switch_fiber(saved, from, bytes);
}
#else
inline void leave(void**, const void*, size_t) {}
inline void enter(void*, const void**, size_t*) {}
#endif

inline void to_scheduler() {
  Fibre& self = *current;
  leave(self.state == State::done ? nullptr : &self.sanitizer_stack, scheduler_stack, scheduler_stack_bytes);
  swapcontext(&self.context, &scheduler);
  enter(self.sanitizer_stack, nullptr, nullptr);
}

inline void to_fibre(Fibre& fibre) {
  void* saved = nullptr;
  current = &fibre;
  threadIdx = fibre.thread;
  leave(&saved, fibre.stack.get(), kStackBytes);
  swapcontext(&scheduler, &fibre.context);
  enter(saved, nullptr, nullptr);
}

inline void fibre_main() {
  enter(nullptr, &scheduler_stack, &scheduler_stack_bytes);
  (*kernel)();
  current->state = State::done;
  to_scheduler();
}

// On its own: getcontext may return twice, which compilers distrust in a function with variables of its own.
__attribute__((noinline)) inline void start_at_fibre_main(Fibre& fibre) {
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack.get();
  fibre.context.uc_stack.ss_size = kStackBytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, fibre_main, 0);
}

inline void wait(State state, const char* where, unsigned mask = 0) {
  current->state = state;
  current->where = where;
  current->mask = mask;
  to_scheduler();
}

// Wakes the lanes of one warp whose operation is complete: every lane in its mask waits in the same operation.
inline bool release_warp(Fibre* warp, unsigned lanes) {
  bool released = false;
  for (unsigned i = 0; i < lanes; ++i) {
    if (warp[i].state != State::at_warp) continue;
    const unsigned mask = warp[i].mask;
    bool complete = true;
    for (unsigned j = 0; j < lanes; ++j)
      if (mask >> j & 1)
        complete &= warp[j].state == State::at_warp && warp[j].mask == mask && warp[j].where == warp[i].where;
    if (!complete) continue;
    for (unsigned j = 0; j < lanes; ++j)
      if (mask >> j & 1) {
        for (unsigned k = 0; k < lanes; ++k) warp[j].received[k] = warp[k].deposit;
        warp[j].state = State::ready;
      }
    released = true;
  }
  return released;
}

// Wakes the block when every thread that has not ended is at the barrier.
inline bool release_block() {
  bool any = false;
  for (const Fibre& fibre : fibres) {
    if (fibre.state != State::at_barrier && fibre.state != State::done) return false;
    any |= fibre.state == State::at_barrier;
  }
  for (Fibre& fibre : fibres)
    if (fibre.state == State::at_barrier) fibre.state = State::ready;
  return any;
}

// Uninitialized shared memory reads as NaN (all bits one). Not instrumented: it also covers the sanitizer's red zones.
__attribute__((no_sanitize("address"), noinline)) inline void poison_shared() {
  for (volatile char* p = __start_biasgen_shared; p < __stop_biasgen_shared; ++p) *p = static_cast<char>(0xFF);
}

inline void run_block(std::mt19937& random, size_t dynamic_bytes) {
  const size_t n = fibres.size();
  std::vector<size_t> turn(n);
  for (size_t i = 0; i < n; ++i) {
    turn[i] = order == 1 ? n - 1 - i : i;
    Fibre& fibre = fibres[i];
    fibre.state = State::ready;
    fibre.thread = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
    fibre.lane = i % kWarp;
    fibre.sanitizer_stack = nullptr;
    start_at_fibre_main(fibre);
  }
  poison_shared();
  std::fill_n(dynamic_shared.get(), dynamic_bytes, static_cast<unsigned char>(0xFF));
  for (;;) {
    if (order >= 2) std::shuffle(turn.begin(), turn.end(), random);
    bool moved = false;
    for (size_t i : turn)
      if (fibres[i].state == State::ready) {
        to_fibre(fibres[i]);
        moved = true;
      }
    if (std::all_of(fibres.begin(), fibres.end(), [](const Fibre& f) { return f.state == State::done; })) return;
    for (size_t first = 0; first < n; first += kWarp)
      moved |= release_warp(&fibres[first], static_cast<unsigned>(std::min<size_t>(kWarp, n - first)));
    moved |= release_block();
    if (moved) continue;
    error = "deadlock in block " + std::to_string(blockIdx.x);
    for (size_t i = 0; i < n; i += kWarp / 2)
      error += "; thread " + std::to_string(i) + " " +
               (fibres[i].state == State::done ? "has ended" : std::string("waits in ") + fibres[i].where);
    return;
  }
}

// Runs body() once a thread; last_error() is null afterwards, or says where the first stuck block hangs.
inline void launch(dim3 grid, dim3 block, const std::function<void()>& body, size_t dynamic_bytes = 0) {
  error.clear();
  dynamic_shared.reset(new unsigned char[dynamic_bytes]);
  kernel = &body;
  gridDim = grid;
  blockDim = block;
  fibres = std::vector<Fibre>(size_t(block.x) * block.y * block.z);
  for (Fibre& fibre : fibres) fibre.stack.reset(new char[kStackBytes]);
  std::mt19937 random(order);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x && error.empty(); ++x) {
        blockIdx = dim3(x, y, z);
        run_block(random, dynamic_bytes);
      }
}

template <class T>
void exchange(unsigned mask, T value, const char* where) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
  current->deposit = 0;
  std::memcpy(&current->deposit, &value, sizeof(T));
  wait(State::at_warp, where, mask);
}

template <class T>
T received_from(unsigned lane) {
  T value;
  std::memcpy(&value, &current->received[lane % kWarp], sizeof(T));
  return value;
}

}  // namespace host_shim

inline void __syncthreads() { host_shim::wait(host_shim::State::at_barrier, "__syncthreads"); }
inline void __syncwarp(unsigned mask = ~0u) { host_shim::wait(host_shim::State::at_warp, "__syncwarp", mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, unsigned lane) {
  host_shim::exchange(mask, value, "__shfl_sync");
  return host_shim::received_from<T>(lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
  host_shim::exchange(mask, value, "__shfl_xor_sync");
  return host_shim::received_from<T>(host_shim::current->lane ^ bits);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  host_shim::exchange(mask, predicate != 0, "__ballot_sync");
  unsigned votes = 0;
  for (unsigned lane = 0; lane < host_shim::kWarp; ++lane)
    if (mask >> lane & 1) votes |= unsigned(host_shim::received_from<bool>(lane)) << lane;
  return votes;
}

// Fibres change only at the operations above, so plain code is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <class T>
T atomicMin(T* address, T value) {
  const T old = *address;
  *address = std::min(old, value);
  return old;
}

using std::max;
using std::min;

inline int32_t __float_as_int(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __int_as_float(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
