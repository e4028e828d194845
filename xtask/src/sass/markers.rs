//! The comments in a kernel's source, and in the headers it includes, that say where its inner loops are.
//!
//! `// Inner loop: 8 elements a store.` on a line alone speaks of the statement that begins in the
//! next line: each time it stores, the loop around it has done eight elements.
//!
//! `// Inner loop: not this way.` speaks of the next statement too: what is counted does not pass it.
//! Where types share a loop, that leaves out what the others do alone.
//!
//! `// Way of 2 bits: here.` speaks of the next statement too: the way of that name, round the loop that has all its
//! statements, passes this one, wherever it was inlined; `// Way of 2 bits: not here.` that it need not, whatever it inlines, and
//! `// Way of 2 bits: 16 elements a product.` what it does there. Several ways are `2 bits and 4 bits`.

use std::ops::RangeInclusive;

use crate::Result;

/// How every marker begins.
const MARK: &str = "// Inner loop: ";

/// Or how those of ways begin.
const WAY: &str = "// Way of ";

/// What a marked statement does once for so many elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Load,
    Store,
    /// A tensor core's.
    Product,
    Atomic,
    /// Of f32, fused with an addition.
    Multiplication,
}

impl Action {
    const WORDS: [(&str, Self); 5] = [
        ("a load", Self::Load),
        ("a store", Self::Store),
        ("a product", Self::Product),
        ("an atomic", Self::Atomic),
        ("a multiplication", Self::Multiplication),
    ];

    /// Whether an opcode, without modifiers, is this action. Constants are not loads: where a
    /// compiler reads parameters is its own affair.
    pub(super) fn is(self, opcode: &str) -> bool {
        match self {
            Self::Load => matches!(opcode, "LD" | "LDG" | "LDS" | "LDSM"),
            Self::Store => matches!(opcode, "ST" | "STG" | "STS" | "STSM"),
            Self::Product => opcode.ends_with("MMA"),
            Self::Atomic => matches!(opcode, "ATOM" | "ATOMG" | "ATOMS" | "RED"),
            Self::Multiplication => opcode == "FFMA",
        }
    }
}

/// What a marker says of its statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The loop around it executes it once for so many elements.
    Counts { elements: u32, action: Action },
    /// It is not on the way that is counted.
    NotThisWay,
    /// What the ways of these names do.
    OfWays { names: Vec<String>, step: Step },
}

/// What a way does at a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Passes,
    Avoids,
    /// Where it passes it, so many elements.
    Counts {
        elements: u32,
        action: Action,
    },
}

/// A statement, and what a comment says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// The statement's: up to the first that ends in a semicolon.
    pub(super) lines: RangeInclusive<u32>,
    pub(super) meaning: Meaning,
}

/// The markers of a source. What begins like one and is none is an error.
pub(super) fn parse(file: &str, source: &str) -> Result<Vec<Marker>> {
    let mut markers = Vec::new();
    for (line, number) in source.lines().zip(1_u32..) {
        let is_like = |mark: &str| line.to_lowercase().contains(&mark.trim_end().to_lowercase());
        if !is_like(MARK) && !is_like(WAY) {
            continue;
        }
        let meaning = read(line.trim()).ok_or_else(|| {
            format!(
                "{file}:{number}: not a marker; write `{MARK}8 elements a store.` on a line alone \
                 (or `a load`, `a product`, `an atomic`, `a multiplication`), or `{MARK}not this way.`; \
                 `{WAY}2 bits and 4 bits: here.`, `not here`, or `16 elements a product`"
            )
        })?;
        let n_more = source
            .lines()
            .skip(number as usize)
            .position(|line| line.ends_with(';'))
            .ok_or_else(|| format!("{file}:{number}: no statement follows the marker"))?;
        let lines = number + 1..=number + 1 + n_more as u32;
        markers.push(Marker { lines, meaning });
    }
    Ok(markers)
}

