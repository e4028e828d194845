//! `begin_saliency`, `add_saliency`, `weigh_saliency`.

use crate::attention::{LogBase, LogSumOrder};
use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, or_f32, read, structs, truth, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::kv::lists;
use crate::capi::select::lacuna_column_mass_plan;
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::quant::{
    MassesOfPrompt, SaliencyInputs, SaliencyPlan, SaliencyShape, SaliencyState, StepLogits,
};
use crate::queue::Queue;

/// Sizes of `lacuna_begin_saliency`, `lacuna_add_saliency` and `lacuna_weigh_saliency`: how running saliency is kept, and what becomes of it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_saliency_shape {
    pub header: lacuna_header,
    /// Requests.
    pub batch: u64,
    /// Query heads: 1 to 16 for each head of keys.
    pub n_q_heads: u64,
    /// Heads of keys.
    pub n_heads: u64,
    /// Tokens that a request may have, up to 2^26.
    pub n_tokens: u64,
    /// Queries of each request in a step, 1 to 8; 0 is 1.
    pub n_queries: u64,
    /// Positions that a step's logits are of; 0 is `n_tokens`.
    pub n_positions: u64,
    /// A `lacuna_log_sum_order`: that of a step's log-sum-exps.
    pub log_sum_order: u32,
    /// A `lacuna_log_base`: theirs.
    pub log_base: u32,
    /// A `lacuna_kv_lists`: whose scores there are, of each head of keys, or of each request, the sum over its heads.
    pub lists: u32,
    /// 0: sums over the number of probes (rows of queries) that saw the token, as ZipCache has them; 1: sums, as H2O has them.
    pub is_sum: u32,
    /// What a token's sum and count are multiplied by when a step adds to them, up to 1; 0 is 1: nothing is forgotten.
    pub decay: f32,
    /// What is added to each head's saliency before norms: 1e-4 in CriticalKV.
    pub floor: f32,
    /// The score of a token that some head's probes never saw; 0 is infinity, so that none is demoted for lack of probes.
    pub fresh: f32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_begin_saliency_args`, `lacuna_add_saliency_args` and `lacuna_weigh_saliency_args`, by the same names;
/// `masses` and `n_visible` are `lacuna_column_mass_plan_sizes`' to say.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_saliency_sizes {
    pub header: lacuna_header,
    pub lengths: u64,
    pub skips: u64,
    pub sums: u64,
    pub counts: u64,
    pub logits: u64,
    pub log_sums: u64,
    pub tokens: u64,
    pub norms: u64,
    pub scores: u64,
}

/// What `lacuna_begin_saliency` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_begin_saliency_args {
    pub header: lacuna_header,
    /// f32, as `lacuna_column_mass` leaves them, by a plan with `is_per_head` and `is_sum`.
    pub masses: lacuna_view,
    /// u32 `[batch, n_probes]`: tokens that a probe sees, as `lacuna_column_mass` had them.
    pub n_visible: lacuna_view,
    /// u32 `[batch]`: tokens of each request.
    pub lengths: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, as those that have begun before.
    pub skips: lacuna_view,
    /// f32 `[batch, n_heads, n_tokens]`: sums of the weights that probes gave each token.
    pub sums: lacuna_view_mut,
    /// The same: how many probes, rows of queries, saw it. Exact up to 2^24.
    pub counts: lacuna_view_mut,
}

/// What `lacuna_add_saliency` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_add_saliency_args {
    pub header: lacuna_header,
    /// f32 `[batch, n_queries, n_q_heads, n_positions]`, as attention writes them: to base 2; -inf where nothing stands or the query does not
    /// see it.
    pub logits: lacuna_view,
    /// f32, one for each query and query head, in the shape's order and base: of the logits, and of whatever else attention had in its
    /// softmax.
    pub log_sums: lacuna_view,
    /// Optional, i32 `[batch, n_heads, n_positions]`: the token at each position; others than `0..n_tokens` are none. Else positions are tokens. No
    /// token may stand at two positions of a head.
    pub tokens: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, as in steps that are no probes of theirs.
    pub skips: lacuna_view,
    /// f32 `[batch, n_heads, n_tokens]`, read and written.
    pub sums: lacuna_view_mut,
    /// The same.
    pub counts: lacuna_view_mut,
}

/// What `lacuna_weigh_saliency` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_weigh_saliency_args {
    pub header: lacuna_header,
    /// f32 `[batch, n_heads, n_tokens]`.
    pub sums: lacuna_view,
    /// The same.
    pub counts: lacuna_view,
    /// Optional, the same: what each token's saliency is multiplied by, as `lacuna_measure_norms` leaves it.
    pub norms: lacuna_view,
    /// Optional, u32 `[batch]`: tokens of each request; else all.
    pub lengths: lacuna_view,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone.
    pub skips: lacuna_view,
    /// f32 `[batch, n_heads or 1, n_tokens]`; what a request has no tokens for stays what it was.
    pub scores: lacuna_view_mut,
}

structs! {
    lacuna_saliency_shape: 88,
    lacuna_saliency_sizes: 80,
    lacuna_begin_saliency_args: 152,
    lacuna_add_saliency_args: 152,
    lacuna_weigh_saliency_args: 152,
}

/// A plan of `lacuna_begin_saliency`, `lacuna_add_saliency` and `lacuna_weigh_saliency`: for any device, and any number of launches at
/// once.
pub struct lacuna_saliency_plan(SaliencyPlan);

impl lacuna_saliency_plan {
    fn new(shape: &lacuna_saliency_shape) -> Outcome<Self> {
        check_reserved("lacuna_saliency_shape", shape.reserved)?;
        let log_sum_order = match shape.log_sum_order {
            0 => LogSumOrder::TokensHeads,
            1 => LogSumOrder::HeadsTokens,
            2 => LogSumOrder::BatchHeadsQueries,
            order => return Err(Failure::number("log_sum_order", order, "lacuna_log_sum_order")),
        };
        let base = match shape.log_base {
            0 => LogBase::E,
            1 => LogBase::Two,
            base => return Err(Failure::number("log_base", base, "lacuna_log_base")),
        };
        let lacuna_saliency_shape { batch, n_q_heads, n_heads, n_tokens, .. } = *shape;
        let usual = SaliencyShape::of(batch, n_q_heads, n_heads, n_tokens);
        Ok(Self(SaliencyPlan::new(SaliencyShape {
            n_queries: or(shape.n_queries, usual.n_queries),
            n_positions: or(shape.n_positions, usual.n_positions),
            log_sum_order,
            base,
            decay: or_f32(shape.decay, usual.decay),
            lists: lists(shape.lists)?,
            is_per_probe: !truth("is_sum", shape.is_sum)?,
            floor: shape.floor,
            fresh: or_f32(shape.fresh, usual.fresh),
            ..usual
        })?))
    }

    fn sizes(&self) -> lacuna_saliency_sizes {
        let (plan, batch) = (&self.0, self.0.shape().batch);
        lacuna_saliency_sizes {
            header: lacuna_header::NONE,
            lengths: batch,
            skips: batch,
            sums: plan.state_len(),
            counts: plan.state_len(),
            logits: plan.logits_len(),
            log_sums: plan.log_sums_len(),
            tokens: plan.positions_len(),
            norms: plan.state_len(),
            scores: plan.scores_len(),
        }
    }
}

/// # Safety
/// The memory is the caller's as the header's head says.
unsafe fn state<'a>(
    sums: &lacuna_view_mut,
    counts: &lacuna_view_mut,
    queue: &Queue,
) -> Outcome<SaliencyState<'a>> {
    // SAFETY: the caller's word.
    unsafe {
        Ok(SaliencyState { sums: sums.of("sums", queue)?, counts: counts.of("counts", queue)? })
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_saliency_plan_new(
    shape: *const lacuna_saliency_shape,
    plan: *mut *mut lacuna_saliency_plan,
) -> lacuna_status {
    // SAFETY: the caller's struct and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_saliency_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_saliency_plan_free(plan: *mut lacuna_saliency_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_saliency_plan_sizes(
    plan: *const lacuna_saliency_plan,
    sizes: *mut lacuna_saliency_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Begins running saliency with the masses that a prompt's probes left: a new request's, or, by zeros where there is no length, that of one
/// without probes. `mass_plan` is that of the masses. `lacuna::quant::begin_saliency` says all of it.
///
/// One launch; lengths, skips and what probes see are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`; `LACUNA_RANGE` for masses that are no sums of each head; all before
/// anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_begin_saliency(
    queue: *const lacuna_queue,
    plan: *const lacuna_saliency_plan,
    mass_plan: *const lacuna_column_mass_plan,
    args: *const lacuna_begin_saliency_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let mass_plan = &borrow("mass_plan", mass_plan)?.plan;
        let inputs = MassesOfPrompt {
            masses: args.masses.of("masses", queue)?,
            n_visible: args.n_visible.of("n_visible", queue)?,
            lengths: args.lengths.of("lengths", queue)?,
            skips: args.skips.optional("skips", queue)?,
        };
        let mut state = state(&args.sums, &args.counts, queue)?;
        Ok(crate::quant::begin_saliency(queue, &plan.0, mass_plan, &inputs, &mut state)?)
    })
}

