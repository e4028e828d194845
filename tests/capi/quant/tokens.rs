//! What of tokens is kept, and how they matter: `append_kv`, saliency, norms, probes.

use half::{bf16, f16};
use lacuna::attention::{LogBase, LogSumOrder};
use lacuna::capi::lacuna_status::*;
use lacuna::capi::*;
use lacuna::element::E4m3;
use lacuna::kv::KvLists;
use lacuna::quant::{
    AppendOutputs, AppendPlan, AppendShape, MassesOfPrompt, NewTokens, Norm, NormsPlan, NormsShape,
    SaliencyInputs, SaliencyPlan, SaliencyShape, SaliencyState, StepLogits, Turn, choose_probes,
};
use lacuna::select::{MassPlan, MassShape};

use crate::c::{
    Aligned, Cache, Handle, Struct, answer, bits, check_plan_refusals, check_refusals,
    check_wrong_views, launch, plan, queue, read, rust_queue, sizes, structs, view, view_mut,
    written,
};
use crate::common::Random;

structs! {
    lacuna_append_kv_shape, lacuna_append_kv_sizes, lacuna_append_kv_args,
    lacuna_saliency_shape, lacuna_saliency_sizes, lacuna_begin_saliency_args,
    lacuna_add_saliency_args, lacuna_weigh_saliency_args,
    lacuna_measure_norms_shape, lacuna_measure_norms_sizes, lacuna_measure_norms_args,
}

#[test]
fn append_kv_appends_as_rust_does() {
    let mut random = Random(30);
    let mut before = Cache::new(32, || bf16::from_f32(random.number()));
    before.lengths = vec![3, 5];
    let mut number = move || bf16::from_f32(random.number());
    let [keys, values] = [72, 64]
        .map(|stride| Aligned::new((0..9 * stride + 64).map(|_| number()).collect::<Vec<_>>()));
    let mut random = Random(31);
    let cos_sin = Aligned::new((0..7 * 16).map(|_| random.number()));
    let counts = [4_u32, 5];
    let (keeps, positions) = ([1_u32, 0, 1, 1, 9, 1, 1, 1, 0, 1], [6, 0, 1, 2, 3, 4, 5, -1, 9, 2]);
    let (queue, rust) = (queue(), rust_queue());
    let c_cache = before.c_shape();
    let (new, free) = (lacuna_append_kv_plan_new, lacuna_append_kv_plan_free);
    let usual = lacuna_append_kv_shape {
        kv: &raw const c_cache,
        n_tokens: 5,
        ..lacuna_append_kv_shape::zeroed()
    };
    let turned = lacuna_append_kv_shape {
        key_stride: 72,
        rotary_dim: 16,
        n_positions: 7,
        block_tokens: 2,
        turn: 1,
        ..usual
    };
    let of_turned = AppendShape {
        key_stride: 72,
        rotary_dim: 16,
        n_positions: 7,
        turn: Turn::Pairs,
        ..AppendShape::of(before.layout(), 5)
    };
    let halves = lacuna_append_kv_shape { turn: 0, ..turned };
    let of_halves = AppendShape { turn: Turn::Halves, ..of_turned };
    let mut all = Vec::new();
    for (shape, of_rust, is_turned) in [
        (usual, AppendShape::of(before.layout(), 5), false),
        (turned, of_turned, true),
        (halves, of_halves, true),
    ] {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_append_kv_sizes = sizes(lacuna_append_kv_plan_sizes, &plan);
        let of_rust = AppendPlan::new(of_rust).unwrap();
        assert_eq!([sizes.keys, sizes.values], [of_rust.keys_len(), of_rust.values_len()]);
        assert_eq!([sizes.counts, sizes.keeps, sizes.positions, sizes.workspace], [2, 10, 10, 0]);
        let keys = &keys[..sizes.keys as usize];
        let values = &values[..sizes.values as usize];
        let mut found = (before.clone(), [77_u32; 2], [77_u32; 2]);
        let mut expected = found.clone();
        let mut args = lacuna_append_kv_args {
            keys: view(keys),
            values: view(values),
            counts: view(&counts),
            keeps: view(&keeps),
            cache: found.0.c_view_mut(),
            new_lengths: view_mut(&mut found.1),
            dropped: view_mut(&mut found.2),
            ..lacuna_append_kv_args::zeroed()
        };
        if is_turned {
            (args.positions, args.cos_sin) = (view(&positions), view(&cos_sin));
        }
        check_refusals(lacuna_append_kv, &queue, &plan, &args);
        let mut wrong = args;
        wrong.keeps.dtype = lacuna_dtype::LACUNA_U8 as u32;
        let message = "dtype of keeps: u8 is not one of u32".to_owned();
        let answer = launch(lacuna_append_kv, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_DTYPE, message)));
        let mut wrong = args;
        wrong.cache.values = lacuna_append_kv_args::zeroed().cache.values;
        let message = "pools of values: expected 1, got 0".to_owned();
        let answer = launch(lacuna_append_kv, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_append_kv, &queue, &plan, &args).unwrap();

        let tokens = NewTokens {
            keys: read(&rust, keys),
            values: read(&rust, values),
            counts: Some(read(&rust, &counts)),
            keeps: Some(read(&rust, &keeps)),
            positions: is_turned.then(|| read(&rust, &positions)),
            cos_sin: is_turned.then(|| read(&rust, &cos_sin)),
        };
        let (cache, new_lengths, dropped) = &mut expected;
        let cache = &mut cache.view_mut(&rust);
        let mut outputs = AppendOutputs {
            new_lengths: written(&rust, new_lengths),
            dropped: Some(written(&rust, dropped)),
            workspace: None,
        };
        lacuna::quant::append_kv(&rust, &of_rust, &tokens, cache, &mut outputs).unwrap();
        assert_eq!(found, expected);
        // Of the second request's eight rows with pages, three are free.
        assert_eq!((found.1, found.2), ([6, 8], [0, 1]));
        all.push(found.0);
    }
    assert!(all[0] != all[1] && all[1] != all[2]);

    let check = |change: fn(&mut lacuna_append_kv_shape), status, message: &str| {
        let mut shape = turned;
        change(&mut shape);
        let found = plan(new, free, &shape).map(drop);
        assert_eq!(found, Err((status, message.to_owned())));
    };
    check(|s| s.turn = 3, LACUNA_RANGE, "turn: 3 is no lacuna_turn");
    let blocks = "tokens of a block: 3 is outside the powers of two up to 128";
    check(|s| s.block_tokens = 3, LACUNA_RANGE, blocks);
}

