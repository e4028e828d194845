//! Numbers that are sizes, and what sizes must be.

use lacuna::attention::LogSumOrder;
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::launch::Grid;
use lacuna::quant::Turn;
use lacuna_fuzz::Input;

/// A size: the usual one, one beside it, or any; of those many at the borders of what types and launches
/// hold.
pub(crate) fn size(input: &mut Input<'_>, usual: u64) -> u64 {
    let kind = input.byte();
    match kind % 8 {
        0..=3 => usual,
        4 => usual.wrapping_add(u64::from(kind >> 3)).wrapping_sub(16),
        5 => (1_u64 << (input.byte() % 64)).wrapping_add(u64::from(kind >> 3)).wrapping_sub(16),
        6 => (u64::from(kind >> 3) + 1) << (input.byte() % 64),
        _ => input.u64() >> (input.byte() % 64),
    }
}

pub(crate) fn flag(input: &mut Input<'_>) -> bool {
    input.byte().is_multiple_of(2)
}

pub(crate) fn one_of<T: Copy>(input: &mut Input<'_>, all: &[T]) -> T {
    all[usize::from(input.byte()) % all.len()]
}

pub(crate) fn number(input: &mut Input<'_>, usual: f32) -> f32 {
    if flag(input) { usual } else { f32::from_bits(input.u32()) }
}

pub(crate) fn product(sizes: &[u64]) -> u128 {
    sizes.iter().map(|n| u128::from(*n)).product()
}

/// From the first element of the first row to the last of the last.
pub(crate) fn spread(n_rows: u128, stride: u64, len: u128) -> u128 {
    if n_rows == 0 { 0 } else { (n_rows - 1) * u128::from(stride) + len }
}

#[track_caller]
pub(crate) fn same(size: u64, expected: u128) {
    assert_eq!(u128::from(size), expected);
}

/// That a device has such a grid, of so many blocks.
#[track_caller]
pub(crate) fn launched(grid: &Grid, blocks: [u128; 3]) {
    possible(grid);
    assert_eq!(grid.blocks.map(u128::from), blocks);
}

#[track_caller]
pub(crate) fn possible(grid: &Grid) {
    let Grid { blocks, threads, dynamic_shared_bytes, cluster_blocks } = grid;
    assert!(blocks[0] < 1 << 31 && blocks[1] < 1 << 16 && blocks[2] < 1 << 16, "{grid:?}");
    assert!(threads.iter().all(|n| *n > 0) && threads[2] <= 64, "{grid:?}");
    assert!(threads.iter().map(|n| u64::from(*n)).product::<u64>() <= 1024, "{grid:?}");
    assert!(*dynamic_shared_bytes <= 227 << 10, "{grid:?}");
    assert!((1..=16).contains(cluster_blocks), "{grid:?}");
    assert!(blocks[0].is_multiple_of(*cluster_blocks), "{grid:?}");
}

pub(crate) fn lists(input: &mut Input<'_>) -> KvLists {
    one_of(input, &[KvLists::PerHead, KvLists::PerRequest])
}

pub(crate) fn log_sum_order(input: &mut Input<'_>) -> LogSumOrder {
    let all = [LogSumOrder::TokensHeads, LogSumOrder::HeadsTokens, LogSumOrder::BatchHeadsQueries];
    one_of(input, &all)
}

pub(crate) fn turn(input: &mut Input<'_>) -> Turn {
    one_of(input, &[Turn::None, Turn::Halves, Turn::Pairs])
}

pub(crate) fn a_layout(input: &mut Input<'_>) -> Option<KvLayout> {
    let usual = one_of(input, &[64, 128, 256, 32, 512]);
    let shape = KvShape {
        batch: size(input, 4),
        n_heads: size(input, 8),
        row_len: size(input, usual),
        n_pages: size(input, 100),
        page_size: size(input, 16),
        table_stride: size(input, 50),
        tokens_per_row: size(input, 1),
        ..KvShape::default()
    };
    let shape = if flag(input) { shape.nhd() } else { shape.hnd() };
    let shape = if flag(input) { shape } else { shape.fused() };
    let shape = KvShape {
        page_stride: size(input, shape.page_stride),
        token_stride: size(input, shape.token_stride),
        head_stride: size(input, shape.head_stride),
        ..shape
    };
    let layout = KvLayout::new(shape).ok()?;
    let places = [
        (shape.n_pages, shape.page_stride),
        (shape.page_size, shape.token_stride),
        (shape.n_heads, shape.head_stride),
    ];
    let len = places.iter().fold(u128::from(shape.row_len), |sum, (n, stride)| {
        sum + product(&[n.saturating_sub(1), *stride])
    });
    same(layout.pool_len(), if places.iter().any(|(n, _)| *n == 0) { 0 } else { len });
    same(layout.table_len(), product(&[shape.batch, shape.table_stride]));
    same(layout.n_rows(), product(&[shape.table_stride, shape.page_size]));
    assert!(layout.rows_of(size(input, 100)) <= layout.n_rows());
    Some(layout)
}
