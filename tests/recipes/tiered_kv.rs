//! A context through a cache of tiers: where every token is, what it costs, and how far attention is off.

#[path = "../../examples/tiered_kv.rs"]
mod recipe;

use std::collections::HashSet;

use lacuna::Queue;
use lacuna::quant::Tier;
use lacuna::simt::{Config, Schedule};
use recipe::picture::{draw, point};
use recipe::places::{Moved, PAGE, Pair, Places, TIERS};
use recipe::rows::Rows;
use recipe::stream::{Sizes, Stream, relative_error};
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

/// Pages of which no token moves stay as they are, and no new page is in the place of one that there was.
#[track_caller]
fn assert_the_old_are_read_before_they_are_written(
    before: &[Vec<Pair>],
    places: &Places,
    moved: &[Moved],
) {
    let ids = |pages: &[Pair]| -> Vec<_> {
        pages
            .iter()
            .flat_map(|page| page.numbers.map(|number| (page.tier.bits(), number)))
            .collect()
    };
    let old: HashSet<_> = before.iter().flat_map(|pages| ids(pages)).collect();
    for ((old_pages, pages), moved) in before.iter().zip(places.heads()).zip(moved) {
        let (kept, new) = pages.split_at(moved.first_page);
        assert!(kept.iter().all(|page| old_pages.contains(page)));
        assert!(ids(new).iter().all(|id| !old.contains(id)));
        let tier_of = |pages: &[Pair], t| {
            pages.iter().find(|page| page.tokens.contains(&t)).map(|page| page.tier)
        };
        for page in old_pages.iter().filter(|page| !kept.contains(page)) {
            let moves = |t: &i32| tier_of(pages, *t) != Some(page.tier);
            assert!(page.tokens.iter().any(moves), "a page is made anew for nothing");
        }
        let tokens: Vec<_> = new.iter().flat_map(|page| page.tokens.clone()).collect();
        assert_eq!(tokens, moved.tokens);
    }
}

