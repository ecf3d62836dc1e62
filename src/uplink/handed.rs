//! TAP and MACVTAP devices that whoever starts the daemon has opened, for a daemon that has no
//! capability of its own.
//!
//! They are taken as they are: name, address, MTU and state are the affair of whoever made them, and
//! only checked.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::Opened;
use super::error::LinkError;
use super::netlink::{Client, Device, with_client};
use super::spec::{Facts, HandedSpec, Kind};
use super::tap::set_up_queue;
use crate::frame::mac::Mac;
use crate::sys::handed;
use crate::sys::tun::{self, Interface};

/// Takes the device behind `queues`, the descriptors that `spec` names. Blocks for a few system
/// calls; not for threads that have a runtime.
///
/// # Errors
///
/// What is wrong with it, and what would be right.
pub fn adopt(spec: &HandedSpec, queues: Vec<OwnedFd>) -> Result<Opened, LinkError> {
    let wrong = |descriptor: i32, wrong: String| LinkError::Handed { descriptor, wrong };
    let mut name = spec.name.clone();
    let mut nodes: Vec<File> = vec![];
    let mut uso = true;
    for (descriptor, queue) in spec.descriptors.iter().zip(queues) {
        let node = File::from(queue);
        let interface = identify(&node).map_err(|text| wrong(*descriptor, text))?;
        match &name {
            Some(name) if *name != interface.name => {
                let text = format!(
                    "belongs to {}, not to {name}; hand in the other",
                    interface.name
                );
                return Err(wrong(*descriptor, text));
            }
            _ => name = Some(interface.name),
        }
        let prepared = handed::set_nonblocking(&node).and_then(|()| set_up_queue(&node));
        uso &=
            prepared.map_err(|error| wrong(*descriptor, format!("cannot be prepared: {error}")))?;
        nodes.push(node);
    }
    let (Some(name), Some(first)) = (name, spec.descriptors.first()) else {
        return Err(LinkError::Queues { queues: 0 });
    };
    let device = with_client(async |client: &Client| client.find(&name).await)?;
    let device = device.ok_or_else(|| {
        let text = format!(
            "belongs to {name}, which is in another network namespace; start evb in that one"
        );
        wrong(*first, text)
    })?;
    let kind = check(spec, &name, &device).map_err(|text| wrong(*first, text))?;
    // It filters groups by those that the host has joined on it, in every mode. Who serves no IPv6 and joins them
    // there can do without.
    let hears_groups = device.reception.all_groups || device.reception.everything;
    if kind == Kind::Macvtap && !hears_groups {
        log::warn!(
            "{name} drops frames for groups that the host has not joined on it, such as those by which IPv6 finds \
             neighbours; run `ip link set dev {name} allmulticast on`"
        );
    }
    Ok(Opened {
        facts: Facts {
            kind,
            name,
            ifindex: device.ifindex,
            mac: device.mac,
            mtu: device.mtu(),
            uso,
            generic: false,
        },
        created: None,
        queues: nodes.into_iter().map(OwnedFd::from).collect(),
    })
}

/// Only the process that has a descriptor can take it.
pub(super) fn elsewhere(spec: &HandedSpec) -> LinkError {
    LinkError::Handed {
        descriptor: spec.descriptors.first().copied().unwrap_or_default(),
        wrong: "belongs to another process; hand it in to this one".to_owned(),
    }
}

/// What a descriptor belongs to, if that can carry frames as they are needed.
fn identify(node: &File) -> Result<Interface, String> {
    let interface = tun::interface(node).map_err(|error| match error.raw_os_error() {
        Some(libc::EBADFD | libc::ENOLINK) => {
            "belongs to a device that is gone; start evb anew with another".to_owned()
        }
        _ => "is no TAP or MACVTAP device; open /dev/net/tun or /dev/tapN for it".to_owned(),
    })?;
    if !interface.tap {
        return Err("is a TUN device, which carries no Ethernet frames; use IFF_TAP".to_owned());
    }
    if interface.packet_information || !interface.vnet_header {
        return Err(
            "has not the frame format that evb needs; open it with IFF_NO_PI and \
                    IFF_VNET_HDR"
                .to_owned(),
        );
    }
    Ok(interface)
}

/// Whether the device is what it has to be.
fn check(spec: &HandedSpec, name: &str, device: &Device) -> Result<Kind, String> {
    let kind = match (spec.macvtap, device.macvtap) {
        (None, None) => Kind::Tap,
        (Some(wanted), Some(mode)) if wanted == mode => Kind::Macvtap,
        (Some(wanted), Some(mode)) => {
            return Err(format!(
                "belongs to {name}, a MACVTAP device in mode {mode}, not {wanted}; write `mode = \
                 \"{mode}\"`, or hand in another"
            ));
        }
        (None, Some(_)) => {
            return Err(format!(
                "belongs to {name}, a MACVTAP device; write `macvtap` instead of `tap`"
            ));
        }
        (Some(_), None) => {
            return Err(format!(
                "belongs to {name}, a TAP device; write `tap` instead of `macvtap`"
            ));
        }
    };
    match spec.mac {
        Some(mac) if mac != device.mac => {
            let (mac, found) = (Mac::new(mac), Mac::new(device.mac));
            Err(format!(
                "belongs to {name}, which has the address {found}, not {mac}; set it with `ip link \
                 set dev {name} address {mac}`"
            ))
        }
        _ => Ok(kind),
    }
}