#[test]
fn append_kv_counts_many_tokens_in_its_workspace() {
    let mut before = Cache::of(1, 1, 8, 256, 5, || f16::ZERO);
    before.lengths = vec![5];
    let rows = Aligned::new((0..8 * 1030).map(|i| f16::from_f32((i % 2048) as f32)));
    let keeps: Vec<u32> = (0..1030).map(|t| u32::from(t % 64 != 9)).collect();
    let (queue, rust) = (queue(), rust_queue());
    let c_cache = before.c_shape();
    let shape = lacuna_append_kv_shape {
        kv: &raw const c_cache,
        n_tokens: 1030,
        ..lacuna_append_kv_shape::zeroed()
    };
    let plan = plan(lacuna_append_kv_plan_new, lacuna_append_kv_plan_free, &shape).unwrap();
    let sizes: lacuna_append_kv_sizes = sizes(lacuna_append_kv_plan_sizes, &plan);
    let of_rust = AppendPlan::new(AppendShape::of(before.layout(), 1030)).unwrap();
    assert!(sizes.workspace > 0 && sizes.workspace == of_rust.workspace_len());
    let mut workspace = vec![0xDEAD_u32; sizes.workspace as usize];
    let mut found = (before.clone(), [77_u32; 1]);
    let mut expected = found.clone();
    let args = lacuna_append_kv_args {
        keys: view(&rows),
        values: view(&rows),
        keeps: view(&keeps),
        cache: found.0.c_view_mut(),
        new_lengths: view_mut(&mut found.1),
        ..lacuna_append_kv_args::zeroed()
    };
    let n = sizes.workspace;
    let answer = launch(lacuna_append_kv, &queue, &plan, &args);
    assert_eq!(answer, Err((LACUNA_SHAPE, format!("workspace: expected {n}, got 0"))));
    assert_eq!(found, expected);
    let args = lacuna_append_kv_args { workspace: view_mut(&mut workspace), ..args };
    launch(lacuna_append_kv, &queue, &plan, &args).unwrap();

    let tokens = NewTokens {
        keys: read(&rust, &rows),
        values: read(&rust, &rows),
        counts: None,
        keeps: Some(read(&rust, &keeps)),
        positions: None,
        cos_sin: None,
    };
    let new_lengths = written(&rust, &mut expected.1);
    let workspace = Some(written(&rust, &mut workspace));
    let mut outputs = AppendOutputs { new_lengths, dropped: None, workspace };
    let cache = &mut expected.0.view_mut(&rust);
    lacuna::quant::append_kv(&rust, &of_rust, &tokens, cache, &mut outputs).unwrap();
    assert_eq!(found, expected);
    assert_eq!(found.1, [1019]);
}

