//! D2O's budgets and eviction against their formulas.

#[path = "../../examples/d2o.rs"]
mod recipe;

use recipe::{Budget, Density, Eviction, Masses, density_of, layer_budgets};

use crate::common;
use crate::oracle::{largest, lists, products, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 160, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };

#[test]
fn densities_are_variances() {
    let heads: [&[f32]; 3] = [&[1.0, 1.0, 1.0, 1.0], &[0.0, 0.0, 0.0, 4.0], &[0.0, 2.0, 0.0, 2.0]];
    // Variances of 0, 3 and 1; of samples 0, 4 and 4/3.
    assert_eq!(density_of(&heads, Density::Paper), 4.0 / 3.0);
    let released = density_of(&heads, Density::Released);
    assert!((released - (16.0 / 9.0) / (4.0 + 1e-6)).abs() < 1e-12, "{released}");
    assert_eq!(density_of(&heads[..1], Density::Released), 0.0);
    assert_eq!(density_of(&[&[3.0]], Density::Released), 0.0);
}

#[test]
fn budgets_are_shares_of_what_all_layers_have() {
    let densities = [0.9, 0.1, 0.5, 0.2, 0.5, 1.7, 0.3];
    let budgets = layer_budgets(&densities, 1000, 0.1, 0.05);
    let total: f64 = densities.iter().map(|density: &f64| (-density).exp()).sum();
    for (l, budget) in budgets.iter().enumerate() {
        if [0, 1, 6].contains(&l) {
            assert_eq!(*budget, None, "layer {l} is whole");
            continue;
        }
        let share = 7.0 * (-densities[l]).exp() / total;
        let (n_heavy, n_recent) = ((100.0 * share) as usize, (50.0 * share) as usize);
        assert_eq!(*budget, Some(Budget { n_heavy, n_recent }), "layer {l}");
    }
    let n_heavy = |l: usize| budgets[l].unwrap().n_heavy;
    assert!(n_heavy(3) > n_heavy(2) && n_heavy(2) == n_heavy(4) && n_heavy(4) > n_heavy(5));

    // Shares that are more than a prompt, and densities that no exponential has.
    let budgets = layer_budgets(&[0.0, 0.0, -1000.0, 1000.0, 0.0], 100, 0.3, 0.3);
    let nothing = Some(Budget { n_heavy: 0, n_recent: 0 });
    assert_eq!(budgets, [None, None, None, nothing, None]);
    assert_eq!(layer_budgets(&[1.0; 3], 100, 0.1, 0.1), [None; 3]);
    assert_eq!(layer_budgets(&[], 100, 0.1, 0.1), []);
}

#[test]
fn what_the_paper_keeps() {
    let budgets = [(20, 12), (4, 1), (2, 3), (0, 0), (150, 40)];
    for queue in common::queues() {
        let mut random = Random(61);
        let lengths = [160, 71];
        let cache = Cache::new(&queue, SIZES, &lengths, &mut random).unwrap();
        // Queries of the last tokens, each with its own view.
        let n_probes = 40;
        let of_probe = SIZES.n_q_heads * SIZES.head_dim;
        let queries = random.row(SIZES.batch * n_probes * of_probe);
        let visible = |n: u32| (0..n_probes as u32).map(move |i| n - n_probes as u32 + 1 + i);
        let n_visible: Vec<u32> = lengths.into_iter().flat_map(visible).collect();
        let mut masses =
            Masses::new(&queue, cache.layout, SIZES.n_q_heads as u64, n_probes as u64).unwrap();
        let device = (queue.upload(&queries).unwrap(), queue.upload(&n_visible).unwrap());
        masses.step(&queue, device.0.view(), device.1.view(), cache.view()).unwrap();

        let mut expected = Vec::new();
        for list in 0..SIZES.batch * SIZES.n_heads {
            let (b, h) = (list / 2, list % 2);
            let mut masses = vec![0.0; lengths[b] as usize];
            for probe in 0..n_probes {
                let tokens: Vec<_> = (0..n_visible[b * n_probes + probe] as usize).collect();
                for q in 2 * h..2 * h + 2 {
                    let head = (b * n_probes + probe) * SIZES.n_q_heads + q;
                    let query = &queries[head * SIZES.head_dim..][..SIZES.head_dim];
                    let products = products(&cache, b, q, query, &tokens);
                    let scores: Vec<_> =
                        products.iter().map(|x| x / (SIZES.head_dim as f64).sqrt()).collect();
                    masses.iter_mut().zip(softmax(&scores)).for_each(|(mass, w)| *mass += w);
                }
            }
            expected.push(masses);
        }
        for (n_heavy, n_recent) in budgets {
            let of_heads = [lengths[0], lengths[0], lengths[1], lengths[1]];
            let of_heads = queue.upload(&of_heads).unwrap();
            let budget = Budget { n_heavy, n_recent };
            let mut eviction = Eviction::new(&queue, cache.layout, budget).unwrap();
            eviction.step(&queue, masses.masses(), of_heads.view()).unwrap();
            for (list, kept) in lists(&queue, eviction.kept()).iter().enumerate() {
                let mut masses = expected[list].clone();
                let n = masses.len();
                let k = (n_heavy + n_recent).min(n);
                masses[..n_heavy.min(4)].fill(f64::MAX);
                masses[n - n_recent.min(n)..].fill(f64::MAX);
                if k == 0 {
                    assert!(kept.is_empty());
                    continue;
                }
                assert_eq!(*kept, largest(&masses, k), "{budget:?}");
            }
        }
    }
}
