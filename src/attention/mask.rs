//! Which rows a query sees.

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
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn window(self) -> u64 {
        match self {
            Self::Window(window) => window,
            Self::None | Self::Causal => 0,
        }
    }
}
