//! The memory that a launch may touch, by name: what the SIMT executor holds a kernel to.

use std::borrow::Cow;

use crate::buffer::{View, ViewMut};
use crate::element::Element;

/// What a launch does with a piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Role {
    /// Only reads it.
    Input = 0,
    /// Writes every byte, and reads none before: the SIMT executor fills it first.
    Output = 1,
    /// Reads what was there, and may write.
    InOut = 2,
    /// Writes before it reads; leaves anything. Filled first as an output is.
    Workspace = 3,
}

/// A piece of memory of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// For messages.
    pub name: Cow<'static, str>,
    /// What the launch does with it.
    pub role: Role,
    /// Its first byte.
    pub address: u64,
    /// Its size.
    pub n_bytes: u64,
}

/// The memory of a launch.
#[derive(Debug, Default)]
pub struct Regions {
    pub(crate) list: Vec<Region>,
}

impl Regions {
    /// Adds memory by its address.
    pub fn add(
        &mut self,
        role: Role,
        name: impl Into<Cow<'static, str>>,
        address: u64,
        n_bytes: u64,
    ) {
        self.list.push(Region { name: name.into(), role, address, n_bytes });
    }

    /// Adds an input.
    pub fn input<T: Element>(&mut self, name: impl Into<Cow<'static, str>>, view: &View<'_, T>) {
        self.add(Role::Input, name, view.address(), (view.len() * size_of::<T>()) as u64);
    }

    /// Adds what the launch may write.
    pub fn written<T: Element>(
        &mut self,
        role: Role,
        name: impl Into<Cow<'static, str>>,
        view: &ViewMut<'_, T>,
    ) {
        self.add(role, name, view.address(), (view.len() * size_of::<T>()) as u64);
    }
}
