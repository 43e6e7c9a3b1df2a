//! Work on several threads that does not depend on getting them.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

/// Returns the number of threads that can work at the same time.
pub(crate) fn available() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs each task on its own thread; returns the results in the order of the tasks.
///
/// If the system refuses a thread (`ulimit -u`, a container's limit), the calling thread does that thread's work.
pub(crate) fn in_parallel<T: Send>(tasks: impl IntoIterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
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
#[cfg(feature = "disk")]
pub(crate) fn beside<A: Send, B>(aside: impl Fn() -> A + Sync, here: impl FnOnce() -> B) -> (A, B) {
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

/// Calls `work` with each of `items` on as many threads as the CPU has, which have this name, and returns the results in any order.
///
/// The calling thread works too, so a thread that cannot be started only costs time.
pub(crate) fn in_any_order<T: Send>(
    name: &str,
    items: &[usize],
    work: &(dyn Fn(usize) -> T + Sync),
) -> Vec<(usize, T)> {
    in_any_order_on(items, &|| thread::Builder::new().name(name.into()), work)
}

fn in_any_order_on<T: Send>(
    items: &[usize],
    builder: &dyn Fn() -> thread::Builder,
    work: &(dyn Fn(usize) -> T + Sync),
) -> Vec<(usize, T)> {
    let next = AtomicUsize::new(0);
    let take_items = || {
        let mut done = Vec::new();
        while let Some(&i) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((i, work(i)));
        }
        done
    };
    let threads = available().min(items.len());
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).filter_map(|_| builder().spawn_scoped(scope, take_items).ok()).collect();
        let mut done = take_items();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })
}

/// A pool of threads for rayon's parallel iterators.
#[cfg(feature = "native")]
#[derive(Debug)]
pub(crate) struct Pool(rayon::ThreadPool);

#[cfg(feature = "native")]
impl Pool {
    /// Starts `n` threads, or says why it cannot.
    pub(crate) fn new(n: usize) -> Result<Self, String> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(n).thread_name(|i| format!("native {i}"));
        threads.build().map(Pool).map_err(|error| error.to_string())
    }

    /// Runs `work` in a thread of the pool; parallel iterators in it use all of them.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }
}

#[cfg(test)]
mod tests {
    use super::in_any_order_on;
    use std::thread;

    /// A stack that no machine has: the thread cannot be started.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn without_threads_the_calling_thread_does_everything() {
        let builder = || thread::Builder::new().stack_size(1 << 62);
        assert!(builder().spawn(|| ()).is_err());
        let caller = thread::current().id();
        let mut done = in_any_order_on(&[3, 1, 2], &builder, &|i| (10 * i, thread::current().id()));
        done.sort_by_key(|(i, _)| *i);
        assert_eq!(done, [(1, (10, caller)), (2, (20, caller)), (3, (30, caller))]);
    }

    #[test]
    fn each_item_is_done_once() {
        let items: Vec<usize> = (0..100).collect();
        let mut done = in_any_order_on(&items, &thread::Builder::new, &|i| i + 1);
        done.sort_by_key(|(i, _)| *i);
        assert_eq!(done, items.iter().map(|&i| (i, i + 1)).collect::<Vec<_>>());
        assert!(in_any_order_on(&[], &thread::Builder::new, &|i| i).is_empty());
    }
}
