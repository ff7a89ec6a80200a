// biasgen._cpu.tree_posterior: checks arrays, groups the rules, picks the instruction set.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "bindings/checks.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/tree_posterior.h"

namespace biasgen {

namespace {

// Rules grouped by one of their S + 1 columns; what the kernel reads.
template <int S>
class GroupedRules {
 public:
  GroupedRules(const int16_t* rules, const double* weights, int64_t R, int64_t Q, int key)
      : count_(R), begin_(Q + 2, 0) {
    const auto used = [&](int64_t r) { return weights[r] != 0; };
    for (int64_t r = 0; r < R; ++r)
      if (used(r)) ++begin_[rules[(S + 1) * r + key] + 2];
    longest_ = *std::max_element(begin_.begin(), begin_.end());
    for (int64_t s = 2; s <= Q + 1; ++s) begin_[s] += begin_[s - 1];
    rules_.resize(begin_[Q + 1]);
    number_.resize(begin_[Q + 1]);
    for (int64_t r = 0; r < R; ++r) {
      if (!used(r)) continue;
      const int16_t* row = rules + (S + 1) * r;
      const int64_t place = begin_[row[key] + 1]++;
      TreeRule<S>& rule = rules_[place];
      number_[place] = r;
      for (int c = 0, k = 0; c <= S; ++c)
        if (c != key) rule.others[k++] = row[c];
      const double fraction = std::frexp(weights[r], &rule.exponent);
      rule.mantissa = static_cast<float>(2 * fraction);
      --rule.exponent;
    }
  }
  TreeRuleGroups view() const { return {rules_.data(), begin_.data(), number_.data(), count_, longest_, nullptr}; }

 private:
  int64_t count_, longest_;
  std::vector<TreeRule<S>> rules_;
  std::vector<int64_t> begin_, number_;  // begin_: where each symbol's begin; one more while they are counted
};

// The blocks of every level by each column, where an empty block stands for that of the level above.
template <int S>
class Grammar {
 public:
  Grammar(const int16_t* rules, const double* weights, const double* log_weights, const int64_t* offsets, int64_t depth,
          int64_t Q) {
    for (int64_t level = 0; level < depth; ++level) {
      const int64_t first = offsets[level], R = offsets[level + 1] - first;
      for (int key = 0; key <= S; ++key) {
        if (R > 0) blocks_.emplace_back(rules + (S + 1) * first, weights + first, R, Q, key);
        levels_.push_back(R > 0 ? blocks_.back().view() : levels_[levels_.size() - S - 1]);
        if (R > 0 && log_weights != nullptr) levels_.back().log_weights = log_weights + first;
      }
    }
  }
  const TreeRuleGroups* levels() const { return levels_.data(); }

 private:
  std::deque<GroupedRules<S>> blocks_;
  std::vector<TreeRuleGroups> levels_;
};

// The channels of the nodes that hang on the root, each as rules from the root's symbol to the node's.
class Channels {
 public:
  Channels(const double* channels, const double* log_channels, int64_t hung, int64_t Q) {
    std::vector<int16_t> pairs;
    for (int64_t r = 0; r < Q; ++r)
      for (int64_t c = 0; c < Q; ++c) pairs.insert(pairs.end(), {static_cast<int16_t>(r), static_cast<int16_t>(c)});
    for (int64_t j = 0; j < hung; ++j) {
      for (int key = 0; key < 2; ++key) {
        blocks_.emplace_back(pairs.data(), channels + j * Q * Q, Q * Q, Q, key);
        views_.push_back(blocks_.back().view());
        if (log_channels != nullptr) views_.back().log_weights = log_channels + j * Q * Q;
      }
    }
  }
  const TreeRuleGroups* views() const { return views_.data(); }

 private:
  std::deque<GroupedRules<1>> blocks_;
  std::vector<TreeRuleGroups> views_;
};

// An array that a Python object has by name, of element type T.
template <class T>
py::array_t<T> part(const py::object& object, const char* name) {
  const py::object found = object.attr(name);
  if (!py::isinstance<py::array_t<T>>(found))
    throw std::invalid_argument(std::string(name) + ": want an array of " + std::string(py::str(py::dtype::of<T>())));
  return py::reinterpret_borrow<py::array_t<T>>(found);
}

// A grammar (biasgen.ops.tree.Arrays), checked. root relative to its largest entry.
struct Model {
  py::array_t<int16_t> rules;
  Doubles weights, channels;
  Int64 offsets;
  const double *log_weights = nullptr, *log_channels = nullptr;
  std::vector<TreePrior> root;
  std::vector<int64_t> start;

