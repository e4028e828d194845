//! What `topk_rows` must do, written for reading.

use std::cmp::Reverse;

use super::plan::TopkPages;
use super::rule::{Order, Rule, kept_of, share_of, weight_of};
use crate::select::Score;

/// Which scores of a row may be picked, and which and how many are.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowRule {
    /// The first candidate.
    pub start: usize,
    /// Candidates from there on; what lies past the row counts for nothing.
    pub length: usize,
    /// Places for picks.
    pub k: usize,
    /// Picks and marks, at most, and what [`Rule::Largest`] wants; else `k`.
    pub asked: Option<usize>,
    /// So many of the first candidates come before all others,
    pub n_first: usize,
    /// and so many of the last.
    pub n_last: usize,
    /// Which of them are picked.
    pub rule: Rule,
    /// In which order they come.
    pub order: Order,
}

/// A row's picks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowPicks {
    /// Their indices into the row.
    pub indices: Vec<usize>,
    /// How many the rule wanted.
    pub n_wanted: usize,
    /// The mask of the row: 1 at each that the rule wants and `asked` allows, whatever `k` is; 0 elsewhere.
    pub kept: Vec<u8>,
}

/// The first candidates of a row, by forced ones first, larger scores, lower indices: as many as the rule wants and
/// there are places.
pub fn topk_row<T: Score>(scores: &[T], row: &RowRule) -> RowPicks {
    let start = row.start.min(scores.len());
    let end = start + row.length.min(scores.len() - start);
    let is_forced = |i: &usize| i - start < row.n_first || end - i <= row.n_last;
    let mut picks: Vec<_> = (start..end).collect();
    let n_forced = picks.iter().filter(|i| is_forced(i)).count();
    let rank = |i: &usize| if is_forced(i) { None } else { Some(Reverse(scores[*i].key())) };
    picks.sort_by_key(|i| (rank(i), *i));

    let n_wanted = match row.rule {
        Rule::Largest => row.asked.unwrap_or(row.k).min(picks.len()),
        Rule::Mass { share } => count_of_mass(scores, &picks, share).max(n_forced),
        Rule::AtLeast { least } => {
            let is_enough = |i: &usize| is_forced(i) || scores[*i].to_f32() >= least;
            picks.iter().filter(|i| is_enough(i)).count()
        }
        Rule::Percentile { percent } => {
            (kept_of(picks.len() as u64, percent) as usize).max(n_forced)
        }
    };
    picks.truncate(n_wanted.min(row.asked.unwrap_or(usize::MAX)));
    let mut kept = vec![0; scores.len()];
    picks.iter().for_each(|i| kept[*i] = 1);
    picks.truncate(row.k);
    if row.order == Order::Index {
        picks.sort_unstable();
    }
    RowPicks { indices: picks, n_wanted, kept }
}

/// How many of the first of `ranked` have `share` of the mass of them all.
fn count_of_mass<T: Score>(scores: &[T], ranked: &[usize], share: f32) -> usize {
    let scores = ranked.iter().map(|i| scores[*i].to_f32());
    let largest = scores.clone().filter(|score| score.is_finite()).fold(0.0, f32::max);
    let weights = scores.map(|score| weight_of(score, largest));
    let mut left = share_of(weights.clone().sum(), share);
    let is_short = |weight: &u64| {
        let was_short = left > 0;
        left = left.saturating_sub(*weight);
        was_short
    };
    weights.take_while(is_short).count()
}

/// Where index `i` of a request's rows is in the pool of pages, if it is.
pub fn slot_of(pages: &TopkPages, table: &[i32], request: usize, i: usize) -> Option<usize> {
    let page_size = pages.page_size as usize;
    let table_stride = pages.table_stride as usize;
    let page = Some(i / page_size).filter(|page| *page < table_stride)?;
    let physical = table[request * table_stride + page];
    let physical = usize::try_from(physical).ok().filter(|page| *page < pages.n_pages as usize)?;
    Some(physical * page_size + i % page_size)
}
