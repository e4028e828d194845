//! A whole step against the formulas: weights come back, and attention is over what the votes picked.

#[path = "../../examples/decode_step.rs"]
mod recipe;

use half::bf16;
use lacuna::huffman;
use recipe::DecodeStep;

use crate::common;
use crate::oracle;
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 320, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 8 };
const LENGTHS: [u32; 2] = [300, 129];

#[test]
fn a_step_attends_to_what_it_picked() {
    let n_hidden = 48;
    let mut random = Random(3);
    let weights =
        recipe::weights(SIZES.n_q_heads * SIZES.head_dim, n_hidden, &mut recipe::toy::Random(7));
    let encoded = huffman::encode(&[bytemuck::cast_slice(&weights)]).unwrap();
    for queue in common::queues() {
        let mut cache = Cache::new(&queue, SIZES, &LENGTHS, &mut random).unwrap();
        let settings = recipe::token_select::Settings {
            n_init: 8,
            n_local: 16,
            k: 24,
            ..recipe::token_select::Settings::default()
        };
        let group = encoded.as_raw("layer").parse().unwrap();
        let mut step =
            DecodeStep::new(&queue, group, cache.layout, SIZES.n_q_heads as u64, settings).unwrap();
        let expanded = queue.download(&step.expand(&queue).unwrap()).unwrap();
        step.check(&queue).unwrap();
        assert_eq!(expanded, weights);

        let queries: Vec<bf16> = (0..SIZES.batch)
            .flat_map(|_| recipe::project(&expanded, &random.row(n_hidden)))
            .collect();
        cache.plant(&queries, 0, 100, 1.0);
        cache.upload(&queue, &LENGTHS).unwrap();
        step.place(&queue, &cache.page_table, &LENGTHS).unwrap();
        let on_device = queue.upload(&queries).unwrap();
        let of_picked =
            queue.download(&step.attend(&queue, on_device.view(), cache.view()).unwrap()).unwrap();
        let (indices, counts) = step.selected();
        let (indices, counts) =
            (queue.download(&indices).unwrap(), queue.download(&counts).unwrap());
        let of_all = step.attend_to_all(&queue, on_device.view(), cache.view()).unwrap();
        let of_all = queue.download(&of_all).unwrap();
        let n_places = indices.len() / SIZES.batch;
        for b in 0..SIZES.batch {
            let n = counts[b] as usize;
            assert_eq!(n, 48);
            let picked: Vec<usize> =
                indices[b * n_places..][..n].iter().map(|i| *i as usize).collect();
            assert!(b != 0 || picked.contains(&100));
            let all: Vec<usize> = (0..LENGTHS[b] as usize).collect();
            for q in 0..SIZES.n_q_heads {
                let start = (b * SIZES.n_q_heads + q) * SIZES.head_dim;
                let query = &queries[start..][..SIZES.head_dim];
                for (tokens, outputs) in [(&picked, &of_picked), (&all, &of_all)] {
                    let exact = oracle::attention(&cache, query, b, q, tokens);
                    for (own, exact) in outputs[start..].iter().zip(&exact) {
                        assert!((f64::from(own.to_f32()) - exact).abs() < 0.02, "{own} {exact}");
                    }
                }
            }
        }
    }
}
