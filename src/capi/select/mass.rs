//! `column_mass`.

use crate::capi::abi::{
    borrow, check_reserved, free, give, lacuna_header, or, or_f32, read, structs, truth, write,
};
use crate::capi::device::lacuna_queue;
use crate::capi::dtype::{with_cached, with_real};
use crate::capi::kv::{lacuna_kv, lacuna_kv_shape};
use crate::capi::status::{Outcome, answer, lacuna_status};
use crate::capi::view::{lacuna_view, lacuna_view_mut};
use crate::select::{MassInputs, MassOutputs, MassPlan, MassShape};

/// Sizes of `lacuna_column_mass`, and what it sums.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_column_mass_shape {
    pub header: lacuna_header,
    /// The cache of keys; rows of 512 elements at most.
    pub kv: *const lacuna_kv_shape,
    /// Query heads: 1 to 16 for each head of keys.
    pub n_q_heads: u64,
    /// Probes of a request, the queries whose attention is summed: at most 4,096.
    pub n_probes: u64,
    /// Elements from one request's probes to the next's; 0 is `n_probes * probe_stride`.
    pub request_stride: u64,
    /// Elements from one probe to the next; 0 is those of its heads.
    pub probe_stride: u64,
    /// Tokens of a request whose mass is wanted, at most, below 2^24; 0 is all that the page table holds.
    pub n: u64,
    /// Elements from one row of masses to the next, at least `n`; 0 is `n`.
    pub mass_stride: u64,
    /// The type of probes: bf16, f16 or f32.
    pub probe_dtype: u32,
    /// 1: a row of masses for each head of keys; 0: one for all.
    pub is_per_head: u32,
    /// 1: the sum over the heads that are added; 0: their mean.
    pub is_sum: u32,
    /// 1: divided by the number of probes that see the token; else 0.
    pub is_per_probe: u32,
    /// What scores are multiplied by in softmaxes; 0 is one over the root of the head's dimension.
    pub softmax_scale: f32,
    /// 0.
    pub reserved: u32,
}

/// Elements of each view of `lacuna_column_mass_args`, by the same names; of the cache, `lacuna_kv_shape_sizes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_column_mass_sizes {
    pub header: lacuna_header,
    pub probes: u64,
    pub n_visible: u64,
    pub skips: u64,
    pub masses: u64,
    pub softmaxes: u64,
    pub workspace: u64,
}

/// What `lacuna_column_mass` reads and writes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_column_mass_args {
    pub header: lacuna_header,
    /// `[batch, n_probes, n_q_heads, head_dim]` of the shape's dtype, with its strides.
    pub probes: lacuna_view,
    /// u32 `[batch, n_probes]`: tokens that a probe sees, from the first on: its position and one more.
    pub n_visible: lacuna_view,
    /// The cache of keys; values are not read.
    pub cache: lacuna_kv,
    /// Optional, u32 `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: lacuna_view,
    /// f32 `[batch, n_heads or 1, n]`, rows `mass_stride` elements apart. What a request has no tokens for stays what it was.
    pub masses: lacuna_view_mut,
    /// u64 `[batch, n_heads, n_probes, n_q_heads / n_heads]`: the greatest logit of each softmax and one over its sum, as bits.
    pub softmaxes: lacuna_view_mut,
    /// u64, from a multiple of 16 bytes on: zeros before the first launch, and used by one launch at a time; every launch leaves it
    /// ready.
    pub workspace: lacuna_view_mut,
}

structs! {
    lacuna_column_mass_shape: 88,
    lacuna_column_mass_sizes: 56,
    lacuna_column_mass_args: 256,
}

/// A plan of `lacuna_column_mass`: for any device, and any number of launches at once.
pub struct lacuna_column_mass_plan {
    pub(in crate::capi) plan: MassPlan,
    probe_dtype: u32,
    key_dtype: u32,
}