fn read(line: &str) -> Option<Meaning> {
    let line = line.strip_suffix('.')?;
    if let Some(words) = line.strip_prefix(WAY) {
        let (names, words) = words.split_once(": ")?;
        let names: Vec<_> = names.split(" and ").map(str::to_owned).collect();
        let step = match words {
            "here" => Step::Passes,
            "not here" => Step::Avoids,
            _ => {
                let (elements, action) = read_count(words)?;
                Step::Counts { elements, action }
            }
        };
        return names
            .iter()
            .all(|name| !name.is_empty())
            .then_some(Meaning::OfWays { names, step });
    }
    let words = line.strip_prefix(MARK)?;
    if words == "not this way" {
        return Some(Meaning::NotThisWay);
    }
    let (elements, action) = read_count(words)?;
    Some(Meaning::Counts { elements, action })
}

/// `8 elements a store`.
fn read_count(words: &str) -> Option<(u32, Action)> {
    let (elements, words) = words.split_once(' ')?;
    let (noun, action) = words.split_once(' ')?;
    let elements = elements.parse().ok().filter(|&n| n > 0)?;
    let (_, action) = Action::WORDS.into_iter().find(|(word, _)| *word == action)?;
    matches!((elements, noun), (1, "element") | (2.., "elements")).then_some((elements, action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_ways_name_them() {
        let source = "// Way of 2 bits and 4 bits: here.\nf();\n// Way of 8 bits: not here.\ng();\n\
                      // Way of 2 bits: 16 elements a product.\nh();\n";
        let of = |lines, names: &[&str], step| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            Marker { lines, meaning: Meaning::OfWays { names, step } }
        };
        let count = Step::Counts { elements: 16, action: Action::Product };
        let expected = [
            of(2..=2, &["2 bits", "4 bits"], Step::Passes),
            of(4..=4, &["8 bits"], Step::Avoids),
            of(6..=6, &["2 bits"], count),
        ];
        assert_eq!(parse("a.cu", source).unwrap(), expected);
        for line in ["// Way of : here.", "// Way of 2 bits: there.", "// way of 2 bits: here"] {
            let error = parse("a.cu", &format!("{line}\nf();\n")).unwrap_err();
            assert!(error.starts_with("a.cu:1: not a marker"), "{error}");
        }
    }

    #[test]
    fn markers_speak_of_the_next_statement() {
        let source = "f();\n  // Inner loop: 1 element a load.\n  x = y[i];\n\
                      // Inner loop: 8 elements a store.\nz[i] =\n  x;\n\
                      // Inner loop: not this way.\ng();\n\
                      // Inner loop: 2 elements an atomic.\nh();\n";
        let counts = |lines, elements, action| {
            let meaning = Meaning::Counts { elements, action };
            Marker { lines, meaning }
        };
        let expected = [
            counts(3..=3, 1, Action::Load),
            counts(5..=6, 8, Action::Store),
            Marker { lines: 8..=8, meaning: Meaning::NotThisWay },
            counts(10..=10, 2, Action::Atomic),
        ];
        assert_eq!(parse("a.cu", source).unwrap(), expected);
        assert!(parse("a.cu", "// The inner loop: once an element.\n").unwrap().is_empty());
    }

    #[test]
    fn a_misspelt_marker_is_an_error() {
        for line in [
            "x = y[i];  // Inner loop: 1 element a load.",
            "// Inner loop: 1 element a load",
            "// Inner loop: 0 elements a load.",
            "// Inner loop: 1 elements a load.",
            "// Inner loop: 8 element a store.",
            "// Inner loop: 8 elements a copy.",
            "// Inner loop: 8 elements a atomic.",
            "// Inner loop: not that way.",
            "// inner loop: 8 elements a store.",
            "// Inner loop:",
        ] {
            assert!(parse("a.cu", &format!("{line}\nz[i] = x;\n")).is_err(), "{line}");
        }
        assert!(parse("a.cu", "// Inner loop: 1 element a load.\n").is_err());
    }

    #[test]
    fn constants_are_not_loads() {
        let load = |opcode| Action::Load.is(opcode);
        assert!(load("LDG") && load("LDS") && !load("LDC") && !load("LDCU") && !load("STG"));
        assert!(Action::Store.is("STS") && !Action::Store.is("LDS"));
        assert!(Action::Product.is("HGMMA") && !Action::Product.is("IMAD"));
        assert!(Action::Atomic.is("ATOMS") && !Action::Atomic.is("STS"));
        assert!(Action::Multiplication.is("FFMA") && !Action::Multiplication.is("FMUL"));
    }
}
