//! `evb`, an edge virtual bridge: it serves virtio-net queues to virtual machines over vhost-user
//! and switches their frames in user space.
//!
//! RX and TX are named from the guest's side throughout: TX is what a guest sends.

pub mod agent;
pub mod api;
pub mod api_types;
pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod frame;
pub mod load;
pub mod privileged;
pub mod relay;
pub mod stats;
pub mod sys;
pub mod uplink;
pub mod vhost_user;
pub mod virtqueue;
pub mod worker;
