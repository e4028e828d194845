//! `index_stream` and `pack_index` of one group, each by itself: `DeviceWeights::index` allocates and waits.
#![allow(unsafe_code)]

use lacuna::bindings::{
    HuffmanGroup, HuffmanIndexParams, HuffmanIndexTarget, HuffmanPackIndexParams,
};
use lacuna::huffman::indexed::Index;
use lacuna::huffman::{BYTES_PER_BLOCK, EncodedGroup, THREADS_PER_BLOCK};
use lacuna::launch::{self, Grid};
use lacuna::region::Role;
use lacuna::{Buffer, Queue};

use super::group::OfGroup;
use super::indexed::Owned;
use crate::house::case::{Budget, Case, Problem, Work, poison};
use crate::{GOLDEN, PUBLISHED_ROWS, Weights};

const PACK_THREADS: usize = 256;

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Stream,
    Pack,
}

struct Group {
    pass: Pass,
    encoded: EncodedGroup,
    index: Index,
    /// Of `index_stream` the starts and the bytes of tiles, of `pack_index` the bits of granules.
    expected: Vec<u8>,
}

impl Pass {
    fn kernel(self) -> &'static str {
        match self {
            Self::Stream => "huffman/index_stream",
            Self::Pack => "huffman/pack_index",
        }
    }

    fn problem(self, weights: &[u16]) -> Box<dyn Problem> {
        let Owned { encoded, index, .. } = Owned::new(weights);
        let mut group = Group { pass: self, encoded, index, expected: Vec::new() };
        group.expected = match self {
            Self::Stream => {
                let starts = group.starts();
                [bytemuck::cast_slice(&starts), bytemuck::cast_slice(&group.index.tile_bytes)]
                    .concat()
            }
            Self::Pack => bytemuck::cast_slice(&group.index.granule_bits).to_vec(),
        };
        Box::new(group)
    }
}

impl Group {
    fn starts(&self) -> Vec<u32> {
        let Index { tile_bytes, granule_bits } = &self.index;
        let start = |(granule, bits): (usize, &u16)| {
            tile_bytes[granule / 32].wrapping_mul(8).wrapping_add(u32::from(*bits))
        };
        granule_bits.iter().enumerate().map(start).collect()
    }
}

impl Problem for Group {
    fn least_bytes(&self) -> u64 {
        let raw = self.encoded.as_raw("group");
        let Index { tile_bytes, granule_bits } = &self.index;
        let entries = 4 * granule_bits.len() + 4 * tile_bytes.len();
        let tensors = [raw.encoded_exponent, raw.luts, raw.gaps, raw.output_positions];
        let n_bytes = match self.pass {
            Pass::Stream => tensors.iter().map(|tensor| tensor.len()).sum::<usize>() + entries,
            Pass::Pack => entries + 2 * granule_bits.len(),
        };
        n_bytes as u64
    }

    fn expected(&self) -> &[u8] {
        &self.expected
    }

    fn place(&self, queue: &Queue) -> lacuna::Result<Box<dyn Work>> {
        Ok(Box::new(Launch::new(queue, self)?))
    }

    fn variants(&self, _: &Queue) -> lacuna::Result<Vec<(String, Box<dyn Work>)>> {
        Ok(Vec::new())
    }
}

/// A launch over one group.
struct Launch {
    pass: Pass,
    /// Codes, luts, gaps and positions.
    tensors: [Buffer<u8>; 4],
    group: HuffmanGroup,
    group_row: Buffer<u8>,
    target: HuffmanIndexTarget,
    target_row: Buffer<u8>,
    starts: Buffer<u32>,
    tile_bytes: Buffer<u32>,
    granule_bits: Buffer<u16>,
    status: Buffer<u64>,
    verdict: Buffer<u32>,
}

impl Launch {
    fn new(queue: &Queue, problem: &Group) -> lacuna::Result<Self> {
        let raw = problem.encoded.as_raw("group");
        let upload = |tensor: &[u8]| queue.upload(tensor);
        let tensors = [
            upload(raw.encoded_exponent)?,
            upload(raw.luts)?,
            upload(raw.gaps)?,
            upload(raw.output_positions)?,
        ];
        let Index { tile_bytes, granule_bits } = &problem.index;
        let (starts, tile_bytes) = (queue.upload(&problem.starts())?, queue.upload(tile_bytes)?);
        let n_entries = granule_bits.len() as u32;
        let granule_bits = queue.alloc::<u16>(granule_bits.len())?;
        let [codes, luts, gaps, positions] =
            tensors.each_ref().map(|tensor| tensor.view().address());
        let group = HuffmanGroup {
            codes,
            sign_mantissa: 0,
            luts,
            gaps,
            positions,
            n_code_bytes: raw.encoded_exponent.len() as u64,
            n_elements: raw.sign_mantissa.len() as u64,
            output_offset: 0,
            first_block: 0,
            n_blocks: raw.encoded_exponent.len().div_ceil(BYTES_PER_BLOCK) as u32,
            n_lut_rows: (raw.luts.len() / 256 - 1) as u32,
            n_positions: (raw.output_positions.len() / 4) as u32,
        };
        let target = HuffmanIndexTarget {
            starts: starts.view().address(),
            tile_bytes: tile_bytes.view().address(),
            granule_bits: granule_bits.view().address(),
            n_entries,
            first_block: 0,
        };
        let group_row = queue.upload(bytemuck::bytes_of(&group))?;
        let target_row = queue.upload(bytemuck::bytes_of(&target))?;
        let (status, verdict) = (queue.alloc(1)?, queue.alloc(1)?);
        Ok(Self {
            pass: problem.pass,
            tensors,
            group,
            group_row,
            target,
            target_row,
            starts,
            tile_bytes,
            granule_bits,
            status,
            verdict,
        })
    }
}

