//! What [`quiescence`](super::quiescence) synchronises with: the standard library's types, which the
//! model checker's take the place of in `tests/model_quiescence.rs`.

pub use std::sync::atomic::{AtomicU64, Ordering, fence};
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard};
