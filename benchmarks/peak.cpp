// Register-only loops: the most that a core can do of an instruction, or of the few that a kernel consists of.
// Assembly, because a compiler spills such loops.
#include <cstdint>

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define REGISTERS                                                                                                      \
  "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13"
#define PRODUCTS(i) "vpdpbusd %%zmm13, %%zmm12, %%zmm" #i "\n"

// 12 * 64 products of bytes, multiplied and added, a round.
extern "C" void byte_products(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) asm volatile(TWELVE(PRODUCTS)::: REGISTERS);
}

// What a pair of rows of 16 symbols of 3 bits takes: planes compared, or-ed, counted, the minimum kept.
#define PAIRS(i)                                                                                                       \
  "vpxorq %%zmm13, %%zmm12, %%zmm" #i "\n vpternlogq $0xf6, %%zmm13, %%zmm12, %%zmm" #i                                \
  "\n vpternlogq $0xf6, %%zmm13, %%zmm12, %%zmm" #i "\n vpopcntw %%zmm" #i ", %%zmm" #i                                \
  "\n vpminuw %%zmm" #i ", %%zmm14, %%zmm14\n"

// 12 * 32 pairs a round.
extern "C" void token_pairs(int64_t rounds) {
  for (int64_t r = 0; r < rounds; ++r) asm volatile(TWELVE(PAIRS)::: REGISTERS, "zmm14");
}
