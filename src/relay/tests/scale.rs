//! Planned sizes: tables stay small, and the last port is like the first.

use super::{Net, bridge, frame, mac, slot, trunk, vid};
use crate::frame::ethernet::TPID_C;
use crate::frame::mac::Mac;
use crate::relay::{MAX_PORTS, PortConfig, RelayConfig, VlanConfig};

#[test]
fn all_vlans_of_a_thousand_trunks_share_their_bitmaps() {
    let all: Vec<u16> = (1..=4094).collect();
    let ports = (0..1024).map(|_| bridge(trunk(&all, None))).collect();
    let net = Net::new(RelayConfig::default(), ports);
    let bytes = net.relay.vlan_bytes();
    assert!(bytes < 64 << 10, "{bytes} bytes");
    let sent = frame(Mac::BROADCAST, mac(1), &[TPID_C, 4094, 0x0800]);
    assert_eq!(net.receivers(1023, &sent).len(), 1023);
}

#[test]
fn vlans_that_are_all_different_take_a_bitmap_each() {
    let ports = (0..1024u16).map(|index| bridge(VlanConfig::Access(vid(4 * index % 4094 + 1))));
    let net = Net::new(RelayConfig::default(), ports.collect());
    let bytes = net.relay.vlan_bytes();
    assert!(bytes < 256 << 10, "{bytes} bytes");
}

#[test]
fn the_last_slot_works_like_the_first() {
    let mut ports: Vec<_> = (1..MAX_PORTS).map(|_| bridge(VlanConfig::Flat)).collect();
    ports.push(PortConfig::uplink(VlanConfig::Flat, false));
    let net = Net::new(RelayConfig::default(), ports);
    let last = MAX_PORTS - 1;
    assert_eq!(net.relay.uplink(), Some(slot(last)));
    let sent = super::plain(Mac::BROADCAST, mac(1));
    assert_eq!(net.receivers(last, &sent), (0..last).collect::<Vec<_>>());
    assert_eq!(
        net.receivers(last - 1, &super::plain(mac(1), mac(2))),
        [last]
    );
    assert_eq!(net.receivers(0, &super::plain(mac(2), mac(3))), [last - 1]);
}
