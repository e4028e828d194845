//! ZipCache's pools, and ZipVL's.

use std::borrow::Cow;

use super::pack::{bits_of, check_len, narrow, number, numbers, place_in_parts};
use super::pages::{ImportedPages, Relative, RowsShape};
use crate::element::Real;
use crate::quant::{Part, Tail, Tier};
use crate::{Error, Result};

/// Values of one pool, of tokens that matter or of the others: a step and a minimum for each token and a scale for each channel
/// (arXiv:2405.14256, and arXiv:2410.08584 v1). A cache of two tiers is two of them, with as many bits each as its tokens matter; which tokens
/// they are, the scheme's own numbers of tokens say.
#[derive(Debug, Clone, PartialEq)]
pub struct ZipCacheValues<'a, T: Real> {
    /// With as many tokens as the pool has. Of a pool without tokens nothing is kept, and what belongs to channels does not come back.
    pub shape: RowsShape,
    /// 8, 4 or 2 bits.
    pub tier: Tier,
    /// `[batch, n_tokens, n_heads * head_dim * bits / 8]`: a byte has codes of channels that are a half, or a quarter, of all heads'
    /// channels apart, the first in its lowest bits.
    pub codes: Cow<'a, [u8]>,
    /// `[batch, n_tokens, 1]`.
    pub steps: Cow<'a, [T]>,
    /// `[batch, n_tokens, 1]`.
    pub minimums: Cow<'a, [T]>,
    /// `[1, 1, n_heads * head_dim]`: roots of the largest magnitudes.
    pub channel_scales: Cow<'a, [T]>,
}

/// Keys of one pool: a step and a minimum for each channel, of all its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct ZipCacheKeys<'a, T: Real> {
    /// With as many tokens as the pool has. Of a pool without tokens nothing is kept, and what belongs to channels does not come back.
    pub shape: RowsShape,
    /// 8, 4 or 2 bits.
    pub tier: Tier,
    /// As [`ZipCacheValues::codes`].
    pub codes: Cow<'a, [u8]>,
    /// `[1, 1, 1, n_heads * head_dim]`.
    pub steps: Cow<'a, [T]>,
    /// `[1, 1, 1, n_heads * head_dim]`.
    pub minimums: Cow<'a, [T]>,
}

fn check_codes(shape: &RowsShape, tier: Tier, codes: &[u8]) -> Result<usize> {
    shape.check()?;
    let bits = bits_of(tier)?;
    check_len("codes", shape.len() * bits as u64 / 8, codes.len())?;
    Ok(bits)
}

/// A code of `[request, head]`, token and channel.
fn code_of(
    shape: RowsShape,
    bits: usize,
    codes: &[u8],
) -> impl Fn([usize; 2], usize, usize) -> u8 + '_ {
    let [n_tokens, d, width] = [shape.n_tokens, shape.head_dim, shape.width()].map(|n| n as usize);
    move |[b, head], token, channel| {
        let (byte, shift) = place_in_parts(bits, width, head * d + channel);
        let byte = codes[(b * n_tokens + token) * (width * bits / 8) + byte];
        byte >> shift & (u8::MAX >> (8 - bits))
    }
}

/// Codes of pages as the scheme has them.
fn put_codes(
    rows: &RowsShape,
    bits: usize,
    all: &mut [u8],
    [b, head]: [usize; 2],
    token: usize,
    codes: &[u8],
) {
    let [n_tokens, width] = [rows.n_tokens, rows.width()].map(|n| n as usize);
    for (channel, code) in codes.iter().enumerate() {
        let (byte, shift) = place_in_parts(bits, width, head * codes.len() + channel);
        all[(b * n_tokens + token) * (width * bits / 8) + byte] |= code << shift;
    }
}

/// `[n_heads * head_dim]` as channels of one span of each request.
fn spread(shape: &RowsShape, channels: Vec<f32>) -> Vec<f32> {
    if shape.n_tokens == 0 { Vec::new() } else { channels.repeat(shape.batch as usize) }
}

/// The channels of all requests, which must be the same.
fn gather<T: Real>(
    pages: &ImportedPages,
    tensor: &'static str,
    channels: &Option<Vec<f32>>,
) -> Result<Vec<T>> {
    let width = pages.rows.width() as usize;
    let channels = channels.as_deref().unwrap_or_default();
    if channels.len() < width {
        let (expected, got) = (width as u64, channels.len() as u64);
        return Err(Error::Shape { what: tensor, expected, got });
    }
    if pages.n_spans() != 1 {
        let (what, allowed) = ("spans of a list", "1: the scheme has no more");
        return Err(Error::Range { what, value: pages.n_spans(), allowed });
    }
    for (index, channel) in channels.iter().enumerate() {
        if channel.to_bits() != channels[index % width].to_bits() {
            let (index, value) = (index as u64, *channel);
            let allowed = "what the first request has";
            return Err(Error::Element { tensor, index, value, allowed });
        }
    }
    let narrow = |(index, value): (usize, &f32)| narrow(tensor, index, (*value).into());
    channels.iter().take(width).enumerate().map(narrow).collect()
}

/// Refuses channels that the scheme has not.
pub(super) fn check_absent(what: &'static str, channels: &Option<Vec<f32>>) -> Result<()> {
    check_len(what, 0, channels.as_ref().map_or(0, Vec::len))
}

