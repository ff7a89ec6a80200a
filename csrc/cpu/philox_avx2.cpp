// Standard normals for x86-64-v3.
#define BIASGEN_ISA avx2
#include "cpu/philox-inl.h"
