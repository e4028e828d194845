//! The launches that keep saliency.
#![allow(unsafe_code)]

use super::{Norm, NormsPlan, SaliencyPlan};
use crate::bindings::{
    QuantAddSaliencyParams, QuantBeginSaliencyParams, QuantNormsParams, QuantWeighSaliencyParams,
};
use crate::buffer::{View, ViewMut};
use crate::element::Float;
use crate::kv::KvView;
use crate::launch::{Arguments, check_same, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::MassPlan;
use crate::{Error, Result};

kernel_params!(QuantBeginSaliencyParams, "quant", "begin_saliency");
kernel_params!(QuantAddSaliencyParams, "quant", "add_saliency");
kernel_params!(QuantWeighSaliencyParams, "quant", "weigh_saliency");
kernel_params!(QuantNormsParams, "quant", "measure_norms");

/// Running saliency: what launches leave for those that follow.
#[derive(Debug)]
pub struct SaliencyState<'a> {
    /// `[batch, n_heads, n_tokens]`: sums of the weights that probes gave each token.
    pub sums: ViewMut<'a, f32>,
    /// The same: how many probes, rows of queries, saw it. Exact up to 2^24.
    pub counts: ViewMut<'a, f32>,
}

impl SaliencyState<'_> {
    fn params(
        &self,
        plan: &SaliencyPlan,
        role: Role,
        arguments: &mut Arguments<'_>,
    ) -> Result<[u64; 2]> {
        let n = plan.state_len();
        Ok([
            arguments.written(role, "sums", &self.sums, n)?,
            arguments.written(role, "counts", &self.counts, n)?,
        ])
    }
}

/// What a prompt's probes attended to.
#[derive(Debug, Clone, Copy)]
pub struct MassesOfPrompt<'a> {
    /// `[batch, n_heads, mass_stride]`, as [`column_mass`](crate::select::column_mass) leaves them: [`MassPlan::masses_len`] elements.
    pub masses: View<'a, f32>,
    /// `[batch, n_probes]`: tokens that a probe sees, as `column_mass` had them.
    pub n_visible: View<'a, u32>,
    /// `[batch]`: tokens of each request.
    pub lengths: View<'a, u32>,
    /// `[batch]`: requests where it is not 0 are left alone, as those that have begun before.
    pub skips: Option<View<'a, u32>>,
}

/// Begins running saliency with the masses that a prompt's probes left: a new request's, or, by zeros where there is no length, that of one
/// without probes.
///
/// ```text
/// sums[b, h, i]   = masses[b, h, i]                          of i below lengths[b] and the masses' n, else 0
/// counts[b, h, i] = group * how many n_visible[b] are above i, of the same i, else 0
/// ```
///
/// # Shapes
/// Those of [`MassesOfPrompt`] and [`SaliencyState`]. `mass_plan` is that of the masses, and they must be sums: of each head of keys, no means, not
/// by probes; the counts are kept beside them. Lengths and what probes see are read on the device.
///
/// # Numerics
/// Bit for bit [`reference::Seen::of_prompt`](crate::quant::reference::Seen::of_prompt).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::Range`], [`Error::Number`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched;
/// [`Error::Driver`] where the launch fails.
pub fn begin_saliency(
    queue: &Queue,
    plan: &SaliencyPlan,
    mass_plan: &MassPlan,
    inputs: &MassesOfPrompt<'_>,
    state: &mut SaliencyState<'_>,
) -> Result<()> {
    let (shape, of_masses) = (plan.shape(), mass_plan.shape());
    for (what, expected, got) in [
        ("requests of the masses", shape.batch, mass_plan.batch()),
        ("query heads of the masses", shape.n_q_heads, of_masses.n_q_heads),
        ("heads of the masses", shape.n_heads, mass_plan.n_out()),
    ] {
        if expected != got {
            return Err(Error::Shape { what, expected, got });
        }
    }
    let (what, value) = ("scale of the masses", mass_plan.mass_scale());
    if value != 1.0 {
        return Err(Error::Number { what, value, allowed: "1: sums, not means" });
    }
    if of_masses.is_per_probe {
        let (what, allowed) = ("masses by probes", "0: sums, not means");
        return Err(Error::Range { what, value: 1, allowed });
    }
    let mut arguments = Arguments::new(queue);
    let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
    let [sums, counts] = state.params(plan, role, &mut arguments)?;
    let n_seen = mass_plan.visible_len();
    let params = QuantBeginSaliencyParams {
        masses: arguments.input("masses", &inputs.masses, mass_plan.masses_len())?,
        n_visible: arguments.input("n_visible", &inputs.n_visible, n_seen)?,
        lengths: arguments.input("lengths", &inputs.lengths, shape.batch)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), shape.batch)?,
        sums,
        counts,
        mass_stride: of_masses.mass_stride,
        n_probes: of_masses.n_probes as u32,
        n_massed: of_masses.n as u32,
        n_tokens: shape.n_tokens as u32,
        group: plan.group() as u32,
    };
    // SAFETY: the plans' sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.begin_grid(), &params) }
}

