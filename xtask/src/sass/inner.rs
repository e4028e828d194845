//! The inner loops that a kernel's markers speak of, and what one element costs in them.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::Serialize;

use crate::Result;

use super::listing::{Instruction, Kernel, Line};
use super::loops::{self, Loop};
use super::markers::{Marker, Meaning};

/// An inner loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct InnerLoop {
    /// The marked line: `huffman/decode.cu:170`.
    pub(super) place: String,
    /// Of all its body that is on a way that is counted, taken or not, without `NOP`.
    pub(super) instructions: u32,
    /// That one iteration does.
    pub(super) elements: u32,
}

/// A marker and the file it is in, from the sources' folder on.
pub(super) struct MarkedLine {
    pub(super) file: String,
    pub(super) marker: Marker,
}

impl MarkedLine {
    /// `huffman/decode.cu:170`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file, self.marker.lines.start())
    }

    /// Whether it has a loop to be found.
    pub(super) fn counts(&self) -> bool {
        matches!(self.marker.meaning, Meaning::Counts { .. })
    }

    /// Where in the place of an instruction the statement is.
    pub(super) fn position(&self, place: &[Line]) -> Option<usize> {
        let is_marked = |line: &Line| {
            self.marker.lines.contains(&line.number) && shorten(&line.file) == self.file
        };
        place.iter().position(is_marked)
    }
}

/// The inner loops of a kernel, in the order of the markers.
pub(super) fn find(kernel: &Kernel, marked_lines: &[MarkedLine]) -> Result<Vec<InnerLoop>> {
    let of_loops = marked_lines
        .iter()
        .filter(|marked| !matches!(marked.marker.meaning, Meaning::OfWays { .. }));
    let (others, marked_lines): (Vec<_>, Vec<_>) = of_loops.partition(|marked| !marked.counts());
    if marked_lines.is_empty() {
        return Ok(Vec::new());
    }
    let loops = loops::find(kernel)?;
    let is_other = |i: &Instruction| others.iter().any(|other| other.position(&i.place).is_some());
    let of_others: Vec<_> = kernel.instructions.iter().map(is_other).collect();
    let mut seen = BTreeSet::new();
    let mut inner = Vec::new();
    for marked in marked_lines {
        for (idx, found) in find_marked(kernel, &loops, &of_others, marked)? {
            if !seen.insert(idx) {
                return Err(format!(
                    "{}: the loop around {} has another marker; one of them is too much",
                    kernel.name, found.place
                ));
            }
            inner.push(found);
        }
    }
    Ok(inner)
}

/// The loops of one marker, and their indices: the innermost ones in which the marked statement does
/// what the marker says. One does as many elements as its body has copies of the statement, times the
/// marker's. Copies in what is marked as not this way, and instructions that only ways through it pass, are not
/// counted.
///
/// Loops whose statement was inlined in the same place are one loop of the source, unrolled, and its
/// rest: the one that does most elements counts. In several places they are several loops.
///
/// Returns nothing where the kernel does not hold the statement.
fn find_marked(
    kernel: &Kernel,
    loops: &[Loop],
    of_others: &[bool],
    marked: &MarkedLine,
) -> Result<Vec<(usize, InnerLoop)>> {
    let Meaning::Counts { elements, action } = marked.marker.meaning else {
        return Ok(Vec::new());
    };
    let place_of = |i: usize| -> Option<&[Line]> {
        let instruction = &kernel.instructions[i];
        let at = marked.position(&instruction.place)?;
        action.is(instruction.base()).then(|| &instruction.place[at + 1..])
    };
    let is_action = |&i: &usize| !of_others[i] && place_of(i).is_some();
    let actions: Vec<_> = (0..kernel.instructions.len()).filter(is_action).collect();
    if actions.is_empty() {
        return Ok(Vec::new());
    }
    let mut candidates: Vec<(InnerLoop, usize, BTreeSet<&[Line]>)> = Vec::new();
    for (idx, found) in loops.iter().enumerate() {
        let innermost = |i: usize| loops::innermost(loops, i) == Some(idx);
        let inside: Vec<_> = actions.iter().copied().filter(|&i| innermost(i)).collect();
        if !inside.is_empty() {
            // What is predicated is passed, and not executed.
            let is_cut = |i: usize| of_others[i] && kernel.instructions[i].predicate.is_empty();
            let ways = loops::find_ways(kernel, found, is_cut)?;
            // Else what is cut is also of those that are counted: another statement says it better.
            if let Some(&lost) = inside.iter().find(|i| ways.binary_search(i).is_err()) {
                return Err(format!(
                    "{}: the way to `{}` of {} passes what is marked as not this way",
                    kernel.name,
                    kernel.instructions[lost].code().join(" ").trim_start(),
                    marked.place()
                ));
            }
            let is_counted = |i: &&usize| kernel.instructions[**i].base() != "NOP";
            let instructions = ways.iter().filter(is_counted).count() as u32;
            let elements = inside.len() as u32 * elements;
            let places = inside.iter().filter_map(|&i| place_of(i)).collect();
            let inner = InnerLoop { place: marked.place(), instructions, elements };
            candidates.push((inner, idx, places));
        }
    }
    if candidates.is_empty() {
        return Err(format!(
            "{}: {} is marked and in no loop; did the compiler unroll it whole?",
            kernel.name,
            marked.place()
        ));
    }
    candidates.sort_by_key(|(inner, ..)| Reverse((inner.elements, inner.instructions)));
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    for (inner, idx, places) in candidates {
        if seen.is_disjoint(&places) {
            chosen.push((idx, inner));
        }
        seen.extend(places);
    }
    chosen.sort_by_key(|&(idx, _)| loops[idx].body[0]);
    Ok(chosen)
}

