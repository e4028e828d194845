//! The decode kernel.

use std::ffi::c_void;

use lacuna::bindings::{HuffmanDecodeParams, HuffmanGroup};
use lacuna::huffman::{self, RawGroup, reference};
use lacuna::region::Role;
use lacuna::simt::{Entry, Schedule};

use crate::{Kernel, Mutation, common, of, passes, region};

const KERNEL: Kernel = Kernel {
    room: "huffman",
    source: include_str!("../../csrc/huffman/decode.cu"),
    headers: &[("stream.cuh", include_str!("../../csrc/huffman/stream.cuh"))],
    entry: "decode_bf16",
    mutations: MUTATIONS,
};

/// The barriers, fences and atomics of the kernel, and the comparisons that keep an index inside. Not
/// among them: the last block's atomic read of `corrupt`, which behind its fence could be a plain one; and that no
/// gap is asked for behind the stream's end, before which the last block has codes for all elements or a worse reason.
const MUTATIONS: &[Mutation] = &[
    // scan_counts, agree_on_reason, count_codes, decode_block, finish_group (3), in the order of the files.
    of("  __syncthreads();", 0, ""),
    of("  __syncthreads();", 1, ""),
    of("  __syncthreads();", 2, ""),
    of("  __syncthreads();", 3, ""),
    of("  __syncthreads();", 4, ""),
    of("  __syncthreads();", 5, ""),
    of("  __syncthreads();", 6, ""),
    of("    __threadfence();", 0, ""),
    of("    __threadfence();", 1, ""),
    of("atomicAdd(&state->n_done, 1u) + 1", 0, "++state->n_done"),
    of("atomicMax(&shared.reason, static_cast<uint32_t>(mine))", 0, "shared.reason = mine"),
    of("0xFFFFFFFFu, inclusive, distance", 0, "0x7FFFFFFFu, inclusive, distance"),
    of("idx >= group.n_positions", 0, "idx > group.n_positions"),
    of("idx >= group.n_positions", 0, "false"),
    // Without it the difference below wraps, and is too large: the two go together.
    of(
        "block.start <= block.end && block.end <= group.n_elements &&
         block.end - block.start <= kMaxBlockElements &&",
        0,
        "true &&",
    ),
    of("block.end <= group.n_elements &&", 0, "true &&"),
    of("block.end - block.start <= kMaxBlockElements &&", 0, "true &&"),
    of("block.first_byte != 0 || block.start == 0", 0, "true"),
    of("!block.is_last || block.end == group.n_elements", 0, "true"),
    of("(n_lut_rows + 1) * 256; i += kThreads", 0, "n_lut_rows * 256; i += kThreads"),
    of("block.is_last ? kGapBytes : kGapBytes + 1", 0, "kGapBytes + 1"),
    of("thread <= kGapBytes", 0, "thread < kGapBytes"),
    of(
        "thread < n_gap_bytes ? group.gaps[first_gap + thread] : 0",
        0,
        "group.gaps[first_gap + thread]",
    ),
    of("n_left >= kBlockBytes && is_aligned(codes, 16)", 0, "is_aligned(codes, 16)"),
    of("n_left >= kBlockBytes && is_aligned(codes, 16)", 0, "n_left >= kBlockBytes"),
    of("thread < kBlockBytes / 16", 0, "thread <= kBlockBytes / 16"),
    of("i < kBlockBytes + kLookAheadBytes", 0, "i < kBlockBytes"),
    of("i < n_left ? codes[i] : 0", 0, "codes[i]"),
    of("row >= n_lut_rows", 0, "row > n_lut_rows"),
    of("row >= n_lut_rows", 0, "false"),
    of("if (shift == 0) break;", 0, ""),
    of("n_bits == 0 || n_bits > kLongestCode", 0, "n_bits > kLongestCode"),
    of("if (lane >= distance) inclusive += before;", 0, "inclusive += before;"),
    of("if (lane == 31) shared", 0, "shared"),
    of("block.is_last ? n_codes < n_expected : n_codes != n_expected", 0, "false"),
    of("vector_end = block.end / 8 * 8;", 0, "vector_end = (block.end + 7) / 8 * 8;"),
    of("is_aligned(output, 16) && is_aligned(sign_mantissa, 8)", 0, "true"),
    of("uint64_t i = vector_end + threadIdx.x;", 0, "uint64_t i = vector_end + threadIdx.x + 1;"),
    of(
        "i < group.n_elements; i += kThreads) output[i] = kQuietNan",
        0,
        "i <= group.n_elements; i += kThreads) output[i] = kQuietNan",
    ),
    of(
        "if (block_idx >= group.n_blocks) return;",
        0,
        "if (block_idx + 1 >= group.n_blocks) return;",
    ),
    // Where a block is in its stream, what it counts by, and what is wrong with it.
    of("block_idx + 1 == group.n_blocks", 0, "false"),
    of("if (!has_sound_positions(group, block)) return pass;", 0, ""),
    of("if (threadIdx.x == 0) shared.reason = kSound;", 0, ""),
    of("min(group.n_lut_rows, kMostLutRows)", 0, "group.n_lut_rows"),
    of("bit / 8 < kGapBytes ? shared.gaps[bit / 8 + 1] : 0", 0, "shared.gaps[bit / 8 + 1]"),
    of("bit / 8 < kGapBytes ? shared.gaps[bit / 8 + 1] : 0", 0, "0"),
    of(
        "chunk_byte < group.n_code_bytes ? group.n_code_bytes - chunk_byte",
        0,
        "true ? group.n_code_bytes - chunk_byte",
    ),
    of("n_left < kChunkBits / 8 ? static_cast<uint32_t>(n_left) * 8 : kChunkBits", 0, "kChunkBits"),
    of("if (i < warp) before_warp", 0, "before_warp"),
    of("!block.is_last || has_more ? walk.reason", 0, "true ? walk.reason"),
    of("!block.is_last || has_more ? walk.reason", 0, "!block.is_last ? walk.reason"),
    of("!block.is_last || has_more ? walk.reason", 0, "has_more ? walk.reason"),
    of("next_byte >= group.n_code_bytes || !has_more", 0, "next_byte >= group.n_code_bytes"),
    of("read_gap(shared, threadIdx.x + 1) ? kSound : kGap", 0, "walk.end_bit ? kSound : kSound"),
    of("0xFFFFFFFFu - blockIdx.x", 0, "blockIdx.x"),
    of("atomicExch(&state->corrupt, 1u);", 0, ""),
    of("atomicExch(&state->corrupt, 1u)", 0, "state->corrupt = 1"),
    of("atomicMax(reinterpret_cast", 0, "atomicExch(reinterpret_cast"),
    of("state->corrupt = 0;", 0, ""),
    of("state->n_done = 0;", 0, ""),
];

