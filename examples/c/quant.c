// SPDX-License-Identifier: MIT OR Apache-2.0
// New tokens go into a paged cache, those of them that are kept; 64 of them become a page of keys
// with 8 bits and a page of values with 16, relative to what their channels have in common; and
// what the pages stand for is read again. In the SIMT executor; on a GPU the queue is of the
// engine's stream, and nothing else differs.
#include <assert.h>
#include <string.h>

#include "example.h"

enum { NEW = 80, KEPT = LACUNA_PAGE_TOKENS, DIM = 32, PAGE = 16, PAGES = 4 };

static uint16_t bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);  // Towards zero, which is near enough here.
}

static float f32(uint16_t value) {
  const uint32_t bits = (uint32_t)value << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

static float distance(float a, float b) { return a > b ? a - b : b - a; }

int main(void) {
  lacuna_queue *queue = NULL;
  CHECK(lacuna_queue_simt(&queue));

  // One request and head.
  const lacuna_kv_shape kv = {
      .header = LACUNA_HEADER(lacuna_kv_shape),
      .batch = 1,
      .n_heads = 1,
      .row_len = DIM,
      .n_pages = PAGES,
      .page_size = PAGE,
      .table_stride = PAGES,
      .dtype = LACUNA_BF16,
      .order = LACUNA_KV_NHD,
  };
  lacuna_kv_sizes kv_sizes = {.header = LACUNA_HEADER(lacuna_kv_sizes)};
  CHECK(lacuna_kv_shape_sizes(&kv, &kv_sizes));
  uint16_t *keys = zeroed(kv_sizes.keys, sizeof *keys),
           *values = zeroed(kv_sizes.values, sizeof *values);
  const int32_t page_table[PAGES] = {2, 0, 3, 1};
  uint32_t lengths[2] = {0, 0};
  lacuna_kv_mut target = {
      .keys = VIEW_MUT(keys, kv_sizes.keys, LACUNA_BF16),
      .values = VIEW_MUT(values, kv_sizes.values, LACUNA_BF16),
      .page_table = VIEW(page_table, kv_sizes.page_table, LACUNA_I32),
      .lengths = VIEW(&lengths[0], 1, LACUNA_U32),
  };

  // 80 tokens, of which every fifth is left out.
  const lacuna_append_kv_shape append_shape = {
      .header = LACUNA_HEADER(lacuna_append_kv_shape),
      .kv = &kv,
      .n_tokens = NEW,
  };
  lacuna_append_kv_plan *append = NULL;
  CHECK(lacuna_append_kv_plan_new(&append_shape, &append));
  lacuna_append_kv_sizes sizes = {.header = LACUNA_HEADER(lacuna_append_kv_sizes)};
  CHECK(lacuna_append_kv_plan_sizes(append, &sizes));
  uint16_t *new_keys = zeroed(sizes.keys, sizeof *new_keys),
           *new_values = zeroed(sizes.values, sizeof *new_values);
  uint32_t keeps[NEW], dropped = 0;
  for (int t = 0; t < NEW; ++t) {
    keeps[t] = t % 5 != 4;
    for (int c = 0; c < DIM; ++c) {
      new_keys[DIM * t + c] = bf16((float)c + (float)(37 * t * (c + 1) % 101 - 50) / 50);
      new_values[DIM * t + c] = bf16((float)t);
    }
  }
  const lacuna_append_kv_args append_args = {
      .header = LACUNA_HEADER(lacuna_append_kv_args),
      .keys = VIEW(new_keys, sizes.keys, LACUNA_BF16),
      .values = VIEW(new_values, sizes.values, LACUNA_BF16),
      .keeps = VIEW(keeps, sizes.keeps, LACUNA_U32),
      .cache = target,
      .new_lengths = VIEW_MUT(&lengths[1], 1, LACUNA_U32),
      .dropped = VIEW_MUT(&dropped, 1, LACUNA_U32),
  };
  CHECK(lacuna_append_kv(queue, append, &append_args));
  printf("%u of %d tokens are kept, and %u found no room\n", lengths[1], NEW, dropped);
  assert(lengths[1] == KEPT && dropped == 0);

  // A page of each: keys in the pool of 8 bits, values in that of 16.
  const lacuna_pages_shape pages_shape = {
      .header = LACUNA_HEADER(lacuna_pages_shape),
      .kv = &kv,
      .n_pages = 1,
      .n_pool_pages = {[LACUNA_TIER_16] = 1, [LACUNA_TIER_8] = 1},
  };
  lacuna_pages_plan *plan = NULL;
  CHECK(lacuna_pages_plan_new(&pages_shape, &plan));
  lacuna_pages_sizes of_pages = {.header = LACUNA_HEADER(lacuna_pages_sizes)};
  CHECK(lacuna_pages_plan_sizes(plan, &of_pages));
  const lacuna_kv source = {
      .keys = VIEW(keys, kv_sizes.keys, LACUNA_BF16),
      .values = VIEW(values, kv_sizes.values, LACUNA_BF16),
      .page_table = target.page_table,
      .lengths = VIEW(&lengths[1], 1, LACUNA_U32),
  };
  int32_t indices[KEPT];
  for (int i = 0; i < KEPT; ++i) indices[i] = i;
  float *scales = zeroed(of_pages.key_scales, sizeof *scales),
        *offsets = zeroed(of_pages.key_offsets, sizeof *offsets);
  const lacuna_measure_channels_args measure = {
      .header = LACUNA_HEADER(lacuna_measure_channels_args),
      .cache = source,
      .indices = VIEW(indices, of_pages.indices, LACUNA_I32),
      .key_scales = VIEW_MUT(scales, of_pages.key_scales, LACUNA_F32),
      .key_offsets = VIEW_MUT(offsets, of_pages.key_offsets, LACUNA_F32),
  };
  CHECK(lacuna_measure_channels(queue, plan, &measure));
  printf("channel 20 is %.2f, and %.2f around it\n", offsets[20], scales[20]);
  assert(distance(offsets[20], 20) < 0.5F);

  uint32_t key_entry = (uint32_t)LACUNA_TIER_8 << 30 | 0,
           value_entry = (uint32_t)LACUNA_TIER_16 << 30 | 0;
  uint8_t *pools[2] = {zeroed(of_pages.pools[LACUNA_TIER_16], 1),
                       zeroed(of_pages.pools[LACUNA_TIER_8], 1)};
  uint64_t status = 0;
  lacuna_quantize_pages_args quantize = {
      .header = LACUNA_HEADER(lacuna_quantize_pages_args),
      .cache = source,
      .indices = VIEW(indices, of_pages.indices, LACUNA_I32),
      .key_entries = VIEW(&key_entry, of_pages.key_entries, LACUNA_U32),
      .value_entries = VIEW(&value_entry, of_pages.value_entries, LACUNA_U32),
      .key_scales = VIEW(scales, of_pages.key_scales, LACUNA_F32),
      .key_offsets = VIEW(offsets, of_pages.key_offsets, LACUNA_F32),
      .pools = {[LACUNA_TIER_16] = VIEW_MUT(pools[0], of_pages.pools[LACUNA_TIER_16], LACUNA_U8),
                [LACUNA_TIER_8] = VIEW_MUT(pools[1], of_pages.pools[LACUNA_TIER_8], LACUNA_U8)},
      .status = VIEW_MUT(&status, 1, LACUNA_U64),
  };
  CHECK(lacuna_quantize_pages(queue, plan, &quantize));
  CHECK(lacuna_pages_check_status(status, NULL));

  // Into the same rows, of zeros.
  uint16_t *before = zeroed(kv_sizes.keys, sizeof *before);
  memcpy(before, keys, kv_sizes.keys * sizeof *keys);
  memset(keys, 0, kv_sizes.keys * sizeof *keys);
  memset(values, 0, kv_sizes.values * sizeof *values);
  target.lengths = source.lengths;
  const lacuna_dequantize_pages_args dequantize = {
      .header = LACUNA_HEADER(lacuna_dequantize_pages_args),
      .pools = {[LACUNA_TIER_16] = VIEW(pools[0], of_pages.pools[LACUNA_TIER_16], LACUNA_U8),
                [LACUNA_TIER_8] = VIEW(pools[1], of_pages.pools[LACUNA_TIER_8], LACUNA_U8)},
      .indices = quantize.indices,
      .key_entries = quantize.key_entries,
      .value_entries = quantize.value_entries,
      .key_scales = quantize.key_scales,
      .key_offsets = quantize.key_offsets,
      .cache = target,
  };
  CHECK(lacuna_dequantize_pages(queue, plan, &dequantize));
  float worst = 0;
  for (uint64_t i = 0; i < kv_sizes.keys; ++i) {
    const float apart = distance(f32(keys[i]), f32(before[i]));
    if (apart > worst) worst = apart;
  }
  printf("keys of 8 bits are off by %.3f at most\n", worst);
  // Half a unit in the last place of bf16 near 32, and a step of a 255th.
  assert(worst > 0 && worst < 0.15F);
  for (int i = 0; i < KEPT; ++i) {
    const int row = (page_table[i / PAGE] * PAGE + i % PAGE) * DIM;
    assert(values[row] == bf16((float)(i / 4 * 5 + i % 4)));
  }

  // A page that its pool does not have is passed over, and said.
  key_entry += 1;
  CHECK(lacuna_quantize_pages(queue, plan, &quantize));
  const lacuna_status found = lacuna_pages_check_status(status, NULL);
  printf("%s: %s\n", lacuna_status_name(found), lacuna_error_message());
  assert(found == LACUNA_RANGE);

  // Which queries of a prompt say what matters.
  uint32_t probes[16];
  uint64_t n_probes = 0;
  CHECK(lacuna_choose_probes(7, 1000, 8, 8, probes, 16, &n_probes));
  assert(n_probes == 16 && probes[8] == 992 && probes[15] == 999);

  free(before);
  free(pools[0]);
  free(pools[1]);
  free(scales);
  free(offsets);
  free(new_keys);
  free(new_values);
  free(values);
  free(keys);
  lacuna_pages_plan_free(plan);
  lacuna_append_kv_plan_free(append);
  lacuna_queue_free(queue);
  return 0;
}
