//! Attention, selection and appending against plain candle in f32, and against lacuna's references, over caches of any layout.

mod common;

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use common::{Random, bits};
use half::bf16;
use lacuna_candle::lacuna::attention::reference::{Attended, HostSegment};
use lacuna_candle::lacuna::attention::{AttendPlan, AttendShape, Mask, SegmentShape, Tokens};
use lacuna_candle::lacuna::mma::Model;
use lacuna_candle::lacuna::quant::Turn;
use lacuna_candle::lacuna::select::reference::Scored;
use lacuna_candle::lacuna::select::{
    GroupReduction, Order, Rule, ScoreKind, ScorePlan, ScoreShape, Summary, Together,
};
use lacuna_candle::{
    AttendOptions, KvCache, Rotary, ScoreOptions, Segment, TopkOptions, VoteOptions, append_kv,
    attend, box_cache, score_rows, summarize, topk_rows, vote_rows,
};

const BATCH: usize = 2;
const HEADS: usize = 3;
const GROUP: usize = 2;
const DIM: usize = 32;
const PAGE: usize = 4;
const MOST: usize = 24;
const LENGTHS: [usize; BATCH] = [19, 7];

struct Case {
    cache: KvCache,
    /// `[tokens, heads, dim]` of each request.
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// `[batch, q heads, dim]`.
    queries: Tensor,
}

/// Tokens in a cache, a request's appended in two steps beside the other's.
fn case(dtype: DType, seed: u64) -> Case {
    let mut random = Random(seed);
    let mut cache = KvCache::zeros(BATCH, MOST, HEADS, DIM, PAGE, dtype, &Device::Cpu).unwrap();
    // Pages in another order than a request's tokens.
    let table: Vec<i32> = (0..12).map(|i| (i * 5 + 3) % 12).collect();
    cache.page_table = Tensor::from_vec(table, (BATCH, 6), &Device::Cpu).unwrap();
    let n = LENGTHS[0];
    let mut new = || random.tensor(&[BATCH, n, HEADS, DIM], 0.7).to_dtype(dtype).unwrap();
    let (keys, values) = (new(), new());
    let part = |all: &Tensor, first, n| all.narrow(1, first, n).unwrap().contiguous().unwrap();
    append_kv(&mut cache, &part(&keys, 0, 7), &part(&values, 0, 7), None).unwrap();
    assert_eq!(cache.lengths.to_vec1::<u32>().unwrap(), [7, 7]);
    append_kv(&mut cache, &part(&keys, 7, 12), &part(&values, 7, 12), None).unwrap();
    // The second request's last tokens are taken back.
    let lengths = LENGTHS.map(|n| n as u32);
    cache.lengths = Tensor::new(&lengths, &Device::Cpu).unwrap();
    let own = |all: &Tensor| {
        let of = |b: usize| all.i(b).unwrap().narrow(0, 0, LENGTHS[b]).unwrap();
        (0..BATCH).map(|b| of(b).contiguous().unwrap()).collect::<Vec<_>>()
    };
    let queries = random.tensor(&[BATCH, HEADS * GROUP, DIM], 0.7).to_dtype(dtype).unwrap();
    Case { cache, keys: own(&keys), values: own(&values), queries }
}

