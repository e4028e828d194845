//! Indexed groups, what launches over them leave, and what the reference says of them.

use half::bf16;
use lacuna::huffman::indexed::{CodeTable, CorruptTile, IndexedRowsPlan, RawIndexed, reference};
use lacuna::huffman::{self, Corruption, DeviceWeights, GroupViews, RawGroup};
use lacuna::select::Absent;
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common::{encode, raw_of};

/// A group's tensors and its index, to be damaged.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    pub(crate) codes: Vec<u8>,
    pub(crate) sign_mantissa: Vec<u8>,
    pub(crate) tile_bytes: Vec<u32>,
    pub(crate) granule_bits: Vec<u16>,
    pub(crate) entries: Vec<u32>,
    pub(crate) lengths: Vec<u8>,
    pub(crate) luts: Vec<u8>,
}

impl Owned {
    pub(crate) fn of(raw: RawGroup<'_>) -> Self {
        let group = raw.parse().unwrap();
        let index = reference::index(&group).unwrap().expect("a tile has few bits");
        let table = CodeTable::of(&group);
        Self {
            codes: raw.encoded_exponent.to_vec(),
            sign_mantissa: raw.sign_mantissa.to_vec(),
            tile_bytes: index.tile_bytes,
            granule_bits: index.granule_bits,
            entries: table.entries().to_vec(),
            lengths: table.lengths().to_vec(),
            luts: raw.luts.to_vec(),
        }
    }

    pub(crate) fn encode(weights: &[u16]) -> Self {
        Self::of(encode(weights).as_raw("group"))
    }

    pub(crate) fn raw(&self) -> RawIndexed<'_> {
        RawIndexed {
            codes: &self.codes,
            sign_mantissa: &self.sign_mantissa,
            tile_bytes: &self.tile_bytes,
            granule_bits: &self.granule_bits,
            entries: &self.entries,
            lengths: &self.lengths,
            luts: &self.luts,
        }
    }

    /// Overwrites a byte of one of the tensors that say what the codes are.
    pub(crate) fn damage(&mut self, tensor: usize, at: &prop::sample::Index, value: u8) {
        let bytes: &mut [u8] = match tensor {
            0 => &mut self.codes,
            1 => bytemuck::cast_slice_mut(&mut self.tile_bytes),
            2 => bytemuck::cast_slice_mut(&mut self.granule_bits),
            3 => bytemuck::cast_slice_mut(&mut self.entries),
            4 => &mut self.lengths,
            _ => &mut self.luts,
        };
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
    }
}

/// What lies in outputs before a launch.
const POISON: u16 = 0xDEAD;

pub(crate) type Decoded = (Vec<Vec<u16>>, Option<CorruptTile>);

/// What a launch over `groups` leaves: each group's bits, and the report. Where blocks have more than four tiles, warps
/// have several; where the output begins `shift` elements behind its place, stores are narrow.
pub(crate) fn decode_on(
    queue: &Queue,
    groups: &[Owned],
    block_tiles: u32,
    shift: usize,
) -> lacuna::Result<Decoded> {
    let raws: Vec<_> = groups.iter().map(Owned::raw).collect();
    let weights = DeviceWeights::upload(queue, &raws)?.with_block_tiles(queue, block_tiles)?;
    let plan = weights.plan();
    let poison = vec![bf16::from_bits(POISON); plan.output_len() as usize + shift + 8];
    let mut output = queue.upload(&poison)?;
    let mut status = queue.alloc::<u64>(plan.workspace_len() as usize)?;
    let mut target = output.view_mut();
    let mut target = target.slice_mut(shift..poison.len())?;
    weights.decode(queue, &mut status.view_mut(), &mut target)?;
    let report = report_of(weights.check(queue, &status.view()))?;
    let bits = queue.download(&output.view())?;
    let bits: Vec<u16> = bits[shift..].iter().map(|weight| weight.to_bits()).collect();
    let ranges: Vec<_> = (0..groups.len())
        .map(|idx| plan.output_range(idx).unwrap())
        .map(|range| range.start as usize..range.end as usize)
        .collect();
    let mut decoded: Vec<_> = ranges.iter().map(|range| bits[range.clone()].to_vec()).collect();
    let is_between = |at: &usize| ranges.iter().all(|range| !range.contains(at));
    let between = (0..bits.len()).filter(is_between).map(|at| bits[at]);
    // What was written between groups is one more.
    if let Some(stray) = between.clone().find(|weight| *weight != POISON) {
        decoded.push(vec![stray]);
    }
    Ok((decoded, report))
}

fn report_of(checked: lacuna::Result<()>) -> lacuna::Result<Option<CorruptTile>> {
    match checked {
        Ok(()) => Ok(None),
        Err(Error::CorruptTile(tile)) => Ok(Some(tile)),
        Err(error) => Err(error),
    }
}

