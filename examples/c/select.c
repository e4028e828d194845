// SPDX-License-Identifier: MIT OR Apache-2.0
// A query picks what it reads of a paged cache: first pages by the boxes around their keys, then
// tokens by their own keys; and the rows of those tokens are gathered. In the SIMT executor; on a
// GPU the queue is of the engine's stream, and nothing else differs.
#include <assert.h>
#include <string.h>

#include "example.h"

enum { TOKENS = 8, DIM = 8, PAGE = 2, PAGES = 4 };

static uint16_t bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)(bits >> 16);  // Exact for what is used here.
}

// The first `k` of one row of `n` scores.
static void pick(lacuna_queue *queue, const float *scores, uint64_t n, uint64_t k,
                 int32_t *indices) {
  const lacuna_topk_rows_shape shape = {
      .header = LACUNA_HEADER(lacuna_topk_rows_shape),
      .n_rows = 1,
      .n = n,
      .k = k,
      .dtype = LACUNA_F32,
  };
  lacuna_topk_rows_plan *plan = NULL;
  CHECK(lacuna_topk_rows_plan_new(&shape, &plan));
  uint32_t count = 0;
  const lacuna_topk_rows_args args = {
      .header = LACUNA_HEADER(lacuna_topk_rows_args),
      .scores = VIEW(scores, n, LACUNA_F32),
      .indices = VIEW_MUT(indices, k, LACUNA_I32),
      .counts = VIEW_MUT(&count, 1, LACUNA_U32),
  };
  CHECK(lacuna_topk_rows(queue, plan, &args));
  assert(count == k);
  lacuna_topk_rows_plan_free(plan);
}

// One query head's scores of the rows of a cache: keys, or boxes around them.
static void score(lacuna_queue *queue, const lacuna_kv_shape *kv, lacuna_kv cache, uint32_t kind,
                  const float *query, float *scores) {
  const lacuna_score_rows_shape shape = {
      .header = LACUNA_HEADER(lacuna_score_rows_shape),
      .kv = kv,
      .n_q_heads = 1,
      .kind = kind,
      .query_dtype = LACUNA_F32,
      .score_dtype = LACUNA_F32,
  };
  lacuna_score_rows_plan *plan = NULL;
  CHECK(lacuna_score_rows_plan_new(&shape, &plan));
  lacuna_score_rows_sizes sizes = {.header = LACUNA_HEADER(lacuna_score_rows_sizes)};
  CHECK(lacuna_score_rows_plan_sizes(plan, &sizes));
  const lacuna_score_rows_args args = {
      .header = LACUNA_HEADER(lacuna_score_rows_args),
      .queries = VIEW(query, sizes.queries, LACUNA_F32),
      .cache = cache,
      .scores = VIEW_MUT(scores, sizes.scores, LACUNA_F32),
  };
  CHECK(lacuna_score_rows(queue, plan, &args));
  lacuna_score_rows_plan_free(plan);
}

