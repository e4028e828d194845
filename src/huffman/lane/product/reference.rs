//! A product's sums on their way to outputs: what the kernel must give, bit for bit, for any bytes.

use super::super::RawLane;
use super::super::reference::multiply;
use crate::element::Real;
use crate::mma::Model;
use crate::number::exp2;

/// One matrix of a product, and what is added to its sums.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceFactor<'a, T> {
    /// `[n_rows, n_columns]`.
    pub planes: RawLane<'a>,
    /// `[n_rows]`.
    pub bias: Option<&'a [T]>,
    /// `[n_inputs, n_rows]`.
    pub residual: Option<&'a [T]>,
}

/// `output[c][r] = weight[r] . x[c] + bias[r] + residual[c][r]` in f32, rounded once; the sums are [`multiply`]'s.
///
/// # Panics
/// Where a length is not as said above.
pub fn product<T: Real>(
    model: Model,
    factor: &ReferenceFactor<'_, T>,
    x: &[u16],
    n_inputs: usize,
) -> Vec<T> {
    let sums = biased(model, factor, x, n_inputs);
    let residual = |idx: usize| factor.residual.map(|residual| residual[idx].to_f32());
    let outputs = sums.into_iter().enumerate();
    outputs.map(|(idx, sum)| T::from_f32(residual(idx).map_or(sum, |more| sum + more))).collect()
}

/// `output[c][r] = silu(gate[r] . x[c] + bias) * (up[r] . x[c] + bias) + residual[c][r]` in f32, rounded once; the gate's residual counts.
///
/// # Panics
/// Where a length is not as said above.
pub fn gated_product<T: Real>(
    model: Model,
    gate: &ReferenceFactor<'_, T>,
    up: &ReferenceFactor<'_, T>,
    x: &[u16],
    n_inputs: usize,
) -> Vec<T> {
    let gates = biased(model, gate, x, n_inputs);
    let ups = biased(model, up, x, n_inputs);
    let outputs = gates.into_iter().zip(ups).enumerate();
    outputs
        .map(|(idx, (gate_sum, up_sum))| {
            let value = silu(gate_sum) * up_sum;
            T::from_f32(gate.residual.map_or(value, |residual| value + residual[idx].to_f32()))
        })
        .collect()
}

fn biased<T: Real>(
    model: Model,
    factor: &ReferenceFactor<'_, T>,
    x: &[u16],
    n_inputs: usize,
) -> Vec<f32> {
    let n_rows = factor.planes.shape.n_rows() as usize;
    let mut sums = multiply(model, &factor.planes, x, n_inputs);
    if let Some(bias) = factor.bias {
        for rows in sums.chunks_mut(n_rows) {
            rows.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias.to_f32());
        }
    }
    sums
}

/// `g / (1 + e^-g)`, of NaN NaN; where `e^-|g|` is below 2^-125 that counts as 0.
///
/// The exponent of a power of two is rounded, and what that lost is made good by a factor near 1.
pub fn silu(g: f32) -> f32 {
    use std::f32::consts::{LN_2, LOG2_E};
    // 0x1.4ae0bep-26: what is left of log2(e).
    let rest_of_log2_e = f32::from_bits(0x32A5_705F);
    let exponent = g.abs() * LOG2_E;
    let rest = g.abs().mul_add(rest_of_log2_e, g.abs().mul_add(LOG2_E, -exponent));
    let power = match exp2(-exponent) {
        0.0 => 0.0,
        power => power.mul_add(rest * -LN_2, power),
    };
    let numerator = if g < 0.0 { g * power } else { g };
    numerator / (1.0 + power)
}
