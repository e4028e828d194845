//! What moves rows: `gather_rows`, `scatter_rows`, `scatter_add_rows`, `gather_kv`, `scatter_kv`, `merge_rows`.

use half::{bf16, f16};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::element::E4m3;
use lacuna::kv::KvLists;
use lacuna::select::{
    Absent, KvRows, KvRowsMut, KvRowsPlan, MergeInputs, MergePlan, MergeState, MergeWeights,
    Repeats, RowStrides, RowsPlan, RowsShape,
};

use crate::c::{
    Aligned, Cache, Struct, bits, check_plan_refusals, check_refusals, launch, plan, queue, read,
    rust_queue, sizes, structs, view, view_mut, written,
};
use crate::common::Random;

structs! {
    lacuna_rows_shape, lacuna_rows_sizes, lacuna_gather_rows_args, lacuna_scatter_rows_args,
    lacuna_scatter_add_rows_args,
    lacuna_kv_rows_shape, lacuna_kv_rows_sizes, lacuna_gather_kv_args, lacuna_scatter_kv_args,
    lacuna_merge_rows_shape, lacuna_merge_rows_sizes, lacuna_merge_rows_args,
}

/// Two lists of five rows, of tables of four.
fn c_shape(dtype: lacuna_dtype) -> lacuna_rows_shape {
    lacuna_rows_shape {
        n_lists: 2,
        n_indices: 5,
        n_table_rows: 4,
        row_len: 6,
        dtype: dtype as u32,
        ..lacuna_rows_shape::zeroed()
    }
}

fn rust_shape(element_bytes: u32) -> RowsShape {
    let none = RowStrides { list: 0, row: 0 };
    RowsShape {
        n_lists: 2,
        n_indices: 5,
        index_stride: 0,
        n_table_rows: 4,
        row_len: 6,
        table: none,
        list: none,
        element_bytes,
    }
}

const INDICES: [i32; 10] = [3, -1, 0, 3, 1, 2, 4, 2, 0, 2];

#[test]
fn gather_rows_gathers_as_rust_does() {
    let mut random = Random(4);
    let table: Vec<u16> = (0..48).map(|_| random.next() as u16).collect();
    let (queue, rust) = (queue(), rust_queue());
    let (new, free) = (lacuna_rows_plan_new, lacuna_rows_plan_free);
    // One after the other; and lists of one table, of rows apart.
    let strides = lacuna_rows_shape {
        order: lacuna_rows_order::LACUNA_ROWS_STRIDES as u32,
        index_stride: 5,
        table_stride: 0,
        table_row_stride: 7,
        list_stride: 50,
        list_row_stride: 8,
        ..c_shape(lacuna_dtype::LACUNA_U16)
    };
    let of_rust = RowsShape {
        index_stride: 5,
        table: RowStrides { list: 0, row: 7 },
        list: RowStrides { list: 50, row: 8 },
        ..rust_shape(2)
    };
    for (shape, of_rust, absent) in [
        (c_shape(lacuna_dtype::LACUNA_U16), rust_shape(2).dense(), Absent::Zeros),
        (strides, of_rust, Absent::Kept),
    ] {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_rows_sizes = sizes(lacuna_rows_plan_sizes, &plan);
        let of_rust = RowsPlan::new(of_rust).unwrap();
        assert_eq!([sizes.table, sizes.indices], [of_rust.table_len(), of_rust.indices_len()]);
        let mut found = vec![0x7777_u16; sizes.gathered as usize];
        let mut expected = found.clone();
        let args = lacuna_gather_rows_args {
            table: view(&table[..sizes.table as usize]),
            indices: view(&INDICES),
            absent: u32::from(absent == Absent::Kept),
            gathered: view_mut(&mut found),
            ..lacuna_gather_rows_args::zeroed()
        };
        check_refusals(lacuna_gather_rows, &queue, &plan, &args);
        let wrong = lacuna_gather_rows_args { absent: 2, ..args };
        let message = "absent: 2 is no lacuna_absent".to_owned();
        let answer = launch(lacuna_gather_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_RANGE, message)));
        let mut wrong = args;
        wrong.table.dtype = lacuna_dtype::LACUNA_BF16 as u32;
        let message = "dtype of table: bf16 is not one of u16".to_owned();
        let answer = launch(lacuna_gather_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_DTYPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_gather_rows, &queue, &plan, &args).unwrap();

        let table = read(&rust, &table[..sizes.table as usize]);
        let gathered = &mut written(&rust, &mut expected);
        let indices = read(&rust, &INDICES);
        lacuna::select::gather_rows(&rust, &of_rust, &table, &indices, absent, gathered).unwrap();
        assert_eq!(found, expected);
        assert_ne!(found[6] == 0x7777, absent == Absent::Zeros);
    }
}

