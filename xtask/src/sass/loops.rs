//! The natural loops of a kernel's instructions.

use crate::Result;

use super::listing::Kernel;

/// A natural loop: what can come back to its first instruction without leaving it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loop {
    /// The one that it comes back to.
    pub(super) first: usize,
    /// Indices of its instructions, ascending.
    pub(super) body: Vec<usize>,
}

/// Where each instruction may go on, and all that are reached, each before its successors but for the ends of loops.
pub(super) fn find_order(kernel: &Kernel) -> Result<(Vec<Vec<usize>>, Vec<usize>)> {
    let n = kernel.instructions.len();
    let successors = (0..n).map(|i| follow(kernel, i)).collect::<Result<Vec<_>>>()?;
    let order = sort_topologically(&successors);
    Ok((successors, order))
}

/// Every natural loop; loops with the same first instruction are one.
///
/// A call goes on after itself: the function called is no part of the loop.
pub(super) fn find(kernel: &Kernel) -> Result<Vec<Loop>> {
    let n = kernel.instructions.len();
    let (successors, order) = find_order(kernel)?;
    let mut predecessors = vec![Vec::new(); n];
    for &from in &order {
        for &to in &successors[from] {
            predecessors[to].push(from);
        }
    }
    let dominators = Dominators::compute(&order, &predecessors);
    let mut loops = Vec::new();
    for &first in &order {
        let ends: Vec<_> = predecessors[first]
            .iter()
            .copied()
            .filter(|&from| dominators.dominates(first, from))
            .collect();
        if !ends.is_empty() {
            loops.push(Loop { first, body: collect_body(first, ends, &predecessors) });
        }
    }
    Ok(loops)
}

/// The instructions of a loop that are on a way through it and back to its first, where no way passes
/// those that are cut; ascending.
pub(super) fn find_ways(
    kernel: &Kernel,
    of: &Loop,
    is_cut: impl Fn(usize) -> bool,
) -> Result<Vec<usize>> {
    let stays = |i: usize| of.body.binary_search(&i).is_ok() && !is_cut(i);
    let n = kernel.instructions.len();
    let mut predecessors = vec![Vec::new(); n];
    let mut ends = Vec::new();
    let mut is_reached = vec![false; n];
    let mut rest: Vec<_> = Some(of.first).filter(|&first| stays(first)).into_iter().collect();
    while let Some(i) = rest.pop() {
        if std::mem::replace(&mut is_reached[i], true) {
            continue;
        }
        for to in follow(kernel, i)?.into_iter().filter(|&to| stays(to)) {
            if to == of.first {
                ends.push(i);
            } else {
                predecessors[to].push(i);
                rest.push(to);
            }
        }
    }
    if ends.is_empty() {
        return Ok(ends);
    }
    Ok(collect_body(of.first, ends, &predecessors))
}

/// The smallest loop around instruction `i`.
pub(super) fn innermost(loops: &[Loop], i: usize) -> Option<usize> {
    (0..loops.len())
        .filter(|&idx| loops[idx].body.binary_search(&i).is_ok())
        .min_by_key(|&idx| loops[idx].body.len())
}

/// Where instruction `i` may go on.
fn follow(kernel: &Kernel, i: usize) -> Result<Vec<usize>> {
    let instruction = &kernel.instructions[i];
    let fail = |what: &str| {
        format!("{}: `{}` {what}", kernel.name, instruction.code().join(" ").trim_start())
    };
    let is_alone = instruction.predicate.is_empty();
    let (goes_there, goes_on) = match instruction.base() {
        // `BRA.U UP0, ...` and `BRA.DIV` have their condition among the operands.
        "BRA" | "JMP" => (true, !is_alone || !instruction.operands.starts_with('`')),
        "BRX" | "BRXU" | "JMX" | "JMXU" => (true, !is_alone),
        "EXIT" | "RET" | "KILL" => (false, !is_alone),
        // Out of a loop, where threads meet after it; functions have names of their own.
        "CALL" if instruction.operands.contains("`(.L_x_") => (true, !is_alone),
        "CALL" | "BSSY" => (false, true),
        "BSYNC" if !ends_where_expected(kernel, i) => {
            return Err(fail("does not end where its BSSY says"));
        }
        _ => (instruction.operands.contains("`("), true),
    };
    let mut next = Vec::new();
    if goes_there {
        next = find_targets(kernel, &instruction.operands)
            .filter(|targets| !targets.is_empty())
            .ok_or_else(|| fail("goes to no label"))?;
    }
    if goes_on && i + 1 < kernel.instructions.len() {
        next.push(i + 1);
    }
    Ok(next)
}