/// Attention of a request's queries over some of its tokens by candle in f32: `[q heads, dim]`, and the log-sums.
fn plain(case: &Case, b: usize, tokens: &dyn Fn(usize) -> Vec<u32>) -> Result<(Tensor, Tensor)> {
    let mut outputs = Vec::new();
    let mut log_sums = Vec::new();
    for q in 0..HEADS * GROUP {
        let tokens = Tensor::new(tokens(q / GROUP), &Device::Cpu)?;
        let of = |all: &Tensor| {
            let head = all.narrow(1, q / GROUP, 1)?.squeeze(1)?.to_dtype(DType::F32)?;
            head.contiguous()?.index_select(&tokens, 0)
        };
        let (keys, values) = (of(&case.keys[b])?, of(&case.values[b])?);
        let query = case.queries.i((b, q))?.to_dtype(DType::F32)?.unsqueeze(0)?;
        let logits = (query.matmul(&keys.t()?)? / (DIM as f64).sqrt())?;
        log_sums.push(logits.log_sum_exp(D::Minus1)?);
        let logits = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = logits.broadcast_div(&logits.sum_keepdim(D::Minus1)?)?;
        outputs.push(weights.matmul(&values)?);
    }
    Ok((Tensor::cat(&outputs, 0)?, Tensor::cat(&log_sums, 0)?))
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let a = a.to_dtype(DType::F32).unwrap();
    let b = b.to_dtype(DType::F32).unwrap();
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn all_of(b: usize) -> impl Fn(usize) -> Vec<u32> {
    move |_| (0..LENGTHS[b] as u32).collect()
}

#[test]
fn dense_attention_is_candles() {
    for (dtype, of_device) in [(DType::BF16, 2e-2), (DType::F16, 3e-3)] {
        let case = case(dtype, 3);
        let segments = [Segment::range(&case.cache, Tokens::ALL)];
        for (is_exact, near) in [(false, 1e-5), (true, of_device)] {
            let options =
                AttendOptions { dtype: Some(DType::F32), is_exact, ..AttendOptions::default() };
            let attended = attend(&case.queries, &segments, &options).unwrap();
            assert_eq!(attended.outputs.dims(), case.queries.dims());
            assert_eq!(attended.log_sums.dims(), [BATCH, HEADS * GROUP]);
            for b in 0..BATCH {
                let (outputs, log_sums) = plain(&case, b, &all_of(b)).unwrap();
                let off = distance(&attended.outputs.i(b).unwrap(), &outputs);
                assert!(off < near, "{dtype:?} {is_exact} {b}: {off}");
                let off = distance(&attended.log_sums.i(b).unwrap(), &log_sums);
                assert!(off < 1e-5, "{dtype:?} {is_exact} {b}: {off}");
            }
            // The queries' type is the outputs', rounded once.
            let options = AttendOptions { is_exact, ..AttendOptions::default() };
            let own = attend(&case.queries, &segments, &options).unwrap();
            assert_eq!(own.outputs.dtype(), dtype);
            assert_eq!(bits(&own.outputs), bits(&attended.outputs.to_dtype(dtype).unwrap()));
        }
    }
}

/// A pool's elements, and tables.
fn host(cache: &KvCache) -> (Vec<bf16>, Vec<bf16>, Vec<i32>, Vec<u32>) {
    let pool = |pool: &Tensor| pool.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
    let table = cache.page_table.flatten_all().unwrap().to_vec1().unwrap();
    let values = cache.values.as_ref().map_or(Vec::new(), pool);
    (pool(&cache.keys), values, table, cache.lengths.to_vec1().unwrap())
}

#[test]
fn exact_attention_has_the_bits_of_lacunas_reference() {
    let case = case(DType::BF16, 14);
    let (keys, values, page_table, lengths) = host(&case.cache);
    let layout = case.cache.layout().unwrap();
    let shapes = [SegmentShape::of(layout, Tokens::ALL)];
    let plan = AttendPlan::new(AttendShape::of(&layout, (HEADS * GROUP) as u64), &shapes).unwrap();
    let queries = case.queries.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
    let segments = [HostSegment {
        keys: &keys,
        values: &values,
        page_table: &page_table,
        lengths: &lengths,
        indices: &[],
        counts: None,
        biases: None,
    }];
    let reference = Attended {
        plan: &plan,
        model: Model::HOPPER,
        queries: &queries,
        segments: &segments,
        sinks: None,
        low_rank: None,
    };
    let options =
        AttendOptions { dtype: Some(DType::F32), is_exact: true, ..AttendOptions::default() };
    let segments = [Segment::range(&case.cache, Tokens::ALL)];
    let attended = attend(&case.queries, &segments, &options).unwrap();
    for b in 0..BATCH {
        for q in 0..HEADS * GROUP {
            let (output, log_sum) = reference.query(b, 0, q);
            let own = bits(&attended.outputs.i((b, q)).unwrap());
            assert_eq!(own, output.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            assert_eq!(bits(&attended.log_sums.i((b, q)).unwrap()), [log_sum.to_bits()]);
        }
    }
}

#[test]
fn scores_have_the_bits_of_lacunas_reference() {
    let mut case = case(DType::BF16, 15);
    // A page that is none, a NaN and an infinity.
    let mut table = case.cache.page_table.flatten_all().unwrap().to_vec1::<i32>().unwrap();
    table[2] = -1;
    case.cache.page_table = Tensor::from_vec(table, (BATCH, 6), &Device::Cpu).unwrap();
    let mut queries = case.queries.flatten_all().unwrap().to_vec1::<bf16>().unwrap();
    (queries[3], queries[DIM + 1]) = (bf16::NAN, bf16::INFINITY);
    let queries_tensor =
        Tensor::from_slice(&queries, (BATCH, HEADS * GROUP, DIM), &Device::Cpu).unwrap();
    let mut boxes = box_cache(&case.cache).unwrap();
    summarize(&case.cache, &mut boxes, Summary::Box, None).unwrap();
    for (cache, kind) in [(&case.cache, ScoreKind::Dot), (&boxes, ScoreKind::Box)] {
        let (keys, _, page_table, lengths) = host(cache);
        let scored = Scored {
            queries: &queries,
            keys: &keys,
            page_table: &page_table,
            lengths: &lengths,
            key_scale: 1.0,
        };
        for reduction in
            [GroupReduction::None, GroupReduction::Max, GroupReduction::Sum, GroupReduction::Mean]
        {
            let layout = cache.layout().unwrap();
            let n_q_heads = (HEADS * GROUP) as u64;
            let shape = match kind {
                ScoreKind::Dot => ScoreShape::of(layout, n_q_heads),
                ScoreKind::Box => ScoreShape::of_boxes(layout, n_q_heads),
            };
            let plan = ScorePlan::new(ScoreShape { reduction, ..shape }).unwrap();
            let own = score_rows(&queries_tensor, cache, &ScoreOptions { kind, reduction });
            let own = own.unwrap();
            for b in 0..BATCH {
                for (row, expected) in scored.request::<f32>(&plan, b).iter().enumerate() {
                    let own = bits(&own.i((b, row)).unwrap());
                    let expected: Vec<_> = expected.iter().map(|x| x.to_bits()).collect();
                    assert_eq!(own[..expected.len()], expected, "{kind:?} {reduction:?} {b} {row}");
                }
            }
        }
    }
}

#[test]
fn caches_of_any_layout_have_the_same_bits() {
    let case = case(DType::BF16, 4);
    let options = AttendOptions::default();
    let of = |cache: &KvCache, queries: &Tensor| {
        let attended = attend(queries, &[Segment::range(cache, Tokens::ALL)], &options).unwrap();
        let scores = score_rows(queries, cache, &ScoreOptions::default()).unwrap();
        [bits(&attended.outputs), bits(&attended.log_sums), bits(&scores)]
    };
    let expected = of(&case.cache, &case.queries);
    // Heads before tokens.
    let turned = |pool: &Tensor| {
        let pool = pool.transpose(1, 2).unwrap().contiguous().unwrap();
        pool.transpose(1, 2).unwrap()
    };
    let values = case.cache.values.as_ref().unwrap();
    let hnd = KvCache {
        keys: turned(&case.cache.keys),
        values: Some(turned(values)),
        ..case.cache.clone()
    };
    assert!(!hnd.keys.is_contiguous());
    assert_eq!(of(&hnd, &case.queries), expected);
    // Keys and values of a page together, and the pool in the middle of a larger one.
    let fused = Tensor::stack(&[&case.cache.keys, values], 1).unwrap();
    let room = fused.zeros_like().unwrap();
    let fused = Tensor::cat(&[&room, &fused, &room], 0).unwrap().narrow(0, 12, 12).unwrap();
    let part = |i: usize| fused.i((.., i)).unwrap();
    let fused = KvCache { keys: part(0), values: Some(part(1)), ..case.cache.clone() };
    assert!(fused.keys.layout().start_offset() > 0);
    assert_eq!(of(&fused, &case.queries), expected);
    // Queries with something between requests.
    let wide = Tensor::cat(&[&case.queries, &case.queries], 1).unwrap();
    let queries = wide.narrow(1, HEADS * GROUP, HEADS * GROUP).unwrap();
    assert_eq!(of(&case.cache, &queries), expected);

    // What is none of these is refused, and the way out is named.
    let queries = case.queries.transpose(1, 2).unwrap().contiguous().unwrap();
    let queries = queries.transpose(1, 2).unwrap();
    let refused = score_rows(&queries, &case.cache, &ScoreOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("`.contiguous()?`"), "{refused}");
}

#[test]
fn selected_tokens_and_pages_are_those_that_are_attended_to() {
    let case = case(DType::BF16, 5);
    let options = AttendOptions { dtype: Some(DType::F32), ..AttendOptions::default() };
    // One list for all heads, of which one is shorter.
    let indices = Tensor::new(&[[0_i32, 3, 18, 7], [6, 2, 5, 5]], &Device::Cpu).unwrap();
    let counts = Tensor::new(&[4_u32, 3], &Device::Cpu).unwrap();
    let segments = [Segment::blocks(&case.cache, &indices, Some(&counts), 1)];
    let attended = attend(&case.queries, &segments, &options).unwrap();
    for (b, tokens) in [vec![0, 3, 18, 7], vec![6, 2, 5]].into_iter().enumerate() {
        let (outputs, _) = plain(&case, b, &|_| tokens.clone()).unwrap();
        assert!(distance(&attended.outputs.i(b).unwrap(), &outputs) < 1e-5);
    }
    // Pages for each head, -1 after the last, and a window after them.
    let pages = [[[0_i32, 2], [1, -1], [3, 0]], [[0, -1], [-1, -1], [0, -1]]];
    let indices = Tensor::new(&pages, &Device::Cpu).unwrap();
    let segments = [
        Segment::blocks(&case.cache, &indices, None, PAGE),
        Segment::range(&case.cache, Tokens::last(3)),
    ];
    let attended = attend(&case.queries, &segments, &options).unwrap();
    for b in 0..BATCH {
        let tokens = |head: usize| {
            let pages = pages[b][head].iter().filter(|page| **page >= 0);
            let rows = pages.flat_map(|page| 4 * *page as u32..4 * *page as u32 + 4);
            rows.chain(LENGTHS[b] as u32 - 3..LENGTHS[b] as u32).collect()
        };
        let (outputs, log_sums) = plain(&case, b, &tokens).unwrap();
        assert!(distance(&attended.outputs.i(b).unwrap(), &outputs) < 1e-5);
        assert!(distance(&attended.log_sums.i(b).unwrap(), &log_sums) < 1e-5);
    }
}

#[test]
fn several_queries_see_what_their_mask_lets_them() {
    let case = case(DType::BF16, 6);
    let n_queries = 3;
    let queries = Random(8).tensor(&[BATCH, n_queries, HEADS * GROUP, DIM], 0.7);
    let queries = queries.to_dtype(DType::BF16).unwrap();
    let segments = [Segment::range(&case.cache, Tokens::ALL).masked(Mask::Causal)];
    let options = AttendOptions { dtype: Some(DType::F32), ..AttendOptions::default() };
    let attended = attend(&queries, &segments, &options).unwrap();
    assert_eq!(attended.outputs.dims(), queries.dims());
    for i in 0..n_queries {
        let own = Case { queries: queries.i((.., i)).unwrap(), ..self::case(DType::BF16, 6) };
        for (b, length) in LENGTHS.into_iter().enumerate() {
            let n = (length - n_queries + i + 1) as u32;
            let (outputs, log_sums) = plain(&own, b, &|_| (0..n).collect()).unwrap();
            assert!(distance(&attended.outputs.i((b, i)).unwrap(), &outputs) < 1e-5);
            assert!(distance(&attended.log_sums.i((b, i)).unwrap(), &log_sums) < 1e-5);
        }
    }
    // A sink takes its share of each softmax.
    let sinks = Tensor::full(1.5_f32, HEADS * GROUP, &Device::Cpu).unwrap();
    let with = AttendOptions { sinks: Some(&sinks), ..options };
    let sunk = attend(&queries, &segments, &with).unwrap();
    let (all, less) = (attended.log_sums.exp().unwrap(), sunk.log_sums.exp().unwrap());
    assert!(distance(&(less - all).unwrap(), &sunk.log_sums.full_like_of(1.5_f32.exp())) < 1e-3);
}

trait FullLike {
    fn full_like_of(&self, value: f32) -> Tensor;
}

impl FullLike for Tensor {
    fn full_like_of(&self, value: f32) -> Tensor {
        Tensor::full(value, self.dims(), self.device()).unwrap()
    }
}

#[test]
fn scores_are_products_and_votes_their_softmaxes() {
    let case = case(DType::BF16, 9);
    for queries in [case.queries.clone(), case.queries.to_dtype(DType::F32).unwrap()] {
        let scores = score_rows(&queries, &case.cache, &ScoreOptions::default()).unwrap();
        assert_eq!(scores.dims(), [BATCH, HEADS * GROUP, MOST]);
        let votes = vote_rows(&queries, &case.cache, &VoteOptions::default()).unwrap();
        assert_eq!(votes.dims(), [BATCH, 1, MOST]);
        let by_group = VoteOptions { together: Together::Group, ..VoteOptions::default() };
        let by_group = vote_rows(&queries, &case.cache, &by_group).unwrap();
        assert_eq!(by_group.dims(), [BATCH, HEADS, MOST]);
        assert!(distance(&by_group.sum_keepdim(1).unwrap(), &votes) < 1e-6);
        for (b, n) in LENGTHS.into_iter().enumerate() {
            let mut sum = Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
            for q in 0..HEADS * GROUP {
                let keys = case.keys[b].i((.., q / GROUP)).unwrap().to_dtype(DType::F32).unwrap();
                let query = queries.i((b, q)).unwrap().to_dtype(DType::F32).unwrap();
                let products = keys.contiguous().unwrap().matmul(&query.unsqueeze(1).unwrap());
                let products = products.unwrap().squeeze(1).unwrap();
                let own = scores.i((b, q)).unwrap();
                assert!(distance(&own.narrow(0, 0, n).unwrap(), &products) < 1e-5);
                let past = own.narrow(0, n, MOST - n).unwrap().to_vec1::<f32>().unwrap();
                assert!(past.iter().all(|score| *score == f32::NEG_INFINITY));
                let logits = (products / (DIM as f64).sqrt()).unwrap().exp().unwrap();
                let weights = logits.broadcast_div(&logits.sum_all().unwrap()).unwrap();
                sum = (sum + weights).unwrap();
            }
            let own = votes.i((b, 0)).unwrap();
            assert!(distance(&own.narrow(0, 0, n).unwrap(), &sum) < 1e-5);
            let past = own.narrow(0, n, MOST - n).unwrap();
            assert_eq!(distance(&past, &past.zeros_like().unwrap()), 0.0);
        }
    }
    // The greatest of a group's heads.
    let all = score_rows(&case.queries, &case.cache, &ScoreOptions::default()).unwrap();
    let options = ScoreOptions { reduction: GroupReduction::Max, ..ScoreOptions::default() };
    let most = score_rows(&case.queries, &case.cache, &options).unwrap();
    let expected = all.reshape((BATCH, HEADS, GROUP, MOST)).unwrap().max(2).unwrap();
    assert_eq!(bits(&most), bits(&expected));
}

#[test]
fn boxes_bound_the_products_of_their_pages() {
    let case = case(DType::BF16, 10);
    let mut boxes = box_cache(&case.cache).unwrap();
    // A few tokens, then the rest: as all at once.
    let full = case.cache.lengths.clone();
    let some = Tensor::new(&[6_u32, 3], &Device::Cpu).unwrap();
    let before = KvCache { lengths: some.clone(), ..case.cache.clone() };
    summarize(&before, &mut boxes, Summary::Box, None).unwrap();
    assert_eq!(boxes.lengths.to_vec1::<u32>().unwrap(), [6, 3]);
    summarize(&case.cache, &mut boxes, Summary::Box, Some(&some)).unwrap();
    let mut once = box_cache(&case.cache).unwrap();
    summarize(&case.cache, &mut once, Summary::Box, None).unwrap();
    assert_eq!(bits(&boxes.keys), bits(&once.keys));
    assert_eq!(boxes.lengths.to_vec1::<u32>().unwrap(), full.to_vec1::<u32>().unwrap());

    let options = ScoreOptions { kind: ScoreKind::Box, ..ScoreOptions::default() };
    let bounds = score_rows(&case.queries, &boxes, &options).unwrap();
    let scores = score_rows(&case.queries, &case.cache, &ScoreOptions::default()).unwrap();
    assert_eq!(bounds.dims(), [BATCH, HEADS * GROUP, MOST / PAGE]);
    let most = scores.reshape((BATCH, HEADS * GROUP, MOST / PAGE, PAGE)).unwrap().max(3).unwrap();
    let [bounds, most] =
        [bounds, most].map(|all| all.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let mut n_finite = 0;
    for (bound, most) in bounds.iter().zip(&most) {
        assert!(*bound >= *most - 1e-5, "{bound} {most}");
        n_finite += u32::from(bound.is_finite());
    }
    assert_eq!(
        n_finite as usize,
        HEADS * GROUP * LENGTHS.iter().map(|n| n.div_ceil(PAGE)).sum::<usize>()
    );
    let refused = summarize(&case.cache, &mut boxes, Summary::MeanAndOutlier, None).unwrap_err();
    assert!(refused.to_string().contains("MeanAndOutlier"), "{refused}");
}

#[test]
fn picks_are_the_largest_of_each_row() {
    let scores = Random(11).tensor(&[2, 3, 10], 1.0);
    let lengths = Tensor::new(&[10_u32, 4], &Device::Cpu).unwrap();
    let options =
        TopkOptions { n_first: 1, n_last: 1, lengths: Some(&lengths), ..TopkOptions::largest(5) };
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let scores = scores.to_dtype(dtype).unwrap();
        let picks = topk_rows(&scores, &options).unwrap();
        let by_score = TopkOptions { order: Order::Score, ..options };
        let by_score = topk_rows(&scores, &by_score).unwrap();
        assert_eq!((picks.indices.dims(), picks.counts.dims()), (&[2, 3, 5][..], &[2, 3][..]));
        assert_eq!(picks.counts.to_vec2::<u32>().unwrap(), [[5; 3], [4; 3]]);
        let all = scores.to_dtype(DType::F32).unwrap().to_vec3::<f32>().unwrap();
        for (b, n) in [10, 4].into_iter().enumerate() {
            for (h, all) in all[b].iter().enumerate() {
                let mut ranked: Vec<usize> = (1..n - 1).collect();
                ranked.sort_by(|i, j| all[*j].total_cmp(&all[*i]).then(i.cmp(j)));
                ranked.truncate(3);
                let mut expected: Vec<i32> = [0, n - 1].map(|i| i as i32).to_vec();
                expected.extend(ranked.iter().map(|i| *i as i32));
                let own = by_score.indices.i((b, h)).unwrap().to_vec1::<i32>().unwrap();
                assert_eq!(own[..expected.len()], expected);
                expected.sort_unstable();
                expected.resize(5, -1);
                let own = picks.indices.i((b, h)).unwrap().to_vec1::<i32>().unwrap();
                assert_eq!(own, expected);
            }
        }
    }
    // Rows that lie apart, and a rule that says how many.
    let rows = scores.narrow(2, 2, 6).unwrap();
    let options = TopkOptions { rule: Rule::AtLeast { least: 0.0 }, ..TopkOptions::largest(6) };
    let picks = topk_rows(&rows, &options).unwrap();
    let copied = topk_rows(&rows.contiguous().unwrap(), &options).unwrap();
    assert_eq!(bits(&picks.indices), bits(&copied.indices));
    let n_positive = rows.ge(0.0).unwrap().to_dtype(DType::U32).unwrap().sum(2).unwrap();
    assert_eq!(bits(&picks.counts), bits(&n_positive));
    // None at all.
    let none = topk_rows(&scores.narrow(0, 0, 0).unwrap(), &TopkOptions::largest(3)).unwrap();
    assert_eq!(none.indices.dims(), [0, 3, 3]);
}

#[test]
fn keys_are_turned_as_they_are_appended() {
    let n_positions = 16;
    let angles: Vec<f32> = (0..n_positions)
        .flat_map(|t| (0..DIM / 2).map(move |i| t as f32 / 10_f32.powf(i as f32 / 4.0)))
        .collect();
    let angles = Tensor::from_vec(angles, (n_positions, DIM / 2), &Device::Cpu).unwrap();
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    let cos_sin = Tensor::cat(&[&cos, &sin], 1).unwrap();
    let rotary = Rotary { turn: Turn::Halves, cos_sin };
    let mut random = Random(12);
    let [keys, values] =
        [(); 2].map(|()| random.tensor(&[1, 5, HEADS, DIM], 1.0).to_dtype(DType::BF16).unwrap());
    let mut cache = KvCache::zeros(1, 8, HEADS, DIM, 8, DType::BF16, &Device::Cpu).unwrap();
    let dropped = append_kv(&mut cache, &keys, &values, Some(&rotary)).unwrap();
    assert_eq!(dropped.to_vec1::<u32>().unwrap(), [0]);
    let wide = keys.i(0).unwrap().to_dtype(DType::F32).unwrap();
    let (x, y) = (wide.narrow(2, 0, DIM / 2).unwrap(), wide.narrow(2, DIM / 2, DIM / 2).unwrap());
    let of = |all: &Tensor| all.narrow(0, 0, 5).unwrap().unsqueeze(1).unwrap();
    let mul = |a: &Tensor, b: &Tensor| a.broadcast_mul(&of(b)).unwrap();
    let turned =
        [(mul(&x, &cos) - mul(&y, &sin)).unwrap(), (mul(&y, &cos) + mul(&x, &sin)).unwrap()];
    let turned = Tensor::cat(&turned, 2).unwrap();
    let own = cache.keys.i(0).unwrap().narrow(0, 0, 5).unwrap();
    assert!(distance(&own, &turned) < 2e-2);
    let own = cache.values.as_ref().unwrap().i(0).unwrap().narrow(0, 0, 5).unwrap();
    assert_eq!(bits(&own), bits(&values.i(0).unwrap()));
    // Three more have room.
    let dropped = append_kv(&mut cache, &keys, &values, Some(&rotary)).unwrap();
    assert_eq!(dropped.to_vec1::<u32>().unwrap(), [2]);
    assert_eq!(cache.lengths.to_vec1::<u32>().unwrap(), [8]);
}

#[test]
fn tensors_that_do_not_fit_are_refused_in_words() {
    let case = case(DType::BF16, 13);
    let refused = |result: Result<()>| result.unwrap_err().to_string();
    let wide = case.queries.to_dtype(DType::F32).unwrap();
    let segments = [Segment::range(&case.cache, Tokens::ALL)];
    let told = refused(attend(&wide, &segments, &AttendOptions::default()).map(|_| ()));
    assert!(told.contains("expected f32, got bf16") && told.contains("to_dtype"), "{told}");
    let told = refused(attend(&case.queries, &[], &AttendOptions::default()).map(|_| ()));
    assert!(told.contains("1 to 4"), "{told}");
    let few = case.queries.narrow(1, 0, 4).unwrap().contiguous().unwrap();
    let told = refused(attend(&few, &segments, &AttendOptions::default()).map(|_| ()));
    assert!(told.contains("heads"), "{told}");
    let short = case.queries.narrow(2, 0, 16).unwrap().contiguous().unwrap();
    let options = ScoreOptions::default();
    let told = refused(score_rows(&short, &case.cache, &options).map(|_| ()));
    assert!(told.contains("[2, 6, 32]") && told.contains("[2, 6, 16]"), "{told}");
    let table = case.cache.page_table.to_dtype(DType::U32).unwrap();
    let other = KvCache { page_table: table, ..case.cache.clone() };
    let told = refused(score_rows(&case.queries, &other, &options).map(|_| ()));
    assert!(told.contains("page_table: expected i32, got u32"), "{told}");
    let none = KvCache { values: None, ..case.cache.clone() };
    let segments = [Segment::range(&none, Tokens::ALL)];
    let told = refused(attend(&case.queries, &segments, &AttendOptions::default()).map(|_| ()));
    assert!(told.contains("values of a cache"), "{told}");

    // New tokens that are the cache's own: no lock waits for itself.
    let mut cache = case.cache.clone();
    let own = cache.keys.narrow(0, 0, 2).unwrap();
    let told = refused(append_kv(&mut cache, &own, &own, None).map(|_| ()));
    assert!(told.contains("`.copy()?`"), "{told}");
    let mut fused = KvCache { values: Some(case.cache.keys.clone()), ..case.cache.clone() };
    let new = own.copy().unwrap();
    let told = refused(append_kv(&mut fused, &new, &new, None).map(|_| ()));
    assert!(told.contains("one storage"), "{told}");
    // lacuna's own words.
    let long = Tensor::zeros((1, 512, 1, 8), DType::BF16, &Device::Cpu).unwrap();
    let long = KvCache { keys: long, values: None, ..case.cache.clone() };
    assert!(refused(long.layout().map(|_| ())).contains("rows of a page: 512 is outside 1..=256"));
}

#[test]
fn an_empty_batch_has_empty_answers() {
    let cache = KvCache::zeros(0, MOST, HEADS, DIM, PAGE, DType::BF16, &Device::Cpu).unwrap();
    let queries = Tensor::zeros((0, HEADS * GROUP, DIM), DType::BF16, &Device::Cpu).unwrap();
    let segments = [Segment::range(&cache, Tokens::ALL)];
    let attended = attend(&queries, &segments, &AttendOptions::default()).unwrap();
    assert_eq!(attended.outputs.dims(), [0, HEADS * GROUP, DIM]);
    let scores = score_rows(&queries, &cache, &ScoreOptions::default()).unwrap();
    assert_eq!(scores.dims(), [0, HEADS * GROUP, MOST]);
    let votes = vote_rows(&queries, &cache, &VoteOptions::default()).unwrap();
    assert_eq!(votes.dims(), [0, 1, MOST]);
}
