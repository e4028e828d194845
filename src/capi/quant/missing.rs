//! What a launch says of entries whose pages are not there.

use crate::capi::abi::variable;
use crate::capi::status::{Failure, answer, lacuna_status};
use crate::quant::MissingPage;

/// The number of no page in an entry, of whatever tier: such entries are meant to be of none, and are not reported.
pub const LACUNA_NO_PAGE: u32 = 0x3FFF_FFFF;

const _: () = assert!(LACUNA_NO_PAGE == MissingPage::NONE);

/// What the status word of tiers' pools says, which the caller has copied to the host: `LACUNA_OK` where each page that was looked for was
/// there. `entry`, where it is not null, is set to the place in its table of the first entry that was not: `(b * n_heads + h) * n_pages + p`.
///
/// Errors: `LACUNA_RANGE`, whose message says which table and entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lacuna_pages_check_status(status: u64, entry: *mut u32) -> lacuna_status {
    answer(|| {
        let Some(missing) = MissingPage::from_status(status) else { return Ok(()) };
        if !entry.is_null() {
            // SAFETY: the caller's variable.
            *unsafe { variable("entry", entry) }? = missing.entry;
        }
        Err(Failure::new(lacuna_status::LACUNA_RANGE, missing.to_string()))
    })
}
