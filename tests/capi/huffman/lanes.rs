//! Matrices of lanes.

use std::ptr::null;

use half::{bf16, f16};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::huffman::lane::{
    self, Factor, LaneMatrix, LaneShape, LaneViews, ProductPlan, Residual, multiply_lane,
};
use lacuna::{Element, Queue};

use super::{bytes, weights};
use crate::c::{
    Aligned, Handle, Refused, Struct, answer, check_plan_refusals, check_refusals, launch, made,
    plan, queue, read, rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_lane_shape, lacuna_lane_sizes, lacuna_lane_tensors, lacuna_lane_views,
    lacuna_unpack_lane_shape, lacuna_unpack_lane_sizes, lacuna_unpack_lane_args,
    lacuna_pack_lane_shape, lacuna_pack_lane_sizes, lacuna_measure_lane_args, lacuna_pack_lane_args,
    lacuna_factor_shape, lacuna_multiply_lane_shape, lacuna_multiply_lane_sizes, lacuna_factor,
    lacuna_multiply_lane_args, lacuna_device_rates, lacuna_multiply_lane_estimate,
}

fn refused<T>(status: lacuna_status, message: &str) -> Result<T, Refused> {
    Err((status, message.to_owned()))
}

/// A matrix with some escapes.
fn matrix(seed: u64, n_rows: u64, n_columns: u64) -> (Vec<u16>, LaneMatrix) {
    let mut original = weights(seed, (n_rows * n_columns) as usize);
    original.iter_mut().step_by(97).for_each(|weight| *weight = 0x7F01);
    let packed = lane::pack(&original, LaneShape::new(n_rows, n_columns).unwrap()).unwrap();
    (original, packed)
}

fn tensors(matrix: &LaneMatrix, header: &[u8]) -> lacuna_lane_tensors {
    lacuna_lane_tensors {
        name: bytes(b"o_proj"),
        lane_header: bytes(header),
        palettes: bytes(&matrix.palettes),
        low: bytes(&matrix.low),
        high: bytes(bytemuck::cast_slice(&matrix.high)),
        headers: bytes(bytemuck::cast_slice(&matrix.headers)),
        escapes: bytes(bytemuck::cast_slice(&matrix.escapes)),
        ..lacuna_lane_tensors::zeroed()
    }
}

fn upload(
    queue: &Handle<lacuna_queue>,
    tensors: &lacuna_lane_tensors,
) -> Result<Handle<lacuna_device_lane>, Refused> {
    // SAFETY: a handle of the library's, a struct and a variable of this program's.
    made(lacuna_device_lane_free, |address| unsafe {
        lacuna_device_lane_upload(queue.address, tensors, address)
    })
}

fn views(lane: &Handle<lacuna_device_lane>) -> lacuna_lane_views {
    let mut views = lacuna_lane_views::zeroed();
    // SAFETY: a handle of the library's and a struct of this program's.
    answer(unsafe { lacuna_device_lane_views(lane.address, &raw mut views) }).unwrap();
    views
}

/// The planes as they lie in a caller's memory.
struct Planes {
    shape: LaneShape,
    palettes: Aligned<u8>,
    low: Aligned<u8>,
    high: Aligned<u32>,
    headers: Aligned<u64>,
    escapes: Aligned<u32>,
}

impl Planes {
    fn new(matrix: &LaneMatrix) -> Self {
        Self {
            shape: matrix.shape,
            palettes: Aligned::new(matrix.palettes.clone()),
            low: Aligned::new(matrix.low.clone()),
            high: Aligned::new(matrix.high.clone()),
            headers: Aligned::new(matrix.headers.clone()),
            escapes: Aligned::new(matrix.escapes.clone()),
        }
    }

    fn c_views(&self) -> lacuna_lane_views {
        lacuna_lane_views {
            n_rows: self.shape.n_rows(),
            n_columns: self.shape.n_columns(),
            palettes: view(&self.palettes),
            low: view(&self.low),
            high: view(&self.high),
            headers: view(&self.headers),
            escapes: view(&self.escapes),
            ..lacuna_lane_views::zeroed()
        }
    }

