// Exact tree posterior for the baseline (x86-64-v2, or whatever the compiler targets).
#define BIASGEN_ISA baseline
#include "cpu/tree_posterior-inl.h"
