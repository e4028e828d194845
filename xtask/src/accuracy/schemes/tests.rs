//! What each format gives back exactly, and how far off the rest may be.

use super::*;

const N_TOKENS: usize = 64;
const N_HEADS: usize = 2;
const D: usize = 64;

/// Even tokens matter to the first head, odd ones to the second; an equal number, as ZipCache's joint
/// groups need.
fn pools() -> Pools {
    let pool = |first: usize| (first..N_TOKENS).step_by(2).collect();
    Pools { important: vec![pool(0), pool(1)], rest: vec![pool(1), pool(0)] }
}

fn rows(element: impl Fn(usize, usize, usize) -> f32) -> Rows {
    let index = |i| (i / (N_HEADS * D), i / D % N_HEADS, i % D);
    let elements = (0..N_TOKENS * N_HEADS * D).map(|i| {
        let (token, head, channel) = index(i);
        element(token, head, channel)
    });
    Rows::new(N_HEADS, D, elements.collect())
}

/// Of no pattern, in -1..1.
fn noise(i: usize) -> f32 {
    let bits = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    bits as f32 / (1 << 23) as f32 - 1.0
}

fn uneven() -> Rows {
    rows(|token, head, channel| noise((token * N_HEADS + head) * D + channel) * (1 + head) as f32)
}

/// Integers whose range is `0..=2^bits - 1` in every group, whichever way groups go.
fn grid(bits: u32) -> Rows {
    let n = 1 << bits;
    rows(|token, _, channel| ((token + channel + token / n * 3) % n) as f32)
}

