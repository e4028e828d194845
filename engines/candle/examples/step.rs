//! One layer's attention in a step of decoding, of a model of SmolLM-135M's sizes, each way on the CPU, and how long it took here.
//!
//! `cargo run --release -p lacuna-candle --example step [tokens]`

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use lacuna_candle::lacuna::attention::Tokens;
use lacuna_candle::lacuna::quant::Tier;
use lacuna_candle::lacuna::select::{GroupReduction, ScoreKind, Summary};
use lacuna_candle::{
    AttendOptions, KvCache, ScoreOptions, Segment, TieredPages, TopkOptions, VoteOptions,
    append_kv, attend, attend_tiered, box_cache, quantize_pages, score_rows, summarize, topk_rows,
    vote_rows,
};

const HEADS: usize = 3;
const Q_HEADS: usize = 9;
const DIM: usize = 64;
const PAGE: usize = 16;

fn timed<T>(what: &str, run: impl Fn() -> Result<T>) -> Result<T> {
    run()?;
    let started = Instant::now();
    let answer = run()?;
    println!("{what:<40} {:>8.2} ms", started.elapsed().as_secs_f64() * 1e3);
    Ok(answer)
}

fn main() -> Result<()> {
    let n: usize = std::env::args().nth(1).map_or(Ok(2048), |n| n.parse()).expect("tokens");
    let device = Device::Cpu;
    let mut cache = KvCache::zeros(1, n + 64, HEADS, DIM, PAGE, DType::BF16, &device)?;
    let random = |n: usize, heads: usize| {
        Tensor::randn(0_f32, 1.0, (1, n, heads, DIM), &device)?.to_dtype(DType::BF16)
    };
    append_kv(&mut cache, &random(n, HEADS)?, &random(n, HEADS)?, None)?;
    let queries = random(1, Q_HEADS)?.squeeze(1)?;
    let options = AttendOptions { dtype: Some(DType::F32), ..AttendOptions::default() };
    println!("{n} tokens, {Q_HEADS} query heads of {HEADS}, dimension {DIM}");

    timed("attend to all", || attend(&queries, &[Segment::range(&cache, Tokens::ALL)], &options))?;

    let exact = AttendOptions { is_exact: true, ..options };
    timed("the same, with a device's bits", || {
        attend(&queries, &[Segment::range(&cache, Tokens::ALL)], &exact)
    })?;

    // TokenSelect: all heads vote.
    let votes = timed("vote", || vote_rows(&queries, &cache, &VoteOptions::default()))?;
    let selection = TopkOptions {
        n_first: 16,
        n_last: 64,
        lengths: Some(&cache.lengths),
        ..TopkOptions::largest(256)
    };
    let picks = timed("pick 256 tokens", || topk_rows(&votes.squeeze(1)?, &selection))?;
    timed("attend to them", || {
        let segment = Segment::blocks(&cache, &picks.indices, Some(&picks.counts), 1);
        attend(&queries, &[segment], &options)
    })?;

    // Quest: pages by their boxes.
    let mut boxes = box_cache(&cache)?;
    summarize(&cache, &mut boxes, Summary::Box, None)?;
    let by_box = ScoreOptions { kind: ScoreKind::Box, reduction: GroupReduction::Max };
    let bounds = timed("score boxes of pages", || score_rows(&queries, &boxes, &by_box))?;
    let selection = TopkOptions {
        n_last: 1,
        lengths: Some(&cache.lengths),
        tokens_per_score: PAGE,
        ..TopkOptions::largest(16)
    };
    let picks = timed("pick 16 pages a head", || topk_rows(&bounds, &selection))?;
    timed("attend to them", || {
        let segment = Segment::blocks(&cache, &picks.indices, Some(&picks.counts), PAGE);
        attend(&queries, &[segment], &options)
    })?;

    // A tiered cache: all whole pages of 64 tokens in one tier.
    let n_pages = n / 64;
    for tier in [Tier::T8, Tier::T4, Tier::T2] {
        let mut n_pool_pages = [0; 4];
        n_pool_pages[tier.tag() as usize] = 2 * HEADS * n_pages;
        let mut pages = TieredPages::new(&cache, n_pages, n_pool_pages)?;
        let entries = |first: usize| {
            let entry = |i: usize| TieredPages::entry(tier, (first + i) as u32);
            let entries: Vec<_> = (0..HEADS * n_pages).map(entry).collect();
            Tensor::from_vec(entries, (1, HEADS, n_pages), &device)
        };
        (pages.key_entries, pages.value_entries) = (entries(0)?, entries(HEADS * n_pages)?);
        let indices: Vec<_> = (0..HEADS).flat_map(|_| 0..64 * n_pages as i32).collect();
        let indices = Tensor::from_vec(indices, (1, HEADS, n_pages, 64), &device)?;
        timed(&format!("quantize all to {} bits", tier.bits()), || {
            quantize_pages(&cache, &indices, &pages)
        })?;
        timed(&format!("attend to {} bits", tier.bits()), || {
            let segment = Segment::range(&cache, Tokens::last((n % 64) as u64));
            attend_tiered(&queries, &pages, &[segment], &options)
        })?;
        timed("the same, with a device's bits", || {
            let segment = Segment::range(&cache, Tokens::last((n % 64) as u64));
            attend_tiered(&queries, &pages, &[segment], &exact)
        })?;
    }
    Ok(())
}
