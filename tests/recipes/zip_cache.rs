//! ZipCache's saliency, and with norms of values CriticalKV's, against their formulas: a prompt's probes, then steps of decoding.

use half::bf16;
use lacuna::kv::KvView;
use lacuna::quant::{
    MassesOfPrompt, NormsPlan, NormsShape, SaliencyInputs, SaliencyPlan, SaliencyShape,
    SaliencyState, StepLogits, add_saliency, begin_saliency, choose_probes, measure_norms,
    weigh_saliency,
};
use lacuna::select::{
    MassInputs, MassOutputs, MassPlan, MassShape, TopkInputs, TopkOutputs, TopkPlan, TopkShape,
    column_mass, topk_rows,
};
use lacuna::{Buffer, Queue};

use crate::common;
use crate::oracle::{largest, lists, products, softmax};
use crate::toy::{Cache, Random, Sizes};

const SIZES: Sizes =
    Sizes { batch: 2, n: 320, n_q_heads: 4, n_heads: 2, head_dim: 32, page_size: 16 };
const GROUP: usize = SIZES.n_q_heads / SIZES.n_heads;
const N_RECENT: u32 = 7;
const N_RANDOM: u32 = 9;
const N_PROBES: usize = (N_RECENT + N_RANDOM) as usize;
const N_STEPS: usize = 5;
/// Slots of pages, some of nothing.
const N_POSITIONS: usize = 352;
const K: usize = 48;

/// Sums of weights and how many rows saw each token, in f64.
struct Formula {
    /// `[batch, n_heads, n]`.
    sums: Vec<f64>,
    counts: Vec<f64>,
}

impl Formula {
    /// A row of queries: the weights that a query head gives the first tokens.
    fn see(&mut self, b: usize, q: usize, weights: &[f64]) {
        let start = (b * SIZES.n_heads + q / GROUP) * SIZES.n;
        for (i, weight) in weights.iter().enumerate() {
            self.sums[start + i] += weight;
            self.counts[start + i] += 1.0;
        }
    }
}

/// Logits of a query head over the first `n` tokens.
fn logits(cache: &Cache, b: usize, q: usize, query: &[bf16], n: usize) -> Vec<f64> {
    let tokens: Vec<_> = (0..n).collect();
    let scale = (SIZES.head_dim as f64).sqrt().recip();
    products(cache, b, q, query, &tokens).into_iter().map(|x| x * scale).collect()
}

/// The state on the device, after a prompt and some steps, and the same by the formula.
fn keep(queue: &Queue, cache: &mut Cache, random: &mut Random) -> ([Buffer<f32>; 2], Formula) {
    let Sizes { batch, n, n_q_heads, n_heads, head_dim: d, .. } = SIZES;
    let n_state = batch * n_heads * n;
    let mut formula = Formula { sums: vec![0.0; n_state], counts: vec![0.0; n_state] };
    let plan = plan(1e-4);
    let mut state = [queue.alloc(n_state).unwrap(), queue.alloc(n_state).unwrap()];

    let probes = random.row(batch * N_PROBES * n_q_heads * d);
    let n_visible: Vec<u32> = (cache.lengths.iter().enumerate())
        .flat_map(|(b, length)| choose_probes(b as u64, *length, N_RECENT, N_RANDOM))
        .map(|probe| probe + 1)
        .collect();
    for (row, query) in probes.chunks(d).enumerate() {
        let (probe, q) = (row / n_q_heads, row % n_q_heads);
        let b = probe / N_PROBES;
        let logits = logits(cache, b, q, query, n_visible[probe] as usize);
        formula.see(b, q, &softmax(&logits));
    }
    let shape = MassShape::of(cache.layout, n_q_heads as u64, N_PROBES as u64);
    let mass_plan =
        MassPlan::new(MassShape { is_over_all_heads: false, is_mean: false, ..shape }).unwrap();
    let mut masses = queue.alloc(mass_plan.masses_len() as usize).unwrap();
    let mut softmaxes = queue.alloc(mass_plan.n_softmaxes() as usize).unwrap();
    let mut workspace = queue.alloc(mass_plan.workspace_len() as usize).unwrap();
    let (probes, n_visible) = (queue.upload(&probes).unwrap(), queue.upload(&n_visible).unwrap());
    let inputs = MassInputs {
        probes: probes.view(),
        n_visible: n_visible.view(),
        cache: cache.view(),
        skips: None,
    };
    let mut outputs = MassOutputs {
        masses: masses.view_mut(),
        softmaxes: softmaxes.view_mut(),
        workspace: workspace.view_mut(),
    };
    column_mass(queue, &mass_plan, &inputs, &mut outputs).unwrap();
    let KvView { lengths, .. } = cache.view();
    let (masses, n_visible) = (masses.view(), n_visible.view());
    let inputs = MassesOfPrompt { masses, n_visible, lengths, skips: None };
    let [sums, counts] = &mut state;
    let mut views = SaliencyState { sums: sums.view_mut(), counts: counts.view_mut() };
    begin_saliency(queue, &plan, &mass_plan, &inputs, &mut views).unwrap();

    for _ in 0..N_STEPS {
        let lengths: Vec<u32> = cache.lengths.iter().map(|length| length + 1).collect();
        cache.upload(queue, &lengths).unwrap();
        let queries = random.row(batch * n_q_heads * d);
        // Each head's tokens are in slots of its own.
        let tokens: Vec<i32> = (0..batch * n_heads)
            .flat_map(|_| random.order(N_POSITIONS))
            .map(|i| if i < n { i as i32 } else { -1 })
            .collect();
        let mut of_slots = vec![f32::NEG_INFINITY; batch * n_q_heads * N_POSITIONS];
        let mut log_sums = Vec::new();
        for (row, query) in queries.chunks(d).enumerate() {
            let (b, q) = (row / n_q_heads, row % n_q_heads);
            let logits = logits(cache, b, q, query, lengths[b] as usize);
            formula.see(b, q, &softmax(&logits));
            log_sums.push(logits.iter().map(|x| x.exp()).sum::<f64>().ln() as f32);
            let slots = &tokens[(b * n_heads + q / GROUP) * N_POSITIONS..][..N_POSITIONS];
            for (slot, token) in slots.iter().enumerate() {
                let logit = usize::try_from(*token).ok().and_then(|token| logits.get(token));
                let Some(logit) = logit else { continue };
                of_slots[row * N_POSITIONS + slot] = (logit * std::f64::consts::LOG2_E) as f32;
            }
        }
        let (of_slots, log_sums) =
            (queue.upload(&of_slots).unwrap(), queue.upload(&log_sums).unwrap());
        let tokens = queue.upload(&tokens).unwrap();
        let inputs = StepLogits {
            logits: of_slots.view(),
            log_sums: log_sums.view(),
            tokens: Some(tokens.view()),
            skips: None,
        };
        add_saliency(queue, &plan, &inputs, &mut views).unwrap();
    }
    (state, formula)
}

