//! LazyLLM's schedule against its formula.

#[path = "../../examples/lazy_llm.rs"]
mod recipe;

use lacuna::Queue;
use recipe::LazyLlm;

use crate::common;
use crate::oracle::{self, largest, lists, products, query_of, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 3, n: 320, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };

/// Runs all layers, each with keys and a query of its own, and holds what each keeps against the formula; what is kept
/// of each layer and request.
fn run(
    queue: &Queue,
    sizes: Sizes,
    lengths: &[u32],
    percents: &[f32],
    seed: u64,
) -> Vec<Vec<Vec<usize>>> {
    let page_size = sizes.page_size;
    let mut random = Random(seed);
    let mut cache = Cache::new(queue, sizes, lengths, &mut random).unwrap();
    let n_visible = queue.upload(lengths).unwrap();
    let mut recipe = LazyLlm::new(queue, cache.layout, sizes.n_q_heads as u64, percents).unwrap();
    let mut kept: Vec<Vec<usize>> = lengths.iter().map(|n| (0..*n as usize).collect()).collect();
    let mut of_layers = Vec::new();
    for (l, percent) in percents.iter().enumerate() {
        cache.keys = random.row(cache.keys.len());
        cache.upload(queue, lengths).unwrap();
        let queries = oracle::queries(&sizes, &mut random);
        let query = queue.upload(&queries).unwrap();
        recipe.step(queue, l, query.view(), n_visible.view(), cache.view()).unwrap();
        let places = lists(queue, recipe.kept(l));
        let slots = lists(queue, (recipe.slots(l), recipe.kept(l).1));

        for b in 0..sizes.batch {
            let tokens = &kept[b];
            let mut masses = vec![0.0; tokens.len()];
            for q in 0..sizes.n_q_heads {
                let products = products(&cache, b, q, query_of(&queries, &sizes, b, q), tokens);
                let scores: Vec<_> =
                    products.iter().map(|x| x / (sizes.head_dim as f64).sqrt()).collect();
                masses.iter_mut().zip(softmax(&scores)).for_each(|(mass, weight)| *mass += weight);
            }
            // The prompt's last token is always kept.
            if let Some(last) = masses.last_mut() {
                *last = f64::MAX;
            }
            let n = (tokens.len() as f64 * (1.0 - f64::from(*percent) / 100.0)).ceil() as usize;
            let n = n.max(tokens.len().min(1));
            assert_eq!(places[b], largest(&masses, n), "layer {l} request {b}");

            let tokens: Vec<_> = places[b].iter().map(|place| tokens[*place]).collect();
            let slot = |t: &usize| {
                let page = cache.page_table[(b * sizes.n + t) / page_size] as usize;
                page_size * page + t % page_size
            };
            assert_eq!(slots[b], tokens.iter().map(slot).collect::<Vec<_>>());
            kept[b] = tokens;
        }
        of_layers.push(kept.clone());
    }
    of_layers
}

#[test]
fn what_the_paper_keeps() {
    for queue in common::queues() {
        let kept = run(&queue, SIZES, &[320, 201, 33], &[0.0, 12.5, 25.0, 50.0, 75.0], 41);
        let counts = |b: usize| kept.iter().map(|layer| layer[b].len()).collect::<Vec<_>>();
        assert_eq!(counts(0), [320, 280, 210, 105, 27]);
        assert_eq!(counts(2), [33, 29, 22, 11, 3]);
        for layers in kept.windows(2) {
            for (before, after) in layers[0].iter().zip(&layers[1]) {
                assert!(after.iter().all(|t| before.contains(t)), "none comes back");
                assert_eq!(after.last(), before.last());
            }
        }
    }
}

/// More than `topk_rows` has places for, twice, and then fewer.
#[test]
fn a_long_prompt_hands_on_long_lists() {
    let sizes = Sizes { batch: 1, n: 12_000, n_q_heads: 1, n_heads: 1, head_dim: 8, page_size: 1 };
    for queue in common::queues() {
        let kept = run(&queue, sizes, &[11_800], &[10.0, 20.0, 50.0], 43);
        let counts: Vec<_> = kept.iter().map(|layer| layer[0].len()).collect();
        assert_eq!(counts, [10_620, 8496, 4248]);
        let paged = Sizes { page_size: 16, ..sizes };
        let layout = Cache::new(&queue, paged, &[1], &mut Random(1)).unwrap().layout;
        let error = LazyLlm::new(&queue, layout, 1, &[10.0]).err().unwrap().to_string();
        assert_eq!(error, "tokens of a page: 16 is outside 1 where many tokens are handed on");
    }
}

#[test]
fn of_all_that_is_dropped_the_last_token_is_left() {
    for queue in common::queues() {
        let kept = run(&queue, SIZES, &[320, 1, 0], &[50.0, 100.0, 50.0], 42);
        assert_eq!(kept[2], [vec![319], vec![0], vec![]]);
    }
}