  // Fills what the batch says of the grammar but its rules, which run() groups.
  Model(const py::object& grammar, TreeBatch& batch)
      : rules(part<int16_t>(grammar, "rules")),
        weights(part<double>(grammar, "weights")),
        channels(part<double>(grammar, "channels")),
        offsets(part<int64_t>(grammar, "level_offsets")) {
    const Doubles root = part<double>(grammar, "root");
    require(rules.ndim() == 2 && rules.shape(1) >= 3 && rules.shape(1) <= 5 && contiguous(rules),
            "rules: want a C-contiguous (R, 1 + s) array, s = 2, 3 or 4");
    const int64_t R = rules.shape(0), Q = root.size(), depth = offsets.size() - 1;
    batch.arity = rules.shape(1) - 1, batch.depth = depth, batch.Q = Q, batch.L = 1;
    for (int64_t d = 0; d < depth && batch.L <= 4096; ++d) batch.L *= batch.arity;
    require(depth >= 1 && batch.L <= 4096 && Q >= 1 && Q <= 256,
            "root: want Q = 1 .. 256 symbols and L = s^depth <= 4096 leaves");
    check_vector(weights, R, "weights: want a C-contiguous (R,) array");
    check_vector(offsets, depth + 1, "level_offsets: want a C-contiguous (depth + 1,) array");
    const int64_t* ends = offsets.data();
    require(ends[0] == 0 && ends[1] > 0 && ends[depth] == R && std::is_sorted(ends, ends + depth + 1),
            "level_offsets: want ascending numbers from 0 to R, the first level's block not empty");
    check_vector(root, Q, "root: want a C-contiguous (Q,) array");
    require(std::all_of(rules.data(), rules.data() + rules.size(), [Q](int16_t s) { return s >= 0 && s < Q; }),
            "rules: want symbols 0 .. Q - 1");
    const auto probabilities = [](const double* p, int64_t n) {
      return std::all_of(p, p + n, [](double w) { return w >= 0 && w <= 2; });
    };
    require(probabilities(weights.data(), R), "weights: want probabilities");
    const double largest = *std::max_element(root.data(), root.data() + Q);
    require(probabilities(root.data(), Q) && largest > 0, "root: want probabilities");
    batch.factorized = 0;
    if (channels.size() > 0) {
      int64_t hung = 1;
      for (; batch.factorized < depth && hung < channels.shape(0); ++batch.factorized) hung *= batch.arity;
      require(channels.ndim() == 3 && batch.factorized > 0 && channels.shape(0) == hung && channels.shape(1) == Q &&
                  channels.shape(2) == Q && contiguous(channels),
              "channels: want a C-contiguous (s^k, Q, Q) array, k >= 1");
      require(probabilities(channels.data(), channels.size()), "channels: want probabilities");
    }
    int64_t nodes = 0, width = 1;
    for (int64_t level = 0; level <= depth; ++level, width *= batch.arity) {
      start.push_back(nodes);
      if (level == 0 || level >= batch.factorized) nodes += width;
    }
    start.push_back(nodes);
    batch.start = start.data();
    batch.log_root = std::log(largest);
    this->root.resize(Q);
    for (int64_t a = 0; a < Q; ++a) {
      if (root.data()[a] == 0) continue;
      int exponent, unit, rest;
      const double fraction = std::frexp(root.data()[a], &exponent) / std::frexp(largest, &unit);
      this->root[a] = {static_cast<float>(2 * std::frexp(fraction, &rest)), 0};
      this->root[a].exponent = exponent - unit + rest - 1;
    }
    batch.root = this->root.data();
  }

  int64_t nodes() const { return start.back(); }
  // How many nodes hang on the root.
  int64_t hung(const TreeBatch& batch) const {
    return batch.factorized == 0 ? 0 : start[batch.factorized + 1] - start[batch.factorized];
  }

