//! The kernels that encode compact groups.

use std::ffi::c_void;

use half::bf16;
use lacuna::huffman::compact::{
    CompactCode, CompactViewsMut, EncodePlan, count_exponents, pack_codes, place_codes, reference,
    upload_code,
};
use lacuna::simt::{Config, Entry};
use lacuna::{Buffer, Element, Queue, ViewMut};

use crate::common::{Random, clustered_weights};
use crate::{Kernel, differs, of};

pub(crate) const PLANES: (&str, &str) =
    ("planes.cuh", include_str!("../../csrc/huffman/planes.cuh"));
pub(crate) const CODES: (&str, &str) = ("codes.cuh", include_str!("../../csrc/huffman/codes.cuh"));
const LAST: (&str, &str) = ("../common/last.cuh", include_str!("../../csrc/common/last.cuh"));

const COUNT: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/count.cu"),
    headers: &[LAST, CODES],
    entry: "count_exponents",
    mutations: &[
        // is_last_block, then the kernel.
        of("__threadfence();", 0, ""),
        of("__threadfence();", 1, ""),
        of("  __syncthreads();", 0, ""),
        of("  __syncthreads();", 1, ""),
        of("atomicAdd(ticket, 1u) == n_blocks - 1", 0, "true"),
        of("atomicAdd(ticket, 1u) == n_blocks - 1", 0, "atomicAdd(ticket, 1u) == 0"),
        of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
        of("  __syncthreads();", 2, ""),
        of("  __syncthreads();", 3, ""),
        of(
            "n_elements - first < most ? static_cast<uint32_t>(n_elements - first) : most",
            0,
            "most",
        ),
        of(
            "atomicAdd(&shared.bins[pair >> 7 & 255][lane], 1u)",
            0,
            "shared.bins[pair >> 7 & 255][lane] += 1",
        ),
        of(
            "atomicAdd(&shared.bins[pair >> 23 & 255][lane], 1u)",
            0,
            "shared.bins[pair >> 23 & 255][lane] += 1",
        ),
        of("pair >> 7 & 255", 0, "pair >> 7 & 127"),
        of("pair >> 7 & 255", 0, "pair >> 7"),
        of("pair >> 23 & 255", 0, "pair >> 23"),
        of("i < kExponents * 32 / 4", 0, "i < kExponents * 32 / 4 - 1"),
        of("uint64_t{blockIdx.x} * kPartWeights", 0, "0"),
        of("kTogether * kCountThreads", 0, "kCountThreads"),
        of("if (at < n_vectors) eights", 0, "eights"),
        of("if (i + k * kCountThreads >= n_vectors) break;", 0, ""),
        of(
            "if (i + k * kCountThreads >= n_vectors) break;",
            0,
            "if (i + k * kCountThreads + 1 >= n_vectors) break;",
        ),
        of("n_vectors * kVector + thread", 0, "thread"),
        of("if (last < n_weights) {", 0, "if (false) {"),
        of("if (last < n_weights) {", 0, "if (last <= n_weights) {"),
        of("if (last < n_weights) {", 0, "{"),
        of(">> 7 & 255][thread % 32], 1u", 0, ">> 7][thread % 32], 1u"),
        of("k < 32; ++k", 0, "k < 31; ++k"),
        of("(k + thread) % 32", 0, "thread % 32"),
        of("uint64_t{blockIdx.x} * kExponents + thread", 0, "thread"),
        of(
            "if (n_own != 0) atomicAdd(&sums[thread], static_cast<unsigned long long>(n_own));",
            0,
            "sums[thread] += n_own;",
        ),
        of(
            "if (n_own != 0) atomicAdd(&sums[thread], static_cast<unsigned long long>(n_own));",
            0,
            "if (n_own > 1) atomicAdd(&sums[thread], static_cast<unsigned long long>(n_own));",
        ),
        of("params.sums + kExponents", 0, "params.sums + kExponents + 1"),
        of("if (!is_last_block(ticket, gridDim.x, shared.is_last)) return;", 0, ""),
        of("sums[thread] = 0;", 0, ""),
    ],
};