fn masses_plan(kv: &lacuna_kv_shape, is_sum: u32) -> Handle<lacuna_column_mass_plan> {
    let shape = lacuna_column_mass_shape {
        kv,
        n_q_heads: 4,
        n_probes: 3,
        probe_dtype: lacuna_dtype::LACUNA_BF16 as u32,
        is_per_head: 1,
        is_sum,
        ..Struct::zeroed()
    };
    plan(lacuna_column_mass_plan_new, lacuna_column_mass_plan_free, &shape).unwrap()
}

fn saliency_shape() -> (lacuna_saliency_shape, SaliencyShape) {
    let shape = lacuna_saliency_shape {
        batch: 2,
        n_q_heads: 4,
        n_heads: 2,
        n_tokens: 14,
        n_queries: 3,
        n_positions: 9,
        log_sum_order: 2,
        log_base: 1,
        lists: lacuna_kv_lists::LACUNA_KV_PER_REQUEST as u32,
        is_sum: 1,
        decay: 0.5,
        floor: 1e-4,
        fresh: 3.0,
        ..lacuna_saliency_shape::zeroed()
    };
    let of_rust = SaliencyShape {
        n_queries: 3,
        n_positions: 9,
        log_sum_order: LogSumOrder::BatchHeadsQueries,
        base: LogBase::Two,
        decay: 0.5,
        lists: KvLists::PerRequest,
        is_per_probe: false,
        floor: 1e-4,
        fresh: 3.0,
        ..SaliencyShape::of(2, 4, 2, 14)
    };
    (shape, of_rust)
}

/// A shape of zeros where there may be, and one without.
fn saliency_shapes() -> [(lacuna_saliency_shape, SaliencyShape); 2] {
    let usual = lacuna_saliency_shape {
        batch: 2,
        n_q_heads: 4,
        n_heads: 2,
        n_tokens: 14,
        ..lacuna_saliency_shape::zeroed()
    };
    [(usual, SaliencyShape::of(2, 4, 2, 14)), saliency_shape()]
}

type State = [Vec<f32>; 2];

fn check_state(found: &State, expected: &State) {
    assert_eq!(bits(&found[0]), bits(&expected[0]));
    assert_eq!(bits(&found[1]), bits(&expected[1]));
}

