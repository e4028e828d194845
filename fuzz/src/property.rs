//! Properties of the tests as fuzz targets: a target compiles a room's tests, in which `proptest` is
//! this crate, and each `proptest!` there is entered in a list in place of becoming a test. What its
//! strategies choose, and numbers from a seed, are the fuzzer's bytes.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use lacuna::Queue;
use lacuna::simt::{Checks, Config, Fibres, Schedule};
use linkme::distributed_slice;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{
    Config as RunnerConfig, RngAlgorithm, TestCaseError, TestRng, TestRunner,
};

/// A property of any input: what it made of the last one.
pub struct Property {
    pub name: &'static str,
    pub run: fn(&mut TestRunner) -> Result<(), TestCaseError>,
}

/// Those of a target.
#[distributed_slice]
pub static PROPERTIES: [Property];

/// As `proptest!` is called.
#[macro_export]
macro_rules! properties {
    (#![proptest_config($config:expr)] $($rest:tt)*) => { $crate::properties! { $($rest)* } };
    ($($(#[$meta:meta])* fn $name:ident($($args:tt)+) $body:block)*) => {
        $(const _: () = {
            $crate::prop_compose! {
                fn outcome()($($args)+) -> Result<(), $crate::test_runner::TestCaseError> {
                    let _: () = $body;
                    Ok(())
                }
            }
            #[$crate::linkme::distributed_slice($crate::PROPERTIES)]
            #[linkme(crate = $crate::linkme)]
            static PROPERTY: $crate::Property = $crate::Property {
                name: concat!(module_path!(), "::", stringify!($name)),
                run: |runner| $crate::outcome_of(&outcome(), runner),
            };
        };)*
    };
}

/// Runs a property: to make the value of its strategy is to run it.
pub fn outcome_of(
    property: &impl Strategy<Value = Result<(), TestCaseError>>,
    runner: &mut TestRunner,
) -> Result<(), TestCaseError> {
    property.new_tree(runner).map_or(Ok(()), |tree| tree.current())
}

/// What the input being run is, for numbers from a seed, and how its kernels run.
#[derive(Default)]
struct Running {
    bytes: Vec<u8>,
    how: u8,
}

thread_local! {
    static RUNNING: RefCell<Running> = RefCell::default();
}

/// Bytes that come before those of strategies: which property, by two, and how kernels run.
const HEAD: usize = 3;

/// Runs the property that the first bytes choose.
pub fn run_property(bytes: &[u8]) {
    static CHOSEN: OnceLock<Vec<&Property>> = OnceLock::new();
    // Sizes of plans have a target of their own. Of these two take seconds for an input, and many floats, each
    // of which halves what is left of it, more than any input has.
    let unfit = [
        "histories_are_those_of_a_map",
        "pages_do_not_depend_on_where_tokens_were",
        "saliency_is_a_mean_of_weights",
    ];
    let properties = CHOSEN.get_or_init(|| {
        pass_samplers();
        let only = std::env::var("LACUNA_FUZZ_ONLY").unwrap_or_default();
        PROPERTIES
            .iter()
            .filter(|property| !property.name.contains("plan"))
            .filter(|property| !unfit.iter().any(|unfit| property.name.ends_with(unfit)))
            .filter(|property| property.name.contains(&only))
            .collect()
    });
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else { return };
    // That of the greatest hash: one more property takes few inputs from each of the others.
    let key = u64::from(u16::from_le_bytes([head[0], head[1]]));
    let property = properties.iter().max_by_key(|property| hash(key, property.name));
    let property = property.expect("a property");
    RUNNING.set(Running { bytes: rest.to_vec(), how: head[2] });
    let rng = TestRng::from_seed(RngAlgorithm::PassThrough, &[rest, tail()].concat());
    let mut runner = TestRunner::new_with_rng(RunnerConfig::default(), rng);
    let outcome = catch_unwind(AssertUnwindSafe(|| (property.run)(&mut runner)));
    if let Ok(Err(TestCaseError::Fail(reason))) = outcome {
        panic!("{}: {reason}", property.name);
    }
}

/// Bits that no generator gives break an assertion of proptest's own, where it draws floats from a range:
/// there is no case then. Every other panic ends the process, as libFuzzer's hook has it.
fn pass_samplers() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_samplers =
            info.location().is_some_and(|at| at.file().ends_with("float_samplers.rs"));
        if !is_samplers {
            hook(info);
        }
    }));
}

/// What choices are made of that an input has too few bytes for: always the same. Of zeros without end
/// some strategies would draw without end.
fn tail() -> &'static [u8] {
    static TAIL: OnceLock<Vec<u8>> = OnceLock::new();
    TAIL.get_or_init(|| (0..1 << 17).flat_map(|idx| hash(idx, "tail").to_le_bytes()).collect())
}

/// FNV-1a, and a mix of its bits (Murmur3's).
fn hash(key: u64, name: &str) -> u64 {
    let bytes = key.to_le_bytes();
    let hash = bytes.iter().chain(name.as_bytes()).fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3_u64)
    });
    let hash = (hash ^ hash >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    hash ^ hash >> 33
}

/// The queue of an input: half of them are checked.
pub fn queue(may_check: bool) -> Queue {
    let how = RUNNING.with_borrow(|running| running.how);
    let schedules = [
        Schedule::InOrder,
        Schedule::Reverse,
        Schedule::Random,
        Schedule::WarpFirst,
        Schedule::LaneLast,
    ];
    // Products that published models disagree on are held to one of them.
    let checks = Checks { settled: false, ..Checks::ALL };
    Queue::simt(Config {
        schedule: schedules[usize::from(how >> 1) % schedules.len()],
        seed: how.into(),
        n_workers: 1,
        fibres: if how >> 4 == 15 { Fibres::Portable } else { Fibres::Native },
        checks: if may_check && how.is_multiple_of(2) { checks } else { Checks::NONE },
        ..Config::default()
    })
}

/// What a generator of numbers says in this state: mostly four bytes of the input. A generator whose
/// period is a power of two comes to each of them as often as to any other, and the same seed to the same.
pub fn word_of(state: u64) -> u32 {
    let own = (state >> 32) as u32;
    RUNNING.with_borrow(|Running { bytes, .. }| {
        let (words, _) = bytes.as_chunks();
        let n_words = words.len().checked_ilog2().map_or(0, |n_bits| 1 << n_bits);
        match n_words {
            0 => own,
            // Some are never the input's, so that what is drawn until it fits will fit.
            _ if own >> 28 == 0 => own,
            _ => u32::from_le_bytes(words[words.len() - 1 - state as usize % n_words]),
        }
    })
}
