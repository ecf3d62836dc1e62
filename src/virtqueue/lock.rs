//! A small spin lock, for ring positions and what goes with them.
//!
//! Around a ring's positions it is held for the few hundred nanoseconds in which a burst is walked or published,
//! or one short frame is written, around what a queue has under way for a turn of its one worker; nearly always it is found free. Compared with
//! `std::sync::Mutex` it releases with a plain store instead of a second read-modify-write, which is measurable once per
//! destination and burst, and it has no poisoning. After a short spin a waiter yields, so a preempted holder gets to run.
//!
//! The synchronisation types come from `super::sync`, so that `tests/model_receive.rs` can run this very file under
//! a model checker.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::sync::{AtomicBool, Backoff, Ordering, UnsafeCell};

/// Mutual exclusion around a `T`.
pub struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached only through a `Held`, and `held` admits one of those at a time; so
// sharing the lock hands the `T` from thread to thread, which `T: Send` allows.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl<T: Default> Default for Lock<T> {
    fn default() -> Lock<T> {
        Lock::new(T::default())
    }
}

impl<T> Lock<T> {
    /// A lock that nobody holds.
    pub fn new(value: T) -> Lock<T> {
        Lock {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        // The load first: a failing swap would pull the line away from the holder.
        if self.held.load(Ordering::Relaxed) || self.held.swap(true, Ordering::Acquire) {
            return None;
        }
        Some(Held {
            lock: self,
            value: PhantomData,
        })
    }

    /// Takes the lock as soon as nobody holds it.
    #[inline]
    pub fn lock(&self) -> Held<'_, T> {
        match self.try_lock() {
            Some(held) => held,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Held<'_, T> {
        let backoff = Backoff::new();
        loop {
            backoff.snooze();
            if let Some(held) = self.try_lock() {
                return held;
            }
        }
    }
}

/// The lock is held until this is dropped.
pub struct Held<'a, T> {
    lock: &'a Lock<T>,
    /// May go to, and be shared by, the threads that a `&mut T` may.
    value: PhantomData<&'a mut T>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this `Held` exists, so `try_lock` gave it exclusive access to the value.
        self.lock.value.with(|value| unsafe { &*value })
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this `Held` exists and is borrowed mutably, so access is exclusive.
        self.lock.value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}
