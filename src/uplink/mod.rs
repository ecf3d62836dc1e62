//! Links to the outside: TAP, MACVTAP, packet and AF_XDP sockets and the queues of a vhost-user back end, all
//! used the same way.
//!
//! A [`Spec`] says which device is wanted; [`open`] makes or takes it, in the process that has the
//! capabilities, and comes back with descriptors and [`Facts`]. Those travel, and a [`Link`] is made
//! of them where frames are forwarded. A [`PeerQueue`] is made by whoever has shaken hands with the back end.
//!
//! A link has one or more queues, each with a descriptor for edge-triggered epoll. No call waits.
//! Each call moves one frame with a virtio-net header of 12 bytes in front. Nothing holds a
//! pointer into the buffers given once a call returns.
//!
//! Threads: a [`Link`] is shared freely; a queue may even be used by two threads at once, which
//! costs only the order of frames. Devices are opened and removed by one process at a time.
//!
//! This room does not know relays, guests or the configuration, and repairs no frame: what a link
//! cannot take is told by [`Link::accepts`].

mod address;
mod error;
mod handed;
mod inbox;
mod link;
mod macvtap;
pub mod netlink;
mod packet;
mod peer;
mod spec;
pub mod sriov;
mod tap;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod xdp;

use std::os::fd::OwnedFd;

pub use error::{LinkError, Occupied, Standing};
pub use handed::adopt;
pub use inbox::{Arrivals, BATCH, Inbox};
pub use link::{Link, LinkQueue, RECEIVE_BUFFER, Received, is_full, is_lost_frame};
pub use peer::PeerQueue;
pub use spec::{
    ALL_QUEUES, Changed, Created, Facts, FoundSpec, HandedSpec, Kind, MAX_QUEUES, MacvtapMode,
    MacvtapSpec, Made, PacketSpec, Spec, TapSpec, XdpSpec, macvtap_name,
};
pub use xdp::{Taken, XdpMode, XdpQueue};

/// A device that was opened.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub facts: Facts,
    /// What has to be undone with [`Created::remove`]; nothing for a device that was there before,
    /// and for one that goes with its last descriptor.
    pub created: Option<Created>,
    /// One descriptor for each queue, and for some links a few more.
    pub queues: Vec<OwnedFd>,
}

/// Makes or takes the device that `spec` describes. Blocks for a few system calls.
///
/// # Errors
///
/// Why not, and what helps; nothing that was made on the way stays.
pub fn open(spec: &Spec) -> Result<Opened, LinkError> {
    spec.check()?;
    let (device, alone) = match spec {
        Spec::Macvtap(spec) => (&spec.parent, spec.mode == MacvtapMode::Passthru),
        Spec::Packet(spec) => (&spec.device, true),
        Spec::Xdp(spec) => (&spec.device, true),
        Spec::Tap(_) | Spec::Found(_) | Spec::Sriov(_) | Spec::Handed(_) => {
            return open_device(spec);
        }
    };
    let held = sriov::hold(&sriov::Linux::default(), device, alone)?;
    let mut opened = open_device(spec)?;
    if let Some(held) = held {
        let over = opened.created.map(Box::new);
        opened.created = Some(Created::Function(held, over));
    }
    Ok(opened)
}

/// The same where nobody else is known to use a function of a NIC.
fn open_device(spec: &Spec) -> Result<Opened, LinkError> {
    match spec {
        Spec::Tap(spec) => tap::open(spec),
        Spec::Macvtap(spec) => macvtap::open(spec),
        Spec::Found(spec) => macvtap::found::open(spec),
        Spec::Packet(spec) => packet::open(spec),
        Spec::Xdp(spec) => xdp::open(spec),
        Spec::Sriov(spec) => sriov::open(spec),
        Spec::Handed(spec) => Err(handed::elsewhere(spec)),
    }
}
