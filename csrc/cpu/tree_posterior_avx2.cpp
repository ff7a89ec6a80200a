// Exact tree posterior for x86-64-v3.
#define BIASGEN_ISA avx2
#include "cpu/tree_posterior-inl.h"
