#![doc = include_str!("../README.md")]

pub mod checkpoint;
mod error;
pub mod fetch;
pub mod gguf;
pub mod llama;
pub mod measure;
pub mod methods;
pub mod minilm;
pub mod needles;
pub mod session;
pub mod table;
pub mod text;
pub mod weights;

pub use error::{Error, Result};
