// Standard normals for x86-64-v4.
#define BIASGEN_ISA avx512
#include "cpu/philox-inl.h"
