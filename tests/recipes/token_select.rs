//! TokenSelect against its formula.

#[path = "../../examples/token_select.rs"]
mod recipe;

use half::bf16;
use lacuna::{Queue, Result};
use recipe::{Scale, Settings, TokenSelect};

use crate::common;
use crate::oracle::{self, largest, lists, products, query_of, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 3, n: 320, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 8 };
const SETTINGS: Settings =
    Settings { n_init: 16, n_local: 24, k: 40, scale: Scale::Paper, theta: None };

/// The tokens that the paper selects, of candidates up to `n_voted` tokens and a context of `n`.
fn expected(
    cache: &Cache,
    queries: &[bf16],
    b: usize,
    settings: &Settings,
    [n_voted, n]: [usize; 2],
) -> Vec<usize> {
    let Settings { n_init, n_local, k, scale, .. } = *settings;
    let all: Vec<usize> = (0..n).collect();
    if n <= n_init + k + n_local {
        return all;
    }
    let candidates = &all[n_init..n_voted - n_local];
    let scale = match scale {
        Scale::Paper => 1.0 / (SIZES.head_dim as f64).sqrt(),
        Scale::Released => 1.0,
    };
    let mut votes = vec![0.0; candidates.len()];
    for q in 0..SIZES.n_q_heads {
        let products = products(cache, b, q, query_of(queries, &SIZES, b, q), candidates);
        let scores: Vec<_> = products.iter().map(|product| scale * product).collect();
        votes.iter_mut().zip(softmax(&scores)).for_each(|(vote, weight)| *vote += weight);
    }
    let selected = largest(&votes, k).into_iter().map(|i| candidates[i]);
    (0..n_init).chain(selected).chain(n - n_local..n).collect()
}

fn setup(
    queue: &Queue,
    settings: Settings,
    lengths: &[u32],
    seed: u64,
) -> (Cache, Vec<bf16>, TokenSelect) {
    let mut random = Random(seed);
    let queries = oracle::queries(&SIZES, &mut random);
    let mut cache = Cache::new(queue, SIZES, lengths, &mut random).unwrap();
    // Sinks, and local tokens, that would have all of a softmax over the context.
    for (b, length) in lengths.iter().enumerate() {
        cache.plant(&queries, b, 0, 0.6);
        cache.plant(&queries, b, (*length as usize).saturating_sub(1), 0.6);
    }
    cache.upload(queue, lengths).unwrap();
    let n_q_heads = SIZES.n_q_heads as u64;
    let mut recipe = TokenSelect::new(queue, cache.layout, n_q_heads, settings).unwrap();
    recipe.place(queue, &cache.page_table, lengths).unwrap();
    (cache, queries, recipe)
}

fn step(
    queue: &Queue,
    recipe: &mut TokenSelect,
    cache: &Cache,
    queries: &[bf16],
) -> Vec<Vec<usize>> {
    let queries = queue.upload(queries).unwrap();
    recipe.step(queue, queries.view(), cache.view()).unwrap();
    lists(queue, recipe.selected())
}

#[test]
fn what_the_paper_selects() {
    for queue in common::queues() {
        let mut of_scales = Vec::new();
        for scale in [Scale::Paper, Scale::Released] {
            let settings = Settings { scale, ..SETTINGS };
            let lengths = [320, 201, 81];
            let (cache, queries, mut recipe) = setup(&queue, settings, &lengths, 11);
            let selected = step(&queue, &mut recipe, &cache, &queries);
            for b in 0..SIZES.batch {
                let n = lengths[b] as usize;
                assert_eq!(selected[b], expected(&cache, &queries, b, &settings, [n; 2]), "{b}");
                assert_eq!(selected[b].len(), 80);
            }
            of_scales.push(selected);
        }
        assert_ne!(of_scales[0], of_scales[1], "the scale matters");
    }
}

#[test]
fn a_short_context_is_selected_whole() {
    for queue in common::queues() {
        let (cache, queries, mut recipe) = setup(&queue, SETTINGS, &[80, 17, 0], 12);
        let selected = step(&queue, &mut recipe, &cache, &queries);
        assert_eq!(selected, [80, 17, 0].map(|n: usize| (0..n).collect::<Vec<_>>()));
    }
}

#[test]
fn votes_hold_while_the_query_stays() {
    for queue in common::queues() {
        let settings = Settings { theta: Some(0.9), ..SETTINGS };
        let (mut cache, queries, mut recipe) = setup(&queue, settings, &[200, 200, 200], 13);
        step(&queue, &mut recipe, &cache, &queries);
        let first = queue.download(&recipe.votes()).unwrap();

        // A step later: nearly the first request's query, another one of the second, and a third request that is new.
        let lengths = [210, 210, 210];
        cache.upload(&queue, &lengths).unwrap();
        recipe.place(&queue, &cache.page_table, &lengths).unwrap();
        recipe.reset(&queue, 2).unwrap();
        let mut random = Random(14);
        let of_request = SIZES.n_q_heads * SIZES.head_dim;
        let mut later = queries.clone();
        for query in &mut later[..of_request] {
            *query = bf16::from_f32(query.to_f32() + 0.1 * random.normal());
        }
        later[of_request..2 * of_request].copy_from_slice(&random.row(of_request));
        let selected = step(&queue, &mut recipe, &cache, &later);
        let second = queue.download(&recipe.votes()).unwrap();

        let skipped = expected(&cache, &queries, 0, &settings, [200, 210]);
        assert_eq!(selected[0], skipped, "the votes of before, and a window that moved");
        assert_eq!(first[..SIZES.n], second[..SIZES.n]);
        assert_ne!(skipped, expected(&cache, &later, 0, &settings, [210; 2]), "a skip shows");
        for b in [1, 2] {
            assert_eq!(selected[b], expected(&cache, &later, b, &settings, [210; 2]), "{b}");
        }
    }
}

#[test]
fn first_tokens_are_whole_pages() -> Result<()> {
    let queue = &common::queues()[0];
    let cache = Cache::new(queue, SIZES, &[0; 3], &mut Random(1))?;
    let settings = Settings { n_init: 12, ..SETTINGS };
    let error = TokenSelect::new(queue, cache.layout, 4, settings).err().unwrap();
    assert_eq!(error.to_string(), "first tokens: 12 is outside whole pages");
    Ok(())
}
