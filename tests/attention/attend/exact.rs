//! How near results are to those of exact arithmetic, beside an honest implementation in the same types: products and sums in f32,
//! weights rounded to the type of the values.

use lacuna::attention::{Mask, Tokens};
use lacuna::element::Half;
use lacuna::mma::Model;

use super::problem::*;

/// A row's outputs in f64 and as torch's fused attention gives them, and its log-sum in f64.
fn both_of<T: Half>(problem: &Problem<T>, q: usize) -> ([Vec<f64>; 2], f64) {
    let shape = *problem.plan.shape();
    let d = shape.head_dim as usize;
    let query: Vec<f32> = problem.queries[q * d..][..d].iter().map(|x| x.to_f32()).collect();
    problem.with_reference(Model::HOPPER, |attended| {
        let tokens = attended.tokens(0, q / problem.plan.group() as usize, 0);
        let tokens: Vec<_> = tokens.into_iter().flatten().filter(|token| token.is_seen).collect();
        let exact: Vec<f64> = tokens
            .iter()
            .map(|token| {
                let products = query.iter().zip(token.key.iter());
                let product: f64 =
                    products.map(|(q, k)| f64::from(*q) * f64::from(k.to_f32())).sum();
                product * f64::from(shape.logits.scale) + f64::from(token.bias)
            })
            .collect();
        let most = exact.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = exact.iter().map(|x| (x - most).exp()).sum();
        let log_sum = most + sum.ln();
        let mut outputs = vec![0.0; d];
        for (token, logit) in tokens.iter().zip(&exact) {
            for (output, value) in outputs.iter_mut().zip(token.value) {
                *output += (logit - most).exp() / sum * f64::from(value.to_f32());
            }
        }
        let honest: Vec<f32> = tokens
            .iter()
            .map(|token| {
                let products = query.iter().zip(token.key.iter());
                let product = products.fold(0.0_f32, |sum, (q, k)| sum + q * k.to_f32());
                product * shape.logits.scale + token.bias
            })
            .collect();
        let most = honest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut honest_outputs) = (0.0_f32, vec![0.0_f32; d]);
        for (token, logit) in tokens.iter().zip(&honest) {
            let weight = (logit - most).exp();
            sum += weight;
            let rounded = T::from_f32(weight).to_f32();
            for (output, value) in honest_outputs.iter_mut().zip(token.value) {
                *output += rounded * value.to_f32();
            }
        }
        let honest = honest_outputs.iter().map(|x| T::from_f32(x / sum).to_f32().into());
        ([outputs, honest.collect()], log_sum)
    })
}

/// The root of the mean square of what differs.
fn distance(one: &[f64], other: &[f64]) -> f64 {
    let sum: f64 = one.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum();
    (sum / one.len() as f64).sqrt()
}

/// At most twice the honest error, and half a unit of the type.
#[track_caller]
fn assert_near<T: Half>(problem: &Problem<T>) {
    let ours = problem.expect::<T>(Model::HOPPER);
    let d = problem.plan.shape().head_dim as usize;
    for q in 0..problem.plan.shape().n_q_heads as usize {
        let ([exact, honest], log_sum) = both_of(problem, q);
        let own = f64::from(f32::from_bits(ours.log_sums[q]));
        // Weights are summed before they are rounded, and a logit is a sum in f32.
        let rounding = 2.0_f64.powi(-20) + 2.0_f64.powi(-22) * log_sum.abs();
        assert!((own - log_sum).abs() <= rounding, "head {q}: log-sum {own}, not {log_sum}");
        let own: Vec<f64> = ours.outputs[q * d..][..d].iter().map(|x| x.to_f32().into()).collect();
        let is_bf16 = T::from_f32(1.0).bits() == 0x3F80;
        let unit = 2.0_f64.powi(if is_bf16 { -9 } else { -12 });
        let norm = distance(&exact, &vec![0.0; d]);
        let (own, honest) = (distance(&own, &exact), distance(&honest, &exact));
        assert!(
            own <= 2.0 * honest + 0.1 * unit * norm,
            "head {q}: {own:.3e}, {honest:.3e} of {norm:.3e}"
        );
    }
}

