//! `choose_probes`.

use crate::Error;
use crate::capi::abi::{array, variable};
use crate::capi::status::{answer, lacuna_status};

/// Rows of a prompt that are its probes, ascending, in host memory: the last `n_recent`, and `n_random` of those before; of a shorter prompt, all.
/// What is chosen depends on the arguments alone, on every machine. `lacuna::quant::choose_probes` says all of it.
///
/// `probes` is an array of `n_places`; `n_probes` is set to how many there are, at most `n_recent + n_random` and at most `n_rows`.
///
/// Errors: `LACUNA_NULL`; `LACUNA_SHAPE` where there are fewer places than probes: then `n_probes` is set, and `probes` is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_choose_probes(
    seed: u64,
    n_rows: u32,
    n_recent: u32,
    n_random: u32,
    probes: *mut u32,
    n_places: u64,
    n_probes: *mut u64,
) -> lacuna_status {
    // SAFETY: the caller's array and variable.
    answer(|| unsafe {
        let n_probes = variable("n_probes", n_probes)?;
        let places = array("probes", probes, n_places)?;
        // Who asks how many there are has no memory for them, and neither have we.
        *n_probes = (u64::from(n_recent) + u64::from(n_random)).min(n_rows.into());
        if *n_probes > n_places {
            let what = "places for probes";
            return Err(Error::Shape { what, expected: *n_probes, got: n_places }.into());
        }
        let found = crate::quant::choose_probes(seed, n_rows, n_recent, n_random);
        places[..found.len()].copy_from_slice(&found);
        Ok(())
    })
}
