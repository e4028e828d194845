//! Products of matrices of lanes: bit for bit the reference, by the models of two generations of tensor cores.

mod problem;

use half::{bf16, f16};
use lacuna::Queue;
use lacuna::element::Real;
use lacuna::huffman::lane::reference::silu;
use lacuna::huffman::lane::{
    DeviceLane, Factor, LaneShape, MOST_INPUTS, ProductPlan, Residual, multiply_lane,
};
use lacuna::mma::Model;
use lacuna::simt::{Checks, Config, Schedule};
use proptest::prelude::*;

use self::problem::{Added, Problem, packed, trained};
use super::problem::{hostile, mixed_weights};
use crate::common;

trait RightOn {
    /// Whether a launch leaves what the reference says.
    fn assert_right_on(&self, queue: &Queue);
}

impl<T: Real> RightOn for Problem<T> {
    #[track_caller]
    fn assert_right_on(&self, queue: &Queue) {
        let Some(model) = common::model_of(queue) else { return };
        let (found, expected) = (self.run(queue).unwrap(), self.expected(model));
        for (found, expected) in found.iter().zip(&expected) {
            let bits = |all: &[T]| bytemuck::cast_slice::<T, u8>(all).to_vec();
            if bits(found) != bits(expected) {
                let n_wrong = found
                    .iter()
                    .zip(expected)
                    .filter(|(a, b)| bits(&[**a]) != bits(&[**b]))
                    .count();
                panic!("{n_wrong} of {} outputs differ", expected.len());
            }
        }
        assert_eq!(found.len(), expected.len());
    }
}

fn simt(schedule: Schedule, seed: u64, mma: Model) -> Queue {
    // What no term of 2^-126 decides is compared too: with the model, not with hardware.
    let checks = Checks { settled: false, ..Checks::ALL };
    Queue::simt(Config { schedule, seed, checks, mma, ..Config::default() })
}

#[test]
fn every_number_of_inputs_and_rows_in_a_block() {
    let matrix = trained(70, 520, 1);
    for n_inputs in [1, 2, 7, 8, 9, 16, 17, 32, 33, 64] {
        let problem = Problem::<bf16>::new(
            vec![matrix.clone()],
            false,
            Added::Nothing,
            n_inputs,
            n_inputs as u64,
        );
        for model in [Model::AMPERE, Model::HOPPER] {
            problem.assert_right_on(&simt(Schedule::Random, 3, model));
        }
    }
    for queue in common::queues() {
        Problem::<f32>::new(vec![matrix.clone()], false, Added::Bias, 3, 9).assert_right_on(&queue);
    }
}

/// So many row tiles that blocks have two of them, and four.
#[test]
fn many_rows_are_of_larger_blocks() {
    for n_rows in [16 * 770, 16 * 1540 - 5] {
        let matrix = trained(n_rows, 8, n_rows);
        let problem = Problem::<bf16>::new(vec![matrix], false, Added::Bias, 2, 4);
        let n_blocks = problem.plan().grid().blocks[0];
        assert_eq!(n_blocks, 385, "blocks of {n_rows} rows");
        let found = problem.run(&Queue::simt(Config::default())).unwrap();
        let expected = problem.expected(Config::default().mma);
        assert!(found == expected);
    }
}

#[test]
fn merged_matrices_give_what_each_gives_alone() {
    let matrices: Vec<_> =
        [(40, 1), (16, 2), (1, 3), (33, 4)].map(|(n_rows, seed)| trained(n_rows, 256, seed)).into();
    let queue = simt(Schedule::Random, 5, Model::HOPPER);
    for added in [Added::Nothing, Added::Bias, Added::Residual, Added::BiasAndOutput] {
        for n_inputs in [1, 12, 30] {
            let problem = Problem::<bf16>::new(matrices.clone(), false, added, n_inputs, 6);
            problem.assert_right_on(&queue);
            let problem = Problem { n_between: 3, ..problem };
            problem.assert_right_on(&queue);
        }
    }
}

