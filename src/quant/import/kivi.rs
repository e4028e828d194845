//! KIVI's groups.

use std::borrow::Cow;

use super::pack::{bits_of, check_len, code_of_word, narrow, number, put_in_word};
use super::pages::{ImportedPages, Relative, RowsShape};
use super::zip_cache::{check_absent, check_own};
use crate::element::Real;
use crate::error::check_below;
use crate::quant::{Part, Tail, Tier};
use crate::{Error, Result};

/// Keys: a scale and a minimum for each channel of a group of tokens (arXiv:2402.02750), tokens along the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct KiviKeys<'a, T: Real> {
    /// With tokens of whole groups; those that wait in f16 are not among them.
    pub shape: RowsShape,
    /// 8, 4 or 2 bits.
    pub tier: Tier,
    /// Tokens of a group: a multiple of 64. A page of 64 tokens has one scale of each channel, so that groups of 32 are not pages.
    pub group: u64,
    /// `[batch, n_heads, head_dim, n_tokens * bits / 32]`: the first token of a word in its lowest bits.
    pub codes: Cow<'a, [i32]>,
    /// `[batch, n_heads, head_dim, n_tokens / group]`.
    pub scales: Cow<'a, [T]>,
    /// `[batch, n_heads, head_dim, n_tokens / group]`.
    pub minimums: Cow<'a, [T]>,
}

/// Values: a scale and a minimum for each token of a group of channels.
///
/// A group's channels are a head of their own: pages of 32 channels where a group has 32, four times as many heads where a head has four
/// groups. In a cache whose heads stand beside each other (NHD), `n_heads * head_dim / group` heads of `group` channels are the same memory as
/// `n_heads` heads of `head_dim`, so that `dequantize_pages` fills it. Attention reads such pages where keys have the same heads, that is, where a group is a head.
#[derive(Debug, Clone, PartialEq)]
pub struct KiviValues<'a, T: Real> {
    /// The scheme's heads; tokens that wait in f16 are not among them.
    pub shape: RowsShape,
    /// 8, 4 or 2 bits.
    pub tier: Tier,
    /// Channels of a group: a multiple of 32 that divides a head's.
    pub group: u64,
    /// `[batch, n_heads, n_tokens, head_dim * bits / 32]`: the first channel of a word in its lowest bits.
    pub codes: Cow<'a, [i32]>,
    /// `[batch, n_heads, n_tokens, head_dim / group]`.
    pub scales: Cow<'a, [T]>,
    /// `[batch, n_heads, n_tokens, head_dim / group]`.
    pub minimums: Cow<'a, [T]>,
}

fn check_keys(shape: &RowsShape, group: u64) -> Result<()> {
    shape.check()?;
    if group == 0 || !group.is_multiple_of(64) {
        let allowed = "the multiples of 64: a page of 64 tokens has one scale of each channel";
        return Err(Error::Range { what: "tokens of a group", value: group, allowed });
    }
    // Of no tokens any group is a multiple.
    check_below("tokens of a group", group, (1 << 26) + 1, "0..=2^26")?;
    if !shape.n_tokens.is_multiple_of(group) {
        let (what, allowed) = ("tokens of a list", "whole groups");
        return Err(Error::Range { what, value: shape.n_tokens, allowed });
    }
    Ok(())
}

/// The shape of pages.
fn check_values(shape: &RowsShape, group: u64) -> Result<RowsShape> {
    shape.check()?;
    if group == 0 || !group.is_multiple_of(32) || !shape.head_dim.is_multiple_of(group) {
        let allowed = "the multiples of 32 that divide a head's";
        return Err(Error::Range { what: "channels of a group", value: group, allowed });
    }
    let rows =
        RowsShape { n_heads: shape.n_heads * (shape.head_dim / group), head_dim: group, ..*shape };
    rows.check()?;
    Ok(rows)
}

impl<T: Real> KiviKeys<'_, T> {
    /// As pages of keys, with scales and minimums as scales and offsets of channels, of spans of a group.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Range`] name a tensor or size; [`Error::Element`] an element that is NaN.
    pub fn import(&self, tail: Tail) -> Result<ImportedPages> {
        let Self { shape, tier, group, codes, scales, minimums } = self;
        check_keys(shape, *group)?;
        let bits = bits_of(*tier)?;
        let n_groups = (shape.n_tokens / group) as usize;
        let n_channels = shape.n_lists() * shape.head_dim;
        check_len("codes", shape.len() * bits as u64 / 32, codes.len())?;
        check_len("scales", n_channels * n_groups as u64, scales.len())?;
        check_len("minimums", n_channels * n_groups as u64, minimums.len())?;
        let mut pages = ImportedPages::empty(*shape, Part::Keys, *tier, tail);
        pages.span_pages = group / 64;
        let d = shape.head_dim as usize;
        let turned = |tensor, all: &[T]| -> Result<Vec<f32>> {
            let of = |at: usize| {
                let (list, span, channel) = (at / (n_groups * d), at / d % n_groups, at % d);
                number(tensor, all, (list * d + channel) * n_groups + span)
            };
            (0..all.len()).map(of).collect()
        };
        pages.scales = Some(turned("scales", scales)?);
        pages.offsets = Some(turned("minimums", minimums)?);
        let [n_heads, n_tokens] = [shape.n_heads, shape.n_tokens].map(|n| n as usize);
        let code = |[b, head]: [usize; 2], token, channel| {
            let row = (b * n_heads + head) * d + channel;
            code_of_word(bits, codes, row * n_tokens + token)
        };
        pages.build(code, |_, _| Ok(Relative::NOTHING))
    }
}

