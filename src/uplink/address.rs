//! Addresses of devices that are made here and have none of the configuration.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use crate::sys::socket;

/// What tells this system from others that have devices of the same names: the identity that the system got
/// when it was installed, or else its name.
const IDENTITIES: [&str; 2] = ["/etc/machine-id", "/proc/sys/kernel/hostname"];

/// The address of the device `name`: the same whenever it is made in this network namespace, and another elsewhere.
pub(super) fn stable(name: &str) -> [u8; 6] {
    let read = |path: &&str| fs::read_to_string(path).ok();
    let known = |text: &String| !text.trim().is_empty();
    let identity = IDENTITIES.iter().filter_map(read).find(known);
    let namespace = UnixDatagram::unbound().and_then(|socket| socket::namespace(socket.as_fd()));
    derive(
        identity.unwrap_or_default().trim(),
        namespace.unwrap_or_default(),
        name,
    )
}

fn derive(identity: &str, namespace: u64, name: &str) -> [u8; 6] {
    let place = identity.bytes().chain([0]).chain(namespace.to_be_bytes());
    let hash = fnv(place.chain(name.bytes()));
    let [first, second, third, fourth, fifth, sixth, ..] = hash.to_be_bytes();
    // Of a station, and given out by nobody but the owner of the network.
    [first & !1 | 2, second, third, fourth, fifth, sixth]
}

/// FNV-1a.
pub(super) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| {
        (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_address_is_that_of_one_station_in_one_place() {
        let identities = ["", "a", "b", "3d1219c7c4c5404aaa1f6d2a48adfda4"];
        let names = ["evb0", "evb1", "evb-up0", "evb-up1"];
        let mut all = BTreeSet::new();
        for identity in identities {
            for namespace in 0..4 {
                all.extend(names.map(|name| derive(identity, namespace, name)));
            }
        }
        assert_eq!(all.len(), identities.len() * 4 * names.len());
        assert!(all.iter().all(|mac| mac[0] & 3 == 2), "{all:02x?}");
        assert_eq!(stable("evb0"), stable("evb0"));
    }
}
