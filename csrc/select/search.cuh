// SPDX-License-Identifier: MIT OR Apache-2.0
// The search for the last one picked, by histograms of a digit of the keys at a time. Bins are
// summed up, never filled, so that any number of keys may fall into one.
#ifndef LACUNA_SELECT_SEARCH_CUH_
#define LACUNA_SELECT_SEARCH_CUH_

#include "keys.cuh"

namespace {

struct SearchShared {
  // What the bins of each warp's threads amount to, two digits by turns.
  uint64_t of_warps[2][32];
  // The digit that the cut's key has, and how much of its bin is still to be picked.
  uint64_t n_left;
  uint32_t digit;
  // The largest key of a finite score, of the slice and of the row; and the mass of the slice's
  // forced candidates.
  uint32_t largest;
  uint32_t largest_of_row;
  uint64_t forced;
};

// Picked are all keys above the threshold and, in the order of the row, `n_equal` at it.
struct Cut {
  uint32_t threshold;
  uint32_t n_equal;
};

// Histograms of how many keys there are: four bins a thread.
struct Counts {
  using Amount = uint32_t;
  enum : uint32_t { kOfThread = 4 };

  uint4* bins;

  template <typename Visit>
  __device__ __forceinline__ void visit(const Vector& vector, bool is_wide, Visit visit) const {
    visit_vector(vector, is_wide, visit);
  }

  __device__ Amount of(uint32_t) const { return 1; }

  __device__ void add(uint32_t bin, Amount amount) const {
    // Inner loop: 1 element an atomic.
    atomicAdd(reinterpret_cast<uint32_t*>(bins) + bin, amount);
  }

  __device__ void clear(uint32_t i) const { bins[i] = make_uint4(0, 0, 0, 0); }

  // Those of another block of the team, for `load`.
  __device__ Counts of_rank(uint32_t rank) const { return {of_block(bins, rank)}; }

  // Those that the next digit has where other blocks still read these.
  __device__ Counts turned(uint32_t turn) const {
    return {turn != 0 ? bins + blockDim.x : bins - blockDim.x};
  }

  __device__ void load(uint32_t i, Amount (&amounts)[kOfThread]) const {
    const uint4 four = bins[i];
    amounts[0] += four.x;
    amounts[1] += four.y;
    amounts[2] += four.z;
    amounts[3] += four.w;
  }
};

// Histograms of what keys weigh: two bins a thread. A shared 64-bit sum is a loop on a GPU, so it
// is two of 32 bits, the upper of which takes the lower's carries.
struct Masses {
  using Amount = uint64_t;
  enum : uint32_t { kOfThread = 2 };

  Format format;
  uint2* low;
  uint2* high;
  // That of the row's largest finite score.
  uint32_t exponent;

  template <typename Visit>
  __device__ __forceinline__ void visit(const Vector& vector, bool is_wide, Visit visit) const {
    visit_slowly(vector, is_wide, visit);
  }

  // A score's mantissa where one of the largest exponent has its last bit at 2^16: below 2^40, so
  // that 2^24 candidates weigh less than 2^64. Infinity weighs the most.
  __device__ Amount of(uint32_t key) const {
    if (key <= Format::kZero || key > format.below_first()) return 0;
    const uint32_t bits = __float_as_uint(format.value_of(key));
    if (bits >= 0x7F800000) return (uint64_t{1} << 40) - 1;
    const uint32_t own_exponent = bits >> 23;
    const uint64_t mantissa = (bits & 0x7FFFFF) | (own_exponent != 0 ? 0x800000 : 0);
    const uint32_t n_below = exponent - (own_exponent != 0 ? own_exponent : 1);
    return n_below < 40 ? mantissa << 16 >> n_below : 0;
  }

  __device__ void add(uint32_t bin, Amount amount) const {
    const uint32_t own = static_cast<uint32_t>(amount);
    const uint32_t before = atomicAdd(reinterpret_cast<uint32_t*>(low) + bin, own);
    const uint32_t carry = before + own < own ? 1 : 0;
    const uint32_t rest = static_cast<uint32_t>(amount >> 32) + carry;
    if (rest != 0) atomicAdd(reinterpret_cast<uint32_t*>(high) + bin, rest);
  }

