// Standard normals for the baseline (x86-64-v2, or whatever the compiler targets).
#define BIASGEN_ISA baseline
#include "cpu/philox-inl.h"
