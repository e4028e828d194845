//! The room `select`.

mod moving;
mod ranking;
mod scoring;
