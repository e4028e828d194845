//! The room `attention`: its references on the CPU, and its kernels.

mod attend;
mod copy;
#[path = "../house/mod.rs"]
mod house;
mod merge;
#[path = "../peers/mod.rs"]
mod peers;
mod tier;

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
    let cases = [attend::cases(), copy::cases(), merge::cases(), tier::cases()];
    house::run("attention", cases.into_iter().flatten().collect(), cpu)
}
