//! Workers with guests, devices and a relay, without a daemon.

mod moves;
mod patience;
