//! The kernel that packs DF11 groups.

use std::ffi::c_void;

use half::bf16;
use lacuna::Queue;
use lacuna::huffman::compact::{EncodePlan, reference};
use lacuna::huffman::{Codebook, DeviceGroup, pack_group, upload_codebook};
use lacuna::simt::Config;

use crate::common::Random;
use crate::encode::{CODES, PLANES, add, noise, placed};
use crate::{Kernel, differs, of};

/// Left out is what changes no result: a last turn of whole eights, packed as what is not; and gaps after those that a turn has of the
/// part before, which a later turn writes again.
const PACK: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/pack_group.cu"),
    headers: &[CODES, PLANES],
    entry: "pack_group",
    mutations: &[
        // The two of a turn, and the one before all.
        of("  __syncthreads();", 0, ""),
        of("  __syncthreads();", 1, ""),
        of("  __syncthreads();", 2, ""),
        // Tables, and weights.
        of(
            "n_elements - first < most ? static_cast<uint32_t>(n_elements - first) : most",
            0,
            "most",
        ),
        of("if (first >= n_elements) return 0;", 0, ""),
        of("length > kLongestGroupCode ? 0 : length", 0, "length"),
        of(
            "length > kLongestGroupCode ? 0 : length",
            0,
            "length >= kLongestGroupCode ? 0 : length",
        ),
        of("entry & 63;", 0, "entry;"),
        of("(entry & kQuickBits) | length_of(entry)", 0, "entry"),
        of("(entry & kQuickBits) | length_of(entry)", 0, "length_of(entry)"),
        of("constexpr uint32_t kQuickCode = 15;", 0, "constexpr uint32_t kQuickCode = 14;"),
        of("0x30303030", 0, "0x20202020"),
        of("0x30303030", 0, "0x10101010"),
        of("x >> 23 & 255", 0, "x >> 23"),
        of("y >> 7 & 255", 0, "y >> 7"),
        of("kIsWhole || i < n_valid ? table", 0, "true ? table"),
        of("kIsWhole || i < n_valid ? table", 0, "kIsWhole || i <= n_valid ? table"),
        of("n_valid < 4 ? 0 : n_valid - 4", 0, "n_valid - 4"),
        of("kIsWhole || n_valid == kVector) return", 0, "true) return"),
        of("if (i < n_valid) words[i / 2]", 0, "words[i / 2]"),
        of("if (n_valid == kVector) {", 0, "if (true) {"),
        of("i < n_valid; ++i", 0, "i < kVector; ++i"),
        // Codes.
        of("(entries[0] & kQuickBits)", 0, "entries[0]"),
        of("(entries[2] & kQuickBits)", 0, "entries[2]"),
        of("(entries[1] & kQuickBits) >> entries[0] % 32", 0, "(entries[1] & kQuickBits)"),
        of("(entries[3] & kQuickBits) >> entries[2] % 32", 0, "(entries[3] & kQuickBits)"),
        of("second >> n_first % 32", 0, "second"),
        of("low = __funnelshift_r(0, second, n_first);", 0, "low = 0;"),
        of("0x5410", 0, "0x1054"),
        of("n >= 32;", 0, "n > 32;"),
        of("n >= 32;", 0, "false;"),
        of("is_far ? 0 : first", 0, "first"),
        of("is_far ? first : second", 0, "second"),
        of("is_far ? second : third", 0, "third"),
        of("is_far ? third : 0", 0, "0"),
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
        of("if (end > 32) ", 0, "if (end > 40) "),
        of("if (end > 64) ", 0, "if (false) "),
        of("if (end > 96) ", 0, "if (false) "),
        of("if (end > 128) ", 0, "if (false) "),
        of("code >> at % 32", 0, "code"),
        of("if (end / 32 > at / 32) ", 0, "if (false) "),
        of("params.weights[element + i] >> 7 & 255", 0, "params.weights[element + i] >> 7"),
        of("    at = end;", 0, ""),
        // Gaps and positions.
        of("chunk = at / kChunkBits + 1", 0, "chunk = at / kChunkBits"),
        of("chunk <= (at + own.n) / kChunkBits", 0, "chunk < (at + own.n) / kChunkBits"),
        of("chunk <= (at + own.n) / kChunkBits", 0, "chunk <= (at + own.n - 1) / kChunkBits"),
        of("if (ends >> 24 < bits) {", 0, "if (ends >> 24 <= bits) {"),
        of("if (ends >> 24 < bits) {", 0, "if (false) {"),
        of(" + (ends >> 24) * kOnes;", 0, ";"),
        of("element_idx = 5;", 0, "element_idx = 1;"),
        of("0x80808080u;", 0, "0x80808000u;"),
        of("(128 - bits) * kOnes", 0, "(127 - bits) * kOnes"),
        of("& 255) - bits;", 0, "& 255);"),
        of("element + element_idx + first)", 0, "element + element_idx)"),
        of("if (element != static_cast<uint32_t>(params.n_elements)) {", 0, "{"),
        of("number % kBlockChunks != 0 || turn.is_behind", 0, "number % kBlockChunks != 0"),
        of("number % kBlockChunks != 0 || turn.is_behind", 0, "turn.is_behind"),
        of("if (uint64_t{number} * 8 < params.n_code_bytes) ", 0, ""),
        of("if (chunk > at / kChunkBits) {", 0, "{"),
        of("if (chunk > at / kChunkBits) {", 0, "if (false) {"),
        of("end % kChunkBits", 0, "0"),
        of("static_cast<uint32_t>(element) + i + 1", 0, "static_cast<uint32_t>(element) + i"),
        of("static_cast<uint32_t>(octet) * kOctetChunks", 0, "0"),
        // What goes out.
        of("at + 16 <= params.n_code_bytes", 0, "at < params.n_code_bytes"),
        of("at < params.n_code_bytes; ++at", 0, "at + 1 < params.n_code_bytes; ++at"),
        of("if (at % 4 == 3) words", 0, "if (at % 4 == 2) words"),
        of("    words.x >>= 8;", 0, ""),
        of("__byte_perm(codes.x, 0, 0x0123)", 0, "codes.x"),
        of("(gaps.x >> 8 & 31) << 10", 0, "(gaps.x >> 8 & 31) << 11"),
        of("high << 20 | low", 0, "low"),
        of("octet * kOctetGapBytes", 0, "0"),
        of("n_octets < 32 ? n_octets : 32", 0, "n_octets"),
        of("count_left(count_gap_bytes(params), first, n_own)", 0, "n_own"),
        of("begin < n_bytes; begin += 32", 0, "begin < 32; begin += 32"),
        of("i / kOctetGapBytes;", 0, "lane / kOctetGapBytes;"),
        of("at == 0 ? first_byte : others", 0, "others"),
        of("if (i < n_bytes) params.gaps", 0, "params.gaps"),
        of("turn.first + turn.n_weights == params.n_elements", 0, "true"),
        of("turn.first + turn.n_weights == params.n_elements", 0, "false"),
        of("i < (n_whole + 1) * kOctetVectors", 0, "i < n_whole * kOctetVectors"),
        of("shared.codes[i] = make_uint4(0, 0, 0, 0);", 0, ""),
        of("if (i < kOctetVectors) codes = join", 0, "if (false) codes = join"),
        of("[turn.parity ^ 1][i % kOctetVectors]", 0, "[turn.parity][i % kOctetVectors]"),
        of("if (i / kOctetVectors == n_whole) {", 0, "{"),
        of("turn.is_behind ? 0 : n_whole", 0, "n_whole"),
        of("if (i / kOctetVectors < n_written) {", 0, "{"),
        of("kGroupWarps - 1 - threadIdx.x / 32", 0, "kGroupWarps - threadIdx.x / 32"),
        of(
            "first <= n_whole; first += kGroupThreads",
            0,
            "first < n_whole; first += kGroupThreads",
        ),
        of("first <= n_whole; first += kGroupThreads", 0, "first < 128; first += kGroupThreads"),
        of("    if (i <= n_whole) {", 0, "    {"),
        of("    if (i <= n_whole) {", 0, "    if (i < n_whole) {"),
        of("      shared.gaps[i] = make_uint2(0, 0);", 0, ""),
        of("    if (i == 0) {", 0, "    if (false) {"),
        of("if (i == n_whole) shared.waiting_gaps", 0, "shared.waiting_gaps"),
        of("[turn.parity ^ 1] = gaps", 0, "[turn.parity] = gaps"),
        of("n_written < first ? 0 : n_written - first", 0, "n_written"),
        of("params.positions[0] = 0;", 0, ""),
        of("  if (threadIdx.x != 0) return;", 0, ""),
        of("(end / kOctetBits + 1) * kOctetGapBytes", 0, "(end / kOctetBits + 2) * kOctetGapBytes"),
        of("(end / kOctetBits + 1) * kOctetGapBytes", 0, "end / kOctetBits * kOctetGapBytes"),
        of("i < n_left; i += kGroupThreads", 0, "i < n_left; i += kGroupThreads + 1"),
        of("if (part_end == params.n_elements) write_ends", 0, "write_ends"),
        of("if (part_end == params.n_elements) write_ends(params, bit);", 0, ""),
        // Turns.
        of("kIsWhole ? kVector : count_left(turn.n_weights, i, kVector)", 0, "kVector"),
        of("kIsWhole ? kVector : count_left(turn.n_weights, i, kVector)", 1, "kVector"),
        of("if (kIsWhole || !turn.is_behind) {", 0, "{"),
        of("codes[k].n | codes[k + 1].n << 16", 0, "codes[k].n"),
        of("inclusive % 65536 - codes[k].n", 0, "inclusive % 65536"),
        of("n_bits += all % 65536;", 0, ""),
        of("inclusive / 65536 - codes[k + 1].n", 0, "inclusive / 65536"),
        of("n_bits += all / 65536;", 0, ""),
        of("if (lane == 0) shared.warp_bits[warp]", 0, "shared.warp_bits[warp]"),
        of("w < warp ? of_warp : 0", 0, "w <= warp ? of_warp : 0"),
        of("n_all += of_warp;", 0, ""),
        of("start < n_all ? 0 : start - n_all", 0, "start"),
        of("first_bit + before;", 0, "first_bit;"),
        of("first_bit + before;", 0, "before;"),
        of("rest |= 1u << k;", 0, ""),
        of("rest &= rest - 1", 0, "rest = 0"),
        of("j == k ? begins[j] : at", 0, "at"),
        // Parts.
        of("params.table[kExponents + i]", 0, "params.table[i]"),
        of("shared.codes[i] = make_uint4(0, 0, 0, 0);", 1, ""),
        of("\n    shared.gaps[i] = make_uint2(0, 0);", 0, ""),
        of("if (threadIdx.x < kOctetVectors) shared", 0, "if (false) shared"),
        of("if (threadIdx.x == 0) shared.waiting_gaps[0]", 0, "if (false) shared.waiting_gaps[0]"),
        of("uint64_t{blockIdx.x} * kPartWeights", 0, "0"),
        of("params.starts[blockIdx.x]", 0, "params.starts[0]"),
        of("if (part != 0) {", 0, "if (false) {"),
        of("    turn.parity = 1;", 0, ""),
        of("turn.first += kTurnWeights, turn.parity ^= 1", 0, "turn.first += kTurnWeights"),
        of("kBehindWeights = kOctetBits;", 0, "kBehindWeights = kOctetBits - 8;"),
        of("kLongestGroupCode / kOctetBits + 1;", 0, "kLongestGroupCode / kOctetBits;"),
    ],
};

