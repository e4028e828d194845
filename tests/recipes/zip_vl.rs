//! ZipVL's allocation against its formula.

#[path = "../../examples/zip_vl.rs"]
mod recipe;

use half::bf16;
use lacuna::Queue;
use recipe::ZipVl;

use crate::common;
use crate::oracle::{count_of_share, largest, lists, products, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 320, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };
const N_PROBES: usize = 12;

struct Prompt {
    cache: Cache,
    probes: Vec<bf16>,
    n_visible: Vec<u32>,
}

impl Prompt {
    /// Half of the probes are the last tokens', half those of random ones.
    fn new(queue: &Queue, sizes: Sizes, lengths: &[u32], seed: u64) -> Self {
        let mut random = Random(seed);
        let cache = Cache::new(queue, sizes, lengths, &mut random).unwrap();
        let of_probes = N_PROBES * sizes.n_q_heads * sizes.head_dim;
        let probes = random.row(sizes.batch * of_probes);
        let mut n_visible = Vec::new();
        for n in lengths {
            let recent = (0..N_PROBES as u32 / 2).map(|i| n.saturating_sub(i));
            n_visible.extend(recent);
            n_visible.extend((0..N_PROBES / 2).map(|_| (1 + random.below(*n as usize)) as u32));
        }
        Self { cache, probes, n_visible }
    }

    /// Attention mass of each token, and that by the probes that see it.
    fn masses(&self, b: usize) -> [Vec<f64>; 2] {
        let Sizes { n_q_heads, head_dim, .. } = self.cache.sizes;
        let n = self.cache.lengths[b] as usize;
        let mut masses = vec![0.0; n];
        let mut n_seeing = vec![0.0; n];
        for probe in 0..N_PROBES {
            let tokens: Vec<_> =
                (0..n.min(self.n_visible[b * N_PROBES + probe] as usize)).collect();
            tokens.iter().for_each(|t| n_seeing[*t] += 1.0);
            for q in 0..n_q_heads {
                let head = (b * N_PROBES + probe) * n_q_heads + q;
                let query = &self.probes[head * head_dim..][..head_dim];
                let products = products(&self.cache, b, q, query, &tokens);
                let scores: Vec<_> =
                    products.iter().map(|x| x / (head_dim as f64).sqrt()).collect();
                for (t, weight) in softmax(&scores).into_iter().enumerate() {
                    masses[t] += weight / n_q_heads as f64;
                }
            }
        }
        let normalised = masses.iter().zip(&n_seeing).map(|(mass, n)| mass / f64::max(*n, 1.0));
        let normalised = normalised.collect();
        [masses, normalised]
    }

    fn run(&self, queue: &Queue, share: f32, most: Option<u64>) -> (Vec<Vec<usize>>, Vec<u32>) {
        let n_q_heads = self.cache.sizes.n_q_heads as u64;
        let layout = self.cache.layout;
        let mut recipe =
            ZipVl::new(queue, layout, n_q_heads, N_PROBES as u64, share, most).unwrap();
        let probes = queue.upload(&self.probes).unwrap();
        let n_visible = queue.upload(&self.n_visible).unwrap();
        // A second step finds what the first left.
        for _ in 0..2 {
            recipe.step(queue, probes.view(), n_visible.view(), self.cache.view()).unwrap();
        }
        (lists(queue, recipe.selected()), queue.download(&recipe.wanted()).unwrap())
    }
}

#[test]
fn what_the_paper_selects() {
    for queue in common::queues() {
        let prompt = Prompt::new(&queue, SIZES, &[320, 211], 31);
        let mut last = [0, 0];
        for share in [0.25_f32, 0.5, 0.9, 0.975] {
            let (selected, wanted) = prompt.run(&queue, share, None);
            assert_eq!(prompt.run(&queue, share, Some(320)), (selected.clone(), wanted.clone()));
            for b in 0..SIZES.batch {
                let [masses, normalised] = prompt.masses(b);
                let n = count_of_share(&masses, share.into());
                assert_eq!(wanted[b] as usize, n);
                assert_eq!(selected[b], largest(&normalised, n), "{share}");
                assert_ne!(selected[b], largest(&masses, n), "which tokens is another question");
                assert!(n > last[b], "more of the mass, more tokens");
                last[b] = n;
            }
        }
    }
}

/// More than `topk_rows` has places for.
#[test]
fn a_long_prompt_has_as_many_as_the_share_asks_for() {
    let sizes = Sizes { batch: 1, n: 9600, n_q_heads: 1, n_heads: 1, head_dim: 8, page_size: 16 };
    for queue in common::queues() {
        let prompt = Prompt::new(&queue, sizes, &[9550], 36);
        let (selected, wanted) = prompt.run(&queue, 0.975, None);
        let [masses, normalised] = prompt.masses(0);
        let n = count_of_share(&masses, 0.975_f32.into());
        assert!(n > 8192, "{n}");
        assert_eq!(wanted, [n as u32]);
        assert_eq!(selected, [largest(&normalised, n)]);
    }
}

#[test]
fn no_more_are_selected_than_there_is_room_for() {
    for queue in common::queues() {
        let prompt = Prompt::new(&queue, SIZES, &[300, 40], 32);
        let (selected, wanted) = prompt.run(&queue, 0.9, Some(50));
        let [masses, normalised] = prompt.masses(0);
        assert_eq!(wanted[0] as usize, count_of_share(&masses, 0.9_f32.into()));
        assert!(wanted[0] > 50);
        assert_eq!(selected[0], largest(&normalised, 50));
    }
}

#[test]
fn all_of_the_mass_is_all_that_is_seen() {
    for queue in common::queues() {
        let prompt = Prompt::new(&queue, SIZES, &[6, 1], 33);
        let (selected, _) = prompt.run(&queue, 1.0, None);
        assert_eq!(selected, [(0..6).collect::<Vec<_>>(), vec![0]]);
    }
}
