//! What the kernels that attend say of themselves alike.

use lacuna::Queue;
use lacuna::element::{Half, Real};
use rayon::prelude::*;

/// Why a queue's bits are not known beforehand.
pub(crate) fn without_model(queue: &Queue) -> Option<String> {
    let why = "no answers of its tensor cores are on record, so no bits are expected";
    queue.mma_model().is_none().then(|| why.to_owned())
}

/// What rows come to, as a launch leaves them: outputs, and the log-sums after them. On all threads: a product of the model takes
/// 20 ns, and 128 Ki tokens of 32 heads a thousand million.
pub(crate) fn bytes_of<T: Half + Real, Row: Send>(
    rows: Vec<Row>,
    attend: impl Fn(Row) -> (Vec<f32>, f32) + Send + Sync,
) -> Vec<u8> {
    let rows: Vec<_> = rows.into_par_iter().map(attend).collect();
    let outputs: Vec<_> = rows.iter().flat_map(|(row, _)| row).map(|x| T::from_f32(*x)).collect();
    let log_sums: Vec<_> = rows.iter().map(|(_, log_sum)| *log_sum).collect();
    [bytemuck::cast_slice(&outputs), bytemuck::cast_slice(&log_sums)].concat()
}
