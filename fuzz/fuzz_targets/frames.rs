//! Any bytes as a frame with its virtio-net header, sent into a relay with a port of each kind, and mended for a
//! receiver without offloads.
#![no_main]

use std::sync::{Arc, LazyLock};

use evb::frame::checksum::complete_checksum;
use evb::frame::ethernet::{self, Vid};
use evb::frame::mac::Mac;
use evb::frame::offloads::{Offloads, Repair, repair_needed};
use evb::frame::segment::Segmenter;
use evb::frame::vnet::{Origin, VnetHeader};
use evb::relay::{
    Fdb, Frame, Mode, Port, PortConfig, PortSet, Relay, RelayConfig, Slot, Verdict, View,
    VlanConfig,
};
use libfuzzer_sys::fuzz_target;

const PORTS: usize = 7;

static RELAY: LazyLock<Relay> = LazyLock::new(|| {
    let vid = |number| Vid::new(number).unwrap();
    let trunk = |native: Option<u16>| VlanConfig::Trunk {
        vids: [10, 20, 100].map(vid).into_iter().collect(),
        native: native.map(vid),
    };
    let local = |mode, vlan| PortConfig::local(mode, vlan, Vec::new());
    let configs = [
        local(Mode::Bridge, VlanConfig::Access(vid(10))),
        local(Mode::Bridge, trunk(Some(10))),
        local(
            Mode::Bridge,
            VlanConfig::Translate([(vid(7), vid(10))].into()),
        ),
        local(Mode::Bridge, VlanConfig::Qinq(vid(100))),
        local(Mode::Vepa, trunk(None)),
        local(Mode::Private, VlanConfig::Access(vid(20))),
        PortConfig::uplink(trunk(Some(20)), true),
    ];
    let port = |mut config: PortConfig| {
        config.mtu = Some(1500);
        Some(Port::new(config, Arc::default()))
    };
    let ports = configs.map(port).into();
    Relay::new(RelayConfig::default(), ports, Arc::new(Fdb::new(64))).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&[from, second], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((vnet, frame)) = rest.split_first_chunk::<{ VnetHeader::LEN }>() else {
        return;
    };
    let mut frame = frame.to_vec();
    let head = frame.len().min(128);
    let origin = if from & 0x80 == 0 {
        Origin::Guest
    } else {
        Origin::Uplink
    };
    let len = frame.len();
    let Ok(vnet) = VnetHeader::decode(vnet).check(len, &mut frame[..head], origin) else {
        return;
    };
    let Ok(header) = ethernet::parse(&frame[..head]) else {
        return;
    };
    let facts = Frame {
        header: &header,
        len: len as u32,
        segment_len: vnet.max_segment_len(),
    };
    let active: PortSet = (0..PORTS).filter_map(Slot::new).collect();
    let view = View {
        relay: &RELAY,
        active: &active,
    };
    let mut targets = PortSet::new();
    let from = Slot::new(usize::from(from) % PORTS).unwrap();
    let (verdict, class) = view.forward(from, &facts, second.into(), &mut targets);
    let receivers: Vec<Slot> = match verdict {
        Verdict::Drop(_) => vec![],
        Verdict::One(to) => vec![to],
        Verdict::Many => targets.iter().collect(),
    };
    assert!(!receivers.contains(&from), "nobody gets back what it sent");
    let zero = header.src == Mac::from_u64(0);
    assert!(!zero || receivers.is_empty(), "no station sends so");
    for to in receivers {
        if let Ok(action) = view.egress(to, &class, &facts) {
            let mut tagged = vec![0; head + 8];
            assert!(action.apply(&frame[..head], &mut tagged).is_some());
        }
    }
    match repair_needed(&vnet, &frame[..head], Offloads::NONE) {
        Repair::None => {}
        Repair::Checksum => drop(complete_checksum(&mut frame, &vnet)),
        Repair::Segment => {
            let mut room = vec![0; len];
            let Ok(mut segments) = Segmenter::new(&frame, &vnet, &mut room) else {
                return;
            };
            let most = vnet.max_segment_len().unwrap_or(0) as usize;
            while let Some(segment) = segments.next() {
                assert!(segment.len() <= most);
            }
        }
    }
});
