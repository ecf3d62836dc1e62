//! §4 and the reserved addresses of §1: who may use an address, what is learned, and when.

use super::{Net, bridge, frame, mac, pinned, plain, slot, trunk, vid};
use crate::frame::ethernet::{TPID_C, TYPE_ECP, TYPE_LLDP, TYPE_MAC_CONTROL, TYPE_SLOW};
use crate::frame::mac::Mac;
use crate::relay::{
    MacPolicy, Mode, PortConfig, RelayConfig, VlanConfig, default_flood_unknown,
    default_mac_policy, default_uplink_reflective,
};
use crate::stats::DropReason;

fn flat(mode: Mode) -> PortConfig {
    PortConfig::local(mode, VlanConfig::Flat, vec![])
}

fn uplink(reflective: bool) -> PortConfig {
    PortConfig::uplink(VlanConfig::Flat, reflective)
}

fn from(number: u64) -> Vec<u8> {
    plain(Mac::BROADCAST, mac(number))
}

#[test]
fn reserved_addresses_end_here_each_with_its_reason() {
    use DropReason::{Cdcp, Ecp, Lacp, Lldp, Pause, Reserved};
    let address = |last| Mac::new([0x01, 0x80, 0xc2, 0, 0, last]);
    let expected = |last: u8, ethertype: u16| match (last, ethertype) {
        (1, _) | (_, TYPE_MAC_CONTROL) => Pause,
        (0 | 14, TYPE_LLDP) => Lldp,
        (0, TYPE_ECP) => Ecp,
        (3, TYPE_LLDP) => Cdcp,
        (2, TYPE_SLOW) => Lacp,
        _ => Reserved,
    };
    let types = [
        0x0026,
        TYPE_LLDP,
        TYPE_ECP,
        TYPE_SLOW,
        TYPE_MAC_CONTROL,
        0x888e,
    ];
    for mask in [0, 0xffff, 0x4000] {
        let config = RelayConfig {
            group_fwd_mask: mask,
            ..RelayConfig::default()
        };
        let ports = vec![flat(Mode::Bridge), flat(Mode::Bridge), uplink(false)];
        let net = Net::new(config, ports);
        for last in 0..16 {
            for ethertype in types {
                let reason = expected(last, ethertype);
                let open = mask >> last & 1 != 0 && reason != Pause;
                for port in [0, 2] {
                    let sent = frame(address(last), mac(port as u64), &[ethertype]);
                    let got = net.send(port, &sent);
                    if open {
                        assert_eq!(got.unwrap().len(), 2);
                    } else {
                        assert_eq!(got, Err(reason), "{last} {ethertype:x}");
                    }
                }
            }
        }
        // Nothing is learned from them.
        assert!(net.relay.fdb().is_empty());
        // 01:80:c2:00:00:10 is an address like others.
        let sent = frame(address(0x10), mac(0), &[0x0800]);
        assert_eq!(net.receivers(0, &sent), [1, 2]);
    }
}

#[test]
fn invalid_sources_and_refused_frames_teach_nothing() {
    let access = |number| bridge(VlanConfig::Access(vid(number)));
    let net = Net::new(RelayConfig::default(), vec![access(10), access(10)]);
    let zero = net.send(0, &plain(mac(2), Mac::default()));
    assert_eq!(zero, Err(DropReason::ZeroSource));
    let group = net.send(0, &plain(mac(2), Mac::new([1, 0, 0, 0, 0, 1])));
    assert_eq!(group, Err(DropReason::GroupSource));
    let tagged = net.send(0, &frame(mac(2), mac(1), &[TPID_C, 20, 0x0800]));
    assert_eq!(tagged, Err(DropReason::TagOnAccess));
    assert!(net.relay.fdb().is_empty());
}

#[test]
fn defaults_of_policies() {
    let trusted = MacPolicy::Trusted { limit: 1024 };
    assert_eq!(default_mac_policy(Mode::Bridge), MacPolicy::Learn(8));
    assert_eq!(default_mac_policy(Mode::Vepa), MacPolicy::Pinned);
    assert_eq!(default_mac_policy(Mode::Private), MacPolicy::Pinned);
    assert_eq!(default_mac_policy(Mode::Passthrough), trusted);
    for policy in [MacPolicy::Pinned, MacPolicy::Learn(8), trusted] {
        for macs in [&[][..], &[mac(1)]] {
            let known = policy == MacPolicy::Pinned && !macs.is_empty();
            assert_eq!(default_flood_unknown(Mode::Bridge, policy, macs), !known);
            assert!(!default_flood_unknown(Mode::Vepa, policy, macs));
            assert!(!default_flood_unknown(Mode::Private, policy, macs));
        }
    }
    assert!(default_uplink_reflective([Mode::Bridge, Mode::Vepa]));
    assert!(!default_uplink_reflective([Mode::Bridge, Mode::Private]));
    let port = flat(Mode::Bridge);
    assert!(port.flood_unknown && !port.promiscuous && !port.accept_own_src);
}