fn plan(floor: f32) -> SaliencyPlan {
    let Sizes { batch, n, n_q_heads, n_heads, .. } = SIZES;
    let [batch, n, n_q_heads, n_heads] = [batch, n, n_q_heads, n_heads].map(|n| n as u64);
    let shape = SaliencyShape::of(batch, n_q_heads, n_heads, n);
    let n_positions = N_POSITIONS as u64;
    SaliencyPlan::new(SaliencyShape { n_positions, floor, ..shape }).unwrap()
}

fn pick(
    queue: &Queue,
    cache: &Cache,
    state: &[Buffer<f32>; 2],
    norms: Option<&Buffer<f32>>,
    floor: f32,
) -> Vec<Vec<usize>> {
    let n_rows = (SIZES.batch * SIZES.n_heads) as u64;
    let plan = plan(floor);
    let mut scores = queue.alloc(plan.scores_len() as usize).unwrap();
    let lengths = cache.view().lengths;
    let inputs = SaliencyInputs {
        sums: state[0].view(),
        counts: state[1].view(),
        norms: norms.map(Buffer::view),
        lengths: Some(lengths),
        skips: None,
    };
    weigh_saliency(queue, &plan, &inputs, &mut scores.view_mut()).unwrap();
    let shape = TopkShape::of::<f32>(n_rows, SIZES.n as u64, K as u64);
    let topk =
        TopkPlan::new(TopkShape { rows_per_request: SIZES.n_heads as u64, ..shape }).unwrap();
    let mut indices = queue.alloc(topk.picks_len() as usize).unwrap();
    let mut counts = queue.alloc(n_rows as usize).unwrap();
    let inputs = TopkInputs { lengths: Some(lengths), ..TopkInputs::whole(scores.view()) };
    let mut outputs = TopkOutputs::new(indices.view_mut(), counts.view_mut());
    topk_rows(queue, &topk, &inputs, &mut outputs).unwrap();
    lists(queue, (indices.view(), counts.view()))
}

#[test]
fn which_tokens_keep_more_bits() {
    for queue in common::queues() {
        let mut random = Random(41);
        let mut cache = Cache::new(&queue, SIZES, &[300, 131], &mut random).unwrap();
        let (state, formula) = keep(&queue, &mut cache, &mut random);
        let norms_plan = NormsPlan::new(NormsShape::of(cache.layout)).unwrap();
        let mut norms = queue.alloc(norms_plan.norms_len() as usize).unwrap();
        measure_norms(&queue, &norms_plan, &cache.view(), None, &mut norms.view_mut()).unwrap();
        let zip_cache = pick(&queue, &cache, &state, None, 0.0);
        let critical = pick(&queue, &cache, &state, Some(&norms), 1e-4);
        for head in 0..SIZES.batch * SIZES.n_heads {
            let (b, h) = (head / SIZES.n_heads, head % SIZES.n_heads);
            let n = cache.lengths[b] as usize;
            let normalised: Vec<f64> = (head * SIZES.n..head * SIZES.n + n)
                .map(|at| formula.sums[at] / formula.counts[at])
                .collect();
            assert_eq!(zip_cache[head], largest(&normalised, K));
            let accumulated = &formula.sums[head * SIZES.n..][..n];
            assert_ne!(
                zip_cache[head],
                largest(accumulated, K),
                "the first tokens are seen by all"
            );
            let norm = |i: usize| -> f64 {
                let start = cache.layout.locate(&cache.page_table, b as u64, i as u64, h as u64);
                let row = &cache.values[start.unwrap()..][..SIZES.head_dim];
                row.iter().map(|x| f64::from(x.to_f32()).abs()).sum()
            };
            let weighed: Vec<f64> = normalised
                .iter()
                .enumerate()
                .map(|(i, saliency)| (saliency + 1e-4) * norm(i))
                .collect();
            assert_eq!(critical[head], largest(&weighed, K));
            assert_ne!(critical[head], zip_cache[head]);
        }
    }
}
