//! §3, row by row: classification, tags at egress, the hopping guard, priorities, MTU.

use super::{Copies, Net, bridge, frame, mac, parse, slot, trunk, vid, vids};
use crate::frame::ethernet::{TPID_C, TPID_S, TYPE_ETAG, Tag};
use crate::frame::mac::Mac;
use crate::relay::{
    Fdb, Frame, Port, PortConfig, PortSet, Relay, RelayConfig, RelayError, VlanConfig,
};
use crate::stats::DropReason;

/// A tag's words: C-tag, S-tag.
fn c(tci: u16) -> [u16; 2] {
    [TPID_C, tci]
}
fn s(tci: u16) -> [u16; 2] {
    [TPID_S, tci]
}

fn broadcast(tags: &[[u16; 2]]) -> Vec<u8> {
    let mut words = tags.concat();
    words.push(0x0800);
    frame(Mac::BROADCAST, mac(1), &words)
}

/// The copy at port 1 of a frame from port 0 of a relay of these two.
fn through(from: VlanConfig, to: VlanConfig, bytes: &[u8]) -> Result<Option<Vec<u8>>, DropReason> {
    let net = Net::new(RelayConfig::default(), vec![bridge(from), bridge(to)]);
    let (mut copies, refused) = net.send_fully(0, bytes)?;
    match refused.get(&1) {
        Some(reason) => Err(*reason),
        None => Ok(copies.remove(&1)),
    }
}

/// A port, the tags of a frame that arrives there, and the frame on a trunk.
type Case = (VlanConfig, Vec<[u16; 2]>, Result<Vec<u8>, DropReason>);

#[test]
fn classification_by_kind_of_port() {
    use DropReason::{ForeignTpid, NoNative, NotMember, ReservedVid, TagOnAccess, Untranslated};
    let all = || trunk(&(1..=4094).collect::<Vec<_>>(), None);
    let tagged = |vid: u16| Ok(broadcast(&[c(vid)]));
    let translate = || VlanConfig::Translate([(vid(110), vid(10))].into());
    let access = || VlanConfig::Access(vid(10));
    let set = |native| trunk(&[10, 20], native);
    let untagged = vec![];
    let cases: Vec<Case> = vec![
        (access(), untagged.clone(), tagged(10)),
        (access(), vec![c(0)], tagged(10)),
        (access(), vec![c(10)], Err(TagOnAccess)),
        (access(), vec![c(20)], Err(TagOnAccess)),
        (access(), vec![c(4095)], Err(ReservedVid)),
        (access(), vec![s(10)], Err(ForeignTpid)),
        (access(), vec![s(0)], Err(ForeignTpid)),
        (access(), vec![[0x9100, 10]], Err(ForeignTpid)),
        (access(), vec![[TYPE_ETAG, 10]], Err(DropReason::Etag)),
        (set(Some(30)), untagged.clone(), tagged(30)),
        (set(Some(30)), vec![c(0)], tagged(30)),
        (set(Some(30)), vec![c(20)], tagged(20)),
        (set(Some(30)), vec![c(30)], tagged(30)),
        (set(Some(30)), vec![c(40)], Err(NotMember)),
        (set(Some(30)), vec![c(4095)], Err(ReservedVid)),
        // A foreign tag type is payload of the native VLAN, whatever its VID.
        (set(Some(30)), vec![s(20)], Ok(broadcast(&[c(30), s(20)]))),
        (
            set(Some(30)),
            vec![s(4095)],
            Ok(broadcast(&[c(30), s(4095)])),
        ),
        (
            set(Some(30)),
            vec![[0x9100, 20]],
            Ok(broadcast(&[c(30), [0x9100, 20]])),
        ),
        (set(None), untagged.clone(), Err(NoNative)),
        (set(None), vec![c(0)], Err(NoNative)),
        (set(None), vec![s(20)], Err(ForeignTpid)),
        (set(None), vec![c(20)], tagged(20)),
        // Double C-tags classify on the outer one, the inner is opaque.
        (
            set(None),
            vec![c(20), c(4095)],
            Ok(broadcast(&[c(20), c(4095)])),
        ),
        (set(None), vec![c(40), c(20)], Err(NotMember)),
        (translate(), vec![c(110)], tagged(10)),
        (translate(), vec![c(10)], Err(Untranslated)),
        (translate(), vec![c(4095)], Err(ReservedVid)),
        (translate(), vec![c(0)], Err(NoNative)),
        (translate(), untagged, Err(NoNative)),
        (translate(), vec![s(110)], Err(ForeignTpid)),
    ];
    for (from, tags, expected) in cases {
        let got = through(from.clone(), all(), &broadcast(&tags));
        assert_eq!(got, expected.map(Some), "{from:?} {tags:x?}");
    }
}