#[test]
fn plans_of_rows_refuse_what_is_none() {
    let (new, free) = (lacuna_rows_plan_new, lacuna_rows_plan_free);
    let shape = c_shape(lacuna_dtype::LACUNA_U16);
    let wrong = lacuna_rows_shape { order: 2, ..shape };
    let message = "order: 2 is no lacuna_rows_order".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_RANGE, message)));
    let wrong = lacuna_rows_shape { dtype: 0, ..shape };
    let (status, message) = plan(new, free, &wrong).map(drop).unwrap_err();
    assert_eq!(status, LACUNA_DTYPE);
    let allowed = "bf16, f16, f32, e4m3, e5m2, u8, u16, u32, u64, i8, i32, i64";
    assert_eq!(message, format!("dtype of rows: none is not one of {allowed}"));
    let wrong = lacuna_rows_shape { n_table_rows: 1 << 31, ..shape };
    let message = format!("rows of a table: {} is outside 0..2^31", 1_u64 << 31);
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_RANGE, message)));
}

#[test]
fn scatter_rows_scatters_as_rust_does() {
    let mut random = Random(5);
    let source: Vec<E4m3> = (0..60).map(|_| E4m3(random.next() as u8)).collect();
    let (queue, rust) = (queue(), rust_queue());
    let (new, free) = (lacuna_rows_plan_new, lacuna_rows_plan_free);
    let shape = c_shape(lacuna_dtype::LACUNA_E4M3);
    let plan = plan(new, free, &shape).unwrap();
    let sizes: lacuna_rows_sizes = sizes(lacuna_rows_plan_sizes, &plan);
    assert_eq!([sizes.source, sizes.table, sizes.last], [60, 48, 8]);
    let of_rust = RowsPlan::new(rust_shape(1).dense()).unwrap();
    let once = [3, -1, 0, 2, 1, 2, 4, 3, 0, 1];
    for (indices, has_repeats) in [(INDICES, true), (once, false)] {
        let (mut found, mut last) = (vec![E4m3(0x77); 48], [0_u32; 8]);
        let mut expected = found.clone();
        let mut args = lacuna_scatter_rows_args {
            source: view(&source),
            indices: view(&indices),
            table: view_mut(&mut found),
            ..lacuna_scatter_rows_args::zeroed()
        };
        if has_repeats {
            args.last = view_mut(&mut last);
        }
        check_refusals(lacuna_scatter_rows, &queue, &plan, &args);
        let mut wrong = args;
        wrong.table.len = 47;
        let message = "table: expected 48, got 47".to_owned();
        let answer = launch(lacuna_scatter_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_scatter_rows, &queue, &plan, &args).unwrap();

        let mut of_last = [0_u32; 8];
        let mut repeats = match has_repeats {
            true => Repeats::LastWins(written(&rust, &mut of_last)),
            false => Repeats::Never,
        };
        let (source, indices) = (read(&rust, &source), read(&rust, &indices));
        let table = &mut written(&rust, &mut expected);
        lacuna::select::scatter_rows(&rust, &of_rust, &source, &indices, &mut repeats, table)
            .unwrap();
        assert_eq!((found, last), (expected, [0; 8]));
    }
}

