//! ShadowKV's landmarks, and attention to what they select, against their formulas.

#[path = "../../examples/shadow_kv.rs"]
mod recipe;

use half::bf16;
use lacuna::Queue;
use lacuna::attention::{self, AttendInputs, AttendOutputs, AttendPlan, AttendShape};
use lacuna::attention::{Segment, SegmentShape, Tokens};
use recipe::factors::{self, Factors};
use recipe::landmarks::{Landmarks, Selection};
use recipe::{Settings, ShadowKv};

use crate::common;
use crate::oracle::{self, dot, largest, lists, query_of, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 640, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };
const SETTINGS: Settings = Settings {
    chunk: 8,
    budget: 80,
    n_outliers: 5,
    n_local: 4,
    landmarks: Landmarks::Paper,
    rank: 32,
    n_slots: 16,
    max_new: 20,
};

/// Chunks with landmarks, of so many tokens.
fn n_landmarks(n: usize, landmarks: Landmarks) -> usize {
    let n_chunks = (n / 8).saturating_sub(4);
    match landmarks {
        Landmarks::Paper => n_chunks,
        Landmarks::Released => n_chunks - n_chunks % 8,
    }
}

/// What one head of keys selects, and its outliers.
fn expected(
    cache: &Cache,
    queries: &[bf16],
    [b, h]: [usize; 2],
    settings: &Settings,
) -> [Vec<usize>; 2] {
    let sizes = &cache.sizes;
    let n_chunks = n_landmarks(cache.lengths[b] as usize, settings.landmarks);
    let mean = |chunk: usize| -> Vec<bf16> {
        let of_channel = |c: usize| {
            let keys =
                (8 * chunk..8 * chunk + 8).map(|t| f64::from(cache.key(b, t, h)[c].to_f32()));
            bf16::from_f64(keys.sum::<f64>() / 8.0)
        };
        (0..sizes.head_dim).map(of_channel).collect()
    };
    let means: Vec<_> = (0..n_chunks).map(mean).collect();
    let distance = |chunk: usize| {
        let cosine = |t: usize| {
            let (mean, key) = (&means[chunk][..], cache.key(b, t, h));
            dot(mean, key) / (dot(mean, mean) * dot(key, key)).sqrt()
        };
        -(8 * chunk..8 * chunk + 8).map(cosine).fold(f64::INFINITY, f64::min)
    };
    let distances: Vec<_> = (0..n_chunks).map(distance).collect();
    let outliers = largest(&distances, settings.n_outliers.min(n_chunks));

    let others: Vec<_> = (0..n_chunks).filter(|chunk| !outliers.contains(chunk)).collect();
    let group = sizes.n_q_heads / sizes.n_heads;
    let mut votes = vec![0.0; others.len()];
    for q in h * group..(h + 1) * group {
        let query = query_of(queries, sizes, b, q);
        let score = |chunk: &usize| dot(query, &means[*chunk]) / (sizes.head_dim as f64).sqrt();
        let scores: Vec<_> = others.iter().map(score).collect();
        votes.iter_mut().zip(softmax(&scores)).for_each(|(vote, weight)| *vote = weight.max(*vote));
    }
    let selected = largest(&votes, (settings.budget / 8).min(others.len()));
    [selected.into_iter().map(|i| others[i]).collect(), outliers]
}

/// Holds a prefill and a step against the formula; what is selected.
fn run(
    queue: &Queue,
    sizes: Sizes,
    settings: Settings,
    lengths: &[u32],
    seed: u64,
) -> Vec<Vec<usize>> {
    let mut random = Random(seed);
    let queries = oracle::queries(&sizes, &mut random);
    let cache = Cache::new(queue, sizes, lengths, &mut random).unwrap();
    let mut recipe = Selection::new(queue, cache.layout, sizes.n_q_heads as u64, settings).unwrap();
    recipe.prefill(queue, cache.view(), &cache.page_table, lengths).unwrap();
    let device_queries = queue.upload(&queries).unwrap();
    recipe.step(queue, device_queries.view()).unwrap();
    let (selected, outliers) = (lists(queue, recipe.selected()), lists(queue, recipe.outliers()));
    for (b, length) in lengths.iter().enumerate() {
        let n = n_landmarks(*length as usize, settings.landmarks);
        assert_eq!(recipe.n_landmarks(*length) as usize, n);
        for h in 0..sizes.n_heads {
            let list = b * sizes.n_heads + h;
            let [of_query, of_prompt] = expected(&cache, &queries, [b, h], &settings);
            assert_eq!(outliers[list], of_prompt, "outliers of {b}, {h}");
            assert_eq!(selected[list], of_query, "chunks of {b}, {h}");
        }
    }
    selected
}

