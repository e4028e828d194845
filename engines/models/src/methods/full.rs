//! All of a context.

use half::bf16;
use lacuna::attention::reference::{Attended, HostSegment};
use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, Tokens};
use lacuna::kv::KvLayout;
use rayon::prelude::*;

use super::{MODEL, Method, bytes_of};
use crate::Result;
use crate::cache::Rows;

pub(super) struct Full {
    plan: AttendPlan,
}

impl Full {
    pub(super) fn new(layout: KvLayout, n_q_heads: usize) -> Result<Self> {
        let segment = SegmentShape::of(layout, Tokens::ALL);
        Ok(Self { plan: AttendPlan::new(AttendShape::of(&layout, n_q_heads as u64), &[segment])? })
    }
}

impl Method for Full {
    fn step(&mut self, rows: &Rows, query: &[bf16]) -> Result<Vec<f32>> {
        Ok(attend(&self.plan, query, &[segment(rows, &[], None)]))
    }

    fn bytes(&self, rows: &Rows) -> u64 {
        bytes_of(rows.layout(), rows.n_tokens() as u64)
    }
}

/// Rows of a cache, by a list or by a range.
pub(super) fn segment<'a>(
    rows: &'a Rows,
    indices: &'a [i32],
    counts: Option<&'a [u32]>,
) -> HostSegment<'a, bf16> {
    HostSegment {
        keys: rows.keys(),
        values: rows.values(),
        page_table: rows.page_table(),
        lengths: rows.lengths(),
        indices,
        counts,
        biases: None,
    }
}

/// What `attend` gives: `[n_q_heads, head_dim]`.
pub(super) fn attend(
    plan: &AttendPlan,
    queries: &[bf16],
    segments: &[HostSegment<'_, bf16>],
) -> Vec<f32> {
    let attended = Attended { plan, model: MODEL, queries, segments, sinks: None, low_rank: None };
    let n_q_heads = plan.shape().n_q_heads as usize;
    let heads: Vec<Vec<f32>> =
        (0..n_q_heads).into_par_iter().map(|q| attended.query(0, 0, q).0).collect();
    heads.concat()
}
