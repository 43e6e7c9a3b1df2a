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
