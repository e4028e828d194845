//! The launch that attends to keys some of which it makes.
#![allow(unsafe_code)]

use super::plan::LowRankPlan;
use crate::Result;
use crate::attention::attend::params;
use crate::attention::{AttendInputs, AttendOutputs};
use crate::bindings::{AttentionLowRank, AttentionLowRankParams};
use crate::buffer::View;
use crate::element::{Half, Real};
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::turn::Turn;

kernel_params!(AttentionLowRankParams, "attention", "attend_low_rank");

/// What the keys of a segment are made of.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a, T> {
    /// `[batch, n_factors, rank]`, from a multiple of 16 bytes on: a row for each token, before it is turned.
    pub factors: View<'a, T>,
    /// `[batch, n_heads, head_dim, rank]`, the same.
    pub basis: View<'a, T>,
    /// `[n_factors, head_dim]`, from a multiple of 8 bytes on: cosines of each position's angles, and then their sines; none
    /// where keys are not turned.
    pub cos_sin: Option<View<'a, f32>>,
    /// Of each of the segment's blocks, the block of its cache where its values are, as `tier_resolve` gives slots; else the same
    /// block.
    pub value_indices: Option<View<'a, i32>>,
}

/// As [`attend`](crate::attention::attend), but that the keys of one segment of blocks are not stored: they are made on chip of
/// factors of low rank, turned by their positions, and never written (ShadowKV).
///
/// ```text
/// key[t, h] = turn(factors[t] · basis[h], t)
/// value[t]  = the segment's cache at value_indices, or at t
/// ```
///
/// # Shapes
/// Those of [`AttendInputs`], [`LowRank`] and [`AttendOutputs`]; sizes are the plan's. The segment's cache has values where the lists say, and keys that
/// nothing reads (its values' view will do); its lengths say how many tokens a request has, with `value_indices` also more than it has rows.
///
/// # Numerics
/// Bit for bit [`reference::Attended`](crate::attention::reference::Attended) with
/// [`reference::HostLowRank`](crate::attention::reference::HostLowRank): products as the device's tensor cores make them, turned in f32, rounded once.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`attend`](crate::attention::attend).
pub fn attend_low_rank<T: Half, O: Real>(
    queue: &Queue,
    plan: &LowRankPlan,
    inputs: &AttendInputs<'_, T>,
    low_rank: &LowRank<'_, T>,
    outputs: &mut AttendOutputs<'_, O>,
) -> Result<()> {
    let shape = plan.low_rank();
    let mut arguments = Arguments::new(queue);
    let attend = params(plan.attend(), inputs, outputs, &mut arguments)?;
    for (what, address) in [
        ("address of factors", low_rank.factors.address()),
        ("address of the basis", low_rank.basis.address()),
    ] {
        check_aligned(what, address, 16, "the multiples of 16")?;
    }
    if let Some(cos_sin) = &low_rank.cos_sin {
        check_aligned("address of cos_sin", cos_sin.address(), 8, "the multiples of 8")?;
    }
    let n_tables = u64::from(shape.turn != Turn::None);
    check_same("tables of cos_sin", n_tables, low_rank.cos_sin.iter().len())?;
    let params = AttentionLowRankParams {
        attend,
        low_rank: AttentionLowRank {
            factors: arguments.input("factors", &low_rank.factors, plan.factors_len())?,
            basis: arguments.input("basis", &low_rank.basis, plan.basis_len())?,
            cos_sin: arguments.optional_input(
                "cos_sin",
                low_rank.cos_sin.as_ref(),
                plan.cos_sin_len(),
            )?,
            value_indices: arguments.optional_input(
                "value_indices",
                low_rank.value_indices.as_ref(),
                plan.value_indices_len(),
            )?,
            n_factors: shape.n_factors as u32,
            rank: shape.rank as u32,
            head_dim: plan.attend().shape().head_dim as u32,
            segment: shape.segment as u32,
            turn: shape.turn.number(),
            reserved: 0,
        },
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
