// biasgen._cpu: the module; each op binds itself in bind_<op>.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "cpu/isa.h"

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "Native CPU kernels of biasgen; single-threaded, called through biasgen.backends.cpu_backend.";
  m.def("isa_levels", &biasgen::isa_levels, "Instruction-set levels that this machine can run, slowest first.");
  biasgen::bind_empirical_denoise(m);
  biasgen::bind_knn(m);
  biasgen::bind_knn_direct(m);
  biasgen::bind_knn_floats(m);
  biasgen::bind_philox(m);
  biasgen::bind_tree_posterior(m);
}
