//! Imported pages in pools, which `dequantize_pages` reads.

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::{Half, Real};
use lacuna::kv::{KvLayout, KvLists, KvShape};
use lacuna::quant::import::{ImportedPages, RowsShape, ZeroForm};
use lacuna::quant::{
    ChannelViews, PageLists, PagesPlan, PagesShape, Part, Tail, Tier, TierPools, dequantize_pages,
};

use super::scheme;
use crate::cache::{Cache, shuffle};
use crate::common::{self, Random};

/// Pages whose tokens have numbers of a cache's rows: `[batch, n_heads, n_tokens]`.
struct Listed<'a> {
    pages: &'a ImportedPages,
    tokens: Vec<i32>,
}

impl<'a> Listed<'a> {
    /// One after the other.
    fn all(pages: &'a ImportedPages) -> Self {
        let rows = pages.rows;
        let tokens = (0..rows.batch * rows.n_heads * rows.n_tokens)
            .map(|at| (at % rows.n_tokens) as i32)
            .collect();
        Self { pages, tokens }
    }
}

/// A cache of `n_tokens`, heads beside each other, that all pages of some lists were written to in one launch: `[batch, n_tokens, n_heads,
/// head_dim]`, 7 where nothing was.
fn dequantize<T: Half + Real>(queue: &Queue, lists: &[Listed<'_>], n_tokens: u64) -> Vec<T> {
    let RowsShape { batch, n_heads, head_dim, .. } = lists[0].pages.rows;
    let (part, tail) = (lists[0].pages.part, lists[0].pages.tail);
    let table_stride = n_tokens.div_ceil(16);
    let kv = KvShape {
        batch,
        n_heads,
        row_len: head_dim,
        n_pages: batch * table_stride,
        page_size: 16,
        table_stride,
        ..KvShape::default()
    };
    let layout = KvLayout::new(kv.nhd()).unwrap();
    // What is a list's own channels, if it is alone, is each page's where lists are joined.
    let is_alone = lists.len() == 1;
    let n_pages: u64 = lists.iter().map(|list| list.pages.n_pages()).sum();
    let mut n_pool_pages = [0; 4];
    let mut pools = [const { Vec::new() }; 4];
    let mut entries = vec![Vec::new(); (batch * n_heads) as usize];
    let mut indices = vec![Vec::new(); (batch * n_heads) as usize];
    let (mut scales, mut offsets) = (entries.clone(), entries.clone());
    let as_bits = |all: Option<&[f32]>, absent: f32| -> Vec<u32> {
        let all = all.map_or(vec![absent; head_dim as usize], <[f32]>::to_vec);
        all.into_iter().map(f32::to_bits).collect()
    };
    for Listed { pages, tokens } in lists {
        let at = pages.tier.tag() as usize;
        // Behind a page of another's.
        let page_bytes = pages.page_shape().unwrap().page_bytes(pages.tier);
        pools[at] = [vec![0xA5; page_bytes], pages.pool.clone()].concat();
        n_pool_pages[at] = pages.pool.len() as u64 / page_bytes as u64 + 1;
        let own = pages.entries(1).unwrap();
        for list in 0..(batch * n_heads) as usize {
            let n = pages.n_pages() as usize;
            entries[list].extend(&own[list * n..(list + 1) * n]);
            let n = pages.rows.n_tokens as usize;
            let mut slots = tokens[list * n..(list + 1) * n].to_vec();
            slots.resize(64 * pages.n_pages() as usize, -1);
            indices[list].extend(slots);
            for p in 0..pages.n_pages() {
                let (b, head) = (list as u64 / n_heads, list as u64 % n_heads);
                let (_, channels) = pages.page(b, head, p);
                scales[list].extend(as_bits(channels.scales, 1.0));
                offsets[list].extend(as_bits(channels.offsets, 0.0));
            }
        }
    }
    let span_pages = if is_alone { lists[0].pages.span_pages } else { 1 };
    let shape = PagesShape {
        lists: KvLists::PerHead,
        n_pool_pages,
        tail,
        ..PagesShape::of(layout, n_pages)
    };
    let plan = PagesPlan::new(PagesShape { span_pages, ..shape }).unwrap();
    let floats =
        |all: &[Vec<u32>]| all.concat().into_iter().map(f32::from_bits).collect::<Vec<_>>();
    let (scales, offsets) = if is_alone {
        (lists[0].pages.scales.clone(), lists[0].pages.offsets.clone())
    } else {
        (Some(floats(&scales)), Some(floats(&offsets)))
    };
    let [scales, offsets] = [scales, offsets].map(|all| all.map(|all| queue.upload(&all).unwrap()));
    let channels = ChannelViews {
        scales: scales.as_ref().map(|all| all.view()),
        offsets: offsets.as_ref().map(|all| all.view()),
    };
    let entries = queue.upload(&entries.concat()).unwrap();
    let nothing = queue.upload(&vec![u32::MAX; plan.entries_len() as usize]).unwrap();
    let indices = queue.upload(&indices.concat()).unwrap();
    let is_keys = part == Part::Keys;
    let lists = PageLists {
        indices: indices.view(),
        counts: None,
        key_entries: if is_keys { entries.view() } else { nothing.view() },
        value_entries: if is_keys { nothing.view() } else { entries.view() },
        key_channels: if is_keys { channels } else { ChannelViews::default() },
        value_channels: if is_keys { ChannelViews::default() } else { channels },
    };
    let before = vec![T::from_f32(7.0); layout.pool_len() as usize];
    let cache = Cache {
        layout,
        rows: [before.clone(), before],
        page_table: (0..layout.table_len() as i32).collect(),
        lengths: vec![n_tokens as u32; batch as usize],
    };
    let mut cache = cache.upload(queue).unwrap();
    let pools = pools.map(|pool| (!pool.is_empty()).then(|| queue.upload(&pool).unwrap()));
    let mut sources = TierPools {
        pools: pools.each_ref().map(|pool| pool.as_ref().map(|p| p.view())),
        status: None,
    };
    dequantize_pages(queue, &plan, &mut sources, &lists, &mut cache.view_mut()).unwrap();
    let [keys, values] = cache.download(queue).unwrap();
    let (found, other) = if is_keys { (keys, values) } else { (values, keys) };
    assert!(other.iter().all(|x| x.to_f32() == 7.0));
    // Requests' pages of 16 are whole.
    let per_request = (table_stride * 16 * n_heads * head_dim) as usize;
    let n = (n_tokens * n_heads * head_dim) as usize;
    found.chunks(per_request).flat_map(|rows| rows[..n].to_vec()).collect()
}

/// `[batch, n_heads, n_tokens, head_dim]` as `[batch, n_tokens, n_heads, head_dim]`, rounded.
fn turned<T: Real>(rows: RowsShape, numbers: &[f32]) -> Vec<u32> {
    let [n_heads, n_tokens, d] = [rows.n_heads, rows.n_tokens, rows.head_dim].map(|n| n as usize);
    let mut turned = Vec::new();
    for request in numbers.chunks(n_heads * n_tokens * d) {
        for t in 0..n_tokens {
            for h in 0..n_heads {
                let row = &request[(h * n_tokens + t) * d..][..d];
                turned.extend(row.iter().map(|x| T::from_f32(*x).to_f32().to_bits()));
            }
        }
    }
    turned
}

#[track_caller]
fn assert_launched<T: Half + Real>(pages: &ImportedPages) {
    let expected = turned::<T>(pages.rows, &pages.dequantize().unwrap());
    for queue in common::queues() {
        let found = dequantize::<T>(&queue, &[Listed::all(pages)], pages.rows.n_tokens);
        assert!(scheme::bits(&found) == expected, "on {}", queue.executor());
    }
}

fn shape(n_tokens: u64, head_dim: u64) -> RowsShape {
    RowsShape { batch: 2, n_heads: 2, n_tokens, head_dim }
}

#[test]
fn each_scheme_is_read_by_the_kernel() {
    let mut random = Random(77);
    for tier in [Tier::T8, Tier::T4, Tier::T2] {
        let (values, _) = scheme::zip_cache_values::<f16>(shape(100, 96), tier, &mut random);
        assert_launched::<f16>(&values.import(Tail::Minimums).unwrap());
        for tail in [Tail::Minimums, Tail::ZeroPoints] {
            let (keys, _) = scheme::zip_cache_keys::<f16>(shape(70, 64), tier, &mut random);
            assert_launched::<f16>(&keys.import(tail).unwrap());
            let (keys, _) = scheme::kivi_keys::<f16>(shape(256, 64), tier, 128, &mut random);
            assert_launched::<bf16>(&keys.import(tail).unwrap());
        }
        let (values, _) = scheme::kivi_values::<f32>(shape(70, 128), tier, 128, &mut random);
        assert_launched::<f16>(&values.import(Tail::Minimums).unwrap());
    }
    let (rows, _) = scheme::int8::<f32>(shape(65, 32), &mut random);
    assert_launched::<bf16>(&rows.import(Part::Keys, Tail::Minimums).unwrap());
    let (rows, _) = scheme::int8::<bf16>(shape(65, 32), &mut random);
    assert_launched::<bf16>(&rows.import(Part::Keys, Tail::ZeroPoints).unwrap());
    let (rows, _) = scheme::int4::<f32>(shape(65, 256), ZeroForm::InScales, &mut random);
    assert_launched::<bf16>(&rows.import(Part::Values, Tail::Minimums).unwrap());
}

/// Heads of a group's channels are the same memory as heads of all, where heads stand beside each other.
#[test]
fn groups_of_channels_fill_whole_heads() {
    let mut random = Random(32);
    let shape = shape(70, 128);
    let (values, expected) = scheme::kivi_values::<f16>(shape, Tier::T2, 32, &mut random);
    let pages = values.import(Tail::Minimums).unwrap();
    let queue = &common::queues()[0];
    let found = dequantize::<f16>(queue, &[Listed::all(&pages)], 70);
    // Zeros are positive.
    let expected: Vec<f32> = expected.into_iter().map(|x| x + 0.0).collect();
    assert!(scheme::bits(&found) == turned::<f16>(shape, &expected));
}

/// Tokens that matter with four bits and the others with two, in one launch, each where the scheme's numbers of tokens say.
#[test]
fn two_pools_of_zip_cache_are_one_cache() {
    let mut random = Random(60);
    let n_tokens = 150_u64;
    let (n_important, n_rest) = (90, 60);
    let (important, rest) = (shape(n_important, 64), shape(n_rest, 64));
    let (four, mut of_four) = scheme::zip_cache_values::<f16>(important, Tier::T4, &mut random);
    let (mut two, _) = scheme::zip_cache_values::<f16>(rest, Tier::T2, &mut random);
    // The scales of channels are all tokens'.
    two.channel_scales = four.channel_scales.clone();
    let (four, two) = (four.import(Tail::Minimums).unwrap(), two.import(Tail::Minimums).unwrap());
    // Head by head other tokens matter.
    let mut ids = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        let mut all: Vec<i32> = (0..n_tokens as i32).collect();
        shuffle(&mut all, &mut random);
        ids[0].extend(&all[..n_important as usize]);
        ids[1].extend(&all[n_important as usize..]);
    }
    of_four.iter_mut().for_each(|x| *x += 0.0);
    let of_two = two.dequantize().unwrap();
    let all = RowsShape { n_tokens, ..important };
    let mut expected = vec![0.0; (4 * n_tokens * 64) as usize];
    for (ids, numbers, n) in [(&ids[0], &of_four, n_important), (&ids[1], &of_two, n_rest)] {
        for (i, token) in ids.iter().enumerate() {
            let to = (i / n as usize * n_tokens as usize + *token as usize) * 64;
            expected[to..to + 64].copy_from_slice(&numbers[64 * i..64 * (i + 1)]);
        }
    }
    let [ids_of_four, ids_of_two] = ids;
    let lists =
        [Listed { pages: &four, tokens: ids_of_four }, Listed { pages: &two, tokens: ids_of_two }];
    for queue in common::queues() {
        let found = dequantize::<f16>(&queue, &lists, n_tokens);
        assert!(scheme::bits(&found) == turned::<f16>(all, &expected), "on {}", queue.executor());
    }
}
