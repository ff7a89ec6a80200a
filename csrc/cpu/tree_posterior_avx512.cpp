// Exact tree posterior for x86-64-v4.
#define BIASGEN_ISA avx512
#include "cpu/tree_posterior-inl.h"
