//! Ways round a loop that markers name, where what a loop does depends on its data, and what an element costs on each.
//!
//! A way passes every statement that is marked for it, in topological order, and between two of them
//! takes the shortest way: so what it counts is what is executed at least. A statement that was inlined in several places
//! is passed in all of them that are in the loop, but those in a statement that is marked as not here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Result;

use super::inner::MarkedLine;
use super::listing::{Instruction, Kernel, Line};
use super::loops::{self, Loop};
use super::markers::{Meaning, Step};

/// One way round a loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub(super) name: String,
    /// Without `NOP`.
    pub(super) instructions: u32,
    pub(super) elements: u32,
}

impl Way {
    /// To two digits.
    pub(super) fn per_element(&self) -> f64 {
        (f64::from(self.instructions) / f64::from(self.elements) * 100.0).round() / 100.0
    }
}

/// The ways that a kernel has any statement of.
pub(super) fn find(kernel: &Kernel, marked_lines: &[MarkedLine]) -> Result<Vec<Way>> {
    let mut names = BTreeSet::new();
    for marked in marked_lines {
        if let Meaning::OfWays { names: own, .. } = &marked.marker.meaning {
            names.extend(own);
        }
    }
    let mut ways = Vec::new();
    for name in names {
        let of = |step: fn(Step) -> bool| -> Vec<&MarkedLine> {
            let is_of = |marked: &&MarkedLine| match &marked.marker.meaning {
                Meaning::OfWays { names, step: own } => names.contains(name) && step(*own),
                _ => false,
            };
            marked_lines.iter().filter(is_of).collect()
        };
        let statements = Statements {
            passed: of(|step| step == Step::Passes),
            avoided: of(|step| step == Step::Avoids),
            counted: of(|step| matches!(step, Step::Counts { .. })),
        };
        ways.extend(statements.find(kernel, name)?);
    }
    Ok(ways)
}

/// What is marked for a way.
struct Statements<'a> {
    passed: Vec<&'a MarkedLine>,
    avoided: Vec<&'a MarkedLine>,
    counted: Vec<&'a MarkedLine>,
}

impl Statements<'_> {
    /// Nothing where the kernel has none of the statements.
    fn find(&self, kernel: &Kernel, name: &str) -> Result<Option<Way>> {
        let instructions = &kernel.instructions;
        let fail = |what: &str| format!("{}: the way of {name} {what}", kernel.name);
        let is_avoided =
            |place: &[Line]| self.avoided.iter().any(|marked| marked.position(place).is_some());
        // Of each place the middle half, since the first and the last may be moved out of it.
        let mut points: Vec<Vec<Vec<usize>>> = Vec::new();
        for marked in &self.passed {
            let mut places: BTreeMap<&[Line], Vec<usize>> = BTreeMap::new();
            for (i, Instruction { place, .. }) in instructions.iter().enumerate() {
                if let Some(at) = marked.position(place).filter(|_| !is_avoided(place)) {
                    places.entry(&place[at + 1..]).or_default().push(i);
                }
            }
            let middle = |own: Vec<usize>| own[own.len() / 4..own.len() - own.len() / 4].to_vec();
            points.push(places.into_values().map(middle).collect());
        }
        if points.iter().all(Vec::is_empty) {
            return Ok(None);
        }
        let is_inside = |found: &Loop, i: usize| found.body.binary_search(&i).is_ok();
        let has_any = |found: &Loop, own: &[usize]| own.iter().any(|&i| is_inside(found, i));
        let has_all =
            |found: &Loop| points.iter().all(|places| places.iter().any(|own| has_any(found, own)));
        let loops = loops::find(kernel)?;
        let around =
            loops.iter().filter(|found| has_all(found)).min_by_key(|found| found.body.len());
        let around = around.ok_or_else(|| {
            let has = |marked: &MarkedLine| {
                instructions.iter().any(|i| marked.position(&i.place).is_some())
            };
            let lost = self.passed.iter().find(|marked| !has(marked)).map(|marked| marked.place());
            fail(&lost.map_or("passes statements that no loop has all of".to_owned(), |place| {
                format!("passes {place}, which is not in it")
            }))
        })?;
        let map = Map::new(kernel, &around.body)?;
        let points = points.into_iter().flatten().filter(|own| has_any(around, own));
        let inside = |own: Vec<usize>| own.into_iter().filter(|&i| is_inside(around, i)).collect();
        let passed = map.find_round(points.map(inside).collect());
        let passed = passed.ok_or_else(|| fail("does not come back to its first statement"))?;
        if passed.iter().collect::<BTreeSet<_>>().len() < passed.len() {
            return Err(fail(
                "passes an instruction twice; are its statements each other's alternatives?",
            ));
        }
        let elements = passed.iter().map(|&i| self.count_elements(kernel, i)).sum();
        if elements == 0 {
            return Err(fail("does no elements"));
        }
        let n = passed.iter().filter(|&&i| instructions[i].base() != "NOP").count();
        Ok(Some(Way { name: name.to_owned(), instructions: n as u32, elements }))
    }

    fn count_elements(&self, kernel: &Kernel, i: usize) -> u32 {
        let instruction = &kernel.instructions[i];
        let elements = |marked: &&MarkedLine| {
            let Meaning::OfWays { step: Step::Counts { elements, action }, .. } =
                marked.marker.meaning
            else {
                return 0;
            };
            let is_it =
                action.is(instruction.base()) && marked.position(&instruction.place).is_some();
            if is_it { elements } else { 0 }
        };
        self.counted.iter().map(elements).sum()
    }
}

