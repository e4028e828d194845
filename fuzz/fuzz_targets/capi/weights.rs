//! Weights in device memory: DF11, compact and indexed groups.

use lacuna::huffman::indexed::{self, CodeTable};
use lacuna::huffman::{self, EncodedGroup, compact};

use crate::bench::{Args, Bench, told, views};
use crate::huffman::{bytes_of, weights};
use crate::table::function;
use crate::value::{Fields, Value, View, fields};

const N: usize = 500;

fn df11_group(group: &EncodedGroup) -> Fields {
    fields! {
        name: b"layers.7".to_vec(), encoded_exponent: group.encoded_exponent.clone(), sign_mantissa: group.sign_mantissa.clone(),
        luts: group.luts.clone(), gaps: group.gaps.clone(), output_positions: group.output_positions.clone(),
        split_positions: group.split_positions.clone(),
    }
}

/// Memory of handles that stay, which is there as long as the process.
fn there(bytes: &[u8], dtype: u64) -> View {
    there_at(0, bytes, dtype)
}

/// The same, so many bytes after a multiple of 16.
fn there_at(offset: usize, bytes: &[u8], dtype: u64) -> View {
    let size = crate::lay::dtype_size(dtype as u32);
    let mut memory = vec![0_u128; bytes.len() / 16 + 17];
    bytemuck::cast_slice_mut(&mut memory)[offset..][..bytes.len()].copy_from_slice(bytes);
    let memory = Box::leak(memory.into_boxed_slice());
    View::There([
        memory.as_mut_ptr().expose_provenance() as u64 + offset as u64,
        (bytes.len() / size) as u64,
        dtype,
        0,
    ])
}

pub(crate) fn cases(bench: &mut Bench) {
    let weights = weights(N);
    let bytes: &[u8] = bytemuck::cast_slice(&weights);
    let group = huffman::encode(&[bytes]).expect("a group");
    let of_compact = compact::encode(&[bytes]).expect("a group");
    bench.shape("lacuna_df11_group", df11_group(&group));
    let compact_group = fields! {
        name: b"lm_head".to_vec(), codes: of_compact.codes.clone(), sign_mantissa: of_compact.sign_mantissa.clone(),
        lengths: of_compact.lengths.to_vec(), tile_bytes: bytes_of(&of_compact.tile_bytes),
        granule_bits: bytes_of(&of_compact.granule_bits), split_positions: of_compact.split_positions.clone(),
    };
    bench.shape("lacuna_compact_group", compact_group.clone());
    for name in ["lacuna_df11_group_decode", "lacuna_compact_group_decode"] {
        bench.call(name, fields! { output: Value::Room(2 * N) });
    }
    let room = Value::Room(lacuna::capi::LACUNA_CODE_TABLE_BYTES as usize);
    bench.call("lacuna_df11_code_table", fields! { luts: group.luts.clone(), table: room.clone() });
    let lengths = of_compact.lengths.to_vec();
    bench.call("lacuna_compact_code_table", fields! { lengths: lengths, table: room });
    bench.call("lacuna_index_len", fields! { n_elements: N as u64 });

    // Of each format, uploaded and borrowed.
    let groups = || vec![df11_group(&group)];
    let upload =
        |bench: &mut Bench| bench.make("lacuna_weights_upload_df11", fields! { groups: groups() });
    upload(bench);
    // Where no index is made: it stays without one.
    let of_views = fields! {
        encoded_exponent: there_at(8, &group.encoded_exponent, 6), sign_mantissa: there(&group.sign_mantissa, 6),
        luts: there(&group.luts, 6), gaps: there(&group.gaps, 6), output_positions: there(&group.output_positions, 6),
    };
    let df11 = bench.make("lacuna_weights_borrow_df11", fields! { groups: vec![of_views] });
    bench.call("lacuna_weights_index", fields! { weights: Value::Handle(df11) });

    let indexed =
        bench.make("lacuna_weights_upload_compact", fields! { groups: vec![compact_group] });
    let parsed = group.as_raw("layers.7").parse().expect("a sound group");
    let index = indexed::reference::index(&parsed).expect("a sound group").expect("an index");
    let table = CodeTable::of(&parsed).to_bytes();
    let of_host = fields! {
        codes: group.encoded_exponent.clone(), sign_mantissa: group.sign_mantissa.clone(), tile_bytes: bytes_of(&index.tile_bytes),
        granule_bits: bytes_of(&index.granule_bits), table: table.clone(), luts: group.luts.clone(),
    };
    bench.make("lacuna_weights_upload_indexed", fields! { groups: vec![of_host] });
    let of_views = fields! {
        codes: there(&group.encoded_exponent, 6), sign_mantissa: there(&group.sign_mantissa, 6),
        tile_bytes: there(bytemuck::cast_slice(&index.tile_bytes), 8), granule_bits: there(bytemuck::cast_slice(&index.granule_bits), 7),
        table: there(&table, 6), luts: there(&group.luts, 6),
    };
    bench.make("lacuna_weights_borrow_indexed", fields! { groups: vec![of_views] });
    // Of block 0, or tile 0.
    let status = u64::from(u32::MAX) << 32 | 1;
    for (handle, statuses) in [(df11, [0, status]), (indexed, [status, 0])] {
        let weights = Value::Handle(handle);
        let sizes = told("lacuna_weights_sizes", &[handle]).expect("sizes");
        let args = views("lacuna_decode_weights_args", &sizes, 0).expect("views");
        bench.call("lacuna_decode_weights", fields! { weights: weights.clone(), args: args });
        let workspace = View::Of(sizes["workspace"]);
        let values = fields! { weights: weights.clone(), workspace: workspace };
        bench.call("lacuna_weights_check", values);
        for name in ["lacuna_weights_range", "lacuna_weights_is_indexed"] {
            bench.call(name, fields! { weights: weights.clone() });
        }
        let [tile_status, block_status] = statuses;
        let values =
            fields! { weights: weights, tile_status: tile_status, block_status: block_status };
        bench.call("lacuna_weights_locate", values);
    }
    let weights = Value::Handle(indexed);
    let lens = told("lacuna_index_len", &[N as u64]).expect("lengths");
    let [tiles, granules] = [("tile_bytes", 4), ("granule_bits", 2)]
        .map(|(name, size)| Value::Room(size * lens[name] as usize));
    bench.call(
        "lacuna_weights_download_index",
        fields! { weights: weights.clone(), tile_bytes: tiles, granule_bits: granules },
    );
    let shape = fields! { n_elements: N as u64, n_matrix_rows: 10, row_len: 50, n_rows: 3 };
    let args: Args = |plan, _| {
        let mut lens = told("lacuna_decode_rows_plan_sizes", &[plan])?;
        lens.insert("workspace".to_owned(), 2);
        views("lacuna_decode_rows_args", &lens, 0)
    };
    bench.launch(
        "lacuna_decode_rows",
        "lacuna_decode_rows_plan_new",
        shape,
        args,
        fields! { weights: weights },
    );

    // A spoilt call may name any weights: what can be indexed is, and no call changes them any more.
    let queue = bench.usual("lacuna_queue");
    for handle in bench.neighbours.handles["lacuna_weights"].clone() {
        assert_eq!((function("lacuna_weights_index").call)(&[queue, handle]), 0);
    }
}
