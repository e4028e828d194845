//! The room `quant`: its references on the CPU, and its kernels.

mod append;
mod channels;
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
    append::cpu(&mut criterion);
    channels::cpu(&mut criterion);
    pages::cpu(&mut criterion);
    saliency::cpu(&mut criterion);
    criterion.final_summary();
}

fn main() -> ExitCode {
    let cases =
        [append::cases(), channels::cases(), pages::cases(), retier::cases(), saliency::cases()];
    house::run("quant", cases.into_iter().flatten().collect(), cpu)
}
