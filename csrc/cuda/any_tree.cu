// Posterior of any complete binary tree (L <= 1024, Q <= 64, any rules): one block for a few samples, which are the
// fastest index of every message, so that neighboring threads walk the same rules; a thread makes one entry of one
// message, and the block meets at a barrier after each level.
//
// Nodes are numbered as in a heap: root 1, children 2 i and 2 i + 1, leaf j = L + j. Rules and messages lie in shared
// memory where they fit, else rules where they came from and messages in the caller's scratch.
#include "cuda/any_tree.h"
#include "cuda/tree_draw.h"
#include "cuda/tree_numbers.h"
#include "cuda/tree_rules.h"

namespace biasgen {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSharedBytes = 48 << 10;  // what a block gets without asking
constexpr int64_t kSharedRules = 24 << 10;  // longer lists stay in global memory
constexpr int64_t kMostBlocks = 792;        // two turns on 132 multiprocessors
constexpr int64_t kScratchBytes = int64_t{1} << 30;
constexpr int kMostSamples = 32;
constexpr int kScratchSamples = 4;  // 32 bytes, a sector, of each entry

struct Plan {
  int samples;  // a block works on at once
  bool rules_shared, messages_shared;
  int64_t rule_bytes, sample_bytes, shared_bytes, scratch_bytes;
  unsigned blocks;
};

// Inside messages of 2 L - 1 nodes, outside messages of the L - 1 inner ones, and one over the root's sum.
int64_t entries(int64_t L, int64_t Q) { return (3 * L - 2) * Q + 1; }

Plan make_plan(const TreePosteriorCall& call) {
  Plan plan{};
  plan.sample_bytes = entries(call.L, call.Q) * int64_t{sizeof(Entry)} + call.L * int64_t{sizeof(LeafSums)};
  plan.rule_bytes = (rule_list_words(call.R, call.Q) * 4 + 15) / 16 * 16;
  plan.rules_shared = plan.rule_bytes <= kSharedRules;
  if (plan.rules_shared) plan.shared_bytes = plan.rule_bytes;
  plan.messages_shared = plan.shared_bytes + plan.sample_bytes <= kSharedBytes;
  plan.samples = plan.messages_shared ? kMostSamples : kScratchSamples;
  while (plan.samples > 1 &&
         (plan.samples / 2 >= call.B ||
          (plan.messages_shared && plan.shared_bytes + plan.samples * plan.sample_bytes > kSharedBytes)))
    plan.samples /= 2;
  const int64_t tiles = (call.B + plan.samples - 1) / plan.samples, bytes = plan.samples * plan.sample_bytes;
  int64_t blocks = tiles < kMostBlocks ? tiles : kMostBlocks;
  if (plan.messages_shared) {
    plan.shared_bytes += bytes;
  } else {
    blocks = max(int64_t{1}, min(blocks, kScratchBytes / bytes));
    plan.scratch_bytes = blocks * bytes;
  }
  plan.blocks = static_cast<unsigned>(blocks);
  return plan;
}

// Sum over the rules of a symbol of first * second * weight; entries of a message are `samples` apart. begin: of the
// symbol's rules.
__device__ __forceinline__ Entry combine(const ListedRule* rules, const int32_t* begin, const Entry* first,
                                         const Entry* second, int samples) {
  float sum = 0.0f;
  int32_t largest = kNothing;
  const int end = begin[1];
  for (int r = begin[0]; r < end; ++r) {
    const ListedRule rule = rules[r];
    const Entry x = first[rule.first * samples], y = second[rule.second * samples];
    const float m = x.m * y.m * rule.mantissa;
    const int32_t e = m > 0 ? plus(plus(x.e, y.e), rule.exponent) : kNothing;
    const int32_t before = largest;
    largest = max(largest, e);
    sum = fmaf(m, power_of_two(minus(e, largest)), sum * power_of_two(minus(before, largest)));
  }
  return split(sum, largest);
}

// kDraw: strings from the posterior in place of its marginals.
template <typename T, bool kDraw>
__global__ void __launch_bounds__(kThreads, kDraw ? 2 : 3)
    any_tree_kernel(const T* __restrict__ log_field, int64_t B, int L, int Q, int R, int samples, int rule_words,
                    bool messages_shared, const int32_t* __restrict__ rule_lists, unsigned char* scratch,
                    int64_t block_bytes, float* __restrict__ marginals, double* __restrict__ log_z,
                    uint8_t* __restrict__ impossible, uint64_t* __restrict__ refused, TreeDraws draws) {
  BIASGEN_DYNAMIC_SHARED(shared);
  const int s = threadIdx.x % samples, worker = threadIdx.x / samples, workers = kThreads / samples;
  const int32_t* lists = rule_lists;
  if (rule_words) {  // lists that fit; 0: they do not
    int32_t* copy = reinterpret_cast<int32_t*>(shared);
    for (int i = threadIdx.x; i < rule_words; i += kThreads) copy[i] = rule_lists[i];
    lists = copy;
  }
  const ListedRule* rules = reinterpret_cast<const ListedRule*>(lists);
  const int32_t* begin = lists + 12 * R;  // (3, Q + 1)
  unsigned char* memory =
      messages_shared ? shared + (rule_words * 4 + 15) / 16 * 16 : scratch + blockIdx.x * block_bytes;
  const int message = Q * samples;  // messages of neighboring nodes are this far apart; node 1 comes first
  LeafSums* sums = reinterpret_cast<LeafSums*>(memory) + s;  // of the subtree whose first leaf it is
  Entry* inside = reinterpret_cast<Entry*>(memory + sizeof(LeafSums) * L * samples) + s;
  Entry* outside = inside + (2 * L - 1) * message;
  Entry* z = outside + (L - 1) * message;

  for (int64_t first = static_cast<int64_t>(blockIdx.x) * samples; first < B;
       first += static_cast<int64_t>(gridDim.x) * samples) {
    const bool own = first + s < B;
    const int64_t sample = own ? first + s : B - 1;  // beyond the last sample it is repeated
    const T* field = log_field + sample * L * Q;
    for (int leaf = worker; leaf < L; leaf += workers) {
      const T* f = field + leaf * Q;
      double top = -INFINITY, low = 0.0;
      bool sound = true;
      for (int a = 0; a < Q; ++a) {
        top = f[a] > top ? f[a] : top;
        sound &= f[a] < static_cast<T>(INFINITY);
      }
      Entry* out = inside + (L - 1 + leaf) * message;
      for (int a = 0; a < Q; ++a) out[a * samples] = leaf_entry(f[a], top, low);
      sums[leaf * samples] = leaf_sums(top, low, sound);
    }
    __syncthreads();

    for (int nodes = L / 2; nodes >= 1; nodes /= 2) {
      const int leaves = L / nodes;
      for (int item = worker; item < nodes * Q; item += workers) {
        const int i = item / Q, a = item % Q;
        const Entry* left = inside + (2 * (nodes + i) - 1) * message;
        inside[(nodes + i - 1) * message + a * samples] =
            combine(rules, begin + kByParent * (Q + 1) + a, left, left + message, samples);
        if (a == 0) {
          LeafSums& sum = sums[i * leaves * samples];
          sum = add(sum, sums[(i * leaves + leaves / 2) * samples]);
        }
      }
      __syncthreads();
    }

    const bool is_refused = !(sums->spread < kMaxSpread);
    for (int a = worker; a < Q; a += workers) outside[a * samples] = {1.0f, 0};
    if (worker == 0) {
      int32_t largest = kNothing;
      for (int a = 0; a < Q; ++a)
        if (inside[a * samples].m > 0) largest = max(largest, inside[a * samples].e);
      float sum = 0.0f;
      for (int a = 0; a < Q; ++a)
        if (inside[a * samples].m > 0)
          sum = fmaf(inside[a * samples].m, power_of_two(minus(inside[a * samples].e, largest)), sum);
      *z = {sum > 0 ? 1.0f / sum : 0.0f, largest};
      if (own) {
        const double log_total = logf(sum / Q) + kLn2 * largest + sums->top_error + sums->top;
        log_z[sample] = is_refused ? static_cast<double>(NAN) : sum > 0 ? log_total : -INFINITY;
        impossible[sample] = !is_refused && !(sum > 0);
        if (is_refused) atomic_min(refused, static_cast<uint64_t>(sample));
      }
    }
    __syncthreads();

    if constexpr (kDraw) {
      for (int k = worker; own && k < draws.count; k += workers) {
        int8_t* symbols = draws.strings + (sample * draws.count + k) * L;
        if (!is_refused && z->m > 0)
          draw_string(rules, begin, inside, L, Q, samples, draws, sample, k, symbols);
        else
          for (int i = 0; i < L; ++i) symbols[i] = -1;
      }
      __syncthreads();
    } else {
      for (int nodes = 1; nodes < L; nodes *= 2) {
        const bool at_leaves = 2 * nodes == L;
        for (int item = worker; item < 2 * nodes * Q; item += workers) {
          const int child = 2 * nodes + item / Q, a = item % Q;
          const Entry* above = outside + (child / 2 - 1) * message;
          const Entry* sibling = inside + ((child ^ 1) - 1) * message;
          const int32_t* own_rules = begin + (child % 2 ? kByRight : kByLeft) * (Q + 1) + a;
          const Entry to_child = combine(rules, own_rules, above, sibling, samples);
          if (!at_leaves) {
            outside[(child - 1) * message + a * samples] = to_child;
          } else if (own) {
            const Entry from_child = inside[(child - 1) * message + a * samples];
            marginals[(sample * L + child - L) * Q + a] =
                is_refused ? NAN : marginal(to_child.m * from_child.m, plus(to_child.e, from_child.e), z->m, z->e);
          }
        }
        __syncthreads();
      }
    }
  }
}

template <typename T, bool kDraw>
void launch(const TreePosteriorCall& call, const Plan& plan) {
  BIASGEN_LAUNCH((any_tree_kernel<T, kDraw>), plan.blocks, kThreads, static_cast<size_t>(plan.shared_bytes),
                 call.stream, static_cast<const T*>(call.log_field), call.B, static_cast<int>(call.L),
                 static_cast<int>(call.Q), static_cast<int>(call.R), plan.samples,
                 plan.rules_shared ? static_cast<int>(rule_list_words(call.R, call.Q)) : 0, plan.messages_shared,
                 call.rule_lists, static_cast<unsigned char*>(call.scratch), plan.samples * plan.sample_bytes,
                 call.marginals, call.log_z, call.impossible, call.refused, call.draws);
}

}  // namespace

int64_t any_tree_scratch(const TreePosteriorCall& call) { return call.B == 0 ? 0 : make_plan(call).scratch_bytes; }

const char* launch_any_tree(const TreePosteriorCall& call) {
  const Plan plan = make_plan(call);
  const bool draw = call.draws.strings != nullptr;
  if (call.double_field)
    draw ? launch<double, true>(call, plan) : launch<double, false>(call, plan);
  else
    draw ? launch<float, true>(call, plan) : launch<float, false>(call, plan);
  return launch_error();
}

}  // namespace biasgen