#[test]
fn errors_are_those_of_an_honest_implementation() {
    for n in [1, 20, 500, 3000] {
        let case =
            Case { lengths: vec![n], n_heads: 2, head_dim: 64, seed: n.into(), ..Case::default() };
        assert_near(&case.build::<Brain>());
        assert_near(&case.build::<Short>());
        let biased = Part { has_biases: true, ..Part::of(Tokens::ALL) };
        assert_near(&Case { parts: vec![biased], ..case.clone() }.build::<Brain>());
        let window = Part::of(Tokens::ALL).masked(Mask::Window(100));
        assert_near(&Case { parts: vec![window], ..case }.build::<Brain>());
    }
}

/// One token has all of the weight, or all the same; logits of 10^4 and more.
#[test]
fn peaked_and_flat_and_large_logits() {
    let case = Case { lengths: vec![700], head_dim: 64, ..Case::default() };
    for factor in [0.0, 1e-6, 10.0, 100.0, 3000.0] {
        let mut problem = case.build::<Brain>();
        for query in &mut problem.queries {
            *query = Brain::from_f32(query.to_f32() * factor);
        }
        assert_near(&problem);
        assert_same::<_, f32>(&problem);
    }
}

/// A million tokens in one row; the executor computes a part of them.
#[test]
fn long_rows_lose_nothing() {
    let case =
        Case { lengths: vec![1 << 20], group: 1, head_dim: 16, page_size: 256, ..Case::default() };
    assert_near(&case.build::<Brain>());
    let case = Case { lengths: vec![40_000], ..case };
    assert_same::<_, Brain>(&case.build::<Brain>());
}

/// RetroInfer's estimation zone: clusters of `s` tokens by their centroids and mean values, each weighing `s` times what its
/// centroid does, are ordinary attention with biases `ln(s)`.
#[test]
fn weighted_clusters_are_biases_of_their_sizes() {
    let zone =
        Part { has_biases: true, ..Part::of(Tokens::Blocks { n_blocks: 30, block_size: 1 }) };
    let parts = vec![Part::of(Tokens::first(5)), zone];
    let case = Case { lengths: vec![60], head_dim: 64, parts, ..Case::default() };
    let mut problem = case.build::<Brain>();
    let segment = &mut problem.segments[1];
    segment.indices = Some((20..50).collect());
    let sizes: Vec<u32> = (0..30).map(|i| 1 + i * 7 % 23).collect();
    segment.biases = Some(sizes.iter().map(|size| (*size as f32).ln()).collect());
    assert_near(&problem);
    let ours = problem.expect::<f32>(Model::HOPPER);
    for q in 0..2 {
        let query = &problem.queries[q * 64..][..64];
        let (mut sum, mut output) = (0.0, vec![0.0; 64]);
        problem.with_reference(Model::HOPPER, |attended| {
            for (i, token) in attended.tokens(0, 0, 0).into_iter().flatten().enumerate() {
                let products = query.iter().zip(token.key.iter());
                let product: f64 =
                    products.map(|(q, k)| f64::from(q.to_f32()) * f64::from(k.to_f32())).sum();
                let size = if i < 5 { 1 } else { sizes[i - 5] };
                let weight = f64::from(size) * (product / 8.0).exp();
                sum += weight;
                for (output, value) in output.iter_mut().zip(token.value) {
                    *output += weight * f64::from(value.to_f32());
                }
            }
        });
        for (own, exact) in ours.outputs[q * 64..].iter().zip(&output) {
            assert!((f64::from(*own) - exact / sum).abs() < 0.01, "{own} {}", exact / sum);
        }
        let log_sum = f64::from(f32::from_bits(ours.log_sums[q]));
        assert!((log_sum - sum.ln()).abs() < 0.01, "{log_sum} {}", sum.ln());
    }
}
