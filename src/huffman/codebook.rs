//! Which code each exponent gets, and the decode tables that say so.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{BYTES_PER_BLOCK, FIRST_POINTER, GAP_BYTES_PER_BLOCK, MAX_CODE_BITS, MAX_LUT_ROWS};

/// Bytes that one level of the decode tables looks at.
const BITS_PER_LEVEL: u32 = 8;
/// The last level, whose entries are exponents whatever their value.
const LAST_LEVEL: u32 = 3;
/// Where codes of exponents from 240 on branch off: they must reach the last level.
const ESCAPE_BITS: u32 = LAST_LEVEL * BITS_PER_LEVEL;

/// How short the shortest code may be. A published decoder holds a block's weights in 48 KiB of
/// shared memory, which very short codes overrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortest {
    /// The smallest stream there is.
    Unlimited,
    /// One leaf of the tree stays unused, which makes other codes longer.
    SpareLeaf,
    /// No code of one bit.
    TwoBits,
}

impl Shortest {
    /// What is tried where a block has more weights than a published decoder holds.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Unlimited => Some(Self::SpareLeaf),
            Self::SpareLeaf => Some(Self::TwoBits),
            Self::TwoBits => None,
        }
    }
}

/// A prefix code over the 256 exponents of bf16 that DF11's decode tables can express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codebook {
    codes: [u32; 256],
    lengths: [u8; 256],
    luts: Vec<u8>,
}

impl Codebook {
    /// The code that makes a group with `histogram[exponent]` weights of each exponent smallest,
    /// tables and all; `None` if there are no weights.
    ///
    /// Codes are canonical: ascending in length, then exponent. Exponents from 240 on get codes of
    /// 25 bits or more, and there are at most 17 tables.
    pub fn new(histogram: &[u64; 256]) -> Option<Self> {
        Self::with_shortest(histogram, Shortest::Unlimited)
    }

    pub(super) fn with_shortest(histogram: &[u64; 256], shortest: Shortest) -> Option<Self> {
        let mut best: Option<(u64, Self)> = None;
        // Optimal codes differ in how many tables they need, and ties decide which of them an
        // encoder finds: with the published one's among them, ours are never larger.
        if shortest == Shortest::Unlimited
            && let Some(book) = published_lengths(histogram).and_then(Self::from_lengths)
        {
            best = Some((book.group_bytes(histogram), book));
        }
        let mut limit = MAX_CODE_BITS;
        // Eight bits hold every exponent below 240, the escape and the spare leaf in one table.
        loop {
            let mut longest = 0;
            for escape in [Escape::None, Escape::Leaf] {
                let Some(book) = Self::with_limit(histogram, shortest, limit, escape) else {
                    continue;
                };
                let is_below = |exponent: &usize| {
                    escape == Escape::None || *exponent < usize::from(FIRST_POINTER)
                };
                let lengths = (0..256).filter(is_below).map(|idx| u32::from(book.lengths[idx]));
                longest = longest.max(lengths.max().unwrap_or(0));
                let n_bytes = book.group_bytes(histogram);
                if best.as_ref().is_none_or(|(smallest, _)| n_bytes <= *smallest) {
                    best = Some((n_bytes, book));
                }
            }
            // A limit above the longest code changes nothing.
            limit = if longest > 0 { limit.min(longest) - 1 } else { limit - 1 };
            if limit < 1 {
                return best.map(|(_, book)| book);
            }
        }
    }

    fn from_lengths(lengths: [u8; 256]) -> Option<Self> {
        let (codes, _) = canonical_codes(&lengths, None);
        let luts = build_luts(&codes, &lengths)?;
        Some(Self { codes, lengths, luts })
    }

    /// The code of each exponent, right-aligned; 0 for exponents without one.
    pub fn codes(&self) -> &[u32; 256] {
        &self.codes
    }

    /// Bits of each code; 0 for exponents without one.
    pub fn lengths(&self) -> &[u8; 256] {
        &self.lengths
    }

    /// The tensor `luts`, `[n_lut_rows + 1, 256]`.
    pub fn luts(&self) -> &[u8] {
        &self.luts
    }

    /// Bits of the stream of a group with this histogram.
    pub(super) fn n_bits(&self, histogram: &[u64; 256]) -> u64 {
        let bits = |(count, length): (&u64, &u8)| count.saturating_mul(u64::from(*length));
        histogram.iter().zip(&self.lengths).map(bits).fold(0, u64::saturating_add)
    }

    /// Bytes of the tensors that depend on the code.
    fn group_bytes(&self, histogram: &[u64; 256]) -> u64 {
        let n_code_bytes = self.n_bits(histogram).div_ceil(8);
        let n_blocks = n_code_bytes.div_ceil(BYTES_PER_BLOCK as u64);
        let n_side_bytes = n_blocks * (GAP_BYTES_PER_BLOCK as u64 + 4) + self.luts.len() as u64;
        n_code_bytes.saturating_add(n_side_bytes)
    }

