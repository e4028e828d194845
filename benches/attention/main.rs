//! The room `attention`: its references on the CPU, and its kernels.

mod attend;
mod copy;
#[path = "../house/mod.rs"]
mod house;
mod low_rank;
mod merge;
#[path = "../peers/mod.rs"]
mod peers;
mod prefill;
mod rows;
mod tier;
mod tiered;

use std::process::ExitCode;

use criterion::Criterion;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    attend::cpu(&mut criterion);
    copy::cpu(&mut criterion);
    tier::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let cases = [
        attend::cases(),
        prefill::cases(),
        low_rank::cases(),
        merge::cases(),
        copy::cases(),
        tier::cases(),
        tiered::cases(),
    ];
    house::run("attention", cases.into_iter().flatten().collect(), cpu)
}
