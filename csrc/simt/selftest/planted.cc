// SPDX-License-Identifier: MIT OR Apache-2.0
// The planted defects: for each, what it must be reported as, and the launch that shows it.
#include <stddef.h>
#include <stdint.h>

// name, FaultKind, blocks, threads, output words, dynamic shared bytes
#define LACUNA_PLANTED(X)                                     \
  X(scan_after_sums, Race, 1, 256, 256, 0)                    \
  X(scan_before_reuse, Race, 1, 256, 256, 0)                  \
  X(scan_after_values, Race, 1, 256, 256, 0)                  \
  X(divergent_barrier, BarrierDivergence, 1, 64, 64, 0)       \
  X(barrier_in_branch, BarrierDivergence, 1, 64, 64, 0)       \
  X(counted_barrier_in_loop, BarrierDivergence, 1, 64, 64, 0) \
  X(two_barriers, BarrierDivergence, 1, 64, 64, 0)            \
  X(barrier_and_warp_deadlock, Deadlock, 1, 64, 64, 0)        \
  X(double_buffer, Race, 1, 256, 256, 0)                      \
  X(same_value_by_all, Race, 1, 256, 256, 0)                  \
  X(one_schedule_in_thousands, Race, 1, 256, 256, 0)          \
  X(missing_syncwarp, Race, 1, 32, 32, 0)                     \
  X(syncwarp_of_halves, Race, 1, 32, 32, 0)                   \
  X(missing_syncwarp_before_reuse, Race, 1, 32, 32, 0)        \
  X(shuffle_for_syncwarp, Race, 1, 32, 32, 0)                 \
  X(syncwarp_for_barrier, Race, 1, 64, 64, 0)                 \
  X(mask_too_wide, WarpMask, 1, 32, 32, 0)                    \
  X(mask_too_narrow, WarpMask, 1, 32, 32, 0)                  \
  X(masks_that_differ, WarpMask, 1, 32, 32, 0)                \
  X(lane_that_left, WarpMask, 1, 32, 32, 0)                   \
  X(source_outside_mask, WarpMask, 1, 32, 32, 0)              \
  X(shuffle_width, WarpMask, 1, 32, 32, 0)                    \
  X(two_shuffles, WarpMask, 1, 32, 32, 0)                     \
  X(endless_loop, StepBudget, 1, 32, 32, 0)                   \
  X(flag_that_none_sets, StepBudget, 1, 64, 64, 0)            \
  X(too_much_local, Resources, 1, 32, 32, 0)                  \
  X(too_many_threads, Resources, 1, 64, 64, 0)                \
  X(shared_and_dynamic, SharedMemory, 1, 32, 32, 224 * 1024)  \
  X(too_much_shared, SharedMemory, 1, 32, 32, 0)              \
  X(global_past_by_one, OutOfBounds, 1, 32, 32, 0)            \
  X(global_before, OutOfBounds, 1, 32, 32, 0)                 \
  X(global_past_by_2_to_32, OutOfBounds, 1, 32, 32, 0)        \
  X(global_null, OutOfBounds, 1, 32, 32, 0)                   \
  X(global_end_of_memory, OutOfBounds, 1, 32, 32, 0)          \
  X(past_end_in_a_template, OutOfBounds, 1, 32, 32, 0)        \
  X(vector_past_end, OutOfBounds, 1, 32, 32, 0)               \
  X(wild_index, OutOfBounds, 1, 32, 32, 0)                    \
  X(host_constant, OutOfBounds, 1, 32, 32, 0)                 \
  X(constant_past_end, OutOfBounds, 1, 32, 32, 0)             \
  X(past_the_parameters, OutOfBounds, 1, 32, 32, 0)           \
  X(atomic_outside, OutOfBounds, 1, 32, 32, 0)                \
  X(write_to_input, WriteToInput, 1, 32, 32, 0)               \
  X(shared_past_by_one, OutOfBounds, 1, 32, 32, 64)           \
  X(shared_object_into_next, OutOfBounds, 1, 32, 32, 0)       \
  X(shared_array_into_next, OutOfBounds, 1, 32, 32, 0)        \
  X(local_array_past_end, OutOfBounds, 1, 32, 32, 0)          \
  X(local_array_overrun, OutOfBounds, 1, 32, 32, 0)           \
  X(local_array_far_overrun, OutOfBounds, 1, 32, 32, 0)       \
  X(copy_past_4_gib, OutOfBounds, 1, 32, 32, 0)               \
  X(misaligned_float4, Misaligned, 1, 32, 32, 0)              \
  X(misaligned_shared_pair, Misaligned, 1, 32, 32, 0)         \
  X(misaligned_struct, Misaligned, 1, 32, 32, 0)              \
  X(misaligned_local, Misaligned, 1, 32, 32, 0)               \
  X(shared_read_before_write, UnwrittenRead, 1, 32, 32, 0)    \
  X(shared_tail_unwritten, UnwrittenRead, 1, 32, 32, 0)       \
  X(output_read_before_write, UnwrittenRead, 1, 32, 32, 0)    \
  X(workspace_not_cleared, UnwrittenRead, 1, 32, 32, 0)       \
  X(atomic_on_unwritten, UnwrittenRead, 1, 32, 32, 0)         \
  X(output_tail_unwritten, UnwrittenOutput, 1, 32, 32, 0)     \
  X(output_half_unwritten, UnwrittenOutput, 1, 32, 32, 0)     \
  X(shift_by_width, Undefined, 1, 32, 32, 0)                  \
  X(division_by_zero, Undefined, 1, 32, 32, 0)                \
  X(float_past_int, Undefined, 1, 32, 32, 0)                  \
  X(signed_overflow, Undefined, 1, 32, 32, 0)                 \
  X(bank_conflict, BankConflict, 1, 32, 32, 32 * 33 * 4)      \
  X(strided_global, Sectors, 1, 32, 32, 0)                    \
  X(release_missing, Race, 4, 64, 64, 0)                      \
  X(acquire_missing, Race, 4, 64, 64, 0)                      \
  X(release_late, Race, 4, 64, 64, 0)                         \
  X(fences_of_strangers, Race, 4, 64, 64, 0)                  \
  X(fence_of_block, Race, 4, 64, 64, 0)                       \
  X(two_blocks_one_word, Race, 2, 32, 64, 0)                  \
  X(blocks_that_overlap, Race, 4, 64, 128, 0)                 \
  X(neighbour_of_another_block, Race, 2, 32, 64, 0)           \
  X(lost_update, Race, 2, 32, 64, 0)                          \
  X(atomic_and_plain, Race, 2, 32, 64, 0)                     \
  X(bytes_of_one_word, Race, 2, 32, 64, 0)                    \
  X(copy_without_wait, AsyncCopy, 1, 32, 32, 0)               \
  X(copy_without_commit, AsyncCopy, 1, 32, 32, 0)             \
  X(wait_for_too_few, AsyncCopy, 1, 32, 32, 0)                \
  X(copy_without_barrier, Race, 1, 32, 32, 0)                 \
  X(write_under_copy, AsyncCopy, 1, 32, 32, 0)                \
  X(source_written_under_copy, AsyncCopy, 1, 32, 32, 0)       \
  X(source_written_by_another, AsyncCopy, 1, 32, 32, 0)       \
  X(source_written_after_wait, Race, 1, 32, 32, 0)            \
  X(source_written_under_bulk, AsyncCopy, 1, 32, 32, 0)       \
  X(copy_from_shared, OutOfBounds, 1, 32, 32, 0)              \
  X(bulk_from_local, OutOfBounds, 1, 32, 32, 0)               \
  X(copy_past_end, OutOfBounds, 1, 32, 32, 0)                 \
  X(misaligned_copy, Misaligned, 1, 32, 32, 0)                \
  X(copy_left_behind, AsyncCopy, 1, 32, 32, 0)                \
  X(bulk_left_behind, AsyncCopy, 1, 32, 32, 0)                \
  X(barrier_in_global, OutOfBounds, 1, 32, 32, 0)             \
  X(bulk_without_wait, AsyncCopy, 1, 32, 32, 0)               \
  X(bulk_wrong_parity, AsyncCopy, 1, 32, 32, 0)               \
  X(bulk_expects_too_much, Deadlock, 1, 32, 32, 0)            \
  X(barrier_used_before_init, Race, 1, 32, 32, 0)             \
  X(arrive_after_write, Race, 1, 32, 32, 0)                   \
  X(product_of_half_a_warp, WarpMask, 1, 32, 32, 0)           \
  X(two_products_at_once, WarpMask, 1, 32, 32, 0)             \
  X(product_below_the_least, Unsettled, 1, 32, 32, 0)         \
  X(misaligned_matrix_row, Misaligned, 1, 32, 32, 0)          \
  X(matrix_row_unwritten, UnwrittenRead, 1, 32, 32, 0)        \
  X(matrix_row_in_global, OutOfBounds, 1, 32, 32, 0)          \
  X(matrix_without_syncwarp, Race, 1, 32, 32, 0)              \
  X(fences_of_both_scopes, Race, 4, 64, 64, 0)                \
  X(volatile_read_beside_read, Race, 1, 32, 32, 0)            \
  X(read_before_own_atomic, Race, 1, 32, 32, 0)               \
  X(read_before_ordered_atomic, Race, 1, 32, 32, 0)           \
  X(read_between_fences, Race, 1, 32, 32, 0)                  \
  X(barrier_counts_too_few, Race, 1, 128, 128, 0)             \
  X(reader_of_a_third_block, Race, 4, 32, 4, 0)               \
  X(shared_flag_of_another_block, Race, 2, 32, 64, 0)         \
  X(exchange_that_fails, Race, 1, 32, 32, 0)                  \
  X(store_over_release, Race, 1, 32, 32, 0)                   \
  X(wait_for_an_earlier_phase, Race, 1, 32, 32, 0)            \
  X(atomics_of_two_sizes, Race, 1, 32, 32, 0)                 \
  X(acquire_by_all_lanes, Race, 4, 32, 32, 0)