/// The labels among operands: `` `(.L_x_1) ``, or `BRANCH_TARGETS .L_x_1,.L_x_2` of a jump through
/// a table.
fn find_targets(kernel: &Kernel, operands: &str) -> Option<Vec<usize>> {
    let labels = if let Some((_, list)) = operands.split_once("BRANCH_TARGETS ") {
        list.split('"').next()?.split(',').collect()
    } else if let Some((_, rest)) = operands.split_once("`(") {
        vec![rest.split_once(')')?.0]
    } else {
        Vec::new()
    };
    let n = kernel.instructions.len();
    // A label after the last instruction ends the section.
    labels
        .into_iter()
        .map(|label| kernel.labels.get(label.trim()).copied().filter(|&at| at < n))
        .collect()
}

/// Threads that meet at a BSYNC go on where the BSSY of its barrier says, which compilers put right
/// behind it.
fn ends_where_expected(kernel: &Kernel, i: usize) -> bool {
    let barrier = kernel.instructions[i].operands.as_str();
    let begin = kernel.instructions[..i].iter().rev().find(|instruction| {
        instruction.base() == "BSSY" && instruction.operands.split(',').next() == Some(barrier)
    });
    begin.is_some_and(|begin| {
        find_targets(kernel, &begin.operands).is_some_and(|targets| targets == [i + 1])
    })
}

/// What the first instruction reaches, each before its successors but for the ends of loops.
fn sort_topologically(successors: &[Vec<usize>]) -> Vec<usize> {
    let mut is_seen = vec![false; successors.len()];
    is_seen[0] = true;
    let mut order = Vec::new();
    let mut path = vec![(0, 0)];
    while let Some((i, nth)) = path.pop() {
        let Some(&next) = successors[i].get(nth) else {
            order.push(i);
            continue;
        };
        path.push((i, nth + 1));
        if !is_seen[next] {
            is_seen[next] = true;
            path.push((next, 0));
        }
    }
    order.reverse();
    order
}

/// Which instructions every way to another one passes.
struct Dominators {
    /// The last of them on the way to each instruction; none for those that nothing reaches.
    immediate: Vec<Option<usize>>,
}

impl Dominators {
    /// By Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm".
    fn compute(order: &[usize], predecessors: &[Vec<usize>]) -> Self {
        let mut rank = vec![0; predecessors.len()];
        for (at, &i) in order.iter().enumerate() {
            rank[i] = at;
        }
        let mut immediate = vec![None; predecessors.len()];
        immediate[order[0]] = Some(order[0]);
        loop {
            let mut has_changed = false;
            for &i in &order[1..] {
                let mut common: Option<usize> = None;
                for &from in &predecessors[i] {
                    if immediate[from].is_some() {
                        common =
                            Some(common.map_or(from, |other| meet(from, other, &immediate, &rank)));
                    }
                }
                if immediate[i] != common {
                    immediate[i] = common;
                    has_changed = true;
                }
            }
            if !has_changed {
                return Self { immediate };
            }
        }
    }

    fn dominates(&self, dominator: usize, mut i: usize) -> bool {
        while i != dominator {
            match self.immediate[i] {
                Some(above) if above != i => i = above,
                _ => return false,
            }
        }
        true
    }
}

/// The last instruction that dominates both.
fn meet(a: usize, b: usize, immediate: &[Option<usize>], rank: &[usize]) -> usize {
    let (mut a, mut b) = (a, b);
    while a != b {
        let later = if rank[a] > rank[b] { &mut a } else { &mut b };
        *later = immediate[*later].unwrap_or(*later);
    }
    a
}

