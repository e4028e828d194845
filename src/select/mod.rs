//! Which tokens matter, exactly, and the same every time.
//!
//! ```text
//! keys    ──► summarize  ──► boxes, means: rows of a cache as keys are
//! query   ──► score_rows ──► scores ──► vote_rows ──► votes ──► topk_rows ──► indices, slots
//! query   ──► gate_selection ──► whether the last indices will do
//! probes  ──► column_mass ──► masses ──► topk_rows, merge_rows
//! votes   ──► topk_rows  ──► kept, more than any list has places for ──► compact_rows ──► indices
//! indices ──► gather_kv, gather_rows, scatter_rows, ...
//! ```

mod compact;
mod gate;
mod mass;
mod merge;
mod rows;
mod score;
mod summarize;
mod topk;
mod vote;

pub use compact::{CompactPlan, CompactShape, Listed};
pub use gate::{GatePlan, GateShape};
pub use mass::{MassPlan, MassShape};
pub use merge::{MergePlan, MergeWeights};
pub use rows::{Absent, KvRowsPlan, RowStrides, RowsPlan, RowsShape};
pub use score::{GroupReduction, ScoreKind, ScorePlan, ScoreShape};
pub use summarize::{SummarizePlan, SummarizeShape, Summary};
pub use topk::{MAX_PICKS, Order, Rule, TopkPages, TopkPlan, TopkShape};
pub use vote::{Together, VotePlan, VoteReduction, VoteRule};
#[cfg(any(feature = "cuda", feature = "simt"))]
pub use {
    compact::{CompactInputs, CompactOutputs, compact_rows},
    gate::{GateInputs, GateOutputs, gate_selection},
    mass::{MassInputs, MassOutputs, column_mass},
    merge::{MergeInputs, MergeState, merge_rows},
    rows::{
        KvRows, KvRowsMut, Repeats, gather_kv, gather_rows, scatter_add_rows, scatter_kv,
        scatter_rows,
    },
    score::{ScoreInputs, ScoreOutputs, SoftmaxOutputs, VoteOutputs, score_rows, score_votes},
    summarize::{SummarizeInputs, SummarizeOutputs, summarize},
    topk::{TopkInputs, TopkOutputs, topk_rows},
    vote::{VoteInputs, vote_rows},
};

use crate::element::Real;

/// What the kernels of this room must do, written for reading.
pub mod reference {
    pub use super::compact::reference::{compact_row, invert_row, start_rows};
    pub use super::gate::reference::gate_query;
    pub use super::mass::reference::Probed;
    pub use super::merge::reference::{Pages, merge_rows, nearest_kept, update_threshold};
    pub use super::rows::reference::{
        gather_kv, gather_rows, scatter_add_rows, scatter_kv, scatter_rows,
    };
    pub use super::score::reference::Scored;
    pub use super::summarize::reference::{box_of, box_of_boxes, mean_of, outlier_score};
    pub use super::topk::reference::{RowPicks, RowRule, slot_of, topk_row};
    pub use super::vote::reference::{Softmax, votes};
}

/// A type of scores. Sealed: bf16, f16 and f32.
pub trait Score: Real {
    /// Ascends with the score, from NaN, which is 0, over -inf to +inf; the same for zeros of both signs.
    fn key(self) -> u32;
}

/// As [`Score::key`], of bits with a sign and `n_bits` others, of which `infinity` is the last number.
fn key_of(bits: u32, n_bits: u32, infinity: u32) -> u32 {
    let sign = 1 << n_bits;
    let magnitude = bits & (sign - 1);
    if magnitude > infinity {
        0
    } else if magnitude == 0 {
        sign
    } else if bits & sign == 0 {
        sign | magnitude
    } else {
        sign - 1 - magnitude
    }
}

impl Score for half::bf16 {
    fn key(self) -> u32 {
        key_of(self.to_bits().into(), 15, 0x7F80)
    }
}

impl Score for half::f16 {
    fn key(self) -> u32 {
        key_of(self.to_bits().into(), 15, 0x7C00)
    }
}

impl Score for f32 {
    fn key(self) -> u32 {
        key_of(self.to_bits(), 31, 0x7F80_0000)
    }
}
