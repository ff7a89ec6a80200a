// The tree-posterior kernel on the host shim. As a shared library it is called like the GPU's; with BIASGEN_STANDALONE
// it checks itself.
#include "tests/host_shim.h"
//
#include "cuda/tree_posterior.cu"

extern "C" __attribute__((visibility("default"))) void set_fibre_order(unsigned order) { host_shim::order = order; }

#ifdef BIASGEN_STANDALONE
#include <cstdio>

// Uniform evidence has log_z = 0 whatever the weights, evidence for one grammatical string its own marginals, evidence
// for a forbidden pair none: checks without an oracle, for the sanitizers.
int main() {
  constexpr int kSamples = 37, kEntries = 16 * 6;
  int16_t rules[24 * 3];
  double weights[24];
  for (int r = 0; r < 24; ++r) {
    const biasgen::Rule rule = biasgen::rule(r);
    rules[3 * r] = int16_t(rule.parent), rules[3 * r + 1] = int16_t(rule.left), rules[3 * r + 2] = int16_t(rule.right);
    weights[r] = 0.25;
  }
  // Root 0, then always the first rule of a parent.
  int level[16] = {0}, width = 1;
  for (; width < 16; width *= 2)
    for (int i = width - 1; i >= 0; --i) {
      const biasgen::Rule rule = biasgen::rule(4 * level[i]);
      level[2 * i] = rule.left, level[2 * i + 1] = rule.right;
    }
  alignas(16) static float field[kSamples * kEntries], marginals[kSamples * kEntries];
  double log_z[kSamples];
  uint8_t impossible[kSamples];
  for (int s = 0; s < kSamples; ++s)
    for (int i = 0; i < 16; ++i)
      for (int a = 0; a < 6; ++a) {
        const bool hit = a == level[i];
        float f = 0.0f;                                              // s % 3 == 0: no evidence
        if (s % 3 == 1) f = hit ? 1e4f : s % 2 ? -1e4f : -INFINITY;  // the string
        if (s % 3 == 2) f = a == 0 ? 0.0f : -INFINITY;               // all zeros: (0, 0) is a forbidden pair
        field[s * kEntries + i * 6 + a] = f;
      }
  int failures = 0;
  for (unsigned order = 0; order < 4; ++order) {
    set_fibre_order(order);
    const char* error =
        biasgen::launch_tree_posterior(field, rules, weights, kSamples, marginals, log_z, impossible, nullptr);
    if (error) return std::printf("%s\n", error), 1;
    for (int s = 0; s < kSamples; ++s) {
      const double want = s % 3 == 0 ? 0.0 : s % 3 == 1 ? 16e4 - 15 * std::log(4.0) - std::log(6.0) : -INFINITY;
      bool right = impossible[s] == (s % 3 == 2) &&
                   (log_z[s] == want || std::fabs(log_z[s] - want) < 1e-5 + 1e-10 * std::fabs(want));
      for (int i = 0; i < 16; ++i) {
        float sum = 0.0f;
        for (int a = 0; a < 6; ++a) sum += marginals[s * kEntries + i * 6 + a];
        right &= std::fabs(sum - (s % 3 == 2 ? 0.0f : 1.0f)) < 1e-5f;
        if (s % 3 == 1) right &= std::fabs(marginals[s * kEntries + i * 6 + level[i]] - 1.0f) < 1e-5f;
      }
      failures += !right;
    }
  }
  std::printf("tree_posterior_on_host: %d failures\n", failures);
  return failures != 0;
}
#endif