fn difference(a: &Rows, b: &Rows) -> f32 {
    let pairs = a.elements().iter().zip(b.elements());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn integers_of_full_range_come_back() {
    for bits in [2, 4] {
        let exact = grid(bits);
        let zip_cache = ZipCache { important_bits: bits, rest_bits: bits };
        assert_eq!(zip_cache.keys(&exact, &pools()), exact);
        let kivi = Kivi { bits };
        assert_eq!(kivi.keys(&exact, &pools()), exact);
        assert_eq!(kivi.values(&exact, &pools()), exact);
    }
    assert_eq!(Int4 { rotates: false }.keys(&grid(4), &pools()), grid(4));
    assert_eq!(QServe.keys(&grid(4), &pools()), grid(4));
    // 127 is in every row and every block.
    let wide =
        rows(|token, _, channel| [127.0, (token + channel) as f32 - 64.0][(channel % 32 % 31) & 1]);
    for scheme in [&Ggml::Q8_0 as &dyn Scheme, &Int8 { truncates: false }] {
        assert_eq!(scheme.keys(&wide, &pools()), wide, "{}", scheme.name());
    }
    let signed = rows(|_, _, channel| (channel % 16) as f32 - 8.0);
    assert_eq!(Ggml::Q4_0.values(&signed, &pools()), signed);
}

#[test]
fn values_of_zip_cache_share_a_step_over_heads() {
    // The largest magnitude of every channel is 4, whose root is exact.
    let codes = grid(2);
    let exact = rows(|token, head, channel| 2.0 * codes.row(token, head)[channel] - 2.0);
    let scheme = ZipCache { important_bits: 2, rest_bits: 2 };
    assert_eq!(scheme.values(&exact, &pools()), exact);

    let exact = uneven();
    let near = scheme.values(&exact, &pools());
    let width = N_HEADS * D;
    let largest = |channel| {
        let column = exact.elements().iter().skip(channel).step_by(width);
        column.fold(0.0_f32, |a, b| a.max(b.abs()))
    };
    let scales: Vec<f32> = (0..width).map(|channel| largest(channel).sqrt()).collect();
    for (exact, near) in exact.elements().chunks(width).zip(near.elements().chunks(width)) {
        let scaled: Vec<f32> = exact.iter().zip(&scales).map(|(x, scale)| x / scale).collect();
        let (low, high) = range(&scaled);
        for ((x, near), scale) in exact.iter().zip(near).zip(&scales) {
            let most = scale * (0.5 * (high - low) / 3.0 + 4e-3);
            assert!((near - x).abs() <= most, "{x} {near}");
        }
    }
}

#[test]
fn floats_of_eight_bits_come_back_and_others_go_to_the_nearest() {
    let of = |x: f32| Fp8.keys(&Rows::new(1, 1, vec![x]), &pools()).elements()[0];
    for x in [0.0, 448.0, -240.0, 1.875, 0.015_625, 0.001_953_125] {
        assert_eq!(of(x), x);
    }
    // Ties to even, saturation, and half of the least.
    for (x, expected) in [(17.0, 16.0), (19.0, 20.0), (1e4, 448.0), (0.000_976_562_5, 0.0)] {
        assert_eq!((of(x), of(-x)), (expected, -expected));
    }
}

#[test]
fn groups_of_equal_elements_come_back() {
    for scheme in all() {
        for element in [0.0, -2.5] {
            let exact = rows(|_, _, _| element);
            let near = [scheme.keys(&exact, &pools()), scheme.values(&exact, &pools())];
            // A zero point within 0..=15 and a scale of 1e-6 cannot give it.
            if scheme.name().contains("int4") && element != 0.0 {
                continue;
            }
            for near in near {
                let off = difference(&near, &exact);
                assert!(off <= 0.02, "{}: {element} is off by {off}", scheme.name());
            }
        }
    }
}

#[test]
fn errors_are_within_half_a_step() {
    let exact = uneven();
    let half_step = |group: &[f32], n_steps: f32| {
        let (low, high) = range(group);
        0.5 * (high - low) / n_steps
    };
    let near = |near: &Rows, group: &[usize], n_steps: f32| {
        let from: Vec<f32> = group.iter().map(|&i| exact.elements()[i]).collect();
        // fp16 moves minimum, scale and zero by as much as this.
        let most = half_step(&from, n_steps) + range(&from).1.abs().max(1.0) * 2e-3;
        for (&i, x) in group.iter().zip(from) {
            let off = (near.elements()[i] - x).abs();
            assert!(off <= most, "{off} > {most}");
        }
    };
    let row = |token, head| {
        let offset = exact.offset(token, head);
        (offset..offset + D).collect::<Vec<_>>()
    };
    let column = |head, channel, tokens: &[usize]| {
        tokens.iter().map(|&token| exact.offset(token, head) + channel).collect::<Vec<_>>()
    };
    let by_token: [(&dyn Scheme, f32); 3] =
        [(&Int4 { rotates: false }, 14.0), (&QServe, 15.0), (&Int8 { truncates: false }, 127.0)];
    for (scheme, n_steps) in by_token {
        let keys = scheme.keys(&exact, &pools());
        for token in 0..N_TOKENS {
            (0..N_HEADS).for_each(|head| near(&keys, &row(token, head), n_steps));
        }
    }
    for bits in [2, 4] {
        let n_steps = ((1 << bits) - 1) as f32;
        let (keys, values) = {
            let kivi = Kivi { bits };
            (kivi.keys(&exact, &pools()), kivi.values(&exact, &pools()))
        };
        for head in 0..N_HEADS {
            for channel in 0..D {
                let tokens: Vec<usize> = (0..KIVI_GROUP).collect();
                near(&keys, &column(head, channel, &tokens), n_steps);
            }
            for token in 0..N_TOKENS {
                row(token, head).chunks(KIVI_GROUP).for_each(|group| near(&values, group, n_steps));
            }
        }
    }
    let mixed = ZipCache { important_bits: 4, rest_bits: 2 }.keys(&exact, &pools());
    for head in 0..N_HEADS {
        for channel in 0..D {
            near(&mixed, &column(head, channel, &pools().important[head]), 15.0);
            near(&mixed, &column(head, channel, &pools().rest[head]), 3.0);
        }
    }
}

#[test]
fn truncation_errs_by_up_to_a_step() {
    let exact = uneven();
    let [rounded, truncated] =
        [false, true].map(|truncates| Int8 { truncates }.keys(&exact, &pools()));
    let step = 2.0 / 127.0;
    assert!(difference(&rounded, &exact) <= 0.5 * step * 1.001);
    let off = difference(&truncated, &exact);
    assert!(off > 0.9 * step && off <= step * 1.001, "{off}");
}

#[test]
fn a_rotation_spreads_what_one_channel_holds() {
    let mut row: Vec<f32> = (0..D).map(noise).collect();
    let exact = row.clone();
    flip(&mut row);
    transform(&mut row);
    transform(&mut row);
    flip(&mut row);
    for (x, exact) in row.iter().zip(&exact) {
        assert!((x / D as f32 - exact).abs() < 1e-6);
    }
    let spike = rows(|token, head, channel| {
        noise((token * N_HEADS + head) * D + channel) * if channel == 5 { 30.0 } else { 1.0 }
    });
    let error = |rotates| {
        let near = Int4 { rotates }.keys(&spike, &pools());
        let pairs = near.elements().iter().zip(spike.elements());
        pairs.map(|(near, x)| f64::from(near - x).powi(2)).sum::<f64>()
    };
    assert!(error(true) < 0.7 * error(false), "{} {}", error(true), error(false));
}

#[test]
fn bits_count_what_is_stored() {
    let shape = Shape { n_tokens: 4096, n_heads: 8, d: 128 };
    let bits = |scheme: &dyn Scheme| scheme.bits_per_element(shape);
    assert_eq!(bits(&Kivi { bits: 4 }), [5.0; 2]);
    assert_eq!(bits(&Int8 { truncates: true }), [8.25; 2]);
    assert_eq!(bits(&Int4 { rotates: true }), [4.25; 2]);
    assert_eq!(bits(&QServe), [4.25; 2]);
    assert_eq!(bits(&Ggml::Q8_0), [8.5; 2]);
    assert_eq!(bits(&Ggml::Q4_0), [4.5; 2]);
    // 2 L + H d numbers of 16 bits for H d L elements of values, 2 H d for those of keys.
    let zip_cache = ZipCache { important_bits: 2, rest_bits: 2 };
    let (l, hd) = (4096.0, 1024.0);
    let expected = [2.0 + 16.0 * 2.0 / l, 2.0 + 16.0 * (2.0 * l + hd) / (hd * l)];
    assert_eq!(bits(&zip_cache), expected);
    let codes = (2458.0 * 4.0 + 1638.0 * 2.0) / 4096.0;
    let mixed = bits(&ZipCache { important_bits: 4, rest_bits: 2 });
    assert!((mixed[0] - (codes + 1.0 / 128.0 + 16.0 * 4.0 / l)).abs() < 1e-12);
}
