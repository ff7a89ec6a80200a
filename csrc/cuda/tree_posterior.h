// Leaf posterior of the paper's tree grammar on a GPU: one launch a batch.
#pragma once
#include <cstdint>

namespace biasgen {

// Launches on `stream` (a cudaStream_t) and returns null, or a sentence that says why nothing was launched.
//
// log_field: device, (B, 16, 6) float32, 16-byte aligned; -inf excludes a symbol, else |value| <= 1e4.
// rules: host, (24, 3) int16 (parent, left, right); must be the list that the kernel is compiled for. weights: host,
// (24,) float64. marginals: device, (B, 16, 6) float32, 16-byte aligned. log_z: device, (B,) float64, nats. impossible:
// device, (B,) uint8. Evidence that the grammar forbids: log_z is -inf, the marginals are zero, impossible is 1.
extern "C" __attribute__((visibility("default"))) const char* launch_tree_posterior(const float* log_field,
                                                                                    const int16_t* rules,
                                                                                    const double* weights, int64_t B,
                                                                                    float* marginals, double* log_z,
                                                                                    uint8_t* impossible, void* stream);

}  // namespace biasgen
