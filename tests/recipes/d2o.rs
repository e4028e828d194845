//! D2O's budgets and eviction against their formulas.

#[path = "../../examples/d2o.rs"]
mod recipe;

use half::bf16;
use lacuna::select::MergeWeights;
use recipe::{Budget, Density, Eviction, Masses, density_of, layer_budgets};

use crate::common;
use crate::oracle::{dot, largest, lists, products, softmax};
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
        let mut cache = Cache::new(&queue, SIZES, &lengths, &mut random).unwrap();
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
            let budget = Budget { n_heavy, n_recent };
            let weights = MergeWeights::Softmax;
            let mut eviction = Eviction::new(&queue, cache.layout, budget, weights).unwrap();
            let mut cache = cache.view_mut();
            eviction.step(&queue, masses.masses(), &mut cache).unwrap();
            let evicted = lists(&queue, eviction.evicted());
            for (list, kept) in lists(&queue, eviction.kept()).iter().enumerate() {
                let mut masses = expected[list].clone();
                let n = masses.len();
                let k = (n_heavy + n_recent).min(n);
                masses[..n_heavy.min(4)].fill(f64::MAX);
                masses[n - n_recent.min(n)..].fill(f64::MAX);
                let all_kept = if k == 0 { Vec::new() } else { largest(&masses, k) };
                assert_eq!(*kept, all_kept, "{budget:?}");
                let others = (0..n).filter(|t| !kept.contains(t));
                assert_eq!(evicted[list], others.collect::<Vec<_>>(), "{budget:?}");
            }
        }
    }
}

/// The nearest kept token of each evicted one, and how near.
fn nearest(
    cache: &Cache,
    [b, h]: [usize; 2],
    kept: &[usize],
    evicted: &[usize],
) -> Vec<(usize, f64)> {
    let of = |i: &usize| {
        let key = cache.key(b, *i, h);
        let cosine = |j: &usize| {
            let other = cache.key(b, *j, h);
            dot(key, other) / (dot(key, key) * dot(other, other)).sqrt()
        };
        let cosines: Vec<_> = kept.iter().map(cosine).collect();
        let place = largest(&cosines, 1)[0];
        (kept[place], cosines[place])
    };
    evicted.iter().map(of).collect()
}

fn row_of(pool: &[bf16], cache: &Cache, [b, h]: [usize; 2], t: usize) -> Vec<f64> {
    let start = cache.layout.locate(&cache.page_table, b as u64, t as u64, h as u64).unwrap();
    pool[start..][..SIZES.head_dim].iter().map(|x| x.to_f32().into()).collect()
}

/// A kept row, and what is merged into it with its similarity, by their weights.
fn merged(row: &[f64], others: &[(Vec<f64>, f64)], weights: MergeWeights) -> Vec<f64> {
    let is_softmax = weights == MergeWeights::Softmax;
    let own = if is_softmax { 1_f64.exp() } else { 1.0 };
    let (mut sums, mut total): (Vec<_>, _) = (row.iter().map(|x| own * x).collect(), own);
    for (other, similarity) in others {
        let weight = if is_softmax { similarity.exp() } else { *similarity };
        sums.iter_mut().zip(other).for_each(|(sum, x)| *sum += weight * x);
        total += if is_softmax { weight } else { 1.0 };
    }
    sums.iter().map(|sum| sum / total).collect()
}

#[test]
fn what_is_near_enough_is_merged() {
    let budget = Budget { n_heavy: 12, n_recent: 10 };
    let length = [160, 90];
    for queue in common::queues() {
        for weights in [MergeWeights::Softmax, MergeWeights::Released] {
            let mut random = Random(62);
            let mut cache = Cache::new(&queue, SIZES, &length, &mut random).unwrap();
            let mut eviction = Eviction::new(&queue, cache.layout, budget, weights).unwrap();
            let mut thresholds: Vec<Option<f64>> = vec![None; 4];
            // The second step has the first one's thresholds, and other tokens.
            for _ in 0..2 {
                let masses: Vec<f32> = (0..4 * SIZES.n).map(|_| random.normal()).collect();
                let masses = queue.upload(&masses).unwrap();
                let mut view = cache.view_mut();
                eviction.step(&queue, masses.view(), &mut view).unwrap();
                let [keys, values] = [view.keys.as_view(), view.values.as_ref().unwrap().as_view()]
                    .map(|pool| queue.download(&pool).unwrap());
                let (kept, evicted) =
                    (lists(&queue, eviction.kept()), lists(&queue, eviction.evicted()));
                for list in 0..4 {
                    let (b, h) = (list / 2, list % 2);
                    let others = (0..length[b] as usize).filter(|t| !kept[list].contains(t));
                    assert_eq!(evicted[list], others.collect::<Vec<_>>());
                    let nearest = nearest(&cache, [b, h], &kept[list], &evicted[list]);
                    let mean = nearest.iter().map(|(_, s)| s).sum::<f64>() / nearest.len() as f64;
                    let threshold = thresholds[list].map_or(mean, |old| 0.5 * old + 0.5 * mean);
                    thresholds[list] = Some(threshold);
                    let n_merged = nearest.iter().filter(|(_, s)| *s >= threshold).count();
                    assert!(n_merged > 0 && n_merged < nearest.len());
                    assert!(
                        nearest.iter().all(|(_, s)| (s - threshold).abs() > 1e-5),
                        "another seed"
                    );
                    for j in &kept[list] {
                        let near = evicted[list].iter().zip(&nearest);
                        let near = near.filter(|(_, (at, s))| at == j && *s >= threshold);
                        let near: Vec<_> = near.map(|(t, (_, s))| (*t, *s)).collect();
                        for (before, after) in [(&cache.keys, &keys), (&cache.values, &values)] {
                            let row = |pool, t| row_of(pool, &cache, [b, h], t);
                            let rows: Vec<_> =
                                near.iter().map(|(t, s)| (row(before, *t), *s)).collect();
                            let exact = merged(&row(before, *j), &rows, weights);
                            for (exact, got) in exact.iter().zip(row(after, *j)) {
                                let error = (got - exact).abs();
                                assert!(error <= exact.abs() / 256.0 + 1e-6, "{got}, not {exact}");
                            }
                        }
                    }
                    let found = queue.download(&eviction.thresholds()).unwrap()[list];
                    assert!(
                        (f64::from(found) - threshold).abs() < 1e-5,
                        "{found}, not {threshold}"
                    );
                }
                (cache.keys, cache.values) = (keys, values);
            }
        }
    }
}
