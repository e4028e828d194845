// SPDX-License-Identifier: MIT OR Apache-2.0
// One step of decoding with a small paged cache: picks the tokens whose keys score best, and
// attends to the first ones, the picked ones and the last ones in one launch. In the SIMT executor;
// on a GPU the queue is of the engine's stream, and nothing else differs: cuda_runtime.c.
#include <assert.h>
#include <math.h>
#include <string.h>

#include "example.h"

enum {
  N_HEADS = 2,    // of keys and values
  N_Q_HEADS = 4,  // two for each
  HEAD_DIM = 32,
  PAGE_SIZE = 4,
  N_TOKENS = 30,  // of the one request, in 8 pages
  TABLE_STRIDE = 8,
  N_PAGES = 10,
  N_SINKS = 2,
  N_PICKED = 3,
  N_LAST = 4,
};

// bf16 of a number that has no more bits.
static uint16_t bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  assert((bits & 0xFFFF) == 0);
  return (uint16_t)(bits >> 16);
}

// Small numbers that bf16 has, -1 to 1 in steps of 1/8.
static float number(unsigned a, unsigned b, unsigned c) {
  unsigned mixed = (a * 2654435761u) ^ (b * 2246822519u) ^ (c * 3266489917u);
  mixed ^= mixed >> 15;
  mixed *= 2246822519u;
  mixed ^= mixed >> 13;
  return (float)(int)(mixed % 17) / 8 - 1;
}

static float query(unsigned head, unsigned d) { return number(1, head, d); }
static float key(unsigned token, unsigned head, unsigned d) { return number(2 + token, head, d); }
static float value(unsigned token, unsigned head, unsigned d) {
  return number(99 + token, head, d);
}

static float dot(unsigned q_head, unsigned token) {
  float sum = 0;
  for (unsigned d = 0; d < HEAD_DIM; ++d) sum += query(q_head, d) * key(token, q_head / 2, d);
  return sum;
}