    fn views(&self, queue: &Queue) -> LaneViews<'_> {
        LaneViews {
            shape: self.shape,
            palettes: read(queue, &self.palettes),
            low: read(queue, &self.low),
            high: read(queue, &self.high),
            headers: read(queue, &self.headers),
            escapes: read(queue, &self.escapes),
        }
    }
}

#[test]
fn a_matrix_goes_up_and_comes_back() {
    let queue = queue();
    let (original, packed) = matrix(11, 20, 136);
    let shape = lacuna_lane_shape { n_rows: 20, n_columns: 136, ..lacuna_lane_shape::zeroed() };
    let mut of = lacuna_lane_sizes::zeroed();
    let mut header = [0_u8; LACUNA_LANE_HEADER_BYTES as usize];
    let mut back = lacuna_lane_shape::zeroed();
    // SAFETY: structs and an array of this program's.
    unsafe {
        answer(lacuna_lane_shape_sizes(&raw const shape, &raw mut of)).unwrap();
        let found = answer(lacuna_lane_header(&raw const shape, header.as_mut_ptr(), 31));
        assert_eq!(found, refused(LACUNA_SHAPE, "header, in bytes: expected 32, got 31"));
        answer(lacuna_lane_header(&raw const shape, header.as_mut_ptr(), 32)).unwrap();
        answer(lacuna_lane_shape_of_header(bytes(&header), &raw mut back)).unwrap();
        let none = lacuna_lane_shape { n_rows: 0, ..shape };
        let found = answer(lacuna_lane_shape_sizes(&raw const none, &raw mut of));
        let message = "weights of a matrix of lanes: 0 is outside 1..2^32";
        assert_eq!(found, refused(LACUNA_RANGE, message));
    }
    assert_eq!(header, packed.shape.header());
    assert_eq!((back.n_rows, back.n_columns), (20, 136));
    let found = [of.palettes, of.low, of.high, of.headers, of.n_weights, of.n_bytes];
    let s = packed.shape;
    let expected =
        [s.palettes_len(), s.low_len(), s.high_len(), s.headers_len(), s.n_weights(), s.n_bytes(0)];
    assert_eq!(found, expected);

    let c_tensors = tensors(&packed, &header);
    let mut unpacked = vec![0; original.len()];
    // SAFETY: a struct and an array of this program's.
    answer(unsafe {
        lacuna_lane_tensors_unpack(&c_tensors, unpacked.as_mut_ptr(), original.len() as u64)
    })
    .unwrap();
    assert!(unpacked == original);
    let other = lacuna_lane_tensors { low: bytes(&packed.low[1..]), ..c_tensors };
    let (status, message) = upload(&queue, &other).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_MALFORMED);
    assert!(message.contains("o_proj") && message.contains("lane_low"), "{message}");

    let lane = upload(&queue, &c_tensors).unwrap();
    let planes = views(&lane);
    let shape = lacuna_unpack_lane_shape {
        n_rows: 20,
        n_columns: 136,
        output_stride: 144,
        ..lacuna_unpack_lane_shape::zeroed()
    };
    let (new, free) = (lacuna_unpack_lane_plan_new, lacuna_unpack_lane_plan_free);
    check_plan_refusals(new, free, &shape);
    let plan = plan(new, free, &shape).unwrap();
    let of: lacuna_unpack_lane_sizes = sizes(lacuna_unpack_lane_plan_sizes, &plan);
    let mut output = Aligned::new(vec![bf16::from_bits(0x5555); of.output as usize]);
    let args = lacuna_unpack_lane_args {
        planes: &raw const planes,
        output: view_mut(&mut output),
        ..lacuna_unpack_lane_args::zeroed()
    };
    let unpack = lacuna_unpack_lane;
    check_refusals(unpack, &queue, &plan, &args);
    let null_planes = lacuna_unpack_lane_args { planes: null(), ..args };
    let message = "lacuna_lane_views is a null pointer";
    assert_eq!(launch(unpack, &queue, &plan, &null_planes), refused(LACUNA_NULL, message));
    let other = lacuna_lane_views { n_rows: 19, ..planes };
    let other = lacuna_unpack_lane_args { planes: &raw const other, ..args };
    let message = "rows of the planes: expected 20, got 19";
    assert_eq!(launch(unpack, &queue, &plan, &other), refused(LACUNA_SHAPE, message));
    assert!(output.iter().all(|weight| weight.to_bits() == 0x5555));
    launch(unpack, &queue, &plan, &args).unwrap();
    for (row, expected) in output.chunks(144).zip(original.chunks(136)) {
        assert!(row[..136].iter().map(|w| w.to_bits()).eq(expected.iter().copied()));
        assert!(row[136..].iter().all(|weight| weight.to_bits() == 0x5555));
    }
}