  __device__ void clear(uint32_t i) const {
    low[i] = make_uint2(0, 0);
    high[i] = make_uint2(0, 0);
  }

  __device__ Masses of_rank(uint32_t rank) const {
    return {format, of_block(low, rank), of_block(high, rank), exponent};
  }

  __device__ Masses turned(uint32_t turn) const {
    const uint32_t n = 2 * blockDim.x;
    return {format, turn != 0 ? low + n : low - n, turn != 0 ? high + n : high - n, exponent};
  }

  __device__ void load(uint32_t i, Amount (&amounts)[kOfThread]) const {
    const uint2 lows = low[i];
    const uint2 highs = high[i];
    amounts[0] += uint64_t{highs.x} << 32 | lows.x;
    amounts[1] += uint64_t{highs.y} << 32 | lows.y;
  }
};

// Adds the digit of each key whose decided bits are those of `threshold`. Equal neighbours are
// added at once: rows full of one value are common.
template <typename Bins>
__device__ __forceinline__ void tally(Keys& keys, const Bins& bins, uint32_t threshold,
                                      uint32_t decided, uint32_t shift, uint32_t mask) {
  const bool is_wide = keys.format.is_wide();
  keys.visit([&](const Vector& vector) {
    uint32_t bin = 0;
    typename Bins::Amount amount = 0;
    bins.visit(vector, is_wide, [&](uint32_t, uint32_t key) {
      if ((key & decided) != threshold) return;
      const uint32_t own_bin = key >> shift & mask;
      if (own_bin != bin && amount != 0) {
        bins.add(bin, amount);
        amount = 0;
      }
      bin = own_bin;
      amount += bins.of(key);
    });
    if (amount != 0) bins.add(bin, amount);
  });
}

// What the bins of thread `i` amount to, of all blocks together.
template <typename Bins>
__device__ __forceinline__ void load_total(const Team& team, const Bins& bins, uint32_t i,
                                           typename Bins::Amount (&amounts)[Bins::kOfThread]) {
  if (team.is_alone()) return bins.load(i, amounts);
#pragma unroll 2
  for (uint32_t r = 0; r < team.n_blocks; ++r) bins.of_rank(r).load(i, amounts);
}

template <typename Amount, uint32_t kN>
__device__ __forceinline__ Amount add_up(const Amount (&amounts)[kN]) {
  Amount sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kN; ++i) sum += amounts[i];
  return sum;
}

// By one warp: the digit of the cut's key, and what is then left, into shared memory. First which
// warp's bins hold it and then which of them, so that little of other blocks' memory is read.
template <typename Bins>
__device__ __forceinline__ void find_digit(const Team& team, const Bins& bins,
                                           typename Bins::Amount of_lane,
                                           typename Bins::Amount through,
                                           typename Bins::Amount n_left, SearchShared& shared) {
  using Amount = typename Bins::Amount;
  const uint32_t lane = threadIdx.x;
  // Warps whose bins, and those before, are not enough; never the last, whatever changes meanwhile.
  const bool is_short = lane + 1 < blockDim.x / 32 && through < n_left;
  const uint32_t warp = static_cast<uint32_t>(__popc(__ballot_sync(0xFFFFFFFFu, is_short)));
  Amount n_before = __shfl_sync(0xFFFFFFFFu, through - of_lane, static_cast<int>(warp));
  const uint32_t own = blockDim.x - 1 - 32 * warp - lane;
  Amount amounts[Bins::kOfThread] = {};
  load_total(team, bins, own, amounts);
  const Amount amount = add_up(amounts);
  through = n_before + scan_warp(amount);
  n_before = through - amount;
  if (n_before >= n_left || through < n_left) return;
  uint32_t digit = own * Bins::kOfThread + Bins::kOfThread - 1;
#pragma unroll
  for (uint32_t i = Bins::kOfThread; i-- > 1;) {
    // The bins from here on are enough only with this one.
    if (n_left - n_before <= amounts[i]) break;
    n_before += amounts[i];
    digit -= 1;
  }
  shared.digit = digit;
  shared.n_left = n_left - n_before;
}