impl<T: Real> KiviKeys<'static, T> {
    /// The scheme's tensors again, from pages that came from them.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Range`] and [`Error::Element`] for what the scheme does not hold.
    pub fn export(pages: &ImportedPages) -> Result<Self> {
        pages.check()?;
        let (shape, tier, group) = (pages.rows, pages.tier, 64 * pages.span_pages);
        check_keys(&shape, group)?;
        let bits = bits_of(tier)?;
        let [n_heads, n_tokens, d] =
            [shape.n_heads, shape.n_tokens, shape.head_dim].map(|n| n as usize);
        let n_groups = pages.n_spans() as usize;
        let mut codes = vec![0; shape.len() as usize * bits / 32];
        pages.each_row(|[b, head], token, row, step, minimum| {
            for (channel, code) in row.iter().enumerate() {
                let at = ((b * n_heads + head) * d + channel) * n_tokens + token;
                put_in_word(bits, &mut codes, at, *code);
            }
            check_own(token, step, minimum)
        })?;
        let turned = |tensor, channels: &Option<Vec<f32>>| -> Result<Cow<'static, [T]>> {
            let n = n_groups * d * shape.n_lists() as usize;
            let channels = channels.as_deref().unwrap_or_default();
            check_len(tensor, n as u64, channels.len())?;
            let of = |at: usize| {
                let (list, channel, span) = (at / (n_groups * d), at / n_groups % d, at % n_groups);
                narrow(tensor, at, channels[(list * n_groups + span) * d + channel].into())
            };
            (0..n).map(of).collect()
        };
        let (scales, minimums) =
            (turned("scales", &pages.scales)?, turned("minimums", &pages.offsets)?);
        Ok(Self { shape, tier, group, codes: codes.into(), scales, minimums })
    }
}

impl<T: Real> KiviValues<'_, T> {
    /// As pages of values, whose heads are groups: group `g` of head `h` is head `h * head_dim / group + g`.
    ///
    /// # Errors
    /// Those of [`ZipCacheValues::import`](super::ZipCacheValues::import).
    pub fn import(&self, tail: Tail) -> Result<ImportedPages> {
        let Self { shape, tier, group, codes, scales, minimums } = self;
        let rows = check_values(shape, *group)?;
        let bits = bits_of(*tier)?;
        let n_groups = (shape.head_dim / group) as usize;
        check_len("codes", shape.len() * bits as u64 / 32, codes.len())?;
        check_len("scales", shape.len() / group, scales.len())?;
        check_len("minimums", shape.len() / group, minimums.len())?;
        let [n_heads, n_tokens, group] =
            [shape.n_heads, shape.n_tokens, *group].map(|n| n as usize);
        // Which group of a token it is, of all groups.
        let group_of = |[b, head]: [usize; 2], token: usize| {
            let row = (b * n_heads + head / n_groups) * n_tokens + token;
            row * n_groups + head % n_groups
        };
        let code = |head, token, channel| {
            code_of_word(bits, codes, group_of(head, token) * group + channel)
        };
        ImportedPages::empty(rows, Part::Values, *tier, tail).build(code, |head, token| {
            let index = group_of(head, token);
            Ok(Relative {
                step: number("scales", scales, index)?,
                step_of: ("scales", index),
                minimum: number("minimums", minimums, index)?.into(),
                minimum_of: ("minimums", index),
            })
        })
    }
}

impl<T: Real> KiviValues<'static, T> {
    /// The scheme's tensors again, from pages that came from them, of heads of `head_dim` channels.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Range`] and [`Error::Element`] for what the scheme does not hold.
    pub fn export(pages: &ImportedPages, head_dim: u64) -> Result<Self> {
        pages.check()?;
        check_absent("scales of channels", &pages.scales)?;
        check_absent("offsets of channels", &pages.offsets)?;
        let (tier, group) = (pages.tier, pages.rows.head_dim);
        let n_groups = head_dim / group;
        if n_groups == 0 || !pages.rows.n_heads.is_multiple_of(n_groups) {
            let allowed = "those whose groups the pages' heads are";
            return Err(Error::Range { what: "elements of a head", value: head_dim, allowed });
        }
        let shape = RowsShape { n_heads: pages.rows.n_heads / n_groups, head_dim, ..pages.rows };
        check_values(&shape, group)?;
        let bits = bits_of(tier)?;
        let [n_heads, n_tokens, n_groups] =
            [shape.n_heads, shape.n_tokens, n_groups].map(|n| n as usize);
        let n = (shape.len() / group) as usize;
        let mut codes = vec![0; shape.len() as usize * bits / 32];
        let (mut scales, mut minimums) = (vec![T::from_f32(0.0); n], vec![T::from_f32(0.0); n]);
        pages.each_row(|[b, head], token, row, step, minimum| {
            let index =
                ((b * n_heads + head / n_groups) * n_tokens + token) * n_groups + head % n_groups;
            for (channel, code) in row.iter().enumerate() {
                put_in_word(bits, &mut codes, index * row.len() + channel, *code);
            }
            scales[index] = narrow("scales", index, step.into())?;
            minimums[index] = narrow("minimums", index, minimum)?;
            Ok(())
        })?;
        let (scales, minimums) = (scales.into(), minimums.into());
        Ok(Self { shape, tier, group, codes: codes.into(), scales, minimums })
    }
}