#[test]
fn a_matrix_is_packed_as_the_cpu_packs_it() {
    let queue = queue();
    for (seed, n_escapes) in [(12, None), (13, Some(0))] {
        let (mut original, mut packed) = matrix(seed, 20, 136);
        if n_escapes == Some(0) {
            original.fill(0x3F80);
            packed = lane::pack(&original, packed.shape).unwrap();
        }
        let weights: Aligned<bf16> =
            Aligned::new(original.iter().map(|bits| bf16::from_bits(*bits)));
        let shape = lacuna_pack_lane_shape {
            n_rows: 20,
            n_columns: 136,
            ..lacuna_pack_lane_shape::zeroed()
        };
        let (new, free) = (lacuna_pack_lane_plan_new, lacuna_pack_lane_plan_free);
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let of: lacuna_pack_lane_sizes = sizes(lacuna_pack_lane_plan_sizes, &plan);
        let mut workspace = Aligned::<u64>::zeros(of.workspace);
        let mut palettes = Aligned::new(vec![0x55_u8; of.palettes as usize]);
        let mut n_escapes = [77_u64];
        let args = lacuna_measure_lane_args {
            weights: view(&weights),
            palettes: view_mut(&mut palettes),
            n_escapes: view_mut(&mut n_escapes),
            workspace: view_mut(&mut workspace),
            ..lacuna_measure_lane_args::zeroed()
        };
        check_refusals(lacuna_measure_lane, &queue, &plan, &args);
        assert_eq!(n_escapes, [77]);
        launch(lacuna_measure_lane, &queue, &plan, &args).unwrap();
        assert_eq!(n_escapes, [packed.n_escapes()]);
        assert!(palettes.to_vec() == packed.palettes);

        let mut low = Aligned::<u8>::zeros(of.low);
        let mut high = Aligned::<u32>::zeros(of.high);
        let mut headers = Aligned::<u64>::zeros(of.headers);
        let mut escapes = Aligned::<u32>::zeros(n_escapes[0]);
        let mut args = lacuna_pack_lane_args {
            weights: view(&weights),
            palettes: view(&palettes),
            low: view_mut(&mut low),
            high: view_mut(&mut high),
            headers: view_mut(&mut headers),
            escapes: view_mut(&mut escapes),
            workspace: view(&workspace),
            ..lacuna_pack_lane_args::zeroed()
        };
        if n_escapes == [0] {
            args.escapes = lacuna_pack_lane_args::zeroed().escapes;
        }
        check_refusals(lacuna_pack_lane, &queue, &plan, &args);
        let other = lacuna_pack_lane_args { high: args.low, ..args };
        let message = "dtype of high: u8 is not one of u32";
        let found = launch(lacuna_pack_lane, &queue, &plan, &other);
        assert_eq!(found, refused(LACUNA_DTYPE, message));
        assert!(low.iter().all(|byte| *byte == 0));
        launch(lacuna_pack_lane, &queue, &plan, &args).unwrap();
        assert!(low.to_vec() == packed.low && high.to_vec() == packed.high);
        assert!(headers.to_vec() == packed.headers && escapes.to_vec() == packed.escapes);

        // The same in memory of the library's.
        let weights_view = view(&weights);
        // SAFETY: a handle of the library's, structs, memory and a variable of this program's.
        let lane = made(lacuna_device_lane_free, |address| unsafe {
            let weights = &raw const weights_view;
            lacuna_device_lane_pack(queue.address, &raw const shape, weights, address)
        });
        let planes = views(&lane.unwrap());
        assert_eq!(planes.escapes.len, packed.n_escapes());
        assert_eq!((planes.n_rows, planes.n_columns), (20, 136));
    }
}

