// SPDX-License-Identifier: MIT OR Apache-2.0
// The scores of a row as keys that ascend with them, in vectors of 16 bytes.
#ifndef LACUNA_SELECT_KEYS_CUH_
#define LACUNA_SELECT_KEYS_CUH_

#include "../common/number.cuh"
#include "params.h"
#include "team.cuh"

// A row's candidates.
struct Row {
  const uint8_t* scores;
  uint32_t start;
  uint32_t length;
  // Picks, at most.
  uint32_t n_most;
};

__device__ __forceinline__ uint32_t at_most(uint32_t x, uint32_t most) {
  return x < most ? x : most;
}

__device__ __forceinline__ Row locate_row(const SelectTopkParams& params, uint32_t row) {
  const uint32_t start = params.starts != nullptr ? params.starts[row] : 0;
  Row found;
  found.start = at_most(start, params.n);
  found.scores =
      params.scores + (row * params.row_stride + found.start) * float_bytes(params.element);
  const uint32_t rest = params.n - found.start;
  found.length = params.lengths != nullptr ? at_most(params.lengths[row], rest) : rest;
  found.n_most =
      params.counts_asked != nullptr ? at_most(params.counts_asked[row], params.k) : params.k;
  return found;
}

// Keys ascend with scores from NaN, which is 1, to +inf; zeros of both signs are one. `kFirst` is
// of candidates that come before all others, and 0 where there is no candidate: since no search
// asks for more than there are, it is never picked and may be counted.
struct Half {
  enum : uint32_t { kBits = 16, kOfVector = 8, kZero = 0x8000, kFirst = 0xFFFF };
  using Bits = uint16_t;

  uint32_t kind;

  __device__ uint32_t infinity() const { return kind == kFloatBf16 ? 0x7F80 : 0x7C00; }

  // Of two scores at once: what overflows a magnitude arrives in the place of its sign.
  __device__ uint32_t keys_of(uint32_t word) const {
    const uint32_t magnitudes = word & 0x7FFF7FFF;
    const uint32_t signs = word >> 15 & 0x00010001;
    const uint32_t have_magnitude = (magnitudes + 0x7FFF7FFF) >> 15;
    const uint32_t above = magnitudes + (0x7FFF - infinity()) * 0x00010001;
    const uint32_t are_nan = above >> 15 & 0x00010001;
    const uint32_t ordered = (word ^ 0x80008000 ^ signs * 0x7FFF) + (signs & ~have_magnitude);
    return (ordered & ~(are_nan * 0xFFFF)) | are_nan;
  }

  __device__ uint32_t key_of(uint32_t bits) const { return keys_of(bits) & 0xFFFF; }

  // The magnitude of a score above zero.
  __device__ float value_of(uint32_t key) const {
    return kind == kFloatBf16 ? from_bf16(key & 0x7FFF) : from_f16(key & 0x7FFF);
  }

  // The least key of a score that is `least` or more, which is not NaN.
  __device__ uint32_t key_from(float least) const {
    const uint32_t nearest = kind == kFloatBf16 ? to_bf16(least) : to_f16(least);
    const float value = kind == kFloatBf16 ? from_bf16(nearest) : from_f16(nearest);
    return key_of(nearest) + (value < least ? 1 : 0);
  }
};

struct Single {
  enum : uint32_t { kBits = 32, kOfVector = 4, kZero = 0x80000000, kFirst = 0xFFFFFFFF };
  using Bits = uint32_t;

  uint32_t kind;

  __device__ uint32_t infinity() const { return 0x7F800000; }

  __device__ uint32_t keys_of(uint32_t word) const { return key_of(word); }

  __device__ uint32_t key_of(uint32_t bits) const {
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return 1;
    if (magnitude == 0) return kZero;
    return bits >> 31 != 0 ? ~bits : bits | kZero;
  }

  __device__ float value_of(uint32_t key) const { return __uint_as_float(key & 0x7FFFFFFF); }

  __device__ uint32_t key_from(float least) const { return key_of(__float_as_uint(least)); }
};

// Of 16 bytes; keys of 16 bits two to a word.
struct Vector {
  uint32_t words[4];
};

__device__ __forceinline__ Vector load_vector(const void* source) {
  const uint4 four = *static_cast<const uint4*>(source);
  return {{four.x, four.y, four.z, four.w}};
}

template <typename Format>
__device__ __forceinline__ uint32_t element_of(const Vector& vector, uint32_t e) {
  if (Format::kBits == 32) return vector.words[e];
  return vector.words[e / 2] >> (16 * (e % 2)) & 0xFFFF;
}