    fn with_limit(
        histogram: &[u64; 256],
        shortest: Shortest,
        limit: u32,
        escape: Escape,
    ) -> Option<Self> {
        let present = |range: std::ops::Range<usize>| range.filter(|idx| histogram[*idx] > 0);
        let ordinary: Vec<usize> = present(0..usize::from(FIRST_POINTER)).collect();
        let escaped: Vec<usize> = present(usize::from(FIRST_POINTER)..256).collect();
        if (escape == Escape::Leaf) == escaped.is_empty() && escape == Escape::Leaf {
            return None;
        }
        let (coded, n_spare) = match escape {
            Escape::None => ([ordinary, escaped.clone()].concat(), 0),
            Escape::Leaf => (ordinary, 1),
        };
        let limit = if escape == Escape::Leaf { limit.min(ESCAPE_BITS) } else { limit };
        let n_spare = n_spare + usize::from(shortest == Shortest::SpareLeaf);
        let min_bits = if shortest == Shortest::TwoBits { 2 } else { 0 };

        let mut weights = vec![0; n_spare];
        weights.extend(coded.iter().map(|idx| histogram[*idx]));
        let leaf_lengths = limited_lengths(&weights, min_bits, limit)?;
        let (spare, coded_lengths) = leaf_lengths.split_at(n_spare);

        let mut lengths = [0; 256];
        for (idx, length) in coded.iter().zip(coded_lengths) {
            lengths[*idx] = *length;
        }
        let reaches_last_level = |idx: &usize| u32::from(lengths[*idx]) > ESCAPE_BITS;
        if escape == Escape::None && !escaped.iter().all(reaches_last_level) {
            return None;
        }
        let escape_bits = (escape == Escape::Leaf).then(|| u32::from(spare[0]));
        let (mut codes, escape_code) = canonical_codes(&lengths, escape_bits);
        if let (Some(bits), Some(code)) = (escape_bits, escape_code) {
            // All of them share one table of the last level, so the escape costs three tables.
            let weights: Vec<u64> = escaped.iter().map(|idx| histogram[*idx]).collect();
            let tails = limited_lengths(&weights, 0, BITS_PER_LEVEL)?;
            let mut tail_lengths = [0; 256];
            for (idx, length) in escaped.iter().zip(tails) {
                tail_lengths[*idx] = length;
            }
            let (tail_codes, _) = canonical_codes(&tail_lengths, None);
            for idx in escaped {
                let length = u32::from(tail_lengths[idx]);
                codes[idx] = code << (ESCAPE_BITS - bits + length) | tail_codes[idx];
                lengths[idx] = (ESCAPE_BITS + length) as u8;
            }
        }
        let luts = build_luts(&codes, &lengths)?;
        Some(Self { codes, lengths, luts })
    }
}

/// Where exponents from 240 on are in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Among the others; possible where their codes are long by themselves.
    None,
    /// Below one leaf that has no weight of its own.
    Leaf,
}

/// Lengths of the published encoder's codes: Huffman's, with an end of the stream that occurs once
/// and comes before all exponents among equals. `None` where the format cannot hold them.
fn published_lengths(histogram: &[u64; 256]) -> Option<[u8; 256]> {
    let end = std::iter::once(Reverse((1, vec![None])));
    let leaf = |(exponent, count): (usize, &u64)| Reverse((*count, vec![Some(exponent)]));
    let leaves = histogram.iter().enumerate().filter(|(_, count)| **count > 0).map(leaf);
    let mut heap: BinaryHeap<_> = end.chain(leaves).collect();
    let mut lengths = [0; 256];
    while let (Some(Reverse((weight, mut symbols))), Some(Reverse((other_weight, others)))) =
        (heap.pop(), heap.pop())
    {
        symbols.extend(others);
        for exponent in symbols.iter().flatten() {
            lengths[*exponent] += 1;
        }
        heap.push(Reverse((weight.saturating_add(other_weight), symbols)));
    }
    let can_hold = |(exponent, length): (usize, &u8)| {
        u32::from(*length) <= MAX_CODE_BITS
            && (*length == 0 || exponent < usize::from(FIRST_POINTER))
    };
    lengths.iter().enumerate().all(can_hold).then_some(lengths)
}

