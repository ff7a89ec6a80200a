// The tree kernels on the host shim. As a shared library, with the sources in csrc/cuda compiled after host_shim.h,
// they are called like the GPU's; with BIASGEN_STANDALONE they check themselves.
#include "tests/host_shim.h"

extern "C" __attribute__((visibility("default"))) void set_fibre_order(unsigned order) { host_shim::order = order; }