#[test]
fn qinq_takes_anything_as_payload_and_pops_its_tag() {
    let qinq = || VlanConfig::Qinq(vid(100));
    let up = || trunk(&[100, 10], Some(1));
    for tags in [
        vec![],
        vec![c(0)],
        vec![c(10)],
        vec![c(4095)],
        vec![s(100)],
        vec![s(7), c(8)],
        vec![[0x9100, 3]],
        vec![[TYPE_ETAG, 3]],
    ] {
        let inner = broadcast(&tags);
        let mut outer = vec![s(100)];
        outer.extend(&tags);
        let outer = broadcast(&outer);
        assert_eq!(through(qinq(), up(), &inner), Ok(Some(outer.clone())));
        assert_eq!(through(up(), qinq(), &outer), Ok(Some(inner.clone())));
        assert_eq!(through(qinq(), qinq(), &inner), Ok(Some(inner)));
    }
    // A C-tag of the same number is not that VLAN, nor an S-tag of another VLAN an S-VLAN.
    let member = Err(DropReason::NotMember);
    assert_eq!(through(up(), qinq(), &broadcast(&[c(100)])), member);
    assert_eq!(
        through(up(), qinq(), &broadcast(&[s(10)])),
        Err(DropReason::NoReceiver)
    );
    // Translated S-VIDs keep their kind in both directions.
    let translate = || VlanConfig::Translate([(vid(200), vid(100))].into());
    let (inner, outer) = (broadcast(&[c(5)]), broadcast(&[s(200), c(5)]));
    assert_eq!(
        through(qinq(), translate(), &inner),
        Ok(Some(outer.clone()))
    );
    assert_eq!(through(translate(), qinq(), &outer), Ok(Some(inner)));
}

#[test]
fn egress_by_kind_of_port() {
    let from = || trunk(&[10, 20], Some(30));
    let to = [
        (VlanConfig::Access(vid(10)), [Some(vec![]), None, None]),
        (
            trunk(&[10, 20], Some(20)),
            [Some(vec![c(10)]), Some(vec![]), None],
        ),
        (
            trunk(&[20], Some(30)),
            [None, Some(vec![c(20)]), Some(vec![])],
        ),
        (
            VlanConfig::Translate([(vid(20), vid(10)), (vid(10), vid(20))].into()),
            [Some(vec![c(20)]), Some(vec![c(10)]), None],
        ),
    ];
    for (to, expected) in to {
        let sent = [vec![c(10)], vec![c(20)], vec![]];
        for (tags, expected) in sent.into_iter().zip(expected) {
            let net = Net::new(
                RelayConfig::default(),
                vec![bridge(from()), bridge(to.clone())],
            );
            let copies = net.send(0, &broadcast(&tags)).unwrap_or_default();
            let expected = expected.map(|tags| broadcast(&tags));
            assert_eq!(copies.get(&1), expected.as_ref(), "{to:?} {tags:?}");
        }
    }
}

