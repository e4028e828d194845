//! How near results are to those of exact arithmetic over what pages and rows stand for, and what must not show beyond rounding.

use std::f64::consts::LOG2_E;

use lacuna::attention::reference::{HostPartial, merge_partials};
use lacuna::attention::{MergePlan, MergeShape, PartialShape, Tokens};
use lacuna::element::Half;
use lacuna::mma::Model;
use lacuna::quant::{Part as Of, Tail, Tier};

use super::problem::*;
use crate::attend::problem::{Brain, Case, POISON, Part, Problem, Short};

/// A query's, in f64: of tokens that pages and rows stand for.
struct Exact {
    outputs: Vec<f64>,
    log_sum: f64,
    /// To base 2, of each position: what it is, and how far off it may be.
    logits: Vec<Option<(f64, f64)>>,
    /// Of each channel the sum of weights times values' magnitudes; the root of the mean square.
    norm: f64,
}

fn exact<T: Half>(paged: &Paged<T>, b: usize, i: usize, q: usize) -> Exact {
    let attend = paged.plan.attend();
    let shape = attend.shape();
    let d = shape.head_dim as usize;
    let head = q / attend.group() as usize;
    let own_head = b * attend.n_heads() as usize + head;
    let first = (b * shape.n_queries as usize + i) * shape.query_stride as usize + q * d;
    let query: Vec<f32> = paged.problem.queries[first..][..d].iter().map(|x| x.to_f32()).collect();
    let log2_scale = f64::from(shape.logits.scale) * LOG2_E;
    let dot = |key: &[f32]| -> [f64; 2] {
        let products = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k));
        products.fold([0.0; 2], |[sum, all], x| [sum + x, all + x.abs()])
    };
    let capped = |x: f64| match shape.logits.soft_cap {
        Some(cap) => {
            let cap = f64::from(cap) * LOG2_E;
            cap * (x / cap).tanh()
        }
        None => x,
    };
    let pages = paged.plan.pages().shape();
    let n_pages = pages.n_pages as usize;
    let n_lists = pages.lists.per_request(&pages.layout) as usize;
    let list = if n_lists == 1 { b } else { b * n_lists + head };
    let n_slots = paged.counts.as_ref().map_or(usize::MAX, |all| all[list] as usize);
    let mut logits = vec![None; paged.plan.n_positions() as usize];
    let mut values = vec![Vec::new(); logits.len()];
    for p in 0..n_pages {
        let span = p / pages.span_pages as usize;
        let entry = |part| paged.entries[part as usize][own_head * n_pages + p];
        let page = |part| paged.page(part, entry(part));
        let (Some(keys), Some(of_values)) = (page(Of::Keys), page(Of::Values)) else { continue };
        let [channels, of_channels] =
            [Of::Keys, Of::Values].map(|part| paged.channels(part, own_head, span));
        for t in 0..64.min(n_slots.saturating_sub(64 * p)) {
            let [product, all] = dot(&keys.dequantize::<T>(t, &channels));
            let off = if keys.tier().is_coded() {
                let scale = |c: usize| channels.scales.map_or(1.0, |all| f64::from(all[c]));
                let offset = |c: usize| channels.offsets.map_or(0.0, |all| f64::from(all[c]));
                let (codes, step, least) = match keys.shape().tail() {
                    Tail::ZeroPoints => {
                        let row = keys.row(t);
                        let step = row.scale.to_f64();
                        (row.codes, step, -step * f64::from(row.zero) / 16.0)
                    }
                    Tail::Minimums => {
                        let row = keys.minimum_row(t);
                        (row.codes, f64::from(row.step), f64::from(row.minimum))
                    }
                };
                let scaled = |c: usize| (f64::from(query[c]) * scale(c)).abs();
                let top = (0..d).map(scaled).fold(0.0, f64::max);
                let of_codes = |c: usize| step * f64::from(codes[c]);
                // Half a unit of what queries are rounded to, of each channel; and roundings of sums in f32.
                let fixed: f64 = (0..d).map(|c| (of_codes(c) + least).abs()).sum();
                let sums: f64 = (0..d)
                    .map(|c| {
                        scaled(c) * (of_codes(c).abs() + least.abs())
                            + (f64::from(query[c]) * offset(c)).abs()
                    })
                    .sum();
                2.0_f64.powi(-14) * top * fixed + 2.0_f64.powi(-21) * sums
            } else {
                2.0_f64.powi(-20) * all
            };
            let logit = capped(product * log2_scale);
            let off = off * log2_scale.abs() + 2.0_f64.powi(-21) * logit.abs().max(1.0);
            logits[64 * p + t] = Some((logit, off));
            values[64 * p + t] = of_values.dequantize::<T>(t, &of_channels);
        }
    }
    paged.problem.with_reference(Model::HOPPER, |attended| {
        for (at, token) in attended.tokens(b, head, i).into_iter().enumerate() {
            let Some(token) = token.filter(|token| token.is_seen) else { continue };
            let floats = |row: &[T]| row.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let [product, all] = dot(&floats(&token.key));
            let logit = capped(product * log2_scale) + f64::from(token.bias) * LOG2_E;
            let off = 2.0_f64.powi(-20) * (all * log2_scale.abs() + logit.abs().max(1.0));
            logits[64 * n_pages + at] = Some((logit, off));
            values[64 * n_pages + at] = floats(token.value);
        }
    });
    let sink = paged.problem.sinks.as_ref().map(|sinks| f64::from(sinks[q]) * LOG2_E);
    let all = logits.iter().flatten().map(|(logit, _)| *logit).chain(sink);
    let most = all.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = all.map(|x| (x - most).exp2()).sum();
    let [mut outputs, mut norms] = [vec![0.0; d], vec![0.0; d]];
    for (logit, value) in logits.iter().zip(&values) {
        let Some((logit, _)) = logit else { continue };
        let weight = (logit - most).exp2() / sum;
        for (c, value) in value.iter().enumerate() {
            outputs[c] += weight * f64::from(*value);
            norms[c] += weight * f64::from(value.abs());
        }
    }
    let log_sum = (most + sum.log2()) / LOG2_E;
    Exact { outputs, log_sum, logits, norm: distance(&norms, &vec![0.0; d]) }
}

