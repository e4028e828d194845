//! Encode and decode on the CPU, beside a copy of the same bytes, on one thread and on all.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lacuna::huffman;

/// Weights with the exponents of trained ones: a normal distribution whose scale varies.
fn weights(n: usize) -> Vec<u16> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 + 0.5) / (1_u64 << 24) as f64
    };
    (0..n)
        .map(|_| {
            let normal =
                |a: f64, b: f64| (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
            let scale = (0.35 * normal(uniform(), uniform())).exp();
            let weight = 0.02 * scale * normal(uniform(), uniform());
            half::bf16::from_f64(weight).to_bits()
        })
        .collect()
}

fn cpu(c: &mut Criterion) {
    let weights = weights(4 << 20);
    let bytes: &[u8] = bytemuck::cast_slice(&weights);
    let encoded = huffman::encode(&[bytes]).unwrap();
    let group = encoded.as_raw("bench").parse().unwrap();
    let mut output = vec![0_u16; weights.len()];
    let pools = [("one_thread", 1), ("all_threads", 0)];

    let mut bench = c.benchmark_group("huffman");
    bench.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
    bench.bench_function("copy/bf16/4Mi", |b| b.iter(|| output.copy_from_slice(&weights)));
    for (name, n_threads) in pools {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        bench.bench_function(format!("encode/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| huffman::encode(&[bytes])).unwrap());
        });
        bench.bench_function(format!("decode/bf16/4Mi/{name}"), |b| {
            b.iter(|| pool.install(|| huffman::decode(&group, &mut output)).unwrap());
        });
    }
    assert!(output == weights);
}

criterion_group!(benches, cpu);
criterion_main!(benches);
