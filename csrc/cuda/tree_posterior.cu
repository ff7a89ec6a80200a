// Launches the posterior of a tree: the paper's grammar on the kernel here, which has its rules at compile time, others
// on that of any_tree.cu.
#include "cuda/any_tree.h"
#include "cuda/paper_tree.h"
#include "cuda/tree_posterior.h"

namespace biasgen {
namespace {

using namespace paper;

// 16 bytes at a time, read once.
__device__ __forceinline__ void load(const float* from, float (&x)[kLaneEntries]) {
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneEntries / 4; ++i) {
    const float4 v = __ldcs(reinterpret_cast<const float4*>(from) + i);
    x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
  }
}

__device__ __forceinline__ void load(const double* from, double (&x)[kLaneEntries]) {
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneEntries / 2; ++i) {
    const double2 v = __ldcs(reinterpret_cast<const double2*>(from) + i);
    x[2 * i] = v.x, x[2 * i + 1] = v.y;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    paper_tree_kernel(const T* __restrict__ log_field, const __grid_constant__ Weights weights, int64_t B,
                      float* __restrict__ marginals, double* __restrict__ log_z, uint8_t* __restrict__ impossible,
                      uint64_t* __restrict__ refused) {
  const int lane = threadIdx.x % kLanes;
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kSamplesPerBlock + threadIdx.x / kLanes;
  const int64_t sample =
      wanted < B ? wanted : B - 1;  // lanes past the end repeat the last sample: shuffles need the whole warp
  const int64_t first = sample * (kLeaves * kQ) + lane * kLaneEntries;
  T field[kLaneEntries];
  load(log_field + first, field);
  float x0_hat[kLaneEntries];
  const Evidence evidence = posterior(
      weights, lane,
      [&](int leaf, double (&f)[kQ]) {
        BIASGEN_UNROLL
        for (int a = 0; a < kQ; ++a) f[a] = field[leaf * kQ + a];
      },
      x0_hat);
  if (wanted >= B) return;
  if (lane == 0) {
    log_z[sample] = evidence.refused ? static_cast<double>(NAN) : evidence.log_z;
    impossible[sample] = evidence.impossible && !evidence.refused;
    if (evidence.refused) atomic_min(refused, static_cast<uint64_t>(sample));
  }
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneEntries; ++i) x0_hat[i] = evidence.refused ? NAN : x0_hat[i];
  BIASGEN_UNROLL
  for (int i = 0; i < kLaneEntries / 4; ++i)
    __stcs(reinterpret_cast<float4*>(marginals + first) + i,
           make_float4(x0_hat[4 * i], x0_hat[4 * i + 1], x0_hat[4 * i + 2], x0_hat[4 * i + 3]));
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool is_paper_tree(const TreePosteriorCall& call, Weights& weights) {
  return !call.draws.strings && call.Q == kQ && call.L == kLeaves &&
         find_weights(call.rules, call.weights, call.R, weights);
}

}  // namespace

extern "C" int64_t tree_posterior_scratch(const TreePosteriorCall* call) {
  Weights weights;
  return is_paper_tree(*call, weights) ? 0 : any_tree_scratch(*call);
}

extern "C" const char* launch_tree_posterior(const TreePosteriorCall* call) {
  if (call->L < 2 || call->L > 1024 || (call->L & (call->L - 1)) || call->Q < 1 || call->Q > 64)
    return "log_field: want L = 2, 4, ... 1024 leaves and Q = 1 .. 64 symbols";
  if (call->B < 0 || call->B >> 35) return "log_field: want fewer than 2^35 samples";
  if (!is_aligned(call->log_field)) return "log_field: want a 16-byte aligned pointer";
  if (!is_aligned(call->marginals)) return "marginals: want a 16-byte aligned pointer";
  if (call->B == 0) return nullptr;
  Weights weights;
  if (!is_paper_tree(*call, weights)) return launch_any_tree(*call);
  const unsigned blocks = static_cast<unsigned>((call->B + kSamplesPerBlock - 1) / kSamplesPerBlock);
  if (call->double_field)
    BIASGEN_LAUNCH(paper_tree_kernel<double>, blocks, kThreads, 0, call->stream,
                   static_cast<const double*>(call->log_field), weights, call->B, call->marginals, call->log_z,
                   call->impossible, call->refused);
  else
    BIASGEN_LAUNCH(paper_tree_kernel<float>, blocks, kThreads, 0, call->stream,
                   static_cast<const float*>(call->log_field), weights, call->B, call->marginals, call->log_z,
                   call->impossible, call->refused);
  return launch_error();
}

}  // namespace biasgen
