//! What `attend` must do, written for reading: tiles, chains, roundings and their order are the kernel's.

use super::plan::{AttendPlan, SegmentShape, Tokens, split_len};
use crate::attention::Mask;
use crate::attention::low_rank::reference::HostLowRank;
use crate::attention::state::{Rule, State, TILE, Token};
use crate::element::Half;
use crate::mma::Model;

/// A launch on the host.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a, T> {
    /// Its sizes.
    pub plan: &'a AttendPlan,
    /// Whose tensor cores multiply.
    pub model: Model,
    /// `[batch, n_queries, n_q_heads, head_dim]`, with the plan's stride.
    pub queries: &'a [T],
    /// What queries attend to.
    pub segments: &'a [HostSegment<'a, T>],
    /// `[n_q_heads]`.
    pub sinks: Option<&'a [f32]>,
    /// What the keys of a segment are made of, where they are not stored.
    pub low_rank: Option<HostLowRank<'a, T>>,
}

/// A segment on the host, as of [`attend`](crate::attention::attend).
#[derive(Debug, Clone, Copy)]
pub struct HostSegment<'a, T> {
    /// The pools.
    pub keys: &'a [T],
    /// The same of values.
    pub values: &'a [T],
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
    /// Of blocks, their numbers.
    pub indices: &'a [i32],
    /// How many of each list count.
    pub counts: Option<&'a [u32]>,
    /// Of blocks, or of rows.
    pub biases: Option<&'a [f32]>,
}

impl<'a, T: Half> Attended<'a, T> {
    /// What makes logits.
    pub fn rule(&self) -> Rule {
        Rule::new(self.model, &self.plan.shape().logits)
    }

    /// What stands at each position of a request and head of keys, as its query `i` sees it.
    pub fn tokens(&self, b: usize, head: usize, i: usize) -> Vec<Option<Token<'a, T>>> {
        let shapes = self.plan.segments();
        let each = shapes.zip(self.segments).enumerate().flat_map(|(s, (shape, segment))| {
            let entries = rows_of(shape, segment, b, head, self.plan.shape().n_queries);
            let made =
                self.low_rank.filter(|low_rank| low_rank.plan.low_rank().segment == s as u64);
            entries.into_iter().map(move |row| self.token(shape, segment, made, [b, head, i], row))
        });
        each.collect()
    }

    /// A query head's outputs and log-sum-exp.
    pub fn query(&self, b: usize, i: usize, q: usize) -> (Vec<f32>, f32) {
        let shape = self.plan.shape();
        let token = b * shape.n_queries as usize + i;
        let d = shape.head_dim as usize;
        let query = &self.queries[token * shape.query_stride as usize + q * d..][..d];
        let tokens = self.tokens(b, q / self.plan.group() as usize, i);
        let state = self.state(query, &tokens);
        state.finish(self.sinks.map(|sinks| sinks[q]), shape.logits.base)
    }

    /// A query's sums over all positions: splits are as long as the number of positions says, and of a split each warp
    /// has every so many-th tile.
    pub fn state(&self, query: &[T], tokens: &[Option<Token<'_, T>>]) -> State {
        let n_warps = self.plan.n_warps() as usize;
        let of_warp = |split: &[_], warp: usize| {
            let tiles = split.chunks(TILE).skip(warp).step_by(n_warps);
            State::of_stages(&self.rule(), query, 1, tiles)
        };
        let of_split =
            |split: &[_]| State::merge(query.len(), (0..n_warps).map(|warp| of_warp(split, warp)));
        State::merge(query.len(), tokens.chunks(split_len(tokens.len())).map(of_split))
    }

    /// The token of a row, if it is there and any query sees it.
    fn token(
        &self,
        shape: &SegmentShape,
        segment: &HostSegment<'a, T>,
        made: Option<HostLowRank<'a, T>>,
        [b, head, i]: [usize; 3],
        (entry, row): (usize, u64),
    ) -> Option<Token<'a, T>> {
        let kv = shape.layout.shape();
        // Where values are elsewhere, a request may have more tokens than the cache has rows.
        let is_elsewhere = made.is_some_and(|made| made.value_indices.is_some());
        let n_tokens = u64::from(segment.lengths[b]);
        let n_rows = if is_elsewhere {
            n_tokens.div_ceil(kv.tokens_per_row).min(1 << 26)
        } else {
            shape.layout.rows_of(n_tokens)
        };
        let n_queries = self.plan.shape().n_queries as usize;
        let sees = |i: usize| {
            // What the query's own row is, counted from one past the queries before.
            let (row, own) = (row as i64, n_rows as i64 - n_queries as i64 + i as i64);
            match shape.mask {
                Mask::None => true,
                Mask::Causal => row <= own,
                Mask::Window(window) => row <= own && row > own - window as i64,
            }
        };
        if row >= n_rows || !(0..n_queries).any(sees) {
            return None;
        }
        let list = list_of(shape, b, head);
        let (n_entries, block_size) = match shape.tokens {
            Tokens::Range { .. } => (shape.layout.n_rows(), 1),
            Tokens::Blocks { n_blocks, block_size } => (n_blocks, block_size),
        };
        let at = list * n_entries as usize + entry;
        let value_row = match made.and_then(|made| made.value_indices) {
            Some(blocks) => u64::from(blocks[at] as u32) * block_size + row % block_size,
            None => row,
        };
        let n_factors = made.map_or(u64::MAX, |made| made.plan.low_rank().n_factors);
        if value_row >= shape.layout.n_rows() || row >= n_factors {
            return None;
        }
        let start = shape.layout.locate(segment.page_table, b as u64, value_row, head as u64)?;
        let element = start..start + kv.row_len as usize;
        let key = match made {
            Some(made) => made.key(self.model, b, head, row as usize).into(),
            None => segment.keys[element.clone()].into(),
        };
        let value = &segment.values[element];
        let bias = segment.biases.map_or(0.0, |all| all[at]);
        Some(Token { key, value, bias, is_seen: sees(i) })
    }
}

fn list_of(shape: &SegmentShape, b: usize, head: usize) -> usize {
    let n_lists = shape.lists.per_request(&shape.layout) as usize;
    if n_lists == 1 { b } else { b * n_lists + head }
}

/// The rows at a segment's positions, and whose bias each has; large ones are of no row.
fn rows_of<T>(
    shape: &SegmentShape,
    segment: &HostSegment<'_, T>,
    b: usize,
    head: usize,
    n_queries: u64,
) -> Vec<(usize, u64)> {
    let n_rows = shape.layout.rows_of(segment.lengths[b].into());
    match shape.tokens {
        Tokens::Range { first, end, last } => {
            let last = match shape.mask {
                Mask::Window(window) => last.min(window + n_queries - 1),
                Mask::None | Mask::Causal => last,
            };
            let first = first.max(n_rows.saturating_sub(last));
            (first..end.min(n_rows)).map(|row| (row as usize, row)).collect()
        }
        Tokens::Blocks { n_blocks, block_size } => {
            let list = list_of(shape, b, head);
            let n = segment.counts.map_or(n_blocks, |counts| n_blocks.min(counts[list].into()));
            let indices = &segment.indices[list * n_blocks as usize..][..n as usize];
            let blocks = indices.iter().map(|block| u64::from(*block as u32) * block_size);
            let rows = blocks.enumerate().flat_map(|(entry, first)| {
                (first..first + block_size).map(move |row| (entry, row))
            });
            rows.collect()
        }
    }
}