#[test]
fn at_the_port_limit_the_uplink_decides() {
    for (reflective, present) in [(false, true), (true, true), (false, false)] {
        let mut ports = vec![flat(Mode::Bridge), flat(Mode::Bridge)];
        if present {
            ports.push(uplink(reflective));
        }
        let net = Net::new(RelayConfig::default(), ports);
        for number in 0..8 {
            assert!(net.send(0, &from(number)).is_ok());
        }
        let ninth = net.send(0, &from(8));
        if reflective {
            assert_eq!(ninth, Err(DropReason::PortLimit));
        } else {
            assert!(ninth.is_ok());
        }
        assert_eq!(net.state(0).take_report().limited, Some(mac(8)));
        assert_eq!((net.state(0).unlearned(), net.state(1).unlearned()), (1, 0));
        assert_eq!(net.relay.fdb().learned_by(slot(0)), 8);
        // The others keep theirs, and so does this port.
        assert!(net.send(1, &from(100)).is_ok());
        assert_eq!(net.receivers(1, &plain(mac(3), mac(100))), [0]);
        // Room comes back with ageing.
        let mut net = net;
        net.now += 301;
        net.relay.fdb().sweep(net.now, usize::MAX);
        assert!(net.send(0, &from(8)).is_ok());
        assert_eq!(net.receivers(1, &plain(mac(8), mac(100))), [0]);
    }
}

#[test]
fn at_the_relay_limit_the_uplink_decides() {
    for reflective in [false, true] {
        let config = RelayConfig {
            max_entries: 10,
            ..RelayConfig::default()
        };
        let mut trusted = flat(Mode::Bridge);
        trusted.mac_policy = MacPolicy::Trusted { limit: 1024 };
        let net = Net::new(
            config,
            vec![trusted, flat(Mode::Bridge), uplink(reflective)],
        );
        for number in 0..10 {
            assert!(net.send(0, &from(number)).is_ok());
        }
        for port in [0, 1] {
            let more = net.send(port, &from(20 + port as u64));
            assert_eq!(more.err(), reflective.then_some(DropReason::RelayLimit));
        }
        // An outside source passes without being learned.
        assert!(net.send(2, &from(30)).is_ok());
        assert_eq!(net.relay.fdb().len(), 10);
    }
}

#[test]
fn learning_off() {
    let config = RelayConfig {
        ageing: 0,
        ..RelayConfig::default()
    };
    let ports = || vec![flat(Mode::Bridge), flat(Mode::Bridge), flat(Mode::Bridge)];
    let net = Net::new(config.clone(), ports());
    net.send(0, &from(1)).unwrap();
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [0, 2]);
    assert!(net.relay.fdb().is_empty());
    let mut with_uplink = ports();
    with_uplink.push(uplink(true));
    let net = Net::new(config, with_uplink);
    assert_eq!(net.send(0, &from(1)), Err(DropReason::NotLearned));
}

#[test]
fn learned_addresses_move_between_ports_and_are_held_when_they_flap() {
    for reflective in [false, true] {
        let ports = vec![
            flat(Mode::Bridge),
            flat(Mode::Bridge),
            flat(Mode::Bridge),
            uplink(reflective),
        ];
        let mut net = Net::new(RelayConfig::default(), ports);
        net.send(0, &from(1)).unwrap();
        for port in [1, 0, 1, 0, 1] {
            net.send(port, &from(1)).unwrap();
            assert_eq!(net.state(port).take_report().moved, Some(mac(1)));
            assert_eq!(net.receivers(2, &plain(mac(1), mac(2))), [port]);
        }
        let held = net.send(0, &from(1));
        assert_eq!(held.err(), reflective.then_some(DropReason::MoveDamped));
        assert_eq!(net.state(0).take_report().damped, Some(mac(1)));
        assert_eq!(net.receivers(2, &plain(mac(1), mac(2))), [1]);
        net.now += 10;
        net.send(0, &from(1)).unwrap();
        assert_eq!(net.receivers(2, &plain(mac(1), mac(2))), [0]);
    }
}