/// The sum over the loops, to two digits: every element passes each of them.
pub(super) fn count_per_element(inner: &[InnerLoop]) -> Option<f64> {
    let cost = |inner: &InnerLoop| f64::from(inner.instructions) / f64::from(inner.elements);
    let sum: f64 = inner.iter().map(cost).sum();
    (!inner.is_empty()).then_some((sum * 100.0).round() / 100.0)
}

/// From the sources' folder on, where line information has the folders above, and ways to headers by `..`.
pub(super) fn shorten(file: &str) -> String {
    let mut parts = Vec::new();
    for part in file.rsplit_once("csrc/").map_or(file, |(_, tail)| tail).split('/') {
        match part {
            ".." if !parts.is_empty() => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::listing;
    use super::super::markers::Action;
    use super::*;

    /// A copy by fours and its rest, both of `copy.cu:7`; then a second copy of the same function,
    /// with a loop inside that does not hold the store.
    const LISTING: &str = r#"
	.section	.text.copy,"ax",@progbits
.fours:
	//## File "/csrc/room/copy.cu", line 7 inlined at "/csrc/room/copy.cu", line 20
	//## File "/csrc/room/copy.cu", line 20
        /*0000*/ LDG.E R4, desc[UR4][R2.64] ;
        /*0010*/ STG.E desc[UR4][R6.64], R4 ;
        /*0020*/ STG.E desc[UR4][R6.64+0x4], R5 ;
        /*0030*/ STG.E desc[UR4][R6.64+0x8], R6 ;
        /*0040*/ STG.E desc[UR4][R6.64+0xc], R7 ;
        /*0050*/ NOP ;
        /*0060*/ @P0 BRA `(.fours) ;
.rest:
        /*0070*/ STG.E desc[UR4][R6.64], R4 ;
        /*0080*/ @P0 BRA `(.rest) ;
	//## File "/csrc/room/copy.cu", line 7 inlined at "/csrc/room/copy.cu", line 21
	//## File "/csrc/room/copy.cu", line 21
.second:
        /*0090*/ @P1 STG.E desc[UR4][R6.64], R4 ;
.wait:
        /*00a0*/ LDS R4, [R5] ;
        /*00b0*/ @P2 BRA `(.wait) ;
        /*00c0*/ @P0 BRA `(.second) ;
        /*00d0*/ STG.E desc[UR4][R6.64], R4 ;
        /*00e0*/ EXIT ;
"#;

    fn find_in(listing: &str, markers: &[(u32, Action)]) -> Result<Vec<(u32, u32)>> {
        find_ways_in(listing, markers, &[])
    }

    /// Without the ways through the lines `cut`.
    fn find_ways_in(
        listing: &str,
        markers: &[(u32, Action)],
        cut: &[u32],
    ) -> Result<Vec<(u32, u32)>> {
        let kernel = listing::parse(listing).unwrap().remove(0);
        let mark = |line, meaning| {
            let file = "room/copy.cu".to_owned();
            MarkedLine { file, marker: Marker { lines: line..=line, meaning } }
        };
        let counts = |&(line, action)| mark(line, Meaning::Counts { elements: 2, action });
        let cuts = cut.iter().map(|&line| mark(line, Meaning::NotThisWay));
        let marked_lines: Vec<_> = markers.iter().map(counts).chain(cuts).collect();
        let inner = find(&kernel, &marked_lines)?;
        assert!(inner.iter().all(|inner| inner.place.starts_with("room/copy.cu:")));
        Ok(inner.iter().map(|inner| (inner.instructions, inner.elements)).collect())
    }

    #[test]
    fn a_loop_counts_once_for_each_place_and_by_its_copies() {
        assert_eq!(find_in(LISTING, &[(7, Action::Store)]).unwrap(), [(6, 8), (4, 2)]);
        assert_eq!(find_in(LISTING, &[(21, Action::Load)]).unwrap(), [(2, 2)]);
        let both = [(21, Action::Load), (7, Action::Store)];
        assert_eq!(find_in(LISTING, &both).unwrap(), [(2, 2), (6, 8), (4, 2)]);
        assert!(find_in(LISTING, &[(8, Action::Store)]).unwrap().is_empty());
        assert!(find_in(LISTING, &[(7, Action::Product)]).unwrap().is_empty());
    }

    /// A loop of two types: one loads wide in line 5, and widens in line 6 what it loaded.
    const TYPES: &str = r#"
	.section	.text.copy,"ax",@progbits
.loop:
	//## File "/csrc/room/copy.cu", line 4
        /*0000*/ @P0 BRA `(.other) ;
	//## File "/csrc/room/../room/copy.cu", line 5 inlined at "/csrc/room/copy.cu", line 4
	//## File "/csrc/room/copy.cu", line 4
        /*0010*/ LDS.128 R4, [R2] ;
        /*0020*/ BRA `(.join) ;
.other:
	//## File "/csrc/room/copy.cu", line 6
        /*0030*/ LDS.64 R4, [R2] ;
        /*0040*/ PRMT R4, R4, R5, R6 ;
.join:
	//## File "/csrc/room/copy.cu", line 7
        /*0050*/ @!P0 MOV R9, R4 ;
        /*0060*/ STG.E desc[UR4][R6.64], R4 ;
        /*0070*/ @P1 BRA `(.loop) ;
        /*0080*/ EXIT ;
"#;

    #[test]
    fn what_others_do_alone_does_not_count() {
        let store = [(7, Action::Store)];
        assert_eq!(find_in(TYPES, &store).unwrap(), [(8, 2)]);
        assert_eq!(find_ways_in(TYPES, &store, &[6]).unwrap(), [(6, 2)]);
        assert_eq!(find_ways_in(TYPES, &store, &[5]).unwrap(), [(6, 2)]);
        assert_eq!(find_ways_in(TYPES, &[(4, Action::Load)], &[6]).unwrap(), [(6, 2)]);
        let predicated = TYPES.replace("LDS.64", "@P2 LDS.64").replace("PRMT", "@P2 PRMT");
        assert_eq!(find_ways_in(&predicated, &store, &[6]).unwrap(), [(8, 2)]);
        // No copy of the statement.
        assert!(find_ways_in(&predicated, &[(6, Action::Load)], &[6]).unwrap().is_empty());
        let both = find_ways_in(TYPES, &store, &[5, 6]).unwrap_err();
        assert!(both.contains("passes what is marked as not this way"), "{both}");
    }

    #[test]
    fn files_are_named_from_the_sources_on() {
        assert_eq!(shorten("/a/csrc/select/../common/../kv.h"), "kv.h");
        assert_eq!(shorten("csrc/select/topk.cu"), "select/topk.cu");
        assert_eq!(shorten("../kv.h"), "../kv.h");
    }

    #[test]
    fn a_loop_with_two_markers_is_an_error() {
        let error = find_in(LISTING, &[(7, Action::Load), (7, Action::Store)]).unwrap_err();
        assert!(error.contains("has another marker"), "{error}");
    }

    #[test]
    fn a_marked_statement_in_no_loop_is_an_error() {
        let straight = LISTING.replace("BRA `(", "MOV R1, `(");
        let straight = straight.replace("`(.fours)", "R2").replace("`(.rest)", "R2");
        let straight = straight.replace("`(.second)", "R2").replace("`(.wait)", "R2");
        let error = find_in(&straight, &[(7, Action::Store)]).unwrap_err();
        assert!(error.contains("room/copy.cu:7 is marked and in no loop"), "{error}");
    }

    #[test]
    fn an_element_passes_every_loop() {
        let inner = |instructions, elements| {
            let place = String::new();
            InnerLoop { place, instructions, elements }
        };
        assert_eq!(count_per_element(&[inner(6, 8), inner(7, 3)]), Some(3.08));
        assert_eq!(count_per_element(&[]), None);
    }
}
