// biasgen._cpu.philox_normals: checks the output, picks the instruction set.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/bind.h"
#include "bindings/checks.h"
#include "cpu/fp_state.h"
#include "cpu/isa.h"
#include "cpu/philox.h"

namespace biasgen {

namespace {

void philox_normals_entry(const std::string& isa_name, uint64_t seed, uint64_t first, uint32_t step, uint32_t purpose,
                          py::array_t<float>& out) {
  const Isa isa = parse_isa(isa_name);
  require(out.ndim() == 2 && contiguous(out) && out.shape(1) % 4 == 0, "out: want a C-contiguous (n, 4 blocks) array");
  const NormalRows rows{out.shape(0), out.shape(1) / 4, seed, first, step, purpose, out.mutable_data()};
  py::gil_scoped_release unlocked;
  DefaultFpState fp_state;
#ifdef BIASGEN_X86
  if (isa == Isa::avx512) return avx512::philox_normals(rows);
  if (isa == Isa::avx2) return avx2::philox_normals(rows);
#endif
  static_cast<void>(isa);
  baseline::philox_normals(rows);
}

}  // namespace

void bind_philox(py::module_& m) {
  m.def("philox_normals", &philox_normals_entry, py::arg("isa"), py::arg("seed"), py::arg("first"), py::arg("step"),
        py::arg("purpose"), py::arg("out").noconvert(), "Fills out with normals of samples first, first + 1 ...");
}

}  // namespace biasgen
