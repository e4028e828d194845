//! Pages of 16, 8, 4 and 2 bits, against lacuna's own pages and against attention over what they stand for.

mod common;

use candle_core::{D, DType, Device, IndexOp, Tensor};
use common::{Random, bits};
use half::bf16;
use lacuna_candle::lacuna::attention::Tokens;
use lacuna_candle::lacuna::quant::reference::{Channels, measure};
use lacuna_candle::lacuna::quant::{EntryTable, Page, PageShape, Part, Tier};
use lacuna_candle::{
    AttendOptions, ChannelTensors, KvCache, Segment, TieredPages, append_kv, attend, attend_tiered,
    measure_channels, quantize_pages,
};

const BATCH: usize = 2;
const HEADS: usize = 2;
const GROUP: usize = 3;
const DIM: usize = 64;
/// Of the first request, of which two pages of each head are quantized; the second has one and a half.
const LENGTHS: [u32; BATCH] = [150, 100];
const PAGES: usize = 2;

struct Case {
    cache: KvCache,
    queries: Tensor,
    /// `[batch, heads, pages, 64]`.
    indices: Vec<i32>,
}

fn case(seed: u64) -> Case {
    let mut random = Random(seed);
    let mut cache = KvCache::zeros(BATCH, 160, HEADS, DIM, 16, DType::BF16, &Device::Cpu).unwrap();
    let mut new = || random.tensor(&[BATCH, 150, HEADS, DIM], 0.8).to_dtype(DType::BF16).unwrap();
    append_kv(&mut cache, &new(), &new(), None).unwrap();
    cache.lengths = Tensor::new(&LENGTHS, &Device::Cpu).unwrap();
    let queries = random.tensor(&[BATCH, HEADS * GROUP, DIM], 0.8).to_dtype(DType::BF16).unwrap();
    // The first request's heads have other tokens in other places; of the second 30 of each head's last page.
    let of = |b: usize, head: usize, slot: usize| match (b, head) {
        (0, 0) => slot as i32,
        (0, _) => 127 - slot as i32,
        _ if slot >= 94 => -1,
        _ => slot as i32,
    };
    let indices = (0..BATCH * HEADS * PAGES * 64)
        .map(|i| of(i / (64 * PAGES * HEADS), i / (64 * PAGES) % HEADS, i % (64 * PAGES)))
        .collect();
    Case { cache, queries, indices }
}

impl Case {
    fn indices(&self) -> Tensor {
        Tensor::from_slice(&self.indices, (BATCH, HEADS, PAGES, 64), &Device::Cpu).unwrap()
    }

    /// All pages in one tier, keys and values in turn.
    fn pages(&self, tier: Tier) -> TieredPages {
        let n = 2 * BATCH * HEADS * PAGES;
        let mut n_pool_pages = [0; 4];
        n_pool_pages[tier.tag() as usize] = n;
        let mut pages = TieredPages::new(&self.cache, PAGES, n_pool_pages).unwrap();
        let entries = |first: usize| {
            let entry = |i: usize| TieredPages::entry(tier, (first + 2 * i) as u32);
            let entries: Vec<u32> = (0..n / 2).map(entry).collect();
            Tensor::from_vec(entries, (BATCH, HEADS, PAGES), &Device::Cpu).unwrap()
        };
        (pages.key_entries, pages.value_entries) = (entries(0), entries(1));
        pages.counts = Some(Tensor::new(&[[128_u32; 2], [94; 2]], &Device::Cpu).unwrap());
        pages
    }

    /// A row of the cache.
    fn row(&self, pool: &Tensor, b: usize, t: usize, head: usize) -> Vec<bf16> {
        // Pages of a request are one after the other.
        let row = pool.i((b * 10 + t / 16, t % 16, head)).unwrap();
        row.to_vec1().unwrap()
    }

    fn pool(&self, part: Part) -> &Tensor {
        match part {
            Part::Keys => &self.cache.keys,
            Part::Values => self.cache.values.as_ref().unwrap(),
        }
    }
}