const PLACE: Kernel = Kernel {
    entry: "place_codes",
    mutations: &[
        of("__threadfence();", 0, ""),
        of("__threadfence();", 1, ""),
        of("  __syncthreads();", 0, ""),
        of("  __syncthreads();", 1, ""),
        of("atomicAdd(ticket, 1u) == n_blocks - 1", 0, "true"),
        of("if (is_last) atomicExch(ticket, 0u);", 0, ""),
        of("table[32]", 0, "table[0]"),
        of("counts[32]", 0, "counts[0]"),
        of("if (first < params.n_parts) {", 0, "if (first + kWarpParts < params.n_parts) {"),
        of("length > kLongestGroupCode ? 0 : length", 0, "length"),
        of("entry & 63", 0, "entry"),
        of("blockIdx.x * kBlockParts + warp * kWarpParts", 0, "warp * kWarpParts"),
        of("blockIdx.x * kBlockParts + warp * kWarpParts", 0, "blockIdx.x * kBlockParts"),
        of("k < kWarpParts && first + k < params.n_parts", 0, "k < kWarpParts"),
        of("k < kWarpParts && first", 0, "k < kWarpParts - 1 && first"),
        of("uint64_t{first + k} * kExponents) + lane", 0, "uint64_t{first} * kExponents) + lane"),
        of("low.w * lengths[3]", 0, "low.w * lengths[2]"),
        of("high.z * lengths[6]", 0, "high.z * lengths[5]"),
        of("if (lane == 0) params.part_bits", 0, "params.part_bits"),
        of("if (!is_last_block(params.ticket, gridDim.x, shared.is_last)) return;", 0, ""),
        of("chunk += 4 * kPlaceThreads, turn ^= 1", 0, "chunk += 4 * kPlaceThreads"),
        of("chunk + 4 * threadIdx.x", 0, "chunk + threadIdx.x"),
        of("part + k < params.n_parts ? params", 0, "true ? params"),
        of("if (lane == 31) shared", 0, "shared"),
        of("  __syncthreads();", 4, ""),
        of("inclusive - n_own", 0, "inclusive"),
        of("w < warp ? of_warp : 0", 0, "w <= warp ? of_warp : 0"),
        of("if (part + k < params.n_parts) params.starts", 0, "params.starts"),
        of("= begin + before;", 0, "= before;"),
        of("before += bits[k];", 0, ""),
        of("begin += all;", 0, ""),
        of("params.starts[params.n_parts] = begin;", 0, ";"),
        of("if (threadIdx.x == 0) params.starts", 0, "params.starts"),
    ],
    ..COUNT
};