#[test]
fn saliency_is_kept_as_in_rust() {
    let (queue, rust) = (queue(), rust_queue());
    let cache = Cache::new(16, || f16::ONE);
    let c_cache = cache.c_shape();
    let mut random = Random(32);
    let mass_plan = masses_plan(&c_cache, 1);
    let of_masses = MassPlan::new(MassShape {
        is_over_all_heads: false,
        is_mean: false,
        ..MassShape::of(cache.layout(), 4, 3)
    })
    .unwrap();
    let masses: Vec<f32> = (0..of_masses.masses_len()).map(|_| random.number().abs()).collect();
    let n_visible = [4_u32, 9, 12, 1, 6, 11];
    let (lengths, skips) = ([11_u32, 13], [0_u32, 0]);
    let (new, free) = (lacuna_saliency_plan_new, lacuna_saliency_plan_free);
    for (shape, of_rust) in saliency_shapes() {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_saliency_sizes = sizes(lacuna_saliency_plan_sizes, &plan);
        let of_rust = SaliencyPlan::new(of_rust).unwrap();
        assert_eq!([sizes.lengths, sizes.skips, sizes.sums, sizes.counts], [2, 2, 56, 56]);

        // A prompt.
        let poison: State = [vec![-7.0; 56], vec![-7.0; 56]];
        let (mut found, mut expected) = (poison.clone(), poison.clone());
        let [sums, counts] = &mut found;
        let args = lacuna_begin_saliency_args {
            masses: view(&masses),
            n_visible: view(&n_visible),
            lengths: view(&lengths),
            skips: view(&skips),
            sums: view_mut(sums),
            counts: view_mut(counts),
            ..lacuna_begin_saliency_args::zeroed()
        };
        let begin = |masses: *const lacuna_column_mass_plan, args: &lacuna_begin_saliency_args| {
            // SAFETY: null or handles of the library's, a struct and memory of this program's.
            answer(unsafe { lacuna_begin_saliency(queue.address, plan.address, masses, args) })
        };
        let message = "mass_plan is a null pointer".to_owned();
        assert_eq!(begin(std::ptr::null(), &args), Err((LACUNA_NULL, message)));
        let means = masses_plan(&c_cache, 0);
        let message = "scale of the masses: 0.5 is outside 1: sums, not means".to_owned();
        assert_eq!(begin(means.address, &args), Err((LACUNA_RANGE, message)));
        let mut wrong = args;
        wrong.n_visible.len = 5;
        let message = "n_visible: expected 6, got 5".to_owned();
        assert_eq!(begin(mass_plan.address, &wrong), Err((LACUNA_SHAPE, message)));
        check_wrong_views(&args, |args| begin(mass_plan.address, args));
        let mut wrong = args;
        wrong.header.version = 0;
        assert_eq!(begin(mass_plan.address, &wrong).unwrap_err().0, LACUNA_ABI);
        assert_eq!(found, poison);
        begin(mass_plan.address, &args).unwrap();

        let inputs = MassesOfPrompt {
            masses: read(&rust, &masses),
            n_visible: read(&rust, &n_visible),
            lengths: read(&rust, &lengths),
            skips: Some(read(&rust, &skips)),
        };
        let [sums, counts] = &mut expected;
        let mut state =
            SaliencyState { sums: written(&rust, sums), counts: written(&rust, counts) };
        lacuna::quant::begin_saliency(&rust, &of_rust, &of_masses, &inputs, &mut state).unwrap();
        check_state(&found, &expected);
        assert!(found[1].contains(&0.0) && !found[0].contains(&-7.0));

        // A step.
        let logits: Vec<f32> = (0..sizes.logits).map(|_| 3.0 * random.number()).collect();
        let log_sums: Vec<f32> = (0..sizes.log_sums).map(|_| 4.0 + random.number()).collect();
        let n_positions = sizes.tokens / 4;
        let tokens: Vec<i32> = (0..sizes.tokens).map(|i| 14 - (i % n_positions) as i32).collect();
        let skips = [0_u32, 1];
        let before = found.clone();
        let [sums, counts] = &mut found;
        let args = lacuna_add_saliency_args {
            logits: view(&logits),
            log_sums: view(&log_sums),
            tokens: view(&tokens),
            skips: view(&skips),
            sums: view_mut(sums),
            counts: view_mut(counts),
            ..lacuna_add_saliency_args::zeroed()
        };
        check_refusals(lacuna_add_saliency, &queue, &plan, &args);
        let mut wrong = args;
        wrong.log_sums.len -= 1;
        let n = sizes.log_sums;
        let message = format!("log_sums: expected {n}, got {}", n - 1);
        let answer = launch(lacuna_add_saliency, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        check_state(&found, &before);
        launch(lacuna_add_saliency, &queue, &plan, &args).unwrap();
        let inputs = StepLogits {
            logits: read(&rust, &logits),
            log_sums: read(&rust, &log_sums),
            tokens: Some(read(&rust, &tokens)),
            skips: Some(read(&rust, &skips)),
        };
        let [sums, counts] = &mut expected;
        let mut state =
            SaliencyState { sums: written(&rust, sums), counts: written(&rust, counts) };
        lacuna::quant::add_saliency(&rust, &of_rust, &inputs, &mut state).unwrap();
        check_state(&found, &expected);
        assert_ne!(found, before);

        // Scores.
        let norms: Vec<f32> = (0..sizes.norms).map(|_| random.number().abs()).collect();
        let mut scores = vec![-7.0_f32; sizes.scores as usize];
        let mut of_rust_scores = scores.clone();
        let args = lacuna_weigh_saliency_args {
            sums: view(&found[0]),
            counts: view(&found[1]),
            norms: view(&norms),
            lengths: view(&lengths),
            skips: view(&skips),
            scores: view_mut(&mut scores),
            ..lacuna_weigh_saliency_args::zeroed()
        };
        check_refusals(lacuna_weigh_saliency, &queue, &plan, &args);
        let mut wrong = args;
        wrong.counts.dtype = lacuna_dtype::LACUNA_U32 as u32;
        let message = "dtype of counts: u32 is not one of f32".to_owned();
        let answer = launch(lacuna_weigh_saliency, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_DTYPE, message)));
        assert_eq!(scores, of_rust_scores);
        launch(lacuna_weigh_saliency, &queue, &plan, &args).unwrap();
        let inputs = SaliencyInputs {
            sums: read(&rust, &found[0]),
            counts: read(&rust, &found[1]),
            norms: Some(read(&rust, &norms)),
            lengths: Some(read(&rust, &lengths)),
            skips: Some(read(&rust, &skips)),
        };
        let target = &mut written(&rust, &mut of_rust_scores);
        lacuna::quant::weigh_saliency(&rust, &of_rust, &inputs, target).unwrap();
        assert_eq!(bits(&scores), bits(&of_rust_scores));
        assert_ne!(scores[0], -7.0);
    }
}

