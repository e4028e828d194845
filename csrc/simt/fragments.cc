// SPDX-License-Identifier: MIT OR Apache-2.0
// Tensor cores as warp collectives: from the lanes' fragments to matrices, the model, and back.
#include <string.h>

#include "mma.h"
#include "worker.h"

namespace lacuna_simt {
namespace {

// What one lane brings to a product.
struct Fragments {
  MmaKind kind;
  MmaModel model;
  void* d;
  const uint32_t* a;
  const uint32_t* b;
  bool is_settled;
};

// And to a load.
struct Rows {
  uint32_t* words;
  uint32_t n_words;
  const void* row;
  bool is_transposed;
};

bool is_integer(MmaKind kind) { return kind >= MmaKind::kS8; }

uint32_t bits_of(MmaKind kind) { return kind == MmaKind::kBf16 || kind == MmaKind::kF16 ? 16 : 8; }

// Element `k` of the words of one row, which four lanes hold: `n` to a word, in two halves.
uint32_t element(const uint32_t* low, const uint32_t* high, uint32_t k, uint32_t n_bits) {
  const uint32_t n = 32 / n_bits;
  const uint32_t word = k < 4 * n ? low[k / n] : high[k / n - 4];
  return word >> (k % n * n_bits) & ((uint64_t{1} << n_bits) - 1);
}

void multiply_row(const Fragments* const* lanes, uint32_t row, uint32_t column, bool* is_settled) {
  const Fragments& first = *lanes[0];
  const uint32_t n_bits = bits_of(first.kind);
  const uint32_t n_products = 256 / n_bits;
  uint32_t a[2][4];
  uint32_t b[2][4];
  for (uint32_t pair = 0; pair < 4; ++pair) {
    const Fragments& of_row = *lanes[row % 8 * 4 + pair];
    const Fragments& of_column = *lanes[column * 4 + pair];
    for (uint32_t half = 0; half < 2; ++half) {
      a[half][pair] = of_row.a[half * 2 + row / 8];
      b[half][pair] = of_column.b[half];
    }
  }
  uint16_t x[32];
  uint16_t y[32];
  for (uint32_t k = 0; k < n_products; ++k) {
    x[k] = static_cast<uint16_t>(element(a[0], a[1], k, n_bits));
    y[k] = static_cast<uint16_t>(element(b[0], b[1], k, n_bits));
  }
  const Fragments& owner = *lanes[row % 8 * 4 + column / 2];
  uint32_t* d = static_cast<uint32_t*>(owner.d) + row / 8 * 2 + column % 2;
  if (!is_integer(first.kind)) {
    const MmaAnswer answer =
        dot_add(first.model, static_cast<Operand>(first.kind), x, y, n_products, *d);
    *d = answer.bits;
    *is_settled &= answer.is_settled;
    return;
  }
  uint32_t sum = *d;
  for (uint32_t k = 0; k < n_products; ++k) {
    const int32_t one = first.kind == MmaKind::kS8 ? static_cast<int8_t>(x[k]) : x[k];
    const int32_t other = first.kind == MmaKind::kU8 ? y[k] : static_cast<int8_t>(y[k]);
    sum += static_cast<uint32_t>(one * other);
  }
  *d = sum;
}

void multiply_all(void* const* values) {
  Fragments* lanes[kWarpSize];
  for (uint32_t lane = 0; lane < kWarpSize; ++lane)
    lanes[lane] = static_cast<Fragments*>(values[lane]);
  bool is_settled = true;
  for (uint32_t row = 0; row < 16; ++row) {
    for (uint32_t column = 0; column < 8; ++column) multiply_row(lanes, row, column, &is_settled);
  }
  for (Fragments* lane : lanes) lane->is_settled = is_settled;
}

void load_all(void* const* values) {
  const auto rows = [&](uint32_t lane) { return static_cast<const Rows*>(values[lane]); };
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    const Rows& own = *rows(lane);
    const uint32_t group = lane / 4;
    const uint32_t pair = lane % 4;
    for (uint32_t i = 0; i < own.n_words; ++i) {
      uint16_t halves[2];
      for (uint32_t j = 0; j < 2; ++j) {
        const uint32_t row = own.is_transposed ? pair * 2 + j : group;
        const uint32_t column = own.is_transposed ? group : pair * 2 + j;
        const uint8_t* start = static_cast<const uint8_t*>(rows(i * 8 + row)->row);
        memcpy(&halves[j], start + column * 2, 2);
      }
      own.words[i] = uint32_t{halves[1]} << 16 | halves[0];
    }
  }
}

}  // namespace

void multiply(MmaKind kind, void* d, const uint32_t* a, const uint32_t* b, const char* file,
              uint32_t line) {
  Worker* w = worker;
  const MmaModel model = w->launch->mma_model == 0 ? kAmpere : kHopper;
  Fragments own = {kind, model, d, a, b, true};
  collect_jointly(multiply_all, static_cast<uint32_t>(kind), &own, file, line);
  if (own.is_settled || (w->launch->checks & kSettled) == 0) return;
  set_fault(w, kUnsettled, *w->running, file, line,
            "a product whose result no hardware has answered for: below 2^-126, or of fp8 and an "
            "accumulator");
  abandon(w);
}

void load_matrices(uint32_t* words, uint32_t n_words, const void* row, bool is_transposed,
                   const char* file, uint32_t line) {
  Worker* w = worker;
  const uint64_t pc = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  if (w->checker != nullptr && w->running->idx % kWarpSize < n_words * 8) {
    const uint64_t address = reinterpret_cast<uint64_t>(row);
    if (!w->is_shared(address)) {
      w->checker->fail(kOutOfBounds, pc, "a matrix row that is not in shared memory of the block");
    }
    w->checker->access(address, 16, AccessKind::kRead, true, pc);
  }
  Rows own = {words, n_words, row, is_transposed};
  const uint32_t what = 16 + n_words * 2 + is_transposed;
  collect_jointly(load_all, what, &own, file, line);
}

}  // namespace lacuna_simt