// The keys of a block's slice. Vectors are those of memory, so that all but the slice's ends are
// loaded whole, wherever it starts. The first time that all keys are visited, as many as there is
// room for are left on chip, and only the others are read again.
template <typename Format>
class Keys {
 public:
  __device__ Keys(const SelectTopkParams& params, const Row& row, const Slice& slice, uint4* staged)
      : format{params.element}, length_(slice.length), first_(slice.first), staged_(staged) {
    scores_ = reinterpret_cast<const Bits*>(row.scores) + slice.first;
    skew_ = static_cast<uint32_t>(reinterpret_cast<uint64_t>(scores_) % 16 / sizeof(Bits));
    n_vectors = (skew_ + length_ + Format::kOfVector - 1) / Format::kOfVector;
    n_room_ = params.n_staged < n_vectors ? params.n_staged : n_vectors;
    const uint32_t last = row.length > params.n_last ? row.length - params.n_last : 0;
    free_end_ = last > first_ ? at_most(last - first_, length_) : 0;
    free_begin_ = params.n_first > first_ ? at_most(params.n_first - first_, free_end_) : 0;
    const uint32_t plain_end = (skew_ + free_end_) / Format::kOfVector;
    first_plain_ = (skew_ + free_begin_ + Format::kOfVector - 1) / Format::kOfVector;
    n_plain_ = plain_end > first_plain_ ? plain_end - first_plain_ : 0;
  }

  // All vectors of the slice, each by one thread, of which so many are on their way at once.
  template <uint32_t kOnTheirWay, typename Visit>
  __device__ __forceinline__ void visit(Visit visit) {
    const uint32_t n_threads = blockDim.x;
    for (uint32_t from = threadIdx.x; from < n_vectors; from += kOnTheirWay * n_threads) {
      Vector vectors[kOnTheirWay];
#pragma unroll
      for (uint32_t u = 0; u < kOnTheirWay; ++u) vectors[u] = request(from + u * n_threads);
#pragma unroll
      for (uint32_t u = 0; u < kOnTheirWay; ++u) {
        const uint32_t v = from + u * n_threads;
        if (v >= n_vectors) break;
        vectors[u] = keys_of(vectors[u], v);
        if (v - n_staged_ < n_room_ - n_staged_) {
          const uint32_t(&words)[4] = vectors[u].words;
          staged_[v] = make_uint4(words[0], words[1], words[2], words[3]);
        }
        visit(vectors[u]);
      }
    }
    n_staged_ = n_room_;
  }

  // What memory has of a vector, ahead of its use; `keys_of` makes keys of it. Zeros past the end.
  __device__ __forceinline__ Vector request(uint32_t v) const {
    if (v < n_staged_) return load_vector(staged_ + v);
    if (v - first_plain_ < n_plain_) return load_vector(scores_ + at(v, 0));
    return {};
  }

  __device__ __forceinline__ Vector keys_of(const Vector& requested, uint32_t v) const {
    if (v < n_staged_) return requested;
    if (v - first_plain_ >= n_plain_) return edge(v);
    Vector keys = {};
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) keys.words[i] = format.keys_of(requested.words[i]);
    return keys;
  }

  // The candidate of the row that element `e` of vector `v` is.
  __device__ uint32_t index_of(uint32_t v, uint32_t e) const { return first_ + at(v, e); }

  // The keys that forced candidates would have, each by one thread.
  template <typename Visit>
  __device__ void visit_forced(Visit visit) const {
    const uint32_t n_forced = free_begin_ + (length_ - free_end_);
    for (uint32_t i = threadIdx.x; i < n_forced; i += blockDim.x) {
      visit(format.key_of(scores_[i < free_begin_ ? i : free_end_ + (i - free_begin_)]));
    }
  }

  Format format;
  uint32_t n_vectors;

 private:
  using Bits = typename Format::Bits;

  // Large where the slice has not begun yet.
  __device__ uint32_t at(uint32_t v, uint32_t e) const { return v * Format::kOfVector + e - skew_; }

  // A vector that has something else than plain candidates. Rolled up: it is rare, and everywhere.
  __device__ Vector edge(uint32_t v) const {
    uint64_t low = 0;
    uint64_t high = 0;
#pragma unroll 1
    for (uint32_t e = 0; e < Format::kOfVector; ++e) {
      low = low >> Format::kBits | high << (64 - Format::kBits);
      high = high >> Format::kBits | uint64_t{key_at(at(v, e))} << (64 - Format::kBits);
    }
    return {{static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
             static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32)}};
  }

  __device__ uint32_t key_at(uint32_t i) const {
    if (i >= length_) return 0;
    if (i < free_begin_ || i >= free_end_) return Format::kFirst;
    return format.key_of(scores_[i]);
  }

  const Bits* scores_;
  uint32_t length_;
  // The slice's first candidate in the row.
  uint32_t first_;
  // Scores before it in its vector.
  uint32_t skew_;
  // Candidates of the slice that nothing forces are from here to there,
  uint32_t free_begin_;
  uint32_t free_end_;
  // and vectors of nothing else are so many.
  uint32_t first_plain_;
  uint32_t n_plain_;
  uint4* staged_;
  uint32_t n_room_;
  uint32_t n_staged_ = 0;
};

#endif  // LACUNA_SELECT_KEYS_CUH_