// The same, and before the blocks, those of a cluster.
#define LACUNA_PLANTED_CLUSTERS(X)                                  \
  X(neighbour_before_barrier, Race, 2, 4, 64, 256, 0)               \
  X(block_barrier_for_cluster, Race, 2, 4, 64, 256, 0)              \
  X(reuse_before_neighbour_reads, Race, 2, 4, 64, 256, 0)           \
  X(neighbour_has_returned, AbsentBlock, 2, 4, 64, 256, 0)          \
  X(neighbour_not_kept, AbsentBlock, 2, 4, 32, 64, 0)               \
  X(neighbour_not_begun, AbsentBlock, 2, 4, 64, 256, 0)             \
  X(past_end_of_neighbour, OutOfBounds, 2, 4, 64, 256, 64)          \
  X(rank_past_cluster, OutOfBounds, 2, 4, 64, 256, 0)               \
  X(neighbours_global_memory, OutOfBounds, 2, 4, 64, 256, 0)        \
  X(address_of_another_block, OutOfBounds, 2, 4, 64, 256, 0)        \
  X(misaligned_in_neighbour, Misaligned, 2, 4, 32, 128, 0)          \
  X(neighbour_unwritten, UnwrittenRead, 2, 4, 64, 256, 0)           \
  X(cluster_barrier_skipped, BarrierDivergence, 2, 4, 64, 256, 0)   \
  X(cluster_barrier_in_branch, BarrierDivergence, 2, 4, 64, 256, 0) \
  X(two_cluster_barriers, BarrierDivergence, 2, 4, 64, 256, 0)      \
  X(stores_into_a_neighbour, Race, 4, 8, 16, 128, 0)                \
  X(counts_read_too_early, Race, 4, 8, 32, 64, 0)                   \
  X(neighbours_one_word, Race, 2, 4, 32, 128, 0)                    \
  X(global_before_cluster_barrier, Race, 2, 4, 32, 128, 0)          \
  X(neighbour_of_another_cluster, Race, 2, 4, 32, 128, 0)           \
  X(fence_of_block_for_neighbour, Race, 2, 4, 1, 2, 0)              \
  X(fence_after_cluster_barrier, Race, 4, 8, 32, 32, 0)             \
  X(strided_in_neighbour, Sectors, 2, 4, 32, 128, 0)                \
  X(copy_into_neighbour, OutOfBounds, 2, 4, 32, 128, 0)             \
  X(barrier_of_neighbour, OutOfBounds, 2, 4, 32, 128, 0)

