//! What `compact_rows` must do, written for reading.

use super::plan::Listed;

/// The elements of a row that are kept, or the others, ascending; what lies past its length is neither.
pub fn compact_row(kept: &[u8], length: usize, listed: Listed) -> Vec<usize> {
    let is_listed = |i: &usize| (kept[*i] != 0) == (listed == Listed::Kept);
    (0..kept.len().min(length)).filter(is_listed).collect()
}

/// The place of each of a row's `n` elements among those listed.
pub fn invert_row(indices: &[usize], n: usize) -> Vec<Option<usize>> {
    (0..n).map(|element| indices.binary_search(&element).ok()).collect()
}

/// Where each row begins in a list of all rows' indices, `capacity` of a row at most; and the list's end.
pub fn start_rows(counts: &[usize], capacity: usize) -> Vec<usize> {
    let mut start = 0;
    let mut starts = vec![0];
    for count in counts {
        start += count.min(&capacity);
        starts.push(start);
    }
    starts
}
