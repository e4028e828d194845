//! Integers with a scale for each token and head.

use std::borrow::Cow;

use super::pack::{check_len, narrow, number};
use super::pages::{ImportedPages, Relative, RowsShape};
use super::zip_cache::check_absent;
use crate::element::Real;
use crate::quant::{Part, Tail, Tier};
use crate::{Error, Result};

/// Signed bytes and a scale of each token and head, as vLLM's `int8_per_token_head`: blocks of its cache one after the other are such a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8PerToken<'a, T: Real> {
    /// Whose rows.
    pub shape: RowsShape,
    /// `[batch, n_tokens, n_heads, head_dim]`.
    pub codes: Cow<'a, [i8]>,
    /// `[batch, n_tokens, n_heads]`.
    pub scales: Cow<'a, [T]>,
}

/// Two codes a byte and a scale of each token and head, as vLLM's `int4_per_token_head` (which turns rows before; that is the engine's).
#[derive(Debug, Clone, PartialEq)]
pub struct Int4PerToken<'a, T: Real> {
    /// Whose rows.
    pub shape: RowsShape,
    /// `[batch, n_tokens, n_heads, head_dim / 2]`: of two channels the first in the lower bits.
    pub codes: Cow<'a, [u8]>,
    /// `[batch, n_tokens, n_heads]`.
    pub scales: Cow<'a, [T]>,
    /// Where zero points are.
    pub form: ZeroForm,
    /// `[batch, n_tokens, n_heads]`, of [`ZeroForm::Apart`]; else empty.
    pub zeros: Cow<'a, [u8]>,
}

/// Where a scheme of four bits has its zero points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroForm {
    /// Nowhere: codes are signed, -8 to 7, and zero is 0.
    Signed,
    /// In a tensor of their own; codes are 0 to 15.
    Apart,
    /// In the four lowest bits of each scale, f32, whose other bits are the scale; codes are 0 to 15. So has vLLM.
    InScales,
}

/// Codes of a token of a head, and its step and zero, as they lie.
fn at(shape: RowsShape) -> impl Fn([usize; 2], usize) -> usize {
    let [n_tokens, n_heads] = [shape.n_tokens, shape.n_heads].map(|n| n as usize);
    move |[b, head], token| (b * n_tokens + token) * n_heads + head
}

fn refuse(tensor: &'static str, index: usize, value: f32, allowed: &'static str) -> Error {
    Error::Element { tensor, index: index as u64, value, allowed }
}

/// A finite scale and the code of zero, which nothing is rounded of.
fn relative(step: f32, zero: u8, index: usize, zeros: &'static str) -> Result<Relative> {
    if !step.is_finite() {
        return Err(refuse("scales", index, step, "finite numbers"));
    }
    // Of a zero point of 0 it is 0, not -0.
    let minimum = 0.0 - f64::from(step) * f64::from(zero);
    Ok(Relative { step, step_of: ("scales", index), minimum, minimum_of: (zeros, index) })
}

/// The code of zero that pages say, if it is one.
fn zero_of(step: f32, minimum: f64, index: usize) -> Result<u8> {
    let zero = if step == 0.0 { 0.0 } else { -minimum / f64::from(step) };
    if f64::from(zero as u8) != zero || f64::from(step) * -zero != minimum {
        return Err(refuse("zero points", index, zero as f32, "integers from 0 to 255"));
    }
    Ok(zero as u8)
}

fn check_zero(zero: u8, only: u8, index: usize, step: f32) -> Result<()> {
    // Of a step of 0 no zero is known, and any is right.
    if zero != only && step != 0.0 {
        let allowed = "that of signed codes, half their number";
        return Err(refuse("zero points", index, zero.into(), allowed));
    }
    Ok(())
}

fn check_tier(pages: &ImportedPages, tier: Tier, allowed: &'static str) -> Result<()> {
    pages.check()?;
    check_absent("scales of channels", &pages.scales)?;
    check_absent("offsets of channels", &pages.offsets)?;
    if pages.tier != tier {
        let value = pages.tier.bits().into();
        return Err(Error::Range { what: "bits of a code", value, allowed });
    }
    Ok(())
}

impl<T: Real> Int8PerToken<'_, T> {
    /// As pages of keys or of values: code `q` is `q + 128` there.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Range`] name a tensor or size; [`Error::Element`] a scale that is not finite, or of which 128 are not, or that `tail` does not
    /// hold.
    pub fn import(&self, part: Part, tail: Tail) -> Result<ImportedPages> {
        let Self { shape, codes, scales } = self;
        shape.check()?;
        check_len("codes", shape.len(), codes.len())?;
        check_len("scales", shape.len() / shape.head_dim, scales.len())?;
        let (at, d) = (at(*shape), shape.head_dim as usize);
        let code = |head, token, channel| codes[at(head, token) * d + channel] as u8 ^ 0x80;
        ImportedPages::empty(*shape, part, Tier::T8, tail).build(code, |head, token| {
            let index = at(head, token);
            relative(number("scales", scales, index)?, 128, index, "scales")
        })
    }
}

