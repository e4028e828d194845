//! What can go wrong.

use std::path::{Path, PathBuf};

/// What can go wrong between a package index and a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pinned package cannot be had: no Python, no index, or another file than the pinned one.
    #[error("{package} {version} cannot be had: {reason}")]
    Fetch {
        /// The package.
        package: &'static str,
        /// Its version.
        version: &'static str,
        /// What pip said.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A model is not what this program runs.
    #[error("the model: {0}")]
    Model(String),
    /// A tokenizer cannot be made, or not be used.
    #[error("the tokenizer: {0}")]
    Tokenizer(String),
    /// Of lacuna.
    #[error(transparent)]
    Lacuna(#[from] lacuna::Error),
    /// Of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// What most functions here return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// About a file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn model(what: impl Into<String>) -> Self {
        Self::Model(what.into())
    }
}
