//! What of the host depends on a device.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteType, RouteVia,
};

use super::client::{Client, Device, errno};
use crate::uplink::error::{LinkError, Occupied, Standing};

/// More addresses or routes than these are not told.
const TOLD: usize = 16;

impl Client {
    /// What the host has on a device, and on those that get their frames from it: a bridge or bond that it
    /// is a port of, VLAN and MACVLAN devices, and what stands on these.
    pub async fn occupied_with_above(&self, ifindex: u32) -> Result<Occupied, LinkError> {
        let mut occupied = self.occupied(ifindex).await?;
        for device in standing_on(&self.all().await?, ifindex) {
            let holds = self.occupied(device.ifindex).await?;
            if !holds.is_free() {
                occupied.above.push(Standing {
                    device: device.name.clone(),
                    addresses: holds.addresses,
                    default_routes: holds.default_routes,
                });
            }
        }
        Ok(occupied)
    }

    /// What the host has on a device itself.
    pub async fn occupied(&self, ifindex: u32) -> Result<Occupied, LinkError> {
        let mut addresses = vec![];
        let all = self.handle.address().get().set_link_index_filter(ifindex);
        let mut all = all.execute();
        let failed = |error| LinkError::admin("listing addresses", &errno(&error));
        while let Some(message) = all.try_next().await.map_err(failed)? {
            // On a point-to-point link the own address is the local one, and the other the peer's.
            let own = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            };
            let any = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            };
            let attributes = &message.attributes;
            let address = attributes
                .iter()
                .find_map(own)
                .or_else(|| attributes.iter().find_map(any));
            if let Some(address) = address.filter(|address| !comes_by_itself(*address)) {
                addresses.push(format!("{address}/{}", message.header.prefix_len));
            }
        }
        let mut default_routes = vec![];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut wanted = RouteMessage::default();
            wanted.header.address_family = family;
            let mut all = self.handle.route().get(wanted).execute();
            let failed = |error| LinkError::admin("listing routes", &errno(&error));
            while let Some(route) = all.try_next().await.map_err(failed)? {
                if let Some(gateway) = default_by(&route, ifindex) {
                    default_routes.push(gateway);
                }
            }
        }
        addresses.truncate(TOLD);
        default_routes.truncate(TOLD);
        Ok(Occupied {
            addresses,
            default_routes,
            above: vec![],
        })
    }
}

/// The devices that get frames from one, nearest first.
fn standing_on(all: &[Device], ifindex: u32) -> Vec<&Device> {
    let with = |ifindex| {
        all.iter()
            .find(|device: &&Device| device.ifindex == ifindex)
    };
    let mut reached = vec![ifindex];
    let mut found = vec![];
    let mut next = 0;
    while let Some(current) = reached.get(next).copied() {
        next += 1;
        let below = with(current);
        // One that routes for its ports hands nothing on.
        let master = below
            .and_then(|device| device.master)
            .and_then(with)
            .filter(|master| master.kind.as_deref() != Some("vrf"));
        let is_pair = |device: &Device| below.is_some_and(|it| it.is_made_on(device.ifindex));
        let made = all
            .iter()
            .filter(|device| device.is_made_on(current) && !is_pair(device));
        for device in made.chain(master) {
            if !reached.contains(&device.ifindex) {
                reached.push(device.ifindex);
                found.push(device);
            }
        }
    }
    found
}

/// Every device that is up has such an address, and nobody depends on it.
fn comes_by_itself(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The gateway of a default route that leads over a device.
fn default_by(route: &RouteMessage, ifindex: u32) -> Option<String> {
    if route.header.destination_prefix_length != 0 || route.header.kind != RouteType::Unicast {
        return None;
    }
    if leads_over(&route.attributes, ifindex) {
        return Some(gateway(&route.attributes));
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => hops
                .iter()
                .find(|hop| hop.interface_index == ifindex)
                .map(|hop: &RouteNextHop| gateway(&hop.attributes)),
            _ => None,
        })
}

fn leads_over(attributes: &[RouteAttribute], ifindex: u32) -> bool {
    attributes.contains(&RouteAttribute::Oif(ifindex))
}

fn gateway(attributes: &[RouteAttribute]) -> String {
    let address = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some(address.to_string()),
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(address.to_string()),
        _ => None,
    });
    address.unwrap_or_else(|| "on-link".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with a number, a kind, what it is made on, and what it is a port of.
    fn device(ifindex: u32, kind: &str, lower: Option<u32>, master: Option<u32>) -> Device {
        Device {
            ifindex,
            kind: Some(kind.to_owned()).filter(|kind| !kind.is_empty()),
            lower,
            master,
            ..Device::default()
        }
    }

    fn standing(all: &[Device], ifindex: u32) -> Vec<u32> {
        let found = standing_on(all, ifindex);
        found.into_iter().map(|device| device.ifindex).collect()
    }

    #[test]
    fn what_gets_its_frames_from_a_device_is_found_however_far() {
        let elsewhere = Device {
            lower_elsewhere: true,
            ..device(9, "macvlan", Some(2), None)
        };
        let all = [
            device(2, "", None, Some(3)),
            device(3, "bond", None, None),
            device(4, "vlan", Some(3), Some(5)),
            device(5, "bridge", None, None),
            device(6, "veth", Some(7), Some(5)),
            device(7, "veth", Some(6), None),
            device(8, "", None, Some(3)),
            elsewhere,
        ];
        assert_eq!(standing(&all, 2), [3, 4, 5]);
        // The other ports get nothing from the bond and the bridge, and one of a pair nothing from the other.
        assert!(standing(&all, 7).is_empty());
        assert_eq!(standing(&all, 6), [5]);
        assert!(standing(&all, 1).is_empty());
        let routed = [device(2, "", None, Some(3)), device(3, "vrf", None, None)];
        assert!(standing(&routed, 2).is_empty());
    }
}