unsafe extern "C" {
    fn lacuna_simt_pack_group(params: *const c_void, is_checked: u32);
}

/// Weights and the workspace that a launch finds, by kernels that no mutant replaces.
struct Problem {
    plan: EncodePlan,
    weights: Vec<u16>,
    words: Vec<u64>,
    /// Room for codes.
    n_code_bytes: usize,
}

/// Where a workspace has the entries of the table, and where they end.
const ENTRIES: usize = 258;
const CODES_OF_TABLE: usize = 386;

impl Problem {
    fn new(weights: Vec<u16>) -> Self {
        let book = Codebook::new(&reference::count(&weights)).unwrap();
        Self::by(weights, &book)
    }

    fn by(weights: Vec<u16>, book: &Codebook) -> Self {
        let (plan, words) = placed(&weights, |queue, plan, space| {
            upload_codebook(queue, plan, book, space).unwrap();
        });
        let n_code_bytes = words.last().unwrap().div_ceil(8) as usize;
        Self { plan, weights, words, n_code_bytes }
    }

    /// A table whose unused bits are set, and with lengths that are none where it has no code.
    fn with_hostile_table(mut self) -> Self {
        for word in &mut self.words[ENTRIES..CODES_OF_TABLE] {
            let hostile =
                |entry: u64| entry | 0x1_FFC0 | if entry & 63 == 0 { 0xFFFE_003F } else { 0 };
            *word = hostile(*word & 0xFFFF_FFFF) | hostile(*word >> 32) << 32;
        }
        self
    }