/// Lengths in `max(min_bits, 1)..=limit` of an optimal prefix code for `weights`, by package-merge
/// (Larmore and Hirschberg, 1990); `None` if so few bits do not hold so many codes.
pub(super) fn limited_lengths(weights: &[u64], min_bits: u32, limit: u32) -> Option<Vec<u8>> {
    let n = weights.len();
    let n_roots = 1 << min_bits;
    if n == 0 || limit < min_bits.max(1) || (limit < 32 && n > 1 << limit) {
        return None;
    }
    if n <= n_roots {
        return Some(vec![min_bits.max(1) as u8; n]);
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|idx| weights[*idx]);

    // Each level's items, cheapest first: leaves, and pairs of the level below.
    let mut levels: Vec<Vec<Item>> = Vec::new();
    for _ in min_bits..limit {
        let leaves = order.iter().map(|idx| Item { weight: weights[*idx], is_leaf: true });
        let mut items: Vec<Item> = leaves.collect();
        if let Some(below) = levels.last() {
            items.extend(
                below.as_chunks().0.iter().map(|[a, b]| Item {
                    weight: a.weight.saturating_add(b.weight),
                    is_leaf: false,
                }),
            );
        }
        // Stable, so leaves go first among equals: the shallowest of the optimal trees.
        items.sort_by_key(|item| item.weight);
        levels.push(items);
    }

    // A leaf is as deep as it was taken often; the cheapest leaves are taken first at each level.
    let mut lengths = vec![min_bits as u8; n];
    let mut n_taken = 2 * (n - n_roots);
    for items in levels.iter().rev() {
        let n_leaves = items[..n_taken].iter().filter(|item| item.is_leaf).count();
        for idx in &order[..n_leaves] {
            lengths[*idx] += 1;
        }
        n_taken = 2 * (n_taken - n_leaves);
    }
    Some(lengths)
}

#[derive(Debug, Clone, Copy)]
struct Item {
    weight: u64,
    is_leaf: bool,
}

/// Codes ascending in length, then exponent, and the code of the escape, the last of its length.
pub(super) fn canonical_codes(
    lengths: &[u8; 256],
    escape_bits: Option<u32>,
) -> ([u32; 256], Option<u32>) {
    let mut codes = [0; 256];
    let mut escape_code = None;
    // One bit more than the longest code, because it counts past the last of them.
    let mut next = 0_u64;
    for bits in 1..=MAX_CODE_BITS {
        next <<= 1;
        for (code, length) in codes.iter_mut().zip(lengths) {
            if u32::from(*length) == bits {
                *code = next as u32;
                next += 1;
            }
        }
        if escape_bits == Some(bits) {
            escape_code = Some(next as u32);
            next += 1;
        }
    }
    (codes, escape_code)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Unused,
    Exponent(u8),
    Pointer(u8),
}

struct Table {
    level: u32,
    slots: [Slot; 256],
}

/// Chained tables and the row of lengths; `None` if the format cannot address so many tables.
fn build_luts(codes: &[u32; 256], lengths: &[u8; 256]) -> Option<Vec<u8>> {
    let mut order: Vec<u8> = (0..=255).filter(|e| lengths[usize::from(*e)] > 0).collect();
    order.sort_by_key(|exponent| lengths[usize::from(*exponent)]);

    let mut tables = vec![Table { level: 0, slots: [Slot::Unused; 256] }];
    for exponent in &order {
        let length = u32::from(lengths[usize::from(*exponent)]);
        let code = codes[usize::from(*exponent)] << (MAX_CODE_BITS - length);
        let bytes = code.to_be_bytes();
        let last_level = (length - 1) / BITS_PER_LEVEL;
        let mut table_idx = 0;
        for level in 0..last_level {
            let slot_idx = usize::from(bytes[level as usize]);
            table_idx = match tables[table_idx].slots[slot_idx] {
                Slot::Pointer(pointer) => 256 - usize::from(pointer),
                _ => {
                    let next_idx = tables.len();
                    if next_idx >= MAX_LUT_ROWS {
                        return None;
                    }
                    tables[table_idx].slots[slot_idx] = Slot::Pointer((256 - next_idx) as u8);
                    tables.push(Table { level: level + 1, slots: [Slot::Unused; 256] });
                    next_idx
                }
            };
        }
        let first = usize::from(bytes[last_level as usize]);
        let n_slots = 1 << (BITS_PER_LEVEL * (last_level + 1) - length);
        tables[table_idx].slots[first..first + n_slots].fill(Slot::Exponent(*exponent));
    }

    let mut luts = Vec::with_capacity(256 * (tables.len() + 1));
    let mut filler = order.iter().copied().find(|exponent| *exponent < FIRST_POINTER);
    for table in &tables {
        luts.extend(fill_unused(table, &mut filler));
    }
    luts.extend(lengths);
    Some(luts)
}

/// The bytes of one table. Unused entries repeat the exponent before them, so that whatever bits
/// a decoder meets, padding included, it moves on.
fn fill_unused(table: &Table, filler: &mut Option<u8>) -> [u8; 256] {
    let is_last = table.level == LAST_LEVEL;
    let own = table.slots.iter().find_map(|slot| match slot {
        Slot::Exponent(exponent) if is_last => Some(*exponent),
        // Only reached where every exponent is 240 or above, and none fits this level.
        Slot::Pointer(pointer) if !is_last && filler.is_none() => Some(*pointer),
        _ => None,
    });
    let mut previous = own.or(*filler).unwrap_or_default();
    let bytes = table.slots.map(|slot| {
        match slot {
            Slot::Exponent(exponent) => previous = exponent,
            Slot::Pointer(pointer) => return pointer,
            Slot::Unused => {}
        }
        previous
    });
    if !is_last && filler.is_some() {
        *filler = Some(previous);
    }
    bytes
}
