//! The room `quant`.
