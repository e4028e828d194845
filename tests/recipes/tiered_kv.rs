//! A context through a cache of tiers: where every token is, what it costs, and how far attention is off.

#[path = "../../examples/tiered_kv.rs"]
mod recipe;

use std::collections::HashSet;

use lacuna::Queue;
use lacuna::quant::Tier;
use lacuna::simt::{Config, Schedule};
use recipe::picture::{draw, point};
use recipe::places::{PAGE, Places, TIERS};
use recipe::rows::Rows;
use recipe::stream::{Sizes, Stream};
use recipe::{NAMES, SETTINGS, Sample, Settings, TieredKv, all, exact, picture_of, run, table};

use crate::common;
use crate::toy::Random;

const SHORT: Sizes =
    Sizes { n_tokens: 720, n_q_heads: 4, n_heads: 2, head_dim: 64, n_topic: 240, seed: 5 };
const OF_SHORT: Settings = Settings {
    n_q_heads: 4,
    n_new: 40,
    n_sinks: 3,
    n_window: 40,
    n_between: 70,
    shares: [0.1, 0.2, 0.4, 0.3],
    decay: 0.9,
};

fn samples(
    queue: &Queue,
    stream: &Stream,
    settings: Settings,
    look: impl FnMut(&TieredKv, &Rows) -> lacuna::Result<()>,
) -> Vec<Sample> {
    let exact = exact(stream, settings.n_new, stream.sizes.n_tokens);
    run(queue, stream, &exact, settings, 120, look).unwrap()
}

/// Pages of each pool are free, or in one place.
fn assert_pages_are_used_once(places: &Places, n_pool_pages: [u64; 4]) {
    for (at, tier) in TIERS.into_iter().enumerate() {
        let mut numbers: Vec<_> = places.free()[at].clone();
        let pages = places.heads().iter().flatten().filter(|page| page.tier == tier);
        numbers.extend(pages.flat_map(|page| page.numbers));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..n_pool_pages[at] as u32).collect::<Vec<_>>(), "{tier}");
    }
}

#[test]
fn every_token_is_in_one_place() {
    for queue in common::queues() {
        let stream = Stream::new(SHORT);
        let n_rows = SHORT.n_tokens;
        let mut bits_before = vec![[u32::MAX; SHORT.n_tokens]; SHORT.n_heads];
        let (mut n_looks, mut n_demoted) = (0, 0);
        samples(&queue, &stream, OF_SHORT, |kv, rows| {
            n_looks += 1;
            let n = rows.n_tokens();
            assert_eq!(queue.download(&rows.view().lengths)?, [n as u32], "none was dropped");
            let [sinks, recent] = kv.held();
            let n_paged = recent.start - sinks.end;
            assert_eq!(n_paged % PAGE, 0);
            assert!((OF_SHORT.n_window..OF_SHORT.n_window + PAGE).contains(&(n - recent.start)));
            let n_pool_pages = Places::n_pool_pages(SHORT.n_heads, n_rows, OF_SHORT.shares);
            assert_pages_are_used_once(&kv.places, n_pool_pages);

            let slots = kv.places.slots(n_rows);
            let new_slots = queue.download(&kv.new_slots())?;
            for (h, pages) in kv.places.heads().iter().enumerate() {
                let mut tokens: Vec<usize> = sinks.clone().chain(recent.start..n).collect();
                tokens.extend(pages.iter().flat_map(|page| &page.tokens).map(|t| *t as usize));
                tokens.sort_unstable();
                assert_eq!(tokens, (0..n).collect::<Vec<_>>(), "head {h}");
                for page in pages {
                    for t in &page.tokens {
                        let before = &mut bits_before[h][*t as usize];
                        assert!(page.tier.bits() <= *before, "token {t} rose");
                        n_demoted += usize::from(*before != u32::MAX && page.tier.bits() < *before);
                        *before = page.tier.bits();
                    }
                }
                for t in &kv.moved[h].tokens {
                    let at = h * n_rows + *t as usize;
                    assert_eq!(new_slots[at], slots[at], "token {t} of head {h}");
                }
            }

            let mut pages: Vec<_> =
                rows.table().iter().copied().filter(|page| *page >= 0).collect();
            assert_eq!(pages.len() as u64, rows.in_use().0);
            pages.extend(rows.free());
            pages.sort_unstable();
            let n_pages = rows.layout().shape().n_pages as i32;
            assert_eq!(pages, (0..n_pages).collect::<Vec<_>>());
            for row in 0..n_rows {
                let [near_sinks, near_recent] = [sinks.end + 16, recent.start.saturating_sub(16)];
                if row < sinks.end || recent.contains(&row) {
                    assert!(rows.has(row), "row {row}");
                } else if (near_sinks..near_recent).contains(&row) || row > recent.end + 16 {
                    assert!(!rows.has(row), "row {row}");
                }
            }
            Ok(())
        });
        assert!(n_looks >= 7, "{n_looks}");
        assert!(n_demoted > 100, "{n_demoted}");
    }
}

