// The kernels of one instruction set, and what their tests share.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "cpu/isa.h"
#include "cpu/knn.h"
#include "cpu/philox.h"
#include "cpu/tree_posterior.h"

namespace biasgen {

struct Kernels {
  decltype(&baseline::pack_reference) pack_reference;
  decltype(&baseline::knn) knn;
  decltype(&baseline::rows_within) rows_within;
  decltype(&baseline::encode) encode;
  decltype(&baseline::knn_floats) knn_floats;
  decltype(&baseline::floats_within) floats_within;
  decltype(&baseline::direct_knn) direct_knn;
  decltype(&baseline::direct_within) direct_within;
  decltype(&baseline::direct_floats_knn) direct_floats_knn;
  decltype(&baseline::direct_floats_within) direct_floats_within;
  decltype(&baseline::tree_posterior) tree_posterior;
  decltype(&baseline::philox_normals) philox_normals;
};

#define KERNELS(isa)                                                                                                 \
  Kernels {                                                                                                          \
    isa::pack_reference, isa::knn, isa::rows_within, isa::encode, isa::knn_floats, isa::floats_within,               \
        isa::direct_knn, isa::direct_within, isa::direct_floats_knn, isa::direct_floats_within, isa::tree_posterior, \
        isa::philox_normals                                                                                          \
  }

inline Kernels kernels(Isa isa) {
#ifdef BIASGEN_X86
  if (isa == Isa::avx512) return KERNELS(avx512);
  if (isa == Isa::avx2) return KERNELS(avx2);
#endif
  static_cast<void>(isa);
  return KERNELS(baseline);
}

inline int64_t checks = 0;
inline std::string doing;

inline void check(bool holds, const char* what) {
  ++checks;
  if (holds) return;
  std::printf("kernels_test: %s: %s\n", doing.c_str(), what);
  std::exit(1);
}

inline uint64_t state = 1;

inline int64_t below(int64_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<int64_t>(state >> 33) % n;
}

struct AlignedDelete {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};

// Exactly as many bytes as asked for: one more is out of bounds.
inline std::unique_ptr<void, AlignedDelete> scratch(int64_t bytes) {
  return std::unique_ptr<void, AlignedDelete>(::operator new(static_cast<size_t>(bytes), std::align_val_t{64}));
}

}  // namespace biasgen
