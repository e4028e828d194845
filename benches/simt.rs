//! The executor's speed: launches of a 512-thread block scan with 18 barriers and 5 shuffles.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

use std::ffi::c_void;

use criterion::{Criterion, criterion_group, criterion_main};
use lacuna::simt::{Config, Fibres, Launch, Schedule, launch};

unsafe extern "C" {
    fn lacuna_simt_selftest_scan(params: *const c_void);
}

fn block_scan(c: &mut Criterion) {
    let input = vec![1_u32; 512];
    let mut output = vec![0_u32; 512];
    // The struct of csrc/simt/selftest/params.h: two addresses and two words.
    let params = [input.as_ptr() as u64, output.as_mut_ptr() as u64, 0];
    let scan = Launch {
        kernel: "selftest_scan",
        entry: lacuna_simt_selftest_scan,
        grid: [1, 1, 1],
        block: [512, 1, 1],
        dynamic_shared_bytes: 0,
    };
    for (name, schedule, fibres) in [
        ("native", Schedule::InOrder, Fibres::Native),
        ("native_random", Schedule::Random, Fibres::Native),
        ("portable", Schedule::InOrder, Fibres::Portable),
    ] {
        let config = Config { schedule, fibres, n_workers: 1, ..Config::default() };
        c.bench_function(&format!("simt/block_scan_512/{name}"), |b| {
            b.iter(|| {
                // SAFETY: the scan reads and writes 512 words.
                unsafe { launch(&config, &scan, params.as_ptr().cast()) }.unwrap();
            });
        });
    }
}

criterion_group!(benches, block_scan);
criterion_main!(benches);