#[test]
fn priority_and_drop_eligibility_stay_and_have_a_default() {
    let all = |native| trunk(&[10], native);
    // PCP 5, DEI.
    let marked = 0xb000;
    let kept = Ok(Some(broadcast(&[c(marked + 10)])));
    assert_eq!(
        through(all(None), all(None), &broadcast(&[c(marked + 10)])),
        kept
    );
    assert_eq!(
        through(all(Some(10)), all(None), &broadcast(&[c(marked)])),
        kept
    );
    let access = VlanConfig::Access(vid(10));
    assert_eq!(through(access, all(None), &broadcast(&[c(marked)])), kept);

    let mut port = bridge(VlanConfig::Access(vid(10)));
    port.default_pcp = 3;
    let net = Net::new(RelayConfig::default(), vec![port, bridge(all(None))]);
    let copies = net.send(0, &broadcast(&[])).unwrap();
    assert_eq!(copies[&1], broadcast(&[c(0x600a)]));
    // A priority tag has its own, be it zero.
    let copies = net.send(0, &broadcast(&[c(0)])).unwrap();
    assert_eq!(copies[&1], broadcast(&[c(10)]));
}

#[test]
fn hopping_guard() {
    let guard = Err(DropReason::HoppingGuard);
    let access = || VlanConfig::Access(vid(10));
    let native = || trunk(&[20], Some(10));
    for inner in [c(20), s(20), c(0), c(4095)] {
        for to in [access(), native()] {
            // The classic: the native VLAN's own tag in front of another.
            let double = broadcast(&[c(10), inner]);
            assert_eq!(through(native(), to.clone(), &double), guard);
            let double = broadcast(&[c(0), inner]);
            assert_eq!(through(access(), to, &double), guard);
        }
    }
    // Foreign tags as payload of the native VLAN.
    assert_eq!(through(native(), access(), &broadcast(&[s(7)])), guard);
    let legacy = broadcast(&[[0x9100, 7]]);
    assert_eq!(through(native(), access(), &legacy), Ok(Some(legacy)));
    // Tagged, it hops nowhere.
    let double = broadcast(&[c(20), c(30)]);
    assert_eq!(through(native(), native(), &double), Ok(Some(double)));
    // On an access port in an S-VLAN, the guard holds; the qinq port pops.
    let ports = vec![
        bridge(VlanConfig::Qinq(vid(10))),
        bridge(access()),
        bridge(VlanConfig::Qinq(vid(10))),
    ];
    let net = Net::new(RelayConfig::default(), ports);
    let (copies, refused) = net.send_fully(0, &broadcast(&[c(5)])).unwrap();
    assert_eq!(copies, Copies::from([(2, broadcast(&[c(5)]))]));
    assert_eq!(refused, [(1, DropReason::HoppingGuard)].into());
}

#[test]
fn a_flat_relay_takes_tags_as_payload() {
    let net = Net::new(
        RelayConfig::default(),
        vec![
            bridge(VlanConfig::Flat),
            bridge(VlanConfig::Flat),
            PortConfig::uplink(VlanConfig::Flat, false),
        ],
    );
    for tags in [
        vec![],
        vec![c(0)],
        vec![c(10), c(20)],
        vec![c(4095)],
        vec![s(3), c(4)],
        vec![[TYPE_ETAG, 1]],
    ] {
        let sent = broadcast(&tags);
        let expected = Copies::from([(1, sent.clone()), (2, sent.clone())]);
        assert_eq!(net.send(0, &sent), Ok(expected));
    }
    // One FID: what was learned with one tag is known with another.
    let mut words = c(10).to_vec();
    words.push(0x0800);
    net.send(0, &frame(Mac::BROADCAST, mac(5), &words)).unwrap();
    assert_eq!(net.receivers(1, &super::plain(mac(5), mac(6))), [0]);
}

#[test]
fn frames_that_end_in_their_tag() {
    let access = || VlanConfig::Access(vid(10));
    let cut = &broadcast(&[c(10)])[..16];
    assert_eq!(through(access(), access(), cut), Err(DropReason::Runt));
    assert_eq!(
        through(access(), access(), &cut[..13]),
        Err(DropReason::Runt)
    );
    let untagged = &broadcast(&[])[..14];
    assert_eq!(
        through(access(), access(), untagged),
        Ok(Some(untagged.to_vec()))
    );
}