/// Where the instructions of a loop go on.
struct Map {
    successors: Vec<Vec<usize>>,
    /// Each of them before its successors but for the ends of loops.
    ranks: Vec<usize>,
    /// 0 of a `NOP`.
    costs: Vec<u32>,
}

/// The shortest ways to each instruction: what they cost, and which is the last before it.
struct Reached {
    costs: Vec<u32>,
    before: Vec<Option<usize>>,
}

impl Map {
    fn new(kernel: &Kernel, body: &[usize]) -> Result<Self> {
        let (mut successors, order) = loops::find_order(kernel)?;
        let is_inside = |i: &usize| body.binary_search(i).is_ok();
        for (i, own) in successors.iter_mut().enumerate() {
            own.retain(|next| is_inside(&i) && is_inside(next));
        }
        let mut ranks = vec![usize::MAX; successors.len()];
        for (rank, &i) in order.iter().enumerate() {
            ranks[i] = rank;
        }
        let costs = kernel.instructions.iter().map(|i| u32::from(i.base() != "NOP")).collect();
        Ok(Self { successors, ranks, costs })
    }

    /// The instructions of the cheapest way that passes one of each of some, in the order of their first, and comes back.
    fn find_round(&self, mut points: Vec<Vec<usize>>) -> Option<Vec<usize>> {
        points.sort_by_key(|own| own.iter().map(|&i| self.ranks[i]).min());
        let fewest = (0..points.len()).min_by_key(|&k| points[k].len())?;
        points.rotate_left(fewest);
        let rounds =
            points[0].iter().filter_map(|&start| self.find_round_from(start, &points[1..]));
        rounds.min_by_key(|(cost, _)| *cost).map(|(_, way)| way)
    }

    fn find_round_from(&self, start: usize, points: &[Vec<usize>]) -> Option<(u32, Vec<usize>)> {
        let mut reached = vec![self.spread(&[(0, start)])];
        for own in points {
            let costs = &reached[reached.len() - 1].costs;
            let from: Vec<_> =
                own.iter().map(|&i| (costs[i], i)).filter(|(cost, _)| *cost < u32::MAX).collect();
            reached.push(self.spread(&from));
        }
        let last = &reached[reached.len() - 1];
        let ends = (0..self.successors.len())
            .filter(|&i| last.costs[i] < u32::MAX && self.successors[i].contains(&start));
        let end = ends.min_by_key(|&i| last.costs[i])?;
        let cost = last.costs[end] + self.costs[start];
        let mut way = vec![start];
        let mut i = end;
        for stage in reached.iter().rev() {
            while let Some(before) = stage.before[i] {
                way.push(i);
                i = before;
            }
        }
        way.reverse();
        Some((cost, way))
    }

