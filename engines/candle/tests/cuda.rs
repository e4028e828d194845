//! What the CPU gives, CUDA gives: bit for bit where lacuna says so. For days with a GPU: `cargo test -p lacuna-candle --features cuda`.

mod common;

use candle_core::{DType, Device, IndexOp, Module, Result, Tensor};
use common::{HIDDEN, INNER, Random, VOCAB, bits, model, open};
use lacuna_candle::lacuna::attention::Tokens;
use lacuna_candle::lacuna::huffman::Format;
use lacuna_candle::lacuna::quant::{EntryTable, Tier, Turn};
use lacuna_candle::lacuna::select::{GroupReduction, ScoreKind, Summary};
use lacuna_candle::{
    AttendOptions, Attended, KvCache, Rotary, ScoreOptions, Segment, TieredPages, TopkOptions,
    VoteOptions, append_kv, attend, attend_tiered, box_cache, measure_channels, quantize_pages,
    score_rows, summarize, topk_rows, vote_rows, warm_up,
};

const BATCH: usize = 2;
const HEADS: usize = 2;
const GROUP: usize = 3;
const DIM: usize = 64;
const PAGE: usize = 16;
const N: usize = 150;

/// A stream that all threads share.
fn device() -> Device {
    let device = Device::new_cuda_with_stream(0).expect("a CUDA device");
    warm_up(&device).unwrap();
    device
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let wide = |all: &Tensor| all.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    let off = (wide(a) - wide(b)).unwrap().abs().unwrap();
    off.max_all().unwrap().to_scalar().unwrap()
}

fn host(all: &Tensor) -> Vec<u32> {
    bits(&all.to_device(&Device::Cpu).unwrap())
}