  int64_t run(Isa isa, TreeBatch& batch) const {
    if (batch.arity == 4) return with_rules<4>(isa, batch);
    if (batch.arity == 3) return with_rules<3>(isa, batch);
    return with_rules<2>(isa, batch);
  }

 private:
  template <int S>
  int64_t with_rules(Isa isa, TreeBatch& batch) const {
    const Grammar<S> grammar(rules.data(), weights.data(), log_weights, offsets.data(), batch.depth, batch.Q);
    const Channels grouped(channels.data(), log_channels, hung(batch), batch.Q);
    batch.rules = grammar.levels(), batch.channels = grouped.views(), batch.choices = batch.Q;
    std::vector<int64_t> first;
    int64_t numbers = 0, most = 0;
    for (int64_t level = 0; level < batch.depth; ++level) {
      const TreeRuleGroups& groups = batch.rules[level * (S + 1)];
      first.push_back(numbers);
      if (level >= batch.factorized) numbers += (batch.start[level + 1] - batch.start[level]) * groups.count;
      most = std::max(most, groups.count);
      batch.choices = std::max(batch.choices, groups.longest);
    }
    require(batch.output != TreeOutput::rules || batch.rules_row == numbers, "rule_marginals: want a number a rule");
    batch.rule_start = first.data();
    batch.scratch_bytes = tree_posterior_scratch(batch.L, batch.Q, S, nodes(), hung(batch),
                                                 batch.output == TreeOutput::rules ? most : 0, batch.choices);
    const Scratch scratch = make_scratch(batch.scratch_bytes);
    batch.scratch = scratch.get();
#ifdef BIASGEN_X86
    if (isa == Isa::avx512) return avx512::tree_posterior(batch);
    if (isa == Isa::avx2) return avx2::tree_posterior(batch);
#endif
    static_cast<void>(isa);
    return baseline::tree_posterior(batch);
  }
};

void check_evidence(const py::array& evidence, TreeBatch& batch) {
  const bool tokens = py::isinstance<py::array_t<int8_t>>(evidence) || py::isinstance<py::array_t<int16_t>>(evidence);
  batch.type = py::isinstance<py::array_t<int8_t>>(evidence)    ? TreeEvidence::int8
               : py::isinstance<py::array_t<int16_t>>(evidence) ? TreeEvidence::int16
               : py::isinstance<Doubles>(evidence)              ? TreeEvidence::float64
                                                                : TreeEvidence::float32;
  require(tokens || batch.type == TreeEvidence::float64 || py::isinstance<py::array_t<float>>(evidence),
          "evidence: want float32, float64, int8 or int16");
  require(contiguous(evidence) && evidence.ndim() == (tokens ? 2 : 3) && evidence.shape(1) == batch.L &&
              (tokens || evidence.shape(2) == batch.Q),
          "evidence: want a C-contiguous (B, L, Q) array of fields or (B, L) of tokens");
  batch.B = evidence.shape(0);
  batch.evidence = evidence.data();
}

// A result's table by name: where it begins, and how many numbers a sample has; none where it is None.
template <class T>
T* table(const py::object& result, const char* name, int64_t B, int64_t& row) {
  row = 0;
  if (result.attr(name).is_none()) return nullptr;
  py::array_t<T> found = part<T>(result, name);
  if (found.ndim() < 1 || found.shape(0) != B || !contiguous(found))
    throw std::invalid_argument(std::string(name) + ": want a C-contiguous (B, ...) array");
  row = 1;
  for (py::ssize_t axis = 1; axis < found.ndim(); ++axis) row *= found.shape(axis);
  return found.mutable_data();
}

// result: biasgen.results.TreePosterior of arrays.
int64_t tree_posterior_entry(const std::string& isa_name, const py::array& evidence, const py::object& grammar,
                             const py::object& result, bool stream) {
  const Isa isa = parse_isa(isa_name);
  TreeBatch batch{};
  const Model model(grammar, batch);
  check_evidence(evidence, batch);
  const int64_t B = batch.B, leaves = batch.L * batch.Q, all = model.nodes() * batch.Q;
  int64_t each, also;
  batch.log_z = table<double>(result, "log_z", B, each);
  batch.impossible = table<bool>(result, "impossible", B, also);
  require(each == 1 && also == 1, "log_z, impossible: want (B,) arrays");
  batch.marginals = table<float>(result, "marginals", B, batch.marginals_row);
  batch.rule_marginals = table<float>(result, "rule_marginals", B, batch.rules_row);
  require(batch.marginals_row == 0 || batch.marginals_row == leaves || batch.marginals_row == all,
          "marginals: want those of the leaves or of all nodes");
  require(batch.rules_row == 0 || batch.marginals_row == all, "rule_marginals: want them beside those of all nodes");
  batch.output = batch.rules_row > 0             ? TreeOutput::rules
                 : batch.marginals_row == 0      ? TreeOutput::none
                 : batch.marginals_row == leaves ? TreeOutput::leaves
                                                 : TreeOutput::all;
  batch.stream = stream;
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  return model.run(isa, batch);
}

void check_strings(py::array& strings, TreeBatch& batch) {
  batch.strings.wide = py::isinstance<py::array_t<int16_t>>(strings);
  require(batch.strings.wide || py::isinstance<py::array_t<int8_t>>(strings), "strings: want int8 or int16");
  require(batch.strings.wide || batch.Q <= 127, "strings: want int16 for more than 127 symbols");
  require(strings.ndim() == 3 && strings.shape(0) == batch.B && strings.shape(2) == batch.L && contiguous(strings),
          "strings: want a C-contiguous (B, n, L) array");
  batch.strings.tokens = strings.mutable_data();
}

int64_t tree_posterior_sample_entry(const std::string& isa_name, const py::array& evidence, const py::object& grammar,
                                    uint64_t seed, int64_t first, py::array& strings) {
  const Isa isa = parse_isa(isa_name);
  TreeBatch batch{};
  const Model model(grammar, batch);
  check_evidence(evidence, batch);
  check_strings(strings, batch);
  batch.strings.n = strings.shape(1), batch.strings.seed = seed, batch.strings.first = first;
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  return model.run(isa, batch);
}

// logs: the grammar with the logarithms of its probabilities in their place.
int64_t tree_map_entry(const std::string& isa_name, const py::array& evidence, const py::object& grammar,
                       const py::object& logs, py::array& strings, Doubles& log_p) {
  const Isa isa = parse_isa(isa_name);
  TreeBatch batch{};
  Model model(grammar, batch);
  check_evidence(evidence, batch);
  check_strings(strings, batch);
  require(strings.shape(1) == 1, "strings: want one of each sample");
  check_vector(log_p, batch.B, "log_p: want a C-contiguous (B,) array");
  const Doubles weights = part<double>(logs, "weights"), root = part<double>(logs, "root");
  const Doubles channels = part<double>(logs, "channels");
  require(weights.size() == model.weights.size() && root.size() == batch.Q &&
              channels.size() == model.channels.size() && contiguous(weights) && contiguous(root) &&
              contiguous(channels),
          "logs: want the logarithms of the probabilities");
  model.log_weights = weights.data(), model.log_channels = channels.data();
  batch.log_prior = root.data(), batch.log_z = log_p.mutable_data();
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  return model.run(isa, batch);
}

}  // namespace

void bind_tree_posterior(py::module_& m) {
  m.def("tree_posterior", &tree_posterior_entry, py::arg("isa"), py::arg("evidence").noconvert(), py::arg("grammar"),
        py::arg("result"), py::arg("stream"),
        "Fills what result has arrays for; returns -1, or the first sample that is refused.");
  m.def("tree_posterior_sample", &tree_posterior_sample_entry, py::arg("isa"), py::arg("evidence").noconvert(),
        py::arg("grammar"), py::arg("seed"), py::arg("first"), py::arg("strings").noconvert(),
        "Fills strings, by the numbers of samples from `first`; returns -1, or the first sample that is refused.");
  m.def("tree_map", &tree_map_entry, py::arg("isa"), py::arg("evidence").noconvert(), py::arg("grammar"),
        py::arg("logs"), py::arg("strings").noconvert(), py::arg("log_p").noconvert(),
        "Fills strings (B, 1, L) and log_p; returns -1, or the first sample that is refused.");
}

}  // namespace biasgen
