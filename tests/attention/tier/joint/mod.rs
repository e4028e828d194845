//! Attention over two tiers: hits on one queue, while another fetches what misses and attends to that.

mod engine;

use half::bf16;
use lacuna::attention::reference::{self, HostPartial, HostPools};
use lacuna::attention::{MergePlan, MergeShape};

use self::engine::*;
use super::problem::{Left, Problem, random, shape};
use crate::attend::problem::{Problem as Attention, Results, SegmentData, assert_results};
use crate::common;

const N_STEPS: usize = 7;

fn numbers(n: u64, seed: u64) -> Vec<bf16> {
    let mut state = seed;
    let mut normal = || {
        let sum: f32 = (0..12).map(|_| random(&mut state) as f32 / 2.0_f32.powi(32)).sum();
        bf16::from_f32(sum - 6.0)
    };
    (0..n).map(|_| normal()).collect()
}

/// Words of each page of keys and of values.
fn host_pools(pools: [&[bf16]; 2]) -> HostPools {
    let pages = |pool: &[bf16]| -> Vec<Vec<u32>> {
        pool.chunks(PAGE as usize).map(|page| bytemuck::cast_slice(page).to_vec()).collect()
    };
    HostPools { pools: pools.map(pages).to_vec() }
}

/// What lists name of a tier, for the reference and for `attend` alone.
fn attention(
    n_blocks: u64,
    queries: &[bf16],
    tier: &HostPools,
    indices: &[i32],
    counts: Option<&[u32]>,
) -> Attention<bf16> {
    let elements = |pool: &Vec<Vec<u32>>| -> Vec<bf16> {
        pool.iter().flat_map(|page| bytemuck::cast_slice::<u32, bf16>(page).to_vec()).collect()
    };
    let segment = SegmentData {
        keys: elements(&tier.pools[0]),
        values: elements(&tier.pools[1]),
        page_table: page_table(n_blocks),
        lengths: vec![(n_blocks * BLOCK) as u32; BATCH as usize],
        indices: Some(indices.to_vec()),
        counts: counts.map(<[u32]>::to_vec),
        biases: None,
    };
    Attention {
        plan: plan(n_blocks),
        queries: queries.to_vec(),
        segments: vec![segment],
        sinks: None,
        skips: None,
        has_log_sums: true,
    }
}

/// The reference of each part, and of what joins them.
fn join(
    model: lacuna::mma::Model,
    queries: &[bf16],
    tier: &HostPools,
    left: &Left,
) -> Results<bf16> {
    let of = |slots: &[i32], counts: &[u32]| {
        attention(N_SLOTS, queries, tier, slots, Some(counts)).expect::<bf16>(model)
    };
    let parts = [of(&left.hits, &left.hit_counts), of(&left.fetched, &left.fetched_counts)];
    let log_sums = parts
        .each_ref()
        .map(|part| -> Vec<f32> { part.log_sums.iter().copied().map(f32::from_bits).collect() });
    let partial = |part: usize| HostPartial {
        outputs: &parts[part].outputs,
        log_sums: &log_sums[part],
        mask: None,
    };
    let shape = MergeShape::of(BATCH, N_Q_HEADS, HEAD_DIM);
    let plan = MergePlan::new(shape, &[shape.part(); 2]).unwrap();
    let mut outputs = vec![bf16::ZERO; plan.outputs_len() as usize];
    let mut sums = vec![0.0; plan.log_sums_len() as usize];
    reference::merge_partials(&plan, &[partial(0), partial(1)], &mut outputs, &mut sums);
    Results { outputs, log_sums: sums.into_iter().map(f32::to_bits).collect() }
}

/// What rounding can make of one result and of two that are joined: each weight is rounded to bf16 in numerator and
/// denominator, on either side, and three outputs are rounded once; all relative to attention to the values' magnitudes, which
/// is itself rounded.
#[track_caller]
fn assert_near(joined: &Results<bf16>, dense: &Results<bf16>, magnitudes: &Results<bf16>) {
    let outputs = joined.outputs.iter().zip(&dense.outputs).zip(&magnitudes.outputs);
    for ((own, dense), magnitude) in outputs {
        let bound = (2.0 * 2.0 + 3.0) * 1.02 * 2.0_f32.powi(-9) * magnitude.to_f32();
        assert!((own.to_f32() - dense.to_f32()).abs() <= bound, "{own} and {dense}");
    }
    for (own, dense) in joined.log_sums.iter().zip(&dense.log_sums) {
        let [own, dense] = [own, dense].map(|bits| f32::from_bits(*bits));
        assert!((own - dense).abs() <= 2.0_f32.powi(-7), "{own} and {dense}");
    }
}

#[test]
fn hits_and_what_is_fetched_beside_them_are_attention_to_both() {
    let problem = Problem::new(shape([BATCH, N_HEADS], N, N_LOGICAL, N_SLOTS), N_STEPS, 6);
    let expected = problem.expect();
    let queries = numbers(BATCH * N_Q_HEADS * HEAD_DIM, 1);
    let n_large = BATCH * N_HEADS * N_LOGICAL * PAGE;
    let (keys, values) = (numbers(n_large, 2), numbers(n_large, 3));
    let magnitudes: Vec<bf16> =
        values.iter().map(|value| bf16::from_f32(value.to_f32().abs())).collect();
    let [large, magnitudes] = [&values, &magnitudes].map(|values| host_pools([&keys, values]));
    for queue in common::queues() {
        let Some(model) = common::model_of(&queue) else { continue };
        let second = common::beside(&queue);
        let mut engine = Engine::new(&queue, &second, &queries, [&keys, &values]).unwrap();
        let zeros = vec![bf16::ZERO; (BATCH * N_HEADS * N_SLOTS * PAGE) as usize];
        let mut small = host_pools([&zeros, &zeros]);
        for (step, ((list, _), expected)) in problem.steps.iter().zip(&expected).enumerate() {
            let (results, left) = engine.step(list, step % 2 == 0).unwrap();
            assert_eq!(left.hits, expected.hits, "step {step}");
            assert_eq!(left.fetched, expected.fetched, "step {step}");
            assert_eq!(left.misses, expected.misses, "step {step}");
            let pairs: Vec<[i32; 2]> =
                left.misses.chunks(2).map(|pair| [pair[0], pair[1]]).collect();
            reference::copy_pages(&large, &mut small, &pairs);
            let joined = join(model, &queries, &small, &left);
            assert_results(&results, &joined, &format!("step {step} on {}", queue.executor()));

            let [dense, magnitudes] = [&large, &magnitudes].map(|tier| {
                attention(N_LOGICAL, &queries, tier, list, None).attend::<bf16>(&queue).unwrap()
            });
            assert_near(&results, &dense, &magnitudes);
            // Both tiers have a part in every step but the first; of one list, either may be empty.
            let [n_hits, n_fetched]: [u32; 2] =
                [&left.hit_counts, &left.fetched_counts].map(|counts| counts.iter().sum());
            assert!(n_fetched > 0 && (n_hits > 0) == (step > 0), "step {step}");
        }
        // More came than there are slots for: some were driven out.
        let n_fetched =
            |list: usize| -> u32 { expected.iter().map(|left| left.miss_counts[list]).sum() };
        assert!((0..4).all(|list| n_fetched(list) > N_SLOTS as u32));
    }
}