/// Left out is what changes no result: turns without a tile, which write nothing.
const PACK: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/pack_codes.cu"),
    headers: &[PLANES, CODES],
    entry: "pack_codes",
    mutations: &[
        of("  __syncthreads();", 0, ""),
        of("    __syncthreads();", 0, ""),
        of("    __syncwarp();", 0, ""),
        of("    __syncwarp();", 1, ""),
        of(
            "atomicOr(&words[0], own.words[0] >> at % 32)",
            0,
            "words[0] |= own.words[0] >> at % 32",
        ),
        of(
            "atomicOr(&words[1], __funnelshift_r(own.words[1], own.words[0], at))",
            0,
            "words[1] |= __funnelshift_r(own.words[1], own.words[0], at)",
        ),
        // Weights.
        of(
            "n_elements - first < most ? static_cast<uint32_t>(n_elements - first) : most",
            0,
            "most",
        ),
        of("if (first >= n_elements) return 0;", 0, ""),
        of("(entry & 63) > kLongestCode ? 0 : ", 0, ""),
        of("entry & 0xFFF0003Fu", 0, "entry"),
        of("x >> 23 & 255", 0, "x >> 23"),
        of("y >> 7 & 255", 0, "y >> 7"),
        of("kIsWhole || i < n_valid ? table", 0, "true ? table"),
        of("kIsWhole || i < n_valid ? table", 0, "kIsWhole || i <= n_valid ? table"),
        of("n_valid < 4 ? 0 : n_valid - 4", 0, "n_valid - 4"),
        of("kIsWhole || n_valid == kVector) return", 0, "true) return"),
        of("if (i < n_valid) words[i / 2]", 0, "words[i / 2]"),
        of("16 * (i % 2)", 0, "0"),
        of("kIsWhole ? kVector : count_left(n_weights, i, kVector)", 0, "kVector"),
        // Codes.
        of(
            "(entries[0] | entries[1] >> entries[0] % 32) & kPairBits",
            0,
            "entries[0] | entries[1] >> entries[0] % 32",
        ),
        of(
            "(entries[2] | entries[3] >> entries[2] % 32) & kPairBits",
            0,
            "entries[2] | entries[3] >> entries[2] % 32",
        ),
        of("entries[1] >> entries[0] % 32", 0, "entries[1]"),
        of("second >> n_first % 32", 0, "second"),
        of("low = __funnelshift_r(0, second, n_first);", 0, "low = 0;"),
        of("(n_first + entries[2] + entries[3]) % 64", 0, "n_first + entries[2] + entries[3]"),
        of(
            "(n_first + entries[2] + entries[3]) % 64",
            0,
            "(n_first + entries[2] + entries[3]) % 32",
        ),
        of("n >= 32;", 0, "n > 32;"),
        of("n >= 32;", 0, "false;"),
        of("is_far ? 0 : first", 0, "first"),
        of("is_far ? second : third", 0, "third"),
        of("__funnelshift_r(0, low[1], n)", 0, "0"),
        of("if (end > 32) ", 0, "if (end > 40) "),
        of("if (end > 64) ", 0, "if (false) "),
        of("if (end > 96) ", 0, "if (false) "),
        of("second.n << 16", 0, "0"),
        of("inclusive % 65536 - first.n", 0, "inclusive % 65536"),
        of("n_bits += all % 65536;", 0, ""),
        of("inclusive / 65536 - second.n", 0, "inclusive / 65536"),
        of("return n_bits + all / 65536;", 0, "return n_bits;"),
        // Signs and mantissas.
        of("0x80808080u", 0, "0x80808000u"),
        of("0x7F7F7F7Fu", 0, "0xFFFFFFFFu"),
        of("if (n_valid == kVector) {", 0, "if (true) {"),
        of("i < n_valid; ++i", 0, "i < kVector; ++i"),
        of("i < 4 ? rest.x : rest.y", 0, "rest.x"),
        of("if (lane % kGranuleLanes == 0) {", 0, "{"),
        of(
            "(step + k) * 32 / kGranuleLanes + lane / kGranuleLanes",
            0,
            "(step + k) * 32 / kGranuleLanes",
        ),
        of("starts[32 / kGranuleLanes] = begins[1];", 0, ""),
        // What is behind a tile.
        of("count_left(params.n_elements, next, kAheadWeights)", 0, "kAheadWeights"),
        of("count_left(n_ahead, lane * kVector, kVector)", 0, "lane < 4 ? kVector : 0"),
        of("constexpr uint32_t kAheadWeights = 32;", 0, "constexpr uint32_t kAheadWeights = 11;"),
        of("put_ahead(params, shared", 0, "if (false) put_ahead(params, shared"),
        // Words.
        of("static_cast<uint32_t>(0 - start) % 32", 0, "static_cast<uint32_t>(start) % 32"),
        of("start / 32 + (shift != 0)", 0, "start / 32"),
        of("(n_bits + 31 - shift) / 32", 0, "(n_bits - shift) / 32"),
        of("(n_bits + 31 - shift) / 32", 0, "(n_bits + 63 - shift) / 32"),
        of("warp.words[i + 1], warp.words[i], shift", 0, "0, warp.words[i], shift"),
        of("if (at < n_whole) {", 0, "if (true) {"),
        of("if (at < n_whole) {", 0, "if (at <= n_whole) {"),
        of("__byte_perm(word, 0, 0x0123)", 0, "word"),
        of("} else if (at == n_whole) {", 0, "} else {"),
        of("j < params.n_code_bytes % 4", 0, "j < 4"),
        of("24 - 8 * j", 0, "8 * j"),
        // The index.
        of("lane < n_granules) granule_bits", 0, "true) granule_bits"),
        of(
            "static_cast<uint16_t>(bit + warp.starts[lane])",
            0,
            "static_cast<uint16_t>(warp.starts[lane])",
        ),
        of("tile * kTileGranules;", 0, "0;"),
        of("if (lane != 0) return;", 0, ""),
        of("if (tile * kTileWeights + n_weights != params.n_elements) return;", 0, "return;"),
        of("if (tile * kTileWeights + n_weights != params.n_elements) return;", 0, ""),
        of("if (n_granules < kTileGranules) {", 0, "if (true) {"),
        of("static_cast<uint16_t>(bit + n_bits)", 0, "static_cast<uint16_t>(n_bits)"),
        of("params.tile_bytes[tile + 1] = static_cast<uint32_t>(end / 8);", 0, ""),
        of("static_cast<uint16_t>(end % 8)", 0, "0"),
        // Turns.
        of("clear_words(warp, kTileWords);", 0, ""),
        of("clear_words(warp, (n_bits + kAheadWeights * kLongestCode) / 32 + 1);", 0, ""),
        of(
            "clear_words(warp, (n_bits + kAheadWeights * kLongestCode) / 32 + 1);",
            0,
            "clear_words(warp, n_bits / 32);",
        ),
        of("params.starts[blockIdx.x]", 0, "params.starts[0]"),
        of("shared.tile_bits[turn % 2][own] = n_bits;", 0, "shared.tile_bits[0][own] = n_bits;"),
        of("shared.tile_bits[turn % 2][w]", 0, "shared.tile_bits[1][w]"),
        of("w < own ? of_warp : 0", 0, "w <= own ? of_warp : 0"),
        of("begin += of_warp;", 0, ""),
        of("if (n_weights != 0) {\n      write_words", 0, "{\n      write_words"),
        of(
            "kTileWords = (kTileWeights + kAheadWeights) * kLongestCode / 32 + 4",
            0,
            "kTileWords = 1536",
        ),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_count_exponents(params: *const c_void, is_checked: u32);
    fn lacuna_simt_place_codes(params: *const c_void, is_checked: u32);
    fn lacuna_simt_pack_codes(params: *const c_void, is_checked: u32);
}

