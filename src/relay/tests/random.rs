//! Random relays and histories: what leaves must be what leaves the model, byte for byte, and what
//! does not leave must drop for the reason that the model names.
//!
//! `EVB_MODEL_RELAYS` sets the number of relays for a long run, `EVB_MODEL_SEED` the first seed.

use std::collections::HashMap;

use super::dice::{Dice, MAX_ENTRIES, Offered};
use super::{Net, mac, slot, vid};
use crate::frame::ethernet::Vid;
use crate::frame::mac::Mac;
use crate::relay::fdb::EntryKind;
use crate::relay::model::Model;
use crate::relay::{Mode, PortConfig, RelayConfig, Role, VlanConfig};
use crate::stats::DropReason;

/// Turns of a port to send, with up to four frames each.
const STEPS: usize = 400;

/// How often each thing that is worth meeting has to be met, for each 100 relays.
const MET: u64 = 5;

/// Reasons for drops that others than the relay decide on.
const ELSEWHERE: [DropReason; 16] = [
    DropReason::BadHeader,
    DropReason::BadChecksum,
    DropReason::BadGso,
    DropReason::GsoWithoutChecksum,
    DropReason::GsoMismatch,
    DropReason::UfoRefused,
    DropReason::Unrepairable,
    DropReason::TooManyHops,
    DropReason::TooManyTags,
    DropReason::RingFull,
    DropReason::RxChain,
    DropReason::UplinkBusy,
    DropReason::UplinkError,
    DropReason::Missed,
    DropReason::BadChain,
    DropReason::TooLong,
];

/// What the model notes, besides drops and learning.
const NOTES: [&str; 15] = [
    "back on the port of reception",
    "forwarded without learning",
    "into an S-tag",
    "its own source accepted",
    "let through by the group mask",
    "moved away by the uplink",
    "out with an S-tag",
    "pinned at first sight",
    "reflected and delivered",
    "stray forgotten",
    "too long, but not its segments",
    "translated at egress",
    "translated at ingress",
    "yielded to the primary",
    "several frames in a turn",
];

/// What was met in all histories.
#[derive(Default)]
struct Met {
    frames: u64,
    drops: HashMap<DropReason, u64>,
    learnings: [u64; 8],
    notes: HashMap<&'static str, u64>,
}

/// A relay and its model, which must stay alike.
struct Pair {
    dice: Dice,
    net: Net,
    model: Model,
    flat: bool,
    modes: &'static [Mode],
    /// A station that is everywhere.
    restless: Option<Mac>,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut dice = Dice::new(seed);
        let (config, ports, modes) = dice.relay();
        let roomy = RelayConfig {
            max_entries: MAX_ENTRIES,
            ..config.clone()
        };
        let mut net = Net::new(roomy, ports.clone());
        net.rebuild(config.clone(), |_, _| {});
        Pair {
            flat: ports.iter().all(|port| port.vlan == VlanConfig::Flat),
            model: Model::new(config, ports),
            restless: dice.one_in(3).then(|| mac(12)),
            dice,
            net,
            modes,
        }
    }

    /// Something else than a frame may happen.
    fn happen(&mut self, port: usize) {
        let Pair {
            dice, net, model, ..
        } = self;
        match dice.below(40) {
            0 => {
                let up = !dice.one_in(3);
                model.active[port] = up;
                if up {
                    net.active.insert(slot(port));
                } else {
                    net.active.remove(slot(port));
                }
            }
            1 => {
                model.port_down(port);
                net.relay.port_down(slot(port));
            }
            2 | 3 => {
                net.now += if self.restless.is_some() && !dice.one_in(4) {
                    1
                } else {
                    dice.pick(&[1, 3, 11, 200, 301])
                };
                if !dice.one_in(4) {
                    model.sweep(net.now);
                    net.relay.fdb().sweep(net.now, usize::MAX);
                }
            }
            4 => {
                let number = if self.flat { None } else { Some(dice.vid()) };
                let address = dice.station();
                let key = number.unwrap_or(0);
                if dice.one_in(2) {
                    let added = net.relay.add_static(number.map(vid), address, slot(port));
                    assert_eq!(added.is_ok(), model.add_static(key, address, port));
                } else {
                    let removed = net.relay.remove_static(number.map(vid), address);
                    assert_eq!(removed, model.remove_static(key, address));
                }
            }
            5 if dice.one_in(4) => self.reconfigure(port),
            _ => {}
        }
    }

    /// New settings of the relay, of a port, or of both.
    fn reconfigure(&mut self, port: usize) {
        let Pair {
            dice, net, model, ..
        } = self;
        if dice.one_in(3) {
            model.config = dice.settings();
        } else {
            let keyed = |(index, other): (usize, &PortConfig)| {
                index != port && other.vlan != VlanConfig::Flat
            };
            model.ports[port] = match model.ports[port].role {
                Role::Local => dice.port(self.flat, self.modes),
                // A relay stays one with VLANs if its ports have some.
                Role::Uplink => {
                    dice.uplink(self.flat || !model.ports.iter().enumerate().any(keyed))
                }
            };
        }
        let (config, ports) = (model.config.clone(), model.ports.clone());
        net.rebuild(config, |index, port| *port = ports[index].clone());
        if dice.one_in(2) {
            model.forget_strays(net.now);
            net.relay.forget_strays(net.now);
        }
    }

    /// Compares what is seen from outside, other than frames.
    /// `when`: the seed and the step.
    fn compare(&mut self, when: (u64, usize)) {
        let step = when.1;
        let Pair { net, model, .. } = self;
        let fdb = net.relay.fdb();
        assert_eq!(fdb.len(), model.len(), "addresses that count, {when:?}");
        for (index, report) in model.reports.iter_mut().enumerate() {
            let state = net.state(index);
            assert_eq!(
                state.take_report(),
                std::mem::take(report),
                "port {index}, {when:?}"
            );
            assert_eq!(
                state.unlearned(),
                model.unlearned[index],
                "port {index}, {when:?}"
            );
        }
        // What takes longer, now and then.
        if step % 16 == 15 {
            self.compare_entries(when);
        }
        if step % 80 == 79 {
            self.compare_uses(when);
        }
    }

    fn compare_entries(&self, when: (u64, usize)) {
        let Pair { net, model, .. } = self;
        let entries = net.relay.fdb().entries(net.now);
        let mut entries: Vec<_> = entries
            .map(|entry| (entry.fid, entry.mac, entry.slot.index(), entry.kind))
            .collect();
        entries.sort_by_key(|(fid, mac, port, _): &(_, Mac, _, EntryKind)| {
            (*fid, mac.to_u64(), *port)
        });
        assert_eq!(entries, model.entries(net.now), "{when:?}");
    }

    fn compare_uses(&self, when: (u64, usize)) {
        let Pair { net, model, .. } = self;
        for index in 0..model.ports.len() {
            let seen = net.state(index).seen_vids();
            let mut used: Vec<u16> = model
                .used
                .iter()
                .filter(|(port, _)| *port == index)
                .map(|(_, vid)| *vid)
                .filter(|vid| *vid != 0)
                .collect();
            used.sort_unstable();
            assert_eq!(
                seen.iter().map(Vid::get).collect::<Vec<_>>(),
                used,
                "port {index}, {when:?}"
            );
            assert_eq!(net.state(index).carrying(), model.carrying[index]);
        }
    }
}

