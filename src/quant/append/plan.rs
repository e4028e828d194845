//! The shape of a launch that appends: pure arithmetic, no driver.

use crate::error::{check_below, check_between};
use crate::kv::{KvLayout, MAX_ROWS};
#[cfg(any(feature = "cuda", feature = "simt"))]
use crate::launch::Grid;
use crate::plan::spread;
use crate::turn::Turn;
use crate::{Error, Result};

/// Tokens that a block counts by itself; of more, a first launch counts.
const TILE: u64 = 1024;
/// The most tokens of a block, and its threads.
const MOST_TOKENS: u64 = 128;

/// Sizes of a launch of [`append_kv`](crate::quant::append_kv).
///
/// ```
/// use lacuna::kv::{KvLayout, KvShape};
/// use lacuna::quant::{AppendPlan, AppendShape, Turn};
///
/// let shape = KvShape {
///     batch: 4, n_heads: 8, row_len: 128, n_pages: 1000, page_size: 16, table_stride: 250,
///     ..KvShape::default()
/// };
/// let layout = KvLayout::new(shape.hnd())?;
/// // A step of decoding, keys turned whole.
/// let shape = AppendShape { rotary_dim: 128, n_positions: 4096, turn: Turn::Halves, ..AppendShape::of(layout, 1) };
/// let plan = AppendPlan::new(shape)?;
/// assert_eq!(plan.keys_len(), 4 * 8 * 128);
/// assert_eq!(plan.workspace_len(), 0);
/// # Ok::<_, lacuna::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendShape {
    /// The cache: bf16 or f16, keys and values.
    pub layout: KvLayout,
    /// Tokens of a request, at most.
    pub n_tokens: u64,
    /// Elements from one token's keys to the next one's: a multiple of 8, at least those of all heads.
    pub key_stride: u64,
    /// The same of values.
    pub value_stride: u64,
    /// How keys are turned by their positions.
    pub turn: Turn,
    /// The first so many elements of a key are turned: a multiple of 16, up to all. Of [`Turn::None`] nobody asks.
    pub rotary_dim: u64,
    /// Positions that have angles: positions outside count as the nearest. Of [`Turn::None`] nobody asks.
    pub n_positions: u64,
}

impl AppendShape {
    /// Keys and values `[batch, n_tokens, n_heads, head_dim]` without gaps, and keys as they are.
    pub fn of(layout: KvLayout, n_tokens: u64) -> Self {
        let stride = layout.shape().n_heads * layout.shape().row_len;
        let (key_stride, value_stride, turn) = (stride, stride, Turn::None);
        Self { layout, n_tokens, key_stride, value_stride, turn, rotary_dim: 0, n_positions: 0 }
    }
}

/// A launch that appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendPlan {
    shape: AppendShape,
    block_tokens: u64,
}

impl AppendPlan {
    /// # Errors
    /// [`Error::Range`] for a size that is not supported; it says what is.
    pub fn new(shape: AppendShape) -> Result<Self> {
        let kv = shape.layout.shape();
        check_between("tokens of a row", kv.tokens_per_row, 1, "1")?;
        check_below("tokens of a request", shape.n_tokens, MAX_ROWS + 1, "0..=2^26")?;
        let token_len = kv.n_heads * kv.row_len;
        for (what, of_all, value) in [
            ("stride between keys, in elements", "elements of all keys", shape.key_stride),
            ("stride between values, in elements", "elements of all values", shape.value_stride),
        ] {
            if !value.is_multiple_of(8) || value < token_len {
                let allowed = "the multiples of 8 from a token's elements on";
                return Err(Error::Range { what, value, allowed });
            }
            let n_tokens = kv.batch * shape.n_tokens;
            let n = n_tokens.saturating_sub(1).saturating_mul(value).saturating_add(token_len);
            check_below(of_all, n, 1 << 46, "0..2^46")?;
        }
        if shape.turn != Turn::None {
            let (what, value) = ("elements of a key that are turned", shape.rotary_dim);
            if !value.is_multiple_of(16) || value == 0 || value > kv.row_len {
                let allowed = "the multiples of 16 up to a head's elements";
                return Err(Error::Range { what, value, allowed });
            }
            check_between("positions with angles", shape.n_positions, MAX_ROWS, "1..=2^26")?;
        }
        // 32 KiB of keys a block, less where that would leave multiprocessors without one.
        let most = (32_768 / (2 * token_len).max(1)).min(kv.batch * shape.n_tokens / 256);
        let block_tokens = 1 << most.clamp(1, MOST_TOKENS).ilog2();
        Ok(Self { shape, block_tokens })
    }