/// Random scores, of which some are no numbers: pools are never short, and no page is taken twice.
#[test]
fn pools_have_room_whatever_the_scores() {
    let mut random = Random(8);
    let (n_heads, n, n_sinks) = (3, 4096, 4);
    for shares in
        [[0.0, 0.1, 0.5, 0.4], [0.3, 0.0, 0.0, 0.7], [0.0, 0.99, 0.01, 0.0], [0.0, 0.0, 0.0, 1.0]]
    {
        let n_pool_pages = Places::n_pool_pages(n_heads, n, shares);
        let mut places = Places::new(n_heads, n_pool_pages, shares);
        let mut n_tokens = 0;
        while n_tokens < n - PAGE {
            n_tokens = (n_tokens + PAGE * (1 + random.below(4))).min(n - PAGE);
            let scores: Vec<f32> = (0..n_heads * n)
                .map(|_| match random.below(50) {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => 0.0,
                    _ => random.normal(),
                })
                .collect();
            places.retier(n_sinks..n_sinks + n_tokens, &scores, n);
            assert_pages_are_used_once(&places, n_pool_pages);
            for pages in places.heads() {
                let mut tokens: Vec<_> =
                    pages.iter().flat_map(|page| page.tokens.clone()).collect();
                tokens.sort_unstable();
                let all = n_sinks as i32..(n_sinks + n_tokens) as i32;
                assert_eq!(tokens, all.collect::<Vec<_>>());
                // Each tier has its share, a page more or less.
                for (at, tier) in TIERS.into_iter().enumerate() {
                    let n_here = PAGE * pages.iter().filter(|page| page.tier == tier).count();
                    let wanted = shares[at] * n_tokens as f64;
                    assert!((n_here as f64 - wanted).abs() < 1.5 * PAGE as f64, "{tier}: {n_here}");
                }
            }
        }
    }
}

#[test]
fn the_most_salient_have_the_most_bits() {
    let shares = [0.0, 0.25, 0.5, 0.25];
    let mut places = Places::new(1, Places::n_pool_pages(1, 512, shares), shares);
    // Later tokens matter more, and then earlier ones do.
    let rising: Vec<f32> = (0..512).map(|t| t as f32).collect();
    let falling: Vec<f32> = (0..512).map(|t| -(t as f32)).collect();
    let tier_of = |places: &Places, t: i32| {
        places.heads()[0].iter().find(|page| page.tokens.contains(&t)).map(|page| page.tier)
    };
    places.retier(0..256, &rising, 512);
    assert_eq!(
        [0, 100, 255].map(|t| tier_of(&places, t)),
        [Tier::T2, Tier::T4, Tier::T8].map(Some)
    );
    places.retier(0..512, &falling, 512);
    // Of 8 bits are the earliest of those that were, and of those that waited; the first token's bits are lost.
    assert_eq!(
        [0, 100, 192, 255].map(|t| tier_of(&places, t)),
        [Tier::T2, Tier::T4, Tier::T8, Tier::T8].map(Some)
    );
    assert_eq!(
        [256, 319, 511].map(|t| tier_of(&places, t)),
        [Tier::T8, Tier::T8, Tier::T2].map(Some)
    );
}

#[test]
fn bytes_are_those_of_what_there_is() {
    let stream = Stream::new(SHORT);
    let queue = Queue::simt(Config::default());
    let samples = samples(&queue, &stream, OF_SHORT, |_, _| Ok(()));
    let (n_heads, d) = (SHORT.n_heads, SHORT.head_dim);
    for sample in &samples {
        let n_paged: usize = sample.n_of_tiers.iter().sum();
        assert_eq!(sample.n_numbers + n_paged, sample.n_tokens);
        // Codes, and a step and a zero point of each token.
        let page_bytes = [128 * d, 64 * d + 256, 32 * d + 256, 16 * d + 256];
        let of_pages: usize = (sample.n_of_tiers.iter().zip(page_bytes))
            .map(|(n, bytes)| n / PAGE * 2 * n_heads * bytes)
            .sum();
        let bytes = sample.bytes;
        assert_eq!(bytes.pages as usize, of_pages);
        let row_bytes = 4 * n_heads * d;
        assert!(bytes.rows as usize >= row_bytes * sample.n_numbers);
        assert!(bytes.rows as usize <= row_bytes * (OF_SHORT.most_recent() + 4 * 16));
        assert_eq!(
            bytes.bf16 as usize,
            row_bytes * sample.n_tokens + 4 * sample.n_tokens.div_ceil(16)
        );
        assert_eq!(bytes.policy as usize, 16 * n_heads * sample.n_tokens);
        let n_elements = 2 * n_heads * d * sample.n_tokens;
        assert_eq!(sample.bits, 8.0 * bytes.cache() as f64 / n_elements as f64);
    }
    let [first, .., last] = &samples[..] else { panic!("samples") };
    assert!(last.bits < 9.0 && first.bits > 16.0, "{} {}", first.bits, last.bits);
}

