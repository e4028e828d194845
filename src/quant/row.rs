//! How a row becomes codes, and codes a row: every rounding.

use half::bf16;

use super::Tier;
use crate::element::Half;
use crate::number;

/// What a channel's numbers are relative to, of all tokens of a span.
#[derive(Debug, Clone, Copy, Default)]
pub struct Channels<'a> {
    /// `[head_dim]`: what they are divided by; else 1.
    pub scales: Option<&'a [f32]>,
    /// `[head_dim]`: what is taken from them before; else 0.
    pub offsets: Option<&'a [f32]>,
}

impl Channels<'_> {
    fn scale(&self, channel: usize) -> f32 {
        self.scales.map_or(1.0, |scales| scales[channel])
    }

    fn offset(&self, channel: usize) -> f32 {
        self.offsets.map_or(0.0, |offsets| offsets[channel])
    }
}

/// A token's row in codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Of each channel.
    pub codes: Vec<u8>,
    /// A step, of all channels.
    pub scale: bf16,
    /// The code of zero, in sixteenths.
    pub zero: i16,
}

/// The same beside a step and a minimum that are f32.
#[derive(Debug, Clone, PartialEq)]
pub struct MinimumRow {
    /// Of each channel.
    pub codes: Vec<u8>,
    /// A step, of all channels.
    pub step: f32,
    /// What code 0 stands for.
    pub minimum: f32,
}

/// `(x - offset) / scale` of each channel, in f32. What is no number counts as 0, and what is infinite as the greatest number.
pub fn normalize<T: Half>(row: &[T], channels: &Channels<'_>) -> Vec<f32> {
    let of_channel = |(channel, element): (usize, &T)| {
        finite((element.to_f32() - channels.offset(channel)) / channels.scale(channel))
    };
    row.iter().enumerate().map(of_channel).collect()
}

/// What is no number as 0, and what is infinite as the greatest number.
pub(super) fn finite(y: f32) -> f32 {
    if y.is_nan() { 0.0 } else { y.clamp(f32::MIN, f32::MAX) }
}

/// The codes of a normalized row, in a tier of codes.
///
/// # Panics
/// Of [`Tier::T16`], whose numbers are not coded.
pub fn quantize(tier: Tier, row: &[f32]) -> Row {
    let greatest = f32::from(tier.greatest_code().expect("a tier of codes"));
    let least = row.iter().copied().fold(f32::INFINITY, f32::min);
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let whole = most / greatest - least / greatest;
    let (mut step, mut middle) = (whole, None);
    if tier == Tier::T2 {
        // Four steps of a standard deviation are nearer to most rows than their whole range is.
        let ones = vec![1.0; row.len()];
        let mean = number::dot(row, &ones) / row.len() as f32;
        let apart: Vec<f32> = row.iter().map(|y| y - mean).collect();
        let deviation = (number::dot(&apart, &apart) / row.len() as f32).sqrt();
        // 0 too of numbers whose squares are nothing.
        if deviation > 0.0 && deviation < whole {
            (step, middle) = (deviation, Some(mean));
        }
    }
    // Zero is at most 1,024 steps away, so that its code has room.
    let far = least.abs().max(most.abs()) * (1.0 / 1024.0);
    // Of two zeros `max` may give either.
    let scale = round_up(if step > far { step } else { far });
    if scale.to_f32() == 0.0 {
        return Row { codes: vec![0; row.len()], scale, zero: 0 };
    }
    let step = scale.to_f32();
    let first = match middle {
        Some(middle) => (-1.5_f32).mul_add(step, middle),
        None => least,
    };
    let zero = (-first / step * 16.0).round_ties_even();
    let code = |y: &f32| (y / step + zero * 0.0625).round_ties_even().clamp(0.0, greatest) as u8;
    Row { codes: row.iter().map(code).collect(), scale, zero: zero as i16 }
}

/// What codes stand for, in f32: `scale[channel] * (step * (code - zero)) + offset[channel]`.
pub fn dequantize(row: &Row, channels: &Channels<'_>) -> Vec<f32> {
    let of_channel = |(channel, code): (usize, &u8)| {
        let steps = (16 * i32::from(*code) - i32::from(row.zero)) as f32 * 0.0625;
        let y = row.scale.to_f32() * steps;
        y.mul_add(channels.scale(channel), channels.offset(channel))
    };
    row.codes.iter().enumerate().map(of_channel).collect()
}

/// The same of steps and minimums, in f32: `scale[channel] * (step * code + minimum) + offset[channel]`, each product and sum
/// rounded as one.
pub fn dequantize_minimums(row: &MinimumRow, channels: &Channels<'_>) -> Vec<f32> {
    let of_channel = |(channel, code): (usize, &u8)| {
        let y = row.step.mul_add(f32::from(*code), row.minimum);
        y.mul_add(channels.scale(channel), channels.offset(channel))
    };
    row.codes.iter().enumerate().map(of_channel).collect()
}

/// The least bf16 that is no less than a number from 0 on.
fn round_up(x: f32) -> bf16 {
    bf16::from_bits(((x.to_bits() + 0xFFFF) >> 16) as u16)
}
