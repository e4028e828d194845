//! The room `attention`: its kernels.

#[path = "../house/mod.rs"]
mod house;
mod merge;
#[path = "../peers/mod.rs"]
mod peers;

use std::process::ExitCode;

fn main() -> ExitCode {
    house::run("attention", merge::cases(), || {})
}
