//! The room `huffman`.

use lacuna::huffman::compact::EncodePlan;
use lacuna::huffman::indexed::{IndexedRowsPlan, IndexedRowsShape, IndexedShape};
use lacuna::huffman::lane::{LanePackPlan, LaneShape, LaneUnpackPlan, ProductPlan};
use lacuna::huffman::{DecodePlan, GroupPath, GroupShape};
use lacuna_fuzz::Input;

use crate::sizes::{flag, launched, possible, product, same, size, spread};

pub(crate) fn group(input: &mut Input<'_>) -> GroupShape {
    let n_code_bytes = size(input, 10_000);
    GroupShape {
        n_code_bytes,
        n_elements: size(input, 20_000),
        n_lut_rows: size(input, 3) as u32,
        n_positions: size(input, n_code_bytes.div_ceil(4096) + 1) as u32,
    }
}

pub(crate) fn decode(input: &mut Input<'_>) {
    let groups: Vec<_> = (0..input.byte() % 8).map(|_| group(input)).collect();
    let Ok(plan) = DecodePlan::new(&groups) else { return };
    let mut end = 0;
    for (idx, group) in groups.iter().enumerate() {
        let range = plan.output_range(idx).expect("a group of the plan");
        assert!(range.start >= end && range.end - range.start == group.n_elements);
        end = range.end;
    }
    assert_eq!(plan.output_len(), end);
    let n_blocks: u128 = groups.iter().map(|group| u128::from(group.n_blocks())).sum();
    launched(&plan.plain_grid(), [n_blocks, 1, 1]);
    let block = input.u32();
    assert_eq!(plan.locate_block(block).is_some(), u128::from(block) < n_blocks);
    let _ = (plan.least_bytes(), plan.workspace_bytes());
}

pub(crate) fn indexed(input: &mut Input<'_>) {
    let groups: Vec<_> = (0..input.byte() % 8)
        .map(|_| {
            let plain = group(input);
            let GroupShape { n_code_bytes, n_elements, n_lut_rows, .. } = plain;
            match flag(input) {
                true => GroupPath::Plain(plain),
                false => GroupPath::Indexed(IndexedShape { n_code_bytes, n_elements, n_lut_rows }),
            }
        })
        .collect();
    if let Ok(plan) = DecodePlan::new(&groups) {
        let plans = [Ok(plan.clone()), plan.with_block_tiles(size(input, 4) as u32)];
        for plan in plans.into_iter().flatten() {
            possible(&plan.grid());
            possible(&plan.plain_grid());
            let _ = (plan.locate_tile(input.u32()), plan.locate_block(input.u32()));
            let _ = (plan.least_bytes(), plan.workspace_bytes());
        }
    }
    let [n_elements, row_len] = [size(input, 20_000), size(input, 100)];
    let first_element = size(input, 0);
    let n_left = n_elements.saturating_sub(first_element);
    let shape = IndexedRowsShape {
        n_elements,
        first_element,
        n_matrix_rows: size(input, n_left / row_len.max(1)),
        row_len,
        n_rows: size(input, 10),
        output_stride: size(input, row_len),
    };
    let Ok(plan) = IndexedRowsPlan::new(shape) else { return };
    same(plan.output_len(), spread(shape.n_rows.into(), shape.output_stride, row_len.into()));
    possible(&plan.grid());
}

pub(crate) fn lane(input: &mut Input<'_>) {
    if let Ok(plan) = EncodePlan::new(size(input, 10_000)) {
        same(plan.most_code_bytes(), (12 * u128::from(plan.n_elements())).div_ceil(8));
        let _ = (plan.workspace_len(), plan.n_zeros(), plan.least_bytes(plan.most_code_bytes()));
        for grid in [plan.count_grid(), plan.place_grid(), plan.pack_grid()] {
            possible(&grid);
        }
    }
    let [n_rows, n_columns] = [size(input, 100), size(input, 300)];
    let Ok(shape) = LaneShape::new(n_rows, n_columns) else { return };
    same(shape.n_weights(), product(&[n_rows, n_columns]));
    let stride = size(input, n_columns);
    let len = spread(n_rows.into(), stride, n_columns.into());
    if let Ok(plan) = LaneUnpackPlan::new(shape, stride) {
        same(plan.output_len(), len);
        plan.least_bytes(input.u64());
        possible(&plan.grid());
    }
    if let Ok(plan) = LanePackPlan::new(shape, stride) {
        same(plan.weights_len(), len);
        let _ = (plan.workspace_len(), plan.least_measured_bytes());
        plan.least_packed_bytes(input.u64());
        possible(&plan.measure_grid());
        possible(&plan.pack_grid());
    }
}

pub(crate) fn multiply(input: &mut Input<'_>) {
    let n_columns = size(input, 512);
    let shapes: Vec<_> = (0..input.byte() % 6)
        .filter_map(|_| {
            LaneShape::new(size(input, 256), if flag(input) { n_columns } else { 512 }).ok()
        })
        .collect();
    let n_inputs = size(input, 4);
    let plan = match shapes[..] {
        [gate, up] if flag(input) => ProductPlan::gated(gate, up, n_inputs),
        _ => ProductPlan::new(&shapes, n_inputs),
    };
    let Ok(plan) = plan else { return };
    let mut strides =
        || -> Vec<_> { shapes.iter().map(|shape| size(input, shape.n_rows())).collect() };
    let (outputs, residuals) = (strides(), strides());
    let x = size(input, plan.n_columns());
    let plans = [
        Ok(plan),
        plan.with_strides(x, &outputs, &residuals),
        plan.with_inputs(size(input, 8)),
        plan.with_block_rows(size(input, 32)),
    ];
    for plan in plans.into_iter().flatten() {
        let n = u128::from(plan.n_inputs());
        same(plan.x_len(), spread(n, plan.x_stride(), plan.n_columns().into()));
        for (idx, shape) in shapes.iter().enumerate().take(plan.n_outputs()) {
            let n_rows = shape.n_rows().into();
            same(plan.output_len(idx), spread(n, plan.output_stride(idx), n_rows));
            same(plan.residual_len(idx), spread(n, plan.residual_stride(idx), n_rows));
        }
        let _ = (plan.least_bytes(1 << 40, 4), plan.kernel_name());
        possible(&plan.grid());
    }
}