/// What attention wrote of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepLogits<'a> {
    /// `[batch, n_queries, n_q_heads, n_positions]`: to base 2; -inf where nothing stands or the query does not see it.
    pub logits: View<'a, f32>,
    /// One for each query and query head, in the shape's order and base: of the logits, and of whatever else attention had in its softmax.
    pub log_sums: View<'a, f32>,
    /// `[batch, n_heads, n_positions]`: the token at each position; others than `0..n_tokens` are none. Else positions are tokens. No token may
    /// stand at two positions of a head: which of the two additions would stay is not said.
    pub tokens: Option<View<'a, i32>>,
    /// `[batch]`: requests where it is not 0 are left alone, as in steps that are no probes of theirs.
    pub skips: Option<View<'a, u32>>,
}

/// Adds a step's attention to running saliency, from the logits that attention itself wrote: no key is read again. What H2O
/// (arXiv:2306.14048) accumulates and ZipCache (arXiv:2405.14256) normalises, at decoding.
///
/// ```text
/// rows        = queries q, heads g of the group of h; a log_sum[b, q, g] that is not finite counts as +inf
/// seeing      = rows whose logit[b, q, g, p] - log_sum[b, q, g] is not -inf
/// sums[b, h, tokens[b, h, p]]   = decay * what it was + sum over seeing: 2^(logit[b, q, g, p] - log_sum[b, q, g] to base 2)
/// counts[b, h, tokens[b, h, p]] = decay * what it was + how many are seeing
/// ```
///
/// A token that no row sees stays what it was, and is not forgotten either.
///
/// # Shapes
/// Those of [`StepLogits`] and [`SaliencyState`]; sizes are the plan's. Tokens and skips are read on the device, so that a captured graph
/// serves every step.
///
/// # Numerics
/// In f32, rows in ascending order of queries and of heads of the group: bit for bit
/// [`reference::Seen::add`](crate::quant::reference::Seen::add). A row adds 1 to a token at most, whatever its logits: a logit above the
/// log-sum counts as it. Of a NaN logit nothing is added, and the row counts: else its token would stay fresh. A row with a log-sum that is infinite
/// or NaN, as NaN logits make it, sees what those are of (and those of +inf), and nothing else.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`], [`Error::WrongQueue`] and [`Error::WrongStream`] before anything is launched; [`Error::Driver`] where the launch fails.
pub fn add_saliency(
    queue: &Queue,
    plan: &SaliencyPlan,
    inputs: &StepLogits<'_>,
    state: &mut SaliencyState<'_>,
) -> Result<()> {
    let shape = plan.shape();
    let mut arguments = Arguments::new(queue);
    let [sums, counts] = state.params(plan, Role::InOut, &mut arguments)?;
    let sizes = [shape.batch * shape.n_queries, shape.n_queries, shape.n_q_heads];
    let strides = shape.log_sum_order.strides(sizes);
    let (tokens, n_positions) = (inputs.tokens.as_ref(), plan.positions_len());
    let params = QuantAddSaliencyParams {
        logits: arguments.input("logits", &inputs.logits, plan.logits_len())?,
        log_sums: arguments.input("log_sums", &inputs.log_sums, plan.log_sums_len())?,
        tokens: arguments.optional_input("tokens", tokens, n_positions)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), shape.batch)?,
        sums,
        counts,
        request_stride: strides.request,
        query_stride: strides.query,
        head_stride: strides.head,
        log2_scale: plan.log2_scale(),
        decay: shape.decay,
        n_positions: shape.n_positions as u32,
        n_tokens: shape.n_tokens as u32,
        n_queries: shape.n_queries as u32,
        group: plan.group() as u32,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.add_grid(), &params) }
}

/// What [`weigh_saliency`] reads.
#[derive(Debug, Clone, Copy)]
pub struct SaliencyInputs<'a> {
    /// `[batch, n_heads, n_tokens]`, of [`SaliencyState`].
    pub sums: View<'a, f32>,
    /// The same.
    pub counts: View<'a, f32>,
    /// The same: what each token's saliency is multiplied by, as [`measure_norms`] leaves it, or an engine that projects values.
    pub norms: Option<View<'a, f32>>,
    /// `[batch]`: tokens of each request; else all.
    pub lengths: Option<View<'a, u32>>,
    /// `[batch]`: requests where it is not 0 are left alone.
    pub skips: Option<View<'a, u32>>,
}

