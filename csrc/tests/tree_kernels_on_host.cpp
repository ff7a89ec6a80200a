// The tree kernels on the host shim: linked with the sources in csrc/cuda, each compiled after host_shim.h
// (benchmarks/tree_kernels.py), into a library that is called like the GPU's.
#include "tests/host_shim.h"

extern "C" __attribute__((visibility("default"))) void set_fibre_order(unsigned order) { host_shim::order = order; }