impl lacuna_column_mass_plan {
    /// # Safety
    /// The shape's struct is the caller's.
    unsafe fn new(shape: &lacuna_column_mass_shape) -> Outcome<Self> {
        check_reserved("lacuna_column_mass_shape", shape.reserved)?;
        // SAFETY: the caller's word.
        let kv = unsafe { read(shape.kv) }?;
        let (probe_dtype, key_dtype) = (shape.probe_dtype, kv.dtype);
        with_real!(probe_dtype, "probes", Q => {
            with_cached!(key_dtype, "keys", K => Ok((size_of::<Q>(), size_of::<K>())))
        })?;
        let usual = MassShape::of(kv.layout()?, shape.n_q_heads, shape.n_probes);
        let probe_stride = or(shape.probe_stride, usual.probe_stride);
        let n = or(shape.n, usual.n);
        let plan = MassPlan::new(MassShape {
            request_stride: or(shape.request_stride, shape.n_probes.saturating_mul(probe_stride)),
            probe_stride,
            n,
            mass_stride: or(shape.mass_stride, n),
            is_over_all_heads: !truth("is_per_head", shape.is_per_head)?,
            is_mean: !truth("is_sum", shape.is_sum)?,
            is_per_probe: truth("is_per_probe", shape.is_per_probe)?,
            softmax_scale: or_f32(shape.softmax_scale, usual.softmax_scale),
            ..usual
        })?;
        Ok(Self { plan, probe_dtype, key_dtype })
    }

    fn sizes(&self) -> lacuna_column_mass_sizes {
        let plan = &self.plan;
        lacuna_column_mass_sizes {
            header: lacuna_header::NONE,
            probes: plan.probes_len(),
            n_visible: plan.visible_len(),
            skips: plan.batch(),
            masses: plan.masses_len(),
            softmaxes: plan.n_softmaxes(),
            workspace: plan.workspace_len(),
        }
    }
}

/// Makes a plan: arithmetic alone, no driver call.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_column_mass_plan_new(
    shape: *const lacuna_column_mass_shape,
    plan: *mut *mut lacuna_column_mass_plan,
) -> lacuna_status {
    // SAFETY: the caller's structs and variable.
    answer(|| unsafe { give("plan", plan, || lacuna_column_mass_plan::new(&read(shape)?)) })
}

/// Ends a plan; null is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_column_mass_plan_free(plan: *mut lacuna_column_mass_plan) {
    // SAFETY: the caller's handle, which he does not use again.
    unsafe { free(plan) }
}

/// How long views must be.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_column_mass_plan_sizes(
    plan: *const lacuna_column_mass_plan,
    sizes: *mut lacuna_column_mass_sizes,
) -> lacuna_status {
    // SAFETY: the caller's handle and struct.
    answer(|| unsafe { write(sizes, &borrow("plan", plan)?.sizes()) })
}

/// Each token's attention mass: its weight in the softmaxes of some queries, the probes, summed over them and over heads (LazyLLM, ZipVL,
/// D2O). `lacuna::select::column_mass` says all of it.
///
/// Two launches; lengths, page tables, what probes see and skips are read on the device.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`, `LACUNA_DTYPE`, `LACUNA_SHAPE`, `LACUNA_RANGE` before anything is launched; `LACUNA_IMAGE`,
/// `LACUNA_DRIVER`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_column_mass(
    queue: *const lacuna_queue,
    plan: *const lacuna_column_mass_plan,
    args: *const lacuna_column_mass_args,
) -> lacuna_status {
    // SAFETY: the caller's handles, struct and memory.
    answer(|| unsafe {
        let (queue, plan, args) = (&borrow("queue", queue)?.0, borrow("plan", plan)?, read(args)?);
        with_real!(plan.probe_dtype, "probes", Q => {
            with_cached!(plan.key_dtype, "keys", K => {
                let inputs = MassInputs::<Q, K> {
                    probes: args.probes.of("probes", queue)?,
                    n_visible: args.n_visible.of("n_visible", queue)?,
                    cache: args.cache.of(&plan.plan.shape().layout, queue)?,
                    skips: args.skips.optional("skips", queue)?,
                };
                let mut outputs = MassOutputs {
                    masses: args.masses.of("masses", queue)?,
                    softmaxes: args.softmaxes.of("softmaxes", queue)?,
                    workspace: args.workspace.of("workspace", queue)?,
                };
                Ok(crate::select::column_mass(queue, &plan.plan, &inputs, &mut outputs)?)
            })
        })
    })
}
