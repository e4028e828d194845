//! The room `attention`: its references on the CPU, and its kernels.

mod copy;
#[path = "../house/mod.rs"]
mod house;
#[path = "../peers/mod.rs"]
mod peers;
mod tier;

use std::process::ExitCode;

use criterion::Criterion;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    copy::cpu(&mut criterion);
    tier::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let cases = [copy::cases(), tier::cases()];
    house::run("attention", cases.into_iter().flatten().collect(), cpu)
}
