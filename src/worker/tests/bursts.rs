//! What is remembered within a burst changes nothing: frames go where each would go by itself.

use std::sync::Arc;

use proptest::prelude::*;

use crate::frame::ethernet::{TPID_C, Vid};
use crate::frame::vnet::VnetHeader;
use crate::relay::{
    self, Fdb, MacPolicy, Mode, PortConfig, Relay, RelayConfig, Slot, VidSet, VlanConfig,
};
use crate::stats::{PortCounters, Totals};
use crate::worker::route::{Entrance, Job, Routes};
use crate::worker::testing::mac;
use crate::worker::{Attachment, Port, PortId, RelayView, Snapshot};

/// Ports of the relay, of which the last is the uplink.
const PORTS: usize = 6;
/// Stations beyond the uplink.
const BEYOND: usize = 2;

/// A frame: number of its sender's address, of its destination's, VID of its tag, and bytes.
type Told = (usize, usize, Option<u16>, usize);

/// A relay whose ports lead nowhere.
fn snapshot(modes: &[Mode], [tagged, reflects]: [bool; 2], config: RelayConfig) -> Snapshot {
    let vids: VidSet = [5, 6].into_iter().filter_map(Vid::new).collect();
    let vlan = |port: usize| match (tagged, port % 2) {
        (false, _) => VlanConfig::Flat,
        (true, 0) => VlanConfig::Access(Vid::new(5).unwrap()),
        (true, _) => VlanConfig::Trunk {
            vids: vids.clone(),
            native: None,
        },
    };
    let local = modes.iter().enumerate().map(|(port, mode)| {
        let mut config = PortConfig::local(*mode, vlan(port), vec![]);
        config.mtu = (port == 1).then_some(100);
        if *mode == Mode::Bridge && port < 3 {
            // Soon it has as many addresses as it may.
            config.mac_policy = MacPolicy::Learn(1);
        }
        config
    });
    let uplink = PortConfig::uplink(vlan(PORTS - 1), reflects);
    let ports = local.chain([uplink]);
    let ports = ports.map(|config| Some(relay::Port::new(config, Arc::default())));
    let relay = Relay::new(config, ports.collect(), Arc::new(Fdb::new(64))).unwrap();
    let slots = || (0..PORTS).filter_map(Slot::new);
    let port = |slot: Slot| Port {
        name: slot.index().to_string(),
        relay: 0,
        slot,
        counters: Arc::new([PortCounters::default()]),
        queues: vec![],
        attachment: Attachment::Link(None),
    };
    let view = RelayView {
        relay: Arc::new(relay),
        active: slots().collect(),
        ports: (0..PORTS).map(|port| Some(PortId(port as u16))).collect(),
        vlans: Arc::new([]),
    };
    Snapshot {
        epoch: 1,
        ports: slots().map(|slot| Some(Arc::new(port(slot)))).collect(),
        relays: vec![Some(Arc::new(view))],
    }
}

/// Adds frames to a burst.
fn read(routes: &mut Routes, frames: &[Told]) {
    for (number, (from, to, vid, len)) in frames.iter().enumerate() {
        let mut bytes = vec![0; *len];
        let to = if *to == PORTS + BEYOND {
            [0xff; 6]
        } else {
            mac(*to)
        };
        bytes[..6].copy_from_slice(&to);
        bytes[6..12].copy_from_slice(&mac(*from));
        if let Some(vid) = vid {
            bytes[12..14].copy_from_slice(&TPID_C.to_be_bytes());
            bytes[14..16].copy_from_slice(&vid.to_be_bytes());
        }
        let frame = |frame: &mut crate::worker::frame::Frame| {
            frame.read_bytes(number, VnetHeader::PLAIN, &bytes, *len)
        };
        routes.frames.add(frame).unwrap();
    }
}

/// Where frames go that come in by port `from` as one burst.
fn together(snapshot: &Snapshot, from: usize, frames: &[Told]) -> Vec<(usize, Job)> {
    let mut routes = Routes::default();
    let here = Entrance::of((snapshot, 0), PortId(from as u16), 1).unwrap();
    read(&mut routes, frames);
    let mut next = 0;
    while next < frames.len() {
        routes.add(&here, next);
        next += 1;
        next += routes.add_like(&here, next..frames.len());
    }
    routes.jobs.iter().map(|job| (job.frame, *job)).collect()
}

