//! `xtask/budgets.toml`: the most that each kernel may take.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Result;

use super::Row;

/// Where the budgets are, for people.
pub(super) const PATH: &str = "xtask/budgets.toml";

/// By kernel.
pub(super) type Budgets = BTreeMap<String, Budget>;

/// What a kernel may take. Spills and stack are 0 unless named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    registers: Figure,
    shared_bytes: Figure,
    #[serde(default)]
    spill_bytes: Figure,
    #[serde(default)]
    stack_bytes: Figure,
    /// How many inner loops there are: not a limit, but what the sum below is over.
    #[serde(default)]
    inner_loops: Figure,
    instructions_per_element: Option<Figure>,
    /// Instructions per element, of each way by its name.
    #[serde(default)]
    ways: BTreeMap<String, Figure>,
}

/// A figure for all targets, or for each by its name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Figure {
    Everywhere(f64),
    ByTarget(BTreeMap<String, f64>),
}

impl Default for Figure {
    fn default() -> Self {
        Self::Everywhere(0.0)
    }
}

impl Figure {
    fn on(&self, target: &str) -> Option<f64> {
        match self {
            Self::Everywhere(figure) => Some(*figure),
            Self::ByTarget(figures) => figures.get(target).copied(),
        }
    }

    fn targets(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::Everywhere(_) => None,
            Self::ByTarget(figures) => Some(figures.keys()),
        }
        .into_iter()
        .flatten()
    }
}

/// Reads the budgets.
pub(super) fn parse(text: &str) -> Result<Budgets> {
    toml::from_str(text).map_err(|error| format!("{PATH}: {error}"))
}

/// Holds every row to its budget, and every budget to have rows. `is_asked` says which kernels rows
/// were asked of.
pub(super) fn check(
    budgets: &Budgets,
    rows: &[Row],
    is_asked: impl Fn(&str) -> bool,
) -> Result<()> {
    let mut faults = Vec::new();
    for row in rows {
        match budgets.get(&row.kernel) {
            Some(budget) => budget.check(row, &mut faults),
            None => {
                faults.push(format!("{} has no budget; give it one in {PATH}", row.kernel));
            }
        }
    }
    for (kernel, budget) in budgets.iter().filter(|(kernel, _)| is_asked(kernel)) {
        let of_kernel = || rows.iter().filter(|row| row.kernel == *kernel);
        if of_kernel().next().is_none() {
            faults
                .push(format!("{PATH} has a budget for {kernel}, which no image holds; remove it"));
            continue;
        }
        for target in budget.figures().flat_map(|(_, figure)| figure.targets()) {
            if of_kernel().all(|row| row.target != *target) {
                faults.push(format!(
                    "{PATH} has a budget for {kernel} on {target}, where it does not run; remove it"
                ));
            }
        }
    }
    faults.dedup();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n       ")) }
}

impl Budget {
    fn figures(&self) -> impl Iterator<Item = (&str, &Figure)> {
        [
            ("registers", Some(&self.registers)),
            ("shared_bytes", Some(&self.shared_bytes)),
            ("spill_bytes", Some(&self.spill_bytes)),
            ("stack_bytes", Some(&self.stack_bytes)),
            ("inner_loops", Some(&self.inner_loops)),
            ("instructions_per_element", self.instructions_per_element.as_ref()),
        ]
        .into_iter()
        .filter_map(|(what, figure)| Some((what, figure?)))
        .chain(self.ways.iter().map(|(name, figure)| (name.as_str(), figure)))
    }

