//! The room `attention`.
