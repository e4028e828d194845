//! What holds of tokens that move, whatever way they went.

use half::bf16;
use lacuna::quant::reference::{
    Channels, Row, Token, dequantize, normalize, quantize, retier_page,
};
use lacuna::quant::{Page, PageShape, Part, RetierPlan, Tier};
use proptest::prelude::*;

use super::problem::{Case, Problem};
use crate::cache::{PARTS, find_page, shuffle};
use crate::common::{self, Random};

const CODED: [Tier; 3] = [Tier::T2, Tier::T4, Tier::T8];
/// Tiers of keys and of values, each a run.
const PAIRS: [[Tier; 2]; 4] =
    [[Tier::T16, Tier::T8], [Tier::T8, Tier::T4], [Tier::T4, Tier::T4], [Tier::T4, Tier::T2]];
/// Of a run, and of each half of the pools, of which one has the old pages.
const N_PAGES: u64 = 3;
const N_HALF: u64 = 2 * N_PAGES * PAIRS.len() as u64;

fn rows(seed: u64, n: usize, d: usize) -> Vec<Vec<bf16>> {
    let mut random = Random(seed);
    let row = |_| (0..d).map(|_| bf16::from_f32(random.normal() * 3.0 + 1.0)).collect();
    (0..n).map(row).collect()
}

