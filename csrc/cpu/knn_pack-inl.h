// Packed rows: the layouts that csrc/cpu/knn.h describes. Compiled with each instruction set, equal for all.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/knn.h"

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {

// Bit planes; eight symbols at a time: bit b of each moves to the lowest bit of its byte, a product gathers the eight
// in one byte.
template <class Lane>
void pack_tokens(const uint8_t* rows, int64_t count, int64_t features, int64_t bits, int64_t width, Lane* packed) {
  constexpr int64_t kPositions = 8 * sizeof(Lane);
  const int64_t words = (features + kPositions - 1) / kPositions;
  for (int64_t row = 0; row < count; ++row)
    for (int64_t word = 0; word < words; ++word) {
      const int64_t begin = word * kPositions, left = features - begin;
      uint8_t symbols[kPositions] = {};
      std::memcpy(symbols, rows + row * features + begin, static_cast<size_t>(left < kPositions ? left : kPositions));
      for (int64_t b = 0; b < bits; ++b) {
        uint64_t plane = 0;
        for (int64_t l = 0; l < kPositions; l += 8) {
          uint64_t eight = 0;
          for (int i = 0; i < 8; ++i) eight |= static_cast<uint64_t>(symbols[l + i]) << (8 * i);
          plane |= (((eight >> b) & 0x0101010101010101u) * 0x0102040810204080u >> 56) << l;
        }
        packed[((row / width * words + word) * bits + b) * width + row % width] = static_cast<Lane>(plane);
      }
    }
}

template <class Element>
void pack_pairs(const uint8_t* rows, int64_t count, int64_t features, int64_t width, Element* packed) {
  const int64_t pairs = (features + 1) / 2;
  for (int64_t row = 0; row < count; ++row)
    for (int64_t k = 0; k < features; ++k)
      packed[((row / width * pairs + k / 2) * width + row % width) * 2 + k % 2] = rows[row * features + k];
}

template <class Byte>
void pack(Distance distance, const uint8_t* rows, int64_t count, int64_t features, int64_t bits, int64_t width,
          void* to) {
  if (distance == Distance::sqeuclidean) return pack_pairs(rows, count, features, width, static_cast<Byte*>(to));
  if (lane_bytes(distance, features) == 2)
    return pack_tokens(rows, count, features, bits, width, static_cast<int16_t*>(to));
  pack_tokens(rows, count, features, bits, width, static_cast<int64_t*>(to));
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