#[test]
fn a_local_source_on_the_uplink_is_a_move_only_where_nothing_reflects() {
    // Reflective uplink, a VEPA port in the relay, and whether the address then has moved.
    for (reflective, vepa, moves) in [
        (false, false, true),
        (true, false, false),
        (false, true, false),
        (true, true, false),
    ] {
        let mut ports = vec![flat(Mode::Bridge), flat(Mode::Bridge), uplink(reflective)];
        if vepa {
            ports.push(flat(Mode::Vepa));
        }
        let net = Net::new(RelayConfig::default(), ports);
        net.send(0, &from(1)).unwrap();
        let received = net.receivers(2, &from(1));
        let to = net.receivers(1, &plain(mac(1), mac(2)));
        let everyone: &[usize] = if vepa { &[0, 1, 3] } else { &[0, 1] };
        if moves {
            assert_eq!((received.as_slice(), to.as_slice()), (everyone, &[2][..]));
        } else {
            let reflected: &[usize] = if vepa { &[3] } else { &[] };
            assert_eq!((received.as_slice(), to.as_slice()), (reflected, &[0][..]));
        }
    }
    // A registered address never moves.
    let ports = vec![
        pinned(Mode::Bridge, VlanConfig::Flat, mac(1)),
        flat(Mode::Bridge),
        uplink(false),
    ];
    let net = Net::new(RelayConfig::default(), ports);
    assert_eq!(net.send(2, &from(1)), Err(DropReason::Reflected));
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [0]);
}

#[test]
fn addresses_come_in_from_the_uplink_and_go_out_again() {
    let ports = vec![flat(Mode::Bridge), flat(Mode::Bridge), uplink(false)];
    let net = Net::new(RelayConfig::default(), ports);
    net.send(2, &from(1)).unwrap();
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [2]);
    net.send(0, &from(1)).unwrap();
    assert_eq!(net.receivers(1, &plain(mac(1), mac(2))), [0]);
}

#[test]
fn registered_addresses_hold_in_all_vlans_of_their_port_and_only_there() {
    let both = || trunk(&[10, 20], None);
    // The same address on two ports whose VLANs are disjoint, and a third that learns.
    let ports = vec![
        pinned(Mode::Bridge, VlanConfig::Access(vid(10)), mac(1)),
        pinned(Mode::Bridge, trunk(&[20, 30], None), mac(1)),
        bridge(trunk(&[10, 20, 30, 40], None)),
        bridge(both()),
    ];
    let net = Net::new(RelayConfig::default(), ports);
    let to = |number| frame(mac(1), mac(5), &[TPID_C, number, 0x0800]);
    let with_source = |number| frame(Mac::BROADCAST, mac(1), &[TPID_C, number, 0x0800]);
    assert_eq!(net.receivers(2, &to(10)), [0]);
    assert_eq!(net.receivers(2, &to(20)), [1]);
    assert_eq!(net.receivers(2, &to(30)), [1]);
    assert_eq!(
        net.relay.fdb().len(),
        3,
        "only the source was learned, once per VLAN"
    );
    for number in [10, 20, 30] {
        let taken = net.send(2, &with_source(number));
        assert_eq!(taken, Err(DropReason::AddressTaken));
    }
    assert_eq!(net.send(2, &with_source(40)), Err(DropReason::NoReceiver));
    assert_eq!(net.state(2).take_report().refused, Some(mac(1)));
    assert!(net.send(1, &with_source(30)).is_ok());
}

#[test]
fn the_first_source_is_pinned_until_the_port_goes_down() {
    for mode in [Mode::Vepa, Mode::Private, Mode::Bridge] {
        let mut first = PortConfig::local(mode, trunk(&[10, 20], None), vec![]);
        first.mac_policy = MacPolicy::Pinned;
        let other = bridge(trunk(&[10, 20], None));
        let mut up = PortConfig::uplink(VlanConfig::Flat, true);
        up.reflective = true;
        let net = Net::new(RelayConfig::default(), vec![first, other, up]);
        let sent = |number, vid| frame(mac(0x50), mac(number), &[TPID_C, vid, 0x0800]);
        assert!(net.send(0, &sent(1, 10)).is_ok());
        assert_eq!(net.state(0).pinned(), Some(mac(1)));
        assert_eq!(net.state(0).take_report().pinned, Some(mac(1)));
        assert_eq!(net.send(0, &sent(2, 10)), Err(DropReason::Spoofed));
        assert_eq!(net.state(0).take_report().refused, Some(mac(2)));
        // In all its VLANs at once.
        assert!(net.send(0, &sent(1, 20)).is_ok());
        let back = |number| frame(mac(1), mac(0x60), &[TPID_C, number, 0x0800]);
        assert_eq!(net.receivers(2, &back(10)), [0]);
        assert_eq!(net.receivers(2, &back(20)), [0]);
        assert_eq!(net.send(1, &sent(1, 20)), Err(DropReason::AddressTaken));

        net.relay.port_down(slot(0));
        assert_eq!(net.state(0).pinned(), None);
        assert!(net.send(1, &sent(1, 20)).is_ok());
        assert_eq!(net.send(0, &sent(3, 20)).err(), None);
        assert_eq!(net.state(0).pinned(), Some(mac(3)));
    }
}