#[test]
fn plans_of_saliency_refuse_what_is_none() {
    let (new, free) = (lacuna_saliency_plan_new, lacuna_saliency_plan_free);
    let check = |change: fn(&mut lacuna_saliency_shape), message: &str| {
        let (mut shape, _) = saliency_shape();
        change(&mut shape);
        let found = plan(new, free, &shape).map(drop);
        assert_eq!(found, Err((LACUNA_RANGE, message.to_owned())));
    };
    check(|s| s.log_sum_order = 3, "log_sum_order: 3 is no lacuna_log_sum_order");
    check(|s| s.log_base = 2, "log_base: 2 is no lacuna_log_base");
    check(|s| s.is_sum = 3, "is_sum: 3 is no truth: 0 or 1");
    check(|s| s.decay = -1.0, "decay: -1 is outside 0..=1");
    check(|s| s.decay = f32::NAN, "decay: NaN is outside 0..=1");
}

#[test]
fn norms_are_measured_as_in_rust() {
    let (queue, rust) = (queue(), rust_queue());
    let mut random = Random(33);
    let cache = Cache::new(16, || E4m3(random.next() as u8 & 0x7B));
    let c_cache = cache.c_shape();
    let (new, free) = (lacuna_measure_norms_plan_new, lacuna_measure_norms_plan_free);
    let usual = lacuna_measure_norms_shape {
        kv: &raw const c_cache,
        ..lacuna_measure_norms_shape::zeroed()
    };
    let of_few = lacuna_measure_norms_shape { n_tokens: 10, max_new: 2, norm: 1, ..usual };
    let of_rust = NormsShape::of(cache.layout());
    let few = NormsShape { n_tokens: 10, max_new: 2, norm: Norm::L2, ..of_rust };
    let firsts = [3_u32, 0];
    for (shape, of_rust) in [(usual, of_rust), (of_few, few)] {
        check_plan_refusals(new, free, &shape);
        let plan = plan(new, free, &shape).unwrap();
        let sizes: lacuna_measure_norms_sizes = sizes(lacuna_measure_norms_plan_sizes, &plan);
        assert_eq!([sizes.firsts, sizes.norms], [2, 4 * of_rust.n_tokens]);
        let mut found = vec![-7.0_f32; sizes.norms as usize];
        let mut expected = found.clone();
        let args = lacuna_measure_norms_args {
            cache: lacuna_kv { value_scale: -0.5, ..cache.c_view() },
            firsts: view(&firsts),
            norms: view_mut(&mut found),
            ..lacuna_measure_norms_args::zeroed()
        };
        check_refusals(lacuna_measure_norms, &queue, &plan, &args);
        let mut wrong = args;
        wrong.cache.values = lacuna_measure_norms_args::zeroed().cache.values;
        let message = "pools of values: expected 1, got 0".to_owned();
        let answer = launch(lacuna_measure_norms, &queue, &plan, &wrong);
        assert_eq!(answer, Err((LACUNA_SHAPE, message)));
        assert_eq!(found, expected);
        launch(lacuna_measure_norms, &queue, &plan, &args).unwrap();
        let of_rust = NormsPlan::new(of_rust).unwrap();
        let view_of_cache = lacuna::kv::KvView { value_scale: -0.5, ..cache.view(&rust) };
        let (firsts, norms) = (Some(read(&rust, &firsts)), &mut written(&rust, &mut expected));
        lacuna::quant::measure_norms(&rust, &of_rust, &view_of_cache, firsts, norms).unwrap();
        assert_eq!(bits(&found), bits(&expected));
        assert!(found[0] == -7.0 && found[3] > 0.0);
    }
    let wrong = lacuna_measure_norms_shape { norm: 2, ..usual };
    let message = "norm: 2 is no lacuna_norm".to_owned();
    assert_eq!(plan(new, free, &wrong).map(drop), Err((LACUNA_RANGE, message)));
}