impl<T: Real> ZipCacheValues<'_, T> {
    /// As pages of values.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Range`] name a tensor or size; [`Error::Element`] an element that is NaN, or that `tail` does not
    /// hold.
    pub fn import(&self, tail: Tail) -> Result<ImportedPages> {
        let Self { shape, tier, codes, steps, minimums, channel_scales } = self;
        let bits = check_codes(shape, *tier, codes)?;
        check_len("steps", shape.n_rows(), steps.len())?;
        check_len("minimums", shape.n_rows(), minimums.len())?;
        check_len("scales of channels", shape.width(), channel_scales.len())?;
        let mut pages = ImportedPages::empty(*shape, Part::Values, *tier, tail);
        pages.scales = Some(spread(shape, numbers("scales of channels", channel_scales)?));
        let n_tokens = shape.n_tokens as usize;
        pages.build(code_of(*shape, bits, codes), |[b, _], token| {
            let index = b * n_tokens + token;
            Ok(Relative {
                step: number("steps", steps, index)?,
                step_of: ("steps", index),
                minimum: number("minimums", minimums, index)?.into(),
                minimum_of: ("minimums", index),
            })
        })
    }
}

impl<T: Real> ZipCacheValues<'static, T> {
    /// The scheme's tensors again, from pages that came from them.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Range`] and [`Error::Element`] for what the scheme does not hold, as steps that differ from head to head.
    pub fn export(pages: &ImportedPages) -> Result<Self> {
        pages.check()?;
        check_absent("offsets of channels", &pages.offsets)?;
        let rows = pages.rows;
        let bits = bits_of(pages.tier)?;
        let (n_tokens, n) = (rows.n_tokens as usize, rows.n_rows() as usize);
        let mut codes = vec![0; rows.len() as usize * bits / 8];
        let mut relative = vec![[0.0_f64; 2]; n];
        pages.each_row(|head, token, row, step, minimum| {
            put_codes(&rows, bits, &mut codes, head, token, row);
            let index = head[0] * n_tokens + token;
            // Of a token all heads have the same.
            let found = [step.into(), minimum];
            if head[1] == 0 {
                relative[index] = found;
            }
            for (tensor, i) in [("steps", 0), ("minimums", 1)] {
                if found[i].to_bits() != relative[index][i].to_bits() {
                    let (index, value) = (index as u64, found[i] as f32);
                    let allowed = "what the first head has";
                    return Err(Error::Element { tensor, index, value, allowed });
                }
            }
            Ok(())
        })?;
        let column = |tensor, i: usize| -> Result<Cow<'static, [T]>> {
            (0..n).map(|index| narrow(tensor, index, relative[index][i])).collect()
        };
        Ok(Self {
            shape: rows,
            tier: pages.tier,
            codes: codes.into(),
            steps: column("steps", 0)?,
            minimums: column("minimums", 1)?,
            channel_scales: gather(pages, "scales of channels", &pages.scales)?.into(),
        })
    }
}

impl<T: Real> ZipCacheKeys<'_, T> {
    /// As pages of keys, with steps and minimums as scales and offsets of channels.
    ///
    /// # Errors
    /// Those of [`ZipCacheValues::import`].
    pub fn import(&self, tail: Tail) -> Result<ImportedPages> {
        let Self { shape, tier, codes, steps, minimums } = self;
        let bits = check_codes(shape, *tier, codes)?;
        check_len("steps", shape.width(), steps.len())?;
        check_len("minimums", shape.width(), minimums.len())?;
        let mut pages = ImportedPages::empty(*shape, Part::Keys, *tier, tail);
        pages.scales = Some(spread(shape, numbers("steps", steps)?));
        pages.offsets = Some(spread(shape, numbers("minimums", minimums)?));
        pages.build(code_of(*shape, bits, codes), |_, _| Ok(Relative::NOTHING))
    }
}

impl<T: Real> ZipCacheKeys<'static, T> {
    /// The scheme's tensors again, from pages that came from them.
    ///
    /// # Errors
    /// Those of [`ZipCacheValues::export`].
    pub fn export(pages: &ImportedPages) -> Result<Self> {
        pages.check()?;
        let bits = bits_of(pages.tier)?;
        let mut codes = vec![0; pages.rows.len() as usize * bits / 8];
        pages.each_row(|head, token, row, step, minimum| {
            put_codes(&pages.rows, bits, &mut codes, head, token, row);
            check_own(token, step, minimum)
        })?;
        Ok(Self {
            shape: pages.rows,
            tier: pages.tier,
            codes: codes.into(),
            steps: gather(pages, "steps", &pages.scales)?.into(),
            minimums: gather(pages, "minimums", &pages.offsets)?.into(),
        })
    }
}

/// Refuses steps of tokens where a scheme has none.
pub(super) fn check_own(token: usize, step: f32, minimum: f64) -> Result<()> {
    for (tensor, value, only, allowed) in [
        ("steps of tokens", step.into(), 1.0, "1: the scheme has none"),
        ("minimums of tokens", minimum, 0.0, "0: the scheme has none"),
    ] {
        if value != only {
            let (index, value) = (token as u64, value as f32);
            return Err(Error::Element { tensor, index, value, allowed });
        }
    }
    Ok(())
}
