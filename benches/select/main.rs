//! The room `select`: its references on the CPU, and its kernels.

mod compact;
mod gate;
#[path = "../house/mod.rs"]
mod house;
mod mass;
mod merge;
#[path = "../peers/mod.rs"]
mod peers;
mod rows;
mod score;
mod summarize;
mod topk;

use std::process::ExitCode;

use criterion::Criterion;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    compact::cpu(&mut criterion);
    summarize::cpu(&mut criterion);
    topk::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let cases = [
        compact::cases(),
        gate::cases(),
        mass::cases(),
        merge::cases(),
        rows::cases(),
        score::cases(),
        summarize::cases(),
        topk::cases(),
    ];
    house::run("select", cases.into_iter().flatten().collect(), cpu)
}