#[test]
fn every_token_is_in_one_place() {
    for queue in common::queues() {
        let stream = Stream::new(SHORT);
        let n_rows = SHORT.n_tokens;
        let mut bits_before = vec![[u32::MAX; SHORT.n_tokens]; SHORT.n_heads];
        let (mut looks, mut n_demoted) = (Vec::new(), 0);
        samples(&queue, &stream, OF_SHORT, |kv, rows| {
            let n = rows.n_tokens();
            looks.push(n);
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
        // Sinks, a window and 70 tokens are 113; steps have 40.
        assert_eq!(looks, [120, 200, 280, 360, 440, 520, 600, 680]);
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
            let before = places.heads().to_vec();
            let moved = places.retier(n_sinks..n_sinks + n_tokens, &scores, n);
            assert_pages_are_used_once(&places, n_pool_pages);
            assert_the_old_are_read_before_they_are_written(&before, &places, &moved);
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
    // Of keys and of values.
    assert_eq!(places.n_pages(), [0, 4, 8, 4]);
}

/// 0.1 and 0.2 are more than 0.3 in f64, and three pages of ten are no four.
#[test]
fn shares_of_whole_pages_have_no_page_more() {
    let shares = [0.1, 0.2, 0.4, 0.3];
    let mut places = Places::new(1, Places::n_pool_pages(1, 640, shares), shares);
    places.retier(0..640, &[0.0; 640], 640);
    assert_eq!(places.n_pages(), [2, 4, 8, 6]);
}

#[test]
fn scores_that_are_no_numbers_are_the_least() {
    let shares = [0.0, 0.5, 0.0, 0.5];
    let mut places = Places::new(1, Places::n_pool_pages(1, 128, shares), shares);
    let scores: Vec<f32> = (0..128_i16)
        .map(|t| match t {
            3 | 70 => f32::NAN,
            t if t % 2 == 0 => f32::from(-t),
            _ => f32::INFINITY,
        })
        .collect();
    places.retier(0..128, &scores, 128);
    let [most, least] = &places.heads()[0][..] else { panic!("two pages") };
    assert_eq!((most.tier, least.tier), (Tier::T8, Tier::T2));
    // All that are odd but one, and the least of those that are even.
    let expected = (0..128).filter(|t| *t == 0 || t % 2 == 1 && *t != 3);
    assert_eq!(most.tokens, expected.collect::<Vec<_>>());
}

/// ZipCache's score, of every other step's last queries, times the L1 norm of the value, in f64: `[n_heads, n_tokens]`, infinite where no probe saw a
/// token.
fn exact_scores(stream: &Stream, settings: Settings, n_tokens: usize) -> Vec<Vec<f64>> {
    let Sizes { n_q_heads, n_heads, head_dim: d, .. } = stream.sizes;
    let (group, decay) = (n_q_heads / n_heads, f64::from(settings.decay));
    let of_head = |head: usize| {
        let mut seen = vec![[0.0; 2]; n_tokens];
        for last in (settings.n_new..=n_tokens).step_by(2 * settings.n_new) {
            seen[..last].iter_mut().flatten().for_each(|x| *x *= decay);
            for q in head * group..(head + 1) * group {
                for ([sum, count], weight) in seen.iter_mut().zip(stream.weights(last - 1, q)) {
                    *sum += weight;
                    *count += 1.0;
                }
            }
        }
        let score = |(t, [sum, count]): (usize, &[f64; 2])| {
            let value = &stream.values[(t * n_heads + head) * d..][..d];
            let norm: f64 = value.iter().map(|x| x.to_f64().abs()).sum();
            if *count == 0.0 { f64::INFINITY } else { sum / count * norm }
        };
        seen.iter().enumerate().map(score).collect()
    };
    (0..n_heads).map(of_head).collect()
}

#[test]
fn tiers_are_chosen_by_what_probes_saw_and_how_large_values_are() {
    for queue in common::queues() {
        let stream = Stream::new(SHORT);
        let mut n_looks = 0;
        // Rows of 16 bits are attended to as they were: only rounding is between these scores and those.
        let settings = Settings { shares: [1.0, 0.0, 0.0, 0.0], ..OF_SHORT };
        let look = |kv: &TieredKv, rows: &Rows| {
            let scores = queue.download(&kv.scores())?;
            let of_heads = exact_scores(&stream, settings, rows.n_tokens());
            for (scores, exact) in scores.chunks(SHORT.n_tokens).zip(of_heads) {
                for (t, (score, exact)) in scores.iter().zip(exact).enumerate() {
                    let score = f64::from(*score);
                    assert!(
                        score == exact || (score / exact - 1.0).abs() < 0.03,
                        "{t}: {score} {exact}"
                    );
                }
            }
            n_looks += 1;
            Ok(())
        };
        samples(&queue, &stream, settings, look);
        assert_eq!(n_looks, 8);

        // And the first time, by scores of numbers, tiers are in their order.
        let settings = Settings { n_between: 280, shares: [0.25; 4], ..OF_SHORT };
        let mut is_first = true;
        samples(&queue, &stream, settings, |kv, rows| {
            if !std::mem::take(&mut is_first) {
                return Ok(());
            }
            assert_eq!(kv.places.n_pages(), [4; 4]);
            let of_heads = exact_scores(&stream, settings, rows.n_tokens());
            for (pages, exact) in kv.places.heads().iter().zip(of_heads) {
                let scores = |page: &Pair| {
                    page.tokens.iter().map(|t| exact[*t as usize]).collect::<Vec<_>>()
                };
                for pair in pages.windows(2) {
                    let least = scores(&pair[0]).into_iter().fold(f64::INFINITY, f64::min);
                    let most = scores(&pair[1]).into_iter().fold(0.0, f64::max);
                    assert!(least > 0.9 * most, "{least} {most}");
                }
            }
            Ok(())
        });
    }
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
        // Entries of keys and of values, the page table of rows and the list of them, and channels.
        let n_row_pages = bytes.rows as usize / (16 * row_bytes);
        let n_words = 2 * n_heads * n_paged / PAGE + n_row_pages + OF_SHORT.most_recent();
        let of_channels = if n_paged > 0 { 3 * n_heads * d } else { 0 };
        assert_eq!(bytes.tables as usize, 4 * (n_words + of_channels));
        assert_eq!(bytes.cache(), bytes.pages + bytes.rows + bytes.tables);
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
fn an_error_is_relative_to_what_it_is_an_error_of() {
    assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
    assert_eq!(relative_error(&[0.0, 0.0], &[3.0, 4.0]), 1.0);
    assert_eq!(relative_error(&[3.0, 4.0, 10.0], &[3.0, 4.0, 0.0]), 2.0);
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