/// The loop from `first` to any of `ends` and back.
fn collect_body(first: usize, ends: Vec<usize>, predecessors: &[Vec<usize>]) -> Vec<usize> {
    let mut is_inside = vec![false; predecessors.len()];
    is_inside[first] = true;
    let mut rest = ends;
    while let Some(i) = rest.pop() {
        if !is_inside[i] {
            is_inside[i] = true;
            rest.extend(&predecessors[i]);
        }
    }
    (0..is_inside.len()).filter(|&i| is_inside[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sass::listing;

    /// A kernel of these lines: labels with a colon, and instructions.
    fn kernel(lines: &str) -> Kernel {
        let mut listing = String::from("\t.section\t.text.sample,\"ax\",@progbits\n");
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.strip_suffix(':') {
                Some(label) => listing += &format!("{label}:\n"),
                None => listing += &format!("        /*0000*/ {line} ;\n"),
            }
        }
        listing::parse(&listing).unwrap().remove(0)
    }

    fn bodies(lines: &str) -> Vec<Vec<usize>> {
        let mut bodies: Vec<_> =
            find(&kernel(lines)).unwrap().into_iter().map(|found| found.body).collect();
        bodies.sort();
        bodies
    }

    #[test]
    fn loops_nest() {
        let code = "
            MOV R0, RZ
            .outer:
            IADD3 R0, R0, 0x1, RZ
            .inner:
            LDS R1, [R0]
            @P0 BRA `(.inner)
            @!P1 BRA `(.outer)
            EXIT
            .end:
            BRA `(.end)
        ";
        assert_eq!(bodies(code), [vec![1, 2, 3, 4], vec![2, 3]]);
    }

    #[test]
    fn what_leaves_a_loop_is_no_part_of_it() {
        let code = "
            .loop:
            BSSY.RECONVERGENT B0, `(.join)
            @P0 BREAK B0
            @P0 BRA `(.error)
            BRA.U !UP0, `(.skip)
            LDS R1, [R0]
            .skip:
            BSYNC.RECONVERGENT B0
            .join:
            @P1 BRA `(.loop)
            EXIT
            .error:
            MOV R2, 0x3
            EXIT
        ";
        assert_eq!(bodies(code), [vec![0, 1, 2, 3, 4, 5, 6]]);
    }

    #[test]
    fn tables_calls_and_early_ends_are_followed() {
        let code = r#"
            .loop:
            @P3 EXIT
            CALL.REL.NOINC `($function)
            BRX R4 -0x20 (*"BRANCH_TARGETS .one,.two,.done"*)
            .one:
            BRA `(.two)
            .two:
            @P1 BRA `(.loop)
            .done:
            EXIT
            $function:
            RET.REL.NODEC R4 `(sample)
        "#;
        let code = format!("sample:\n{code}");
        assert_eq!(bodies(&code), [vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn calls_of_labels_are_jumps() {
        let code = "
            .outer:
            BSSY B0, `(.L_x_1)
            .inner:
            LDS R1, [R0]
            @P0 CALL.REL.NOINC `(.L_x_0)
            BRA `(.inner)
            .L_x_0:
            BSYNC B0
            .L_x_1:
            @P1 BRA `(.outer)
            EXIT
        ";
        assert_eq!(bodies(code), [vec![0, 1, 2, 3, 4, 5], vec![1, 2, 3]]);
    }

    #[test]
    fn a_cycle_with_two_entries_is_no_natural_loop() {
        let code = "
            @P0 BRA `(.middle)
            .first:
            MOV R0, R1
            .middle:
            MOV R1, R0
            @P1 BRA `(.first)
            EXIT
        ";
        assert!(bodies(code).is_empty());
    }

    #[test]
    fn ways_pass_nothing_that_is_cut() {
        let code = "
            .loop:
            @P0 BRA `(.other)
            LDS R1, [R0]
            BRA `(.join)
            .other:
            LDG R1, [R0]
            MOV R2, R1
            .join:
            @P1 BRA `(.loop)
            EXIT
        ";
        let kernel = kernel(code);
        let of = find(&kernel).unwrap().remove(0);
        let ways = |cut: &[usize]| find_ways(&kernel, &of, |i| cut.contains(&i)).unwrap();
        assert_eq!(ways(&[]), of.body);
        assert_eq!(ways(&[3]), [0, 1, 2, 5]);
        assert_eq!(ways(&[2]), [0, 3, 4, 5]);
        assert!(ways(&[0]).is_empty() && ways(&[5]).is_empty() && ways(&[1, 4]).is_empty());
    }

    #[test]
    fn what_is_not_followed_is_an_error() {
        for code in [
            "BRA `(.gone)",
            "BRA R1",
            "BRX R4 -0x20",
            "BRX R4 -0x20 (*\"BRANCH_TARGETS .gone\"*)",
            "BSSY B0, `(.far)\nBSYNC B0\nNOP\n.far:\nEXIT",
            "BSSY B1, `(.near)\nBSYNC B0\n.near:\nEXIT",
        ] {
            assert!(find(&kernel(code)).is_err(), "{code}");
        }
    }
}
