//! What `attend_prefill` must do, written for reading.

use super::plan::{Positions, PrefillPlan};
use crate::attention::Mask;
use crate::attention::state::{Rule, State, TILE, Token};
use crate::element::Half;
use crate::mma::Model;

/// Tiles whose products with values are summed apart.
const TOGETHER: usize = 2;

/// A launch on the host.
#[derive(Debug, Clone, Copy)]
pub struct Prefilled<'a, T> {
    /// Its sizes.
    pub plan: &'a PrefillPlan,
    /// Whose tensor cores multiply.
    pub model: Model,
    /// `[n_tokens, n_q_heads, head_dim]`, with the plan's stride.
    pub queries: &'a [T],
    /// `[batch + 1]`.
    pub query_starts: &'a [u32],
    /// `[n_tokens]`, where positions are given.
    pub query_positions: &'a [i32],
    /// `[batch, n_rows]`, where positions are given.
    pub key_positions: &'a [i32],
    /// The pools.
    pub keys: &'a [T],
    /// The same of values.
    pub values: &'a [T],
    /// `[batch, table_stride]`.
    pub page_table: &'a [i32],
    /// `[batch]`.
    pub lengths: &'a [u32],
    /// `[n_q_heads]`.
    pub sinks: Option<&'a [f32]>,
}

impl<T: Half> Prefilled<'_, T> {
    /// The tokens of each request's queries: starts ascend, whatever the list says.
    pub fn requests(&self) -> Vec<std::ops::Range<usize>> {
        let n_tokens = self.plan.shape().n_tokens;
        let ascending = self.query_starts.iter().scan(0, |greatest: &mut u64, start| {
            *greatest = u64::from(*start).min(n_tokens).max(*greatest);
            Some(*greatest as usize)
        });
        let starts: Vec<usize> = ascending.collect();
        starts.windows(2).map(|ends| ends[0]..ends[1]).collect()
    }

    /// The outputs and log-sum-exp of a query head of a request's query `i`.
    pub fn query(&self, b: usize, i: usize, q: usize) -> (Vec<f32>, f32) {
        let shape = self.plan.shape();
        let token = self.requests()[b].start + i;
        let d = shape.layout.shape().row_len as usize;
        let query = &self.queries[token * shape.query_stride as usize + q * d..][..d];
        let tokens = self.tokens(b, i, q / self.plan.group() as usize);
        let rule = Rule::new(self.model, &shape.logits);
        State::of_stages(&rule, query, TOGETHER, tokens.chunks(TOGETHER * TILE))
            .finish(self.sinks.map(|sinks| sinks[q]), shape.logits.base)
    }

    /// The rows of a request's head of keys, of which a query sees some.
    fn tokens(&self, b: usize, i: usize, head: usize) -> Vec<Option<Token<'_, T>>> {
        let shape = self.plan.shape();
        let n_rows = shape.layout.rows_of(self.lengths[b].into()) as usize;
        let request = &self.requests()[b];
        let own = match shape.positions {
            Positions::Rows => n_rows as i64 - request.len() as i64 + i as i64,
            Positions::Given => self.query_positions[request.start + i].into(),
        };
        let d = shape.layout.shape().row_len as usize;
        let token = |t: usize| {
            let start = shape.layout.locate(self.page_table, b as u64, t as u64, head as u64)?;
            let position = match shape.positions {
                Positions::Rows => t as i64,
                Positions::Given => {
                    self.key_positions[b * shape.layout.n_rows() as usize + t].into()
                }
            };
            let is_seen = match shape.mask {
                Mask::None => true,
                Mask::Causal => position <= own,
                Mask::Window(window) => position <= own && own - position < window as i64,
            };
            let row = start..start + d;
            let (key, value) = (self.keys[row.clone()].into(), &self.values[row]);
            Some(Token { key, value, bias: 0.0, is_seen })
        };
        (0..n_rows).map(token).collect()
    }
}
