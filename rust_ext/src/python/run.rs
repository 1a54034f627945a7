//! Runs a kernel without the GIL: on the calling thread where there is little to do, else on a pool
//! of our own while the calling thread looks out for Ctrl-C. A panic becomes a RuntimeError.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
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

/// Up to this much is done on the calling thread, without an eye on signals.
const LITTLE_BYTES: usize = 1 << 16;

/// How much there is to do.
#[derive(Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub bytes: usize,
}

impl std::ops::Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows.max(other.rows), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// The value of `work`, which handles this much.
pub fn run<T: Send>(
    py: Python<'_>,
    size: Size,
    work: impl FnOnce(&Control) -> Result<T> + Send,
) -> PyResult<T> {
    if size.rows <= BLOCK_ROWS && size.bytes <= LITTLE_BYTES {
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
    run(py, Size { rows, bytes: rows }, |control| {
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
///
/// Raises ValueError where SEMIEVOL_NUM_THREADS is no whole number above 0.
#[pyfunction]
pub fn num_threads() -> PyResult<usize> {
    let set = THREADS.load(Ordering::Relaxed);
    if set > 0 {
        return Ok(set);
    }
    if let Ok(text) = std::env::var("SEMIEVOL_NUM_THREADS") {
        return threads_of(&text).ok_or_else(|| {
            PyValueError::new_err(format!(
                "SEMIEVOL_NUM_THREADS: {text:?} is not a number of threads; leave it out for all"
            ))
        });
    }
    // OpenMP takes one number for each level of nesting, and ignores what it cannot read.
    let omp = std::env::var("OMP_NUM_THREADS").ok();
    let omp = omp.and_then(|text| threads_of(text.split(',').next().unwrap_or("")));
    Ok(omp.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)))
}

fn threads_of(text: &str) -> Option<usize> {
    text.trim().parse().ok().filter(|&n| n > 0)
}

/// Sets how many threads the kernels use in this process; 0 goes back to the environment.
#[pyfunction]
pub fn set_num_threads(threads: usize) {
    THREADS.store(threads, Ordering::Relaxed);
}

struct Owned {
    process: u32,
    threads: usize,
    pool: Arc<ThreadPool>,
}

// Held with the GIL alone and never across a call, so a fork by Python never finds it locked.
static POOL: Mutex<Option<Owned>> = Mutex::new(None);

/// The pool of this process, made anew where the thread count has changed; the threads of the one
/// before end with the last call that uses it. A fork has its parent's pool but none of its
/// threads: it makes one of its own, and leaves the other alone.
fn pool() -> PyResult<Arc<ThreadPool>> {
    let (process, threads) = (std::process::id(), num_threads()?);
    let mut current = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(owned) = current.as_ref()
        && owned.process == process
        && owned.threads == threads
    {
        return Ok(owned.pool.clone());
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("semievol-{i}"))
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("no thread pool: {error}")))?;
    let pool = Arc::new(pool);
    let before = current.replace(Owned { process, threads, pool: pool.clone() });
    if let Some(before) = before.filter(|before| before.process != process) {
        std::mem::forget(before);
    }
    Ok(pool)
}
