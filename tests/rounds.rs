//! Right kernels of many rounds pass every check, in time and memory that grow no faster than the
//! rounds: what the executor remembers of who knows what is no more than there is to know.

#![allow(unsafe_code, reason = "a kernel is launched by its symbol")]

mod common;

use std::ffi::c_void;
use std::time::{Duration, Instant};

use lacuna::region::{Region, Role};
use lacuna::simt::{self, Checks, Config, Entry, Launch};

unsafe extern "C" {
    fn lacuna_simt_selftest_rounds_of_fences(params: *const c_void, is_checked: u32);
    fn lacuna_simt_selftest_rounds_of_barriers(params: *const c_void, is_checked: u32);
    fn lacuna_simt_selftest_rounds_of_syncwarps(params: *const c_void, is_checked: u32);
    fn lacuna_simt_selftest_chain(params: *const c_void, is_checked: u32);
}

/// Each takes well under a second; without bounds, hours or all memory.
const LIMIT: Duration = Duration::from_secs(60);

fn run(kernel: &str, entry: Entry, grid: u32, block: u32, n_rounds: u32) -> Vec<u32> {
    let mut output = vec![0xDEAD_BEEF_u32; block as usize];
    let mut state = vec![0_u32; 1024];
    let mut workspace = vec![0xDEAD_BEEF_u32; 1024];
    let region = |name: &'static str, role, words: &mut Vec<u32>| Region {
        name: name.into(),
        role,
        address: words.as_mut_ptr().expose_provenance() as u64,
        n_bytes: words.len() as u64 * 4,
    };
    let regions = [
        region("output", Role::Output, &mut output),
        region("state", Role::InOut, &mut state),
        region("workspace", Role::Workspace, &mut workspace),
    ];
    let params = common::SelfTestParams {
        input: std::ptr::null(),
        output: output.as_mut_ptr(),
        state: state.as_mut_ptr(),
        workspace: workspace.as_mut_ptr(),
        n: block,
        reserved: n_rounds,
    };
    let launch = Launch {
        kernel,
        entry,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared_bytes: 0,
        cluster_blocks: 1,
    };
    let config = Config { checks: Checks::ALL, ..Config::default() };
    let start = Instant::now();
    // SAFETY: the kernels of csrc/simt/selftest take this struct, and the regions are vectors of this
    // function, as long as the kernels use.
    let result = unsafe {
        simt::launch(&config, &launch, (&raw const params).cast(), size_of_val(&params), &regions)
    };
    result.unwrap_or_else(|fault| panic!("{fault}"));
    assert!(start.elapsed() < LIMIT, "{kernel}: {:?}", start.elapsed());
    output
}

#[test]
fn fences_and_barriers() {
    let kernel = ("rounds_of_fences", lacuna_simt_selftest_rounds_of_fences as Entry);
    let output = run(kernel.0, kernel.1, 1, 256, 60);
    assert!(output.iter().all(|word| *word == 60), "{output:?}");
}

#[test]
fn producers_and_consumers() {
    let kernel = ("rounds_of_barriers", lacuna_simt_selftest_rounds_of_barriers as Entry);
    let output = run(kernel.0, kernel.1, 1, 128, 300);
    assert!(output[..64].iter().all(|word| *word == 0));
    assert!(output[64..].iter().all(|word| *word == 300 * 299 / 2), "{output:?}");
}

#[test]
fn warps_that_meet_again_and_again() {
    let kernel = ("rounds_of_syncwarps", lacuna_simt_selftest_rounds_of_syncwarps as Entry);
    let output = run(kernel.0, kernel.1, 1, 64, 300);
    assert!((0..64).rev().eq(output));
}

#[test]
fn a_chain_of_blocks() {
    let output = run("chain", lacuna_simt_selftest_chain as Entry, 800, 32, 0);
    assert!((0..32).eq(output));
}
