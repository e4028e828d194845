//! Quest against its formula.

#[path = "../../examples/quest.rs"]
mod recipe;

use half::bf16;
use lacuna::Queue;
use recipe::{Lists, Quest};

use crate::common;
use crate::oracle::{self, largest, lists, query_of};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 640, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };
const BUDGET: usize = 7;

/// The largest product that a query can have with a key in the box of a page, channel by channel.
fn bound(cache: &Cache, query: &[bf16], b: usize, h: usize, tokens: std::ops::Range<usize>) -> f64 {
    let channel = |(c, query): (usize, &bf16)| {
        let keys = tokens.clone().map(|t| f64::from(cache.key(b, t, h)[c].to_f32()));
        let query = f64::from(query.to_f32());
        keys.map(|key| query * key).fold(f64::NEG_INFINITY, f64::max)
    };
    query.iter().enumerate().map(channel).sum()
}

fn expected(cache: &Cache, queries: &[bf16], kind: Lists) -> Vec<Vec<usize>> {
    let group = SIZES.n_q_heads / SIZES.n_heads;
    let mut lists = Vec::new();
    for b in 0..SIZES.batch {
        let n = cache.lengths[b] as usize;
        let n_pages = n.div_ceil(16);
        let of_head = |q: usize| -> Vec<f64> {
            let query = query_of(queries, &SIZES, b, q);
            let tokens = |page: usize| 16 * page..n.min(16 * page + 16);
            (0..n_pages).map(|page| bound(cache, query, b, q / group, tokens(page))).collect()
        };
        let heads: Vec<Vec<f64>> = (0..SIZES.n_q_heads).map(of_head).collect();
        let rows: Vec<Vec<f64>> = match kind {
            Lists::QueryHead => heads,
            Lists::KvHead => heads
                .chunks(group)
                .map(|heads| {
                    let most =
                        |page: usize| heads.iter().map(|head| head[page]).fold(f64::MIN, f64::max);
                    (0..n_pages).map(most).collect()
                })
                .collect(),
        };
        for mut row in rows {
            if let Some(last) = row.last_mut() {
                *last = f64::MAX;
            }
            let k = BUDGET.min(row.len());
            lists.push(largest(&row, k));
        }
    }
    lists
}

fn new(queue: &Queue, cache: &Cache, kind: Lists) -> Quest {
    let n_q_heads = SIZES.n_q_heads as u64;
    Quest::new(queue, cache.layout, n_q_heads, BUDGET as u64, kind, 16).unwrap()
}

fn step(queue: &Queue, recipe: &mut Quest, cache: &Cache, queries: &[bf16]) -> Vec<Vec<usize>> {
    let queries = queue.upload(queries).unwrap();
    recipe.advance(queue, &cache.lengths).unwrap();
    recipe.step(queue, queries.view(), cache.view()).unwrap();
    lists(queue, recipe.selected())
}

#[test]
fn what_the_paper_selects() {
    for queue in common::queues() {
        for kind in [Lists::QueryHead, Lists::KvHead] {
            let mut random = Random(21);
            let queries = oracle::queries(&SIZES, &mut random);
            let mut cache = Cache::new(&queue, SIZES, &[640, 301], &mut random).unwrap();
            cache.plant(&queries, 0, 333, 2.0);
            cache.upload(&queue, &[640, 301]).unwrap();
            let mut recipe = new(&queue, &cache, kind);
            let selected = step(&queue, &mut recipe, &cache, &queries);
            assert_eq!(selected, expected(&cache, &queries, kind));

            let n_lists = selected.len() / SIZES.batch;
            let pages = queue.download(&recipe.pages()).unwrap();
            for (i, list) in selected.iter().enumerate() {
                let b = i / n_lists;
                let n_pages = cache.lengths[b].div_ceil(16) as usize;
                assert_eq!((list.len(), list.last()), (BUDGET, Some(&(n_pages - 1))));
                assert!(b == 1 || list.contains(&(333 / 16)), "the needle's page: {list:?}");
                let of_list = list.iter().map(|page| cache.page_table[b * 40 + page]);
                assert!(of_list.eq(pages[i * BUDGET..][..BUDGET].iter().copied()));
            }
        }
    }
}

#[test]
fn boxes_of_tokens_that_come_one_by_one_are_those_of_all_at_once() {
    for queue in common::queues() {
        let mut random = Random(22);
        let queries = oracle::queries(&SIZES, &mut random);
        let mut cache = Cache::new(&queue, SIZES, &[250, 0], &mut random).unwrap();
        let mut recipe = new(&queue, &cache, Lists::KvHead);
        // The last is another request in the second one's place.
        for lengths in [[250, 0], [251, 1], [255, 130], [256, 200], [257, 201], [290, 150]] {
            // What is not there yet is not looked at: it is written late.
            let old = cache.lengths.clone();
            let is_new = lengths[1] < old[1];
            for b in 0..SIZES.batch {
                let first = if is_new && b == 1 { 0 } else { old[b] };
                for t in first..lengths[b] {
                    (0..2).for_each(|h| cache.set_key(b, t as usize, h, &random.row(32)));
                }
            }
            cache.upload(&queue, &lengths).unwrap();
            let selected = step(&queue, &mut recipe, &cache, &queries);
            assert_eq!(selected, expected(&cache, &queries, Lists::KvHead), "{lengths:?}");
        }
    }
}

#[test]
fn a_short_context_is_selected_whole() {
    for queue in common::queues() {
        let mut random = Random(23);
        let queries = oracle::queries(&SIZES, &mut random);
        let cache = Cache::new(&queue, SIZES, &[16 * 7, 1], &mut random).unwrap();
        let selected = step(&queue, &mut new(&queue, &cache, Lists::KvHead), &cache, &queries);
        let all: Vec<_> = (0..7).collect();
        assert_eq!(selected, [all.clone(), all, vec![0], vec![0]]);
        let cache = Cache::new(&queue, SIZES, &[0, 33], &mut random).unwrap();
        let selected = step(&queue, &mut new(&queue, &cache, Lists::QueryHead), &cache, &queries);
        assert_eq!(selected[..4], vec![Vec::<usize>::new(); 4]);
        assert_eq!(selected[4..], vec![vec![0, 1, 2]; 4]);
    }
}
