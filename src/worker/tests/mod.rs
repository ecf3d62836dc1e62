//! Workers with guests, devices and a relay, without a daemon.

mod alone;
mod bursts;
mod moves;
mod patience;
