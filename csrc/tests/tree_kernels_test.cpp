// Every CUDA tree kernel on small inputs against loops in double. On a device it is what compute-sanitizer runs:
// buffers have exactly the size asked for, one allocation each. On the host shim it runs as well
// (benchmarks/tree_kernels.py).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "core/philox.h"
#include "cuda/paper_tree.h"
#include "cuda/tree_posterior.h"
#include "cuda/tree_rules.h"
#include "cuda/tree_sample.h"
#include "cuda/tree_trajectory.h"

using namespace biasgen;

namespace {

int checks = 0;
std::string doing;

void check(bool holds, const char* what) {
  ++checks;
  if (holds) return;
  std::printf("tree_kernels_test: %s: %s\n", doing.c_str(), what);
  std::exit(1);
}

void check(const char* error) {
  if (error) check(false, error);
}

#if defined(__CUDACC__)
void check(cudaError_t error) { check(error == cudaSuccess, cudaGetErrorString(error)); }
void* allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes));
  return memory;
}
void release(void* memory) { check(cudaFree(memory)); }
void copy(void* to, const void* from, size_t bytes) { check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault)); }
#else
void* allocate(size_t bytes) { return std::aligned_alloc(16, (bytes + 15) / 16 * 16); }
void release(void* memory) { std::free(memory); }
void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
#endif

// An array on the device.
template <typename T>
class Buffer {
 public:
  explicit Buffer(const std::vector<T>& host) : size_(host.size()), memory_(allocate(size_ * sizeof(T))) {
    if (size_) copy(memory_, host.data(), size_ * sizeof(T));
  }
  explicit Buffer(size_t size) : Buffer(std::vector<T>(size)) {}
  ~Buffer() { release(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return static_cast<T*>(memory_); }
  std::vector<T> read() const {
    std::vector<T> host(size_);
    copy(host.data(), memory_, size_ * sizeof(T));
    return host;
  }

 private:
  size_t size_;
  void* memory_;
};

double between(double low, double high) {  // of a sequence that starts anew with each run
  static uint64_t state = 1;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return low + (high - low) * static_cast<double>(state >> 33) / 2147483648.0;
}

struct Grammar {
  int Q, L;
  std::vector<int16_t> rules;
  std::vector<double> weights;

