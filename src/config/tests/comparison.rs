//! What docs/comparison.md shows of a configuration is valid, and is that of the shipped file.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::valid;
use crate::config::{Backend, Config};

const PAGE: &str = include_str!("../../../docs/comparison.md");

/// A fragment as a whole configuration: with the relays that it names.
fn whole(fragment: &str) -> Config {
    let words = fragment.split("relay = \"").skip(1);
    let relays: BTreeSet<&str> = words.filter_map(|rest| rest.split('"').next()).collect();
    let mut text = String::new();
    for relay in relays {
        writeln!(text, "[[relay]]\nname = \"{relay}\"").unwrap();
    }
    valid(&(text + fragment))
}

/// The configurations that are shipped for a network.
fn shipped(network: &str) -> Vec<Config> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("qemu-configs")
        .join(network);
    let files = std::fs::read_dir(&directory).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let files = paths.filter(|path| path.extension().is_some_and(|end| end == "toml"));
    files.map(|path| Config::load(&path).unwrap()).collect()
}

/// Whether a network has all links of a fragment, and its host ports.
fn has(network: &Config, fragment: &Config) -> bool {
    let uplinks = fragment.uplinks.iter().all(|(name, uplink)| {
        let other = network.uplinks.get(name);
        other.is_some_and(|other| {
            other.attachment == uplink.attachment && other.settings.vlan == uplink.settings.vlan
        })
    });
    let ports = fragment.ports.iter().all(|(name, port)| {
        let other = network.ports.get(name);
        other.is_some_and(|other| {
            let tap = matches!(port.backend, Backend::Tap(_));
            (!tap || other.backend == port.backend) && other.settings.vlan == port.settings.vlan
        })
    });
    uplinks
        && ports
        && fragment
            .patches
            .keys()
            .all(|name| network.patches.contains_key(name))
}

#[test]
fn every_fragment_of_the_comparison_is_valid_and_shipped() {
    let mut fragments = 0;
    for section in PAGE.split("\n## ").skip(1) {
        let network = section.split(':').next().unwrap_or_default();
        for rest in section.split("```toml\n").skip(1) {
            let text = rest.split("```").next().unwrap_or_default();
            let fragment = whole(text);
            assert!(
                shipped(network).iter().any(|config| has(config, &fragment)),
                "no configuration of {network} has\n{text}"
            );
            fragments += 1;
        }
    }
    assert!(fragments >= 9, "{fragments}");
}
