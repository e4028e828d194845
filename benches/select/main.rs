//! The room `select`: its references on the CPU, and its kernels.

#[path = "../house/mod.rs"]
mod house;
mod mass;
#[path = "../peers/mod.rs"]
mod peers;
mod score;
mod topk;

use std::process::ExitCode;

use criterion::Criterion;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    topk::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let cases = [mass::cases(), score::cases(), topk::cases()].into_iter().flatten().collect();
    house::run("select", cases, cpu)
}