#[test]
fn probes_are_those_that_rust_chooses() {
    let mut probes = [77_u32; 30];
    let mut n_probes = 0;
    let mut choose = |n_rows, n_places| {
        // SAFETY: an array and a variable of this program's.
        let status = unsafe {
            let n_probes = &raw mut n_probes;
            lacuna_choose_probes(7, n_rows, 10, 12, probes.as_mut_ptr(), n_places, n_probes)
        };
        (answer(status), probes, n_probes)
    };
    let (result, found, n) = choose(100, 21);
    let message = "places for probes: expected 22, got 21".to_owned();
    assert_eq!((result, found, n), (Err((LACUNA_SHAPE, message)), [77; 30], 22));
    let (result, found, n) = choose(100, 30);
    result.unwrap();
    assert_eq!(found[..n as usize], choose_probes(7, 100, 10, 12));
    assert_eq!(found[22..], [77; 8]);
    assert_eq!(choose(0, 0).2, 0);
    // SAFETY: null, which is refused.
    let found = answer(unsafe {
        lacuna_choose_probes(7, 9, 3, 3, probes.as_mut_ptr(), 30, std::ptr::null_mut())
    });
    assert_eq!(found, Err((LACUNA_NULL, "n_probes is a null pointer".to_owned())));
    let (mut n, found_before) = (77, probes);
    // SAFETY: null, and a variable of this program's.
    let found =
        answer(unsafe { lacuna_choose_probes(7, 9, 3, 3, std::ptr::null_mut(), 30, &raw mut n) });
    assert_eq!(found, Err((LACUNA_NULL, "probes is a null pointer".to_owned())));
    // How many there would be of as many rows as can be said is told without making them.
    // SAFETY: as above.
    let found = answer(unsafe {
        lacuna_choose_probes(7, u32::MAX, u32::MAX, 3, std::ptr::null_mut(), 0, &raw mut n)
    });
    assert_eq!((found.unwrap_err().0, n), (LACUNA_SHAPE, u32::MAX.into()));
    n = 77;
    let places = u64::MAX;
    // SAFETY: of an array of so many places nothing is written.
    let refused = answer(unsafe {
        lacuna_choose_probes(7, 9, 3, 3, probes.as_mut_ptr(), places, &raw mut n)
    });
    let message = format!("probes: {places} elements do not fit into memory");
    assert_eq!(refused, Err((LACUNA_RANGE, message)));
    assert_eq!((probes, n), (found_before, 77), "nothing is written");
}