#[test]
fn what_the_paper_selects() {
    for queue in common::queues() {
        let selected = run(&queue, SIZES, SETTINGS, &[640, 403], 51);
        assert!(selected.iter().all(|list| list.len() == 10));
        assert!(selected[0] != selected[1], "heads select for themselves");
    }
}

#[test]
fn the_released_code_has_landmarks_in_eights() {
    for queue in common::queues() {
        let settings = Settings { landmarks: Landmarks::Released, ..SETTINGS };
        run(&queue, SIZES, settings, &[640, 403], 52);
    }
}

#[test]
fn many_landmarks_are_scored_and_voted_for_apart() {
    let sizes = Sizes { batch: 1, n: 2320, n_q_heads: 16, n_heads: 1, head_dim: 16, page_size: 16 };
    for queue in common::queues() {
        run(&queue, sizes, SETTINGS, &[2311], 53);
    }
}

#[test]
fn a_short_prompt_is_selected_whole_and_no_chunk_twice() {
    for queue in common::queues() {
        // 16 chunks, 12 of them with landmarks, 5 of those outliers; none with a landmark.
        let selected = run(&queue, SIZES, SETTINGS, &[128, 39], 54);
        assert_eq!(selected.iter().map(Vec::len).collect::<Vec<_>>(), [7, 7, 0, 0]);
        // All landmarks are outliers.
        let selected = run(&queue, SIZES, SETTINGS, &[64, 0], 55);
        assert!(selected.iter().all(Vec::is_empty));
    }
}

/// Prompts whose keys are of low rank before they are turned, and queries of several steps, each near the one before.
struct Whole {
    cache: Cache,
    recipe: ShadowKv,
    queries: Vec<Vec<bf16>>,
}

const PROMPTS: [u32; 2] = [620, 403];
const N_STEPS: usize = 4;

impl Whole {
    fn new(queue: &Queue, settings: Settings, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut cache = Cache::new(queue, SIZES, &PROMPTS, &mut random).unwrap();
        let (d, n_columns) = (SIZES.head_dim, SIZES.n_heads * SIZES.head_dim);
        let angles = factors::angles(SIZES.n, d);
        let mut of_prompt = |(b, length): (usize, &u32)| {
            // What comes after the prompt is of any rank, and stays as it is.
            let keys = crate::toy::low_rank(*length as usize, n_columns, 24, &mut random);
            cache.set_turned_keys(b, &keys, |key, t| factors::turn(key, &angles[t * d..][..d]));
            Factors::of(&keys, n_columns, settings.rank)
        };
        let factors: Vec<_> = PROMPTS.iter().enumerate().map(&mut of_prompt).collect();
        cache.upload(queue, &PROMPTS).unwrap();
        let n_q_heads = SIZES.n_q_heads as u64;
        let mut recipe = ShadowKv::new(queue, cache.layout, n_q_heads, settings, &angles).unwrap();
        recipe.prefill(queue, cache.view(), &cache.page_table, &PROMPTS, &factors).unwrap();
        let mut queries = vec![oracle::queries(&SIZES, &mut random)];
        for step in 1..N_STEPS {
            let near = queries[step - 1].iter();
            let next = near.map(|x| bf16::from_f32(0.9 * x.to_f32() + 0.4 * random.normal()));
            queries.push(next.collect());
        }
        Self { cache, recipe, queries }
    }

