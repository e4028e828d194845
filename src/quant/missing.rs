//! What a launch says of entries whose pages are not there.

use std::fmt;

/// Which table an entry stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum EntryTable {
    /// That of keys; of [`retier_pages`](crate::quant::retier_pages) the new one.
    Keys = 1,
    /// That of values; of [`retier_pages`](crate::quant::retier_pages) the new one.
    Values = 2,
    /// Of [`retier_pages`](crate::quant::retier_pages), the old one of keys.
    OldKeys = 3,
    /// Of [`retier_pages`](crate::quant::retier_pages), the old one of values.
    OldValues = 4,
}

impl EntryTable {
    const ALL: [Self; 4] = [Self::Keys, Self::Values, Self::OldKeys, Self::OldValues];
}

impl fmt::Display for EntryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys => "key_entries",
            Self::Values => "value_entries",
            Self::OldKeys => "old_key_entries",
            Self::OldValues => "old_value_entries",
        })
    }
}

/// The first entry of a launch that names a page its pool does not have, as its status word tells it. Where several tables have one in the
/// same place, it is the last of them.
///
/// ```
/// use lacuna::quant::{EntryTable, MissingPage};
///
/// let status = u64::from(u32::MAX - 70) << 32 | 2;
/// let missing = MissingPage::from_status(status).unwrap();
/// assert_eq!(missing, MissingPage { table: EntryTable::Values, entry: 70 });
/// assert_eq!(missing.to_string(), "value_entries: entry 70 is of a page that its pool does not have");
/// assert_eq!(missing.to_status(), status);
/// assert_eq!(MissingPage::from_status(0), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{table}: entry {entry} is of a page that its pool does not have")]
pub struct MissingPage {
    /// Which table.
    pub table: EntryTable,
    /// Its place there, `(b * n_heads + h) * n_pages + p`.
    pub entry: u32,
}

impl MissingPage {
    /// The number of no page: entries with it, of whatever tag, are meant to be of none, and are not reported.
    pub const NONE: u32 = 0x3FFF_FFFF;

    /// Reads a status word, of [`TierPools`](crate::quant::TierPools) or [`TierPoolsMut`](crate::quant::TierPoolsMut); `None`
    /// where each page that was looked for was there.
    pub fn from_status(status: u64) -> Option<Self> {
        let table = EntryTable::ALL.into_iter().find(|table| *table as u32 == status as u32)?;
        Some(Self { table, entry: u32::MAX - (status >> 32) as u32 })
    }

    /// The status word that says so: the greatest of all that are missing is what a launch raises it to.
    pub fn to_status(self) -> u64 {
        u64::from(u32::MAX - self.entry) << 32 | self.table as u64
    }
}