#[test]
fn a_gate_is_multiplied_in_one_launch() {
    let queue = simt(Schedule::Random, 5, Model::AMPERE);
    for (n_rows, n_inputs) in [(16, 1), (17, 3), (50, 9), (64, 20), (33, 64)] {
        for added in [Added::Nothing, Added::Bias, Added::Residual, Added::BiasAndOutput] {
            let matrices = vec![trained(n_rows, 136, 7), trained(n_rows, 136, 8)];
            let problem = Problem::<bf16>::new(matrices, true, added, n_inputs, 6);
            problem.assert_right_on(&queue);
            Problem { n_between: 1, ..problem }.assert_right_on(&queue);
        }
    }
    // Blocks of four row tiles, two of each matrix.
    let matrices = vec![trained(16 * 770, 8, 7), trained(16 * 770, 8, 8)];
    let problem = Problem::<f16>::new(matrices, true, Added::Bias, 1, 2);
    assert_eq!(problem.plan().grid().blocks[0], 385);
    let found = problem.run(&Queue::simt(Config::default())).unwrap();
    assert!(found == problem.expected(Config::default().mma));
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let problem =
        Problem::<bf16>::new(vec![trained(20, 1096, 3)], false, Added::BiasAndOutput, 3, 1);
    for config in common::configs() {
        let checks = Checks { settled: false, ..config.checks };
        problem.assert_right_on(&Queue::simt(Config { checks, ..config }));
    }
}

#[test]
fn any_number_of_rows_in_a_block_gives_the_same_bits() {
    let queue = simt(Schedule::Random, 4, Model::HOPPER);
    for n_rows in [16, 32, 64] {
        let problem = Problem::<bf16>::new(vec![trained(90, 264, 4)], false, Added::Bias, 3, 1)
            .of_block_rows(n_rows);
        problem.assert_right_on(&queue);
    }
}

/// An input's outputs are those that it has alone.
#[test]
fn an_input_among_others_has_the_outputs_that_it_has_alone() {
    let queue = Queue::simt(Config::default());
    let many = Problem::<f32>::new(vec![trained(33, 640, 2)], false, Added::Nothing, 40, 3);
    let all = many.run(&queue).unwrap().remove(0);
    for input in [0, 9, 39] {
        let x = many.x[640 * input..][..640].to_vec();
        let alone = Problem {
            x,
            ..Problem::<f32>::new(many.matrices.clone(), false, Added::Nothing, 1, 3)
        };
        assert!(alone.run(&queue).unwrap()[0] == all[33 * input..][..33]);
    }
}

#[test]
fn silu_is_near_the_exact_one() {
    assert_eq!([silu(0.0), silu(-0.0), silu(f32::INFINITY)], [0.0, 0.0, f32::INFINITY]);
    assert!(silu(f32::NAN).is_nan());
    let mut worst: f64 = 0.0;
    for i in 0..400_001 {
        let g = (i - 200_000) as f32 / 2000.0;
        let exact = f64::from(g) / (1.0 + (-f64::from(g)).exp());
        if exact.abs() < 4e-36 {
            continue;
        }
        let unit = exact.abs().log2().floor().exp2() * 2.0_f64.powi(-23);
        worst = worst.max((f64::from(silu(g)) - exact).abs() / unit);
    }
    println!("{worst}");
    assert!(worst < 3.5, "{worst} units in the last place");
}

#[test]
fn what_a_product_cannot_be_is_said() {
    let shape = |n_rows, n_columns| LaneShape::new(n_rows, n_columns).unwrap();
    let text = |plan: lacuna::Result<ProductPlan>| plan.unwrap_err().to_string();
    for (plan, what) in [
        (ProductPlan::new(&[], 1), "matrices of a product"),
        (ProductPlan::new(&[shape(1, 8); 5], 1), "1..=4"),
        (ProductPlan::new(&[shape(1, 8)], 0), "1..=64"),
        (ProductPlan::new(&[shape(1, 8)], MOST_INPUTS + 1), "inputs of a product"),
        (ProductPlan::new(&[shape(1, 12)], 1), "multiples of 8 below 2^31"),
        (ProductPlan::new(&[shape(1, 1 << 31)], 1), "multiples of 8 below 2^31"),
        (
            ProductPlan::new(&[shape(1, 16), shape(1, 8)], 1),
            "columns of a matrix: expected 16, got 8",
        ),
        (
            ProductPlan::gated(shape(2, 8), shape(3, 8), 1),
            "rows of what is gated: expected 2, got 3",
        ),
    ] {
        let text = text(plan);
        assert!(text.contains(what), "{text}");
    }
    let gated = ProductPlan::gated(shape(4, 16), shape(4, 16), 2).unwrap();
    let many = ProductPlan::new(&[shape(4, 16)], 12).unwrap();
    assert!(many.with_block_rows(64).is_ok() && gated.with_block_rows(32).is_ok());
    for (plan, n_rows) in [(gated, 16), (many, 32), (many, 65), (gated, 48), (many, 0)] {
        let text = text(plan.with_block_rows(n_rows));
        assert!(text.contains("rows of a block: ") && text.contains("64 of up to 16"), "{text}");
    }
    let plan = ProductPlan::new(&[shape(4, 16)], 2).unwrap();
    for (strides, what) in [
        (plan.with_strides(8, &[4], &[4]), "stride of inputs"),
        (plan.with_strides(20, &[4], &[4]), "stride of inputs"),
        (plan.with_strides(1 << 31, &[4], &[4]), "from the columns on, below 2^31"),
        (plan.with_strides(16, &[3], &[4]), "stride of an output"),
        (plan.with_strides(16, &[4], &[u64::MAX]), "stride of a residual"),
        (plan.with_strides(16, &[4, 4], &[4]), "strides of outputs: expected 1, got 2"),
    ] {
        let text = text(strides);
        assert!(text.contains(what), "{text}");
    }
}

