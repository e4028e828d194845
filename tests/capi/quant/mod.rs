//! The room `quant`.

mod pages;
mod tokens;