int main(void) {
  lacuna_queue *queue = NULL;
  CHECK(lacuna_queue_simt(&queue));

  // The cache: pages of [n_heads, page_size, head_dim], the request's in an order of their own.
  const lacuna_kv_shape cache_shape = {
      .header = LACUNA_HEADER(lacuna_kv_shape),
      .batch = 1,
      .n_heads = N_HEADS,
      .row_len = HEAD_DIM,
      .n_pages = N_PAGES,
      .page_size = PAGE_SIZE,
      .table_stride = TABLE_STRIDE,
      .dtype = LACUNA_BF16,
      .order = LACUNA_KV_HND,
  };
  lacuna_kv_sizes of_cache = {.header = LACUNA_HEADER(lacuna_kv_sizes)};
  CHECK(lacuna_kv_shape_sizes(&cache_shape, &of_cache));
  const int32_t page_table[TABLE_STRIDE] = {7, 2, 9, 0, 4, 1, 8, 3};
  const uint32_t lengths[1] = {N_TOKENS};
  uint16_t *keys = zeroed(of_cache.keys, sizeof *keys);
  uint16_t *values = zeroed(of_cache.values, sizeof *values);
  for (unsigned t = 0; t < N_TOKENS; ++t) {
    for (unsigned head = 0; head < N_HEADS; ++head) {
      const unsigned page = (unsigned)page_table[t / PAGE_SIZE];
      const unsigned row = (page * N_HEADS + head) * PAGE_SIZE + t % PAGE_SIZE;
      for (unsigned d = 0; d < HEAD_DIM; ++d) {
        keys[row * HEAD_DIM + d] = bf16(key(t, head, d));
        values[row * HEAD_DIM + d] = bf16(value(t, head, d));
      }
    }
  }
  const lacuna_kv cache = {
      .keys = VIEW(keys, of_cache.keys, LACUNA_BF16),
      .values = VIEW(values, of_cache.values, LACUNA_BF16),
      .page_table = VIEW(page_table, of_cache.page_table, LACUNA_I32),
      .lengths = VIEW(lengths, of_cache.lengths, LACUNA_U32),
  };

  // A score of every token for each head of keys: the best of its queries'. First and last tokens
  // are attended to anyway, and score nothing.
  float scores[N_HEADS * N_TOKENS];
  for (unsigned head = 0; head < N_HEADS; ++head) {
    for (unsigned t = 0; t < N_TOKENS; ++t) {
      const int is_candidate = t >= N_SINKS && t < N_TOKENS - N_LAST;
      const float best = fmaxf(dot(2 * head, t), dot(2 * head + 1, t));
      scores[head * N_TOKENS + t] = is_candidate ? best : -INFINITY;
    }
  }
  const lacuna_topk_rows_shape topk_shape = {
      .header = LACUNA_HEADER(lacuna_topk_rows_shape),
      .n_rows = N_HEADS,
      .n = N_TOKENS,
      .k = N_PICKED,
      .dtype = LACUNA_F32,
  };
  lacuna_topk_rows_plan *topk = NULL;
  CHECK(lacuna_topk_rows_plan_new(&topk_shape, &topk));
  int32_t picked[N_HEADS * N_PICKED];
  uint32_t counts[N_HEADS];
  const lacuna_topk_rows_args topk_args = {
      .header = LACUNA_HEADER(lacuna_topk_rows_args),
      .scores = VIEW(scores, N_HEADS * N_TOKENS, LACUNA_F32),
      .indices = VIEW_MUT(picked, N_HEADS * N_PICKED, LACUNA_I32),
      .counts = VIEW_MUT(counts, N_HEADS, LACUNA_U32),
  };
  CHECK(lacuna_topk_rows(queue, topk, &topk_args));

  // Sinks, what was picked for each head, and the window of the newest tokens without the sinks.
  const lacuna_segment_shape segment_shapes[3] = {
      {
          .header = LACUNA_HEADER(lacuna_segment_shape),
          .cache = &cache_shape,
          .tokens = LACUNA_TOKENS_RANGE,
          .end = N_SINKS,
          .last = UINT64_MAX,
      },
      {
          .header = LACUNA_HEADER(lacuna_segment_shape),
          .cache = &cache_shape,
          .tokens = LACUNA_TOKENS_BLOCKS,
          .n_blocks = N_PICKED,
      },
      {
          .header = LACUNA_HEADER(lacuna_segment_shape),
          .cache = &cache_shape,
          .tokens = LACUNA_TOKENS_RANGE,
          .first = N_SINKS,
          .end = UINT64_MAX,
          .last = N_LAST,
      },
  };
  const lacuna_attend_shape attend_shape = {
      .header = LACUNA_HEADER(lacuna_attend_shape),
      .segments = segment_shapes,
      .n_segments = 3,
      .n_q_heads = N_Q_HEADS,
      .output_dtype = LACUNA_F32,
  };
  lacuna_attend_plan *plan = NULL;
  CHECK(lacuna_attend_plan_new(&attend_shape, &plan));
  lacuna_attend_sizes sizes = {.header = LACUNA_HEADER(lacuna_attend_sizes)};
  CHECK(lacuna_attend_plan_sizes(plan, &sizes));
  uint16_t *queries = zeroed(sizes.queries, sizeof *queries);
  for (unsigned head = 0; head < N_Q_HEADS; ++head) {
    for (unsigned d = 0; d < HEAD_DIM; ++d) queries[head * HEAD_DIM + d] = bf16(query(head, d));
  }
  float *outputs = zeroed(sizes.outputs, sizeof *outputs);
  float *log_sums = zeroed(sizes.log_sums, sizeof *log_sums);
  uint32_t *workspace = zeroed(sizes.workspace, sizeof *workspace);
  const lacuna_segment segments[3] = {
      {.header = LACUNA_HEADER(lacuna_segment), .cache = cache},
      {
          .header = LACUNA_HEADER(lacuna_segment),
          .cache = cache,
          .indices = VIEW(picked, N_HEADS * N_PICKED, LACUNA_I32),
          .counts = VIEW(counts, N_HEADS, LACUNA_U32),
      },
      {.header = LACUNA_HEADER(lacuna_segment), .cache = cache},
  };
  lacuna_attend_args args = {
      .header = LACUNA_HEADER(lacuna_attend_args),
      .queries = VIEW(queries, sizes.queries, LACUNA_BF16),
      .segments = segments,
      .n_segments = 3,
      .outputs = VIEW_MUT(outputs, sizes.outputs, LACUNA_F32),
      .log_sums = VIEW_MUT(log_sums, sizes.log_sums, LACUNA_F32),
      .workspace = VIEW_MUT(workspace, sizes.workspace, LACUNA_U32),
  };
  CHECK(lacuna_attend(queue, plan, &args));

  // The same in f64, for one head after the other.
  double worst = 0;
  for (unsigned head = 0; head < N_Q_HEADS; ++head) {
    const int32_t *picks = picked + head / 2 * N_PICKED;
    printf("head %u: tokens 0 1, %d %d %d, 26 27 28 29, log-sum %.4f\n", head, picks[0], picks[1],
           picks[2], log_sums[head]);
    double sum = 0, expected[HEAD_DIM] = {0};
    for (unsigned i = 0; i < N_SINKS + N_PICKED + N_LAST; ++i) {
      const unsigned t = i < N_SINKS              ? i
                         : i < N_SINKS + N_PICKED ? (unsigned)picks[i - N_SINKS]
                                                  : N_TOKENS - N_LAST + (i - N_SINKS - N_PICKED);
      assert(t < N_TOKENS);
      const double weight = exp(dot(head, t) / sqrt(HEAD_DIM));
      sum += weight;
      for (unsigned d = 0; d < HEAD_DIM; ++d) expected[d] += weight * value(t, head / 2, d);
    }
    assert(fabs(log(sum) - log_sums[head]) < 1e-5);
    for (unsigned d = 0; d < HEAD_DIM; ++d) {
      worst = fmax(worst, fabs(expected[d] / sum - outputs[head * HEAD_DIM + d]));
    }
  }
  printf("off by %.5f at most: weights are rounded to bf16\n", worst);
  assert(worst < 0.005);

  // What differs from the plan is refused, and nothing is launched.
  args.n_segments = 2;
  const lacuna_status status = lacuna_attend(queue, plan, &args);
  printf("%s: %s\n", lacuna_status_name(status), lacuna_error_message());
  assert(status == LACUNA_SHAPE);

  free(workspace);
  free(log_sums);
  free(outputs);
  free(queries);
  free(values);
  free(keys);
  lacuna_attend_plan_free(plan);
  lacuna_topk_rows_plan_free(topk);
  lacuna_queue_free(queue);
  return 0;
}
