// Vectors of the widest registers of each instruction set, as GCC and Clang spell them; intrinsics where they matter.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace biasgen {
inline namespace BIASGEN_ISA {
namespace {  // nothing but the entry points leaves a kernel's object, so no copy for another level can take its place

#if defined(__AVX512BW__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

// x - 0 is x for every x, so that this is a broadcast and nothing else; 0 + x is not for -0.
template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// As many bytes as there are lanes, as floats and doubles. Spelled out: GCC would convert one by one.
inline Vec<float> floats_of(const uint8_t* from) {
#if defined(__AVX512BW__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return __builtin_convertvector((Vec<int32_t>)_mm512_maskz_cvtepu8_epi32(0xffff, bytes), Vec<float>);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = from[i];
  return v;
#endif
}

inline Vec<double> doubles_of(const uint8_t* from) {
#if defined(__AVX512BW__)
  typedef int32_t Eight __attribute__((vector_size(32)));
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return __builtin_convertvector((Eight)_mm256_cvtepu8_epi32(bytes), Vec<double>);
#elif defined(__AVX2__)
  int32_t bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return (Vec<double>)_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes)));
#else
  Vec<double> v;
  for (int i = 0; i < kLanes<double>; ++i) v[i] = from[i];
  return v;
#endif
}

// a * b + c, fused where that is one instruction.
inline Vec<double> multiply_add(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512BW__)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512BW__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec<float> magnitude(Vec<float> v) { return (Vec<float>)((Vec<int32_t>)v & INT32_MAX); }

inline Vec<double> magnitude(Vec<double> v) { return (Vec<double>)((Vec<int64_t>)v & INT64_MAX); }

// The sums of |x - y| over every eight bytes.
inline Vec<int64_t> sums_of_differences(Vec<uint8_t> x, Vec<uint8_t> y) {
#if defined(__AVX512BW__)
  return (Vec<int64_t>)_mm512_sad_epu8((__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
  return (Vec<int64_t>)_mm256_sad_epu8((__m256i)x, (__m256i)y);
#elif defined(__SSE2__)
  return (Vec<int64_t>)_mm_sad_epu8((__m128i)x, (__m128i)y);
#else
  const Vec<uint8_t> apart = x > y ? x - y : y - x;
  const Vec<uint16_t> twos = ((Vec<uint16_t>)apart & 0xff) + ((Vec<uint16_t>)apart >> 8);
  const Vec<uint32_t> fours = ((Vec<uint32_t>)twos & 0xffff) + ((Vec<uint32_t>)twos >> 16);
  return (Vec<int64_t>)(((Vec<uint64_t>)fours & 0xffffffff) + ((Vec<uint64_t>)fours >> 32));
#endif
}

template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}

// One bit a byte of the lanes where a <= b.
template <class T>
inline uint64_t at_most(Vec<T> a, Vec<T> b) {
  const auto condition = a <= b;
#if defined(__AVX512BW__)
  return _mm512_movepi8_mask((__m512i)condition);
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_epi8((__m256i)condition));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_epi8((__m128i)condition));
#else
  uint64_t mask = 0;
  for (int i = 0; i < kLanes<T>; ++i)
    if (condition[i]) mask |= ((uint64_t{1} << sizeof(T)) - 1) << (i * sizeof(T));
  return mask;
#endif
}

// Set bits of every 16-bit or 64-bit lane.
template <class T>
inline Vec<T> count_bits(Vec<T> v) {
#if defined(__AVX512BITALG__) && defined(__AVX512VPOPCNTDQ__)
  if constexpr (sizeof(T) == 2) return (Vec<T>)_mm512_popcnt_epi16((__m512i)v);
  return (Vec<T>)_mm512_popcnt_epi64((__m512i)v);
#elif defined(__AVX2__)
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), low = (__m256i)v & nibble,
                high = _mm256_srli_epi16((__m256i)v, 4) & nibble;
  const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
  if constexpr (sizeof(T) == 2) return (Vec<T>)_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return (Vec<T>)_mm256_sad_epu8(bytes, _mm256_setzero_si256());
#elif defined(__SSSE3__)
  const __m128i table = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m128i nibble = _mm_set1_epi8(15), low = (__m128i)v & nibble, high = _mm_srli_epi16((__m128i)v, 4) & nibble;
  const __m128i bytes = _mm_add_epi8(_mm_shuffle_epi8(table, low), _mm_shuffle_epi8(table, high));
  if constexpr (sizeof(T) == 2) return (Vec<T>)_mm_maddubs_epi16(bytes, _mm_set1_epi8(1));
  return (Vec<T>)_mm_sad_epu8(bytes, _mm_setzero_si128());
#else
  typedef Vec<uint8_t> Bytes;
  Bytes x = (Bytes)v;
  x = x - ((x >> 1) & 0x55);
  x = (x & 0x33) + ((x >> 2) & 0x33);
  x = (x + (x >> 4)) & 0x0f;
  Vec<T> sum = (Vec<T>)x;
  for (unsigned shift = 8; shift < 8 * sizeof(T); shift *= 2) sum += sum >> static_cast<T>(shift);
  return sum & static_cast<T>(0xff);
#endif
}

}  // namespace
}  // namespace BIASGEN_ISA
}  // namespace biasgen
