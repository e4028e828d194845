//! The C interface, called wrongly: every function of `include/lacuna.h`, of sound calls of which a few things are spoilt.
//!
//! A case is a sound call. Its structs and memory are laid down in one place, up to four leaves are changed (sizes and revisions of headers, numbers,
//! pointers that are null or misaligned, views' addresses, lengths, types and marks, counts, handles for others of their type, texts), and it is called. Of a launch
//! the shape may be spoilt: if there is a plan, it is launched with arguments of its own, spoilt again or not. Then
//! - the function has answered, with a status that its documentation names, and a message;
//! - nothing is written unless it answered `LACUNA_OK`, and then nothing but what it is to write;
//! - no kernel accesses what it was not given, as the executor would say (`LACUNA_SIMT_FAULT` is documented nowhere);
//! - the sound call does what it did before, bit for bit.
//!
//! What stays the caller's word is true: views of any length are of memory that is there, host memory is as long as is said, what a handle names
//! is alive. `build.rs` reads what there is to be called in `src/capi`; what has no sound call is listed below.
#![no_main]

mod attention;
mod bench;
mod files;
mod huffman;
mod kv;
mod lay;
mod memory;
mod mutate;
mod quant;
mod select;
mod table;
mod value;
mod weights;

use std::cell::RefCell;

use bench::Bench;
use lacuna_fuzz::use_one_thread;
use libfuzzer_sys::fuzz_target;
use value::Fields;

/// What has no sound call here, and is called nevertheless: of a device, which needs a driver.
const UNSOUND: [&str; 5] = [
    "lacuna_device_name",
    "lacuna_device_open",
    "lacuna_device_rates_of",
    "lacuna_device_warm_up",
    "lacuna_queue_on_stream",
];

/// What is not the same each time: what an arena has beside what its slots hold, which its thread and earlier calls made.
const INEXACT: [&str; 2] = ["lacuna_arena_read_stats", "lacuna_arena_trim"];

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::default();
}

fn init() {
    use_one_thread();
    BENCH.with_borrow_mut(|bench| {
        bench.make("lacuna_queue_simt", Fields::default());
        kv::cases(bench);
        select::cases(bench);
        attention::cases(bench);
        quant::cases(bench);
        huffman::cases(bench);
        files::cases(bench);
        weights::cases(bench);
        bench.finish(&UNSOUND, &INEXACT);
    });
}

fuzz_target!(init: init(), |bytes: &[u8]| BENCH.with_borrow_mut(|bench| bench.run(bytes)));
