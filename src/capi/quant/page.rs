//! Tiers and pages: where what is, for engines that lay pools out, and for tools that look at them.

use crate::Error;
use crate::capi::abi::{lacuna_header, read, structs, write};
use crate::capi::status::{Failure, Outcome, answer, lacuna_status};
use crate::quant::{PageShape, Part, Tail, Tier};

/// Bits that an element of a page has, numbered as pools are, and as the upper two bits of a page's entry say: `tier << 30 | number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_tier {
    /// 16: the numbers themselves, bf16 or f16.
    LACUNA_TIER_16 = 0,
    /// 8.
    LACUNA_TIER_8 = 1,
    /// 4.
    LACUNA_TIER_4 = 2,
    /// 2.
    LACUNA_TIER_2 = 3,
}

/// What a page is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_part {
    /// Keys: products with queries are sums over channels.
    LACUNA_PART_KEYS = 0,
    /// Values: products with weights are sums over tokens.
    LACUNA_PART_VALUES = 1,
}

/// What a page of codes ends with, of each token: all pages of a set of pools have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_tail {
    /// A step, bf16, and a zero point, in sixteenths of a step: 256 bytes. What `lacuna_quantize_pages` writes.
    LACUNA_TAIL_ZERO_POINTS = 0,
    /// A step and a minimum, f32: 512 bytes.
    LACUNA_TAIL_MINIMUMS = 1,
}

/// Tokens of a page.
pub const LACUNA_PAGE_TOKENS: u32 = 64;

/// Pages of one head: `LACUNA_PAGE_TOKENS` tokens each.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_page_shape {
    pub header: lacuna_header,
    /// Channels: a multiple of 32 up to 256.
    pub head_dim: u64,
    /// A `lacuna_part`.
    pub part: u32,
    /// A `lacuna_tail`.
    pub tail: u32,
}

/// How large a page is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_page_sizes {
    pub header: lacuna_header,
    /// Bytes of a page: a multiple of 256.
    pub page_bytes: u64,
    /// Of those, bytes of its elements, which come first.
    pub code_bytes: u64,
}

/// Where in a page an element is, and what its token has beside it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct lacuna_page_place {
    pub header: lacuna_header,
    /// Its byte; of 16 bits the first.
    pub byte: u64,
    /// Its lowest bit in that byte.
    pub shift: u64,
    /// The first byte of the token's step: bf16, with minimums f32; of 16 bits, which have none, `code_bytes`.
    pub scale_byte: u64,
    /// The first byte of its zero point, i16, or of its minimum, f32; the same.
    pub zero_byte: u64,
}

structs! {
    lacuna_page_shape: 24,
    lacuna_page_sizes: 24,
    lacuna_page_place: 40,
}

fn tier(number: u32) -> Outcome<Tier> {
    let found = Tier::BY_TAG.get(number as usize).copied();
    found.ok_or_else(|| Failure::number("tier", number, "lacuna_tier"))
}

pub(in crate::capi) fn tail(number: u32) -> Outcome<Tail> {
    match number {
        0 => Ok(Tail::ZeroPoints),
        1 => Ok(Tail::Minimums),
        tail => Err(Failure::number("tail", tail, "lacuna_tail")),
    }
}

impl lacuna_page_shape {
    fn page(&self) -> Outcome<PageShape> {
        let part = match self.part {
            0 => Part::Keys,
            1 => Part::Values,
            part => return Err(Failure::number("part", part, "lacuna_part")),
        };
        Ok(PageShape::new(self.head_dim, part)?.with_tail(tail(self.tail)?))
    }
}

/// How large a page of a `lacuna_tier` is: arithmetic alone.
///
/// Errors: `LACUNA_NULL`, `LACUNA_ABI`; `LACUNA_RANGE`, whose message says what is supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_page_shape_sizes(
    shape: *const lacuna_page_shape,
    tier: u32,
    sizes: *mut lacuna_page_sizes,
) -> lacuna_status {
    // SAFETY: the caller's structs.
    answer(|| unsafe {
        let (page, tier) = (read(shape)?.page()?, self::tier(tier)?);
        let found = lacuna_page_sizes {
            header: lacuna_header::NONE,
            page_bytes: page.page_bytes(tier) as u64,
            code_bytes: page.code_bytes(tier) as u64,
        };
        write(sizes, &found)
    })
}

/// Where in a page of a `lacuna_tier` the element of a token's channel is: arithmetic alone.
///
/// Errors: those of `lacuna_page_shape_sizes`; `LACUNA_RANGE` for a token or a channel that there is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_page_shape_place(
    shape: *const lacuna_page_shape,
    tier: u32,
    token: u64,
    channel: u64,
    place: *mut lacuna_page_place,
) -> lacuna_status {
    // SAFETY: the caller's structs.
    answer(|| unsafe {
        let (page, tier) = (read(shape)?.page()?, self::tier(tier)?);
        for (what, value, n, allowed) in [
            ("token of a page", token, PageShape::TOKENS, "0..64"),
            ("channel of a page", channel, page.head_dim(), "the head's elements"),
        ] {
            if value >= n as u64 {
                return Err(Error::Range { what, value, allowed }.into());
            }
        }
        let (token, channel) = (token as usize, channel as usize);
        let found = page.place(tier, token, channel);
        let n_code_bytes = page.code_bytes(tier);
        let of_token = |byte| if tier.is_coded() { byte } else { n_code_bytes } as u64;
        let found = lacuna_page_place {
            header: lacuna_header::NONE,
            byte: found.byte as u64,
            shift: found.shift.into(),
            scale_byte: of_token(page.scale_byte(tier, token)),
            zero_byte: of_token(page.zero_byte(tier, token)),
        };
        write(place, &found)
    })
}
