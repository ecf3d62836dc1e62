//! Counting frames at a port.

use crate::frame::mac::Mac;
use crate::stats::PortCounters;

/// A frame of `len` bytes to `dst` was delivered to the port.
#[inline]
pub fn rx(counters: &PortCounters, dst: Mac, len: usize) {
    counters.rx_frames(1);
    counters.rx_bytes(len as u64);
    if dst.is_broadcast() {
        counters.rx_broadcast(1);
    } else if dst.is_group() {
        counters.rx_multicast(1);
    }
}

/// The port sent a frame of `len` bytes to `dst`.
#[inline]
pub fn tx(counters: &PortCounters, dst: Mac, len: usize) {
    counters.tx_frames(1);
    counters.tx_bytes(len as u64);
    if dst.is_broadcast() {
        counters.tx_broadcast(1);
    } else if dst.is_group() {
        counters.tx_multicast(1);
    }
}
