// Standard normals keyed by (seed, sample, step, purpose): what crosses between the binding and the kernels of each
// instruction set. The numbers are those of biasgen/ops/philox.py.
#pragma once
#include <cstdint>

namespace biasgen {

struct NormalRows {
  int64_t n, blocks;     // rows, and blocks of four numbers of each
  uint64_t seed, first;  // first: number of the first sample, below 2^48 - n
  uint32_t step, purpose;
  float* out;  // (n, 4 blocks)
};

#define BIASGEN_PHILOX(ISA)                    \
  inline namespace ISA {                       \
  void philox_normals(const NormalRows& rows); \
  }

BIASGEN_PHILOX(baseline)
#ifdef BIASGEN_X86
BIASGEN_PHILOX(avx2)
BIASGEN_PHILOX(avx512)
#endif

}  // namespace biasgen