#[test]
fn all_vids_work_at_once() {
    let all = || trunk(&(1..=4094).collect::<Vec<_>>(), None);
    let ports = vec![bridge(all()), PortConfig::uplink(VlanConfig::Flat, false)];
    let net = Net::new(RelayConfig::default(), ports);
    for number in 1..=4094 {
        let sent = broadcast(&[c(number)]);
        assert_eq!(net.send(0, &sent), Ok(Copies::from([(1, sent.clone())])));
        assert_eq!(
            net.send(1, &frame(mac(1), mac(2), &[TPID_C, number, 0x0800]))
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn learning_is_independent_unless_vlans_share_a_fid() {
    let ports = || {
        vec![
            bridge(VlanConfig::Access(vid(10))),
            bridge(VlanConfig::Access(vid(20))),
            bridge(trunk(&[10, 20], None)),
            bridge(trunk(&[10, 20], None)),
        ]
    };
    let to = |tci: u16| frame(mac(7), mac(8), &[TPID_C, tci, 0x0800]);
    let net = Net::new(RelayConfig::default(), ports());
    net.send(0, &super::plain(Mac::BROADCAST, mac(7))).unwrap();
    net.send(1, &super::plain(Mac::BROADCAST, mac(7))).unwrap();
    assert_eq!(net.receivers(2, &to(10)), [0]);
    assert_eq!(net.receivers(2, &to(20)), [1]);
    assert_eq!(net.relay.fdb().len(), 4);

    let shared = RelayConfig {
        fids: vec![vids(&[20, 10])],
        ..RelayConfig::default()
    };
    let net = Net::new(shared, ports());
    net.send(3, &frame(Mac::BROADCAST, mac(7), &[TPID_C, 10, 0x0800]))
        .unwrap();
    assert_eq!(net.receivers(2, &to(10)), [3]);
    assert_eq!(net.receivers(2, &to(20)), [3]);
    // Known, but not reachable in this VLAN: filtered, not flooded.
    net.send(0, &super::plain(Mac::BROADCAST, mac(9))).unwrap();
    let sent = frame(mac(9), mac(8), &[TPID_C, 20, 0x0800]);
    assert_eq!(net.send(2, &sent), Err(DropReason::NotMember));
    assert_eq!(net.relay.fid(Some(vid(20))), 10);
}

#[test]
fn mtu_counts_up_to_two_tags_and_segments() {
    let mut small = bridge(trunk(&[10], None));
    small.mtu = Some(1500);
    let mut access = bridge(VlanConfig::Access(vid(10)));
    access.mtu = Some(1500);
    let net = Net::new(
        RelayConfig::default(),
        vec![bridge(trunk(&[10], None)), small, access],
    );
    let view = net.view();
    let check = |to: usize, tags: &[[u16; 2]], len: u32, segment_len: Option<u32>| {
        let bytes = broadcast(tags);
        let header = parse(&bytes).unwrap();
        let frame = Frame {
            header: &header,
            len,
            segment_len,
        };
        let mut targets = PortSet::new();
        let (_, class) = view.forward(slot(0), &frame, 0, &mut targets);
        view.egress(slot(to), &class, &frame).map(|_| ())
    };
    let oversize = Err(DropReason::Oversize);
    // Kept tag, popped tag; a second tag is allowed for, a third is payload.
    assert_eq!(check(1, &[c(10)], 1518, None), Ok(()));
    assert_eq!(check(1, &[c(10)], 1519, None), oversize);
    assert_eq!(net.state(1).take_report().oversize, Some(1519));
    assert_eq!(check(2, &[c(10)], 1518, None), Ok(()));
    assert_eq!(check(2, &[c(10)], 1519, None), oversize);
    assert_eq!(net.state(2).take_report().oversize, Some(1515));
    assert_eq!(check(1, &[c(10), c(5)], 1522, None), Ok(()));
    assert_eq!(check(1, &[c(10), c(5)], 1523, None), oversize);
    assert_eq!(check(1, &[c(10), c(5), c(6)], 1522, None), Ok(()));
    assert_eq!(check(1, &[c(10), c(5), c(6)], 1523, None), oversize);
    // With segmentation, the longest segment counts.
    assert_eq!(check(1, &[c(10)], 65_000, Some(1518)), Ok(()));
    assert_eq!(check(1, &[c(10)], 65_000, Some(1519)), oversize);
    // Tags of a flat relay count too.
    let mut port = bridge(VlanConfig::Flat);
    port.mtu = Some(1500);
    let net = Net::new(RelayConfig::default(), vec![bridge(VlanConfig::Flat), port]);
    for (tags, most) in [(vec![], 1514), (vec![c(1)], 1518), (vec![c(1), c(2)], 1522)] {
        let mut sent = broadcast(&tags);
        sent.resize(most, 0);
        assert_eq!(net.receivers(0, &sent), [1]);
        sent.push(0);
        let (_, refused) = net.send_fully(0, &sent).unwrap();
        assert_eq!(refused, [(1, DropReason::Oversize)].into());
    }
}

#[test]
fn tags_that_egress_writes() {
    let tag = Tag::new(TPID_S, vid(4094), 7, true);
    assert_eq!(tag.to_bytes(), [0x88, 0xa8, 0xff, 0xfe]);
}

#[test]
fn contradictions_are_refused() {
    use crate::relay::{MacPolicy, Mode};
    let refusal = |config: RelayConfig, ports: Vec<PortConfig>| {
        let ports = ports
            .into_iter()
            .map(|port| Some(Port::new(port, std::sync::Arc::default())));
        let fdb = std::sync::Arc::new(Fdb::new(16));
        Relay::new(config, ports.collect(), fdb).err()
    };
    let config = RelayConfig::default;
    let access = || bridge(VlanConfig::Access(vid(1)));
    let flat = |mode| PortConfig::local(mode, VlanConfig::Flat, vec![]);
    let up = || PortConfig::uplink(VlanConfig::Flat, true);
    assert_eq!(refusal(config(), vec![]), None);
    assert_eq!(refusal(config(), vec![access(), up()]), None);
    let missing = Some(RelayError::VlanKeyMissing(slot(1)));
    assert_eq!(
        refusal(config(), vec![access(), flat(Mode::Bridge)]),
        missing
    );
    let keyed_up = PortConfig::uplink(VlanConfig::Qinq(vid(2)), true);
    assert_eq!(refusal(config(), vec![keyed_up, flat(Mode::Vepa)]), missing);
    let second = Some(RelayError::SecondUplink(slot(2)));
    assert_eq!(refusal(config(), vec![up(), access(), up()]), second);
    let mut vepa = flat(Mode::Vepa);
    vepa.mac_policy = MacPolicy::Learn(8);
    let learning = Some(RelayError::LearningWithoutBridge(slot(0)));
    assert_eq!(refusal(config(), vec![vepa, up()]), learning);
    let through = || flat(Mode::Passthrough);
    assert_eq!(refusal(config(), vec![through(), up()]), None);
    let alone = Some(RelayError::PassthroughNotAlone(slot(0)));
    assert_eq!(refusal(config(), vec![through()]), alone);
    assert_eq!(
        refusal(config(), vec![through(), up(), flat(Mode::Bridge)]),
        alone
    );
    let keyed_up = PortConfig::uplink(trunk(&[1], None), true);
    let vlan = Some(RelayError::PassthroughVlan(slot(1)));
    assert_eq!(refusal(config(), vec![through(), keyed_up]), vlan);
    let twice = VlanConfig::Translate([(vid(1), vid(3)), (vid(2), vid(3))].into());
    let bijective = Some(RelayError::TranslationNotBijective(slot(0), vid(3)));
    assert_eq!(refusal(config(), vec![bridge(twice)]), bijective);
    let fids = RelayConfig {
        fids: vec![vids(&[1, 2]), vids(&[2, 3])],
        ..config()
    };
    assert_eq!(
        refusal(fids, vec![]),
        Some(RelayError::VidInTwoFids(vid(2)))
    );
}
