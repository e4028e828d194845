//! Which rows a query sees.

use crate::Result;
use crate::error::check_between;

/// Which rows a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mask {
    /// All.
    #[default]
    None,
    /// Those up to its own; a request's last rows are those of its queries, unless positions are given.
    Causal,
    /// And of those the last so many, its own among them.
    Window(u64),
}

impl Mask {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Window(n) => check_between("tokens of a window", n, (1 << 31) - 1, "1..2^31"),
            Self::None | Self::Causal => Ok(()),
        }
    }

    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn window(self) -> u64 {
        match self {
            Self::Window(window) => window,
            Self::None | Self::Causal => 0,
        }
    }
}
