// biasgen._cpu.tree_posterior: checks arrays, groups the rules, picks the instruction set.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/bind.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/tree_posterior.h"

namespace biasgen {
namespace py = pybind11;

namespace {

// Rules grouped by one of their three columns; what the kernel reads.
class GroupedRules {
 public:
  GroupedRules(const int16_t* rules, const double* weights, int64_t R, int64_t Q, int key, int first, int second)
      : begin_(Q + 1, 0) {
    for (int64_t s = 0; s < Q; ++s) {
      begin_[s] = static_cast<int64_t>(rules_.size());
      for (int64_t r = 0; r < R; ++r) {
        if (rules[3 * r + key] != s || weights[r] == 0) continue;
        int exponent;
        const double fraction = std::frexp(weights[r], &exponent);
        rules_.push_back({rules[3 * r + first], rules[3 * r + second], static_cast<float>(2 * fraction), exponent - 1});
      }
    }
    begin_[Q] = static_cast<int64_t>(rules_.size());
  }
  TreeRuleGroups view() const { return {rules_.data(), begin_.data()}; }

 private:
  std::vector<TreeRule> rules_;
  std::vector<int64_t> begin_;
};

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

bool contiguous(const py::array& array) { return array.flags() & py::array::c_style; }

int64_t tree_posterior_entry(const std::string& isa_name, const py::array& log_field, const py::array_t<int16_t>& rules,
                             const py::array_t<double>& weights, py::array_t<float>& marginals,
                             py::array_t<double>& log_z, py::array_t<bool>& impossible) {
  const Isa isa = parse_isa(isa_name);
  const bool double_field = py::isinstance<py::array_t<double>>(log_field);
  require(double_field || py::isinstance<py::array_t<float>>(log_field), "log_field: want float32 or float64");
  require(log_field.ndim() == 3 && contiguous(log_field), "log_field: want a C-contiguous (B, L, Q) array");
  const int64_t B = log_field.shape(0), L = log_field.shape(1), Q = log_field.shape(2);
  require(L >= 2 && L <= 1024 && (L & (L - 1)) == 0 && Q >= 1 && Q <= 64,
          "log_field: want L = 2, 4, ... 1024 leaves and Q = 1 .. 64 symbols");
  require(rules.ndim() == 2 && rules.shape(1) == 3 && contiguous(rules), "rules: want a C-contiguous (R, 3) array");
  const int64_t R = rules.shape(0);
  require(weights.ndim() == 1 && weights.shape(0) == R && contiguous(weights),
          "weights: want a C-contiguous (R,) array");
  require(std::all_of(rules.data(), rules.data() + 3 * R, [Q](int16_t s) { return s >= 0 && s < Q; }),
          "rules: want symbols 0 .. Q - 1");
  require(std::all_of(weights.data(), weights.data() + R, [](double w) { return w >= 0 && w <= 2; }),
          "weights: want probabilities");
  require(marginals.ndim() == 3 && marginals.shape(0) == B && marginals.shape(1) == L && marginals.shape(2) == Q &&
              contiguous(marginals),
          "marginals: want a C-contiguous (B, L, Q) array");
  require(log_z.ndim() == 1 && log_z.shape(0) == B && contiguous(log_z), "log_z: want a C-contiguous (B,) array");
  require(impossible.ndim() == 1 && impossible.shape(0) == B && contiguous(impossible),
          "impossible: want a C-contiguous (B,) array");
  TreeBatch batch{};
  batch.B = B, batch.L = L, batch.Q = Q;
  batch.log_field = log_field.data();
  batch.double_field = double_field;
  batch.marginals = marginals.mutable_data();
  batch.log_z = log_z.mutable_data();
  batch.impossible = impossible.mutable_data();
  const int16_t* rule = rules.data();
  const double* weight = weights.data();

  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
  const GroupedRules by_parent(rule, weight, R, Q, 0, 1, 2), by_left(rule, weight, R, Q, 1, 0, 2),
      by_right(rule, weight, R, Q, 2, 0, 1);
  batch.by_parent = by_parent.view();
  batch.by_left = by_left.view();
  batch.by_right = by_right.view();
  struct AlignedDelete {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  const std::unique_ptr<void, AlignedDelete> scratch(
      ::operator new(static_cast<size_t>(tree_posterior_scratch(L, Q)), std::align_val_t{64}));
  batch.scratch = scratch.get();
#ifdef BIASGEN_X86
  if (isa == Isa::avx512) return avx512::tree_posterior(batch);
  if (isa == Isa::avx2) return avx2::tree_posterior(batch);
#endif
  static_cast<void>(isa);
  return baseline::tree_posterior(batch);
}

}  // namespace

void bind_tree_posterior(py::module_& m) {
  m.def("tree_posterior", &tree_posterior_entry, py::arg("isa"), py::arg("log_field").noconvert(),
        py::arg("rules").noconvert(), py::arg("weights").noconvert(), py::arg("marginals").noconvert(),
        py::arg("log_z").noconvert(), py::arg("impossible").noconvert(),
        "Fills marginals, log_z and impossible; returns -1, or the first sample that is refused.");
}

}  // namespace biasgen
