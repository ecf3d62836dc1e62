//! What of the host depends on a device.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHop, RouteType, RouteVia,
};

use super::client::{Client, errno};
use crate::uplink::error::{LinkError, Occupied};

/// More addresses or routes than these are not told.
const TOLD: usize = 16;

impl Client {
    /// What the host has on a device.
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
        })
    }
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
