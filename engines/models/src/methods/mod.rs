//! What a query attends to: all of a context, what lacuna selects of it, or a context in tiers of bits. All by `lacuna-candle`: launches on CUDA; on the
//! CPU lacuna's references say what is selected and what a page holds, and attention is by sums of f32, or by the references too where bits are asked for.

mod pages;
mod tiered;
mod tokens;

use std::fmt;

use candle_core::{DType, Tensor};
use lacuna::attention::Tokens;
use lacuna_candle::{AttendOptions, KvCache, Segment, attend};

use crate::Result;

pub use pages::PageBounds;
pub use tiered::Tiers;
pub use tokens::TokenSelect;

/// A layer's cache as a method sees it.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Of one request.
    pub cache: &'a KvCache,
    /// Tokens that are in it.
    pub n_tokens: usize,
    /// On the CPU, attention by lacuna's references.
    pub is_exact: bool,
}

impl Context<'_> {
    /// Outputs are f32.
    fn options(&self) -> AttendOptions<'static> {
        AttendOptions {
            dtype: Some(DType::F32),
            is_exact: self.is_exact,
            ..AttendOptions::default()
        }
    }
}

/// One layer's way to attend.
pub trait Method {
    /// The output of the query of the last token, `[1, n_q_heads, head_dim]` bf16 in and f32 out.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle).
    fn step(&mut self, context: Context<'_>, query: &Tensor) -> Result<Tensor>;

    /// Bytes that a step reads of keys and values, and of what stands for them, with so many tokens; `row_bytes` are those of a token's keys and values.
    fn bytes(&self, n_tokens: usize, row_bytes: u64) -> u64;
}

/// How a context is attended to, and by which numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MethodKind {
    /// All tokens.
    Full,
    /// The tokens that all heads of a layer vote for (TokenSelect, arXiv:2411.02886).
    TokenSelect(TokenSelect),
    /// The pages whose keys may have the largest products (Quest, arXiv:2406.10774).
    PageBounds(PageBounds),
    /// Fewer bits for tokens that matter less (after ZipCache, arXiv:2405.14256).
    Tiered(Tiers),
}

impl MethodKind {
    /// A layer's method, after a prompt whose queries are `[n_tokens, n_q_heads, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) for numbers that no kernel has.
    pub fn begin(
        &self,
        layer: usize,
        context: Context<'_>,
        queries: &Tensor,
    ) -> Result<Box<dyn Method>> {
        Ok(match self {
            Self::Full => Box::new(Full),
            Self::TokenSelect(settings) => Box::new(settings.begin(context)?),
            Self::PageBounds(settings) if layer < settings.n_dense => Box::new(Full),
            Self::PageBounds(settings) => Box::new(settings.begin(context)?),
            Self::Tiered(settings) => Box::new(settings.begin(context, queries)?),
        })
    }
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::TokenSelect(settings) => settings.fmt(f),
            Self::PageBounds(settings) => settings.fmt(f),
            Self::Tiered(settings) => settings.fmt(f),
        }
    }
}

struct Full;

impl Method for Full {
    fn step(&mut self, context: Context<'_>, query: &Tensor) -> Result<Tensor> {
        let segment = Segment::range(context.cache, Tokens::ALL);
        Ok(attend(query, &[segment], &context.options())?.outputs)
    }

    fn bytes(&self, n_tokens: usize, row_bytes: u64) -> u64 {
        n_tokens as u64 * row_bytes
    }
}
