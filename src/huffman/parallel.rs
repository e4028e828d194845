//! Work on all threads of the current rayon pool (feature `files`; else on the caller's).
//!
//! Under Miri, too, on the caller's: rayon's own queues do not keep to its aliasing model.

/// What `f` makes of each item, in their order. `init` makes what a thread keeps between items.
#[cfg(all(feature = "files", not(miri)))]
pub(super) fn map_init<T: Send, S, R: Send>(
    items: Vec<T>,
    init: impl Fn() -> S + Sync + Send,
    f: impl Fn(&mut S, T) -> R + Sync + Send,
) -> Vec<R> {
    use rayon::prelude::*;
    items.into_par_iter().map_init(init, f).collect()
}

#[cfg(any(not(feature = "files"), miri))]
pub(super) fn map_init<T, S, R>(
    items: Vec<T>,
    init: impl Fn() -> S,
    f: impl Fn(&mut S, T) -> R,
) -> Vec<R> {
    let mut state = init();
    items.into_iter().map(|item| f(&mut state, item)).collect()
}

/// What `f` makes of each item, in their order.
pub(super) fn map<T: Send, R: Send>(items: Vec<T>, f: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    map_init(items, || (), |(), item| f(item))
}
