//! The launches that sum columns of attention.
#![allow(unsafe_code)]

use super::MassPlan;
use crate::Result;
use crate::bindings::SelectMassParams;
use crate::buffer::{View, ViewMut};
use crate::element::Float;
use crate::kv::KvView;
use crate::launch::{Arguments, check_aligned, kernel_params};
use crate::queue::Queue;
use crate::region::Role;
use crate::select::Score;

kernel_params!(SelectMassParams, "select", "probe_rows");

/// The same struct for the other launch.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct OfColumns(#[allow(dead_code, reason = "the kernel reads it")] SelectMassParams);

kernel_params!(OfColumns, "select", "column_mass");

/// What [`column_mass`] reads.
#[derive(Debug, Clone, Copy)]
pub struct MassInputs<'a, Q, K> {
    /// `[batch, n_probes, n_q_heads, head_dim]`, with the plan's strides.
    pub probes: View<'a, Q>,
    /// `[batch, n_probes]`: tokens that a probe sees, from the first on: its position and one more.
    pub n_visible: View<'a, u32>,
    /// The cache of keys.
    pub cache: KvView<'a, K>,
    /// `[batch]`: requests where it is not 0 are left alone, their outputs too.
    pub skips: Option<View<'a, u32>>,
}

/// What [`column_mass`] writes.
#[derive(Debug)]
pub struct MassOutputs<'a> {
    /// `[batch, n_out, n]`, rows `mass_stride` elements apart. What a request has no tokens for stays what it was.
    pub masses: ViewMut<'a, f32>,
    /// `[batch, n_heads, n_probes, group]`: [`Softmax`](crate::select::reference::Softmax) as bits.
    pub softmaxes: ViewMut<'a, u64>,
    /// [`MassPlan::workspace_len`] words from a multiple of 16 bytes on, zeros before the first launch; every launch leaves it
    /// ready.
    pub workspace: ViewMut<'a, u64>,
}

/// Each token's attention mass: its weight in the softmaxes of some queries, the probes, summed over them and over heads. What
/// LazyLLM (arXiv:2407.14057: the last token), ZipVL (arXiv:2410.08584: recent and random ones), D2O (arXiv:2406.13035: all of a
/// prompt) and policies of eviction rank tokens by, and what fused attention never has.
///
/// ```text
/// masses[b, o, t] = sum over heads h of o, probes p that see t, query heads q of h: softmax(probes[b, p, q] · keys[b, h])[t]
/// ```
///
/// # Shapes
/// Those of [`MassInputs`] and [`MassOutputs`]; sizes are the plan's. Lengths, page tables, what probes see and skips are read on
/// the device. A tile's keys are read once a launch for all probes of a head.
///
/// # Numerics
/// Bit for bit [`reference::Probed`](crate::select::reference::Probed), on every device:
/// [`number::dot`](crate::number::dot) of f32, softmaxes as those of [`score_rows`](crate::select::score_rows) over f32 scores, of tiles of
/// [`MassPlan::tile`], sums in ascending
/// order. Products are those of fused multiplications, not of tensor cores: of some probes a launch is bound by memory, of many
/// by arithmetic.
///
/// # Stream
/// Two launches; no allocation, copy or synchronisation.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape), [`Error::Range`](crate::Error::Range), [`Error::WrongQueue`](crate::Error::WrongQueue) and
/// [`Error::WrongStream`](crate::Error::WrongStream) before anything is launched; [`Error::Driver`](crate::Error::Driver) where a launch fails.
pub fn column_mass<Q: Score, K: Float>(
    queue: &Queue,
    plan: &MassPlan,
    inputs: &MassInputs<'_, Q, K>,
    outputs: &mut MassOutputs<'_>,
) -> Result<()> {
    let MassOutputs { masses, softmaxes, workspace } = outputs;
    check_aligned("address of the workspace", workspace.address(), 16, "the multiples of 16")?;
    let n_tickets = plan.n_tickets() as usize;
    let n_words = workspace.len();
    let mut first = Arguments::new(queue);
    first.check_workspace(workspace, plan.workspace_len())?;
    let mut second = Arguments::new(queue);
    let mut params = params(plan, inputs, &mut first)?;
    let _ = self::params(plan, inputs, &mut second)?;
    let role = if inputs.skips.is_some() { Role::InOut } else { Role::Output };
    let n_softmaxes = plan.n_softmaxes();
    params.softmaxes = first.written(role, "softmaxes", softmaxes, n_softmaxes)?;
    second.input("softmaxes", &softmaxes.as_view(), n_softmaxes)?;
    let tickets = workspace.slice_mut(0..n_tickets)?;
    params.tickets = first.written(Role::InOut, "tickets", &tickets, plan.n_tickets())?;
    let partials = workspace.slice_mut(n_tickets..n_words)?;
    let n_partials = (n_words - n_tickets) as u64;
    params.partial_softmaxes =
        first.written(Role::Workspace, "partial softmaxes", &partials, n_partials)?;
    params.masses = second.written(Role::InOut, "masses", masses, plan.masses_len())?;
    // SAFETY: the plan's sizes are below the limits of the struct's fields.
    unsafe {
        if plan.shape().n_probes != 0 {
            first.launch(&plan.probe_grid(), &params)?;
        }
        second.launch(&plan.mass_grid(), &OfColumns(params))
    }
}

/// All but the outputs.
fn params<Q: Score, K: Float>(
    plan: &MassPlan,
    inputs: &MassInputs<'_, Q, K>,
    arguments: &mut Arguments<'_>,
) -> Result<SelectMassParams> {
    let shape = plan.shape();
    inputs.cache.check_layout(&shape.layout)?;
    let n_seen = plan.visible_len();
    Ok(SelectMassParams {
        kv: inputs.cache.params(arguments)?,
        probes: arguments.input("probes", &inputs.probes, plan.probes_len())?,
        n_visible: arguments.input("n_visible", &inputs.n_visible, n_seen)?,
        skips: arguments.optional_input("skips", inputs.skips.as_ref(), plan.batch())?,
        softmaxes: 0,
        partial_softmaxes: 0,
        tickets: 0,
        masses: 0,
        request_stride: shape.request_stride,
        probe_stride: shape.probe_stride,
        mass_stride: shape.mass_stride,
        softmax_scale: plan.log2_scale(),
        mass_scale: plan.mass_scale(),
        n: shape.n as u32,
        n_tiles: plan.n_tiles() as u32,
        n_probes: shape.n_probes as u32,
        group: plan.group() as u32,
        n_heads_together: plan.n_heads_together() as u32,
        is_per_probe: u32::from(shape.is_per_probe),
        query_element: Q::NUMBER,
        tile: plan.tile() as u32,
    })
}