    fn with_room(self, n_code_bytes: usize) -> Self {
        Self { n_code_bytes, ..self }
    }

    fn pack(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let weights = queue.upload(bytemuck::cast_slice::<u16, bf16>(&self.weights))?;
        let mut workspace = queue.upload(&self.words)?;
        let n_blocks = self.n_code_bytes.div_ceil(4096);
        let mut group = DeviceGroup {
            encoded_exponent: queue.alloc(self.n_code_bytes)?,
            sign_mantissa: queue.alloc(self.weights.len())?,
            luts: queue.alloc(512)?,
            gaps: queue.alloc(320 * n_blocks)?,
            output_positions: queue.alloc(4 * (n_blocks + 1))?,
        };
        let space = workspace.view_mut();
        pack_group(queue, &self.plan, &weights.view(), &space, &mut group.views_mut())?;
        let mut found = Vec::new();
        add(&mut found, queue, &group.encoded_exponent)?;
        add(&mut found, queue, &group.sign_mantissa)?;
        add(&mut found, queue, &group.gaps)?;
        add(&mut found, queue, &group.output_positions)?;
        Ok(found)
    }
}

/// Codes of one bit more each, by Fibonacci's counts, and two of the longest: that of exponent `e` has `n_exponents - e` bits.
fn fibonacci(n_exponents: usize) -> Codebook {
    let mut counts = [0_u64; 256];
    let (mut a, mut b) = (1_u64, 1);
    for count in counts.iter_mut().take(n_exponents) {
        *count = 1000 * a;
        (a, b) = (b, a + b);
    }
    Codebook::new(&counts).unwrap()
}