// The greatest key at which those at it and above amount to `n_left` or more, and what of `n_left`
// it must give itself. `want` says `n_left` by what all keys amount to, and none of them need be
// searched for 0. All threads of the team; three barriers a digit, one of them the team's, and one.
// Blocks of a team have bins twice, by turns, since others may still read the last digit's; a block
// alone waits once more instead, and has room for more keys.
template <typename Bins, typename Want>
__device__ uint32_t search(const Team& team, Keys& keys, Bins bins, Want want,
                           typename Bins::Amount& n_left, SearchShared& shared) {
  using Amount = typename Bins::Amount;
  // Thread 0 has the greatest digits.
  const uint32_t own = blockDim.x - 1 - threadIdx.x;
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t n_most_bits = 31 - static_cast<uint32_t>(__clz(Bins::kOfThread * blockDim.x));
  bins.clear(own);
  __syncthreads();
  uint32_t threshold = 0;
  uint32_t decided = 0;
  uint32_t n_open = 32;
  // Keys have no bits below.
  const uint32_t n_lowest = 32 - keys.format.n_bits();
  uint32_t turn = 0;
  while (n_open != n_lowest) {
    const uint32_t n_bits = at_most(n_most_bits, n_open - n_lowest);
    const uint32_t shift = n_open - n_bits;
    const uint32_t mask = (1u << n_bits) - 1;
    tally(keys, bins, threshold, decided, shift, mask);
    __syncthreads();
    Amount* const of_warps = reinterpret_cast<Amount*>(shared.of_warps[turn]);
    Amount amounts[Bins::kOfThread] = {};
    bins.load(own, amounts);
    const Amount through = scan_warp(add_up(amounts));
    if (lane == 31) of_warps[threadIdx.x / 32] = through;
    team.barrier();
    if (threadIdx.x < 32) {
      const Amount of_lane = lane < blockDim.x / 32 ? team.total(of_warps + lane) : 0;
      const Amount all_through = scan_warp(of_lane);
      if (decided == 0) n_left = want(__shfl_sync(0xFFFFFFFFu, all_through, 31));
      if (n_left == 0 && lane == 0) shared.n_left = 0;
      if (n_left != 0) find_digit(team, bins, of_lane, all_through, n_left, shared);
    }
    turn = 1 - turn;
    if (!team.is_alone()) {
      bins = bins.turned(turn);
      bins.clear(own);
    }
    __syncthreads();
    n_left = static_cast<Amount>(shared.n_left);
    if (n_left == 0) return 0;
    threshold |= shared.digit << shift;
    decided |= mask << shift;
    n_open = shift;
    if (team.is_alone() && n_open != n_lowest) {
      bins.clear(own);
      __syncthreads();
    }
  }
  return threshold;
}

// The first `n_picks`, which are no more than there are.
__device__ Cut find_largest(const Team& team, Keys& keys, uint32_t n_picks, uint4* bins,
                            SearchShared& shared) {
  if (n_picks == 0) return {Format::kFirst, 0};
  uint32_t n_left = 0;
  const auto want = [&](uint32_t) { return n_picks; };
  const uint32_t threshold = search(team, keys, Counts{bins}, want, n_left, shared);
  return {threshold, n_left};
}