/// As rust multiplies the same memory.
fn check_product<T: lacuna::element::Real>(dtype: lacuna_dtype, is_gated: bool) {
    let (queue, rust) = (queue(), rust_queue());
    let planes = [21, 22].map(|seed| Planes::new(&matrix(seed, 24, 136).1));
    let mut random = Random(23);
    let mut numbers = |n: u64| -> Vec<f32> { (0..n).map(|_| random.number()).collect() };
    let n_inputs = 3;
    let factors = [24, 32].map(|output_stride| lacuna_factor_shape {
        n_rows: 24,
        n_columns: 136,
        output_stride,
        ..lacuna_factor_shape::zeroed()
    });
    let shape = lacuna_multiply_lane_shape {
        factors: factors.as_ptr(),
        n_factors: 2,
        n_inputs,
        x_stride: 144,
        dtype: dtype as u32,
        is_gated: is_gated.into(),
        ..lacuna_multiply_lane_shape::zeroed()
    };
    let (new, free) = (lacuna_multiply_lane_plan_new, lacuna_multiply_lane_plan_free);
    check_plan_refusals(new, free, &shape);
    let plan = plan(new, free, &shape).unwrap();
    let of: lacuna_multiply_lane_sizes = sizes(lacuna_multiply_lane_plan_sizes, &plan);
    let second = if is_gated { 0 } else { 2 * 32 + 24 };
    assert_eq!((of.x, of.bias), (2 * 144 + 136, [24, 24, 0, 0]));
    assert_eq!(of.output, [3 * 24, second, 0, 0]);
    let x = Aligned::new(numbers(of.x).into_iter().map(bf16::from_f32));
    let bias: Vec<T> = numbers(24).into_iter().map(T::from_f32).collect();
    let residual: Vec<T> = numbers(of.residual[0]).into_iter().map(T::from_f32).collect();
    let start: Vec<T> = numbers(3 * 32).into_iter().map(T::from_f32).collect();
    let [mut outputs, mut expected] =
        [0; 2].map(|_| of.output.map(|len| start[..len as usize].to_vec()));

    let c_planes = planes.each_ref().map(Planes::c_views);
    let [first, rest @ ..] = &mut outputs;
    let none = lacuna_factor::zeroed();
    let c_factors = [
        lacuna_factor {
            planes: &raw const c_planes[0],
            bias: view(&bias),
            residual: view(&residual),
            output: view_mut(first),
            ..none
        },
        lacuna_factor {
            planes: &raw const c_planes[1],
            output: if is_gated { none.output } else { view_mut(&mut rest[0]) },
            is_added_to_output: (!is_gated).into(),
            ..none
        },
    ];
    let args = lacuna_multiply_lane_args {
        x: view(&x),
        factors: c_factors.as_ptr(),
        n_factors: 2,
        ..lacuna_multiply_lane_args::zeroed()
    };
    check_refusals(lacuna_multiply_lane, &queue, &plan, &args);
    let few = lacuna_multiply_lane_args { n_factors: 1, ..args };
    let message = "matrices: expected 2, got 1";
    let found = launch(lacuna_multiply_lane, &queue, &plan, &few);
    assert_eq!(found, refused(LACUNA_SHAPE, message));
    for (value, message) in [
        (1, "is_added_to_output: there is a residual beside it"),
        (2, "is_added_to_output: 2 is no truth: 0 or 1"),
    ] {
        let mut other = c_factors;
        other[0].is_added_to_output = value;
        let args = lacuna_multiply_lane_args { factors: other.as_ptr(), ..args };
        let found = launch(lacuna_multiply_lane, &queue, &plan, &args);
        assert_eq!(found, refused(LACUNA_RANGE, message));
    }
    let same = |one: &[Vec<T>; 4], other: &[Vec<T>; 4]| {
        let bits = |lists: &[Vec<T>; 4]| lists.each_ref().map(|list| list_bytes(list));
        bits(one) == bits(other)
    };
    assert!(same(&outputs, &expected), "refusals write nothing");
    launch(lacuna_multiply_lane, &queue, &plan, &args).unwrap();

    let shapes = planes.each_ref().map(|planes| planes.shape);
    let rust_plan = match is_gated {
        true => ProductPlan::gated(shapes[0], shapes[1], n_inputs).unwrap(),
        false => ProductPlan::new(&shapes, n_inputs).unwrap(),
    };
    let rust_plan = rust_plan.with_strides(144, &[24, 32], &[24, 24]).unwrap();
    let [first, rest @ ..] = &mut expected;
    let mut rust_factors = [
        Factor {
            planes: planes[0].views(&rust),
            bias: Some(read(&rust, &bias)),
            residual: Residual::Of(read(&rust, &residual)),
            output: Some(written(&rust, first)),
        },
        Factor {
            planes: planes[1].views(&rust),
            bias: None,
            residual: if is_gated { Residual::None } else { Residual::Output },
            output: (!is_gated).then(|| written(&rust, &mut rest[0])),
        },
    ];
    multiply_lane(&rust, &rust_plan, &read(&rust, &x), &mut rust_factors).unwrap();
    assert!(same(&outputs, &expected));
    assert!(list_bytes(&outputs[0]) != list_bytes(&start[..72]));
}