/// Scores of tokens, which [`topk_rows`](crate::select::topk_rows) ranks (its lengths are these), from running saliency: that of ZipCache
/// (arXiv:2405.14256), or with norms what CriticalKV (arXiv:2502.03805) fills the second half of its budget by. Its norms are of values that are projected,
/// each query head's by its own part of the projection; here all query heads of a head of keys have one norm.
///
/// ```text
/// saliency        = sums[b, h, i] / counts[b, h, i], or without `is_per_probe` sums[b, h, i]
/// scores[b, l, i] = sum over heads h of l: (saliency + floor) * norms[b, h, i]
///                 = fresh, where the count of any of these heads is 0
/// ```
///
/// # Shapes
/// Those of [`SaliencyInputs`]; `scores` is `[batch, n_lists, n_tokens]`, and what a request has no tokens for stays what it was. Lengths and skips are
/// read on the device.
///
/// # Numerics
/// In f32, heads in ascending order: bit for bit [`reference::weigh_token`](crate::quant::reference::weigh_token). What would be infinite
/// or NaN is NaN, which ranks last: only what no probe saw may have an infinite score, since what a cache or a state has in it must not keep
/// its token for ever.
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`add_saliency`].
pub fn weigh_saliency(
    queue: &Queue,
    plan: &SaliencyPlan,
    inputs: &SaliencyInputs<'_>,
    scores: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let (shape, n) = (plan.shape(), plan.state_len());
    let mut arguments = Arguments::new(queue);
    let is_whole = inputs.skips.is_none() && inputs.lengths.is_none();
    let role = if is_whole { Role::Output } else { Role::InOut };
    let params = QuantWeighSaliencyParams {
        sums: arguments.input("sums", &inputs.sums, n)?,
        counts: arguments.input("counts", &inputs.counts, n)?,
        norms: arguments.optional_input("norms", inputs.norms.as_ref(), n)?,
        lengths: arguments.optional_input("lengths", inputs.lengths.as_ref(), shape.batch)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), shape.batch)?,
        scores: arguments.written(role, "scores", scores, plan.scores_len())?,
        n_tokens: shape.n_tokens as u32,
        n_heads_together: plan.n_heads_together() as u32,
        is_per_row: u32::from(shape.is_per_probe),
        floor: shape.floor,
        fresh: shape.fresh,
        reserved: 0,
    };
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe { arguments.launch(&plan.weigh_grid(), &params) }
}

/// Norms of the values of a paged cache, of rows that came since: what CriticalKV (arXiv:2502.03805) multiplies attention by, of values as they are
/// in the cache (norms of projected ones are the engine's to make, in the same shape).
///
/// ```text
/// norms[b, h, i] = norm of values[b, h, i], of i from firsts[b] up to the request's length
/// ```
///
/// # Shapes
/// `norms` is `[batch, n_heads, n_tokens]`; what lies before the first row or past the length stays what it was. `firsts` is `[batch]`, else all rows
/// are measured. Lengths, page tables and `firsts` are read on the device; a row without a page has a norm of 0.
///
/// # Numerics
/// In f32: bit for bit [`reference::norm_of_row`](crate::quant::reference::norm_of_row).
///
/// # Stream
/// One launch; no allocation, copy or synchronisation.
///
/// # Errors
/// Those of [`add_saliency`], and [`Error::Range`] for what no kernel reads of a cache.
pub fn measure_norms<T: Float>(
    queue: &Queue,
    plan: &NormsPlan,
    cache: &KvView<'_, T>,
    firsts: Option<View<'_, u32>>,
    norms: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let shape = plan.shape();
    cache.check_layout(&shape.layout)?;
    check_same("pools of values", 1, cache.values.iter().len())?;
    let mut arguments = Arguments::new(queue);
    let mut kv = cache.params(&mut arguments)?;
    kv.value_scale = kv.value_scale.abs();
    let batch = shape.layout.shape().batch;
    let params = QuantNormsParams {
        kv,
        firsts: arguments.optional_input("firsts", firsts.as_ref(), batch)?,
        norms: arguments.written(Role::InOut, "norms", norms, plan.norms_len())?,
        n_tokens: shape.n_tokens as u32,
        power: match shape.norm {
            Norm::L1 => 1,
            Norm::L2 => 2,
        },
    };
    // SAFETY: as above.
    unsafe { arguments.launch(&plan.grid(), &params) }
}