/// The root of the mean square of what differs.
fn distance(one: &[f64], other: &[f64]) -> f64 {
    let sum: f64 = one.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum();
    (sum / one.len() as f64).sqrt()
}

/// Every query is as near as its logits may be, and outputs within a part of the magnitudes that they are sums of.
#[track_caller]
fn assert_near<T: Half>(paged: &Paged<T>, most_off: f64) {
    let shape = *paged.plan.attend().shape();
    let [batch, n_queries, n_q_heads] =
        [shape.batch, shape.n_queries, shape.n_q_heads].map(|n| n as usize);
    let mut worst = 0.0_f64;
    for b in 0..batch {
        for (i, q) in (0..n_queries).flat_map(|i| (0..n_q_heads).map(move |q| (i, q))) {
            let exact = exact(paged, b, i, q);
            let (outputs, log_sum, logits) =
                paged.with_reference(Model::HOPPER, |attended| attended.query(b, i, q));
            let mut most = 0.0_f64;
            for (at, (own, exact)) in logits.iter().zip(&exact.logits).enumerate() {
                let Some((exact, off)) = exact else {
                    assert_eq!(*own, f32::NEG_INFINITY, "logit {at}");
                    continue;
                };
                let own = f64::from(*own);
                assert!((own - exact).abs() <= *off, "logit {at}: {own}, not {exact} +- {off}");
                most = most.max(*off);
            }
            let off = most / LOG2_E + 2.0_f64.powi(-20) * exact.log_sum.abs().max(1.0);
            let own = f64::from(log_sum);
            let is_empty = exact.logits.iter().all(Option::is_none);
            if is_empty && paged.problem.sinks.is_none() {
                assert_eq!((own, &outputs), (f64::NEG_INFINITY, &vec![0.0; outputs.len()]));
                continue;
            }
            assert!((own - exact.log_sum).abs() <= off, "{own}, not {} +- {off}", exact.log_sum);
            let own: Vec<f64> = outputs.iter().copied().map(f64::from).collect();
            let off = distance(&own, &exact.outputs);
            worst = worst.max(off / exact.norm.max(1e-30));
        }
    }
    assert!(worst <= most_off, "off by {worst:.3e} of what is summed");
}

