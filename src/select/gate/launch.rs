//! The launch that compares queries with cached ones.
#![allow(unsafe_code)]

use super::GatePlan;
use crate::Result;
use crate::bindings::SelectGateParams;
use crate::buffer::{View, ViewMut};
use crate::launch::{Arguments, check_aligned, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;

kernel_params!(SelectGateParams, "select", "gate_selection");

/// What [`gate_selection`] reads.
#[derive(Debug, Clone, Copy)]
pub struct GateInputs<'a, T> {
    /// `[batch, n]`, rows `query_stride` elements apart, from a multiple of 16 bytes on.
    pub queries: View<'a, T>,
    /// `[batch]`: requests where it is not 0 select again, whatever is cached: a new request in its place, say.
    pub forced: Option<View<'a, u32>>,
    /// `[batch]`: the least cosine of each request; else `theta`.
    pub thetas: Option<View<'a, f32>>,
    /// The least cosine with which a cached selection is used again. Infinity, and NaN: never.
    pub theta: f32,
}

/// What [`gate_selection`] writes.
#[derive(Debug)]
pub struct GateOutputs<'a, T> {
    /// `[batch, n]`, in place, rows `cached_stride` elements apart, from a multiple of 16 bytes on: the queries that
    /// made the cached selections. Anything where `states` is 0.
    pub cached: ViewMut<'a, T>,
    /// `[batch]`, in place: 0 where there is no cached selection yet. Zeros before the first launch; ones after.
    pub states: ViewMut<'a, u32>,
    /// `[batch, rows_per_request]`: 1 where the cached selection may be used, 0 where it must be made.
    pub skips: ViewMut<'a, u32>,
    /// `[batch]`: the cosines; NaN (0x7FFFFFFF) where there is none.
    pub cosines: Option<ViewMut<'a, f32>>,
}

/// Says which requests may use the selection that they have, and caches the queries of the others.
///
/// ```text
/// cosine[b]   = queries[b] · cached[b] / (|queries[b]| |cached[b]|)
/// skips[b, :] = states[b] != 0 and forced[b] == 0 and cosine[b] >= theta
/// cached[b], states[b] = queries[b], 1          where not skips[b]
/// ```
///
/// The kernels that select take `skips` (as [`TopkInputs::skips`](crate::select::TopkInputs::skips)), so that a captured graph leaves
/// out their work. A selection that is used again says nothing of tokens that came since: a local window must.
///
/// TokenSelect's Selection Cache (arXiv 2411.02886): its paper has one threshold of 0.9 for all layers, and its released
/// scripts have the cache off.
///
/// # Shapes
/// Those of [`GateInputs`] and [`GateOutputs`]; sizes are the plan's.
///
/// # Numerics
/// f32, in an order that depends on `n` alone: bit for bit
/// [`reference::gate_query`](crate::select::reference::gate_query). The root of each norm, their product and the quotient are
/// rounded once each, so a query may be a little less or more than 1 like itself. A query with NaN or an infinity, one of zeros,
/// and one whose squares add up to more than f32 has, are like nothing, cached ones too.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::WrongQueue`](crate::Error::WrongQueue)
/// and [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched; [`Error::Driver`](crate::Error::Driver)
/// where the launch fails.
pub fn gate_selection<T: Score>(
    queue: &Queue,
    plan: &GatePlan,
    inputs: &GateInputs<'_, T>,
    outputs: &mut GateOutputs<'_, T>,
) -> Result<()> {
    let shape = plan.shape();
    let GateOutputs { cached, states, skips, cosines } = outputs;
    let batch = shape.batch;
    check_same("bytes of an element", shape.element_bytes.into(), size_of::<T>())?;
    let allowed = "the multiples of 16";
    check_aligned("address of queries", inputs.queries.address(), 16, allowed)?;
    check_aligned("address of cached", cached.address(), 16, allowed)?;
    let mut arguments = Arguments::new(queue);
    let params = SelectGateParams {
        queries: arguments.input("queries", &inputs.queries, plan.queries_len())?,
        cached: arguments.written(Role::InOut, "cached", cached, plan.cached_len())?,
        states: arguments.written(Role::InOut, "states", states, batch)?,
        forced: arguments.optional_input("forced", inputs.forced.as_ref(), batch)?,
        thetas: arguments.optional_input("thetas", inputs.thetas.as_ref(), batch)?,
        skips: arguments.written(Role::Output, "skips", skips, plan.skips_len())?,
        cosines: arguments.optional_written(Role::Output, "cosines", cosines.as_ref(), batch)?,
        query_stride: shape.query_stride,
        cached_stride: shape.cached_stride,
        batch: batch as u32,
        n: shape.n as u32,
        rows_per_request: shape.rows_per_request as u32,
        element: T::NUMBER,
        theta: inputs.theta,
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
