//! The functions of `several.rs` without threads. Nothing needs to be `Send`: what belongs to a browser stays on its thread.

/// Returns the number of threads that can work at the same time.
pub(crate) fn available() -> usize {
    1
}

/// Runs each task; returns the results in the order of the tasks.
pub(crate) fn in_parallel<T>(tasks: impl IntoIterator<Item = impl FnOnce() -> T>) -> Vec<T> {
    tasks.into_iter().map(|task| task()).collect()
}

/// Calls `work` with each of `items`.
pub(crate) fn in_any_order<T>(_: &str, items: &[usize], work: &dyn Fn(usize) -> T) -> Vec<(usize, T)> {
    items.iter().map(|&i| (i, work(i))).collect()
}

/// The pool of `several.rs` without threads: the caller does all work. What asks rayon for threads finds a pool that has only this one.
#[cfg(feature = "native")]
#[derive(Debug)]
pub(crate) struct Pool;

#[cfg(feature = "native")]
impl Pool {
    pub(crate) fn new(_: usize) -> Result<Self, String> {
        Ok(Pool)
    }

    pub(crate) fn install<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }
}