pub(crate) fn decode_by_reference(groups: &[Owned]) -> Decoded {
    let mut first_tile = 0;
    let mut report = None;
    let decoded = groups
        .iter()
        .map(|group| {
            let mut output = vec![0; group.sign_mantissa.len()];
            if let Err(corrupt) = reference::decode(&group.raw(), &mut output) {
                let tile = first_tile + corrupt.tile;
                report = report.or(Some(CorruptTile { tile, ..corrupt }));
            }
            first_tile += output.len().div_ceil(4096) as u32;
            output
        })
        .collect();
    (decoded, report)
}

pub(crate) type Rows = (Vec<u16>, Option<CorruptTile>);

/// What a launch leaves that asks for rows of a group behind another of one tile.
pub(crate) fn rows_on(
    queue: &Queue,
    group: &Owned,
    plan: &IndexedRowsPlan,
    rows: &[u32],
    absent: Absent,
) -> lacuna::Result<Rows> {
    let other = Owned::encode(&[7; 9]);
    let weights = DeviceWeights::upload(queue, [other.raw(), group.raw()])?;
    let rows = queue.upload(rows)?;
    let mut output = queue.upload(&vec![bf16::from_bits(POISON); plan.output_len() as usize])?;
    let mut workspace = queue.alloc::<u64>(weights.plan().workspace_len() as usize)?;
    let (mut status, mut target) = (workspace.view_mut(), output.view_mut());
    weights.decode_rows(queue, plan, 1, &rows.view(), absent, &mut status, &mut target)?;
    let report = report_of(weights.check(queue, &workspace.view()))?;
    let output = queue.download(&output.view())?;
    Ok((output.into_iter().map(bf16::to_bits).collect(), report))
}

pub(crate) fn rows_by_reference(
    group: &Owned,
    plan: &IndexedRowsPlan,
    rows: &[u32],
    absent: Absent,
) -> Rows {
    let mut output = vec![POISON; plan.output_len() as usize];
    let report = reference::decode_rows(&group.raw(), plan, rows, absent, &mut output).err();
    // The other group has one tile.
    (output, report.map(|report| CorruptTile { tile: report.tile + 1, ..report }))
}

/// Tensors that no validator saw, as an engine has them, indexed; or the report.
pub(crate) fn index_on<T>(
    queue: &Queue,
    groups: &[[Vec<u8>; 5]],
    then: impl FnOnce(&DeviceWeights<'_>) -> lacuna::Result<T>,
) -> lacuna::Result<Result<T, Corruption>> {
    let upload = |tensor| queue.upload::<u8>(tensor);
    let buffers = groups.iter().map(|tensors| tensors.iter().map(|t| upload(t)).collect());
    let buffers = buffers.collect::<lacuna::Result<Vec<Vec<_>>>>()?;
    let views: Vec<_> = buffers
        .iter()
        .map(|tensors| GroupViews {
            encoded_exponent: tensors[0].view(),
            sign_mantissa: tensors[1].view(),
            luts: tensors[2].view(),
            gaps: tensors[3].view(),
            output_positions: tensors[4].view(),
        })
        .collect();
    let mut weights = DeviceWeights::borrow(queue, views)?;
    match weights.index(queue) {
        Ok(()) => then(&weights).map(Ok),
        Err(Error::Corrupt(corruption)) => Ok(Err(corruption)),
        Err(error) => Err(error),
    }
}

/// What the reference says of groups in one launch.
pub(crate) fn corruption_of(groups: &[[Vec<u8>; 5]]) -> Option<Corruption> {
    let mut first_block = 0;
    for tensors in groups {
        let raw = raw_of(tensors);
        let result = huffman::reference::decode(&raw, &mut vec![0; raw.sign_mantissa.len()]);
        if let Err(corruption) = result {
            return Some(Corruption { block: first_block + corruption.block, ..corruption });
        }
        first_block += raw.encoded_exponent.len().div_ceil(4096) as u32;
    }
    None
}

/// A sound group whose last code ends past its stream, in bits that read as zeros: `n` codes of one bit, and one of
/// 9 that begins in the last byte.
pub(crate) fn group_that_ends_outside(n: usize) -> [Vec<u8>; 5] {
    assert_eq!(n % 8, 7);
    let mut luts = vec![0_u8; 3 * 256];
    luts[..128].fill(120);
    luts[128..256].fill(255);
    luts[256..512].fill(121);
    luts[512 + 120] = 1;
    luts[512 + 121] = 9;
    let mut codes = vec![0; n / 8 + 1];
    codes[n / 8] = 1;
    let n_elements = n as u32 + 1;
    let positions = [0, n_elements].iter().flat_map(|at: &u32| at.to_le_bytes()).collect();
    [codes, vec![3; n + 1], luts, vec![0; 320], positions]
}
