//! Workers with guests, devices and a relay, without a daemon.

mod bursts;
mod moves;
mod patience;