fn f32s(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

#[test]
fn pools_hold_lacunas_own_pages() {
    let case = case(1);
    let scales = Random(2).tensor(&[BATCH, HEADS, 1, DIM], 0.1).abs().unwrap();
    let scales = (scales + 0.5).unwrap();
    let offsets = Random(3).tensor(&[BATCH, HEADS, 1, DIM], 0.2);
    for tier in Tier::ALL {
        let mut pages = case.pages(tier);
        pages.key_channels =
            ChannelTensors { scales: Some(scales.clone()), offsets: Some(offsets.clone()) };
        quantize_pages(&case.cache, &case.indices(), &pages).unwrap();
        assert_eq!(pages.missing().unwrap(), None);
        let pool = pages.pools[tier.tag() as usize].as_ref().unwrap().to_vec2::<u8>().unwrap();
        for i in 0..BATCH * HEADS * PAGES {
            let (b, head) = (i / PAGES / HEADS, i / PAGES % HEADS);
            for part in [Part::Keys, Part::Values] {
                let shape = PageShape::new(DIM as u64, part).unwrap();
                let rows: Vec<_> = case.indices[64 * i..64 * i + 64]
                    .iter()
                    .map(|t| (*t >= 0).then(|| case.row(case.pool(part), b, *t as usize, head)))
                    .collect();
                let own = |all: &Tensor| f32s(&all.i((b, head, 0)).unwrap());
                let (scales, offsets) = (own(&scales), own(&offsets));
                let channels = match part {
                    Part::Keys => Channels { scales: Some(&scales), offsets: Some(&offsets) },
                    Part::Values => Channels::default(),
                };
                let rows = rows.iter().map(Option::as_deref);
                let page = Page::quantize(shape, tier, rows, &channels).unwrap();
                assert_eq!(pool[2 * i + part as usize], page.bytes(), "{tier:?} {i} {part:?}");
            }
        }
    }
}

#[test]
fn attention_over_pages_is_that_over_what_they_stand_for() {
    let case = case(4);
    let window = [Segment::range(&case.cache, Tokens::last(6))];
    let offsets = Random(7).tensor(&[BATCH, HEADS, 1, DIM], 0.2);
    for (tier, is_exact) in Tier::ALL.into_iter().flat_map(|tier| [(tier, false), (tier, true)]) {
        // Weights of numbers are rounded to bf16 by devices, and of codes to 15 bits.
        let near = if is_exact { 2e-2 } else { 2e-5 };
        let options =
            AttendOptions { dtype: Some(DType::F32), is_exact, ..AttendOptions::default() };
        let mut pages = case.pages(tier);
        pages.value_channels.offsets = Some(offsets.clone());
        quantize_pages(&case.cache, &case.indices(), &pages).unwrap();
        let attended = attend_tiered(&case.queries, &pages, &window, &options).unwrap();
        assert_eq!(attended.outputs.dims(), case.queries.dims());
        let pool = pages.pools[tier.tag() as usize].as_ref().unwrap().to_vec2::<u8>().unwrap();
        for b in 0..BATCH {
            for q in 0..HEADS * GROUP {
                let head = q / GROUP;
                let stands_for = |part: Part| {
                    let shape = PageShape::new(DIM as u64, part).unwrap();
                    let n = [128, 94][b];
                    let mut rows: Vec<f32> = Vec::new();
                    let own = f32s(&offsets.i((b, head, 0)).unwrap());
                    let offsets = (part == Part::Values).then_some(&own[..]);
                    let channels = Channels { scales: None, offsets };
                    for slot in 0..n {
                        let i = 2 * ((b * HEADS + head) * PAGES + slot / 64) + part as usize;
                        let page = Page::from_bytes(shape, tier, pool[i].clone()).unwrap();
                        rows.extend(page.dequantize::<bf16>(slot % 64, &channels));
                    }
                    for t in LENGTHS[b] as usize - 6..LENGTHS[b] as usize {
                        let row = case.row(case.pool(part), b, t, head);
                        rows.extend(row.iter().map(|x| x.to_f32()));
                    }
                    Tensor::from_vec(rows, (n + 6, DIM), &Device::Cpu).unwrap()
                };
                let (keys, values) = (stands_for(Part::Keys), stands_for(Part::Values));
                let query = case.queries.i((b, q)).unwrap().to_dtype(DType::F32).unwrap();
                let logits = query.unsqueeze(0).unwrap().matmul(&keys.t().unwrap()).unwrap();
                let logits = (logits / (DIM as f64).sqrt()).unwrap();
                let log_sum = logits.log_sum_exp(D::Minus1).unwrap();
                let weights = logits.broadcast_sub(&log_sum.unsqueeze(1).unwrap()).unwrap();
                let output = weights.exp().unwrap().matmul(&values).unwrap().squeeze(0).unwrap();
                let off = (attended.outputs.i((b, q)).unwrap() - output).unwrap().abs().unwrap();
                let off = off.max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < near, "{tier:?} {is_exact} {b} {q}: {off}");
                let own = attended.log_sums.i((b, q)).unwrap().to_scalar::<f32>().unwrap();
                let off = own - log_sum.to_vec1::<f32>().unwrap()[0];
                let near = if is_exact { 5e-3 } else { 1e-5 };
                assert!(off.abs() < near, "{tier:?} {is_exact} {b} {q}: {off}");
            }
        }
    }
}

#[test]
fn fewer_bits_are_further_from_attention_over_numbers() {
    let case = case(5);
    let options = AttendOptions { dtype: Some(DType::F32), ..AttendOptions::default() };
    // The same tokens by their numbers.
    let indices: Vec<i32> = case.indices.clone();
    let indices = Tensor::from_vec(indices, (BATCH, HEADS, PAGES * 64), &Device::Cpu).unwrap();
    let segments = [
        Segment::blocks(&case.cache, &indices, None, 1),
        Segment::range(&case.cache, Tokens::last(6)),
    ];
    let exact = attend(&case.queries, &segments, &options).unwrap();
    let mut last = 0.0;
    for (tier, most) in [(Tier::T16, 1e-5), (Tier::T8, 1e-2), (Tier::T4, 0.15), (Tier::T2, 0.8)] {
        let pages = case.pages(tier);
        quantize_pages(&case.cache, &case.indices(), &pages).unwrap();
        let attended = attend_tiered(&case.queries, &pages, &segments[1..], &options).unwrap();
        let norm = |all: &Tensor| f32s(all).iter().map(|x| x * x).sum::<f32>().sqrt();
        let off = (&attended.outputs - &exact.outputs).unwrap();
        let off = norm(&off) / norm(&exact.outputs);
        assert!(off < most && (off > last || tier == Tier::T16), "{tier:?}: {off} after {last}");
        last = off;
    }
}

