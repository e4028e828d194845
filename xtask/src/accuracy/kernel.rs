//! What `attend_tiered` makes of our own format, by the reference that its kernel is equal to.

use half::bf16;
use lacuna::attention::reference::{Attended, HostSegment, TieredAttended};
use lacuna::attention::{AttendPlan, AttendShape, Logits, SegmentShape, TieredPlan, Tokens};
use lacuna::kv::{KvLayout, KvShape};
use lacuna::mma::Model;
use lacuna::quant::Tier::{T2, T4, T8, T16};
use lacuna::quant::{Page, PageShape, PagesPlan, PagesShape, Part, Tier};
use rayon::prelude::*;

use super::data::{Head, Rows, Sample, Set, Shape};
use super::measure::Ratio;
use super::own::{Numbers, Tiered};
use super::schemes::Scheme;
use super::softmax;

/// Queries of a head, of every second head as it is stored: what says every rounding is slow.
pub(crate) const N_QUERIES: usize = 2;

/// Errors of outputs of attention, each a root mean square over that of the outputs, as means over heads, layers and sequences.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Of f64 over what pages stand for, against f64 over the rows they were made of.
    pub(crate) format: f64,
    /// Of the kernel, against f64 over what pages stand for.
    pub(crate) arithmetic: f64,
    /// Of the kernel, against f64 over the rows.
    pub(crate) total: f64,
    /// The largest `arithmetic` of a head.
    pub(crate) worst: f64,
}

/// A row for each choice of tiers; none where the kernel does not take heads of the set.
pub(crate) fn measure(set: &Set) -> Vec<Row> {
    if set.samples[0].keys.shape().d < 64 {
        return Vec::new();
    }
    let tiers = [(T16, T16), (T8, T8), (T4, T4), (T4, T2), (T2, T2)];
    let schemes = tiers.map(|(important, rest)| Tiered { important, rest });
    let heads = set.samples.iter().flat_map(|sample| {
        (0..sample.keys.shape().n_heads).step_by(2).map(move |head| (sample, head))
    });
    let heads: Vec<_> = heads.collect();
    let errors: Vec<[Vec<[f64; 3]>; 5]> = heads
        .into_par_iter()
        .map(|(sample, head)| {
            let exact = Exact::of(sample, head);
            schemes.each_ref().map(|scheme| exact.errors(&Stored::of(&exact, scheme)))
        })
        .collect();
    let row = |(i, scheme): (usize, &Tiered)| {
        let errors: Vec<&[f64; 3]> = errors.iter().flat_map(|schemes| &schemes[i]).collect();
        let mut row = Row { name: scheme.name(), ..Row::default() };
        for [format, arithmetic, total] in &errors {
            row.format += format / errors.len() as f64;
            row.arithmetic += arithmetic / errors.len() as f64;
            row.total += total / errors.len() as f64;
            row.worst = row.worst.max(*arithmetic);
        }
        row
    };
    schemes.iter().enumerate().map(row).collect()
}

/// A head as it is stored, which may be several heads of attention side by side.
struct Exact<'a> {
    sample: &'a Sample,
    head: usize,
    numbers: [Numbers; 2],
    /// Of each head of attention.
    queries: Vec<Vec<Query<'a>>>,
}

/// A query, and what f64 makes of it.
struct Query<'a> {
    row: &'a [f32],
    output: Vec<f64>,
}

impl<'a> Exact<'a> {
    fn of(sample: &'a Sample, head: usize) -> Self {
        let parts = [(Part::Keys, &sample.keys), (Part::Values, &sample.values)];
        let numbers = parts.map(|(part, rows)| Numbers::of(rows, head, part));
        let Shape { n_tokens: n_queries, n_heads, .. } = sample.queries.shape();
        let group = n_heads / sample.keys.shape().n_heads;
        let rows = numbers.each_ref().map(|numbers| numbers.rows().with_heads(group));
        let of_head = |part: usize| {
            let [keys, values] = rows.each_ref().map(|rows| Head::of(rows, part));
            let queries = (0..n_queries).step_by(n_queries.div_ceil(N_QUERIES));
            let rows = queries.map(|query| sample.queries.row(query, head * group + part));
            rows.map(|row| Query { row, output: attend(&keys, &values, row) }).collect()
        };
        Self { sample, head, queries: (0..group).map(of_head).collect(), numbers }
    }

