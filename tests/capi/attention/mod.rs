//! The room `attention`, and growing caches.

mod arena;
mod attending;
mod merging;
mod tiers;
