//! ShadowKV's landmarks against their formula.

#[path = "../../examples/shadow_kv.rs"]
mod recipe;

use half::bf16;
use lacuna::Queue;
use recipe::{Landmarks, Settings, ShadowKv};

use crate::common;
use crate::oracle::{self, dot, largest, lists, query_of, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 640, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };
const SETTINGS: Settings =
    Settings { chunk: 8, budget: 80, n_outliers: 5, n_local: 4, landmarks: Landmarks::Paper };

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
    let mut recipe = ShadowKv::new(queue, cache.layout, sizes.n_q_heads as u64, settings).unwrap();
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