    fn check(&self, row: &Row, faults: &mut Vec<String>) {
        let Row { kernel, target, .. } = row;
        for way in &row.ways {
            let name = &way.name;
            let found = way.per_element();
            match self.ways.get(name).and_then(|figure| figure.on(target)) {
                Some(budget) if found > budget => faults.push(format!(
                    "{kernel} on {target}: the way of {name} has {found} instructions an element, and its \
                     budget is {budget}; make it less, or raise the budget in {PATH} and say why in the commit"
                )),
                Some(_) => {}
                None => faults.push(format!(
                    "{kernel} on {target}: the way of {name} has {found} instructions an element and no \
                     budget; give it one in {PATH}"
                )),
            }
        }
        for name in self.ways.keys().filter(|name| row.ways.iter().all(|way| way.name != **name)) {
            faults.push(format!(
                "{kernel} on {target}: the way of {name} has a budget and is no way of the kernel; mark it, or \
                 remove the budget from {PATH}"
            ));
        }
        for (what, found) in row.figures() {
            let figure = self.figures().find(|(name, _)| *name == what).map(|(_, figure)| figure);
            let budget = figure.and_then(|figure| figure.on(target));
            let (Some(found), Some(budget)) = (found, budget) else {
                match (found, figure) {
                    (Some(found), _) => faults.push(format!(
                        "{kernel} on {target}: {what} is {found} and has no budget; \
                         give it one in {PATH}"
                    )),
                    (None, Some(_)) => faults.push(format!(
                        "{kernel} on {target}: {what} has a budget and is unknown; mark the \
                         kernel's inner loops, or remove the budget from {PATH}"
                    )),
                    (None, None) => {}
                }
                continue;
            };
            if what == "inner_loops" && found != budget {
                faults.push(format!(
                    "{kernel} on {target}: {found} inner loops, and {budget} in {PATH}; \
                     `cargo xtask sass` shows which: was one merged, unrolled whole, or added?"
                ));
            } else if found > budget {
                faults.push(format!(
                    "{kernel} on {target}: {what} is {found}, and its budget is {budget}; make \
                     it less, or raise the budget in {PATH} and say why in the commit"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::inner::InnerLoop;
    use super::super::ways::Way;
    use super::*;

    const BUDGETS: &str = r#"
["room/copy"]
registers = { sm_80 = 40, sm_90 = 32 }
shared_bytes = 1024
inner_loops = 1
instructions_per_element = 2.5

["room/fill"]
registers = 16
shared_bytes = 0
ways = { "zeros" = 0.5 }
"#;

    fn row(kernel: &str, target: &str) -> Row {
        let inner = InnerLoop { place: "room/copy.cu:7".to_owned(), instructions: 10, elements: 4 };
        let way = Way { name: "zeros".to_owned(), instructions: 8, elements: 16 };
        let is_copy = kernel == "room/copy";
        Row {
            kernel: kernel.to_owned(),
            target: target.to_owned(),
            registers: if is_copy { 32 } else { 16 },
            spill_bytes: 0,
            stack_bytes: 0,
            shared_bytes: if is_copy { 1024 } else { 0 },
            barriers: 0,
            instructions_per_element: is_copy.then_some(2.5),
            inner_loops: if is_copy { vec![inner] } else { Vec::new() },
            ways: if is_copy { Vec::new() } else { vec![way] },
        }
    }

    fn rows() -> Vec<Row> {
        vec![row("room/copy", "sm_80"), row("room/copy", "sm_90"), row("room/fill", "sm_80")]
    }

    /// What the check says, in lines, once `change` was made.
    fn faults(change: impl Fn(&mut Vec<Row>)) -> Vec<String> {
        let mut rows = rows();
        change(&mut rows);
        let outcome = check(&parse(BUDGETS).unwrap(), &rows, |_| true);
        let faults = outcome.err().unwrap_or_default();
        faults.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn what_is_within_its_budget_passes() {
        assert!(faults(|_| {}).is_empty());
        assert!(faults(|rows| rows[0].registers = 40).is_empty());
        let some = [row("room/fill", "sm_80")];
        let budgets = parse(BUDGETS).unwrap();
        assert!(check(&budgets, &some, |kernel| kernel == "room/fill").is_ok());
    }

    #[test]
    fn what_is_over_fails_with_kernel_target_figure_and_budget() {
        let over = |what: &str, change: fn(&mut Row)| {
            let faults = faults(|rows| change(&mut rows[1]));
            assert_eq!(faults.len(), 1, "{faults:?}");
            let expected = format!("room/copy on sm_90: {what}; make");
            assert!(faults[0].starts_with(&expected), "{faults:?}");
        };
        over("registers is 33, and its budget is 32", |row| row.registers = 33);
        over("shared_bytes is 1025, and its budget is 1024", |row| row.shared_bytes += 1);
        over("spill_bytes is 4, and its budget is 0", |row| row.spill_bytes = 4);
        over("stack_bytes is 8, and its budget is 0", |row| row.stack_bytes = 8);
        over("instructions_per_element is 2.51, and its budget is 2.5", |row| {
            row.instructions_per_element = Some(2.51);
        });
    }

    #[test]
    fn rows_and_budgets_belong_together() {
        let one = |change: fn(&mut Vec<Row>), expected: &str| {
            let faults = faults(change);
            assert!(faults.len() == 1 && faults[0].contains(expected), "{faults:?}");
        };
        one(|rows| rows.push(row("room/new", "sm_80")), "room/new has no budget");
        one(|rows| rows.truncate(2), "room/fill, which no image holds");
        one(|rows| rows.push(row("room/copy", "sm_86")), "registers is 32 and has no budget");
        one(|rows| drop(rows.remove(1)), "room/copy on sm_90, where it does not run");
        one(|rows| rows[0].instructions_per_element = None, "has a budget and is unknown");
        one(
            |rows| rows[2].ways[0].instructions = 9,
            "the way of zeros has 0.56 instructions an element, and",
        );
        one(|rows| rows[2].ways.clear(), "the way of zeros has a budget and is no way");
        one(
            |rows| rows[0].ways = rows[2].ways.clone(),
            "the way of zeros has 0.5 instructions an element and no",
        );
        one(|rows| rows[0].inner_loops.clear(), "0 inner loops, and 1 in");
        one(|rows| rows[2].instructions_per_element = Some(1.0), "is 1 and has no budget");
    }

    #[test]
    fn a_misspelt_budget_is_an_error() {
        for (what, by) in [
            ("registers = 16", "register = 16"),
            ("registers = 16\n", ""),
            ("shared_bytes = 1024", "shared_bytes = \"1024\""),
            ("inner_loops", "loops"),
        ] {
            assert!(BUDGETS.contains(what));
            assert!(parse(&BUDGETS.replace(what, by)).is_err(), "`{by}` is taken");
        }
    }
}
