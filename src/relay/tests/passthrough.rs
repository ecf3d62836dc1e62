//! A passthrough relay: the column of both tables, and transparency byte for byte.

use super::{Copies, Net, frame, mac, plain, slot};
use crate::frame::ethernet::{TPID_C, TPID_S, TYPE_MAC_CONTROL};
use crate::frame::mac::Mac;
use crate::relay::{MacPolicy, Mode, PortConfig, RelayConfig, VlanConfig};
use crate::stats::DropReason;

const VM: usize = 0;
const UP: usize = 1;

fn net(change: impl Fn(&mut PortConfig)) -> Net {
    let mut port = PortConfig::local(Mode::Passthrough, VlanConfig::Flat, vec![]);
    change(&mut port);
    let uplink = PortConfig::uplink(VlanConfig::Flat, false);
    Net::new(RelayConfig::default(), vec![port, uplink])
}

#[allow(clippy::unnecessary_wraps)] // What it is compared with is a result.
fn only(to: usize, bytes: &[u8]) -> Result<Copies, DropReason> {
    Ok(Copies::from([(to, bytes.to_vec())]))
}

fn reserved(last: u8) -> Mac {
    Mac::new([0x01, 0x80, 0xc2, 0, 0, last])
}

#[test]
fn everything_passes_unchanged_but_pause() {
    let net = net(|_| ());
    let destinations = (0..16).map(reserved).chain([
        mac(1),
        mac(2),
        Mac::BROADCAST,
        Mac::default(),
        reserved(0x21),
    ]);
    for dst in destinations {
        for (from, to) in [(VM, UP), (UP, VM)] {
            for src in [mac(10 + from as u64), Mac::default(), reserved(0x30)] {
                for words in [
                    &[0x0800][..],
                    &[0x88cc],
                    &[TPID_C, 4095, 0x0800],
                    &[TPID_C, 0, TPID_C, 7, 0x86dd],
                    &[TPID_S, 5, TPID_C, 6, 0x0800],
                    &[0x893f, 1, 2],
                ] {
                    let sent = frame(dst, src, words);
                    let expected = if dst == reserved(1) {
                        Err(DropReason::Pause)
                    } else {
                        only(to, &sent)
                    };
                    assert_eq!(net.send(from, &sent), expected, "{dst} {src} {words:x?}");
                }
                let pause = frame(dst, src, &[TYPE_MAC_CONTROL]);
                assert_eq!(net.send(from, &pause), Err(DropReason::Pause));
            }
        }
    }
    assert_eq!(net.send(VM, &plain(mac(2), mac(1))[..14]).unwrap().len(), 1);
}

#[test]
fn its_own_group_frames_do_not_come_back() {
    let own_mac = mac(1);
    let registered = |port: &mut PortConfig| port.macs = vec![own_mac];
    let pinned = |port: &mut PortConfig| port.mac_policy = MacPolicy::Pinned;
    let nets = [net(registered), net(pinned), net(|_| ())];
    for net in &nets {
        net.send(VM, &plain(Mac::BROADCAST, own_mac)).unwrap();
        for group in [Mac::BROADCAST, Mac::new([1, 0, 0x5e, 1, 2, 3])] {
            let back = net.send(UP, &plain(group, own_mac));
            assert_eq!(back, Err(DropReason::OwnSource));
            let other = plain(group, mac(2));
            assert_eq!(net.send(UP, &other), only(VM, &other));
        }
        // Unicast goes to the VM, its own included.
        let own = plain(own_mac, own_mac);
        assert_eq!(net.send(VM, &own), only(UP, &own));
        assert_eq!(net.send(UP, &own), only(VM, &own));
    }
    let accepting = net(|port| {
        port.macs = vec![own_mac];
        port.accept_own_src = true;
    });
    let back = plain(Mac::BROADCAST, own_mac);
    assert_eq!(accepting.send(UP, &back), only(VM, &back));
}

#[test]
fn a_source_is_checked_only_where_pinned() {
    let spoofed = Err(DropReason::Spoofed);
    let given = net(|port| {
        port.macs = vec![mac(1), mac(2)];
        port.mac_policy = MacPolicy::Pinned;
    });
    for number in [1, 2] {
        let sent = plain(mac(9), mac(number));
        assert_eq!(given.send(VM, &sent), only(UP, &sent));
    }
    assert_eq!(given.send(VM, &plain(mac(9), mac(3))), spoofed);
    assert_eq!(given.send(VM, &plain(mac(9), Mac::default())), spoofed);

    let first = net(|port| port.mac_policy = MacPolicy::Pinned);
    assert_eq!(first.send(VM, &plain(mac(9), Mac::default())), spoofed);
    assert_eq!(first.send(VM, &plain(mac(9), Mac::BROADCAST)), spoofed);
    assert!(first.send(VM, &plain(mac(9), mac(3))).is_ok());
    assert_eq!(first.send(VM, &plain(mac(9), mac(4))), spoofed);
    assert_eq!(first.state(VM).take_report().pinned, Some(mac(3)));

    // By default it is trusted, however many addresses it has.
    let open = net(|_| ());
    for number in 0..3000 {
        assert!(open.send(VM, &plain(mac(9), mac(1000 + number))).is_ok());
    }
}

#[test]
fn mtu_and_inactive_sides() {
    let mut net = net(|port| port.mtu = Some(1500));
    let mut long = plain(mac(1), mac(2));
    long.resize(1515, 0);
    let (copies, refused) = net.send_fully(UP, &long).unwrap();
    assert!(copies.is_empty());
    assert_eq!(refused, [(VM, DropReason::Oversize)].into());
    assert_eq!(net.receivers(VM, &long), [UP]);
    net.active.remove(slot(UP));
    assert_eq!(net.send(VM, &long), Err(DropReason::NoUplink));
    assert_eq!(net.send(UP, &long), Err(DropReason::PortDown));
    net.active.insert(slot(UP));
    net.active.remove(slot(VM));
    assert_eq!(net.send(UP, &long), Err(DropReason::PortDown));
}