  int R() const { return static_cast<int>(weights.size()); }
};

// Unambiguous, sorted by parent, weights 1 : 2 : 3 ...; the paper's rules where Q = 6, L = 16.
Grammar grammar(int Q, int L, int per_parent) {
  Grammar g{Q, L, {}, {}};
  for (int r = 0; r < Q * per_parent; ++r) {
    const int pair = (r * (Q * Q - 1) + 1) % (Q * Q);
    int16_t rule[3] = {static_cast<int16_t>(r / per_parent), static_cast<int16_t>(pair / Q),
                       static_cast<int16_t>(pair % Q)};
    if (Q == paper::kQ && L == paper::kLeaves)
      rule[0] = paper::rule(r).parent, rule[1] = paper::rule(r).left, rule[2] = paper::rule(r).right;
    g.rules.insert(g.rules.end(), rule, rule + 3);
    g.weights.push_back(2.0 * (r % per_parent + 1) / (per_parent * (per_parent + 1)));
  }
  return g;
}

// As tree_rules.h wants it.
std::vector<int32_t> rule_lists(const Grammar& g) {
  std::vector<int32_t> list, begins;
  for (int group = 0; group < 3; ++group) {
    for (int symbol = 0; symbol < g.Q; ++symbol) {
      begins.push_back(static_cast<int32_t>(list.size() / 4));
      for (int r = 0; r < g.R(); ++r) {
        const int16_t* rule = &g.rules[3 * r];
        if (rule[group] != symbol) continue;
        int exponent = 0;
        const float mantissa = static_cast<float>(2 * std::frexp(g.weights[r], &exponent));
        int32_t bits;
        std::memcpy(&bits, &mantissa, 4);
        const int32_t entry[4] = {rule[group == 0], rule[group == 2 ? 1 : 2], bits, exponent - 1};
        list.insert(list.end(), entry, entry + 4);
      }
    }
    begins.push_back(static_cast<int32_t>(list.size() / 4));
  }
  list.insert(list.end(), begins.begin(), begins.end());
  return list;
}

struct Posterior {
  std::vector<double> marginals;
  double log_z;
};

// Divides numbers by the largest of them; returns its logarithm, 0 where all are 0.
double normalize(double* numbers, int count) {
  const double largest = *std::max_element(numbers, numbers + count);
  if (!(largest > 0)) return 0;
  for (int i = 0; i < count; ++i) numbers[i] /= largest;
  return std::log(largest);
}

// Of one sample; nodes in heap order, root 1.
Posterior posterior(const Grammar& g, const double* field) {
  const int Q = g.Q, L = g.L;
  std::vector<double> inside(2 * L * Q), outside(2 * L * Q);
  double log_z = -std::log(Q);
  for (int leaf = 0; leaf < L; ++leaf) {
    const double largest = *std::max_element(field + leaf * Q, field + leaf * Q + Q);
    if (largest > -INFINITY) log_z += largest;
    for (int a = 0; a < Q; ++a)
      inside[(L + leaf) * Q + a] = largest > -INFINITY ? std::exp(field[leaf * Q + a] - largest) : 0;
  }
  for (int node = L - 1; node >= 1; --node) {
    for (int r = 0; r < g.R(); ++r)
      inside[node * Q + g.rules[3 * r]] +=
          g.weights[r] * inside[2 * node * Q + g.rules[3 * r + 1]] * inside[(2 * node + 1) * Q + g.rules[3 * r + 2]];
    log_z += normalize(&inside[node * Q], Q);
  }
  const double z = std::accumulate(&inside[Q], &inside[2 * Q], 0.0);
  std::fill_n(&outside[Q], Q, 1.0);
  for (int node = 1; node < L; ++node) {
    normalize(&outside[node * Q], Q);
    for (int r = 0; r < g.R(); ++r) {
      const int p = g.rules[3 * r], a = 2 * node * Q + g.rules[3 * r + 1], b = (2 * node + 1) * Q + g.rules[3 * r + 2];
      outside[a] += outside[node * Q + p] * g.weights[r] * inside[b];
      outside[b] += outside[node * Q + p] * g.weights[r] * inside[a];
    }
  }
  Posterior out{std::vector<double>(L * Q), z > 0 ? log_z + std::log(z) : -INFINITY};
  for (int leaf = 0; leaf < L; ++leaf) {
    double* p = &out.marginals[leaf * Q];
    for (int a = 0; a < Q; ++a) p[a] = inside[(L + leaf) * Q + a] * outside[(L + leaf) * Q + a];
    const double total = std::accumulate(p, p + Q, 0.0);
    for (int a = 0; a < Q; ++a) p[a] = z > 0 ? p[a] / total : 0;
  }
  return out;
}

bool close(double found, double right) { return std::abs(found - right) <= 1e-5 * std::max(right, 1e-30); }

template <typename T>
void test_posterior(const Grammar& g, int B) {
  const int entries = g.L * g.Q;
  std::vector<T> field(B * entries);
  for (T& f : field) f = static_cast<T>(between(0, 1) < 0.05 ? -INFINITY : between(-8, 8));
  const int impossible_row = B / 2, refused_row = B - 1;
  std::fill_n(&field[impossible_row * entries], g.Q, static_cast<T>(-INFINITY));
  if (B > 1) field[refused_row * entries + 1] = static_cast<T>(NAN);
  const Buffer<T> log_field(field);
  const Buffer<int32_t> lists(rule_lists(g));
  const Buffer<float> marginals(field.size());
  const Buffer<double> log_z(B);
  const Buffer<uint8_t> impossible(B);
  const Buffer<uint64_t> refused(std::vector<uint64_t>{~0ull >> 1});
  TreePosteriorCall call{};
  call.B = B, call.L = g.L, call.Q = g.Q, call.R = g.R(), call.double_field = sizeof(T) == 8;
  call.log_field = log_field.get(), call.rules = g.rules.data(), call.weights = g.weights.data();
  call.rule_lists = lists.get(), call.marginals = marginals.get(), call.log_z = log_z.get();
  call.impossible = impossible.get(), call.refused = refused.get();
  const Buffer<char> scratch(tree_posterior_scratch(&call));
  call.scratch = scratch.get();
  check(launch_tree_posterior(&call));

  const int strings_a_row = 3;
  const Buffer<int8_t> strings(B * strings_a_row * g.L);
  call.draws = {strings_a_row, 7, strings.get()};
  const Buffer<char> scratch_of_draws(tree_posterior_scratch(&call));
  call.scratch = scratch_of_draws.get();
  const std::vector<float> p = marginals.read();  // before the second launch, which leaves them
  const std::vector<double> log_p = log_z.read();
  check(launch_tree_posterior(&call));

  const std::vector<int8_t> drawn = strings.read();
  const std::vector<uint8_t> forbidden = impossible.read();
  check(refused.read()[0] == (B > 1 ? refused_row : ~0ull >> 1), "the refused sample");
  for (int b = 0; b < B; ++b) {
    const bool is_refused = B > 1 && b == refused_row;
    std::vector<double> exact(&field[b * entries], &field[b * entries] + entries);
    const Posterior right = posterior(g, exact.data());
    const bool none = right.log_z == -INFINITY;
    check(none || b != impossible_row, "the oracle");
    check(forbidden[b] == (none && !is_refused), "impossible");
    for (int i = 0; i < entries; ++i)
      check(is_refused ? std::isnan(p[b * entries + i]) : close(p[b * entries + i], right.marginals[i]), "marginals");
    check(is_refused
              ? std::isnan(log_p[b])
              : log_p[b] == right.log_z || std::abs(log_p[b] - right.log_z) < 1e-5 + 1e-7 * std::abs(right.log_z),
          "log_z");
    for (int k = 0; k < strings_a_row; ++k) {
      const int8_t* string = &drawn[(b * strings_a_row + k) * g.L];
      std::vector<double> evidence(entries, -INFINITY);  // this string alone
      for (int leaf = 0; leaf < g.L; ++leaf)
        if (string[leaf] >= 0) evidence[leaf * g.Q + string[leaf]] = exact[leaf * g.Q + string[leaf]];
      check(std::isfinite(posterior(g, evidence.data()).log_z) == (string[0] != -1) &&
                (none || is_refused) == (string[0] == -1),
            "drawn strings");
    }
  }
}

void test_sample(const Grammar& g, int n) {
  std::vector<int32_t> begin;
  std::vector<int8_t> children;
  std::vector<double> cumulative;
  for (int r = 0; r < g.R(); ++r) {
    if (r == 0 || g.rules[3 * r] != g.rules[3 * r - 3]) begin.push_back(r);
    children.insert(children.end(), {static_cast<int8_t>(g.rules[3 * r + 1]), static_cast<int8_t>(g.rules[3 * r + 2])});
    cumulative.push_back(g.weights[r] + (begin.back() == r ? 0 : cumulative.back()));
    if (r + 1 == g.R() || g.rules[3 * r + 3] != g.rules[3 * r]) cumulative.back() = INFINITY;
  }
  begin.push_back(g.R());
  const Buffer<int32_t> begins(begin);
  const Buffer<int8_t> pairs(children), strings(n * g.L);
  const Buffer<double> sums(cumulative);
  const TreeSampleCall call{n, g.L, g.Q, 5, 3, begins.get(), pairs.get(), sums.get(), strings.get(), nullptr};
  check(launch_tree_sample(&call));
  const std::vector<int8_t> found = strings.read();
  for (int b = 0; b < n; ++b) {
    const auto number = [&](int i) {
      uint32_t word[4];
      philox_words(5, 3 + b, 0, kData, i / 4, word);
      return uniform(word[i % 4]);
    };
    std::vector<int> nodes{std::min(static_cast<int>(number(0) * g.Q), g.Q - 1)};
    while (static_cast<int>(nodes.size()) < g.L) {
      std::vector<int> below;
      for (size_t i = 0; i < nodes.size(); ++i) {
        int r = begin[nodes[i]];
        while (number(static_cast<int>(nodes.size() + i)) > cumulative[r]) ++r;
        below.insert(below.end(), {children[2 * r], children[2 * r + 1]});
      }
      nodes = below;
    }
    check(std::equal(nodes.begin(), nodes.end(), &found[b * g.L]), "strings");
  }
}

void test_trajectory(int B) {
  const Grammar g = grammar(paper::kQ, paper::kLeaves, 4);
  const int entries = g.L * g.Q;
  std::vector<float> x(B * entries), z(B * entries);
  for (float& value : x) value = static_cast<float>(between(-2, 2));
  for (float& value : z) value = static_cast<float>(between(-2, 2));
  const std::vector<TreeStep> steps{{1.5, 2.5, 3.0, 0.5f, 0.25f, 0.125f, 2}, {2.0, 3.0, 1.0, 0.75f, 0.25f, 0.0f, 1}};
  const Buffer<TreeStep> levels(steps);
  const Buffer<float> start(x), noise(z), end(x.size()), x0_hat(x.size());
  const Buffer<double> score(x.size()), log_density(B);
  const Buffer<int8_t> strings(B * g.L), tokens(B * g.L);
  const Buffer<uint64_t> refused(std::vector<uint64_t>{~0ull >> 1});
  TreeTrajectoryCall call{};
  call.B = B, call.R = g.R(), call.steps = 1, call.rules = g.rules.data(), call.weights = g.weights.data();
  call.levels = levels.get(), call.x = start.get(), call.noise = noise.get(), call.end = end.get();
  call.strings = strings.get(), call.x0_hat = x0_hat.get(), call.score = score.get();
  call.log_density = log_density.get(), call.refused = refused.get();
  check(launch_tree_trajectory(&call));
  const std::vector<float> denoised = x0_hat.read(), moved = end.read();
  const std::vector<double> scores = score.read(), log_p = log_density.read();
  for (int b = 0; b < B; ++b) {
    std::vector<double> field(entries);
    double square = 0;
    for (int i = 0; i < entries; ++i) {
      field[i] = steps[0].gamma * x[b * entries + i];
      square += static_cast<double>(x[b * entries + i]) * x[b * entries + i];
    }
    const Posterior right = posterior(g, field.data());
    check(std::abs(log_p[b] - (right.log_z - square * steps[0].one_over_variance / 2 - steps[0].log_norm)) < 1e-4,
          "log-density");
    for (int i = 0, at = b * entries; i < entries; ++i, ++at) {
      check(close(denoised[at], right.marginals[i]), "x0_hat");
      check(std::abs(scores[at] - (steps[0].gamma * right.marginals[i] - steps[0].one_over_variance * x[at])) < 1e-4,
            "score");
      check(std::abs(moved[at] - (0.5 * right.marginals[i] + 0.25 * x[at] + 0.125 * z[at])) < 1e-5, "x_s");
    }
  }

  // Two steps from tokens, with noise from the counter: row 1 is the only row of a batch that starts there.
  call.x = nullptr, call.noise = nullptr, call.tokens = tokens.get(), call.steps = 2;
  call.start_scale = 1, call.start_sigma = 0.5, call.start_step = 3, call.start_purpose = kForward;
  check(launch_tree_trajectory(&call));
  const std::vector<float> all = end.read();
  const std::vector<int8_t> ends = strings.read();
  call.B = 1, call.offset = 1;
  check(launch_tree_trajectory(&call));
  const std::vector<float> one = end.read();
  check(std::equal(one.begin(), one.begin() + entries, &all[entries]), "a row is the same in another batch");
  for (int leaf = 0; leaf < B * g.L; ++leaf)
    check(std::max_element(&all[leaf * g.Q], &all[leaf * g.Q] + g.Q) - &all[leaf * g.Q] == ends[leaf], "arg-max");
  check(refused.read()[0] == ~0ull >> 1, "nothing is refused");
}

}  // namespace

int main(int argc, char** argv) {
#if defined(BIASGEN_HOST_SHIM)
  if (argc > 1) host_shim::order = static_cast<unsigned>(std::atoi(argv[1]));
#else
  static_cast<void>(argc), static_cast<void>(argv);
#endif
  // The paper's kernel; messages on the chip, in scratch; rules on the chip, in global memory; both elsewhere.
  const int shapes[][3] = {{6, 16, 4}, {1, 2, 1}, {5, 4, 4}, {7, 32, 6}, {7, 512, 6}, {24, 4, 22}, {24, 128, 22}};
  for (const auto& [Q, L, per_parent] : shapes) {
    const Grammar g = grammar(Q, L, per_parent);
    doing = "Q = " + std::to_string(Q) + ", L = " + std::to_string(L);
    for (int B : {1, 3, 35}) {
      if (B * L > 2000) continue;
      test_posterior<float>(g, B);
      test_posterior<double>(g, B);
    }
    test_sample(g, 130);
  }
  doing = "trajectory";
  test_trajectory(35);
#if defined(__CUDACC__)
  check(cudaDeviceSynchronize());
#endif
  std::printf("tree_kernels_test: %d checks hold\n", checks);
}
