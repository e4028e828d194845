//! The room `huffman`, but for weights in device memory: lanes, their products, groups of the host's, and encoders.

use lacuna::huffman::lane::{self, LaneShape};

use crate::bench::{Args, Bench, Lens, told, views};
use crate::kv::BF16;
use crate::lay::Call;
use crate::value::{Fields, Value, View, fields};

/// Weights as trained ones are, bits of bf16.
pub(crate) fn weights(n: usize) -> Vec<u16> {
    let mut state = 0x9E37_79B9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..n).map(|_| (next() & 0x807F | (124 - next().trailing_zeros()) << 7) as u16).collect()
}

pub(crate) fn bytes_of<T: bytemuck::NoUninit>(elements: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(elements).to_vec()
}

/// Views of a matrix's planes, of the sizes that stand in a struct there.
fn planes(at: u64) -> Option<Fields> {
    if at == 0 {
        return None;
    }
    // SAFETY: a struct in the bench's memory, of a header, rows and columns first.
    let [_, n_rows, n_columns] =
        unsafe { std::ptr::with_exposed_provenance::<[u64; 3]>(at as usize).read() };
    let shape = [24 | 1 << 32, n_rows, n_columns];
    let mut lens = told("lacuna_lane_shape_sizes", &[shape.as_ptr().expose_provenance() as u64])?;
    lens.insert("escapes".to_owned(), 5);
    let planes = views("lacuna_lane_views", &lens, 0)?;
    Some(planes.with("n_rows", n_rows).with("n_columns", n_columns))
}

pub(crate) fn cases(bench: &mut Bench) {
    let none = fields! {};
    let matrix = lane::pack(&weights(20 * 136), LaneShape::new(20, 136).expect("a shape"));
    let matrix = matrix.expect("a matrix");
    let header = matrix.shape.header().to_vec();
    let tensors = fields! {
        name: b"o_proj".to_vec(), lane_header: header.clone(), palettes: matrix.palettes.clone(), low: matrix.low.clone(),
        high: bytes_of(&matrix.high), headers: bytes_of(&matrix.headers),
        escapes: bytes_of(&matrix.escapes),
    };
    let shape = fields! { n_rows: 20, n_columns: 136 };
    bench.shape("lacuna_lane_shape", shape.clone());
    bench.shape("lacuna_lane_tensors", tensors);
    bench.shape("lacuna_pack_lane_shape", shape.clone());
    bench.call("lacuna_lane_header", fields! { header: Value::Room(32) });
    bench.call("lacuna_lane_shape_of_header", fields! { header: header });
    bench.call("lacuna_lane_tensors_unpack", fields! { output: Value::Room(2 * 20 * 136) });
    bench.make("lacuna_device_lane_upload", none.clone());
    bench.call("lacuna_device_lane_pack", fields! { weights: View::Of(20 * 136) });

    bench.launch(
        "lacuna_unpack_lane",
        "lacuna_unpack_lane_plan_new",
        shape.clone().with("output_stride", 144),
        |plan, call| {
            let lens = told("lacuna_unpack_lane_plan_sizes", &[plan])?;
            let args = views("lacuna_unpack_lane_args", &lens, 0)?;
            Some(args.with("planes", planes(call.at("shape"))?))
        },
        none.clone(),
    );
    let new = "lacuna_pack_lane_plan_new";
    bench.launch(
        "lacuna_measure_lane",
        new,
        shape.clone(),
        |plan, _| {
            views("lacuna_measure_lane_args", &told("lacuna_pack_lane_plan_sizes", &[plan])?, 0)
        },
        none.clone(),
    );
    bench.launch(
        "lacuna_pack_lane",
        new,
        shape,
        |plan, _| {
            let mut lens = told("lacuna_pack_lane_plan_sizes", &[plan])?;
            lens.insert("escapes".to_owned(), 16);
            views("lacuna_pack_lane_args", &lens, 0)
        },
        none.clone(),
    );

    let factor = |stride: u64| fields! { n_rows: 24, n_columns: 136, output_stride: stride };
    let factors = vec![factor(24), factor(32)];
    let shape = fields! { factors: factors, n_inputs: 3, x_stride: 144, dtype: BF16 };
    let args: Args = |plan, call| multiply_args(plan, call, true);
    let (name, new) = ("lacuna_multiply_lane", "lacuna_multiply_lane_plan_new");
    bench.launch(name, new, shape.clone(), args, none.clone());
    let args: Args = |plan, call| multiply_args(plan, call, false);
    bench.launch(name, new, shape.clone().with("is_gated", 1), args, none);
    bench.shape("lacuna_multiply_lane_shape", shape);
    bench
        .shape("lacuna_device_rates", fields! { bytes_per_second: 4.8e12, n_multiprocessors: 132 });
    encoders(bench);
}

fn multiply_args(plan: u64, call: &Call, has_residuals: bool) -> Option<Fields> {
    let lens = told("lacuna_multiply_lane_plan_sizes", &[plan])?;
    let mut factors = Vec::new();
    for idx in 0..4 {
        let at = call.at(&format!("shape.factors[{idx}]"));
        if at == 0 {
            break;
        }
        let of = |name: &str| {
            let len = *lens.get(&format!("{name}[{idx}]"))?;
            Some((name.to_owned(), len)).filter(|_| len > 0)
        };
        let mut of_factor: Lens = ["bias", "output"].into_iter().filter_map(of).collect();
        if has_residuals {
            of_factor.extend(of("residual"));
        }
        factors.push(views("lacuna_factor", &of_factor, 0)?.with("planes", planes(at)?));
    }
    Some(views("lacuna_multiply_lane_args", &lens, 0)?.with("factors", factors))
}

fn encoders(bench: &mut Bench) {
    let n = 500_u64;
    let weights = || fields! { weights: View::Of(n) };
    bench.make("lacuna_df11_encoder_new", fields! { n_elements: n });
    let measure = bench.call("lacuna_df11_encoder_measure", weights());
    let lens = bench.told_by(measure);
    let args = views("lacuna_df11_encoder_pack_args", &lens, 0).expect("views");
    let pack = bench.call("lacuna_df11_encoder_pack", fields! { args: args });
    bench.after(pack, &[measure]);
    let positions = View::Of(lens["output_positions"]);
    let lengthen =
        bench.call("lacuna_df11_encoder_lengthen", fields! { output_positions: positions });
    bench.after(lengthen, &[measure]);
    let room = Value::Room(lens["luts"] as usize);
    let luts = bench.call("lacuna_df11_encoder_luts", fields! { luts: room });
    bench.after(luts, &[measure]);

    bench.make("lacuna_compact_encoder_new", fields! { n_elements: n });
    let measure = bench.call("lacuna_compact_encoder_measure", weights());
    let lens = bench.told_by(measure);
    let args = views("lacuna_compact_encoder_pack_args", &lens, 0).expect("views");
    let pack = bench.call("lacuna_compact_encoder_pack", fields! { args: args });
    bench.after(pack, &[measure]);
    let [lengths, table] = ["lengths", "table"].map(|name| Value::Room(lens[name] as usize));
    let code =
        bench.call("lacuna_compact_encoder_code", fields! { lengths: lengths, table: table });
    bench.after(code, &[measure]);
    for name in ["lacuna_df11_encoder_new", "lacuna_compact_encoder_new"] {
        bench.call(name, fields! { n_elements: n });
    }
}