/// No segments but one of nothing.
fn pages_alone(case: Case) -> Case {
    Case { parts: vec![Part::of(Tokens::first(0))], ..case }
}

/// Of codes, weights are rounded to 15 bits of the greatest of a page; of numbers, to their type.
#[test]
fn each_tier_is_near_what_its_pages_stand_for() {
    for (tier, most_off) in
        [(Tier::T16, 6e-4), (Tier::T8, 5e-4), (Tier::T4, 5e-4), (Tier::T2, 5e-4)]
    {
        for tail in [Tail::ZeroPoints, Tail::Minimums] {
            for (has_scales, has_offsets) in [(false, false), (true, true)] {
                let pages =
                    Pages { tiers: vec![tier], tail, has_scales, has_offsets, ..Pages::default() };
                let case = pages_alone(Case { n_queries: 2, head_dim: 128, ..case() });
                assert_near(&Paged::<Brain>::new(&case, &pages), most_off);
                assert_near(&Paged::<Short>::new(&case, &pages), most_off);
            }
        }
    }
}

/// Tiers of keys and values of all kinds beside segments, sinks and a cap; counts that end in pages.
#[test]
fn all_together_are_near_what_they_stand_for() {
    for (soft_cap, has_sinks) in [(None, false), (Some(4.0), true)] {
        let case = Case { n_queries: 3, group: 3, soft_cap, has_sinks, ..case() };
        let pages = Pages { has_counts: true, n_pages: 9, ..Pages::default() };
        assert_near(&Paged::<Brain>::new(&case, &pages), 1e-3);
        assert_near(&Paged::<Short>::new(&case, &pages), 1e-3);
    }
}

/// One token has all of the weight, or all the same.
#[test]
fn peaked_and_flat_logits_are_near() {
    for (factor, most_off) in [(0.0, 1e-4), (1e-6, 1e-4), (10.0, 4e-3), (100.0, 2e-2)] {
        let case = Case { n_queries: 2, ..case() };
        let mut paged = Paged::<Brain>::new(&case, &Pages::default());
        for query in &mut paged.problem.queries {
            *query = Brain::from_f32(query.to_f32() * factor);
        }
        assert_near(&paged, most_off);
    }
}

fn outputs_of<T: Half>(paged: &Paged<T>) -> (Vec<f64>, Vec<f64>) {
    let (results, _) = paged.expect::<f32>(Model::HOPPER);
    let outputs = results.outputs.iter().copied().map(f64::from).collect();
    (outputs, results.log_sums.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect())
}

#[track_caller]
fn assert_alike(one: &(Vec<f64>, Vec<f64>), other: &(Vec<f64>, Vec<f64>), most_off: f64) {
    assert_eq!(one.0.len(), other.0.len());
    // What lies between outputs is the same.
    let [norm, off] = [&vec![0.0; one.0.len()], &other.0].map(|other| {
        let own = one.0.iter().zip(other).filter(|(x, _)| **x != f64::from(POISON));
        let (own, other): (Vec<f64>, Vec<f64>) = own.unzip();
        distance(&own, &other)
    });
    assert!(off <= most_off * norm, "off by {:.3e}", off / norm);
    for (one, other) in one.1.iter().zip(&other.1) {
        let is_near = one == other || (one - other).abs() <= 1e-5 * one.abs().max(1.0);
        assert!(is_near, "log-sums {one} and {other}");
    }
}

/// Weights are exact but for a page's unit, and for what numbers are rounded to.
#[test]
fn the_order_of_pages_is_but_rounding() {
    let case = pages_alone(Case { n_queries: 2, ..case() });
    let pages = Pages { n_pages: 11, span_pages: 11, ..Pages::default() };
    let paged = Paged::<Brain>::new(&case, &pages);
    let mut reversed = paged.clone();
    for entries in &mut reversed.entries {
        entries.chunks_mut(11).for_each(<[u32]>::reverse);
    }
    assert_ne!(outputs_of(&paged), outputs_of(&reversed));
    assert_alike(&outputs_of(&paged), &outputs_of(&reversed), 1e-3);
}