extern "C" {

typedef void Entry(const void* params, uint32_t is_checked);

// tests/planted.rs mirrors it.
struct LacunaSimtPlanted {
  const char* name;
  const char* kind;
  Entry* wrong;
  Entry* right;
  uint32_t cluster_blocks;
  uint32_t n_blocks;
  uint32_t n_threads;
  uint32_t n_output;
  uint32_t dynamic_shared_bytes;
  uint32_t reserved;
};

#define LACUNA_DECLARE(name, ...) \
  Entry lacuna_simt_wrong_##name; \
  Entry lacuna_simt_right_##name;
LACUNA_PLANTED(LACUNA_DECLARE)
LACUNA_PLANTED_CLUSTERS(LACUNA_DECLARE)

const LacunaSimtPlanted* lacuna_simt_planted(size_t* n_planted) {
#define LACUNA_CLUSTER_ROW(name, kind, n_together, n_blocks, n_threads, n_output, n_shared) \
  {#name,                                                                                   \
   #kind,                                                                                   \
   lacuna_simt_wrong_##name,                                                                \
   lacuna_simt_right_##name,                                                                \
   n_together,                                                                              \
   n_blocks,                                                                                \
   n_threads,                                                                               \
   n_output,                                                                                \
   n_shared,                                                                                \
   0},
#define LACUNA_ROW(name, kind, ...) LACUNA_CLUSTER_ROW(name, kind, 1, __VA_ARGS__)
  static const LacunaSimtPlanted planted[] = {LACUNA_PLANTED(LACUNA_ROW)
                                                  LACUNA_PLANTED_CLUSTERS(LACUNA_CLUSTER_ROW)};
  *n_planted = sizeof planted / sizeof planted[0];
  return planted;
}

}  // extern "C"
