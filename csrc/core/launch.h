// The one place where a kernel source meets its compiler: the launch macro, and wrappers of what only a GPU has, with
// host twins.
//
// Kernel sources (csrc/cuda/*.cu) compile with nvcc, and with a C++ compiler after tests/host_shim.h, which runs a grid
// on the CPU.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#define BIASGEN_UNROLL _Pragma("unroll")
#define BIASGEN_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)

namespace biasgen {

// What went wrong in the last launch, or null. Faults while the kernel runs show up at the next synchronization.
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// 2^x by the special function unit: relative error <= 2^-22 (PTX manual, ex2.approx.ftz.f32), results below 2^-126 are
// 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace biasgen

#elif defined(BIASGEN_HOST_SHIM)

#define BIASGEN_UNROLL
#define BIASGEN_LAUNCH(kernel, blocks, threads, stream, ...) \
  (static_cast<void>(stream), host_shim::launch(blocks, threads, [&] { kernel(__VA_ARGS__); }))

namespace biasgen {

inline const char* launch_error() { return host_shim::last_error(); }
inline float exp2_approx(float x) { return exp2f(x); }

}  // namespace biasgen

#else
#error "compile a kernel source with nvcc, or include tests/host_shim.h before it"
#endif
