//! What `summarize` must do, written for reading. Each function has the rows of one summary that are
//! there, in their order.

use crate::element::Float;
use crate::number::dot;
use crate::select::Score;

/// The least number of each channel, then the greatest. Boxes are finite: an infinity counts as the
/// greatest finite number of its sign, NaN as both. NaN is the box of nothing.
pub fn box_of<T: Float, S: Score>(rows: &[&[T]], row_len: usize) -> Vec<S> {
    let most = most_finite::<T>();
    let of_channel = |channel: usize, for_nan: f32| {
        let finite = move |x: f32| if x.is_nan() { for_nan } else { x.clamp(-most, most) };
        rows.iter().map(move |row| finite(row[channel].to_f32()))
    };
    let least = (0..row_len).map(|i| of_channel(i, -most).min_by(f32::total_cmp));
    let greatest = (0..row_len).map(|i| of_channel(i, most).max_by(f32::total_cmp));
    least.chain(greatest).map(|bound| S::from_f32(bound.unwrap_or(f32::NAN))).collect()
}

/// The box around boxes, those of nothing left out.
pub fn box_of_boxes<S: Score>(boxes: &[&[S]], row_len: usize) -> Vec<S> {
    let most = most_finite::<S>();
    let bound_of = |channel: usize| {
        let numbers = boxes.iter().map(|row| row[channel].to_f32()).filter(|x| !x.is_nan());
        let finite = numbers.map(|x| x.clamp(-most, most));
        if channel < row_len / 2 {
            finite.min_by(f32::total_cmp)
        } else {
            finite.max_by(f32::total_cmp)
        }
    };
    (0..row_len).map(|channel| S::from_f32(bound_of(channel).unwrap_or(f32::NAN))).collect()
}

/// The mean of each channel: the sum in the order of the rows, times the rounded 1 / n. NaN is that of nothing.
pub fn mean_of<T: Float, S: Score>(rows: &[&[T]], row_len: usize) -> Vec<S> {
    let share = 1.0 / rows.len() as f32;
    let sum_of = |channel: usize| rows.iter().fold(0.0, |sum, row| sum + row[channel].to_f32());
    (0..row_len).map(|channel| S::from_f32(sum_of(channel) * share)).collect()
}

/// Less the least cosine of the mean and a row: the larger, the worse the mean stands for its keys. The cosine of a
/// row or a mean of zeros is 0, and that of one whose norm is no number -infinity; of no rows it is infinity.
pub fn outlier_score<T: Float, S: Score>(rows: &[&[T]], mean: &[S]) -> f32 {
    let to_f32 = |row: &[T]| row.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
    let mean: Vec<_> = mean.iter().map(|x| x.to_f32()).collect();
    let norm_of = |row: &[f32]| dot(row, row).sqrt();
    let cosine_of = |row: Vec<f32>| {
        let norms = norm_of(&mean) * norm_of(&row);
        if norms == 0.0 {
            0.0
        } else if norms < f32::INFINITY {
            dot(&mean, &row) / norms
        } else {
            f32::NEG_INFINITY
        }
    };
    let cosines = rows.iter().map(|row| cosine_of(to_f32(row)));
    0.0 - cosines.fold(f32::INFINITY, f32::min)
}

fn most_finite<T: Float>() -> f32 {
    // In the order of their numbers: bf16, f16, f32, e4m3 and e5m2.
    let most = [half::bf16::MAX.to_f32(), half::f16::MAX.to_f32(), f32::MAX, 448.0, 57344.0];
    most[T::NUMBER as usize]
}