/// Adds a step's attention to running saliency, from the logits that attention itself wrote: no key is read again.
/// `lacuna::quant::add_saliency` says all of it.
///
/// One launch; tokens and skips are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE` before anything is launched; `LACUNA_IMAGE`, `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_add_saliency(
    queue: *const lacuna_queue,
    plan: *const lacuna_saliency_plan,
    args: *const lacuna_add_saliency_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let inputs = StepLogits {
            logits: args.logits.of("logits", queue)?,
            log_sums: args.log_sums.of("log_sums", queue)?,
            tokens: args.tokens.optional("tokens", queue)?,
            skips: args.skips.optional("skips", queue)?,
        };
        let mut state = state(&args.sums, &args.counts, queue)?;
        Ok(crate::quant::add_saliency(queue, &plan.0, &inputs, &mut state)?)
    })
}

/// Scores of tokens, which `lacuna_topk_rows` ranks, from running saliency: that of ZipCache or of H2O, or with norms that of CriticalKV.
/// `lacuna::quant::weigh_saliency` says all of it.
///
/// One launch; lengths and skips are read on the device.
///
/// Errors: those of `lacuna_add_saliency`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_weigh_saliency(
    queue: *const lacuna_queue,
    plan: *const lacuna_saliency_plan,
    args: *const lacuna_weigh_saliency_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        let inputs = SaliencyInputs {
            sums: args.sums.of("sums", queue)?,
            counts: args.counts.of("counts", queue)?,
            norms: args.norms.optional("norms", queue)?,
            lengths: args.lengths.optional("lengths", queue)?,
            skips: args.skips.optional("skips", queue)?,
        };
        let mut scores = args.scores.of("scores", queue)?;
        Ok(crate::quant::weigh_saliency(queue, &plan.0, &inputs, &mut scores)?)
    })
}