unsafe extern "C" {
    // The kernel as it is; and with it come the hooks that the mutants call.
    fn lacuna_simt_decode_bf16(params: *const c_void, is_checked: u32);
}

/// Groups that reach every bound: sound ones of several shapes, and one for each kind of damage.
fn groups() -> Vec<[Vec<u8>; 5]> {
    let mut groups = Vec::new();
    for n in [1, 9, 511, 4097, 12_345, 33_000] {
        let encoded = common::encode(&common::clustered_weights(n, n as u64));
        groups.push(common::damaged(&encoded.as_raw("sound"), vec![]));
    }
    let mut every_value = Vec::new();
    for exponent in 0..256_u16 {
        every_value.extend(std::iter::repeat_n(exponent << 7, 1 + usize::from(exponent) % 7 * 40));
    }
    let encoded = common::encode(&every_value);
    groups.push(common::damaged(&encoded.as_raw("every exponent"), vec![]));
    let sound = groups[5].clone();
    for (tensor, at, bytes) in [
        (4, 4, &[0xFF, 0xFF, 0xFF, 0xFF][..]),
        (4, 4, &[0xFF, 0x20, 0, 0]),
        (4, 0, &[1, 0, 0, 0]),
        (4, 4, &[0, 0, 0, 0]),
        // 32,900, and 33,001 of 33,000.
        (4, 4, &[0x84, 0x80, 0, 0]),
        (4, 8, &[0xE9, 0x80, 0, 0]),
        (4, 12, &[0xE7, 0x80, 0, 0]),
        (3, 7, &[0x55]),
        (3, 318, &[0xFF, 0xFF]),
        (2, 10, &[240]),
        (2, 200, &[255]),
        (2, 10, &[250]),
        (1, 0, &[0xFF]),
        (0, 100, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        (0, 4000, &[0; 96]),
    ] {
        let mut damaged = sound.clone();
        let length = damaged[tensor].len();
        let end = (at + bytes.len()).min(length);
        if at < end {
            damaged[tensor][at..end].copy_from_slice(&bytes[..end - at]);
        }
        groups.push(damaged);
    }
    // All lengths zero, then all too long; fewer elements than codes; tables that point on and on.
    for (at, value) in [(256, 0), (256, 33)] {
        let mut damaged = sound.clone();
        let n = damaged[2].len();
        damaged[2][n - at..].fill(value);
        groups.push(damaged);
    }
    // Tables that point to the row of lengths, and one position less.
    let mut past_tables = sound.clone();
    let n_rows = past_tables[2].len() / 256 - 1;
    past_tables[2][..256].fill((256 - n_rows) as u8);
    groups.push(past_tables);
    // The same for some codes alone, in a block that has more codes than elements: then the pointer
    // is what is reported, and not the count.
    for entry in [0, 64, 128, 192, 240, 248, 252, 254, 255] {
        let mut some = groups[3].clone();
        some[1].truncate(2000);
        some[4][4..8].copy_from_slice(&2000_u32.to_le_bytes());
        let n_rows = some[2].len() / 256 - 1;
        some[2][entry] = (256 - n_rows) as u8;
        groups.push(some);
    }
    groups.extend(padded_groups());
    let mut short_positions = sound.clone();
    let n = short_positions[4].len();
    short_positions[4].truncate(n - 4);
    groups.push(short_positions);
    let mut short = sound.clone();
    short[1].truncate(12_000);
    groups.push(short);
    let mut endless = sound;
    let n = endless[2].len();
    endless[2][..n - 256].fill(255);
    groups.push(endless);
    groups
}

/// Bits behind the last weight's code, and streams whose bits are codes wherever one begins to read.
fn padded_groups() -> Vec<[Vec<u8>; 5]> {
    let group =
        |weights: &[u16]| common::damaged(&common::encode(weights).as_raw("padded"), vec![]);
    // The last code is that of no weight, and its exponent no other's: of the longest the last, all ones.
    let mut weights = common::clustered_weights(4000, 7);
    weights.push(239 << 7);
    let mut padded = group(&weights);
    padded[1].pop();
    let n = padded[1].len() as u32;
    padded[4] = [0, n].map(u32::to_le_bytes).concat();
    // Behind it are more of them, in chunks whose gaps say otherwise.
    let mut more = padded.clone();
    more[0].extend([0xFF; 100]);
    // It has no length: in the last block that is nothing, in another it is wrong.
    let n_lut_bytes = padded[2].len();
    padded[2][n_lut_bytes - 256 + 239] = 0;
    let mut of_two = padded.clone();
    of_two[0].resize(4096 + 100, 0xFF);
    of_two[3].resize(640, 0);
    of_two[4] = [0, n, n].map(u32::to_le_bytes).concat();
    // Zeros are codes: those past the end of a stream that is too short.
    let alike = group(&[0x3F80; 9000]);
    let mut short = alike.clone();
    short[0].pop();
    // Any two bits are a code: where a gap is wrong, it alone is.
    let of_four = |n: usize| -> Vec<u16> { [0x3F80, 0x3F00, 0x3E80, 0x3E00].repeat(n / 4) };
    let mut shifted = group(&of_four(9000));
    shifted[3][5] = 1 << 3;
    // And behind the last code, which fills chunk 99, no gap is asked for.
    let mut late = group(&of_four(3200));
    late[0].extend([0; 16]);
    late[3][63] |= 0x80;
    // More tables than the format has.
    let mut many_tables = alike;
    let lengths = many_tables[2].split_off(256);
    many_tables[2].resize(17 * 256, many_tables[2][0]);
    many_tables[2].extend([&lengths[..], &[0; 256], &lengths].concat());
    vec![padded, more, of_two, short, shifted, late, many_tables]
}

/// One group, decoded by `entry` under all checks; `shift` moves the tensors off their alignment.
fn differs(entry: Entry, group: &RawGroup<'_>, shift: usize, schedule: Schedule) -> bool {
    let tensors = [
        group.encoded_exponent,
        group.sign_mantissa,
        group.luts,
        group.gaps,
        group.output_positions,
    ];
    let copies = tensors.map(|tensor| {
        let mut words = vec![0_u128; tensor.len().div_ceil(16) + 1];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        bytes[shift..shift + tensor.len()].copy_from_slice(tensor);
        words
    });
    let address = |i: usize| copies[i].as_ptr().expose_provenance() as u64 + shift as u64;
    let n_blocks = group.encoded_exponent.len().div_ceil(huffman::BYTES_PER_BLOCK) as u32;
    let row = HuffmanGroup {
        codes: address(0),
        sign_mantissa: address(1),
        luts: address(2),
        gaps: address(3),
        positions: address(4),
        n_code_bytes: group.encoded_exponent.len() as u64,
        n_elements: group.sign_mantissa.len() as u64,
        output_offset: 0,
        first_block: 0,
        n_blocks,
        n_lut_rows: (group.luts.len() / 256 - 1) as u32,
        n_positions: (group.output_positions.len() / 4) as u32,
    };
    let n = group.sign_mantissa.len();
    let mut output = vec![0_u128; n.div_ceil(8) + 1];
    let mut state = [0_u64; 2];
    let output_address = output.as_mut_ptr().expose_provenance() as u64 + shift as u64 / 2 * 2;
    let state_address = state.as_mut_ptr().expose_provenance() as u64;
    let params = HuffmanDecodeParams {
        groups: (&raw const row).expose_provenance() as u64,
        output: output_address,
        states: state_address + 8,
        status: state_address,
        n_groups: 1,
        reserved: 0,
    };
    let mut regions = vec![
        region("groups", Role::Input, params.groups, size_of_val(&row)),
        region("status", Role::InOut, params.status, 8),
        region("states", Role::InOut, params.states, 8),
        region("output", Role::Output, output_address, 2 * n),
    ];
    for (i, tensor) in tensors.iter().enumerate() {
        regions.push(region("tensor", Role::Input, address(i), tensor.len()));
    }
    // SAFETY: the kernel takes this struct, and every region is memory of this function.
    let passes = unsafe { passes(entry, [n_blocks, 512], 0, schedule, &params, &regions) };
    if !passes {
        return true;
    }
    let mut expected = vec![0_u16; n];
    let report = reference::decode(group, &mut expected).err();
    let bytes: &[u8] = bytemuck::cast_slice(&output);
    let decoded = &bytes[shift / 2 * 2..][..2 * n];
    decoded != bytemuck::cast_slice::<u16, u8>(&expected)
        || huffman::Corruption::from_status(state[0]) != report
        || state[1] != 0
}

#[test]
fn every_mutation_of_decode_bf16_is_caught() {
    let groups = groups();
    KERNEL.assert_all_caught(lacuna_simt_decode_bf16, |entry| {
        groups.iter().any(|group| {
            [(0, Schedule::InOrder), (1, Schedule::Random)]
                .into_iter()
                .any(|(shift, schedule)| differs(entry, &common::raw_of(group), shift, schedule))
        })
    });
}
