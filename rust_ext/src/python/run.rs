//! Runs a kernel without the GIL: on the calling thread where there is little to do, else on a pool
//! of our own while the calling thread looks out for Ctrl-C. A panic becomes a RuntimeError.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::parallel::{self, BLOCK_ROWS, Control};

/// How often the calling thread asks Python for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

pub fn to_py_error(error: Error) -> PyErr {
    match error {
        Error::Cancelled => PyKeyboardInterrupt::new_err(()),
        Error::Panic(_) => PyRuntimeError::new_err(error.to_string()),
        other => PyValueError::new_err(other.to_string()),
    }
}

/// The value of `work`, which handles this many rows.
pub fn run<T: Send>(
    py: Python<'_>,
    rows: usize,
    work: impl FnOnce(&Control) -> Result<T> + Send,
) -> PyResult<T> {
    if rows <= BLOCK_ROWS {
        return py.detach(|| caught(work, &Control::default())).map_err(to_py_error);
    }
    let pool = pool()?;
    let (send, receive) = channel();
    py.detach(move || {
        let control = Control::default();
        pool.in_place_scope(|scope| {
            let control = &control;
            scope.spawn(move |_| drop(send.send(caught(work, control))));
            let mut interrupted = None;
            loop {
                match receive.recv_timeout(SIGNALS_EVERY) {
                    Ok(result) => return interrupted.map_or(result.map_err(to_py_error), Err),
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(signal) = Python::attach(|py| py.check_signals()) {
                            control.cancel();
                            interrupted = Some(signal);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("a kernel ended without a value"));
                    }
                }
            }
        })
    })
}

/// The value of `work`, or its panic as an error; on whichever thread it happened.
fn caught<T>(work: impl FnOnce(&Control) -> Result<T>, control: &Control) -> Result<T> {
    // What the work held when it panicked is dropped with it: nobody sees it half-done.
    catch_unwind(AssertUnwindSafe(|| work(control))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Error::Panic(text.unwrap_or("no message").to_owned()))
    })
}

/// Panics in the last of this many rows: for the test that a panic is an exception.
#[pyfunction]
pub fn _panic(py: Python<'_>, rows: usize) -> PyResult<()> {
    run(py, rows, |control| {
        let mut out = vec![0u8; rows];
        parallel::fill(&mut out[..], control, |start, block| {
            assert!(start + block.len() < rows, "row {} was asked to panic", rows - 1);
            Ok(())
        })
    })
}

/// 0: not set.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads the kernels use: what `set_num_threads` said, else SEMIEVOL_NUM_THREADS, else
/// OMP_NUM_THREADS (Ray sets it to the CPUs it granted), else every core.
#[pyfunction]
pub fn num_threads() -> usize {
    let of_env = |name| std::env::var(name).ok()?.trim().parse::<usize>().ok();
    Some(THREADS.load(Ordering::Relaxed))
        .filter(|&n| n > 0)
        .or_else(|| of_env("SEMIEVOL_NUM_THREADS"))
        .or_else(|| of_env("OMP_NUM_THREADS"))
        .filter(|&n| n > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Sets how many threads the kernels use in this process; 0 goes back to the environment.
#[pyfunction]
pub fn set_num_threads(threads: usize) {
    THREADS.store(threads, Ordering::Relaxed);
}

struct Owned {
    process: u32,
    threads: usize,
    pool: ThreadPool,
}

static POOL: AtomicPtr<Owned> = AtomicPtr::new(std::ptr::null_mut());

/// The pool of this process. A fork has its parent's pool but none of its threads: it makes one of
/// its own, as does a change of the thread count. A pool that was replaced is never freed, because
/// a call may still use it; there are as many as such changes.
fn pool() -> PyResult<&'static ThreadPool> {
    let (process, threads) = (std::process::id(), num_threads());
    let current = POOL.load(Ordering::Acquire);
    // SAFETY: the pointer is null or comes from `Box::into_raw` below and is never freed.
    if let Some(owned) = unsafe { current.as_ref() }
        && owned.process == process
        && owned.threads == threads
    {
        return Ok(&owned.pool);
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("semievol-{i}"))
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("no thread pool: {error}")))?;
    let owned = Box::leak(Box::new(Owned { process, threads, pool }));
    POOL.store(owned, Ordering::Release);
    Ok(&owned.pool)
}
