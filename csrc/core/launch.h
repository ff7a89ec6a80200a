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
#define BIASGEN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
// Names the block's shared_bytes, 16-byte aligned.
#define BIASGEN_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace biasgen {

// What went wrong in the last launch, or null. Faults while the kernel runs show up at the next synchronization.
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

__device__ inline void atomic_min(uint64_t* address, uint64_t value) {
  atomicMin(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}

}  // namespace biasgen

#elif defined(BIASGEN_HOST_SHIM)

#define BIASGEN_UNROLL
#define BIASGEN_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  (static_cast<void>(stream), host_shim::launch(blocks, threads, [&] { kernel(__VA_ARGS__); }, shared_bytes))
#define BIASGEN_DYNAMIC_SHARED(name) unsigned char* const name = host_shim::dynamic_shared.get()

namespace biasgen {

inline const char* launch_error() { return host_shim::last_error(); }
inline void atomic_min(uint64_t* address, uint64_t value) { atomicMin(address, value); }

}  // namespace biasgen

#else
#error "compile a kernel source with nvcc, or include tests/host_shim.h before it"
#endif