    /// Of each head of attention: of the format, of the kernel's arithmetic, and of both.
    fn errors(&self, stored: &Stored<'_>) -> Vec<[f64; 3]> {
        let near = stored.near.each_ref().map(|rows| rows.with_heads(self.queries.len()));
        let of_head = |(part, queries): (usize, &Vec<Query<'_>>)| {
            let [keys, values] = near.each_ref().map(|rows| Head::of(rows, part));
            let mut ratios = [Ratio::default(); 3];
            for Query { row, output } in queries {
                let near = attend(&keys, &values, row);
                let found = stored.attend(row, part);
                let pairs = [(output, &near), (&near, &found), (output, &found)];
                for (ratio, (of, is)) in ratios.iter_mut().zip(pairs) {
                    ratio.add(of.iter().copied(), is.iter().copied());
                }
            }
            ratios.map(|ratio| ratio.root())
        };
        self.queries.iter().enumerate().map(of_head).collect()
    }
}

/// Full pages, each of one tier, and tokens that wait for a page to fill, as numbers.
struct Stored<'a> {
    numbers: &'a [Numbers; 2],
    pools: [Vec<u8>; 4],
    entries: [Vec<u32>; 2],
    waiting: Vec<i32>,
    /// What all that stands for, `[n_tokens, 1, d]`.
    near: [Rows; 2],
}

impl<'a> Stored<'a> {
    fn of(Exact { sample, head, numbers, .. }: &'a Exact<'_>, scheme: &Tiered) -> Self {
        let n_tokens = sample.keys.shape().n_tokens;
        let near = numbers.each_ref().map(Numbers::rows);
        let (pools, entries, waiting) = Default::default();
        let mut stored = Self { numbers, pools, entries, waiting, near };
        let tier_of = scheme.tier_of(&sample.pools, *head, n_tokens);
        for tier in Tier::ALL {
            let tokens: Vec<usize> =
                (0..n_tokens).filter(|token| tier_of[*token] == tier).collect();
            let pages = tokens.chunks_exact(PageShape::TOKENS);
            stored.waiting.extend(pages.remainder().iter().map(|token| *token as i32));
            for tokens in pages {
                stored.add_page(tier, Part::Keys, tokens);
                stored.add_page(tier, Part::Values, tokens);
            }
        }
        stored
    }

    fn add_page(&mut self, tier: Tier, part: Part, tokens: &[usize]) {
        let (numbers, near) = (&self.numbers[part as usize], &mut self.near[part as usize]);
        let d = near.shape().d;
        let shape = PageShape::new(d as u64, part).expect("a head of the format");
        let rows = tokens.iter().map(|token| Some(numbers.row(*token)));
        let page = Page::quantize(shape, tier, rows, &numbers.channels()).expect("a page of rows");
        for (slot, token) in tokens.iter().enumerate() {
            let row = page.dequantize::<bf16>(slot, &numbers.channels());
            near.elements_mut()[token * d..][..d].copy_from_slice(&row);
        }
        let pool = &mut self.pools[tier.tag() as usize];
        let number = pool.len() / page.bytes().len();
        self.entries[part as usize].push(tier.tag() << 30 | number as u32);
        pool.extend(page.bytes());
    }

    /// The kernel's output for a query of one of the heads of attention that are stored side by side: it has zeros at the channels of
    /// others.
    fn attend(&self, query: &[f32], part: usize) -> Vec<f64> {
        let Shape { n_tokens, d, .. } = self.near[0].shape();
        let first = part * query.len();
        let mut row = vec![bf16::ZERO; d];
        row[first..].iter_mut().zip(query).for_each(|(x, q)| *x = bf16::from_f32(*q));
        let plan = self.plan(query.len() as u64).expect("a launch that the kernel takes");
        let page_table: Vec<i32> = (0..n_tokens as i32).collect();
        let segment = HostSegment {
            keys: self.numbers[0].elements(),
            values: self.numbers[1].elements(),
            page_table: &page_table,
            lengths: &[n_tokens as u32],
            indices: &self.waiting,
            counts: None,
            biases: None,
        };
        let attended = Attended {
            plan: plan.attend(),
            model: Model::HOPPER,
            queries: &row,
            segments: &[segment],
            sinks: None,
            low_rank: None,
        };
        let attended = TieredAttended {
            plan: &plan,
            attended,
            pools: self.pools.each_ref().map(Vec::as_slice),
            entries: self.entries.each_ref().map(Vec::as_slice),
            counts: None,
            channels: self.numbers.each_ref().map(Numbers::channels),
        };
        let (output, ..) = attended.query(0, 0, 0);
        output[first..][..query.len()].iter().map(|x| f64::from(*x)).collect()
    }

