//! The comments in a kernel's source that say where its inner loops are.
//!
//! `// Inner loop: 8 elements a store.` on a line alone speaks of the statement that begins in the
//! next line: each time it stores, the loop around it has done eight elements.

use std::ops::RangeInclusive;

use crate::Result;

/// How every marker begins.
const MARK: &str = "// Inner loop: ";

/// What a marked statement does once for so many elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Load,
    Store,
    /// A tensor core's.
    Product,
}

impl Action {
    const WORDS: [(&str, Self); 3] =
        [("load", Self::Load), ("store", Self::Store), ("product", Self::Product)];

    /// Whether an opcode, without modifiers, is this action. Constants are not loads: where a
    /// compiler reads parameters is its own affair.
    pub(super) fn is(self, opcode: &str) -> bool {
        match self {
            Self::Load => matches!(opcode, "LD" | "LDG" | "LDS" | "LDSM"),
            Self::Store => matches!(opcode, "ST" | "STG" | "STS" | "STSM"),
            Self::Product => opcode.ends_with("MMA"),
        }
    }
}

/// A statement that an inner loop executes once for so many elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// The statement's: up to the first that ends in a semicolon.
    pub(super) lines: RangeInclusive<u32>,
    /// The loop's, each time.
    pub(super) elements: u32,
    /// What the statement does once for them.
    pub(super) action: Action,
}

/// The markers of a source. What begins like one and is none is an error.
pub(super) fn parse(file: &str, source: &str) -> Result<Vec<Marker>> {
    let mut markers = Vec::new();
    for (line, number) in source.lines().zip(1_u32..) {
        if !line.to_lowercase().contains(MARK.trim_end().to_lowercase().as_str()) {
            continue;
        }
        let (elements, action) = read(line.trim()).ok_or_else(|| {
            format!(
                "{file}:{number}: not a marker; write `{MARK}8 elements a store.` on a line alone \
                 (or `a load`, `a product`)"
            )
        })?;
        let n_more = source
            .lines()
            .skip(number as usize)
            .position(|line| line.ends_with(';'))
            .ok_or_else(|| format!("{file}:{number}: no statement follows the marker"))?;
        let lines = number + 1..=number + 1 + n_more as u32;
        markers.push(Marker { lines, elements, action });
    }
    Ok(markers)
}

fn read(line: &str) -> Option<(u32, Action)> {
    let (elements, action) = line.strip_prefix(MARK)?.strip_suffix('.')?.split_once(" a ")?;
    let (elements, noun) = elements.split_once(' ')?;
    let elements = elements.parse().ok().filter(|&n| n > 0)?;
    let (_, action) = Action::WORDS.into_iter().find(|(word, _)| *word == action)?;
    matches!((elements, noun), (1, "element") | (2.., "elements")).then_some((elements, action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_speak_of_the_next_statement() {
        let source = "f();\n  // Inner loop: 1 element a load.\n  x = y[i];\n\
                      // Inner loop: 8 elements a store.\nz[i] =\n  x;\n";
        let expected = [
            Marker { lines: 3..=3, elements: 1, action: Action::Load },
            Marker { lines: 5..=6, elements: 8, action: Action::Store },
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
    }
}
