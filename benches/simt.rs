//! The executor's speed: launches of a 512-thread block scan with 18 barriers and 5 shuffles, and the
//! decode kernel, which reads and writes more than it waits.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

use std::ffi::c_void;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna::Queue;
use lacuna::huffman::{self, DeviceWeights};
use lacuna::region::{Region, Role};
use lacuna::simt::{Checks, Config, Fibres, Launch, Recorder, Schedule, launch};

unsafe extern "C" {
    fn lacuna_simt_selftest_scan(params: *const c_void, is_checked: u32);
}

fn block_scan(c: &mut Criterion) {
    let input = vec![1_u32; 512];
    let mut output = vec![0_u32; 512];
    // The struct of csrc/simt/selftest/params.h: four addresses and two words.
    let params = [input.as_ptr() as u64, output.as_mut_ptr() as u64, 0, 0, 0];
    let scan = Launch {
        kernel: "selftest_scan",
        entry: lacuna_simt_selftest_scan,
        grid: [1, 1, 1],
        block: [512, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    };
    let region = |name, role, address| Region { name, role, address, n_bytes: 4 * 512 };
    let regions = [
        region("input".into(), Role::Input, params[0]),
        region("output".into(), Role::Output, params[1]),
    ];
    let native = Config { n_workers: 1, ..Config::default() };
    let checked = Config { checks: Checks::ALL, ..native.clone() };
    for (name, config) in [
        ("native", native.clone()),
        ("native_random", Config { schedule: Schedule::Random, ..native.clone() }),
        ("portable", Config { fibres: Fibres::Portable, ..native }),
        ("checked", checked.clone()),
        ("checked_and_counted", Config { recorder: Some(Recorder::default()), ..checked }),
    ] {
        c.bench_function(&format!("simt/block_scan_512/{name}"), |b| {
            b.iter(|| {
                // SAFETY: the scan reads and writes 512 words.
                let run = unsafe {
                    launch(&config, &scan, params.as_ptr().cast(), size_of_val(&params), &regions)
                };
                run.unwrap();
                // Else a long measurement would keep the counters of every launch.
                config.recorder.as_ref().map(Recorder::take)
            });
        });
    }
}

fn decode(c: &mut Criterion) {
    let mut state = 1_u64;
    let weights: Vec<u16> = (0..1 << 16)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let exponent = 125 - ((state >> 20) as u32 | 1 << 20).trailing_ones().min(20);
            (exponent << 7) as u16 | (state >> 57) as u16
        })
        .collect();
    let encoded = huffman::encode(&[bytemuck::cast_slice(&weights)]).unwrap();
    let group = encoded.as_raw("weights").parse().unwrap();
    let plain = Config::default();
    let checked = Config { checks: Checks::ALL, ..Config::default() };
    let mut benches = c.benchmark_group("simt/decode_bf16_64Ki");
    benches.throughput(Throughput::Bytes(size_of_val(&*weights) as u64));
    for (name, config) in [
        ("one_worker", Config { n_workers: 1, ..plain.clone() }),
        ("all_workers", plain),
        ("checked", checked.clone()),
        ("checked_and_counted", Config { recorder: Some(Recorder::default()), ..checked }),
    ] {
        let recorder = config.recorder.clone();
        let queue = Queue::simt(config);
        let device = DeviceWeights::upload(&queue, std::slice::from_ref(&group)).unwrap();
        let plan = device.plan();
        let mut output = queue.alloc::<bf16>(plan.output_len() as usize).unwrap();
        let mut workspace = queue.alloc::<u64>(plan.workspace_len() as usize).unwrap();
        benches.bench_function(name, |b| {
            b.iter(|| {
                device.decode(&queue, &mut workspace.view_mut(), &mut output.view_mut()).unwrap();
                recorder.as_ref().map(Recorder::take)
            });
        });
    }
}

criterion_group!(benches, block_scan, decode);
criterion_main!(benches);