fn channels(seed: u64, d: usize) -> [Vec<f32>; 2] {
    let mut random = Random(seed);
    let scales = (0..d).map(|_| 0.25 + random.normal().abs()).collect();
    [scales, (0..d).map(|_| random.normal()).collect()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fewer_bits_are_those_of_what_more_bits_stand_for(seed: u64, is_key: bool, n in 0..65_usize) {
        let shape = PageShape::new(64, if is_key { Part::Keys } else { Part::Values }).unwrap();
        let [scales, offsets] = channels(seed, 64);
        let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
        let rows = rows(seed, n, 64);
        for from in CODED {
            let page = Page::quantize(shape, from, rows.iter().map(|row| Some(&row[..])), &channels);
            let page = page.unwrap();
            for to in CODED {
                let tokens = (0..n).rev().map(|token| Some(Token::<bf16>::InPage(&page, token)));
                let moved = retier_page(shape, to, tokens, &channels).unwrap();
                for token in 0..n {
                    let row = page.row(n - 1 - token);
                    let y = dequantize(&row, &Channels::default());
                    let expected = if from == to { row } else { quantize(to, &y) };
                    prop_assert_eq!(moved.row(token), expected);
                }
            }
        }
    }

    #[test]
    fn numbers_in_pages_become_codes_as_those_in_a_cache_do(seed: u64, is_key: bool) {
        let shape = PageShape::new(96, if is_key { Part::Keys } else { Part::Values }).unwrap();
        let [scales, offsets] = channels(seed, 96);
        let channels = Channels { scales: Some(&scales), offsets: Some(&offsets) };
        let rows = rows(seed, 64, 96);
        let quantize_to = |tier| {
            Page::quantize(shape, tier, rows.iter().map(|row| Some(&row[..])), &channels).unwrap()
        };
        let numbers = quantize_to(Tier::T16);
        for tier in Tier::ALL {
            let in_page = (0..64).map(|token| Some(Token::<bf16>::InPage(&numbers, token)));
            prop_assert_eq!(&retier_page(shape, tier, in_page, &channels).unwrap(), &quantize_to(tier));
            let waiting = rows.iter().map(|row| Some(Token::Row(&row[..])));
            prop_assert_eq!(&retier_page(shape, tier, waiting, &channels).unwrap(), &quantize_to(tier));
        }
    }
}

/// What a token's key or value is, in a map from positions in place of pages.
#[derive(Debug, Clone, PartialEq)]
enum Bits {
    Numbers(Vec<bf16>),
    Codes(Tier, Row),
}

impl Bits {
    fn moved_to(&self, tier: Tier, channels: &Channels<'_>) -> Self {
        match self {
            Self::Codes(from, _) if *from == tier => self.clone(),
            Self::Codes(_, row) if tier.is_coded() => {
                Self::Codes(tier, quantize(tier, &dequantize(row, &Channels::default())))
            }
            Self::Codes(_, row) => {
                Self::Numbers(dequantize(row, channels).into_iter().map(bf16::from_f32).collect())
            }
            Self::Numbers(row) if tier.is_coded() => {
                Self::Codes(tier, quantize(tier, &normalize(row, channels)))
            }
            Self::Numbers(_) => self.clone(),
        }
    }
}

/// A request of one head whose tokens move.
struct History {
    problem: Problem<bf16>,
    /// Of keys and values, by position.
    model: Vec<[Bits; 2]>,
    n_steps: u32,
}

impl History {
    fn new(seed: u64) -> Self {
        let case = Case {
            seed,
            lengths: vec![190],
            n_heads: 1,
            head_dim: 32,
            n_pages: N_PAGES,
            n_runs: PAIRS.len() as u64,
            n_old_pages: N_PAGES * PAIRS.len() as u64,
            has_first_pages: false,
            ..Case::default()
        };
        let mut problem = case.build::<bf16>();
        let n_pool_pages = [2 * N_HALF; 4];
        problem.plan = RetierPlan::new(case.shape(n_pool_pages).unwrap()).unwrap();
        for tier in Tier::ALL {
            let n_bytes = problem.plan.pages().pool_bytes(tier) as usize;
            problem.pools[tier.tag() as usize] = vec![0; n_bytes];
        }
        problem.slot_of.fill(-1);
        problem.old_entries.iter_mut().for_each(|entries| entries.fill(u32::MAX));
        let mut history = Self { problem, model: Vec::new(), n_steps: 0 };
        history.model = (0..190).map(|position| history.waiting(position)).collect();
        history
    }

    /// Numbers stay in the cache.
    fn waiting(&self, position: u64) -> [Bits; 2] {
        let row = |part| self.problem.cache.row([0, 0], position, part).unwrap();
        [0, 1].map(|part| Bits::Numbers(row(part).to_vec()))
    }

    /// Every token goes to the pair of tiers that is asked for, or out of the pages.
    fn step(&mut self, pairs: &[Option<usize>], random: Option<&mut Random>) {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        if let Some(random) = random {
            shuffle(&mut order, random);
        }
        let first = self.n_steps % 2 * N_HALF as u32;
        let mut indices = Vec::new();
        let mut counts = Vec::new();
        let mut entries = [const { Vec::new() }; 2];
        for (run, tiers) in PAIRS.into_iter().enumerate() {
            let own = order.iter().filter(|position| pairs[**position] == Some(run));
            let mut own: Vec<i32> = own.map(|position| *position as i32).collect();
            counts.push(own.len() as u32);
            own.resize(64 * N_PAGES as usize, 5);
            indices.append(&mut own);
            for (part, tier) in tiers.into_iter().enumerate() {
                let page = |p: u64| first + (2 * (run as u64 * N_PAGES + p) + part as u64) as u32;
                entries[part].extend((0..N_PAGES).map(|p| tier.tag() << 30 | page(p)));
            }
        }
        self.problem.indices = indices;
        self.problem.counts = Some(counts);
        self.problem.entries = entries;
        let found = self.problem.run(&common::queues()[0]).unwrap();
        self.problem.pools = found.pools;
        self.problem.slot_of = found.new_slots;
        self.problem.old_entries = self.problem.entries.clone();
        for (position, pair) in pairs.iter().enumerate() {
            self.model[position] = match pair {
                None => self.waiting(position as u64),
                Some(pair) => [0, 1].map(|part| {
                    let channels = self.problem.channels.of(0, 32, part);
                    self.model[position][part].moved_to(PAIRS[*pair][part], &channels)
                }),
            };
        }
        self.n_steps += 1;
    }

    /// The pages' tokens are what the model says.
    fn check(&self, pairs: &[Option<usize>]) {
        let Problem { plan, pools, slot_of, old_entries, .. } = &self.problem;
        for (position, pair) in pairs.iter().enumerate() {
            let slot = slot_of[position];
            assert_eq!(slot >= 0, pair.is_some());
            let Ok(slot) = usize::try_from(slot) else { continue };
            for (part, kind) in PARTS.into_iter().enumerate() {
                let page =
                    find_page(plan.pages(), pools, old_entries[part][slot / 64], kind).unwrap();
                let bits = if page.tier().is_coded() {
                    Bits::Codes(page.tier(), page.row(slot % 64))
                } else {
                    Bits::Numbers(page.numbers(slot % 64))
                };
                assert_eq!(bits, self.model[position][part], "{position}, {kind:?}");
            }
        }
    }

    fn pages(&self) -> Vec<Option<Page>> {
        let Problem { plan, pools, old_entries, counts, .. } = &self.problem;
        let counts = counts.as_ref().unwrap();
        let is_made =
            |at: &usize| 64 * (at % N_PAGES as usize) < counts[at / N_PAGES as usize] as usize;
        let made =
            |part: usize| (0..old_entries[part].len()).filter(is_made).map(move |at| (part, at));
        [0, 1]
            .into_iter()
            .flat_map(made)
            .map(|(part, at)| find_page(plan.pages(), pools, old_entries[part][at], PARTS[part]))
            .collect()
    }
}

fn any_pairs() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop::collection::vec(prop::option::weighted(0.9, 0..PAIRS.len()), 190)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Tokens move in any way, and are what a map of them says.
    #[test]
    fn histories_are_those_of_a_map(seed: u64, steps in prop::collection::vec(any_pairs(), 1..5)) {
        let mut history = History::new(seed);
        let mut random = Random(seed);
        for (i, pairs) in steps.iter().enumerate() {
            history.step(pairs, (i % 2 == 0).then_some(&mut random));
            history.check(pairs);
        }
    }

    /// Wherever tokens were between: of the same bits, in ascending lists, they make the same pages.
    #[test]
    fn pages_do_not_depend_on_where_tokens_were(
        seed: u64,
        steps in prop::collection::vec(any_pairs(), 1..3),
        last in any_pairs(),
    ) {
        let (mut one, mut other) = (History::new(seed), History::new(seed));
        let mut random = Random(seed);
        for pairs in &steps {
            one.step(pairs, None);
            other.step(pairs, Some(&mut random));
            // Once more, by which no bits change.
            other.step(pairs, Some(&mut random));
        }
        one.step(&last, None);
        other.step(&last, None);
        prop_assert_eq!(&one.problem.slot_of, &other.problem.slot_of);
        prop_assert_eq!(one.pages(), other.pages());
    }
}