// A number from 0 to `most`, at `n_bits` fraction bits; NaN as `most`. What is cut off counts as
// one where `rounds_up`.
__device__ __forceinline__ uint64_t to_fixed(float value, uint32_t n_bits, uint32_t most,
                                             bool rounds_up) {
  if (!(value < static_cast<float>(most))) return uint64_t{most} << n_bits;
  if (!(value > 0.0f)) return 0;
  const uint32_t bits = __float_as_uint(value);
  const uint64_t mantissa = (bits & 0x7FFFFF) | 0x800000;
  const uint32_t exponent = bits >> 23;
  if (exponent + n_bits >= 150) return mantissa << (exponent + n_bits - 150);
  const uint32_t n_cut = 150 - exponent - n_bits;
  const uint64_t whole = n_cut < 24 ? mantissa >> n_cut : 0;
  return rounds_up && (n_cut >= 24 || whole << n_cut != mantissa) ? whole + 1 : whole;
}

// The fewest whose mass, with that of the forced ones, which come first, is `share` of the row's.
__device__ Cut find_mass(const Team& team, Keys& keys, float share, uint4* work,
                         SearchShared& shared) {
  if (threadIdx.x == 0) {
    shared.largest = 0;
    shared.forced = 0;
  }
  __syncthreads();
  uint32_t largest = 0;
  const uint32_t infinity = keys.format.infinity();
  const bool is_wide = keys.format.is_wide();
  const auto compare = [&](uint32_t key) {
    if (key < infinity && key > largest) largest = key;
  };
  keys.visit([&](const Vector& vector) {
    visit_vector(vector, is_wide, [&](uint32_t, uint32_t key) { compare(key); });
  });
  keys.visit_forced(compare);
  largest = __reduce_max_sync(0xFFFFFFFFu, largest);
  if (threadIdx.x % 32 == 0) atomicMax(&shared.largest, largest);
  team.barrier();
  largest = shared.largest;
  if (!team.is_alone()) {
    if (threadIdx.x < 32) {
      const uint32_t of_row = __reduce_max_sync(0xFFFFFFFFu, team.of_lane(&shared.largest));
      if (threadIdx.x == 0) shared.largest_of_row = of_row;
    }
    __syncthreads();
    largest = shared.largest_of_row;
  }
  // Where no score is above zero, no weight asks for it.
  const uint32_t exponent = __float_as_uint(keys.format.value_of(largest)) >> 23;
  uint2* const low = reinterpret_cast<uint2*>(work);
  const Masses masses = {keys.format, low, low + blockDim.x, exponent != 0 ? exponent : 1};
  uint64_t forced = 0;
  keys.visit_forced([&](uint32_t key) { forced += masses.of(key); });
  forced = scan_warp(forced);
  if (threadIdx.x % 32 == 31) atomicAdd(&shared.forced, forced);
  uint64_t left = 0;
  const auto want = [&](uint64_t mass) {
    const uint64_t first = team.total(&shared.forced);
    const uint64_t all = mass + first;
    const uint64_t part = to_fixed(share, 32, 1, true);
    // The product of 128 bits, in units of 2^32, rounded up.
    const uint64_t low_bits = all * part;
    const uint64_t needed = (__umul64hi(all, part) << 32 | low_bits >> 32) +
                            (static_cast<uint32_t>(low_bits) != 0 ? 1 : 0);
    return needed > first ? needed - first : 0;
  };
  const uint32_t threshold = search(team, keys, masses, want, left, shared);
  if (left == 0) return {keys.format.below_first(), 0};
  const uint64_t weight = masses.of(threshold);
  return {threshold, static_cast<uint32_t>((left + weight - 1) / weight)};
}

// All scores that are `least` or more.
__device__ Cut find_least(const Keys& keys, float least) {
  // Of NaN nothing is more.
  if (!(least == least)) return {keys.format.below_first(), 0};
  return {keys.format.key_before(least), 0};
}

// How many are not in the lowest `percent`: what is cut off of a row's share is picked.
__device__ __forceinline__ uint32_t count_kept(uint32_t length, float percent) {
  const uint64_t hundred = uint64_t{100} << 24;
  // NaN percent leaves all.
  const uint64_t dropped = percent == percent ? to_fixed(percent, 24, 100, false) : 0;
  return static_cast<uint32_t>((length * (hundred - dropped) + hundred - 1) / hundred);
}

}  // namespace

#endif  // LACUNA_SELECT_SEARCH_CUH_