/// The workspace of weights that were counted, and of which codes, that `upload` puts there, were placed.
pub(crate) fn placed(
    weights: &[u16],
    upload: impl FnOnce(&Queue, &EncodePlan, &mut ViewMut<'_, u64>),
) -> (EncodePlan, Vec<u64>) {
    let queue = &Queue::simt(Config::default());
    let plan = EncodePlan::new(weights.len() as u64).unwrap();
    let source = queue.upload(bytemuck::cast_slice::<u16, bf16>(weights)).unwrap();
    let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
    let mut counts = queue.alloc::<u64>(256).unwrap();
    let (mut space, mut counted) = (workspace.view_mut(), counts.view_mut());
    count_exponents(queue, &plan, &source.view(), &mut space, &mut counted).unwrap();
    upload(queue, &plan, &mut space);
    place_codes(queue, &plan, &mut space).unwrap();
    let words = queue.download(&space.as_view()).unwrap();
    (plan, words)
}

/// Weights and the workspace that a launch finds, by kernels that no mutant replaces.
struct Problem {
    plan: EncodePlan,
    weights: Vec<u16>,
    words: Vec<u64>,
    /// Room for codes.
    n_code_bytes: usize,
}

/// Where a workspace has the table, and what counts of parts there are.
const TABLE: usize = 258;
const PARTS: usize = 514;

impl Problem {
    fn new(weights: Vec<u16>) -> Self {
        let code = CompactCode::new(&reference::count(&weights)).unwrap();
        Self::by(weights, &code)
    }

    fn by(weights: Vec<u16>, code: &CompactCode) -> Self {
        let (plan, words) = placed(&weights, |queue, plan, space| {
            upload_code(queue, plan, code, space).unwrap();
        });
        let n_code_bytes = words.last().unwrap().div_ceil(8) as usize;
        Self { plan, weights, words, n_code_bytes }
    }

    /// Counts of so many parts, without their weights.
    fn of_parts(n_parts: usize) -> Self {
        // Of 9 to 12 bits, and a few exponents have none.
        let lengths = |i: usize| if i % 16 == 5 { 0 } else { [0xA9, 0xCB][(i + i / 64) % 2] };
        let code = CompactCode::of_lengths(&std::array::from_fn(lengths)).unwrap();
        let mut problem = Self::by(clustered_weights(1000, 1), &code);
        problem.plan = EncodePlan::new(65_536 * n_parts as u64).unwrap();
        problem.words.resize(problem.plan.workspace_len() as usize, 0);
        let mut random = Random(5);
        problem.words[PARTS..][..128 * n_parts]
            .fill_with(|| (random.next() % 500) | ((random.next() % 500) << 32));
        problem
    }

    /// A table whose unused bits are set, and with lengths that are none where it has no code.
    fn with_hostile_table(mut self) -> Self {
        for word in &mut self.words[TABLE..PARTS] {
            let hostile =
                |entry: u64| entry | 0xF_FFC0 | if entry & 63 == 0 { 0xFFF0_003F } else { 0 };
            *word = hostile(*word & 0xFFFF_FFFF) | hostile(*word >> 32) << 32;
        }
        self
    }

    fn with_room(self, n_code_bytes: usize) -> Self {
        Self { n_code_bytes, ..self }
    }

    /// What two launches leave, one after the other.
    fn count(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let weights = queue.upload(bytemuck::cast_slice::<u16, bf16>(&self.weights))?;
        let mut workspace = queue.alloc::<u64>(self.words.len())?;
        let mut counts = queue.alloc::<u64>(256)?;
        let mut found = Vec::new();
        for _ in 0..2 {
            let (mut space, mut counted) = (workspace.view_mut(), counts.view_mut());
            count_exponents(queue, &self.plan, &weights.view(), &mut space, &mut counted)?;
            add(&mut found, queue, &counts)?;
            add(&mut found, queue, &workspace)?;
        }
        Ok(found)
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let mut workspace = queue.upload(&self.words)?;
        let mut found = Vec::new();
        for _ in 0..2 {
            place_codes(queue, &self.plan, &mut workspace.view_mut())?;
            add(&mut found, queue, &workspace)?;
        }
        Ok(found)
    }

    fn pack(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let weights = queue.upload(bytemuck::cast_slice::<u16, bf16>(&self.weights))?;
        let mut workspace = queue.upload(&self.words)?;
        let mut codes = queue.alloc::<u8>(self.n_code_bytes)?;
        let mut sign_mantissa = queue.alloc::<u8>(self.weights.len())?;
        let mut tile_bytes = queue.alloc::<u32>(self.plan.tile_bytes_len() as usize)?;
        let mut granule_bits = queue.alloc::<u16>(self.plan.granule_bits_len() as usize)?;
        let mut outputs = CompactViewsMut {
            codes: codes.view_mut(),
            sign_mantissa: sign_mantissa.view_mut(),
            tile_bytes: tile_bytes.view_mut(),
            granule_bits: granule_bits.view_mut(),
        };
        pack_codes(queue, &self.plan, &weights.view(), &workspace.view_mut(), &mut outputs)?;
        let mut found = Vec::new();
        add(&mut found, queue, &codes)?;
        add(&mut found, queue, &sign_mantissa)?;
        add(&mut found, queue, &tile_bytes)?;
        add(&mut found, queue, &granule_bits)?;
        Ok(found)
    }
}

pub(crate) fn add<T: Element>(
    bytes: &mut Vec<u8>,
    queue: &Queue,
    more: &Buffer<T>,
) -> lacuna::Result<()> {
    bytes.extend_from_slice(bytemuck::cast_slice(&queue.download(&more.view())?));
    Ok(())
}

type Launch = fn(&Problem, &Queue) -> lacuna::Result<Vec<u8>>;

fn assert_all_caught(kernel: &Kernel, own: Entry, launch: Launch, problems: &[Problem]) {
    let plain = Queue::simt(Config::default());
    let problems: Vec<_> =
        problems.iter().map(|problem| (problem, launch(problem, &plain).unwrap())).collect();
    kernel.assert_all_caught(own, |entry| {
        problems.iter().any(|(problem, expected)| {
            differs(own, entry, expected, |queue| launch(problem, queue))
        })
    });
}

/// All exponents alike, of both signs, and exponent 0 first.
pub(crate) fn noise(n: usize) -> Vec<u16> {
    let mut random = Random(3);
    (0..n).map(|i| (i as u16) << 7 | (random.next() as u16 & 0x807F)).collect()
}

/// Most of them of a code of one bit.
fn light(n: usize) -> Vec<u16> {
    (0..n).map(|i| if i % 1000 == 7 { 0x4001 + (i as u16 & 0x180) } else { 0x3FFF }).collect()
}

/// Stretches of half, and of one in sixteen, of other exponents than 127.
fn mixed(n: usize) -> Vec<u16> {
    let mut random = Random(4);
    let weight = |i: usize| match random.next() % [16, 2][i / 256 % 2] {
        0 => random.next() as u16,
        _ => 0x3FFF,
    };
    (0..n).map(weight).collect()
}

/// Tiles that begin with other exponents, and then four of nothing else.
fn stepped(n: usize) -> Vec<u16> {
    let mut random = Random(6);
    let weight = |i: usize| match i % 4096 < 64 || i >= 4 * 4096 {
        true => random.next() as u16,
        false => 0x3FFF,
    };
    (0..n).map(weight).collect()
}

#[test]
fn every_mutation_of_count_exponents_is_caught() {
    let problems = [noise(1003), noise(65_536 + 8 * 2048 + 5), light(16)].map(Problem::new);
    assert_all_caught(&COUNT, lacuna_simt_count_exponents, Problem::count, &problems);
}

#[test]
fn every_mutation_of_place_codes_is_caught() {
    let problems = [
        Problem::new(noise(2 * 65_536 + 9)),
        Problem::of_parts(3).with_hostile_table(),
        Problem::of_parts(1029),
    ];
    assert_all_caught(&PLACE, lacuna_simt_place_codes, Problem::place, &problems);
}

#[test]
fn every_mutation_of_pack_codes_is_caught() {
    let of_twelve = CompactCode::of_lengths(&[0xCC; 128]).unwrap();
    let of_one_or_twelve =
        CompactCode::of_lengths(&std::array::from_fn(|i| if i == 63 { 0x1C } else { 0xCC }));
    let of_one_or_twelve = of_one_or_twelve.unwrap();
    let of_few = CompactCode::new(&reference::count(&light(900))).unwrap();
    let problems = [
        Problem::new(noise(1006)),
        Problem::new(noise(4096 + 2)),
        Problem::new(light(4097)),
        Problem::new(light(8192)),
        Problem::new(light(65_536 + 3000)),
        Problem::by(noise(5 * 4096 + 11), &of_twelve),
        Problem::by(mixed(10 * 4096 + 1), &of_one_or_twelve),
        Problem::by(stepped(8 * 4096 + 1), &of_one_or_twelve),
        Problem::by(noise(5000), &of_few).with_hostile_table(),
        Problem::new(noise(5000)).with_room(4003),
    ];
    assert_all_caught(&PACK, lacuna_simt_pack_codes, Problem::pack, &problems);
}