    /// One query of one head, whose logits are those of heads of `head_dim`.
    fn plan(&self, head_dim: u64) -> lacuna::Result<TieredPlan> {
        let Shape { n_tokens, d, .. } = self.near[0].shape();
        let n_tokens = n_tokens as u64;
        let shape = KvShape {
            batch: 1,
            n_heads: 1,
            row_len: d as u64,
            n_pages: n_tokens,
            page_size: 1,
            table_stride: n_tokens,
            ..KvShape::default()
        };
        let layout = KvLayout::new(shape.hnd())?;
        let tokens = match self.waiting.len() as u64 {
            0 => Tokens::first(0),
            n_blocks => Tokens::Blocks { n_blocks, block_size: 1 },
        };
        let logits = Logits::of(head_dim);
        let attend = AttendPlan::new(
            AttendShape { logits, ..AttendShape::of(&layout, 1) },
            &[SegmentShape::of(layout, tokens)],
        )?;
        let n_pages = self.entries[0].len() as u64;
        let mut n_pool_pages = [0; 4];
        for entry in self.entries.iter().flatten() {
            n_pool_pages[Tier::of_entry(*entry).tag() as usize] += 1;
        }
        let pages = PagesShape { n_pool_pages, ..PagesShape::of(layout, n_pages) };
        TieredPlan::new(attend, PagesPlan::new(pages)?)
    }
}

fn attend(keys: &Head, values: &Head, query: &[f32]) -> Vec<f64> {
    let mut weights = keys.logits(query);
    softmax(&mut weights);
    values.weighted(&weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_TOKENS: usize = 330;

    /// Two heads of attention stored as one, some of whose tokens fill no page.
    fn sample() -> Sample {
        let noise = |i: u64| {
            let bits = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 4e6 - 2.0
        };
        let rows = |n_tokens: usize, n_heads, d: usize, first: u64| {
            let elements = (0..n_tokens * n_heads * d).map(|i| noise(first + i as u64));
            Rows::new(n_heads, d, elements.collect()).rounded()
        };
        let queries = rows(N_QUERIES, 2, 32, 1 << 40);
        let [keys, values] = [0, 1 << 32].map(|first| rows(N_TOKENS, 1, 64, first));
        Sample::new(keys, values, queries.clone(), &queries)
    }

    #[test]
    fn pages_stand_for_what_the_format_gives_back() {
        let sample = sample();
        let exact = Exact::of(&sample, 0);
        let scheme = Tiered { important: T4, rest: T2 };
        let stored = Stored::of(&exact, &scheme);
        // 198 and 132 tokens.
        assert_eq!([&stored.entries[0], &stored.entries[1]].map(Vec::len), [5, 5]);
        assert_eq!(stored.waiting.len(), 6 + 4);
        let near = [
            scheme.keys(&sample.keys, &sample.pools),
            scheme.values(&sample.values, &sample.pools),
        ];
        for token in 0..N_TOKENS {
            let waits = stored.waiting.contains(&(token as i32));
            let expected = if waits { [&sample.keys, &sample.values] } else { near.each_ref() };
            for (found, expected) in stored.near.iter().zip(expected) {
                assert_eq!(found.row(token, 0), expected.row(token, 0), "{token}");
            }
        }
    }

    #[test]
    fn the_kernel_attends_to_what_is_stored() {
        let set = Set { name: String::new(), samples: vec![sample()] };
        let rows = measure(&set);
        let format = rows.iter().map(|row| row.format);
        assert!(format.is_sorted() && rows[0].format == 0.0 && rows[1].format > 1e-4, "{rows:?}");
        for row in &rows {
            // More would be another softmax, another token's row or another head's channels.
            assert!(row.arithmetic > 1e-6 && row.worst < 5e-3, "{rows:?}");
            assert!((row.total - row.format.hypot(row.arithmetic)).abs() < 1e-3, "{rows:?}");
        }
        assert_eq!(rows[0].total, rows[0].arithmetic);
    }

    #[test]
    fn heads_that_the_kernel_does_not_take_have_no_rows() {
        let rows = Rows::new(1, 32, vec![1.0; 64 * 32]);
        let sample = Sample::new(rows.clone(), rows.clone(), rows.clone(), &rows);
        assert!(measure(&Set { name: String::new(), samples: vec![sample] }).is_empty());
    }
}
