// Register-only loops of one instruction: the most that a core can do of it. Assembly, because a compiler spills such loops.
#include <cstdint>

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define REGISTERS                                                                                                      \
  "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13"
#define PRODUCTS(i) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #i "\n"

// 12 * 64 products of bytes, multiplied and added, a round.
extern "C" void byte_products(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) asm volatile(TWELVE(PRODUCTS)::: REGISTERS);
}