fn shape_and_inputs() -> impl Strategy<Value = (u64, u64, usize)> {
    (
        1_u64..70,
        (1_u64..150).prop_map(|n| 8 * n),
        prop_oneof![1_usize..12, Just(16), Just(17), 33_usize..40],
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_weights_are_multiplied((n_rows, n_columns, n_inputs) in shape_and_inputs(), seed: u64) {
        let matrix = packed(&mixed_weights((n_rows * n_columns) as usize, seed), n_rows, n_columns);
        let problem = Problem::<f32>::new(vec![matrix], false, Added::Nothing, n_inputs, seed);
        let model = if seed % 2 == 0 { Model::AMPERE } else { Model::HOPPER };
        problem.assert_right_on(&simt(Schedule::Random, seed, model));
    }

    #[test]
    fn any_planes_are_multiplied(
        (n_rows, n_columns, n_inputs) in shape_and_inputs(),
        n_escapes in 0_usize..400,
        is_far: bool,
        seed: u64,
    ) {
        let matrix = hostile(LaneShape::new(n_rows, n_columns).unwrap(), n_escapes, is_far, seed);
        let problem = Problem::<f32>::new(vec![matrix], false, Added::Nothing, n_inputs, seed);
        problem.assert_right_on(&simt(Schedule::Random, seed, Model::HOPPER));
    }

    #[test]
    fn plans_take_any_sizes(
        shapes in prop::collection::vec((1_u64..1 << 20, 1_u64..1 << 12), 0..6),
        n_inputs: u64,
        strides in prop::collection::vec(any::<u64>(), 9),
    ) {
        let shapes: Vec<_> = shapes.into_iter().map(|(r, c)| LaneShape::new(r, c).unwrap()).collect();
        if let Ok(plan) = ProductPlan::new(&shapes, n_inputs % 80) {
            let n = plan.n_factors();
            let _ = plan.with_strides(strides[0], &strides[1..1 + n], &strides[5..5 + n]);
        }
    }
}

/// What would be passed over in silence is refused.
#[test]
fn what_is_gated_has_no_residual_and_no_output() {
    let queue = Queue::simt(Config::default());
    let planes = DeviceLane::upload(&queue, &trained(16, 128, 1).as_raw()).unwrap();
    let plan = ProductPlan::gated(*planes.shape(), *planes.shape(), 1).unwrap();
    let x = queue.alloc::<bf16>(128).unwrap();
    let mut outputs = [(); 2].map(|()| queue.alloc::<bf16>(16).unwrap());
    let mut text = |residual, has_output: bool| {
        let [gate, up] = &mut outputs;
        let factor =
            |output, residual| Factor { planes: planes.views(), bias: None, residual, output };
        let mut factors = [
            factor(Some(gate.view_mut()), Residual::None),
            factor(has_output.then(|| up.view_mut()), residual),
        ];
        multiply_lane(&queue, &plan, &x.view(), &mut factors).map_err(|error| error.to_string())
    };
    assert_eq!(text(Residual::None, false), Ok(()));
    assert_eq!(text(Residual::None, true).unwrap_err(), "outputs of a matrix: expected 0, got 1");
    assert_eq!(
        text(Residual::Output, false).unwrap_err(),
        "residuals of what is gated: expected 0, got 1"
    );
}
