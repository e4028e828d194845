//! What launches leave in memory.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use crate::region::{Region, Role};

/// A piece of memory as a launch left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its name in the launch's list.
    pub name: String,
    /// What the launch does with it.
    pub role: Role,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// What a launch left: of all memory but workspace, inputs among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The kernel's entry.
    pub kernel: String,
    /// In the order of the launch's list.
    pub regions: Vec<Left>,
}

/// Collects what launches leave, byte by byte; a clone collects into the same. For launches of little memory.
#[derive(Debug, Clone, Default)]
pub struct Witness {
    launches: Arc<Mutex<Vec<Leaving>>>,
}

impl PartialEq for Witness {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.launches, &other.launches)
    }
}

impl Eq for Witness {}

impl Witness {
    /// What was left since the last call, launch by launch.
    pub fn take(&self) -> Vec<Leaving> {
        std::mem::take(&mut *self.launches.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// # Safety
    /// Every region is readable memory, which nothing writes meanwhile.
    pub(super) unsafe fn look(&self, kernel: &str, regions: &[Region]) {
        let seen = regions.iter().filter(|region| region.role != Role::Workspace);
        let regions = seen.map(|region| {
            let (start, n_bytes) = (
                std::ptr::with_exposed_provenance::<u8>(region.address as usize),
                region.n_bytes as usize,
            );
            let bytes = if n_bytes == 0 {
                Vec::new()
            } else {
                // SAFETY: the caller's word.
                unsafe { std::slice::from_raw_parts(start, n_bytes) }.to_vec()
            };
            Left { name: region.name.to_string(), role: region.role, bytes }
        });
        let leaving = Leaving { kernel: kernel.to_owned(), regions: regions.collect() };
        self.launches.lock().unwrap_or_else(PoisonError::into_inner).push(leaving);
    }
}
