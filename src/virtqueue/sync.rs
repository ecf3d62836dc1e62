//! What [`lock`](super::lock) synchronises with: the standard library's types, which the model checker's take the
//! place of in `tests/model_receive.rs`.

pub use std::sync::atomic::{AtomicBool, Ordering};

pub use crossbeam_utils::Backoff;

/// The standard library's, with the access of the model checker's, which has to know when one begins and ends.
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
        access(self.0.get())
    }

    #[inline]
    pub fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}
