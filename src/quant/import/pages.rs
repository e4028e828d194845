//! Pages that came from elsewhere.

use half::bf16;

use super::pack::check_len;
use crate::error::{check_below, check_between};
use crate::quant::reference::{Channels, MinimumRow, Row};
use crate::quant::{Page, PageShape, Part, Tail, Tier};
use crate::{Error, Result};

/// Whose rows there are: a list of tokens for each head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsShape {
    /// Requests.
    pub batch: u64,
    /// Heads of keys and values.
    pub n_heads: u64,
    /// Tokens of each.
    pub n_tokens: u64,
    /// Channels of a head.
    pub head_dim: u64,
}

impl RowsShape {
    /// Elements: all products of sizes are at most as many.
    pub(super) fn len(&self) -> u64 {
        [self.n_heads, self.n_tokens, self.head_dim]
            .into_iter()
            .fold(self.batch, u64::saturating_mul)
    }

    /// Lists.
    pub(super) fn n_lists(&self) -> u64 {
        self.batch * self.n_heads
    }

    /// Tokens of all requests, which heads share.
    pub(super) fn n_rows(&self) -> u64 {
        self.batch * self.n_tokens
    }

    /// Channels of all heads.
    pub(super) fn width(&self) -> u64 {
        self.n_heads * self.head_dim
    }

    /// Refuses what no memory holds, and what is no head.
    pub(super) fn check(&self) -> Result<()> {
        check_below("requests", self.batch, 1 << 15, "0..32768")?;
        check_below("heads", self.n_heads, 1 << 16, "0..65536")?;
        check_below("tokens of a list", self.n_tokens, 1 << 26, "0..2^26")?;
        PageShape::new(self.head_dim, Part::Keys)?;
        check_below("elements of all rows", self.len(), 1 << 45, "0..2^45")
    }
}

/// Pages of one tier, of keys or of values: what a pool, entries of a page table and channels shall hold. Its fields are whoever's; methods check
/// them.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedPages {
    /// Whose rows they are. 64 tokens of a list are a page, and what is left is a page whose last slots are of nothing.
    pub rows: RowsShape,
    /// Keys or values.
    pub part: Part,
    /// Bits of a code.
    pub tier: Tier,
    /// What each page ends with.
    pub tail: Tail,
    /// Pages of a list that have the same channels.
    pub span_pages: u64,
    /// `[batch, n_heads, n_pages]` pages.
    pub pool: Vec<u8>,
    /// `[batch, n_heads, n_spans, head_dim]`, or none.
    pub scales: Option<Vec<f32>>,
    /// The same.
    pub offsets: Option<Vec<f32>>,
}

