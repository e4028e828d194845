//! TokenSelect (arXiv:2411.02886), as in `examples/token_select.rs`: all heads of a layer vote for the tokens that all of them attend to.

use std::fmt;

use half::bf16;
use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, Tokens};
use lacuna::kv::KvLayout;
use lacuna::select::reference::{RowRule, Scored, Softmax, topk_row, votes};
use lacuna::select::{ScorePlan, ScoreShape, Together, VotePlan, VoteReduction, VoteRule};
use rayon::prelude::*;

use super::full::{attend, segment};
use super::{Method, bytes_of};
use crate::Result;
use crate::cache::Rows;

/// The recipe's numbers. Every step votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenSelect {
    /// So many first tokens are always selected: whole pages of them.
    pub n_init: usize,
    /// So many last tokens are always selected.
    pub n_local: usize,
    /// So many of the others are.
    pub k: usize,
}

impl TokenSelect {
    fn n_selected(&self) -> usize {
        self.n_init + self.k + self.n_local
    }

    pub(super) fn begin(&self, layout: KvLayout, n_q_heads: usize) -> Result<Box<dyn Method>> {
        let score = ScorePlan::new(ScoreShape::of(layout, n_q_heads as u64))?;
        let (together, reduction) = (Together::All, VoteReduction::Sum);
        // Refuses what no launch has.
        VotePlan::new(&score, VoteRule { together, reduction, stride: layout.n_rows() })?;
        let picked = Tokens::Blocks { n_blocks: self.n_selected() as u64, block_size: 1 };
        let segment = SegmentShape::of(layout, picked);
        let attend = AttendPlan::new(AttendShape::of(&layout, n_q_heads as u64), &[segment])?;
        Ok(Box::new(Selecting { settings: *self, score, reduction, attend }))
    }
}

impl fmt::Display for TokenSelect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_init, n_local, k } = self;
        write!(f, "TokenSelect, {n_init} + {k} + {n_local} tokens")
    }
}

struct Selecting {
    settings: TokenSelect,
    score: ScorePlan,
    reduction: VoteReduction,
    attend: AttendPlan,
}

impl Method for Selecting {
    fn step(&mut self, rows: &Rows, query: &[bf16]) -> Result<Vec<f32>> {
        let TokenSelect { n_init, n_local, .. } = self.settings;
        let kv = *rows.layout().shape();
        // Of the first tokens no page, and of the last no length: they are no candidates.
        let n_init_pages = n_init / kv.page_size as usize;
        let mut candidates = rows.page_table().to_vec();
        candidates.iter_mut().take(n_init_pages).for_each(|page| *page = -1);
        let lengths = [(rows.n_tokens() as u32).saturating_sub(n_local as u32)];
        let scored = Scored {
            queries: query,
            keys: rows.keys(),
            page_table: &candidates,
            lengths: &lengths,
            key_scale: 1.0,
        };
        let shape = self.score.shape();
        let scale = shape.softmax_scale * std::f32::consts::LOG2_E;
        let n_q_heads = shape.n_q_heads as usize;
        let scores: Vec<Vec<f32>> =
            (0..n_q_heads).into_par_iter().map(|q| scored.head(&self.score, 0, q)).collect();
        let heads: Vec<_> =
            scores.iter().map(|scores| (&scores[..], Softmax::of(scores, scale))).collect();
        let mut votes: Vec<f32> = votes(&heads, scale, self.reduction);
        votes.resize(rows.n_tokens(), 0.0);
        let rule = RowRule {
            length: rows.n_tokens(),
            k: self.settings.n_selected(),
            n_first: n_init,
            n_last: n_local,
            ..RowRule::default()
        };
        let picks = topk_row(&votes, &rule).indices;
        let counts = [picks.len() as u32];
        let mut indices: Vec<i32> = picks.into_iter().map(|token| token as i32).collect();
        indices.resize(self.settings.n_selected(), -1);
        Ok(attend(&self.attend, query, &[segment(rows, &indices, Some(&counts))]))
    }

    fn bytes(&self, rows: &Rows) -> u64 {
        let n = rows.n_tokens();
        let n_scored = n.saturating_sub(self.settings.n_init + self.settings.n_local) as u64;
        let n_selected = self.settings.n_selected().min(n) as u64;
        // To choose, keys alone.
        bytes_of(rows.layout(), n_selected) + bytes_of(rows.layout(), n_scored) / 2
    }
}