/// One relay and its history.
fn history(seed: u64, met: &mut Met) {
    let mut pair = Pair::new(seed);
    let count = pair.model.ports.len() as u64;
    for step in 0..STEPS {
        let port = pair.dice.below(count) as usize;
        pair.happen(port);
        let many = if pair.dice.one_in(4) { 4 } else { 1 };
        let offered: Vec<Offered> = (0..many)
            .map(|_| pair.dice.frame(&pair.model.ports[port], pair.restless))
            .collect();
        if many > 1 {
            pair.model.note("several frames in a turn");
        }
        let got = pair.net.burst(port, &offered);
        for ((bytes, segment), got) in offered.iter().zip(got) {
            let expected = pair.model.send(port, bytes, *segment, pair.net.now);
            assert_eq!(
                got, expected,
                "seed {seed}, step {step}, port {port}, segments of {segment:?}: {bytes:02x?}\n{:#?}",
                pair.model
            );
            met.frames += 1;
            let refused = match &expected {
                Err(reason) => vec![*reason],
                Ok((_, refused)) => refused.values().copied().collect(),
            };
            for reason in refused {
                *met.drops.entry(reason).or_default() += 1;
            }
        }
        pair.compare((seed, step));
    }
    for (sum, more) in met.learnings.iter_mut().zip(pair.model.learnings) {
        *sum += more;
    }
    for (note, more) in pair.model.notes.into_inner() {
        *met.notes.entry(note).or_default() += more;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[test]
fn random_histories_agree_with_the_model() {
    let first = setting("EVB_MODEL_SEED", 1);
    let relays = setting("EVB_MODEL_RELAYS", 200);
    let mut met = Met::default();
    for seed in first..first + relays {
        history(seed, &mut met);
    }
    println!("{} frames through {relays} relays", met.frames);
    if relays < 100 {
        return;
    }
    // What the histories never come by, they do not check.
    let least = MET * relays / 100;
    let drops = DropReason::ALL
        .iter()
        .filter(|reason| !ELSEWHERE.contains(reason));
    let drops = drops.map(|reason| (reason.name(), met.drops.get(reason).copied().unwrap_or(0)));
    let learnings = met
        .learnings
        .iter()
        .map(|times| ("a kind of learning", *times));
    let notes = NOTES.map(|note| (note, met.notes.get(note).copied().unwrap_or(0)));
    let all: Vec<_> = drops.chain(learnings).chain(notes).collect();
    let rare: Vec<_> = all.iter().filter(|(_, times)| *times < least).collect();
    assert!(
        rare.is_empty(),
        "less than {least} times: {rare:?}\n{all:?}"
    );
}
