//! Matrices, and what launches make of them.

use half::bf16;
use lacuna::huffman::lane::{
    self, LaneMatrix, LanePackPlan, LaneShape, LaneUnpackPlan, LaneViews, LaneViewsMut,
    measure_lane, pack_lane, unpack_lane,
};
use lacuna::{Queue, Result};

use crate::common::{Random, clustered_weights};

/// ±0, subnormals, the smallest and largest normals, ±inf, quiet and signalling NaNs.
pub(crate) const SPECIALS: [u16; 14] = [
    0x0000, 0x8000, 0x0001, 0x807F, 0x0080, 0x8080, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFC1,
    0x7F81, 0xFFFF,
];

/// As trained weights, and some that are anything.
pub(crate) fn mixed_weights(n: usize, seed: u64) -> Vec<u16> {
    let mut random = Random(seed);
    let mut weights = clustered_weights(n, seed);
    for weight in &mut weights {
        match random.next() % 64 {
            0 => *weight = SPECIALS[(random.next() % 14) as usize],
            1 => *weight = random.next() as u16,
            _ => {}
        }
    }
    weights
}

/// Random planes. Headers point into the escapes, or anywhere.
pub(crate) fn hostile(shape: LaneShape, n_escapes: usize, is_far: bool, seed: u64) -> LaneMatrix {
    let mut random = Random(seed);
    let mut word = || random.next() << 33 ^ random.next() << 11 ^ random.next();
    LaneMatrix {
        shape,
        palettes: (0..shape.palettes_len()).map(|_| word() as u8).collect(),
        low: (0..shape.low_len()).map(|_| word() as u8).collect(),
        high: (0..shape.high_len()).map(|_| word() as u32).collect(),
        headers: (0..shape.headers_len())
            .map(|_| match is_far {
                true => word(),
                false => {
                    let steps_and_count = (word() & 0xFF0F << 44) | (word() & 0xFFFF) << 32;
                    steps_and_count | (word() % (n_escapes as u64 + 9))
                }
            })
            .collect(),
        escapes: (0..n_escapes).map(|_| word() as u32).collect(),
    }
}

/// What is between rows, and where nothing is written yet.
const BETWEEN: u16 = 0x5A5A;

/// Rows in memory: how far apart their starts are beyond their columns, and how many elements before the first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rows {
    pub(crate) n_between: u64,
    pub(crate) n_before: usize,
}

impl Rows {
    fn stride(&self, shape: &LaneShape) -> u64 {
        shape.n_columns() + self.n_between
    }

    /// These weights as they lie.
    pub(crate) fn lay(&self, shape: &LaneShape, weights: &[u16]) -> Vec<bf16> {
        let mut all = vec![bf16::from_bits(BETWEEN); self.n_before];
        for row in weights.chunks(shape.n_columns() as usize) {
            all.extend(row.iter().map(|weight| bf16::from_bits(*weight)));
            all.extend((0..self.n_between).map(|_| bf16::from_bits(BETWEEN)));
        }
        all.truncate(all.len() - self.n_between as usize);
        all
    }

    /// All of the output, what is between rows too.
    pub(crate) fn unpack(&self, queue: &Queue, matrix: &LaneMatrix) -> Result<Vec<u16>> {
        let plan = LaneUnpackPlan::new(matrix.shape, self.stride(&matrix.shape))?;
        let palettes = queue.upload(&matrix.palettes)?;
        let low = queue.upload(&matrix.low)?;
        let high = queue.upload(&matrix.high)?;
        let headers = queue.upload(&matrix.headers)?;
        let escapes = queue.upload(&matrix.escapes)?;
        let planes = LaneViews {
            shape: matrix.shape,
            palettes: palettes.view(),
            low: low.view(),
            high: high.view(),
            headers: headers.view(),
            escapes: escapes.view(),
        };
        let n = plan.output_len() as usize;
        let mut output = queue.upload(&vec![bf16::from_bits(BETWEEN); self.n_before + n])?;
        let mut view = output.view_mut();
        unpack_lane(queue, &plan, &planes, &mut view.slice_mut(self.n_before..self.n_before + n)?)?;
        let output = queue.download(&output.view())?;
        Ok(output.into_iter().map(bf16::to_bits).collect())
    }
}

/// What `measure_lane` leaves: palettes, workspace, and how many escapes there are.
pub(crate) type Measured = (Vec<u8>, Vec<u64>, u64);