/// Where they go one by one.
fn apart(snapshot: &Snapshot, from: usize, frames: &[Told]) -> Vec<(usize, Job)> {
    let mut all = vec![];
    for (number, frame) in frames.iter().enumerate() {
        let mut routes = Routes::default();
        let here = Entrance::of((snapshot, 0), PortId(from as u16), 1).unwrap();
        read(&mut routes, &[*frame]);
        let only = here.only_job(&routes.frames[0]);
        routes.add(&here, 0);
        if let Some(only) = only {
            assert_eq!(routes.jobs, [only], "what is found for a frame by itself");
        }
        let jobs = routes.jobs.iter();
        all.extend(jobs.map(|job| {
            (
                number,
                Job {
                    frame: number,
                    ..*job
                },
            )
        }));
    }
    all
}

/// What was counted at each port: frames that were dropped, and those whose source was not learned.
fn counted(snapshot: &Snapshot) -> Vec<(Totals, u64)> {
    let relay = &snapshot.relay(0).unwrap().relay;
    let ports = snapshot.ports.iter().flatten();
    ports
        .map(|port| {
            let state = relay.port(port.slot).unwrap().state();
            (port.counters[0].snapshot(), state.unlearned())
        })
        .collect()
}

fn told() -> impl Strategy<Value = Told> {
    let address = 0..PORTS + BEYOND;
    let vid = prop_oneof![Just(None), (4_u16..8).prop_map(Some)];
    (
        address,
        0..=PORTS + BEYOND,
        vid,
        prop_oneof![Just(60_usize), 100..130_usize],
    )
}

/// Bursts with runs of like frames: each frame, and how often it comes.
fn burst() -> impl Strategy<Value = (usize, Vec<Told>)> {
    let runs = prop::collection::vec((told(), 1..5_usize), 1..8);
    (0..PORTS, runs).prop_map(|(from, runs)| {
        let frames = runs
            .into_iter()
            .flat_map(|(frame, times)| vec![frame; times]);
        (from, frames.collect())
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bridge), Just(Mode::Vepa), Just(Mode::Private)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn frames_of_a_burst_go_where_each_would_alone(
        modes in prop::collection::vec(mode(), PORTS - 1),
        [tagged, reflects] in any::<[bool; 2]>(),
        reflect_local in any::<bool>(),
        bursts in prop::collection::vec(burst(), 1..20),
    ) {
        let config = RelayConfig { reflect_local, ..RelayConfig::default() };
        let world = || snapshot(&modes, [tagged, reflects], config.clone());
        let (one, other) = (world(), world());
        for (from, frames) in &bursts {
            let (together, apart) = (together(&one, *from, frames), apart(&other, *from, frames));
            prop_assert_eq!(format!("{together:?}"), format!("{apart:?}"), "from {}", from);
            prop_assert_eq!(counted(&one), counted(&other), "from {}", from);
        }
    }
}

#[test]
fn one_look_is_enough_for_a_frame_alone_between_stations_that_are_known() {
    let world = snapshot(
        &[Mode::Bridge; PORTS - 1],
        [false, true],
        RelayConfig::default(),
    );
    let only = |told: Told| {
        let mut routes = Routes::default();
        let here = Entrance::of((&world, 0), PortId(3), 1).unwrap();
        read(&mut routes, &[told]);
        here.only_job(&routes.frames[0]).map(|job| job.port)
    };
    assert_eq!(only((3, 4, None, 60)), None, "neither is known");
    together(&world, 4, &[(4, 3, None, 60)]);
    together(&world, 3, &[(3, 4, None, 60)]);
    assert_eq!(only((3, 4, None, 60)), Some(PortId(4)));
    assert_eq!(only((3, PORTS + BEYOND, None, 60)), None, "for all");
    assert_eq!(only((2, 4, None, 60)), None, "a new source");
}

#[test]
fn what_led_up_by_the_long_way_leads_no_other_address_there() {
    let modes = [
        Mode::Vepa,
        Mode::Bridge,
        Mode::Bridge,
        Mode::Bridge,
        Mode::Bridge,
    ];
    let world = snapshot(&modes, [false, true], RelayConfig::default());
    together(&world, PORTS - 1, &[(PORTS, 1, None, 60)]);
    // From the VEPA port all go up; from a bridge port only those to an address beyond.
    for (from, second) in [(0, 5), (1, 2)] {
        together(&world, 2, &[(2, PORTS + BEYOND, None, 60)]);
        let jobs = together(
            &world,
            from,
            &[(from, PORTS, None, 60), (from, 2, None, 60)],
        );
        let ports: Vec<_> = jobs.iter().map(|(_, job)| job.port.index()).collect();
        assert_eq!(ports, [5, second], "from {from}");
    }
}