#[test]
fn pages_that_are_not_there_are_passed_over_and_told() {
    let case = case(6);
    let mut pages = case.pages(Tier::T4);
    quantize_pages(&case.cache, &case.indices(), &pages).unwrap();
    let before = bits(pages.pools[2].as_ref().unwrap());
    // One past its pool, and one of no page, which is not told.
    let mut entries = pages.value_entries.flatten_all().unwrap().to_vec1::<u32>().unwrap();
    entries[1] = TieredPages::NO_PAGE;
    entries[3] = TieredPages::entry(Tier::T4, 99);
    pages.value_entries = Tensor::from_vec(entries, (BATCH, HEADS, PAGES), &Device::Cpu).unwrap();
    let window = [Segment::range(&case.cache, Tokens::last(6))];
    let attended =
        attend_tiered(&case.queries, &pages, &window, &AttendOptions::default()).unwrap();
    assert!(f32s(&attended.outputs).iter().all(|x| x.is_finite()));
    let missing = pages.missing().unwrap().unwrap();
    assert_eq!((missing.table, missing.entry), (EntryTable::Values, 3));
    quantize_pages(&case.cache, &case.indices(), &pages).unwrap();
    assert_eq!(bits(pages.pools[2].as_ref().unwrap()), before);

    let refused = quantize_pages(&case.cache, &case.indices().narrow(2, 0, 1).unwrap(), &pages);
    assert!(refused.unwrap_err().to_string().contains("[2, 2, 2, 64]"));
    let wrong = TieredPages {
        pools: [None, None, Some(Tensor::zeros((4, 100), DType::U8, &Device::Cpu).unwrap()), None],
        ..pages
    };
    let refused = quantize_pages(&case.cache, &case.indices(), &wrong).unwrap_err().to_string();
    assert!(refused.contains("pool of pages: expected [4, 2304], got [4, 100]"), "{refused}");
}

#[test]
fn channels_are_lacunas_own_and_lose_less() {
    let case = case(8);
    // Channels of keys that are far from the others, in size and from 0.
    let scales =
        Tensor::from_iter((0..DIM).map(|c| if c % 16 == 0 { 8_f32 } else { 1.0 }), &Device::Cpu);
    let cache = KvCache {
        keys: {
            let wide = case.cache.keys.to_dtype(DType::F32).unwrap();
            let wide = (wide + 1.0).unwrap().broadcast_mul(&scales.unwrap()).unwrap();
            wide.to_dtype(DType::BF16).unwrap()
        },
        ..case.cache.clone()
    };
    let case = Case { cache, ..case };
    let mut pages = case.pages(Tier::T4);
    let options = AttendOptions { dtype: Some(DType::F32), ..AttendOptions::default() };
    let indices = Tensor::from_slice(&case.indices, (BATCH, HEADS, 128), &Device::Cpu).unwrap();
    let exact = [Segment::blocks(&case.cache, &indices, None, 1)];
    let exact = attend(&case.queries, &exact, &options).unwrap();
    let none = [Segment::range(&case.cache, Tokens::last(0))];
    let mut errors = Vec::new();
    for is_measured in [false, true] {
        if is_measured {
            measure_channels(&case.cache, &case.indices(), &mut pages).unwrap();
        }
        quantize_pages(&case.cache, &case.indices(), &pages).unwrap();
        let attended = attend_tiered(&case.queries, &pages, &none, &options).unwrap();
        let off = (attended.outputs - &exact.outputs).unwrap().sqr().unwrap();
        errors.push(off.mean_all().unwrap().to_scalar::<f32>().unwrap());
    }
    assert!(errors[1] < 0.5 * errors[0], "{errors:?}");
    for (b, head) in [(0, 1), (1, 0)] {
        let list = &case.indices[128 * (b * HEADS + head)..][..128];
        for (part, channels) in
            [(Part::Keys, &pages.key_channels), (Part::Values, &pages.value_channels)]
        {
            let row = |t: &i32| (*t >= 0).then(|| case.row(case.pool(part), b, *t as usize, head));
            let rows: Vec<_> = list.iter().map(row).collect();
            let rows: Vec<_> = rows.iter().map(Option::as_deref).collect();
            let expected = measure(&rows, DIM, part == Part::Keys);
            let own = |all: &Option<Tensor>| {
                all.as_ref().map_or(Vec::new(), |all| f32s(&all.i((b, head, 0)).unwrap()))
            };
            assert_eq!(own(&channels.scales), expected.scales, "{part:?}");
            assert_eq!(own(&channels.offsets), expected.offsets, "{part:?}");
        }
    }
}
