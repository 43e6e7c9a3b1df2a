//! Work on several threads that does not depend on getting them.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// Runs each task on its own thread; returns the results in the order of the tasks.
///
/// If the system refuses a thread (`ulimit -u`, a container's limit), the calling thread does that thread's work.
pub(super) fn in_parallel<T: Send>(tasks: impl IntoIterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    // A refused thread drops its closure, so the task itself stays out here.
    let tasks: Vec<_> = tasks.into_iter().map(|task| Mutex::new(Some(task))).collect();
    let run = |i: usize| {
        let task = tasks[i].lock().unwrap_or_else(PoisonError::into_inner).take();
        task.expect("each task runs once: on its thread, or here if that was refused")()
    };
    let run = &run;
    thread::scope(|scope| {
        let start = |i| thread::Builder::new().spawn_scoped(scope, move || run(i)).ok();
        let threads: Vec<_> = (0..tasks.len()).map(start).collect();
        (0..).zip(threads).map(|(i, thread)| thread.map_or_else(|| run(i), joined)).collect()
    })
}

/// Runs `aside` on a second thread and `here` on this one; both on this one if the system refuses a thread.
pub(super) fn beside<A: Send, B>(aside: impl Fn() -> A + Sync, here: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, &aside);
        let b = here();
        (thread.map_or_else(|_| aside(), joined), b)
    })
}

/// Returns the result of a thread; a panic of that thread continues in this one.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
