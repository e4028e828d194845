//! The launches that append.
#![allow(unsafe_code)]

use super::AppendPlan;
use crate::Result;
use crate::bindings::QuantAppendParams;
use crate::buffer::{View, ViewMut};
use crate::element::Half;
use crate::kv::KvViewMut;
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::turn::Turn;

kernel_params!(QuantAppendParams, "quant", "append_kv");

/// The same struct for the launch before.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ToCount(#[allow(dead_code, reason = "the kernel reads it")] QuantAppendParams);

kernel_params!(ToCount, "quant", "count_appended");

/// What is appended.
#[derive(Debug, Clone, Copy)]
pub struct NewTokens<'a, T> {
    /// `[batch, n_tokens, n_heads, head_dim]`, tokens the plan's stride apart, from a multiple of 16 bytes on:
    /// [`AppendPlan::keys_len`] elements.
    pub keys: View<'a, T>,
    /// The same, [`AppendPlan::values_len`] elements.
    pub values: View<'a, T>,
    /// `[batch]`: how many of a request's tokens there are, the first ones; else all. More count as all.
    pub counts: Option<View<'a, u32>>,
    /// `[batch, n_tokens]`: not 0 where a token is kept; else all are.
    pub keeps: Option<View<'a, u32>>,
    /// `[batch, n_tokens]`: the position of each token; else the request's length and its place among the new tokens, of which those that are
    /// not kept count too. A length says how many tokens were kept: whoever has left some out gives positions.
    pub positions: Option<View<'a, i32>>,
    /// `[n_positions, rotary_dim]`, from a multiple of 16 bytes on: cosines of each position's angles, and then their sines; none where
    /// keys are not turned.
    pub cos_sin: Option<View<'a, f32>>,
}

/// What [`append_kv`] writes beside rows.
#[derive(Debug)]
pub struct AppendOutputs<'a> {
    /// `[batch]`: how many rows each request then has. Not the lengths before, which blocks read: an engine has two buffers by turns.
    pub new_lengths: ViewMut<'a, u32>,
    /// `[batch]`: how many of the kept tokens found no room.
    pub dropped: Option<ViewMut<'a, u32>>,
    /// [`AppendPlan::workspace_len`] words, of any content; may be left out where that is 0.
    pub workspace: Option<ViewMut<'a, u32>>,
}

/// New tokens into a paged cache, those of them that are kept, and keys turned by their positions on the way.
///
/// ```text
/// row lengths[b] + i = the i-th t < counts[b] with keeps[b, t] != 0, ascending, while there is room
/// new_lengths[b] = lengths[b] + how many that were
/// ```
///
/// It is what engines call `reshape_and_cache` (vLLM), without a slot for each token made on the host; and predicated, as Dynamic-LLaVA
/// (arXiv:2412.00876) keeps a token's key and value or not. Room ends before the first row past the page table, or of a page that is none: so many rows there are, without
/// holes, and what comes after is dropped and counted.
///
/// # Shapes
/// Those of [`NewTokens`] and [`AppendOutputs`]; sizes are the plan's. Lengths, counts,
/// masks, positions and page tables are read on the device, so that a captured graph serves every step. A length past the table stays what it is. A page of two requests'
/// tables is written by both.
///
/// # Numerics
/// Bit for bit [`reference::append`](crate::quant::reference::append): elements that are not turned are copied, whatever they are. Of a pair `(x, y)` that is,
/// `x' = fma(-y, sin, x * cos)` and `y' = fma(x, sin, y * cos)` in f32, rounded to `T` once. A position outside those with angles counts as the nearest.
///
/// # Stream
/// One launch; two where a request has more than 1,024 tokens, the first of which counts them. No allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched; [`Error::Driver`](crate::Error::Driver) where a launch fails.
pub fn append_kv<T: Half>(
    queue: &Queue,
    plan: &AppendPlan,
    tokens: &NewTokens<'_, T>,
    target: &mut KvViewMut<'_, T>,
    outputs: &mut AppendOutputs<'_>,
) -> Result<()> {
    let (shape, batch) = (plan.shape(), plan.shape().layout.shape().batch);
    target.as_view().check_planned(&shape.layout)?;
    let AppendOutputs { new_lengths, dropped, workspace } = outputs;
    check_same("workspace", plan.workspace_len(), workspace.as_ref().map_or(0, ViewMut::len))?;
    let allowed = "the multiples of 16 bytes";
    check_aligned("address of new keys", tokens.keys.address(), 16, allowed)?;
    check_aligned("address of new values", tokens.values.address(), 16, allowed)?;
    if let Some(cos_sin) = &tokens.cos_sin {
        check_aligned("address of cos_sin", cos_sin.address(), 16, allowed)?;
    }
    let n_tables = u64::from(shape.turn != Turn::None);
    check_same("tables of cos_sin", n_tables, tokens.cos_sin.iter().len())?;

    let mut arguments = Arguments::new(queue);
    let counts = tokens.counts.as_ref();
    let (keeps, n_tokens) = (tokens.keeps.as_ref(), plan.tokens_len());
    let positions = tokens.positions.as_ref();
    let mut params = QuantAppendParams {
        kv: target.params(&mut arguments)?,
        keys: arguments.input("new keys", &tokens.keys, plan.keys_len())?,
        values: arguments.input("new values", &tokens.values, plan.values_len())?,
        counts: arguments.optional_input("counts", counts, batch)?,
        keeps: arguments.optional_input("keeps", keeps, n_tokens)?,
        positions: arguments.optional_input("positions", positions, n_tokens)?,
        cos_sin: arguments.optional_input(
            "cos_sin",
            tokens.cos_sin.as_ref(),
            plan.cos_sin_len(),
        )?,
        new_lengths: arguments.written(Role::Output, "new_lengths", new_lengths, batch)?,
        dropped: arguments.optional_written(Role::Output, "dropped", dropped.as_ref(), batch)?,
        tiles: 0,
        key_stride: shape.key_stride,
        value_stride: shape.value_stride,
        n_tokens: shape.n_tokens as u32,
        n_tiles: plan.n_tiles() as u32,
        block_tokens: plan.block_tokens() as u32,
        n_positions: shape.n_positions.clamp(1, 1 << 26) as u32,
        rotary_dim: shape.rotary_dim as u32,
        turn: shape.turn.number(),
    };
    if let Some(workspace) = workspace.as_ref().filter(|_| plan.n_tiles() != 1) {
        let n_words = plan.workspace_len();
        let mut first = Arguments::new(queue);
        first.input("page_table", &target.page_table, shape.layout.table_len())?;
        first.input("lengths", &target.lengths, batch)?;
        first.optional_input("counts", counts, batch)?;
        first.optional_input("keeps", keeps, n_tokens)?;
        params.tiles = first.written(Role::Workspace, "counts of tiles", workspace, n_words)?;
        arguments.input("counts of tiles", &workspace.as_view(), n_words)?;
        // SAFETY: the plan's sizes are below the limits of the struct's fields; of the addresses that it does not name the kernel asks for none.
        unsafe { first.launch(&plan.count_grid(), &ToCount(params)) }?;
    }
    // SAFETY: as above; the launch before wrote what this one reads.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
