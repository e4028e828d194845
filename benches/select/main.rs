//! The room `select`: its references on the CPU, and its kernels.

mod gate;
#[path = "../house/mod.rs"]
mod house;
mod mass;
#[path = "../peers/mod.rs"]
mod peers;
mod score;
mod summarize;
mod topk;

use std::process::ExitCode;

use criterion::Criterion;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    summarize::cpu(&mut criterion);
    topk::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let cases = [gate::cases(), mass::cases(), score::cases(), summarize::cases(), topk::cases()];
    house::run("select", cases.into_iter().flatten().collect(), cpu)
}