/// What one launch sums, two do that each have some of the pages, when they are merged.
#[test]
fn pages_in_two_launches_are_pages_in_one() {
    let case = Case { n_queries: 2, ..case() };
    let pages = Pages { n_pages: 9, span_pages: 1, ..Pages::default() };
    let all = Paged::<Brain>::new(&case, &pages);
    assert_same::<_, f32>(&all);
    let none = pages_alone(case).build::<Brain>();
    for at in [0, 1, 4, 9] {
        let parts = [all.of_pages(none.clone(), 0..at), all.of_pages(all.problem.clone(), at..9)];
        parts.iter().for_each(assert_same::<_, f32>);
        let results = parts.map(|part| part.expect::<f32>(Model::HOPPER).0);
        let log_sums = results
            .each_ref()
            .map(|part| part.log_sums.iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<_>>());
        let shape = *all.plan.attend().shape();
        let (n_tokens, n_heads) = (shape.batch * shape.n_queries, shape.n_q_heads);
        let of = MergeShape {
            output_stride: shape.output_stride,
            ..MergeShape::of(n_tokens, n_heads, shape.head_dim)
        };
        let part = PartialShape { stride: shape.output_stride, ..of.part() };
        let plan = MergePlan::new(of, &[part; 2]).unwrap();
        let of = |i: usize| HostPartial {
            outputs: &results[i].outputs,
            log_sums: &log_sums[i],
            mask: None,
        };
        let mut outputs = vec![POISON; plan.outputs_len() as usize];
        let mut merged = vec![0.0; plan.log_sums_len() as usize];
        merge_partials(&plan, &[of(0), of(1)], &mut outputs, &mut merged);
        let floats = |all: Vec<f32>| all.into_iter().map(f64::from).collect::<Vec<_>>();
        assert_alike(&outputs_of(&all), &(floats(outputs), floats(merged)), 1e-3);
    }
}

/// Pages of 16 bits are rows as `attend` has them, and rows alone are `attend`.
#[test]
fn pages_of_numbers_are_rows() {
    let rows =
        Case { lengths: vec![320, 320], n_heads: 2, head_dim: 64, n_queries: 2, ..Case::default() };
    let attend: Problem<Brain> = rows.build();
    let pages = Pages { tiers: vec![Tier::T16], ..Pages::default() };
    let mut paged = Paged::<Brain>::new(&pages_alone(rows.clone()), &pages);
    let layout = rows.kv_layout().unwrap();
    let segment = &attend.segments[0];
    paged.pools[0].clear();
    // Of each head five pages of keys, and then of values.
    for (list, part) in (0..4).flat_map(|list| [Of::Keys, Of::Values].map(|part| (list, part))) {
        for p in 0..5 {
            let number = paged.pools[0].len() / (2 * 64 * 64);
            paged.entries[part as usize][5 * list + p] = number as u32;
            for t in 64 * p..64 * p + 64 {
                let [b, h, t] = [list / 2, list % 2, t].map(|n| n as u64);
                let start = layout.locate(&segment.page_table, b, t, h).unwrap();
                let pool = [&segment.keys, &segment.values][part as usize];
                let row = pool[start..start + 64].iter().flat_map(|x| x.bits().to_le_bytes());
                paged.pools[0].extend(row);
            }
        }
    }
    let n = paged.plan.pages().pool_bytes(Tier::T16) as usize;
    paged.pools[0].resize(n, 0);
    assert_same::<_, f32>(&paged);
    let floats = |results: crate::attend::problem::Results<f32>| {
        let outputs = results.outputs.into_iter().map(f64::from).collect();
        let sums = results.log_sums.into_iter().map(|bits| f64::from(f32::from_bits(bits)));
        (outputs, sums.collect::<Vec<_>>())
    };
    let attended = floats(attend.expect::<f32>(Model::HOPPER));
    assert_alike(&attended, &outputs_of(&paged), 1e-3);
    let mut without = Paged::<Brain>::new(&rows, &pages);
    without.counts = Some(vec![0; 4]);
    assert_alike(&attended, &outputs_of(&without), 1e-3);
}