#[test]
fn scatter_add_rows_adds_as_rust_does() {
    let mut random = Random(6);
    let source: Vec<bf16> = (0..60).map(|_| bf16::from_f32(random.number())).collect();
    let before: Vec<bf16> = (0..48).map(|_| bf16::from_f32(random.number())).collect();
    let weights: Vec<f32> = (0..10).map(|_| random.number()).collect();
    let (queue, rust) = (queue(), rust_queue());
    let (new, free) = (lacuna_rows_plan_new, lacuna_rows_plan_free);
    let plan_of = |dtype| plan(new, free, &c_shape(dtype)).unwrap();
    let plan = plan_of(lacuna_dtype::LACUNA_BF16);
    let sizes: lacuna_rows_sizes = sizes(lacuna_rows_plan_sizes, &plan);
    assert_eq!(sizes.weights, 10);
    let of_rust = RowsPlan::new(rust_shape(2).dense()).unwrap();
    for has_weights in [true, false] {
        let (mut found, mut expected) = (before.clone(), before.clone());
        let mut args = lacuna_scatter_add_rows_args {
            source: view(&source),
            indices: view(&INDICES),
            table: view_mut(&mut found),
            ..lacuna_scatter_add_rows_args::zeroed()
        };
        if has_weights {
            args.weights = view(&weights);
        }
        check_refusals(lacuna_scatter_add_rows, &queue, &plan, &args);
        let of_bytes = plan_of(lacuna_dtype::LACUNA_U16);
        let message = "dtype of rows to add: u16 is not one of bf16, f16, f32".to_owned();
        let answer = launch(lacuna_scatter_add_rows, &queue, &of_bytes, &args);
        assert_eq!(answer, Err((LACUNA_DTYPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_scatter_add_rows, &queue, &plan, &args).unwrap();

        let (source, indices) = (read(&rust, &source), read(&rust, &INDICES));
        let weights = has_weights.then(|| read(&rust, &weights));
        let table = &mut written(&rust, &mut expected);
        lacuna::select::scatter_add_rows(&rust, &of_rust, &source, &indices, weights, table)
            .unwrap();
        assert_eq!(bits(&found), bits(&expected));
    }
}

#[test]
fn rows_of_caches_move_as_in_rust() {
    let mut random = Random(7);
    let cache = Cache::new(16, || f16::from_f32(random.number()));
    let (queue, rust) = (queue(), rust_queue());
    let (new, free) = (lacuna_kv_rows_plan_new, lacuna_kv_rows_plan_free);
    let c_cache = cache.c_shape();
    for lists in [KvLists::PerHead, KvLists::PerRequest] {
        let shape = lacuna_kv_rows_shape {
            kv: &raw const c_cache,
            n_indices: 3,
            lists: u32::from(lists == KvLists::PerRequest),
            ..lacuna_kv_rows_shape::zeroed()
        };
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_kv_rows_sizes = sizes(lacuna_kv_rows_plan_sizes, &plan);
        let of_rust = KvRowsPlan::new(cache.layout(), 3, lists).unwrap();
        let n_indices = if lists == KvLists::PerHead { 12 } else { 6 };
        assert_eq!([sizes.indices, sizes.keys, sizes.values], [n_indices, 192, 192]);
        // The last row of the second request has no page, and it has no twelfth.
        let all = [0, 5, 11, 9, -1, 2, 3, 11, 8, 1, 4, 7];
        let indices = &all[..n_indices as usize];

        let poison = [Aligned::new([f16::NEG_ONE; 192]), Aligned::new([f16::NEG_ONE; 192])];
        let mut found = poison.clone();
        let [keys, values] = &mut found;
        let args = lacuna_gather_kv_args {
            cache: cache.c_view(),
            indices: view(indices),
            absent: lacuna_absent::LACUNA_ABSENT_KEPT as u32,
            keys: view_mut(keys),
            values: view_mut(values),
            ..lacuna_gather_kv_args::zeroed()
        };
        check_refusals(lacuna_gather_kv, &queue, &plan, &args);
        let mut wrong = args;
        (wrong.values.data, wrong.values.len) = (std::ptr::null_mut(), 0);
        let message = "pools of values: expected 1, got 0".to_owned();
        let answer = launch(lacuna_gather_kv, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        let mut wrong = args;
        wrong.cache.page_table.len = 5;
        let message = "page_table: expected 6, got 5".to_owned();
        let answer = launch(lacuna_gather_kv, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        assert_eq!(found, poison);
        launch(lacuna_gather_kv, &queue, &plan, &args).unwrap();
        let mut expected = poison;
        let [keys, values] = &mut expected;
        let mut gathered =
            KvRowsMut { keys: written(&rust, keys), values: Some(written(&rust, values)) };
        let (view_of_cache, of_indices) = (cache.view(&rust), read(&rust, indices));
        let absent = Absent::Kept;
        lacuna::select::gather_kv(
            &rust,
            &of_rust,
            &view_of_cache,
            &of_indices,
            absent,
            &mut gathered,
        )
        .unwrap();
        assert_eq!(found, expected);

        // Back, to a cache of nothing.
        let rows = found;
        let empty = Cache::new(16, || f16::ZERO);
        let (mut found, mut expected) = (empty.clone(), empty);
        let args = lacuna_scatter_kv_args {
            keys: view(&rows[0]),
            values: view(&rows[1]),
            indices: view(indices),
            cache: found.c_view_mut(),
            ..lacuna_scatter_kv_args::zeroed()
        };
        check_refusals(lacuna_scatter_kv, &queue, &plan, &args);
        assert_eq!(found, expected);
        launch(lacuna_scatter_kv, &queue, &plan, &args).unwrap();
        let source = KvRows { keys: read(&rust, &rows[0]), values: Some(read(&rust, &rows[1])) };
        let target = &mut expected.view_mut(&rust);
        lacuna::select::scatter_kv(&rust, &of_rust, &source, &of_indices, target).unwrap();
        assert_eq!(found, expected);
        assert_ne!(found.keys, Cache::new(16, || f16::ZERO).keys);
    }
    let shape =
        lacuna_kv_rows_shape { kv: &raw const c_cache, lists: 2, ..lacuna_kv_rows_shape::zeroed() };
    let message = "lists: 2 is no lacuna_kv_lists".to_owned();
    assert_eq!(plan(new, free, &shape).map(drop), Err((LACUNA_RANGE, message)));
    let shape = lacuna_kv_rows_shape::zeroed();
    let message = "lacuna_kv_shape is a null pointer".to_owned();
    assert_eq!(plan(new, free, &shape).map(drop), Err((LACUNA_NULL, message)));
}

#[test]
fn merge_rows_merges_as_rust_does() {
    let mut random = Random(8);
    let before = Cache::new(16, || bf16::from_f32(random.number()));
    let evicted = [0, 4, -1, 9, 2, 5, 6, 1, 2, 3, 5, 0];
    let kept = [1, 7, 10, 11, 3, 8, 9, 10, 4, 6, 7, 8, 1, 2, 3, 4];
    let (queue, rust) = (queue(), rust_queue());
    let (new, free) = (lacuna_merge_rows_plan_new, lacuna_merge_rows_plan_free);
    let c_cache = before.c_shape();
    let shape = lacuna_merge_rows_shape {
        kv: &raw const c_cache,
        n_evicted: 3,
        n_kept: 4,
        ..lacuna_merge_rows_shape::zeroed()
    };
    check_plan_refusals(new, free, &shape);
    let fp8 = lacuna_kv_shape { dtype: lacuna_dtype::LACUNA_E4M3 as u32, ..c_cache };
    let wrong = lacuna_merge_rows_shape { kv: &raw const fp8, ..shape };
    let message = "dtype of a cache to merge rows of: e4m3 is not one of bf16, f16".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_DTYPE, message)));
    let plan = plan(new, free, &shape).unwrap();
    let sizes: lacuna_merge_rows_sizes = sizes(lacuna_merge_rows_plan_sizes, &plan);
    let found = [sizes.evicted, sizes.kept, sizes.nearest, sizes.similarities, sizes.thresholds];
    assert_eq!(found, [12, 16, 12, 12, 4]);
    let of_rust = MergePlan::new(before.layout(), 3, 4).unwrap();
    let mut merged = Vec::new();
    for (number, weights) in [(0, MergeWeights::Softmax), (1, MergeWeights::Released)] {
        let thresholds = [-0.5_f32, 0.1, -1.0, 0.0];
        let mut found = (before.clone(), [-7_i32; 12], [7.0_f32; 12], thresholds);
        let mut expected = found.clone();
        let args = lacuna_merge_rows_args {
            evicted: view(&evicted),
            kept: view(&kept),
            decay: 0.5,
            weights: number,
            cache: found.0.c_view_mut(),
            nearest: view_mut(&mut found.1),
            similarities: view_mut(&mut found.2),
            thresholds: view_mut(&mut found.3),
            ..lacuna_merge_rows_args::zeroed()
        };
        check_refusals(lacuna_merge_rows, &queue, &plan, &args);
        let wrong = lacuna_merge_rows_args { weights: 2, ..args };
        let message = "weights: 2 is no lacuna_merge_weights".to_owned();
        let answer = launch(lacuna_merge_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_RANGE, message)));
        let wrong = lacuna_merge_rows_args { decay: 1.5, ..args };
        let message = "decay of a threshold: 1.5 is outside 0 to 1".to_owned();
        let answer = launch(lacuna_merge_rows, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_RANGE, message)));
        assert_eq!(found, expected);
        launch(lacuna_merge_rows, &queue, &plan, &args).unwrap();

        let inputs = MergeInputs {
            evicted: read(&rust, &evicted),
            kept: read(&rust, &kept),
            decay: 0.5,
            weights,
        };
        let (cache, nearest, similarities, thresholds) = &mut expected;
        let mut state = MergeState {
            nearest: written(&rust, nearest),
            similarities: written(&rust, similarities),
            thresholds: written(&rust, thresholds),
        };
        let cache = &mut cache.view_mut(&rust);
        lacuna::select::merge_rows(&rust, &of_rust, &inputs, &mut state, cache).unwrap();
        assert_eq!((&found.0, found.1), (&expected.0, expected.1), "{weights:?}");
        assert_eq!(bits(&found.2), bits(&expected.2));
        assert_eq!(bits(&found.3), bits(&expected.3));
        merged.push(found.0);
    }
    assert!(merged[0] != before && merged[0] != merged[1]);
}
