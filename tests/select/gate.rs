//! `gate_selection`.

use half::{bf16, f16};
use lacuna::select::reference::gate_query;
use lacuna::select::{GateInputs, GateOutputs, GatePlan, GateShape, Score, gate_selection};
use lacuna::simt::{Checks, Config, Fibres};
use lacuna::{Error, Queue};
use proptest::prelude::*;

use crate::common::{self, Random};

/// A launch's requests.
#[derive(Debug, Clone)]
struct Problem<T> {
    queries: Vec<Vec<T>>,
    cached: Vec<Vec<T>>,
    states: Vec<u32>,
    forced: Option<Vec<u32>>,
    thetas: Option<Vec<f32>>,
    theta: f32,
    /// Elements between rows, beside those of a query.
    gaps: [usize; 2],
    rows_per_request: usize,
    has_cosines: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Gated {
    skips: Vec<u32>,
    cosines: Vec<u32>,
    cached: Vec<Vec<u32>>,
    states: Vec<u32>,
}

fn to_bits<T: Score>(row: &[T]) -> Vec<u32> {
    let bits = |value: &T| {
        let mut bits = [0_u8; 4];
        bits[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
        u32::from_le_bytes(bits)
    };
    row.iter().map(bits).collect()
}

impl<T: Score + Default> Problem<T> {
    fn new(queries: Vec<Vec<T>>, cached: Vec<Vec<T>>) -> Self {
        Self {
            states: vec![1; queries.len()],
            queries,
            cached,
            forced: None,
            thetas: None,
            theta: 0.9,
            gaps: [0, 0],
            rows_per_request: 1,
            has_cosines: true,
        }
    }

    fn n(&self) -> usize {
        self.queries.first().map_or(8, Vec::len)
    }

    fn plan(&self) -> Result<GatePlan, Error> {
        GatePlan::new(GateShape {
            batch: self.queries.len() as u64,
            n: self.n() as u64,
            query_stride: (self.n() + self.gaps[0]) as u64,
            cached_stride: (self.n() + self.gaps[1]) as u64,
            rows_per_request: self.rows_per_request as u64,
            element_bytes: size_of::<T>() as u32,
        })
    }

    /// Rows `gap` elements apart.
    fn lay(rows: &[Vec<T>], gap: usize) -> Vec<T> {
        let mut laid = Vec::new();
        for row in rows {
            laid.extend_from_slice(row);
            laid.extend(vec![T::from_f32(-77.0); gap]);
        }
        laid.truncate(laid.len().saturating_sub(gap));
        laid
    }

    fn run(&self, queue: &Queue) -> Result<Gated, Error> {
        let plan = self.plan()?;
        let queries = queue.upload(&Self::lay(&self.queries, self.gaps[0]))?;
        let before = Self::lay(&self.cached, self.gaps[1]);
        let mut cached = queue.upload(&before)?;
        let mut states = queue.upload(&self.states)?;
        let forced = self.forced.as_ref().map(|words| queue.upload(words)).transpose()?;
        let thetas = self.thetas.as_ref().map(|words| queue.upload(words)).transpose()?;
        let mut skips = queue.alloc::<u32>(plan.skips_len() as usize)?;
        let mut cosines = queue.alloc::<f32>(self.queries.len())?;
        let inputs = GateInputs {
            queries: queries.view(),
            forced: forced.as_ref().map(|b| b.view()),
            thetas: thetas.as_ref().map(|b| b.view()),
            theta: self.theta,
        };
        let mut outputs = GateOutputs {
            cached: cached.view_mut(),
            states: states.view_mut(),
            skips: skips.view_mut(),
            cosines: self.has_cosines.then(|| cosines.view_mut()),
        };
        gate_selection(queue, &plan, &inputs, &mut outputs)?;
        let after = queue.download(&cached.view())?;
        let row_stride = self.n() + self.gaps[1];
        for (i, (was, is)) in before.iter().zip(&after).enumerate() {
            if i % row_stride >= self.n() {
                assert_eq!(to_bits(&[*was]), to_bits(&[*is]), "between rows");
            }
        }
        let cosines = if self.has_cosines { queue.download(&cosines.view())? } else { vec![] };
        Ok(Gated {
            skips: queue.download(&skips.view())?,
            cosines: to_bits(&cosines),
            cached: (0..self.queries.len())
                .map(|b| to_bits(&after[b * row_stride..][..self.n()]))
                .collect(),
            states: queue.download(&states.view())?,
        })
    }

    fn expect(&self) -> Gated {
        let mut gated =
            Gated { skips: vec![], cosines: vec![], cached: vec![], states: self.states.clone() };
        for (b, query) in self.queries.iter().enumerate() {
            let is_forced = self.forced.as_ref().is_some_and(|forced| forced[b] != 0);
            let cached = (self.states[b] != 0 && !is_forced).then(|| &self.cached[b][..]);
            let theta = self.thetas.as_ref().map_or(self.theta, |thetas| thetas[b]);
            let (is_skipped, cosine) = gate_query(query, cached, theta);
            gated.skips.extend(vec![u32::from(is_skipped); self.rows_per_request]);
            if self.has_cosines {
                gated.cosines.push(cosine.to_bits());
            }
            gated.cached.push(to_bits(if is_skipped { &self.cached[b] } else { query }));
            if !is_skipped {
                gated.states[b] = 1;
            }
        }
        gated
    }
}

#[track_caller]
fn assert_same<T: Score + Default>(problem: &Problem<T>) {
    for queue in common::queues() {
        assert_eq!(problem.run(&queue).unwrap(), problem.expect(), "{}", queue.executor());
    }
}

/// From -1 to 1.
fn number(random: &mut Random) -> f32 {
    random.next() as f32 / (1_u32 << 30) as f32 - 1.0
}

fn queries<T: Score>(batch: usize, n: usize, seed: u64) -> Vec<Vec<T>> {
    let mut random = Random(seed);
    (0..batch).map(|_| (0..n).map(|_| T::from_f32(number(&mut random))).collect()).collect()
}

/// The same queries, some changed a little and some a lot.
fn drifted<T: Score>(rows: &[Vec<T>], seed: u64) -> Vec<Vec<T>> {
    let mut random = Random(seed ^ 0x5EED);
    let mut drift = |row: &Vec<T>| {
        let share = [0.0, 0.1, 0.5, 0.55, 3.0][random.below(5)];
        row.iter().map(|x| T::from_f32(x.to_f32() + share * number(&mut random))).collect()
    };
    rows.iter().map(&mut drift).collect()
}

proptest! {
    /// Of the reference alone.
    #[test]
    fn a_cosine_is_near_the_exact_one_and_symmetric(seed: u64, n in 1_usize..700) {
        let x = &queries::<f32>(1, 8 * n, seed)[0];
        let y = &drifted(std::slice::from_ref(x), seed)[0];
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let exact = product(x, y) / (product(x, x) * product(y, y)).sqrt();
        let (_, cosine) = gate_query(x, Some(y), 0.0);
        prop_assert!((f64::from(cosine) - exact).abs() < 1e-5, "{cosine} and {exact}");
        prop_assert_eq!(gate_query(y, Some(x), 0.0).1.to_bits(), cosine.to_bits());
        // The threshold is met by the cosine itself, and by nothing more.
        prop_assert!(gate_query(x, Some(y), cosine).0);
        prop_assert!(!gate_query(x, Some(y), cosine.next_up()).0);
        prop_assert!(gate_query(x, Some(x), 0.999).0);
        // A power of two moves no rounding.
        let half: Vec<f32> = x.iter().map(|x| x * 0.5).collect();
        prop_assert_eq!(gate_query(&half, Some(y), 0.0).1.to_bits(), cosine.to_bits());
    }

    #[test]
    fn any_requests_give_what_the_reference_gives(
        seed: u64, batch in 0_usize..4, n in 1_usize..1100, gaps in any::<[bool; 2]>(),
        rows_per_request in 0_usize..5, given in any::<[bool; 3]>(),
    ) {
        let mut random = Random(seed);
        let mut words = |n_values: usize| -> Vec<u32> {
            (0..batch).map(|_| random.below(n_values) as u32).collect()
        };
        let (states, forced, thetas) = (words(3), words(2), words(5));
        let thetas = thetas.iter().map(|i| [0.9, 0.5, -2.0, 1.5, f32::NAN][*i as usize]).collect();
        let rows = queries::<f32>(batch, 8 * n, seed);
        let problem = Problem {
            states,
            forced: given[0].then_some(forced),
            thetas: given[1].then_some(thetas),
            gaps: gaps.map(|has_gap| if has_gap { 24 } else { 0 }),
            rows_per_request,
            has_cosines: given[2],
            ..Problem::new(drifted(&rows, seed), rows)
        };
        assert_same(&problem);
        let rows = queries::<bf16>(batch, 8 * n, seed);
        assert_same(&Problem { states: problem.states, ..Problem::new(drifted(&rows, seed), rows) });
    }

    #[test]
    fn no_shape_makes_a_plan_panic(
        batch: u64, n: u64, query_stride: u64, cached_stride: u64, rows_per_request: u64, element_bytes: u32,
        small: bool,
    ) {
        let least = |x: u64, most: u64| if small { x % most } else { x };
        let shape = GateShape {
            batch: least(batch, 1 << 32),
            n: if small { n % 4096 * 8 } else { n },
            query_stride: least(query_stride, 1 << 40) / 8 * 8,
            cached_stride: least(cached_stride, 1 << 40) / 8 * 8,
            rows_per_request: least(rows_per_request, 100),
            element_bytes: if small { 2 } else { element_bytes },
        };
        let _ = GatePlan::new(shape).map(|plan| {
            let lens = (plan.queries_len(), plan.cached_len(), plan.skips_len());
            (lens, plan.least_bytes(shape.batch, shape.batch), plan.grid())
        });
    }
}

#[test]
fn sizes_around_a_block_and_the_most() {
    for n in [8, 256, 264, 4088, 4096, 4104, 8192, 16_384] {
        let rows = queries::<f32>(2, n, n as u64);
        assert_same(&Problem::new(drifted(&rows, 3), rows));
        let rows = queries::<f16>(2, n, n as u64);
        assert_same(&Problem::new(drifted(&rows, 3), rows));
    }
    let rows = queries::<bf16>(1, 32_768, 9);
    assert_same(&Problem::new(drifted(&rows, 9), rows));
    let rows = queries::<bf16>(1, 40, 9);
    assert_same(&Problem { rows_per_request: 1300, ..Problem::new(rows.clone(), rows) });
    assert_same(&Problem::<bf16>::new(vec![], vec![]));
    // Queries of nothing are like nothing.
    let nothing =
        Problem { gaps: [8, 8], ..Problem::<bf16>::new(vec![vec![]; 2], vec![vec![]; 2]) };
    assert_eq!(nothing.plan().unwrap().queries_len(), 8);
    assert_same(&nothing);
}

#[test]
fn what_is_no_direction_is_never_used_again() {
    let sound = &queries::<f32>(1, 64, 1)[0];
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
        let mut row = sound.clone();
        row[40] = strange;
        // As the query, as the cached one, and as both, whatever the threshold is.
        let problem = Problem {
            theta: f32::NEG_INFINITY,
            ..Problem::new(
                vec![row.clone(), sound.clone(), row.clone()],
                vec![sound.clone(), row.clone(), row],
            )
        };
        let expected = problem.expect();
        assert_eq!(expected.skips, [0, 0, 0], "{strange}");
        assert_eq!(expected.cosines, [0x7FFF_FFFF; 3], "{strange}");
        assert_same(&problem);
    }
    let zeros = vec![vec![0.0_f32; 64]];
    let problem = Problem { theta: -1.0, ..Problem::new(zeros.clone(), zeros) };
    assert_eq!(problem.expect().skips, [0]);
    assert_same(&problem);
}

#[test]
fn a_selection_lives_until_its_query_has_moved_away() {
    let first = queries::<bf16>(1, 256, 1);
    let near: Vec<Vec<bf16>> = vec![first[0].iter().map(|x| *x * bf16::from_f32(1.5)).collect()];
    let far = queries::<bf16>(1, 256, 2);
    for queue in common::queues() {
        let mut problem = Problem::new(first.clone(), vec![vec![bf16::NAN; 256]]);
        problem.states = vec![0];
        let mut skips = Vec::new();
        // The engine says once that another request has come into the place.
        for (query, forced) in
            [(&first, 0), (&near, 0), (&near, 1), (&near, 0), (&far, 0), (&far, 0)]
        {
            problem.queries = query.clone();
            problem.forced = Some(vec![forced]);
            let gated = problem.run(&queue).unwrap();
            assert_eq!(gated, problem.expect());
            skips.extend(gated.skips);
            if skips.last() == Some(&0) {
                problem.cached = query.clone();
            }
            problem.states = gated.states;
        }
        assert_eq!(skips, [0, 1, 0, 1, 0, 1]);
    }
}

#[test]
fn every_schedule_and_fibre_gives_the_same_bits() {
    let rows = queries::<bf16>(3, 4200, 5);
    let problem = Problem { states: vec![1, 0, 1], ..Problem::new(drifted(&rows, 4), rows) };
    let expected = problem.expect();
    for schedule in common::SCHEDULES {
        for fibres in [Fibres::Native, Fibres::Portable] {
            for seed in 0..3 {
                let checks = Checks::ALL;
                let config = Config { schedule, fibres, seed, checks, ..Config::default() };
                let gated = problem.run(&Queue::simt(config.clone())).unwrap();
                assert_eq!(gated, expected, "{config:?}");
            }
        }
    }
}

#[test]
fn a_request_alone_and_among_others_gives_the_same() {
    let rows = queries::<f16>(5, 520, 8);
    let moved = drifted(&rows, 8);
    for queue in common::queues() {
        let together = Problem::new(moved.clone(), rows.clone()).run(&queue).unwrap();
        for b in 0..5 {
            let alone = Problem::new(vec![moved[b].clone()], vec![rows[b].clone()]);
            let alone = alone.run(&queue).unwrap();
            assert_eq!(alone.cosines[0], together.cosines[b]);
            assert_eq!(alone.skips[0], together.skips[b]);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_does() {
    let queue = Queue::simt(Config::default());
    let rows = queries::<bf16>(2, 64, 1);
    let sound = Problem::new(rows.clone(), rows);
    for (problem, message) in [
        (Problem { states: vec![1], ..sound.clone() }, "states: expected 2, got 1"),
        (Problem { forced: Some(vec![1; 3]), ..sound.clone() }, "forced: expected 2, got 3"),
        (Problem { thetas: Some(vec![]), ..sound.clone() }, "thetas: expected 2, got 0"),
    ] {
        assert_eq!(problem.run(&queue).unwrap_err().to_string(), message);
    }
    let shape = *sound.plan().unwrap().shape();
    for (shape, message) in [
        (GateShape { n: 60, ..shape }, "elements of a query: 60 is outside the multiples of 8"),
        (
            GateShape { query_stride: 56, ..shape },
            "stride between queries, in elements: 56 is outside the elements of a query and more",
        ),
        (
            GateShape { cached_stride: 68, ..shape },
            "stride between cached queries, in elements: 68 is outside the multiples of 8",
        ),
        (GateShape { element_bytes: 1, ..shape }, "bytes of an element: 1 is outside 2 and 4"),
        (GateShape { n: 1 << 16, ..shape }, "bytes of a query: 131072 is outside 0..=65536"),
        (
            GateShape { rows_per_request: 65_536, ..shape },
            "rows of a request: 65536 is outside 0..65536",
        ),
        (GateShape { batch: 1 << 31, ..shape }, "requests: 2147483648 is outside 0..2^31"),
        (
            GateShape { query_stride: 1 << 60, ..shape },
            "bytes of queries: 2305843009213694080 is outside 0..2^47",
        ),
    ] {
        assert_eq!(GatePlan::new(shape).unwrap_err().to_string(), message);
    }
    // Half a vector further on.
    let plan = sound.plan().unwrap();
    let queries = queue.upload(&[bf16::ONE; 132]).unwrap();
    let mut cached = queue.alloc::<bf16>(128).unwrap();
    let [mut states, mut skips] = [(); 2].map(|()| queue.alloc::<u32>(2).unwrap());
    let view = queries.view().slice(4..132).unwrap();
    let inputs = GateInputs { queries: view, forced: None, thetas: None, theta: 0.9 };
    let mut outputs = GateOutputs {
        cached: cached.view_mut(),
        states: states.view_mut(),
        skips: skips.view_mut(),
        cosines: None,
    };
    let error = gate_selection(&queue, &plan, &inputs, &mut outputs).unwrap_err().to_string();
    assert!(error.ends_with("is outside the multiples of 16"), "{error}");
}
