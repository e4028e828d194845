//! What a new page holds, of its tokens alone.

use crate::element::Half;
use crate::quant::row::{Channels, dequantize, finite, normalize, quantize};
use crate::quant::{Page, PageShape, Tier};
use crate::{Error, Result};

/// Where a token is.
#[derive(Debug, Clone, Copy)]
pub enum Token<'a, T> {
    /// It waits as numbers.
    Row(&'a [T]),
    /// In a page, in this slot.
    InPage(&'a Page, usize),
}

/// The page of up to 64 tokens, wherever they are; zeros where there is none. A token that stays in its tier keeps its bits. From codes
/// to codes channels do not count, so that they cost no rounding.
///
/// # Errors
/// [`Error::Shape`] where tokens are more, or their rows not of as many elements.
///
/// # Panics
/// Of a token past the 64th of its page.
pub fn retier_page<'a, T: Half + 'a>(
    shape: PageShape,
    tier: Tier,
    tokens: impl IntoIterator<Item = Option<Token<'a, T>>>,
    channels: &Channels<'_>,
) -> Result<Page> {
    let mut page = Page::zeroed(shape, tier);
    for (slot, token) in tokens.into_iter().enumerate() {
        let (expected, got) = (PageShape::TOKENS as u64, slot as u64 + 1);
        if got > expected {
            return Err(Error::Shape { what: "tokens of a page", expected, got });
        }
        let row: Vec<T> = match token {
            None => continue,
            Some(Token::InPage(from, token)) if from.tier().is_coded() => {
                let row = from.row(token);
                let (expected, got) = (shape.head_dim() as u64, row.codes.len() as u64);
                if expected != got {
                    return Err(Error::Shape { what: "elements of a row", expected, got });
                }
                if from.tier() == tier {
                    page.set_row(slot, &row);
                } else if tier.is_coded() {
                    let y = dequantize(&row, &Channels::default()).into_iter().map(finite);
                    page.set_row(slot, &quantize(tier, &y.collect::<Vec<_>>()));
                } else {
                    let x = dequantize(&row, channels).into_iter().map(T::from_f32);
                    page.set_numbers(slot, &x.collect::<Vec<_>>());
                }
                continue;
            }
            Some(Token::InPage(from, token)) => from.numbers(token),
            Some(Token::Row(row)) => row.to_vec(),
        };
        let (expected, got) = (shape.head_dim() as u64, row.len() as u64);
        if expected != got {
            return Err(Error::Shape { what: "elements of a row", expected, got });
        }
        if tier.is_coded() {
            page.set_row(slot, &quantize(tier, &normalize(&row, channels)));
        } else {
            page.set_numbers(slot, &row);
        }
    }
    Ok(page)
}