/// A matrix to pack.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) rows: Rows,
    pub(crate) weights: Vec<u16>,
    /// What must come of it.
    pub(crate) packed: LaneMatrix,
}

/// An escape that nobody wrote.
const UNWRITTEN: u32 = 0xA5A5_A5A5;

impl Problem {
    pub(crate) fn new(n_rows: u64, n_columns: u64, rows: Rows, weights: Vec<u16>) -> Self {
        let packed = lane::pack(&weights, LaneShape::new(n_rows, n_columns).unwrap()).unwrap();
        Self { rows, weights, packed }
    }

    pub(crate) fn mixed(n_rows: u64, n_columns: u64, rows: Rows, seed: u64) -> Self {
        Self::new(n_rows, n_columns, rows, mixed_weights((n_rows * n_columns) as usize, seed))
    }

    fn plan(&self) -> LanePackPlan {
        let shape = self.packed.shape;
        LanePackPlan::new(shape, self.rows.stride(&shape)).unwrap()
    }

    pub(crate) fn expected_measured(&self) -> Measured {
        let firsts = self.packed.headers.iter().map(|header| header & 0xFFFF_FFFF);
        let n_tiles = self.packed.shape.tiles_per_row() as usize;
        let of_rows: Vec<u64> = firsts.step_by(n_tiles).collect();
        let headers = self.packed.headers.iter().enumerate();
        let headers = headers.map(|(tile, header)| header - of_rows[tile / n_tiles]);
        let workspace = [0].into_iter().chain(of_rows.iter().copied()).chain(headers).collect();
        (self.packed.palettes.clone(), workspace, self.packed.n_escapes())
    }

    /// Measures twice, with one workspace.
    pub(crate) fn measure(&self, queue: &Queue) -> Result<Measured> {
        let plan = self.plan();
        let weights = queue.upload(&self.rows.lay(plan.shape(), &self.weights))?;
        let weights = weights.view();
        let weights = weights.slice(self.rows.n_before..weights.len())?;
        let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize)?;
        let mut palettes = queue.alloc::<u8>(plan.shape().palettes_len() as usize)?;
        let mut n_escapes = queue.upload(&[99_u64])?;
        for _ in 0..2 {
            let (workspace, palettes) = (&mut workspace.view_mut(), &mut palettes.view_mut());
            measure_lane(queue, &plan, &weights, workspace, palettes, &mut n_escapes.view_mut())?;
        }
        Ok((
            queue.download(&palettes.view())?,
            queue.download(&workspace.view())?,
            queue.download(&n_escapes.view())?[0],
        ))
    }

    /// Packs what was measured so, with room for so many escapes.
    pub(crate) fn pack(
        &self,
        queue: &Queue,
        (palettes, workspace, _): &Measured,
        room: usize,
    ) -> Result<LaneMatrix> {
        let plan = self.plan();
        let shape = *plan.shape();
        let weights = queue.upload(&self.rows.lay(&shape, &self.weights))?;
        let weights = weights.view();
        let weights = weights.slice(self.rows.n_before..weights.len())?;
        let palettes = queue.upload(palettes)?;
        let mut low = queue.upload(&vec![0xA5_u8; shape.low_len() as usize])?;
        let mut high = queue.upload(&vec![0xA5A5_A5A5_u32; shape.high_len() as usize])?;
        let mut headers = queue.upload(&vec![u64::MAX; shape.headers_len() as usize])?;
        let mut escapes = queue.upload(&vec![UNWRITTEN; room])?;
        let mut planes = LaneViewsMut {
            palettes: palettes.view(),
            low: low.view_mut(),
            high: high.view_mut(),
            headers: headers.view_mut(),
            escapes: escapes.view_mut(),
        };
        let workspace = queue.upload(workspace)?;
        pack_lane(queue, &plan, &weights, &workspace.view(), &mut planes)?;
        Ok(LaneMatrix {
            shape,
            palettes: queue.download(&palettes.view())?,
            low: queue.download(&low.view())?,
            high: queue.download(&high.view())?,
            headers: queue.download(&headers.view())?,
            escapes: queue.download(&escapes.view())?,
        })
    }

    /// What must come of a launch with room for so many escapes.
    pub(crate) fn expected_packed(&self, room: usize) -> LaneMatrix {
        let mut packed = self.packed.clone();
        packed.escapes.resize(room, UNWRITTEN);
        packed
    }
}