/// Bounds are of this stream; what each tier loses is in the accuracy tables.
#[test]
fn attention_is_off_by_what_tiers_lose() {
    for queue in common::queues() {
        let stream = Stream::new(SHORT);
        let worst = |shares| {
            let samples = samples(&queue, &stream, Settings { shares, ..OF_SHORT }, |_, _| Ok(()));
            samples.iter().map(|sample| sample.error).fold(0.0, f64::max)
        };
        let of_16 = worst([1.0, 0.0, 0.0, 0.0]);
        let of_8 = worst([0.0, 1.0, 0.0, 0.0]);
        let of_4 = worst([0.0, 0.0, 1.0, 0.0]);
        let of_2 = worst([0.0, 0.0, 0.0, 1.0]);
        let tiered = worst(OF_SHORT.shares);
        assert!(of_16 < 0.01, "{of_16}");
        assert!(of_8 < 0.01, "{of_8}");
        assert!((0.02..0.15).contains(&of_4), "{of_4}");
        assert!((0.1..0.7).contains(&of_2), "{of_2}");
        // Fewer bits than 4 for three tokens in ten, and yet: they matter less.
        assert!(tiered < 0.05, "{tiered}");
    }
}

#[test]
fn two_runs_have_the_same_bits() {
    let stream = Stream::new(SHORT);
    let outputs = |queue: &Queue| {
        let mut outputs = Vec::new();
        let samples = samples(queue, &stream, OF_SHORT, |kv, _| {
            outputs.extend(queue.download(&kv.outputs())?.iter().map(|x| x.to_bits()));
            Ok(())
        });
        (samples, outputs)
    };
    for queue in common::queues() {
        assert_eq!(outputs(&queue), outputs(&common::beside(&queue)));
    }
    let schedule = Schedule::LaneLast;
    let queues = [Config::default(), Config { schedule, ..Config::default() }].map(Queue::simt);
    assert_eq!(outputs(&queues[0]), outputs(&queues[1]));
}

#[test]
fn the_picture_says_what_the_table_says() {
    let svg = include_str!("../../examples/tiered_kv/tiered_kv.svg");
    assert_is_well_formed(svg);
    let n_samples = recipe::SIZES.n_tokens / 256;
    assert_eq!(svg.matches("<circle").count(), 3 * 3 * n_samples);
    // What the committed picture begins with is what the program makes.
    let queue = Queue::simt(Config::default());
    let samples = all(&queue, 768).unwrap();
    assert_is_well_formed(&picture_of(&samples));
    for (name, samples) in NAMES.iter().zip(&samples) {
        assert_eq!(samples.len(), 3);
        let table = table(name, samples);
        for sample in samples {
            for (title, value) in [
                ("bits per element", sample.bits),
                ("KB of the cache", sample.bytes.cache() as f64 / 1e3),
                ("relative error of attention", sample.error),
            ] {
                let point = point(title, name, sample.n_tokens, value);
                assert!(svg.contains(&format!("<title>{point}</title>")), "{point}");
            }
            assert!(
                table.contains(&format!(" {} ", recipe::picture::short(sample.bits))),
                "{table}"
            );
        }
    }
    assert_eq!(SETTINGS.shares, recipe::SHARES[2]);
}

#[test]
fn a_picture_of_nothing_is_one() {
    assert_is_well_formed(&draw("nothing", &["one"], &[], &[]));
}

/// Every element ends, in the order in which they began, and no text has letters that mean something else.
#[track_caller]
fn assert_is_well_formed(svg: &str) {
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    let mut open = Vec::new();
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        assert!(!text.contains(['&', '>']), "{text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        let attributes: Vec<_> = tag.split(' ').filter_map(|part| part.split_once("=\"")).collect();
        let names: HashSet<_> = attributes.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), attributes.len(), "{tag}");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
}