impl Work for Launch {
    fn launch(&mut self, queue: &Queue) -> lacuna::Result<()> {
        let role = if self.pass == Pass::Stream { Role::InOut } else { Role::Input };
        let verdicts = self.verdict.view().address();
        let list = |regions: &mut lacuna::region::Regions| {
            regions.input("targets", &self.target_row.view());
            regions.add(Role::InOut, "verdicts", verdicts, 4);
            let n_tiles = self.tile_bytes.len() as u64;
            regions.add(role, "starts", self.target.starts, 4 * u64::from(self.target.n_entries));
            regions.add(role, "tile_bytes", self.target.tile_bytes, 4 * n_tiles);
        };
        let grid = |n_blocks: usize, n_threads: usize| Grid {
            blocks: [n_blocks as u32, 1, 1],
            threads: [n_threads as u32, 1, 1],
            dynamic_shared_bytes: 0,
            cluster_blocks: 1,
        };
        let (n_groups, reserved) = (1, 0);
        let targets = self.target_row.view().address();
        match self.pass {
            Pass::Stream => {
                let (groups, status) =
                    (self.group_row.view().address(), self.status.view().address());
                let params =
                    HuffmanIndexParams { groups, targets, verdicts, status, n_groups, reserved };
                let grid = grid(self.group.n_blocks as usize, THREADS_PER_BLOCK);
                // SAFETY: all of it is memory of this launch's own, as long as its group says.
                unsafe {
                    launch::launch(queue, &grid, &params, |regions| {
                        regions.input("groups", &self.group_row.view());
                        for tensor in &self.tensors {
                            regions.input("tensor", &tensor.view());
                        }
                        regions.add(Role::InOut, "status", status, 8);
                        list(regions);
                    })
                }
            }
            Pass::Pack => {
                let params = HuffmanPackIndexParams { targets, verdicts, n_groups, reserved };
                let n_entries = self.granule_bits.len();
                let grid = grid(n_entries.div_ceil(PACK_THREADS), PACK_THREADS);
                // SAFETY: as above.
                unsafe {
                    launch::launch(queue, &grid, &params, |regions| {
                        list(regions);
                        let n_bytes = 2 * n_entries as u64;
                        let granule_bits = self.target.granule_bits;
                        regions.add(Role::Output, "granule_bits", granule_bits, n_bytes);
                    })
                }
            }
        }
    }

    fn poison(&mut self, queue: &Queue) -> lacuna::Result<()> {
        match self.pass {
            Pass::Stream => {
                poison(queue, &mut self.starts)?;
                poison(queue, &mut self.tile_bytes)
            }
            Pass::Pack => poison(queue, &mut self.granule_bits),
        }
    }

    fn output(&self, queue: &Queue) -> lacuna::Result<Vec<u8>> {
        let found = [u64::from(queue.download(&self.verdict.view())?[0])];
        assert_eq!([found[0], queue.download(&self.status.view())?[0]], [0, 0], "it is sound");
        match self.pass {
            Pass::Stream => {
                let starts = queue.download(&self.starts.view())?;
                let tile_bytes = queue.download(&self.tile_bytes.view())?;
                Ok([bytemuck::cast_slice(&starts), bytemuck::cast_slice::<u32, u8>(&tile_bytes)]
                    .concat())
            }
            Pass::Pack => {
                Ok(bytemuck::cast_slice(&queue.download(&self.granule_bits.view())?).to_vec())
            }
        }
    }
}

pub(crate) fn cases() -> Vec<Box<dyn Case>> {
    // Beyond the least: tables that every block reads again, and a sector for each entry that a lane writes.
    let stream =
        Budget { bytes: 3.15, sectors_per_request: 1.4, conflict_ways: 1.4, barriers: 3.0 };
    // Every warp reads where its group's entries are.
    let pack = Budget { bytes: 2.0, sectors_per_request: 1.5, conflict_ways: 0.0, barriers: 0.0 };
    let mut cases: Vec<Box<dyn Case>> = Vec::new();
    for (pass, budget) in [(Pass::Stream, stream), (Pass::Pack, pack)] {
        let (file, shape) = GOLDEN[1];
        let large = Weights::Random(PUBLISHED_ROWS * 65_536);
        for (weights, shape) in [
            (Weights::Golden(file), shape.to_owned()),
            (large, format!("{PUBLISHED_ROWS} x 65536")),
        ] {
            let problem = move |weights: Vec<u16>| pass.problem(&weights);
            let kernel = pass.kernel();
            cases.push(Box::new(OfGroup { kernel, shape, weights, budget, problem }));
        }
    }
    cases
}
