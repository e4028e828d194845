//! What `topk_rows` must do, written for reading.

use std::cmp::Reverse;

use crate::select::Score;

/// Which scores of a row may be picked, and how many are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowRule {
    /// The first candidate.
    pub start: usize,
    /// Candidates from there on; what lies past the row counts for nothing.
    pub length: usize,
    /// Picks, at most.
    pub k: usize,
    /// So many of the first candidates come before all others,
    pub n_first: usize,
    /// and so many of the last.
    pub n_last: usize,
}

/// The indices of a row's picks, ascending: its forced candidates, then the largest scores; of equal
/// ones, the lower indices first.
pub fn topk_row<T: Score>(scores: &[T], rule: &RowRule) -> Vec<usize> {
    let start = rule.start.min(scores.len());
    let end = start + rule.length.min(scores.len() - start);
    let is_forced = |i: usize| i - start < rule.n_first || end - i <= rule.n_last;
    let mut picks: Vec<_> = (start..end).collect();
    let rank = |i: usize| if is_forced(i) { None } else { Some(Reverse(scores[i].key())) };
    picks.sort_by_key(|i| (rank(*i), *i));
    picks.truncate(rule.k);
    picks.sort_unstable();
    picks
}
