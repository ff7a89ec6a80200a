// Reverse process of the paper's grammar, fused: field, belief propagation, denoiser, score, posterior step and noise
// of every step in one kernel. x_t stays in shared memory, each thread in slots of its own; nothing else is kept
// between steps.
#include "core/philox.h"
#include "cuda/paper_tree.h"
#include "cuda/tree_trajectory.h"

namespace biasgen {
namespace {

using namespace paper;

constexpr int kBlockWords = 4;                           // numbers of one Philox block
constexpr int kLaneBlocks = kLaneEntries / kBlockWords;  // blocks a lane
constexpr int64_t kSampleEntries = kLeaves * kQ;

// What the kernel takes besides the weights: the call without its host pointers.
struct Work {
  int64_t B;
  int steps;
  uint64_t seed, offset;
  const TreeStep* levels;
  const float* x;
  const int8_t* tokens;
  float start_scale, start_sigma;
  uint32_t start_step, start_purpose;
  const float* noise;
  float* end;
  int8_t* strings;
  float* x0_hat;
  double* score;
  double* log_density;
  uint64_t* refused;
};

__device__ __forceinline__ void draw(uint64_t seed, uint64_t sample, uint32_t step, uint32_t purpose, int block,
                                     float (&z)[kBlockWords]) {
  uint32_t word[kBlockWords];
  philox_words(seed, sample, step, purpose, static_cast<uint32_t>(block), word);
  normal_pair(word[0], word[1], z[0], z[1]);
  normal_pair(word[2], word[3], z[2], z[3]);
}

__device__ __forceinline__ void read_block(const float* from, float (&z)[kBlockWords]) {
  const float4 v = __ldcs(reinterpret_cast<const float4*>(from));
  z[0] = v.x, z[1] = v.y, z[2] = v.z, z[3] = v.w;
}

__global__ void __launch_bounds__(kThreads)
    tree_trajectory_kernel(const __grid_constant__ Work work, const __grid_constant__ Weights weights) {
  __shared__ float x_t[kLaneEntries][kThreads];
  const int thread = threadIdx.x, lane = thread % kLanes;
  const int64_t wanted = static_cast<int64_t>(blockIdx.x) * kSamplesPerBlock + thread / kLanes;
  const bool own = wanted < work.B;
  const int64_t sample = own ? wanted : work.B - 1;  // lanes past the end repeat the last sample
  const int64_t first = sample * kSampleEntries + lane * kLaneEntries;
  const uint64_t number = work.offset + static_cast<uint64_t>(sample);

  for (int block = 0; block < kLaneBlocks; ++block) {
    float z[kBlockWords];
    if (work.x)
      read_block(work.x + first + block * kBlockWords, z);
    else
      draw(work.seed, number, work.start_step, work.start_purpose, lane * kLaneBlocks + block, z);
    BIASGEN_UNROLL
    for (int i = 0; i < kBlockWords; ++i) {
      const int entry = block * kBlockWords + i;
      const bool hit = work.tokens && work.tokens[sample * kLeaves + lane * kLaneLeaves + entry / kQ] == entry % kQ;
      x_t[entry][thread] = work.x ? z[i] : fmaf(work.start_sigma, z[i], hit ? work.start_scale : 0.0f);
    }
  }

  bool refused = false;
  float x0_hat[kLaneEntries];
  for (int n = 0; n < work.steps; ++n) {
    const TreeStep step = work.levels[n];
    const Evidence evidence = posterior(
        weights, lane,
        [&](int leaf, double (&field)[kQ]) {
          BIASGEN_UNROLL
          for (int a = 0; a < kQ; ++a) field[a] = step.gamma * x_t[leaf * kQ + a][thread];
        },
        x0_hat);
    refused |= evidence.refused;
    if (n == work.steps - 1) {
      double square = 0.0;
      BIASGEN_UNROLL
      for (int i = 0; i < kLaneEntries; ++i) {
        const double x = x_t[i][thread];
        square += x * x;
        if (own && work.x0_hat) work.x0_hat[first + i] = refused ? NAN : x0_hat[i];
        if (own && work.score)
          work.score[first + i] =
              refused ? static_cast<double>(NAN) : step.gamma * x0_hat[i] - step.one_over_variance * x;
      }
      square += __shfl_xor_sync(~0u, square, 1);
      square += __shfl_xor_sync(~0u, square, 2);
      if (own && lane == 0 && work.log_density)
        work.log_density[sample] =
            refused ? static_cast<double>(NAN) : evidence.log_z - square * step.one_over_variance / 2 - step.log_norm;
    }
    BIASGEN_UNROLL
    for (int block = 0; block < kLaneBlocks; ++block) {
      float z[kBlockWords] = {};
      if (step.std > 0 && work.noise)
        read_block(work.noise + n * work.B * kSampleEntries + first + block * kBlockWords, z);
      else if (step.std > 0)
        draw(work.seed, number, step.t, kReverse, lane * kLaneBlocks + block, z);
      BIASGEN_UNROLL
      for (int i = 0; i < kBlockWords; ++i) {
        float& x = x_t[block * kBlockWords + i][thread];
        x = fmaf(step.std, z[i], fmaf(step.ct, x, step.c0 * x0_hat[block * kBlockWords + i]));
      }
    }
  }

  if (!own) return;
  for (int leaf = 0; leaf < kLaneLeaves; ++leaf) {
    int best = 0;
    for (int a = 0; a < kQ; ++a) {
      const float x = x_t[leaf * kQ + a][thread];
      if (x > x_t[leaf * kQ + best][thread]) best = a;
      if (work.end) work.end[first + leaf * kQ + a] = refused ? NAN : x;
    }
    if (work.strings) work.strings[sample * kLeaves + lane * kLaneLeaves + leaf] = static_cast<int8_t>(best);
  }
  if (refused && lane == 0) atomic_min(work.refused, static_cast<uint64_t>(sample));
}

}  // namespace

extern "C" const char* launch_tree_trajectory(const TreeTrajectoryCall* call) {
  Weights weights;
  if (!find_weights(call->rules, call->weights, call->R, weights))
    return "rules: only those of TreeGrammar.random(q=6, depth=4, q_eff=4, seed=0) have this kernel";
  if (call->B < 0 || call->B >> 35) return "B: want fewer than 2^35 samples";
  if (call->steps < 1 || call->steps > INT32_MAX) return "levels: want 1 to 2^31 - 1 steps";
  if (call->B == 0) return nullptr;
  const Work work{call->B,
                  static_cast<int>(call->steps),
                  call->seed,
                  call->offset,
                  call->levels,
                  call->x,
                  call->tokens,
                  static_cast<float>(call->start_scale),
                  static_cast<float>(call->start_sigma),
                  static_cast<uint32_t>(call->start_step),
                  static_cast<uint32_t>(call->start_purpose),
                  call->noise,
                  call->end,
                  call->strings,
                  call->x0_hat,
                  call->score,
                  call->log_density,
                  call->refused};
  const unsigned blocks = static_cast<unsigned>((call->B + kSamplesPerBlock - 1) / kSamplesPerBlock);
  BIASGEN_LAUNCH(tree_trajectory_kernel, blocks, kThreads, 0, call->stream, work, weights);
  return launch_error();
}

}  // namespace biasgen