    /// The same with so many tokens a block, a power of two up to 128: another grid, and no other bits.
    ///
    /// # Errors
    /// [`Error::Range`] for another number.
    pub fn with_block_tokens(self, block_tokens: u64) -> Result<Self> {
        if !block_tokens.is_power_of_two() || block_tokens > MOST_TOKENS {
            let (what, allowed) = ("tokens of a block", "the powers of two up to 128");
            return Err(Error::Range { what, value: block_tokens, allowed });
        }
        Ok(Self { block_tokens, ..self })
    }

    /// What it was made from.
    pub fn shape(&self) -> &AppendShape {
        &self.shape
    }

    /// Tokens that a block has.
    pub fn block_tokens(&self) -> u64 {
        self.block_tokens
    }

    /// Tokens of all requests: elements of the mask, and of positions.
    pub fn tokens_len(&self) -> u64 {
        self.shape.layout.shape().batch * self.shape.n_tokens
    }

    /// Elements from the first of the first token's keys to the last of the last's.
    pub fn keys_len(&self) -> u64 {
        self.len_of(self.shape.key_stride)
    }

    /// The same of values.
    pub fn values_len(&self) -> u64 {
        self.len_of(self.shape.value_stride)
    }

    fn len_of(&self, stride: u64) -> u64 {
        let kv = self.shape.layout.shape();
        spread(self.tokens_len(), stride, kv.n_heads * kv.row_len)
    }

    /// Elements of `[n_positions, rotary_dim]`, or none.
    pub fn cos_sin_len(&self) -> u64 {
        match self.shape.turn {
            Turn::None => 0,
            Turn::Halves | Turn::Pairs => self.shape.n_positions * self.shape.rotary_dim,
        }
    }

    /// Words of the workspace: none where a request has up to 1,024 tokens. What they hold before does not matter.
    pub fn workspace_len(&self) -> u64 {
        if self.n_tiles() == 1 { 0 } else { 2 * self.n_tiles() * self.shape.layout.shape().batch }
    }

    /// Bytes that any kernel moves that appends so many tokens in all, of all requests: their rows, read and written, their angles, and the
    /// entries of their pages once; of all tokens what says whether they are kept, and where.
    pub fn least_bytes(&self, n_appended: u64, has_keeps: bool, has_positions: bool) -> u64 {
        let kv = self.shape.layout.shape();
        let of_rows = n_appended * 2 * 2 * kv.n_heads * kv.row_len * 2;
        let of_angles = match self.shape.turn {
            Turn::None => 0,
            Turn::Halves | Turn::Pairs => {
                4 * self.shape.rotary_dim * n_appended.min(self.shape.n_positions)
            }
        };
        let of_tokens = 4 * self.tokens_len() * (u64::from(has_keeps) + u64::from(has_positions));
        of_rows + of_angles + of_tokens + 4 * n_appended.div_ceil(kv.page_size) + 2 * 4 * kv.batch
    }

    pub(super) fn n_tiles(&self) -> u64 {
        self.shape.n_tokens.div_ceil(TILE).max(1)
    }

    /// The grid of the launch: blocks of each request's tokens.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn grid(&self) -> Grid {
        self.grid_of(self.shape.n_tokens.div_ceil(self.block_tokens).max(1))
    }

    /// The grid of the launch before it, where a request has more than 1,024 tokens.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub fn count_grid(&self) -> Grid {
        self.grid_of(self.n_tiles())
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    fn grid_of(&self, n_blocks: u64) -> Grid {
        Grid {
            blocks: [n_blocks as u32, self.shape.layout.shape().batch as u32, 1],
            threads: [MOST_TOKENS as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        }
    }
}