#[test]
fn layers_are_those_of_bf16() {
    let (folder, device) = (tempfile::tempdir().unwrap(), device());
    let tensors = model();
    let mut random = Random(1);
    for format in Format::ALL.map(Some).into_iter().chain([None]) {
        let weights = open(folder.path(), format, &device).unwrap();
        for (path, in_dim, out_dim) in [
            ("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
            ("model.layers.0.mlp.down_proj", INNER, HIDDEN),
            ("model.layers.1.mlp.up_proj", HIDDEN, INNER),
            ("lm_head", HIDDEN, VOCAB),
        ] {
            let linear = weights.linear(in_dim, out_dim, path).unwrap();
            let weight = tensors[&format!("{path}.weight")].to_device(&device).unwrap();
            let bias = linear.bias().cloned();
            for (dtype, n) in [(DType::F32, 3), (DType::BF16, 1), (DType::BF16, 70)] {
                let x = random.tensor(&[n, in_dim], 1.0).to_dtype(dtype).unwrap();
                let x = x.to_device(&device).unwrap();
                let y = linear.forward(&x).unwrap();
                let plain = x.matmul(&weight.to_dtype(dtype).unwrap().t().unwrap()).unwrap();
                let plain = match &bias {
                    Some(bias) => plain.broadcast_add(&bias.to_dtype(dtype).unwrap()).unwrap(),
                    None => plain,
                };
                // Lanes that are multiplied as they lie have another order of sums.
                match format {
                    Some(Format::Lane) if dtype == DType::BF16 => {
                        assert!(distance(&y, &plain) < 0.05, "{path} {n}");
                    }
                    _ => assert_eq!(host(&y), host(&plain), "{format:?} {path} {dtype:?} {n}"),
                }
            }
            let none = Tensor::zeros((0, in_dim), DType::BF16, &device).unwrap();
            assert_eq!(linear.forward(&none).unwrap().dims(), [0, out_dim]);
        }
        let embedding = weights.embedding(VOCAB, HIDDEN, "model.embed_tokens").unwrap();
        let ids = Tensor::new(&[[0_u32, 332, 17], [16, 17, 128]], &device).unwrap();
        let expected = tensors["model.embed_tokens.weight"]
            .index_select(&ids.to_device(&Device::Cpu).unwrap().flatten_all().unwrap(), 0)
            .unwrap();
        assert_eq!(host(&embedding.forward(&ids).unwrap()), bits(&expected), "{format:?}");
        let turned = ids.t().unwrap();
        assert_eq!(embedding.forward(&turned).unwrap().dims(), [3, 2, HIDDEN]);
        for (name, tensor) in &tensors {
            assert_eq!(host(&weights.tensor(name).unwrap()), bits(tensor), "{format:?} {name}");
        }
        weights.check().unwrap();
    }
}

/// The same cache and queries on the CPU and on a device, tokens turned as they are appended.
fn caches(device: &Device) -> ([KvCache; 2], [Tensor; 2]) {
    let mut random = Random(3);
    let mut new = |dims: &[usize]| random.tensor(dims, 0.8).to_dtype(DType::BF16).unwrap();
    let [keys, values] = [(); 2].map(|()| new(&[BATCH, N, HEADS, DIM]));
    let queries = new(&[BATCH, HEADS * GROUP, DIM]);
    let angles = Random(4).tensor(&[256, DIM / 2], 3.0);
    let cos_sin = Tensor::cat(&[angles.cos().unwrap(), angles.sin().unwrap()], 1).unwrap();
    let on = |device: &Device| {
        let at = |tensor: &Tensor| tensor.to_device(device).unwrap();
        let mut cache = KvCache::zeros(BATCH, 160, HEADS, DIM, PAGE, DType::BF16, device).unwrap();
        let rotary = Rotary { turn: Turn::Halves, cos_sin: at(&cos_sin) };
        let dropped = append_kv(&mut cache, &at(&keys), &at(&values), Some(&rotary)).unwrap();
        assert_eq!(host(&dropped), [0; BATCH]);
        cache.lengths = Tensor::new(&[150_u32, 100], device).unwrap();
        (cache, at(&queries))
    };
    let [(cpu, cpu_queries), (cuda, cuda_queries)] = [on(&Device::Cpu), on(device)];
    ([cpu, cuda], [cpu_queries, cuda_queries])
}

fn same(what: &str, of: impl Fn(usize) -> Result<Tensor>) {
    let [cpu, cuda] = [of(0).unwrap(), of(1).unwrap()];
    assert_eq!((cpu.dims(), cpu.dtype()), (cuda.dims(), cuda.dtype()), "{what}");
    assert_eq!(host(&cuda), bits(&cpu), "{what}");
}

/// Of tensor cores that have another model than Hopper's, near; else the same.
fn same_attention(what: &str, of: impl Fn(usize) -> Result<Attended>) {
    let [cpu, cuda] = [of(0).unwrap(), of(1).unwrap()];
    assert!(distance(&cuda.outputs, &cpu.outputs) < 2e-2, "{what}");
    assert!(distance(&cuda.log_sums, &cpu.log_sums) < 1e-4, "{what}");
    let info = lacuna_candle::lacuna::Device::open(0).unwrap();
    if matches!(info.info().capability, (9 | 10, 0)) {
        assert_eq!(host(&cuda.outputs), bits(&cpu.outputs), "{what}");
        assert_eq!(host(&cuda.log_sums), bits(&cpu.log_sums), "{what}");
    }
}

#[test]
fn caches_selection_and_attention_have_the_cpus_bits() {
    let device = device();
    let (caches, queries) = caches(&device);
    same("keys", |i| Ok(caches[i].keys.clone()));
    same("values", |i| Ok(caches[i].values.clone().unwrap()));
    same("scores", |i| score_rows(&queries[i], &caches[i], &ScoreOptions::default()));
    same("votes", |i| vote_rows(&queries[i], &caches[i], &VoteOptions::default()));
    let options = |i: usize| TopkOptions {
        n_first: 4,
        n_last: 8,
        lengths: Some(&caches[i].lengths),
        ..TopkOptions::largest(40)
    };
    let picks = |i: usize| {
        let votes = vote_rows(&queries[i], &caches[i], &VoteOptions::default())?;
        topk_rows(&votes.squeeze(1)?, &options(i))
    };
    same("indices", |i| Ok(picks(i)?.indices));
    same("counts", |i| Ok(picks(i)?.counts));
    let boxes = |i: usize| {
        let mut boxes = box_cache(&caches[i])?;
        summarize(&caches[i], &mut boxes, Summary::Box, None)?;
        Ok::<_, candle_core::Error>(boxes)
    };
    same("boxes", |i| Ok(boxes(i)?.keys));
    let by_box = ScoreOptions { kind: ScoreKind::Box, reduction: GroupReduction::Max };
    same("bounds", |i| score_rows(&queries[i], &boxes(i)?, &by_box));

    let exact = AttendOptions { dtype: Some(DType::F32), is_exact: true, ..Default::default() };
    same_attention("all", |i| {
        attend(&queries[i], &[Segment::range(&caches[i], Tokens::ALL)], &exact)
    });
    same_attention("picks", |i| {
        let picks = picks(i)?;
        let segment = Segment::blocks(&caches[i], &picks.indices, Some(&picks.counts), 1);
        attend(&queries[i], &[segment], &exact)
    });
    // Offsets and strides: the second half of a wider tensor, heads before tokens.
    same_attention("layouts", |i| {
        let turned = |pool: &Tensor| pool.transpose(1, 2)?.contiguous()?.transpose(1, 2);
        let cache = KvCache {
            keys: turned(&caches[i].keys)?,
            values: caches[i].values.as_ref().map(turned).transpose()?,
            ..caches[i].clone()
        };
        let wide = Tensor::cat(&[&queries[i], &queries[i]], 1)?;
        let queries = wide.narrow(1, HEADS * GROUP, HEADS * GROUP)?;
        attend(&queries, &[Segment::range(&cache, Tokens::ALL)], &exact)
    });
}

#[test]
fn tiered_pages_have_the_cpus_bytes_and_bits() {
    let device = device();
    let (caches, queries) = caches(&device);
    let exact = AttendOptions { dtype: Some(DType::F32), is_exact: true, ..Default::default() };
    let n = 2 * BATCH * HEADS * 2;
    for tier in Tier::ALL {
        let all = |i: usize| {
            let device = caches[i].keys.device();
            let mut n_pool_pages = [0; 4];
            n_pool_pages[tier.tag() as usize] = n;
            let mut pages = TieredPages::new(&caches[i], 2, n_pool_pages).unwrap();
            let entries = |first: u32| {
                let entry = |i: u32| TieredPages::entry(tier, first + 2 * i);
                let entries: Vec<u32> = (0..n as u32 / 2).map(entry).collect();
                Tensor::from_vec(entries, (BATCH, HEADS, 2), device).unwrap()
            };
            (pages.key_entries, pages.value_entries) = (entries(0), entries(1));
            let tokens: Vec<i32> = (0..BATCH * HEADS).flat_map(|_| 0..128).collect();
            let indices = Tensor::from_vec(tokens, (BATCH, HEADS, 2, 64), device).unwrap();
            measure_channels(&caches[i], &indices, &mut pages).unwrap();
            quantize_pages(&caches[i], &indices, &pages).unwrap();
            pages
        };
        same("scales", |i| Ok(all(i).key_channels.scales.unwrap()));
        same("offsets", |i| Ok(all(i).key_channels.offsets.unwrap()));
        same("pool", |i| Ok(all(i).pools[tier.tag() as usize].clone().unwrap()));
        same_attention("tiers", |i| {
            let pages = all(i);
            let window = Segment::range(&caches[i], Tokens::last(6));
            let attended = attend_tiered(&queries[i], &pages, &[window], &exact)?;
            assert_eq!(pages.missing()?, None);
            Ok(attended)
        });
    }
    let mut pages = TieredPages::new(&caches[1], 1, [0, 0, 1, 0]).unwrap();
    pages.key_entries =
        Tensor::full(TieredPages::entry(Tier::T4, 7), (BATCH, HEADS, 1), &device).unwrap();
    let window = [Segment::range(&caches[1], Tokens::last(6))];
    attend_tiered(&queries[1], &pages, &window, &exact).unwrap();
    let missing = pages.missing().unwrap().unwrap();
    assert_eq!((missing.table, missing.entry), (EntryTable::Keys, 0));
}

#[test]
fn what_wide_loads_cannot_read_is_refused_with_the_way_out() {
    let device = device();
    let (caches, queries) = caches(&device);
    let flat = queries[1].flatten_all().unwrap();
    let odd = Tensor::cat(&[&flat.narrow(0, 0, 1).unwrap(), &flat], 0).unwrap();
    let odd = odd.narrow(0, 1, flat.elem_count()).unwrap();
    let odd = odd.reshape((BATCH, HEADS * GROUP, DIM)).unwrap();
    let segments = [Segment::range(&caches[1], Tokens::ALL)];
    let refused = attend(&odd, &segments, &AttendOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("16 bytes") && refused.contains("`.copy()?`"), "{refused}");
    let mixed = [Segment::range(&caches[0], Tokens::ALL)];
    let refused = attend(&queries[1], &mixed, &AttendOptions::default()).unwrap_err().to_string();
    assert!(refused.contains("is on"), "{refused}");
    assert_eq!(queries[1].i(0).unwrap().dims(), [HEADS * GROUP, DIM]);
}

/// Each thread has another default stream: weights stay where they were opened.
#[test]
fn weights_of_a_threads_own_stream_stay_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::new_cuda(0).expect("a CUDA device");
    let weights = open(folder.path(), Some(Format::Df11), &device).unwrap();
    let linear = weights.linear(HIDDEN, VOCAB, "lm_head").unwrap();
    let x = Tensor::zeros((1, HIDDEN), DType::BF16, &device).unwrap();
    linear.forward(&x).unwrap();
    let elsewhere = std::thread::spawn(move || linear.forward(&x).map(|_| ()));
    let refused = elsewhere.join().unwrap().unwrap_err().to_string();
    assert!(refused.contains("new_cuda_with_stream"), "{refused}");
}
