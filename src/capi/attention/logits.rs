//! What the functions of this room have in common: how products become logits, where their sums lie, and which rows a query sees.

use crate::attention::{LogBase, LogSumOrder, Logits, Mask, Turn};
use crate::capi::abi::or_f32;
use crate::capi::status::{Failure, Outcome};

/// In which order log-sum-exps lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_log_sum_order {
    /// `[tokens, heads]`, as FlashInfer has them.
    LACUNA_LOG_SUMS_TOKENS_HEADS = 0,
    /// `[heads, tokens]`, as FlashAttention's calls for requests of various lengths and vLLM have them.
    LACUNA_LOG_SUMS_HEADS_TOKENS = 1,
    /// `[batch, heads, n_queries]`, as FlashAttention's calls for as many queries of each request have them.
    LACUNA_LOG_SUMS_BATCH_HEADS_QUERIES = 2,
}

/// The base of log-sum-exps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_log_base {
    /// e, as FlashAttention and FlashMLA have it.
    LACUNA_LOG_BASE_E = 0,
    /// 2, as FlashInfer has it.
    LACUNA_LOG_BASE_TWO = 1,
}

/// Which rows a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_mask {
    /// What is usual: of a segment all, of prefill those up to its own.
    LACUNA_MASK_USUAL = 0,
    /// All.
    LACUNA_MASK_NONE = 1,
    /// Those up to its own; a request's last rows are those of its queries, unless positions are given.
    LACUNA_MASK_CAUSAL = 2,
    /// And of those the last `window`, its own among them.
    LACUNA_MASK_WINDOW = 3,
}

/// How a key is turned by its position (RoPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum lacuna_turn {
    /// Channel `c` with the one half a head further (GPT-NeoX, Llama).
    LACUNA_TURN_HALVES = 0,
    /// Each even channel with the next (GPT-J).
    LACUNA_TURN_PAIRS = 1,
    /// Not at all.
    LACUNA_TURN_NONE = 2,
}

pub(super) fn order(number: u32) -> Outcome<LogSumOrder> {
    match number {
        0 => Ok(LogSumOrder::TokensHeads),
        1 => Ok(LogSumOrder::HeadsTokens),
        2 => Ok(LogSumOrder::BatchHeadsQueries),
        number => Err(Failure::number("log_sum_order", number, "lacuna_log_sum_order")),
    }
}

pub(super) fn base(number: u32) -> Outcome<LogBase> {
    match number {
        0 => Ok(LogBase::E),
        1 => Ok(LogBase::Two),
        number => Err(Failure::number("log_base", number, "lacuna_log_base")),
    }
}

pub(super) fn mask(number: u32, usual: Mask, window: u64) -> Outcome<Mask> {
    match number {
        0 => Ok(usual),
        1 => Ok(Mask::None),
        2 => Ok(Mask::Causal),
        3 => Ok(Mask::Window(window)),
        number => Err(Failure::number("mask", number, "lacuna_mask")),
    }
}

pub(in crate::capi) fn turn(number: u32) -> Outcome<Turn> {
    match number {
        0 => Ok(Turn::Halves),
        1 => Ok(Turn::Pairs),
        2 => Ok(Turn::None),
        number => Err(Failure::number("turn", number, "lacuna_turn")),
    }
}

/// Of heads of so many elements; a scale or a cap of 0 is the usual one.
pub(super) fn logits(head_dim: u64, scale: f32, soft_cap: f32, log_base: u32) -> Outcome<Logits> {
    let usual = Logits::of(head_dim);
    Ok(Logits {
        scale: or_f32(scale, usual.scale),
        soft_cap: (soft_cap != 0.0).then_some(soft_cap),
        base: base(log_base)?,
    })
}
