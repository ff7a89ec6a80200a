// The reverse process of the paper's grammar with its exact denoiser, on a GPU: whole trajectories and U-turns in one
// launch, or one step of them.
#pragma once
#include <cstdint>

namespace biasgen {

// From level t to the next one of the list. Levels as in biasgen/diffusion/schedule.py.
struct TreeStep {
  double gamma;              // scale / sigma^2: the field is gamma x_t
  double one_over_variance;  // 1 / sigma^2
  double log_norm;           // log p(x_t) = log_z - |x_t|^2 / (2 sigma^2) - log_norm
  float c0, ct, std;         // x_s = c0 x0_hat + ct x_t + std z
  uint32_t t;
};

// Everything is on the device but rules and weights. (B, 16, 6) arrays are 16-byte aligned. An output that is null is
// not made.
struct TreeTrajectoryCall {
  int64_t B, R, steps;
  uint64_t seed, offset;   // row b draws the numbers of sample offset + b
  const int16_t* rules;    // host, (R, 3)
  const double* weights;   // host, (R,)
  const TreeStep* levels;  // (steps,), at least one
  // Start: x (B, 16, 6); without it start_scale * one_hot(tokens (B, 16), or nothing) + start_sigma * noise of
  // start_step and start_purpose (core/philox.h).
  const float* x;
  const int8_t* tokens;
  double start_scale, start_sigma;
  int64_t start_step, start_purpose;
  const float* noise;   // (steps, B, 16, 6), in place of Philox's; not read where std is 0
  float* end;           // (B, 16, 6): x after the last step
  int8_t* strings;      // (B, 16): its arg-max
  float* x0_hat;        // (B, 16, 6) of the last step
  double* score;        // (B, 16, 6): gradient of log p(x_t) before the last step
  double* log_density;  // (B,): log p(x_t) there, nats
  uint64_t* refused;    // becomes the first sample that was refused at some step, if that is smaller; it ends as NaN
  void* stream;         // cudaStream_t
};

// Launches and returns null, or a sentence that says why nothing was launched.
extern "C" __attribute__((visibility("default"))) const char* launch_tree_trajectory(const TreeTrajectoryCall* call);

}  // namespace biasgen
