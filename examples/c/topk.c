// SPDX-License-Identifier: MIT OR Apache-2.0
// The largest scores of each row, and what a wrong call is told. In the SIMT executor; on a GPU the queue is of the engine's stream, and nothing
// else differs: cuda_runtime.c.
#include "example.h"

#include <assert.h>
#include <string.h>

int main(void) {
  printf("lacuna %s, of the header %s\n", lacuna_version(), LACUNA_VERSION);
  assert(strcmp(lacuna_version(), LACUNA_VERSION) == 0);
  assert(lacuna_abi_version() == LACUNA_ABI_VERSION);

  lacuna_queue *queue = NULL;
  CHECK(lacuna_queue_simt(&queue));

  // Two rows of six scores; the first token is a sink that is always picked.
  const float scores[2 * 6] = {0, 5, 1, 4, 2, 3, 0, -1, -2, 7, 7, 7};
  const lacuna_topk_rows_shape shape = {
      .header = LACUNA_HEADER(lacuna_topk_rows_shape),
      .n_rows = 2,
      .n = 6,
      .k = 3,
      .n_first = 1,
      .dtype = LACUNA_F32,
      .rule = LACUNA_RULE_LARGEST,
      .order = LACUNA_ORDER_INDEX,
  };
  lacuna_topk_rows_plan *plan = NULL;
  CHECK(lacuna_topk_rows_plan_new(&shape, &plan));
  lacuna_topk_rows_sizes sizes = {.header = LACUNA_HEADER(lacuna_topk_rows_sizes)};
  CHECK(lacuna_topk_rows_plan_sizes(plan, &sizes));

  int32_t *indices = zeroed(sizes.indices, sizeof *indices);
  uint32_t *counts = zeroed(sizes.counts, sizeof *counts);
  lacuna_topk_rows_args args = {
      .header = LACUNA_HEADER(lacuna_topk_rows_args),
      .scores = VIEW(scores, sizes.scores, LACUNA_F32),
      .indices = VIEW_MUT(indices, sizes.indices, LACUNA_I32),
      .counts = VIEW_MUT(counts, sizes.counts, LACUNA_U32),
  };
  CHECK(lacuna_topk_rows(queue, plan, &args));
  for (int row = 0; row < 2; ++row) {
    const int32_t *picks = indices + 3 * row;
    printf("row %d: %u picks: %d %d %d\n", row, counts[row], picks[0], picks[1], picks[2]);
  }
  const int32_t expected[] = {0, 1, 3, 0, 3, 4};
  assert(memcmp(indices, expected, sizeof expected) == 0);
  assert(counts[0] == 3 && counts[1] == 3);

  // Nothing is launched by a call that is wrong, and it says why.
  args.indices.len -= 1;
  lacuna_status status = lacuna_topk_rows(queue, plan, &args);
  printf("%s: %s\n", lacuna_status_name(status), lacuna_error_message());
  assert(status == LACUNA_SHAPE);
  args.indices.len += 1;
  args.scores.dtype = LACUNA_BF16;
  status = lacuna_topk_rows(queue, plan, &args);
  printf("%s: %s\n", lacuna_status_name(status), lacuna_error_message());
  assert(status == LACUNA_DTYPE);
  status = lacuna_topk_rows(NULL, plan, &args);
  printf("%s: %s\n", lacuna_status_name(status), lacuna_error_message());
  assert(status == LACUNA_NULL);

  free(counts);
  free(indices);
  lacuna_topk_rows_plan_free(plan);
  lacuna_queue_free(queue);
  return 0;
}
