// The host shim's own test: right kernels give the right answer in every order, wrong ones are caught.
#include "tests/host_shim.h"

#include <cstdio>

namespace {

constexpr int kThreads = 96, kBlocks = 5, kItems = 450;  // a partial last block

template <class F>
const char* run(unsigned order, int blocks, F kernel) {
  host_shim::order = order;
  host_shim::launch(blocks, kThreads, kernel);
  return host_shim::last_error();
}

// Sums x by shuffles, shared memory and one atomic a block. Without the barrier it reads what other warps have not
// written yet.
void sum_kernel(const float* x, float* sum, bool with_barrier) {
  __shared__ float partial[kThreads / 32];
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float v = i < kItems ? x[i] : 0.0f;
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  if (with_barrier) __syncthreads();
  if (threadIdx.x == 0) atomicAdd(sum, partial[0] + partial[1] + partial[2]);
}

void vote_kernel(unsigned* votes, int* smallest) {
  const unsigned vote = __ballot_sync(~0u, threadIdx.x % 3 == 0);
  const unsigned from = __shfl_sync(~0u, vote + threadIdx.x, 5);
  __syncwarp();
  if (threadIdx.x == 40) *votes = from;
  atomicMin(smallest, 100 - static_cast<int>(threadIdx.x));
}

void diverging_kernel() {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __shfl_xor_sync(~0u, 1.0f, 1);
}

// Who starts first, second ...
std::vector<unsigned> starts(unsigned order) {
  std::vector<unsigned> threads;
  run(order, 1, [&] { threads.push_back(threadIdx.x); });
  return threads;
}

int failures = 0;
void check(bool right, const char* what, unsigned order) {
  if (!right) std::printf("%s is wrong in order %u\n", what, order), ++failures;
}

}  // namespace

int main() {
  static float x[kItems];
  float want = 0.0f;
  for (int i = 0; i < kItems; ++i) want += x[i] = static_cast<float>(i % 7 - 2);
  bool caught = false;
  for (unsigned order = 0; order < 6; ++order) {
    float sum = 0.0f, racy = 0.0f;
    check(run(order, kBlocks, [&] { sum_kernel(x, &sum, true); }) == nullptr && sum == want, "sum", order);
    run(order, kBlocks, [&] { sum_kernel(x, &racy, false); });
    caught |= racy != want;
    if (order == 0)
      check(std::isnan(racy), "poisoned shared memory",
            order);  // thread 0 goes first, before warps 1 and 2 have written
    unsigned votes = 0;
    int smallest = 1000;
    run(order, 1, [&] { vote_kernel(&votes, &smallest); });
    unsigned ballot = 0;  // of warp 1
    for (unsigned lane = 0; lane < 32; ++lane) ballot |= unsigned((32 + lane) % 3 == 0) << lane;
    check(votes == ballot + 37 && smallest == 100 - (kThreads - 1), "vote", order);
    check(run(order, 1, diverging_kernel) != nullptr, "deadlock report", order);
  }
  const std::vector<unsigned> forward = starts(0), reversed = starts(1), shuffled = starts(2);
  check(std::is_sorted(forward.begin(), forward.end()) && forward.size() == kThreads, "forward", 0);
  check(std::is_sorted(reversed.rbegin(), reversed.rend()) && reversed.size() == kThreads, "reversed", 1);
  check(shuffled != forward && shuffled != reversed && shuffled != starts(3) && shuffled == starts(2), "shuffled", 2);
  check(caught, "missing barrier", 0);
  std::printf("host_shim_test: %d failures\n", failures);
  return failures != 0;
}
