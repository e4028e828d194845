//! The room `quant`: its references on the CPU, and its kernels.

#[path = "../house/mod.rs"]
mod house;
mod pages;
#[path = "../peers/mod.rs"]
mod peers;
mod retier;
mod saliency;

use std::process::ExitCode;

use criterion::Criterion;

fn cpu() {
    let mut criterion = Criterion::default().configure_from_args();
    pages::cpu(&mut criterion);
    saliency::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let mut cases = pages::cases();
    cases.extend(saliency::cases());
    cases.extend(retier::cases());
    house::run("quant", cases, cpu)
}
