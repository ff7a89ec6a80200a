// Strings of a tree grammar from the root down, one a thread, in place: the nodes of a level lie in the first symbols
// of the row.
#include "core/launch.h"
#include "cuda/tree_draw.h"
#include "cuda/tree_sample.h"

namespace biasgen {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) tree_sample_kernel(const __grid_constant__ TreeSampleCall call) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= call.n) return;
  const int L = static_cast<int>(call.L), Q = static_cast<int>(call.Q);
  Numbers number(call.seed, call.offset + static_cast<uint64_t>(row), 0, kData);
  int8_t* symbols = call.strings + row * L;
  symbols[0] = static_cast<int8_t>(min(static_cast<int>(number(0) * Q), Q - 1));
  for (int nodes = 1; nodes < L; nodes *= 2)
    for (int i = nodes - 1; i >= 0; --i) {
      const double u = number(nodes + i);
      int rule = call.begin[symbols[i]];
      while (u > call.cumulative[rule]) ++rule;
      symbols[2 * i] = call.children[2 * rule];
      symbols[2 * i + 1] = call.children[2 * rule + 1];
    }
}

}  // namespace

extern "C" const char* launch_tree_sample(const TreeSampleCall* call) {
  if (call->L < 2 || call->L > 1024 || (call->L & (call->L - 1)) || call->Q < 1 || call->Q > 64)
    return "rules: want L = 2, 4, ... 1024 leaves and Q = 1 .. 64 symbols";
  if (call->n < 0 || call->n >> 37) return "n: want fewer than 2^37 strings";
  if (call->n == 0) return nullptr;
  BIASGEN_LAUNCH(tree_sample_kernel, static_cast<unsigned>((call->n + kThreads - 1) / kThreads), kThreads, 0,
                 call->stream, *call);
  return launch_error();
}

}  // namespace biasgen
