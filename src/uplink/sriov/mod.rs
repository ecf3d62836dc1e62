//! SR-IOV: a link by way of a virtual function (VF) of a NIC, and VFs handed to virtual machines.
//!
//! The physical function (PF) owns the settings of its VFs: address, VLAN, spoof check, trust, rate.
//! [`open`] makes the VF where that is wanted, has the PF's driver set what is configured, reads back
//! what the driver made of it, and opens the VF's network device as another kind of link.
//!
//! Invariants: a VF has one user, whom a lock on a file of its own tells from the next; nothing is
//! changed on a VF before it is known that nobody else needs it; what the NIC does not grant is
//! refused with the command that would grant it, since it would show later as silent loss.
//!
//! Everything outside goes through [`Host`]: the tests bring a tree of files and a NIC of their own.
//!
//! This room does not know which VMM runs a VM, nor what a relay is.

mod address;
mod error;
mod handover;
mod held;
mod host;
mod prepare;
mod settings;
mod spec;
mod sysfs;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use error::{HandoverError, SriovError};
pub use handover::{VFIO, bind, unbind};
pub use held::HeldFunction;
pub(super) use held::hold;
pub use host::{Host, Linux};
pub use spec::{FunctionSettings, FunctionState, Serves, Setting, SriovSpec, Via};
pub use sysfs::{PhysicalFunction, Sysfs, VirtualFunction};

use prepare::Ready;

use super::error::LinkError;
use super::{Created, Opened};

/// Opens a link by way of a virtual function.
///
/// # Errors
///
/// Why not, and what helps. Settings that the NIC has taken by then stay, as they do at the end.
pub(super) fn open(spec: &SriovSpec) -> Result<Opened, LinkError> {
    let Ready { device, held } = prepare::prepare(&Linux::default(), spec)?;
    match super::open_device(&spec.link(&device)) {
        Ok(opened) => {
            let over = opened.created.map(Box::new);
            Ok(Opened {
                created: Some(Created::Function(held, over)),
                ..opened
            })
        }
        Err(error) => {
            // The first error is the one to tell.
            if let Err(error) = held.let_go() {
                log::warn!("{device} keeps addresses of stations: {error}");
            }
            Err(error)
        }
    }
}