impl<T: Real> Int8PerToken<'static, T> {
    /// The scheme's tensors again, from pages that came from them.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Range`] and [`Error::Element`] for what the scheme does not hold.
    pub fn export(pages: &ImportedPages) -> Result<Self> {
        check_tier(pages, Tier::T8, "8")?;
        let shape = pages.rows;
        let (at, d) = (at(shape), shape.head_dim as usize);
        let mut codes = vec![0; shape.len() as usize];
        let mut scales = vec![T::from_f32(0.0); codes.len() / d];
        pages.each_row(|head, token, row, step, minimum| {
            let index = at(head, token);
            for (to, code) in codes[index * d..].iter_mut().zip(row) {
                *to = (code ^ 0x80) as i8;
            }
            check_zero(zero_of(step, minimum, index)?, 128, index, step)?;
            scales[index] = narrow("scales", index, step.into())?;
            Ok(())
        })?;
        Ok(Self { shape, codes: codes.into(), scales: scales.into() })
    }
}

impl<T: Real> Int4PerToken<'_, T> {
    /// As pages of keys or of values: signed code `q` is `q + 8` there.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Range`] name a tensor or size; [`Error::Element`] a scale that is not finite, or whose product with its zero point
    /// `tail` does not hold (scales of f16 or bf16, and vLLM's, have products that f32 holds), or a zero point beside a scale of 0, which would be lost.
    pub fn import(&self, part: Part, tail: Tail) -> Result<ImportedPages> {
        let Self { shape, codes, scales, form, zeros } = self;
        shape.check()?;
        check_form::<T>(*form)?;
        let n = shape.len() / shape.head_dim;
        check_len("codes", shape.len() / 2, codes.len())?;
        check_len("scales", n, scales.len())?;
        check_len("zero points", if *form == ZeroForm::Apart { n } else { 0 }, zeros.len())?;
        let (at, d) = (at(*shape), shape.head_dim as usize);
        let sign = if *form == ZeroForm::Signed { 8 } else { 0 };
        let code = |head, token, channel: usize| {
            let byte = codes[(at(head, token) * d + channel) / 2];
            byte >> (channel % 2 * 4) & 15 ^ sign
        };
        ImportedPages::empty(*shape, part, Tier::T4, tail).build(code, |head, token| {
            let index = at(head, token);
            let scale = number("scales", scales, index)?;
            let (step, zero, of) = match form {
                ZeroForm::Signed => (scale, 8, "scales"),
                ZeroForm::Apart => (scale, zeros[index], "zero points"),
                ZeroForm::InScales => {
                    let bits = scale.to_bits();
                    (f32::from_bits(bits & !15), (bits & 15) as u8, "scales")
                }
            };
            if step == 0.0 && zero != 0 && *form != ZeroForm::Signed {
                let allowed = "0, beside a scale of 0";
                return Err(refuse("zero points", index, zero.into(), allowed));
            }
            relative(step, zero, index, of)
        })
    }
}

fn check_form<T: Real>(form: ZeroForm) -> Result<()> {
    if form == ZeroForm::InScales && size_of::<T>() != 4 {
        let (what, allowed) = ("bytes of a scale", "4, whose lowest bits hold zero points");
        return Err(Error::Range { what, value: size_of::<T>() as u64, allowed });
    }
    Ok(())
}

impl<T: Real> Int4PerToken<'static, T> {
    /// The scheme's tensors again, from pages that came from them.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Range`] and [`Error::Element`] for what the scheme does not hold.
    pub fn export(pages: &ImportedPages, form: ZeroForm) -> Result<Self> {
        check_tier(pages, Tier::T4, "4")?;
        check_form::<T>(form)?;
        let shape = pages.rows;
        let (at, d) = (at(shape), shape.head_dim as usize);
        let mut codes = vec![0; shape.len() as usize / 2];
        let n = shape.len() as usize / d;
        let mut scales = vec![T::from_f32(0.0); n];
        let mut zeros = vec![0; if form == ZeroForm::Apart { n } else { 0 }];
        let sign = if form == ZeroForm::Signed { 8 } else { 0 };
        pages.each_row(|head, token, row, step, minimum| {
            let index = at(head, token);
            for (channel, code) in row.iter().enumerate() {
                codes[(index * d + channel) / 2] |= (code ^ sign) << (channel % 2 * 4);
            }
            let zero = zero_of(step, minimum, index)?;
            let mut scale = step;
            match form {
                ZeroForm::Signed => check_zero(zero, 8, index, step)?,
                ZeroForm::Apart => zeros[index] = zero,
                ZeroForm::InScales => {
                    if zero > 15 || step.to_bits() & 15 != 0 {
                        let allowed = "scales with room for a zero point up to 15";
                        return Err(refuse("scales", index, step, allowed));
                    }
                    scale = f32::from_bits(step.to_bits() | u32::from(zero));
                }
            }
            scales[index] = narrow("scales", index, scale.into())?;
            Ok(())
        })?;
        let (scales, zeros) = (scales.into(), zeros.into());
        Ok(Self { shape, codes: codes.into(), scales, form, zeros })
    }
}