    fn spread(&self, from: &[(u32, usize)]) -> Reached {
        let n = self.successors.len();
        let mut reached = Reached { costs: vec![u32::MAX; n], before: vec![None; n] };
        let mut rest = BTreeSet::new();
        for &(cost, i) in from {
            reached.costs[i] = cost;
            rest.insert((cost, i));
        }
        while let Some((cost, i)) = rest.pop_first() {
            if cost > reached.costs[i] {
                continue;
            }
            for &next in &self.successors[i] {
                let cost = cost + self.costs[next];
                if cost < reached.costs[next] {
                    reached.costs[next] = cost;
                    reached.before[next] = Some(i);
                    rest.insert((cost, next));
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing;
    use super::super::markers::{Action, Marker};
    use super::*;

    /// A loop whose body has two ways, one of them longer, and work after they meet.
    const LISTING: &str = r#"
	.section	.text.sample,"ax",@progbits
	//## File "/csrc/room/sample.cu", line 1
.loop:
        /*0000*/ @P0 BRA `(.four) ;
	//## File "/csrc/room/sample.cu", line 2
        /*0010*/ LOP3.LUT R1, R0, 0x3, RZ ;
        /*0020*/ IMMA.16832.U8.S8 R4, R8, R10, R4 ;
        /*0030*/ BRA `(.join) ;
	//## File "/csrc/room/sample.cu", line 3
.four:
        /*0040*/ LOP3.LUT R1, R0, 0xf, RZ ;
        /*0050*/ SHF.R.U32.HI R2, RZ, 0x4, R0 ;
        /*0060*/ LOP3.LUT R3, R2, 0xf, RZ ;
        /*0070*/ IMMA.16832.U8.S8 R4, R8, R10, R4 ;
	//## File "/csrc/room/sample.cu", line 4
.join:
        /*0080*/ NOP ;
        /*0090*/ @P1 BRA `(.rare) ;
	//## File "/csrc/room/sample.cu", line 5
        /*00a0*/ FADD R5, R5, R6 ;
.back:
        /*00b0*/ @P2 BRA `(.loop) ;
	//## File "/csrc/room/sample.cu", line 7
        /*00c0*/ EXIT ;
	//## File "/csrc/room/sample.cu", line 6
.rare:
        /*00d0*/ BRA `(.back) ;
"#;

    fn ways(markers: &[(u32, Step)]) -> Result<Vec<Way>> {
        let kernel = listing::parse(LISTING).unwrap().remove(0);
        let marked = |&(line, step): &(u32, Step)| {
            let meaning = Meaning::OfWays { names: vec!["it".to_owned()], step };
            MarkedLine {
                file: "room/sample.cu".to_owned(),
                marker: Marker { lines: line..=line, meaning },
            }
        };
        find(&kernel, &markers.iter().map(marked).collect::<Vec<_>>())
    }

    fn way(markers: &[(u32, Step)]) -> (u32, u32) {
        let found = ways(markers).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "it");
        (found[0].instructions, found[0].elements)
    }

    const PRODUCTS: [(u32, Step); 2] = {
        let step = Step::Counts { elements: 16, action: Action::Product };
        [(2, step), (3, step)]
    };

    #[test]
    fn a_way_passes_what_is_marked_and_is_else_the_shortest() {
        let [two, four] = PRODUCTS;
        assert_eq!(way(&[two, four, (2, Step::Passes)]), (7, 16));
        assert_eq!(way(&[two, four, (3, Step::Passes)]), (8, 16));
        assert_eq!(way(&[two, four, (5, Step::Passes)]), (7, 16));
        assert_eq!(way(&[two, four, (2, Step::Passes), (5, Step::Passes)]), (7, 16));
        assert_eq!(way(&[two, four, (6, Step::Passes)]), (7, 16));
    }

    #[test]
    fn what_is_avoided_need_not_be_passed() {
        let [two, four] = PRODUCTS;
        let [a, b] = [(2, Step::Passes), (3, Step::Passes)];
        let twice = ways(&[two, four, a, b]).unwrap_err();
        assert!(twice.starts_with("sample: the way of it passes an instruction twice"), "{twice}");
    }

    #[test]
    fn ways_that_a_kernel_has_nothing_of_are_not_its() {
        assert_eq!(ways(&[(77, Step::Passes)]).unwrap(), []);
        assert_eq!(ways(&[]).unwrap(), []);
    }

    #[test]
    fn ways_of_nothing_are_errors() {
        let [two, _] = PRODUCTS;
        let error = ways(&[two, (3, Step::Passes)]).unwrap_err();
        assert_eq!(error, "sample: the way of it does no elements");
        let error = ways(&[two, (2, Step::Passes), (77, Step::Passes)]).unwrap_err();
        assert_eq!(error, "sample: the way of it passes room/sample.cu:77, which is not in it");
        let error = ways(&[two, (2, Step::Passes), (7, Step::Passes)]).unwrap_err();
        assert_eq!(error, "sample: the way of it passes statements that no loop has all of");
    }
}
