//! Sizes of any launch: a plan is refused, or its sizes are what they are in 128 bits, and its grid is one
//! that a device has.
#![no_main]

mod attention;
mod huffman;
mod kv;
mod quant;
mod select;
mod sizes;

use lacuna_fuzz::Input;
use libfuzzer_sys::fuzz_target;

const KINDS: [fn(&mut Input<'_>); 24] = [
    kv::layout,
    kv::arena,
    select::compact,
    select::gate,
    select::mass,
    select::evict,
    select::rows,
    select::kv_rows,
    select::score,
    select::summarize,
    select::topk,
    attention::attend,
    attention::merge,
    attention::prefill,
    attention::copy,
    attention::tier,
    quant::pages,
    quant::append,
    quant::saliency,
    quant::norms,
    huffman::decode,
    huffman::indexed,
    huffman::lane,
    huffman::multiply,
];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let kind = usize::from(input.byte());
    KINDS[kind % KINDS.len()](&mut input);
});