#[test]
fn pins_never_take_what_belongs_to_another() {
    let ports = vec![
        pinned(Mode::Vepa, VlanConfig::Flat, mac(1)),
        flat(Mode::Vepa),
        flat(Mode::Vepa),
        flat(Mode::Bridge),
        uplink(true),
    ];
    let net = Net::new(RelayConfig::default(), ports);
    net.relay.add_static(None, mac(2), slot(3)).unwrap();
    net.send(1, &from(3)).unwrap();
    for number in [1, 2, 3] {
        assert_eq!(net.send(2, &from(number)), Err(DropReason::AddressTaken));
    }
    assert_eq!(net.state(2).pinned(), None);
    // A learned one may be: registered comes before learned.
    net.send(3, &from(4)).unwrap();
    net.send(2, &from(4)).unwrap();
    assert_eq!(net.send(3, &from(4)), Err(DropReason::AddressTaken));
    assert_eq!(net.receivers(4, &plain(mac(4), mac(9))), [2]);
}

#[test]
fn registered_addresses_of_inactive_ports_are_free() {
    let ports = vec![
        pinned(Mode::Bridge, VlanConfig::Flat, mac(1)),
        flat(Mode::Bridge),
        flat(Mode::Bridge),
        uplink(false),
    ];
    let mut net = Net::new(RelayConfig::default(), ports);
    assert_eq!(net.send(1, &from(1)), Err(DropReason::AddressTaken));
    net.active.remove(slot(0));
    // The VM comes back elsewhere in the relay, then outside.
    net.send(1, &from(1)).unwrap();
    assert_eq!(net.receivers(2, &plain(mac(1), mac(2))), [1]);
    net.send(3, &from(1)).unwrap();
    assert_eq!(net.receivers(2, &plain(mac(1), mac(2))), [3]);
    net.active.insert(slot(0));
    assert_eq!(net.receivers(2, &plain(mac(1), mac(2))), [0]);
}

#[test]
fn a_vepa_relay_does_not_learn() {
    let ports = vec![pinned(Mode::Vepa, VlanConfig::Flat, mac(1)), uplink(true)];
    let net = Net::new(RelayConfig::default(), ports);
    net.send(0, &plain(mac(5), mac(1))).unwrap();
    net.send(1, &plain(mac(1), mac(5))).unwrap();
    assert!(net.relay.fdb().is_empty());
}

#[test]
fn static_entries_hold_and_are_only_for_members() {
    use crate::relay::StaticError;
    let ports = vec![
        bridge(VlanConfig::Access(vid(10))),
        bridge(VlanConfig::Access(vid(20))),
        bridge(trunk(&[10, 20], None)),
        PortConfig::uplink(VlanConfig::Flat, false),
    ];
    let net = Net::new(RelayConfig::default(), ports);
    let relay = &net.relay;
    let add =
        |number: Option<u16>, address, at| relay.add_static(number.map(vid), address, slot(at));
    assert_eq!(add(Some(10), mac(1), 0), Ok(()));
    assert_eq!(add(Some(20), mac(1), 0), Err(StaticError::NotMember));
    assert_eq!(add(None, mac(1), 0), Err(StaticError::NotMember));
    assert_eq!(add(Some(10), mac(1), 9), Err(StaticError::NoPort));
    let group = Mac::BROADCAST;
    assert_eq!(add(Some(10), group, 0), Err(StaticError::NotUnicast(group)));
    let tagged = |dst, src, number| frame(dst, src, &[TPID_C, number, 0x0800]);
    assert_eq!(net.receivers(2, &tagged(mac(1), mac(5), 10)), [0]);
    assert_eq!(net.receivers(2, &tagged(mac(1), mac(5), 20)), [1, 3]);
    let taken = net.send(2, &tagged(Mac::BROADCAST, mac(1), 10));
    assert_eq!(taken, Err(DropReason::AddressTaken));
    assert!(net.send(2, &tagged(Mac::BROADCAST, mac(1), 20)).is_ok());
    // On the uplink as well: then it is outside.
    assert_eq!(add(Some(10), mac(6), 3), Ok(()));
    assert_eq!(net.receivers(2, &tagged(mac(6), mac(5), 10)), [3]);
    assert_eq!(net.receivers(3, &tagged(mac(5), mac(6), 10)), [2]);
    assert!(relay.remove_static(Some(vid(10)), mac(1)));
    assert!(net.send(2, &tagged(Mac::BROADCAST, mac(1), 10)).is_ok());
}
