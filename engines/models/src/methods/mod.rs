//! What a query attends to: all of a context, what lacuna selects of it, or a context in tiers of bits.
//!
//! Each layer has its own. On this side everything is lacuna's references, which its kernels equal to the bit.

mod full;
mod pages;
mod tiered;
mod tokens;

use std::fmt;

use half::bf16;
use lacuna::kv::KvLayout;
use lacuna::mma::Model;

use crate::Result;
use crate::cache::Rows;

pub use pages::PageBounds;
pub use tiered::Tiers;
pub use tokens::TokenSelect;

/// Whose tensor cores references answer for.
const MODEL: Model = Model::HOPPER;

/// One layer's way to attend.
pub trait Method: Send + Sync {
    /// The output of the query of the last token that is in the cache, all heads.
    ///
    /// # Errors
    /// [`Error::Lacuna`](crate::Error::Lacuna).
    fn step(&mut self, rows: &Rows, query: &[bf16]) -> Result<Vec<f32>>;

    /// Bytes of keys and values that attention reads in a step, as the cache is now, and what is read to choose them.
    fn bytes(&self, rows: &Rows) -> u64;
}

/// How a context is attended to, and by which numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MethodKind {
    /// All tokens: `attend`.
    Full,
    /// The tokens that all heads of a layer vote for (TokenSelect, arXiv:2411.02886).
    TokenSelect(TokenSelect),
    /// The pages whose keys may have the largest products (Quest, arXiv:2406.10774).
    PageBounds(PageBounds),
    /// Fewer bits for tokens that matter less.
    Tiered(Tiers),
}

impl MethodKind {
    /// A layer's method, after a prompt whose queries are `[n_tokens, n_q_heads, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Lacuna`](crate::Error::Lacuna) for numbers that no kernel has.
    pub fn begin(
        &self,
        layer: usize,
        n_q_heads: usize,
        rows: &Rows,
        queries: &[bf16],
    ) -> Result<Box<dyn Method>> {
        Ok(match self {
            Self::Full => Box::new(full::Full::new(rows.layout(), n_q_heads)?),
            Self::TokenSelect(settings) => settings.begin(rows.layout(), n_q_heads)?,
            Self::PageBounds(settings) => settings.begin(layer, rows, n_q_heads)?,
            Self::Tiered(settings) => settings.begin(rows, n_q_heads, queries)?,
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

/// Bytes of so many tokens' keys and values in bf16.
fn bytes_of(layout: KvLayout, n_tokens: u64) -> u64 {
    2 * 2 * layout.shape().n_heads * layout.shape().row_len * n_tokens
}
