//! Quest (arXiv:2406.10774), as in `examples/quest.rs`: pages by the boxes around their keys.

use std::fmt;

use half::bf16;
use lacuna::attention::{AttendPlan, AttendShape, SegmentShape, Tokens};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::select::reference::{RowRule, Scored, box_of, topk_row};
use lacuna::select::{GroupReduction, ScorePlan, ScoreShape};

use super::full::{Full, attend, segment};
use super::{Method, bytes_of};
use crate::Result;
use crate::cache::{PAGE_SIZE, Rows};

/// The recipe's numbers: a list of pages for each head of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageBounds {
    /// Pages of a list, the last one among them.
    pub n_pages: usize,
    /// Layers that attend to all: the first two in the paper.
    pub n_dense: usize,
}

impl PageBounds {
    pub(super) fn begin(
        &self,
        layer: usize,
        rows: &Rows,
        n_q_heads: usize,
    ) -> Result<Box<dyn Method>> {
        let layout = rows.layout();
        if layer < self.n_dense {
            return Ok(Box::new(Full::new(layout, n_q_heads)?));
        }
        let kv = *layout.shape();
        let shape =
            KvShape { row_len: 2 * kv.row_len, page_size: 1, tokens_per_row: kv.page_size, ..kv };
        let boxes = KvLayout::new(shape.nhd())?;
        let shape = ScoreShape::of_boxes(boxes, n_q_heads as u64);
        let score = ScorePlan::new(ScoreShape { reduction: GroupReduction::Max, ..shape })?;
        let picked = Tokens::Blocks { n_blocks: self.n_pages as u64, block_size: PAGE_SIZE as u64 };
        let segment = SegmentShape { lists: KvLists::PerHead, ..SegmentShape::of(layout, picked) };
        let attend = AttendPlan::new(AttendShape::of(&layout, n_q_heads as u64), &[segment])?;
        let mut bounds = Bounds {
            n_pages: self.n_pages,
            score,
            attend,
            boxes: vec![bf16::ZERO; boxes.pool_len() as usize],
            n_boxed: 0,
        };
        bounds.advance(rows);
        Ok(Box::new(bounds))
    }
}

impl fmt::Display for PageBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { n_pages, n_dense } = self;
        write!(f, "page bounds, {n_pages} pages of {PAGE_SIZE} tokens, {n_dense} layers dense")
    }
}

struct Bounds {
    n_pages: usize,
    score: ScorePlan,
    attend: AttendPlan,
    /// On the page of the same number.
    boxes: Vec<bf16>,
    /// Tokens that are in boxes.
    n_boxed: usize,
}

impl Bounds {
    /// Boxes the pages that have new tokens.
    fn advance(&mut self, rows: &Rows) {
        let (n, layout) = (rows.n_tokens(), self.score.shape().layout);
        let d = rows.layout().shape().row_len as usize;
        for page in self.n_boxed / PAGE_SIZE..n.div_ceil(PAGE_SIZE) {
            let tokens = page * PAGE_SIZE..n.min((page + 1) * PAGE_SIZE);
            for head in 0..rows.layout().shape().n_heads {
                let keys: Vec<_> = tokens
                    .clone()
                    .map(|token| rows.row(rows.keys(), token, head as usize))
                    .collect();
                let start = layout.locate(rows.page_table(), 0, page as u64, head);
                let start = start.expect("every page is there");
                self.boxes[start..start + 2 * d].copy_from_slice(&box_of::<_, bf16>(&keys, d));
            }
        }
        self.n_boxed = n;
    }
}

impl Method for Bounds {
    fn step(&mut self, rows: &Rows, query: &[bf16]) -> Result<Vec<f32>> {
        self.advance(rows);
        let scored = Scored {
            queries: query,
            keys: &self.boxes,
            page_table: rows.page_table(),
            lengths: rows.lengths(),
            key_scale: 1.0,
        };
        let rule = |length| RowRule { length, k: self.n_pages, n_last: 1, ..RowRule::default() };
        let (mut indices, mut counts) = (Vec::new(), Vec::new());
        for scores in scored.request::<f32>(&self.score, 0) {
            let picks = topk_row(&scores, &rule(scores.len())).indices;
            counts.push(picks.len() as u32);
            let end = indices.len() + self.n_pages;
            indices.extend(picks.into_iter().map(|page| page as i32));
            indices.resize(end, -1);
        }
        Ok(attend(&self.attend, query, &[segment(rows, &indices, Some(&counts))]))
    }

    fn bytes(&self, rows: &Rows) -> u64 {
        let n_pages = rows.n_tokens().div_ceil(PAGE_SIZE) as u64;
        let n_selected = (self.n_pages * PAGE_SIZE).min(rows.n_tokens()) as u64;
        // A box is as long as a key and a value.
        bytes_of(rows.layout(), n_selected) + bytes_of(rows.layout(), n_pages)
    }
}