int main(void) {
  lacuna_queue *queue = NULL;
  CHECK(lacuna_queue_simt(&queue));

  // One request and head: token t's key is 1 in channel t, its value t in all; pages lie in the
  // pool in the reverse order.
  const lacuna_kv_shape kv = {
      .header = LACUNA_HEADER(lacuna_kv_shape),
      .batch = 1,
      .n_heads = 1,
      .row_len = DIM,
      .n_pages = PAGES,
      .page_size = PAGE,
      .table_stride = PAGES,
      .dtype = LACUNA_BF16,
      .order = LACUNA_KV_HND,
  };
  lacuna_kv_sizes kv_sizes = {.header = LACUNA_HEADER(lacuna_kv_sizes)};
  CHECK(lacuna_kv_shape_sizes(&kv, &kv_sizes));
  uint16_t *keys = zeroed(kv_sizes.keys, sizeof *keys),
           *values = zeroed(kv_sizes.values, sizeof *values);
  const int32_t page_table[PAGES] = {3, 2, 1, 0};
  const uint32_t length = TOKENS;
  for (int t = 0; t < TOKENS; ++t) {
    const int row = (page_table[t / PAGE] * PAGE + t % PAGE) * DIM;
    keys[row + t] = bf16(1);
    for (int c = 0; c < DIM; ++c) values[row + c] = bf16((float)t);
  }
  const lacuna_kv cache = {
      .keys = VIEW(keys, kv_sizes.keys, LACUNA_BF16),
      .values = VIEW(values, kv_sizes.values, LACUNA_BF16),
      .page_table = VIEW(page_table, kv_sizes.page_table, LACUNA_I32),
      .lengths = VIEW(&length, kv_sizes.lengths, LACUNA_U32),
  };

  // Boxes around the keys of a page each, which live and die with the pages: rows of a cache
  // themselves.
  lacuna_kv_shape of_boxes = kv;
  of_boxes.row_len = 2 * DIM;
  of_boxes.page_size = 1;
  of_boxes.tokens_per_row = PAGE;
  const lacuna_summarize_shape summaries = {
      .header = LACUNA_HEADER(lacuna_summarize_shape),
      .keys = &kv,
      .summaries = &of_boxes,
      .max_new = TOKENS,
      .summary = LACUNA_SUMMARY_BOX,
  };
  lacuna_summarize_plan *plan = NULL;
  CHECK(lacuna_summarize_plan_new(&summaries, &plan));
  lacuna_summarize_sizes sizes = {.header = LACUNA_HEADER(lacuna_summarize_sizes)};
  CHECK(lacuna_summarize_plan_sizes(plan, &sizes));
  uint16_t *boxes = zeroed(sizes.rows, sizeof *boxes);
  const lacuna_summarize_args args = {
      .header = LACUNA_HEADER(lacuna_summarize_args),
      .keys = cache,
      .summary_table = VIEW(page_table, sizes.summary_table, LACUNA_I32),
      .rows = VIEW_MUT(boxes, sizes.rows, LACUNA_BF16),
  };
  CHECK(lacuna_summarize(queue, plan, &args));
  lacuna_summarize_plan_free(plan);

  // What a query could score with anything in each box, and the two pages that could score most.
  const float query[DIM] = {0, 3, 0, 0, 0, 2, 0, 1};
  float page_scores[PAGES];
  lacuna_kv box_cache = cache;
  box_cache.keys = VIEW(boxes, sizes.rows, LACUNA_BF16);
  box_cache.values = (lacuna_view){0};
  score(queue, &of_boxes, box_cache, LACUNA_SCORE_BOX, query, page_scores);
  int32_t pages[2];
  pick(queue, page_scores, PAGES, 2, pages);
  printf("pages %d and %d, of at most %g and %g\n", pages[0], pages[1], page_scores[pages[0]],
         page_scores[pages[1]]);
  assert(pages[0] == 0 && pages[1] == 2 && page_scores[0] == 3 && page_scores[2] == 2);

  // All keys' scores, and the three tokens of the largest.
  float scores[TOKENS];
  score(queue, &kv, cache, LACUNA_SCORE_DOT, query, scores);
  assert(memcmp(scores, query, sizeof query) == 0);
  int32_t tokens[3];
  pick(queue, scores, TOKENS, 3, tokens);
  printf("tokens %d, %d and %d\n", tokens[0], tokens[1], tokens[2]);
  assert(tokens[0] == 1 && tokens[1] == 5 && tokens[2] == 7);

  // Their keys and values.
  const lacuna_kv_rows_shape of_rows = {
      .header = LACUNA_HEADER(lacuna_kv_rows_shape),
      .kv = &kv,
      .n_indices = 3,
      .lists = LACUNA_KV_PER_HEAD,
  };
  lacuna_kv_rows_plan *rows = NULL;
  CHECK(lacuna_kv_rows_plan_new(&of_rows, &rows));
  uint16_t *gathered[2] = {zeroed(3 * DIM, 2), zeroed(3 * DIM, 2)};
  lacuna_gather_kv_args gather = {
      .header = LACUNA_HEADER(lacuna_gather_kv_args),
      .cache = cache,
      .indices = VIEW(tokens, 3, LACUNA_I32),
      .keys = VIEW_MUT(gathered[0], 3 * DIM, LACUNA_BF16),
      .values = VIEW_MUT(gathered[1], 3 * DIM, LACUNA_BF16),
  };
  CHECK(lacuna_gather_kv(queue, rows, &gather));
  for (int i = 0; i < 3; ++i) {
    assert(gathered[0][DIM * i + tokens[i]] == bf16(1));
    assert(gathered[1][DIM * i] == bf16((float)tokens[i]));
  }

  // A number that is none of an enum's is refused.
  gather.absent = 7;
  const lacuna_status status = lacuna_gather_kv(queue, rows, &gather);
  printf("%s: %s\n", lacuna_status_name(status), lacuna_error_message());
  assert(status == LACUNA_RANGE);

  lacuna_kv_rows_plan_free(rows);
  free(gathered[0]);
  free(gathered[1]);
  free(boxes);
  free(values);
  free(keys);
  lacuna_queue_free(queue);
  return 0;
}
