//! What was in memory before a launch is no part of what it leaves: each small case of a room runs in the SIMT executor
//! over outputs, workspace and shared memory full of one byte, and of another, by both twins of its kernels, in which
//! variables that nothing wrote differ; whatever the launches may write is then the same.

use std::collections::BTreeSet;

use lacuna::region::Role;
use lacuna::simt::{Checks, Config, Leaving, Schedule, Witness};
use lacuna::{Queue, image};

use super::case::{Case, Problem, Work};

/// What each byte is, which twin runs, and in which order.
const WAYS: [(u8, Checks, Schedule); 3] = [
    (0xCD, Checks { settled: false, ..Checks::ALL }, Schedule::InOrder),
    (0x00, Checks::NONE, Schedule::InOrder),
    (0xFF, Checks::NONE, Schedule::Reverse),
];

/// Whether all small cases of a room leave nothing of what was there, and no kernel of the room is left out; says where not.
pub(super) fn is_never_left(room: &str, cases: &[Box<dyn Case>]) -> bool {
    let mut launched = BTreeSet::new();
    let mut n_launches = 0;
    let mut is_right = true;
    for case in cases.iter().filter(|case| case.is_small()) {
        let what = format!("{}, {}", case.kernel(), case.shape());
        match look(&**case) {
            Ok((fault, leavings)) => {
                n_launches += WAYS.len() * leavings.len();
                launched.extend(leavings.into_iter().map(|leaving| leaving.kernel));
                if let Some(fault) = fault {
                    println!("WRONG  {what}: {fault}");
                    is_right = false;
                }
            }
            Err(error) => {
                println!("WRONG  {what}: {error}");
                is_right = false;
            }
        }
    }
    let entries = image::all().iter().filter(|image| image.room == room);
    let entries: BTreeSet<_> =
        entries.flat_map(|image| image.entries).map(|entry| (*entry).to_owned()).collect();
    if launched != entries {
        let missing: Vec<_> = entries.symmetric_difference(&launched).collect();
        println!("WRONG  kernels that no small case launches, or of no image: {missing:?}");
        is_right = false;
    }
    if is_right {
        let n_kernels = launched.len();
        println!("ok     nothing stale: {n_launches} launches of all {n_kernels} kernels");
    }
    is_right
}

/// Where one way leaves something else than another, and what the first one's launches left.
fn look(case: &dyn Case) -> lacuna::Result<(Option<String>, Vec<Leaving>)> {
    let mut problem: Option<Box<dyn Problem>> = None;
    let mut first: Option<Vec<Leaving>> = None;
    let mut fault = None;
    for (fill, checks, schedule) in WAYS {
        let witness = Witness::default();
        let config =
            Config { fill, checks, schedule, witness: Some(witness.clone()), ..Config::default() };
        let queue = Queue::simt(config);
        let problem = problem.get_or_insert_with(|| case.prepare(&queue));
        let leavings = launch_all(&queue, &**problem, &witness)?;
        match &first {
            None => first = Some(leavings),
            Some(first) => fault = fault.or_else(|| difference(first, &leavings, fill)),
        }
    }
    Ok((fault, first.unwrap_or_default()))
}

/// What a case leaves, and each of its variants.
fn launch_all(
    queue: &Queue,
    problem: &dyn Problem,
    witness: &Witness,
) -> lacuna::Result<Vec<Leaving>> {
    let mut leavings = Vec::new();
    let mut launch = |work: &mut dyn Work| -> lacuna::Result<()> {
        work.poison(queue)?;
        // What uploads launch is no case's.
        witness.take();
        work.launch(queue)?;
        leavings.extend(witness.take());
        Ok(())
    };
    launch(&mut *problem.place(queue)?)?;
    for (_, mut variant) in problem.variants(queue)? {
        launch(&mut *variant)?;
    }
    Ok(leavings)
}

fn difference(first: &[Leaving], other: &[Leaving], fill: u8) -> Option<String> {
    if first.len() != other.len() {
        return Some(format!("{} launches, and then {}", first.len(), other.len()));
    }
    first.iter().zip(other).find_map(|(first, other)| {
        let kernel = &first.kernel;
        if first.kernel != other.kernel || first.regions.len() != other.regions.len() {
            return Some(format!("{kernel}, and then {}, or of other memory", other.kernel));
        }
        // What is only read may be a table of addresses.
        let written = first.regions.iter().zip(&other.regions);
        written.filter(|(first, _)| first.role != Role::Input).find_map(|(first, other)| {
            let why = super::check::difference(&first.bytes, &other.bytes)?;
            Some(format!("{kernel} over bytes of {fill:#04x} leaves other `{}`: {why}", other.name))
        })
    })
}
