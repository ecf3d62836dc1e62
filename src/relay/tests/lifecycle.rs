//! Ports that come, go and change (§4, §5), rebuilds, announcements, failover pairs.

use super::{Net, bridge, frame, mac, pinned, plain, slot, trunk, vid};
use crate::frame::ethernet::TPID_C;
use crate::frame::mac::Mac;
use crate::relay::{Announcement, MacPolicy, Mode, PortConfig, RelayConfig, VlanConfig};
use crate::stats::DropReason;

#[test]
fn a_port_that_goes_down_forgets_what_it_learned() {
    let flat = || bridge(VlanConfig::Flat);
    let up = PortConfig::uplink(VlanConfig::Flat, false);
    let mut net = Net::new(RelayConfig::default(), vec![flat(), flat(), flat(), up]);
    net.send(0, &plain(Mac::BROADCAST, mac(1))).unwrap();
    net.send(1, &plain(Mac::BROADCAST, mac(2))).unwrap();
    net.active.remove(slot(0));
    net.relay.port_down(slot(0));
    assert_eq!(net.relay.fdb().len(), 1);
    // Reached elsewhere at once, here as unknown.
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [2, 3]);
    net.active.insert(slot(0));
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [0, 2, 3]);
}

#[test]
fn a_port_that_leaves_takes_its_static_entries_along() {
    let flat = || bridge(VlanConfig::Flat);
    let net = Net::new(RelayConfig::default(), vec![flat(), flat()]);
    net.relay.add_static(None, mac(1), slot(0)).unwrap();
    net.relay.port_down(slot(0));
    assert_eq!(net.relay.fdb().len(), 1);
    net.relay.port_removed(slot(0));
    assert!(net.relay.fdb().is_empty());
}

#[test]
fn a_rebuild_keeps_what_is_known_and_follows_new_settings() {
    let access = |number| bridge(VlanConfig::Access(vid(number)));
    let ports = vec![
        access(10),
        access(10),
        access(10),
        bridge(trunk(&[10, 20], None)),
    ];
    let mut net = Net::new(RelayConfig::default(), ports);
    net.send(0, &plain(Mac::BROADCAST, mac(1))).unwrap();
    net.rebuild(RelayConfig::default(), |_, _| ());
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [0]);
    // A port that changes its VLAN is no longer reached in the old one.
    net.rebuild(RelayConfig::default(), |index, port| {
        if index == 0 {
            port.vlan = VlanConfig::Access(vid(20));
        }
    });
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [2, 3]);
    assert_eq!(net.receivers(0, &plain(Mac::BROADCAST, mac(1))), [3]);
    // One that becomes pinned is checked from then on.
    net.rebuild(RelayConfig::default(), |index, port| {
        if index == 1 {
            port.mac_policy = MacPolicy::Pinned;
            port.macs = vec![mac(7)];
        }
    });
    let refused = net.send(1, &plain(Mac::BROADCAST, mac(2)));
    assert_eq!(refused, Err(DropReason::Spoofed));
    assert_eq!(net.receivers(2, &plain(mac(7), mac(3))), [1]);
}

#[test]
fn announcements_cover_the_pvid_and_the_vlans_seen() {
    let announced = |net: &Net, index| net.relay.announcements(slot(index), None);
    let at = |number: u64, vlan: Option<u16>| Announcement {
        mac: mac(number),
        vid: vlan.map(vid),
    };
    let flat = || pinned(Mode::Bridge, VlanConfig::Flat, mac(1));
    let net = Net::new(
        RelayConfig::default(),
        vec![flat(), bridge(VlanConfig::Flat)],
    );
    assert_eq!(announced(&net, 0), [at(1, None)]);
    assert_eq!(announced(&net, 1), []);
    assert_eq!(announced(&net, 9), []);

    let mut first = bridge(trunk(&[10, 20, 30], None));
    first.mac_policy = MacPolicy::Pinned;
    let mut two = pinned(Mode::Vepa, trunk(&[10, 20, 30], Some(40)), mac(1));
    two.macs.push(mac(2));
    let ports = vec![
        pinned(Mode::Bridge, VlanConfig::Access(vid(10)), mac(3)),
        two,
        first,
        PortConfig::uplink(VlanConfig::Flat, true),
    ];
    let net = Net::new(RelayConfig::default(), ports);
    assert_eq!(announced(&net, 0), [at(3, Some(10))]);
    assert_eq!(announced(&net, 1), [at(1, Some(40)), at(2, Some(40))]);
    assert_eq!(announced(&net, 2), []);
    let tagged = |src, number| frame(Mac::BROADCAST, mac(src), &[TPID_C, number, 0x0800]);
    net.send(1, &tagged(2, 20)).unwrap();
    net.send(2, &tagged(9, 30)).unwrap();
    let expected = [
        at(1, Some(20)),
        at(1, Some(40)),
        at(2, Some(20)),
        at(2, Some(40)),
    ];
    assert_eq!(announced(&net, 1), expected);
    assert_eq!(announced(&net, 2), [at(9, Some(30))]);
    net.relay.port_down(slot(2));
    assert_eq!(announced(&net, 2), []);
}

#[test]
fn a_standby_owns_its_address_only_while_it_carries_the_traffic() {
    let net = |reflective| {
        let mut standby = pinned(Mode::Bridge, VlanConfig::Flat, mac(1));
        standby.standby = true;
        let up = PortConfig::uplink(VlanConfig::Flat, reflective);
        Net::new(
            RelayConfig::default(),
            vec![standby, bridge(VlanConfig::Flat), up],
        )
    };
    for reflective in [false, true] {
        let net = net(reflective);
        // The primary sends by the wire: not a reflection, and answered there.
        assert_eq!(net.receivers(2, &plain(Mac::BROADCAST, mac(1))), [0, 1]);
        assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [2]);
        // The primary has gone, the standby takes over by its first frame.
        net.send(0, &plain(Mac::BROADCAST, mac(1))).unwrap();
        assert!(net.state(0).carrying());
        assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [0]);
        // The primary is back: seen where nothing reflects, told where something may.
        let back = net.receivers(2, &plain(Mac::BROADCAST, mac(1)));
        if reflective {
            assert!(back.is_empty());
            net.state(0).set_carrying(false);
            assert_eq!(net.receivers(2, &plain(Mac::BROADCAST, mac(1))), [0, 1]);
        } else {
            assert_eq!(back, [0, 1]);
        }
        assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [2]);
        net.state(0).set_carrying(true);
        net.relay.port_down(slot(0));
        assert!(!net.state(0).carrying());
    }
}