/// What a token's codes are relative to, in exact numbers, and the elements of a scheme's tensors that say so.
pub(super) struct Relative {
    pub(super) step: f32,
    pub(super) step_of: (&'static str, usize),
    pub(super) minimum: f64,
    pub(super) minimum_of: (&'static str, usize),
}

impl Relative {
    /// Codes that stand for themselves.
    pub(super) const NOTHING: Self =
        Self { step: 1.0, step_of: ("steps", 0), minimum: 0.0, minimum_of: ("minimums", 0) };

    fn refuse_step(&self, allowed: &'static str) -> Error {
        let (tensor, index) = self.step_of;
        Error::Element { tensor, index: index as u64, value: self.step, allowed }
    }

    fn refuse_minimum(&self, allowed: &'static str) -> Error {
        let (tensor, index) = self.minimum_of;
        Error::Element { tensor, index: index as u64, value: self.minimum as f32, allowed }
    }

    /// A token's part of a tail, if it is that in exact numbers.
    fn put(&self, page: &mut Page, token: usize, codes: Vec<u8>) -> Result<()> {
        match page.shape().tail() {
            Tail::Minimums => {
                let minimum = self.minimum as f32;
                if f64::from(minimum) != self.minimum {
                    return Err(self.refuse_minimum("what a minimum in f32 holds"));
                }
                page.set_minimum_row(token, &MinimumRow { codes, step: self.step, minimum });
            }
            Tail::ZeroPoints => {
                let scale = bf16::from_f32(self.step);
                if !self.step.is_finite() || scale.to_f32() != self.step {
                    return Err(self.refuse_step("what a step in bf16 holds"));
                }
                let step = f64::from(self.step);
                let zero = if step == 0.0 { 0.0 } else { -16.0 * self.minimum / step };
                let kept = zero as i16;
                let is_it = f64::from(kept) == zero && step * -zero == 16.0 * self.minimum;
                // A zero point of 0 has no sign.
                if !is_it || self.minimum.to_bits() == (-0.0_f64).to_bits() {
                    return Err(self.refuse_minimum("what a zero point in sixteenths holds"));
                }
                page.set_row(token, &Row { codes, scale, zero: kept });
            }
        }
        Ok(())
    }
}

impl ImportedPages {
    /// Pages of codes `[list, token, channel]`, each token's relative to what `relative` says.
    pub(super) fn build(
        mut self,
        code: impl Fn([usize; 2], usize, usize) -> u8,
        relative: impl Fn([usize; 2], usize) -> Result<Relative>,
    ) -> Result<Self> {
        let shape = self.page_shape()?;
        let [n_tokens, n_heads] = [self.rows.n_tokens, self.rows.n_heads].map(|n| n as usize);
        let n_pages = self.n_pages() as usize;
        self.pool = Vec::with_capacity(self.pool_bytes()? as usize);
        for at in 0..self.rows.n_lists() as usize * n_pages {
            let (list, p) = (at / n_pages, at % n_pages);
            let head = [list / n_heads, list % n_heads];
            let mut page = Page::zeroed(shape, self.tier);
            for token in 64 * p..n_tokens.min(64 * p + 64) {
                let codes = (0..shape.head_dim()).map(|c| code(head, token, c)).collect();
                relative(head, token)?.put(&mut page, token % 64, codes)?;
            }
            self.pool.extend_from_slice(page.bytes());
        }
        Ok(self)
    }

    /// Without pages and channels.
    pub(super) fn empty(rows: RowsShape, part: Part, tier: Tier, tail: Tail) -> Self {
        let span_pages = rows.n_tokens.div_ceil(64).max(1);
        Self { rows, part, tier, tail, span_pages, pool: Vec::new(), scales: None, offsets: None }
    }

    /// A page's sizes.
    ///
    /// # Errors
    /// [`Error::Range`] for channels that are no head's, and for a tier that has no codes.
    pub fn page_shape(&self) -> Result<PageShape> {
        super::pack::bits_of(self.tier)?;
        Ok(PageShape::new(self.rows.head_dim, self.part)?.with_tail(self.tail))
    }

    /// Pages of a list.
    pub fn n_pages(&self) -> u64 {
        self.rows.n_tokens.div_ceil(64)
    }

    /// Spans of a list.
    pub fn n_spans(&self) -> u64 {
        self.n_pages().div_ceil(self.span_pages.max(1))
    }

    fn pool_bytes(&self) -> Result<u64> {
        let page_bytes = self.page_shape()?.page_bytes(self.tier) as u64;
        Ok(self.rows.n_lists() * self.n_pages() * page_bytes)
    }

    /// Refuses fields that do not fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Range`], which name the field.
    pub fn check(&self) -> Result<()> {
        self.rows.check()?;
        check_between("pages of a span", self.span_pages, 1 << 20, "1..=2^20")?;
        check_len("pool of pages", self.pool_bytes()?, self.pool.len())?;
        let n_channels = self.rows.n_lists() * self.n_spans() * self.rows.head_dim;
        let named = [("scales of channels", &self.scales), ("offsets of channels", &self.offsets)];
        for (what, channels) in named {
            if let Some(channels) = channels {
                check_len(what, n_channels, channels.len())?;
            }
        }
        Ok(())
    }

    /// Entries of a page table, `[batch, n_heads, n_pages]`, where the pool's first page has the number `first` in the tier's pool.
    ///
    /// # Errors
    /// [`Error::Range`] where a number has more than 30 bits, and those of [`check`](Self::check).
    pub fn entries(&self, first: u64) -> Result<Vec<u32>> {
        self.rows.check()?;
        let n = self.rows.n_lists() * self.n_pages();
        check_below("pages of a pool", first.saturating_add(n), (1 << 30) + 1, "0..=2^30")?;
        // As many as are there, and not as are said to be.
        self.check()?;
        Ok((first..first + n).map(|number| self.tier.tag() << 30 | number as u32).collect())
    }

    /// Page `p` of a head of a request, and what its channels are relative to.
    ///
    /// # Panics
    /// Where there is no such page, or fields do not fit ([`check`](Self::check)).
    pub fn page(&self, b: u64, head: u64, p: u64) -> (Page, Channels<'_>) {
        let shape = self.page_shape().expect("a page of codes");
        let page_bytes = shape.page_bytes(self.tier);
        let list = b * self.rows.n_heads + head;
        let at = (list * self.n_pages() + p) as usize * page_bytes;
        let bytes = self.pool[at..at + page_bytes].to_vec();
        let d = self.rows.head_dim as usize;
        let at = (list * self.n_spans() + p / self.span_pages) as usize * d;
        let channels = Channels {
            scales: self.scales.as_ref().map(|scales| &scales[at..at + d]),
            offsets: self.offsets.as_ref().map(|offsets| &offsets[at..at + d]),
        };
        (Page::from_bytes(shape, self.tier, bytes).expect("bytes of a page"), channels)
    }

    /// What the pages stand for: `[batch, n_heads, n_tokens, head_dim]`, bit for bit what [`dequantize_pages`](crate::quant::dequantize_pages)
    /// rounds to a cache's type.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        self.check()?;
        let mut rows = Vec::with_capacity(self.rows.len() as usize);
        self.each_page(|_, _, page, channels, n_tokens| {
            for token in 0..n_tokens {
                rows.extend(page.dequantize::<bf16>(token, channels));
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// A token's codes, step and minimum: `[request, head]`, its number, and those.
    pub(super) fn each_row(
        &self,
        mut row: impl FnMut([usize; 2], usize, &[u8], f32, f64) -> Result<()>,
    ) -> Result<()> {
        self.each_page(|head, p, page, _, n_tokens| {
            for slot in 0..n_tokens {
                let token = 64 * p + slot;
                match self.tail {
                    Tail::Minimums => {
                        let MinimumRow { codes, step, minimum } = page.minimum_row(slot);
                        row(head, token, &codes, step, minimum.into())?;
                    }
                    Tail::ZeroPoints => {
                        let Row { codes, scale, zero } = page.row(slot);
                        let minimum = 0.0 - f64::from(scale.to_f32()) * f64::from(zero) / 16.0;
                        row(head, token, &codes, scale.to_f32(), minimum)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn each_page(
        &self,
        mut visit: impl FnMut([usize; 2], usize, &Page, &Channels<'_>, usize) -> Result<()>,
    ) -> Result<()> {
        let (n_pages, n_heads) = (self.n_pages(), self.rows.n_heads);
        for at in 0..self.rows.n_lists() * n_pages {
            let (list, p) = (at / n_pages, at % n_pages);
            let (b, head) = (list / n_heads, list % n_heads);
            let (page, channels) = self.page(b, head, p);
            let n_tokens = (self.rows.n_tokens - 64 * p).min(64);
            visit([b as usize, head as usize], p as usize, &page, &channels, n_tokens as usize)?;
        }
        Ok(())
    }
}