fn list_bytes<T: Element>(list: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(list).to_vec()
}

#[test]
fn products_are_those_of_rust() {
    check_product::<bf16>(lacuna_dtype::LACUNA_BF16, false);
    check_product::<f16>(lacuna_dtype::LACUNA_F16, true);
    check_product::<f32>(lacuna_dtype::LACUNA_F32, false);
}

#[test]
fn a_wrong_product_is_refused_and_a_right_one_estimated() {
    let factor =
        lacuna_factor_shape { n_rows: 14_336, n_columns: 4096, ..lacuna_factor_shape::zeroed() };
    let factors = [factor; 5];
    let shape = lacuna_multiply_lane_shape {
        factors: factors.as_ptr(),
        n_factors: 1,
        n_inputs: 1,
        dtype: lacuna_dtype::LACUNA_BF16 as u32,
        ..lacuna_multiply_lane_shape::zeroed()
    };
    let refuse = |shape: lacuna_multiply_lane_shape, status, message: &str| {
        let (new, free) = (lacuna_multiply_lane_plan_new, lacuna_multiply_lane_plan_free);
        assert_eq!(plan(new, free, &shape).map(drop), refused(status, message));
    };
    let most = "matrices of a product: 5 is outside 1..=4";
    refuse(lacuna_multiply_lane_shape { n_factors: 5, ..shape }, LACUNA_RANGE, most);
    // No more of them are read than it takes to refuse them.
    refuse(lacuna_multiply_lane_shape { n_factors: u64::MAX, ..shape }, LACUNA_RANGE, most);
    let message = "matrices of a gated product: expected 2, got 1";
    refuse(lacuna_multiply_lane_shape { is_gated: 1, ..shape }, LACUNA_SHAPE, message);
    let message = "is_gated: 2 is no truth: 0 or 1";
    refuse(lacuna_multiply_lane_shape { is_gated: 2, ..shape }, LACUNA_RANGE, message);
    let message = "dtype of outputs: none is not one of bf16, f16, f32";
    refuse(lacuna_multiply_lane_shape { dtype: 0, ..shape }, LACUNA_DTYPE, message);
    let message = "inputs of a product: 65 is outside 1..=64";
    refuse(lacuna_multiply_lane_shape { n_inputs: 65, ..shape }, LACUNA_RANGE, message);

    let rates = lacuna_device_rates {
        bytes_per_second: 4.8e12,
        n_multiprocessors: 132,
        ..lacuna_device_rates::zeroed()
    };
    let estimate = |shape: &lacuna_multiply_lane_shape| {
        let mut found = lacuna_multiply_lane_estimate::zeroed();
        // SAFETY: structs of this program's.
        answer(unsafe {
            lacuna_multiply_lane_estimate_of(shape, &raw const rates, &raw mut found)
        })
        .unwrap();
        found
    };
    let found = estimate(&shape);
    assert_eq!(found.fastest, lacuna_way::LACUNA_WAY_LANE as u32);
    assert!(found.lane > 0.0 && found.lane < found.bf16 && found.bf16 < found.unpacked);
    let found = estimate(&lacuna_multiply_lane_shape { n_inputs: 2000, ..shape });
    assert!(found.lane < 0.0);
    assert_eq!(found.fastest, lacuna_way::LACUNA_WAY_BF16 as u32);
    assert_eq!(found.fastest_of_lanes, lacuna_way::LACUNA_WAY_UNPACKED as u32);
}