    /// A step after so many tokens more, against attention in f64 to the tokens that were selected, to outliers and to
    /// local ones, with the keys as they were before they became factors.
    fn step(&mut self, queue: &Queue, step: usize) -> Vec<bf16> {
        let lengths = PROMPTS.map(|length| length + step as u32);
        self.cache.upload(queue, &lengths).unwrap();
        let queries = queue.upload(&self.queries[step]).unwrap();
        let outputs = self.recipe.step(queue, queries.view(), self.cache.view()).unwrap();
        let outputs = queue.download(&outputs).unwrap();
        let selection = &self.recipe.selection;
        let chosen = [lists(queue, selection.selected()), lists(queue, selection.outliers())];
        for (b, q) in (0..SIZES.batch).flat_map(|b| (0..SIZES.n_q_heads).map(move |q| (b, q))) {
            let list = b * SIZES.n_heads + q / (SIZES.n_q_heads / SIZES.n_heads);
            let chunks = chosen.iter().flat_map(|lists| &lists[list]);
            let tokens = chunks.flat_map(|chunk| 8 * chunk..8 * chunk + 8);
            let first_local = 8 * n_landmarks(PROMPTS[b] as usize, Landmarks::Paper);
            let tokens: Vec<_> = tokens.chain(first_local..lengths[b] as usize).collect();
            let query = query_of(&self.queries[step], &SIZES, b, q);
            let exact = oracle::attention(&self.cache, query, b, q, &tokens);
            let own = query_of(&outputs, &SIZES, b, q);
            for (own, exact) in own.iter().zip(exact) {
                assert!((f64::from(own.to_f32()) - exact).abs() < TOLERANCE, "{own} {exact}");
            }
        }
        outputs
    }
}

/// Factors, bases and the keys they make are rounded to bf16 each, where the formula's keys are rounded once, and
/// weights and outputs as in all of attention, of values of variance 1.
const TOLERANCE: f64 = 0.01;

#[test]
fn attention_is_to_what_was_selected_outliers_and_local_tokens() {
    for queue in common::queues() {
        let mut whole = Whole::new(&queue, SETTINGS, 56);
        let n_asked = 10 * 4;
        for step in 0..N_STEPS {
            whole.step(&queue, step);
            let counts = queue.download(&whole.recipe.values.miss_counts()).unwrap();
            let n_fetched: u32 = counts.iter().sum();
            let has_hits = step > 0;
            assert!(n_fetched > 0 && (n_fetched < n_asked) == has_hits, "{step}: {n_fetched}");
        }
    }
}

/// With a budget for all chunks, and of keys that are of the factors' rank, it is dense attention.
#[test]
fn with_all_chunks_it_is_dense_attention() {
    for queue in common::queues() {
        let settings = Settings { budget: 640, n_slots: 80, ..SETTINGS };
        let mut whole = Whole::new(&queue, settings, 57);
        let outputs = whole.step(&queue, 1);
        let layout = whole.cache.layout;
        let plan = AttendPlan::new(
            AttendShape::of(&layout, SIZES.n_q_heads as u64),
            &[SegmentShape::of(layout, Tokens::ALL)],
        )
        .unwrap();
        let queries = queue.upload(&whole.queries[1]).unwrap();
        let mut dense = queue.alloc::<bf16>(plan.outputs_len() as usize).unwrap();
        let mut workspace = queue.alloc(plan.workspace_len() as usize).unwrap();
        let segments = [Segment::new(whole.cache.view(), None)];
        let inputs =
            AttendInputs { queries: queries.view(), segments: &segments, sinks: None, skips: None };
        let (to, workspace) = (dense.view_mut(), workspace.view_mut());
        let mut to = AttendOutputs { outputs: to, log_sums: None, workspace };
        attention::attend(&queue, &plan, &inputs, &mut to).unwrap();
        for (own, dense) in outputs.iter().zip(queue.download(&dense.view()).unwrap()) {
            assert!((own.to_f32() - dense.to_f32()).abs() < TOLERANCE as f32, "{own} {dense}");
        }
    }
}
