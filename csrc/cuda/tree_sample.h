// Strings of a tree grammar, drawn on a GPU: equal to TreeGrammar.sample.
#pragma once
#include <cstdint>

namespace biasgen {

// Everything is on the device. Rules are sorted by parent; those of symbol p are begin[p] .. begin[p + 1] - 1.
struct TreeSampleCall {
  int64_t n, L, Q;           // strings, L = 2, 4, ... 1024 leaves, Q <= 64 symbols
  uint64_t seed, offset;     // row b draws the numbers of sample offset + b
  const int32_t* begin;      // (Q + 1,)
  const int8_t* children;    // (R, 2) left, right
  const double* cumulative;  // (R,) running sum of a parent's weights; +inf for its last rule
  int8_t* strings;           // (n, L)
  void* stream;              // cudaStream_t
};

// Launches and returns null, or a sentence that says why nothing was launched.
extern "C" __attribute__((visibility("default"))) const char* launch_tree_sample(const TreeSampleCall* call);

}  // namespace biasgen