/// Exponents of codes of so many bits by [`fibonacci`] of 33, both signs.
fn of_bits(bits: impl Iterator<Item = u64>) -> Vec<u16> {
    let mut random = Random(8);
    bits.map(|bits| ((33 - bits) << 7 | random.next() & 0x807F) as u16).collect()
}

/// Stretches of lengths that are alike.
fn stretches(n: usize) -> Vec<u16> {
    let mut random = Random(9);
    let mut bits = Vec::new();
    while bits.len() < n {
        let [least, span] = [random.next() % 32 + 1, random.next() % 16 + 1];
        let n_alike = random.next() % 300;
        bits.extend((0..n_alike).map(|_| (least + random.next() % span).min(32)));
    }
    of_bits(bits.into_iter().take(n))
}

#[test]
fn every_mutation_of_pack_group_is_caught() {
    let book = fibonacci(33);
    let alike = |n: usize, n_exponents: usize| -> Vec<u16> {
        (0..n).map(|i| (i % n_exponents) as u16 * 128 + 1).collect()
    };
    // As much as can be on chip, from bit 1 on, in a turn of its own; then a few more.
    let all_long = std::iter::repeat_n(1, 4095).chain([2]).chain(std::iter::repeat_n(32, 4111));
    // The next part begins at the last bit of an octet, of which 512 codes of one bit are needed, the first of them two.
    let behind = (0..65_536 + 700).map(|i| match i {
        0..503 | 65_024..65_032 => 2,
        _ => 1,
    });
    let of_few = Codebook::new(&reference::count(&alike(900, 9))).unwrap();
    let problems = [
        Problem::new(noise(1006)),
        Problem::new(alike(22, 8)),
        Problem::new(alike(2 * 16_384, 4)),
        Problem::by(alike(3000, 16), &fibonacci(16)),
        Problem::by(stretches(9005), &book),
        Problem::by(of_bits(all_long), &book),
        Problem::by(of_bits(behind), &book),
        Problem::new(noise(65_536 + 5000)),
        Problem::by(noise(900), &of_few).with_hostile_table(),
        Problem::new(noise(9000)).with_room(4003),
    ];
    let plain = Queue::simt(Config::default());
    let problems: Vec<_> =
        problems.iter().map(|problem| (problem, problem.pack(&plain).unwrap())).collect();
    PACK.assert_all_caught(lacuna_simt_pack_group, |entry| {
        problems.iter().any(|(problem, expected)| {
            differs(lacuna_simt_pack_group, entry, expected, |queue| problem.pack(queue))
        })
    });
}
